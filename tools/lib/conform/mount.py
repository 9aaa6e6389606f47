# SPDX-License-Identifier: GPL-2.0-or-later
"""A volume of ours, mounted for scenarios: steps are run on it, its events read, its blocks looked at."""
import json
import os
import socket
import subprocess
import time

BLOCK = 4096
WAIT_SECONDS = 60
OUTCOMES = {"hole": "HOLE", "mapped": "MAPPED", "inline": "INLINE"}


class Broken(Exception):
    """Something that must work did not: this is no difference but a failure."""


def run(argv):
    done = subprocess.run([str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=WAIT_SECONDS * 4, check=False)
    if done.returncode:
        raise Broken(f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


class Control:
    """The daemon's control socket (include/gfs2-fuse/control.h)."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r", encoding="utf-8", errors="replace")
        self.lines.readline()

    def __call__(self, *words):
        self.socket.sendall((" ".join(words) + "\n").encode())
        out = []
        for line in self.lines:
            if line.startswith(" "):
                out.append(line[1:].rstrip("\n"))
            elif line.rstrip() == "ok":
                return out
            else:
                raise Broken(f"{' '.join(words)}: {line.strip()}")
        raise Broken("the daemon has closed its control socket")

    def close(self):
        self.lines.close()
        self.socket.close()


class Hands:
    """A process that does the steps: tests/progs/steps.c."""

    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer.startswith("= "):
            raise Broken(f"step {line}: no answer")
        return answer[2:].strip()

    def close(self):
        self.process.stdin.close()
        self.process.wait(WAIT_SECONDS)
        self.process.stdout.close()


class Volume:
    """One gfs2-fuse mount with lock_nolock, in a directory of its own."""

    def __init__(self, daemon, steps, where):
        self.daemon, self.steps, self.where = daemon, steps, where
        self.image, self.dir = f"{where}/volume.img", f"{where}/mnt"
        self.process = self.control = None
        with open(self.image, "wb") as image:
            image.truncate(1 << 30)
        run(["mkfs.gfs2", "-O", "-q", "-p", "lock_nolock", "-j", 1, "-J", 16, "-b", BLOCK, self.image])
        os.mkdir(self.dir)

    def start(self):
        path = f"{self.where}/control"
        with open(f"{self.where}/log", "wb") as log:
            self.process = subprocess.Popen(
                [self.daemon, "-f", "-o", f"control={path}", self.image, self.dir],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + WAIT_SECONDS
        while not (os.path.ismount(self.dir) and os.path.exists(path)):
            if self.process.poll() is not None or time.monotonic() > end:
                raise Broken("the daemon did not mount: " + self.log())
            time.sleep(0.005)
        os.statvfs(self.dir)
        self.control = Control(path)

    def log(self):
        with open(f"{self.where}/log", errors="replace") as text:
            return text.read()

    def stop(self):
        """Unmount, and let fsck.gfs2 judge."""
        if self.control:
            self.control.close()
            self.control = None
        run(["umount", self.dir])
        status = self.process.wait(WAIT_SECONDS)
        self.process = None
        if status:
            raise Broken(f"the daemon ended with {status}: {self.log()}")
        run(["fsck.gfs2", "-n", self.image])

    def drop(self):
        if self.control:
            self.control.close()
            self.control = None
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
        while os.path.ismount(self.dir) or subprocess.run(
                ["mountpoint", "-q", self.dir], check=False).returncode == 0:
            if subprocess.run(["umount", "-l", self.dir], stderr=subprocess.DEVNULL, check=False).returncode:
                break

    # -- events

    def next_event(self):
        """The number of the next event to come."""
        lines = self.control("trace", "-s", "0", "-t", "0")
        return json.loads(lines[-1])["seq"] + 1 if lines else 0

    def events(self, since):
        return [json.loads(line) for line in self.control("trace", "-s", str(since), "-t", "0")]

    # -- blocks

    def extents(self, inode):
        """(first, blocks, where) of what is mapped on disk."""
        return extents_of(self.control("map", "--json", f"inode:{inode}"))

    def content(self, inode, offset, length):
        """What the device holds for a range of a file, as runs; ~ is a hole."""
        return content_of(self.image, self.extents(inode), offset, length)


def extents_of(lines):
    """(first, blocks, where) of what is mapped on disk, from the answer to `map --json`."""
    rows = [json.loads(line) for line in lines[1:]]
    return [(row["lblock"], row["len"], row["pblock"]) for row in rows if row["map"] == "disk" and row["pblock"]]


def content_of(path, extents, offset, length):
    """What the device holds for a range of a file, as runs; ~ is a hole."""
    data = bytearray()
    with open(path, "rb") as image:
        at = offset
        while at < offset + length:
            size = min(BLOCK - at % BLOCK, offset + length - at)
            block = at // BLOCK
            where = next((p + block - first for first, blocks, p in extents
                          if first <= block < first + blocks), None)
            if where is None:
                data += b"~" * size
            else:
                image.seek(where * BLOCK + at % BLOCK)
                data += image.read(size)
            at += size
    return runs(data)


def runs(data):
    out, at = [], 0
    while at < len(data):
        end = at
        while end < len(data) and data[end] == data[at]:
            end += 1
        letter = chr(data[at]) if 33 <= data[at] < 127 else f"\\x{data[at]:02x}"
        out.append(f"{letter}*{end - at}")
        at = end
    return ",".join(out)


# -- events as a lock line

MODES = {"UN": "NL", "SH": "PR", "DF": "CW", "EX": "EX"}
WANTED = {"UN": "EX", "SH": "PR", "DF": "CW"}   # by another node, when a blocking callback leaves this state to us


def line_of(events, names, several=False, dlm=False, requests=None):
    """The words that a list of events makes; names: {"2/1f": "F"}, what to tell of which glock; dlm: the DLM's part, too; requests: a
    dictionary to keep what is known of direct requests from one list to the next.

    With several requests at a time the states come first: their order is that of time, and nobody's in particular.
    """
    out = []
    maps = []                   # what the map said lately, as (offset, word): told in the order of the file
    requests = {} if requests is None else requests
    # direct requests: read or write, and those with I/O under way
    kinds, moving = requests.setdefault("kinds", {}), requests.setdefault("moving", set())

    def moved(request):
        if request in moving:
            moving.discard(request)
            out.append("io:R" if kinds.get(request) == "read" else "io:W")

    first = [event for event in events if several and event["event"] == "glock_state"]
    rest = [event for event in events if not (several and event["event"] == "glock_state")]
    for event in first + by_request(rest):
        name = names.get(event.get("glock"))
        if name is None:
            continue
        if event["event"] not in ("map", "dio_submit"):
            out += [word for _, word in sorted(maps)]
            maps = []
        prefix = "" if name == "F" else name + ":"
        kind, request = event["event"], event.get("req")
        if kind == "glock_dequeue":
            moved(request)
            out.append(f"{prefix}-{event['to']}")
        elif kind in ("glock_queue", "glock_promote"):
            out.append(prefix + ("?" if kind == "glock_queue" else "+") + event["to"])
        elif kind == "glock_state":
            out.append(f"{prefix}[{event['from']}->{event['to']}]")
        elif kind == "dlm_lock" and dlm:
            out.append(f"{prefix}dlm({MODES[event['to']]} {event['flags']})")
        elif kind == "dlm_bast" and dlm:
            out.append(f"{prefix}bast({WANTED[event['to']]})")
        elif kind == "glock_demote_rq":
            out.append(f"{prefix}demote({event['from']}->{event['to']} {event.get('reason', '')})")
        elif kind == "dio_begin":
            kinds[request] = event["reason"]
        elif kind == "dio_submit":
            maps.append((event["off"], "map=MAPPED"))
            moving.add(request)
        elif kind == "dio_hole":
            out.append("map=HOLE,rc=-15")
        elif kind in ("dio_drain_end", "dio_end"):
            moved(request)
        elif kind == "map":
            maps.append((event["off"], "map=" + OUTCOMES[event["reason"]] +
                         (f",rc={event['rc']}" if event.get("rc") else "")))
        elif kind == "data_io":
            out.append("io:R" if event["reason"] == "read" else "io:W")
    return out + [word for _, word in sorted(maps)]


def by_request(events):
    """Events of requests that run at the same time, one request after the other.

    What a thread of the daemon's own does to a lock (its state changes) belongs to what happened to it last.
    """
    order, last = {}, {}
    for event in events:
        request = event.get("req") or last.get(event.get("glock"), "none")
        last[event.get("glock")] = request
        order.setdefault(request, []).append(event)
    return [event for group in order.values() for event in group]
