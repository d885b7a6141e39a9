# SPDX-License-Identifier: Apache-2.0
"""The mechanism driver in Neutron's own ML2 plugin, over its API and a database.

Neutron and Nova register options of the same names, so that one process cannot hold both:
test_neutron_ml2.py runs this file in a process of its own.
"""

import json
import logging
import pathlib
from typing import Any

import fixtures
from neutron.tests.common import helpers
from neutron.tests.unit.plugins.ml2 import test_plugin
from neutron_lib.plugins import directory
from oslo_config import cfg

from neutron_plugin import mechanism
from nova_smartos import conf as smartos_conf

# what test_neutron_ports.py makes nics of
PORTS = pathlib.Path(__file__).parents[1] / "golden/neutron/ports.json"

# a host of Open vSwitch
FOREIGN = "linux1"
MAPPINGS = [
    "node*:physnet1:external",
    "node*:physnet2:storage",
    "node1:*:stub0",
    "special:physnet1:other",
]
OPEN = {"port_security_enabled": False}
PAIRS = [{"ip_address": "10.0.9.0/24", "mac_address": "fa:16:3e:00:00:99"}]
# what Nova asks of a port, of its network and of a subnet
PORT_KEYS = (
    "id", "network_id", "tenant_id", "admin_state_up", "status", "mac_address", "fixed_ips",
    "binding:vnic_type", "binding:profile", "binding:vif_type", "binding:vif_details",
)  # fmt: skip
NETWORK_KEYS = (
    "id", "name", "tenant_id", "mtu", "provider:network_type", "provider:physical_network",
)  # fmt: skip
SUBNET_KEYS = (
    "id", "network_id", "ip_version", "cidr", "gateway_ip", "enable_dhcp", "dns_nameservers",
    "host_routes", "ipv6_address_mode", "ipv6_ra_mode",
)  # fmt: skip


class Ml2(test_plugin.Ml2PluginV2TestCase):
    """neutron-server with SmartOS nodes, and a Linux host of Open vSwitch."""

    _mechanism_drivers = ["smartos", "openvswitch"]
    allow_unfiltered_ports = False

    def setUp(self) -> None:
        smartos_conf.register_network(cfg.CONF)
        options = {
            "network_mappings": MAPPINGS,
            "allow_unfiltered_ports": self.allow_unfiltered_ports,
        }
        for name, value in options.items():
            cfg.CONF.set_override(name, value, smartos_conf.GROUP)
        cfg.CONF.set_override("extension_drivers", ["port_security"], "ml2")
        cfg.CONF.import_opt(
            "vni_ranges", "neutron.plugins.ml2.drivers.type_vxlan", "ml2_type_vxlan"
        )
        cfg.CONF.set_override("vni_ranges", ["1:9"], "ml2_type_vxlan")
        super().setUp()
        helpers.register_ovs_agent(FOREIGN, bridge_mappings={"physnet1": "br-ex"})

    def a_network(
        self,
        kind: str,
        physical: str | None = None,
        vlan: int | None = None,
        *,
        subnet: bool = True,
    ) -> Any:
        provider = {
            "provider:network_type": kind,
            "provider:physical_network": physical,
            "provider:segmentation_id": vlan,
        }
        given = {key: value for key, value in provider.items() if value is not None}
        made = self._make_network(
            self.fmt, kind, True, as_admin=True, arg_list=tuple(given), **given
        )
        if subnet:
            self._make_subnet(self.fmt, made, "10.0.0.1", "10.0.0.0/24")
        return made["network"]

    def a_port(self, network: Any, host: str = "node1", **more: Any) -> Any:
        given = {"binding:host_id": host, "device_owner": "compute:nova", **more}
        made = self._make_port(
            self.fmt, network["id"], as_admin=True, arg_list=tuple(given), **given
        )
        # as Nova reads it
        return self.read(made["port"])

    def read(self, port: Any) -> Any:
        (found,) = self._list("ports", query_params=f"id={port['id']}", as_admin=True)["ports"]
        return found

    def change(self, port: Any, code: int = 200, **values: Any) -> Any:
        answer = self._update("ports", port["id"], {"port": values}, code, as_admin=True)
        return answer if code != 200 else self.read(port)

    def bound(self, port: Any, driver: str = "smartos") -> dict[str, Any]:
        """The details of a port that this driver has bound."""
        details = dict(port["binding:vif_details"])
        self.assertEqual({"0": driver}, details.pop("bound_drivers", None), port)
        if driver == "smartos":
            self.assertEqual(("other", "ACTIVE"), (port["binding:vif_type"], port["status"]))
        return details

    def not_bound(self, port: Any) -> None:
        self.assertEqual(("binding_failed", "DOWN"), (port["binding:vif_type"], port["status"]))


