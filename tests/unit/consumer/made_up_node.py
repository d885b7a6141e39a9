# SPDX-License-Identifier: Apache-2.0
"""A node that a test makes up: a clock that it moves, and dtrace counting on it."""

import contextlib
import io
import json
import queue
import threading
from collections.abc import Iterator
from typing import Any

from nova_smartos.smartos import node, transport
from tests import waits
from tests.unit.consumer import printed

NS = 10**9
#: A read of zone 3 ends so often.
EVERY_NS = 1_000_000
ROW = "{:>5} {:>10} {:>17} {:>33} {}\n"


class Stream:
    """A running dtrace."""

    def __init__(self, carrier: "Carrier", command: transport.Command) -> None:
        self.command = command
        self.stdin = io.BytesIO()
        self.program = ""
        self.stdout = io.BufferedReader(self)  # type: ignore[type-var]
        self.killed = threading.Event()
        self.returncode = 0
        self.stderr = ""
        self.began_ns = carrier.now_ns
        self._pieces: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
        self._rest = b""
        self._told = ""

    @property
    def window(self) -> tuple[int, int]:
        period, start, end = self.command.argv[-3:]
        return int(start), int(end)

    def counted(self, now_ns: int) -> int:
        """The events in its window that it was there to see."""
        start, end = self.window
        first = max(self.began_ns, start)
        return max(0, min(now_ns, end) // EVERY_NS - first // EVERY_NS)

    def say(self, text: str) -> None:
        self._pieces.put(text.encode())

    def tell(self, text: str) -> None:
        """On standard error."""
        self._told += text

    def end(self, returncode: int, stderr: str = "") -> None:
        self.returncode, self.stderr = returncode, stderr
        self._pieces.put(b"")

    def fail(self, error: Exception) -> None:
        self._pieces.put(error)

    # a transport's process

    def readable(self) -> bool:
        return True

    closed = False

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            said = self._pieces.get(timeout=waits.SECONDS)
            if isinstance(said, Exception):
                raise said
            self._rest = said
            if not said:
                # there is no more after an end
                self._pieces.put(b"")
        piece, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def close_stdin(self) -> None:
        self.program = self.stdin.getvalue().decode()

    def take_stderr(self) -> str:
        told, self._told = self._told, ""
        return told

    def kill(self) -> None:
        self.killed.set()
        self.end(-9)

    def wait(self) -> transport.Result:
        return transport.Result(self.command.argv, self.returncode, "", self.stderr)


class Carrier:
    """The transport to it."""

    def __init__(self, *lacking: str) -> None:
        self.lacking = set(lacking)
        self.now_ns = 1000 * NS
        self.commands: list[tuple[str, ...]] = []
        self.streams: list[Stream] = []
        self.error: Exception | None = None
        self.node = node.Node(self)

    def run(self, command: transport.Command) -> transport.Result:
        self.commands.append(command.argv)
        if self.error is not None:
            raise self.error
        if command.argv[:3] == ("dtrace", "-l", "-n"):
            return self._listed(command)
        assert command.argv == ("kstat", "-j", "zones:0::")
        shown = {
            **{"module": "zones", "instance": 0, "name": "global", "class": "zone_misc"},
            **{"type": 1, "snaptime": self.now_ns / NS, "data": {"zonename": "global"}},
        }
        return transport.Result(command.argv, 0, json.dumps([shown]), "")

    @contextlib.contextmanager
    def stream(self, command: transport.Command) -> Iterator[Stream]:
        if self.error is not None:
            raise self.error
        stream = Stream(self, command)
        self.streams.append(stream)
        yield stream
        stream.killed.set()

    def close(self) -> None:
        """Nothing is open."""

    def begun(self, number: int) -> Stream:
        """The stream of the so manieth dtrace, once that has its program."""
        waits.until(lambda: len(self.streams) > number and self.streams[number].program)
        return self.streams[number]

    def frame(self, stream: Stream) -> None:
        """It prints what it has counted."""
        value = {("ops", 3, 1): stream.counted(self.now_ns)}
        stream.say(printed.frame("zone_io", self.now_ns, value))

    def _listed(self, command: transport.Command) -> transport.Result:
        probe = command.argv[-1]
        if probe in self.lacking:
            said = f"dtrace: failed to match {probe}: No probe matches description\n"
            return transport.Result(command.argv, 1, "", said)
        table = ROW.format("ID", "PROVIDER", "MODULE", "FUNCTION", "NAME")
        table += ROW.format(7, "sdt", "zfs", "zfs_zone_zio_done", "zfs-zone-latency")
        return transport.Result(command.argv, 0, table, "")
