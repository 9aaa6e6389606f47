# SPDX-License-Identifier: GPL-2.0-or-later
"""What programs in a node say to syslog, and that they crash, made to be seen on the host.

A process of its own receives what is sent to /dev/log and writes it to the console, between the kernel's messages and with their
clock.  The agent cannot do that: it waits in umount(2) for a daemon, which may at that time wait for its message to be taken.
What the console shows has left the node: it outlives a power cut a moment later.

A process that is killed by a signal has the kernel start crash.py, which see.
"""
import ctypes
import os
import re
import socket
import time

SOCKET = '/dev/log'
CONSOLE = '/dev/console'
CRASH = '/run/crash'                 # core_pattern has room for 128 bytes
PR_SET_NAME = 15
BACKLOG = 512                        # messages; ten by default, and who sends the next one waits
LONGEST = 2000                       # bytes; what does not end is cut


def put(path, text):
    with open(path, 'w') as f:
        f.write(text)


def line(data, now):
    """'<30>Nov 26 12:00:00 gfs2-fuse[17]: text' as the kernel would show it."""
    text = data.rstrip(b'\0\n').decode(errors='replace')
    text = re.sub(r'^(?:<\d+>)?(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d )?', '', text)
    text = ''.join(c if c.isprintable() else '?' for c in text)
    return ('[%12.6f] %s\n' % (now, text[:LONGEST])).encode(errors='replace')


def serve(sock):
    ctypes.CDLL(None).prctl(PR_SET_NAME, b'node-log', 0, 0, 0)
    console = os.open(CONSOLE, os.O_WRONLY | os.O_NOCTTY)
    while True:
        data = sock.recv(65536)
        os.write(console, line(data, time.monotonic()))


def start(python, directory):
    """directory: where crash.py is. Returns at once; from then on /dev/log takes messages."""
    put('/proc/sys/net/unix/max_dgram_qlen', str(BACKLOG))
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    if os.path.lexists(SOCKET):
        os.unlink(SOCKET)
    sock.bind(SOCKET)
    os.chmod(SOCKET, 0o666)
    if os.fork() == 0:
        try:
            serve(sock)
        finally:
            os._exit(1)
    sock.close()
    put(CRASH, '#!/bin/sh\nexec %s -I -S %s/crash.py "$@"\n' % (python, directory))
    os.chmod(CRASH, 0o755)
    put('/proc/sys/kernel/core_pattern', '|%s %%P %%s' % CRASH)


def say(text):
    """A message of the node's own machinery."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(SOCKET)
        sock.send(b'<26>' + text.encode(errors='replace'))
