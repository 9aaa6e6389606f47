#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: a tree of several thousand files of all kinds is the same after unpacking and remounting, and gives all blocks back when deleted
# timeout: 180
# variants: plain asan
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

from tree import make_tree    # noqa: E402


def manifest(directory):
    return run([sys.executable, "-B", os.path.join(ROOT, "tests", "manifest.py"), directory]).stdout


def same(got, want, what):
    if got == want:
        return
    theirs = set(want.splitlines())
    ours = set(got.splitlines())
    lines = [f"  only in the mount: {line[:200]}" for line in sorted(ours - theirs)[:10]]
    lines += [f"  only elsewhere:    {line[:200]}" for line in sorted(theirs - ours)[:10]]
    raise AssertionError(f"{what}: not the same tree\n" + "\n".join(lines))


def free(mount):
    state = os.statvfs(mount)
    return state.f_bfree, state.f_ffree


def unpack(bs, scale, fmt=None):
    source = temp("source")
    make_tree(source, SEED, scale)
    wanted = manifest(source)
    volume = Volume(size="768M", bs=bs, fmt=fmt)
    with volume.mount() as mount:
        os.mkdir(mount / "keep")
    mount = volume.mount()
    clean = free(mount)

    run(["cp", "-a", source, mount / "copied"])
    same(manifest(mount / "copied"), wanted, "copied, before the unmount")
    os.mkdir(mount / "untarred")
    pack = subprocess.Popen(["tar", "-C", source, "--format=posix", "-Scf", "-", "."],
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    run_from(pack, ["tar", "-C", mount / "untarred", "--numeric-owner", "-xpf", "-"])
    mount.umount()
    volume.fsck()

    mount = volume.mount()
    same(manifest(mount / "copied"), wanted, "copied, after a remount")
    # Sockets do not go into an archive.
    no_socket = "\n".join(line for line in wanted.splitlines() if "specials/socket" not in line)
    untarred = manifest(mount / "untarred")
    same("\n".join(untarred.splitlines()), no_socket, "unpacked from an archive")
    run(["rm", "-r", mount / "copied", mount / "untarred"])
    equal(os.listdir(mount), ["keep"], "what is left")
    # What was deleted is given back once the kernel has forgotten it: soon, not at once.
    wait_for(lambda: free(mount) == clean, f"free blocks and inodes {clean}, they are {free(mount)}")
    mount.umount()
    volume.fsck()
    with volume.mount("ro") as mount:
        equal(free(mount), clean, "free blocks and inodes after deleting everything and a remount")


def run_from(source, argv):
    done = subprocess.run([str(word) for word in argv], stdin=source.stdout, timeout=STEP_SECONDS,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    source.stdout.close()
    source.wait()
    check(done.returncode == 0, f"{argv}: {done.stdout}")


def case_bs4096():
    unpack(4096, 1.0 if not os.environ.get("ASAN_OPTIONS") else 0.3)


def case_bs1024_format_1801():
    unpack(1024, 0.3, fmt=1801)


def case_bs512():
    unpack(512, 0.2)


def case_bs2048():
    unpack(2048, 0.2)


main()
