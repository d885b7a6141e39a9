# SPDX-License-Identifier: Apache-2.0
"""What vmadm knows of each property and each brand, as tables."""

import dataclasses
import functools
import json
from typing import Any

_BRAND_LETTERS = {
    "J": "joyent",
    "M": "joyent-minimal",
    "O": "builder",
    "L": "lx",
    "K": "kvm",
    "B": "bhyve",
}
_ACTION_LETTERS = {"C": "create", "R": "receive", "U": "update", "A": "add"}

# Name, type, where allowed (brand letters:action letters, * for every brand) and details.
# disks.*.x and its like are the members of an array's objects; for them A is a new member,
# U a change of one.
_TABLE = """\
add_disks                       object-array KB:U         as=disks
add_filesystems                 object-array JMOLK:U      as=filesystems
add_nics                        object-array *:U          as=nics
add_pci_devices                 object-array B:CRU        as=pci_devices
alias                           string       *:CRU
archive_on_delete               boolean      *:CRU        default=false
autoboot                        boolean      *:CRU
bhyve_extra_opts                string       B:CRU
billing_id                      string       *:CRU
boot                            string       KB:CRU
bootrom                         string       B:CRU
brand                           string       *:CR         required=JMOLK:CR
com1                            string       B:CRU
com2                            string       B:CRU
cpu_cap                         integer      *:CRU        min=0
cpu_shares                      integer      *:CRU        min=0
cpu_type                        string       K:CRU
create_only                     boolean      *:R
create_timestamp                string       *:R
customer_metadata               flat-object  *:CR
dataset_uuid                    uuid         JMOL:CR
datasets                        list         *:R
delegate_dataset                boolean      JMOL:CR
disks                           object-array KB:CR
disks.*.block_size              integer      KB:A         min=0
disks.*.boot                    boolean      KB:AU        updatable
disks.*.compression             string       KB:AU
disks.*.dangerous_allow_shrink  boolean      B:U
disks.*.guest_block_size        string       B:AU         check=sector_size updatable
disks.*.image_name              string       K:AU
disks.*.image_size              integer      KB:A         min=0
disks.*.image_uuid              uuid         KB:A
disks.*.media                   string       KB:AU
disks.*.model                   string       KB:AU        updatable
disks.*.nocreate                boolean      KB:A
disks.*.notrim                  boolean      B:AU         updatable
disks.*.path                    string       KB:AU
disks.*.pci_slot                string       B:AU         updatable
disks.*.refreservation          integer      KB:AU        min=0
disks.*.size                    integer      B:AU,K:A     min=0
disks.*.uuid                    uuid         B:AU         updatable
disks.*.zfs_filesystem          string       KB:R
disks.*.zpool                   string       KB:A
disk_driver                     string       KB:CRU
do_not_inventory                boolean      *:CRU        default=false
docker                          boolean      ML:CRU       default=false
dns_domain                      string       JMOL:CRU
filesystems                     object-array JMOL:CR
filesystems.*.options           list         JMOL:AU      updatable
filesystems.*.raw               string       JMOL:AU      updatable
filesystems.*.source            string       JMOL:AU      updatable
filesystems.*.target            string       JMOL:AU      updatable
filesystems.*.type              string       JMOL:AU      updatable
firewall_enabled                boolean      *:CRU        default=false
flexible_disk_size              integer      B:CRU        min=0
fs_allowed                      list         JMOL:CRU
hostname                        string       *:CRU
image_uuid                      uuid         *:CR         required=JMOL:CR
indestructible_delegated        boolean      *:CRU        default=false
indestructible_zoneroot         boolean      *:CRU        default=false
init_name                       string       JMOL:CRU
internal_metadata               flat-object  *:CR
internal_metadata_namespaces    list         *:CRU        check=attribute
kernel_version                  string       L:CRU        required=L:CR
limit_priv                      list         *:CRU
maintain_resolvers              boolean      JMOL:CRU     default=false
max_locked_memory               integer      *:CRU        min=0
max_lwps                        integer      *:CRU        min=0
max_msg_ids                     integer      *:CRU        min=0
max_physical_memory             integer      *:CRU        min=0
max_sem_ids                     integer      *:CRU        min=0
max_shm_ids                     integer      *:CRU        min=0
max_shm_memory                  integer      *:CRU        min=0
max_swap                        integer      *:CRU        min=256
mdata_exec_timeout              integer      JMOL:C       min=0
nic_driver                      string       KB:CRU
nics                            object-array *:CR
nics.*.allow_dhcp_spoofing      boolean      *:AU         default=false updatable
nics.*.allow_ip_spoofing        boolean      *:AU         default=false updatable
nics.*.allow_mac_spoofing       boolean      *:AU         default=false updatable
nics.*.allow_restricted_traffic boolean      *:AU         default=false updatable
nics.*.allow_unfiltered_promisc boolean      KB:AU        default=false updatable
nics.*.allowed_ips              list         *:AU
nics.*.allowed_dhcp_cids        list         JMOLK:AU     check=client_id
nics.*.blocked_outgoing_ports   list         *:AU         updatable
nics.*.dhcp_server              boolean      *:AU         default=false updatable
nics.*.gateway                  string       *:AU         updatable
nics.*.gateways                 list         *:AU         updatable
nics.*.interface                string       *:AU
nics.*.ip                       string       *:AU         updatable
nics.*.ips                      list         *:AU         updatable
nics.*.mac                      string       *:AU         check=mac updatable
nics.*.model                    string       KB:AU        updatable
nics.*.mtu                      integer      *:AU         min=576 max=9000 updatable
nics.*.netmask                  string       *:AU         updatable
nics.*.network_uuid             uuid         *:AU         updatable
nics.*.nic_tag                  string       *:AU         updatable
nics.*.primary                  boolean      *:AU         default=false updatable
nics.*.vlan_id                  integer      *:AU         min=0 max=4095 updatable
nics.*.vrrp_vrid                integer      *:AU         min=0 max=255 updatable
nics.*.vrrp_primary_ip          string       *:AU         updatable
nowait                          boolean      JMOL:CR
owner_uuid                      string       *:CRU
package_name                    string       JMOLK:CRU
package_version                 string       JMOLK:CRU
pci_devices                     object-array B:CRU
pci_devices.*.path              string       B:AU
pci_devices.*.pci_slot          string       B:AU         updatable
qemu_extra_opts                 string       K:CRU
qemu_opts                       string       K:CRU
quota                           integer      *:CRU        min=0
ram                             integer      *:CRU        min=0
remove_customer_metadata        list         *:U
remove_disks                    list         KB:U
remove_filesystems              list         *:U
remove_internal_metadata        list         *:U
remove_nics                     list         *:U
remove_pci_devices              list         B:U
remove_routes                   list         *:U
remove_tags                     list         *:U
resolvers                       list         *:CRU        check=address
restart_init                    boolean      JMOL:CRU     default=true
routes                          flat-object  *:CR
set_routes                      flat-object  *:U
set_tags                        flat-object  *:U
set_customer_metadata           flat-object  *:U
set_internal_metadata           flat-object  *:U
spice_opts                      string       K:CRU
spice_password                  string       K:CRU
spice_port                      integer      K:CRU        min=-1
tags                            flat-object  *:CR
transition                      flat-object  *:R
tmpfs                           integer      JMOL:CRU     min=0 keep_zero
update_disks                    object-array KB:U         as=disks
update_filesystems              object-array JMOLK:U      as=filesystems
update_nics                     object-array *:U          as=nics
update_pci_devices              object-array B:U          as=pci_devices
uuid                            uuid         *:CR
v                               integer      *:R          min=0
vcpus                           integer      KB:CRU       min=1
virtio_txburst                  integer      K:CRU        min=0
virtio_txtimer                  integer      K:CRU        min=0
vga                             string       K:CRU
vnc_password                    string       KB:CRU
vnc_port                        integer      KB:CRU       min=-1
zfs_data_compression            string       JMOL:CRU     default=off
zfs_data_recsize                integer      JMOL:CRU     min=0
zfs_filesystem                  string       *:R
zfs_filesystem_limit            integer      *:CRU        min=0 default=none
zfs_root_compression            string       *:CRU        default=off
zfs_root_recsize                integer      *:CRU        min=0 default=131072
zfs_io_priority                 integer      *:CRU        min=0
zlog_max_size                   integer      JMOL:CRU     min=0 max=9223372036854776000
zone_dataset_uuid               uuid         KB:CR
zonename                        string       *:CR
zfs_snapshot_limit              integer      *:CRU        min=0 default=none
zfs_storage_pool_name           zpool        JMOLK:CR
zpool                           zpool        *:CR
"""

