# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls of all kinds, each in many circumstances; one line for what came of each.

  calls.py DIR [SECTION...]

DIR is an empty directory of the file system under test, the caller root.  Nothing is random and nothing depends on when or where
it runs, so that the output of two file systems can be compared: tests/mount/22-calls.py with tmpfs, tests/uml/40-older-kernel.py with the
kernel's gfs2.  A line is "section: circumstances: result", a result an errno's name or what was returned or can be seen afterwards.

Acting as another user: the effective ids of this process (and with them its capabilities) change for the moment.
"""
import contextlib
import ctypes
import errno
import fcntl
import itertools
import mmap
import os
import re
import resource
import shutil
import signal
import socket
import stat
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = 0x400, 0x1000
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
GETFLAGS, SETFLAGS = 0x80086601, 0x40086602
IMMUTABLE, APPEND = 0x10, 0x20
SECTOR = 512
LONG_MAX = (1 << 63) - 1
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
# (uid, gid, other groups)
ROOT, OWNER, MEMBER, OTHER = (0, 0, ()), (1000, 1000, ()), (1001, 1001, (1000,)), (1002, 1002, ())
CLOCK_REALTIME_COARSE = 5
NAMES = {ROOT: "root", OWNER: "owner", MEMBER: "member", OTHER: "other"}
SECTIONS = []


def file_clock():
    """What files' times are read from: up to a tick behind, and more where ticks come late."""
    return time.clock_gettime_ns(CLOCK_REALTIME_COARSE)


def next_tick():
    """What is stamped from now on is later than all that was before."""
    before = time.time_ns()
    while file_clock() <= before:
        time.sleep(0.001)


def section(function):
    SECTIONS.append(function)
    return function


def say(*words):
    print(": ".join(str(word) for word in words))


def name_of(number):
    return "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode.get(number, str(number))


def result(call, *args, **more):
    """What came of a call, as a word."""
    try:
        value = call(*args, **more)
    except OSError as fault:
        return name_of(fault.errno)
    return "ok" if value is None else value


@contextlib.contextmanager
def acting_as(who):
    uid, gid, groups = who
    os.setgroups(list(groups))
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups([])


def by(who, call, *args, **more):
    with acting_as(who):
        return result(call, *args, **more)


def checked(done):
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return done


