#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: random operations on shared files and directories by three lock_local daemons at once; there must be an order that explains all results
# timeout: 240
"""Two processes on each node do the same kinds of things to the same files (clusterops.c): buffered, direct, asynchronous and mapped I/O,
holes, cuts, appends, names, attributes, xattrs, ACLs.  lib/history.py judges what they saw.  Meanwhile the nodes' I/O is
slowed down, now here, now there, so that locks are asked for at all moments.

GFS2_TEST_SEED repeats what each process does (but not who is faster)."""
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import history    # noqa: E402
from journal import journals    # noqa: E402
from testlib import *    # noqa: E402

PER_NODE = 2
SECONDS = 20 if FULL else 8
KILLS = 3
# Each time a new volume: what is judged at once has to be kept in memory.
TIMES = 17 if FULL else 1
# What makes moments long at which something else can happen.
DELAYS = ["none", "op=read,cls=data,delay_us=2000", "op=write,cls=data,delay_us=2000", "op=write,cls=dio,delay_us=1500",
          "op=read,cls=dio,delay_us=1500", "op=write,cls=log,delay_us=4000", "op=write,cls=meta,delay_us=1500", "none"]


class Workers:
    """The processes of all nodes; each has a log.  `names`: what the history calls the nodes."""

    def __init__(self, mounts, names, seconds, seed, base=0, *more):
        self.running = []
        count = len(mounts) * PER_NODE
        for number in range(count):
            node = number % len(mounts)
            out = temp("calls")
            process = subprocess.Popen([prog("clusterops"), "work", mounts[node] / "shared", out, str(base), str(number), str(count),
                                        str(seed), str(seconds), *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            self.running.append((process, names[node], out))
        for process, *_ in self.running:
            equal(process.stdout.readline(), b"ready\n", "a worker")

    def busy(self):
        return any(process.poll() is None for process, *_ in self.running)

    def stop(self):
        for process, *_ in self.running:
            process.terminate()

    def written(self, names):
        """How much the processes of these nodes have logged, each."""
        return [os.path.getsize(out) for _, node, out in self.running if node in names]

    def finish(self, into, dead=()):
        """Those of a dead node have noticed it (a mapping's reader by SIGBUS), or were between two calls when they were told to end."""
        for process, node, out in self.running:
            said = process.communicate(timeout=STEP_SECONDS)[0]
            check(process.returncode in ((0, 3, 4, -signal.SIGBUS) if node in dead else (0,)) and not said,
                  f"a worker on node {node}: exit {process.returncode} {said}; {read_file(out)[-300:].decode()}")
            into.read(out, node)


def clock():
    return int(run([prog("clusterops"), "clock"]).stdout)


def look(m, node, into):
    """One that has not looked yet sees everything, in every way."""
    out = temp("calls")
    run([prog("clusterops"), "look", m / "shared", out])
    into.read(out, node)


def volume(count, **more):
    return Volume(journals=count, proto="lock_dlm", table="test:vol", **more)


def mount(v, rng):
    return v.mount("lockproto=lock_local", f"commit={rng.choice([1, 5, 30])}")


def need_common_clock():
    reason = history.no_common_clock()
    if reason:
        skip(reason)


def begin(v, count, rng):
    mounts = [mount(v, rng) for _ in range(count)]
    os.mkdir(mounts[0] / "shared")
    run([prog("clusterops"), "make", mounts[0] / "shared"])
    return mounts, history.History(v.bs)


def end(v, mounts, done, what):
    """Nobody has it any more; one that was not there looks at it; then all is judged."""
    for m in mounts:
        m.umount()
    with v.mount("lockproto=lock_nolock") as alone:
        look(alone, "last", done)
        began = time.monotonic()
        log(f"{what}: {history.judge(done, alone / 'shared')} in {time.monotonic() - began:.1f} s")
    v.fsck()


def together(count, seconds, seed, **more):
    rng = random.Random(seed)
    v = volume(count, **more)
    mounts, done = begin(v, count, rng)
    workers = Workers(mounts, range(count), seconds, seed)
    while workers.busy():
        m = rng.choice(mounts)
        m.glockctl("set", "fault", "none")      # rules are added, and there may be no more than 16
        m.glockctl("set", "fault", rng.choice(DELAYS))
        time.sleep(rng.random() * 0.3)
    workers.finish(done)
    for m in mounts:
        m.glockctl("set", "fault", "none")
    for node, m in enumerate(mounts):
        look(m, node, done)
    end(v, mounts, done, f"{count} nodes, {seconds} s")


def case_three_nodes():
    need_common_clock()
    for turn in range(3 * TIMES if FULL else 1):
        together(3, SECONDS, SEED + turn)


def case_two_nodes_small_blocks():
    """Files have indirect blocks at once, attributes have blocks of their own, and a direct write is of several blocks."""
    need_common_clock()
    for turn in range(TIMES):
        together(2, SECONDS // 2, SEED + turn + 1, bs=1024, size="256M")


def killed(seed):
    """A daemon is killed at a random moment of that.  The others go on; what it did last may be undone, as far as nobody
    could rely on it; and only that.  It counts if its journal needed replay and one of its processes was in the middle of something."""
    rng = random.Random(seed)
    count = 3
    v = volume(count)
    mounts, done = begin(v, count, rng)
    names = list(range(count))      # after a death it has another name
    effective = rounds = 0
    while effective < KILLS:
        check(rounds < 3 * KILLS, f"only {effective} of {rounds} kills had an effect")
        rounds += 1
        victim = rng.randrange(count)
        workers = Workers(mounts, names, 1000, seed, rounds, "flush")
        time.sleep(0.2 + rng.random() * rng.choice([0.3, 1.5]))
        jid = jid_of(mounts[victim])
        since = clock()
        mounts[victim].daemon.kill()
        descriptors = {number: 0 if head.clean else work for number, head, work in journals(v.path)}[jid]
        mounts[victim].daemon.wait()
        others = [name for n, name in enumerate(names) if n != victim]
        sizes = workers.written(others)
        wait_for(lambda: all(now > before + 2000 for now, before in zip(workers.written(others), sizes)), "the others to go on")
        workers.stop()
        workers.finish(done, {names[victim]})
        mounts[victim].drop()
        mounts[victim] = mount(v, rng)
        look(mounts[victim], f"{names[victim]} again", done)
        under_way = done.crash(names[victim], since, clock())
        log(f"node {names[victim]} killed: {descriptors} descriptors to replay, {under_way} calls under way")
        effective += bool(descriptors and under_way)
        names[victim] += 10
        for m, name in zip(mounts, names):
            look(m, name, done)
    log(f"{effective} effective kills of {rounds}")
    end(v, mounts, done, "kills")


def case_killed():
    need_fuse()
    need_common_clock()
    for turn in range(TIMES):
        killed(SEED + turn)


def case_judge_of_deaths():
    """What a node did to the names last is lost with it or not, for the directories each: what the judge accepts, and what he does not."""
    index = history.INDEX
    before = tuple(5 if path == "q/c" else 0 for path in history.PATHS)

    def explained(*ops):
        done = [history.Op(start, end, node, (kind, *(index.get(arg, arg) for arg in args)), kind) for start, end, node, kind, *args in ops]
        try:
            history.order(("names",), before, done, history.names, [(0, 100, 110)])
        except history.Fault:
            return False
        return True

    made, lost = (10, 20, 0, "create", "p/a", 7), (120, 130, 1, "create", "p/a", 7)
    there, other = (120, 130, 1, "is", "p/a", 7), (21, 25, 0, "create", "q/d", 8)
    check(explained(made, lost) and explained(made, there), "without anybody it may be lost or not")
    for looked in ("is", "q/c", 5), ("list", "q", ("c",)):
        check(explained(made, (30, 40, 1, *looked), lost), f"{looked}: beside it")
        check(explained(made, (30, 40, 1, *looked), there), f"{looked}: beside it, and not lost")
    for looked in ("is", "p/a", 7), ("missing", "p/b"), ("list", "p", ("a",)), ("create", "p/b", 9):
        check(not explained(made, (30, 40, 1, *looked), lost), f"{looked}: another node has used the directory")
    check(explained(made, (30, 40, 1, "create", "q/d", 8), lost, (140, 150, 1, "is", "q/d", 8)), "another node's work beside it stays")
    check(not explained(made, (30, 40, 1, "create", "q/d", 8), (140, 150, 1, "missing", "q/d")), "who lives loses nothing")
    check(not explained(made, other, (30, 40, 1, "is", "q/d", 8), lost), "the log is written in order: what was before")
    check(explained((1, 9, 0, "create", "q/d", 8), made, (30, 40, 1, "is", "q/d", 8), lost), "and what was after")
    check(not explained(made, (21, 25, 0, "sync"), lost), "its own sync")
    check(explained(made, (21, 25, 1, "sync"), lost), "another node's sync")


if __name__ == "__main__":
    main()
