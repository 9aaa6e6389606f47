#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: two and three mounts of one volume with lock_local see each other's changes, and survive each other's deaths
# timeout: 300
# variants: plain asan
import os
import signal
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from calls import next_tick    # noqa: E402
from journal import journals, master_counts    # noqa: E402
from testlib import *    # noqa: E402

FULL = os.environ.get("GFS2_TEST_FULL")


def shared_volume(nodes, **more):
    return Volume(journals=nodes, proto="lock_dlm", table="test:vol", **more)


def mount(volume, *options, **more):
    """Mount as one more node."""
    return volume.mount("lockproto=lock_local", *options, **more)


def brokers(volume):
    """Sockets of brokers for this volume; named by device and inode of the image."""
    st = os.stat(volume.path)
    return [name for name in os.listdir("/run/gfs2-fuse")
            if f"-{st.st_dev:x}-{st.st_ino:x}.broker" in name]


def on_nodes(nodes, **more):
    """Run a case on a fresh volume with that many mounts; afterwards the volume is clean and the broker gone."""
    def decorate(function):
        def wrapped():
            volume = shared_volume(nodes, size="256M", **more)
            mounts = [mount(volume) for _ in range(nodes)]
            equal(len([b for b in brokers(volume) if b.endswith(".broker")]), 1, "number of brokers")
            function(volume, *mounts)
            for one in mounts:
                if one.daemon:
                    one.umount()
            wait_for(lambda: not brokers(volume), "the broker to end")
            # What dead nodes had unlinked is freed by the next first mount.
            mount(volume).umount()
            volume.fsck()
        return wrapped
    return decorate


def names(directory):
    return sorted(os.listdir(directory))


@on_nodes(2)
def case_namespace(_volume, a, b):
    os.mkdir(a / "d")
    write_file(a / "d/one", b"1" * 5000)
    equal(names(b / "d"), ["one"], "after a create on the other node")
    equal(read_file(b / "d/one"), b"1" * 5000, "data of the other node")
    os.rename(b / "d/one", b / "d/two")
    equal(names(a / "d"), ["two"], "after a rename on the other node")
    expect_errno(errno.ENOENT, os.stat, a / "d/one")
    os.link(a / "d/two", a / "d/three")
    equal(os.stat(b / "d/two").st_nlink, 2, "links")
    os.symlink("two", b / "d/link")
    equal(os.readlink(a / "d/link"), "two", "symlink")
    os.chmod(a / "d/two", 0o600)
    os.utime(a / "d/two", ns=(10**18, 10**18))
    st = os.stat(b / "d/two")
    equal((st.st_mode & 0o7777, st.st_mtime_ns), (0o600, 10**18), "attributes")
    os.truncate(b / "d/two", 100)
    equal(os.stat(a / "d/two").st_size, 100, "size")
    os.unlink(a / "d/two")
    os.unlink(b / "d/three")
    os.unlink(a / "d/link")
    os.rmdir(b / "d")
    equal((names(a), names(b)), ([], []), "at the end")
    expect_errno(errno.ENOENT, os.stat, a / "d")


@on_nodes(2)
def case_data(_volume, a, b):
    """Whoever writes, however: the other one reads it, through descriptors that stay open."""
    open(a / "f", "wb").close()
    block = 4096
    fds = {(m, how): os.open(m / "f", os.O_RDWR | (os.O_DIRECT if how == "direct" else 0))
           for m in (a, b) for how in ("direct", "buffered")}
    os.ftruncate(fds[a, "buffered"], 64 * block)
    page = mmap.mmap(-1, 4 * block)
    rng = random.Random(240)
    done = []
    model = bytearray(64 * block)
    for step in range(400 if FULL else 120):
        at = rng.randrange(60) * block
        data = bytes([rng.randrange(1, 256)]) * rng.choice([block, 2 * block, 4 * block])
        who, how = rng.choice(list(fds))
        page[:len(data)] = data
        equal(os.pwritev(fds[who, how], [memoryview(page)[:len(data)]], at), len(data), "written")
        model[at:at + len(data)] = data
        done = (done + [('ab'[who is b], how, at, len(data), data[0])])[-8:]
        who, how = rng.choice(list(fds))
        at = rng.randrange(60) * block
        got = os.preadv(fds[who, how], [memoryview(page)[:4 * block]], at)
        same_data(bytes(page[:got]), bytes(model[at:at + 4 * block]), f"step {step}: node {'ab'[who is b]} reads "
             f"{how} at {at}; writes so far: {done}")
    for (who, how), fd in fds.items():
        os.close(fd)
    for m in (a, b):
        same_data(read_file(m / "f"), bytes(model), "at the end")


