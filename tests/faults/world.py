# SPDX-License-Identifier: Apache-2.0
"""One emulated node, Nova's database, and a driver whose commands can be spoilt."""

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import fixtures

from tests import direct as operators
from tests import emulated, openstack, qcow2_files, waits
from tests.faults import transport as faulty
from tests.functional import cloud, images

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nova import context as nova_context
    from nova import objects
    from nova.compute import task_states, vm_states
    from nova.network import model
    from nova.objects import instance_info_cache
    from nova.virt import fake
    from nova.virt import node as nova_node
    from oslo_utils import timeutils

from nova_smartos import conf as smartos_conf
from nova_smartos import driver as driver_module
from nova_smartos.operations import (
    build,
    interface,
    power,
    reconcile,
    signing,
    transfer,
    watch,
)
from nova_smartos.smartos import node as node_module
from nova_smartos.smartos import vms
from nova_smartos.translate import identity
from smartos_emulator import cli

QUIET = openstack.QUIET
HOST = "compute1"
#: The nova-compute of the other node, to which servers move.
TARGET = "compute2"
PROJECT = "1" * 32
#: How long the driver waits for a node: the emulated one's clock runs faster, its own does not.
HURRIED = {
    (build, "APPEAR_SECONDS"): 0.3,
    (build, "LOOK_SECONDS"): 0.1,
    (interface, "SETTLE_SECONDS"): 0.3,
    (transfer, "FIRST_PAUSE"): 0.02,
    (transfer, "_LOOK_SECONDS"): 0.1,
    (power, "_WAY_SECONDS"): 2.0,
    (power, "_BOOT_SECONDS"): 0.0,
    (power, "_LOOK_SECONDS"): 0.3,
    (power, "_ZONE_STOP_SECONDS"): 2,
    (power, "_REBOOT_SECONDS"): 4.0,
    (watch, "_POLL_SECONDS"): 0.3,
    (watch, "_POLL_BLIND_SECONDS"): 0.1,
}

# what boots and reboots of the node change of a VM by themselves
_RESTLESS = frozenset(
    "boot_timestamp exit_status exit_timestamp init_restarts pid snapshots transition_expire"
    " transition_to zoneid last_modified state zone_state".split()
)


@dataclasses.dataclass
class Server:
    """An instance, and what Nova passes along with it."""

    instance: Any
    image: Any
    network: Any
    #: what ZFS calls the root that a rebuild is to replace
    root: str = ""
    #: the image in Glance that was made of it; "" when that failed
    made: str | None = None


@dataclasses.dataclass(frozen=True)
class Picture:
    """All that is on the node, and the VMs that are not Nova's in full."""

    vms: frozenset[str]
    datasets: frozenset[str]
    images: frozenset[str]
    files: frozenset[str]
    foreign: Mapping[str, Any]


