# SPDX-License-Identifier: Apache-2.0
"""What vmadm is given: by an allow list, valid for every brand, and taken as it was meant."""

import collections
import dataclasses
import itertools
import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies
from nova import exception, objects
from nova.objects import flavor as flavors
from nova.objects import instance as instances

from nova_smartos.smartos import errors, vms
from nova_smartos.smartos import node as node_module
from nova_smartos.translate import identity, metadata, nic, payload, specs
from tests import emulated
from tests.unit import test_specs

objects.register_all()

UUID = "8d9d3a2c-2f56-4a5c-9a3c-0a1b2c3d4e5f"
PROJECT = "f3b1c2d4e5a64b7c8d9e0f1a2b3c4d5e"
IMAGES = {
    "zone-dataset": "11111111-1111-4111-8111-111111111111",
    "lx-dataset": "22222222-2222-4222-8222-222222222222",
    "zvol": "33333333-3333-4333-8333-333333333333",
}
NETWORK = nic.Network(
    [
        {
            "mac": "fa:16:3e:00:00:01",
            "nic_tag": "external",
            "ips": ["10.0.0.5/24"],
            "gateways": ["10.0.0.1"],
            "network_uuid": "44444444-4444-4444-8444-444444444444",
            "primary": True,
        },
        {"mac": "fa:16:3e:00:00:02", "nic_tag": "external", "ips": ["dhcp"], "vlan_id": 7},
    ],
    ["10.0.0.2"],
    {"192.168.0.0/16": "10.0.0.254"},
)
GUEST = metadata.Guest({"user-data": "#!/bin/sh\n", "role": "web"}, {"root_pw": "secret"})
SCREEN = "-s 30:0,fbuf,vga=off,unix=/tmp/vm.vnc -s 30:1,xhci,tablet"
# everything that a payload of ours may ever hold
ALLOWED = {
    "alias", "autoboot", "bhyve_extra_opts", "bootrom", "brand", "cpu_cap", "cpu_shares",
    "cpu_type", "customer_metadata", "delegate_dataset", "disks", "dns_domain", "filesystems",
    "flexible_disk_size", "fs_allowed", "hostname", "image_uuid", "indestructible_delegated",
    "indestructible_zoneroot", "init_name", "internal_metadata", "internal_metadata_namespaces",
    "kernel_version", "limit_priv", "maintain_resolvers", "max_locked_memory", "max_lwps",
    "max_msg_ids", "max_physical_memory", "max_sem_ids", "max_shm_ids", "max_shm_memory",
    "max_swap", "nics", "owner_uuid", "pci_devices", "qemu_extra_opts", "quota", "ram",
    "resolvers", "routes", "tmpfs", "uuid", "vcpus", "vga", "vnc_port",
    "zfs_data_compression", "zfs_data_recsize", "zfs_filesystem_limit", "zfs_io_priority",
    "zfs_root_compression", "zfs_root_recsize", "zfs_snapshot_limit",
}  # fmt: skip


def an_instance(flavor: flavors.Flavor, **changes: Any) -> instances.Instance:
    values: dict[str, Any] = {
        "id": 9,
        "uuid": UUID,
        "host": "compute1",
        "hostname": "web-1",
        "display_name": "Web 1",
        "project_id": PROJECT,
        "user_id": "user",
        "image_ref": "image",
        "created_at": None,
        "flavor": flavor,
    }
    return instances.Instance(**{**values, **changes})


def document(
    brand: str,
    extra: Mapping[str, str] | None = None,
    *,
    image: Mapping[str, str] | None = None,
    node_image: payload.Image | None = None,
    network: nic.Network = NETWORK,
    guest: metadata.Guest = GUEST,
    instance: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    **flavor: Any,
) -> dict[str, Any]:
    """The payload of an instance of a brand."""
    kind = test_specs.KINDS[brand]
    asked = {"smartos:brand": brand, **(extra or {})}
    made = an_instance(test_specs.a_flavor(asked, **flavor), **(instance or {}))
    wanted = test_specs.resolved(asked, image, kind, **flavor)
    base = node_image or payload.Image(IMAGES[kind], kind, 1024 if kind == "zvol" else None)
    return payload.create(
        made, wanted, base, network, guest, identity.mark(made), **(options or {})
    )