def renameat2(old, new, flags):
    checked(libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def linkat(old, new, flags):
    checked(libc.linkat(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def fallocate(fd, mode, offset, length):
    checked(libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def raw_write(fd, length, offset):
    return checked(libc.pwrite(fd, b"x" * max(length, 1), ctypes.c_size_t(length), ctypes.c_long(offset)))


def open_close(path, flags, mode=0o644):
    os.close(os.open(path, flags, mode))


def with_fd(path, flags, call, *args):
    fd = os.open(path, flags)
    try:
        return call(fd, *args)
    finally:
        os.close(fd)


def setflags(path, flags):
    with_fd(path, os.O_RDONLY | os.O_NONBLOCK, lambda fd: fcntl.ioctl(fd, SETFLAGS, struct.pack("=Q", flags)))


def write(path, data=b"data", flags=os.O_WRONLY | os.O_CREAT, mode=0o644):
    fd = os.open(path, flags, mode)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)


def bind(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


def make(kind, path):
    """An object by the name of its kind."""
    if kind == "reg":
        write(path)
    elif kind in ("dir", "full"):
        os.mkdir(path)
        if kind == "full":
            write(path + "/in")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "sock":
        bind(path)
    elif kind == "null":
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    elif kind == "lreg":
        write("target.reg")
        os.symlink("target.reg", path)
    elif kind == "ldir":
        os.makedirs("target.dir", exist_ok=True)
        os.symlink("target.dir", path)
    elif kind == "lnone":
        os.symlink("target.none", path)
    elif kind == "lloop":
        os.symlink(path, path)
    else:
        assert kind == "none", kind


def clear():
    """Everything below the working directory goes away."""
    for entry in os.scandir("."):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def look(path):
    """Type, permissions, links, owners and the size of a file."""
    try:
        seen = os.lstat(path)
    except OSError as fault:
        return name_of(fault.errno)
    size = f" {seen.st_size}" if stat.S_ISREG(seen.st_mode) or stat.S_ISLNK(seen.st_mode) else ""
    return f"{seen.st_mode:o} {seen.st_nlink} {seen.st_uid}:{seen.st_gid}{size}"


def tree(top="."):
    """Names, kinds and link counts, sorted."""
    found = []
    for where, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.join(where, name)
            seen = os.lstat(path)
            found.append(f"{path[2:]}={stat.S_IFMT(seen.st_mode) >> 12:x}{seen.st_nlink}")
    return " ".join(sorted(found))


def perm(path):
    return f"{stat.S_IMODE(os.lstat(path).st_mode):o}"


@section
def opening():
    """open(2): kind of object, access mode and flags."""
    access = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}
    more = {"creat": os.O_CREAT, "excl": os.O_EXCL, "trunc": os.O_TRUNC, "dir": os.O_DIRECTORY, "nofollow": os.O_NOFOLLOW}
    for kind in ("none", "reg", "dir", "fifo", "sock", "null", "lreg", "ldir", "lnone", "lloop"):
        for chosen in itertools.chain.from_iterable(itertools.combinations(more, n) for n in range(4)):
            if "excl" in chosen and "creat" not in chosen:
                continue
            for how, flags in access.items():
                if not os.path.lexists("x") or kind in ("none", "reg", "lreg", "lnone"):
                    clear()
                    make(kind, "x")
                for flag in chosen:
                    flags |= more[flag]
                done = result(open_close, "x", flags | os.O_NONBLOCK)
                say("open", f"{kind} {how} {' '.join(chosen)}", f"{done} {tree()} {look('x').rpartition(' ')[2] if kind == 'reg' else ''}")
        clear()
    make("reg", "x")
    make("dir", "d")
    for what, flags in (("path", os.O_PATH), ("tmpfile", os.O_TMPFILE | os.O_RDWR), ("sync", os.O_SYNC | os.O_RDWR), ("bad", 3 | os.O_PATH)):
        for path in ("x", "d", "none", "x/y", "d/", "x/", "none/"):
            say("open", f"{what} {path}", result(open_close, path, flags))
    for path in ("x", "d"):
        for call in (lambda fd: os.read(fd, 4), lambda fd: os.write(fd, b"y"), lambda fd: os.ftruncate(fd, 9), os.fsync, lambda fd: os.fchmod(fd, 0o700),
                     lambda fd: os.pread(fd, 1, 1 << 62), lambda fd: os.lseek(fd, -1, 0), lambda fd: mmap.mmap(fd, 4, prot=mmap.PROT_READ),
                     lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB), lambda fd: fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
                     lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)):
            for how in (os.O_RDONLY, os.O_WRONLY, os.O_PATH):
                done = result(with_fd, path, how, call)
                say("descriptor", f"{path} {how:x} {call.__code__.co_names if hasattr(call, '__code__') else 'fsync'}",
                    "mapped" if isinstance(done, mmap.mmap) else done)


@section
def permissions():
    """Who may do what with a file, by each three bits of its mode."""
    for bits, (who, shift) in itertools.product(range(8), ((OWNER, 6), (MEMBER, 3), (OTHER, 0))):
        mode = 0o777 & ~(7 << shift) | bits << shift
        clear()
        os.chmod(".", 0o755)
        write("f")
        os.setxattr("f", "trusted.x", b"1")
        os.chown("f", 1000, 1000)
        os.chmod("f", mode)
        calls = [("r", open_close, "f", os.O_RDONLY), ("w", open_close, "f", os.O_WRONLY), ("rw", open_close, "f", os.O_RDWR),
                 ("creat", open_close, "f", os.O_CREAT | os.O_WRONLY), ("trunc", os.truncate, "f", 2),
                 ("otrunc", open_close, "f", os.O_RDONLY | os.O_TRUNC), ("now", os.utime, "f"), ("utime", os.utime, "f", (5, 5)),
                 ("trusted", os.getxattr, "f", "trusted.x"), ("setacl", os.setxattr, "f", ACCESS, acl("u:rwx g:rwx o:rwx")),
                 ("list", os.listxattr, "f"), ("x", os.access, "f", os.X_OK)]
        for what, call, *args in calls:
            done = by(who, call, *args, **({"effective_ids": True} if what == "x" else {}))
            say("file", f"{NAMES[who]} {bits} {what}", f"{done} {perm('f')}")
            os.chmod("f", mode)


@section
def directories():
    """The same for directories."""
    for bits, (who, shift) in itertools.product(range(8), ((OWNER, 6), (MEMBER, 3), (OTHER, 0))):
        clear()
        os.chmod(".", 0o777)
        os.mkdir("d")
        for name in ("f", "g", "out", "d2/sub"):
            os.makedirs(os.path.dirname("d/" + name), exist_ok=True)
            write("d/" + name)
        write("mine")
        os.mkdir("d/empty")
        os.chown("mine", *who[:2])
        os.chown("d", 1000, 1000)
        os.chmod("d", 0o777 & ~(7 << shift) | bits << shift)
        for what, call, *args in (("stat", lambda: stat.S_IFMT(os.stat("d/f").st_mode)), ("absent", os.stat, "d/none"), ("list", lambda: len(os.listdir("d"))),
                                  ("open", open_close, "d/f", os.O_RDONLY), ("create", open_close, "d/new", os.O_CREAT | os.O_RDWR),
                                  ("mkdir", os.mkdir, "d/newdir"), ("symlink", os.symlink, "x", "d/newlink"), ("mkfifo", os.mkfifo, "d/newfifo"),
                                  ("mkdir of what is there", os.mkdir, "d/f"), ("link", os.link, "mine", "d/newhard"), ("unlink", os.unlink, "d/g"),
                                  ("rmdir", os.rmdir, "d/empty"), ("rename within", os.rename, "d/f", "d/f2"), ("rename out", os.rename, "d/out", "out"),
                                  ("rename in", os.rename, "mine", "d/in"), ("chdir", lambda: (os.chdir("d"), os.chdir(".."))[1])):
            say("dir", f"{NAMES[who]} {bits} {what}", by(who, call, *args))
        say("dir", f"{NAMES[who]} {bits}", tree())


@section
def sticky():
    """Sticky directories: whose directory, whose file, who comes."""
    for top, file, who in itertools.product((ROOT, OWNER, OTHER), (ROOT, OWNER, OTHER), (OWNER, OTHER, MEMBER)):
        clear()
        os.chmod(".", 0o777)
        os.mkdir("s")
        os.chown("s", *top[:2])
        os.chmod("s", 0o1777)
        for name in ("a", "b", "c", "d", "e", "mine"):
            write("s/" + name)
            os.chown("s/" + name, *(who if name == "mine" else file)[:2])
            os.chmod("s/" + name, 0o666)
        os.mkdir("s/dir")
        os.chown("s/dir", *file[:2])
        for what, call, *args in (("unlink", os.unlink, "s/a"), ("rmdir", os.rmdir, "s/dir"), ("rename", os.rename, "s/b", "s/b2"),
                                  ("replace", os.rename, "s/mine", "s/c"), ("exchange", renameat2, "s/d", "s/e", EXCHANGE),
                                  ("link", os.link, "s/e", "s/e2"), ("write", write, "s/e"), ("creat", open_close, "s/e", os.O_CREAT | os.O_WRONLY)):
            say("sticky", f"{NAMES[top]}'s, {NAMES[file]}'s, by {NAMES[who]}, {what}", by(who, call, *args))


@section
def renaming():
    """rename: kinds, flags, places."""
    for flags, old, new, place in itertools.product((0, NOREPLACE, EXCHANGE, NOREPLACE | EXCHANGE, 8), ("none", "reg", "dir", "full", "lnone", "fifo"),
                                                    ("none", "reg", "same", "dir", "full", "lnone", "fifo"), ("p", "q")):
        clear()
        os.mkdir("p")
        os.mkdir("q")
        make(old, "p/old")
        if new == "same":
            if old in ("none", "dir", "full"):
                continue
            os.link("p/old", place + "/new", follow_symlinks=False)
        else:
            make(new, place + "/new")
        say("rename", f"{flags} {old} {new} {place}", f"{result(renameat2, 'p/old', place + '/new', flags)} {tree()}")
    clear()
    os.makedirs("a/b/c")
    write("f")
    for old, new in (("a", "a/b/c/d"), ("a", "a/b"), ("a/b", "a"), ("a/b/c", "a"), ("a", "a"), ("a/.", "x"), ("a/..", "x"), ("a", "a/."), (".", "x"),
                     ("..", "x"), ("f", "x/"), ("f/", "x"), ("a/", "x"), ("x", "a/"), ("a", "y/"), ("y/", "a"), ("f", "f/x"), ("f/x", "f"), ("a", "f/x"),
                     ("f", ""), ("", "f"), ("f", "n" * 255), ("n" * 255, "n" * 256), ("n" * 255, "f"), ("f", "a/b/c/f"), ("a/b/c/f", "f")):
        for flags in (0, EXCHANGE):
            say("rename", f"{flags} {old[:20]} {new[:20]}", f"{result(renameat2, old, new, flags)} {tree()}")


@section
def linking():
    for old, new, flags in itertools.product(("none", "reg", "dir", "lreg", "lnone", "ldir", "fifo", "sock", "null"), ("none", "reg", "dir", "lnone"),
                                             (0, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH, 8)):
        clear()
        make(old, "old")
        make(new, "new")
        say("link", f"{old} {new} {flags:x}", f"{result(linkat, 'old', 'new', flags)} {tree()}")
    for kind in ("none", "reg", "dir", "full", "lreg", "ldir", "lnone", "lloop", "fifo"):
        for end in ("", "/", "/.", "/..", "/x"):
            for call in (os.unlink, os.rmdir, os.mkdir, os.readlink, os.mkfifo, lambda p: os.symlink("x", p), os.lstat, os.stat, lambda p: os.truncate(p, 0),
                         lambda p: os.link("known", p), lambda p: os.chmod(p, 0o700), lambda p: sorted(os.listdir(p))):
                clear()
                write("known")
                make(kind, "x")
                done = result(call, "x" + end)
                what = call.__code__.co_names[-1] if hasattr(call, "__code__") else call.__name__
                say("path", f"{what} {kind}{end}", f"{'seen' if isinstance(done, os.stat_result) else done} {tree()}")


@section
def names():
    """Lengths, and what names may be of."""
    clear()
    for length in (1, 254, 255, 256, 4095):
        for call in (os.mkdir, os.mkfifo, os.lstat, os.rmdir, lambda p: os.symlink("x", p), os.unlink, lambda p: open_close(p, os.O_CREAT | os.O_RDWR), os.unlink):
            done = result(call, "n" * length)
            say("name", f"{length} {call.__name__}", "seen" if isinstance(done, os.stat_result) else done)
    for name in (b"\xff\xfe", b"\n", b" ", b"\\", b"..x", b"...", b"\x01", "ä".encode(), b"a" * 254 + b"\xff"):
        say("name", name[:5], result(open_close, name, os.O_CREAT | os.O_RDWR), name in os.listdir(b"."), result(os.unlink, name))
    for length in (1, 100, 300, 3000, 4000, 4094, 4095):
        say("symlink", length, result(os.symlink, "t" * length, "l"), result(lambda: len(os.readlink("l"))), look("l"), result(os.unlink, "l"))
    say("symlink", "empty", result(os.symlink, "", "l"))
    deep = "/".join("d" * 200 for _ in range(20))
    say("path", len(deep), result(os.lstat, deep))
    say("path", len(deep) + 200, result(os.lstat, deep + "/" + "d" * 200))


@section
def creating():
    """Mode and group of what is made, by umask and the directory's bits."""
    clear()
    os.chmod(".", 0o777)
    for top, group in itertools.product((0o777, 0o2777, 0o1777, 0o2755), (1000, 2000)):
        name = f"{top:o}.{group}"
        os.mkdir(name)
        os.chown(name, 1000, group)
        os.chmod(name, top)
    for name, who, mode, mask in itertools.product(sorted(os.listdir(".")), (ROOT, OWNER, MEMBER, OTHER), (0o644, 0o2755, 0o6777, 0o1777), (0, 0o077)):
        for what, call in (("open", lambda: open_close(name + "/x", os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode)), ("mkdir", lambda: os.mkdir(name + "/x", mode)),
                           ("fifo", lambda: os.mkfifo(name + "/x", mode)), ("mknod", lambda: os.mknod(name + "/x", stat.S_IFREG | mode))):
            old = os.umask(mask)
            done = by(who, call)
            os.umask(old)
            say("create", f"{name} {NAMES[who]} {what} {mode:o} {mask:o}", f"{done} {look(name + '/x')}")
            if done == "ok":
                (os.rmdir if what == "mkdir" else os.unlink)(name + "/x")
    for who in (ROOT, OTHER):
        for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFIFO, stat.S_IFDIR, stat.S_IFLNK, 0):
            say("mknod", f"{NAMES[who]} {kind:o}", f"{by(who, os.mknod, 'node', kind | 0o600, os.makedev(7, 300))} {look('node')} "
                f"{os.lstat('node').st_rdev if os.path.lexists('node') else ''}", result(os.unlink, "node"))


