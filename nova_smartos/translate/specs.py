# SPDX-License-Identifier: Apache-2.0
"""What flavors and images may ask for: one table, which code, documents and Glance share.

A flavor says `smartos:NAME`, an image `smartos_NAME`; some things have a name of Nova's own too.
What gives privilege or a share of the host has no name for images: a tenant makes those. A key that
is unknown, has a wrong value, or asks for what SmartOS cannot do is a fault, never a silence.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nova import exception
from nova.objects import flavor as flavors
from nova.objects import image_meta as image_metas
from nova.objects import instance as instances

FLAVOR_PREFIX = "smartos:"
IMAGE_PREFIX = "smartos_"
# Under this prefix an instance keeps the properties of its image.
_SYSTEM_METADATA_PREFIX = "image_"


@dataclasses.dataclass(frozen=True)
class Brand:
    """How a brand looks to Nova, and which node images it runs."""

    name: str
    hv_type: str
    vm_mode: str
    image_types: frozenset[str]

    @property
    def hvm(self) -> bool:
        return self.vm_mode == "hvm"


_ZONE_IMAGES = frozenset({"zone-dataset"})
_DISK_IMAGES = frozenset({"zvol"})
#: Of two brands that run an image, the first is the default. Nova has no word for zones: lxc is the
#: nearest that its fields allow.
BRANDS = {
    brand.name: brand
    for brand in (
        Brand("joyent", "lxc", "exe", _ZONE_IMAGES),
        Brand("joyent-minimal", "lxc", "exe", _ZONE_IMAGES),
        Brand("lx", "lxc", "exe", frozenset({"lx-dataset"})),
        Brand("bhyve", "bhyve", "hvm", _DISK_IMAGES),
        Brand("kvm", "kvm", "hvm", _DISK_IMAGES),
    )
}
IMAGE_TYPES = ("zone-dataset", "lx-dataset", "zvol")
ALL = frozenset(BRANDS)
HVM = frozenset(brand.name for brand in BRANDS.values() if brand.hvm)
ZONES = ALL - HVM
_BHYVE = frozenset({"bhyve"})
_KVM = frozenset({"kvm"})
_LX = frozenset({"lx"})


@dataclasses.dataclass(frozen=True)
class Kind:
    """A type of value: what it looks like to whoever writes it, and to us."""

    name: str
    parse: Callable[[str], Any]
    minimum: int | None = None
    maximum: int | None = None
    words: tuple[str, ...] = ()
    pattern: str = ""
    #: what is allowed, for people
    allowed: str = ""


def _truth(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _word(words: tuple[str, ...]) -> Kind:
    def parse(text: str) -> str:
        return {word: word for word in words}[text]

    return Kind("word", parse, words=words, allowed=", ".join(words))


def _integer(minimum: int, maximum: int, *, power: bool = False) -> Kind:
    def parse(text: str) -> int:
        number = int(text) if re.fullmatch(r"[0-9]{1,18}", text) else -1
        if not minimum <= number <= maximum or (power and number & (number - 1)):
            raise ValueError
        return number

    allowed = f"{minimum} to {maximum}" + (", a power of two" if power else "")
    return Kind("integer", parse, minimum, maximum, allowed=allowed)


def _text(pattern: str, allowed: str) -> Kind:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return Kind("text", parse, pattern=pattern, allowed=allowed)


def _list(pattern: str, separator: str, allowed: str) -> Kind:
    """Members between separators; a list has at least one."""

    def parse(text: str) -> tuple[str, ...]:
        if not re.fullmatch(whole, text):
            raise ValueError
        return tuple(re.split(separator, text))

    whole = f"(?:{pattern})(?:{separator}(?:{pattern}))*"
    return Kind("list", parse, pattern=whole, allowed=allowed)


_BOOLEAN = Kind("boolean", _truth, words=("true", "false"), allowed="true, false")
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_LIMIT = 2**31 - 1
_SLOT = r"[0-9]{1,3}:[0-9]{1,2}:[0-7]"
_PATH = r"(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]*)+"
# zonecfg reads these between double quotes
_OPTIONS = _text(r"[ !#-\[\]-~]+", "printable ASCII without double quotes and backslashes")
_COMPRESSION = _word(
    ("on", "off", "gzip", *(f"gzip-{level}" for level in range(1, 10)), "lz4", "lzjb", "zle")
)


@dataclasses.dataclass(frozen=True)
class Property:
    """A row of the table."""

    name: str
    kind: Kind
    brands: frozenset[str]
    text: str
    #: the property of vmadm that it becomes
    vmadm: str
    flavor: bool = True
    image: bool = False
    #: words that only some brands know
    only: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    #: Nova's own extra specs that mean the same
    nova_flavor: tuple[str, ...] = ()
    #: Nova's own image property that means the same, and what its words are here
    nova_image: str = ""
    nova_words: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def flavor_key(self) -> str:
        return FLAVOR_PREFIX + self.name

    @property
    def image_key(self) -> str:
        return IMAGE_PREFIX + self.name

    def parse(self, key: str, text: str) -> Any:
        """The typed value; `key` is what the user has written it under."""
        try:
            return self.kind.parse(text)
        except (KeyError, ValueError):
            raise _fault(f"{key}={text!r}: must be {self.kind.allowed}") from None


def _brands_of(words: Mapping[str, str]) -> dict[str, frozenset[str]]:
    return {word: frozenset(brands.split()) for word, brands in words.items()}


TABLE = tuple(
    sorted(
        (
            # which VM it becomes
            Property(
                "brand", _word(tuple(BRANDS)), ALL, "What the VM is. It must fit the image.",
                "brand", image=True,
            ),
            Property(
                "cloudinit_datasource", _word(("nocloud",)), _BHYVE,
                "Adds a small disk with cloud-init's NoCloud data, for images that know no "
                "SmartOS metadata.",
                "internal_metadata.cloudinit_datasource", flavor=False, image=True,
            ),
            Property(
                "image_format", _word(("tar", "zfs")), ALL,
                "What the file of an image with a type is: a ZFS stream, or a tar archive of a "
                "zone's files, which needs no trusted owner. Without it zfs.",
                "-", flavor=False, image=True, only={"tar": ZONES, "zfs": ALL},
            ),
            Property(
                "image_origin", _text(rf"(?:{_UUID})?", "a uuid"), ALL,
                "The image in Glance to which a ZFS stream holds the difference. The node brings "
                "that one first. Images of servers say it themselves.",
                "-", flavor=False, image=True,
            ),
            Property(
                "image_type", _word(IMAGE_TYPES), ALL,
                "The image is a ZFS stream: of a zone's files, of a Linux tree for lx, or of a "
                "disk. Without it, it is a disk, raw or qcow2, or an ISO.",
                "-", flavor=False, image=True,
            ),
            Property(
                "image_size", _integer(1, _LIMIT), HVM,
                "MiB that the disk in a ZFS stream has; zvol streams need it.",
                "-", flavor=False, image=True,
            ),
            Property(
                "signature", _text(r"[0-9a-f]{64}", "64 hexadecimal digits"), ALL,
                "The driver's own signature over a ZFS stream that it has made of a server. One "
                "that is right makes up for an owner whom the operator does not trust.",
                "-", flavor=False, image=True,
            ),
            Property(
                "image_uuid", _text(rf"(?:{_UUID})?", "a uuid"), ALL,
                "The node brings this image from the operator's image server; Glance's own bytes "
                "are not read. Its owner must be one whom the operator trusts.",
                "-", flavor=False, image=True,
            ),
            # processors
            Property(
                "cpu_cap", _integer(0, 1_000_000), ALL,
                "Most CPU time, in percent of one core; 0 is no cap. Without it 100 for each vCPU.",
                "cpu_cap", nova_flavor=("quota:cpu_quota", "quota:cpu_period"),
            ),
            Property(
                "cpu_shares", _integer(1, 65535), ALL,
                "Weight against other VMs when the node is busy. Without it 100 for each vCPU.",
                "cpu_shares", nova_flavor=("quota:cpu_shares",),
            ),
            Property(
                "cpu_type", _word(("qemu64", "host")), _KVM,
                "The CPU that the guest sees.", "cpu_type", image=True,
            ),
            Property(
                "max_lwps", _integer(100, _LIMIT), ALL,
                "Most threads. Without it 2000.", "max_lwps",
            ),
            # memory
            Property(
                "max_locked_memory", _integer(1, _LIMIT), ZONES,
                "Most memory that programs may lock, in MiB; at most the flavor's.",
                "max_locked_memory",
            ),
            Property(
                "max_msg_ids", _integer(1, _LIMIT), ZONES, "Most System V message queues.",
                "max_msg_ids",
            ),
            Property(
                "max_sem_ids", _integer(1, _LIMIT), ZONES, "Most System V semaphores.",
                "max_sem_ids",
            ),
            Property(
                "max_shm_ids", _integer(1, _LIMIT), ZONES, "Most shared memory segments.",
                "max_shm_ids",
            ),
            Property(
                "max_shm_memory", _integer(1, _LIMIT), ZONES,
                "Most shared memory, in MiB. Without it the flavor's memory.", "max_shm_memory",
            ),
            Property(
                "max_swap", _integer(256, _LIMIT), ZONES,
                "Most virtual memory, RAM included, in MiB; at least the flavor's memory. Without "
                "it memory and swap of the flavor.",
                "max_swap",
            ),
            Property(
                "tmpfs", _integer(0, _LIMIT), ZONES,
                "Size of /tmp in MiB, at most the flavor's memory; 0 keeps /tmp on the disk.",
                "tmpfs", image=True,
            ),
            # storage
            Property(
                "delegate_dataset", _BOOLEAN, ZONES,
                "A ZFS dataset that the guest administers, within the VM's quota. A flavor with "
                "an ephemeral disk has one anyway.",
                "delegate_dataset",
            ),
            Property(
                "disk_block_size", _integer(512, 131072, power=True), HVM,
                "Block size of ephemeral and swap disks, in bytes.", "disks.*.block_size",
            ),
            Property(
                "disk_compression", _COMPRESSION, HVM, "Compression of the disks.",
                "disks.*.compression",
            ),
            Property(
                "disk_guest_block_size",
                _text(r"(?:512|4096)(?:/(?:512|4096))?", "512, 4096 or LOGICAL/PHYSICAL"), _BHYVE,
                "Block size that the guest is told, in bytes.", "disks.*.guest_block_size",
                image=True,
            ),
            Property(
                "disk_model", _word(("virtio", "ahci", "nvme", "scsi", "ide")), HVM,
                "The controller that the guest sees.", "disks.*.model", image=True,
                only=_brands_of({"virtio": "bhyve kvm", "ahci": "bhyve", "nvme": "bhyve",
                                 "scsi": "kvm", "ide": "kvm"}),
                nova_image="hw_disk_bus",
                nova_words={"virtio": "virtio", "sata": "ahci", "scsi": "scsi", "ide": "ide"},
            ),
            Property(
                "disk_notrim", _BOOLEAN, _BHYVE, "Whether the guest may not give back space.",
                "disks.*.notrim",
            ),
            Property(
                "disk_pci_slots",
                _list(_SLOT, " +", "PCI slots as BUS:DEVICE:FUNCTION, with blanks between"), _BHYVE,
                "Slots of the disks: root, ephemeral, swap.", "disks.*.pci_slot", image=True,
            ),
            Property(
                "flexible_disk_size", _integer(1, _LIMIT), _BHYVE,
                "Space in MiB for the disks and their vm snapshots together; at least the disks.",
                "flexible_disk_size",
            ),
            Property(
                "zfs_data_compression", _COMPRESSION, ZONES,
                "Compression of the delegated dataset.", "zfs_data_compression",
            ),
            Property(
                "zfs_data_recsize", _integer(512, 131072, power=True), ZONES,
                "Record size of the delegated dataset, in bytes.", "zfs_data_recsize", image=True,
            ),
            Property(
                "zfs_filesystem_limit", _integer(0, _LIMIT), ZONES,
                "Most datasets that the guest may make.", "zfs_filesystem_limit",
            ),
            Property(
                "zfs_io_priority", _integer(1, 16383), ALL,
                "Weight of disk operations against other VMs. Without it 100.", "zfs_io_priority",
            ),
            Property(
                "zfs_root_compression", _COMPRESSION, ZONES, "Compression of the zone's files.",
                "zfs_root_compression",
            ),
            Property(
                "zfs_root_recsize", _integer(512, 131072, power=True), ZONES,
                "Record size of the zone's files, in bytes.", "zfs_root_recsize", image=True,
            ),
            Property(
                "zfs_snapshot_limit", _integer(0, _LIMIT), ZONES,
                "Most snapshots that the guest may make.", "zfs_snapshot_limit",
            ),
            # privilege
            Property(
                "allow_dhcp_spoofing", _BOOLEAN, ALL, "Whether the guest may serve DHCP.",
                "nics.*.allow_dhcp_spoofing",
            ),
            Property(
                "allow_ip_spoofing", _BOOLEAN, ALL,
                "Whether the guest may send from addresses that its ports do not have.",
                "nics.*.allow_ip_spoofing",
            ),
            Property(
                "allow_mac_spoofing", _BOOLEAN, ALL,
                "Whether the guest may send from another MAC address.",
                "nics.*.allow_mac_spoofing",
            ),
            Property(
                "allow_restricted_traffic", _BOOLEAN, ALL,
                "Whether the guest may send other packets than IPv4, IPv6 and ARP.",
                "nics.*.allow_restricted_traffic",
            ),
            Property(
                "allow_unfiltered_promisc", _BOOLEAN, HVM,
                "Whether the guest's nics receive for several MAC addresses.",
                "nics.*.allow_unfiltered_promisc",
            ),
            Property(
                "bhyve_extra_opts", _OPTIONS, _BHYVE,
                "Appended to bhyve's command line.", "bhyve_extra_opts",
            ),
            Property(
                "filesystems",
                _list(f"{_PATH}={_PATH}(?:=ro)?", " +",
                      "SOURCE=TARGET or SOURCE=TARGET=ro, with blanks between"), ZONES,
                "Folders of the node that the zone sees.", "filesystems",
            ),
            Property(
                "fs_allowed", _list(r"[a-z0-9]+", ",", "names of file systems, with commas"), ZONES,
                "File systems that the guest may mount.", "fs_allowed",
            ),
            Property(
                "indestructible_delegated", _BOOLEAN, ZONES,
                "Holds the delegated dataset against accidental removal by an operator.",
                "indestructible_delegated",
            ),
            Property(
                "indestructible_zoneroot", _BOOLEAN, ALL,
                "Holds the VM against accidental removal by an operator.",
                "indestructible_zoneroot",
            ),
            Property(
                "init_name", _text(_PATH, "an absolute path"), ZONES,
                "The program that the zone starts first.", "init_name",
            ),
            Property(
                "limit_priv",
                _list(r"[!-]?[a-z_0-9]+", ",", "privileges, with commas; - or ! removes one"),
                ALL, "Privileges of the zone, see privileges(7).", "limit_priv",
            ),
            Property(
                "pci_devices",
                _list(rf"/devices/[A-Za-z0-9_.,@/-]+={_SLOT}", " +",
                      "/devices/PATH=BUS:DEVICE:FUNCTION, with blanks between"), _BHYVE,
                "Devices of the node that the guest gets, and their slots.", "pci_devices",
            ),
            Property(
                "qemu_extra_opts", _OPTIONS, _KVM,
                "Appended to QEMU's command line.", "qemu_extra_opts",
            ),
            # the guest's machine
            Property(
                "firmware", _word(("bios", "uefi")), HVM, "What starts the guest.", "bootrom",
                image=True, only=_brands_of({"bios": "bhyve kvm", "uefi": "bhyve"}),
                nova_image="hw_firmware_type", nova_words={"bios": "bios", "uefi": "uefi"},
            ),
            Property(
                "kernel_version", _text(r"[0-9]+(?:\.[0-9]+){1,3}", "a version such as 5.10.0"),
                _LX,
                "The Linux that the guest believes to run on. Without it what the node image's "
                "tag says, else 5.10.0.",
                "kernel_version", image=True,
            ),
            Property(
                "maintain_resolvers", _BOOLEAN, ZONES,
                "Whether a change of the resolvers is written into the guest.",
                "maintain_resolvers", image=True,
            ),
            Property(
                "nic_model", _word(("virtio", "e1000", "rtl8139")), HVM,
                "The network card that the guest sees.", "nics.*.model", image=True,
                only=_brands_of({"virtio": "bhyve kvm", "e1000": "bhyve kvm", "rtl8139": "kvm"}),
                nova_image="hw_vif_model",
                nova_words={"virtio": "virtio", "e1000": "e1000", "rtl8139": "rtl8139"},
            ),
            Property(
                "video", _word(("std", "cirrus", "vmware", "qxl", "xenfb", "none")), HVM,
                "The graphics card that the guest sees; none leaves out VNC too.", "vga",
                image=True,
                only=_brands_of({"std": "bhyve kvm", "cirrus": "kvm", "vmware": "kvm", "qxl": "kvm",
                                 "xenfb": "kvm", "none": "bhyve kvm"}),
                nova_image="hw_video_model",
                nova_words={"vga": "std", "gop": "std", "cirrus": "cirrus", "vmvga": "vmware",
                            "qxl": "qxl", "xen": "xenfb", "none": "none"},
            ),
        ),
        key=lambda row: row.name,
    )
)  # fmt: skip
PROPERTIES = {row.name: row for row in TABLE}


@dataclasses.dataclass(frozen=True)
class Unable:
    """A name of Nova's that asks for what SmartOS does not do; some values ask for nothing."""

    flavor: str
    reason: str
    harmless: frozenset[str] = frozenset()
    #: Nova's image property of the same meaning, if there is one
    image: str = ""


