# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent: process 1 of a User-Mode Linux node.

It gives the node a root of its own, runs the commands that arrive on the serial line, and unmounts
everything and powers off when told to.

The kernel's root is the host's own root, through hostfs: what a node writes there lands on the
host. So the agent puts an overlay over it, with a tmpfs to take the writes, and pivots into that.
Only directories named as shares are the host's own again, and only those shared for writing can be
changed from in here.

Guarantees: READY is sent only when the node is as configured; EXIT of a command is sent after all
the output it has left behind; STOPPED is sent only when no process holds a disk any more. A failure
of the agent itself panics the kernel, which ends the node and shows on its console.

States: HELLO, then CONFIG is awaited, then READY or FAILED, then commands, then STOP.

Started by the kernel as `python3 -I -S agent.py`; needs nothing but wire.py, nodelog.py and crash.py beside it.
"""
import os
import sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import ctypes  # noqa: E402
import errno  # noqa: E402
import fcntl  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import selectors  # noqa: E402
import select  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import struct  # noqa: E402
import termios  # noqa: E402
import time  # noqa: E402
import tty  # noqa: E402

import nodelog  # noqa: E402
import wire  # noqa: E402

LINE = '/dev/ttyS0'
NEW_ROOT = '/tmp'          # any directory that every host has: a tmpfs covers it
HOST = '/.host'            # the hostfs root while shares are being bound
MODULES = '/usr/lib/uml/modules/%s'
SYS_PIVOT_ROOT, SYS_FINIT_MODULE = 155, 313      # x86-64, all that linux.uml is built for
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_MOVE = 1, 32, 4096, 8192
MNT_DETACH = 2
RB_POWER_OFF = 0x4321fedc
# Directories in which the host's running services keep what is theirs, or that programs fill.
PRIVATE = ('/run', '/tmp', '/var/tmp', '/var/log', '/var/lib/corosync', '/var/lib/dlm', '/etc/corosync',
           '/etc/dlm', '/mnt', '/dev/shm')
SERVICES = ('dlm_controld', 'corosync')      # what makes it a member, in the order in which to end it
LEAVE_SECONDS = 5
SUPERVISOR = 'gfs2-supervisor'      # the process that cleans up after a daemon

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result != 0:
        err = ctypes.get_errno()
        raise OSError(err, '%s: %s' % (what, os.strerror(err)))


def mount(source, target, fstype=None, flags=0, data=None):
    enc = [None if s is None else os.fsencode(s) for s in (source, target, fstype)]
    check(libc.mount(*enc, ctypes.c_ulong(flags), None if data is None else data.encode()),
          'mount %s on %s' % (source, target))


def umount(target, flags=0):
    check(libc.umount2(os.fsencode(target), flags), 'umount %s' % target)


def load_module(name):
    """Loads a module and what it depends on. There may be no modprobe on a minimal host."""
    base = MODULES % os.uname().release
    with open(base + '/modules.dep') as f:
        for line in f:
            path, _, deps = line.partition(':')
            if path.split('/')[-1] in (name + '.ko', name.replace('_', '-') + '.ko'):
                break
        else:
            raise OSError(errno.ENOENT, 'no kernel module %s in %s' % (name, base))
    for path in reversed([path] + deps.split()):
        fd = os.open(os.path.join(base, path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            check(libc.syscall(SYS_FINIT_MODULE, fd, b'', 0), 'module ' + path)
        except FileExistsError:
            pass
        finally:
            os.close(fd)


# ---------------------------------------------------------------- the root

def enter_root():
    """Moves from the hostfs root into an overlay over it; the hostfs root is then at HOST."""
    load_module('overlay')
    mount('tmpfs', NEW_ROOT, 'tmpfs', 0, 'mode=755,size=90%')
    top = NEW_ROOT
    for name in ('up', 'work', 'root'):
        os.mkdir(top + '/' + name)
    mount('overlay', top + '/root', 'overlay', 0,
          'lowerdir=/,upperdir=%s/up,workdir=%s/work' % (top, top))
    new = top + '/root'
    os.makedirs(new + HOST, exist_ok=True)
    for name in ('dev', 'proc', 'sys'):
        os.makedirs(new + '/' + name, exist_ok=True)
        mount('/' + name, new + '/' + name, None, MS_MOVE)
    check(libc.syscall(SYS_PIVOT_ROOT, new.encode(), (new + HOST).encode()), 'pivot_root')
    os.chdir('/')
    umount(HOST + NEW_ROOT, MNT_DETACH)      # the overlay keeps its own hold on it


def fill_root(config):
    """Everything that a program expects of a running system."""
    for path in PRIVATE:
        os.makedirs(path, exist_ok=True)
        mount('tmpfs', path, 'tmpfs', 0, 'mode=%s' % ('1777' if path in
              ('/tmp', '/var/tmp', '/dev/shm') else '755'))
    os.makedirs('/dev/pts', exist_ok=True)
    mount('devpts', '/dev/pts', 'devpts', 0, 'ptmxmode=666,mode=620')
    if not os.path.lexists('/dev/fd'):
        for n, name in enumerate(('fd', 'stdin', 'stdout', 'stderr')):
            os.symlink('/proc/self/fd' + ('' if n == 0 else '/%d' % (n - 1)), '/dev/' + name)
    for name in config.get('modules', ()):
        load_module(name)
    if os.path.isdir('/sys/kernel/config'):
        mount('configfs', '/sys/kernel/config', 'configfs')
    modules = MODULES % os.uname().release
    os.makedirs('/lib/modules/' + os.uname().release, exist_ok=True)
    mount(modules, '/lib/modules/' + os.uname().release, None, MS_BIND)
    name = config['hostname'].encode()
    check(libc.sethostname(name, len(name)), 'sethostname')
    loopback_up()
    for path, writable in config.get('shares', ()):
        share(path, writable)
    umount(HOST, MNT_DETACH)
    os.rmdir(HOST)
    nodelog.start(config['python'], config['bin'])
    os.makedirs(config['dir'], exist_ok=True)


def share(path, writable):
    """Makes a directory (or file) of the host appear at its own place, the host's own again."""
    if os.path.isdir(HOST + path):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, 'a').close()
    mount(HOST + path, path, None, MS_BIND)
    if not writable:
        mount(None, path, None, MS_REMOUNT | MS_BIND | MS_RDONLY)


