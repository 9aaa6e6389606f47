#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: tools/xfstests with a checkout that is none: reading what check prints, comparing, the surroundings of the tests, and nothing left behind
# timeout: 180
# variants: plain
import glob
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from testlib import *    # noqa: E402
sys.path.insert(0, os.path.join(ROOT, "tools", "lib", "xfstests"))
import outcome           # noqa: E402

TOOL = os.path.join(ROOT, "tools", "lib", "xfstests", "xfstests.py")


# ---------------------------------------------------------------- reading and comparing

PRINTED = """FSTYP         -- gfs2
MKFS_OPTIONS  -- -j 1 generic/001 is not a test here

generic/001         4s
generic/002 3s ...  5s
generic/003        [not run] xfs_io fiemap  failed (old kernel/wrong fs?)
generic/004        [failed, exit status 1]- output mismatch (see /r/generic/004.out.bad)
    --- tests/generic/004.out	2026
    +++ /r/generic/004.out.bad	2026
    @@ -1,2 +1,3 @@
     QA output created by 004
    -Silence is golden
    +generic/005 was in the way
    ...
generic/005 2s ... _check_generic_filesystem: filesystem on /dev/loop1 is inconsistent
(see /r/generic/005.full for details)
 2s
generic/0061        3s
generic/007         3s
generic/008        """


def case_check_output():
    names = [f"generic/{name}" for name in ("001", "002", "003", "004", "005", "006", "0061", "007", "008")]
    for step in (1, 7, len(PRINTED)):
        parser = outcome.Parser(names)
        results = []
        for at in range(0, len(PRINTED), step):
            results += parser.feed(PRINTED[at:at + step])
        results += parser.end()
        equal([(result.name[8:], result.result) for result in results],
              [("001", "pass"), ("002", "pass"), ("003", "notrun"), ("004", "fail"), ("005", "fail"), ("0061", "pass"),
               ("007", "pass"), ("008", "fail")], f"results, read in pieces of {step}")
        said = {result.name[8:]: result.reason for result in results}
        check("fiemap" in said["003"] and "generic/005 was in the way" in said["004"] and "inconsistent" in said["005"] and
              "ended" in said["008"], f"reasons: {said}")
    equal([result.seconds for result in results][:2], [4, 5], "seconds")


def expected(kernel, differences):
    where = [temp("kernel"), temp("differences")]
    for path, text in zip(where, (kernel, differences)):
        write_file(path, text.encode())
    return outcome.Expected(*where)


def case_compare():
    them = expected("# comment\ngeneric/001\tpass\ngeneric/002\tpass\ngeneric/003\tnotrun\ngeneric/004\thang\ngeneric/005\tpass\n",
                    "machine device mapper\nreason fuse\n  FUSE cannot\n  do it.\ngeneric/005 | notrun | fuse\n")

    def verdict(name, *kinds, reason=""):
        return them.judge("generic/" + name, [outcome.Result(name, kind, 1, reason) for kind in kinds])[0]

    equal([verdict("001", "pass"), verdict("001", "pass", "fail"), verdict("001", "notrun"), verdict("003", "notrun"),
           verdict("003", "fail"), verdict("004", "pass"), verdict("999", "fail"), verdict("005", "notrun"),
           verdict("005", "pass"), verdict("005", "fail"), verdict("005", "notrun", "pass")],
          ["same", "DIFFERENT", "DIFFERENT", "same", "other", "other", "other", "meant", "DIFFERENT", "DIFFERENT", "DIFFERENT"],
          "verdicts")
    equal(verdict("001", "notrun", reason="needs the device mapper"), "machine", "verdict for what the machine lacks")
    equal(verdict("001", "fail", reason="needs the device mapper"), "DIFFERENT", "a failure is nobody else's fault")
    for kinds, status in ((("pass",), 0), (("pass", "fail"), 1)):
        results = [outcome.Result("generic/001", kind, 1, "") for kind in kinds]
        equal(outcome.table(results, them, True), status, f"exit status for {kinds}")
    for kernel, differences in (("generic/001 perhaps\n", ""), ("generic/001 pass\n", "generic/001 | notrun | because\n"),
                                ("", "reason a\n  b\ngeneric/001 | fail | a\n"),
                                ("generic/001 pass\n", "reason a\n  b\ngeneric/001 | pass | a\n")):
        try:
            expected(kernel, differences)
        except outcome.Mistake:
            continue
        check(False, f"accepted: {kernel!r} {differences!r}")


