#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: tools/cluster: a node boots, runs commands (exit status, stdout, stderr, stdin, several shells), dies, starts again and leaves nothing behind
# timeout: 240
import glob
import os
import pty
import re
import sys
import subprocess

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from umltest import *    # noqa: E402
from testlib import *    # noqa: E402


def leftovers():
    """Everything of this test's cluster that is on the machine."""
    found = glob.glob("/run/gfs2-fuse-cluster/" + NAME + "*")
    found += glob.glob("/var/tmp/gfs2-fuse-cluster-" + NAME + "-*")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as text:
                words = text.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "/run/gfs2-fuse-cluster/" + NAME in words:
            found.append(words)
    with open("/proc/self/mounts") as mounts:
        found += [line for line in mounts if NAME in line]
    found += [line for line in run(["ip", "netns"], ok=None).stdout.splitlines() if NAME in line]
    return found


class Up:
    def __init__(self, *words):
        self.words = words

    def __enter__(self):
        cluster("up", 1, *self.words)

    def __exit__(self, kind, *_):
        cluster("down", ok=(0,) if kind is None else None)
        if kind is None:
            equal(leftovers(), [], "left behind after down")


def case_usage():
    equal(cluster(ok=None).returncode, 2, "no command")
    equal(cluster("up", "x", ok=None).returncode, 2, "up x")
    equal(cluster("up", 0, ok=None).returncode, 2, "up 0")
    equal(cluster("up", 1, "--kernel", 2, ok=None).returncode, 2, "a node that there is not")
    equal(cluster("up", 4, "--kernel", "2-5", ok=None).returncode, 2, "nodes that there are not")
    done = cluster("up", 255, "--no-mount", ok=None)
    check(done.returncode == 1 and "1 to 254" in done.stderr, done)
    done = cluster("up", 25, ok=None)
    check(done.returncode == 1 and "gfs2-fuse works on 24 at most" in done.stderr, done)
    done = cluster("up", 4, "--no-mount", "--mem", "9999G", ok=None)
    check(done.returncode == 1 and "4 nodes of 9999G need 40955904 MiB of memory; this machine has" in done.stderr, done)
    equal(cluster("up", 2, "--kernel", 1, ok=None).returncode, 2, "a node with the daemon in a cluster")
    equal(cluster("up", 1, "--no-mount", "--image", "/nonexistent", ok=None).returncode, 1, "no image")
    equal(cluster("run", 1, "true", ok=None).returncode, 125, "run without a cluster")
    equal(cluster("status", ok=None).returncode, 1, "status without a cluster")
    check("no cluster is up" in cluster("logs", 1, ok=(1,)).stderr, "logs without a cluster")
    equal(cluster("down").returncode, 0, "down without a cluster")
    equal(leftovers(), [], "left behind")


def case_without_uml():
    done = subprocess.run([CLUSTER, "up", "1"], env=dict(os.environ, GFS2_FUSE_UML="/nonexistent"),
                          capture_output=True, text=True)
    equal(done.returncode, 77, "exit status without linux.uml")
    equal(len(done.stderr.splitlines()), 1, "lines said about it")
    equal(leftovers(), [], "left behind")


def case_commands():
    with Up("--no-mount"):
        done = cluster("run", 1, "echo out; echo err >&2; exit 7", ok=(7,))
        equal((done.stdout, done.stderr), ("out\n", "err\n"), "output")
        equal(cluster("run", 1, "printf", "%s|", "a b", "*", "$x").stdout, "a b|*|$x|", "words")
        equal(cluster("run", 1, "kill -9 $$", ok=None).returncode, 137, "killed by a signal")
        equal(cluster("run", 1, "/nonexistent", "x", ok=None).returncode, 127, "no such command")
        equal(cluster("run", 2, "true", ok=None).returncode, 125, "no such node")
        text = "".join("line %d\n" % n for n in range(100000))
        equal(cluster("run", 1, "cat", input=text).stdout, text, "1 MB there and back")
        equal(cluster("run", "all", "cat", input=text[:10000]).stdout, text[:10000], "input for all")
        equal(cluster("run", 1, "sleep 1000 & echo on").stdout, "on\n", "a background process")
        check(cluster("run", 1, "uname -r").stdout.startswith("6.1"), "the node's own kernel")
        done = cluster("run", 1, "touch /etc/gfs2-fuse-test /tmp/gfs2-fuse-test; cd %s && touch x" %
                       ROOT, ok=None)
        check(done.returncode != 0 and "Read-only" in done.stderr, "the source tree is protected")
        for path in ("/etc/gfs2-fuse-test", "/tmp/gfs2-fuse-test"):
            check(not os.path.exists(path), path + " has been written on the host")
        again = cluster("up", 1, ok=(1,))
        check("up already" in again.stderr, "a second up is refused")
        status = json.loads(cluster("status", "--json").stdout)
        equal([(n["state"], n["mounted"]) for n in status["nodes"]], [("ready", None)], "status")
        two_at_once()
        shells()


