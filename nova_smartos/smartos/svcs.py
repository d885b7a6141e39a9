# SPDX-License-Identifier: Apache-2.0
"""svcs: services of the node or of a zone, and their processes."""

import builtins
import dataclasses
import re

from nova_smartos.smartos import _tool, errors, records
from nova_smartos.smartos._tool import text

_COLUMNS = "state,nstate,stime,fmri"
_PATTERN = re.compile(r"[A-Za-z0-9_*?/:.,@\[\]-]+")
_PROCESS = re.compile(r"\s+(\S+)\s+([0-9]+)\s+(\S.*)")

TEXTS = (
    text(r"svcs: Pattern '.*' doesn't match any instances", errors.NotFound, "ServiceNotFound"),
    text(r".*(?:[Nn]o such zone|zone .* not found)", errors.NotFound, "ZoneNotFound"),
    text(r".*[Cc]ould not bind to .*repository", errors.InvalidState, "NoRepository"),
    text(r"(?:svcs: )?(?:Unknown|unknown|illegal|invalid)", errors.InvalidPayload, "Argument"),
    text(r"Usage: ", errors.InvalidPayload, "Usage"),
)


@dataclasses.dataclass(frozen=True)
class Process:
    """A process of a service; its start is a text for people."""

    pid: int
    command: str
    started: str


@dataclasses.dataclass(frozen=True)
class Service:
    """A line of list(). next_state is None unless a change is under way."""

    fmri: str
    state: str
    next_state: str | None
    since: str
    processes: tuple[Process, ...] = ()


class Svcs(_tool.Tool):
    """svcs(1)."""

    name = "svcs"
    texts = TEXTS

    def get(self, fmri: str, *, zone: str | None = None) -> Service:
        """svcs -H -p [-z ZONE] -o state,nstate,stime,fmri FMRI: with its processes."""
        found = self._services(True, fmri, zone)
        if len(found) != 1:
            raise errors.OutputError(f"svcs {fmri}: one service is expected, not {len(found)}")
        return found[0]

    def list(
        self, pattern: str | None = None, *, zone: str | None = None
    ) -> builtins.list[Service]:
        """svcs -H -a [-z ZONE] -o state,nstate,stime,fmri [PATTERN]"""
        return self._services(False, pattern, zone)

    def _services(
        self, processes: bool, pattern: str | None, zone: str | None
    ) -> builtins.list[Service]:
        flags = ["-H", "-p"] if processes else ["-H", "-a"] if pattern is None else ["-H"]
        flags += ["-z", self._uuid(zone)] if zone is not None else []
        operands = [self._operand(pattern, "FMRI", _PATTERN)] if pattern is not None else []
        return self._read(_services, *flags, "-o", _COLUMNS, *operands)


def _process(line: str) -> Process:
    found = _PROCESS.fullmatch(line)
    if not found:
        raise errors.OutputError(f"neither a service nor a process: {records.excerpt(line)}")
    started, pid, command = found.groups()
    return Process(int(pid), command, started)


def _service(line: str) -> Service:
    words = line.split()
    if len(words) != 4:
        raise errors.OutputError(f"not a service: {records.excerpt(line)}")
    state, next_state, since, fmri = words
    return Service(fmri, state, None if next_state == "-" else next_state, since)


def _services(output: str) -> list[Service]:
    found: list[Service] = []
    for line in _tool.lines(output):
        if line.startswith(" ") and found:
            processes = (*found[-1].processes, _process(line))
            found[-1] = dataclasses.replace(found[-1], processes=processes)
        else:
            found.append(_service(line))
    return found
