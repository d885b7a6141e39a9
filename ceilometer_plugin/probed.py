# SPDX-License-Identifier: Apache-2.0
"""What the D scripts count, entered for the zones that it was counted of."""

import dataclasses
from collections.abc import Iterator

from ceilometer_plugin import collection, consumer, ledger, meters, roster

_BY_SCRIPT: dict[str, list[meters.Probes | meters.Below]] = {}
for _meter in meters.METERS:
    _source = _meter.source
    if isinstance(_source, meters.Ratio):
        _source = _source.probes
    if isinstance(_source, (meters.Probes, meters.Below)):
        _BY_SCRIPT.setdefault(_source.script, []).append(_source)

_Values = dict[str, int]
# A frame that is so much younger than an event has counted it.
_SETTLING_NS = 2 * 10**9


@dataclasses.dataclass
class _Life:
    """A zone that has an id, or was the last to have it."""

    zonename: str
    born_ns: int
    #: None while it is no instance's
    member: roster.Member | None
    #: when it was seen to be gone
    gone_ns: int | None = None


class Numbers:
    """What the scripts of one node count: from a run's start, by ids that change hands in it."""

    def __init__(self) -> None:
        self._boot: int | None = None
        # by id, of this boot: those that are gone as well, until a frame has all of them
        self._lives: dict[int, _Life] = {}
        # the runs that were seen in this boot of the node, and those of the boots before
        self._runs: set[str] = set()
        self._over: set[str] = set()
        # by run, script and zone id: when the zone began that has it
        self._last: dict[tuple[str, str, int], int] = {}
        # by run, script and zone id: the first frame that told of it while no zone had it
        self._strangers: dict[tuple[str, str, int], int] = {}
        # by instance and meter: what both sides had counted when the comparison began
        self._began: dict[str, dict[str, tuple[int, int]]] = {}

    def meet(self, member: roster.Member, zone_id: int, born_ns: int, boot: int) -> None:
        """Hear of a zone that may be gone before it is seen."""
        known = self._lives.get(zone_id)
        if boot == self._boot and (known is None or known.born_ns < born_ns):
            self._lives[zone_id] = _Life(member.zonename, born_ns, member)

    def forget(self, uuid: str) -> None:
        """An instance is gone for good."""
        self._began.pop(uuid, None)

    def readings(self, collected: collection.Collected) -> Iterator[tuple[str, ledger.Reading]]:
        """Readings for the ledger, each with its instance."""
        frames = [frame for frame in collected.frames if frame.script in _BY_SCRIPT]
        if collected.boot != self._boot:
            # the last words of its runs are of zones that are no more
            self._over |= self._runs
            for life in self._lives.values():
                life.gone_ns = 0
            for frame in frames:
                if frame.run in self._over and self._boot is not None:
                    yield from self._of(frame, collected, self._boot)
            self._lives, self._boot = {}, collected.boot
        self._look(collected)
        for frame in frames:
            if frame.run not in self._over:
                yield from self._of(frame, collected, collected.boot)
        runs = {frame.run for frame in frames}
        self._over &= runs
        self._runs = runs - self._over
        self._last = {key: each for key, each in self._last.items() if key[0] in runs}
        self._strangers = {key: each for key, each in self._strangers.items() if key[0] in runs}
        self._lives = {
            zone_id: life
            for zone_id, life in self._lives.items()
            if life.gone_ns is None
            or any(frame.hrtime_ns <= life.gone_ns + _SETTLING_NS for frame in frames)
        }

    def _look(self, collected: collection.Collected) -> None:
        """See which zones there are."""
        for zone_id, (zonename, born_ns) in collected.zone_ids.items():
            life = self._lives.get(zone_id)
            if life is None or life.born_ns != born_ns:
                life = self._lives[zone_id] = _Life(zonename, born_ns, None)
            life.gone_ns = None
            if zonename in collected.zones:
                life.member = collected.zones[zonename].member
        for zone_id, life in self._lives.items():
            if zone_id not in collected.zone_ids and life.gone_ns is None:
                life.gone_ns = collected.read_ns

    def _of(
        self, frame: consumer.Frame, collected: collection.Collected, boot: int
    ) -> Iterator[tuple[str, ledger.Reading]]:
        values = values_of(frame)
        here = {life.zonename for life in self._lives.values() if life.gone_ns is None}
        for zone_id in map(int, filter(str.isdecimal, values)):
            if zone_id not in self._lives:
                self._strangers.setdefault((frame.run, frame.script, zone_id), frame.hrtime_ns)
        for zone_id, life in self._lives.items():
            if frame.hrtime_ns <= life.born_ns:
                continue
            gone = life.gone_ns is not None
            told, key, start = values.get(life.zonename), life.zonename, _Values()
            # known by name, a run counts on when the zone boots
            if told is None or (gone and life.zonename in here):
                told, key = values.get(str(zone_id)), f"{life.zonename}/{life.born_ns}"
                start = self._start(frame, zone_id, life.born_ns, told)
            # one that is there and of which nothing is told has had nothing
            if life.member is None or (gone and told is None):
                continue
            reading = ledger.Reading(
                key=f"{collected.server_uuid}/{frame.script}/{frame.run}/{key}",
                resource="",
                source=f"{ledger.PROBED}{frame.script}",
                vm=life.member.vm_uuid,
                node=collected.server_uuid,
                boot=boot,
                born_ns=life.born_ns,
                read_ns=frame.hrtime_ns,
                wall_ns=collected.wall_ns,
                values=_blank(frame.script) | (told or {}),
                start=start,
            )
            yield life.member.uuid, reading

    def _start(
        self, frame: consumer.Frame, zone_id: int, born_ns: int, told: _Values | None
    ) -> _Values:
        """What does not count: under an id that another zone had, all until this zone is seen.

        Some of that may be its own; nobody pays for what may be another's.
        """
        key = (frame.run, frame.script, zone_id)
        before = self._last.get(key)
        self._last[key] = born_ns
        shared = before not in (None, born_ns) or self._strangers.get(key, born_ns) < born_ns
        return told or {} if shared else {}

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
                both = source.probes.origin, source.kernel.kstat
                totals = book.accounts[zone.member.uuid].totals(*both)
                probed, kernel = (totals.get(("", origin), {}) for origin in both)
                now = (
                    probed.get(source.probes.number, 0),
                    sum(kernel.get(name, 0) for name in source.kernel.statistics),
                )
                began = self._began.setdefault(zone.member.uuid, {})
                before = began.setdefault(meter.name, now)
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
