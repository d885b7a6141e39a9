# SPDX-License-Identifier: Apache-2.0
"""What Nova and Placement are told of a node: on documents, and on an emulated node."""

import contextlib
import dataclasses
import datetime
import json
from collections.abc import Iterator
from typing import Any

import nova.conf
import os_traits
import pytest
from nova import exception, objects
from nova.compute import provider_tree
from nova.scheduler.filters import compute_capabilities_filter, image_props_filter
from oslo_utils.fixture import uuidsentinel

from nova_smartos.operations import host, watch
from nova_smartos.smartos import errors, kstat, node, sysinfo, transport, vms, zfs
from nova_smartos.translate import identity, inventory
from tests import emulated

CONF = nova.conf.CONF
objects.register_all()
GIB = 2**30
NAME = "headnode"
UUID = "6f954b8f-9861-4749-bfdb-eb92b417a553"
SYSINFO = {
    "UUID": UUID,
    "Hostname": NAME,
    "Live Image": "20260312T001122Z",
    "Boot Time": "1795263807",
    "MiB of Memory": "32768",
    "CPU Total Cores": 16,
    "CPU Core Count": 8,
    "CPU Socket Count": 2,
    "CPU Online Count": 16,
    "CPU Type": "Intel(r) Xeon(r)",
    "CPU Virtualization": "vmx",
    "VM Capable": True,
    "Bhyve Capable": True,
    "Zpool": "zones",
}
PROCESSOR = {
    "module": "cpu_info",
    "instance": 0,
    "name": "cpu_info0",
    "class": "misc",
    "snaptime": 1,
    "data": {
        "vendor_id": "GenuineIntel",
        "family": 6,
        "model": 63,
        "stepping": 2,
        "clock_MHz": 2400,
        "current_clock_Hz": 2400000000,
    },
}
FLAVOR = {"id": "1", "name": "m", "vcpus": 1, "ram": 512, "disk": 10, "ephemeral": 5, "swap": 1024}


def facts(*features: str, **changes: Any) -> inventory.Facts:
    names = {name.replace("_", " "): value for name, value in changes.items()}
    info = sysinfo.Info.from_json(SYSINFO | names)
    processor = kstat.Instance.from_json(PROCESSOR)
    return inventory.Facts.of(info, {"amd64": features, "i386": ("sep",)}, processor)


def dataset(name: str, used: int, **more: Any) -> zfs.Dataset:
    values: dict[str, Any] = {field.name: None for field in dataclasses.fields(zfs.Dataset)}
    values |= {"name": name, "type": "filesystem", "used_bytes": used}
    values["creation"] = datetime.datetime.fromtimestamp(0, datetime.UTC)
    return zfs.Dataset(**values | more)


def mark(host_name: str = "compute1", flavor: Any = None) -> dict[str, str]:
    texts = ("name", "display_name", "project_id", "user_id", "image_ref", "created_at")
    document = dict.fromkeys(texts, "x") | {"host": host_name, "version": 1}
    return {identity.KEY: json.dumps(document | {"flavor": flavor or FLAVOR})}


def vm(uuid: str, **more: Any) -> vms.Vm:
    document = {"uuid": uuid, "brand": "joyent", "state": "running", "zone_state": "running"}
    return vms.Vm.from_json(document | more)


def space(**changes: int) -> inventory.Storage:
    return inventory.Storage(
        **{"total": 500 * GIB, "used": 0, "reserved": 0, "promised": 0} | changes
    )


RATIOS = {"VCPU": 4.0, "MEMORY_MB": 1.0, "DISK_GB": 1.0}
NOTHING = inventory.Reserves(0, 0, 0)

# the pool


ROOT = dataset("zones", 100 * GIB, available_bytes=300 * GIB)


def test_a_pool_has_what_is_used_and_what_is_left() -> None:
    assert inventory.storage("zones", [ROOT], [], {}) == inventory.Storage(
        total=400 * GIB, used=100 * GIB, reserved=100 * GIB, promised=0
    )


