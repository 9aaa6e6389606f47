#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: names, links, renames and removals behave as POSIX says, errors included
# timeout: 180
# variants: plain asan
import ctypes
import os
import stat
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402




def on_fresh(function):
    """Run a case on a fresh volume; clean afterwards, also after a remount that must show the same."""
    def wrapped():
        volume = Volume(size="128M", bs=random.choice([512, 1024, 2048, 4096]))
        log("block size", volume.bs)
        with volume.mount() as mount:
            function(mount)
            listing = run(["find", ".", "-printf", "%p %y %s %n %m %U %l\n"], cwd=mount).stdout
        volume.fsck()
        with volume.mount("ro") as mount:
            again = run(["find", ".", "-printf", "%p %y %s %n %m %U %l\n"], cwd=mount).stdout
            equal(sorted(again.splitlines()), sorted(listing.splitlines()), "tree after the remount")
    return wrapped


def nlink(path):
    return os.lstat(path).st_nlink


@on_fresh
def case_create_and_errors(m):
    fd = os.open(m / "f", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640)
    equal(os.fstat(fd).st_mode & 0o7777, 0o640, "mode")
    os.close(fd)
    expect_errno(errno.EEXIST, os.open, m / "f", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    expect_errno(errno.EEXIST, os.mkdir, m / "f")
    expect_errno(errno.EEXIST, os.symlink, "x", m / "f")
    expect_errno(errno.EEXIST, os.mkfifo, m / "f")
    expect_errno(errno.ENOENT, os.open, m / "none", os.O_RDONLY)
    expect_errno(errno.ENOENT, os.open, m / "none/f", os.O_CREAT | os.O_RDWR)
    expect_errno(errno.ENOTDIR, os.open, m / "f/g", os.O_CREAT | os.O_RDWR)
    expect_errno(errno.ENOTDIR, os.listdir, m / "f")
    expect_errno(errno.ENOENT, os.unlink, m / "none")
    expect_errno(errno.ENOENT, os.rmdir, m / "none")
    expect_errno(errno.ENOTDIR, os.rmdir, m / "f")
    os.mkdir(m / "d")
    expect_errno(errno.EISDIR, os.unlink, m / "d")
    expect_errno(errno.EISDIR, os.open, m / "d", os.O_RDWR)
    expect_errno(errno.EEXIST, os.mkdir, m / "d")


@on_fresh
def case_long_names(m):
    for name in ("n" * 255, "\u00fc" * 127, "x"):
        write_file(m / name, b"1")
        check(name in os.listdir(m), "a name of %d bytes is listed" % len(name.encode()))
        equal(read_file(m / name), b"1", "content behind the name")
    expect_errno(errno.ENAMETOOLONG, os.open, m / ("n" * 256), os.O_CREAT | os.O_RDWR)
    expect_errno(errno.ENAMETOOLONG, os.mkdir, m / ("n" * 256))
    expect_errno(errno.ENAMETOOLONG, os.rename, m / "x", m / ("n" * 256))
    os.symlink("t" * 250, m / "link")
    equal(os.readlink(m / "link"), "t" * 250, "symlink target")
    # Deep enough that the path alone is longer than one page.
    where = os.open(m.dir, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=where)
        deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=where)
        os.close(where)
        where = deeper
    os.close(where)


@on_fresh
def case_link_counts(m):
    root_links = nlink(m.dir)
    os.mkdir(m / "d")
    equal(nlink(m.dir), root_links + 1, "links of the root with one directory more")
    equal(nlink(m / "d"), 2, "links of a fresh directory")
    for number in range(10):
        os.mkdir(m / f"d/{number}")
    equal(nlink(m / "d"), 12, "links of a directory with ten directories")
    write_file(m / "f", b"data")
    for number in range(100):
        os.link(m / "f", m / f"d/link{number}")
    equal(nlink(m / "f"), 101, "links of a file")
    os.unlink(m / "f")
    equal(nlink(m / "d/link0"), 100, "links after an unlink")
    equal(read_file(m / "d/link99"), b"data", "content through another link")
    expect_errno(errno.EPERM, os.link, m / "d", m / "dlink")
    expect_errno(errno.EEXIST, os.link, m / "d/link0", m / "d/link1")
    for number in range(10):
        os.rmdir(m / f"d/{number}")
    equal(nlink(m / "d"), 2, "links after removing the directories")
    expect_errno(errno.ENOTEMPTY, os.rmdir, m / "d")


