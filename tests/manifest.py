#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints what a tree contains, one line per entry, sorted by name, so that two can be compared.

    manifest.py [--exact] [--no-times] DIR

Tab-separated: path, type, mode, uid, gid, links, size, mtime in ns, and what the type adds: a
file's SHA-256, a symlink's target, a device's major:minor. Names that share an inode show the first
of them as `=path`. Extended attributes follow, if there are any: a digest of all names and values,
and their names. Access times, inode numbers and blocks are left out.

A directory's size, which each file system counts in its own way, is shown with --exact only.
Exit status 1 if something could not be read; its line then says so.
"""
import argparse
import errno
import hashlib
import os
import stat
import sys

TYPES = {stat.S_IFREG: 'file', stat.S_IFDIR: 'dir', stat.S_IFLNK: 'link', stat.S_IFIFO: 'fifo',
         stat.S_IFSOCK: 'sock', stat.S_IFCHR: 'chr', stat.S_IFBLK: 'blk'}


def show(name):
    """A name on one line of ASCII, whatever bytes it is made of; distinct names stay distinct."""
    out = []
    for byte in name:
        char = chr(byte)
        if char == '\\' or not 0x21 <= byte <= 0x7e:
            out.append('\\x%02x' % byte)
        else:
            out.append(char)
    return ''.join(out)


def digest(path):
    h = hashlib.sha256()
    with open(path, 'rb', buffering=0) as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def names_below(top):
    """All names below a directory, relative to it, with errors in the place of what cannot be read."""
    todo = [b'']
    while todo:
        directory = todo.pop()
        try:
            with os.scandir(os.path.join(top, directory) if directory else top) as entries:
                names = [(os.path.join(directory, e.name), e.is_dir(follow_symlinks=False))
                         for e in entries]
        except OSError as e:
            yield directory, e
            continue
        for name, is_dir in names:
            yield name, None
            if is_dir:
                todo.append(name)


def attributes(path):
    """Extended attributes as one field: their number, a digest of names and values, the names."""
    try:
        names = sorted(os.listxattr(path, follow_symlinks=False))
    except OSError as e:
        if e.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            return ()
        raise
    if not names:
        return ()
    h = hashlib.sha256()
    for name in names:
        value = os.getxattr(path, name, follow_symlinks=False)
        h.update(b'%s=%d:%s\0' % (os.fsencode(name), len(value), value))
    shown = ' '.join(show(os.fsencode(n)) for n in names)
    return ('xattr %d %s %s' % (len(names), h.hexdigest()[:32], shown[:200]),)


def describe(top, name, first_names, args):
    path = os.path.join(top, name) if name else top
    st = os.lstat(path)
    kind = stat.S_IFMT(st.st_mode)
    is_dir = kind == stat.S_IFDIR
    extra = '-'
    if kind == stat.S_IFREG:
        extra = digest(path)
    elif kind == stat.S_IFLNK:
        extra = show(os.readlink(path))
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        extra = '%d:%d' % (os.major(st.st_rdev), os.minor(st.st_rdev))
    if not is_dir and st.st_nlink > 1:
        first = first_names.setdefault(st.st_ino, name)
        if first != name:
            extra = '=' + show(first)
    size = '-' if is_dir and not args.exact else st.st_size
    return (TYPES.get(kind, '?'), '%04o' % stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid,
            st.st_nlink, size, '-' if args.no_times else st.st_mtime_ns, extra, *attributes(path))


def manifest(top, args, out):
    """Returns the number of entries that could not be read."""
    errors = {}
    names = {b''}
    for name, error in names_below(top):
        names.add(name)
        if error:
            errors[name] = error
    first_names = {}
    for name in sorted(names):
        try:
            fields = describe(top, name, first_names, args)
        except OSError as e:
            errors[name] = e
            fields = ()
        if name in errors:
            fields = tuple(fields) + ('ERROR ' + errors[name].strerror,)
        print('./' + show(name), *fields, sep='\t', file=out)
    return len(errors)


def main():
    p = argparse.ArgumentParser(description='Prints what a tree contains.')
    p.add_argument('--exact', action='store_true')
    p.add_argument('--no-times', action='store_true')
    p.add_argument('dir')
    args = p.parse_args()
    return 1 if manifest(os.fsencode(args.dir), args, sys.stdout) else 0


if __name__ == '__main__':
    sys.exit(main())