def test_what_an_instance_uses_is_not_reserved_beside_its_allocation() -> None:
    mine = dataset("zones/" + uuidsentinel.a, 30 * GIB)
    found = inventory.storage("zones", [ROOT, mine], [uuidsentinel.a], {uuidsentinel.a: 30 * GIB})
    assert (found.reserved, found.promised) == (70 * GIB, 0)


def test_the_rest_of_a_quota_is_promised() -> None:
    mine = dataset("zones/" + uuidsentinel.a, GIB, quota_bytes=10 * GIB)
    found = inventory.storage("zones", [ROOT, mine], [uuidsentinel.a], {uuidsentinel.a: 10 * GIB})
    assert (found.reserved, found.promised, found.free) == (99 * GIB, 9 * GIB, 291 * GIB)


def test_what_a_vm_may_take_beyond_its_flavor_is_reserved() -> None:
    """Refreservations hold the metadata of a disk as well, of which no flavor knows."""
    rows = [
        dataset("zones/" + uuidsentinel.a, GIB, refquota_bytes=2 * GIB),
        dataset(f"zones/{uuidsentinel.a}-disk0", 11 * GIB, volsize_bytes=10 * GIB),
    ]
    found = inventory.storage("zones", [ROOT, *rows], [uuidsentinel.a], {uuidsentinel.a: 10 * GIB})
    assert (found.reserved, found.promised) == (88 * GIB + 3 * GIB, GIB)


def test_a_vm_that_is_not_novas_keeps_all_that_its_quota_promises() -> None:
    other = dataset("zones/" + uuidsentinel.b, 2 * GIB, quota_bytes=20 * GIB)
    found = inventory.storage("zones", [ROOT, other], [uuidsentinel.b], {})
    assert (found.reserved, found.promised) == (118 * GIB, 18 * GIB)


def test_a_vm_in_the_making_is_its_allocations_affair() -> None:
    half_made = dataset(f"zones/{uuidsentinel.a}", 40 * GIB, volsize_bytes=40 * GIB)
    found = inventory.storage("zones", [ROOT, half_made], [], {uuidsentinel.a: float("inf")})
    assert found.reserved == 60 * GIB


def test_images_and_the_platform_are_reserved() -> None:
    rows = [dataset(f"zones/{uuidsentinel.i}", 5 * GIB), dataset("zones/swap", 34 * GIB)]
    assert inventory.storage("zones", [ROOT, *rows], [uuidsentinel.a], {}).reserved == 100 * GIB


def test_a_pool_of_which_nothing_is_told_is_no_empty_pool() -> None:
    with pytest.raises(exception.InternalError):
        inventory.storage("zones", [dataset("other", 1, available_bytes=1)], [], {})


def test_an_allocation_is_root_ephemeral_and_swap() -> None:
    assert inventory.granted(FLAVOR) == 16 * GIB


# inventory


def test_inventory() -> None:
    reserves = inventory.Reserves(cpus=1, ram_mib=512, disk_mib=1025)
    found = inventory.inventory(
        facts(), space(total=500 * GIB + 1, reserved=10 * GIB + 1), 1024, reserves, RATIOS
    )
    units = {"min_unit": 1, "step_size": 1}
    assert found == {
        "VCPU": {"total": 16, "reserved": 1, "max_unit": 16, "allocation_ratio": 4.0, **units},
        "MEMORY_MB": {
            "total": 32768,
            "reserved": 1536,
            "max_unit": 32768,
            "allocation_ratio": 1.0,
            **units,
        },
        "DISK_GB": {
            "total": 500,
            "reserved": 13,
            "max_unit": 500,
            "allocation_ratio": 1.0,
            **units,
        },
    }


def test_no_more_is_reserved_than_there_is() -> None:
    """Placement would refuse the whole inventory."""
    reserves = inventory.Reserves(cpus=99, ram_mib=10**6, disk_mib=10**9)
    found = inventory.inventory(facts(), space(), 0, reserves, RATIOS)
    assert {name: each["total"] - each["reserved"] for name, each in found.items()} == {
        "VCPU": 0,
        "MEMORY_MB": 0,
        "DISK_GB": 0,
    }


def test_an_inventory_of_nothing_is_none() -> None:
    assert "DISK_GB" not in inventory.inventory(facts(), space(total=5), 0, NOTHING, RATIOS)


