# SPDX-License-Identifier: GPL-2.0-or-later
"""Judges what the processes of several nodes did at once (tests/progs/clusterops.c) by the times before and after each call.

What is promised: whatever a call does happens at one moment between the two times, for all nodes alike.  So an operation that
returned before another one began came before it, and of those that overlap either may have been first.  check() looks for an
order that explains every result; there being none is a fault (linearizability, object by object, which is enough: it is a local
property).  Objects are what is promised to change at once: a block (or what a direct read or a mapping sees of it: each sector), a file's
size, an attribute, the two directories with all their names.  A record that was appended is one thing, up to the largest request.

The death of a node (crash()) takes back what it did to an object last, as far as nobody has made it durable: by fsync, by a direct
write, or because another node has used the object since, whose lock was given away only with everything written.  (Of the names that
is the directory: a look at the other one, whose lock the node may have had all the time, takes nothing from anybody.)

One thing is not promised: where the kernel's FUSE client decides by the size that it remembers (buffered reads of files opened for
reading, SEEK_END, asynchronous direct reads), and its memory is being changed by two at once, it may keep the older one for a moment.
So such a look at a file's end counts only if nothing else happened to the file meanwhile (quiet()), and it is the second of two, as a lock may
also be given up for what was before; an asynchronous read's not at all.  Why the daemon cannot do better: docs/design.md, "the kernel's
idea of a file's size".

Independent of the daemon: it reads logs, and for appended records the files themselves.
"""
import bisect
import collections
import errno
import os
import zlib

SECTORS = 8
SECTOR = 512
BLOCK = 4096
TAIL = 64 << 10
NEVER = float("inf")
ABSENT = "absent"      # an attribute that is not there
# As in clusterops.c: blocks, whether it is cut.
FILES = {"full": (8, False), "holes": (24, False), "lanes": (2, False), "cut": (8, True)}
LOGS = ("log", "dlog")
LOOKS = ("r", "sz", "ta", "ls")
PATHS = [f"{d}/{n}" for d in "pq" for n in "abcdeABC"]
INDEX = {path: number for number, path in enumerate(PATHS)}


def no_common_clock():
    """Why the times of two processors cannot be compared here; None: they can."""
    if os.uname().machine != "x86_64":
        return None     # clusterops takes CLOCK_MONOTONIC
    with open("/sys/devices/system/clocksource/clocksource0/current_clocksource") as file:
        source = file.read().strip()
    with open("/proc/cpuinfo") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    if source == "tsc" or {"constant_tsc", "nonstop_tsc"} <= set(flags):
        return None
    return f"time stamp counters may differ between processors here: the clock is {source}, and constant_tsc and nonstop_tsc are not both there"


class Fault(AssertionError):
    """What was seen has no explanation."""


class Op:
    __slots__ = ("start", "end", "node", "what", "text", "durable")

    def __init__(self, start, end, node, what, text, durable=False):
        self.start, self.end, self.node, self.what, self.text, self.durable = start, end, node, what, text, durable


# ---------------------------------------------------------------- the logs

Call = collections.namedtuple("Call", "start end node name object args result")


def read_log(path, node):
    """The calls of one worker; those without an end have result None."""
    calls, pending = [], {}
    with open(path) as lines:
        for line in lines:
            if not line.endswith("\n"):
                break       # its node died while it was being written
            mark, number, *words = line.split()
            # "!": its daemon has died under it
            if mark == "<":
                pending[number] = words
            elif mark == ">":
                start, name, thing, *args = pending.pop(number)
                calls.append(Call(int(start), int(words[0]), node, name, thing, args, words[1:]))
    for start, name, thing, *args in pending.values():
        calls.append(Call(int(start), NEVER, node, name, thing, args, None))
    return calls


def show(call):
    return f"node {call.node} {call.name} {call.object} {' '.join(call.args)} = " \
           + ("?" if call.result is None else " ".join(call.result))


def sectors(text):
    """The tags of each sector: a list of lists, one of more than one was seen half written."""
    out = []
    for part in text.split(",") if text != "-" else ():
        count, tags = part.split("*")
        out += [tags.split("/")] * int(count)
    return out


