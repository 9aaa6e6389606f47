#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: three gfs2-fuse nodes on the real DLM: two die at once and with them the quorum, one moving its block counts; the network splits and heals; a master dies
# timeout: 1500
# full: only
"""There is no fencing here: what fences a node that was cut off is this test, with `kill`."""
import contextlib
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from umltest import *    # noqa: E402
from testlib import *    # noqa: E402
from journal import journals, master_counts    # noqa: E402
import middle    # noqa: E402

TABLE = "g2:vol"
MNT = "/mnt/gfs2"
LOAD = ["/usr/bin/python3", "-B", os.path.join(ROOT, "tests", "uml", "dlmload.py")]
ROUNDS = 3
STEP = 200    # seconds; a bound for one step on a loaded machine, not what it takes


def fuse_mount(node):
    return node.mount("/dev/ubda", "fuse", MNT, check=True)


def quorate(node):
    return "Quorate:          Yes" in node.run("corosync-quorumtool -s").out


def work(node, directory):
    process = node.spawn(LOAD + ["acked", directory])
    process.read_until("\n8\n", STEP)
    return process


def acknowledged(process):
    with contextlib.suppress(uml.ClusterError):
        while process.rc is None and process.pump(0):
            pass
    return process.out.decode().split("\n")[:-1]


def verify(node, directory, wanted):
    result = node.run(LOAD + ["verify", directory] + wanted, timeout=STEP)
    equal((result.rc, result.err), (0, ""), "files of the dead one, seen from node %d" % node.number)


def still_waiting(process, what):
    """It is no question of how long: what it waits for cannot come."""
    end = time.monotonic() + 3
    while time.monotonic() < end and process.pump(0.2):
        pass
    equal((process.rc, bytes(process.out)), (None, b""), what)


def two_die(c, turn):
    """The third one has no quorum: it waits, with all it has; when one is back, both journals are replayed."""
    one, dead = c.node(1), [c.node(2), c.node(3)]
    directories = ["%s/two%d.%d" % (MNT, turn, n.number) for n in dead]
    loads = [work(n, d) for n, d in zip(dead, directories)]
    for n in dead:
        n.kill()
    wait_for(lambda: not quorate(one), "the loss of the quorum", STEP, pause=0.2)
    reader = one.spawn("ls " + directories[0])
    still_waiting(reader, "node 1, without a quorum")
    dead[0].start(mount=False)
    result = reader.wait(STEP)
    equal(result.rc, 0, "node 1 reads when there is a quorum again")
    wanted = [acknowledged(process) for process in loads]
    for d, w in zip(directories, wanted):
        verify(one, d, w)
    fuse_mount(dead[0])
    dead[1].start(mount=False)
    fuse_mount(dead[1])
    for n, d, w in zip(dead, directories, wanted):
        verify(n, d, w)
    one.run("rm -r " + " ".join(directories), check=True)
    log("two died: %s acknowledged" % [len(w) for w in wanted])


def split(c, turn):
    """Node 3 is cut off.  The others go on with what it had; it gets no lock, and is not let in again until it has been fenced."""
    one, two, three = (c.node(n) for n in (1, 2, 3))
    directory, path = "%s/split%d" % (MNT, turn), "%s/mine%d" % (MNT, turn)
    process = work(three, directory)
    process.signal(9)
    process.wait(STEP)
    wanted = acknowledged(process)
    three.run("echo mine >%s; sync %s %s" % (path, path, MNT), check=True)
    c.partition(3)
    wait_for(lambda: not quorate(three), "node 3 to see that it is alone", STEP, pause=0.2)
    # New to it, so that it needs a lock.
    writer = three.spawn("echo x >%s/from-three%d; echo done" % (MNT, turn))
    equal(one.run("cat " + path, timeout=STEP, check=True).out, "mine\n", "what node 3 held")
    verify(two, directory, wanted)
    two.run("echo theirs >%s; sync %s" % (path, path), timeout=STEP, check=True)
    still_waiting(writer, "node 3, alone")
    c.partition()
    still_waiting(writer, "node 3, which has been declared dead")
    equal(one.run("cat " + path, timeout=STEP, check=True).out, "theirs\n", "node 1 while node 3 is seen again")
    three.kill()
    three.start(mount=False)
    fuse_mount(three)
    equal(three.run("cat %s; ls %s/from-three%d 2>/dev/null" % (path, MNT, turn)).out, "theirs\n", "node 3 is back")
    three.run("rm -r %s %s" % (directory, path), check=True)
    log("split and healed")


