# SPDX-License-Identifier: Apache-2.0
"""Consoles that take one client: what is kept of them, and who shares them."""

import contextlib
import queue
import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("nova", reason="missing: nova; pip install 'nova-smartos[functional]'")

from nova_smartos.operations import recorder
from nova_smartos.smartos import errors, transport
from tests import waits

SECONDS = 30


class Line:
    """A console that says what the test puts into it."""

    def __init__(self) -> None:
        self.says: queue.Queue[bytes] = queue.Queue()
        self.typed = self.stdin = self
        self.heard = b""
        self.opened = 0
        self.up = True

    def write(self, data: bytes) -> int:
        self.heard += data
        return len(data)

    def read(self, size: int) -> bytes:
        return self.says.get(timeout=SECONDS)

    def kill(self) -> None:
        self.says.put(b"")

    def is_up(self) -> bool:
        return self.up

    @contextlib.contextmanager
    def open(self) -> Iterator[transport.Process]:
        self.opened += 1
        yield self  # type: ignore[misc]


@pytest.fixture(name="line")
def _line() -> Line:
    return Line()


@pytest.fixture(name="recorded")
def _recorded(line: Line) -> Iterator[recorder.Recorder]:
    found = recorder.Recorder("u", line.open, line.is_up, b"before ")
    yield found
    line.up = False
    found.stop()


def test_what_is_shown_is_kept(line: Line, recorded: recorder.Recorder) -> None:
    line.says.put(b"after")
    waits.until(lambda: recorded.shown() == b"before after")


def test_not_more_than_its_size(line: Line, recorded: recorder.Recorder) -> None:
    for number in range(10):
        line.says.put(b"%d" % number * 65536)
    waits.until(lambda: recorded.shown().endswith(b"9" * 65536))
    assert len(recorded.shown()) == recorder.KEPT_BYTES


def test_who_joins_hears_and_types(line: Line, recorded: recorder.Recorder) -> None:
    with recorded.joined() as one, recorded.joined() as other:
        line.says.put(b"hello")
        assert one.read(10) == other.read(10) == b"hello"
        one.stdin.write(b"ls\r")
        assert line.heard == b"ls\r"
        one.kill()
        assert one.read(10) == b""
        line.says.put(b"more")
        assert other.read(10) == b"more"


def test_who_is_too_slow_is_cut_off(line: Line, recorded: recorder.Recorder) -> None:
    with recorded.joined() as slow:
        for _ in range(1000):
            line.says.put(b"x")
        waits.until(lambda: recorded.shown().count(b"x") == 1000)
        assert slow.read(10) == b""


def test_a_console_that_breaks_is_opened_again(line: Line, recorded: recorder.Recorder) -> None:
    with recorded.joined() as client:
        line.says.put(b"")
        assert client.read(10) == b""
    waits.until(lambda: line.opened == 2)
    line.says.put(b"again")
    waits.until(lambda: recorded.shown() == b"before again")


def test_it_ends_with_its_vm(line: Line, recorded: recorder.Recorder) -> None:
    line.up = False
    line.says.put(b"")
    waits.until(lambda: not recorded.following)
    assert recorded.shown() == b"before "
    waits.until(lambda: "kvm-console" not in [each.name for each in threading.enumerate()])


def test_nobody_joins_what_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_JOIN_SECONDS", 0.1)

    @contextlib.contextmanager
    def away() -> Iterator[transport.Process]:
        raise errors.NotStarted("the node is away")
        yield

    recorded = recorder.Recorder("u", away, lambda: True)
    with pytest.raises(errors.InvalidState):
        with recorded.joined():
            pass
    recorded.stop()
    assert not recorded.following
