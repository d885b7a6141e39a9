# SPDX-License-Identifier: Apache-2.0
"""The life of VMs: how they are made, started, stopped, changed and deleted, brand by brand."""

import json
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from smartos_emulator import node as node_module
from smartos_emulator import zones
from smartos_emulator.vmadm import failures, power
from tests.unit.emulator import vm_node
from tests.unit.emulator.vm_node import create, get, hardware, payload, run, uuid

U = uuid(1)


@pytest.fixture(name="node")
def _node(tmp_path: pathlib.Path) -> Iterator[node_module.Node]:
    with vm_node.up(tmp_path) as node:
        vm_node.add_images(node)
        yield node


def states(node: node_module.Node, name: str) -> tuple[str, str, bool]:
    vm = get(node, name)
    return vm["state"], vm["zone_state"], vm["autoboot"]


def together(*works: Any) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


def test_create_waits_for_the_guest(node: node_module.Node) -> None:
    create(node, payload())
    assert states(node, U) == ("running", "running", True)
    root = node.zones.root(U)
    assert (root / "var/svc/provision_success").exists()
    assert not (root / "var/svc/provisioning").exists()


def test_a_guest_that_fails_is_provisioned_all_the_same(node: node_module.Node) -> None:
    node.zones.script(U, provision="failure")
    create(node, payload())
    assert states(node, U) == ("running", "running", True)


def test_a_guest_that_never_says_a_word(node: node_module.Node) -> None:
    node.clock.speed = 1000.0
    node.zones.script("*", provision="never")
    ran = run(node, "vmadm", "create", stdin=json.dumps(payload()))
    late = f"timed out waiting for /var/svc/provisioning to move for {U}"
    assert (ran.status, ran.err) == (1, f"first of 2 errors: {late}\n")
    vm = get(node, U)
    assert (vm["state"], vm["zone_state"], vm["failed"]) == ("failed", "installed", "provisioning")
    ran = run(node, "vmadm", "start", U)
    assert ran.err == (
        f'Unable to start VM {U}: Cannot start vm from state "failed", must be "stopped".\n'
    )
    assert run(node, "vmadm", "stop", U).status == 0
    assert run(node, "vmadm", "delete", U).status == 0


def test_create_without_autoboot(node: node_module.Node) -> None:
    create(node, payload(autoboot=False))
    assert states(node, U) == ("stopped", "installed", False)
    assert "exit_status" not in get(node, U)


def test_a_vm_that_was_stopped_meanwhile_does_not_boot_with_the_node(
    node: node_module.Node,
) -> None:
    create(node, payload())
    run(node, "vmadm", "stop", U)
    node.vms.autoboot(U)
    assert states(node, U) == ("stopped", "installed", False)


def test_create_refusals(node: node_module.Node) -> None:
    create(node, payload(autoboot=False))
    ran = run(node, "vmadm", "create", stdin=json.dumps(payload()))
    assert ran.err == f"VM with UUID {U} already exists\n"
    ran = run(node, "vmadm", "create", stdin=json.dumps(payload(2, image_uuid=vm_node.BARE)))
    assert ran.err == (f"provisioning dataset {vm_node.BARE} with brand joyent is not supported\n")
    minimal = payload(3, brand="joyent-minimal", image_uuid=vm_node.BARE)
    create(node, minimal)


def test_no_bhyve_without_the_machine_for_it(tmp_path: pathlib.Path) -> None:
    with vm_node.up(tmp_path, bhyve=False) as node:
        vm_node.add_images(node)
        ran = run(node, "vmadm", "create", stdin=json.dumps(hardware()))
        assert (ran.status, ran.err) == (1, "Bhyve not supported\n")


def test_a_full_pool_leaves_no_half_made_bhyve_vm(node: node_module.Node) -> None:
    node.storage.fill("zones", True)
    ran = run(node, "vmadm", "create", stdin=json.dumps(hardware()))
    assert ran.status == 1
    assert ran.err.startswith("Command failed: cannot create")
    assert not node.storage.exists(f"zones/{U}")
    assert run(node, "vmadm", "lookup").out == ""


