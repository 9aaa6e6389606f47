# SPDX-License-Identifier: GPL-2.0-or-later
"""What one node has changed the other one sees, in all ways of changing and looking: a model of a file and two directories.

Matrix takes random steps, each by one node, and looks from both.  mount/83-coherence uses it with two mounts of one machine.  As a program it is
one of two nodes of a cluster:

    coherence.py NODE DIR SEED ROUNDS

Both nodes run the same steps, from the same seed, and keep the same model; on() lets only the one whose turn it is touch its mount, and waits
before each turn for a line of input, which comes when the other one has finished the turn before ("." is printed then).
"""
import contextlib
import errno
import mmap
import os
import pathlib
import random
import stat
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from testlib import check, equal, expect_errno, pattern, read_file, run, same_data, write_file    # noqa: E402

BLOCK = 4096
MAPPED = 4 * BLOCK      # of every file; its size never falls below, so that no mapping ends in a signal


def acl(user, perm):
    """A POSIX ACL that gives one more user something, as the kernel hands it through."""
    entries = [(0x01, 6, -1 & 0xffffffff), (0x02, perm, user), (0x04, 4, -1 & 0xffffffff), (0x10, 7, -1 & 0xffffffff),
               (0x20, 0, -1 & 0xffffffff)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def sees_acl(path):
    """What it gives to whom; the kernel does not keep bytes."""
    value = os.getxattr(path, "system.posix_acl_access")
    return [struct.unpack_from("<HHI", value, at) for at in range(4, len(value), 8)]


class View:
    """One node's open files and mapping of one file, which stay as they are while the file changes."""

    def __init__(self, m, name):
        self.m, self.path = m, m / name
        self.cached = os.open(self.path, os.O_RDONLY)
        self.plain = os.open(self.path, os.O_RDWR)
        self.append = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self.direct = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        self.shared = mmap.mmap(self.cached, MAPPED, mmap.MAP_SHARED, mmap.PROT_READ)
        self.buffer = mmap.mmap(-1, 64 * BLOCK)

    def close(self):
        self.shared.close()
        self.buffer.close()
        for fd in (self.cached, self.plain, self.append, self.direct):
            os.close(fd)

    def write_direct(self, data, at):
        self.buffer[:len(data)] = data
        with memoryview(self.buffer) as view, view[:len(data)] as part:
            equal(os.pwritev(self.direct, [part], at), len(data), "direct write")

    def read_direct(self, size, at):
        with memoryview(self.buffer) as view, view[:size] as part:
            got = os.preadv(self.direct, [part], at)
            return bytes(part[:got])


class Matrix:
    """A file, a directory (hashed after a while) and a model of both; steps change them on one node and look at the other."""

    def __init__(self, mounts, rng):
        self.mounts, self.rng = mounts, rng
        self.data = bytearray(pattern(6 * BLOCK, 1))
        with self.on(0):
            os.mkdir(mounts[0] / "dir")
            os.mkdir(mounts[0] / "other")
            write_file(mounts[0] / "file", self.data)
            os.chmod(mounts[0] / "file", 0o644)
        self.mode, self.mtime, self.acl = 0o644, None, None
        self.xattrs = {}
        self.names = {"dir": {}, "other": {}}       # name -> content
        self.serial = 0
        self.views = []
        for n, m in enumerate(mounts):
            with self.on(n):
                self.views.append(View(m, "file"))
        self.history = []
        with self.on(0):
            for number in range(40):
                self.new_name("dir", 0, f"start{number}")

    def on(self, n):
        """What follows is done by that node."""
        return contextlib.nullcontext()

    # --- what changes something; each gets a node and returns the looks that must show it

    def content(self, size):
        self.serial += 1
        return pattern(size, self.serial)

    def splice(self, at, data):
        if at > len(self.data):
            self.data += bytes(at - len(self.data))
        self.data[at:at + len(data)] = data
        self.mtime = None

    DATA_LOOKS = ["read", "read_new", "mapped", "read_direct", "read_plain", "size"]

    def do_write(self, n):
        at, data = self.rng.randrange(len(self.data) + 5000), self.content(self.rng.randrange(1, 9000))
        os.pwrite(self.views[n].plain, data, at)
        self.splice(at, data)
        return self.DATA_LOOKS

    def do_write_direct(self, n):
        at, data = self.rng.randrange(len(self.data) // BLOCK + 2) * BLOCK, self.content(BLOCK * self.rng.randrange(1, 4))
        self.views[n].write_direct(data, at)
        # Its time is published by this; before, an older one that the other node sets with utime(2) may be lost.
        os.fsync(self.views[n].direct)
        self.splice(at, data)
        return self.DATA_LOOKS

    def do_append(self, n):
        data = self.content(self.rng.randrange(1, 5000))
        os.write(self.views[n].append, data)
        self.splice(len(self.data), data)
        return self.DATA_LOOKS

    def do_truncate(self, n):
        size = self.rng.randrange(MAPPED, MAPPED + 10 * BLOCK)
        if self.rng.random() < 0.5:
            os.truncate(self.mounts[n] / "file", size)
        else:
            os.ftruncate(self.views[n].plain, size)
        self.splice(size, b"")
        del self.data[size:]
        return self.DATA_LOOKS

    def do_fallocate(self, n):
        at, size = self.rng.randrange(len(self.data)), self.rng.randrange(1, 4 * BLOCK)
        os.posix_fallocate(self.views[n].plain, at, size)
        self.splice(max(len(self.data), at + size), b"")
        return self.DATA_LOOKS

    def do_punch(self, n):
        at, size = self.rng.randrange(len(self.data)), self.rng.randrange(1, 3 * BLOCK)
        run(["fallocate", "-p", "-o", at, "-l", size, self.mounts[n] / "file"])
        end = min(at + size, len(self.data))
        self.splice(at, bytes(end - at))
        return self.DATA_LOOKS

    def do_chmod(self, n):
        self.mode = self.rng.choice([0o600, 0o640, 0o644, 0o755])
        os.chmod(self.mounts[n] / "file", self.mode)
        self.acl = None if self.acl is None else "changed"
        return ["stat", "stat_open"]

    def do_utime(self, n):
        self.mtime = self.rng.randrange(10**18, 2 * 10**18)
        os.utime(self.mounts[n] / "file", ns=(self.mtime, self.mtime))
        return ["stat", "stat_open"]

    def do_setxattr(self, n):
        name, value = f"user.x{self.rng.randrange(4)}", self.content(self.rng.choice([5, 50, 3000]))
        os.setxattr(self.mounts[n] / "file", name, value)
        self.xattrs[name] = value
        return ["xattrs"]

    def do_removexattr(self, n):
        if self.xattrs:
            name = self.rng.choice(sorted(self.xattrs))
            os.removexattr(self.mounts[n] / "file", name)
            del self.xattrs[name]
        return ["xattrs"]

    def do_acl(self, n):
        user, perm = self.rng.randrange(1000, 1010), self.rng.randrange(8)
        os.setxattr(self.mounts[n] / "file", "system.posix_acl_access", acl(user, perm))
        self.acl, self.mode = (0x02, perm, user), 0o670
        return ["stat", "acl"]

    def new_name(self, directory, n, name):
        content = self.content(self.rng.randrange(1, 200))
        write_file(self.mounts[n] / f"{directory}/{name}", content)
        self.names[directory][name] = content

    NAME_LOOKS = ["listing", "lookups", "lookups"]

    def do_create(self, n):
        self.serial += 1
        self.new_name(self.rng.choice(["dir", "dir", "other"]), n, f"n{self.serial}")
        return self.NAME_LOOKS

    def some_name(self):
        directory = self.rng.choice([d for d in self.names if self.names[d]])
        return directory, self.rng.choice(sorted(self.names[directory]))

    def do_unlink(self, n):
        directory, name = self.some_name()
        os.unlink(self.mounts[n] / f"{directory}/{name}")
        del self.names[directory][name]
        return self.NAME_LOOKS

    def do_rename(self, n):
        directory, name = self.some_name()
        target = self.rng.choice(["dir", "other"])
        self.serial += 1
        new = self.rng.choice(sorted(self.names[target]) + [f"r{self.serial}"] * 5)
        os.rename(self.mounts[n] / f"{directory}/{name}", self.mounts[n] / f"{target}/{new}")
        self.names[target][new] = self.names[directory].pop(name)
        return self.NAME_LOOKS

    def do_overwrite(self, n):
        """Through a name; looked at through the other node's."""
        directory, name = self.some_name()
        self.new_name(directory, n, name)
        return self.NAME_LOOKS

    # --- how it is looked at

    def look_read(self, n):
        same_data(os.pread(self.views[n].cached, 1 << 20, 0), bytes(self.data), "read(2)")

    def look_read_new(self, n):
        same_data(read_file(self.mounts[n] / "file"), bytes(self.data), "opened and read")

    def look_read_plain(self, n):
        same_data(os.pread(self.views[n].plain, 1 << 20, 0), bytes(self.data), "read(2) of a file open for writing")

    def look_mapped(self, n):
        same_data(self.views[n].shared[:], bytes(self.data[:MAPPED]), "mapping")

    def look_read_direct(self, n):
        same_data(self.views[n].read_direct(64 * BLOCK, 0), bytes(self.data[:64 * BLOCK]), "direct read")

    def look_size(self, n):
        equal(os.lseek(self.views[n].cached, 0, os.SEEK_END), len(self.data), "SEEK_END")
        equal(os.stat(self.mounts[n] / "file").st_size, len(self.data), "st_size")

    def attributes(self, st):
        equal(stat.S_IMODE(st.st_mode), self.mode, "mode")
        equal(st.st_size, len(self.data), "size")
        if self.mtime is not None:
            equal(st.st_mtime_ns, self.mtime, "mtime")

    def look_stat(self, n):
        self.attributes(os.stat(self.mounts[n] / "file"))

    def look_stat_open(self, n):
        self.attributes(os.fstat(self.views[n].cached))

    def look_xattrs(self, n):
        path = self.mounts[n] / "file"
        equal(sorted(x for x in os.listxattr(path) if x.startswith("user.")), sorted(self.xattrs), "names of xattrs")
        for name, value in self.xattrs.items():
            same_data(os.getxattr(path, name), value, name)

    def look_acl(self, n):
        check(self.acl in sees_acl(self.mounts[n] / "file"), f"ACL {self.acl} is not seen")

    def look_listing(self, n):
        for directory, entries in self.names.items():
            equal(sorted(os.listdir(self.mounts[n] / directory)), sorted(entries), f"listing of {directory}")

    def look_lookups(self, n):
        """Also of names that were there once."""
        seen = self.seen_names = getattr(self, "seen_names", set()) | {(d, x) for d in self.names for x in self.names[d]}
        for directory, name in self.rng.sample(sorted(seen), min(12, len(seen))):
            path = self.mounts[n] / f"{directory}/{name}"
            if name in self.names[directory]:
                same_data(read_file(path), self.names[directory][name], path)
            else:
                expect_errno(errno.ENOENT, os.open, path, os.O_RDONLY)
                expect_errno(errno.ENOENT, os.stat, path)

    # --- steps

    def look(self, n, looks):
        for look in looks:
            self.history.append(f"{'ab'[n]}.{look}")
            with self.on(n):
                getattr(self, "look_" + look)(n)

    def step(self, op, n):
        with self.on(n):
            looks = list(getattr(self, "do_" + op)(n))
        self.history.append(f"{'ab'[n]}:{op}")
        self.rng.shuffle(looks)
        # The other one first; then this one, whose kernel may have kept what was there before.
        self.look(1 - n, looks[:self.rng.randrange(1, 4)])
        self.look(n, looks[:self.rng.randrange(0, 3)])

    def close(self):
        for n, view in enumerate(self.views):
            with self.on(n):
                view.close()

    def walk(self, rounds):
        try:
            for _ in range(rounds):
                # Every kind of change, on either node, in an order of its own.
                steps = [(op, n) for op in OPS for n in (0, 1)]
                self.rng.shuffle(steps)
                for op, n in steps:
                    self.step(op, n)
        except Exception as fault:
            raise AssertionError(f"{fault}; before that: {' '.join(self.history[-24:])}") from fault
        for n in (0, 1):
            self.look(n, self.DATA_LOOKS + ["stat", "xattrs"] + self.NAME_LOOKS)
        self.close()


OPS = [name[3:] for name in dir(Matrix) if name.startswith("do_")]


class Nobody:
    """Stands for whatever another node has: anything can be done with it, and nothing comes of it."""

    def __getattr__(self, name):
        return self

    def __call__(self, *_, **__):
        return self

    def __getitem__(self, _):
        return self

    def __iter__(self):
        return iter(())


class Gate:
    """A module, or a function, that only works while it is this node's turn.  What is not a function is always there."""

    active = True

    def __init__(self, real):
        self.real = real

    def __call__(self, *args, **more):
        return self.real(*args, **more) if Gate.active else Nobody()

    def __getattr__(self, name):
        real = getattr(self.real, name)
        return Gate(real) if callable(real) else real


class OneOfTwo(Matrix):
    """This node's part."""

    def __init__(self, me, where, rng):
        self.me = me
        super().__init__([where, where], rng)

    @contextlib.contextmanager
    def on(self, n):
        if n != self.me:
            # The other one's turn: only the model goes on.  It is over when there is a line of input for the next of ours.
            Gate.active = False
            yield
            Gate.active = True
            return
        if sys.stdin.readline() != "go\n":
            sys.exit("nobody is there any more")
        yield
        print(".", flush=True)


GATED = ("View", "check", "equal", "expect_errno", "os", "read_file", "run", "same_data", "sees_acl", "stat", "write_file")


def turns(seed, rounds):
    """Whose turn it is, from the first to the last; the host runs the model without any node."""
    class Recorder(Matrix):
        def on(self, n):
            taken.append(n)
            return contextlib.nullcontext()

    taken = []
    with gated():
        Gate.active = False
        Recorder([pathlib.Path(""), pathlib.Path("")], random.Random(f"{seed}")).walk(rounds)
    return taken


@contextlib.contextmanager
def gated():
    saved = {name: globals()[name] for name in GATED}
    globals().update({name: Gate(real) for name, real in saved.items()})
    try:
        yield
    finally:
        globals().update(saved)
        Gate.active = True


def main():
    me, where, seed, rounds = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    with gated():
        OneOfTwo(me, where, random.Random(f"{seed}")).walk(rounds)


if __name__ == "__main__":
    main()
