#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks at the journals of a volume that nobody has mounted: would they need replay?

usage: journal.py IMAGE        one line for each journal

It reads superblock, master directory and journal inodes by itself, and shares no code with the
daemon: a test may use it to tell whether a crash was a crash.
"""
import struct
import sys
import zlib

MAGIC = 0x01161970
SB_OFFSET = 65536
TYPE_DINODE, TYPE_LOG_HEADER, TYPE_LOG_DESCRIPTOR = 4, 8, 9
HEAD_UNMOUNT = 1
DINODE_SIZE, LEAF_SIZE, META_SIZE = 232, 104, 24
DIF_EXHASH = 0x2


class Image:
    def __init__(self, path):
        self.file = open(path, "rb")
        self.file.seek(SB_OFFSET)
        sb = self.file.read(272)
        if struct.unpack(">I", sb[:4])[0] != MAGIC:
            raise ValueError(f"{path}: no GFS2 superblock")
        self.bs = struct.unpack(">I", sb[36:40])[0]
        self.master = struct.unpack(">Q", sb[56:64])[0]

    def block(self, number):
        self.file.seek(number * self.bs)
        return self.file.read(self.bs)

    def entries(self, dinode):
        """{name: block} of a directory that is kept inside its dinode, as system directories are."""
        block = self.block(dinode)
        flags = struct.unpack(">I", block[128:132])[0]
        if flags & DIF_EXHASH:
            leaves = {struct.unpack(">Q", block[at:at + 8])[0] for at in range(DINODE_SIZE, self.bs, 8)}
            found = {}
            for leaf in leaves - {0}:
                found.update(self._dirents(self.block(leaf), LEAF_SIZE))
            return found
        return self._dirents(block, DINODE_SIZE)

    def _dirents(self, block, at):
        found = {}
        while at + 40 <= self.bs:
            address, = struct.unpack(">Q", block[at + 8:at + 16])
            length, name_length = struct.unpack(">HH", block[at + 20:at + 24])
            if length < 40:
                break
            if address:
                found[block[at + 40:at + 40 + name_length].decode()] = address
            at += length
        return found

    def file_blocks(self, dinode):
        """Block numbers of a file without holes, in order."""
        block = self.block(dinode)
        size, = struct.unpack(">Q", block[56:64])
        height = struct.unpack(">H", block[138:140])[0]
        level = [pointer for pointer in struct.unpack(f">{(self.bs - DINODE_SIZE) // 8}Q",
                 block[DINODE_SIZE:DINODE_SIZE + (self.bs - DINODE_SIZE) // 8 * 8]) if pointer]
        for _ in range(height - 1):
            count = (self.bs - META_SIZE) // 8
            level = [pointer for number in level
                     for pointer in struct.unpack(f">{count}Q", self.block(number)[META_SIZE:META_SIZE + 8 * count])
                     if pointer]
        return level[:-(-size // self.bs)]


class Head:
    """A log header: the newest one of a journal tells whether it is clean."""

    def __init__(self, block):
        self.sequence, self.flags, self.tail, self.position = struct.unpack(">QIII", block[24:44])
        self.counts = struct.unpack(">qqq", block[96:120])  # not yet in the master statfs file

    @property
    def clean(self):
        return bool(self.flags & HEAD_UNMOUNT)

    def __str__(self):
        return (f"sequence {self.sequence} flags {self.flags:#x} tail {self.tail} "
                f"position {self.position} {'clean' if self.clean else 'needs replay'}")


def log_header(block, position):
    """The log header in a block of a journal, or None if it is none or not valid."""
    if struct.unpack(">II", block[:8]) != (MAGIC, TYPE_LOG_HEADER):
        return None
    stored = struct.unpack(">I", block[44:48])[0]
    if zlib.crc32(block[:44] + b"\0\0\0\0") != stored:
        return None
    head = Head(block)
    return head if head.position == position else None


def newest_head(image, dinode):
    best = None
    for position, number in enumerate(image.file_blocks(dinode)):
        head = log_header(image.block(number), position)
        if head and (best is None or head.sequence > best.sequence):
            best = head
    return best


def work_to_replay(image, dinode, head):
    """Number of log descriptors between tail and head: what replay would go through."""
    blocks = image.file_blocks(dinode)
    count, at = 0, head.tail
    while at != head.position:
        block = image.block(blocks[at])
        magic, kind = struct.unpack(">II", block[:8])
        step = 1
        if magic == MAGIC and kind == TYPE_LOG_DESCRIPTOR:
            count += 1
            step = max(1, struct.unpack(">I", block[28:32])[0])
        for _ in range(step):
            if at == head.position:
                break
            at = (at + 1) % len(blocks)
    return count


def journals(path, only=None):
    """[(number, head, descriptors to replay)] of all journals of an image, or of one."""
    image = Image(path)
    index = image.entries(image.entries(image.master)["jindex"])
    found = []
    for name, dinode in sorted(index.items()):
        if name.startswith("journal") and only in (None, int(name[7:])):
            head = newest_head(image, dinode)
            if head is None:
                raise ValueError(f"{path}: {name} has no valid log header")
            found.append((int(name[7:]), head, 0 if head.clean else work_to_replay(image, dinode, head)))
    image.file.close()
    return found


def master_counts(path):
    """(byte position of its block, the record's bytes) of the master statfs file, as it is in place."""
    image = Image(path)
    dinode = image.entries(image.master)["statfs"]
    record = image.block(dinode)[DINODE_SIZE:DINODE_SIZE + 24]
    image.file.close()
    return dinode * image.bs, record


def marks(path):
    """[(journal, sequence, crc)] of recoveries by gfs2-fuse that did not end (src/journal/recovery.c), behind the master record."""
    where, _ = master_counts(path)
    with open(path, "rb") as image:
        image.seek(where + DINODE_SIZE + 24)
        found = [struct.unpack(">QII", image.read(16)) for _ in range(16)]
    return [(number - 1, sequence, crc) for sequence, crc, number in found if number]


def leave_marks(path, numbers):
    """Such, of long ago; nobody may have the volume mounted."""
    where, _ = master_counts(path)
    with open(path, "r+b") as image:
        image.seek(where + DINODE_SIZE + 24)
        image.write(b"".join(struct.pack(">QII", 1, 0xdeadbeef, number + 1) for number in numbers))


def journals_clean(path):
    return all(head.clean for _, head, _ in journals(path))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for number, head, work in journals(sys.argv[1]):
        print(f"journal{number}: {head}, {work} descriptors")
