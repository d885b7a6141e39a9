# SPDX-License-Identifier: Apache-2.0
"""Options and help of a tool with subcommands, as the node's JavaScript tools have them."""

import collections
import collections.abc
import dataclasses
import math
import re
import textwrap
import typing

from smartos_emulator.fwadm import errors

_INDENT = 4
_WIDTH = 80


@dataclasses.dataclass(frozen=True)
class Option:
    """An option; `argument` is empty for a switch. The first name is its key."""

    names: tuple[str, ...]
    help: str
    argument: str = ""

    @property
    def key(self) -> str:
        return self.names[0].replace("-", "_")

    def synopsis(self) -> str:
        return f"[ {' | '.join(self._spelt(name) for name in self.names)} ]"

    def summary(self) -> str:
        """The option in a help text: shortest name first."""
        return ", ".join(self._spelt(name) for name in sorted(self.names, key=len))

    def _spelt(self, name: str) -> str:
        short = len(name) == 1
        argument = f"{' ' if short else '='}{self.argument}" if self.argument else ""
        return f"{'-' if short else '--'}{name}{argument}"


@dataclasses.dataclass(frozen=True)
class Subcommand:
    """A subcommand's help; `{name}` in its synopses stands for the whole command."""

    name: str
    summary: str
    synopses: tuple[str, ...]
    options: tuple[Option, ...]
    examples: str = ""

    def usage(self) -> str:
        """The usage that follows an error about arguments."""
        if len(self.synopses) == 1:
            return f"usage: {self.synopses[0]}"
        return "usage:\n    " + "\n    ".join(self.synopses)

    def help(self) -> str:
        synopses = textwrap.indent("\n".join(self.synopses), " " * _INDENT, lambda line: True)
        text = f"{self.summary}\n\nUsage:\n{synopses}\n\nOptions:\n{options_help(self.options)}"
        if self.examples:
            text += f"\n\nExamples:\n\n{self.examples}"
        return text.rstrip()


def options_help(options: collections.abc.Sequence[Option]) -> str:
    """One line an option, each explained in a column of its own."""
    lines = [" " * _INDENT + option.summary() for option in options]
    column = min(max(max(map(len, lines)) + 2, 20), 40)
    return "".join(
        _explained(line, option.help, column) for line, option in zip(lines, options, strict=True)
    )


def _explained(line: str, explanation: str, column: int) -> str:
    if not explanation.endswith((".", "!", "?", '"', "'")):
        explanation += "."
    gap = " " * (column - len(line)) if len(line) <= column else "\n" + " " * column
    wrapped = textwrap.wrap(
        explanation, _WIDTH - column, break_long_words=False, break_on_hyphens=False
    )
    return line + gap + ("\n" + " " * column).join(wrapped) + "\n"


Values = dict[str, typing.Any]


def parse(
    options: collections.abc.Sequence[Option],
    arguments: collections.abc.Sequence[str],
    interspersed: bool = True,
) -> tuple[Values, list[str]]:
    """The options given and the other arguments; ValueError names what does not fit."""
    known = {name: option for option in options for name in option.names}
    values: Values = {}
    others: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if argument == "--":
            break
        if argument.startswith("--"):
            _long(argument, known, values, left)
        elif argument.startswith("-") and len(argument) > 1:
            _short(argument, known, values, left)
        elif interspersed:
            others.append(argument)
        else:
            left.insert(0, argument)
            break
    return values, others + left


def _long(argument: str, known: dict[str, Option], values: Values, left: list[str]) -> None:
    name, equals, value = argument[2:].partition("=")
    option = known.get(name)
    if option is None:
        raise ValueError(f'unknown option: "--{name}"')
    if not option.argument:
        if equals:
            raise ValueError(
                f'argument given to "--{name}" option that does not take one: "{argument}"'
            )
        values[option.key] = True
    elif equals:
        values[option.key] = value
    elif left:
        values[option.key] = left.pop(0)
    else:
        raise ValueError(f'do not have enough args for "--{name}" option')


def _short(argument: str, known: dict[str, Option], values: Values, left: list[str]) -> None:
    for name in argument[1:]:
        if name not in known:
            group = f' in "{argument}" group' if len(argument) > 2 else ""
            raise ValueError(f'unknown option: "-{name}"{group}')
        if known[name].argument:
            break
    for at, name in enumerate(argument[1:], 2):
        option = known[name]
        if not option.argument:
            values[option.key] = True
            continue
        if not argument[at:] and not left:
            raise ValueError(f'do not have enough args for "-{name}" option')
        values[option.key] = argument[at:] or left.pop(0)
        break


def option_error(
    error: ValueError, command: str, options: collections.abc.Sequence[Option]
) -> errors.UsageError:
    """A wrong option, with all the options there are."""
    lines = []
    line = f"usage: {command}"
    for option in options:
        if len(line) + len(option.synopsis()) + 1 > _WIDTH:
            lines.append(line)
            line = f"    {option.synopsis()}"
        else:
            line += f" {option.synopsis()}"
    return errors.UsageError(str(error), "\n".join([*lines, f"{line} ..."]), "Option")


def unknown_command(name: str, known: collections.abc.Sequence[str]) -> errors.UsageError:
    """An unknown subcommand, with those that look like it."""
    similar = _similar(name, known)
    usage = "Did you mean this?\n    " + "\n    ".join(similar) if similar else ""
    return errors.UsageError(f'unknown command: "{name}"', usage, "UnknownCommand")


def _similar(name: str, known: collections.abc.Sequence[str]) -> list[str]:
    """Among the names that share three letters, those nearest by edit distance."""
    name = name.lower()
    grams = _grams(name)
    ranked = []
    for other in known:
        theirs = _grams(other)
        shared = sum(count * theirs[gram] for gram, count in grams.items())
        if shared:
            distance = 1 - _distance(other, name) / max(len(other), len(name))
            ranked.append((distance, shared / _norm(theirs), other))
    ranked.sort(key=lambda rank: rank[:2], reverse=True)
    return [other for score, _, other in ranked if score == ranked[0][0] and score >= 0.3]


def _grams(name: str) -> collections.Counter[str]:
    framed = f"-{re.sub('[^a-zA-Z0-9_, ]+', '', name, count=1)}-"
    return collections.Counter(framed[at : at + 3] for at in range(len(framed) - 2))


def _norm(grams: collections.Counter[str]) -> float:
    return math.sqrt(sum(count * count for count in grams.values()))


def _distance(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            cost = previous + (left != right)
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, cost)
    return row[-1]
