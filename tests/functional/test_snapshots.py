# SPDX-License-Identifier: Apache-2.0
"""Images of servers through Nova: what a guest has written is in a server booted from them."""

import json
import pathlib
import secrets
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from nova.image import glance as nova_glance

from nova_smartos import conf as smartos_conf
from nova_smartos.cmd import snapshot as snapshot_command
from nova_smartos.operations import signing
from nova_smartos.smartos import errors
from nova_smartos.translate import manifest
from tests import waits
from tests.functional import cloud as cloud_module

pytestmark = cloud_module.QUIET

MINIMAL = {"smartos:brand": "joyent-minimal"}
KVM = {"smartos:brand": "kvm"}
BRANDS = {
    "joyent": ("zone", {}),
    "joyent-minimal": ("minimal", MINIMAL),
    "lx": ("lx", {}),
    "bhyve": ("disk", {}),
    "kvm": ("disk", KVM),
}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cloud_module.Cloud]:
    key = tmp_path_factory.mktemp("signing") / "key"
    key.write_text(secrets.token_hex(32))
    # nobody's streams are trusted but those that carry a signature
    options = {"trusted_image_owners": [cloud_module.images.nova_fixtures.PROJECT_ID]}
    options[signing.OPTION] = str(key)
    with cloud_module.Cloud(options=options) as cloud:
        cloud.add_compute("compute2")
        yield cloud


@pytest.fixture(autouse=True)
def nothing_is_left(cloud: cloud_module.Cloud) -> Iterator[None]:
    """Whatever a test does: no snapshot, clone or folder of ours on the nodes, no lifted quota."""
    yield
    assert {host: left(cloud, host) for host in cloud.nodes} == dict.fromkeys(cloud.nodes, [])


def left(cloud: cloud_module.Cloud, host: str = "compute1") -> list[str]:
    gz = cloud.computes[host].manager.driver._node
    names = [each.name for each in gz.zfs.list(types=("all",))] + gz.files.list()
    return [name for name in names if "nova-image" in name or "image-of" in name]


def disk(cloud: cloud_module.Cloud, server: dict[str, Any], host: str = "compute1") -> pathlib.Path:
    """The disk that a virtual machine boots from."""
    (boot,) = [each for each in cloud.vm(server, host)["disks"] if each.get("boot")]
    return cloud.nodes[host].directory / "root/dev/zvol/rdsk" / boot["zfs_filesystem"]


def write(cloud: cloud_module.Cloud, server: dict[str, Any], text: str) -> None:
    """As the guest does it."""
    if cloud.vm(server).get("disks"):
        with disk(cloud, server).open("r+b") as file:
            file.seek(4 << 20)
            file.write(text.encode().ljust(4096, b"."))
        return
    cloud.node.tool("zlogin", server["id"], f"echo {text} > /etc/motd")


def read(cloud: cloud_module.Cloud, server: dict[str, Any], host: str) -> str:
    if cloud.vm(server, host).get("disks"):
        with disk(cloud, server, host).open("rb") as file:
            file.seek(4 << 20)
            return file.read(4096).decode().rstrip(".")
    return cloud.nodes[host].tool("zlogin", server["id"], "cat /etc/motd").strip()


def create_image(cloud: cloud_module.Cloud, server: dict[str, Any], name: str = "nst-made") -> str:
    """Ask for an image; its id."""
    made = cloud.act(server, "createImage", {"name": name})
    return str(made["image_id"])


def made(cloud: cloud_module.Cloud, server: dict[str, Any], name: str = "nst-made") -> str:
    """An image of the server; its id."""
    image = create_image(cloud, server, name)
    status = cloud.show(server)["status"]
    cloud.wait(server, status)
    return image


