#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# test: glockctl run: the shipped scenarios hold, altered ones are noticed; mistakes, interrupts, two nodes
# timeout: 120
# variants: plain asan
import json
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "lib", "conform"))
from testlib import *    # noqa: E402
import scenario          # noqa: E402

WHERE = os.path.join(ROOT, "tests", "conform")
BEHAVIOURS = ("drain", "async", "fail", "precheck", "blockdev")


def shipped():
    """Those that only glockctl can run."""
    names = sorted(name for name, text in scenario.load(WHERE).items() if text.stops)
    for behaviour in BEHAVIOURS:
        check(f"s2018_{behaviour}" in names, f"no scenario of {behaviour} among {names}")
    return names


def read(name):
    with open(os.path.join(WHERE, name + ".txt")) as text:
        return text.read()


def play(mount, path, *words, ok=0, more=()):
    """glockctl --json run: what it tells, as objects, and what it complains of."""
    done = subprocess.run([glockctl_program(), "-m", mount.dir, "--json", "run", *words, path, *more],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=STEP_SECONDS)
    equal(done.returncode, ok, f"exit status of {path}: {done.stdout}{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def written(text, name="scenario.txt"):
    path = os.path.join(workdir(), name)
    with open(path, "w") as out:
        out.write(text)
    return path


def tunables(mount):
    return [line for line in mount.glockctl("get").stdout.splitlines() if not line.startswith("stats")]


@on_mount
def case_shipped(mount):
    """Each holds; nothing of it is left on the mount. The five behaviours come to what each of them is about."""
    before = tunables(mount)
    results = {}
    for name in shipped():
        told, _ = play(mount, os.path.join(WHERE, name + ".txt"))
        outcomes = [line for line in read(name).splitlines() if line.startswith(("  ", "content"))]
        equal((told[-1]["expectations"], told[-1]["failed"]), (len(outcomes), 0), f"judged in {name}")
        results[name] = next((one["result"] for one in told if "result" in one), None)
        equal(tunables(mount), before, f"tunables after {name}")
        equal(os.listdir(mount.dir), [], f"what is left of {name}")
    equal([results[f"s2018_{one}"] for one in BEHAVIOURS], ["32768", "16384", "-5", "32768", "32768"], "what the application sees")
    stops = {}
    for one in BEHAVIOURS:
        told, _ = play(mount, os.path.join(WHERE, f"s2018_{one}.txt"))
        stops[one] = [w["got"].split()[1] for w in told if w.get("judged") == "stop" and w["got"].startswith("dio")]
    equal((stops["drain"], stops["fail"], stops["precheck"]),
          (["hole", "drain", "upgrade", "buffered"], ["hole", "drain"], ["hole", "upgrade", "buffered"]), "where they were stopped")
    with open(os.path.join(ROOT, "docs", "man", "gfs2-fuse-scenario.5")) as page:
        example = page.read().split(".SH EXAMPLE\n.nf\n")[1].split(".fi")[0].replace("\\-", "-")
    equal(play(mount, written(example))[0][-1]["expectations"], 4, "judged in the manual's example")
    # The recordings of the kernel's that need no other node run as well, a few of them.
    for name in ("w01a_sync_UN", "w02b_hole_data_aio_UN_lazytime", "w06f_240_batch_hole_UN", "w08a_stuffed_grow", "w10h_unlink_local"):
        told, _ = play(mount, os.path.join(WHERE, name + ".txt"))
        check(told[-1]["expectations"] >= 1, f"nothing was judged in {name}")


def altered(line):
    """The expectation made wrong."""
    for one, other in (("DF", "SH"), ("EX", "DF"), ("UN", "EX"), ("HOLE", "MAPPED"), ("hole", "drain"), ("drain", "upgrade"), ("buffered", "hole"),
                       ("upgrade", "hole"), ("io:W", "io:R"), ("in_flight 1", "in_flight 7"), ("in_flight 0", "in_flight 7"), ("*16384", "*16385")):
        if one in line:
            return line.replace(one, other, 1)
    return re.sub(r"\d+", lambda found: str(int(found[0]) + 1), line, count=1)


@on_mount
def case_altered(mount):
    """Every expectation of every shipped scenario, made wrong: exactly that one is told, by its line, and the exit status is 1."""
    tried = 0
    for name in shipped():
        lines = read(name).splitlines()
        for at, line in enumerate(lines):
            # Somebody who waits for something else may still come to wait for this: that takes its time.
            if not line.startswith(("  ", "content")) or line.startswith("  waits"):
                continue
            wrong = lines[:at] + [altered(line)] + lines[at + 1:]
            check(wrong != lines, f"not altered: {line}")
            told, _ = play(mount, written("\n".join(wrong) + "\n"), ok=1)
            failed = [one["line"] for one in told if one.get("ok") is False]
            check(at + 1 in failed, f"{name}:{at + 1}: {altered(line)!r} is not noticed: {told}")
            # What was not there to be stopped leads to more; else it is this one alone.
            check(failed == [at + 1] or line.startswith("  stop"), f"{name}:{at + 1}: also {failed}")
            tried += 1
    check(tried > 50, f"only {tried} were altered")
    log(f"{tried} altered expectations")
    told, _ = play(mount, written("file F\n\n1 stat F\n  waits F SH\n"), ok=1)
    equal([one["got"] for one in told if one.get("ok") is False], ["it has ended"], "somebody who does not wait")


MISTAKES = {        # which line, and what it says
    "file F\n\n1 frobnicate F\n": 3, "file F\n\n1 pwrite 1\n": 3, "file F\n\n2 stat F\n": 3, "file F\n\n0 stat F\n": 3, "nonsense\n\n1 stat F\n": 1,
    "file F 0+4096\n\n1 stat F\n": 1, "file F size x\n\n1 stat F\n": 1, "hold 1 F XX\n\n1 stat F\n": 1, "times sometimes\n\n1 stat F\n": 1,
    "nodes 99\n\n1 stat F\n": 1, "file F\n\n  = 0\n": 3, "file F\n\n1 stat F\n  becomes 5\n": 4, "\n1 stat F\nfile G\n": 3, "\n& 1 stat F\n": 2,
    "\n1 stat F\n  says yes\n": 3, "\n1 stat F\n  stop\n": 3, "disk fast\n\n1 stat F\n": 1, "\n" + "1 stat " + "F " * 40 + "\n": 2,
    "\n1 stat F\ncontent F 0+x A\n": 3, "\n1 stat F\n  3 expect ?DF\n": 3, "direct 1 F later\n\n1 stat F\n": 1,
    # What somebody sends stays in its directory.
    **{f"{before}\n{line}\n\n1 stat F\n": 2 for before in ("directory D",) for line in (
        "file ../F", "file /F", "file D/../../F", "directory E ..", "direct 1 /F", "buffered 1 D/..", "name N ../x", "1 open 3 ../F c", "1 stat /etc/passwd",
        "1 mkdir ../..", "1 unlink D/../../x", "1 readdir /", "1 rename F ../F", "1 rename ../F F", "1 link /F F", "1 ino ..", "content ../F 0+1 A")}}


def case_reading():
    """Both readers of the format take all scenarios that there are; a mistake is told with its line."""
    texts = scenario.load(WHERE)
    for name in texts:
        done = run([glockctl_program(), "run", "--check", os.path.join(WHERE, name + ".txt")], ok=None)
        equal((done.returncode, done.stdout), (0, ""), f"glockctl run --check {name}")
    check(len(texts) > 200, f"only {len(texts)} scenarios")
    for text, line in MISTAKES.items():
        path = written(text)
        done = run([glockctl_program(), "run", "--check", path], ok=None)
        check(done.returncode == 1 and f"{path}:{line}: " in done.stdout, f"{text!r}: exit {done.returncode}, said {done.stdout!r}")
    check("nothing is done" in run([glockctl_program(), "run", "--check", written("# empty\n")], ok=(1,)).stdout, "an empty scenario")
    run([glockctl_program(), "run", "--check", "/nonexistent"], ok=(1,))
    for words in ([], ["--frob", "x"]):
        run([glockctl_program(), "run", "--check", *words], ok=(2,))
    # Whatever is in the file: an answer, never a crash.
    rnd = random.Random(SEED)
    whole = "\n".join(read(name) for name in list(texts)[:3] + shipped()[:2])
    for _ in range(150):
        at = rnd.randrange(len(whole))
        text = list(whole[at:at + 400])
        for _change in range(rnd.randint(1, 6)):
            text[rnd.randrange(len(text))] = rnd.choice("\n &#=:+*@0129 \t\x00\xffFD")
        status = run([glockctl_program(), "run", "--check", written("".join(text))], ok=None).returncode
        check(status in (0, 1), f"exit status {status} (seed {SEED}): {''.join(text)!r}")


STOPPED = """# a write that stays stopped
times deferred
file F 0+65536=A size 131072
direct 1 F
buffered 2 F

1 break dio hole F
1 pwrite 1 65536 4096 B
  stop dio hole F
1 hold F SH
1 set short_dio fail
pause 3600
1 stat F
"""


@on_mount
def case_ends(mount):
    """Interrupted or killed while a write is stopped: it is let go; interrupted, all is put back."""
    before = tunables(mount)
    path = written(STOPPED.replace("1 hold F SH\n", ""))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen([glockctl_program(), "-m", mount.dir, "run", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for line in process.stdout:
            if "set short_dio" in line:
                break
        process.send_signal(number)
        said = process.communicate()[1]
        if number != signal.SIGKILL:
            check(process.returncode == 1 and "interrupted" in said, f"exit {process.returncode}: {said}")
            equal((tunables(mount), os.listdir(mount.dir)), (before, []), "what is left")
        wait_for(lambda: mount.glockctl("stops", "all").stdout == "", "the stop to be let go")
    mount.wait_unused()     # its hands end by themselves, when they have their write's answer
    # What the killed one could not put back the daemon does, but for its files.
    wait_for(lambda: tunables(mount) == before, "the daemon to set back what the killed one had set")
    check(os.path.exists(mount / "scenario"), "nothing was left by the killed one")
    check("exists" in play(mount, path, ok=1)[1], "a directory that is in the way")
    shutil.rmtree(mount / "scenario")
    # A step that fails, a daemon that refuses, a step while another is under way: told, with status 1.
    for text, reason in (("file F\n\n1 demote F XX\n", "demote"), ("file F\n\n1 continue 5\n", "nothing is stopped"),
                         (STOPPED.split("1 hold")[0] + "1 stat F\n", "still at line 8"), ("name F G\n\n1 stat F\n", "No such file"),
                         ("file F\ndirect 1 G\n\n1 stat F\n", "No such file"), ("set nonsense 1\n\n1 stat F\n", "nonsense")):
        told, said = play(mount, written(text), ok=1)
        check(reason in said and told[-1]["completed"] is False, f"{text!r}: said {said!r}")
        equal(os.listdir(mount.dir), [], "what is left")
    # --keep leaves the files.
    play(mount, written("file F 0+10=x\n\n1 stat F\n  = 0 size=10 blocks=8 nlink=1\n", "kept.txt"), "--keep")
    equal(read_file(mount / "kept/F"), b"x" * 10, "the file that was kept")
    shutil.rmtree(mount / "kept")


TWO = """# node 1 has EX and is about to write into a hole; node 2 wants to read there, and waits until it has been done
nodes 2
times deferred
file F 0+32768=A 65536+32768=A
direct 1 F
buffered 2 F
hold 1 F UN

1 break dio buffered F
1 pwrite 1 16384 32768 B
  stop dio buffered F 32768+16384
2 pread 2 32768 4096
  waits F SH
  expect ?SH
1 delete all
1 continue
  = 32768
  2 = 4096 data=B*4096
  expect ... -EX ... [EX->SH]
  2 expect [UN->SH] +SH ... -SH

content F 0+65536 A*16384,B*32768,~*16384
"""


def case_two_nodes():
    """A node for each directory."""
    need_fuse()
    volume = Volume(size="256M", journals=2, proto="lock_dlm", table="two:scenarios")
    options = ("lockproto=lock_local",)
    with volume.mount(*options) as one, volume.mount(*options) as two:
        path = written(TWO)
        told, _ = play(one, path, more=(one.dir, two.dir))
        equal((told[-1]["expectations"], told[-1]["failed"]), (8, 0), f"expectations: {told}")
        told, _ = play(one, written(TWO.replace("2 = 4096 data=B", "2 = 4096 data=A")), ok=1, more=(one.dir, two.dir))
        equal([t["line"] for t in told if t.get("ok") is False], [18], "what has failed")
        check("needs 2 nodes" in play(one, path, ok=2)[1], "a node too few")
    volume.fsck()


if __name__ == "__main__":
    main()
