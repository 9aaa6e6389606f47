#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: POSIX ACLs decide who may, follow chmod and are inherited; writing takes setuid, setgid and capabilities away
# timeout: 120
# variants: plain asan
import os
import stat
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from calls import next_tick    # noqa: E402
from testlib import *    # noqa: E402

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
TAGS = {"u": 1, "g": 4, "m": 0x10, "o": 0x20}
# cap_net_raw+ep, as setcap(8) stores it
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def acl(text):
    """The value for a text like "u:rwx u1000:r-- g:r-x m:rwx o:---"."""
    value = struct.pack("<I", 2)
    for word in text.split():
        who, perm = word.split(":")
        tag = TAGS[who[0]] << (1 if who[1:] else 0)
        bits = sum(bit for bit, char in zip((4, 2, 1), perm) if char != "-")
        value += struct.pack("<HHI", tag, bits, int(who[1:]) if who[1:] else 0xffffffff)
    return value


def as_user(mount, call, *args, uid=1000, gid=1000, groups=(), **more):
    """Run a function as another user, from the top of the mount (whose own path may be out of reach);
    its errno, or 0."""
    top = os.open(mount.dir, os.O_RDONLY | os.O_DIRECTORY)
    child = os.fork()
    if not child:
        status = 255
        try:
            os.fchdir(top)
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            os.umask(0o022)
            call(*args, **more)
            status = 0
        except OSError as error:
            status = error.errno
        except Exception:    # told by the traceback and the status
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(top)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def may(mount, path, how, **who):
    flags = {"r": os.O_RDONLY, "w": os.O_WRONLY}[how]
    return as_user(mount, lambda: os.close(os.open(path, flags)), **who) == 0


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def get(path, name):
    try:
        return os.getxattr(path, name)
    except OSError as error:
        equal(error.errno, errno.ENODATA, "errno of a missing ACL")
        return None


def case_who_may():
    """The kernel's own checks, with what it has cached following every change."""
    volume = Volume(size="64M")
    with volume.mount() as m:
        write_file(m / "f", b"data")
        os.chmod(m / "f", 0o640)
        check(not may(m, "f", "r"), "others may not without an ACL")
        os.setxattr(m / "f", ACCESS, acl("u:rw- u1000:r-- g:r-- g2000:rw- m:rw- o:---"))
        equal(mode(m / "f"), 0o660, "the mode shows the mask")
        check(may(m, "f", "r") and not may(m, "f", "w"), "a named user")
        check(not may(m, "f", "r", uid=1001), "another user")
        check(may(m, "f", "w", uid=1001, groups=(2000,)), "a named group")
        check(not may(m, "f", "w", uid=1000, groups=(2000,)), "the named user comes first")
        os.chmod(m / "f", 0o640)
        equal(get(m / "f", ACCESS), acl("u:rw- u1000:r-- g:r-- g2000:rw- m:r-- o:---"), "after chmod")
        check(may(m, "f", "r") and not may(m, "f", "w", uid=1001, groups=(2000,)), "the mask holds")
        os.setxattr(m / "f", ACCESS, acl("u:rw- u1001:rw- g:r-- m:rw- o:---"))
        check(not may(m, "f", "r") and may(m, "f", "w", uid=1001), "another ACL counts at once")
        os.removexattr(m / "f", ACCESS)
        check(not may(m, "f", "w", uid=1001), "no ACL any more")
        equal(mode(m / "f"), 0o660, "removing an ACL leaves the mode")
        os.setxattr(m / "f", ACCESS, acl("u:rw- g:r-- o:r--"))
        equal((mode(m / "f"), get(m / "f", ACCESS)), (0o644, None), "an ACL that is a mode")
        # Directories on the way.
        os.mkdir(m / "d")
        write_file(m / "d/f", b"data")
        os.chmod(m / "d", 0o700)
        check(not may(m, "d/f", "r"), "a closed directory")
        os.setxattr(m / "d", ACCESS, acl("u:rwx u1000:--x g:--- m:--x o:---"))
        check(may(m, "d/f", "r"), "opened for one user")
        check(not may(m, "d/f", "r", uid=1001), "for no other")
        # Who may set.
        equal(as_user(m, os.setxattr, "f", ACCESS, acl("u:rwx g:rwx o:rwx")), errno.EPERM, "not the owner")
        equal(as_user(m, os.setxattr, "f", "user.x", b"x"), errno.EACCES, "user.* of a read-only file")
        equal(as_user(m, os.setxattr, "f", "trusted.x", b"x"), errno.EPERM, "trusted.*")
        os.setxattr(m / "f", "trusted.x", b"x")
        equal(as_user(m, os.getxattr, "f", "trusted.x"), errno.ENODATA, "reading trusted.*")
        os.chown(m / "f", 1000, 1000)
        equal(as_user(m, os.setxattr, "f", "user.x", b"x"), 0, "user.* by the owner")
        equal(as_user(m, os.setxattr, "f", ACCESS, acl("u:rwx u5:r-- g:r-- m:r-- o:---")), 0, "the owner")
        os.chmod(m / "d", 0o1777)
        equal(as_user(m, os.setxattr, "d", "user.x", b"x"), errno.EPERM, "user.* of a sticky directory")
    volume.fsck()
    with volume.mount("ro") as m:
        check(may(m, "f", "r", uid=5, gid=5) and not may(m, "f", "r", uid=6, gid=6),
              "after a remount")


