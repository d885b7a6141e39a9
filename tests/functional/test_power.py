# SPDX-License-Identifier: Apache-2.0
"""Power, as the users of Nova's API see it: real Nova, one emulated node."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import waits
from tests.functional import cloud as cloud_module

pytestmark = cloud_module.QUIET

# What the API calls nova.compute.power_state's.
NOSTATE, RUNNING, PAUSED, SHUTDOWN = 0, 1, 3, 4
KVM = {"smartos:brand": "kvm"}
BHYVE = {"smartos:brand": "bhyve"}


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    with cloud_module.Cloud(over_ssh=True) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def boot(cloud: cloud_module.Cloud) -> Callable[..., Any]:
    """A function that gives an active server, the same for the same kind: booting takes longest."""
    known: dict[str, Any] = {}

    def make(kind: str = "zone", **specs: str) -> Any:
        key = f"{kind} {specs}"
        if key not in known:
            known[key] = cloud.boot(kind, flavor=cloud.flavor(specs=specs))
        return cloud.wait(known[key], "ACTIVE")

    return make


def state(cloud: cloud_module.Cloud, server: Any) -> tuple[str, int]:
    shown = cloud.show(server)
    return shown["status"], shown["OS-EXT-STS:power_state"]


def is_up(cloud: cloud_module.Cloud, server: Any) -> bool:
    """Whether the VM runs, or is off, each for good."""
    vm = cloud.vm(server)
    assert (vm["state"], vm["autoboot"]) in (("running", True), ("stopped", False))
    return bool(vm["state"] == "running")


def start(cloud: cloud_module.Cloud, server: Any) -> None:
    cloud.act(server, "os-start")
    cloud.wait(server, "ACTIVE")


def attempt(cloud: cloud_module.Cloud, server: Any, call: str, action: str) -> dict[str, Any]:
    """How an action went, as its user reads it."""
    path = f"/servers/{server['id']}/os-instance-actions"

    def requests() -> set[str]:
        actions = cloud.api.api_get(path).body["instanceActions"]
        return {each["request_id"] for each in actions if each["action"] == action}

    def done() -> dict[str, Any] | None:
        for request in requests() - before:
            events = cloud.api.api_get(f"{path}/{request}").body["instanceAction"]["events"]
            if events and all(event["finish_time"] for event in events):
                return dict(events[-1])
        return None

    before = requests()
    cloud.act(server, call)
    return cloud.until(done, f"{action} to end")


def test_stop_and_start(cloud: cloud_module.Cloud, boot: Callable[..., Any]) -> None:
    server = boot()
    assert state(cloud, server) == ("ACTIVE", RUNNING)
    cloud.act(server, "os-stop")
    cloud.wait(server, "SHUTOFF")
    assert state(cloud, server) == ("SHUTOFF", SHUTDOWN)
    assert not is_up(cloud, server)
    start(cloud, server)
    assert state(cloud, server) == ("ACTIVE", RUNNING)
    assert is_up(cloud, server)


@pytest.mark.parametrize("kind", ["SOFT", "HARD"])
@pytest.mark.parametrize(("image", "specs"), [("zone", {}), ("zvol", BHYVE), ("zvol", KVM)])
def test_reboot(
    cloud: cloud_module.Cloud, boot: Callable[..., Any], kind: str, image: str, specs: Any
) -> None:
    server = boot(image, **specs)
    before = cloud.vm(server)["zoneid"]
    cloud.act(server, "reboot", {"type": kind})
    cloud.wait(server, "ACTIVE")
    assert is_up(cloud, server)
    assert cloud.vm(server)["zoneid"] != before
    assert state(cloud, server) == ("ACTIVE", RUNNING)


def test_a_hard_reboot_brings_up_what_was_stopped(
    cloud: cloud_module.Cloud, boot: Callable[..., Any]
) -> None:
    server = boot()
    cloud.act(server, "os-stop")
    cloud.wait(server, "SHUTOFF")
    cloud.act(server, "reboot", {"type": "HARD"})
    cloud.wait(server, "ACTIVE")
    assert is_up(cloud, server)


def test_a_guest_that_shuts_itself_down(
    cloud: cloud_module.Cloud, boot: Callable[..., Any]
) -> None:
    """Nova shows it without being asked, and the node's next boot leaves it down."""
    server = boot()
    cloud.node.tool("zlogin", server["id"], "shutdown", "-y", "-g", "0", "-i", "5")
    waits.until(lambda: cloud.vm(server)["state"] == "stopped", "the guest's shutdown")
    began = time.monotonic()
    cloud.until(lambda: state(cloud, server)[1] == SHUTDOWN, "Nova to see it")
    # a second of the node's knowing it, and what two processes on a busy machine add
    assert time.monotonic() - began < 5
    cloud.wait(server, "SHUTOFF")
    waits.until(lambda: cloud.vm(server)["autoboot"] is False, "autoboot to follow")
    start(cloud, server)


