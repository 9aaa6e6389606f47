#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: what two nodes see of each other's changes, and the end of the lock under the kernel's pages, under the sanitizers
# timeout: 300
# variants: asan tsan
# full: only
"""The cases of 83-coherence; in a file of its own, since they take long under these."""
import os
import sys

PLAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "83-coherence.py")
os.execv(sys.executable, [sys.executable, "-B", PLAIN, *sys.argv[1:]])
