# SPDX-License-Identifier: Apache-2.0
"""Recorded command lines: run again, text, stream and exit status compared."""

import json
import re
import typing

from tests.conformance import suppose, world

# What no two runs share, in the order in which it is blanked.
_VOLATILE = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    (r'("(?:pid|zoneid|zonedid|created_at|time|req_id|hostname)": ?)("[^"]*"|\d+)', r"\1ANY"),
    (r'("(?:server_uuid|platform_buildstamp|version)": ?)"\d[^"]*"', r"\1ANY"),
    (r'("server_uuid": ?)"[^"]*"', r"\1ANY"),
    (r'("(?:free_space|size|sha1)": ?)("[^"]*"|\d+)', r"\1ANY"),
)
# Lines that name places inside the tools' own source.
_FRAMES = re.compile(r"^    at .*\n|^FROM\n(.+\n?)*", re.MULTILINE)


def transcripts(node: world.World, recorded: list[world.Case]) -> world.Verdict:
    """Each case in its series' order, in the state that it supposes."""
    chosen = sorted(recorded, key=lambda case: (case["run"], case["seq"]))
    differences = []
    for run in sorted({case["run"] for case in chosen}):
        series = [case for case in chosen if case["run"] == run]
        state = suppose.State(node, series)
        state.clear()
        for case in series:
            why = judge(state, case)
            if why:
                label = f"{run} #{case['seq']} {case['name']}"
                differences.append(world.Difference(label, why))
    return world.Verdict("transcripts", len(chosen), differences)


def judge(state: suppose.State, case: world.Case) -> str | None:
    """Run a case in each state that it may suppose, until one gives the recorded answer."""
    why: str | None = "no state to try"
    for arrange in state.candidates(case):
        try:
            arrange()
        except RuntimeError as error:
            why = why if why != "no state to try" else str(error)
            continue
        done = state.run(case)
        why = compare(case, done)
        if why is None:
            break
    state.after(case)
    return why


def compare(case: world.Case, done: world.Done) -> str | None:
    """Where a run differs from the record; None when it does not."""
    if not _same_status(case["rc"], done.status):
        return f"exit status: recorded {case['rc']}, here {done}"
    for stream in ("stdout", "stderr"):
        recorded, here = case[stream] or "", getattr(done, stream)
        if f"{stream}_then" in case:
            if not here.startswith(recorded) or len(here) <= len(recorded):
                return f"{stream}: recorded {recorded!r} and usage, here {here[:300]!r}"
        elif blank(recorded) != blank(here):
            return f"{stream}:\n    recorded {blank(recorded)!r}\n    here     {blank(here)!r}"
    return None


def _same_status(recorded: int, here: int) -> bool:
    # a shell on Linux saw node's abort as 133; the process died of a signal
    return here < 0 if recorded > 128 else here == recorded


def blank(text: str) -> str:
    """The text without what no two runs share."""
    text = _FRAMES.sub("", text)
    if text.startswith('{"name":"imgadm"'):
        return _blank_log(text)
    text = "\n".join(_blank_line(line) for line in text.split("\n"))
    for pattern, instead in _VOLATILE:
        text = re.sub(pattern, instead, text)
    return text


def _blank_line(line: str) -> str:
    """One-line JSON (events) loses its disks' uuids and the stream's."""
    return re.sub(r'("uuid":)"[0-9a-f-]{36}"(,"vms")', r"\1ANY\2", line)


def _blank_log(text: str) -> str:
    """Of imgadm's -E line, what a program would look at."""
    record: dict[str, typing.Any] = json.loads(text.split("\n", maxsplit=1)[0])
    error = record.get("err", {})
    kept = {key: record.get(key) for key in ("name", "level", "component")}
    return json.dumps({**kept, "code": error.get("code"), "message": error.get("message")})
