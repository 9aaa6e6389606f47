# SPDX-License-Identifier: GPL-2.0-or-later
"""Tell the last direct write to an inode from the JSON lines of `glockctl --json trace`.

usage: narrate.py INODE <TRACE        exit 1 if there is no such write in it
"""
import json
import sys

WORDS = {
    "dio_begin": "the write begins: {len} bytes at {off}",
    "dio_submit": "data there: {len} bytes at {off} go straight to the device",
    "dio_hole": "a hole at {off}: the walk ends here",
    "dio_drain_begin": "drain: wait for what has been started",
    "dio_drain_end": "drained",
    "dio_upgrade": "the rest needs EX",
    "dio_buffered": "the rest, {len} bytes at {off}, allocated and written buffered",
    "dio_end": "the write returns {rc}",
    "map": "the map says {reason}: {len} bytes at {off}",
    "data_io": "data {reason}",
    "log_flush": "the journal is committed, {reason}",
    "glock_state": "the lock goes {from} -> {to}",
    "glock_queue": "asks for {to}",
    "glock_promote": "holds {to}",
    "glock_dequeue": "lets go",
}


def main():
    glock = f"2/{int(sys.argv[1]):x}"
    events = [json.loads(line) for line in sys.stdin if line.startswith("{") and line.endswith("}\n")]
    mine = [event for event in events if event.get("glock") == glock]
    ends = [event["seq"] for event in mine if event["event"] == "dio_end"]
    begins = [event["seq"] for event in mine if event["event"] == "dio_begin" and ends and event["seq"] < ends[-1]]
    if not begins:
        return 1
    start = next(event["t_ns"] for event in mine if event["seq"] == begins[-1])
    for event in events:
        if not begins[-1] <= event["seq"] <= ends[-1] or event.get("glock", glock) != glock:
            continue
        words = WORDS.get(event["event"], event["event"]).format_map({"from": "?", "to": "?", "reason": "", **event})
        print(f"     {(event['t_ns'] - start) / 1000:9.0f} us  {event['event']:16} {words}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
