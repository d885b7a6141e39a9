# SPDX-License-Identifier: Apache-2.0
"""Command lines read as vmadm's option parser reads them: unknown options are kept, not refused."""

import dataclasses
import json
import re
import typing

from smartos_emulator import js

BOOLEAN, NUMBER, STRING = "Boolean", "Number", "String"
_REMOVED = object()

Types = dict[str, tuple[typing.Any, ...]]
Shorthands = dict[str, list[str]]


@dataclasses.dataclass
class Parsed:
    """The options by name, and the words that are no options."""

    options: dict[str, typing.Any]
    remain: list[str]


def parse(words: list[str], types: Types, shorthands: Shorthands) -> Parsed:
    """Read `words`: an option of no known type takes the next word as its value."""
    return _Reader(words, types, shorthands).read()


class _Reader:
    def __init__(self, words: list[str], types: Types, shorthands: Shorthands) -> None:
        self._words = list(words)
        self._types = types
        self._shorthands = shorthands
        self._names = abbreviations(list(types))
        self._shorts = abbreviations(list(shorthands))
        self._parsed = Parsed({}, [])

    def read(self) -> Parsed:
        while self._words:
            word = self._words.pop(0)
            if re.fullmatch("-{2,}", word):
                self._parsed.remain += self._words
                break
            if word.startswith("-"):
                self._option(word)
            else:
                self._parsed.remain.append(word)
        self._clean()
        return self._parsed

    def _option(self, word: str) -> None:
        if "=" in word:
            word, _, value = word.partition("=")
            self._words.insert(0, value)
        expanded = self._expand(word)
        if expanded is not None and (not expanded or expanded[0] != word):
            self._words[:0] = expanded
            return
        name, negated = _positive(word.lstrip("-"))
        name = self._names.get(name, name)
        following = self._words[0] if self._words else None
        if negated or BOOLEAN in self._types.get(name, ()):
            self._parsed.options[name] = self._boolean(negated, following)
        elif following is None or re.fullmatch("-{2,}", following):
            self._parsed.options[name] = True
        else:
            self._parsed.options[name] = self._words.pop(0)

    def _boolean(self, negated: bool, following: str | None) -> bool:
        if following not in ("true", "false"):
            return not negated
        self._words.pop(0)
        return json.loads(following) is not negated

    def _expand(self, word: str) -> list[str] | None:
        """What a shorthand stands for; several may be glued together behind one dash."""
        name = word.lstrip("-")
        if name in self._names and name not in self._shorthands:
            return None
        if name in self._shorts:
            return self._shorthands[self._shorts[name]]
        if all(letter in self._shorthands for letter in name):
            return [part for letter in name for part in self._shorthands[letter]]
        return self._shorthands.get(name)

    def _clean(self) -> None:
        options = self._parsed.options
        for name, value in list(options.items()):
            typed = self._typed(name, value)
            if typed is _REMOVED:
                del options[name]
            else:
                options[name] = typed

    def _typed(self, name: str, value: typing.Any) -> typing.Any:
        if name not in self._types:
            return _guess(value)
        if BOOLEAN in self._types[name]:
            return value
        if NUMBER in self._types[name]:
            number = js.number(value)
            return _REMOVED if js.is_nan(number) else number
        return js.text(value).strip()


def _positive(name: str) -> tuple[str, bool]:
    negated = False
    while name.lower().startswith("no-"):
        name, negated = name[3:], not negated
    return name, negated


def _guess(value: typing.Any) -> typing.Any:
    """The value of an option nobody declared."""
    if not isinstance(value, str):
        return value
    value = value.strip()
    if value in ("null", "true", "false"):
        return json.loads(value)
    number = js.number(value)
    return value if js.is_nan(number) else number


def abbreviations(names: list[str]) -> dict[str, str]:
    """Every beginning that only one of `names` has, and the names themselves."""
    table: dict[str, str] = {}
    for name in names:
        for end in range(1, len(name)):
            start = name[:end]
            if sum(other.startswith(start) for other in names) == 1:
                table[start] = name
    return table | {name: name for name in names}
