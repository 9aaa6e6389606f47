#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""tools/conform: does it behave like the kernel's gfs2?

usage: tools/conform [--list] [--nodes 1|2] [--mutate] [SCENARIO...]

Runs what was recorded with the kernel's gfs2 (tests/conform/*.txt) on a mount of ours and compares three
things: the result of every step, what the device holds afterwards, and the locks that were asked for,
granted and given back on the way.  Scenarios that stop what they do are run by glockctl.  A SCENARIO is a name or a pattern (w02*); without one all are run.
With names, the two sides of each are shown beside each other, otherwise only where they differ.

  --list     print the scenarios and end
  --nodes N  only those of one node (lock_nolock), or of two (lock_dlm, in User-Mode Linux nodes: docs/uml.md)
  --mutate   afterwards change every recording in every place (of long ones a part, chosen by GFS2_TEST_SEED) and see that it is noticed

Differences that are meant are in tests/conform/differences, each with its reason.  The exit status
is 1 when there is another, or when one of these is not there any more; then those are told once more, last.

  GFS2_FUSE, GLOCKCTL, GFS2_TEST_PROGS   the programs and the directory of the test programs (default: built)
"""
import collections
import fnmatch
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

import canon
import mount
import pair
import scenario

uml = pair.uml

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
SCENARIOS = os.path.join(ROOT, "tests", "conform")
DIFFERENCES = os.path.join(SCENARIOS, "differences")


class Row:
    """One thing to compare: the kernel's side and ours, as lists of words."""

    def __init__(self, where, part, kernel, ours):
        self.where, self.part, self.kernel, self.ours = where, part, kernel, ours
        self.reason = None      # why the difference is meant
        self.recorded = kernel  # the words as they are in the recording, and what made `kernel` of them
        self.canonical = list

    def same(self):
        return self.kernel == self.ours


# ---------------------------------------------------------------- running a scenario

class Expectation(Row):
    """What a scenario with stops expects, as glockctl has judged it."""

    def __init__(self, told, lines):
        wanted, got = told["wanted"].split(), told["got"].split()
        if told["judged"] == "content":
            wanted, got = wanted[-1].split(","), told["got"].split(",")
        super().__init__(lines[told["line"] - 1].strip(), told["judged"], wanted, got)
        self.ok = told["ok"]
        if told["judged"] not in ("result", "content") and (told["judged"] != "expect" or "..." in wanted):
            self.recorded = []      # a part of it is enough, so not every change makes it wrong

    def same(self):
        return self.ok


