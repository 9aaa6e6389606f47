# SPDX-License-Identifier: GPL-2.0-or-later
"""What every test of a mounted volume shares: making, mounting, unmounting and judging volumes.

A test file imports everything from here, defines functions named case_* and ends with main().
Each case makes the volumes it needs; whatever it leaves mounted is taken away after it, also
when it fails.  A case passes if it returns, is skipped if it calls skip() and fails otherwise.

Environment (tools/check sets it; by hand the defaults are good):

  GFS2_FUSE, GLOCKCTL    the programs under test; default: newest below build*/ of the source tree
  GFS2_TEST_PROGS        directory of the compiled tests/progs; default: compiled on demand
  GFS2_TEST_DIR          work directory, private to the test; default: a temporary one
  GFS2_TEST_FULL         set: the long versions
  GFS2_TEST_SEED         seed of everything random; printed, so that a failure can be repeated
  GFS2_TEST_TARGET       fuse (default), kernel (the kernel's gfs2) or ext4: the file system that
                         stands in.  A test that fails on those is suspected before the daemon is.
"""
# The test files get these modules from here too.
import atexit
import ctypes
import errno
import fcntl
import functools
import hashlib
import json
import mmap
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback

from warden import report_copies, report_threads

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGET = os.environ.get("GFS2_TEST_TARGET", "fuse")
FULL = bool(os.environ.get("GFS2_TEST_FULL"))
SEED = int(os.environ.get("GFS2_TEST_SEED") or random.SystemRandom().randrange(1 << 31))

# The longest a single step (mount, unmount, fsck, one program) may take.  It is a safety net that
# turns a hang into a failure with a name; no test waits for it.
STEP_SECONDS = 120

_LIBC = ctypes.CDLL(None, use_errno=True)
MNT_EXPIRE = 4

_volumes = []
_mounts = []
_serial = 0


class Skip(Exception):
    """The case cannot run here; the text says why."""


def skip(reason):
    raise Skip(reason)


def need_fuse():
    """For cases about the daemon itself, which a stand-in file system cannot answer."""
    if TARGET != "fuse":
        skip("about the daemon, target is " + TARGET)


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def equal(got, want, what):
    if got != want:
        raise AssertionError(f"{what}: got {got!r}, want {want!r}")


def same_data(got, want, what):
    """As equal(), for data: says where they differ."""
    if got == want:
        return
    at = next((i for i, (x, y) in enumerate(zip(got, want)) if x != y), min(len(got), len(want)))
    raise AssertionError(f"{what}: {len(got)} bytes instead of {len(want)}, the first difference at {at}: "
                         f"{got[at:at + 8].hex()} instead of {want[at:at + 8].hex()}")


def log(*words):
    print(*words, flush=True)


# ---------------------------------------------------------------- programs

def _newest_program(name):
    found = []
    for entry in os.listdir(ROOT):
        if entry.startswith("build"):
            for where, _, files in os.walk(os.path.join(ROOT, entry)):
                path = os.path.join(where, name)
                if name in files and os.access(path, os.X_OK):
                    found.append(path)
    return max(found, key=os.path.getmtime) if found else shutil.which(name)


def _program(variable, name):
    path = os.environ.get(variable) or _newest_program(name)
    if not path:
        skip(f"{name} has not been built and {variable} is not set")
    return path


def gfs2_fuse():
    return _program("GFS2_FUSE", "gfs2-fuse")


def glockctl_program():
    return _program("GLOCKCTL", "glockctl")


def progs_build(into, compiler="gcc"):
    """Compile every program of tests/progs into a directory. Warnings are errors."""
    source = os.path.join(ROOT, "tests", "progs")
    os.makedirs(into, exist_ok=True)
    for name in sorted(os.listdir(source)):
        if name.endswith(".c"):
            run([compiler, "-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-o",
                 os.path.join(into, name[:-2]), os.path.join(source, name),
                 "-laio", "-luring", "-lpthread"])
    return into


def prog(name):
    where = os.environ.get("GFS2_TEST_PROGS")
    if not where:
        where = os.path.join(workdir(), "progs")
        if not os.path.isdir(where):
            progs_build(where)
    return os.path.join(where, name)


def workdir():
    """The test's own directory, empty at its start."""
    if not os.environ.get("GFS2_TEST_DIR"):
        parent = "/dev/shm" if os.path.isdir("/dev/shm") else "/var/tmp"
        path = tempfile.mkdtemp(prefix="gfs2-fuse-test.", dir=parent)
        os.environ["GFS2_TEST_DIR"] = path
        atexit.register(shutil.rmtree, path, ignore_errors=True)
    return os.environ["GFS2_TEST_DIR"]


