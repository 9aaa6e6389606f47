#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: who holds on to a file that another node has deleted gets ESTALE, whatever has been put in its place, and the new file is left alone
# timeout: 120
"""Two mounts of one volume with lock_local.  On one of them the kernel knows an inode without having it open (an O_PATH descriptor, a directory
that somebody is in, a dentry).  The other node deletes it and puts a new one into the very block: the same st_ino, another
inode.  What is asked through the old one must not reach the new one, and forgetting the old one must not forget the new one."""
import contextlib
import ctypes
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400
CONTENT = b"what is in the new file"


@contextlib.contextmanager
def nodes():
    """Two mounts of a new volume that is full but for a few blocks, which so are used again and again."""
    volume = Volume(journals=2, proto="lock_dlm", table="test:vol", size="64M")
    a, b = [volume.mount("lockproto=lock_local") for _ in range(2)]
    for m in (a, b):
        os.mkdir(m / ("ab"[m is b]))
    with open(b / "fill", "wb") as file:
        size = free(a, b) * volume.bs
        while size >= volume.bs:
            try:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
            except OSError as error:
                equal(error.errno, errno.ENOSPC, "filling the volume")
                size //= 2
        os.ftruncate(file.fileno(), os.fstat(file.fileno()).st_size - 8 * volume.bs)
    for m in (a, b):
        os.listdir(m / "a")
        os.listdir(m / "b")
    yield a, b
    for m in (a, b):
        m.umount()
    volume.fsck()


def free(*mounts):
    return sum(os.statvfs(m).f_bfree for m in mounts)


def known(m):
    """How many inodes the daemon has lookups of, or in use."""
    lines = dict(line.split() for line in m.glockctl("get", "stats").stdout.splitlines())
    return int(lines["inodes"]) + int(lines["inode_remnants"])


def make(m, path, kind):
    if kind == "directory":
        os.mkdir(m / path)
    elif kind == "link":
        os.symlink("target", m / path)
    else:
        write_file(m / path, CONTENT, sync=True)


def remove(m, path):
    (os.rmdir if stat.S_ISDIR(os.lstat(m / path).st_mode) else os.unlink)(m / path)


def reuse(m, number, name, kind):
    """Make something in the block that has this number."""
    wrong = []
    for attempt in range(200):
        make(m, name, kind)
        if os.lstat(m / name).st_ino == number:
            break
        # In the way as long as the right one has not been found.
        wrong.append(f"{name}.{attempt}")
        os.rename(m / name, m / wrong[-1])
        if len(wrong) == 4:
            remove(m, wrong.pop(0))
    else:
        raise AssertionError(f"block {number} was not used again")
    for other in wrong:
        remove(m, other)


def image(m, path):
    """All that could change of the new one."""
    what = os.lstat(m / path)
    data = read_file(m / path) if stat.S_ISREG(what.st_mode) else b""
    names = os.listdir(m / path) if stat.S_ISDIR(what.st_mode) else []
    return (what.st_ino, what.st_mode, what.st_nlink, what.st_uid, what.st_size, what.st_mtime_ns, what.st_ctime_ns, data, names,
            os.listxattr(m / path, follow_symlinks=False))


def link(old, new):
    """Python's own does not follow /proc/self/fd."""
    if libc.linkat(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), AT_SYMLINK_FOLLOW):
        raise OSError(ctypes.get_errno(), "linkat")


libc = ctypes.CDLL(None, use_errno=True)


def stale(what, call, *args, **more):
    try:
        got = call(*args, **more)
    except OSError as error:
        check(error.errno in (errno.ESTALE, errno.ENOENT), f"{what} through the deleted one: {error}")
        # A file that the kernel has marked as bad would not be our answer.
        return error.errno == errno.ESTALE
    raise AssertionError(f"{what} through the deleted one: {got!r}")


def use_file(m, fd):
    """Everything that can be done with a file that one has only a path to; how often the answer was ESTALE."""
    path = f"/proc/self/fd/{fd}"
    calls = [("fstat", os.stat, path), ("open", os.open, path, os.O_RDONLY), ("open for writing", os.open, path, os.O_RDWR),
             ("open with O_DIRECT", os.open, path, os.O_RDWR | os.O_DIRECT), ("open with O_TRUNC", os.open, path, os.O_RDWR | os.O_TRUNC),
             ("chmod", os.chmod, path, 0o600), ("chown", os.chown, path, 7, 7), ("utime", os.utime, path, (1, 1)),
             ("truncate", os.truncate, path, 3), ("setxattr", os.setxattr, path, "user.old", b"1"),
             ("getxattr", os.getxattr, path, "user.new"), ("listxattr", os.listxattr, path)]
    hits = sum(stale(*call) for call in calls)
    return hits + stale("link", link, path, m / "a/linked")


def use_directory(m, fd):
    path = f"/proc/self/fd/{fd}"
    calls = [("fstat", os.stat, path), ("chmod", os.chmod, path, 0o700), ("listing", os.listdir, path), ("utime", os.utime, path, (1, 1)),
             ("mkdir", os.mkdir, path + "/sub"), ("creating", os.open, path + "/new", os.O_CREAT | os.O_WRONLY),
             ("symlink", os.symlink, "x", path + "/symlink"), ("lookup", os.stat, path + "/inside"),
             ("removing", os.unlink, path + "/inside"), ("rename into", os.rename, m / "a/other", path + "/other"),
             ("link into", os.link, m / "a/other", path + "/other"), ("setxattr", os.setxattr, path, "user.old", b"1")]
    return sum(stale(*call) for call in calls)


