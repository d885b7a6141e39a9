# SPDX-License-Identifier: Apache-2.0
"""What Nova does with a server: how it comes to that, the doing, and what is right afterwards."""

import dataclasses
import functools
import hashlib
import io
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping

from tests.faults import world as worlds

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nova import exception
    from nova.compute import power_state, task_states, vm_states

from nova_smartos import conf as smartos_conf
from nova_smartos.operations import signing
from nova_smartos.smartos import errors, vms
from nova_smartos.translate import manifest
from tests import waits
from tests.functional import cloud, images

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

    @property
    def but_its_brand(self) -> tuple[object, ...]:
        """All that an operation on it can depend on, as far as its brand is not concerned."""
        specs = {name: value for name, value in self.specs.items() if name != "smartos:brand"}
        is_hvm = self.image in ("disk", "iso", "qcow2")
        return specs, is_hvm, self.drive, self.new_image, self.ports


@dataclasses.dataclass(frozen=True)
class Operation:
    """One of Nova's operations on one kind of server.

    `prepare` brings a server that exists in Nova alone into the state before it; `wanted` is the
    power state after it, None for a VM that is gone. A `silent` one needs no command of the node.
    """

    name: str
    guest: Guest
    prepare: tuple[Act, ...]
    act: Act
    wanted: int | None
    launches: bool = False
    silent: bool = False
    moves: bool = False

    @property
    def model(self) -> "Operation":
        """The first operation that differs from this one in the brand alone; it may be itself."""
        key = (self.act, self.prepare, self.guest.but_its_brand)
        return next(
            each
            for each in OPERATIONS.values()
            if (each.act, each.prepare, each.guest.but_its_brand) == key
        )

    def server(self, world: worlds.World) -> worlds.Server:
        """A server in the state before."""
        guest = self.guest
        if self.moves:
            world.two()
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
        driver, gz = world.place(server.instance.host)
        if self.moves and (runnable := world.runnable(uuid)) != [server.instance.host]:
            return f"it can run on {runnable}, and Nova has it on {server.instance.host}"
        try:
            vm = gz.vmadm.get(uuid)
        except errors.NotFound:
            return "" if self.wanted is None else "there is no VM"
        if self.wanted is None:
            return "the VM is still there"
        if server.made is not None and (found := _wrong_image(world, server)):
            return found
        state = driver.get_info(server.instance, use_cache=False).state
        if state != self.wanted:
            return f"power state {state} instead of {self.wanted}; the VM is {vm.state}"
        if server.instance.vm_state == vm_states.RESCUED:
            # its nics, and whether it boots with the node, are those of what stands in for it
            return ""
        if vm.autoboot != (self.wanted != OFF):
            return f"the power state is {state}, but autoboot is {vm.autoboot}"
        memory, flavor = vm.ram_mib or vm.max_physical_memory_mib, server.instance.flavor
        if memory != flavor.memory_mb:
            return f"it has {memory} MiB of memory, its flavor {flavor.memory_mb}"
        root_gib = vm.disks[0].size_mib / 1024 if vm.disks else vm.quota_gib
        if root_gib < flavor.root_gb:
            return f"its root has {root_gib} GiB, its flavor's {flavor.root_gb}"
        if server.root and server.root == _root(world, server):
            return "it has its old root"
        macs = {nic.mac for nic in vm.nics}
        told = {vif["address"] for vif in server.network}
        return "" if macs == told else f"its nics are {macs}, Nova's are {told}"


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


def delete(world: worlds.World, server: worlds.Server) -> None:
    """The user's deletion, whatever was under way; a move is confirmed before."""
    instance = server.instance
    if instance.vm_state == vm_states.RESIZED and instance.host != worlds.HOST:
        confirm_move(world, server)
    _task(server, task_states.DELETING)
    destroy(world, server)


def destroy(world: worlds.World, server: worlds.Server) -> None:
    """ComputeManager ends an instance, or cleans up after a failed build."""
    driver, _ = world.place(server.instance.host)
    driver.destroy(world.context, server.instance, server.network, {})


def stop(world: worlds.World, server: worlds.Server) -> None:
    """Stop, as the user asks: the guest is given time."""
    world.driver.power_off(server.instance, 2, 1)