def test_a_processor_that_is_offline_runs_nothing() -> None:
    found = inventory.inventory(facts(CPU_Online_Count=12), space(), 0, NOTHING, RATIOS)
    assert found["VCPU"]["total"] == 12


# traits


def test_every_trait_exists() -> None:
    standard = set(os_traits.get_traits())
    named = {name for name in inventory.traits(facts()) if not name.startswith("CUSTOM_")}
    assert named <= standard


def test_traits_say_what_there_is_and_what_there_is_not() -> None:
    found = inventory.traits(facts("avx2", "vmx", "sse4.2", "something_new"))
    assert found["HW_CPU_X86_AVX2"]
    assert found["HW_CPU_X86_VMX"]
    assert found["HW_CPU_X86_INTEL_VMX"]
    assert found["HW_CPU_X86_SSE42"]
    assert found["HW_CPU_HYPERTHREADING"]
    assert not found["HW_CPU_X86_SVM"]
    assert not found["HW_CPU_X86_AVX512F"]


@pytest.mark.parametrize(
    ("changes", "brands"),
    [
        ({}, {"BHYVE", "JOYENT", "JOYENT_MINIMAL", "KVM", "LX"}),
        ({"Bhyve_Capable": False}, {"JOYENT", "JOYENT_MINIMAL", "KVM", "LX"}),
        ({"CPU_Virtualization": "svm"}, {"BHYVE", "JOYENT", "JOYENT_MINIMAL", "LX"}),
        (
            {"CPU_Virtualization": "none", "Bhyve_Capable": False},
            {"JOYENT", "JOYENT_MINIMAL", "LX"},
        ),
    ],
)
def test_brands(changes: dict[str, Any], brands: set[str]) -> None:
    found = inventory.traits(facts(**changes))
    prefix = "CUSTOM_SMARTOS_BRAND_"
    assert {name.removeprefix(prefix) for name in found if found[name] and prefix in name} == brands


# what the scheduler's filters see


@dataclasses.dataclass
class HostState:
    """What the filters look at."""

    supported_instances: Any
    hypervisor_version: int
    hypervisor_type: str
    cpu_info: Any
    stats: Any


def host_state(found: inventory.Facts) -> HostState:
    told = inventory.resources(found, space(), [])
    return HostState(
        # as ComputeNode keeps them, which refuses words that Nova does not know
        [objects.HVSpec.from_list(each).to_list() for each in told["supported_instances"]],
        told["hypervisor_version"],
        told["hypervisor_type"],
        told["cpu_info"],
        told["stats"],
    )


def request(**properties: str) -> objects.RequestSpec:
    image = objects.ImageMeta(properties=objects.ImageMetaProps(**properties))
    return objects.RequestSpec(image=image)


@pytest.mark.parametrize(
    ("properties", "passes"),
    [
        ({}, True),
        ({"hw_architecture": "x86_64"}, True),
        ({"hw_architecture": "aarch64"}, False),
        ({"hw_vm_mode": "exe"}, True),
        ({"hw_vm_mode": "hvm"}, True),
        ({"hw_vm_mode": "xen"}, False),
        ({"img_hv_type": "bhyve", "hw_vm_mode": "hvm"}, True),
        ({"img_hv_type": "kvm", "hw_vm_mode": "hvm"}, True),
        ({"img_hv_type": "lxc", "hw_vm_mode": "exe"}, True),
        ({"img_hv_type": "bhyve", "hw_vm_mode": "exe"}, False),
        ({"img_hv_type": "qemu"}, False),
        ({"hw_vm_mode": "exe", "img_hv_requested_version": ">=20.260"}, True),
        ({"hw_vm_mode": "exe", "img_hv_requested_version": ">=20.260.313"}, False),
    ],
)
def test_image_properties_filter(properties: dict[str, str], passes: bool) -> None:
    checker = image_props_filter.ImagePropertiesFilter()
    assert checker.host_passes(host_state(facts()), request(**properties)) is passes


