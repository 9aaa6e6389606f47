#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: thousands of system calls in as many circumstances (who, on what, with which flags), each as on tmpfs
# timeout: 240
# variants: plain asan
import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from calls import differences    # noqa: E402
from testlib import *    # noqa: E402

libc = ctypes.CDLL(None, use_errno=True)
CALLS = os.path.join(ROOT, "tests", "lib", "calls.py")
# What is different from tmpfs and is meant to be: (circumstances, what we say, why).
MEANT = [
    (r"open: tmpfile d", "EOPNOTSUPP", "gfs2 has no O_TMPFILE"),
    (r"file: .* list: ", r"\['trusted\.x'\]", "gfs2 lists trusted.* for everybody"),
    (r"symlink: [34]...: ", "ENAMETOOLONG", "the target must fit into the dinode"),
    (r"chown: reg member .[^ ]* \(-1, -1\): ", r"ok 10[246]", "FUSE does not tell a chown that sets nothing from what comes before a write; nothing is done"),
    (r"write: .* other [26]767: ", " 102767 ", "setgid without the group's x: FUSE leaves it (FUSE_HANDLE_KILLPRIV_V2)"),
    (r"times: move a directory: ", "full/dir=mc", "gfs2 changes its '..', and so its mtime"),
    (r"flag: file ", None, "each file system has flags of its own"),
    (r"flag: [12]0 [24]777 ", "EPERM", "whose mode cannot change keeps setuid and setgid, and is not written by who would take them; tmpfs takes them"),
    (r"flag: owner sets 8: ", "ok", "the flag S"),
    (r"limit: keep size: ", "ok: 1000", "no file of a size that the limit forbids; ext4 and gfs2 allow it, too"),
]


def calls(directory):
    os.mkdir(directory)
    os.chmod(directory, 0o755)
    done = run([sys.executable, "-B", CALLS, directory], timeout=STEP_SECONDS * 2)
    return done.stdout


def on_tmpfs(what):
    reference = temp("reference")
    os.mkdir(reference)
    run(["mount", "-t", "tmpfs", "none", reference])
    try:
        os.mkdir(f"{reference}/try")
        try:
            os.setxattr(f"{reference}/try", "user.x", b"x")
        except OSError:
            skip("the tmpfs of this kernel (before 6.6) has no user.*")
        return what(f"{reference}/w")
    finally:
        run(["umount", reference])


def case_as_on_tmpfs():
    need_fuse()
    want = on_tmpfs(calls)
    volume = Volume(size="256M", bs=random.choice([1024, 4096]))
    with volume.mount() as mount:
        got = calls(mount / "w")
    volume.fsck()
    faults = differences(got, want, MEANT, 5500)
    check(not faults, "\n".join(faults[:20]))


def linkat(fd, directory):
    """Python's own does not follow /proc/self/fd."""
    if libc.linkat(-100, b"/proc/self/fd/%d" % fd, directory, b"new", 0x400):
        raise OSError(ctypes.get_errno(), "linkat")


def ioctl_flags(fd):
    return struct.unpack("i", fcntl.ioctl(fd, 0x80086601, bytes(4)))[0] & 0x30    # FS_IOC_GETFLAGS: append-only, immutable


def opened(path, flags):
    """What it opens, and what can be done with that."""
    fd = os.open(path, flags, 0o600)
    try:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            os.pwrite(fd, b"data", 5000)
        os.fsync(fd)
        return os.fstat(fd).st_size, os.pread(fd, 10, 0) if flags & os.O_ACCMODE != os.O_WRONLY else b""
    finally:
        os.close(fd)