def start(world: worlds.World, server: worlds.Server) -> None:
    world.driver.power_on(world.context, server.instance, server.network, {})


def soft_reboot(world: worlds.World, server: worlds.Server) -> None:
    world.driver.reboot(world.context, server.instance, server.network, "SOFT")


def soft_delete(world: worlds.World, server: worlds.Server) -> None:
    world.driver.soft_delete(server.instance)
    server.instance.vm_state = vm_states.SOFT_DELETED
    server.instance.save()


def restore(world: worlds.World, server: worlds.Server) -> None:
    world.driver.restore(server.instance)
    server.instance.vm_state = vm_states.ACTIVE
    server.instance.save()


def resume_on_boot(world: worlds.World, server: worlds.Server) -> None:
    """nova-compute starts after its node has booted, and Nova has the instance as running."""
    world.driver.resume_state_on_host_boot(world.context, server.instance, server.network, [], {})


def cache_image(world: worlds.World, server: worlds.Server) -> None:
    """Bring an image that nobody boots yet."""
    world.driver.cache_image(world.context, server.image.id)


def hard_reboot(world: worlds.World, server: worlds.Server) -> None:
    world.driver.reboot(world.context, server.instance, server.network, "HARD")


def pause(world: worlds.World, server: worlds.Server) -> None:
    world.driver.pause(server.instance)


def unpause(world: worlds.World, server: worlds.Server) -> None:
    world.driver.unpause(server.instance)


def crash_dump(world: worlds.World, server: worlds.Server) -> None:
    world.driver.trigger_crash_dump(server.instance)


def password(world: worlds.World, server: worlds.Server) -> None:
    """Set a password; whoever tries again after a reboot of the node waits for the guest."""
    get = functools.partial(world.gz.vmadm.get, server.instance.uuid)
    waits.until(lambda: get().state != vms.State.READY, "the zone to be up")
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
    server.root = server.root or _root(world, server)
    try:
        _rebuild(world, server, preserve=False)
    except NotImplementedError:
        destroy(world, server)
        spawn(world, server)
    _task(server, None)


def rebuild_preserving(world: worlds.World, server: worlds.Server) -> None:
    """Rebuild, and keep ephemeral data."""
    server.root = server.root or _root(world, server)
    _rebuild(world, server, preserve=True)
    _task(server, None)


def _root(world: worlds.World, server: worlds.Server) -> str:
    """What tells the root from every other, of whatever image; "" if there is no VM."""
    try:
        vm = world.gz.vmadm.get(server.instance.uuid)
    except errors.NotFound:
        return ""
    name = vm.disks[0].zfs_filesystem if vm.disks else vm.zfs_filesystem
    return str(world.gz.zfs.get(name, "guid")["guid"])


def _wrong_image(world: worlds.World, server: worlds.Server) -> str:
    """What is wrong with the image that was made of it."""
    if not server.made:
        return "there is no image"
    # what could not be taken away then is taken away by Nova's next look at images
    world.driver.manage_image_cache(world.context, [])
    image = world.glance.show(None, server.made)
    data = world.glance.data(server.made)
    begun = [each for each in world.gz.zfs.list(types=("all",)) if "nova-image" in each.name]
    if begun:
        return f"the node keeps {begun}"
    if len(data) != image["size"] or image["status"] != "active":
        return f"{len(data)} bytes are there, but Glance says {image}"
    signature = image["properties"].get(signing.PROPERTY)
    signer = signing.Signer(cloud.CONF[smartos_conf.GROUP])
    type_ = image["properties"]["smartos_image_type"]
    if not signature or not signer.valid(signature, hashlib.sha256(data).digest(), type_):
        return f"its signature is {signature}"
    # what zfs itself takes for one whole stream
    target = f"zones/nst-{uuid.uuid4()}"
    try:
        world.gz.zfs.receive(io.BytesIO(data), target)
    except errors.ToolError as error:
        return f"zfs does not take it: {error}"
    world.gz.zfs.destroy(target, recursive=True)
    return ""


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
    """Resize on the same host, until it waits for the user's word."""
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
    instance.vm_state = vm_states.RESIZED
    instance.save()


