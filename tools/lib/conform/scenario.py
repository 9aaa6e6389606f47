# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenarios: small texts that say what is done to a volume and what the kernel's gfs2 did then.

  # what it is about
  times strict                    dio_mtime of the mount: strict is a default mount of the kernel's, deferred is
                                  how it was recorded with lazytime
  nodes 2                         how many nodes take part (1)
  disk 20ms                       every write of data takes that long
  file F 0+4096=A 8192+512=B size 10000
                                  node 1 makes a file: these bytes there, holes between, cut or extended to size
  directory D E                   directories, empty
  direct 1 F [append] [sync]      descriptor 1 of every node, O_DIRECT; buffered 2 F: without
  1 open 5 D/a rwcx               further preparations: steps, see below
  name F D/a                      the object that a path leads to is called F from here on
  hold 1 F EXp                    node 1's glock of F before the first step: UN SH DF EX, p: with the whole file cached

  1 aiow 1 8192 4096 B            a step: node, then a line for tests/progs/steps.c; paths begin with an object
    = 4096                        its result
    : ?EX [UN->EX] +EX -EX ...    node 1's locks from its start to its end
    2 meanwhile : ...             what went on at a node outside of its own steps
  & 2 pread 2 0 4096 [@5ms]       at the same time as the step before, or so much later
  pause 0.3                       seconds

  content F 0+65536 A*8192,B*4096,~*53248
                                  what the device holds for that range of the file at the end (~: hole)

A scenario may also stop what it does, and play the other node; `glockctl run` does that (tools/ctl/run.c; gfs2-fuse-scenario(5) has all
of the format), and with it tools/conform:

  set short_dio async             a tunable, for this scenario
  1 break dio hole F              a step that is asked of the daemon: CONTROLS
    says TEXT                     a part of its answer
    stop dio hole F 32768+16384   what was stopped then
    waits F EX                    or what the step waits for
    expect ?DF ... -DF            what happened to the locks (...: any words)

Words of a lock line: ?X asked for state X, +X got it, -X let it go; [A->B] the lock's state; dlm(MODE FLAGS), bast(MODE),
demote(A->B by); map=WHAT[,rc=N] what the block map said; io:KIND file data moved.  Those of another object than F have its name in
front.  ( ... )xN: N times.
"""
import os
import re


# What is asked of the daemon; all else is done by the hands.
CONTROLS = ("break delete step continue hold release demote set get dio dump map stats breaks stops holds timeout").split()


class Mistake(Exception):
    """The text is not a scenario."""


class Step:
    def __init__(self, node, words, together=False, later=0.0):
        self.node, self.words, self.together, self.later = node, words, together, later
        self.pause = 0.0        # before it
        self.result = None
        self.locks = None
        self.meanwhile = []     # (node, line)

    def __str__(self):
        return f"{self.node} {' '.join(self.words)}"


class Scenario:
    def __init__(self, name, text):
        self.name = name
        self.about = ""
        self.strict, self.nodes, self.delay = True, 1, 0.0
        self.prepare = []       # ('file', name, pieces, size), ('directory', name), ('open', ...), ('step', Step), ('name', ...)
        self.hold = []          # (node, object, state)
        self.steps = []
        self.content = []       # (object, offset, length, runs)
        self.stops = False      # only glockctl can run it
        for number, line in enumerate(text.splitlines(), 1):
            try:
                self._line(line)
            except (ValueError, IndexError, KeyError) as error:
                raise Mistake(f"{name}:{number}: {line}: {error}") from None
        if not self.steps:
            raise Mistake(f"{name}: nothing is done")

    def _line(self, line):
        if line.startswith("#"):
            self.about = (self.about + " " + line[1:].strip()).strip()
            return
        if line.startswith("  "):
            self._outcome(line.strip())
            return
        words = line.split()
        if not words:
            self._body = True
        elif words[0].isdigit() or words[0] == "&":
            self._step(words)
        else:
            getattr(self, "_" + words[0])(words[1:])

    _body = False
    _pending_pause = 0.0

    def _step(self, words):
        together = words[0] == "&"
        words = words[together:]
        later = 0.0
        if words[-1].startswith("@"):
            later = float(words.pop()[1:].removesuffix("ms")) / 1000
        step = Step(int(words[0]), words[1:], together, later)
        self.stops = self.stops or step.words[0] in CONTROLS
        if not self._body:
            self.prepare.append(("step", step))
            return
        step.pause, self._pending_pause = self._pending_pause, 0.0
        self.steps.append(step)

    def _outcome(self, text):
        step = self.steps[-1]
        if text.startswith("="):
            step.result = text[1:].strip()
        elif text.startswith(":"):
            step.locks = text[1:].strip()
        elif re.match(r"(\d+ )?(stop|waits|expect|says)\b", text):
            self.stops = True
        elif re.match(r"\d+ =", text):
            self.stops = True
        else:
            found = re.fullmatch(r"(\d+) meanwhile :\s*(.*)", text)
            if not found:
                raise ValueError("what is this?")
            step.meanwhile.append((int(found[1]), found[2]))

    def _times(self, words):
        self.strict = {"strict": True, "deferred": False}[words[0]]

    def _set(self, words):
        self.stops = True
        self.prepare.append(("set", words[0], words[1]))

    def _nodes(self, words):
        self.nodes = int(words[0])

    def _disk(self, words):
        self.delay = float(words[0].removesuffix("ms")) / 1000

    def _file(self, words):
        name, pieces, size = words[0], [], None
        rest = words[1:]
        if "size" in rest:
            size = int(rest[rest.index("size") + 1])
            rest = rest[:rest.index("size")]
        for piece in rest:
            found = re.fullmatch(r"(\d+)\+(\d+)=(\S)", piece)
            pieces.append((int(found[1]), int(found[2]), found[3]))
        self.prepare.append(("file", name, pieces, size))

    def _directory(self, words):
        self.prepare += [("directory", name) for name in words]

    def _direct(self, words):
        self.prepare.append(("open", int(words[0]), words[1],
                             "rwd" + "".join({"append": "a", "sync": "s"}[word] for word in words[2:])))

    def _buffered(self, words):
        self.prepare.append(("open", int(words[0]), words[1], "rw"))

    def _name(self, words):
        self.prepare.append(("name", words[0], words[1]))

    def _hold(self, words):
        if words[2].rstrip("p") not in ("UN", "SH", "DF", "EX"):
            raise ValueError("no such state")
        self.hold.append((int(words[0]), words[1], words[2]))

    def _pause(self, words):
        self._pending_pause = float(words[0])

    def _content(self, words):
        offset, length = words[1].split("+")
        self.content.append((words[0], int(offset), int(length), words[2]))


def load(directory):
    """All scenarios of a directory, by name."""
    found = {}
    for file in sorted(os.listdir(directory)):
        if file.endswith(".txt"):
            with open(os.path.join(directory, file)) as text:
                found[file[:-4]] = Scenario(file[:-4], text.read())
    return found
