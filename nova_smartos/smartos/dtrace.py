# SPDX-License-Identifier: Apache-2.0
"""dtrace: probes and scripts. Scripts travel on stdin and take arguments; they are no templates."""

import builtins
import contextlib
import dataclasses
import re
from collections.abc import Iterator

from nova_smartos.smartos import _tool, errors, records, transport
from nova_smartos.smartos._tool import text

#: Where MODULE stands in a line of -l; it may be empty.
_MODULE = slice(17, 34)
_PROBE = re.compile(r"[A-Za-z0-9_*?.$\[\]`-]*(?::[^\s:,{}/;]*){0,3}")
_VERSION = re.compile(r"dtrace: (?:Sun|illumos|DTrace) ?D? ?(\S+)")

TEXTS = (
    text(r"dtrace: failed to match .*: No probe matches", errors.NotFound, "ProbeNotFound"),
    text(r"dtrace: .*probe description .* does not match any probes", errors.NotFound,
         "ProbeNotFound"),
    text(r"dtrace: failed to initialize dtrace: DTrace requires additional privileges",
         errors.ToolError, "PermissionDenied"),
    text(r"dtrace: failed to initialize dtrace", errors.Unsupported, "NoDTrace"),
    text(r"dtrace: (?:failed to compile|invalid probe)", errors.InvalidPayload, "Script"),
    text(r"dtrace: illegal option|Usage: dtrace", errors.InvalidPayload, "Usage"),
)  # fmt: skip


#: A script that runs, and what it prints.
Running = _tool.Stream


@dataclasses.dataclass(frozen=True)
class Probe:
    """A line of list()."""

    id: int
    provider: str
    module: str
    function: str
    name: str


class Dtrace(_tool.Tool):
    """dtrace(8)."""

    name = "dtrace"
    texts = TEXTS

    def list(self, probe: str | None = None) -> builtins.list[Probe]:
        """dtrace -l [-n PROVIDER:MODULE:FUNCTION:NAME]: [] when none matches."""
        flags = ["-n", self._operand(probe, "probe", _PROBE)] if probe is not None else []
        try:
            return self._read(_probes, "-l", *flags)
        except errors.NotFound:
            return []

    @contextlib.contextmanager
    def run(self, script: str, *arguments: str, seconds: float = 300) -> Iterator[Running]:
        """dtrace -q -s /dev/stdin [ARGUMENT …] < SCRIPT: its output as it comes.

        `seconds` is how long it may be silent.
        """
        operands = [self._operand(argument, "argument of a script") for argument in arguments]
        timeout = transport.Timeout.STREAM
        argv = ("-q", "-s", "/dev/stdin", *operands)
        command = self._command(*argv, timeout=timeout, seconds=seconds)
        with self._transport.stream(command) as process:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(script.encode())
            process.close_stdin()
            yield Running(process, self._checked)

    def version(self) -> str:
        """dtrace -V"""
        return self._read(_version, "-V")


def _probe(line: str) -> Probe:
    words = line.split()
    module, function = "", ""
    if len(words) == 5:
        module, function = words[2:4]
    elif len(words) == 4:
        module, function = (words[2], "") if line[_MODULE].strip() else ("", words[2])
    if len(words) not in (3, 4, 5) or not words[0].isdecimal():
        raise errors.OutputError(f"not a probe: {records.excerpt(line)}")
    return Probe(int(words[0]), words[1], module, function, words[-1])


def _probes(output: str) -> list[Probe]:
    return [_probe(line) for line in _tool.lines(output)[1:]]


def _version(output: str) -> str:
    found = _VERSION.match(output)
    if not found:
        raise errors.OutputError(f"no version: {records.excerpt(output)}")
    return found[1]
