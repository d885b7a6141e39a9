# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a document that is not JSON, in the words of the V8 engine of node 0.10."""

from collections.abc import Callable


def complaint(document: str) -> str:
    """Why the engine refuses a document that is not JSON."""
    scanner = _Scanner(document)
    try:
        scanner.document()
    except RecursionError:
        return "Maximum call stack size exceeded"
    except _Refused:
        pass
    at = scanner.current()
    if not at:
        return "Unexpected end of input"
    if at == '"':
        return "Unexpected string"
    return "Unexpected number" if at in "-0123456789" else f"Unexpected token {at}"


def stopping_place(document: str) -> int:
    """Where `loads` gives up on a document that is not JSON."""
    scanner = _Scanner(document)
    try:
        scanner.document()
    except (_Refused, RecursionError):
        pass
    return scanner.at


class _Refused(Exception):
    """The scanner stands at the character that does not fit."""


class _Scanner:
    """Walks a document in the engine's order, to find the character it stops at."""

    def __init__(self, document: str) -> None:
        self.source = document
        self.at = 0

    def current(self) -> str:
        return self.source[self.at : self.at + 1]

    def blanks(self) -> None:
        while (here := self.current()) and here in " \t\n\r":
            self.at += 1

    def need(self, fits: bool) -> None:
        if not fits:
            raise _Refused

    def take(self, expected: str) -> None:
        """Pass one expected character and the blanks after it."""
        self.need(self.current() == expected)
        self.at += 1
        self.blanks()

    def document(self) -> None:
        self.blanks()
        self.value()
        self.need(not self.current())

    def value(self) -> None:
        here = self.current()
        if here == '"':
            self.string()
        elif here == "{":
            self.members("}", self.member)
        elif here == "[":
            self.members("]", self.value)
        elif here and here in "-0123456789":
            self.number()
        else:
            self.word({"t": "true", "f": "false", "n": "null"}.get(here, ""))

    def members(self, end: str, member: Callable[[], None]) -> None:
        self.take(self.current())
        if self.current() != end:
            member()
            while self.current() == ",":
                self.take(",")
                member()
        self.take(end)

    def member(self) -> None:
        self.need(self.current() == '"')
        self.string()
        self.take(":")
        self.value()

    def word(self, expected: str) -> None:
        self.need(bool(expected))
        for letter in expected:
            self.need(self.current() == letter)
            self.at += 1
        self.blanks()

    def string(self) -> None:
        self.at += 1
        while (here := self.current()) != '"':
            self.need(here >= " ")
            self.at += 1
            if here == "\\":
                self.escape()
        self.at += 1
        self.blanks()

    def escape(self) -> None:
        kind = self.current()
        self.need(bool(kind) and kind in '"\\/bfnrtu')
        self.at += 1
        for _ in range(4 if kind == "u" else 0):
            digit = self.current()
            self.need(bool(digit) and digit in "0123456789abcdefABCDEF")
            self.at += 1

    def number(self) -> None:
        if self.current() == "-":
            self.at += 1
        if self.current() == "0":
            self.at += 1
            self.need(not self._digit())
        else:
            self.digits()
        if self.current() == ".":
            self.at += 1
            self.digits()
        if self.current() in ("e", "E"):
            self.at += 1
            if self.current() in ("+", "-"):
                self.at += 1
            self.digits()
        self.blanks()

    def _digit(self) -> bool:
        here = self.current()
        return bool(here) and here in "0123456789"

    def digits(self) -> None:
        self.need(self._digit())
        while self._digit():
            self.at += 1
