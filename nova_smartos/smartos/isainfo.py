# SPDX-License-Identifier: Apache-2.0
"""isainfo: what the node's processors can do, in the words of the operating system."""

import re

from nova_smartos.smartos import _tool, errors, records
from nova_smartos.smartos._tool import text

_LINE = re.compile(r"(\w+): (\S+(?: \S+)*)")

TEXTS = (text(r"usage: |isainfo: illegal option", errors.InvalidPayload, "Usage"),)


class Isainfo(_tool.Tool):
    """isainfo(1)."""

    name = "isainfo"
    texts = TEXTS

    def features(self) -> dict[str, tuple[str, ...]]:
        """isainfo -x: extensions of the instruction set, by instruction set."""
        return self._read(_features, "-x")


def _features(output: str) -> dict[str, tuple[str, ...]]:
    found = {}
    for line in _tool.lines(output):
        match = _LINE.fullmatch(line)
        if not match:
            raise errors.OutputError(f"not an instruction set: {records.excerpt(line)}")
        found[match[1]] = tuple(match[2].split(" "))
    return found
