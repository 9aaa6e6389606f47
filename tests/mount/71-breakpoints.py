#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: breakpoints on a mounted volume: a write stopped at each phase, a played node, a client that dies; the REPL on a real terminal
# timeout: 180
# variants: plain asan
import fcntl
import json
import os
import pty
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

BLOCK = 4096


class Session(Control):
    """The control socket that glockctl finds by itself."""

    def __init__(self, mount):
        mounts = [json.loads(line) for line in run([glockctl_program(), "mounts", "--json"]).stdout.splitlines()]
        pid = next(m["pid"] for m in mounts if m["mountpoint"] == os.path.realpath(mount.dir))
        self.pid, where = pid, "/run/gfs2-fuse"
        for name in os.listdir(where):
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.path = os.path.join(where, name)
            try:
                self.socket.connect(self.path)
            except OSError:
                self.socket.close()
                continue
            self.lines = self.socket.makefile("r", encoding="utf-8")
            if f'"pid":{pid},' in self.lines.readline():
                return
            self.close()
        raise AssertionError("no socket of this mount")

    def list(self, *words):
        return self.json(words[0], "--json", *words[1:])


def holed_file(mount, name="f"):
    """64 KiB of data, then a hole up to 1 MiB, all of it on the device."""
    write_file(mount / name, b"A" * 65536, sync=True)
    os.truncate(mount / name, 1 << 20)
    return os.stat(mount / name).st_ino


def direct_write(path, offset, length):
    """A process that makes one direct write and ends with 0 if all of it was written."""
    code = ("import mmap, os, sys\n"
            "buf = mmap.mmap(-1, %d); buf.write(b'B' * %d)\n"
            "fd = os.open(%r, os.O_WRONLY | os.O_DIRECT)\n"
            "sys.exit(0 if os.pwrite(fd, buf, %d) == %d else 1)\n" % (length, length, os.fspath(path), offset, length))
    return subprocess.Popen([sys.executable, "-c", code])


def done(process):
    wait_for(lambda: process.poll() is not None, "the end of the write")
    equal(process.returncode, 0, "exit status of the write")


@on_mount
def case_a_write_in_slow_motion(mount):
    """hole, drain, upgrade, the lock itself, buffered: each is reached, holds the write, and the file is right at the end."""
    inode = holed_file(mount)
    mount.glockctl("demote", f"inode:{inode}", "UN")
    control = Session(mount)
    control("break", "dio", "hole", f"inode:{inode}")
    write = direct_write(mount / "f", 32768, 65536)
    seen = []
    control("wait", "60")
    while True:
        (stop,) = control.list("stops")
        seen.append(stop["at"] if stop["at"] != "transition" else f"{stop['from']}->{stop['to']}")
        check(write.poll() is None, f"the write has ended at {seen}")
        equal(stop["glock"], f"2/{inode:x}", "the lock that is stopped")
        if seen[-1] == "dio buffered":
            break
        control("step")
        control("wait", "60")
    equal(seen, ["dio hole", "dio drain", "dio upgrade", "DF->EX", "dio buffered"], "what was stopped")
    # Other files go on meanwhile.
    write_file(mount / "other", b"x" * 100000, sync=True)
    control("continue")
    done(write)
    control.close()
    equal(read_file(mount / "f")[:131072], b"A" * 32768 + b"B" * 65536 + b"\0" * 32768, "contents")


@on_mount
def case_conditions(mount):
    """-c, -p, -1 and another file: only what was meant is stopped."""
    inode, other = holed_file(mount), holed_file(mount, "other")
    control = Session(mount)
    control("break", "-c", "3", "-n", "0", "-1", "dio", "hole", f"inode:{inode}")
    control("break", "-p", "1", "any", "*->*")
    control("break", "-n", "7", "any", "*->*")          # this is node 0
    mount.glockctl("demote", f"inode:{other}", "UN")            # a transition that neither stops
    for turn in range(2):
        done(direct_write(mount / "f", (64 + 4 * turn) << 10, BLOCK))
        done(direct_write(mount / "other", (64 + 4 * turn) << 10, BLOCK))
    third = direct_write(mount / "f", 128 << 10, BLOCK)
    control("wait", "60")
    (stop,) = control.list("stops")
    equal((stop["glock"], stop["pid"]), (f"2/{inode:x}", third.pid), "who is stopped")
    equal([b["break"] for b in control.list("breaks")], [2, 3], "breakpoints left")
    equal([(b["here"], b["hits"]) for b in control.list("breaks")], [(True, 0), (False, 0)], "what the others have seen")
    check("on another node" in mount.glockctl("breaks").stdout or "on another node" in "".join(control("breaks")), "breaks tells the node")
    control("continue")
    done(third)
    check(other != inode, "two files")
    control.close()