def case_real_files():
    """Ours can be read, and say nothing of tests that the kernel does not pass."""
    where = os.path.join(ROOT, "tests", "xfstests")
    ours = outcome.Expected(f"{where}/kernel", f"{where}/differences")
    check(sum(kind == "pass" for kind in ours.kernel.values()) > 200, "the kernel's results")
    for name, (_, reason) in ours.meant.items():
        equal(ours.kernel[name], "pass", f"the kernel's {name}, listed as a difference ({reason})")
    unused = set(ours.reasons) - {reason for _, reason in ours.meant.values()}
    check(not unused, f"reasons without a test: {unused}")


# ---------------------------------------------------------------- running

# What it is told to run are functions of its own.
CHECK = r"""#!/bin/bash
. $HOST_OPTIONS
mounts() { mount -t $FSTYP $1 $TEST_DEV $TEST_DIR; }
t001() {
	mounts "-o acl" && [ "$(df -T $TEST_DIR | awk 'NR == 2 { print $2 }')" = gfs2 ] &&
		[ "$(findmnt -rn -S $TEST_DEV -t gfs2 -o TARGET)" = $TEST_DIR ] && [ $(blockdev --getss $TEST_DEV) = 512 ] &&
		echo data >$TEST_DIR/f && chmod 666 $TEST_DIR/f && su fsgqa -c "echo more >>$TEST_DIR/f" &&
		head -c 8192 /dev/zero >$TEST_DIR/g && filefrag -v $TEST_DIR/g | grep -q "0: *0[.][.] *1: .*last" && [ -z "$(ls /tmp)" ] &&
		[ -w $RESULT_BASE ] && umount $TEST_DIR && fsck -t gfs2 -n $TEST_DEV >/dev/null && mounts && grep -q more $TEST_DIR/f &&
		mount -o remount,ro $TEST_DIR && ! touch $TEST_DIR/f 2>/dev/null && umount $TEST_DIR &&
		mkfs -t gfs2 -O -q -p lock_nolock -j 1 $SCRATCH_DEV >/dev/null
}
t002() {
	tr '\0' '\377' </dev/zero | dd of=$TEST_DEV bs=64k seek=2 count=800 iflag=fullblock status=none
	! fsck -t gfs2 -n $TEST_DEV >/dev/null
}
t007() { false; }
t005() {
	mounts && truncate -s 8M $TEST_DIR/image && losetup -f $TEST_DIR/image && (exec 5>$TEST_DIR/open; sleep 1000) &
	sleep 1000
}
t006() { true; }
for name in "$@"; do
	[ $name = --exact-order ] && continue
	printf '%s        ' $name
	t${name#*/} && echo "  1s" || echo "[failed, exit status 1]"
done
"""


def fake():
    path = temp("checkout")
    os.makedirs(f"{path}/tests/generic")
    write_file(f"{path}/tests/generic/group.list",
               b"# list\n001 auto quick\n002 auto quick\n007 auto\n005 auto stress\n006 auto dangerous_fuzzers\n")
    write_file(f"{path}/check", CHECK.encode())
    os.chmod(f"{path}/check", 0o755)
    return path


def command(*words):
    return ["python3", "-B", TOOL, "--size", "64M", "--images", workdir(), *words]


def environment():
    return dict(os.environ, GFS2_FUSE=gfs2_fuse())


def run_directory(results):
    """Where the run with these results has its mounts; None before and after it."""
    for path in glob.glob("/run/xfs.*/setup.json"):
        try:
            if json.loads(read_file(path))["results"] == results:
                return os.path.dirname(path)
        except (FileNotFoundError, ValueError):
            pass    # another one's, or not written yet
    return None


def loops():
    """Loop devices and their files; somebody else's may go while they are listed, and has none then."""
    lines = run(["losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"]).stdout.splitlines()
    return {line.split()[0]: "".join(line.split()[1:2]) for line in lines}


