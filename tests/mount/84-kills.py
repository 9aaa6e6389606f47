#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: lock_local daemons are killed under load: several at once, while one recovers another, while mounting and unmounting
# timeout: 240
"""Three nodes work, each in a directory of its own with a log of what it was promised (crashload.py), and all in a shared one.

A kill counts if the journal of the dead one needed replay and system calls of its workers were under way. After each round
what was promised on every node is looked for on a survivor, or on the next one to mount where there was none.
"""
import os
import signal
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from crashload import steps_open, verify_words    # noqa: E402
from journal import journals    # noqa: E402
from testlib import *    # noqa: E402

NODES = 3
KILLS = 50 if FULL else 3
CRASHLOAD = os.path.join(ROOT, "tests", "lib", "crashload.py")
KINDS = ["files", "direct", "holes", "rewrite", "append", "cut", "churn"]


class Load:
    """The workers of one node in one round."""

    def __init__(self, m, name, kinds):
        self.name, self.silent = name, list(kinds)
        self.acks, self.out = temp("acks"), temp("load")
        os.mkdir(self.acks)
        os.mkdir(m / name)
        fd = os.open(m.dir, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        with open(self.out, "wb") as out:
            self.process = subprocess.Popen([sys.executable, "-B", CRASHLOAD, "load", m / name, self.acks,
                                             str(random.randrange(1 << 30)), *kinds], stdout=out, stderr=out)

    def works(self):
        """Every worker has been promised something (churn is promised nothing)."""
        check(self.process.poll() is None, "a load has ended by itself: " + read_file(self.out).decode())
        while self.silent:
            path = os.path.join(self.acks, self.silent[-1] + "1")
            if not os.path.exists(path) or (self.silent[-1] != "churn" and b'"ok"' not in read_file(path)):
                return False
            self.silent.pop()
        return True

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(STEP_SECONDS)
        check(not read_file(self.out), "the load says: " + read_file(self.out).decode())

    def verify(self, m):
        done = run([sys.executable, "-B", CRASHLOAD, *verify_words(m / self.name, self.acks, workdir())], ok=None)
        check(done.returncode == 0, f"{self.name}, seen from journal {m.jid}:\n{done.stdout}")


class Cluster:
    def __init__(self):
        self.arrivals = 0
        self.volume = Volume(journals=NODES, proto="lock_dlm", table="test:vol", size="512M")
        self.nodes = [self.mount() for _ in range(NODES)]
        self.round = self.effective = 0
        self.loads = []

    def mount(self, *options):
        m = self.volume.mount("lockproto=lock_local", f"commit={random.choice([1, 5, 30])}", *options)
        self.arrivals += 1
        m.arrived = self.arrivals
        m.jid = jid_of(m)
        return m

    def begin(self):
        self.round += 1
        self.loads = []
        for n, m in enumerate(self.nodes):
            self.loads.append(Load(m, f"round{self.round}.{n}", random.sample(KINDS, 3)))
        for load in self.loads:
            wait_for(load.works, "every worker to be promised something", pause=0.02)
        time.sleep(random.random() * random.choice([0.01, 0.2, 0.5]))

    def dirty(self, jid):
        """Work for a replay, None if it is clean; looked at while others are writing: their journals do not matter."""
        return {number: None if head.clean else work for number, head, work in journals(self.volume.path)}[jid]

    def kill(self, *victims):
        """All at the same moment; counts those that had something to lose."""
        jids = [self.nodes[n].jid for n in victims]
        for n in victims:
            self.nodes[n].daemon.kill()
        work = [self.dirty(jid) for jid in jids]
        for n in victims:
            self.nodes[n].daemon.wait()
        for n, descriptors in zip(victims, work):
            under_way, done = steps_open(self.loads[n].acks)
            log(f"round {self.round}: node {n} killed, {done} steps acknowledged, {under_way} under way, "
                f"{descriptors} descriptors to replay")
            self.effective += bool(descriptors and under_way)

    def finish(self, victims):
        """The survivors go on; everything promised is there; the dead come back."""
        alive = [n for n in range(NODES) if n not in victims]
        for n in alive:
            _, done = steps_open(self.loads[n].acks)
            wait_for(lambda: self.loads[n].works() and steps_open(self.loads[n].acks)[1] > done,
                     f"node {n} to go on", pause=0.02)
        for load in self.loads:
            load.end()
        for n in victims:
            self.nodes[n].drop()
        if not alive:
            self.nodes[victims[0]] = self.mount()
            alive = [victims[0]]
        for n, load in enumerate(self.loads):
            load.verify(self.nodes[random.choice([a for a in alive if a != n] or alive)])
        for n in victims:
            if not self.nodes[n].daemon:
                self.nodes[n] = self.mount()
        for n, load in enumerate(self.loads):
            load.verify(self.nodes[n])
            run(["rm", "-r", self.nodes[(n + 1) % NODES] / load.name])

    def end(self):
        for m in self.nodes:
            m.umount()
        # The last one has left a clean volume, but for what the dead had unlinked: the first to come frees that.
        equal([number for number, head, _ in journals(self.volume.path) if not head.clean], [], "journals that are not clean")
        self.mount().umount()
        self.volume.fsck()


def one(c):
    victim = random.randrange(NODES)
    c.kill(victim)
    return [victim]


def two_at_once(c):
    victims = random.sample(range(NODES), 2)
    c.kill(*victims)
    return victims


def all_at_once(c):
    c.kill(*range(NODES))
    return list(range(NODES))


def while_recovering(c):
    """The broker asks the one who came first to replay; it is slow, and dies of it; the other one has to do both."""
    victims = [random.randrange(1, NODES)]
    order = sorted(range(NODES), key=lambda n: c.nodes[n].arrived)
    recoverer = [n for n in order if n not in victims][0]
    # Nothing of a replay gets through, so it cannot be over when its turn to die has come, whenever that is.
    c.nodes[recoverer].glockctl("set", "fault", "op=write,cls=meta,delay_us=600000000")
    jid = c.nodes[victims[0]].jid
    c.kill(*victims)
    time.sleep(random.random() * 0.5)
    check(c.dirty(jid) is not None, "the journal was replayed although the one who should is held up")
    c.kill(recoverer)
    return victims + [recoverer]


def while_mounting(c):
    """One leaves; while it comes back, at some moment of that, it is killed, and so is another one."""
    guest = random.randrange(NODES)
    c.loads[guest].end()
    c.nodes[guest].umount()
    command = subprocess.Popen([gfs2_fuse(), "-f", "-o", "lockproto=lock_local", c.volume.path, c.nodes[guest].dir],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(random.random() * 0.1)
    victim = random.choice([n for n in range(NODES) if n != guest])
    command.kill()
    c.kill(victim)
    command.wait()
    run(["umount", "-l", c.nodes[guest].dir], ok=None)
    return [guest, victim]


def while_unmounting(c):
    """One is killed on its way out, and another one then."""
    leaver, victim = random.sample(range(NODES), 2)
    c.loads[leaver].end()
    run(["umount", c.nodes[leaver].dir])
    time.sleep(random.random() * 0.05)
    c.nodes[leaver].daemon.kill()
    c.kill(victim)
    c.nodes[leaver].daemon.wait()
    return [leaver, victim]


ROUNDS = [one, two_at_once, while_recovering, while_mounting, while_unmounting, all_at_once]


def case_kills():
    need_fuse()
    c = Cluster()
    chosen = os.environ.get("GFS2_TEST_ROUNDS", "").split()
    rounds = [r for r in ROUNDS if not chosen or r.__name__ in chosen]
    if not FULL and not chosen:
        # The hardest, and two of the others: another time others.
        rounds = random.sample([r for r in ROUNDS if r is not while_recovering], 2) + [while_recovering]
    while c.effective < KILLS or c.round < len(rounds):
        check(c.round < 3 * KILLS + len(rounds), f"only {c.effective} kills had an effect")
        kind = rounds[c.round % len(rounds)]
        began = time.monotonic()
        c.begin()
        victims = kind(c)
        c.finish(victims)
        log(f"{kind.__name__}: {time.monotonic() - began:.1f} s")
    log(f"{c.effective} effective kills in {c.round} rounds")
    c.end()


main()
