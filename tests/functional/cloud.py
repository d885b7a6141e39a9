# SPDX-License-Identifier: Apache-2.0
"""Real Nova in this process, on emulated nodes.

nova-api, scheduler, conductor and nova-compute run with Placement as Nova's functional tests run
them; Neutron and Glance are Nova's stand-ins. The driver and what it speaks to are real.

A stack takes seconds to start: one for a whole module.

    from tests.functional import cloud as cloud_module

    pytestmark = cloud_module.QUIET

    @pytest.fixture(scope="module")
    def cloud():
        with cloud_module.Cloud() as cloud:
            yield cloud
"""

import contextlib
import ipaddress
import itertools
import json
import os
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import fixtures
import sqlalchemy.pool

from tests import emulated, openstack, waits
from tests.functional import images

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    # how often a periodic task runs is decided when this is read, for all the clouds of a process
    import nova.compute.manager
    import nova.conf
    import nova.test
    import nova.thread_pool_factory
    from nova.tests import fixtures as nova_fixtures
    from nova.tests.functional import fixtures as func_fixtures
    from nova.tests.functional import integrated_helpers
    from nova.tests.functional.api import client as api_client

from nova_smartos import conf as smartos_conf

CONF = nova.conf.CONF
# A service that stops takes its process for one that ends, and lets it make no thread pool any
# more; here many come and go in one. Its pools are shut down all the same, by Nova's test fixture.
nova.thread_pool_factory.shutdown_all_executors = lambda: None
QUIET = openstack.QUIET
NotFound = api_client.OpenStackApiNotFoundException
Refused = api_client.OpenStackApiException

#: Node seconds in a second: a guest boots in milliseconds.
SPEED = "40"
#: How long anything that Nova does may take on a busy machine.
SECONDS = 90
#: How often Nova is asked although it tells nothing.
LULL_SECONDS = 1.0
NETWORK = nova_fixtures.NeutronFixture.network_1["id"]
SUBNET = nova_fixtures.NeutronFixture.subnet_1["id"]

T = TypeVar("T")


class Neutron(nova_fixtures.NeutronFixture):
    """Nova's Neutron, but every port it makes has an address of its own."""

    def __init__(self, test: nova.test.TestCase) -> None:
        super().__init__(test)
        self._addresses = (
            str(address) for address in list(ipaddress.ip_network("192.168.1.0/24").hosts())[9:]
        )
        # the ports that the stand-in has from the start are of no use here
        self._ports.clear()

    def create_port(self, body: Any = None) -> dict[str, Any]:
        wanted = dict((body or {}).get("port", {}))
        port = super().create_port(body)["port"]
        port["fixed_ips"] = wanted.get("fixed_ips") or [
            {"ip_address": next(self._addresses), "subnet_id": SUBNET}
        ]
        for name in set(wanted) - {"fixed_ips"}:
            port[name] = wanted[name]
        self._ports[port["id"]] = port
        return {"port": dict(port)}


class _Cells(nova_fixtures.CellDatabases):
    """Nova's, for one cell besides cell0: what is in no cell's context means that one.

    Nova's own lets a context of another cell wait for all that are under way, and those that come
    for it; one that comes may hold the lock on writing that one under way needs, for ever.
    """

    @contextlib.contextmanager
    def _wrap_target_cell(self, context: Any, cell_mapping: Any) -> Iterator[Any]:
        with self._real_target_cell(context, cell_mapping) as targeted:
            yield targeted

    def _wrap_get_context_manager(self, context: Any) -> Any:
        return getattr(context, "db_connection", None) or self._default_ctxt_mgr


