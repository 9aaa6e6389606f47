#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: random operations by several lock_local daemons at once, and killed ones, under the sanitizers
# timeout: 300
# variants: asan tsan
# full: only
"""The cases of 88-cluster-ops; in a file of its own, since they take long under these."""
import os
import sys

PLAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "88-cluster-ops.py")
os.execv(sys.executable, [sys.executable, "-B", PLAIN, *sys.argv[1:]])
