#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: behaves as recorded with the kernel's gfs2, scenario by scenario; changed recordings are noticed
# timeout: 240
"""tools/conform on all scenarios of one node."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *

CONFORM = os.path.join(ROOT, "tools", "lib", "conform", "conform.py")


def conform(*words, ok=(0,)):
    return run([sys.executable, "-B", CONFORM, *words], ok=ok, timeout=2 * STEP_SECONDS,
               env=dict(os.environ, GFS2_FUSE=gfs2_fuse(), GFS2_TEST_PROGS=os.path.dirname(prog("steps"))))


def case_scenarios():
    need_fuse()
    said = conform("--nodes", "1", "--mutate").stdout.splitlines()
    log("\n".join(said[-2:]))
    check(", 0 different" in said[-2], "the count of scenarios is missing")


def case_usage():
    check("no scenario" in conform("nothing-like-this", ok=(1,)).stdout, "an unknown scenario is told")
    conform("--unknown", ok=(2,))
    check("w01a_sync_UN " in conform("--list", "w01a*").stdout, "scenarios are listed")


main()
