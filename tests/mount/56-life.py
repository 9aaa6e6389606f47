#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: the mount command interrupted, killed, faked, with closed descriptors, under ulimit -f, -n, -s and -v; odd names; locks asked for that the mount itself keeps
# timeout: 180
# variants: plain asan
import os
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

def place(name="mnt"):
    path = temp(name)
    os.mkdir(path)
    return path


def wait_free(volume):
    run([gfs2_fuse(), "--wait", volume.path, str(STEP_SECONDS)])


def under_way(volume):
    """A daemon has locked the volume."""
    fd = os.open(volume.path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def state(pid):
    """{name: words} of what the kernel tells of a process; {} if there is none."""
    try:
        with open(f"/proc/{pid}/status") as lines:
            return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    except OSError:
        return {}


def daemon_of(command):
    """The process that does the work for the command, once it has locked the volume."""
    with open("/proc/locks") as locks:
        pids = [words[4] for words in map(str.split, locks) if words[1] == "FLOCK"]
    return next((int(pid) for pid in pids if state(pid).get("PPid") == [str(command.pid)]), None)


def stopped_half_way(volume, where):
    """(command, daemon) of a mount that is under way and stands still."""
    delay_ms = 1000
    while True:
        command = subprocess.Popen([gfs2_fuse(), "-o", f"fault=op=read:cls=meta:delay_us={delay_ms}000:count=1", volume.path, where],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        daemon = wait_for(lambda: daemon_of(command), "the mount to be under way")
        os.kill(daemon, signal.SIGSTOP)
        wait_for(lambda: state(daemon)["State"][0] == "T", "the daemon to stop")
        if not mount_entry(where):
            return command, daemon
        # We were too late.  Let it take longer.
        os.kill(daemon, signal.SIGCONT)
        equal(command.wait(STEP_SECONDS), 0, "exit status of a command that is let alone")
        run(["umount", where])
        wait_free(volume)
        delay_ms *= 4
        check(delay_ms < 100000, "the mount was never met on the way")


def case_interrupted():
    """Ctrl-C, or a kill of the command that waits for the mount: there will be none."""
    need_fuse()
    for sign, status in ((signal.SIGINT, 8), (signal.SIGTERM, 8), (signal.SIGKILL, -9)):
        volume, where = Volume(size="64M"), place()
        command, daemon = stopped_half_way(volume, where)
        command.send_signal(sign)
        try:
            if sign == signal.SIGKILL:
                command.wait()
            else:       # the command hands it on
                wait_for(lambda: int(state(daemon)["ShdPnd"][0], 16) & 1 << signal.SIGTERM - 1, f"the daemon to be told of {sign.name}")
        finally:
            os.kill(daemon, signal.SIGCONT)
        equal(command.wait(STEP_SECONDS), status, f"exit status after {sign.name}")
        wait_free(volume)
        check(not mount_entry(where), f"there is a mount after {sign.name}")
        volume.fsck()


def case_remount():
    """What mount(8) has its helpers do for -o remount: flags change, and with ro everything is durable."""
    need_fuse()
    volume, where = Volume(size="64M"), place()
    helper = os.path.join(workdir(), "mount.fuse.gfs2-fuse.again")
    os.symlink(gfs2_fuse(), helper)

    def remount(options, ok=(0,)):
        return run([helper, volume.path, where, "-o", options], ok=ok).stdout

    def flags():
        return mount_entry(where)[2].split(",")

    run([helper, volume.path, where, "-o", "commit=3600"])
    kept = os.open(f"{where}/kept", os.O_RDWR | os.O_CREAT)
    os.write(kept, b"before")
    check("busy" in remount("remount,ro", ok=(32,)), "to ro with a file that is open for writing")
    check("rw" in flags(), "read-only although it was busy")
    os.close(kept)
    # As mount(8) gives them: what fstab says, and what /proc/mounts says.
    remount("lockproto=lock_nolock,acl,rw,noatime,user_id=0,group_id=0,default_permissions,allow_other,max_read=1048576,remount,ro")
    check("ro" in flags(), "not read-only")
    for call in (lambda: os.mkdir(f"{where}/d"), lambda: os.truncate(f"{where}/kept", 0),
                 lambda: os.setxattr(f"{where}/kept", "user.x", b"")):
        expect_errno(errno.EROFS, call)
    equal(read_file(f"{where}/kept"), b"before", "read from what is read-only now")
    # The journal as a power cut would leave it now holds all of it.
    frozen = Volume(size="64M")
    shutil.copyfile(volume.path, frozen.path)
    with frozen.mount() as mount:
        equal(read_file(mount / "kept"), b"before", "after a crash behind the remount")
    remount("rw,remount,nosuid,nodev,noexec")
    check(not {"rw", "nosuid", "nodev", "noexec"} - set(flags()), f"flags are {flags()}")
    write_file(f"{where}/more", b"again")
    remount("remount,rw")
    check(not {"nosuid", "nodev", "noexec"} & set(flags()), f"flags are {flags()}")
    check("cannot be changed" in remount("remount,commit=5", ok=(1,)), "no word about an option of the daemon's")
    # What fstab says mount(8) gives again with every remount.
    fstab = temp("fstab")
    write_file(fstab, f"/dev/x {where}/other gfs2 rw,commit=5 0 0\n"
                      f"{volume.path} {where}/ fuse.gfs2-fuse cache=64M,commit=3600,dio=auto 0 0\n".encode())
    environment = dict(os.environ, LIBMOUNT_FSTAB=fstab)
    for given, status in (("cache=64M,commit=3600,dio=auto", 0), ("commit=3600", 0), ("commit=5", 1), ("commit=36000", 1),
                          ("commit=360", 1), ("cache=64M,commit=3600,short_dio=async", 1), ("commit", 1)):
        run([helper, volume.path, where, "-o", f"rw,{given},remount,ro"], ok=(status,), env=environment)
        check(("rw" if status else "ro") in flags(), f"remount with fstab and {given}: {flags()}")
        remount("remount,rw")
    check("unknown option" in remount("remount,nosuchthing", ok=(1,)), "no word about an unknown option")
    run(["umount", where])
    wait_free(volume)
    volume.fsck()
    # A daemon that was started read-only does not become another.
    run([helper, volume.path, where, "-o", "ro"])
    check("mounted read-only" in remount("remount,rw", ok=(32,)), "to rw what is read-only")
    check("ro" in flags(), "not read-only any more")
    run(["umount", where])
    wait_free(volume)
    other = place()
    check("not a mount" in run([helper, volume.path, other, "-o", "remount,ro"], ok=(32,)).stdout, "remount of nothing")


def case_mount_helper():
    """What mount(8) says to its helpers: -f is a rehearsal, -s passes over unknown options."""
    need_fuse()
    volume, where = Volume(size="64M"), place()
    helper = os.path.join(workdir(), "mount.fuse.gfs2-fuse")
    os.symlink(gfs2_fuse(), helper)
    run([helper, volume.path, where, "-f", "-o", "rw,noatime"])
    check(not mount_entry(where) and not under_way(volume), "a rehearsal mounted")
    run([helper, volume.path, where, "-f", "-o", "nosuchthing"], ok=(1,))
    run([helper, volume.path, where, "-o", "nosuchthing"], ok=(1,))
    run([helper, volume.path, where, "-o", "nosuchthing", "-s", "-n", "-v"])
    run(["umount", where])
    wait_free(volume)
    run([helper, volume.path, where, "-o", "defaults,_netdev,noauto,nofail,user=joe,users,group,relatime,"
         "silent,nosuid,nodev,noexec,x-systemd.automount,X-mount.mkdir,comment=some words"])
    for word in ("nosuid", "nodev", "noexec"):
        check(word in mount_entry(where)[2].split(","), f"{word} is not in the mount's options")
    run(["umount", where])
    wait_free(volume)


def case_closed_descriptors():
    """Started without standard input and output: no file of the daemon's takes their place."""
    need_fuse()
    volume, where = Volume(size="64M"), place()
    run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", gfs2_fuse(), volume.path, where])
    write_file(os.path.join(where, "f"), b"x" * 100000)
    run(["umount", where])
    wait_free(volume)
    volume.fsck()
    run(["sh", "-c", f"{gfs2_fuse()} --help >/dev/full"], ok=(2,))


def case_file_size_limit():
    """ulimit -f is no limit for a daemon that may lift it, and where it must stay it is said at once: an image would be cut off there."""
    need_fuse()
    volume, where = Volume(size="64M"), place()
    run(["prlimit", "--fsize=1000000:", gfs2_fuse(), volume.path, where])
    data = random.Random(SEED).randbytes(20 << 20)
    for name, flags in (("buffered", 0), ("direct", os.O_DIRECT)):
        fd = os.open(os.path.join(where, name), os.O_CREAT | os.O_WRONLY | flags)
        memory = mmap.mmap(-1, len(data))
        memory[:] = data
        equal(os.pwritev(fd, [memory], 0), len(data), f"written, {name}")
        os.fsync(fd)
        os.close(fd)
    run(["umount", where])
    wait_free(volume)
    with volume.mount() as m:
        check(read_file(m / "buffered") == data and read_file(m / "direct") == data, "contents")
    volume.fsck()
    limited = ["prlimit", "--fsize=1000000", "setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]
    done = run([*limited, gfs2_fuse(), volume.path, where], ok=(32,))
    check("ulimit -f" in done.stdout, f"what is said: {done.stdout!r}")
    check(not mount_entry(where), "there is a mount")
    run([*limited, gfs2_fuse(), "-o", "ro", volume.path, where])
    equal(sorted(os.listdir(where)), ["buffered", "direct"], "read-only")
    run(["umount", where])
    wait_free(volume)


def case_scarce():
    """Too few descriptors, too little stack or memory: no mount, and that is said at once; with enough of them there is one that works."""
    need_fuse()
    volume, where = Volume(size="64M"), place()
    unprivileged = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]
    done = run(["prlimit", "--nofile=100", *unprivileged, gfs2_fuse(), volume.path, where], ok=(32,))
    check("128 descriptors are needed" in done.stdout, f"what is said: {done.stdout!r}")
    check(not mount_entry(where), "there is a mount")
    wait_free(volume)
    if b"__asan_init" not in read_file(gfs2_fuse()):        # that one has none left to say it with; with much less the loader has none
        little = {"PATH": os.environ["PATH"]}       # the environment is on the stack
        done = run(["prlimit", "--stack=131072", *unprivileged, gfs2_fuse(), volume.path, where], ok=(32,), env=little)
        check("ulimit -s" in done.stdout, f"what is said: {done.stdout!r}")
        check(not mount_entry(where), "there is a mount")
        run(["prlimit", "--stack=65536:", *unprivileged, gfs2_fuse(), volume.path, where], env=little)
        write_file(os.path.join(where, "f"), b"x" * 100000)
        run(["umount", where])
        wait_free(volume)
    # The soft limit is raised.
    for limited in (["prlimit", "--nofile=16:"], ["prlimit", "--nofile=16:4096", *unprivileged]):
        run([*limited, gfs2_fuse(), volume.path, where])
        write_file(os.path.join(where, "f"), b"x" * 100000)
        run(["umount", where])
        wait_free(volume)
    if b"__asan_init" not in read_file(gfs2_fuse()):        # that one needs terabytes of addresses
        mib, refused = 8, 0
        while True:
            done = run(["prlimit", f"--as={mib << 20}", gfs2_fuse(), volume.path, where], ok=None)
            if mount_entry(where):
                break
            refused += 1
            check(done.returncode > 0 and done.stdout, f"{mib} MiB: exit status {done.returncode}, {done.stdout!r}")
            mib += 6
        check(refused >= 3, f"{refused} mounts were refused")
        write_file(os.path.join(where, "f"), b"y" * 100000)
        equal(read_file(os.path.join(where, "f")), b"y" * 100000, "contents")
        run(["umount", where])
        wait_free(volume)
    volume.fsck()


def case_names():
    """Whatever a name can contain; and mount points whose sockets would have one name."""
    need_fuse()
    words = ["a b,c\nnew line\ttab", "back\\slash'quote\" gr\u00fc\u00df", "bad\udcff\udcfe", "-dash", "l" * 200]
    for word in words:
        volume = Volume(size="64M", name=word.strip("-"))
        where = os.path.join(place(), word)
        os.mkdir(where)
        run([gfs2_fuse(), "--", volume.path, where])
        write_file(os.path.join(where, "f"), b"x")
        equal(run([glockctl_program(), "-m", where, "get", "commit"]).stdout, "30\n", f"glockctl for {word!r}")
        run(["umount", where])
        wait_free(volume)
        volume.remove()
    top = place()
    twins = [os.path.join(top, "a", "b"), os.path.join(top, "a-b")]
    volumes = [Volume(size="64M") for _ in range(3)]
    for volume, where in zip(volumes, twins + twins[:1]):
        os.makedirs(where, exist_ok=True)
        run([gfs2_fuse(), volume.path, where])
    equal(run([glockctl_program(), "-m", twins[1], "get", "commit"]).stdout, "30\n", "the second one's socket")
    check("-s SOCKET" in run([glockctl_program(), "-m", twins[0], "get"], ok=(2,)).stdout,
          "two mounts on one directory: no advice")
    for where in twins + twins[:1]:
        run(["umount", where])
    for volume in volumes:
        wait_free(volume)


def case_locks_of_the_mount():
    """Asking for the locks that the mount itself holds (live, journal, ...) is refused, and does not keep it from ending."""
    need_fuse()
    volume = Volume(size="64M")
    mount = volume.mount()
    write_file(mount / "f", b"x" * 100000)
    dump = mount.glockctl("dump").stdout
    names = [f"{kind}/{number}" for kind, number in re.findall(r"^G:.* n:(\d+)/([0-9a-f]+) ", dump, re.M)]
    held = 0
    for name in names:
        held += mount.glockctl("demote", name, "UN", "0", ok=(0, 1)).returncode
    check({"1/2", "9/0"} <= set(names) and held >= 2, f"no such locks? {names}")
    write_file(mount / "g", b"y" * 100000)
    mount.umount()
    volume.fsck()
    with volume.mount() as mount:
        equal((len(read_file(mount / "f")), len(read_file(mount / "g"))), (100000, 100000), "sizes")


def case_bad_clients():
    """Noise, a line without end, more clients than are allowed, traces that nobody reads: the volume works on, and ends."""
    need_fuse()
    volume = Volume(size="64M")
    mount = volume.mount("control=" + os.path.join(workdir(), "control.sock"))

    def client():
        end = socket.socket(socket.AF_UNIX)
        end.connect(os.path.join(workdir(), "control.sock"))
        end.settimeout(STEP_SECONDS)
        return end

    for noise in (random.randbytes(100000), b"A" * 70000 + b"\n", b"\0\n%zz\n\n", b"trace -t nan\n"):
        noisy = client()
        try:
            noisy.sendall(noise)
        except OSError:
            pass    # thrown out
        noisy.close()
    readers = [client() for _ in range(40)]
    for reader in readers:
        try:
            reader.sendall(b"trace\n")
        except OSError:
            pass    # one too many
    for number in range(300):
        write_file(mount / f"f{number}", b"x")
    equal(len([name for name in os.listdir(mount) if name.startswith("f")]), 300, "files")
    mount.umount()
    for reader in readers:
        reader.close()
    volume.fsck()


main()
