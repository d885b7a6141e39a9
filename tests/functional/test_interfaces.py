# SPDX-License-Identifier: Apache-2.0
"""Ports of servers, as their users see them, and the nics that become of them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import nova.conf
import pytest

from nova_smartos import conf as smartos_conf
from tests import waits
from tests.functional import cloud as cloud_module

pytestmark = cloud_module.QUIET

CONF = nova.conf.CONF
OPEN = {"port_security_enabled": False}


# Nova's defaults, which its own tests do without
WAIT = {"vif_plugging_timeout": 300, "vif_plugging_is_fatal": True}


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    with cloud_module.Cloud(flags=WAIT) as cloud:
        yield cloud


@contextlib.contextmanager
def option(name: str, value: Any, group: str | None = None) -> Iterator[None]:
    before = CONF[group][name] if group else CONF[name]
    CONF.set_override(name, value, group)
    try:
        yield
    finally:
        CONF.set_override(name, before, group)


def asked(*ports: str) -> list[dict[str, str]]:
    return [{"port": port} for port in ports]


def ips(cloud: cloud_module.Cloud, port: str) -> list[str]:
    """A port's address, and what Neutron's stand-in says of its other subnet, which is SLAAC."""
    fixed = cloud.neutron.show_port(port)["port"]["fixed_ips"][0]["ip_address"]
    return [f"{fixed}/24", "addrconf"]


def nic_of(cloud: cloud_module.Cloud, server: dict[str, Any], port: str) -> dict[str, Any] | None:
    mac = cloud.neutron.show_port(port)["port"]["mac_address"]
    found = {nic["mac"]: nic for nic in cloud.vm(server)["nics"]}
    return found.get(mac)


def links(cloud: cloud_module.Cloud, server: dict[str, Any]) -> list[str]:
    """The vnics that the guest has now."""
    words = ("show-vnic", "-z", server["id"], "-p", "-o", "link")
    return sorted(cloud.node.tool("dladm", *words).split())


def attached(cloud: cloud_module.Cloud, server: dict[str, Any]) -> list[str]:
    return sorted(each["port_id"] for each in cloud.api.get_port_interfaces(server["id"]))


def attach(cloud: cloud_module.Cloud, server: dict[str, Any], port: str) -> None:
    cloud.api.attach_interface(server["id"], {"interfaceAttachment": {"port_id": port}})


def detach(cloud: cloud_module.Cloud, server: dict[str, Any], port: str) -> None:
    cloud.api.detach_interface(server["id"], port)
    cloud.until(lambda: port not in attached(cloud, server), f"{port} to be detached")


def event(cloud: cloud_module.Cloud, server: dict[str, Any], port: str, status: str) -> None:
    """What Neutron sends to Nova's API."""
    cloud.api.create_server_external_events(
        [
            {
                "name": "network-vif-plugged",
                "server_uuid": server["id"],
                "tag": port,
                "status": status,
            }
        ]
    )


# Launch


@pytest.mark.parametrize("kind", ["zone", "lx", "zvol"])
def test_ports_become_nics(cloud: cloud_module.Cloud, kind: str) -> None:
    ports = [cloud.port(), cloud.port(**{"binding:vif_details": {"vlan": 7, **OPEN}})]
    server = cloud.boot(kind, networks=asked(*ports))
    first, second = (nic_of(cloud, server, port) for port in ports)
    assert first is not None and second is not None
    assert first["ips"] == ips(cloud, ports[0])
    assert (first["nic_tag"], first["primary"]) == ("external", True)
    assert "allow_ip_spoofing" not in first
    assert (second["vlan_id"], second["allow_mac_spoofing"]) == (7, True)
    assert ("model" in first) == (kind == "zvol")
    assert links(cloud, server) == sorted(nic["interface"] for nic in (first, second))
    cloud.delete(server)


