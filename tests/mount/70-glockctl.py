#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: glockctl: dump, map, trace, get, set, demote; its exit statuses; the socket's mode, and garbage sent to it
# timeout: 180
# variants: plain asan
import contextlib
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import types

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


def lines_of(done):
    """Every line is an object, whatever bytes are in it."""
    return [json.loads(line) for line in done.stdout.split(b"\n")[:-1]]


@on_mount
def case_json(mount):
    """Every command answers in JSON, one object a line, also when it is refused; names of locks are the same everywhere."""
    write_file(mount / "f", b"x" * 10000, sync=True)
    inode = os.stat(mount / "f").st_ino
    name = f"2/{inode:x}"

    def ask(*words, ok=0):
        done = subprocess.run([glockctl_program(), "-m", mount.dir, "--json", *words], stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=STEP_SECONDS)
        equal(done.returncode, ok, f"exit status of {words}: {done.stderr}")
        return lines_of(done)

    for words in (["dump"], ["get"], ["get", "stats"], ["map", mount / "f"], ["dio", mount / "f"], ["stats"], ["stats", mount / "f"], ["locks"],
                  ["where", mount / "f"], ["top", "--once", "-d", "0.1"], ["trace", "-s", "0", "-t", "0"], ["mounts"]):
        check(ask(*words), f"{words} says nothing")
    for words in (["locks", "--waiting"], ["explain"], ["breaks"], ["stops"], ["holds"], ["set", "commit", "30"]):
        equal(ask(*words), [], f"answer to {words}")
    # It knows itself, too.
    known = {one["command"]: one for one in ask("help")}
    check({"dump", "break", "help"} <= set(known) and all(one["synopsis"].startswith(name) for name, one in known.items()), f"help: {known}")
    equal(ask("help", "break"), [known["break"]], "help of one command")
    equal(ask("break", "--help"), [known["break"]], "--help")
    equal(ask("help", "nonsense", ok=2), [], "help of what there is not")
    equal(ask("hold", mount / "f", "EX"), [{"glock": name, "state": "EX"}], "hold")
    equal(ask("demote", mount / "f", "UN"), [{"glock": name, "from": "UN", "to": "UN"}], "demote of what is not locked")
    os.stat(mount / "f")
    equal(ask("stats", mount / "f")[0]["glock"], name, "the lock's name")
    equal({type(lock[key]) for lock in ask("dump") for key in ("ail", "revokes", "refs", "hold", "pages")}, {int}, "counts")
    equal({type(lock[key]) for lock in ask("dump") for key in ("flags", "state", "glock", "demote")}, {str}, "words")
    # A lock that is in use, and by whom: any bytes may be in the name of a process and in a path.
    holder = Control(types.SimpleNamespace(options=("control=" + mount.control,)))
    code = "import ctypes, os, sys\nctypes.CDLL(None).prctl(15, os.fsencode(sys.argv[2]))\nos.utime(sys.argv[1])\n"
    for comm in (b'a"b\\c', b"x] [y", b"l\n\x1b[31m", b"\xe4\xff"):
        holder("hold", f"inode:{inode}", "SH")
        waiter = subprocess.Popen([sys.executable, "-c", code, mount / "f", comm])
        (lock,) = wait_for(lambda: [one for one in ask("dump", mount / "f") if one["holders"]], "somebody who waits")
        seen = lock["holders"][0]
        equal((seen["pid"], seen["where"]), (waiter.pid, seen["where"].strip("[] ")), "who waits")
        wait_for(lambda: "python" not in ask("dump", mount / "f")[0]["holders"][0]["command"], "the name")
        got = ask("dump", mount / "f")[0]["holders"][0]["command"]
        equal(got.encode("utf-8", "surrogateescape"), comm.split(b"\n")[0], "the process's name")
        check(b"\x1b" not in mount_text(mount, "dump", mount / "f"), "what goes to the terminal")
        check(ask("explain"), "who waits")
        (lock,) = ask("locks", "--waiting")
        equal([(who["pid"], who["waits"], who["state"]) for who in lock["who"]], [(waiter.pid, True, "EX")], "who waits for what")
        equal(lock["waiters"], 1, "how many wait")
        holder("release", f"inode:{inode}")
        equal(waiter.wait(), 0, "exit status")
    holder.close()
    for odd in (b"new\nline", b"bad\xff", b'quo"te\\'):
        path = os.path.join(os.fsencode(mount.dir), odd)
        with open(path, "w"):
            (lock,) = ask("dump", path)
            equal(lock["path"].encode("utf-8", "surrogateescape"), path, "the path")
            text = mount_text(mount, "dump", path).split(b"\n")
            equal([line[:4] for line in text[:-1]], [b"G:  ", b" I: ", b" P: "], "lines of the dump")
    # Refused: nothing but objects there, the reason is on the other side.
    with open(mount / "f", "r+b") as file, breakpoint_on(mount, inode):
        file.write(b"y")
        equal(ask("demote", mount / "f", "SH", "0", ok=1), [], "a demand that is not met in time")


