# SPDX-License-Identifier: GPL-2.0-or-later
"""tools/bench's rows of a cluster: two nodes under User-Mode Linux with the real DLM, and the kernel's gfs2 beside gfs2-fuse on the same
nodes and the same volume, one after the other within each round.

Where locks, not the emulated processor, are to decide, each write to the disk lasts one millisecond longer (uml/slowdisk.c), for both alike.
The load is benchprogs/load.c in both nodes at once; benchprogs/locks.c measures what a glock costs.
"""
import contextlib
import os
import shutil
import statistics
import subprocess
import time

import uml

MNT = "/mnt/gfs2"
BLOCKS = 1024           # of 4 KiB, in every file
TURNS = 60
DELAY_US = 1000
EXAMPLE = "/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c"
STEP_SECONDS = 120
KINDS = ("gfs2-fuse", "kernel", "kernel lazytime")

# name, unit, peers.  A peer that is a kind is the same work by it; `_kernel` and `_lazytime` rows are the kernel's own.
ROWS = [
    ("cluster_same_file", "IOPS", ("different files", "kernel", "kernel lazytime")),    # direct writes, one thread a node, 1 ms
    ("cluster_same_file_kernel", "IOPS", ("different files",)),
    ("cluster_same_file_lazytime", "IOPS", ("different files",)),
    ("cluster_4_threads", "IOPS", ("kernel", "kernel lazytime")),                       # the same, four threads a node
    ("cluster_4_threads_p999", "ms", ("limit", "kernel", "kernel lazytime")),
    ("cluster_read_4k", "IOPS", ("passthrough_ll",)),                                   # direct reads on one node
    ("cluster_turns", "ms", ("one node",)),                                             # direct writes of one block in turns, 1 ms
    ("cluster_turns_kernel", "ms", ("one node",)),
    ("cluster_turns_lazytime", "ms", ("one node",)),
    ("cluster_sync_both", "IOPS", ("kernel",)),                                         # buffered write + fsync on one file by both
    ("cluster_sync_both_p999", "ms", ("limit", "kernel")),
    ("cluster_sync_both_1ms", "IOPS", ("kernel",)),
    ("cluster_df_ex_df", "us", ("DLM",)),                                               # nobody else wants it
    ("cluster_cached_glock", "ns", ("mutex",)),
]
MOUNTED = ("cluster_same", "cluster_4", "cluster_turns", "cluster_sync", "cluster_read")
LIMITS = {"cluster_4_threads_p999": 20, "cluster_sync_both_p999": 50}
SUFFIX = {"gfs2-fuse": "", "kernel": "_kernel", "kernel lazytime": "_lazytime"}


class Values:
    """{row: {whom: [values]}}"""

    def __init__(self):
        self.all = {}

    def add(self, row, whom, value):
        self.all.setdefault(row, {}).setdefault(whom, []).append(value)

    def median(self, row, whom):
        found = self.all.get(row, {}).get(whom)
        return statistics.median(found) if found else None


def loads(nodes, program, what, paths, threads, seconds):
    """The same load on each node at once; (requests a second of all, 99.9 % of the slowest node in ms)."""
    argv = lambda path: [program, what, path, str(threads), str(int(seconds * 1000)), str(BLOCKS)]    # noqa: E731
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(node.spawn(argv(path))) for node, path in zip(nodes, paths)]
        for process in running:
            process.read_until("ready\n", STEP_SECONDS)
        for process in running:
            process.write(b"go\n")
        rates, slow = [], []
        for process in running:
            result = process.wait(STEP_SECONDS + seconds)
            if result.rc:
                raise uml.ClusterError("the load: " + result.err.decode())
            requests, took, _, p999, _ = result.out.decode().splitlines()[1].split()
            rates.append(int(requests) / float(took))
            slow.append(int(p999) / 1000)
    return sum(rates), max(slow)


def in_turns(nodes, program, path):
    """The median latency in ms of direct writes of one block, each node after the other."""
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(node.spawn([program, "turns", path])) for node in nodes]
        for process in running:
            process.read_until("ready\n", STEP_SECONDS)
        took = []
        for turn in range(TURNS * len(nodes)):
            process = running[turn % len(running)]
            lines = process.out.count(b"\n")
            process.write(b"\n")
            deadline = time.monotonic() + STEP_SECONDS
            while process.out.count(b"\n") == lines:
                if not process.pump(STEP_SECONDS) or time.monotonic() > deadline:
                    raise uml.ClusterError("the load: " + process.err.decode())
            if turn >= 2 * len(nodes):      # the first ones open, and read what is cached from then on
                took.append(int(process.out.split(b"\n")[-2]) / 1000)
    return statistics.median(took)