def case_refused():
    volume = Volume(size="64M")
    with volume.mount() as m:
        write_file(m / "f", b"data")
        os.symlink("f", m / "l")
        for bad in ("u:rwx g:r-x", "u:rwx u1:rwx g:r-x o:---", "g:r-x u:rwx o:---"):
            expect_errno(errno.EINVAL, os.setxattr, m / "f", ACCESS, acl(bad))
        expect_errno(errno.EOPNOTSUPP, os.setxattr, m / "f", ACCESS, b"\3\0\0\0")
        expect_errno(errno.EACCES, os.setxattr, m / "f", DEFAULT, acl("u:rwx g:r-x o:---"))
        expect_errno(errno.EOPNOTSUPP, os.setxattr, m / "l", ACCESS, acl("u:rwx g:r-x o:---"),
                     follow_symlinks=False)
        equal(get(m / "f", ACCESS), None, "nothing was stored")
        # As many entries as gfs2 allows with this block size, and one more.
        for count, wanted in ((296, 0), (297, errno.E2BIG)):
            users = " ".join(f"u{1000 + number}:r--" for number in range(count))
            equal(as_user(m, os.setxattr, "f", ACCESS, acl(f"u:rwx {users} g:r-x m:r-x o:---"), uid=0,
                          gid=0), wanted, f"{count + 4} entries")
        equal(len(get(m / "f", ACCESS)), 4 + 8 * 300, "length of the largest ACL")
    volume.fsck()


@for_each_size(512, 4096)
def case_inheritance(bs):
    volume = Volume(size="64M", bs=bs)
    old = os.umask(0o027)
    try:
        with volume.mount() as m:
            write_file(m / "plain", b"")
            equal(mode(m / "plain"), 0o640, "the umask without a default ACL")
            os.mkdir(m / "d", 0o777)
            equal(mode(m / "d"), 0o750, "the umask, directory")
            wanted = acl("u:rwx u1000:rwx g:r-x m:rwx o:---")
            os.setxattr(m / "d", DEFAULT, wanted)
            equal(mode(m / "d"), 0o750, "a default ACL leaves the mode")
            os.close(os.open(m / "d/f", os.O_CREAT | os.O_WRONLY, 0o666))
            equal(mode(m / "d/f"), 0o660, "no umask with a default ACL")
            equal(get(m / "d/f", ACCESS), acl("u:rw- u1000:rwx g:r-x m:rw- o:---"), "a file's ACL")
            check(may(m, "d/f", "r") is False, "the directory is closed")
            os.setxattr(m / "d", ACCESS, acl("u:rwx u1000:r-x g:r-x m:r-x o:---"))
            check(may(m, "d/f", "w"), "the inherited ACL counts at once")
            os.mkfifo(m / "d/fifo", 0o622)
            equal(get(m / "d/fifo", ACCESS), acl("u:rw- u1000:rwx g:r-x m:-w- o:---"), "a fifo's")
            os.symlink("f", m / "d/link")
            equal(os.listxattr(m / "d/link", follow_symlinks=False), [], "a symbolic link has none")
            os.mkdir(m / "d/sub", 0o775)
            equal(get(m / "d/sub", DEFAULT), wanted, "a directory hands it on")
            equal(get(m / "d/sub", ACCESS), wanted, "a directory's own")
            equal(mode(m / "d/sub"), 0o770, "a directory's mode")
            os.removexattr(m / "d", DEFAULT)
            os.close(os.open(m / "d/g", os.O_CREAT | os.O_WRONLY, 0o666))
            equal((mode(m / "d/g"), get(m / "d/g", ACCESS)), (0o640, None), "the umask again")
            os.removexattr(m / "d", DEFAULT)    # no error
        volume.fsck()
    finally:
        os.umask(old)


