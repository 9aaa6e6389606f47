#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: a volume is never used twice at once: not by name, not through a loop device over its image, not beside the kernel
# timeout: 180
# variants: plain
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

_loops = []


def loop_over(path, *options):
    device = run(["losetup", "--show", "-f", *options, path]).stdout.strip()
    _loops.append(device)
    return device


def loops_away():
    while _loops:
        run(["losetup", "-d", _loops.pop()], ok=None)


def all_refused(*stores, options="rw"):
    """Each waits a moment for who might be about to leave, so they are tried together."""
    tries = [(store, subprocess.Popen([gfs2_fuse(), "-o", options, store, temp_dir()], stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True)) for store in stores]
    for store, process in tries:
        said, _ = process.communicate(timeout=STEP_SECONDS)
        equal(process.returncode, 32, f"exit status for {store}, mounted already ({said})")
        check("in use" in said and store in said, f"what is said about {store}: {said}")


def temp_dir():
    path = temp("mnt")
    os.mkdir(path)
    return path


def with_loops(case):
    need_fuse()
    if not os.path.exists("/dev/loop-control"):
        skip("no loop devices")
    try:
        case(Volume(size="64M"))
    finally:
        loops_away()


def case_image_first():
    def case(volume):
        link, hard = temp("link"), temp("hard")
        os.symlink(volume.path, link)
        os.link(volume.path, hard)
        with volume.mount() as mount:
            write_file(mount / "f", b"first", sync=True)
            loop = loop_over(volume.path)
            tries = subprocess.run([gfs2_fuse(), "--wait", link, "0"], check=False).returncode
            equal(tries, 1, "--wait through a link")
            all_refused(volume.path, hard, loop)
            write_file(mount / "g", b"still at work")
        volume.fsck()
        # Nothing is left of those that were refused.
        with Mount(loop) as mount:
            equal(read_file(mount / "f"), b"first", "contents")
        loops_away()
        with volume.mount() as mount:
            equal(read_file(mount / "g"), b"still at work", "contents")

    with_loops(case)


def case_loop_first():
    def case(volume):
        first, second = loop_over(volume.path), loop_over(volume.path)
        with Mount(first) as mount:
            write_file(mount / "f", b"first", sync=True)
            all_refused(volume.path, first, second)
            try:
                os.close(os.open(first, os.O_RDONLY | os.O_EXCL))
                raise AssertionError("the kernel could mount it, too")
            except OSError as error:
                equal(error.errno, errno.EBUSY, "an exclusive open of what is mounted")
        volume.fsck()

    with_loops(case)


def case_shared():
    """Mounts that share a volume on this machine must find each other: all by its image, or all by one loop device."""
    def case(volume):
        volume.remove()
        volume = Volume(size="128M", journals=3, proto="lock_dlm", table="a:b")
        first, second = loop_over(volume.path), loop_over(volume.path)
        stores = [volume.path, first, second]
        for store in stores[:2]:
            others = [other for other in stores if other != store]
            with Mount(store, ["lockproto=lock_local"]) as one, Mount(store, ["lockproto=lock_local"]) as two:
                write_file(one / "f", store.encode())
                equal(read_file(two / "f"), store.encode(), f"two mounts by {store}")
                all_refused(*others, options="lockproto=lock_local")
            volume.fsck()
        fd = os.open(first, os.O_RDONLY | os.O_EXCL)
        all_refused(volume.path, first, options="lockproto=lock_local")
        os.close(fd)

    with_loops(case)


def case_the_kernel_first():
    """
    What mount(2) of a block device does, an exclusive open, stands for a mount by the kernel.  And loop devices over
    different parts of one file, which are different volumes.
    """
    def case(volume):
        size, both = 64 << 20, temp("both") + ".img"
        other = Volume(size="64M")
        with open(both, "wb") as out:
            out.truncate(2 * size)
        for number, one in enumerate((volume, other)):
            run(["dd", f"if={one.path}", f"of={both}", "bs=1M", f"seek={64 * number}",
                 "conv=notrunc,sparse"])
        parts = [loop_over(both, "-o", str(number * size), "--sizelimit", str(size))
                 for number in (0, 1)]
        loop = loop_over(volume.path)
        fd = os.open(loop, os.O_RDONLY | os.O_EXCL)
        with Mount(parts[1]) as mount:
            write_file(mount / "f", b"second")
            all_refused(volume.path, loop, both)
            write_file(mount / "g", b"second")
        os.close(fd)
        with Mount(parts[0]) as mount:
            write_file(mount / "f", b"first")
        with volume.mount() as mount:
            write_file(mount / "f", b"after it has gone")
        volume.fsck()
        os.unlink(both)

    with_loops(case)


main()
