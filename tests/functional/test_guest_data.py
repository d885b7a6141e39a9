# SPDX-License-Identifier: Apache-2.0
"""What reaches a guest: through Nova's API, and read inside the guest or from its disk."""

import base64
import json
import shutil
from collections.abc import Iterator
from typing import Any

import bcrypt
import pytest
from nova import context as nova_context

from tests import traces
from tests.functional import cloud as cloud_module

pytestmark = cloud_module.QUIET

SCRIPT = "#!/bin/sh\necho hello\n"
KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0EgouWNiAe9Dc+lr0hflwJaoH8g/3AR3/m/QBvaI9u u@example.org"
)


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    # drives and passwords travel on standard input, which is harder there than on the node itself
    with cloud_module.Cloud(over_ssh=True) as cloud:
        key = {"name": "mine", "public_key": KEY, "type": "ssh"}
        cloud.api.post_keypair({"keypair": key})
        yield cloud


def needed(*programs: str) -> None:
    """Skip what cannot be tried without these."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"missing: {program}")


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def mdata(cloud: cloud_module.Cloud, server: dict[str, Any], key: str) -> str:
    """What the guest reads under a key."""
    said = cloud.node.tool("zlogin", server["id"], "mdata-get", key)
    return said.removesuffix("\n")


def inside(cloud: cloud_module.Cloud, server: dict[str, Any], path: str) -> str:
    """A file, as the guest reads it."""
    return cloud.node.tool("zlogin", server["id"], "cat", path)


def staged(cloud: cloud_module.Cloud) -> list[str]:
    return cloud.node.tool("ls", "-1", "/zones/nova-smartos").split()


GIVEN = {
    "user_data": encoded(SCRIPT),
    "key_name": "mine",
    "metadata": {"role": "web", "root_pw": "no order"},
    "adminPass": "Secret-1234",
}


@pytest.fixture(scope="module", params=["zone", "lx"])
def zone(cloud: cloud_module.Cloud, request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """A zone that has been given everything."""
    server = cloud.boot(request.param, networks=[{"port": cloud.port()}], **GIVEN)
    yield server
    cloud.delete(server)


@pytest.fixture(scope="module")
def machine(cloud: cloud_module.Cloud) -> Iterator[dict[str, Any]]:
    """A virtual machine that has been given everything."""
    server = cloud.boot("disk", **GIVEN)
    yield server
    cloud.delete(server)


def look_again(cloud: cloud_module.Cloud) -> None:
    """What nova-compute does every minute."""
    cloud.compute.manager.update_available_resource(nova_context.get_admin_context())


def test_a_zone_reads_all_it_is_told(cloud: cloud_module.Cloud, zone: dict[str, Any]) -> None:
    assert mdata(cloud, zone, "user-script") == SCRIPT
    assert mdata(cloud, zone, "root_authorized_keys") == KEY
    assert mdata(cloud, zone, "role") == "web"
    assert mdata(cloud, zone, "root_pw") == "Secret-1234"
    meta_data = json.loads(mdata(cloud, zone, "openstack:meta_data"))
    assert meta_data["meta"] == GIVEN["metadata"]
    assert meta_data["uuid"] == zone["id"]
    network_data = json.loads(mdata(cloud, zone, "openstack:network_data"))
    (nic,) = json.loads(mdata(cloud, zone, "sdc:nics"))
    assert network_data["links"][0]["ethernet_mac_address"] == nic["mac"]
    assert staged(cloud) == []


def test_a_machine_is_told_the_same(cloud: cloud_module.Cloud, machine: dict[str, Any]) -> None:
    vm = cloud.vm(machine)
    assert vm["customer_metadata"] == {
        "cloud-init:user-data": SCRIPT,
        "role": "web",
        "root_authorized_keys": KEY,
        "user-data": SCRIPT,
    }
    assert vm["internal_metadata"]["root_pw"] == "Secret-1234"
    assert vm["internal_metadata_namespaces"] == ["openstack"]
    assert len(vm["disks"]) == 1


# what changes later


def test_changed_metadata_reach_a_zone(cloud: cloud_module.Cloud, zone: dict[str, Any]) -> None:
    assert_changes_reach(cloud, zone)


def test_changed_metadata_reach_a_machine(
    cloud: cloud_module.Cloud, machine: dict[str, Any]
) -> None:
    assert_changes_reach(cloud, machine)


def assert_changes_reach(cloud: cloud_module.Cloud, server: dict[str, Any]) -> None:
    url = f"/servers/{server['id']}/metadata"
    cloud.api.api_put(url, {"metadata": {"role": "web", "old": "1"}})
    look_again(cloud)
    cloud.api.api_put(url, {"metadata": {"role": "db", "root_pw": "another"}})
    cloud.api.put_server(server["id"], {"server": {"name": "another"}})
    look_again(cloud)
    vm = cloud.vm(server)
    told = vm["customer_metadata"]
    assert told["role"] == "db" and "old" not in told and "root_pw" not in told
    assert vm["internal_metadata"]["root_pw"] != "another"
    meta_data = json.loads(vm["internal_metadata"]["openstack:meta_data"])
    assert meta_data["meta"] == {"role": "db", "root_pw": "another"}
    assert meta_data["name"] == "another"
    assert json.loads(vm["internal_metadata"]["nova:instance"])["display_name"] == "another"


def test_a_reboot_tells_the_guest_first(cloud: cloud_module.Cloud, zone: dict[str, Any]) -> None:
    cloud.api.api_put(f"/servers/{zone['id']}/metadata", {"metadata": {"role": "rebooted"}})
    cloud.act(zone, "reboot", {"type": "HARD"})
    cloud.wait(zone)
    assert mdata(cloud, zone, "role") == "rebooted"


def test_what_a_guest_writes_is_its_own_affair(
    cloud: cloud_module.Cloud, zone: dict[str, Any]
) -> None:
    look_again(cloud)
    before = cloud.show(zone)
    mine = {"role": "forged", "nova:instance": "{}", "nova:told": "{}", "root_pw": "y", "mine": "x"}
    for key, value in mine.items():
        cloud.node.tool("zlogin", zone["id"], "mdata-put", key, value)
    for key in ("openstack:meta_data", "sdc:uuid"):
        with pytest.raises(AssertionError, match="Cannot update"):
            cloud.node.tool("zlogin", zone["id"], "mdata-put", key, "forged")
    known = cloud.vm(zone)["internal_metadata"]
    look_again(cloud)
    assert cloud.vm(zone)["internal_metadata"] == known
    assert {key: mdata(cloud, zone, key) for key in mine} == mine
    after = cloud.show(zone)
    assert {key for key in before if before[key] != after[key]} <= {"updated"}


# passwords


def shadow(cloud: cloud_module.Cloud, server: dict[str, Any]) -> str:
    """What the zone keeps of root's password."""
    lines = inside(cloud, server, "/etc/shadow").splitlines()
    return next(line for line in lines if line.startswith("root:")).split(":")[1]