def test_stop_is_for_good_and_start_too(node: node_module.Node) -> None:
    create(node, payload())
    ran = run(node, "vmadm", "stop", U)
    assert (ran.status, ran.err) == (0, f"Successfully completed stop for VM {U}\n")
    assert states(node, U) == ("stopped", "installed", False)
    assert get(node, U)["exit_status"] == 0
    ran = run(node, "vmadm", "stop", U)
    already = f"VM {U} is already not 'running' (currently: stopped)\n"
    assert (ran.status, ran.err) == (0, already)
    ran = run(node, "vmadm", "stop", "-F", U)
    assert (ran.status, ran.err) == (1, f"first of 1 error: {already}")
    assert run(node, "vmadm", "start", U).err == f"Successfully started VM {U}\n"
    assert states(node, U) == ("running", "running", True)
    ran = run(node, "vmadm", "start", U)
    assert ran.err == f"Unable to start VM {U}: VM {U} is already 'running'\n"
    assert ran.status == 0


def test_a_guest_that_ignores_a_shutdown_is_halted_after_a_minute(node: node_module.Node) -> None:
    create(node, payload())
    node.zones.script(U, shutdown="ignore")
    node.clock.speed = 400.0
    begun = node.clock.monotonic()
    assert run(node, "vmadm", "stop", U).status == 0
    assert node.clock.monotonic() - begun > 60
    assert get(node, U)["state"] == "stopped"


def test_a_timeout_is_not_for_zones(node: node_module.Node) -> None:
    create(node, payload())
    ran = run(node, "vmadm", "stop", "-t", "5", U)
    assert ran.err == (
        "first of 1 error: Timeout option is only supported for bhyve, KVM and docker containers.\n"
    )


def test_reboot(node: node_module.Node) -> None:
    create(node, payload())
    before = get(node, U)["zoneid"]
    assert run(node, "vmadm", "reboot", U).status == 0
    assert run(node, "vmadm", "reboot", "-F", U).status == 0
    assert get(node, U)["zoneid"] == before + 2
    run(node, "vmadm", "stop", U)
    ran = run(node, "vmadm", "reboot", U)
    assert ran.err == 'Cannot reboot vm from state "stopped", must be "running"\n'
    ran = run(node, "vmadm", "reboot", "-F", U)
    assert ran.err == 'Cannot reset vm from state "stopped", must be "running".\n'


@pytest.mark.parametrize("brand", ["bhyve", "kvm"])
def test_hardware(node: node_module.Node, brand: str) -> None:
    create(node, hardware(brand=brand))
    assert run(node, "vmadm", "start", U).status == 0
    assert run(node, "vmadm", "reboot", U).status == 0
    assert states(node, U) == ("running", "running", True)
    assert run(node, "vmadm", "stop", "-t", "20", U).status == 0
    assert states(node, U) == ("stopped", "installed", False)
    assert run(node, "vmadm", "delete", U).status == 0
    names = node.storage.children("zones", kinds={"filesystem", "volume"})
    assert not [name for name in names if U in name]


def test_a_kvm_vm_is_stopping_for_a_while(node: node_module.Node) -> None:
    create(node, hardware(brand="kvm", autoboot=True))
    seen = node.events.subscribe()
    run(node, "vmadm", "stop", U)
    events = iter(lambda: seen.get(5), None)
    assert any(event["vm"]["state"] == "stopping" for event in events)
    assert "transition_to" not in get(node, U)


def test_disks(node: node_module.Node) -> None:
    create(node, hardware(flexible_disk_size=256))
    first, second = get(node, U)["disks"]
    assert first["path"] == f"/dev/zvol/rdsk/zones/{U}/disk0"
    assert (first["size"], second["size"], second["block_size"]) == (vm_node.DISK_MIB, 32, 8192)
    change = json.dumps({"update_disks": [{"path": second["path"], "size": 48}]})
    assert run(node, "vmadm", "update", U, stdin=change).status == 0
    change = json.dumps({"update_disks": [{"path": second["path"], "size": 40}]})
    assert run(node, "vmadm", "update", U, stdin=change).err == (
        "first of 1 error: cannot resize disk: "
        "new size must be greater than current size. (48 > 40)\n"
    )
    change = json.dumps({"add_disks": [{"model": "virtio", "size": 8}]})
    assert run(node, "vmadm", "update", U, stdin=change).status == 0
    change = json.dumps({"remove_disks": [second["path"]]})
    assert run(node, "vmadm", "update", U, stdin=change).status == 0
    paths = [disk["path"].rpartition("/")[2] for disk in get(node, U)["disks"]]
    assert paths == ["disk0", "disk2"]
    assert not node.storage.exists(f"zones/{U}/disk1")


