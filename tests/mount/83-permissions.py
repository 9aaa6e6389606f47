#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: the kernel of a node asks its copy of the attributes who may do what; where another node has changed them since, the daemon refuses
# timeout: 120
"""Two mounts of one volume with lock_local: root is on node a, a user on node b."""
import contextlib
import json
import os
import select
import struct
import sys
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from randomops import RENAME_EXCHANGE, renameat2    # noqa: E402
from testlib import *    # noqa: E402

UID = GID = 1000
FS_IOC_SETFLAGS, FS_SYNC_FL = 0x40086602, 8


@contextlib.contextmanager
def nodes():
    os.chmod(workdir(), 0o755)
    volume = Volume(journals=2, proto="lock_dlm", table="test:vol", size="64M")
    a, b = [volume.mount("lockproto=lock_local", "control=" + temp(f"control.{name}")) for name in "ab"]
    os.chmod(a / ".", 0o755)
    yield a, b
    for m in (a, b):
        m.umount()
    volume.fsck()


def attempt(call, *args):
    """"done", or the name of the error."""
    try:
        call(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"


class User:
    """A process of the user that calls functions one after the other, each with what the first one has returned."""

    def __init__(self, first, *calls):
        self.go, self.said = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self.go[1])
                os.close(self.said[0])
                os.setgroups([])
                os.setresgid(GID, GID, GID)
                os.setresuid(UID, UID, UID)
                what = first()
                os.write(self.said[1], b"ready\n")
                for call in calls:
                    if not os.read(self.go[0], 1):
                        break
                    os.write(self.said[1], attempt(call, what).encode() + b"\n")
            finally:
                os._exit(0)
        os.close(self.go[0])
        os.close(self.said[1])
        self.lines = os.fdopen(self.said[0])
        equal(self.lines.readline(), "ready\n", "the user's first call")

    def start(self):
        os.write(self.go[1], b"x")

    def result(self):
        return self.lines.readline().strip()

    def has_said(self):
        """Something that nobody has asked for yet; or it has ended."""
        return select.select([self.lines], [], [], 0)[0]

    def next(self):
        self.start()
        return self.result()

    def end(self):
        os.waitpid(self.pid, 0)
        self.lines.close()
        os.close(self.go[1])


def acl():
    entries = ((1, 7, 0xffffffff), (2, 7, UID), (4, 7, 0xffffffff), (16, 7, 0xffffffff), (32, 7, 0xffffffff))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def image(path):
    st = os.stat(path)
    return oct(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns, os.listxattr(path)


OWNERS = {
    "fchmod": lambda fd: os.fchmod(fd, 0o4777),
    "fchown of the group": lambda fd: os.fchown(fd, -1, GID),
    "fchown to himself": lambda fd: os.fchown(fd, UID, -1),
    "times": lambda fd: os.utime(fd, (1, 1)),
    "an ACL": lambda fd: os.setxattr(fd, "system.posix_acl_access", acl()),
    "flags": lambda fd: fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("<q", FS_SYNC_FL)),
}


def case_owner_changed_elsewhere():
    """A file that the user has open is given to somebody else on the other node: what is its owner's is his no more, at once."""
    with nodes() as (a, b):
        os.mkdir(a / "d")
        os.chmod(a / "d", 0o777)
        # What only needs a descriptor for writing, or comes along with a write, goes on.
        others = {"write": lambda fd: os.pwrite(fd, b"more", 100), "truncate": lambda fd: os.ftruncate(fd, 50),
                  "datasync": os.fdatasync}
        user = User(lambda: os.open(b / "d/f", os.O_CREAT | os.O_RDWR, 0o755), *OWNERS.values(), *others.values(), *list(OWNERS.values())[:4])
        os.chown(a / "d/f", 0, 0)
        before = image(a / "d/f")
        for name in OWNERS:
            equal(user.next(), "EPERM", name)
            equal(image(a / "d/f"), before, f"after {name}")
        for name in others:
            equal(user.next(), "done", name)
        equal(image(a / "d/f")[:3], before[:3], "after the others")
        equal(os.stat(b / "d/f").st_size, 50, "size")
        os.chown(a / "d/f", UID, GID)
        os.stat(b / "d/f")      # the kernel is to know of it, too
        for name in list(OWNERS)[:4]:
            equal(user.next(), "done", f"the owner again: {name}")
        user.end()