def confirm_resize(world: worlds.World, server: worlds.Server) -> None:
    """The user's yes."""
    instance = server.instance
    world.driver.confirm_migration(world.context, world.migration(server), instance, server.network)
    instance.vm_state = vm_states.ACTIVE
    instance.save()


def revert_resize(world: worlds.World, server: worlds.Server) -> None:
    """The user's no: ComputeManager deletes what it takes for another VM, and goes back."""
    instance, network = server.instance, server.network
    _task(server, task_states.RESIZE_REVERTING)
    destroy(world, server)
    instance.flavor = instance.old_flavor
    instance.save()
    world.driver.finish_revert_migration(
        world.context, instance, network, world.migration(server), {}, True
    )
    instance.vm_state = vm_states.ACTIVE
    _task(server, None)


def move(world: worlds.World, server: worlds.Server) -> None:
    """Cold migration, until it waits for the user's word; what an operator does if it broke off."""
    instance, network = server.instance, server.network
    instance.refresh()
    if instance.host != worlds.HOST:
        world.two().driver.reboot(world.context, instance, network, "HARD")
    else:
        migration = world.moved(server)
        _task(server, task_states.RESIZE_MIGRATING)
        try:
            world.driver.migrate_disk_and_power_off(
                world.context, instance, migration.dest_host, instance.flavor, network, {}, 2, 1
            )
        except exception.InstanceFaultRollback:
            _task(server, None)
            raise
        instance.host = worlds.TARGET
        _task(server, task_states.RESIZE_FINISH)
        world.two().driver.finish_migration(
            world.context, migration, instance, "[]", network, server.image, False, {}, {}, True
        )
    instance.vm_state = vm_states.RESIZED
    _task(server, None)


def move_directly(world: worlds.World, server: worlds.Server) -> None:
    """The same where the nodes reach each other."""
    with world.directly():
        move(world, server)


def confirm_move(world: worlds.World, server: worlds.Server) -> None:
    """The user's yes."""
    instance = server.instance
    world.driver.confirm_migration(world.context, world.migration(server), instance, server.network)
    instance.vm_state = vm_states.ACTIVE
    instance.save()


def revert_move(world: worlds.World, server: worlds.Server) -> None:
    """The user's no: the VM that moved is deleted, and the other one is as it was."""
    instance, network = server.instance, server.network
    if instance.host != worlds.HOST:
        _task(server, task_states.RESIZE_REVERTING)
        destroy(world, server)
        instance.host = worlds.HOST
        instance.save()
    world.driver.finish_revert_migration(
        world.context, instance, network, world.migration(server), {}, True
    )
    instance.vm_state = vm_states.ACTIVE
    _task(server, None)


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


def snapshot(world: worlds.World, server: worlds.Server) -> None:
    """Make an image of it; whoever tries again does so with another image, as Nova does."""
    made = world.glance.create(
        None, images.document("nst-made", {}, status="queued", owner=worlds.PROJECT)
    )
    server.made = str(made["id"])

    def update_task_state(task_state: str, expected_state: str | None = None) -> None:
        _task(server, task_state)

    try:
        world.driver.snapshot(world.context, server.instance, server.made, update_task_state)
    except BaseException:
        world.glance.delete(None, server.made)
        server.made = ""
        raise
    finally:
        _task(server, None)
    # a node that boots keeps nobody's image from its success, but cannot be asked about it
    waits.until(lambda: _answers(world), "the node to be up")


def snapshot_difference(world: worlds.World, server: worlds.Server) -> None:
    """The same, of no more than what differs from its own image."""
    cloud.CONF.set_override("incremental_images", True, smartos_conf.GROUP)
    try:
        snapshot(world, server)
    finally:
        cloud.CONF.set_override("incremental_images", False, smartos_conf.GROUP)
    properties = world.glance.show(None, server.made)["properties"]
    assert properties[manifest.ORIGIN_PROPERTY] == server.image.id


def _answers(world: worlds.World) -> bool:
    try:
        world.gz.uptime.get()
    except errors.SmartOSError:
        return False
    return True


