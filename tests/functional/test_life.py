# SPDX-License-Identifier: Apache-2.0
"""Lives of servers whose node and nova-compute have their accidents, and what the audit says."""

import contextlib
import json
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from nova_smartos.cmd import audit
from nova_smartos.operations import reconcile
from tests import waits
from tests.functional import cloud as cloud_module

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nova import context as nova_context
    from nova import objects

pytestmark = cloud_module.QUIET

HOST = "compute1"
#: What an import that was killed has left.
LOST = f"image-{uuid.UUID(int=1)}-0123abcd"
Kind = reconcile.Kind


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    with cloud_module.Cloud() as cloud:
        yield cloud


@contextlib.contextmanager
def cell() -> Iterator[Any]:
    """A context in which nova-compute's records are found."""
    context = nova_context.get_admin_context()
    mapping = objects.CellMappingList.get_all(context)[-1]
    with nova_context.target_cell(context, mapping) as found:
        yield found


def audited(cloud: cloud_module.Cloud) -> audit.Audit:
    with cell() as context:
        return audit.audit(cloud.driver._node, context, HOST, settle_seconds=0)


def kinds(cloud: cloud_module.Cloud) -> list[tuple[str, str]]:
    """What the audit finds."""
    return [(each.kind, each.subject) for each in audited(cloud).findings]


def record(server: Any) -> Any:
    with cell() as context:
        return objects.Instance.get_by_uuid(context.elevated(read_deleted="yes"), server["id"])


def planted(
    cloud: cloud_module.Cloud, vm_uuid: str, like: dict[str, Any], host: str = HOST
) -> None:
    """A VM with Nova's mark that no driver has made."""
    mark = json.loads(like["internal_metadata"]["nova:instance"])
    document = {
        "uuid": vm_uuid,
        "brand": "joyent",
        "image_uuid": like["image_uuid"],
        "max_physical_memory": 128,
        "quota": 5,
        "internal_metadata": {"nova:instance": json.dumps({**mark, "host": host})},
    }
    cloud.node.tool("vmadm", "create", payload=json.dumps(document))


def test_nothing_is_wrong_with_servers_that_are_well(cloud: cloud_module.Cloud) -> None:
    servers = [
        cloud.boot(kind, networks=[{"port": cloud.port()}], config_drive=drive)
        for kind, drive in (("zone", True), ("disk", False))
    ]
    cloud.act(servers[1], "os-stop")
    cloud.wait(servers[1], "SHUTOFF")
    assert kinds(cloud) == []
    for server in servers:
        cloud.delete(server)
    assert kinds(cloud) == []


