#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: direct writes aligned to the sector but not to the block, into holes, by several threads with readers: libaio, io_uring, synchronous
# timeout: 240
# variants: plain asan
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402


ROUNDS = 3 if not FULL else 30
SIZE = 2 << 20


def hammer(mode, loop):
    """Fresh files, so that every block is a hole once. loop: a store with a sector of 512 bytes."""
    for bs in (4096, 2048, 1024):
        volume = Volume(size="96M", bs=bs, junk=True)
        if loop:
            volume.device = run(["losetup", "--show", "-f", "--direct-io=on", volume.path]).stdout.strip()
        mount = volume.mount()
        for number in range(ROUNDS):
            threads = (2, 4, 3)[number % 3]
            run([prog("dio240"), mount / f"file{number}", mode, threads, SIZE, SEED + number])
        sums = {name: sha256_file(mount / name) 
                for name in os.listdir(mount) if name.startswith("file")}
        mount.umount()
        with volume.mount("ro") as mount:
            for name, digest in sums.items():
                equal(sha256_file(mount / name), digest, f"{name} after a remount")
        volume.fsck()


def case_sync():
    hammer("sync", False)


def case_libaio():
    hammer("libaio", False)


def case_io_uring():
    hammer("io_uring", False)


def case_libaio_on_block_device():
    hammer("libaio", True)


def case_io_uring_on_block_device():
    hammer("io_uring", True)


main()
