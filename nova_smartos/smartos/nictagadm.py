# SPDX-License-Identifier: Apache-2.0
"""nictagadm: nic tags, the node's names for its networks."""

import builtins
import dataclasses
import re

from nova_smartos.smartos import _tool, errors, transport
from nova_smartos.smartos._tool import text

_MAC = re.compile(r"[0-9a-fA-F]{1,2}(?::[0-9a-fA-F]{1,2}){5}|aggr[0-9]+")
_TAG = re.compile(r"[A-Za-z0-9_]+(?:/[0-9]+)?")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

TEXTS = (
    text(r"Error: nic tag '.*' does not exist", errors.NotFound, "TagNotFound"),
    text(r"Error: nic tag '.*' already exists", errors.AlreadyExists, "TagExists"),
    text(r"Error: nic tag '.*' is in use", errors.InvalidState, "TagInUse"),
    text(r"Error: (?:aggregation '.*' does not exist|No physical nic)", errors.InvalidPayload,
         "LinkNotFound"),
    text(r"Error: This program can only be run", errors.ToolError, "CannotRun"),
    text(r"Error: ", errors.InvalidPayload, "Argument"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class NicTag:
    """A nic tag; an etherstub or overlay rule has no MAC."""

    name: str
    mac: str | None
    link: str | None
    type: str


class Nictagadm(_tool.Tool):
    """nictagadm(8)."""

    name = "nictagadm"
    texts = TEXTS

    def add(self, tag: str, mac: str | None = None, *, mtu_bytes: int | None = None) -> None:
        """nictagadm add [-l] [-p mtu=BYTES] TAG [MAC]: an etherstub (-l) when no MAC is given."""
        flags = ["-l"] if mac is None else []
        flags += ["-p", f"mtu={int(mtu_bytes)}"] if mtu_bytes is not None else []
        operands = [] if mac is None else [self._operand(mac, "MAC or aggregation", _MAC)]
        self._change("add", *flags, self._tag(tag), *operands)

    def delete(self, tag: str, *, force: bool = False) -> None:
        """nictagadm delete [-f] TAG"""
        self._change("delete", *(["-f"] if force else []), self._tag(tag))

    def exists(self, *tags: str) -> bool:
        """nictagadm exists -l TAG …: whether all of them do, etherstubs and overlays included."""
        names = [self._tag(tag) for tag in tags]
        result = self._transport.run(self._command("exists", "-l", *names))
        # the tags that are missing, and nothing else, stand on stderr
        missing = set(result.stderr.split())
        if result.returncode == 1 and missing and missing.issubset(names):
            return False
        self._checked(result)
        return True

    def list(self) -> builtins.list[NicTag]:
        """nictagadm list -p -d ,"""
        return self._read(_tags, "list", "-p", "-d", ",")

    def vms(self, tag: str) -> builtins.list[str]:
        """nictagadm vms TAG: the uuids of the VMs that use it."""
        return self._read(_uuids, "vms", self._tag(tag))

    def _failure(self, result: transport.Result) -> errors.ToolError:
        if result.returncode == 2:
            return errors.InvalidPayload.from_result(result, code="Usage")
        return super()._failure(result)

    def _tag(self, tag: str) -> str:
        return self._operand(tag, "nic tag", _TAG)


def _tag(values: list[str]) -> NicTag:
    name, mac, link, kind = values
    return NicTag(name, _value(mac), _value(link), kind)


def _tags(output: str) -> list[NicTag]:
    return _tool.table(_tag, 4, ",")(output)


def _uuid(values: list[str]) -> str:
    if not _UUID.fullmatch(values[0]):
        raise ValueError("a uuid is expected")
    return values[0]


def _uuids(output: str) -> list[str]:
    return _tool.table(_uuid, 1)(output)


def _value(value: str) -> str | None:
    return None if value in ("", "-") else value
