# SPDX-License-Identifier: Apache-2.0
"""What a consumer has read, between the thread that reads and those that take."""

import collections
import threading
import time
from collections.abc import Iterable, Mapping

from ceilometer_plugin import consumer

#: What waits for someone to take it; whoever does not come for so long is told what he missed.
MOST_FINALS = 10_000
MOST_ENDED = 1_000


class Kept:
    """The taking side of a consumer; the reading side calls what begins with keep_."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._run = ""
        self._frames: dict[str, consumer.Frame] = {}
        self._ended: collections.deque[consumer.Frame] = collections.deque()
        self._finals: collections.deque[consumer.Final] = collections.deque()
        self._drops: collections.Counter[str] = collections.Counter()
        self._unsupported: dict[str, str] = {}
        self._failure: str | None = "it was not started"
        self._restarts = 0
        # whether a run counts, when one last said so, and how long none did before
        self._counts = False
        self._said_ns = time.monotonic_ns()
        self._down_ns = 0

    @property
    def run(self) -> str:
        with self._changed:
            return self._run

    @property
    def drops(self) -> Mapping[str, int]:
        with self._changed:
            return dict(self._drops)

    @property
    def unsupported(self) -> Mapping[str, str]:
        with self._changed:
            return dict(self._unsupported)

    @property
    def failure(self) -> str | None:
        with self._changed:
            return self._failure

    @property
    def down_ns(self) -> int:
        with self._changed:
            now = 0 if self._counts else time.monotonic_ns() - self._said_ns
            return self._down_ns + now

    @property
    def restarts(self) -> int:
        with self._changed:
            return self._restarts

    def frames(self) -> dict[str, consumer.Frame]:
        with self._changed:
            return dict(self._frames)

    def ended(self) -> list[consumer.Frame]:
        with self._changed:
            taken = list(self._ended)
            self._ended.clear()
        return taken

    def finals(self) -> list[consumer.Final]:
        with self._changed:
            taken = list(self._finals)
            self._finals.clear()
        return taken

    def keep_counting(self) -> None:
        """A run that counts has begun, or said something."""
        with self._changed:
            now = time.monotonic_ns()
            if not self._counts:
                self._down_ns += now - self._said_ns
            self._counts, self._said_ns = True, now

    def keep_down(self) -> None:
        """No run counts: the last is over, or its window is, and no other has taken over."""
        with self._changed:
            self._counts = False

    def keep_drops(self, kind: str, number: int = 1) -> None:
        """Count what was lost."""
        with self._changed:
            self._drops[kind] += number

    def keep_ended(self, frames: Iterable[consumer.Frame]) -> None:
        """Keep the last frames of a run that is over."""
        with self._changed:
            self._ended.extend(frames)
            while len(self._ended) > MOST_ENDED:
                self._ended.popleft()
                self._drops["frames not taken"] += 1

    def keep_final(self, final: consumer.Final) -> None:
        """Keep the last counters of a zone."""
        with self._changed:
            self._finals.append(final)
            if len(self._finals) > MOST_FINALS:
                self._finals.popleft()
                self._drops["finals not taken"] += 1
