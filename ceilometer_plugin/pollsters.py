# SPDX-License-Identifier: Apache-2.0
"""What the polling agent loads in its namespace `smartos`: a pollster a meter of the table."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from ceilometer import sample
from ceilometer.polling import manager as polling
from ceilometer.polling import plugin_base
from oslo_config import cfg

from ceilometer_plugin import conf as meters_conf
from ceilometer_plugin import metering, meters


class Discovery(plugin_base.DiscoveryBase):
    """Runs a cycle, once for all pollsters: what it finds is the one resource to poll."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        super().__init__(conf)
        meters_conf.register(conf)
        self._metering = metering.Metering(conf)

    # each agent has nodes of its own
    group_id = None

    def discover(
        self, manager: polling.AgentManager, param: str | None = None
    ) -> list[metering.Cycle]:
        """All nodes, read now."""
        return [self._metering.cycle()]


class Pollster(plugin_base.PollsterBase):
    """One meter of the table, of everything that was read."""

    default_discovery = "smartos"
    meter: ClassVar[meters.Meter]

    def get_samples(
        self,
        manager: polling.AgentManager,
        cache: dict[str, Any],
        resources: Iterable[metering.Cycle],
    ) -> Iterator[sample.Sample]:
        """The samples, with the time of the reading beside Ceilometer's own."""
        for cycle in resources:
            yield from cycle.samples(self.meter)


globals().update(
    {
        meter.attribute: type(meter.attribute, (Pollster,), {"meter": meter})
        for meter in meters.METERS
    }
)
