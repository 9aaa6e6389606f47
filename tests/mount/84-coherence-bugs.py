#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: 44-three-nodes, 83-coherence, 83-identity and 88-cluster-ops find every one of a list of bugs when it is switched on, and a killed daemon that hangs leaves nothing behind
# timeout: 600
# full: only
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))

# Name (SEEDED_BUG() in src/) and the cases of that test that must notice.
BUGS = {"83-coherence.py": [
    ("data-kept", ["matrix"]), ("metadata-kept", ["matrix"]), ("map-kept", ["matrix"]),
    ("dir-hash-kept", ["growing_directory"]), ("glock-not-instantiated-again", ["matrix"]),
    ("gate-left-open", ["matrix"]), ("gate-no-drop", ["matrix"]),
    ("gate-one-round", ["gate"]),
    # This one hangs.
    ("gate-shut", ["gate"]),
    ("undo-cuts", ["failed_append"]), ("iopen-kept", ["unlinked"]),
    ("time-left-behind", ["times_left"]), ("utime-not-noted", ["utime_stays"]),
], "88-cluster-ops.py": [(bug, ["three_nodes", "two_nodes_small_blocks"]) for bug in (
    "data-kept", "metadata-kept", "map-kept", "size-kept", "glock-not-instantiated-again", "glock-no-sync-to-shared",
    "gate-left-open", "gate-no-drop", "append-where-believed")
], "44-three-nodes.py": [(bug, ["holes_writes_and_reads", "small_blocks"]) for bug in (
    "map-kept", "write-stale-head", "glock-not-instantiated-again", "gate-left-open", "gate-no-drop")
], "83-identity.py": [(bug, ["another_in_its_place"]) for bug in ("node-untold", "remnant-believed")]}
PATIENCE = 40       # seconds for cases that take five or twenty without a bug
SEEDS = 4


def build():
    where = temp("seeded")
    run(["meson", "setup", "-Dbuildtype=debugoptimized", "-Dseeded-bugs=true", "-Dtests=disabled", where, ROOT],
        timeout=STEP_SECONDS * 5)
    run(["ninja", "-C", where, "src/gfs2-fuse"], timeout=STEP_SECONDS * 5)
    return os.path.join(where, "src", "gfs2-fuse")


def daemons(work):
    """Those whose mounts are in this directory."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            with open(f"/proc/{pid}/cmdline") as words:
                line = words.read().split("\0")
        except OSError:
            continue    # it has ended
        if line[0] == os.environ["GFS2_FUSE"] and any(word.startswith(work + "/") for word in line):
            found.append(pid)
    return found


def attempt(test, bug, cases, seed):
    """What the cases say to this bug; nothing: they did not notice."""
    work = temp("work")
    os.makedirs(work)
    process = subprocess.Popen([sys.executable, "-B", os.path.join(HERE, test), *cases], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env=dict(os.environ, GFS2_SEEDED_BUG=bug, GFS2_TEST_DIR=work, GFS2_TEST_SEED=str(seed)))
    hung, out = "", None
    while out is None:
        try:
            out = process.communicate(timeout=PATIENCE)[0]
        except subprocess.TimeoutExpired:
            hung = "hung "
            # They must end, although a thread of theirs sleeps in the kernel, or nobody who waits for them would.  Each case has others.
            for pid in daemons(work):
                os.kill(pid, signal.SIGKILL)
    wait_for(lambda: work not in open("/proc/self/mounts").read(), f"{bug}: the mounts to be gone")
    faults = [line for line in out.decode(errors="replace").splitlines() if "Error: " in line or "no order" in line or "no whole record" in line]
    return hung + " ".join(faults[:1])[:160] if process.returncode else ""


def case_seeded_bugs():
    need_fuse()
    os.environ["GFS2_FUSE"] = os.environ.get("GFS2_SEEDED_FUSE") or build()
    missed = []
    for test, bug, cases in [(test, *one) for test, bugs in BUGS.items() for one in bugs]:
        for seed in range(SEED, SEED + SEEDS):
            said = attempt(test, bug, cases, seed)
            if said:
                break
        log(f"{test}: {bug}: {said or 'NOT FOUND'}")
        if not said:
            missed.append(f"{test}: {bug}")
    check(not missed, "not found: " + ", ".join(missed))


if __name__ == "__main__":
    main()
