# SPDX-License-Identifier: Apache-2.0
"""The mechanism driver `smartos`: binds the ports of SmartOS nodes to their nic tags.

No agent stands behind it. The compute driver makes each nic as the binding says, so a port is
ACTIVE as soon as it is bound, and Nova has nothing to wait for. What is not for a SmartOS node, or
what such a node cannot do, is left to other mechanism drivers.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from neutron_lib import constants, exceptions
from neutron_lib.api.definitions import allowedaddresspairs, port_security, portbindings
from neutron_lib.api.definitions import port as port_api
from neutron_lib.db import resource_extend
from neutron_lib.plugins.ml2 import api
from oslo_config import cfg
from oslo_log import log

from nova_smartos import conf as smartos_conf

LOG = log.getLogger(__name__)

#: The key in a binding's details that makes it one of this driver's.
NIC_TAG = "nic_tag"

_NETWORK_TYPES = (constants.TYPE_FLAT, constants.TYPE_LOCAL, constants.TYPE_VLAN)
_UNFILTERED = "has security groups, which nothing enforces on SmartOS yet"

Port: TypeAlias = dict[str, Any]
Segment: TypeAlias = Mapping[str, Any]


class UnfilteredPort(exceptions.Conflict):
    """A change that would give a bound port security groups that do nothing."""

    message = (
        f"Port %(port)s would become one that {_UNFILTERED}: see the option "
        "[smartos]allow_unfiltered_ports of neutron-server."
    )


class SmartOSMechanismDriver(api.MechanismDriver):
    """Binds flat, VLAN and local ports of the hosts in [smartos]network_mappings."""

    def initialize(self) -> None:
        """Read the options. One that is wrong ends the start of neutron-server."""
        smartos_conf.register_network(cfg.CONF)
        options = cfg.CONF[smartos_conf.GROUP]
        if not options.network_mappings:
            LOG.warning("[smartos]network_mappings is empty: no port is bound to a SmartOS node")
        for mapping in options.network_mappings:
            LOG.info("Nic tag: %s", mapping)
            if mapping.physical_network == smartos_conf.ANY_NETWORK:
                LOG.warning(
                    "%s: all networks of type local are one wire there, whoever owns them", mapping
                )
        if options.allow_unfiltered_ports:
            LOG.warning("[smartos]allow_unfiltered_ports is on: security groups do nothing")
        resource_extend.register_funcs(port_api.COLLECTION_NAME, [_follow])

    @property
    def connectivity(self) -> str:
        """Frames, so that a port needs no fixed IP."""
        return str(portbindings.CONNECTIVITY_L2)

    def bind_port(self, context: Any) -> None:
        """Bind the port to the first segment that has a nic tag on its host."""
        port = context.current
        reason = self._refusal(port, context.host)
        if reason is None:
            for segment in context.segments_to_bind:
                tag = _nic_tag(context.host, segment)
                if tag is not None:
                    context.set_binding(
                        segment[api.ID],
                        portbindings.VIF_TYPE_OTHER,
                        self._details(segment, tag),
                        status=constants.PORT_STATUS_ACTIVE,
                    )
                    return
            reason = f"no segment with a nic tag among {context.segments_to_bind}"
        LOG.debug("Port %s is not bound on host %s: %s", port["id"], context.host, reason)

    def filter_hosts_with_segment_access(
        self,
        context: Any,
        segments: Iterable[Segment],
        candidate_hosts: Iterable[str],
        agent_getter: Any,
    ) -> set[str]:
        """The hosts that reach a segment. A driver without an answer would undo all others'."""
        wanted = list(segments)
        return {host for host in candidate_hosts if any(_nic_tag(host, each) for each in wanted)}

    def update_port_precommit(self, context: Any) -> None:
        """Refuse security groups on a port that is bound already, as binding it would."""
        if (
            NIC_TAG in (context.vif_details or {})
            and _unfiltered(context.current)
            and not _unfiltered(context.original)
            and not cfg.CONF[smartos_conf.GROUP].allow_unfiltered_ports
        ):
            raise UnfilteredPort(port=context.current["id"])

    def _details(self, segment: Segment, tag: str) -> dict[str, Any]:
        """What the compute driver reads, but for what `_follow` adds."""
        details = {
            NIC_TAG: tag,
            portbindings.CAP_PORT_FILTER: False,
            portbindings.VIF_DETAILS_CONNECTIVITY: self.connectivity,
        }
        if segment[api.PHYSICAL_NETWORK]:
            details["physical_network"] = segment[api.PHYSICAL_NETWORK]
        if segment[api.NETWORK_TYPE] == constants.TYPE_VLAN:
            details[portbindings.VIF_DETAILS_VLAN] = segment[api.SEGMENTATION_ID]
        return details

    def _refusal(self, port: Port, host: str) -> str | None:
        """Why this port is not for this driver, whatever its segments."""
        if not smartos_conf.nic_tags(cfg.CONF, host):
            return "[smartos]network_mappings does not name the host"
        vnic_type = port.get(portbindings.VNIC_TYPE, portbindings.VNIC_NORMAL)
        if vnic_type != portbindings.VNIC_NORMAL:
            return f"vnic_type {vnic_type}"
        if port.get("trunk_details"):
            return "it is the parent of a trunk"
        if _unfiltered(port) and not cfg.CONF[smartos_conf.GROUP].allow_unfiltered_ports:
            LOG.warning(
                "Port %s is not bound on host %s: it %s. Take its groups away, turn off its port "
                "security, or set [smartos]allow_unfiltered_ports.",
                port["id"],
                host,
                _UNFILTERED,
            )
            return "it has security groups"
        return None


def _follow(port: Port, _record: object) -> None:
    """Show, in the binding of a port that is read, what it may send now.

    These may change while a port is bound. A copy in the binding would be as of the time when it
    was bound; and the column of the binding is too short for many address pairs.
    """
    details = port.get(portbindings.VIF_DETAILS)
    if details and NIC_TAG in details:
        named = (port_security.PORTSECURITY, allowedaddresspairs.ADDRESS_PAIRS)
        port[portbindings.VIF_DETAILS] = details | {key: port[key] for key in named if key in port}


def _nic_tag(host: str, segment: Segment) -> str | None:
    """The nic tag of a segment on a host, if there is one."""
    if segment[api.NETWORK_TYPE] not in _NETWORK_TYPES:
        return None
    physical = segment[api.PHYSICAL_NETWORK] or smartos_conf.ANY_NETWORK
    return smartos_conf.nic_tags(cfg.CONF, host).get(physical)


def _unfiltered(port: Port) -> bool:
    """Whether a user believes that the port's traffic is filtered, which it is not."""
    return bool(port.get("security_groups")) and port.get(port_security.PORTSECURITY) is not False