class Binding(Ml2):
    """Which ports are bound, and to what."""

    def test_a_port_of_each_type_of_network(self) -> None:
        common = {
            "allowed_address_pairs": [],
            "connectivity": "l2",
            "port_filter": False,
            "port_security_enabled": False,
        }
        for network, own in (
            (("flat", "physnet1"), {"nic_tag": "external", "physical_network": "physnet1"}),
            (
                ("vlan", "physnet2", 207),
                {"nic_tag": "storage", "physical_network": "physnet2", "vlan": 207},
            ),
            (("local",), {"nic_tag": "stub0"}),
        ):
            port = self.a_port(self.a_network(*network), **OPEN)
            self.assertEqual(common | own, self.bound(port))

    def test_hosts_by_pattern_and_all_others_are_left_to_others(self) -> None:
        flat = self.a_network("flat", "physnet1")
        for host, tag in (("node1", "external"), ("node27", "external"), ("special", "other")):
            self.assertEqual(tag, self.bound(self.a_port(flat, host, **OPEN))["nic_tag"])
        self.assertNotIn("nic_tag", self.bound(self.a_port(flat, FOREIGN), "openvswitch"))
        for host in ("anode1", "NODE1", "special.example.org"):
            self.not_bound(self.a_port(flat, host, **OPEN))

    def test_what_it_cannot_bind_it_leaves_to_others(self) -> None:
        said = self.useFixture(Said())
        for network, more, reason in (
            (self.a_network("vxlan", vlan=3), {}, "no segment with a nic tag"),
            (self.a_network("flat", "physnet3"), {}, "no segment with a nic tag"),
            (self.a_network("flat", "physnet1"), {"binding:vnic_type": "direct"}, "direct"),
        ):
            port = self.a_port(network, **OPEN, **more)
            self.not_bound(port)
            self.assertIn(reason, said.about(port, logging.DEBUG))

    def test_a_host_without_a_tag_for_ports_of_no_physical_network(self) -> None:
        local = self.a_network("local")
        self.not_bound(self.a_port(local, "node2", **OPEN))
        self.assertEqual("stub0", self.bound(self.a_port(local, "node1", **OPEN))["nic_tag"])

    def test_a_port_without_an_address(self) -> None:
        network = self.a_network("flat", "physnet1", subnet=False)
        port = self.a_port(network, **OPEN)
        self.assertEqual([], port["fixed_ips"])
        self.assertEqual("external", self.bound(port)["nic_tag"])

    def test_another_host_and_none(self) -> None:
        port = self.a_port(self.a_network("flat", "physnet1"), **OPEN)
        port = self.change(port, **{"binding:host_id": "special"})
        self.assertEqual("other", self.bound(port)["nic_tag"])
        port = self.change(port, **{"binding:host_id": FOREIGN})
        self.assertNotIn("nic_tag", self.bound(port, "openvswitch"))
        port = self.change(port, **{"binding:host_id": "node1"})
        self.assertEqual("external", self.bound(port)["nic_tag"])
        port = self.change(port, **{"binding:host_id": ""})
        self.assertEqual(("unbound", {}), (port["binding:vif_type"], port["binding:vif_details"]))
        self.assertEqual("DOWN", port["status"])

    def test_hosts_that_reach_a_network(self) -> None:
        """DHCP agents of other hosts are placed by what their own mechanism drivers say."""
        network = self.a_network("flat", "physnet1")
        hosts = {"node1", "special", FOREIGN}
        for each in self.driver.mechanism_manager.ordered_mech_drivers:
            self.assertTrue(each.obj.is_host_filtering_supported())
        found = self.driver.filter_hosts_with_network_access(self.context, network["id"], hosts)
        self.assertEqual(hosts, found)
        network = self.a_network("flat", "physnet2")
        found = self.driver.filter_hosts_with_network_access(self.context, network["id"], hosts)
        self.assertEqual({"node1"}, found)


