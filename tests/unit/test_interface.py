# SPDX-License-Identifier: Apache-2.0
"""The nics of VMs on an emulated node, and the wait for Neutron by Nova's own means."""

import dataclasses
import json
import pathlib
import threading
import time
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import nova.conf
import pytest
from hypothesis import given, settings
from nova import exception, objects
from nova.compute import manager
from nova.network import model
from nova.objects import external_event
from nova.objects import instance as instances

from nova_smartos.operations import interface, watch
from nova_smartos.smartos import errors, node, spans, transport, vms
from nova_smartos.translate import nic, specs
from tests import emulated, traces, waits
from tests.unit import test_nic
from tests.unit.test_nic import TAGS, made, one, subnet, vif

CONF = nova.conf.CONF
objects.register_all()
SECONDS = 60
BRANDS = ["joyent", "lx", "bhyve", "kvm"]


# A node


class Spoiled:
    """A transport that keeps count, and spoils what a test wants spoiled.

    `spoil` answers a command before it runs with an error to raise then, or with a function that
    makes something else of the answer.
    """

    def __init__(self, inner: transport.Transport) -> None:
        self.inner = inner
        self.commands: list[str] = []
        self.spoil: Callable[[transport.Command], Any] = lambda command: None

    def run(self, command: transport.Command) -> transport.Result:
        self.commands.append(" ".join(command.argv[:2]))
        how = self.spoil(command)
        if isinstance(how, Exception):
            raise how
        result = self.inner.run(command)
        return how(result) if how else result

    def stream(self, command: transport.Command) -> Any:
        return self.inner.stream(command)

    def close(self) -> None:
        self.inner.close()


def raising(error: Exception) -> Callable[[transport.Result], transport.Result]:
    """For an error that comes after the command has had its effect."""

    def after(result: transport.Result) -> transport.Result:
        raise error

    return after


def failing(result: transport.Result) -> transport.Result:
    return dataclasses.replace(result, returncode=1, stderr="Command failed: out of luck\n")


@pytest.fixture(scope="module")
def emulator() -> Iterator[emulated.EmulatedNode]:
    with emulated.EmulatedNode("--speed", "40", "--nic-tag", "external") as made:
        yield made


@pytest.fixture(scope="module")
def images(emulator: emulated.EmulatedNode) -> dict[str, str]:
    return {"joyent": emulator.image("zone"), "lx": emulator.image("lx")}


@pytest.fixture
def spoiled(emulator: emulated.EmulatedNode) -> Spoiled:
    return Spoiled(transport.Local(tool_path=emulator.tools))


@pytest.fixture
def gz(spoiled: Spoiled) -> node.Node:
    return node.Node(spoiled)


@pytest.fixture
def known(gz: node.Node) -> Iterator[watch.Watch]:
    """A watch that has heard of all VMs."""
    found = watch.Watch(gz, lambda old, new: None, ours=lambda vm: False)
    found.start()
    waits.until(lambda: found.current)
    yield found
    found.stop()


@pytest.fixture
def create(
    gz: node.Node, images: dict[str, str], known: watch.Watch
) -> Iterator[Callable[..., instances.Instance]]:
    """A function that makes a VM for an instance; all of them go after the test."""
    uuids: list[str] = []

    def make(
        network: nic.Network, brand: str = "joyent", *, running: bool = False
    ) -> instances.Instance:
        uuids.append(str(uuid.uuid4()))
        gz.vmadm.create(payload(network, brand, images) | {"uuid": uuids[-1], "autoboot": running})
        state = vms.State.RUNNING if running else vms.State.STOPPED
        # detaching asks the watch whether it runs
        there = known.wait(uuids[-1], lambda vm: vm is not None and vm.state == state, SECONDS)
        assert there is not None and there.state == state
        return instances.Instance(uuid=uuids[-1])

    yield make
    for each in uuids:
        gz.vmadm.delete(each)


def payload(network: nic.Network, brand: str, images: dict[str, str]) -> dict[str, Any]:
    document = {
        "brand": brand,
        "nics": network.nics,
        "resolvers": network.resolvers,
        "routes": network.routes,
    }
    if brand in vms.HVM_BRANDS:
        return document | {"ram": 256, "vcpus": 1}
    kernel = {"kernel_version": "5.10.0"} if brand == "lx" else {}
    return document | kernel | {"image_uuid": images[brand], "max_physical_memory": 256}


