#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: a cluster of two kernel nodes with the real DLM: one volume on both, one dies, the other replays its journal, it comes back
# timeout: 240
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from umltest import *    # noqa: E402
from testlib import *    # noqa: E402


def interrupted(c):
    """Ctrl-C ends `run all`, not only the node that it is at.  exec: a shell that is just starting a child may miss it."""
    with subprocess.Popen([CLUSTER, "--name", c.name, "run", "all", "echo $$; exec sleep 1000"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True) as command:
        check(command.stdout.readline().strip().isdigit(), "the first node's command does not begin")
        command.send_signal(signal.SIGINT)
        equal(command.stdout.read(), "", "output after the interrupt")
    equal(command.returncode, 130, "exit status after the interrupt")


def case_two_nodes():
    image = volume(journals=2, proto="lock_dlm", table="g2:vol")
    with uml.Cluster() as c:
        c.up(2, kernel=[1, 2], images=[image.path])
        one, two = c.node(1), c.node(2)
        one.run("echo one >/mnt/gfs2/one", check=True)
        equal(two.run("cat /mnt/gfs2/one", check=True).out, "one\n", "node 2 reads what node 1 wrote")
        two.run("echo two >/mnt/gfs2/two; sync -f /mnt/gfs2; mkdir /mnt/gfs2/dir", check=True)
        interrupted(c)
        two.kill()
        equal(one.run("cat /mnt/gfs2/two", check=True).out, "two\n", "after the death of node 2")
        check("Replayed" in one.console(), "node 1 has replayed the journal of node 2")
        two.start()
        one.run("echo three >/mnt/gfs2/three", check=True)
        equal(two.run("cat /mnt/gfs2/three", check=True).out, "three\n", "node 2 is back")
        equal(c.down(), [], "problems at down")
    image.fsck()


need_uml(2)
main()