# ---------------------------------------------------------------- what each object may do

# Each function: the state after the operation, the very same object if it changes nothing, None if it cannot have been now.

QUESTIONS = {"read", "is", "least", "most", "exists", "missing", "links", "list"}


def register(state, what):
    kind, *args = what
    if kind == "write":
        return args[0]
    if kind == "clear":
        return None if state == ABSENT else ABSENT
    return state if state == args[0] else None


def block(state, what):
    kind, low, high, value = what
    if kind == "write":
        return state[:low] + (value,) * (high - low) + state[high:]
    return state if state[low:high] == value else None


def size(state, what):
    kind, value = what
    if kind == "set":
        return value
    if kind == "grow":
        return max(state, value)
    return state if (state == value if kind == "is" else state >= value if kind == "least" else state <= value) else None


def unknown_file(entry):
    return isinstance(entry, str) and entry[0] == "?"


def bound(state, unknown, ino):
    """A file whose number nobody was told shows it."""
    return tuple(ino if entry == unknown else entry for entry in state)


def names(state, what):
    """A number for each path, 0: there is none.  What was made by somebody who died before he was told has a text for a number."""
    kind, *args = what

    def put(path, value):
        return state[:path] + (value,) + state[path + 1:]

    if kind == "create":
        path, ino = args
        return None if state[path] or ino in state else put(path, ino)
    if kind == "exists":
        return state if state[args[0]] else None
    if kind == "missing":
        return None if state[args[0]] else state
    if kind == "remove":
        return put(args[0], 0) if state[args[0]] else None
    if kind == "link":
        ino, path = args
        if state[path]:
            return None
        if ino not in state:
            unknown = next((entry for entry in state if unknown_file(entry)), None)
            if not unknown:
                return None
            state = bound(state, unknown, ino)
        return put(path, ino)
    if kind == "move":
        old, new = args
        if not state[old]:
            # The kernel looked both names up, one after the other, and somebody moved the file meanwhile: the same file twice.
            return state if state[new] else None
        if state[old] == state[new]:
            return state
        moved = list(state)
        moved[new], moved[old] = state[old], 0
        return tuple(moved)
    if kind == "is":
        path, ino = args
        if isinstance(state[path], str):
            return None if ino in state else bound(state, state[path], ino)
        return state if state[path] == ino else None
    if kind == "links":
        ino, count = args
        return state if state.count(ino) == count or any(map(unknown_file, state)) else None
    assert kind == "list"
    directory, seen = args
    return state if all((PATHS[i][2:] in seen) == bool(state[i]) for i in range(len(PATHS)) if PATHS[i][0] == directory) else None


# ---------------------------------------------------------------- from calls to operations on objects

