#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: flock(2) and fcntl(2) locks of two lock_local daemons: exclusion, waiting, signals, closes, deaths
# timeout: 200
# variants: plain asan tsan
"""Every process that locks is one of its own (fcntl locks belong to processes), told what to do through a pipe."""
import os
import select
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

AGENT = r"""
import errno, fcntl, os, signal, struct, sys
signal.signal(signal.SIGUSR1, lambda *a: None)
signal.siginterrupt(signal.SIGUSR1, True)
class Interrupted(Exception): pass
def on_usr2(*a): raise Interrupted
signal.signal(signal.SIGUSR2, on_usr2)
files = {}
def lk(kind, start, length): return struct.pack("hhqqi", kind, 0, start, length, 0)
OFD_SETLK, OFD_SETLKW = 37, 38
for line in sys.stdin:
    word, *args = line.split()
    try:
        if word == "open":
            files[args[0]] = os.open(args[1], os.O_RDWR | os.O_CREAT); out = "ok"
        elif word == "close":
            os.close(files.pop(args[0])); out = "ok"
        elif word == "dup":
            files[args[1]] = os.dup(files[args[0]]); out = "ok"
        elif word == "flock":
            fcntl.flock(files[args[0]], int(args[1])); out = "ok"
        elif word in ("setlk", "setlkw", "ofd", "ofdw"):
            cmd = {"setlk": fcntl.F_SETLK, "setlkw": fcntl.F_SETLKW, "ofd": OFD_SETLK, "ofdw": OFD_SETLKW}[word]
            fcntl.fcntl(files[args[0]], cmd, lk(*map(int, args[1:4]))); out = "ok"
        elif word == "getlk":
            got = struct.unpack("hhqqi", fcntl.fcntl(files[args[0]], fcntl.F_GETLK, lk(*map(int, args[1:4]))))
            out = "%d %d %d %d" % (got[0], got[2], got[3], got[4])
    except Interrupted:
        out = "interrupted"
    except OSError as error:
        out = "EDEADLK" if error.errno == errno.EDEADLK else errno.errorcode[error.errno]
    print(out, flush=True)
"""
THREADS = r"""
import fcntl, os, sys, threading
fd, kinds, rounds = os.open(sys.argv[1], os.O_RDWR), [int(k) for k in sys.argv[2].split(",")], int(sys.argv[3])
barrier = threading.Barrier(len(kinds))
failed = []
def one(kind):
    for _ in range(rounds):
        barrier.wait()
        try:
            fcntl.flock(fd, kind)
        except OSError as error:
            failed.append(error)
        if not barrier.wait():
            fcntl.flock(fd, fcntl.LOCK_UN)
threads = [threading.Thread(target=one, args=(kind,)) for kind in kinds]
for t in threads: t.start()
for t in threads: t.join()
print(failed or "ok", flush=True)
"""
RD, WR, UN = 0, 1, 2    # F_RDLCK, F_WRLCK, F_UNLCK
SH, EX, NB, NONE = 1, 2, 4, 8


