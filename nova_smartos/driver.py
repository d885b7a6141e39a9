# SPDX-License-Identifier: Apache-2.0
"""SmartOSDriver: what Nova asks of one SmartOS node, in the order in which Nova asks it.

A method here is a few lines: what takes more than one step stands in `operations`, what turns one
document into another in `translate`.
"""

import nova.conf
from nova import exception
from nova.virt import configdrive, driver
from nova.virt import event as virtevent
from oslo_log import log

from nova_smartos import conf as smartos_conf
from nova_smartos.operations import build, image, interface, locks, power, reconcile, watch
from nova_smartos.operations import host as compute_node
from nova_smartos.smartos import errors as node_errors
from nova_smartos.smartos import node, vms
from nova_smartos.translate import errors, identity, inventory, state

CONF = nova.conf.CONF
LOG = log.getLogger(__name__)


class SmartOSDriver(driver.ComputeDriver):
    """One nova-compute drives one node, on the node itself or over SSH."""

    capabilities = {
        **driver.ComputeDriver.capabilities,
        "has_imagecache": True,
        "supports_attach_interface": True,
        "supports_trusted_certs": True,
        "supports_image_type_raw": True,
    }

    _node: node.Node

    def __init__(self, virtapi):
        super().__init__(virtapi)
        smartos_conf.register(CONF)
        self._locks = locks.Locks()

    def init_host(self, host):
        """Meet the node and learn what is on it."""
        self._node = smartos_conf.connect(CONF)
        with errors.translated():
            reconcile.wait_for_earlier(self._node)
            self._watch = watch.Watch(self._node, self._changed)
            self._host = compute_node.Host(self._node, self._watch.vms, self._locks.held)
            compute_node.remember_node(self._host.uuid, self._host.name)
            self._images = image.Images(self._node, CONF[smartos_conf.GROUP])
            self._images.start()
            self._watch.start()

    def process_instances_at_startup(self, context, instances):
        """Refuse a node that has another name now; then mend what a crash has left, where safe."""
        compute_node.refuse_rename(context, self._host.uuid, self._host.name)
        reap = CONF.running_deleted_instance_action == "reap"
        try:
            reconcile.at_start(self._node, context, CONF.host, reap=reap)
        except node_errors.SmartOSError:
            # the instances' own start must not wait for what only tidies up
            LOG.exception("The node could not be compared with Nova's records")
        return instances

    def cleanup_host(self, host):
        """Let go of the node."""
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
        with (
            errors.translated(instance.uuid, image_id=instance.image_ref),
            self._locks.hold(instance.uuid),
        ):
            try:
                planned = build.plan(
                    self._images,
                    instance,
                    image_meta,
                    injected_files=injected_files,
                    admin_password=admin_password,
                    network_info=network_info,
                    nic_tags=CONF[smartos_conf.GROUP].physical_networks,
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
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
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

    # power and state

    def get_info(self, instance, use_cache=True):
        """The power state, from memory or from the node."""
        with errors.translated(instance.uuid):
            return power.info(self._node, self._watch, instance, fresh=not use_cache)

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
        """Soft: the guest is asked first. Either way it runs afterwards."""
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            power.reboot(
                self._node,
                self._watch,
                instance,
                hard=reboot_type != "SOFT",
                seconds=CONF.shutdown_timeout,
            )

    def pause(self, instance):
        """Let a guest stand still, where the brand can."""
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            power.pause(self._node, self._watch, instance)

    def unpause(self, instance):
        """Let a guest go on."""
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            power.unpause(self._node, self._watch, instance)

    def suspend(self, context, instance):
        """Refused: no brand can."""
        power.suspend()

    def resume_state_on_host_boot(
        self, context, instance, network_info, share_info, block_device_info=None
    ):
        """Start a VM that Nova has as running; by autoboot it mostly is already."""
        self.power_on(context, instance, network_info, block_device_info)

    def power_off(self, instance, timeout=0, retry_interval=0):
        """Bring the VM down; a timeout lets its guest do it."""
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            power.stop(self._node, self._watch, instance, timeout)

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
            power.start(self._node, self._watch, instance)

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
        transition = state.transition(old, new)
        if transition is not None and new is not None and self._is_ours(new):
            self.emit_event(virtevent.LifecycleEvent(new.uuid, transition))

    def _is_ours(self, vm: vms.Vm) -> bool:
        whose = identity.of(vm)
        return whose is not None and whose.host == CONF.host

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
                nic_tags=CONF[smartos_conf.GROUP].physical_networks,
            )

    def detach_interface(self, context, instance, vif):
        """Take a nic away: it falls silent, and is gone after the next boot."""
        others = [each for each in instance.get_network_info() if each["id"] != vif["id"]]
        with errors.translated(instance.uuid), self._locks.hold(instance.uuid):
            interface.detach(self._node, self._watch, instance, vif, others)

    def plug_vifs(self, instance, network_info):
        """Nothing to do: the node makes the vnics of a VM that boots, and keeps them until then."""

    def unplug_vifs(self, instance, network_info):
        """Nothing to do: the node removes the vnics of a VM that goes down."""

    # the node and what it has

    def get_diagnostics(self, instance):
        """What the node has counted for the instance, as clients before 2.48 know it."""
        with errors.translated(instance.uuid):
            found = compute_node.counters(self._node, self._watch, instance.uuid)
            return inventory.legacy_diagnostics(found)

    def get_instance_diagnostics(self, instance):
        """What the node has counted for the instance."""
        with errors.translated(instance.uuid):
            found = compute_node.counters(self._node, self._watch, instance.uuid)
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
        with errors.translated():
            return self._host.resources()

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
            found = compute_node.counters(self._node, self._watch, instance.uuid)
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
