# SPDX-License-Identifier: Apache-2.0
"""Several operations on one server at once: one right result, and nothing left."""

import json
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import pytest

from tests import emulated, waits
from tests.functional import cloud as cloud_module

with cloud_module.warnings.catch_warnings():
    cloud_module.warnings.simplefilter("ignore")
    from nova import context as nova_context
    from nova import exception, objects

pytestmark = cloud_module.QUIET


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    with cloud_module.Cloud(flags={("quota", "instances"): -1, ("quota", "cores"): -1}) as cloud:
        yield cloud


def test_a_boot_leaves_a_node_that_is_lost() -> None:
    with cloud_module.Cloud(over_ssh=True, options={"connect_timeout": 4}) as cloud:
        lost = cloud.node
        cloud.add_compute("compute2")
        image, flavor = cloud.image(), cloud.flavor()
        lost.command("down", str(lost.directory))
        try:
            servers = [cloud.boot(image=image, flavor=flavor) for _ in range(2)]
        finally:
            lost.command("up", str(lost.directory), "--ssh", f"127.0.0.1:{ssh_port(lost)}")
        assert {cloud.show(each)["OS-EXT-SRV-ATTR:host"] for each in servers} == {"compute2"}
        assert set(cloud.vms("compute2")) == {each["id"] for each in servers}
        assert cloud.vms("compute1") == []


def ssh_port(node: emulated.EmulatedNode) -> str:
    """The port that a node has served SSH on, up or not."""
    config = json.loads((node.directory / "node.json").read_text())
    return str(config["ssh"]).rpartition(":")[2]


@pytest.fixture
def slow(cloud: cloud_module.Cloud) -> Iterator[Any]:
    """Make a subcommand of vmadm wait before it runs."""
    directory = str(cloud.node.directory)

    def delay(subcommand: str, seconds: int = 1) -> None:
        words = ("--match", f"^{subcommand}", "--seconds", str(seconds * int(cloud_module.SPEED)))
        cloud.node.command("fault", directory, "add", "vmadm", "slow", *words)

    yield delay
    cloud.node.command("fault", directory, "clear")


def allocations(cloud: cloud_module.Cloud, server: dict[str, Any]) -> Any:
    return cloud.placement.get(f"/allocations/{server['id']}", version="1.28").body["allocations"]


def instance(server: dict[str, Any]) -> objects.Instance:
    context = nova_context.get_admin_context()
    with nova_context.target_cell(context, objects.CellMappingList.get_all(context)[-1]) as cell:
        return objects.Instance.get_by_uuid(cell, server["id"], expected_attrs=["flavor"])


def test_two_cells_at_once(cloud: cloud_module.Cloud) -> None:
    def found(name: str) -> bool:
        cell = cloud.services.cell_mappings[name]
        with nova_context.target_cell(nova_context.get_admin_context(), cell) as context:
            return bool(objects.ServiceList.get_by_topic(context, "compute"))

    cell = cloud.services.cell_mappings["cell1"]
    with futures.ThreadPoolExecutor(1) as pool:
        with nova_context.target_cell(nova_context.get_admin_context(), cell):
            assert not pool.submit(found, "cell0").result(cloud_module.SECONDS)
        assert found("cell1")


def test_a_delete_during_a_build_leaves_nothing(cloud: cloud_module.Cloud, slow: Any) -> None:
    slow("create")
    server = cloud.boot("zone", wait=None)
    faults = ("fault", str(cloud.node.directory), "list")
    waits.until(lambda: json.loads(cloud.node.command(*faults))[0]["met"], "the build to begin")
    cloud.delete(server)
    assert server["id"] not in cloud.vms()
    assert allocations(cloud, server) == {}


def test_two_deletes_are_one(cloud: cloud_module.Cloud, slow: Any) -> None:
    server = cloud.boot("zone")
    known = instance(server)
    slow("delete")
    with futures.ThreadPoolExecutor(3) as pool:
        deletes = [pool.submit(cloud.driver.destroy, None, known, None) for _ in range(3)]
        for each in deletes:
            assert each.result(cloud_module.SECONDS) is None
    assert server["id"] not in cloud.vms()
    cloud.delete(server)


def test_a_launch_that_is_asked_for_twice_makes_one_vm(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot("zone")
    before = cloud.vm(server)
    known = instance(server)
    image_meta = known.image_meta
    with pytest.raises(exception.InstanceExists):
        cloud.driver.spawn(nova_context.get_admin_context(), known, image_meta, [], None, {})
    after = cloud.vm(server)
    assert after["create_timestamp"] == before["create_timestamp"]
    assert after["state"] == "running"
    cloud.delete(server)


def test_a_stop_and_a_reboot_end_in_one_of_their_states(
    cloud: cloud_module.Cloud, slow: Any
) -> None:
    server = cloud.boot("zone")
    known = instance(server)
    slow("stop")
    barrier = threading.Barrier(2)

    def together(call: Any, *arguments: Any) -> None:
        barrier.wait(cloud_module.SECONDS)
        call(*arguments)

    driver = cloud.driver
    with futures.ThreadPoolExecutor(2) as pool:
        ends = [
            pool.submit(together, driver.power_off, known),
            pool.submit(together, driver.reboot, None, known, known.get_network_info(), "HARD"),
        ]
        for each in ends:
            each.result(cloud_module.SECONDS)
    vm = cloud.vm(server)
    assert (vm["state"], vm["autoboot"]) in [("running", True), ("stopped", False)]
    cloud.delete(server)


def test_several_at_once(cloud: cloud_module.Cloud) -> None:
    body = {
        "name": "nst-many",
        "imageRef": cloud.image("zone"),
        "flavorRef": cloud.flavor(),
        "networks": "none",
        "min_count": 8,
    }
    cloud.api.post_server({"server": body})

    def up() -> list[dict[str, Any]] | None:
        servers = cloud.api.get_servers(search_opts={"name": "nst-many"})
        assert "ERROR" not in {server["status"] for server in servers}
        return servers if {server["status"] for server in servers} == {"ACTIVE"} else None

    servers = cloud.until(up, "eight servers to be active")
    assert len(servers) == 8
    assert {server["id"] for server in servers} <= set(cloud.vms())
    for server in servers:
        cloud.delete(server)
    assert cloud.vms() == []
