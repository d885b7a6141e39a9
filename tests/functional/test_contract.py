# SPDX-License-Identifier: Apache-2.0
"""What Nova makes of an answer of the driver's, and what a driver must therefore not answer.

Nova's own code stands behind each: a fault that means "this instance is gone", or "nothing has been
done yet", leaves a server in a state that is not true when it is used for anything else.
"""

import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults import operations
from tests.faults import transport as faulty
from tests.faults import world as worlds

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nova import exception
    from nova.compute import power_state, task_states, vm_states

from nova_smartos.operations import rescue
from nova_smartos.translate import identity

pytestmark = worlds.QUIET


@pytest.fixture(scope="module")
def world() -> Iterator[worlds.World]:
    with worlds.world() as found:
        yield found


@pytest.fixture(autouse=True)
def _anew(world: worlds.World) -> Iterator[None]:
    yield
    world.anew()


def launched(world: worlds.World, kind: str = "zone", **more: Any) -> worlds.Server:
    server = world.server(kind, **more)
    operations.launch(world, server)
    return server


def shown(world: worlds.World, uuid: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.node.tool("vmadm", "get", uuid))
    return found


def macs(vm: dict[str, Any]) -> list[str]:
    return [nic["mac"] for nic in vm["nics"]]


def spoilt(world: worlds.World, command: str, kind: faulty.Kind, number: int = 1) -> Any:
    return world.transport.operating(faulty.Fault(faulty.Step(command, number), kind))


# a launch


def test_the_mark_names_the_host_that_makes_the_vm(world: worlds.World) -> None:
    """Nova writes an evacuated instance's new host down only when the VM is there."""
    server = world.server("zone")
    server.instance.host = "compute9"
    operations.spawn(world, server)
    assert server.instance.uuid in world.driver.list_instance_uuids()


