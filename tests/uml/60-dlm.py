#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: two gfs2-fuse nodes on the real DLM: shared work, killed nodes, killed daemons, remounts, turns with the kernel's gfs2
# timeout: 5400
"""One boot serves all cases.

Killed nodes and daemons count only if they had something to lose: the journal of the dead one needed replay when it died,
and the survivor asked for what the dead one held before anybody could have replayed it.
"""
import contextlib
import os
import re
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from umltest import *    # noqa: E402
from testlib import *    # noqa: E402
from journal import journals    # noqa: E402
import coherence    # noqa: E402
import middle    # noqa: E402

TABLE = "g2:vol"
MNT = "/mnt/gfs2"
LOAD = ["/usr/bin/python3", "-B", os.path.join(ROOT, "tests", "uml", "dlmload.py")]
KILLS = 30 if FULL else 3
CYCLES = 100 if FULL else 10
STEP = 150    # seconds; a bound for one step on a loaded machine, not what it takes

state = {}


def pids(node, name):
    """Processes of that name in a node (a supervisor has a name of its own)."""
    found = node.run("for p in /proc/[0-9]*; do read -r c <$p/comm && [ \"$c\" = %s ] && echo ${p#/proc/}; done"
                     "; true" % name, check=True).out
    return [int(word) for word in found.split()]


def fuse_mount(node, check_it=True, options=""):
    return node.mount("/dev/ubda", "fuse", MNT, options, check=check_it)


def both_unmounted(c):
    """Nobody has the volume: it must be consistent. Files that the other node still knew when they were unlinked are
    freed by the next one who mounts alone."""
    for n in (1, 2):
        c.node(n).umount(MNT)
    fuse_mount(c.node(1), options="lockproto=lock_nolock")
    c.node(1).umount(MNT)
    state["image"].fsck()


def to_replay(jid):
    """Log descriptors that the replay of this journal has to go through, as the image says; 0: it is clean."""
    ((_, head, work),) = journals(state["image"].path, only=jid)
    return work or not head.clean


@contextlib.contextmanager
def nobody_recovers(node):
    """The other one may die meanwhile, and this one does not replay its journal yet: its dlm_controld is stopped, which has to tell the kernel."""
    node.run("kill -STOP $(pidof dlm_controld)", check=True)
    try:
        yield
    finally:
        node.run("kill -CONT $(pidof dlm_controld)", check=True)


# --- shared work ---

def each_sees_the_other(c):
    one, two = c.node(1), c.node(2)
    for a, b in ((one, two), (two, one)):
        a.run("mkdir %s/d && echo hello >%s/d/f" % (MNT, MNT), check=True)
        equal(b.run("cat %s/d/f" % MNT, check=True).out, "hello\n", "what the other one wrote")
        b.run("echo world >>%s/d/f && mv %s/d/f %s/g" % (MNT, MNT, MNT), check=True)
        equal(a.run("cat %s/g; ls %s/d" % (MNT, MNT), check=True).out, "hello\nworld\n", "changed, renamed")
        equal(a.run("stat -c %%s %s/g" % MNT, check=True).out, "12\n", "the size")
        a.run("rm %s/g && rmdir %s/d" % (MNT, MNT), check=True)
        equal(b.run("ls %s" % MNT, check=True).out, "", "all removed")


def direct_writers(c):
    """As generic/240: writers on both nodes, each its own blocks of one file, holes and data."""
    blocks, rounds = 96, 3
    path = MNT + "/direct"
    c.node(1).run("truncate -s %d %s" % (blocks * 4096, path), check=True)
    writers = [c.node(n).spawn(LOAD + ["direct", path, str(n), "2", str(blocks), str(rounds)]) for n in (1, 2)]
    for process in writers:
        result = process.wait(STEP)
        equal((result.rc, result.err), (0, b""), "a writer")
    for n in (1, 2):
        result = c.node(n).run(LOAD + ["compare", path, "2", str(blocks), str(rounds)])
        equal((result.rc, result.err), (0, ""), "node %d reads" % n)
    c.node(1).run("rm " + path, check=True)


