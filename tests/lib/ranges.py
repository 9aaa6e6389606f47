#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Files with preallocated and punched ranges, journaled data and inode flags.

usage: ranges.py make DIRECTORY SEED    make such files with the kernel's gfs2
       ranges.py show DIRECTORY         a line for each: size, blocks, flags, data ranges, checksum
       ranges.py free DIRECTORY         take back the flags that forbid removal

Stands alone, so that it also runs where only Python is.
"""
import array
import ctypes
import fcntl
import hashlib
import os
import random
import sys

KEEP, PUNCH = 1, 2
GETFLAGS, SETFLAGS = 0x80086601, 0x40086602
SYNC, IMMUTABLE, APPEND, NOATIME, JDATA, TOPDIR = 8, 0x10, 0x20, 0x80, 0x4000, 0x20000
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


def fallocate(fd, mode, offset, length):
    if LIBC.fallocate(fd, mode, offset, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def flags_of(path, flags=None):
    fd = os.open(path, os.O_RDONLY)
    word = array.array("L", [flags or 0])
    fcntl.ioctl(fd, GETFLAGS if flags is None else SETFLAGS, word)
    os.close(fd)
    return word[0] & 0xffffffff


def make_file(path, rnd, top_size):
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    for _ in range(rnd.randrange(2, 9)):
        offset = rnd.randrange(top_size)
        length = rnd.choice([1, 100, 4096, 8192, 100000, 1000000])
        what = rnd.randrange(5)
        if what == 0:
            fallocate(fd, 0, offset, length)
        elif what == 1:
            fallocate(fd, KEEP, offset, length)
        elif what == 2:
            # not behind the end: there the kernel of 6.1 makes the file grow
            end = min(offset + length, os.fstat(fd).st_size)
            if offset < end:
                fallocate(fd, PUNCH | KEEP, offset, end - offset)
        else:
            os.pwrite(fd, rnd.randbytes(length), offset)
    os.close(fd)


def make(top, seed, clear=True):
    """clear: also end the journaling of data, which panics the kernel of 6.1 while they are in its log."""
    rnd = random.Random(seed)
    os.mkdir(top)
    for number in range(24):
        make_file(f"{top}/range{number}", rnd, rnd.choice([200, 10000, 3000000]))
    # a whole tree punched out
    fd = os.open(f"{top}/tree", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, rnd.randbytes(6 << 20), 0)
    fallocate(fd, PUNCH | KEEP, 5000, (6 << 20) - 10000)
    os.close(fd)
    os.mkdir(f"{top}/j")
    flags_of(f"{top}/j", JDATA)
    for number in range(6):
        fd = os.open(f"{top}/j/file{number}", os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, (b"\x01\x16\x19\x70" + rnd.randbytes(508)) * rnd.randrange(400), 0)
        os.ftruncate(fd, os.fstat(fd).st_size * number // 5)
        os.close(fd)
    for name, flag in (("j/file0", 0), ("j/file5", 0), ("range0", JDATA), ("range1", JDATA)):
        if not flag and not clear:
            continue
        flags_of(f"{top}/{name}", flag)
        fd = os.open(f"{top}/{name}", os.O_RDWR)
        os.pwrite(fd, rnd.randbytes(5000), 1000)
        os.close(fd)
    for name, flag in (("immutable", IMMUTABLE), ("append", APPEND), ("sync", SYNC | NOATIME)):
        with open(f"{top}/{name}", "wb") as out:
            out.write(rnd.randbytes(100))
        flags_of(f"{top}/{name}", flag)
    for name, flag in (("topdir", TOPDIR), ("fixed", IMMUTABLE)):
        os.mkdir(f"{top}/{name}")
        flags_of(f"{top}/{name}", flag)


def ranges(fd, size):
    """Where data are."""
    found, pos = [], 0
    while pos < size:
        try:
            data = os.lseek(fd, pos, os.SEEK_DATA)
        except OSError:
            break
        pos = os.lseek(fd, data, os.SEEK_HOLE)
        found.append(f"{data}-{pos}")
    return ",".join(found)


def show(top):
    lines = []
    for where, _, files in os.walk(top):
        lines.append(f"{os.path.relpath(where, top)} {flags_of(where):x}")
        for name in files:
            path = os.path.join(where, name)
            fd = os.open(path, os.O_RDONLY)
            state = os.fstat(fd)
            digest = hashlib.sha256(os.pread(fd, state.st_size, 0)).hexdigest()
            lines.append(f"{os.path.relpath(path, top)} {state.st_size} {state.st_blocks} "
                         f"{flags_of(path):x} {ranges(fd, state.st_size)} {digest}")
            os.close(fd)
    return "\n".join(sorted(lines)) + "\n"


def free(top):
    for name in ("immutable", "append", "fixed"):
        flags_of(f"{top}/{name}", 0)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(sys.argv[2], int(sys.argv[3]), clear=False)
    elif sys.argv[1] == "show":
        sys.stdout.write(show(sys.argv[2]))
    elif sys.argv[1] == "free":
        free(sys.argv[2])
    else:
        sys.exit(__doc__)
