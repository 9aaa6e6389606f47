#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: options, help and version; what is shown of a mount; background and foreground; a second mount is refused; --wait
# timeout: 180
# variants: plain asan
import fcntl
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402



def start(*argv, ok=None):
    """Run the daemon's command to its return (it goes to the background once it is mounted)."""
    return run([gfs2_fuse(), *argv], ok=ok)


def daemons(device):
    """Process ids of the daemons that have the volume open, zombies excepted."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            links = [os.readlink(f"/proc/{entry}/fd/{fd}") for fd in os.listdir(f"/proc/{entry}/fd")]
        except OSError:
            continue
        if device in links:
            found.append(int(entry))
    return found


class Background:
    """A volume mounted the way a person does it."""

    def __init__(self, volume, *options):
        self.device, self.dir = volume.path, temp("mnt")
        os.mkdir(self.dir)
        argv = ["-o", ",".join(options)] if options else []
        done = start(*argv, self.device, self.dir)
        equal(done.returncode, 0, f"exit status; it said: {done.stdout}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        run(["umount", self.dir], ok=None)
        equal(start("--wait", self.device, "60").returncode, 0, "--wait after the unmount")
        wait_for(lambda: not daemons(self.device), "the daemon to be gone")


def case_version_and_help():
    need_fuse()
    check("gfs2-fuse" in start("--version", ok=[0]).stdout, "--version names the program")
    text = start("--help", ok=[0]).stdout
    for word in ("short_dio", "dio_mtime", "dio_rest", "lockproto", "locktable", "commit", "cache", "control",
                 "-f", "-d", "--wait", "ro"):
        check(word in text, f"--help does not mention {word}")


def case_documented():
    """Every option that the source's table has is in the manual page, and those that are ours in --help and the README as well."""
    with open(os.path.join(ROOT, "src", "options.c")) as source:
        table = source.read().split("table[] = {")[1].split("};")[0]
    options = {name: "K_IGNORE" not in rest and "K_FUSE" not in rest
               for name, rest in re.findall(r'\{ \.name = "(\w+)"(.*?)\}', table, re.DOTALL)}
    check(len(options) > 40 and options["cache"] and not options["noatime"], f"what the table says: {options}")
    with open(os.path.join(ROOT, "docs", "man", "gfs2-fuse.8")) as page, open(os.path.join(ROOT, "README.md")) as readme:
        texts = {"the manual page": page.read().replace("\\", ""), "README.md": readme.read(),
                 "--help": start("--help", ok=[0]).stdout}
    for where, text in texts.items():
        words = set(re.findall(r"\w+", text))
        missing = [name for name, ours in options.items() if (ours or where == "the manual page") and name not in words]
        equal(missing, [], f"options that {where} does not have")


def case_usage():
    """What cannot be meant is refused with a message, and mount(8)'s status for usage."""
    need_fuse()
    volume = Volume(size="64M")
    before = volume.sha256()
    where = temp("mnt")
    os.mkdir(where)
    for argv in ([], [volume.path], [volume.path, where, "third"], ["-o", "ro"], ["--nonsense"],
                 [volume.path, where, "-o"]):
        done = start(*argv)
        equal(done.returncode, 1, f"exit status of {argv}: {done.stdout}")
        check(done.stdout.strip(), f"{argv}: no message")
    for option in ("nonsense", "nonsense=1", "short_dio=maybe", "dio_mtime=never", "dio_rest=some", "commit=x",
                   "commit=-1", "cache=lots", "lockproto=lock_none", "dio=perhaps",
                   "dio_mtime_interval=soon", "ro,nonsense"):
        done = start("-o", option, volume.path, where)
        equal(done.returncode, 1, f"exit status with -o {option}: {done.stdout}")
        check(option.split(",")[-1].split("=")[0] in done.stdout,
              f"-o {option}: the message does not name it: {done.stdout}")
        check(not mount_entry(where), f"-o {option}: mounted all the same")
    done = start(volume.path, where + "/none")
    check(done.returncode and done.stdout.strip(), "a directory that is not there was accepted")
    done = start(temp("no-volume"), where)
    check(done.returncode and done.stdout.strip(), "a volume that is not there was accepted")
    equal(volume.sha256(), before, "the volume's bytes")


