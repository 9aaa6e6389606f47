#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: block devices through losetup, both formats, and an installed daemon through mount(8): -t fuse.gfs2-fuse and an fstab line
# timeout: 180
import os
import sys

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
