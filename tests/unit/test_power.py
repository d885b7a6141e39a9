# SPDX-License-Identifier: Apache-2.0
"""Power, every state and brand: what Nova asked for is what the node does, also after its boot."""

import contextlib
import json
import os
import pathlib
import queue
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from nova import exception
from nova.compute import power_state
from nova.virt import event

from nova_smartos.operations import power, watch
from nova_smartos.smartos import errors, node, transport
from nova_smartos.translate import errors as faults
from nova_smartos.translate import state
from tests import emulated, waits

SECONDS = 60
#: Node seconds in a second: a guest that ignores a stop is waited for in vain for a minute.
SPEED = "60"
HVM = ("bhyve", "kvm")
BRANDS = ("joyent", "lx", *HVM)


class Counting:
    """A transport that notes the commands that go through it."""

    def __init__(self, carrier: transport.Transport) -> None:
        self._carrier = carrier
        self.commands: list[str] = []

    def run(self, command: transport.Command) -> transport.Result:
        self.commands.append(" ".join(command.argv))
        return self._carrier.run(command)

    def stream(
        self, command: transport.Command
    ) -> contextlib.AbstractContextManager[transport.Process]:
        return self._carrier.stream(command)

    def close(self) -> None:
        self._carrier.close()


class World:
    """An emulated node, and a watch over it."""

    def __init__(self, emulator: emulated.EmulatedNode, reached: node.Node) -> None:
        self.emulator = emulator
        self.carrier = Counting(reached.transport)
        self.gz = node.Node(self.carrier)
        self.told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.watch = watch.Watch(
            self.gz, lambda old, new: self.told.put((old, new)), ours=lambda vm: True
        )
        self.images: dict[str, str] = {}
        self._numbers = 0

    def create(self, brand: str, **more: Any) -> Any:
        """A VM, and what stands for its instance."""
        self._numbers += 1
        name = f"c0ffee00-0000-4000-8000-{self._numbers:012}"
        payload: dict[str, Any] = {"uuid": name, "brand": brand, "alias": f"vm{self._numbers}"}
        kind = {"lx": "lx", "bhyve": "zvol", "kvm": "zvol"}.get(brand, "zone")
        if kind not in self.images:
            self.images[kind] = self.emulator.image(kind)
        if kind == "zvol":
            disk = {"image_uuid": self.images[kind], "boot": True, "model": "virtio"}
            payload |= {"ram": 256, "vcpus": 1, "disks": [disk]}
        else:
            payload |= {"image_uuid": self.images[kind], "max_physical_memory": 256, "quota": 5}
        if kind == "lx":
            payload["kernel_version"] = "5.10.0"
        self.emulator.tool("vmadm", "create", payload=json.dumps({**payload, **more}))
        wanted = "stopped" if more.get("autoboot") is False else "running"
        instance = types.SimpleNamespace(uuid=name)
        self.settle(instance, wanted)
        return instance

    def delete(self, instance: Any) -> None:
        self.clear()
        self.emulator.tool("vmadm", "delete", instance.uuid)

    def settle(self, instance: Any, shown: str) -> None:
        """Wait until the watch knows the VM in this state."""
        waits.until(lambda: (vm := self.known(instance)) is not None and vm.state == shown)
        with contextlib.suppress(queue.Empty):
            while True:
                self.told.get_nowait()
        self.carrier.commands.clear()

    def known(self, instance: Any) -> Any:
        return self.watch.vms().get(instance.uuid)

    def shown(self, instance: Any) -> dict[str, Any]:
        """The VM as the node shows it."""
        found: dict[str, Any] = json.loads(self.emulator.tool("vmadm", "get", instance.uuid))
        return found

    def is_up(self, instance: Any) -> bool:
        """Whether it runs, or is off, each for good."""
        shown = self.shown(instance)
        assert (shown["state"], shown["autoboot"]) in (("running", True), ("stopped", False))
        return bool(shown["state"] == "running")

    def fault(self, *words: str) -> None:
        self.emulator.command("fault", str(self.emulator.directory), *words)

    def clear(self) -> None:
        self.fault("clear")
        self.fault("guest", "*", "shutdown=normal")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with emulated.EmulatedNode("--speed", SPEED) as emulator:
        made = World(emulator, node.Node.local(tool_path=emulator.tools))
        made.watch.start()
        waits.until(lambda: made.watch.current)
        yield made
        made.watch.stop()


