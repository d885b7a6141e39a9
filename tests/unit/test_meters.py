# SPDX-License-Identifier: Apache-2.0
"""Meters made of kstats, as a node prints them."""

import json
import typing

import pytest

from ceilometer_plugin import meters
from nova_smartos.smartos import errors, node
from tests.unit import fake_transport

ARGV = ("kstat", "-j", "zones:::")
WEB = "3d2ac1e9-7a0f-4f0e-9d13-5b6f1c8e2a40"
DATABASE = "3d2ac1e9-7a0f-4f0e-9d13-5b6f1c8e2a41"
CPU = meters.Meter("cpu", "cumulative", "ns", "zones", ("nsec_user", "nsec_sys"))


def zone(instance: int, name: str, **data: typing.Any) -> dict[str, typing.Any]:
    """A kstat of class zone_misc."""
    return {
        "module": "zones",
        "instance": instance,
        "name": name[:30],
        "class": "zone_misc",
        "type": 1,
        "snaptime": 9000.5,
        "data": {"zonename": name, "nsec_waitrq": 5, "crtime": 100.25, "snaptime": 9000.5, **data},
    }


def read(*kstats: dict[str, typing.Any]) -> list[meters.Sample]:
    """The samples of the meter `cpu` on a node with these kstats."""
    with fake_transport.expecting(*ARGV, stdout=json.dumps(kstats)) as carrier:
        return meters.read(node.Node(carrier), [CPU])


def test_the_table() -> None:
    assert CPU in meters.load()
    assert all(meter.type in ("cumulative", "delta", "gauge") for meter in meters.load())


def test_one_command_serves_all_zones() -> None:
    samples = read(
        zone(0, "global", nsec_user=7, nsec_sys=7),
        zone(3, WEB, nsec_user=1_000_000_000, nsec_sys=500),
        zone(4, DATABASE, nsec_user=2**63, nsec_sys=1),
    )
    assert samples == [
        meters.Sample("cpu", "cumulative", "ns", volume, uuid, 9000500000000, 100250000000)
        for uuid, volume in ((WEB, 1_000_000_500), (DATABASE, 2**63 + 1))
    ]


def test_a_node_without_zones() -> None:
    assert read(zone(0, "global", nsec_user=7, nsec_sys=7)) == []


def test_no_meters_no_command() -> None:
    with fake_transport.refusing() as carrier:
        assert meters.read(node.Node(carrier), []) == []


def test_a_statistic_that_is_missing_is_named() -> None:
    with pytest.raises(errors.OutputError, match="nsec_sys"):
        read(zone(3, WEB, nsec_user=1))


def test_a_kstat_without_a_zone_is_no_zero() -> None:
    nameless = zone(3, WEB, nsec_user=1, nsec_sys=1)
    del nameless["data"]["zonename"]
    with pytest.raises(errors.OutputError, match="names no zone"):
        read(nameless)
