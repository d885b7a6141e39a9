# SPDX-License-Identifier: Apache-2.0
"""The launcher's parts that need no cloud."""

import argparse
import concurrent.futures
import configparser
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from gate.cloud import (
    cli,
    commands,
    files,
    install,
    model,
    nodes,
    processes,
    questions,
    services,
    show,
    up,
)
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


def test_status_asks_and_does_not_only_look(
    cloud: model.Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    """A port mapper that a dead RabbitMQ has left is no RabbitMQ, and who uses it no part of it."""
    cloud.save()
    port = str(cloud.ports["keystone"])
    words = [sys.executable, "-m", "http.server", port, "--bind", model.HOST]
    ours = [processes.start(cloud, "keystone", words)]
    # another that answers in the place of one that has died
    other = subprocess.Popen([*words[:3], str(cloud.ports["glance"]), *words[4:]])
    for service in ("rabbitmq", processes.SUITES):
        ours.append(processes.start(cloud, service, ["sleep", "600"]))
    options = argparse.Namespace(command="status", directory=cloud.base, json=True, seconds=0.1)
    try:
        waits.until(lambda: questions.answers(cloud, "keystone"))
        waits.until(lambda: questions.answers(cloud, "glance"))
        assert commands.run(options) == 1
    finally:
        processes.stop(cloud.base)
        other.kill()
        for each in (*ours, other):
            each.wait()
    out, err = capsys.readouterr()
    told = json.loads(out)
    up = {each["service"]: each["up"] for each in told["services"]}
    assert set(up) == set(commands.expected(cloud))
    assert {name for name, is_up in up.items() if is_up} == {"keystone"}
    assert told["pss_mib"] > 0 and not told["up"]
    down = ", ".join(sorted(set(up) - {"keystone"}))
    assert err.strip() == f"smartos-cloud: down: {down}"


def test_every_service_has_a_question(cloud: model.Cloud) -> None:
    cloud.sets = frozenset({"consoles", "telemetry", "volumes"})
    with pytest.raises(KeyError):
        questions.answers(cloud, "no-such-service")
    assert not any(questions.answers(cloud, service) for service in commands.expected(cloud))


# which goes on when nobody holds it any more
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_memcached_is_for_nobody_else(cloud: model.Cloud) -> None:
    """Its clients load what it keeps as Python pickled it."""
    files.write(cloud)
    told = {
        line.partition(" = ")[2]
        for path in (cloud.base / "etc").rglob("*.conf")
        for line in path.read_text().splitlines()
        if line.startswith("memcache")
    }
    assert told == {f"unix:{model.CACHE}"}
    if shutil.which("memcached") is None:
        pytest.skip("needs memcached")
    try:
        services.memcached(cloud)
        assert questions.answers(cloud, "memcached")
        assert stat.S_IMODE((cloud.base / model.CACHE).stat().st_mode) == 0o600
    finally:
        processes.stop(cloud.base)
    assert not questions.answers(cloud, "memcached")


def test_what_waits_ends_when_another_part_has_failed(
    cloud: model.Cloud, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show, "_ended", threading.Event())
    begun = threading.Event()

    def waits_for_long() -> None:
        process = processes.start(cloud, "slow", ["sleep", "600"])
        begun.set()
        services.ready(cloud, "slow", lambda: False, process)

    def fails() -> None:
        assert begun.wait(waits.SECONDS)
        raise services.Failed("no such table")

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        start = up.Starter(pool)
        slow = start(waits_for_long)
        start(fails)
        never = start(begun.clear, after=[slow])
        with pytest.raises(services.Failed, match="no such table"):
            start.finish()
        started = time.monotonic()
        start.abandon(cloud.base)
        assert time.monotonic() - started < services.SECONDS / 2
    assert slow.exception() is not None
    assert never.cancelled() or never.exception() is slow.exception()
    assert begun.is_set()
    # of what only ended with it nothing is said
    assert "failed" not in capsys.readouterr().err


def test_what_takes_too_long_ends_with_all_that_it_has_started(tmp_path: pathlib.Path) -> None:
    # what a shell leaves in the background is deaf to SIGINT
    script = f"trap 'touch {tmp_path}/told; exit' INT; sleep 600 & echo $! > {tmp_path}/child; wait"
    # the command may run before Popen has returned, and be nobody's until then
    code = f"""
import pathlib, subprocess, sys
from gate.cloud import processes

class Popen(subprocess.Popen):
    def wait(self, timeout=None):
        pathlib.Path({str(tmp_path / "waited for")!r}).touch()
        return super().wait(timeout)

subprocess.Popen = Popen
processes.bounded(sys.argv[1:], 600)
"""
    words = [sys.executable, "-c", code, "sh", "-c", script]
    runner = subprocess.Popen(words, cwd=install.ROOT, stderr=subprocess.DEVNULL)
    child = tmp_path / "child"
    waits.until(lambda: child.is_file() and child.read_text().endswith("\n"))
    waits.until((tmp_path / "waited for").exists)
    # as when its time is over
    runner.send_signal(signal.SIGINT)
    runner.wait(waits.SECONDS)
    assert (tmp_path / "told").exists()
    state = pathlib.Path("/proc", child.read_text().strip(), "stat")
    waits.until(lambda: not state.exists() or state.read_text().split()[2] == "Z")
    with pytest.raises(subprocess.TimeoutExpired):
        processes.bounded(["sleep", "600"], 0.1)
    assert processes.bounded(["sh", "-c", "exit 3"], waits.SECONDS) == 3


def test_the_gate_hands_on_how_real_nodes_are_reached(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it, and what it starts, then is."""
    monkeypatch.chdir(tmp_path)
    words = ["--node", "ssh://root@a", "--node", "ssh://root@b:2222"]
    words += ["--image", "zone=base.imgmanifest"]
    words += ["--identity", "key", "--known-hosts", "hosts", "--nic-tag", "stub0"]
    parser = argparse.ArgumentParser()
    cli.add_node_options(parser)
    handed_on = cli.node_words(parser.parse_args(words))
    assert handed_on == [
        {
            "zone=base.imgmanifest": f"zone={tmp_path}/base.imgmanifest",
            "key": f"{tmp_path}/key",
            "hosts": f"{tmp_path}/hosts",
        }.get(word, word)
        for word in words
    ]
    assert cli.node_words(parser.parse_args(handed_on)) == handed_on


def test_down_where_nothing_is_needs_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "VENV", tmp_path / "venv")
    assert cli.main(["-d", str(tmp_path / "cloud"), "down"]) == 0


@pytest.fixture
def policy(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Where Debian looks whether it may start services."""
    path = tmp_path / "policy-rc.d"
    monkeypatch.setattr(install, "POLICY", path)
    return path


def test_debian_starts_no_service_of_what_is_installed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, policy: pathlib.Path
) -> None:
    log = tmp_path / "log"
    for name in ("apt-get", "systemctl"):
        stub = tmp_path / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(
            f'#!/bin/sh\necho {name} "$@" >> {log}\n{policy} >> {log}; echo $? >> {log}\n'
        )
        stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    wanted = {"memcached": "no-such-program", "mtools": "nor-such"}
    monkeypatch.setattr(install, "_PACKAGES", wanted)
    install.packages(frozenset())
    apt = "apt-get -qq -o DPkg::Lock::Timeout=300"
    assert log.read_text().splitlines() == [
        f"{apt} update",
        "101",
        f"{apt} install -y --no-install-recommends memcached mtools",
        "101",
        "systemctl disable -q memcached",
        "101",
    ]
    assert not policy.exists()


def test_what_forbids_services_goes_even_after_a_failure(policy: pathlib.Path) -> None:
    for _ in range(2):
        with pytest.raises(install.Missing), install.services_down():
            assert os.access(policy, os.X_OK)
            raise install.Missing
        assert not policy.exists()
    # that of somebody else stays, and what a killed run has left does not
    policy.write_text("#!/bin/sh\nexit 101\n")
    with install.services_down():
        pass
    assert policy.exists()
    policy.write_text(install._FORBIDS)
    with install.services_down():
        pass
    assert not policy.exists()


@pytest.mark.parametrize("stamp", ["", "unfinished gate"])
def test_an_environment_that_was_not_finished_is_made_again(
    stamp: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = tmp_path / "venv"
    (venv / "lib").mkdir(parents=True)
    (venv / "installed").write_text(stamp)
    ran: list[str] = []

    def run(words: list[str], *_: object) -> None:
        assert (venv / "installed").read_text().split()[0] == "unfinished"
        assert (venv / "lib").exists() == (not stamp)
        ran.append(pathlib.Path(words[0]).name)

    monkeypatch.setattr(install, "VENV", venv)
    monkeypatch.setattr(install, "_run", run)
    install.environment(frozenset())
    assert ran == ["venv", "python"]
    assert (venv / "installed").read_text().split()[1:] == stamp.split()[1:]
    install.environment(frozenset())
    assert ran == ["venv", "python"]


def test_half_an_environment_is_made_anew(tmp_path: pathlib.Path) -> None:
    python, venv, log = tmp_path / "python", tmp_path / "venv", tmp_path / "log"
    python.write_text(f'#!/bin/sh\necho "$*" >> {log}\n')
    python.chmod(0o755)
    (venv / "bin").mkdir(parents=True)
    for pip, made in (("false", [f"-m venv --clear {venv}"]), ("true", [])):
        inner = venv / "bin/python"
        inner.write_text(f"#!/bin/sh\n{pip}\n")
        inner.chmod(0o755)
        log.write_text("")
        words = [str(install.ROOT / ".ci/venv"), str(venv)]
        subprocess.run(words, env={**os.environ, "PYTHON": str(python)}, check=True)
        assert [line for line in log.read_text().splitlines() if "-m venv" in line] == made


def test_packages_are_installed_by_root_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_PACKAGES", {"no-such-package": "no-such-program"})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(install.Missing, match="apt-get install .* no-such-package"):
        install.packages(frozenset())
