# SPDX-License-Identifier: Apache-2.0
"""ps: what runs on the node, and who of it changes VMs or images.

The system keeps only the beginning of a command line: enough for a tool's subcommand, too short for
its operands.
"""

import dataclasses
import re

from nova_smartos.smartos import _tool, errors, records
from nova_smartos.smartos._tool import text

_LINE = re.compile(r" *(\d+) (.*)")
_CHANGING = re.compile(
    r"(?:\S*/)?(?:vmadm (?:create|create-snapshot|delete|delete-snapshot|install|kill|reboot"
    r"|receive|recv|reprovision|rollback-snapshot|start|stop|update)"
    r"|imgadm (?:create|delete|import|install|vacuum))(?: |$)"
)
_INTERPRETER = re.compile(r"\S*/node(?: -\S+)* ")

TEXTS = (text(r"usage: ps ", errors.InvalidPayload, "Usage"),)


@dataclasses.dataclass(frozen=True)
class Process:
    """A process, and as much of its command line as the system keeps."""

    pid: int
    arguments: str

    @property
    def changes(self) -> bool:
        """Whether it is a vmadm or an imgadm that changes something."""
        return bool(_CHANGING.match(_INTERPRETER.sub("", self.arguments, count=1)))


class Ps(_tool.Tool):
    """ps(1)."""

    name = "ps"
    texts = TEXTS

    def list(self) -> list[Process]:
        """ps -z global -o pid,args: the node's own processes, none of its guests'."""
        return self._read(_processes, "-z", "global", "-o", "pid,args")


def _processes(output: str) -> list[Process]:
    heading, *lines = _tool.lines(output) or [""]
    if heading.split() != ["PID", "COMMAND"]:
        raise errors.OutputError(f"not a list of processes: {records.excerpt(heading)}")
    found = (_LINE.fullmatch(line) for line in lines)
    # an argument may hold a line break: what follows it is no row of its own
    return [Process(int(row[1]), row[2]) for row in found if row]
