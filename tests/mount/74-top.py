#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: glockctl top on a real terminal (tmux): the list, sort, filter, a lock's page, resize, every way to end; and as text
# timeout: 240
# variants: plain asan
import json
import os
import select
import shlex
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

on_mount = on_mount_with_control


class Screen:
    """glockctl on a terminal: a tmux of our own, in which a shell says how it ended."""

    def __init__(self, *words, columns=80, rows=24, leaks=True):
        if not shutil.which("tmux"):
            skip("tmux is not installed")
        self.server = temp("tmux")
        # Whose terminal goes gets a SIGCONT, which the leak sanitizer does not survive at the end of a program: it stops the program by a SIGSTOP,
        # the one takes the other away, and it waits for ever (45 of 60 that got SIGCONT just then).
        self.env = dict(os.environ, LC_ALL="C.UTF-8", TERM="xterm", TMUX="")
        if not leaks:
            self.env["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"
        self.before, self.after = temp("stty"), temp("stty")
        command = (f"trap : INT; stty -g >{self.before}; {shlex.join([glockctl_program(), *map(str, words)])}; echo ENDED $?; "
                   f"stty -g >{self.after}; read -r nothing")
        atexit.register(self.drop)
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", columns, "-y", rows, "sh", "-c", command)

    def tmux(self, *words):
        return run(["tmux", "-S", self.server, *words], timeout=STEP_SECONDS, env=self.env).stdout

    def lines(self):
        return self.tmux("capture-pane", "-p").rstrip("\n").split("\n")

    def wait(self, predicate, what):
        """Until the screen is so: its lines."""
        def there():
            try:
                return predicate(self.lines())
            except (IndexError, KeyError, StopIteration):   # it is just being drawn
                return False
        try:
            wait_for(there, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the screen is\n" + "\n".join(self.lines())) from None
        return self.lines()

    def text(self, text):
        return self.wait(lambda lines: any(text in line for line in lines), f"{text!r} on the screen")

    def keys(self, *keys):
        self.tmux("send-keys", *keys)

    def resize(self, columns, rows):
        self.tmux("resize-window", "-x", columns, "-y", rows)

    def pid(self):
        """Of glockctl, which is the shell's child."""
        (shell,) = self.tmux("list-panes", "-F", "#{pane_pid}").split()
        (child,) = run(["pgrep", "-P", shell]).stdout.split()
        return int(child)

    def ended(self, status, text=None):
        """It has, with that status, and the terminal is as it was."""
        self.text(f"ENDED {status}")
        if text:
            self.text(text)
        wait_for(lambda: os.path.exists(self.after) and read_file(self.after), "the terminal's settings")
        equal(read_file(self.after), read_file(self.before), "the terminal's settings")
        equal(self.tmux("display-message", "-p", "#{alternate_on} #{cursor_flag} #{keypad_flag}").split(), ["0", "1", "0"],
              "alternate screen, cursor, keypad")
        self.close()

    def drop(self):
        """When a case has failed: nothing is left running."""
        subprocess.run(["tmux", "-S", self.server, "kill-server"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    def close(self):
        self.tmux("kill-server")


def rows(lines):
    """The list: a lock's columns by name."""
    at = next(i for i, line in enumerate(lines) if line.startswith("GLOCK"))
    head = lines[at].split()
    return [dict(zip(head, line.split())) for line in lines[at + 1:-1] if line.strip()]


class Load:
    """Direct writes over data of one file, and one into a hole now and then of another, until the context is left."""

    def __init__(self, mount):
        for name, size in (("hot", 65536), ("holes", 4096)):
            write_file(mount / name, b"A" * size, sync=True)
        os.truncate(mount / "holes", 64 << 20)
        code = ("import mmap, os, sys\nbuf = mmap.mmap(-1, 4096)\nhot, holes = (os.open(p, os.O_WRONLY | os.O_DIRECT) for p in sys.argv[1:])\n"
                "n = 0\nwhile True:\n    os.pwrite(hot, buf, n % 16 * 4096)\n    n += 1\n"
                "    if n % 8 == 0: os.pwrite(holes, buf, 4096 + n % 8192 // 8 * 4096)\n"
                "    if n % 8192 == 0: os.ftruncate(holes, 4096); os.ftruncate(holes, 64 << 20)\n")
        self.process = subprocess.Popen([sys.executable, "-c", code, mount / "hot", mount / "holes"])

    def __enter__(self):
        return self

    def __exit__(self, *_what):
        self.process.kill()
        self.process.wait()


@on_mount
def case_list(mount):
    """What is busy is on top, with where it is; sorting; filters."""
    for name in "abcdefghijklmnopqrstuvwxyz":
        write_file(mount / name, b"x")
    with Load(mount):
        hot = f"2/{os.stat(mount / 'hot').st_ino:x}"
        screen = Screen("-s", mount.control, "top", "-d", "0.2")
        # Down to the last line: it may be looked at while it is drawn for the first time.
        lines = screen.wait(lambda s: any(l.startswith("GLOCK") for l in s) and rows(s)[0]["GLOCK"] == hot and rows(s)[0]["FALLB"] == "0%" and
                            "q quit" in s[-1], "the hot file on top")
        # Its path in what 80 columns leave: the end tells files apart.
        where = rows(screen.wait(lambda s: rows(s)[0]["WHERE"].endswith("/hot"), "where it is"))[0]["WHERE"]
        check(where in (str(mount / "hot"), ".." + str(mount / "hot")[2 - len(where):]), f"where it is: {where!r}")
        equal(len(lines), 24, "lines of the screen")
        check(mount.dir[:30] in lines[0] and "lock_nolock" in lines[0], f"the first line is {lines[0]!r}")
        check(re.match(r"locks \d+: EX \d+ DF \d+ SH \d+ UN \d+  waiters \d+", lines[1]), f"the second line is {lines[1]!r}")
        check(re.search(r"req/s [\d.]+k? .*direct \d+% fallback \d+%$", lines[2]), f"the third line is {lines[2]!r}")
        equal(len(rows(lines)), 24 - 4 - 1, "rows")
        holes = f"2/{os.stat(mount / 'holes').st_ino:x}"
        screen.wait(lambda s: any(r["GLOCK"] == holes and r["FALLB"] == "100%" for r in rows(s)), "the file with holes, which falls back")
        screen.keys("n")
        lines = screen.wait(lambda s: "by name" in s[-1], "the sort")
        names = [tuple(int(part, 16) for part in row["GLOCK"].split("/")) for row in rows(lines)]
        equal(names, sorted(names), "the order by name")
        screen.keys("End")
        screen.wait(lambda s: rows(s)[0]["GLOCK"] != rows(lines)[0]["GLOCK"], "the end of the list")
        screen.keys("r", "/")
        screen.keys("-l", f"inode:{int(hot[2:], 16)}")
        screen.wait(lambda s: s[-1].startswith(f"filter: inode:{int(hot[2:], 16)}") and len(rows(s)) == 1, "one row")
        screen.keys("Enter")
        screen.wait(lambda s: s[-1].startswith('by requests, only "inode:') and [r["GLOCK"] for r in rows(s)] == [hot], "the filter")
        screen.keys("/", "BSpace", "x")
        screen.text("no lock goes with the filter")
        screen.keys("Escape")
        screen.wait(lambda s: [r["GLOCK"] for r in rows(s)] == [hot], "the filter that was before")
        screen.keys("/", "C-u", "Enter")
        screen.wait(lambda s: len(rows(s)) == 19, "all rows")
        screen.keys("/")
        screen.keys("-l", "rgrp")
        screen.keys("Enter")
        screen.wait(lambda s: rows(s) and {r["GLOCK"][:2] for r in rows(s)} == {"3/"}, "resource groups")
        screen.keys("?")
        screen.text("A bounce: another node")
        screen.keys("x")
        screen.wait(lambda s: any(l.startswith("GLOCK") for l in s), "the list")
        screen.keys("q")
        screen.ended(0)


@on_mount
def case_page(mount):
    """Somebody who waits is first by waiters; the lock's own page has him, and what has happened lately."""
    write_file(mount / "f", b"x" * 10000, sync=True)
    inode = os.stat(mount / "f").st_ino
    holder = Control(mount)
    holder("hold", f"inode:{inode}", "SH")
    waiter = subprocess.Popen(["touch", mount / "f"])
    screen = Screen("-s", mount.control, "top", "-d", "0.2")
    screen.wait(lambda s: re.search(r"waiters [1-9]", s[1]), "a waiter")
    screen.keys("w")
    screen.wait(lambda s: rows(s)[0]["GLOCK"] == f"2/{inode:x}" and rows(s)[0]["WAIT"] == "1", "the lock that is waited for")
    screen.keys("Enter")
    lines = screen.text("-- latest transitions")
    check(lines[0].startswith(f"2/{inode:x}  inode  inode:{inode}"), f"the title is {lines[0]!r}")
    whole = "\n".join(lines)
    check(f"p:{waiter.pid} [touch]" in whole and "-- direct I/O" in whole and "glock_hold" in whole, f"the page: {whole}")
    # It is told anew, also when it is scrolled.
    screen.resize(100, 8)
    screen.wait(lambda s: len(s) == 8 and "q back" in s[7], "the page in 8 rows, whose end is elsewhere")
    screen.keys("End")
    screen.text("glock_hold")
    holder("release", f"inode:{inode}")
    waiter.wait()
    screen.text("gfs2_glock_state_change")
    screen.keys("Home")
    screen.wait(lambda s: s[1] == "-- the lock", "the page's begin")
    screen.keys("q")
    screen.resize(80, 24)
    screen.wait(lambda s: any(l.startswith("GLOCK") for l in s) and "waiters 0" in s[1], "the list")
    screen.keys("q")
    screen.ended(0)
    holder.close()


@on_mount
def case_resize(mount):
    """Any size, any time; too small is said and is no end."""
    write_file(mount / "f", b"x", sync=True)
    screen = Screen("-s", mount.control, "top", "-d", "0.2")
    screen.text("GLOCK")
    for columns, height in ((120, 40), (60, 12), (80, 24), (200, 50), (41, 6), (20, 4), (2, 1), (1, 1), (80, 24), (40, 6)):
        screen.resize(columns, height)
        if (columns, height) == (1, 1):
            continue    # ncurses makes room for what comes last on a screen in the cell before it: here there is none
        if columns < 40 or height < 6:
            screen.wait(lambda s, c=columns: s[0].startswith("too small"[:c]), "a word about it")
        else:
            wide = {name: columns >= 100 for name in ("TYPE", "I/O/s", "DIRCT")}
            screen.wait(lambda s, h=height, w=wide: len(s) == h and s[3].startswith("GLOCK") and "by requests" in s[h - 1] and
                        {name: name in s[3].split() for name in w} == w, f"{columns}x{height}")
    rnd = random.Random(SEED)
    for _ in range(30):
        screen.resize(rnd.randint(1, 150), rnd.randint(1, 50))
        screen.keys(rnd.choice(["Down", "Up", "NPage", "PPage", "End", "Home", "Enter", "Left", "?", "Space", "n", "w", "+", "-"]))
    screen.resize(80, 24)
    screen.keys("q", "q", "q", "q")
    screen.ended(0)


@on_mount
def case_ends(mount):
    """The terminal is as it was, however it ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        screen = Screen("-s", mount.control, "top")
        screen.text("GLOCK")
        os.kill(screen.pid(), number)
        screen.ended(0)
    screen = Screen("-s", mount.control, "top")
    screen.text("GLOCK")
    screen.keys("C-c")
    screen.ended(0)
    # The terminal goes: so does it.
    screen = Screen("-s", mount.control, "top", leaks=False)
    screen.text("GLOCK")
    process = os.pidfd_open(screen.pid())
    screen.close()
    check(select.select([process], [], [], STEP_SECONDS)[0], "it has not ended")
    os.close(process)
    # From the REPL, and back into it.
    screen = Screen("-s", mount.control)
    screen.text("glockctl>")
    screen.keys("-l", "top")
    screen.keys("Enter")
    screen.text("q quit")
    screen.keys("q")
    screen.wait(lambda s: [l for l in s if l.strip()][-1].strip() == "glockctl>", "the prompt")
    screen.keys("-l", "get commit")
    screen.keys("Enter")
    screen.text("30")
    screen.keys("-l", "quit")
    screen.keys("Enter")
    screen.ended(0)


def case_lost():
    """The daemon dies: it is said, on a terminal that is as it was."""
    need_fuse()
    volume = Volume(size="64M")
    control = temp("control")
    mount = volume.mount("control=" + control)
    screen = Screen("-s", control, "top", "-d", "0.5")
    screen.text("GLOCK")
    mount.kill()
    screen.ended(1, "the daemon has closed the connection")


@on_mount
def case_text(mount):
    """--once, --batch, --json; what is refused."""
    base = [glockctl_program(), "-s", mount.control]
    with Load(mount):
        inode = os.stat(mount / "hot").st_ino
        def top():
            return [json.loads(line) for line in run([*base, "--json", "top", "--batch", "-n", 2, "-d", 0.3, "-l", 3]).stdout.splitlines()]
        told = wait_for(lambda: (lambda both: both if all(one["fallback"] > 0 and one["dio"] > one["top"][0]["dio"] > 0 for one in both)
                                 else None)(top()), "I/O")
        equal([len(one["top"]) for one in told], [3, 3], "locks of each interval")
        first = told[1]["top"][0]
        equal((first["glock"], first["type"], first["path"]), (f"2/{inode:x}", "inode", mount / "hot"), "the hottest")
        check(first["requests"] > 0 and not first["fallback"], f"its counts: {first}")
        # As many as direct writes, if no event was missed; the last one has perhaps only begun.
        check(told[1]["missed"] > told[0]["missed"] or round((first["dio"] - first["requests"]) * told[1]["seconds"]) <= 1, f"{told}")
        check(told[1]["locks"] == sum(told[1][state] for state in ("UN", "SH", "DF", "EX")), f"sums: {told[1]}")
        text = run([*base, "top", "--once", "-d", 0.3, "-k", "name", "-f", f"inode:{inode}"]).stdout.splitlines()
        equal((len(text), text[2].split()[0], text[2].split()[-1]), (3, f"2/{inode:x}", mount / "hot"), "as text, filtered")
        os.rename(mount / "hot", mount / "h\x1b[31m\nt")
        text = wait_for(lambda: (lambda said: said if "h\\033[31m\\012t" in said else None)(
            run([*base, "top", "--once", "-d", 0.3, "-k", "name", "-f", f"inode:{inode}"]).stdout), "the new name, in one line of plain text")
        equal((len(text.splitlines()), "\x1b" in text), (3, False), "lines, and what would colour the terminal")
    for words in (["top"], ["top", "--frob"], ["top", "-d"], ["top", "--once", "-d", "0"], ["top", "--once", "-k", "x"], ["top", "--once", "-n", "0"]):
        run([*base, *words], ok=(2,))


if __name__ == "__main__":
    main()