def link_dlm_devices():
    """libdlm and dlm_controld look below /dev/misc, where udev would put them."""
    os.makedirs('/dev/misc', exist_ok=True)
    for name in os.listdir('/dev'):
        if name.startswith('dlm') and not os.path.lexists('/dev/misc/' + name):
            os.symlink('../' + name, '/dev/misc/' + name)


def loopback_up():
    siocsifflags, iff_up = 0x8914, 0x1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, siocsifflags, struct.pack('16sh22x', b'lo', iff_up))


# ---------------------------------------------------------------- commands

class Stream:
    """A command: its process group, its ends of the pipes, its credit.

    A command is over when its first process has ended and what the pipes then hold has been sent.
    Processes that it left in the background may keep the pipes; their output goes to the log.
    """

    def __init__(self, agent, number, request):
        self.agent = agent
        self.number = number
        self.credit = wire.WINDOW_OUT
        self.inbuf = bytearray()
        self.in_eof = False
        self.status = None
        self.outputs = {}            # fd -> frame type
        self.input = None
        self.tty = bool(request.get('tty'))
        if self.tty:
            self.start_tty(request)
        else:
            self.start_pipes(request)
        for fd in self.outputs:
            os.set_blocking(fd, False)
        os.set_blocking(self.input, False)
        self.watch()

    def start_pipes(self, request):
        in_r, in_w = os.pipe()
        out_r, out_w = os.pipe()
        err_r, err_w = os.pipe()
        self.pid = self.fork(request, (in_r, out_w, err_w))
        for fd in (in_r, out_w, err_w):
            os.close(fd)
        self.input = in_w
        self.outputs = {out_r: wire.OUT, err_r: wire.ERR}

    def start_tty(self, request):
        master, slave = os.openpty()
        self.resize(slave, request.get('rows', 24), request.get('cols', 80))
        self.pid = self.fork(request, (slave, slave, slave))
        os.close(slave)
        self.input = os.dup(master)
        self.outputs = {master: wire.OUT}

    @staticmethod
    def resize(fd, rows, cols):
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, cols, 0, 0))

    def fork(self, request, fds):
        pid = os.fork()
        if pid == 0:
            self.child(request, fds)
        return pid

    def child(self, request, fds):
        """In the forked child: never returns."""
        code = 126
        try:
            for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            for n, fd in enumerate(fds):
                os.dup2(fd, n)
            if self.tty:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            env = request['env']
            try:
                os.chdir(request.get('cwd') or '/')
            except OSError:
                os.chdir('/')
            argv = request['argv']
            try:
                os.execvpe(argv[0], argv, env)
            except FileNotFoundError as e:
                code = 127
                raise OSError(e.errno, '%s: command not found' % argv[0])
            except OSError as e:
                raise OSError(e.errno, '%s: %s' % (argv[0], e.strerror))
        except BaseException as e:
            os.write(2, (str(getattr(e, 'strerror', e)) + '\n').encode())
        finally:
            os._exit(code)

    def watch(self):
        """Says to the selector what can be done now."""
        if self.input is not None:
            self.agent.watch(self.input, selectors.EVENT_WRITE if self.inbuf else 0, self)
            if self.in_eof and not self.inbuf:
                self.close_input()
        for fd in self.outputs:
            self.agent.watch(fd, selectors.EVENT_READ if self.credit > 0 else 0, self)

    def close_input(self):
        if self.tty and self.status is None:
            return                   # a terminal is hung up when its command has ended
        self.agent.watch(self.input, 0, self)
        os.close(self.input)
        self.input = None

    def event(self, fd, mask):
        if fd == self.input and mask & selectors.EVENT_WRITE:
            self.feed()
        elif fd in self.outputs:
            self.pull(fd)
        self.watch()

    def feed(self):
        try:
            n = os.write(self.input, self.inbuf[:65536])
        except BlockingIOError:
            return
        except OSError:              # nobody reads: what arrives from now on is swallowed
            n = len(self.inbuf)
            self.agent.watch(self.input, 0, self)
            os.close(self.input)
            self.input = None
        del self.inbuf[:n]
        self.agent.send(wire.CREDIT, self.number, str(n))

    def take(self, data):
        if self.input is None:
            self.agent.send(wire.CREDIT, self.number, str(len(data)))
            return
        self.inbuf += data
        self.watch()

    def pull(self, fd):
        """Sends some output on. True if there may be more at once."""
        try:
            data = os.read(fd, min(wire.CHUNK, self.credit))
        except BlockingIOError:
            return False
        except OSError:              # EIO: the terminal's last user has gone
            data = b''
        if not data:
            self.close_output(fd)
            return False
        self.credit -= len(data)
        self.agent.send(self.outputs[fd], self.number, data)
        return True

    def close_output(self, fd):
        self.agent.watch(fd, 0, self)
        del self.outputs[fd]
        os.close(fd)

    def finish(self):
        """After the process has ended: sends the rest. True once EXIT has been sent."""
        for fd in list(self.outputs):
            while self.credit > 0 and self.pull(fd):
                pass
        if self.credit <= 0 and self.outputs:
            return False             # goes on when credit arrives
        if self.input is not None:
            self.in_eof = True
            self.inbuf.clear()
            self.close_input()
        self.agent.send(wire.EXIT, self.number, str(wire.exit_code(self.status)))
        for fd in list(self.outputs):
            self.agent.adopt(fd, self.outputs.pop(fd))
        return True

    def kill(self, number):
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass


class Background:
    """What processes that outlived their command still write."""

    def __init__(self, agent):
        self.agent = agent

    def event(self, fd, mask):
        try:
            data = os.read(fd, wire.CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b''
        if data:
            self.agent.send(wire.NOTE, 0, data)
        else:
            self.agent.watch(fd, 0, self)
            os.close(fd)


class DeviceEvents:
    """The kernel's word that a device has come or gone: there is no udev."""

    def __init__(self, agent):
        netlink_kobject_uevent = 15
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK,
                                    netlink_kobject_uevent)
        self.socket.bind((0, 1))
        agent.watch(self.socket.fileno(), selectors.EVENT_READ, self)

    def event(self, _fd, _mask):
        try:
            while True:
                self.socket.recv(8192)
        except OSError:              # no more, or more than fitted: a look is due in any case
            link_dlm_devices()


class Agent:
    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.masks = {}
        self.streams = {}
        self.background = Background(self)
        self.parser = wire.Parser()
        self.config = None
        self.stopping = None         # seconds, once it is to stop
        self.line = os.open(LINE, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        tty.setraw(self.line)
        self.wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *a: None)
        self.watch(self.line, selectors.EVENT_READ, self)
        self.watch(self.wake, selectors.EVENT_READ, self)

    def watch(self, fd, mask, owner):
        old = self.masks.get(fd, 0)
        if mask == old:
            return
        if not old:
            self.selector.register(fd, mask, owner)
        elif not mask:
            self.selector.unregister(fd)
        else:
            self.selector.modify(fd, mask, owner)
        self.masks[fd] = mask

    def adopt(self, fd, _kind):
        self.watch(fd, 0, self)
        self.watch(fd, selectors.EVENT_READ, self.background)

    def send(self, kind, stream=0, data=b''):
        # The monitor always reads, so this cannot wait for long.
        frame = memoryview(wire.pack(kind, stream, data))
        while frame:
            frame = frame[os.write(self.line, frame):]

    def run(self):
        self.send(wire.HELLO)
        while True:
            for key, mask in self.selector.select():
                if self.masks.get(key.fd):       # an earlier event of this round may have closed it
                    key.data.event(key.fd, mask)
            if self.stopping is not None:
                self.stop(self.stopping)
                self.stopping = None

    def event(self, fd, _mask):
        if fd == self.wake:
            os.read(self.wake, 512)
            self.reap()
            return
        data = os.read(self.line, 65536)
        self.send(wire.ACK, 0, str(len(data)))
        for kind, stream, data in self.parser.feed(data):
            self.frame(kind, stream, data)

    def reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            for stream in self.streams.values():
                if stream.pid == pid and stream.status is None:
                    stream.status = status
                    break
        self.finish()

    def finish(self):
        over = [s for s in self.streams.values() if s.status is not None and s.finish()]
        for stream in over:
            del self.streams[stream.number]

    def frame(self, kind, number, data):
        if kind == wire.CONFIG:
            self.configure(json.loads(data))
        elif kind == wire.STOP:
            self.stopping = json.loads(data)['seconds']
        elif kind == wire.OFF:
            self.power_off(json.loads(data)['leave'])
        elif kind == wire.LOOK:
            self.send(wire.SEEN, 0, {'mounted': what_is_mounted(self.config['dir'])})
        elif kind == wire.START:
            self.streams[number] = Stream(self, number, json.loads(data))
            self.reap()
        elif number in self.streams:
            self.stream_frame(self.streams[number], kind, data)

    def stream_frame(self, stream, kind, data):
        if kind == wire.IN:
            stream.take(data)
        elif kind == wire.EOF:
            stream.in_eof = True
            stream.watch()
        elif kind == wire.CREDIT:
            stream.credit += int(data)
            stream.watch()
            self.finish()
        elif kind == wire.SIGNAL:
            stream.kill(int(data))
        elif kind == wire.WINCH and stream.tty and stream.input is not None:
            stream.resize(stream.input, *map(int, data.split()))

    def configure(self, config):
        self.config = config
        try:
            enter_root()
            fill_root(config)
            self.devices = DeviceEvents(self)
            link_dlm_devices()
        except Exception as e:
            self.send(wire.FAILED, 0, str(e))
            return
        self.send(wire.READY)

    # ------------------------------------------------------------ stop

    def stop(self, seconds):
        """Unmounts every file system with something behind it and waits for their daemons. Only a bound: the end of the
        processes is what is waited for."""
        problems = []
        busy = holders()
        for stream in self.streams.values():
            if stream.status is None and not any(group(p) == stream.pid for p in busy):
                stream.kill(signal.SIGKILL)
        deadline = time.monotonic() + seconds
        for target in mounts():
            try:
                unmount(target, deadline)
            except OSError as e:
                problems.append(str(e))
        left = wait_gone(holders(), deadline)
        for pid, name in left.items():
            problems.append('process %d (%s) still holds a disk' % (pid, name))
        os.sync()
        self.end_commands()
        self.send(wire.STOPPED, 0, {'problems': problems})

    def end_commands(self):
        """Who waits for a command is told how it ended: the order to power off may come before the kernel's word that it has.  A process's
        files are closed, and what it used can be unmounted, a moment before its end."""
        running = {stream.pid: '' for stream in self.streams.values() if stream.status is None}
        for stream in self.streams.values():
            if stream.status is None:
                stream.kill(signal.SIGKILL)
        wait_gone(running, time.monotonic() + LEAVE_SECONDS)
        self.reap()

    @staticmethod
    def power_off(leave):
        """leave: the others are told, and need not wait until they miss it."""
        if leave:
            for name in SERVICES:
                pids = {pid: name for pid in processes() if comm(pid) == name}
                for pid in pids:
                    os.kill(pid, signal.SIGTERM)
                wait_gone(pids, time.monotonic() + LEAVE_SECONDS)
        libc.reboot(ctypes.c_uint(RB_POWER_OFF))


