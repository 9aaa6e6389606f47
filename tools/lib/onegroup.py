# SPDX-License-Identifier: GPL-2.0-or-later
"""What this process starts shares the processors process by process, not session by session.

With kernel.sched_autogroup_enabled Linux shares them out among sessions first.  Daemons, lock brokers and nodes under User-Mode Linux
have sessions of their own, and on some kernels (seen with 6.18, two processors) one that needs little waits for seconds, runnable, while
processes that wake each other keep the processors busy in another session.  A test then fails, and a measurement shows, what is the
scheduler's doing.  In a cgroup of the cpu controller there are no autogroups; where there can be none of these they are switched off meanwhile.
"""
import contextlib
import os

PREFIX = "gfs2-fuse."


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


AUTOGROUPS = "/proc/sys/kernel/sched_autogroup_enabled"


def _autogroups():
    return read(AUTOGROUPS).strip() == "1"


def _switch_autogroups(on):
    """True: done."""
    try:
        with open(AUTOGROUPS, "w") as file:
            file.write("1" if on else "0")
    except OSError:
        return False
    return True


def _parent():
    """The cgroup of the cpu controller below which there can be another one; "": this is in such a one already; None: there is none."""
    paths = [line.split(":", 2)[1:] for line in read("/proc/self/cgroup").splitlines()]
    mounts = [line.split() for line in read("/proc/mounts").splitlines()]
    for controllers, path in paths:
        for _, where, kind, options, *_ in mounts:
            if kind == "cgroup" and "cpu" in controllers.split(",") and "cpu" in options.split(","):
                return where if path == "/" else ""
    for controllers, path in paths:
        for _, where, kind, *_ in mounts:
            if kind == "cgroup2" and not controllers:
                if os.path.exists(where + path + "/cpu.weight"):
                    return ""
                return where if "cpu" in read(where + "/cgroup.subtree_control").split() else None
    return None


def _remove(parent, group):
    for pid in read(group + "/cgroup.procs").split():
        with contextlib.suppress(OSError), open(parent + "/cgroup.procs", "w") as procs:
            procs.write(pid)
    with contextlib.suppress(OSError):
        os.rmdir(group)


@contextlib.contextmanager
def one_group():
    """For the time of the block; what it leaves running goes on outside.  Where it is needed and not possible the block gets a line to say."""
    parent = _parent() if _autogroups() else ""
    group = f"{parent}/{PREFIX}{os.getpid()}"
    reason = "there is no cpu controller" if parent is None else None
    try:
        if parent:
            # Of those that were killed.
            for name in os.listdir(parent):
                if name.startswith(PREFIX) and not os.path.exists("/proc/" + name[len(PREFIX):]):
                    _remove(parent, f"{parent}/{name}")
            os.mkdir(group)
            with open(group + "/cgroup.procs", "w") as procs:
                procs.write(str(os.getpid()))
    except OSError as fault:
        reason = str(fault)
    switched = reason is not None and _switch_autogroups(False)
    if switched:
        reason = None
    try:
        yield reason and f"no cgroup of its own ({reason}): sessions compete for the processors, and whoever needs little may wait for seconds"
    finally:
        if switched:
            _switch_autogroups(True)
        if parent:
            _remove(parent, group)
