#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: the completion count of direct I/O verified with Spin; each of its orderings, taken away alone, is missed
# timeout: 120
# namespace: no
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

MODEL = os.path.join(ROOT, "tests", "model", "dio_count.pml")
ORDERINGS = ["SUB_REL", "SUB_ACQ", "RUN_REL", "RUN_ACQ", "DRAINED_REL", "DRAINED_ACQ"]
RULES = ["COUNT_FIRST", "OWN_REF"]
STEPS = ["COUNT", "ERROR", "PUBLISH", "DROP", "DECIDE", "FINISH", "DRAINED", "RESULT"]


def verify(*defines):
    """Number of errors that Spin finds (it stops at the first), the number of states, and what it says."""
    for program in ("spin", "gcc"):
        if not shutil.which(program):
            raise Skip("%s is not installed" % program)
    where = temp("spin")
    os.mkdir(where)
    run(["spin", "-a", *("-D" + word for word in defines), MODEL], cwd=where)
    run(["gcc", "-O0", "-DSAFETY", "-DNOFAIR", "-w", "-o", "pan", "pan.c"], cwd=where)
    out = run(["./pan", "-m100000"], cwd=where, ok=None).stdout
    shutil.rmtree(where)
    errors, states = re.search(r"errors: (\d+)", out), re.search(r"(\d+) states, stored", out)
    check(errors and states and "max search depth too small" not in out, out)
    return int(errors[1]), int(states[1]), out


def case_as_it_is():
    for runs in (1, 3, 4):
        errors, states, out = verify("N=%d" % runs)
        log("%d runs: %d states" % (runs, states))
        equal(errors, 0, "errors with %d runs\n%s" % (runs, out))
        check(states > 100, "so few states cannot be all: %s" % out)


def case_each_one_alone():
    for name in ORDERINGS + RULES:
        errors, _, out = verify("N=3", name + "=0")
        check(errors, "without %s nothing is found\n%s" % (name, out))
        log("%-12s %s" % (name, next(line for line in out.splitlines() if line.startswith("pan:"))))


def case_names():
    """The model and the code speak of the same steps."""
    with open(os.path.join(ROOT, "src", "dio", "dio.c")) as code, open(MODEL) as model:
        code, model = code.read(), model.read()
    for step in STEPS:
        check(re.search(r"\b%s\b" % step, model), "the model has no step %s" % step)
        check(re.search(r"/\* %s\b" % step, code), "dio.c does not say where step %s is" % step)
    for name in ORDERINGS + RULES:
        check("#ifndef " + name in model, "the model has no switch " + name)


main()