VGA_TYPES = ("cirrus", "std", "vmware", "qxl", "xenfb")
COMPRESSION_TYPES = (
    "on",
    "off",
    "gzip",
    *(f"gzip-{level}" for level in range(1, 10)),
    "lz4",
    "lzjb",
    "zle",
)
BOOTROMS = ("bios", "uefi")
ARRAYS = ("disks", "nics", "filesystems", "pci_devices")
DEFAULT_RECSIZE = 131072
MINIMUM_MAX_SWAP = 256


@dataclasses.dataclass(frozen=True)
class Property:
    """One property as payloads may carry it."""

    name: str
    type: str
    allowed: dict[str, frozenset[str]]
    required: dict[str, frozenset[str]]
    check_as: str = ""
    minimum: int | None = None
    maximum: int | None = None
    default: Any = None
    check: str = ""
    keep_zero: bool = False
    updatable: bool = False


@dataclasses.dataclass(frozen=True)
class Brand:
    """What sets one brand apart from the others."""

    name: str
    type: str
    image_types: tuple[str, ...] = ("zone-dataset",)
    limit_priv: tuple[str, ...] = ("default",)
    memory_overhead: int = 0
    least_overhead: int = 0
    disk_models: tuple[str, ...] = ()
    info_types: tuple[str, ...] = ()
    interface_prefix: str = "net"
    dockerinit: str = ""
    tmpfs: bool = False
    live_rctls: bool = False
    reprovision: bool = False
    marks_provisioning: bool = False
    zoneinit: bool = False
    vm_autoboot: bool = False

    @property
    def hvm(self) -> bool:
        """Whether it runs a virtual machine."""
        return self.type in ("KVM", "BHYVE")


