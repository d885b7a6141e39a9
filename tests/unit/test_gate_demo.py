# SPDX-License-Identifier: Apache-2.0
"""What the demonstration claims of its servers is looked at, by stubs that say otherwise."""

import json
import pathlib

import pytest

from demo import __main__ as demo


@pytest.fixture
def shown(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> demo.Demo:
    """A demonstration whose commands say what lies in files of their names."""
    tools = tmp_path / "venv/bin"
    tools.mkdir(parents=True)
    for name in ("openstack", "smartos-emulator"):
        (tools / name).write_text(f"#!/bin/sh\ncat {tmp_path}/{name}\n")
        (tools / name).chmod(0o755)
        (tmp_path / name).touch()
    monkeypatch.setenv("SMARTOS_CLOUD_VENV", str(tools.parent))
    monkeypatch.setattr(demo, "SERVERS", {"db": ("disk", "bhyve", "a virtual machine")})
    return demo.Demo(tmp_path)


@pytest.mark.parametrize(
    ("brand", "state", "complaint"),
    [
        ("bhyve", "running", None),
        ("kvm", "running", "db is a running kvm, not a running bhyve"),
        ("bhyve", "stopped", "db is a stopped bhyve, not a running bhyve"),
    ],
)
def test_every_server_is_what_it_was_booted_as(
    brand: str, state: str, complaint: str | None, shown: demo.Demo, tmp_path: pathlib.Path
) -> None:
    server = {"id": "5", "OS-EXT-SRV-ATTR:host": "node1"}
    (tmp_path / "openstack").write_text(json.dumps(server))
    (tmp_path / "smartos-emulator").write_text(json.dumps({"brand": brand, "state": state}))
    if complaint is None:
        shown.check_brands()
        return
    with pytest.raises(demo.Stopped, match=complaint):
        shown.check_brands()


def test_a_console_without_a_word_is_no_console(
    shown: demo.Demo, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(demo.Stopped, match="db has said nothing on its console in 1 s"):
        shown.console("db", patience=1)
    (tmp_path / "openstack").write_text("login: \n")
    shown.console("db")
    assert capsys.readouterr().out == "$ openstack console log show --lines 6 db\nlogin: \n"


@pytest.mark.parametrize("status", ["ACTIVE", "ERROR"])
def test_only_active_servers_end_it_well(
    status: str, shown: demo.Demo, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "openstack").write_text(json.dumps([{"Status": status}]))
    if status == "ACTIVE":
        shown.keep()
    else:
        with pytest.raises(demo.Stopped, match="not every server is ACTIVE"):
            shown.keep()
    kept = json.loads((tmp_path / "servers.json").read_text())
    assert kept == [{"Status": status}]


def test_no_command_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SECONDS", 0.1)
    with pytest.raises(demo.Stopped, match=r"sleep 600 took more than 0\.1 s"):
        demo.output(["sleep", "600"])
    with pytest.raises(demo.Stopped, match="sleep 600 took more than 0 s"):
        demo.run(["sleep", "600"], 0.1)
