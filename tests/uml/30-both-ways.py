#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: what we wrote the kernel's gfs2 reads the same, what it wrote we read the same; each replays the other's journal
# timeout: 600
import importlib.util
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from umltest import *    # noqa: E402
from testlib import *    # noqa: E402

import journal    # noqa: E402
import ranges    # noqa: E402
from tree import make_tree, make_xattrs    # noqa: E402

spec = importlib.util.spec_from_file_location("random80", os.path.join(ROOT, "tests", "mount", "80-random.py"))
random80 = importlib.util.module_from_spec(spec)
spec.loader.exec_module(random80)

SCALE = 1.0 if FULL else 0.15
# block sizes, rounds, steps of each worker
RANDOM = ((random.Random(SEED).choice((512, 4096)),), 1, 150) if not FULL else ((512, 1024, 2048, 4096), 3, 800)


def no_rdev(manifest):
    """Kernel 6.1 forgets device numbers: after a remount it shows its own nodes as 0:0, too (an
    inode is not new any more when its dinode is read). On disk they are right, as our mount shows."""
    return re.sub(r"^([^\t]*\t(?:blk|chr)\t.*\t)[0-9]+:[0-9]+$", r"\1-", manifest, flags=re.M)


def same_but_rdev(got, want, what):
    same(no_rdev(got), no_rdev(want), what)


def no_root(manifest):
    """Without the root's line, whose time has changed."""
    return re.sub(r"^\./\t.*\n", "", manifest)


def ours(image):
    """The manifest of an image as our daemon shows it."""
    with image.mount("ro") as mount:
        return host_manifest(mount.dir)


def equal_below(manifest, got, want):
    """Two trees in one manifest must be equal."""
    def below(name):
        return "\n".join(line.replace(f"./{name}", ".", 1) for line in manifest.splitlines()
                         if re.match(rf"\./{name}[/\t]", line))
    check(len(below(want).splitlines()) > 50, "there is something to compare")
    same(below(got), below(want), f"{got}, as {want}")


def change_xattrs(top):
    """Change and remove attributes that somebody else wrote, and files that have some."""
    for number, path in enumerate(sorted(os.path.join(top, "many", name)
                                         for name in os.listdir(os.path.join(top, "many")))):
        for name in os.listxattr(path)[::2]:
            os.setxattr(path, name, b"changed" * (number * 40))
        for name in os.listxattr(path)[1::3]:
            os.removexattr(path, name)
    for path in sorted(os.listdir(os.path.join(top, "values")))[::2]:
        os.unlink(os.path.join(top, "values", path))


def ranges_on(node, *words):
    """tests/lib/ranges.py on a node."""
    program = os.path.join(ROOT, "tests", "lib", "ranges.py")
    return node.run(["/usr/bin/python3", "-I", "-S", program, *map(str, words)], check=True).out


def case_ours_read_by_the_kernel():
    with uml.Cluster() as c:
        c.up(1, images=None)
        node = c.node(1)
        for bs in (4096, 512, 1024, 2048):
            image = volume(bs=bs)
            with image.mount() as mount:
                make_tree(str(mount / "tree"), SEED + bs, SCALE)
                make_xattrs(str(mount / "xattrs"), SEED + bs, SCALE)
                # deleted and written again: freed blocks, old journal images, long extents
                make_tree(str(mount / "gone"), SEED + bs + 1, SCALE / 4)
                run(["rm", "-rf", mount / "gone"])
                write_file(mount / "large", pattern(40 << 20, SEED), sync=True)
                if bs in (512, 4096):
                    ranges.make(mount / "ranges", SEED + bs)
                    shown = ranges.show(mount / "ranges")
                wanted = host_manifest(mount.dir)
            check(len(wanted.splitlines()) > 200, "there is something to compare")
            image.fsck()
            same_but_rdev(uml.volume.kernel_read(image.path, node), wanted, f"block size {bs}, the kernel")
            # The kernel goes on with it: its own allocations, deletions, a clean unmount.
            same_but_rdev(uml.volume.kernel_read(image.path, node, readonly=False), wanted, "read-write")
            if bs in (512, 4096):
                # Flags, blocks and holes; and the kernel can change and remove such files.
                with uml.volume.kernel_mount(node, image.path) as directory:
                    same(ranges_on(node, "show", directory + "/ranges"), shown, f"ranges, block size {bs}")
                    ranges_on(node, "free", directory + "/ranges")
                    node.run(["rm", "-r", directory + "/ranges"], check=True)
                image.fsck()
                wanted = re.sub(r"^\./ranges.*\n", "", wanted, flags=re.M)
            same(no_root(ours(image)), no_root(wanted), f"block size {bs}, ours after the kernel's")