def test_an_image_for_bhyve_does_not_go_where_there_is_none() -> None:
    checker = image_props_filter.ImagePropertiesFilter()
    state = host_state(facts(Bhyve_Capable=False, CPU_Virtualization="none"))
    assert not checker.host_passes(state, request(img_hv_type="bhyve"))
    assert not checker.host_passes(state, request(hw_vm_mode="hvm"))
    assert checker.host_passes(state, request(hw_vm_mode="exe"))


@pytest.mark.parametrize(
    ("specs", "passes"),
    [
        ({"capabilities:hypervisor_type": "SmartOS"}, True),
        ({"capabilities:hypervisor_type": "QEMU"}, False),
        ({"capabilities:hypervisor_version": ">= 20260101"}, True),
        ({"capabilities:cpu_info:vendor": "GenuineIntel"}, True),
        ({"capabilities:cpu_info:topology:threads": "2"}, True),
        ({"capabilities:smartos_brands": "<in> lx"}, True),
        ({"capabilities:smartos_platform": "s>= 20260401T000000Z"}, False),
        ({"capabilities:nothing": "x"}, False),
    ],
)
def test_compute_capabilities_filter(specs: dict[str, str], passes: bool) -> None:
    spec = objects.RequestSpec(flavor=objects.Flavor(extra_specs=specs))
    checker = compute_capabilities_filter.ComputeCapabilitiesFilter()
    assert checker.host_passes(host_state(facts()), spec) is passes


def test_resources() -> None:
    machines = [
        vm(uuidsentinel.a, max_physical_memory=512, cpu_cap=250),
        vm(uuidsentinel.b, brand="bhyve", ram=1024, max_physical_memory=2048, vcpus=4),
    ]
    told = inventory.resources(facts(), space(used=GIB + 1, promised=3 * GIB), machines)
    info = json.loads(told.pop("cpu_info"))
    assert info["topology"] == {"cells": 1, "sockets": 2, "cores": 4, "threads": 2}
    assert (info["vendor"], info["model"]) == ("GenuineIntel", "Intel(r) Xeon(r)")
    told.pop("supported_instances")
    assert told.pop("stats")["uptime"] == "up since 2026-11-21 12:23:27 UTC"
    assert told == {
        "uuid": UUID,
        "hypervisor_hostname": NAME,
        "hypervisor_type": "SmartOS",
        "hypervisor_version": 20260312,
        "vcpus": 16,
        "vcpus_used": 3 + 4,
        "memory_mb": 32768,
        "memory_mb_used": 2560,
        "local_gb": 500,
        "local_gb_used": 2,
        "disk_available_least": 495,
        "numa_topology": None,
    }


def test_resources_become_a_compute_node() -> None:
    compute = objects.ComputeNode()
    compute.update_from_virt_driver(inventory.resources(facts("avx"), space(), []))
    assert compute.uuid == UUID


def test_a_platform_of_ones_own_has_no_version() -> None:
    assert facts(Live_Image="mine").version == 0


def test_root_device_name() -> None:
    def image(**properties: str) -> objects.ImageMeta:
        return objects.ImageMeta(properties=objects.ImageMetaProps(**properties))

    assert inventory.root_device_name(image()) == "/dev/vda"
    assert inventory.root_device_name(image(hw_disk_bus="virtio")) == "/dev/vda"
    assert inventory.root_device_name(image(hw_disk_bus="ide")) == "/dev/hda"
    assert inventory.root_device_name(image(hw_disk_bus="sata")) == "/dev/sda"


# on an emulated node


class Counted(transport.Local):
    """A transport that keeps the names of the tools that it has started."""

    def __init__(self, tool_path: str) -> None:
        super().__init__(tool_path=tool_path)
        self.tools: list[str] = []

    def _start(self, command: Any, limit: Any) -> Any:
        self.tools.append(command.tool)
        return super()._start(command, limit)


class Traced:
    """A node, and the names of the commands that ran on it."""

    def __init__(self, place: emulated.EmulatedNode) -> None:
        self.place = place
        carrier = Counted(place.tools)
        self.commands = carrier.tools
        self.node = node.Node(carrier)

    def machines(self) -> dict[str, vms.Vm]:
        """What the watch knows without a command, asked by a node of its own."""
        with node.Node.local(tool_path=self.place.tools) as other:
            return {each.uuid: each for each in other.vmadm.lookup()}

    def host(self) -> host.Host:
        return host.Host(self.node, self.machines, frozenset, "compute1")


