# SPDX-License-Identifier: Apache-2.0
"""dladm: data links. Parseable output escapes ":" and "\\" with a backslash."""

import dataclasses
import re
from collections.abc import Callable
from typing import TypeVar

from nova_smartos.smartos import _tool, errors
from nova_smartos.smartos._tool import text

_LINK = re.compile(r"[A-Za-z][A-Za-z0-9_./]*")
_PROPERTY = re.compile(r"_?[a-z][a-z0-9_-]*")
_ZONE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

TEXTS = (
    text(r"dladm: .*\bzone .*(?:does not exist|not found)|dladm: .*[Nn]o such zone",
         errors.NotFound, "ZoneNotFound"),
    text(r"dladm: .*object not found", errors.NotFound, "LinkNotFound"),
    text(r"dladm: .*object already exists", errors.AlreadyExists, "LinkExists"),
    text(r"dladm: .*link busy", errors.InvalidState, "LinkBusy"),
    text(r"dladm: .*operation not supported", errors.Unsupported, "NotSupported"),
    text(r"dladm: .*(?:permission denied|insufficient privileges)", errors.ToolError,
         "PermissionDenied"),
    text(r"dladm: .*(?:invalid|read-only|unknown|illegal|unrecognized)",
         errors.InvalidPayload, "Argument"),
)  # fmt: skip

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Link:
    """A link of any class: phys, vnic, aggr, etherstub, overlay, …"""

    link: str
    class_: str
    mtu_bytes: int
    state: str
    over: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Phys:
    """A physical link."""

    link: str
    media: str
    state: str
    speed_mbps: int
    duplex: str
    device: str


@dataclasses.dataclass(frozen=True)
class Address:
    """A MAC address of a physical link."""

    link: str
    slot: str
    mac: str
    in_use: bool
    client: str | None


@dataclasses.dataclass(frozen=True)
class Vnic:
    """A virtual NIC; `zone` is None in the global zone."""

    link: str
    over: str
    mac: str
    vlan_id: int
    zone: str | None


@dataclasses.dataclass(frozen=True)
class LinkProperty:
    """A property of a link."""

    link: str
    property: str
    value: tuple[str, ...]


class Dladm(_tool.Tool):
    """dladm(8)."""

    name = "dladm"
    texts = TEXTS

    def set_linkprop(
        self, link: str, property_: str, value: str, *, zone: str | None = None
    ) -> None:
        """dladm set-linkprop -t [-z ZONE] -p PROPERTY=VALUE LINK: until the link is gone."""
        assignment = f"{self._operand(property_, 'property', _PROPERTY)}={value}"
        self._change("set-linkprop", "-t", *self._zone(zone), "-p", assignment, self._link(link))

    def show_link(self, link: str | None = None) -> list[Link]:
        """dladm show-link -p -o link,class,mtu,state,over [LINK]"""
        return self._show(_link, "show-link", "-p", "link,class,mtu,state,over", link)

    def show_linkprop(
        self, link: str, *properties: str, zone: str | None = None
    ) -> list[LinkProperty]:
        """dladm show-linkprop -c [-z ZONE] -o link,property,value [-p PROPERTY,…] LINK

        Here -c is what -p is elsewhere.
        """
        names = ",".join(self._operand(each, "property", _PROPERTY) for each in properties)
        flags = [*self._zone(zone), *(["-p", names] if names else [])]
        return self._show(_property, "show-linkprop", "-c", "link,property,value", link, *flags)

    def show_phys(self, link: str | None = None) -> list[Phys]:
        """dladm show-phys -p -o link,media,state,speed,duplex,device [LINK]"""
        columns = "link,media,state,speed,duplex,device"
        return self._show(_phys, "show-phys", "-p", columns, link)

    def show_phys_addresses(self, link: str | None = None) -> list[Address]:
        """dladm show-phys -m -p -o link,slot,address,inuse,client [LINK]"""
        columns = "link,slot,address,inuse,client"
        return self._show(_address, "show-phys", "-p", columns, link, "-m")

    def show_vnic(self, link: str | None = None, *, zone: str | None = None) -> list[Vnic]:
        """dladm show-vnic -p [-z ZONE] -o link,over,macaddress,vid,zone [LINK]"""
        columns = "link,over,macaddress,vid,zone"
        return self._show(_vnic, "show-vnic", "-p", columns, link, *self._zone(zone))

    def _link(self, link: str) -> str:
        return self._operand(link, "link", _LINK)

    def _show(
        self,
        row: Callable[[list[str]], T],
        subcommand: str,
        parseable: str,
        columns: str,
        link: str | None,
        *flags: str,
    ) -> list[T]:
        parser = _tool.table(row, columns.count(",") + 1, ":")
        operands = [self._link(link)] if link is not None else []
        return self._read(parser, subcommand, parseable, *flags, "-o", columns, *operands)

    def _zone(self, zone: str | None) -> list[str]:
        return ["-z", self._operand(zone, "zone", _ZONE)] if zone is not None else []


def _address(values: list[str]) -> Address:
    link, slot, mac, in_use, client = values
    return Address(link, slot, mac, in_use == "yes", _value(client))


def _link(values: list[str]) -> Link:
    link, class_, mtu, state, over = values
    return Link(link, class_, int(mtu), state, tuple((_value(over) or "").split()))


def _phys(values: list[str]) -> Phys:
    link, media, state, speed, duplex, device = values
    return Phys(link, media, state, int(speed), duplex, device)


def _property(values: list[str]) -> LinkProperty:
    link, name, value = values
    listed = _value(value)
    return LinkProperty(link, name, tuple(listed.split(",")) if listed else ())


def _value(value: str) -> str | None:
    return None if value in ("", "-", "--") else value


def _vnic(values: list[str]) -> Vnic:
    link, over, mac, vlan_id, zone = values
    return Vnic(link, over, mac, int(vlan_id), _value(zone))