class World(fixtures.Fixture):
    """Everything that a case needs; `driver` is the present one's."""

    def _setUp(self) -> None:
        self._begin("--speed", cloud.SPEED)
        self._configure()
        self._serve()
        found = f"{self.node.tools}:{self.node.directory}/root/opt/custom/bin"
        carrier = faulty.Direct(self.node.directory, found)
        self.gz = node_module.Node(carrier)
        self.transport = faulty.Faulty(carrier, self.act_on_node)
        self._carrier: Any = self.transport
        self.driver: Any = None
        #: by host, also one that is just beginning
        self._begun: dict[str, Any] = {}
        self._make_strangers()
        self.start()
        self.addCleanup(self.stop)
        self._bring_images()
        #: The node without a server of Nova's.
        self.before = self.picture(self.observed())

    def _begin(self, *node_options: str) -> None:
        """Nova's databases, and a node."""
        self._numbers = itertools.count(10)
        self.scaffold = cloud.Scaffold()
        self.addCleanup(self._down)
        self.scaffold.setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        node = emulated.EmulatedNode("--nic-tag", "external", *node_options)
        self.node = self.useFixture(node)
        self.other: Other | None = None

    def _serve(self) -> None:
        """What Nova asks of others."""
        self.glance = self.scaffold.useFixture(images.Glance(self.scaffold))
        # whom the metadata service asks for security groups
        self.scaffold.useFixture(cloud.nova_fixtures.NeutronFixture(self.scaffold))
        self.context = nova_context.get_admin_context()
        self._images: dict[str, str] = {}
        self._bytes: dict[str, tuple[dict[str, str], bytes]] = {}

    def _bring_images(self) -> None:
        for kind in ("zone", "minimal", "lx", "disk", "iso"):
            self.driver.cache_image(self.context, self.image(kind).id)

    def _configure(self) -> None:
        nova_node.LOCAL_NODE_UUID = None
        smartos_conf.register(cloud.CONF)
        state = self.folder / "state"
        state.mkdir()
        self.scaffold.flags(vif_plugging_timeout=5, shutdown_timeout=2)
        options = {**cloud.connection(self.node), "trusted_image_owners": ["*"]}
        options["network_mappings"] = ["*:*:external"]
        options["spool_directory"] = str(state / "spool")
        key = state / "signing-key"
        key.write_text("a key of the cloud's own, of 32 bytes and more")
        options[signing.OPTION] = str(key)
        for name, value in options.items():
            cloud.CONF.set_override(name, value, smartos_conf.GROUP)
        self.scaffold.stub_out("nova_smartos.conf.connect", self._connect)
        self.scaffold.stub_out("nova_smartos.conf.peer", self._peer)
        for (module, name), seconds in HURRIED.items():
            self.useFixture(fixtures.MonkeyPatch(f"{module.__name__}.{name}", seconds))

    def _connect(self, conf: Any) -> node_module.Node:
        return node_module.Node(self._carrier)

    def _down(self) -> None:
        self.scaffold.tearDown()
        assert self.scaffold.doCleanups() is not False

    # the node

    def act_on_node(self, what: str) -> None:
        """Do to the node what no tool of its own does."""
        self._act_on(HOST, self.node, what)

    def free(self) -> None:
        """Let full pools have room again."""
        self.act_on_node("free")
        if self.other is not None:
            self._act_on(TARGET, self.other.node, "free")

    def _act_on(self, host: str, node: emulated.EmulatedNode, what: str) -> None:
        if what == "reboot":
            self._reboot(host, node)
        else:
            _emulator("fault", str(node.directory), "disk", what)

    def _reboot(self, host: str, node: emulated.EmulatedNode) -> None:
        """The node and its VMs are up again, and the driver has heard it, before anybody goes on.

        What the operation then asks would else be chance.
        """
        watching = getattr(self._begun.get(host), "_watch", None)
        if watching is not None and (not watching._threads or watching._stopping.is_set()):
            # of one that is just beginning, or has ended
            watching = None
        stream = watching and watching._events
        _emulator("reboot", str(node.directory))
        facts = ("status", str(node.directory), "--json")
        waits.until(lambda: not json.loads(_emulator(*facts))["booting"], "the VMs to boot")
        if watching is not None:
            # which it may have missed before
            missed = lambda: stream is None or watching._events is not stream  # noqa: E731
            waits.until(missed, "the driver to miss its node")
            waits.until(lambda: watching.current, "the driver to hear its node again")

    def _make_strangers(self) -> None:
        """VMs that are none of this Nova's: an operator's, and another nova-compute's."""
        uuid = self.node.image("zone")
        mark = {"version": 1, "host": "compute9", "name": "other", "flavor": {}}
        mark |= dict.fromkeys(("display_name", "project_id", "user_id", "image_ref"), "")
        for alias, internal in (
            ("operators", {}),
            ("others", {"nova:instance": json.dumps({**mark, "created_at": ""})}),
        ):
            document = {
                "brand": "joyent",
                "alias": alias,
                "image_uuid": uuid,
                "max_physical_memory": 128,
                "quota": 5,
                "internal_metadata": internal,
            }
            self.node.tool("vmadm", "create", payload=json.dumps(document))

    def observed(self) -> reconcile.Observed:
        """The node as it is, seen past the faults."""
        return reconcile.observed(self.gz)

    def picture(self, seen: reconcile.Observed, host: str = HOST) -> Picture:
        """The same, to be compared with another time's."""
        strangers = reconcile.foreign(seen, reconcile.Desired(host, {}))
        return Picture(
            frozenset(vm.uuid for vm in seen.vms),
            frozenset(each.name for each in seen.datasets),
            seen.images,
            frozenset(seen.files),
            {
                vm.uuid: {key: vm.document[key] for key in vm.document.keys() - _RESTLESS}
                for vm in strangers
            },
        )

    # nova-compute

    def start(self) -> None:
        """Each nova-compute that does not run begins: a new driver, as ComputeManager treats it."""
        self.transport.revive()
        if self.driver is not None and (self.other is None or self.other.driver is not None):
            return
        self.driver = self.driver or self._begin_driver(HOST, self.transport)
        if self.other is not None and self.other.driver is None:
            self.other.driver = self._begin_driver(TARGET, self.other.transport)
        for instance in objects.InstanceList.get_by_host(self.context, HOST):
            if instance.task_state == task_states.RESIZE_MIGRATING:
                self._give_up(instance)

    def _begin_driver(self, host: str, carrier: Any) -> Any:
        self._carrier = carrier
        nova_node.LOCAL_NODE_UUID = None
        state = self.folder / f"state-{host}"
        state.mkdir(exist_ok=True)
        self.scaffold.flags(host=host, state_path=str(state))
        begun = self._begun[host] = driver_module.SmartOSDriver(fake.FakeVirtAPI())
        # what fails here ends a real nova-compute
        begun.init_host(host)
        self.scaffold.flags(host=HOST)
        # what Nova reads for it
        listed = objects.InstanceList.get_by_host(
            self.context, host, expected_attrs=["info_cache", "flavor", "system_metadata"]
        )
        begun.process_instances_at_startup(self.context, listed)
        return begun

    def _give_up(self, instance: Any) -> None:
        """As ComputeManager does with what was moving when it ended."""
        migration = objects.Migration.get_by_id(
            self.context, instance.migration_context.migration_id
        )
        network = instance.get_network_info()
        self.driver.finish_revert_migration(self.context, instance, network, migration, {}, True)
        instance.task_state = None
        instance.save()

    def stop(self, *, both: bool = True) -> None:
        """The present nova-compute ends, and that of the other node."""
        if self.driver is not None:
            self.driver.cleanup_host(HOST)
            self.driver = None
        if both and self.other is not None and self.other.driver is not None:
            self.other.driver.cleanup_host(TARGET)
            self.other.driver = None

    def two(self) -> "Other":
        """The other node and its nova-compute, brought up when first they are wanted."""
        if self.other is None:
            options = ("--name", "node-2", "--speed", cloud.SPEED, "--nic-tag", "external")
            ssh = ("--ssh", "127.0.0.1:0")
            node = self.useFixture(emulated.EmulatedNode(*options, *ssh))
            operators.let(self.node, node)
            peers = {TARGET: f"ssh://root@127.0.0.1:{node.facts()['ssh']['port']}"}
            cloud.CONF.set_override("peers", peers, smartos_conf.GROUP)
            carrier = faulty.Direct(node.directory, node.tools)
            act = functools.partial(self._act_on, TARGET, node)
            spoilt = self.transport.beside(carrier, act, "target ")
            found = Other(node, node_module.Node(carrier), spoilt)
            found.driver = self._begin_driver(TARGET, spoilt)
            for kind in ("zone", "lx", "disk", "iso"):
                found.driver.cache_image(self.context, self.image(kind).id)
            found.before = self.picture(reconcile.observed(found.gz), TARGET)
            self.other = found
        return self.other

    @contextlib.contextmanager
    def directly(self) -> Iterator[None]:
        """Servers move straight from node to node."""
        cloud.CONF.set_override("direct_moves", True, smartos_conf.GROUP)
        try:
            yield
        finally:
            cloud.CONF.clear_override("direct_moves", smartos_conf.GROUP)

    def _peer(self, conf: Any, host: str, address: str) -> node_module.Node:
        assert host == TARGET
        return node_module.Node(self.two().transport)

    def place(self, host: str) -> tuple[Any, node_module.Node]:
        """The driver and the node of a nova-compute."""
        return (self.driver, self.gz) if host == HOST else (self.two().driver, self.two().gz)

    # what Nova has

    def follow(self) -> None:
        """Wait until the driver hears from the node again."""
        known = [each._watch for each in self._drivers()]
        waits.until(lambda: all(each.current for each in known), "the drivers to hear their nodes")

    def _drivers(self) -> list[Any]:
        return [self.driver, *([self.other.driver] if self.other else [])]

    def image(self, kind: str, *, new: bool = False) -> Any:
        """The ImageMeta of a small image, one of its own if wanted."""
        if kind not in self._bytes:
            self._bytes[kind] = self._made(kind)
        found = None if new else self._images.get(kind)
        if found is None:
            properties, data = self._bytes[kind]
            form = kind if kind in ("iso", "qcow2") else "raw"
            found = images.upload(
                self.glance, data, properties, name=f"nst-{kind}", disk_format=form
            )
        if not new:
            self._images[kind] = found
        return objects.ImageMeta.from_dict(self.glance.show(None, found))

    def _made(self, kind: str) -> tuple[dict[str, str], bytes]:
        """The properties and the bytes of a small image."""
        if kind == "disk":
            return {}, images.disk(8)
        if kind == "iso":
            return {}, images.disk(2)
        if kind == "qcow2":
            # with a hole that is not sent
            return {}, qcow2_files.made(images.disk(1).ljust(40 * images.MIB, b"\0") + b"end")
        if kind == "tree":
            properties = {"smartos_image_type": "lx-dataset", "smartos_image_format": "tar"}
            return properties, images.tree({"etc/os-release": b"ID=debian\n"})
        return images.stream(self.node, self.folder, kind)

    def server(
        self,
        kind: str,
        *,
        specs: Mapping[str, str] | None = None,
        ports: int = 1,
        drive: bool = False,
        new_image: bool = False,
    ) -> Server:
        """An instance that Nova has claimed for this host, and nothing of it on the node."""
        image = self.image(kind, new=new_image)
        number = next(self._numbers)
        flavor = self.flavor(specs=specs)
        instance = objects.Instance(
            self.context,
            user_id="user",
            project_id=PROJECT,
            host=HOST,
            launched_on=HOST,
            image_ref=image.id,
            instance_type_id=flavor.id,
            display_name=f"nst-{number}",
            hostname=f"nst-{number}",
            vm_state=vm_states.BUILDING,
            memory_mb=flavor.memory_mb,
            vcpus=flavor.vcpus,
            root_gb=flavor.root_gb,
            ephemeral_gb=0,
            metadata={},
            system_metadata=self._system_metadata(image),
            config_drive="True" if drive else "",
        )
        instance.flavor = flavor
        instance.old_flavor = instance.new_flavor = None
        instance.create()
        network = model.NetworkInfo([self.vif() for _ in range(ports)])
        self.connect(instance, network)
        return Server(instance, image, network)

    def flavor(
        self, *, memory_mb: int = 256, root_gb: int = 10, specs: Mapping[str, str] | None = None
    ) -> Any:
        """A flavor that Nova knows."""
        name = f"nst-{next(self._numbers)}"
        flavor = objects.Flavor(
            self.context,
            name=name,
            flavorid=name,
            memory_mb=memory_mb,
            vcpus=1,
            root_gb=root_gb,
            ephemeral_gb=0,
            swap=0,
            rxtx_factor=1.0,
            is_public=True,
            disabled=False,
            extra_specs=dict(specs or {}),
        )
        flavor.create()
        return flavor

    def resized(self, server: Server) -> Any:
        """The migration and the new flavor of a resize that Nova has begun."""
        instance = server.instance
        if instance.migration_context is None:
            instance.old_flavor = instance.flavor
            instance.new_flavor = self.flavor(
                memory_mb=512, root_gb=11, specs=dict(instance.flavor.extra_specs)
            )
            migration = objects.Migration(
                self.context,
                instance_uuid=instance.uuid,
                source_compute=HOST,
                dest_compute=HOST,
                status="migrating",
                migration_type="resize",
                old_instance_type_id=instance.old_flavor.id,
                new_instance_type_id=instance.new_flavor.id,
            )
            migration.create()
            instance.migration_context = objects.MigrationContext(
                self.context, instance_uuid=instance.uuid, migration_id=migration.id
            )
        instance.flavor = instance.old_flavor
        instance.save()
        return self.migration(server)

    def moved(self, server: Server) -> Any:
        """The migration of a server that is to move, begun anew if it had one."""
        instance = server.instance
        migration = objects.Migration(
            self.context,
            instance_uuid=instance.uuid,
            source_compute=HOST,
            dest_compute=TARGET,
            dest_host="192.0.2.2",
            status="migrating",
            migration_type="migration",
            old_instance_type_id=instance.flavor.id,
            new_instance_type_id=instance.flavor.id,
        )
        migration.create()
        instance.old_flavor = instance.new_flavor = instance.flavor
        instance.migration_context = objects.MigrationContext(
            self.context, instance_uuid=instance.uuid, migration_id=migration.id
        )
        instance.save()
        return migration

    def migration(self, server: Server) -> Any:
        """The migration that a resize has begun."""
        migration_id = server.instance.migration_context.migration_id
        return objects.Migration.get_by_id(self.context, migration_id)

    def _system_metadata(self, image: Any) -> dict[str, str]:
        properties = self.glance.show(None, image.id)["properties"]
        told = {"container_format": "bare", "base_image_ref": image.id}
        told["disk_format"] = image.disk_format
        return {f"image_{key}": str(value) for key, value in {**properties, **told}.items()}

    def connect(self, instance: Any, network: Any) -> None:
        """Let Nova know the instance's ports."""
        cache = instance_info_cache.InstanceInfoCache.new(self.context, instance.uuid)
        cache.network_info = network
        cache.save()
        instance.info_cache = cache
        instance.obj_reset_changes(["info_cache"])

    def vif(self) -> Any:
        """A port that is wired already."""
        number = next(self._numbers)
        address = model.FixedIP(
            address=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        )
        subnet = model.Subnet(
            cidr="10.0.0.0/8",
            dns=[],
            gateway=model.IP(address="10.255.255.254", type="gateway"),
            ips=[address],
            routes=[],
            version=4,
        )
        network = model.Network(id=cloud.NETWORK, bridge="br", label="net", subnets=[subnet])
        return model.VIF(
            id=f"00000000-0000-4000-8000-{number:012x}",
            address=f"fa:16:3e:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}",
            network=network,
            type=model.VIF_TYPE_OTHER,
            details={},
            active=True,
        )

    def launched(self, server: Server) -> None:
        """Nova writes down that the instance runs."""
        server.instance.vm_state = vm_states.ACTIVE
        server.instance.launched_at = timeutils.utcnow()
        server.instance.save()

    def deleted(self, server: Server) -> None:
        """Nova writes down that the instance is gone."""
        server.instance.destroy()

    def tidy(self, seen: reconcile.Observed | None = None) -> list[str]:
        """Take away images that came with a case; what else is there that was not before."""
        seen = seen or self.observed()
        if brought := seen.images - self.before.images:
            for image in brought:
                self.node.tool("imgadm", "delete", image)
            seen = self.observed()
        return _extra(self.picture(seen), self.before) + self._tidy_other()

    def _tidy_other(self) -> list[str]:
        if self.other is None:
            return []
        seen = reconcile.observed(self.other.gz)
        for image in seen.images - self.other.before.images:
            self.other.node.tool("imgadm", "delete", image)
            seen = reconcile.observed(self.other.gz)
        told = [f"target: {each.kind} {each.subject}" for each in self.findings(seen, TARGET)]
        return told + _extra(self.picture(seen, TARGET), self.other.before)

    def anew(self) -> None:
        """Whatever a case has left: no servers, a node as it was, and a new nova-compute."""
        for instance in objects.InstanceList.get_by_host(self.context, HOST):
            instance.destroy()
        self.act_on_node("free")
        self.transport.revive()
        for vm in self.gz.vmadm.lookup():
            if vm.uuid not in self.before.vms:
                self.node.tool("vmadm", "delete", vm.uuid)
        seen = self.observed()
        for dataset in sorted({each.name for each in seen.datasets} - self.before.datasets):
            if "@" not in dataset and dataset.rpartition("/")[2] not in seen.images:
                with contextlib.suppress(AssertionError):
                    self.node.tool("zfs", "destroy", "-r", dataset)
        for name in seen.files:
            if name.startswith("drive-"):
                self.gz.files.delete_folder(name)
            else:
                self.gz.files.delete(name)
        if self.other is not None:
            self._anew_other(self.other)
        self.tidy()
        self.stop()
        self.start()

    def _anew_other(self, other: "Other") -> None:
        for instance in objects.InstanceList.get_by_host(self.context, TARGET):
            instance.destroy()
        self._act_on(TARGET, other.node, "free")
        for vm in other.gz.vmadm.lookup():
            if vm.uuid not in other.before.vms:
                other.node.tool("vmadm", "delete", vm.uuid)
        seen = reconcile.observed(other.gz)
        for dataset in sorted({each.name for each in seen.datasets} - other.before.datasets):
            if "@" not in dataset and dataset.rpartition("/")[2] not in seen.images:
                with contextlib.suppress(AssertionError):
                    other.node.tool("zfs", "destroy", "-r", dataset)

    def findings(self, seen: reconcile.Observed, host: str = HOST) -> list[reconcile.Finding]:
        """What the audit says."""
        return reconcile.findings(seen, reconcile.desired(self.context, host, seen))

    def runnable(self, uuid: str) -> list[str]:
        """The nodes on which a VM runs, or may boot."""
        found = []
        for host in (HOST, TARGET):
            for vm in self.place(host)[1].vmadm.lookup({"uuid": uuid}):
                rests = vm.state in (vms.State.STOPPED, vms.State.RUNNING)
                if vm.autoboot or (rests and identity.moved(vm) is None):
                    found.append(host)
        return found


@dataclasses.dataclass
class Other:
    """The node to which servers move, and its nova-compute."""

    node: emulated.EmulatedNode
    gz: node_module.Node
    transport: Any
    driver: Any = None
    before: Picture = Picture(frozenset(), frozenset(), frozenset(), frozenset(), {})


def _extra(now: Picture, before: Picture) -> list[str]:
    return [
        f"left over: {name} {sorted(extra)}"
        for name in ("vms", "datasets", "files")
        if (extra := getattr(now, name) - getattr(before, name))
    ]


def _emulator(*words: str) -> str:
    """What smartos-emulator says, which must succeed; here, a process less."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            cli.main([*words])
        except SystemExit as end:
            assert not end.code, end.code
    return said.getvalue()


@contextlib.contextmanager
def world() -> Iterator[World]:
    """A world, and its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with World() as found:
            yield found
