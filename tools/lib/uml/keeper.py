# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs one User-Mode Linux in a PID namespace of its own, and ends it for certain.

User-Mode Linux is a dozen host processes that trace each other. As the first process of a PID
namespace it takes all of them with it when it dies, and the keeper's own exit then says that none
is left. The node dies when the keeper is told to (SIGTERM) and when the keeper or the process that
started it dies in any way. Its exit status is that of the node's kernel.

    keeper.py COMMAND...
"""
import ctypes
import os
import signal
import sys

CLONE_NEWPID = 0x20000000
PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None, use_errno=True)


def die_with(parent):
    """Has this process killed when its parent dies; parent is its pid, or 0 from another namespace."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent and os.getppid() != parent:
        os._exit(1)


def main():
    parent = os.getppid()
    die_with(parent)
    if parent == 1:
        return 1
    # Held back until there is a child to pass it on to.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    if libc.unshare(CLONE_NEWPID) != 0:
        err = ctypes.get_errno()
        print('no new PID namespace: ' + os.strerror(err), file=sys.stderr)
        return 1
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        # The keeper writes after the fork: nothing read means that it died before PDEATHSIG was set.
        os.close(go)
        die_with(0)
        if not os.read(ready, 1):
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        try:
            os.execvp(sys.argv[1], sys.argv[1:])
        except OSError as e:
            print('%s: %s' % (sys.argv[1], e.strerror), file=sys.stderr)
            os._exit(127)
    signal.signal(signal.SIGTERM, lambda *a: os.kill(pid, signal.SIGKILL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.close(ready)
    os.write(go, b'g')
    os.close(go)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)    # from here on its pid may be somebody else's
    _, status = os.waitpid(pid, 0)
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


if __name__ == '__main__':
    sys.exit(main())
