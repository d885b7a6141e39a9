# SPDX-License-Identifier: Apache-2.0
"""Consoles as users get them: through Nova's API and its own proxies, of every brand."""

import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from nova.tests.functional.api import client as api_client

from tests import waits
from tests.functional import cloud as cloud_module
from tests.functional import proxies

pytestmark = cloud_module.QUIET

Server = dict[str, Any]

#: What an instance is made with, by the kind of its guest.
KINDS = {
    "zone": ("zone", {}),
    "minimal": ("minimal", {"smartos_brand": "joyent-minimal"}),
    "lx": ("lx", {}),
    "bhyve": ("zvol", {}),
    "kvm": ("zvol", {"img_hv_type": "kvm"}),
}
MACHINES = ("bhyve", "kvm")
SECONDS = 60


@pytest.fixture(name="cloud", scope="module")
def _cloud() -> Iterator[cloud_module.Cloud]:
    flags: dict[str | tuple[str, str], Any] = {("serial_console", "enabled"): True}
    with cloud_module.Cloud(over_ssh=True, flags=flags) as cloud:
        yield cloud


@pytest.fixture(name="proxy", scope="module")
def _proxy(cloud: cloud_module.Cloud) -> Iterator[proxies.Proxy]:
    with proxies.Proxy() as proxy:
        point_to(cloud, proxy)
        yield proxy


def point_to(cloud: cloud_module.Cloud, proxy: proxies.Proxy) -> None:
    flags = cloud.services.flags
    flags(base_url=f"ws://127.0.0.1:{proxy.port}/", group="serial_console")
    flags(novncproxy_base_url=f"http://127.0.0.1:{proxy.port}/vnc_lite.html", group="vnc")


@pytest.fixture(name="servers", scope="module")
def _servers(cloud: cloud_module.Cloud) -> dict[str, Server]:
    """A server of each kind."""
    made = {
        kind: cloud.boot(image=cloud.image(image, **properties), wait=None)
        for kind, (image, properties) in KINDS.items()
    }
    return {kind: cloud.wait(server) for kind, server in made.items()}


def url(cloud: cloud_module.Cloud, server: Server, protocol: str = "serial") -> str:
    kinds = {"serial": "serial", "vnc": "novnc", "spice": "spice-html5", "mks": "webmks"}
    body = {"remote_console": {"protocol": protocol, "type": kinds[protocol]}}
    answer = cloud.user_api.api_post(f"/servers/{server['id']}/remote-consoles", body)
    found: str = answer.body["remote_console"]["url"]
    return found


def screen_url(cloud: cloud_module.Cloud, server: Server) -> str:
    """What noVNC connects to, of the address that its page is opened with."""
    page = url(cloud, server, "vnc")
    found = re.fullmatch(r"(http://[^/]+/).*path=%3Ftoken%3D([0-9a-f-]+)", page)
    assert found, page
    return f"{found[1]}?token={found[2]}"


@contextlib.contextmanager
def client(url: str) -> Iterator[proxies.Client]:
    with contextlib.closing(proxies.Client(url)) as found:
        yield found


def log_in(console: proxies.Client) -> None:
    console.send(b"\x04")
    console.read(b" login: ")
    console.send(b"root\r")
    console.read(b"]# ")


def is_refused(url: str) -> bool:
    """Whether a URL leads to no guest: the proxy hangs up, and says nothing before."""
    try:
        with client(url) as console:
            console.send(b"\r")
            return console.ended(at_once=True)
    except OSError:
        return True


def output(cloud: cloud_module.Cloud, server: Server, length: int | None = None) -> str:
    body = {"os-getConsoleOutput": {} if length is None else {"length": length}}
    found: str = cloud.user_api.post_server_action(server["id"], body)["output"]
    return found


def status_of(refused: pytest.ExceptionInfo[Any]) -> int:
    return int(refused.value.response.status_code)


def act(cloud: cloud_module.Cloud, server: Server, action: Any, status: str) -> None:
    cloud.api.post_server_action(server["id"], action)
    cloud.wait(server, status)


@pytest.mark.parametrize("kind", KINDS)
def test_a_serial_console_opens_its_own_guest(
    cloud: cloud_module.Cloud, proxy: proxies.Proxy, servers: dict[str, Server], kind: str
) -> None:
    with client(url(cloud, servers[kind])) as console:
        log_in(console)
        console.send(b"hostname\r")
        assert cloud.vm(servers[kind])["hostname"].encode() in console.read(b"]# ")


