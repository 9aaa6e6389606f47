#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: one receive thread does not strand itself: a delayed direct write, a demand for EX and a second request all finish
# timeout: 240
# variants: plain asan
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

MIB = 1 << 20
DELAY_US = 400000    # the first try; doubled until everything that is to arrive meanwhile has
LONGEST_DELAY_US = 30 * 1000000


def start(function, *args):
    """Run in a thread; .result holds the outcome after join()."""
    def body():
        try:
            thread.result = function(*args)
        except (OSError, AssertionError, subprocess.SubprocessError) as error:
            thread.result = error
    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread


def finish(mount, threads):
    for thread in threads:
        thread.join(STEP_SECONDS)
        if thread.is_alive():
            # Everybody who waits for it is let go by its end: so this test can end, too.
            mount.daemon.kill()
            raise AssertionError("a request never came back: the receive thread is stranded")


def direct_write(path, offset, data):
    """Path or descriptor."""
    fd = path if isinstance(path, int) else os.open(path, os.O_WRONLY | os.O_DIRECT)
    try:
        with Aligned(data) as buffer:
            return os.pwrite(fd, buffer, offset)
    finally:
        if fd is not path:
            os.close(fd)


def direct_read(fd, offset, length):
    with Aligned(bytes(length)) as buffer:
        return os.preadv(fd, [buffer], offset)


def buffered_write(path, offset, data):
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def slow(mount, op, count, delay=DELAY_US):
    mount.glockctl("set", "fault", f"op={op},cls=dio,delay_us={delay},count={count}")


# ---------------------------------------------------------------- one demand, one delayed request

def arranged(attempt):
    """
    Run attempt(delay) with longer and longer delays until everything that is to arrive meanwhile has: it returns what was
    late, or None.
    """
    delay = DELAY_US
    while late := attempt(delay):
        log(f"{late} came after {delay} us were over: again, longer")
        delay *= 2
        check(delay < LONGEST_DELAY_US, f"{late} comes too late, however long the delay")


def first_seq(events, what, event, **fields):
    """Number of the first such event."""
    for e in events:
        if e["event"] == event and all(e.get(k) == v for k, v in fields.items()):
            return e["seq"]
    raise AssertionError(f"no event for: {what}")


def in_order(trace, inode, others, demanded):
    """
    What the events of one attempt must say.  The delayed request had its lock from the receive thread; while it was in
    flight the demand, a second request for the file and one for another file arrived; the lock moved after it
    was given up.  (Dequeues and grants of a lock are recorded under that lock, so their numbers order them.)
    Returns what did not arrive in time, so that the attempt says nothing, or None.
    """
    mine = trace.of(inode)
    began = first_seq(mine, "the delayed request", "dio_submit")
    req = next(e["req"] for e in mine if e["seq"] == began)
    first_seq(mine, "the delayed request, granted on the receive thread", "glock_promote", req=req,
              reason="fast")
    given_up = first_seq(mine, "its end", "glock_dequeue", req=req)
    ask, moved = demanded
    asked = first_seq([e for e in mine if e["seq"] > began], "the demand", *ask[:1], **ask[1])
    second = [e["seq"] for e in mine if e["seq"] > began and e["event"] == "glock_queue"
              and e.get("to") == "DF" and e["req"] != req]
    check(second, "the second request's event is missing")
    elsewhere = first_seq(trace.of(others), "the other file's request", "glock_queue")
    for seq, what in ((asked, "the demand"), (second[0], "the second request"),
                      (elsewhere, "the other file's request")):
        if seq > given_up:
            return what
    then = first_seq([e for e in mine if e["seq"] > began], "the transition that was demanded",
                     moved[0], **moved[1])
    check(given_up < then, "the lock moved while the direct request was still in flight")
    return None


def prepare(mount, name):
    path = mount / name
    write_file(path, bytes(MIB), sync=True)
    # The glock in hand and the map in memory: the next direct request takes the fast path.
    direct_write(path, 0, bytes(4096))
    return path


