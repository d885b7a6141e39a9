# SPDX-License-Identifier: Apache-2.0
"""What the command says: progress, and colours where a terminal shows them."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

COLOURS = sys.stderr.isatty() and "NO_COLOR" not in os.environ
_ended = threading.Event()


def paint(code: str, text: str) -> str:
    """Colour a text, on a terminal that wants it."""
    return f"\x1b[{code}m{text}\x1b[0m" if COLOURS else text


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def no_more_failures() -> None:
    """What fails from now on does so because all is ended, and is nobody's news."""
    _ended.set()


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Say how long something took when it is done, or that it failed."""
    started = time.monotonic()
    try:
        yield
    except BaseException:
        if not _ended.is_set():
            say(f"  {paint('31', 'failed')}  {what}")
        raise
    say(f"  {paint('32', f'{time.monotonic() - started:5.1f} s')}  {what}")