# what it says


def test_a_zone() -> None:
    made = document("joyent", vcpus=2, memory_mb=1024, root_gb=20, swap=512)
    mark = made["internal_metadata"].pop(identity.KEY)
    assert json.loads(mark)["host"] == "compute1"
    assert made == {
        "uuid": UUID,
        "brand": "joyent",
        "image_uuid": IMAGES["zone-dataset"],
        "alias": "web-1",
        "hostname": "web-1",
        "owner_uuid": "f3b1c2d4-e5a6-4b7c-8d9e-0f1a2b3c4d5e",
        "autoboot": True,
        "cpu_cap": 200,
        "cpu_shares": 200,
        "limit_priv": ["default"],
        "max_locked_memory": 1024,
        "max_lwps": 2000,
        "max_msg_ids": 4096,
        "max_physical_memory": 1024,
        "max_sem_ids": 4096,
        "max_shm_ids": 4096,
        "max_shm_memory": 1024,
        "max_swap": 1536,
        "nics": NETWORK.nics,
        "quota": 20,
        "resolvers": ["10.0.0.2"],
        "routes": {"192.168.0.0/16": "10.0.0.254"},
        "tmpfs": 1024,
        "zfs_io_priority": 100,
        "customer_metadata": {"user-data": "#!/bin/sh\n", "role": "web"},
        "internal_metadata": {"root_pw": "secret"},
        "internal_metadata_namespaces": ["openstack"],
    }


def test_lx_has_a_kernel() -> None:
    assert document("lx")["kernel_version"] == "5.10.0"
    tagged = payload.Image(IMAGES["lx-dataset"], "lx-dataset", tags={"kernel_version": "4.3.0"})
    assert document("lx", node_image=tagged)["kernel_version"] == "4.3.0"
    told = document("lx", image={"smartos_kernel_version": "3.16.0"}, node_image=tagged)
    assert told["kernel_version"] == "3.16.0"


def test_bhyve() -> None:
    made = document(
        "bhyve",
        image={"hw_firmware_type": "uefi", "hw_disk_bus": "sata", "hw_vif_model": "e1000"},
        vcpus=4,
        memory_mb=2048,
        root_gb=20,
        ephemeral_gb=5,
        swap=512,
    )
    assert made["disks"] == [
        {"boot": True, "image_uuid": IMAGES["zvol"], "size": 20480, "model": "ahci"},
        {"size": 5120, "model": "ahci"},
        {"size": 512, "model": "ahci"},
    ]
    assert made["flexible_disk_size"] == 20480 + 5120 + 512
    assert (made["ram"], made["vcpus"], made["cpu_cap"]) == (2048, 4, 400)
    assert made["bootrom"] == "uefi"
    assert [each["model"] for each in made["nics"]] == ["e1000", "e1000"]
    assert not {"quota", "max_physical_memory", "image_uuid", "dns_domain"} & made.keys()


@pytest.mark.parametrize(
    ("brand", "drive"),
    [("bhyve", {"model": "ahci", "pci_slot": "0:5:0"}), ("kvm", {"model": "ide"})],
)
def test_an_empty_disk_and_a_medium(brand: str, drive: Mapping[str, str]) -> None:
    medium = payload.Image(IMAGES["zvol"], "zvol", 700, is_medium=True)
    made = document(brand, node_image=medium, root_gb=20, ephemeral_gb=5)
    assert made["disks"] == [
        {"boot": True, "size": 20480, "model": "virtio"},
        {"size": 5120, "model": "virtio"},
        {
            "media": "cdrom",
            "path": f"/dev/zvol/rdsk/zones/{UUID}-disk99",
            "image_uuid": IMAGES["zvol"],
            **drive,
        },
    ]
    assert made.get("flexible_disk_size") == (20480 + 5120 if brand == "bhyve" else None)
    with pytest.raises(exception.ImageUnacceptable, match="no root disk"):
        document(brand, node_image=medium, root_gb=0)
    # larger than the disk, of which it is none
    document(brand, node_image=dataclasses.replace(medium, size_mib=4096), root_gb=1)


