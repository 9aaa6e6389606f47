#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: recordings of locks: record, show, and the timeline as a picture and for a trace viewer
# timeout: 120
# variants: plain asan
import json
import os
import re
import subprocess
import sys
import types
import xml.etree.ElementTree as ElementTree

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"


def glockctl(*words, ok=0):
    """Without a mount: what it prints."""
    done = subprocess.run([glockctl_program(), *words], capture_output=True, text=True)
    equal(done.returncode, ok, f"exit status of glockctl {words}: {done.stderr}")
    return done


class Recorder:
    """`glockctl record` from the moment the context is entered until it is left."""

    def __init__(self, mount, path, *options):
        self.mount, self.path, self.options = mount, path, options

    def __enter__(self):
        self.process = subprocess.Popen([glockctl_program(), "-m", self.mount.dir, "record", self.path, *self.options],
                                        stderr=subprocess.PIPE, text=True)
        # It has begun when it has recorded something that was done since: a change of state, so that the directory is in the picture, too,
        # also when the recording begins in the middle of what _do() makes.
        wait_for(lambda: self._told() or self._do(), "the recording's begin")
        return self

    def _do(self):
        """What makes some events."""
        check(self.process.poll() is None, "record has ended by itself")
        self.mount.glockctl("demote", self.mount.dir, "UN")
        os.listdir(self.mount.dir)

    def _told(self):
        return os.path.exists(self.path) and any(e["event"] == "glock_state" for e in events(self.path))

    def await_event(self, **what):
        wait_for(lambda: any(what.items() <= e.items() for e in events(self.path)), f"the event {what}")

    def __exit__(self, *_what):
        self.process.send_signal(signal.SIGINT)
        self.said = self.process.communicate()[1]
        equal(self.process.returncode, 0, f"exit status of record: {self.said}")


def events(path):
    return [json.loads(line) for line in open(path).read().split("\n")[1:-1]]


def slow_write(mount, path):
    """Record a direct write from data into a hole that a breakpoint holds at the hole; its inode and process."""
    write_file(mount / "f", b"A" * 65536, sync=True)
    os.truncate(mount / "f", 1 << 20)
    inode = os.stat(mount / "f").st_ino
    glock = f"2/{inode:x}"
    code = ("import mmap, os, sys\nbuf = mmap.mmap(-1, 65536)\nfd = os.open(sys.argv[1], os.O_WRONLY | os.O_DIRECT)\n"
            "sys.exit(os.pwrite(fd, buf, 32768) != 65536)\n")
    with Recorder(mount, path) as recorder:
        mount.glockctl("demote", f"inode:{inode}", "UN")
        breaker = subprocess.Popen([glockctl_program(), "-m", mount.dir, "break", "-t", "0.3", "dio", "hole", f"inode:{inode}"],
                                   stdout=subprocess.PIPE, text=True)
        equal(breaker.stdout.readline(), "break 1\n", "answer of break")
        writer = subprocess.Popen([sys.executable, "-c", code, mount / "f"])
        equal(writer.wait(), 0, "exit status of the write")
        recorder.await_event(event="dio_end", glock=glock)
        breaker.send_signal(signal.SIGINT)
        breaker.communicate()
    check(recorder.said.startswith(f"{len(events(path))} events"), f"record said {recorder.said}")
    return inode, writer.pid


def case_slow_reader():
    """A recorder that stands still: the mount goes on, and what was made meanwhile is missing with a count."""
    need_fuse()
    volume = Volume()
    path = temp("slow")
    with volume.mount() as mount:
        write_file(mount / "f", bytes(1 << 20), sync=True)
        fd = os.open(mount / "f", os.O_WRONLY | os.O_DIRECT)
        with Recorder(mount, path) as recorder, Aligned(b"x" * 4096) as data:
            recorder.process.send_signal(signal.SIGSTOP)
            # Six events each; the ring has 32768, and what is sent waits in the socket.
            for number in range(20000):
                equal(os.pwrite(fd, data, number % 256 * 4096), 4096, "bytes written")
            recorder.process.send_signal(signal.SIGCONT)
            # By what comes after the gap it is known.
            wait_for(lambda: recorder._do() or '{"gap":' in open(path).read(), "the recorder to go on")
        os.close(fd)
    told, seqs = re.fullmatch(r"(\d+) events, (\d+) more were missed\n", recorder.said), [e["seq"] for e in events(path) if "event" in e]
    check(told, f"record said {recorder.said}")
    equal((int(told[1]), int(told[1]) + int(told[2])), (len(seqs), seqs[-1] - seqs[0] + 1), "events, and with those that were missed")
    volume.fsck()


