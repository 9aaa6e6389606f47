#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Make a tree with all kinds of files, the same for the same seed wherever it is made.

usage: tree.py DIRECTORY [SEED [SCALE]]

SCALE 1.0 makes about 8000 names and 60 MB.  Every name has an explicit owner, mode and time
(nanoseconds, before 1970 too), so that two such trees have equal manifests.
"""
import os
import random
import stat
import sys

# Around what GFS2 keeps inside the dinode for each block size (block size - 232), around
# blocks, and around the sizes where the metadata tree of a small block size grows.
SIZES = sorted({edge + by
                for edge in (1, 280, 512, 792, 1024, 1816, 2048, 3864, 4096, 8192, 17920, 65536,
                             101376, 131072, 464896, 1048576, 1093120)
                for by in (-1, 0, 1)})
BIG_SIZES = [2978304, 5000000, 12345678]
NAMES = ["with space", "-dash", "...", "new\nline", "tab\t", "\u00fcml\u00e4ut", "\u6f22\u5b57",
         "back\\slash", "'quote\"", "*?[a]", "%20", "n" * 255, "\u00fc" * 127]
MODES = [0o644, 0o600, 0o755, 0o000, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777, 0o400]


class Tree:
    def __init__(self, top, seed, scale):
        self.top, self.scale = top, scale
        self.random = random.Random(seed)
        self.times = []     # set at the very end: making a name changes its directory's

    def count(self, number):
        return max(1, round(number * self.scale))

    def finish(self, path, mode=None):
        """Owner, mode and time of what was made."""
        rnd = self.random
        link = os.path.islink(path)
        if rnd.random() < 0.5:
            os.chown(path, rnd.choice([0, 1, 1000, 65534, 4294967294]),
                     rnd.choice([0, 5, 100, 4294967294]), follow_symlinks=False)
        if not link:
            os.chmod(path, rnd.choice(MODES) if mode is None else mode)
        seconds = rnd.choice([0, 1, -1, 1234567890, 1700000000, -86400 * 365, 2147483648, 4000000000])
        self.times.append((path, seconds * 1000000000 + rnd.randrange(1000000000)))

    def file(self, path, size):
        with open(path, "wb") as out:
            out.write(self.random.randbytes(size))
        self.finish(path)

    def sparse(self, path):
        """Holes first, last, between; of one block and of many."""
        rnd = self.random
        with open(path, "wb") as out:
            end = 0
            for _ in range(rnd.randrange(1, 6)):
                end += rnd.choice([0, 512, 4096, 5000, 65536, 1 << 20, 30 << 20])
                out.seek(end)
                data = rnd.randbytes(rnd.choice([1, 511, 512, 4096, 10000]))
                out.write(data)
                end += len(data)
            out.truncate(end + rnd.choice([0, 1, 4096, 100000]))
        self.finish(path)

    def directory(self, path, mode=0o755):
        os.mkdir(path)
        self.finish(path, mode)
        return path

    def make(self):
        os.makedirs(self.top, exist_ok=True)
        self.finish(self.top, 0o755)
        self.make_sizes()
        self.make_names()
        self.make_deep()
        self.make_many()
        self.make_specials()
        self.make_small()
        for path, when in reversed(self.times):
            os.utime(path, ns=(when, when), follow_symlinks=False)

    def make_sizes(self):
        where = self.directory(os.path.join(self.top, "sizes"))
        self.file(os.path.join(where, "empty"), 0)
        for size in SIZES + BIG_SIZES[:self.count(len(BIG_SIZES))]:
            self.file(os.path.join(where, f"size-{size}"), size)
        for number in range(self.count(40)):
            self.sparse(os.path.join(where, f"sparse-{number}"))

    def make_names(self):
        where = self.directory(os.path.join(self.top, "names"))
        for name in NAMES:
            self.file(os.path.join(where, name), 10)

    def make_deep(self):
        where = self.top
        for level in range(40):
            where = self.directory(os.path.join(where, f"level{level}"))
            self.file(os.path.join(where, "f"), level * 100)

    def make_many(self):
        """One directory that grows from inside its dinode through one leaf to a big hash table."""
        where = self.directory(os.path.join(self.top, "many"))
        first = os.path.join(where, "entry-with-some-name-000000")
        self.file(first, 100)
        for number in range(1, self.count(5000)):
            path = f"{first[:-6]}{number:06}"
            if number % 10:
                os.link(first, path)
            else:
                self.file(path, 0)

    def make_specials(self):
        where = self.directory(os.path.join(self.top, "specials"))
        for number in range(self.count(50)):
            path = os.path.join(where, f"symlink-{number}")
            os.symlink("t" * self.random.choice([1, 10, 100, 200, 250]), path)
            self.finish(path)
        os.symlink("../sizes/empty", os.path.join(where, "symlink"))
        self.finish(os.path.join(where, "symlink"))
        for name, kind, device in (("fifo", stat.S_IFIFO, 0),
                                   ("null", stat.S_IFCHR, os.makedev(1, 3)),
                                   ("character", stat.S_IFCHR, os.makedev(4095, 1048575)),
                                   ("block", stat.S_IFBLK, os.makedev(8, 17)),
                                   ("socket", stat.S_IFSOCK, 0)):
            path = os.path.join(where, name)
            os.mknod(path, kind | 0o600, device)
            self.finish(path)
        self.file(os.path.join(where, "hard"), 5000)
        for number in range(self.count(300)):
            os.link(os.path.join(where, "hard"), os.path.join(where, f"hard-{number}"))

    def make_small(self):
        """Directories of small files, as in a source tree."""
        for number in range(self.count(60)):
            where = self.directory(os.path.join(self.top, f"dir{number}"),
                                   self.random.choice([0o755, 0o700, 0o1777, 0o2755]))
            for name in range(self.random.randrange(0, 60)):
                self.file(os.path.join(where, f"file{name}.c"),
                          int(self.random.lognormvariate(7.5, 1.5)) % 300000)


def make_tree(top, seed=1, scale=1.0):
    Tree(top, seed, scale).make()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    SEED, SCALE = (sys.argv[2:] + ["1", "1.0"][len(sys.argv) - 2:])[:2]
    make_tree(sys.argv[1], int(SEED), float(SCALE))
