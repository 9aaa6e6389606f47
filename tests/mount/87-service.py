#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: as a service: the systemd unit is one that systemd understands, and READY=1 comes when the mount is usable, not before
# timeout: 60
import os
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402


def case_ready():
    """sd_notify(3), with a socket in the file system and an abstract one."""
    need_fuse()
    volume = Volume(size="64M")
    for path in (temp("notify"), "@gfs2-fuse-test-%d" % os.getpid()):
        where = temp("mnt")
        os.mkdir(where)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind("\0" + path[1:] if path[0] == "@" else path)
            notify.settimeout(STEP_SECONDS)
            # The journal is not even read for a while: nothing may be said before.
            daemon = subprocess.Popen([gfs2_fuse(), "-f", "-o", "fault=op=read:cls=meta:delay_us=300000:count=1",
                                       volume.path, where], env=dict(os.environ, NOTIFY_SOCKET=path))
            equal(notify.recv(100), b"READY=1", "what the service manager is told")
            check(mount_entry(where), "it is told before there is a mount")
            write_file(os.path.join(where, "f"), b"x")
        daemon.terminate()
        equal(daemon.wait(STEP_SECONDS), 0, "exit status after SIGTERM, as a service manager sends it")
    volume.fsck()


def case_unit():
    if not shutil.which("systemd-analyze"):
        skip("there is no systemd-analyze")
    with open(os.path.join(ROOT, "systemd", "gfs2-fuse@.service.in")) as text:
        unit = text.read()
    # The documentation's place, whatever the prefix is.
    check("\nEnvironmentFile=/etc/gfs2-fuse/%i.conf\n" in unit, "the volume's file is elsewhere: " + unit)
    # What is named must exist: here, a program and a unit that do.
    unit = unit.replace("@sbindir@/gfs2-fuse", "/bin/true")
    check("@" not in re.sub(r"gfs2-fuse@", "", unit), "everything is filled in: " + unit)
    path = temp("unit")
    os.mkdir(path)
    write_file(os.path.join(path, "gfs2-fuse@.service"), unit.encode())
    for other in ("dlm", "corosync"):
        write_file(os.path.join(path, other + ".service"), b"[Service]\nExecStart=/bin/true\n")
    done = run(["systemd-analyze", "verify", "--man=no", os.path.join(path, "gfs2-fuse@data.service")], ok=None,
               env=dict(os.environ, SYSTEMD_UNIT_PATH=path + ":"))
    wrong = [line for line in done.stdout.splitlines() if "gfs2-fuse" in line]
    equal((done.returncode, wrong), (0, []), "systemd-analyze verify: " + done.stdout)


main()
