#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: tools/bench's rows of a cluster: all of them have a value and their peers', and a slow disk makes writes slow
# timeout: 300
# full: only
# workdir: disk
"""Not how fast: only that it is measured."""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from umltest import *    # noqa: E402
from testlib import *    # noqa: E402
import bench_cluster    # noqa: E402


def case_all_rows():
    out = temp("rows")
    run([os.path.join(ROOT, "tools", "bench"), "--store", "cluster", "--rounds", 1, "--seconds", 1, "--json", out], timeout=1500)
    with open(out) as f:
        rows = json.load(f)
    equal({row["name"] for row in rows}, {name for name, *_ in bench_cluster.ROWS}, "the rows")
    for row in rows:
        log(row)
        equal(row["store"], "cluster", "store")
        check(row["value"] and (row["peer_value"] or row["peer"] == "passthrough_ll" and not os.path.exists(bench_cluster.EXAMPLE)), row)
    alone = {row["name"]: row["peer_value"] for row in rows if row["peer"] == "one node"}
    for name, value in alone.items():
        check(value >= 1, "%s: a direct write took less than what the disk takes: %s" % (name, value))


need_uml(2)
main()
