#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: tools/bench measures a row beside its peers, says why it cannot, and leaves nothing behind
# timeout: 240
"""No figure is looked at: what is fast here says nothing about anything else."""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

BENCH = os.path.join(ROOT, "tools", "bench")
ROW = "direct_write_4k_sync_latency"


def bench(*words, ok=(0,), **environment):
    return run([BENCH, "--rounds", "1", "--seconds", "1", *words], timeout=200, ok=ok,
               env=dict(os.environ, GFS2_FUSE=gfs2_fuse(), GLOCKCTL=glockctl_program()) | environment)


def case_row():
    need_fuse()
    store, out = temp("store"), temp("rows.json")
    os.mkdir(store)
    done = bench("--store", store, "--json", out, ROW)
    with open(out) as rows:
        rows = json.load(rows)
    equal([row["name"] for row in rows], [ROW] * 2, "rows")
    equal(sorted(row["peer"] for row in rows), ["passthrough_ll", "raw"], "peers")
    for row in rows:
        check(row["value"] > 0 and row["peer_value"] > 0, f"measured: {row}")
        check(abs(row["ratio"] - row["value"] / row["peer_value"]) < 0.01 * row["ratio"], f"ratio: {row}")
    check("could not be measured" not in done.stdout, done.stdout)
    equal(os.listdir(store), [], "left in the store")


def case_refusals():
    store = temp("empty")
    os.mkdir(store)
    check("no row is called nonsense" in bench("nonsense", ok=(1,)).stdout, "a row that is none")
    check("above 0" in bench("--rounds", "0", ok=(1,)).stdout, "no round")
    done = bench("--store", store, ROW, ok=(1,), GFS2_FUSE="/nonexistent/gfs2-fuse")
    check("/nonexistent/gfs2-fuse" in done.stdout and "Traceback" not in done.stdout, f"no daemon: {done.stdout}")
    equal(os.listdir(store), [], "left in the store")


main()
