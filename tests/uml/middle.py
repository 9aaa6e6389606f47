# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests with nodes on the real DLM share: conversions between SH and DF that are under way when the lock's master dies. Not a test.

Linux 6.1's DLM loses what it does of such a conversion between PR and CW (src/lock/dlm.c).  So that it really is under way, each time: the
survivors' dlm_controld is stopped before the master dies, and their kernels go on sending to it until that continues."""
import os
import re

from umltest import *    # noqa: E402
from testlib import *    # noqa: E402

PROGRAM = ["/usr/bin/python3", "-B", os.path.join(ROOT, "tests", "uml", "dlmload.py")]
FILES = 12
STEP = 150    # seconds; a bound for one step on a loaded machine, not what it takes
LOG_DEBUG = "/sys/kernel/config/dlm/cluster/log_debug"


def in_transition(node):
    """How many inode glocks of that node are on their way between SH and DF."""
    dump = node.run("glockctl dump", check=True).out
    return len(re.findall(r"^G:  s:SH n:2/\S+ f:\S*l\S* t:DF|^G:  s:DF n:2/\S+ f:\S*l\S* t:SH", dump, re.M))


def lost(node, master):
    """What the kernel says it did not know the outcome of when it began to recover: conversions (message 2) sent to the dead one."""
    return len(re.findall(r"dlm: vol: waiter \w+ remote \w+ msg 2 r_nodeid \d+ lkb_nodeid \d+ wait_nodeid %d dir_nodeid \d+$" % master.number,
                          node.run("dmesg", check=True).out, re.M))


def under_way(nodes, master, directory, again):
    """@master dies while @nodes convert; @again brings it back, mounted."""
    master.run("mkdir %s" % directory, check=True)
    names = ["%s/m%d" % (directory, i) for i in range(FILES)]
    # Who is the first to have a lock is its master.
    master.run(PROGRAM + ["make"] + names, check=True, timeout=STEP)
    workers = [node.spawn(PROGRAM + ["turn", str(number)] + names) for number, node in enumerate(nodes)]
    # To open a file takes SH: only when all have done so does each keep what it then takes.
    for process in workers:
        process.read_until("open\n", STEP)
    for process in workers:
        process.write(b"\n")
        process.read_until("ready\n", STEP)
    before = [lost(node, master) for node in nodes]
    for node in nodes:
        node.run("echo 1 >%s; kill -STOP $(pidof dlm_controld)" % LOG_DEBUG, check=True)
    master.kill()
    for process in workers:
        process.write(b"\n")
    # The first node converts all, the others a part: see dlmload.py.
    for number, node in enumerate(nodes):
        count = FILES if not number else FILES // 3
        wait_for(lambda: in_transition(node) >= count, "%d conversions of node %d" % (count, node.number), STEP, pause=0.1)
    for node in nodes:
        node.run("kill -CONT $(pidof dlm_controld)", check=True)
    began = time.monotonic()
    for process in workers:
        result = process.wait(STEP)
        equal((result.rc, result.err), (0, b""), "who converts when the master dies")
    took = time.monotonic() - began
    counts = [lost(node, master) - b for node, b in zip(nodes, before)]
    check(counts[0] >= FILES // 2, "conversions under way when the recovery began: %s" % counts)
    for node in nodes:
        node.run("echo 0 >" + LOG_DEBUG, check=True)
    again()
    # Each lock still does what it should: there and back, on all nodes.
    for node in (master, *nodes):
        result = node.run(PROGRAM + ["go-round"] + names, timeout=STEP)
        equal((result.rc, result.err), (0, ""), "the locks afterwards, on node %d" % node.number)
    nodes[0].run("rm -r " + directory, check=True)
    log("%s conversions were under way when their master died; they were over after %.1f s" % (counts, took))