@section
def modes():
    """chmod and chown, and the rights that they take away."""
    clear()
    os.chmod(".", 0o777)
    for kind in ("reg", "dir"):
        for who, group, mode in itertools.product((ROOT, OWNER, OTHER), (1000, 2000), (0, 0o755, 0o2755, 0o4755, 0o6755, 0o1755, 0o7777)):
            make(kind, "x")
            os.chown("x", 1000, group)
            say("chmod", f"{kind} {NAMES[who]} {group} {mode:o}", f"{by(who, os.chmod, 'x', mode)} {look('x')}")
            clear()
        for who, mode, ids in itertools.product((ROOT, OWNER, MEMBER), (0o755, 0o4755, 0o2755, 0o6755, 0o6745, 0o6644),
                                                ((-1, -1), (1000, -1), (1001, -1), (-1, 1000), (-1, 1001), (-1, 2000), (0, 0))):
            make(kind, "x")
            os.chown("x", 1000, 1000)
            os.chmod("x", mode)
            say("chown", f"{kind} {NAMES[who]} {mode:o} {ids}", f"{by(who, os.chown, 'x', *ids)} {look('x')}")
            clear()
    make("lreg", "l")
    for who in (ROOT, OWNER):
        say("lchown", NAMES[who], by(who, os.lchown, "l", 1000, 1000), look("l"), look("target.reg"))