class Trunks(Ml2):
    """A port that carries the VLANs of others."""

    def get_additional_service_plugins(self) -> dict[str, str]:
        return {"trunk": "trunk"}

    def test_the_parent_of_a_trunk(self) -> None:
        said = self.useFixture(Said())
        port = self.a_port(self.a_network("flat", "physnet1"), host="", **OPEN)
        trunk = {"port_id": port["id"], "project_id": port["project_id"], "sub_ports": []}
        directory.get_plugin("trunk").create_trunk(self.context, {"trunk": trunk})
        self.not_bound(self.change(port, **{"binding:host_id": "node1"}))
        self.assertIn("a trunk", said.about(port, logging.DEBUG))


class Security(Ml2):
    """What a port may send, as it changes; and security groups, which nothing enforces."""

    def test_the_details_follow_the_port(self) -> None:
        port = self.a_port(self.a_network("flat", "physnet1"), security_groups=[])
        for change, allowed in (
            ({}, (True, [])),
            ({"allowed_address_pairs": PAIRS}, (True, PAIRS)),
            ({"allowed_address_pairs": [], "port_security_enabled": False}, (False, [])),
            ({"port_security_enabled": True}, (True, [])),
        ):
            port = self.change(port, **change) if change else port
            found = self.bound(port)
            self.assertEqual(
                allowed, (found["port_security_enabled"], found["allowed_address_pairs"])
            )
            self.assertEqual("external", found["nic_tag"])
        shown = self._show("ports", port["id"], as_admin=True)["port"]
        self.assertEqual(port["binding:vif_details"], shown["binding:vif_details"])

    def test_more_pairs_than_the_column_of_a_binding_holds(self) -> None:
        cfg.CONF.set_override("max_allowed_address_pair", 100)
        pairs = [{**PAIRS[0], "ip_address": f"10.9.{number}.0/24"} for number in range(100)]
        given = {"security_groups": [], "allowed_address_pairs": pairs}
        port = self.a_port(self.a_network("flat", "physnet1"), **given)
        self.assertGreater(len(json.dumps(pairs)), 4095)
        self.assertCountEqual(pairs, self.bound(port)["allowed_address_pairs"])

    def test_a_foreign_ports_details_are_left_alone(self) -> None:
        given = {"security_groups": [], "allowed_address_pairs": PAIRS}
        port = self.a_port(self.a_network("flat", "physnet1"), FOREIGN, **given)
        found = self.bound(port, "openvswitch")
        self.assertEqual([], [key for key in found if key in port or key == "nic_tag"])

    def test_security_groups_are_refused(self) -> None:
        said = self.useFixture(Said())
        flat = self.a_network("flat", "physnet1")
        port = self.a_port(flat)
        self.assertTrue(port["security_groups"])
        self.not_bound(port)
        self.assertIn(
            "[smartos]allow_unfiltered_ports",
            said.about(port, logging.WARNING),
        )
        self.bound(self.a_port(flat, security_groups=[]))
        self.bound(self.a_port(flat, **OPEN))

    def test_security_groups_of_a_bound_port_are_refused(self) -> None:
        flat = self.a_network("flat", "physnet1")
        groups = self.a_port(flat, FOREIGN)["security_groups"]
        port = self.a_port(flat, security_groups=[])
        answer = self.change(port, 409, security_groups=groups)
        self.assertEqual("UnfilteredPort", answer["NeutronError"]["type"])
        self.assertIn("[smartos]allow_unfiltered_ports", answer["NeutronError"]["message"])
        self.assertEqual(port, self.read(port))
        # one that is bound elsewhere may have them
        foreign = self.a_port(flat, FOREIGN, security_groups=[])
        self.assertEqual(groups, self.change(foreign, security_groups=groups)["security_groups"])