def links(emulator: emulated.EmulatedNode, instance: instances.Instance) -> dict[str, list[str]]:
    """What each vnic of a running zone may send from, by its name."""
    zone = ("-z", instance.uuid)
    names = emulator.tool("dladm", "show-vnic", *zone, "-p", "-o", "link").split()
    words = ("show-linkprop", *zone, "-c", "-o", "value", "-p", "allowed-ips")
    return {name: emulator.tool("dladm", *words, name).strip().split(",") for name in names}


def sharing(*values: Any) -> specs.Specs:
    """What a flavor asks for: nothing, unless named."""
    return specs.Specs("joyent", dict(*values))


def port(number: int, **more: Any) -> model.VIF:
    """A port on a network of its own, with a router, a name server and a route."""
    return vif(
        subnet(
            f"10.{number}.0.0/24",
            f"10.{number}.0.5",
            gateway=f"10.{number}.0.1",
            dns=(f"10.{number}.0.53",),
            routes=((f"10.{100 + number}.0.0/16", f"10.{number}.0.9"),),
        ),
        number=number,
        **more,
    )


# What vmadm says of translated networks


@settings(max_examples=20, deadline=None)
@given(test_nic.networks())
def test_vmadm_takes_any_network_whole(
    emulator: emulated.EmulatedNode, images: dict[str, str], ports: list[model.VIF]
) -> None:
    tools = node.Node.local(tool_path=emulator.tools).vmadm
    for brand in BRANDS:
        document = payload(made(*ports, brand=brand), brand, images)
        assert tools.validate("create", document).valid, document


@pytest.mark.parametrize("brand", BRANDS)
@pytest.mark.parametrize("count", [0, 1, 32])
def test_a_vm_has_the_network_that_it_was_made_with(
    gz: node.Node, create: Callable[..., instances.Instance], brand: str, count: int
) -> None:
    pairs = [{"ip_address": "10.200.0.0/16", "mac_address": "02:00:00:00:00:01"}]
    details = {"vlan": 7, "allowed_address_pairs": pairs}
    network = made(*[port(n, details=details) for n in range(1, count + 1)], brand=brand)
    vm = gz.vmadm.get(create(network, brand).uuid)
    assert len(vm.nics) == count
    assert nic.differences(vm, network) is None


@pytest.mark.parametrize("brand", BRANDS)
def test_a_vm_is_given_the_network_that_nova_has(
    gz: node.Node, known: watch.Watch, create: Callable[..., instances.Instance], brand: str
) -> None:
    open_ = {"port_security_enabled": False, "vlan": 7}
    pair = {"allowed_address_pairs": [{"ip_address": "10.200.0.7"}]}
    steps = [
        [port(1), port(2, details=open_), port(3, details=pair)],
        [port(2), port(4, mtu=9000), port(3)],
        [port(3, details=pair), port(2, details=open_)],
        [port(5)],
    ]
    networks = [made(*each, brand=brand) for each in steps]
    instance = create(networks[0], brand)
    for network in networks:
        interface.repair(gz, known, instance, network)
        vm = known.get(instance.uuid, fresh=True)
        assert nic.differences(vm, network) is None
        assert [each.primary for each in vm.nics].count(True) == 1


def test_a_vm_keeps_its_nics_when_nova_knows_of_no_port_at_all(
    gz: node.Node, known: watch.Watch, create: Callable[..., instances.Instance]
) -> None:
    instance = create(made(port(1)))
    interface.repair(gz, known, instance, nic.Network())
    assert len(gz.vmadm.get(instance.uuid).nics) == 1


def test_a_network_that_is_right_costs_no_command(
    gz: node.Node, known: watch.Watch, create: Callable[..., instances.Instance], spoiled: Spoiled
) -> None:
    instance = create(made(port(1)))
    spoiled.commands.clear()
    interface.repair(gz, known, instance, made(port(1)))
    assert spoiled.commands == []


# Attach


@pytest.fixture
def attach(gz: node.Node, known: watch.Watch) -> Callable[..., None]:
    def attach(instance: instances.Instance, added: model.VIF, **more: Any) -> None:
        given = {"wanted": sharing(), "nic_tags": TAGS}
        interface.attach(gz, known, instance, added, **given | more)

    return attach


