#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""tools/bench: how fast is I/O through the daemon, beside its peers on the same store?

usage: tools/bench [--store memory|disk|cluster|PATH] [--json FILE] [--rounds N] [--seconds N] [NAME...]

  --store    where image and files lie: memory (/dev/shm), disk (/var/tmp) or a directory;
             more than once for several (default: memory and disk).  cluster: two nodes under
             User-Mode Linux (docs/uml.md), for the rows cluster_*, which are no other store's
  --json     write the rows {name, store, value, unit, peer, peer_value, ratio, rounds} there
  --rounds   how often each is measured (default 5); the median counts
  --seconds  how long one measurement takes (default 2)
  --one-processor
             caller, daemon and peers all on one processor, the last one that may be used: a rate then says how much processor time the work
             takes in all, and not how lucky the scheduler was in placing those who wait for each other (which is most of the spread
             of the rows of small files)
  NAME       only these rows; a prefix will do

Peers of direct I/O: raw (the same program on a file of the same store, without a file system of ours
between) and passthrough_ll (libfuse's example from the package libfuse3-dev, handing every
request to a file of the same store).  Peers of what a local file system does: fuse2fs (ext4) and
ntfs-3g, each on an image of the same size in the same store.  Mind what they promise: both write
their images through the page cache, fuse2fs without using a journal, ntfs-3g with a log that it
only empties; a crash of the machine leaves damage.  Ours journals all metadata, orders data before
it and bypasses the page cache.

Some rows have another shape of the same work as their peer: with 4 threads beside one thread, into a
hole beside allocated space, a file of many runs beside one of one run, with events and with a trace running beside without.  The rows *_cpu are what the
daemon's process uses (user and system, the kernel's threads for its I/O included) per request.

Some rows have a limit to keep instead of a peer: how much memory the daemon has (resident, and above it the most it ever had, told on
the way) after the kernel's sources were unpacked and walked over, and how much processor time the mount of a large volume takes.  They
are measured each with a daemon and an image of its own; less is better.

The rows cluster_* are measured in two nodes with the real DLM, the kernel's gfs2 (mounted as it is, and with lazytime) and ours one
after the other on the same volume; where their names or their comments say so, each write to the disk takes a millisecond longer.

Within a round all are measured one after the other, so that what disturbs the machine disturbs
all of them.  A peer that cannot do something has no value.

  GFS2_FUSE  the daemon to measure (default: built for the occasion, -O2), with the glockctl that GLOCKCTL names or lies beside it
