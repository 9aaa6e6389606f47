#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: short_dio=: what a direct write meets, how it is made, how it is aligned, five behaviours: result, device, contents, locks
# timeout: 240
# variants: plain asan
"""
The table of the five behaviours, request by request.

What must come out is told by rules() below, from what the file looks like and which behaviour is set: nothing of it was
taken from a run. The bytes on the device are those at the moment the write returned: the image is copied before anything
else is asked of the daemon, which might write something back.
"""
import ctypes
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402


MODES = ["sync", "libaio", "io_uring"]
OUTCOMES = ["direct", "hole", "eof", "stuffed", "jdata", "misaligned", "demote"]
BEHAVIOURS = ["drain", "async", "fail", "precheck", "blockdev"]
BS = 4096
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
KEEP_SIZE, PUNCH_HOLE = 1, 2

# What a request meets. The file, a letter per block: x data, f allocated by fallocate, . hole, p punched out of data;
# or its size in bytes, when its data lie in the inode. Then the request, in blocks: first, number.
CASES = {
    "data": ("xxxxxxxx", 1, 5),
    "hole": ("x......x", 1, 5),
    "data-hole": ("xxx...xx", 1, 5),
    "hole-data": ("x..xxxxx", 1, 6),
    "data-hole-data": ("xxx.xxxx", 1, 6),
    "two holes": ("xx.xx.xx", 1, 6),
    "at EOF": ("xxxx", 4, 2),
    "past EOF": ("xxxx", 7, 2),
    "straddling EOF": ("xxxx", 2, 4),
    "stuffed": (1500, 0, 1),
    "fallocated": ("xxffffxx", 1, 5),
    "punched": ("xxxppxxx", 1, 6),
}