def master_dies(c, turn):
    """Both survivors convert locks of which node 3 is the master: either of them may become it."""
    def again():
        c.node(3).start(mount=False)
        fuse_mount(c.node(3))

    # Locks of which they were the masters, of blocks that are used again, would stay so.
    for n in (1, 2):
        c.node(n).umount(MNT)
        fuse_mount(c.node(n))
    middle.under_way([c.node(1), c.node(2)], c.node(3), "%s/middle%d" % (MNT, turn), again)


def case_three_nodes():
    image = volume(size="3G", journals=3, proto="lock_dlm", table=TABLE)
    with uml.Cluster() as c:
        c.up(3, images=[image.path])
        chosen = os.environ.get("GFS2_TEST_STEPS", "").split()
        for turn in range(ROUNDS):
            for step in (two_die, split, master_dies):
                if not chosen or step.__name__ in chosen:
                    step(c, turn)
        for n in (1, 2, 3):
            c.node(n).umount(MNT)
        c.node(1).mount("/dev/ubda", "fuse", MNT, "lockproto=lock_nolock", check=True)
        c.node(1).umount(MNT)
        image.fsck()
        equal(c.down(), [], "problems at down")


def heads(image):
    return {number: head for number, head, _ in journals(image.path)}


def case_counts_of_the_dead():
    """Of two that die together one is moving its block counts: they are in its log, but not in place.  Its lock is free at once; what the
    recovery of the other journal, whose number is lower, adds must not come before."""
    image = volume(size="1G", journals=3, proto="lock_dlm", table=TABLE)
    with uml.Cluster() as c:
        c.up(3, images=[image.path])
        survivor, *dead = [c.node(n) for n in (1, 2, 3)]
        with_counts, mover = sorted(dead, key=journal_of)
        with_jid, mover_jid = journal_of(with_counts), journal_of(mover)
        write = "dd if=/dev/zero of=%s/f%d bs=500k count=1 oflag=append conv=fsync,notrunc"
        where, before = master_counts(image.path)
        for node, jid in (mover, mover_jid), (with_counts, with_jid):
            node.run(write % (MNT, jid), check=True)
        mover.run("glockctl set fault op=write,cls=meta,pos=%d,len=512,delay_us=900000000" % where, check=True)
        mover.run("umount " + MNT, check=True)
        wait_for(lambda: not any(heads(image)[mover_jid].counts), "the counts to be moved", STEP, pause=0.2)
        # It has all locks for that, and cannot move what it changes.
        with_counts.run(write % (MNT, with_jid), check=True)
        counts = heads(image)[with_jid].counts
        check(counts[1], "the node with the lower number has moved its counts")
        equal(master_counts(image.path), (where, before), "the master record")
        for node in dead:
            node.kill()
        reader = survivor.spawn("ls -l %s/f%d" % (MNT, with_jid))
        with_counts.start(mount=False)
        equal(reader.wait(STEP).rc, 0, "the survivor reads what a dead one had")
        wait_for(lambda: heads(image)[with_jid].clean and heads(image)[mover_jid].clean, "both replays", STEP, pause=0.2)
        log("journal %d had %s that were not moved, journal %d an image" % (with_jid, counts, mover_jid))
        survivor.umount(MNT)
        survivor.mount("/dev/ubda", "fuse", MNT, "lockproto=lock_nolock", check=True)
        survivor.umount(MNT)
        image.fsck()
        equal(c.down(), [], "problems at down")


need_uml(3)
main()
