#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: a volume in memory: large transfers answered from where the store has the data, with faults, and an image cut short under the mount
# timeout: 120
# alone: yes
# variants: plain asan tsan
"""
On tmpfs the daemon maps the image, and large reads are answered out of the mapping, direct ones and those for the kernel's pages.  The rules of direct I/O hold there as
they do elsewhere: errors, delays and short transfers of the engine, the lock, what is counted.  An image that somebody truncates is
an error for who reads what is gone, and nothing else.
"""
import os
import re
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

MIB = 1 << 20
BS = 4096


def need_memory():
    need_fuse()
    kind = run(["stat", "-f", "-c", "%T", workdir()]).stdout.strip()
    if kind not in ("tmpfs", "ramfs"):
        skip(f"the test directory is on {kind}")


def direct_read(path, offset, length):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with Aligned(length) as buffer:
            got = os.preadv(fd, [buffer], offset)
            return bytes(buffer[:got])
    finally:
        os.close(fd)


def buffered_read(path, offset, length):
    """The kernel has to ask for it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def direct_write(path, offset, data):
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    try:
        with Aligned(data) as buffer:
            return os.pwritev(fd, [buffer], offset)
    finally:
        os.close(fd)


def stats(mount):
    return mount.glockctl("get", "stats", json_lines=True)[0]["stats"]


def where(mount, path, offset):
    """The byte of the image that has the file's byte at @offset; what follows in the file follows in the image, too."""
    runs = []
    for line in mount.glockctl("map", path).stdout.splitlines():
        found = re.fullmatch(r"disk\s+(\d+)\+(\d+) -> (\d+)", line)
        if found:
            runs.append([int(word) * BS for word in found.groups()])
    equal(runs, sorted(runs, key=lambda run: run[2]), "runs, in the order of the image")
    return next(disk + offset - start for start, length, disk in runs if start <= offset < start + length)


def case_layouts():
    """What is read is what is there: holes, many runs, the end of the file in the middle of a sector; large and small."""
    need_memory()
    volume = Volume(size="128M", junk=True)
    with volume.mount() as mount:
        path = mount / "f"
        want = bytearray(2 * MIB + 1234)
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, len(want))
        # Runs of different lengths with holes between; in the second MiB more of them than one round takes.
        at, number = 0, 0
        while at < len(want):
            length = min(BS * (number % 40 + 3) if at < MIB else BS, len(want) - at)
            if number % 3:
                want[at:at + length] = pattern(length, number)
                os.pwrite(fd, want[at:at + length], at)
            at, number = at + length, number + 1
        os.fsync(fd)
        os.close(fd)
        before = stats(mount)
        for offset, length in [(0, MIB), (MIB, MIB), (0, 2 * MIB + BS), (512, MIB), (2 * MIB, MIB), (BS, 512),
                               (2 * MIB + 1024, 512), (4 * MIB, MIB), (3 * BS, 128 * 1024), (MIB - 512, 1024)]:
            for read in (direct_read, buffered_read):
                check(read(path, offset, length) == want[offset:offset + length], f"{read.__name__}: {length} bytes at {offset}")
        check(stats(mount)["dio_direct"] > before["dio_direct"], "direct reads are counted")
        for offset, length in [(0, MIB), (512, 128 * 1024), (MIB, 70 * 1024)]:
            data = pattern(length, offset + 7)
            equal(direct_write(path, offset, data), length, "bytes written")
            want[offset:offset + length] = data
            check(direct_read(path, 0, MIB) == want[:MIB], f"after a write of {length} at {offset}")
        check(read_file(path) == want, "the page cache's view")
        # What is dirty in the daemon is newer than the store, and in the end is in both.
        with open(path, "r+b", buffering=0) as out:
            for turn, offset in enumerate((0, 777, 300 * 1024, MIB + 5000)):
                data = pattern(20000, turn)
                out.seek(offset)
                out.write(data)
                want[offset:offset + 20000] = data
                check(buffered_read(path, 0, len(want)) == want, f"dirty at {offset}")
            os.fsync(out.fileno())
        check(buffered_read(path, 0, len(want)) == want, "written back")
        os.truncate(path, 1000)
        check(buffered_read(path, 0, MIB) == want[:1000], "cut")
    volume.fsck()