def mount_text(mount, *words):
    return subprocess.run([glockctl_program(), "-m", mount.dir, *words], stdout=subprocess.PIPE, check=True).stdout


@contextlib.contextmanager
def breakpoint_on(mount, inode):
    """Its lock does not move meanwhile."""
    breaker = Control(types.SimpleNamespace(options=("control=" + mount.control,)))
    breaker("break", f"inode:{inode}", "*->*")
    try:
        yield
    finally:
        breaker.close()


@on_mount
def case_which(mount):
    """The mount is found by a bind mount of it, by any place on it, and from within it."""
    os.mkdir(mount / "d")
    write_file(mount / "d/f", b"x")
    inode = os.stat(mount / "d/f").st_ino
    for source in (mount.dir, mount / "d"):
        place = temp("bind")
        os.mkdir(place)
        run(["mount", "--bind", source, place])
        try:
            equal(glockctl("-m", place, "get", "commit").stdout, "30\n", f"-m of a bind mount of {source}")
            path = os.path.join(place, "f" if source != mount.dir else "d/f")
            check(f"n:2/{inode:x} " in glockctl("dump", path).stdout, f"dump {path}")
            check("\nresource group\nG:  s:" in glockctl("where", path).stdout, f"where {path}")
            equal([one["glock"] for one in map(json.loads, glockctl("--json", "where", path).stdout.splitlines())][:2], [f"2/{inode:x}", f"5/{inode:x}"],
                  f"where --json {path}")
        finally:
            run(["umount", place])
    group = re.search(r" n:(3/\w+) ", mount.glockctl("where", f"rgrp:{inode}").stdout).group(1)
    check(mount.glockctl("demote", f"rgrp:{inode}", "UN").stdout.startswith(group + " "), "another name of it")
    check("there is no event nix" in mount.glockctl("trace", "-e", "nix", ok=(2,)).stdout, "a wrong name")
    for place in (mount / "d", mount / "d/f"):
        equal(glockctl("-m", place, "get", "commit").stdout, "30\n", f"-m {place}")
    with Volume(size="64M").mount() as other:
        for one, value in ((mount, "29"), (other, "28")):
            one.glockctl("set", "commit", value)
        for place, value in ((mount / "d", "29"), (other.dir, "28")):
            equal(subprocess.run([glockctl_program(), "get", "commit"], cwd=place, capture_output=True, text=True).stdout, value + "\n", f"in {place}")
        said = glockctl("get", "commit").stdout
        check(mount.dir in said and other.dir in said, f"which there are: {said}")


@on_mount
def case_words(mount):
    """Help for every command; what makes no sense alone says where it does; an empty argument."""
    base = ("-m", mount.dir)
    names = re.findall(r"^  (\w+)", glockctl("help").stdout.split("tells more):")[1], re.M)
    check({"dump", "break", "step", "finish", "info", "help"} <= set(names), f"commands: {names}")
    for name in names:
        for done in (glockctl("help", name), glockctl(*base, name, "--help")):
            equal(done.returncode, 0, f"help of {name}")
            check(name in done.stdout and max(map(len, done.stdout.splitlines())) < 80, f"help of {name}: {done.stdout}")
    for name in ("continue", "step", "finish", "info", "delete", "wait", "release", "timeout"):
        done = glockctl(*base, name)
        equal(done.returncode, 2, f"exit status of {name}")
        check("session" in done.stdout, f"{name}: {done.stdout}")
    for words in (["set", "short_dio", ""], ["dump", ""], ["get", ""]):
        done = glockctl(*base, *words)
        check(done.returncode == 2 and "empty" in done.stdout, f"{words}: {done.stdout}")
    done = glockctl(*base, "frobnicate")
    check(done.returncode == 2 and len(done.stdout.splitlines()) == 1, f"an unknown command: {done.stdout}")
    # Everybody's are shown to who has no session.
    breaker = Control(types.SimpleNamespace(options=("control=" + mount.control,)))
    breaker("break", "any", "EX->UN")
    check("any" in glockctl(*base, "breaks").stdout, "somebody else's breakpoint")
    breaker.close()


