# SPDX-License-Identifier: GPL-2.0-or-later
"""The cluster as tests and the command line see it.

    with Cluster('mytest') as c:
        c.up(1, kernel=[1], images=[path])
        rc, out, err = c.node(1).run('ls -l /mnt/gfs2')

A cluster is known by its name: any process can use one that is up. Everything here raises
ClusterError with a text for people, or Unavailable (exit status 77) when this machine cannot run
nodes at all. Nothing waits for time: the timeouts are bounds on what should have happened.
"""
import collections
import contextlib
import fcntl
import glob
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

from . import wire
from .monitor import MAX_NODES, TABLE, boot_seconds, clean_up

RUN_DIR = '/run/gfs2-fuse-cluster'
MOUNT_DIR = '/mnt/gfs2'
HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
# The kernel tells who has which slot in one line: gfs2-fuse on a node that is not in it cannot know its journal
# (docs/cluster.md). So many pairs SLOT:NODE fit, numbered from 1.
MAX_FUSE_NODES = 24
NODE_MEMORY = 512                    # MiB, where there is enough
NODE_MEMORY_LEAST = 160              # with less the daemon, corosync and Python are in want
VOLUME_MIB = 2048
VOLUME_MIB_PER_NODE = 256            # a journal, and as much for files
# In a failure's excerpt: why a daemon has ended may have been said long before a test notices it.
TELLING = re.compile(r'gfs2-(fuse|supervisor)\[|crash: |[Oo]ut of memory|oom-kill|segfault|fatal signal|BUG|Oops|dlm_controld\[.*(error|fail)')
CRASH_LINES = 150
GDB_SECONDS = 60
CLOSE_SECONDS = 60      # only a device that somebody has left open reaches it

Result = collections.namedtuple('Result', 'rc out err')


class ClusterError(Exception):
    pass


class Unavailable(ClusterError):
    """This machine lacks something that nodes need. Tests skip, programs exit with 77."""


class CommandFailed(ClusterError):
    def __init__(self, command, result):
        super().__init__('%s: status %d\n%s%s' % (command, result.rc, wire_text(result.out),
                                                  wire_text(result.err)))
        self.result = result


class Timeout(ClusterError):
    pass


def wire_text(data):
    return data if isinstance(data, str) else wire.text(data)


def need_root():
    if os.geteuid() != 0:
        raise ClusterError('must be run as root')


def find_linux(nodes=1):
    """The User-Mode Linux to run. Raises Unavailable with one clear line."""
    linux = os.environ.get('GFS2_FUSE_UML') or shutil.which('linux.uml')
    if not linux or not os.access(linux, os.X_OK):
        raise Unavailable('linux.uml is missing: install the package user-mode-linux')
    if not glob.glob('/usr/lib/uml/modules/*/modules.dep'):
        raise Unavailable('/usr/lib/uml/modules is missing: install the package user-mode-linux')
    if os.uname().machine != 'x86_64':
        raise Unavailable('User-Mode Linux runs on x86-64 only')
    if large_registers() and not find_compiler():
        raise Unavailable('User-Mode Linux needs help with this processor, and there is no C compiler to '
                          'make it: install the package gcc')
    if nodes > 1:
        for program, package in (('corosync', 'corosync'), ('dlm_controld', 'dlm-controld'),
                                 ('ip', 'iproute2')):
            if not shutil.which(program, path=sbin_path()):
                raise Unavailable('%s is missing: install the package %s' % (program, package))
        if not os.path.exists('/dev/net/tun'):
            raise Unavailable('/dev/net/tun is missing: the host kernel has no tun module')
    return linux


def large_registers():
    """Has the processor more register state than User-Mode Linux knows? See xstate.c."""
    try:
        with open('/proc/cpuinfo') as f:
            return any(re.search(r'\bamx_tile\b', line) for line in f if line.startswith('flags'))
    except OSError:
        return False


