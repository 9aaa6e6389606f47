# SPDX-License-Identifier: GPL-2.0-or-later
"""In a node: takes the memory image of a process that a signal has killed.

The kernel starts it as `crash.py PID SIGNAL` with the image as its input, and keeps the process's entry in /proc until all is read.
It leaves in the cluster's directory cores, which is the host's own,

    nodeN.PID.SECONDS           the image, with holes for zeroes
    nodeN.PID.SECONDS.txt       what died, and where each of its threads was: PROGRAM+OFFSET (for addr2line), the one that died first

and says the first line of the latter to syslog.  client.py adds what gdb makes of both, where there is a gdb.
"""
import os
import signal
import struct
import sys
import time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import nodelog  # noqa: E402

CORES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'cores')
MOST = 4                             # images of one cluster: the first ones tell the most
LARGEST = 1 << 30
CHUNK = 1 << 20
PT_NOTE, NT_PRSTATUS = 4, 1
# In x86-64's struct elf_prstatus.
AT_PID, AT_RIP = 32, 112 + 16 * 8


def threads(head):
    """(thread, instruction pointer) of each, from the notes at the image's beginning."""
    try:
        start, entry, count = struct.unpack_from('<Q', head, 32)[0], *struct.unpack_from('<HH', head, 54)
        for n in range(count):
            kind, _, offset, _, _, size = struct.unpack_from('<IIQQQQ', head, start + n * entry)
            end = min(offset + size, len(head))
            while kind == PT_NOTE and offset + 12 <= end:
                name, length, note = struct.unpack_from('<III', head, offset)
                data = offset + 12 + (name + 3) // 4 * 4
                if note == NT_PRSTATUS:
                    yield struct.unpack_from('<i', head, data + AT_PID)[0], struct.unpack_from('<Q', head, data + AT_RIP)[0]
                offset = data + (length + 3) // 4 * 4
    except struct.error:
        return


def place(address, maps):
    for line in maps:
        words = line.split(None, 5)
        low, high = (int(end, 16) for end in words[0].split('-'))
        if low <= address < high:
            name = os.path.basename(words[5].strip()) if len(words) > 5 else '?'
            return '%s+%#x' % (name, address - low + int(words[2], 16))
    return '%#x' % address


def read(path):
    try:
        with open(path, errors='replace') as f:
            return f.read()
    except OSError:
        return ''


def keep(out, data):
    if data.count(0) == len(data):
        os.lseek(out, len(data), os.SEEK_CUR)
    else:
        os.write(out, data)


def main():
    pid, number = int(sys.argv[1]), int(sys.argv[2])
    base = '/proc/%d/' % pid
    program, maps = read(base + 'comm').strip(), read(base + 'maps').splitlines()
    try:
        path = os.readlink(base + 'exe')
    except OSError:
        path = '?'
    head = sys.stdin.buffer.read(CHUNK)
    names = {int(tid): read('%stask/%s/comm' % (base, tid)).strip() for tid in os.listdir(base + 'task')}
    where = [(tid, place(address, maps)) for tid, address in threads(head)] or [(pid, '?')]
    try:
        signame = signal.Signals(number).name
    except ValueError:
        signame = str(number)
    said = 'crash: %s[%d] was killed by %s in thread %d (%s) at %s' % (
        program, pid, signame, where[0][0], names.get(where[0][0], '?'), where[0][1])
    nodelog.say(said)
    name = '%s/%s.%d.%d' % (CORES, os.uname().nodename, pid, time.time())
    room = len([f for f in os.listdir(CORES) if f.endswith('.txt')]) < MOST
    out = os.open(name if room else '/dev/null', os.O_WRONLY | os.O_CREAT, 0o600)
    size = 0
    while head:
        if size < LARGEST:
            keep(out, head)
        size += len(head)
        head = sys.stdin.buffer.read(CHUNK)
    if room:
        os.ftruncate(out, min(size, LARGEST))
        os.fsync(out)
    with open(name + '.txt', 'w') as text:
        text.write('%s\n%s\n' % (said, path))
        for tid, at in where:
            text.write('thread %d (%s) at %s\n' % (tid, names.get(tid, '?'), at))
        text.flush()
        os.fsync(text.fileno())


if __name__ == '__main__':
    main()
