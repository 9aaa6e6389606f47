#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: block devices through losetup, the flushes they get for what is durable, both formats, and an installed daemon through mount(8): -t fuse.gfs2-fuse and an fstab line
# timeout: 180
import os
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402



def use(directory):
    write_file(directory + "/f", pattern(100000, 1), sync=True)
    equal(read_file(directory + "/f"), pattern(100000, 1), "content")


def case_block_device():
    for bs in (512, 4096):
        volume = Volume(size="128M", bs=bs)
        volume.device = run(["losetup", "--show", "-f", "--direct-io=on", volume.path]).stdout.strip()
        with volume.mount() as mount:
            use(mount.dir)
            equal(mount_entry(mount.dir)[0], volume.device, "source")
        with volume.mount("ro") as mount:
            equal(read_file(mount / "f"), pattern(100000, 1), "content after a remount")
        volume.fsck()


def case_sectors_of_4096():
    """A device with sectors of 4096 bytes: direct writes of less are refused, all else works."""
    volume = Volume(size="128M")
    volume.device = run(["losetup", "--show", "-f", "--direct-io=on", "-b", "4096",
                         volume.path]).stdout.strip()
    with volume.mount() as mount:
        use(mount.dir)
        equal(int(run([prog("diow"), mount / "f", "sync", 0, 4096, "B"]).stdout), 4096, "direct write")
        if TARGET == "fuse":
            equal(int(run([prog("diow"), mount / "f", "sync", 512, 512, "B"]).stdout), -errno.EINVAL,
                  "direct write of 512 bytes")
    volume.fsck()


class Flushes:
    """How many flushes a loop device gets, as the kernel counts them; several that meet may be one."""

    def __init__(self, device):
        self.path = f"/sys/block/{os.path.basename(device)}/stat"
        self.before = self.count()

    def count(self):
        with open(self.path) as text:
            return int(text.read().split()[15])

    def since(self):
        """Since the last time."""
        before, self.before = self.before, self.count()
        return self.before - before


def case_flushes():
    """
    The device has a cache and no forced writes, so the kernel flushes after each of these.  One flush makes any number of direct writes durable; an
    O_DSYNC write takes one, or a part of one that others share; a hole two, the log's.  Nobody is told "durable" without one.
    """
    need_fuse()
    volume = Volume(size="128M")
    volume.device = run(["losetup", "--show", "-f", "--direct-io=on", volume.path]).stdout.strip()
    threads, each = 8, 8
    with volume.mount("commit=3600", "dio_mtime_interval=3600") as mount, Aligned(b"d" * 4096) as data:
        path = mount / "f"
        write_file(path, bytes(threads * each * 4096), sync=True)
        plain = os.open(path, os.O_WRONLY | os.O_DIRECT)
        durable = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC)
        os.fsync(plain)
        flushes = Flushes(volume.device)

        for block in range(threads):
            os.pwrite(plain, data, block * 4096)
        equal(flushes.since(), 0, "flushes for direct writes")
        os.fdatasync(plain)
        equal(flushes.since(), 1, "flushes for fdatasync")
        for block in range(threads):
            os.pwrite(durable, data, block * 4096)
        equal(flushes.since(), threads, "flushes for O_DSYNC writes, one after the other")

        def write(number):
            for block in range(number, threads * each, threads):
                os.pwrite(durable, data, block * 4096)

        together = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
        for thread in together:
            thread.start()
        for thread in together:
            thread.join()
        found = flushes.since()
        log(found, "flushes for", threads * each, "O_DSYNC writes of", threads, "threads")
        # Each thread's next write begins when the flush of its last one has ended.
        check(each <= found <= threads * each, f"{found} flushes for {threads * each} O_DSYNC writes of {threads} threads")

        os.ftruncate(plain, threads * each * 4096 * 2)
        os.fsync(plain)
        flushes.since()
        os.pwrite(plain, data, threads * each * 4096)
        equal(flushes.since(), 2, "flushes for a write into a hole")
        os.close(plain)
        os.close(durable)
    volume.fsck()


