# SPDX-License-Identifier: Apache-2.0
"""One command and its result: what every transport takes and gives, and what may be shown of it."""

import contextlib
import dataclasses
import enum
import json
import re
from typing import BinaryIO, Protocol

from nova_smartos.smartos import errors

MASK = "***"
#: Longer requests belong on standard input; shells and sshd have limits a little above this.
MAX_ARGUMENT_BYTES = 100_000
#: run() holds the whole output in memory; a tool that prints more is ended.
MAX_STDOUT_BYTES = 64 * 2**20
MAX_STDERR_BYTES = 2**20

_TOOL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
# Shorter secrets would be found by chance in words that are none.
_SHORTEST_SEARCHED = 6


class Timeout(enum.Enum):
    """The class of a command, from which its time limit follows."""

    READ = "read"
    CHANGE = "change"
    STREAM = "stream"


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """Seconds for each class; a stream may last for days but not stand still for longer."""

    read: float = 60.0
    change: float = 900.0
    stream_idle: float = 300.0

    def seconds(self, command: "Command") -> float:
        """Return the limit of one command."""
        if command.seconds is not None:
            return command.seconds
        by_class = {
            Timeout.READ: self.read,
            Timeout.CHANGE: self.change,
            Timeout.STREAM: self.stream_idle,
        }
        return by_class[command.timeout]


@dataclasses.dataclass(frozen=True)
class Command:
    """A tool with its arguments and input.

    argv[0] is the bare name of the tool. Payloads travel in stdin. No secret may stand in argv,
    where every process list would show it: InvalidPayload. `seconds` overrides the class's limit;
    math.inf means no limit. A command on a terminal of its own prints its errors there, too.
    """

    argv: tuple[str, ...]
    stdin: bytes = dataclasses.field(default=b"", repr=False)
    timeout: Timeout = Timeout.READ
    secrets: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    seconds: float | None = None
    terminal: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "argv", tuple(self.argv))
        if not self.argv or not _TOOL_NAME.fullmatch(self.argv[0]):
            raise errors.InvalidPayload("a command must start with the bare name of a tool")
        if any(_holds_secret(argument, self.secrets) for argument in self.argv):
            raise errors.InvalidPayload(
                f"{self.argv[0]}: an argument holds a secret; secrets must go through stdin"
            )
        if any("\0" in argument for argument in self.argv):
            raise errors.InvalidPayload("an argument holds a NUL character", argv=self.argv)
        if sum(len(encoded) + 1 for encoded in self.encoded()) > MAX_ARGUMENT_BYTES:
            raise errors.InvalidPayload(f"{self.argv[0]}: the arguments are too long")

    @property
    def tool(self) -> str:
        return self.argv[0]

    def encoded(self) -> list[bytes]:
        """Return the arguments as the bytes that the tool gets."""
        try:
            return [argument.encode("utf-8", "surrogateescape") for argument in self.argv]
        except UnicodeEncodeError as error:
            raise errors.InvalidPayload(
                f"{self.argv[0]}: an argument cannot be written as UTF-8: {error}"
            ) from None


@dataclasses.dataclass(frozen=True)
class Result:
    """How a command ended. A negative returncode is the signal that ended it."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0
    secrets: tuple[str, ...] = ()

    def masked(self) -> "Result":
        """Return a copy that may be shown to anyone."""
        return dataclasses.replace(
            self,
            stdout=masked(self.stdout, self.secrets),
            stderr=masked(self.stderr, self.secrets),
            secrets=(),
        )

    def __repr__(self) -> str:
        shown = self.masked()
        return (
            f"Result(argv={shown.argv!r}, returncode={shown.returncode!r},"
            f" stdout={shown.stdout!r}, stderr={shown.stderr!r}, seconds={shown.seconds:.3f})"
        )


class Process(Protocol):
    """A running command whose input and output are streams.

    Reading and writing raise OutcomeUnknown when the connection breaks or nothing moves for too
    long; writing raises BrokenPipeError when the command no longer listens.
    """

    @property
    def stdin(self) -> BinaryIO: ...
    @property
    def stdout(self) -> BinaryIO: ...
    def read(self, size: int) -> bytes:
        """What there is of the output, as soon as there is some, b"" at its end; past stdout."""

    def close_stdin(self) -> None: ...
    def kill(self) -> None: ...
    def take_stderr(self) -> str:
        """The whole lines on standard error since it was last asked; the result lacks them."""

    def wait(self) -> Result: ...


class Transport(Protocol):
    """Carries commands to one node."""

    def run(self, command: Command) -> Result:
        """Run to the end; a non-zero exit is a Result. Raises NotStarted, OutcomeUnknown."""

    def stream(self, command: Command) -> contextlib.AbstractContextManager[Process]:
        """Start a command whose streams the caller moves; leaving the context ends it."""

    def close(self) -> None:
        """Give back connections; a later command opens them again."""


def masked(text: str, secrets: tuple[str, ...]) -> str:
    """Return `text` with every secret, plain or as JSON writes it, replaced by ***."""
    forms = {form for secret in secrets for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, MASK)
    return text


def _forms(secret: str) -> set[str]:
    # A tool may repeat one line of a key or a script only, and JSON escapes what it repeats.
    lines = {line for line in secret.splitlines() if len(line) >= _SHORTEST_SEARCHED}
    plain = {secret, *lines} - {""}
    escaped = {_json(form, ascii_) for form in plain for ascii_ in (True, False)}
    return plain | escaped


def _json(text: str, only_ascii: bool) -> str:
    return json.dumps(text, ensure_ascii=only_ascii)[1:-1]


def _holds_secret(argument: str, secrets: tuple[str, ...]) -> bool:
    for secret in filter(None, secrets):
        if len(secret) >= _SHORTEST_SEARCHED and secret in argument:
            return True
        if argument == secret or argument.endswith("=" + secret):
            return True
    return False