@section
def writing():
    """What a write of any kind does to setuid and setgid."""
    def mapped(fd):
        with mmap.mmap(fd, 4) as memory:
            memory[0:1] = b"m"
            memory.flush()

    def copy(fd, length=4):
        with open("source", "rb") as source:
            return os.copy_file_range(source.fileno(), fd, length, 0, 0)

    calls = {"write": lambda fd: os.write(fd, b"x"), "pwrite": lambda fd: os.pwrite(fd, b"x", 9), "nothing": lambda fd: os.write(fd, b""),
             "writev": lambda fd: os.writev(fd, [b"a", b"b"]), "ftruncate": lambda fd: os.ftruncate(fd, 2), "grow": lambda fd: os.ftruncate(fd, 100000),
             "same size": lambda fd: os.ftruncate(fd, 4), "copy": copy, "copy nothing": lambda fd: copy(fd, 0), "mmap": mapped,
             "append": lambda fd: (fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND), os.write(fd, b"x"))[1]}
    clear()
    os.chmod(".", 0o777)
    write("source")
    for what, who, mode in itertools.product(calls, (ROOT, OWNER, OTHER), (0o6777, 0o4777, 0o2777, 0o6767)):
        write("f")
        os.chown("f", 1000, 1000)
        os.chmod("f", mode)
        say("write", f"{what} {NAMES[who]} {mode:o}", f"{by(who, with_fd, 'f', os.O_RDWR, calls[what])} {look('f')}")
        os.unlink("f")
    for who, mode in itertools.product((ROOT, OWNER, OTHER), (0o6777, 0o2767)):
        write("f")
        os.chown("f", 1000, 1000)
        os.chmod("f", mode)
        say("write", f"O_TRUNC {NAMES[who]} {mode:o}", f"{by(who, open_close, 'f', os.O_RDWR | os.O_TRUNC)} {look('f')}")
        os.chmod("f", mode)
        say("write", f"truncate {NAMES[who]} {mode:o}", f"{by(who, os.truncate, 'f', 7)} {look('f')}")
        os.unlink("f")


