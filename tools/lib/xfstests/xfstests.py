#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""tools/xfstests: run an xfstests checkout on gfs2-fuse, and compare with the kernel's gfs2.

usage: tools/xfstests [OPTION]... CHECKOUT [TEST]...
       tools/xfstests --table RESULTS...

CHECKOUT is a directory with xfstests (kdave/xfstests), built as its README says.  A TEST is a name
or a pattern (240, generic/24*); without one all of the group `quick' are run.

  -g GROUP          tests of this group, besides those named (may be repeated)
  -x GROUP          not the tests of this group (may be repeated; `dangerous' ones are never run unnamed)
  -e TEST           not this test or pattern (may be repeated)
  -r, --repeat N    run all of them N times
  -o OPTIONS        mount options (lockproto=lock_nolock)
  --results DIR     where results go, and where those of an earlier run are continued (a new directory
                    in /var/tmp, which stays)
  --images DIR      where the two volumes are made (/dev/shm, or the directory with the results)
  --size BYTES      how large they are (4G, sparse)
  --limit SECONDS   longest time for one test (900); then it counts as failed, and the others go on
  --uml             in a User-Mode Linux node (docs/uml.md): its kernel has the device mapper, with which many tests
                    cut the power, whatever this machine's kernel has; everything takes much longer there
  --devices A,B     on these devices and not on loop devices; what is on them is lost
  --all             show all tests in the table, not only where we differ
  --list            print the tests, and what the kernel's gfs2 does, and end
  --table           only print the table of these results directories, and judge

The tests see file system type gfs2 and two loop devices with sectors of 512 bytes, with volumes made by
mkfs.gfs2; fsck.gfs2 has to find nothing after each test.  Everything runs in namespaces of its own
(mounts, processes, network) and leaves nothing behind but the results, also when interrupted.

What the kernel's gfs2 does is in tests/xfstests/kernel, and where we differ and mean to (or cannot help it) in
tests/xfstests/differences, with reasons.  The exit status is 0 when everything is as these two say, 1 when
something else that the kernel passes failed or was not run, or a difference has gone; 2 when the
tests could not be run, 130 or 143 when interrupted.

  GFS2_FUSE   the daemon (default: built)
"""
import ctypes
import fnmatch
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import outcome

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
HERE = os.path.dirname(os.path.abspath(__file__))
EXPECTED = os.path.join(ROOT, "tests", "xfstests")
FREE_SECONDS = 60
START_SECONDS = 600      # until check comes to the first test


class Cannot(Exception):
    """The tests cannot be run; the text says why, and what to do about it."""


class Interrupted(Exception):
    pass


def run(argv, **more):
    done = subprocess.run([str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False, **more)
    if done.returncode:
        raise Cannot(f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Uninterrupted:
    """What is made and noted, or taken away, in here is so as a whole; a signal waits."""

    def __enter__(self):
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def __exit__(self, *_):
        signal.pthread_sigmask(signal.SIG_SETMASK, self.before)


# ---------------------------------------------------------------- the checkout

class Checkout:
    def __init__(self, path):
        self.path = os.path.realpath(path)
        self.groups = {}        # test -> set of groups
        if not os.access(f"{self.path}/check", os.X_OK) or not os.path.isdir(f"{self.path}/tests/generic"):
            raise Cannot(f"{path} is no xfstests checkout: there is no check or no tests/generic in it")
        try:
            with open(f"{self.path}/tests/generic/group.list") as text:
                for line in text:
                    name, *groups = line.split("#")[0].split() or [""]
                    if name:
                        self.groups["generic/" + name] = set(groups)
        except FileNotFoundError:
            raise Cannot(f"{path} has not been built (there is no tests/generic/group.list): its README says "
                         "how") from None

    def choose(self, names, groups, without, excluded):
        for name in names + excluded:
            if not fnmatch.filter(self.groups, full(name)):
                raise Cannot(f"no test is called {name}")
        for group in groups + without:
            if not any(group in those for those in self.groups.values()):
                raise Cannot(f"there is no group {group}")
        chosen = []
        for name, its in self.groups.items():
            named = any(fnmatch.fnmatchcase(name, full(pattern)) for pattern in names)
            if not (named or its.intersection(groups)):
                continue
            if not named and any(group.startswith("dangerous") for group in its):
                continue
            if its.intersection(without) or any(fnmatch.fnmatchcase(name, full(pattern)) for pattern in excluded):
                continue
            chosen.append(name)
        return chosen


def full(pattern):
    return pattern if "/" in pattern else "generic/" + pattern


# ---------------------------------------------------------------- devices

class Device:
    """A sparse image and a loop device over it that is gone at the latest when this process is."""

    def __init__(self, image, size):
        self.image = image
        with open(image, "wb") as file:
            file.truncate(size)
        try:
            self.path = run(["losetup", "--find", "--show", "--sector-size", 512, image]).strip()
        except Cannot:
            os.unlink(image)
            raise
        self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        # It is in use, by us: so this only says that the last one to close it detaches it.
        run(["losetup", "--detach", self.path])

    def close(self):
        os.close(self.fd)
        os.unlink(self.image)
        end = time.monotonic() + FREE_SECONDS
        while self.attached() and time.monotonic() < end:
            time.sleep(0.02)

    def attached(self):
        """Is the loop device there for our image, and not meanwhile for somebody else's?"""
        try:
            with open(f"/sys/block/{os.path.basename(self.path)}/loop/backing_file") as text:
                return text.read().startswith(self.image)
        except OSError:
            return False


