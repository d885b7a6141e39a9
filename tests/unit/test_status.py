# SPDX-License-Identifier: Apache-2.0
"""smartos-status on emulated nodes, locally and by SSH: each fault, planted, is named."""

import contextlib
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("nova", reason="missing: nova; pip install 'nova-smartos[functional]'")

import nova.conf
from oslo_config import cfg

from nova_smartos import conf as smartos_conf
from nova_smartos import driver
from nova_smartos.cmd import status
from tests import direct as operators
from tests import emulated

ROOT = pathlib.Path(__file__).parents[2]
CONF = nova.conf.CONF
OTHER = str(uuid.UUID(int=7))
Code = status.Code
# most tests run on both; these have to do with one way only, or cost much
locally = pytest.mark.parametrize("place", ["local"], indirect=True, scope="module")
by_ssh = pytest.mark.parametrize("place", ["ssh"], indirect=True, scope="module")
Asked = dict[str, tuple[int, str]]


class Placement:
    """As much of Placement as is asked: resource providers by name."""

    def __init__(self) -> None:
        self.providers: dict[str, str] = {}
        self.asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                self.asked.append(handler.path)
                name = handler.path.partition("?name=")[2]
                uuids = [self.providers[name]] if name in self.providers else []
                found = [{"uuid": each, "name": name} for each in uuids]
                body = json.dumps({"resource_providers": found}).encode()
                handler.send_response(200)
                handler.send_header("Content-Type", "application/json")
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(handler, *arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> "Placement":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Site:
    """A node, and the configuration of a nova-compute that has nothing wrong with it."""

    def __init__(self, place: emulated.EmulatedNode, over_ssh: bool, folder: pathlib.Path) -> None:
        self.place = place
        self.folder = folder
        self.info = json.loads(place.tool("sysinfo"))
        self.placement = Placement()
        (folder / "state").mkdir()
        mkisofs = folder / "mkisofs"
        mkisofs.write_text("#!/bin/sh\n")
        mkisofs.chmod(0o755)
        self.nova = {
            "compute_driver": "smartos.SmartOSDriver",
            "host": "compute1",
            "max_concurrent_builds": "30",
            "mkisofs_cmd": str(mkisofs),
            "state_path": str(folder / "state"),
        }
        self.smartos = {
            "network_mappings": "compute*:physnet1:external",
            "trusted_image_owners": "8d4f1a2b",
            "tool_path": place.tools,
        }
        if over_ssh:
            ssh = place.facts()["ssh"]
            self.smartos = {
                **self.smartos,
                "connection": "ssh",
                "connect_timeout": "5",
                "node_address": ssh["host"],
                "node_port": str(ssh["port"]),
                "node_user": ssh["user"],
                "key_file": ssh["identity"],
                "known_hosts_file": ssh["known_hosts"],
            }
            del self.smartos["tool_path"]

    def config(self) -> pathlib.Path:
        """The configuration, as a file."""
        groups = {
            "DEFAULT": self.nova,
            "smartos": self.smartos,
            "placement": {"auth_type": "none", "endpoint_override": self.placement.url},
        }
        path = self.folder / "nova.conf"
        path.write_text(
            "".join(
                f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())
                for group, values in groups.items()
            )
        )
        return path

    def ask(self, *names: str, threads: str | None = None) -> Asked:
        """What each check finds, or those of these names."""
        smartos_conf.register(CONF)
        CONF(["--config-file", str(self.config())], project="nova")
        try:
            with status.Checks(CONF, threads) as checks:
                results = {
                    name: find(checks)
                    for name, find in checks._upgrade_checks
                    if not names or name in names
                }
        finally:
            CONF.reset()
        return {name: (each.code, each.details or "") for name, each in results.items()}

    def says(self, check: str, code: int) -> str:
        """What a check says, which must find something as bad as this."""
        found = self.ask("Connection", check)
        assert found["Connection"][0] == Code.SUCCESS, found
        assert found[check][0] == code, found
        return found[check][1]

    @contextlib.contextmanager
    def fault(self, tool: str, *words: str) -> Iterator[None]:
        """Let a tool of the node fail, or say something else."""
        folder = str(self.place.directory)
        self.place.command("fault", folder, "add", tool, "fail", *words)
        try:
            yield
        finally:
            self.place.command("fault", folder, "clear")

    @contextlib.contextmanager
    def told(self, **changes: Any) -> Iterator[None]:
        """Let sysinfo tell something else."""
        names = {name.replace("_", " "): value for name, value in changes.items()}
        text = json.dumps(self.info | names)
        with self.fault("sysinfo", "--status", "0", "--stdout", text):
            yield


