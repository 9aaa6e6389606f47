#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: allocations of the daemon that fail, and an address space that is used up: requests fail with ENOMEM or wait, nothing else is lost
# timeout: 240
import os
import resource
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

WORKERS = 4
STEPS = 150 if not FULL else 1000
SIZE = "256M" if not FULL else "2G"    # what the workers leave must fit
# One of so many allocations fails.
SHARES = [400, 40, 7] if not FULL else [1000, 100, 40, 12, 7, 4]
# What a request says that was given up for want of memory.  A page that could not be read is EIO to read(2).
SHORT = (errno.ENOMEM,)


def again(call, *args, also=()):
    """The call until it is not refused for want of memory: the refusal must have changed nothing."""
    end = time.monotonic() + STEP_SECONDS
    while True:
        try:
            return call(*args)
        except OSError as fault:
            if fault.errno not in SHORT + also or time.monotonic() > end:
                raise


class Worker:
    """Files in a directory of its own, and what they must contain."""

    def __init__(self, number, directory):
        self.random = random.Random(f"{SEED}/{number}")
        self.directory = directory
        self.files = {}

    def path(self, name):
        return os.path.join(self.directory, name)

    def put(self, name, offset, data):
        flags = self.random.choice([0, 0, os.O_DIRECT])
        fd = again(os.open, self.path(name), os.O_RDWR | os.O_CREAT | flags, 0o644)
        buffer = mmap.mmap(-1, len(data))
        buffer[:] = data
        equal(again(os.pwrite, fd, buffer, offset), len(data), "bytes written")
        if self.random.random() < 0.3:
            again(os.fsync, fd)
        self.close(fd)
        old = self.files.get(name, b"").ljust(offset, b"\0")
        self.files[name] = old[:offset] + data + old[offset + len(data):]

    @staticmethod
    def close(fd):
        try:
            os.close(fd)
        except OSError as fault:    # closed all the same
            check(fault.errno in SHORT, f"close: {fault}")

    def step(self, number):
        what = self.random.random()
        names = sorted(self.files)
        if what < 0.5 or not names:
            name = self.random.choice(names) if names and what < 0.2 else f"{number:05}" + "n" * self.random.randrange(150)
            size = 4096 * self.random.choice([1, 1, 3, 40])
            self.put(name, 4096 * self.random.randrange(30), self.random.randbytes(size))
        elif what < 0.65:
            name = self.random.choice(names)
            again(os.rename, self.path(name), self.path(f"renamed{number}"))
            self.files[f"renamed{number}"] = self.files.pop(name)
        elif what < 0.75:
            name = self.random.choice(names)
            size = self.random.randrange(len(self.files[name]) + 1)
            again(os.truncate, self.path(name), size)
            self.files[name] = self.files[name][:size]
        elif what < 0.85:
            name = self.random.choice(names)
            again(os.unlink, self.path(name))
            del self.files[name]
        else:
            self.verify(self.random.choice(names))
            equal(sorted(again(os.listdir, self.directory)), names, "names")

    def verify(self, name):
        data = again(read_file, self.path(name), also=(errno.EIO,))
        check(data == self.files[name], f"{name} has not the right content, seed {SEED}")


def work(mount, number, steps):
    worker = Worker(number, mount / f"w{number}")
    again(os.mkdir, worker.directory)
    for step in range(steps):
        worker.step(step)
    return worker


def in_parallel(mount, tag, steps):
    """The workers at once, each in a process; afterwards what each has to have left, from a file."""
    import pickle
    children = []
    for number in range(WORKERS):
        out = temp("left")
        pid = os.fork()
        if not pid:
            status = 1
            try:
                worker = work(mount, f"{tag}-{number}", steps)
                with open(out, "wb") as to:
                    pickle.dump((worker.directory[len(mount.dir) + 1:], worker.files), to)
                status = 0
            except BaseException:   # noqa: B902 - the child must not go on as the parent
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        children.append((pid, out))
    left = {}
    failed = [number for number, (pid, _) in enumerate(children) if os.waitpid(pid, 0)[1]]
    check(not failed, f"workers {failed} failed, seed {SEED}: {mount.messages()}")
    for _, out in children:
        with open(out, "rb") as source:
            directory, files = pickle.load(source)
            left[directory] = files
    return left


def verify(mount, left):
    for directory, files in left.items():
        equal(sorted(os.listdir(mount / directory)), sorted(files), f"names in {directory}, seed {SEED}")
        for name, data in files.items():
            check(read_file(os.path.join(mount / directory, name)) == data, f"{directory}/{name} differs, seed {SEED}")