def restart(world: worlds.World, _server: worlds.Server) -> None:
    """nova-compute ends and begins; where there are two, the other one goes on."""
    world.stop(both=False)
    world.start()


def _task(server: worlds.Server, state: str | None) -> None:
    server.instance.task_state = state
    server.instance.save()


ZONE = Guest("zone", "zone")
MINIMAL = Guest("minimal", "minimal", {"smartos:brand": "joyent-minimal"})
LX = Guest("lx", "lx")
LX_TREE = Guest("lx-tree", "tree", new_image=True)
BHYVE = Guest("bhyve", "disk")
BHYVE_ISO = Guest("bhyve-iso", "iso")
BHYVE_QCOW2 = Guest("bhyve-qcow2", "qcow2", new_image=True)
KVM = Guest("kvm", "disk", {"smartos:brand": "kvm"})
GUESTS = (ZONE, MINIMAL, LX, BHYVE, KVM)
HELD = Guest("held", "zone", {"smartos:indestructible_zoneroot": "true"})
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
    for guest in (BHYVE_ISO, BHYVE_QCOW2, LX_TREE):
        yield Operation(f"launch-{guest.name}", guest, (), launch, ON, launches=True)
    for guest in (*GUESTS, HELD, driven[0]):
        name = f"delete-{guest.name}{'-drive' if guest.drive else ''}"
        yield Operation(name, guest, (launch,), delete, None)
    yield Operation("delete-bhyve-iso", BHYVE_ISO, (launch,), delete, None)
    yield Operation("rebuild-bhyve-iso", BHYVE_ISO, (launch,), rebuild, ON)
    for guest in (ZONE, BHYVE):
        yield Operation(f"delete-rescued-{guest.name}", guest, (launch, rescue), delete, None)
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
        large = (launch, resize)
        yield Operation(
            f"confirm-resize-{guest.name}", guest, large, confirm_resize, ON, silent=True
        )
        yield Operation(f"revert-resize-{guest.name}", guest, large, revert_resize, ON)
        yield Operation(f"soft-delete-{guest.name}", guest, up, soft_delete, OFF)
        yield Operation(f"restore-{guest.name}", guest, (launch, soft_delete), restore, ON)
        yield Operation(f"rescue-{guest.name}", guest, up, rescue, ON)
        yield Operation(f"unrescue-{guest.name}", guest, (launch, rescue), unrescue, ON)
    for guest in (ZONE, BHYVE, KVM):
        yield Operation(f"move-{guest.name}", guest, (launch,), move, ON, moves=True)
    for guest in (ZONE, BHYVE):
        there = (launch, move)
        yield Operation(f"confirm-move-{guest.name}", guest, there, confirm_move, ON, moves=True)
        yield Operation(f"revert-move-{guest.name}", guest, there, revert_move, ON, moves=True)
    # more disks are more of the same commands
    yield Operation("move-directly-zone", ZONE, (launch,), move_directly, ON, moves=True)
    for guest in (ZONE, LX, BHYVE):
        yield Operation(
            f"rebuild-preserving-{guest.name}", guest, (launch,), rebuild_preserving, ON
        )
    for guest in (ZONE, LX):
        yield Operation(f"password-{guest.name}", guest, (launch,), password, ON)
    for guest in (BHYVE, KVM):
        yield Operation(f"crash-dump-{guest.name}", guest, (launch,), crash_dump, ON)
    for guest in (ZONE, LX, BHYVE, KVM):
        yield Operation(f"snapshot-{guest.name}", guest, (launch,), snapshot, ON)
    # a disk's commands are no others
    yield Operation("snapshot-difference", ZONE, (launch,), snapshot_difference, ON)
    yield Operation("pause-kvm", KVM, (launch,), pause, power_state.PAUSED)
    yield Operation("unpause-kvm", KVM, (launch, pause), unpause, ON)
    yield Operation("resume-on-boot-zone", ZONE, (launch, stop), resume_on_boot, ON)
    yield Operation("cache-image", imported[0], (), cache_image, None)
    yield Operation("restart", ZONE, (launch,), restart, ON)


OPERATIONS = {operation.name: operation for operation in _all()}
