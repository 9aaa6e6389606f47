#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""tools/check: builds the project in several ways, runs the tests, prints a line for each.

usage: tools/check [--full] [--no-skip] [--list] [NAME...]

  --full      also what does not fit the time of an ordinary run
  --no-skip   a skipped test counts as a failure
  --list      print the tests and end
  NAME        only these: a group (build unit sim fuzz mount crash uml; all of it only with --full), a
              test (mount/20-namespace, unit/log), either with @VARIANT, or a pattern with * and ?

A test is an executable file tests/GROUP/NN-name. Comment lines at its top declare it:

  # test: what it shows, in one line
  # timeout: seconds              default 180
  # full: only                    runs with --full only
  # variants: plain asan          the builds it runs against; default plain
  # alone: yes                    nothing else runs at the same time
  # namespace: no                 not in a mount namespace of its own
  # workdir: disk                 needs a work directory on disk (default: memory)

It passes with exit status 0 and is skipped with 77, its last line of output being the reason.

What is random in a test follows from its name and the contents of the commit, so that a run elsewhere does the same; with --full, with
GFS2_TEST_SEED=NUMBER or outside of a git repository from something else.

  GFS2_CHECK_BUILD=DIR   keep the build directories there and use them again
  GFS2_CHECK_LOGS=DIR    keep the logs of all tests there (default: only of failed ones, in a
                         directory that is named at the end)
