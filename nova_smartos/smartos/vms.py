# SPDX-License-Identifier: Apache-2.0
"""What vmadm tells about VMs: the objects of get and lookup, events, verdicts on payloads."""

import dataclasses
import datetime
import decimal
import enum
import re
from collections.abc import Mapping
from typing import Any

from nova_smartos.smartos import records
from nova_smartos.smartos.records import key

#: Brands with hardware virtualization: the guest has a kernel of its own.
HVM_BRANDS = frozenset({"bhyve", "kvm"})
# of an array's members vmadm drops what it reports as disks.*.x, but keeps disks.0.x
_KEPT = re.compile(r"\w+\.\d+\.")


class State(enum.StrEnum):
    """States that vmadm shows; a newer platform may have others, so fields hold plain strings."""

    CONFIGURED = "configured"
    DOWN = "down"
    FAILED = "failed"
    INCOMPLETE = "incomplete"
    PROVISIONING = "provisioning"
    READY = "ready"
    RECEIVING = "receiving"
    RUNNING = "running"
    SHUTTING_DOWN = "shutting_down"
    STOPPED = "stopped"
    STOPPING = "stopping"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True, slots=True)
class Disk(records.Record):
    """A disk of a VM with hardware virtualization."""

    path: str
    boot: bool = False
    block_size_bytes: int | None = key("block_size", None)
    compression: str | None = None
    image_size_mib: int | None = key("image_size", None)
    image_uuid: str | None = None
    media: str | None = None
    model: str | None = None
    pci_slot: str | None = None
    refreservation_mib: int | None = key("refreservation", None)
    #: not always a whole number: vmadm divides what zfs says
    size_mib: float | None = key("size", None)
    uuid: str | None = None
    zfs_filesystem: str | None = None
    zpool: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Nic(records.Record):
    """A network interface of a VM. An ip may be an address with its prefix, dhcp or addrconf."""

    mac: str
    interface: str | None = None
    allow_dhcp_spoofing: bool = False
    allow_ip_spoofing: bool = False
    allow_mac_spoofing: bool = False
    allow_restricted_traffic: bool = False
    allow_unfiltered_promisc: bool = False
    allowed_ips: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    model: str | None = None
    mtu_bytes: int | None = key("mtu", None)
    network_uuid: str | None = None
    nic_tag: str | None = None
    primary: bool = False
    vlan_id: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot(records.Record):
    """A vm snapshot."""

    name: str
    created_at: datetime.datetime | None = None
    size_mib: decimal.Decimal | None = key("size", None)


@dataclasses.dataclass(frozen=True, slots=True)
class Vm(records.Record):
    """A VM as `vmadm get` prints it; `document` is all of it."""

    uuid: str
    brand: str
    state: str
    zone_state: str
    alias: str | None = None
    autoboot: bool = False
    billing_id: str | None = None
    boot_timestamp: datetime.datetime | None = None
    cpu_cap_percent: int | None = key("cpu_cap", None)
    cpu_shares: int | None = None
    create_timestamp: datetime.datetime | None = None
    customer_metadata: Mapping[str, Any] = key("customer_metadata", dict)
    datasets: tuple[str, ...] = ()
    disks: tuple[Disk, ...] = ()
    dns_domain: str | None = None
    docker: bool = False
    exit_status: Any = None
    exit_timestamp: datetime.datetime | None = None
    firewall_enabled: bool = False
    flexible_disk_size_mib: int | None = key("flexible_disk_size", None)
    free_space_mib: int | None = key("free_space", None)
    hostname: str | None = None
    image_uuid: str | None = None
    indestructible_delegated: bool = False
    indestructible_zoneroot: bool = False
    internal_metadata: Mapping[str, Any] = key("internal_metadata", dict)
    kernel_version: str | None = None
    last_modified: datetime.datetime | None = None
    max_locked_memory_mib: int | None = key("max_locked_memory", None)
    max_lwps: int | None = None
    max_physical_memory_mib: int | None = key("max_physical_memory", None)
    max_swap_mib: int | None = key("max_swap", None)
    nics: tuple[Nic, ...] = ()
    owner_uuid: str | None = None
    pid: int | None = None
    platform_buildstamp: str | None = None
    #: not always a whole number: vmadm divides what zfs says
    quota_gib: float | None = key("quota", None)
    ram_mib: int | None = key("ram", None)
    resolvers: tuple[str, ...] = ()
    routes: Mapping[str, Any] = key("routes", dict)
    server_uuid: str | None = None
    snapshots: tuple[Snapshot, ...] = ()
    tags: Mapping[str, Any] = key("tags", dict)
    tmpfs_mib: int | None = key("tmpfs", None)
    transition_to: str | None = None
    vcpus: int | None = None
    vnc_port: int | None = None
    zfs_filesystem: str | None = None
    zfs_io_priority: int | None = None
    zoneid: int | None = None
    zonename: str | None = None
    zonepath: str | None = None
    zpool: str | None = None
    document: Mapping[str, Any] = records.whole()

    @property
    def hvm(self) -> bool:
        return self.brand in HVM_BRANDS


@dataclasses.dataclass(frozen=True, slots=True)
class Change(records.Record):
    """One difference between a VM before and after; a member of an array has None in its path."""

    path: tuple[Any, ...]
    action: str
    pretty_path: str = key("prettyPath", "")
    old_value: Any = key("oldValue", None)
    new_value: Any = key("newValue", None)


@dataclasses.dataclass(frozen=True, slots=True)
class Event(records.Record):
    """A line of `vmadm events -jr`.

    `ready` comes first and carries all `vms` by zonename, with the stream's own uuid. `create` and
    `modify` carry the `vm`, `delete` only its uuid.
    """

    type: str
    date: datetime.datetime
    uuid: str
    zonename: str | None = None
    vm: Vm | None = None
    changes: tuple[Change, ...] = ()
    vms: Mapping[str, Vm] = key("vms", dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict(records.Record):
    """What `vmadm validate` says of a payload; a verdict is an answer, not an error."""

    bad_brand: Any = None
    bad_properties: tuple[str, ...] = ()
    bad_values: tuple[str, ...] = ()
    missing_properties: tuple[str, ...] = ()

    @property
    def dropped(self) -> tuple[str, ...]:
        """Properties that create and update leave out while they report success."""
        return tuple(name for name in self.bad_properties if not _KEPT.match(name))

    @property
    def refused(self) -> bool:
        """Whether create or update would fail; dropped properties do not make them fail."""
        return self.bad_brand is not None or bool(self.bad_values or self.missing_properties)

    @property
    def valid(self) -> bool:
        return not self.refused and not self.bad_properties
