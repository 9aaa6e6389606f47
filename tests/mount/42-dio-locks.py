#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: the lock transitions of direct writes, as the trace shows them: DF for mapped ranges, drain and DF to EX at a hole
# timeout: 180
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from calls import file_clock, next_tick    # noqa: E402
from testlib import *    # noqa: E402


K = 1024


def prepare(mount, pieces, size):
    """A file with the given data pieces, its glock given up and so nothing cached."""
    path = mount / "f"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for offset, length in pieces:
        os.pwrite(fd, b"a" * length, offset)
    os.ftruncate(fd, size)
    os.fsync(fd)
    inode = os.fstat(fd).st_ino
    os.close(fd)
    mount.glockctl("demote", f"inode:{inode}", "UN")
    return path, inode


def traced_write(mount, mode, pieces, size, offset, length, *flags):
    """The events of one direct write, from its dio_begin to its dio_end."""
    path, inode = prepare(mount, pieces, size)
    with Trace(mount) as trace:
        done = run([prog("diow"), path, mode, offset, length, "B", *flags])
        equal(int(done.stdout), length, "result of the write")
    sequence = [event["seq"] for event in trace.events]
    equal(sequence, sorted(set(sequence)), "the events' numbers")
    for event in trace.events:
        check(event["event"] and event["t_ns"] > 0, f"incomplete event {event}")
    names = [event["event"] for event in trace.of(inode)]
    check("dio_begin" in names and "dio_end" in names, f"no direct write in the trace: {names}")
    first, last = names.index("dio_begin"), names.index("dio_end")
    begin, end = trace.of(inode)[first], trace.of(inode)[last]
    equal((begin["off"], begin["len"]), (offset, length), "range of dio_begin")
    equal(end["rc"], length, "rc of dio_end")
    # Log flushes carry no glock: those between begin and end belong to the picture.
    return [event for event in trace.events if begin["seq"] <= event["seq"] <= end["seq"]
            and (event.get("glock") == f"2/{inode:x}" or event["event"] == "log_flush")], trace, inode


def states(events):
    """The chain of states the glock went through."""
    changes = [event for event in events if event["event"] == "glock_state"]
    return [changes[0]["from"]] + [event["to"] for event in changes] if changes else []


def names(events):
    return [event["event"] for event in events]


def in_order(events, *wanted):
    """The wanted names occur in this order, others may lie between; their events."""
    found, rest = [], iter(events)
    for name in wanted:
        event = next((event for event in rest if event["event"] == name), None)
        check(event, f"no {name} where it belongs in {names(events)}")
        found.append(event)
    return found


def on_mount(function):
    def wrapped():
        need_fuse()
        volume = Volume(size="128M")
        with volume.mount() as mount:
            for mode in ("sync", "libaio", "io_uring"):
                function(mount, mode)
        volume.fsck()
    return wrapped


@on_mount
def case_mapped(mount, mode):
    events, trace, inode = traced_write(mount, mode, [(0, 256 * K)], 256 * K, 16 * K, 64 * K)
    for absent in ("dio_hole", "dio_drain_begin", "dio_upgrade", "dio_buffered"):
        check(absent not in names(events), f"{absent} in a write into mapped space: {names(events)}")
    submits = [event for event in events if event["event"] == "dio_submit"]
    equal(sum(event["len"] for event in submits), 64 * K, "bytes submitted")
    changes = [event["to"] for event in trace.of(inode) if event["event"] == "glock_state"]
    check("DF" in changes, f"the glock went through {changes}, not DF")
    check("EX" not in states(events), f"EX during a write into mapped space: {states(events)}")


@on_mount
def case_data_then_hole(mount, mode):
    events, _, _ = traced_write(mount, mode, [(0, 32 * K)], 256 * K, 16 * K, 64 * K)
    submit, hole, begin, end, upgrade, buffered, _ = in_order(
        events, "dio_submit", "dio_hole", "dio_drain_begin", "dio_drain_end", "dio_upgrade",
        "dio_buffered", "dio_end")
    equal((submit["off"], submit["len"]), (16 * K, 16 * K), "submitted range")
    equal(hole["off"], 32 * K, "offset of the hole")
    equal((buffered["off"], buffered["len"]), (32 * K, 48 * K), "buffered range")
    check(begin["seq"] < end["seq"] < upgrade["seq"], "order of drain and upgrade")
    before = [event for event in events if event["seq"] < end["seq"]]
    check("EX" not in states(before), f"EX before the drain has ended: {states(before)}")
    after = states([event for event in events if event["seq"] > end["seq"]])
    check(after and after[0] == "DF" and after[-1] == "EX", f"states after the drain: {after}")


@on_mount
def case_hole_first(mount, mode):
    events, _, _ = traced_write(mount, mode, [(128 * K, 32 * K)], 256 * K, 16 * K, 64 * K)
    hole, upgrade, buffered, _ = in_order(events, "dio_hole", "dio_upgrade", "dio_buffered", "dio_end")
    equal(hole["off"], 16 * K, "offset of the hole")
    check("dio_submit" not in names(events), f"something was submitted: {names(events)}")
    equal((buffered["off"], buffered["len"]), (16 * K, 64 * K), "buffered range")
    check(upgrade["seq"] < buffered["seq"], "order")
    check("EX" in states(events), f"states: {states(events)}")


@on_mount
def case_fallback_is_durable(mount, mode):
    """A write that fell back has committed its allocation before it returns."""
    events, _, _ = traced_write(mount, mode, [], 256 * K, 16 * K, 64 * K)
    in_order(events, "dio_hole", "log_flush", "dio_end")