@pytest.fixture(scope="module", params=["local", "ssh"])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[emulated.EmulatedNode, bool]]:
    ssh = ("--ssh", "127.0.0.1:0") if request.param == "ssh" else ()
    options = ("--name", "headnode", "--nic-tag", "external", *ssh)
    with emulated.EmulatedNode(*options) as found:
        found.image("zone")
        yield found, request.param == "ssh"


@pytest.fixture
def site(place: tuple[emulated.EmulatedNode, bool], tmp_path: pathlib.Path) -> Iterator[Site]:
    found = Site(*place, tmp_path)
    with found.placement:
        yield found


def test_nothing_is_wrong(site: Site) -> None:
    assert {name: each for name, each in site.ask().items() if each[0]} == {}
    assert site.placement.asked == ["/resource_providers?name=headnode"]


def test_nothing_is_wrong_after_the_first_start(site: Site) -> None:
    (site.folder / "state/compute_id").write_text(site.info["UUID"])
    site.placement.providers["headnode"] = site.info["UUID"]
    assert {name: each for name, each in site.ask().items() if each[0]} == {}


# this machine


def test_another_driver(site: Site) -> None:
    site.nova["compute_driver"] = "libvirt.LibvirtDriver"
    assert "set it to smartos.SmartOSDriver" in site.says("Nova", Code.FAILURE)


@pytest.mark.parametrize(
    ("backend", "threads", "code"),
    [
        ("eventlet", None, Code.WARNING),
        ("threading", None, Code.SUCCESS),
        ("auto", "false", Code.WARNING),
        ("eventlet", "true", Code.SUCCESS),
    ],
)
def test_eventlet(backend: str, threads: str | None, code: int, site: Site) -> None:
    site.nova["concurrency_backend"] = backend
    found, said = site.ask("Nova", threads=threads)["Nova"]
    assert found == code
    assert ("eventlet" in said) == (code == Code.WARNING)


def test_a_release_that_nobody_tested(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "RELEASES", (1,))
    assert "tested with 1" in site.says("Nova", Code.WARNING)


@pytest.mark.parametrize(
    ("group", "option", "value", "said"),
    [
        ("smartos", "network_mappings", "", "every launch with a port is refused"),
        ("smartos", "network_mappings", "node9:physnet1:external", "this host, compute1"),
        ("smartos", "network_mappings", "*:*:external", "networks of type local are one wire"),
        ("smartos", "allow_unfiltered_ports", "true", "security groups on ports of this host"),
        ("smartos", "trusted_image_owners", "", "ZFS streams are refused"),
        ("smartos", "trusted_image_owners", "*", "crafted ZFS stream"),
        ("nova", "vif_plugging_timeout", "0", "before Neutron has wired"),
        ("nova", "vif_plugging_is_fatal", "false", "before Neutron has wired"),
        ("nova", "mkisofs_cmd", "/nonexistent/mkisofs", "config drive fail"),
    ],
)
def test_options_that_are_rarely_meant(
    group: str, option: str, value: str, said: str, site: Site
) -> None:
    getattr(site, group)[option] = value
    assert said in site.says("Configuration", Code.WARNING)


@locally
@pytest.mark.parametrize(("limit", "begun"), [("10", 10), ("0", 10), ("1", 1)])
def test_a_limit_that_makes_launches_wait(limit: str, begun: int, site: Site) -> None:
    site.nova["max_concurrent_builds"] = limit
    said = site.says("Launches", Code.WARNING)
    assert f"lets {begun} launches begin at once" in said and "such as 30." in said


@by_ssh
def test_a_limit_that_the_way_to_the_node_does_not_carry(site: Site) -> None:
    site.nova["max_concurrent_builds"] = "31"
    assert "carries no more than 30" in site.says("Launches", Code.WARNING)
    site.smartos["max_connections"] = "5"
    assert site.ask("Launches") == {"Launches": (Code.SUCCESS, "")}
    # as many as there is room for is enough, however few
    site.smartos["max_connections"], site.nova["max_concurrent_builds"] = "1", "6"
    assert site.ask("Launches") == {"Launches": (Code.SUCCESS, "")}


