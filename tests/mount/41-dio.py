#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: direct I/O into data, holes, past the end, inside the dinode; alignment, O_DSYNC, full lengths for every way to write
# timeout: 180
# variants: plain asan
import fcntl
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402


MODES = ["sync", "libaio", "io_uring"]
BS = 4096


def diow(path, mode, offset, length, byte, *flags):
    """One direct write by another process: the number it returned."""
    return int(run([prog("diow"), path, mode, offset, length, byte, *flags]).stdout)


def layout(path, pieces, size):
    """A file of holes with data 'a' in the given (offset, length) pieces."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for offset, length in pieces:
        os.pwrite(fd, b"a" * length, offset)
    os.ftruncate(fd, size)
    os.fsync(fd)
    os.close(fd)
    content = bytearray(size)
    for offset, length in pieces:
        content[offset:offset + length] = b"a" * length
    return content


def patched(content, offset, length, byte):
    content = bytearray(content)
    if len(content) < offset + length:
        content.extend(bytes(offset + length - len(content)))
    content[offset:offset + length] = byte.encode() * length
    return bytes(content)


def read_direct(path, length):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = Aligned(length)
    got = os.preadv(fd, [buffer.view], 0)
    os.close(fd)
    return bytes(buffer.view[:got])


K = 1024
# name: pieces of data, size of the file, offset and length of the write
WRITES = {
    "data": ([(0, 256 * K)], 256 * K, 16 * K, 64 * K),
    "data_hole": ([(0, 32 * K)], 256 * K, 16 * K, 64 * K),
    "hole_data": ([(32 * K, 32 * K)], 256 * K, 16 * K, 64 * K),
    "hole": ([(128 * K, 32 * K)], 256 * K, 16 * K, 64 * K),
    "data_hole_data": ([(0, 32 * K), (64 * K, 64 * K)], 256 * K, 0, 128 * K),
    "hole_data_hole": ([(32 * K, 32 * K)], 256 * K, 0, 128 * K),
    "sector_in_data": ([(0, 32 * K)], 32 * K, 512, 1024),
    "sector_in_hole": ([(64 * K, 32 * K)], 96 * K, 16 * K + 512, 1024),
    "sectors_data_to_hole": ([(0, 16 * K)], 64 * K, 15 * K + 512, 2 * K),
    "append_at_end": ([(0, 32 * K)], 32 * K, 32 * K, 16 * K),
    "straddling_end": ([(0, 30 * K + 100)], 30 * K + 100, 28 * K, 32 * K),
    "end_in_last_block": ([(0, 9 * K)], 9 * K, 8 * K, 512),
    "beyond_end": ([(0, 32 * K)], 32 * K, 128 * K, 16 * K),
    "stuffed": ([(0, 100)], 100, 0, 512),
    "stuffed_beyond": ([(0, 100)], 100, 64 * K, 4 * K),
    "empty": ([], 0, 0, 4 * K),
    "sparse_empty": ([], 1024 * K, 512 * K, 8 * K),
    "many_runs": ([(n * 8 * K, 4 * K) for n in range(64)], 512 * K, 0, 512 * K),
    "megabyte": ([(0, 1536 * K)], 3072 * K, 0, 1024 * K),
    "megabytes_into_hole": ([(0, 1536 * K)], 3072 * K, 0, 3072 * K),
}


def all_writes(bs, device):
    volume = Volume(size="768M", bs=bs, junk=True)
    if device:
        volume.device = run(["losetup", "--show", "-f", "--direct-io=on", volume.path]).stdout.strip()
    mount = volume.mount()
    expected = {}
    for name, (pieces, size, offset, length) in WRITES.items():
        for mode in MODES:
            for flags in ([], ["dsync"]):
                path = mount / "-".join([name, mode, *flags])
                content = layout(path, pieces, size)
                got = diow(path, mode, offset, length, "B", *flags)
                what = f"{name} {mode} {flags} with blocks of {bs}"
                equal(got, length, f"result of the write, {what}")
                expected[os.path.basename(path)] = patched(content, offset, length, "B")
                want = expected[os.path.basename(path)]
                check(read_direct(path, len(want) + 4096) == want, f"content read direct, {what}")
                check(read_file(path) == want, f"content read buffered, {what}")
    mount.umount()
    volume.fsck()
    with volume.mount("ro") as mount:
        for name, want in expected.items():
            check(read_file(mount / name) == want, f"content after a remount, {name}, blocks of {bs}")


def case_bs4096():
    all_writes(4096, False)


def case_bs512():
    all_writes(512, False)


def case_bs1024_block_device():
    all_writes(1024, True)


def case_misaligned():
    """EINVAL for what is not aligned to the sector, wherever it points, and nothing is changed."""
    volume = Volume(size="128M")
    volume.device = run(["losetup", "--show", "-f", "--direct-io=on", volume.path]).stdout.strip()
    with volume.mount() as mount:
        path = mount / "f"
        content = bytes(layout(path, [(0, 32768)], 131072))
        for offset, length in ((1, 512), (0, 511), (256, 4096), (65536 + 100, 512), (4096, 100),
                               (131072 + 5, 512), (40960, 513)):
            for mode in MODES:
                equal(diow(path, mode, offset, length, "X"), -errno.EINVAL,
                      f"{mode} write of {length} at {offset}")
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        expect_errno(errno.EINVAL, os.preadv, fd, [Aligned(100).view], 0)
        expect_errno(errno.EINVAL, os.preadv, fd, [Aligned(512).view], 10)
        os.close(fd)
        equal(read_file(path), content, "content after refused writes")
        # O_DIRECT is looked at per request, not per open.
        fd = os.open(path, os.O_RDWR)
        os.pwrite(fd, b"odd", 3)
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
        expect_errno(errno.EINVAL, os.pwrite, fd, b"odd", 3)
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        equal(os.pwrite(fd, b"even", 3), 4, "buffered again")
        os.close(fd)
        equal(read_file(path)[:8], b"aaaevena", "content")
    volume.fsck()


def sleeps_in_pwrite(thread):
    """Has the thread called pwrite(2), and sleeps there?"""
    try:
        with open(f"/proc/self/task/{thread.native_id}/syscall") as text:
            return text.read().startswith("18 ")
    except FileNotFoundError:
        return False


def case_flag_set_meanwhile():
    """O_DIRECT set while a buffered write waits for the inode: it goes through pages all the same, with the flag on it."""
    need_fuse()
    volume = Volume(size="128M")
    with volume.mount(f"control={temp('control')}") as mount:
        path = mount / "f"
        content = bytearray(layout(path, [(0, 65536)], 65536))
        synced = os.open(path, os.O_RDWR | os.O_DSYNC)
        control, lock = Control(mount), f"inode:{os.fstat(synced).st_ino}"
        for number, (offset, length) in enumerate(((8192, 512), (100, 3))):
            fd = os.open(path, os.O_RDWR)
            # A page that is not in the cache stays locked while a part of it is written.
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            # One who has the inode and does not get on: somebody holds its lock.
            control("hold", lock, "EX", STEP_SECONDS)
            slow = threading.Thread(target=os.pwrite, args=(synced, b"s" * 4096, 16384))
            slow.start()
            wait_for(lambda: sleeps_in_pwrite(slow) or not slow.is_alive(), "the slow write")
            done = []
            word = bytes([ord("A") + number])
            late = threading.Thread(target=lambda: done.append(os.pwrite(fd, word * length, offset)))
            late.start()
            wait_for(lambda: sleeps_in_pwrite(late) or not late.is_alive(), "the late write")
            check(slow.is_alive(), "the first write has not been held up, this tests nothing")
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
            control("release", lock)
            for thread in (slow, late):
                thread.join(STEP_SECONDS)
                check(not thread.is_alive(), f"a write of {length} at {offset} does not end")
            equal(done, [length], f"result of the write of {length} at {offset}")
            content[16384:20480] = b"s" * 4096
            content = bytearray(patched(content, offset, length, word.decode()))
            os.close(fd)
            check(read_file(path) == content, f"content after the write of {length} at {offset}")
        os.close(synced)
        control.close()
    volume.fsck()
    with volume.mount("ro") as mount:
        check(read_file(mount / "f") == content, "content after a remount")


def case_reads():
    """Direct reads of data, holes and the end, from one byte before it to far beyond."""
    volume = Volume(size="128M")
    with volume.mount() as mount:
        path = mount / "f"
        content = bytes(layout(path, [(4096, 8192), (40960, 1000)], 41960))
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        for offset in range(0, 49152, 512):
            for length in (512, 4096, 65536):
                buffer = Aligned(length)
                buffer.view[:] = b"\xff" * length
                got = os.preadv(fd, [buffer.view], offset)
                check(bytes(buffer.view[:got]) == content[offset:offset + length],
                      f"direct read of {length} at {offset}: {got} bytes")
        os.close(fd)
        os.truncate(path, 100)
        equal(read_direct(path, 4096), content[:100], "direct read of a short file")
        write_file(mount / "stuffed", b"inside")
        equal(read_direct(mount / "stuffed", 512), b"inside", "direct read of a stuffed file")
        write_file(mount / "empty", b"")
        equal(read_direct(mount / "empty", 512), b"", "direct read of an empty file")


def case_append():
    """Direct appends of several processes: each whole, none lost."""
    volume = Volume(size="128M")
    with volume.mount() as mount:
        path = mount / "log"
        write_file(path, b"")
        writers = [subprocess.Popen(
            ["sh", "-c", 'i=0; while [ $i -lt 20 ]; do "$0" "$1" sync 0 4096 "$2" append >/dev/null '
             '|| exit 1; i=$((i+1)); done', prog("diow"), path, letter]) for letter in "ABCD"]
        for writer in writers:
            equal(writer.wait(STEP_SECONDS), 0, "exit status of a writer")
        data = read_file(path)
        equal(len(data), 4 * 20 * 4096, "size")
        blocks = [data[n:n + 4096] for n in range(0, len(data), 4096)]
        check(all(block == block[:1] * 4096 for block in blocks), "an append was torn")
        equal(sorted({block[0:1]: 0 for block in blocks}), [b"A", b"B", b"C", b"D"], "writers")
        for letter in b"ABCD":
            equal(sum(block[0] == letter for block in blocks), 20, f"appends of {letter:c}")
    volume.fsck()


def case_strict_option():
    """-o dio=strict: a direct write that would fall back is refused, others are not."""
    need_fuse()
    volume = Volume(size="128M")
    with volume.mount("dio=strict") as mount:
        path = mount / "f"
        content = bytes(layout(path, [(0, 32768)], 131072))
        equal(diow(path, "sync", 0, 32768, "B"), 32768, "write into data")
        equal(diow(path, "sync", 65536, 4096, "C"), -errno.EINVAL, "write into a hole")
        equal(diow(path, "sync", 131072, 4096, "C"), -errno.EINVAL, "write past the end")
        equal(read_file(path), b"B" * 32768 + content[32768:], "content")
    volume.fsck()


main()
