# SPDX-License-Identifier: Apache-2.0
"""A node as Nova's users, its scheduler and Placement see it, and when Nova refuses to take it."""

import json
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests import waits
from tests.functional import cloud as cloud_module

pytestmark = cloud_module.QUIET

# after the base, which chooses how Nova is imported
import nova.conf  # noqa: E402
import nova.context  # noqa: E402
from nova import exception  # noqa: E402

CONF = nova.conf.CONF
VERSION = "1.39"
BRAND = "CUSTOM_SMARTOS_BRAND_"


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    options = ("--cpus", "4", "--memory", "8G", "--no-bhyve")
    # to be away, a node must be elsewhere
    with cloud_module.Cloud(*options, over_ssh=True, options={"connect_timeout": 4}) as found:
        yield found


@pytest.fixture(scope="module")
def info(cloud: cloud_module.Cloud) -> dict[str, Any]:
    """What the node's sysinfo says."""
    found: dict[str, Any] = json.loads(cloud.node.tool("sysinfo"))
    return found


def update(cloud: cloud_module.Cloud, host: str = "compute1") -> None:
    """The periodic task."""
    CONF.set_override("host", host)
    manager = cloud.computes[host].manager
    manager.update_available_resource(nova.context.get_admin_context())


def provider(cloud: cloud_module.Cloud, found: str) -> dict[str, Any]:
    """What Placement has of a node: provider, inventories, traits."""
    paths = ("", "/inventories", "/traits")
    answers: dict[str, Any] = {}
    for path in paths:
        answer = cloud.placement.get(f"/resource_providers/{found}{path}", version=VERSION)
        assert answer.status == 200, answer.body
        answers |= answer.body
    return answers


def hypervisor(cloud: cloud_module.Cloud) -> dict[str, Any]:
    """The only node, as an administrator sees it."""
    shown = cloud.api.api_get("/os-hypervisors/detail").body["hypervisors"]
    assert len(shown) == 1
    return dict(shown[0])


def test_what_an_administrator_sees(cloud: cloud_module.Cloud, info: dict[str, Any]) -> None:
    shown = hypervisor(cloud)
    assert shown["id"] == info["UUID"]
    assert shown["hypervisor_hostname"] == info["Hostname"] == "node-compute1"
    assert shown["hypervisor_type"] == "SmartOS"
    assert shown["hypervisor_version"] == int(info["Live Image"][:8])
    assert (shown["state"], shown["status"]) == ("up", "enabled")
    assert shown["uptime"].startswith("up ")
    cloud.api.microversion = "2.87"
    try:
        old = cloud.api.api_get(f"/os-hypervisors/{shown['id']}/uptime").body["hypervisor"]
    finally:
        cloud.api.microversion = "latest"
    assert "load average" in old["uptime"]


def test_what_placement_has(cloud: cloud_module.Cloud, info: dict[str, Any]) -> None:
    found = provider(cloud, info["UUID"])
    assert found["name"] == "node-compute1"
    inventories = found["inventories"]
    assert inventories["VCPU"]["total"] == 4
    assert inventories["MEMORY_MB"]["total"] == 8192
    assert inventories["MEMORY_MB"]["reserved"] == CONF.reserved_host_memory_mb
    assert inventories["VCPU"]["allocation_ratio"] == CONF.initial_cpu_allocation_ratio
    pool = cloud.node.tool("zfs", "list", "-Hp", "-o", "used,available", "zones").split()
    assert inventories["DISK_GB"]["total"] == sum(map(int, pool)) // 2**30
    assert 0 < inventories["DISK_GB"]["reserved"] < inventories["DISK_GB"]["total"]
    brands = {name.removeprefix(BRAND) for name in found["traits"] if name.startswith(BRAND)}
    assert brands == {"JOYENT", "JOYENT_MINIMAL", "LX"}
    assert {"HW_CPU_X86_AVX2", "HW_ARCH_X86_64", "COMPUTE_TRUSTED_CERTS"} <= set(found["traits"])
    assert "COMPUTE_ACCELERATORS" not in found["traits"]


def test_what_has_not_changed_is_not_sent(cloud: cloud_module.Cloud, info: dict[str, Any]) -> None:
    before = provider(cloud, info["UUID"])
    for _ in range(3):
        update(cloud)
    assert provider(cloud, info["UUID"]) == before


def test_an_operators_traits_stay_and_wrong_ones_of_ours_go(
    cloud: cloud_module.Cloud, info: dict[str, Any]
) -> None:
    found = provider(cloud, info["UUID"])
    ours, theirs = f"{BRAND}BHYVE", "CUSTOM_RACK_7"
    for name in (ours, theirs):
        cloud.placement.put(f"/traits/{name}", {}, version=VERSION)
    body = {
        "traits": [*found["traits"], ours, theirs],
        "resource_provider_generation": found["resource_provider_generation"],
    }
    url = f"/resource_providers/{info['UUID']}/traits"
    assert cloud.placement.put(url, body, version=VERSION).status == 200
    # nova-compute looks at Placement's side again when its own knowledge is old
    cloud.compute.manager.rt.reportclient.clear_provider_cache()
    update(cloud)
    after = set(provider(cloud, info["UUID"])["traits"])
    assert after == {*found["traits"], theirs}


