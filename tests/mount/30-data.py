#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: random writes, truncates, appends and reads, buffered and direct, against a model in memory, with remounts
# timeout: 240
# variants: plain asan
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402


SECTOR = 512
STEPS = 1500 if not FULL else 15000


class File:
    """A file on the mount and what it must contain."""

    def __init__(self, name):
        self.name = name
        self.data = bytearray()

    def open(self, mount, extra=0):
        return os.open(mount / self.name, os.O_RDWR | os.O_CREAT | extra, 0o644)

    def write(self, offset, data):
        if offset > len(self.data):
            self.data.extend(bytes(offset - len(self.data)))
        self.data[offset:offset + len(data)] = data

    def truncate(self, size):
        if size <= len(self.data):
            del self.data[size:]
        else:
            self.data.extend(bytes(size - len(self.data)))


def difference(got, want):
    """Where two strings differ, in words."""
    if len(got) != len(want):
        return f"length {len(got)} instead of {len(want)}"
    at = next(i for i in range(len(got)) if got[i] != want[i])
    return f"offset {at}: {got[at:at + 8].hex()} instead of {bytes(want[at:at + 8]).hex()}"


def place(rnd, file, limit):
    """An offset and a length, mostly near what is there already."""
    length = rnd.choice([1, rnd.randrange(1, 600), rnd.randrange(1, 10000), rnd.randrange(1, 200000)])
    offset = rnd.choice([rnd.randrange(len(file.data) + 1), len(file.data), rnd.randrange(limit)])
    return offset, length


def aligned(offset, length, unit):
    return offset // unit * unit, max(unit, length // unit * unit)


