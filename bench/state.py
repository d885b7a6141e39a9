# SPDX-License-Identifier: Apache-2.0
"""How soon Nova knows what the node knows, and what its periodic looks cost with many instances.

Nova's services run in this process, as the functional tests run them, with our driver and with
Nova's FakeDriver. The guest that goes down is a real one of an emulated node. The many are one of
it, multiplied: its record in Nova's database and, for ours, its VM in what the node answers, for
FakeDriver in what it keeps. So neither was booted, and the node's own time is not in the figures.
"""

import functools
import logging
import os
import statistics
import threading
import time
import typing
import uuid
import warnings

from bench import crowd as crowds
from bench import report
from tests import waits

# as nova-compute begins
os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "True"
with warnings.catch_warnings():
    # Nova's own test code says much that is not ours to mend
    warnings.simplefilter("ignore")
    from nova import monkey_patch

    monkey_patch.patch()
    from nova import context as nova_context
    from nova import objects
    from nova.compute import power_state
    from nova.db.main import api as db_api
    from nova.db.main import models
    from nova.virt import fake

    from nova_smartos import conf as smartos_conf
    from nova_smartos.smartos import node, transport, vms
    from tests.functional import cloud as cloud_module

#: How often a guest shuts itself down; the first time is for what is made once.
SHUTDOWNS, WARM = 12, 1
#: Instances, and how often each driver's are looked through, in a sync and in an audit.
PAIRS = {1000: 5, 5000: 5}
AUDITS = 3
#: Nova looks at each so long at most.
SECONDS = 600.0
_FAKE_HOST = "fake1"
_TABLES = (
    models.Instance,
    models.InstanceExtra,
    models.InstanceInfoCache,
    models.InstanceSystemMetadata,
)


class Crowded:
    """A transport to a node of whose VMs one is many, counting commands."""

    def __init__(self, carrier: transport.Transport) -> None:
        self._carrier = carrier
        self._words: tuple[str, str] | None = None
        self._crowd: dict[str, str] = {}
        self._answers: dict[tuple[str, ...], str] = {}
        self.commands: list[str] = []

    def multiply(self, vm_uuid: str, name: str, crowd: dict[str, str]) -> None:
        """Show a VM, whose instance has this name, as all of these: names by uuid."""
        self._words = vm_uuid, name
        self._crowd = crowd
        self._answers.clear()

    def run(self, command: transport.Command) -> transport.Result:
        """Answer as the node does, but for lists of VMs and of their datasets."""
        self.commands.append(" ".join(command.argv))
        argv = command.argv
        if self._words is None or argv[:2] not in (("vmadm", "lookup"), ("zfs", "list")):
            return self._carrier.run(command)
        if argv not in self._answers:
            answer = self._carrier.run(command).stdout
            many = crowds.vms if argv[0] == "vmadm" else crowds.datasets
            self._answers[argv] = many(answer, *self._words, self._crowd)
        return transport.Result(argv, 0, self._answers[argv], "")

    def stream(self, command: transport.Command) -> typing.ContextManager[transport.Process]:
        """The node's own: it tells nothing of the crowd."""
        return self._carrier.stream(command)

    def close(self) -> None:
        """Give back connections."""
        self._carrier.close()


class Told:
    """When the node itself told of the moment at which a VM was down."""

    def __init__(self, gz: node.Node, vm_uuid: str) -> None:
        self._events = gz.vmadm.events(vm_uuid)
        self._uuid = vm_uuid
        self._down = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self.at = 0.0

    def __enter__(self) -> "Told":
        self._events.__enter__()
        self._thread.start()
        self._wait(self._ready)
        return self

    def __exit__(self, *exc_info: typing.Any) -> None:
        self._events.stop()
        self._thread.join(waits.SECONDS)
        self._events.__exit__(None, None, None)

    def down(self) -> float:
        """The moment, once it has come."""
        self._wait(self._down)
        return self.at

    def _wait(self, event: threading.Event) -> None:
        if not event.wait(waits.SECONDS):
            raise RuntimeError(f"no word of VM {self._uuid} for {waits.SECONDS} s")

    def _listen(self) -> None:
        for event in self._events:
            if event.vm is not None and event.vm.state == vms.State.STOPPED:
                self.at = self.at or time.perf_counter()
                self._down.set()
            self._ready.set()