@pytest.fixture
def detach(gz: node.Node, known: watch.Watch) -> Callable[..., None]:
    def detach(instance: instances.Instance, gone: model.VIF, *others: model.VIF) -> None:
        interface.detach(gz, known, instance, gone, list(others))

    return detach


def test_a_nic_is_attached_by_one_command_and_at_most_one_look(
    gz: node.Node,
    create: Callable[..., instances.Instance],
    attach: Callable[..., None],
    spoiled: Spoiled,
) -> None:
    instance = create(made(port(1)))
    spoiled.commands.clear()
    attach(instance, port(2))
    assert spoiled.commands in (["vmadm update"], ["vmadm update", "vmadm get"])
    assert nic.differences(gz.vmadm.get(instance.uuid), made(port(1), port(2))) is None
    # a second request for the same is no second nic
    spoiled.commands.clear()
    attach(instance, port(2))
    assert spoiled.commands == []


def test_the_guest_has_an_attached_nic_after_its_next_boot(
    gz: node.Node,
    create: Callable[..., instances.Instance],
    attach: Callable[..., None],
    emulator: emulated.EmulatedNode,
) -> None:
    instance = create(made(port(1)), running=True)
    attach(instance, port(2))
    assert links(emulator, instance) == {"net0": ["10.1.0.5"]}
    gz.vmadm.reboot(instance.uuid, force=True)
    waits.until(lambda: len(links(emulator, instance)) == 2)
    assert links(emulator, instance) == {"net0": ["10.1.0.5"], "net1": ["10.2.0.5"]}


def test_the_flavor_gives_to_an_attached_nic_what_it_gives_to_all(
    gz: node.Node, create: Callable[..., instances.Instance], attach: Callable[..., None]
) -> None:
    zone = create(made(port(1)))
    attach(zone, port(2), wanted=sharing({"allow_ip_spoofing": True}))
    assert [each.allow_ip_spoofing for each in gz.vmadm.get(zone.uuid).nics] == [False, True]
    machine = create(nic.Network(), "bhyve")
    attach(machine, port(3), wanted=specs.Specs("bhyve", {"nic_model": "e1000"}))
    shown = gz.vmadm.get(machine.uuid).nics[0]
    assert (shown.model, shown.primary) == ("e1000", True)


@pytest.mark.parametrize(
    "added, tags, text",
    [
        (port(9), {}, "network_mappings"),
        (port(9), {"physnet1": "nowhere"}, "nowhere"),
        (port(9, type="binding_failed"), TAGS, "binding_failed"),
        (port(9, mtu=9001), TAGS, "9001"),
        # on another port of this VM
        (vif(subnet("10.1.0.0/24", "10.1.0.5"), number=9), TAGS, "10.1.0.5"),
        # on another VM of this node
        (vif(subnet("10.7.0.0/24", "10.7.0.5"), number=9), TAGS, "Conflict"),
    ],
)
def test_what_cannot_be_attached_is_refused_and_changes_nothing(
    gz: node.Node,
    create: Callable[..., instances.Instance],
    attach: Callable[..., None],
    added: model.VIF,
    tags: dict[str, str],
    text: str,
) -> None:
    create(made(port(7)))
    instance = create(made(port(1)))
    before = gz.vmadm.get(instance.uuid).nics
    with pytest.raises(exception.InterfaceAttachFailed, match=text):
        attach(instance, added, nic_tags=tags)
    assert gz.vmadm.get(instance.uuid).nics == before


def test_the_33rd_nic_is_refused_before_any_command(
    create: Callable[..., instances.Instance], attach: Callable[..., None], spoiled: Spoiled
) -> None:
    instance = create(made(*[port(n) for n in range(1, 32)]))
    attach(instance, port(32))
    spoiled.commands.clear()
    with pytest.raises(exception.InterfaceAttachFailed, match="32 is the most"):
        attach(instance, port(33))
    assert spoiled.commands == []


def test_attach_to_a_vm_that_is_gone(
    gz: node.Node, attach: Callable[..., None], detach: Callable[..., None]
) -> None:
    instance = instances.Instance(uuid=str(uuid.uuid4()))
    for change in (attach, detach):
        with pytest.raises(errors.NotFound):
            change(instance, port(1))