def names(c):
    count = 40
    directory = MNT + "/names"
    c.node(1).run("mkdir " + directory, check=True)
    workers = [c.node(n).spawn(LOAD + ["names", directory, str(n), str(count)]) for n in (1, 2)]
    for process in workers:
        result = process.wait(STEP)
        equal((result.rc, result.err), (0, b""), "a worker")
    lists = [c.node(n).run("ls " + directory, check=True).out for n in (1, 2)]
    equal(lists[0], lists[1], "both see the same")
    wanted = {"common"}
    for n in (1, 2):
        wanted |= {"%s%d.%d" % ("c" if i % 2 else "b", n, i) for i in range(count)}
        wanted |= {"d%d.%d" % (n, i) for i in range(count) if i % 3 == 0 and i % 6}
    equal(sorted(lists[0].split()), sorted(wanted), "the names")
    c.node(1).run("rm -r " + directory, check=True)


def what_one_has_changed_the_other_sees(c):
    """The matrix of mount/83-coherence: all ways to change something on one node, all ways to look at it from the other."""
    rounds = 20 if FULL else 1
    program = [LOAD[0], "-B", os.path.join(ROOT, "tests", "lib", "coherence.py")]
    nodes = [c.node(n + 1).spawn(program + [str(n), MNT, str(SEED), str(rounds)]) for n in (0, 1)]
    for turn, n in enumerate(coherence.turns(SEED, rounds)):
        process, done = nodes[n], nodes[n].out.count(b".")
        process.write(b"go\n")
        deadline = time.monotonic() + STEP
        while process.out.count(b".") == done:
            # Its last word may come with its end.
            alive = process.pump(max(0, deadline - time.monotonic()))
            check(process.out.count(b".") > done or alive and time.monotonic() < deadline,
                  "turn %d, node %d: %s" % (turn, n + 1, bytes(process.err).decode()))
    for process in nodes:
        result = process.wait(STEP)
        equal((result.rc, result.err), (0, b""), "the end")
    c.node(1).run("rm -r %s/*" % MNT, check=True)


LOCKER = """import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
(fcntl.flock if sys.argv[2] == "flock" else fcntl.lockf)(fd, fcntl.LOCK_EX)
print("mine", flush=True)
sys.stdin.read()"""


def file_locks(c):
    """flock and fcntl: one node waits for the other's process, and gets the lock when that has died."""
    one, two = c.node(1), c.node(2)
    path = MNT + "/locked"
    for kind in ("flock", "fcntl"):
        argv = [LOAD[0], "-c", LOCKER, path, kind]
        holder = one.spawn(argv)
        holder.read_until("mine\n", STEP)
        waiter = two.spawn(argv)
        still_waiting(waiter, "node 2, while node 1 has the %s lock" % kind)
        holder.signal(9)
        waiter.read_until("mine\n", STEP)
        waiter.signal(9)
    one.run("rm " + path, check=True)


# --- deaths ---

def acknowledged(process):
    return [int(word) for word in process.out.decode().split("\n")[:-1]]


def run_until_acked(node, directory, number):
    """Work whose acknowledgements are collected; returns when so many have come."""
    process = node.spawn(LOAD + ["acked", directory])
    process.read_until("\n%d\n" % number, STEP)
    return process


def verify(node, directory, process):
    """What was acknowledged is there, nothing is torn."""
    with contextlib.suppress(uml.ClusterError):
        while process.pump(0):
            pass
    wanted = acknowledged(process)
    result = node.run(LOAD + ["verify", directory] + wanted, timeout=STEP)
    equal((result.rc, result.err), (0, ""), "files of the dead one")
    return len(wanted)


def node_killed(c):
    """The power of node 2 is cut while it writes; resources of its directory are mastered on it."""
    one, two = c.node(1), c.node(2)
    effective = 0
    for turn in range(KILLS):
        directory = "%s/killed%d" % (MNT, turn)
        jid = journal_of(two)
        process = run_until_acked(two, directory, 5 + 3 * turn % 40)
        with nobody_recovers(one):
            two.kill()
            work = to_replay(jid)
        started = time.monotonic()
        # What the dead one held is granted only when its journal is clean.
        one.run("ls " + directory, check=True, timeout=STEP)
        equal(to_replay(jid), 0, "descriptors left to replay when node 1 got the lock")
        count = verify(one, directory, process)
        waited = time.monotonic() - started
        log("node killed: journal %d, %d descriptors to replay, %d acknowledged, waited %.1f s" % (
            jid, work, count, waited))
        effective += work > 0 and count > 0
        one.run("rm -r " + directory, check=True)
        two.start(mount=False)
        fuse_mount(two)
    log("%d effective of %d" % (effective, KILLS))
    check(effective >= min(KILLS, 3), "too few effective kills")
    both_unmounted(c)
    for n in (1, 2):
        fuse_mount(c.node(n))


