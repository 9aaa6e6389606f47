#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The first process of the namespaces that xfstests runs in (mounts, processes, network): inside.py RUN.

RUN is a directory with setup.json from xfstests.py.  Here mount(8) finds a helper for "-t gfs2" that starts
our daemon, df says gfs2, umount waits for the daemon, the users that the tests want exist, and /tmp is
empty.  Nothing of that is seen outside, and all of it ends with this process, however it ends.
"""
import importlib
import json
import os
import resource
import subprocess
import sys

USERS = (("fsgqa", 65501), ("fsgqa2", 65502), ("123456-fsgqa", 65503))


def mount(*words):
    subprocess.run(["mount", *words], check=True)


def users(run):
    """The tests' users, in copies that are seen in here only."""
    for name, line in (("passwd", "{0}:*:{1}:{1}::/tmp:/bin/bash\n"), ("group", "{0}:*:{1}:\n")):
        with open(f"/etc/{name}") as text:
            lines = text.readlines()
        there = {line.split(":")[0] for line in lines}
        with open(f"{run}/{name}", "w") as copy:
            copy.writelines(lines)
            copy.writelines(line.format(*user) for user in USERS if user[0] not in there)
        mount("--bind", f"{run}/{name}", f"/etc/{name}")


def surroundings(run, setup):
    for name, path in (("xfstests", setup["checkout"]), ("results", setup["results"]), ("lib", setup["lib"]),
                       ("real-sbin", os.path.realpath("/sbin"))):
        os.mkdir(f"{run}/{name}")
        mount("--rbind", path, f"{run}/{name}")
    sys.path.insert(0, setup["lib"])
    importlib.import_module("warden").drop_copies(but=run)
    for name in ("test", "scratch"):
        os.mkdir(f"{run}/{name}")
    users(run)
    # Last what hides something that was needed up to here.
    mount("-t", "tmpfs", "-o", "mode=1777", "tmp", "/tmp")
    for path in ("/run/gfs2-fuse", "/run/mount"):
        if os.path.isdir(path):
            mount("-t", "tmpfs", "-o", "mode=755", "run", path)
    mount("-t", "overlay", "-o", f"lowerdir={run}/sbin:{run}/real-sbin", "sbin", os.path.realpath("/sbin"))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False)


def environment(run, setup):
    variables = dict(os.environ, PATH=f"{run}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                     LC_ALL="C", LANG="C", TERM="dumb", HOME="/root", TMPDIR="/tmp",
                     HOST_OPTIONS=f"{run}/local.config", RESULT_BASE=f"{run}/results/tests",
                     GFS2_XFSTESTS_LOGS=f"{run}/results/daemon", GFS2_XFSTESTS_SBIN=f"{run}/real-sbin",
                     GFS2_XFSTESTS_LIB=f"{run}/lib",
                     LD_PRELOAD=f"{run}/fiemap.so", DM_DISABLE_UDEV="1",
                     # Tests that look at /proc/locks then do it in the outer /proc, which is below ours.
                     FSTESTS_ISOL="privatens")
    with open(f"{run}/local.config", "w") as text:
        for name, value in (("FSTYP", "gfs2"), ("TEST_DEV", setup["test"]), ("TEST_DIR", f"{run}/test"),
                            ("SCRATCH_DEV", setup["scratch"]), ("SCRATCH_MNT", f"{run}/scratch"),
                            ("GFS2_MKFS_OPTIONS", "-q -j 1"), ("GFS2_MOUNT_OPTIONS", "-o " + setup["options"])):
            print(f"export {name}='{value}'", file=text)
    return variables


def main():
    run = sys.argv[1]
    with open(f"{run}/setup.json") as text:
        setup = json.load(text)
    surroundings(run, setup)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    check = subprocess.Popen(["./check", "--exact-order", *setup["tests"]], cwd=f"{run}/xfstests", stdin=subprocess.DEVNULL,
                             env=environment(run, setup))
    # Daemons and whatever the tests leave behind become our children.
    while True:
        pid, status = os.wait()
        if pid == check.pid:
            return os.waitstatus_to_exitcode(status) & 0x7f


if __name__ == "__main__":
    sys.exit(main())
