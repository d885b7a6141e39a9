# SPDX-License-Identifier: Apache-2.0
"""SmartOSDriver: what Nova asks of one SmartOS node, in the order in which Nova asks it.

A method here is a few lines: what takes more than one step stands in `operations`, what turns one
document into another in `translate`.
"""

import contextlib
import functools

import nova.conf
from nova import context as nova_context
from nova import exception
from nova.compute import task_states, vm_states
from nova.virt import configdrive, driver
from nova.virt import event as virtevent
from oslo_log import log

from nova_smartos import conf as smartos_conf
from nova_smartos import entries
from nova_smartos.operations import (
    build,
    console,
    guest,
    image,
    interface,
    locks,
    move,
    power,
    reconcile,
    rescue,
    resize,
    snapshot,
    transfer,
    watch,
)
from nova_smartos.operations import host as compute_node
from nova_smartos.smartos import errors as node_errors
from nova_smartos.smartos import node, spans, vms
from nova_smartos.translate import errors, identity, inventory, state

CONF = nova.conf.CONF
LOG = log.getLogger(__name__)


@entries.traced
class SmartOSDriver(driver.ComputeDriver):
    """One nova-compute drives one node, on the node itself or over SSH."""

    capabilities = {
        **driver.ComputeDriver.capabilities,
        "has_imagecache": True,
        "supports_attach_interface": True,
        "supports_trusted_certs": True,
        "supports_image_type_iso": True,
        "supports_image_type_qcow2": True,
        "supports_image_type_raw": True,
    }

    _node: node.Node
    #: the name of this nova-compute, which stands in the mark of each VM of its own
    _served: str

    def __init__(self, virtapi):
        super().__init__(virtapi)
        smartos_conf.register(CONF)
        spans.start(CONF[smartos_conf.GROUP].trace_file)
        self._locks = locks.Locks()
        self._latest = guest.Latest()
        #: launches that found the node away: Nova deletes them at once, before it tries another
        self._not_begun: set[str] = set()
        #: instances that Nova looks at, one by one, because it begins
        self._met: frozenset[str] = frozenset()
        #: what goes to other nodes now
        self._moves: dict[str, transfer.Transfer] = {}

    def init_host(self, host):
        """Meet the node and learn what is on it."""
        self._served = host
        tags = smartos_conf.nic_tags(CONF, host)
        LOG.info("Nic tags by physical network: %s", tags or "none")
        self._node = smartos_conf.connect(CONF)
        with errors.translated():
            self._watch = watch.Watch(self._node, self._changed)
            self._host = compute_node.Host(self._node, self._watch.vms, self._locks.held, host)
            context = nova_context.get_admin_context()
            compute_node.refuse_rename(context, self._host.uuid, self._host.name, host)
            compute_node.remember_node(self._host.uuid, self._host.name)
            reconcile.wait_for_earlier(self._node)
            self._images = image.Images(self._node, CONF[smartos_conf.GROUP])
            self._images.start()
            self._exports = snapshot.Exports(
                self._node, self._watch, self._locks, CONF[smartos_conf.GROUP]
            )
            self._consoles = console.Consoles(
                self._node,
                functools.partial(smartos_conf.connect, CONF),
                self._shown,
                ports=console.ports(CONF.serial_console.port_range),
                token_seconds=CONF.consoleauth.token_ttl,
            )
            self._watch.start()

    def process_instances_at_startup(self, context, instances):
        """Mend what a crash has left, where that is safe."""
        reap = CONF.running_deleted_instance_action == "reap"
        try:
            reconcile.at_start(self._node, self._watch, context, self._served, instances, reap=reap)
        except node_errors.SmartOSError:
            # the instances' own start must not wait for what only tidies up
            LOG.exception("The node could not be compared with Nova's records")
        self._met = frozenset(each.uuid for each in instances)
        return instances

    def cleanup_host(self, host):
        """Let go of the node."""
        self._consoles.close()
        self._watch.stop()
        self._node.close()

    # launch and end

    def spawn(
        self,
        context,
        instance,
        image_meta,
        injected_files,
        admin_password,
        allocations,
        network_info=None,
        block_device_info=None,
        power_on=True,
        accel_info=None,
    ):
        """Create the VM, and wait until its guest is there and its ports are wired."""
        rebuilds = instance.task_state == task_states.REBUILD_SPAWNING
        with (
            # in an evacuation there is nothing here to replace
            errors.launching(replaces=rebuilds and instance.host == self._served),
            errors.translated(instance.uuid, image_id=instance.image_ref),
            self._locks.hold(instance.uuid),
        ):
            self._not_begun.discard(instance.uuid)
            try:
                properties = None
                if instance.vm_state == vm_states.SHELVED_OFFLOADED:
                    # what the instance knows are those of the image that it once came from
                    properties = self._images.properties(context, image_meta)
                planned = self._plan(
                    instance, image_meta, injected_files, admin_password, network_info, properties
                )
                build.spawn(
                    self._node,
                    self._watch,
                    self._images,
                    self.virtapi,
                    context,
                    instance,
                    image_meta,
                    planned,
                    network_info=network_info,
                    block_device_info=block_device_info,
                    power_on=power_on,
                )
                self._consoles.record(self._watch.heard(instance.uuid))
            except build.NotBegun:
                if self._watch.heard(instance.uuid) is None:
                    self._not_begun.add(instance.uuid)
                raise
            except exception.VirtualInterfaceCreateException as error:
                # Nova replaces the reason of this one by a sentence that says nothing
                raise exception.BuildAbortException(
                    instance_uuid=instance.uuid, reason=error.format_message()
                ) from error

    def destroy(
        self,
        context,
        instance,
        network_info,
        block_device_info=None,
        destroy_disks=True,
        destroy_secrets=True,
    ):
        """Delete the VM and all that is its own; one that is gone is success."""
        with errors.still_there():
            # before its turn: whoever makes an image may hold the VM
            self._exports.end(instance.uuid)
        if (moving := self._moves.get(instance.uuid)) is not None:
            moving.end()
        with errors.still_there(), self._locks.hold(instance.uuid):
            if instance.uuid in self._not_begun:
                # the node may still be away, and after an error here Nova tries no other
                self._not_begun.discard(instance.uuid)
                LOG.info("Its launch did not begin: there is no VM", instance=instance)
                return
            reverts = instance.task_state == task_states.RESIZE_REVERTING
            if reverts and resize.in_place(context, instance):
                # what Nova takes for the other one of two VMs is the only one
                return
            rescue.remove_stand_in(self._node, self._watch, instance.uuid)
            build.destroy(self._node, self._watch, instance)

    def cleanup(
        self,
        context,
        instance,
        network_info,
        block_device_info=None,
        destroy_disks=True,
        migrate_data=None,
        destroy_vifs=True,
        destroy_secrets=True,
    ):
        """What is left of a VM: Nova asks after a destroy that it is not sure of."""
        self.destroy(context, instance, network_info, block_device_info, destroy_disks)

    def delete_instance_files(self, instance):
        """Whether nothing is left of a deleted instance, after another attempt to delete it."""
        try:
            with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
                return reconcile.removed(self._node, self._watch, instance)
        except exception.NovaException:
            LOG.exception("Something is left of the instance", instance=instance)
            return False

    def rebuild(
        self,
        context,
        instance,
        image_meta,
        injected_files,
        admin_password,
        allocations,
        bdms,
        detach_block_devices,
        attach_block_devices,
        network_info=None,
        evacuate=False,
        block_device_info=None,
        preserve_ephemeral=False,
        accel_uuids=None,
        reimage_boot_volume=False,
    ):
        """Give the VM a new root. What an image cannot be is refused while the old one is there.

        To keep ephemeral data vmadm replaces the root alone; otherwise Nova's own way, which is to
        delete and to spawn, leaves nothing of the old guest.
        """
        with (
            errors.launching(),
            errors.translated(instance.uuid, image_id=image_meta.id),
            self._locks.hold(instance.uuid),
        ):
            planned = self._plan(instance, image_meta, injected_files, admin_password, network_info)
            base = build.ready_to_rebuild(
                self._images, context, instance, image_meta, planned, block_device_info
            )
            if not preserve_ephemeral:
                raise NotImplementedError
            build.refuse_to_preserve(self._watch, instance, planned)
            detach_block_devices(context, bdms)
            instance.task_state = task_states.REBUILD_BLOCK_DEVICE_MAPPING
            instance.save(expected_task_state=[task_states.REBUILDING])
            attach_block_devices(context, instance, bdms)
            instance.task_state = task_states.REBUILD_SPAWNING
            instance.save(expected_task_state=[task_states.REBUILD_BLOCK_DEVICE_MAPPING])
            with errors.launching(replaces=True), errors.translated(instance.uuid):
                self._end_rescue(instance)
                build.reprovision(self._node, self._watch, instance, planned, base)

    def rescue(
        self,
        context,
        instance,
        network_info,
        image_meta,
        rescue_password,
        block_device_info,
        share_info,
    ):
        """Boot the server from another image, with its own disks at hand."""
        with (
            errors.translated(instance.uuid, image_id=image_meta.id),
            self._locks.hold(instance.uuid),
        ):
            rescue.rescue(
                self._node,
                self._watch,
                self._images,
                context,
                instance,
                image_meta,
                network_info=network_info,
                password=rescue_password,
                nic_tags=smartos_conf.nic_tags(CONF, self._served),
            )

    def unrescue(self, context, instance):
        """Back to its own root, and running."""
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            self._watch.get(instance.uuid, fresh=True)
            self._end_rescue(instance)
            power.start(self._node, self._watch, instance)

    def _acting(self, instance):
        """The uuid of the VM that the user knows as the server, now."""
        if instance.vm_state != vm_states.RESCUED:
            return instance.uuid
        return rescue.acting(self._watch, instance.uuid)

    def _end_rescue(self, instance):
        """Give the VM its own root and nics again, after a rescue or one that broke off.

        There is nothing to do, and it costs nothing, for one that was not rescued.
        """
        vm = self._watch.get(instance.uuid)
        repair = None
        # a zone's are its stand-in's for so long
        if not vm.hvm and not vm.nics and (network_info := instance.get_network_info()):
            repair = self._repair_network(instance, network_info)
        rescue.end(self._node, self._watch, vm)
        if repair is not None:
            repair()

    def _plan(
        self,
        instance,
        image_meta,
        injected_files,
        admin_password,
        network_info,
        properties=None,
    ):
        return build.plan(
            self._images,
            instance,
            image_meta,
            properties=properties,
            injected_files=injected_files,
            admin_password=admin_password,
            network_info=network_info,
            nic_tags=smartos_conf.nic_tags(CONF, self._served),
            host=self._served,
        )

    # resize

    def migrate_disk_and_power_off(
        self,
        context,
        instance,
        dest,
        flavor,
        network_info,
        block_device_info=None,
        timeout=0,
        retry_interval=0,
    ):
        """In place: refuse what cannot be, bring a virtual machine down. Else: move the VM."""
        migration = resize.migration(context, instance)
        with self._locks.hold(instance.uuid):
            stop = functools.partial(power.stop, self._node, self._watch, instance, timeout)
            if resize.stays(migration):
                with errors.translated(instance.uuid):
                    resize.begin(self._watch, instance, flavor, block_device_info, stop=stop)
            else:
                with self._moving(migration) as moving:
                    move.away(
                        moving,
                        self._watch,
                        instance,
                        flavor,
                        identity.Move(migration.uuid, migration.dest_compute),
                        block_device_info,
                        stop=stop,
                        start=functools.partial(power.start, self._node, self._watch, instance),
                    )
        # what has gone, has gone already
        return "[]"

    @contextlib.contextmanager
    def _moving(self, migration):
        """What goes to another node, for as long as a migration sends it."""
        options = CONF[smartos_conf.GROUP]
        uuid = migration.instance_uuid
        address = smartos_conf.peer_address(CONF, migration.dest_compute, migration.dest_host)
        with self._peer(migration) as target:
            moving = transfer.Transfer(
                self._node,
                target,
                uuid,
                mib_per_second=options.move_bandwidth,
                address=address if options.direct_moves else None,
            )
            self._moves[uuid] = moving
            try:
                yield moving
            finally:
                del self._moves[uuid]

    def _peer(self, migration):
        """The node that a migration leads to."""
        return smartos_conf.peer(CONF, migration.dest_compute, migration.dest_host)

    def finish_migration(
        self,
        context,
        migration,
        instance,
        disk_info,
        network_info,
        image_meta,
        resize_instance,
        allocations,
        block_device_info=None,
        power_on=True,
        share_info=None,
    ):
        """Give the VM what the new flavor says; one that has come from elsewhere is ours now."""
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            with_ = self._resize_options(instance, network_info, block_device_info)
            change = functools.partial(resize.finish, self._node, self._watch, instance, **with_)
            if resize.stays(migration):
                vm = change()
            else:
                vm = self._arrive(instance, network_info, change)
            if power_on and (vm.hvm or not resize.stays(migration)):
                power.start(self._node, self._watch, instance)
            self._consoles.record(self._watch.heard(instance.uuid))

    def confirm_migration(self, context, migration, instance, network_info):
        """Delete the VM that was left behind; in place there is no other."""
        if resize.stays(migration):
            return
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            with self._peer(migration) as target:
                move.confirm(self._node, target, self._watch, instance)

    def finish_revert_migration(
        self,
        context,
        instance,
        network_info,
        migration,
        block_device_info=None,
        power_on=True,
        share_info=None,
    ):
        """Give the VM what the old flavor says: destroy() has left it alone.

        One that has moved was kept as it was. Nova asks for the same when it starts after a crash.
        """
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            if resize.stays(migration):
                with_ = self._resize_options(instance, network_info, block_device_info)
                vm = resize.change(
                    self._node, self._watch, instance, instance.flavor, keep_grown=True, **with_
                )
                boots = vm.hvm
            else:
                vm = move.back(self._node, self._watch, instance.uuid)
                boots = True
            if power_on and boots:
                power.start(self._node, self._watch, instance)
            self._consoles.record(self._watch.heard(instance.uuid))
        if instance.task_state == task_states.RESIZE_MIGRATING and not resize.stays(migration):
            with self._peer(migration) as target:
                move.forget(target, instance.uuid)

    def _end_move(self, instance, network_info, block_device_info):
        """Let a VM boot whose move broke off, on the node that Nova names.

        There is nothing to do, and it costs nothing, for one that did not move.
        """
        goes = identity.moved(self._watch.get(instance.uuid))
        if goes is None:
            return
        if instance.host != self._served:
            raise node_errors.InvalidState(
                f"VM {instance.uuid} moves: it is on {instance.host}, says Nova", code="Moved"
            )
        if goes.host != self._served:
            move.back(self._node, self._watch, instance.uuid)
            return
        network_info = network_info or instance.get_network_info()
        with_ = self._resize_options(instance, network_info, block_device_info)
        change = functools.partial(
            resize.change,
            self._node,
            self._watch,
            instance,
            instance.flavor,
            keep_grown=True,
            **with_,
        )
        self._arrive(instance, network_info, change)

    def _arrive(self, instance, network_info, change):
        return move.arrive(
            self._node,
            self._watch,
            instance,
            self._served,
            network_info=network_info,
            change=change,
        )

    def _resize_options(self, instance, network_info, block_device_info):
        seconds = CONF.shutdown_timeout
        return {
            "network_info": network_info,
            "block_device_info": block_device_info,
            "nic_tags": smartos_conf.nic_tags(CONF, self._served),
            "stop": functools.partial(power.stop, self._node, self._watch, instance, seconds),
        }

    # power and state

    def get_info(self, instance, use_cache=True):
        """The power state, from memory or from the node."""
        # one look at all of them was just now
        fresh = not use_cache and instance.uuid not in self._met
        with errors.translated(instance.uuid):
            uuid = self._acting(instance)
            return power.info(self._node, self._watch, uuid, fresh=fresh)

    def get_num_instances(self):
        """How many VMs are Nova's."""
        return len(self.list_instance_uuids())

    def instance_exists(self, instance):
        """Whether the node has the VM."""
        return self.instance_on_disk(instance)

    def list_instances(self):
        """The names of the VMs that are Nova's."""
        with errors.translated():
            known = self._watch.vms().values()
        return [whose.name for vm in known if (whose := identity.of(vm)) and self._is_ours(vm)]

    def list_instance_uuids(self):
        """The uuids of the VMs that are Nova's."""
        with errors.translated():
            known = self._watch.vms().values()
        return [vm.uuid for vm in known if self._is_ours(vm)]

    def reboot(
        self,
        context,
        instance,
        network_info,
        reboot_type,
        block_device_info=None,
        bad_volumes_callback=None,
        accel_info=None,
        share_info=None,
    ):
        """Soft: the guest is asked first. Hard: its network is made as Nova has it, too."""
        hard = reboot_type != "SOFT"
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            self._end_move(instance, network_info, block_device_info)
            guest.tell(self._node, [instance], self._watch.vms())
            power.reboot(
                self._node,
                self._watch,
                instance,
                hard=hard,
                seconds=CONF.shutdown_timeout,
                prepare=self._repair(instance, network_info) if hard else None,
            )
            self._consoles.record(self._watch.heard(instance.uuid))

    def _repair(self, instance, network_info):
        """What makes a VM that is down as Nova has it; what cannot be made is refused here."""
        repair_network = self._repair_network(instance, network_info)

        def repair():
            rescue.end(self._node, self._watch, self._watch.get(instance.uuid))
            repair_network()

        return repair

    def _repair_network(self, instance, network_info):
        """What makes the network as Nova has it; one that cannot be made is refused here."""
        network = interface.network(
            network_info,
            wanted=interface.asked(instance, instance.image_meta),
            nic_tags=smartos_conf.nic_tags(CONF, self._served),
        )
        return functools.partial(interface.repair, self._node, self._watch, instance, network)

    def pause(self, instance):
        """Let a guest stand still, where the brand can."""
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            power.pause(self._node, self._watch, instance)

    def unpause(self, instance):
        """Let a guest go on."""
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            power.unpause(self._node, self._watch, instance)

    def suspend(self, context, instance):
        """Refused: no brand can keep its guest's memory on disk.

        bhyve has no way to. kvm's monitor could migrate into a program that writes a file, but in
        its zone no process can be made (limit_priv without proc_fork, vm/proptable.js).
        """
        raise errors.Refused("SmartOS cannot keep the memory of a guest on disk: stop it instead")

    def resume(self, context, instance, network_info, block_device_info=None, share_info=None):
        """Refused, as nothing can be suspended."""
        raise errors.Refused("SmartOS cannot suspend a guest, so there is nothing to resume")

    def resume_state_on_host_boot(
        self, context, instance, network_info, share_info, block_device_info=None
    ):
        """Start a VM that Nova has as running; by autoboot it mostly is already."""
        if instance.vm_state != vm_states.RESCUED:
            self.power_on(context, instance, network_info, block_device_info)
            return
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            power.start(self._node, self._watch, instance, uuid=self._acting(instance))

    def power_off(self, instance, timeout=0, retry_interval=0):
        """Bring the VM down; a timeout lets its guest do it. A rescue ends with that."""
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            power.stop(self._node, self._watch, instance, timeout)
            rescue.end(self._node, self._watch, self._watch.get(instance.uuid))

    def power_on(
        self,
        context,
        instance,
        network_info,
        block_device_info=None,
        accel_info=None,
        share_info=None,
    ):
        """Boot the VM, unless it runs."""
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            self._end_move(instance, network_info, block_device_info)
            guest.tell(self._node, [instance], self._watch.vms())
            self._end_rescue(instance)
            power.start(self._node, self._watch, instance)
            self._consoles.record(self._watch.heard(instance.uuid))

    def trigger_crash_dump(self, instance):
        """Send an NMI to a guest that has a kernel of its own."""
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            power.crash_dump(self._node, self._watch, instance)

    def soft_delete(self, instance):
        """Stop the VM; nothing of it goes."""
        self.power_off(instance, CONF.shutdown_timeout)

    def restore(self, instance):
        """Start it again."""
        self.power_on(None, instance, None)

    def poll_rebooting_instances(self, timeout, instances):
        """Nothing to do: each of our reboots ends by itself, in a restart or in an error."""

    def instance_on_disk(self, instance):
        """Whether the node has the VM."""
        with errors.translated(instance.uuid):
            try:
                self._watch.get(instance.uuid)
            except node_errors.NotFound:
                return False
            return True

    def _changed(self, old: vms.Vm | None, new: vms.Vm | None) -> None:
        """Tell Nova of a VM that went down or came up by itself."""
        if new is not None:
            self._consoles.record(new)
        elif old is not None:
            self._consoles.gone(old.uuid)
        transition = state.transition(old, new)
        if transition is not None and new is not None and self._is_ours(new):
            self.emit_event(virtevent.LifecycleEvent(new.uuid, transition))

    def _is_ours(self, vm: vms.Vm) -> bool:
        whose = identity.of(vm)
        return whose is not None and whose.host == self._served

    def set_admin_password(self, instance, new_pass):
        """Set a password inside a zone; other guests have no door for that."""
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            vm = self._watch.get(instance.uuid)
            guest.set_admin_password(self._node, vm, instance.image_meta, new_pass)

    # ports

    def attach_interface(self, context, instance, image_meta, vif):
        """Give the VM a nic; its guest has it after the next boot."""
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            interface.attach(
                self._node,
                self._watch,
                instance,
                vif,
                wanted=interface.asked(instance, image_meta),
                nic_tags=smartos_conf.nic_tags(CONF, self._served),
            )

    def detach_interface(self, context, instance, vif):
        """Take a nic away: it falls silent, and is gone after the next boot."""
        others = [each for each in instance.get_network_info() if each["id"] != vif["id"]]
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            # Neutron deletes a port whatever its server does, rescued or not
            uuid = self._acting(instance)
            interface.detach(self._node, self._watch, instance, vif, others, uuid=uuid)

    def plug_vifs(self, instance, network_info):
        """Nothing to do: the node makes the vnics of a VM that boots, and keeps them until then."""

    def unplug_vifs(self, instance, network_info):
        """Nothing to do: the node removes the vnics of a VM that goes down."""

    # consoles

    def get_console_output(self, context, instance):
        """The last that the console has shown."""
        with errors.translated(instance.uuid):
            # as text: of bytes Nova's own test of drivers wants no more than it encodes again
            return self._consoles.output(instance.uuid).decode("latin-1")

    def get_vnc_console(self, context, instance):
        """Where nova-novncproxy reaches the screen of a virtual machine."""
        with errors.translated(instance.uuid):
            wanted = interface.asked(instance, instance.image_meta)
            if wanted.values.get("video") == "none":
                raise exception.ConsoleTypeUnavailable(console_type="novnc")
            return self._consoles.display(instance.uuid, CONF.vnc.server_proxyclient_address)

    def get_serial_console(self, context, instance):
        """Where nova-serialproxy reaches the console."""
        with errors.translated(instance.uuid):
            return self._consoles.serial(instance.uuid, CONF.serial_console.proxyclient_address)

    def _shown(self, uuid: str) -> vms.Vm:
        """The VM whose guest an instance's user sees: in a rescue, not always its own."""
        if not self._is_ours(self._watch.get(uuid)):
            raise node_errors.NotFound(f"VM {uuid} is not of this service", code="VmNotFound")
        return self._watch.get(rescue.acting(self._watch, uuid))

    # images

    def snapshot(self, context, instance, image_id, update_task_state):
        """Make an image of what the VM's root holds at this moment; the VM itself goes on."""
        with errors.translated(instance.uuid, image_id=image_id):
            self._exports.make(context, instance, image_id, update_task_state)

    def quiesce(self, context, instance, image_meta):
        """Refuse it: the platform gives no guest an agent that could."""
        raise exception.InstanceQuiesceNotSupported(instance_id=instance.uuid)

    def unquiesce(self, context, instance, image_meta):
        """Refuse it, as nothing can be quiesced."""
        raise exception.InstanceQuiesceNotSupported(instance_id=instance.uuid)

    def manage_image_cache(self, context, all_instances):
        """Delete the images that we brought and nothing has used for long."""
        self._exports.tidy()
        options = CONF.image_cache
        if options.remove_unused_base_images:
            with errors.translated():
                self._images.expire(options.remove_unused_original_minimum_age_seconds)

    def cache_image(self, context, image_id):
        """Bring an image before anybody boots it."""
        with errors.translated(image_id=image_id):
            return self._images.cache(context, image_id)

    # the node and what it has

    def get_diagnostics(self, instance):
        """What the node has counted for the instance, as clients before 2.48 know it."""
        with errors.translated(instance.uuid):
            found = compute_node.counters(self._node, self._watch, self._acting(instance))
            return inventory.legacy_diagnostics(found)

    def get_instance_diagnostics(self, instance):
        """What the node has counted for the instance."""
        with errors.translated(instance.uuid):
            found = compute_node.counters(self._node, self._watch, self._acting(instance))
            drive = configdrive.required_by(instance)
            return inventory.instance_diagnostics(found, config_drive=drive)

    def get_host_ip_addr(self):
        """Where other nodes find this one."""
        return self._host.facts.info.admin_ip or CONF.my_ip

    def update_provider_tree(self, provider_tree, nodename, allocations=None):
        """Tell Placement what the node has; Nova sends what differs from what it knows."""
        with errors.translated():
            compute_node.provide(self._host, provider_tree, self.capabilities_as_traits())

    def get_available_resource(self, nodename):
        """Read the node's pool; everything else is known already."""
        # the first time, Nova is about to serve
        self._met = frozenset()
        with errors.translated():
            resources = self._host.resources()
            # the one thing that Nova does with every driver again and again
            guest.tell_all(self._node, self._locks, self._watch.vms(), self._latest)
            for vm in self._watch.vms().values():
                self._consoles.record(vm)
        return resources

    def get_host_uptime(self):
        """What uptime says on the node."""
        with errors.translated():
            return self._node.uptime.get()

    def get_host_cpu_stats(self):
        """How busy the processors have been since the node booted."""
        with errors.translated():
            return compute_node.cpu_stats(self._node)

    def block_stats(self, instance, disk_id):
        """What went through the one disk; SmartOS counts several together, so those are unknown."""
        with errors.translated(instance.uuid):
            found = compute_node.counters(self._node, self._watch, self._acting(instance))
            return inventory.block_stats(found) if len(found.vm.disks) < 2 else None

    def get_available_nodes(self, refresh=False):
        """The one node, whether it can be reached or not."""
        return [self._host.name]

    def get_nodenames_by_uuid(self, refresh=False):
        """The one node by its own UUID."""
        return {self._host.uuid: self._host.name}

    def default_root_device_name(self, instance, image_meta, root_bdm):
        """A name that fits the image's disk bus; the other disks' names follow it."""
        return inventory.root_device_name(image_meta)

    # refused, before anything is done

    def get_volume_connector(self, instance):
        """Refuse volumes: Nova asks this first of all, for one to boot from as well."""
        raise errors.Refused(
            "Volumes cannot be attached to instances on SmartOS: use a flavor with ephemeral disks"
        )

    def check_can_live_migrate_destination(
        self,
        context,
        instance,
        src_compute_info,
        dst_compute_info,
        block_migration=False,
        disk_over_commit=False,
    ):
        """Refuse it: no platform release moves a running VM."""
        raise _cannot_live_migrate()

    def check_can_live_migrate_source(
        self, context, instance, dest_check_data, block_device_info=None
    ):
        """Refuse it, to a destination that thinks otherwise as well."""
        raise _cannot_live_migrate()

    def check_instance_shared_storage_local(self, context, instance):
        """Say that no node has the files of another one."""
        return None

    def check_instance_shared_storage_remote(self, context, data):
        """Say that no node has the files of another one."""
        return False


def _cannot_live_migrate():
    return exception.MigrationPreCheckError(
        reason="SmartOS does not move a running VM to another node"
    )
