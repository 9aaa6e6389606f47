#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: umount, fusermount3 -u and SIGTERM all end in clean journals; what was written is there; an unmount while busy is refused
# timeout: 180
# variants: plain asan
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

from journal import journals_clean    # noqa: E402


def load(mount):
    """Leave as much unfinished as can be: dirty data, an uncommitted log, a deleted file."""
    for number in range(200):
        write_file(mount / f"f{number}", pattern(number * 100, number))
    for number in range(0, 200, 2):
        os.unlink(mount / f"f{number}")
    os.mkdir(mount / "d")
    os.rename(mount / "f1", mount / "d/f1")


def loaded(mount):
    equal(sorted(os.listdir(mount)), sorted(["d"] + [f"f{n}" for n in range(3, 200, 2)]), "names")
    equal(read_file(mount / "d/f1"), pattern(100, 1), "the renamed file")
    for number in range(3, 200, 2):
        equal(read_file(mount / f"f{number}"), pattern(number * 100, number), f"f{number}")


def unmount_by(how):
    volume = Volume(size="128M", journals=2)
    mount = volume.mount()
    load(mount)
    mount.umount(how)
    check(TARGET == "ext4" or journals_clean(volume.path), f"a journal is not clean after {how}")
    volume.fsck()
    with volume.mount("ro") as mount:
        loaded(mount)


def case_umount():
    unmount_by("umount")


def case_fusermount3():
    need_fuse()
    unmount_by("fusermount3")


def case_sigterm():
    need_fuse()
    unmount_by("sigterm")


def case_sigterm_below_another():
    """What is mounted over the mount point is somebody else's: it stays."""
    need_fuse()
    volume = Volume(size="128M")
    mount = volume.mount()
    load(mount)
    run(["mount", "-t", "tmpfs", "other", mount.dir])
    try:
        write_file(mount / "precious", b"somebody else's")
        mount.daemon.send_signal(15)
        equal(mount.daemon.wait(STEP_SECONDS), 0, "exit status: " + mount.messages())
        equal(read_file(mount / "precious"), b"somebody else's", "what is mounted over the mount point")
        check("does not lead to our mount any more" in mount.messages(), mount.messages())
    finally:
        run(["umount", mount.dir])
        run(["umount", "-l", mount.dir])
    volume.fsck()
    with volume.mount("ro") as mount:
        loaded(mount)


def case_sigterm_while_open():
    """Stopped by a signal while files are open: what was written before is there, all is clean."""
    need_fuse()
    volume = Volume(size="128M")
    mount = volume.mount()
    load(mount)
    fd = os.open(mount / "open", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"w" * 100000)
    gone = os.open(mount / "gone", os.O_RDWR | os.O_CREAT)
    os.write(gone, b"g" * 100000)
    os.unlink(mount / "gone")
    # Changed through a mapping: nobody but the kernel knows.
    mapping = mmap.mmap(fd, 8192)
    mapping[4000:4200] = b"m" * 200
    mount.daemon.send_signal(15)
    mount.daemon.wait(STEP_SECONDS)
    try:
        mapping.close()
        os.close(fd)
        os.close(gone)
    except OSError:
        pass
    equal(mount.daemon.returncode, 0, "exit status: " + mount.messages())
    check("failed" not in mount.messages(), "a complaint: " + mount.messages())
    mount.drop()
    check(journals_clean(volume.path), "a journal is not clean")
    volume.fsck()
    with volume.mount() as mount:
        equal(read_file(mount / "open"), b"w" * 4000 + b"m" * 200 + b"w" * 95800, "the file that was open")
        check(not os.path.exists(mount / "gone"), "the unlinked file is back")
    volume.fsck()


def case_busy():
    """umount of a busy volume is refused and harms nothing; a lazy one ends when the last file is closed."""
    volume = Volume(size="128M")
    mount = volume.mount()
    fd = os.open(mount / "f", os.O_RDWR | os.O_CREAT)
    done = run(["umount", mount.dir], ok=None)
    check(done.returncode, "a busy volume was unmounted")
    os.write(fd, b"still there")
    if TARGET == "fuse":
        run(["umount", "-l", mount.dir])
        os.write(fd, b", and now")
        os.close(fd)
        mount.wait_end()
    else:
        os.close(fd)
        mount.umount()
    volume.fsck()


def case_dead_mount():
    """What a killed daemon leaves on the directory: the next mount there says what is the matter."""
    need_fuse()
    volume = Volume(size="64M")
    mount = volume.mount()
    mount.daemon.kill()
    mount.daemon.wait()
    done = run([gfs2_fuse(), volume.path, mount.dir], ok=(32,))
    check("umount it first" in done.stdout, "no help: " + done.stdout)
    mount.daemon = None
    mount.drop()
    with volume.mount():
        pass
    volume.fsck()


NAMESPACE = """
set -e
mount --make-rshared /
mkdir "$WORK/shared"
mount -t tmpfs none "$WORK/shared"
mkdir "$WORK/test"
cat >"$WORK/look" <<'END'
#!/bin/sh
grep -q "$WORK/shared" /proc/self/mounts && echo begun >"$WORK/begun"
read line <"$WORK/go"
! grep "$WORK/shared" /proc/self/mounts
END
chmod +x "$WORK/look"
mkfifo "$WORK/begun" "$WORK/go"
python3 -B "$WARDEN" --namespace --timeout 60 --dir "$WORK/test" -- "$WORK/look" &
read line <"$WORK/begun"
umount "$WORK/shared"
echo >"$WORK/go"
wait $!
"""


def case_while_tests_run():
    """What is unmounted on the machine while a test runs is not kept by the test's own mount namespace."""
    work = temp("namespace")
    os.mkdir(work)
    run(["unshare", "--mount", "sh", "-c", NAMESPACE], env={
        **os.environ, "WORK": work, "WARDEN": os.path.join(ROOT, "tests", "lib", "warden.py")})


def case_many_times():
    """Mounting and unmounting at once, many times: nothing is left of any of them."""
    volume = Volume(size="64M")
    for number in range(20):
        with volume.mount() as mount:
            names = [name for name in os.listdir(mount) if name != "lost+found"]
            equal(sorted(names), sorted(f"f{n}" for n in range(number)), "names")
            write_file(mount / f"f{number}", b"x")
    volume.fsck()


main()
