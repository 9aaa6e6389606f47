#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: memory stays within cache=, large trees, directories, files and volumes: unpacked, listed, cut, removed, nothing lost
# timeout: 240
# alone: yes
import ctypes
import os
import resource
import sys
import tarfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

TARBALL = "/usr/src/linux-source-6.1.tar.xz"
TENTH = 8300        # members of the archive
STEP = 1200         # the whole tree, on a slow machine
MIB = 1 << 20


def stats(mount):
    lines = mount.glockctl("get", "stats").stdout.splitlines()
    return {name: int(value) for name, value in (line.split() for line in lines)}


def peak(mount):
    """The most memory that the daemon ever had resident, in MiB."""
    with open(f"/proc/{mount.daemon.pid}/status") as status:
        return int(re.search(r"^VmHWM:\s+(\d+) kB", status.read(), re.M)[1]) / 1024


def free(mount):
    state = os.statvfs(mount)
    return state.f_bfree, state.f_ffree


def processor_seconds(pid):
    with open(f"/proc/{pid}/stat") as text:
        fields = text.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def source_tree():
    """The Linux sources, a tenth of them in an ordinary run, in a directory of its own."""
    if not os.path.exists(TARBALL):
        skip("the package linux-source-6.1 is not installed")
    where = temp("source")
    os.mkdir(where)
    if FULL:
        run(["tar", "-C", where, "-xf", TARBALL], timeout=STEP)
        return where
    with tarfile.open(TARBALL, "r|xz") as archive:
        for number, member in enumerate(archive):
            archive.extract(member, where)
            if number == TENTH:
                break
    return where


def walk(directory):
    """Stat everything; how many there are."""
    count = 0
    for where, directories, files in os.walk(directory):
        for name in directories + files:
            os.lstat(os.path.join(where, name))
            count += 1
    return count



def same_tree(source, mount, when):
    done = run(["diff", "-r", "--no-dereference", source, mount / "tree"], timeout=STEP, ok=None)
    check(done.returncode == 0, f"{when}: {done.stdout[:2000]}")


def kernel_agrees(source, volume):
    sys.path.insert(0, os.path.join(ROOT, "tests", "uml"))
    import umltest
    try:
        umltest.uml.find_linux(1)
    except umltest.uml.Unavailable as reason:
        log(f"without the kernel's gfs2: {reason}")
        return
    found = umltest.uml.volume.kernel_read(volume.path)
    want = umltest.host_manifest(source)
    mine = {line.split("\t", 1)[0]: line for line in want.splitlines()}
    theirs = [line for line in found.splitlines() if line.startswith("./tree/")]
    check(len(theirs) >= len(mine) - 1, "the kernel sees as many names")
    for line in theirs:
        name = "." + line.split("\t", 1)[0][len("./tree"):]
        # type, mode, owner, size and checksum; the times are the copy's
        equal(line.split("\t")[-1], mine[name].split("\t")[-1], f"{name} as the kernel reads it")