def master_killed(c):
    """Node 2 dies while node 1 converts locks whose master it is, and node 1 becomes their master.

    After both have been unmounted, as node_killed() leaves it: of a block that was an inode before, whoever deleted that one may still be
    the lock's master."""
    def again():
        c.node(2).start(mount=False)
        fuse_mount(c.node(2))

    middle.under_way([c.node(1)], c.node(2), MNT + "/middle", again)


def kill_daemon(node, supervisor="STOP"):
    """SIGKILL; its supervisor is stopped first (or killed, too), so that there is a time before the cleaning up."""
    (daemon,) = pids(node, "gfs2-fuse")
    (supervising,) = pids(node, "gfs2-supervisor")
    node.run("kill -%s %d; kill -KILL %d" % (supervisor, supervising, daemon), check=True)
    return supervising


def states(c):
    return [(node["state"], node["mounted"]) for node in c.status()["nodes"]]


def still_waiting(process, what):
    """It is no question of how long: what it waits for cannot come."""
    end = time.monotonic() + 2
    while time.monotonic() < end and process.pump(0.2):
        pass
    equal((process.rc, bytes(process.out)), (None, b""), what)


def daemon_killed(c):
    """SIGKILL after UN, SH, EX on one lock: node 1 waits until the supervisor has replayed and dropped the locks."""
    one, two = c.node(1), c.node(2)
    effective = 0
    for turn in range(KILLS):
        path, directory = "%s/f%d" % (MNT, turn), "%s/daemon%d" % (MNT, turn)
        one.run("echo old >%s; mkdir %s" % (path, directory), check=True)      # node 1: EX
        two.run("cat " + path, check=True)                                      # UN, SH
        jid = journal_of(two)
        process = run_until_acked(two, directory, 3 + 2 * turn % 20)
        two.run("echo new and longer >%s; sync %s" % (path, path), check=True)  # EX
        supervising = kill_daemon(two)
        work = to_replay(jid)
        reader = one.spawn("cat " + path)
        still_waiting(reader, "node 1, while nobody has replayed the journal")
        if turn == 0:
            # SIGKILL is not the end yet
            wait_for(lambda: states(c) == [("ready", "fuse"), ("daemon-dead", "dead")], "the cluster's status with a dead daemon", STEP)
        two.run("kill -CONT %d" % supervising, check=True)
        result = reader.wait(STEP)
        equal(to_replay(jid), 0, "descriptors left to replay when node 1 got the lock")
        equal((result.rc, result.out), (0, b"new and longer\n"), "node 1 reads what was fsynced")
        count = verify(one, directory, process)
        log("daemon killed: journal %d, %d descriptors to replay, %d acknowledged" % (jid, work, count))
        effective += work > 0 and count > 0
        wait_for(lambda: not pids(two, "gfs2-supervisor"), "the supervisor's end", STEP, pause=0.1)
        equal(two.run("grep -c ' %s ' /proc/mounts; ls /sys/kernel/dlm" % MNT).out, "0\n",
              "mounts and lock spaces that are left")
        if turn == 0:
            # "unmounted" it is called where the cluster has mounted it; a node that was killed has been mounted by hand since.
            equal([mounted for _, mounted in states(c)], ["fuse", None], "what is mounted after the supervisor")
        fuse_mount(two)
        if turn == 0:
            equal(states(c), [("ready", "fuse")] * 2, "the cluster's status when it is mounted again")
        one.run("rm -r %s %s" % (path, directory), check=True)
    log("%d effective of %d" % (effective, KILLS))
    check(effective >= min(KILLS, 3), "too few effective kills")


def supervisor_killed_too(c):
    """Nobody cleans up: node 1 waits, until the daemon is started again and does it first."""
    one, two = c.node(1), c.node(2)
    two.run("echo kept >%s/g; sync %s/g" % (MNT, MNT), check=True)
    kill_daemon(two, "KILL")
    reader = one.spawn("cat %s/g" % MNT)
    still_waiting(reader, "node 1, while the orphans hold the lock")
    two.run("umount " + MNT, check=True)
    fuse_mount(two)
    result = reader.wait(STEP)
    equal((result.rc, result.out), (0, b"kept\n"), "node 1 afterwards")
    equal(two.run("cat %s/g" % MNT, check=True).out, "kept\n", "node 2 afterwards")
    one.run("rm %s/g" % MNT, check=True)
    both_unmounted(c)
    for n in (1, 2):
        fuse_mount(c.node(n))


