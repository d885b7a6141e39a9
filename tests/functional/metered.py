# SPDX-License-Identifier: Apache-2.0
"""An emulated node with VMs that carry Nova's mark, and what meters it."""

import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import fixtures
from oslo_config import cfg

from ceilometer_plugin import collection, metering, meters, roster, samples
from ceilometer_plugin import conf as meters_conf
from nova_smartos import conf as smartos_conf
from nova_smartos import readings
from nova_smartos.smartos import node, vms
from nova_smartos.translate import identity
from tests import emulated, waits

PROJECT = "9" * 32
PORT = "0badcafe-1111-4222-8333-444444444444"


def mark(name: str) -> dict[str, str]:
    """What the driver writes into a VM's internal_metadata."""
    document = {
        "version": 1,
        "host": "node1",
        "name": f"instance-{name}",
        "display_name": name,
        "project_id": PROJECT,
        "user_id": "8" * 32,
        "image_ref": "77777777-7777-4777-8777-777777777777",
        "flavor": {
            "id": "1", "name": "tiny", "vcpus": 1, "ram": 64, "disk": 1, "ephemeral": 0, "swap": 0
        },
        "created_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return {identity.KEY: json.dumps(document)}


class Metered(fixtures.Fixture):
    """A node, the toolkit to it, a spool, and the metering of it all."""

    def __init__(self, directory: pathlib.Path, *options: str, **meters_options: Any) -> None:
        super().__init__()
        self.directory = directory
        self._node_options = options
        self._options = {"scripts": [], "space_interval": 1, **meters_options}

    def _setUp(self) -> None:
        self.node = self.useFixture(emulated.EmulatedNode(*self._node_options))
        self.gz = self.useFixture(Toolkit(self.node.tools)).gz
        self.spool = readings.Spool(self.directory / "spool")
        self._image = self.node.image("minimal")
        self.begin()
        self.addCleanup(self._end)

    def begin(self) -> None:
        """Start the polling agent's part, which finds the ledger that was there before."""
        conf = cfg.ConfigOpts()
        meters_conf.register(conf)
        conf([])
        conf.set_override("tool_path", self.node.tools, group=smartos_conf.GROUP)
        conf.set_override("spool_directory", str(self.spool.directory), group=smartos_conf.GROUP)
        ledger = str(self.directory / "ledger.sqlite")
        for name, value in {"ledger": ledger, **self._options}.items():
            conf.set_override(name, value, group=meters_conf.GROUP)
        self.metering = metering.Metering(conf)

    def _end(self) -> None:
        self.metering.close()

    def sources(self) -> list[collection.Source]:
        """What follows the node, if anything does already."""
        return self.metering._sources

    def create(self, name: str, *, ours: bool = True, heard: bool = True, **more: Any) -> str:
        """Make a VM, of which the metering has heard afterwards; its uuid."""
        payload = {
            "brand": "joyent-minimal",
            "alias": name,
            "image_uuid": self._image,
            "max_physical_memory": 64,
            "quota": 1,
            "internal_metadata": mark(name) if ours else {},
            **more,
        }
        uuid = self.gz.vmadm.create(payload)
        if ours and heard:
            self._await_word(uuid, there=True)
        return uuid

    def delete(self, uuid: str) -> None:
        """Take a VM away, of which the metering has heard afterwards."""
        self.gz.vmadm.delete(uuid)
        self._await_word(uuid, there=False)

    def _await_word(self, uuid: str, *, there: bool) -> None:
        def known(of: roster.Roster) -> bool:
            members = of.members(waits.SECONDS)
            assert members is not None, "the node does not tell of its VMs"
            return uuid in {each.vm_uuid for each in members.values()}

        for source in self.sources():
            word = functools.partial(known, source.roster)
            waits.until(lambda word=word: word() is there, "word of a VM")

    def nic(self, number: int = 1) -> dict[str, Any]:
        """A nic for create()."""
        return {
            "mac": f"02:00:00:00:00:{number:02x}",
            "nic_tag": "admin",
            "ips": [f"10.9.0.{number}/24"],
        }

    def vm(self, uuid: str) -> vms.Vm:
        """What vmadm shows of it."""
        return self.gz.vmadm.get(uuid)

    def leave(self, uuid: str, reason: str = "stop") -> readings.Reading:
        """A final reading, as the driver takes it before it ends a VM."""
        reading = readings.read(self.gz, self.vm(uuid), reason)
        self.spool.put(reading)
        return reading

    def load(self, uuid: str, *rates: str) -> None:
        """Script what a VM does."""
        self.node.command("load", str(self.node.directory), uuid, *rates)

    def poll(self) -> dict[str, dict[str, float]]:
        """One cycle: by resource, the volume of each meter."""
        found: dict[str, dict[str, float]] = {}
        for each in self.samples():
            found.setdefault(each.resource_id, {})[each.name] = each.volume
        return found

    def samples(self) -> list[samples.Sample]:
        """One cycle: all samples, as they are given."""
        cycle = self.metering.cycle()
        return [each for meter in meters.METERS for each in cycle.samples(meter)]

    def metadata(self, name: str) -> Mapping[str, Mapping[str, Any]]:
        """One cycle: the metadata of one meter's samples, by resource."""
        samples = self.metering.cycle().samples(meters.BY_NAME[name])
        return {each.resource_id: each.resource_metadata for each in samples}


class Toolkit(fixtures.Fixture):
    """The toolkit to a node that is emulated here."""

    gz: node.Node

    def __init__(self, tools: str) -> None:
        super().__init__()
        self._tools = tools

    def _setUp(self) -> None:
        self.gz = node.Node.local(tool_path=self._tools)
        self.addCleanup(self.gz.close)


def used(reading: readings.Reading, module: str, *statistics: str) -> int:
    """What a reading's kstat of this module counts."""
    (found,) = [each for each in reading.kstats if each.module == module]
    return sum(found.numbers[statistic] for statistic in statistics)