@on_nodes(3)
def case_append(_volume, *mounts):
    """O_APPEND from several nodes: nothing is overwritten, every record is whole."""
    record = 100
    each = 300 if FULL else 60

    def writer(number, m):
        with open(m / "log", "ab", buffering=0) as out:
            for i in range(each):
                text = f"{number} {i} ".encode()
                out.write(text + b"x" * (record - 1 - len(text)) + b"\n")

    open(mounts[0] / "log", "wb").close()
    threads = [threading.Thread(target=writer, args=(n, m)) for n, m in enumerate(mounts)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for m in mounts:
        lines = read_file(m / "log").split(b"\n")
        equal(lines.pop(), b"", "end of the log")
        equal(len(lines), each * len(mounts), "records")
        seen = {}
        for line in lines:
            equal(len(line), record - 1, "length of a record")
            number, i = (int(word) for word in line.split()[:2])
            equal(i, seen.get(number, -1) + 1, f"order of node {number}'s records")
            seen[number] = i


@on_nodes(2)
def case_direct_writers(_volume, a, b):
    """generic/240's writers, on both nodes, on one file."""
    for number, mode in enumerate(["sync", "io_uring"]):
        name = f"file{number}"
        run([prog("dio240"), f"{a / name},{b / name}", mode, 4, 3 << 20 if FULL else 1 << 20, number])


def case_times_of_direct_writes():
    """dio_mtime=deferred: with one writer stat is exact on both nodes, though nothing is published by time; two that have something
    to publish do not wait for each other; never backwards."""
    volume = shared_volume(2, size="256M")
    nodes = [mount(volume, "dio_mtime_interval=3600") for _ in range(2)]
    a, b = nodes
    write_file(a / "f", bytes(1 << 20), sync=True)
    fds = [os.open(node / "f", os.O_RDWR | os.O_DIRECT) for node in nodes]
    inode = os.fstat(fds[0]).st_ino
    last = 0
    with Aligned(b"t" * 4096) as data:
        for number in range(6):
            writer, reader = number % 2, 1 - number % 2
            os.pwrite(fds[writer], data, 4096 * number)
            seen = os.stat(nodes[reader] / "f").st_mtime_ns
            equal(seen, os.fstat(fds[writer]).st_mtime_ns, f"mtime on the other node after write {number}")
            check(seen > last, f"mtime {seen} after write {number}, before it {last}")
            last = seen
            next_tick()

        # Read by its own node in between, so that the lock is shared.
        os.pwrite(fds[0], data, 0)
        equal(read_file(a / "f")[:4], b"tttt", "data")
        equal(os.stat(b / "f").st_mtime_ns, os.fstat(fds[0]).st_mtime_ns, "mtime after a read")

        os.pwrite(fds[0], data, 0)
        with Trace(a) as trace:
            for number in range(50):
                os.pwrite(fds[0], data, 4096 * number)
        asked = [event for event in trace.of(inode) if event.get("to") == "EX"]
        equal(asked, [], "EX for a run of direct writes")

        for number in range(10):
            for fd in fds:
                os.pwrite(fd, data, 4096 * number)
            # Both hold the lock in DF and know a time that the other does not.
            threads = [threading.Thread(target=os.fsync, args=(fd,)) for fd in fds]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(STEP_SECONDS)
                check(not thread.is_alive(), "two nodes that publish wait for each other")
            seen = [os.fstat(fd).st_mtime_ns for fd in fds]
            equal(seen[0], seen[1], f"mtime on both nodes, round {number}")
            check(seen[0] >= last, f"mtime {seen[0]} in round {number}, {last} before")
            last = seen[0]
    for fd in fds:
        os.close(fd)
    for node in nodes:
        equal(os.stat(node / "f").st_mtime_ns, last, "mtime after close")
        node.umount()
    volume.fsck()


def case_unlinked_open():
    """A file that is open on one node and unlinked on the other lives until it is closed, and is freed then."""
    volume = shared_volume(3, size="128M")
    a, b, c = [mount(volume) for _ in range(3)]
    for name in ("open", "seen", "replaced", "new"):
        write_file(a / name, name.encode() * 10000)
    os.mkdir(a / "dir")
    os.listdir(c / "dir")
    fd = os.open(b / "open", os.O_RDWR)
    fd2 = os.open(c / "open", os.O_RDONLY)
    gone = os.open(b / "replaced", os.O_RDONLY)
    for name in ("open", "seen", "replaced"):
        os.stat(b / name)
        read_file(c / name)
    before = time.monotonic()
    os.unlink(a / "open")
    os.unlink(a / "seen")
    os.rename(c / "new", c / "replaced")
    os.rmdir(b / "dir")
    log(f"removals took {time.monotonic() - before:.1f} s")
    equal(os.fstat(fd).st_nlink, 0, "links seen by the node that has it open")
    same_data(os.pread(fd, 40000, 0), b"open" * 10000, "unlinked file")
    os.pwrite(fd, b"OPEN", 0)
    same_data(os.pread(fd2, 4, 0), b"OPEN", "unlinked file on a third node")
    same_data(os.pread(gone, 80000, 0), b"replaced" * 10000, "replaced file")
    same_data(read_file(b / "replaced"), b"new" * 10000, "what replaced it")
    expect_errno(errno.ENOENT, os.open, b / "open", os.O_RDONLY)
    os.close(fd)
    same_data(os.pread(fd2, 8, 0), b"OPENopen", "unlinked file after another user has left")
    os.close(fd2)
    os.close(gone)
    for m in (a, b, c):
        m.umount()
    # Nobody has mounted it anew: they themselves have freed it all.
    volume.fsck()


def case_unlinked_by_the_dead():
    """What a dead node had open and unlinked is found by who needs the space; what is in use is not touched."""
    volume = shared_volume(3, size="128M")
    a, b, c = [mount(volume) for _ in range(3)]
    write_file(a / "dead", bytes(30 << 20), sync=True)
    write_file(a / "alive", b"alive" * 200000, sync=True)
    fds = [os.open(a / "dead", os.O_RDONLY), os.open(c / "alive", os.O_RDONLY)]
    os.unlink(a / "dead")
    os.unlink(a / "alive")
    directory = os.open(a.dir, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    a.kill()
    taken = 0
    try:
        with open(b / "fill", "wb", buffering=0) as out:
            while True:
                taken += out.write(bytes(1 << 20))
    except OSError as error:
        equal(error.errno, errno.ENOSPC, "in the end")
    # 128 without three journals of 8, and without the 30 of the dead
    log(f"{taken >> 20} MiB found room")
    check(taken > 90 << 20, f"{taken} bytes found room")
    same_data(os.pread(fds[1], 1000000, 0), b"alive" * 200000, "file that is unlinked and open")
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass    # its node is dead
    os.unlink(b / "fill")
    for m in (b, c):
        m.umount()
    # Nobody has mounted it anew: there is nothing left to be freed.
    volume.fsck()


@on_nodes(2, bs=512)
def case_trees(_volume, a, b):
    """Both nodes create, rename and remove in one directory, which is soon a hashed one, at the same time."""
    os.mkdir(a / "busy")
    rounds = 200 if FULL else 40
    errors = []

    def worker(number, m):
        try:
            for i in range(rounds):
                name = m / f"busy/{number}.{i}"
                write_file(name, b"%d" % i)
                os.rename(name, name + "r")
                if i % 3 == 0:
                    os.unlink(name + "r")
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=worker, args=(n, m)) for n, m in enumerate((a, b))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    equal(errors, [], "errors")
    want = sorted(f"{n}.{i}r" for n in range(2) for i in range(rounds) if i % 3)
    equal(names(a / "busy"), want, "seen by the first node")
    equal(names(b / "busy"), want, "seen by the second node")


def case_mapping_refused():
    """A shared mapping would not be coherent: it is refused; a private one works."""
    volume = shared_volume(1, size="128M")
    with mount(volume) as a:
        write_file(a / "f", b"mapped" * 1000)
        with open(a / "f", "r+b") as f:
            expect_errno(errno.ENODEV, mmap.mmap, f.fileno(), 4096, flags=mmap.MAP_SHARED)
            private = mmap.mmap(f.fileno(), 4096, flags=mmap.MAP_PRIVATE)
            equal(private[:6], b"mapped", "private mapping")
            private.close()
    volume.fsck()


def case_cycles():
    """Mounts come and go; nothing is left of them, neither in the broker nor in a mount that stays."""
    volume = shared_volume(2, size="128M")
    with mount(volume) as stays:
        def resources():
            status = open(f"/proc/{stays.daemon.pid}/status").read()
            threads = int(re.search(r"Threads:\s*(\d+)", status)[1])
            fds = len(os.listdir(f"/proc/{stays.daemon.pid}/fd"))
            glocks = len([line for line in stays.glockctl("dump").stdout.splitlines()
                          if line.startswith("G:")])
            return threads, fds, glocks
        before = None
        over = threading.Event()

        def disturb():
            """Asks for what the other one is just giving up."""
            while not over.is_set():
                with open(stays / "busy", "ab", buffering=0) as out:
                    out.write(b"x")
                os.utime(stays.dir)

        for i in range(100 if FULL else 10):
            other = mount(volume)
            write_file(other / f"f{i % 3}", b"%d" % i)
            equal(read_file(stays / f"f{i % 3}"), b"%d" % i, "seen by the mount that stays")
            over.clear()
            busy = threading.Thread(target=disturb)
            busy.start()
            for n in range(5):
                write_file(other / "busy", b"", sync=True)
            other.umount()
            over.set()
            busy.join()
            if i == 2:
                before = resources()
        # Workers come as they are needed, each with a ring, and leave when they have long had nothing to do.
        wait_for(lambda: all(now <= then + more for now, then, more in zip(resources(), before, (6, 6, 4))),
                 f"threads, descriptors and glocks to be as few as they were: {before}", pause=0.2)
    wait_for(lambda: not brokers(volume), "the broker to end")
    volume.fsck()


class Load:
    """A process that works on a mount and writes down what was acknowledged: files by rename after fsync, and direct
    writes into a file's allocated blocks."""

    def __init__(self, m, number):
        self.ack = temp("ack")
        write_file(self.ack, b"")
        self.process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "--load", m.dir, str(number), self.ack],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def acknowledged(self):
        lines = read_file(self.ack).split(b"\n")[:-1]
        return [line.decode().split() for line in lines]

    def wait_for_acks(self, more):
        target = len(self.acknowledged()) + more
        wait_for(lambda: len(self.acknowledged()) >= target or self.process.poll() is not None, "work to be done")
        check(self.process.poll() is None, "the load has ended by itself")

    def end(self):
        self.process.terminate()
        self.process.wait()


