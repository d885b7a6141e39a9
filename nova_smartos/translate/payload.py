# SPDX-License-Identifier: Apache-2.0
"""What vmadm is given: the whole of a new VM, and the change of a resize.

Every property is named here, none is taken over from outside: vmadm would obey what a tenant wrote,
and drops without a word what a brand does not have.
"""

import dataclasses
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from nova import exception
from nova.objects import flavor as flavors
from nova.objects import instance as instances
from nova.virt import driver

from nova_smartos.smartos import vms
from nova_smartos.translate import identity, metadata, nic, specs

_MIB = 2**20
_GIB_IN_MIB = 1024
#: vmadm's own defaults, said aloud so that a resize comes back to them.
_QUOTA_GIB = 10
_MAX_LWPS = 2000
_IO_PRIORITY = 100
_LEAST_SWAP_MIB = 256
_MAX_IDS = 4096
_KERNEL_VERSION = "5.10.0"
_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")

# Rows of the table that are properties of vmadm under the same name, with nothing to compute, and
# the value that takes each back: what a flavor gave must not outlive a resize.
_PLAIN: Mapping[str, Any] = {
    "bhyve_extra_opts": "",
    "cpu_type": "qemu64",
    "fs_allowed": [],
    "indestructible_delegated": False,
    "indestructible_zoneroot": False,
    "init_name": "",
    "maintain_resolvers": False,
    "qemu_extra_opts": "",
    "zfs_data_compression": "off",
    "zfs_data_recsize": 131072,
    "zfs_filesystem_limit": "",
    "zfs_root_compression": "off",
    "zfs_root_recsize": 131072,
    "zfs_snapshot_limit": "",
}
# The brand's own framebuffer and tablet (illumos-joyent, bhyve's boot.c, add_fbuf).
_FRAMEBUFFER = "-s 30:0,fbuf,vga=off,unix=/tmp/vm.vnc -s 30:1,xhci,tablet"
_PRIVILEGES = ("default",)
_HVM_PRIVILEGES = (
    *_PRIVILEGES,
    "-file_link_any",
    "-net_access",
    "-proc_fork",
    "-proc_info",
    "-proc_session",
)
# The drive of a medium.
_MEDIUM = {
    "bhyve": {"model": "ahci"},
    "kvm": {"model": "ide"},
}
#: A medium's place on kvm's bus is that among all disks.
IDE_PLACES = 4
# Where vmadm puts disks without a slot, and what it and bhyve's brand keep for themselves.
_DISK_DEVICE = 4
_RESERVED_DEVICES = (0, 6, 30, 31)
_LAST_DEVICE = 29
_DISK = {
    "disk_compression": "compression",
    "disk_guest_block_size": "guest_block_size",
    "disk_notrim": "notrim",
}
_IDS = ("max_msg_ids", "max_sem_ids", "max_shm_ids")


@dataclasses.dataclass(frozen=True)
class Image:
    """An image of the node, as a VM is made from it."""

    uuid: str
    #: zone-dataset, lx-dataset or zvol
    type: str
    #: of the disk in a zvol; of other kinds, what their files take, where it is known
    size_mib: int | None = None
    os: str = ""
    requirements: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tags: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: whether it is a medium that a machine with an empty disk boots from, and not a disk
    is_medium: bool = False


@dataclasses.dataclass(frozen=True)
class Volume:
    """The volume of a disk, and the size that it is to have."""

    name: str
    size_mib: int
    #: whether it has that, and reserves it
    is_whole: bool

    @property
    def properties(self) -> dict[str, str]:
        """What gives it that size, all of it reserved, as zfs takes it."""
        return {"volsize": str(self.size_mib * _MIB), "refreservation": "auto"}


@dataclasses.dataclass(frozen=True)
class Local:
    """The disks beside the root disk, which no image fills."""

    ephemerals_gib: tuple[int, ...] = ()
    swap_mib: int = 0


def local(flavor: flavors.Flavor, block_device_info: Mapping[str, Any] | None = None) -> Local:
    """The ephemeral and swap disks: those that Nova lists, or without a list the flavor's."""
    if block_device_info is None:
        return Local((flavor.ephemeral_gb,) if flavor.ephemeral_gb else (), flavor.swap or 0)
    ephemerals = driver.block_device_info_get_ephemerals(block_device_info)
    swap = driver.block_device_info_get_swap(block_device_info) or {}
    return Local(
        tuple(int(each["size"]) for each in ephemerals if each["size"]),
        int(swap.get("swap_size") or 0),
    )