@pytest.mark.parametrize(
    ("extra", "slot"),
    [
        ({"smartos:disk_pci_slots": "0:4:0 0:5:0"}, "0:7:0"),
        ({"smartos:disk_pci_slots": "0:9:0"}, "0:10:0"),
        ({"smartos:pci_devices": "/devices/pci@0,0/x@0=0:5:0"}, "0:7:0"),
        ({"smartos:pci_devices": "/devices/pci@0,0/x@0=1:0:0"}, "0:5:0"),
        ({"smartos:pci_devices": "/devices/pci@0,0/x@0=0:29:0"}, "0:5:0"),
        ({"smartos:disk_pci_slots": "0:4:0 0:4:1 0:29:0"}, "0:5:0"),
    ],
)
def test_a_medium_has_a_slot_behind_the_disks(extra: Mapping[str, str], slot: str) -> None:
    medium = payload.Image(IMAGES["zvol"], "zvol", 700, is_medium=True)
    made = document("bhyve", extra, node_image=medium, ephemeral_gb=5)
    assert made["disks"][-1]["pci_slot"] == slot


@pytest.mark.parametrize(
    ("slots", "reason"), [("0:29:0", "no PCI slot"), ("1:0:0", "would come after it")]
)
def test_a_medium_that_could_only_come_before_the_disk(slots: str, reason: str) -> None:
    medium = payload.Image(IMAGES["zvol"], "zvol", 700, is_medium=True)
    with pytest.raises(exception.ImageUnacceptable, match=reason):
        document("bhyve", {"smartos:disk_pci_slots": slots}, node_image=medium)


def test_kvm_has_four_places_for_a_medium() -> None:
    medium = payload.Image(IMAGES["zvol"], "zvol", 700, is_medium=True)
    disks = {"root_gb": 20, "ephemeral_gb": 5, "swap": 64}
    assert len(document("kvm", node_image=medium, **disks)["disks"]) == 4
    guest = metadata.Guest({}, {}, drive=b"iso")
    with pytest.raises(exception.ImageUnacceptable, match="beside 4 disks"):
        document("kvm", node_image=medium, guest=guest, **disks)
    assert len(document("bhyve", node_image=medium, guest=guest, **disks)["disks"]) == 5


def test_a_root_disk_of_nothing_is_as_large_as_the_image() -> None:
    for brand in specs.HVM:
        assert "size" not in document(brand, root_gb=0)["disks"][0]
    assert document("bhyve", root_gb=0)["flexible_disk_size"] == 1024
    assert document("joyent", root_gb=0)["quota"] == 10


def test_ephemeral_disk_of_a_zone_is_a_delegated_dataset() -> None:
    made = document("lx", root_gb=10, ephemeral_gb=5)
    assert (made["delegate_dataset"], made["quota"]) == (True, 15)
    assert "delegate_dataset" not in document("lx", root_gb=10)


def test_disks_that_nova_lists_replace_those_of_the_flavor() -> None:
    listed = {
        "ephemerals": [{"size": 2, "device_name": "/dev/vdb"}, {"size": 3}],
        "swap": {"swap_size": 256, "device_name": "/dev/vdd"},
        "block_device_mapping": [],
    }
    made = document(
        "kvm", options={"block_device_info": listed}, root_gb=10, ephemeral_gb=9, swap=9
    )
    assert [disk["size"] for disk in made["disks"]] == [10240, 2048, 3072, 256]
    nothing: dict[str, Any] = {"ephemerals": [], "swap": None, "block_device_mapping": []}
    made = document("kvm", options={"block_device_info": nothing}, ephemeral_gb=9, swap=9)
    assert len(made["disks"]) == 1