def test_the_password_of_a_zone(
    cloud: cloud_module.Cloud, zone: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    password = "Another: 'secret' \"word\" $x `y` é"
    caplog.clear()
    cloud.act(zone, "changePassword", {"adminPass": password})
    hashed = shadow(cloud, zone).encode()
    if cloud.vm(zone)["brand"] == "lx":
        # made by the guest's own program
        assert hashed.startswith(b"$6$")
    else:
        assert hashed.startswith(b"$2a$") and bcrypt.checkpw(password.encode(), hashed)
    ours = [each.getMessage() for each in caplog.records if each.name.startswith("nova_smartos")]
    assert any("pass" in line and "/usr/bin/env" in line for line in ours)
    assert not any("Another" in line or "$2a$" in line for line in ours)


def test_a_password_that_cannot_be_set(cloud: cloud_module.Cloud, zone: dict[str, Any]) -> None:
    cloud.act(zone, "changePassword", {"adminPass": "changepass"})
    before = shadow(cloud, zone)
    # chpasswd knows no longest one
    for password in ["two\nlines", *(["x" * 73] if cloud.vm(zone)["brand"] != "lx" else [])]:
        with pytest.raises(cloud_module.Refused) as refused:
            cloud.act(zone, "changePassword", {"adminPass": password})
        assert refused.value.response.status_code == 409
        assert password not in refused.value.response.text
        assert shadow(cloud, zone) == before


def test_the_password_of_a_machine_is_refused(
    cloud: cloud_module.Cloud, machine: dict[str, Any]
) -> None:
    with pytest.raises(cloud_module.Refused) as refused:
        cloud.act(machine, "changePassword", {"adminPass": "secret"})
    assert refused.value.response.status_code == 409


# config drives


@pytest.mark.parametrize("kind", ["zone", "lx"])
def test_a_zone_mounts_its_config_drive(cloud: cloud_module.Cloud, kind: str) -> None:
    server = cloud.boot(
        kind,
        networks=[{"port": cloud.port()}],
        config_drive=True,
        user_data=encoded(SCRIPT),
        metadata={"role": "web"},
        adminPass="Secret-1234",
    )
    seed = "/var/lib/cloud/seed/config_drive/openstack/latest"
    meta_data = json.loads(inside(cloud, server, f"{seed}/meta_data.json"))
    assert meta_data["uuid"] == server["id"]
    assert meta_data["meta"] == {"role": "web"}
    assert meta_data["admin_pass"] == "Secret-1234"
    assert inside(cloud, server, f"{seed}/user_data") == SCRIPT
    network_data = json.loads(inside(cloud, server, f"{seed}/network_data.json"))
    assert len(network_data["networks"]) == 1
    (mount,) = cloud.vm(server)["filesystems"]
    assert mount["options"] == ["ro", "nodevices"]
    assert staged(cloud) == [f"drive-{server['id']}"]
    top = cloud.node.directory / f"root/zones/nova-smartos/drive-{server['id']}"
    for path in (top, *top.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, f"{path} is not root's alone"
    with pytest.raises(AssertionError, match="Read-only"):
        cloud.node.tool("zlogin", server["id"], "touch", f"{seed}/user_data")
    cloud.delete(server)
    assert staged(cloud) == []


def test_a_machine_has_its_config_drive_as_a_disk(cloud: cloud_module.Cloud) -> None:
    needed("genisoimage")
    server = cloud.boot("disk", config_drive=True, user_data=encoded(SCRIPT))
    vm = cloud.vm(server)
    assert vm["state"] == "running"
    system, drive = vm["disks"]
    assert system["boot"] and not drive["boot"]
    assert vm["internal_metadata"]["nova:drive"] == drive["path"]
    held = (cloud.node.directory / f"root{drive['path']}").read_bytes()
    # an ISO 9660 file system says its name in its first volume descriptor
    assert held[32769:32774] == b"CD001" and held[32808:32840].rstrip() == b"config-2"
    assert server["id"].encode() in held and SCRIPT.encode() in held
    assert len(held) == drive["size"] * 2**20
    assert staged(cloud) == []
    cloud.delete(server)
    assert not (cloud.node.directory / f"root{drive['path']}").exists()


def test_a_launch_that_fails_leaves_no_config_drive(cloud: cloud_module.Cloud) -> None:
    fault = ["fault", str(cloud.node.directory)]
    spoil = ["vmadm", "fail", "--match", "create", "--count", "1", "--stderr", "nst: no"]
    cloud.node.command(*fault, "add", *spoil)
    server = cloud.boot(config_drive=True, wait="ERROR")
    cloud.node.command(*fault, "clear")
    assert staged(cloud) == []
    cloud.delete(server)


def test_a_guest_that_fails_to_provision_itself(cloud: cloud_module.Cloud) -> None:
    fault = ["fault", str(cloud.node.directory), "guest", "*"]
    cloud.node.command(*fault, "provision=failure")
    server = cloud.boot(config_drive=True, wait="ERROR")
    cloud.node.command(*fault, "provision=success")
    assert "provision" in cloud.show(server)["fault"]["message"]
    assert server["id"] not in cloud.vms() and staged(cloud) == []
    cloud.delete(server)


def test_a_rebuild_has_a_config_drive_of_its_own(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot(config_drive=True, metadata={"role": "web"})
    image = cloud.image()
    cloud.act(server, "rebuild", {"imageRef": image, "metadata": {"role": "db"}})
    cloud.wait(server)
    path = "/var/lib/cloud/seed/config_drive/openstack/latest/meta_data.json"
    assert json.loads(inside(cloud, server, path))["meta"] == {"role": "db"}
    assert mdata(cloud, server, "role") == "db"
    cloud.delete(server)
    assert staged(cloud) == []


def test_the_trace_tells_of_a_launch_but_not_what_the_guest_is_told(
    cloud: cloud_module.Cloud,
) -> None:
    image = cloud.image(nst_traced="a new one")
    told = {"user_data": encoded(SCRIPT), "metadata": {"role": "nst-role"}, "config_drive": True}
    with traces.into(cloud.node.directory.with_name("trace.json")) as path:
        server = cloud.boot(image=image, adminPass="nst-Pa55word", **told)
        cloud.delete(server)
    # without Keystone another id stands in the header of the API's answer
    (create,) = cloud.api.get_instance_actions(server["id"])[-1:]
    found = traces.spans(path)
    theirs = {"request": create["request_id"], "instance": server["id"]}
    spans = {each["name"]: each for each in found if theirs.items() <= each["args"].items()}
    spawn, operation, command = (spans[name] for name in ("spawn", "build.spawn", "vmadm create"))
    kinds = [each["cat"] for each in (spawn, operation, command)]
    assert kinds == ["entry", "operation", "command"]
    assert traces.within(command, operation) and traces.within(operation, spawn)
    seen = command["args"]
    assert seen["returncode"] == 0 and seen["bytes_in"] > 500 and seen["node"].startswith("root@")
    # in a thread of its own, for the same server
    assert spans["download from Glance"]["tid"] != spawn["tid"]
    (deleted,) = [each["args"] for each in found if each["name"] == "vmadm delete"]
    assert deleted["instance"] == server["id"] and deleted["request"] != create["request_id"]
    text = path.read_text()
    secrets = ["nst-Pa55word", "echo hello", encoded(SCRIPT), "nst-role", server["name"]]
    assert [secret for secret in secrets if secret in text] == []
