#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: shared writable and private mappings: what is written through them is seen by reads and is there after a remount
# timeout: 120
# variants: plain asan
import fcntl
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402


SIZE = 4 << 20


def fresh(mount, size=SIZE, data=b""):
    fd = os.open(mount / "f", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.pwrite(fd, data, 0)
    os.ftruncate(fd, size)
    return fd


def read_direct(path, offset, length):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = Aligned(length)
    got = os.preadv(fd, [buffer.view], offset)
    os.close(fd)
    return bytes(buffer.view[:got])


def case_shared():
    """Into data, into holes and across the end of blocks; msync, then read in every way."""
    for bs in (4096, 1024):
        volume = Volume(size="128M", bs=bs)
        mount = volume.mount()
        fd = fresh(mount, data=b"a" * 100000)
        model = bytearray(b"a" * 100000 + bytes(SIZE - 100000))
        memory = mmap.mmap(fd, SIZE)
        rnd = random.Random(SEED)
        for _ in range(300):
            offset, length = rnd.randrange(SIZE - 5000), rnd.randrange(1, 5000)
            data = rnd.randbytes(length)
            memory[offset:offset + length] = data
            model[offset:offset + length] = data
        memory.flush()
        check(os.pread(fd, SIZE, 0) == model, "read after msync")
        check(read_direct(mount / "f", 0, SIZE) == model, "direct read after msync")
        memory.close()
        os.close(fd)
        mount.umount()
        volume.fsck()
        with volume.mount() as mount:
            check(read_file(mount / "f") == model, "content after a remount")


def case_without_msync():
    """Unmapping, closing and unmounting write it back too."""
    volume = Volume(size="128M")
    mount = volume.mount()
    fd = fresh(mount)
    memory = mmap.mmap(fd, SIZE)
    memory[1000000:1000100] = b"m" * 100
    memory.close()
    os.close(fd)
    mount.umount()
    volume.fsck()
    with volume.mount() as mount:
        equal(read_file(mount / "f")[999990:1000110], bytes(10) + b"m" * 100 + bytes(10), "content")


def case_writes_are_seen():
    """What write(2), buffered and direct, puts into a mapped file shows in the mapping."""
    volume = Volume(size="128M")
    with volume.mount() as mount:
        fd = fresh(mount, data=b"a" * SIZE)
        memory = mmap.mmap(fd, SIZE)
        private = mmap.mmap(fd, SIZE, mmap.MAP_PRIVATE)
        equal((memory[:3], private[:3]), (b"aaa", b"aaa"), "before")
        # Have every page in the cache: what is stale there must go.
        equal(memory[::4096], b"a" * (SIZE // 4096), "one byte of each page")
        os.pwrite(fd, b"buffered", 5000)
        equal(memory[5000:5008], b"buffered", "a buffered write in the mapping")
        direct = os.open(mount / "f", os.O_RDWR | os.O_DIRECT)
        os.pwrite(direct, Aligned(b"d" * 8192).view, 8192)
        equal(memory[8190:8194], b"aadd", "a direct write in the mapping")
        equal(os.pread(fd, 4, 8190), b"aadd", "a direct write in a buffered read")
        os.close(direct)
        hole = os.open(mount / "hole", os.O_RDWR | os.O_CREAT)
        os.ftruncate(hole, SIZE)
        sparse = mmap.mmap(hole, SIZE)
        equal(sparse[::4096], bytes(SIZE // 4096), "one byte of each page of the hole")
        direct = os.open(mount / "hole", os.O_RDWR | os.O_DIRECT)
        os.pwrite(direct, Aligned(b"h" * 8192).view, 65536)
        equal(sparse[65534:65538], b"\0\0hh", "a direct write into a hole in the mapping")
        sparse.close()
        os.close(hole)
        os.close(direct)
        private[100:103] = b"mine"[:3]
        equal(os.pread(fd, 3, 100), b"aaa", "a private mapping does not change the file")
        memory.close()
        private.close()
        os.close(fd)
    volume.fsck()


def case_stores_beside_direct():
    """What is stored and not synced, and then a direct write to the same page: both are there, the write over the store; direct reads see stores."""
    if kernel_before(6, 18):
        skip("older kernels: a write-back under way is not waited for, and a read may miss the store, seldom (docs/design.md)")
    rnd = random.Random(SEED)
    size = 2 << 20
    volume = Volume(size="128M")
    mount = volume.mount()
    fd = fresh(mount, size, data=b"a" * (size // 2))
    model = bytearray(b"a" * (size // 2) + bytes(size // 2))    # the second half is a hole
    memory = mmap.mmap(fd, size)
    direct = os.open(mount / "f", os.O_RDWR | os.O_DIRECT)
    # Past the kernel's pages, too, but not past ours.
    plain = os.open(mount / "f", os.O_RDWR | os.O_DIRECT)
    fcntl.fcntl(plain, fcntl.F_SETFL, 0)

    def stores(offset, length):
        """In the first page, at both ends and behind them."""
        for at in (offset // 4096 * 4096, offset, offset + length - 1, offset + length + 8):
            data = rnd.randbytes(4)[:max(size - at, 0)]
            memory[at:at + len(data)] = data
            model[at:at + len(data)] = data

    for descriptor, what in ((direct, "direct"), (plain, "without O_DIRECT")):
        # In one page and in many, of the fast path's sizes and beyond, of several requests.
        for length in (512, 4096, 512, 65536, 512, 3 << 19):
            for _ in range(2):
                offset = rnd.randrange(size - length) // 512 * 512
                stores(offset, length)
                buffer = Aligned(length)
                got = os.preadv(descriptor, [buffer.view], offset)
                check(buffer.view[:got] == model[offset:offset + length], f"{what} read of {length} at {offset} after a store")
                stores(offset, length)
                data = rnd.randbytes(length)
                equal(os.pwrite(descriptor, Aligned(data).view, offset), length, "written")
                model[offset:offset + length] = data
                at = (offset + length - 1) // 4096 * 4096
                check(memory[at:at + 4096] == model[at:at + 4096], f"{what} write of {length} at {offset}: the last page")
                check(os.pread(fd, length, offset) == data, f"{what} write of {length} at {offset}: a buffered read")
        os.fsync(fd)
        check(read_direct(mount / "f", 0, size) == model, f"{what}: a direct read of all")
        check(memory[:] == model, f"{what}: the mapping")
    os.close(direct)
    os.close(plain)
    memory.close()
    os.close(fd)
    mount.umount()
    volume.fsck()
    with volume.mount() as mount:
        check(read_file(mount / "f") == model, "content after a remount")


def case_private_beside_direct():
    """Pages that came with a private mapping of a file opened with O_DIRECT are dropped by direct writes, too; who opens the file later sees those."""
    volume = Volume(size="128M")
    with volume.mount() as mount:
        direct = os.open(mount / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        os.pwrite(direct, Aligned(b"a" * 65536).view, 0)
        private = mmap.mmap(direct, 65536, mmap.MAP_PRIVATE)
        for letter in b"bcd":
            equal(private[::4096], private[:1] * 16, "the mapping")
            data = bytes([letter]) * 65536
            os.pwrite(direct, Aligned(data).view, 0)
            check(private[:] == data, "a direct write in a private mapping")
            check(read_file(mount / "f") == data, "a buffered read after a direct write")
        private.close()
        os.close(direct)
    volume.fsck()


def case_program():
    """A program is run from the mount (a private, executable mapping)."""
    volume = Volume(size="128M")
    with volume.mount() as mount:
        run(["cp", "/bin/ls", mount / "program"])
        check("program" in run([mount / "program", mount.dir]).stdout, "the program does not work")
    volume.fsck()


def case_with_truncate():
    """Beyond a cut, and after growing again, a mapping shows zeros."""
    volume = Volume(size="128M")
    with volume.mount() as mount:
        fd = fresh(mount, data=b"a" * SIZE)
        memory = mmap.mmap(fd, SIZE)
        equal(memory[20000:20003], b"aaa", "before")
        os.ftruncate(fd, 10000)
        os.ftruncate(fd, SIZE)
        equal(memory[9998:10003], b"aa\0\0\0", "at the cut")
        equal(memory[20000:20003], bytes(3), "beyond the cut")
        memory[10001:10002] = b"x"
        memory.flush()
        memory.close()
        os.close(fd)
        equal(read_file(mount / "f")[9998:10003], b"aa\0x\0", "in the file")
    volume.fsck()


def case_no_space():
    """Pages over a hole, and room for some of them: msync says so, although one request has pages of both kinds."""
    bs, pages, room = 4096, 150, 100
    volume = Volume(size="64M", bs=bs)
    with volume.mount() as mount:
        fd = fresh(mount, size=pages * bs)
        memory = mmap.mmap(fd, pages * bs)
        with open(mount / "fill", "wb", 0) as fill:
            try:
                while fill.write(bytes(1 << 16)):
                    pass
            except OSError as e:
                equal(e.errno, errno.ENOSPC, "filling up")
            fill.truncate(fill.tell() - room * bs)
            os.fsync(fill.fileno())
        for i in range(pages):
            memory[i * bs:i * bs + 1] = b"m"
        error = 0
        try:
            memory.flush()
        except OSError as e:
            error = e.errno
        equal(error, errno.ENOSPC, "msync")
        check(os.fstat(fd).st_blocks * 512 < pages * bs, "there was room for all of it")
        memory.close()
        os.close(fd)
    volume.fsck()


main()
