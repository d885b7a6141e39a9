# SPDX-License-Identifier: Apache-2.0
"""The launcher's parts that need no cloud."""

import argparse
import configparser
import os
import pathlib
import stat
import subprocess
import sys

import pytest

from gate.cloud import cli, commands, files, install, model, processes, services
from tests import waits


@pytest.fixture
def cloud(tmp_path: pathlib.Path) -> model.Cloud:
    nodes = [model.Node("node1", "ssh"), model.Node("node2", "local")]
    made = model.Cloud.plan(
        tmp_path / "cloud",
        sets=frozenset(),
        nodes=nodes,
        speed="20",
        networks={"physnet1": "internal", "public": "external"},
    )
    made.folder("logs")
    return made


def test_what_was_planned_is_found_again(cloud: model.Cloud) -> None:
    cloud.save()
    assert model.Cloud.load(cloud.base) == cloud
    assert len(set(cloud.ports.values())) == len(cloud.ports)
    assert model.Cloud.load(cloud.base / "elsewhere") is None


def test_every_file_with_the_password_is_its_owners_alone(cloud: model.Cloud) -> None:
    cloud.save()
    files.write(cloud)
    secret = [
        path
        for path in cloud.base.rglob("*")
        if path.is_file() and cloud.password in path.read_text()
    ]
    assert len(secret) >= 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}


def test_neutron_and_nova_share_the_nic_tags(cloud: model.Cloud) -> None:
    files.write(cloud)
    shared = configparser.ConfigParser(interpolation=None)
    shared.read(cloud.base / "etc/nova-smartos/network.conf")
    assert shared["smartos"]["network_mappings"].split(",") == [
        "node1:physnet1:internal",
        "node1:public:external",
        "node2:physnet1:internal",
        "node2:public:external",
    ]


def test_nova_keeps_its_defaults_of_vif_plugging(cloud: model.Cloud) -> None:
    files.write(cloud)
    assert "vif_plugging" not in (cloud.base / "etc/nova/nova.conf").read_text()


def test_nova_compute_has_no_database(cloud: model.Cloud) -> None:
    files.write(cloud)
    path = files.compute(cloud, cloud.nodes[0], {"connection": "local"})
    for each in (path, cloud.base / "etc/nova/nova.conf"):
        assert "mysql" not in each.read_text()


def test_processes_are_found_and_end_even_those_that_do_not_want_to(cloud: model.Cloud) -> None:
    stubborn = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    stubborn += "print('deaf', flush=True); time.sleep(600)"
    willing = processes.start(cloud, "willing", ["sh", "-c", "sleep 600 & wait"])
    deaf = processes.start(cloud, "deaf", [sys.executable, "-c", stubborn])
    other = subprocess.Popen(["sleep", "600"])
    try:
        waits.until(lambda: "deaf" in cloud.log("deaf").read_text())
        waits.until(lambda: len(processes.running(cloud.base)) == 3)
        services_ = [each.service for each in processes.running(cloud.base)]
        assert sorted(services_) == ["deaf", "willing", "willing"]
        assert all(each.pss_mib() > 0 for each in processes.running(cloud.base))
        assert processes.stop(cloud.base, seconds=1) == ["deaf"]
        assert (willing.wait(5), deaf.wait(5)) == (-15, -9)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_service_that_ends_is_told_with_its_reason(cloud: model.Cloud) -> None:
    script = "echo starting; echo 'x ERROR nova Error: no such table'; echo bye; exit 3"
    process = processes.start(cloud, "nova-api", ["sh", "-c", script])
    with pytest.raises(services.Failed, match="status 3: x ERROR nova Error: no such table"):
        services.ready(cloud, "nova-api", lambda: False, process)


def test_down_leaves_a_folder_alone_that_holds_no_cloud(tmp_path: pathlib.Path) -> None:
    (tmp_path / "precious").touch()
    options = argparse.Namespace(command="down", directory=tmp_path)
    assert commands.run(options) == 1
    assert (tmp_path / "precious").exists()


def test_down_twice(cloud: model.Cloud) -> None:
    cloud.nodes.clear()
    cloud.save()
    options = argparse.Namespace(command="down", directory=cloud.base)
    assert commands.run(options) == 0
    assert not cloud.base.exists()
    assert commands.run(options) == 0


def test_status_says_what_is_down(cloud: model.Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.save()
    keystone = processes.start(cloud, "keystone", ["sleep", "600"])
    options = argparse.Namespace(command="status", directory=cloud.base, json=False, seconds=0.1)
    try:
        waits.until(lambda: processes.running(cloud.base))
        assert commands.run(options) == 1
    finally:
        processes.stop(cloud.base)
        keystone.wait(5)
    lines = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert (lines["keystone"], lines["neutron"]) == ("up", "down")


def test_the_gate_hands_on_how_real_nodes_are_reached() -> None:
    words = ["--node", "ssh://root@a", "--node", "ssh://root@b:2222"]
    words += ["--identity", "key", "--known-hosts", "hosts", "--nic-tag", "stub0"]
    parser = argparse.ArgumentParser()
    cli.add_node_options(parser)
    assert cli.node_words(parser.parse_args(words)) == words


def test_packages_are_installed_by_root_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_PACKAGES", {"no-such-package": "no-such-program"})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(install.Missing, match="apt-get install .* no-such-package"):
        install.packages(frozenset())