@section
def times():
    """Which of mtime and ctime of a file and its directory a call changes."""
    def close_range(name):
        write(name, b"longer than before")

    calls = {"chmod": lambda d: os.chmod(d + "/f", 0o600), "chmod to the same": lambda d: os.chmod(d + "/f", 0o644), "chown": lambda d: os.chown(d + "/f", 1, 1),
             "chown to the same": lambda d: os.chown(d + "/f", 0, 0), "link": lambda d: os.link(d + "/f", d + "/g"), "unlink": lambda d: os.unlink(d + "/other"),
             "unlink a link": lambda d: os.unlink(d + "/hard"), "rename": lambda d: os.rename(d + "/f", d + "/g"), "replace": lambda d: os.rename(d + "/other", d + "/f"),
             "rename to itself": lambda d: os.rename(d + "/f", d + "/f"), "rename to its link": lambda d: os.rename(d + "/hard", d + "/f"),
             "write": lambda d: close_range(d + "/f"), "write nothing": lambda d: write(d + "/f", b""), "truncate": lambda d: os.truncate(d + "/f", 1),
             "truncate to the same": lambda d: os.truncate(d + "/f", 4), "ftruncate to the same": lambda d: with_fd(d + "/f", os.O_RDWR, os.ftruncate, 4),
             "grow": lambda d: os.truncate(d + "/f", 40000), "O_TRUNC": lambda d: open_close(d + "/f", os.O_WRONLY | os.O_TRUNC),
             "O_TRUNC of nothing": lambda d: open_close(d + "/empty", os.O_WRONLY | os.O_TRUNC), "open": lambda d: open_close(d + "/f", os.O_RDWR | os.O_CREAT),
             "create": lambda d: open_close(d + "/new", os.O_RDWR | os.O_CREAT), "mkdir": lambda d: os.mkdir(d + "/new"), "rmdir": lambda d: os.rmdir(d + "/dir"),
             "symlink": lambda d: os.symlink("x", d + "/new"), "mkfifo": lambda d: os.mkfifo(d + "/new"), "read": lambda d: with_fd(d + "/f", os.O_RDONLY, os.read, 4),
             "list": lambda d: os.listdir(d), "stat": lambda d: os.stat(d + "/f"), "setxattr": lambda d: os.setxattr(d + "/f", "trusted.x", b"1"),
             "setacl": lambda d: os.setxattr(d + "/f", ACCESS, acl("u:rw- u5:r-- g:r-- m:r-- o:r--")), "removexattr": lambda d: os.removexattr(d + "/xattr", "trusted.x"),
             "utime": lambda d: os.utime(d + "/f", (5, 5)), "mtime alone": lambda d: utimens(d + "/f", OMIT, 7), "neither": lambda d: utimens(d + "/f", OMIT, OMIT),
             "atime alone": lambda d: utimens(d + "/f", 7, OMIT), "failing create": lambda d: open_close(d + "/f", os.O_CREAT | os.O_EXCL),
             "failing rmdir": lambda d: os.rmdir(d + "/full"), "exchange": lambda d: renameat2(d + "/f", d + "/other", EXCHANGE),
             "move": lambda d: os.rename(d + "/f", d + "/full/f"), "move a directory": lambda d: os.rename(d + "/dir", d + "/full/dir"), "mmap store": lambda d: store(d + "/f")}

    def store(path):
        fd = os.open(path, os.O_RDWR)
        with mmap.mmap(fd, 4) as memory:
            memory[0:1] = b"m"
            memory.flush()
        os.close(fd)

    clear()
    for name in calls:
        os.mkdir(name)
        for kind, what in (("f", "reg"), ("other", "reg"), ("dir", "dir"), ("full", "full"), ("xattr", "reg"), ("hard", "none"), ("empty", "none")):
            make(what, f"{name}/{kind}")
        os.link(name + "/f", name + "/hard")
        write(name + "/empty", b"")
        os.setxattr(name + "/xattr", "trusted.x", b"1")
    watched = (".", "f", "g", "hard", "other", "dir", "full", "full/in", "full/f", "full/dir", "xattr", "empty", "new")
    next_tick()
    for name, call in calls.items():
        def state():
            return {path: os.lstat(f"{name}/{path}") for path in watched if os.path.lexists(f"{name}/{path}")}
        before = {}
        known = state()
        for seen in known.values():
            before[seen.st_ino] = seen
        done = result(call, name)
        changes = []
        for path, now in state().items():
            old = before.get(now.st_ino)
            if old and path in watched:
                letters = ("m" if now.st_mtime_ns != old.st_mtime_ns else "") + ("c" if now.st_ctime_ns != old.st_ctime_ns else "")
                if letters:
                    changes.append(f"{path}={letters}")
        failed = done if isinstance(done, str) and done.startswith("E") else "done"
        say("times", name, f"{failed} {' '.join(changes)}")
        if name in ("utime", "mtime alone", "atime alone"):
            say("times", name, int(os.stat(name + "/f").st_mtime) if name != "atime alone" else "")
    for value in (-1, 0, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 33, 1 << 34, -(1 << 31), 1 << 40):
        say("times", value, result(os.utime, "utime/other", (value, value)), int(os.stat("utime/other").st_mtime))
    say("times", "nanoseconds", result(os.utime, "utime/other", ns=(123456789, 987654321)), os.stat("utime/other").st_mtime_ns)


OMIT, NOW = (1 << 30) - 2, (1 << 30) - 1


def utimens(path, atime, mtime):
    pair = struct.pack("=qqqq", *((0, atime) if atime in (OMIT, NOW) else (atime, 0)), *((0, mtime) if mtime in (OMIT, NOW) else (mtime, 0)))
    checked(libc.utimensat(AT_FDCWD, os.fsencode(path), pair, 0))


@section
def who_sets_times():
    clear()
    os.chmod(".", 0o777)
    for who, mode, what in itertools.product((ROOT, OWNER, OTHER), (0o644, 0o666, 0o444),
                                             ((NOW, NOW), (OMIT, OMIT), (5, 5), (OMIT, NOW), (NOW, OMIT), (OMIT, 5), (NOW, 5))):
        write("f")
        os.chown("f", 1000, 1000)
        os.chmod("f", mode)
        say("utimens", f"{NAMES[who]} {mode:o} {what}", by(who, utimens, "f", *what))
        os.unlink("f")


TAGS = {"u": 1, "g": 4, "m": 16, "o": 32}


def acl(text):
    """The value for a text like "u:rwx u1000:r-- g:r-x m:rwx o:---"."""
    out = struct.pack("<I", 2)
    for word in text.split():
        who, rights = word.split(":")
        number = int(who[1:]) if who[1:] else 0xffffffff
        out += struct.pack("<HHI", TAGS[who[0]] * 2 if who[1:] else TAGS[who[0]], sum(bit for bit, on in zip((4, 2, 1), rights) if on != "-"), number)
    return out


def shown_acl(path, name):
    try:
        value = os.getxattr(path, name)
    except OSError as fault:
        return name_of(fault.errno)
    words = []
    for tag, rights, number in struct.iter_unpack("<HHI", value[4:]):
        words.append(f"{tag:x}{'' if number == 0xffffffff else '/%d' % number}={rights}")
    return " ".join(words)


ACLS = ["u:rwx g:r-x o:r--", "u:rw- u1000:rwx g:r-- m:rwx o:---", "u:--- u1000:r-- u1001:-w- g:rwx g2000:r-x m:r-- o:rwx", "u:rwx g:rwx g1000:--- m:--- o:---"]