def left_behind(results, directory, device=None):
    """What is still there of a run: devices, files, processes; the test's device has a path no more when its file system is gone."""
    found = [f"{name} {file}" for name, file in loops().items()
             if workdir() in file or directory + "/" in file or name == device and file == "/image"]
    found += glob.glob(f"{workdir()}/xfs.*") + glob.glob(directory)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if f"RESULTS_OF_THIS={results}\0".encode() in read_file(f"/proc/{pid}/environ"):
                found.append("process " + pid)
        except OSError:
            pass    # it has just ended
    return found


def case_run():
    need_fuse()
    checkout, results = fake(), temp("results")
    equal(run(command("--list", checkout)).stdout.split("\n")[:2],
          ["generic/001  pass     auto quick", "generic/002  pass     auto quick"], "the list")
    done = run(command("--results", results, checkout, "-g", "auto", "-e", "5"), env=environment(), ok=(2,))
    check("no test is called 5" in done.stdout, done.stdout)
    done = run(command("--results", results, checkout, "-g", "auto", "-e", "005"), env=environment(), ok=(1,))
    with open(f"{results}/results.tsv") as text:
        equal([line.split("\t")[:2] for line in text],
              [["generic/001", "pass"], ["generic/002", "pass"], ["generic/007", "fail"]], "results:\n" + done.stdout)
    run(command("--results", results + ".2", "--repeat", "2", checkout, "001"), env=environment())
    check("2 pass" in run(command("--table", "--all", results + ".2")).stdout, "no repeated test in the table")
    check("no xfstests checkout" in run(command(workdir()), ok=(2,)).stdout, "any directory will do")
    os.unlink(f"{checkout}/tests/generic/group.list")
    check("not been built" in run(command(checkout), ok=(2,)).stdout, "a checkout that has not been built will do")
    equal(left_behind(results, "/run/none"), [], "left behind")


def hanging(checkout, results):
    """(process, directory, loop device) of the tool, when its test has mounted and made a loop device of its own."""
    process = subprocess.Popen(command("--results", results, checkout, "005"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env=dict(environment(), RESULTS_OF_THIS=results))
    directory = wait_for(lambda: run_directory(results), "the run's directory")
    device = wait_for(lambda: [name for name, file in loops().items() if file == f"{directory}/test/image"], "the test's loop device")
    check(len(left_behind(results, directory)) > 5, "nothing to be left behind")
    return process, directory, device[0]


def case_interrupted():
    need_fuse()
    checkout = fake()
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        results = temp("results")
        # The run's namespace keeps nobody else's mount alive.
        with Volume(size="128M").mount():
            process, directory, device = hanging(checkout, results)
        process.send_signal(number)
        output = process.communicate(timeout=STEP_SECONDS)[0].decode()
        equal(process.returncode, status, f"exit status after {number}: {output}")
        equal(left_behind(results, directory, device), [], f"left behind after {number}")


def case_killed():
    """SIGKILL leaves no mount, no process and no loop device of ours; the run's directory, the images, and a device of the
    test's it must."""
    need_fuse()
    results = temp("results")
    process, directory, device = hanging(fake(), results)
    process.kill()
    process.communicate(timeout=STEP_SECONDS)

    def rest():
        return {word.split()[0] for word in left_behind(results, directory, device)} - {directory, device, *glob.glob(f"{workdir()}/xfs.*")}
    try:
        wait_for(lambda: not rest(), "processes and loop devices to go")
        check(f"{directory}/" not in read_file("/proc/self/mountinfo").decode(), "a mount is left")
    finally:
        if loops().get(device) in ("/image", f"{directory}/test/image"):
            run(["losetup", "--detach", device])
        for path in glob.glob(f"{workdir()}/xfs.*"):
            os.unlink(path)
        shutil.rmtree(directory, ignore_errors=True)


def case_takes_too_long():
    """The test is ended, with what it had left, and the next one is run."""
    need_fuse()
    results = temp("results")
    done = run(command("--results", results, "--limit", "3", fake(), "005", "006"), env=dict(environment(), RESULTS_OF_THIS=results),
               ok=(1,))
    check("no end after 3 s" in done.stdout and re.search(r"generic/006 +pass", done.stdout), done.stdout)
    equal(left_behind(results, "/run/none"), [], "left behind")


main()