class Bench:
    """Nova with both drivers, one server, and its crowd."""

    def __init__(self, cloud: cloud_module.Cloud) -> None:
        real = smartos_conf.connect

        def connect(conf: typing.Any) -> node.Node:
            self.carrier = Crowded(real(conf).transport)
            return node.Node(typing.cast(transport.Transport, self.carrier))

        services = cloud.services
        services.stub_out("nova_smartos.conf.connect", connect)
        services.flags(compute_driver="fake.FakeDriver")
        # the first, since what is started last is who this process is to Nova
        self.fake = services.start_service("compute", host=_FAKE_HOST)
        services.flags(compute_driver="smartos.SmartOSDriver")
        self.ours = cloud.add_compute("compute1")
        self.cloud = cloud
        self.context = nova_context.get_admin_context()
        self.server = cloud.boot("zone", host="compute1")
        self.model = objects.Instance.get_by_uuid(self.context, self.server["id"])
        self._crowds: dict[str, dict[str, str]] = {"compute1": {}, _FAKE_HOST: {}}

    def crowd(self, count: int) -> None:
        """Let each driver have so many instances."""
        known = self._crowds["compute1"]
        # the server is one of ours
        self._add("compute1", count - 1 - len(known))
        self._add(_FAKE_HOST, count - len(self._crowds[_FAKE_HOST]))
        self.carrier.multiply(self.model.uuid, self.model.name, known)
        self.fake.manager.driver.instances = {
            each: fake.FakeInstance(name, power_state.RUNNING, each)
            for each, name in self._crowds[_FAKE_HOST].items()
        }
        self.stale()
        for compute in (self.ours, self.fake):
            seen = compute.manager.driver.get_num_instances()
            if seen != count:
                raise RuntimeError(f"{compute.host} has {seen} instances, not {count}")

    def stale(self) -> None:
        """Let ten quiet minutes pass, after which our driver looks at the node before it answers.

        So it is in a real cloud, where Nova's sync comes every ten.
        """
        self.ours.manager.driver._watch._known = float("-inf")

    def sync(self, compute: typing.Any) -> float:
        """Seconds that the whole of Nova's power sync takes."""
        self.stale()
        start = time.perf_counter()
        compute.manager._sync_power_states(self.context)
        waits.until(lambda: not _under_way(compute), "the sync", SECONDS)
        return time.perf_counter() - start

    def audit(self, compute: typing.Any) -> float:
        """Seconds that the whole of Nova's audit of resources takes."""
        self.stale()
        start = time.perf_counter()
        compute.manager.update_available_resource(self.context)
        return time.perf_counter() - start

    def asked(self, compute: typing.Any) -> float:
        """Seconds that the driver takes for what a sync asks it, one question after the other."""
        all_ = objects.InstanceList.get_by_host(self.context, compute.host, expected_attrs=[])
        self.stale()
        driver = compute.manager.driver
        start = time.perf_counter()
        driver.get_num_instances()
        for instance in all_:
            driver.get_info(instance)
        return time.perf_counter() - start

    def check(self, count: int) -> None:
        """Nothing that was looked at may have been changed by that."""
        for host in self._crowds:
            all_ = objects.InstanceList.get_by_host(self.context, host, expected_attrs=[])
            wrong = [each for each in all_ if (each.vm_state, each.power_state) != ("active", 1)]
            if len(all_) != count or wrong:
                raise RuntimeError(f"{host}: {len(all_)} instances, {len(wrong)} not running")

    def _add(self, host: str, count: int) -> None:
        home = objects.ComputeNode.get_first_node_by_host_for_old_compat(self.context, host)
        first = 100_000 + sum(map(len, self._crowds.values()))
        made = {first + number: str(uuid.uuid4()) for number in range(count)}
        where = {"host": host, "node": home.hypervisor_hostname, "compute_id": home.id}
        with db_api.get_context_manager(self.context).writer.using(self.context) as session:
            for table in (each.__table__ for each in _TABLES):
                key = table.c.uuid if "uuid" in table.c else table.c.instance_uuid
                query = table.select().where(key == self.model.uuid)
                rows = [dict(row) for row in session.execute(query).mappings()]
                many = []
                for number, each in made.items():
                    own = {"id": number, **where} if table is models.Instance.__table__ else {}
                    for row in rows:
                        rest = {name: value for name, value in row.items() if name != "id"}
                        many.append(rest | {key.name: each} | own)
                session.execute(table.insert(), many)
        template = cloud_module.CONF.instance_name_template
        self._crowds[host] |= {each: template % number for number, each in made.items()}


