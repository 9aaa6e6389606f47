#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Work for a node of a cluster; runs in the node, on a mounted volume.

usage: dlmload.py acked DIR       files, each fsynced, O_SYNC-written or written directly into a hole; says which are durable
       dlmload.py verify DIR N... checks the files that were acknowledged, and that no other one is torn
       dlmload.py direct FILE NODE NODES BLOCKS ROUNDS
                                  direct writes of every NODES-th block, in all orders, into holes and over data
       dlmload.py compare FILE NODES BLOCKS
                                  the whole file is as all nodes wrote it
       dlmload.py names DIR NODE COUNT
                                  creates, links, renames and unlinks names in a directory that others use, too
       dlmload.py make FILE...    files of one block
       dlmload.py turn N FILE...  opens all and says so; after a line of input reads every second one through the cache (SH), every other directly
                                  (DF); after another one the other way round, all at once.  N > 0: only two thirds of them, and one, respectively
       dlmload.py go-round FILE...
                                  writes and reads each in both ways
"""
import mmap
import os
import random
import sys
import threading

BLOCK = 4096


def content(number, length):
    """Every word says which file and where: a block of another file or time is noticed."""
    word = b"%08d." % number
    return (word * (length // len(word) + 1))[:length]


def length_of(number):
    return 1 + number * 761 % 4000 if number % 3 else BLOCK * (1 + number % 4)


def direct_buffer(data):
    buffer = mmap.mmap(-1, len(data))
    buffer.write(data)
    return buffer


def write_one(path, number):
    data = content(number, length_of(number))
    how = number % 3
    # Each is one write, which is one transaction: whole or not there.
    flags = (os.O_SYNC, 0, os.O_DIRECT)[how if len(data) % BLOCK == 0 or how != 2 else 1]
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | flags, 0o644)
    try:
        if flags == os.O_DIRECT:
            # into a hole in front of the end: it falls back, and is durable when it returns
            os.ftruncate(fd, len(data))
            os.fsync(fd)
        written = os.pwrite(fd, direct_buffer(data) if flags == os.O_DIRECT else data, 0)
        assert written == len(data), written
        if not flags:
            os.fsync(fd)
    finally:
        os.close(fd)


def acked(directory):
    os.makedirs(directory, exist_ok=True)
    number = 0
    while True:
        number += 1
        path = "%s/f%06d" % (directory, number)
        write_one(path + ".new", number)
        os.rename(path + ".new", path)
        fd = os.open(directory, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        print(number, flush=True)


def verify(directory, numbers):
    wanted = {int(n) for n in numbers}
    seen = set()
    for name in sorted(os.listdir(directory)):
        number = int(name[1:7])
        with open(directory + "/" + name, "rb") as f:
            data = f.read()
        right = content(number, length_of(number))
        if name.endswith(".new"):
            # not acknowledged: nothing yet, or all; a hole that was to be filled may be there
            assert data in (b"", right, bytes(len(right))), (name, len(data), len(right), data[:64])
            continue
        assert data == right, (name, len(data), len(right), data[:64], right[:64])
        seen.add(number)
    assert wanted <= seen, "lost: %s" % sorted(wanted - seen)
    print(len(seen))


def direct(path, node, nodes, blocks, rounds):
    """Ends with every block of this node written in the last round."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o644)
    mine = list(range(node - 1, blocks, nodes))
    for r in range(rounds):
        random.Random(node * 1000 + r).shuffle(mine)
        for block in mine:
            data = content(block * 10 + r, BLOCK)
            assert os.pwrite(fd, direct_buffer(data), block * BLOCK) == BLOCK
            if block % 7 == 0:
                back = mmap.mmap(-1, BLOCK)
                assert os.preadv(fd, [back], block * BLOCK) == BLOCK
                assert back[:] == data, ("read back", block, back[:32])
    os.close(fd)


def compare(path, nodes, blocks, rounds):
    with open(path, "rb") as f:
        data = f.read()
    assert len(data) == blocks * BLOCK, len(data)
    for block in range(blocks):
        got = data[block * BLOCK:(block + 1) * BLOCK]
        assert got == content(block * 10 + rounds - 1, BLOCK), ("block", block, got[:32])


def names(directory, node, count):
    def own(n, kind):
        return "%s/%s%d.%d" % (directory, kind, node, n)

    for n in range(count):
        with open(own(n, "a"), "w") as f:
            f.write("%d %d" % (node, n))
        os.rename(own(n, "a"), own(n, "b"))
        if n % 2:
            os.link(own(n, "b"), own(n, "c"))
            os.unlink(own(n, "b"))
        if n % 3 == 0:
            os.mkdir(own(n, "d"))
        if n % 6 == 0:
            os.rmdir(own(n, "d"))
        # one name that all of them fight for
        with open(own(n, "t"), "w") as f:
            f.write("x" * node)
        os.rename(own(n, "t"), directory + "/common")


def make(paths):
    for number, path in enumerate(paths):
        fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
        assert os.write(fd, content(number, BLOCK)) == BLOCK
        os.fsync(fd)
        os.close(fd)


def read_block(fd, number, directly):
    buffer = mmap.mmap(-1, BLOCK) if directly else bytearray(BLOCK)
    assert os.preadv(fd, [buffer], 0) == BLOCK
    assert buffer[:] == content(number, BLOCK), (number, directly, buffer[:32])


def turn(node, paths):
    mine = [n for n in range(len(paths)) if not node or n % 3 == 0]
    fds = {n: [os.open(paths[n], os.O_RDONLY | flag) for flag in (0, os.O_DIRECT)] for n in range(len(paths))}
    print("open", flush=True)
    sys.stdin.readline()
    failed = []

    def opposite(n):
        try:
            read_block(fds[n][n % 2 == 0], n, n % 2 == 0)
        except BaseException as e:
            failed.append(repr(e))

    for n in range(len(paths)):
        if n in mine or n % 3 == 1:
            read_block(fds[n][n % 2], n, n % 2 == 1)
    print("ready", flush=True)
    sys.stdin.readline()
    threads = [threading.Thread(target=opposite, args=(n,)) for n in mine]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed, failed


def go_round(paths):
    for n, path in enumerate(paths):
        fds = [os.open(path, os.O_RDWR | flag) for flag in (0, os.O_DIRECT)]
        for directly in (0, 1, 0, 1):
            read_block(fds[directly], n, directly)
            assert os.pwrite(fds[directly], direct_buffer(content(n, BLOCK)), 0) == BLOCK
            read_block(fds[not directly], n, not directly)
        for fd in fds:
            os.close(fd)


def main():
    what, where, *rest = sys.argv[1:]
    if what in ("make", "go-round"):
        {"make": make, "go-round": go_round}[what]([where] + rest)
    elif what == "turn":
        turn(int(where), rest)
    elif what == "acked":
        acked(where)
    elif what == "verify":
        verify(where, rest)
    else:
        {"direct": direct, "compare": compare, "names": names}[what](where, *map(int, rest))


main()
