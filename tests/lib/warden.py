#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Run one test and leave nothing of it behind, however it ends.

  warden.py --timeout SECONDS --dir WORKDIR [--namespace] [--fixed-addresses] -- COMMAND ...

The warden is the reaper of everything the test starts (daemons included, which leave their
process group), so that what is left can be found by descent and ended by its process id.
With --namespace the test gets a private mount namespace with an empty /run: its mounts and its
control sockets cannot be seen by others and vanish with it.  --fixed-addresses switches address
space randomization off, which the sanitizers of older compilers need on newer kernels.

Exit status: the test's; 124 if it did not end in time; 125 if it passed but left processes
running.  What the test was doing when the time was over is printed.
"""
import argparse
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
PR_SET_PDEATHSIG = 1
CLONE_NEWNS = 0x20000
MS_REC, MS_SLAVE = 0x4000, 1 << 19
MNT_DETACH = 2
ADDR_NO_RANDOMIZE = 0x0040000
GRACE_SECONDS = 5
POLL_SECONDS = 0.02

libc = ctypes.CDLL(None, use_errno=True)


def descendants():
    """All living processes below this one, children before parents."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as stat:
                    fields = stat.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] not in (b"Z", b"X"):
                children.setdefault(int(fields[1]), []).append(int(entry))
    found, queue = [], [os.getpid()]
    while queue:
        for pid in children.get(queue.pop(), ()):
            found.append(pid)
            queue.append(pid)
    return found[::-1]


def describe(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as text:
            return f"{pid}: " + text.read().replace(b"\0", b" ").decode(errors="replace")[:200]
    except OSError:
        return f"{pid}: gone"


def reap():
    """Bury the dead, also orphans that became our children; {pid: exit status}."""
    buried = {}
    try:
        while (dead := os.waitpid(-1, os.WNOHANG))[0]:
            buried[dead[0]] = os.waitstatus_to_exitcode(dead[1])
    except ChildProcessError:
        pass
    return buried


def wait_for_test(pid, timeout):
    """The exit status of the test, or None if it has not ended in time."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        buried = reap()
        if pid in buried:
            return buried[pid]
        time.sleep(POLL_SECONDS)
    return None


def left_running(timeout):
    """Who outlives the test. A daemon may be about to end by itself: being slow is no fault, as long as the test might have been that slow."""
    end = time.monotonic() + timeout
    while descendants() and time.monotonic() < end:
        reap()
        time.sleep(POLL_SECONDS)
    return descendants()


def end_all():
    """End every descendant: politely, then by force. A dead FUSE daemon frees who waits for it."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        end = time.monotonic() + GRACE_SECONDS
        while alive := descendants():
            for pid in alive:
                try:
                    os.kill(pid, sign)
                except ProcessLookupError:
                    pass
            reap()
            time.sleep(POLL_SECONDS)
            if time.monotonic() > end:
                break
        reap()


def first_line(path):
    try:
        with open(path) as text:
            return text.read().split("\n")[0][:60]
    except OSError:
        return "?"


def kernel_stack(task):
    """Where a thread is in the kernel, innermost first; empty for one that runs, and where that is not told."""
    try:
        with open(f"{task}/stack") as text:
            return [line.split()[-1].split("+")[0] for line in text][:10]
    except OSError:
        return []


def report_threads(pid):
    """What a process is doing, as it stands: each thread in the kernel, and, if it is a daemon, in the program."""
    print(describe(pid))
    tasks = f"/proc/{pid}/task"
    for task in sorted(os.listdir(tasks)) if os.path.isdir(tasks) else ():
        where = f"{tasks}/{task}"
        state = first_line(f"{where}/stat").rpartition(")")[2].split()[:1]
        print("   thread", task, *state, *(first_line(f"{where}/{name}") for name in ("comm", "wchan", "syscall")))
        if stack := kernel_stack(where):
            print("      ", *stack)
    if shutil.which("gdb") and describe(pid).split()[1:2] and "gfs2" in describe(pid).split()[1]:
        try:
            done = subprocess.run(["gdb", "-p", str(pid), "-batch", "-ex", "thread apply all bt 12"],
                                  capture_output=True, text=True, timeout=20)
            print("\n".join(line for line in done.stdout.splitlines()
                            if line.startswith(("#", "Thread"))))
        except subprocess.TimeoutExpired:
            print("   gdb did not answer")
    sys.stdout.flush()


def report_hang():
    """What everybody below us is doing: for the log of a test that did not end."""
    print("--- the time is over; what was running:")
    for pid in descendants():
        report_threads(pid)


def mounts(pid="self"):
    """[(directory, type)] of a process, the latest first."""
    found = []
    with open(f"/proc/{pid}/mountinfo") as lines:
        for line in lines:
            # Blanks and the like are three octal digits there.
            where = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), line.split()[4])
            found.append((where, line.partition(" - ")[2].split()[0]))
    return found[::-1]


def mounts_below(directory):
    return [where for where, _ in mounts() if where == directory or where.startswith(directory + "/")]


def report_copies(directory):
    """Who has a copy of a mount in another namespace: it lives on there when it is unmounted here."""
    seen = {os.readlink("/proc/self/ns/mnt")}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            if namespace not in seen and directory in [where for where, _ in mounts(pid)]:
                print("   still mounted for", describe(pid))
            seen.add(namespace)
        except OSError:
            pass
    sys.stdout.flush()


def clean(directory):
    for where in mounts_below(directory):
        subprocess.run(["umount", "-l", where], stderr=subprocess.DEVNULL, check=False)
    loops = subprocess.run(["losetup", "-n", "-l", "-O", "NAME,BACK-FILE"], text=True,
                           capture_output=True, check=False)
    for line in loops.stdout.splitlines():
        name, _, backing = line.partition(" ")
        if backing.strip().startswith(directory + "/"):
            subprocess.run(["losetup", "-d", name], check=False)


def drop_copies(but=None):
    """In a new mount namespace that is a slave: others' mounts of ours, but those below a directory; they would live on here when those
    unmount them."""
    for where, kind in mounts():
        if kind == "fuse.gfs2-fuse" and not (but and where.startswith(but + "/")):
            libc.umount2(os.fsencode(where), MNT_DETACH)


def private_namespace():
    if libc.unshare(CLONE_NEWNS):
        print("warden: no mount namespace of its own:", os.strerror(ctypes.get_errno()))
        return
    if libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None) == 0:
        drop_copies()
    libc.mount(b"tmpfs", b"/run", b"tmpfs", 0, b"mode=755")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--timeout", type=float, required=True)
    options.add_argument("--dir", required=True)
    options.add_argument("--namespace", action="store_true")
    options.add_argument("--fixed-addresses", action="store_true")
    options.add_argument("command", nargs=argparse.REMAINDER)
    given = options.parse_args()
    command = given.command[1:] if given.command[:1] == ["--"] else given.command

    parent = os.getppid()
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
    if given.namespace:
        private_namespace()
    if given.fixed_addresses:
        libc.personality(ADDR_NO_RANDOMIZE)

    def stop(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    status = 124
    try:
        test = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        status = wait_for_test(test.pid, given.timeout)
        if status is None:
            status = 124
            report_hang()
        elif status == 0 and (left := left_running(given.timeout)):
            print("--- left running:", *map(describe, left), sep="\n")
            status = 125
    except KeyboardInterrupt:
        status = 130
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout.flush()
    end_all()
    clean(given.dir)
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