@pytest.mark.parametrize(
    ("hostname", "name", "found"),
    [
        ("web-1", "instance-1", "web-1"),
        ("web.example.org", "instance-1", "web.example.org"),
        ("a,b=c", "instance-1", "instance-1"),
        ("-rf", "instance-1", "instance-1"),
        ("web\n", "instance-1", "instance-1"),
        ('x"; end', "a b", UUID),
        (None, "instance-1", "instance-1"),
        ("", "", UUID),
    ],
)
def test_a_hostname_is_one(hostname: str | None, name: str, found: str) -> None:
    class Named:
        uuid = UUID

    instance = Named()
    vars(instance).update(hostname=hostname, name=name)
    assert payload.hostname(instance) == found


def test_an_owner_that_is_no_uuid_is_left_out() -> None:
    assert "owner_uuid" not in document("lx", instance={"project_id": "demo"})


def test_a_flavor_gives_nics_more_but_takes_nothing_from_a_port() -> None:
    open_port = nic.Network([{"mac": "fa:16:3e:00:00:01", "allow_mac_spoofing": True}])
    extra = {"smartos:allow_ip_spoofing": "true", "smartos:allow_mac_spoofing": "false"}
    made = document("lx", extra, network=open_port)
    assert made["nics"] == [
        {"mac": "fa:16:3e:00:00:01", "allow_mac_spoofing": True, "allow_ip_spoofing": True}
    ]
    assert open_port.nics == [{"mac": "fa:16:3e:00:00:01", "allow_mac_spoofing": True}]


def test_the_mark_cannot_be_replaced() -> None:
    forged = metadata.Guest({}, {identity.KEY: "forged"})
    assert json.loads(document("lx", guest=forged)["internal_metadata"][identity.KEY])


def test_what_only_operators_give() -> None:
    made = document(
        "bhyve",
        {
            "smartos:pci_devices": "/devices/pci@0,0/pci8086,1528@0=0:8:0",
            "smartos:disk_pci_slots": "0:4:0 0:4:1",
            "smartos:disk_compression": "lz4",
            "smartos:disk_block_size": "4096",
            "smartos:flexible_disk_size": "40960",
            "smartos:video": "none",
        },
        root_gb=20,
        ephemeral_gb=1,
    )
    assert made["pci_devices"] == [{"path": "/devices/pci@0,0/pci8086,1528@0", "pci_slot": "0:8:0"}]
    assert [disk["pci_slot"] for disk in made["disks"]] == ["0:4:0", "0:4:1"]
    # the block size of a disk from an image is the image's
    assert [disk.get("block_size") for disk in made["disks"]] == [None, 4096]
    assert {disk["compression"] for disk in made["disks"]} == {"lz4"}
    assert made["flexible_disk_size"] == 40960
    assert made["vnc_port"] == -1
    assert "bhyve_extra_opts" not in made
    zone = document("joyent", {"smartos:filesystems": "/data/a=/mnt/a=ro /data/b=/mnt/b"})
    assert [(each["source"], each["options"]) for each in zone["filesystems"]] == [
        ("/data/a", ["ro", "nodevices"]),
        ("/data/b", ["nodevices"]),
    ]


# what is refused before anything is made


def test_a_flavor_smaller_than_the_image() -> None:
    with pytest.raises(exception.FlavorDiskSmallerThanImage) as caught:
        document("bhyve", root_gb=1, node_image=payload.Image(IMAGES["zvol"], "zvol", 1025))
    assert str(1025 * 2**20) in caught.value.format_message()
    document("bhyve", root_gb=1, node_image=payload.Image(IMAGES["zvol"], "zvol", 1024))


@pytest.mark.parametrize(
    ("brand", "kind", "requirements", "fault"),
    [
        ("bhyve", "zvol", {"min_ram": 2048}, exception.FlavorMemoryTooSmall),
        ("bhyve", "zvol", {"max_ram": 512}, exception.ImageUnacceptable),
        ("kvm", "zvol", {"brand": "bhyve"}, exception.ImageUnacceptable),
        ("bhyve", "zvol", {"bootrom": "bios"}, exception.ImageUnacceptable),
        ("lx", "zone-dataset", {}, exception.ImageUnacceptable),
    ],
)
def test_an_image_that_does_not_fit(
    brand: str, kind: str, requirements: dict[str, Any], fault: type[Exception]
) -> None:
    image = payload.Image(IMAGES[kind], kind, requirements=requirements)
    firmware = {"smartos:firmware": "uefi"} if brand == "bhyve" else {}
    with pytest.raises(fault):
        document(brand, firmware, node_image=image, memory_mb=1024)