class Failing:
    """The preloaded malloc and its switch."""

    def __init__(self):
        self.object = temp("nomem") + ".so"
        run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", self.object,
             os.path.join(ROOT, "tests", "preload", "nomem.c")])
        self.control = temp("nomem")
        write_file(self.control, bytes(12))
        self.env = dict(os.environ, LD_PRELOAD=self.object, NOMEM_CONTROL=self.control)

    def one_of(self, number):
        fd = os.open(self.control, os.O_RDWR)
        os.pwrite(fd, struct.pack("=I", number), 0)
        os.close(fd)

    def init(self, fails):
        fd = os.open(self.control, os.O_RDWR)
        os.pwrite(fd, struct.pack("=I", fails), 8)
        os.close(fd)

    def failed(self):
        return struct.unpack("=III", read_file(self.control))[1]


def case_failing_allocations():
    need_fuse()
    failing = Failing()
    volume = Volume(size=SIZE, bs=1024)
    left = {}
    for share in SHARES:
        before = failing.failed()
        mount = volume.mount("cache=64M", env=failing.env)
        failing.one_of(share)
        left.update(in_parallel(mount, str(share), STEPS))
        failed = failing.failed() - before
        failing.one_of(0)
        verify(mount, left)
        # And while it unmounts.
        failing.one_of(share)
        mount.umount(random.choice(["umount", "sigterm"]))
        failing.one_of(0)
        log(f"one of {share}: {failed} allocations failed")
        check(failed > 10, "next to no allocation failed")
        volume.fsck()
    with volume.mount() as mount:
        verify(mount, left)


def case_mount_without_memory():
    """A mount succeeds or says why not."""
    need_fuse()
    failing = Failing()
    volume = Volume(size="64M")
    mounted = 0
    # From none to each.
    shares = (0, 3000, 500, 100, 50, 20, 10, 5, 3, 2, 1)
    for share in shares:
        failing.one_of(share)
        try:
            with volume.mount(env=failing.env) as mount:
                mounted += 1
                again(os.listdir, mount)
        except AssertionError as fault:
            log(f"one of {share}: {str(fault)[:300]}")
            check(re.search(r"ended with [1-9]", str(fault)) and len(str(fault)) > 30, f"one of {share}: {fault}")
        finally:
            failing.one_of(0)
            clean_mounts()
    log(f"mounted {mounted} times")
    check(0 < mounted < len(shares), f"mounted {mounted} of {len(shares)} times")
    volume.fsck()


def case_init_without_memory():
    """No memory for FUSE_INIT: libfuse refuses it, and the kernel everything after it.  That is no mount."""
    need_fuse()
    failing = Failing()
    volume = Volume(size="64M")
    failing.init(1)
    before = failing.failed()
    fault = None
    try:
        volume.mount(env=failing.env)
    except AssertionError as error:
        fault = str(error)
    check(failing.failed() > before, "nothing failed")
    check(fault and re.search(r"ended with [1-9]", fault) and "Cannot allocate memory" in fault, f"what became of the mount: {fault}")
    # The command that a person calls says so, too, and leaves nothing.
    where = temp("mnt")
    os.mkdir(where)
    done = run([gfs2_fuse(), volume.path, where], env=failing.env, ok=None)
    check(done.returncode == 32 and "Cannot allocate memory" in done.stdout, f"exit status {done.returncode}: {done.stdout}")
    check(not mount_entry(where), "a mount is left")
    run([gfs2_fuse(), "--wait", volume.path, "30"])
    failing.init(0)
    with volume.mount(env=failing.env) as mount:
        equal(os.listdir(mount), [], "the volume is as it was")
    volume.fsck()


def clean_mounts():
    from testlib import _mounts
    for mount in list(_mounts):
        mount.drop()


def address_space(pid):
    with open(f"/proc/{pid}/statm") as text:
        return int(text.read().split()[0]) * mmap.PAGESIZE


def case_address_space():
    """The limit of a running daemon is lowered to a little above what it has: threads and large pieces of memory run out."""
    need_fuse()
    volume = Volume(size=SIZE)
    mount = volume.mount("cache=64M")
    pid = mount.daemon.pid
    left = in_parallel(mount, "before", STEPS // 3)
    # With nothing at all it goes on only when idle threads have left, which takes its time.
    for room in (8 << 20, 0) if FULL else (8 << 20,):
        used = address_space(pid)
        resource.prlimit(pid, resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
        left.update(in_parallel(mount, f"room{room}", STEPS))
        verify(mount, left)
    mount.umount()
    volume.fsck()
    with volume.mount() as mount:
        verify(mount, left)


main()
