#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: thousands of damaged volumes: every structure mutated, then mounted, walked, read, written; the decoders that were reached are counted
# timeout: 240
# variants: asan
import concurrent.futures
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

# (block size, seed, number).  The list is fixed: a failure comes again.  The two block sizes differ in
# what there is: only small blocks have bitmap blocks and hash tables outside of the dinode.
RUNS = [(512, 11, 400), (4096, 12, 200)]
FULL_RUNS = [(bs, seed, 4000) for bs in (512, 1024, 2048, 4096) for seed in (1, 2)]

# Who must have refused something, by name or by what is said.  Those of a full run only are met too
# rarely for a short one.  (What frees xattrs is not among them: the walk before it has read them all, and list_block refuses first.)
DECODERS = """
check_header gfs2_meta_read gfs2_dinode_in gfs2_check_pointer batch_collect dir_leaf_range list_block
check_entry header_in
neither log header nor descriptor|revoke of a block outside of the volume
home block # is outside of the volume|the system file
"""
FULL_DECODERS = """
gfs2_map_journal_extents dir_find_linear dir_chain_next gfs2_free_blocks
dir_find dir_hash_get dir_chain_begin collect_chain read_linear read_entries gfs2_dealloc_commit add_clear
image of a metadata block is none|home block # is in the journal itself
descriptor reaches beyond the head of the log|descriptor of unknown type
descriptor has more items than blocks
log header with a tail outside of the journal|is not the dinode of a statfs file
"""


def wanted(text):
    for line in text.strip().splitlines():
        yield from line.split("|") if "|" in line or " " in line and "_" not in line else line.split()


def program():
    where = os.environ.get("GFS2_FUSE_BUILDDIR")
    if not where:
        skip("GFS2_FUSE_BUILDDIR does not name a build directory")
    return os.path.join(where, "tests", "fuzz", "fuzz-corrupt")


def mutations(bs, seed, count, rules, kinds):
    volume = Volume(size="32M", bs=bs)
    env = dict(os.environ)
    # Nothing on a volume of this size is a reason to ask for so much at once.
    env["ASAN_OPTIONS"] = env.get("ASAN_OPTIONS", "") + ":max_allocation_size_mb=512:handle_abort=1"
    run([program(), "make", volume.path], env=env)
    volume.fsck()
    done = run([program(), "run", volume.path, seed, 0, count], timeout=STEP_SECONDS * (30 if FULL else 2),
               ok=None, env=env)
    for line in done.stdout.splitlines():
        word = line.split("\t")
        if word[0] == "rule":
            # Numbers are shown as '#', those of names too.
            text = word[2].replace("gfs#", "gfs2")
            rules[text] = rules.get(text, 0) + int(word[1])
        else:
            log(line)
        if word[0] == "kind":
            kinds[word[1]] = kinds.get(word[1], 0) + int(word[3])
    check(done.returncode == 0, f"blocks of {bs}, seed {seed}: exit status {done.returncode}")
    for name in (".dirty", ".work"):
        os.unlink(volume.path + name)
    volume.remove()


def case_mutations():
    need_fuse()
    rules, kinds = {}, {}
    with concurrent.futures.ThreadPoolExecutor(2 if FULL else 1) as pool:
        started = [pool.submit(mutations, bs, seed, count, rules, kinds) for bs, seed, count in (FULL_RUNS if FULL else RUNS)]
        for future in started:
            future.result()
    for kind, noticed in kinds.items():
        check(noticed, f"no damage to a {kind} was noticed")
    for text, count in sorted(rules.items(), key=lambda item: -item[1]):
        log(f"{count:6} {text}")
    missing = [name for name in list(wanted(DECODERS)) + (list(wanted(FULL_DECODERS)) if FULL else [])
               if not any(name in text for text in rules)]
    check(not missing, "these decoders have never refused anything: " + ", ".join(missing))


main()