def test_too_little_room_for_the_disks() -> None:
    with pytest.raises(exception.InvalidInput, match="flexible_disk_size"):
        document("bhyve", {"smartos:flexible_disk_size": "100"})


# tenants


@hypothesis.settings(deadline=None, derandomize=True)
@hypothesis.given(data=strategies.data(), brand=strategies.sampled_from(sorted(specs.BRANDS)))
def test_what_tenants_write_sets_nothing_else(data: strategies.DataObject, brand: str) -> None:
    """Names, metadata and user data change their own values, and nothing beside them."""
    text = strategies.text() | strategies.sampled_from(sorted(ALLOWED))
    pairs = strategies.dictionaries(text, text, max_size=4)
    guest = metadata.Guest(data.draw(pairs), {"openstack:meta_data": data.draw(text)})
    tenant = {name: data.draw(text) for name in ("hostname", "display_name", "user_id")}
    plain = document(brand, guest=metadata.Guest({}, {}))
    made = document(brand, guest=guest, instance=tenant)
    theirs = {"alias", "hostname", "customer_metadata", "internal_metadata"}
    assert made.keys() == plain.keys() <= ALLOWED
    assert {key: value for key, value in made.items() if key not in theirs} == {
        key: value for key, value in plain.items() if key not in theirs
    }
    assert made["customer_metadata"] == guest.customer_metadata
    assert made["internal_metadata"].keys() == {identity.KEY, "openstack:meta_data"}
    assert "\n" not in made["hostname"]


# the node's verdict


@pytest.fixture(scope="module")
def node() -> Iterator[node_module.Node]:
    """A node with one image of each kind."""
    with emulated.EmulatedNode("--speed", "40", "--nic-tag", "external") as emulator:
        for kind, name in (("zone", "zone-dataset"), ("lx", "lx-dataset"), ("zvol", "zvol")):
            IMAGES[name] = emulator.image(kind)
        with node_module.Node.local(tool_path=emulator.tools) as reached:
            yield reached


def an_image(node: node_module.Node, brand: str) -> payload.Image:
    found = node.imgadm.get(IMAGES[test_specs.KINDS[brand]]).manifest
    return payload.Image(found.uuid, str(found.type), found.image_size_mib)


def cases() -> Iterator[Any]:
    """Every brand, with each of its rows by itself, then with all of them, and its flavors."""
    shapes = [
        {"root_gb": 20, "ephemeral_gb": 0, "swap": 0},
        {"root_gb": 20, "ephemeral_gb": 5, "swap": 512},
        {"root_gb": 0, "ephemeral_gb": 0, "swap": 64},
    ]
    for brand in specs.BRANDS:
        rows = [row for row in specs.TABLE if brand in row.brands and row.flavor]
        given = {
            row.flavor_key: test_specs.example(row, brand) for row in rows if row.name != "brand"
        }
        given["smartos:flexible_disk_size"] = "65536"
        for name in specs.PROPERTIES.keys() & {key.partition(":")[2] for key in given}:
            if brand not in specs.PROPERTIES[name].brands:
                del given[f"smartos:{name}"]
        alone = [{key: text} for key, text in given.items()]
        for extra, shape in itertools.product([{}, given], shapes):
            yield pytest.param(brand, extra, shape, id=f"{brand}-{len(extra)}-{shape['root_gb']}"
                               f"-{shape['ephemeral_gb']}")  # fmt: skip
        for extra in alone:
            yield pytest.param(brand, extra, shapes[1], id=f"{brand}-{next(iter(extra))}")


@pytest.mark.parametrize(("brand", "extra", "shape"), list(cases()))
def test_vmadm_drops_nothing(
    node: node_module.Node, brand: str, extra: dict[str, str], shape: dict[str, int]
) -> None:
    made = document(brand, extra, node_image=an_image(node, brand), **shape)
    assert made.keys() <= ALLOWED
    verdict = node.vmadm.validate("create", made)
    assert not verdict.refused, verdict
    assert not verdict.dropped, verdict
    # vmadm says so of a size for a disk from an image, and takes it all the same
    sized = ("disks.0.size",) if brand == "kvm" and shape["root_gb"] else ()
    assert verdict.bad_properties == sized


