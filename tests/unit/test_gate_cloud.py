# SPDX-License-Identifier: Apache-2.0
"""The launcher's parts that need no cloud."""

import argparse
import configparser
import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import threading

import pytest

from gate.cloud import cli, commands, files, install, model, nodes, processes, services
from tests import waits

# dies when nothing but cloud.json is left
DOWN_KILLED = """
import argparse, os, pathlib, sys
from gate.cloud import commands
def end(event, arguments):
    if event == "os.remove" and arguments[0] == "cloud.json":
        os._exit(9)
sys.addaudithook(end)
commands.run(argparse.Namespace(command="down", directory=pathlib.Path(sys.argv[1])))
"""


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


def test_a_command_that_fails_is_told_with_what_it_left_in_the_log(cloud: model.Cloud) -> None:
    script = 'echo "1 ERROR x PermissionError: no such key" >> logs/keystone.log; exit 1'
    with pytest.raises(services.Failed, match="status 1: 1 ERROR x PermissionError: no such key"):
        services.command(cloud, "keystone", ["sh", "-c", script])


def test_nothing_is_configured_outside_the_folder(cloud: model.Cloud) -> None:
    """An ordinary user may not write there, and root would leave it behind."""
    files.write(cloud)
    keystone = configparser.ConfigParser(interpolation=None)
    keystone.read(cloud.base / "etc/keystone/keystone.conf")
    for group in ("fernet_tokens", "fernet_receipts", "credential"):
        assert keystone[group]["key_repository"].startswith(f"{cloud.base}/")


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


def test_down_again_after_a_kill(cloud: model.Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed `down` has left is still a cloud, and so is what a killed `up` has left."""
    options = argparse.Namespace(command="down", directory=cloud.base)
    cloud.nodes.clear()
    cloud.save()
    cloud.log("x").touch()
    killed = [sys.executable, "-c", DOWN_KILLED, str(cloud.base)]
    assert subprocess.run(killed, cwd=install.ROOT, check=False).returncode == 9
    assert [path.name for path in cloud.base.iterdir()] == [model.FILE]
    # what ends the nodes writes into a log
    monkeypatch.setattr(nodes, "down", lambda cloud: cloud.log("node-setup").touch())
    assert commands.run(options) == 0
    assert not cloud.base.exists()
    cloud.base.mkdir()
    model.unfinished(cloud.base).touch()
    assert commands.run(options) == 0
    assert not cloud.base.exists()


def test_down_removes_what_its_owner_may_not_read() -> None:
    """Zones have such folders; root would not notice."""
    base = pathlib.Path(tempfile.mkdtemp())
    (base / "zone/root/locked").mkdir(parents=True)
    (base / "zone/root/locked/file").touch()
    (base / "link").symlink_to("/")
    (base / model.FILE).touch()
    owner = os.geteuid()
    nobody = 65534 if owner == 0 else owner
    for path in (base, *base.rglob("*")):
        os.chown(path, nobody, -1, follow_symlinks=False)
    (base / "zone/root/locked").chmod(0)
    (base / "zone/root").chmod(0o555)
    os.seteuid(nobody)
    try:
        commands.remove(base)
    finally:
        os.seteuid(owner)
    assert not base.exists()


def test_two_do_not_install_at_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even when the first was killed, and what it ran goes on."""
    monkeypatch.setattr(install, "VENV", tmp_path / "venv")
    with install.alone() as lock:
        orphan = subprocess.Popen(["sleep", "600"], pass_fds=[lock])
    second = threading.Thread(target=lambda: install.alone().__enter__())
    second.start()
    try:
        waits.until(lambda: "Waiting for another" in capsys.readouterr().err)
        assert second.is_alive()
    finally:
        orphan.kill()
        orphan.wait()
    second.join(waits.SECONDS)
    assert not second.is_alive()


def test_without_an_environment_it_says_who_makes_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "VENV", tmp_path / "venv")
    assert cli.main(["-d", str(tmp_path / "cloud"), "status"]) == 1
    assert "`smartos-cloud up` makes it" in capsys.readouterr().err


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