@on_fresh
def case_unlink_open(m):
    """A file that is gone from its directory lives while it is open, and then its blocks return."""
    with open(m / "settle", "wb") as file:
        os.fsync(file.fileno())
    free = os.statvfs(m).f_bfree
    fd = os.open(m / "f", os.O_CREAT | os.O_RDWR)
    data = pattern(3 << 20, 1)
    os.write(fd, data)
    os.unlink(m / "f")
    expect_errno(errno.ENOENT, os.stat, m / "f")
    equal(os.fstat(fd).st_nlink, 0, "links of an unlinked file")
    equal(os.pread(fd, len(data), 0), data, "content of an unlinked file")
    os.pwrite(fd, b"more", 5 << 20)
    os.ftruncate(fd, 6 << 20)
    os.fsync(fd)
    equal(os.pread(fd, 4, 5 << 20), b"more", "written after the unlink")
    write_file(m / "f", b"another")
    equal(os.pread(fd, 7, 0), data[:7], "the old file under a reused name")
    os.close(fd)
    os.unlink(m / "f")
    wait_for(lambda: os.statvfs(m).f_bfree >= free, "the blocks of the unlinked file to be free")
    # A directory that somebody still looks at.
    os.mkdir(m / "d")
    fd = os.open(m / "d", os.O_RDONLY)
    os.rmdir(m / "d")
    check(os.listdir(fd) in ([], [".", ".."]), "a removed directory is empty")
    expect_errno(errno.ENOENT, os.open, "x", os.O_CREAT | os.O_RDWR, dir_fd=fd)
    os.close(fd)
    # Two openers, and the last one counts.
    write_file(m / "g", b"g" * 10000)
    first, second = os.open(m / "g", os.O_RDONLY), os.open(m / "g", os.O_RDWR)
    os.unlink(m / "g")
    os.close(first)
    equal(os.pread(second, 5, 9990), b"ggggg", "after the first of two closed")
    os.close(second)


@on_fresh
def case_rename(m):
    write_file(m / "a", b"A")
    write_file(m / "b", b"B")
    inode = os.stat(m / "a").st_ino
    os.rename(m / "a", m / "b")
    equal(read_file(m / "b"), b"A", "content after rename over a file")
    equal(os.stat(m / "b").st_ino, inode, "inode after a rename")
    expect_errno(errno.ENOENT, os.stat, m / "a")
    expect_errno(errno.ENOENT, os.rename, m / "a", m / "c")
    # Two names of one file: nothing happens, both stay.
    os.link(m / "b", m / "b2")
    os.rename(m / "b", m / "b2")
    equal(nlink(m / "b"), 2, "links after a rename between two names of one file")
    os.mkdir(m / "d1")
    os.mkdir(m / "d2")
    expect_errno(errno.EISDIR, os.rename, m / "b", m / "d1")
    expect_errno(errno.ENOTDIR, os.rename, m / "d1", m / "b")
    # Directories move, their parents' links follow, and so does "..".
    os.mkdir(m / "d1/sub")
    write_file(m / "d1/sub/file", b"F")
    os.rename(m / "d1/sub", m / "d2/moved")
    equal((nlink(m / "d1"), nlink(m / "d2")), (2, 3), "links of both parents")
    equal(os.stat(m / "d2/moved/..").st_ino, os.stat(m / "d2").st_ino, "the moved directory's ..")
    equal(read_file(m / "d2/moved/file"), b"F", "file in the moved directory")
    os.mkdir(m / "d1/empty")
    os.rename(m / "d2/moved", m / "d1/empty")
    equal((nlink(m / "d1"), nlink(m / "d2")), (3, 2), "links after a rename over an empty directory")
    expect_errno(errno.ENOTEMPTY, os.rename, m / "d2", m / "d1")
    os.mkdir(m / "d2/x")
    expect_errno(errno.ENOTEMPTY, os.rename, m / "d1", m / "d2")
    expect_errno(errno.EINVAL, os.rename, m / "d1", m / "d1/empty/inside")
    expect_errno(errno.ENOTEMPTY, os.rmdir, m / "d1")
    # Over a file that is open.
    fd = os.open(m / "b", os.O_RDONLY)
    os.unlink(m / "b2")
    write_file(m / "new", b"new")
    os.rename(m / "new", m / "b")
    equal(os.pread(fd, 1, 0), b"A", "a file that was replaced while open")
    os.close(fd)