def shared_memory(mount):
    with open(f"/proc/{mount.daemon.pid}/status") as text:
        return int(re.search(r"RssShmem:\s+(\d+) kB", text.read())[1]) << 10


def under_fault(mount, rule, fails, go, classes=("dio",)):
    """go() while that rule is there: it fails, or takes as long as the rule says."""
    for name in classes:
        mount.glockctl("set", "fault", f"{rule},cls={name}")
    started = time.monotonic()
    if fails:
        expect_errno(errno.EIO, go)
    else:
        go()
    if "delay" in rule:
        check(time.monotonic() - started >= 0.03, f"{rule} delays")
    mount.glockctl("set", "fault", "none")


def case_pages():
    """For the kernel's pages: the engine's rules, and no memory that grows with what was read."""
    need_memory()
    volume = Volume(size="128M")
    with volume.mount() as mount:
        path = mount / "f"
        data = pattern(32 * MIB, 5)
        write_file(path, data, sync=True)
        before = stats(mount)
        check(buffered_read(path, 0, len(data)) == data, "content")
        # Metadata are read now and then, too.
        counted = stats(mount)["io_read_bytes"] - before["io_read_bytes"]
        check(counted >= len(data), f"{counted} bytes read, by the engine's count")
        check(shared_memory(mount) < 4 * MIB, f"{shared_memory(mount)} bytes of the image count as the daemon's memory")
        def go():
            check(buffered_read(path, 0, MIB) == data[:MIB], "content")
        # Both classes of data: what has failed the kernel asks for again, block by block, and small reads count as direct ones.
        for rule, fails in (("error=5", True), ("short=512,error=5", True), ("short=512", False), ("delay_us=30000,count=1", False)):
            under_fault(mount, "op=read," + rule, fails, go, ("data", "dio"))
            mount.glockctl("demote", path, "UN")
            go()
    volume.fsck()


def nothing_in_flight(mount, path):
    """What is answered from where the store has the data is counted until the answer is out, and the caller may be here before."""
    wait_for(lambda: not mount.glockctl("dio", path, json_lines=True)[0]["in_flight"], "that no direct request is in flight")


def case_faults():
    """The engine's rules hit large transfers as all others, and nothing stays in flight."""
    need_memory()
    volume = Volume(size="64M")
    with volume.mount() as mount:
        path = mount / "f"
        data = pattern(2 * MIB, 1)
        write_file(path, data, sync=True)
        for size in (BS, MIB):
            for op in ("read", "write"):
                def go():
                    if op == "read":
                        check(direct_read(path, 0, size) == data[:size], f"content, {op} {size}")
                    else:
                        equal(direct_write(path, 0, data[:size]), size, f"result, {op} {size}")
                go()
                injected = stats(mount)["io_injected"]
                for rule, fails in (("error=5,count=1", True), ("short=512,error=5,count=1", True),
                                    ("short=512,count=1", False), ("delay_us=30000,count=1", False)):
                    under_fault(mount, f"op={op},{rule}", fails, go)
                    nothing_in_flight(mount, path)
                    mount.glockctl("demote", path, "UN")
                    go()
                equal(stats(mount)["io_injected"], injected + 4, f"faults injected, {op} {size}")
        check(read_file(path) == data, "content at the end")
    volume.fsck()


def case_closed_at_once():
    """Who has the answer closes the file and removes it, while the thread that sent it still has the lock."""
    need_memory()
    volume = Volume(size="64M")
    with volume.mount() as mount:
        data = pattern(MIB, 2)

        def one(number):
            for turn in range(15):
                path = mount / f"f{number}-{turn}"
                write_file(path, data)
                read = (direct_read, buffered_read)[turn % 2]
                check(read(path, 0, MIB) == data, "content")
                os.unlink(path)
                with open("/proc/sys/vm/drop_caches", "w") as drop:
                    drop.write("2")
        threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        equal(os.listdir(mount), [], "files left")
    volume.fsck()