class Given:
    """A device that we were told to take."""

    def __init__(self, path):
        if not os.path.exists(path):
            raise Cannot(f"{path}: no such device")
        self.path = path

    def close(self):
        pass


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as text:
            return text.read().split()
    except FileNotFoundError:
        return []


def kill(pid, number):
    try:
        os.kill(int(pid), number)
    except ProcessLookupError:
        pass


def processes_of(init):
    """Those in the process namespace of this first process, but it and the daemons."""
    found = []
    try:
        namespace = os.readlink(f"/proc/{init}/ns/pid")
    except OSError:
        return found
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm") as text:
                daemon = text.read().startswith("gfs2-fuse")
            if pid != init and not daemon and os.readlink(f"/proc/{pid}/ns/pid") == namespace:
                found.append(pid)
        except OSError:
            pass
    return found


def detach_below(directory):
    """Loop devices that a test made over files of the file systems under test, and had no time to take away.

    Those that are in use go when they are not any more.
    """
    listed = json.loads(run(["losetup", "--list", "--json", "--output", "NAME,BACK-FILE"]) or "{}")
    for loop in listed.get("loopdevices", []):
        if (loop["back-file"] or "").startswith(directory + "/"):
            subprocess.run(["losetup", "--detach", loop["name"]], check=False)


# ---------------------------------------------------------------- one run of check

LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def end_with_parent():
    """Even when we are killed without a word."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Session:
    """check with a list of tests, in namespaces of its own, on new volumes."""

    def __init__(self, options, checkout, daemon, tests, where):
        self.options, self.tests, self.where = options, tests, where
        self.process = None
        self.devices = []
        self.run = None
        self.setup = {"checkout": checkout.path, "results": where, "lib": os.path.join(ROOT, "tests", "lib"),
                      "options": options.mount, "tests": tests}
        self.daemon = daemon

    def make_devices(self):
        for at, name in enumerate(("test", "scratch")):
            with Uninterrupted():
                self.devices.append(
                    Given(self.options.devices[at]) if self.options.devices else
                    Device(f"{self.options.images}/{os.path.basename(self.run)}.{name}", self.options.size))

    def start(self):
        with Uninterrupted():
            # /run and not /tmp, which the tests get empty; the name is short because sockets are made below it.
            self.run = tempfile.mkdtemp(prefix="xfs.", dir="/run")
        os.chmod(self.run, 0o755)
        self.make_devices()
        for name, device in zip(("test", "scratch"), self.devices):
            run(["mkfs.gfs2", "-O", "-q", "-p", "lock_nolock", "-j", 1, device.path])
            self.setup[name] = device.path
        for name in ("bin", "sbin"):
            shutil.copytree(f"{HERE}/{name}", f"{self.run}/{name}")
        shutil.copy(self.daemon, f"{self.run}/sbin/gfs2-fuse")
        run(["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", f"{self.run}/fiemap.so", f"{HERE}/fiemap.c"])
        shutil.copy(f"{HERE}/inside.py", self.run)
        for name in ("daemon", "tests"):
            os.makedirs(f"{self.where}/{name}", exist_ok=True)
        with open(f"{self.run}/setup.json", "w") as text:
            json.dump(self.setup, text)
        # A session of its own: Ctrl-C is for us, and what we kill is the first process of the namespace.
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "slave", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "python3", "-B",
             f"{self.run}/inside.py", self.run], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=end_with_parent)

    def results(self):
        """Yield an outcome.Result per test; the one that takes too long is the last."""
        parser = outcome.Parser(self.tests)
        fd = self.process.stdout.fileno()
        with open(f"{self.where}/check.log", "ab") as log:
            while True:
                ready = select.select([fd], [], [], 1)[0]
                if ready:
                    data = os.read(fd, 65536)
                    if not data:
                        break
                    log.write(data)
                    log.flush()
                    yield from parser.feed(data.decode(errors="replace"))
                # A test that floods the output is no better than one that says nothing.
                if parser.seconds() > (self.options.limit if parser.name else max(self.options.limit, START_SECONDS)):
                    yield parser.gave_up(self.options.limit)
                    return
        status = self.process.wait()
        yield from parser.end()
        if not parser.started:
            raise Cannot(f"check ended with {status} before the first test:\n{parser.text.strip()[-2000:]}")

    def abort_mounts(self):
        """A request that no daemon will answer keeps its caller from being killed: end all that are left.

        Only of the run's own mounts: the namespace has copies of all that the machine had when it was made."""
        numbers = []
        for pid in children(self.process.pid):
            try:
                with open(f"/proc/{pid}/mountinfo") as text:
                    mounts = [line.split() for line in text if " - fuse.gfs2-fuse " in line]
                numbers += [words[2].split(":")[1] for words in mounts if words[4].startswith(self.run + "/")]
            except FileNotFoundError:
                pass
        if numbers:
            subprocess.run(["unshare", "--mount", "sh", "-c", "mount -t fusectl none /sys/fs/fuse/connections; "
                            "for n; do echo 1 >/sys/fs/fuse/connections/$n/abort; done", "sh", *numbers],
                           stderr=subprocess.DEVNULL, check=False)

    def stop_tests(self):
        """End what could still make something, and take away what can only be found while the file systems are there."""
        for pid in children(self.process.pid):
            # It would end with check, and everything with it.
            kill(pid, signal.SIGSTOP)
            for other in processes_of(pid):
                kill(other, signal.SIGKILL)
        detach_below(self.run)

    def stop(self):
        with Uninterrupted():
            if self.process:
                self.stop_tests()
                self.abort_mounts()
                # All the others die with the first process of the namespace, and its parent waits for that.
                for pid in children(self.process.pid):
                    kill(pid, signal.SIGKILL)
                try:
                    self.process.wait(FREE_SECONDS)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
                self.process.stdout.close()
            for device in self.devices:
                device.close()
            if self.run:
                shutil.rmtree(self.run, ignore_errors=True)


def run_once(options, checkout, daemon, tests, book):
    """All tests once; a test that has to be killed costs the rest a new start."""
    left = list(tests)
    while left:
        session = Session(options, checkout, daemon, left, options.results)
        done = set()
        try:
            session.start()
            for result in session.results():
                done.add(result.name)
                book.add(result)
        finally:
            session.stop()
        if not done:
            raise Cannot("check ended and has run none of " + " ".join(left[:5]))
        left = [name for name in left if name not in done]


# ---------------------------------------------------------------- in a User-Mode Linux node

def run_in_node(options, checkout, daemon, tests):
    """This program once more, in a node, with the two images as disks of its own; the results are ours."""
    sys.path.insert(0, os.path.join(ROOT, "tools", "lib"))
    import uml  # pylint: disable=import-outside-toplevel
    images = []
    os.environ["GFS2_FUSE"] = daemon
    name = f"xfstests{os.getpid()}"
    try:
        with uml.Cluster(name) as cluster:
            for part in ("test", "scratch"):
                images.append(f"{options.images}/{name}.{part}")
                with open(images[-1], "wb") as file:
                    file.truncate(options.size)
            cluster.up(1, mount=False, images=images, mem="2G", share=[checkout.path], share_rw=[options.results])
            node = cluster.node(1)
            node.run("modprobe -a loop dm_mod dm_flakey dm_snapshot dm_thin_pool")
            command = [os.path.join(ROOT, "tools", "xfstests"), "--devices", "/dev/ubda,/dev/ubdb", "--repeat", options.repeat,
                       "--limit", options.limit, "-o", options.mount, "--results", options.results, checkout.path, *tests]
            with node.spawn(command, env={"GFS2_FUSE": daemon}) as process:
                process.on_output = lambda _, data: (sys.stdout.buffer.write(data), sys.stdout.flush())
                status = process.wait().rc
            # The volumes are of no use any more, and a test that hangs must not keep us.
            node.kill()
            return status
    except uml.ClusterError as error:
        raise Cannot(str(error)) from None
    finally:
        for image in images:
            os.unlink(image)


# ---------------------------------------------------------------- the program