def test_zones_are_placed_by_what_their_images_say(cloud: cloud_module.Cloud) -> None:
    for properties in ({"hw_vm_mode": "exe"}, {"img_hv_type": "lxc", "hw_architecture": "x86_64"}):
        server = cloud.boot(image=cloud.image("zone", **properties))
        cloud.delete(server)


@pytest.mark.parametrize(
    "properties",
    [{"img_hv_type": "bhyve"}, {"hw_architecture": "aarch64"}],
)
def test_what_the_node_cannot_run_is_not_placed(
    properties: dict[str, str], cloud: cloud_module.Cloud
) -> None:
    server = cloud.boot(image=cloud.image("zone", **properties), wait="ERROR")
    assert "No valid host" in server["fault"]["message"]
    cloud.delete(server)


def test_flavors_choose_nodes_by_brand_and_by_processor(cloud: cloud_module.Cloud) -> None:
    able = {f"trait:{BRAND}JOYENT": "required", "trait:HW_CPU_X86_AVX2": "required"}
    server = cloud.boot(flavor=cloud.flavor(specs=able))
    cloud.delete(server)
    unable = {f"trait:{BRAND}BHYVE": "required"}
    server = cloud.boot(flavor=cloud.flavor(specs=unable), wait="ERROR")
    assert "No valid host" in server["fault"]["message"]
    cloud.delete(server)


def test_an_instance_is_counted_once(cloud: cloud_module.Cloud, info: dict[str, Any]) -> None:
    """In its allocation, and not in what is reserved beside it."""
    first = cloud.boot()
    update(cloud)
    before = provider(cloud, info["UUID"])["inventories"]
    server = cloud.boot(flavor=cloud.flavor(ram=1024, disk=20))
    update(cloud)
    assert provider(cloud, info["UUID"])["inventories"] == before
    answer = cloud.placement.get(f"/allocations/{server['id']}", version=VERSION).body
    assert answer["allocations"][info["UUID"]]["resources"] == {
        "VCPU": 1,
        "MEMORY_MB": 1024,
        "DISK_GB": 20,
    }
    cloud.delete(server)
    cloud.delete(first)


def test_a_vm_that_is_not_novas_takes_its_share(
    cloud: cloud_module.Cloud, info: dict[str, Any]
) -> None:
    update(cloud)
    before = provider(cloud, info["UUID"])["inventories"]
    payload = {
        "brand": "joyent",
        "image_uuid": cloud.node.image("zone"),
        "max_physical_memory": 256,
        "quota": 30,
    }
    cloud.node.tool("vmadm", "create", payload=json.dumps(payload | {"alias": "foreign"}))
    foreign = cloud.node.tool("vmadm", "lookup", "alias=foreign").strip()
    waits.until(lambda: foreign in cloud.driver._watch.vms(), "the driver to hear of the VM")
    update(cloud)
    after = provider(cloud, info["UUID"])["inventories"]
    grown = {name: after[name]["reserved"] - before[name]["reserved"] for name in after}
    assert grown["VCPU"] == 0
    assert grown["MEMORY_MB"] == 256
    assert grown["DISK_GB"] in (30, 31)
    cloud.node.tool("vmadm", "delete", foreign)