class Unfiltered(Ml2):
    """The operator allows ports that have security groups."""

    allow_unfiltered_ports = True

    def test_a_port_with_security_groups(self) -> None:
        port = self.a_port(self.a_network("flat", "physnet1"))
        self.assertTrue(port["security_groups"])
        self.assertIs(self.bound(port)["port_filter"], False)
        port = self.change(port, security_groups=[])
        self.bound(self.change(port, security_groups=port["security_groups"]))

    def test_the_ports_that_the_compute_drivers_test_makes_nics_of(self) -> None:
        found = []
        for note, network, more in (
            ("flat", ("flat", "physnet1"), {}),
            ("VLAN, more addresses", ("vlan", "physnet2", 207), {"allowed_address_pairs": PAIRS}),
            ("local, no port security", ("local",), OPEN | {"security_groups": []}),
        ):
            made = self.a_network(*network, subnet=False)
            number = len(found) + 1
            subnet = self._make_subnet(
                self.fmt, {"network": made}, f"10.0.{number}.1", f"10.0.{number}.0/24"
            )["subnet"]
            ips = [{"subnet_id": subnet["id"], "ip_address": f"10.0.{number}.10"}]
            port = self.a_port(
                made, fixed_ips=ips, mac_address=f"fa:16:3e:00:00:{number:02}", **more
            )
            made = self._show("networks", made["id"], as_admin=True)["network"]
            text = json.dumps(
                {
                    "note": note,
                    "port": {key: port[key] for key in PORT_KEYS},
                    "network": {key: made[key] for key in NETWORK_KEYS},
                    "subnet": {key: subnet[key] for key in SUBNET_KEYS},
                }
            )
            for kind, each in (("port", port), ("network", made), ("subnet", subnet)):
                text = text.replace(each["id"], f"{kind}-{number}")
            found.append(json.loads(text.replace(port["tenant_id"], "project")))
        self.assertEqual(json.loads(PORTS.read_text()), found)


class Start(Ml2):
    """What the driver says when neutron-server starts."""

    def test_a_wire_that_all_local_networks_share(self) -> None:
        said = self.useFixture(Said())
        mechanism.SmartOSMechanismDriver().initialize()
        self.assertIn("node1:*:stub0: all networks of type local are one wire", said.text())

    def test_mappings_that_are_none(self) -> None:
        path = pathlib.Path(self.get_default_temp_dir().path) / "network.conf"
        path.write_text("[smartos]\nnetwork_mappings = node*:physnet1:external,node*:physnet1:b\n")
        conf = cfg.ConfigOpts()
        conf(["--config-file", str(path)], project="neutron")
        self.patch(cfg, "CONF", conf)
        with self.assertRaisesRegex(
            cfg.ConfigFileValueError,
            "network_mappings.*network.conf.*external and node.*:physnet1:b contradict",
        ):
            mechanism.SmartOSMechanismDriver().initialize()


class Said(fixtures.Fixture):
    """What the mechanism driver logs."""

    def _setUp(self) -> None:
        self.records: list[logging.LogRecord] = []
        handler = logging.Handler(logging.DEBUG)
        handler.emit = self.records.append  # type: ignore[method-assign]
        logger = logging.getLogger(mechanism.__name__)
        self.addCleanup(logger.setLevel, logger.level)
        self.addCleanup(logger.removeHandler, handler)
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)

    def text(self) -> str:
        return "\n".join(each.getMessage() for each in self.records)

    def about(self, port: Any, level: int) -> str:
        """The lines of one level that name a port; there must be one."""
        said = [each.getMessage() for each in self.records if each.levelno == level]
        named = [line for line in said if port["id"] in line]
        assert named, said
        return "\n".join(named)
