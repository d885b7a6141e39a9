# SPDX-License-Identifier: Apache-2.0
"""The table of meters, and what is made from it."""

import importlib.metadata
import warnings
from collections.abc import Iterator

import pytest

from ceilometer_plugin import meters
from doc import dashboard
from doc import meters as written


def test_a_name_means_one_meter() -> None:
    assert len(meters.BY_NAME) == len(meters.METERS)
    assert len({each.attribute for each in meters.METERS}) == len(meters.METERS)


def test_what_bills_a_counter_can_never_come_from_dtrace() -> None:
    """Ceilometer's own meters are the kernel's; what DTrace counts is named as ours."""
    probed = [each for each in meters.METERS if isinstance(each.source, meters.Probes)]
    assert probed
    assert all(each.name.startswith("smartos.") for each in probed)
    assert all(each.bound == meters.PROBES for each in probed)


def test_every_row_says_all() -> None:
    counted = (meters.Counter, meters.Probes, meters.Below, meters.Own)
    for meter in meters.METERS:
        assert meter.type in (meters.CUMULATIVE, meters.DELTA, meters.GAUGE), meter.name
        assert meter.resource in (meters.INSTANCE, meters.NIC, meters.DISK, meters.NODE), meter.name
        assert meter.unit or meter.name == "power.state"
        assert meter.bound and str(meter.source) and meter.brands, meter.name
        # what is counted is cumulative, and nothing else
        shrinks = meter.name == "smartos.metering.gap"
        cumulative = isinstance(meter.source, counted) and not shrinks
        assert cumulative == (meter.type == meters.CUMULATIVE), meter.name


def test_the_bounds_of_a_distribution_grow() -> None:
    bounds: dict[str, list[int]] = {}
    for meter in meters.METERS:
        if isinstance(meter.source, meters.Below):
            bounds.setdefault(meter.name.rpartition(".below.")[0], []).append(meter.source.bound)
    assert bounds
    for found in bounds.values():
        # a distribution's own buckets are powers of two: no other bound can be told
        assert found == sorted(set(found)) and all(each.bit_count() == 1 for each in found)


def test_documents_and_entry_points_are_those_of_the_table() -> None:
    for path, text in (
        (written.PATH, written.document()),
        (written.SETUP, written.setup(written.SETUP.read_text())),
        (written.RESOURCES, written.resources(written.RESOURCES.read_text())),
        (dashboard.PATH, dashboard.document()),
    ):
        assert path.read_text() == text, f"{path.name} is old: run make gendocs"


def test_every_pollster_of_libvirt_has_its_like_or_a_reason() -> None:
    """With the same unit, type and kind of resource."""
    pytest.importorskip("ceilometer", reason="missing: pip install 'nova-smartos[metering]'")
    stock = dict(_stock())
    assert len(stock) > 30
    found = {
        name: (meter.unit, meter.type, meter.resource)
        for name, meter in meters.BY_NAME.items()
        if name in stock
    }
    assert found == {name: told for name, told in stock.items() if name not in meters.NEVER}
    assert set(meters.NEVER) <= set(stock)


def _stock() -> Iterator[tuple[str, tuple[str, str, str]]]:
    """The meters of Ceilometer's own compute pollsters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ceilometer.compute.pollsters import disk, net

        points = importlib.metadata.entry_points(group="ceilometer.poll.compute")
        found = {point.name: point.load() for point in points}
    for name, pollster in found.items():
        kind = meters.INSTANCE
        if issubclass(pollster, disk.PerDeviceDiskPollster):
            kind = meters.DISK
        elif issubclass(pollster, net.NetworkPollster):
            kind = meters.NIC
        yield name, (pollster.sample_unit, pollster.sample_type, kind)