def two_at_once():
    """Two users of one node: what the first waits for, the second does."""
    wait = "mkfifo /tmp/f; echo made; read x </tmp/f; echo got $x"
    first = subprocess.Popen([CLUSTER, "run", "1", wait], stdout=subprocess.PIPE, text=True)
    equal(first.stdout.readline(), "made\n", "the first")
    cluster("run", 1, "echo hello >/tmp/f")
    equal(first.communicate(timeout=60)[0], "got hello\n", "the first hears of the second")
    equal(first.returncode, 0, "exit status")


def shells():
    """Two interactive shells at once, each with a terminal of its own."""
    users = []
    for number in (1, 2):
        pid, master = pty.fork()
        if pid == 0:
            os.execv(CLUSTER, [CLUSTER, "shell", "1"])
        users.append((pid, master, number))
    for pid, master, number in users:
        os.write(master, b"mine=%d; tty; echo shell-$mine-$((40+2))\n" % number)
    terminals = set()
    for pid, master, number in users:
        text = b""
        while b"shell-%d-42" % number not in text:
            text += os.read(master, 4096)
        terminals.add(re.search(rb"/dev/pts/\d+", text)[0])
        os.write(master, b"exit %d\n" % number)
        try:
            while os.read(master, 4096):
                pass
        except OSError:
            pass
        equal(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), number, "status of the shell")
        os.close(master)
    equal(len(terminals), 2, "terminals")


def case_interrupted():
    """A command ends with its client, however that ends."""
    with Up("--no-mount"):
        client = subprocess.Popen([CLUSTER, "run", "1", "echo on; exec sleep 1000"],
                                  stdout=subprocess.PIPE, text=True)
        equal(client.stdout.readline(), "on\n", "it runs")
        client.terminate()
        equal(client.wait(60), 143, "status of a terminated command")
        client = subprocess.Popen([CLUSTER, "run", "1", "echo on; exec sleep 1001"],
                                  stdout=subprocess.PIPE, text=True)
        equal(client.stdout.readline(), "on\n", "it runs")
        client.kill()
        client.wait()
        wait_for(lambda: cluster("run", 1, "pgrep -x sleep", ok=(0, 1)).returncode == 1,
                 "the commands to end")


def case_kill_and_start():
    image = volume()
    with Up("--kernel", 1, "--image", image.path):
        cluster("run", 1, "echo one >/mnt/gfs2/one; sync; echo two >/mnt/gfs2/two; sync /mnt/gfs2/two")
        waiting = subprocess.Popen([CLUSTER, "run", "1", "echo on; exec sleep 1000"],
                                   stdout=subprocess.PIPE, text=True)
        equal(waiting.stdout.readline(), "on\n", "it runs")
        cluster("kill", 1)
        equal(waiting.wait(60), 125, "status of a command whose node was killed")
        equal(cluster("run", 1, "true", ok=None).returncode, 125, "run in a dead node")
        equal(cluster("status", ok=None).returncode, 1, "status with a dead node")
        cluster("kill", 1, ok=(1,))
        check(uml.volume.is_dirty(image.path), "the journal needs replay after the power cut")
        cluster("start", 1)
        check("ready" in cluster("status").stdout, "status of a node that is mounted again")
        cluster("run", 1, "umount /mnt/gfs2")
        done = cluster("status", ok=(1,))
        check("unmounted" in done.stdout and "ready" not in done.stdout, "status of a node that was unmounted: " + done.stdout)
        cluster("run", 1, "mount -t gfs2 -o lockproto=lock_nolock /dev/ubda /mnt/gfs2")
        check("the kernel's gfs2 on /mnt/gfs2" in cluster("status").stdout, "status of a node that was mounted by hand")
        equal(cluster("run", 1, "cat /mnt/gfs2/one /mnt/gfs2/two").stdout, "one\ntwo\n", "content")
        check("Replayed" in cluster("logs", 1).stdout, "the kernel has replayed the journal")
        check("nothing of a node 2" in cluster("logs", 2, ok=(1,)).stderr, "logs of a node that there is not")
        cluster("stop", 1)
    check(not uml.volume.is_dirty(image.path), "the journal is clean after down")


