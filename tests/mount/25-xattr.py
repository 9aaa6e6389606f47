#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: extended attributes: all name spaces and sizes, thousands of them, every error, blocks come back
# timeout: 180
# variants: plain asan
import ctypes
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

LIBC = ctypes.CDLL(None, use_errno=True)
REALTIME_COARSE = 5     # clock id; what file times are taken from


def get_into(path, name, size):
    """getxattr(2) with a buffer of so many bytes: what it returns, or -errno."""
    buffer = ctypes.create_string_buffer(max(size, 1))
    done = LIBC.getxattr(os.fsencode(path), name.encode(), buffer, ctypes.c_size_t(size))
    return done if done >= 0 else -ctypes.get_errno()


def list_into(path, size):
    buffer = ctypes.create_string_buffer(max(size, 1))
    done = LIBC.listxattr(os.fsencode(path), buffer, ctypes.c_size_t(size))
    return done if done >= 0 else -ctypes.get_errno()


def attributes(path):
    return {name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)}


def make(path):
    write_file(path, b"content")
    return path


@for_each_size(512, 1024, 2048, 4096)
def case_spaces_and_errors(bs):
    volume = Volume(size="128M", bs=bs)
    with volume.mount() as m:
        f = make(m / "f")
        equal(os.listxattr(f), [], "names of a fresh file")
        expect_errno(errno.ENODATA, os.getxattr, f, "user.none")
        expect_errno(errno.ENODATA, os.removexattr, f, "user.none")
        expect_errno(errno.ENODATA, os.setxattr, f, "user.a", b"1", os.XATTR_REPLACE)
        before = os.stat(f)
        wait_for(lambda: time.clock_gettime_ns(REALTIME_COARSE) > before.st_ctime_ns,
                 "the clock to move")
        wanted = {"user.a": b"1", "security.b": b"", "trusted.c": bytes(range(256)),
                  "user.d" + "n" * 244: b"long name"}
        for name, value in wanted.items():
            os.setxattr(f, name, value, os.XATTR_CREATE)
        equal(attributes(f), wanted, "attributes")
        after = os.stat(f)
        check(after.st_ctime_ns > before.st_ctime_ns, "ctime moves")
        equal(after.st_mtime_ns, before.st_mtime_ns, "mtime stays")
        check(after.st_blocks > before.st_blocks, "the attributes' blocks are counted")
        expect_errno(errno.EEXIST, os.setxattr, f, "user.a", b"2", os.XATTR_CREATE)
        os.setxattr(f, "user.a", b"replaced", os.XATTR_REPLACE)
        equal(os.getxattr(f, "user.a"), b"replaced", "replaced")
        equal(get_into(f, "user.a", 0), 8, "asked for the size")
        equal(get_into(f, "user.a", 7), -errno.ERANGE, "buffer too small")
        equal(get_into(f, "user.a", 8), 8, "buffer just large enough")
        size = list_into(f, 0)
        equal(size, sum(len(name) + 1 for name in wanted), "size of the list")
        equal(list_into(f, size - 1), -errno.ERANGE, "list too small")
        equal(list_into(f, size), size, "list just large enough")
        expect_errno(errno.EOPNOTSUPP, os.setxattr, f, "system.other", b"x")
        expect_errno(errno.EOPNOTSUPP, os.getxattr, f, "system.other")
        expect_errno(errno.EOPNOTSUPP, os.setxattr, f, "os2.x", b"x")
        expect_errno(errno.EOPNOTSUPP, os.removexattr, f, "nothing")
        expect_errno(errno.EINVAL, os.setxattr, f, "user.", b"x")
        expect_errno(errno.ERANGE, os.setxattr, f, "user." + "n" * 251, b"x")
        expect_errno(errno.E2BIG, os.setxattr, f, "user.x", bytes(65537))
        expect_errno(errno.ENOENT, os.getxattr, m / "none", "user.a")
        # Directories and special files.
        os.mkdir(m / "d")
        os.setxattr(m / "d", "user.d", b"directory")
        os.symlink("f", m / "link")
        os.mkfifo(m / "fifo")
        for path in (m / "link", m / "fifo"):
            expect_errno(errno.EPERM, os.setxattr, path, "user.x", b"x", follow_symlinks=False)
            expect_errno(errno.ENODATA, os.getxattr, path, "user.x", follow_symlinks=False)
            os.setxattr(path, "trusted.x", b"trusted", follow_symlinks=False)
        # The same through a descriptor, and of a file that has no name any more.
        fd = os.open(m / "gone", os.O_CREAT | os.O_RDWR)
        os.unlink(m / "gone")
        os.setxattr(fd, "user.gone", b"still here")
        equal(os.getxattr(fd, "user.gone"), b"still here", "attribute of an unlinked file")
        os.close(fd)
        for name in wanted:
            if name != "trusted.c":
                os.removexattr(f, name)
        equal(attributes(f), {"trusted.c": wanted["trusted.c"]}, "after the removals")
    volume.fsck()
    with volume.mount("ro") as m:
        equal(attributes(m / "f"), {"trusted.c": bytes(range(256))}, "after a remount")
        equal(attributes(m / "d"), {"user.d": b"directory"}, "a directory's, after a remount")
        equal(attributes(m / "link"), {"trusted.x": b"trusted"}, "a link's, after a remount")
        expect_errno(errno.EROFS, os.setxattr, m / "f", "user.a", b"1")
        expect_errno(errno.EROFS, os.removexattr, m / "f", "trusted.c")


