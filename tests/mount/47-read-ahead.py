#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: a file on a device that is read in sequence is read ahead by the daemon: only then, with errors, within cache=, and never stale, whoever writes
# timeout: 180
# variants: plain asan tsan
"""
The race: two processes read a file from its beginning to its end, again and again, each time without what the kernel has cached, and tell where they are.  One
changes it just ahead of them, in every way there is.  Each block begins with the number of the change that it comes from; what is read may be no older than what had been
changed, for good, before the read began.
"""
import ctypes
import errno
import mmap
import os
import random
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

MIB = 1 << 20
BS = 4096
CHUNK = 512 << 10
KEEP_SIZE, PUNCH_HOLE = 1, 2
RACE_SECONDS = 60 if FULL else 1.5

libc = ctypes.CDLL(None, use_errno=True)


def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def device_volume(size="128M"):
    volume = Volume(size=size)
    volume.device = run(["losetup", "--show", "-f", "--direct-io=on", volume.path]).stdout.strip()
    return volume


def stats(mount):
    return mount.glockctl("get", "stats", json_lines=True)[0]["stats"]


def forget(fd):
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def read_through(path, chunk=CHUNK):
    with open(path, "rb", buffering=0) as file:
        forget(file.fileno())
        return b"".join(iter(lambda: file.read(chunk), b""))