@on_mount
def case_play_a_node(mount):
    """hold: what goes with it goes on, what does not waits, and explain says for what."""
    inode = holed_file(mount)
    control = Session(mount)
    control("hold", f"inode:{inode}", "SH")
    equal(len(read_file(mount / "f")), 1 << 20, "what is read")      # SH beside SH
    toucher = subprocess.Popen(["touch", mount / "f"])
    wait_for(lambda: "f:W" in mount.glockctl("dump", f"inode:{inode}").stdout or
             "f:AW" in mount.glockctl("dump", f"inode:{inode}").stdout, "a waiter")
    text = mount.glockctl("explain", mount / "f").stdout
    check(f"pid {toucher.pid} [touch] waits" in text and "kept in SH by hand" in text, f"explain says: {text}")
    check(f"inode:{inode}" in mount.glockctl("locks", "--waiting").stdout, "locks --waiting does not show it")
    check(toucher.poll() is None, "touch has not waited")
    control("release", f"inode:{inode}")
    done(toucher)
    control.close()


@on_mount
def case_dead_client(mount):
    """Who has set breakpoints and holds is killed: all of it is let go, and events say why."""
    inode = holed_file(mount)
    with Trace(mount) as trace:
        breaker = subprocess.Popen([glockctl_program(), "-m", mount.dir, "break", "dio", "hole", f"inode:{inode}"],
                                   stdout=subprocess.PIPE, text=True)
        equal(breaker.stdout.readline(), "break 1\n", "its answer")
        write = direct_write(mount / "f", 65536, BLOCK)
        check("dio hole" in breaker.stdout.readline(), "the hit is not told")
        holder = subprocess.Popen([glockctl_program(), "-m", mount.dir, "hold", mount.dir, "EX"],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        check("held EX" in holder.stdout.readline(), "hold does not hold")
        check(write.poll() is None, "the write was not stopped")
        for process in (breaker, holder):
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
        holder.stdin.close()
        done(write)
        os.listdir(mount.dir)
    reasons = [e.get("reason") for e in trace.events if e["event"] == "break_go"]
    equal(reasons, ["client gone"], "why it was let go")
    equal([e["reason"] for e in trace.events if e["event"] == "glock_hold"], ["by hand", "client gone"], "why the lock was released")


def reasons(mount, since, event):
    """Why what was held was let go, since that event."""
    return [e["reason"] for e in mount.glockctl("trace", "-s", str(since), "-t", "0", "-e", event, json_lines=True)
            if event != "glock_hold" or e["to"] == "UN"]


def events_so_far(mount):
    return mount.glockctl("get", "stats", json_lines=True)[0]["stats"]["events"]


@on_mount
def case_stopped_client(mount):
    """Who keeps a lock by hand and is stopped (SIGSTOP, a debugger) keeps it no longer than a stop would last; who goes on keeps it."""
    inode = holed_file(mount)
    since = events_so_far(mount)
    for stopped in (True, False):
        holder = subprocess.Popen([glockctl_program(), "-m", mount.dir, "repl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        holder.stdin.write(f"timeout 0.5\nhold inode:{inode} EX\n")
        holder.stdin.flush()
        check("held EX" in holder.stdout.readline(), "hold does not hold")
        if stopped:
            holder.send_signal(signal.SIGSTOP)
        toucher = subprocess.Popen(["touch", mount / "f"])
        if stopped:
            done(toucher)
            holder.send_signal(signal.SIGCONT)
        else:
            time.sleep(2)        # nothing can be waited for that does not happen
            check(toucher.poll() is None, "it was let go although its client is alive")
        holder.stdin.close()
        equal(holder.wait(), 0, "exit status of glockctl")
        holder.stdout.close()
        done(toucher)
    equal(reasons(mount, since, "glock_hold"), ["client stopped", "client gone"], "why it was let go")


@on_mount
def case_stopped_with_breakpoints(mount):
    """Whose client is stopped loses his breakpoints, too: otherwise each hit would cost the whole time again."""
    inode = holed_file(mount)
    mount.glockctl("demote", f"inode:{inode}", "UN")
    since = events_so_far(mount)
    client = subprocess.Popen([glockctl_program(), "-m", mount.dir, "repl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    client.stdin.write(f"timeout 3600\nbreak inode:{inode} *->*\ntimeout 0.5\nbreaks\n")
    client.stdin.flush()
    check("break 1" in client.stdout.readline(), "no breakpoint")
    check(client.stdout.readline(), "no answer to the last command")
    client.send_signal(signal.SIGSTOP)
    # Stopped for an hour, if nobody looked at the client.
    done(subprocess.Popen(["touch", mount / "f"]))
    equal(mount.glockctl("breaks", "all").stdout, "", "breakpoints that are left")
    check("client stopped" in reasons(mount, since, "break_go"), "it was not told why it went on")
    client.send_signal(signal.SIGCONT)
    client.stdin.close()
    equal(client.wait(), 0, "exit status of glockctl")
    client.stdout.close()


def case_end_with_stops():
    """The daemon is told to end while a write is stopped, a lock cannot move and another one is kept: it does not wait for any of them."""
    need_fuse()
    volume = Volume(size="128M")
    mount = volume.mount("control=" + temp("control"))
    inode = holed_file(mount)
    for name in ("moves", "kept"):
        write_file(mount / name, b"x" * 5000, sync=True)
    control = Control(mount)
    control("timeout", "3600")
    control("break", "dio", "hole", f"inode:{inode}")
    control("break", f"inode:{os.stat(mount / 'moves').st_ino}", "*->*")
    control("hold", f"inode:{os.stat(mount / 'kept').st_ino}", "EX")
    write = direct_write(mount / "f", 32768, 65536)
    control("wait", "60")
    demote = subprocess.Popen([glockctl_program(), "-s", mount.options[0][8:], "demote", mount / "moves", "UN", "3600"], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    control("wait", "60")
    touch = subprocess.Popen(["touch", mount / "kept"], stderr=subprocess.DEVNULL)
    wait_for(lambda: any(f"p:{touch.pid} " in line for line in control("dump")), "somebody who waits")
    equal(len(control("stops")), 2, "stops")
    # In less than the hour for which all that would be held.
    mount.umount("sigterm")
    for process in (write, demote, touch):
        process.wait()
    control.close()
    volume.fsck()
    with volume.mount() as mount:
        equal(read_file(mount / "f")[:131072], b"A" * 32768 + b"B" * 65536 + b"\0" * 32768, "what was being written")
    volume.fsck()


@on_mount
def case_timeout(mount):
    """A forgotten breakpoint lets go by itself, a sleeping write as well as a lock."""
    inode = holed_file(mount)
    control = Session(mount)
    control("timeout", "0.2")
    control("break", "dio", "hole", f"inode:{inode}")
    control("break", f"inode:{inode}", "*->EX")
    mount.glockctl("demote", f"inode:{inode}", "UN")
    with Trace(mount) as trace:
        done(direct_write(mount / "f", 65536, BLOCK))
    equal([e.get("reason") for e in trace.events if e["event"] == "break_go"], ["timeout"] * 2, "why they were let go")
    control.close()


# --- the terminal ---

class Terminal:
    """glockctl on a pseudo terminal."""

    def __init__(self, mount, home):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.environ.update(HOME=home, TERM="xterm", INPUTRC="/dev/null")
            os.execv(glockctl_program(), ["glockctl", "-m", mount.dir])
        self.text = ""
        self.expect("glockctl> ")

    def read(self, seconds):
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                data = os.read(self.fd, 65536).decode("utf-8", "replace")
            except OSError:
                data = ""
            self.text += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x07", "", data)
            return bool(data)
        return True

    def expect(self, text):
        """Wait for it; what came before is returned and forgotten."""
        end = time.monotonic() + STEP_SECONDS
        while text not in self.text:
            check(self.read(1) and time.monotonic() < end, f"{text!r} does not come; there is {self.text!r}")
        before, self.text = self.text.split(text, 1)
        return before

    def type(self, text):
        os.write(self.fd, text.encode())

    def line(self, text):
        """Type it, and what it prints."""
        self.type(text + "\r")
        self.expect("\n")
        return self.expect("glockctl> ").replace("\r", "")

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def quit(self):
        self.type("quit\r")
        self.ends()

    def ends(self):
        wait_for(self._gone, "glockctl's end")
        os.close(self.fd)

    def _gone(self):
        self.read(0)
        return os.waitpid(self.pid, os.WNOHANG)[0] != 0


@on_mount
def case_repl(mount):
    """Completion of commands, locks, paths and states; history over two sessions; Ctrl-C; resize; hits at the prompt."""
    inode = holed_file(mount)
    home = workdir()
    t = Terminal(mount, home)
    t.type("expl\t")
    t.expect("explain ")
    t.type("\x15")                               # the line away
    check("nobody waits" in t.line("explain"), "explain")
    t.type(f"demote ino\t{inode}\t")
    t.expect(f"inode:{inode} ")
    t.type("U\t\r")
    t.expect("UN")
    t.expect("glockctl> ")
    t.type(f"where {mount.dir}/\t")              # the only file
    t.expect(f"{mount.dir}/f")
    t.type("\r")
    t.expect(f"n:2/{inode:x}")
    t.expect("glockctl> ")
    t.type("break dio ho\t")
    t.expect("break dio hole ")
    t.type(f"inode:{inode}\r")
    t.expect("break 1")
    t.expect("glockctl> ")
    # A hit while a line is edited: told above it, and the line is still there.
    t.type("sto")
    write = direct_write(mount / "f", 65536, BLOCK)
    t.expect("stop 1 (break 1): dio hole of glock")
    t.expect("glockctl> sto")
    t.resize(10, 60)
    t.type("ps\r")
    t.expect("lets go in")
    t.expect("glockctl> ")
    # It was told already: there is nothing to wait for.
    check("stop 1 (break 1): dio hole" in t.line("wait"), "wait for what was told")
    info = t.line("info")
    check(f"pid {write.pid} [" in info and "holds DF, in dio_write_lock" in info and "held for" in info, f"info: {info}")
    equal(t.line("where").splitlines()[0], info.splitlines()[0], "where")
    check("the write has ended: 4096" in t.line("finish"), "finish")
    done(write)
    # Ctrl-C drops a line and ends a trace, not the session.
    t.type("nonsense\x03")
    t.expect("^C")
    t.expect("glockctl> ")
    t.type("trace\r")
    t.expect("\n")
    # The trace begins some time after it was asked for.
    while "gfs2_promote" not in t.text:
        write_file(mount / "g", b"x", sync=True)
        t.read(0.1)
    t.type("\x03")
    t.expect("glockctl> ")
    equal((t.line("delete all"), t.line("breaks")), ("", ""), "what delete and breaks print")
    # Names with blanks and quotes are completed so that they can be read back; values, points and options are known.
    for name in ("two words", "quo'te", 'back\\slash', 'dou"ble'):
        write_file(mount / name, b"x")
        number = os.stat(mount / name).st_ino
        for begin in (name[:3], '"' + name[:3]) if '"' not in name else (name[:3],):
            quote, begin = (begin[0], begin[1:]) if begin[0] == '"' else ("", begin)
            t.type(f"dump {quote}{mount.dir}/{begin}\t\r")
            t.expect(f"n:2/{number:x} ")
            t.expect("glockctl> ")
    for typed, wanted in (("set short_dio pre\t", "set short_dio precheck"), ("break di\t", "break dio"), ("break dlm ba\t", "break dlm bast"),
                          ("break an\t", "break any"), ("trace -e glock_de\tm\t", "trace -e glock_demote_rq"), ("locks --w\t", "locks --waiting"),
                          ("trace -e dio_hole,dlm_a\t", "trace -e dio_hole,dlm_ast"), ("set -s short\t", "set -s short_dio"), ("get st\t", "get stats"),
                          ("top -k bo\t", "top -k bounces"), (f"trace -g inode:{inode}\t", f"trace -g inode:{inode}"), ("help fin\t", "help finish")):
        t.type(typed)
        t.expect(wanted)
        t.type("\x15")
    # What can only be read is not offered for setting: of what begins so there is nothing.
    t.type("set sta\t\r")
    t.expect("\n")
    check("stats can only be read" not in t.expect("glockctl> "), "set stats")
    check("unknown command" in t.line("frobnicate"), "an unknown command")
    t.quit()
    t = Terminal(mount, home)
    t.type("\x1b[A\x1b[A")                       # quit, frobnicate
    t.expect("frobnicate")
    t.type("\x15")
    # Ctrl-C throws away what was typed before it, also when it has been seen to be there and not been read yet.
    for _ in range(300):
        t.type("x")
        t.type("\x03")
        t.expect("^C")
        t.expect("glockctl> ")
    # Ctrl-C at the prompt again and again: a line each, and nothing is left that keeps it busy; SIGTERM ends it.
    for _ in range(20):
        t.type("x\x03")
        t.expect("^C")
        t.expect("glockctl> ")
    os.kill(t.pid, signal.SIGTERM)
    t.ends()


def case_probes():
    """A USDT probe for every event, where the build has them."""
    notes = run(["readelf", "-n", gfs2_fuse()]).stdout
    if "gfs2_fuse" not in notes:
        skip("built without systemtap-sdt-dev")
    names = set(re.findall(r"Provider: gfs2_fuse\s+Name: (\w+)", notes))
    for name in ("glock_state", "glock_queue", "dlm_bast", "dio_hole", "dio_end", "log_flush", "break_hit", "glock_hold"):
        check(name in names, f"no probe {name} among {sorted(names)}")
    equal(len(names), 22, "probes")


@on_mount
def case_script(mount):
    """Commands from a file: the first that fails ends it."""
    inode = holed_file(mount)
    script = f"# a comment\nbreak any *->EX\nbreaks\ndelete all\ndump inode:{inode}\nfrobnicate\nlocks\n"
    ran = subprocess.run([glockctl_program(), "-m", mount.dir, "repl"], input=script, capture_output=True, text=True)
    equal(ran.returncode, 2, "exit status")
    check("transition *->EX" in ran.stdout and f"n:2/{inode:x}" in ran.stdout, f"output: {ran.stdout}")
    check("waiters" not in ran.stdout, "it went on after a failure")


class Driven:
    """A session that a program drives through pipes: its commands go in when it wants, and what is said comes when it happens."""

    def __init__(self, mount, *options):
        self.process = subprocess.Popen([glockctl_program(), "-m", mount.dir, *options, "repl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self.said = b""

    def __call__(self, *commands):
        self.process.stdin.write("".join(command + "\n" for command in commands))
        self.process.stdin.flush()

    def line(self):
        while b"\n" not in self.said:
            check(select.select([self.process.stdout], [], [], STEP_SECONDS)[0], "nothing is said")
            data = os.read(self.process.stdout.fileno(), 65536)
            check(data, "it has ended")
            self.said += data
        line, self.said = self.said.split(b"\n", 1)
        return line.decode() + "\n"

    def json(self):
        return json.loads(self.line())

    def end(self, status=0):
        out, err = self.process.communicate(timeout=STEP_SECONDS)
        equal((self.process.returncode, self.said.decode() + out), (status, ""), f"its end: {err}")
        return err


def case_driven():
    """Commands through a pipe that stays open: a hit is told without another command, and so is the daemon's end; what follows a # is not looked at."""
    need_fuse()
    volume = Volume(size="128M")
    mount = volume.mount()
    inode = holed_file(mount)
    session = Driven(mount)
    session("  # a comment", f"break dio hole inode:{inode}   # and another")
    equal(session.line(), "break 1\n", "the answer")
    write = direct_write(mount / "f", 65536, BLOCK)
    check("dio hole" in session.line(), "the hit")
    session("continue")
    done(write)
    session("continue")
    equal(session.line(), "nothing is stopped\n", "to go on without a stop")
    silent = Driven(mount)
    silent("timeout")
    equal(silent.line(), "timeout 60.000\n", "the answer")
    session.process.stdin.write("timeout")      # no end of line
    session.process.stdin.close()
    session.process.stdin = None
    equal(session.line(), "timeout 60.000\n", "the last line, which has no end")
    session.end()
    mount.umount()
    wait_for(lambda: silent.process.poll() is not None, "the session's end with the daemon's")
    check("closed the connection" in silent.end(1), "why")
    volume.fsck()


@on_mount
def case_json_session(mount):
    """--json of a session: each command, and each hit, is an object a line."""
    inode = holed_file(mount)
    mount.glockctl("demote", mount / "f", "UN")
    name = f"2/{inode:x}"
    session = Driven(mount, "--json")
    session(f"break dio hole inode:{inode}", "breaks", "timeout 30", "timeout", "continue", "stops")
    equal(session.json(), {"break": 1}, "break")
    equal([session.json()[key] for key in ("glock",)], [name], "breaks")
    equal(session.json(), {"timeout": 30}, "timeout")
    write = direct_write(mount / "f", 32768, 65536)
    hit = session.json()
    equal((hit["stop"], hit["at"], hit["glock"], hit["pid"]), (1, "dio hole", name, write.pid), "the hit")
    session("wait", "info", "where", f"where inode:{inode}")
    equal(session.json()["stop"], 1, "wait")
    for info in (session.json(), session.json()):
        equal((info["stop"], info["in_flight"], info["lock"]["glock"]), (1, 1, name), "info")
        check(any(h["pid"] == write.pid and h["state"] == "DF" for h in info["lock"]["holders"]), f"who holds it: {info}")
    equal([session.json()["glock"].split("/")[0] for _ in range(3)], ["2", "5", "3"], "where")
    session("step")
    equal(session.json()["at"], "dio drain", "the next stop")
    session("delete all", "finish", "explain", f"dump inode:{inode}", "quit")
    end = session.json()
    equal((end["event"], end["rc"], end["glock"]), ("dio_end", 65536, name), "finish")
    done(write)
    equal(session.json()["glock"], name, "dump")
    session.end()
    once = Driven(mount, "--json")
    once(f"break -1 inode:{inode} *->*")
    equal(once.json(), {"break": 1}, "break")
    demote = subprocess.Popen([glockctl_program(), "-m", mount.dir, "demote", mount / "f", "UN"], stdout=subprocess.DEVNULL)
    hit = once.json()
    once("finish 1")
    end = once.json()
    equal((end["event"], end["from"], end["to"]), ("glock_state", hit["from"], hit["to"]), "finish of a transition")
    equal(demote.wait(), 0, "demote")
    once("finish")
    check("nothing is stopped" in once.end(1), "reasons are on the other side")


def case_fuzz():
    """Half a thousand random lines of the words that there are: an answer to each, and nothing is left behind."""
    need_fuse()
    seed = int(os.environ.get("GFS2_TEST_SEED", "1"))
    rnd = random.Random(seed)
    volume = Volume(size="128M")
    words = ("break breaks delete stops wait continue step timeout notify hold release holds disconnect dump stats get set trace map dio demote any "
             "dio dlm hole drain ast request *->* EX->UN DF->EX UN SH DF EX all on off -1 -c -p -t -n 0 1 2 -5 0.01 1e9 % %41 inode:1 2/16 "
             "2/zz --json short_dio fail nan inf").split()
    with volume.mount() as mount:
        inode = holed_file(mount)
        words.append(f"inode:{inode}")
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(STEP_SECONDS)
        connection.connect(Session(mount).path)
        # For reading only: a stream for both forgets what it has read ahead, a hit, when something is written.
        stream = connection.makefile("r", encoding="utf-8", errors="replace")
        stream.readline()
        for _ in range(500):
            line = [rnd.choice(words) for _ in range(rnd.randint(1, 6))]
            if line[0] == "trace":
                line[1:] = ["-t", "0.001"]
            if line[0] in ("wait", "demote", "hold", "set"):
                line = line[:4]
                if line[0] == "wait":
                    line = ["wait", "0.001"]
                if line[0] in ("demote", "hold"):
                    line = (line + ["x"] * 3)[:3] + ["0.01"]
            connection.sendall((" ".join(line) + "\n").encode())
            while True:
                got = stream.readline()
                check(got, f"closed after {line} (seed {seed})")
                if got[0] not in " *":
                    check(got.split()[0] in ("ok", "usage", "error"), f"{line}: {got}")
                    break
        stream.close()
        connection.close()
        os.stat(mount / "f")
        write_file(mount / "f", b"x", sync=True)
    volume.fsck()


if __name__ == "__main__":
    main()
