# SPDX-License-Identifier: Apache-2.0
"""printf and printa: what a format asks for, and what it makes of values."""

import dataclasses
import datetime
import re
import typing

from smartos_emulator.dtrace import aggregations, errors, types

_CONVERSION = re.compile(
    r"%(?P<flags>[-+ #0'@]*)(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d+))?"
    r"(?P<long>h|ll|l|L|w)?(?P<letter>[a-zA-Z%])"
)
_INTEGERS = "dioxXucp"
_STRINGS = "sS"
_TIMES = "Y"


@dataclasses.dataclass(frozen=True)
class Conversion:
    """One conversion: how a value is shown, and whether it is the aggregation's."""

    name: str
    letter: str
    shape: str
    stars: int
    of_aggregation: bool
    bits: int = 64

    def show(self, values: list[typing.Any]) -> str:
        """The text of a value; a width or a precision may stand before it."""
        stars, value = tuple(values[: self.stars]), values[self.stars]
        if self.letter in "di":
            return f"%{self.shape}d" % (*stars, value)
        if self.letter in "ouxXp":
            letter = {"u": "d", "p": "x"}.get(self.letter, self.letter)
            return f"%{self.shape}{letter}" % (*stars, value & (1 << self.bits) - 1)
        if self.letter == "c":
            return f"%{self.shape}c" % (*stars, value & 255)
        if self.letter == "Y":
            moment = datetime.datetime.fromtimestamp(value // 10**9, datetime.UTC)
            value = f"{moment:%Y %b} {moment.day:2} {moment:%H:%M:%S}"
        return f"%{self.shape}s" % (*stars, value)


class Format:
    """A format, checked against what it is given."""

    def __init__(self, text: str, function: str, line: int, kinds: tuple[types.Type, ...]) -> None:
        self._function = function
        self._line = line
        self._parts: list[str | Conversion] = []
        self._read(text)
        self._check(kinds)
        conversions = [part for part in self._parts if isinstance(part, Conversion)]
        self._keys = sum(not part.of_aggregation for part in conversions)
        self._template = self._simple()

    def show(self, values: tuple[typing.Any, ...]) -> str:
        """The text of printf."""
        return self._template % values if self._template else self._shown(values, None, ())

    def show_entry(self, of: aggregations.Aggregation, key: aggregations.Key) -> str:
        """The text of printa for one key."""
        if not self._template or of.is_distribution:
            return self._shown(key, of, key)
        taken = key[: self._keys]
        return self._template % (*taken, of.shown(key))

    def _simple(self) -> str:
        """What Python's own formatting does at once, or nothing if it does not do all of it.

        A frame of a node with a thousand zones has many thousand lines.
        """
        found = []
        for place, part in enumerate(self._parts):
            if isinstance(part, str):
                found.append(part.replace("%", "%%"))
                continue
            last = all(isinstance(other, str) for other in self._parts[place + 1 :])
            if part.letter not in "dis" or part.stars or (part.of_aggregation and not last):
                return ""
            found.append(f"%{part.shape}{'s' if part.letter == 's' else 'd'}")
        with_keys = self._function == "printa" and self._parts
        ends = [part for part in self._parts if isinstance(part, Conversion)]
        return "" if with_keys and not (ends and ends[-1].of_aggregation) else "".join(found)

    def _shown(
        self,
        values: tuple[typing.Any, ...],
        of: aggregations.Aggregation | None,
        key: aggregations.Key,
    ) -> str:
        found, at = [], 0
        for part in self._parts:
            if isinstance(part, str):
                found.append(part)
            elif part.of_aggregation and of is not None:
                shown = of.drawn(key) if of.is_distribution else part.show([of.shown(key)])
                found.append(shown)
            else:
                taken = part.stars + 1
                found.append(part.show(list(values[at : at + taken])))
                at += taken
        return "".join(found)

    def _read(self, text: str) -> None:
        at = 0
        while at < len(text):
            mark = text.find("%", at)
            if mark < 0:
                self._parts.append(text[at:])
                return
            if mark > at:
                self._parts.append(text[at:mark])
            found = _CONVERSION.match(text, mark)
            if not found:
                raise self._error(f"{self._function}( ) invalid conversion in its format")
            at = found.end()
            self._parts.append("%" if found["letter"] == "%" else self._conversion(found))

    def _conversion(self, found: re.Match[str]) -> Conversion:
        letter, name = found["letter"], (found["long"] or "") + found["letter"]
        if letter not in _INTEGERS + _STRINGS + _TIMES:
            message = f"{self._function}( ) conversion %{name} is unknown to the emulated node"
            raise self._error(message)
        flags = found["flags"].replace("@", "").replace("'", "")
        width, precision = found["width"] or "", found["precision"]
        if letter in _STRINGS + _TIMES + "c":
            flags = flags.replace("0", "")
        shape = flags + width + ("" if precision is None else f".{precision}")
        return Conversion(name, letter, shape, shape.count("*"), "@" in found["flags"])

    def _check(self, kinds: tuple[types.Type, ...]) -> None:
        at = number = 0
        for place, part in enumerate(self._parts):
            if isinstance(part, str):
                continue
            number += 1
            if part.of_aggregation:
                if self._function != "printa":
                    message = "%@ conversion requires an aggregation and is not for use with "
                    raise self._error(f"{message}{self._function}( )")
                continue
            at += part.stars
            if at >= len(kinds):
                message = f"conversion #{number} (%{part.name}) is missing a corresponding value"
                raise self._error(f"{self._function}( ) prototype mismatch: {message} argument")
            self._check_kind(part, kinds[at], at, number)
            if kinds[at].is_integer:
                self._parts[place] = dataclasses.replace(part, bits=max(32, kinds[at].size * 8))
            at += 1
        if at < len(kinds) and self._function == "printf":
            message = f"prototype mismatch: only {at} arguments required by this format string"
            raise self._error(f"{self._function}( ) {message}")

    def _check_kind(self, part: Conversion, kind: types.Type, at: int, number: int) -> None:
        if part.letter in _STRINGS:
            fits = kind.name in ("string", "char []")
            wanted = "char [] or string (or use stringof)"
        else:
            fits = kind.is_integer or (part.letter == "p" and bool(kind.struct))
            wanted = "char, short, int, long, or long long"
        if not fits:
            what = "tuple" if self._function == "printa" else "argument"
            place = at + 1 if self._function == "printa" else at + 2
            raise self._error(
                f"{self._function}( ) {what} #{place} is incompatible with conversion #{number} "
                f"prototype:\n\tconversion: %{part.name}\n\t prototype: {wanted}\n"
                f"\t  argument: {kind.name}"
            )

    def _error(self, message: str) -> errors.CompileError:
        return errors.CompileError(message, self._line, "action list")


def plain(of: aggregations.Aggregation, key: aggregations.Key) -> str:
    """An entry as dtrace prints it when no format says how."""
    found = []
    for value, kind in zip(key, of.keys, strict=True):
        if isinstance(value, str):
            found.append(f"  {value:<50}")
        else:
            width = {1: 3, 2: 5, 4: 8}.get(kind.size, 16)
            found.append(f" {value:>{width}}")
    value = of.drawn(key) if of.is_distribution else f" {of.shown(key):>16}"
    return "".join(found) + value + "\n"


def traced(value: int | str, kind: types.Type, quiet: bool) -> str:
    """What trace() prints."""
    if isinstance(value, str):
        return value if quiet else f" {value:>33}"
    width = {1: 3, 2: 5, 4: 8}.get(kind.size, 16)
    return str(value) if quiet else f" {value:>{width}}"
