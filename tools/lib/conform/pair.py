# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenarios of two nodes, on lock_dlm: User-Mode Linux nodes with the real DLM (docs/uml.md), booted once for all of them.

A node has two processes of ours: the hands (tests/progs/steps.c) and a relay to the daemon's control socket. What happened in a step is
collected when both nodes are at rest: no lock of the scenario's is on its way, asked for, or held by a request.
"""
import json
import os
import sys
import time

import canon
import mount

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.path.insert(0, os.path.join(ROOT, "tools", "lib"))
import uml  # noqa: E402
from uml.monitor import TABLE  # noqa: E402

DIR = "/mnt/gfs2"
CONTROL = "/run/conform.control"
PAGE = 4096
# The last number of `prepare` and `hold`: not a scenario's.
SPARE, DIRECTORY = 15, 14
# How often a scenario is tried whose I/O must take longer than the nodes need for what comes meanwhile: four times as long each time.
ATTEMPTS = 4


class Talk:
    """Lines to a command in a node, and lines back."""

    def __init__(self, node, argv):
        self.what, self.command, self.lines = f"{argv[0]} of node {node.number}", node.spawn(argv), []

    def send(self, line):
        self.command.write((line + "\n").encode())

    def readline(self):
        end = time.monotonic() + mount.WAIT_SECONDS
        while not self.lines:
            if not self.command.pump(max(0, end - time.monotonic())) or time.monotonic() > end:
                raise mount.Broken(f"{self.what} is silent: {self.command.err.decode(errors='replace')}")
            data, newline, rest = bytes(self.command.out).rpartition(b"\n")
            if newline:
                self.lines = data.decode(errors="replace").split("\n")[::-1]
                self.command.out[:] = rest
        return self.lines.pop()

    def close(self):
        self.command.close()


class Node:
    def __init__(self, node, steps):
        self.number, self.node, self.program = node.number, node, steps
        self.relay = Talk(node, ["/usr/bin/python3", "-B", os.path.join(ROOT, "tools/lib/conform/relay.py"), CONTROL])
        self.relay.readline()
        self.hands = None

    def control(self, *words):
        self.relay.send(" ".join(words))
        out = []
        while True:
            line = self.relay.readline()
            if line.startswith(" "):
                out.append(line[1:])
            elif line == "ok":
                return out
            else:
                raise mount.Broken(f"node {self.number}: {' '.join(words)}: {line}")

    def begin(self, line):
        """A step; the answer is for answer()."""
        if not self.hands:
            self.hands = Talk(self.node, [self.program])
        self.hands.send(line)

    def answer(self):
        line = self.hands.readline()
        if not line.startswith("= "):
            raise mount.Broken(f"node {self.number}: {line}")
        return line[2:].strip()

    def drop_hands(self):
        if self.hands:
            self.hands.close()
            self.hands = None

    def next_event(self):
        lines = self.control("trace", "-s", "0", "-t", "0")
        return json.loads(lines[-1])["seq"] + 1 if lines else 0

    def events(self, since):
        return [json.loads(line) for line in self.control("trace", "-s", str(since), "-t", "0")]

    def restless(self, names):
        """What is going on with these locks ("2/1f"), as lines of the dump.

        An iopen lock has a holder as long as the inode is in core, whoever asks for it.
        """
        found = []
        for name in names:
            for line in self.dump(name):
                words = dict(word.split(":", 1) for word in line.split() if ":" in word)
                if line.startswith("G:"):
                    if set(words["f"]) & set("lDdp" if name.startswith("2/") else "lp"):
                        found.append(f"node {self.number}: {line}")
                elif line.startswith(" H:") and (name.startswith("2/") or "W" in words["f"]):
                    found.append(f"node {self.number}: {line}")
        return found

    def dump(self, name):
        """The lines about a lock; none if the node does not know it."""
        try:
            return self.control("dump", name)
        except mount.Broken as reason:
            if "ENOENT" in str(reason):
                return []
            raise


class Cluster:
    """Two nodes that have one volume mounted."""

    def __init__(self, daemon, steps, where):
        self.image = f"{where}/pair.img"
        self.daemon, self.steps = daemon, steps
        self.cluster = uml.Cluster(f"conform{os.getpid()}")
        self.nodes = {}

    def start(self):
        with open(self.image, "wb") as image:
            image.truncate(2 << 30)
        mount.run(["mkfs.gfs2", "-O", "-q", "-p", "lock_dlm", "-t", TABLE, "-j", 2, "-J", 16, "-b", mount.BLOCK, self.image])
        # The nodes see no other directory of the build's.
        os.environ.setdefault("GFS2_FUSE", self.daemon)
        self.cluster.up(2, images=[self.image], options=f"control={CONTROL}", share=[os.path.dirname(self.steps)],
                        builddir=os.path.dirname(os.path.dirname(os.path.realpath(self.daemon))))
        for number in (1, 2):
            self.nodes[number] = node = Node(self.cluster.node(number), self.steps)
            node.control("set", "dio_mtime_interval", "3600")
            node.control("set", "data_events", "on")
            # The kernel's way; ours writes the same bytes, before EX is let go.
            node.control("set", "dio_rest", "buffered")

    def stop(self):
        for node in self.nodes.values():
            node.drop_hands()
            node.relay.close()
        problems = self.cluster.down()
        if problems:
            raise mount.Broken("\n".join(problems))
        mount.run(["fsck.gfs2", "-n", self.image])

    def drop(self):
        self.cluster.down(force=True)


class Run:
    """A two-node scenario; @attempt: so many times the disk was too fast for the nodes."""

    def __init__(self, cluster, text, attempt=0):
        self.cluster, self.text, self.nodes = cluster, text, cluster.nodes
        self.names, self.inodes = {}, {}
        self.top = f"{DIR}/{text.name}" + (f".{attempt}" if attempt else "")
        # The recorder's disk needed that long for each block.
        blocks = max((int(step.words[3]) // PAGE for step in text.steps if step.words[0] == "aiowq"), default=1)
        self.delay = text.delay * blocks * 4 ** attempt
        self.mtime = None

    # -- doing

    def path(self, word):
        first, _, rest = word.partition("/")
        if first in self.inodes or first == "F":
            return f"{self.top}/{first}" + (f"/{rest}" if rest else "")
        return word

    def line(self, words):
        paths = {"open": (2,), "stat": (1,), "unlink": (1,), "mkdir": (1,), "readdir": (1,), "rename": (1, 2),
                 "link": (1, 2)}.get(words[0], ())
        return " ".join(self.path(str(word)) if at in paths else str(word) for at, word in enumerate(words))

    def must(self, number, *words):
        node = self.nodes[number]
        node.begin(self.line(words))
        answer = node.answer()
        if answer.startswith("-"):
            raise mount.Broken(f"{self.text.name}: node {number}: {' '.join(map(str, words))}: {answer}")
        return answer

    def control(self, number, *words):
        return self.nodes[number].control(*words)

    # -- preparing

    def call(self, name, path):
        node = self.nodes[1]
        node.begin(f"ino {path}")
        inode = int(node.answer())
        self.inodes[name] = inode
        self.names[f"2/{inode:x}"] = name
        self.names[f"5/{inode:x}"] = name + ".iopen"

    def prepare(self):
        for number in self.nodes:
            self.control(number, "set", "dio_mtime", "strict" if self.text.strict else "deferred")
        self.must(1, "mkdir", self.top)
        for what, *more in self.text.prepare:
            getattr(self, "prepare_" + what)(*more)
        self.publish()
        self.settle()
        for number, name, state in self.text.hold:
            self.hold(number, name, state)
        self.rest()

    def prepare_file(self, name, pieces, size):
        path = f"{self.top}/{name}"
        self.must(1, "open", SPARE, path, "rwcx")
        for offset, length, letter in pieces:
            at = offset
            while at < offset + length:     # as much as the hands can take
                size_of = min(16 << 20, offset + length - at)
                self.must(1, "pwrite", SPARE, at, size_of, letter)
                at += size_of
        if size is not None:
            self.must(1, "ftrunc", SPARE, size)
        self.must(1, "fsync", SPARE)
        self.must(1, "close", SPARE)
        self.call(name, path)

    def prepare_directory(self, name):
        self.must(1, "mkdir", f"{self.top}/{name}")
        self.call(name, f"{self.top}/{name}")

    def prepare_open(self, handle, name, flags):
        for number in self.nodes:
            self.must(number, "open", handle, f"{self.top}/{name}", flags)

    def prepare_name(self, name, path):
        self.call(name, self.path(path))

    def prepare_step(self, step):
        answer = self.must(step.node, *step.words)
        if step.words[0] == "fstat":
            self.mtime = self.result(answer)[1]

    def publish(self):
        """Times of direct writes have just been published: the next ones need not be within the interval, which is long."""
        for handle, flags in [(more[0], more[2]) for what, *more in self.text.prepare if what == "open"]:
            for number in self.nodes if flags == "rwd" and not self.text.strict else ():
                self.must(number, "pwrite", handle, 0, PAGE, "A")   # as it was made
                self.must(number, "fsync", handle)

    def settle(self):
        """As the recorder did: everything is written, no node has a lock or a page."""
        for step in [more[0] for what, *more in self.text.prepare if what == "open"]:
            for number in self.nodes:
                self.must(number, "fsync", step)
                self.must(number, "forget", step)
        for number in self.nodes:
            for name, inode in self.inodes.items():
                if self.nodes[number].dump(f"inode:{inode}"):
                    self.control(number, "demote", f"inode:{inode}", "UN")

    def hold(self, number, name, state):
        if state == "UN":
            return      # settled
        if state == "EX":
            self.must(number, "open", DIRECTORY, f"{self.top}/{name}", "r")
            self.must(number, "fchmod", DIRECTORY, "0750")
            self.must(number, "fsync", DIRECTORY)
            self.must(number, "close", DIRECTORY)
        elif state == "DF":
            self.must(number, "pread", 1, 0, PAGE)
        else:
            raise mount.Broken(f"{self.text.name}: hold {number} {name} {state}: not with two nodes")

    # -- steps

    @staticmethod
    def result(answer):
        """(words but the mtime, the mtime)"""
        words = answer.split()
        times = [word for word in words if word.startswith("mtime=")]
        return [word for word in words if not word.startswith("mtime=")], (times or [None])[0]

    def rest(self, sent=None):
        """Wait until nothing goes on any more; @sent: (node, event number, requests): until so many direct writes are under way."""
        end = time.monotonic() + mount.WAIT_SECONDS
        before, busy = None, []
        while time.monotonic() < end:
            if sent:
                number, since, count = sent
                if len({event.get("req") for event in self.nodes[number].events(since)
                        if event["event"] in ("dio_submit", "dio_upgrade", "dio_end")}) >= count:
                    return
                continue
            busy = [line for node in self.nodes.values() for line in node.restless(self.names)]
            if not busy:
                # A lock that comes to rest may have made another node's move.
                now = [node.next_event() for node in self.nodes.values()]
                if now == before:
                    return
                before = now
            else:
                before = None
        raise mount.Broken("\n".join([f"{self.text.name}: the locks do not come to rest", *busy]))

    def groups(self):
        """The steps, those that run at the same time together."""
        groups = []
        for step in self.text.steps:
            if step.together:
                groups[-1].append(step)
            else:
                groups.append([step])
        return groups

    def do(self, group):
        """Do these steps at the same time; returns [(step, result)]."""
        for step in group:
            time.sleep(step.later)
            self.nodes[step.node].begin(self.line(step.words))
        done = []
        for step in group:
            words, mtime = self.result(self.nodes[step.node].answer())
            if step.words[0] == "fstat":    # stat told the recorder no mtime
                if self.mtime:
                    words.append("mtime=" + ("same" if mtime == self.mtime else "changed"))
                self.mtime = mtime
            done.append((step, words))
        return done

    def knows(self, number):
        """Has the node the inode of F in core?"""
        return any(line.startswith(" H:") for name, of in self.names.items() if of == "F.iopen"
                   for line in self.nodes[number].dump(name))

    def gone(self, answers, since, knew):
        """After the end of a file's last name or use, or the end of the name under which a node of @knew knew it: the node has let go
        of the inode, which its kernel tells it when it likes."""
        for step, result in answers:
            last = step.words[0] == "unlink" or step.words[0] == "close" and any(
                other.words[0] == "unlink" for other in self.text.steps[:self.text.steps.index(step)])
            last = last or step.words[0] == "stat" and result[0] == "-2" and step.node in knew
            end = time.monotonic() + mount.WAIT_SECONDS
            while last and not any(event["event"] == "glock_state" and event["to"] == "UN" and event["from"] != "UN" and
                                   self.names.get(event.get("glock")) == "F.iopen"
                                   for event in self.nodes[step.node].events(since[step.node])):
                if time.monotonic() > end:
                    raise mount.Broken(f"{self.text.name}: {step}: the inode is not let go of")

    def run(self):
        """[(group, [(step, result)], {node: events})]"""
        self.prepare()
        since = {number: node.next_event() for number, node in self.nodes.items()}
        if self.delay:
            for number in self.nodes:
                self.control(number, "set", "fault", f"op=write,cls=dio,delay_us={int(self.delay * 1e6)}")
        done = []
        try:
            for group in self.groups():
                time.sleep(max(step.pause for step in group))
                knew = {step.node for step in group if step.words[0] == "stat" and self.knows(step.node)}
                answers = self.do(group)
                sent = [(step.node, since[step.node], int(step.words[5])) for step in group if step.words[0] == "aiowq"]
                if sent and len(group) == 1:
                    self.rest(sent[0])
                else:
                    self.gone(answers, since, knew)
                    self.rest()
                events = {}
                for number, node in self.nodes.items():
                    events[number] = node.events(since[number])
                    if events[number]:
                        since[number] = events[number][-1]["seq"] + 1
                done.append((group, answers, events))
        finally:
            if self.delay:
                for number in self.nodes:
                    self.control(number, "set", "fault", "none")
        return done

    def too_fast(self, done):
        """Was I/O over before what should have met it under way, as the other node's demand? Then nothing was shown."""
        for group, _, events in done:
            for step in group:
                if not self.delay or step.words[0] != "aiowait":
                    continue
                kinds = [event["event"] for event in events[step.node] if self.names.get(event.get("glock")) == "F"]
                if "dio_end" not in kinds:
                    return True
                if "demote(" in (step.locks or "") and "glock_demote_rq" not in kinds[:kinds.index("dio_end")]:
                    return True
        return False

    def content(self, name, offset, length):
        # As the recorder did: node 1 is asked where the blocks are, so what is dirty on node 2 is written.
        extents = mount.extents_of(self.nodes[1].control("map", "--json", f"inode:{self.inodes[name]}"))
        return mount.content_of(self.cluster.image, extents, offset, length)

    def close(self):
        for node in self.nodes.values():
            node.drop_hands()


