#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: two and three nodes' glocks in a deterministic simulator: all small programs, random ones, and bugs on purpose, which it must find
# timeout: 180
# variants: plain asan
# namespace: no
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

FULL = bool(os.environ.get("GFS2_TEST_FULL"))
ASAN = "asan" in os.path.basename(os.environ.get("GFS2_FUSE_BUILDDIR", ""))
SECONDS = 1500 if FULL else 170
# Coroutines have stacks of their own, which are dropped in the middle when a node dies.
os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":detect_stack_use_after_return=0"


def sim(*words, name="glocksim"):
    builddir = os.environ.get("GFS2_FUSE_BUILDDIR")
    program = os.path.join(builddir, "tests", "sim", name) if builddir else None
    if not program or not os.path.exists(program):
        raise Skip("no %s was built" % name)
    out = run([program, *map(str, words)], timeout=SECONDS).stdout
    # The address sanitizer has its doubts about coroutines, with the number of the process.
    return "".join(line for line in out.splitlines(True) if not line.startswith("=="))


def case_same_seed_same_run():
    for seed in (3, 17, 1234):
        alone = sim("trace", seed)
        check(alone.count("\n") > 50, "a trace has more than %r" % alone[:200])
        equal(sim("trace", seed), alone, "the same seed again")
        equal(sim("trace", seed, seed - 3), alone, "the same seed after other runs")
    check(sim("trace", 3) != sim("trace", 4), "another seed does something else")


def case_random():
    log(sim("random", 0, 1000 if ASAN else 200000 if FULL else 4000))


def case_seeds_that_have_failed():
    for seed in (159137, 184079):   # see `rare` in main.c
        sim("random", seed, 1)
    # two that hold DF, have times to publish and do not want to wait for each other
    sim("program", "0: DF EXo / 1: DF EXo / 0: DFk; nodes=2 deaths=1")
    # the one that a request was begun for gives up before the lock module is asked, and the next does not want to wait
    sim("program", "0: EXk / 0: EXo / 1: DF; nodes=2")


def case_all_small_programs():
    if ASAN and not FULL:
        log(sim("program", "0: SH EX / 1: DFk; nodes=2 deaths=1"))
        return
    out = sim("all", 1 if FULL and not ASAN else 0)
    log(out)
    words = out.split()
    check(int(words[0]) >= 700 and int(words[2]) >= 250000, "these were too few: " + out)


def case_bugs():
    if ASAN:
        raise Skip("the bugs need no sanitizer")
    log(sim("bugs", name="glocksim-bugs"))


main()
