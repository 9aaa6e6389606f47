#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: what one node has changed, however, the other one sees, however it looks, as soon as the call has returned; and mappings
# timeout: 240
# variants: plain
"""Two mounts of one volume with lock_local.  The kernel caches what a node reads, as long as the node keeps the lock; these cases
look for bytes, sizes, attributes and names that stayed somewhere too long, and for the deadlock between a READ that has a page locked and
the lock that is not given up before the page is dropped (it shows as a step that takes longer than STEP_SECONDS).

The cases of matrix() are chosen by a seed: GFS2_TEST_SEED repeats them."""
import contextlib
import ctypes
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402
from calls import file_clock, next_tick    # noqa: E402
from coherence import BLOCK, MAPPED, Matrix, View, acl, sees_acl    # noqa: E402


@contextlib.contextmanager
def nodes(count=2, size="256M", options=(), **more):
    """Mounts of a new volume; afterwards they are unmounted and the volume is clean."""
    volume = Volume(journals=count, proto="lock_dlm", table="test:vol", size=size, **more)
    mounts = [volume.mount("lockproto=lock_local", *options) for _ in range(count)]
    yield mounts
    for one in mounts:
        one.umount()
    volume.fsck()


def fill_up(file):
    """Until there is no more space; how many bytes."""
    written = 0
    try:
        while True:
            written += file.write(bytes(256 * BLOCK))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    return written


def matrix(rounds, seed, **more):
    rng = random.Random(f"{seed}")
    with nodes(**more) as mounts:
        Matrix(mounts, rng).walk(rounds)


def case_matrix():
    matrix(40 if FULL else 6, SEED)


def case_matrix_small_blocks():
    """The directories are hashed at once, attributes in blocks of their own."""
    matrix(20 if FULL else 3, SEED + 1, bs=512, size="64M")


def case_growing_directory():
    """Leaves are split and the hash table doubled by one node after the other; each has seen the table as it was before."""
    with nodes(bs=512, size="64M") as mounts:
        os.mkdir(mounts[0] / "d")
        known = set()
        for turn in range(8):
            one, other = mounts[turn % 2], mounts[1 - turn % 2]
            for number in range(24):
                name = f"{turn}.{number}"
                os.mknod(one / f"d/{name}", 0o600 | stat.S_IFREG)
                known.add(name)
            for name in sorted(known):
                os.stat(other / f"d/{name}")
            equal(set(os.listdir(other / "d")), known, f"listing after turn {turn}")


