#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: who finds no space looks for unlinked inodes that a crash has left, and gets theirs; and waits for what is being freed
# timeout: 120
import ctypes
import os
import struct
import sys
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import journal    # noqa: E402
from testlib import *    # noqa: E402

MIB = 1 << 20
NOALLOC = 8         # GFS2_RGF_NOALLOC


def fallocate(path, length):
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "ab") as file:
        if libc.fallocate(file.fileno(), 0, ctypes.c_longlong(0), ctypes.c_longlong(length)):
            raise OSError(ctypes.get_errno(), "fallocate")


def groups(volume):
    """Addresses of the resource groups' headers, from the index."""
    image = journal.Image(volume.path)
    dinode = image.entries(image.master)["rindex"]
    size, = struct.unpack(">Q", image.block(dinode)[56:64])
    data = b"".join(image.block(number) for number in image.file_blocks(dinode))[:size]
    return [struct.unpack(">Q", data[at:at + 8])[0] for at in range(0, size, 96)]


def allow_only(volume, chosen):
    """Nothing may be allocated but in the group of this block (0: everywhere again)."""
    addresses = groups(volume)
    mine = max((address for address in addresses if address <= chosen), default=0)
    with open(volume.path, "r+b") as image:
        for address in addresses:
            image.seek(address * volume.bs)
            header = bytearray(image.read(128))
            flags = struct.unpack(">I", header[24:28])[0] & ~NOALLOC
            if chosen and address != mine:
                flags |= NOALLOC
            header[24:28] = struct.pack(">I", flags)
            header[64:68] = bytes(4)
            header[64:68] = struct.pack(">I", zlib.crc32(header))
            image.seek(address * volume.bs)
            image.write(header)


def free_blocks(mount):
    return os.statvfs(mount).f_bfree


def case_large_volume():
    """Where mounting does not look through all bitmaps (they have more than 64 MiB), and the room is another's."""
    need_fuse()
    volume = Volume(size="132G", bs=512, mkfs=("-r", "64"))
    mount = volume.mount()
    before = free_blocks(mount)
    fallocate(mount / "left", 24 * MIB)
    write_file(mount / "tail", pattern(MIB, SEED), sync=True)
    left = os.stat(mount / "left").st_ino
    fd = os.open(mount / "left", os.O_RDONLY)
    os.unlink(mount / "left")
    handle = os.open(mount, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    mount.kill()
    os.close(fd)
    # The journal is replayed, and nothing more: so the next mount knows of no crash.
    volume.mount("ro").umount()
    allow_only(volume, left)

    mount = volume.mount()
    check(free_blocks(mount) < before - 24 * MIB // 512, "the unlinked file was looked for while mounting")
    taken = 0
    with open(mount / "fill", "wb", buffering=0) as file:
        started = time.monotonic()
        try:
            while taken < 128 * MIB:
                taken += file.write(bytes(MIB // 2))
        except OSError as error:
            equal(error.errno, errno.ENOSPC, "at the end of the space")
        log(f"{taken >> 20} MiB found room in a group of 64, {time.monotonic() - started:.1f} s")
    # Journals and the root may be in the same group: it is what is taken for the file's room that matters.
    check(taken > 40 * MIB, f"only {taken} bytes found room")
    os.unlink(mount / "fill")
    equal(read_file(mount / "tail"), pattern(MIB, SEED), "what is not unlinked")
    os.unlink(mount / "tail")
    wait_for(lambda: free_blocks(mount) == before, "all blocks to come back")
    mount.umount()
    allow_only(volume, 0)
    volume.fsck()


def case_being_freed():
    """Its end takes longer than the kernel may take to forget a file."""
    need_fuse()
    volume = Volume(size="96M")
    with volume.mount() as mount:
        write_file(mount / "small", b"s" * 4096)
        with open(mount / "large", "wb", buffering=0) as large:
            expect_errno(errno.ENOSPC, lambda: [large.write(bytes(MIB)) for _ in range(96)])

    def injected():
        return mount.glockctl("get", "stats", json_lines=True)[0]["stats"]["io_injected"]

    with volume.mount() as mount:
        with open(mount / "small", "ab", buffering=0) as small:
            expect_errno(errno.ENOSPC, lambda: [small.write(bytes(MIB)) for _ in range(2)])
            os.stat(mount / "large")
            free, before = free_blocks(mount), injected()
            # Where its blocks are has to be read.
            mount.glockctl("set", "fault", "op=read,cls=meta,delay_us=2500000")
            os.unlink(mount / "large")
            # More than removing the name has to read.
            wait_for(lambda: injected() >= before + 8 or free_blocks(mount) > free, "the end of the file to begin")
            mount.glockctl("set", "fault", "none")
            equal(small.write(bytes(4 * MIB)), 4 * MIB, "written into what is being freed")
    volume.fsck()


main()