class Run:
    """A scenario on a mounted volume."""

    def __init__(self, volume, text):
        self.volume, self.text = volume, text
        self.hands = mount.Hands(volume.steps)
        self.names, self.inodes = {}, {}
        self.top = f"{volume.dir}/{text.name}"

    def path(self, word):
        """Paths of steps begin with an object: D/a, D."""
        first, _, rest = word.partition("/")
        if first in self.inodes or first == "F":
            return f"{self.top}/{first}" + (f"/{rest}" if rest else "")
        return word

    def do(self, words):
        paths = {"open": (2,), "stat": (1,), "unlink": (1,), "mkdir": (1,), "readdir": (1,), "rename": (1, 2),
                 "link": (1, 2)}.get(words[0], ())
        return self.hands(" ".join(self.path(word) if at in paths else word for at, word in enumerate(words)))

    def must(self, *words):
        answer = self.do([str(word) for word in words])
        if answer.startswith("-"):
            raise mount.Broken(f"{self.text.name}: {' '.join(map(str, words))}: {answer}")
        return answer

    def call(self, name, path):
        inode = int(self.hands(f"ino {path}"))
        self.inodes[name] = inode
        self.names[f"2/{inode:x}"] = name
        self.names[f"5/{inode:x}"] = name + ".iopen"

    def prepare(self):
        self.begin = self.volume.next_event()
        os.mkdir(self.top)
        for what, *more in self.text.prepare:
            getattr(self, "prepare_" + what)(*more)
        self.volume.control("set", "dio_mtime", "strict" if self.text.strict else "deferred")
        # The kernel's way; ours writes the same bytes, before EX is let go.
        self.volume.control("set", "dio_rest", "buffered")
        for _, name, state in self.text.hold:
            self.hold(name, state)

    def prepare_file(self, name, pieces, size):
        path = f"{self.top}/{name}"
        self.must("open", 15, path, "rwcx")
        for offset, length, letter in pieces:
            self.must("pwrite", 15, offset, length, letter)
        if size is not None:
            self.must("ftrunc", 15, size)
        self.must("fsync", 15)
        self.must("close", 15)
        self.call(name, path)

    def prepare_directory(self, name):
        os.mkdir(f"{self.top}/{name}")
        self.call(name, f"{self.top}/{name}")

    def prepare_open(self, handle, name, flags):
        self.must("open", handle, f"{self.top}/{name}", flags)

    def prepare_name(self, name, path):
        self.call(name, self.path(path))

    def prepare_step(self, step):
        self.last_mtime = self.result(self.must(*step.words), None)[1]

    last_mtime = None

    def forget(self, name):
        """Neither a lock nor a page of the file is kept."""
        self.must("fsync", 2)
        fd = os.open(f"{self.top}/{name}", os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        self.volume.control("demote", f"inode:{self.inodes[name]}", "UN")

    def hold(self, name, state):
        self.forget(name)
        if state.startswith("EX"):
            self.must("fchmod", 2, "0640")
            self.must("fsync", 2)
        elif state == "SH":
            self.volume.control("map", f"inode:{self.inodes[name]}")
        elif state == "DF":
            self.must("pread", 1, 0, 4096)
        if state.endswith("p"):
            self.must("pread", 2, 0, 4 << 20)

    @staticmethod
    def result(answer, last_mtime):
        """The result in the words of the recordings, and the mtime that it told."""
        words, mtime = [], last_mtime
        for word in answer.split():
            if word.startswith("mtime="):
                mtime = word
                if last_mtime:
                    words.append("mtime=" + ("same" if mtime == last_mtime else "changed"))
            else:
                words.append(word)
        return words, mtime

    def steps(self):
        """Do them; (step, result, events) of each."""
        done = []
        self.events(self.begin, None)   # what prepares the first step has ended
        since = self.volume.next_event()
        for step in self.text.steps:
            if step.pause:
                time.sleep(step.pause)
            answer = self.do(step.words)
            result, self.last_mtime = self.result(answer, self.last_mtime)
            events = self.events(since, step)
            if events:
                since = events[-1]["seq"] + 1
            done.append((step, result, events))
        return done

    def events(self, since, step):
        """What happened in a step, also what goes on after its call has returned."""
        end = time.monotonic() + mount.WAIT_SECONDS
        while time.monotonic() < end:
            events = self.volume.events(since)
            if self.complete(step, events):
                return events
            time.sleep(0.001)
        raise mount.Broken(f"{self.text.name}: {step}: something that must follow did not happen")

    def ended(self, events):
        """No request that began holds a lock: a read that is copied from the store to its caller has its answer before."""
        held, direct = collections.Counter(), set()
        for event in events:
            request, kind = event.get("req"), event["event"]
            if request and event["glock"] in self.names and event["glock"].startswith("2/"):
                held[request] += {"glock_queue": 1, "glock_dequeue": -1}.get(kind, 0)
                if kind == "dio_begin":
                    direct.add(request)
                elif kind == "dio_end":
                    direct.discard(request)
        return not direct and max(held.values(), default=0) <= 0

    def complete(self, step, events):
        mine = [event for event in events if event.get("glock") in self.names]
        if step and step.words[0] == "aiowq":
            # requests that are not waited for: all of them are under way
            sent = {event.get("req") for event in mine if event["event"] in ("dio_submit", "dio_upgrade", "dio_end")}
            return len(sent) >= int(step.words[5])
        if not self.ended(mine):
            return False
        if step and step.words[0] == "unlink":
            # the kernel has forgotten the inode, and it is freed
            kinds = [event["event"] for event in mine if self.names[event["glock"]] == "F"]
            return (kinds.count("glock_queue") == kinds.count("glock_dequeue") and
                    any(event["event"] == "glock_state" and event["to"] == "UN" and
                        self.names[event["glock"]] == "F.iopen" for event in mine))
        return True

    def rows(self):
        self.prepare()
        if self.text.delay:
            self.volume.control("set", "fault", f"op=write,cls=dio,delay_us={int(self.text.delay * 1e6)}")
        try:
            done = self.steps()
        finally:
            if self.text.delay:
                self.volume.control("set", "fault", "none")
        found = compare_steps(self.names, done)
        for name, offset, length, runs in self.text.content:
            ours = self.volume.content(self.inodes[name], offset, length)
            found.append(Row(f"{name} {offset}+{length}", "content", runs.split(","), ours.split(",")))
        return found

    def close(self):
        self.hands.close()


def compare_steps(names, done):
    """Events belong to the step that began their request, whenever they came."""
    home, lines = {}, []
    for at, (step, _, events) in enumerate(done):
        lines.append([])
        # nothing begins while one only waits
        here = at - 1 if at and step.words[0] == "aiowait" else at
        for event in events:
            request = event.get("req")
            gone = event["event"] == "glock_state" and names.get(event.get("glock")) == "F"
            if request or not (step.words[0] == "unlink" and gone):     # giving up the lock of what is gone is "meanwhile"
                lines[home.setdefault(request, here) if request else at].append(event)
    found, waited, in_flight = [], True, False
    for at, (step, result, _) in enumerate(done):
        title = f"{at + 1} {step}"
        waited = waited or bool(step.pause)
        found.append(Row(title, "result", step.result.split(), result))

        def canonical(words, recorded=True, at=at, waited=waited):
            return batch(done, at, canon.canonical(words, waited), recorded)

        recorded = canon.words(step.locks or "")
        ours = mount.line_of(lines[at], names, step.words[0] == "aiowq")
        if in_flight:
            ours = canon.looked(ours)
        row = Row(title, "locks", canonical(recorded), canonical(ours, False))
        row.recorded, row.canonical = recorded, canonical
        found.append(row)
        waited = False
        in_flight = step.words[0] == "aiowq" or in_flight and step.words[0] != "aiowait"
    return found


def batch(done, at, words, recorded):
    """Several requests at once: their order is a race, and one more or less may find what another has just allocated.

    So: the states that the lock went through, what kinds of request there were, and that their I/O ended.
    """
    verb = done[at][0].words[0]
    if verb not in ("aiowq", "aiowait"):
        return words
    moved = any(word.startswith("io:") for word in words)
    words = [word for word in words if not word.startswith("io:")]
    if verb == "aiowait":
        return words
    for step, _, _ in done[at + 1:] if recorded else ():
        moved = moved or step.words[0] == "aiowait" and " io:" in " " + (step.locks or "")
    states = [word for word in words if word.startswith("[")]
    requests = [[]]
    for word in words:
        if word == "?DF":
            requests.append([])
        if not word.startswith("["):
            requests[-1].append(word)
    kinds = {" ".join(request) for request in requests[1:]}
    if any("HOLE" in kind for kind in kinds):   # whether a later one still finds the hole is the race
        kinds -= {"?DF +DF map=MAPPED -DF"}
    return states + " ; ".join(sorted(kinds)).split() + (["io:W"] if moved else [])


# ---------------------------------------------------------------- differences that are meant

class Differences:
    """tests/conform/differences.

      reason NAME
        the text of the reason
      SCENARIO | STEP | PART | NAME...
        kernel WORDS
        ours WORDS          again: one of them, where it depends on who comes first
    """

    def __init__(self, path):
        self.reasons, self.meant, self.used = {}, {}, set()
        entry = None
        with open(path) as lines:
            for line in lines:
                line = line.rstrip("\n")
                if line.startswith("#") or not line.strip():
                    continue
                if line.startswith("reason "):
                    entry = self.reasons.setdefault(line.split()[1], [])
                elif not line.startswith(" "):
                    name, step, part, reason = (word.strip() for word in line.split("|"))
                    entry = self.meant.setdefault((name, step, part), {"reason": reason})
                elif isinstance(entry, list):
                    entry.append(line.strip())
                else:
                    side, _, words = line.strip().partition(" ")
                    entry.setdefault(side, []).append(canon.words(words))
        for key, entry in self.meant.items():
            if entry["kernel"] == entry["ours"]:
                raise scenario.Mistake(f"{path}: {key}: that is no difference")
            for reason in entry["reason"].split():
                if reason not in self.reasons:
                    raise scenario.Mistake(f"{path}: {key}: no reason is called {reason}")

    def judge(self, name, row):
        """True: the same, or meant as it is."""
        entry = self.meant.get((name, row.where, row.part))
        if entry:
            self.used.add((name, row.where, row.part))
            row.reason = entry["reason"]
            return entry["kernel"] == [row.kernel] and row.ours in entry["ours"]
        return row.same()

    def missing(self, name, rows):
        """Listed differences of a scenario whose place does not exist."""
        there = {(row.where, row.part) for row in rows}
        return [key for key in self.meant if key[0] == name and (key[1], key[2]) not in there]


def listing(name, row):
    """A row as it would stand in the list."""
    return (f"{name} | {row.where} | {row.part} | REASON\n"
            f"  kernel {' '.join(row.kernel)}\n  ours {' '.join(row.ours)}")


# ---------------------------------------------------------------- showing

def side_by_side(row, width=56):
    left = textwrap.wrap(" ".join(row.kernel), width) or ["-"]
    right = textwrap.wrap(" ".join(row.ours), width) or ["-"]
    mark = "=" if row.same() else "~" if row.reason else "!"
    for at in range(max(len(left), len(right))):
        print(f"      {left[at] if at < len(left) else '':{width}} {mark} {right[at] if at < len(right) else ''}".rstrip())


def show(text, rows, verdict, differences, everything):
    print(f"{verdict:9} {text.name}: {text.about}")
    if not everything and verdict != "DIFFERENT":
        return
    print(f"      {'what is expected' if text.stops else 'the kernel':56} | gfs2-fuse")
    last = None
    for row in rows:
        if not everything and differences.judge(text.name, row):
            continue
        if row.where != last:
            print(f"   {row.where}")
            last = row.where
        side_by_side(row)
        for reason in (row.reason or "").split():
            print(f"      meant ({reason}): {' '.join(differences.reasons[reason])}")
        if not differences.judge(text.name, row):
            print(textwrap.indent(listing(text.name, row), "      > "))


def tell_last(results, differences):
    """Once more and last, what differed and nothing else: of a long output often only the end is kept."""
    for text, rows in results:
        for key in differences.missing(text.name, rows):
            print(f"DIFFERENT {' | '.join(key)}: no such place")
        for row in rows:
            if differences.judge(text.name, row):
                continue
            print(f"DIFFERENT {text.name} | {row.where} | {row.part}")
            listed = differences.meant.get((text.name, row.where, row.part), {"ours": []})
            for side, words in [("kernel", row.kernel), *(("listed", words) for words in listed["ours"]), ("ours", row.ours)]:
                print(textwrap.fill(" ".join(words) or "-", 200, break_on_hyphens=False, initial_indent=f"  {side:6} ",
                                    subsequent_indent=" " * 9))


# ---------------------------------------------------------------- mutated recordings

KINDS = (("EX", "SH"), ("DF", "EX"), ("SH", "DF"), ("UN", "SH"), ("MAPPED", "HOLE"), ("HOLE", "MAPPED"), ("INLINE", "MAPPED"),
         ("io:W", "io:R"), ("io:R", "io:W"))
EVERY_PLACE = 200   # words: longer lines, whose canonical form takes its time, are changed in
OF_EACH_KIND = 20   # places


def places(words):
    """What can be changed where: (kind, place)."""
    for at, word in enumerate(words):
        yield "left out", at
        if at + 1 < len(words) and words[at + 1] != word:
            yield "changed places", at
        kind = next((kind for kind in KINDS if kind[0] in word), "digit" if word[-1:].isdigit() else None)
        if kind:
            yield kind, at


def some_places(words, rng):
    """Of a long line's a part, of every kind."""
    if len(words) <= EVERY_PLACE:
        return list(places(words))
    kinds = collections.defaultdict(list)
    for place in places(words):
        kinds[place[0]].append(place)
    return [place for of_kind in kinds.values() for place in rng.sample(of_kind, min(len(of_kind), OF_EACH_KIND))]


def mutated(words, kind, at):
    """The same line with one thing changed."""
    word = words[at]
    if kind == "left out":
        new = []
    elif kind == "changed places":
        return words[:at] + [words[at + 1], word] + words[at + 2:]
    elif kind == "digit":
        new = [word[:-1] + str((int(word[-1]) + 1) % 10)]
    else:
        new = [word.replace(*kind, 1)]
    return words[:at] + new + words[at + 1:]


def mutate(results, differences):
    """Every recording changed: is it noticed?  What the canonical form leaves out cannot be."""
    seed = int(os.environ.get("GFS2_TEST_SEED") or random.SystemRandom().randrange(1 << 31))
    rng = random.Random(seed)
    tried, parts, noticed, left_out = collections.Counter(), 0, 0, 0
    for text, rows in results:
        for row in rows:
            parts += len(row.recorded) > EVERY_PLACE
            for kind, at in some_places(row.recorded, rng):
                words = mutated(row.recorded, kind, at)
                changed = Row(row.where, row.part, row.canonical(words), row.ours)
                if changed.kernel == row.kernel:
                    left_out += 1
                    continue
                tried[kind] += 1
                if not differences.judge(text.name, changed):
                    noticed += 1
                else:
                    print(f"not noticed: {text.name} {row.where} {row.part}: {' '.join(words)}")
    print(f"{tried.total()} changed recordings, {len(tried)} kinds of change, {noticed} noticed; {left_out} changes of what does not count" +
          (f"; lines of more than {EVERY_PLACE} words, {parts}, changed in {OF_EACH_KIND} places for each kind (seed {seed})" if parts else ""))
    return tried and tried.total() == noticed


# ---------------------------------------------------------------- the program

def build(into):
    """(daemon, steps)"""
    daemon, progs = os.environ.get("GFS2_FUSE"), os.environ.get("GFS2_TEST_PROGS")
    if not daemon:
        print("building", flush=True)
        mount.run(["meson", "setup", "-Dbuildtype=debugoptimized", "-Dtests=disabled", f"{into}/build", ROOT])
        mount.run(["ninja", "-C", f"{into}/build"])
        daemon = f"{into}/build/src/gfs2-fuse"
    steps = f"{progs or into}/steps"
    if not os.path.exists(steps):
        mount.run(["gcc", "-O2", "-o", steps, os.path.join(ROOT, "tests/progs/steps.c"), "-laio", "-luring"])
    return daemon, steps


def run_with_stops(volume, text):
    """glockctl is who can stop something; what it has judged are the rows."""
    path = os.path.join(SCENARIOS, text.name + ".txt")
    built = os.path.dirname(os.path.dirname(os.path.abspath(volume.daemon)))
    argv = [os.environ.get("GLOCKCTL") or f"{built}/tools/glockctl", "--json", "-s", f"{volume.where}/control", "run", path, volume.dir]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=mount.WAIT_SECONDS * 4, check=False)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    if not told or not told[-1].get("completed"):
        raise mount.Broken(f"{text.name}: {done.stderr}")
    with open(path) as lines:
        lines = lines.read().splitlines()
    return [Expectation(one, lines) for one in told if "judged" in one]