def tree(limit, *options):
    source = source_tree()
    names = walk(source)
    volume = Volume(size="4G" if FULL else "768M", journal_mib=128 if FULL else 32)
    with volume.mount() as mount:
        os.mkdir(mount / "keep")
    mount = volume.mount(*options)
    before = free(mount)
    os.mkdir(mount / "tree")
    pack = subprocess.Popen(["tar", "-C", source, "-cf", "-", "."], stdout=subprocess.PIPE)
    run_from(pack, ["tar", "-C", mount / "tree", "-xf", "-"])
    equal(walk(mount / "tree"), names, "names in the tree")
    seen = stats(mount)
    log(f"{options}: {peak(mount):.1f} MiB at most, {seen['inodes']} inodes in core, "
        f"{seen['inode_remnants']} reduced, {seen['glocks']} locks, {seen['cache_used'] >> 20} MiB of buffers")
    if not os.environ.get("ASAN_OPTIONS"):
        check(peak(mount) <= limit, f"{peak(mount):.1f} MiB resident, {limit} are allowed")
    if options:     # not more than the kernel still knows, which is nearly all
        check(seen["inode_remnants"] > names // 10, "inodes have been reduced")
    same_tree(source, mount, "unpacked")
    mount.umount()
    volume.fsck()

    mount = volume.mount(*options)
    same_tree(source, mount, "after a remount")
    if FULL:
        # The kernel gives its inodes back: the reduced ones, too.
        with open("/proc/sys/vm/drop_caches", "w") as drop:
            drop.write("2")
        wait_for(lambda: stats(mount)["inodes"] + stats(mount)["inode_remnants"] < names // 2,
                 "the kernel to forget")
        mount.umount()
        kernel_agrees(source, volume)
        mount = volume.mount(*options)
    run(["rm", "-r", mount / "tree"], timeout=STEP)
    equal(os.listdir(mount), ["keep"], "what is left")
    wait_for(lambda: free(mount) == before, f"all blocks to come back ({before})")
    if not os.environ.get("ASAN_OPTIONS"):
        check(peak(mount) <= limit, f"{peak(mount):.1f} MiB resident, {limit} are allowed")
    mount.umount()
    volume.fsck()


def run_from(source, argv):
    done = subprocess.run([str(word) for word in argv], stdin=source.stdout, timeout=STEP,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    source.stdout.close()
    source.wait()
    check(done.returncode == 0, f"{argv}: {done.stdout}")


def case_tree_small_cache():
    need_fuse()
    # A tenth of the tree leaves fewer holes and remnants.
    limit = 64 if FULL else 48
    tree(limit, f"cache={limit}M")


def case_tree_default():
    need_fuse()
    if not FULL:
        skip("a tenth of the tree does not reach the default limits")
    tree(256)


def case_directory():
    """Many entries: made, listed while others come and go, removed."""
    many = 200000 if FULL else 12000
    volume = Volume(size="2G" if FULL else "256M")
    mount = volume.mount()
    before = free(mount)
    os.mkdir(mount / "d")
    d = os.open(mount / "d", os.O_RDONLY)
    for number in range(many):
        os.mknod(f"stay{number}", dir_fd=d)
    for number in range(many // 20):
        os.mknod(f"go{number}", dir_fd=d)
    seen, changes = {}, 0
    with os.scandir(mount / "d") as entries:
        for entry in entries:
            seen[entry.name] = seen.get(entry.name, 0) + 1
            if len(seen) % 40 == 0 and changes < many // 20:
                os.unlink(f"go{changes}", dir_fd=d)
                os.mknod(f"new{changes}", dir_fd=d)
                changes += 1
    check(changes > many // 50, "the directory changed meanwhile")
    equal([name for name, times in seen.items() if times != 1][:10], [], "names that were listed twice")
    equal([number for number in range(many) if f"stay{number}" not in seen][:10], [],
          "names that were there all the time and were not listed")
    os.close(d)
    mount.umount()
    volume.fsck()
    mount = volume.mount()
    equal(len(os.listdir(mount / "d")), many + many // 20, "entries after a remount")
    run(["rm", "-r", mount / "d"], timeout=STEP)
    wait_for(lambda: free(mount) == before, f"all blocks to come back ({before})")
    mount.umount()
    volume.fsck()


def punch(path, offset, length):
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDWR)
    try:
        # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        if libc.fallocate(fd, 3, ctypes.c_longlong(offset), ctypes.c_longlong(length)):
            raise OSError(ctypes.get_errno(), "fallocate")
    finally:
        os.close(fd)


def case_scattered_file():
    """8 TiB of apparent size with blocks all over it, punched, cut and removed."""
    rng = random.Random(SEED)
    size = 8 << 40
    pieces = sorted({rng.randrange(size >> 12) << 12 for _ in range(4000 if FULL else 600)})
    volume = Volume(size="512M")
    mount = volume.mount()
    before = free(mount)
    path = mount / "f"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, size)
    for offset in pieces:
        os.pwrite(fd, pattern(512, offset), offset)
    os.fsync(fd)

    def compare(live, when):
        for offset in pieces:
            want = pattern(512, offset) if live(offset) else bytes(512)
            got = os.pread(fd, 512, offset)
            equal(got, want[:len(got)], f"{when}: at {offset}")
            if offset + 512 <= os.fstat(fd).st_size:
                equal(len(got), 512, f"{when}: length at {offset}")

    compare(lambda offset: True, "written")
    occupied = os.fstat(fd).st_blocks
    low, high = 1 << 40, 5 << 40
    punch(path, low, high - low)
    compare(lambda offset: not low <= offset < high, "punched")
    check(os.fstat(fd).st_blocks < occupied * 3 // 4, "punching gives blocks back")
    os.ftruncate(fd, 6 << 40)
    os.ftruncate(fd, size)
    compare(lambda offset: offset < low or high <= offset < 6 << 40, "cut and grown")
    os.close(fd)
    mount.umount()
    volume.fsck()
    mount = volume.mount()
    path = mount / "f"
    fd = os.open(path, os.O_RDWR)
    compare(lambda offset: offset < low or high <= offset < 6 << 40, "after a remount")
    os.close(fd)
    os.unlink(path)
    wait_for(lambda: free(mount) == before, f"all blocks to come back ({before})")
    mount.umount()
    volume.fsck()


def case_not_cached_by_the_kernel():
    """An append-only file opened for writing is read through the daemon's own cache, with read-ahead."""
    need_fuse()
    volume = Volume(size="256M")
    with volume.mount() as mount:
        data = pattern(4 * MIB, SEED)
        path = mount / "log"
        write_file(path, data, sync=True)
        run(["chattr", "+a", path])
        fd = os.open(path, os.O_RDWR | os.O_APPEND)

        def device_reads(piece):
            before = stats(mount)["io_reads"]
            got = b"".join(os.pread(fd, piece, offset) for offset in range(0, len(data), piece))
            check(got == data, f"contents read in pieces of {piece}")
            return stats(mount)["io_reads"] - before

        device_reads(4096)
        direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
        with Aligned(len(data)) as buffer:
            equal(os.preadv(direct, [buffer], 0), len(data), "a direct read")
            check(bytes(buffer) == data, "contents read directly")
        os.close(direct)
        first = device_reads(4096)
        check(first < 60, f"{first} device reads for {len(data) // 4096} blocks in a row")
        equal(device_reads(10000), 0, "device reads for what is cached")
        more = pattern(5000, SEED + 1)
        os.write(fd, more)
        data += more
        device_reads(4096)
        os.fsync(fd)
        device_reads(4096)
        os.close(fd)
        run(["chattr", "-a", path])
    volume.fsck()


def forgotten_at_once(many, delay_us):
    """(threads before, at most) while many FORGETs wait; None if what they wait for came too early."""
    volume = Volume(size="256M", mkfs=("-r", "512"))
    with volume.mount() as mount:
        before = free(mount)
        os.mkdir(mount / "d")
        for number in range(many):
            os.mknod(mount / f"d/f{number}")
    # Zeros are written under the lock of the resource group, of which there is one.
    mount = volume.mount(f"fault=op=write:cls=data:delay_us={delay_us}:count=1")

    def threads():
        with open(f"/proc/{mount.daemon.pid}/status") as status:
            return int(re.search(r"^Threads:\s+(\d+)", status.read(), re.M)[1])

    # Of these the daemon is not told, so there are no RELEASEs among the FORGETs.
    fds = [os.open(mount / f"d/f{number}", os.O_PATH) for number in range(many)]
    for number in range(many):
        os.unlink(mount / f"d/f{number}")
    os.rmdir(mount / "d")
    idle = most = threads()
    busy = subprocess.Popen(["fallocate", "-l", "8M", mount / "busy"])

    def done():
        nonlocal most
        most = max(most, threads())
        return busy.poll() is not None

    wait_for(lambda: done() or stats(mount)["io_injected"], "the zeros to be written")
    for fd in fds:
        os.close(fd)
    in_time = not done()
    wait_for(done, "the file to be allocated")
    equal(busy.returncode, 0, "exit status of fallocate")
    os.unlink(mount / "busy")
    wait_for(lambda: free(mount) == before, f"all blocks to come back ({before})")
    mount.umount()
    volume.fsck()
    return (idle, most) if in_time else None


def case_many_forgotten_at_once():
    """The kernel bounds the number of requests, but not that of FORGETs; here each deletes a file, for which it has to wait."""
    need_fuse()
    many = 4000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, many + 100), hard), hard))
    found = None
    for delay_us in (1000000, 5000000, 25000000):
        found = found or forgotten_at_once(many, delay_us)
    check(found, "the files were not closed within 25 s")
    idle, most = found
    log(f"{idle} threads, {most} at most")
    # 32 for FORGETs, and some of io_uring's own; there would be 120 and more, since the kernel sends some dozens in a request.
    check(most <= idle + 60, f"{most} threads, {idle} before")


