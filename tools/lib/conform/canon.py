# SPDX-License-Identifier: GPL-2.0-or-later
"""The canonical form of a lock line, in which a recording of the kernel's and one of ours are compared.

Left out or put in order is what the kernel itself does not reproduce from one recording to the next, and what a
mount without a cluster cannot have:

  * <submit returned>: whether the completion or the return of io_submit came first;
  * the order of io: and the release of DF around it: with asynchronous requests a race;
  * the EX section for mtime in front of a direct write, unless the scenario waited before: it depends on the clock's tick;
  * dlm(...), dlm_unlock, bast(...): lock_nolock has no DLM;
    with two nodes only dlm_unlock and put (when the kernel gives up a lock's memory), and PERSISTENT, which all requests of ours say;
  * the block layer's letters after io:R and io:W;
  * the same word twice in a row (the recordings have it once);
  * with two nodes, when exactly an iopen lock moves, or is released by who only forgets the inode: nobody waits for it;
  * and on a node that has nothing to do in a step, or only fsync, its I/O: what is dirty is written at the latest then or before the
    lock goes (the contents tell), or before by whoever flushes the log, as letting go of the block counts' lock does every 30 s;
  * with two nodes, whether a demand came before or after the request that is under way;
  * of steps of two nodes at the same time, who came first and what followed from that (race()).
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


def of_a_node(line, waited=True):
    """The same for one of two nodes: with the DLM's part."""
    line = [re.sub(r"\bio:R\w*$", "io:R", re.sub(r"\bio:[WN]\w*$", "io:W", word)) for word in line]
    line = [_without_persistent(word) for word in line
            if word != "<submit returned>" and word.rpartition(":")[2] not in ("put", "dlm_unlock")]
    line = _without_tick(line, waited)
    return _answers_last(_demands_first(_once(_io_before_release(_once(line)))))


def _demands_first(line):
    """A demand that comes while a request is under way in front of it."""
    line, at = list(line), 0
    while at + 2 < len(line):
        prefix = line[at][:line[at].rfind(":", 0, line[at].find("(")) + 1]
        if (line[at].startswith(prefix + "dlm(") and line[at + 1].startswith(prefix + "bast(") and
                line[at + 2].startswith(prefix + "demote(")):
            line[at:at + 3] = line[at + 1:at + 3] + [line[at]]
            at = max(at - 1, 0)
        else:
            at += 1
    return line


def _answers_last(line):
    """What the DLM answered about iopen locks behind the rest: nobody waits for it, so it comes at any time.

    In front of it the release by who forgets an inode (not to delete it: then EX follows): the client tells it without waiting.
    """
    late = [word for word in line if ".iopen:" in word and
            word.rpartition(":")[2].startswith(("[", "dlm(", "bast(", "demote("))]
    rest = [word for word in line if word not in late]
    forgotten = [at for at, word in enumerate(rest) if word.endswith(".iopen:-SH") and word[:-3] + "?EX" not in rest[at:]]
    return [word for at, word in enumerate(rest) if at not in forgotten] + [rest[at] for at in forgotten] + late


def without_io(line):
    return [word for word in line if not word.startswith("io:")]


def _without_persistent(word):
    if "dlm(" not in word:
        return word
    return word.replace("|PERSISTENT", "").replace("PERSISTENT", "").replace(" )", ")")


def race(line):
    """What several steps at the same time have in common with the recording, whoever came first: the kinds of requests.

    What they did to the lock depends on their order. But no request goes to the DLM with flags that the kernel's never has.
    """
    line = of_a_node(line, False)
    sections, kinds = {}, set()
    for word in line:
        name, _, what = word.rpartition(":") if not word.startswith("io:") else ("", "", word)
        if what[0] == "?":
            sections[name] = [word]
        elif what.startswith(("+", "-", "map=")) and name in sections:
            sections[name] += [word] if word != sections[name][-1] else []
            if what[0] == "-":
                kinds.add(" ".join(sections.pop(name)))
    # For the time alone, or to see that it does not go on: depends on who came first and when.
    kinds -= {section for section in kinds if re.fullmatch(r"(\S*:)?\?(EX|DF) (\S*:)?\+(EX|DF) (\S*:)?-(EX|DF)", section)}
    odd = {word for word in line if "dlm(" in word and word.rpartition(":")[2] not in KERNEL_FLAGS | OUR_FLAGS}
    return " ; ".join(sorted(kinds)).split() + sorted(odd)


# What the recordings have of requests to the DLM.
KERNEL_FLAGS = {
    "dlm(PR)", "dlm(PR VALBLK)", "dlm(CW VALBLK)", "dlm(EX VALBLK)", "dlm(NL CONVERT)", "dlm(NL CONVERT|VALBLK)",
    "dlm(PR CONVERT|VALBLK)", "dlm(CW CONVERT|VALBLK)",
    "dlm(PR CONVERT|VALBLK|QUECVT)", "dlm(CW CONVERT|VALBLK|QUECVT)", "dlm(EX CONVERT|VALBLK|QUECVT)", "dlm(EX CONVERT|QUECVT)",
    "dlm(EX NOQUEUE|CONVERT|NOQUEUEBAST)", "dlm(PR NOQUEUE|CONVERT|VALBLK|NOQUEUEBAST)",
}
# What ours asks besides: may times be published before the lock goes?  Whether it has to depends on who comes first.
OUR_FLAGS = {"dlm(EX NOQUEUE|CONVERT|VALBLK)"}


def canonical(line, waited=True):
    """The words of a lock line, as recorded or as ours, as a list to compare; @waited: there was a pause before."""
    line = [re.sub(r"^io:R\w*$", "io:R", re.sub(r"^io:[WN]\w*$", "io:W", word)) for word in line]
    line = [word for word in line if _without_dlm(word)]
    line = _without_tick(line, waited)
    return _once(_io_before_release(_once(line)))
