# SPDX-License-Identifier: Apache-2.0
"""The lines that our D scripts print, read strictly: what is not understood is never guessed.

A frame counts once its end is there. A line that does not fit, whatever the reason, is left out of
its frame: its value comes again with the next.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import ClassVar

from ceilometer_plugin import consumer

VERSION = "1"
#: No line of ours comes near; a longer one is not kept.
LINE_BYTES = 65536
#: Nor has any frame as many values.
MOST_VALUES = 250_000
NOT_UNDERSTOOD = "lines not understood"
CUT_OFF = "frames cut off"

_MOST = 2**63 - 1
_NUMBER = re.compile(r"\d{1,19}", re.ASCII)
_KEYS = {"d": re.compile(r"-?\d{1,19}", re.ASCII), "s": re.compile(r"[!-{}~]{1,255}", re.ASCII)}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_PRINTED = re.compile(r'printa\("([AQ])\|(\w+)\|(\w+)\|((?:%[ds]\|)*)%@d\\n"')
_FINAL = re.compile(r'printf\("F\|(\w+)\|')
_TITLE = re.compile(r" +value  -+ Distribution -+ count *")
_ROW = re.compile(r" *(-?\d{1,19}) \|[@ ]{40} (\d{1,19}) *", re.ASCII)
#: The buckets of quantize(), as they are printed.
_BOUNDS = {str(n): n for power in range(63) for n in (1 << power, -1 << power)} | {"0": 0}

#: The kinds of the keys of a line ("dd": two numbers), by its letter, script and name; what a
#: script may print. A script that prints finals has ("F", SCRIPT, "").
Shapes = Mapping[tuple[str, str, str], str]


def shapes(text: str) -> dict[tuple[str, str, str], str]:
    """The lines that a D program prints, taken from the formats that stand in it."""
    found = {
        (letter, script, name): keys.replace("%", "").replace("|", "")
        for letter, script, name, keys in _PRINTED.findall(text)
    }
    return found | {("F", script, ""): "" for script in _FINAL.findall(text)}


class _NotUnderstood(Exception):
    """A line that does not fit."""


@dataclasses.dataclass
class _Open:
    """A frame whose end has not come yet."""

    script: str
    hrtime_ns: int
    wall_ns: int
    values: dict[consumer.Key, int] = dataclasses.field(default_factory=dict)
    distributions: dict[consumer.Key, dict[int, int]] = dataclasses.field(default_factory=dict)
    #: what came twice: nobody knows which of the two is right
    twice: set[tuple[str, consumer.Key]] = dataclasses.field(default_factory=set)


class Parser:
    """Reads the output of one run, in pieces of any size."""

    def __init__(
        self,
        shapes: Shapes,
        *,
        begun: Callable[[int, int], None],
        frame: Callable[[consumer.Frame], None],
        final: Callable[[consumer.Final], None],
        drops: Callable[[str], None],
    ) -> None:
        """Say what comes: the start's two clocks, frames, finals, and what was lost."""
        self._shapes = shapes
        self._begun = begun
        self._frame = frame
        self._final = final
        self._drops = drops
        self._rest = b""
        self._skipping = False
        self._started: set[str] = set()
        self._newest: dict[str, int] = {}
        self._open: _Open | None = None
        #: the distribution whose rows come, whether its title has come, and its last row
        self._block: dict[int, int] | None = None
        self._titled = False
        self._bound: int | None = None
        #: what stands before the numbers of lines that were understood: most come again
        self._known: dict[str, tuple[str, consumer.Key]] = {}

    def feed(self, data: bytes) -> None:
        """Read the next piece."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self._skipping:
                self._skipping = False
            elif len(line) > LINE_BYTES:
                self._lost()
            else:
                self._line(line)
        if len(self._rest) > LINE_BYTES:
            if not self._skipping:
                self._lost()
            self._skipping, self._rest = True, b""

    def end(self) -> None:
        """There is no more: a frame that is still open was cut off."""
        self._rest, self._skipping = b"", False
        self._close()

    def _lost(self) -> None:
        if self._block is not None:
            # of a table with a hole in it nothing is used
            self._forget(self._block)
            self._block = None
        self._drops(NOT_UNDERSTOOD)

    def _line(self, line: bytes) -> None:
        try:
            self._understand(line.decode("ascii"))
        except (_NotUnderstood, UnicodeDecodeError):
            self._lost()

    def _understand(self, line: str) -> None:
        block = self._block
        if block is not None and self._distribute(block, line):
            return
        letter, _, rest = line.partition("|")
        if line.strip(" "):
            reader = self._READERS.get(letter)
            if reader is None or not rest:
                raise _NotUnderstood
            reader(self, rest)
        if self._block is block:
            self._block = None

    def _begin(self, rest: str) -> None:
        script, version, hrtime, wall = _fields(4, rest)
        if version != VERSION or script not in self._scripts() or script in self._started:
            raise _NotUnderstood
        clocks = _number(hrtime), _number(wall)
        first = not self._started
        self._started.add(script)
        if first:
            self._begun(*clocks)

    def _start_frame(self, rest: str) -> None:
        script, hrtime, wall = _fields(3, rest)
        clocks = _number(hrtime), _number(wall)
        self._close()
        if script not in self._started or clocks[0] < self._newest.get(script, 0):
            raise _NotUnderstood
        self._open = _Open(script, *clocks)

    def _value(self, rest: str) -> None:
        words, _, text = rest.rpartition("|")
        frame, key = self._keyed("A", words)
        number = _number(text)
        if key in frame.values or ("A", key) in frame.twice:
            frame.twice.add(("A", key))
            frame.values.pop(key, None)
            raise _NotUnderstood
        self._check_room(frame)
        frame.values[key] = number

    def _distribution(self, rest: str) -> None:
        words, _, text = rest.rpartition("|")
        if text:
            raise _NotUnderstood
        frame, key = self._keyed("Q", words)
        if key in frame.distributions or ("Q", key) in frame.twice:
            frame.twice.add(("Q", key))
            frame.distributions.pop(key, None)
            raise _NotUnderstood
        self._check_room(frame)
        self._block = frame.distributions[key] = {}
        self._titled, self._bound = False, None

    def _distribute(self, block: dict[int, int], line: str) -> bool:
        """Take a line of dtrace's own table; False when it is none, and the table is over."""
        if not self._titled:
            self._titled = bool(_TITLE.fullmatch(line))
            if self._titled:
                return True
        elif found := _ROW.fullmatch(line):
            bound = _BOUNDS.get(found[1])
            if bound is None or (self._bound is not None and bound <= self._bound):
                raise _NotUnderstood
            block[bound] = _number(found[2])
            self._bound = bound
            return True
        if not block:
            # without rows it is no distribution of nothing, but one that we did not get
            self._lost()
        return False

    def _forget(self, block: dict[int, int]) -> None:
        if self._open:
            kept = self._open.distributions
            self._open.distributions = {k: v for k, v in kept.items() if v is not block}

    def _end_frame(self, script: str) -> None:
        frame = self._open
        if frame is None or frame.script != script:
            raise _NotUnderstood
        self._open = None
        self._newest[script] = frame.hrtime_ns
        distributions = {
            key: {bound: count for bound, count in rows.items() if count}
            for key, rows in frame.distributions.items()
        }
        self._frame(
            consumer.Frame(script, frame.hrtime_ns, frame.wall_ns, frame.values, distributions)
        )

    def _last(self, rest: str) -> None:
        fields = rest.split("|")
        if len(fields) < 6 or ("F", fields[0], "") not in self._shapes:
            raise _NotUnderstood
        script, zonename, zoneid, hrtime, wall, *named = fields
        if not _KEYS["s"].fullmatch(zonename):
            raise _NotUnderstood
        counters: dict[str, int] = {}
        for each in named:
            name, _, number = each.partition("=")
            if not _NAME.fullmatch(name) or name in counters:
                raise _NotUnderstood
            counters[name] = _number(number)
        clocks = _number(hrtime), _number(wall)
        self._final(consumer.Final(zonename, _number(zoneid), *clocks, counters))

    def _keyed(self, letter: str, words: str) -> tuple[_Open, consumer.Key]:
        """The open frame, and the key of a line in it."""
        known = self._known.get(letter + words)
        if known is None:
            if len(self._known) >= MOST_VALUES:
                self._known.clear()
            known = self._known[letter + words] = self._checked(letter, words.split("|"))
        script, key = known
        if self._open is None or script != self._open.script:
            raise _NotUnderstood
        return self._open, key

    def _checked(self, letter: str, words: list[str]) -> tuple[str, consumer.Key]:
        if len(words) < 2:
            raise _NotUnderstood
        script, name, *keys = words
        kinds = self._shapes.get((letter, script, name))
        if kinds is None or len(kinds) != len(keys):
            raise _NotUnderstood
        if not all(_KEYS[kind].fullmatch(key) for kind, key in zip(kinds, keys, strict=True)):
            raise _NotUnderstood
        return script, (name, *keys)

    def _check_room(self, frame: _Open) -> None:
        if len(frame.values) + len(frame.distributions) >= MOST_VALUES:
            raise _NotUnderstood

    def _close(self) -> None:
        self._block = None
        if self._open is not None:
            self._open = None
            self._drops(CUT_OFF)

    def _scripts(self) -> set[str]:
        return {script for _, script, _ in self._shapes}

    _READERS: ClassVar[dict[str, Callable[..., None]]] = {
        "H": _begin,
        "S": _start_frame,
        "A": _value,
        "Q": _distribution,
        "E": _end_frame,
        "F": _last,
    }


def _fields(number: int, text: str) -> list[str]:
    fields = text.split("|")
    if len(fields) != number:
        raise _NotUnderstood
    return fields


def _number(text: str) -> int:
    """A number that a counter can hold; a sum that ran over is none."""
    if not _NUMBER.fullmatch(text) or (number := int(text)) > _MOST:
        raise _NotUnderstood
    return number
