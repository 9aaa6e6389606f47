#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A load that remembers what it was promised, and the check that the promises were kept.

usage: crashload.py load DIRECTORY ACKS SEED [KIND...]
                                      until the file system is gone (or SIGTERM)
       crashload.py verify DIRECTORY ACKS [memory]
                                      after the crash; exit 1 and a line per fault.  memory: the image
                                      was on tmpfs (verify_words())

Each worker has a directory of its own below DIRECTORY and a log of its own in ACKS, a directory
on another file system.  It logs "try" with what it is about to do and "ok" once the system call
that makes it durable has returned (fsync, an O_SYNC or O_DSYNC write, a direct write).  So after a
crash at most the last step of each worker is open: it may have happened, or not, or partly where
that is allowed; everything before must be there.

Workers: files (create, replace by rename, rename, unlink; with fsync of file and directory),
direct (O_DIRECT into allocated space), holes (O_DIRECT into holes,
from data into holes, beside data), rewrite (buffered into allocated space, with fdatasync), append (O_APPEND with fdatasync or O_SYNC), cut (truncate and
write again), churn (metadata that is never synced and never acknowledged: it keeps the
journal busy).
"""
import errno
import json
import mmap
import os
import random
import signal
import subprocess
import sys

SECTOR = 512
DIRECT_SECTORS = 2048
HOLES_SECTORS = 16384
# What calls end with when the daemon behind a FUSE mount has died.
GONE = (errno.ECONNABORTED, errno.ENOTCONN, errno.EIO)


def stream(seed, length):
    """Bytes of a seed; a shorter stream is the beginning of a longer one."""
    return random.Random(seed).randbytes((length + 3) // 4 * 4)[:length]


class Worker:
    def __init__(self, kind, number, directory, acks, seed):
        self.random = random.Random(f"{seed} {kind} {number}")
        self.name = f"{kind}{number}"
        self.dir = os.path.join(directory, self.name)
        self.number = number
        self.log = os.open(os.path.join(acks, self.name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def record(self, **what):
        os.write(self.log, json.dumps(what).encode() + b"\n")

    def attempt(self, **what):
        self.record(**what)
        return self

    def __enter__(self):
        return self

    def __exit__(self, kind, _value, _trace):
        if kind is None:
            os.write(self.log, b'"ok"\n')

    def path(self, name):
        return os.path.join(self.dir, name)

    def sync_dir(self):
        fd = os.open(self.dir, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)

    def run(self):
        os.mkdir(self.dir)
        self.sync_dir()
        parent = os.open(os.path.dirname(self.dir), os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(parent)
        os.close(parent)
        self.record(begin=self.name)
        step = getattr(self, "work_" + self.name.rstrip("0123456789"))()
        while True:
            next(step)

    # -- files: whole small files

    def write_synced(self, path, size, seed):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(fd, stream(seed, size))
        os.fsync(fd)
        os.close(fd)

    def work_files(self):
        names, serial = [], 0
        while True:
            serial += 1
            size = self.random.choice([0, 10, 200, 3000, 4096, 20000, 70000])
            action = self.random.choice(["create"] * 4 + ["replace", "rename", "unlink"])
            if action == "create" or not names:
                name = f"file{serial}" + "-long" * self.random.randrange(0, 20)
                with self.attempt(op="create", name=name, size=size, seed=serial):
                    self.write_synced(self.path(name), size, serial)
                    self.sync_dir()
                names.append(name)
            elif action == "replace":
                name = self.random.choice(names)
                with self.attempt(op="replace", name=name, size=size, seed=serial):
                    self.write_synced(self.path("temporary"), size, serial)
                    os.rename(self.path("temporary"), self.path(name))
                    self.sync_dir()
            elif action == "rename":
                old = names.pop(self.random.randrange(len(names)))
                name = f"renamed{serial}"
                with self.attempt(op="rename", old=old, name=name):
                    os.rename(self.path(old), self.path(name))
                    self.sync_dir()
                names.append(name)
            else:
                name = names.pop(self.random.randrange(len(names)))
                with self.attempt(op="unlink", name=name):
                    os.unlink(self.path(name))
                    self.sync_dir()
            yield

    # -- direct, holes: one file, a version number for each sector

    def direct_writes(self, path, sectors, flags):
        fd = os.open(path, os.O_RDWR | os.O_DIRECT | flags)
        memory = mmap.mmap(-1, 65536)
        version = 0
        while True:
            version += 1
            count = self.random.choice([1, 2, 8, 8, 8, 16, 40, 128])
            at = self.random.randrange(sectors - count)
            if self.random.random() < 0.7:
                at = at // 8 * 8    # whole blocks, mostly
            memory[:count * SECTOR] = b"".join(sector_bytes(at + n, self.number, version)
                                               for n in range(count))
            with self.attempt(op="write", at=at, count=count, version=version):
                done = os.pwrite(fd, memoryview(memory)[:count * SECTOR], at * SECTOR)
                if done != count * SECTOR:
                    raise RuntimeError(f"short direct write: {done} of {count * SECTOR}")
            yield

    def work_direct(self):
        path = self.path("file")
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, bytes(DIRECT_SECTORS * SECTOR), 0)
        os.fsync(fd)
        os.close(fd)
        self.sync_dir()
        self.record(sectors=DIRECT_SECTORS)
        yield from self.direct_writes(path, DIRECT_SECTORS, self.random.choice([0, os.O_DSYNC]))

    def work_holes(self):
        path = self.path("file")
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, HOLES_SECTORS * SECTOR)
        os.fsync(fd)
        os.close(fd)
        self.sync_dir()
        self.record(sectors=HOLES_SECTORS)
        yield from self.direct_writes(path, HOLES_SECTORS, 0)

    # -- append, cut: a prefix of one known stream of bytes

    def work_rewrite(self):
        """Nothing but data changes: there may be nothing in the journal to wait for."""
        path = self.path("file")
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, bytes(DIRECT_SECTORS * SECTOR), 0)
        os.fsync(fd)
        self.sync_dir()
        self.record(sectors=DIRECT_SECTORS)
        version = 0
        while True:
            version += 1
            count = self.random.randrange(1, 40)
            at = self.random.randrange(DIRECT_SECTORS - count)
            data = b"".join(sector_bytes(at + n, self.number, version) for n in range(count))
            with self.attempt(op="write", at=at, count=count, version=version):
                os.pwrite(fd, data, at * SECTOR)
                os.fdatasync(fd)
            yield

    def work_append(self):
        flags = self.random.choice([0, os.O_SYNC])
        fd = os.open(self.path("file"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | flags, 0o644)
        os.fsync(fd)
        self.sync_dir()
        self.record(stream=self.number)
        size, data = 0, stream(self.number, 32 << 20)
        while size + 9000 <= len(data):
            length = self.random.choice([1, 30, 500, 4096, 9000])
            with self.attempt(op="grow", low=size, high=size + length):
                for _ in range(1 if flags else self.random.randrange(1, 4)):
                    part = min(length, 5000)
                    os.write(fd, data[size:size + part])
                    size += part
                    length -= part
                    if not length:
                        break
                if not flags:
                    os.fdatasync(fd)
                self.record(size=size)
            yield
        while True:
            os.fsync(fd)
            yield

    def work_cut(self):
        data = stream(self.number, 1 << 20)
        fd = os.open(self.path("file"), os.O_RDWR | os.O_CREAT)
        os.fsync(fd)
        self.sync_dir()
        self.record(stream=self.number)
        size = 0
        while True:
            target = self.random.randrange(len(data))
            with self.attempt(op="grow", low=min(size, target), high=max(size, target)):
                if target < size:
                    os.ftruncate(fd, target)
                else:
                    os.pwrite(fd, data[size:target], size)
                os.fsync(fd)
                size = target
                self.record(size=size)
            yield

    # -- churn

    def work_churn(self):
        serial = 0
        while True:
            serial += 1
            top = self.path(f"d{serial}")
            os.mkdir(top)
            for number in range(self.random.randrange(1, 100)):
                with open(os.path.join(top, f"f{number}"), "wb") as file:
                    file.write(stream(number, self.random.choice([0, 100, 10000])))
                if number % 7 == 3:
                    os.rename(os.path.join(top, f"f{number}"), self.path(f"moved{serial}-{number}"))
                elif number % 5 == 2:
                    os.link(os.path.join(top, f"f{number}"), os.path.join(top, f"link{number}"))
            gone = open(self.path("gone"), "wb")
            gone.write(bytes(300000))
            os.unlink(self.path("gone"))
            if serial % 2:
                for name in os.listdir(top):
                    os.unlink(os.path.join(top, name))
                os.rmdir(top)
            gone.close()
            yield


def sector_bytes(sector, writer, version):
    word = (sector << 40 | writer << 32 | version).to_bytes(8, "big")
    return word * (SECTOR // 8)


WORKERS = [("files", 1), ("files", 2), ("direct", 1), ("direct", 2), ("holes", 1), ("holes", 2),
           ("rewrite", 1), ("append", 1), ("append", 2), ("cut", 1), ("churn", 1)]


def chosen(kinds):
    return [worker for worker in WORKERS if not kinds or worker[0] in kinds]


def load(directory, acks, seed, kinds):
    """Run the workers of these kinds (none: all); each ends when the file system does."""
    children = []
    for kind, number in chosen(kinds):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                Worker(kind, number, directory, acks, seed).run()
            except OSError as error:
                status = 0 if error.errno in GONE else 1
                if status:
                    print(f"{kind}{number}: {error}", flush=True)
            except BaseException as error:  # noqa: B902 - the child must not go on as the parent
                print(f"{kind}{number}: {error!r}", flush=True)
            finally:
                os._exit(status)
        children.append(pid)

    def stop(*_):
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    signal.signal(signal.SIGTERM, stop)
    failed = False
    while children:
        # Off the list before it is buried: its number may be somebody else's a moment later, and must not be killed then.
        os.waitid(os.P_PID, children[0], os.WEXITED | os.WNOWAIT)
        failed |= os.waitstatus_to_exitcode(os.waitpid(children.pop(0), 0)[1]) != 0
    return failed


# ---------------------------------------------------------------- after the crash

class Log:
    """A worker's log: what it began with, the finished steps, and the open one if any."""

    def __init__(self, path):
        self.begin, self.done, self.open, self.setup = False, [], None, {}
        pending = None
        with open(path, "rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                what = json.loads(line)
                if what == "ok":
                    self.done.append(pending)
                    pending = None
                elif "op" in what:
                    pending = what
                elif "begin" in what:
                    self.begin = True
                elif "size" in what:
                    pending["size"] = what["size"]
                else:
                    self.setup.update(what)
        self.open = pending


def verify_words(directory, acks, where):
    """The arguments for verify; `where`: on which file system the image was."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", where], check=True, stdout=subprocess.PIPE).stdout.strip()
    return ["verify", str(directory), str(acks)] + (["memory"] if kind == b"tmpfs" else [])


def mixture(got, parts):
    """Does each byte come from one of these?"""
    return len(got) == SECTOR and all(byte in choice for byte, *choice in zip(got, *parts))


class Verifier:
    def __init__(self, directory, acks, memory):
        self.directory, self.acks, self.memory, self.faults = directory, acks, memory, []

    def fault(self, text):
        self.faults.append(text)

    def run(self):
        for name in sorted(os.listdir(self.acks)):
            log = Log(os.path.join(self.acks, name))
            where = os.path.join(self.directory, name)
            if not log.begin:
                continue
            if not os.path.isdir(where):
                self.fault(f"{name}: its directory is gone")
                continue
            self.name, self.where = name, where
            kind = name.rstrip("0123456789")
            if kind in ("direct", "holes", "rewrite"):
                self.check_sectors(log, int(name[len(kind):]))
            elif kind in ("append", "cut"):
                self.check_stream(log)
            elif kind == "files":
                self.check_files(log)
            elif kind == "churn":
                self.check_churn()
        return self.faults

    def content(self, name):
        try:
            with open(os.path.join(self.where, name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def check_files(self, log):
        state = {}
        for step in log.done:
            apply_step(state, step)
        step = log.open
        unsure = {step.get("name"), step.get("old"), "temporary"} if step else set()
        present = set(os.listdir(self.where))
        for name in sorted(present - set(state) - unsure):
            self.fault(f"{self.name}: {name} should not be there")
        for name, (size, seed) in state.items():
            if name not in unsure and self.content(name) != stream(seed, size):
                self.fault(f"{self.name}: {name} ({size} bytes) is "
                           + ("gone" if name not in present else "not what was synced"))
        if step:
            self.check_open_file(state, step, present)

    def check_open_file(self, state, step, present):
        name = step["name"]
        got = self.content(name)
        if step["op"] == "create":
            whole = stream(step["seed"], step["size"])
            if got is not None and got != whole[:len(got)]:
                self.fault(f"{self.name}: {name}, being created, holds foreign bytes")
            return
        if step["op"] == "unlink":
            allowed = [None, stream(*state[name][::-1])]
        elif step["op"] == "replace":
            allowed = [stream(*state[name][::-1]), stream(step["seed"], step["size"])]
        else:
            old = self.content(step["old"])
            if (old is None) == (got is None):
                self.fault(f"{self.name}: after an open rename {step['old']} "
                           f"{'and' if got is not None else 'nor'} {name} is there")
            got = got if old is None else old
            allowed = [stream(*state[step["old"]][::-1])]
        if got not in allowed:
            self.fault(f"{self.name}: {name} is wrong after an open {step['op']} "
                       f"({'present' if name in present else 'gone'})")

    def check_sectors(self, log, writer):
        if "sectors" not in log.setup:
            return
        versions = [0] * log.setup["sectors"]
        for step in log.done:
            for sector in range(step["at"], step["at"] + step["count"]):
                versions[sector] = step["version"]
        step = log.open
        maybe = range(step["at"], step["at"] + step["count"]) if step else ()
        data = self.content("file")
        if data is None or len(data) != len(versions) * SECTOR:
            self.fault(f"{self.name}: size {data and len(data)} instead of {len(versions) * SECTOR}")
            return
        for sector, version in enumerate(versions):
            got = data[sector * SECTOR:(sector + 1) * SECTOR]
            allowed = [sector_bytes(sector, writer, version) if version else bytes(SECTOR)]
            if sector in maybe:
                allowed.append(sector_bytes(sector, writer, step["version"]))
            # Memory has no sectors: the one that was just being copied when the daemon was killed is old in one part and new in the other.
            if got not in allowed and not (self.memory and sector in maybe and mixture(got, allowed)):
                self.fault(f"{self.name}: sector {sector}: {got[:8].hex()} instead of "
                           f"{allowed[0][:8].hex()}")

    def check_stream(self, log):
        """All that the file holds must be the stream, and it must reach as far as was synced."""
        if "stream" not in log.setup:
            return
        data = self.content("file")
        size = log.done[-1]["size"] if log.done else 0
        low, high = (log.open["low"], log.open["high"]) if log.open else (size, size)
        if data is None or not low <= len(data) <= high:
            self.fault(f"{self.name}: size {data and len(data)}, not from {low} to {high}")
            return
        want = stream(log.setup["stream"], len(data))
        if data != want:
            wrong = [n for n in range(len(data)) if data[n] != want[n]]
            # An open truncate may have zeroed the rest of its last block, which is ordinary data, and
            # not yet have got its new size into the journal.
            cut = log.open["low"] if log.open and log.open["low"] < size else len(data)
            if wrong[0] >= cut and wrong[-1] < (cut + 4095) // 4096 * 4096 and not any(data[cut:wrong[-1] + 1]):
                return
            zeros = all(data[n] == 0 for n in wrong)
            self.fault(f"{self.name}: {len(wrong)} bytes are wrong, from {wrong[0]} to {wrong[-1]} of "
                       f"{len(data)} (synced: {size}), {'zeros' if zeros else data[wrong[0]:][:8].hex()}")

    def check_churn(self):
        """Nothing was promised, but everything must be readable."""
        for where, _, files in os.walk(self.where):
            for name in files:
                with open(os.path.join(where, name), "rb") as file:
                    file.read()


def apply_step(state, step):
    if step["op"] in ("create", "replace"):
        state[step["name"]] = (step["size"], step["seed"])
    elif step["op"] == "rename":
        state[step["name"]] = state.pop(step["old"])
    else:
        del state[step["name"]]


def steps_open(acks):
    """How many workers were in the middle of a step, and how many steps were acknowledged.  Not by Log: it takes a minute for a million."""
    under_way = done = 0
    for name in os.listdir(acks):
        with open(os.path.join(acks, name), "rb") as log:
            text = log.read()
        done += text.count(b'"ok"\n')
        last = text.rpartition(b'"ok"\n')[2]
        under_way += any(line.startswith(b'{"op"') and line.endswith(b"\n") for line in last.splitlines(keepends=True))
    return under_way, done


def main():
    if len(sys.argv) >= 5 and sys.argv[1] == "load":
        return load(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
    if len(sys.argv) in (4, 5) and sys.argv[1] == "verify" and sys.argv[4:] in ([], ["memory"]):
        faults = Verifier(sys.argv[2], sys.argv[3], bool(sys.argv[4:])).run()
        print(*faults[:40], sep="\n")
        return 1 if faults else 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