def group(pid):
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def comm(pid):
    try:
        with open('/proc/%d/comm' % pid) as f:
            return f.read().strip()
    except OSError:
        return None


def processes():
    return [int(name) for name in os.listdir('/proc') if name.isdigit() and int(name) != 1]


def links(pid, names):
    """What the process's named links and descriptors point to."""
    base = '/proc/%d/' % pid
    try:
        paths = [base + n for n in names] + [base + 'fd/' + n for n in os.listdir(base + 'fd')]
    except OSError:
        return
    for path in paths:
        try:
            yield os.readlink(path)
        except OSError:
            pass


def holders():
    """The processes that have a disk open: file system daemons. {pid: name}"""
    found = {}
    for pid in processes():
        if any(target.startswith('/dev/ubd') for target in links(pid, ())):
            name = comm(pid)
            if name:
                found[pid] = name
    return found


def what_is_mounted(directory):
    """'kernel': gfs2. 'fuse': a daemon's mount, 'dead': one whose daemon has ended. None: nothing. Asks no file system,
    which might not answer."""
    fstype = source = None
    with open('/proc/self/mounts', 'rb') as f:
        for line in f:
            fields = [unescape(word) for word in line.split()[:3]]
            if fields[1] == directory:
                source, _, fstype = fields
    if fstype is None:
        return None
    if not fstype.startswith('fuse'):
        return 'kernel'
    # A supervisor holds the device, too, and serves nothing.
    names = [name for pid, name in holders().items() if source in links(pid, ())]
    return 'fuse' if any(name != SUPERVISOR for name in names) else 'dead'