@section
def acls():
    """ACLs and modes move each other; what is made under a default ACL; who may, by an ACL."""
    for kind, text, mode in itertools.product(("reg", "dir"), ACLS, (None, 0, 0o640, 0o777, 0o2751, 0o6070)):
        clear()
        make(kind, "x")
        os.chown("x", 1000, 1000)
        done = result(os.setxattr, "x", ACCESS, acl(text))
        if mode is not None:
            done += " " + str(by(OWNER, os.chmod, "x", mode))
        say("acl", f"{kind} {text} {mode}", f"{done} {perm('x')} {shown_acl('x', ACCESS)}", by(OWNER, os.removexattr, "x", ACCESS), perm("x"))
    for text, mode, mask in itertools.product(ACLS, (0o600, 0o666, 0o777, 0o2750), (0, 0o027)):
        clear()
        os.mkdir("d")
        os.setxattr("d", DEFAULT, acl(text))
        old = os.umask(mask)
        open_close("d/f", os.O_CREAT | os.O_RDWR, mode)
        os.mkdir("d/sub", mode)
        os.mkfifo("d/p", mode)
        os.symlink("x", "d/l")
        os.umask(old)
        for path in ("d/f", "d/sub", "d/p"):
            say("inherited", f"{text} {mode:o} {mask:o} {path}", f"{perm(path)} {shown_acl(path, ACCESS)} / {shown_acl(path, DEFAULT)}")
    for text, who in itertools.product(ACLS, (OWNER, MEMBER, OTHER)):
        clear()
        os.chmod(".", 0o755)
        write("f")
        os.chown("f", 5, 5)
        os.setxattr("f", ACCESS, acl(text))
        say("acl", f"{text} {NAMES[who]}", *(by(who, open_close, "f", flags) for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)),
            by(who, os.setxattr, "f", ACCESS, acl(ACLS[0])), by(who, os.getxattr, "f", ACCESS) == acl(text))
    clear()
    write("f")
    os.mkdir("d")
    os.symlink("f", "l")
    for path, name, value in itertools.product(("f", "d"), (ACCESS, DEFAULT), (b"", b"\2\0\0\0", b"\1\0\0\0", b"\2\0\0", acl("u:rwx"), acl("u:rwx g:rwx"),
                                                                              acl("u:rwx u1:rwx g:rwx o:rwx"), acl("u:rwx g:rwx m:rwx o:rwx"), acl(ACLS[1]) + b"\0")):
        say("bad acl", f"{path} {name[17:]} {value.hex()}", result(os.setxattr, path, name, value), perm(path), shown_acl(path, name), result(os.removexattr, path, name))


@section
def xattrs():
    """Names, sizes, flags and owners."""
    clear()
    os.chmod(".", 0o777)
    for kind in ("reg", "dir", "lnone", "fifo", "null", "sock"):
        make(kind, "x")
        for name in ("trusted.a", "security.a", "security.capability"):
            for flags in (0, os.XATTR_CREATE, os.XATTR_REPLACE, 3):
                say("xattr", f"{kind} {name} {flags}", result(os.setxattr, "x", name, b"value", flags, follow_symlinks=False),
                    result(os.getxattr, "x", name, follow_symlinks=False))
            say("xattr", f"{kind} {name} removed", result(os.removexattr, "x", name, follow_symlinks=False), result(os.removexattr, "x", name, follow_symlinks=False))
        say("xattr", f"{kind} empty value", result(os.setxattr, "x", "trusted.e", b"", follow_symlinks=False), result(os.getxattr, "x", "trusted.e", follow_symlinks=False),
            [name for name in os.listxattr("x", follow_symlinks=False) if name.startswith("trusted")])
        clear()
    write("f")
    for name in ("trusted.", "security.", "trusted", "user", "", "nonsense.a", "system.a", "trusted." + "n" * 247, "trusted." + "n" * 248, "trusted.\xff"):
        say("xattr", name[:20] + str(len(name)), result(os.setxattr, "f", name, b"v"), result(os.getxattr, "f", name), result(os.removexattr, "f", name))
    say("xattr", "too large", result(os.setxattr, "f", "trusted.x", b"x" * 65537))
    for who in (OWNER, OTHER):
        os.chown("f", 1000, 1000)
        for name in ("trusted.a", "security.a", "security.capability", "system.a"):
            say("xattr", f"{NAMES[who]} {name}", by(who, os.setxattr, "f", name, b"v"), by(who, os.getxattr, "f", name), by(who, os.removexattr, "f", name))


@section
def user_xattrs():
    """user.*, which not every tmpfs has."""
    clear()
    os.chmod(".", 0o777)
    for kind, mode, who in itertools.product(("reg", "dir", "fifo", "lnone", "sticky"), (0o644, 0o466), (ROOT, OWNER, OTHER)):
        make("dir" if kind == "sticky" else kind, "x")
        os.lchown("x", 1000, 1000)
        if kind != "lnone":
            os.chmod("x", mode | (0o1111 if kind == "sticky" else 0o111 if kind == "dir" else 0))
        say("user", f"{kind} {mode:o} {NAMES[who]}", by(who, os.setxattr, "x", "user.a", b"v", follow_symlinks=False), by(who, os.getxattr, "x", "user.a", follow_symlinks=False),
            by(who, os.listxattr, "x", follow_symlinks=False), by(who, os.removexattr, "x", "user.a", follow_symlinks=False))
        clear()


