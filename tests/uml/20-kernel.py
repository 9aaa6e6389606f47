#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: the kernel's gfs2 in a node reads what it wrote, images come back complete, a power cut leaves a dirty journal that replays
# timeout: 240
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from umltest import *    # noqa: E402
from testlib import *    # noqa: E402


def case_write_and_read_back():
    image = volume()
    with uml.Cluster() as c:
        c.up(1, kernel=[1], images=[image.path])
        node = c.node(1)
        node.run(["/usr/bin/python3", "-B", os.path.join(ROOT, "tests", "lib", "tree.py"),
                  "/mnt/gfs2/tree", str(SEED), "0.02"], check=True)
        before = uml.volume.manifest(node, "/mnt/gfs2", "--exact")
        equal(c.down(), [], "problems at down")
    check(len(before.splitlines()) > 100, "there is something to compare")
    image.fsck()
    after = uml.volume.kernel_read(image.path, options=["--exact"])
    same(no_rdev(after), no_rdev(before), "read back")
    image.fsck()


def case_power_cut():
    """Twice on one running cluster: leave it dirty, replay it, everything acknowledged is there."""
    image = volume()
    with uml.Cluster() as c:
        c.up(1, images=None)
        node = c.node(1)
        acknowledged = []
        for _ in range(2):
            acknowledged += uml.volume.leave_dirty(image.path, node)
            check(uml.volume.is_dirty(image.path), "the journal needs replay")
            node.start()
            try:
                uml.volume.kernel_read(image.path, node)
            except uml.CommandFailed:
                pass
            else:
                raise AssertionError("a read-only device with a dirty journal was mounted")
            found = uml.volume.kernel_read(image.path, node, readonly=False)
            check(not uml.volume.is_dirty(image.path), "the journal is clean after a replay")
            missing = [name for name, digest in acknowledged
                       if not re.search(r"^\./%s\t.*\t%s$" % (re.escape(name), digest), found, re.M)]
            equal(missing, [], "fsynced files that are not there")


need_uml()
main()