def test_a_state_path_that_is_none(site: Site) -> None:
    (site.folder / "file").write_text("")
    site.nova["state_path"] = str(site.folder / "file")
    found = site.ask("Configuration", "Connection", "Identity")
    for name in ("Configuration", "Identity"):
        assert found[name][0] == Code.FAILURE
        assert str(site.folder / "file") in found[name][1]


def test_a_spool_that_nobody_can_write_to(site: Site) -> None:
    (site.folder / "file").write_text("")
    site.smartos["spool_directory"] = str(site.folder / "file" / "spool")
    assert "not metered" in site.says("Configuration", Code.FAILURE)
    site.smartos["spool_directory"] = str(site.folder / "new" / "spool")
    assert site.ask("Configuration")["Configuration"][0] == Code.SUCCESS


def test_nowhere_to_keep_a_qcow2_image(site: Site) -> None:
    (site.folder / "file").write_text("")
    site.smartos["conversion_directory"] = str(site.folder / "file" / "x")
    assert "qcow2 are refused" in site.says("Configuration", Code.FAILURE)


def test_a_key_for_images_that_is_none_or_known(site: Site) -> None:
    key = site.folder / "key"
    site.smartos["image_signing_key_file"] = str(key)
    assert "No such file" in site.says("Configuration", Code.FAILURE)
    key.write_text("k" * 64)
    key.chmod(0o640)
    assert site.ask("Configuration")["Configuration"][0] == Code.SUCCESS
    for mode in (0o644, 0o641, 0o660):
        key.chmod(mode)
        assert f"mode {mode:04o}" in site.says("Configuration", Code.FAILURE)


# the way to the node


def unreachable(site: Site) -> str:
    """The connection fails, and nothing is claimed of what lies behind it."""
    found = site.ask()
    assert found["Connection"][0] == Code.FAILURE
    for name in ("Tools", "Node", "Pool", "Services", "Identity", "Networks", "Images"):
        assert found[name] == (Code.WARNING, "Not checked, since the node cannot be asked.")
    return found["Connection"][1]


@locally
def test_no_node_here(site: Site) -> None:
    del site.smartos["tool_path"]
    assert "connection = ssh" in unreachable(site)


@by_ssh
def test_no_address(site: Site) -> None:
    del site.smartos["node_address"]
    assert "node_address" in unreachable(site)


@by_ssh
def test_nobody_at_the_address(site: Site) -> None:
    site.smartos["node_port"] = "1"
    said = unreachable(site)
    assert "cannot connect" in said
    assert "node is up" in said


@by_ssh
def test_a_host_key_that_nobody_checked(site: Site) -> None:
    (site.folder / "none").write_text("")
    site.smartos["known_hosts_file"] = str(site.folder / "none")
    said = unreachable(site)
    assert "ssh-keyscan" in said
    assert "operator's guide" in said


def new_key(path: pathlib.Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_name(path.name + ".pub").read_text()


@by_ssh
def test_another_host_key(site: Site) -> None:
    name = pathlib.Path(site.smartos["known_hosts_file"]).read_text().split()[0]
    other = new_key(site.folder / "other").split()
    (site.folder / "known").write_text(f"{name} {other[0]} {other[1]}\n")
    site.smartos["known_hosts_file"] = str(site.folder / "known")
    assert "host key" in unreachable(site)


@by_ssh
def test_a_key_that_the_node_does_not_take(site: Site) -> None:
    new_key(site.folder / "stranger")
    site.smartos["key_file"] = str(site.folder / "stranger")
    assert "does not accept" in unreachable(site)


@by_ssh
def test_a_key_that_everybody_may_read(site: Site) -> None:
    path = site.folder / "open"
    path.write_bytes(pathlib.Path(site.smartos["key_file"]).read_bytes())
    path.chmod(0o644)
    site.smartos["key_file"] = str(path)
    assert str(path) in unreachable(site)


@by_ssh
def test_a_key_that_is_missing(site: Site) -> None:
    site.smartos["key_file"] = str(site.folder / "missing")
    assert "missing" in unreachable(site)


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("vmadm", ("--status", "126", "--stderr", "smartos-forced-command: refused: vmadm\n")),
        ("imgadm", ("--stderr", "imgadm: error (InternalError): broken\n")),
        ("dladm", ("--stderr", "dladm: insufficient privileges\n")),
    ],
)
def test_a_tool_that_does_not_work(tool: str, words: tuple[str, ...], site: Site) -> None:
    with site.fault(tool, *words):
        found = site.ask("Connection", "Tools")
    assert found["Tools"][0] == Code.FAILURE
    assert tool in found["Tools"][1]
    assert "forced command" in found["Tools"][1]