# -- comparing

def lines(run, done, Row):
    """The rows to compare of a scenario that has been run."""
    found, requests = [], {node: {} for node in run.nodes}
    number = 0
    for at, (group, answers, events) in enumerate(done):
        # Who only waits is in nobody's way.
        busy = [step for step in group if step.words[0] != "aiowait"]
        race = len(busy) > 1 or any(step.words[0] == "bench" or step.words[0] == "aiowq" and step.words[5] != "1"
                                    for step in busy)
        for step, result in answers:
            number += 1
            found.append(Row(f"{number} {step}", "result", (step.result or "").split(), result))
        waited = any(step.pause for step in group) or at == 0
        for node in sorted(events):
            ours = mount.line_of(events[node], run.names, dlm=True, requests=requests[node])
            found.append(lock_row(Row, number, group, node, ours, race, waited))
    return found


def lock_row(Row, number, group, node, ours, race, waited):
    """One node's locks in these steps: its own, and what it was asked for meanwhile."""
    recorded = []
    for step in group:
        if step.node == node:
            recorded += canon.words(step.locks or "")
    for step in group:
        for other, line in step.meanwhile:
            if other == node:
                recorded += canon.words(line)
    title = f"{number} {group[0]}" + "".join(f" & {step}" for step in group[1:])

    # What is left for fsync to write depends on who has flushed the log before, as for a node that has nothing to do.
    own = any(step.node == node and step.words[0] != "fsync" for step in group)

    def canonical(words):
        if race:
            return canon.race(words)
        words = canon.of_a_node(words, waited)
        return words if own else canon.without_io(words)

    row = Row(title, f"locks {node}", canonical(recorded), canonical(ours))
    row.recorded, row.canonical = recorded, canonical
    return row


def rows(cluster, text, Row):
    for attempt in range(ATTEMPTS):
        run = Run(cluster, text, attempt)
        try:
            done = run.run()
            if not run.too_fast(done):
                return compare(run, done, Row)
        finally:
            run.close()
    raise mount.Broken(f"{text.name}: however long the I/O takes, it is over before the other node's demand comes")


def compare(run, done, Row):
    found = lines(run, done, Row)
    for name, offset, length, kernel in run.text.content:
        found.append(Row(f"{name} {offset}+{length}", "content", kernel.split(","),
                         run.content(name, offset, length).split(",")))
    return found