def case_noacl():
    """Mounted without ACLs they do not count, and are there again later."""
    need_fuse()
    volume = Volume(size="64M")
    wanted = acl("u:rwx u1000:rwx g:--- m:rwx o:---")
    with volume.mount() as m:
        os.mkdir(m / "d")
        write_file(m / "d/f", b"")
        for name in (ACCESS, DEFAULT):
            os.setxattr(m / "d", name, wanted)
    old = os.umask(0o027)
    with volume.mount("noacl") as m:
        check(not may(m, "d/f", "r"), "the named user has no rights")
        expect_errno(errno.EOPNOTSUPP, os.getxattr, m / "d", ACCESS)
        expect_errno(errno.EOPNOTSUPP, os.setxattr, m / "d", ACCESS, wanted)
        expect_errno(errno.EOPNOTSUPP, os.removexattr, m / "d", DEFAULT)
        os.close(os.open(m / "d/g", os.O_CREAT | os.O_WRONLY, 0o666))
        equal(mode(m / "d/g"), 0o640, "the umask counts")
        os.setxattr(m / "d/g", "user.x", b"x")
    os.umask(old)
    volume.fsck()
    with volume.mount("acl") as m:
        equal(get(m / "d", ACCESS), wanted, "the ACL is there")
        equal(os.listxattr(m / "d/g"), ["user.x"], "nothing was inherited")
        check(may(m, "d/f", "r"), "and counts")


def case_setgid():
    """Who is not of the file's group cannot leave setgid standing by setting an ACL."""
    volume = Volume(size="64M")
    with volume.mount() as m:
        for groups, left in (((2000,), 0o2000), ((), 0)):
            write_file(m / "f", b"")
            os.chown(m / "f", 1000, 2000)
            os.chmod(m / "f", 0o2755)
            equal(as_user(m, os.setxattr, "f", ACCESS, acl("u:rwx u5:r-x g:r-x m:r-x o:---"),
                          groups=groups), 0, "setting the ACL")
            equal(mode(m / "f"), 0o750 | left, f"mode with groups {groups}")
            # chmod by somebody who is not of the group
            equal(as_user(m, os.chmod, "f", 0o2755, groups=groups), 0, "chmod")
            equal(mode(m / "f"), 0o755 | left, "mode after chmod")
            os.unlink(m / "f")
        write_file(m / "f", b"")
        os.chmod(m / "f", 0o2755)
        os.setxattr(m / "f", ACCESS, acl("u:rwx u5:r-x g:r-x m:r-x o:---"))
        equal(mode(m / "f"), 0o2750, "root keeps it")
        # Files made in a setgid directory.
        os.mkdir(m / "d")
        os.chown(m / "d", 0, 2000)
        os.chmod(m / "d", 0o2777)
        as_user(m, os.mkdir, "d/sub", 0o755)
        as_user(m, lambda: os.close(os.open("d/f", os.O_CREAT | os.O_WRONLY, 0o2775)))
        equal((os.stat(m / "d/sub").st_gid, mode(m / "d/sub")), (2000, 0o2755), "a directory below")
        equal((os.stat(m / "d/f").st_gid, mode(m / "d/f")), (2000, 0o755), "no setgid for a stranger")
    volume.fsck()


def pwrite(path, flags=0, offset=0):
    fd = os.open(path, os.O_WRONLY | flags)
    page = mmap.mmap(-1, 4096)
    os.pwritev(fd, [page], offset)
    os.close(fd)


def allocate(path):
    fd = os.open(path, os.O_WRONLY)
    os.posix_fallocate(fd, 0, 1 << 20)
    os.close(fd)


def map_and_store(path):
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 4096) as memory:
        memory[0] = 1
    os.close(fd)


# What takes rights away, and from what.
WRITES = {
    "buffered": lambda: pwrite("f"),
    "appended": lambda: pwrite("f", os.O_APPEND),
    "synchronous": lambda: pwrite("f", os.O_SYNC),
    "direct": lambda: pwrite("f", os.O_DIRECT),
    "direct into a hole": lambda: pwrite("f", os.O_DIRECT, 8192),
    "direct past the end": lambda: pwrite("f", os.O_DIRECT, 1 << 20),
    "direct and synchronous": lambda: pwrite("f", os.O_DIRECT | os.O_DSYNC),
    "truncate": lambda: os.truncate("f", 100),
    "extend": lambda: os.truncate("f", 100000),
    "fallocate": lambda: allocate("f"),
    "truncated at open": lambda: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC)),
}


def fresh(m, bits, capability=False):
    write_file(m / "f", b"x" * 4096)
    os.truncate(m / "f", 16384)
    fd = os.open(m / "f", os.O_WRONLY)
    os.fsync(fd)
    os.close(fd)
    os.chmod(m / "f", bits)
    if capability:
        os.setxattr(m / "f", "security.capability", CAPABILITY)