def replaced(a, b, old, new, look_first):
    """On `a` the old one is known, `b` deletes it and makes a new one in its place."""
    name, other = f"b/{old}", f"b/new {new}"
    begin = free(a, b)
    make(a, name, old)
    write_file(a / "a/other", b"o")
    number = os.lstat(a / name).st_ino
    fd = os.open(a / name, os.O_PATH | os.O_NOFOLLOW)
    equal(os.fstat(fd).st_ino, number, "through O_PATH")
    used = free(a, b)
    remove(b, name)
    wait_for(lambda: free(a, b) > used, "the old one's block to be freed: nobody has it open")
    reuse(b, number, other, new)
    if new == "directory":
        write_file(os.path.join(b / other, "inside"), b"i")
    if look_first:
        os.lstat(a / other)
    before = image(b, other)
    hits = use_directory(a, fd) if old == "directory" else use_file(a, fd) if old == "file" else stale("readlink", os.readlink, "", dir_fd=fd)
    equal(image(b, other), before, f"the new {new} where a {old} was, seen where it was made")
    equal(image(a, other), before, "and where the old one is still known")
    check(hits >= (8 if old != "link" else 1), f"only {hits} times ESTALE")
    # Now the kernel of `a` knows both.  What is done to the new one reaches the new one, the old one stays dead.
    os.chmod(a / other, 0o711) if new != "link" else None
    if new == "file":
        os.link(a / other, a / "a/second name")
        equal(os.lstat(b / other).st_nlink, 2, "links of the new one")
        os.unlink(b / "a/second name")
        # A name that the kernel of `a` remembers would keep the inode.
        check(not os.path.exists(a / "a/second name"), "the second name has gone")
    stale("fstat", os.fstat, fd)
    # Without names it goes, although the old one is not forgotten.
    if new == "directory":
        os.unlink(os.path.join(a / other, "inside"))
    remove(a, other)
    os.unlink(a / "a/other")
    wait_for(lambda: free(a, b) == begin, f"the blocks of the new {new} to come back: {begin}, there are {free(a, b)}")
    stale("fstat", os.fstat, fd)
    os.close(fd)


def case_another_in_its_place():
    need_fuse()
    with nodes() as (a, b):
        settled = known(a)
        for old in ("file", "directory", "link"):
            for new in ("file", "directory", "link"):
                for look_first in (False, True):
                    replaced(a, b, old, new, look_first)
        for old in ("file", "directory", "link"):
            check(not os.path.lexists(a / f"b/{old}"), "the old names have gone")
        # What the kernel has no use for any more it forgets, and then the daemon has nothing left.
        wait_for(lambda: known(a) <= settled, f"what was deleted to be forgotten: {settled} before, {known(a)} now")


def case_many_generations():
    """One block, many inodes one after the other, all of them still known; forgotten in any order."""
    need_fuse()
    with nodes() as (a, b):
        begin, settled = free(a, b), known(a)
        write_file(a / "b/f", CONTENT)
        number = os.stat(a / "b/f").st_ino
        held = []
        for turn in range(12):
            one, other = (a, b) if turn % 2 else (b, a)
            # A node that has it open, too, gets it back.
            held.append(os.open(a / "b/f", os.O_PATH))
            equal(os.fstat(held[-1]).st_ino, number, "the block's number")
            used = free(a, b)
            os.unlink(other / "b/f")
            wait_for(lambda: free(a, b) > used or other is a, "the block to be free")
            for fd in held[:-1]:
                expect_errno(errno.ESTALE, os.fstat, fd)
            if other is a:
                # Its own O_PATH descriptor keeps the inode, which can still be opened, until another node needs it no more.
                equal(os.fstat(held[-1]).st_nlink, 0, "links of what has been deleted here")
                os.close(held.pop())
                wait_for(lambda: free(a, b) > used, "the block to be free")
            reuse(one, number, "b/f", "file")
            if len(held) > 3:
                os.close(held.pop(1))
            equal(read_file(a / "b/f"), CONTENT, "the newest")
            os.chmod(a / "b/f", 0o600 + turn % 8)
            equal(os.stat(b / "b/f").st_mode & 0o777, 0o600 + turn % 8, "its mode")
        for fd in held:
            expect_errno(errno.ESTALE, os.fstat, fd)
        os.unlink(b / "b/f")
        check(not os.path.exists(a / "b/f"), "the last one has gone")
        wait_for(lambda: free(a, b) == begin, "all blocks to come back")
        for fd in held:
            os.close(fd)
        wait_for(lambda: known(a) <= settled, f"all to be forgotten: {settled} before, {known(a)} now")


def case_working_directory():
    """Somebody is in a directory that goes, and another one comes in its place."""
    need_fuse()
    with nodes() as (a, b):
        os.mkdir(a / "b/d")
        number = os.stat(a / "b/d").st_ino
        sitter = subprocess.Popen(["sh", "-c", "cd \"$1\" && echo in && read go && ls . 2>&1; : >new 2>/dev/null && echo made; read end",
                                   "sh", a / "b/d"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        equal(sitter.stdout.readline(), "in\n", "the one in the directory")
        used = free(a, b)
        os.rmdir(b / "b/d")
        wait_for(lambda: free(a, b) > used, "the directory to be freed")
        reuse(b, number, "b/d", "directory")
        write_file(b / "b/d/inside", b"i")
        sitter.stdin.write("go\nend\n")
        out = sitter.communicate(timeout=STEP_SECONDS)[0]
        check("inside" not in out and "made" not in out, f"in a directory that is gone: {out}")
        for m in (a, b):
            equal(os.listdir(m / "b/d"), ["inside"], "the new directory")


if __name__ == "__main__":
    main()