def test_disks_without_flexible_space_cannot_grow(node: node_module.Node) -> None:
    create(node, hardware())
    before = node.storage.number(f"zones/{U}", "quota")
    path = get(node, U)["disks"][1]["path"]
    change = json.dumps({"update_disks": [{"path": path, "size": 48}]})
    ran = run(node, "vmadm", "update", U, stdin=change)
    assert ran.status == 1
    assert ran.err.startswith("first of 1 error: Command failed: cannot set property for")
    assert node.storage.number(f"zones/{U}", "quota") == before


def test_update_of_metadata_and_limits(node: node_module.Node) -> None:
    create(node, payload(tags={"a": "1"}, max_physical_memory=256))
    change = {"set_tags": {"b": 2}, "remove_tags": ["a"], "cpu_cap": 150, "quota": 4}
    assert run(node, "vmadm", "update", U, stdin=json.dumps(change)).status == 0
    vm = get(node, U)
    assert (vm["tags"], vm["cpu_cap"], vm["quota"]) == ({"b": 2}, 150, 4)
    zone = node.zones.get(U)
    assert zone is not None
    assert zone.rctls["zone.cpu-cap"] == 150
    assert run(node, "vmadm", "update", U, "cpu_cap=0", "max_physical_memory=128").status == 0
    assert "zone.cpu-cap" not in zone.rctls
    assert zone.rctls["zone.max-physical-memory"] == 128 << 20


def test_a_hardware_vm_feels_its_limits_at_the_next_boot(node: node_module.Node) -> None:
    create(node, hardware(autoboot=True, cpu_cap=100))
    zone = node.zones.get(U)
    assert zone is not None
    run(node, "vmadm", "update", U, "cpu_cap=300")
    assert zone.rctls["zone.cpu-cap"] == 100
    run(node, "vmadm", "reboot", U)
    assert zone.rctls["zone.cpu-cap"] == 300


def test_a_new_nic_waits_for_a_boot(node: node_module.Node) -> None:
    create(node, payload(nics=[{"nic_tag": "admin", "ips": ["10.0.0.2/24"]}]))
    change = {"add_nics": [{"nic_tag": "external", "ips": ["10.9.0.2/24"]}]}
    assert run(node, "vmadm", "update", U, stdin=json.dumps(change)).status == 0
    assert len(get(node, U)["nics"]) == 2
    assert len(node.network.zone_links(U)) == 1
    run(node, "vmadm", "reboot", U)
    assert len(node.network.zone_links(U)) == 2


def test_delete(node: node_module.Node) -> None:
    create(node, payload(indestructible_zoneroot=True))
    ran = run(node, "vmadm", "delete", U)
    assert ran.err == (f"Failed to delete VM {U}: indestructible_zoneroot is set, cannot delete\n")
    assert get(node, U)["state"] == "running"
    run(node, "vmadm", "update", U, "indestructible_zoneroot=false")
    assert run(node, "vmadm", "delete", U).err == f"Successfully deleted VM {U}\n"
    assert not node.storage.exists(f"zones/{U}")
    assert node.zones.get(U) is None


def test_delete_of_a_vm_with_a_filesystem_that_has_no_source(node: node_module.Node) -> None:
    create(node, payload(autoboot=False, filesystems=[{"target": "/data", "type": "lofs"}]))
    assert run(node, "vmadm", "delete", U).err == f"Successfully deleted VM {U}\n"


def test_of_two_deletes_one_loses(node: node_module.Node) -> None:
    create(node, payload())
    ran: list[vm_node.Ran] = []
    together(*[lambda: ran.append(run(node, "vmadm", "delete", U))] * 2)
    assert sorted(one.status for one in ran) == [0, 1]
    loser = max(ran, key=lambda one: one.status)
    assert "zonecfg" in loser.err or "not found" in loser.err