def case_large_volume():
    """Mounting reads what it needs, not every bitmap there is."""
    need_fuse()
    volume = Volume(size="15T" if FULL else "1500G", journal_mib=32, mkfs=("-r", "2048"))
    with volume.mount() as mount:
        used, read = processor_seconds(mount.daemon.pid), stats(mount)["io_read_bytes"]
        log(f"mounted with {used} s of processor time, {read >> 20} MiB read, {peak(mount):.1f} MiB of memory")
        check(used < 1 or os.environ.get("ASAN_OPTIONS"), f"mounting took {used} s of processor time")
        check(read < 48 * MIB, f"mounting read {read >> 20} MiB")
        write_file(mount / "file", pattern(3 * MIB, SEED), sync=True)
        os.mkdir(mount / "d")
        for number in range(200):
            os.mkdir(mount / f"d/{number}")
            write_file(mount / f"d/{number}/f", b"x" * 5000)
        # New directories are spread; still only some of the groups were looked at.
        check(stats(mount)["io_read_bytes"] - read < 64 * MIB, "allocating read too much")
    with volume.mount() as mount:
        equal(read_file(mount / "file"), pattern(3 * MIB, SEED), "contents")
        equal(len(os.listdir(mount / "d")), 200, "directories")
    if FULL:
        volume.fsck()


main()
