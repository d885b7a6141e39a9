# SPDX-License-Identifier: Apache-2.0
"""One debug line a command, and the seam for tracing: events that a trace viewer opens."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from nova_smartos.smartos import errors
from nova_smartos.smartos.transport import command as commands

LOG = logging.getLogger(__name__)

#: Gets one "complete" event of the trace event format for each command.
Tracer = Callable[[dict[str, Any]], None]


class Seen:
    """What becomes known of a command while it runs."""

    def __init__(self) -> None:
        self.returncode: int | None = None
        self.error: str | None = None


@contextlib.contextmanager
def observed(node: str, command: commands.Command, tracer: Tracer | None) -> Iterator[Seen]:
    """Log and trace the command that the body carries out."""
    seen = Seen()
    wall, start = time.time_ns(), time.perf_counter_ns()
    try:
        yield seen
    except BaseException as error:
        seen.error = type(error).__name__
        raise
    finally:
        nanoseconds = time.perf_counter_ns() - start
        _log(node, command, seen, nanoseconds)
        if tracer is not None:
            tracer(_event(node, command, seen, wall, nanoseconds))


def _log(node: str, command: commands.Command, seen: Seen, nanoseconds: int) -> None:
    end = seen.error or ("left running" if seen.returncode is None else f"rc {seen.returncode}")
    LOG.debug("%s: %s: %s, %.1f ms", node, errors.shown(command.argv), end, nanoseconds / 1e6)


def _event(
    node: str, command: commands.Command, seen: Seen, wall: int, nanoseconds: int
) -> dict[str, Any]:
    return {
        "name": command.tool,
        "cat": "command",
        "ph": "X",
        "ts": wall // 1000,
        "dur": nanoseconds // 1000,
        "pid": os.getpid(),
        "tid": threading.get_native_id(),
        "args": {
            "node": node,
            "argv": list(command.argv),
            "returncode": seen.returncode,
            "error": seen.error,
        },
    }