def microseconds(number):
    """A time in nanoseconds, as importers read it that go by its digits, and such that go by a floating point number: the same for all."""
    whole, _, part = number.partition(".")
    value = int(whole) * 1000 + int((part + "000")[:3])
    equal({round(float(number) * 1000), value}, {value}, f"nanoseconds of {number}")
    return value


def nested(events):
    """To the nanosecond: each slice ends before the one that it began in."""
    stacks = {}
    for e in events:
        if e["ph"] != "X":
            continue
        begin, end = microseconds(e["ts"]), microseconds(e["ts"]) + microseconds(e["dur"])
        stack = stacks.setdefault((e["pid"], e["tid"]), [])
        while stack and stack[-1] <= begin:
            stack.pop()
        check(not stack or end <= stack[-1], f"not nested: {e}")
        stack.append(end)


def slices(text):
    """
    The trace viewer's format, judged by what Perfetto's importers demand of each event, the older ones included: phases and their members,
    processes, threads and their names, instants' scopes, order, times, nesting on each thread; no flows and no asynchronous slices, which would need more.
    """
    whole = json.loads(text)
    equal(set(whole), {"otherData", "traceEvents"}, "members of the whole")      # displayTimeUnit is the times' unit to some
    all_events = whole["traceEvents"]
    equal({e["ph"] for e in all_events} - {"M", "X", "i"}, set(), "other kinds of events")
    homes = {}
    processes = {e["pid"] for e in all_events}
    members = {"M": set(), "X": {"ts", "dur"}, "i": {"ts", "s"}}
    for e, raw in zip(all_events, text[text.index("traceEvents") + 15:].split("\n")):
        equal(set(e), {"ph", "name", "pid", "tid", "args"} | members[e["ph"]], f"members of {e}")
        # An event is found by its braces, and what an importer looks for in it comes before its args.
        check(raw.startswith("{") and "\\" not in raw.partition(',"args":')[0], f"escapes outside of args: {raw}")
        # A thread with a process's number is that one's main thread.
        check(e["tid"] == e["pid"] or e["tid"] not in processes, f"the main thread of another process: {e}")
        check(isinstance(e["name"], str) and e["name"] and isinstance(e["args"], dict), f"without a name: {e}")
        # 0 is the idle process; a thread is in one process.
        check(all(isinstance(e[key], int) and 0 < e[key] < 1 << 31 for key in ("pid", "tid")) and e["pid"] > 0, f"numbers: {e}")
        if e["tid"] != e["pid"]:
            equal(homes.setdefault(e["tid"], e["pid"]), e["pid"], f"the process of thread {e['tid']}")
        if e["ph"] == "M":
            check(e["name"] in ("process_name", "thread_name", "thread_sort_index"), f"metadata: {e}")
            check(isinstance(e["args"].get("name"), str) or isinstance(e["args"].get("sort_index"), int), f"metadata without its value: {e}")
        else:
            check(isinstance(e["ts"], (int, float)) and e["ts"] >= 0, f"time: {e}")
            check(e["ph"] != "X" or (e["tid"] != e["pid"] and isinstance(e["dur"], (int, float))), f"slice: {e}")
            check(e["ph"] != "i" or e["s"] == ("t" if e["tid"] != e["pid"] else "p"), f"the scope of an instant: {e}")
    named = {e["pid"] for e in all_events if e["name"] == "process_name"}
    equal({e["pid"] for e in all_events} - named, set(), "processes without a name")
    nested([e for e in json.loads(text, parse_float=str, parse_int=lambda n: n)["traceEvents"]])
    timed = [e for e in all_events if e["ph"] != "M"]
    equal([e["ts"] for e in timed], sorted(e["ts"] for e in timed), "the order")
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in all_events if e["name"] == "thread_name"}
    stacks = {}
    for e in timed:
        if e["ph"] == "X":
            check(e["ts"] >= 0 and e["dur"] >= 0, f"negative: {e}")
            check((e["pid"], e["tid"]) in names, f"a thread without a name: {e}")
            stack = stacks.setdefault((e["pid"], e["tid"]), [])
            while stack and stack[-1] <= e["ts"] + 1e-4:
                stack.pop()
            check(not stack or e["ts"] + e["dur"] <= stack[-1] + 1e-3, f"not nested: {e}")
            stack.append(e["ts"] + e["dur"])
    return [dict(e, thread=names.get((e["pid"], e["tid"]))) for e in timed], all_events