def daemon_program(where):
    if os.environ.get("GFS2_FUSE"):
        return os.environ["GFS2_FUSE"]
    print("building", flush=True)
    if not os.path.exists(f"{where}/build/build.ninja"):
        run(["meson", "setup", "-Dbuildtype=debugoptimized", "-Dtests=disabled", f"{where}/build", ROOT])
    run(["ninja", "-C", f"{where}/build"])
    return f"{where}/build/src/gfs2-fuse"


def parse_size(text):
    match = re.fullmatch(r"(\d+)([KMGT]?)", text.upper())
    if not match:
        raise Cannot(f"{text} is no size: 4G, 800M")
    return int(match[1]) << 10 * " KMGT".index(match[2] or " ")


class Options:
    def __init__(self, argv):
        self.groups, self.without, self.excluded, self.operands = [], [], [], []
        self.repeat, self.limit, self.size = 1, 900, 4 << 30
        self.mount, self.results, self.images, self.devices = "lockproto=lock_nolock", None, None, None
        self.all = self.list = self.table = self.help = self.uml = False
        takes = {"-g": self.groups.append, "-x": self.without.append, "-e": self.excluded.append,
                 "-r": self.number("repeat"), "--repeat": self.number("repeat"), "-o": self.text("mount"),
                 "--results": self.text("results"), "--images": self.text("images"), "--limit": self.number("limit"),
                 "--devices": self.two_devices, "--size": lambda word: setattr(self, "size", parse_size(word))}
        flags = {"--uml": "uml", "--all": "all", "--list": "list", "--table": "table", "-h": "help", "--help": "help"}
        words = iter(argv)
        for word in words:
            name, equals, value = word.partition("=")
            if word in flags:
                setattr(self, flags[word], True)
            elif name in takes and name.startswith("--") and equals:
                takes[name](value)
            elif word in takes:
                value = next(words, None)
                if value is None:
                    raise Cannot(f"{word} needs a value")
                takes[word](value)
            elif word.startswith("-"):
                raise Cannot(f"unknown option {word}; tools/xfstests --help tells which there are")
            else:
                self.operands.append(word)

    def number(self, name):
        def store(word):
            if not word.isdigit() or not int(word):
                raise Cannot(f"{word} is no number of {'times' if name == 'repeat' else 'seconds'}")
            setattr(self, name, int(word))
        return store

    def text(self, name):
        return lambda word: setattr(self, name, word)

    def two_devices(self, word):
        self.devices = word.split(",")
        if len(self.devices) != 2 or self.devices[0] == self.devices[1]:
            raise Cannot(f"{word}: wanted two devices, A,B")


def interrupted(number, _frame):
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)


def run_tests(options, checkout, tests, expected):
    options.results = os.path.realpath(options.results or tempfile.mkdtemp(prefix="gfs2-fuse-xfstests.", dir="/var/tmp"))
    os.makedirs(options.results, exist_ok=True)
    options.images = os.path.realpath(options.images or ("/dev/shm" if os.path.isdir("/dev/shm") else options.results))
    print(f"{len(tests)} tests, results in {options.results}", flush=True)
    if options.uml:
        return run_in_node(options, checkout, daemon_program(options.results), tests)
    book = outcome.Book(f"{options.results}/results.tsv", expected)
    try:
        daemon = daemon_program(options.results)
        for _ in range(options.repeat):
            run_once(options, checkout, daemon, tests, book)
    finally:
        book.close()
    return outcome.table(book.results, expected, options.all)


def main():
    for number in SIGNALS:
        signal.signal(number, interrupted)
    try:
        options = Options(sys.argv[1:])
        if options.help:
            print(__doc__.strip())
            return 0
        expected = outcome.Expected(f"{EXPECTED}/kernel", f"{EXPECTED}/differences")
        if not options.operands:
            raise Cannot("usage: tools/xfstests [OPTION]... CHECKOUT [TEST]...; --help tells more")
        if options.table:
            results = [result for where in options.operands for result in outcome.load(f"{where}/results.tsv")]
            return outcome.table(results, expected, options.all)
        where, *names = options.operands
        checkout = Checkout(where)
        tests = checkout.choose(names, options.groups or ([] if names else ["quick"]), options.without, options.excluded)
        if not tests:
            raise Cannot("no test is left to run")
        if options.list:
            for name in tests:
                print(f"{name}  {expected.kernel.get(name, '-'):8} {' '.join(sorted(checkout.groups[name]))}")
            return 0
        return run_tests(options, checkout, tests, expected)
    except Interrupted as number:
        print("interrupted", file=sys.stderr)
        return 128 + number.args[0]
    except (Cannot, outcome.Mistake, OSError) as error:
        print(f"xfstests: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