@pytest.fixture(scope="module")
def place() -> Iterator[emulated.EmulatedNode]:
    with emulated.EmulatedNode(
        "--name", NAME, "--cpus", "4", "--speed", "40", "--seed", "1"
    ) as found:
        yield found


@pytest.fixture
def traced(place: emulated.EmulatedNode) -> Traced:
    return Traced(place)


def create(place: emulated.EmulatedNode, **payload: Any) -> str:
    if payload.get("brand", "joyent") == "joyent":
        payload = {"brand": "joyent", "image_uuid": place.image("zone"), "quota": 10} | payload
    place.tool("vmadm", "create", payload=json.dumps(payload))
    uuids = place.tool("vmadm", "lookup", f"alias={payload['alias']}").split()
    assert len(uuids) == 1
    return uuids[0]


@contextlib.contextmanager
def created(place: emulated.EmulatedNode, **payload: Any) -> Iterator[str]:
    uuid = create(place, **payload)
    try:
        yield uuid
    finally:
        place.tool("vmadm", "delete", uuid)


def test_meeting_a_node_takes_three_commands_and_each_look_one(traced: Traced) -> None:
    found = traced.host()
    assert (found.name, traced.commands) == (NAME, ["sysinfo", "isainfo", "kstat"])
    traced.commands.clear()
    found.resources()
    found.resources()
    assert traced.commands == ["zfs", "zfs"]
    tree = tree_of(found)
    host.provide(found, tree, {})
    assert traced.commands == ["zfs", "zfs"]


def tree_of(found: host.Host) -> provider_tree.ProviderTree:
    tree = provider_tree.ProviderTree()
    tree.new_root(found.name, found.uuid)
    return tree


def test_what_placement_is_told(traced: Traced) -> None:
    found = traced.host()
    tree = tree_of(found)
    tree.add_traits(NAME, "CUSTOM_MINE", "HW_CPU_X86_AVX512F", "HW_CPU_X86_SGX", "COMPUTE_NODE")
    host.provide(found, tree, {"COMPUTE_TRUSTED_CERTS": True, "COMPUTE_ACCELERATORS": False})
    data = tree.data(NAME)
    assert data.inventory["VCPU"]["total"] == 4
    assert data.inventory["DISK_GB"]["total"] == 496
    # 32 GiB of swap, a dump device and what holds them
    assert 30 < data.inventory["DISK_GB"]["reserved"] < 50
    assert {"CUSTOM_MINE", "HW_CPU_X86_SGX", "COMPUTE_NODE"} <= data.traits
    assert {"COMPUTE_TRUSTED_CERTS", "CUSTOM_SMARTOS_BRAND_LX", "HW_CPU_X86_AVX2"} <= data.traits
    assert not {"HW_CPU_X86_AVX512F", "COMPUTE_ACCELERATORS"} & data.traits


def test_what_has_not_changed_is_told_in_the_same_words(traced: Traced) -> None:
    found = traced.host()
    tree = tree_of(found)
    host.provide(found, tree, {})
    before = tree.data(NAME)
    found.refresh()
    host.provide(found, tree, {})
    after = tree.data(NAME)
    assert after.inventory == before.inventory
    assert after.traits == before.traits
    assert after.generation == before.generation


@pytest.mark.parametrize(
    ("configured", "known", "ratio"),
    [(None, None, 4.0), (None, 3.0, 3.0), (2.0, None, 2.0), (2.0, 3.0, 2.0)],
)
def test_allocation_ratio(
    configured: float | None, known: float | None, ratio: float, traced: Traced
) -> None:
    """The option wins over what was set at Placement, and that over the initial one."""
    CONF.set_override("cpu_allocation_ratio", configured)
    try:
        found = traced.host()
        tree = tree_of(found)
        if known is not None:
            tree.update_inventory(NAME, {"VCPU": {"total": 1, "allocation_ratio": known}})
        host.provide(found, tree, {})
    finally:
        CONF.clear_override("cpu_allocation_ratio")
    assert tree.data(NAME).inventory["VCPU"]["allocation_ratio"] == ratio


