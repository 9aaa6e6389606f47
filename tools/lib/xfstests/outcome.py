# SPDX-License-Identifier: GPL-2.0-or-later
"""What xfstests' check prints, what the kernel's gfs2 does, and the two beside each other."""
import fnmatch
import re
import textwrap
import time


class Mistake(Exception):
    """A file of ours is not what it should be."""


class Result:
    def __init__(self, name, result, seconds, reason):
        self.name, self.result, self.seconds, self.reason = name, result, seconds, reason

    def line(self):
        return f"{self.name}\t{self.result}\t{self.seconds}\t{self.reason}"


# ---------------------------------------------------------------- check's output

class Parser:
    """A test's part of the output begins with its name and goes on to the name of the next.

    Passed is only what has nothing in it but the time; check prints whatever is wrong behind the name, also
    what it finds after the test (fsck, the kernel log, core files).
    """

    def __init__(self, tests):
        self.left = list(tests)
        self.text = ""
        self.started = False
        self.name = None
        self.begun = time.monotonic()

    def feed(self, data):
        self.text += data
        return list(self.blocks())

    def blocks(self):
        while True:
            found = None
            for at, name in enumerate(self.left):
                # A name at the start of a line, and something behind it: 12 is not 123.
                match = re.search(rf"^{re.escape(name)}(?=[^\w])", self.text, re.MULTILINE)
                if match and (found is None or match.start() < found[1].start()):
                    found = at, match
                if at > 20:
                    break
            if not found:
                return
            at, match = found
            before, self.text = self.text[:match.start()], self.text[match.end():]
            if self.name:
                yield self.judge(before)
            self.name = self.left[at]
            # check runs them in our order: what was left out was not run for a reason of its own.
            del self.left[:at + 1]
            self.started = True
            self.begun = time.monotonic()

    def judge(self, block, seconds=None):
        block = re.sub(r"\A(\s+\d+s \.\.\.)?", "", block)
        taken = round(time.monotonic() - self.begun) if seconds is None else seconds
        passed = re.fullmatch(r"\s*(\d+)s\s*", block)
        if passed:
            return Result(self.name, "pass", int(passed[1]), "")
        if "[not run]" in block:
            return Result(self.name, "notrun", taken, one_line(block.split("[not run]", 1)[1]))
        if "[expunged]" in block:
            return Result(self.name, "notrun", taken, "expunged")
        return Result(self.name, "fail", taken, why(block))

    def end(self):
        """check has ended."""
        if not self.name:
            return []
        block = re.split(r"^(?:Ran: |Interrupted!|Passed all |Failures: )", self.text, maxsplit=1, flags=re.MULTILINE)[0]
        name, self.name = self.name, None
        if not block.strip():
            return [Result(name, "fail", round(self.seconds()), "check ended in the middle of it")]
        self.name = name
        return [self.judge(block)]

    def seconds(self):
        return time.monotonic() - self.begun

    def gave_up(self, limit):
        return Result(self.name or self.left[0], "fail", round(self.seconds()), f"no end after {limit} s")


def one_line(text):
    return " ".join(text.split())[:300]


def why(block):
    """The first things that are wrong: check's own words, then lines of the difference of the output."""
    head = one_line(re.split(r"^    --- ", block, maxsplit=1, flags=re.MULTILINE)[0])
    head = re.sub(r"\(see [^)]*\)", "", head).strip(" -")
    lines = [line.strip() for line in block.splitlines() if re.match(r"    [-+](?!\+\+|--)", line)]
    # What is there and should not be says more than what is missing.
    lines.sort(key=lambda line: line.startswith("-"))
    return one_line("; ".join([head] + lines[:3]))


# ---------------------------------------------------------------- what is expected