def temp(name):
    """A path in the work directory that no other call of the same test gets."""
    global _serial
    _serial += 1
    return os.path.join(workdir(), f"{name}.{_serial}")


def run(argv, timeout=STEP_SECONDS, ok=(0,), **more):
    """Run a program to its end; its output is in .stdout (stderr is merged in).

    ok: the exit statuses to accept, None for all.
    """
    argv = [str(word) for word in argv]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=more.pop("stderr", subprocess.STDOUT), text=True,
                          errors="replace", timeout=timeout, **more)
    if ok is not None and done.returncode not in ok:
        raise AssertionError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}")
    return done


def wait_for(condition, what, timeout=STEP_SECONDS, pause=0.005):
    """Poll until condition() is true and return its value."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError("gave up waiting for " + what)
        time.sleep(pause)


def ended(process, seconds=STEP_SECONDS):
    """A process's exit status, None if it does not end.  Second by second: time in which this test itself stands still is not counted."""
    for _ in range(seconds):
        try:
            return process.wait(1)
        except subprocess.TimeoutExpired:
            pass
    return None


# ---------------------------------------------------------------- volumes

# All that fsck.gfs2 3.x prints about a volume without a fault.  Its exit status alone does not do:
# some findings (a wrong "..") are printed and still end in 0.
_FSCK_CLEAN = re.compile(r"""
    Initializing\ fsck
  | Validating\ resource\ group\ index\.
  | Level\ 1\ resource\ group\ check:\ .*
  | \(level\ 1\ passed\)
  | Starting\ (pass\w+|check_statfs)
  | Reconciling\ bitmaps\.
  | (reconcile_bitmaps|pass\w+|check_statfs)\ completed\ in\ .*
  | fsck\.gfs2\ complete
  | \d+\ percent\ complete\.
  """, re.VERBOSE)


def fsck_findings(path):
    """What fsck.gfs2 -n has to say against a volume: an empty list if it is clean."""
    # No limit but the test's own: the largest volumes take it minutes where others are at work.
    done = run(["fsck.gfs2", "-n", path], timeout=None, ok=None)
    odd = [line for line in re.split(r"[\r\n]+", done.stdout)
           if line.strip() and not _FSCK_CLEAN.fullmatch(line.strip())]
    if done.returncode:
        odd.append(f"exit status {done.returncode}")
    return odd


class Volume:
    """A GFS2 volume in an image file of the work directory.

    The size is sparse, unless junk is asked for: then every block is full of it before mkfs, so that
    what was never written shows.  journal_mib: 8 is the least GFS2 allows and makes the log wrap
    soon.
    """

    def __init__(self, size="512M", bs=4096, journals=1, journal_mib=8, fmt=None,
                 proto="lock_nolock", table=None, name="volume", mkfs=(), junk=False):
        self.bs = bs
        self.path = temp(name) + ".img"
        self.device = None
        with open(self.path, "wb") as image:
            for _ in range(size_bytes(size) >> 20 if junk else 0):
                image.write(b"\xa5" * (1 << 20))
            image.truncate(size_bytes(size))
        _volumes.append(self)
        if TARGET == "ext4":
            run(["mkfs.ext4", "-q", "-F", "-b", max(bs, 1024), "-E", "lazy_itable_init=0", self.path])
            return
        argv = ["mkfs.gfs2", "-O", "-q", "-p", proto, "-j", journals, "-J", journal_mib, "-b", bs]
        if junk:
            argv.append("-K")
        if table:
            argv += ["-t", table]
        if fmt:
            argv += ["-o", f"format={fmt}"]
        run(argv + list(mkfs) + [self.path])

    def mount(self, *options, **more):
        return Mount(self.device or self.path, options, **more)

    def fsck(self):
        if TARGET == "ext4":
            run(["e2fsck", "-f", "-n", self.path])
            return
        odd = fsck_findings(self.path)
        check(not odd, "fsck.gfs2 -n is not content with the volume:\n  " + "\n  ".join(odd))

    def sha256(self):
        return sha256_file(self.path)

    def remove(self):
        if self.device:
            run(["losetup", "-d", self.device], ok=None)
            self.device = None
        if os.path.exists(self.path):
            os.unlink(self.path)


