#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: two and three lock_local daemons under the thread sanitizer
# timeout: 240
# variants: tsan
# full: only
"""The cases of 80-local; in a file of its own, since they take long under this sanitizer."""
import os
import sys

PLAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "80-local.py")
os.execv(sys.executable, [sys.executable, "-B", PLAIN, *sys.argv[1:]])
