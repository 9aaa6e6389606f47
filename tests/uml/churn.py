#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes below a new directory in DIR for ever, so that a kill at any moment finds the journal at work.

    churn.py DIR

Prints `ok NUMBER PATH SHA-256` after a file has been fsynced; PATH, relative to DIR, must then
survive with that content. Between those it creates, renames and unlinks others without a sync.
"""
import hashlib
import itertools
import os
import sys

SIZES = (10, 5000, 300, 70000, 1, 12000, 0, 200000)


def write(path, data, sync):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        while data:
            data = data[os.write(fd, data):]
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def main():
    os.chdir(sys.argv[1])
    top = next(n for n in map('churn{}'.format, itertools.count()) if not os.path.exists(n))
    os.makedirs(top + '/noise')
    number = 0
    while True:
        number += 1
        name = '%s/%06d' % (top, number)
        data = os.urandom(SIZES[number % len(SIZES)])
        write(name, data, True)
        sys.stdout.write('ok %d %s %s\n' % (number, name, hashlib.sha256(data).hexdigest()))
        sys.stdout.flush()
        for n in range(4):
            write('%s/noise/%d.%d' % (top, number, n), data[:4000], False)
        os.rename('%s/noise/%d.0' % (top, number), '%s/noise/r%d' % (top, number))
        os.unlink('%s/noise/%d.1' % (top, number))


if __name__ == '__main__':
    main()