def case_the_kernels_read_by_us():
    with uml.Cluster() as c:
        c.up(1, images=None)
        node = c.node(1)
        for bs in (4096, 1024):
            image = volume(bs=bs)
            with uml.volume.kernel_mount(node, image.path) as directory:
                node.run(["/usr/bin/python3", "-B", os.path.join(ROOT, "tests", "lib", "tree.py"),
                          directory + "/tree", str(SEED), str(SCALE / 2)], check=True)
                node.run(["/usr/bin/python3", "-B", os.path.join(ROOT, "tests", "lib", "tree.py"),
                          directory + "/xattrs", str(SEED), str(SCALE), "xattrs"], check=True)
                ranges_on(node, "make", directory + "/ranges", SEED)
                shown = ranges_on(node, "show", directory + "/ranges")
                wanted = uml.volume.manifest(node, directory)
            image.fsck()
            same(ours(image), wanted, f"block size {bs}")
            # and we go on with it; attributes and ACLs come out as the kernel's did
            with image.mount() as mount:
                make_xattrs(str(mount / "xattrs2"), SEED, SCALE)
                equal_below(host_manifest(mount.dir), "xattrs2", "xattrs")
                change_xattrs(mount / "xattrs")
                same(ranges.show(mount / "ranges"), shown, f"ranges, block size {bs}")
                ranges.free(mount / "ranges")
                make_tree(str(mount / "more"), SEED + 7, SCALE / 4)
                run(["rm", "-rf", mount / "tree", mount / "ranges"])
                wanted = host_manifest(mount.dir)
            image.fsck()
            same_but_rdev(uml.volume.kernel_read(image.path, node), wanted, f"block size {bs}, after ours")


def case_random_run_read_by_the_kernel():
    """What random calls have left, compared with tmpfs by us and with us by the kernel: names, contents, attributes, links, xattrs."""
    sizes, rounds, steps = RANDOM
    with uml.Cluster() as c:
        c.up(1, images=None)
        node = c.node(1)
        for bs in sizes:
            image = volume(bs=bs, junk=False)
            reference = temp("reference")
            os.mkdir(reference)
            # Where this test's files are otherwise, extended attributes may have less room.
            run(["mount", "-t", "tmpfs", "none", reference])
            for number in range(rounds):
                with image.mount() as mount:
                    faults = random80.work(mount, reference, number, f"{SEED}/{bs}", steps)
                    faults += random80.compare(mount.dir, reference)
                    wanted = host_manifest(mount.dir)
                check(not faults, f"block size {bs}, GFS2_TEST_SEED={SEED}:\n" + "\n".join(faults))
                image.fsck()
                check(len(wanted.splitlines()) > 10, "there is something to compare")
                same_but_rdev(uml.volume.kernel_read(image.path, node), wanted, f"block size {bs}, GFS2_TEST_SEED={SEED}")
            run(["umount", reference])
            os.rmdir(reference)
            image.remove()