def run(found: report.Report) -> None:
    """Let a guest go down again and again, then look through the many."""
    warnings.simplefilter("ignore")
    with cloud_module.Cloud(compute=False) as cloud:
        # Nova's test code collects all that is logged
        logging.getLogger().setLevel(logging.ERROR)
        bench = Bench(cloud)
        _events(found, bench)
        for count, pairs in PAIRS.items():
            bench.crowd(count)
            _looks(found, bench, count, pairs)
            bench.check(count)


def _events(found: report.Report, bench: Bench) -> None:
    """From the node telling that a VM is down to Nova telling that the server is."""
    cloud, server = bench.cloud, bench.server
    times = []
    gz = node.Node(typing.cast(transport.Transport, bench.carrier))
    for _ in range(WARM + SHUTDOWNS):
        with Told(gz, server["id"]) as told:
            before = len(cloud.notifier.versioned_notifications)
            cloud.node.tool("zlogin", server["id"], "shutdown", "-y", "-g", "0", "-i", "5")
            told_off = functools.partial(_shown_as_off, cloud, before)
            waits.until(told_off, "Nova to tell", pause=0.005)
            now = time.perf_counter()
            times.append(now - told.down())
        cloud.wait(server, "SHUTOFF")
        cloud.act(server, "os-start")
        cloud.wait(server, "ACTIVE")
    times = times[WARM:]
    found.series["node to Nova (s)"] = times
    meaning = (
        f"a guest shut itself down: from vmadm's event to SHUTOFF in Nova, median{_range(times)}"
    )
    found.figure("event_to_nova_s", statistics.median(times), meaning, "<= 1")


def _shown_as_off(cloud: cloud_module.Cloud, since: int) -> bool:
    """Whether Nova has told, which it does once its database has it, that a server is stopped."""
    for each in cloud.notifier.versioned_notifications[since:]:
        told = each["payload"]["nova_object.data"]
        if told.get("state") == "stopped" and told.get("power_state") == "shutdown":
            return True
    return False


def _looks(found: report.Report, bench: Bench, count: int, pairs: int) -> None:
    """Both of Nova's periodic looks, with either driver in turns."""
    written = "records written directly, for both alike"
    large = count == max(PAIRS)
    for what, look, turns in (("sync", bench.sync, pairs), ("audit", bench.audit, AUDITS)):
        for compute in (bench.ours, bench.fake):
            # what is made once
            look(compute)
        times: dict[str, list[float]] = {"ours": [], "FakeDriver": []}
        commands = 0
        for turn in range(turns):
            for whose, compute in (("ours", bench.ours), ("FakeDriver", bench.fake))[
                :: 1 - turn % 2 * 2
            ]:
                before = len(bench.carrier.commands)
                times[whose].append(look(compute))
                commands = max(commands, len(bench.carrier.commands) - before)
        ratio = statistics.median(
            a / b for a, b in zip(times["ours"], times["FakeDriver"], strict=True)
        )
        for whose, each in times.items():
            found.series[f"{what} of {count}, {whose} (s)"] = each
            meaning = f"the whole {what}, {whose}, median{_range(each)}"
            name = "s" if whose == "ours" else "fake_s"
            found.figure(f"{what}_{count}_{name}", statistics.median(each), meaning)
        wants = ("<= 1", "<= 1.05") if large and what == "sync" else (None, None)
        meaning = f"commands on the node, of any number of instances ({written})"
        found.figure(f"{what}_{count}_node_commands", commands, meaning, wants[0])
        meaning = f"ours in parts of FakeDriver's, median of {turns} pairs ({written})"
        found.figure(f"{what}_{count}_to_fake", ratio, meaning, wants[1])
    for compute, name in ((bench.ours, "driver_s"), (bench.fake, "fake_driver_s")):
        asked = [bench.asked(compute) for _ in range(pairs)]
        if compute is bench.ours:
            found.series[f"our driver's part of a sync of {count} (s)"] = asked
        meaning = f"the driver's part of a sync of {count}, median{_range(asked)}"
        want = "<= 2" if large and compute is bench.ours else None
        found.figure(f"sync_{count}_{name}", statistics.median(asked), meaning, want)


def _under_way(compute: typing.Any) -> bool:
    with compute.manager.syncs_in_progress() as uuids:
        return bool(uuids)


def _range(values: typing.Sequence[float]) -> str:
    return f"; from {min(values):.3g} to {max(values):.3g}"