def size_bytes(text):
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def sha256_file(path):
    digest = hashlib.sha256()
    with open(path, "rb") as data:
        while chunk := data.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


# ---------------------------------------------------------------- mounts

def unescape(word):
    """A word of /proc/mounts: blanks and the like are three octal digits there."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)


def mount_entry(directory):
    """(source, type, options) of the topmost mount on a directory, or None."""
    found = None
    with open("/proc/self/mounts") as mounts:
        for line in mounts:
            source, where, kind, options = line.split()[:4]
            if unescape(where) == directory:
                found = (unescape(source), kind, options)
    return found


class Mount:
    """A mounted volume: a path-like object, and a context that unmounts and waits.

    The daemon runs in the foreground, so that its exit status is known and its messages are in
    .log; unmounting fails if it ended with anything but 0.
    """

    def __init__(self, device, options=(), directory=None, env=None):
        self.device = device
        self.options = options
        self.dir = directory or temp("mnt")
        self.log = temp("daemon") + ".log"
        self.daemon = None
        os.makedirs(self.dir, exist_ok=True)
        _mounts.append(self)
        if TARGET == "fuse":
            self._start(options, env)
        else:
            kind = "gfs2" if TARGET == "kernel" else "ext4"
            loop = "loop," if os.path.isfile(device) else ""
            opts = ",".join(o for o in options if o in ("ro", "rw"))
            run(["mount", "-t", kind, "-o", loop + "noatime" + ("," + opts if opts else ""),
                 device, self.dir])

    def _start(self, options, env):
        argv = [gfs2_fuse(), "-f"]
        if options:
            argv += ["-o", ",".join(options)]
        with open(self.log, "wb") as out:
            self.daemon = subprocess.Popen(argv + [self.device, self.dir], stdout=out, stderr=out,
                                           stdin=subprocess.DEVNULL, env=env)
        wait_for(lambda: self.daemon.poll() is not None or mount_entry(self.dir),
                 "the mount to appear")
        try:
            os.statvfs(self.dir)    # returns once the daemon answers requests
            usable = mount_entry(self.dir)
        except OSError as fault:    # it could not go on after mount(2)
            usable = fault.errno not in (errno.ENOTCONN, errno.ECONNREFUSED, errno.ECONNABORTED)
        if not usable:
            wait_for(lambda: self.daemon.poll() is not None, "a daemon whose mount is not usable to end")
            raise AssertionError(f"daemon ended with {self.daemon.returncode}: {self.messages()}")

    def messages(self):
        with open(self.log, errors="replace") as text:
            return text.read()

    def __fspath__(self):
        return self.dir

    def __truediv__(self, name):
        return os.path.join(self.dir, name)

    def __enter__(self):
        return self

    def __exit__(self, kind, _value, _trace):
        if kind is None and (self.daemon or mount_entry(self.dir)):
            self.umount()

    def umount(self, how="umount"):
        """Unmount and wait until the daemon has let go of the volume: umount(2) itself
        returns before the daemon has finished."""
        if how == "sigterm":
            self.daemon.send_signal(signal.SIGTERM)
        else:
            argv = {"umount": ["umount"], "fusermount3": ["fusermount3", "-u"]}[how]
            run(argv + [self.dir])
        self.wait_end()

    def wait_unused(self):
        """Until no open file keeps umount(2) from succeeding: after the end of programs that had files open here.

        A program's end is that of its files, but for those of its io_uring requests: when it is killed, a worker of the
        kernel's puts them later, and nothing that can be waited for tells when.  Nor does the daemon know: the mount is in
        use a little longer than the last file is open.  MNT_EXPIRE is the question itself: it says whether the mount is in use,
        and takes it away only the second time, if nobody has looked at it in between.
        """
        def unused():
            if not _LIBC.umount2(os.fsencode(self.dir), MNT_EXPIRE):
                raise AssertionError(f"{self.dir} was marked by somebody else, and is unmounted now")
            fault = ctypes.get_errno()
            check(fault in (errno.EAGAIN, errno.EBUSY), f"umount2(MNT_EXPIRE): {os.strerror(fault)}")
            return fault == errno.EAGAIN

        wait_for(unused, "the files that are open on the mount to be closed")
        os.stat(self.dir)       # takes the mark off

    def wait_end(self):
        if not self.daemon:
            return
        status = ended(self.daemon)
        if status is None:
            report_threads(self.daemon.pid)
            report_copies(self.dir)
            raise AssertionError("the daemon did not end after the unmount")
        self.daemon = None
        check(status == 0, f"the daemon ended with {status} after the unmount: {self.messages()}")
        check(not mount_entry(self.dir), "still mounted after the daemon has ended")
        if self in _mounts:
            _mounts.remove(self)

    def kill(self):
        """Kill the daemon as a crash would, and take the dead mount away."""
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()
        self.daemon = None
        self.drop()

    def drop(self):
        """Whatever state this mount is in, end it. Harmless when it is gone already."""
        if self.daemon:
            self.daemon.kill()
            self.daemon.wait()
            self.daemon = None
        while mount_entry(self.dir):
            if subprocess.run(["umount", "-l", self.dir], stderr=subprocess.DEVNULL).returncode:
                break
        if self in _mounts:
            _mounts.remove(self)

    def glockctl(self, *words, ok=(0,), json_lines=False):
        """Run glockctl on this mount; with json_lines the parsed output."""
        argv = [glockctl_program(), "-m", self.dir]
        if json_lines:
            argv.append("--json")
        done = run(argv + list(words), ok=ok)
        if not json_lines:
            return done
        return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


def jid_of(m):
    """The journal is held in EX under its number as long as the mount lives; a while longer are those that it replays."""
    held = re.findall(r"^G:  s:EX n:9/([0-9a-f]+)", m.glockctl("dump").stdout, re.M)
    equal(len(held), 1, "journals that a mount owns")
    return int(held[0], 16)


def clean_up():
    for mount in reversed(list(_mounts)):
        mount.drop()
    for volume in _volumes:
        volume.remove()
    _volumes.clear()


class Control:
    """The control socket (include/gfs2-fuse/control.h) of a mount with the option control=: many questions in no time, and
    without a program, whose start closes this process's open files once more (FLUSH)."""

    def __init__(self, mount):
        path = next(option[8:] for option in mount.options if option.startswith("control="))
        wait_for(lambda: os.path.exists(path), "the control socket")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r", encoding="utf-8")
        self.lines.readline()

    def __call__(self, *words):
        self.socket.sendall((" ".join(map(str, words)) + "\n").encode())
        out = []
        for line in self.lines:
            if line.startswith(" "):
                out.append(line[1:].rstrip("\n"))
                continue
            equal(line.rstrip(), "ok", f"answer to {words}")
            return out
        raise AssertionError("the daemon has closed its control socket")

    def json(self, *words):
        return [json.loads(line) for line in self(*words)]

    def close(self):
        self.lines.close()
        self.socket.close()


