# SPDX-License-Identifier: Apache-2.0
"""A guest's console: what it shows, its screen, and a login and a shell for who types there."""

import re
import threading
import typing

Listener = typing.Callable[[bytes], None]

COLUMNS, ROWS = 80, 25

_LONGEST_LINE = 4096
_INTERRUPT, _END, _ERASE = b"\x03", b"\x04", (b"\x08", b"\x7f")
# what moves a cursor or sets a colour is not drawn
_CONTROL = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|.)|[^\n\r\b\x20-\x7e]")


class Screen:
    """The last lines of what was shown; `version` grows with every change."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.version = 0
        self._rows = [""] * ROWS
        self._versions = [0] * ROWS
        self._row = self._column = 0

    def rows(self) -> list[tuple[str, int]]:
        """Each row, filled up with blanks, and the version that it is of."""
        with self.changed:
            return [
                (row.ljust(COLUMNS), version)
                for row, version in zip(self._rows, self._versions, strict=True)
            ]

    def write(self, data: bytes) -> None:
        """Show more."""
        with self.changed:
            self.version += 1
            for letter in _CONTROL.sub("", data.decode("latin-1")):
                self._put(letter)
            self.changed.notify_all()

    def _put(self, letter: str) -> None:
        if letter == "\r":
            self._column = 0
        elif letter == "\b":
            self._column = max(0, self._column - 1)
        elif letter == "\n":
            self._feed()
        else:
            if self._column == COLUMNS:
                self._column = 0
                self._feed()
            row = self._rows[self._row].ljust(self._column)
            self._set(self._row, row[: self._column] + letter + row[self._column + 1 :])
            self._column += 1

    def _feed(self) -> None:
        if self._row < ROWS - 1:
            self._row += 1
            return
        for row in range(ROWS - 1):
            self._set(row, self._rows[row + 1])
        self._set(ROWS - 1, "")

    def _set(self, row: int, text: str) -> None:
        if self._rows[row] != text:
            self._rows[row], self._versions[row] = text, self.version


class Terminal:
    """Where a guest shows what it does. `run` carries out a line and says what it printed."""

    def __init__(self, run: typing.Callable[[str], str]) -> None:
        self.screen = Screen()
        self._run = run
        self._output = threading.RLock()
        self._typing = threading.Lock()
        self._listeners: list[Listener] = [self.screen.write]
        self._name: str | None = None
        self._line = b""
        self._inside = False

    def listen(self, listener: Listener) -> None:
        """Tell somebody of all that is shown from now on."""
        with self._output:
            self._listeners.append(listener)

    def forget(self, listener: Listener) -> None:
        with self._output:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def show(self, text: str) -> None:
        """Show lines; a newline is written as terminals want it."""
        data = text.replace("\n", "\r\n").encode("latin-1", "replace")
        with self._output:
            for listener in list(self._listeners):
                listener(data)

    def ready(self, name: str) -> None:
        """The guest has booted: it asks who is there."""
        with self._typing:
            self._name, self._line, self._inside = name, b"", False
            self._prompt()

    def down(self) -> None:
        """The guest is down: nobody answers."""
        with self._typing:
            self._name = None

    def type(self, data: bytes) -> None:
        """Keys are pressed."""
        with self._typing:
            for at in range(len(data)):
                self._key(data[at : at + 1])

    def _key(self, key: bytes) -> None:
        if self._name is None:
            return
        if key in (b"\r", b"\n"):
            line, self._line = self._line.decode("latin-1"), b""
            self.show("\n")
            self._enter(line.strip())
            self._prompt()
        elif key in (_INTERRUPT, _END):
            self._inside = self._inside and key == _INTERRUPT
            self._line = b""
            self.show("\n")
            self._prompt()
        elif key in _ERASE:
            if self._line:
                self._line = self._line[:-1]
                self.show("\b \b")
        elif b" " <= key <= b"~" and len(self._line) < _LONGEST_LINE:
            self._line += key
            self.show(key.decode())

    def _enter(self, line: str) -> None:
        if not self._inside:
            self._inside = bool(line)
        elif line in ("exit", "logout"):
            self._inside = False
        elif line:
            self.show(self._run(line))

    def _prompt(self) -> None:
        if self._name is not None:
            self.show(f"[root@{self._name} ~]# " if self._inside else f"{self._name} login: ")
