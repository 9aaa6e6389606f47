#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: the random calls of 80-random find every one of a list of bugs, one per module, when it is switched on
# timeout: 300
# full: only
import importlib.util
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

spec = importlib.util.spec_from_file_location(
    "random80", os.path.join(os.path.dirname(os.path.abspath(__file__)), "80-random.py"))
random80 = importlib.util.module_from_spec(spec)
spec.loader.exec_module(random80)

# Name (SEEDED_BUG() in src/) and (block size, MiB) of the volume where it shows.
BUGS = [("dir-entry-count", 4096, 96), ("hash-split-table", 512, 40), ("truncate-tail", 4096, 96),
        ("rgrp-free-count", 4096, 96), ("statfs-free", 4096, 96), ("lost-revoke", 512, 40),
        ("write-stale-head", 4096, 96), ("dio-no-flush", 4096, 96), ("exchange-nlink", 512, 40),
        ("link-nlink", 4096, 96), ("xattr-data", 512, 40)]
ROUNDS, STEPS = 12, 200
# Whether statfs waits for what is being freed cannot be seen through the kernel, whose FORGETs come when they like.
UNIT_BUGS = [("namei", "statfs-early")]


def build():
    where = temp("seeded")
    run(["meson", "setup", "-Dbuildtype=debugoptimized", "-Dseeded-bugs=true", where, ROOT], timeout=STEP_SECONDS * 5)
    run(["ninja", "-C", where, "src/gfs2-fuse", *{f"tests/unit/test_{test}" for test, _ in UNIT_BUGS}],
        timeout=STEP_SECONDS * 5)
    return where


def find(bug, bs, mib):
    """What the random test says to this bug; nothing: it was not found."""
    try:
        return random80.random_rounds(bs, mib, f"{SEED}/{bug}", ROUNDS, STEPS,
                                      dict(os.environ, GFS2_SEEDED_BUG=bug))
    except (AssertionError, OSError) as fault:
        return [str(fault)]
    finally:
        clean_up()


def case_seeded_bugs():
    need_fuse()
    where = os.environ.get("GFS2_SEEDED_BUILD") or build()
    os.environ["GFS2_FUSE"] = os.path.join(where, "src", "gfs2-fuse")
    faults = find("", 4096, 96)
    check(not faults, "the random test finds a fault where no bug is switched on: " + " ".join(faults))
    missed = []
    for bug, bs, mib in BUGS:
        faults = find(bug, bs, mib)
        log(f"{bug}: " + (" ".join(faults)[:200].replace("\n", " ") or "NOT FOUND"))
        if not faults:
            missed.append(bug)
    for test, bug in UNIT_BUGS:
        program = os.path.join(where, "tests", "unit", f"test_{test}")
        run([program], timeout=STEP_SECONDS * 5)
        done = run([program], timeout=STEP_SECONDS * 5, ok=None, env=dict(os.environ, GFS2_SEEDED_BUG=bug))
        log(f"{bug}: " + (" ".join(re.findall(r"FAILED  \] (\w+)\n", done.stdout)) or "NOT FOUND"))
        if not done.returncode:
            missed.append(bug)
    check(not missed, "not found: " + ", ".join(missed))


main()
