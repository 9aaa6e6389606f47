#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: one node fills holes while another writes to allocated space and a third reads: nothing older than promised, nothing that nobody wrote
# timeout: 180
# variants: plain tsan
"""Three lock_local daemons, one file, sector-aligned direct I/O, synchronous and asynchronous (progs/fillholes.c, which judges every word that is
read).  Which locks that takes is counted: filling a hole is EX, after what was started has been drained; writing what is there is DF.

GFS2_TEST_SEED repeats what each thread does (but not who is faster)."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

SECONDS = 60 if FULL else 20    # no more than that, if fillholes has done enough; it ends when the holes are filled
ROUNDS = 12 if FULL else 1
DELAYS = ["none", "op=write,cls=dio,delay_us=1000", "op=write,cls=log,delay_us=3000", "op=read,cls=dio,delay_us=1000"]


EVENTS = ("dio_hole", "dio_drain_begin", "dio_upgrade", "dlm_bast")


class Counter:
    """Counts what happens to the lock of a file on one node."""

    def __init__(self, m, name):
        self.mount, self.name = m, name
        self.out = temp("events")
        with open(self.out, "wb") as out:
            self.process = subprocess.Popen([glockctl_program(), "-m", m.dir, "--json", "trace", "-g", m / name, "-e",
                                             "glock_state," + ",".join(EVENTS)], stdout=out, stderr=subprocess.STDOUT)
        self.mark()

    def events(self):
        with open(self.out, errors="replace") as lines:
            return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    def mark(self):
        """Have something happen until it is seen: everything before it has been seen then, too."""
        size = os.path.getsize(self.out)

        def seen():
            check(self.process.poll() is None, f"glockctl trace ended by itself: {read_file(self.out)[-1000:]}")
            self.mount.glockctl("demote", f"inode:{os.stat(self.mount / self.name).st_ino}", "UN")
            return os.path.getsize(self.out) > size

        wait_for(seen, "the trace to show an event", pause=0.05)

    def counts(self):
        self.mark()
        self.process.terminate()
        self.process.wait()
        states = [event.get("to") for event in self.events() if event["event"] == "glock_state"]
        names = [event["event"] for event in self.events()]
        return {**{state: states.count(state) for state in ("EX", "DF", "SH", "UN")}, **{name: names.count(name) for name in EVENTS}}


def together(bs, rounds, seed):
    rng = random.Random(seed)
    # Blocks that have not been written yet have junk in them.
    volume = Volume(size="192M", bs=bs, journals=3, proto="lock_dlm", table="test:vol", junk=True)
    mounts = [volume.mount("lockproto=lock_local") for _ in range(3)]
    for turn in range(rounds):
        name = f"file{turn}"
        for m in mounts:
            m.glockctl("set", "fault", rng.choice(DELAYS) if turn or FULL else "none")
        write_file(mounts[0] / name, b"")
        counters = [Counter(m, name) for m in mounts]
        out = run([prog("fillholes"), ",".join(m / name for m in mounts), SECONDS, seed + turn], timeout=STEP_SECONDS + SECONDS).stdout
        done = dict(zip(out.split()[::2], map(int, out.split()[1::2])))
        seen = [counter.counts() for counter in counters]
        log(f"{bs}: {out.strip()}; " + "; ".join(
            f"{who}: " + " ".join(f"{key} {count}" for key, count in one.items() if count) for who, one in zip(("filler", "writer", "reader"), seen)))
        check(done["fills"] > 50 and done["writes"] > 50 and done["reads"] > 10 and done["zeros"],
              "too little was done at once")
        # Holes are found and filled; some of these writes had begun in front of it and were waited for.
        check(seen[0]["dio_hole"] > 50 and seen[0]["dio_upgrade"] and seen[0]["dio_drain_begin"] and seen[0]["EX"], f"filling: {seen[0]}")
        # Who writes to what is there never falls back; who reads never needs more than DF (SH through the page cache).
        check(not seen[1]["dio_hole"] and not seen[1]["dio_upgrade"] and seen[1]["DF"], f"writing: {seen[1]}")
        check(not seen[2]["dio_hole"] and not seen[2]["dio_upgrade"] and not seen[2]["EX"] and seen[2]["DF"] and seen[2]["SH"], f"reading: {seen[2]}")
        # The lock has gone to and fro.
        check(min(seen[0]["EX"], seen[1]["DF"], seen[2]["DF"]) >= 3, f"hand-overs: {seen}")
    for m in mounts:
        m.glockctl("set", "fault", "none")
        m.umount()
    volume.fsck()


def case_holes_writes_and_reads():
    need_fuse()
    together(4096, ROUNDS, SEED)


def case_small_blocks():
    """A file with indirect blocks from the start; a filler's write is of many blocks."""
    need_fuse()
    together(512, ROUNDS, SEED + 1000)


if __name__ == "__main__":
    main()