def picture(text):
    """The texts, and the tooltips by class."""
    root = ElementTree.fromstring(text)
    titles = {}
    for element in root.iter():
        title = element.find(SVG + "title")
        if title is not None:
            titles.setdefault(element.get("class"), []).append(title.text)
        for key in ("width", "height"):
            check(not element.get(key) or element.get(key) == "100%" or float(element.get(key)) >= 0, f"negative: {element.attrib}")
    return [t.text for t in root.iter(SVG + "text")], titles, root


def case_timeline():
    """A write that runs into a hole, stopped there: all of it is in the recording, the text, the picture and the trace."""
    need_fuse()
    volume = Volume(size="128M")
    first, second = temp("first"), temp("second")
    with volume.mount() as mount:
        inode, pid = slow_write(mount, first)
        mount.glockctl("record", second, "-s", "0", "-t", "0")
        everything = mount.glockctl("trace", "-s", "0", "-t", "0").stdout.splitlines()
        refused = mount.glockctl("record", mount / "self", "-t", "0", ok=(1,)).stdout
        check("is on the mount that is recorded" in refused, f"said: {refused}")
        mount.glockctl("record", temp("none"), "-x", ok=(2,))
        mount.glockctl("record", ok=(2,))
    volume.fsck()

    # The text: word for word the daemon's.
    shown = glockctl("show", second).stdout.splitlines()
    equal(shown, everything[:len(shown)], "what show prints")
    equal(len(shown), len(events(second)), "how many events are shown")
    part = glockctl("show", first).stdout.splitlines()
    check(len(part) > 20 and part == [line for line in shown if line in set(part)], "the first recording is no part of the second")
    equal(glockctl("show", "--json", first).stdout, open(first).read(), "show --json")

    texts, titles, root = picture(glockctl("timeline", first).stdout)
    for want in (f"2/{inode:x} inode:{inode}", "EX exclusive", "DF deferred (direct I/O)", "waits for the lock", "stopped at a breakpoint"):
        check(want in texts, f"{want!r} is not in the picture: {texts}")
    check({"state EX", "state UN", "state DF", "dio direct", "dio drain", "dio upgrade", "dio buffered", "dio_hole", "dio_submit", "break",
           "wait", "held"} <= set(titles), f"the picture has only {sorted(map(str, titles))}")
    check(any(f"pid {pid}, req " in t and "direct" in t for t in titles["dio direct"]), f"direct I/O: {titles['dio direct']}")
    check(any("dio hole" in t and "let go: timeout" in t for t in titles["break"]), f"breakpoints: {titles['break']}")
    lanes = [g for g in root.iter(SVG + "g") if g.get("class") == "lane"]
    only = picture(glockctl("timeline", "-g", f"inode:{inode}", "--linear", first).stdout)[2]
    equal((len([g for g in only.iter(SVG + "g") if g.get("class") == "lane"]), len(lanes) > 1), (1, True), "lanes")

    trace, _all = slices(glockctl("timeline", "--json", first).stdout)
    mine = [e for e in trace if e["thread"] and e["thread"].startswith(f"2/{inode:x} ")]
    write = next(e for e in mine if e["name"] == "direct I/O" and f"pid {pid}," in e["args"]["what"])
    stop = next(e for e in mine if e["name"] == "breakpoint")
    check(200e3 <= stop["dur"] <= write["dur"], f"the stop is not within the write: {stop} {write}")
    phases = [e["name"] for e in mine if e["thread"] == write["thread"] and write["ts"] <= e["ts"] <= write["ts"] + write["dur"]]
    wanted = [p for p in phases if p in ("drain", "upgrade", "buffered")]
    equal(wanted, ["drain", "upgrade", "buffered"], "phases")
    begin = next(e for e in events(first) if e["event"] == "dio_begin" and e["pid"] == pid)
    end = next(e for e in events(first) if e["event"] == "dio_end" and e["req"] == begin["req"])
    equal(round(write["dur"] * 1000), end["t_ns"] - begin["t_ns"], "how long the write took")
    states = [e for e in mine if e["name"] in ("UN", "EX", "DF", "SH")]
    for a, b in zip(states, states[1:]):
        equal(round((a["ts"] + a["dur"] - b["ts"]) * 1000), 0, "time between two states")

    # The same events twice are there once.
    both = glockctl("timeline", "--json", first, second).stdout
    equal(both, glockctl("timeline", "--json", second).stdout, "a recording and a part of it")
    out = temp("out")
    glockctl("timeline", first, "-o", out)
    equal(open(out).read(), glockctl("timeline", first).stdout, "-o")