def case_owner_changed_before_it_is_read():
    """The same where the daemon has not looked at the new file again meanwhile, and where the user has no more than a path to it."""
    with nodes() as (a, b):
        os.mkdir(a / "d")
        os.chmod(a / "d", 0o777)
        by_path = lambda fd: os.chmod(f"/proc/self/fd/{fd}", 0o4777)    # noqa: E731
        user = User(lambda: os.open(b / "d/f", os.O_CREAT | os.O_RDONLY, 0o755), OWNERS["fchmod"])
        other = User(lambda: (os.close(os.open(b / "d/g", os.O_CREAT | os.O_RDONLY, 0o755)), os.open(b / "d/g", os.O_PATH))[1], by_path)
        for name, who in (("f", user), ("g", other)):
            os.chown(a / f"d/{name}", 0, 0)
            equal(who.next(), "EPERM", f"fchmod of {name}")
            equal(image(a / f"d/{name}")[:3], ("0o100755", 0, 0), name)
            who.end()


def case_group_changed_elsewhere():
    """setgid is for the group's members: of the group that it is now."""
    with nodes() as (a, b):
        os.mkdir(a / "d")
        os.chmod(a / "d", 0o777)
        user = User(lambda: os.open(b / "d/f", os.O_CREAT | os.O_RDWR, 0o755), lambda fd: os.fchmod(fd, 0o2775),
                    lambda fd: os.fchmod(fd, 0o2755), lambda fd: os.setxattr(fd, "system.posix_acl_access", acl()))
        equal(user.next(), "done", "fchmod")
        equal(image(a / "d/f")[0], "0o102775", "in his own group")
        os.chown(a / "d/f", -1, 0)
        equal(user.next(), "done", "fchmod")
        equal(image(a / "d/f")[:3], ("0o100755", UID, 0), "in root's group")
        os.chmod(a / "d/f", 0o2755)
        equal(user.next(), "done", "an ACL")
        equal(image(a / "d/f")[:3], ("0o100777", UID, 0), "in root's group, by an ACL")
        user.end()


def case_capabilities():
    """Who may because of a capability, and is not root, may as long as no other node has changed the owner."""
    with nodes() as (a, b):
        write_file(a / "f", b"root's")

        def chmod(mode):
            return run(["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--inh-caps=+fowner", "--ambient-caps=+fowner",
                        "chmod", f"{mode:o}", b / "f"], ok=(0, 1)).returncode

        equal(chmod(0o640), 0, "chmod with CAP_FOWNER")
        os.chown(b / "f", 2, 2)
        equal(chmod(0o644), 0, "chmod with CAP_FOWNER after a chown on the same node")
        equal(oct(os.stat(a / "f").st_mode), "0o100644", "mode")
        os.chown(a / "f", 0, 0)
        equal(chmod(0o600), 1, "chmod with CAP_FOWNER after a chown on the other node")
        equal(oct(os.stat(a / "f").st_mode), "0o100644", "mode")
        os.chmod(b / "f", 0o600)
        equal(oct(os.stat(a / "f").st_mode), "0o100600", "root's chmod")