@section
def flags():
    """Immutable and append-only, and every call that they forbid."""
    for flag, path in itertools.product((IMMUTABLE, APPEND), ("f", "d")):
        calls = {"open r": lambda: open_close("f", os.O_RDONLY), "open w": lambda: open_close("f", os.O_WRONLY), "open a": lambda: open_close("f", os.O_WRONLY | os.O_APPEND),
                 "open a trunc": lambda: open_close("f", os.O_WRONLY | os.O_APPEND | os.O_TRUNC), "open r trunc": lambda: open_close("f", os.O_RDONLY | os.O_TRUNC),
                 "truncate": lambda: os.truncate("f", 1), "chmod": lambda: os.chmod(path, 0o700), "chown": lambda: os.chown(path, 1, 1), "chown nobody": lambda: os.chown(path, -1, -1),
                 "utime": lambda: os.utime(path, (5, 5)), "now": lambda: os.utime(path), "neither": lambda: utimens(path, OMIT, OMIT), "setxattr": lambda: os.setxattr(path, "trusted.x", b"1"),
                 "removexattr": lambda: os.removexattr(path, "trusted.old"), "setacl": lambda: os.setxattr(path, ACCESS, acl(ACLS[1])), "link": lambda: os.link("f", "hard"),
                 "rename": lambda: os.rename(path, "new"), "replace": lambda: os.rename("g", "f"), "exchange": lambda: renameat2("g", "f", EXCHANGE), "unlink": lambda: os.unlink("f"),
                 "rmdir": lambda: os.rmdir("d"), "create in": lambda: open_close("d/new", os.O_CREAT | os.O_RDWR), "mkdir in": lambda: os.mkdir("d/newdir"),
                 "symlink in": lambda: os.symlink("x", "d/l"), "link in": lambda: os.link("g", "d/hard"), "rename in": lambda: os.rename("g", "d/g"), "unlink in": lambda: os.unlink("d/in"),
                 "rename out": lambda: os.rename("d/in", "out"), "rename within": lambda: os.rename("d/in", "d/in2"), "replace in": lambda: os.rename("g", "d/in"),
                 "exchange in": lambda: renameat2("g", "d/in", EXCHANGE), "list": lambda: os.listdir("d"), "write in": lambda: write("d/in")}
        for what, call in calls.items():
            clear()
            write("f")
            write("g")
            make("full", "d")
            os.setxattr(path, "trusted.old", b"1")
            setflags(path, flag)
            try:
                done = result(call)
                say("flag", f"{flag:x} {path} {what}", f"{done} {tree()}")
            finally:
                for name in ("f", "d", "new", "hard", "g"):
                    if os.path.lexists(name):
                        setflags(name, 0)
    for flag, mode, who in itertools.product((IMMUTABLE, APPEND), (0o4777, 0o2777, 0o777), (ROOT, OWNER, MEMBER, OTHER)):
        for what, call in (("write", lambda fd: os.write(fd, b"more")), ("allocate", lambda fd: fallocate(fd, 1, 0, 100000)), ("chown nobody", lambda fd: os.chown("f", -1, -1))):
            clear()
            write("f")
            os.chown("f", 1000, 1000)
            os.chmod("f", mode)
            with acting_as(who):
                fd = os.open("f", os.O_WRONLY | os.O_APPEND)
            setflags("f", flag)
            try:
                done = by(who, call, fd)
                say("flag", f"{flag:x} {mode:o} {NAMES[who]} {what}", f"{done} {look('f')}")
            finally:
                os.close(fd)
                setflags("f", 0)
    clear()
    os.chmod(".", 0o777)
    write("f")
    os.chown("f", 1000, 1000)
    for who in (OWNER, OTHER):
        for flag in (IMMUTABLE, APPEND, 0x80, 8):
            say("flag", f"{NAMES[who]} sets {flag:x}", by(who, setflags, "f", flag))
    for flag in range(32):
        say("flag", f"file {1 << flag:x}", result(setflags, "f", 1 << flag), result(setflags, "f", 0))


@section
def ranges():
    """fallocate, seeking, copying, offsets at the end of all."""
    clear()
    os.mkdir("d")
    os.mkfifo("p")
    for mode, (offset, length) in itertools.product((0, 1, 2, 3, 8, 9, 0x10, 0x11, 0x20, 0x40, 0x41, 0x80),
                                                    ((0, 0), (0, -1), (-1, 1), (0, 8192), (100, 1), (4096, 4096), (LONG_MAX, 1), (LONG_MAX - 1, 1), (1 << 20, 4096))):
        write("f", b"x" * 10000)
        say("fallocate", f"{mode:x} {offset} {length}", with_fd("f", os.O_RDWR, lambda fd: result(fallocate, fd, mode, offset, length)), os.stat("f").st_size,
            sum(open("f", "rb").read(20000)))
        os.unlink("f")
    write("f", b"x" * 10000)
    for path, how in (("f", os.O_RDONLY), ("d", os.O_RDONLY), ("f", os.O_WRONLY | os.O_APPEND)):
        for mode in (0, 3):
            say("fallocate", f"{path} {how:x} {mode}", result(with_fd, path, how, fallocate, mode, 0, 4096))
    for how, offset in itertools.product((0, 1, 2, 3, 4, 5), (-1, 0, 1, 9999, 10000, 10001, LONG_MAX)):
        say("lseek", f"{how} {offset}", result(with_fd, "f", os.O_RDONLY, os.lseek, offset, how))
    for size in (-1, 0, 5, 1 << 20, 1 << 40, LONG_MAX):
        say("truncate", size, result(os.truncate, "f", size), os.stat("f").st_size if size < 1 << 60 else "")
    for path in ("d", "p", "none", "f/x"):
        say("truncate", path, result(os.truncate, path, 0))
    os.unlink("f")
    write("f", b"x" * 100)
    for offset, length in ((-1, 1), (LONG_MAX, 1), (LONG_MAX, 0), (LONG_MAX - 1, 1), (0, 0), (200, 0), (1 << 62, 0)):
        say("pwrite", f"{offset} {length}", result(with_fd, "f", os.O_RDWR, raw_write, length, offset), os.stat("f").st_size if offset < 1 << 60 else "")
    for offset in (-1, 0, 99, 100, 101, 1 << 62, LONG_MAX):
        say("pread", offset, result(with_fd, "f", os.O_RDONLY, lambda fd: len(os.pread(fd, 5, offset))))
    write("g", b"y" * 100)
    for src, dst, hows, args in (("f", "g", (0, 2), (50, 0, 0)), ("f", "g", (0, 2), (500, 50, 200)), ("f", "g", (0, 2), (50, 100, 0)), ("f", "g", (0, 2), (50, 200, 0)),
                                 ("f", "f", (0, 2), (50, 0, 25)), ("f", "f", (0, 2), (50, 0, 50)), ("f", "g", (1, 2), (5, 0, 0)), ("f", "g", (0, 0), (5, 0, 0)),
                                 ("f", "g", (0, 0x401), (5, 0, 0)), ("d", "g", (0, 2), (5, 0, 0)), ("f", "p", (0, 2), (5, 0, 0)), ("f", "g", (0, 2), (5, -1, 0)),
                                 ("f", "g", (0, 2), (5, 0, LONG_MAX)), ("f", "g", (0, 2), (0, 0, 0))):
        def copy():
            with contextlib.ExitStack() as stack:
                fds = [os.open(path, how) for path, how in zip((src, dst), hows)]
                for fd in fds:
                    stack.callback(os.close, fd)
                return os.copy_file_range(*fds, *args)
        say("copy", f"{src} {dst} {hows} {args}", result(copy), os.stat("g").st_size)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limited(call):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))     # for our own output, too: say nothing meanwhile
        try:
            return result(with_fd, "f", os.O_RDWR, call)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    for what, call in (("across", lambda fd: os.pwrite(fd, b"x" * 10, 995)), ("beyond", lambda fd: os.pwrite(fd, b"x" * 10, 1000)),
                       ("grow", lambda fd: os.ftruncate(fd, 1001)), ("to it", lambda fd: os.ftruncate(fd, 1000)),
                       ("allocate", lambda fd: fallocate(fd, 0, 0, 1001)), ("keep size", lambda fd: fallocate(fd, 1, 0, 5000))):
        say("limit", what, limited(call), os.stat("f").st_size)
    signal.signal(signal.SIGXFSZ, old)