def case_mapping():
    """Read-only shared and private mappings work, writable shared ones are refused, however they are asked for."""
    libc = ctypes.CDLL(None, use_errno=True)
    with nodes() as (a, b):
        write_file(a / "f", b"a" * 3 * BLOCK)
        fd = os.open(b / "f", os.O_RDONLY)
        rw = os.open(b / "f", os.O_RDWR)
        shared = mmap.mmap(fd, 3 * BLOCK, mmap.MAP_SHARED, mmap.PROT_READ)
        equal(shared[:], b"a" * 3 * BLOCK, "shared mapping")
        expect_errno(errno.EACCES, mmap.mmap, fd, BLOCK, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # What may be made writable later is refused now.
        for prot in (mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE):
            expect_errno(errno.ENODEV, mmap.mmap, rw, BLOCK, mmap.MAP_SHARED, prot)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        raw = libc.mmap(None, BLOCK, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        equal(libc.mprotect(raw, BLOCK, mmap.PROT_READ | mmap.PROT_WRITE), -1, "mprotect")
        equal(ctypes.get_errno(), errno.EACCES, "errno of mprotect")
        private = mmap.mmap(rw, 3 * BLOCK, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        equal(private[2 * BLOCK:], b"a" * BLOCK, "private mapping")
        private[:4] = b"mine"
        # These pages came through a file that is not cached; nobody may find them later who reads through one that is.
        os.pwrite(rw, b"B" * BLOCK, BLOCK)
        equal(shared[BLOCK:2 * BLOCK], b"B" * BLOCK, "own write, seen in the mapping")
        write_file(a / "f", b"c" * 3 * BLOCK)
        equal(shared[:], b"c" * 3 * BLOCK, "the other one's write, seen in the mapping")
        equal(read_file(b / "f"), b"c" * 3 * BLOCK, "the other one's write, read")
        equal(private[:4], b"mine", "a page of its own")
        direct = os.open(b / "f", os.O_RDWR | os.O_DIRECT)
        second = mmap.mmap(direct, 3 * BLOCK, mmap.MAP_PRIVATE, mmap.PROT_READ)
        equal(second[:], b"c" * 3 * BLOCK, "private mapping of a file opened with O_DIRECT")
        write_file(a / "f", b"d" * 3 * BLOCK)
        equal(read_file(b / "f"), b"d" * 3 * BLOCK, "after that")
        equal(run([b / "true"], ok=None).returncode if shutil.copy("/bin/true", b / "true") else 1, 0, "a program")
        for one in (private, second, shared):
            one.close()
        libc.munmap(ctypes.c_void_p(raw), ctypes.c_size_t(BLOCK))
        for one in (fd, rw, direct):
            os.close(one)


def case_cached():
    """What was read once is not asked for again, until another node wants the lock."""
    with nodes() as (a, b):
        data = pattern(64 * BLOCK, 3)
        write_file(a / "f", data)
        inode = os.stat(b / "f").st_ino
        same_data(read_file(b / "f"), data, "first read")
        fd = os.open(b / "f", os.O_RDONLY)
        shared = mmap.mmap(fd, 64 * BLOCK, mmap.MAP_SHARED, mmap.PROT_READ)
        with Trace(b) as trace:
            for _ in range(3):
                same_data(os.pread(fd, 32 * BLOCK, 0), data[:32 * BLOCK], "read again")
                same_data(shared[:], data, "mapping")
        equal(trace.of(inode), [], "events of the file while it was read from the page cache")
        equal(read_file(a / "f"), data, "read by the other node, which takes nothing away")
        with Trace(b) as trace:
            same_data(shared[:], data, "mapping")
        equal(trace.of(inode), [], "events of the file after the other node has read it")
        with open(a / "f", "r+b", buffering=0) as out:
            out.write(b"new")
        with Trace(b) as trace:
            same_data(shared[:3], b"new", "mapping")
        check(trace.of(inode), "the mapping did not ask for the changed file")
        shared.close()
        os.close(fd)


def resident(memory):
    """Which pages of a mapping are in the page cache."""
    pages = ctypes.create_string_buffer(len(memory) // mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    equal(ctypes.CDLL(None).mincore(ctypes.c_void_p(start), ctypes.c_size_t(len(memory)), pages), 0, "mincore")
    return [byte & 1 for byte in pages.raw[:len(memory) // mmap.PAGESIZE]]


def case_own_pages():
    """Before a node changes a file its own kernel has none of the pages: who reads past them would be ahead of who reads them."""
    volume = Volume(journals=2, proto="lock_dlm", table="test:vol", size="256M")
    with volume.mount("lockproto=lock_local", f"control={temp('control')}") as a, volume.mount("lockproto=lock_local") as b:
        write_file(a / "f", b"", sync=True)
        os.truncate(a / "f", 8 * BLOCK)
        inode = os.stat(a / "f").st_ino
        control, fd = Control(a), os.open(a / "f", os.O_RDONLY)
        shared = mmap.mmap(fd, 8 * BLOCK, mmap.MAP_PRIVATE)
        for point in ("upgrade", "buffered"):
            control("break", "dio", point, f"inode:{inode}")
        writer = subprocess.Popen([sys.executable, "-c", DIRECT_WRITER, a / "f", str(BLOCK)])
        control("wait", "60")
        # It has given DF up, and EX is not asked for yet.
        equal(shared[BLOCK:BLOCK + 5], bytes(5), "a hole, through the mapping")
        equal(resident(shared)[1], 1, "page in the cache")
        control("continue")
        control("wait", "60")
        equal(resident(shared)[1], 0, "page in the cache while the write has the lock")
        control("continue")
        equal(writer.wait(STEP_SECONDS), 0, "exit status of the writer")
        equal(shared[BLOCK:BLOCK + 5], b"BBBBB", "what was written, through the mapping")
        equal(read_file(b / "f")[BLOCK:2 * BLOCK], b"B" * BLOCK, "what was written, on the other node")
        control.close()
        shared.close()
        os.close(fd)
    volume.fsck()


DIRECT_WRITER = """
import mmap, os, sys
buffer = mmap.mmap(-1, 4096)
buffer.write(b"B" * 4096)
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_DIRECT)
sys.exit(os.pwrite(fd, buffer, int(sys.argv[2])) != 4096)
"""

READER = """
import mmap, os, random, sys
path, how, seed, progress = sys.argv[1:5]
out = open(progress, "w")
fd = os.open(path, os.O_RDONLY)
size = os.fstat(fd).st_size
shared = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
rng = random.Random(seed)
count = 0
print("ready", flush=True)
while True:
    at = rng.randrange(size // 4096) * 4096
    page = shared[at:at + 4096] if how == "map" else os.pread(fd, 4096, at)
    # Every page is written in one go, and read in one; a mapping may change while it is being copied.
    if how != "map" and page != page[:8] * 512:
        sys.exit(f"torn page at {at}: {page[:16].hex()} ...")
    count += 1
    os.pwrite(out.fileno(), b"%d" % count, 0)
"""


def gate(seconds, pages=32):
    """Readers of one node that never stop, by read(2) and through mappings, while the nodes take the lock from each other; READs
    take their time, so that pages are locked when the lock has to go.  What was written is seen as soon as the write has returned."""
    with nodes() as (a, b):
        write_file(a / "f", struct.pack("<Q", 0) * 512 * pages, sync=True)
        b.glockctl("set", "fault", "op=read,cls=data,delay_us=3000")
        progress = [temp("progress") for _ in range(4)]
        readers = [subprocess.Popen([sys.executable, "-c", READER, b / "f", "map" if i % 2 else "read", f"{SEED}{i}", name],
                                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                   for i, name in enumerate(progress)]
        for reader in readers:
            equal(reader.stdout.readline(), b"ready\n", "a reader")
        views = [View(m, "f") for m in (a, b)]
        rng = random.Random(SEED)
        turns, until = 0, time.monotonic() + seconds

        def done():
            return [int(read_file(name) or 0) for name in progress]

        # In a time in which next to nothing has happened nothing was shown.
        while time.monotonic() < until or (min(done()) <= seconds and not any(reader.poll() for reader in readers)):
            turns += 1
            page = struct.pack("<Q", turns) * 512
            at = rng.randrange(pages) * BLOCK
            writer = views[turns % 4 == 3]      # the reading node itself, too
            if turns % 2:
                writer.write_direct(page, at)
            else:
                os.pwrite(writer.plain, page, at)
            same_data(os.pread(views[1].cached, BLOCK, at), page, f"turn {turns}: read at {at}")
            if at < MAPPED:
                same_data(views[1].shared[at:at + BLOCK], page, f"turn {turns}: mapping at {at}")
        ended = [reader.poll() for reader in readers]
        for reader in readers:
            reader.kill()
        said = [reader.communicate()[0] for reader in readers]
        equal((ended, said), ([None] * 4, [b""] * 4), "readers that have ended, and what they said")
        for view in views:
            view.close()
        log(f"{turns} turns, the readers read {done()} pages meanwhile")


def case_gate():
    gate(60 if FULL else 4)


# --- a failed write is undone

class Aio:
    """One request at a time through libaio's system calls: the kernel treats these otherwise than pwrite(2)."""

    def __init__(self):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.context = ctypes.c_ulong(0)
        equal(self.libc.syscall(206, 8, ctypes.byref(self.context)), 0, "io_setup")

    def pwrite(self, fd, memory, length, offset, at=0):
        """From @at in the memory.  Bytes or -errno."""
        return self.request(1, fd, ctypes.addressof(ctypes.c_char.from_buffer(memory)) + at, length, offset)

    def pwritev(self, fd, memory, length, offset, segment, at=0):
        """As vectors of @segment bytes."""
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + at
        parts = [struct.pack("<QQ", start + i, min(segment, length - i)) for i in range(0, length, segment)]
        vector = ctypes.create_string_buffer(b"".join(parts))
        return self.request(8, fd, ctypes.addressof(vector), len(parts), offset)

    def request(self, command, fd, address, length, offset):
        iocb = ctypes.create_string_buffer(struct.pack("<QIIHhIQQqQII", 0, 0, 0, command, 0, fd, address, length, offset, 0, 0, 0))
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(iocb))
        done = self.libc.syscall(209, self.context, ctypes.c_long(1), pointers)
        if done != 1:
            return -ctypes.get_errno()
        events = ctypes.create_string_buffer(32)
        equal(self.libc.syscall(208, self.context, ctypes.c_long(1), ctypes.c_long(1), events, None), 1, "io_getevents")
        return struct.unpack("<QQqq", events.raw)[2]

    def close(self):
        self.libc.syscall(207, self.context)


def failed_append(user):
    """The kernel cuts a file down to the size that it believes in when an asynchronous direct write beyond the end has failed; what the
    other node has appended in the meantime stays.  Whose write it was makes no difference: the kernel's request for that does differ."""
    def write(*args):
        os.seteuid(user)
        try:
            return aio.pwrite(*args)
        finally:
            os.seteuid(0)

    with nodes() as (a, b):
        aio, page = Aio(), mmap.mmap(-1, 4 * BLOCK)
        page[:] = b"a" * 4 * BLOCK
        for append in (os.O_APPEND, 0):
            name = f"log{append}"
            write_file(a / name, b"0" * 8 * BLOCK, sync=True)
            fd = os.open(a / name, os.O_RDWR | os.O_DIRECT | append)
            equal(write(fd, page, BLOCK, 8 * BLOCK), BLOCK, "a write that goes well")
            data = b"0" * 8 * BLOCK + b"a" * BLOCK
            # Node a's kernel believes in 9 blocks now.
            for turn in range(3):
                with open(b / name, "ab") as out:
                    out.write(b"b" * 5000)
                data += b"b" * 5000
                a.glockctl("set", "fault", "op=write,cls=data,error=5")
                where = (9 if append else 9 + turn // 2 * 3) * BLOCK
                size = BLOCK if append else 4 * BLOCK
                equal(write(fd, page, size, where), -errno.EIO, "the write that fails")
                a.glockctl("set", "fault", "none")
                same_data(read_file(b / name)[:len(data)] if append else read_file(b / name)[-5000:],
                     data if append else b"b" * 5000, f"turn {turn}: seen by the node that appended")
            # A cut that is meant is done.
            os.seteuid(user)
            os.ftruncate(fd, 3 * BLOCK)
            os.seteuid(0)
            equal(os.stat(b / name).st_size, 3 * BLOCK, "size after ftruncate(2)")
            os.close(fd)
        aio.close()
        page.close()


def case_failed_append():
    failed_append(0)


def case_failed_append_of_a_user():
    failed_append(1000)


def case_failed_append_after_good_ones():
    """What goes with a failed append is its own, not what the same thread has appended just before, even if both might be pieces of one."""
    with nodes() as (a, b):
        aio, memory = Aio(), mmap.mmap(-1, (3 << 20) + BLOCK)
        for at, length in ((0, 1 << 20), (16, 1 << 20), (0, BLOCK), (16, 3 << 20)):
            write_file(a / "log", b"0" * BLOCK, sync=True)
            fd = os.open(a / "log", os.O_WRONLY | os.O_DIRECT | os.O_APPEND)
            with open(b / "log", "ab") as out:
                out.write(b"b" * 5000)
            data = b"0" * BLOCK + b"b" * 5000
            for turn in range(3):
                memory[:] = b"%d" % turn * len(memory)
                equal(aio.pwrite(fd, memory, length, 0, at), length, "an append that goes well")
                data += b"%d" % turn * length
                a.glockctl("set", "fault", "op=write,cls=data,error=5")
                equal(aio.pwrite(fd, memory, length, 0, at), -errno.EIO, "an append that fails")
                a.glockctl("set", "fault", "none")
                same_data(read_file(b / "log"), data, f"{length} bytes at page + {at}, turn {turn}")
            os.close(fd)
        aio.close()
        memory.close()


def fill(mount):
    """Not a block is left."""
    fd = os.open(mount / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for size in (1 << 20, 1 << 16, BLOCK):
        try:
            while os.write(fd, bytes(size)) == size:
                pass
        except OSError as error:
            equal(error.errno, errno.ENOSPC, "errno on a full volume")
    os.fsync(fd)
    os.close(fd)


def case_failed_without_space():
    """The same where there is no space, or space for a part, for writes of one piece and of several: nothing of the other node's is cut
    away, nothing of a direct write's stays; and an ftruncate(2) after such a write, whoever made it, is one."""
    with nodes(size="64M") as (a, b):
        aio, memory = Aio(), mmap.mmap(-1, (3 << 20) + BLOCK)
        memory[:] = b"a" * len(memory)
        other = b"b" * 100000
        for flags in (0, os.O_APPEND, os.O_DIRECT, os.O_DIRECT | os.O_APPEND):
            for length, room, at in ((1 << 16, 0, 0), (1 << 16, 20 << 10, 0), (3 << 20, 0, 0), (3 << 20, 20 << 10, 0), (3 << 20, 1300 << 10, 0),
                                     (3 << 20, 1300 << 10, 16)):
                if flags == os.O_DIRECT and at:
                    continue    # EINVAL
                what = f"flags {flags:#o}, {length} bytes at page + {at}, room for {room}"
                write_file(a / "f", b"0" * BLOCK, sync=True)
                write_file(b / "room", bytes(room), sync=True)
                fd = os.open(a / "f", os.O_WRONLY | flags)
                appender = os.open(b / "f", os.O_WRONLY | os.O_APPEND | os.O_DSYNC)
                equal(os.write(appender, other), len(other), "the other node's append")
                os.close(appender)
                fill(b)
                os.unlink(b / "room")
                run(["sync", b.dir])
                # Node a's kernel believes in one block.
                result = aio.pwrite(fd, memory, length, BLOCK, at)
                data = read_file(b / "f")
                if not flags & os.O_APPEND and result > 0:
                    data = data[:BLOCK] + other     # it fitted over the other's
                else:
                    check(result in (-errno.ENOSPC, -errno.EIO), f"{what}: result {result}")
                if flags & os.O_APPEND or length < len(other):
                    same_data(data[BLOCK:BLOCK + len(other)] if flags & os.O_APPEND else data[-BLOCK:],
                              other if flags & os.O_APPEND else other[-BLOCK:], what)
                check(len(data) >= BLOCK + len(other), f"{what}: {len(data)} bytes are left")
                if flags:
                    equal(len(data), BLOCK + len(other), f"{what}: size")
                for size in (3 * BLOCK, BLOCK, 0):
                    try:
                        os.write(fd, memory[:1 << 16]) if flags & os.O_APPEND else os.pwrite(fd, memory[:1 << 16], 1 << 20)
                    except OSError:
                        pass
                    os.ftruncate(fd, size)
                    equal(os.stat(b / "f").st_size, size, f"{what}: after ftruncate(2)")
                os.close(fd)
                os.unlink(b / "filler")
        aio.close()
        memory.close()


def case_append_in_order():
    """A large asynchronous append is sent in pieces, all at once; the file has them in order, also when the other node appends meanwhile.
    How large the pieces are depends on where the buffer is in its page, and on the vector."""
    size = 6 << 20
    with nodes(size="512M") as (a, b):
        aio, memory = Aio(), mmap.mmap(-1, size + BLOCK)
        # Every 64 bytes are others, and none has the letters of the other node.
        memory[:] = b"".join(b"%063x\n" % i for i in range(len(memory) // 64)).translate(bytes.maketrans(b"07", b"gh"))

        def append(fd, length, at, segment):
            if segment:
                return aio.pwritev(fd, memory, length, 0, segment, at)
            return aio.pwrite(fd, memory, length, 0, at)

        ways = [(0, 0), (16, 0), (BLOCK - 1, 0), (0, 40000), (8, 6200), (100, 100)]
        for flags in (os.O_APPEND, os.O_DIRECT | os.O_APPEND):
            fd = os.open(a / "log", os.O_WRONLY | os.O_CREAT | flags)
            for turn in range(4):
                for at, segment in ways:
                    # The last piece is a short one.
                    length = min(size - turn * 2 * BLOCK, segment * 1024 or size)
                    what = f"flags {flags:#o}, turn {turn}, {length} bytes at page + {at}, vectors of {segment}"
                    equal(append(fd, length, at, segment), length, what)
                    same_data(read_file(a / "log"), memory[at:at + length], what)
                    os.ftruncate(fd, 0)
            appender = subprocess.Popen(["sh", "-c", f"while :; do printf %08192d 7 >>{b / 'log'} || exit; done"])
            good = b""
            try:
                wait_for(lambda: os.stat(a / "log").st_size, "the other node to append")
                for turn in range(2):
                    for at, segment in ways:
                        length = min(size, segment * 1024 or size)
                        if append(fd, length, at, segment) == length:
                            good += memory[at:at + length]
            finally:
                appender.kill()
                appender.wait()
            data = read_file(a / "log").translate(None, b"07")
            check(len(data) >= len(good), f"appends of {len(good)} bytes, {len(data)} bytes")
            if len(data) == len(good):
                same_data(data, good, "the pieces, without the other node's")
            os.close(fd)
            os.unlink(a / "log")
        aio.close()
        memory.close()


# --- the end of an inode

def free_blocks(*mounts):
    """Each knows of its own changes at once; what is added up here does not lack what another one has freed."""
    return sum(os.statvfs(m).f_bfree for m in mounts)


def case_unlinked():
    """What nobody has open is freed at once, also if the other node's kernel remembers it; what is open there, when it is closed."""
    with nodes() as (a, b):
        write_file(a / "keep", b"k")
        os.mkdir(a / "d")
        before = free_blocks(a, b)
        for turn in range(4):
            one, other = ((a, b), (b, a))[turn % 2]
            names = [f"d/f{turn}.{i}" for i in range(8)]
            for name in names:
                write_file(one / name, pattern(100000, 5), sync=True)
                os.stat(other / name)
                if turn > 1:
                    check(len(read_file(other / name)) == 100000, "read")
            used = before - free_blocks(a, b)
            check(used > 8 * 20, f"only {used} blocks are used")
            held = os.open(other / names[0], os.O_RDONLY)
            for name in names:
                os.unlink(one / name)
            wait_for(lambda: before - free_blocks(a, b) < used // 4, f"turn {turn}: the blocks to be freed")
            same_data(os.pread(held, 100000, 0), pattern(100000, 5), "unlinked file that is open on the other node")
            equal(os.fstat(held).st_nlink, 0, "its links")
            os.close(held)
            wait_for(lambda: before - free_blocks(a, b) <= 4, f"turn {turn}: the last file's blocks to be freed")
            # The same block numbers again, under other names and the same ones, on either node.
            for n, m in enumerate((other, one)):
                for i, name in enumerate(names):
                    write_file(m / name, b"%d.%d" % (n, i))
                for i, name in enumerate(names):
                    same_data(read_file((one, other)[n] / name), b"%d.%d" % (n, i), name)
                for name in names:
                    os.unlink((one, other)[(n + len(name)) % 2] / name)


def case_unlinked_and_full():
    """Who finds no space looks for unlinked inodes; those that a node has said to be in use it is not waited for again."""
    with nodes(size="64M", mkfs=("-J", "8")) as (a, b):
        names = [f"f{i}" for i in range(8)]
        for name in names:
            write_file(a / name, pattern(20000, 5), sync=True)
        held = [os.open(b / name, os.O_RDONLY) for name in names]
        inodes = [os.fstat(fd).st_ino for fd in held]
        with open(a / "fill", "wb", buffering=0) as fills, Trace(a) as trace:
            for name in names:
                os.unlink(a / name)
            fill_up(fills)
            for _ in range(4):
                with open(b / "fill", "ab", buffering=0) as other:
                    fill_up(other)
                fill_up(fills)
        for inode in inodes:
            asked = [event["flags"] for event in trace.events
                     if event.get("glock") == f"5/{inode:x}" and event["event"] == "dlm_lock" and event["to"] == "EX"]
            waited = sum("NOQUEUE" not in flags for flags in asked)
            check(waited <= 1 and len(asked) > 3, f"unlinked inode {inode}: {asked}")
        for fd in held:
            same_data(os.pread(fd, 20000, 0), pattern(20000, 5), "unlinked file that is open on the other node")
            os.close(fd)
        # They have been freed by then, or whoever finds no space frees them.
        with open(b / "fill", "ab", buffering=0) as other:
            check(fill_up(other) >= len(names) * 20000, "the unlinked files' room is not there")


# --- times of direct writes, while several nodes have some that are not published

@contextlib.contextmanager
def two_writers(*options):
    """Two mounts, a file that both have open for direct writing, a function that writes a block of it."""
    with nodes(options=options) as both, Aligned(b"t" * BLOCK) as data:
        write_file(both[0] / "f", bytes(64 * BLOCK), sync=True)
        os.truncate(both[0] / "f", 128 * BLOCK)
        fds = [os.open(m / "f", os.O_RDWR | os.O_DIRECT) for m in both]
        yield both, os.fstat(fds[0]).st_ino, fds, lambda node, block: os.pwrite(fds[node], data, block * BLOCK)
        for fd in fds:
            os.close(fd)


def case_times_cost_no_lock():
    """Two that write all the time: no EX per write, none that is waited for; a try now and then."""
    with two_writers("dio_mtime_interval=1") as (both, inode, _fds, write):
        for node in (0, 1, 0, 1):
            write(node, node)
        began, writes = time.monotonic(), 0
        with Trace(both[0]) as trace:
            while time.monotonic() < began + 2.5 or writes < 50:
                for writer in (0, 1):
                    write(writer, writes % 64)
                writes += 1
                time.sleep(0.001)
        took = time.monotonic() - began
        asked = [event for event in trace.of(inode) if event["event"] == "dlm_lock"]
        log(f"{writes} writes by each in {took:.1f} s, to the lock manager: "
            f"{[(event['from'], event['to'], event['flags']) for event in asked]}")
        # One try an interval after the first write; what comes next comes when ten more are over.
        if took < 8:
            check(len(asked) <= 1, f"{len(asked)} requests")
            check(all(event["to"] == "EX" and "NOQUEUE" in event["flags"] for event in asked), asked)
        check(len(asked) <= 2 * took, f"{len(asked)} requests in {took:.0f} s")


def case_times_left():
    """A node has to let go of the lock while the one that asks has it in DF: the time that it could not publish is, soon."""
    with two_writers("dio_mtime_interval=3600") as (both, inode, _fds, write):
        for node in (0, 1, 0, 1, 0):
            write(node, node)
        with Trace(both[0]) as trace:
            write(1, 100)   # a hole: DF to EX
            got = f"G:  s:EX n:2/{inode:x} "
            wait_for(lambda: got in both[0].glockctl("dump", f"inode:{inode}").stdout, "node 0 to get EX to publish its time")
        log([(event["event"], event.get("from"), event.get("to"), event.get("reason")) for event in trace.of(inode)])
        check(any(event["event"] == "glock_state" and event.get("reason") == "refused" for event in trace.of(inode)),
              "node 0 could publish before it let go: nothing was tested")


def case_times_of_unlinked():
    """The times of a file without a name, written directly on the node that closes it first, are seen where it is still open."""
    with nodes(options=("dio_mtime_interval=3600",)) as both, Aligned(b"t" * BLOCK) as data:
        write_file(both[0] / "f", bytes(4 * BLOCK), sync=True)
        fds = [os.open(m / "f", os.O_RDWR | os.O_DIRECT) for m in both]
        inode = os.fstat(fds[0]).st_ino
        os.unlink(both[0] / "f")
        equal(os.fstat(fds[1]).st_nlink, 0, "links on the other node")
        for node in (0, 1, 0):
            os.pwrite(fds[node], data, 0)
        next_tick()
        began = file_clock()
        os.pwrite(fds[1], data, 0)
        os.close(fds[1])
        expect_errno(errno.ENOENT, os.stat, both[1] / "f")
        wait_for(lambda: f"n:5/{inode:x} " not in both[1].glockctl("dump").stdout, "the node to let go of the inode")
        check(os.fstat(fds[0]).st_mtime_ns >= began, "mtime is older than the other node's write")
        os.close(fds[0])


def case_utime_stays():
    """mtime set on one node is not overridden by what another one had written directly before, and publishes afterwards."""
    with two_writers("dio_mtime_interval=3600") as (both, _inode, fds, write):
        for turn, when in enumerate((1000000000, 2 * 10 ** 9 + 1)):
            for node in (0, 1, 0, 1, 0):
                write(node, node)
            setter = turn % 2
            os.utime(both[setter] / "f", (when, when))
            for fd in fds:
                os.fsync(fd)
            for node in (0, 1, 0):
                equal(os.fstat(fds[node]).st_mtime, when, f"turn {turn}: mtime on node {node}")
            # What is written after it (by the clock of times) counts.
            next_tick()
            write(1 - setter, 5)
            os.fsync(fds[1 - setter])
            for node in (0, 1):
                check(abs(os.stat(both[node] / "f").st_mtime - time.time()) < 3600, f"turn {turn}: mtime after a write")


if __name__ == "__main__":
    main()