@pytest.mark.parametrize("kind", KINDS)
def test_the_console_log(
    cloud: cloud_module.Cloud, proxy: proxies.Proxy, servers: dict[str, Server], kind: str
) -> None:
    mark = f"mark-{kind}-{time.monotonic()}"
    with client(url(cloud, servers[kind])) as console:
        log_in(console)
        console.send(f"echo {mark}\r".encode())
        console.read(f"\n{mark}\r\n".encode())
    # Nova leaves out what is no text, such as carriage returns
    waits.until(lambda: f"\n{mark}\n" in output(cloud, servers[kind]), mark)
    act(cloud, servers[kind], {"reboot": {"type": "HARD"}}, "ACTIVE")
    if kind == "kvm":
        # whose console is ours: who comes before that was noticed is sent away with the old one
        waits.until(lambda: not is_refused(url(cloud, servers[kind])), "the console")
    with client(url(cloud, servers[kind])) as console:
        log_in(console)
        console.send(f"echo again-{mark}\r".encode())
        console.read(f"\nagain-{mark}\r\n".encode())
    # of before the reboot, and of after it
    shown = output(cloud, servers[kind])
    assert 0 < shown.index(f"\n{mark}\n") < shown.index(f"\nagain-{mark}\n")
    assert len(output(cloud, servers[kind], 3).split("\n")) <= 3


def test_the_log_is_bounded(
    cloud: cloud_module.Cloud, proxy: proxies.Proxy, servers: dict[str, Server]
) -> None:
    path = cloud.node.directory / "root/zones" / servers["lx"]["id"] / "logs/console.log"
    line = json.dumps({"msg": "a byte: \xe9\n", "stream": "console"})
    with path.open("a") as log:
        log.write(f"{line}\n" * 200_000 + '{ "msg": "cut')
    assert len(output(cloud, servers["lx"])) < 512 * 1024
    assert output(cloud, servers["lx"], 2).startswith("a byte: ")


@pytest.mark.parametrize("kind", MACHINES)
def test_a_screen_and_nothing_open_on_the_network(
    cloud: cloud_module.Cloud, proxy: proxies.Proxy, servers: dict[str, Server], kind: str
) -> None:
    with client(screen_url(cloud, servers[kind])) as screen:
        assert screen.exactly(12) == b"RFB 003.008\n"
        screen.send(b"RFB 003.008\n")
        assert screen.exactly(2) == b"\1\1"
        screen.send(b"\1")
        assert screen.exactly(4) == b"\0\0\0\0"
        screen.send(b"\1")
        found = struct.unpack("!HH16xI", screen.exactly(24))
        assert found[:2] == (640, 400)
        assert screen.exactly(found[2]).decode() == cloud.vm(servers[kind])["alias"]
        screen.send(struct.pack("!BBHHHH", 3, 0, 0, 0, 640, 400))
        assert struct.unpack("!BxH", screen.exactly(4))[1] > 0
        # vmadmd, which would listen on the node's admin address
        facts = json.loads(cloud.node.tool("vmadm", "info", servers[kind]["id"], "vnc"))
        assert facts == {"vnc": {}}


@pytest.mark.parametrize(("kind", "protocol"), [("zone", "vnc"), ("lx", "vnc")])
def test_zones_have_no_screen(
    cloud: cloud_module.Cloud, servers: dict[str, Server], kind: str, protocol: str
) -> None:
    with pytest.raises(cloud_module.Refused) as refused:
        url(cloud, servers[kind], protocol)
    assert status_of(refused) == 400


def test_a_machine_that_was_to_have_no_screen(cloud: cloud_module.Cloud) -> None:
    flavor = cloud.flavor(specs={"smartos:video": "none"})
    server = cloud.boot("zvol", flavor=flavor)
    with pytest.raises(cloud_module.Refused) as refused:
        url(cloud, server, "vnc")
    assert status_of(refused) == 400
    cloud.api.delete_server(server["id"])
    cloud.gone(server)


@pytest.mark.parametrize("protocol", ["spice", "mks"])
def test_what_smartos_does_not_have(
    cloud: cloud_module.Cloud, servers: dict[str, Server], protocol: str
) -> None:
    cloud.services.flags(enabled=True, group=protocol)
    with pytest.raises(cloud_module.Refused) as refused:
        url(cloud, servers["kvm"], protocol)
    assert status_of(refused) == 501


def test_another_project_gets_none(cloud: cloud_module.Cloud, servers: dict[str, Server]) -> None:
    theirs = cloud.user_api
    other = api_client.TestOpenStackClient("other", theirs.base_url, project_id="other")
    other.microversion = "latest"
    body = {"remote_console": {"protocol": "serial", "type": "serial"}}
    with pytest.raises(cloud_module.NotFound):
        other.api_post(f"/servers/{servers['zone']['id']}/remote-consoles", body)
    with pytest.raises(cloud_module.NotFound):
        other.post_server_action(servers["zone"]["id"], {"os-getConsoleOutput": {}})


def test_the_last_who_comes_stays(
    cloud: cloud_module.Cloud, proxy: proxies.Proxy, servers: dict[str, Server]
) -> None:
    token = url(cloud, servers["zone"])
    with client(token) as first:
        log_in(first)
        with client(token) as second:
            log_in(second)
            assert first.ended()
            second.send(b"echo here\r")
            second.read(b"\nhere\r\n")


