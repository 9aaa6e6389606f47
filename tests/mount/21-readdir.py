#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: directory cookies stay valid while names come and go; every name that stays is listed exactly once
# timeout: 180
# variants: plain asan
import os
import stat
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402



def on_fresh(function):
    def wrapped():
        for bs in (4096, 512):
            volume = Volume(size="128M", bs=bs)
            with volume.mount() as mount:
                os.mkdir(mount / "d")
                function(mount, mount / "d")
            volume.fsck()
    return wrapped


@on_fresh
def case_growing(_m, d):
    """As a directory grows from stuffed through one leaf to hashed and back, nothing is lost."""
    names = set()
    for number in range(1200):
        name = f"{'long-name-' * (number % 20)}{number}"
        os.mknod(os.path.join(d, name))
        names.add(name)
        if number < 100 or number % 100 == 0:
            found = os.listdir(d)
            equal(len(found), len(set(found)), "names listed twice")
            equal(set(found), names, f"names after {number + 1} creations")
    for number, name in enumerate(sorted(names)):
        os.unlink(os.path.join(d, name))
        names.discard(name)
        if len(names) < 100 or number % 100 == 0:
            equal(set(os.listdir(d)), names, f"names with {len(names)} left")
    os.rmdir(d)


@on_fresh
def case_seek(_m, d):
    """Every cookie leads back to just after its name, in any order."""
    for number in range(700):
        os.mknod(os.path.join(d, f"name{number}"))
    run([prog("readdir"), d, "seek"])


@on_fresh
def case_changing(_m, d):
    """While names are created and removed between two reads of a listing, those that stay are
    listed exactly once."""
    for number in range(1000):
        os.mknod(os.path.join(d, f"stay{number}"))
    for number in range(1000):
        os.mknod(os.path.join(d, f"go{number}"))
    done = run([prog("readdir"), d, "change"])
    log(done.stdout.strip())


@on_fresh
def case_remove_while_listing(_m, d):
    """rm -r's way: remove what was just read, go on reading."""
    for number in range(3000):
        os.mknod(os.path.join(d, f"{number}"))
    with os.scandir(d) as entries:
        for entry in entries:
            os.unlink(entry.path)
    equal(os.listdir(d), [], "what is left")


@on_fresh
def case_types_and_inodes(_m, d):
    """Type and inode in the listing are those of stat, also from readdirplus."""
    write_file(os.path.join(d, "file"), b"")
    os.mkdir(os.path.join(d, "dir"))
    os.symlink("x", os.path.join(d, "symlink"))
    os.mkfifo(os.path.join(d, "fifo"))
    for number in range(200):
        write_file(os.path.join(d, f"f{number}"), b"x" * number)
    with os.scandir(d) as entries:
        for entry in entries:
            state = os.lstat(entry.path)
            equal(entry.inode(), state.st_ino, f"inode of {entry.name}")
            equal((entry.is_dir(follow_symlinks=False), entry.is_symlink()),
                  (stat.S_ISDIR(state.st_mode), stat.S_ISLNK(state.st_mode)), f"type of {entry.name}")
            if entry.name[1:].isdigit():
                equal(entry.stat(follow_symlinks=False).st_size, int(entry.name[1:]), entry.name)


main()