@pytest.mark.parametrize("brand", BRANDS)
def test_a_running_servers_image_boots_on_another_node(
    cloud: cloud_module.Cloud, brand: str
) -> None:
    kind, specs = BRANDS[brand]
    flavor = cloud.flavor(specs=specs)
    server = cloud.boot(kind, flavor=flavor, host="compute1")
    before = cloud.vm(server)
    write(cloud, server, f"of-{brand}")

    image = made(cloud, server)
    after = cloud.vm(server)
    assert (after["state"], after["brand"]) == ("running", brand)
    for key in ("boot_timestamp", "pid", "flexible_disk_size", "quota", "disks"):
        assert after.get(key) == before.get(key), key
    shown = cloud.glance.show(None, image)
    assert (shown["disk_format"], shown["container_format"]) == ("raw", "bare")
    assert signing.PROPERTY in shown["properties"]

    write(cloud, server, "later")
    # without the flavor's word of its brand
    another = cloud.boot(image=image, host="compute2")
    assert cloud.vm(another, "compute2")["brand"] == brand
    assert read(cloud, another, "compute2") == f"of-{brand}"
    for each in (server, another):
        cloud.delete(each)


def test_the_image_of_a_server_that_was_installed_is_a_disk(cloud: cloud_module.Cloud) -> None:
    """It does not have the medium that it was installed from."""
    server = cloud.boot("iso", flavor=cloud.flavor(disk=1), host="compute1")
    write(cloud, server, "a system")
    image = made(cloud, server)
    assert cloud.glance.show(None, image)["disk_format"] == "raw"
    another = cloud.boot(image=image, flavor=cloud.flavor(disk=1), host="compute2")
    assert read(cloud, another, "compute2") == "a system"
    assert len(cloud.vm(another, "compute2")["disks"]) == 1
    for each in (server, another):
        cloud.delete(each)


@pytest.mark.parametrize("kind", ["zone", "zvol"])
def test_an_image_that_holds_only_what_differs_boots_on_a_node_without_its_origin(
    cloud: cloud_module.Cloud, kind: str
) -> None:
    origin = cloud.image(kind, origin="yes")
    server = cloud.boot(image=origin, host="compute1")
    write(cloud, server, "different")
    cloud_module.CONF.set_override("incremental_images", True, smartos_conf.GROUP)
    try:
        image = made(cloud, server)
        assert cloud.glance.show(None, image)["properties"][manifest.ORIGIN_PROPERTY] == origin
        assert b"different" in cloud.glance.data(image)

        another = cloud.boot(image=image, host="compute2")
        assert cloud.glance.downloads[origin] == 2
        assert read(cloud, another, "compute2") == "different"
        brought = {
            each.manifest.tags.get(manifest.TAG): f"zones/{each.manifest.uuid}"
            for each in cloud.computes["compute2"].manager.driver._node.imgadm.list()
        }
        zfs = cloud.computes["compute2"].manager.driver._node.zfs
        assert zfs.get(brought[image], "origin")["origin"] == f"{brought[origin]}@final"
        # of what is no whole stream itself, the whole is taken
        again = made(cloud, another)
    finally:
        cloud_module.CONF.set_override("incremental_images", False, smartos_conf.GROUP)
    third = cloud.boot(image=again, host="compute1")
    assert read(cloud, third, "compute1") == "different"
    for each in (server, another, third):
        cloud.delete(each)


