# SPDX-License-Identifier: Apache-2.0
"""Node time: what takes a second on a real node takes 1/speed seconds here."""

import datetime
import threading
import time
import typing

from smartos_emulator import call as call_module

_SLICE = 0.05


class Deadline:
    """A bounded wait for something outside the node, in real seconds."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def passed(self) -> bool:
        return time.monotonic() >= self._end

    def pause(self) -> None:
        """Let the other side get on with it."""
        time.sleep(0.01)


class Clock:
    """Time since the node booted, and waits that a killed client or a stopping node end."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self.booted = datetime.datetime.now(datetime.UTC)
        self.stopping = threading.Event()
        self._start = time.monotonic()

    def monotonic(self) -> float:
        """Node seconds since boot."""
        return (time.monotonic() - self._start) * self.speed

    def now(self) -> datetime.datetime:
        """Wall-clock time in UTC: time stamps are not scaled."""
        return datetime.datetime.now(datetime.UTC)

    def sleep(self, seconds: float) -> None:
        """Let `seconds` of node time pass."""
        deadline = time.monotonic() + seconds / self.speed
        gone = self._gone()
        while (left := deadline - time.monotonic()) > 0:
            if self.stopping.is_set() or gone.is_set():
                raise call_module.Cancelled
            gone.wait(min(left, _SLICE))

    def wait(
        self,
        condition: threading.Condition,
        predicate: typing.Callable[[], bool],
        seconds: float,
    ) -> bool:
        """Wait at most `seconds` of node time, holding `condition`; what `predicate` says last."""
        deadline = time.monotonic() + seconds / self.speed
        gone = self._gone()
        while not predicate():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self.stopping.is_set() or gone.is_set():
                raise call_module.Cancelled
            condition.wait(min(left, _SLICE))
        return True

    def _gone(self) -> threading.Event:
        serving = call_module.current()
        return serving.cancelled if serving else self.stopping
