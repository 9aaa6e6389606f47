#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: every call that needs room, with 0, 1, 2 ... blocks free: it succeeds, or says ENOSPC and has changed nothing and lost no block
# timeout: 240
# variants: plain asan
import ctypes
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from calls import acl, renameat2    # noqa: E402
from testlib import *    # noqa: E402

LIBC = ctypes.CDLL(None, use_errno=True)
KEEP, PUNCH = 1, 2
MOST = 60       # blocks that are free in the end; every call has succeeded before


def fallocate(fd, mode, offset, length):
    if LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Ballast:
    """What fills the volume but for so many blocks: one file, of which single blocks are given back and taken again."""

    def __init__(self, mount, bs):
        self.mount, self.bs = mount, bs
        self.fd = os.open(mount / "ballast", os.O_RDWR | os.O_CREAT)
        # Every second of these is a hole or not; so their indirect blocks stay.
        self.reserve = 4 * MOST
        os.pwrite(self.fd, b"b" * bs * self.reserve, 0)
        os.fsync(self.fd)
        self.out = 0        # so many of them are holes
        size = self.reserve * bs
        while (left := self.free() - MOST) > 0:
            piece = max(left // 2, 1) * bs
            fallocate(self.fd, 0, size, piece)
            size += piece
        check(self.free() >= MOST // 2, f"{self.free()} blocks are free to begin with")
        self.leave(0)

    def free(self):
        return os.statvfs(self.mount).f_bfree

    def leave(self, blocks):
        """So many blocks are free afterwards."""
        for _ in range(10 * MOST):
            free = self.free()
            if free == blocks:
                return
            if free < blocks:
                fallocate(self.fd, PUNCH | KEEP, 2 * self.out * self.bs, self.bs)
                self.out += 1
            elif self.out:
                self.out -= 1
                fallocate(self.fd, KEEP, 2 * self.out * self.bs, self.bs)
            else:
                # More was free than the reserve has holes for: let it have more blocks, behind its end.
                self.grow()
        check(False, f"cannot leave {blocks} blocks: {self.free()} are free, {self.out} holes")

    def room(self):
        """Blocks that are free or ours: always the same, but for what the calls have made."""
        return self.free() + os.fstat(self.fd).st_blocks * 512 // self.bs

    def settle(self, room, what):
        """The kernel forgets a deleted file a moment later; then all blocks are back."""
        wait_for(lambda: self.room() >= room, f"{what}: all blocks to be back ({self.room()} of {room})")
        equal(self.room(), room, f"{what}: blocks that are back")

    def grow(self):
        size = os.fstat(self.fd).st_size
        fallocate(self.fd, 0, size, self.bs)

    def close(self):
        os.close(self.fd)


def state(path):
    """All that a call that failed must not have changed."""
    try:
        seen = os.lstat(path)
    except FileNotFoundError:
        return None
    more = ()
    if stat.S_ISDIR(seen.st_mode):
        more = (sorted(os.listdir(path)),)
    elif stat.S_ISREG(seen.st_mode):
        more = (hashlib.sha256(read_file(path)).hexdigest() if seen.st_size < 1 << 24 else "",)
    attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}
    return (seen.st_mode, seen.st_nlink, seen.st_uid, seen.st_size, seen.st_blocks, attributes) + more


def put(path, offset, length, flags=0):
    """pwrite of a length, whole or with an error: a short one is undone by who compares."""
    fd = os.open(path, os.O_RDWR | flags)
    try:
        memory = mmap.mmap(-1, (length + 4095) // 4096 * 4096)
        memory[:length] = pattern(length, offset)
        return os.pwrite(fd, memoryview(memory)[:length], offset)
    finally:
        os.close(fd)


def calls(m, bs):
    """(name, prepare, call, undo, paths to compare)"""
    def fresh(name, size):
        def prepare():
            write_file(m / name, pattern(size, size), sync=True)
        return prepare, lambda: os.unlink(m / name)

    def tries(name, size, call, *args):
        prepare, undo = fresh("x", size)
        return (name, prepare, lambda: call(m / "x", *args), undo, ["x"])

    def with_acl():
        os.mkdir(m / "x")
        os.setxattr(m / "x", "system.posix_acl_default", acl("u:rwx " + " ".join(f"u{n}:rwx" for n in range(1, 30)) + " g:r-x m:rwx o:---"))

    def leave_acl():
        run(["rm", "-r", m / "x"])

    def allocate(path, *args):
        fd = os.open(path, os.O_RDWR)
        try:
            fallocate(fd, *args)
        finally:
            os.close(fd)

    def nothing():
        pass

    def gone(name="x"):
        path = m / name
        (os.rmdir if os.path.isdir(path) and not os.path.islink(path) else os.unlink)(path)

    def attributed():
        write_file(m / "x", b"x", sync=True)
        os.setxattr(m / "x", "user.first", b"f" * (bs // 2))

    def crowded(names):
        """A directory that this many more names make grow now and then."""
        def prepare():
            os.mkdir(m / "x")
            for number in range(names):
                os.link(m / "seed", m / f"x/{number:04}" + "n" * 100)
        return prepare

    yield "create", nothing, lambda: os.mknod(m / "x"), gone, ["x"]
    yield "mkdir", nothing, lambda: os.mkdir(m / "x"), gone, ["x"]
    yield "symlink", nothing, lambda: os.symlink("t" * (bs - 240), m / "x"), gone, ["x"]
    yield "fifo", nothing, lambda: os.mkfifo(m / "x"), gone, ["x"]
    for names in (bs // 150, bs // 130, 3 * bs // 130):
        for what, call in (("create", lambda: os.mknod(m / "x/new" + "n" * 150)), ("mkdir", lambda: os.mkdir(m / "x/new" + "n" * 150)),
                           ("link", lambda: os.link(m / "other", m / "x/new" + "n" * 150)), ("rename", lambda: os.rename(m / "other", m / "x/new" + "n" * 150))):
            def back():
                if os.path.exists(m / "x/new" + "n" * 150) and not os.path.exists(m / "other"):
                    os.rename(m / "x/new" + "n" * 150, m / "other")
                run(["rm", "-r", m / "x"])
            yield f"{what} among {names}", crowded(names), call, back, ["x", "other"]
    yield "create under an ACL", with_acl, lambda: os.mknod(m / "x/new"), leave_acl, ["x", "x/new"]
    yield "mkdir under an ACL", with_acl, lambda: os.mkdir(m / "x/new"), leave_acl, ["x", "x/new"]
    yield tries("small xattr", 10, os.setxattr, "user.a", b"v")
    yield tries("large xattr", 10, os.setxattr, "user.a", b"v" * 9000)
    yield tries("acl", 10, os.setxattr, "system.posix_acl_access", acl("u:rwx u5:rwx g:r-x m:rwx o:---"))
    yield "another xattr", attributed, lambda: os.setxattr(m / "x", "user.second", b"s" * (bs // 2)), gone, ["x"]
    yield "longer xattr", attributed, lambda: os.setxattr(m / "x", "user.first", b"l" * 7000), gone, ["x"]
    yield tries("unstuff by a write", 10, put, bs - 100, 200)
    yield tries("unstuff by growing", 10, os.truncate, bs * 3)
    yield tries("a higher tree", bs, put, 1 << 35, 10)
    yield tries("a higher tree, direct", bs, put, 1 << 35, 4096, os.O_DIRECT)
    yield tries("a block", bs * 2, put, bs * 2, bs)
    yield tries("direct", bs * 2, put, bs * 8, 4096, os.O_DIRECT)
    yield tries("allocate", bs * 2, allocate, 0, bs * 2, bs * 9)
    yield tries("allocate beyond", bs * 2, allocate, KEEP, 1 << 33, bs * 3)


def wanted_of(name, bs):
    """Bytes that the writes among the calls are to write."""
    return {"unstuff by a write": 200, "a higher tree": 10, "a block": bs}.get(name, 0)


def free_calls(m, bs):
    """What needs no room and must work when there is none."""
    yield "truncate", lambda: os.truncate(m / "full", bs + 5)
    yield "chmod", lambda: os.chmod(m / "full", 0o600)
    yield "chown", lambda: os.chown(m / "full", 5, 5)
    yield "utime", lambda: os.utime(m / "full", (5, 5))
    yield "overwrite", lambda: put(m / "full", 0, bs)
    yield "rename", lambda: os.rename(m / "full", m / "fall")
    yield "exchange", lambda: renameat2(m / "fall", m / "other", 2)
    yield "removexattr", lambda: os.removexattr(m / "other", "user.x")
    yield "unlink", lambda: os.unlink(m / "fall")
    yield "rmdir", lambda: os.rmdir(m / "empty")


def at_the_edge(bs):
    volume = Volume(size="32M", bs=bs)
    with volume.mount() as mount:
        write_file(mount / "other", b"other", sync=True)
        write_file(mount / "seed", b"seed", sync=True)
        write_file(mount / "full", pattern(bs * 20, 1), sync=True)
        os.setxattr(mount / "full", "user.x", b"x" * 3000)
        os.mkdir(mount / "empty")
        ballast = Ballast(mount, bs)
        refused = 0
        for name, prepare, call, undo, paths in calls(mount, bs):
            def again():
                undo()
                ballast.settle(room, f"{name}, blocks of {bs}")
                ballast.leave(MOST)
                prepare()

            ballast.leave(MOST)
            room = ballast.room()
            prepare()
            for blocks in range(MOST):
                ballast.leave(blocks)
                before = [state(mount / path) for path in paths]
                done = None
                try:
                    done = call()
                except OSError as fault:
                    equal(fault.errno, errno.ENOSPC, f"{name}, blocks of {bs}, {blocks} free: errno")
                    refused += 1
                    if "direct" in name or "allocate" in name:
                        # All or an error (FUSE makes EIO of a short answer), and preallocated blocks stay, as with the kernel's gfs2.
                        again()
                        continue
                    equal([state(mount / path) for path in paths], before, f"{name}, blocks of {bs}, {blocks} free: after ENOSPC")
                    equal(ballast.free(), blocks, f"{name}, blocks of {bs}, {blocks} free: free blocks after ENOSPC")
                    continue
                if isinstance(done, int) and done < wanted_of(name, bs):
                    # A write that ended where the room did: that is there, and the rest once there is room.
                    log(f"{name}, blocks of {bs}: {done} bytes with {blocks} blocks")
                    again()
                    continue
                break
            else:
                check(False, f"{name}, blocks of {bs}: refused with {MOST} blocks free")
            check(blocks - ballast.free() <= 30, f"{name}: {blocks - ballast.free()} blocks used")
            ballast.leave(0)
            undo()
            ballast.settle(room, f"{name}, blocks of {bs}")
        check(refused > 40, f"only {refused} calls were refused")
        for name, call in free_calls(mount, bs):
            ballast.leave(0)
            try:
                call()
            except OSError as fault:
                check(False, f"{name} on a full volume, blocks of {bs}: {fault}")
        ballast.close()
    volume.fsck()


def case_bs512():
    at_the_edge(512)


def case_bs1024():
    at_the_edge(1024)


def case_bs4096():
    at_the_edge(4096)


main()