def case_options():
    """Every option and value of the contract is accepted."""
    need_fuse()
    for options in (["short_dio=drain", "dio_mtime=deferred"], ["short_dio=async"], ["short_dio=fail"],
                    ["short_dio=precheck"], ["short_dio=blockdev"],
                    ["dio_mtime=strict", "dio_mtime_interval=5"], ["cache=64M", "commit=5"],
                    ["dio=auto"], ["dio=strict"], ["dio_rest=direct"], ["dio_rest=buffered"], ["lockproto=lock_nolock", "locktable=a:b"],
                    ["ro"], ["rw"], ["noatime", "nosuid", "nodev"], ["control=" + temp("socket")]):
        volume = Volume(size="64M")
        with volume.mount(*options) as mount:
            if "ro" not in options:
                write_file(mount / "f", b"x" * 10000, sync=True)
                equal(read_file(mount / "f"), b"x" * 10000, f"content with {options}")
        volume.fsck()


def case_stored_protocol():
    """Protocol and table come from the superblock unless options say otherwise."""
    need_fuse()
    volume = Volume(size="64M", proto="lock_dlm", table="cluster:fs")
    with volume.mount("lockproto=lock_nolock") as mount:
        write_file(mount / "f", b"x", sync=True)
    volume.fsck()


def case_background():
    """The command returns 0 once the mount is usable; the daemon has let go of the terminal."""
    need_fuse()
    volume = Volume(size="64M")
    with Background(volume) as mounted:
        write_file(mounted.dir + "/f", b"x")
        (pid,) = daemons(volume.path)
        check(os.getsid(pid) != os.getsid(0), "the daemon is still in the caller's session")
        equal(os.readlink(f"/proc/{pid}/cwd"), "/", "the daemon's directory")
        outputs = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)}
        check(not any(name.startswith("pipe:") for name in outputs), f"still open: {outputs}")
    volume.fsck()


def case_mounts_entry():
    need_fuse()
    volume = Volume(size="64M")
    with Background(volume) as mounted:
        source, kind, options = mount_entry(mounted.dir)
        equal((source, kind), (volume.path, "fuse.gfs2-fuse"), "source and type")
        check("rw" in options.split(","), f"rw is shown: {options}")
        run(["findmnt", "-t", "fuse.gfs2-fuse", mounted.dir])
    with Background(volume, "nosubtype", "ro") as mounted:
        source, kind, options = mount_entry(mounted.dir)
        equal((source, kind), (volume.path, "fuse"), "source and type with nosubtype")
        check("ro" in options.split(","), f"ro is shown: {options}")
    volume.fsck()


def case_relative_paths():
    """A background daemon changes its directory; the paths it was given still hold."""
    need_fuse()
    volume = Volume(size="64M")
    where = temp("mnt")
    os.mkdir(where)
    run([gfs2_fuse(), os.path.basename(volume.path), os.path.basename(where)], cwd=workdir())
    write_file(where + "/f", b"x")
    equal(mount_entry(where)[1], "fuse.gfs2-fuse", "type")
    run(["umount", where])
    equal(start("--wait", volume.path, "60").returncode, 0, "--wait")
    wait_for(lambda: not daemons(volume.path), "the daemon to be gone")
    volume.fsck()


def case_locked():
    """The volume is locked exclusively: a second mount, and anybody's flock, is refused."""
    need_fuse()
    volume = Volume(size="64M")
    second = temp("mnt")
    os.mkdir(second)
    with volume.mount() as mount:
        write_file(mount / "f", b"first")
        for options in ([], ["-o", "ro"]):
            done = start(*options, volume.path, second)
            check(done.returncode not in (0, 1), f"second mount: exit {done.returncode}")
            check(done.stdout.strip(), "second mount: no message")
            check(not mount_entry(second), "a second mount is there")
        fd = os.open(volume.path, os.O_RDONLY)
        expect_errno(errno.EAGAIN, fcntl.flock, fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(fd)
        equal(read_file(mount / "f"), b"first", "the first mount still works")
    volume.fsck()
    # The other way round: somebody else (a backup, a virtual machine) holds the lock.
    fd = os.open(volume.path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    done = start(volume.path, second)
    check(done.returncode and not mount_entry(second), "mounted a volume that is locked")
    os.close(fd)


def case_wait():
    need_fuse()
    volume = Volume(size="64M")
    equal(start("--wait", volume.path).returncode, 0, "--wait for a free volume")
    mount = volume.mount()
    started = time.monotonic()
    equal(start("--wait", volume.path, "1").returncode, 1, "--wait for a mounted volume")
    check(time.monotonic() - started >= 0.9, "--wait did not wait")
    equal(start("--wait", volume.path, "0").returncode, 1, "--wait 0 for a mounted volume")
    waiting = subprocess.Popen([gfs2_fuse(), "--wait", volume.path])
    write_file(mount / "f", b"x" * 100000)
    mount.umount()
    equal(waiting.wait(STEP_SECONDS), 0, "--wait that was waiting")
    done = start("--wait")
    check(done.returncode and done.stdout.strip(), "--wait without a volume is refused")


main()
