# SPDX-License-Identifier: Apache-2.0
"""A node's facts as the resources, inventory and traits that Nova and Placement keep of it.

Disk space is what ZFS can give out: a pool's size without redundancy and without what ZFS keeps
for itself. What instances do not use of it (the platform's swap and dump, images, VMs that are not
Nova's with all that their quotas promise) is reserved.
"""

import dataclasses
import datetime
import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import os_traits
from nova import exception
from nova.compute import power_state
from nova.objects import diagnostics, fields, image_meta

from nova_smartos.smartos import kstat, sysinfo, vms, zfs
from nova_smartos.translate import payload, state

GIB = 2**30
MIB = 2**20
TYPE = "SmartOS"

BRANDS = ("bhyve", "joyent", "joyent-minimal", "kvm", "lx")
#: The words of isainfo -x that have traits HW_CPU_X86_…; some mean two of them.
CPU_TRAITS = {
    "aes": ("AESNI",),
    "amd_3dnow": ("3DNOW",),
    "amd_lzcnt": ("ABM",),
    "amd_sse4a": ("SSE4A",),
    "avx": ("AVX",),
    "avx2": ("AVX2",),
    "avx512_bitalg": ("AVX512BITALG",),
    "avx512_vbmi2": ("AVX512VBMI2",),
    "avx512_vnni": ("AVX512VNNI",),
    "avx512_vpopcntdq": ("AVX512VPOPCNTDQ",),
    "avx512bw": ("AVX512BW",),
    "avx512cd": ("AVX512CD",),
    "avx512dq": ("AVX512DQ",),
    "avx512er": ("AVX512ER",),
    "avx512f": ("AVX512F",),
    "avx512ifma": ("AVX512IFMA",),
    "avx512pf": ("AVX512PF",),
    "avx512vbmi": ("AVX512VBMI",),
    "avx512vl": ("AVX512VL",),
    "bmi1": ("BMI",),
    "bmi2": ("BMI2",),
    "f16c": ("F16C",),
    "fma": ("FMA3",),
    "fma4": ("FMA4",),
    "mmx": ("MMX",),
    "pclmulqdq": ("CLMUL",),
    "sha": ("SHA",),
    "sse": ("SSE",),
    "sse2": ("SSE2",),
    "sse3": ("SSE3",),
    "sse4.1": ("SSE41",),
    "sse4.2": ("SSE42",),
    "ssse3": ("SSSE3",),
    "svm": ("SVM", "AMD_SVM"),
    "tbm": ("TBM",),
    "vmx": ("VMX", "INTEL_VMX"),
    "xop": ("XOP",),
}
_ARCHITECTURES = (fields.Architecture.X86_64, fields.Architecture.I686)
# Nova has no word for zones: what comes nearest are containers that run programs on the node's
# own kernel. An image's hw_vm_mode=exe says the same.
_ZONE = (fields.HVType.LXC, fields.VMMode.EXE)
_HVM = {
    "bhyve": (fields.HVType.BHYVE, fields.VMMode.HVM),
    "kvm": (fields.HVType.KVM, fields.VMMode.HVM),
}
_DEVICES = {"ide": "/dev/hda", "sata": "/dev/sda", "scsi": "/dev/sda"}
_STAMP = re.compile(r"([0-9]{8})T[0-9]{6}Z")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a node is; it changes when the node boots."""

    info: sysinfo.Info
    features: frozenset[str]
    vendor: str
    family: int
    model: int
    stepping: int
    mhz: int

    @classmethod
    def of(
        cls,
        info: sysinfo.Info,
        features: Mapping[str, Iterable[str]],
        processor: kstat.Instance,
    ) -> "Facts":
        """From sysinfo, isainfo -x and one kstat of module cpu_info."""
        return cls(
            info=info,
            features=frozenset(features.get("amd64", ())),
            vendor=str(processor.data.get("vendor_id", "")),
            family=processor.number("family"),
            model=processor.number("model"),
            stepping=processor.number("stepping"),
            mhz=processor.number("clock_MHz"),
        )

    @property
    def brands(self) -> tuple[str, ...]:
        """The brands that the node can run."""
        lacking = set() if self.info.bhyve else {"bhyve"}
        # SmartOS's KVM knows Intel's extensions only, though sysinfo says "VM Capable" everywhere
        if not self.info.hvm or self.info.cpu_virtualization != "vmx":
            lacking.add("kvm")
        return tuple(brand for brand in BRANDS if brand not in lacking)

    @property
    def version(self) -> int:
        """The platform's day as a number that grows, as 20260312; 0 is unknown, as in Nova."""
        stamp = _STAMP.fullmatch(self.info.live_image)
        return int(stamp[1]) if stamp else 0