def on(verb: str, *answers: Any) -> Callable[[transport.Command], Any]:
    """Spoil the first runs of a subcommand of vmadm, one way after the other."""
    left = list(answers)

    def spoil(command: transport.Command) -> Any:
        return left.pop(0) if left and command.argv[:2] == ("vmadm", verb) else None

    return spoil


LOST = errors.OutcomeUnknown("the connection broke")


@pytest.mark.parametrize("how", [raising(LOST), failing])
def test_a_nic_that_is_there_in_spite_of_a_failure_is_attached(
    gz: node.Node,
    create: Callable[..., instances.Instance],
    attach: Callable[..., None],
    spoiled: Spoiled,
    how: Any,
) -> None:
    instance = create(made(port(1)))
    spoiled.spoil = on("update", how)
    attach(instance, port(2))
    assert nic.differences(gz.vmadm.get(instance.uuid), made(port(1), port(2))) is None


def test_a_nic_that_is_not_there_after_a_failure_is_an_error(
    gz: node.Node,
    create: Callable[..., instances.Instance],
    attach: Callable[..., None],
    spoiled: Spoiled,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interface, "SETTLE_SECONDS", 0.2)
    instance = create(made(port(1)))
    for error in (errors.NotStarted("nobody listens"), LOST, errors.ToolError("out of luck")):
        spoiled.spoil = on("update", error)
        with pytest.raises(type(error), match=str(error)):
            attach(instance, port(2))
        assert len(gz.vmadm.get(instance.uuid).nics) == 1


def test_a_success_that_did_not_take_everything_is_undone(
    gz: node.Node,
    create: Callable[..., instances.Instance],
    attach: Callable[..., None],
    spoiled: Spoiled,
) -> None:
    """vmadm drops what it does not know, and reports success."""

    class Dropping(Spoiled):
        def run(self, command: transport.Command) -> transport.Result:
            if command.argv[1] == "update":
                document = json.loads(command.stdin)
                for each in document.get("add_nics", []):
                    del each["vlan_id"]
                command = dataclasses.replace(command, stdin=json.dumps(document).encode())
            return super().run(command)

    instance = create(made(port(1)))
    spoiled.inner = Dropping(spoiled.inner)
    with pytest.raises(errors.OutputError, match="did not take"):
        attach(instance, port(2, details={"vlan": 7}))
    assert [each.mac for each in gz.vmadm.get(instance.uuid).nics] == [one(port(1))["mac"]]


def test_an_undo_that_fails_does_not_hide_the_first_error(
    create: Callable[..., instances.Instance],
    attach: Callable[..., None],
    spoiled: Spoiled,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interface, "SETTLE_SECONDS", 0.2)
    instance = create(made(port(1)))
    gone = errors.NotStarted("nobody listens")
    update, get = on("update", LOST), on("get", *[gone] * 9)
    spoiled.spoil = lambda command: update(command) or get(command)
    with pytest.raises(errors.OutcomeUnknown, match=str(LOST)):
        attach(instance, port(2))
    spoiled.spoil = lambda command: None


# Detach


def test_a_nic_is_detached_with_what_it_brought(
    gz: node.Node,
    create: Callable[..., instances.Instance],
    detach: Callable[..., None],
    spoiled: Spoiled,
) -> None:
    instance = create(made(port(1), port(2)))
    spoiled.commands.clear()
    detach(instance, port(1), port(2))
    assert spoiled.commands in (["vmadm update"], ["vmadm update", "vmadm get"])
    vm = gz.vmadm.get(instance.uuid)
    assert nic.differences(vm, made(port(2))) is None
    assert [each.primary for each in vm.nics] == [True]