class Model:
    def __init__(self, bs):
        self.random = random.Random(f"{SEED} {bs}")
        self.volume = Volume(size="256M", bs=bs, junk=True)
        self.bs = bs
        self.mount = self.volume.mount()
        # One file stays small enough to be inside its dinode for part of its life.
        self.files = [(File("tiny"), 4 * bs), (File("small"), 100000), (File("big"), 4 << 20)]
        self.history = []

    def step(self):
        rnd = self.random
        file, limit = rnd.choice(self.files)
        action = rnd.choices(
            [self.write, self.write_direct, self.write_sync, self.append, self.truncate, self.read,
             self.read_direct, self.sync, self.rewrite], [25, 25, 5, 15, 10, 10, 10, 5, 5])[0]
        self.history.append((action.__name__, file.name, len(file.data)))
        action(file, limit)

    def _pwrite(self, fd, file, offset, data, what):
        done = os.pwrite(fd, data, offset)
        equal(done, len(data), f"{what} of {len(data)} bytes at {offset}")
        file.write(offset, bytes(data))
        self.history[-1] += (offset, len(data))

    def write(self, file, limit):
        offset, length = place(self.random, file, limit)
        fd = file.open(self.mount)
        self._pwrite(fd, file, offset, self.random.randbytes(length), "write")
        os.close(fd)

    def write_direct(self, file, limit):
        unit = self.random.choice([SECTOR, self.bs, 4096])
        offset, length = aligned(*place(self.random, file, limit), unit)
        fd = file.open(self.mount, os.O_DIRECT | self.random.choice([0, 0, os.O_DSYNC]))
        self._pwrite(fd, file, offset, Aligned(self.random.randbytes(length)).view, "direct write")
        os.close(fd)

    def write_sync(self, file, limit):
        offset, length = place(self.random, file, limit)
        fd = file.open(self.mount, self.random.choice([os.O_SYNC, os.O_DSYNC]))
        self._pwrite(fd, file, offset, self.random.randbytes(length), "synchronous write")
        os.close(fd)

    def append(self, file, limit):
        if len(file.data) > 2 * limit:
            return
        fd = file.open(self.mount, os.O_APPEND)
        for _ in range(self.random.randrange(1, 5)):
            data = self.random.randbytes(self.random.randrange(1, 5000))
            equal(os.write(fd, data), len(data), "append")
            file.write(len(file.data), data)
        os.close(fd)

    def rewrite(self, file, _limit):
        fd = file.open(self.mount, os.O_TRUNC)
        file.truncate(0)
        os.close(fd)

    def truncate(self, file, limit):
        size = self.random.choice([0, self.random.randrange(limit), len(file.data) // 2,
                                   len(file.data) // self.bs * self.bs])
        self.history[-1] += (size,)
        fd = file.open(self.mount)
        if self.random.random() < 0.5:
            os.ftruncate(fd, size)
        os.close(fd)
        os.truncate(self.mount / file.name, size)
        file.truncate(size)

    def read(self, file, limit):
        offset, length = place(self.random, file, limit)
        fd = file.open(self.mount)
        self._same(os.pread(fd, length, offset), file, offset, length, "read")
        os.close(fd)

    def read_direct(self, file, limit):
        offset, length = aligned(*place(self.random, file, limit), self.random.choice([SECTOR, self.bs]))
        fd = file.open(self.mount, os.O_DIRECT)
        buffer = Aligned(length)
        done = os.preadv(fd, [buffer.view], offset)
        self._same(bytes(buffer.view[:done]), file, offset, length, "direct read")
        os.close(fd)

    def sync(self, file, _limit):
        fd = file.open(self.mount)
        self.random.choice([os.fsync, os.fdatasync])(fd)
        os.close(fd)

    def _same(self, got, file, offset, length, what):
        want = bytes(file.data[offset:offset + length])
        check(got == want, f"{what} of {file.name} at {offset}, {length} bytes: "
              + (difference(got, want) if got != want else ""))

    def compare_all(self, when):
        for file, _ in self.files:
            if not os.path.exists(self.mount / file.name):
                equal(len(file.data), 0, f"{file.name} is missing {when}")
                continue
            equal(os.stat(self.mount / file.name).st_size, len(file.data), f"size of {file.name} {when}")
            got = read_file(self.mount / file.name)
            check(got == file.data, f"{file.name} {when}: "
                  + (difference(got, file.data) if got != file.data else ""))

    def remount(self):
        self.mount.umount()
        self.volume.fsck()
        self.mount = self.volume.mount()
        self.compare_all("after a remount")

    def run(self):
        try:
            for number in range(STEPS):
                self.step()
                if number % (STEPS // 4) == STEPS // 5:
                    self.compare_all("in between")
                    self.remount()
            self.compare_all("at the end")
            self.remount()
            self.mount.umount()
        except BaseException:
            log("the last steps:", *(f"\n  {step}" for step in self.history[-12:]))
            raise


def case_bs512():
    Model(512).run()


def case_bs1024():
    Model(1024).run()


def case_bs2048():
    Model(2048).run()


def case_bs4096():
    Model(4096).run()


def case_two_descriptors():
    """What one descriptor wrote buffered, another reads direct, and the other way round, at once."""
    volume = Volume(size="128M", bs=4096)
    with volume.mount() as mount:
        buffered = os.open(mount / "f", os.O_RDWR | os.O_CREAT)
        direct = os.open(mount / "f", os.O_RDWR | os.O_DIRECT)
        rnd = random.Random(SEED)
        model = bytearray(rnd.randbytes(1 << 20))
        os.pwrite(buffered, model, 0)
        for _ in range(500):
            offset, length = rnd.randrange(200) * 4096, rnd.randrange(1, 8) * 4096
            data = rnd.randbytes(length)
            model[offset:offset + length] = data
            os.pread(buffered, 65536, max(0, offset - 8192))    # have it in the page cache
            if rnd.random() < 0.5:
                os.pwrite(direct, Aligned(data).view, offset)
                got = os.pread(buffered, length + 100, offset)
                want = model[offset:offset + length + 100]
            else:
                os.pwrite(buffered, data, offset)
                into = Aligned(length)
                os.preadv(direct, [into.view], offset)
                got, want = bytes(into.view), data
            check(got == want, f"at {offset}: " + (difference(got, want) if got != want else ""))
        os.close(buffered)
        os.close(direct)
    volume.fsck()


main()