class _Connections(sqlalchemy.pool.QueuePool):
    """As many as there are threads at work, kept: to open one costs more than most queries."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more | {"max_overflow": -1})


class _Nothing:
    """Work that wakes a worker."""

    def run(self) -> None:
        """Is done at once."""


def _stop(worker: Any) -> None:
    """Let a worker end, now if it is idle."""
    worker.should_stop = True
    executor = worker.executor_ref()
    # of an executor that is no more, garbage collection calls this, which must wait for no lock
    if executor is not None:
        # whichever worker takes one, the last stop wakes them all
        for _ in executor._workers:
            worker.work_queue.put(_Nothing())


class Scaffold(nova.test.TestCase):
    """Nova's databases and configuration, which its fixtures keep; itself it runs no test."""

    STUB_COMPUTE_ID = False

    def runTest(self) -> None:
        """Nothing; a TestCase must have it."""

    def setUp(self) -> None:
        self.useFixture(fixtures.MonkeyPatch("nova.tests.fixtures.CellDatabases", _Cells))
        # oslo.db keeps no connection to a database in a file
        self.useFixture(fixtures.MonkeyPatch("sqlalchemy.pool.NullPool", _Connections))
        # a worker that is to end is told, to the last
        self.useFixture(fixtures.MonkeyPatch("futurist._thread.ThreadWorker.stop", _stop))
        super().setUp()
        # and need not look whether it is, for which Nova has it wake a hundred times a second: two
        # hundred idle workers do little else
        self.stub_out("futurist._thread.ThreadWorker.MAX_IDLE_FOR", 5)


class _Services(Scaffold, integrated_helpers.PlacementInstanceHelperMixin):
    """Nova's services, kept up for as long as the cloud is."""

    def setUp(self) -> None:
        self.flags(api_paste_config=openstack.api_paste(), group="wsgi")
        super().setUp()
        # whether Nova's own answers are as Nova says is for Nova's tests
        self.flags(response_validation="ignore", group="api")
        self.flags(compute_driver="smartos.SmartOSDriver")
        self.useFixture(nova_fixtures.RealPolicyFixture())
        self.neutron = self.useFixture(Neutron(self))
        self.glance = self.useFixture(images.Glance(self))
        self.useFixture(nova_fixtures.CinderFixture(self))
        self.placement = self.useFixture(func_fixtures.PlacementFixture()).api
        self.useFixture(nova_fixtures.AllServicesCurrent())
        self.notifier = self.useFixture(nova_fixtures.NotificationFixture(self))
        # each change of a state is told, which is when those who wait look again
        self.flags(notify_on_state_change="vm_and_task_state", group="notifications")
        self.api_fixture = self.useFixture(nova_fixtures.OSAPIFixture(api_version="v2.1"))
        self.api = self.admin_api = self.api_fixture.admin_api
        self.api.microversion = "latest"
        self.api_fixture.api.microversion = "latest"
        self.conductor = self.start_service("conductor")
        self.scheduler_service = self.start_service("scheduler")


