#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: fsync of the root, sync DIR and a remount to read-only make everything durable that was done before, to whatever
# timeout: 120
# variants: plain asan
import errno
import mmap
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

BLOCK = 4096


def direct(path, byte):
    page = mmap.mmap(-1, BLOCK)
    page.write(byte * BLOCK)
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    os.pwrite(fd, page, 0)
    os.close(fd)


# What is done, and what shows it.
CHANGES = {
    "chmod": (lambda m: os.chmod(m / "d/f", 0o640), lambda m: os.stat(m / "d/f").st_mode & 0o777 == 0o640),
    "mkdir": (lambda m: os.mkdir(m / "d/new"), lambda m: os.path.isdir(m / "d/new")),
    "a new file": (lambda m: write_file(m / "d/n", b"n" * 10000), lambda m: read_file(m / "d/n") == b"n" * 10000),
    "written over": (lambda m: run(["dd", "if=/dev/zero", "of=" + m / "d/f", "bs=4k", "count=1", "conv=notrunc", "status=none"]),
                     lambda m: read_file(m / "d/f") == bytes(BLOCK) + b"f" * BLOCK),
    "written directly": (lambda m: direct(m / "d/f", b"D"), lambda m: read_file(m / "d/f") == b"D" * BLOCK + b"f" * BLOCK),
    "an attribute": (lambda m: os.setxattr(m / "d/f", "user.a", b"1"), lambda m: os.listxattr(m / "d/f") == ["user.a"]),
    "unlink": (lambda m: os.unlink(m / "d/g"), lambda m: not os.path.exists(m / "d/g")),
    "everything": (lambda m: [change(m) for name, (change, _) in CHANGES.items() if name not in ("everything", "written directly")],
                   lambda m: all(shown(m) for name, (_, shown) in CHANGES.items() if name not in ("everything", "written directly"))),
}


def fsync_root(m):
    fd = os.open(m.dir, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


WAYS = {
    "fsync": fsync_root,
    "sync": lambda m: run(["sync", m.dir]),
    "sync -d": lambda m: run(["sync", "-d", m.dir]),
    "remount": lambda m: run([gfs2_fuse(), "-o", "remount,ro", m.device, m.dir]),
}


def case_everything():
    for way, sync in WAYS.items():
        volume = Volume(size="64M", journal_mib=8)
        for change, (make, shown) in CHANGES.items():
            # Nothing is written by itself meanwhile.
            with volume.mount("commit=3600") as m:
                run(["rm", "-rf", m / "d"])
                os.mkdir(m / "d")
                for name in "fg":
                    write_file(m / ("d/" + name), b"f" * 2 * BLOCK)
            m = volume.mount("commit=3600")
            # What is asked has not been changed itself.
            fsync_root(m)
            make(m)
            sync(m)
            m.kill()
            with volume.mount() as m:
                check(shown(m), f"{change} is lost after {way}")
        volume.fsck()


def case_data_that_cannot_be_written():
    """The root's fsync, or the remount, says so: of what it writes itself, and of what was tried before; once."""
    for way, sync in WAYS.items():
        volume = Volume(size="64M", journal_mib=8)
        for before in (False, True):
            with volume.mount("commit=3600") as m:
                fsync_root(m)
                write_file(m / "f", b"f" * 100000)
                m.glockctl("set", "fault", "op=write,cls=data,error=5,count=1")
                if before:
                    fd = os.open(m / "f", os.O_RDONLY)
                    expect_errno(errno.EIO, os.fsync, fd)
                    os.close(fd)
                try:
                    sync(m)
                    told = False
                except (OSError, AssertionError):
                    told = True
                check(told, f"{way} says nothing of data that could not be written{' before' if before else ''}")
                m.glockctl("set", "fault", "none")
                fsync_root(m)
        volume.fsck()


def case_what_is_lost_is_said():
    """Nobody may ever ask for the data of a file that nobody syncs: the daemon's messages name the blocks that could not be written, but not each."""
    volume = Volume(size="64M")
    for what, rule in (("data", "op=write,cls=data,error=5"), ("metadata", "op=read,cls=meta,error=5")):
        with volume.mount() as m:
            started = time.monotonic()
            m.glockctl("set", "fault", rule)
            failed = 0
            for number in range(100):
                try:
                    write_file(m / f"{what}{number}", b"f" * 10000)
                    fsync_root(m)
                except OSError as fault:
                    equal(fault.errno, errno.EIO, "errno")
                    failed += 1
            equal(failed, 100, "files that could not be written")
            m.glockctl("set", "fault", "none")
        # Ten of a kind in five seconds: msg_limit().
        most = 10 * (int((time.monotonic() - started) / 5) + 2)
        said = re.findall(r"cannot (?:write block|read metadata block) (\d+)", m.messages())
        check(0 < len(said) <= most, f"{what}: {len(said)} blocks are named, not up to {most}: {m.messages()[:2000]}")
    volume.fsck()


main()
