# SPDX-License-Identifier: Apache-2.0
"""What reaches a guest: through Nova's API, and read inside the guest or from its disk."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import bcrypt
import pytest
from nova import context as nova_context

from tests.functional import cloud as cloud_module

pytestmark = cloud_module.QUIET

SCRIPT = "#!/bin/sh\necho hello\n"
KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0EgouWNiAe9Dc+lr0hflwJaoH8g/3AR3/m/QBvaI9u u@example.org"
)


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    with cloud_module.Cloud() as cloud:
        yield cloud


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


@pytest.fixture
def key_name(cloud: cloud_module.Cloud) -> Iterator[str]:
    cloud.api.post_keypair({"keypair": {"name": "mine", "public_key": KEY, "type": "ssh"}})
    yield "mine"
    cloud.api.delete_keypair("mine")


@pytest.mark.parametrize("kind", ["zone", "lx"])
def test_a_zone_reads_all_it_is_told(cloud: cloud_module.Cloud, key_name: str, kind: str) -> None:
    server = cloud.boot(
        kind,
        networks=[{"port": cloud.port()}],
        user_data=encoded(SCRIPT),
        key_name=key_name,
        metadata={"role": "web", "root_pw": "no order"},
        adminPass="Secret-1234",
    )
    assert mdata(cloud, server, "user-script") == SCRIPT
    assert mdata(cloud, server, "root_authorized_keys") == KEY
    assert mdata(cloud, server, "role") == "web"
    assert mdata(cloud, server, "root_pw") == "Secret-1234"
    meta_data = json.loads(mdata(cloud, server, "openstack:meta_data"))
    assert meta_data["meta"] == {"role": "web", "root_pw": "no order"}
    assert meta_data["uuid"] == server["id"]
    network_data = json.loads(mdata(cloud, server, "openstack:network_data"))
    (nic,) = json.loads(mdata(cloud, server, "sdc:nics"))
    assert network_data["links"][0]["ethernet_mac_address"] == nic["mac"]
    assert staged(cloud) == []
    cloud.delete(server)


def test_a_machine_is_told_the_same(cloud: cloud_module.Cloud, key_name: str) -> None:
    server = cloud.boot(
        "disk",
        user_data=encoded(SCRIPT),
        key_name=key_name,
        metadata={"role": "web"},
        adminPass="Secret-1234",
    )
    vm = cloud.vm(server)
    assert vm["customer_metadata"] == {
        "cloud-init:user-data": SCRIPT,
        "role": "web",
        "root_authorized_keys": KEY,
        "user-data": SCRIPT,
    }
    assert vm["internal_metadata"]["root_pw"] == "Secret-1234"
    assert vm["internal_metadata_namespaces"] == ["openstack"]
    assert len(vm["disks"]) == 1
    cloud.delete(server)


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
    with pytest.raises(AssertionError, match="Read-only"):
        cloud.node.tool("zlogin", server["id"], "touch", f"{seed}/user_data")
    cloud.delete(server)
    assert staged(cloud) == []


def test_a_zones_config_drive_is_roots_alone(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot(config_drive=True)
    top = cloud.node.directory / f"root/zones/nova-smartos/drive-{server['id']}"
    for path in (top, *top.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    cloud.delete(server)


def test_a_machine_has_its_config_drive_as_a_disk(cloud: cloud_module.Cloud) -> None:
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
    assert cloud.vms() == [] and staged(cloud) == []
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


# what changes later


def look_again(cloud: cloud_module.Cloud) -> None:
    """What nova-compute does every minute."""
    cloud.compute.manager.update_available_resource(nova_context.get_admin_context())


@pytest.mark.parametrize("kind", ["zone", "disk"])
def test_changed_metadata_reach_the_guest(cloud: cloud_module.Cloud, kind: str) -> None:
    server = cloud.boot(kind, metadata={"role": "web", "old": "1"})
    url = f"/servers/{server['id']}/metadata"
    cloud.api.api_put(url, {"metadata": {"role": "db", "root_pw": "no order"}})
    cloud.api.put_server(server["id"], {"server": {"name": "another"}})
    look_again(cloud)
    vm = cloud.vm(server)
    assert vm["customer_metadata"] == {"role": "db"}
    meta_data = json.loads(vm["internal_metadata"]["openstack:meta_data"])
    assert meta_data["meta"] == {"role": "db", "root_pw": "no order"}
    assert meta_data["name"] == "another"
    assert vm["internal_metadata"]["root_pw"] != "no order"
    cloud.delete(server)


def test_a_reboot_tells_the_guest_first(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot()
    cloud.api.api_put(f"/servers/{server['id']}/metadata", {"metadata": {"role": "db"}})
    cloud.act(server, "reboot", {"type": "HARD"})
    cloud.wait(server)
    assert mdata(cloud, server, "role") == "db"
    cloud.delete(server)


def test_what_a_guest_writes_is_its_own_affair(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot(metadata={"role": "web"})
    before = cloud.show(server)
    for key, value in {"role": "forged", "nova:instance": "{}", "mine": "x"}.items():
        cloud.node.tool("zlogin", server["id"], "mdata-put", key, value)
    for key in ("openstack:meta_data", "sdc:uuid"):
        with pytest.raises(AssertionError, match="Cannot update"):
            cloud.node.tool("zlogin", server["id"], "mdata-put", key, "forged")
    look_again(cloud)
    assert mdata(cloud, server, "mine") == "x"
    after = cloud.show(server)
    assert {key for key in before if before[key] != after[key]} <= {"updated"}
    cloud.delete(server)


# passwords


def shadow(cloud: cloud_module.Cloud, server: dict[str, Any]) -> str:
    """What the zone keeps of root's password."""
    lines = inside(cloud, server, "/etc/shadow").splitlines()
    return next(line for line in lines if line.startswith("root:")).split(":")[1]


def test_the_password_of_a_zone(cloud: cloud_module.Cloud, caplog: Any) -> None:
    server = cloud.boot()
    password = "Another: 'secret' \"word\" $x `y` é"
    caplog.clear()
    cloud.act(server, "changePassword", {"adminPass": password})
    hashed = shadow(cloud, server).encode()
    assert hashed.startswith(b"$2a$") and bcrypt.checkpw(password.encode(), hashed)
    ours = [each.getMessage() for each in caplog.records if each.name.startswith("nova_smartos")]
    assert any("changepass" in line for line in ours)
    assert not any("Another" in line or "$2a$" in line for line in ours)
    cloud.delete(server)


def test_the_password_of_an_lx_zone(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot("lx")
    cloud.act(server, "changePassword", {"adminPass": "one"})
    first = shadow(cloud, server)
    cloud.act(server, "changePassword", {"adminPass": "two"})
    assert first.startswith("$6$") and shadow(cloud, server).startswith("$6$")
    assert first != shadow(cloud, server)
    cloud.delete(server)


@pytest.mark.parametrize("password", ["two\nlines", "x" * 73])
def test_a_password_that_cannot_be_set(cloud: cloud_module.Cloud, password: str) -> None:
    server = cloud.boot()
    with pytest.raises(cloud_module.Refused) as refused:
        cloud.act(server, "changePassword", {"adminPass": password})
    assert refused.value.response.status_code == 500 or password not in refused.value.response.text
    with pytest.raises(AssertionError, match="No such file"):
        shadow(cloud, server)
    cloud.delete(server)


def test_the_password_of_a_machine_is_refused(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot("disk")
    with pytest.raises(cloud_module.Refused) as refused:
        cloud.act(server, "changePassword", {"adminPass": "secret"})
    assert refused.value.response.status_code == 409
    cloud.delete(server)
