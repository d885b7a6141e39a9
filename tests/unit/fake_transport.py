# SPDX-License-Identifier: Apache-2.0
"""An in-process stand-in for a transport: exact argv to a canned result, and nothing else.

A command that nobody expects fails the test, and so does an answer that nobody asked for.
"""

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from typing import Self

from nova_smartos.smartos import transport


@dataclasses.dataclass
class Answer:
    """What one command gets; `stdin` is compared when it is given."""

    argv: tuple[str, ...]
    stdout: str | bytes = ""
    stderr: str = ""
    returncode: int = 0
    stdin: bytes | None = None

    def result(self, command: transport.Command) -> transport.Result:
        """The result of a command that ran to its end."""
        text = self.stdout
        if isinstance(text, bytes):
            text = text.decode("utf-8", "surrogateescape")
        return transport.Result(
            command.argv, self.returncode, text, self.stderr, secrets=command.secrets
        )


class Process:
    """A streamed command: its output is there at once, its input is kept."""

    def __init__(self, answer: Answer, command: transport.Command) -> None:
        output = answer.stdout
        self.stdin: io.BytesIO = _Sink()
        self.stdout = io.BytesIO(output if isinstance(output, bytes) else output.encode())
        self.killed = False
        self.stdin_closed = False
        self._answer = answer
        self._command = command

    def read(self, size: int) -> bytes:
        return self.stdout.read(size)

    def close_stdin(self) -> None:
        self.stdin_closed = True

    def kill(self) -> None:
        self.killed = True

    def take_stderr(self) -> str:
        # a fake says everything at its end
        return ""

    def wait(self) -> transport.Result:
        return dataclasses.replace(self._answer.result(self._command), stdout="")


class Transport:
    """Answers commands in any order; answers for the same argv in the order given."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.commands: list[transport.Command] = []
        self.processes: list[Process] = []
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            left = [answer.argv for answer in self.answers]
            assert not left, f"nobody ran {left}"

    def run(self, command: transport.Command) -> transport.Result:
        return self._take(command).result(command)

    @contextlib.contextmanager
    def stream(self, command: transport.Command) -> Iterator[Process]:
        process = Process(self._take(command, stream=True), command)
        self.processes.append(process)
        yield process

    def close(self) -> None:
        self.closed = True

    def _take(self, command: transport.Command, *, stream: bool = False) -> Answer:
        self.commands.append(command)
        for answer in self.answers:
            if answer.argv == command.argv:
                self.answers.remove(answer)
                if not stream and answer.stdin is not None:
                    assert command.stdin == answer.stdin
                return answer
        raise AssertionError(f"an unexpected command: {command.argv}")


class _Sink(io.BytesIO):
    """Keeps what is written, also when it is closed."""

    def close(self) -> None:
        """Nothing: a test looks into it afterwards."""


def expecting(
    *argv: str,
    stdout: str | bytes = "",
    stderr: str = "",
    returncode: int = 0,
    stdin: bytes | None = None,
) -> Transport:
    """A transport for one command."""
    return Transport(Answer(argv, stdout, stderr, returncode, stdin))


def refusing() -> Transport:
    """A transport to which no command may come."""
    return Transport()