def test_a_nic_of_a_running_vm_falls_silent_at_once(
    gz: node.Node,
    create: Callable[..., instances.Instance],
    detach: Callable[..., None],
    emulator: emulated.EmulatedNode,
) -> None:
    pair = {"allowed_address_pairs": [{"ip_address": "10.200.0.7"}]}
    ports = [port(1), port(2, details=pair), port(3, details={"port_security_enabled": False})]
    instance = create(made(*ports), running=True)
    assert links(emulator, instance)["net1"] == ["10.2.0.5", "10.200.0.7"]
    detach(instance, ports[1], ports[0], ports[2])
    detach(instance, ports[2], ports[0])
    assert links(emulator, instance) == {"net0": ["10.1.0.5"], "net1": [""], "net2": [""]}
    words = ("show-linkprop", "-z", instance.uuid, "-c", "-o", "value", "-p", "protection")
    for name in ("net1", "net2"):
        protected = emulator.tool("dladm", *words, name).strip().split(",")
        assert sorted(protected) == ["dhcp-nospoof", "ip-nospoof", "mac-nospoof", "restricted"]
    gz.vmadm.reboot(instance.uuid, force=True)
    waits.until(lambda: links(emulator, instance) == {"net0": ["10.1.0.5"]})


def test_a_nic_that_is_not_there_is_detached(
    create: Callable[..., instances.Instance], detach: Callable[..., None], spoiled: Spoiled
) -> None:
    instance = create(made(port(1)))
    spoiled.commands.clear()
    detach(instance, port(2), port(1))
    assert spoiled.commands == ["vmadm get"]


@pytest.mark.parametrize("how", [raising(LOST), failing])
def test_a_nic_that_is_gone_in_spite_of_a_failure_is_detached(
    gz: node.Node,
    create: Callable[..., instances.Instance],
    detach: Callable[..., None],
    spoiled: Spoiled,
    how: Any,
) -> None:
    instance = create(made(port(1), port(2)))
    spoiled.spoil = on("update", how)
    detach(instance, port(2), port(1))
    # the nic is gone before vmadm has come to the routes
    waits.until(lambda: nic.differences(gz.vmadm.get(instance.uuid), made(port(1))) is None)


@pytest.mark.parametrize(
    "answers",
    [
        [errors.NotStarted("nobody listens")],
        [failing],
        [raising(LOST)],
        [None, errors.NotStarted("nobody listens")],
        [None, errors.ToolError("out of luck")],
        [None, LOST],
    ],
)
def test_a_nic_that_could_not_be_detached_has_its_addresses_again(
    gz: node.Node,
    create: Callable[..., instances.Instance],
    detach: Callable[..., None],
    emulator: emulated.EmulatedNode,
    spoiled: Spoiled,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[Any],
) -> None:
    monkeypatch.setattr(interface, "SETTLE_SECONDS", 0.2)
    pair = {"allowed_address_pairs": [{"ip_address": "10.200.0.7"}]}
    ports = [port(1), port(2, details=pair)]
    instance = create(made(*ports), running=True)
    spoiled.spoil = on("update", *answers)
    with pytest.raises(errors.SmartOSError):
        detach(instance, ports[1], ports[0])
    assert nic.differences(gz.vmadm.get(instance.uuid), made(*ports)) is None
    assert links(emulator, instance)["net1"] == ["10.2.0.5", "10.200.0.7"]
    detach(instance, ports[1], ports[0])
    assert nic.differences(gz.vmadm.get(instance.uuid), made(ports[0])) is None


# The wait for Neutron


class Neutron:
    """Nova's own waiter, and what Neutron tells it."""

    def __init__(self) -> None:
        self.events = manager.InstanceEvents()
        compute = types.SimpleNamespace(instance_events=self.events, reportclient=None)
        self.virtapi = manager.ComputeVirtAPI(compute)
        self.instance = instances.Instance(
            uuid=str(uuid.uuid4()), vm_state="building", task_state="spawning"
        )

    def tell(self, port: model.VIF, status: str = "completed") -> bool:
        """Send an event; whether somebody waited for it."""
        event = external_event.InstanceExternalEvent(
            instance_uuid=self.instance.uuid,
            name="network-vif-plugged",
            tag=port["id"],
            status=status,
        )
        waiting = self.events.pop_instance_event(self.instance, event)
        if waiting is not None:
            waiting.set(event)
        return waiting is not None

    def plugged(self, *ports: model.VIF, **more: Any) -> Any:
        return interface.plugged(self.virtapi, self.instance, model.NetworkInfo(ports), **more)