def case_formats():
    for fmt in (1801, 1802):
        volume = Volume(size="128M", fmt=fmt)
        with volume.mount() as mount:
            use(mount.dir)
        volume.fsck()


def case_kinds_of_volumes():
    """Several journals, a large one, large and small resource groups."""
    for more in ({"journals": 4}, {"journal_mib": 64}, {"mkfs": ["-r", "32"]},
                 {"mkfs": ["-r", "512"], "size": "2G"}):
        volume = Volume(**{"size": "512M", **more})
        with volume.mount() as mount:
            use(mount.dir)
        volume.fsck()


def case_special_paths():
    """Names with blanks, commas and letters of all kinds, for the volume and the directory."""
    need_fuse()
    volume = Volume(size="64M")
    where = os.path.join(workdir(), "a b,c=\u00fc")
    os.makedirs(where)
    path = os.path.join(where, "vol ume,1\u00e4.img")
    os.rename(volume.path, path)
    volume.path = path
    mount = Mount(path, directory=os.path.join(where, "dir, too"))
    use(mount.dir)
    mount.umount()
    volume.fsck()


INSTALLED = """
set -e
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount --make-rprivate /
# The installed files, seen at their places by this test alone.
for dir in /usr/sbin /usr/local/sbin; do
	mkdir -p "$WORK/see$dir"
	cp -a "$dir/." "$WORK/see$dir/"
	[ ! -d "$WORK/dest$dir" ] || cp -a "$WORK/dest$dir/." "$WORK/see$dir/"
done
[ ! -d "$WORK/dest/sbin" ] || cp -a "$WORK/dest/sbin/." "$WORK/see/usr/sbin/"
mount --bind "$WORK/see/usr/sbin" /usr/sbin
mount --bind "$WORK/see/usr/local/sbin" /usr/local/sbin
echo "$IMAGE $WORK/dir fuse.gfs2-fuse noauto,nosuid,dio_mtime=strict 0 0" >"$WORK/fstab"
mkdir -p "$WORK/dir"

gfs2-fuse --version
mount -t fuse.gfs2-fuse "$IMAGE" "$WORK/dir" -o nodev,commit=5
findmnt -n -o FSTYPE,OPTIONS "$WORK/dir" | grep fuse.gfs2-fuse | grep nodev
echo one >"$WORK/dir/one"
umount "$WORK/dir"
gfs2-fuse --wait "$IMAGE" 60

mount -T "$WORK/fstab" "$WORK/dir"
findmnt -n -o FSTYPE,OPTIONS "$WORK/dir" | grep fuse.gfs2-fuse | grep nosuid
grep -qx one "$WORK/dir/one"
glockctl -m "$WORK/dir" get dio_mtime | grep strict
umount "$WORK/dir"
gfs2-fuse --wait "$IMAGE" 60

mount -t fuse.gfs2-fuse "$IMAGE" "$WORK/dir" -o ro
! touch "$WORK/dir/two" 2>/dev/null
umount "$WORK/dir"
gfs2-fuse --wait "$IMAGE" 60
! mount -t fuse.gfs2-fuse "$IMAGE" "$WORK/dir" -o nonsense
"""


def case_installed():
    """meson install, then what an administrator does with it."""
    need_fuse()
    build = os.environ.get("GFS2_FUSE_BUILDDIR")
    if not build:
        skip("GFS2_FUSE_BUILDDIR does not name a build directory to install from")
    volume = Volume(size="64M")
    where = temp("installed")
    os.mkdir(where)
    run(["meson", "install", "-C", build, "--no-rebuild", "--destdir", where + "/dest"])
    done = run(["unshare", "-m", "sh", "-c", INSTALLED], env={**os.environ, "WORK": where,
                                                            "IMAGE": volume.path})
    log(done.stdout.strip())
    volume.fsck()


main()