def rich(brand: str) -> dict[str, str]:
    """Extra specs of every row that a resize can take back, and a few that it keeps."""
    names = ["cpu_cap", "cpu_shares", "indestructible_zoneroot", "limit_priv", "max_lwps",
             "zfs_io_priority"]  # fmt: skip
    if brand in specs.ZONES:
        names += ["filesystems", "fs_allowed", "max_locked_memory", "max_shm_memory", "max_swap",
                  "tmpfs", "zfs_filesystem_limit", "zfs_root_compression", "zfs_root_recsize",
                  "zfs_snapshot_limit", "zfs_data_compression", "zfs_data_recsize",
                  "maintain_resolvers"]  # fmt: skip
    elif brand == "bhyve":
        names += ["bhyve_extra_opts"]
    else:
        names += ["cpu_type", "qemu_extra_opts"]
    return {f"smartos:{name}": test_specs.example(specs.PROPERTIES[name], brand) for name in names}


@pytest.fixture
def create(node: node_module.Node) -> Iterator[Any]:
    """A function that creates an instance's VM, which is removed afterwards."""
    made: list[str] = []

    def make(brand: str, extra: Mapping[str, str] | None = None, **flavor: Any) -> vms.Vm:
        identifier = str(uuid.uuid4())
        wanted = document(
            brand,
            extra,
            node_image=an_image(node, brand),
            network=dataclasses.replace(NETWORK, nics=NETWORK.nics[:1]),
            instance={"uuid": identifier},
            options={"autoboot": False},
            **flavor,
        )
        made.append(identifier)
        node.vmadm.create(wanted)
        vm = node.vmadm.get(identifier)
        arrays = {"disks", "filesystems", "nics", "pci_devices", "internal_metadata"}
        shown = {key: value for key, value in wanted.items() if key not in arrays}
        # vmadm shows a delegated dataset in another way
        if shown.pop("delegate_dataset", False):
            assert vm.datasets
        assert payload.untaken(vm, shown) == {}
        return vm

    yield make
    for each in made:
        node.vmadm.update(
            each, {"indestructible_zoneroot": False, "indestructible_delegated": False}
        )
        node.vmadm.delete(each)


def resized(node: node_module.Node, vm: vms.Vm, extra: Mapping[str, str], **flavor: Any) -> vms.Vm:
    """The VM after a resize, which has taken all that it was given."""
    asked = {"smartos:brand": vm.brand, **extra}
    wanted = test_specs.resolved(asked, kind=test_specs.KINDS[vm.brand], **flavor)
    updates = payload.resized(vm, wanted, test_specs.a_flavor(asked, **flavor))
    for update in updates:
        verdict = node.vmadm.validate("update", update, vm.brand)
        assert not verdict.refused, verdict
        assert not verdict.dropped, verdict
        node.vmadm.update(vm.uuid, update)
    for dataset, size in payload.volumes(vm, wanted, test_specs.a_flavor(asked, **flavor)).items():
        node.zfs.set(dataset, {"volsize": str(size)})
    after = node.vmadm.get(vm.uuid)
    assert payload.untaken(after, dict(collections.ChainMap(*reversed(updates)))) == {}
    return after


def described(vm: vms.Vm) -> dict[str, Any]:
    """What a resize may change of a VM."""
    unstable = {"last_modified", "snapshots", "free_space"}
    return {key: value for key, value in vm.document.items() if key not in unstable}


@pytest.mark.parametrize("brand", specs.BRANDS)
def test_a_vm_is_what_its_payload_says(node: node_module.Node, create: Any, brand: str) -> None:
    vm = create(brand, rich(brand), memory_mb=2048, root_gb=20, ephemeral_gb=2, swap=64)
    assert identity.of(vm) is not None
    if vm.hvm:
        assert [disk.size_mib for disk in vm.disks] == [20480, 2048, 64]
        assert [disk.boot for disk in vm.disks] == [True, False, False]
        assert vm.ram_mib == 2048
    else:
        assert vm.quota_gib == 22
        assert len(vm.datasets) == 1


