#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: a volume that is no GFS2, is damaged, or asks for what is not supported: a clear error, and not a byte written
# timeout: 180
# variants: plain asan
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

SB = 65536


def refused(volume, *options, words=()):
    """Mounting must fail with mount(8)'s status and a message with one of the words, and leave the bytes alone.  Returns what it said."""
    need_fuse()
    before = volume.sha256()
    where = temp("mnt")
    os.mkdir(where)
    argv = ["-o", ",".join(options)] if options else []
    done = run([gfs2_fuse(), "-f", *argv, volume.path, where], ok=None, timeout=30)
    equal(done.returncode, 32, f"exit status; it said: {done.stdout}")
    check(os.path.basename(volume.path) in done.stdout, f"the message does not name the volume: {done.stdout}")
    check(any(word in done.stdout for word in words) or not words,
          f"the message says none of {words}: {done.stdout}")
    check(not mount_entry(where), "mounted all the same")
    equal(volume.sha256(), before, "the volume's bytes")
    return done.stdout


def patch(volume, offset, data):
    with open(volume.path, "r+b") as image:
        image.seek(offset)
        image.write(data)


def case_not_gfs2():
    for content in (b"", b"\0" * (1 << 20), pattern(1 << 20, 1), b"x"):
        volume = Volume(size="64M")
        write_file(volume.path, content)
        refused(volume)


def case_other_file_system():
    volume = Volume(size="64M")
    run(["mkfs.ext4", "-q", "-F", volume.path])
    refused(volume)


def case_directory_and_others():
    """Neither a file nor a block device."""
    need_fuse()
    where = temp("mnt")
    os.mkdir(where)
    for device in (workdir(), "/dev/null", temp("none")):
        done = run([gfs2_fuse(), "-f", device, where], ok=None, timeout=30)
        check(done.returncode not in (0, 1, None), f"{device}: exit status {done.returncode}")
        check(device in done.stdout, f"the message does not name {device}: {done.stdout}")


def case_superblock_fields():
    """(offset in the superblock, bytes) of what may not be."""
    for offset, data in ((0, b"\0\0\0\0"), (4, struct.pack(">I", 2)),
                         (24, struct.pack(">I", 1800)), (24, struct.pack(">I", 1803)),
                         (28, struct.pack(">I", 1901)), (36, struct.pack(">I", 0)),
                         (36, struct.pack(">I", 3000)), (36, struct.pack(">I", 1 << 31)),
                         (40, struct.pack(">I", 9)),
                         (56, struct.pack(">Q", 1 << 60)), (56, struct.pack(">Q", 0)),
                         (88, struct.pack(">Q", 1 << 60)), (88, struct.pack(">Q", 17)),
                         (96, b"fsck_nolock\0"), (96, b"lock_unknown\0"), (96, b"x" * 64)):
        volume = Volume(size="64M")
        patch(volume, SB + offset, data)
        log("superblock", offset, data[:8].hex())
        refused(volume)
        volume.remove()


def case_truncated_image():
    """An image that was cut: the rindex points beyond its end."""
    for size in (70000, 1 << 20, 32 << 20):
        volume = Volume(size="64M")
        os.truncate(volume.path, size)
        log("cut to", size)
        refused(volume)


def case_damaged_system_files():
    """The blocks of master directory, root and first rgrp, each wiped and each with noise."""
    for field in (56, 88):
        for noise in (bytes(4096), pattern(4096, field), None):
            volume = Volume(size="64M")
            with open(volume.path, "rb") as image:
                image.seek(SB + field)
                block = struct.unpack(">Q", image.read(8))[0]
                image.seek(block * 4096)
                good = image.read(4096)
            patch(volume, block * 4096, good[:24] + pattern(4072, 7) if noise is None else noise)
            log("block", block, "noise" if noise else "header kept" if noise is None else "zeros")
            refused(volume)
            volume.remove()


