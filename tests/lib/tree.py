#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Make a tree with all kinds of files, the same for the same seed wherever it is made.

usage: tree.py DIRECTORY [SEED [SCALE [xattrs]]]

SCALE 1.0 makes about 8000 names and 60 MB.  Every name has an explicit owner, mode and time
(nanoseconds, before 1970 too), so that two such trees have equal manifests.  With "xattrs" the tree
is one of extended attributes and ACLs instead, made by setting, replacing, removing and inheriting.
"""
import errno
import os
import random
import stat
import struct
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


# Around where values stop being inline, and where they need one block more, for each block size.
VALUE_SIZES = sorted({edge + by
                      for edge in (1, 460, 488, 960, 976, 1000, 1990, 2000, 4040, 4050, 4072, 8144, 20000)
                      for by in (-1, 0, 1)}) + [65536]
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


def acl(*entries):
    """(tag, permissions[, id]): 1 owner, 2 user, 4 group, 8 named group, 16 mask, 32 others."""
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", entry[0], entry[1], entry[2] if len(entry) > 2 else 0xffffffff)
        for entry in entries)


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


class XattrTree(Tree):
    """Everything that changes attributes and ACLs, the same on every file system that is right."""

    def make(self):
        old = os.umask(0o026)
        self.directory(self.top)
        self.make_values()
        self.make_many_values()
        self.make_acls()
        os.umask(old)
        for path, when in reversed(self.times):
            os.utime(path, ns=(when, when), follow_symlinks=False)

    def set(self, path, name, size):
        try:
            os.setxattr(path, name, self.random.randbytes(size), follow_symlinks=False)
        except OSError as error:
            # With small blocks the longest values have no room for their pointers.
            if error.errno != errno.ERANGE:
                raise

    def make_values(self):
        where = self.directory(os.path.join(self.top, "values"))
        for size in VALUE_SIZES:
            path = os.path.join(where, f"size-{size}")
            self.file(path, 0)
            self.set(path, "user.value", size)
            self.set(path, "trusted.second", self.random.choice([0, 5, 300, 3000]))
        for kind in ("link", "fifo"):
            path = os.path.join(where, kind)
            os.symlink("x", path) if kind == "link" else os.mkfifo(path)
            self.set(path, "trusted.value", 100)
            self.set(path, "security.test", 1000)
            self.finish(path)

    def make_many_values(self):
        """Set, replaced by longer and shorter ones, removed: first, last, in the middle, all."""
        where = self.directory(os.path.join(self.top, "many"))
        for number in range(self.count(40)):
            path = os.path.join(where, f"{number}")
            self.file(path, 0)
            names = [f"{self.random.choice(['user', 'trusted', 'security'])}."
                     + "n" * self.random.randrange(60) + str(i) for i in range(12)]
            for _ in range(60):
                name = self.random.choice(names)
                if self.random.random() < 0.3 and name in os.listxattr(path):
                    os.removexattr(path, name)
                else:
                    self.set(path, name, self.random.choice([0, 1, 20, 100, 400, 1500, 5000]))
            if number % 8 == 0:
                for name in os.listxattr(path):
                    os.removexattr(path, name)
            self.finish(path, 0o644)
        path = os.path.join(where, "hundreds")
        self.file(path, 0)
        for number in range(300):
            self.set(path, f"user.{number}", number % 60)

    def make_acls(self):
        where = self.directory(os.path.join(self.top, "acls"))
        first = acl((1, 7), (2, 7, 1000), (2, 4, 70000), (4, 5), (8, 2, 5), (16, 7), (32, 1))
        mode = acl((1, 6), (4, 4), (32, 0))
        path = os.path.join(where, "file")
        self.file(path, 100)
        os.chmod(path, 0o2750)
        os.setxattr(path, ACCESS, first)
        for number, bits in enumerate((0o600, 0o4777, 0o2712)):
            path = os.path.join(where, f"chmod{number}")
            self.file(path, 0)
            os.setxattr(path, ACCESS, first)
            os.chmod(path, bits)
        path = os.path.join(where, "only-a-mode")
        self.file(path, 0)
        os.setxattr(path, ACCESS, first)
        os.setxattr(path, ACCESS, mode)
        path = os.path.join(where, "removed")
        self.file(path, 0)
        os.setxattr(path, ACCESS, first)
        os.removexattr(path, ACCESS)
        for name, default in (("plain", None), ("named", first), ("mode", mode)):
            path = os.path.join(where, name)
            os.mkdir(path, 0o775)
            os.chmod(path, 0o2775)
            os.chown(path, 0, 3000)
            if default:
                os.setxattr(path, DEFAULT, default)
            for bits in (0o666, 0o777, 0o640, 0o4755):
                os.close(os.open(os.path.join(path, f"f{bits:o}"), os.O_CREAT | os.O_WRONLY, bits))
                os.mkdir(os.path.join(path, f"d{bits:o}"), bits)
                os.mkfifo(os.path.join(path, f"p{bits:o}"), bits)
            os.symlink("f640", os.path.join(path, "link"))
            os.mkdir(os.path.join(path, "d777/below"), 0o777)
        # as many as gfs2 takes with blocks of 512 bytes
        path = os.path.join(where, "long")
        os.mkdir(path)
        long = acl((1, 7), *((2, i % 8, 1000 + i) for i in range(33)), (4, 5), (16, 7), (32, 1))
        os.setxattr(path, ACCESS, long)
        os.setxattr(path, DEFAULT, long)
        os.mkdir(os.path.join(path, "d"))
        for directory, names, files in os.walk(self.top):
            for name in names + files:
                self.times.append((os.path.join(directory, name), 1700000000123456789))
        self.times.append((self.top, 1700000000123456789))


def make_xattrs(top, seed=1, scale=1.0):
    XattrTree(top, seed, scale).make()


def make_tree(top, seed=1, scale=1.0):
    Tree(top, seed, scale).make()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    SEED, SCALE, WHAT = (sys.argv[2:] + ["1", "1.0", "files"][len(sys.argv) - 2:])[:3]
    (make_xattrs if WHAT == "xattrs" else make_tree)(sys.argv[1], int(SEED), float(SCALE))
