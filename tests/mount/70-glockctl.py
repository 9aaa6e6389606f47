#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: glockctl: dump, map, trace, get, set, demote; its exit statuses; the socket's mode, and garbage sent to it
# timeout: 180
# variants: plain asan
import os
import socket
import stat
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "lib", "conform"))
from testlib import *    # noqa: E402
import glocks            # noqa: E402

STATES = ("UN", "SH", "DF", "EX")


def sockets():
    """The control sockets where they belong."""
    where = "/run/gfs2-fuse"
    return {os.path.join(where, name) for name in (os.listdir(where) if os.path.isdir(where) else ())}


def on_mount(function):
    def wrapped():
        need_fuse()
        volume = Volume(size="128M")
        before = sockets()
        with volume.mount() as mount:
            (control,) = sockets() - before
            mount.control = control
            function(mount)
            write_file(mount / "after", b"alive", sync=True)
            equal(read_file(mount / "after"), b"alive", "the mount still works")
        check(not os.path.exists(control), "the socket is left behind")
        volume.fsck()
    return wrapped


def glockctl(*words):
    return run([glockctl_program(), *words], ok=None)


@on_mount
def case_exit_statuses(mount):
    """0 done, 1 refused or failed, 2 usage."""
    base = ("-m", mount.dir)
    for words in ([], ["nonsense"], [*base], [*base, "nonsense"], [*base, "demote"],
                  [*base, "demote", "inode:1"], [*base, "set", "short_dio"], [*base, "map"],
                  [*base, "trace", "-n"], [*base, "trace", "-n", "x"],
                  [*base, "demote", "inode:1", "XX"], ["-m"], ["-z"]):
        done = glockctl(*words)
        equal(done.returncode, 2, f"exit status of {words}: {done.stdout}")
        check(done.stdout.strip(), f"{words}: no message")
    for words in ([*base, "get", "nonsense"], [*base, "set", "nonsense", "1"],
                  [*base, "set", "short_dio", "nonsense"], [*base, "map", mount / "none"],
                  [*base, "map", "/etc/passwd"], [*base, "demote", "inode:99999999", "UN"],
                  [*base, "demote", "no:glock", "UN"],
                  ["-m", "/proc", "dump"], ["-s", "/none", "dump"]):
        done = glockctl(*words)
        equal(done.returncode, 1, f"exit status of {words}: {done.stdout}")
        check(done.stdout.strip(), f"{words}: no message")
    for words in ([*base, "dump"], [*base, "get"], ["-s", mount.control, "get"], ["--help"], ["--version"]):
        done = glockctl(*words)
        equal(done.returncode, 0, f"exit status of {words}: {done.stdout}")


@on_mount
def case_dump(mount):
    """The kernel's format: G: lines with state, name, flags, target; I: lines for inodes."""
    write_file(mount / "f", b"x" * 10000)
    inode = os.stat(mount / "f").st_ino
    lines = mount.glockctl("dump").stdout.splitlines()
    found = [line for line in lines if re.match(r"G:  s:\w\w n:\d+/[0-9a-f]+ f:\S* t:\w\w d:\w\w/\d+ a:\d+", line)]
    check(found, f"no glock lines in {lines[:5]}")
    mine = [line for line in found if f"n:2/{inode:x} " in line]
    equal(len(mine), 1, f"lines of the glock 2/{inode:x}")
    check(any(line.startswith(" I: n:") and f"/{inode} " in line for line in lines), "no I: line")
    for entry in mount.glockctl("dump", json_lines=True):
        check(isinstance(entry, (dict, list)), "dump --json")
    check(not any(line.startswith(" P: ") for line in lines if "/f" in line), "a path that nobody knows")
    with open(mount / "f"):
        check(f" P: {mount / 'f'}" in mount.glockctl("dump", f"inode:{inode}").stdout.splitlines(), "no path of an open file")
        equal([one.get("path") for one in mount.glockctl("dump", f"2/{inode:x}", json_lines=True)], [mount / "f"], "path in JSON")
        equal(mount.glockctl("dump", "3/12345678", ok=(1,)).returncode, 1, "a lock that is not there")


def kinds(locks):
    """Which lines there are and which fields each has, by type of glock."""
    found = {}
    for lock in locks:
        for kind, what in lock.items():
            for fields in what if isinstance(what, list) else [what] if what else []:
                found.setdefault((lock["G"]["n"].split("/")[0], kind), set()).update(fields)
    return found