def case_image_cut_short():
    """EIO for what is gone; the daemon lives, the rest can be read, and all of it again when the image is whole again."""
    need_memory()
    volume = Volume(size="64M")
    with volume.mount("commit=300") as mount:
        path = mount / "f"
        data = pattern(8 * MIB, 3)
        write_file(path, data, sync=True)
        check(direct_read(path, 0, MIB) == data[:MIB], "content")
        image = read_file(volume.path)
        middle = where(mount, path, 4 * MIB)
        for cut in (middle, middle + 512):
            os.truncate(volume.path, cut)
            for size in (BS, 128 * 1024, MIB):
                check(direct_read(path, 0, size) == data[:size], f"{size} bytes before the end")
                expect_errno(errno.EIO, direct_read, path, 6 * MIB, size)
                # In the page that the end lies in there are zeros behind it, which nobody wrote.
                expect_errno(errno.EIO, direct_read, path, 4 * MIB, size)
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            expect_errno(errno.EIO, os.pread, fd, BS, 7 * MIB)
            os.close(fd)
            check(buffered_read(path, 0, 2 * MIB) == data[:2 * MIB], "before the end, for the kernel's pages")
            for offset in (4 * MIB, 6 * MIB):
                expect_errno(errno.EIO, buffered_read, path, offset, MIB)
            nothing_in_flight(mount, path)
            with open(volume.path, "r+b") as out:
                out.seek(cut)
                out.write(image[cut:])
            check(direct_read(path, 0, 8 * MIB) == data, "content of the whole image")
        # What is written beyond the end is there.
        os.truncate(volume.path, middle)
        equal(direct_write(path, 5 * MIB, data[:MIB]), MIB, "bytes written")
        check(direct_read(path, 5 * MIB, MIB) == data[:MIB], "what was written beyond the end")
        with open(volume.path, "r+b") as out:
            out.seek(middle)
            out.write(image[middle:])
        equal(direct_write(path, 0, data), len(data), "bytes written")
    volume.fsck()


def case_cut_again_and_again():
    """Truncation in the middle of transfers ends nobody."""
    need_memory()
    volume = Volume(size="64M")
    with volume.mount("commit=300") as mount:
        path = mount / "f"
        data = pattern(8 * MIB, 4)
        write_file(path, data, sync=True)
        image = read_file(volume.path)
        middle = where(mount, path, 4 * MIB)
        stop = threading.Event()
        seen = {"good": 0, "bad": 0}

        def use(how, offset, size):
            while not stop.is_set():
                try:
                    if how == direct_write:
                        how(path, offset, data[offset:offset + size])
                    else:
                        how(path, offset, size)
                    seen["good"] += 1
                except OSError as fault:
                    check(fault.errno == errno.EIO, f"error {fault}")
                    seen["bad"] += 1
        threads = [threading.Thread(target=use, args=arguments)
                   for arguments in ((direct_read, 5 * MIB, MIB), (direct_read, 6 * MIB, BS), (direct_write, 7 * MIB // 2, MIB),
                                    (buffered_read, 7 * MIB // 2, MIB))]
        for thread in threads:
            thread.start()
        for _ in range(60):
            os.truncate(volume.path, middle)
            wait_for(lambda bad=seen["bad"]: seen["bad"] > bad, "a request that meets the end")
            os.truncate(volume.path, len(image))
        stop.set()
        for thread in threads:
            thread.join()
        check(seen["good"] and seen["bad"], f"{seen}: there were requests of both kinds")
        with open(volume.path, "r+b") as out:
            out.seek(middle)
            out.write(image[middle:])
        check(direct_read(path, 0, len(data)) == data, "content of the whole image")
    volume.fsck()


if __name__ == "__main__":
    main()
