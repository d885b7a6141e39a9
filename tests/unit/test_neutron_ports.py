# SPDX-License-Identifier: Apache-2.0
"""From Neutron's API through Nova to nics, for ports that the mechanism driver has bound.

That Neutron says what the golden file holds, neutron_ml2.py tests.
"""

import json
import pathlib
from typing import Any

import fixtures
import pytest

pytest.importorskip("nova", reason="missing: nova; pip install 'nova-smartos[functional]'")

from nova import context
from nova.network import model, neutron
from nova.objects import instance as instances
from nova.objects import instance_info_cache

from nova_smartos.translate import nic

PORTS = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden/neutron/ports.json").read_text("utf-8")
)
INSTANCE = "00000000-0000-4000-8000-000000000001"
# what the compute driver knows of its host must not matter for a port whose binding says all
TAGS = {"physnet1": "wrong", "physnet2": "wrong", "*": "wrong"}


class Client:
    """Neutron's API, as far as Nova asks about one port."""

    def __init__(self, case: dict[str, Any]) -> None:
        self._case = case

    def list_extensions(self, **_query: Any) -> Any:
        return {"extensions": []}

    def list_floatingips(self, **_query: Any) -> Any:
        return {"floatingips": []}

    def list_ports(self, device_owner: str | None = None, **_query: Any) -> Any:
        return {"ports": [] if device_owner == "network:dhcp" else [self._case["port"]]}

    def list_subnets(self, **query: Any) -> Any:
        assert query["id"] == [self._case["subnet"]["id"]]
        return {"subnets": [self._case["subnet"]]}

    def show_network(self, network: str, **_query: Any) -> Any:
        assert network == self._case["network"]["id"]
        return {"network": self._case["network"]}


def as_nova_knows(case: dict[str, Any]) -> model.NetworkInfo:
    info = instance_info_cache.InstanceInfoCache(network_info=model.NetworkInfo())
    instance = instances.Instance(uuid=INSTANCE, project_id="project", info_cache=info)
    with fixtures.MonkeyPatch("nova.network.neutron.get_client", lambda *_, **__: Client(case)):
        return neutron.API()._build_network_info_model(
            context.get_admin_context(),
            instance,
            networks=[case["network"]],
            port_ids=[case["port"]["id"]],
        )


def expected(number: int, **own: Any) -> dict[str, Any]:
    return {
        "mac": f"fa:16:3e:00:00:{number:02}",
        "network_uuid": f"network-{number}",
        "ips": [f"10.0.{number}.10/24"],
        "gateways": [f"10.0.{number}.1"],
        "mtu": 1500,
        "primary": True,
        **own,
    }


NICS = {
    "flat": expected(1, nic_tag="external"),
    "VLAN, more addresses": expected(
        2, nic_tag="storage", vlan_id=207, allowed_ips=["10.0.9.0/24"], allow_mac_spoofing=True
    ),
    "local, no port security": expected(
        3,
        nic_tag="stub0",
        allow_dhcp_spoofing=True,
        allow_ip_spoofing=True,
        allow_mac_spoofing=True,
        allow_restricted_traffic=True,
    ),
}


@pytest.mark.parametrize("case", PORTS, ids=[each["note"] for each in PORTS])
def test_a_port_of_the_api_becomes_this_nic(case: dict[str, Any]) -> None:
    found = as_nova_knows(case)
    made = nic.network(found, brand="joyent", nic_tags=TAGS)
    assert made.nics == [NICS[case["note"]]]
    assert list(made.unsaid) == []


def test_nova_waits_for_no_port_that_is_bound() -> None:
    """ACTIVE from its binding on: Nova reads that before it asks for the launch."""
    assert [as_nova_knows(case)[0]["active"] for case in PORTS] == [True] * len(NICS)
