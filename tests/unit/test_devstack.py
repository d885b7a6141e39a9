# SPDX-License-Identifier: Apache-2.0
"""The DevStack plugin: run by bash as DevStack runs it, with stubs for DevStack's own functions."""

import configparser
import contextlib
import importlib.util
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest
import yaml
from oslo_config import cfg

from nova_smartos import conf as smartos_conf

ROOT = pathlib.Path(__file__).parents[2]
PLUGIN = ROOT / "devstack"
STUBS = pathlib.Path(__file__).with_name("devstack_stubs.sh")
STACK = ["stack pre-install", "stack install", "stack post-config", "stack extra"]
STACK += ["stack test-config"]
SECONDS = 180
EMULATOR = "from smartos_emulator import cli; cli.main()"
PROJECT = "8d4f1a2b3c4d5e6f8d4f1a2b3c4d5e6f"
#: Answers as OpenStackClient does, keeps what it creates in $DATA_DIR, and fails for $BROKEN.
OPENSTACK = r"""
echo "openstack $*" >>"$CALLS"
[ -z "$BROKEN" ] || case "$*" in *"$BROKEN"*) echo "broken" >&2; exit 1 ;; esac
[ "$1 $2" = "--os-cloud devstack-admin" ] || { echo "no cloud was named" >&2; exit 2; }
shift 2
for last; do :; done
created=$DATA_DIR/created-$1
touch "$created"
case "$*" in
    "token issue -f value -c project_id") echo PROJECT ;;
    # the second time that a host is asked for, its service is up
    "compute service list "*)
        grep -F -x -- "$*" "$created" >/dev/null && echo up
        echo "$*" >>"$created" ;;
    "image list --name "*) awk -v name="$4" '$2 == name { print $1 }' "$created" ;;
    "image create "*) echo "id-of-$last $last" >>"$created" ;;
    "flavor list "*) cat "$created" ;;
    "flavor create --id "*) echo "$4" >>"$created" ;;
    "server list --all-projects --host "*) echo $SERVERS ;;
    "server delete --wait "*) ;;
    *) echo "unknown: $*" >&2; exit 2 ;;
esac
""".replace("PROJECT", PROJECT)
SYSTEMCTL = r"""
echo "systemctl $*" >>"$CALLS"
case $1 in
    start) exec $(sed -n 's/^ExecStart = //p' "$SYSTEMD_DIR/$2") ;;
    stop) exec $(sed -n 's/^ExecStop = //p' "$SYSTEMD_DIR/$2") ;;
esac
"""
#: A Python in which Nova can be loaded, and that answers for devstack/tempest_features.py.
QUICK_PYTHON = 'case "$1" in *.py) echo "compute min_compute_nodes $2" ;; esac'
#: The same, which runs that script.
PYTHON = f'case "$1" in *.py) exec {shlex.quote(sys.executable)} -W ignore "$@" ;; esac'
#: As much of smartos-emulator as the plugin's own steps show: a node is a folder with a file `up`.
QUICK_EMULATOR = r"""
echo "smartos-emulator $*" >>"$CALLS"
case $1 in
    up) mkdir -p "$2" && touch "$2/up" ;;
    down) [ -z "$STUBBORN" ] && rm "$2/up" ;;
    status) [ -f "$2/up" ] ;;
    image) echo "{\"name\": \"$3\", \"type\": \"$2\"}" >"$5.imgmanifest" && touch "$5.zfs.gz" ;;
esac
"""
REMOTE = "node7=ssh://root@192.0.2.7"


