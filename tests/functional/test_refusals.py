# SPDX-License-Identifier: Apache-2.0
"""What SmartOS cannot do is refused with its reason, and the server stays as it was."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional import cloud as cloud_module

pytestmark = cloud_module.QUIET

VOLUME = cloud_module.nova_fixtures.CinderFixture.IMAGE_BACKED_VOL
DATA = "87654321-1111-2222-3333-444444444444"


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    with cloud_module.Cloud() as cloud:
        cloud.add_compute("compute2")
        yield cloud


@pytest.fixture(scope="module")
def server(cloud: cloud_module.Cloud) -> Iterator[dict[str, Any]]:
    made = cloud.boot("zone", availability_zone="nova:compute1")
    yield made
    cloud.delete(made)


def last_error(cloud: cloud_module.Cloud, server: dict[str, Any], action: str) -> str:
    """The event of the server's last action of this name that says why it failed."""

    def failed() -> str | None:
        for each in cloud.api.get_instance_actions(server["id"]):
            if each["action"] == action:
                found = cloud.api.api_get(
                    f"/servers/{server['id']}/os-instance-actions/{each['request_id']}"
                ).body["instanceAction"]
                texts = [
                    event.get("details") or event.get("traceback") or ""
                    for event in found["events"]
                    if event["result"] == "Error"
                ]
                return "\n".join(texts) or None
        return None

    return cloud.until(failed, f"{action} to fail")


def unchanged(cloud: cloud_module.Cloud, server: dict[str, Any]) -> bool:
    shown = cloud.show(server)
    vm = cloud.vm(server, "compute1")
    return (shown["status"], shown["OS-EXT-STS:task_state"], vm["state"]) == (
        "ACTIVE",
        None,
        "running",
    )


@pytest.mark.parametrize(
    ("action", "body", "kept", "reason"),
    [
        ("pause", None, "pause", "only one of kvm can"),
        ("suspend", None, "suspend", "cannot keep the memory"),
        ("trigger_crash_dump", None, "trigger_crash_dump", "hardware virtualization"),
    ],
)
def test_what_a_zone_cannot_do(
    cloud: cloud_module.Cloud,
    server: dict[str, Any],
    action: str,
    body: Any,
    kept: str,
    reason: str,
) -> None:
    cloud.act(server, action, body)
    assert reason in last_error(cloud, server, kept)
    cloud.until(lambda: unchanged(cloud, server), "the server to be as it was")


def test_live_migration_is_refused(cloud: cloud_module.Cloud, server: dict[str, Any]) -> None:
    body = {"host": "compute2", "block_migration": "auto"}
    cloud.act(server, "os-migrateLive", body)
    (migration,) = cloud.until(
        lambda: [
            each
            for each in cloud.api.get_migrations()
            if each["instance_uuid"] == server["id"] and each["status"] == "error"
        ],
        "the migration to fail",
    )
    assert migration["migration_type"] == "live-migration"
    assert "does not move a running VM" in last_error(cloud, server, "live-migration")
    cloud.until(lambda: unchanged(cloud, server), "the server to be as it was")


def test_a_volume_is_refused(cloud: cloud_module.Cloud, server: dict[str, Any]) -> None:
    cloud.api.post_server_volume(server["id"], {"volumeAttachment": {"volumeId": DATA}})
    assert "Volumes cannot be attached" in last_error(cloud, server, "attach_volume")
    cloud.until(lambda: unchanged(cloud, server), "the server to be as it was")
    assert cloud.api.get_server_volumes(server["id"]) == []


def test_a_server_on_a_volume_is_refused(cloud: cloud_module.Cloud) -> None:
    mapping = {
        "boot_index": 0,
        "uuid": VOLUME,
        "source_type": "volume",
        "destination_type": "volume",
    }
    server = cloud.api.post_server(
        {
            "server": {
                "name": "nst-on-a-volume",
                "flavorRef": cloud.flavor(),
                "imageRef": "",
                "networks": "none",
                "block_device_mapping_v2": [mapping],
            }
        }
    )
    shown = cloud.wait(server, "ERROR")
    assert "Volumes cannot be attached" in shown["fault"]["message"]
    assert server["id"] not in [*cloud.vms("compute1"), *cloud.vms("compute2")]
    cloud.delete(server)