def test_only_vms_that_are_not_novas_take_from_placement(traced: Traced) -> None:
    found = traced.host()
    empty = found.refresh()
    flavor = FLAVOR | {"disk": 10, "ephemeral": 0, "swap": 0}
    with (
        created(
            traced.place,
            alias="mine",
            max_physical_memory=256,
            internal_metadata=mark(flavor=flavor),
        ),
        created(traced.place, alias="others", max_physical_memory=128),
        created(traced.place, alias="elsewhere", internal_metadata=mark("compute2")),
    ):
        full = found.refresh()
    assert (empty.foreign_mib, full.foreign_mib) == (0, 128 + 256)
    grown = full.storage.reserved - empty.storage.reserved
    # what two quotas promise, and an image
    assert 20 * GIB <= grown < 20.1 * GIB
    assert full.storage.promised > 29.9 * GIB


def test_hvm_disks_beyond_the_flavor_are_reserved(traced: Traced) -> None:
    found = traced.host()
    image = traced.place.image("zvol")
    empty = found.refresh()
    flavor = FLAVOR | {"disk": 10, "ephemeral": 2, "swap": 0}
    with created(
        traced.place,
        alias="hvm",
        brand="bhyve",
        vcpus=2,
        ram=512,
        disks=[
            {"image_uuid": image, "boot": True, "model": "virtio", "size": 10240},
            {"size": 2048, "model": "virtio"},
        ],
        internal_metadata=mark(flavor=flavor),
    ):
        full = found.refresh()
    grown = full.storage.reserved - empty.storage.reserved
    # the zone's own dataset of 1 GiB, and the disks' metadata
    assert GIB <= grown < 2 * GIB


@contextlib.contextmanager
def away(place: emulated.EmulatedNode) -> Iterator[None]:
    place.command("down", str(place.directory))
    try:
        yield
    finally:
        place.command("up", str(place.directory))


def test_a_node_that_is_away_is_neither_gone_nor_empty() -> None:
    with emulated.EmulatedNode("--name", NAME, "--ssh", "127.0.0.1:0") as place:
        ssh = place.facts()["ssh"]
        gz = node.Node.ssh(
            ssh["host"],
            port=ssh["port"],
            user=ssh["user"],
            key_file=ssh["identity"],
            known_hosts_file=ssh["known_hosts"],
            retry_seconds=0.5,
        )
        with gz:
            found = host.Host(gz, dict, frozenset, "compute1")
            tree = tree_of(found)
            found.resources()
            with away(place):
                with pytest.raises(errors.TransportError):
                    found.resources()
                assert (found.name, found.uuid) == (NAME, found.facts.info.uuid)
                host.provide(found, tree, {})
            assert tree.data(NAME).inventory["DISK_GB"]["total"] == 496


def test_a_node_that_comes_back_is_asked_what_it_is_now(place: emulated.EmulatedNode) -> None:
    traced = Traced(place)
    lost = [False]

    def machines() -> dict[str, vms.Vm]:
        if lost[0]:
            raise errors.NotStarted("away")
        return {}

    found = host.Host(traced.node, machines, frozenset, "compute1")
    lost[0] = True
    with pytest.raises(errors.NotStarted):
        found.resources()
    lost[0] = False
    traced.commands.clear()
    found.resources()
    assert traced.commands == ["sysinfo", "isainfo", "kstat", "zfs"]
    traced.commands.clear()
    found.resources()
    assert traced.commands == ["zfs"]


def test_a_node_that_comes_back_as_another_is_not_taken_for_it() -> None:
    with emulated.EmulatedNode("--name", NAME) as place:
        found = host.Host(node.Node.local(tool_path=place.tools), dict, frozenset, "compute1")
        before = found.resources()
        found._stale = True
        place.tool("hostname", "other")
        place.tool("sysinfo", "-u")
        with pytest.raises(exception.InternalError, match="is now other"):
            found.resources()
        assert found.reading().storage.total // GIB == before["local_gb"]


