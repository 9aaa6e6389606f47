#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: a fault (EIO, ENOSPC, short, late, a dead device) at each request of a workload: errors told, nothing else lost, fsck clean
# timeout: 240
# variants: plain asan
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

KINDS = ["eio", "enospc", "short", "delay", "dead"]
# Every so many requests; each kind begins with another one.
STEP = 1 if FULL else 19
SIZES = (512, 1024, 4096) if FULL else (1024,)


def program():
    where = os.environ.get("GFS2_FUSE_BUILDDIR")
    if not where:
        skip("GFS2_FUSE_BUILDDIR does not name a build directory")
    return os.path.join(where, "tests", "fuzz", "fuzz-faults")


def case_every_request():
    need_fuse()
    for bs in SIZES:
        volume = Volume(size="32M", bs=bs)
        for number, kind in enumerate(KINDS):
            first = 0 if FULL else number * STEP // len(KINDS)
            done = run([program(), volume.path, kind, first, STEP],
                       timeout=STEP_SECONDS * (10 if FULL else 2), ok=None)
            log(f"blocks of {bs}: {done.stdout.strip()}")
            check(done.returncode == 0, f"blocks of {bs}, {kind}: exit status {done.returncode}")
            cases = int(done.stdout.split()[1])
            check(cases * STEP > 100, f"only {cases} cases: what has become of the workload?")
        os.unlink(volume.path + ".work")
        volume.remove()


def case_through_the_mount():
    """Data errors reach the file's own fsync, once; others' files are as they were."""
    need_fuse()
    volume = Volume(size="128M")
    with volume.mount() as mount:
        write_file(mount / "good", pattern(300000, 1), sync=True)
        mount.glockctl("set", "fault", "op=write,cls=data,error=5,count=1")
        fd = os.open(mount / "bad", os.O_RDWR | os.O_CREAT)
        os.write(fd, pattern(300000, 2))
        other = os.open(mount / "good", os.O_RDWR)
        try:
            try:
                os.fsync(fd)
                raise AssertionError("fsync after a failed write returned success")
            except OSError as error:
                equal(error.errno, errno.EIO, "fsync after a failed write")
            os.fsync(other)
            os.write(fd, b"more")
            os.fsync(fd)
        finally:
            os.close(fd)
            os.close(other)
        equal(read_file(mount / "good"), pattern(300000, 1), "another file")
    volume.fsck()


def refused(call, *words):
    try:
        call(*words)
    except OSError as error:
        equal(error.errno, errno.EIO, f"{call.__name__} after the withdraw")
        return
    raise AssertionError(f"{call.__name__} after the withdraw: succeeded")


def case_withdraw():
    """The journal cannot be written: said once, EIO for all, unmount works, the next mount recovers."""
    need_fuse()
    volume = Volume(size="128M")
    mount = volume.mount()
    write_file(mount / "before", pattern(100000, 3), sync=True)
    mount.glockctl("set", "fault", "op=write,cls=log,error=5")
    root = os.stat(mount.dir).st_ino
    fd = os.open(mount / "during", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"lost")
    refused(os.fsync, fd)
    refused(os.mkdir, mount / "dir")
    refused(os.listdir, mount.dir)
    refused(os.write, fd, b"x")
    refused(os.fsync, fd)
    os.close(fd)
    # Locks that somebody asks for now stay where they are: nobody may wait for them at the unmount.
    mount.glockctl("demote", f"inode:{root}", "UN", ok=None)
    run(["umount", mount.dir])
    status = mount.daemon.wait(STEP_SECONDS)
    mount.daemon = None
    text = mount.messages()
    mount.drop()
    check(status != 0, "the daemon ended with 0 although it left work in the journal")
    equal(text.count("withdrawn:"), 1, "the withdraw is said once: " + text)
    with volume.mount() as again:
        equal(read_file(again / "before"), pattern(100000, 3), "what was synced before")
    volume.fsck()


def case_aborted_connection():
    """/sys/fs/fuse/connections/N/abort in the middle of work: the daemon ends, nothing synced is lost."""
    need_fuse()
    control = "/sys/fs/fuse/connections"
    if not os.path.isdir(control):
        skip("no /sys/fs/fuse/connections")
    volume = Volume(size="128M")
    mount = volume.mount()
    run(["mount", "-t", "fusectl", "none", control], ok=None)
    number = os.stat(mount.dir).st_dev
    abort = f"{control}/{os.minor(number)}/abort"
    if not os.path.exists(abort):
        skip("fusectl cannot be mounted")
    write_file(mount / "synced", pattern(200000, 4), sync=True)
    writer = subprocess.Popen([sys.executable, "-c", """
import os, sys
n = 0
while True:
    n += 1
    with open(sys.argv[1] + "/w%d" % n, "wb") as out:
        out.write(b"x" * 50000)
""", mount.dir], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: os.path.exists(mount / "w20"), "the writer to work")
        with open(abort, "w") as out:
            out.write("1")
        writer.wait(STEP_SECONDS)
        mount.daemon.wait(STEP_SECONDS)
    finally:
        writer.kill()
        writer.wait()
    mount.daemon = None
    text = mount.messages()
    mount.drop()
    check("BUG" not in text and "Sanitizer" not in text, text)
    with volume.mount() as again:
        equal(read_file(again / "synced"), pattern(200000, 4), "what was synced before the abort")
    volume.fsck()


main()