def withdrawn(c):
    """The log of node 2 cannot be written any more: it goes, and node 1 replays what was acknowledged before."""
    one, two = c.node(1), c.node(2)
    jid = journal_of(two)
    directory = MNT + "/withdrawn"
    process = run_until_acked(two, directory, 5)
    two.run("glockctl set fault op=write,cls=log,error=5", check=True)
    process.wait(STEP)
    work = to_replay(jid)
    one.run("ls " + directory, check=True, timeout=STEP)
    equal(to_replay(jid), 0, "descriptors left to replay when node 1 got the lock")
    count = verify(one, directory, process)
    log("withdrawn: %d descriptors to replay, %d acknowledged" % (work, count))
    wait_for(lambda: not pids(two, "gfs2-fuse") + pids(two, "gfs2-supervisor"), "the end of node 2's processes",
             STEP, pause=0.1)
    two.run("umount %s 2>/dev/null; true" % MNT)
    fuse_mount(two)
    one.run("rm -r " + directory, check=True)


HOLDER = """import ctypes, sys
class Lksb(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int), ("lkid", ctypes.c_uint32), ("flags", ctypes.c_char), ("lvb", ctypes.c_void_p)]
dlm = ctypes.CDLL("libdlm.so.3")
dlm.dlm_open_lockspace.restype = ctypes.c_void_p
ls = ctypes.c_void_p(dlm.dlm_open_lockspace(b"vol"))
dlm.dlm_ls_pthread_init(ls)
name, lksb = b"%8x%16x" % (2, int(sys.argv[1])), Lksb()
EX = 5
assert dlm.dlm_ls_lock_wait(ls, EX, ctypes.byref(lksb), 0, name, len(name), 0, None, None, None) == 0 and not lksb.status
print("mine", flush=True)
sys.stdin.read()"""


def killed_with_the_block_counts(c):
    """Node 2 dies with the lock of the block counts, for which node 1 waits to unmount: the DLM grants it, node 1 keeps the grant back until the
    replay is over, and the replay wants the same lock."""
    one, two = c.node(1), c.node(2)
    number = int(re.search(r"no_addr +(\d+)", run(["gfs2_edit", "-p", "statfs", state["image"].path]).stdout)[1])
    jid = journal_of(two)
    two.run("echo kept >%s/kept; sync %s/kept" % (MNT, MNT), check=True)
    # by a process of its own, as long as it is wanted
    holder = two.spawn([LOAD[0], "-c", HOLDER, str(number)])
    holder.read_until("mine\n", STEP)
    one.run("echo counted >%s/counted; umount %s" % (MNT, MNT), check=True)
    ending = one.spawn(["/usr/bin/python3", "-I", "-S", c.bin("released.py"), "/dev/ubda"])
    still_waiting(ending, "node 1's daemon, without the lock of the block counts")
    with nobody_recovers(one):
        two.kill()
        check(to_replay(jid), "node 2 had nothing to lose")
    result = ending.wait(STEP)
    equal((result.rc, result.out, result.err), (0, b"", b""), "the end of node 1's daemon")
    equal(to_replay(jid), 0, "descriptors left to replay when node 1 had gone")
    two.start(mount=False)
    for node in (one, two):
        fuse_mount(node)
    for node in (one, two):
        equal(node.run("ls %s" % MNT, check=True).out, "counted\nkept\n", "what was there")
    one.run("rm %s/counted %s/kept" % (MNT, MNT), check=True)


# --- mounting ---

def use_of(node):
    """What a daemon has in use that a coming and going neighbour could make it leak."""
    (pid,) = pids(node, "gfs2-fuse")
    # every thread may have an io_uring of its own
    out = node.run("ls -l /proc/%d/fd | grep -vc io_uring; ls /proc/%d/task | wc -l; awk '/^VmRSS/ { print $2 }' /proc/%d/status; "
                   "glockctl dump | grep -c ^G:" % (pid, pid, pid), check=True).out
    return dict(zip(("descriptors", "threads", "memory", "glocks"), map(int, out.split())))