def test_a_node_that_speaks_nonsense(site: Site) -> None:
    with site.fault("zpool", "--status", "0", "--stdout", "what\n"):
        found = site.ask("Connection", "Pool")
    assert found["Pool"][0] == Code.FAILURE
    assert "cannot answer" in found["Pool"][1]


# the node


@pytest.mark.parametrize("name", ["localhost", "unknown"])
def test_a_name_that_others_have_too(name: str, site: Site) -> None:
    with site.told(Hostname=name):
        assert "names of their own" in site.says("Node", Code.FAILURE)


def test_no_pool(site: Site) -> None:
    with site.told(Zpool=""):
        assert "never set up" in site.says("Node", Code.FAILURE)


def test_no_virtualization(site: Site) -> None:
    with site.told(CPU_Virtualization="none", Bhyve_Capable=False):
        assert "firmware" in site.says("Node", Code.WARNING)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("zones 100 50 50 1 50 1.00 DEGRADED", Code.WARNING, "DEGRADED"),
        ("zones 100 50 50 1 50 1.00 FAULTED", Code.FAILURE, "zpool status"),
        ("zones 100 95 5 60 95 1.00 ONLINE", Code.WARNING, "95 % full"),
    ],
)
def test_pool(line: str, code: int, said: str, site: Site) -> None:
    text = line.replace(" ", "\t") + "\n"
    with site.fault("zpool", "--status", "0", "--stdout", text):
        assert said in site.says("Pool", code)


@pytest.mark.parametrize("name", sorted(status.SERVICES))
def test_a_service_that_is_off(name: str, site: Site) -> None:
    listed = site.place.tool("svcs", "-H", "-a", "-o", "state,nstate,stime,fmri")
    changed = re.sub(rf"(?m)^online( .*{re.escape(name)})$", r"disabled\1", listed)
    assert changed != listed
    with site.fault("svcs", "--status", "0", "--stdout", changed):
        said = site.says("Services", Code.FAILURE)
    assert f"svcadm enable {name}" in said


def test_a_service_in_maintenance(site: Site) -> None:
    name = "svc:/system/smartdc/vmadmd:default"
    listed = site.place.tool("svcs", "-H", "-a", "-o", "state,nstate,stime,fmri")
    changed = re.sub(rf"(?m)^online( .*{re.escape(name)})$", r"maintenance\1", listed)
    with site.fault("svcs", "--status", "0", "--stdout", changed):
        assert f"svcadm clear {name}" in site.says("Services", Code.FAILURE)


def test_another_nodes_identity(site: Site) -> None:
    (site.folder / "state/compute_id").write_text(OTHER)
    said = site.says("Identity", Code.FAILURE)
    assert OTHER in said
    assert site.info["UUID"] in said


def test_an_identity_that_is_none(site: Site) -> None:
    (site.folder / "state/compute_id").write_text("rubbish")
    assert site.info["UUID"] in site.says("Identity", Code.FAILURE)


def test_a_node_that_servers_cannot_go_to(site: Site) -> None:
    site.smartos["peers"] = "compute2:ssh://root@127.0.0.1:1"
    assert "[smartos]peers: the node of compute2: " in site.says("Peers", Code.FAILURE)


def test_a_node_that_servers_go_to_straight(site: Site) -> None:
    with emulated.EmulatedNode("--ssh", "127.0.0.1:0") as other:
        ssh = other.facts()["ssh"]
        own = site.smartos if "key_file" in site.smartos else {}
        key = pathlib.Path(own.get("key_file", ssh["identity"]))
        hosts = [
            pathlib.Path(each) for each in (own.get("known_hosts_file"), ssh["known_hosts"]) if each
        ]
        known = site.folder / "known_hosts"
        known.write_text("".join(each.read_text() for each in hosts))
        with (other.directory / "root/usbkey/config.inc/authorized_keys").open("a") as allowed:
            allowed.write(key.with_suffix(".pub").read_text())
        site.smartos |= {
            "peers": f"compute2:ssh://root@127.0.0.1:{ssh['port']}",
            "key_file": str(key),
            "known_hosts_file": str(known),
            "direct_moves": "true",
        }
        if "tool_path" in site.smartos:
            site.smartos["tool_path"] += f":{site.place.directory}/root/opt/custom/bin"
        told = site.says("Peers", Code.WARNING)
        assert "this node does not reach that of compute2" in told
        operators.let(site.place, other)
        assert site.ask("Connection", "Peers")["Peers"][0] == Code.SUCCESS


