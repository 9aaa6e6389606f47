#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: one receive thread does not strand itself: a delayed direct write, a demand for EX and a second request all finish
# timeout: 240
# variants: plain asan
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

DELAY_US = 300000
MIB = 1 << 20


def start(function, *args):
    """Run in a thread; .result holds the outcome after join()."""
    def body():
        try:
            thread.result = function(*args)
        except OSError as error:
            thread.result = error
    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread


def finish(threads):
    for thread in threads:
        thread.join(STEP_SECONDS)
        check(not thread.is_alive(), "a request never came back: the receive thread is stranded")


def direct_write(path, offset, data):
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    try:
        with Aligned(data) as buffer:
            return os.pwrite(fd, buffer, offset)
    finally:
        os.close(fd)


def buffered_write(path, offset, data):
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def demand(mount, path, state):
    return mount.glockctl("demote", path, state, ok=(0, 1)).returncode


def prepare(mount):
    path = mount / "file"
    write_file(path, bytes(MIB), sync=True)
    # The glock in hand and the map in memory: the next direct write takes the fast path.
    direct_write(path, 0, bytes(4096))
    return path


def in_flight(trace, inode, count=1):
    name = f"2/{inode:x}"

    def started():
        return sum(e["event"] == "dio_submit" and e.get("glock") == name
                   for e in trace._read()) >= count
    wait_for(started, "the delayed write to be in flight")


def slow_writes(mount, count):
    mount.glockctl("set", "fault", f"op=write,cls=dio,delay_us={DELAY_US},count={count}")


def ended_before(trace, inode, what):
    """The direct write's end comes before the first event that `what` accepts."""
    events = [e for e in trace.of(inode)]
    ends = [e["seq"] for e in events if e["event"] == "dio_end"]
    later = [e["seq"] for e in events if what(e)]
    check(ends, "no dio_end event")
    check(later, "the transition that was demanded is not in the trace")
    check(ends[0] < later[0], "the lock moved while the direct write was still in flight")


def case_demand_for_ex():
    need_fuse()
    volume = Volume()
    with volume.mount("rx_threads=1") as mount:
        path = prepare(mount)
        inode = os.stat(path).st_ino
        with Trace(mount) as trace:
            slow_writes(mount, 1)
            threads = [start(direct_write, path, 8192, b"a" * 4096)]
            in_flight(trace, inode)
            # EX from here, a second direct request, and one of another file
            threads.append(start(buffered_write, path, 65536, b"b" * 4096))
            threads.append(start(direct_write, path, 16384, b"c" * 4096))
            threads.append(start(write_file, mount / "other", b"other"))
            finish(threads)
        equal([t.result for t in threads[:3]], [4096, 4096, 4096], "results")
        ended_before(trace, inode, lambda e: e["event"] == "glock_promote" and e.get("to") == "EX")
        data = read_file(path)
        equal((data[8192:12288], data[65536:69632], data[16384:20480]),
              (b"a" * 4096, b"b" * 4096, b"c" * 4096), "contents")
    volume.fsck()


def case_demote_to_un():
    need_fuse()
    volume = Volume()
    with volume.mount("rx_threads=1") as mount:
        path = prepare(mount)
        inode = os.stat(path).st_ino
        with Trace(mount) as trace:
            slow_writes(mount, 1)
            threads = [start(direct_write, path, 8192, b"d" * 4096)]
            in_flight(trace, inode)
            threads.append(start(demand, mount, path, "UN"))
            threads.append(start(direct_write, path, 16384, b"e" * 4096))
            finish(threads)
        equal(threads[0].result, 4096, "the delayed write")
        equal(threads[2].result, 4096, "the second write")
        ended_before(trace, inode, lambda e: e["event"] == "glock_state" and e.get("to") == "UN")
    volume.fsck()


def case_many_slow_writes():
    """More requests in flight than there are registered receive buffers, all delayed."""
    need_fuse()
    volume = Volume()
    with volume.mount("rx_threads=1") as mount:
        path = prepare(mount)
        slow_writes(mount, 80)
        threads = [start(direct_write, path, 4096 * i, bytes([i]) * 4096) for i in range(80)]
        threads.append(start(buffered_write, path, 4096 * 100, b"f" * 4096))
        finish(threads)
        equal([t.result for t in threads], [4096] * 81, "results")
        data = read_file(path)
        for i in range(80):
            equal(data[4096 * i:4096 * (i + 1)], bytes([i]) * 4096, f"block {i}")
    volume.fsck()


def case_bursts_and_lone_callers():
    """From many requests at once to one at a time and back: the number of posted reads follows, and
    at no moment is there none."""
    need_fuse()
    volume = Volume()
    with volume.mount("rx_threads=1") as mount:
        path = prepare(mount)
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        with Aligned(bytes(4096)) as data:
            for _ in range(150 if FULL else 40):
                finish([start(os.pwrite, fd, data, 4096 * i) for i in range(24)])
                lone = [start(lambda: [os.pwrite(fd, data, 0) for _ in range(40)])]
                finish(lone)
        os.close(fd)
    volume.fsck()


main()
