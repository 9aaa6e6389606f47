#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: fstrim gives the store the room of free blocks back, and nothing else's, also beside writers and other nodes
# variants: plain asan
# timeout: 120
import os
import re
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

MIB = 1 << 20


def trim(mount, *options):
    """Bytes that fstrim(8) says were trimmed."""
    said = run(["fstrim", "-v", *options, mount.dir]).stdout
    return int(re.search(r"\((\d+) bytes\) trimmed", said).group(1))


def room(volume):
    """Bytes that the image takes up in its store."""
    return os.stat(volume.path).st_blocks * 512


def keep_and_remove(mount):
    """A file that stays, in pieces with what goes in between; its contents."""
    kept = pattern(24 * MIB, SEED)
    with open(mount / "kept", "wb", buffering=0) as stays, open(mount / "goes", "wb", buffering=0) as goes:
        for at in range(0, len(kept), MIB):
            stays.write(kept[at:at + MIB])
            goes.write(pattern(2 * MIB, SEED + 1))
        os.fsync(stays.fileno())
        os.fsync(goes.fileno())
    return kept


def injected(mount):
    return mount.glockctl("get", "stats", json_lines=True)[0]["stats"]["io_injected"]


def remove_slowly(mount, name):
    """Who frees a file reads where its blocks are, slowly here: he has begun when this returns, and is hardly through."""
    os.stat(mount / name)
    free, before = os.statvfs(mount).f_bfree, injected(mount)
    mount.glockctl("set", "fault", "op=read,cls=meta,delay_us=200000")
    os.unlink(mount / name)
    # More than removing the name has to read.
    wait_for(lambda: injected(mount) >= before + 8 or os.statvfs(mount).f_bfree > free, "the file's end to begin")
    mount.glockctl("set", "fault", "none")


def give_back(device):
    volume = Volume(size="256M", mkfs=("-K",))
    if device:
        volume.device = run(["losetup", "--show", "-f", "--direct-io=on", volume.path]).stdout.strip()
    mount = volume.mount()
    kept = keep_and_remove(mount)
    # Until then the metadata of the file that stays may be in the log alone, and take room in its place later.
    mount.umount()
    full = room(volume)
    mount = volume.mount()
    remove_slowly(mount, "goes")
    check(trim(mount) >= 48 * MIB, "what was just removed is not told to the store")
    check(room(volume) <= full - 48 * MIB, f"{room(volume)} bytes are taken up of {full}")
    equal(trim(mount), 0, "bytes trimmed the second time")
    same_data(read_file(mount / "kept"), kept, "the file that stayed")

    # Part of it goes, and comes back as something else.
    run(["fallocate", "-p", "-o", "0", "-l", 4 * MIB, mount / "kept"])
    check(trim(mount, "-m", "1M") >= 4 * MIB, "a punched hole is not told to the store")
    write_file(mount / "new", pattern(8 * MIB, SEED + 2), sync=True)
    mount.kill()
    mount = volume.mount()
    same_data(read_file(mount / "kept"), bytes(4 * MIB) + kept[4 * MIB:], "the file that stayed, after a crash")
    same_data(read_file(mount / "new"), pattern(8 * MIB, SEED + 2), "the file that is new")
    mount.umount()
    volume.fsck()


def case_file():
    give_back(device=False)


def case_block_device():
    give_back(device=True)


def case_refused():
    """By whom the kernel's gfs2 refuses it, too."""
    volume = Volume(size="64M")
    with volume.mount() as mount:
        done = run(["setpriv", "--reuid", "65534", "--clear-groups", "fstrim", mount.dir], ok=(1,))
        check("not permitted" in done.stdout, f"as nobody: {done.stdout}")
        done = run(["fstrim", "-o", "1G", mount.dir], ok=(1,))
        check("Invalid argument" in done.stdout, f"behind the end: {done.stdout}")
        done = run(["fstrim", "-m", "1G", mount.dir], ok=(1,))
        check("Invalid argument" in done.stdout, f"more than a group: {done.stdout}")
    with volume.mount("ro") as mount:
        done = run(["fstrim", mount.dir], ok=(1,))
        check("Read-only" in done.stdout, f"read-only: {done.stdout}")
    volume.fsck()


class Writer(threading.Thread):
    """Makes and removes files, and looks at each before it goes."""

    def __init__(self, directory, seed):
        super().__init__()
        self.directory, self.seed = directory, seed
        self.stop, self.fault, self.rounds = False, None, 0
        os.mkdir(directory)

    def run(self):
        try:
            while not self.stop:
                names = [f"{self.directory}/{number}" for number in range(8)]
                for number, name in enumerate(names):
                    write_file(name, self.contents(number), sync=number % 2)
                for number, name in enumerate(names):
                    with open(name, "rb", buffering=0) as file:
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                        same_data(file.read(), self.contents(number), name)
                    os.unlink(name)
                self.rounds += 1
        except BaseException as fault:    # told by the test's own thread
            self.fault = fault

    def contents(self, number):
        return pattern(200000 + number * 4096, self.seed + self.rounds * 8 + number)


def case_beside_writers():
    """Two nodes write and remove, one of them trims: what was written is there."""
    volume = Volume(size="128M", journals=2, proto="lock_dlm", table="test:trim")
    nodes = [volume.mount("lockproto=lock_local") for _ in range(2)]
    writers = [Writer(nodes[number] / f"d{number}", SEED + 1000 * number) for number in range(2)]
    for writer in writers:
        writer.start()
    trims = 0
    while all(writer.rounds < 8 and not writer.fault for writer in writers):
        trim(nodes[trims % 2])
        trims += 1
    for writer in writers:
        writer.stop = True
        writer.join()
    for writer in writers:
        if writer.fault:
            raise writer.fault
    log(f"{trims} trims beside {[writer.rounds for writer in writers]} rounds")
    for node in nodes:
        node.umount()
    volume.fsck()


main()
