# SPDX-License-Identifier: Apache-2.0
"""sysinfo: what the node is. Units stand in the names; numbers that it prints as text are ints."""

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from nova_smartos.smartos import _tool, records
from nova_smartos.smartos.records import key


def _integer(value: Any) -> int | None:
    return None if value in (None, "") else int(value)


def _boot_time(value: Any) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(value), datetime.UTC)


def _flag(value: Any) -> bool:
    if value not in (True, False, "true", "false", ""):
        raise ValueError("true or false is expected")
    return value in (True, "true")


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        raise ValueError("a string is expected")
    return value or None


@dataclasses.dataclass(frozen=True)
class Disk(records.Record):
    """A disk of the node."""

    size_gb: int | None = key("Size in GB", None, convert=_integer)


@dataclasses.dataclass(frozen=True)
class Interface(records.Record):
    """A physical link, and the nic tags on it."""

    mac: str = key("MAC Address")
    ip: str | None = key("ip4addr", None, convert=_text)
    status: str | None = key("Link Status", None, convert=_text)
    nic_tags: tuple[str, ...] = key("NIC Names", ())


@dataclasses.dataclass(frozen=True)
class VirtualInterface(records.Record):
    """A VNIC of the global zone."""

    mac: str = key("MAC Address")
    ip: str | None = key("ip4addr", None, convert=_text)
    status: str | None = key("Link Status", None, convert=_text)
    over: str | None = key("Host Interface", None, convert=_text)
    overlay_nic_tags: tuple[str, ...] = key("Overlay Nic Tags", ())
    vlan_id: int | None = key("VLAN", None, convert=_integer)


@dataclasses.dataclass(frozen=True)
class Aggregation(records.Record):
    """Links that act as one."""

    lacp_mode: str | None = key("LACP mode", None)
    interfaces: tuple[str, ...] = key("Interfaces", ())


@dataclasses.dataclass(frozen=True)
class Info(records.Record):
    """A node; `document` is all that sysinfo prints."""

    uuid: str = key("UUID")
    hostname: str = key("Hostname")
    live_image: str = key("Live Image")
    boot_time: datetime.datetime = key("Boot Time", convert=_boot_time)
    memory_mib: int = key("MiB of Memory", convert=_integer)
    #: the CPUs that the operating system schedules, hyperthreads included
    cpu_count: int = key("CPU Total Cores", convert=_integer)
    admin_ip: str | None = key("Admin IP", None, convert=_text)
    admin_nic_tag: str | None = key("Admin NIC Tag", None, convert=_text)
    aggregations: Mapping[str, Aggregation] = key("Link Aggregations", dict)
    bhyve: bool = key("Bhyve Capable", False, convert=_flag)
    bhyve_max_vcpus: int | None = key("Bhyve Max Vcpus", None, convert=_integer)
    boot_parameters: Mapping[str, Any] = key("Boot Parameters", dict)
    cpu_cores: int | None = key("CPU Core Count", None, convert=_integer)
    cpu_online: int | None = key("CPU Online Count", None, convert=_integer)
    #: "CPU Physical Cores" counts sockets as well, whatever its name says
    cpu_sockets: int | None = key("CPU Socket Count", None, convert=_integer)
    cpu_type: str | None = key("CPU Type", None, convert=_text)
    cpu_virtualization: str | None = key("CPU Virtualization", None, convert=_text)
    datacenter: str | None = key("Datacenter Name", None, convert=_text)
    disks: Mapping[str, Disk] = key("Disks", dict)
    hvm: bool = key("VM Capable", False, convert=_flag)
    manufacturer: str | None = key("Manufacturer", None, convert=_text)
    network_interfaces: Mapping[str, Interface] = key("Network Interfaces", dict)
    product: str | None = key("Product", None, convert=_text)
    serial_number: str | None = key("Serial Number", None, convert=_text)
    system_type: str | None = key("System Type", None, convert=_text)
    virtual_interfaces: Mapping[str, VirtualInterface] = key("Virtual Network Interfaces", dict)
    zpool: str | None = key("Zpool", None, convert=_text)
    zpool_encrypted: bool = key("Zpool Encrypted", False, convert=_flag)
    zpool_profile: str | None = key("Zpool Profile", None, convert=_text)
    zpool_size_gib: int | None = key("Zpool Size in GiB", None, convert=_integer)
    document: Mapping[str, Any] = records.whole()


class Sysinfo(_tool.Tool):
    """sysinfo(8)."""

    name = "sysinfo"

    def get(self) -> Info:
        """sysinfo: from its cache, which the node makes at boot."""
        return self._read(_info)

    def update(self) -> Info:
        """sysinfo -u, then sysinfo: after the node's network or disks have changed."""
        self._change("-u")
        return self.get()


def _info(output: str) -> Info:
    return Info.from_json(records.object_(output))
