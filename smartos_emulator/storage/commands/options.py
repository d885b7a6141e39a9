# SPDX-License-Identifier: Apache-2.0
"""Options as getopt(3C) reads them: clustered letters that end at the first other argument."""

import dataclasses
from collections.abc import Mapping

from smartos_emulator.storage.commands import usage


@dataclasses.dataclass
class Options:
    """What was given: letters with their arguments in order, and the operands."""

    given: list[tuple[str, str]]
    operands: list[str]

    def has(self, letter: str) -> bool:
        return any(one == letter for one, _ in self.given)

    def last(self, letter: str) -> str | None:
        return next((value for one, value in reversed(self.given) if one == letter), None)

    def all(self, letter: str) -> list[str]:
        return [value for one, value in self.given if one == letter]


def parse(
    words: list[str],
    letters: str,
    *,
    long: Mapping[str, str] | None = None,
    missing: str = "missing argument for '{}' option",
) -> Options:
    """Letters that take an argument are followed by a colon, as for getopt."""
    given: list[tuple[str, str]] = []
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--") and long is not None:
            _long(word, rest, letters, long, given, missing)
        else:
            _cluster(word[1:], rest, letters, given, missing)
    return Options(given, rest)


def _cluster(
    word: str, rest: list[str], letters: str, given: list[tuple[str, str]], missing: str
) -> None:
    while word:
        letter, word = word[0], word[1:]
        place = letters.find(letter)
        if place < 0 or letter == ":":
            raise usage.Wrong(f"invalid option '{letter}'")
        if letters[place + 1 : place + 2] != ":":
            given.append((letter, ""))
            continue
        if not word and not rest:
            raise usage.Wrong(missing.format(letter))
        given.append((letter, word or rest.pop(0)))
        return


def _long(
    word: str,
    rest: list[str],
    letters: str,
    long: Mapping[str, str],
    given: list[tuple[str, str]],
    missing: str,
) -> None:
    name, equals, value = word[2:].partition("=")
    letter = long.get(name)
    if letter is None:
        raise usage.Wrong(f"invalid option '{word}'")
    if f"{letter}:" not in letters:
        given.append((letter, ""))
        return
    if not equals and not rest:
        raise usage.Wrong(missing.format(word))
    given.append((letter, value if equals else rest.pop(0)))


def assignments(words: list[str]) -> dict[str, str]:
    """property=value arguments; ValueError carries zfs's reason."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError("missing '=' for property=value argument")
        if name in found:
            raise ValueError(f"property '{name}' specified multiple times")
        found[name] = value
    return found


def exclusions(words: list[str], given: Mapping[str, str]) -> list[str]:
    """Property arguments beside assignments; ValueError carries zfs's reason."""
    found: list[str] = []
    for word in words:
        if "=" in word:
            raise ValueError("invalid character '=' in property argument")
        if word in found or word in given:
            raise ValueError(f"property '{word}' specified multiple times")
        found.append(word)
    return found


def count(operands: list[str], *missing: str) -> None:
    """Refuse fewer or more operands than have a text for their absence."""
    if len(operands) < len(missing):
        raise usage.Wrong(f"missing {missing[len(operands)]} argument")
    if len(operands) > len(missing):
        raise usage.Wrong("too many arguments")
