# SPDX-License-Identifier: Apache-2.0
"""What the polling agent loads in its namespace `smartos`: a pollster a meter, and the node."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from ceilometer import sample
from ceilometer.polling import manager as polling
from ceilometer.polling import plugin_base
from oslo_config import cfg

from ceilometer_plugin import meters
from nova_smartos import conf as smartos_conf
from nova_smartos.smartos import node


class Discovery(plugin_base.DiscoveryBase):
    """The one resource to poll: the node that [smartos] describes."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        super().__init__(conf)
        smartos_conf.register(conf)
        self._node = smartos_conf.connect(conf)

    def discover(self, manager: polling.AgentManager, param: str | None = None) -> list[node.Node]:
        """The node; nothing is asked of it yet."""
        return [self._node]


class Pollster(plugin_base.PollsterBase):
    """One meter of the table, for all zones of the node."""

    default_discovery = "smartos_node"
    name: ClassVar[str]

    def setup_environment(self) -> None:
        """Find the meter; one that is missing in the table keeps the pollster from loading."""
        self._meter = {meter.name: meter for meter in meters.load()}[self.name]

    def get_samples(
        self, manager: polling.AgentManager, cache: dict[str, Any], resources: Iterable[node.Node]
    ) -> Iterator[sample.Sample]:
        """Samples as Ceilometer wants them. It replaces their time, so ours is kept beside."""
        for gz in resources:
            for found in meters.read(gz, [self._meter]):
                yield sample.Sample(
                    name=found.name,
                    type=found.type,
                    unit=found.unit,
                    volume=found.volume,
                    user_id=None,
                    project_id=None,
                    resource_id=found.resource_id,
                    resource_metadata={"taken_ns": found.taken_ns, "since_ns": found.since_ns},
                )


class CPU(Pollster):
    """The meter `cpu`."""

    name = "cpu"
