# SPDX-License-Identifier: GPL-2.0-or-later
"""The monitor: the one process of a running cluster outside the nodes.

It starts the nodes, holds their serial lines and consoles, holds a flock on every attached image
(so that no daemon of the host mounts what a node has), and serves clients on a Unix socket. When it
ends, however it ends, the nodes end with it.

A node's states:

    off ──boot──> booting ──HELLO──> configuring ──READY──> setup ──last step done──> ready
                     │                     └──────FAILED──────┴─────step fails──────> failed
    ready, failed ──stop──> stopping ──STOPPED, and all that are stopping have──OFF──exit──> off
    any ──kill──> killing ──exit──> killed          any ──exit unasked──> died

off, killed and died are the states without a kernel, from which a node can be booted again.
One thread; the selector is the only place that waits, except for the management console (mconsole),
which a live kernel answers at once.

Started by `cluster up` as: monitor.py STATE-DIRECTORY LOCK-FD NOTIFY-FD
"""
import os
import sys
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import ctypes  # noqa: E402
import fcntl  # noqa: E402
import glob  # noqa: E402
import json  # noqa: E402
import selectors  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import struct  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402

from uml import wire  # noqa: E402

CLONE_NEWNET = 0x40000000
MAX_NODES = 254                      # the last byte of their addresses
TABLE = 'g2:vol'                     # join.sh names the cluster
LETTERS = 'abcdefghijklmnop'         # as many disks as ubd has
# Bounds, not delays: by then something is broken.
POWEROFF_SECONDS = 10
LOOK_SECONDS = 10
ALIVE = ('booting', 'configuring', 'setup', 'ready', 'failed', 'stopping', 'killing')
ENDING = ('stopping', 'killing')


def boot_seconds(nodes):
    """Until a node must be ready: they share the processors, and each that joins has all the others recover."""
    return 180 + 20 * max(0, nodes - 2)


def stop_seconds(nodes):
    """Until a node must have unmounted."""
    return 60 + 10 * max(0, nodes - 2)


class Refused(Exception):
    """A request that cannot be served; the text is for the user."""


def mconsole(path, reply_path, command):
    """One command to a kernel's management console. Raises Refused with its answer."""
    request = struct.pack('=III512s', 0xcafebabe, 2, len(command), command.encode())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.settimeout(20)
        s.bind(reply_path)
        try:
            s.sendto(request, path)
            answer, more = '', 1
            while more:
                err, more, _ = struct.unpack_from('=III', data := s.recv(4096))
                answer += wire.text(data[12:].split(b'\0')[0])
        except OSError as e:
            raise Refused('the node does not answer on its management console: %s' % e)
        finally:
            os.unlink(reply_path)
    if err:
        raise Refused('%s: %s' % (command, answer.strip()))


class Disk:
    """An attached image. Holds the flock that keeps the host's daemons off it."""

    def __init__(self, image, readonly):
        self.image = image
        self.readonly = readonly
        try:
            self.fd = os.open(image, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
        except OSError as e:
            raise Refused('%s: %s' % (image, e.strerror))
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self.fd)
            raise Refused('%s is in use: another program holds the lock on it' % image)

    def close(self):
        os.close(self.fd)


class Peer:
    """A stream socket with frames on it, and what has not been written yet."""

    def __init__(self, monitor, sock):
        self.monitor = monitor
        self.sock = sock
        self.parser = wire.Parser()
        self.out = bytearray()
        self.window = 1 << 62        # how much may be sent now
        sock.setblocking(False)
        monitor.watch(sock, selectors.EVENT_READ, self)

    def send(self, kind, stream=0, data=b''):
        self.out += wire.pack(kind, stream, data)
        self.flush()

    def flush(self):
        if self.sock is None:
            return
        try:
            while self.out and self.window > 0:
                n = self.sock.send(self.out[:self.window])
                self.window -= n
                del self.out[:n]
        except BlockingIOError:
            pass
        except OSError:
            self.out.clear()
        self.monitor.watch(self.sock, selectors.EVENT_READ |
                           (selectors.EVENT_WRITE if self.out and self.window > 0 else 0), self)

    def event(self, mask):
        if mask & selectors.EVENT_WRITE:
            self.flush()
        if mask & selectors.EVENT_READ and self.sock is not None:
            self.read()

    def read(self):
        """Reads once. False if there was nothing."""
        if self.sock is None:
            return False
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b''
        if not data:
            self.gone()
            return False
        try:
            frames = self.parser.feed(data)
        except wire.ProtocolError:
            self.gone()
            return False
        for frame in frames:
            self.frame(*frame)
        return self.sock is not None

    def close(self):
        if self.sock is not None:
            self.monitor.watch(self.sock, 0, self)
            self.sock.close()
            self.sock = None

    gone = close


