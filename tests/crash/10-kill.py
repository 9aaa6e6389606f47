#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: SIGKILL of the daemon under load; replayed by us, by fsck.gfs2 and by the kernel, everything acknowledged is there
# timeout: 600
# namespace: no
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from crashload import chosen, steps_open, verify_words    # noqa: E402
from journal import journals    # noqa: E402
from testlib import *    # noqa: E402

# A kill counts if the journal needs replay and system calls were under way.
KILLS = 100 if FULL else 10
# So many crashes in a row hit one volume, each after the replay of the one before.
GENERATIONS = 4
# Images that the kernel replays in one boot of the virtual machine.
KERNEL_BATCH = 10
# Whoever calls fsync makes the others' work durable too, and so hides what they were promised and
# did not get: in some rounds only those work who never call it.
LOADS = [[], ["holes", "churn"], [], ["direct", "holes", "rewrite", "churn"], ["files", "churn"]]
CRASHLOAD = os.path.join(ROOT, "tests", "lib", "crashload.py")
CLUSTER = os.path.join(ROOT, "tools", "cluster")
CLUSTER_SECONDS = 400   # a net below the tool's own bounds


class Crash:
    """What one effective kill left: copies of the image, and the log of what was acknowledged."""

    def __init__(self, number, image, subdir, acks):
        self.number, self.image, self.subdir, self.acks = number, image, subdir, acks


def copy(image, name):
    path = temp(name) + ".img"
    run(["cp", "--sparse=always", image, path])
    return path


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as text:
        return text.read().split()


def acknowledged(acks, workers):
    """Every worker has begun and has been promised something (churn is promised nothing)."""
    for kind, number in workers:
        path = os.path.join(acks, f"{kind}{number}")
        if not os.path.exists(path):
            return False
        with open(path, "rb") as log:
            text = log.read()
        if b"begin" not in text or (kind != "churn" and b'"ok"' not in text):
            return False
    return True


def kill_under_load(volume, number):
    """One kill at a random moment. The Crash, or None if it was not effective."""
    acks = temp("acks")
    os.mkdir(acks)
    subdir = f"round{number}"
    kinds = LOADS[number % len(LOADS)]
    workers = chosen(kinds)
    mount = volume.mount(f"commit={random.choice([1, 5, 30])}")
    os.mkdir(mount / subdir)
    complaints = temp("load")
    with open(complaints, "wb") as out:
        loader = subprocess.Popen([sys.executable, "-B", CRASHLOAD, "load", mount / subdir, acks,
                                   str(random.randrange(1 << 30)), *kinds], stdout=out, stderr=out)
    try:
        wait_for(lambda: acknowledged(acks, workers) or loader.poll() is not None, "all workers to work")
        time.sleep(random.random() * random.choice([0.01, 0.3, 1.0]))
        working = children(loader.pid) if loader.poll() is None else []
        check(len(working) == len(workers) and mount.daemon.poll() is None,
              f"somebody ended before the kill: {read_file(complaints).decode()} {mount.messages()}")
        mount.daemon.kill()
        mount.daemon.wait()
        equal(loader.wait(STEP_SECONDS), 0, "the load: " + read_file(complaints).decode())
    finally:
        if loader.poll() is None:
            loader.terminate()
            loader.wait()
        mount.drop()
    under_way, done = steps_open(acks)
    work = [(head, descriptors) for _, head, descriptors in journals(volume.path) if not head.clean]
    effective = bool(work and work[0][1] and under_way)
    log(f"kill {number}: {done} steps acknowledged, {under_way} under way, "
        f"{work[0][1] if work else 0} log descriptors to replay" + ("" if effective else ": no effect"))
    return Crash(number, volume.path, subdir, acks) if effective else None


def verify(directory, crash, who):
    done = run([sys.executable, "-B", CRASHLOAD, *verify_words(os.path.join(directory, crash.subdir), crash.acks, workdir())], ok=None)
    check(done.returncode == 0, f"kill {crash.number}, replayed by {who}:\n{done.stdout}")


