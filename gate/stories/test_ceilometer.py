# SPDX-License-Identifier: Apache-2.0
"""Ceilometer's own polling agent loads our plugin and polls an emulated node."""

import json
import pathlib

import yaml
from ceilometer import sample, service
from ceilometer.polling import manager

from nova_smartos import conf as smartos_conf
from tests import emulated

POLLING = {"sources": [{"name": "smartos", "interval": 60, "meters": ["cpu"]}]}


class Agent(manager.AgentManager):  # type: ignore[misc]
    """The polling agent, which keeps what it would send to the message bus."""

    def poll(self) -> list[sample.Sample]:
        """The samples of one cycle."""
        found = []
        for task in manager.PollingManager(self.conf).sources:
            for extension in self.extensions:
                if task.support_meter(extension.name):
                    resources = self.discover([extension.obj.default_discovery])
                    found += extension.obj.get_samples(self, {}, resources)
        return found


def test_the_agent_polls_cpu(tmp_path: pathlib.Path) -> None:
    (tmp_path / "polling.yaml").write_text(yaml.safe_dump(POLLING))
    conf = service.prepare_service([], [])
    smartos_conf.register(conf)
    conf.set_override("cfg_file", str(tmp_path / "polling.yaml"), group="polling")
    conf.set_override("enable_notifications", False, group="polling")
    with emulated.EmulatedNode("--speed", "100") as node:
        conf.set_override("tool_path", node.tools, group="smartos")
        image = node.image("minimal")
        payload = {"brand": "joyent-minimal", "alias": "nst-cpu", "image_uuid": image}
        node.tool("vmadm", "create", payload=json.dumps(payload | {"max_physical_memory": 64}))
        vm = node.tool("vmadm", "lookup", "alias=nst-cpu").strip()
        node.command("load", str(node.directory), vm, "cpu=1")
        first, second = (Agent(0, conf, ["smartos"]).poll() for _ in range(2))
    assert [(each.name, each.unit, each.resource_id) for each in first] == [("cpu", "ns", vm)]
    assert 0 < first[0].volume < second[0].volume