def entries(volume, block):
    """{name: (offset in the image, formal number, block)} of a directory that fits into its dinode."""
    with open(volume.path, "rb") as image:
        image.seek(block * 4096)
        data = image.read(4096)
    found, at = {}, 232
    while at < 4096:
        formal, number, _hash, length, name_len = struct.unpack_from(">QQIHH", data, at)
        if number:
            found[data[at + 40:at + 40 + name_len].decode()] = (block * 4096 + at, formal, number)
        at += length
    return found


def system_files(volume):
    """{name: (offset of its entry in the image, formal number, block)}; master and root are in the superblock."""
    found = {}
    with open(volume.path, "rb") as image:
        for name, offset in (("master", 48), ("root", 80)):
            image.seek(SB + offset)
            found[name] = (SB + offset, *struct.unpack(">QQ", image.read(16)))
    found.update(entries(volume, found["master"][2]))
    for directory in ("jindex", "per_node"):
        found.update(entries(volume, found[directory][2]))
    return found


def case_one_system_file_under_another_name():
    """Two names lead to one dinode: who has the one locked for as long as the volume is mounted would wait for himself when he meets the other."""
    volume = Volume(size="64M", journals=2)
    files = system_files(volume)
    for name, other in (("statfs_change0", "statfs"), ("statfs", "statfs_change0"), ("statfs_change1", "statfs_change0"),
                        ("quota_change1", "quota_change0"), ("quota_change0", "statfs_change1"), ("journal1", "journal0"),
                        ("statfs", "rindex"), ("statfs", "journal0"), ("statfs_change0", "rindex"), ("statfs_change0", "journal0"),
                        ("statfs_change1", "root"), ("rindex", "statfs"), ("rindex", "inum"), ("quota", "journal1"), ("statfs", "master"),
                        ("journal0", "jindex"), ("root", "master"), ("root", "jindex"), ("root", "journal0")):
        offset, formal, block = files[name]
        log(name, "->", other)
        patch(volume, offset, struct.pack(">QQ", *files[other][1:]))
        said = refused(volume, words=(f"block {files[other][2]} ",))
        check(f"'{name}'" in said.replace("the root directory", "root") and other in said, f"the message does not name both: {said}")
        patch(volume, offset, struct.pack(">QQ", formal, block))
    with volume.mount() as m:
        write_file(m / "f", b"x")
    volume.fsck()


def case_block_counts_elsewhere():
    """The counts are read and written behind the dinode of their file: not of one that has something else there."""
    for name in ("statfs_change0", "statfs"):
        for offset, data in ((56, bytes(8)), (56, struct.pack(">Q", 23)), (138, struct.pack(">H", 1))):
            volume = Volume(size="64M")
            block = system_files(volume)[name][2]
            patch(volume, block * 4096 + offset, data)
            log(name, "in block", block, "offset", offset)
            refused(volume, words=(f"block {block}:",))
            volume.remove()


def case_entries_for_system_files():
    """A name that leads to the root or to a file of the file system's own, some of which the mount keeps locked: EIO, for good."""
    need_fuse()
    volume = Volume(size="64M")
    with volume.mount() as m:
        write_file(m / "f", b"x")
        os.mkdir(m / "d")
    system = {name: inum for name, (_offset, *inum) in system_files(volume).items()}
    master, root = system["master"], system["root"]
    where = entries(volume, root[1])["f"][0]
    with open(volume.path, "rb") as image:
        image.seek(where)
        good = image.read(16)
    for name in ("journal0", "statfs_change0", "statfs", "rindex", "quota", "jindex", "master", "root"):
        log("an entry for", name)
        for call in (["ls", "-l"], ["stat", "f"], ["rm", "f"], ["mv", "f", "d/f"], ["mv", "d", "f"], ["sh", "-c", "echo >f"]):
            if call[0] not in ("ls", "rm") and name not in ("statfs_change0", "root"):
                continue
            patch(volume, where, struct.pack(">QQ", *system[name]))
            m = volume.mount()
            done = run(call, cwd=m.dir, ok=None, timeout=STEP_SECONDS)
            check(done.returncode != 0 and "Input/output error" in done.stdout, f"{call}: {done.returncode} {done.stdout}")
            expect_errno(errno.EIO, os.stat, m / "f")
            check(str(root[1]) in m.messages(), f"the messages do not name the directory's block: {m.messages()}")
            run(["umount", m.dir])
            equal(m.daemon.wait(STEP_SECONDS), 32, "exit status of a daemon that has stopped writing")
            patch(volume, where, good)
        with volume.mount() as m:
            equal(read_file(m / "f"), b"x", "the file")
        volume.fsck()


