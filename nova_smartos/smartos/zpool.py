# SPDX-License-Identifier: Apache-2.0
"""zpool: pools and their health. Numbers are exact (-p); "-" is None."""

import builtins
import dataclasses
import re
from collections.abc import Sequence

from nova_smartos.smartos import _tool, errors
from nova_smartos.smartos._tool import text

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]*")
_PROPERTY = re.compile(r"[a-z][a-z0-9:._@-]*")
_COLUMNS = "name size allocated free fragmentation capacity dedupratio health".split()

TEXTS = (
    text(r"cannot open '.*': no such pool", errors.NotFound, "PoolNotFound"),
    text(r"cannot open '.*': (?:invalid|name|missing)", errors.InvalidPayload, "Argument"),
    text(r"bad property list|invalid property", errors.InvalidPayload, "Argument"),
    text(r".*: permission denied", errors.ToolError, "PermissionDenied"),
)


@dataclasses.dataclass(frozen=True)
class Pool:
    """A line of list()."""

    name: str
    size_bytes: int | None
    allocated_bytes: int | None
    free_bytes: int | None
    fragmentation_percent: int | None
    capacity_percent: int | None
    dedup_ratio: str
    health: str

    @property
    def healthy(self) -> bool:
        return self.health == "ONLINE"


class Zpool(_tool.Tool):
    """zpool(8)."""

    name = "zpool"
    texts = TEXTS

    def get(self, pool: str, *properties: str) -> dict[str, str | None]:
        """zpool get -Hp -o property,value PROPERTY,… POOL"""
        wanted = ",".join(self._operand(each, "property", _PROPERTY) for each in properties)
        name = self._operand(pool, "pool", _NAME)
        return dict(self._read(_pairs, "get", "-Hp", "-o", "property,value", wanted or "all", name))

    def health(self, pool: str) -> str:
        """zpool list -Hp -o name,… POOL: ONLINE, DEGRADED, FAULTED, …"""
        found = self.list(pool)
        if len(found) != 1:
            raise errors.OutputError(f"zpool list {pool}: one pool is expected, not {len(found)}")
        return found[0].health

    def list(self, *pools: str) -> builtins.list[Pool]:
        """zpool list -Hp -o name,… [POOL …]"""
        names = [self._operand(pool, "pool", _NAME) for pool in pools]
        return self._read(_pools, "list", "-Hp", "-o", ",".join(_COLUMNS), *names)


def _number(value: str) -> int | None:
    # some releases print the sign and the x even with -p
    return None if value == "-" else int(value.removesuffix("%"))


def _pairs(output: str) -> list[tuple[str, str | None]]:
    return _tool.table(lambda row: (row[0], None if row[1] == "-" else row[1]), 2)(output)


def _pool(values: Sequence[str]) -> Pool:
    name, size, allocated, free, fragmentation, capacity, ratio, health = values
    return Pool(
        name=name,
        size_bytes=_number(size),
        allocated_bytes=_number(allocated),
        free_bytes=_number(free),
        fragmentation_percent=_number(fragmentation),
        capacity_percent=_number(capacity),
        dedup_ratio=ratio.removesuffix("x"),
        health=health,
    )


def _pools(output: str) -> list[Pool]:
    return _tool.table(_pool, len(_COLUMNS))(output)