def test_of_two_starts_one_wins(node: node_module.Node) -> None:
    create(node, payload(autoboot=False))
    ran: list[vm_node.Ran] = []
    together(*[lambda: ran.append(run(node, "vmadm", "start", U))] * 2)
    assert get(node, U)["state"] == "running"
    assert min(one.status for one in ran) == 0
    assert all(one.err.startswith(f"Unable to start VM {U}: ") for one in ran if one.status)


def test_a_start_that_comes_too_late_has_zoneadm_say_so(node: node_module.Node) -> None:
    create(node, payload())
    with pytest.raises(failures.VmError) as caught:
        power.boot(node.vms, U)
    assert str(caught.value) == (
        f"first of 1 error: Command failed: zone '{U}': zone is already booted\n"
        f"zoneadm: zone '{U}': call to zoneadmd failed\n"
    )


def test_kill(node: node_module.Node) -> None:
    create(node, payload())
    pid = get(node, U)["pid"]
    ran = run(node, "vmadm", "kill", "-HUP", U)
    assert (ran.status, ran.err) == (0, f'Sent signal "HUP" to init process for VM {U}\n')
    assert run(node, "vmadm", "kill", "-s", "NONE", U).err == 'Unknown signal "NONE"\n'
    assert run(node, "vmadm", "kill", "-s", "SIGKILL", U).status == 0
    vm = get(node, U)
    assert (vm["init_restarts"], vm["pid"] != pid) == (1, True)
    run(node, "vmadm", "stop", U)
    assert run(node, "vmadm", "kill", U).err == f"Cannot find running init PID for VM {U}\n"


def test_docker(node: node_module.Node) -> None:
    internal = {"docker:cmd": '["sleep","9"]'}
    wanted = payload(
        brand="lx",
        image_uuid=vm_node.LX,
        kernel_version="4.3.0",
        docker=True,
        internal_metadata=internal,
    )
    create(node, wanted)
    assert run(node, "vmadm", "stop", "-t", "3", U).status == 0
    assert get(node, U)["exit_status"] == -15
    assert run(node, "vmadm", "reboot", U).status == 0
    assert get(node, U)["internal_metadata"]["docker:restartcount"] == 0


def test_info_and_sysrq(node: node_module.Node) -> None:
    create(node, hardware(1, "bhyve", vnc_port=5901))
    create(node, hardware(2, "kvm"))
    create(node, payload(3))
    ran = run(node, "vmadm", "info", U)
    assert ran.err == (
        f'Unable to get VM info for VM {U}: Unable to get info for vm from state "stopped", '
        'must be "running" or "stopping".\n'
    )
    run(node, "vmadm", "start", U)
    run(node, "vmadm", "start", uuid(2))
    vnc = {"host": node.config.admin_ip, "port": 5901, "display": 1}
    assert json.loads(run(node, "vmadm", "info", U).out) == {"vnc": vnc}
    assert set(json.loads(run(node, "vmadm", "info", uuid(2)).out)) >= {"status", "cpus", "vnc"}
    assert set(json.loads(run(node, "vmadm", "info", uuid(2), "kvm,status").out)) == {
        "kvm",
        "status",
    }
    assert run(node, "vmadm", "info", U, "cpus").err.endswith("unknown info type cpus\n")
    assert run(node, "vmadm", "sysrq", U, "nmi").err == f"Sent NMI to VM {U}\n"
    assert run(node, "vmadm", "sysrq", U, "screenshot").status == 1
    sent = run(node, "vmadm", "sysrq", uuid(2), "screenshot")
    assert sent.err == f"Sent screenshot sysrq to VM {uuid(2)}\n"
    assert run(node, "vmadm", "sysrq", uuid(3), "nmi").status == 1


def test_reprovision(node: node_module.Node) -> None:
    create(node, payload(delegate_dataset=True, customer_metadata={"k": "v"}))
    (node.zones.root(U) / "gone").write_text("with the old root")
    change = json.dumps({"image_uuid": vm_node.BARE})
    ran = run(node, "vmadm", "reprovision", U, stdin=change)
    assert (ran.status, ran.err) == (0, f"Successfully reprovisioned VM {U}\n")
    vm = get(node, U)
    assert (vm["state"], vm["image_uuid"]) == ("running", vm_node.BARE)
    assert vm["customer_metadata"] == {"k": "v"}
    assert node.storage.exists(f"zones/{U}/data")
    assert not (node.zones.root(U) / "gone").exists()
    ran = run(node, "vmadm", "reprovision", U, stdin=json.dumps({"image_uuid": vm_node.DISK}))
    assert ran.err == (
        f"Failed to reprovision VM {U}: image {vm_node.DISK} is type zvol, "
        'but must be one of: ["zone-dataset"]\n'
    )
    ran = run(node, "vmadm", "reprovision", U, stdin="{}")
    assert ran.err == f"Failed to reprovision VM {U}: payload is missing image_uuid\n"