def test_an_image_does_not_carry_what_only_its_server_was_told(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot("zone", host="compute1", metadata={"word": "wholly-secret"})
    password = server_password(cloud, server)
    write(cloud, server, "plainly-visible")
    data = cloud.glance.data(made(cloud, server))
    assert b"plainly-visible" in data
    assert b"wholly-secret" not in data and password.encode() not in data
    cloud.delete(server)


def server_password(cloud: cloud_module.Cloud, server: dict[str, Any]) -> str:
    told = cloud.vm(server)["internal_metadata"]
    return str(next(value for key, value in told.items() if key.endswith("_pw")))


def test_an_image_of_a_stopped_server(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot("disk", host="compute1")
    write(cloud, server, "stopped")
    cloud.act(server, "os-stop")
    cloud.wait(server, "SHUTOFF")
    image = made(cloud, server)
    assert cloud.vm(server)["state"] == "stopped"
    another = cloud.boot(image=image, host="compute1")
    assert read(cloud, another, "compute1") == "stopped"
    for each in (server, another):
        cloud.delete(each)


def test_backups_rotate(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot("zone", host="compute1")
    for number in range(3):
        body = {"name": f"nst-backup{number}", "backup_type": "daily", "rotation": 2}
        cloud.act(server, "createBackup", body)
        cloud.wait(server, "ACTIVE")
    found = cloud.glance.images.values()
    kept = [each["name"] for each in found if each["properties"].get("backup_type") == "daily"]
    assert sorted(kept) == ["nst-backup1", "nst-backup2"]
    cloud.delete(server)


@pytest.mark.parametrize("brand", ["joyent", "bhyve"])
def test_shelved_and_back_on_another_node(cloud: cloud_module.Cloud, brand: str) -> None:
    kind, specs = BRANDS[brand]
    port = cloud.port()
    server = cloud.boot(
        kind, flavor=cloud.flavor(specs=specs), host="compute1", networks=[{"port": port}]
    )
    write(cloud, server, "shelved")
    mac = cloud.vm(server)["nics"][0]["mac"]
    cloud.services.flags(shelved_offload_time=0)
    cloud.act(server, "shelve")
    cloud.wait(server, "SHELVED_OFFLOADED")
    assert server["id"] not in cloud.vms()
    (image,) = [
        each["id"] for each in cloud.glance.images.values() if each["name"].endswith("-shelved")
    ]
    cloud.act(server, "unshelve", {"host": "compute2"})
    cloud.wait(server, "ACTIVE")
    assert read(cloud, server, "compute2") == "shelved"
    assert cloud.vm(server, "compute2")["nics"][0]["mac"] == mac
    assert image not in cloud.glance.images
    cloud.act(server, "reboot", {"type": "HARD"})
    cloud.wait(server, "ACTIVE")
    assert read(cloud, server, "compute2") == "shelved"
    cloud.delete(server)


# what goes wrong


class Gate:
    """Holds an upload after its first piece."""

    def __init__(self, cloud: cloud_module.Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.error: Exception | None = None
        plain = cloud.glance.update

        def update(
            context: Any, image_id: str, metadata: Any, data: Any = None, **more: Any
        ) -> Any:
            return plain(context, image_id, metadata, data and _Held(self, data), **more)

        monkeypatch.setattr(
            nova_glance.API, "update", lambda _, *args, **more: update(*args, **more)
        )


class _Held:
    def __init__(self, gate: Gate, data: Any) -> None:
        self._gate = gate
        self._data = data

    def read(self, size: int = -1) -> bytes:
        piece: bytes = self._data.read(size)
        self._gate.begun.set()
        assert self._gate.go_on.wait(cloud_module.SECONDS)
        if self._gate.error is not None:
            raise self._gate.error
        return piece


@pytest.fixture
def gate(cloud: cloud_module.Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(cloud, monkeypatch)
    yield gate
    gate.go_on.set()


def test_an_upload_that_fails(cloud: cloud_module.Cloud, gate: Gate) -> None:
    server = cloud.boot("disk", host="compute1")
    before = cloud.vm(server)
    gate.error = OSError("Glance is gone")
    gate.go_on.set()
    image = create_image(cloud, server)
    waits.until(lambda: image not in cloud.glance.images, "Nova to delete the image")
    waits.until(lambda: not left(cloud), "nothing to be left")
    assert cloud.wait(server)["status"] == "ACTIVE"
    assert cloud.vm(server).get("flexible_disk_size") == before.get("flexible_disk_size")
    cloud.delete(server)


@pytest.mark.parametrize("kind", ["zone", "disk"])
def test_a_server_that_is_deleted_meanwhile(
    cloud: cloud_module.Cloud, gate: Gate, kind: str
) -> None:
    server = cloud.boot(kind, host="compute1")
    image = create_image(cloud, server)
    assert gate.begun.wait(cloud_module.SECONDS)
    # it does not wait for Glance
    cloud.delete(server)
    assert server["id"] not in cloud.vms() and left(cloud) == []
    gate.go_on.set()
    waits.until(lambda: image not in cloud.glance.images, "Nova to delete the image")


def test_an_image_that_is_deleted_meanwhile(cloud: cloud_module.Cloud, gate: Gate) -> None:
    server = cloud.boot("zone", host="compute1")
    image = create_image(cloud, server)
    assert gate.begun.wait(cloud_module.SECONDS)
    cloud.glance.delete(None, image)
    gate.go_on.set()
    cloud.wait(server, "ACTIVE")
    waits.until(lambda: not left(cloud), "nothing to be left")
    cloud.delete(server)


def test_a_pool_without_room(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot("disk", host="compute1")
    before = cloud.vm(server)
    disk_fault(cloud, "full")
    try:
        image = create_image(cloud, server)
        waits.until(lambda: image not in cloud.glance.images, "Nova to delete the image")
        cloud.wait(server, "ACTIVE")
    finally:
        disk_fault(cloud, "free")
    assert left(cloud) == []
    assert cloud.vm(server).get("flexible_disk_size") == before.get("flexible_disk_size")
    cloud.delete(server)


def disk_fault(cloud: cloud_module.Cloud, what: str) -> None:
    cloud.node.command("fault", str(cloud.node.directory), "disk", what)


def test_a_nova_compute_that_dies_in_an_upload(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot("disk", host="compute1")
    before = cloud.vm(server)
    dataset = before["zfs_filesystem"]
    quota = cloud.node.tool("zfs", "get", "-Hpo", "value", "quota", dataset).strip()
    # what it leaves, as its commands make it
    cloud.node.tool("zfs", "snapshot", "-o", f"nova:quota={quota}", f"{dataset}@nova-image")
    cloud.node.tool("zfs", "set", "quota=none", dataset)
    cloud.node.tool("zfs", "snapshot", f"{before['disks'][0]['zfs_filesystem']}@nova-image")
    cloud.restart_compute()
    assert left(cloud) == []
    assert cloud.node.tool("zfs", "get", "-Hpo", "value", "quota", dataset).strip() == quota
    assert cloud.vm(server)["state"] == "running"
    cloud.delete(server)


# what operators keep


def operator(cloud: cloud_module.Cloud, *words: str) -> list[str]:
    """smartos-snapshot beside compute1."""
    gz = cloud.computes["compute1"].manager.driver._node
    return list(snapshot_command.run(gz, "compute1", snapshot_command.parse(words)))


def stop(cloud: cloud_module.Cloud, server: dict[str, Any]) -> None:
    cloud.act(server, "os-stop")
    cloud.wait(server, "SHUTOFF")


@pytest.mark.parametrize("kind", ["zone", "disk"])
def test_an_operator_takes_a_server_back(cloud: cloud_module.Cloud, kind: str) -> None:
    # beside its reservation a disk needs room for what it keeps
    specs = {"smartos:flexible_disk_size": "15360"} if kind == "disk" else {}
    flavor = cloud.flavor(disk=5, specs=specs)
    server = cloud.boot(kind, flavor=flavor, host="compute1", metadata={"a": "then", "b": "then"})
    write(cloud, server, "first")
    assert operator(cloud, "create", server["id"], "one") == ["nova-one"]
    write(cloud, server, "second")
    update = {"set_customer_metadata": {"a": "now"}, "remove_customer_metadata": ["b"]}
    cloud.node.tool("vmadm", "update", server["id"], payload=json.dumps(update))
    cloud.node.tool("vmadm", "create-snapshot", server["id"], "by-hand")
    names = sorted(line.split("\t")[::2] for line in operator(cloud, "list", server["id"]))
    assert names == [["by-hand", "vmadm"], ["nova-one", "nova"]]

    with pytest.raises(snapshot_command.Refused, match="openstack server stop"):
        operator(cloud, "restore", server["id"], "nova-one")
    stop(cloud, server)
    told = cloud.vm(server)
    with pytest.raises(errors.InvalidState, match="by-hand"):
        operator(cloud, "restore", server["id"], "nova-one")
    assert len(operator(cloud, "list", server["id"])) == 2
    gone = operator(cloud, "restore", "--force", server["id"], "nova-one")
    assert gone and all(line.endswith("@vmsnap-by-hand") for line in gone)
    after = cloud.vm(server)
    assert after["state"] == "stopped"
    for key in ("customer_metadata", "internal_metadata", "quota", "disks"):
        assert after.get(key) == told.get(key), key
    shown = cloud.show(server)
    assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("SHUTOFF", None)

    cloud.act(server, "os-start")
    cloud.wait(server)
    assert read(cloud, server, "compute1") == "first"
    operator(cloud, "delete", server["id"], "nova-one")
    assert operator(cloud, "list", server["id"]) == []
    cloud.delete(server)


def test_an_operator_takes_a_file_out(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot("zone", host="compute1")
    write(cloud, server, "lost")
    operator(cloud, "create", server["id"], "one")
    write(cloud, server, "found")
    there = cloud.vms()
    assert operator(cloud, "clone", server["id"], "nova-one", "zones/taken") == ["zones/taken"]
    motd = cloud.node.directory / "root/zones/taken/root/etc/motd"
    assert motd.read_text().strip() == "lost"
    assert cloud.vms() == there
    with pytest.raises(errors.ToolError, match="dependent clones"):
        operator(cloud, "delete", server["id"], "nova-one")
    cloud.node.tool("zfs", "destroy", "zones/taken")
    cloud.delete(server)


def test_an_operator_is_kept_from_what_is_not_meant(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot("zone", host="compute1")
    cloud.node.tool("vmadm", "create-snapshot", server["id"], "by-hand")
    with pytest.raises(snapshot_command.Refused, match="--any-snapshot"):
        operator(cloud, "delete", server["id"], "by-hand")
    operator(cloud, "--any-snapshot", "delete", server["id"], "by-hand")
    payload = {
        "brand": "joyent",
        "image_uuid": cloud.vm(server)["image_uuid"],
        "max_physical_memory": 128,
        "quota": 5,
    }
    other = str(uuid.uuid4())
    cloud.node.tool("vmadm", "create", payload=json.dumps({**payload, "uuid": other}))
    with pytest.raises(snapshot_command.Refused, match="--any-vm"):
        operator(cloud, "create", other, "one")
    assert operator(cloud, "--any-vm", "create", other, "one") == ["nova-one"]
    cloud.node.tool("vmadm", "delete", other)
    with pytest.raises(errors.InvalidPayload, match="no place for a clone"):
        operator(cloud, "create", server["id"], "one")
        operator(cloud, "clone", server["id"], "nova-one", f"zones/{other}")
    cloud.delete(server)


def test_the_command_speaks_for_itself(cloud: cloud_module.Cloud, tmp_path: pathlib.Path) -> None:
    server = cloud.boot("zone", host="compute1")
    operator(cloud, "create", server["id"], "one")
    told = cloud_module.connection(cloud.node)
    lines = ["[DEFAULT]", "host = compute9", "transport_url = fake:/", "[smartos]"]
    file = tmp_path / "nova.conf"
    file.write_text("\n".join([*lines, *(f"{name} = {told[name]}" for name in told), ""]))
    words = [sys.executable, "-W", "ignore", "-m", "nova_smartos.cmd.snapshot"]
    words += ["--config-file", str(file)]
    done, refused = (
        subprocess.run(
            [*words, *more, "list", server["id"]],
            capture_output=True,
            text=True,
            timeout=cloud_module.SECONDS,
        )
        for more in (["--any-vm"], [])
    )
    assert done.returncode == 0 and done.stdout.startswith("nova-one\t"), done.stderr
    assert refused.returncode == snapshot_command.FAILED and refused.stdout == ""
    assert refused.stderr.startswith("smartos-snapshot: VM ") and "compute1" in refused.stderr
    cloud.delete(server)
