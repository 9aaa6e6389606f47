#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: preallocation, punched holes, SEEK_DATA and SEEK_HOLE, full volumes, inode flags, journaled data, rename flags, locks
# timeout: 240
# variants: plain asan
import array
import ctypes
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

KEEP, PUNCH, COLLAPSE, ZERO, INSERT, UNSHARE = 1, 2, 8, 16, 32, 64
GETFLAGS, SETFLAGS, GETXATTR, SETXATTR = 0x80086601, 0x40086602, 0x801c581f, 0x401c5820
SYNC, IMMUTABLE, APPEND, NOATIME, JDATA, TOPDIR = 8, 0x10, 0x20, 0x80, 0x4000, 0x20000
NOREPLACE, EXCHANGE = 1, 2
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


def system(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def fallocate(fd, mode, offset, length):
    system(LIBC.fallocate(fd, mode, offset, length))


def renameat2(old, new, flags):
    system(LIBC.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags))


def with_fd(path, function, *args):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return function(fd, *args)
    finally:
        os.close(fd)


def getflags(path):
    def get(fd):
        flags = array.array("L", [0])
        fcntl.ioctl(fd, GETFLAGS, flags)
        return flags[0] & 0xffffffff
    return with_fd(path, get)


def setflags(path, flags):
    with_fd(path, lambda fd: fcntl.ioctl(fd, SETFLAGS, array.array("L", [flags])))


def settled_free(m):
    """Blocks that are free, once whatever was deleted is gone."""
    write_file(m / "settle", b"", sync=True)
    return os.statvfs(m).f_bfree


def direct_write(fd, data, offset):
    with Aligned(data) as view:
        equal(os.pwritev(fd, [view], offset), len(data), "direct write")


def direct_read(fd, length, offset):
    with Aligned(length) as view:
        got = os.preadv(fd, [view], offset)
        return bytes(view[:got])


def case_random_ranges():
    """Writes, direct writes, preallocation and holes at random, against a model."""
    for bs in (512, 4096):
        volume = Volume(size="96M", bs=bs, junk=True)
        mount = volume.mount()
        rnd = random.Random(SEED + bs)
        size, model = 6 << 20, bytearray(6 << 20)
        fd = os.open(mount / "f", os.O_RDWR | os.O_CREAT)
        direct = os.open(mount / "f", os.O_RDWR | os.O_DIRECT)
        os.ftruncate(fd, size)
        memory = mmap.mmap(fd, size)
        for number in range(250):
            offset = rnd.randrange(size - 1)
            length = min(rnd.choice([1, 100, 4096, 5000, 100000, 900000]), size - offset)
            what = rnd.randrange(7)
            if what == 0:
                fallocate(fd, rnd.choice([0, KEEP]), offset, length)
            elif what in (1, 2):
                fallocate(rnd.choice([fd, direct]), PUNCH | KEEP, offset, length)
                model[offset:offset + length] = bytes(length)
            elif what == 3:
                offset, length = offset & ~4095, max(length & ~4095, 4096)
                length = min(length, size - offset)
                data = rnd.randbytes(length)
                direct_write(direct, data, offset)
                model[offset:offset + length] = data
            elif what == 4:
                data = rnd.randbytes(length)
                memory[offset:offset + length] = data
                memory.flush()
                model[offset:offset + length] = data
            elif what == 5:
                data = rnd.randbytes(length)
                os.pwrite(fd, data, offset)
                model[offset:offset + length] = data
            else:
                offset &= ~4095
                length = min(max(length & ~4095, 4096), size - offset)
                check(direct_read(direct, length, offset) == model[offset:offset + length],
                      f"step {number}: direct read at {offset}")
            check(os.pread(fd, length, offset) == model[offset:offset + length],
                  f"step {number}: kind {what} at {offset}, {length} bytes")
            check(memory[offset:offset + length] == model[offset:offset + length],
                  f"step {number}: kind {what} at {offset}, {length} bytes, mapped")
        memory.flush()
        check_seek(fd, size, model)
        equal(os.fstat(fd).st_size, size, "size")
        memory.close()
        os.close(fd)
        os.close(direct)
        mount.umount()
        volume.fsck()
        with volume.mount() as mount:
            check(read_file(mount / "f") == model, "after a remount")
            free = settled_free(mount)
            blocks = os.stat(mount / "f").st_blocks * 512 // bs
            os.unlink(mount / "f")
            wait_for(lambda: os.statvfs(mount).f_bfree == free + blocks, "every block to be free again")
        volume.fsck()