@on_fresh
def case_rename_in_big_directories(m):
    """Renames whose source and target lie in different leaves, and that make the leaf grow."""
    for name in ("left", "right"):
        os.mkdir(m / name)
        for number in range(600):
            write_file(m / f"{name}/{number}", f"{name}{number}".encode())
    for number in range(600):
        os.rename(m / f"left/{number}", m / f"left/{'renamed' * 20}{number}")
        os.rename(m / f"right/{number}", m / f"left/from-right-{number}")
    equal(os.listdir(m / "right"), [], "the emptied directory")
    equal(len(os.listdir(m / "left")), 1200, "number of names in the other one")
    for number in range(600):
        equal(read_file(m / f"left/from-right-{number}"), f"right{number}".encode(), "content")
    os.rmdir(m / "right")


@on_fresh
def case_attributes(m):
    write_file(m / "f", b"0123456789")
    os.chmod(m / "f", 0o4751)
    os.chown(m / "f", 4294967294, 12345)
    os.utime(m / "f", ns=(-5_000_000_001, 1_700_000_000_123_456_789))
    state = os.stat(m / "f")
    equal((state.st_uid, state.st_gid), (4294967294, 12345), "owner")
    equal(state.st_mtime_ns, 1_700_000_000_123_456_789, "mtime")
    equal(state.st_atime_ns, -5_000_000_001, "atime")
    os.chmod(m / "f", 0o4751)
    os.truncate(m / "f", 5)
    equal(os.stat(m / "f").st_size, 5, "size")
    before = os.stat(m / "f")
    wait_for(lambda: (os.chmod(m / "f", 0o600), os.stat(m / "f").st_ctime_ns)[1]
             > before.st_ctime_ns, "ctime to move with a chmod")
    equal(os.stat(m / "f").st_mtime_ns, before.st_mtime_ns, "mtime after a chmod")
    # A set-group-id directory hands its group down.
    os.mkdir(m / "sgid")
    os.chown(m / "sgid", 0, 777)
    os.chmod(m / "sgid", 0o2775)
    write_file(m / "sgid/f", b"")
    os.mkdir(m / "sgid/d")
    equal(os.stat(m / "sgid/f").st_gid, 777, "group of a file in a set-group-id directory")
    equal(os.stat(m / "sgid/d").st_mode & 0o2000, 0o2000, "the bit is inherited by directories")
    before = os.stat(m / "sgid").st_mtime_ns
    wait_for(lambda: (write_file(m / "sgid/x", b""), os.unlink(m / "sgid/x"),
                      os.stat(m / "sgid").st_mtime_ns)[2] > before, "a directory's mtime to move")


@on_fresh
def case_permissions(m):
    """Another user is kept out as the modes say."""
    os.chmod(m.dir, 0o755)
    write_file(m / "secret", b"s")
    os.chmod(m / "secret", 0o600)
    write_file(m / "open", b"o")
    os.chmod(m / "open", 0o644)
    os.mkdir(m / "sticky")
    os.chmod(m / "sticky", 0o1777)
    write_file(m / "sticky/root", b"r")
    script = f"""
import os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
def no(call, *args):
    try:
        call(*args)
    except PermissionError:
        return
    sys.exit(f"{{call.__name__}}{{args}} was allowed")
os.chdir({m.dir!r})
assert open("open").read() == "o"
no(open, "secret"); no(open, "open", "w"); no(open, "new", "w"); no(os.unlink, "open")
no(os.mkdir, "d"); no(os.chmod, "open", 0o777); no(os.chown, "open", 65534, -1)
no(os.unlink, "sticky/root"); no(os.rename, "sticky/root", "sticky/x")
open("sticky/mine", "w").close(); os.unlink("sticky/mine")
"""
    os.chmod(workdir(), 0o711)
    run([sys.executable, "-c", script])


