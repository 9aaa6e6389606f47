# SPDX-License-Identifier: GPL-2.0-or-later
"""In a node: standard input goes to the daemon's control socket, what comes from there to standard output."""
import os
import select
import socket
import sys


def main():
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.connect(sys.argv[1])
    while True:
        for ready in select.select([0, control], [], [])[0]:
            data = os.read(0, 65536) if ready == 0 else control.recv(65536)
            if not data:
                return
            if ready == 0:
                control.sendall(data)
                continue
            while data:
                data = data[os.write(1, data):]


main()