def test_network_mappings_that_are_none(site: Site) -> None:
    site.smartos["network_mappings"] = "compute*:external"
    found = site.ask("Configuration", "Connection", "Networks")
    code, said = found["Configuration"]
    assert code == Code.FAILURE
    assert "'compute*:external' is not HOST_PATTERN:PHYSICAL_NETWORK:NIC_TAG" in said
    assert str(site.folder / "nova.conf") in said
    assert found["Networks"] == (
        Code.WARNING,
        "Not checked, see the check of the configuration.",
    )


@locally
def test_nova_compute_does_not_start_with_mappings_that_are_none(site: Site) -> None:
    site.smartos["network_mappings"] = "compute*:external"
    smartos = driver.SmartOSDriver(None)
    CONF(["--config-file", str(site.config())], project="nova")
    try:
        with pytest.raises(cfg.ConfigFileValueError, match="'compute.:external' is not HOST_"):
            smartos.init_host("compute1")
    finally:
        CONF.reset()


def test_a_nic_tag_that_the_node_does_not_have(site: Site) -> None:
    site.smartos["network_mappings"] += ",*:physnet2:storage,node9:physnet3:other"
    said = site.says("Networks", Code.FAILURE)
    assert "nictagadm add storage" in said
    assert "physnet1" not in said
    assert "physnet3" not in said


def test_nic_tags_over_an_etherstub_and_an_overlay(site: Site) -> None:
    listed = site.place.tool("nictagadm", "list", "-p", "-d", ",")
    listed += "stub0,-,-,etherstub\nsdc_overlay,-,-,overlay rule\n"
    site.smartos["network_mappings"] += ",*:physnet2:stub0,*:physnet3:sdc_overlay/7"
    with site.fault("nictagadm", "--status", "0", "--stdout", listed):
        assert site.ask("Connection", "Networks")["Networks"] == (Code.SUCCESS, "")


LINKS = "show-link -p -o link,class,mtu,state,over".split()


def under(site: Site) -> str:
    """The link under the nic tag external."""
    listed = site.place.tool("nictagadm", "list", "-p", "-d", ",")
    (row,) = [line.split(",") for line in listed.splitlines() if line.startswith("external,")]
    return row[2]


def test_a_link_that_is_down(site: Site) -> None:
    link = under(site)
    shown = site.place.tool("dladm", *LINKS)
    changed = re.sub(rf"(?m)^({link}:phys:\d+):up:", r"\1:down:", shown)
    assert changed != shown
    with site.fault("dladm", "--status", "0", "--stdout", changed):
        said = site.says("Networks", Code.WARNING)
    assert f"{link} is down, which carries external of physnet1" in said


@pytest.mark.parametrize("state", ["up", "down"])
def test_an_aggregation(state: str, site: Site) -> None:
    shown = site.place.tool("dladm", *LINKS) + f"aggr0:aggr:1500:{state}:e1000g0 e1000g1\n"
    tags = site.place.tool("nictagadm", "list", "-p", "-d", ",") + "back,-,aggr0,aggr\n"
    site.smartos["network_mappings"] = "*:physnet1:back"
    with site.fault("dladm", "--status", "0", "--stdout", shown):
        with site.fault("nictagadm", "--status", "0", "--stdout", tags):
            code, said = site.ask("Connection", "Networks")["Networks"]
    assert code == (Code.SUCCESS if state == "up" else Code.WARNING)
    assert ("aggr0 is down" in said) == (state == "down")


def test_a_link_that_is_gone(site: Site) -> None:
    link = under(site)
    shown = site.place.tool("dladm", *LINKS)
    left = "".join(f"{row}\n" for row in shown.splitlines() if not row.startswith(f"{link}:"))
    with site.fault("dladm", "--status", "0", "--stdout", left):
        assert "which no link of the node is" in site.says("Networks", Code.FAILURE)


