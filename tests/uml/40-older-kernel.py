#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: the mount tests on the node's older kernel (6.1): its FUSE client and its io_uring
# timeout: 400
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from umltest import *    # noqa: E402
from testlib import *    # noqa: E402

# The others need loop devices, more memory than a node has, or are about things that are no kernel's.
TESTS = ["20-namespace", "42-dio-locks", "45-strand", "60-mmap"]
if FULL:
    TESTS += ["10-tree", "21-readdir", "30-data", "31-sparse", "52-unmount", "70-glockctl", "83-coherence"]


def case_mount_tests():
    progs = os.path.dirname(prog("dio240"))
    environment = ["GFS2_FUSE=" + gfs2_fuse(), "GLOCKCTL=" + glockctl_program(),
                   "GFS2_TEST_PROGS=" + progs, "GFS2_TEST_SEED=%d" % SEED, "TMPDIR=/dev/shm",
                   "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
    failed = []
    share = [os.path.dirname(path) for path in (progs + "/", gfs2_fuse(), glockctl_program())]
    with uml.Cluster() as c:
        c.up(1, images=None, share=sorted(set(share)))
        node = c.node(1)
        log("kernel", node.run(["uname", "-r"], check=True).out.strip())
        for name in TESTS:
            path = os.path.join(ROOT, "tests", "mount", name + ".py")
            done = node.run(["env", *environment, "/usr/bin/python3", "-B", path])
            log(f"--- {name}: exit {done.rc}\n{done.out}{done.err}")
            if done.rc:
                failed.append(name)
    equal(failed, [], "tests that failed on the older kernel")


need_uml()
main()