_HVM_PRIVILEGES = (
    "default",
    "-file_link_any",
    "-net_access",
    "-proc_fork",
    "-proc_info",
    "-proc_session",
)
_ZONE = Brand("joyent", "OS", tmpfs=True, live_rctls=True, reprovision=True, zoneinit=True)
BRANDS = {
    brand.name: brand
    for brand in (
        Brand(
            "bhyve",
            "BHYVE",
            limit_priv=_HVM_PRIVILEGES,
            memory_overhead=1280,
            least_overhead=256,
            disk_models=("virtio", "ahci", "nvme"),
            info_types=("all", "vnc"),
            reprovision=True,
            marks_provisioning=True,
        ),
        dataclasses.replace(_ZONE, name="builder"),
        _ZONE,
        dataclasses.replace(
            _ZONE,
            name="joyent-minimal",
            dockerinit="/usr/vm/sbin/dockerinit",
            marks_provisioning=True,
            zoneinit=False,
        ),
        Brand(
            "kvm",
            "KVM",
            limit_priv=_HVM_PRIVILEGES,
            memory_overhead=1024,
            least_overhead=256,
            disk_models=("virtio", "scsi", "ide"),
            info_types=tuple(
                "all block blockstats chardev cpus kvm pci spice status version vnc".split()
            ),
            marks_provisioning=True,
            vm_autoboot=True,
        ),
        dataclasses.replace(
            _ZONE,
            name="lx",
            type="LX",
            image_types=("docker", "lx-dataset"),
            interface_prefix="eth",
            dockerinit="/native/usr/vm/sbin/dockerinit",
            zoneinit=False,
        ),
    )
}


def _rights(text: str) -> dict[str, frozenset[str]]:
    rights: dict[str, frozenset[str]] = {}
    for group in filter(None, text.split(",")):
        letters, _, actions = group.partition(":")
        for letter in _BRAND_LETTERS if letters == "*" else letters:
            rights[_BRAND_LETTERS[letter]] = frozenset(_ACTION_LETTERS[one] for one in actions)
    return rights


def _property(line: str) -> Property:
    name, kind, allowed, *details = line.split()
    more = dict(detail.partition("=")[::2] for detail in details)
    return Property(
        name,
        kind,
        _rights(allowed),
        _rights(more.get("required", "")),
        more.get("as", ""),
        int(more["min"]) if "min" in more else None,
        int(more["max"]) if "max" in more else None,
        _default(more.get("default", "null")),
        more.get("check", ""),
        "keep_zero" in more,
        "updatable" in more,
    )


def _default(text: str) -> Any:
    return text if text in ("off", "none") else json.loads(text)


PROPERTIES = {entry.name: entry for entry in map(_property, _TABLE.splitlines())}


@functools.cache
def allowed(brand: str) -> dict[str, frozenset[str]]:
    """The properties a brand knows, with the actions that may carry each."""
    return {
        name: entry.allowed[brand] for name, entry in PROPERTIES.items() if brand in entry.allowed
    }


@functools.cache
def required(brand: str, action: str) -> tuple[str, ...]:
    """The properties a payload must have."""
    return tuple(
        name
        for name, entry in PROPERTIES.items()
        if action in entry.required.get(brand, frozenset())
    )


@functools.cache
def updatable(array: str) -> tuple[str, ...]:
    """The members of an array's objects that an update takes over."""
    prefix = f"{array}.*."
    return tuple(
        name.removeprefix(prefix)
        for name, entry in PROPERTIES.items()
        if entry.updatable and name.startswith(prefix)
    )


def has_type(name: str, kind: str) -> bool:
    """Whether a property is known and of a type."""
    return name in PROPERTIES and PROPERTIES[name].type == kind