def create(
    instance: instances.Instance,
    wanted: specs.Specs,
    image: Image,
    network: nic.Network,
    guest: metadata.Guest,
    mark: Mapping[str, str],
    *,
    block_device_info: Mapping[str, Any] | None = None,
    autoboot: bool = True,
    dns_domain: str | None = None,
) -> dict[str, Any]:
    """The whole document for vmadm create."""
    flavor = instance.flavor
    check_size(flavor, wanted, image)
    disks = local(flavor, block_device_info)
    name = hostname(instance)
    document: dict[str, Any] = {
        "uuid": instance.uuid,
        "brand": wanted.brand,
        "alias": name,
        "hostname": name,
        "autoboot": autoboot,
        "nics": wired(wanted, network).nics,
        "resolvers": list(network.resolvers),
        "routes": dict(network.routes),
        "customer_metadata": dict(guest.customer_metadata),
        "internal_metadata": {
            **guest.internal_metadata,
            **mark,
            **identity.port_marks(network.ports),
        },
        **_owner(instance.project_id),
        **_limits(wanted, flavor, disks),
        **_plain(wanted),
    }
    if wanted.hvm:
        document |= _machine(instance.uuid, wanted, flavor, image, disks)
    else:
        document |= _zone(wanted, image, disks)
        if dns_domain:
            document["dns_domain"] = dns_domain
    check_medium(flavor, wanted, image, guest, block_device_info=block_device_info)
    return metadata.furnished(document, guest)


def check_size(flavor: flavors.Flavor, wanted: specs.Specs, image: Image) -> None:
    """Refuse a flavor that is smaller than the image, and an image that is of no use to the VM."""
    if image.type not in specs.BRANDS[wanted.brand].image_types:
        raise _unfit(image, f"its type {image.type} does not run in brand {wanted.brand}")
    if image.is_medium:
        if not flavor.root_gb:
            raise _unfit(image, "it is a medium to install from, and the flavor has no root disk")
    elif flavor.root_gb and image.size_mib and image.size_mib > flavor.root_gb * _GIB_IN_MIB:
        raise exception.FlavorDiskSmallerThanImage(
            flavor_size=flavor.root_gb * 2**30, image_size=image.size_mib * _MIB
        )
    needs = image.requirements
    if flavor.memory_mb < int(needs.get("min_ram") or 0):
        raise exception.FlavorMemoryTooSmall
    if needs.get("max_ram") and flavor.memory_mb > int(needs["max_ram"]):
        raise _unfit(image, f"it takes at most {needs['max_ram']} MiB of memory")
    if needs.get("brand") not in (None, wanted.brand):
        raise _unfit(image, f"it needs brand {needs['brand']}, not {wanted.brand}")
    firmware = wanted.values.get("firmware")
    if firmware and needs.get("bootrom") not in (None, firmware):
        raise _unfit(image, f"it needs firmware {needs['bootrom']}, not {firmware}")


def check_medium(
    flavor: flavors.Flavor,
    wanted: specs.Specs,
    image: Image,
    guest: metadata.Guest,
    *,
    block_device_info: Mapping[str, Any] | None = None,
) -> None:
    """Refuse a medium for which the VM has no drive."""
    if not image.is_medium:
        return
    disks = local(flavor, block_device_info)
    made = 1 + len(disks.ephemerals_gib) + bool(disks.swap_mib)
    beside = made + (guest.drive is not None)
    if wanted.brand == "kvm" and beside >= IDE_PLACES:
        raise _unfit(image, f"kvm has no drive for it beside {beside} disks")
    if wanted.brand == "bhyve":
        _medium_slot(wanted, made, image)


def medium_volume(uuid: str) -> str:
    """The volume of the medium that a VM was installed from: a clone of its image.

    Its number is one that vmadm comes to for no disk that it makes, so that it stays the last; all
    the same vmadm destroys this one with the VM.
    """
    return f"zones/{uuid}-disk99"


def hostname(instance: instances.Instance) -> str:
    """A name that a host can have. vmadm checks none, and it reaches files and options."""
    for name in (instance.hostname, instance.name):
        if name and _HOSTNAME.fullmatch(name):
            return str(name)
    return str(instance.uuid)


