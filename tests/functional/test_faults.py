# SPDX-License-Identifier: Apache-2.0
"""Faults of the node and of the way to it, through the whole of Nova: what its user is left with.

The matrix of all commands and faults stands in tests/faults; here is a sample by hand, as Nova's
own code sees it.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nova_smartos.operations import build, interface, reconcile
from tests.functional import cloud as cloud_module
from tests.functional import test_life

pytestmark = cloud_module.QUIET

KINDS = ("fail", "die-before", "die-after", "lose-before", "lose-after")
Act = Callable[[cloud_module.Cloud, dict[str, Any]], None]


@pytest.fixture(scope="module")
def cloud() -> Iterator[cloud_module.Cloud]:
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        # how long a lost command may go on; the node's own clock runs faster
        patch.setattr(build, "APPEAR_SECONDS", 3.0)
        patch.setattr(interface, "SETTLE_SECONDS", 3.0)
        cloud = stack.enter_context(cloud_module.Cloud(over_ssh=True))
        # the image is there, so that a launch is one command
        cloud.delete(cloud.boot("zone"))
        yield cloud


def post(action: str, body: Any = None) -> Act:
    """One of the API's actions on a server."""
    return lambda cloud, server: cloud.act(server, action, body)


def attach(cloud: cloud_module.Cloud, server: dict[str, Any]) -> None:
    # the API waits for nova-compute
    with contextlib.suppress(cloud_module.Refused):
        body = {"interfaceAttachment": {"port_id": cloud.port()}}
        cloud.api.attach_interface(server["id"], body)


def rebuild(cloud: cloud_module.Cloud, server: dict[str, Any]) -> None:
    cloud.act(server, "rebuild", {"imageRef": cloud.image("zone")})


def delete(cloud: cloud_module.Cloud, server: dict[str, Any]) -> None:
    cloud.api.delete_server(server["id"])


#: What a user does, the subcommand of vmadm that is spoilt, the status if all goes well.
ACTIONS: dict[str, tuple[Act | None, str, str]] = {
    "boot": (None, "create", "ACTIVE"),
    "delete": (delete, "delete", "gone"),
    "stop": (post("os-stop"), "stop", "SHUTOFF"),
    "reboot": (post("reboot", {"type": "HARD"}), "start", "ACTIVE"),
    "rebuild": (rebuild, "create", "ACTIVE"),
    "attach": (attach, "update", "ACTIVE"),
}


@contextlib.contextmanager
def spoilt(cloud: cloud_module.Cloud, kind: str, subcommand: str) -> Iterator[None]:
    """One run of vmadm goes wrong; it must come to that."""
    directory = str(cloud.node.directory)
    words = ("--match", f"^{subcommand}( |$)", "--count", "1", "--stderr", "the node is ill\n")
    cloud.node.command("fault", directory, "add", "vmadm", kind, *words)
    try:
        yield
        faults = json.loads(cloud.node.command("fault", directory, "list"))
        assert [fault["met"] for fault in faults] == [1]
    finally:
        cloud.node.command("fault", directory, "clear")


def settled(cloud: cloud_module.Cloud, server: dict[str, Any], wanted: str) -> str:
    """The server's status once nothing is under way any more."""

    def status() -> str | None:
        try:
            shown = cloud.show(server)
        except cloud_module.NotFound:
            return "gone"
        rests = not shown["OS-EXT-STS:task_state"]
        if shown["status"] == "ERROR" and "fault" not in shown:
            return None
        done = wanted != "gone" or shown["status"] == "ERROR"
        return str(shown["status"]) if rests and done and shown["status"] != "BUILD" else None

    return cloud.until(status, f"{server['id']} to settle")


def failed(cloud: cloud_module.Cloud, server: dict[str, Any]) -> bool:
    """Whether the last action on the server shows as failed, as its user sees it."""
    path = f"/servers/{server['id']}/os-instance-actions"
    last = cloud.user_api.api_get(path).body["instanceActions"][0]
    events = cloud.user_api.api_get(f"{path}/{last['request_id']}").body["instanceAction"]["events"]
    return any(event["result"] == "Error" for event in events)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action", ACTIONS)
def test_one_fault(cloud: cloud_module.Cloud, action: str, kind: str) -> None:
    act, subcommand, wanted = ACTIONS[action]
    server = None if act is None else cloud.boot("zone", networks=[{"port": cloud.port()}])
    with spoilt(cloud, kind, subcommand):
        if act is None or server is None:
            server = cloud.boot("zone", networks=[{"port": cloud.port()}], wait=None)
        else:
            act(cloud, server)
        status = settled(cloud, server, wanted)
    if status == "ERROR":
        shown = cloud.show(server)
        assert shown["fault"]["message"]
    elif status == wanted == "gone":
        pass
    elif not failed(cloud, server):
        assert status == wanted
    # whatever it was, the user can be rid of the server, and nothing stays
    if status != "gone":
        cloud.api.delete_server(server["id"])
        gone = settled(cloud, server, "gone") == "gone"
        assert gone
    left = test_life.audited(cloud).findings
    assert [each for each in left if each.kind is not reconcile.Kind.ALLOCATION] == []
    assert [each.subject for each in left] == []
