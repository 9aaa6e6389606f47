# SPDX-License-Identifier: GPL-2.0-or-later
"""The canonical form of a lock line, in which a recording of the kernel's and one of ours are compared.

Left out or put in order is what the kernel itself does not reproduce from one recording to the next, and what a
mount without a cluster cannot have:

  * <submit returned>: whether the completion or the return of io_submit came first;
  * the order of io: and the release of DF around it: with asynchronous requests a race;
  * the EX section for mtime in front of a direct write, unless the scenario waited before: it depends on the clock's tick;
  * dlm(...), dlm_unlock, bast(...): lock_nolock has no DLM;
  * the block layer's letters after io:R and io:W;
  * the same word twice in a row (the recordings have it once).
"""
import re

_WORD = re.compile(r"\(\s|\)x\d+|<submit returned>|[^\s(]*\([^)]*\)|\S+")


def words(line):
    """The words of a lock line, repetitions written out."""
    stack = [[]]
    for word in _WORD.findall(line):
        if word.startswith("(") and not word.strip("( \t"):
            stack.append([])
        elif word.startswith(")x"):
            block = stack.pop()
            stack[-1] += block * int(word[2:])
        else:
            stack[-1].append(word)
    if len(stack) != 1:
        raise ValueError("brackets do not match: " + line)
    return stack[0]


def _without_dlm(word):
    name = word.rpartition(":")[2] if not word.startswith("io:") else word
    return not (name.startswith(("dlm(", "dlm_unlock", "bast(")) or word == "<submit returned>")


def _io_before_release(line):
    """io: in front of the releases of DF that it could have come before or after."""
    line = list(line)
    for at in range(1, len(line)):
        if line[at].startswith("io:"):
            to = at
            while to and line[to - 1] == "-DF":
                line[to - 1], line[to] = line[to], line[to - 1]
                to -= 1
    return line


_MTIME = ["?EX", "+EX", "-EX", "?DF"]


def _without_tick(line, keep_first):
    """Without EX sections that only write the time and change no state, but the first if it must be there."""
    out, at = [], 0
    while at < len(line):
        if line[at] == "?EX" and (out or not keep_first):
            section = [word for word in line[at:at + 5] if not word.startswith("io:")][:4]
            if section == _MTIME:
                length = line.index("-EX", at) + 1 - at
                out += [word for word in line[at:at + length] if word.startswith("io:")]
                at += length
                continue
        out.append(line[at])
        at += 1
    return out


def _once(line):
    return [word for at, word in enumerate(line) if not at or word != line[at - 1]]


def looked(line):
    """Ours, while a direct request may be in flight: attributes are looked at in DF beside it, in SH as soon as it has ended."""
    line = list(line)
    for at in range(len(line) - 2):
        if line[at:at + 3] == ["?DF", "+DF", "-DF"]:
            line[at:at + 3] = ["?SH", "+SH", "-SH"]
    return line


def canonical(line, waited=True):
    """The words of a lock line, as recorded or as ours, as a list to compare; @waited: there was a pause before."""
    line = [re.sub(r"^io:R\w*$", "io:R", re.sub(r"^io:[WN]\w*$", "io:W", word)) for word in line]
    line = [word for word in line if _without_dlm(word)]
    line = _without_tick(line, waited)
    return _once(_io_before_release(_once(line)))
