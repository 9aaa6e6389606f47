#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: two nodes on the real DLM behave as recorded with the kernel's gfs2, the DLM's flags included (all scenarios: --full)
# timeout: 1200
"""tools/conform on the scenarios of two nodes; changed recordings must be noticed.

Each is changed in every place. Five lines of --full are recordings of two nodes that write at the same time, of up to 20,000 words, and
would take more than an hour: they are changed in a part of their places, chosen by GFS2_TEST_SEED, with all the kinds of change that there are in them.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from umltest import *    # noqa: E402
from testlib import *    # noqa: E402

CONFORM = os.path.join(ROOT, "tools", "lib", "conform", "conform.py")
# Every kind of hand-over once: EX and DF to and fro, dirty data, readers, appends, times, names, I/O in flight.
SOME = ["w09a_*", "w09e_*", "w09j_*", "w09m_both_append_direct", "w09n_*concurrent", "w09q_*lazytime", "w09r_*", "w10a_*", "w10i_*",
        "w11b_*", "w12d_*"]


def case_scenarios():
    done = run([sys.executable, "-B", CONFORM, "--nodes", "2", "--mutate", *([] if FULL else SOME)], ok=(0, 1, 77), timeout=1100,
               env=dict(os.environ, GFS2_TEST_SEED=str(SEED), GFS2_FUSE=gfs2_fuse(), GFS2_TEST_PROGS=os.path.dirname(prog("steps"))))
    said = done.stdout.splitlines()
    check(done.returncode == 0, "\n".join(said[-200:]))
    log("\n".join(said[-2:]))
    check(", 0 different" in said[-2], "the count of scenarios is missing")
    check(int(re.search(r"(\d+) kinds of change", said[-1])[1]) >= 10, "not all kinds of change occur")


need_uml(2)
main()
