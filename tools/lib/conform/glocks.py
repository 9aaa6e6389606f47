# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's debugfs file `glocks`, read line by line and field by field; nothing is passed over.

What goes through here is what programs for the kernel's file can read (glocktop, and people's eyes): the same lines in the same
order, the same fields with the same kinds of values, and no letter in the flags that the kernel does not have.
"""
import re

STATE = "(?:UN|SH|DF|EX)"
# Letters in the order in which the kernel writes them.
GLOCK_FLAGS = "lDdpyfirIFqLobPxnN"
HOLDER_FLAGS = "tTeAnaEcHWDs"


def _letters(all_letters):
    return "".join(letter + "?" for letter in all_letters)


LINES = {
    "G": re.compile(rf"G:  s:(?P<s>{STATE}) n:(?P<n>\d+/[0-9a-f]+) f:(?P<f>{_letters(GLOCK_FLAGS)}) t:(?P<t>{STATE}) "
                    rf"d:(?P<d>{STATE}/\d+) a:(?P<a>\d+) v:(?P<v>\d+) r:(?P<r>\d+) m:(?P<m>\d+) p:(?P<p>\d+)"),
    "H": re.compile(rf" H: s:(?P<s>{STATE}) f:(?P<f>{_letters(HOLDER_FLAGS)}) e:(?P<e>-?\d+) p:(?P<p>\d+) \[(?P<comm>.*)\] (?P<where>\S+)"),
    "I": re.compile(r" I: n:(?P<n>\d+/\d+) t:(?P<t>\d+) f:(?P<f>0x[0-9a-f]{2,}) d:(?P<d>0x[0-9a-f]{8}) s:(?P<s>\d+) p:(?P<p>\d+)"),
    "R": re.compile(r" R: n:(?P<n>\d+) f:(?P<f>[0-9a-f]{2,}) b:(?P<b>\d+/\d+) i:(?P<i>\d+) q:(?P<q>\d+) r:(?P<r>\d+) e:(?P<e>\d+)"),
    "L": re.compile(r"  L: f:(?P<f>[0-9a-f]{2,}) b:(?P<b>\d+) i:(?P<i>\d+)"),
    "B": re.compile(r"  B: n:(?P<n>\d+) s:(?P<s>\d+) f:(?P<f>\d+)"),
}


class Unknown(Exception):
    """A line that the kernel would not have written."""


def parse(text):
    """[{"G": fields, "H": [fields...], "I": fields or None, "R": ..., "L": ..., "B": [fields...]}...]"""
    locks = []
    for number, line in enumerate(text.splitlines(), 1):
        kind = line.strip()[:1]
        found = LINES[kind].fullmatch(line) if kind in LINES else None
        if not found or (kind != "G" and not locks):
            raise Unknown(f"line {number}: {line!r}")
        fields = found.groupdict()
        if kind == "G":
            locks.append({"G": fields, "H": [], "I": None, "R": None, "L": None, "B": []})
            continue
        lock = locks[-1]
        if kind in "HB":
            # Holders come first, reservations last and of resource groups only.
            if (kind == "H" and (lock["I"] or lock["R"])) or (kind == "B" and not lock["R"]):
                raise Unknown(f"line {number}: out of order: {line!r}")
            lock[kind].append(fields)
            continue
        if lock[kind] or lock["G"]["s"] == "UN":
            raise Unknown(f"line {number}: twice, or of an unlocked glock: {line!r}")
        lock[kind] = fields
    return locks