def resized(
    vm: vms.Vm,
    wanted: specs.Specs,
    flavor: flavors.Flavor,
    *,
    block_device_info: Mapping[str, Any] | None = None,
    keep_grown: bool = False,
) -> list[dict[str, Any]]:
    """The updates, in order, that make a VM what another flavor says; no disk loses anything.

    With the old flavor and `keep_grown` they are the way back, for all but disks that have grown.
    Nics are nic.differences() of wired().
    """
    if wanted.brand != vm.brand:
        raise _no_resize(f"a VM of brand {vm.brand} does not become one of brand {wanted.brand}")
    disks = local(flavor, block_device_info)
    update = {**_limits(wanted, flavor, disks), **_taken_back(vm, wanted), **_plain(wanted)}
    if wanted.hvm:
        update |= _display(wanted)
        grown = _grown(vm, wanted, flavor, disks, keep=keep_grown)
        if vm.brand != "bhyve":
            # vmadm drops this without a word: volumes() are what zfs is to do
            grown.pop("update_disks", None)
        room = grown.get("flexible_disk_size", 0)
        # vmadm changes disks first and gives them room last
        first = [{"flexible_disk_size": room}] if room > (vm.flexible_disk_size_mib or 0) else []
        return [*first, update | _devices(vm, wanted) | grown]
    if (disks.ephemerals_gib or wanted.values.get("delegate_dataset")) and not vm.datasets:
        raise _no_resize("a zone that was made without a delegated dataset does not get one")
    # vmadm holds /tmp within the memory that the VM had before, whatever it gets
    more = update["tmpfs"] > (vm.max_physical_memory_mib or 0)
    last = [{"tmpfs": update.pop("tmpfs")}] if more else []
    return [update | _folders(vm, wanted), *last]


def volumes(
    vm: vms.Vm,
    wanted: specs.Specs,
    flavor: flavors.Flavor,
    *,
    block_device_info: Mapping[str, Any] | None = None,
    keep_grown: bool = False,
) -> dict[str, int]:
    """The volumes that a resize makes larger past vmadm, and their new sizes in bytes.

    They are kvm's, whose disks vmadm gives no other size (vm/proptable.js). What vmadm itself does
    with bhyve's is to set volsize (VM.js, resizeDisks), and zfs lets the reservation follow; above
    kvm's volumes is no quota that would have to.
    """
    if vm.brand != "kvm":
        return {}
    grown = _grown(vm, wanted, flavor, local(flavor, block_device_info), keep=keep_grown)
    datasets = {disk.path: disk.zfs_filesystem for disk in vm.disks}
    found = {}
    for each in grown.get("update_disks", []):
        dataset = datasets[each["path"]]
        if dataset is None:
            raise _no_resize(f"there is no volume of disk {each['path']}")
        found[dataset] = each["size"] * _MIB
    return found


def root_volume(vm: vms.Vm, flavor: flavors.Flavor) -> Volume | None:
    """The volume of an HVM's own root disk, as large as it is and as its flavor says at least."""
    disk = next((disk for disk in vm.disks if disk.boot), None)
    if disk is None or disk.zfs_filesystem is None:
        return None
    now = math.ceil(disk.size_mib or 0)
    size_mib = max(now, flavor.root_gb * _GIB_IN_MIB)
    is_whole = now == size_mib and bool(disk.refreservation_mib)
    return Volume(disk.zfs_filesystem, size_mib, is_whole)


def untaken(vm: vms.Vm, update: Mapping[str, Any]) -> dict[str, Any]:
    """What an update wanted and the VM, read anew, does not have: vmadm reports success anyway."""
    arrays = ("add_", "remove_", "set_", "update_")
    return {
        name: value
        for name, value in update.items()
        if not name.startswith(arrays) and not _has(vm.document.get(name), name, value)
    }


def _has(present: Any, name: str, value: Any) -> bool:
    if present is None:
        # vmadm does not show what is not set, nor most of its defaults
        return not value or value == _PLAIN.get(name)
    listed = ",".join(value) if isinstance(value, list) else value
    return bool(listed == (",".join(present) if isinstance(present, list) else present))


def wired(wanted: specs.Specs, network: nic.Network) -> nic.Network:
    """The network with what the flavor gives each nic beyond what its port is allowed."""
    nics = [{**each, **_beyond(wanted, each)} for each in network.nics]
    return dataclasses.replace(network, nics=nics)