def find_compiler():
    return next((cc for cc in ('cc', 'gcc', 'clang') if shutil.which(cc)), None)


def sbin_path():
    return os.environ.get('PATH', '') + ':/usr/sbin:/sbin'


def find_python():
    """The interpreter for the agent: the system's, which a node certainly sees."""
    return '/usr/bin/python3' if os.access('/usr/bin/python3', os.X_OK) else sys.executable


def find_builddir(builddir=None):
    """Where the daemon was built: as told, by GFS2_FUSE_BUILDDIR, where GFS2_FUSE is, or the newest
    build* directory."""
    builddir = builddir or os.environ.get('GFS2_FUSE_BUILDDIR')
    if not builddir and os.environ.get('GFS2_FUSE'):
        builddir = os.path.dirname(os.path.dirname(os.path.realpath(os.environ['GFS2_FUSE'])))
    if builddir:
        return os.path.realpath(builddir)
    built = glob.glob(SOURCE + '/build*/src/gfs2-fuse')
    return os.path.dirname(os.path.dirname(max(built, key=os.path.getmtime))) if built else None


def find_daemon(builddir):
    if builddir:
        path = builddir + '/src/gfs2-fuse'
        if not os.access(path, os.X_OK):
            raise ClusterError('no gfs2-fuse in %s: build it, or say --builddir DIR' % builddir)
        return path
    path = shutil.which('gfs2-fuse', path=sbin_path())
    if not path:
        raise ClusterError('no gfs2-fuse found: build it, or say --builddir DIR')
    return os.path.realpath(path)


def up_seconds(nodes):
    """A bound on what has to be waited for where all nodes take part."""
    return boot_seconds(nodes) + 60


def free_memory():
    """MiB that programs could have now."""
    with open('/proc/meminfo') as f:
        sizes = dict(re.findall(r'^(\w+):\s+(\d+) kB$', f.read(), re.MULTILINE))
    return (int(sizes['MemAvailable']) + int(sizes['SwapFree'])) >> 10