def test_the_node_reboots(tmp_path: pathlib.Path) -> None:
    with vm_node.up(tmp_path) as node:
        vm_node.add_images(node)
        for number in (1, 2):
            create(node, payload(number))
        run(node, "vmadm", "stop", uuid(2))
        kept = get(node, uuid(2))
    with vm_node.up(tmp_path) as node:
        assert node.vms.wait_state(U, "running", 6000)
        again = get(node, uuid(2))
        assert again["state"] == "stopped"
        changed = {"server_uuid", "last_modified"}
        assert {k for k in kept if kept[k] != again.get(k)} <= changed


def test_many_at_once_take_little_longer_than_one(node: node_module.Node) -> None:
    numbers = range(1, 13)
    node.clock.speed = 2.0
    begun = node.clock.monotonic()
    together(*[lambda number=number: create(node, payload(number)) for number in numbers])
    elapsed = node.clock.monotonic() - begun
    assert len(run(node, "vmadm", "lookup", "state=running").out.split()) == len(numbers)
    one_after_the_other = len(numbers) * (zones.INSTALL_SECONDS + 2.7)
    assert elapsed < one_after_the_other / 2


def test_a_dataset_that_somebody_destroyed(node: node_module.Node) -> None:
    create(node, payload(autoboot=False))
    assert run(node, "zfs", "destroy", "-r", f"zones/{U}").status == 0
    ran = run(node, "vmadm", "update", U, stdin='{"set_tags": {"a": "b"}}')
    text = f"Command failed: cannot open 'zones/{U}': dataset does not exist\n"
    assert (ran.status, ran.err) == (1, text)


def test_a_vm_deleted_while_it_is_made(node: node_module.Node) -> None:
    def take_away(_kind: str, name: str) -> None:
        if name == f"zones/cores/{U}":
            node.zones.mark(U, "configured")
            node.zones.unconfigure(U)

    node.storage.subscribe(take_away)
    ran = run(node, "vmadm", "create", stdin=json.dumps(payload()))
    text = f"Command failed: {U}: No such zone configured\n"
    assert (ran.status, ran.err) == (1, text)


def test_metadata_that_does_not_fit_changes_nothing(node: node_module.Node) -> None:
    create(node, payload(customer_metadata={"k": "old"}))
    node.storage.fill("zones", True)
    change = json.dumps({"set_customer_metadata": {"k": "new"}})
    ran = run(node, "vmadm", "update", U, stdin=change)
    assert (ran.status, ran.err) == (1, "first of 1 error: ENOSPC, write\n")
    assert run(node, "vmadm", "stop", U).status == 0
    node.storage.fill("zones", False)
    assert get(node, U)["customer_metadata"] == {"k": "old"}


def test_half_a_surrogate_pair_spoils_no_listing(node: node_module.Node) -> None:
    create(node, payload(autoboot=False))
    change = r'{"alias": "a\ud800", "set_tags": {"k\udc80": "\ud83d\udca5"}}'
    assert run(node, "vmadm", "update", U, stdin=change).status == 0
    vm = get(node, U)
    assert (vm["alias"], vm["tags"]) == ("a\ufffd", {"k\ufffd": "\U0001f4a5"})
    assert run(node, "vmadm", "list").status == 0


def test_an_image_that_no_file_can_be_named_after(node: node_module.Node) -> None:
    ran = run(node, "vmadm", "create", stdin=json.dumps(payload(image_uuid="0" * 300)))
    assert (ran.status, ran.err) == (1, "Invalid value(s) for: image_uuid\n")
    ran = run(node, "vmadm", "reprovision", U, stdin=json.dumps({"image_uuid": "0" * 300}))
    assert ran.status == 1