def case_two_nodes():
    """Recordings of two nodes, one of them with a gap, are merged on one clock."""
    paths = []
    for node in (1, 2):
        paths.append(temp(f"node{node}"))
        base = 1_700_000_000_000_000_000 + node * 1000
        def event(seq, name, **more):
            return {"event": name, "seq": seq, "t_ns": base + seq * 10_000, "node": node, "pid": 7, "req": 9, "glock": "2/10", **more}
        lines = [{"recording": 1, "filter": False, "mountpoint": "/mnt/<&>\udcff", "node": node, "pid": node}, event(1, "glock_queue", to="EX"),
                 event(2, "glock_state", **{"from": "UN", "to": "EX"}, reason="granted"), {"gap": 3, "seq": 6},
                 event(6, "glock_promote", to="EX"), event(7, "glock_dequeue", to="EX"), event(8, "break_hit", reason="\x1b<x>")]
        with open(paths[-1], "w") as f:
            f.writelines(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    text = glockctl("timeline", *paths).stdout
    texts, titles, _root = picture(text)
    check(any(t.startswith("node 1 /mnt/<&>") for t in texts) and any(t.startswith("node 2 ") for t in texts), f"names: {texts}")
    equal(titles["wait"], ["holder EX, pid 7, req 9: waited 50 µs, held 10 µs"] * 2, "who waited")
    check(titles["break"][0].startswith("breakpoint: ?<x>") and titles["break"][0].endswith(" and on"), f"open: {titles['break']}")
    check("3 missed" in texts, f"the gap is not shown: {texts}")
    trace, _all = slices(glockctl("timeline", "--json", *paths).stdout)
    equal([(e["pid"], round(e["ts"] * 1000)) for e in trace if e["name"] == "EX"], [(2, 10_000), (3, 11_000)], "when they changed")
    equal(glockctl("show", paths[0]).stdout.splitlines()[1:3],
          ["1700000000.000021 pid 7: gfs2_glock_state_change: glock 2:16 state NL to EX granted req:9", "-- 3 events were missed"],
          "what show prints")


LOCKER = """
import fcntl, os, sys
take = {"flock": lambda fd: fcntl.flock(fd, fcntl.LOCK_EX), "fcntl": lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX)}[sys.argv[1]]
fds = [os.open(path, os.O_RDWR) for path in sys.argv[2:]]
take(fds[0])
print("has one", flush=True)
sys.stdin.readline()
take(fds[1])
"""


def deadlock(kind, mounts, names):
    """A process of each node has a lock that the other one's waits for: both are named, and that it is a circle."""
    paths = [mounts[0] / name for name in names]
    for path in paths:
        write_file(path, b"x", sync=True)
    inodes = [os.stat(path).st_ino for path in paths]
    lockers = [subprocess.Popen([sys.executable, "-c", LOCKER, kind, mount / first, mount / second], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
               for mount, first, second in ((mounts[0], *names), (mounts[1], *reversed(names)))]
    try:
        for locker in lockers:
            equal(locker.stdout.readline(), "has one\n", "the first lock")
        for locker in lockers:
            locker.stdin.write("\n")
            locker.stdin.flush()
        text = wait_for(lambda: (lambda said: said if said.count("a DEADLOCK") == 2 else None)(mounts[0].glockctl("explain").stdout),
                        "the circle, from either end", pause=0.1)
        for locker, node, inode in zip(lockers, mounts, reversed(inodes)):
            what = "flock" if kind == "flock" else "fcntl locks"
            check(re.search(rf"^pid {locker.pid} \[python3?[.0-9]*\] waits on {re.escape(node.dir)} for EX of glock [67]/{inode:x} \({what} of inode:{inode}\)", text, re.M),
                  f"who waits: {text}")
            check(f"pid {locker.pid} [" in text.replace(f"pid {locker.pid} [", "", 1) and "holds it there in EX" in text, f"who holds: {text}")
    finally:
        for locker in lockers:
            locker.kill()
            locker.communicate()


def case_explain():
    """Who waited for whom, across nodes: asked of the nodes, and long afterwards of what was recorded."""
    need_fuse()
    volume = Volume(size="256M", journals=2, proto="lock_dlm", table="who:waits")
    options = ("lockproto=lock_local",)
    # Another volume of the same name, with the same inodes, is none of their business.
    other = Volume(size="256M", journals=2, proto="lock_dlm", table="who:waits")
    with volume.mount(*options) as one, volume.mount(*options) as two, other.mount(*options) as third:
        write_file(third / "f", b"x" * 5000, sync=True)
        listed = glockctl("mounts").stdout.splitlines()
        controls = [next(listed[at + 1].strip() for at, line in enumerate(listed) if line.startswith(mount.dir + " ")) for mount in (one, two)]
        write_file(one / "f", b"x" * 5000, sync=True)
        inode = os.stat(one / "f").st_ino
        with open(one / "f", "r+b") as file:
            file.write(b"y")
        holder = Control(types.SimpleNamespace(options=("control=" + controls[0],)))
        paths = [temp("one"), temp("two")]
        with Recorder(one, paths[0], "-s", "0") as first, Recorder(two, paths[1], "-s", "0") as second:
            holder("break", f"inode:{inode}", "EX->*")
            reader = subprocess.Popen(["cat", two / "f"], stdout=subprocess.DEVNULL)
            holder("wait", "60")
            first.await_event(event="break_hit")
            second.await_event(event="glock_queue", pid=reader.pid, glock=f"2/{inode:x}")
            live = glockctl("-s", controls[0], "-s", controls[1], "explain").stdout
            # The other mounts of this machine are asked without being named.
            for mount in (one, two):
                equal(glockctl("-m", mount.dir, "explain").stdout.split("held for")[0], live.split("held for")[0], "explain of one mount")
            # From afar: whatever ssh is, it runs words on a host.
            tools = temp("bin")
            os.mkdir(tools)
            with open(os.path.join(tools, "ssh"), "w") as script:
                script.write(f"#!/bin/sh\necho \"$@\" >>{tools}/asked\nshift\nexec \"$@\"\n")
            os.chmod(os.path.join(tools, "ssh"), 0o755)
            env = dict(os.environ, PATH=os.pathsep.join((tools, os.path.dirname(glockctl_program()), os.environ["PATH"])))
            far = [f"ssh:there:{mount.dir}" for mount in (one, two)]
            afar = run([glockctl_program(), "-s", far[0], "-s", far[1], "explain"], env=env).stdout
            for source, mount in zip(far, (one, two)):
                afar = afar.replace(source, mount.dir)
            equal(afar.split("held for")[0], live.split("held for")[0], "explain by ssh")
            equal(len(open(os.path.join(tools, "asked")).readlines()), 6, "questions")
        holder("continue")
        equal(reader.wait(), 0, "exit status of cat")
        holder.close()
        equal(glockctl("timeline", paths[0], "-g", one / "f").stdout, glockctl("timeline", paths[0], "-g", f"inode:{inode}").stdout, "a lock by a path")
        for kind in ("flock", "fcntl"):
            deadlock(kind, (one, two), (kind + "1", kind + "2"))
        # A cluster of ours: asked through the tool that has made it, wherever that is.
        with open(os.path.join(tools, "cluster"), "w") as script:
            script.write("#!/bin/sh\necho \"$@\" >>%s/ran\n[ $1 = run ] && shift 2 && shift && exec %s -s %s \"$@\"\n" % (tools, glockctl_program(), controls[0]))
        os.chmod(os.path.join(tools, "cluster"), 0o755)
        env = dict(os.environ, GFS2_FUSE_CLUSTER=os.path.join(tools, "cluster"))
        check("nobody waits" in run([glockctl_program(), "-s", "cluster:1", "explain"], env=env, cwd="/").stdout, "a cluster's node")
        equal(open(os.path.join(tools, "ran")).read().splitlines(), [f"run 1 glockctl {words}" for words in ("dump", "holds all", "stops all")], "what was run")
        # One source that is a socket: paths work.
        check("nobody waits" in glockctl("-s", controls[1], "explain", two / "f").stdout, "after it")
        where = [json.loads(line) for line in glockctl("-s", controls[0], "--json", "where", one / "f").stdout.splitlines()]
        equal([lock["glock"].split("/")[0] for lock in where], ["2", "5", "3"], "where --json")
    volume.fsck()
    then = glockctl("-s", paths[0], "-s", paths[1], "explain").stdout
    for text, node in ((live, one.dir), (then, paths[0])):
        lines = text.splitlines()
        waits = [line for line in lines if f"waits on" in line and f"for SH of glock 2/{inode:x} (inode:{inode})" in line]
        # A recording does not know names.
        check(waits and f"pid {reader.pid} {'waits' if text == then else '[cat] waits'} on" in waits[0], f"who waits: {text}")
        check("[]" not in text and "?" not in text and text.count("a breakpoint holds it") == 1, f"what is not known: {text}")
        check(any(line.strip().startswith(f"node {node} has it in EX, and has been asked to let go") for line in lines), f"for whom: {text}")
        check(any("a breakpoint holds it: stop" in line for line in lines), f"why: {text}")
    told = [json.loads(line) for line in glockctl("-s", paths[0], "-s", paths[1], "--json", "explain").stdout.splitlines()]
    equal(["  " * one["depth"] + one["text"] for one in told], then.splitlines(), "explain --json")
    equal(glockctl("-s", paths[0], "-s", paths[1], "explain", f"inode:{inode}").stdout, then, "of that lock alone")
    check(f"pid {reader.pid} " not in glockctl("-s", paths[0], "-s", paths[1], "explain", "-t", "0").stdout, "it waits before it was there")
    check("none of the sources" in glockctl("-s", controls[0], "explain", "-t", "1", ok=1).stderr, "-t without a recording")
    glockctl("-s", paths[0], "explain", "-t", "x", ok=2)
    check("not a recording" in glockctl("-s", __file__, "explain", ok=1).stderr, "a file that is none")
    for odd in ("ssh:a;b", "ssh:", "ssh:-oProxyCommand=x", "ssh:a:b", "ssh:a:/b;c", "ssh:a:/$(b)", "cluster:1:/mnt", "cluster:a b"):
        check("no such node" in glockctl("-s", odd, "explain", ok=2).stderr, f"{odd}: a name for the shell")


def case_bad_files():
    """What is no recording is refused with a reason; nothing else happens, whatever it is."""
    good = (b'{"recording":1,"filter":false,"mountpoint":"/m","node":1,"pid":2}\n'
            b'{"event":"glock_state","seq":1,"t_ns":5,"node":1,"glock":"2/1","from":"UN","to":"EX"}\n')
    bad = {"is empty": b"", "is not a recording": b"hello\n", "is not a recording ": b"{}\n", "is not a recording made": os.urandom(3000),
           "format 2": good.replace(b'"recording":1', b'"recording":2'), "line 2 is cut off or": good[:-9] + b"\n" + good,
           "line 3 is cut off or damaged": good + b"\0\0\0\n", "line 3 is not an event": good + b"{...}\n",
           "line 3 is not an": good + b'{"event":"x","seq":2,"t_ns":-1}\n', "line 3 is cut ": good + b"{" + b"x" * 100000 + b"}\n"}
    path = temp("bad")
    for reason, data in bad.items():
        with open(path, "wb") as f:
            f.write(data)
        for words in (("show", path), ("timeline", path), ("timeline", "--json", path)):
            done = glockctl(*words, ok=1)
            check(reason in done.stderr, f"{words}: said {done.stderr!r} and not {reason!r}")
    # Whoever wrote it was killed, or there was no space: what is before the last line is good.
    for cut in (1, 9, 70):
        with open(path, "wb") as f:
            f.write(good + good[good.index(b"\n") + 1:-cut])
        shown, drawn = glockctl("show", path), glockctl("timeline", path)
        check(shown.stdout.count("\n") == 1 and "state UN" not in shown.stdout and "NL to EX" in shown.stdout, f"show: {shown.stdout!r}")
        for done in (shown, drawn, glockctl("-s", path, "explain")):
            check("line 3, the last one, is cut off" in done.stderr, f"cut by {cut}: said {done.stderr!r}")
        picture(drawn.stdout)
    with open(path, "wb") as f:
        f.write(good[:good.index(b"\n") + 1])
    check("there are no events" in glockctl("timeline", path, ok=1).stderr, "a recording without events")
    equal(glockctl("show", path).stdout, "", "show of a recording without events")
    with open(path, "wb") as f:
        f.write(good)
    picture(glockctl("timeline", path).stdout)
    os.link(path, path + ".same")
    for same in (path, path + ".same"):
        check("would be overwritten" in glockctl("timeline", path, "-o", same, ok=1).stderr, "the recording as the picture's file")
    os.unlink(path + ".same")
    equal(read_file(path), good, "the recording")
    check("x: No such file" in glockctl("timeline", path, "-g", "x", ok=1).stderr, "-g of a path that is not there")
    check("no mount that was recorded" in glockctl("timeline", path, "-g", "/", ok=1).stderr, "-g of a path elsewhere")
    check("nothing was recorded of that lock" in glockctl("timeline", path, "-g", "2/2", ok=1).stderr, "-g of nothing")
    check("No such file" in glockctl("show", path + ".not", ok=1).stderr, "no file")
    for words in (("show",), ("timeline",), ("timeline", path, "-o"), ("timeline", path, "--frob")):
        glockctl(*words, ok=2)
    # Bytes that change anywhere: an answer, never a crash.
    rnd = random.Random(SEED)
    for _ in range(60):
        data = bytearray(good)
        for _change in range(rnd.randint(1, 4)):
            data[rnd.randrange(len(data))] = rnd.choice(b'09-"{}:,\\u\n\xff\0')
        with open(path, "wb") as f:
            f.write(data)
        for words in (("show", path), ("timeline", path), ("timeline", "--json", path)):
            status = subprocess.run([glockctl_program(), *words], capture_output=True).returncode
            check(status in (0, 1), f"glockctl {words} ended with {status} (seed {SEED}): {bytes(data)}")


if __name__ == "__main__":
    main()
