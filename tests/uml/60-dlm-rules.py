#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: src/lock/dlm_rules.c beside the real DLM: the same scripted and random sequences of requests, the same answers
# timeout: 150
import difflib
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from umltest import *    # noqa: E402
from testlib import *    # noqa: E402

FULL = bool(os.environ.get("GFS2_TEST_FULL"))
NL, CR, CW, PR, PW, EX = range(6)
NOQUEUE, VALBLK, QUECVT, CONVDEADLK, PERSISTENT = 0x1, 0x8, 0x10, 0x40, 0x80
IVVALBLK, NOQUEUEBAST, NOORDER, ALTPR, ALTCW = 0x20, 0x800, 0x2000, 0x8000, 0x10000

# What gfs2 does, and the corners of it.
SCRIPTS = {
    "grant, demand, down": "lock 0 0 0 5 8 0; lock 1 1 0 3 8 0; conv 0 3 8 7; conv 0 0 8 9; conv 0 3 18 0",
    "value block": "lock 0 0 0 5 8 0; conv 0 0 8 42; lock 1 1 0 3 8 0; conv 0 5 18 0; conv 1 0 8 0; "
                   "conv 0 0 8 43; conv 1 5 18 0; close 1; lock 2 2 0 3 8 0; conv 2 5 8 0; conv 2 0 8 5; conv 0 3 8 0",
    "conversion deadlock": "lock 0 0 0 3 8 0; lock 1 1 0 3 8 0; conv 0 5 18 0; conv 1 5 18 0; conv 1 0 8 0; conv 0 0 8 1",
    "noqueue": "lock 0 0 0 5 8 0; lock 1 1 0 3 9 0; lock 2 2 0 3 809 0; conv 0 3 8 0; lock 3 1 0 3 9 0; conv 3 5 9 0; conv 3 5 809 0",
    "order": "lock 0 0 0 3 8 0; lock 1 1 0 5 8 0; lock 2 2 0 3 8 0; conv 0 2 18 0; cancel 1; lock 3 3 0 2 8 0; conv 2 0 8 0",
    "cancel": "lock 0 0 0 5 8 0; lock 1 1 0 5 8 0; cancel 1; cancel 1; cancel 0; lock 2 1 0 0 8 0; conv 2 3 18 0; "
              "cancel 2; cancel 2; conv 2 3 18 0; cancel 0; cancel 0; conv 0 0 8 3; unlock 0 0; unlock 2 0",
    "busy": "lock 0 0 0 5 8 0; lock 1 1 0 3 8 0; conv 1 5 8 0; unlock 1 0; conv 0 5 18 0; unlock 0 0",
    "shared and deferred": "lock 0 0 0 2 8 0; lock 1 1 0 2 8 0; conv 0 3 18 0; conv 1 3 18 0; conv 1 0 8 0; lock 2 2 0 2 8 0; conv 0 0 8 0",
    "persistent": "lock 0 0 0 5 88 0; lock 1 1 0 3 8 0; close 0; lock 2 2 0 2 8 0; purge; conv 1 0 8 0",
    "dies while it waits": "lock 0 0 0 5 8 0; lock 1 1 0 3 8 0; lock 2 2 0 3 8 0; close 1; close 0; lock 3 3 0 5 8 0",
    "new lock, other flags": "lock 0 0 0 3 8 0; lock 1 1 0 0 108 0; lock 2 1 0 2 8008 0; lock 3 2 0 2 10008 0; lock 4 3 0 5 2008 0",
}


def script():
    """All sequences as one input; the random ones have their seed in their number."""
    lines = []
    for number, text in enumerate(SCRIPTS.values()):
        lines += ["seq %d" % number] + [step.strip() for step in text.split(";")]
    for seed in range(1000, 1000 + (4000 if FULL else 400)):
        lines += ["seq %d" % seed] + random_sequence(random.Random(seed))
    return "\n".join(lines) + "\n"