class Machine:
    """A machine on which DevStack runs: folders, commands, and the plugin's phases."""

    def __init__(self, folder: pathlib.Path, emulator: str = QUICK_EMULATOR) -> None:
        self.folder = folder
        self.calls_file = folder / "calls"
        self.conf_dir = folder / "etc" / "nova-smartos"
        self.data = folder / "data"
        self.state = self.data / "nova-smartos"
        self.tempest = self.data / "tempest.conf"
        self.commands = folder / "bin"
        self.environment = {
            "PATH": f"{self.commands}:/usr/bin:/bin",
            "CALLS": str(self.calls_file),
            "BROKEN": "",
            "SERVERS": "",
            "DATA_DIR": str(self.data),
            "DEST": str(folder / "dest"),
            "DEVSTACK_VENV": str(folder / "venv"),
            "GLOBAL_VENV": "True",
            "NEUTRON_CONF_DIR": str(folder / "etc" / "neutron"),
            "NOVA_BIN_DIR": str(self.commands),
            "NOVA_CONF_DIR": str(folder / "etc" / "nova"),
            "NOVA_DIR": str(folder / "dest" / "nova"),
            "PYTHONPATH": str(ROOT),
            "SMARTOS_CONF_DIR": str(self.conf_dir),
            "STUBBORN": "",
            "SYSTEMD_DIR": str(folder / "etc" / "systemd"),
        }
        for name in ("bin", "data", "etc/neutron", "etc/nova", "venv/bin"):
            (folder / name).mkdir(parents=True)
        self.calls_file.touch()
        self.command("openstack", OPENSTACK)
        self.command("systemctl", SYSTEMCTL)
        self.command("sudo", 'exec "$@"')
        self.command("smartos-emulator", emulator)
        for name in ("nova-manage", "smartos-status"):
            self.command(name, f'echo "{name} $*" >>"$CALLS"')
        self.command("../venv/bin/python3", QUICK_PYTHON)

    def command(self, name: str, text: str) -> None:
        """An executable of the machine."""
        path = self.commands / name
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)

    def run(self, *phases: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run phases of the plugin as stack.sh does, with these settings in local.conf."""
        return self.bash(*(f"source {PLUGIN}/plugin.sh {phase}" for phase in phases), **settings)

    def bash(self, *lines: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run lines of bash after the plugin's settings."""
        errexit = "set +o errexit" if "unstack" in lines[0] else "set -o errexit"
        script = [
            errexit,
            *(f"{name}={shlex.quote(value)}" for name, value in settings.items()),
            f"source {PLUGIN}/override-defaults",
            f"source {STUBS}",
            f"source {PLUGIN}/settings",
            *lines,
        ]
        return subprocess.run(
            ["bash", "-c", "\n".join(script)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    def succeed(self, *phases: str, **settings: str) -> list[str]:
        """Run phases, which must succeed; the calls they made."""
        before = len(self.calls())
        done = self.run(*phases, **settings)
        assert done.returncode == 0, done.stderr
        return self.calls()[before:]

    def calls(self, start: str = "") -> list[str]:
        """What was called, of DevStack's functions and of commands."""
        return [line for line in self.calls_file.read_text().splitlines() if line.startswith(start)]

    def conf(self, host: str) -> cfg.ConfigOpts:
        """What the nova-compute of a host reads of [smartos]."""
        conf = cfg.ConfigOpts()
        smartos_conf.register(conf)
        conf.register_opt(cfg.StrOpt("host"))
        conf.register_opt(cfg.StrOpt("state_path"))
        files = [self.conf_dir / "network.conf", self.conf_dir / f"compute-{host}.conf"]
        conf([f"--config-file={path}" for path in files], default_config_files=[])
        return conf

    def ini(self, path: pathlib.Path) -> configparser.ConfigParser:
        """A file as iniset leaves it."""
        found = configparser.ConfigParser(interpolation=None, delimiters=("=",))
        assert found.read(path), path
        return found


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def keys(tmp_path: pathlib.Path) -> dict[str, str]:
    """The settings of remote nodes that name files, which exist."""
    settings = {
        "SMARTOS_KEY_FILE": str(tmp_path / "id_ed25519"),
        "SMARTOS_KNOWN_HOSTS_FILE": str(tmp_path / "known_hosts"),
    }
    for path in settings.values():
        pathlib.Path(path).touch()
    return settings


def two_free_ports() -> int:
    """The first of two free ports in a row, of those that the kernel gives to nobody by itself."""
    start = os.getpid() % 5000
    for number in range(5000):
        port = 20000 + 2 * ((start + number) % 5000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for each in (port, port + 1):
                stack.enter_context(socket.create_server(("127.0.0.1", each)))
            return port
    pytest.fail("no two free ports in a row between 20000 and 30000")


@pytest.fixture
def real_machine(tmp_path: pathlib.Path) -> Iterator[Machine]:
    """A machine with the real emulator."""
    if shutil.which("sshd", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("missing: sshd, package openssh-server")
    real = f'exec {shlex.quote(sys.executable)} -c "{EMULATOR}" "$@"'
    machine = Machine(tmp_path, emulator=real)
    try:
        yield machine
    finally:
        # what a failed test leaves up
        for node in machine.state.glob("nodes/*"):
            subprocess.run([machine.commands / "smartos-emulator", "down", node],
                           env=machine.environment, timeout=SECONDS)  # fmt: skip


# A cloud on emulated nodes


def test_a_cloud_on_emulated_nodes_from_stack_to_clean(real_machine: Machine) -> None:
    machine = real_machine
    machine.command("../venv/bin/python3", PYTHON)
    port = two_free_ports()
    settings = {"SMARTOS_EMULATED_NODES": "2", "SMARTOS_EMULATED_SSH_PORT": str(port)}
    calls = machine.succeed(*STACK, **settings)
    for number, host in enumerate(("smartos-1", "smartos-2")):
        conf = machine.conf(host)
        assert (conf.host, conf.smartos.node_port) == (host, port + number)
        # by what the plugin wrote the node is reached, and is the right one
        with smartos_conf.connect(conf) as node:
            assert node.sysinfo.get().hostname == host
            tag = smartos_conf.nic_tags(conf, host)["public"]
            assert tag in {each.name for each in node.nictagadm.list()}
        assert f"systemctl enable devstack@smartos-node-{host}.service" in calls
    images = [line.split()[-1] for line in calls if "image create" in line]
    assert images == ["smartos-zone", "smartos-zone-alt", "smartos-lx", "smartos-disk"]
    disk = next(line for line in calls if line.endswith(" smartos-disk"))
    assert "smartos_image_type=zvol --property smartos_image_size=64 " in disk
    assert machine.ini(machine.tempest)["compute-feature-enabled"]["rescue"] == "True"
    stream = re.search(r"--file (\S+)", disk)
    assert stream is not None and pathlib.Path(stream[1]).stat().st_size > 0

    machine.succeed("unstack", **settings)
    assert list(machine.state.iterdir()) == []
    # nothing listens any more
    for number in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port + number), timeout=5).close()
    machine.succeed("clean", **settings)
    assert not machine.state.exists()
    assert not machine.conf_dir.exists()


def test_one_line_is_enough(machine: Machine) -> None:
    """One emulated node is the default."""
    calls = machine.succeed(*STACK)
    assert [line.split()[1] for line in calls if line.startswith("run_process")] == [
        "n-cpu-smartos-1"
    ]
    assert len([line for line in calls if line.startswith("smartos-emulator up")]) == 1


def test_a_nova_compute_a_node_with_its_own_configuration(machine: Machine) -> None:
    calls = machine.succeed(*STACK, SMARTOS_EMULATED_NODES="2")
    started = [line for line in calls if line.startswith("run_process")]
    nova_cpu = machine.folder / "etc" / "nova" / "nova-cpu.conf"
    assert started == [
        f"run_process n-cpu-{host} {machine.commands}/nova-compute --config-file {nova_cpu} "
        f"--config-file {machine.conf_dir}/network.conf "
        f"--config-file {machine.conf_dir}/compute-{host}.conf"
        for host in ("smartos-1", "smartos-2")
    ]
    states = {machine.conf(host).state_path for host in ("smartos-1", "smartos-2")}
    assert states == {f"{machine.state}/compute/smartos-1", f"{machine.state}/compute/smartos-2"}
    written = machine.ini(machine.conf_dir / "compute-smartos-1.conf")
    assert written["DEFAULT"]["compute_driver"] == "smartos.SmartOSDriver"
    assert written["vnc"]["novncproxy_base_url"] == "http://192.0.2.1:6080/vnc_lite.html"
    assert written["smartos"]["trusted_image_owners"] == PROJECT


def test_computes_start_when_their_nodes_serve_and_are_discovered_when_they_are_up(
    machine: Machine,
) -> None:
    calls = machine.succeed(*STACK)
    order = [
        "systemctl start devstack@smartos-node-smartos-1.service",
        "smartos-emulator up",
        "smartos-status",
        "run_process n-cpu-smartos-1",
        "openstack --os-cloud devstack-admin compute service list",
        "openstack --os-cloud devstack-admin compute service list",
        "nova-manage",
    ]
    wanted = [line for line in calls if line.startswith(tuple(order))]
    assert len(wanted) == len(order)
    assert all(line.startswith(start) for line, start in zip(wanted, order, strict=True))
    assert calls[-1] != wanted[-1], "images and flavors come after"
    assert "cell_v2 discover_hosts" in wanted[-1]


def test_a_compute_that_does_not_come_up_ends_it(machine: Machine) -> None:
    machine.command("openstack", "exit 0")
    done = machine.bash("NOVA_READY_TIMEOUT=1", "smartos_wait_for_compute smartos-1")
    assert done.returncode != 0
    assert "nova-compute of smartos-1 did not come up" in done.stderr


@pytest.mark.parametrize(("status", "ends"), [(0, False), (1, False), (2, True), (255, True)])
def test_what_smartos_status_finds(machine: Machine, status: int, ends: bool) -> None:
    machine.command("smartos-status", f"exit {status}")
    done = machine.run(*STACK)
    assert (done.returncode != 0) is ends
    assert (machine.calls("run_process") == []) is ends
    assert ("smartos-status finds" in done.stderr) is ends


def test_the_service_of_a_node_ends_with_the_node(machine: Machine) -> None:
    machine.succeed(*STACK)
    unit = machine.ini(machine.folder / "etc/systemd/devstack@smartos-node-smartos-1.service")
    node = f"{machine.state}/nodes/smartos-1"
    assert unit["Service"]["Type"] == "forking"
    assert unit["Service"]["ExecStart"] == (
        f"{machine.commands}/smartos-emulator up {node} --name smartos-1 --nic-tag external "
        "--ssh 127.0.0.1:2201 --speed 20"
    )
    assert unit["Service"]["ExecStop"] == f"{machine.commands}/smartos-emulator down {node}"


def test_nova_is_installed_again_so_that_it_can_be_loaded(machine: Machine) -> None:
    calls = machine.succeed("stack install")
    assert calls == [
        "define_plugin nova-smartos",
        "echo_summary Installing nova-smartos",
        f"setup_package {ROOT} -e",
        f"pip_install --no-deps {machine.folder}/dest/nova",
    ]
    machine.command("../venv/bin/python3", "exit 1")
    done = machine.run("stack install")
    assert done.returncode != 0
    assert "Nova cannot be loaded" in done.stderr


def test_what_is_there_is_not_made_again(machine: Machine) -> None:
    first = machine.succeed(*STACK)
    again = machine.succeed("stack extra")
    made = re.compile(r"(image|flavor) create")
    assert len([line for line in first if made.search(line)]) == 8
    assert [line for line in again if made.search(line)] == []


def test_flavors_ask_for_a_brand(machine: Machine) -> None:
    calls = machine.succeed(*STACK)
    brands = re.findall(r"flavor create .*--property smartos:brand=(\S+) (\S+)", "\n".join(calls))
    assert brands == [
        ("joyent", "smartos.zone"),
        ("joyent", "smartos.zone.large"),
        ("lx", "smartos.lx"),
        ("bhyve", "smartos.bhyve"),
    ]


# Neutron


def test_neutron_reads_the_file_that_nova_compute_reads(machine: Machine) -> None:
    machine.succeed(*STACK)
    uwsgi = machine.ini(machine.folder / "etc" / "neutron" / "neutron-api-uwsgi.ini")
    name, _, files = uwsgi["uwsgi"]["env"].partition("=")
    neutron = machine.folder / "etc" / "neutron"
    assert name == "OS_NEUTRON_CONFIG_FILES"
    assert files.split(";") == [
        f"{neutron}/neutron.conf",
        f"{neutron}/plugins/ml2/ml2_conf.ini",
        f"{machine.conf_dir}/network.conf",
    ]
    # as neutron-api takes them; apart, since Nova lets nothing of this process import eventlet
    if importlib.util.find_spec("neutron") is None:
        pytest.skip("missing: neutron")
    ask = "from neutron import server; print(*server._get_config_files(), sep=';')"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ask],
        env={name: files},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.stdout == f"{files}\n", done.stderr


@pytest.mark.parametrize(
    ("drivers", "wanted"),
    [("ovn", "ovn,smartos"), ("smartos,ovn", "smartos,ovn"), ("notsmartos", "notsmartos,smartos")],
)
def test_the_mechanism_driver_is_added_once(machine: Machine, drivers: str, wanted: str) -> None:
    done = machine.bash(
        'echo "$Q_ML2_PLUGIN_MECHANISM_DRIVERS"', Q_ML2_PLUGIN_MECHANISM_DRIVERS=drivers
    )
    assert done.stdout == f"{wanted}\n"


def test_project_networks_are_vlans_unless_the_user_says_otherwise(machine: Machine) -> None:
    show = 'echo "$Q_ML2_TENANT_NETWORK_TYPE $TENANT_VLAN_RANGE"'
    assert machine.bash(show).stdout == "vlan 1000:1999\n"
    own = machine.bash(show, Q_ML2_TENANT_NETWORK_TYPE="flat", TENANT_VLAN_RANGE="5:7")
    assert own.stdout == "flat 5:7\n"


def test_network_mappings(machine: Machine, keys: dict[str, str]) -> None:
    settings = {"SMARTOS_NODES": f"{REMOTE} n8.example.org=ssh://root@192.0.2.8", **keys}
    machine.succeed("stack post-config", SMARTOS_NIC_TAG="storage0", **settings)
    for host in ("node7", "n8.example.org"):
        assert smartos_conf.nic_tags(machine.conf(host), host) == {"public": "storage0"}
    assert machine.conf("node7").smartos.allow_unfiltered_ports
    own = "node*:public:a0,node*:*:b0"
    settings |= {"SMARTOS_NETWORK_MAPPINGS": own, "SMARTOS_ALLOW_UNFILTERED_PORTS": "False"}
    machine.succeed("stack post-config", **settings)
    conf = machine.conf("node7")
    assert smartos_conf.nic_tags(conf, "node7") == {"public": "a0", "*": "b0"}
    assert not conf.smartos.allow_unfiltered_ports


# Remote nodes


def test_remote_nodes(machine: Machine, keys: dict[str, str], tmp_path: pathlib.Path) -> None:
    own = tmp_path / "own"
    own.touch()
    nodes = (
        f"{REMOTE} node8=ssh://nova@[2001:db8::8]:2222,key_file={own},tool_path=/opt/a:/opt/b\n"
        "node9=ssh://root@nine.example.org"
    )
    calls = machine.succeed(*STACK[:4], SMARTOS_NODES=nodes, **keys)
    found = {}
    for host in ("node7", "node8", "node9"):
        options = machine.conf(host).smartos
        found[host] = (
            options.node_user,
            options.node_address,
            options.node_port,
            options.key_file,
            options.known_hosts_file,
            options.tool_path,
        )
        assert options.connection == "ssh"
        assert options.peers == {
            "node7": "ssh://root@192.0.2.7",
            "node8": "ssh://nova@[2001:db8::8]:2222",
            "node9": "ssh://root@nine.example.org",
        }
    shared = (keys["SMARTOS_KEY_FILE"], keys["SMARTOS_KNOWN_HOSTS_FILE"], None)
    assert found == {
        "node7": ("root", "192.0.2.7", 22, *shared),
        "node8": ("nova", "2001:db8::8", 2222, str(own), shared[1], "/opt/a:/opt/b"),
        "node9": ("root", "nine.example.org", 22, *shared),
    }
    assert [line for line in calls if "smartos-emulator" in line] == []
    assert [line for line in calls if "image create" in line] == []


def test_remote_and_emulated_nodes_side_by_side(machine: Machine, keys: dict[str, str]) -> None:
    calls = machine.succeed(*STACK[:4], SMARTOS_NODES=REMOTE, SMARTOS_EMULATED_NODES="1", **keys)
    started = [line.split()[1] for line in calls if line.startswith("run_process")]
    assert started == ["n-cpu-node7", "n-cpu-smartos-1"]
    assert [line for line in calls if "image create" in line] == []


def test_images_of_the_users_own(
    machine: Machine, keys: dict[str, str], tmp_path: pathlib.Path
) -> None:
    bases = [tmp_path / "base", tmp_path / "disk"]
    bases[0].with_suffix(".imgmanifest").write_text('{"name": "b", "type": "zone-dataset"}')
    bases[0].with_suffix(".zfs.bz2").touch()
    bases[1].with_suffix(".imgmanifest").write_text(
        '{"name": "d", "type": "zvol", "image_size": 10240}'
    )
    bases[1].with_suffix(".zfs.gz").touch()
    settings = {"SMARTOS_NODES": REMOTE, "SMARTOS_IMAGES": " ".join(map(str, bases)), **keys}
    calls = machine.succeed(*STACK, **settings)
    start = "openstack --os-cloud devstack-admin image create "
    assert [line.removeprefix(start) for line in calls if line.startswith(start)] == [
        "--public --disk-format raw --container-format bare "
        f"--file {bases[0]}.zfs.bz2 --property smartos_image_type=zone-dataset b",
        "--public --disk-format raw --container-format bare "
        f"--file {bases[1]}.zfs.gz --property smartos_image_type=zvol "
        "--property smartos_image_size=10240 d",
    ]
    compute = machine.ini(machine.tempest)["compute"]
    assert (compute["image_ref"], compute["image_ref_alt"]) == ("id-of-b", "id-of-d")


# Settings that cannot work


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"SMARTOS_EMULATED_NODES": "two"}, "SMARTOS_EMULATED_NODES=two is no number"),
        ({"SMARTOS_EMULATED_NODES": "0"}, "there is no node: set SMARTOS_NODES or"),
        ({"SMARTOS_EMULATED_SSH_PORT": "ssh"}, "SMARTOS_EMULATED_SSH_PORT=ssh is no port"),
        ({"SMARTOS_EMULATED_SPEED": "fast"}, "SMARTOS_EMULATED_SPEED=fast is no number"),
        ({"NOVA_CPU_UUID": "x"}, "NOVA_CPU_UUID would be the identity of every node"),
        ({"SMARTOS_NODES": "root@192.0.2.7"}, "root@192.0.2.7 is not NAME=ssh://USER@HOST"),
        ({"SMARTOS_NODES": "n7=ssh://192.0.2.7"}, "n7=ssh://192.0.2.7 is not NAME=ssh://"),
        ({"SMARTOS_NODES": "n7=telnet://root@h"}, "n7=telnet://root@h is not NAME=ssh://"),
        ({"SMARTOS_NODES": "N_7=ssh://root@h"}, "N_7=ssh://root@h is not NAME=ssh://"),
        ({"SMARTOS_NODES": "n7=ssh://root@h:x"}, "n7=ssh://root@h:x is not NAME=ssh://"),
        ({"SMARTOS_NODES": "n7=ssh://root@h,key_file"}, "n7=ssh://root@h,key_file is not NAME"),
        ({"SMARTOS_NODES": "n7=ssh://root@h,speed=3"}, "there is no option speed"),
        ({"SMARTOS_NODES": f"{REMOTE} {REMOTE}"}, "SMARTOS_NODES: node7 is there twice"),
        (
            {"SMARTOS_NODES": "smartos-1=ssh://root@h", "SMARTOS_EMULATED_NODES": "1"},
            "SMARTOS_NODES: smartos-1 is there twice",
        ),
        (
            {"SMARTOS_NODES": REMOTE, "SMARTOS_KEY_FILE": ""},
            "node7 has no key_file: set SMARTOS_KEY_FILE",
        ),
        (
            {"SMARTOS_NODES": REMOTE, "SMARTOS_KNOWN_HOSTS_FILE": "/no/such"},
            "the known_hosts_file of node7, /no/such, cannot be read",
        ),
        (
            {"SMARTOS_NODES": f"{REMOTE},key_file=/no/key"},
            "the key_file of node7, /no/key, cannot be read",
        ),
        ({"SMARTOS_IMAGES": "/no/image"}, "SMARTOS_IMAGES: /no/image.imgmanifest cannot be read"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_settings_that_cannot_work_are_refused_before_anything_is_done(
    machine: Machine, keys: dict[str, str], settings: Mapping[str, str], message: str
) -> None:
    done = machine.run(*STACK, **{**keys, **settings})
    assert done.returncode != 0
    assert message in done.stderr
    assert [call.split()[0] for call in machine.calls()] == ["define_plugin", "echo_summary"]
    assert not machine.conf_dir.exists()


def test_an_image_without_its_stream_is_refused(machine: Machine, tmp_path: pathlib.Path) -> None:
    (tmp_path / "base.imgmanifest").write_text("{}")
    done = machine.run("stack pre-install", SMARTOS_IMAGES=str(tmp_path / "base"))
    assert done.returncode != 0
    assert f"{tmp_path}/base.zfs.gz cannot be read, nor" in done.stderr


# DevStack's own nova-compute


@pytest.mark.parametrize("keep", ["True", "False"])
def test_devstacks_own_compute(machine: Machine, keep: str) -> None:
    lines = ["is_service_enabled n-cpu && echo own", "is_service_enabled n-cpu-smartos-2 && echo 2"]
    lines = [f"if {line}; then :; fi" for line in lines]
    done = machine.bash(*lines, SMARTOS_KEEP_N_CPU=keep, SMARTOS_EMULATED_NODES="2")
    assert done.stdout.split() == (["own", "2"] if keep == "True" else ["2"])


# What the plugin leaves as it found it


@pytest.mark.parametrize("trace", ["set -o xtrace", "set +o xtrace"])
def test_the_shells_options_stay_as_they_were(machine: Machine, trace: str) -> None:
    # not all from $(set +o), in which errexit is off
    show = "echo ${-//[!eux]/} $(set +o | grep -c '^set -o pipefail')"
    phases = [*STACK, "unstack", "clean"]
    lines = [f"source {PLUGIN}/plugin.sh {phase}; {show}" for phase in phases]
    done = machine.bash(show, trace, show, f"source {PLUGIN}/settings", show, *lines)
    assert done.returncode == 0, done.stderr
    options = done.stdout.splitlines()
    assert len(options) == len(phases) + 3
    assert set(options[1:]) == {"ex 0" if trace == "set -o xtrace" else "e 0"}


def test_a_phase_that_is_not_ours_does_nothing(machine: Machine) -> None:
    assert machine.succeed("stack later", "other") == ["define_plugin nova-smartos"]


# Unstack and clean


def test_unstack_stops_what_was_started_whatever_local_conf_says_now(machine: Machine) -> None:
    machine.succeed(*STACK, SMARTOS_EMULATED_NODES="2")
    calls = machine.succeed("unstack", SMARTOS_EMULATED_NODES="1")
    stopped = [line for line in calls if line.startswith("stop_process")]
    assert stopped == [
        "stop_process n-cpu-smartos-1",
        "stop_process n-cpu-smartos-2",
        "stop_process smartos-node-smartos-1",
        "stop_process smartos-node-smartos-2",
    ]
    assert list(machine.state.iterdir()) == []
    assert f"pip_uninstall nova-smartos from {machine.folder}/venv" in calls


def test_unstack_twice_and_without_a_stack(machine: Machine) -> None:
    for _ in range(2):
        calls = machine.succeed("unstack")
        assert [line for line in calls if line.startswith("stop_process")] == []


def test_a_node_that_does_not_stop_is_not_removed(machine: Machine) -> None:
    machine.succeed(*STACK)
    machine.environment["STUBBORN"] = "yes"
    done = machine.run("unstack")
    assert done.returncode != 0
    assert "the emulated node smartos-1 does not stop" in done.stderr
    assert (machine.state / "nodes" / "smartos-1" / "up").exists()


def test_unstack_deletes_the_servers_of_remote_nodes(
    machine: Machine, keys: dict[str, str]
) -> None:
    settings = {"SMARTOS_NODES": REMOTE, **keys}
    machine.succeed(*STACK[:4], **settings)
    machine.environment["SERVERS"] = "one two"
    calls = machine.succeed("unstack", **settings)
    openstack = "openstack --os-cloud devstack-admin"
    assert calls[1:4] == [
        f"{openstack} server list --all-projects --host node7 -f value -c ID",
        f"{openstack} server delete --wait one two",
        "stop_process n-cpu-node7",
    ]
    # once
    calls = machine.succeed("clean", **settings)
    assert [line for line in calls if line.startswith("openstack")] == []


@pytest.mark.parametrize("broken", ["server list", "server delete"])
def test_unstack_says_when_servers_stay(
    machine: Machine, keys: dict[str, str], broken: str
) -> None:
    settings = {"SMARTOS_NODES": REMOTE, **keys}
    machine.succeed(*STACK[:4], **settings)
    machine.environment |= {"SERVERS": "one", "BROKEN": broken}
    done = machine.run("unstack", **settings)
    assert "[WARNING] the servers on node7 were not all deleted" in done.stderr
    assert "stop_process n-cpu-node7" in machine.calls()


def test_clean_leaves_the_keys_of_others(machine: Machine) -> None:
    machine.succeed(*STACK)
    (machine.conf_dir / "id_ed25519").touch()
    machine.succeed("clean")
    assert [path.name for path in machine.conf_dir.iterdir()] == ["id_ed25519"]
    assert not machine.state.exists()


# Tempest


def test_tempest_is_told_what_to_boot(machine: Machine) -> None:
    machine.succeed(*STACK)
    assert dict(machine.ini(machine.tempest)["compute"]) == {
        "image_ref": "id-of-smartos-zone",
        "image_ref_alt": "id-of-smartos-zone-alt",
        "flavor_ref": "smartos1",
        "flavor_ref_alt": "smartos2",
        "min_compute_nodes": "1",
    }


def test_tempest_is_told_what_the_driver_does() -> None:
    pytest.importorskip("nova", reason="missing: nova")
    spec = importlib.util.spec_from_file_location("features", PLUGIN / "tempest_features.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    one = {option: value for _, option, value in script.features(1, True)}
    # no brand keeps its guest's memory; only kvm stands still, and Tempest boots zones
    assert not one["suspend"]
    assert not one["pause"]
    assert one["rescue"]
    assert one["resize"]
    assert one["run_validation"] is False
    two = {option: value for _, option, value in script.features(2, False)}
    # on real nodes there are guests to log in to
    assert "run_validation" not in two
    assert two["min_compute_nodes"] == 2
    assert two["resize"] and two["cold_migration"] and not one["cold_migration"]


def test_tempest_needs_an_image(machine: Machine, keys: dict[str, str]) -> None:
    done = machine.run(*STACK, SMARTOS_NODES=REMOTE, **keys)
    assert done.returncode != 0
    assert "Tempest needs an image that the nodes can boot: set SMARTOS_IMAGES" in done.stderr


def test_every_test_that_tempest_leaves_out_has_a_reason() -> None:
    lines = (PLUGIN / "tempest-exclude.txt").read_text().splitlines()
    excluded = [line for line in lines if line and not line.startswith("#")]
    assert excluded
    for line in excluded:
        pattern, reason = re.fullmatch(r"(\S+) +# (.+)", line).groups()
        assert re.compile(pattern).pattern.startswith(r"tempest\.")
        assert reason


# Samples, job, documents, lint


def localrc(sample: pathlib.Path) -> str:
    """The part of a local.conf that is settings."""
    head, _, text = sample.read_text().partition("[[local|localrc]]\n")
    assert all(line.startswith("#") for line in head.splitlines())
    assert "[[" not in text
    return text


@pytest.mark.parametrize("name", ["local.conf.sample", "local.conf.remote.sample"])
def test_a_sample_names_settings_that_there_are_and_works(machine: Machine, name: str) -> None:
    text = localrc(PLUGIN / name)
    names = set(re.findall(r"^(SMARTOS_\w+)=", text, re.MULTILINE))
    assert names <= set(settings_of_the_plugin())
    machine.calls_file.write_text("")
    done = subprocess.run(
        ["bash", "-c", f"function enable_plugin {{ echo enable_plugin $*; }}\n"
         f"source {STUBS}\n{text}\n{''.join(f'echo {each}=${each};' for each in sorted(names))}"],
        env=machine.environment, capture_output=True, text=True, timeout=SECONDS, check=True,
    )  # fmt: skip
    plugin, *values = done.stdout.splitlines()
    assert plugin.startswith("enable_plugin nova-smartos https://")
    settings = dict(value.split("=", 1) for value in values)
    machine.succeed("stack post-config", **settings)
    hosts = ("smartos-1", "smartos-2") if name == "local.conf.sample" else ("node7", "node8")
    for host in hosts:
        assert "public" in smartos_conf.nic_tags(machine.conf(host), host)


def settings_of_the_plugin() -> list[str]:
    """What local.conf may set."""
    text = (PLUGIN / "settings").read_text()
    return re.findall(r"^ *(SMARTOS_\w+)=\$[({].*SMARTOS_\w+", text, re.MULTILINE)


def test_the_document_shows_the_samples_and_explains_every_setting() -> None:
    document = (ROOT / "doc" / "source" / "contributor" / "devstack.rst").read_text()
    shown = re.findall(r"literalinclude:: (\S+)", document)
    files = {(ROOT / "doc/source/contributor" / path).resolve() for path in shown}
    assert files == {PLUGIN / "local.conf.sample", PLUGIN / "local.conf.remote.sample"}
    assert [name for name in settings_of_the_plugin() if f"``{name}``" not in document] == []


def test_the_zuul_job() -> None:
    stanzas = yaml.safe_load((ROOT / ".zuul.yaml").read_text())
    (job,) = [each["job"] for each in stanzas if "job" in each]
    (project,) = [each["project"] for each in stanzas if "project" in each]
    assert project["check"]["jobs"] == [job["name"]]
    assert job["parent"] == "devstack-tempest"
    given = job["vars"]
    settings = {name for name in given["devstack_localrc"] if name.startswith("SMARTOS_")}
    assert settings and settings <= set(settings_of_the_plugin())
    (plugin,) = given["devstack_plugins"]
    assert f"define_plugin {plugin}\n" in (PLUGIN / "settings").read_text()
    assert given["devstack_plugins"][plugin].removeprefix("https://") in job["required-projects"]
    tests = re.compile(given["tempest_test_regex"])
    assert tests.match("tempest.api.compute.servers.test_servers.ServersTestJSON")
    assert not tests.match("tempest.api.network.test_ports.PortsTestJSON")
    start = "{{ ansible_user_dir }}/{{ zuul.project.src_dir }}/"
    exclude = given["tempest_test_exclude_list"]
    assert exclude.startswith(start)
    assert (ROOT / exclude.removeprefix(start)).is_file()
    # a file that the job runs is never one that it does not run for
    skipped = [re.compile(each) for each in job["irrelevant-files"]]
    for path in ("devstack/plugin.sh", "devstack/tempest_features.py", "doc/support_matrix.py"):
        assert (ROOT / path).is_file()
        assert not any(each.search(path) for each in skipped)


def test_every_shell_script_is_linted() -> None:
    options = configparser.ConfigParser(interpolation=None)
    options.read(ROOT / "tox.ini")
    commands = options["testenv:pep8"]["commands"].replace("\\\n", " ").splitlines()
    (shellcheck,) = [line.split() for line in commands if line.startswith("shellcheck ")]
    (bashate,) = [line.split() for line in commands if line.startswith("bashate ")]
    plugin = {str(path.relative_to(ROOT)) for path in (PLUGIN / "lib").iterdir()} | {
        f"devstack/{name}" for name in ("override-defaults", "plugin.sh", "settings")
    }
    assert plugin <= set(bashate)
    assert plugin | {".ci/run", ".ci/venv"} <= set(shellcheck)
    # nothing lies there that this test does not know
    known = {"lib", "local.conf.remote.sample", "local.conf.sample", "override-defaults"}
    known |= {"plugin.sh", "settings", "tempest-exclude.txt", "tempest_features.py"}
    assert {path.name for path in PLUGIN.iterdir()} - {"__pycache__"} == known
