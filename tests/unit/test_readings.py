# SPDX-License-Identifier: Apache-2.0
"""Final readings: taken before a VM ends, kept whole or not at all, and in nobody's way."""

import dataclasses
import errno
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from nova_smartos import conf as smartos_conf
from nova_smartos import readings
from nova_smartos.operations import metering, removal
from nova_smartos.smartos import errors, node, vms
from tests.unit import fake_transport

UUID = "3d2ac1e9-7a0f-4f0e-9d13-5b6f1c8e2a40"
NAME = UUID[:30]
ARGV = (
    *("kstat", "-j", f"zones::{NAME}:", f"memory_cap::{NAME}:", f"zone_vfs::{NAME}:"),
    *(f"zone_zfs::{NAME}:", "caps:7::", "tcp:7::", "link::z7_*:"),
    "unix:0:system_misc:boot_time",
)
DOCUMENT = {
    "uuid": UUID,
    "brand": "joyent",
    "state": "running",
    "zone_state": "running",
    "zonename": UUID,
    "zoneid": 7,
    "server_uuid": "node",
    "customer_metadata": {"root_pw": "secret"},
    "internal_metadata": {"nova:instance": "{}", "nova:port:m": "p", "other_pw": "secret"},
    "nics": [{"mac": "02:00:00:00:00:01", "interface": "net0", "ips": ["10.0.0.1/24"]}],
}
VM = vms.Vm.from_json(DOCUMENT)


def kstat(module: str, name: str, zonename: str = UUID, **data: Any) -> dict[str, Any]:
    return {
        "module": module,
        "instance": 7,
        "name": name,
        "class": "misc",
        "snaptime": 9000.5,
        "data": {"zonename": zonename, "crtime": 100.25, **data},
    }


BOOT = kstat("unix", "system_misc", "global", boot_time=1700000000)
ZONE = kstat("zones", NAME, nsec_user=2**63 + 1, nsec_sys=4)


@pytest.fixture
def spool(tmp_path: pathlib.Path) -> Iterator[readings.Spool]:
    directory = tmp_path / "a" / "spool"
    metering.CONF.set_override("spool_directory", str(directory), smartos_conf.GROUP)
    yield readings.Spool(directory)
    metering.CONF.clear_override("spool_directory", smartos_conf.GROUP)


def test_one_command_reads_all_of_a_zone() -> None:
    found = [ZONE, kstat("link", "z7_net0", rbytes64=9), kstat("caps", "x", zonename="other"), BOOT]
    with fake_transport.expecting(*ARGV, stdout=json.dumps(found)) as carrier:
        reading = readings.read(node.Node(carrier), VM, "deletion")
    assert [(each.module, each.name) for each in reading.kstats] == [
        ("zones", NAME),
        ("link", "z7_net0"),
    ]
    assert reading.kstats[0].numbers == {"nsec_user": 2**63 + 1, "nsec_sys": 4}
    assert (reading.kstats[0].crtime_ns, reading.kstats[0].snaptime_ns) == (
        100_250_000_000, 9_000_500_000_000
    )  # fmt: skip


def test_tcp_is_of_the_zone_whose_number_it_has() -> None:
    tcp = kstat("tcp", "tcp", retransSegs=9)
    del tcp["data"]["zonename"]
    with fake_transport.expecting(*ARGV, stdout=json.dumps([ZONE, tcp, BOOT])) as carrier:
        reading = readings.read(node.Node(carrier), VM, "deletion")
    assert [each.module for each in reading.kstats] == ["zones", "tcp"]
    assert reading.kstats[1].numbers == {"retransSegs": 9}
    # it has booted meanwhile, and the number may be another's
    booted = {**ZONE, "instance": 9}
    with fake_transport.expecting(*ARGV, stdout=json.dumps([booted, tcp, BOOT])) as carrier:
        reading = readings.read(node.Node(carrier), VM, "deletion")
    assert [each.module for each in reading.kstats] == ["zones"]


