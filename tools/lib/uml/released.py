# SPDX-License-Identifier: GPL-2.0-or-later
"""Waits, in a node, until no process has a device open: umount returns before a FUSE daemon has
finished writing.

    released.py DEVICE
"""
import os
import select
import sys
import time

SECONDS = 120


def holders(device):
    for name in os.listdir('/proc'):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            for fd in os.listdir('/proc/%s/fd' % name):
                if os.readlink('/proc/%s/fd/%s' % (name, fd)) == device:
                    yield int(name)
                    break
        except OSError:
            continue


def threads(pid):
    """What the threads of a process that does not end are waiting for, as far as the kernel tells."""
    for tid in sorted(os.listdir('/proc/%d/task' % pid), key=int):
        told = []
        for name in 'comm', 'wchan', 'syscall', 'stack':
            try:
                with open('/proc/%d/task/%s/%s' % (pid, tid, name)) as f:
                    told.append(' '.join(f.read().split()))
            except OSError as error:
                told.append(error.strerror)
        yield '%s %s' % (tid, ' | '.join(told))


def main():
    device = sys.argv[1]
    deadline = time.monotonic() + SECONDS
    while True:
        pids = list(holders(device))
        if not pids:
            return 0
        try:
            fd = os.pidfd_open(pids[0])
        except ProcessLookupError:
            continue
        if not select.select([fd], [], [], max(0, deadline - time.monotonic()))[0]:
            print('process %d still holds %s' % (pids[0], device), *threads(pids[0]), sep='\n', file=sys.stderr)
            return 1
        os.close(fd)


if __name__ == '__main__':
    sys.exit(main())
