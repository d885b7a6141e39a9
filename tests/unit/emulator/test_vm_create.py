# SPDX-License-Identifier: Apache-2.0
"""The object of a VM right after its creation."""

from typing import Any

from smartos_emulator.vmadm import create, normalize
from tests.unit.emulator import rules_node

ZONE_IMAGE = "7a0c1f52-55b1-4d4c-9a0e-0d5f3c9e0a01"
LX_IMAGE = "7a0c1f52-55b1-4d4c-9a0e-0d5f3c9e0a02"
VOLUME_IMAGE = "7a0c1f52-55b1-4d4c-9a0e-0d5f3c9e0a03"
SEEDED_IMAGE = "7a0c1f52-55b1-4d4c-9a0e-0d5f3c9e0a04"
UUID = "c0ffee00-0000-4000-8000-000000000001"
MAC = "c2:00:00:00:00:11"


def made(brand: str, **payload: Any) -> dict[str, Any]:
    node = rules_node.RulesNode()
    payload = {"brand": brand, "uuid": UUID} | payload
    return create.vm_object(normalize.normalize(node, payload), node)


def test_zone_in_the_order_of_vmadm_get() -> None:
    nic = {"nic_tag": "admin", "mac": MAC, "ips": ["192.0.2.31/24", "addrconf"], "vlan_id": 7}
    vm = made(
        "joyent",
        image_uuid=ZONE_IMAGE,
        alias="web",
        cpu_cap=150,
        resolvers=["192.0.2.53"],
        firewall_enabled=True,
        delegate_dataset=True,
        tags={"role": "www"},
        nics=[nic | {"gateways": ["192.0.2.1"]}],
    )
    assert list(vm) == [
        *("zonename", "autoboot", "brand", "limit_priv", "v", "create_timestamp", "image_uuid"),
        *("billing_id", "owner_uuid", "tmpfs", "dns_domain", "firewall_enabled", "resolvers"),
        *("alias", "cpu_shares", "zfs_io_priority", "max_lwps", "max_msg_ids", "max_sem_ids"),
        *("max_shm_ids", "max_shm_memory", "max_physical_memory", "max_locked_memory"),
        *("max_swap", "cpu_cap", "nics", "datasets", "uuid", "zone_state", "zonepath", "hvm"),
        *("zoneid", "state", "customer_metadata", "internal_metadata", "routes", "tags"),
        *("quota", "zfs_root_recsize", "zfs_filesystem", "zpool", "zfs_data_recsize"),
        "snapshots",
    ]
    assert vm["limit_priv"] == "default"
    assert vm["datasets"] == [f"zones/{UUID}/data"]
    assert list(vm["nics"][0].items()) == [
        ("interface", "net0"),
        ("mac", MAC),
        ("vlan_id", 7),
        ("nic_tag", "admin"),
        ("gateway", "192.0.2.1"),
        ("gateways", ["192.0.2.1"]),
        ("netmask", "255.255.255.0"),
        ("ip", "192.0.2.31"),
        ("ips", ["192.0.2.31/24", "addrconf"]),
        ("primary", True),
    ]


def test_what_is_unset_is_shown_or_absent() -> None:
    vm = made("joyent-minimal", image_uuid=ZONE_IMAGE, do_not_inventory=False, restart_init=True)
    assert (vm["resolvers"], vm["firewall_enabled"], vm["nics"]) == ([], False, [])
    assert not {"do_not_inventory", "restart_init", "disks", "device", "ram"} & set(vm)
    assert list(vm).index("resolvers") > list(vm).index("zoneid")


def test_lx_has_eth0() -> None:
    nics = [{"nic_tag": "admin", "mac": MAC}, {"nic_tag": "admin", "mac": "c2:00:00:00:00:12"}]
    vm = made("lx", image_uuid=LX_IMAGE, kernel_version="5.10", nics=nics)
    assert [nic["interface"] for nic in vm["nics"]] == ["eth0", "eth1"]
    assert "ips" not in vm["nics"][0]


def test_docker_logs() -> None:
    payload = {"image_uuid": LX_IMAGE, "kernel_version": "5.10", "docker": True}
    assert made("lx", **payload)["zlog_mode"] == "g--"
    wanted = {"docker:tty": True, "docker:logdriver": "syslog"}
    vm = made("lx", **payload, internal_metadata=wanted)
    assert (vm["zlog_mode"], vm["app_svc_dependent"]) == ("gtn", True)
    silent = made("lx", **payload, internal_metadata={"docker:logdriver": "none"})
    assert silent["zlog_mode"] == "---"


def test_bhyve() -> None:
    disks = [
        {"boot": True, "model": "virtio", "image_uuid": VOLUME_IMAGE},
        {"media": "cdrom", "path": "/cd.iso", "model": "ahci"},
        {"model": "nvme", "size": 512, "zpool": "fast"},
    ]
    vm = made("bhyve", ram=512, flexible_disk_size=10000, disks=disks)
    assert vm["limit_priv"].startswith("default,-file_link_any,")
    assert (vm["com1"], vm["com2"]) == ("/dev/zconsole", "socket,/tmp/vm.ttyb")
    assert (vm["device"], vm["hvm"], vm["quota"]) == (None, True, 1)
    assert vm["free_space"] == 10000 - 8192 - 512
    assert [disk["path"] for disk in vm["disks"]] == [
        f"/dev/zvol/rdsk/zones/{UUID}/disk0",
        "/cd.iso",
        f"/dev/zvol/rdsk/fast/{UUID}/disk1",
    ]
    assert [disk["pci_slot"] for disk in vm["disks"]] == ["0:4:0", "0:3:0", "0:4:1"]
    assert vm["disks"][1]["missing"] is True
    assert vm["disks"][0]["size"] == 8192


def test_kvm() -> None:
    vm = made("kvm", autoboot=False, disks=[{"model": "ide", "size": 64}], vnc_port=0)
    assert vm["autoboot"] is False
    assert vm["disks"][0]["path"] == f"/dev/zvol/rdsk/zones/{UUID}-disk0"
    assert not {"pci_slot", "uuid"} & set(vm["disks"][0])
    assert not {"com1", "zlog_mode", "vnc_port"} & set(vm)
    assert made("kvm")["disks"] == []


def test_an_image_for_cloud_init_brings_a_seed_disk() -> None:
    node = rules_node.RulesNode()
    disk = {"boot": True, "model": "virtio", "image_uuid": SEEDED_IMAGE}
    payload = {"brand": "bhyve", "uuid": UUID, "disks": [disk]}
    prepared = create.prepare(normalize.normalize(node, payload))
    vm = create.vm_object(prepared, node)
    assert vm == create.vm_object(prepared, node), "a prepared payload is not prepared again"
    assert vm["bootrom"] == "uefi"
    seed = vm["disks"][1]
    assert (seed["size"], seed["block_size"]) == (16, 512)
    assert vm["internal_metadata"] == {
        "cloudinit_datasource": "nocloud",
        "cloudinit_nocloud_path": seed["path"],
    }


def test_dataset_settings() -> None:
    vm = made(
        "joyent",
        image_uuid=ZONE_IMAGE,
        zfs_root_compression="lz4",
        zfs_snapshot_limit=5,
        indestructible_zoneroot=True,
    )
    assert vm["zfs_root_compression"] == "lz4"
    assert vm["zfs_snapshot_limit"] == 5
    assert vm["indestructible_zoneroot"] is True
    assert not {"zfs_data_compression", "zfs_filesystem_limit"} & set(vm)