"""
import contextlib
import ctypes
import json
import mmap
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench_cluster    # noqa: E402
import uml    # noqa: E402
from onegroup import one_group    # noqa: E402

FILES = os.path.join(ROOT, "tools", "lib", "benchprogs", "files.c")
EXAMPLE = "/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c"
MIB = 1 << 20
FILE_MIB = 512          # the file that direct I/O goes to
HOLE_MIB = 1024         # the hole that is filled
MANY_RUNS = 262144
BUFFERED_MIB = 256      # what a buffered sequential write writes
IMAGE_MIB = 4096
CREATE_FILES = 3000
SMALL_FILES = 20000
RANDOM_READS = 20000
SOURCES = "/usr/src/linux-source-6.1.tar.xz"
STEP_SECONDS = 300
ERROR_LINES = 6

# name, unit, fio's options; a rate is in requests or MB a second, a latency in microseconds
DIRECT = [
    ("direct_randwrite_4k_qd32", "IOPS", ["--rw=randwrite", "--bs=4k", "--iodepth=32"]),
    ("direct_randread_4k_qd32", "IOPS", ["--rw=randread", "--bs=4k", "--iodepth=32"]),
    ("direct_write_1m_qd4", "MB/s", ["--rw=write", "--bs=1m", "--iodepth=4"]),
    ("direct_read_1m_qd4", "MB/s", ["--rw=read", "--bs=1m", "--iodepth=4"]),
    ("direct_write_4k_sync_latency", "us", ["--rw=randwrite", "--bs=4k", "--ioengine=psync"]),
    ("direct_write_1m_sync", "MB/s", ["--rw=write", "--bs=1m", "--ioengine=psync"]),
    ("direct_write_16m_sync", "MB/s", ["--rw=write", "--bs=16m", "--ioengine=psync"]),
    ("direct_write_4k_qd32_cpu", "us", ["--rw=randwrite", "--bs=4k", "--iodepth=32"]),
    ("direct_write_4k_sync_cpu", "us", ["--rw=randwrite", "--bs=4k", "--ioengine=psync"]),
]
# Filling what is not there, and the store itself asked to make as much durable.
FILL = [("hole_fill_64k_qd16", "MB/s")]
# The peer is the same work in another shape.
SHAPES = [
    ("write_4k_sync_4_threads_1ms", "IOPS", "one thread"),  # 1 ms more for each direct write to the device
    ("hole_write_4k_latency", "us", "allocated"),           # durable at return
    ("hole_write_4k_latency_1ms", "us", "allocated"),       # 1 ms more for each write to the device
    ("many_runs_write_4k_cpu", "us", "one run"),            # 262,144 runs of one block
    ("events_write_4k_qd32", "IOPS", "events off"),         # recorded, and nobody looks
    ("trace_write_4k_qd32", "IOPS", "no trace"),            # and somebody looks at them all
]
OTHER = [("buffered_write", "MB/s"), ("create_small_files", "files/s")]
# The work of a local file system, in this order: what one makes the next one uses.
LOCAL = [
    ("files_create", "files/s"),            # 20,000 files of 100 bytes in directories of 1000
    ("files_list", "files/s"),              # all of them listed and looked at, after a remount's worth of forgetting
    ("files_remove", "files/s"),
    ("buffered_seq_write", "MB/s"),
    ("buffered_seq_read", "MB/s"),          # not cached
    ("buffered_randread_4k", "IOPS"),       # not cached
    ("buffered_randread_4k_cached", "IOPS"),
    ("unpack_sources", "files/s"),          # linux-source-6.1 with tar, durable at the end
]
# name, unit, the most it may be
LIMITS = [
    ("memory_after_walk", "MiB", 256),              # default options
    ("memory_after_walk_cache_64m", "MiB", 64),     # -o cache=64M
    ("mount_15tib_cpu", "s", 1),
]
PEERS = {name: ("raw", "passthrough_ll") for name, *_ in DIRECT + OTHER}
PEERS.update({name: ("passthrough_ll",) for name in PEERS if name.endswith("_cpu")})
PEERS.update({name: ("raw",) for name, _ in FILL})
PEERS.update({name: (peer,) for name, _, peer in SHAPES})
PEERS.update({name: ("fuse2fs", "ntfs-3g") for name, _ in LOCAL})
PEERS.update({name: ("limit",) for name, *_ in LIMITS})
PEERS.update({name: peers for name, _, peers in bench_cluster.ROWS})


class Failure(Exception):
    """What was to be measured cannot be, and why."""


def run(argv, **more):
    try:
        done = subprocess.run([str(word) for word in argv], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=more.pop("timeout", STEP_SECONDS), check=False, **more)
    except OSError as error:
        raise Failure(f"{argv[0]}: {error.strerror}") from None
    if done.returncode:
        text = list(dict.fromkeys((done.stderr or done.stdout).strip().splitlines()))
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit {done.returncode}"
        # The first lines name the cause, the last one often only says that there was one.
        if len(text) > ERROR_LINES:
            text[ERROR_LINES - 1:-1] = [f"({len(text) - ERROR_LINES} more lines)"]
        raise Failure(f"{argv[0]}: {how}: " + " … ".join(text))
    return done.stdout


def mounted(directory):
    with open("/proc/self/mounts") as mounts:
        return any(line.split()[1] == directory for line in mounts)


def fio_run(filename, options):
    """What fio tells of its one job, of the direction that it had."""
    job = json.loads(run(["fio", "--name=bench", "--filename=" + filename, "--direct=1", "--ioengine=io_uring",
                          "--norandommap", "--randrepeat=0", "--fallocate=none", "--group_reporting",
                          "--output-format=json", *options]))["jobs"][0]
    if job["error"]:
        raise Failure(os.strerror(job["error"]))
    return job["write"] if job["write"]["total_ios"] else job["read"]


def fio(filename, options, seconds):
    """One measurement: the row's value in its own unit is picked by the caller."""
    side = fio_run(filename, [f"--size={FILE_MIB}m", "--time_based", f"--runtime={seconds}", *options])
    return {"IOPS": side["iops"], "MB/s": side["bw_bytes"] / 1e6,
            "us": side["clat_ns"]["percentile"]["50.000000"] / 1e3 if "percentile" in side["clat_ns"] else None}


def cpu_per_request(target, filename, options, seconds):
    """Microseconds of processor time that the daemon uses for each request."""
    before = sum(cpu_seconds(target.daemon))
    side = fio_run(filename, [f"--size={FILE_MIB}m", "--time_based", f"--runtime={seconds}", *options])
    return (sum(cpu_seconds(target.daemon)) - before) * 1e6 / side["total_ios"]


