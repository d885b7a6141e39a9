# SPDX-License-Identifier: Apache-2.0
"""smartos-direct: the operator's script by which a node sends datasets straight to another one."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence

from nova_smartos.smartos import _tool, transport

_HOST = re.compile(r"[A-Za-z0-9._:%][A-Za-z0-9._:%-]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PROGRESS = re.compile(r"[0-9]{2}:[0-9]{2}:[0-9]{2}\t([0-9]+)\t.*")


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a node's SSH is."""

    host: str
    port: int
    user: str


class Direct(_tool.Tool):
    """smartos-direct."""

    name = "smartos-direct"

    def check(self, address: Address) -> None:
        """smartos-direct check USER@HOST PORT: whether the other node lets this one send to it."""
        self._checked(self._run(self._command("check", *self._words(address))))

    @contextlib.contextmanager
    def send(
        self, address: Address, sent: Sequence[str], received: Sequence[str]
    ) -> Iterator[_tool.Stream]:
        """smartos-direct send USER@HOST PORT SENT -- RECEIVED: lines for progress().

        SENT and RECEIVED are the words of Zfs.sending() or resuming(), and of Zfs.receiving(). It
        ends with its standard input, on both nodes.
        """
        words = (*self._words(address), *sent, "--", *received)
        command = self._command("send", *words, timeout=transport.Timeout.STREAM)
        with self._transport.stream(command) as process:
            yield _tool.Stream(process, self._checked)

    def _words(self, address: Address) -> tuple[str, str]:
        user = self._operand(address.user, "user", _USER)
        host = self._operand(address.host, "host", _HOST)
        return f"{user}@{host}", str(address.port)


def progress(line: str) -> int:
    """How many bytes of a snapshot have gone, of a line that the script prints."""
    found = _PROGRESS.fullmatch(line)
    return int(found[1]) if found else 0