# ---------------------------------------------------------------- cases on a mount of their own

def _on_volume(function, *options, more=None):
    need_fuse()
    volume = Volume(size="128M")
    with volume.mount(*options) as mount:
        for name, value in (more or {}).items():
            setattr(mount, name, value)
        function(mount)
        write_file(mount / "after", b"alive", sync=True)
        equal(read_file(mount / "after"), b"alive", "the mount still works")
    volume.fsck()


def on_mount(function):
    """A case gets a mount that it may break nothing of: it works afterwards, and fsck finds nothing."""
    return functools.wraps(function)(lambda: _on_volume(function))


def on_mount_with_control(function):
    """The same with a control socket whose path is known: mount.control."""
    def wrapped():
        control = temp("control")
        _on_volume(function, "control=" + control, more={"control": control})
    return functools.wraps(function)(wrapped)


def for_each_size(*sizes):
    """A case gets the block size, one after the other: it does not take long, and one size may fail always."""
    def decorate(function):
        @functools.wraps(function)
        def wrapped():
            for bs in sizes:
                log("block size", bs)
                function(bs)
        return wrapped
    return decorate


def kernel_before(*version):
    """Is the running kernel older than that (6, 18)?"""
    return tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2]) < version


# ---------------------------------------------------------------- lock traces