@dataclasses.dataclass(frozen=True)
class Storage:
    """The pool of the VMs, in bytes."""

    total: int
    #: in use now, whosever it is
    used: int
    #: taken from Nova's instances for good: images, the platform, what is promised to other VMs
    reserved: int
    #: promised to VMs but not in use yet
    promised: int

    @property
    def free(self) -> int:
        """What could still be promised; below zero when more is promised than there is."""
        return self.total - self.used - self.promised


@dataclasses.dataclass(frozen=True)
class Reserves:
    """What the operator keeps back on the node, in Nova's units."""

    cpus: int
    ram_mib: int
    disk_mib: int


def storage(
    pool: str,
    datasets: Iterable[zfs.Dataset],
    machines: Collection[str],
    granted: Mapping[str, float],
) -> Storage:
    """The pool from `zfs list -d 1 POOL`.

    `machines` are the VMs on the node, `granted` what Placement's allocations hold for those that
    are Nova's: what a VM takes beyond, as metadata of its disks, is reserved.
    """
    rows = {row.name: row for row in datasets}
    root = rows.pop(pool, None)
    if root is None or root.used_bytes is None or root.available_bytes is None:
        raise exception.InternalError(f"zfs list told nothing of the pool {pool!r}")
    used = dict.fromkeys([*machines, *granted], 0)
    limit = dict(used)
    for row in rows.values():
        # zones/UUID, and zones/UUID-disk0 for the disks of older platforms
        owner = row.name.removeprefix(f"{pool}/")[:36]
        if owner in used:
            used[owner] += row.used_bytes or 0
            # a medium is only read
            is_medium = row.name == payload.medium_volume(owner)
            limit[owner] += (row.used_bytes or 0) if is_medium else _limit(row)
    reserved = root.used_bytes - sum(used.values())
    reserved += sum(int(max(0, limit[owner] - granted.get(owner, 0))) for owner in used)
    return Storage(
        total=root.used_bytes + root.available_bytes,
        used=root.used_bytes,
        reserved=max(0, reserved),
        promised=sum(limit.values()) - sum(used.values()),
    )


def granted(flavor: Mapping[str, Any]) -> int:
    """The bytes of disk that an instance's allocation holds, from the flavor in its mark."""
    gib, mib = flavor.get("disk", 0) + flavor.get("ephemeral", 0), flavor.get("swap", 0)
    return int(gib * GIB + mib * MIB)


def resources(facts: Facts, space: Storage, machines: Iterable[vms.Vm]) -> dict[str, Any]:
    """What get_available_resource returns."""
    present = list(machines)
    info = facts.info
    return {
        "vcpus": cpus(info),
        "vcpus_used": sum(_cpus(vm) for vm in present),
        "memory_mb": info.memory_mib,
        "memory_mb_used": sum(ram_mib(vm) for vm in present),
        "local_gb": space.total // GIB,
        "local_gb_used": _ceiling(space.used, GIB),
        "disk_available_least": space.free // GIB,
        "hypervisor_type": TYPE,
        "hypervisor_version": facts.version,
        "hypervisor_hostname": info.hostname,
        "uuid": info.uuid,
        "cpu_info": json.dumps(cpu_info(facts), sort_keys=True),
        "supported_instances": supported_instances(facts),
        "numa_topology": None,
        "stats": {
            # what the API shows as the uptime; whatever changes here Nova writes down each minute
            "uptime": f"up since {info.boot_time.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC",
            # for flavors with capabilities:smartos_…
            "smartos_brands": " ".join(facts.brands),
            "smartos_platform": info.live_image,
        },
    }


def supported_instances(facts: Facts) -> list[list[str]]:
    """Architecture, hypervisor type and VM mode of what can run, for ImagePropertiesFilter."""
    kinds = [_HVM[brand] for brand in facts.brands if brand in _HVM] + [_ZONE]
    return [[architecture, *kind] for kind in kinds for architecture in _ARCHITECTURES]