@on_fresh
def case_special_files(m):
    for name, kind, device in (("fifo", stat.S_IFIFO, 0), ("null", stat.S_IFCHR, os.makedev(1, 3)),
                               ("block", stat.S_IFBLK, os.makedev(259, 70000)),
                               ("socket", stat.S_IFSOCK, 0)):
        os.mknod(m / name, kind | 0o644, device)
        state = os.lstat(m / name)
        equal((stat.S_IFMT(state.st_mode), state.st_rdev), (kind, device), name)
    expect_errno(errno.ENOENT, os.symlink, "", m / "nothing")
    os.symlink("null/../../x", m / "dangling")
    expect_errno(errno.ENOTDIR, os.stat, m / "dangling")
    os.symlink("loop", m / "loop")
    expect_errno(errno.ELOOP, os.stat, m / "loop")


class Handle(ctypes.Structure):
    """struct file_handle with room for FUSE's: node id (high, low), generation, which is the formal number."""
    _fields_ = [("handle_bytes", ctypes.c_uint), ("handle_type", ctypes.c_int), ("words", ctypes.c_uint32 * 32)]

    @classmethod
    def of(cls, path):
        handle, mount_id = cls(handle_bytes=128), ctypes.c_int()
        if libc.name_to_handle_at(AT_FDCWD, os.fsencode(str(path)), ctypes.byref(handle), ctypes.byref(mount_id), 0):
            raise OSError(ctypes.get_errno(), "name_to_handle_at")
        return handle

    def open(self, mount, flags=os.O_RDONLY):
        top = os.open(mount.dir, os.O_RDONLY)
        fd = libc.open_by_handle_at(top, ctypes.byref(self), flags)
        error = ctypes.get_errno()
        os.close(top)
        if fd < 0:
            raise OSError(error, "open_by_handle_at")
        return fd


libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100


def case_file_handles():
    """A handle leads to its file also when nobody has it in memory any more, and to no other."""
    need_fuse()
    volume = Volume(size="128M")
    with volume.mount() as m:
        os.makedirs(m / "d/e")
        for name in ("f", "d/g", "gone", "d/replaced"):
            write_file(m / name, name.encode())
        handles = {name: Handle.of(m / name) for name in ("f", "d/g", "gone", "d/replaced", "d", "d/e", ".")}
        os.unlink(m / "gone")
        os.unlink(m / "d/replaced")
    for again in range(2):
        with volume.mount() as m:
            for name in ("f", "d/g"):
                fd = handles[name].open(m)
                equal(os.read(fd, 100), name.encode(), f"content of {name} by its handle")
                equal(os.fstat(fd).st_ino, os.stat(m / name).st_ino, f"inode of {name}")
                os.close(fd)
            for name in ("d/e", "d", "."):
                fd = handles[name].open(m, os.O_RDONLY | os.O_DIRECTORY)
                equal(sorted(os.listdir(fd)), sorted(os.listdir(m / name)), f"entries of {name} by its handle")
                os.close(fd)
            for name in ("gone", "d/replaced"):
                expect_errno(errno.ESTALE, handles[name].open, m)
            # Others may have the place of one that is gone: what was opened then must not be theirs.
            for number in range(40):
                write_file(m / f"new{again}.{number}", b"new")
            # Blocks that are no inodes, inodes that are not to be seen, and what is not on the volume.
            system = [(int(address), int(formal)) for formal, address, flags in
                      re.findall(r"I: n:(\d+)/(\d+) t:\d+ f:\S+ d:(\S+)", m.glockctl("dump").stdout) if int(flags, 16) & 0x200]
            check(len(system) > 3, "the file system's own inodes")
            wrong = Handle.of(m / "f")
            for address, formal in system + [(address, 1) for address in (0, 2, 16, 17, 18, 30000, 32767, 1 << 20, 1 << 45,
                                                                          *range(2050, 2150))]:
                wrong.words[1], wrong.words[2] = address & 0xffffffff, formal
                # The node id has the low bits of the formal number above those of the block.
                for high in (formal << 16 & 0xffffffff, 0, 0xfffe << 16):
                    wrong.words[0] = address >> 32 | high
                    expect_errno(errno.ESTALE, wrong.open, m)
            write_file(m / "still", b"works")
    volume.fsck()


main()