class Trace:
    """The daemon's events from the moment the context is entered until it is left.

    What was recorded is in .events afterwards.  Beginning and end are found by two files of our
    own: each is written and synced until an event about it arrives, and events come in order.
    So no time has to be guessed.  (Two: an event about the first that arrives late is no end.)
    """

    def __init__(self, mount):
        self.mount = mount
        self.events = []

    def __enter__(self):
        self.out = temp("trace")
        self.marks = [open(self.mount / f".mark.{os.getpid()}.{which}", "wb", buffering=0) for which in ("begin", "end")]
        self.glocks = [f"2/{os.fstat(mark.fileno()).st_ino:x}" for mark in self.marks]
        with open(self.out, "wb") as out:
            self.process = subprocess.Popen(
                [glockctl_program(), "-m", self.mount.dir, "--json", "trace"],
                stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        self.start = self._marked(0, 0)
        return self

    def __exit__(self, kind, _value, _trace):
        try:
            if kind is None:
                end = self._marked(1, self.start)
                self.events = [event for event in self._read()[self.start:end]
                               if event.get("glock") not in self.glocks]
        finally:
            self.process.terminate()
            self.process.wait()
            for mark in self.marks:
                mark.close()
                os.unlink(mark.name)

    def _read(self):
        with open(self.out, errors="replace") as lines:
            return [json.loads(line) for line in lines
                    if line.endswith("\n") and line.startswith("{")]

    def _marked(self, which, since):
        """Touch that mark until an event about it shows up after number since; the number of
        events up to then."""
        def seen():
            check(self.process.poll() is None, "glockctl trace ended by itself: "
                  + open(self.out, errors="replace").read()[-1000:])
            os.pwrite(self.marks[which].fileno(), os.urandom(8), 0)
            os.fsync(self.marks[which].fileno())
            events = self._read()
            if any(event.get("glock") == self.glocks[which] for event in events[since:]):
                return len(events)
            return 0

        return wait_for(seen, "the trace to show an event", pause=0.05)

    def of(self, inode):
        """The events of one inode's glock, and those of direct I/O to it, in order."""
        name = f"2/{inode:x}"
        return [event for event in self.events if event.get("glock") == name]


# ---------------------------------------------------------------- data

def pattern(length, seed):
    """Reproducible bytes that differ at every offset and for every seed."""
    return random.Random(seed).randbytes(length)


class Aligned:
    """A page-aligned buffer for direct I/O."""

    def __init__(self, data):
        length = data if isinstance(data, int) else len(data)
        self.memory = mmap.mmap(-1, max(length, 1))
        self.view = memoryview(self.memory)[:length]
        if not isinstance(data, int):
            self.view[:] = data

    def __enter__(self):
        return self.view

    def __exit__(self, *_):
        self.view.release()


def write_file(path, data, sync=False):
    with open(path, "wb") as out:
        out.write(data)
        if sync:
            out.flush()
            os.fsync(out.fileno())


def read_file(path):
    with open(path, "rb") as data:
        return data.read()


def expect_errno(number, call, *args, **more):
    """The call must fail, and with this errno."""
    try:
        result = call(*args, **more)
    except OSError as error:
        check(error.errno == number,
              f"{call.__name__}{args}: {errno.errorcode.get(error.errno)} instead of "
              f"{errno.errorcode[number]}")
        return
    raise AssertionError(f"{call.__name__}{args}: succeeded ({result!r}) instead of "
                         f"{errno.errorcode[number]}")


# ---------------------------------------------------------------- the test program

def _run_case(name, function):
    started = time.monotonic()
    try:
        function()
        verdict, text = "ok", ""
    except Skip as reason:
        verdict, text = "skip", str(reason)
    except Exception:
        verdict, text = "FAIL", traceback.format_exc()
        for mount in _mounts:
            if os.path.exists(mount.log):
                text += f"--- messages of the daemon on {mount.dir}\n{mount.messages()[-4000:]}"
    took = f" ({time.monotonic() - started:.1f} s)" if verdict != "skip" else ":"
    log(f"{verdict} {name}{took} {text}".rstrip())
    clean_up()
    return verdict


def _end_of_time(_signal, frame):
    """The warden's word: it has said what the others were doing; what was the test?"""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    traceback.print_stack(frame)
    sys.exit(1)


def main():
    """Run the cases of the calling test file; arguments select some by name. Exit 0, 1 or 77."""
    cases = {name[5:]: item for name, item in vars(sys.modules["__main__"]).items()
             if name.startswith("case_") and callable(item)}
    wanted = sys.argv[1:] or list(cases)
    for name in wanted:
        if name not in cases:
            sys.exit(f"no case {name}; there are: {' '.join(cases)}")
    signal.signal(signal.SIGTERM, _end_of_time)
    atexit.register(clean_up)
    log(f"seed {SEED}")
    random.seed(SEED)
    verdicts = [_run_case(name, cases[name]) for name in wanted]
    if "FAIL" in verdicts:
        sys.exit(1)
    sys.exit(77 if verdicts and all(v == "skip" for v in verdicts) else 0)