class Line(Peer):
    """A node's serial line."""

    def __init__(self, monitor, sock, node):
        self.node = node
        super().__init__(monitor, sock)
        self.window = wire.WINDOW_LINE

    def frame(self, kind, stream, data):
        if kind == wire.ACK:
            self.window += int(data)
            self.flush()
        else:
            self.node.frame(kind, stream, data)


class Step:
    """The far end of a command that the monitor itself runs: part of a node's setup."""

    def __init__(self, node, name):
        self.node = node
        self.name = name
        self.output = b''

    def frame(self, kind, _stream, data):
        if kind in (wire.OUT, wire.ERR):
            self.output = (self.output + data)[-8192:]
            self.node.log(data)
        elif kind == wire.EXIT:
            self.node.step_done(self, int(data))

    def lost(self, _reason):
        pass


class Node:
    def __init__(self, monitor, number):
        self.monitor = monitor
        self.number = number
        self.dir = '%s/node%d' % (monitor.dir, number)
        self.state = 'off'
        self.reason = ''
        self.process = None
        self.pidfd = None
        self.line = None
        self.streams = {}
        self.next_stream = 1
        self.steps = []
        self.boots = 0
        self.mounted = None          # what the setup has mounted: 'fuse', 'kernel'
        self.lookers = []            # who waits for SEEN
        self.stopped = None          # the problems of unmounting, once that is over
        self.off = False             # it has been told to power off
        self.timer = None
        self.since = time.monotonic()
        os.makedirs(self.dir, exist_ok=True)
        self.logfile = open('%s/logs/node%d.log' % (monitor.dir, number), 'ab', buffering=0)

    def log(self, data):
        self.logfile.write(data if isinstance(data, bytes) else data.encode())

    def set_state(self, state, reason=''):
        self.state = state
        self.reason = reason
        self.since = time.monotonic()
        self.log('# %s%s\n' % (state, ': ' + reason if reason else ''))
        self.monitor.changed(self)

    def describe(self):
        return 'node %d is %s%s' % (self.number, self.state,
                                    ': ' + self.reason if self.reason else '')

    # ------------------------------------------------------------ life

    def boot(self, mount):
        """Starts the kernel. mount: whether the volume is to be mounted."""
        config = self.monitor.config
        self.boots += 1
        shutil.rmtree(self.dir)      # what a killed kernel has left there would stop the next one
        os.makedirs(self.dir)
        args = [config['linux'], 'mem=' + config['mem'], 'uml_dir=%s/' % self.dir, 'umid=uml',
                'rootfstype=hostfs', 'rootflags=/', 'rw', 'con=null', 'con0=null,fd:1', 'panic=-1',
                'init=' + config['python']]
        for n, disk in sorted(self.monitor.disks.items()):
            args.append('ubd%d%s=%s' % (n, self.flags(disk), self.link(n, disk)))
        if config['nodes'] > 1:
            args.append('vec0:transport=tap,ifname=tap%d,depth=64,gro=1,mac=02:00:00:00:00:%02x'
                        % (self.number, self.number))
        ours, theirs = socket.socketpair()
        args += ['ssl0=fd:%d' % theirs.fileno(), '--', '-I', '-S', self.monitor.dir + '/bin/agent.py']
        env = {'PATH': os.environ['PATH'], 'TMPDIR': config['tmpdir']}
        if config['preload']:
            env['LD_PRELOAD'] = ':'.join(config['preload'])
        if 'disk_delay' in config:
            env['GFS2_FUSE_DISK_DELAY'] = config['disk_delay']
        with open('%s/logs/console%d.log' % (self.monitor.dir, self.number), 'ab') as console:
            self.process = subprocess.Popen(
                [config['python'], '-I', '-S', self.monitor.dir + '/bin/keeper.py'] + args,
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, cwd='/',
                env=env, pass_fds=[theirs.fileno()])
        theirs.close()
        self.pidfd = os.pidfd_open(self.process.pid)
        self.monitor.watch(self.pidfd, selectors.EVENT_READ, self)
        self.line = Line(self.monitor, ours, self)
        self.steps = self.monitor.setup_steps(self, mount)
        self.mounted = None
        self.stopped = None
        self.off = False
        bound = boot_seconds(config['nodes'])
        self.set_timer(bound, lambda: self.fail('not ready after %d s' % bound))
        self.set_state('booting')

    def link(self, number, disk):
        """A name for an image that a kernel command line can hold, whatever it is really called."""
        path = '%s/ubd%s' % (self.dir, LETTERS[number])
        if not os.path.lexists(path):
            os.symlink(disk.image, path)
        return path

    def flags(self, disk):
        # c: no lock of UML's own, the monitor and the cluster have theirs. d: never a COW file.
        return 'cd' + ('r' if disk.readonly else '')

    def set_timer(self, seconds, action):
        self.monitor.cancel(self.timer)
        self.timer = self.monitor.later(seconds, action) if seconds else None

    def fail(self, reason):
        self.set_timer(0, None)
        self.steps = []
        self.set_state('failed', reason)

    def frame(self, kind, stream, data):
        if stream:
            self.stream_frame(kind, stream, data)
        elif kind == wire.HELLO:
            self.set_state('configuring')
            self.line.send(wire.CONFIG, 0, self.monitor.node_config(self))
        elif kind == wire.READY:
            self.set_state('setup')
            self.next_step()
        elif kind == wire.FAILED:
            self.fail(wire.text(data))
        elif kind == wire.STOPPED:
            self.stopped = json.loads(data)['problems']
            self.monitor.power_off()
        elif kind == wire.SEEN:
            self.seen(json.loads(data)['mounted'])
        elif kind == wire.NOTE:
            self.log(data)

    def next_step(self):
        if not self.steps:
            self.set_timer(0, None)
            self.set_state('ready')
            return
        name, argv = self.steps.pop(0)
        self.log('# %s: %s\n' % (name, ' '.join(argv)))
        self.start_stream(Step(self, name), {'argv': argv, 'cwd': '/'})

    def step_done(self, step, status):
        if self.state != 'setup':
            return
        if status != 0:
            text = wire.text(step.output).strip() or 'no message'
            self.fail('%s failed with status %d: %s' % (step.name, status, text))
            return
        if step.name.startswith('mount'):
            self.mounted = step.name.split()[1]
        self.next_step()

    def look(self, answer):
        """Calls back with what is mounted in it now; None if it dies first."""
        self.lookers.append(answer)
        if len(self.lookers) == 1:
            self.line.send(wire.LOOK)

    def seen(self, mounted):
        lookers, self.lookers = self.lookers, []
        for answer in lookers:
            answer(self, mounted)

    def stop(self):
        """A clean power-off."""
        if self.state == 'booting':
            self.kill()
            return
        if self.state in ('stopping', 'killing') or self.state not in ALIVE:
            return
        self.set_state('stopping')
        bound = stop_seconds(self.monitor.config['nodes'])
        self.line.send(wire.STOP, 0, {'seconds': bound})
        self.set_timer(bound + 30, self.stop_overdue)

    def power_off(self, leave):
        # All is on the disks: how long the kernel takes to end does not matter any more.
        self.line.send(wire.OFF, 0, {'leave': leave})
        self.set_timer(POWEROFF_SECONDS, self.process.terminate)

    def stop_overdue(self):
        self.log('# not unmounted in time: killed\n')
        try:                         # what every task was doing, on the console
            self.monitor.console(self, 'sysrq t')
        except Refused as e:
            self.log('# %s\n' % e)
        self.process.terminate()

    def kill(self):
        """A power cut."""
        self.set_state('killing')
        self.process.terminate()

    def event(self, _mask):
        """The kernel has ended, and with it all processes of the node."""
        status = self.process.wait()
        self.monitor.watch(self.pidfd, 0, self)
        os.close(self.pidfd)
        while self.line.read():
            pass
        self.line.close()
        self.set_timer(0, None)
        for stream in list(self.streams):
            far = self.streams.pop(stream)
            if far:                  # else whoever asked has gone before
                far.lost('node %d went down' % self.number)
        self.mounted = None
        if self.state == 'killing':
            self.set_state('killed')
        elif self.state == 'stopping' and self.stopped == []:
            self.set_state('off')
        elif self.state == 'stopping':
            problems = '; '.join(self.stopped or []) or 'it did not stop in an orderly way'
            self.set_state('died', problems)
        else:
            self.set_state('died', 'its kernel ended with status %d' % status)
        self.seen(None)
        self.monitor.power_off()

    # ------------------------------------------------------------ streams

    def start_stream(self, far, request):
        number = self.next_stream
        self.next_stream += 1
        self.streams[number] = far
        request['env'] = dict(self.monitor.node_env(self), **request.get('env', {}))
        self.line.send(wire.START, number, request)
        return number

    def stream_frame(self, kind, stream, data):
        far = self.streams.get(stream)
        if kind == wire.EXIT:
            self.streams.pop(stream, None)
        if far is not None:
            far.frame(kind, stream, data)
            if isinstance(far, Step) and kind in (wire.OUT, wire.ERR):
                self.line.send(wire.CREDIT, stream, str(len(data)))
        elif kind in (wire.OUT, wire.ERR):
            self.line.send(wire.CREDIT, stream, str(len(data)))      # its client has gone

    def forget(self, stream):
        """The client of a command has gone away: so does the command."""
        if stream in self.streams:
            self.streams[stream] = None
            if self.line.sock is not None:
                self.line.send(wire.SIGNAL, stream, str(int(signal.SIGKILL)))