def node_memory(mem, nodes):
    """How much each node gets: as told, or what four fifths of the free memory have for each."""
    free = free_memory()
    if mem is None:
        each = min(NODE_MEMORY, free * 4 // 5 // nodes)
        if each < NODE_MEMORY_LEAST:
            raise ClusterError('%d nodes need %d MiB of memory each; this machine has %d MiB free, which is enough for %d nodes'
                               % (nodes, NODE_MEMORY_LEAST, free, free * 4 // 5 // NODE_MEMORY_LEAST))
        return '%dM' % each
    need = parse_size(mem, 'memory') * nodes >> 20
    if need > free:
        raise ClusterError('%d nodes of %s need %d MiB of memory; this machine has %d MiB free' % (nodes, mem, need, free))
    return mem


def memory_dir(mem, nodes):
    """Where the nodes' memory lives: /dev/shm if it is large enough, for it is fastest."""
    need = parse_size(mem, 'memory') * nodes
    for path in ('/dev/shm', '/var/tmp'):
        try:
            st = os.statvfs(path)
        except OSError:
            continue
        if st.f_bavail * st.f_frsize > need + need // 4:
            return path
    raise ClusterError('neither /dev/shm nor /var/tmp has room for the memory of %d nodes, %s each' % (nodes, mem))


def make_volume(path, size, nodes=1, journal_mb=128, bsize=4096, proto=None, table=None,
                mkfs_args=()):
    """mkfs.gfs2 on a new sparse file. Journals of 128 MiB or more: the kernel in a node can livelock
    with smaller ones."""
    mkfs = shutil.which('mkfs.gfs2', path=sbin_path())
    if not mkfs:
        raise Unavailable('mkfs.gfs2 is missing: install the package gfs2-utils')
    with open(path, 'xb') as f:
        f.truncate(size)
    proto = proto or ('lock_nolock' if nodes == 1 else 'lock_dlm')
    command = [mkfs, '-O', '-q', '-b', str(bsize), '-J', str(journal_mb), '-j', str(nodes), '-p', proto]
    if proto != 'lock_nolock':
        command += ['-t', table or TABLE]
    result = subprocess.run(command + list(mkfs_args) + [path], capture_output=True, text=True)
    if result.returncode != 0:
        os.unlink(path)
        raise ClusterError('mkfs.gfs2: ' + (result.stderr + result.stdout).strip())


def parse_size(text, what='size'):
    m = re.fullmatch(r'(\d+)([MG])', text)
    if not m:
        raise ClusterError('%s %r: say it like 512M or 2G' % (what, text))
    return int(m.group(1)) << {'M': 20, 'G': 30}[m.group(2)]


class Connection:
    """One request to the monitor."""

    def __init__(self, name, request):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.parser = wire.Parser()
        try:
            self.sock.connect('%s/%s/control' % (RUN_DIR, name))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            self.sock.close()
            raise ClusterError('no cluster is up') from None
        except PermissionError:
            self.sock.close()
            raise ClusterError('must be run as root') from None
        self.send(wire.REQUEST, 0, request)

    def send(self, kind, stream=0, data=b''):
        try:
            self.sock.sendall(wire.pack(kind, stream, data))
        except (BrokenPipeError, ConnectionResetError):
            pass                     # what the monitor said before is still to be read

    def frames(self):
        """What has arrived; waits for something. None at the end."""
        data = self.sock.recv(65536)
        return self.parser.feed(data) if data else None

    def close(self):
        self.sock.close()

    def result(self, timeout=None, progress=None):
        """Waits for the answer to a simple request."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while True:
                if deadline is not None:
                    self.sock.settimeout(max(0.001, deadline - time.monotonic()))
                frames = self.frames()
                if frames is None:
                    raise ClusterError('the monitor of the cluster has ended')
                for kind, _, data in frames:
                    if kind == wire.DONE:
                        return json.loads(data)
                    if kind == wire.REFUSED:
                        raise ClusterError(wire.text(data))
                    if kind == wire.PROGRESS and progress:
                        progress(wire.text(data))
        except socket.timeout:
            raise Timeout('no answer after %d s' % timeout) from None
        except ConnectionResetError:
            raise ClusterError('the monitor of the cluster has ended') from None
        finally:
            self.close()


class Command:
    """A command that runs in a node.

    Output arrives while pump() runs, which wait() and read_until() do. The command is killed when
    the object is closed before its end, also by the death of this process.
    """

    def __init__(self, cluster, node, command, cwd='/', env=None, tty=None, on_output=None):
        self.command = command
        request = {'op': 'run', 'node': node, 'argv': command_argv(command), 'cwd': cwd,
                   'env': env or {}}
        if tty:
            request.update(tty=True, rows=tty[0], cols=tty[1])
        self.connection = Connection(cluster.name, request)
        self.rc = None
        self.out = bytearray()
        self.err = bytearray()
        self.on_output = on_output or self.collect
        self.credit = wire.WINDOW_IN
        self.pending = bytearray()
        self.eof = False

    def collect(self, kind, data):
        (self.out if kind == wire.OUT else self.err).extend(data)

    def write(self, data):
        """Queues input; it goes out as the command takes it, while pump() runs."""
        self.pending += data
        self.push()

    def close_input(self):
        self.eof = True
        self.push()

    def push(self):
        while self.pending and self.credit > 0 and self.rc is None:
            n = min(len(self.pending), self.credit, wire.CHUNK)
            self.connection.send(wire.IN, 0, self.pending[:n])
            del self.pending[:n]
            self.credit -= n
        if self.eof and not self.pending and self.rc is None:
            self.connection.send(wire.EOF)
            self.eof = False

    def signal(self, number):
        self.connection.send(wire.SIGNAL, 0, str(int(number)))

    def resize(self, rows, cols):
        self.connection.send(wire.WINCH, 0, '%d %d' % (rows, cols))

    def pump(self, timeout=None):
        """Handles what arrives within the timeout. False once the command has ended."""
        if self.rc is not None:
            return False
        if not select.select([self.connection.sock], [], [], timeout)[0]:
            return True
        try:
            frames = self.connection.frames()
        except ConnectionResetError:
            frames = None
        if frames is None:
            raise ClusterError('the monitor of the cluster has ended')
        for kind, _, data in frames:
            if kind in (wire.OUT, wire.ERR):
                self.on_output(kind, data)
                self.connection.send(wire.CREDIT, 0, str(len(data)))
            elif kind == wire.CREDIT:
                self.credit += int(data)
            elif kind == wire.EXIT:
                self.rc = int(data)
                self.close()
                return False
            elif kind == wire.REFUSED:
                self.close()
                raise ClusterError(wire.text(data))
        self.push()
        return True

    def wait(self, timeout=None):
        """Waits for the end; returns Result(rc, out, err)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.pump(None if deadline is None else max(0, deadline - time.monotonic())):
            if deadline is not None and time.monotonic() > deadline:
                self.close()
                raise Timeout('%s: still running after %s s\n%s%s' % (
                    self.command, timeout, wire.text(self.out), wire.text(self.err)))
        return Result(self.rc, bytes(self.out), bytes(self.err))

    def read_until(self, text, timeout=120):
        """Waits until the text has appeared in the standard output."""
        deadline = time.monotonic() + timeout
        want = text.encode()
        while want not in self.out:
            left = deadline - time.monotonic()
            if left <= 0 or not self.pump(left):
                raise Timeout('%s: %r did not appear\n%s%s' % (
                    self.command, text, wire.text(self.out), wire.text(self.err)))

    def close(self):
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def command_argv(command):
    """A text is for the shell, a list is taken word for word."""
    return ['/bin/sh', '-c', command] if isinstance(command, str) else [str(w) for w in command]


class Node:
    def __init__(self, cluster, number):
        self.cluster = cluster
        self.number = number

    def run(self, command, input=None, timeout=600, check=False, text=True, cwd='/', env=None):
        """Runs a command (text: by the shell; list: as it is) to its end.

        Returns Result(rc, out, err), as text unless text=False. 128 + signal for a killed command,
        as in a shell. check=True raises CommandFailed if rc is not 0.
        """
        with self.spawn(command, cwd=cwd, env=env) as process:
            if input:
                process.write(input.encode() if isinstance(input, str) else input)
            process.close_input()
            result = process.wait(timeout)
        if text:
            result = Result(result.rc, wire.text(result.out), wire.text(result.err))
        if check and result.rc != 0:
            raise CommandFailed(command, result)
        return result

    def spawn(self, command, cwd='/', env=None):
        """Starts a command and returns it, a Command."""
        return Command(self.cluster, self.number, command, cwd, env)

    def kill(self):
        """A power cut: returns when no process of the node is left."""
        self.cluster.request({'op': 'kill', 'node': self.number})

    def start(self, mount=None):
        """Boots it after kill or stop. mount: as `up` was told unless said here."""
        request = {'op': 'start', 'node': self.number}
        if mount is not None:
            request['mount'] = mount
        self.cluster.request(request, up_seconds(len(self.cluster.numbers())))

    def stop(self):
        """Unmounts and powers off. After it the images on the host are complete."""
        self.cluster.request({'op': 'stop', 'node': self.number}, up_seconds(len(self.cluster.numbers())))

    def mount(self, device='/dev/ubda', how='kernel', dir=MOUNT_DIR, options='', check=True):
        """Mounts by the kernel's gfs2 or by the daemon ('fuse'), alone or, where there are several nodes and it
        is the volume, with the others. Returns the Result."""
        shared = device == '/dev/ubda' and self.cluster.config()['nodes'] > 1
        lock = 'lockproto=lock_dlm,locktable=' + TABLE if shared else 'lockproto=lock_nolock'
        options = ','.join(o for o in (lock, options) if o)
        program = (['mount', '-t', 'gfs2'] if how == 'kernel'
                   else [self.cluster.config()['daemon'] or 'gfs2-fuse'])
        self.run(['mkdir', '-p', dir], check=True)
        return self.run(program + ['-o', options, device, dir], check=check)

    def umount(self, dir=MOUNT_DIR):
        """Unmounts, and waits until a daemon has let go of its device."""
        device = self.run(['findmnt', '-nro', 'SOURCE', '--mountpoint', dir]).out.strip()
        self.run(['umount', dir], check=True)
        if device.startswith('/dev/ubd'):
            self.run([find_python(), '-I', '-S', self.cluster.bin('released.py'), device], check=True)

    def sync(self):
        self.run(['sync'], check=True)

    def console(self):
        """The kernel's messages, and what programs said to syslog, of all the node's lives so far."""
        with open(self.cluster.log_path('console%d.log' % self.number), errors='replace') as f:
            return f.read()


class Cluster:
    def __init__(self, name=None):
        """name: clusters of different names do not disturb each other."""
        self.name = name or os.environ.get('GFS2_FUSE_CLUSTER') or 'default'
        if not re.fullmatch(r'[A-Za-z0-9_-]{1,24}', self.name):
            raise ClusterError('cluster name %r: at most 24 letters, digits, - and _' % self.name)
        self.dir = '%s/%s' % (RUN_DIR, self.name)
        self.monitor = None          # if this process has started it, to be reaped

    def __enter__(self):
        return self

    def __exit__(self, kind, _value, _tb):
        if kind is not None and issubclass(kind, Exception) and os.path.isdir(self.dir):
            print(self.log_tail(40), file=sys.stderr)
        self.down(force=kind is not None)

    def bin(self, name):
        return '%s/bin/%s' % (self.dir, name)

    def log_path(self, name):
        return '%s/logs/%s' % (self.dir, name)

    def config(self):
        with open(self.dir + '/config.json') as f:
            return json.load(f)

    def request(self, request, timeout=60, progress=None):
        return Connection(self.name, request).result(timeout, progress)

    def node(self, number):
        return Node(self, number)

    def is_up(self):
        try:
            self.request({'op': 'ping'})
            return True
        except ClusterError:
            return False

    def status(self):
        """What every node is now, asked of each."""
        return self.request({'op': 'status'})

    def numbers(self):
        """The nodes, up or not."""
        return self.request({'op': 'ping'})['nodes']

    def attach(self, image, readonly=False):
        """Gives an image to all nodes; returns its device name there. The image stays locked
        (flock) until it is detached."""
        request = {'op': 'attach', 'image': os.path.realpath(image), 'readonly': readonly}
        return self.request(request)['device']

    def detach(self, device):
        """Takes the image away. Who had the device open may have ended already, and its locks be gone, while the node's kernel is
        still closing it: that is waited for."""
        end = time.monotonic() + CLOSE_SECONDS
        while True:
            try:
                self.request({'op': 'detach', 'device': device})
                return
            except ClusterError as error:
                if 'currently open' not in str(error) or time.monotonic() > end:
                    raise
            time.sleep(0.05)

    # ------------------------------------------------------------ up

    def up(self, nodes=1, kernel=(), mount=True, images=(), options='', builddir=None, mem=None,
           size=None, share=(), share_rw=(), progress=None, slow_disk=False):
        """Boots the nodes and waits until all are ready.

        kernel: the nodes on which the kernel's gfs2 mounts the volume; on the others the daemon
        does. images: image files, the first of them is the volume; without any a volume of the
        given size (by default enough for the nodes) is made and removed at down; None for no volume at all. share,
        share_rw: directories that are the host's own in the nodes (the source tree and
        the build directory always are, read-only). slow_disk: disk_delay() is wanted.
        """
        need_root()
        if not 1 <= nodes <= MAX_NODES:
            raise ClusterError('%d nodes: 1 to %d' % (nodes, MAX_NODES))
        for n in kernel:
            if not 1 <= n <= nodes:
                raise ClusterError('--kernel %d: the nodes are 1 to %d' % (n, nodes))
        mounts = mount and images is not None
        if mounts and nodes > MAX_FUSE_NODES and len(set(kernel)) < nodes:
            raise ClusterError("%d nodes: gfs2-fuse works on %d at most (docs/cluster.md says why); more take the kernel's gfs2 "
                               "(--kernel 1-%d) or --no-mount" % (nodes, MAX_FUSE_NODES, nodes))
        mem = node_memory(mem, nodes)
        size = parse_size(size) if size else max(VOLUME_MIB, VOLUME_MIB_PER_NODE * nodes) << 20
        linux = find_linux(nodes)
        with self.new_lock() as lock:
            for image in images or ():
                if not os.path.exists(image):
                    raise ClusterError('%s: no such image' % image)
            config = {'name': self.name, 'nodes': nodes, 'kernel': sorted(set(kernel)),
                      'mount': mounts, 'disks': [], 'made': [],
                      'options': options, 'mem': mem, 'tmpdir': memory_dir(mem, nodes),
                      'dir': MOUNT_DIR, 'linux': linux, 'python': find_python(), 'preload': []}
            if slow_disk:
                config['disk_delay'] = self.dir + '/disk-delay'
            self.configure_paths(config, builddir, share, share_rw)
            self.prepare(config, images, size)
            self.start_monitor(lock)
        try:
            self.request({'op': 'wait'}, up_seconds(nodes), progress)
        except BaseException as e:
            with contextlib.suppress(ClusterError):
                self.down(force=True, keep_logs=True)
            if isinstance(e, ClusterError):
                raise type(e)('%s\n%s' % (e, self.log_tail())) from None
            raise

    def configure_paths(self, config, builddir, share, share_rw):
        """The daemon, and the directories that are the host's own in the nodes."""
        builddir = find_builddir(builddir)
        daemon = None
        if config['mount'] and len(config['kernel']) < config['nodes']:
            daemon = find_daemon(builddir)
        elif builddir and os.access(builddir + '/src/gfs2-fuse', os.X_OK):
            daemon = builddir + '/src/gfs2-fuse'
        shares = [SOURCE]
        # What a test is told to use, its node must see.
        used = [os.path.dirname(os.environ[v]) for v in ('GFS2_FUSE', 'GLOCKCTL') if os.environ.get(v)]
        used += [os.environ[v] for v in ('GFS2_TEST_PROGS',) if os.environ.get(v)]
        used = [os.path.realpath(path) for path in used if os.path.isdir(path)]
        for path in [builddir, daemon and os.path.dirname(daemon)] + used:
            if path and not any(path == d or path.startswith(d + '/') for d in shares + ['/usr']):
                shares.append(path)
        shares = [[path, False] for path in shares + [os.path.realpath(d) for d in share]]
        shares += [[os.path.realpath(d), True] for d in share_rw]
        for path, _ in shares:
            if not os.path.isdir(path):
                raise ClusterError('%s: no such directory' % path)
        config.update(builddir=builddir, daemon=daemon,
                      shares=[[self.dir + '/bin', False], [self.dir + '/cores', True]] + shares)

    @contextlib.contextmanager
    def new_lock(self):
        """The lock that a running monitor holds. Whoever gets it may clear up what is left over.
        It goes on to the monitor; if none is started it vanishes again."""
        os.makedirs(RUN_DIR, mode=0o700, exist_ok=True)
        path = self.dir + '.lock'
        fd = self.take_lock(path)
        try:
            yield fd
        except BaseException:
            os.unlink(path)
            with contextlib.suppress(OSError):
                os.rmdir(RUN_DIR)
            raise
        finally:
            os.close(fd)

    @staticmethod
    def take_lock(path):
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Another may have unlinked it between the two calls.
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
            except FileNotFoundError:
                pass
            except OSError:
                os.close(fd)
                raise ClusterError('a cluster is up already: `cluster down` ends it') from None
            os.close(fd)

    def prepare(self, config, images, size):
        """The state directory, and the volume if none was given."""
        self.clear()
        os.makedirs(self.dir, mode=0o700)
        os.mkdir(self.dir + '/logs')
        os.mkdir(self.dir + '/cores')
        shutil.copytree(HERE, self.dir + '/bin', ignore=shutil.ignore_patterns('__pycache__'))
        if large_registers():
            self.preload(config, 'xstate')
        if 'disk_delay' in config:
            self.disk_delay(0)
            self.preload(config, 'slowdisk')
        try:
            if images is not None and not images:
                made = tempfile.mkdtemp(prefix='gfs2-fuse-cluster-%s-' % self.name, dir='/var/tmp')
                config['made'].append(made)
                self.save(config)
                images = [made + '/volume.img']
                make_volume(images[0], size, config['nodes'])
            config['disks'] = [{'image': os.path.realpath(i), 'readonly': False} for i in images or ()]
            self.save(config)
        except BaseException:
            clean_up(self.dir, config, False)
            raise

    def preload(self, config, name):
        """Builds what is to be loaded into the nodes' kernels."""
        compiler = find_compiler()
        if not compiler:
            raise Unavailable('there is no C compiler to build %s.c: install the package gcc' % name)
        made = subprocess.run([compiler, '-O2', '-shared', '-fPIC', '-o', self.bin(name + '.so'), self.bin(name + '.c'), '-ldl'],
                              capture_output=True, text=True)
        if made.returncode != 0:
            raise ClusterError('%s.c: %s' % (name, made.stderr.strip()))
        config['preload'].append(self.bin(name + '.so'))

    def disk_delay(self, microseconds):
        """From now on each write to a disk lasts that much longer (only where `up` was told slow_disk)."""
        with open(self.dir + '/disk-delay', 'r+b' if os.path.exists(self.dir + '/disk-delay') else 'xb') as f:
            f.write(struct.pack('=I', microseconds))

    def save(self, config):
        with open(self.dir + '/config.json', 'w') as f:
            json.dump(config, f, indent=1)

    def start_monitor(self, lock):
        ours, theirs = os.pipe()
        command = [find_python(), '-B', HERE + '/monitor.py', self.dir, str(lock), str(theirs)]
        with open(self.dir + '/logs/monitor.log', 'ab') as log:
            monitor = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       cwd='/', start_new_session=True, pass_fds=[lock, theirs])
        os.close(theirs)
        with os.fdopen(ours, 'rb') as f:
            answer = f.read().decode(errors='replace')
        if answer != 'ok':
            monitor.wait()
            text = answer or self.log_tail()
            clean_up(self.dir, self.config(), False)
            raise ClusterError(text)
        self.monitor = monitor

    def partition(self, *nodes):
        """From now on these nodes see each other, and the others each other. None: all see all again."""
        self.request({'op': 'partition', 'nodes': list(nodes)})

    # ------------------------------------------------------------ down

    def down(self, force=False, keep_logs=False):
        """Ends the cluster and removes all of it. Returns the problems of unmounting, as texts.
        force: a power cut instead of unmounting."""
        request = {'op': 'down', 'force': force, 'keep_logs': keep_logs}
        problems = []
        self.examine_crashes()
        try:
            problems = self.request(request, up_seconds(len(self.numbers())))['problems']
        except ClusterError as e:
            if str(e) != 'no cluster is up':
                raise
        # The monitor's last act is to die and let go of the lock.
        with self.released_lock():
            if not keep_logs and not problems:
                self.clear()
        return problems

    @contextlib.contextmanager
    def released_lock(self):
        if not os.path.isdir(RUN_DIR):
            yield
            return
        path = self.dir + '.lock'
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with alarm(60, 'the monitor does not end'):
                fcntl.flock(fd, fcntl.LOCK_EX)
            if self.monitor is not None:
                self.monitor.wait()
                self.monitor = None
            yield
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        finally:
            os.close(fd)
        with contextlib.suppress(OSError):
            os.rmdir(RUN_DIR)

    def clear(self):
        """Removes what a monitor that was killed, or a failed `up`, has left. Needs the lock."""
        if not os.path.isdir(self.dir):
            return
        try:
            config = self.config()
        except (OSError, ValueError):
            config = {}
        clean_up(self.dir, config, False)

    # ------------------------------------------------------------ logs

    def logs(self, node=None):
        """Everything logged, or what one node has logged."""
        self.examine_crashes()
        texts = []
        names = sorted(os.path.basename(p) for p in glob.glob(self.dir + '/logs/*'))
        for name in names:
            if node is not None and not re.fullmatch(r'(console|node)%d\.log|crash\.node%d\..*' % (node, node), name):
                continue
            with open(self.log_path(name), errors='replace') as f:
                texts.append('==> %s <==\n%s' % (name, f.read()))
        if not texts and names:
            raise ClusterError('there is nothing of a node %d' % node)
        if not texts:
            raise ClusterError('no cluster is up and no logs have been kept')
        return '\n'.join(texts)

    def log_tail(self, lines=15):
        """The ends of all logs, of what came before the lines that tell most, and all of what is known of crashes."""
        self.examine_crashes()
        texts = []
        for path in sorted(glob.glob(self.dir + '/logs/*')):
            with open(path, errors='replace') as f:
                text = f.read().splitlines()
            crash = os.path.basename(path).startswith('crash.')
            tail = text[-(CRASH_LINES if crash else lines):]
            marked = [line for line in text[:-len(tail)] if TELLING.search(line)][-lines:] if not crash else []
            if tail:
                texts.append('==> %s <==\n%s' % (path, '\n'.join(marked + ['...'] * bool(marked) + tail)))
        return '\n'.join(texts)

    def examine_crashes(self):
        """Puts a file into the logs for each program that a signal has killed: what crash.py says, and with a gdb where its threads were."""
        for path in glob.glob(self.dir + '/cores/*.txt'):
            log = self.log_path('crash.' + os.path.basename(path)[:-4])
            if os.path.exists(log):
                continue
            with open(path, errors='replace') as f:
                text = f.read()
            program, core = text.split('\n')[1], path[:-4]
            if shutil.which('gdb') and os.path.exists(core) and os.access(program, os.X_OK):
                command = ['gdb', '-nx', '-batch', '-ex', 'set print thread-events off', '-ex', 'bt 30', '-ex', 'thread apply all bt 12',
                           program, core]
                env = {k: v for k, v in os.environ.items() if k != 'DEBUGINFOD_URLS'}
                try:
                    text += subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env,
                                           timeout=GDB_SECONDS, encoding='utf-8', errors='replace').stdout
                except subprocess.TimeoutExpired:
                    text += 'gdb has not finished after %d s\n' % GDB_SECONDS
            with contextlib.suppress(FileNotFoundError), open(log, 'w') as f:
                f.write(text)


@contextlib.contextmanager
def alarm(seconds, text):
    """A bound on a call that cannot be given a timeout."""
    def ring(*_):
        raise ClusterError(text)
    try:
        old = signal.signal(signal.SIGALRM, ring)
    except ValueError:               # not the main thread: then without a bound
        yield
        return
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