def users(directory):
    return [pid for pid in processes()
            if any(t == directory or t.startswith(directory + '/')
                   for t in links(pid, ('cwd', 'root', 'exe')))]


def unescape(word):
    """A word of /proc/self/mounts."""
    return os.fsdecode(re.sub(rb'\\([0-7]{3})', lambda m: bytes([int(m[1], 8)]), word))


def mounts():
    """Mount points to be undone, the last mounted first."""
    found = []
    with open('/proc/self/mounts', 'rb') as f:
        for line in f:
            source, target, fstype = line.split()[:3]
            if fstype != b'fusectl' and (source.startswith((b'/dev/ubd', b'/dev/loop')) or
                                         fstype.startswith((b'fuse', b'gfs2'))):
                found.append(unescape(target))
    return found[::-1]


def wait_gone(pids, deadline):
    """Waits until the processes have ended; returns those that had not by the deadline."""
    poller = select.poll()
    waiting = {}
    for pid, name in pids.items():
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        waiting[fd] = (pid, name)
        poller.register(fd, select.POLLIN)
    while waiting:
        timeout = deadline - time.monotonic()
        ready = poller.poll(timeout * 1000) if timeout > 0 else []
        if not ready:
            return dict(waiting.values())
        for fd, _ in ready:
            poller.unregister(fd)
            del waiting[fd]
            os.close(fd)
    return {}


def unmount(target, deadline):
    """Kills who uses it.  That a mount is busy can outlast all who are seen to use it: a process that ends has no descriptors
    in /proc any more while it closes them, which for a FUSE file takes an answer of the daemon's, and files of its io_uring
    requests are put by a worker of the kernel's.  Only umount(2) itself tells when that is over."""
    while True:
        try:
            return umount(target)
        except OSError as e:
            if e.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        pids = {pid: '' for pid in users(target)}
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if pids:
            wait_gone(pids, deadline)
        else:
            time.sleep(0.01)


def main():
    for fstype in ('proc', 'sysfs'):
        mount(fstype, '/proc' if fstype == 'proc' else '/sys', fstype)
    Agent().run()


if __name__ == '__main__':
    main()