def test_a_vm_that_vanishes_in_its_launch_is_no_deleted_instance(
    world: worlds.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For InstanceNotFound Nova lets the server stay in BUILD for ever, without a fault."""
    server = world.server("disk", drive=True)
    write = type(world.driver._node.files).write_volume

    def vanish(self: Any, *arguments: Any) -> None:
        write(self, *arguments)
        world.node.tool("vmadm", "delete", server.instance.uuid)

    monkeypatch.setattr(type(world.driver._node.files), "write_volume", vanish)
    with pytest.raises(exception.NovaException) as caught:
        operations.spawn(world, server)
    assert not isinstance(caught.value, exception.InstanceNotFound)
    assert "Unable to start VM" in str(caught.value)


def test_a_rebuild_without_room_is_not_taken_back(world: worlds.World) -> None:
    """For ComputeResourcesUnavailable Nova says that the server, which is gone, is as it was."""
    server = launched(world)
    operations.destroy(world, server)
    server.instance.task_state = task_states.REBUILD_SPAWNING
    world.act_on_node("full")
    with pytest.raises(exception.NovaException) as caught:
        operations.spawn(world, server)
    assert not isinstance(caught.value, exception.ComputeResourcesUnavailable)
    assert "space" in str(caught.value)
    server.instance.task_state = None
    with pytest.raises(exception.ComputeResourcesUnavailable):
        operations.spawn(world, server)


def test_a_rebuild_of_what_is_not_there_says_so(world: worlds.World) -> None:
    """For InstanceNotFound Nova ends a rebuild without a word, and the server rebuilds for ever."""
    server = world.server("zone")
    with pytest.raises(exception.NovaException) as caught:
        operations.rebuild_preserving(world, server)
    assert not isinstance(caught.value, exception.InstanceNotFound)


def test_a_rebuild_that_was_lost_on_its_way_has_not_happened(world: worlds.World) -> None:
    """That the VM is of the wanted image proves nothing when it was before."""
    server = launched(world)
    world.node.tool("zlogin", server.instance.uuid, "echo old > /etc/motd")
    with (
        spoilt(world, "vmadm reprovision", faulty.Kind.HANGS),
        pytest.raises(exception.HypervisorUnavailable),
    ):
        operations.rebuild_preserving(world, server)
    assert world.node.tool("zlogin", server.instance.uuid, "cat /etc/motd").strip() == "old"
    server.instance.task_state = None
    with spoilt(world, "vmadm reprovision", faulty.Kind.HANGS_AFTER):
        operations.rebuild_preserving(world, server)
    assert world.transport.fired
    assert world.node.tool("zlogin", server.instance.uuid, "cat /etc/motd").strip() != "old"


def test_a_root_that_is_replaced_is_as_large_as_before(world: worlds.World) -> None:
    """vmadm makes bhyve's new root as small as its image, and reserves nothing for it."""
    server = launched(world, "disk")
    (before,) = shown(world, server.instance.uuid)["disks"]
    operations.rebuild_preserving(world, server)
    after = shown(world, server.instance.uuid)
    assert (after["state"], after["autoboot"]) == ("running", True)
    (root,) = after["disks"]
    sizes = {name: root[name] for name in ("size", "refreservation")}
    assert sizes == {name: before[name] for name in sizes}
    # an attempt that ends half-way keeps nobody from another one
    with (
        spoilt(world, "zfs set", faulty.Kind.HANGS),
        pytest.raises(exception.HypervisorUnavailable),
    ):
        operations.rebuild_preserving(world, server)
    (root,) = shown(world, server.instance.uuid)["disks"]
    assert root["size"] < sizes["size"]
    server.instance.task_state = None
    operations.rebuild_preserving(world, server)
    after = shown(world, server.instance.uuid)
    assert after["state"] == "running"
    assert {name: after["disks"][0][name] for name in sizes} == sizes


def test_an_undo_leaves_a_vm_that_is_none_of_novas(world: worlds.World) -> None:
    server = world.server("zone", drive=True)
    zone = {"brand": "joyent", "uuid": server.instance.uuid, "quota": 5, "alias": "operators"}
    zone |= {"image_uuid": world.node.image("zone"), "max_physical_memory": 128}
    world.node.tool("vmadm", "create", payload=json.dumps(zone))
    with spoilt(world, "gtar", faulty.Kind.FAILS), pytest.raises(exception.NovaException):
        operations.spawn(world, server)
    assert shown(world, server.instance.uuid)["state"] == "running"


# an end


@pytest.mark.parametrize("kind", [faulty.Kind.FAILS, faulty.Kind.REFUSED])
def test_a_vm_that_may_still_run_keeps_its_addresses(
    world: worlds.World, kind: faulty.Kind
) -> None:
    """Nova releases the ports of a server whose deletion fails, but for one exception."""
    server = launched(world)
    with (
        spoilt(world, "vmadm delete", kind),
        pytest.raises(exception.InstancePowerOffFailure, match=faulty.MARK),
    ):
        operations.destroy(world, server)
    assert shown(world, server.instance.uuid)["state"] == "running"


def test_what_is_held_against_accidents_is_deleted_all_the_same(world: worlds.World) -> None:
    flags = {"indestructible_zoneroot", "indestructible_delegated", "delegate_dataset"}
    server = launched(world, specs={f"smartos:{flag}": "true" for flag in flags})
    assert shown(world, server.instance.uuid)["indestructible_zoneroot"]
    operations.destroy(world, server)
    assert world.tidy() == []


def test_a_deletion_that_broke_off_leaves_no_folder(world: worlds.World) -> None:
    server = launched(world, drive=True)
    with spoilt(world, "rm", faulty.Kind.REFUSED), pytest.raises(exception.NovaException):
        operations.destroy(world, server)
    assert world.tidy() != []
    operations.destroy(world, server)
    assert world.tidy() == []


# a rescue


def test_a_rescue_of_an_indestructible_zone_ends(world: worlds.World) -> None:
    server = launched(world, specs={"smartos:indestructible_zoneroot": "true"})
    operations.rescue(world, server)
    operations.unrescue(world, server)
    assert rescue.stand_in(server.instance.uuid) not in {vm.uuid for vm in world.observed().vms}
    assert shown(world, server.instance.uuid)["state"] == "running"
    operations.destroy(world, server)
    assert world.tidy() == []


def test_unrescue_gives_back_what_the_flavor_gives_to_a_nic(world: worlds.World) -> None:
    server = launched(world, specs={"smartos:allow_ip_spoofing": "true"})
    before = shown(world, server.instance.uuid)["nics"]
    operations.rescue(world, server)
    operations.unrescue(world, server)
    assert shown(world, server.instance.uuid)["nics"] == before


@pytest.mark.parametrize("kind", ["zone", "disk"])
def test_a_rescued_server_that_is_deleted_softly_stops_and_comes_back_whole(
    world: worlds.World, kind: str
) -> None:
    server = launched(world, kind)
    before = shown(world, server.instance.uuid)
    operations.rescue(world, server)
    world.driver.soft_delete(server.instance)
    server.instance.vm_state = vm_states.SOFT_DELETED
    running = {vm.uuid for vm in world.observed().vms if vm.state == "running"}
    assert not running & {server.instance.uuid, rescue.stand_in(server.instance.uuid)}
    assert world.driver.get_info(server.instance).state == power_state.SHUTDOWN

    world.driver.restore(server.instance)
    after = shown(world, server.instance.uuid)
    assert after["state"] == "running"
    assert after["nics"] == before["nics"]
    assert after.get("disks") == before.get("disks")


@pytest.mark.parametrize("kind", ["zone", "disk"])
def test_a_rescue_that_broke_off_is_over_when_the_server_is_stopped_and_started(
    world: worlds.World, kind: str
) -> None:
    server = launched(world, kind)
    before = shown(world, server.instance.uuid)
    command, number = ("vmadm create", 1) if kind == "zone" else ("vmadm start", 1)
    with (
        spoilt(world, command, faulty.Kind.KILLED_AFTER, number),
        pytest.raises(faulty.Killed),
    ):
        operations.rescue(world, server)
    operations.restart(world, server)
    server.instance.vm_state = vm_states.ERROR
    operations.stop(world, server)
    operations.start(world, server)
    after = shown(world, server.instance.uuid)
    assert (after["state"], macs(after)) == ("running", macs(before))
    assert after.get("disks") == before.get("disks")
    assert rescue.stand_in(server.instance.uuid) not in {vm.uuid for vm in world.observed().vms}


def test_a_rescued_zone_that_comes_up_with_the_node_is_its_stand_in(world: worlds.World) -> None:
    server = launched(world)
    operations.rescue(world, server)
    other = rescue.stand_in(server.instance.uuid)
    world.node.tool("vmadm", "stop", "-F", other)
    world.driver.resume_state_on_host_boot(world.context, server.instance, server.network, None)
    assert shown(world, other)["state"] == "running"
    assert world.driver.get_instance_diagnostics(server.instance).state == "running"
    assert shown(world, server.instance.uuid)["state"] == "stopped"


def test_a_port_that_is_deleted_in_rescue_leaves_the_stand_in(world: worlds.World) -> None:
    """Neutron gives its address to somebody else."""
    server = launched(world, ports=2)
    operations.rescue(world, server)
    gone = server.network[-1]["address"]
    operations.detach(world, server)
    assert gone not in macs(shown(world, rescue.stand_in(server.instance.uuid)))


@pytest.mark.parametrize("step", [2, 3])
def test_a_rescue_that_fails_leaves_a_machine_with_its_own_disk_first(
    world: worlds.World, step: int
) -> None:
    server = launched(world, "disk")
    before = shown(world, server.instance.uuid)
    with (
        spoilt(world, "vmadm update", faulty.Kind.FAILS, step),
        pytest.raises(exception.NovaException, match=faulty.MARK),
    ):
        operations.rescue(world, server)
    assert world.transport.fired
    after = shown(world, server.instance.uuid)
    assert after["disks"] == before["disks"]
    assert after["internal_metadata"] == before["internal_metadata"]


def test_a_second_rescue_sees_what_the_first_has_left(world: worlds.World) -> None:
    """What a command of ours has just changed is asked of the node, not remembered."""
    server = launched(world, "disk")
    before = shown(world, server.instance.uuid)
    with (
        spoilt(world, "vmadm start", faulty.Kind.KILLED),
        pytest.raises(faulty.Killed),
    ):
        operations.rescue(world, server)
    operations.restart(world, server)
    operations.rescue(world, server)
    assert len(shown(world, server.instance.uuid)["disks"]) == len(before["disks"]) + 1
    operations.unrescue(world, server)
    assert shown(world, server.instance.uuid)["disks"] == before["disks"]


def test_a_rebuild_that_keeps_data_ends_a_rescue_first(world: worlds.World) -> None:
    server = launched(world, "disk")
    before = shown(world, server.instance.uuid)
    operations.rescue(world, server)
    server.instance.vm_state = vm_states.ERROR
    operations.rebuild_preserving(world, server)
    after = shown(world, server.instance.uuid)
    assert [disk["path"] for disk in after["disks"]] == [disk["path"] for disk in before["disks"]]
    assert identity.RESCUED not in after["internal_metadata"]
    assert after["state"] == "running"


# what is known


def test_a_fresh_answer_holds_what_was_changed_after_the_stream_confirmed_a_stop(
    world: worlds.World,
) -> None:
    server = launched(world)
    operations.stop(world, server)
    watch = world.driver._watch
    before = watch.get(server.instance.uuid)
    world.node.tool("vmadm", "update", server.instance.uuid, payload='{"alias": "nst-other"}')
    with watch._lock:
        # the stream has not told of it yet
        watch._vms[server.instance.uuid] = before
    assert watch.get(server.instance.uuid, fresh=True).alias == "nst-other"