class FarClient:
    """The client's end of a stream, as a node sees it."""

    def __init__(self, client):
        self.client = client

    def frame(self, kind, _stream, data):
        self.client.send(kind, 1, data)
        if kind == wire.EXIT:
            self.client.stream = None

    def lost(self, reason):
        self.client.stream = None
        self.client.send(wire.REFUSED, 0, reason)


class Status:
    """A request for the status: waits until the nodes that are up have said what is mounted in them."""

    def __init__(self, monitor, client):
        self.monitor = monitor
        self.client = client
        self.mounted = {}
        self.waits = {n for n in monitor.nodes.values() if n.state == 'ready'}
        self.timer = monitor.later(LOOK_SECONDS, self.send)
        for node in list(self.waits):
            node.look(self.answer)
        self.send_if_all()

    def answer(self, node, mounted):
        self.mounted[node] = mounted
        self.waits.discard(node)
        self.send_if_all()

    def send_if_all(self):
        if self.timer and not self.waits:
            self.send()

    def send(self):
        self.monitor.cancel(self.timer)
        self.timer = None
        nodes = []
        for n in self.monitor.nodes.values():
            mounted = self.mounted.get(n)
            state, reason = self.judge(n, mounted)
            nodes.append({'node': n.number, 'state': state, 'reason': reason, 'mounted': mounted,
                          'seconds': round(time.monotonic() - n.since, 3),
                          'pid': n.process.pid if n.process and n.state in ALIVE else None,
                          'commands': len(n.streams)})
        disks = {'/dev/ubd' + LETTERS[n]: d.image for n, d in sorted(self.monitor.disks.items())}
        self.client.done({'nodes': nodes, 'disks': disks, 'dir': self.monitor.config['dir'], 'pid': os.getpid()})

    def judge(self, node, mounted):
        """ready: it is up, and what `up` has mounted is still there."""
        directory = self.monitor.config['dir']
        if node.state != 'ready':
            return node.state, node.reason
        if node in self.waits:
            return 'silent', 'it is up, but has not answered for %d s' % LOOK_SECONDS
        if mounted == 'dead':
            return 'daemon-dead', 'the gfs2-fuse that served %s has ended' % directory
        if node.mounted and not mounted:
            return 'unmounted', 'it is up, with nothing on %s any more' % directory
        return 'ready', ''


