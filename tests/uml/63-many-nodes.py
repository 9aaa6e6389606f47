#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: 9 and 16 gfs2-fuse nodes on the real DLM: all mount, write and read, all unmount at once, three die at once
# timeout: 300
# full: only
# workdir: disk
"""The time goes with the square of the nodes: each that comes or goes has all the others recover."""
import concurrent.futures
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from umltest import *    # noqa: E402
from testlib import *    # noqa: E402
from journal import journals    # noqa: E402

TABLE = "g2:vol"
MNT = "/mnt/gfs2"
ROUNDS = 3
STEP = 300    # seconds; a bound for one step on a loaded machine, not what it takes


def on_all(nodes, work):
    """The same on all of them at once; what they return, in order."""
    with concurrent.futures.ThreadPoolExecutor(len(nodes)) as pool:
        return list(pool.map(work, nodes))


def fuse_mount(node):
    node.mount("/dev/ubda", "fuse", MNT, check=True)


def write(node):
    node.run("echo %d >%s/file%d; mkdir -p %s/dir; echo %d >>%s/dir/all" % (
        node.number, MNT, node.number, MNT, node.number, MNT), check=True, timeout=STEP)


def look(node):
    return node.run("cat %s/file*; sort -n %s/dir/all" % (MNT, MNT), check=True, timeout=STEP).out


def all_write_and_read(nodes):
    on_all(nodes, write)
    seen = on_all(nodes, look)
    equal(seen, seen[:1] * len(nodes), "all see the same")
    numbers = sorted(node.number for node in nodes)
    equal(sorted(map(int, seen[0].split())), sorted(2 * numbers), "and what all wrote")
    nodes[0].run("rm -r %s/*" % MNT, check=True, timeout=STEP)


def unmount_together(c, nodes, image):
    """Each waits for the lock of the block counts that another one has, while yet others leave the lock space."""
    at = time.time() + 3
    # All nodes have the host's clock.
    on_all(nodes, lambda node: node.run("echo x >%s/last%d; while [ $(date +%%s%%N) -lt %d ]; do :; done; umount %s" % (
        MNT, node.number, int(at * 1e9), MNT), check=True, timeout=STEP))
    on_all(nodes, lambda node: node.run(["/usr/bin/python3", "-I", "-S", c.bin("released.py"), "/dev/ubda"], check=True,
                                        timeout=STEP))
    for number, head, _ in journals(image.path):
        check(head.clean, "journal %d is not clean" % number)


def some_die(nodes, dead):
    """They hold what they have just written; those that live on get it when all their journals have been replayed."""
    for node in dead:
        node.run("echo %d >%s/dead%d; sync %s/dead%d" % (node.number, MNT, node.number, MNT, node.number), check=True)
    on_all(dead, lambda node: node.kill())
    living = [node for node in nodes if node not in dead]
    wanted = "".join("%d\n" % number for number in sorted(node.number for node in dead))
    began = time.monotonic()
    seen = on_all(living, lambda node: node.run("cat %s/dead* | sort -n" % MNT, check=True, timeout=STEP).out)
    log("  the others went on after %.1f s" % (time.monotonic() - began))
    equal(seen, [wanted] * len(living), "what the dead wrote")
    for node in dead:
        node.start(mount=False)
        fuse_mount(node)
    nodes[0].run("rm %s/dead*" % MNT, check=True)


def many(count, dead):
    image = volume(size="%dM" % max(2048, 256 * count), journals=count, proto="lock_dlm", table=TABLE)
    with uml.Cluster() as c:
        began = time.monotonic()
        c.up(count, images=[image.path])
        log("%d nodes are up after %.1f s" % (count, time.monotonic() - began))
        nodes = [c.node(number) for number in range(1, count + 1)]
        equal({(n["state"], n["mounted"]) for n in c.status()["nodes"]}, {("ready", "fuse")}, "the status")
        for _ in range(ROUNDS):
            all_write_and_read(nodes)
            unmount_together(c, nodes, image)
            on_all(nodes, fuse_mount)
            nodes[0].run("rm %s/last*" % MNT, check=True, timeout=STEP)
        some_die(nodes, [nodes[number - 1] for number in dead])
        all_write_and_read(nodes)
        # down unmounts all of them together, too
        equal(c.down(), [], "problems at down")
        log("%d nodes: %.1f s" % (count, time.monotonic() - began))
    for number, head, _ in journals(image.path):
        check(head.clean, "journal %d is not clean" % number)
    image.remove()


def case_nine():
    many(9, (1, 5, 9))


def case_sixteen():
    many(16, (2, 10, 16))


need_uml(16)
main()