def case_names_that_nobody_can_have():
    """A slash or a zero byte in a name, in a dinode and in a leaf: the listing says EIO, and the messages in which block."""
    need_fuse()
    volume = Volume(size="64M")
    with volume.mount() as m:
        os.mkdir(m / "small")
        write_file(m / "small/strange-name", b"x")
        os.mkdir(m / "large")
        for number in range(300):
            write_file(m / f"large/strange-name{number}", b"")
    with open(volume.path, "rb") as image:
        data = image.read()
    for directory, name in (("small", b"strange-name"), ("large", b"strange-name77")):
        # Those in the journal, too: it is clean.
        places = [found.start() for found in re.finditer(name + rb"\0", data)]
        for byte in (b"/", b"\0"):
            for at in places:
                patch(volume, at + 3, byte)
            m = volume.mount()
            expect_errno(errno.EIO, os.listdir, m / directory)
            named = re.search(r"block (\d+): directory entry has a name", m.messages())
            check(named and int(named[1]) in [at // 4096 for at in places], f"the block is not named: {m.messages()}")
            run(["umount", m.dir])
            equal(m.daemon.wait(STEP_SECONDS), 32, "exit status of a daemon that has stopped writing")
            m.daemon = None
            for at in places:
                patch(volume, at, name)
    with volume.mount() as m:
        equal(len(os.listdir(m / "large")), 300, "names")
    volume.fsck()


def case_two_files_with_one_indirect_block():
    """Both change it: the second to do so is told, and the lock of the first can be given up (without waiting for ever, busily)."""
    need_fuse()
    volume = Volume(size="64M")
    with volume.mount() as m:
        for name in "ab":
            with open(m / name, "wb") as f:
                f.write(b"A" * 4096)
                f.seek(600 * 4096)
                f.write(b"A" * 4096)
        a, b = (os.stat(m / name).st_ino for name in "ab")
    with open(volume.path, "rb") as image:
        image.seek(a * 4096 + 232)
        pointer = image.read(8)
    for block, durable in ((5, True), (7, False)):
        patch(volume, b * 4096 + 232, pointer)
        m = volume.mount("commit=3600")
        fds = [os.open(m / name, os.O_RDWR) for name in "ab"]
        equal(os.pwrite(fds[0], b"x", block * 4096), 1, "a write to the one file")
        if durable:
            os.fsync(fds[0])
        expect_errno(errno.EIO, os.pwrite, fds[1], b"x", (block + 10) * 4096)
        for fd in fds:
            os.close(fd)
        run([glockctl_program(), "-m", m.dir, "demote", m / "a", "UN"], ok=None, timeout=STEP_SECONDS)
        run(["umount", m.dir])
        equal(m.daemon.wait(STEP_SECONDS), 32, "exit status of a daemon that has stopped writing")
        words = f"block {struct.unpack('>Q', pointer)[0]}:"
        check(words in m.messages(), f"the messages do not say '{words}': {m.messages()}")


def case_cluster_protocols_without_a_cluster():
    """lock_dlm where there is no cluster: an error in time, nothing written."""
    volume = Volume(size="64M", proto="lock_dlm", table="nocluster:fs")
    refused(volume)


main()
