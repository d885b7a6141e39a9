# SPDX-License-Identifier: Apache-2.0
"""What an update makes of a VM's object."""

from typing import Any

import pytest

from smartos_emulator import js
from smartos_emulator.vmadm import normalize, update
from tests.unit.emulator import rules_node

PATH = "/dev/zvol/rdsk/zones/b0b0b0b0-0000-4000-8000-000000000002/disk0"
FIRST, SECOND = "c2:00:00:00:00:01", "c2:00:00:00:00:02"


def updated(
    name: str, payload: dict[str, Any], before: dict[str, Any] | None = None
) -> dict[str, Any]:
    node = rules_node.RulesNode()
    vm = (node.vm(name) or {}) | (before or {})
    return update.apply(vm, normalize.normalize(node, payload, vm), node)


def test_attributes_come_and_go() -> None:
    vm = updated("zone", {"alias": "web", "hostname": "", "cpu_cap": 50}, {"hostname": "old"})
    assert (vm["alias"], vm["cpu_cap"]) == ("web", 50)
    assert "hostname" not in vm
    assert "cpu_cap" not in updated("zone", {"cpu_cap": 0}, {"cpu_cap": 50})


def test_a_changed_attribute_keeps_its_place_and_a_new_one_is_last() -> None:
    before = {"hostname": "a", "alias": "b", "cpu_shares": 1}
    vm = updated("zone", {"hostname": "c", "resolvers": ["192.0.2.53"]}, before)
    names = list(vm)
    assert names.index("hostname") < names.index("alias") < names.index("resolvers")
    assert names.index("resolvers") < names.index("cpu_shares")


def test_flags() -> None:
    vm = updated("zone", {"firewall_enabled": True, "restart_init": False, "autoboot": False})
    assert (vm["firewall_enabled"], vm["restart_init"], vm["autoboot"]) == (True, False, False)
    vm = updated("zone", {"firewall_enabled": "false", "restart_init": True}, vm)
    assert vm["firewall_enabled"] is False
    assert "restart_init" not in vm


def test_no_temporary_files_is_a_value() -> None:
    assert updated("zone", {"tmpfs": 0})["tmpfs"] == 0


def test_memory_of_a_zone() -> None:
    vm = updated("zone", {"ram": 4096})
    names = ("max_physical_memory", "max_locked_memory", "max_swap", "tmpfs", "max_shm_memory")
    assert [vm[name] for name in names] == [4096, 4096, 5120, 2048, 1024]
    assert "ram" not in vm


def test_metadata() -> None:
    payload = {
        "set_tags": {"b": 2},
        "remove_tags": ["a"],
        "set_customer_metadata": {"k": "v"},
        "set_routes": {"203.0.113.9": "192.0.2.1"},
    }
    vm = updated("zone", payload, {"tags": {"a": 1}})
    assert vm["tags"] == {"b": 2}
    assert vm["customer_metadata"] == {"k": "v"}
    assert vm["routes"] == {"203.0.113.0/24": "nics[1]", "203.0.113.9": "192.0.2.1"}


def test_new_nic_takes_the_first_free_name_and_is_not_primary() -> None:
    nic = {"nic_tag": "external", "mac": "c2:00:00:00:00:11", "ip": "dhcp", "interface": "net7"}
    vm = updated("zone", {"add_nics": [nic]})
    assert [one["interface"] for one in vm["nics"]] == ["net0", "net1", "net2"]
    assert vm["nics"][2]["ip"] == "dhcp"
    alone = updated("zone", {"add_nics": [nic]}, {"nics": [], "routes": {}})["nics"]
    assert [one.get("primary") for one in alone] == [None]


def test_changed_nic() -> None:
    vm = updated("zone", {"update_nics": [{"mac": FIRST, "ips": ["198.51.100.9/25"]}]})
    nic = vm["nics"][0]
    assert (nic["ip"], nic["netmask"]) == ("198.51.100.9", "255.255.255.128")
    assert (nic["gateway"], nic["primary"]) == ("192.0.2.1", True)


def test_primary_moves() -> None:
    vm = updated("zone", {"update_nics": [{"mac": SECOND, "primary": True}]})
    assert [nic.get("primary") for nic in vm["nics"]] == [None, True]


