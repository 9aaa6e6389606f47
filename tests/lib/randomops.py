# SPDX-License-Identifier: GPL-2.0-or-later
"""Random file system calls, each made in two directories; results, contents and attributes must agree.

  randomops.py work SEED STEPS STATE DIR REFERENCE
  randomops.py compare DIR REFERENCE

`work` does STEPS calls in DIR (the file system under test) and in REFERENCE (another one, tmpfs), chosen
by SEED, and fsyncs everything at its end.  What the worker knows is kept in the file STATE, so that it can
go on after a remount.  Data go through write, mmap and O_DIRECT in DIR and through write in REFERENCE.
A full volume is no fault: what fits is done in REFERENCE too.

Exit status 1 and a text when the two disagree; the text names the step, by which it can be repeated.
"""
import ctypes
import errno
import json
import mmap
import os
import random
import stat
import sys

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
KEEP_SIZE, PUNCH_HOLE = 1, 2
MAX_FILE = 3 << 20
SECTOR = 512


class Disagreement(Exception):
    pass


def result_of(call, *args):
    """What a call did: ("ok", value) or ("errno", name)."""
    try:
        return "ok", call(*args)
    except OSError as error:
        return "errno", errno.errorcode.get(error.errno, error.errno)


def renameat2(old, new, flags):
    if libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def with_fd(path, flags, call):
    fd = os.open(path, flags)
    try:
        return call(fd)
    finally:
        os.close(fd)


def write_all(fd, data, offset):
    """All of it, or as much as fits: the number of bytes."""
    done = 0
    while done < len(data):
        try:
            n = os.pwrite(fd, data[done:], offset + done)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            break
        if not n:
            break
        done += n
    return done


def write_direct(fd, data, offset):
    memory = mmap.mmap(-1, len(data))
    memory[:] = data
    try:
        return os.pwritev(fd, [memory], offset)
    finally:
        memory.close()


def read_direct(fd, length, offset):
    memory = mmap.mmap(-1, length)
    try:
        n = os.preadv(fd, [memory], offset)
        return memory[:n]
    finally:
        memory.close()


def write_mapped(fd, data, offset):
    size = os.fstat(fd).st_size
    with mmap.mmap(fd, size) as memory:
        memory[offset:offset + len(data)] = data
        memory.flush()


def hole_map(fd, size, unit):
    """Which units are data, as SEEK_DATA and SEEK_HOLE say it."""
    found, at = [], 0
    while at < size:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        hole = os.lseek(fd, data, os.SEEK_HOLE)
        found.append((data, hole))
        at = hole
    return found


