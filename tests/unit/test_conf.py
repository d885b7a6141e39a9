# SPDX-License-Identifier: Apache-2.0
"""The [smartos] options, the node they make and the sample file made of them."""

import logging
import pathlib
import subprocess
import sys
import typing

import fixtures
import pytest
from oslo_config import cfg
from oslo_config import fixture as config_fixture

from nova_smartos import conf as smartos_conf
from nova_smartos.smartos import node, transport

ROOT = pathlib.Path(__file__).parents[2]


class Options(fixtures.Fixture):
    """A configuration object of its own, as each service has one."""

    def __init__(self, **values: typing.Any) -> None:
        super().__init__()
        self._values = values

    def _setUp(self) -> None:
        self.conf = cfg.ConfigOpts()
        config = self.useFixture(config_fixture.Config(self.conf))
        smartos_conf.register(self.conf)
        self.conf([])
        config.config(group="smartos", **self._values)


class Recorder:
    """Stands for Node: keeps what it was made with."""

    def __init__(self) -> None:
        self.made: list[tuple[typing.Any, ...]] = []

    def local(self, **options: typing.Any) -> None:
        self.made.append(("local", options))

    def ssh(self, host: str, **options: typing.Any) -> None:
        self.made.append(("ssh", host, options))


def made_from(**values: typing.Any) -> tuple[typing.Any, ...]:
    """What connect() makes a Node with, given these options."""
    recorder = Recorder()
    with Options(**values) as options, fixtures.MonkeyPatch(f"{node.__name__}.Node", recorder):
        smartos_conf.connect(options.conf)
    return recorder.made[0]


def test_the_node_is_this_machine_by_default() -> None:
    options = {"tool_path": None, "timeouts": transport.Timeouts(60, 900, 300)}
    assert made_from() == ("local", options)


def test_every_option_reaches_the_connection() -> None:
    made = made_from(
        connection="ssh",
        node_address="192.0.2.7",
        node_port=2222,
        node_user="nova",
        key_file="/etc/nova/key",
        known_hosts_file="/etc/nova/hosts",
        tool_path="/opt/node/bin",
        max_connections=2,
        connect_timeout=3,
        read_timeout=4,
        change_timeout=5,
        stream_idle_timeout=6,
    )
    assert made == (
        "ssh",
        "192.0.2.7",
        {
            "port": 2222,
            "user": "nova",
            "key_file": "/etc/nova/key",
            "known_hosts_file": "/etc/nova/hosts",
            "tool_path": "/opt/node/bin",
            "max_connections": 2,
            "connect_timeout": 3,
            "timeouts": transport.Timeouts(4, 5, 6),
        },
    )


PEERS = "compute2:ssh://move@192.0.2.12:2202,compute3:ssh://[2001:db8::3]"


@pytest.mark.parametrize(
    ("host", "address", "made"),
    [
        ("compute2", "192.0.2.99", ("192.0.2.12", "move", 2202)),
        ("compute3", "192.0.2.99", ("2001:db8::3", "nova", 22)),
        ("compute4", "192.0.2.14", ("192.0.2.14", "nova", 22)),
        ("compute5", "2001:db8::5", ("2001:db8::5", "nova", 22)),
    ],
)
def test_where_other_nodes_are(host: str, address: str, made: tuple[str, str, int]) -> None:
    recorder = Recorder()
    options = Options(peers=PEERS, node_user="nova", key_file="/etc/nova/key")
    with options, fixtures.MonkeyPatch(f"{node.__name__}.Node", recorder):
        smartos_conf.peer(options.conf, host, address)
    (_, where, given) = recorder.made[0]
    assert (where, given["user"], given["port"]) == made
    assert given["key_file"] == "/etc/nova/key"


@pytest.mark.parametrize("peers", ["compute2", "compute2:192.0.2.12", "compute2:http://x"])
def test_what_is_no_peer_is_refused(peers: str) -> None:
    with Options() as options, pytest.raises(ValueError):
        options.conf.set_override("peers", peers, "smartos")


def test_real_nodes_accept_what_connect_gives() -> None:
    for values in ({}, {"connection": "ssh", "node_address": "192.0.2.7"}):
        with Options(**values) as options, smartos_conf.connect(options.conf) as made:
            assert isinstance(made, node.Node)


def test_ssh_needs_an_address() -> None:
    with Options(connection="ssh") as options, pytest.raises(cfg.RequiredOptError, match="address"):
        smartos_conf.connect(options.conf)


def test_registering_twice_does_no_harm() -> None:
    with Options() as options:
        smartos_conf.register(options.conf)