class Client(Peer):
    """A connection from `cluster` or from a test. One request each."""

    def __init__(self, monitor, sock):
        super().__init__(monitor, sock)
        self.node = None
        self.stream = None
        self.waits = None            # (nodes, wanted states) this client waits for

    def gone(self):
        self.monitor.clients.discard(self)
        if self.stream is not None:
            self.node.forget(self.stream)
            self.stream = None
        self.close()

    def frame(self, kind, _stream, data):
        if kind == wire.REQUEST:
            try:
                self.monitor.request(self, json.loads(data))
            except Refused as e:
                self.send(wire.REFUSED, 0, str(e))
        elif self.stream is not None and self.node.line.sock is not None:
            self.node.line.send(kind, self.stream, data)

    def done(self, result=None):
        self.send(wire.DONE, 0, result if result is not None else {})


class Monitor:
    def __init__(self, directory):
        self.dir = directory
        with open(directory + '/config.json') as f:
            self.config = json.load(f)
        self.selector = selectors.DefaultSelector()
        self.masks = {}
        self.timers = []
        self.clients = set()
        self.disks = {}
        self.ending = None           # the client that asked for the end, or True
        self.keep_logs = False
        self.network()
        for n, disk in enumerate(self.config['disks']):
            self.disks[n] = Disk(disk['image'], disk['readonly'])
        self.nodes = {n: Node(self, n) for n in range(1, self.config['nodes'] + 1)}
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(directory + '/control')
        self.listener.listen(64)
        self.listener.setblocking(False)
        self.watch(self.listener, selectors.EVENT_READ, self)

    # ------------------------------------------------------------ machinery

    def watch(self, fileobj, mask, owner):
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        old = self.masks.get(fd, 0)
        if mask and old:
            self.selector.modify(fd, mask, owner)
        elif mask:
            self.selector.register(fd, mask, owner)
        elif old:
            self.selector.unregister(fd)
        self.masks[fd] = mask

    def later(self, seconds, action):
        timer = (time.monotonic() + seconds, action)
        self.timers.append(timer)
        return timer

    def cancel(self, timer):
        if timer in self.timers:
            self.timers.remove(timer)

    def event(self, _mask):
        sock, _ = self.listener.accept()
        self.clients.add(Client(self, sock))

    def run(self):
        for node in self.nodes.values():
            node.boot(self.config['mount'])
        while not self.over():
            next_timer = min((t[0] for t in self.timers), default=None)
            timeout = None if next_timer is None else max(0, next_timer - time.monotonic())
            for key, mask in self.selector.select(timeout):
                if self.masks.get(key.fd):
                    key.data.event(mask)
            for timer in [t for t in self.timers if t[0] <= time.monotonic()]:
                self.cancel(timer)
                timer[1]()

    def over(self):
        return self.ending and all(n.state not in ALIVE for n in self.nodes.values())

    # ------------------------------------------------------------ what nodes are made of

    def network(self):
        """A network namespace for the nodes alone. It has no name and ends with the monitor."""
        if self.config['nodes'] < 2:
            return
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) != 0:
            raise Refused('no new network namespace: ' + os.strerror(ctypes.get_errno()))
        commands = ['link set lo up', 'link add br0 type bridge', 'link set br0 up',
                    'link add br1 type bridge', 'link set br1 up']      # br1: do_partition()
        for n in range(1, self.config['nodes'] + 1):
            commands += ['tuntap add tap%d mode tap' % n, 'link set tap%d master br0' % n,
                         'link set tap%d up' % n]
        self.ip(commands)

    @staticmethod
    def ip(commands):
        for command in commands:
            result = subprocess.run(['ip'] + command.split(), capture_output=True, text=True)
            if result.returncode != 0:
                raise Refused('ip %s: %s' % (command, result.stderr.strip()))

    def node_config(self, node):
        config = self.config
        return {'hostname': 'node%d' % node.number, 'dir': config['dir'], 'python': config['python'], 'bin': self.dir + '/bin',
                'modules': ['loop', 'fuse', 'dlm', 'gfs2'], 'shares': config['shares']}

    def node_env(self, node):
        path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
        env = {'HOME': '/root', 'LANG': 'C.UTF-8', 'USER': 'root', 'LOGNAME': 'root',
               'GFS2_NODE': str(node.number), 'GFS2_NODES': str(self.config['nodes'])}
        if self.config['builddir']:
            builddir = self.config['builddir']
            path = ':'.join([builddir + '/src', builddir + '/tools', path])
            env.update(GFS2_FUSE_BUILDDIR=builddir, GFS2_FUSE=builddir + '/src/gfs2-fuse',
                       GLOCKCTL=builddir + '/tools/glockctl')
        return dict(env, PATH=path)

    def setup_steps(self, node, mount):
        config = self.config
        steps = []
        if config['nodes'] > 1:
            # All of them at the start of the cluster; later, nodes that are down are not waited for.
            alive = [n.number for n in self.nodes.values()
                     if n is node or n.boots == 0 or n.state in ALIVE and n.state not in ENDING]
            expect = 'GFS2_EXPECT=' + ' '.join(map(str, alive))
            steps.append(('joining the cluster', ['env', expect, '/bin/sh', self.dir + '/bin/join.sh']))
        if mount and self.disks:
            options = ['lockproto=lock_nolock']
            if config['nodes'] > 1:
                options = ['lockproto=lock_dlm', 'locktable=' + TABLE]
            options += [config['options']] if config['options'] else []
            if node.number in config['kernel']:
                start = ['mount', '-t', 'gfs2']
                name = 'mount kernel'
            else:
                start = [config['daemon']]
                name = 'mount fuse'
            steps.append((name, start + ['-o', ','.join(options), '/dev/ubda', config['dir']]))
        return steps

    # ------------------------------------------------------------ requests

    def request(self, client, request):
        getattr(self, 'do_' + request['op'].replace('-', '_'))(client, request)

    def node(self, request, alive=None):
        node = self.nodes.get(request['node'])
        if node is None:
            raise Refused('there is no node %s: the cluster has %d' %
                          (request['node'], len(self.nodes)))
        if alive is not None and (node.state in ALIVE) != alive:
            raise Refused(node.describe())
        return node

    def do_status(self, client, _request):
        Status(self, client)

    def do_ping(self, client, _request):
        client.done({'nodes': sorted(self.nodes)})

    def do_wait(self, client, request):
        self.wait(client, request.get('nodes') or sorted(self.nodes), ('ready',))

    def do_run(self, client, request):
        node = self.node(request, alive=True)
        # A node whose setup failed still runs commands: they are what finds out why.
        if node.state not in ('ready', 'failed', 'setup'):
            raise Refused(node.describe())
        fields = {k: request[k] for k in ('argv', 'env', 'cwd', 'tty', 'rows', 'cols')
                  if k in request}
        client.node = node
        client.stream = node.start_stream(FarClient(client), fields)

    def do_kill(self, client, request):
        node = self.node(request, alive=True)
        node.kill()
        self.wait(client, [node.number], ('killed',))

    def do_partition(self, client, request):
        if self.config['nodes'] < 2:
            raise Refused('one node has no network')
        apart = [self.node({'node': number}).number for number in request['nodes']]
        self.ip('link set tap%d master br%d' % (n, n in apart) for n in self.nodes)
        client.done()

    def do_start(self, client, request):
        node = self.node(request, alive=False)
        node.boot(request.get('mount', self.config['mount']))
        self.wait(client, [node.number], ('ready',))

    def do_stop(self, client, request):
        node = self.node(request, alive=True)
        node.stop()
        self.wait(client, [node.number], ('off', 'killed'))

    def do_attach(self, client, request):
        # Disk 0 counts as there even without an image: User-Mode Linux wants to boot from it.
        free = [n for n in range(1, len(LETTERS)) if n not in self.disks]
        if not free:
            raise Refused('no more than %d images' % len(LETTERS))
        disk = Disk(request['image'], request.get('readonly', False))
        number = free[0]
        nodes = self.running()
        done = []
        try:
            for node in nodes:
                path = '%s/ubd%s' % (node.dir, LETTERS[number])
                if os.path.lexists(path):
                    os.unlink(path)
                self.console(node, 'config ubd%d%s=%s' % (number, node.flags(disk),
                                                          node.link(number, disk)))
                done.append(node)
        except Refused:
            for node in done:
                self.console(node, 'remove ubd%d' % number)
            disk.close()
            raise
        self.disks[number] = disk
        client.done({'device': '/dev/ubd' + LETTERS[number]})

    def do_detach(self, client, request):
        number = LETTERS.find(request['device'][-1:])
        if number not in self.disks or request['device'] != '/dev/ubd' + LETTERS[number]:
            raise Refused('%s is not attached' % request['device'])
        for node in self.running():
            self.console(node, 'remove ubd%d' % number)
        self.disks.pop(number).close()
        client.done()

    def do_down(self, client, request):
        self.keep_logs = request.get('keep_logs', False)
        self.ending = client
        for node in self.nodes.values():
            if request.get('force') and node.state in ALIVE:
                node.kill()
            else:
                node.stop()

    def power_off(self):
        """Nodes that stop together go when all of them have unmounted: an unmount needs a quorum."""
        stopping = [n for n in self.nodes.values() if n.state == 'stopping']
        if any(n.stopped is None for n in stopping):
            return
        leave = any(n.state in ALIVE and n.state not in ENDING for n in self.nodes.values())
        for node in stopping:
            if not node.off:
                node.off = True
                node.power_off(leave)

    def running(self):
        return [n for n in self.nodes.values() if n.state in ('ready', 'failed', 'setup')]

    def console(self, node, command):
        mconsole(node.dir + '/uml/mconsole', node.dir + '/reply', command)

    # ------------------------------------------------------------ waiting clients

    def wait(self, client, nodes, wanted):
        client.waits = (nodes, wanted)
        self.check_wait(client)

    def check_wait(self, client):
        nodes, wanted = client.waits
        nodes = [self.node({'node': n}) for n in nodes]
        if all(n.state in wanted for n in nodes):
            client.waits = None
            client.done()
            return
        final = [n for n in nodes if n.state not in wanted and
                 n.state in ('off', 'failed', 'died', 'killed')]
        if final:
            client.waits = None
            client.send(wire.REFUSED, 0, '; '.join(n.describe() for n in final))

    def changed(self, node):
        for client in list(self.clients):
            if client.waits is not None and node.number in client.waits[0]:
                client.send(wire.PROGRESS, 0, 'node %d: %s' % (node.number, node.state))
                self.check_wait(client)

    # ------------------------------------------------------------ the end

    def finish(self):
        """The last answer, and nothing left behind."""
        problems = [n.describe() for n in self.nodes.values() if n.state == 'died']
        problems += crashes(self.dir)
        for disk in self.disks.values():
            disk.close()
        clean_up(self.dir, self.config, self.keep_logs or bool(problems))
        if isinstance(self.ending, Client) and self.ending.sock is not None:
            self.ending.sock.setblocking(True)
            self.ending.sock.settimeout(10)
            self.ending.out += wire.pack(wire.DONE, 0, {'problems': problems})
            try:
                self.ending.sock.sendall(self.ending.out)
            except OSError:
                pass