@on_mount
def case_wrong_words(mount):
    """What is wrong is named, in the words that people use and not the protocol's."""
    base = ("-m", mount.dir)
    for words, named in ((["break", "-x", "any", "*->*"], "no option -x"), (["break", "-c", "0", "any", "*->*"], "-c 0:"), (["break", "any", "XX->YY"], "XX->YY:"),
                         (["break", "dio", "holes"], "dio holes"), (["break", "-t", "x", "any", "*->*"], "x: seconds"), (["trace", "-n", "0"], "-n 0:"),
                         (["trace", "-t", "abc"], "-t abc:"), (["trace", "-e", "bogus"], "no event bogus"), (["trace", "-x", "1"], "no option -x"),
                         (["trace", "-n"], "-n: its value"), (["demote", "2/1", "XX"], "XX:"), (["hold", "2/1", "UN"], "UN:"), (["hold", "2/1", "EX", "0"], "0: seconds"),
                         (["map"], "map PATH|GLOCK"), (["set", "cache"], "set [-s] NAME VALUE | -u")):
        done = glockctl(*base, *words)
        check(done.returncode == 2 and named in done.stdout and "--text" not in done.stdout and "[--json]" not in done.stdout, f"{words}: {done.stdout}")
    # What may be set is what may be given at the mount.
    for value in ("1m", "4194303", "2t"):
        check("from 4m to 1t" in mount.glockctl("set", "cache", value, ok=(1,)).stdout, f"cache {value}")
    mount.glockctl("set", "cache", "4m")
    equal(mount.glockctl("get", "cache").stdout, "4194304\n", "the least")
    # Each name that `get` tells is one that it knows.
    told = dict(line.split() for line in mount.glockctl("get").stdout.splitlines())
    equal(mount.glockctl("get", "stats.withdrawn").stdout, told["stats.withdrawn"] + "\n", "one counter")
    equal(mount.glockctl("get", "stats.withdrawn", json_lines=True), [{"stats": {"withdrawn": 0}}], "the same in JSON")
    for name in ("stats.nothing", "stats."):
        check("no such name" in mount.glockctl("get", name, ok=(1,)).stdout, name)


@on_mount
def case_by_link(mount):
    """A link from elsewhere leads to the mount as a path does; somebody else's mount is one line, and status 1."""
    write_file(mount / "f", b"x")
    place = temp("place")
    os.mkdir(place)
    os.symlink(mount / "f", os.path.join(place, "link"))
    lock = f"n:2/{os.stat(mount / 'f').st_ino:x} "
    with Volume(size="64M").mount():
        for words in (["dump", "link"], ["break", "-t", "0.1", "link", "XX->UN"]):
            done = subprocess.run([glockctl_program(), *words], cwd=place, capture_output=True, text=True, check=False)
            check(lock in done.stdout or "XX->UN:" in done.stderr, f"{words}: {done.stdout}{done.stderr}")
    for words in (["-m", mount.dir, "get"], ["mounts"]):
        done = subprocess.run([glockctl_program(), *words], user=65534, group=65534, extra_groups=[], env={}, cwd="/", capture_output=True, text=True, check=False)
        equal((done.returncode, done.stdout), (1, ""), f"{words} by somebody else")
        check(len(done.stderr.splitlines()) == 1 and "Permission denied" in done.stderr, f"{words} by somebody else: {done.stderr}")