@pytest.fixture(scope="module")
def remote() -> Iterator[World]:
    """A world behind SSH, whose connection can break."""
    with emulated.EmulatedNode("--speed", SPEED, "--ssh", "127.0.0.1:0") as emulator:
        ssh = emulator.facts()["ssh"]
        reached = node.Node.ssh(
            ssh["host"],
            port=ssh["port"],
            user=ssh["user"],
            key_file=ssh["identity"],
            known_hosts_file=ssh["known_hosts"],
            pfexec=False,
        )
        with reached:
            made = World(emulator, reached)
            made.watch.start()
            waits.until(lambda: made.watch.current)
            yield made
            made.watch.stop()


@pytest.fixture(scope="module", params=BRANDS)
def vm(world: World, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A VM of each brand, for the tests that leave it as well as they find it."""
    made = world.create(request.param)
    made.brand = request.param
    yield made
    world.delete(made)


def put(world: World, vm: Any, shown: str) -> None:
    """Bring a VM into a state, by the node's own means."""
    if world.shown(vm)["state"] != shown:
        words = ("start",) if shown == "running" else ("stop", "-F")
        world.emulator.tool("vmadm", *words, vm.uuid)
    world.settle(vm, shown)


@pytest.mark.parametrize("shown", ["running", "stopped"])
@pytest.mark.parametrize(
    ("act", "up"),
    [
        (lambda w, vm: power.start(w.gz, w.watch, vm), True),
        (lambda w, vm: power.stop(w.gz, w.watch, vm), False),
        (lambda w, vm: power.stop(w.gz, w.watch, vm, 60), False),
        (lambda w, vm: power.reboot(w.gz, w.watch, vm, hard=False, seconds=60), True),
        (lambda w, vm: power.reboot(w.gz, w.watch, vm, hard=True, seconds=60), True),
    ],
    ids=["start", "stop-hard", "stop", "reboot", "reboot-hard"],
)
def test_from_every_state(
    world: World, vm: Any, shown: str, act: Callable[[World, Any], None], up: bool
) -> None:
    """Each order brings the VM where it should be, and so it is after the node's boot."""
    put(world, vm, shown)
    act(world, vm)
    assert state.is_running(world.known(vm)) is up
    assert world.is_up(vm) is up
    # Nova did that itself: nobody tells it
    assert not [news for news in drained(world) if state.transition(*news) is not None]


def drained(world: World) -> list[Any]:
    found = []
    with contextlib.suppress(queue.Empty):
        while True:
            found.append(world.told.get(timeout=2 * watch.SETTLE_SECONDS))
    return found


@pytest.mark.parametrize(
    ("shown", "act", "commands"),
    [
        ("stopped", lambda w, vm: power.start(w.gz, w.watch, vm), 1),
        ("running", lambda w, vm: power.start(w.gz, w.watch, vm), 1),
        ("running", lambda w, vm: power.stop(w.gz, w.watch, vm, 60), 1),
        ("running", lambda w, vm: power.stop(w.gz, w.watch, vm), 1),
        # a guest's own shutdown, which Nova answers with a stop
        ("stopped", lambda w, vm: power.stop(w.gz, w.watch, vm, 60), 1),
    ],
)
def test_power_is_one_command(
    world: World, vm: Any, shown: str, act: Callable[[World, Any], None], commands: int
) -> None:
    put(world, vm, shown)
    act(world, vm)
    assert len(world.carrier.commands) == commands, world.carrier.commands


def test_a_zone_reboots_in_one_go(world: World) -> None:
    """It never shows as stopped, and not one command more than needed runs."""
    vm = world.create("joyent-minimal")
    before = world.known(vm).zoneid
    power.reboot(world.gz, world.watch, vm, hard=False, seconds=60)
    assert world.carrier.commands == [f"vmadm reboot {vm.uuid}"]
    assert world.shown(vm)["zoneid"] != before
    world.delete(vm)


def test_a_reboot_that_ended_half_way_is_mended_by_the_next(world: World) -> None:
    """It was killed after its stop, after which no VM comes up with its node."""
    vm = world.create("joyent-minimal")
    world.emulator.tool("vmadm", "update", vm.uuid, "autoboot=false")
    waits.until(lambda: not world.known(vm).autoboot)
    power.reboot(world.gz, world.watch, vm, hard=False, seconds=60)
    assert world.is_up(vm)
    world.delete(vm)


@pytest.mark.parametrize("brand", ["joyent-minimal", "bhyve", "kvm"])
def test_a_guest_that_ignores_it(world: World, brand: str) -> None:
    """A soft reboot and a stop end nevertheless, and in the time that the user gave an HVM."""
    vm = world.create(brand)
    world.fault("guest", vm.uuid, "shutdown=ignore")
    before = world.known(vm).zoneid
    power.reboot(world.gz, world.watch, vm, hard=False, seconds=20)
    assert world.is_up(vm)
    assert world.shown(vm)["zoneid"] != before
    began = time.monotonic()
    power.stop(world.gz, world.watch, vm, 20)
    assert not world.is_up(vm)
    if brand in HVM:
        assert time.monotonic() - began < 60 / float(SPEED) + 5
    world.delete(vm)


def test_a_guest_that_shut_itself_down_stays_down(world: World, vm: Any) -> None:
    """The node would start it at its next boot: Nova's answer to the event keeps it in step."""
    if vm.brand in HVM:
        pytest.skip("no program of the emulated node's runs in it")
    put(world, vm, "running")
    world.emulator.tool("zlogin", vm.uuid, "shutdown", "-y", "-g", "0", "-i", "5")
    told = iter(lambda: world.told.get(timeout=SECONDS), None)
    found = next(each for news in told if (each := state.transition(*news)) is not None)
    assert found == event.EVENT_LIFECYCLE_STOPPED
    assert world.shown(vm)["autoboot"] is True
    power.stop(world.gz, world.watch, vm, 60)
    assert not world.is_up(vm)


def test_it_comes_up_with_the_node_as_nova_has_it(world: World) -> None:
    on, off = world.create("joyent-minimal"), world.create("joyent-minimal")
    power.stop(world.gz, world.watch, off)
    world.emulator.command("reboot", str(world.emulator.directory))
    waits.until(lambda: world.watch.current)
    waits.until(lambda: world.shown(on)["state"] == "running")
    assert not world.is_up(off)
    for each in (on, off):
        world.delete(each)


def test_a_node_that_boots_brings_it_up_after_a_stop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nova knows it as running, and the node is up again so far that there is nothing to stop."""
    vm = world.create("joyent-minimal")
    seen = [world.known(vm)]
    world.emulator.tool("vmadm", "stop", vm.uuid, "-F")
    world.settle(vm, "stopped")
    get = world.watch.get

    def looked_at(uuid: str, **more: Any) -> Any:
        if len(seen) == 1:
            seen.append(get(uuid, **more))
            return seen[0]
        if len(seen) == 2:
            seen.append(get(uuid, **more))
            world.emulator.tool("vmadm", "start", vm.uuid)
            return seen[2]
        return get(uuid, **more)

    monkeypatch.setattr(world.watch, "get", looked_at)
    power.stop(world.gz, world.watch, vm, 60)
    assert [each.state for each in seen] == ["running", "stopped", "stopped"]
    assert not world.is_up(vm)
    world.delete(vm)


def test_a_vm_that_runs_without_autoboot_gets_it(world: World) -> None:
    vm = world.create("joyent-minimal")
    world.emulator.tool("vmadm", "update", vm.uuid, payload=json.dumps({"autoboot": False}))
    waits.until(lambda: world.known(vm).autoboot is False)
    power.start(world.gz, world.watch, vm)
    assert world.is_up(vm)
    world.delete(vm)


def test_a_failed_vm(world: World) -> None:
    """It is off, and nothing but a rebuild or a delete helps: said, not kept still."""
    vm = world.create("joyent-minimal", autoboot=False)
    world.fault("guest", vm.uuid, "provision=never")
    payload = {"image_uuid": world.images["zone"]}
    with pytest.raises(AssertionError, match="timed out|timeout"):
        world.emulator.tool("vmadm", "reprovision", vm.uuid, payload=json.dumps(payload))
    if world.shown(vm)["state"] != "failed":
        pytest.skip("a reprovision that is given up leaves another state")
    world.settle(vm, "failed")
    power.stop(world.gz, world.watch, vm, 60)
    power.stop(world.gz, world.watch, vm)
    with pytest.raises(exception.InstancePowerOnFailure, match="failed"):
        power.start(world.gz, world.watch, vm)
    with pytest.raises(exception.InstanceRebootFailure, match="failed"):
        power.reboot(world.gz, world.watch, vm, hard=True, seconds=60)
    world.delete(vm)


@pytest.mark.parametrize("hard", [True, False])
def test_a_start_meets_a_shutdown(world: World, hard: bool) -> None:
    """The guest is on its way down: it is waited for, then started."""
    vm = world.create("joyent-minimal")
    words = ("vmadm", "stop", vm.uuid, *(["-F"] if hard else []))
    earlier = threading.Thread(target=world.emulator.tool, args=words)
    earlier.start()
    waits.until(lambda: world.known(vm).state in ("shutting_down", "down", "stopped"))
    power.start(world.gz, world.watch, vm)
    earlier.join(SECONDS)
    waits.until(lambda: world.shown(vm)["state"] == "running")
    world.delete(vm)


@pytest.mark.parametrize("kind", ["die-after", "die-before", "fail"])
@pytest.mark.parametrize(
    ("verb", "shown", "act", "up"),
    [
        ("start", "stopped", lambda w, vm: power.start(w.gz, w.watch, vm), True),
        ("stop", "running", lambda w, vm: power.stop(w.gz, w.watch, vm, 60), False),
        ("stop", "running", lambda w, vm: power.stop(w.gz, w.watch, vm), False),
    ],
    ids=["start", "stop", "stop-hard"],
)
def test_a_command_that_fails(
    world: World,
    kind: str,
    verb: str,
    shown: str,
    act: Callable[[World, Any], None],
    up: bool,
) -> None:
    """It counts only when the VM is not where it was to be brought; trying again helps."""
    vm = world.create("joyent-minimal", autoboot=shown == "running")
    world.fault("add", "vmadm", kind, "--match", f"^{verb} ", "--count", "1")
    if kind == "die-after":
        act(world, vm)
    else:
        with pytest.raises(errors.ToolError):
            act(world, vm)
        assert world.is_up(vm) is not up
        act(world, vm)
    assert world.is_up(vm) is up
    world.delete(vm)


@pytest.mark.parametrize("kind", ["lose-after", "lose-before"])
@pytest.mark.parametrize(
    ("verb", "shown", "act", "up"),
    [
        ("start", "stopped", lambda w, vm: power.start(w.gz, w.watch, vm), True),
        ("stop", "running", lambda w, vm: power.stop(w.gz, w.watch, vm, 60), False),
        (
            "reboot",
            "running",
            lambda w, vm: power.reboot(w.gz, w.watch, vm, hard=False, seconds=60),
            True,
        ),
    ],
    ids=["start", "stop", "reboot"],
)
def test_a_connection_that_breaks(
    remote: World,
    kind: str,
    verb: str,
    shown: str,
    act: Callable[[World, Any], None],
    up: bool,
) -> None:
    """What became of the command is looked up; one that did not run is not waited for."""
    vm = remote.create("joyent-minimal", autoboot=shown == "running")
    before = remote.known(vm).zoneid
    remote.fault("add", "vmadm", kind, "--match", f"^{verb} ", "--count", "1")
    began = time.monotonic()
    if kind == "lose-after":
        act(remote, vm)
    else:
        with pytest.raises(errors.OutcomeUnknown):
            act(remote, vm)
        assert remote.shown(vm)["state"] == shown
        assert time.monotonic() - began < SECONDS / 2
        act(remote, vm)
    assert remote.is_up(vm) is up
    assert remote.shown(vm)["zoneid"] != before
    remote.delete(vm)


def test_a_command_that_goes_on_without_us(remote: World) -> None:
    """The connection breaks while the guest is still on its way down: its end is awaited."""
    vm = remote.create("joyent-minimal")
    remote.fault("guest", vm.uuid, "shutdown_seconds=50")
    earlier = threading.Thread(target=remote.emulator.tool, args=("vmadm", "stop", vm.uuid))
    earlier.start()
    waits.until(lambda: any(each.changes for each in remote.gz.ps.list()))
    remote.fault("add", "vmadm", "lose-before", "--match", "^stop ", "--count", "1")
    power.stop(remote.gz, remote.watch, vm, 60)
    earlier.join(SECONDS)
    assert not remote.is_up(vm)
    remote.delete(vm)


def test_a_node_that_cannot_be_asked(world: World) -> None:
    vm = world.create("joyent-minimal")
    world.fault("vminfod", "down")
    waits.until(lambda: not world.watch.current)
    for act in (power.start, power.stop):
        with pytest.raises(errors.SmartOSError, match="ECONNREFUSED|hang up"):
            act(world.gz, world.watch, vm)
    with pytest.raises(errors.SmartOSError):
        power.info(world.gz, world.watch, vm.uuid, fresh=True)
    world.fault("vminfod", "up")
    waits.until(lambda: world.watch.current)
    assert world.is_up(vm)
    world.delete(vm)


@pytest.mark.parametrize("act", [power.start, power.stop])
def test_a_vm_that_is_not_there(world: World, act: Callable[..., None]) -> None:
    with pytest.raises(errors.NotFound):
        act(
            world.gz,
            world.watch,
            types.SimpleNamespace(uuid="0" * 8 + "-0000-4000-8000-" + "0" * 12),
        )


# What few brands can


def is_paused(world: World, vm: Any, *, fresh: bool = True) -> bool:
    shown = power.info(world.gz, world.watch, vm.uuid, fresh=fresh).state
    assert shown in (power_state.RUNNING, power_state.PAUSED)
    return bool(shown == power_state.PAUSED)


@pytest.fixture
def kvm(world: World) -> Iterator[Any]:
    made = world.create("kvm")
    yield made
    world.delete(made)


def test_a_kvm_stands_still(world: World, kvm: Any) -> None:
    assert not is_paused(world, kvm)
    for _ in range(2):
        power.pause(world.gz, world.watch, kvm)
        assert is_paused(world, kvm)
        assert is_paused(world, kvm, fresh=False)
    for _ in range(2):
        power.unpause(world.gz, world.watch, kvm)
        assert not is_paused(world, kvm)


def test_that_it_stands_still_is_learnt_from_the_node(world: World, kvm: Any) -> None:
    """As after a restart of nova-compute."""
    power.pause(world.gz, world.watch, kvm)
    world.watch.note_paused(kvm.uuid, False)
    assert is_paused(world, kvm)
    assert is_paused(world, kvm, fresh=False)


@pytest.mark.parametrize("hard", [True, False])
def test_a_paused_kvm_reboots(world: World, kvm: Any, hard: bool) -> None:
    power.pause(world.gz, world.watch, kvm)
    power.reboot(world.gz, world.watch, kvm, hard=hard, seconds=10)
    assert world.is_up(kvm)
    assert not is_paused(world, kvm)
    assert not is_paused(world, kvm, fresh=False)


def test_a_paused_kvm_stops(world: World, kvm: Any) -> None:
    power.pause(world.gz, world.watch, kvm)
    power.stop(world.gz, world.watch, kvm, 10)
    assert not world.is_up(kvm)
    with pytest.raises(exception.InstanceNotRunning):
        power.unpause(world.gz, world.watch, kvm)


def test_a_pause_whose_answer_is_lost(world: World, kvm: Any) -> None:
    world.fault("add", "nc", "die-after", "--count", "1")
    power.pause(world.gz, world.watch, kvm)
    assert is_paused(world, kvm)


def test_a_pause_that_failed(world: World, kvm: Any) -> None:
    world.fault("add", "nc", "die-before", "--count", "1")
    with pytest.raises(errors.ToolError):
        power.pause(world.gz, world.watch, kvm)
    assert not is_paused(world, kvm)


@pytest.mark.parametrize("where", ["vm.qmp", "tmp"])
def test_a_link_in_the_place_of_the_monitor(world: World, kvm: Any, where: str) -> None:
    """A guest that broke out of QEMU must not reach another's monitor through us."""
    other = world.create("kvm")
    top = pathlib.Path(world.emulator.directory) / "root" / "zones"
    mine, victim = top / kvm.uuid / "root/tmp", top / other.uuid / "root/tmp"
    if where == "tmp":
        os.rename(mine, mine.with_name("aside"))
        os.symlink(f"/zones/{other.uuid}/root/tmp", mine)
    else:
        os.unlink(mine / "vm.qmp")
        os.symlink(f"/zones/{other.uuid}/root/tmp/vm.qmp", mine / "vm.qmp")
    assert (victim / "vm.qmp").exists()
    with pytest.raises(errors.ToolError, match="something else"):
        power.pause(world.gz, world.watch, kvm)
    assert not is_paused(world, other)
    os.unlink(mine if where == "tmp" else mine / "vm.qmp")
    world.delete(other)


@pytest.mark.parametrize("act", [power.pause, power.unpause])
def test_other_brands_cannot_stand_still(world: World, vm: Any, act: Callable[..., None]) -> None:
    if vm.brand == "kvm":
        pytest.skip("kvm can")
    put(world, vm, "running")
    with pytest.raises(faults.Refused, match=vm.brand):
        act(world.gz, world.watch, vm)
    assert world.carrier.commands == []


def test_a_crash_dump(world: World, vm: Any) -> None:
    put(world, vm, "running")
    if vm.brand in HVM:
        power.crash_dump(world.gz, world.watch, vm)
        assert world.carrier.commands == [f"vmadm sysrq {vm.uuid} nmi"]
        put(world, vm, "stopped")
        with pytest.raises(exception.InstanceNotRunning):
            power.crash_dump(world.gz, world.watch, vm)
    else:
        with pytest.raises(faults.Refused, match="no kernel of its own"):
            power.crash_dump(world.gz, world.watch, vm)
        assert world.carrier.commands == []