def cpu_seconds(daemon):
    """What a process has used up to now: (user, system)."""
    with open(f"/proc/{daemon.pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / tick, int(fields[12]) / tick


def allocate(path, mib):
    """A file whose every block is there and written."""
    run(["dd", "if=/dev/zero", "of=" + path, "bs=1M", f"count={mib}", "conv=fsync"], timeout=600)


def sparse(path, mib):
    """A file of that size without a single block."""
    with open(path, "wb") as file:
        file.truncate(mib * MIB)


def hole_fill_64k_qd16(target):
    """MB/s of direct writes into a file of holes; the store's own file has its blocks, and is told to make them durable."""
    path = os.path.join(target.dir, "fill")
    if isinstance(target, Raw):
        if not os.path.exists(path):
            allocate(path, HOLE_MIB)
        more = ["--sync=dsync"]
    else:
        sparse(path, HOLE_MIB)
        more = []
    side = fio_run(path, ["--rw=write", "--bs=64k", "--iodepth=16", f"--size={HOLE_MIB}m", *more])
    if not isinstance(target, Raw):
        os.unlink(path)
    return side["bw_bytes"] / 1e6


def write_4k_sync_4_threads_1ms(ours, plain, seconds):
    with ours.fault("op=write,cls=dio,delay_us=1000"):
        return fio(os.path.join(ours.dir, "file"),
                   ["--rw=randwrite", "--bs=4k", "--ioengine=psync", "--thread", f"--numjobs={1 if plain else 4}"],
                   seconds)["IOPS"]


def write_latency(path, count, blocks):
    """The median of @count direct writes of 4 KiB at random, no block twice, in microseconds."""
    buffer = mmap.mmap(-1, 4096)
    buffer.write(os.urandom(4096))
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    took = []
    for block in random.sample(range(blocks), count):
        started = time.perf_counter_ns()
        os.pwrite(fd, buffer, block * 4096)
        took.append(time.perf_counter_ns() - started)
    os.close(fd)
    return statistics.median(took) / 1e3


def hole_write_4k_latency(ours, plain, seconds, count=1000):
    if plain:
        return write_latency(os.path.join(ours.dir, "file"), count, FILE_MIB * 256)
    path = os.path.join(ours.dir, "holes")
    sparse(path, FILE_MIB)
    value = write_latency(path, count, FILE_MIB * 256)
    os.unlink(path)
    return value


def hole_write_4k_latency_1ms(ours, plain, seconds):
    with ours.fault("op=write,delay_us=1000"):
        return hole_write_4k_latency(ours, plain, seconds, count=100)


def many_runs_write_4k_cpu(ours, plain, seconds):
    """On a volume of its own: what is free on it afterwards are single blocks too."""
    other = ours.other_volume()
    path = os.path.join(other.dir, "file" if plain else "runs")
    if not os.path.exists(path):
        make_many_runs(other, path)
    return cpu_per_request(other, path, ["--rw=randwrite", "--bs=4k", "--iodepth=32"], seconds)


def write_4k_qd32(ours, seconds):
    return fio(os.path.join(ours.dir, "file"), ["--rw=randwrite", "--bs=4k", "--iodepth=32"], seconds)["IOPS"]


def events_write_4k_qd32(ours, plain, seconds):
    control = [ours.glockctl, "-m", ours.dir, "set", "events"]
    if not plain:
        return write_4k_qd32(ours, seconds)
    run([*control, "off"])
    try:
        return write_4k_qd32(ours, seconds)
    finally:
        run([*control, "on"])


def trace_write_4k_qd32(ours, plain, seconds):
    if plain:
        return write_4k_qd32(ours, seconds)
    with subprocess.Popen([ours.glockctl, "-m", ours.dir, "--json", "trace"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL) as trace:
        try:
            return write_4k_qd32(ours, seconds)
        finally:
            trace.terminate()


def fallocate(fd, mode, offset, length):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise Failure("fallocate: " + os.strerror(ctypes.get_errno()))


def make_many_runs(ours, path):
    """A file of MANY_RUNS runs: it gets every other block of another one, since there is no space elsewhere."""
    say(f"making a file of {MANY_RUNS} runs")
    comb, filler = path + ".comb", path + ".filler"
    teeth = MANY_RUNS + MANY_RUNS // 100    # the file's metadata want some
    fd = os.open(comb, os.O_RDWR | os.O_CREAT)
    fallocate(fd, 0, 0, teeth * 8192)
    rest = os.open(filler, os.O_RDWR | os.O_CREAT)
    filled = 0
    while (blocks := (free := os.statvfs(ours.dir).f_bavail) - free // 400 - 20) > 0:
        fallocate(rest, 0, filled, blocks * 4096)
        filled += blocks * 4096
    for number in range(teeth):
        fallocate(fd, 3, number * 8192, 4096)   # KEEP_SIZE, PUNCH_HOLE
    # What has been punched is free when that is durable.
    os.fsync(fd)
    into = os.open(path, os.O_RDWR | os.O_CREAT)
    fallocate(into, 0, 0, MANY_RUNS * 4096)
    for each in fd, rest, into:
        os.close(each)
    runs = run([ours.glockctl, "-m", ours.dir, "map", path]).count("disk ")
    os.unlink(comb)
    os.unlink(filler)
    if runs < MANY_RUNS * 0.99:
        raise Failure(f"the file has {runs} runs only")


def buffered_write(directory):
    """MB/s of a plain sequential write of a new file, with the fsync at its end."""
    path = os.path.join(directory, "buffered")
    data = os.urandom(MIB)
    started = time.perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for _ in range(BUFFERED_MIB):
        os.write(fd, data)
    os.fsync(fd)
    os.close(fd)
    took = time.perf_counter() - started
    os.unlink(path)
    return BUFFERED_MIB * MIB / 1e6 / took


def create_small_files(directory):
    """Files a second, as tar unpacks them: made, written, given mode and time, in directories of 100."""
    top = os.path.join(directory, "tree")
    data = os.urandom(3000)
    started = time.perf_counter()
    os.mkdir(top)
    for number in range(CREATE_FILES):
        where = os.path.join(top, str(number // 100))
        if number % 100 == 0:
            os.mkdir(where)
        path = os.path.join(where, f"file{number}")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, data)
        os.utime(fd, (1700000000, 1700000000))
        os.fchmod(fd, 0o644)
        os.close(fd)
    took = time.perf_counter() - started
    shutil.rmtree(top)
    return CREATE_FILES / took


def small_files(target, what):
    """Files a second, by a program whose own time hardly counts (benchprogs/files.c)."""
    program = os.path.join(os.path.dirname(target.image), "bench-files")
    if not os.path.exists(program):
        run(["gcc", "-O2", "-o", program, FILES])
    done, took = run([program, what, os.path.join(target.dir, "small"), SMALL_FILES, 100]).split()
    if int(done) != SMALL_FILES:
        raise Failure(f"{what}: {done} files instead of {SMALL_FILES}")
    return int(done) / float(took)


def files_create(target):
    """Made, written, closed."""
    return small_files(target, "create")


def files_list(target):
    """Every directory listed, every file's attributes."""
    forget(target)
    return small_files(target, "list")


def files_remove(target):
    rate = small_files(target, "remove")
    shutil.rmtree(os.path.join(target.dir, "small"))
    return rate


def forget(target):
    """Names and inodes leave the kernel's caches, so that the file system is asked."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as drop:
        drop.write("2")


def uncache(target, fd):
    """The file's pages leave the kernel's cache, and the image's."""
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    image = os.open(target.image, os.O_RDWR)
    os.fsync(image)
    os.posix_fadvise(image, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(image)


def buffered_seq_write(target):
    path = os.path.join(target.dir, "sequential")
    data = os.urandom(MIB)
    started = time.perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for _ in range(BUFFERED_MIB):
        os.write(fd, data)
    os.fsync(fd)
    os.close(fd)
    return BUFFERED_MIB * MIB / 1e6 / (time.perf_counter() - started)


def open_sequential(target):
    path = os.path.join(target.dir, "sequential")
    if not os.path.exists(path):
        buffered_seq_write(target)
    return os.open(path, os.O_RDWR)


def buffered_seq_read(target):
    fd = open_sequential(target)
    uncache(target, fd)
    started = time.perf_counter()
    total = 0
    while chunk := os.read(fd, 128 * 1024):
        total += len(chunk)
    took = time.perf_counter() - started
    os.close(fd)
    return total / 1e6 / took


def buffered_randread_4k(target, cached=False):
    fd = open_sequential(target)
    if cached:
        while os.read(fd, MIB):
            pass
    else:
        uncache(target, fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    numbers = random.Random(1)
    offsets = [numbers.randrange(BUFFERED_MIB * 256) * 4096 for _ in range(RANDOM_READS)]
    started = time.perf_counter()
    for offset in offsets:
        os.pread(fd, 4096, offset)
    took = time.perf_counter() - started
    os.close(fd)
    return RANDOM_READS / took


def buffered_randread_4k_cached(target):
    return buffered_randread_4k(target, cached=True)


def sources(work):
    """The archive of the kernel's sources in the store, uncompressed: that is not what is measured."""
    archive = os.path.join(work, "sources.tar")
    if not os.path.exists(SOURCES):
        raise Failure("the package linux-source-6.1 is not installed")
    if not os.path.exists(archive):
        with open(archive, "wb") as out:
            subprocess.run(["xz", "-dc", SOURCES], stdout=out, check=True)
    return archive


def count_names(archive):
    if archive not in count_names.known:
        count_names.known[archive] = run(["tar", "-tf", archive]).count("\n")
    return count_names.known[archive]


count_names.known = {}


def unpack_sources(target):
    """Names a second: the archive unpacked, and asked to be durable."""
    archive = sources(os.path.dirname(target.dir))
    count = count_names(archive)
    where = os.path.join(target.dir, "sources")
    os.mkdir(where)
    started = time.perf_counter()
    with target.explained():
        run(["tar", "-C", where, "-xf", archive])
    # Of the mount: each peer's way to have everything on the store.
    fd = os.open(target.dir, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError:
        pass    # not everybody can do that with a directory
    os.close(fd)
    took = time.perf_counter() - started
    run(["rm", "-rf", where])
    return count / took


# --- what has a limit ---


def walk(top):
    """Every directory listed, every name looked at; how many there were."""
    count = 0
    for where, directories, files in os.walk(top):
        for name in directories + files:
            os.lstat(os.path.join(where, name))
            count += 1
    return count


def memory_after_walk(bench, work, *options):
    """MiB: resident memory of a daemon over whose mount the sources were unpacked and walked."""
    archive = sources(work)
    ours = Ours(tempfile.mkdtemp(prefix="alone.", dir=work), bench.program, bench.glockctl, options=options, file_mib=0)
    try:
        with ours.explained():
            run(["tar", "-C", ours.dir, "-xf", archive])
        found, wanted = walk(ours.dir), count_names(archive)
        if found != wanted:
            raise Failure(f"{found} names were walked over instead of {wanted}")
        resident, peak = ours.memory()
        say(f"memory {' '.join(options) or 'by default'}: {resident:.1f} MiB, at most {peak:.1f} MiB")
        return resident
    finally:
        ours.remove()


def memory_after_walk_cache_64m(bench, work):
    return memory_after_walk(bench, work, "cache=64M")


def mount_15tib_cpu(bench, work):
    """Seconds of processor time until the mount of a volume of 15 TiB can be used."""
    ours = Ours(tempfile.mkdtemp(prefix="alone.", dir=work), bench.program, bench.glockctl, file_mib=0, apparent="15T")
    try:
        return sum(cpu_seconds(ours.daemon))
    finally:
        ours.remove()


class Raw:
    """A directory of the store itself."""
    name = "raw"

    def __init__(self, work):
        self.dir = os.path.join(work, "raw")
        os.mkdir(self.dir)
        allocate(os.path.join(self.dir, "file"), FILE_MIB)

    def close(self):
        pass


class Passthrough:
    """libfuse's passthrough_ll on a directory of the store."""
    name = "passthrough_ll"

    def __init__(self, work):
        if not os.path.exists(EXAMPLE):
            raise Failure(f"no source of passthrough_ll: {EXAMPLE} (was the documentation left out?)")
        program = os.path.join(work, "passthrough_ll")
        flags = run(["pkg-config", "--cflags", "--libs", "fuse3"]).split()
        run(["gcc", "-O2", "-o", program, EXAMPLE, *flags])
        source = os.path.join(work, "passthrough")
        self.dir = os.path.join(work, "passthrough_mnt")
        os.mkdir(source)
        os.mkdir(self.dir)
        allocate(os.path.join(source, "file"), FILE_MIB)
        self.daemon = subprocess.Popen([program, "-f", "-o", f"source={source},cache=auto", self.dir],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ready(self.daemon, self.dir)

    def close(self):
        end_mount(self.daemon, self.dir)


class Explained:
    """What has a daemon with a log."""

    @contextlib.contextmanager
    def explained(self):
        """What fails inside is told together with what the daemon has said about it."""
        try:
            yield
        except (Failure, OSError, subprocess.TimeoutExpired) as reason:
            with open(self.log, errors="replace") as log:
                said = log.read().strip().splitlines()[-ERROR_LINES:]
            alive = "" if self.daemon.poll() is None else f"; the daemon has ended: {self.daemon.returncode}"
            free = os.statvfs(self.dir) if not alive else None
            if free:
                alive = f"; {free.f_bavail * free.f_frsize // MIB} MiB free"
            raise Failure(f"{reason}{alive}" + (f"; {self.name}: " + " … ".join(said) if said else "")) from None


class LocalPeer(Explained):
    """Another file system in userspace, on an image of its own."""
    image_mib = 4096

    def __init__(self, work):
        for program in self.programs:
            if not shutil.which(program):
                raise Failure(f"{program} is not installed")
        self.image = os.path.join(work, self.name + ".image")
        self.dir = os.path.join(work, self.name)
        os.mkdir(self.dir)
        run(["fallocate", "-l", f"{self.image_mib}M", self.image], timeout=600)
        run([word.format(image=self.image) for word in self.mkfs], timeout=600)
        self.log = os.path.join(work, self.name + ".log")
        with open(self.log, "wb") as out:
            self.daemon = subprocess.Popen(
                [word.format(image=self.image, dir=self.dir) for word in self.mount], stdout=out, stderr=out)
        ready(self.daemon, self.dir, self.log)

    def close(self):
        end_mount(self.daemon, self.dir)


class Fuse2fs(LocalPeer):
    name = "fuse2fs"
    programs = ["fuse2fs", "mkfs.ext4"]
    mkfs = ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", "{image}"]
    mount = ["fuse2fs", "-f", "{image}", "{dir}"]


class Ntfs(LocalPeer):
    name = "ntfs-3g"
    programs = ["ntfs-3g", "mkntfs"]
    mkfs = ["mkntfs", "-q", "-Q", "-F", "{image}"]
    mount = ["ntfs-3g", "-o", "no_detach,big_writes", "{image}", "{dir}"]


class Ours(Explained):
    """The daemon on an image in the store."""
    name = "gfs2-fuse"

    def __init__(self, work, program, glockctl, options=(), file_mib=FILE_MIB, apparent=None):
        self.work, self.program, self.glockctl = work, program, glockctl
        self.other = None
        self.image = image = os.path.join(work, "image")
        self.dir = os.path.join(work, "mnt")
        os.makedirs(self.dir)
        # The image's own blocks are allocated too, as a device's are; unless it is larger than the store.
        if apparent:
            run(["truncate", "-s", apparent, image])
        else:
            run(["fallocate", "-l", f"{IMAGE_MIB}M", image], timeout=600)
        run(["mkfs.gfs2", "-O", "-q", "-p", "lock_nolock", "-j", "1", image], timeout=600)
        self.log = os.path.join(work, "daemon.log")
        with open(self.log, "wb") as out:
            self.daemon = subprocess.Popen(
                [program, "-f", *(word for option in options for word in ("-o", option)), image, self.dir],
                stdout=out, stderr=out)
        ready(self.daemon, self.dir, self.log)
        try:
            if file_mib:
                allocate(os.path.join(self.dir, "file"), file_mib)
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def fault(self, rule):
        """The engine delays what the rule says."""
        run([self.glockctl, "-m", self.dir, "set", "fault", rule])
        try:
            yield
        finally:
            run([self.glockctl, "-m", self.dir, "set", "fault", "none"])

    def other_volume(self):
        """One more, with a daemon of its own."""
        if not self.other:
            work = os.path.join(self.work, "other")
            os.mkdir(work)
            self.other = Ours(work, self.program, self.glockctl)
        return self.other

    def memory(self):
        """MiB: what is resident now, and the most that ever was."""
        with open(f"/proc/{self.daemon.pid}/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        return tuple(int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))

    def counters(self):
        """Whatever the daemon counts, to say where the time goes; {} if it does not tell."""
        try:
            text = run([self.glockctl, "-m", self.dir, "get", "stats"])
        except (Failure, OSError):
            return {}
        return dict(line.strip().split(None, 1) for line in text.replace("=", " ").splitlines()
                    if len(line.split()) > 1 or "=" in line)

    def close(self):
        if self.other:
            self.other.close()
        end_mount(self.daemon, self.dir)

    def remove(self):
        self.close()
        shutil.rmtree(self.work)


def ready(daemon, directory, log=None):
    """Wait until the daemon has mounted and answers; end it if it does not."""
    end = time.monotonic() + STEP_SECONDS
    while not mounted(directory):
        if daemon.poll() is not None or time.monotonic() > end:
            daemon.kill()
            daemon.wait()
            text = open(log, errors="replace").read().strip() if log else ""
            raise Failure(f"did not mount {directory}: {text}")
        time.sleep(0.01)
    os.statvfs(directory)


def end_mount(daemon, directory):
    if mounted(directory):
        subprocess.run(["umount", directory], check=False)
    try:
        daemon.wait(STEP_SECONDS)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
    if mounted(directory):
        subprocess.run(["umount", "-l", directory], check=False)


def measure(target, name, unit, seconds):
    for row, _, options in DIRECT:
        if row == name:
            path = os.path.join(target.dir, "file")
            if name.endswith("_cpu"):
                return cpu_per_request(target, path, options, seconds)
            return fio(path, options, seconds)[unit]
    try:
        if name in ("buffered_write", "create_small_files"):
            return {"buffered_write": buffered_write, "create_small_files": create_small_files}[name](target.dir)
        return globals()[name](target)
    except OSError as error:
        raise Failure(str(error)) from None


def available_memory():
    with open("/proc/meminfo") as meminfo:
        return next(int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:"))


def store_directory(store, names):
    """Where that is; with room for what the rows put there."""
    alone = all(PEERS[name] == ("limit",) for name, _ in names)
    need = 7 if alone else 16
    where = {"memory": "/dev/shm", "disk": "/var/tmp"}.get(store, store)
    if not os.path.isdir(where):
        raise Failure(f"--store {store}: not a directory")
    if shutil.disk_usage(where).free < need * 1024 * MIB:
        raise Failure(f"--store {store}: less than {need} GiB free in {where}")
    # A tmpfs has its free space only as long as there is memory for it; others would be killed for what we write there.
    if run(["stat", "-f", "-c", "%T", where]).strip() == "tmpfs" and available_memory() < need * 1024 * MIB:
        raise Failure(f"--store {store}: less than {need} GiB of memory available")
    return where


class Bench:
    def __init__(self, options, program, glockctl):
        self.options, self.program, self.glockctl = options, program, glockctl
        self.rows = []
        self.failures = []  # what could not be measured, and why
        self.cpu = {}       # row name: [(user, system) share of one CPU while it ran]

    def store(self, store, names):
        work = tempfile.mkdtemp(prefix="gfs2-fuse-bench.", dir=store_directory(store, names))
        targets = []
        alone = [row for row in names if PEERS[row[0]] == ("limit",)]
        names = [row for row in names if row not in alone]
        try:
            self.limits(store, work, alone)
            if not names:
                return
            targets.append(Ours(work, self.program, self.glockctl))
            wanted = {peer for name, _ in names for peer in PEERS[name]}
            for kind in (Raw, Passthrough, Fuse2fs, Ntfs):
                if kind.name not in wanted:
                    continue
                try:
                    targets.append(kind(work))
                except Failure as reason:
                    say(f"{store}: without {kind.name}: {reason}")
            before = targets[0].counters()
            values = self.rounds(store, targets, names)
            self.report(store, names, values)
            self.time_spent(store, before, targets[0].counters())
        finally:
            for target in reversed(targets):
                target.close()
            shutil.rmtree(work, ignore_errors=True)

    def cluster(self, names):
        work = tempfile.mkdtemp(prefix="gfs2-fuse-bench.", dir="/var/tmp")
        builddir = os.path.dirname(os.path.dirname(os.path.realpath(self.program)))
        bench = bench_cluster.ClusterBench(work, builddir, self.options, names, say)
        try:
            values = bench.run()
        except (uml.ClusterError, OSError, subprocess.CalledProcessError) as reason:
            raise Failure(f"cluster: {reason}") from None
        finally:
            shutil.rmtree(work, ignore_errors=True)
        for name, limit in bench_cluster.LIMITS.items():
            values.add(name, "limit", limit)
        self.report("cluster", names, {(name, whom): found for name, by in values.all.items() for whom, found in by.items()})

    def limits(self, store, work, names):
        """What is measured with a daemon of its own, before the others' images take the store."""
        limits = {name: limit for name, _, limit in LIMITS}
        values = {(name, "limit"): [limits[name]] for name, _ in names}
        for name, _ in names:
            for number in range(self.options["rounds"]):
                say(f"{store}: {name}, round {number + 1} of {self.options['rounds']}")
                try:
                    values.setdefault((name, "gfs2-fuse"), []).append(globals()[name](self, work))
                except Failure as reason:
                    self.failed(f"{store}: {name}: {reason}")
                    break
        if names:
            self.report(store, names, values)

    def rounds(self, store, targets, names):
        """{(name, target): [values]}; None once a target has shown that it cannot."""
        values = {}
        self.cpu = {}
        for number in range(self.options["rounds"]):
            say(f"{store}: round {number + 1} of {self.options['rounds']}")
            for name, unit in names:
                for who, target in self.asked(name, targets):
                    key = (name, who)
                    if values.get(key, []) is None:
                        continue
                    try:
                        values.setdefault(key, []).append(self.one(target, name, unit, who))
                    except Failure as reason:
                        self.failed(f"{store}: {name}: {who}: {reason}")
                        values[key] = None
        return values

    def failed(self, text):
        say(text)
        self.failures.append(text)

    @staticmethod
    def asked(name, targets):
        """Whom a row is measured with: (as which, target)."""
        ours = next(target for target in targets if isinstance(target, Ours))
        if any(row == name for row, *_ in SHAPES):
            return [(ours.name, ours), *((peer, ours) for peer in PEERS[name])]
        return [(target.name, target) for target in targets
                if target is ours or target.name in PEERS[name]]

    def one(self, target, name, unit, who):
        seconds = self.options["seconds"]
        if who != Ours.name:
            if isinstance(target, Ours):
                return globals()[name](target, True, seconds)
            return measure(target, name, unit, seconds)
        before, started = cpu_seconds(target.daemon), time.perf_counter()
        if any(row == name for row, *_ in SHAPES):
            value = globals()[name](target, False, seconds)
        else:
            value = measure(target, name, unit, seconds)
        took = time.perf_counter() - started
        self.cpu.setdefault(name, []).append(
            [(now - then) / took for now, then in zip(cpu_seconds(target.daemon), before)])
        return value

    def report(self, store, names, values):
        print(f"\n{'store ' + store:32} {'gfs2-fuse':>12} {'peer':>30} {'ratio':>7}")
        for name, unit in names:
            ours = median(values.get((name, "gfs2-fuse")))
            for peer in PEERS[name]:
                theirs = median(values.get((name, peer)))
                # A latency is better when it is lower: the ratio is always ours to theirs.
                ratio = round(ours / theirs, 3) if ours and theirs else None
                self.rows.append({"name": name, "store": store, "value": ours, "unit": unit,
                                  "peer": peer, "peer_value": theirs, "ratio": ratio,
                                  "rounds": self.options["rounds"]})
                print(f"{name:32} {shown(ours, unit):>12} {peer + ' ' + shown(theirs, unit):>30} "
                      f"{'-' if ratio is None else f'{ratio:.2f}':>7}", flush=True)

    def time_spent(self, store, before, after):
        """Where the time goes: the daemon's processor time for each row, and what it counted."""
        print(f"processor time of the daemon, in percent of one CPU (store {store}):")
        for name, shares in self.cpu.items():
            user, system = (statistics.median(column) * 100 for column in zip(*shares))
            print(f"  {name:32} user {user:5.0f}  system {system:5.0f}")
        grown = []
        for name in sorted(after):
            try:
                delta = float(after[name]) - float(before.get(name, 0))
            except ValueError:
                continue
            if delta > 0:
                grown.append(f"  {name:40} {delta:,.0f}")
        if grown:
            print(f"what the daemon counted meanwhile (store {store}):", *grown, sep="\n")


def median(values):
    return round(statistics.median(values), 2) if values else None


def shown(value, unit):
    if value is None:
        return "-"
    return f"{value:,.{ {'us': 1, 'ms': 2, 'ns': 1, 'MiB': 1, 's': 2}.get(unit, 0)}f} {unit}"


def say(text):
    print(text, file=sys.stderr, flush=True)


def build(into, cluster):
    """gfs2-fuse and glockctl, optimized.  In a cluster it is always what is built here, with the programs that go with it."""
    given = os.environ.get("GFS2_FUSE")
    if given and not cluster:
        beside = os.path.join(os.path.dirname(given), "..", "tools", "glockctl")
        programs = given, os.environ.get("GLOCKCTL") or (beside if os.path.exists(beside) else "glockctl")
        for program in programs:
            if not shutil.which(program):
                raise Failure(f"{program} is not there")
        return programs
    say("building")
    run(["meson", "setup", "-Dbuildtype=debugoptimized", "-Dtests=disabled", into, ROOT], timeout=300)
    run(["ninja", "-C", into, *(["src/gfs2-fuse", "tools/glockctl", "tools/bench-load", "tools/bench-locks"] if cluster else [])],
        timeout=600)
    found = {}
    for where, _, files in os.walk(into):
        for name in ("gfs2-fuse", "glockctl"):
            if name in files and os.access(os.path.join(where, name), os.X_OK):
                found[name] = os.path.join(where, name)
    return found["gfs2-fuse"], found["glockctl"]


def arguments(words):
    options = {"stores": [], "json": None, "rounds": 5, "seconds": 2, "one-processor": False}
    names = []
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            names.append(word)
            continue
        flag, _, value = word.partition("=")
        if word == "--one-processor":
            options["one-processor"] = True
            continue
        if flag not in ("--store", "--json", "--rounds", "--seconds"):
            sys.exit(f"unknown option {word}; tools/bench --help tells which there are")
        if not value:
            if not words:
                sys.exit(f"{flag} wants a value")
            value = words.pop(0)
        if flag == "--store":
            options["stores"].append(value)
        elif flag == "--json":
            options["json"] = value
        elif not value.isdigit() or not int(value):
            sys.exit(f"{flag} wants a number above 0, not {value}")
        else:
            options[flag[2:]] = int(value)
    rows = ([(name, unit) for name, unit, *_ in DIRECT + FILL + SHAPES] + OTHER + LOCAL +
            [(name, unit) for name, unit, _ in LIMITS])
    shared = [(name, unit) for name, unit, _ in bench_cluster.ROWS]
    for name in names:
        if not any(row.startswith(name) for row, _ in rows + shared):
            sys.exit(f"no row is called {name}; there are: " + " ".join(row for row, _ in rows + shared))
    if not options["stores"]:
        options["stores"] = ["cluster"] if names and all(name.startswith("cluster") for name in names) else ["memory", "disk"]
    chosen = [row for row in rows if not names or any(row[0].startswith(name) for name in names)]
    options["shared"] = [row for row in shared if not names or any(row[0].startswith(name) for name in names)]
    return options, chosen


def main():
    if "-h" in sys.argv[1:] or "--help" in sys.argv[1:]:
        print(__doc__.strip())
        return 0
    options, names = arguments(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with one_group() as not_alone:
        if not_alone:
            print(not_alone, file=sys.stderr, flush=True)
        return run_rows(options, names)


def run_rows(options, names):
    scratch = tempfile.mkdtemp(prefix="gfs2-fuse-bench-build.", dir="/var/tmp")
    try:
        for store in options["stores"]:
            if store != "cluster":
                store_directory(store, names)
        bench = Bench(options, *build(os.path.join(scratch, "build"), "cluster" in options["stores"]))
        # What is started from here on inherits it.
        if options["one-processor"]:
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        for store in options["stores"]:
            if store == "cluster":
                bench.cluster(options["shared"])
            else:
                bench.store(store, names)
        if bench.failures:
            print("could not be measured:", *(f"  {text}" for text in bench.failures), sep="\n")
        if options["json"]:
            with open(options["json"], "w") as out:
                json.dump(bench.rows, out, indent=1)
                out.write("\n")
    except Failure as reason:
        say(f"bench: {reason}")
        return 1
    except KeyboardInterrupt:
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