@on_mount
def case_full(mount):
    """When all places for clients are taken: who has them is told, and how to be rid of him."""
    code = "import socket, sys\nall = []\nfor _ in range(32):\n    all.append(socket.socket(socket.AF_UNIX))\n    all[-1].connect(sys.argv[1])\n    all[-1].recv(1)\nprint()\nsys.stdin.read()\n"
    with subprocess.Popen([sys.executable, "-c", code, mount.control], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as crowd:
        crowd.stdout.readline()
        for words in (["dump"], ["repl"]):
            done = subprocess.run([glockctl_program(), "-m", mount.dir, *words], input="", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            check(done.returncode == 1 and f"of pid {crowd.pid} [" in done.stdout, f"{words}: {done.stdout}")
        equal(mount.glockctl("breaks").stdout, "", "breaks")
        mount.glockctl("disconnect", crowd.pid)
        wait_for(lambda: glockctl("-m", mount.dir, "dump").returncode == 0, "room")
        crowd.stdin.close()


@on_mount
def case_disconnect(mount):
    """Another client's breakpoints and locks: whose they are, and how to be rid of them, though it runs."""
    write_file(mount / "f", b"x" * 5000, sync=True)
    write_file(mount / "g", b"x", sync=True)
    name = f"inode:{os.stat(mount / 'f').st_ino}"
    script = ("import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nf = s.makefile('r')\nf.readline()\n"
              "for words in sys.argv[2:]:\n    s.sendall(words.encode() + b'\\n')\n    while (line := f.readline())[0] == ' ':\n        pass\n"
              "    print(line, end='', flush=True)\nsys.stdin.read()\n")
    other = subprocess.Popen([sys.executable, "-c", script, mount.control, f"hold {name} EX", "break any EX->UN"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    try:
        equal([other.stdout.readline() for _ in range(2)], ["ok\n"] * 2, "what it is told")
        toucher = subprocess.Popen(["touch", "-c", mount / "f"])
        demote = subprocess.Popen([glockctl_program(), "-s", mount.control, "demote", mount / "g", "UN", "60"], stdout=subprocess.DEVNULL)
        wait_for(lambda: "EX -> UN" in mount.glockctl("stops").stdout, "the stop")
        for command in ("breaks", "stops", "holds"):
            check(f" client {other.pid} [" in mount.glockctl(command).stdout, f"{command}: {mount.glockctl(command).stdout}")
            equal([one["client"] for one in mount.glockctl(command, json_lines=True)], [other.pid], command)
        # Only whose stop it is can go on with it, as with a debugger: everybody else is told how to be rid of it.
        for words in (["continue"], ["continue", "1"], ["step"], ["step", "1"]):
            said = subprocess.run([glockctl_program(), "-s", mount.control, "repl"], input=" ".join(words) + "\n", stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=STEP_SECONDS, check=False)
            equal(said.returncode, 1, f"{words}: {said.stdout}")
            check(f"`disconnect {other.pid}`" in said.stdout, f"{words}: {said.stdout}")
        check("EX -> UN" in mount.glockctl("stops").stdout, "the stop is still there")
        equal(toucher.poll(), None, "who wants the lock that is held")
        mount.glockctl("disconnect", other.pid)
        equal((toucher.wait(STEP_SECONDS), demote.wait(STEP_SECONDS)), (0, 0), "who was stopped and who waited")
        for command in ("breaks", "stops", "holds"):
            wait_for(lambda command=command: mount.glockctl(command).stdout == "", f"the end of its {command}")
        equal(other.poll(), None, "the other client")
        check("no other client" in mount.glockctl("disconnect", other.pid, ok=(1,)).stdout, "once more")
        for words in (["disconnect"], ["disconnect", "0"], ["disconnect", "x"], ["disconnect", "1", "2"]):
            mount.glockctl(*words, ok=(2,))
    finally:
        other.kill()
        other.wait()


@on_mount
def case_bash(mount):
    """Completion for the shell: what it offers behind some words."""
    script = os.path.join(ROOT, "tools", "ctl", "glockctl.bash")
    write_file(mount / "f", b"x")
    lock = f"2/{os.stat(mount / 'f').st_ino:x}"
    ask = ('PATH=$(dirname "$1"):$PATH; . "$2"; shift 2; COMP_WORDS=(glockctl "$@"); COMP_CWORD=$#; _glockctl; printf "%s\\n" "${COMPREPLY[@]}"')
    for words, wanted in ((["expl"], ["explain"]), (["help", "fini"], ["finish"]), (["set", "short_dio", "p"], ["precheck"]),
                          (["trace", "-e", "dlm_b"], ["dlm_bast"]), (["break", "dio", "h"], ["hole"]), (["break", "any", "EX"], ["EX->UN", "EX->SH", "EX->DF"]),
                          (["-m", mount.dir, "dump", lock], [lock]), (["-m", mount.dir, "hold", lock, "D"], ["DF"]), (["top", "-k", "w"], ["waiters"]),
                          (["-m", mount.dir[:-1]], [mount.dir]), (["trace", "-e", "glock_state,dlm_a"], ["glock_state,dlm_ast"]),
                          (["set", "-s", "short"], ["short_dio"])):
        got = run(["bash", "-c", ask, "bash", glockctl_program(), script, *words]).stdout.split()
        check(set(wanted) <= set(got) and (len(got) <= len(wanted) or words[0] == "-m"), f"behind {words}: {got}")
        # No directory that is none of a mount, while a mount fits.
        check(words[0] != "-m" or len(words) > 2 or all(os.path.ismount(one) for one in got), f"behind {words}: {got}")


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


def case_map_of_a_kept_lock():
    """Some locks the daemon keeps for good: who asks for the map of one in vain can be killed, or see the unmount, and nothing stays behind."""
    need_fuse()
    volume = Volume(size="128M")
    mount = volume.mount()
    locks = re.findall(r"^G:.* n:(2/[0-9a-f]+) .*\n H: .*open_journal$", mount.glockctl("dump").stdout, re.M)
    name = locks[0]
    mount.glockctl("demote", name, "UN", "0", ok=(1,))

    def waiters():
        return mount.glockctl("dump", name).stdout.count("W e:0")
    clients = [subprocess.Popen([glockctl_program(), "-m", mount.dir, "map", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
               for _ in range(3)]
    wait_for(lambda: waiters() == 3, "three that wait")
    for client in clients[:2]:
        client.kill()
        client.wait()
    wait_for(lambda: waiters() == 1, "those who were killed to wait no more")
    mount.umount()
    equal(clients[2].wait(), 1, "exit status of the one that is left when the mount ends")
    volume.fsck()


@on_mount
def case_get_set(mount):
    names = {line.split("=")[0].split()[0] for line in mount.glockctl("get").stdout.splitlines() if line.strip()}
    for name in ("short_dio", "dio_mtime", "dio_mtime_interval", "commit", "min_hold"):
        check(name in names, f"get does not list {name}: {sorted(names)}")
    for value in ("async", "fail", "precheck", "blockdev", "drain"):
        mount.glockctl("set", "short_dio", value)
        check(value in mount.glockctl("get", "short_dio").stdout, f"short_dio is not {value}")
    write_file(mount / "f", b"x")
    for value, jiffies in (("200", 50), ("0", 0), ("60000", 15000), ("auto", None)):
        mount.glockctl("set", "min_hold", value)
        equal(mount.glockctl("get", "min_hold").stdout.split()[-1], value, "min_hold")
        shown = re.findall(r" m:(\d+) ", mount.glockctl("dump", mount / "f").stdout)[0]
        check(jiffies is None or int(shown) == jiffies, f"the dump says {shown} for {value} ms")
    for value in ("x", "-1", "60001", "1.5", "auto2"):
        mount.glockctl("set", "min_hold", value, ok=(1,))
    equal(mount.glockctl("get", "min_hold").stdout.split()[-1], "auto", "min_hold after what was refused")
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
                # Not even asked: their sockets' names are other mounts'.
                equal(len(peers), 0, f"others that {words} has asked")
            done = run([glockctl_program(), "mounts"], ok=None, env=env)
            sockets = [line.strip() for line in done.stdout.splitlines() if line.startswith("  /")]
            check(any(name.endswith(os.path.basename(mount.dir) + ".sock") for name in sockets), f"mounts: {done.stdout}")
            equal(sockets, sorted(sockets), "the order of mounts")
            check(peers, "mounts asks all")
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