class Agent:
    def __init__(self):
        self.process = subprocess.Popen([sys.executable, "-c", AGENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, bufsize=1)
        agents.append(self)

    def begin(self, *words):
        print(*words, file=self.process.stdin, flush=True)

    def end(self):
        return self.process.stdout.readline().strip()

    def __call__(self, *words):
        self.begin(*words)
        return self.end()

    def waits(self):
        """In the middle of a call: asleep in the kernel's FUSE client, and no answer has come."""
        def asleep():
            with open(f"/proc/{self.process.pid}/wchan") as where:
                return "request_wait" in where.read()
        wait_for(asleep, "the call to sleep")
        return True

    def pid(self):
        return self.process.pid

    def kill(self):
        self.process.kill()
        self.process.wait()


agents = []


def glock(m, kind):
    """The only glock of that type, as dumped: [its line, its holders' lines]; [] if there is none."""
    lines = m.glockctl("dump").stdout.splitlines()
    at = [i for i, line in enumerate(lines) if line.startswith("G:") and f" n:{kind}/" in line]
    if not at:
        return []
    check(len(at) == 1, f"glocks of type {kind}: {at}")
    end = at[0] + 1
    while end < len(lines) and lines[end].startswith(" H:"):
        end += 1
    return lines[at[0]:end]


def queued(m, kind, count=1):
    """So many holders of this node wait in the queue of the lock; before that a call only tries (t, T), and may overtake others."""
    def waits(line):
        flags = line.split(" f:")[1].split()[0]
        return "W" in flags and not set("tT") & set(flags)

    wait_for(lambda: sum(waits(line) for line in glock(m, kind)[1:]) == count, f"{count} to be queued", pause=0.02)


def wanted(m, kind):
    """The node knows that another one waits for its lock."""
    wait_for(lambda: any(flag in glock(m, kind)[0].split(" f:")[1].split()[0] for flag in "Ddp"),
             "the other node's demand", pause=0.02)


def with_nodes(function):
    def wrapped():
        volume = Volume(journals=2, proto="lock_dlm", table="test:vol", size="128M")
        nodes = [volume.mount("lockproto=lock_local") for _ in range(2)]
        write_file(nodes[0] / "f", b"x" * 10000)
        try:
            function(*nodes)
        finally:
            while agents:
                agents.pop().kill()
        for m in nodes:
            if m.daemon:
                m.umount()
        volume.mount("lockproto=lock_local").umount()
        volume.fsck()
    return wrapped


def on(m, name="f"):
    """A process with that file open as "a"."""
    agent = Agent()
    equal(agent("open", "a", m / name), "ok", "open")
    return agent


@with_nodes
def case_flock(a, b):
    one, two, three = on(a), on(b), on(a)
    equal(one("flock", "a", EX), "ok", "nobody has it")
    for other in (two, three):
        equal(other("flock", "a", SH | NB), "EAGAIN", "another one's exclusive lock")
        equal(other("flock", "a", EX | NB), "EAGAIN", "another one's exclusive lock")
    # One call after the other, on different nodes: no lock may seem to be held that was given up.
    for _ in range(20):
        equal(one("flock", "a", NONE), "ok", "unlock")
        equal(two("flock", "a", EX | NB), "ok", "at once after the other node has unlocked")
        equal(two("flock", "a", NONE), "ok", "unlock")
        equal(one("flock", "a", EX | NB), "ok", "at once after the other node has unlocked")
    equal(one("flock", "a", SH), "ok", "from exclusive to shared")
    equal([x("flock", "a", SH | NB) for x in (two, three)], ["ok", "ok"], "shared by all")
    equal(one("flock", "a", EX | NB), "EAGAIN", "others share it")
    # The lock was given up for the attempt, as flock(2) says.
    equal([x("flock", "a", NONE) for x in (two, three)], ["ok", "ok"], "unlock")
    equal(two("flock", "a", EX | NB), "ok", "nobody has it")
    # It belongs to the open file, not to the descriptor or the process.
    equal(two("dup", "a", "b"), "ok", "dup")
    equal(two("close", "a"), "ok", "close")
    equal(one("flock", "a", EX | NB), "EAGAIN", "the duplicate has the lock")
    one.begin("flock", "a", EX)
    queued(a, 6)
    three.begin("flock", "a", SH)
    queued(a, 6, 2)
    equal(two("close", "b"), "ok", "the last close")
    equal(one.end(), "ok", "who waited")
    equal(one("close", "a"), "ok", "close")
    equal(three.end(), "ok", "who waited behind")


@with_nodes
def case_flock_signals(a, b):
    one, two, three = on(a), on(b), on(b)
    equal(one("flock", "a", EX), "ok", "nobody has it")
    for _ in range(10):
        two.begin("flock", "a", EX)
        two.waits()
        os.kill(two.pid(), signal.SIGUSR2)
        equal(two.end(), "interrupted", "a signal ends the wait")
    two.begin("flock", "a", EX)
    queued(b, 6)
    three.begin("flock", "a", EX)
    queued(b, 6, 2)
    two.kill()
    equal(one("flock", "a", NONE), "ok", "unlock")
    equal(three.end(), "ok", "who waited behind a dead one")
    three.kill()
    one.begin("flock", "a", EX)
    equal(one.end(), "ok", "the dead one's lock is gone")


@with_nodes
def case_flock_threads(a, b):
    """Several threads lock through one descriptor at the same time: the lock is the open file's, so none is in another's way."""
    for kinds in ((EX, EX), (EX, SH), (EX | NB, EX | NB, SH | NB)):
        out = run([sys.executable, "-c", THREADS, a / "f", ",".join(map(str, kinds)), "50"], timeout=STEP_SECONDS).stdout
        equal(out.strip(), "ok", f"threads that lock {kinds}")
    other = on(b)
    equal(other("flock", "a", EX | NB), "ok", "nothing was left")


@with_nodes
def case_fcntl(a, b):
    one, two, three = on(a), on(b), on(a)
    equal(one("setlk", "a", WR, 100, 50), "ok", "nobody has any")
    # On the node, ranges are exact.
    equal(three("setlk", "a", WR, 149, 1), "EAGAIN", "the last byte of the range")
    equal(three("setlk", "a", RD, 0, 101), "EAGAIN", "the first byte of the range")
    equal(three("setlk", "a", WR, 0, 100), "ok", "before the range")
    equal(three("setlk", "a", RD, 150, 0), "ok", "behind the range")
    equal(three("getlk", "a", WR, 0, 0), f"{WR} 100 50 {one.pid()}", "who is in the way")
    equal(one("getlk", "a", RD, 200, 10), f"{UN} 200 10 0", "read locks do not exclude each other")
    # Between nodes, files are.
    equal(two("setlk", "a", RD, 5000, 1), "EAGAIN", "another node has locks on the file")
    equal(two("getlk", "a", RD, 5000, 1), f"{WR} 0 0 0", "what is known of another node's locks")
    equal(one("setlk", "a", UN, 110, 10), "ok", "a hole in the range")
    equal(three("setlk", "a", WR, 110, 10), "ok", "in the hole")
    equal(one("setlk", "a", RD, 100, 5), "ok", "a part of the range becomes a read lock")
    equal(three("setlk", "a", RD, 100, 6), "EAGAIN", "behind that part")
    equal(three("setlk", "a", RD, 100, 5), "ok", "that part")
    # Any close ends all of the process's locks on the file.
    equal(three("open", "b", a / "f"), "ok", "open")
    equal(three("close", "b"), "ok", "close")
    equal(one("setlk", "a", WR, 0, 0), "ok", "everything")
    two.begin("setlkw", "a", WR, 0, 0)
    two.waits()
    one.kill()
    equal(two.end(), "ok", "the dead process's lock is gone")
    equal(three("setlk", "a", RD, 0, 1), "EAGAIN", "it is the other node's now")
    equal(two("setlk", "a", UN, 0, 0), "ok", "unlock")
    equal(three("setlk", "a", RD, 0, 1), "ok", "at once after the other node has unlocked")
    # flock and fcntl locks do not know each other.
    equal(two("flock", "a", EX | NB), "ok", "flock beside an fcntl lock")
    # OFD locks belong to the open file.
    equal(two("open", "b", b / "other"), "ok", "open")
    equal(two("ofd", "b", WR, 0, 0), "ok", "an OFD lock")
    four = on(a, "other")
    equal(four("setlk", "a", RD, 0, 1), "EAGAIN", "an OFD lock on another node")
    equal(two("close", "b"), "ok", "close")
    wait_for(lambda: four("setlk", "a", RD, 0, 1) == "ok", "the OFD lock to go with its file")


@with_nodes
def case_fcntl_waits(a, b):
    one, two, three, four = on(a), on(b), on(a), on(a)
    equal(one("setlk", "a", WR, 0, 10), "ok", "nobody has any")
    for waiter in (two, three):     # on the other node, on this one
        for _ in range(5):
            waiter.begin("setlkw", "a", WR, 5, 1)
            waiter.waits()
            os.kill(waiter.pid(), signal.SIGUSR2)
            equal(waiter.end(), "interrupted", "a signal ends the wait")
    # Somebody who has none unlocks (as databases do) while this one waits for the other node.
    for where, waiter in ((b, two), (a, three)):
        waiter.begin("setlkw", "a", WR, 5, 1)
        waiter.waits()
        equal(on(where)("setlk", "a", UN, 0, 0), "ok", "an unlock that unlocks nothing")
        waiter.waits()
        equal(one("setlk", "a", WR, 0, 10), "ok", "it is still the owner's")
        os.kill(waiter.pid(), signal.SIGUSR2)
        equal(waiter.end(), "interrupted", "a signal ends the wait")
    # Two of one node that wait for each other.
    equal(three("setlk", "a", WR, 20, 10), "ok", "another range")
    three.begin("setlkw", "a", WR, 0, 1)
    one.begin("setlkw", "a", WR, 20, 1)
    # Who comes second.
    told = select.select([one.process.stdout, three.process.stdout], [], [], STEP_SECONDS)[0]
    equal(len(told), 1, "how many are told when each would wait for the other")
    refused, waiter = (one, three) if told[0] is one.process.stdout else (three, one)
    equal(refused.end(), "EDEADLK", "who is told")
    waiter.waits()
    equal(refused("setlk", "a", UN, 0, 0), "ok", "unlock")
    equal(waiter.end(), "ok", "who waited")


@with_nodes
def case_fcntl_turns(a, b):
    """Another node waits: this node's others do not go on for ever one after the other."""
    two, three, four = on(b), on(a), on(a)
    equal(three("setlk", "a", WR, 20, 10), "ok", "nobody has any")
    # A volume of its own: nobody has asked for the lock before, so the demand is this one's.
    two.begin("setlkw", "a", WR, 0, 1)
    queued(b, 7)
    wanted(a, 7)
    four.begin("setlkw", "a", WR, 100, 1)
    four.waits()
    equal(three("setlk", "a", UN, 0, 0), "ok", "unlock")
    equal(two.end(), "ok", "the other node's turn")
    equal(two("setlk", "a", UN, 0, 0), "ok", "unlock")
    equal(four.end(), "ok", "and back")


@with_nodes
def case_fcntl_owner(a, b):
    """Of all those of a node who have a file's lock, or wait for it, the dump names who has had it, or waits, the longest."""
    def named(m, agent, state):
        def is_named():
            lines = glock(m, 7)
            words = lines[1].split() if len(lines) == 2 else []
            return f"p:{agent.pid()}" in words and state in next(word for word in words if word.startswith("f:"))
        wait_for(is_named, f"the dump to name {agent.pid()} ({state})", pause=0.02)

    one, two, three, four = on(a), on(b), on(a), on(b)
    equal(one("setlk", "a", WR, 0, 10), "ok", "nobody has any")
    named(a, one, "H")
    equal(three("setlk", "a", WR, 20, 10), "ok", "another range")
    named(a, one, "H")
    equal(one("setlk", "a", UN, 0, 10), "ok", "unlock")
    named(a, three, "H")
    equal(one("setlk", "a", WR, 0, 10), "ok", "once more, behind the other one")
    named(a, three, "H")
    three.kill()
    named(a, one, "H")
    # On the other node, two wait.
    two.begin("setlkw", "a", WR, 0, 1)
    queued(b, 7)
    named(b, two, "W")
    four.begin("setlkw", "a", WR, 100, 1)
    four.waits()
    named(b, two, "W")
    os.kill(two.pid(), signal.SIGUSR2)
    equal(two.end(), "interrupted", "a signal ends the wait")
    named(b, four, "W")
    equal(one("setlk", "a", UN, 0, 0), "ok", "unlock")
    equal(four.end(), "ok", "who still waited")
    named(b, four, "H")


@with_nodes
def case_exclusion(a, b):
    """A counter in a file, read and written under a lock by processes of both nodes."""
    script = r'''
import fcntl, os, sys
path, kind, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
fd = os.open(path, os.O_RDWR)
lock = fcntl.flock if kind == "flock" else fcntl.lockf
for _ in range(rounds):
    lock(fd, fcntl.LOCK_EX)
    value = int(os.pread(fd, 20, 0).decode() or 0)
    os.pwrite(fd, b"%d" % (value + 1), 0)
    lock(fd, fcntl.LOCK_UN)
'''
    rounds = 200 if FULL else 40
    for kind in ("flock", "fcntl"):
        write_file(a / kind, b"0")
        workers = [subprocess.Popen([sys.executable, "-c", script, m / kind, kind, str(rounds)]) for m in (a, b, a, b)]
        equal([w.wait() for w in workers], [0] * 4, "the workers")
        equal(int(read_file(b / kind)), 4 * rounds, f"what was counted under {kind}")


def two_wait(a, b):
    """A process of a has both kinds of lock, two of b wait for one each."""
    one, two, three = on(a), on(b), on(b, "other")
    equal(one("flock", "a", EX), "ok", "nobody has it")
    equal(one("setlk", "a", WR, 0, 0), "ok", "nobody has any")
    two.begin("flock", "a", EX)
    two.waits()
    equal(three("open", "b", b / "f"), "ok", "open")
    three.begin("setlkw", "b", WR, 0, 0)
    three.waits()
    return one, two, three


@with_nodes
def case_death_of_a_node(a, b):
    _, two, three = two_wait(a, b)
    a.kill()
    equal(two.end(), "ok", "flock of a dead node")
    equal(three.end(), "ok", "fcntl lock of a dead node")


@with_nodes
def case_forced_end(a, b):
    """SIGTERM while locks are held and waited for: the daemon ends, the other node goes on."""
    one, two, three = two_wait(a, b)
    b.daemon.terminate()
    b.daemon.wait(STEP_SECONDS)
    b.daemon = None
    for waiter in (two, three):
        check(waiter.end() in ("ECONNABORTED", "ENOTCONN", "EIO", "EINTR"), "who waited at a mount that has ended")
    equal(one("flock", "a", NONE), "ok", "unlock")
    equal(one("flock", "a", EX | NB), "ok", "and lock")


def case_alone():
    """lock_nolock: the kernel's own locks."""
    volume = Volume(size="128M")
    with volume.mount() as m:
        one, two = on(m), on(m)
        equal(one("setlk", "a", WR, 0, 10), "ok", "nobody has any")
        equal(two("setlk", "a", RD, 10, 10), "ok", "another range")
        equal(two("setlk", "a", RD, 9, 1), "EAGAIN", "the range")
        equal(one("flock", "a", EX), "ok", "flock")
        equal(two("flock", "a", SH | NB), "EAGAIN", "flock")
        while agents:
            agents.pop().kill()
    volume.fsck()


main()
