# SPDX-License-Identifier: Apache-2.0
"""One debug line a command, and its span where there is a trace."""

import contextlib
import logging
import re
import time
from collections.abc import Iterator

from nova_smartos.smartos import errors, spans
from nova_smartos.smartos.transport import command as commands

LOG = logging.getLogger(__name__)

_SUBCOMMAND = re.compile(r"[a-z][a-z-]*")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Seen:
    """What becomes known of a command while it runs."""

    def __init__(self) -> None:
        self.returncode: int | None = None
        self.error: str | None = None
        #: bytes that went to its standard input, and came from its standard output
        self.sent = self.received = 0


@contextlib.contextmanager
def observed(node: str, command: commands.Command) -> Iterator[Seen]:
    """Log and trace the command that the body carries out."""
    seen = Seen()
    begun_ns = time.monotonic_ns()
    try:
        yield seen
    except BaseException as error:
        seen.error = type(error).__name__
        raise
    finally:
        _log(node, command, seen, time.monotonic_ns() - begun_ns)
        if spans.on():
            _record(node, command, seen, begun_ns)


def _log(node: str, command: commands.Command, seen: Seen, nanoseconds: int) -> None:
    end = seen.error or ("left running" if seen.returncode is None else f"rc {seen.returncode}")
    LOG.debug("%s: %s: %s, %.1f ms", node, errors.shown(command.argv), end, nanoseconds / 1e6)


def _record(node: str, command: commands.Command, seen: Seen, begun_ns: int) -> None:
    # the other arguments may be what a tenant wrote
    subcommand = [word for word in command.argv[1:2] if _SUBCOMMAND.fullmatch(word)]
    uuid = _UUID.search(" ".join(command.argv[1:]))
    spans.record(
        " ".join([command.tool, *subcommand]),
        "command",
        begun_ns,
        node=node,
        uuid=uuid and uuid.group(),
        returncode=seen.returncode,
        error=seen.error,
        bytes_in=seen.sent,
        bytes_out=seen.received,
    )