def run_scenario(volume, text):
    if text.stops:
        return run_with_stops(volume, text)
    run = Run(volume, text)
    try:
        return run.rows()
    finally:
        run.close()


def choose(texts, patterns):
    for pattern in patterns:
        if not fnmatch.filter(texts, pattern):
            sys.exit(f"no scenario is called {pattern}; tools/conform --list prints them all")
    return [text for name, text in texts.items()
            if not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def one_node(programs, where, texts):
    """Yields (scenario, rows)."""
    volume = mount.Volume(*programs, where)
    try:
        volume.start()
        # times of direct writes are published by those who ask for them, not by the clock
        volume.control("set", "dio_mtime_interval", "3600")
        volume.control("set", "data_events", "on")
        for text in texts:
            yield text, run_scenario(volume, text)
        volume.stop()
    finally:
        volume.drop()


def two_nodes(programs, where, texts):
    cluster = pair.Cluster(*programs, where)
    try:
        cluster.start()
        for text in texts:
            yield text, pair.rows(cluster, text, Row)
        cluster.stop()
    finally:
        cluster.drop()


def judge_all(title, runs, named, differences):
    """Runs scenarios and shows what came out; ([(scenario, rows)], is all as it should be?)"""
    counts = {"same": 0, "meant": 0, "DIFFERENT": 0}
    results = []
    for text, rows in runs:
        fine = [differences.judge(text.name, row) for row in rows]
        gone = differences.missing(text.name, rows)
        verdict = ("DIFFERENT" if gone or not all(fine) else
                   "meant" if any(row.reason for row in rows) else "same")
        counts[verdict] += 1
        show(text, rows, verdict, differences, named)
        for key in gone:
            print(f"   listed as a difference, but there is no such place: {' | '.join(key)}")
        results.append((text, rows))
    print(f"{len(results)} scenarios of {title}: {counts['same']} the same, {counts['meant']} with differences that "
          f"are meant, {counts['DIFFERENT']} different", flush=True)
    return results, not counts["DIFFERENT"]


def conform(chosen, named, mutants, where):
    differences = Differences(DIFFERENCES)
    programs = build(where)
    results, good = [], True
    for title, nodes, runs in (("one node", 1, one_node), ("two nodes", 2, two_nodes)):
        texts = [text for text in chosen if text.nodes == nodes]
        if not texts:
            continue
        try:
            done, fine = judge_all(title, runs(programs, where, texts), named, differences)
        except uml.Unavailable as reason:
            print(f"{len(texts)} scenarios of {title}: not run, {reason}")
            if len(texts) == len(chosen):
                return 77
            continue
        results += done
        good = good and fine
    if mutants:
        good = mutate(results, differences) and good
    tell_last(results, differences)
    return 0 if good else 1


def arguments(words):
    """(flags, number of nodes or None, names)"""
    flags, nodes, names = set(), None, []
    words = iter(words)
    for word in words:
        if word == "--nodes":
            nodes = next(words, "")
            if nodes not in ("1", "2"):
                print("--nodes 1 or --nodes 2", file=sys.stderr)
                sys.exit(2)
        elif word in ("-h", "--help", "--list", "--mutate"):
            flags.add(word)
        elif word.startswith("-"):
            print(f"unknown option {word}; tools/conform --help tells which there are", file=sys.stderr)
            sys.exit(2)
        else:
            names.append(word)
    return flags, nodes and int(nodes), names


def main():
    flags, nodes, names = arguments(sys.argv[1:])
    if flags & {"-h", "--help"}:
        print(__doc__.strip())
        return 0
    chosen = [text for text in choose(scenario.load(SCENARIOS), names) if nodes in (None, text.nodes)]
    if "--list" in flags:
        for text in chosen:
            print(f"{text.name:44} {text.about}" + (" (two nodes)" if text.nodes > 1 else ""))
        return 0
    # So that nothing is left mounted or running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # A test's directory goes with the test, also when this is killed.
    above = os.environ.get("GFS2_TEST_DIR") or ("/dev/shm" if os.path.isdir("/dev/shm") else None)
    where = tempfile.mkdtemp(prefix="gfs2-fuse-conform.", dir=above)
    try:
        return conform(chosen, bool(names), "--mutate" in flags, where)
    except (mount.Broken, scenario.Mistake, uml.ClusterError) as error:
        print(f"conform: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(where, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
