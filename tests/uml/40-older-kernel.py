#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: the mount tests on the node's older kernel (6.1): its FUSE client and its io_uring
# timeout: 500
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from umltest import *    # noqa: E402
from testlib import *    # noqa: E402

from calls import differences    # noqa: E402

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
        # The image that 30-data fills from end to end must fit into the half of it that /dev/shm may have.
        c.up(1, images=None, share=sorted(set(share)), mem="1G" if FULL else None)
        node = c.node(1)
        log("kernel", node.run(["uname", "-r"], check=True).out.strip())
        for name in TESTS:
            path = os.path.join(ROOT, "tests", "mount", name + ".py")
            done = node.run(["env", *environment, "/usr/bin/python3", "-B", path])
            log(f"--- {name}: exit {done.rc}\n{done.out}{done.err}")
            if done.rc:
                failed.append(name)
    equal(failed, [], "tests that failed on the older kernel")


# Sections of tests/lib/calls.py where all is the file system's own doing; the others only with --full.
SECTIONS = ["times", "acls", "xattrs", "flags", "ranges", "removed"]
# What it finds different from the kernel's gfs2, and is meant to be: (circumstances, what we say, why).
MEANT = [
    (r"flag: 20 [24]777 [^ ]* allocate: ", "EPERM", "gfs2 leaves setuid and setgid; the kernel's FUSE client has them taken, and the mode cannot change"),
]
MEANT_FULL = [
    (r"descriptor: d 0 \('os', 'p?read'\): ", "EISDIR", "the kernel's FUSE client, as all others but gfs2"),
    (r"chown: reg member .[^ ]* \(-1, -1\): ", r"ok 10[246]", "FUSE does not tell a chown that sets nothing from what comes before a write; nothing is done"),
    (r"write: .* other 6767: ", " 102767 ", "setgid without the group's x: FUSE leaves it (FUSE_HANDLE_KILLPRIV_V2)"),
    (r"write: (ftruncate|grow|same size|O_TRUNC|truncate) (owner|other) ", " 10[02]7[67]7 ", "gfs2 leaves setuid and setgid when a file is cut"),
]


def case_calls_as_the_kernels_gfs2():
    """Thousands of system calls on the kernel's gfs2 and on ours, on the same machine."""
    program = os.path.join(ROOT, "tests", "lib", "calls.py")
    theirs, ours = volume(size="512M"), volume(size="512M")

    def calls(node, directory):
        node.run(["mkdir", directory + "/w"], check=True)
        return node.run(["/usr/bin/python3", "-B", program, directory + "/w", *([] if FULL else SECTIONS)], check=True).out

    with uml.Cluster() as c:
        c.up(1, images=None, share=[os.path.dirname(gfs2_fuse())])
        node = c.node(1)
        with uml.volume.kernel_mount(node, theirs.path) as directory:
            want = calls(node, directory)
        device = c.attach(ours.path, False)
        node.run([gfs2_fuse(), "-o", "lockproto=lock_nolock", device, "/mnt"], check=True)
        got = calls(node, "/mnt")
        node.umount("/mnt")
        # The kernel lets go of a device a moment after the process that had a ring for it.
        node.run([gfs2_fuse(), "--wait", device], check=True)
        c.detach(device)
    theirs.fsck()
    ours.fsck()
    faults = differences(got, want, MEANT + (MEANT_FULL if FULL else []), 5500 if FULL else 700)
    check(not faults, "\n".join(faults[:20]))


need_uml()
main()