def test_a_server_without_a_port(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot()
    assert cloud.vm(server)["nics"] == []
    cloud.delete(server)


def test_thirty_two_ports_and_not_one_more(cloud: cloud_module.Cloud) -> None:
    ports = [cloud.port() for _ in range(32)]
    server = cloud.boot(networks=asked(*ports))
    assert [nic_of(cloud, server, port) is not None for port in ports] == [True] * 32
    more = cloud.port()
    with pytest.raises(cloud_module.Refused):
        attach(cloud, server, more)
    assert len(cloud.vm(server)["nics"]) == 32
    assert attached(cloud, server) == sorted(ports)
    cloud.delete(server)
    refused = cloud.boot(networks=asked(*ports, more), wait="ERROR")
    assert "32 nics at most" in refused["fault"]["message"]
    assert refused["id"] not in cloud.vms()
    cloud.delete(refused)


def test_a_port_without_a_nic_tag_is_refused_and_leaves_nothing(cloud: cloud_module.Cloud) -> None:
    port = cloud.port()
    with option("network_mappings", [], smartos_conf.GROUP):
        server = cloud.boot(networks=asked(port), wait="ERROR")
    said = server["fault"]["message"]
    assert port in said and "[smartos]network_mappings" in said
    assert server["id"] not in cloud.vms()
    cloud.delete(server)


# The wait for Neutron


def test_a_server_is_active_when_its_port_is_wired(cloud: cloud_module.Cloud) -> None:
    port = cloud.port(status="DOWN")
    server = cloud.boot(networks=asked(port), wait=None)
    waits.until(
        lambda: server["id"] in cloud.vms() and cloud.vm(server)["state"] == "running",
        "the VM to run",
    )
    assert cloud.show(server)["status"] == "BUILD"
    event(cloud, server, port, "completed")
    cloud.wait(server)
    cloud.delete(server)


def test_a_port_that_neutron_could_not_wire_ends_the_launch(cloud: cloud_module.Cloud) -> None:
    port = cloud.port(status="DOWN")
    server = cloud.boot(networks=asked(port), wait=None)
    waits.until(lambda: server["id"] in cloud.vms(), "the VM to be made")
    event(cloud, server, port, "failed")
    failed = cloud.wait(server, "ERROR")
    assert port in failed["fault"]["message"]
    assert server["id"] not in cloud.vms()
    cloud.delete(server)


def test_a_port_that_neutron_never_tells_of(cloud: cloud_module.Cloud) -> None:
    port = cloud.port(status="DOWN")
    with option("vif_plugging_timeout", 1):
        server = cloud.boot(networks=asked(port), wait="ERROR")
        assert f"did not wire port {port}" in server["fault"]["message"]
        assert server["id"] not in cloud.vms()
        cloud.delete(server)
        with option("vif_plugging_is_fatal", False):
            server = cloud.boot(networks=asked(cloud.port(status="DOWN")))
    cloud.delete(server)


# Attach and detach


@pytest.mark.parametrize("kind", ["zone", "zvol"])
def test_a_port_is_attached_and_detached(cloud: cloud_module.Cloud, kind: str) -> None:
    first, second = cloud.port(), cloud.port()
    server = cloud.boot(kind, networks=asked(first))
    attach(cloud, server, second)
    assert attached(cloud, server) == sorted([first, second])
    added = nic_of(cloud, server, second)
    assert added is not None and added["ips"] == ips(cloud, second)
    # the guest has it after its next boot
    assert len(links(cloud, server)) == 1
    cloud.act(server, "reboot", {"type": "HARD"})
    cloud.wait(server)
    assert len(links(cloud, server)) == 2

    detach(cloud, server, first)
    assert nic_of(cloud, server, first) is None
    kept = nic_of(cloud, server, second)
    assert kept is not None and kept["primary"]
    cloud.act(server, "reboot", {"type": "HARD"})
    cloud.wait(server)
    assert links(cloud, server) == [kept["interface"]]
    cloud.delete(server)


def test_an_attach_that_is_refused_leaves_server_and_port_as_they_were(
    cloud: cloud_module.Cloud,
) -> None:
    first, second = cloud.port(), cloud.port()
    server = cloud.boot(networks=asked(first))
    with option("network_mappings", [], smartos_conf.GROUP):
        with pytest.raises(cloud_module.Refused):
            attach(cloud, server, second)
    assert attached(cloud, server) == [first]
    assert len(cloud.vm(server)["nics"]) == 1
    assert cloud.show(server)["status"] == "ACTIVE"
    attach(cloud, server, second)
    assert attached(cloud, server) == sorted([first, second])
    cloud.delete(server)


def test_a_hard_reboot_repairs_the_network(cloud: cloud_module.Cloud) -> None:
    ports = [cloud.port(), cloud.port()]
    server = cloud.boot(networks=asked(*ports))
    before = cloud.vm(server)["nics"]
    update = f'{{"remove_nics": ["{before[0]["mac"]}"]}}'
    cloud.node.tool("vmadm", "update", server["id"], payload=update)
    assert len(cloud.vm(server)["nics"]) == 1
    cloud.act(server, "reboot", {"type": "HARD"})
    cloud.wait(server)
    after = cloud.vm(server)["nics"]
    assert sorted(nic["mac"] for nic in after) == sorted(nic["mac"] for nic in before)
    assert len(links(cloud, server)) == 2
    cloud.delete(server)