class Cloud(fixtures.Fixture):
    """Nova, and a node that it drives locally or by SSH; add_compute() makes more of them.

    `options` go into [smartos], `flags` into [DEFAULT] or, as (group, name), elsewhere. With
    `moves` each nova-compute reaches the other nodes, over SSH.
    """

    def __init__(
        self,
        *node_options: str,
        over_ssh: bool = False,
        options: Mapping[str, Any] | None = None,
        flags: Mapping[str | tuple[str, str], Any] | None = None,
        compute: bool = True,
        moves: bool = False,
    ) -> None:
        super().__init__()
        self._node_options = node_options
        self._over_ssh = over_ssh
        self._options = dict(options or {})
        self._flags = dict(flags or {})
        self._compute = compute
        self._moves = moves
        self._images: dict[tuple[str, str], str] = {}
        self._numbers = itertools.count(1)

    def _setUp(self) -> None:
        self._folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.services = _Services()
        self.addCleanup(self._down)
        self.services.setUp()
        #: What users, and administrators, reach Nova with.
        self.api = self.services.api
        self.user_api = self.services.api_fixture.api
        self.neutron = self.services.neutron
        self.glance = self.services.glance
        self.placement = self.services.placement
        self.notifier = self.services.notifier
        #: The emulated nodes and the nova-compute services, by host.
        self.nodes: dict[str, emulated.EmulatedNode] = {}
        self.computes: dict[str, Any] = {}
        smartos_conf.register(CONF)
        self.services.flags(port_range=_ports(), group="serial_console")
        for name, value in self._flags.items():
            group, option = name if isinstance(name, tuple) else (None, name)
            self.services.flags(**{option: value}, group=group)
        if self._compute:
            self.add_compute("compute1")

    def _down(self) -> None:
        self.services.tearDown()
        assert self.services.doCleanups() is not False, "Nova did not go down well"

    # computes and their nodes

    @property
    def node(self) -> emulated.EmulatedNode:
        """The only node, or the first."""
        return next(iter(self.nodes.values()))

    @property
    def compute(self) -> Any:
        """The only nova-compute, or the first."""
        return next(iter(self.computes.values()))

    @property
    def driver(self) -> Any:
        """The first nova-compute's driver."""
        return self.compute.manager.driver

    def add_node(self, host: str, *more: str) -> emulated.EmulatedNode:
        """Bring a node up, for a nova-compute of this name."""
        ssh = ("--ssh", "127.0.0.1:0") if self._over_ssh or self._moves else ()
        options = ("--name", f"node-{host}", "--speed", SPEED, "--nic-tag", "external")
        node = emulated.EmulatedNode(*options, *ssh, *self._node_options, *more)
        self.nodes[host] = self.useFixture(node)
        if self._moves:
            self._introduce(host, node)
        return node

    def _introduce(self, host: str, node: emulated.EmulatedNode) -> None:
        """Let every nova-compute into this node, by the key of the first."""
        ssh = node.facts()["ssh"]
        key = pathlib.Path(self._options.setdefault("key_file", ssh["identity"]))
        allowed = node.directory / "root/usbkey/config.inc/authorized_keys"
        with open(allowed, "a") as keys:
            keys.write(key.with_name(f"{key.name}.pub").read_text())
        known = self._folder / "known_hosts"
        with open(known, "a") as hosts:
            hosts.write(pathlib.Path(ssh["known_hosts"]).read_text())
        self._options["known_hosts_file"] = str(known)
        peers = self._options.setdefault("peers", {})
        peers[host] = f"ssh://{ssh['user']}@{ssh['host']}:{ssh['port']}"

    def add_compute(self, host: str) -> Any:
        """Start a nova-compute, on the node of its name: a new one, if it has none."""
        node = self.nodes.get(host) or self.add_node(host)
        self.configure(host, node)
        self.computes[host] = self.services.start_service("compute", host=host)
        return self.computes[host]

    def configure(self, host: str, node: emulated.EmulatedNode) -> None:
        """Make the configuration that of the nova-compute of this name."""
        state = self._folder / host
        state.mkdir(exist_ok=True)
        nova.virt.node.LOCAL_NODE_UUID = None
        self.services.flags(state_path=str(state))
        for name, value in {
            **connection(node, over_ssh=self._over_ssh),
            **self._defaults(),
        }.items():
            CONF.set_override(name, value, smartos_conf.GROUP)

    def _defaults(self) -> dict[str, Any]:
        known = CONF[smartos_conf.GROUP]
        wanted = {"network_mappings": ["*:*:external"], "trusted_image_owners": ["*"]}
        return {name: wanted[name] for name in wanted if name in known} | self._options

    def restart_compute(self, host: str = "compute1") -> Any:
        """End a nova-compute, and start it again on the same node."""
        self.computes.pop(host).stop()
        return self.add_compute(host)

    # what users do

    def image(self, kind: str = "zone", **properties: str) -> str:
        """A small image in Glance: a ZFS stream (zone, minimal, lx, zvol), disk or iso; its id."""
        key = (kind, json.dumps(properties, sort_keys=True))
        if key not in self._images:
            if kind in ("disk", "iso"):
                found, data = dict[str, str](), images.disk()
            else:
                found, data = images.stream(self.node, self._folder, kind)
            fields = {"name": f"nst-{kind}", "disk_format": "iso" if kind == "iso" else "raw"}
            self._images[key] = images.upload(self.glance, data, found | properties, **fields)
        return self._images[key]

    def flavor(
        self,
        *,
        vcpus: int = 1,
        ram: int = 256,
        disk: int = 10,
        ephemeral: int = 0,
        swap: int = 0,
        specs: Mapping[str, str] | None = None,
    ) -> str:
        """A flavor; its id."""
        name = f"nst-{next(self._numbers)}"
        body = {"id": name, "name": name, "vcpus": vcpus, "ram": ram, "disk": disk, "swap": swap}
        body["OS-FLV-EXT-DATA:ephemeral"] = ephemeral
        self.api.post_flavor({"flavor": body})
        if specs:
            self.api.post_extra_spec(name, {"extra_specs": dict(specs)})
        return name

    def boot(
        self,
        kind: str = "zone",
        *,
        flavor: str | None = None,
        image: str | None = None,
        networks: Any = "none",
        wait: str | None = "ACTIVE",
        **more: Any,
    ) -> dict[str, Any]:
        """Boot a server, as the API's user would, and wait until it has this status."""
        body = {
            "name": f"nst-{next(self._numbers)}",
            "imageRef": image or self.image(kind),
            "flavorRef": flavor or self.flavor(),
            "networks": networks,
            **more,
        }
        server: dict[str, Any] = self.api.post_server({"server": body})
        return self.wait(server, wait) if wait else server

    def port(self, **port: Any) -> str:
        """A port in Neutron; its id."""
        made = self.neutron.create_port({"port": {"network_id": NETWORK, **port}})
        return str(made["port"]["id"])

    def act(self, server: Mapping[str, Any], action: str, body: Any = None) -> Any:
        """Ask for an action on a server."""
        return self.api.post_server_action(server["id"], {action: body})

    def show(self, server: Mapping[str, Any]) -> dict[str, Any]:
        """The server as the API shows it now."""
        shown: dict[str, Any] = self.api.get_server(server["id"])
        return shown

    def wait(
        self, server: Mapping[str, Any], status: str = "ACTIVE", seconds: float = waits.SECONDS
    ) -> dict[str, Any]:
        """Wait until a server has a status and nothing is under way; ERROR ends it at once."""

        def settled() -> dict[str, Any] | None:
            shown = self.show(server)
            there = shown["status"] == status and not shown["OS-EXT-STS:task_state"]
            if there and (status != "ERROR" or "fault" in shown):
                return shown
            if shown["status"] == "ERROR" != status and "fault" in shown:
                raise AssertionError(f"waiting for {status}: {shown['fault']}")
            return None

        return self.until(settled, f"{server['id']} to be {status}", seconds)

    def until(self, question: Callable[[], T], what: str, seconds: float = waits.SECONDS) -> T:
        """Ask Nova until the answer is true; what it is.

        To ask costs more than most of what is waited for. So this asks when Nova tells that a
        server has come to rest, and now and then.
        """
        heard, asked = 0, 0.0

        def ask() -> T | None:
            nonlocal heard, asked
            told, now = self.notifier.versioned_notifications, time.monotonic()
            end = len(told)
            if now < asked + LULL_SECONDS and not any(map(_rests, told[heard:end])):
                return None
            heard, asked = end, now
            return question()

        found = waits.until(ask, what, seconds)
        assert found is not None
        return found

    def delete(self, server: Mapping[str, Any]) -> None:
        """Delete a server, and wait until it is gone."""
        self.api.delete_server(server["id"])
        self.gone(server)

    def gone(self, server: Mapping[str, Any]) -> None:
        """Wait until a server is gone."""

        def missing() -> bool:
            try:
                shown = self.show(server)
            except NotFound:
                return True
            failed = shown["status"] == "ERROR" and not shown["OS-EXT-STS:task_state"]
            assert not failed or "fault" not in shown, shown["fault"]
            return False

        self.until(missing, f"{server['id']} to be gone")

    # what lies below

    def vm(self, server: Mapping[str, Any], host: str | None = None) -> dict[str, Any]:
        """The server's VM, as vmadm on its node shows it."""
        node = self.nodes[host] if host else self.node
        shown: dict[str, Any] = json.loads(node.tool("vmadm", "get", str(server["id"])))
        return shown

    def vms(self, host: str | None = None) -> list[str]:
        """The uuids of all VMs on a node."""
        node = self.nodes[host] if host else self.node
        return node.tool("vmadm", "lookup").split()


def _ports() -> str:
    """Ports for consoles that no test of another process takes."""
    first = 10000 + 1000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return f"{first}:{first + 999}"


def _rests(notification: Mapping[str, Any]) -> bool:
    """Whether Nova tells of a server of which nothing is under way."""
    told = notification["payload"]["nova_object.data"]
    return told.get("task_state", told) is None and told.get("state") != "building"


def connection(node: emulated.EmulatedNode, *, over_ssh: bool = False) -> dict[str, Any]:
    """The [smartos] options that lead to an emulated node."""
    if not over_ssh:
        return {"connection": "local", "tool_path": node.tools}
    ssh = node.facts()["ssh"]
    return {
        "connection": "ssh",
        "node_address": ssh["host"],
        "node_port": ssh["port"],
        "node_user": ssh["user"],
        "key_file": ssh["identity"],
        "known_hosts_file": ssh["known_hosts"],
    }
