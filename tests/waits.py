# SPDX-License-Identifier: Apache-2.0
"""Waiting in a test: for a thing that is to happen, and never for ever."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
SECONDS = 60.0


def until(
    question: Callable[[], T], what: str = "it", seconds: float = SECONDS, pause: float = 0.01
) -> T:
    """Ask until the answer is true; what it is."""
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(pause)
    return answer