def test_an_image_that_nothing_can_be_made_of(site: Site) -> None:
    other = site.place.image("minimal")
    site.place.tool("zfs", "destroy", f"zones/{other}@final")
    try:
        assert f"imgadm delete {other}" in site.says("Images", Code.FAILURE)
    finally:
        site.place.tool("zfs", "destroy", "-r", f"zones/{other}")


def test_a_broken_import(site: Site) -> None:
    site.place.tool("zfs", "create", f"zones/{OTHER}-partial")
    try:
        said = site.says("Images", Code.WARNING)
        assert f"zfs destroy -r zones/{OTHER}-partial" in said
    finally:
        site.place.tool("zfs", "destroy", f"zones/{OTHER}-partial")


# the cloud


@pytest.mark.parametrize(
    ("option", "resource"),
    [
        ("reserved_host_cpus", "VCPU"),
        ("reserved_host_memory_mb", "MEMORY_MB"),
        ("reserved_host_disk_mb", "DISK_GB"),
    ],
)
def test_all_of_it_is_reserved(option: str, resource: str, site: Site) -> None:
    site.nova[option] = "100000000"
    assert f"of {resource} are reserved" in site.says("Inventory", Code.FAILURE)


def test_two_nodes_of_one_name(site: Site) -> None:
    site.placement.providers["headnode"] = OTHER
    said = site.says("Placement", Code.FAILURE)
    assert OTHER in said
    assert "name of its own" in said


def test_no_placement(site: Site) -> None:
    site.placement.url = "http://127.0.0.1:1"
    assert "[placement]" in site.says("Placement", Code.WARNING)


# the command


def command(*words: str, python: tuple[str, ...] = (), **environment: str) -> Any:
    return subprocess.run(
        [sys.executable, *(python or ("-m", "nova_smartos.cmd.status")), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@locally
@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("host", "compute1", Code.SUCCESS),
        ("vif_plugging_timeout", "0", Code.WARNING),
        ("compute_driver", "fake.FakeDriver", Code.FAILURE),
    ],
)
def test_exit_status(option: str, value: str, code: int, site: Site) -> None:
    site.nova[option] = value
    done = command("--config-file", str(site.config()), "upgrade", "check", "--json")
    assert done.returncode == code, done
    results = json.loads(done.stdout)
    assert [each["check"] for each in results["checks"]] == [
        name for name, _ in status.Checks._upgrade_checks
    ]
    assert max(each["result"] for each in results["checks"]) == code


@by_ssh
def test_for_people(site: Site) -> None:
    site.nova["compute_driver"] = "fake.FakeDriver"
    done = command("--config-file", str(site.config()), "upgrade", "check")
    assert "Check: Nova" in done.stdout
    assert "Result: Failure" in done.stdout
    assert "compute_driver is fake.FakeDriver" in re.sub(r"[\s|]+", " ", done.stdout)


def test_a_nova_that_hides_itself(tmp_path: pathlib.Path) -> None:
    """As an editable Nova does: what our wheel brings to nova/virt shadows its finder."""
    installed = pathlib.Path(sysconfig.get_path("purelib"))
    folder = tmp_path / "site-packages"
    folder.mkdir()
    for each in installed.iterdir():
        if each.name not in ("nova", "nova_smartos") and each.suffix not in (".pth", ".py"):
            (folder / each.name).symlink_to(each)
    for each in ("six.py", "typing_extensions.py"):
        if (installed / each).exists():
            (folder / each).symlink_to(installed / each)
    (folder / "nova/virt/smartos").mkdir(parents=True)
    (folder / "nova/virt/smartos/__init__.py").write_text("")
    program = (
        "import importlib.util, sys\n"
        "class Editable:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        found = {str(installed / 'nova/__init__.py')!r}\n"
        "        return importlib.util.spec_from_file_location(name, found) "
        "if name == 'nova' else None\n"
        "sys.meta_path.append(Editable())\n"
        "from nova_smartos.cmd import status\n"
        "sys.exit(status.main())\n"
    )
    done = command("upgrade", "check", python=("-S", "-c", program), PYTHONPATH=f"{folder}:{ROOT}")
    assert done.returncode == Code.FAILURE, done
    assert "install Nova as a wheel" in done.stderr
    assert done.stdout == ""
