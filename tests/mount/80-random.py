#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: random calls of several processes beside the same calls on tmpfs, with remounts and kills; on small volumes that fill up
# timeout: 300
# variants: plain
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

RANDOMOPS = os.path.join(ROOT, "tests", "lib", "randomops.py")
WORKERS = 3
# (block size, MiB): the smaller ones are full before long.
VOLUMES = [(512, 40), (4096, 96)] if not FULL else [(512, 40), (1024, 64), (2048, 48), (4096, 96), (4096, 40)]
ROUNDS = 3 if not FULL else 8
STEPS = 150 if not FULL else 800


def work(mount, reference, number, seed, steps):
    """All workers at once; each in a directory of its own."""
    workers = []
    for worker in range(WORKERS):
        out = open(temp("worker"), "w+")
        workers.append((out, subprocess.Popen(
            [sys.executable, "-B", RANDOMOPS, "work", f"{seed}/{number}/{worker}", str(steps),
             f"{reference}.state{worker}", mount / f"w{worker}", f"{reference}/w{worker}"],
            stdout=out, stderr=out)))
    faults = []
    for worker, (out, process) in enumerate(workers):
        try:
            status = process.wait(STEP_SECONDS * 4)
        except subprocess.TimeoutExpired:
            status = "does not end"
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        if status:
            faults.append(f"worker {worker}, round {number}: {out.read()[-1500:].strip() or status}")
        out.close()
    return faults


def compare(directory, reference):
    done = run([sys.executable, "-B", RANDOMOPS, "compare", directory, reference], ok=None)
    return [done.stdout] if done.returncode else []


def end(mount, kill):
    """Take the volume away: the messages of the daemon that are complaints."""
    if kill:
        mount.kill()
        return []
    try:
        mount.umount()
    except AssertionError as error:
        mount.drop()
        return [str(error)]
    return []


def random_rounds(bs, mib, seed, rounds=ROUNDS, steps=STEPS, env=None):
    """The first faults that are found, an empty list if there are none."""
    volume = Volume(size=f"{mib}M", bs=bs, junk=True)
    reference = temp("reference")
    os.mkdir(reference)
    for number in range(rounds):
        # Data go unread into the cache of a mount that is killed, so every round verifies what the one
        # before left.
        mount = volume.mount("commit=3600" if number % 2 else "commit=1", env=env)
        faults = work(mount, reference, number, seed, steps)
        free = os.statvfs(mount.dir) if not faults else None
        faults += end(mount, number % 3 == 1 and not faults)
        if faults:
            return faults
        mount = volume.mount(env=env)
        faults = compare(mount.dir, reference)
        now = os.statvfs(mount.dir) if not faults else None
        faults += end(mount, False)
        if not faults and number % 3 != 1 and free.f_bfree > now.f_bfree:
            faults.append(f"statfs showed {free.f_bfree} free blocks, after a remount {now.f_bfree}")
        odd = fsck_findings(volume.path)
        if odd:
            faults.append("fsck.gfs2 -n: " + "; ".join(odd[:5]))
        if faults:
            return faults
    volume.remove()
    shutil.rmtree(reference)
    return []


def case_random():
    need_fuse()
    for bs, mib in VOLUMES:
        faults = random_rounds(bs, mib, f"{SEED}/{bs}/{mib}")
        check(not faults, f"blocks of {bs}, {mib} MiB, GFS2_TEST_SEED={SEED}:\n" + "\n".join(faults))


if __name__ == "__main__":
    main()