@pytest.fixture
def neutron() -> Iterator[Neutron]:
    CONF.set_override("vif_plugging_timeout", SECONDS)
    CONF.set_override("vif_plugging_is_fatal", True)
    yield Neutron()
    CONF.clear_override("vif_plugging_timeout")
    CONF.clear_override("vif_plugging_is_fatal")


def test_only_ports_that_are_not_wired_are_awaited(neutron: Neutron) -> None:
    down = port(1, active=False)
    with neutron.plugged(down, port(2, active=True)):
        assert not neutron.tell(port(2))
        assert neutron.tell(down)
    with neutron.plugged(port(2, active=True)):
        pass
    with neutron.plugged():
        pass
    with interface.plugged(neutron.virtapi, neutron.instance, None):
        pass


def test_a_port_of_a_vm_that_does_not_boot_is_not_awaited(neutron: Neutron) -> None:
    with neutron.plugged(port(1, active=False), boots=False):
        assert not neutron.tell(port(1))


def test_without_a_timeout_nothing_is_awaited(neutron: Neutron) -> None:
    CONF.set_override("vif_plugging_timeout", 0)
    with neutron.plugged(port(1, active=False)):
        assert not neutron.tell(port(1))


def test_a_late_event_is_awaited_after_the_vm_was_made(neutron: Neutron) -> None:
    down = [port(1, active=False), port(2, active=False)]
    done: list[str] = []

    def late() -> None:
        for each in down:
            done.append("told")
            neutron.tell(each)

    teller = threading.Timer(0.3, late)
    with neutron.plugged(*down):
        teller.start()
        done.append("made")
    done.append("went on")
    teller.join()
    assert done == ["made", "told", "told", "went on"]


def test_the_wait_for_an_event_stands_in_the_trace(
    neutron: Neutron, tmp_path: pathlib.Path
) -> None:
    down = port(1, active=False)
    with traces.into(tmp_path / "trace.json") as path:
        with neutron.plugged(port(2, active=True)):
            pass
        assert traces.spans(path) == []
        teller = threading.Timer(0.1, neutron.tell, [down])
        with neutron.plugged(down):
            with spans.span("the VM is made", "operation"):
                teller.start()
        teller.join()
    made, waited = traces.spans(path)
    assert (waited["name"], waited["cat"], waited["args"]) == ("wait for Neutron", "wait", {})
    assert waited["ts"] >= made["ts"] + made["dur"] and waited["dur"] > 0


def test_a_port_that_failed_ends_the_launch(neutron: Neutron) -> None:
    down = port(1, active=False)
    with pytest.raises(exception.VirtualInterfaceCreateException, match=down["id"]):
        with neutron.plugged(down):
            neutron.tell(down, "failed")


def test_a_port_that_failed_is_left_out_and_the_others_are_awaited(neutron: Neutron) -> None:
    CONF.set_override("vif_plugging_is_fatal", False)
    down, other = port(1, active=False), port(2, active=False)
    done: list[str] = []

    def late() -> None:
        done.append("told")
        neutron.tell(other)

    teller = threading.Timer(0.3, late)
    with neutron.plugged(down, other):
        neutron.tell(down, "failed")
        teller.start()
    done.append("went on")
    teller.join()
    assert done == ["told", "went on"]


def test_an_event_that_does_not_come_ends_the_launch_or_is_done_without(neutron: Neutron) -> None:
    CONF.set_override("vif_plugging_timeout", 1)
    down = port(1, active=False)
    with pytest.raises(exception.VirtualInterfaceCreateException, match=f"{down['id']}.* 1 s"):
        with neutron.plugged(down):
            pass
    CONF.set_override("vif_plugging_is_fatal", False)
    with neutron.plugged(down):
        pass


def test_a_vm_that_cannot_be_made_is_not_waited_for(neutron: Neutron) -> None:
    began = time.monotonic()
    with pytest.raises(errors.NoSpace):
        with neutron.plugged(port(1, active=False)):
            raise errors.NoSpace("full")
    assert time.monotonic() - began < SECONDS / 2


def test_somebody_elses_timeout_is_not_neutrons(neutron: Neutron) -> None:
    CONF.set_override("vif_plugging_is_fatal", False)
    with pytest.raises(exception.InstanceEventTimeout):
        with neutron.plugged(port(1, active=False)):
            raise exception.InstanceEventTimeout