def mount_cycles(c):
    one, two = c.node(1), c.node(2)
    before = None
    for turn in range(CYCLES + 1):
        two.umount(MNT)
        equal(two.run("ls /sys/kernel/dlm").out, "", "lock spaces that are left")
        equal(pids(two, "gfs2-fuse") + pids(two, "gfs2-supervisor"), [], "processes that are left")
        fuse_mount(two)
        two.run("echo %d >%s/cycle" % (turn, MNT), check=True)
        equal(one.run("cat %s/cycle" % MNT, check=True).out, "%d\n" % turn, "node 1")
        if turn == 0:
            before = use_of(one)    # what is needed for the first time has been made
    after = use_of(one)
    log("before", before, "after", after)
    # Some threads come when they are needed. What leaks does so at each turn.
    for what in ("descriptors", "threads", "glocks"):
        check(after[what] < before[what] + CYCLES / 2, f"{what}: {before}, {after}")
    # Buffers of workers and malloc's arenas are touched for the first time at any moment: this much is not a leak.
    check(after["memory"] <= before["memory"] + (16 << 10) + 64 * CYCLES, "memory: %s, %s" % (before, after))
    one.run("rm %s/cycle" % MNT, check=True)


def messages(c):
    """What is wrong is said."""
    two = c.node(2)
    two.umount(MNT)
    refused = fuse_mount(two, False, "locktable=other:vol")
    check(refused.rc == 32 and "names cluster 'other', but this node is in cluster 'g2'" in refused.err, refused)
    refused = fuse_mount(two, False, "locktable=vol")
    check(refused.rc == 32 and "must be CLUSTER:FS" in refused.err, refused)
    log_info = "/sys/kernel/config/dlm/cluster/log_info"
    two.run("echo 0 >" + log_info, check=True)
    refused = fuse_mount(two, False)
    check(refused.rc == 32 and "log_info" in refused.err, refused)
    two.run("echo 1 >" + log_info, check=True)
    fuse_mount(two)
    refused = two.mount("/dev/ubda", "fuse", "/tmp/other", check=False)
    check(refused.rc == 32 and "in use" in refused.err, refused)


def turns_with_the_kernel(c):
    """A kernel node and a gfs2-fuse node take turns; at the same time they are refused."""
    one, two = c.node(1), c.node(2)
    lock = "lockproto=lock_dlm,locktable=" + TABLE
    one.run("echo fuse >%s/turn" % MNT, check=True)
    two.umount(MNT)
    refused = two.run(["mount", "-t", "gfs2", "-o", lock, "/dev/ubda", MNT], timeout=STEP)
    check(refused.rc != 0, "the kernel mounted what gfs2-fuse has mounted")
    check("control lock disabled" in two.console() or "control_lock disabled" in two.console(),
          "the kernel's message")
    equal(one.run("cat %s/turn" % MNT, check=True).out, "fuse\n", "node 1 goes on")
    one.umount(MNT)
    two.run(["mount", "-t", "gfs2", "-o", lock, "/dev/ubda", MNT], check=True)
    equal(two.run("cat %s/turn; echo kernel >%s/turn; mkdir %s/k" % (MNT, MNT, MNT), check=True).out, "fuse\n",
          "the kernel reads")
    refused = fuse_mount(one, False)
    check(refused.rc == 32 and "mounted by the kernel's gfs2 on another node" in refused.err, refused)
    refused = fuse_mount(two, False)
    check(refused.rc == 32 and "mounted by the kernel" in refused.err, refused)
    two.run("umount " + MNT, check=True)
    fuse_mount(one)
    equal(one.run("cat %s/turn; ls %s" % (MNT, MNT), check=True).out, "kernel\nk\nturn\n", "gfs2-fuse reads")
    fuse_mount(two)
    two.run("rm -r %s/turn %s/k" % (MNT, MNT), check=True)


STEPS = [each_sees_the_other, what_one_has_changed_the_other_sees, direct_writers, names, file_locks, node_killed, master_killed, daemon_killed, supervisor_killed_too, withdrawn,
         killed_with_the_block_counts, mount_cycles, messages, turns_with_the_kernel]


def case_cluster():
    chosen = os.environ.get("GFS2_TEST_STEPS", "").split()
    state["image"] = volume(size="2G", journals=2, proto="lock_dlm", table=TABLE)
    with uml.Cluster() as c:
        began = time.monotonic()
        c.up(2, images=[state["image"].path])
        log("two nodes are up after %.1f s" % (time.monotonic() - began))
        for step in STEPS:
            if chosen and step.__name__ not in chosen:
                continue
            began = time.monotonic()
            step(c)
            log("  %s (%.1f s)" % (step.__name__, time.monotonic() - began))
        both_unmounted(c)
        equal(c.down(), [], "problems at down")


need_uml(2)
main()