"""
import concurrent.futures
import fnmatch
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tools", "lib"))
from onegroup import one_group    # noqa: E402

TESTS = os.path.join(ROOT, "tests")
GROUPS = ["build", "unit", "sim", "fuzz", "mount", "crash", "uml"]
BUILD_SECONDS = 600
UNIT_SCALE = 3      # the sanitizers make the unit tests that much slower
ASAN_SCALE = 3
FULL_SCALE = 10     # --full does about ten times the work of the tests that scale
LOG_TAIL_LINES = 60

# variant: compiler, meson options. The optimizer stays on under the sanitizers: without it the
# mount tests would not fit their time. Debug checks (lock order, holders) go with them.
BUILDS = {
    "plain": ("gcc", ["-Dbuildtype=debugoptimized"]),
    "clang": ("clang", ["-Dbuildtype=debugoptimized"]),
    "asan": ("gcc", ["-Dbuildtype=debugoptimized", "-Doptimization=1", "-Ddebug-checks=enabled",
                     "-Db_sanitize=address,undefined"]),
    "tsan": ("clang", ["-Dbuildtype=debugoptimized", "-Doptimization=1", "-Ddebug-checks=enabled",
                       "-Db_sanitize=thread", "-Db_lundef=false"]),
}
UNIT_VARIANTS = ["plain", "asan", "tsan"]
# What a sanitizer says without having found anything (the simulator switches stacks).
NO_FINDING = re.compile(r"==\d+==WARNING: ASan doesn't fully support makecontext/swapcontext functions.*")
SANITIZER_ENV = {
    "ASAN_OPTIONS": "abort_on_error=0:exitcode=99:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1:exitcode=99",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1:exitcode=99:suppressions="
                    + os.path.join(HERE, "tsan.supp"),
}


class Test:
    def __init__(self, group, name, variant=None, path=None, head=None):
        self.group, self.short, self.variant, self.path = group, name, variant, path
        head = head or {}
        self.about = head.get("test", "")
        self.timeout = float(head.get("timeout", 180))
        self.full_only = head.get("full") == "only"
        self.alone = head.get("alone", "yes" if group == "uml" else "no") == "yes"
        self.namespace = head.get("namespace", "no" if group == "uml" else "yes") == "yes"
        self.on_disk = head.get("workdir", "disk" if group == "uml" else "memory") == "disk"
        self.name = f"{group}/{name}" + (f"@{variant}" if variant not in (None, "plain") else "")

    def selected(self, names, full):
        plain, variant = f"{self.group}/{self.short}", self.variant or "plain"
        words = {self.name, plain, f"{plain}@{variant}"}
        # A group is as much of it as runs without names.
        if full or not self.full_only:
            words |= {self.group, f"{self.group}@{variant}"}
        return any(fnmatch.fnmatchcase(word, name) for name in names for word in words)


def header(path):
    """The declarations at the top of a test file."""
    head = {}
    with open(path, errors="replace") as lines:
        for line in list(lines)[:30]:
            found = re.match(r"#\s*(test|timeout|full|variants|alone|namespace|workdir):\s*(.*)", line)
            if found:
                head[found[1]] = found[2].strip()
    return head


def discover():
    tests = [Test("build", name, None, None, {"test": about}) for name, about in (
        ("plain", "gcc, optimized, warnings are errors"),
        ("clang", "clang, optimized, warnings are errors"),
        ("asan", "gcc with the address and undefined behaviour sanitizers"),
        ("tsan", "clang with the thread sanitizer"),
        ("progs", "the test programs, gcc and clang"))]
    units = sorted(name[5:-2] for name in os.listdir(os.path.join(TESTS, "unit"))
                   if re.fullmatch(r"test_\w+\.c", name))
    tests += [Test("unit", name, variant, None, {"test": "unit tests of " + name})
              for variant in UNIT_VARIANTS for name in units]
    for group in GROUPS[2:]:
        directory = os.path.join(TESTS, group)
        for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
            path = os.path.join(directory, name)
            if re.match(r"\d\d", name) and os.access(path, os.X_OK) and os.path.isfile(path):
                head = header(path)
                for variant in head.get("variants", "plain").split():
                    tests.append(Test(group, os.path.splitext(name)[0], variant, path, head))
    return tests


def contents():
    """What the commit that is checked out holds, as one word; empty: not known."""
    try:
        # Whoever the repository belongs to.
        done = subprocess.run(["git", "-c", "safe.directory=*", "-C", ROOT, "rev-parse", "HEAD^{tree}"], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if not done.returncode else ""


class Check:
    def __init__(self, full, no_skip):
        self.full, self.no_skip = full, no_skip
        self.counts = {"PASS": 0, "FAIL": 0, "SKIP": 0}
        self.print_lock = threading.Lock()
        self.built = {}         # variant: True or False, once tried
        self.processes = set()  # what runs now, to be ended when we are
        self.stopping = False
        self.interrupted = False
        self.part_skipped = 0   # cases skipped within tests that passed
        parent = os.environ.get("GFS2_CHECK_BUILD")
        self.scratch = tempfile.mkdtemp(prefix="gfs2-fuse-check.", dir="/var/tmp")
        self.builds = os.path.abspath(parent) if parent else os.path.join(self.scratch, "build")
        self.memory = self.scratch
        if os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > 4 << 30:
            self.memory = tempfile.mkdtemp(prefix="gfs2-fuse-check.", dir="/dev/shm")
        keep = os.environ.get("GFS2_CHECK_LOGS")
        self.logs = os.path.abspath(keep) if keep else os.path.join(self.scratch, "logs")
        os.makedirs(self.logs, exist_ok=True)
        # Tests act as other users too, who must get through to the mounts.
        os.chmod(self.scratch, 0o711)
        os.chmod(self.memory, 0o711)
        self.failed_logs = []
        self.tree = "" if full else contents()

    def seed(self, name):
        """For the environment of a test."""
        if os.environ.get("GFS2_TEST_SEED") or not self.tree:
            return {}
        return {"GFS2_TEST_SEED": str(int(hashlib.sha256(f"{self.tree} {name}".encode()).hexdigest()[:7], 16))}

    # -- results

    def say(self, text):
        with self.print_lock:
            print(text, flush=True)

    def result(self, verdict, name, seconds, reason="", log=None):
        self.counts[verdict] += 1
        if verdict == "FAIL" and log and os.path.exists(log):
            self.failed_logs.append(log)
            with open(log, errors="replace") as text:
                tail = text.read().splitlines()[-LOG_TAIL_LINES:]
            self.say("\n".join("    | " + line[:300] for line in tail))
        self.say(f"{verdict} {name} ({seconds:.1f} s)" + (f": {reason}" if reason else ""))

    # -- running programs

    def run(self, argv, log, timeout=None, env=None, cwd=None):
        """Exit status of a program with its output in a log; 124 if it took too long."""
        with open(log, "ab") as out:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                       env=env, cwd=cwd, start_new_session=True)
        self.processes.add(process)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return 124
        finally:
            self.processes.discard(process)

    def log_of(self, name):
        """Where a test's output goes: empty, also when the logs of an earlier run are there."""
        path = os.path.join(self.logs, name.replace("/", "-") + ".log")
        if os.path.exists(path):
            os.unlink(path)
        return path

    def stop(self):
        """End what runs: wardens clean up after their tests when they get SIGTERM."""
        self.stopping = True
        for process in list(self.processes):
            try:
                os.kill(process.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass

    # -- builds

    def build(self, test):
        log = self.log_of(test.name)
        started = time.monotonic()
        if test.short == "progs":
            status = self.build_progs(log)
        else:
            compiler, options = BUILDS[test.short]
            where = os.path.join(self.builds, test.short)
            status = 0
            if not os.path.exists(os.path.join(where, "build.ninja")):
                env = dict(os.environ, CC=compiler)
                status = self.run(["meson", "setup", "--werror", *options, where, ROOT], log,
                                  BUILD_SECONDS, env)
            if not status:
                status = self.run(["ninja", "-C", where], log, BUILD_SECONDS)
        self.built[test.short] = status == 0
        self.result("FAIL" if status else "PASS", test.name, time.monotonic() - started,
                    "" if not status else f"exit status {status}", log)

    def build_progs(self, log):
        for compiler in ("clang", "gcc"):
            code = "import sys; sys.path.insert(0, %r); import testlib; " \
                   "testlib.progs_build(sys.argv[1], sys.argv[2])" % HERE
            status = self.run([sys.executable, "-B", "-c", code,
                               os.path.join(self.builds, "progs"), compiler], log, BUILD_SECONDS)
            if status:
                return status
        return 0

    def program(self, variant, name):
        for where, _, files in os.walk(os.path.join(self.builds, variant)):
            path = os.path.join(where, name)
            if name in files and os.access(path, os.X_OK):
                return path
        return None

    # -- unit tests

    def unit(self, variant, tests):
        """
        All unit tests of one build by one `meson test`, then a line for each.  Each has a limit of its own (meson.build); all
        together have none: the rest would pay for the one that hangs, and be said not to have run.
        """
        if not self.built.get(variant):
            for test in tests:
                self.result("FAIL", test.name, 0, f"build/{variant} failed")
            return
        where = os.path.join(self.builds, variant)
        log = self.log_of(f"unit@{variant}")
        base = f"check-{os.getpid()}"
        env = dict(os.environ, **SANITIZER_ENV, **self.seed(f"unit@{variant}"), MALLOC_PERTURB_="165")
        self.run(["setarch", "-R", "meson", "test", "-C", where, "--no-rebuild", "--logbase", base,
                  "--suite", "unit", "--timeout-multiplier",
                  "1" if variant == "plain" else str(UNIT_SCALE),
                  *[test.short for test in tests]], log, env=env)
        outcome = {}
        try:
            with open(os.path.join(where, "meson-logs", base + ".json")) as lines:
                for line in lines:
                    row = json.loads(line)
                    outcome[row["name"].split(" / ")[-1]] = row
        except OSError:
            pass
        for test in tests:
            row = outcome.get(test.short)
            if not row:
                self.result("FAIL", test.name, 0, "meson did not run it (is it in meson.build?)", log)
            elif row["result"] in ("OK", "EXPECTEDFAIL"):
                self.result("PASS", test.name, row["duration"])
            elif row["result"] == "SKIP":
                self.result("SKIP", test.name, row["duration"],
                            (row.get("stdout") or "no reason given").strip().splitlines()[-1])
            else:
                own = self.log_of(test.name)
                with open(own, "w") as out:
                    out.write((row.get("stdout") or "") + (row.get("stderr") or ""))
                self.result("FAIL", test.name, row["duration"], row["result"].lower(), own)

    # -- tests that mount

    def script(self, test):
        if self.stopping:
            return
        log = self.log_of(test.name)
        variant = test.variant or "plain"
        if not (self.built.get(variant) and self.built.get("progs")):
            self.result("FAIL", test.name, 0, f"build/{variant} or build/progs failed")
            return
        env = dict(os.environ, **self.seed(test.name), PYTHONDONTWRITEBYTECODE="1")
        for variable, name in (("GFS2_FUSE", "gfs2-fuse"), ("GLOCKCTL", "glockctl")):
            path = self.program(variant, name)
            if not path:
                self.result("FAIL", test.name, 0, f"build/{variant} made no {name}")
                return
            env[variable] = path
        env["GFS2_TEST_PROGS"] = os.path.join(self.builds, "progs")
        env["GFS2_FUSE_BUILDDIR"] = os.path.join(self.builds, variant)
        timeout = test.timeout
        argv = [sys.executable, "-B", os.path.join(HERE, "warden.py")]
        work = tempfile.mkdtemp(prefix=test.short + ".",
                                dir=self.scratch if test.on_disk else self.memory)
        os.chmod(work, 0o711)
        env["GFS2_TEST_DIR"] = work
        if self.full:
            env["GFS2_TEST_FULL"] = "1"
            timeout *= FULL_SCALE
        if variant != "plain":
            env.update(SANITIZER_ENV)
            for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"):
                env[name] += f":log_path={work}/sanitizer"
            timeout *= ASAN_SCALE
            argv.append("--fixed-addresses")
        if test.namespace:
            argv.append("--namespace")
        argv += ["--timeout", str(timeout), "--dir", work, "--", test.path]
        started = time.monotonic()
        status = self.run(argv, log, env=env, cwd=work)
        seconds = time.monotonic() - started
        status = self.sanitizer_reports(work, log) or status
        shutil.rmtree(work, ignore_errors=True)
        self.verdict(test, status, seconds, log, timeout)

    @staticmethod
    def sanitizer_reports(work, log):
        """A daemon in the background has nobody to tell what its sanitizer found: look."""
        status = 0
        for name in sorted(os.listdir(work)):
            if name.startswith("sanitizer."):
                with open(os.path.join(work, name), errors="replace") as text:
                    lines = [line for line in text.read().splitlines() if not NO_FINDING.fullmatch(line)]
                if lines:
                    status = 99
                    with open(log, "a") as out:
                        out.write("\n".join(lines) + "\n")
        return status

    def verdict(self, test, status, seconds, log, timeout):
        if status == 0:
            with open(log, errors="replace") as text:
                parts = [line[5:].strip() for line in text if line.startswith("skip ")]
            self.part_skipped += len(parts)
            self.result("PASS", test.name, seconds, "; ".join("without " + part for part in parts))
        elif status == 77:
            with open(log, errors="replace") as text:
                lines = text.read().strip().splitlines() or ["no reason given"]
            self.result("SKIP", test.name, seconds, lines[-1])
        else:
            reason = {124: f"not finished after {timeout:.0f} s", 125: "left processes running",
                      99: "sanitizer report", 130: "interrupted"}.get(status, f"exit status {status}")
            self.result("FAIL", test.name, seconds, reason, log)

    def scripts(self, tests):
        """Two at a time (they wait for disks and locks a lot), then those that want to be alone."""
        together = [test for test in tests if not test.alone]
        with concurrent.futures.ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
            for future in [pool.submit(self.script, test) for test in together]:
                future.result()
        for test in tests:
            if test.alone:
                self.script(test)

    # -- all of it

    def run_all(self, tests):
        by_group = {group: [test for test in tests if test.group == group] for group in GROUPS}
        for group in GROUPS:
            if not by_group[group] or self.stopping:
                continue
            self.say(f"== {group}: {len(by_group[group])} tests")
            if group == "build":
                for test in by_group[group]:
                    self.build(test)
            elif group == "unit":
                for variant in UNIT_VARIANTS:
                    chosen = [test for test in by_group[group] if test.variant == variant]
                    if chosen and not self.stopping:
                        self.unit(variant, chosen)
            else:
                self.scripts(by_group[group])

    def clean(self):
        if self.failed_logs and not os.environ.get("GFS2_CHECK_LOGS"):
            kept = tempfile.mkdtemp(prefix="gfs2-fuse-check-logs.", dir="/var/tmp")
            for log in self.failed_logs:
                shutil.copy(log, kept)
            self.say(f"the logs of what failed: {kept}")
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.rmtree(self.memory, ignore_errors=True)


def select(tests, names, full):
    """What to run, and with it the builds it needs."""
    if names:
        for name in names:
            if not any(test.selected([name], full) for test in tests):
                print(f"no test is called {name}; tools/check --list prints them all", file=sys.stderr)
                sys.exit(2)
        chosen = [test for test in tests if test.selected(names, full)]
    else:
        chosen = [test for test in tests if full or not test.full_only]
    needed = {test.variant or "plain" for test in chosen if test.group != "build"}
    if any(test.group not in ("build", "unit") for test in chosen):
        needed.add("progs")
    return [test for test in tests
            if test in chosen or test.group == "build" and test.short in needed]


def main():
    flags = [word for word in sys.argv[1:] if word.startswith("-")]
    names = [word for word in sys.argv[1:] if not word.startswith("-")]
    if "-h" in flags or "--help" in flags:
        print(__doc__.strip())
        return 0
    for flag in flags:
        if flag not in ("--full", "--no-skip", "--list"):
            print(f"unknown option {flag}; tools/check --help tells which there are", file=sys.stderr)
            return 2
    full = "--full" in flags
    tests = discover()
    chosen = select(tests, names, full or bool(names))
    if "--list" in flags:
        for test in select(tests, names, True):
            print(f"{test.name:36} {test.about}" + (" (only with --full)" if test.full_only else ""))
        return 0

    session = Check(full, "--no-skip" in flags)

    def interrupted(*_):
        session.say("interrupted, cleaning up")
        session.interrupted = True
        session.stop()

    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    with one_group() as not_alone:
        if not_alone:
            session.say(not_alone)
        try:
            session.run_all(chosen)
        finally:
            session.stop()
            session.clean()
    counts = session.counts
    print(f"{counts['PASS']} passed, {counts['FAIL']} failed, {counts['SKIP']} skipped", flush=True)
    bad = counts["FAIL"] or session.interrupted
    if session.no_skip:
        bad = bad or counts["SKIP"] or session.part_skipped
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
