#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: damaged volumes by a coverage-guided fuzzer (libFuzzer with --full; the inputs it starts from in any run); the decoders it reached are counted
# timeout: 240
# variants: asan
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402

# (block size, number of inputs).  What they reach depends on the seed, so only what is met very often is required.
RUNS = [(512, 3000), (4096, 1500)]
DECODERS = ["check_header", "gfs2_meta_read", "gfs2_dinode_in", "gfs2_check_pointer", "batch_collect", "dir_leaf_range", "list_block",
            "check_entry", "header_in", "neither log header nor descriptor", "home block # is outside of the volume"]


def make(directory, bs):
    """A volume, and what a fuzzer starts from."""
    program = os.path.join(directory, "tests", "fuzz", "fuzz-corrupt")
    volume = Volume(size="32M", bs=bs)
    corpus = temp("corpus")
    os.mkdir(corpus)
    run([program, "make", volume.path])
    run([program, "seeds", volume.path, corpus])
    check(len(os.listdir(corpus)) > 60, f"only {len(os.listdir(corpus))} inputs to start from")
    return volume, corpus


def case_seeds():
    """Inputs that change nothing are volumes without a fault."""
    need_fuse()
    directory = os.environ.get("GFS2_FUSE_BUILDDIR") or skip("GFS2_FUSE_BUILDDIR does not name a build directory")
    volume, corpus = make(directory, 512)
    report = temp("report")
    damage = os.path.join(corpus, "zz-damage")
    # the first dinode, its whole header: nothing is right in it any more
    write_file(damage, bytes([0, 0, 0, 0, 0, 0, 200]) + bytes(200))
    env = dict(os.environ, GFS2_FUZZ_IMAGE=volume.path, GFS2_FUZZ_REPORT=report)
    program = os.path.join(directory, "tests", "fuzz", "fuzz-volume")
    run([program, damage], env=env)
    check("rule" in read_file(report).decode(), "a damaged dinode was not noticed")
    os.unlink(damage)
    if not FULL:
        for name in sorted(os.listdir(corpus))[::2]:
            os.unlink(os.path.join(corpus, name))
    run([program, corpus], env=env)
    equal(read_file(report).decode(), "", "complaints about volumes without a fault")


def build():
    where = temp("libfuzzer")
    run(["meson", "setup", "-Dbuildtype=debugoptimized", "-Doptimization=1", "-Ddebug-checks=enabled", "-Dfuzzer=true",
         "-Db_sanitize=address,undefined", "-Db_lundef=false", where, ROOT], timeout=STEP_SECONDS * 5, env=dict(os.environ, CC="clang"))
    run(["ninja", "-C", where, "tests/fuzz/fuzz-corrupt", "tests/fuzz/fuzz-volume"], timeout=STEP_SECONDS * 5)
    return where


def case_libfuzzer():
    need_fuse()
    if not FULL:
        skip("libFuzzer's build and runs take minutes")
    where = os.environ.get("GFS2_LIBFUZZER_BUILDDIR") or build()
    met = {}
    for bs, runs in RUNS:
        volume, corpus = make(where, bs)
        report, found = temp("report"), temp("found")
        os.mkdir(found)
        env = dict(os.environ, GFS2_FUZZ_IMAGE=volume.path, GFS2_FUZZ_REPORT=report)
        done = run([os.path.join(where, "tests", "fuzz", "fuzz-volume"), f"-runs={runs}", f"-seed={SEED or 1}", "-max_len=1024",
                    "-timeout=300", "-rss_limit_mb=2048", "-malloc_limit_mb=512", "-print_final_stats=1", "-report_slow_units=10000",
                    f"-artifact_prefix={found}/", corpus], env=env, ok=None, timeout=STEP_SECONDS * 30)
        crashes = {name: read_file(os.path.join(found, name)).hex() for name in os.listdir(found)}
        check(done.returncode == 0 and not crashes,
              f"blocks of {bs}: exit status {done.returncode}, inputs {crashes}\n{done.stdout[-6000:]}")
        lines = done.stdout.splitlines()
        log(f"blocks of {bs}: {lines[-1] if lines else ''}")
        for line in lines:
            if re.match(r"#\d+\s+(INITED|DONE)|stat::", line):
                log(line)
        executed = int(re.search(r"stat::number_of_executed_units: (\d+)", done.stdout)[1])
        check(executed >= runs, f"only {executed} inputs were tried")
        for line in read_file(report).decode().splitlines():
            _, count, text = line.split("\t", 2)
            text = text.replace("gfs#", "gfs2")     # numbers are shown as '#', those of names too
            met[text] = met.get(text, 0) + int(count)
        volume.remove()
    for text, count in sorted(met.items(), key=lambda item: -item[1]):
        log(f"{count:6} {text}")
    missing = [name for name in DECODERS if not any(name in text for text in met)]
    check(not missing, "these decoders have never refused anything: " + ", ".join(missing))


main()