def check_seek(fd, size, model):
    """What is said to be a hole is zero; every byte is either in data or in a hole."""
    pos, holes = 0, 0
    while pos < size:
        try:
            data = os.lseek(fd, pos, os.SEEK_DATA)
        except OSError as error:
            equal(error.errno, errno.ENXIO, "errno of SEEK_DATA")
            data = size
        check(not model[pos:data].strip(b"\0"), f"data at {pos} are not found")
        holes += data - pos
        if data == size:
            break
        pos = os.lseek(fd, data, os.SEEK_HOLE)
        check(pos > data, "SEEK_HOLE stands still")
    check(holes or b"\0" * 100000 not in model, "there is no hole at all")
    expect_errno(errno.ENXIO, os.lseek, fd, size, os.SEEK_DATA)
    expect_errno(errno.ENXIO, os.lseek, fd, size, os.SEEK_HOLE)


def case_modes():
    volume = Volume(size="64M")
    with volume.mount() as m:
        fd = os.open(m / "f", os.O_RDWR | os.O_CREAT)
        for mode in (PUNCH, COLLAPSE, ZERO, ZERO | KEEP, INSERT, UNSHARE):
            expect_errno(errno.EOPNOTSUPP, fallocate, fd, mode, 0, 4096)
        expect_errno(errno.EINVAL, fallocate, fd, 0, 0, 0)
        expect_errno(errno.EFBIG, fallocate, fd, 0, (1 << 63) - 1, 1)
        before = os.stat(m / "f").st_mtime_ns
        fallocate(fd, KEEP, 0, 1 << 20)
        state = os.fstat(fd)
        equal((state.st_size, state.st_blocks >= 2048), (0, True), "KEEP_SIZE")
        fallocate(fd, 0, 5, 1 << 20)
        equal(os.fstat(fd).st_size, (1 << 20) + 5, "size after fallocate")
        check(os.fstat(fd).st_mtime_ns >= before, "mtime")
        # Behind the end: the file does not grow.
        fallocate(fd, PUNCH | KEEP, 1 << 20, 1 << 30)
        equal(os.fstat(fd).st_size, (1 << 20) + 5, "size after a hole behind the end")
        read_only = os.open(m / "f", os.O_RDONLY)
        expect_errno(errno.EBADF, fallocate, read_only, 0, 0, 4096)
        os.close(read_only)
        # The last byte of all.
        os.ftruncate(fd, (1 << 63) - 1)
        equal(os.fstat(fd).st_size, (1 << 63) - 1, "the greatest size")
        os.pwrite(fd, b"x", (1 << 63) - 2)
        equal(os.pread(fd, 1, (1 << 63) - 2), b"x", "the last byte")
        os.close(fd)
        # Whatever is copied by the kernel itself.
        write_file(m / "src", pattern(300000, 1))
        src, dst = os.open(m / "src", os.O_RDONLY), os.open(m / "dst", os.O_RDWR | os.O_CREAT)
        equal(os.copy_file_range(src, dst, 200000, 50000, 70000), 200000, "copy_file_range")
        equal(os.pread(dst, 200000, 70000), pattern(300000, 1)[50000:250000], "copied")
        equal(os.sendfile(dst, src, 0, 100000), 100000, "sendfile")
        equal(os.pread(dst, 100000, 0), pattern(300000, 1)[:100000], "sent")
        os.close(src)
        os.close(dst)
    volume.fsck()