def random_sequence(rnd):
    """Requests by up to four processes for one or two resources, more of gfs2's kind than of others.

    No purge: the kernel's (6.1) trips over some orphans that these leave.
    """
    held = []
    wild = rnd.random() < 0.4
    modes = [NL, CR, CW, PR, PW, EX] if wild else [NL, CW, PR, PR, EX, EX]
    resources = rnd.choice([1, 1, 2])
    # The DLM keeps a resource, and "not valid", for a while after its last lock; the rules do not. So one stays.
    steps = ["lock %d 3 %d %d 0 0" % (number, number, NL) for number in range(resources)]
    number = resources
    for _ in range(rnd.randint(5, 25)):
        kind = rnd.choices(["lock", "conv", "cancel", "unlock", "close"], [4, 10, 2, 1, 0.4])[0]
        if kind == "lock" and number < 16:
            flags = rnd.choice([VALBLK, VALBLK, VALBLK, 0])
            flags |= rnd.choice([0, 0, 0, NOQUEUE, NOQUEUE | NOQUEUEBAST])
            flags |= rnd.choice([0, 0, 0, PERSISTENT])
            if wild:
                flags |= rnd.choice([0, 0, NOORDER, ALTPR, ALTCW])
            steps.append("lock %d %d %d %d %x %d" % (number, rnd.randrange(4), rnd.randrange(resources), rnd.choice(modes),
                                                     flags, rnd.randrange(1, 200)))
            held.append(number)
            number += 1
        elif kind == "conv" and held:
            flags = rnd.choice([VALBLK, VALBLK, VALBLK, 0]) | rnd.choice([0, 0, 0, NOQUEUE, NOQUEUE | NOQUEUEBAST])
            flags |= rnd.choice([0, QUECVT]) | rnd.choice([0, 0, 0, PERSISTENT])
            if wild:
                flags |= rnd.choice([0, 0, 0, NOORDER, CONVDEADLK, IVVALBLK])
            steps.append("conv %d %d %x %d" % (rnd.choice(held), rnd.choice(modes), flags, rnd.randrange(1, 200)))
        elif kind == "cancel" and held:
            steps.append("cancel %d" % rnd.choice(held))
        elif kind == "unlock" and held:
            # libdlm's unlock writes what happens to be on the stack as the value of a lock held in EX or PW.
            lock = rnd.choice(held)
            steps += ["conv %d %d %x %d" % (lock, NL, VALBLK, rnd.randrange(1, 200)), "unlock %d 0" % lock]
        elif kind == "close":
            steps.append("close %d" % rnd.randrange(3))
    return steps


# A lockspace of one node needs no cluster: this says to the DLM what dlm_controld would.
ALONE = r"""
set -e
modprobe dlm
mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
cd /sys/kernel/config/dlm || exit 1
mkdir cluster
echo seq >cluster/cluster_name
mkdir cluster/comms/1
echo 1 >cluster/comms/1/nodeid
python3 -c 'import os, socket, struct; os.write(1, struct.pack("=HH4s120x", socket.AF_INET, 0, socket.inet_aton("127.0.0.1")))' >cluster/comms/1/addr
echo 1 >cluster/comms/1/local
mkdir cluster/spaces/seq cluster/spaces/seq/nodes/1
echo 1 >cluster/spaces/seq/nodes/1/nodeid
mkdir -p /dev/misc
ln -sf ../dlm-control /dev/misc/dlm-control
(
	until [ -e /sys/kernel/dlm/seq/event_done ]; do sleep 0.05; done
	echo 4711 >/sys/kernel/dlm/seq/id
	echo 1 >/sys/kernel/dlm/seq/control
	echo 0 >/sys/kernel/dlm/seq/event_done
	until [ -e /dev/dlm_seq ]; do sleep 0.05; done
	ln -sf ../dlm_seq /dev/misc/dlm_seq
	# leaving
	until [ ! -e /dev/dlm_seq ]; do sleep 0.1; done
	until [ ! -e /sys/kernel/dlm/seq/event_done ]; do echo 0 >/sys/kernel/dlm/seq/event_done || true; sleep 0.1; done
) >/dev/null 2>&1 &
"""


def sequences(text):
    """{number: lines} of a dlmseq output."""
    found, lines = {}, []
    for line in text.splitlines():
        if line.startswith("seq "):
            lines = found.setdefault(int(line[4:]), [])
        lines.append(line)
    return found


def case_same_answers():
    program = os.path.join(os.environ["GFS2_FUSE_BUILDDIR"], "tests", "sim", "dlmseq")
    if not os.path.exists(program):
        raise Skip("dlmseq was not built")
    steps = script()
    rules = subprocess.run([program, "rules"], input=steps, capture_output=True, text=True, check=True).stdout
    with uml.Cluster() as c:
        c.up(1, mount=False, images=None)
        node = c.node(1)
        node.run(ALONE, check=True)
        with node.spawn("%s real seq >/tmp/out 2>/tmp/err" % program) as player:
            player.write(steps.encode())
            player.close_input()
            rc = player.wait(90).rc
        real, err = node.run("cat /tmp/out").out, node.run("cat /tmp/err").out
        if rc:
            raise AssertionError("dlmseq real: exit %d\n%s\n%s" % (rc, err, node.run("dmesg | tail -n 20").out))
        equal(c.down(), [], "problems at down")
    rules, real = sequences(rules), sequences(real)
    equal(len(real), len(rules), "sequences played")
    different = [number for number in rules if rules[number] != real[number]]
    for number in different[:5]:
        log("\n".join(difflib.unified_diff(real[number], rules[number], "the DLM", "the rules", n=40, lineterm="")))
    equal(different, [], "sequences with other answers")
    words = "\n".join(map("\n".join, real.values()))
    for what in ("ast 0 ", "ast 11 ", "ast 35 ", "ast %d " % 0x10001, "ast %d " % 0x10002, "flags 2", "bast EX", "bast PR", "bast CW",
                 "error 16", "error 22"):
        check(what in words, "no sequence has met %r" % what)
    log("%d sequences, %d answers, all the same" % (len(real), words.count("ast ")))


need_uml(1)
main()