def test_diagnostics(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot(networks=[{"port": cloud.port()}])
    shown = cloud.api.api_get(f"/servers/{server['id']}/diagnostics").body
    assert (shown["state"], shown["hypervisor"]) == ("running", "joyent")
    assert shown["num_cpus"] == shown["num_disks"] == shown["num_nics"] == 1
    assert shown["cpu_details"][0]["time"] > 0
    assert shown["memory_details"]["maximum"] == 256
    nic = cloud.vm(server)["nics"][0]
    assert shown["nic_details"][0]["mac_address"] == nic["mac"]
    cloud.act(server, "os-stop")
    cloud.wait(server, "SHUTOFF")
    with pytest.raises(cloud_module.Refused) as caught:
        cloud.api.api_get(f"/servers/{server['id']}/diagnostics")
    assert caught.value.response.status_code == 409
    cloud.delete(server)


# who the node is


def identity(cloud: cloud_module.Cloud, host: str = "compute1") -> pathlib.Path:
    return cloud._folder / host / "compute_id"


def test_the_nodes_uuid_is_the_compute_nodes(
    cloud: cloud_module.Cloud, info: dict[str, Any]
) -> None:
    assert identity(cloud).read_text() == info["UUID"]
    assert cloud.driver.get_nodenames_by_uuid() == {info["UUID"]: info["Hostname"]}
    assert cloud.driver.get_host_ip_addr() == info["Admin IP"]


def test_nova_compute_starts_again(cloud: cloud_module.Cloud, info: dict[str, Any]) -> None:
    server = cloud.boot()
    cloud.restart_compute()
    assert cloud.show(server)["status"] == "ACTIVE"
    assert hypervisor(cloud)["id"] == info["UUID"]
    cloud.delete(server)


def test_it_starts_after_its_state_was_lost(
    cloud: cloud_module.Cloud, info: dict[str, Any]
) -> None:
    server = cloud.boot()
    cloud.computes.pop("compute1").stop()
    identity(cloud).unlink()
    cloud.add_compute("compute1")
    assert identity(cloud).read_text() == info["UUID"]
    assert hypervisor(cloud)["id"] == info["UUID"]
    assert cloud.show(server)["status"] == "ACTIVE"
    cloud.delete(server)


def refused(cloud: cloud_module.Cloud, host: str = "compute1") -> str:
    """Starting nova-compute fails as a wrong configuration; how it says so."""
    cloud.configure(host, cloud.node)
    with pytest.raises(exception.InvalidConfiguration) as caught:
        cloud.services.start_service("compute", host=host)
    return str(caught.value)


def test_another_nodes_identity_is_refused_and_nothing_is_touched(
    cloud: cloud_module.Cloud, info: dict[str, Any]
) -> None:
    server = cloud.boot()
    before = cloud.vm(server)
    cloud.computes.pop("compute1").stop()
    other = str(uuid.uuid4())
    identity(cloud).write_text(other)
    said = refused(cloud)
    assert other in said
    assert info["UUID"] in said
    assert identity(cloud).read_text() == other
    assert cloud.vm(server)["last_modified"] == before["last_modified"]
    identity(cloud).write_text(info["UUID"])
    cloud.add_compute("compute1")
    assert cloud.show(server)["status"] == "ACTIVE"
    cloud.delete(server)


def test_another_host_name_of_the_node_is_refused_and_nothing_is_touched(
    cloud: cloud_module.Cloud, info: dict[str, Any]
) -> None:
    """LP 1471887: there every server was destroyed."""
    server = cloud.boot()
    before = cloud.vm(server)
    found = provider(cloud, info["UUID"])
    cloud.computes.pop("compute1").stop()
    cloud.node.tool("hostname", "renamed")
    cloud.node.tool("sysinfo", "-u")
    said = refused(cloud)
    assert "hostname=node-compute1" in said
    assert cloud.vm(server)["last_modified"] == before["last_modified"]
    assert provider(cloud, info["UUID"]) == found
    cloud.node.tool("hostname", "node-compute1")
    cloud.node.tool("sysinfo", "-u")
    cloud.add_compute("compute1")
    assert cloud.show(server)["status"] == "ACTIVE"
    cloud.delete(server)


def test_another_host_for_the_same_node_is_refused_and_nothing_is_touched(
    cloud: cloud_module.Cloud, info: dict[str, Any]
) -> None:
    server = cloud.boot()
    before = cloud.vm(server)
    cloud.computes.pop("compute1").stop()
    said = refused(cloud, "renamed")
    assert "Set [DEFAULT]host to compute1 again" in said
    assert cloud.vm(server)["last_modified"] == before["last_modified"]
    cloud.add_compute("compute1")
    assert cloud.show(server)["status"] == "ACTIVE"
    assert hypervisor(cloud)["id"] == info["UUID"]
    cloud.delete(server)


def test_a_node_that_is_away_stays_what_it_is(
    cloud: cloud_module.Cloud, info: dict[str, Any]
) -> None:
    """LP 1839560: there the compute node was deleted, and could not come back."""
    server = cloud.boot()
    update(cloud)
    before = provider(cloud, info["UUID"])
    folder = str(cloud.node.directory)
    cloud.node.command("down", folder)
    update(cloud)
    assert cloud.driver.get_available_nodes() == ["node-compute1"]
    assert provider(cloud, info["UUID"]) == before
    assert hypervisor(cloud)["id"] == info["UUID"]
    cloud.node.command("up", folder)
    update(cloud)
    assert provider(cloud, info["UUID"])["inventories"] == before["inventories"]
    assert cloud.show(server)["OS-EXT-SRV-ATTR:hypervisor_hostname"] == "node-compute1"
    cloud.delete(server)


def test_two_nodes_of_one_controller_do_not_collide(cloud: cloud_module.Cloud) -> None:
    cloud.add_compute("compute2")
    shown = cloud.api.api_get("/os-hypervisors/detail").body["hypervisors"]
    own = {
        json.loads(node.tool("sysinfo"))["UUID"]: f"node-{host}"
        for host, node in cloud.nodes.items()
    }
    assert {each["id"]: each["hypervisor_hostname"] for each in shown} == own
    assert identity(cloud).read_text() != identity(cloud, "compute2").read_text()
    update(cloud, "compute2")
    update(cloud)
    assert {provider(cloud, found)["name"] for found in own} == set(own.values())
