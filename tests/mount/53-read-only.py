#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: a read-only mount writes nothing, of a clean volume and of one whose journal needs replay; it reads all there is
# timeout: 180
# variants: plain asan
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

from journal import journals_clean    # noqa: E402


def filled():
    volume = Volume(size="128M")
    with volume.mount() as mount:
        for number in range(50):
            write_file(mount / f"f{number}", pattern(number * 1000, number))
        os.mkdir(mount / "d")
        os.symlink("target", mount / "d/link")
    return volume


def reads(mount):
    for number in range(50):
        equal(read_file(mount / f"f{number}"), pattern(number * 1000, number), f"f{number}")
    equal(os.readlink(mount / "d/link"), "target", "symlink")
    os.statvfs(mount)
    run(["find", ".", "-printf", "%p %s %A@\n"], cwd=mount)


def refuses(mount):
    for call in (lambda: os.open(mount / "new", os.O_CREAT | os.O_RDWR),
                 lambda: os.open(mount / "f1", os.O_RDWR),
                 lambda: os.unlink(mount / "f1"), lambda: os.mkdir(mount / "new"),
                 lambda: os.rmdir(mount / "d"), lambda: os.rename(mount / "f1", mount / "x"),
                 lambda: os.link(mount / "f1", mount / "x"), lambda: os.symlink("a", mount / "x"),
                 lambda: os.chmod(mount / "f1", 0o600), lambda: os.truncate(mount / "f1", 0),
                 lambda: os.utime(mount / "f1"), lambda: os.mknod(mount / "x")):
        expect_errno(errno.EROFS, call)


def case_clean():
    volume = filled()
    before = volume.sha256()
    with volume.mount("ro") as mount:
        reads(mount)
        refuses(mount)
    equal(volume.sha256(), before, "the volume's bytes after a read-only mount")


def case_write_protected():
    """A block device that refuses writes."""
    volume = filled()
    before = volume.sha256()
    volume.device = run(["losetup", "--show", "-f", "-r", volume.path]).stdout.strip()
    with volume.mount("ro") as mount:
        reads(mount)
        refuses(mount)
    equal(volume.sha256(), before, "the volume's bytes")
    if TARGET == "fuse":
        # Asked for read-write it may refuse or mount read-only, as mount(8) does.
        where = temp("mnt")
        os.mkdir(where)
        done = run([gfs2_fuse(), volume.device, where], ok=None)
        entry = mount_entry(where)
        if entry:
            run(["umount", where])
            run([gfs2_fuse(), "--wait", volume.device, "60"])
        check(bool(entry) == (done.returncode == 0), f"exit {done.returncode}, mounted: {entry}")
        check(not entry or "ro" in entry[2].split(","), f"mounted as {entry}")
        equal(volume.sha256(), before, "the volume's bytes")


def synced(mount):
    reads(mount)
    for number in range(100):
        equal(read_file(mount / f"synced{number}"), pattern(3000, number), f"synced{number}")


def case_dirty():
    """After a crash, ro either shows everything that was synced (having replayed the journal on the
    volume or in memory), or refuses and says why. What it may not do is write without replaying."""
    need_fuse()
    volume = filled()
    mount = volume.mount()
    for number in range(100):
        write_file(mount / f"synced{number}", pattern(3000, number), sync=True)
    mount.kill()
    check(not journals_clean(volume.path), "the journal does not need replay, the case shows nothing")
    before = volume.sha256()
    try:
        with volume.mount("ro") as mount:
            synced(mount)
            refuses(mount)
    except AssertionError as error:
        check("daemon ended with 32" in str(error) and "journal" in str(error), f"ro: {error}")
    check(journals_clean(volume.path) or volume.sha256() == before,
          "bytes were changed, and still the journal needs replay")
    with volume.mount() as mount:
        synced(mount)
    volume.fsck()


def case_dirty_write_protected():
    """The same where nothing can be replayed in place: refused, or shown right."""
    need_fuse()
    volume = filled()
    mount = volume.mount()
    for number in range(100):
        write_file(mount / f"synced{number}", pattern(3000, number), sync=True)
    mount.kill()
    check(not journals_clean(volume.path), "the journal does not need replay, the case shows nothing")
    before = volume.sha256()
    volume.device = run(["losetup", "--show", "-f", "-r", volume.path]).stdout.strip()
    where = temp("mnt")
    os.mkdir(where)
    done = subprocess.run([gfs2_fuse(), "-o", "ro", volume.device, where], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=STEP_SECONDS)
    if done.returncode == 0:
        try:
            for number in range(100):
                equal(read_file(f"{where}/synced{number}"), pattern(3000, number), f"synced{number}")
        finally:
            run(["umount", where])
            run([gfs2_fuse(), "--wait", volume.device, "60"])
    else:
        check(done.stdout.strip(), "refused without a message")
    equal(volume.sha256(), before, "the volume's bytes")


main()
