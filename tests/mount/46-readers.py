#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: who reads requests changes from readers to rings and back, many times, under load; an end in either mode
# timeout: 240
# variants: plain asan
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

CHANGES = 15 if not FULL else 500
WRITERS = 8
BLOCK = 4096
DELAY = "op=write,cls=dio,delay_us=300,count=0"


def changes(control):
    stats = dict(line.split() for line in control("get", "stats"))
    return int(stats["receive_to_rings"]), int(stats["receive_to_readers"])


class Deep:
    """Direct writers, as many at once as make the rings read; each in its own blocks, until told."""

    def __init__(self, path):
        self.path, self.stop = path, threading.Event()
        self.faults, self.last = [], [None] * WRITERS
        self.threads = [threading.Thread(target=self._write, args=(n,), daemon=True) for n in range(WRITERS)]
        for thread in self.threads:
            thread.start()

    def _write(self, number):
        fd = os.open(self.path, os.O_WRONLY | os.O_DIRECT)
        turn = 0
        try:
            while not self.stop.is_set():
                turn += 1
                with Aligned(bytes([turn % 251]) * BLOCK) as data:
                    equal(os.pwrite(fd, data, number * BLOCK), BLOCK, "bytes written")
                self.last[number] = turn % 251
        except (OSError, AssertionError) as fault:
            self.faults.append(fault)
        finally:
            try:
                os.close(fd)
            except OSError as fault:
                self.faults.append(fault)

    def join(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(STEP_SECONDS)
            check(not thread.is_alive(), "a writer never came back")

    def end(self):
        self.join()
        check(not self.faults, f"writers: {self.faults}")
        data = read_file(self.path)
        for number, turn in enumerate(self.last):
            if turn is not None:
                check(data[number * BLOCK:(number + 1) * BLOCK] == bytes([turn]) * BLOCK, f"block {number} differs")


class Churn(threading.Thread):
    """Names made and removed all the while: requests that go to a handler, some of which wait for others' locks."""

    def __init__(self, mount, number):
        super().__init__(daemon=True)
        self.directory = mount / f"churn{number}"
        self.stop, self.fault, self.rounds = threading.Event(), None, 0
        os.mkdir(self.directory)
        self.start()

    def run(self):
        try:
            while not self.stop.is_set():
                self.rounds += 1
                name = os.path.join(self.directory, f"f{self.rounds % 7}")
                write_file(name, b"x" * self.rounds, sync=self.rounds % 5 == 0)
                os.rename(name, name + "r")
                equal(os.path.getsize(name + "r"), self.rounds, "size")
                os.unlink(name + "r")
        except (OSError, AssertionError) as fault:
            self.fault = fault

    def end(self):
        self.stop.set()
        self.join(STEP_SECONDS)
        check(not self.is_alive(), "a request never came back")
        check(not self.fault, f"churn: {self.fault}")
        equal(os.listdir(self.directory), [], "names that are left")


def prepared(volume, *options):
    mount = volume.mount(f"control={temp('control')}", *options)
    write_file(mount / "file", bytes(1 << 20), sync=True)
    control = Control(mount)
    control("set", "fault", DELAY)
    return mount, control


def to_rings(mount, control):
    before = changes(control)[0]
    load = Deep(mount / "file")
    wait_for(lambda: load.faults or changes(control)[0] > before, "the rings to read")
    load.end()


def to_readers(mount, control):
    """Nothing at the device: names, one after the other."""
    seen = changes(control)
    end = time.monotonic() + STEP_SECONDS
    while seen[0] > seen[1] - 1:    # it begins with readers
        check(time.monotonic() < end, "the readers do not read again")
        for number in range(30):
            os.mkdir(mount / f"d{number}")
            os.rmdir(mount / f"d{number}")
        seen = changes(control)


def case_to_and_fro():
    need_fuse()
    volume = Volume()
    mount, control = prepared(volume, "rx_threads=1")
    with mount:
        to_readers(mount, control)
        churn = [Churn(mount, number) for number in range(2)]
        for _ in range(CHANGES):
            to_rings(mount, control)
            to_readers(mount, control)
        for one in churn:
            one.end()
        rings, readers = changes(control)
        log(f"{rings} times to the rings, {readers} to readers; {sum(one.rounds for one in churn)} rounds of names")
        check(rings >= CHANGES and readers > CHANGES, "changes")
        control.close()
    volume.fsck()


def case_several_receive_threads():
    need_fuse()
    volume = Volume()
    mount, control = prepared(volume, "rx_threads=3")
    with mount:
        churn = Churn(mount, 0)
        for _ in range(CHANGES // 5):
            to_rings(mount, control)
            to_readers(mount, control)
        churn.end()
        control.close()
    volume.fsck()


def faults_of(mount):
    with open(f"/proc/{mount.daemon.pid}/stat") as text:
        return int(text.read().rpartition(")")[2].split()[7])


def uncached_read(path):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    size = 0
    while data := os.read(fd, 1 << 20):
        size += len(data)
    os.close(fd)
    return size


def case_buffers_are_used_again():
    """Idle threads do not have all the buffers while the one that works asks the system for a new one each time."""
    mib = 32
    volume = Volume(size="256M")
    with volume.mount() as mount:
        names = [mount / f"f{number}" for number in range(8)]
        for name in names:
            write_file(name, pattern(1 << 20, SEED), sync=True)
        write_file(mount / "large", pattern(mib << 20, SEED), sync=True)
        for _ in range(5):
            threads = [threading.Thread(target=uncached_read, args=(name,)) for name in names]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(STEP_SECONDS)
        turns = []
        for _ in range(5):
            before = faults_of(mount)
            equal(uncached_read(mount / "large"), mib << 20, "bytes read")
            turns.append(faults_of(mount) - before)
        log(f"page faults while {mib} MiB were read: {turns}")
        # A page each would be 8192.
        check(min(turns) < 2000, f"{turns} page faults for {mib} MiB")
    volume.fsck()


def end_in(mode, how):
    """The file system goes, by SIGTERM under a load and with a file open, while those read who read in this mode."""
    volume = Volume()
    mount, control = prepared(volume)
    load = None
    if mode == "rings":
        load = Deep(mount / "file")
        wait_for(lambda: load.faults or changes(control)[0] > 0, "the rings to read")
    control.close()
    if how == "sigterm":
        held = os.open(mount / "file", os.O_RDONLY)
        mount.daemon.send_signal(signal.SIGTERM)
        mount.wait_end()
        os.close(held)
    if load:
        load.join()
        gone = (errno.ENOTCONN, errno.ECONNABORTED) if how == "sigterm" else ()
        check(all(getattr(fault, "errno", None) in gone for fault in load.faults), f"writers: {load.faults}")
    if how != "sigterm":
        mount.umount(how)
    volume.fsck()


def case_end_in_either():
    need_fuse()
    for mode in ("readers", "rings"):
        for how in ("umount", "sigterm"):
            end_in(mode, how)


main()
