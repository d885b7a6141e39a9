# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between us and a node.

SmartOSError
 ├ TransportError
 │  ├ NotStarted        the command did not run; safe to retry
 │  └ OutcomeUnknown    lost or timed out mid-command: read state before deciding
 ├ ToolError            ran and failed, or would fail for sure
 │  ├ NotFound · AlreadyExists · InvalidState · InvalidPayload · NoSpace · Unsupported
 └ OutputError          succeeded, but its output is not understood
"""

import shlex
from collections.abc import Sequence
from typing import Protocol, Self

# The attributes of an error hold all of what was said.
_LEGIBLE = 2000


class Outcome(Protocol):
    """What an error needs of a command that ran; the transport's Result is one."""

    @property
    def argv(self) -> tuple[str, ...]: ...
    @property
    def returncode(self) -> int: ...
    @property
    def stdout(self) -> str: ...
    @property
    def stderr(self) -> str: ...
    def masked(self) -> Self: ...


class SmartOSError(Exception):
    """Anything that went wrong while talking to a node."""


class TransportError(SmartOSError):
    """The command, or its outcome, did not make it through."""

    def __init__(self, message: str = "", *, argv: Sequence[str] = ()) -> None:
        self.message = message
        self.argv = tuple(argv)
        super().__init__(message)

    def __str__(self) -> str:
        text = _legible(self.message)
        return f"{shown(self.argv)}: {text}" if self.argv else text


class NotStarted(TransportError):
    """The command did not run: refused, unreachable, not authenticated. Safe to retry."""

    def __init__(
        self, message: str = "", *, argv: Sequence[str] = (), retryable: bool = True
    ) -> None:
        super().__init__(message, argv=argv)
        #: False when trying again cannot help: a wrong key, an unknown host, a missing tool.
        self.retryable = retryable


class OutcomeUnknown(TransportError):
    """The command may have run, in full or in part: read state before deciding."""


class ToolError(SmartOSError):
    """A tool ran and failed; `code` is its own word for the reason, where it has one."""

    def __init__(
        self,
        message: str = "",
        *,
        argv: Sequence[str] = (),
        returncode: int | None = None,
        stdout: str = "",
        stderr: str = "",
        code: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        self.code = code

    @classmethod
    def from_result(cls, result: Outcome, *, message: str = "", code: str = "") -> Self:
        """Return the error for a finished command, its secrets masked."""
        shown = result.masked()
        return cls(
            message,
            argv=shown.argv,
            returncode=shown.returncode,
            stdout=shown.stdout,
            stderr=shown.stderr,
            code=code,
        )

    @property
    def tool(self) -> str:
        return self.argv[0] if self.argv else ""

    def __str__(self) -> str:
        said = self.message or self.stderr.strip() or self.stdout.strip()
        text = _legible(said) or "no message"
        if not self.argv:
            return text
        return f"{shown(self.argv)}: {text}{_how_it_ended(self.returncode)}"


class NotFound(ToolError):
    """The VM, image, rule, dataset or other object is not there."""


class AlreadyExists(ToolError):
    """An object of this name or uuid is there already."""


class InvalidState(ToolError):
    """The object is not in a state that allows this."""


class InvalidPayload(ToolError):
    """The request itself is wrong and would fail on every node."""


class NoSpace(ToolError):
    """The node has no room: disk, quota or memory."""


class Unsupported(ToolError):
    """The tool, the brand or the platform cannot do this."""


class OutputError(SmartOSError):
    """The tool reported success, but its output is not understood (or is too much of it)."""

    def __init__(self, message: str = "", *, argv: Sequence[str] = (), output: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.argv = tuple(argv)
        self.output = output

    @classmethod
    def from_result(cls, result: Outcome, message: str) -> Self:
        """Return the error for a finished command, its secrets masked."""
        shown = result.masked()
        return cls(message, argv=shown.argv, output=shown.stdout)

    def __str__(self) -> str:
        text = _legible(self.message)
        return f"{shown(self.argv)}: {text}" if self.argv else text


def shown(argv: Sequence[str]) -> str:
    """Return a command as one line that can be pasted into a shell, unless it was truly odd."""
    return _printable(shlex.join(argv))


def _legible(text: str) -> str:
    # What a node says may be long, no text at all, or meant for the terminal of who reads the log.
    return _printable(text[:_LEGIBLE]) + ("…" if len(text) > _LEGIBLE else "")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _how_it_ended(returncode: int | None) -> str:
    if returncode is None:
        return ""
    if returncode < 0:
        return f" (ended by signal {-returncode})"
    return f" (exit {returncode})"