def one_demand(op, demand, demanded):
    """
    A direct request is in flight from the only receive thread.  Then come: demand(mount, path), which needs it to
    give its lock up; a second direct request; a direct request for another file.
    """
    need_fuse()
    volume = Volume()

    def attempt(delay):
        with volume.mount("rx_threads=1") as mount:
            path, other = prepare(mount, "file"), prepare(mount, "other")
            inode, others = os.stat(path).st_ino, os.stat(other).st_ino
            fd, elsewhere = (os.open(name, os.O_RDWR | os.O_DIRECT) for name in (path, other))
            # (An open with O_DIRECT throws cached pages away: before the demand maps one.)
            meet = demand(mount, path)
            with Trace(mount) as trace:
                slow(mount, op, 1, delay)
                if op == "write":
                    threads = [start(direct_write, fd, 8192, b"a" * 4096)]
                else:
                    threads = [start(direct_read, fd, 8192, 4096)]
                name = f"2/{inode:x}"
                wait_for(lambda: any(e["event"] == "dio_submit" and e.get("glock") == name
                                     for e in trace._read()), "the delayed request to be in flight")
                threads += [start(meet), start(direct_read, elsewhere, 0, 4096)]
                # Behind the demand, so that it finds the lock asked for: it goes to a worker, and waits there.
                wait_for(lambda: any(e["event"] == demanded[0][0] and e.get("glock") == name
                                     and all(e.get(k) == v for k, v in demanded[0][1].items())
                                     for e in trace._read()), "the demand")
                threads.append(start(direct_read, fd, 16384, 4096))
                finish(mount, threads)
            os.close(fd)
            os.close(elsewhere)
            late = in_order(trace, inode, others, demanded)
            results = [thread.result for thread in threads]
            equal([results[0], results[2], results[3]], [4096, 4096, 4096], "results")
            equal(results[1], None, "the demand")
            data = read_file(path)
            equal(data[8192:12288], (b"a" if op == "write" else b"\0") * 4096, "what the delayed request left")
            return late

    arranged(attempt)
    volume.fsck()


def case_demand_for_ex():
    """
    The kernel keeps buffered writers of a file away while a direct one is in flight, but not the write-back of a shared
    mapping: it needs EX while a direct read has DF.
    """
    if kernel_before(6, 18):
        skip("before Linux 6.18 a direct read of what may be mapped for writing is a worker's, which has stores written back first")

    def demand(_mount, path):
        fd = os.open(path, os.O_RDWR)
        mapping = mmap.mmap(fd, 4096, mmap.MAP_SHARED, offset=65536)
        check(mapping[0] == 0, "the page is there: no fault is to wait for the daemon")

        def write_back():
            mapping[:5] = b"dirty"
            os.fsync(fd)
            mapping.close()
            os.close(fd)
            equal(read_file(path)[65536:65541], b"dirty", "what the mapping wrote")
        return write_back

    one_demand("read", demand, (("glock_queue", {"to": "EX"}), ("glock_promote", {"to": "EX"})))


def by_glockctl(mount, *words):
    """
    glockctl, started now and let go by the call of the result: a process that is started later would close the files that
    it inherits first, which asks for their locks.
    """
    process = subprocess.Popen(["sh", "-c", 'read -r go; exec "$@"', "sh", glockctl_program(), "-m",
                                mount.dir, *words], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def go():
        process.communicate(b"go\n", STEP_SECONDS)
        equal(process.returncode, 0, f"exit status of glockctl {' '.join(words)}")
    return go


def case_demand_for_sh():
    """A reader under SH, while a direct write has DF."""
    def demand(mount, path):
        return by_glockctl(mount, "map", f"inode:{os.stat(path).st_ino}")

    one_demand("write", demand, (("glock_queue", {"to": "SH"}), ("glock_promote", {"to": "SH"})))


def case_demand_from_elsewhere():
    """What another node's request does, by hand: the lock is to be given up while a direct write has DF."""
    def demand(mount, path):
        return by_glockctl(mount, "demote", f"inode:{os.stat(path).st_ino}", "UN")

    one_demand("write", demand, (("glock_demote_rq", {"to": "UN"}), ("glock_state", {"to": "UN"})))


# ---------------------------------------------------------------- many

def case_many_slow_writes():
    """More requests in flight than there are registered receive buffers, all delayed."""
    need_fuse()
    volume = Volume()
    with volume.mount("rx_threads=1") as mount:
        path = prepare(mount, "file")
        name = f"2/{os.stat(path).st_ino:x}"
        with Trace(mount) as trace:
            slow(mount, "write", 80)
            threads = [start(direct_write, path, 4096 * i, bytes([i]) * 4096) for i in range(80)]
            # While a file is open for buffered use the kernel sends its direct writes one by one: not before they are here.
            wait_for(lambda: sum(e["event"] == "dio_submit" and e.get("glock") == name
                                 for e in trace._read()) >= 80, "all of them to be sent")
            threads.append(start(buffered_write, path, 4096 * 100, b"f" * 4096))
            finish(mount, threads)
        equal([t.result for t in threads], [4096] * 81, "results")
        data = read_file(path)
        for i in range(80):
            equal(data[4096 * i:4096 * (i + 1)], bytes([i]) * 4096, f"block {i}")
    volume.fsck()


def case_bursts_and_lone_callers():
    """From many requests at once to one at a time and back: the number of posted reads follows, and
    at no moment is there none."""
    need_fuse()
    volume = Volume()
    with volume.mount("rx_threads=1") as mount:
        path = prepare(mount, "file")
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        with Aligned(bytes(4096)) as data:
            for _ in range(150 if FULL else 40):
                finish(mount, [start(os.pwrite, fd, data, 4096 * i) for i in range(24)])
                lone = [start(lambda: [os.pwrite(fd, data, 0) for _ in range(40)])]
                finish(mount, lone)
        os.close(fd)
    volume.fsck()


main()
