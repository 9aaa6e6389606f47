# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests with User-Mode Linux nodes share. Not a test."""
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tools", "lib"))
import testlib    # noqa: E402
import uml    # noqa: E402

CLUSTER = os.path.join(testlib.ROOT, "tools", "cluster")
# A name of its own: a cluster that somebody uses on this machine is not disturbed.
NAME = "test%d" % os.getpid()
os.environ["GFS2_FUSE_CLUSTER"] = NAME


def need_uml(nodes=1):
    """Ends the program with 77 where so many nodes cannot run."""
    try:
        uml.find_linux(nodes)
    except uml.Unavailable as reason:
        print(reason)
        sys.exit(77)


def cluster(*words, ok=(0,), input=None, timeout=400):
    """Runs tools/cluster; returns the finished process with .stdout and .stderr apart."""
    argv = [CLUSTER] + [str(word) for word in words]
    done = subprocess.run(argv, input=input, capture_output=True, text=True, timeout=timeout)
    if ok is not None and done.returncode not in ok:
        raise AssertionError("%s: exit %d\n%s%s" % (" ".join(argv), done.returncode, done.stdout,
                                                    done.stderr))
    return done


def volume(size="1G", **more):
    """A volume that the kernel in a node may write to."""
    return testlib.Volume(size=size, journal_mib=128, **more)


def journal_of(node):
    """The journal is the DLM's slot, less one; the kernel has logged "generation G slots N SLOT:NODE ..."."""
    line = re.findall(r"dlm: vol: generation \d+ slots \d+((?: \d+:\d+)+)", node.console())[-1]
    return {int(n): int(slot) - 1 for slot, n in (pair.split(":") for pair in line.split())}[node.number]


def host_manifest(directory, *options):
    return testlib.run([sys.executable, "-B", os.path.join(testlib.ROOT, "tests", "manifest.py"),
                        *options, directory]).stdout


def no_rdev(manifest):
    """Kernel 6.1 forgets device numbers: it shows its own device nodes as 0:0 once their inodes have
    left the cache. On disk they are right."""
    return re.sub(r"^([^\t]*\t(?:blk|chr)\t.*\t)[0-9]+:[0-9]+$", r"\1-", manifest, flags=re.M)


def same(got, want, what):
    """Two manifests must be equal; if not, says where they differ."""
    if got == want:
        return
    ours, theirs = set(got.splitlines()), set(want.splitlines())
    lines = ["  got:  " + line[:200] for line in sorted(ours - theirs)[:10]]
    lines += ["  want: " + line[:200] for line in sorted(theirs - ours)[:10]]
    raise AssertionError(what + ": not the same\n" + "\n".join(lines))