@pytest.mark.parametrize(
    ("addresses", "successor"),
    [
        ([["10.0.0.1/8"], ["10.0.0.2/8"]], 0),
        ([["10.0.0.1/8"], ["192.0.2.7/24"]], 1),
        ([["10.0.0.1/8", "192.0.2.6/24"], ["192.0.2.7/24"]], 1),
        ([["10.0.0.1/8"], ["10.0.0.2/8", "192.0.2.7/24"]], 1),
        ([[], ["dhcp"]], 1),
    ],
)
def test_who_follows_the_primary(addresses: list[list[str]], successor: int) -> None:
    macs = [f"c2:00:00:00:01:0{number}" for number in range(len(addresses))]
    others = [
        {"interface": f"net{number + 1}", "mac": mac, "nic_tag": "admin", "ips": ips}
        for number, (mac, ips) in enumerate(zip(macs, addresses, strict=True))
    ]
    gone = {"interface": "net0", "mac": FIRST, "nic_tag": "admin", "ips": [], "primary": True}
    vm = updated("zone", {"remove_nics": [FIRST]}, {"nics": [gone, *others], "routes": {}})
    assert [nic["mac"] for nic in vm["nics"] if nic.get("primary")] == [macs[successor]]


def test_serial_ports_fall_back() -> None:
    before = {"com1": "/dev/null", "com2": "/dev/null"}
    vm = updated("hvm", {"alias": "x"}, before)
    assert (vm["com1"], vm["com2"]) == ("/dev/zconsole", "socket,/tmp/vm.ttyb")
    assert updated("hvm", {"com1": "/dev/null"}, before)["com2"] == "/dev/null"


def test_disks() -> None:
    vm = updated(
        "hvm", {"add_disks": [{"size": 64}], "update_disks": [{"path": PATH, "size": 9000}]}
    )
    first, second = vm["disks"]
    assert (first["size"], first["image_uuid"][-2:]) == (9000, "03")
    assert (second["path"][-5:], second["model"], second["pci_slot"]) == (
        "disk1",
        "virtio",
        "0:4:1",
    )
    assert "media" not in second
    assert updated("hvm", {"remove_disks": [PATH]})["disks"] == []


def test_a_disk_that_is_not_there() -> None:
    vm = rules_node.RulesNode().vm("hvm") or {}
    update.require_known(vm, {"update_disks": [{"path": PATH}]})
    with pytest.raises(js.JavaScriptError, match=r"^index \(number\) is required$"):
        update.require_known(vm, {"update_disks": [{"size": 1}]})


def test_file_systems() -> None:
    mount = {"source": "/a", "target": "/b", "type": "lofs", "options": ["ro"]}
    vm = updated("zone", {"add_filesystems": [mount]})
    assert vm["filesystems"] == [mount]
    vm = updated("zone", {"update_filesystems": [{"target": "/b", "source": "/c"}]}, vm)
    assert vm["filesystems"] == [mount | {"source": "/c"}]
    assert "filesystems" not in updated("zone", {"remove_filesystems": ["/b"]}, vm)


def test_passed_through_devices() -> None:
    device = {"path": "/devices/pci@0,0", "pci_slot": "0:8:0"}
    vm = updated("hvm", {"add_pci_devices": [device]})
    assert vm["pci_devices"] == [device | {"model": "passthru"}]
    moved = update.apply(
        vm,
        {"update_pci_devices": [{"path": device["path"], "pci_slot": "0:9:0"}]},
        rules_node.RulesNode(),
    )
    assert moved["pci_devices"][0]["pci_slot"] == "0:9:0"


def test_datasets() -> None:
    payload = {"quota": 20, "zfs_root_compression": "lz4", "zfs_snapshot_limit": 3}
    vm = updated("zone", payload)
    assert (vm["quota"], vm["zfs_root_compression"], vm["zfs_snapshot_limit"]) == (20, "lz4", 3)
    back = {"zfs_root_compression": "off", "zfs_snapshot_limit": "", "quota": ""}
    vm = updated("zone", back, vm)
    assert vm["quota"] == 0
    assert not {"zfs_root_compression", "zfs_snapshot_limit"} & set(vm)


def test_limits_of_a_running_zone() -> None:
    zone, hvm = (rules_node.RulesNode().vm(name) or {} for name in ("zone", "hvm"))
    changes = {"max_physical_memory": 2, "cpu_cap": 0, "quota": 5, "max_lwps": js.UNDEFINED}
    assert update.live_limits(zone, changes) == {
        "zone.max-physical-memory": 2 << 20,
        "zone.cpu-cap": 0,
    }
    assert update.live_limits(hvm, changes) == {}
