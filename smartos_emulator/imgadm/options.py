# SPDX-License-Identifier: Apache-2.0
"""Command line options, parsed as imgadm's option parser does."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from smartos_emulator.imgadm import errors


@dataclasses.dataclass(frozen=True)
class Option:
    """An option: its names (long ones have more than a letter), and what it takes."""

    names: tuple[str, ...]
    help: str
    kind: str = "bool"  # bool, string, list or count
    argument: str = ""
    default: str | None = None
    hidden: bool = False

    @property
    def key(self) -> str:
        return self.names[0].replace("-", "_")


@dataclasses.dataclass
class Parsed:
    """Options given, by key, and the arguments that are none."""

    options: dict[str, Any]
    arguments: list[str]

    def __getattr__(self, key: str) -> Any:
        return self.options.get(key)


def parse(
    options: Sequence[Option], arguments: Sequence[str], *, interspersed: bool = True
) -> Parsed:
    """Parse a command line; without `interspersed` the first argument ends the options."""
    return _Parser(options).parse(list(arguments), interspersed)


class _Parser:
    def __init__(self, options: Sequence[Option]) -> None:
        self.options = options
        self.by_name = {name: option for option in options for name in option.names}
        self.found: dict[str, Any] = {}

    def parse(self, arguments: list[str], interspersed: bool) -> Parsed:
        plain: list[str] = []
        while arguments:
            word = arguments.pop(0)
            if word == "--":
                break
            if word.startswith("--"):
                self._long(word, arguments)
            elif word.startswith("-") and len(word) > 1:
                self._group(word, arguments)
            elif interspersed:
                plain.append(word)
            else:
                arguments.insert(0, word)
                break
        for option in self.options:
            if option.default is not None:
                self.found.setdefault(option.key, option.default)
        return Parsed(self.found, plain + arguments)

    def _long(self, word: str, rest: list[str]) -> None:
        name, equals, value = word[2:].partition("=")
        option = self.by_name.get(name)
        if not option:
            raise _fault(f'unknown option: "--{name}"')
        if option.kind == "bool":
            if equals:
                what = f'"--{name}" option that does not take one: "{word}"'
                raise _fault(f"argument given to {what}")
            self._add(option, f"--{name}", "")
        elif equals:
            self._add(option, f"--{name}", value)
        else:
            self._add(option, f"--{name}", _next(rest, f"--{name}"))

    def _group(self, word: str, rest: list[str]) -> None:
        self._check_group(word)
        for at, name in enumerate(word[1:], 1):
            option = self.by_name[name]
            if option.kind == "bool":
                self._add(option, f"-{name}", "")
                continue
            self._add(option, f"-{name}", word[at + 1 :] or _next(rest, f"-{name}"))
            return

    def _check_group(self, word: str) -> None:
        for name in word[1:]:
            option = self.by_name.get(name)
            if not option:
                inside = f' in "{word}" group' if len(word) > 2 else ""
                raise _fault(f'unknown option: "-{name}"{inside}')
            if option.kind != "bool":
                return

    def _add(self, option: Option, shown: str, value: str) -> None:
        if option.kind == "bool":
            self.found[option.key] = True
        elif option.kind == "list":
            self.found.setdefault(option.key, []).append(value)
        elif option.kind == "count":
            if not re.fullmatch("[0-9]+", value):
                raise _fault(f'arg for "{shown}" is not a positive integer: "{value}"')
            self.found[option.key] = int(value)
        else:
            self.found[option.key] = value


def _next(rest: list[str], shown: str) -> str:
    if not rest:
        raise _fault(f'do not have enough args for "{shown}" option')
    return rest.pop(0)


def _fault(message: str) -> errors.ImgadmError:
    return errors.CommandLineError("Option", message)