def load_main(directory, number, ack):
    """What Load runs."""
    log_fd = os.open(ack, os.O_WRONLY | os.O_APPEND)
    page = mmap.mmap(-1, 4096)
    direct = os.open(os.path.join(directory, f"direct{number}"), os.O_RDWR | os.O_DIRECT | os.O_CREAT)
    for block in range(16):
        os.pwrite(direct, page, block * 4096)
    turn = 0
    while True:
        turn += 1
        name = os.path.join(directory, f"shared/{number}.{turn % 20}")
        data = b"%d %d\n" % (number, turn) * 300
        fd = os.open(name + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(fd, data)
        os.fsync(fd)
        os.close(fd)
        os.rename(name + ".new", name)
        # A rename is safe once the directory is.
        dirfd = os.open(os.path.join(directory, "shared"), os.O_RDONLY)
        os.fsync(dirfd)
        os.close(dirfd)
        os.write(log_fd, b"file %d %d\n" % (turn % 20, turn))
        page[:] = b"%08d" % turn * 512
        os.pwrite(direct, page, turn % 16 * 4096)
        os.write(log_fd, b"block %d %d\n" % (turn % 16, turn))


def check_acknowledged(m, number, load):
    """Nothing that was acknowledged is lost: what is there is that or newer, and whole."""
    newest = {}
    for kind, place, turn in load.acknowledged():
        newest[kind, int(place)] = int(turn)
    check(newest, "nothing was acknowledged")
    direct = read_file(m / f"direct{number}")
    for (kind, place), turn in newest.items():
        if kind == "file":
            data = read_file(m / f"shared/{number}.{place}")
            found = int(data.split()[1])
            equal(len(data), len(b"%d %d\n" % (number, found) * 300), f"length of file {place}")
            same_data(data, b"%d %d\n" % (number, found) * 300, f"file {place}")
        else:
            block = direct[place * 4096:(place + 1) * 4096]
            found = int(block[:8])
            # The one in flight at the death may be there in parts, on a device that tears writes; a file does not.
            same_data(block, b"%08d" % found * 512, f"block {place}")
        check(found >= turn, f"{kind} {place}: {found} is older than what was acknowledged, {turn}")


@on_nodes(3)
def case_deaths(volume, *mounts):
    """A daemon is killed under load again and again; the others wait for its journal, and go on."""
    os.mkdir(mounts[0] / "shared")
    mounts = list(mounts)
    effective = 0
    rng = random.Random(SEED)
    for round_ in range(30 if FULL else 3):
        loads = [Load(m, n) for n, m in enumerate(mounts)]
        for load in loads:
            load.wait_for_acks(10)
        victim = rng.randrange(3)
        dead, load = mounts[victim], loads[victim]
        held = len(re.findall(r"^G:  s:EX", dead.glockctl("dump").stdout, re.M))
        load.wait_for_acks(rng.randrange(3))
        dead.kill()
        load.end()
        others = [n for n in range(3) if n != victim]
        for n in others:
            loads[n].wait_for_acks(10)
        # What the dead one held is the survivors' now.
        for n in others:
            check_acknowledged(mounts[n], victim, load)
        for n in others:
            for name in names(mounts[n] / "shared"):
                if name.startswith(f"{victim}.") and int(name.split(".")[1]) % 2 == others.index(n):
                    os.unlink(mounts[n] / f"shared/{name}")
        effective += held > 3
        for n in others:
            loads[n].end()
            check_acknowledged(mounts[victim - 1], n, loads[n])
        mounts[victim] = mount(volume)
        for n, m in enumerate(mounts):
            write_file(m / f"round{round_}.{n}", b"alive", sync=True)
        equal(names(mounts[0]), names(mounts[victim]), "after the dead one has come back")
    log(f"{effective} effective kills")
    check(effective >= (25 if FULL else 2), "the kills were not effective")
    for m in mounts:
        m.umount()


def case_read_only_survivor():
    """The only one left is mounted read-only: it replays the dead one's journal all the same, or it would wait for ever."""
    volume = shared_volume(2, size="128M")
    writer = mount(volume)
    reader = mount(volume, "ro")
    os.mkdir(writer / "d")
    for number in range(20):
        write_file(writer / f"d/{number}", pattern(5000, number), sync=True)
    writer.kill()
    for number in range(20):
        same_data(read_file(reader / f"d/{number}"), pattern(5000, number), f"file {number} of the dead node")
    check("replayed the journal of a dead node" in reader.messages(), "there was nothing to replay, the case shows nothing")
    expect_errno(errno.EROFS, os.unlink, reader / "d/1")
    reader.umount()
    mount(volume).umount()
    volume.fsck()


def case_death_of_all():
    """Both die at once: the next mount replays both journals."""
    volume = shared_volume(2, size="256M")
    a, b = mount(volume), mount(volume)
    os.mkdir(a / "shared")
    loads = [Load(a, 0), Load(b, 1)]
    for load in loads:
        load.wait_for_acks(10)
    for m in (a, b):
        m.kill()
    for load in loads:
        load.end()
    with mount(volume) as c:
        for n in range(2):
            check_acknowledged(c, n, loads[n])
    volume.fsck()


def passed_by(m):
    """Resource groups whose lock this node has, and which it has not read."""
    return re.findall(r"^G:  s:EX n:3/([0-9a-f]+) f:\w*n", m.glockctl("dump").stdout, re.M)


def case_rgrplvb():
    """What one node has filled the other one passes by without reading it, if the value blocks may tell; and finds the last block."""
    for option, wanted in (("rgrplvb", True), ("norgrplvb", False)):
        volume = shared_volume(2, size="512M", mkfs=("-r", "32"))
        a, b = mount(volume), mount(volume, option)
        os.mkdir(a / "d")
        number = 0
        # Whole groups, as far as that goes: nothing of them is left for files of that size.
        while os.statvfs(a).f_bfree * 4096 > 80 << 20:
            number += 1
            with open(a / f"d/fill{number}", "wb") as out:
                os.posix_fallocate(out.fileno(), 0, 15 << 20)
        run(["sync", a.dir])
        write_file(b / "d/new", b"n" * (9 << 20), sync=True)
        seen = passed_by(b)
        log(f"{option}: {len(seen)} groups passed by")
        equal(bool(seen), wanted, f"groups passed by with {option}: {seen}")
        # Both until nothing is left: who believes a value block too much has ENOSPC too soon.
        for turn, m in enumerate((b, a, b, a)):
            try:
                with open(m / f"d/last{turn}", "wb", buffering=0) as out:
                    while True:
                        out.write(b"l" * (1 << 20 if turn < 2 else 4096))
            except OSError as error:
                equal(error.errno, errno.ENOSPC, "when the volume is full")
        for m in (a, b):
            m.umount()
        with mount(volume) as again:
            check(os.statvfs(again).f_bfree < 16, f"ENOSPC with {os.statvfs(again).f_bfree} blocks free")
            same_data(read_file(again / "d/new"), b"n" * (9 << 20), "what was written between full groups")
        volume.fsck()


HELD_UP = "delay_us=600000000"


def case_counts_of_the_dead():
    """It dies with the lock of the master statfs file, which its recovery needs: the broker tells whose it is."""
    volume = shared_volume(2, size="128M")
    b = mount(volume)
    for turn in range(10):
        a = mount(volume)
        write_file(a / f"f{turn}", b"x" * 50000, sync=True)
        # On the way out the counts are moved under that lock, and it is kept until the log is written.  Nobody can be asked whether it has come
        # so far: twice as long each time.
        a.glockctl("set", "fault", "op=write,cls=log," + HELD_UP)
        run(["umount", a.dir])
        time.sleep(0.1 * 2 ** turn)
        a.kill()
        equal(read_file(b / f"f{turn}"), b"x" * 50000, "after the recovery")
        if "has the lock of the block counts" in b.messages():
            break
    check("has the lock of the block counts" in b.messages(), "it never died with the lock")
    log(f"after {turn + 1} deaths")
    b.umount()
    mount(volume).umount()
    volume.fsck()


def heads(volume):
    return {number: head for number, head, _ in journals(volume.path)}


def unfinished_recovery(volume):
    """(who has added a dead node's counts but not cleaned its journal, a third node, whether there were any to add)."""
    # The broker asks who came first.
    recoverer, other, victim = (mount(volume) for _ in range(3))
    for m in (recoverer, victim):
        write_file(m / f"f{jid_of(m)}", b"x" * 500000, sync=True)
    _, before = master_counts(volume.path)
    recoverer.glockctl("set", "fault", "op=write,cls=log," + HELD_UP)
    victim.kill()
    head = heads(volume)[2]
    check(not head.clean, "the journal was cleaned by somebody whose journal writes are held up")
    # None: the half minute after which they are moved was over.
    if head.counts[1]:
        wait_for(lambda: master_counts(volume.path)[1] != before, "the counts to be added")
    return recoverer, other, bool(head.counts[1])


def recoverer_dies(volume, _turn):
    recoverer, other, added = unfinished_recovery(volume)
    recoverer.kill()
    equal(read_file(other / "f2"), b"x" * 500000, "after the recovery")
    wait_for(lambda: heads(volume)[0].clean and heads(volume)[2].clean, "both replays")
    other.umount()
    mount(volume).umount()
    volume.fsck()
    return added


def all_die_in_recovery(volume, turn):
    recoverer, other, added = unfinished_recovery(volume)
    other.daemon.kill()
    recoverer.kill()
    other.kill()
    if turn == 1:
        # It knows nothing of what the recovery has left, and is not in the way of it.
        run(["fsck.gfs2", "-y", volume.path], ok=(0, 1))
        volume.fsck()
    with mount(volume) as m:
        for name in ("f0", "f2"):
            equal(read_file(m / name), b"x" * 500000, name)
    volume.fsck()
    return added


def case_recovery_unfinished():
    """Who has added a dead node's block counts dies before the journal is clean, with counts of its own: everything is counted once."""
    for turn, ends in enumerate([recoverer_dies, all_die_in_recovery, all_die_in_recovery]):
        for _ in range(5):
            if ends(shared_volume(3, size="128M"), turn):
                break
        else:
            raise AssertionError("the counts were moved each time")


def case_all_die_with_counts():
    """One of them in the middle of moving its block counts: who comes then puts these in place before he adds the others'."""
    volume = shared_volume(2, size="128M")
    a, b = mount(volume), mount(volume)
    for m in (a, b):
        write_file(m / f"f{jid_of(m)}", b"x" * 500000, sync=True)
    equal(jid_of(b), 1, "the second one's journal")
    where, before = master_counts(volume.path)
    # In the log, but not in place.
    b.glockctl("set", "fault", f"op=write,cls=meta,pos={where},len=512," + HELD_UP)
    run(["umount", b.dir])
    wait_for(lambda: not any(heads(volume)[1].counts), "the counts to be moved")
    log(f"node 0 has {heads(volume)[0].counts} that are not moved")
    equal(master_counts(volume.path), (where, before), "the master record")
    a.daemon.kill()
    b.kill()
    a.kill()
    check(not heads(volume)[1].clean, "it could unmount")
    mount(volume).umount()
    volume.fsck()


def case_locks_stay():
    """local_death=process: nobody gets the dead daemon's locks before somebody mounts again."""
    volume = shared_volume(3, size="128M")
    a, b = mount(volume, "local_death=process"), mount(volume)
    write_file(a / "f", b"from the dead", sync=True)
    write_file(a / "unsynced", b"x")
    a.kill()
    reader = subprocess.Popen(["cat", b / "f"], stdout=subprocess.PIPE)
    time.sleep(1)
    check(reader.poll() is None, "the dead daemon's lock was given away")
    c = mount(volume)
    equal(reader.communicate(timeout=STEP_SECONDS)[0], b"from the dead", "read after the recovery")
    for m in (b, c):
        m.umount()
    volume.fsck()


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", errors="replace") as words:
            return words.read().split("\0")
    except OSError:
        return []       # it has ended


def case_broker_dies():
    """Without a broker nobody knows who holds what: the mounts withdraw, and nothing is damaged."""
    volume = shared_volume(2, size="128M")
    a, b = mount(volume), mount(volume)
    write_file(a / "before", b"safe", sync=True)
    socket = "/run/gfs2-fuse/" + [n for n in brokers(volume) if n.endswith(".broker")][0]
    broker = [pid for pid in os.listdir("/proc") if pid.isdigit() and
              command_line(pid)[1:3] == ["--lock-broker", socket]]
    equal(len(broker), 1, "brokers")
    os.kill(int(broker[0]), signal.SIGKILL)
    for m in (a, b):
        wait_for(lambda: "lock broker" in m.messages(), "the withdrawal")
        try:
            write_file(m / "after", b"x")
            raise AssertionError("a write without locks succeeded")
        except OSError as error:
            equal(error.errno, errno.EIO, "errno without a broker")
    for m in (a, b):
        run(["umount", m.dir])
        m.daemon.wait(STEP_SECONDS)
        m.daemon = None
    with mount(volume) as c:
        equal(read_file(c / "before"), b"safe", "what was synced before")
    volume.fsck()


def case_withdrawn_node_goes():
    """What a node had when it withdrew others get when its journal has been replayed, not when it unmounts."""
    volume = shared_volume(2, size="128M")
    a, b = mount(volume), mount(volume)
    names = {f"f{number}" for number in range(50)}
    for name in names:
        write_file(a / name, b"synced", sync=True)
    a.glockctl("set", "fault", "op=write,cls=log,error=5")
    expect_errno(errno.EIO, write_file, a / "late", b"x", sync=True)
    # So that whoever does not wait for the replay is faster.
    b.glockctl("set", "fault", "op=read,cls=log,delay_us=500000,count=1")
    run(["umount", a.dir])
    equal(a.daemon.wait(STEP_SECONDS), 32, "exit status of a daemon that has withdrawn")
    a.daemon = None
    equal(set(os.listdir(b.dir)) - {"late"}, names, "what was synced on the node that withdrew")
    for name in names:
        equal(read_file(b / name), b"synced", "contents")
    b.umount()
    volume.fsck()


def waiting(control):
    """Names of the locks that a request of that mount waits for."""
    out = []
    for glock in re.split(r"^G:", "\n".join(control("dump")), flags=re.M)[1:]:
        if re.search(r"^ H: .* f:[^ ]*W", glock, re.M):
            out.append(re.search(r" n:([0-9]+/[0-9a-f]+) ", glock)[1])
    return out


def case_withdrawn_node_that_waits_goes():
    """It unmounts although a lock that it has asked for is with somebody who waits for one of its own."""
    volume = shared_volume(2, size="128M")
    a, b = [mount(volume, "commit=3600", "control=" + temp("control")) for _ in range(2)]
    debug, other = Control(a), Control(b)
    # In one resource group, whose lock the first node gets, with something in its log that has to be written before another one gets it.
    for name in ("one", "two"):
        write_file(b / name, b"x" * 100000, sync=True)
    inode = os.stat(b / "two").st_ino
    os.truncate(a / "one", 0)
    os.utime(b / "two")
    # Stopped there it has written nothing of that yet, so it cannot withdraw before everybody waits.
    debug("timeout", "3600")
    debug("break", f"rgrp:{inode}", "EX->*")
    writer = subprocess.Popen([sys.executable, "-c", f"import os; os.truncate({b / 'two'!r}, 0)"])
    debug("wait", STEP_SECONDS)
    wait_for(lambda: [glock for glock in waiting(other) if glock.startswith("3/")], "the writer to wait for the resource group")
    reader = subprocess.Popen(["cat", a / "two"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: f"2/{inode:x}" in waiting(debug), "the reader to wait for the file")
    equal(len(debug("stops")), 1, "transitions that are stopped")
    debug("set", "fault", "op=write,cls=log,error=5")
    debug("continue")
    equal(reader.wait(STEP_SECONDS), 1, "exit status of the reader")
    check("withdrawn" in a.messages(), "the node has not withdrawn")
    check(writer.poll() is None, "the writer got a lock that is not free")
    run(["umount", a.dir])
    equal(ended(a.daemon), 32, "exit status of a daemon that has withdrawn")
    a.daemon = None
    equal(writer.wait(STEP_SECONDS), 0, "exit status of the writer")
    equal(os.stat(b / "two").st_size, 0, "size of what was truncated")
    for control in (debug, other):
        control.close()
    b.umount()
    volume.fsck()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--load"]:
        load_main(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        main()