HOLDER = """
import mmap, os, time
page = mmap.mmap(-1, 4096)
files = [os.open('/mnt/gfs2/%d' % n, os.O_RDWR | os.O_CREAT | os.O_DIRECT) for n in range(200)]
for turn in range(2):
    for fd in files:
        os.pwrite(fd, page, 0)
print('open', flush=True)
time.sleep(1000)
"""


def case_slow_to_close():
    """Who is killed at down closes his files then, each with a request to the daemon: until that is over the mount is busy."""
    image = volume()
    with Up("--image", image.path):
        holder = subprocess.Popen([CLUSTER, "run", "1", "python3", "-c", HOLDER], stdout=subprocess.PIPE, text=True)
        equal(holder.stdout.readline(), "open\n", "it has its files")
    equal(holder.wait(60), 137, "he was killed")
    check(not uml.volume.is_dirty(image.path), "the journal is clean after down")
    image.fsck()


def case_volume_in_use():
    """Nobody else gets a volume that a node has, and no node gets a volume that is in use."""
    image = volume(size="512M")
    with open(image.path) as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        done = cluster("up", 1, "--kernel", 1, "--image", image.path, ok=(1,))
        check("in use" in done.stderr, "said why: " + done.stderr)
    equal(leftovers(), [], "left behind")
    with Up("--no-mount", "--image", image.path), open(image.path) as other:
        expect_errno(errno.EAGAIN, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def case_failed_up():
    """A mount that fails: up says why, keeps the logs until down, and leaves no process."""
    path = temp("junk")
    write_file(path, bytes(1 << 20))
    done = cluster("up", 1, "--kernel", 1, "--image", path, ok=(1,))
    check("mount" in done.stderr, "said why: " + done.stderr)
    check("# failed" in cluster("logs").stdout, "logs are kept")
    equal([words for words in leftovers() if " " in words], [], "processes left")
    cluster("down")
    equal(leftovers(), [], "left behind after down")


DAEMON = """
import ctypes, os, syslog, threading
syslog.openlog('a-daemon', syslog.LOG_PID, syslog.LOG_DAEMON)
for number in range(1000):
    syslog.syslog(syslog.LOG_WARNING, 'word %d' % number)
open('/dev/kmsg', 'w').write('from the kernel')
if os.fork() == 0:
    # Nobody waits for it, and it says nothing.
    crash = threading.Thread(target=lambda: ctypes.string_at(0))
    crash.start()
    crash.join()
os.wait()
syslog.syslog('last words')
"""


def case_messages():
    """What daemons say, that one of them crashes and where, and what the kernel says is on the host, even after a power cut."""
    cluster("up", 1, "--no-mount")
    cluster("run", 1, "python3", "-c", DAEMON)
    cluster("kill", 1)
    for done in cluster("logs", 1), cluster("down", ok=(1,)), cluster("logs"):
        check("node1: crash: python3[" in done.stderr if done.args[1] == "down" else "crash: python3[" in done.stdout, done)
        check(re.search(r"crash: python3\[\d+\] was killed by SIGSEGV in thread \d+ \(python3\) at \S+\+0x", done.stdout + done.stderr), done)
    text = done.stdout
    words = re.findall(r"^\[ *\d+\.\d+\] a-daemon\[\d+\]: word (\d+)$", text, re.M)
    equal(words, [str(n) for n in range(1000)], "what it said to syslog")
    check("last words" in text and "from the kernel" in text, "the last words, and the kernel's")
    if "gdb has not finished" in text:
        log("without the backtrace: gdb has not finished in time")
    elif shutil.which("gdb"):
        check("string_at" in text or re.search(r"^#0 .*\n#1 ", text, re.M), "a backtrace")
    cluster("down")
    equal(leftovers(), [], "left behind after down")


def case_dead_monitor():
    """The monitor is killed: the nodes end with it, and the next up and down clear up."""
    cluster("up", 1, "--no-mount")
    pid = json.loads(cluster("status", "--json").stdout)["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not [words for words in leftovers() if " " in words], "the node to end")
    cluster("down")
    equal(leftovers(), [], "left behind after down")


need_uml()
main()