def fill(mount, bs):
    """Every block of a mount into files of its top directory, the last 200 one by one; what was written into these."""
    # Holes between blocks whose pointers have their indirect blocks already.
    many = 200
    with open(mount / "holes", "wb", buffering=0) as holes:
        for number in range(2 * many):
            os.pwrite(holes.fileno(), pattern(bs, number), 2 * number * bs)
        os.fsync(holes.fileno())
        with open(mount / "rest", "wb", buffering=0) as rest:
            size = 0
            while (over := os.statvfs(mount).f_bfree - many) > 0:
                # Indirect blocks come with it, a few.
                piece = max(over // 2, 1) * bs
                ranges.fallocate(rest.fileno(), 0, size, piece)
                size += piece
            os.pwrite(rest.fileno(), b"end", size - 3)
        free, written = os.statvfs(mount).f_bfree, 0
        check(many // 2 < free <= many, f"{free} blocks are free to begin with")
        try:
            while written <= many:
                os.pwrite(holes.fileno(), pattern(bs, -written), (2 * written + 1) * bs)
                written += 1
        except OSError as error:
            equal(error.errno, errno.ENOSPC, "errno")
        equal(written, free, "writes of a block each where so many are free")
        equal(os.statvfs(mount).f_bfree, 0, "free blocks of a full volume")


def case_grown_and_given_journals():
    """gfs2_grow and gfs2_jadd work on a mount of the kernel's; what they made is ours to use, to the last block and journal."""
    image = volume(size="320M", bs=1024)
    with image.mount() as mount:
        write_file(mount / "before", pattern(1 << 20, SEED), sync=True)
        small = os.statvfs(mount).f_blocks
    os.truncate(image.path, 600 << 20)
    # What our recoveries write beside the block counts is nobody else's business; as much as there is room for.
    journal.leave_marks(image.path, range(100, 116))
    left = journal.marks(image.path)
    with uml.Cluster() as c:
        c.up(1, images=None)
        node = c.node(1)
        with uml.volume.kernel_mount(node, image.path) as directory:
            log(node.run(["gfs2_grow", directory], check=True).out)
            log(node.run(["gfs2_jadd", "-j", "2", "-J", "32", directory], check=True).out)
    image.fsck()
    equal((len(left), journal.marks(image.path)), (16, left), "marks beside the block counts")
    with image.mount() as mount:
        state = os.statvfs(mount)
        check(state.f_blocks > small + (200 << 10), f"{state.f_blocks} blocks, {small} before")
        equal(read_file(mount / "before"), pattern(1 << 20, SEED), "what was there")
        fill(mount, 1024)
        wanted = host_manifest(mount.dir)
    image.fsck()
    check(os.stat(image.path).st_blocks * 512 > 500 << 20, "the new part is in use")
    with image.mount() as mount:
        equal(os.statvfs(mount).f_bfree, 0, "free blocks after a remount")
        same(host_manifest(mount.dir), wanted, "after a remount")
        os.unlink(mount / "holes")
        os.unlink(mount / "rest")
        wait_for(lambda: os.statvfs(mount).f_bfree == state.f_bfree, "all blocks to be free again")
    image.fsck()
    # The new journals, too: a second and a third node get them, and one that is left dirty is replayed.
    shared = ("lockproto=lock_local", "locktable=test:grown")
    with image.mount(*shared) as one, image.mount(*shared) as two:
        three = image.mount(*shared)
        equal([jid_of(m) for m in (one, two, three)], [0, 1, 2], "journals of the three")
        write_file(two / "second", pattern(1 << 20, SEED), sync=True)
        for number in range(50):
            write_file(three / f"third{number}", pattern(1000 * number, number), sync=True)
        three.kill()
        for number in range(50):
            same_data(read_file(one / f"third{number}"), pattern(1000 * number, number), f"file {number} of the node that died")
        check("jid=2: replayed the journal" in one.messages() + two.messages(), "the third journal needed a replay")
        equal(read_file(one / "second"), pattern(1 << 20, SEED), "what the second node wrote")
    equal([head.clean for _, head, _ in journal.journals(image.path)], [True] * 3, "journals that are clean")
    image.fsck()


def case_our_journal_replayed_by_the_kernel():
    image = volume()
    journal.leave_marks(image.path, [0])
    left = journal.marks(image.path)
    mount = image.mount()
    for number in range(300):
        directory, name = mount / f"d{number % 7}", f"f{number}"
        os.makedirs(directory, exist_ok=True)
        write_file(os.path.join(directory, name), pattern(100 * number, number), sync=True)
        if number % 3 == 0:
            os.rename(os.path.join(directory, name), mount / f"moved{number}")
    fd = os.open(mount.dir, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    wanted = host_manifest(mount.dir)
    mount.kill()
    check(uml.volume.is_dirty(image.path), "the journal needs replay")
    same_but_rdev(uml.volume.kernel_read(image.path, readonly=False), wanted, "replayed by the kernel")
    image.fsck()
    equal(journal.marks(image.path), left, "marks beside the block counts")


def case_the_kernels_journal_replayed_by_us():
    image = volume()
    journal.leave_marks(image.path, [1, 0])
    with uml.Cluster() as c:
        c.up(1, images=None)
        acknowledged = uml.volume.leave_dirty(image.path, c.node(1))
    check(uml.volume.is_dirty(image.path), "the journal needs replay")
    check(acknowledged, "there is something to find again")
    equal([number for number, _, _ in journal.marks(image.path)], [1, 0], "marks beside the block counts")
    (_, head, _), = journal.journals(image.path)
    with image.mount() as mount:
        found = host_manifest(mount.dir)
    equal([number for number, _, _ in journal.marks(image.path)], [1] if any(head.counts) else [1, 0], "marks after the replay")
    missing = [name for name, digest in acknowledged
               if not re.search(r"^\./%s\t.*\t%s$" % (re.escape(name), digest), found, re.M)]
    equal(missing, [], "fsynced files that are not there")
    image.fsck()


def case_every_journal_is_replayed():
    """A node with journal 1 lost its power; we mount with journal 0, as the first mounter."""
    image = volume(journals=2)
    with uml.Cluster() as c:
        c.up(1, images=None)
        node = c.node(1)
        with uml.volume.kernel_mount(node, image.path, options="hostdata=jid=1") as directory:
            with node.spawn(["/usr/bin/python3", "-I", "-S", uml.volume.CHURN, directory]) as churn:
                churn.read_until("ok 50 ")
                node.kill()
                text = churn.out.decode()
    acknowledged = re.findall(r"^ok \d+ (\S+) ([0-9a-f]{64})$", text, re.M)
    check(len(acknowledged) >= 49, "there is something to find again")
    check(uml.volume.is_dirty(image.path), "a journal needs replay")
    with image.mount() as mount:
        found = host_manifest(mount.dir)
    missing = [name for name, digest in acknowledged
               if not re.search(r"^\./%s\t.*\t%s$" % (re.escape(name), digest), found, re.M)]
    equal(missing, [], "fsynced files that are not there")
    check(not uml.volume.is_dirty(image.path), "all journals are clean")
    image.fsck()


need_uml()
main()