def test_services_keep_their_options_apart() -> None:
    with Options(node_port=2201) as one, Options(node_port=2202) as other:
        assert (one.conf.smartos.node_port, other.conf.smartos.node_port) == (2201, 2202)


def test_the_log_names_the_node(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made_from(connection="ssh", node_address="192.0.2.7", node_user="nova")
    assert caplog.messages == ["SmartOS node: 192.0.2.7 as nova"]


@pytest.mark.parametrize(
    ("config", "sample"),
    [
        ("nova-smartos.conf", "nova-smartos.conf.sample"),
        ("network.conf", "network.conf.sample"),
        ("smartos-meters.conf", "smartos-meters.conf.sample"),
    ],
)
def test_the_sample_files_are_up_to_date(config: str, sample: str, tmp_path: pathlib.Path) -> None:
    """When this fails, run `make genconfig`."""
    path = ROOT / "etc/oslo-config-generator" / config
    code = "from oslo_config import generator; generator.main()"
    words = ["--config-file", str(path), "--output-file", str(tmp_path / sample)]
    subprocess.run([sys.executable, "-c", code, *words], check=True, timeout=60, cwd=ROOT)
    assert (ROOT / "etc" / sample).read_text() == (tmp_path / sample).read_text()


# The nic tags of hosts


MAPPINGS = "node1:physnet1:first, node*:physnet1:external,\n node*:physnet2:storage,*:*:rule/7"


@pytest.mark.parametrize(
    ("host", "tags"),
    [
        ("node1", {"physnet1": "first", "physnet2": "storage", "*": "rule/7"}),
        ("node12", {"physnet1": "external", "physnet2": "storage", "*": "rule/7"}),
        ("Node12", {"*": "rule/7"}),
        ("anode1", {"*": "rule/7"}),
        ("", {"*": "rule/7"}),
    ],
)
def test_a_host_has_the_nic_tags_of_its_patterns(
    host: str, tags: dict[str, str], tmp_path: pathlib.Path
) -> None:
    assert smartos_conf.nic_tags(read(tmp_path, MAPPINGS), host) == tags


def read(folder: pathlib.Path, mappings: str) -> cfg.ConfigOpts:
    """The options as neutron-server has them, from the file that nova-compute reads as well."""
    path = folder / "network.conf"
    path.write_text(f"[smartos]\nnetwork_mappings = {mappings}\n")
    conf = cfg.ConfigOpts()
    smartos_conf.register_network(conf)
    conf(["--config-file", str(path)], project="neutron")
    return conf


def test_without_mappings_no_host_has_nic_tags(tmp_path: pathlib.Path) -> None:
    for mappings in ("", "node1:physnet1:external"):
        assert smartos_conf.nic_tags(read(tmp_path, mappings), "node2") == {}


@pytest.mark.parametrize(
    ("mappings", "reason"),
    [
        ("physnet1:external", "'physnet1:external' is not HOST_PATTERN:"),
        ("a:b:c,node1,*:physnet1:external", "'node1' is not HOST_PATTERN:"),
        ("node1:physnet1:external:7", "'node1:physnet1:external:7' is not HOST_PATTERN:"),
        ("node1::external", "'node1::external' is not HOST_PATTERN:"),
        (":physnet1:external", "':physnet1:external' is not HOST_PATTERN:"),
        ("node1:physnet1:", "'node1:physnet1:' is not HOST_PATTERN:"),
        ("node1:physnet1:a b", "'a b' is no nic tag"),
        ("node1:physnet1:-l", "'-l' is no nic tag"),
        ("*:p:a,node1:p:b,*:p:c", "\\*:p:a and \\*:p:c contradict each other"),
    ],
)
def test_mappings_that_are_none_are_refused_by_name_file_and_reason(
    mappings: str, reason: str, tmp_path: pathlib.Path
) -> None:
    conf = read(tmp_path, mappings)
    with pytest.raises(cfg.ConfigFileValueError, match=f"network_mappings.*network.conf.*{reason}"):
        smartos_conf.nic_tags(conf, "node9")


def test_one_mapping_twice_is_one(tmp_path: pathlib.Path) -> None:
    conf = read(tmp_path, "*:p:a,*:p:a")
    assert smartos_conf.nic_tags(conf, "node1") == {"p": "a"}


def test_mappings_can_be_given_as_they_are_kept() -> None:
    with Options(network_mappings=["*:p:a", "b:q:c"]) as options:
        kept = options.conf.smartos.network_mappings
        assert [str(each) for each in kept] == ["*:p:a", "b:q:c"]
        with Options(network_mappings=kept) as other:
            assert other.conf.smartos.network_mappings == kept