def _beyond(wanted: specs.Specs, present: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in wanted.nic.items() if key != "model" or key not in present}


def _owner(project_id: str | None) -> dict[str, str]:
    try:
        return {"owner_uuid": str(uuid.UUID(project_id or ""))}
    except ValueError:
        return {}


def _limits(wanted: specs.Specs, flavor: flavors.Flavor, disks: Local) -> dict[str, Any]:
    """What can be changed later: every one is said, so that an update forgets the old ones."""
    values = wanted.values
    shared = {
        "cpu_cap": values["cpu_cap"],
        "cpu_shares": values["cpu_shares"],
        "max_lwps": values.get("max_lwps", _MAX_LWPS),
        "zfs_io_priority": values.get("zfs_io_priority", _IO_PRIORITY),
    }
    memory = flavor.memory_mb
    if wanted.hvm:
        # vmadm adds what the hypervisor itself needs
        return {**shared, "ram": memory, "vcpus": flavor.vcpus}
    swap = values.get("max_swap", memory + disks.swap_mib)
    return {
        **shared,
        "max_physical_memory": memory,
        "max_locked_memory": values.get("max_locked_memory", memory),
        "max_shm_memory": values.get("max_shm_memory", memory),
        "max_swap": max(swap, _LEAST_SWAP_MIB),
        "tmpfs": values.get("tmpfs", memory),
        "quota": (flavor.root_gb or _QUOTA_GIB) + sum(disks.ephemerals_gib),
        **{name: values.get(name, _MAX_IDS) for name in _IDS},
    }


def _plain(wanted: specs.Specs) -> dict[str, Any]:
    values = wanted.values
    usual = _HVM_PRIVILEGES if wanted.hvm else _PRIVILEGES
    found = {name: values[name] for name in _PLAIN if name in values}
    found["limit_priv"] = values.get("limit_priv", usual)
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in found.items()
    }


def _taken_back(vm: vms.Vm, wanted: specs.Specs) -> dict[str, Any]:
    return {
        name: unset
        for name, unset in _PLAIN.items()
        if name in vm.document and wanted.brand in specs.PROPERTIES[name].brands
    }


def _zone(wanted: specs.Specs, image: Image, disks: Local) -> dict[str, Any]:
    document: dict[str, Any] = {"image_uuid": image.uuid}
    if wanted.brand == "lx":
        told = str(image.tags.get("kernel_version") or _KERNEL_VERSION)
        document["kernel_version"] = wanted.values.get("kernel_version", told)
    if disks.ephemerals_gib or wanted.values.get("delegate_dataset"):
        document["delegate_dataset"] = True
    filesystems = _filesystems(wanted)
    return document | ({"filesystems": filesystems} if filesystems else {})


def _filesystems(wanted: specs.Specs) -> list[dict[str, Any]]:
    return [_filesystem(*each.split("=")) for each in wanted.values.get("filesystems", ())]


def _filesystem(source: str, target: str, *options: str) -> dict[str, Any]:
    # device nodes in a folder of the node would be the node's devices
    given = [*options, "nodevices"]
    return {"source": source, "target": target, "type": "lofs", "options": given}


def _folders(vm: vms.Vm, wanted: specs.Specs) -> dict[str, Any]:
    """The folders of the node that a zone sees after a resize; its config drive is no flavor's."""
    present = {each["target"]: each for each in vm.document.get("filesystems", [])}
    present.pop(metadata.SEED, None)
    expected = {each["target"]: each for each in _filesystems(wanted)}
    return _changed("filesystems", present, expected)


def _devices(vm: vms.Vm, wanted: specs.Specs) -> dict[str, Any]:
    """The node's devices that the guest gets with a resize."""
    present = {each["path"]: each for each in vm.document.get("pci_devices", [])}
    expected = {each["path"]: each for each in _pci_devices(wanted)}
    update = _changed("pci_devices", present, expected)
    if "remove_pci_devices" in update:
        # vmadm takes no comma in that list, and every path of a device has one
        raise _no_resize("vmadm does not take devices back")
    disks = {disk.pci_slot: disk.path for disk in vm.disks}
    for each in expected.values():
        if each["pci_slot"] in disks:
            # vmadm compares disks with disks alone, and the VM would not start
            raise _no_resize(f"PCI slot {each['pci_slot']} has disk {disks[each['pci_slot']]}")
    return update


