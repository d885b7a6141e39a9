# SPDX-License-Identifier: Apache-2.0
"""How far a run of a command line is from the recorded one, and in which lines."""

import dataclasses
import difflib
import json
import re
import shlex
import typing

from tests.conformance import world

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# What no two runs share, in the order in which it is blanked.
_VOLATILE = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    (r"\[\d\d:\d\d:\d\d\.\d+Z\]", "[TIME]"),
    (r'("(?:pid|zoneid|zonedid|created_at|time|req_id|hostname)": ?)("[^"]*"|\d+)', r"\1ANY"),
    (r'("transition_expire": ?)\d+', r"\1ANY"),
    (r'("(?:server_uuid|platform_buildstamp|version)": ?)"\d[^"]*"', r"\1ANY"),
    (r'("server_uuid": ?)"[^"]*"', r"\1ANY"),
    (r'("(?:free_space|size|sha1)": ?)("[^"]*"|[\d.]+)', r"\1ANY"),
    (r'("refreservation": ?)[1-9]\d*', r"\1ANY"),  # as zfs reckons, or as its stub did
    (r'(file checksum \(sha1\) error: .* is )"[0-9a-f]{40}"', r"\1ANY"),
    (r"(file size error: .* is )\d+", r"\1ANY"),
    (r"(Stderr from zfs \w+: |Command failed: )cannot [^\n]*", r"\1ZFS"),
)
# Lines that name places inside the tools' own source.
_FRAMES = re.compile(r"^    at .*\n|\n+^FROM\n(.+\n?)*", re.MULTILINE)
_EXIT = re.compile(r'\n? *"exit_(?:status|timestamp)": ?[^,\n]*,')
# Commands whose text is that of ipf or of zfs, and commands that draw uuids.
_FOREIGN = (("fwadm", "stats"), ("fwadm", "status", "-v"), ("vmadm", "send"))
_DRAWING = (("vmadm", "create"), ("fwadm", "add"), ("fwadm", "add-rvm"), ("imgadm", "create"))
_DRAWN_BY_GUEST = re.compile(r'("(?:port|display|thread_id|host|pid)": ?)("[^"]*"|\d+)')
_SHOWN_LINES = 8


@dataclasses.dataclass(frozen=True)
class Distance:
    """In how many lines a run differs, and what to say of it."""

    lines: int
    reason: str


def argv_of(case: world.Case) -> list[str]:
    """The recorded command line as words, without the time limit that the recording set."""
    argv = shlex.split(case["cmd"])
    argv = argv[2:] if argv[0] == "timeout" else argv
    return [argv[0].rpartition("/")[2], *argv[1:]]


def compare(case: world.Case, done: world.Done) -> Distance | None:
    """The distance of a run from its record; None when they agree."""
    if not _same_status(case["rc"], done.status):
        said = (done.stderr or done.stdout)[-300:]
        return Distance(1000, f"exit status: recorded {case['rc']}, here {done.status}: {said!r}")
    found = [_stream(case, name, getattr(done, name)) for name in ("stdout", "stderr")]
    differing = [distance for distance in found if distance]
    if not differing:
        return None
    lines = sum(distance.lines for distance in differing)
    return Distance(lines, "\n    ".join(distance.reason for distance in differing))


def _stream(case: world.Case, name: str, here: str) -> Distance | None:
    recorded = case[name] or ""
    if f"{name}_then" in case:
        if here.startswith(recorded) and len(here) > len(recorded):
            return None
        return Distance(100, f"{name}: recorded {recorded!r} and usage, here {here[:300]!r}")
    if name == "stdout" and _is_foreign(case):
        return None if bool(here) or not recorded else Distance(100, "stdout: nothing here")
    pair = _blanked_pair(case, recorded, here)
    return _lines(name, *pair) if pair[0] != pair[1] else None


def _lines(name: str, recorded: str, here: str) -> Distance:
    """The lines that only one of two texts has."""
    both = difflib.unified_diff(recorded.split("\n"), here.split("\n"), lineterm="", n=0)
    changed = [line for line in both if not line.startswith(("---", "+++", "@@"))]
    shown = changed[:_SHOWN_LINES] + (["…"] if len(changed) > _SHOWN_LINES else [])
    start = f"{name} (- recorded, + here):"
    return Distance(len(changed), "\n        ".join([start, *(line[:400] for line in shown)]))


def _is_foreign(case: world.Case) -> bool:
    argv = argv_of(case)
    return case["rc"] == 0 and any(tuple(argv[: len(words)]) == words for words in _FOREIGN)


def _same_status(recorded: int, here: int) -> bool:
    # a shell on Linux saw node's abort as 133; the process died of a signal
    return here < 0 if recorded > 128 else here == recorded


def _blanked_pair(case: world.Case, recorded: str, here: str) -> tuple[str, str]:
    if "exit_timestamp" not in recorded:
        here = _EXIT.sub("", here)  # the recording's zoneadm left none after a halt
    if tuple(argv_of(case)[:2]) in _DRAWING:
        known = set(UUID.findall(case["cmd"] + (case["stdin"] or "")))
        recorded, here = (_without_drawn(text, known) for text in (recorded, here))
    if argv_of(case)[:2] == ["vmadm", "info"]:
        recorded, here = (_DRAWN_BY_GUEST.sub(r"\1ANY", text) for text in (recorded, here))
    return blank(recorded), blank(here)


def _without_drawn(text: str, known: set[str]) -> str:
    """The text with numbers for the uuids that the command drew itself."""
    drawn: dict[str, str] = {}

    def number(found: re.Match[str]) -> str:
        if found[0] in known:
            return found[0]
        return drawn.setdefault(found[0], f"UUID-{len(drawn) + 1}")

    return UUID.sub(number, text)


def blank(text: str) -> str:
    """The text without what no two runs share."""
    text = _FRAMES.sub("", text)
    if text.startswith('{"name":"imgadm"'):
        return _blank_log(text)
    text = "\n".join(_blank_line(line) for line in text.split("\n"))
    for pattern, instead in _VOLATILE:
        text = re.sub(pattern, instead, text)
    return text.rstrip("\n") if text.startswith("Uncaught ") else text


def _blank_line(line: str) -> str:
    """An event loses the stream's uuid."""
    line = re.sub(r'("uuid":)"[0-9a-f-]{36}"(,"vms")', r"\1ANY\2", line)
    return re.sub(r"(\] ready \(uuid )[0-9a-f-]{36}", r"\1ANY", line)


def _blank_log(text: str) -> str:
    """Of imgadm's -E line, what a program would look at."""
    record: dict[str, typing.Any] = json.loads(text.split("\n", maxsplit=1)[0])
    error = record.get("err", {})
    kept = {key: record.get(key) for key in ("name", "level", "component")}
    return json.dumps({**kept, "code": error.get("code"), "message": error.get("message")})