def case_sticky_directory():
    """
    The user's name is looked up, and while the kernel waits for its attributes root on the other node puts a file of his in its place.  The user
    may remove his own files, not root's.
    """
    calls = {
        "unlink": (False, lambda d: os.unlink(d / "x")),
        "rmdir": (True, lambda d: os.rmdir(d / "x")),
        "rename of it": (False, lambda d: os.rename(d / "x", d / "z")),
        "rename over it": (False, lambda d: os.rename(d / "own", d / "x")),
        "exchange of it": (False, lambda d: renameat2(d / "own", d / "x", RENAME_EXCHANGE)),
        "exchange with it": (False, lambda d: renameat2(d / "x", d / "own", RENAME_EXCHANGE)),
    }
    with nodes() as (a, b):
        control = Control(b)
        for name, (directory, call) in calls.items():
            where = name.replace(" ", "_")
            ours, theirs = a / where, Path(b / where)
            os.mkdir(ours)
            os.chmod(ours, 0o1777)
            make = os.mkdir if directory else lambda path: write_file(path, b"mine")
            make(ours + "/root")
            user = User(lambda make=make, theirs=theirs: (make(theirs / "own"), make(theirs / "x"), theirs)[2], call)
            inode = os.stat(ours + "/x").st_ino
            os.utime(ours + "/x")       # the lock is on node a
            control("break", "-1", f"inode:{inode}", "*->*")
            user.start()
            control("wait", "60")
            root = os.stat(ours + "/root").st_ino
            os.rename(ours + "/x", ours + "/away")
            os.rename(ours + "/root", ours + "/x")
            control("continue")
            equal(user.result(), "EPERM", name)
            equal(os.stat(ours + "/x").st_ino, root, f"after {name}: root's file")
            user.end()
        control.close()


def case_sticky_directory_given_away():
    """`user.` attributes of a sticky directory are for its owner, of other directories for all who may write there."""
    with nodes() as (a, b):
        for mode, says in ((0o1777, "EPERM"), (0o777, "done")):
            ours, theirs = a / f"d{mode:o}", Path(b / f"d{mode:o}")
            os.mkdir(ours)
            os.chown(ours, UID, GID)
            os.chmod(ours, mode)
            user = User(lambda theirs=theirs: (os.stat(theirs), os.open(theirs, os.O_RDONLY))[1],
                        lambda fd: os.setxattr(fd, "user.first", b"1"), lambda fd: os.setxattr(fd, "user.second", b"2"),
                        lambda fd: os.removexattr(fd, "user.first"))
            equal(user.next(), "done", "its owner")
            os.chown(ours, 0, 0)
            equal(user.next(), says, f"{mode:o}: setxattr after it was given to root")
            equal(user.next(), says, f"{mode:o}: removexattr")
            equal(os.listxattr(ours), ["user.first"] if says == "EPERM" else ["user.second"], "attributes")
            user.end()


def case_created_elsewhere():
    """open(O_CREAT) of a name that the other node has just made is an open as any other: it asks for permission, and O_TRUNC cuts."""
    with nodes() as (a, b):
        os.mkdir(a / "d")
        os.chmod(a / "d", 0o777)

        def use():
            seen, end = {}, time.monotonic() + 4
            while time.monotonic() < end:
                flags = os.O_EXCL if sum(seen.values()) % 4 == 0 else os.O_TRUNC
                try:
                    fd = os.open(b / "d/x", os.O_CREAT | os.O_RDWR | flags, 0o644)
                    st = os.fstat(fd)
                    what = f"own {st.st_mode:o}" if st.st_uid else f"root's {st.st_mode:o} {os.read(fd, 20)}"
                    os.close(fd)
                except OSError as error:
                    what = errno.errorcode[error.errno] + (" EXCL" if flags == os.O_EXCL else "")
                seen[what] = seen.get(what, 0) + 1
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(b / "d/x")
            write_file(b / "d/seen", json.dumps(seen).encode())

        user = User(lambda: None, lambda _: use())
        user.start()
        turn = 0
        while not user.has_said():
            turn += 1
            write_file(a / "d/y", b"of root")
            os.chmod(a / "d/y", (0o600, 0o666)[turn % 2])
            os.rename(a / "d/y", a / "d/x")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(a / "d/x")
        equal(user.result(), "done", "the user")
        user.end()
        seen = json.loads(read_file(a / "d/seen"))
        log(f"{turn} files of root's, the user's opens: {seen}")
        # ESTALE: twice in a row another node made the name between the kernel's look and its request.
        good = {"own 100644", "EACCES", "EEXIST EXCL", "root's 100666 b''", "ESTALE"}
        check(set(seen) <= good, f"what came of open(O_CREAT): {seen}")


if __name__ == "__main__":
    main()