def _changed(
    name: str, present: Mapping[str, Mapping[str, Any]], expected: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Members of an array to add and to remove; one that differs is both."""
    same = {key for key, each in expected.items() if each.items() <= present.get(key, {}).items()}
    update: dict[str, Any] = {
        f"remove_{name}": [key for key in present if key not in same],
        f"add_{name}": [each for key, each in expected.items() if key not in same],
    }
    return {key: value for key, value in update.items() if value}


def _machine(
    uuid: str, wanted: specs.Specs, flavor: flavors.Flavor, image: Image, disks: Local
) -> dict[str, Any]:
    values = wanted.values
    document: dict[str, Any] = {}
    size = flavor.root_gb * _GIB_IN_MIB
    if image.is_medium:
        root = {"boot": True, **_empty_disk(values, size)}
    else:
        root = {"boot": True, "image_uuid": image.uuid}
        if size and size != image.size_mib:
            root["size"] = size
    made = [root, *_empty_disks(values, disks)]
    for disk in made:
        disk |= _disk(wanted)
    for disk, slot in zip(made, values.get("disk_pci_slots", ()), strict=False):
        disk["pci_slot"] = slot
    if wanted.brand == "bhyve":
        document |= _bhyve(wanted, (size or image.size_mib or 0), made)
    if image.is_medium:
        made.append(_medium(uuid, wanted, image, made))
    if values.get("video", "none") != "none" and wanted.brand == "kvm":
        document["vga"] = values["video"]
    return {**document, **_display(wanted), "disks": made}


def _display(wanted: specs.Specs) -> dict[str, Any]:
    """A display that listens nowhere but on its socket: vmadmd would open it on the network.

    vnc_port=-1 keeps vmadmd from that, but also bhyve's brand from giving the guest a screen; so
    its options give one, the same that the brand would.
    """
    found: dict[str, Any] = {"vnc_port": -1}
    if wanted.brand == "bhyve" and wanted.values.get("video") != "none":
        given = str(wanted.values.get("bhyve_extra_opts", ""))
        if "fbuf," not in given:
            found["bhyve_extra_opts"] = f"{given} {_FRAMEBUFFER}".strip()
    return found


def _bhyve(wanted: specs.Specs, root_mib: int, made: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = wanted.values
    document: dict[str, Any] = {}
    if "firmware" in values:
        document["bootrom"] = values["firmware"]
    devices = _pci_devices(wanted)
    if devices:
        document["pci_devices"] = devices
    total = root_mib + sum(disk["size"] for disk in made[1:])
    flexible = values.get("flexible_disk_size", total)
    if flexible < total:
        raise exception.InvalidInput(
            reason=f"smartos:flexible_disk_size={flexible}: the disks alone take {total} MiB"
        )
    if root_mib:
        # without it the size of a disk that comes from an image is not vmadm's to set
        document["flexible_disk_size"] = flexible
    return document


def _pci_devices(wanted: specs.Specs) -> list[dict[str, str]]:
    devices = (each.split("=") for each in wanted.values.get("pci_devices", ()))
    return [{"path": path, "pci_slot": slot} for path, slot in devices]


def _medium(
    uuid: str, wanted: specs.Specs, image: Image, made: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The drive with the medium that the guest boots from while its disk is empty."""
    path = f"/dev/zvol/rdsk/{medium_volume(uuid)}"
    found = {"media": "cdrom", "path": path, "image_uuid": image.uuid, **_MEDIUM[wanted.brand]}
    if wanted.brand == "bhyve":
        found["pci_slot"] = _medium_slot(wanted, len(made), image)
    return found


def _medium_slot(wanted: specs.Specs, disks: int, image: Image) -> str:
    """A slot behind those of all disks, said or not, and which no other device has.

    A firmware that goes by slots comes to the disk first, once something is installed there.
    """
    said = [_place(slot) for slot in wanted.values.get("disk_pci_slots", ())[:disks]]
    if any(bus for bus, _ in said):
        raise _unfit(image, "the disks of that PCI bus would come after it")
    used = {_place(each["pci_slot"]) for each in _pci_devices(wanted)}
    behind = max([_DISK_DEVICE, *(device for _, device in said)])
    for device in range(behind + 1, _LAST_DEVICE + 1):
        if (0, device) not in used and device not in _RESERVED_DEVICES:
            return f"0:{device}:0"
    raise _unfit(image, "there is no PCI slot for it behind the disks")


def _place(slot: str) -> tuple[int, int]:
    """The bus and the device of a PCI slot."""
    bus, device, _ = slot.split(":")
    return int(bus), int(device)


def _empty_disks(values: Mapping[str, Any], disks: Local) -> list[dict[str, Any]]:
    sizes = [each * _GIB_IN_MIB for each in disks.ephemerals_gib]
    if disks.swap_mib:
        sizes.append(disks.swap_mib)
    return [_empty_disk(values, size) for size in sizes]


def _empty_disk(values: Mapping[str, Any], size_mib: int) -> dict[str, Any]:
    block = {"block_size": values["disk_block_size"]} if "disk_block_size" in values else {}
    return {"size": size_mib, **block}


def _disk(wanted: specs.Specs) -> dict[str, Any]:
    """What every disk of the VM has."""
    values = wanted.values
    given = {name: values[key] for key, name in _DISK.items() if key in values}
    return {"model": values.get("disk_model", "virtio"), **given}


def _grown(
    vm: vms.Vm, wanted: specs.Specs, flavor: flavors.Flavor, disks: Local, *, keep: bool = False
) -> dict[str, Any]:
    """The disks of an HVM after a resize: vmadm changes them only while it is stopped."""
    present, others = _own_disks(vm)
    sizes = [each * _GIB_IN_MIB for each in (flavor.root_gb, *disks.ephemerals_gib)]
    swap = _swap_disk(vm, present)
    kept = present[:-1] if swap else present
    if len(sizes) != len(kept):
        raise _no_resize(f"the flavor has {len(sizes) - 1} ephemeral disks, the VM {len(kept) - 1}")
    update: dict[str, Any] = {"update_disks": []}
    total = disks.swap_mib + others
    for disk, size in zip(kept, sizes, strict=True):
        now = math.ceil(disk.size_mib or 0)
        if keep and size:
            size = max(size, now)
        if size and size < now:
            raise _no_resize(f"disk {disk.path} would shrink from {now} to {size} MiB")
        if size > now:
            update["update_disks"].append({"path": disk.path, "size": size})
        total += size or now
    if (math.ceil(swap.size_mib or 0) if swap else 0) != disks.swap_mib:
        # what it holds is nobody's to keep
        update["remove_disks"] = [swap.path] if swap else []
        made = _empty_disks(wanted.values, Local(swap_mib=disks.swap_mib))
        update["add_disks"] = [{**each, **_disk(wanted)} for each in made]
        left = len(vm.disks) - len(update["remove_disks"]) + len(made)
        if vm.brand == "kvm" and has_medium(vm) and left > IDE_PLACES:
            raise _no_resize(f"its medium has no drive beside {left - 1} disks")
    if wanted.brand == "bhyve":
        flexible = max(wanted.values.get("flexible_disk_size", 0), total)
        if flexible != vm.flexible_disk_size_mib:
            update["flexible_disk_size"] = flexible
    return {key: value for key, value in update.items() if value}


def has_medium(vm: vms.Vm) -> bool:
    """Whether it has a drive with a medium."""
    return any(disk.media == "cdrom" for disk in vm.disks)


def _own_disks(vm: vms.Vm) -> tuple[list[vms.Disk], int]:
    """The disks that a flavor speaks of, and what others take of the VM's room in MiB: metadata."""
    metadata_paths = {
        vm.internal_metadata.get(key) for key in (metadata.DRIVE, "cloudinit_nocloud_path")
    }
    own = [disk for disk in vm.disks if disk.media != "cdrom" and disk.path not in metadata_paths]
    others = [disk.size_mib or 0 for disk in vm.disks if disk.path in metadata_paths]
    return own, math.ceil(sum(others))


def _swap_disk(vm: vms.Vm, present: Sequence[vms.Disk]) -> vms.Disk | None:
    """The swap disk, which is the last, if the flavor that the VM was made of had one."""
    made_for = identity.of(vm)
    return present[-1] if made_for is not None and made_for.flavor.get("swap") else None


def _no_resize(reason: str) -> exception.ResizeError:
    return exception.ResizeError(reason=reason)


def _unfit(image: Image, reason: str) -> exception.ImageUnacceptable:
    return exception.ImageUnacceptable(image_id=image.uuid, reason=reason)
