#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: random operations on shared files by three gfs2-fuse nodes on the real DLM at once, and nodes that die of it; an order must explain all
# timeout: 900
"""As mount/88-cluster-ops.py, with real nodes: their kernels' FUSE clients are apart, and a death is that of a machine.  All read the same
time stamp counter.  At the end the kernel's own gfs2 looks at the volume, too."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from umltest import *    # noqa: E402
from testlib import *    # noqa: E402
import history    # noqa: E402
from journal import journals    # noqa: E402

NODES = 3
MNT = "/mnt/gfs2"
SHARED = MNT + "/shared"
SECONDS = 60 if FULL else 20
KILLS = 2 if FULL else 3
# Each time a new cluster and volume: what is judged at once has to be kept in memory.
TIMES = 25 if FULL else 1
STEP = 200    # seconds; a bound for one step on a loaded machine, not what it takes


class Load:
    """Two processes on each node."""

    def __init__(self, c, logs, names, seconds, seed, base, *more):
        self.running = []
        count = 2 * NODES
        for number in range(count):
            node = number % NODES
            out = os.path.join(logs, f"{base}.{number}")
            process = c.node(node + 1).spawn([prog("clusterops"), "work", SHARED, out, str(base), str(number), str(count), str(seed),
                                              str(seconds), *more])
            self.running.append((process, names[node], out, number))
        for process, *_ in self.running:
            process.read_until("ready\n", STEP)

    def written(self, names):
        return [os.path.getsize(out) for _, name, out, _ in self.running if name in names]

    def finish(self, into, dead=(), stop=False):
        for process, name, _, _ in self.running:
            if stop and name not in dead:
                process.signal(15)
        for process, name, out, _ in self.running:
            if name not in dead:
                result = process.wait(STEP)
                equal((result.rc, result.err), (0, b""), f"a process of node {name}")
            into.read(out, name)


def look(node, logs, name, into):
    out = os.path.join(logs, f"look.{node.number}.{name}")
    node.run([prog("clusterops"), "look", SHARED, out], check=True, timeout=STEP)
    into.read(out, name)


def clock():
    return int(run([prog("clusterops"), "clock"]).stdout)


def kills(c, image, logs, done, names, seed, rng):
    effective = rounds = 0
    while effective < KILLS:
        check(rounds < 3 * KILLS, f"only {effective} of {rounds} kills had an effect")
        rounds += 1
        victim = rng.randrange(NODES)
        node = c.node(victim + 1)
        load = Load(c, logs, names, 10000, seed, rounds, "flush")
        time.sleep(0.5 + rng.random() * 2)
        jid = journal_of(node)
        since = clock()
        node.kill()
        ((_, head, count),) = journals(image.path, only=jid)
        work = 0 if head.clean else count
        others = [name for n, name in enumerate(names) if n != victim]
        sizes = load.written(others)
        began = time.monotonic()
        wait_for(lambda: all(now > before + 5000 for now, before in zip(load.written(others), sizes)), "the others to go on", STEP)
        took = time.monotonic() - began
        load.finish(done, {names[victim]}, stop=True)
        node.start(mount=False)
        node.mount("/dev/ubda", "fuse", MNT, check=True)
        look(node, logs, f"{names[victim]} again", done)
        under_way = done.crash(names[victim], since, clock())
        log(f"node {names[victim]} killed: {work} descriptors to replay, {under_way} calls under way; the others went on after {took:.1f} s")
        effective += bool(work and under_way)
        names[victim] += 10
        for n, name in enumerate(names):
            look(c.node(n + 1), logs, f"{name}.{rounds}", done)
    log(f"{effective} effective kills of {rounds}")


def cluster_of_three(seed):
    rng = random.Random(seed)
    image = volume(size="3G", journals=NODES, proto="lock_dlm", table="g2:vol")
    logs = temp("logs")
    os.mkdir(logs)
    done = history.History()
    names = list(range(NODES))
    with uml.Cluster() as c:
        c.up(NODES, images=[image.path], share_rw=[logs])
        c.node(1).run(["mkdir", SHARED], check=True)
        c.node(1).run([prog("clusterops"), "make", SHARED], check=True)
        load = Load(c, logs, names, SECONDS, seed, 0)
        load.finish(done)
        for n in range(NODES):
            look(c.node(n + 1), logs, f"{n}", done)
        log(f"{SECONDS} s done")
        kills(c, image, logs, done, names, seed, rng)
        for n in range(NODES):
            c.node(n + 1).umount(MNT)
        one = c.node(1)
        one.mount("/dev/ubda", "fuse", MNT, "lockproto=lock_nolock", check=True)
        for name in history.LOGS:
            one.run(["cp", f"{SHARED}/{name}", logs], check=True)
        one.umount(MNT)
        image.fsck()
        one.mount("/dev/ubda", "kernel", MNT, "acl", check=True)
        look(one, logs, "kernel", done)
        one.umount(MNT)
        equal(c.down(), [], "problems at down")
    image.remove()
    began = time.monotonic()
    log(f"{history.judge(done, logs)} in {time.monotonic() - began:.1f} s")


def case_cluster():
    reason = history.no_common_clock()
    if reason:
        skip(reason)
    for turn in range(TIMES):
        cluster_of_three(SEED + turn)


need_uml(NODES)
main()