class Worker:
    def __init__(self, seed, steps, state, directory, reference):
        self.random = random.Random(seed)
        self.steps, self.state = steps, state
        self.dir, self.ref = directory, reference
        self.files, self.dirs, self.others, self.next = [], [""], [], 0
        if os.path.exists(state):
            with open(state) as text:
                known = json.load(text)
            self.files, self.dirs, self.others = known["files"], known["dirs"], known["others"]
            self.next = known["next"]
        for path in self.dir, self.ref:
            os.makedirs(path, exist_ok=True)
        self.history = []

    # -- both sides

    def paths(self, name):
        return os.path.join(self.dir, name), os.path.join(self.ref, name)

    def both(self, what, call, *names_and_args, ref_call=None):
        """Make the call on both sides; the common result."""
        names, args = names_and_args[0], names_and_args[1:]
        mine = [os.path.join(self.dir, name) for name in names]
        others = [os.path.join(self.ref, name) for name in names]
        got = result_of(call, *mine, *args)
        if got == ("errno", "ENOSPC"):
            return got
        want = result_of(ref_call or call, *others, *args)
        if got != want:
            raise Disagreement(f"{what} {names} {[a for a in args if not isinstance(a, bytes)]}: "
                               f"{str(got)[:200]} instead of {str(want)[:200]}")
        return got

    def new_name(self):
        self.next += 1
        width = self.random.choice([4, 4, 4, 30, 200])
        return f"{self.next:0{width}}"

    def some_dir(self):
        return self.random.choice(self.dirs)

    def new_path(self):
        parent = self.some_dir()
        return os.path.join(parent, self.new_name())

    def some_file(self):
        return self.random.choice(self.files) if self.files else None

    def place(self, size):
        length = self.random.choice([1, 100, 700, 5000, 70000, 300000])
        length = self.random.randrange(1, length + 1)
        offset = self.random.choice([size, self.random.randrange(size + 1),
                                     self.random.randrange(MAX_FILE)])
        return offset, length

    def size(self, name):
        return os.stat(os.path.join(self.ref, name)).st_size

    # -- the steps

    def create(self):
        path = self.new_path()
        got = self.both("create", lambda p: os.close(os.open(p, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)),
                        [path])
        if got[0] == "ok":
            self.files.append(path)

    def crowd(self):
        """Many names in one directory: leaves and tables."""
        parent = self.some_dir()
        for _ in range(60):
            path = os.path.join(parent, self.new_name())
            if self.both("crowd", lambda p: os.close(os.open(p, os.O_CREAT | os.O_WRONLY, 0o600)),
                         [path])[0] == "ok":
                self.files.append(path)

    def mkdir(self):
        path = self.new_path()
        if path.count("/") < 5 and self.both("mkdir", os.mkdir, [path])[0] == "ok":
            self.dirs.append(path)

    def special(self):
        path = self.new_path()
        kind = self.random.randrange(3)
        if kind == 0:
            got = self.both("symlink", lambda p: os.symlink("t" * self.random.choice([3, 150]), p), [path])
            # The two calls draw different targets: make them equal.
            if got[0] == "ok":
                os.unlink(os.path.join(self.ref, path))
                os.symlink(os.readlink(os.path.join(self.dir, path)), os.path.join(self.ref, path))
        elif kind == 1:
            got = self.both("mkfifo", os.mkfifo, [path])
        else:
            got = self.both("mknod", os.mknod, [path], stat.S_IFCHR | 0o600, os.makedev(4, 77))
        if got[0] == "ok":
            self.others.append(path)

    def link(self):
        name, path = self.some_file(), self.new_path()
        if name and self.both("link", os.link, [name, path])[0] == "ok":
            self.files.append(path)

    def remove(self):
        pool = self.random.choice([self.files, self.files, self.others])
        if pool:
            name = self.random.choice(pool)
            if self.both("unlink", os.unlink, [name])[0] == "ok":
                pool.remove(name)

    def remove_many(self):
        self.random.shuffle(self.files)
        for name in self.files[:len(self.files) // 3]:
            if self.both("unlink", os.unlink, [name])[0] == "ok":
                self.files.remove(name)

    def rmdir(self):
        name = self.some_dir()
        if name and self.both("rmdir", os.rmdir, [name])[0] == "ok":
            self.dirs.remove(name)

    def moved(self, old, new):
        for pool in self.files, self.dirs, self.others:
            for i, name in enumerate(pool):
                if name == old or name.startswith(old + "/"):
                    pool[i] = new + name[len(old):]

    def rename(self):
        pool = self.random.choice([self.files, self.dirs[1:], self.others])
        if not pool:
            return
        old = self.random.choice(pool)
        if self.random.randrange(3):
            new = self.new_path()
            if new.startswith(old + "/"):
                return
            if self.both("rename", os.rename, [old, new])[0] == "ok":
                self.moved(old, new)
        elif pool is self.files and len(self.files) > 1:
            new = self.random.choice(self.files)
            if new != old and not os.path.samefile(os.path.join(self.ref, old), os.path.join(self.ref, new)) \
                    and self.both("rename over", os.rename, [old, new])[0] == "ok":
                self.files.remove(old)

    def exchange(self):
        everything = self.files + self.dirs[1:]
        if len(everything) < 2:
            return
        one, two = self.random.sample(everything, 2)
        if one.startswith(two + "/") or two.startswith(one + "/"):
            return
        if self.both("exchange", lambda a, b: renameat2(a, b, RENAME_EXCHANGE), [one, two])[0] == "ok":
            self.moved(one, "\0")
            self.moved(two, one)
            self.moved("\0", two)

    def no_replace(self):
        if len(self.files) > 1:
            one, two = self.random.sample(self.files, 2)
            self.both("rename noreplace", lambda a, b: renameat2(a, b, RENAME_NOREPLACE), [one, two])

    def write(self, how=None):
        name = self.some_file()
        if not name:
            return
        offset, length = self.place(self.size(name))
        data = self.random.randbytes(length)
        mine, other = self.paths(name)
        done = with_fd(mine, os.O_WRONLY, lambda fd: write_all(fd, data, offset))
        with_fd(other, os.O_WRONLY, lambda fd: write_all(fd, data[:done], offset))

    def append(self):
        name = self.some_file()
        if not name:
            return
        data = self.random.randbytes(self.random.choice([10, 333, 4096]))
        mine, other = self.paths(name)
        got = result_of(with_fd, mine, os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, data))
        if got[0] == "ok":
            with_fd(other, os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, data[:got[1]]))
        elif got[1] != "ENOSPC":
            raise Disagreement(f"append to {name}: {got}")

    def direct_write(self):
        name = self.some_file()
        if not name:
            return
        offset, length = self.place(self.size(name))
        offset, length = offset // SECTOR * SECTOR, max(SECTOR, length // SECTOR * SECTOR)
        data = self.random.randbytes(length)
        mine, other = self.paths(name)
        got = result_of(with_fd, mine, os.O_WRONLY | os.O_DIRECT, lambda fd: write_direct(fd, data, offset))
        if got[0] == "ok":
            with_fd(other, os.O_WRONLY, lambda fd: write_all(fd, data[:got[1]], offset))
        elif got[1] == "ENOSPC":
            # How much of it was written is not said; begin anew.
            self.both("unlink after ENOSPC", os.unlink, [name])
            self.files.remove(name)
        else:
            raise Disagreement(f"direct write to {name}, {offset}+{length}: {got}")

    def mixed(self):
        """Buffered and direct through two descriptors, and nothing is closed in between: that would write it back."""
        name = self.some_file()
        if not name:
            return
        offset, length = self.place(self.size(name))
        data = self.random.randbytes(length)
        begin, end = offset // SECTOR * SECTOR, -(-(offset + length) // SECTOR) * SECTOR
        direct = self.random.randbytes(end - begin) if self.random.randrange(2) else None
        mine, other = self.paths(name)

        def calls(fd):
            done = write_all(fd, data, offset)
            with_fd(other, os.O_WRONLY, lambda ref: write_all(ref, data[:done], offset))
            if direct is None:
                return with_fd(mine, os.O_RDONLY | os.O_DIRECT, lambda dfd: read_direct(dfd, end - begin, begin))
            n = with_fd(mine, os.O_WRONLY | os.O_DIRECT, lambda dfd: write_direct(dfd, direct, begin))
            with_fd(other, os.O_WRONLY, lambda ref: write_all(ref, direct[:n], begin))
            # into a block that was just written directly
            n = write_all(fd, data[:7], begin + 1)
            with_fd(other, os.O_WRONLY, lambda ref: write_all(ref, data[:n], begin + 1))
            return os.pread(fd, end - begin, begin)

        got = result_of(with_fd, mine, os.O_RDWR, calls)
        if got == ("errno", "ENOSPC"):
            self.both("unlink after ENOSPC", os.unlink, [name])
            self.files.remove(name)
            return
        want = with_fd(other, os.O_RDONLY, lambda fd: os.pread(fd, end - begin, begin))
        if got != ("ok", want):
            raise Disagreement(f"{name}: buffered and direct, {offset}+{length}, "
                               f"{'read' if direct is None else 'written'}: {str(got)[:100]} instead of {str(want)[:100]}")

    def mapped_write(self):
        name = self.some_file()
        size = self.size(name) if name else 0
        if not size:
            return
        offset = self.random.randrange(size)
        data = self.random.randbytes(self.random.randrange(1, min(size - offset, 20000) + 1))
        # Pages over holes need blocks when they are written back, where ENOSPC has nobody to tell.
        mine, other = self.paths(name)
        st = os.statvfs(self.dir)
        if st.f_bavail * st.f_frsize > 4 << 20:
            with_fd(mine, os.O_RDWR, lambda fd: write_mapped(fd, data, offset))
            with_fd(other, os.O_RDWR, lambda fd: write_all(fd, data, offset))

    def read(self):
        name = self.some_file()
        if not name:
            return
        offset, length = self.place(self.size(name))
        mine, other = self.paths(name)
        want = with_fd(other, os.O_RDONLY, lambda fd: os.pread(fd, length, offset))
        if self.random.randrange(2):
            got = with_fd(mine, os.O_RDONLY, lambda fd: os.pread(fd, length, offset))
        else:
            begin = offset // SECTOR * SECTOR
            end = -(-(offset + length) // SECTOR) * SECTOR
            got = with_fd(mine, os.O_RDONLY | os.O_DIRECT, lambda fd: read_direct(fd, end - begin, begin))
            got = got[offset - begin:offset - begin + length]
        if got != want:
            at = next((i for i in range(min(len(got), len(want))) if got[i] != want[i]), min(len(got), len(want)))
            raise Disagreement(f"{name}: read {offset}+{length} differs at byte {offset + at}: "
                               f"{got[at:at + 8].hex()} ({len(got)}) instead of {want[at:at + 8].hex()} ({len(want)})")

    def truncate(self):
        name = self.some_file()
        if name:
            size = self.random.choice([0, self.random.randrange(MAX_FILE), self.size(name) // 2,
                                       self.random.randrange(300)])
            self.both("truncate", os.truncate, [name], size)

    def allocate(self):
        name = self.some_file()
        if name:
            offset, length = self.place(self.size(name))
            mode = self.random.choice([0, KEEP_SIZE, KEEP_SIZE | PUNCH_HOLE, KEEP_SIZE | PUNCH_HOLE])
            self.both("fallocate", lambda p: with_fd(p, os.O_RDWR,
                                                     lambda fd: fallocate(fd, mode, offset, length)), [name])

    def seek(self):
        """Everything that is not zero must be data."""
        name = self.some_file()
        if not name:
            return
        mine, other = self.paths(name)
        with open(other, "rb") as text:
            data = text.read()
        at = 0
        for begin, end in with_fd(mine, os.O_RDONLY, lambda fd: hole_map(fd, len(data), SECTOR)) + \
                [(len(data), len(data))]:
            if data[at:begin].strip(b"\0"):
                raise Disagreement(f"{name}: there are data in what SEEK_HOLE calls a hole, {at} to {begin}")
            at = end

    def attributes(self):
        pool = self.files + self.dirs[1:]
        if not pool:
            return
        name = self.random.choice(pool)
        kind = self.random.randrange(3)
        if kind == 0:
            self.both("chmod", os.chmod, [name], self.random.choice([0o600, 0o755, 0o444, 0o1777, 0o2775]))
        elif kind == 1:
            self.both("chown", os.chown, [name], self.random.randrange(3), self.random.randrange(3))
        else:
            when = self.random.randrange(1 << 33) * 1000000000 + self.random.randrange(1000000000)
            self.both("utime", lambda p: os.utime(p, ns=(when, when)), [name])

    def xattr(self):
        pool = self.files + self.dirs[1:]
        if not pool:
            return
        name = self.random.choice(pool)
        key = "trusted." + self.random.choice("abcdef") * self.random.choice([1, 40])
        if self.random.randrange(3):
            value = self.random.randbytes(self.random.choice([0, 5, 60, 300, 2000, 9000]))
            self.both("setxattr", os.setxattr, [name], key, value)
        else:
            self.both("removexattr", os.removexattr, [name], key)
        self.both("getxattr", os.getxattr, [name], key)

    def look(self):
        pool = self.files + self.dirs + self.others
        name = self.random.choice(pool)
        complain(compare_entry(*self.paths(name), name))
        if name in self.dirs:
            self.both("listdir", lambda p: sorted(os.listdir(p)), [name])

    def sync(self):
        name = self.some_file()
        if name:
            with_fd(os.path.join(self.dir, name), os.O_RDONLY, os.fsync)

    WEIGHTS = {"create": 8, "crowd": 1, "mkdir": 4, "special": 3, "link": 4, "remove": 6, "remove_many": 1,
               "rmdir": 3, "rename": 6, "exchange": 3, "no_replace": 1, "write": 14, "append": 6,
               "direct_write": 10, "mixed": 4, "mapped_write": 5, "read": 12, "truncate": 6, "allocate": 6, "seek": 3,
               "attributes": 4, "xattr": 6, "look": 6, "sync": 4}

    def run(self):
        names, weights = list(self.WEIGHTS), list(self.WEIGHTS.values())
        step = "none"
        try:
            for number in range(self.steps):
                step = self.random.choices(names, weights)[0]
                self.history.append(step)
                getattr(self, step)()
            step = "fsync of everything"
            self.sync_all()
        except (Disagreement, OSError) as fault:
            raise Disagreement(f"step {len(self.history)} ({step}): {fault}") from fault
        with open(self.state, "w") as text:
            json.dump({"files": self.files, "dirs": self.dirs, "others": self.others, "next": self.next}, text)

    def sync_all(self):
        for name in self.files + self.dirs:
            with_fd(os.path.join(self.dir, name), os.O_RDONLY, os.fsync)


# ---------------------------------------------------------------- comparing

def xattrs(path):
    try:
        names = sorted(name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("trusted."))
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    except OSError as error:
        return {"error": errno.errorcode.get(error.errno)} if error.errno != errno.EOPNOTSUPP else {}


def compare_entry(mine, other, name):
    """A list of what differs."""
    try:
        got, want = os.lstat(mine), os.lstat(other)
    except OSError as error:
        return [f"{name}: {error}"]
    faults = []
    for key in ("st_mode", "st_nlink", "st_uid", "st_gid") + (() if stat.S_ISDIR(want.st_mode) else ("st_size",)):
        if getattr(got, key) != getattr(want, key):
            faults.append(f"{name}: {key} is {getattr(got, key)} instead of {getattr(want, key)}")
    if stat.S_ISCHR(want.st_mode) and got.st_rdev != want.st_rdev:
        faults.append(f"{name}: device {got.st_rdev} instead of {want.st_rdev}")
    if stat.S_ISLNK(want.st_mode) and os.readlink(mine) != os.readlink(other):
        faults.append(f"{name}: another target")
    if not stat.S_ISLNK(want.st_mode) and xattrs(mine) != xattrs(other):
        faults.append(f"{name}: other xattrs: {str(xattrs(mine))[:100]} instead of {str(xattrs(other))[:100]}")
    return faults


def compare(mine, other, prefix=""):
    faults = []
    try:
        got, want = sorted(os.listdir(mine)), sorted(os.listdir(other))
    except OSError as error:
        return [f"{prefix}: {error}"]
    if got != want:
        faults.append(f"{prefix}: names: {sorted(set(got) ^ set(want))[:5]} are on one side only")
    for name in want:
        path = os.path.join(prefix, name)
        a, b = os.path.join(mine, name), os.path.join(other, name)
        faults += compare_entry(a, b, path)
        if len(faults) > 10:
            break
        if stat.S_ISDIR(os.lstat(b).st_mode):
            faults += compare(a, b, path)
        elif stat.S_ISREG(os.lstat(b).st_mode):
            try:
                with open(a, "rb") as one, open(b, "rb") as two:
                    if one.read() != two.read():
                        faults.append(f"{path}: other contents")
            except OSError as error:
                faults.append(f"{path}: {error}")
    return faults


def complain(faults):
    if faults:
        raise Disagreement("; ".join(faults[:10]))


def main():
    try:
        if sys.argv[1] == "work":
            seed, steps, state, directory, reference = sys.argv[2:]
            Worker(seed, int(steps), state, directory, reference).run()
        else:
            complain(compare(*sys.argv[2:4]))
    except Disagreement as fault:
        print(fault)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
