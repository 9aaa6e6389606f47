#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: thousands of system calls in as many circumstances (who, on what, with which flags), each as on tmpfs
# timeout: 240
# variants: plain asan
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from calls import differences    # noqa: E402
from testlib import *    # noqa: E402

CALLS = os.path.join(ROOT, "tests", "lib", "calls.py")
# What is different from tmpfs and is meant to be: (circumstances, what we say, why).
MEANT = [
    (r"open: tmpfile d", "EOPNOTSUPP", "gfs2 has no O_TMPFILE"),
    (r"file: .* list: ", r"\['trusted\.x'\]", "gfs2 lists trusted.* for everybody"),
    (r"symlink: [34]...: ", "ENAMETOOLONG", "the target must fit into the dinode"),
    (r"chown: reg member .[^ ]* \(-1, -1\): ", r"ok 10[246]", "FUSE does not tell a chown that sets nothing from what comes before a write; nothing is done"),
    (r"write: .* other [26]767: ", " 102767 ", "setgid without the group's x: FUSE leaves it (FUSE_HANDLE_KILLPRIV_V2)"),
    (r"times: move a directory: ", "full/dir=mc", "gfs2 changes its '..', and so its mtime"),
    (r"flag: file ", None, "each file system has flags of its own"),
    (r"flag: [12]0 [24]777 ", "EPERM", "whose mode cannot change keeps setuid and setgid, and is not written by who would take them; tmpfs takes them"),
    (r"flag: owner sets 8: ", "ok", "the flag S"),
    (r"limit: keep size: ", "ok: 1000", "no file of a size that the limit forbids; ext4 and gfs2 allow it, too"),
]


def calls(directory):
    os.mkdir(directory)
    os.chmod(directory, 0o755)
    done = run([sys.executable, "-B", CALLS, directory], timeout=STEP_SECONDS * 2)
    return done.stdout


def case_as_on_tmpfs():
    need_fuse()
    reference = temp("reference")
    os.mkdir(reference)
    run(["mount", "-t", "tmpfs", "none", reference])
    try:
        os.mkdir(f"{reference}/try")
        try:
            os.setxattr(f"{reference}/try", "user.x", b"x")
        except OSError:
            skip("the tmpfs of this kernel (before 6.6) has no user.*")
        want = calls(f"{reference}/w")
    finally:
        run(["umount", reference])
    volume = Volume(size="256M", bs=random.choice([1024, 4096]))
    with volume.mount() as mount:
        got = calls(mount / "w")
    volume.fsck()
    faults = differences(got, want, MEANT, 5500)
    check(not faults, "\n".join(faults[:20]))


main()