def test_the_audit_tells_what_is_wrong(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot("zone", networks=[{"port": cloud.port()}])
    gone = cloud.boot("zone")
    like = cloud.vm(server)
    unknown, others, consumer = (str(uuid.uuid4()) for _ in range(3))
    planted(cloud, unknown, like)
    planted(cloud, others, like, host="compute2")
    mac = like["nics"][0]["mac"]
    change = json.dumps({"remove_nics": [mac]})
    cloud.node.tool("vmadm", "update", server["id"], payload=change)
    cloud.node.tool("vmadm", "delete", gone["id"])
    staged = cloud.node.directory / f"root/zones/nova-smartos/{LOST}"
    staged.write_text("half an image")
    provider = cloud.driver._node.sysinfo.get().uuid
    kept = {"allocations": {provider: {"resources": {"VCPU": 1}}}, "project_id": "p"}
    kept |= {"user_id": "u", "consumer_generation": None, "consumer_type": "INSTANCE"}
    cloud.placement.put(f"/allocations/{consumer}", kept, version="1.38")
    found = audited(cloud)
    assert others in found.foreign
    assert sorted((each.kind, each.subject) for each in found.findings) == sorted(
        [
            (Kind.ALLOCATION, consumer),
            (Kind.FILE, f"/zones/nova-smartos/{LOST}"),
            (Kind.MISSING, gone["id"]),
            (Kind.NICS, server["id"]),
            (Kind.VM_UNKNOWN, unknown),
        ]
    )
    assert all(each.advice for each in found.findings)
    # a start of nova-compute mends none of these but the file: nobody has allowed it
    cloud.restart_compute()
    assert {unknown, others} <= set(cloud.vms())
    for each in (unknown, others):
        cloud.node.tool("vmadm", "delete", each)
    cloud.placement.delete(f"/allocations/{consumer}")
    for each in (server, gone):
        cloud.delete(each)
    assert kinds(cloud) == []


def test_a_start_cleans_up_after_a_launch_that_did_not_end(cloud: cloud_module.Cloud) -> None:
    like = cloud.vm(well := cloud.boot("zone"))
    cloud.node.command(
        "fault", str(cloud.node.directory), "add", "vmadm", "fail", "--match", "^create"
    )
    server = cloud.wait(cloud.boot("zone", wait=None), "ERROR")
    cloud.node.command("fault", str(cloud.node.directory), "clear")
    planted(cloud, server["id"], like)
    assert kinds(cloud) == [(Kind.HALF_MADE, server["id"])]
    cloud.restart_compute()
    assert server["id"] not in cloud.vms() and well["id"] in cloud.vms()
    for each in (server, well):
        cloud.delete(each)
    assert kinds(cloud) == []


def test_a_start_reaps_a_server_that_was_deleted_meanwhile(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot("zone")
    like = cloud.vm(server)
    cloud.delete(server)
    planted(cloud, server["id"], like)
    assert kinds(cloud) == [(Kind.VM_DELETED, server["id"])]
    cloud.restart_compute()
    assert server["id"] not in cloud.vms() and kinds(cloud) == []


def test_a_start_waits_for_what_an_earlier_nova_compute_began(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot("zone")
    directory = str(cloud.node.directory)
    seconds = str(2 * int(cloud_module.SPEED))
    cloud.node.command(
        "fault", directory, "add", "vmadm", "slow", "--match", "^stop", "--seconds", seconds
    )
    tool = [f"{cloud.node.tools}/vmadm", "stop", server["id"]]
    with subprocess.Popen(tool, stderr=subprocess.DEVNULL) as earlier:
        busy = reconcile.ps.Ps(cloud.driver._node.transport)
        waits.until(lambda: any(each.changes for each in busy.list()), "vmadm to run")
        cloud.restart_compute()
        assert not any(each.changes for each in busy.list())
        earlier.wait(cloud_module.SECONDS)
    cloud.node.command("fault", directory, "clear")
    cloud.delete(server)


def test_the_node_reboots_under_its_servers(cloud: cloud_module.Cloud) -> None:
    up, down = cloud.boot("zone"), cloud.boot("disk")
    cloud.act(down, "os-stop")
    cloud.wait(down, "SHUTOFF")
    cloud.node.command("reboot", str(cloud.node.directory))

    def state(server: Any) -> str:
        try:
            return str(cloud.vm(server)["state"])
        except AssertionError:
            return ""

    waits.until(lambda: state(up) == "running", "the zone to come up")
    assert state(down) == "stopped"
    cloud.act(up, "reboot", {"type": "HARD"})
    cloud.wait(up)
    for each in (up, down):
        cloud.delete(each)
    assert kinds(cloud) == []


def test_a_deleted_servers_files_are_looked_for_again(cloud: cloud_module.Cloud) -> None:
    server = cloud.boot("zone")
    like = cloud.vm(server)
    assert not cloud.driver.delete_instance_files(record(server))
    assert server["id"] in cloud.vms()
    cloud.delete(server)
    assert cloud.driver.delete_instance_files(record(server))
    planted(cloud, server["id"], like)
    assert cloud.driver.delete_instance_files(record(server))
    assert server["id"] not in cloud.vms()


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "nova_smartos.cmd.audit", *words],
        capture_output=True,
        text=True,
        timeout=cloud_module.SECONDS,
    )


def test_the_command_explains_itself() -> None:
    said = command("--help")
    assert said.returncode == audit.CLEAN and "nova-compute" in said.stdout


def test_the_command_fails_when_nova_does_not_answer(
    cloud: cloud_module.Cloud, tmp_path: Any
) -> None:
    options = {"host": HOST, "transport_url": "fake:/", "rpc_response_timeout": 1}
    smartos = cloud_module.connection(cloud.node)
    lines = ["[DEFAULT]", *(f"{name} = {value}" for name, value in options.items())]
    lines += ["[smartos]", *(f"{name} = {value}" for name, value in smartos.items())]
    file = tmp_path / "nova.conf"
    file.write_text("\n".join(lines) + "\n")
    began = time.monotonic()
    said = command("--config-file", str(file))
    assert said.returncode == audit.FAILED and "smartos-audit:" in said.stderr
    assert "Traceback" not in said.stderr
    assert time.monotonic() - began < cloud_module.SECONDS


def test_the_command_fails_when_the_node_does_not_answer(tmp_path: Any) -> None:
    file = tmp_path / "nova.conf"
    file.write_text(
        "[DEFAULT]\ntransport_url = fake:/\n"
        f"[smartos]\nconnection = ssh\nnode_address = 127.0.0.1\nnode_port = 1\n"
        f"connect_timeout = 1\nknown_hosts_file = {tmp_path}/none\n"
    )
    said = command("--config-file", str(file), "--json")
    assert said.returncode == audit.FAILED and "127.0.0.1" in said.stderr