# What is done with a directory that is open (the kernel sends no OPEN for it again), with one that somebody only names, and with a file.
OF_OPEN_DIRECTORIES = [
    os.fsync, os.fdatasync, lambda fd: sorted(os.listdir(fd)), lambda fd: os.fstat(fd).st_nlink, lambda fd: os.fchmod(fd, 0o711), ioctl_flags,
    lambda fd: os.utime(fd, (1, 2)), lambda fd: os.setxattr(fd, "user.x", b"y"), lambda fd: os.getxattr(fd, "user.x"), os.listxattr,
    lambda fd: os.removexattr(fd, "user.x"), lambda fd: os.fchown(fd, 5, 6), lambda fd: fcntl.flock(fd, fcntl.LOCK_EX), lambda fd: os.fstatvfs(fd).f_namemax,
    lambda fd: os.close(os.open("new", os.O_CREAT | os.O_RDWR, dir_fd=fd)), lambda fd: os.mkdir("new", dir_fd=fd), lambda fd: os.mkfifo("new", dir_fd=fd),
    lambda fd: os.symlink("to", "new", dir_fd=fd), lambda fd: os.unlink("f", dir_fd=fd), lambda fd: os.rmdir("d", dir_fd=fd), lambda fd: os.ftruncate(fd, 5),
    lambda fd: os.rename("f", "new", src_dir_fd=fd, dst_dir_fd=fd), lambda fd: os.link("f", "new", src_dir_fd=fd, dst_dir_fd=fd),
    lambda fd: os.stat("f", dir_fd=fd).st_size, lambda fd: os.readlink("l", dir_fd=fd), lambda fd: os.posix_fallocate(fd, 0, 10),
    lambda fd: opened(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY),
]
OF_FILES = [
    lambda path: opened(path, os.O_RDONLY), lambda path: opened(path, os.O_RDWR), lambda path: opened(path, os.O_WRONLY | os.O_TRUNC),
    lambda path: opened(path, os.O_RDWR | os.O_APPEND), lambda path: opened(path, os.O_WRONLY | os.O_SYNC), lambda path: os.truncate(path, 3),
    lambda path: os.chmod(path, 0o604), lambda path: os.chown(path, 7, 8), lambda path: os.utime(path, (3, 4)), lambda path: os.stat(path).st_size,
    lambda path: os.setxattr(path, "user.x", b"y"), lambda path: os.getxattr(path, "user.x"), os.listxattr, lambda path: os.removexattr(path, "user.x"),
    lambda path: os.mkdir(path + "/x"), os.listdir,
]


def answer(call, *arguments):
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]


TARGETS = len(OF_OPEN_DIRECTORIES) + len(OF_FILES) + 1
OTHERS = 2000


def make_targets(directory):
    os.mkdir(directory)
    os.mkdir(f"{directory}/to")
    for number in range(TARGETS):
        where = f"{directory}/{number}"
        os.mkdir(where)
        os.mkdir(f"{where}/d")
        write_file(f"{where}/f", b"contents")
        os.symlink("target", f"{where}/l")
        for name in ("", "/f"):
            os.setxattr(where + name, "user.x", b"x")


def late_calls(directory, meanwhile):
    """Each call on an inode of its own that was looked up, and opened if it is a directory, before the others were; what it said, and what then is there."""
    with contextlib.ExitStack() as stack:
        def keep(path, flags):
            fd = os.open(path, flags)
            stack.callback(os.close, fd)
            return fd

        directories = [keep(f"{directory}/{number}", os.O_RDONLY) for number in range(len(OF_OPEN_DIRECTORIES))]
        files = [keep(f"{directory}/{number}/f", os.O_PATH) for number in range(len(OF_OPEN_DIRECTORIES), TARGETS)]
        to = keep(f"{directory}/to", os.O_PATH)
        meanwhile()
        said = [answer(call, fd) for call, fd in zip(OF_OPEN_DIRECTORIES, directories)]
        said += [answer(call, f"/proc/self/fd/{fd}") for call, fd in zip(OF_FILES, files)]
        said.append(answer(linkat, files[-1], to))
    for number in range(TARGETS):
        for path in (f"{directory}/{number}", f"{directory}/{number}/f"):
            there = os.path.exists(path) and os.stat(path)
            said.append(there and (there.st_mode, there.st_uid, there.st_gid, stat.S_ISREG(there.st_mode) and there.st_size, os.listxattr(path)))
    return said


def case_on_inodes_that_were_reduced():
    """The kernel may know more inodes than the daemon keeps in memory: of the others this knows but the number until it is asked about them."""
    need_fuse()

    def tmpfs_calls(directory):
        make_targets(directory)
        return late_calls(directory, lambda: None)

    want = on_tmpfs(tmpfs_calls)
    volume = Volume(size="256M", bs=random.choice([1024, 4096]))
    with volume.mount() as mount:
        make_targets(mount / "w")
        for number in range(OTHERS):
            os.mkdir(mount / f"other{number}")
    with volume.mount("cache=4M") as mount:
        def enough():
            # Again each time: the kernel, short of memory, may forget them, too.
            for number in range(OTHERS):
                os.stat(mount / f"other{number}")
            return reduced(mount) > OTHERS // 2

        def meanwhile():
            # Who was looked up first is the first to be reduced.
            wait_for(enough, "inodes to be reduced")

        got = late_calls(mount / "w", meanwhile)
    volume.fsck()
    for number, (ours, theirs) in enumerate(zip(got, want)):
        equal(ours, theirs, f"answer {number}")


def reduced(mount):
    lines = dict(line.split() for line in mount.glockctl("get", "stats").stdout.splitlines())
    return int(lines["inode_remnants"])


main()