def case_only_in_sequence():
    need_fuse()
    volume = device_volume()
    data = pattern(16 * MIB + 1234, 1)
    with volume.mount() as mount:
        write_file(mount / "f", data, sync=True)
        # Without the buffer of the last block, which was written in part.
        mount.umount()
    with volume.mount() as mount:
        with open(mount / "f", "rb", buffering=0) as file:
            forget(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            for number in range(300):
                where = number * 7919 % 4096 * BS
                same_data(os.pread(file.fileno(), BS, where), data[where:where + BS], "a block")
        equal(stats(mount)["ahead_windows"], 0, "windows for random reads")
        same_data(read_through(mount / "f"), data, "content")
        first = stats(mount)
        check(first["ahead_hits"] > 10, f"nothing was read ahead: {first}")
        check(first["ahead_windows"] <= 40, f"more was read ahead than there is: {first}")
        # Nothing is kept.
        same_data(read_through(mount / "f"), data, "content")
        check(stats(mount)["ahead_hits"] > first["ahead_hits"], "the second time")
        check(stats(mount)["ahead_bytes"] <= 8 * MIB, "memory")
    volume.fsck()


def case_errors():
    """A device error is the reader's, where it is his own and once it is his own."""
    need_fuse()
    volume = device_volume()
    data = pattern(16 * MIB, 2)
    with volume.mount() as mount:
        write_file(mount / "f", data, sync=True)
        # Every fourth read of data fails, for a while.
        mount.glockctl("set", "fault", "op=read,cls=data,error=5,skip=6,count=1")
        mount.glockctl("set", "fault", "op=read,cls=data,error=5,skip=9,count=2")
        got = b""
        with open(mount / "f", "rb", buffering=0) as file:
            forget(file.fileno())
            for _ in range(200):
                try:
                    piece = os.pread(file.fileno(), CHUNK, len(got))
                except OSError as error:
                    equal(error.errno, errno.EIO, "errno")
                    continue
                if not piece:
                    break
                got += piece
        same_data(got, data, "content")
        mount.glockctl("set", "fault", "none")
    volume.fsck()


def case_small_cache():
    """Four readers, and memory for one: all of them get what they want, and no more memory is used."""
    need_fuse()
    volume = device_volume()
    data = pattern(8 * MIB, 3)
    with volume.mount("cache=32M") as mount:
        write_file(mount / "f", data, sync=True)
        files = [open(mount / "f", "rb", buffering=0) for _ in range(4)]
        for _ in range(2):
            forget(files[0].fileno())
            for start in range(0, len(data), CHUNK):
                for file in files:
                    same_data(os.pread(file.fileno(), CHUNK, start), data[start:start + CHUNK], "content")
                    forget(file.fileno())
                check(stats(mount)["ahead_bytes"] <= MIB, "memory")
        for file in files:
            file.close()
    volume.fsck()


# ---------------------------------------------------------------- the race

SIZE = 12 * MIB
BLOCKS = SIZE // BS


class Shared:
    """Numbers in memory that processes share: for each block the last change that is over, the last zeroing that has begun; where the readers are."""

    def __init__(self):
        self.memory = mmap.mmap(-1, 8 * (2 * BLOCKS + 8))
        view = memoryview(self.memory).cast("Q")
        self.done, self.zeroed, self.where = view[:BLOCKS], view[BLOCKS:2 * BLOCKS], view[2 * BLOCKS:]


def reader(path, shared, number):
    reads = 0
    while not shared.where[7]:
        with open(path, "rb", buffering=0) as file:
            forget(file.fileno())
            for start in range(0, SIZE, CHUNK):
                shared.where[number] = start
                first = start // BS
                floor = shared.done[first:first + CHUNK // BS].tolist()
                got = os.pread(file.fileno(), CHUNK, start)
                got += bytes(CHUNK - len(got))  # it may be shorter just now
                for index, least in enumerate(floor):
                    value, = struct.unpack_from("<Q", got, index * BS)
                    if value < least and not (value == 0 and shared.zeroed[first + index] >= least):
                        raise AssertionError(f"block {first + index}: change {value} is read after {least} was made")
                reads += 1
    return reads


class Writer:
    def __init__(self, path, shared, rng):
        self.path, self.shared, self.rng = path, shared, rng
        self.fd = os.open(path, os.O_RDWR)
        self.direct = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.map = mmap.mmap(self.fd, SIZE)
        self.number = 1

    def over(self, first, count):
        for block in range(first, first + count):
            self.shared.done[block] = self.number

    def zeroing(self, first, count):
        for block in range(first, first + count):
            self.shared.zeroed[block] = self.number

    def data(self, count):
        return b"".join(struct.pack("<Q", self.number) + bytes(BS - 8) for _ in range(count))

    def write(self, first, count):
        os.pwrite(self.fd, self.data(count), first * BS)
        self.over(first, count)

    def write_and_sync(self, first, count):
        os.pwrite(self.fd, self.data(count), first * BS)
        os.fdatasync(self.fd)
        self.over(first, count)

    def write_directly(self, first, count):
        with Aligned(self.data(count)) as buffer:
            equal(os.pwritev(self.direct, [buffer], first * BS), count * BS, "direct write")
        self.over(first, count)

    def write_mapped(self, first, count):
        for block in range(first, first + count):
            self.map[block * BS:block * BS + 8] = struct.pack("<Q", self.number)
        self.map.flush(first * BS, count * BS)
        self.over(first, count)

    def punch(self, first, count):
        self.zeroing(first, count)
        fallocate(self.fd, KEEP_SIZE | PUNCH_HOLE, first * BS, count * BS)
        self.over(first, count)

    def fill(self, first, count):
        """A direct write into a hole."""
        self.punch(first, count)
        self.number += 1
        self.write_directly(first, count)

    def cut(self, first, _count):
        """What is behind becomes another file's for a moment."""
        self.zeroing(first, BLOCKS - first)
        os.ftruncate(self.fd, first * BS)
        with open(self.path + ".other", "wb") as other:
            other.write(b"\xff" * (8 * BS * self.rng.randrange(1, 20)))
        os.ftruncate(self.fd, SIZE)
        os.unlink(self.path + ".other")
        self.over(first, BLOCKS - first)

    def allocate(self, first, count):
        self.punch(first, count)
        self.number += 1
        self.zeroing(first, count)
        fallocate(self.fd, 0, first * BS, count * BS)
        self.over(first, count)

    def change(self):
        kinds = [self.write, self.write_and_sync, self.write_directly, self.write_directly, self.write_mapped, self.punch, self.fill, self.allocate]
        kind = self.rng.choice(kinds if self.rng.randrange(12) else [self.cut])
        # What is about to be asked for, or at least has been read ahead.
        first = (self.shared.where[self.rng.randrange(2)] // BS + self.rng.randrange(1, 1200)) % BLOCKS
        self.number += 1
        kind(first, min(self.rng.randrange(1, 40), BLOCKS - first))
        return kind.__name__

    def all_anew(self):
        self.number += 1
        self.write(0, BLOCKS)
        os.fsync(self.fd)


def case_never_stale():
    need_fuse()
    volume = device_volume()
    with volume.mount() as mount:
        shared, rng = Shared(), random.Random(SEED)
        write_file(mount / "f", bytes(SIZE))
        writer = Writer(mount / "f", shared, rng)
        writer.all_anew()
        children = []
        for number in range(2):
            pid = os.fork()
            if not pid:
                try:
                    os._exit(0 if reader(mount / "f", shared, number) else 2)
                except BaseException as fault:  # pylint: disable=broad-except
                    print(fault, flush=True)
                    os._exit(1)
            children.append(pid)
        made = {}
        try:
            end = time.monotonic() + RACE_SECONDS
            # Until there has been enough of it, however busy the machine is.
            while time.monotonic() < end or stats(mount)["ahead_stale"] < 5 or stats(mount)["ahead_hits"] < 50:
                kind = writer.change()
                made[kind] = made.get(kind, 0) + 1
                # Between two changes a reader gets so far that he is read ahead of.
                time.sleep(rng.choice((0, 0.002, 0.01, 0.03)))
                if rng.randrange(40) == 0:
                    writer.all_anew()
                for pid in children:
                    if os.waitpid(pid, os.WNOHANG) != (0, 0):
                        children.remove(pid)
                        raise AssertionError("a reader has found something stale")
        finally:
            shared.where[7] = 1
            statuses = [os.waitpid(pid, 0)[1] for pid in children]
        equal(statuses, [0, 0], "the readers' exit statuses")
        log("changes", made, {name: value for name, value in stats(mount).items() if name.startswith("ahead")})
        writer.map.close()
        os.close(writer.fd)
        os.close(writer.direct)
    volume.fsck()


if __name__ == "__main__":
    main()