class Request:
    """One case with its request in bytes, aligned to the block or to the sector only."""

    def __init__(self, case, aligned):
        self.layout, first, count = CASES[case]
        self.stuffed = isinstance(self.layout, int)
        self.size = self.layout if self.stuffed else len(self.layout) * BS
        self.offset, self.length = first * BS, count * BS
        if not aligned and self.stuffed:
            self.offset, self.length = 512, 512
        elif not aligned:
            self.offset, self.length = self.offset + 512, self.length - 1536
        self.end = self.offset + self.length

    def content(self):
        if self.stuffed:
            return b"a" * self.size
        return b"".join((b"a" if letter == "x" else b"\0") * BS for letter in self.layout)

    def first_hole(self):
        """Where the request, which lies within the file, meets its first hole; None: nowhere."""
        for at in range(self.offset // BS, (self.end + BS - 1) // BS):
            if self.layout[at] in ".p":
                return max(at * BS, self.offset)
        return None

    def make(self, path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        if self.stuffed:
            os.pwrite(fd, b"a" * self.size, 0)
        else:
            os.ftruncate(fd, self.size)
            # What becomes a run is allocated by one call, so that it lies in one piece.
            for found in re.finditer("[xp]+|f+", self.layout):
                start, length = found.start() * BS, (found.end() - found.start()) * BS
                if found[0][0] == "f":
                    fallocate(fd, 0, start, length)
                else:
                    os.pwrite(fd, b"a" * length, start)
            for found in re.finditer("p+", self.layout):
                fallocate(fd, PUNCH_HOLE | KEEP_SIZE, found.start() * BS, (found.end() - found.start()) * BS)
        os.fsync(fd)
        inode = os.fstat(fd).st_ino
        os.close(fd)
        return inode


class Expected:
    """What the rules say of one request."""

    def __init__(self, result, direct, buffered, why=None, drained=None, rule=None):
        self.result = result        # bytes, or a negative errno
        self.direct = direct        # bytes that go direct, from the request's start on
        self.buffered = buffered    # where the part starts that is written buffered under EX, or None
        self.why = why              # what made it fall back: "hole", "eof", "stuffed"
        self.drained = drained      # must the part under way be waited for, as an event? None: not said
        self.rule = rule            # blockdev's reason to wait


def rules(request, behaviour, mode):
    """Design section 5, steps 1 to 5 and the table of behaviours."""
    whole = request.length
    # 1. Past the end or stuffed: buffered, whatever the behaviour.
    if request.stuffed:
        return Expected(whole, 0, request.offset, "stuffed")
    if request.end > request.size:
        return Expected(whole, 0, request.offset, "eof", rule="end>EOF" if behaviour == "blockdev" else None)
    hole = request.first_hole()
    # 3. Everything mapped: direct.
    if hole is None:
        return Expected(whole, whole, None, drained=False)
    started = hole - request.offset
    if behaviour == "precheck":
        return Expected(whole, 0, request.offset, "hole")
    if behaviour == "fail":
        return Expected(-errno.EIO, started, None, drained=started > 0 or None)
    if behaviour == "async" and started:
        # The started part completes by itself, short: FUSE makes EIO of it for asynchronous callers.
        return Expected(started if mode == "sync" else -errno.EIO, started, None, drained=False)
    # 4. Drain, EX, the rest buffered. Nothing started (hole first): nothing to wait for, the full length also under async.
    return Expected(whole, started, hole, "hole", drained=started > 0 or None,
                    rule="result!=count" if behaviour == "blockdev" else None)


def fallocate(fd, mode, offset, length):
    if LIBC.fallocate(fd, mode, offset, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def snapshot(image):
    """What the image file holds now: a list of (offset, bytes)."""
    found, at, end = [], 0, os.fstat(image).st_size
    while at < end:
        try:
            start = os.lseek(image, at, os.SEEK_DATA)
        except OSError:
            break
        at = os.lseek(image, start, os.SEEK_HOLE)
        found.append((start, os.pread(image, at - start, start)))
    return found


def block_of(shot, number):
    for start, data in shot:
        if start <= number * BS < start + len(data):
            return data[number * BS - start:(number + 1) * BS - start].ljust(BS, b"\0")
    return bytes(BS)


def on_device(shot, rows):
    """The file as the blocks on the device say; what has no block is None. rows: the answer of `map`."""
    blocks = {}
    for row in rows[1:]:
        if row["map"] == "disk" and row["pblock"]:
            for n in range(row["len"]):
                blocks[row["lblock"] + n] = block_of(shot, row["pblock"] + n)
    return blocks


def patched(content, request, start, end):
    """The content after 'B' was written from start to end."""
    content = bytearray(content.ljust(end, b"\0"))
    content[start:end] = b"B" * (end - start)
    return bytes(content)


def read_direct(path, length):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    with Aligned(length + BS - length % BS) as view:
        got = os.preadv(fd, [view], 0)
        data = bytes(view[:got])
    os.close(fd)
    return data


def check_device(request, want, expected, shot, rows, what):
    """At the return of the write, the blocks of the file had what was written by it."""
    if rows[0]["stuffed"]:
        # Data in the inode are metadata, durable in the journal: a copy of the inode somewhere has them.
        number = rows[0]["inode"].to_bytes(8, "big")
        check(any(data[at + 32:at + 40] == number and data[at + 232:at + 232 + len(want)] == want
                  for _, data in shot for at in range(0, len(data), BS)), f"the inode on the device, {what}")
        return
    blocks = on_device(shot, rows)
    for at in range((len(want) + BS - 1) // BS):
        wanted = want[at * BS:(at + 1) * BS].ljust(BS, b"\0")
        if at in blocks:
            check(blocks[at] == wanted, f"block {at} on the device at return, {what}")
        else:
            check(not any(wanted), f"block {at} is not allocated, {what}")
    # Where nothing was written there still is a hole: under EX only what was asked for is allocated.
    if not request.stuffed:
        written = range(request.offset, request.end if expected.buffered is not None
                        else request.offset + expected.direct)
        for at, letter in enumerate(request.layout):
            if letter in ".p" and not (written and written[0] < (at + 1) * BS and at * BS <= written[-1]):
                check(at not in blocks, f"block {at} was allocated, {what}")


def check_events(request, expected, events, what):
    names = [event["event"] for event in events]
    check(names and names[0] == "dio_begin" and names[-1] == "dio_end", f"events {names}, {what}")
    equal((events[0]["off"], events[0]["len"]), (request.offset, request.length), f"range of dio_begin, {what}")

    submits = sorted((event["off"], event["len"]) for event in events if event["event"] == "dio_submit")
    at = request.offset
    for offset, length in submits:
        equal(offset, at, f"where a run starts, {what}")
        at += length
    equal(at - request.offset, expected.direct, f"bytes submitted under DF, {what}")

    # Every request looks under DF; EX only to fall back. The holders bear the names of who wants them.
    queued = [(event["to"], event["reason"]) for event in events if event["event"] == "glock_queue"]
    equal(queued, [("DF", "dio_write_lock")] + ([] if expected.buffered is None else [("EX", "dio_fall_back")]),
          f"locks asked for, {what}")
    moves = [event["to"] for event in events if event["event"] == "glock_state"]
    equal(moves, ["DF"] if expected.buffered is None else ["DF", "EX"], f"states of the lock, {what}")
    held = None
    for event in events:
        if event["event"] == "glock_promote":
            held = event["to"]
        elif event["event"] == "glock_dequeue":
            held = None
        elif event["event"] == "dio_submit":
            equal(held, "DF", f"the lock that was held when a run was sent, {what}")
        elif event["event"] == "glock_state" and event["to"] == "EX":
            equal(held, None, f"the lock that was held when EX was taken, {what}")

    if expected.drained is not None:
        drains = names.count("dio_drain_end") if expected.direct else 0
        equal(bool(drains), expected.drained, f"was there a drain, {what}")
    if expected.drained:
        ex = [n for n, event in enumerate(events) if event["event"] == "glock_state" and event["to"] == "EX"]
        last_run = max(n for n, name in enumerate(names) if name == "dio_submit")
        check(last_run < names.index("dio_drain_end") < min(ex, default=len(names)),
              f"order of runs, drain and EX: {names}, {what}")
    buffered = [(event["off"], event["len"], event["rc"], event["reason"]) for event in events
                if event["event"] == "dio_buffered"]
    if expected.buffered is None:
        equal(buffered, [], f"buffered parts, {what}")
        check("dio_upgrade" not in names, f"an upgrade, {what}")
    else:
        length = request.end - expected.buffered
        equal(buffered, [(expected.buffered, length, length, expected.why)], f"buffered part, {what}")
        check("log_flush" in names[names.index("dio_buffered"):], f"not durable at return: {names}, {what}")
    said = [event["reason"] for event in events if event["event"] == "dio_drain_begin" and "reason" in event]
    equal(said, [expected.rule] if expected.rule else [], f"the rule that blockdev waits by, {what}")


def check_counts(control, request, expected, inode, what):
    """The one request of this file was counted for what became of it, and nothing is left in flight."""
    reason = expected.why or ("direct" if request.first_hole() is None else "hole")
    counts = control.json("dio", "--json", f"inode:{inode}")[0]
    equal(counts, {"inode": inode, "in_flight": 0} | {name: int(name == reason) for name in OUTCOMES},
          f"counts, {what}")


def the_events(control, since, inode):
    """Of the direct write to the inode, from its begin to its end; with the log flushes between."""
    events = control.json("trace", "-s", since, "-t", 0)
    glock = f"2/{inode:x}"
    mine = [n for n, event in enumerate(events) if event.get("glock") == glock]
    first = next(n for n in mine if events[n]["event"] == "dio_begin")
    last = next(n for n in reversed(mine) if events[n]["event"] == "dio_end")
    return [event for event in events[first:last + 1]
            if event.get("glock") == glock or event["event"] == "log_flush"]


def one_write(mount, control, image, case, mode, aligned, behaviour):
    what = f"{case}, {mode}, aligned to the {'block' if aligned else 'sector'}, short_dio={behaviour}"
    request = Request(case, aligned)
    expected = rules(request, behaviour, mode)
    path = mount / f"{case}-{mode}-{aligned}-{behaviour}"
    inode = request.make(path)
    control("demote", f"inode:{inode}", "UN")
    since = control.json("get", "--json", "stats")[0]["stats"]["events"]

    got = int(run([prog("diow"), path, mode, request.offset, request.length, "B"]).stdout)
    shot = snapshot(image)
    check_counts(control, request, expected, inode, what)
    equal(got, expected.result, f"result, {what}")
    check_events(request, expected, the_events(control, since, inode), what)
    end = request.end if expected.buffered is not None else request.offset + expected.direct
    want = patched(request.content(), request, request.offset, end) if end > request.offset else request.content()
    check_device(request, want, expected, shot, control.json("map", "--json", f"inode:{inode}"), what)
    equal(os.stat(path).st_size, len(want), f"size, {what}")
    check(read_direct(path, len(want)) == want, f"content read direct, {what}")
    check(read_file(path) == want, f"content read buffered, {what}")
    return os.path.basename(path), want


def table(aligned):
    need_fuse()
    volume = Volume(size="48M")
    wanted = {}
    image = os.open(volume.path, os.O_RDONLY)
    with volume.mount(f"control={temp('control')}", "commit=3600", "dio_mtime_interval=3600") as mount:
        control = Control(mount)
        for behaviour in BEHAVIOURS:
            control("set", "short_dio", behaviour)
            for case in CASES:
                for mode in MODES:
                    name, want = one_write(mount, control, image, case, mode, aligned, behaviour)
                    wanted[name] = want
        control.close()
    os.close(image)
    volume.fsck()
    with volume.mount("ro") as mount:
        for name, want in wanted.items():
            check(read_file(mount / name) == want, f"content after a remount, {name}")


def case_block_aligned():
    table(True)


def case_sector_aligned():
    table(False)


def case_mount_option():
    """The option of the mount says what `glockctl set` can say later."""
    need_fuse()
    volume = Volume(size="48M")
    results = {"drain": 8192, "async": 4096, "fail": -errno.EIO, "precheck": 8192, "blockdev": 8192, None: 8192}
    for behaviour, result in results.items():
        with volume.mount(*[f"short_dio={behaviour}"] if behaviour else []) as mount:
            equal(mount.glockctl("get", "short_dio").stdout.strip(), behaviour or "drain", "short_dio")
            path = mount / f"f-{behaviour}"
            write_file(path, b"a" * BS, sync=True)
            os.truncate(path, 4 * BS)
            equal(int(run([prog("diow"), path, "sync", 0, 8192, "B"]).stdout), result, f"result, {behaviour}")
            done = mount.glockctl("set", "short_dio", "sometimes", ok=(1,))
            check("sometimes" in done.stdout, f"refusal: {done.stdout}")
            # Set on the mounted file system, it holds from the next request on.
            mount.glockctl("set", "short_dio", "fail")
            equal(int(run([prog("diow"), path, "sync", 8192, 8192, "C"]).stdout), -errno.EIO, "after set")
            mount.glockctl("set", "short_dio", "drain")
            equal(int(run([prog("diow"), path, "sync", 8192, 8192, "C"]).stdout), 8192, "after set")
    volume.fsck()


def stats(mount):
    return mount.glockctl("get", "stats", json_lines=True)[0]["stats"]


def case_counters():
    """`glockctl dio` and `get stats`: reasons of a file and of all, and where the time went."""
    need_fuse()
    volume = Volume(size="48M")
    with volume.mount() as mount:
        path = mount / "f"
        write_file(path, b"a" * 4 * BS, sync=True)
        os.truncate(path, 16 * BS)
        since = stats(mount)
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        with Aligned(b"B" * 4 * BS) as data:
            equal(os.pwrite(fd, data, 0), 4 * BS, "into data")
            equal(os.pwrite(fd, data, 8 * BS), 4 * BS, "into a hole")
            equal(os.pwrite(fd, data, 14 * BS), 4 * BS, "past the end")
            equal(os.preadv(fd, [data], 0), 4 * BS, "read")
            expect_errno(errno.EINVAL, os.pwrite, fd, data[:100], 0)
        os.close(fd)
        wanted = dict.fromkeys(OUTCOMES, 0) | {"direct": 2, "hole": 1, "eof": 1, "misaligned": 1}
        got = mount.glockctl("dio", path, json_lines=True)[0]
        equal(got, {"inode": os.stat(path).st_ino, "in_flight": 0} | wanted, "counts of the file")
        text = dict(line.split() for line in mount.glockctl("dio", path).stdout.splitlines())
        equal(text, {name: str(number) for name, number in got.items()}, "the same as text")
        equal({name: stats(mount)["dio_" + name] - since["dio_" + name] for name in OUTCOMES}, wanted,
              "counts of the file system")

        # jdata: the flag comes when the file is open for direct I/O already.
        journaled = mount / "j"
        fd = os.open(journaled, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        run(["chattr", "+j", journaled])
        with Aligned(b"J" * BS) as data:
            equal(os.pwrite(fd, data, 0), BS, "write of journaled data")
        os.close(fd)
        equal(mount.glockctl("dio", journaled, json_lines=True)[0]["jdata"], 1, "jdata")

        # A device that takes 60 ms: every phase is where it belongs.
        def total(name, now, then, at_least=0):
            return sum(count - then[name].get(below, 0) for below, count in now[name].items()
                       if int(below) > at_least)

        mount.glockctl("demote", path, "UN")
        mount.glockctl("set", "fault", "op=write,cls=dio,delay_us=60000")
        since = stats(mount)
        equal(int(run([prog("diow"), path, "sync", 0, 4 * BS, "C"]).stdout), 4 * BS, "slow write")
        # The answer is out before its time has been noted.
        now = wait_for(lambda: (now := stats(mount)) and total("dio_reply_ns", now, since) and now, "the reply's time")
        mount.glockctl("set", "fault", "none")
        for phase, number in (("lock", 1), ("map", 1), ("device", 1), ("buffered", 0), ("reply", 1)):
            equal(total(f"dio_{phase}_ns", now, since), number, f"times of the phase {phase}")
        equal(total("dio_device_ns", now, since, 60000000), 1, "times of the device that are over 60 ms")
        lines = mount.glockctl("get", "stats").stdout.splitlines()
        check(any(line.startswith("dio_device_ns.") for line in lines), f"no histogram among {lines}")
        # What is served where it was received waits neither for the lock nor for the map.
        since = stats(mount)
        for _ in range(5):
            equal(int(run([prog("diow"), path, "libaio", 0, 4 * BS, "D"]).stdout), 4 * BS, "write")
        now = wait_for(lambda: (now := stats(mount)) and total("dio_reply_ns", now, since) >= 5 and now,
                       "the replies' times")
        fast, worker = (now[name] - since[name] for name in ("dio_fast_writes", "dio_worker_writes"))
        equal(fast + worker, 5, "writes, fast and by a worker")
        equal(total("dio_lock_ns", now, since, 1), worker, "waits for the lock")
        equal(total("dio_lock_ns", now, since), 5, "waits for the lock, with those that waited for nothing")
        equal(total("dio_device_ns", now, since), 5, "times of the device")
        done = mount.glockctl("dio", "inode:1", ok=(1,))
        check("not in memory" in done.stdout, f"refusal: {done.stdout}")
    volume.fsck()


def case_generic_240():
    """Sector-aligned writes of several threads into holes: with async they come out short, and the program says where to
    look; by default never."""
    need_fuse()
    volume = Volume(size="96M")
    with volume.mount("short_dio=async") as mount:
        for mode in MODES:
            done = run([prog("dio240"), mount / f"async-{mode}", mode, 2, 1 << 20, SEED], ok=(1,))
            check("was short" in done.stdout if mode == "sync" else os.strerror(errno.EIO) in done.stdout,
                  f"what dio240 says: {done.stdout}")
            for hint in ("glockctl get short_dio", "glockctl trace -s 0 -t 0 -e dio_begin,dio_hole,dio_drain_begin,"
                         "dio_upgrade,dio_end -g " + str(mount / f"async-{mode}")):
                check(hint in done.stdout, f"no word of {hint}: {done.stdout}")
            # It is as it says: the trace shows a hole after a started part, and no upgrade for that request.
            events = mount.glockctl("trace", "-s", "0", "-t", "0", "-e", "dio_begin,dio_hole,dio_upgrade,dio_end", "-g",
                                    mount / f"async-{mode}", json_lines=True)
            cut = [event["req"] for event in events
                   if event["event"] == "dio_end" and event["reason"] == "write" and 0 < event["rc"] < event["len"]]
            holes = {event["req"] for event in events if event["event"] == "dio_hole"}
            upgrades = {event["req"] for event in events if event["event"] == "dio_upgrade"}
            check(cut and set(cut) <= holes and not set(cut) & upgrades, f"short requests {cut} in the trace")
        mount.glockctl("set", "short_dio", "drain")
        for mode in MODES:
            run([prog("dio240"), mount / f"drain-{mode}", mode, 2, 1 << 20, SEED])
    volume.fsck()


main()