def case_writing_takes_rights():
    volume = Volume(size="64M")
    with volume.mount() as m:
        for name, write in WRITES.items():
            fresh(m, 0o6777)
            equal(as_user(m, write), 0, name)
            equal(mode(m / "f"), 0o777, f"mode after: {name}, by a user")
            fresh(m, 0o6766)
            equal(as_user(m, write), 0, name)
            # setgid without the group's x was mandatory locking; a user outside the group loses it too
            check(mode(m / "f") in (0o2766, 0o766), f"setgid without x after: {name}")
            fresh(m, 0o6777)
            equal(as_user(m, write, uid=0, gid=0), 0, name)
            equal(mode(m / "f"), 0o6777, f"mode after: {name}, by root")
            for uid in (0, 1000):
                fresh(m, 0o777, capability=True)
                equal(as_user(m, write, uid=uid, gid=uid), 0, name)
                equal(get(m / "f", "security.capability"), None, f"capability after: {name}, by {uid}")
            # nothing to take, attributes of other names stay
            fresh(m, 0o777)
            os.setxattr(m / "f", "security.other", b"stays")
            equal(as_user(m, write), 0, name)
            equal(os.getxattr(m / "f", "security.other"), b"stays", "another attribute")
            os.unlink(m / "f")
        fresh(m, 0o6777, capability=True)
        os.chown(m / "f", 1000, 1000)
        equal((mode(m / "f"), get(m / "f", "security.capability")), (0o777, None), "after chown by root")
        # Nothing to set, and yet it is a chown; ctime goes on.
        for who in ("root", "the owner"):
            fresh(m, 0o6777)
            os.utime(m / "f", ns=(10**18, 10**18))
            before = os.stat(m / "f")
            next_tick()
            if who == "root":
                os.chown(m / "f", -1, -1)
            else:
                os.chown(m / "f", 1000, 1000)
                os.chmod(m / "f", 0o6777)
                equal(as_user(m, os.chown, "f", -1, -1), 0, "chown(-1, -1) by the owner")
            after = os.stat(m / "f")
            equal(mode(m / "f"), 0o777, f"after chown(-1, -1) by {who}")
            equal(after.st_mtime_ns, before.st_mtime_ns, f"mtime after chown(-1, -1) by {who}")
            check(after.st_ctime_ns > before.st_ctime_ns, f"ctime after chown(-1, -1) by {who}")
        # Nobody else may do that; who may write still can, and takes them.
        fresh(m, 0o6777)
        check(as_user(m, os.chown, "f", -1, -1, uid=1001) in (0, errno.EPERM), "chown(-1, -1) by another user")
        equal(mode(m / "f"), 0o6777, "after chown(-1, -1) by another user")
        equal(as_user(m, pwrite, "f", uid=1001), 0, "a write by another user")
        equal(mode(m / "f"), 0o777, "after a write by another user")
        os.mkdir(m / "d")
        os.chmod(m / "d", 0o6777)
        os.chown(m / "d", -1, -1)
        equal(mode(m / "d"), 0o6777, "a directory after chown(-1, -1)")
        os.rmdir(m / "d")
        fresh(m, 0o6777)
        equal(as_user(m, map_and_store, "f"), 0, "mapped")
        equal(mode(m / "f"), 0o6777, "a store to a mapping is no write")
        os.chown(m / "f", 0, 0)
        fresh(m, 0o6777)
    volume.fsck()
    with volume.mount("ro") as m:
        equal(mode(m / "f"), 0o6777, "after a remount")


def case_execute_after_write():
    """What the kernel remembers of the mode must not make a program setuid that is so no more."""
    need_fuse()
    volume = Volume(size="64M")

    def effective():
        status = os.spawnv(os.P_WAIT, "./prog", ["sh", "-p", "-c", "test $(/usr/bin/id -u) = 0"])
        os._exit(status)

    with volume.mount() as m:
        for name, flags in (("buffered", 0), ("direct", os.O_DIRECT)):
            shutil.copy("/bin/sh", m / "prog")
            with open("/bin/sh", "rb") as program:
                first = program.read(4096)

            def rewrite():
                fd = os.open("prog", os.O_WRONLY | flags)
                page = mmap.mmap(-1, 4096)
                page[:] = first
                os.pwritev(fd, [page], 0)
                os._exit(0)

            os.chmod(m / "prog", 0o4777)
            equal(as_user(m, effective, uid=1001), 0, "runs as root")
            equal(as_user(m, rewrite), 0, "rewrite")
            check(as_user(m, effective, uid=1001) != 0, f"still runs as root, {name}")
            os.unlink(m / "prog")


main()