@section
def locks():
    """What the two kinds of locks say without anybody to share with."""
    clear()
    write("f")
    for how, kind, (whence, start, length) in itertools.product((os.O_RDONLY, os.O_WRONLY, os.O_RDWR), (fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK, 7),
                                                                ((0, 0, 0), (0, -1, 1), (2, -4, 2), (0, 10, -5), (0, 4, -5), (0, LONG_MAX, 1), (0, LONG_MAX, 2), (9, 0, 0))):
        for command in (fcntl.F_SETLK, fcntl.F_GETLK, 37, 36):     # the last two: F_OFD_SETLK, F_OFD_GETLK
            request = struct.pack("=hhiqqii", kind, whence, 0, start, length, 0, 0)
            done = result(with_fd, "f", how, fcntl.fcntl, command, request)
            say("lock", f"{how} {kind} {whence} {start} {length} {command}", struct.unpack("=hhiqqii", done)[:5] if isinstance(done, bytes) else done)
    for how, kind in itertools.product((os.O_RDONLY, os.O_WRONLY), (fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN, fcntl.LOCK_SH | fcntl.LOCK_EX)):
        say("flock", f"{how} {kind}", result(with_fd, "f", how, lambda fd: fcntl.flock(fd, kind | fcntl.LOCK_NB)))


@section
def removed():
    """What can be done in, and with, what has no name any more."""
    clear()
    os.mkdir("d")
    write("f")
    top = os.open(".", os.O_RDONLY)
    os.chdir("d")
    d, f = os.open(".", os.O_RDONLY), os.open("../f", os.O_RDWR)
    os.rmdir("../d")
    os.unlink("../f")
    for what, call in (("create", lambda: open_close("x", os.O_CREAT | os.O_RDWR)), ("mkdir", lambda: os.mkdir("x")), ("symlink", lambda: os.symlink("x", "y")),
                       ("fifo", lambda: os.mkfifo("x")), ("list", lambda: os.listdir(d)), ("list .", lambda: os.listdir(".")), ("stat", lambda: look(".").split()[0]), ("..", lambda: stat.S_IFMT(os.stat("..").st_mode)),
                       ("link in", lambda: os.link("../f2", "x")), ("chmod", lambda: os.fchmod(d, 0o700)), ("utime", lambda: os.utime(d)), ("rename in", lambda: os.rename("../f", "x")),
                       ("links", lambda: os.fstat(f).st_nlink), ("write", lambda: os.write(f, b"more than there was")), ("read", lambda: os.pread(f, 4, 0)),
                       ("truncate", lambda: os.ftruncate(f, 100000)), ("size", lambda: os.fstat(f).st_size), ("link again", lambda: linkat(f"/proc/self/fd/{f}", "../again", AT_SYMLINK_FOLLOW)),
                       ("xattr", lambda: os.setxattr(f, "trusted.x", b"1")), ("get", lambda: os.getxattr(f, "trusted.x")), ("chown", lambda: os.fchown(f, 1, 1)),
                       ("fallocate", lambda: fallocate(f, 0, 0, 300000)), ("reopen", lambda: open_close(f"/proc/self/fd/{f}", os.O_RDWR)), ("fsync", lambda: os.fsync(f))):
        say("removed", what, result(call))
    os.fchdir(top)
    for fd in (d, f, top):
        os.close(fd)


def differences(got, want, meant, least):
    """What two outputs do not agree on and is not meant to be so; and those of the meant ones that were not met.

    meant: (regular expression of the part of a line that says the circumstances, what is got or None for anything, reason).
    least: so many lines must be there, or something has gone wrong with both.
    """
    faults, met = [], set()
    ours, theirs = got.splitlines(), want.splitlines()
    if len(ours) != len(theirs) or len(ours) < least:
        return [f"{len(ours)} lines instead of {len(theirs)}; the last one is {ours[-1] if ours else ''}"]
    for one, other in zip(ours, theirs):
        if one == other:
            continue
        for number, (pattern, words, _) in enumerate(meant):
            if re.match(pattern, one) and (words is None or re.search(words, one)):
                met.add(number)
                break
        else:
            faults.append(f"got  {one[:200]}\nwant {other[:200]}")
    faults += [f"not met any more: {meant[number][0]}" for number in range(len(meant)) if number not in met]
    return faults


def main():
    os.umask(0o022)
    os.chdir(sys.argv[1])
    wanted = sys.argv[2:]
    for function in SECTIONS:
        if not wanted or function.__name__ in wanted:
            os.mkdir(function.__name__)
            os.chdir(function.__name__)
            function()
            clear()
            os.chdir("..")
            os.rmdir(function.__name__)


if __name__ == "__main__":
    main()