class Expected:
    """kernel: TEST<tab>RESULT lines; differences: see the head of that file."""

    def __init__(self, kernel, differences):
        self.kernel, self.reasons, self.meant, self.machine = {}, {}, {}, []
        with open(kernel) as text:
            for line in text:
                words = line.split()
                if not words or line.startswith("#"):
                    continue
                if len(words) != 2 or words[1] not in ("pass", "fail", "notrun", "hang", "timeout"):
                    raise Mistake(f"{kernel}: {line.strip()}")
                self.kernel[words[0]] = words[1]
        with open(differences) as text:
            self.read(differences, text)

    def read(self, path, text):
        reason = None
        for line in text:
            if line.startswith("#") or not line.strip():
                continue
            words = line.split()
            if line.startswith("reason ") and len(words) == 2:
                reason = words[1]
                self.reasons[reason] = []
            elif line.startswith("  ") and reason:
                self.reasons[reason].append(line.strip())
            elif line.startswith("machine ") and len(words) > 1:
                self.machine.append(re.compile(line.strip().split(None, 1)[1]))
            elif (parts := [part.strip() for part in line.split("|")]) and len(parts) == 3:
                name, result, why_ = parts
                if name not in self.kernel or result not in ("fail", "notrun", "may fail") or why_ not in self.reasons \
                        or name in self.meant:
                    raise Mistake(f"{path}: {line.strip()}")
                self.meant[name] = result, why_
            else:
                raise Mistake(f"{path}: {line.strip()}")

    def judge(self, name, results):
        """(verdict, remark) of all results of one test; the verdict is same, meant, machine, other or DIFFERENT."""
        kernel = self.kernel.get(name)
        kinds = {result.result for result in results}
        if name in self.meant:
            result, reason = self.meant[name]
            text = " ".join(self.reasons[reason])
            if kinds <= {"pass", "fail"} and result == "may fail":
                return "meant", text
            if kinds == {result}:
                return "meant", text
            if self.is_machine(results):
                return "machine", ""
            return "DIFFERENT", f"listed as: {result} ({reason})"
        if kinds == {"pass"}:
            return ("same" if kernel == "pass" else "other"), ""
        if kernel == "pass":
            return ("machine", "") if self.is_machine(results) else ("DIFFERENT", "")
        return ("same" if kinds == {kernel} else "other"), ""

    def is_machine(self, results):
        """Not run because of what this machine has and has not, which says nothing about us."""
        left_out = [result.reason for result in results if result.result == "notrun"]
        return left_out and not any(result.result == "fail" for result in results) and all(
            any(there.search(reason) for there in self.machine) for reason in left_out)


# ---------------------------------------------------------------- the results

class Book:
    """The results file: a line for each test that was run, at once, so that nothing is lost with us."""

    def __init__(self, path, expected):
        self.expected, self.results = expected, []
        self.file = open(path, "a")  # pylint: disable=consider-using-with

    def add(self, result):
        self.results.append(result)
        print(result.line(), file=self.file, flush=True)
        kernel = self.expected.kernel.get(result.name, "-")
        print(f"{result.name}  {result.result:6} {result.seconds:4} s   kernel {kernel:8} {result.reason}".rstrip(), flush=True)

    def close(self):
        self.file.close()


def load(path):
    with open(path) as text:
        for line in text:
            name, result, seconds, reason = line.rstrip("\n").split("\t", 3)
            yield Result(name, result, int(seconds), reason)


def counted(results):
    if len(results) == 1:
        return results[0].result
    kinds = [result.result for result in results]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("pass", "fail", "notrun") if kind in kinds)


def table(results, expected, everything):
    """Print; the exit status."""
    tests = {}
    for result in results:
        tests.setdefault(result.name, []).append(result)
    verdicts = {name: expected.judge(name, those) for name, those in tests.items()}
    titles = (("DIFFERENT", "What the kernel's gfs2 passes and we do not, or what differs otherwise from what was listed"),
              ("meant", "Differences that are listed, with their reasons"),
              ("other", "What the kernel's gfs2 does not pass, or nobody has looked"),
              ("machine", "Not run because of this machine"), ("same", "The same"))
    for verdict, title in titles:
        names = sorted(name for name in tests if verdicts[name][0] == verdict)
        if not names or verdict == "same" and not everything:
            continue
        print(f"\n{title}\n  {'test':12} {'kernel':8} gfs2-fuse")
        for name in names:
            print(f"  {name:12} {expected.kernel.get(name, '-'):8} {counted(tests[name])}")
            reason = next((result.reason for result in tests[name] if result.reason), "")
            for text in (verdicts[name][1], reason):
                if text:
                    print(textwrap.indent(textwrap.fill(text, 110), " " * 6))
    print()
    matrix(tests, expected)
    counts = {verdict: sum(1 for those in verdicts.values() if those[0] == verdict) for verdict, _ in titles}
    print(f"{len(tests)} tests in {sum(result.seconds for result in results)} s: {counts['same']} the same, "
          f"{counts['meant']} with a difference that is listed, {counts['machine']} not run because of this machine, "
          f"{counts['other']} others, {counts['DIFFERENT']} different")
    return 1 if counts["DIFFERENT"] else 0


def matrix(tests, expected):
    ours = ("pass", "fail", "notrun")
    print(f"  {'the kernel:':14}" + "".join(f"{'we: ' + kind:>14}" for kind in ours))
    for kernel in ("pass", "fail", "hang", "timeout", "notrun", None):
        row = [0] * 3
        for name, those in tests.items():
            if expected.kernel.get(name) == kernel:
                kinds = {result.result for result in those}
                row[1 if "fail" in kinds else 2 if "notrun" in kinds else 0] += 1
        if any(row):
            print(f"  {kernel or '(not known)':14}" + "".join(f"{number or '':>14}" for number in row))
    print()