def case_old_format():
    """Format 1801 has no trusted.* attributes; everything else is the same."""
    volume = Volume(size="64M", fmt=1801)
    with volume.mount() as m:
        make(m / "f")
        expect_errno(errno.EOPNOTSUPP, os.setxattr, m / "f", "trusted.x", b"x")
        expect_errno(errno.EOPNOTSUPP, os.getxattr, m / "f", "trusted.x")
        os.setxattr(m / "f", "user.x", b"x" * 10000)
        os.setxattr(m / "f", "security.x", b"x")
    volume.fsck()
    with volume.mount() as m:
        equal(attributes(m / "f"), {"user.x": b"x" * 10000, "security.x": b"x"}, "after a remount")


def case_thousands():
    """Thousands on one file, values of all sizes; changed, removed, and the blocks come back."""
    volume = Volume(size="256M")
    # One indirect block of 509 pointers leads to all blocks with names and values: about 2 MB.
    count = 2600 if FULL else 2000
    wanted = {}
    with volume.mount() as m:
        free = os.statvfs(m).f_bfree
        os.mkdir(m / "d")
        f = make(m / "d/f")
        for number in range(count):
            name = f"user.some-attribute-with-a-name-{number:05}"
            size = random.choice([0, 10, 100, 1000]) if number % 100 else random.randrange(65537)
            wanted[name] = random.randbytes(size)
            os.setxattr(f, name, wanted[name])
        for name in random.sample(sorted(wanted), count // 4):
            wanted[name] = random.randbytes(random.choice([0, 10, 2000, 5000]))
            os.setxattr(f, name, wanted[name], os.XATTR_REPLACE)
        for name in random.sample(sorted(wanted), count // 4):
            os.removexattr(f, name)
            del wanted[name]
        if count > 2400:
            # a list of more than 64 KiB cannot be had
            expect_errno(errno.E2BIG, os.listxattr, f)
        else:
            equal(sorted(os.listxattr(f)), sorted(wanted), "names")
        # and their files
        for number in range(200):
            make(m / f"d/small{number}")
            os.setxattr(m / f"d/small{number}", "user.big", bytes([number]) * random.randrange(65537))
    volume.fsck()
    with volume.mount() as m:
        f = m / "d/f"
        for name, value in wanted.items():
            equal(os.getxattr(f, name), value, name + " after a remount")
        check(os.stat(f).st_blocks > count // 8, "blocks of a file with many attributes")
        os.unlink(f)
        for number in range(200):
            equal(set(os.getxattr(m / f"d/small{number}", "user.big")) - {number}, set(), "value")
            os.unlink(m / f"d/small{number}")
        os.rmdir(m / "d")
        wait_for(lambda: os.statvfs(m).f_bfree >= free, "all blocks to come back")
        equal(os.statvfs(m).f_bfree, free, "free blocks when everything is gone")
    volume.fsck()


def case_crash():
    """What was synced is there after a crash, with its attributes; nothing else is half there."""
    need_fuse()
    volume = Volume(size="128M")
    mount = volume.mount()
    for number in range(100):
        path = make(mount / f"f{number}")
        for name in range(number % 7):
            os.setxattr(path, f"user.{name}", bytes([number]) * (name * 3000))
        if number == 50:
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
    mount.kill()
    with volume.mount() as m:
        for number in range(100):
            path = m / f"f{number}"
            if number > 50 and not os.path.exists(path):
                continue
            found = attributes(path)
            for name, value in found.items():
                equal(value, bytes([number]) * (int(name[5:]) * 3000), f"{name} of f{number}")
            if number <= 50:
                equal(len(found), number % 7, f"attributes of f{number}")
    volume.fsck()


def case_many_at_once():
    """Several threads on one file and on their own: none is lost, none gets mixed up."""
    volume = Volume(size="256M", bs=1024)
    failures = []

    def worker(mount, number):
        try:
            own = make(mount / f"own{number}")
            for step in range(120):
                name, value = f"user.{number}-{step % 10}", bytes([number]) * (step * 37 % 3000)
                os.setxattr(mount / "shared", name, value)
                os.setxattr(own, name, value)
                equal(os.getxattr(mount / "shared", name), value, name)
                os.listxattr(mount / "shared")
                if step % 3 == 0:
                    os.removexattr(mount / "shared", name)
                    os.setxattr(mount / "shared", name, value)
        except Exception as error:    # reported by the main thread
            failures.append(f"{number}: {error!r}")

    with volume.mount() as m:
        make(m / "shared")
        threads = [threading.Thread(target=worker, args=(m, number)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        equal(failures, [], "failures of the threads")
        wanted = attributes(m / "shared")
        equal(len(wanted), 60, "attributes of the shared file")
    volume.fsck()
    with volume.mount("ro") as m:
        equal(attributes(m / "shared"), wanted, "after a remount")


main()