def test_a_zone_that_is_gone_is_no_reading() -> None:
    with fake_transport.expecting(*ARGV, stdout="[]", returncode=0) as carrier:
        with pytest.raises(errors.NotFound):
            readings.read(node.Node(carrier), VM, "stop")


def test_what_is_kept_is_read_again_in_order_and_tells_no_secret(spool: readings.Spool) -> None:
    with fake_transport.expecting(*ARGV, stdout=json.dumps([ZONE, BOOT])) as carrier:
        reading = readings.read(node.Node(carrier), VM, "stop", failed=2)
    later = dataclasses.replace(reading, id="9" + reading.id[1:])
    spool.put(later)
    spool.put(reading)
    assert list(spool.readings()) == [reading, later]
    assert list(spool.readings())[0].vm.internal_metadata == {
        "nova:instance": "{}",
        "nova:port:m": "p",
    }
    assert "secret" not in (spool.directory / reading.id).read_text()
    spool.remove(reading)
    spool.remove(reading)
    assert list(spool.readings()) == [later]


ODD = json.dumps(
    {"version": 1, "server_uuid": "n", "boot": 1, "vm": DOCUMENT, "reason": "", "taken_ns": 1,
     "failed": 0, "kstats": [{"module": "zones", "instance": 1, "name": "n", "crtime_ns": "1",
                              "snaptime_ns": 2, "numbers": {}}]}
)  # fmt: skip


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"version": 1}', ODD])
def test_what_is_no_reading_is_told_of_and_hides_no_other(
    spool: readings.Spool, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with fake_transport.expecting(*ARGV, stdout=json.dumps([ZONE, BOOT])) as carrier:
        reading = readings.read(node.Node(carrier), VM, "stop")
    spool.put(reading)
    (spool.directory / "0.json").write_text(text)
    assert list(spool.readings()) == [reading]
    assert "0.json is no final reading" in caplog.text
    # a later version may make something of it
    assert (spool.directory / "0.json").read_text() == text


def test_a_reading_that_cannot_be_kept_leaves_nothing(
    spool: readings.Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        spool.put(readings.Reading("1.json", "node", 1, VM, "stop", 5, []))
    assert list(spool.directory.iterdir()) == []


def test_a_failed_reading_stops_nobody_and_is_told_of(
    spool: readings.Spool, caplog: pytest.LogCaptureFixture
) -> None:
    broken = fake_transport.Answer(ARGV, stderr="kstat: broken\n", returncode=1)
    delete = fake_transport.Answer(
        ("vmadm", "delete", UUID), stderr=f"Successfully deleted VM {UUID}\n"
    )
    with fake_transport.Transport(broken, delete) as carrier:
        removal.remove(node.Node(carrier), VM)
    assert "no final reading before its deletion" in caplog.text
    good = fake_transport.Answer(ARGV, stdout=json.dumps([ZONE, BOOT]))
    for failed in (1, 0):
        with fake_transport.Transport(good) as carrier:
            metering.final_reading(node.Node(carrier), VM, "stop")
        (*_, last) = spool.readings()
        assert last.failed == failed


def test_a_full_disk_stops_nobody(spool: readings.Spool, caplog: pytest.LogCaptureFixture) -> None:
    spool.directory.parent.mkdir(parents=True, exist_ok=True)
    spool.directory.write_text("in the way")
    with fake_transport.expecting(*ARGV, stdout=json.dumps([ZONE, BOOT])) as carrier:
        metering.final_reading(node.Node(carrier), VM, "stop")
    assert "no final reading before its stop" in caplog.text
    assert metering._untold() == 1


def test_a_vm_that_is_down_is_not_read(spool: readings.Spool) -> None:
    with fake_transport.refusing() as carrier:
        metering.final_reading(node.Node(carrier), dataclasses.replace(VM, zoneid=None), "stop")


def test_without_a_spool_nothing_is_read() -> None:
    with fake_transport.refusing() as carrier:
        metering.final_reading(node.Node(carrier), VM, "stop")
