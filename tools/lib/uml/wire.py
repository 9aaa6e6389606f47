# SPDX-License-Identifier: GPL-2.0-or-later
"""The frames spoken between a client, the monitor and the agent in a node.

The same frames travel on the monitor's Unix socket and on a node's serial line; the monitor only
renumbers streams, so flow control works from end to end: data of a stream is sent only against
credit that the far end has granted, and no part of the way ever has to buffer more than a window.

A frame is a type, a stream number and a length, then that many bytes. Stream 0 is the connection
itself.
"""
import json
import os
import struct

HEADER = struct.Struct('!cII')
# How much of a frame is data at most. A serial line hands over 4 KiB at a time.
CHUNK = 4000
# Bytes of one direction of one stream that may be under way without having been consumed.
WINDOW_OUT = 256 * 1024
WINDOW_IN = 32 * 1024
# Bytes that the monitor may have sent on a serial line without the agent having read them. Less than
# the 4 KiB that the node's terminal layer holds: User-Mode Linux loses its way when that is full.
WINDOW_LINE = 2048

# Agent to monitor, on stream 0.
HELLO = b'h'       # the agent listens; everything on the line before this is noise
READY = b'r'       # configured: commands may be started
FAILED = b'f'      # the configuration failed: text
STOPPED = b's'     # unmounted, waiting for OFF: JSON {"problems": [text...]}
NOTE = b'n'        # text for the log
ACK = b'a'         # decimal: so many bytes have been read from the line
SEEN = b'm'        # the answer to LOOK: JSON {"mounted": "fuse", "kernel", "dead" or null}

# Monitor to agent, on stream 0.
CONFIG = b'c'      # JSON, once, after HELLO
STOP = b'p'        # unmount everything: JSON {"seconds": as long as that may take}
OFF = b'0'         # power off: JSON {"leave": whether to leave the cluster first, in an orderly way}
LOOK = b'l'        # what is mounted on the cluster's directory?

# Of a stream. START opens it, EXIT ends it.
START = b'S'       # JSON: argv, env, cwd, tty, rows, cols
IN = b'i'          # for its standard input
EOF = b'e'         # no more of it
OUT = b'o'         # its standard output
ERR = b'E'         # its standard error
CREDIT = b'C'      # decimal: so many bytes of OUT and ERR (of IN) have been consumed
SIGNAL = b'k'      # decimal: a signal for its process group
WINCH = b'w'       # "rows cols" of its terminal
EXIT = b'x'        # decimal: its wait status as a shell shows it (128 + signal)

# Client and monitor, on stream 0.
REQUEST = b'Q'     # JSON {"op": ...}
PROGRESS = b'P'    # text: something has happened while the request is being served
DONE = b'D'        # JSON: the request's result
REFUSED = b'R'     # text: why not


class ProtocolError(Exception):
    pass


def pack(kind, stream=0, data=b''):
    """One frame. data may be bytes, text, or anything that JSON can hold."""
    if isinstance(data, str):
        data = data.encode('utf-8', 'surrogateescape')
    elif not isinstance(data, (bytes, bytearray, memoryview)):
        data = json.dumps(data).encode()
    return HEADER.pack(kind, stream, len(data)) + bytes(data)


def text(data):
    return bytes(data).decode('utf-8', 'surrogateescape')


def exit_code(status):
    """The exit status that a shell would show for a wait status."""
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


class Parser:
    """Cuts a byte stream into frames."""

    def __init__(self, limit=1 << 20):
        self.buf = bytearray()
        self.limit = limit

    def feed(self, data):
        """Returns the frames completed by data, as (kind, stream, bytes)."""
        self.buf += data
        frames = []
        pos = 0
        while len(self.buf) - pos >= HEADER.size:
            kind, stream, length = HEADER.unpack_from(self.buf, pos)
            if length > self.limit:
                raise ProtocolError('a frame of %d bytes' % length)
            end = pos + HEADER.size + length
            if len(self.buf) < end:
                break
            frames.append((kind, stream, bytes(self.buf[pos + HEADER.size:end])))
            pos = end
        del self.buf[:pos]
        return frames