def test_a_guest_that_reboots_itself(cloud: cloud_module.Cloud, boot: Callable[..., Any]) -> None:
    server = boot()
    before = cloud.vm(server)["zoneid"]
    cloud.node.tool("zlogin", server["id"], "reboot")

    def again() -> bool:
        vm = cloud.vm(server)
        assert state(cloud, server) == ("ACTIVE", RUNNING)
        return vm["state"] == "running" and vm["zoneid"] != before

    waits.until(again, "the guest to be back")
    cloud.services._run_periodics()
    assert state(cloud, server) == ("ACTIVE", RUNNING)
    assert is_up(cloud, server)


def test_a_server_that_somebody_starts_on_the_node(
    cloud: cloud_module.Cloud, boot: Callable[..., Any]
) -> None:
    """What its user stopped stays stopped: Nova has the last word."""
    server = boot()
    cloud.act(server, "os-stop")
    cloud.wait(server, "SHUTOFF")
    cloud.node.tool("vmadm", "start", server["id"])
    waits.until(lambda: cloud.vm(server)["state"] == "stopped", "Nova to stop it")
    cloud.wait(server, "SHUTOFF")
    assert not is_up(cloud, server)
    start(cloud, server)


def test_pause_and_unpause_of_kvm(cloud: cloud_module.Cloud, boot: Callable[..., Any]) -> None:
    server = boot("zvol", **KVM)
    cloud.act(server, "pause")
    cloud.wait(server, "PAUSED")
    assert state(cloud, server) == ("PAUSED", PAUSED)
    cloud.services._run_periodics()
    assert state(cloud, server) == ("PAUSED", PAUSED)
    cloud.act(server, "unpause")
    cloud.wait(server, "ACTIVE")
    assert state(cloud, server) == ("ACTIVE", RUNNING)


@pytest.mark.parametrize(
    ("action", "image", "specs", "says"),
    [
        ("pause", "zone", {}, "brand joyent cannot be paused"),
        ("pause", "zvol", BHYVE, "brand bhyve cannot be paused"),
        ("suspend", "zone", {}, "memory of a guest"),
        ("suspend", "zvol", KVM, "memory of a guest"),
        ("trigger_crash_dump", "zone", {}, "no kernel of its own"),
    ],
)
def test_what_a_brand_cannot_do(
    cloud: cloud_module.Cloud,
    boot: Callable[..., Any],
    action: str,
    image: str,
    specs: Any,
    says: str,
) -> None:
    """The user reads why; nothing happened to the server, which goes on."""
    server = boot(image, **specs)
    event = attempt(cloud, server, action, action)
    assert event["result"] == "Error"
    assert says in event["details"]
    cloud.wait(server, "ACTIVE")
    assert state(cloud, server) == ("ACTIVE", RUNNING)
    assert is_up(cloud, server)


def test_a_crash_dump(cloud: cloud_module.Cloud, boot: Callable[..., Any]) -> None:
    server = boot("zvol", **BHYVE)
    event = attempt(cloud, server, "trigger_crash_dump", "trigger_crash_dump")
    assert event["result"] == "Success"
    assert is_up(cloud, server)


def test_soft_delete_and_restore(cloud: cloud_module.Cloud, boot: Callable[..., Any]) -> None:
    server = boot()
    cloud.services.flags(reclaim_instance_interval=3600)
    try:
        cloud.api.delete_server(server["id"])
        cloud.wait(server, "SOFT_DELETED")
        assert not is_up(cloud, server)
        cloud.act(server, "restore")
        cloud.wait(server, "ACTIVE")
        assert is_up(cloud, server)
    finally:
        cloud.services.flags(reclaim_instance_interval=0)


def test_a_stop_that_fails_says_why(cloud: cloud_module.Cloud, boot: Callable[..., Any]) -> None:
    server = boot()
    folder = str(cloud.node.directory)
    words = ("vmadm", "fail", "--match", "^stop ", "--stderr", "the disk is on fire")
    cloud.node.command("fault", folder, "add", *words)
    try:
        event = attempt(cloud, server, "os-stop", "stop")
    finally:
        cloud.node.command("fault", folder, "clear")
    assert event["result"] == "Error"
    assert "the disk is on fire" in event["details"]
    cloud.wait(server, "ACTIVE")
    assert is_up(cloud, server)
    cloud.act(server, "os-stop")
    cloud.wait(server, "SHUTOFF")
    assert not is_up(cloud, server)
    start(cloud, server)
