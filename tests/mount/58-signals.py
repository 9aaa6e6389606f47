#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: SIGTERM, SIGINT, SIGHUP to the daemon and signals to the applications, at any moment of a load: what returned is there, nothing hangs
# timeout: 240
# variants: plain asan
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from crashload import chosen, steps_open, verify_words    # noqa: E402
from journal import journals_clean    # noqa: E402
from testlib import *    # noqa: E402

ROUNDS = 4 if not FULL else 40
SIZE = "256M" if not FULL else "4G"    # the load must not fill it
CRASHLOAD = os.path.join(ROOT, "tests", "lib", "crashload.py")


def start_load(directory, acks):
    os.mkdir(acks)
    os.mkdir(directory)
    out = temp("load")
    with open(out, "wb") as to:
        loader = subprocess.Popen([sys.executable, "-B", CRASHLOAD, "load", directory, acks,
                                   str(random.randrange(1 << 30))], stdout=to, stderr=to)
    return loader, out


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as text:
        return [int(word) for word in text.read().split()]


def acknowledged(acks):
    """Every worker has begun and has been promised something."""
    for kind, number in chosen([]):
        path = os.path.join(acks, f"{kind}{number}")
        if not os.path.exists(path):
            return False
        text = read_file(path)
        if b"begin" not in text or (kind != "churn" and b'"ok"' not in text):
            return False
    return True


def verify(directory, acks, what):
    done = run([sys.executable, "-B", CRASHLOAD, *verify_words(directory, acks, workdir())], ok=None)
    check(done.returncode == 0, f"{what}, seed {SEED}:\n{done.stdout}")


class Buffered:
    """A process that writes and never syncs: write(2), and a shared mapping.  It says what was done after it was done."""

    def __init__(self, directory):
        os.mkdir(directory)
        self.directory, self.said = directory, temp("said")
        self.pid = os.fork()
        if not self.pid:
            try:
                self._write()
            except OSError:
                pass    # the file system has gone
            finally:
                os._exit(0)

    def _write(self):
        said = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        number = 0
        while True:
            number += 1
            write_file(os.path.join(self.directory, f"f{number}"), self.content(number))
            os.rename(os.path.join(self.directory, f"f{number}"), os.path.join(self.directory, f"done{number}"))
            os.write(said, b".")

    @staticmethod
    def content(number):
        return bytes([number % 251]) * (number * 777 % 30000)

    def done(self):
        return os.path.getsize(self.said) if os.path.exists(self.said) else 0

    def verify(self, directory):
        """Everything up to what was said, and nothing beyond the next."""
        for number in range(1, self.done() + 1):
            check(read_file(os.path.join(directory, f"done{number}")) == self.content(number),
                  f"file {number} of {self.done()} is not what was written, seed {SEED}")

    def end(self):
        if self.pid:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            os.waitpid(self.pid, 0)
            self.pid = 0


def case_daemon():
    """The daemon is told to end while everybody writes: as clean as an unmount, and everything that returned is there."""
    need_fuse()
    volume = Volume(size=SIZE)
    for number in range(ROUNDS):
        sign = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP][number % 3]
        acks = temp("acks")
        mount = volume.mount("commit=30")
        loader, complaints = start_load(mount / f"round{number}", acks)
        buffered = Buffered(mount / f"buffered{number}")
        try:
            wait_for(lambda: acknowledged(acks) and buffered.done() > 5 or loader.poll() is not None, "all to work")
            check(loader.poll() is None, "the load ended: " + read_file(complaints).decode())
            time.sleep(random.random() * 0.3)
            mount.daemon.send_signal(sign)
            equal(mount.daemon.wait(STEP_SECONDS), 0, f"exit status after {sign.name}: {mount.messages()}")
            loader.wait(STEP_SECONDS)
            # Where the mount was there is an empty directory now.  Several processes write there, a line and its end apart.
            odd = [line for line in read_file(complaints).decode().splitlines()
                   if line.strip() and "[Errno 2]" not in line]
            check(not odd, f"the load: {odd}")
            wait_for(lambda: os.waitpid(buffered.pid, os.WNOHANG)[0], "the writer to end")
            buffered.pid = 0
        finally:
            if loader.poll() is None:
                loader.terminate()
                loader.wait()
            buffered.end()
            mount.drop()
        check(journals_clean(volume.path), f"a journal is not clean after {sign.name}: {mount.messages()}")
        volume.fsck()
        with volume.mount() as mount:
            verify(mount / f"round{number}", acks, sign.name)
            buffered.verify(mount / f"buffered{number}")
            log(f"{sign.name}: {steps_open(acks)[1]} steps, {buffered.done()} buffered files")
            if number % 2:
                run(["rm", "-r", mount / f"round{number}", mount / f"buffered{number}"])
    volume.fsck()


def case_applications():
    """Applications are interrupted in the middle of their calls, and killed: the others, and the daemon, do not mind."""
    need_fuse()
    volume = Volume(size=SIZE)
    mount = volume.mount("fault=op=write:cls=data:delay_us=300")
    acks = temp("acks")
    loader, complaints = start_load(mount / "load", acks)
    try:
        wait_for(lambda: acknowledged(acks) or loader.poll() is not None, "all to work")
        # Python repeats calls that end with EINTR, but the kernel sends an INTERRUPT for each request that waits.
        for _ in range(300 if not FULL else 5000):
            for pid in children(loader.pid):
                os.kill(pid, signal.SIGCHLD)    # ignored ones do not interrupt
                os.kill(pid, signal.SIGSTOP)
                os.kill(pid, signal.SIGCONT)
            time.sleep(0.002)
        check(loader.poll() is None, "the load ended: " + read_file(complaints).decode())
        victims = children(loader.pid)
        random.shuffle(victims)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
            time.sleep(random.random() * 0.05)
        loader.wait(STEP_SECONDS)
    finally:
        if loader.poll() is None:
            loader.terminate()
            loader.wait()
    verify(mount / "load", acks, "writers killed")
    mount.umount()
    check("BUG" not in mount.messages(), mount.messages())
    volume.fsck()
    with volume.mount() as mount:
        verify(mount / "load", acks, "writers killed, after a remount")
        run(["rm", "-r", mount / "load"])
    volume.fsck()


main()
