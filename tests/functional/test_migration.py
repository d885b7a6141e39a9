# SPDX-License-Identifier: Apache-2.0
"""Cold migration, and resize to another node: what a server is before, it is there."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.functional import cloud as cloud_module

pytestmark = cloud_module.QUIET

FILE = "/root/nst-file"


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    with cloud_module.Cloud(moves=True) as cloud:
        cloud.add_compute("compute2")
        yield cloud


def host(cloud: cloud_module.Cloud, server: Mapping[str, Any]) -> str:
    return str(cloud.show(server)["OS-EXT-SRV-ATTR:host"])


def other(here: str) -> str:
    return "compute2" if here == "compute1" else "compute1"


def put(cloud: cloud_module.Cloud, server: Mapping[str, Any], text: str) -> None:
    """Write a file in a zone."""
    cloud.nodes[host(cloud, server)].tool("zlogin", server["id"], "dd", f"of={FILE}", payload=text)


def held(cloud: cloud_module.Cloud, server: Mapping[str, Any]) -> str:
    return cloud.nodes[host(cloud, server)].tool("zlogin", server["id"], "cat", FILE)


def test_a_zone_moves_and_stays(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot(networks=[{"port": cloud.port()}])
    source = host(cloud, server)
    before = cloud.vm(server, source)
    put(cloud, server, "kept")
    cloud.act(server, "migrate")
    cloud.wait(server, "VERIFY_RESIZE")
    target = host(cloud, server)
    assert target == other(source)
    assert held(cloud, server) == "kept"
    left, vm = cloud.vm(server, source), cloud.vm(server, target)
    assert (left["state"], left["autoboot"]) == ("stopped", False)
    assert (vm["state"], vm["autoboot"]) == ("running", True)
    assert [nic["mac"] for nic in vm["nics"]] == [nic["mac"] for nic in before["nics"]]
    cloud.act(server, "confirmResize")
    cloud.wait(server)
    assert server["id"] not in cloud.vms(source)
    cloud.delete(server)


def test_a_zone_moves_and_comes_back(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot(networks=[{"port": cloud.port()}])
    source = host(cloud, server)
    put(cloud, server, "before")
    cloud.act(server, "migrate")
    cloud.wait(server, "VERIFY_RESIZE")
    target = host(cloud, server)
    put(cloud, server, "after")
    cloud.act(server, "revertResize")
    cloud.wait(server)
    assert host(cloud, server) == source
    assert held(cloud, server) == "before"
    assert server["id"] not in cloud.vms(target)
    cloud.delete(server)
