#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: sparse files from bytes to far beyond a gigabyte: metadata trees of every height, truncated and given back
# timeout: 180
# variants: plain asan
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402


OFFSETS = [0, 100, 4095, 65537, (1 << 20) + 1, (1 << 24) - 3, (1 << 31) - 2, (1 << 33) + 5,
           (1 << 38) + 7, (1 << 43) - 100]
if TARGET == "ext4":
    OFFSETS.pop()   # beyond what it can do with small blocks


def piece(offset):
    return pattern(100, offset)


def compare(mount, upto, when):
    fd = os.open(mount / "sparse", os.O_RDONLY)
    for offset in (o for o in OFFSETS if o + 100 <= upto):
        before = os.pread(fd, min(offset, 4096), max(0, offset - 4096))
        near = any(o < offset < o + 4196 for o in OFFSETS)
        check(near or not before.strip(b"\0"), f"{when}: not zero in the hole before {offset}")
        equal(os.pread(fd, 100, offset), piece(offset), f"{when}: at {offset}")
    size = os.fstat(fd).st_size
    equal(size, upto, f"{when}: size")
    equal(os.pread(fd, 100, size), b"", f"{when}: past the end")
    os.close(fd)


def heights(bs):
    volume = Volume(size="128M", bs=bs, junk=True)
    mount = volume.mount()
    write_file(mount / "settle", b"", sync=True)
    free = os.statvfs(mount).f_bfree
    fd = os.open(mount / "sparse", os.O_RDWR | os.O_CREAT)
    for offset in OFFSETS:
        equal(os.pwrite(fd, piece(offset), offset), 100, "write")
    os.fsync(fd)
    os.close(fd)
    top = OFFSETS[-1] + 100
    compare(mount, top, "before a remount")
    blocks = os.stat(mount / "sparse").st_blocks * 512
    check(blocks < 4 << 20, f"a sparse file occupies {blocks} bytes")
    mount.umount()
    volume.fsck()

    mount = volume.mount()
    compare(mount, top, "after a remount")
    # Cut it down step by step; what is cut and grown again must be zeros.
    for offset in reversed(OFFSETS[1:]):
        os.truncate(mount / "sparse", offset + 50)
        os.truncate(mount / "sparse", offset + 4096)
        fd = os.open(mount / "sparse", os.O_RDONLY)
        equal(os.pread(fd, 5000, offset), piece(offset)[:50] + bytes(4046), f"cut at {offset} + 50")
        os.close(fd)
        os.truncate(mount / "sparse", offset)
        compare(mount, offset, f"cut to {offset}")
    mount.umount()
    volume.fsck()
    mount = volume.mount()
    os.unlink(mount / "sparse")
    wait_for(lambda: os.statvfs(mount).f_bfree >= free, "all blocks to be free again")
    mount.umount()
    volume.fsck()


def case_bs512():
    heights(512)


def case_bs1024():
    heights(1024)


def case_bs2048():
    heights(2048)


def case_bs4096():
    heights(4096)


def case_large():
    """A gigabyte and more of file, a part of it written, in a small volume that then fills up."""
    volume = Volume(size="128M", bs=4096)
    with volume.mount() as mount:
        fd = os.open(mount / "large", os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 3 << 30)
        data = pattern(1 << 20, 3)
        for number in range(0, 60, 3):
            equal(os.pwrite(fd, data, number * (50 << 20)), len(data), "write")
        for number in range(0, 60, 3):
            equal(os.pread(fd, len(data), number * (50 << 20)), data, f"piece {number}")
        os.close(fd)
    volume.fsck()


def case_full():
    """A full volume says ENOSPC, keeps what is there and works again once there is room."""
    volume = Volume(size="64M", bs=4096)
    with volume.mount() as mount:
        write_file(mount / "kept", pattern(100000, 1), sync=True)
        free = os.statvfs(mount).f_bfree
        fd = os.open(mount / "fill", os.O_WRONLY | os.O_CREAT)
        data = pattern(1 << 20, 2)
        written = 0
        try:
            while True:
                written += os.write(fd, data)
                check(written < 64 << 20, "more was written than there is room")
        except OSError as error:
            equal(error.errno, errno.ENOSPC, "errno of a write to a full volume")
        check(written > free * 4096 * 8 // 10, f"only {written} bytes fit where {free} blocks were free")
        try:
            os.fsync(fd)
        except OSError as error:
            equal(error.errno, errno.ENOSPC, "errno of fsync")
        os.close(fd)
        try:
            for number in range(100000):
                os.mkdir(mount / f"dir{number}")
        except OSError as error:
            equal(error.errno, errno.ENOSPC, "errno of mkdir on a full volume")
        equal(read_file(mount / "kept"), pattern(100000, 1), "what was there")
        os.unlink(mount / "fill")

        def fits():
            try:
                write_file(mount / "after", data, sync=True)
                return True
            except OSError as error:
                equal(error.errno, errno.ENOSPC, "errno")
                return False
        wait_for(fits, "room after an unlink")
    volume.fsck()


main()
