# SPDX-License-Identifier: Apache-2.0
"""The meter `cpu` from an emulated node, by way of the options, the toolkit and the table."""

import json

from oslo_config import cfg

from ceilometer_plugin import meters
from nova_smartos import conf as smartos_conf
from tests import emulated

PAYLOAD = {"brand": "joyent-minimal", "max_physical_memory": 64, "quota": 1}


def volumes(conf: cfg.ConfigOpts) -> dict[str, int]:
    """The meter `cpu` of each vm."""
    with smartos_conf.connect(conf) as gz:
        samples = meters.read(gz, meters.load())
    return {sample.resource_id: sample.volume for sample in samples if sample.name == "cpu"}


def test_cpu() -> None:
    conf = cfg.ConfigOpts()
    smartos_conf.register(conf)
    conf([])
    with emulated.EmulatedNode("--speed", "100") as node:
        conf.set_override("tool_path", node.tools, group="smartos")
        payload = json.dumps({**PAYLOAD, "alias": "nst-cpu", "image_uuid": node.image("minimal")})
        assert volumes(conf) == {}
        node.tool("vmadm", "create", payload=payload)
        vm = node.tool("vmadm", "lookup", "alias=nst-cpu").strip()
        node.command("load", str(node.directory), vm, "cpu=1")
        first, second = volumes(conf), volumes(conf)
        assert list(first) == list(second) == [vm]
        assert 0 < first[vm] < second[vm]
        node.tool("vmadm", "stop", vm, "-F")
        assert volumes(conf) == {}