def crashes(directory):
    """What a signal has killed in the nodes (crash.py): a line each."""
    found = []
    for path in sorted(glob.glob(directory + '/cores/*.txt')):
        with open(path, errors='replace') as f:
            found.append('%s: %s' % (os.path.basename(path).split('.')[0], f.readline().strip()))
    return found


def clean_up(directory, config, keep_logs):
    """Removes a cluster's files: what `up` made for it, and its state but perhaps for the logs."""
    for path in config.get('made', ()):
        shutil.rmtree(path, ignore_errors=True)
    if not keep_logs:
        shutil.rmtree(directory, ignore_errors=True)
        return
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if name == 'logs':
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def main():
    directory, notify = sys.argv[1], int(sys.argv[3])
    monitor = None

    def terminate(*_):
        if monitor is None:
            sys.exit(1)
        monitor.ending = monitor.ending or True
        for node in monitor.nodes.values():
            if node.state in ALIVE:
                node.kill()

    try:
        monitor = Monitor(directory)
    except (Refused, OSError) as e:
        os.write(notify, str(e).encode())
        return 1
    # A signal arrives between two rounds of the selector.
    signals, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGTERM, lambda *a: None)
    monitor.watch(signals, selectors.EVENT_READ, SignalReader(signals, terminate))
    os.write(notify, b'ok')
    os.close(notify)
    monitor.run()
    monitor.finish()
    return 0


class SignalReader:
    def __init__(self, sock, action):
        self.sock = sock
        self.action = action

    def event(self, _mask):
        self.sock.recv(64)
        self.action()


if __name__ == '__main__':
    sys.exit(main())
