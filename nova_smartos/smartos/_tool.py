# SPDX-License-Identifier: Apache-2.0
"""What all tools have in common: running, reading, streaming, and texts turned into errors."""

import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO, ClassVar, Protocol, TypeVar

from nova_smartos.smartos import errors, records, transport

#: What is read and passed on at once: whoever passes it on pays for each piece.
CHUNK = 2**20
LINE = 2**20
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ZONEPATH = re.compile(rf"/[A-Za-z][A-Za-z0-9_.-]*/{UUID.pattern}")
_FOLDER = re.compile(r"d\S+ .* ")
_SOCKET = re.compile(r"s\S+ .* ")

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Text:
    """A line that a failing tool prints, and what it means."""

    pattern: re.Pattern[str]
    error: type[errors.ToolError]
    code: str


def text(pattern: str, error: type[errors.ToolError], code: str) -> Text:
    """A row of a tool's table of texts; the pattern is matched at the start of a line."""
    return Text(re.compile(pattern), error, code)


# Other tools' texts may come before, but what stands in quotes or in JSON is somebody else's word.
_OWN_WORDS = r"(?:[^\"'{]|'[^']*')*"
#: Fits any tool that stores something.
SPACE = (
    text(_OWN_WORDS + r"\b(?:out of space|[Nn]o space left on device|ENOSPC)\b", errors.NoSpace,
         "NoSpace"),
    text(_OWN_WORDS + r"\bquota exceeded", errors.NoSpace, "QuotaExceeded"),
    text(_OWN_WORDS + r"\bsize is greater than available space", errors.NoSpace, "NoSpace"),
)  # fmt: skip
#: The tools in JavaScript die of their own mistakes: SIGABRT or SIGTRAP, however it is reported.
ABORTS = (-6, -5, 134, 133)
_THROWN = re.compile(
    r"^(?:Uncaught |undefined:\d+$|[ \t]+at .*\.js:\d+|\w{0,60}Error: .*\n[ \t]+at )", re.M
)
# an error's first words tell; the rest may be of any size
_SAID_LINES = 50
_SAID_LINE = 1000


class Readable(Protocol):
    """Where the bytes of a stream come from."""

    def read(self, size: int = -1, /) -> bytes: ...