def test_host_cpu_stats(traced: Traced) -> None:
    one = host.cpu_stats(traced.node)
    two = host.cpu_stats(traced.node)
    assert one.keys() == {"kernel", "user", "idle", "iowait", "frequency"}
    assert one["frequency"] == 2400
    assert one["iowait"] == 0
    passed = [two[name] - one[name] for name in ("kernel", "user", "idle")]
    assert min(passed) >= 0
    assert sum(passed) > 0


def test_uptime_is_what_the_node_says(traced: Traced) -> None:
    found = traced.node.uptime.get()
    assert " up " in found
    assert "load average: " in found
    assert traced.commands == ["uptime"]


@pytest.fixture(scope="module")
def followed(place: emulated.EmulatedNode) -> Iterator[watch.Watch]:
    with node.Node.local(tool_path=place.tools) as gz:
        found = watch.Watch(gz, lambda old, new: None)
        found.start()
        try:
            yield found
        finally:
            found.stop()


NIC = {"nic_tag": "admin", "ips": ["10.1.2.3/24"], "mac": "02:08:20:aa:bb:cc"}


def test_diagnostics_of_a_zone(traced: Traced, followed: watch.Watch) -> None:
    with created(
        traced.place, alias="zone", nics=[NIC], max_physical_memory=256, cpu_cap=150
    ) as uuid:
        counters = host.counters(traced.node, followed, uuid)
        found = inventory.instance_diagnostics(counters, config_drive=False)
        assert (found.state, found.hypervisor, found.config_drive) == ("running", "joyent", False)
        assert (found.num_cpus, found.num_disks, found.num_nics) == (2, 1, 1)
        assert found.memory_details.maximum == 256
        assert found.nic_details[0].mac_address == NIC["mac"]
        assert found.nic_details[0].rx_errors == 0
        assert found.cpu_details[0].time == counters.cpu_ns > 0
        assert found.disk_details[0].write_bytes == inventory.block_stats(counters)[3] > 0
        old = inventory.legacy_diagnostics(counters)
        assert old["memory"] == 256 * 1024
        assert old["net0_rx"] == found.nic_details[0].rx_octets


def test_traffic_is_counted(traced: Traced, followed: watch.Watch) -> None:
    with created(traced.place, alias="busy", nics=[NIC]) as uuid:
        before = inventory.instance_diagnostics(
            host.counters(traced.node, followed, uuid), config_drive=False
        )
        load = ("net_rx=1000000000", "disk_write=1000000000", "cpu=100")
        traced.place.command("load", str(traced.place.directory), uuid, *load)
        watch_until = datetime.datetime.now() + datetime.timedelta(seconds=30)
        while True:
            after = inventory.instance_diagnostics(
                host.counters(traced.node, followed, uuid), config_drive=False
            )
            if (
                after.nic_details[0].rx_octets > before.nic_details[0].rx_octets
                and after.disk_details[0].write_bytes > before.disk_details[0].write_bytes
                and after.cpu_details[0].time > before.cpu_details[0].time
            ):
                break
            assert datetime.datetime.now() < watch_until, (before, after)


def test_a_vm_that_is_down_has_no_counters(traced: Traced, followed: watch.Watch) -> None:
    with created(traced.place, alias="down") as uuid:
        traced.place.tool("vmadm", "stop", "-F", uuid)
        with pytest.raises(exception.InstanceNotRunning):
            host.counters(traced.node, followed, uuid)
    with pytest.raises(errors.NotFound):
        host.counters(traced.node, followed, uuid)


def test_another_zones_counters_are_not_taken(traced: Traced, followed: watch.Watch) -> None:
    """After a reboot the number is another, and the old one may be somebody else's."""
    with created(traced.place, alias="one") as one, created(traced.place, alias="two") as two:
        taken = followed.get(two)
        stale = dataclasses.replace(followed.get(one), zoneid=taken.zoneid)

        class Late:
            """A watch that has not heard of a reboot yet."""

            def get(self, uuid: str, fresh: bool = False) -> vms.Vm:
                return followed.get(uuid, fresh) if fresh else stale

        found = host.counters(traced.node, Late(), one)  # type: ignore[arg-type]
        assert found.vm.zoneid != taken.zoneid
        assert found.zone.zonename == one