@on_mount
def case_dump_kernel(mount):
    """The parser of the kernel's own dump takes ours, field by field: with holders, waiters, dirty and held locks; and nothing else."""
    with open(os.path.join(ROOT, "tests", "conform", "glocks-kernel")) as recorded:
        sample = recorded.read()
    kernel = kinds(glocks.parse(sample))
    for number in range(30):
        write_file(mount / f"f{number}", b"x" * 10000)
    os.mkdir(mount / "d")
    os.symlink("f1", mount / "s")
    inode = os.stat(mount / "f1").st_ino
    holder = subprocess.Popen([glockctl_program(), "-m", mount.dir, "hold", mount / "f1", "SH"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    check("held SH" in holder.stdout.readline(), "hold does not hold")
    toucher = subprocess.Popen(["touch", mount / "f1"])
    with open(mount / "f2", "r+b") as file:
        file.write(b"dirty")
        wait_for(lambda: f"p:{toucher.pid} [touch]" in mount.glockctl("dump", f"inode:{inode}").stdout, "somebody who waits")
        # What the daemon itself says; glockctl adds paths.
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(mount.control)
        stream = peer.makefile("rw", encoding="utf-8")
        stream.readline()
        stream.write("dump\n")
        stream.flush()
        text = "".join(line[1:] for line in iter(stream.readline, "ok\n"))
        stream.close()
        peer.close()
    holder.communicate()
    toucher.wait()
    locks = glocks.parse(text)
    ours = kinds(locks)
    for (number, kind), fields in ours.items():
        if (number, kind) in kernel:
            equal(fields, kernel[number, kind], f"fields of {kind}: lines of type {number}")
    check({("2", "G"), ("2", "H"), ("2", "I"), ("5", "I"), ("3", "G"), ("3", "R")} <= set(ours), f"only {sorted(ours)}")
    (mine,) = [lock for lock in locks if lock["G"]["n"] == f"2/{inode:x}"]
    equal([(h["s"], "W" in h["f"], h["p"], h["comm"]) for h in mine["H"]], [("EX", True, str(toucher.pid), "touch")], "who waits")
    equal((mine["I"] or {}).get("n", f"?/{inode}").split("/")[1], str(inode), "the inode's number")
    # Every line with something changed is refused: the parser does read it.
    for source in (sample, text):
        lines = source.splitlines()
        rnd = random.Random(SEED)
        for at in rnd.sample(range(len(lines)), min(40, len(lines))):
            for wrong in (lines[at][1:], lines[at].rpartition(" ")[0], lines[at].replace(":", "", 1), lines[at] + " x:1", " X: n:1"):
                changed = "\n".join(lines[:at] + [wrong] + lines[at + 1:])
                try:
                    glocks.parse(changed)
                except glocks.Unknown:
                    continue
                check(False, f"{wrong!r} is taken for a line of the kernel's")


@on_mount
def case_demote(mount):
    """The three ways to name a glock; the dump shows the state it was demoted to."""
    path = mount / "f"
    write_file(path, b"x" * 10000, sync=True)
    inode = os.stat(path).st_ino

    def state():
        for line in mount.glockctl("dump").stdout.splitlines():
            found = re.match(rf"G:  s:(\w\w) n:2/{inode:x} ", line)
            if found:
                return found[1]
        return "UN"

    for name in (f"2/{inode:x}", f"inode:{inode}", path):
        for want in ("SH", "UN"):
            with open(path, "r+b") as file:
                file.write(b"y")
            mount.glockctl("demote", name, want)
            wait_for(lambda: state() in (want, "UN"), f"{name} to be in {want}")
    equal(read_file(path), b"y" + b"x" * 9999, "content")


@on_mount
def case_map(mount):
    """The extent map in memory and on the volume: runs and holes, covering the file."""
    fd = os.open(mount / "f", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"a" * 65536, 0)
    os.pwrite(fd, b"b" * 65536, 262144)
    os.fsync(fd)
    os.close(fd)
    text = mount.glockctl("map", mount / "f").stdout
    check("hole" in text.lower(), f"no hole in: {text}")
    check(mount.glockctl("map", mount / "f", json_lines=True), "map --json prints nothing")
    write_file(mount / "stuffed", b"inside the dinode")
    mount.glockctl("map", mount / "stuffed")


@on_mount
def case_get_set(mount):
    names = {line.split("=")[0].split()[0] for line in mount.glockctl("get").stdout.splitlines() if line.strip()}
    for name in ("short_dio", "dio_mtime", "dio_mtime_interval", "commit"):
        check(name in names, f"get does not list {name}: {sorted(names)}")
    for value in ("async", "fail", "precheck", "blockdev", "drain"):
        mount.glockctl("set", "short_dio", value)
        check(value in mount.glockctl("get", "short_dio").stdout, f"short_dio is not {value}")
    mount.glockctl("get", json_lines=True)


@on_mount
def case_trace(mount):
    """-n COUNT and -t SECONDS end it; events are complete, numbered and of the contract's names."""
    known = {"glock_state", "glock_queue", "glock_promote", "glock_dequeue", "glock_demote_rq",
             "dlm_lock", "dlm_ast", "dlm_bast", "dio_begin", "dio_submit", "dio_hole",
             "dio_drain_begin", "dio_drain_end", "dio_upgrade", "dio_buffered", "dio_end", "log_flush"}
    with Trace(mount) as trace:
        for number in range(20):
            write_file(mount / f"f{number}", b"x", sync=True)
    check(trace.events, "no events")
    for event in trace.events:
        check(event["event"] in known, f"unknown event {event}")
        for key in ("from", "to"):
            check(event.get(key, "UN") in STATES, f"{key} in {event}")
        check(re.fullmatch(r"\d+/[0-9a-f]+", event.get("glock", "2/1")), f"glock in {event}")
    numbers = [event["seq"] for event in trace.events]
    equal(numbers, sorted(set(numbers)), "numbers")
    kinds = {event["event"] for event in trace.events}
    check({"glock_state", "log_flush"} <= kinds, f"kinds of events: {kinds}")

    tracing = subprocess.Popen([glockctl_program(), "-m", mount.dir, "--json", "trace", "-n", "5"],
                               stdout=subprocess.PIPE, text=True)
    wait_for(lambda: (write_file(mount / "t", b"x", sync=True), os.unlink(mount / "t"),
                      tracing.poll() is not None)[2], "trace -n 5 to end")
    equal((tracing.returncode, len(tracing.stdout.read().splitlines())), (0, 5), "trace -n 5")
    equal(glockctl("-m", mount.dir, "trace", "-t", "1").returncode, 0, "trace -t 1")


@on_mount
def case_events_off(mount):
    """Nothing is recorded, until they are on again."""
    def seen():
        return [event["seq"] for event in mount.glockctl("trace", "-s", "0", "-t", "0", json_lines=True)]
    write_file(mount / "on", b"x", sync=True)
    mount.glockctl("set", "events", "off")
    check("off" in mount.glockctl("get", "events").stdout, "events are not off")
    before = seen()
    check(before, "no events from before")
    write_file(mount / "off", b"x", sync=True)
    equal(seen()[-1], before[-1], "the last event")
    equal(glockctl("-m", mount.dir, "set", "events", "maybe").returncode, 1, "events maybe")
    mount.glockctl("set", "events", "on")
    write_file(mount / "again", b"x", sync=True)
    check(seen()[-1] > before[-1], "no events although they are on")


@on_mount
def case_many_traces(mount):
    """Several at once, some killed, one that does not read: the file system goes on."""
    readers = [subprocess.Popen([glockctl_program(), "-m", mount.dir, "trace"],
                                stdout=subprocess.PIPE) for _ in range(5)]
    for number in range(2000):
        write_file(mount / f"f{number % 10}", b"x" * 100)
        if number == 1000:
            readers[0].kill()
    for reader in readers:
        reader.kill()
        reader.wait()


@on_mount
def case_socket(mount):
    state = os.stat(mount.control)
    check(stat.S_ISSOCK(state.st_mode), "not a socket")
    equal(state.st_mode & 0o777, 0o600, "mode of the socket")
    equal(state.st_uid, os.geteuid(), "owner of the socket")
    # Another user is refused.
    program = ("import os, socket\nos.setgid(65534); os.setuid(65534)\n"
               f"s = socket.socket(socket.AF_UNIX)\ns.connect({mount.control!r})\n")
    done = run([sys.executable, "-c", program], ok=None)
    check(done.returncode and "Permission" in done.stdout, "another user may connect")


@on_mount
def case_garbage(mount):
    """Whatever is sent, the daemon answers others and the mount goes on."""
    rnd = random.Random(SEED)
    messages = [b"", b"\n", b"\0\n", b"dump\n" * 100, b"nonsense\n", b"x" * 200000, b"x" * 200000 + b"\n",
                b"demote\n", b"demote inode:1\n", b"demote inode:x UN\n", b"demote 2/zz UN\n",
                b"demote 2/ffffffffffffffffffffff UN\n", b"set a\n", b"set commit -1\n",
                b"set commit 99999999999999999999\n", b"map\n", b"map %\n", b"map %zz\n", b"map /\n",
                b"trace -n -1\n", b"trace -n 99999999999999999999\n", b"trace x y z\n", b"get %00\n",
                b"\xff\xfe\n", b"a b c d e f g h i j k l m n o p q r s t u v w x y z " * 50 + b"\n"]
    messages += [rnd.randbytes(rnd.randrange(1, 3000)) for _ in range(50)]
    messages += [bytes(rnd.choice(b"dumpsetgracemoeinode:UNEX /0123456789\n") for _ in range(200))
                 for _ in range(50)]
    for message in messages:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(mount.control)
            peer.settimeout(0.02)
            try:
                peer.sendall(message)
                peer.recv(65536)
                peer.recv(65536)
            except OSError:
                pass
    # Many who connect and say nothing.
    silent = []
    for _ in range(100):
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(1)
        try:
            peer.connect(mount.control)
        except OSError:
            break
        silent.append(peer)
    for peer in silent:
        peer.close()
    wait_for(lambda: glockctl("-m", mount.dir, "get").returncode == 0, "glockctl to be answered again")


def case_socket_elsewhere():
    """-o control=PATH"""
    need_fuse()
    volume = Volume(size="64M")
    control = temp("control")
    with volume.mount("control=" + control):
        equal(glockctl("-s", control, "get").returncode, 0, "exit status")
        equal(os.stat(control).st_mode & 0o777, 0o600, "mode of the socket")
    check(not os.path.exists(control), "the socket is left behind")
    # What lies at that path and is no socket of ours is not touched.
    write_file(control, b"precious")
    try:
        with volume.mount("control=" + control):
            pass
    except (AssertionError, OSError):
        pass
    equal(read_file(control), b"precious", "a file where the socket should be")


def case_default_mount():
    """Without -m the only mount is meant; with two it must be said which."""
    need_fuse()
    first = Volume(size="64M")
    second = Volume(size="64M")
    with first.mount() as one:
        done = glockctl("get")
        if done.returncode and "mounts, choose" in done.stdout:
            skip("other mounts of this machine are in the way")
        equal(done.returncode, 0, f"the only mount: {done.stdout}")
        equal(glockctl("-m", os.path.join(one.dir, "."), "get").returncode, 0, "a path within it")
        with second.mount():
            done = glockctl("get")
            equal(done.returncode, 2, f"two mounts: {done.stdout}")
            check(done.stdout.strip(), "no message")


def case_other_daemons():
    """Daemons that hang, refuse or speak another protocol do not keep glockctl from the mount that is meant."""
    need_fuse()
    run_dir = temp("run")
    os.makedirs(os.path.join(run_dir, "gfs2-fuse"))
    env = dict(os.environ, XDG_RUNTIME_DIR=run_dir)
    mute = os.path.join(run_dir, "gfs2-fuse", "mute.sock")
    greetings = {"mute": b"", "full": b"error ENOMEM no memory for another client\n",
                 "other": b"gfs2-fuse-control 999 {}\n", "nonsense": b"hello\n"}
    peers = []

    def answer(listener, greeting):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            peers.append(client)
            if greeting:
                client.sendall(greeting)

    listeners = {}
    threads = []
    for name, greeting in greetings.items():
        listeners[name] = socket.socket(socket.AF_UNIX)
        listeners[name].bind(os.path.join(run_dir, "gfs2-fuse", name + ".sock"))
        listeners[name].listen(8)
        threads.append(threading.Thread(target=answer, args=(listeners[name], greeting)))
        threads[-1].start()
    volume = Volume(size="64M")
    try:
        with volume.mount() as mount:
            for words in (["-m", mount.dir, "get", "cache"], ["map", mount.dir]):
                done = run([glockctl_program(), *words], ok=None, env=env)
                equal(done.returncode, 0, f"exit status of {words} beside others: {done.stdout}")
                # once is enough: it takes the seconds that glockctl gives it
                if os.path.exists(mute):
                    os.unlink(mute)
        for name, message in (("full", "no memory"), ("other", "version 999"),
                              ("nonsense", "not the control socket")):
            done = glockctl("-s", os.path.join(run_dir, "gfs2-fuse", name + ".sock"), "get")
            equal(done.returncode, 1, f"exit status with {name}: {done.stdout}")
            check(message in done.stdout, f"{name}: {done.stdout}")
    finally:
        for listener in listeners.values():
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in threads:
            thread.join()
        for peer in peers:
            peer.close()


main()