def mounted_by_us(path, crash, who):
    """Mount (which replays what is left to replay), verify, and judge statfs and fsck."""
    with Mount(path) as mount:
        verify(mount.dir, crash, who)
        first = os.statvfs(mount)
    equal(fsck_findings(path), [], f"kill {crash.number}, replayed by {who}: fsck.gfs2 -n")
    with Mount(path) as mount:
        # fsck has compared the counters on the volume with the bitmaps; so these are right.
        second = os.statvfs(mount)
        equal((first.f_blocks, first.f_files - first.f_ffree), (second.f_blocks, second.f_files - second.f_ffree),
              f"kill {crash.number}, replayed by {who}: statfs, now and after a remount")
        check(first.f_bfree <= second.f_bfree, f"kill {crash.number}, replayed by {who}: statfs "
              f"showed {first.f_bfree} free blocks, there are {second.f_bfree}")


def replayed_by_fsck(crash):
    path = copy(crash.image, "by-fsck")
    done = run(["fsck.gfs2", "-y", path], ok=(0, 1))
    check("replay" in done.stdout.lower(), "fsck.gfs2 found nothing to replay: " + done.stdout)
    equal(fsck_findings(path), [], f"kill {crash.number}: fsck.gfs2 -n after fsck.gfs2 -y")
    # It leaves the node's statfs file stale; who mounts next must not count that a second time.
    mounted_by_us(path, crash, "fsck.gfs2")
    os.unlink(path)


def replayed_by_kernel(crashes):
    """All in one boot. Mounted read-only: the journal is replayed, and nothing else is written."""
    def cluster(*words):
        return run([CLUSTER, "--name", f"crash{os.getpid()}", *words], ok=None, timeout=CLUSTER_SECONDS)

    words = ["up", "1", "--kernel", "1", "--no-mount", "--share", workdir()]
    for crash in crashes:
        words += ["--image", crash.for_kernel]
    try:
        done = cluster(*words)
        if done.returncode == 77:
            skip("no kernel to replay with: " + done.stdout.strip().splitlines()[-1])
        check(done.returncode == 0, "tools/cluster up: " + done.stdout)
        for crash, letter in zip(crashes, "abcdefghijklmnop"):
            words = " ".join(verify_words(f"/mnt/crash/{crash.subdir}", crash.acks, workdir()))
            script = (f"mkdir -p /mnt/crash && mount -t gfs2 -o ro,lockproto=lock_nolock /dev/ubd{letter} "
                      f"/mnt/crash && python3 -B {CRASHLOAD} {words}; "
                      "status=$?; umount /mnt/crash; exit $status")
            done = cluster("run", "1", script)
            check(done.returncode == 0, f"kill {crash.number}, replayed by the kernel:\n{done.stdout}")
    finally:
        cluster("down")
    for crash in crashes:
        check(all(head.clean for _, head, _ in journals(crash.for_kernel)),
              f"kill {crash.number}: the kernel has not replayed the journal")
        # It does not reclaim unlinked inodes on a read-only mount: fsck is content once we have.
        mounted_by_us(crash.for_kernel, crash, "the kernel")
        os.unlink(crash.for_kernel)


# What the kernel is to replay, kept by the case before: one machine is booted for many images.
_for_kernel = []


def case_kill():
    need_fuse()
    volume = None
    effective = attempts = 0
    while effective < KILLS:
        attempts += 1
        check(attempts <= 3 * KILLS, f"only {effective} of {attempts} kills had an effect")
        if volume is None or attempts % GENERATIONS == 1:
            if volume:
                volume.remove()
            volume = Volume(size="768M", journals=1, bs=random.choice([4096, 4096, 1024]))
        crash = kill_under_load(volume, attempts)
        if not crash:
            continue
        effective += 1
        crash.for_kernel = copy(crash.image, "by-kernel")
        _for_kernel.append(crash)
        replayed_by_fsck(crash)
        mounted_by_us(volume.path, crash, "us")
        if len(_for_kernel) == KERNEL_BATCH and effective < KILLS:
            case_kernel()
    log(f"{effective} effective kills of {attempts}")


def case_kernel():
    need_fuse()
    if not _for_kernel:
        skip("there is no crashed image")
    batch = _for_kernel[:]
    _for_kernel.clear()
    replayed_by_kernel(batch)


main()