def cpu_info(facts: Facts) -> dict[str, Any]:
    """The processors as Nova's API shows them."""
    info = facts.info
    sockets = info.cpu_sockets or 1
    cores = info.cpu_cores or cpus(info)
    return {
        "arch": fields.Architecture.X86_64,
        "vendor": facts.vendor,
        "model": info.cpu_type or "",
        "family": facts.family,
        "model_number": facts.model,
        "stepping": facts.stepping,
        "mhz": facts.mhz,
        "topology": {
            "cells": 1,
            "sockets": sockets,
            "cores": max(1, cores // sockets),
            "threads": max(1, cpus(info) // cores),
        },
        "features": sorted(facts.features),
    }


def cpus(info: sysinfo.Info) -> int:
    """The processors that run something: one that is offline does not."""
    return info.cpu_online or info.cpu_count


def ram_mib(vm: vms.Vm) -> int:
    """The memory that a VM may take: for HVM more than its guest sees."""
    return vm.max_physical_memory_mib or vm.ram_mib or 0


def inventory(
    facts: Facts,
    space: Storage,
    foreign_mib: int,
    reserves: Reserves,
    ratios: Mapping[str, float],
) -> dict[str, dict[str, Any]]:
    """Placement's inventory of the node; VMs that are not Nova's may take `foreign_mib` of RAM."""
    disk = _ceiling(reserves.disk_mib * MIB, GIB) + _ceiling(space.reserved, GIB)
    amounts = {
        "VCPU": (cpus(facts.info), reserves.cpus),
        "MEMORY_MB": (facts.info.memory_mib, reserves.ram_mib + foreign_mib),
        "DISK_GB": (space.total // GIB, disk),
    }
    return {
        name: {
            "total": total,
            "reserved": min(reserved, total),
            "min_unit": 1,
            "max_unit": total,
            "step_size": 1,
            "allocation_ratio": ratios[name],
        }
        for name, (total, reserved) in amounts.items()
        # Placement refuses an inventory of nothing
        if total
    }


def traits(facts: Facts) -> dict[str, bool]:
    """Every trait that speaks of the node's kind, and whether this node has it.

    Whatever is not named here belongs to the operator, and stays as it is.
    """
    found = {brand_trait(brand): brand in facts.brands for brand in BRANDS}
    for word, names in CPU_TRAITS.items():
        for name in names:
            found[f"HW_CPU_X86_{name}"] = word in facts.features
    found[os_traits.HW_CPU_HYPERTHREADING] = cpu_info(facts)["topology"]["threads"] > 1
    found[os_traits.HW_ARCH_X86_64] = True
    found[os_traits.COMPUTE_ARCH_X86_64] = True
    return found


def brand_trait(brand: str) -> str:
    """The trait of a node that runs VMs of the brand."""
    return f"CUSTOM_SMARTOS_BRAND_{brand.upper().replace('-', '_')}"


def _ceiling(value: int, unit: int) -> int:
    return -(-value // unit)


def _cpus(vm: vms.Vm) -> int:
    return vm.vcpus or _ceiling(vm.cpu_cap_percent or 0, 100)


def _limit(row: zfs.Dataset) -> int:
    sizes = (row.used_bytes, row.quota_bytes, row.refquota_bytes, row.volsize_bytes)
    return max(size or 0 for size in sizes)


def cpu_stats(found: Iterable[kstat.Instance]) -> dict[str, int]:
    """get_host_cpu_stats from the kstats cpu::sys and cpu_info:0: nanoseconds since boot, and MHz.

    illumos counts no waiting for disks: that is idle time.
    """
    counts = {"kernel": 0, "user": 0, "idle": 0, "iowait": 0, "frequency": 0}
    for each in found:
        if each.module == "cpu_info":
            counts["frequency"] = each.number("current_clock_Hz") // 10**6
        else:
            for kind in ("kernel", "user", "idle"):
                counts[kind] += each.number(f"cpu_nsec_{kind}")
    return counts


@dataclasses.dataclass(frozen=True)
class Counters:
    """What the node has counted for a VM since its zone booted.

    CPU time and disk traffic are the zone's: those of all vCPUs and of all disks together.
    """

    vm: vms.Vm
    zone: kstat.Instance
    memory: kstat.Instance
    disk: kstat.Instance
    #: by MAC
    nics: Mapping[str, kstat.Instance]

    @classmethod
    def of(cls, vm: vms.Vm, found: Iterable[kstat.Instance]) -> "Counters | None":
        """From kstats of the zone; None when they are another zone's, which has its number now."""
        own = [each for each in found if each.zonename == (vm.zonename or vm.uuid)]
        single = {each.module: each for each in own}
        if not {"zones", "memory_cap", "zone_zfs"} <= single.keys():
            return None
        links = {each.name: each for each in own if each.module == "link"}
        names = {nic.mac: f"z{vm.zoneid}_{nic.interface}" for nic in vm.nics}
        return cls(
            vm=vm,
            zone=single["zones"],
            memory=single["memory_cap"],
            disk=single["zone_zfs"],
            nics={mac: links[name] for mac, name in names.items() if name in links},
        )

    @property
    def cpu_ns(self) -> int:
        """CPU time used."""
        return self.zone.number("nsec_user") + self.zone.number("nsec_sys")

    @property
    def uptime_seconds(self) -> int:
        """How long the zone has been up."""
        return (self.zone.snaptime_ns - (self.zone.crtime_ns or 0)) // 10**9


def counters_of(vm: vms.Vm) -> list[kstat.Selector]:
    """The kstats that Counters needs."""
    modules = ("zones", "memory_cap", "zone_zfs")
    return [
        *(kstat.Selector(module, vm.zoneid) for module in modules),
        kstat.Selector("link", 0, f"z{vm.zoneid}_*"),
    ]


def block_stats(counters: Counters) -> list[int]:
    """Requests and bytes read, requests and bytes written, errors; of all disks together."""
    names = ("reads", "nread", "writes", "nwritten")
    return [*(counters.disk.number(name) for name in names), 0]


def instance_diagnostics(counters: Counters, *, config_drive: bool) -> diagnostics.Diagnostics:
    """What the API shows of a running instance. A figure that nobody counts is None."""
    vm = counters.vm
    found = diagnostics.Diagnostics(
        state=power_state.STATE_MAP[state.power(vm)],
        # of the words that Nova's object allows, none is ours
        driver=fields.HypervisorDriver.LIBVIRT,
        hypervisor=vm.brand,
        hypervisor_os="smartos",
        uptime=counters.uptime_seconds,
        config_drive=config_drive,
    )
    found.memory_details = diagnostics.MemoryDiagnostics(
        maximum=ram_mib(vm), used=counters.memory.number("rss") // MIB
    )
    found.add_cpu(time=counters.cpu_ns)
    for mac, link in counters.nics.items():
        found.add_nic(
            mac_address=mac,
            rx_octets=link.number("rbytes64"),
            rx_errors=link.number("ierrors"),
            rx_drop=link.number("norcvbuf"),
            rx_packets=link.number("ipackets64"),
            tx_octets=link.number("obytes64"),
            tx_errors=link.number("oerrors"),
            tx_drop=link.number("noxmtbuf"),
            tx_packets=link.number("opackets64"),
        )
    reads, read, writes, written, errors = block_stats(counters)
    found.add_disk(read, reads, written, writes, errors)
    found.num_disks = len(vm.disks) or 1
    found.num_cpus = vm.vcpus or _ceiling(vm.cpu_cap_percent or 0, 100) or 1
    return found


def legacy_diagnostics(counters: Counters) -> dict[str, int]:
    """The same for clients of old: names and units (KiB of memory) as they know them."""
    reads, read, writes, written, errors = block_stats(counters)
    found = {
        "cpu0_time": counters.cpu_ns,
        "memory": ram_mib(counters.vm) * 1024,
        "memory-rss": counters.memory.number("rss") // 1024,
        "vda_read_req": reads,
        "vda_read": read,
        "vda_write_req": writes,
        "vda_write": written,
        "vda_errors": errors,
    }
    for place, link in enumerate(counters.nics.values()):
        found[f"net{place}_rx"] = link.number("rbytes64")
        found[f"net{place}_rx_errors"] = link.number("ierrors")
        found[f"net{place}_rx_packets"] = link.number("ipackets64")
        found[f"net{place}_tx"] = link.number("obytes64")
        found[f"net{place}_tx_errors"] = link.number("oerrors")
        found[f"net{place}_tx_packets"] = link.number("opackets64")
    return found


def root_device_name(image: image_meta.ImageMeta) -> str:
    """The name that Nova gives the first disk, and whose kind the others get.

    Guests name disks as they like: this is what the image says of its bus, no promise.
    """
    bus = image.properties.get("hw_disk_bus")
    return _DEVICES.get(bus, "/dev/vda")
