# SPDX-License-Identifier: Apache-2.0
"""What the D scripts count, entered for the zones that it was counted of."""

from collections.abc import Iterator

from ceilometer_plugin import collection, consumer, ledger, meters

_BY_SCRIPT: dict[str, list[meters.Probes | meters.Below]] = {}
for _meter in meters.METERS:
    _source = _meter.source
    if isinstance(_source, meters.Ratio):
        _source = _source.probes
    if isinstance(_source, (meters.Probes, meters.Below)):
        _BY_SCRIPT.setdefault(_source.script, []).append(_source)

_Values = dict[str, int]


class Numbers:
    """What the scripts of one node count: from a run's start, by ids that change hands in it."""

    def __init__(self) -> None:
        # by run, script and zone id: when the zone began that has it
        self._last: dict[tuple[str, str, int], int] = {}
        # by meter and instance: what both sides had counted when the comparison began
        self._began: dict[tuple[str, str], tuple[int, int]] = {}

    def readings(self, collected: collection.Collected) -> Iterator[tuple[str, ledger.Reading]]:
        """Readings for the ledger, each with its instance."""
        for frame in collected.frames:
            if frame.script not in _BY_SCRIPT:
                continue
            values = values_of(frame)
            for zone_id, (zonename, born_ns) in collected.zone_ids.items():
                if zonename not in collected.zones or frame.hrtime_ns <= born_ns:
                    continue
                numbers = _blank(frame.script)
                if zonename in values:
                    # known by name, a run counts on when the zone boots
                    numbers |= values[zonename]
                    life, start = zonename, _Values()
                else:
                    numbers |= values.get(str(zone_id), {})
                    life = f"{zonename}/{born_ns}"
                    start = self._start(frame, zone_id, born_ns, numbers)
                member = collected.zones[zonename].member
                reading = ledger.Reading(
                    key=f"{collected.server_uuid}/{frame.script}/{frame.run}/{life}",
                    resource="",
                    source=f"{ledger.PROBED}{frame.script}",
                    vm=member.vm_uuid,
                    node=collected.server_uuid,
                    boot=collected.boot,
                    born_ns=born_ns,
                    read_ns=frame.hrtime_ns,
                    wall_ns=collected.wall_ns,
                    values=numbers,
                    start=start,
                )
                yield member.uuid, reading
        runs = {frame.run for frame in collected.frames}
        self._last = {key: each for key, each in self._last.items() if key[0] in runs}

    def _start(
        self, frame: consumer.Frame, zone_id: int, born_ns: int, numbers: _Values
    ) -> _Values:
        """What does not count: under an id that another zone had, all until this zone is seen.

        Some of that may be its own; nobody pays for what may be another's.
        """
        key = (frame.run, frame.script, zone_id)
        before = self._last.get(key)
        self._last[key] = born_ns
        return {} if before in (None, born_ns) else numbers

    def ratios(self, book: ledger.Ledger, collected: collection.Collected) -> dict[str, float]:
        """What DTrace counted since its start, over what the kernel did, of all zones together."""
        found = {}
        scripts = {frame.script for frame in collected.frames}
        for meter in meters.METERS:
            source = meter.source
            if not isinstance(source, meters.Ratio) or source.probes.script not in scripts:
                continue
            seen = truth = 0
            for zone in collected.zones.values():
                totals = book.accounts[zone.member.uuid].totals()
                probed = totals.get(("", source.probes.origin), {})
                kernel = totals.get(("", source.kernel.kstat), {})
                now = (
                    probed.get(source.probes.number, 0),
                    sum(kernel.get(name, 0) for name in source.kernel.statistics),
                )
                before = self._began.setdefault((meter.name, zone.member.uuid), now)
                seen, truth = seen + now[0] - before[0], truth + now[1] - before[1]
            if truth:
                found[meter.name] = seen / truth
        return found


def values_of(frame: consumer.Frame) -> dict[str, _Values]:
    """What the table wants of a frame, by the zone's id or name as the script has it."""
    found: dict[str, _Values] = {}
    wanted = _BY_SCRIPT.get(frame.script, [])
    sums = [source for source in wanted if isinstance(source, meters.Probes)]
    bounds = [source for source in wanted if isinstance(source, meters.Below)]
    for (value, zone, *keys), number in frame.values.items():
        for source in sums:
            if source.value == value and _fits(keys, source.keys):
                numbers = found.setdefault(zone, {})
                numbers[source.number] = numbers.get(source.number, 0) + number
    for (value, zone, *keys), buckets in frame.distributions.items():
        numbers = found.setdefault(zone, {})
        for below in bounds:
            if below.value == value and _fits(keys, below.keys):
                count = sum([count for low, count in buckets.items() if low < below.bound])
                numbers[below.number] = numbers.get(below.number, 0) + count
    return found


def _blank(script: str) -> _Values:
    """A zone of which a script tells nothing has had none of it."""
    return {source.number: 0 for source in _BY_SCRIPT.get(script, [])}


def _fits(keys: list[str], pattern: tuple[str, ...]) -> bool:
    return pattern == ("*",) or tuple(keys) == pattern