@pytest.mark.parametrize(
    ("brand", "extra", "port", "options"),
    [
        ("bhyve", {}, -1, SCREEN),
        ("bhyve", {"smartos:bhyve_extra_opts": "-S"}, -1, f"-S {SCREEN}"),
        ("bhyve", {"smartos:bhyve_extra_opts": "-s 9,fbuf,wait"}, -1, "-s 9,fbuf,wait"),
        ("bhyve", {"smartos:video": "none"}, -1, None),
        ("bhyve", {"smartos:video": "none", "smartos:bhyve_extra_opts": "-S"}, -1, "-S"),
        ("kvm", {}, -1, None),
        ("lx", {}, None, None),
    ],
)
def test_no_display_on_the_network(
    brand: str, extra: dict[str, str], port: int | None, options: str | None
) -> None:
    made = document(brand, extra)
    assert (made.get("vnc_port"), made.get("bhyve_extra_opts")) == (port, options)


@pytest.mark.parametrize("brand", specs.BRANDS)
def test_a_resize_and_the_way_back(node: node_module.Node, create: Any, brand: str) -> None:
    """What the first flavor gave is gone after the resize, and there again after the way back."""
    small = {"memory_mb": 2048, "root_gb": 20, "ephemeral_gb": 2, "swap": 64}
    large = {**small, "memory_mb": 4096, "vcpus": 4}
    first = create(brand, rich(brand), **small)
    second = resized(node, first, {}, **large)
    assert (second.cpu_cap_percent, second.cpu_shares, second.max_lwps) == (400, 400, 2000)
    assert second.document["limit_priv"].startswith("default")
    assert "dtrace_user" not in second.document["limit_priv"]
    gone = ("filesystems", "fs_allowed", "qemu_extra_opts", "pci_devices")
    assert not [name for name in gone if second.document.get(name)]
    assert second.document.get("bhyve_extra_opts") == (SCREEN if brand == "bhyve" else None)
    third = resized(node, second, rich(brand), **small)
    assert described(third) == described(first)


@pytest.mark.parametrize("brand", ["joyent-minimal", "bhyve", "kvm"])
def test_more_disk(node: node_module.Node, create: Any, brand: str) -> None:
    vm = create(brand, root_gb=10, ephemeral_gb=1, swap=64)
    vm = resized(node, vm, {}, root_gb=20, ephemeral_gb=2, swap=128)
    if vm.hvm:
        assert sorted(disk.size_mib for disk in vm.disks) == [128, 2048, 20480]
        room = 128 + 2048 + 20480 if brand == "bhyve" else None
        assert vm.flexible_disk_size_mib == room
        # a volume that reserves less than it promises could fail its guest
        assert all((disk.refreservation_mib or 0) >= (disk.size_mib or 0) for disk in vm.disks)
    else:
        assert vm.quota_gib == 22
    without = resized(node, vm, {}, root_gb=20, ephemeral_gb=2, swap=0)
    if vm.hvm:
        assert [disk.size_mib for disk in without.disks] == [20480, 2048]


@pytest.mark.parametrize(
    ("brand", "before", "after", "named"),
    [
        ("bhyve", {"root_gb": 20}, {"root_gb": 10}, "shrink"),
        ("bhyve", {"ephemeral_gb": 2}, {"ephemeral_gb": 1}, "shrink"),
        ("bhyve", {"ephemeral_gb": 2}, {"ephemeral_gb": 0}, "ephemeral"),
        ("kvm", {"root_gb": 20}, {"root_gb": 10}, "shrink"),
        ("lx", {"ephemeral_gb": 0}, {"ephemeral_gb": 1}, "delegated dataset"),
    ],
)
def test_a_resize_that_cannot_be(
    create: Any, brand: str, before: dict[str, int], after: dict[str, int], named: str
) -> None:
    vm = create(brand, **before)
    asked = {"smartos:brand": brand}
    wanted = test_specs.resolved(asked, kind=test_specs.KINDS[brand], **after)
    with pytest.raises(exception.ResizeError, match=named):
        payload.resized(vm, wanted, test_specs.a_flavor(asked, **after))