class ClusterBench:
    """One cluster for all rounds."""

    def __init__(self, work, builddir, options, names, say):
        self.work, self.builddir, self.options, self.say = work, builddir, options, say
        self.names = [name for name, _ in names]
        self.load = os.path.join(builddir, "tools", "bench-load")
        self.values = Values()
        self.cluster = uml.Cluster("bench%d" % os.getpid())

    def wants(self, *prefixes):
        return any(name.startswith(prefix) for prefix in prefixes for name in self.names)

    def run(self):
        volume, ext4 = (os.path.join(self.work, name) for name in ("volume", "ext4"))
        uml.client.make_volume(volume, 2 << 30, 2)
        with open(ext4, "wb") as f:
            f.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", ext4], check=True, stdin=subprocess.DEVNULL)
        self.passthrough = self.build_passthrough()
        with self.cluster as c:
            c.up(2, mount=False, images=[volume, ext4], builddir=self.builddir, share=[self.work], slow_disk=True)
            self.nodes = [c.node(1), c.node(2)]
            if self.wants(*MOUNTED):
                self.make_files()
            for number in range(self.options["rounds"]):
                for kind in KINDS if self.wants(*MOUNTED) else ():
                    self.say("cluster: round %d of %d: %s" % (number + 1, self.options["rounds"], kind))
                    self.one_kind(kind)
                if self.wants("cluster_read"):
                    self.read_passthrough()
                if self.wants("cluster_df_ex_df", "cluster_cached_glock"):
                    self.locks()
        return self.values

    def build_passthrough(self):
        program = os.path.join(self.work, "passthrough_ll")
        if not self.wants("cluster_read") or not os.path.exists(EXAMPLE) or not shutil.which("pkg-config"):
            return None
        flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], check=True, capture_output=True, text=True).stdout
        subprocess.run(["gcc", "-O2", "-o", program, EXAMPLE, *flags.split()], check=True, stdin=subprocess.DEVNULL)
        return program

    def make_files(self):
        node = self.nodes[0]
        node.mount("/dev/ubda", "fuse", MNT, check=True)
        for name in ("one", "two", "same", "turns", "sync"):
            node.run("dd if=/dev/zero of=%s/%s bs=1M count=%d conv=fsync 2>&1" % (MNT, name, BLOCKS >> 8), check=True)
        node.umount(MNT)

    @contextlib.contextmanager
    def delay(self, microseconds):
        self.cluster.disk_delay(microseconds)
        try:
            yield
        finally:
            self.cluster.disk_delay(0)

    def one_kind(self, kind):
        how = "fuse" if kind == "gfs2-fuse" else "kernel"
        for node in self.nodes:
            node.mount("/dev/ubda", how, MNT, "lazytime" if kind.endswith("lazytime") else "", check=True)
        try:
            self.measure(kind)
        finally:
            for node in self.nodes:
                node.umount(MNT)

    def measure(self, kind):
        seconds = self.options["seconds"]
        both = lambda name: [MNT + "/" + name] * 2    # noqa: E731
        own = "cluster_same_file" + SUFFIX[kind]
        with self.delay(DELAY_US):
            if self.wants("cluster_same_file"):
                different = loads(self.nodes, self.load, "write", [MNT + "/one", MNT + "/two"], 1, seconds)[0]
                same = loads(self.nodes, self.load, "write", both("same"), 1, seconds)[0]
                self.values.add("cluster_same_file", kind, same)
                self.values.add(own, "gfs2-fuse", same)
                self.values.add(own, "different files", different)
            if self.wants("cluster_4_threads"):
                rate, slow = loads(self.nodes, self.load, "write", both("same"), 4, seconds)
                self.values.add("cluster_4_threads", kind, rate)
                self.values.add("cluster_4_threads_p999", kind, slow)
            if self.wants("cluster_turns"):
                row = "cluster_turns" + SUFFIX[kind]
                self.values.add(row, "one node", in_turns(self.nodes[:1], self.load, MNT + "/turns"))
                self.values.add(row, "gfs2-fuse", in_turns(self.nodes, self.load, MNT + "/turns"))
            if self.wants("cluster_sync_both_1ms") and kind != "kernel lazytime":
                self.values.add("cluster_sync_both_1ms", kind, loads(self.nodes, self.load, "sync", both("sync"), 1, seconds)[0])
        if self.wants("cluster_sync_both", "cluster_sync_both_p999") and kind != "kernel lazytime":
            rate, slow = loads(self.nodes, self.load, "sync", both("sync"), 1, seconds)
            self.values.add("cluster_sync_both", kind, rate)
            self.values.add("cluster_sync_both_p999", kind, slow)
        if self.wants("cluster_read") and kind == "gfs2-fuse":
            self.values.add("cluster_read_4k", kind, loads(self.nodes[:1], self.load, "read", both("one"), 1, seconds)[0])

    def read_passthrough(self):
        """On the same node, of a file on the same kind of disk."""
        if not self.passthrough:
            return
        node = self.nodes[0]
        node.run("mkdir -p /tmp/ext4 /tmp/pass && mount -t ext4 /dev/ubdb /tmp/ext4 && dd if=/dev/zero of=/tmp/ext4/one bs=1M count=%d "
                 "conv=fsync 2>&1" % (BLOCKS >> 8), check=True)
        try:
            node.run([self.passthrough, "-o", "source=/tmp/ext4,cache=auto", "/tmp/pass"], check=True)
            try:
                rate = loads([node], self.load, "read", ["/tmp/pass/one"], 1, self.options["seconds"])[0]
                self.values.add("cluster_read_4k", "passthrough_ll", rate)
            finally:
                node.run("umount /tmp/pass", check=True)
        finally:
            # its daemon may have the directory open for a moment longer
            node.run("umount -l /tmp/ext4", check=True)

    def locks(self):
        out = self.nodes[0].run([os.path.join(self.builddir, "tools", "bench-locks"), "g2", str(self.options["seconds"] * 1000)],
                                check=True, timeout=STEP_SECONDS).out
        ours, raw, cached, mutex = map(float, out.split())
        for whom, value in (("gfs2-fuse", ours / 1000), ("DLM", raw / 1000)):
            self.values.add("cluster_df_ex_df", whom, value)
        for whom, value in (("gfs2-fuse", cached), ("mutex", mutex)):
            self.values.add("cluster_cached_glock", whom, value)