class History:
    """Everything that was done, object by object.  block_size: a direct write that falls back has done its first blocks before the rest."""

    def __init__(self, block_size=BLOCK):
        self.grain = min(block_size, BLOCK) // SECTOR
        self.objects = collections.defaultdict(list)
        self.of = collections.defaultdict(list)     # the calls on each object
        self.spans = {}
        self.calls = 0
        self.stale = 0
        self.crashes = []
        self.wild = 0

    def read(self, path, node):
        calls = read_log(path, node)
        self.calls += len(calls)
        for call in calls:
            self.of[call.object].append(call)

    def quiet(self, call):
        """Nobody changed the file of this call meanwhile, nor did anybody else on another node use it, or on this one so that the kernel has to
        drop its pages."""
        spans = self.spans.get(call.object)
        if spans is None:
            spans = self.spans[call.object] = Spans(self.of[call.object])
        return spans.quiet(call)

    def crash(self, node, start, end):
        """The node died at start; what that undid had been undone by end.  It starts anew as another node.  Returns how many of its
        calls never returned."""
        self.crashes.append((node, start, end))
        return sum(call.node == node and call.result is None for calls in self.of.values() for call in calls)

    def add(self, thing, call, *what, durable=False):
        self.objects[thing].append(Op(call.start, call.end, call.node, what, show(call), durable))

    @staticmethod
    def expect(call, *allowed):
        """The result as a number; it must be one of these, or an errno of these names."""
        rc = int(call.result[0])
        if rc not in allowed and -rc not in [getattr(errno, a) for a in allowed if isinstance(a, str)]:
            raise Fault("unexpected result: " + show(call))
        return rc

    # -- blocks

    def change(self, call, low, count, value, durable):
        for number in range(low // SECTORS, (low + count + SECTORS - 1) // SECTORS):
            first = max(low - number * SECTORS, 0)
            last = min(low + count - number * SECTORS, SECTORS)
            self.add((call.object, number), call, "write", first, last, value, durable=durable)

    def write(self, call, durable):
        low, count = int(call.args[0]), int(call.args[1])
        if call.result is not None:
            self.expect(call, count * SECTOR)
        step = self.grain if call.name == "wd" else count
        end = low + count
        for first in range(low // step * step if call.name == "wd" else low, end, step):
            start = max(first, low)
            self.change(call, start, min(first + step, end) - start, call.args[2], durable)
        if FILES[call.object][1]:
            self.add((call.object, "size"), call, "grow", low + count, durable=durable)

    def call_wd(self, call):
        self.write(call, True)

    def call_wb(self, call):
        self.write(call, False)

    def call_pu(self, call):
        if call.result is not None:
            self.expect(call, 0)
        self.change(call, int(call.args[0]), int(call.args[1]), "0", False)

    def call_fa(self, call):
        if call.result is not None:
            self.expect(call, 0)

    def call_tr(self, call):
        if call.result is not None:
            self.expect(call, 0)
        low, end = int(call.args[0]), FILES[call.object][0] * SECTORS
        if low < end:
            self.change(call, low, end - low, "0", False)
        self.add((call.object, "size"), call, "set", low)

    def call_r(self, call):
        if call.result is None:
            return
        rc = int(call.result[0])
        number, way = int(call.args[0]), call.args[1]
        if not 0 <= rc <= BLOCK or rc % SECTOR or rc < BLOCK and not FILES[call.object][1]:
            raise Fault("unexpected result: " + show(call))
        seen = sectors(call.result[1])
        if any(tag.startswith("X") for tags in seen for tag in tags):
            raise Fault("bytes that were never written there: " + show(call))
        count = rc // SECTOR
        if FILES[call.object][1] and way != "aio" and (way not in ("ro", "new") or self.quiet(call)):
            end = number * SECTORS + count
            self.add((call.object, "size"), call, "least" if count == SECTORS else "is" if count else "most", end)
        thing = (call.object, number)
        if way not in ("direct", "aio", "map"):
            if any(len(tags) > 1 for tags in seen):
                raise Fault("torn: " + show(call))
            if count:
                self.add(thing, call, "read", 0, count, tuple(tags[0] for tags in seen))
            return
        # Sector by sector.  A run of one writer's sectors is one of them: if there is a moment for each, there is one for all.
        start = 0
        while start < count:
            end = start + 1
            while end < count and seen[end] == seen[start] and seen[start] != ["0"]:
                end += 1
            for tag in seen[start]:
                self.add(thing, call, "read", start, end, (tag,) * (end - start))
            start = end

    def call_sz(self, call):
        if call.result is not None:
            blocks, is_cut = FILES[call.object]
            if is_cut:
                if call.args[0] != "seek" or self.quiet(call):
                    self.add((call.object, "size"), call, "is", int(call.result[0]) // SECTOR)
            else:
                self.expect(call, blocks * BLOCK)

    def call_fs(self, call):
        if call.result is None:
            return
        self.expect(call, 0)
        things = [(call.object,)]
        if call.object in FILES:
            things = [(call.object, n) for n in range(FILES[call.object][0])]
            things += [(call.object, "size")] if FILES[call.object][1] else []
        if self.crashes and call.object not in LOGS:
            for thing in things:
                self.add(thing, call, "sync")

    # -- logs: check_log() looks at them

    def later(self, call):
        pass

    call_ap = call_ta = call_ls = later

    # -- names

    def is_stale(self, call):
        """The kernel looked for the name twice, and each time another node had deleted or moved what it found; of directories it also
        only tries to move what it remembers to the place where another node has put them (d_splice_alias()).  Then it says ESTALE, on
        its own gfs2, too, and nothing has happened.  It is rare, or something is wrong."""
        if call.result is None or int(call.result[0]) != -errno.ESTALE:
            return False
        self.stale += 1
        return True

    def call_cr(self, call):
        path = INDEX[call.args[0]]
        if self.is_stale(call):
            return
        if call.result is None:
            self.wild += 1
            self.add(("names",), call, "create", path, f"?{self.wild}")
            return
        rc = int(call.result[0])
        if rc > 0:
            self.add(("names",), call, "create", path, rc)
        else:
            self.expect(call, "EEXIST")
            self.add(("names",), call, "exists", path)

    def call_mk(self, call):
        path = INDEX[call.args[0]]
        if self.is_stale(call):
            return
        if call.result is None or self.expect(call, 0, "EEXIST") == 0:
            # Its number is found out by who looks.
            self.wild += 1
            self.add(("names",), call, "create", path, f"D?{self.wild}")
        else:
            self.add(("names",), call, "exists", path)

    def call_un(self, call):
        path = INDEX[call.args[0]]
        if self.is_stale(call):
            return
        done = call.result is None or self.expect(call, 0, "ENOENT") == 0
        self.add(("names",), call, "remove" if done else "missing", path)

    call_rd = call_un

    def call_ln(self, call):
        ino, path = int(call.args[0]), INDEX[call.args[1]]
        rc = 0 if call.result is None else self.expect(call, 0, "EEXIST", "ENOENT", "ESTALE")
        if rc == 0:
            self.add(("names",), call, "link", ino, path)
        elif rc == -errno.EEXIST:
            self.add(("names",), call, "exists", path)
        # else the inode had no name any more (ENOENT), or was freed (ESTALE), whatever has its number now

    def call_mv(self, call):
        old, new = (INDEX[path] for path in call.args)
        if self.is_stale(call):
            return
        if call.result is None or self.expect(call, 0, "ENOENT") == 0:
            self.add(("names",), call, "move", old, new)
        else:
            self.add(("names",), call, "missing", old)

    def call_st(self, call):
        path = INDEX[call.args[0]]
        if call.result is None or self.is_stale(call):
            return
        if self.expect(call, 0, "ENOENT"):
            self.add(("names",), call, "missing", path)
            return
        ino, links = int(call.result[1]), int(call.result[2])
        self.add(("names",), call, "is", path, ino)
        if call.args[0][2:].isupper():
            if links not in (0, 2):
                raise Fault("links of a directory: " + show(call))
        elif links or call.result[3] == "open":
            # A name is looked up and then the inode; only one that is open cannot become another's in between.
            self.add(("names",), call, "links", ino, links)

    def call_li(self, call):
        if call.result is not None:
            self.expect(call, 0)
            self.add(("names",), call, "list", call.args[0], tuple(call.result[1:]))

    # -- attributes

    def call_cm(self, call):
        if call.result is not None:
            self.expect(call, 0)
        self.add((call.object,), call, "write", call.args[0] if call.name != "sx" else tuple(call.args))

    call_ut = call_sa = call_sx = call_cm

    def call_rx(self, call):
        done = call.result is None or self.expect(call, 0, "ENODATA") == 0
        self.add((call.object,), call, *(("clear",) if done else ("read", ABSENT)))

    def call_gm(self, call):
        if call.result is not None:
            self.expect(call, 0)
            self.add((call.object,), call, "read", call.result[1])

    call_gt = call_gm

    def call_gx(self, call):
        if call.result is not None:
            found = self.expect(call, 0, "ENODATA") == 0
            self.add((call.object,), call, "read", tuple(call.result[1:]) if found else ABSENT)

    def call_ga(self, call):
        if call.result is not None:
            found = self.expect(call, 0, "ENODATA") == 0
            self.add((call.object,), call, "read", call.result[1] if found else ABSENT)

    # -- the verdict

    def check(self):
        """Returns how many operations on objects were put in order, and what is wrong."""
        count, faults = 0, []
        for calls in self.of.values():
            for call in calls:
                try:
                    getattr(self, "call_" + call.name)(call)
                except Fault as fault:
                    faults.append(fault)
        if self.stale > 5 + len(self.of["names"]) // 500:
            faults.append(Fault(f"{self.stale} of {len(self.of['names'])} calls say ESTALE"))
        for thing, ops in sorted(self.objects.items(), key=str):
            apply, state = rules(thing)
            try:
                order(thing, state, ops, apply, self.crashes)
            except Fault as fault:
                faults.append(fault)
            count += len(ops)
        return count, faults

    def check_log(self, name, data):
        """The file as it is at the end explains every append and every look."""
        check_log(name, data, self.of[name], self.crashes, self.quiet)


class Spans:
    """Which calls on one object overlap."""

    def __init__(self, calls):
        self.calls = sorted(calls, key=lambda call: call.start)
        self.starts = [call.start for call in self.calls]
        # The longest that any of the first ones lasts.
        self.until, most = [], 0
        for call in self.calls:
            most = max(most, call.end)
            self.until.append(most)

    def quiet(self, call):
        number = bisect.bisect_left(self.starts, call.end) - 1
        while number >= 0 and self.until[number] > call.start:
            other = self.calls[number]
            if other is not call and other.end > call.start and \
               (other.node != call.node or other.name not in LOOKS or other.name == "r" and other.args[1] in ("direct", "aio")):
                return False
            number -= 1
        return True


def rules(thing):
    """The function and the first state."""
    if len(thing) == 2:
        return (size, 0) if thing[1] == "size" else (block, ("0",) * SECTORS)
    if thing[0] == "names":
        return names, (0,) * len(PATHS)
    if thing[0].endswith(".mode"):
        return register, str(0o644)
    return register, "1000000000" if thing[0].endswith(".mtime") else ABSENT


# ---------------------------------------------------------------- is there an order?

def places(thing, what):
    """Whose lock an operation on the object takes; the names are two directories."""
    kind, *args = what
    if thing[0] != "names":
        return {0}
    if kind in ("sync", "links"):
        return set()
    if kind == "list":
        return {"pq".index(args[0])}
    paths = args if kind == "move" else args[1:] if kind == "link" else args[:1]
    return {"pq".index(PATHS[path][0]) for path in paths}


def durable_work(thing, ops, crashes):
    """A function: is what this operation did on disk at its node's death?  It is if another node has used the place since, and so is what
    came before it, for the log is written in order.  A place beside it that another node has used says nothing."""
    used, logged = {}, {}
    for node, death, _ in crashes:
        used[node] = collections.defaultdict(int)
        for op in ops:
            if op.node != node and op.end < death and op.what[0] != "sync":
                for place in places(thing, op.what):
                    used[node][place] = max(used[node][place], op.start)
        logged[node] = max((op.start for op in ops if op.node == node and op.what[0] not in QUESTIONS | {"sync"}
                            and any(op.end < used[node][place] for place in places(thing, op.what))), default=0)

    def durable(op):
        return op.durable or op.node not in used or op.end < logged[op.node] or \
            any(op.end < used[op.node][place] for place in places(thing, op.what))
    return durable


def mortal(thing, apply, durable):
    """Nodes can die: a state is what is there, whose work is on top, and what there may be again without it: before each change, with the
    places of that.  (One dies at a time, so there is one owner.)"""
    def step(state, op):
        inner, owner, older = state
        what = op.what
        if what[0] == "crash":
            if owner != what[1]:
                return [state]
            return [(one, None, ()) for one in {inner, *(before for before, _ in older)}]
        if what[0] == "sync":
            return [(inner, owner, ())] if older and owner == op.node else [state]
        new = apply(inner, what)
        if new is None:
            return []
        if new is inner:
            return [state]
        where = places(thing, what)
        if owner != op.node:
            # His lock, so his work there and all before it, was given away; what he did beside it afterwards is his still.
            kept = max((number + 1 for number, (_, there) in enumerate(older) if there & where), default=0)
            older = tuple((apply(before, what), there) for before, there in older[kept:])
            older = tuple(one for one in older if one[0] is not None)
            if older:
                return [(new, owner, older)]
        if durable(op):
            return [(new, op.node, ())]
        return [(new, op.node, older + ((inner, frozenset(where)),))]
    return step


def immortal(apply):
    def step(state, op):
        new = apply(state, op.what)
        return [] if new is None else [new]
    return step


def order(thing, first, ops, apply, crashes):
    """Goes through the calls' beginnings and ends by time, with all states that there may be and, for each, who of those that have not
    returned has had his moment.  When one returns he must have had it (J. Lowe's just-in-time linearization)."""
    ops = list(ops)
    step = mortal(thing, apply, durable_work(thing, ops, crashes)) if crashes else immortal(apply)
    dead_since = {}
    for node, start, end in crashes:
        ops.append(Op(start, end, node, ("crash", node), f"the death of node {node}"))
        dead_since[node] = start
    events = []
    for number, op in enumerate(ops):
        if op.end == NEVER and op.node not in dead_since:
            raise Fault(f"{thing}: never returned: {op.text}")
        events.append((op.start, 0, number))
        events.append((op.end, 1, number))
    events.sort()
    pending = {}        # number of the operation -> its bit
    free = []
    states = {((first, None, ()) if crashes else first, 0)}
    recent = collections.deque(maxlen=24)
    for _, returns, number in events:
        op = ops[number]
        if not returns:
            pending[number] = free.pop() if free else 1 << len(pending)
            continue
        if op.end == NEVER:
            break           # nothing else has an end that is to come
        bit = pending[number]
        found, seen, todo = set(), set(states), list(states)
        while todo:
            state, done = todo.pop()
            if done & bit:
                found.add((state, done & ~bit))
                continue
            branches = []
            for other, mark in pending.items():
                if done & mark:
                    continue
                that = ops[other]
                for new in step(state, that):
                    if that.what[0] in QUESTIONS:
                        # It changes nothing: whoever can have his moment now need not wait for another.
                        branches = [(state, done | mark)]
                        break
                    taken = done | mark
                    if that.what[0] == "crash":
                        # Whoever of its processes was not done will never be.
                        for lost, lost_mark in pending.items():
                            if ops[lost].node == that.node and ops[lost].end == NEVER:
                                taken |= lost_mark
                    branches.append((new, taken))
                else:
                    continue
                break
            for branch in branches:
                if branch not in seen:
                    seen.add(branch)
                    todo.append(branch)
        del pending[number]
        free.append(bit)
        recent.append(op)
        if not found:
            raise Fault(explain(thing, op, states, recent, [ops[other] for other in pending]))
        states = found


def explain(thing, op, states, recent, pending):
    lines = [f"{'/'.join(map(str, thing))}: no order explains: {op.text}"]
    lines += [f"  it may have been: {state}" for state in sorted({str(state[0]) for state in states})[:6]]
    base = min(one.start for one in list(recent) + [op])
    lines += ["  before it, by the time of return (times from a common beginning):"]
    lines += [f"    {one.start - base:>12} .. {one.end - base:>12}  {one.text}" for one in recent]
    lines += ["  under way:"] + [f"    {one.start - base:>12} .. {one.end - base:>12}  {one.text}" for one in pending]
    return "\n".join(lines)


# ---------------------------------------------------------------- records

PATTERN = bytes((x * 31 >> 3) & 0xff for x in range(2048)) * 6


def records(name, data):
    """(tag, offset, length) of each; a file that is not made of whole records is a fault."""
    out, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at:at + 8], "little")
        tag = int.from_bytes(data[at + 8:at + 16], "little")
        start = (tag + 16) % 2048
        if not 16 <= length <= 2 * BLOCK or data[at + 16:at + length] != PATTERN[start:start + length - 16]:
            raise Fault(f"{name}: no whole record at {at} of {len(data)}: {data[at:at + 32].hex()}")
        out.append((tag, at, length))
        at += length
    return out


def check_log(name, data, calls, crashes, quiet):
    where = {}
    for tag, at, length in records(name, data):
        if tag in where:
            raise Fault(f"{name}: record {tag:x} is there twice, at {where[tag][0]} and {at}")
        where[tag] = (at, at + length)
    dead = {node: (start, end) for node, start, end in crashes}
    appended = {int(call.args[1], 16): call for call in calls if call.name == "ap"}
    for tag in set(where) - set(appended):
        raise Fault(f"{name}: record {tag:x}, which nobody has appended")
    # What its node's death may have taken: not what was durable, nor what another one has seen or built on.
    synced = {}
    for call in calls:
        if call.result is not None and (call.name == "fs" or call.name == "ap" and call.args[-1] == "direct"):
            synced[call.node] = max(synced.get(call.node, 0), call.start if call.name == "fs" else call.start + 1)
    for tag, call in appended.items():
        if call.result is None:
            continue
        if int(call.result[0]) != int(call.args[0]):
            raise Fault("unexpected result: " + show(call))
        if tag in where:
            continue
        if call.node not in dead or call.args[-1] == "direct" or call.end < synced.get(call.node, 0) \
                or any(other.node != call.node and other.result is not None and other.start > call.end
                       and other.end < dead[call.node][0] for other in calls):
            raise Fault(f"{name}: lost: " + show(call))
    # Time and place agree.  `top`: how far the file reached for sure.
    events = []
    for call in calls:
        if call.result is None:
            continue
        tag = int(call.args[1], 16) if call.name == "ap" else None
        if call.name != "fs" and (tag is None or tag in where):
            events += [(call.start, 0, call), (call.end, 1, call)]
    events.sort(key=lambda event: event[:2])
    top, at_start = 0, {}
    begun = sorted((call.start, where[tag][1]) for tag, call in appended.items() if tag in where)
    reach, most = [], 0
    for start, end in begun:
        most = max(most, end)
        reach.append((start, most))
    for _, returns, call in events:
        if not returns:
            at_start[id(call)] = top
            continue
        least = at_start.pop(id(call))
        if call.name == "ap":
            place = where[int(call.args[1], 16)]
            if place[0] < least:
                raise Fault(f"{name}: at {place[0]}, but {least} bytes were there before it began: {show(call)}")
            top = max(top, place[1])
            continue
        # Anything of records that had been begun when it returned may be there.
        most = begun_until(reach, call.end) if not crashes else NEVER
        if call.name == "ls":
            if not least <= int(call.result[0]) <= most:
                raise Fault(f"{name}: size {call.result[0]}, not from {least} to {most}: {show(call)}")
            top = max(top, int(call.result[0])) if not crashes else top
            continue
        low, got = int(call.args[0]), int(call.result[0])
        if got < 0:
            raise Fault("unexpected result: " + show(call))
        if call.args[1] == "ro" and not quiet(call):
            least = 0
        if low + got < min(least, low + TAIL) or got and low + got > most:
            raise Fault(f"{name}: {got} bytes from {low} are seen, {least} to {most} were there: {show(call)}")
        if not crashes and zlib.crc32(data[low:low + got]) != int(call.result[1], 16) & 0xffffffff and got:
            raise Fault(f"{name}: other bytes than the file holds now: {show(call)}")
        top = max(top, low + got) if got and not crashes else top


def begun_until(reach, time):
    """How far what was begun until then reaches at most."""
    low, high = 0, len(reach)
    while low < high:
        middle = (low + high) // 2
        if reach[middle][0] <= time:
            low = middle + 1
        else:
            high = middle
    return reach[low - 1][1] if low else 0


def judge(history, directory):
    """Everything; `directory`: where the files can be read now.  Returns a line of text for the log."""
    count, faults = history.check()
    for name in LOGS:
        with open(os.path.join(directory, name), "rb") as file:
            data = file.read()
        try:
            history.check_log(name, data)
        except Fault as fault:
            faults.append(fault)
    if faults:
        raise Fault("\n".join([f"{len(faults)} faults", *map(str, faults[:8])]))
    return f"{history.calls} calls, {count} operations on {len(history.objects)} objects put in order, {history.stale} stale"