class Stream:
    """The output of a running command.

    The end of the output is only reported when the command ended well: a failed `zfs send` raises
    here and cannot be taken for a short but whole stream.
    """

    def __init__(self, process: transport.Process, check: Callable[[transport.Result], object]):
        self._process = process
        self._check = check
        self._result: transport.Result | None = None

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read(CHUNK):
            yield chunk

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes, all of them when negative; b"" is the end."""
        data = self._process.stdout.read(size)
        if size < 0 or (not data and size):
            self._end()
        return data

    def kill(self) -> None:
        """End the command; a read that waits in another thread ends soon after."""
        self._process.kill()

    def lines(self, limit: int = LINE) -> Iterator[str]:
        """The lines as they come; OutputError for one that is too long."""
        while line := self.readline(limit):
            if len(line) == limit and not line.endswith(b"\n"):
                raise errors.OutputError(f"a line of more than {limit} bytes")
            yield line.decode("utf-8", "surrogateescape").removesuffix("\n")

    def readline(self, limit: int = -1, /) -> bytes:
        """Read one line; b"" is the end."""
        line = self._process.stdout.readline(limit)
        if not line:
            self._end()
        return line

    def take_stderr(self) -> str:
        """What it has said on standard error since this was last asked, in whole lines.

        A failure shows what was not taken before.
        """
        return self._process.take_stderr()

    def _end(self) -> None:
        # asked again, a failed stream fails again
        self._result = self._result or self._process.wait()
        self._check(self._result)


class Tool:
    """A command line tool of the node."""

    name: ClassVar[str]
    texts: ClassVar[tuple[Text, ...]] = ()
    #: What the tool may print before the words of the table.
    prefix: ClassVar[re.Pattern[str]] = re.compile("")

    def __init__(self, carrier: transport.Transport) -> None:
        self._transport = carrier

    def _command(
        self,
        *arguments: str,
        stdin: bytes = b"",
        timeout: transport.Timeout = transport.Timeout.READ,
        secrets: tuple[str, ...] = (),
        seconds: float | None = None,
    ) -> transport.Command:
        argv = (self.name, *arguments)
        return transport.Command(argv, stdin, timeout, secrets, seconds)

    def _run(self, command: transport.Command) -> transport.Result:
        """Run to the end; a failure is the error that the tool's texts name."""
        return self._checked(self._transport.run(command))

    def _read(self, parser: Callable[[str], T], *arguments: str) -> T:
        """Run a reading command and parse what it prints."""
        return self._parsed(parser, self._run(self._command(*arguments)))

    def _change(self, *arguments: str, stdin: bytes = b"") -> transport.Result:
        """Run a changing command."""
        timeout = transport.Timeout.CHANGE
        return self._run(self._command(*arguments, stdin=stdin, timeout=timeout))

    @contextlib.contextmanager
    def _output(self, *arguments: str, seconds: float | None = None) -> Iterator[Stream]:
        """Run a command whose output the caller reads piece by piece."""
        timeout = transport.Timeout.STREAM
        command = self._command(*arguments, timeout=timeout, seconds=seconds)
        with self._transport.stream(command) as process:
            process.close_stdin()
            yield Stream(process, self._checked)

    def _input(
        self, source: Readable, *arguments: str, secrets: tuple[str, ...] = ()
    ) -> transport.Result:
        """Run a command that reads all of `source`."""
        timeout = transport.Timeout.STREAM
        return self._feed(source, self._command(*arguments, timeout=timeout, secrets=secrets))

    def _feed(self, source: Readable, command: transport.Command) -> transport.Result:
        """Run a command on all of `source`."""
        with self._transport.stream(command) as process:
            # a failing source leaves the context: the command is ended, it sees no end of file
            _pour(source, process.stdin)
            process.close_stdin()
            return self._checked(process.wait())

    def _checked(self, result: transport.Result) -> transport.Result:
        if result.returncode != 0:
            raise self._failure(result)
        return result

    def _failure(self, result: transport.Result) -> errors.ToolError:
        if result.returncode in ABORTS:
            return errors.ToolError.from_result(result, code="Abort")
        beginning = result.stderr[: _SAID_LINES * _SAID_LINE].splitlines()[:_SAID_LINES]
        said = [line[:_SAID_LINE] for line in beginning]
        plain = [self._unprefixed(line) for line in said]
        for row in self.texts:
            if any(row.pattern.match(line) for line in plain):
                return row.error.from_result(result, code=row.code)
        thrown = _THROWN.search("\n".join(said))
        return errors.ToolError.from_result(result, code="Abort" if thrown else "")

    def _unprefixed(self, line: str) -> str:
        found = self.prefix.match(line)
        return line[found.end() :] if found else line

    def _parsed(self, parser: Callable[[str], T], result: transport.Result) -> T:
        try:
            return parser(result.stdout)
        except errors.OutputError as error:
            message = error.message
        # not in there: the parser's error, which would be the context, may quote a secret
        raise self._not_understood(result, message)

    def _not_understood(self, result: transport.Result, message: str) -> errors.OutputError:
        """The error for an output; a tool that tells secrets leaves them out."""
        return errors.OutputError.from_result(result, message)

    def _document(self, payload: object) -> bytes:
        """A payload as JSON for stdin; anything in strings passes, escaped."""
        try:
            return json.dumps(payload, ensure_ascii=True, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise self._refused(f"the payload cannot be written as JSON: {error}") from None

    def _refused(self, message: str) -> errors.InvalidPayload:
        """An argument that must not reach the tool."""
        return errors.InvalidPayload(f"{self.name}: {message}", code="Argument")

    def _uuid(self, value: str) -> str:
        if not isinstance(value, str) or not UUID.fullmatch(value):
            raise self._refused(f"not a uuid: {records.excerpt(str(value))}")
        return value

    def _zonepath(self, value: str) -> str:
        return self._operand(value, "zonepath", _ZONEPATH)

    def _socket(self, zonepath: str, name: str) -> str:
        """Where a hypervisor listens, once it is seen to be no link and behind none."""
        root = f"{self._zonepath(zonepath)}/root"
        places = (root, f"{root}/tmp", f"{root}/tmp/{name}")
        command = transport.Command(("ls", "-ldn", *places), timeout=transport.Timeout.READ)
        result = self._run(command)
        shown = self._parsed(lines, result)
        kinds = (_FOLDER, _FOLDER, _SOCKET)
        if len(shown) != len(places) or not all(
            line.endswith(f" {place}") and kind.match(line)
            for line, place, kind in zip(shown, places, kinds, strict=True)
        ):
            message = f"there is something else in the place of {name}"
            raise errors.ToolError.from_result(result, message=message, code="Suspicious")
        return places[-1]

    def _operand(self, value: str, what: str, pattern: re.Pattern[str] | None = None) -> str:
        """A value that can be taken neither as an option nor as nothing."""
        wrong = not isinstance(value, str) or not value or value.startswith("-") or "\0" in value
        if wrong or (pattern and not pattern.fullmatch(value)):
            raise self._refused(f"not a {what}: {records.excerpt(str(value))}")
        return value


def table(
    parser: Callable[[list[str]], T], columns: int, separator: str = "\t"
) -> Callable[[str], list[T]]:
    """A parser of lines with a fixed number of columns, one value a line."""
    return functools.partial(_rows, parser, columns, separator)


def split(line: str, separator: str) -> list[str]:
    """The columns of a line in which a backslash escapes the separator and itself."""
    columns, current, characters = [], "", iter(line)
    for character in characters:
        if character == "\\":
            current += next(characters, "\\")
        elif character == separator:
            columns.append(current)
            current = ""
        else:
            current += character
    return [*columns, current]


def lines(output: str) -> list[str]:
    """The lines of an output; unlike splitlines(), only a newline ends one."""
    *whole, rest = output.split("\n")
    if rest:
        raise errors.OutputError(f"the last line is cut off: {records.excerpt(rest)}")
    return whole


def _rows(parser: Callable[[list[str]], T], columns: int, separator: str, output: str) -> list[T]:
    rows = []
    for line in lines(output):
        values = split(line, separator) if separator != "\t" else line.split("\t")
        if len(values) != columns:
            raise errors.OutputError(
                f"{columns} columns are expected, not {len(values)}: {records.excerpt(line)}"
            )
        try:
            rows.append(parser(values))
        except ValueError as error:
            raise errors.OutputError(f"{error}: {records.excerpt(line)}") from None
    return rows


def _pour(source: Readable, sink: BinaryIO) -> None:
    while chunk := source.read(CHUNK):
        try:
            sink.write(chunk)
        except BrokenPipeError:
            # the command ended early: its result, not the pipe, says why
            return