def case_preallocated_direct():
    """Preallocated blocks take direct writes without falling back; what lies beside them stays zero."""
    need_fuse()
    volume = Volume(size="64M", junk=True)
    with volume.mount() as m:
        fd = os.open(m / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        fallocate(fd, 0, 0, 8 << 20)
        with Trace(m) as trace:
            direct_write(fd, b"d" * 65536, 1 << 20)
        names = [event["event"] for event in trace.events]
        check("dio_hole" not in names and "dio_buffered" not in names, f"fell back: {names}")
        equal(direct_read(fd, 8 << 20, 0),
              bytes(1 << 20) + b"d" * 65536 + bytes((7 << 20) - 65536), "contents")
        os.close(fd)
    volume.fsck()


def fill(m, bs, rnd, direct):
    """Use what there is, by different ways, until nothing fits any more; the paths."""
    data = rnd.randbytes(1 << 20)
    paths = []
    for length in (1 << 20, 60000, bs):
        path = m / f"fill{len(paths)}"
        paths.append(path)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_DIRECT if direct and length == 1 << 20 else 0))
        except OSError as error:
            equal(error.errno, errno.ENOSPC, "errno of open on a full volume")
            paths.pop()
            continue
        end = 0
        try:
            while True:
                if direct and length == 1 << 20:
                    direct_write(fd, data, end)
                    end += length
                else:
                    end += os.pwrite(fd, data[:length], end)
        except OSError as error:
            equal(error.errno, errno.ENOSPC, "errno")
        size = os.fstat(fd).st_size
        check(end <= size, "what was written is there")
        back = os.open(path, os.O_RDONLY)
        for at in range(0, end, length):
            want = data[:min(length, end - at)]
            check(os.pread(back, len(want), at) == want, "contents on a full volume")
        os.close(back)
        os.close(fd)
    return paths


