#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: breakpoints, steps, holds and demotions by clients that go at any moment, on two nodes at work: everybody gets on, and no write is lost
# timeout: 240
# variants: plain asan tsan
import os
import socket
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

FILES, BLOCK, BLOCKS, SECONDS = 4, 4096, 64, 4
ANSWERS = ("ok", "error", "usage")


class Client:
    """One connection to a daemon that does not always wait for an answer."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(STEP_SECONDS)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r", encoding="utf-8")
        self.lines.readline()

    def send(self, *words):
        self.socket.sendall((" ".join(map(str, words)) + "\n").encode())

    def __call__(self, *words):
        self.send(*words)
        while True:
            line = self.lines.readline()
            if not line:
                raise ConnectionError
            if line[0] not in " *":
                return line.split()[0]

    def close(self):
        self.lines.close()
        self.socket.close()


class Storm:
    def __init__(self, mounts):
        self.mounts, self.end, self.failed = mounts, threading.Event(), []
        self.answers, self.lock = {}, threading.Lock()
        for number in range(FILES):
            write_file(mounts[0] / f"f{number}", b"0" * BLOCK * BLOCKS, sync=True)
        self.inodes = [os.stat(mounts[0] / f"f{number}").st_ino for number in range(FILES)]

    def guard(self, function, *args):
        try:
            function(*args)
        except Exception as error:      # whatever it is, the main thread tells it
            self.failed.append(f"{function.__name__}{args}: {error!r}")
            self.end.set()

    def work(self, number):
        """Has blocks of its own, direct or buffered, writes them and reads back what it has written last, here or on the other node."""
        rnd = random.Random(SEED * 1000 + number)
        mine = {}
        fds = [[os.open(mount / f"f{n}", os.O_RDWR | (os.O_DIRECT if number % 2 else 0)) for mount in self.mounts] for n in range(FILES)]
        with Aligned(BLOCK) as buffer:
            while not self.end.is_set():
                file, block = rnd.randrange(FILES), number + WORKERS * rnd.randrange(BLOCKS // WORKERS)
                fd = rnd.choice(fds[file])
                if (file, block) in mine and rnd.random() < 0.5:
                    equal(os.preadv(fd, [buffer], block * BLOCK), BLOCK, "bytes read")
                    equal(bytes(buffer[:16]), mine[file, block], f"block {block} of f{file}")
                else:
                    mine[file, block] = b"%016d" % rnd.randrange(10 ** 15)
                    buffer[:] = mine[file, block] * (BLOCK // 16)
                    equal(os.pwritev(fd, [buffer], block * BLOCK), BLOCK, "bytes written")
                if number == 0 and rnd.random() < 0.05:          # holes, where nobody else is
                    where = self.mounts[rnd.randrange(2)] / "holes"
                    with open(where, "wb") as out:
                        out.truncate(1 << 20)
                    direct = os.open(where, os.O_WRONLY | os.O_DIRECT)
                    os.pwrite(direct, buffer, rnd.randrange(64) * BLOCK)
                    os.close(direct)
        for pair in fds:
            for fd in pair:
                os.close(fd)
        with self.lock:
            self.written = {**getattr(self, "written", {}), **mine}

    def words(self, rnd):
        glock = f"inode:{rnd.choice(self.inodes)}"
        return rnd.choice((("break", glock, "*->*"), ("break", "-1", "any", "EX->UN"), ("break", "dio", rnd.choice(("hole", "drain", "upgrade", "buffered"))),
                           ("break", "dlm", rnd.choice(("request", "ast", "bast")), glock), ("step",), ("step",), ("continue",), ("continue",),
                           ("delete", "all"), ("wait", "0.05"), ("stops", "all"), ("breaks", "all"), ("hold", glock, rnd.choice(("SH", "DF", "EX")), "0.1"),
                           ("release", glock), ("demote", glock, rnd.choice(("UN", "SH", "DF")), "0"), ("dump", glock), ("notify", "on")))

    def debug(self, number):
        """Sets up whatever, and is gone in the middle of it."""
        rnd = random.Random(SEED * 1000 + 500 + number)
        while not self.end.is_set():
            client = Client(rnd.choice(self.mounts).control)
            try:
                client("timeout", "0.3")
                for _ in range(rnd.randrange(1, 30)):
                    words = self.words(rnd)
                    answer = client(*words)
                    check(answer in ANSWERS, f"answer to {words}: {answer}")
                    with self.lock:
                        self.answers[words[0], answer] = self.answers.get((words[0], answer), 0) + 1
                client.send(*self.words(rnd))
            finally:
                client.close()

    def programs(self):
        """The same by glockctl: killed, or stopped and then killed."""
        rnd = random.Random(SEED * 1000 + 999)
        while not self.end.is_set():
            script = "timeout 0.3\n" + "".join(" ".join(w) + "\n" for w in (self.words(rnd) for _ in range(5)) if w[0] in ("break", "hold", "demote"))
            program = subprocess.Popen([glockctl_program(), "-s", rnd.choice(self.mounts).control, "repl"], stdin=subprocess.PIPE,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            program.stdin.write(script.encode())
            program.stdin.flush()
            self.end.wait(rnd.random() * 0.2)
            if rnd.random() < 0.5:
                program.send_signal(signal.SIGSTOP)
                self.end.wait(rnd.random() * 0.6)
            program.kill()
            program.stdin.close()
            program.wait()


WORKERS = 16


def case_storm():
    need_fuse()
    volume = Volume(size="256M", journals=2, proto="lock_dlm", table="break:storm")
    controls = [temp("control"), temp("control")]
    with volume.mount("lockproto=lock_local", "control=" + controls[0]) as one, volume.mount("lockproto=lock_local", "control=" + controls[1]) as two:
        one.control, two.control = controls
        storm = Storm((one, two))
        threads = [threading.Thread(target=storm.guard, args=(storm.work, n)) for n in range(WORKERS)]
        threads += [threading.Thread(target=storm.guard, args=(storm.debug, n)) for n in range(6)]
        threads.append(threading.Thread(target=storm.guard, args=(storm.programs,)))
        for thread in threads:
            thread.start()
        storm.end.wait(SECONDS)
        wait_for(lambda: storm.end.is_set() or all(storm.answers.get((kind, "ok")) for kind in ("break", "continue", "demote", "hold")),
                 "each kind of command to have done something")
        storm.end.set()
        for thread in threads:
            thread.join(STEP_SECONDS)
            check(not thread.is_alive(), f"somebody has not got on: {storm.failed}")
        check(not storm.failed, "\n".join(storm.failed))
        log(f"{len(storm.written)} blocks; {sum(storm.answers.values())} answers, {storm.answers.get(('step', 'ok'), 0)} steps")
        for mount in (one, two):
            control = Control(mount)
            for words in (("stops", "all"), ("holds", "all"), ("breaks", "all")):
                # Who was killed last may not have been noticed yet.
                wait_for(lambda: not control(*words), f"{words} to be empty")
            control.close()
            for (file, block), value in storm.written.items():
                fd = os.open(mount / f"f{file}", os.O_RDONLY)
                equal(os.pread(fd, 16, block * BLOCK), value, f"block {block} of f{file} in the end")
                os.close(fd)
    volume.fsck()


if __name__ == "__main__":
    main()
