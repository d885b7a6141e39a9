# SPDX-License-Identifier: Apache-2.0
"""What Nova does with a server: how it comes to that, the doing, and what is right afterwards."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator, Mapping

from tests.faults import world as worlds

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nova.compute import power_state, task_states, vm_states

from nova_smartos.smartos import errors

_SECONDS = 5.0

Act = Callable[["worlds.World", "worlds.Server"], None]


@dataclasses.dataclass(frozen=True)
class Guest:
    """A kind of server."""

    name: str
    image: str
    specs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    drive: bool = False
    new_image: bool = False
    ports: int = 1


@dataclasses.dataclass(frozen=True)
class Operation:
    """One of Nova's operations on one kind of server.

    `prepare` brings a server that exists in Nova alone into the state before it; `wanted` is the
    power state after it, None for a VM that is gone.
    """

    name: str
    guest: Guest
    prepare: tuple[Act, ...]
    act: Act
    wanted: int | None
    launches: bool = False

    def server(self, world: worlds.World) -> worlds.Server:
        """A server in the state before."""
        guest = self.guest
        server = world.server(
            guest.image,
            specs=guest.specs,
            drive=guest.drive,
            new_image=guest.new_image,
            ports=guest.ports,
        )
        for act in self.prepare:
            act(world, server)
        return server

    def wrong(self, world: worlds.World, server: worlds.Server) -> str:
        """What is not right although the operation has ended well; "" if nothing is."""
        end = time.monotonic() + _SECONDS
        while True:
            found = self._wrong(world, server)
            if not found or time.monotonic() > end:
                return found
            time.sleep(0.05)

    def _wrong(self, world: worlds.World, server: worlds.Server) -> str:
        uuid = server.instance.uuid
        try:
            vm = world.gz.vmadm.get(uuid)
        except errors.NotFound:
            return "" if self.wanted is None else "there is no VM"
        if self.wanted is None:
            return "the VM is still there"
        state = world.driver.get_info(server.instance, use_cache=False).state
        if state != self.wanted:
            return f"power state {state} instead of {self.wanted}; the VM is {vm.state}"
        macs = {nic.mac for nic in vm.nics}
        told = {vif["address"] for vif in server.network}
        rescued = server.instance.vm_state == vm_states.RESCUED
        return "" if macs == told or rescued else f"its nics are {macs}, Nova's are {told}"


def spawn(world: worlds.World, server: worlds.Server) -> None:
    """ComputeManager builds."""
    world.driver.spawn(
        world.context,
        server.instance,
        server.image,
        [],
        "secret-password",
        {},
        network_info=server.network,
        block_device_info={},
    )


def launch(world: worlds.World, server: worlds.Server) -> None:
    """Build, and write down that it is done."""
    spawn(world, server)
    world.launched(server)


def destroy(world: worlds.World, server: worlds.Server) -> None:
    """ComputeManager ends an instance, or cleans up after a failed build."""
    world.driver.destroy(world.context, server.instance, server.network, {})


def stop(world: worlds.World, server: worlds.Server) -> None:
    """Stop, as the user asks: the guest is given time."""
    world.driver.power_off(server.instance, 2, 1)


def start(world: worlds.World, server: worlds.Server) -> None:
    world.driver.power_on(world.context, server.instance, server.network, {})


def soft_reboot(world: worlds.World, server: worlds.Server) -> None:
    world.driver.reboot(world.context, server.instance, server.network, "SOFT")


def hard_reboot(world: worlds.World, server: worlds.Server) -> None:
    world.driver.reboot(world.context, server.instance, server.network, "HARD")


def pause(world: worlds.World, server: worlds.Server) -> None:
    world.driver.pause(server.instance)


def unpause(world: worlds.World, server: worlds.Server) -> None:
    world.driver.unpause(server.instance)


def crash_dump(world: worlds.World, server: worlds.Server) -> None:
    world.driver.trigger_crash_dump(server.instance)


def password(world: worlds.World, server: worlds.Server) -> None:
    world.driver.set_admin_password(server.instance, "new-secret")


def attach(world: worlds.World, server: worlds.Server) -> None:
    """Attach one more port; Nova knows of it before."""
    if len(server.network) == 1:
        server.network.append(world.vif())
        world.connect(server.instance, server.network)
    vif = server.network[-1]
    world.driver.attach_interface(world.context, server.instance, server.image, vif)


def detach(world: worlds.World, server: worlds.Server) -> None:
    """Detach the last port; Nova forgets it afterwards."""
    vif = server.network[-1]
    world.driver.detach_interface(world.context, server.instance, vif)
    server.network.pop()
    world.connect(server.instance, server.network)


def rebuild(world: worlds.World, server: worlds.Server) -> None:
    """Rebuild: the driver's way if it has one, else Nova's own."""
    try:
        _rebuild(world, server, preserve=False)
    except NotImplementedError:
        destroy(world, server)
        spawn(world, server)
    _task(server, None)


def rebuild_preserving(world: worlds.World, server: worlds.Server) -> None:
    """Rebuild, and keep ephemeral data."""
    _rebuild(world, server, preserve=True)
    _task(server, None)


def _rebuild(world: worlds.World, server: worlds.Server, *, preserve: bool) -> None:
    _task(server, task_states.REBUILDING)
    world.driver.rebuild(
        world.context,
        server.instance,
        server.image,
        [],
        "secret-password",
        {},
        [],
        lambda *_: None,
        lambda *_: None,
        network_info=server.network,
        block_device_info={},
        preserve_ephemeral=preserve,
    )


def resize(world: worlds.World, server: worlds.Server) -> None:
    """Resize on the same host, to its end."""
    migration = world.resized(server)
    instance, network = server.instance, server.network
    flavor = instance.new_flavor
    world.driver.migrate_disk_and_power_off(
        world.context, instance, "127.0.0.1", flavor, network, {}, 2, 1
    )
    instance.flavor = flavor
    instance.save()
    world.driver.finish_migration(
        world.context, migration, instance, "[]", network, server.image, True, {}, {}, True
    )
    world.driver.confirm_migration(world.context, migration, instance, network)


def rescue(world: worlds.World, server: worlds.Server) -> None:
    """Stop, and boot from the rescue image: here the server's own."""
    world.driver.power_off(server.instance, 0, 0)
    world.driver.rescue(
        world.context, server.instance, server.network, server.image, "secret-password", {}, None
    )
    server.instance.vm_state = vm_states.RESCUED
    server.instance.save()