def case_exact_to_the_block():
    """Where a write needs one block, as many succeed as statfs says are free, in a file and as names; not one more, not one less."""
    for bs in (512, 4096):
        volume = Volume(size="40M" if bs > 512 else "32M", bs=bs)
        with volume.mount() as m:
            # Holes between blocks whose pointers have one tree of indirect blocks already, more of them than will be free.
            many = 300
            holes = os.open(m / "holes", os.O_RDWR | os.O_CREAT)
            for number in range(many + 2):
                os.pwrite(holes, b"d" * bs, 2 * number * bs)
            os.fsync(holes)
            fd = os.open(m / "rest", os.O_RDWR | os.O_CREAT)
            size = 0
            while (over := os.statvfs(m).f_bfree - many) > 0:
                # Indirect blocks come with it, a few.
                piece = max(over // 2, 1) * bs
                fallocate(fd, 0, size, piece)
                size += piece
            os.fsync(fd)
            for turn in range(3):
                free = settled_free(m)
                check(many // 2 < free <= many, f"{free} blocks are free to begin with")
                written = 0
                try:
                    while written <= many:
                        os.pwrite(holes, b"h" * bs, (2 * written + 1) * bs)
                        written += 1
                except OSError as error:
                    equal(error.errno, errno.ENOSPC, "errno")
                equal(written, free, f"blocks of {bs}, turn {turn}: writes of a block each where so many are free")
                equal(os.statvfs(m).f_bfree, 0, f"blocks of {bs}, turn {turn}: free blocks of a full volume")
                # What is given back is there at once, and only that.
                for number in range(0, written, turn + 1):
                    fallocate(holes, PUNCH | KEEP, (2 * number + 1) * bs, bs)
                equal(settled_free(m), len(range(0, written, turn + 1)), f"blocks of {bs}, turn {turn}: blocks given back")
                for number in range(written):
                    fallocate(holes, PUNCH | KEEP, (2 * number + 1) * bs, bs)
                equal(settled_free(m), free, f"blocks of {bs}, turn {turn}: free blocks in the end")
            os.close(holes)
            os.close(fd)
        volume.fsck()


MAKERS = {"file": lambda p: os.close(os.open(p, os.O_CREAT | os.O_WRONLY)), "dir": os.mkdir, "link": lambda p: os.symlink("target", p)}
LEFT = 12    # blocks of a full volume, at most


def unlink_all(paths):
    for path in paths:
        (os.rmdir if os.path.isdir(path) and not os.path.islink(path) else os.unlink)(path)


def grow_directories(m):
    """Give them every name that they will have: a directory that has grown for one does not shrink."""
    paths = [m / f"fill{number}" for number in range(3)] + [m / "d/renamed"]
    for path in paths:
        write_file(path, b"")
    for kind, make in MAKERS.items():
        for number in range(LEFT):
            paths.append(m / f"d/{kind}{number}")
            make(paths[-1])
    unlink_all(paths)


def case_filled_twenty_times():
    """Filled to the last block and emptied: all blocks are back, every time."""
    for bs in (512, 1024, 2048, 4096):
        fill_and_empty(bs)


def fill_and_empty(bs):
    volume = Volume(size="40M" if bs > 512 else "32M", bs=bs)
    rnd = random.Random(SEED)
    with volume.mount() as m:
        os.mkdir(m / "d")
        grow_directories(m)
    # What was removed is gone with the mount, and not a moment later.
    with volume.mount() as m:
        free = settled_free(m)
        for turn in range(20):
            what = f"blocks of {bs}, turn {turn}"
            paths = fill(m, bs, rnd, turn % 2)
            left = os.statvfs(m).f_bfree
            check(left < LEFT, f"{what}: {left} blocks are left of a full volume")
            # nothing is left for names either
            made = []
            for kind, make in MAKERS.items():
                try:
                    for number in range(1000):
                        path = m / f"d/{kind}{number}"
                        make(path)
                        made.append(path)
                    check(False, f"a thousand of {kind} on a full volume")
                except OSError as error:
                    equal(error.errno, errno.ENOSPC, f"errno of {kind} on a full volume")
            if len(made) > 1:
                os.rename(made[0], m / "d/renamed")
                os.rename(m / "d/renamed", made[0])
            # inside of what is there, writing goes on
            fd = os.open(paths[0], os.O_RDWR)
            equal(os.pwrite(fd, b"x" * bs, 0), bs, "overwriting on a full volume")
            if turn == 0:
                expect_errno(errno.ENOSPC, fallocate, fd, 0, 0, 1 << 30)
            os.close(fd)
            unlink_all(made + paths)
            wait_for(lambda: os.statvfs(m).f_bfree >= free, f"{what}: all of {free} blocks to be free again")
            equal(os.statvfs(m).f_bfree, free, f"{what}: free blocks")
    volume.fsck()


def case_flags():
    """chattr's flags, and what they forbid."""
    volume = Volume(size="64M")
    run(["tunegfs2", "-o", "locktable=some:label", volume.path])
    with volume.mount() as m:
        write_file(m / "f", b"0123456789")
        os.mkdir(m / "d")
        write_file(m / "d/f", b"")
        for flag in (SYNC, IMMUTABLE, APPEND, NOATIME, JDATA):
            setflags(m / "f", flag)
            equal(getflags(m / "f"), flag, "flags of a file")
        setflags(m / "f", 0)
        for flag in (SYNC, IMMUTABLE, APPEND, NOATIME, JDATA, TOPDIR):
            setflags(m / "d", flag)
            equal(getflags(m / "d"), flag, "flags of a directory")
        setflags(m / "d", 0)
        expect_errno(errno.EINVAL, setflags, m / "f", TOPDIR)
        expect_errno(errno.EINVAL, setflags, m / "f", 0x40)    # no dump
        expect_errno(errno.ENOTTY, with_fd, m / "f", fcntl.ioctl, 0x5401, bytes(100))
        ctime = os.stat(m / "f").st_ctime_ns
        wait_for(lambda: (setflags(m / "f", NOATIME), setflags(m / "f", 0),
                          os.stat(m / "f").st_ctime_ns)[2] > ctime, "ctime to move")

        # the other interface
        def fsx(fd, xflags=None, projid=0):
            if xflags is None:
                return array.array("I", fcntl.ioctl(fd, GETXATTR, bytes(28)))[0]
            return fcntl.ioctl(fd, SETXATTR, array.array("I", [xflags, 0, 0, projid, 0, 0, 0]).tobytes())
        with_fd(m / "f", fsx, 0x10)
        equal(getflags(m / "f"), APPEND, "FS_XFLAG_APPEND as a flag")
        equal(with_fd(m / "f", fsx), 0x10, "FSGETXATTR")
        with_fd(m / "f", fsx, 0)
        expect_errno(errno.EOPNOTSUPP, with_fd, m / "f", fsx, 1)
        # FS_IOC_GETFSLABEL: the lock table
        for name in ("f", "d"):
            label = with_fd(m / name, fcntl.ioctl, 0x81009431, bytes(256))
            equal(label.rstrip(b"\0"), b"some:label", "FS_IOC_GETFSLABEL")

        opened = os.open(m / "f", os.O_RDWR)
        setflags(m / "f", IMMUTABLE)
        for flags in (os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDONLY | os.O_TRUNC):
            expect_errno(errno.EPERM, os.open, m / "f", flags)
        expect_errno(errno.EPERM, os.truncate, m / "f", 3)
        expect_errno(errno.EPERM, os.unlink, m / "f")
        expect_errno(errno.EPERM, os.rename, m / "f", m / "g")
        expect_errno(errno.EPERM, os.rename, m / "d/f", m / "f")
        expect_errno(errno.EPERM, os.link, m / "f", m / "g")
        expect_errno(errno.EPERM, os.chmod, m / "f", 0o600)
        expect_errno(errno.EPERM, os.chown, m / "f", 1, 1)
        expect_errno(errno.EPERM, os.utime, m / "f", (1, 1))
        expect_errno(errno.EPERM, fallocate, opened, 0, 0, 100)
        expect_errno(errno.EPERM, fallocate, opened, PUNCH | KEEP, 0, 100)
        os.close(opened)
        equal(read_file(m / "f"), b"0123456789", "what may not change")

        setflags(m / "f", APPEND)
        expect_errno(errno.EPERM, os.open, m / "f", os.O_RDWR)
        expect_errno(errno.EPERM, os.open, m / "f", os.O_RDWR | os.O_APPEND | os.O_TRUNC)
        expect_errno(errno.EPERM, os.truncate, m / "f", 3)
        expect_errno(errno.EPERM, os.unlink, m / "f")
        fd = os.open(m / "f", os.O_RDWR | os.O_APPEND)
        os.write(fd, b"more")
        expect_errno(errno.EPERM, os.ftruncate, fd, 3)
        expect_errno(errno.EPERM, fallocate, fd, PUNCH | KEEP, 0, 4)
        # O_APPEND taken away: the daemon sees to it
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        expect_errno(errno.EPERM, os.pwrite, fd, b"XX", 0)
        expect_errno(errno.ENODEV if TARGET == "fuse" else errno.EACCES, mmap.mmap, fd, 10)
        os.close(fd)
        fd = os.open(m / "f", os.O_WRONLY | os.O_APPEND | os.O_DIRECT)
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
        expect_errno(errno.EPERM, direct_write, fd, bytes(512), 0)
        os.close(fd)
        equal(read_file(m / "f"), b"0123456789more", "appended to")
        setflags(m / "f", 0)

        for flag in (IMMUTABLE, APPEND):
            setflags(m / "d", flag)
            expect_errno(errno.EPERM, os.unlink, m / "d/f")
            expect_errno(errno.EPERM, os.rename, m / "d/f", m / "x")
            expect_errno(errno.EPERM, os.rename, m / "d", m / "x")
            expect_errno(errno.EPERM, os.rmdir, m / "d")
            if flag == IMMUTABLE:
                for call in (lambda p: os.open(p, os.O_CREAT | os.O_WRONLY), os.mkdir, os.mkfifo):
                    expect_errno(errno.EPERM, call, m / "d/new")
                expect_errno(errno.EPERM, os.rename, m / "f", m / "d/new")
                expect_errno(errno.EPERM, os.link, m / "f", m / "d/new")
            else:
                os.mkdir(m / "d/new")
                os.link(m / "f", m / "d/new2")
        setflags(m / "d", 0)
        setflags(m / "f", SYNC)
        write_file(m / "f", b"synchronous")
        # another user's file, another user's flags
        os.chmod(m.dir, 0o755)
        os.chmod(workdir(), 0o711)
        run([sys.executable, "-c", f"""
import array, errno, fcntl, os
fd = os.open({str(m / "f")!r}, os.O_RDONLY)
os.setuid(65534)
try:
    fcntl.ioctl(fd, {SETFLAGS}, array.array("L", [0]))
except OSError as error:
    assert error.errno == errno.EPERM, error
else:
    raise SystemExit("allowed")
"""])
    volume.fsck()
    with volume.mount() as m:
        equal((getflags(m / "f"), getflags(m / "d")), (SYNC, 0), "flags after a remount")


@for_each_size(1024, 4096)
def case_jdata(bs):
    """Journaled files: written, mapped, cut, freed; the flag taken and given with data in place."""
    volume = Volume(size="96M", bs=bs, junk=True)
    mount = volume.mount()
    os.mkdir(mount / "j")
    setflags(mount / "j", JDATA)
    write_file(mount / "j/f", b"")
    os.mkdir(mount / "j/sub")
    equal((getflags(mount / "j/f"), getflags(mount / "j/sub")), (JDATA, JDATA), "inherited")
    expect_errno(errno.EINVAL, os.open, mount / "j/f", os.O_RDWR | os.O_DIRECT)
    fd = os.open(mount / "j/f", os.O_RDWR)
    expect_errno(errno.EOPNOTSUPP, fallocate, fd, 0, 0, 4096)
    expect_errno(errno.EOPNOTSUPP, fallocate, fd, PUNCH | KEEP, 0, 4096)
    rnd, size = random.Random(SEED), 2 << 20
    model = bytearray(size)
    os.ftruncate(fd, size)
    memory = mmap.mmap(fd, size)
    journaled = True
    for number in range(120):
        offset = rnd.randrange(size - 1)
        data = rnd.randbytes(min(rnd.choice([1, 1000, 4096, 60000]), size - offset))
        what = rnd.randrange(6)
        if what == 0:
            memory[offset:offset + len(data)] = data
            memory.flush()
        elif what < 4:
            # what looks like metadata must survive the log
            data = (b"\x01\x16\x19\x70" + data)[:len(data)]
            os.pwrite(fd, data, offset)
        elif what == 4:
            os.ftruncate(fd, offset)
            os.ftruncate(fd, size)
            data = bytes(size - offset)
        else:
            data = b""
            if number % 3 == 0:
                journaled = not journaled
                setflags(mount / "j/f", JDATA if journaled else 0)
                if not journaled:
                    direct = os.open(mount / "j/f", os.O_RDWR | os.O_DIRECT)
                    offset, data = offset & ~4095, rnd.randbytes(4096)
                    direct_write(direct, data, offset)
                    os.close(direct)
        model[offset:offset + len(data)] = data
        if number % 20 == 0:
            os.fsync(fd)
    check(os.pread(fd, size, 0) == model, "contents")
    memory.close()
    os.close(fd)
    setflags(mount / "j/f", JDATA)
    with open(mount / "j/f", "r+b", buffering=0) as file:
        file.write(b"journaled")
        os.fsync(file.fileno())
    model[:9] = b"journaled"
    mount.kill()
    mount = volume.mount()
    check(read_file(mount / "j/f") == model, "contents after a crash")
    os.unlink(mount / "j/f")
    mount.umount()
    volume.fsck()


def case_open_flags():
    volume = Volume(size="64M")
    with volume.mount() as m:
        # Several processes append at once, buffered and directly: nothing is lost, nothing is torn.
        for direct in (0, os.O_DIRECT):
            path = m / f"append{bool(direct)}"
            write_file(path, b"")
            script = f"""
import mmap, os, sys
fd = os.open({str(path)!r}, os.O_WRONLY | os.O_APPEND | {direct})
memory = mmap.mmap(-1, 4096)
memory[:] = sys.argv[1].encode() * 4096
for _ in range(50):
    assert os.writev(fd, [memory]) == 4096
"""
            running = [subprocess.Popen([sys.executable, "-c", script, letter]) for letter in "abc"]
            equal([process.wait() for process in running], [0, 0, 0], "the appending programs")
            data = read_file(path)
            equal(len(data), 3 * 50 * 4096, "appended bytes")
            blocks = [data[at:at + 4096] for at in range(0, len(data), 4096)]
            check(all(block == block[:1] * 4096 for block in blocks), "a torn append")
            equal(sorted(set(block[:1] for block in blocks)), [b"a", b"b", b"c"], "who appended")
        # O_APPEND by F_SETFL.
        fd = os.open(m / "f", os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.write(fd, b"0123456789")
        os.lseek(fd, 0, os.SEEK_SET)
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
        os.write(fd, b"ab")
        equal(os.pread(fd, 20, 0), b"0123456789ab", "appended after F_SETFL")
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        # O_DIRECT by F_SETFL, on and off, while another descriptor has pages in the cache.
        other = os.open(m / "f", os.O_RDWR)
        os.pwrite(other, b"p" * 65536, 0)
        equal(os.pread(other, 65536, 0), b"p" * 65536, "cached")
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
        direct_write(fd, b"d" * 4096, 4096)
        equal(os.pread(other, 12288, 0), b"p" * 4096 + b"d" * 4096 + b"p" * 4096, "after F_SETFL O_DIRECT")
        if TARGET == "fuse":
            with Aligned(512) as view:
                expect_errno(errno.EINVAL, os.preadv, fd, [view], 100)
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        os.pwrite(fd, b"odd", 4097)
        equal(os.pread(other, 5, 4096), b"doddd", "O_DIRECT taken back")
        os.close(fd)
        fd = os.open(m / "f", os.O_RDWR | os.O_DIRECT)
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        os.pwrite(fd, b"ODD", 8193)
        equal(os.pread(other, 5, 8192), b"pODDp", "opened with O_DIRECT, without it now")
        equal(os.pread(fd, 5, 8192), b"pODDp", "the same from the writer")
        os.close(fd)
        # O_TRUNC, O_EXCL, O_TMPFILE (gfs2 has none).
        os.close(os.open(m / "f", os.O_RDWR | os.O_TRUNC))
        equal(os.fstat(other).st_size, 0, "O_TRUNC")
        os.close(other)
        expect_errno(errno.EEXIST, os.open, m / "f", os.O_CREAT | os.O_EXCL | os.O_RDWR)
        if TARGET != "ext4":
            expect_errno(errno.EOPNOTSUPP, os.open, m.dir, os.O_TMPFILE | os.O_RDWR)
        # RWF_DSYNC, RWF_APPEND, O_SYNC
        fd = os.open(m / "f", os.O_RDWR | os.O_SYNC)
        os.pwritev(fd, [b"one"], 0, os.RWF_DSYNC)
        os.pwritev(fd, [b"two"], 0, os.RWF_APPEND)
        equal(os.pread(fd, 10, 0), b"onetwo", "RWF_APPEND")
        os.close(fd)
    volume.fsck()


def written(path, flags, *more):
    """100 bytes left alone, 3000 written."""
    fd = os.open(path, os.O_WRONLY | flags)
    os.pwritev(fd, [b"new" * 1000], 100, *more)
    return fd


def by_dsync(path):
    os.close(written(path, os.O_DSYNC))


def by_rwf(path):
    os.close(written(path, 0, os.RWF_DSYNC))


def by_flag(path):
    setflags(path, SYNC)
    os.close(written(path, 0))


def by_direct_and_flag(path):
    """Into blocks that were allocated, but not committed, before the flag was set."""
    data = read_file(path)
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    fallocate(fd, 0, 0, 16384)
    setflags(path, SYNC)
    direct_write(fd, data[:100] + b"new" * 1000 + data[3100:8192], 0)
    os.close(fd)


def by_msync(path):
    fd = os.open(path, os.O_RDWR)
    memory = mmap.mmap(fd, 8192)
    memory[100:3100] = b"new" * 1000
    memory.flush()
    memory.close()
    os.close(fd)


def by_fallocate(path):
    os.close(written(path, 0))
    fd = os.open(path, os.O_WRONLY | os.O_DSYNC)
    fallocate(fd, 0, 0, 100000)
    os.close(fd)


def case_sync_survives():
    """What O_DSYNC, RWF_DSYNC, the flag S and msync promise is there after the daemon was killed."""
    need_fuse()
    volume = Volume(size="64M")
    # One by one: each would make durable what came before it.
    for way in (by_dsync, by_rwf, by_flag, by_direct_and_flag, by_msync, by_fallocate):
        mount = volume.mount("commit=600")
        path = mount / way.__name__
        size = {by_fallocate: 100000, by_direct_and_flag: 16384}.get(way, 8192)
        write_file(path, b"-" * 8192, sync=True)
        way(path)
        mount.kill()
        with volume.mount() as mount:
            equal(read_file(mount / way.__name__),
                  b"-" * 100 + b"new" * 1000 + b"-" * 5092 + bytes(size - 8192), way.__name__)
    volume.fsck()


@for_each_size(512, 4096)
def case_rename_flags(bs):
    volume = Volume(size="64M", bs=bs)
    with volume.mount() as m:
        for name in ("a", "b"):
            os.makedirs(m / f"{name}/dir/sub")
            write_file(m / f"{name}/file", name.encode())
        expect_errno(errno.EEXIST, renameat2, m / "a/file", m / "b/file", NOREPLACE)
        expect_errno(errno.EEXIST, renameat2, m / "a/dir", m / "b/dir", NOREPLACE)
        expect_errno(errno.EEXIST, renameat2, m / "a/file", m / "a/file", NOREPLACE)
        renameat2(m / "a/file", m / "b/free", NOREPLACE)
        renameat2(m / "b/free", m / "a/file", NOREPLACE)
        expect_errno(errno.ENOENT, renameat2, m / "a/file", m / "b/none", EXCHANGE)
        expect_errno(errno.EINVAL, renameat2, m / "a/file", m / "b/file", EXCHANGE | NOREPLACE)
        expect_errno(errno.EINVAL, renameat2, m / "a/file", m / "b/file", 4)    # whiteout
        expect_errno(errno.EINVAL, renameat2, m / "a", m / "a/dir/sub", EXCHANGE)
        expect_errno(errno.EINVAL, renameat2, m / "a/dir/sub", m / "a", EXCHANGE)
        # files
        renameat2(m / "a/file", m / "b/file", EXCHANGE)
        equal((read_file(m / "a/file"), read_file(m / "b/file")), (b"b", b"a"), "exchanged files")
        # a directory and a file, across directories
        renameat2(m / "a/dir", m / "b/file", EXCHANGE)
        equal(read_file(m / "a/dir"), b"a", "the file where the directory was")
        equal(os.listdir(m / "b/file"), ["sub"], "the directory where the file was")
        equal((os.stat(m / "a").st_nlink, os.stat(m / "b").st_nlink), (2, 4), "link counts of the parents")
        equal(os.stat(m / "b/file/..").st_ino, os.stat(m / "b").st_ino, "..")
        # two directories
        os.mkdir(m / "a/d2")
        renameat2(m / "a/d2", m / "b/file", EXCHANGE)
        equal((os.listdir(m / "a/d2"), os.listdir(m / "b/file")), (["sub"], []), "exchanged directories")
        equal(os.stat(m / "a/d2/..").st_ino, os.stat(m / "a").st_ino, ".. of the one")
        equal(os.stat(m / "b/file/..").st_ino, os.stat(m / "b").st_ino, ".. of the other")
        # in one directory
        renameat2(m / "b/dir", m / "b/file", EXCHANGE)
        equal(os.listdir(m / "b/file"), ["sub"], "exchanged in one directory")
        expect_errno(errno.ENOTEMPTY, os.rename, m / "a/d2", m / "b/file")
        # hard links of one file
        os.link(m / "a/file", m / "b/link")
        renameat2(m / "a/file", m / "b/link", EXCHANGE)
        os.rename(m / "a/file", m / "b/link")
        equal(os.stat(m / "a/file").st_nlink, 2, "both names are there")
    volume.fsck()


def case_locks():
    """flock, fcntl and open-file-description locks among the processes of this node."""
    volume = Volume(size="64M")
    script = """
import errno, fcntl, struct, sys
kind, path = sys.argv[1:]
file = open(path, "r+b")
def refused(call, *args):
    try:
        call(*args)
    except OSError as error:
        assert error.errno in (errno.EAGAIN, errno.EACCES), error
        return True
    return False
nb = fcntl.LOCK_EX | fcntl.LOCK_NB
if kind == "flock":
    sys.exit(not refused(fcntl.flock, file, nb))
if kind == "posix":
    ok = refused(fcntl.lockf, file, nb, 10, 0)
    fcntl.lockf(file, nb, 10, 50)
    sys.exit(not ok)
whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 10, 0)
sys.exit(not refused(fcntl.fcntl, file, fcntl.F_OFD_SETLK, whole))
"""
    with volume.mount() as m:
        write_file(m / "f", bytes(100))

        def other(kind):
            return run([sys.executable, "-c", script, kind, m / "f"], ok=None).returncode

        with open(m / "f", "r+b") as file:
            equal([other(kind) for kind in ("flock", "posix", "ofd")], [1, 1, 1], "nobody has a lock")
            fcntl.flock(file, fcntl.LOCK_EX)
            equal(other("flock"), 0, "flock")
            fcntl.flock(file, fcntl.LOCK_UN)
            fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)
            equal((other("posix"), other("ofd")), (0, 0), "a POSIX lock")
            fcntl.lockf(file, fcntl.LOCK_UN, 10, 0)
            fcntl.fcntl(file, 37, __import__("struct").pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 10, 0))
            equal((other("posix"), other("ofd")), (0, 0), "a lock of the open file")
        equal([other(kind) for kind in ("flock", "posix", "ofd")], [1, 1, 1], "all are gone with the file")
    volume.fsck()


def case_beyond_the_end():
    """A mapping has SIGBUS beyond the end of the file, also when the end moved."""
    volume = Volume(size="64M")
    with volume.mount() as m:
        write_file(m / "f", b"x" * 20000)
        done = run([sys.executable, "-c", f"""
import mmap, os
fd = os.open({str(m / "f")!r}, os.O_RDWR)
memory = mmap.mmap(fd, 20000)
assert memory[19999] == 120
os.ftruncate(fd, 5000)
assert memory[4999] == 120 and memory[5000] == 0
memory[10000]
"""], ok=None)
        equal(done.returncode, -signal.SIGBUS, "a look beyond the end")
    volume.fsck()


main()