def test_a_token_is_over_after_its_time(
    cloud: cloud_module.Cloud, proxy: proxies.Proxy, servers: dict[str, Server]
) -> None:
    cloud.services.flags(token_ttl=5, group="consoleauth")
    try:
        token = url(cloud, servers["zone"])
    finally:
        cloud.services.flags(token_ttl=600, group="consoleauth")
    with client(token) as console:
        log_in(console)
    waits.until(lambda: is_refused(token), "the end of the token")


def test_no_token_outlives_its_server(cloud: cloud_module.Cloud, proxy: proxies.Proxy) -> None:
    server = cloud.boot("zone")
    token = url(cloud, server)
    with client(token) as console:
        log_in(console)
        cloud.api.delete_server(server["id"])
        cloud.gone(server)
        assert console.ended()
    assert is_refused(token)


def test_a_stopped_server(
    cloud: cloud_module.Cloud, proxy: proxies.Proxy, servers: dict[str, Server]
) -> None:
    tokens = url(cloud, servers["bhyve"]), screen_url(cloud, servers["bhyve"])
    act(cloud, servers["bhyve"], {"os-stop": None}, "SHUTOFF")
    assert [is_refused(token) for token in tokens] == [True, True]
    with pytest.raises(cloud_module.Refused) as refused:
        url(cloud, servers["bhyve"])
    assert status_of(refused) == 409
    act(cloud, servers["bhyve"], {"os-start": None}, "ACTIVE")
    with client(tokens[0]) as console:
        log_in(console)


def test_a_port_that_is_used_again(
    cloud: cloud_module.Cloud, proxy: proxies.Proxy, servers: dict[str, Server]
) -> None:
    """After a restart the port is the same one; what led to it before leads nowhere."""
    before = url(cloud, servers["zone"])
    port = cloud.driver.get_serial_console(None, instance_of(cloud, servers["zone"])).port
    cloud.restart_compute()
    after = url(cloud, servers["minimal"])
    assert cloud.driver.get_serial_console(None, instance_of(cloud, servers["zone"])).port == port
    assert is_refused(before)
    with client(after) as console:
        log_in(console)
        console.send(b"hostname\r")
        assert cloud.vm(servers["minimal"])["hostname"].encode() in console.read(b"]# ")
    with client(url(cloud, servers["zone"])) as console:
        log_in(console)


def instance_of(cloud: cloud_module.Cloud, server: Server) -> Any:
    from nova import context, objects

    found = context.get_admin_context()
    return objects.Instance.get_by_uuid(found, server["id"])


def test_only_a_path_of_ours_leads_somewhere(
    cloud: cloud_module.Cloud, proxy: proxies.Proxy, servers: dict[str, Server]
) -> None:
    zone, lx = (instance_of(cloud, servers[kind]) for kind in ("zone", "lx"))
    found = cloud.driver.get_serial_console(None, zone)
    kind, _, expires, code = found.internal_access_path.strip("/").split("/")
    for path, status in [
        ("", "404"),
        ("/", "404"),
        ("/serial", "404"),
        (f"/{kind}/{lx.uuid}/{expires}/{code}", "403"),
        (f"/display/{zone.uuid}/{expires}/{code}", "403"),
        (f"/{kind}/{zone.uuid}/{int(expires) + 1}/{code}", "403"),
        (f"/{kind}/{zone.uuid}/{expires}/{'0' * 64}", "403"),
        (found.internal_access_path, "200"),
    ]:
        with socket.create_connection((found.host, found.port), SECONDS) as connection:
            connection.sendall(f"CONNECT {path} HTTP/1.1\r\n\r\n".encode())
            assert connection.recv(100).startswith(f"HTTP/1.1 {status} ".encode()), path


def test_who_does_not_read_delays_nobody(
    cloud: cloud_module.Cloud, proxy: proxies.Proxy, servers: dict[str, Server]
) -> None:
    found = cloud.driver.get_serial_console(None, instance_of(cloud, servers["lx"]))
    with socket.create_connection((found.host, found.port), SECONDS) as silent:
        silent.sendall(f"CONNECT {found.internal_access_path} HTTP/1.1\r\n\r\nroot\r".encode())
        for _ in range(200):
            silent.sendall(b"echo " + b"x" * 500 + b"\r")
        with client(url(cloud, servers["zone"])) as console:
            log_in(console)
        started = time.monotonic()
        act(cloud, servers["zone"], {"reboot": {"type": "HARD"}}, "ACTIVE")
        assert time.monotonic() - started < SECONDS


def test_sessions_end_with_nova_compute(
    cloud: cloud_module.Cloud, proxy: proxies.Proxy, servers: dict[str, Server]
) -> None:
    with client(url(cloud, servers["zone"])) as console:
        log_in(console)
        cloud.restart_compute()
        assert console.ended()
    left = [each.name for each in threading.enumerate() if each.name.startswith("console")]
    assert not left
