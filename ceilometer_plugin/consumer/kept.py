# SPDX-License-Identifier: Apache-2.0
"""What a consumer has read, between the thread that reads and those that take."""

import collections
import threading
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