def unrescue(world: worlds.World, server: worlds.Server) -> None:
    """Back to the server's own root."""
    world.driver.unrescue(world.context, server.instance)
    server.instance.vm_state = vm_states.ACTIVE
    server.instance.save()


def restart(world: worlds.World, _server: worlds.Server) -> None:
    """nova-compute ends and begins."""
    world.stop()
    world.start()


def _task(server: worlds.Server, state: str | None) -> None:
    server.instance.task_state = state
    server.instance.save()


ZONE = Guest("zone", "zone")
MINIMAL = Guest("minimal", "minimal", {"smartos:brand": "joyent-minimal"})
LX = Guest("lx", "lx")
BHYVE = Guest("bhyve", "disk")
KVM = Guest("kvm", "disk", {"smartos:brand": "kvm"})
GUESTS = (ZONE, MINIMAL, LX, BHYVE, KVM)
ON = power_state.RUNNING
OFF = power_state.SHUTDOWN


def _two_ports(guest: Guest) -> Guest:
    return dataclasses.replace(guest, ports=2)


def _all() -> Iterator[Operation]:
    driven = [dataclasses.replace(each, drive=True) for each in (ZONE, LX, BHYVE, KVM)]
    imported = [dataclasses.replace(each, new_image=True) for each in (ZONE, LX, BHYVE)]
    for suffix, guests in (("", GUESTS), ("-drive", driven), ("-import", imported)):
        for guest in guests:
            name = f"launch-{guest.name}{suffix}"
            yield Operation(name, guest, (), launch, ON, launches=True)
    for guest in (*GUESTS, driven[0]):
        name = f"delete-{guest.name}{'-drive' if guest.drive else ''}"
        yield Operation(name, guest, (launch,), destroy, None)
    for guest in (ZONE, LX, BHYVE, KVM):
        up = (launch,)
        yield Operation(f"stop-{guest.name}", guest, up, stop, OFF)
        yield Operation(f"start-{guest.name}", guest, (launch, stop), start, ON)
        yield Operation(f"soft-reboot-{guest.name}", guest, up, soft_reboot, ON)
        yield Operation(f"hard-reboot-{guest.name}", guest, up, hard_reboot, ON)
        yield Operation(f"attach-{guest.name}", guest, up, attach, ON)
        yield Operation(f"detach-{guest.name}", _two_ports(guest), up, detach, ON)
        yield Operation(f"rebuild-{guest.name}", guest, up, rebuild, ON)
        yield Operation(f"resize-{guest.name}", guest, up, resize, ON)
        yield Operation(f"rescue-{guest.name}", guest, up, rescue, ON)
        yield Operation(f"unrescue-{guest.name}", guest, (launch, rescue), unrescue, ON)
    for guest in (ZONE, LX, BHYVE):
        yield Operation(
            f"rebuild-preserving-{guest.name}", guest, (launch,), rebuild_preserving, ON
        )
    for guest in (ZONE, LX):
        yield Operation(f"password-{guest.name}", guest, (launch,), password, ON)
    for guest in (BHYVE, KVM):
        yield Operation(f"crash-dump-{guest.name}", guest, (launch,), crash_dump, ON)
    yield Operation("pause-kvm", KVM, (launch,), pause, power_state.PAUSED)
    yield Operation("unpause-kvm", KVM, (launch, pause), unpause, ON)
    yield Operation("restart", ZONE, (launch,), restart, ON)


OPERATIONS = {operation.name: operation for operation in _all()}