_NO = frozenset({"false", "no", "0", "off"})
_NO_PINNING = "a zone's CPU time is capped and shared, no CPU is its own"
_NO_NUMA = "the platform places memory itself"
#: What is not here and not Nova's own is left alone, such as traits and aggregates' keys. So are
#: wishes that change nothing a guest may rely on, such as the topology of its CPUs.
UNABLE = (
    Unable("hw:cpu_policy", _NO_PINNING, frozenset({"shared"}), "hw_cpu_policy"),
    Unable("hw:cpu_thread_policy", _NO_PINNING, frozenset({"prefer"}), "hw_cpu_thread_policy"),
    Unable("hw:cpu_dedicated_mask", _NO_PINNING),
    Unable("hw:cpu_realtime", _NO_PINNING, _NO),
    Unable("hw:cpu_realtime_mask", _NO_PINNING, image="hw_cpu_realtime_mask"),
    Unable("hw:emulator_threads_policy", _NO_PINNING, frozenset({"share"})),
    Unable("hw:mem_page_size", _NO_NUMA, frozenset({"any", "small"}), "hw_mem_page_size"),
    Unable("hw:numa_nodes", _NO_NUMA, image="hw_numa_nodes"),
    Unable("hw:numa_cpus.*", _NO_NUMA, image="hw_numa_cpus"),
    Unable("hw:numa_mem.*", _NO_NUMA, image="hw_numa_mem"),
    Unable("hw:pmem", "there is no persistent memory for guests"),
    Unable("hw:mem_encryption", "guests' memory is not encrypted", _NO, "hw_mem_encryption"),
    Unable("hw:mem_encryption_model", "guests' memory is not encrypted",
           image="hw_mem_encryption_model"),
    Unable("hw:ephemeral_encryption", "disks are not encrypted one by one", _NO,
           "hw_ephemeral_encryption"),
    Unable("hw:ephemeral_encryption_format", "disks are not encrypted one by one",
           image="hw_ephemeral_encryption_format"),
    Unable("hw:tpm_model", "there is no TPM", image="hw_tpm_model"),
    Unable("hw:tpm_version", "there is no TPM", image="hw_tpm_version"),
    Unable("hw:tpm_secret_security", "there is no TPM"),
    Unable("hw:viommu_model", "there is no IOMMU for guests", image="hw_viommu_model"),
    Unable("hw:watchdog_action", "there is no watchdog", frozenset({"disabled", "none"}),
           "hw_watchdog_action"),
    Unable("hw:sound_model", "there is no sound card", image="hw_sound_model"),
    Unable("hw:usb_model", "there is no USB controller", frozenset({"none"}), "hw_usb_model"),
    Unable("hw:redirected_usb_ports", "there is no USB controller", frozenset({"0"}),
           "hw_redirected_usb_ports"),
    Unable("os:secure_boot", "the firmware does not check signatures",
           frozenset({"disabled", "optional"}), "os_secure_boot"),
    Unable("pci_passthrough:alias", "devices are given by smartos:pci_devices"),
    Unable("accel:device_profile", "there is no accelerator for guests"),
    Unable("quota:*", "of Nova's quotas cpu_shares, cpu_quota and cpu_period have a meaning here"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Specs:
    """What flavor and image ask for, checked."""

    brand: str
    #: by the table's names; those that nobody asked for are missing, but for the cap and the shares
    values: Mapping[str, Any]

    @property
    def hvm(self) -> bool:
        return BRANDS[self.brand].hvm

    @property
    def nic(self) -> dict[str, Any]:
        """What every nic of the VM has; a flag that is not here is the port's to say."""
        nic = {"model": self.values.get("nic_model", "virtio")} if self.hvm else {}
        flags = (row.name for row in TABLE if row.vmadm == f"nics.*.{row.name}")
        return nic | {name: True for name in flags if self.values.get(name)}


def image_properties(instance: instances.Instance) -> dict[str, str]:
    """The properties of the instance's image, those included that Nova has no name for.

    Nova's own ImageMeta knows only its own. A rebuild has put the new image's here; a rescue has
    not, so its caller takes them from Glance.
    """
    prefix = _SYSTEM_METADATA_PREFIX
    return {
        key.removeprefix(prefix): str(value)
        for key, value in instance.system_metadata.items()
        if key.startswith(prefix) and value is not None
    }


def resolve(
    flavor: flavors.Flavor,
    image_meta: image_metas.ImageMeta,
    image_properties: Mapping[str, str],
    image_type: str | None,
) -> Specs:
    """What flavor and image ask for together; a contradiction, or a wrong key, is a fault.

    `image_type` is vmadm's word for what the image's data is: zone-dataset, lx-dataset or zvol.
    """
    extra_specs = (flavor.extra_specs or {}) if "extra_specs" in flavor else {}
    properties = image_meta.properties if "properties" in image_meta else None
    _refuse(extra_specs, properties)
    asked = _Asked()
    asked.by_flavor(extra_specs)
    asked.by_image(image_properties)
    asked.by_nova(properties)
    brand = _brand(asked, properties, image_type)
    values = asked.values(brand)
    values.pop("brand", None)
    values["cpu_cap"] = _cpu_cap(values.get("cpu_cap"), flavor.vcpus, extra_specs)
    values.setdefault("cpu_shares", min(100 * flavor.vcpus, 65535))
    _check_memory(values, flavor.memory_mb)
    _check_guest(brand, properties)
    return Specs(brand, values)


class _Asked:
    """The rows that somebody asked for, and under which key; two who differ are a fault."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[Any, str]] = {}

    def by_flavor(self, extra_specs: Mapping[str, str]) -> None:
        for key, text in extra_specs.items():
            row = _row(key, FLAVOR_PREFIX)
            if row is None:
                continue
            if not row.flavor:
                raise _fault(f"{key}: only an image says this, as {row.image_key}")
            self._add(row, key, text)
        for row in TABLE:
            # the CPU quota and its period are no value by themselves: see _cpu_cap
            for key in row.nova_flavor if row.name != "cpu_cap" else ():
                if key in extra_specs:
                    self._add(row, key, extra_specs[key])

    def by_image(self, properties: Mapping[str, str]) -> None:
        for key, text in properties.items():
            row = _row(key, IMAGE_PREFIX)
            if row is None:
                continue
            if not row.image:
                raise _fault(f"image property {key}: only a flavor may say this")
            self._add(row, key, text)

    def by_nova(self, properties: Any) -> None:
        for row in TABLE:
            told = _told(properties, row.nova_image)
            if told is None:
                continue
            if told not in row.nova_words:
                allowed = ", ".join(row.nova_words)
                raise _fault(f"{row.nova_image}={told}: must be {allowed}")
            self._add(row, row.nova_image, row.nova_words[told])

    def get(self, name: str) -> tuple[Any, str] | None:
        """The value and the key under which it was asked for."""
        return self._rows.get(name)

    def values(self, brand: str) -> dict[str, Any]:
        """All values, each of which the brand must know."""
        for name, (value, key) in self._rows.items():
            row = PROPERTIES[name]
            brands = row.brands & row.only.get(value, ALL) if row.only else row.brands
            if brand not in brands:
                knows = ", ".join(sorted(brands))
                raise _fault(f"{key}={_shown(value)}: is for brand {knows}, this is {brand}")
        return {name: value for name, (value, _) in self._rows.items()}

    def _add(self, row: Property, key: str, text: str) -> None:
        value = row.parse(key, text)
        before, other = self._rows.setdefault(row.name, (value, key))
        if before != value:
            raise _fault(
                f"{other}={_shown(before)} and {key}={_shown(value)} contradict each other"
            )


def _row(key: str, prefix: str) -> Property | None:
    """The row of a key; None for a key of somebody else."""
    if not key.lower().startswith(("smartos:", "smartos_", "smartos.")):
        return None
    name = key.removeprefix(prefix)
    if not key.startswith(prefix) or name not in PROPERTIES:
        # a wrong separator is as likely as a wrong letter
        near = difflib.get_close_matches(key[len(prefix) :].lower(), PROPERTIES, 1, 0.5)
        hint = f"; did you mean {prefix}{near[0]}?" if near else ""
        raise _fault(f"{key}: unknown{hint}")
    return PROPERTIES[name]


def _told(properties: Any, name: str) -> str | None:
    """What an image says under a name of Nova's, as text; None when it says nothing."""
    if properties is None or not name:
        return None
    value = properties.get(name)
    return None if value is None else str(value)


def _refuse(extra_specs: Mapping[str, str], properties: Any) -> None:
    """Fault for what Nova has a name for and SmartOS cannot do."""
    honoured = {key for row in TABLE for key in row.nova_flavor}
    for each in UNABLE:
        for key in _matching(each.flavor, extra_specs.keys() - honoured):
            if extra_specs[key].lower() not in each.harmless:
                raise _fault(f"{key}={extra_specs[key]}: cannot be had here: {each.reason}")
        told = _told(properties, each.image)
        if told is not None and told.lower() not in each.harmless:
            raise _fault(f"{each.image}={told}: cannot be had here: {each.reason}")


def _matching(name: str, keys: Iterable[str]) -> Iterator[str]:
    if name.endswith("*"):
        return (key for key in sorted(keys) if key.startswith(name[:-1]))
    return (key for key in keys if key == name)


def _brand(asked: _Asked, properties: Any, image_type: str | None) -> str:
    """The brand: the flavor's word, else the image's, else what Nova's hypervisor type or the kind
    of the image's data says; whoever says something must agree with it."""
    told = asked.get("brand")
    hypervisor = _told(properties, "img_hv_type")
    fitting = [brand for brand in BRANDS.values() if image_type in (None, *brand.image_types)]
    if not fitting:
        raise _fault(f"no brand runs an image of type {image_type}")
    if told is not None:
        brand = BRANDS[told[0]]
        why = f"{told[1]}={brand.name}"
    elif hypervisor in ("bhyve", "kvm"):
        brand, why = BRANDS[hypervisor], f"img_hv_type={hypervisor}"
    elif image_type is not None:
        brand, why = fitting[0], f"an image of type {image_type}"
    else:
        raise _fault("neither flavor nor image says a brand: set smartos:brand or smartos_brand")
    if brand not in fitting:
        raise _fault(f"{why} and an image of type {image_type} contradict each other")
    if hypervisor not in (None, brand.hv_type):
        raise _fault(f"{why} and img_hv_type={hypervisor} contradict each other")
    mode = _told(properties, "hw_vm_mode")
    if mode not in (None, brand.vm_mode):
        raise _fault(f"{why} and hw_vm_mode={mode} contradict each other")
    return brand.name


def _cpu_cap(asked: int | None, vcpus: int, extra_specs: Mapping[str, str]) -> int:
    """The cap in percent of one core, 0 for none. Nova's quota counts for each vCPU."""
    period = _quota("quota:cpu_period", extra_specs, 1_000_000) or 100_000
    quota = _quota("quota:cpu_quota", extra_specs, 2**63)
    if quota is None:
        return 100 * vcpus if asked is None else asked
    cap = 0 if quota < 0 else max(1, round(100 * vcpus * quota / period))
    if asked not in (None, cap):
        raise _fault(
            f"smartos:cpu_cap={asked} and quota:cpu_quota={quota} of {period} for each of {vcpus} "
            f"vCPUs, which is {cap}, contradict each other"
        )
    return cap


def _quota(key: str, extra_specs: Mapping[str, str], maximum: int) -> int | None:
    """Nova's CPU quota or period in microseconds; None when there is none."""
    text = extra_specs.get(key)
    if text is None or (text == "0" and key.endswith("period")):
        return None
    number = int(text) if re.fullmatch(r"-?[0-9]{1,19}", text) else 0
    negative = number < 0 and key.endswith("quota")
    if not (negative or 1000 <= number <= maximum):
        raise _fault(f"{key}={text!r}: must be 1000 to {maximum}")
    return number


def _check_memory(values: Mapping[str, Any], memory_mib: int) -> None:
    """vmadm would adjust these without a word."""
    if values.get("max_swap", memory_mib) < memory_mib:
        raise _fault(f"smartos:max_swap={values['max_swap']}: less than the memory, {memory_mib}")
    for name in ("max_locked_memory", "max_shm_memory", "tmpfs"):
        if values.get(name, 0) > memory_mib:
            raise _fault(f"{name}={values[name]}: more than the flavor's memory, {memory_mib} MiB")


def _check_guest(brand: str, properties: Any) -> None:
    """An image that says which system it holds cannot run where another one is needed."""
    system = _told(properties, "os_type")
    if system is not None and brand in ZONES and (system, brand) != ("linux", "lx"):
        raise _fault(f"os_type={system}: does not run in brand {brand}")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _fault(reason: str) -> exception.InvalidInput:
    # the name of an image's property is a tenant's, and this goes into a log
    legible = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in reason)
    return exception.InvalidInput(reason=legible)
