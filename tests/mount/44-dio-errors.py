#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: direct writes whose segments fail or come short, that are interrupted, or find no space at the end: one error or the full length
# timeout: 240
# variants: plain asan
"""
Whatever goes wrong under way, the caller gets one error or the full length, never a false length; nobody ever reads what
the device held before; nothing stays in flight and the lock can be given up.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402


MODES = ["sync", "libaio", "io_uring"]
BS = 4096
SEGMENTS = 6
EIO, ENOSPC = -errno.EIO, -errno.ENOSPC


def diow(path, mode, offset, length, byte):
    return int(run([prog("diow"), path, mode, offset, length, byte]).stdout)


def fragmented(path, blocks, holes=()):
    """Every block an extent of its own: the even ones are allocated first."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.ftruncate(fd, blocks * BS)
    for start in (0, 1):
        for number in range(start, blocks, 2):
            if number not in holes:
                os.pwrite(fd, b"a" * BS, number * BS)
        os.fsync(fd)
    inode = os.fstat(fd).st_ino
    os.close(fd)
    return inode


def fault(mount, rule):
    mount.glockctl("set", "fault", rule)


def balanced(mount, path, what):
    """Nothing is in flight, and nobody holds the lock: it can be given up."""
    # An open file stays in memory, whoever has the kernel forget what it caches.
    fd = os.open(path, os.O_RDONLY)
    equal(mount.glockctl("dio", path, json_lines=True)[0]["in_flight"], 0, f"direct requests in flight, {what}")
    mount.glockctl("demote", path, "UN")
    os.close(fd)


def blocks_of(path):
    """A letter per block; ? where a block is not of one kind."""
    data = read_file(path)
    out = ""
    for at in range(0, len(data), BS):
        block = data[at:at + BS]
        out += "?" if block != block[:1] * len(block) else "." if not block[0] else chr(block[0])
    return out


def warm(mount, path, fast):
    """fast: the lock and the map are in hand, so that the thread that receives the request serves it."""
    if fast:
        equal(diow(path, "sync", 0, SEGMENTS * BS, "a"), SEGMENTS * BS, "write without a fault")
    else:
        mount.glockctl("demote", path, "UN")