def test_a_resize_takes_no_device_back(node: node_module.Node, create: Any) -> None:
    device = {"smartos:pci_devices": "/devices/pci@0,0/pci8086,1528@0=0:8:0"}
    vm = resized(node, create("bhyve"), device)
    assert [each["pci_slot"] for each in vm.document["pci_devices"]] == ["0:8:0"]
    with pytest.raises(exception.ResizeError, match="0:4:0 has disk /dev/zvol"):
        both = f"{device['smartos:pci_devices']} /devices/pci@0,0/x@0=0:4:0"
        resized(node, vm, {"smartos:pci_devices": both})
    resized(node, vm, device, memory_mb=2048)
    with pytest.raises(exception.ResizeError, match="devices"):
        resized(node, vm, {})


def test_what_an_update_did_not_take_is_told() -> None:
    vm = dataclasses.replace(
        a_vm(),
        document={"cpu_cap": 100, "limit_priv": "default,dtrace_user", "vcpus": 2, "alias": "a"},
    )
    update = {"cpu_cap": 100, "limit_priv": ["default", "dtrace_user"], "init_name": "",
              "indestructible_zoneroot": False, "add_disks": [{}]}  # fmt: skip
    assert payload.untaken(vm, update) == {}
    for wrong in (
        {"cpu_cap": 0},
        {"limit_priv": ["default"]},
        {"vcpus": 4},
        {"fs_allowed": ["ufs"]},
        {"alias": ""},
        {"quota": 10},
    ):
        assert payload.untaken(vm, {**update, **wrong}) == wrong


def a_vm() -> vms.Vm:
    return vms.Vm(uuid=UUID, brand="lx", state="running", zone_state="running", document={})


def test_a_resize_does_not_change_the_brand(create: Any) -> None:
    vm = create("joyent")
    wanted = test_specs.resolved({"smartos:brand": "joyent-minimal"})
    with pytest.raises(exception.ResizeError, match="joyent-minimal"):
        payload.resized(vm, wanted, test_specs.a_flavor())


def test_disks_of_metadata_and_media_are_not_the_flavors(
    node: node_module.Node, create: Any
) -> None:
    """The config drive and the medium stay as they are when a flavor changes the others."""
    identifier = str(uuid.uuid4())
    medium = dataclasses.replace(an_image(node, "bhyve"), is_medium=True)
    volume = payload.medium_volume(identifier)
    node.zfs.clone(f"zones/{medium.uuid}@final", volume)
    guest = metadata.Guest({}, {}, drive=b"iso")
    options = {"autoboot": False}
    wanted = document(
        "bhyve",
        node_image=medium,
        network=nic.Network(),
        guest=guest,
        instance={"uuid": identifier},
        options=options,
        root_gb=10,
        swap=64,
    )
    assert node.vmadm.validate("create", wanted).valid
    node.vmadm.create(wanted)
    try:
        before = node.vmadm.get(identifier)
        kept = [
            vms_disk(before, str(before.internal_metadata[metadata.DRIVE])),
            vms_disk(before, f"/dev/zvol/rdsk/{volume}"),
        ]
        assert [disk.size_mib for disk in kept] == [metadata.DRIVE_MIB, medium.size_mib]
        after = resized(node, before, {}, root_gb=12, swap=0)
        assert [vms_disk(after, disk.path) for disk in kept] == kept
        assert [disk.size_mib for disk in after.disks if disk not in kept] == [12288]
        assert after.flexible_disk_size_mib == 12288 + metadata.DRIVE_MIB
    finally:
        node.vmadm.delete(identifier)
    with pytest.raises(errors.NotFound):
        node.zfs.get(volume, "origin")


def vms_disk(vm: vms.Vm, path: str) -> vms.Disk:
    [found] = [disk for disk in vm.disks if disk.path == path]
    return found
