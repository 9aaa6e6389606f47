# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests ask of a node about one image: read it, replay it, leave it dirty."""
import contextlib
import os
import re
import subprocess

from . import client

MANIFEST = client.SOURCE + '/tests/manifest.py'
CHURN = client.SOURCE + '/tests/uml/churn.py'
READ_DIR = '/mnt/volume'


@contextlib.contextmanager
def a_node(node=None):
    """The node given, or one of a cluster that lasts as long as the context."""
    if node is not None:
        yield node
        return
    with client.Cluster('tmp%d' % os.getpid()) as cluster:
        cluster.up(1, images=None)
        yield cluster.node(1)


@contextlib.contextmanager
def kernel_mount(node, image, readonly=False, options=''):
    """The image mounted by the kernel's gfs2 on a running node; yields the directory there.
    After it the image is complete and unlocked on the host. A node that was killed inside the
    context is left alone."""
    device = node.cluster.attach(image, readonly)
    try:
        # acl: gfs2 has none without it
        node.mount(device, 'kernel', READ_DIR, ','.join(o for o in ('ro' if readonly else '', 'acl',
                                                                    options) if o))
        try:
            yield READ_DIR
        finally:
            if alive(node):
                node.umount(READ_DIR)
    finally:
        node.cluster.detach(device)


def alive(node):
    states = {n['node']: n['state'] for n in node.cluster.status()['nodes']}
    return states[node.number] == 'ready'


def manifest(node, directory, *options):
    """What tests/manifest.py prints about a directory of a node."""
    return node.run(['/usr/bin/python3', '-I', '-S', MANIFEST, *options, directory], check=True).out


def kernel_read(image, node=None, readonly=True, options=()):
    """What the kernel's gfs2 finds in an image, as tests/manifest.py prints it.

    readonly: nothing is written, so a journal that needs replay is refused. Otherwise the kernel
    replays it first, and the image is as the kernel's unmount leaves it.
    """
    with a_node(node) as n, kernel_mount(n, image, readonly) as directory:
        return manifest(n, directory, *options)


def leave_dirty(image, node=None, acknowledged=50):
    """Has the kernel's gfs2 write, and cuts the power in the middle of it.

    Returns [(path, SHA-256)] of files that had been fsynced; the image's journal needs replay and
    the node, if one was given, is killed.
    """
    with a_node(node) as n, kernel_mount(n, image) as directory:
        with n.spawn(['/usr/bin/python3', '-I', '-S', CHURN, directory]) as churn:
            churn.read_until('ok %d ' % acknowledged)
            n.kill()
            # What was said before the cut has been heard: kill returns after the line was emptied.
            with contextlib.suppress(client.ClusterError):
                churn.wait(60)
            text = churn.out.decode()
    done = re.findall(r'^ok \d+ (\S+) ([0-9a-f]{64})$', text, re.M)
    if len(done) < acknowledged:
        raise client.ClusterError('the workload acknowledged only %d files' % len(done))
    return done


def is_dirty(image):
    """Whether a journal of the image needs replay, by fsck.gfs2's word."""
    result = subprocess.run(['fsck.gfs2', '-n', image], stdin=subprocess.DEVNULL,
                            capture_output=True, text=True)
    return ' is dirty' in result.stdout + result.stderr


@contextlib.contextmanager
def scratch(node, path, size=4 << 30, directory='/scratch'):
    """An ext4 of the node's own on a disk, for tests that need room and direct I/O, which a node's
    tmpfs has not. path: a file to be made on the host, and removed again."""
    with open(path, 'xb') as f:
        f.truncate(size)
    try:
        subprocess.run(['mkfs.ext4', '-q', '-F', path], check=True)
        device = node.cluster.attach(path)
        try:
            node.run(['mkdir', '-p', directory], check=True)
            node.run(['mount', device, directory], check=True)
            try:
                yield directory
            finally:
                if alive(node):
                    node.umount(directory)
        finally:
            node.cluster.detach(device)
    finally:
        os.unlink(path)