def submits(mount, path, since):
    events = mount.glockctl("trace", "-s", since, "-t", "0", "-e", "dio_submit", "-g", path, json_lines=True)
    return [event["off"] // BS for event in events]


def next_event(mount):
    return str(mount.glockctl("get", "stats", json_lines=True)[0]["stats"]["events"])


def case_each_segment_fails():
    need_fuse()
    volume = Volume(size="64M", junk=True)
    with volume.mount() as mount:
        for mode in MODES:
            for fast in (False, True):
                path = mount / f"f-{mode}-{fast}"
                fragmented(path, SEGMENTS)
                for segment in range(SEGMENTS):
                    what = f"{mode}, {'fast' if fast else 'worker'}, segment {segment}"
                    warm(mount, path, fast)
                    since = next_event(mount)
                    fault(mount, f"op=write,cls=dio,error=5,skip={segment},count=1")
                    letter = "ABCDEF"[segment]
                    equal(diow(path, mode, 0, SEGMENTS * BS, letter), EIO, f"result, {what}")
                    fault(mount, "none")
                    equal(submits(mount, path, since), list(range(SEGMENTS)), f"segments sent, {what}")
                    balanced(mount, path, what)
                    got = blocks_of(path)
                    equal(got[:segment] + got[segment + 1:], letter * (SEGMENTS - 1), f"the other segments, {what}")
                    check(got[segment] not in "?." + letter, f"the failed segment: {got}, {what}")
                equal(diow(path, mode, 0, SEGMENTS * BS, "Z"), SEGMENTS * BS, f"without a fault, {mode}")
                equal(blocks_of(path), "Z" * SEGMENTS, f"content, {mode}")
    volume.fsck()


def case_more_segments_than_one_round():
    """A request of more extents than are sent at once ends with the round that fails; two failures are one error."""
    need_fuse()
    volume = Volume(size="64M", junk=True)
    with volume.mount() as mount:
        path = mount / "f"
        fragmented(path, 40)
        for rule in ("skip=0,count=1", "skip=20,count=1", "skip=39,count=1", "count=0"):
            fault(mount, "op=write,cls=dio,error=5," + rule)
            equal(diow(path, "libaio", 0, 40 * BS, "E"), EIO, f"result, {rule}")
            fault(mount, "none")
            balanced(mount, path, rule)
        check(set(blocks_of(path)) <= set("aE"), f"content: {blocks_of(path)}")
        equal(diow(path, "libaio", 0, 40 * BS, "Z"), 40 * BS, "without a fault")
        equal(blocks_of(path), "Z" * 40, "content")
    volume.fsck()


def case_short_completions():
    """The device does less than asked for: the rest is sent again, and only an error is one."""
    need_fuse()
    volume = Volume(size="64M", junk=True)
    with volume.mount() as mount:
        for mode in MODES:
            path = mount / f"f-{mode}"
            fragmented(path, SEGMENTS + 2, holes=(SEGMENTS,))
            for fast in (False, True):
                for number, rule in enumerate(("short=512", "short=1024,skip=2,count=3", "short=512,delay_us=2000",
                                               "short=1")):
                    what = f"{mode}, {'fast' if fast else 'worker'}, {rule}"
                    letter = "ABCD"[number] if fast else "KLMN"[number]
                    warm(mount, path, fast)
                    fault(mount, "op=write,cls=dio," + rule)
                    equal(diow(path, mode, 0, SEGMENTS * BS, letter), SEGMENTS * BS, f"result, {what}")
                    fault(mount, "none")
                    balanced(mount, path, what)
                    equal(blocks_of(path), letter * SEGMENTS + ".a", f"content, {what}")
            # Short, then the error: no part of it counts.
            fault(mount, "op=write,cls=dio,short=512,error=5,skip=1,count=1")
            equal(diow(path, mode, 0, SEGMENTS * BS, "X"), EIO, f"short and then an error, {mode}")
            fault(mount, "none")
            # Short before a hole: what is drained is the whole part.
            fault(mount, "op=write,cls=dio,short=512")
            equal(diow(path, mode, 0, (SEGMENTS + 2) * BS, "H"), (SEGMENTS + 2) * BS, f"with a hole, {mode}")
            fault(mount, "none")
            balanced(mount, path, mode)
            equal(blocks_of(path), "H" * (SEGMENTS + 2), f"content, {mode}")
    volume.fsck()


def case_errors_and_a_hole():
    """Data, hole, data: an error in the part that went direct is not hidden by the rest, nor one in the rest by it."""
    need_fuse()
    volume = Volume(size="64M", junk=True)
    with volume.mount() as mount:
        for mode in MODES:
            for cls in ("dio", "data"):
                path = mount / f"f-{mode}-{cls}"
                fragmented(path, 6, holes=(2, 3))
                fault(mount, f"op=write,cls={cls},error=5,count=1")
                equal(diow(path, mode, 0, 6 * BS, "B"), EIO, f"result, {mode}, {cls}")
                fault(mount, "none")
                balanced(mount, path, f"{mode}, {cls}")
                check(set(blocks_of(path)) <= set("aB."), f"content: {blocks_of(path)}, {mode}, {cls}")
                equal(diow(path, mode, 0, 6 * BS, "Z"), 6 * BS, f"without a fault, {mode}, {cls}")
                equal(blocks_of(path), "Z" * 6, f"content, {mode}, {cls}")
    volume.fsck()


# name: what is there before; offset, length of the write.  None of these is for the device alone: part of a block, a gap, data in the inode.
RESTS = {
    "a part of a hole": (b"", 512 << 10, 1024, 1536),
    "parts of two blocks of a hole": (b"", 512 << 10, 3 * BS - 512, 1024),
    "from data into a part of a hole": (b"a" * BS, 512 << 10, 0, BS + 512),
    "behind a gap": (b"a" * BS, BS, 10 * BS, 2 * BS),
    "behind a gap and no whole block": (b"a" * 700, 2 * BS, 10 * BS + 512, 512),
    "the end of a block": (b"a" * (BS + 512), BS + 512, BS + 512, 512),
    "over the end": (b"a" * (BS + 512), BS + 512, BS, 3 * BS + 512),
    "an empty file": (b"", 0, 512, 2 * BS),
    "a file in its inode": (b"a" * 300, 300, 0, 2 * BS),
    "behind a file in its inode": (b"a" * 300, 300, 5 * BS, 1024),
}


def case_errors_of_the_rest():
    """
    The device fails for what is written buffered: holes are holes again, the size is what it was, a file in its inode is there again.
    """
    need_fuse()
    volume = Volume(size="64M", junk=True)
    after = {}
    with volume.mount() as mount:
        for number, (name, (data, size, offset, length)) in enumerate(RESTS.items()):
            path = mount / f"f{number}"
            with open(path, "wb") as file:
                file.write(data)
                file.truncate(size)
                os.fsync(file.fileno())
            before, blocks = read_file(path), os.stat(path).st_blocks
            for skip, count in ((0, 1), (0, 0)):
                fault(mount, f"op=write,cls=data,error=5,skip={skip},count={count}")
                equal(diow(path, "sync", offset, length, "B"), EIO, f"result, {name}")
                fault(mount, "none")
                balanced(mount, path, name)
                got = read_file(path)
                equal(len(got), size, f"size, {name}")
                # What was there may have been written over.
                wanted = bytearray(before)
                for at in range(offset, min(offset + length, len(data))):
                    if got[at:at + 1] == b"B":
                        wanted[at] = got[at]
                same_data(got, bytes(wanted), f"content, {name}")
                equal(os.stat(path).st_blocks, blocks, f"blocks, {name}")
            equal(diow(path, "sync", offset, length, "C"), length, f"without a fault, {name}")
            got = read_file(path)
            equal(got[offset:offset + length], b"C" * length, f"content, {name}")
            check(not set(got) - set(b"aBC\0"), f"stale bytes, {name}")
            after[path] = got
        for path, wanted in after.items():
            mount.glockctl("demote", path, "UN")
            same_data(read_file(path), wanted, str(path))
    volume.fsck()


def case_error_of_ones_own():
    """
    A durable write through buffers: somebody else syncs the file before it does, writes its data, and is told that they could not be
    written.  So is the write.  (In a cluster, where the kernel lets an asynchronous write and fsync at a file together.)
    """
    need_fuse()
    if kernel_before(6, 18):
        skip("older kernels keep their lock of the inode until the write is through, and fsync takes it")
    volume = Volume(size="64M", proto="lock_dlm", table="test:vol")
    with volume.mount("lockproto=lock_local", f"control={temp('control')}") as mount:
        control = Control(mount)
        path = mount / "f"
        write_file(path, b"a" * 2 * BS, sync=True)
        other = os.open(path, os.O_RDWR)
        delay_ms = 100
        while True:
            check(delay_ms < 10000, "the write was always over before fsync was")
            control("demote", f"inode:{os.fstat(other).st_ino}", "UN")
            injected = control.json("get", "--json", "stats")[0]["stats"]["io_injected"]
            # The second block is read first, slowly, since only a part of it is written; the first one is in its buffer by then.
            control("set", "fault", f"op=read,cls=data,delay_us={delay_ms}000,count=1")
            control("set", "fault", "op=write,cls=data,error=5,count=1")
            write = subprocess.Popen([prog("diow"), path, "libaio", "0", str(BS + 512), "B", "buffered"], stdout=subprocess.PIPE, text=True)
            wait_for(lambda: control.json("get", "--json", "stats")[0]["stats"]["io_injected"] > injected, "the block to be read")
            expect_errno(errno.EIO, os.fsync, other)
            in_time = write.poll() is None
            equal(int(write.communicate(timeout=STEP_SECONDS)[0]), EIO, "result of the write")
            control("set", "fault", "none")
            if in_time:
                break
            delay_ms *= 2
        os.close(other)
        control.close()
    volume.fsck()


def case_who_is_told():
    """Buffered data cannot be written: everyone who has the file open hears of it from fsync, once, as with the kernel's own file systems."""
    volume = Volume(size="64M")
    with volume.mount("commit=600") as mount:
        path = mount / "f"
        write_file(path, bytes(65536), sync=True)
        early = [os.open(path, os.O_RDWR) for _ in range(3)]
        fault(mount, "op=write,cls=data,error=5,count=1")
        os.pwrite(early[0], b"x" * 4096, 0)
        for fd in early:
            expect_errno(errno.EIO, os.fsync, fd)
        fault(mount, "none")
        late = os.open(path, os.O_RDWR)
        os.pwrite(late, b"y" * 4096, 0)
        for fd in (late, *early):
            os.fsync(fd)
            os.close(fd)
        equal(read_file(path), b"y" * 4096 + bytes(61440), "contents")
    volume.fsck()


def case_no_space_for_the_rest():
    need_fuse()
    volume = Volume(size="40M", junk=True)
    mount = volume.mount()
    targets = []
    for mode in MODES:
        targets.append(mount / f"f-{mode}")
        fragmented(targets[-1], 4)
        os.truncate(targets[-1], 4 << 20)
    filler = os.open(mount / "filler", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(filler, bytes(1 << 16))
    except OSError as error:
        equal(error.errno, errno.ENOSPC, "errno on a full volume")
    os.close(filler)
    for mode, path in zip(MODES, targets):
        # With no space at all, and with space for a part of the rest; the last two append, in whole blocks and not.
        for offset, length, space in ((0, 1 << 20, 0), (2 << 20, 1 << 20, 0), (1 << 20, 1 << 20, 160 << 10),
                                      (4 << 20, 1 << 20, 160 << 10), (4 << 20, (512 << 10) + 512, 160 << 10)):
            os.truncate(mount / "filler", os.stat(mount / "filler").st_size - space)
            run(["sync", mount.dir])
            equal(diow(path, mode, offset, length, "B"), ENOSPC, f"result, {mode}, offset {offset}")
            balanced(mount, path, mode)
            equal(os.stat(path).st_size, 4 << 20, f"size, {mode}")
            check(set(blocks_of(path)) <= set("aB."), f"stale blocks, {mode}")
    os.unlink(mount / "filler")
    # 33-unlinked.py asks at once.
    wait_for(lambda: os.statvfs(mount).f_bavail * BS >= len(MODES) << 20, "the space of the deleted file")
    wanted = {}
    for mode, path in zip(MODES, targets):
        equal(diow(path, mode, 0, 1 << 20, "C"), 1 << 20, f"with space again, {mode}")
        check(read_file(path)[:1 << 20] == b"C" * (1 << 20), f"content, {mode}")
        wanted[os.path.basename(path)] = sha256_file(path)
    mount.umount()
    volume.fsck()
    with volume.mount("ro") as mount:
        for name, digest in wanted.items():
            equal(sha256_file(mount / name), digest, f"{name} after a remount")


def case_interrupted():
    """A signal while the request is under way (FUSE INTERRUPT): it completes, with its full length."""
    need_fuse()
    volume = Volume(size="64M", junk=True)
    hits = []
    before = signal.signal(signal.SIGUSR1, lambda *_: hits.append(1))
    with volume.mount(f"control={temp('control')}") as mount:
        control = Control(mount)
        path = mount / "f"
        inode = fragmented(path, SEGMENTS + 2, holes=(SEGMENTS,))

        def under_way():
            return control.json("dio", "--json", f"inode:{inode}")[0]["in_flight"]

        def at_rest(what):
            equal(under_way(), 0, f"direct requests in flight, {what}")
            control("demote", f"inode:{inode}", "UN")

        def shower(end):
            wait_for(lambda: under_way() or end.is_set(), "the request to be under way")
            while not end.wait(0.01):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        with Aligned(b"I" * BS * (SEGMENTS + 2)) as data:
            for blocks in (SEGMENTS, SEGMENTS + 2):
                sent, delay_ms = len(hits), 100
                # The device is made slower until a signal is quick enough; the hole is there the first time.
                while len(hits) == sent:
                    check(delay_ms < 5000, f"a write of {blocks} blocks was never seen under way")
                    control("set", "fault", f"op=write,cls=dio,delay_us={delay_ms}000")
                    end = threading.Event()
                    signals = threading.Thread(target=shower, args=(end,))
                    signals.start()
                    equal(os.pwritev(fd, [data[:blocks * BS]], 0), blocks * BS, f"interrupted write, {blocks} blocks")
                    end.set()
                    signals.join()
                    control("set", "fault", "none")
                    delay_ms *= 2
                at_rest(f"{blocks} blocks")
        os.close(fd)
        equal(blocks_of(path), "I" * (SEGMENTS + 2), "content")

        # Killed while it waits: the daemon goes on alone.
        control("set", "fault", "op=write,cls=dio,delay_us=300000")
        writers = [subprocess.Popen([prog("diow"), path, mode, "0", str(SEGMENTS * BS), "K"],
                                    stdout=subprocess.DEVNULL) for mode in MODES]
        wait_for(lambda: under_way() or all(writer.poll() is not None for writer in writers),
                 "the requests to be under way")
        for writer in writers:
            writer.kill()
        for writer in writers:
            writer.wait(STEP_SECONDS)
        control("set", "fault", "none")
        wait_for(lambda: not under_way(), "the requests to end")
        at_rest("killed")
        check(set(blocks_of(path)) <= set("KI"), f"content: {blocks_of(path)}")
        control.close()
        mount.wait_unused()
    signal.signal(signal.SIGUSR1, before)
    volume.fsck()


main()