@on_mount
def case_past_end(mount, mode):
    """Nothing is tried under DF past the end of the file: EX and buffered from the start."""
    events, _, _ = traced_write(mount, mode, [(0, 32 * K)], 32 * K, 32 * K, 16 * K)
    check("dio_submit" not in names(events), f"something was submitted: {names(events)}")
    (buffered,) = in_order(events, "dio_buffered")
    equal((buffered["off"], buffered["len"]), (32 * K, 16 * K), "buffered range")
    in_order(events, "log_flush", "dio_end")


@on_mount
def case_stuffed(mount, mode):
    events, _, _ = traced_write(mount, mode, [(0, 100)], 100, 0, 512)
    check("dio_submit" not in names(events), f"something was submitted: {names(events)}")
    in_order(events, "dio_buffered", "dio_end")


def case_reader_demotes_writer():
    """demote by hand plays another node: the state is given up, and data written is not lost."""
    need_fuse()
    volume = Volume(size="128M")
    with volume.mount() as mount:
        path, inode = prepare(mount, [(0, 64 * K)], 64 * K)
        equal(int(run([prog("diow"), path, "sync", 0, 4096, "B"]).stdout), 4096, "write")
        for state in ("UN", "SH", "UN"):
            write_file(path, b"c" * 70000)
            mount.glockctl("demote", f"inode:{inode}", state)
            equal(read_file(path), b"c" * 70000, f"content after the demotion to {state}")
    volume.fsck()


def mtime_writes(mount, path):
    """Direct writes into allocated space, a moment apart: their events, and the times that stat showed after each."""
    inode = os.stat(path).st_ino
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    times = [os.fstat(fd).st_mtime_ns]
    with Trace(mount) as trace, Aligned(b"t" * 4096) as data:
        for number in range(3):
            next_tick()
            before = file_clock()
            os.pwrite(fd, data, 4096 * number)
            after = time.time_ns()
            times.append(os.stat(path).st_mtime_ns)
            check(before <= times[-1] <= after, f"mtime {times[-1]} of a write from {before} to {after}")
    os.close(fd)
    check(times == sorted(set(times)), f"times that do not grow: {times}")
    events = trace.of(inode)
    writes = [e for e in events if e["event"] == "dio_begin" and e.get("reason") == "write"]
    equal(len(writes), 3, "direct writes")
    return [[e for e in events if e["req"] == write["req"]] for write in writes]


def case_mtime_strict():
    """dio_mtime=strict: EX, before DF, for every write of a new tick, as the kernel's gfs2; by default not for any."""
    need_fuse()
    volume = Volume(size="128M")
    with volume.mount("dio_mtime=strict") as mount:
        path = mount / "f"
        write_file(path, bytes(65536), sync=True)
        for events in mtime_writes(mount, path):
            got = [(e["to"], e["reason"]) for e in events if e["event"] == "glock_queue"]
            # (The receive thread may have had a look under DF before.)
            equal([state for state, _ in got[-2:]], ["EX", "DF"], f"locks of a strict write: {got}")
            equal(got[-2][1], "dio_update_time_strict", "what EX is for")
        last = os.stat(path).st_mtime_ns
        # It was logged with the write: nothing is left that only an orderly end would save.
        fd = os.open(mount / "g", os.O_WRONLY | os.O_CREAT)
        os.fsync(fd)
        os.close(fd)
        mount.kill()
    with volume.mount() as mount:
        path = mount / "f"
        equal(os.stat(path).st_mtime_ns, last, "mtime after a crash")
        equal(read_file(path)[:12288], b"t" * 12288, "contents")
        for events in mtime_writes(mount, path):
            check("EX" not in [e["to"] for e in events if e["event"] == "glock_queue"], "EX for a write")
    volume.fsck()


def case_close_does_not_wait():
    """Who closes a file after a direct write does not wait for the direct writes of others, nor keep them waiting."""
    need_fuse()
    if kernel_before(6, 2):
        skip("before Linux 6.2 a direct write keeps the kernel's lock of the inode, which close(2) takes")
    volume = Volume(size="128M")
    with volume.mount("dio_mtime_interval=3600", f"control={temp('control')}") as mount, Aligned(b"c" * 4096) as data:
        path = mount / "f"
        write_file(path, bytes(65536), sync=True)
        fds = [os.open(path, os.O_RDWR | os.O_DIRECT) for _ in range(2)]
        inode = os.fstat(fds[0]).st_ino
        control = Control(mount)

        def in_flight():
            return control.json("dio", "--json", f"inode:{inode}")[0]["in_flight"]

        seconds = 1
        while True:
            os.pwrite(fds[1], data, 4096)   # its time is to be published
            control("set", "fault", f"op=write,cls=dio,delay_us={seconds}000000")
            slow = threading.Thread(target=os.pwrite, args=(fds[0], data, 0))
            begin = time.monotonic()
            slow.start()
            wait_for(lambda: in_flight() or not slow.is_alive(), "the slow write to be under way")
            control("set", "fault", "none")
            os.close(fds[1])
            after = in_flight()
            took = time.monotonic() - begin
            mtime = os.stat(path).st_mtime_ns
            slow.join()
            if after:
                break
            # Either it waited, or this machine was not quick enough to tell.
            check(took > seconds and seconds < 16, f"close came back after the write, in {took:.1f} s")
            seconds *= 2
            fds[1] = os.open(path, os.O_RDWR | os.O_DIRECT)
        check(abs(time.time_ns() - mtime) < 3600 * 10**9, "a time of today")
        os.close(fds[0])
        control.close()
    volume.fsck()


main()
