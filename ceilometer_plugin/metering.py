# SPDX-License-Identifier: Apache-2.0
"""One cycle: read all nodes at once, enter it into the ledger, and give the samples.

What a sample says is on the disk before it is given. A node that is away, or slow, delays no other:
its counters hold what its zones use meanwhile.
"""

import concurrent.futures
import dataclasses
import logging
import pathlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ceilometer import sample
from oslo_config import cfg

import dtrace_scripts
from ceilometer_plugin import collection, consumer, ledger, meters, probed, roster, samples
from ceilometer_plugin import conf as meters_conf
from ceilometer_plugin.consumer import libdtrace, program
from nova_smartos import readings
from nova_smartos.smartos import errors

LOG = logging.getLogger(__name__)

# How long the account of an instance that is gone is kept: it may be shelved, and come back.
_FORGET_NS = 90 * 24 * 3600 * 10**9
_MS = 10**6
# What zone_final.d tells in whole numbers is of this kstat; the rest ends so.
_FINAL_OF, _TICKS = "zone_vfs", "_raw"


@dataclasses.dataclass(frozen=True)
class NodeView:
    """A node at one cycle: what its own samples are made of."""

    uuid: str
    name: str
    wall_ns: int
    values: Mapping[str, float]

    def only(self, name: str, values: Mapping[str, float]) -> "NodeView":
        """The same with one value of others."""
        return dataclasses.replace(self, values={name: values[name]})


#: An instance where it is now: in what was read of its node, as what, and None if it is down.
_Seen = tuple[collection.Collected, roster.Member, collection.Zone | None]


@dataclasses.dataclass(frozen=True)
class Cycle:
    """What one cycle has found; a polling agent takes it for a resource."""

    instances: Sequence[samples.View]
    nodes: Sequence[NodeView]

    def samples(self, meter: meters.Meter) -> Iterator[sample.Sample]:
        """The samples of one meter."""
        if meter.resource != meters.NODE:
            return samples.of_instances(meter, self.instances)
        what = meter.source.what if isinstance(meter.source, meters.Own) else meter.name
        return (
            samples.of_node(meter, node.uuid, node.name, node.values[what], node.wall_ns)
            for node in self.nodes
            if what in node.values
        )


class Metering:
    """All nodes of one polling agent, and its ledger."""

    def __init__(
        self, conf: cfg.ConfigOpts, *, finals: bool = True, from_boot: bool = False
    ) -> None:
        """Nothing is opened and no node is asked before the first cycle.

        Without `finals` the spools are left alone; with `from_boot` what runs already counts since
        its boot, though the ledger has not seen that.
        """
        self._finals = finals
        self._from_boot = from_boot
        self._options = conf[meters_conf.GROUP]
        self._places = meters_conf.places(conf)
        self._lock = threading.Lock()
        self._ledger: ledger.Ledger | None = None
        self._sources: list[collection.Source] = []
        self._pending: dict[str, concurrent.futures.Future[collection.Collected]] = {}
        self._members: dict[str, Mapping[str, roster.Member]] = {}
        self._numbers: dict[str, probed.Numbers] = {}
        self._entered: set[str] = set()
        self._told: dict[str, int] = {}
        # by instance: the totals that were given last, and of when
        self._given: dict[str, tuple[int, samples.Totals]] = {}
        # by node: what DTrace lost since samples from it were last given
        self._lost: dict[str, collection.Lost] = {}

    def close(self) -> None:
        """Let go of the nodes and the ledger."""
        for source in self._sources:
            source.stop()
        if self._ledger is not None:
            self._ledger.close()

    def cycle(self) -> Cycle:
        """Read every node once."""
        with self._lock:
            book = self._open()
            collected = self._collect()
            # before what was read: of those that it no longer has, they tell the last
            taken = self._take_finals(book)
            found = [each for each in collected if self._enter(book, *each)]
            nodes = [
                self._node_view(book, source, dict(_by_name(found))) for source in self._sources
            ]
            best = self._best(book, found)
            for uuid, (of, member, _) in best.items():
                book.account(uuid).owner = dict(member.owner)
                book.account(uuid).node = of.server_uuid
            before = {uuid: (each.given, each.gone) for uuid, each in book.accounts.items()}
            gone = self._see_who_is_gone(book, {each.server_uuid for _, each in found})
            self._entered &= {reading.id for _, reading in taken}
            present: dict[str, int] = {}
            for _, each in found:
                for member in each.members.values():
                    # where two nodes have it, before the samples of either
                    known = present.get(member.uuid, each.wall_ns)
                    present[member.uuid] = min(known, each.wall_ns)
            moved = {uuid: self._moved(book.account(uuid), wall) for uuid, wall in present.items()}
            for uuid, wall in present.items():
                book.account(uuid).bear(wall)
            for uuid in gone:
                book.account(uuid).bear(book.accounts[uuid].read_ns)
            try:
                book.commit(reading.id for _, reading in taken)
            except (OSError, sqlite3.Error) as error:
                LOG.error("The ledger cannot be written, so there are no samples: %s", error)
                for uuid, (given, cycles) in before.items():
                    if uuid in book.accounts:
                        book.accounts[uuid].given, book.accounts[uuid].gone = given, cycles
                book.facts["ledger_failed"] = book.facts.get("ledger_failed", 0) + 1
                return Cycle([], [view.only("ledger_failed", book.facts) for view in nodes])
            self._forget_taken(book, taken)
            views = self._views(book, best, gone, moved)
            for _, each in found:
                if each.scripts:
                    self._lost.pop(each.server_uuid, None)
            return Cycle(views, nodes)

    # the nodes

    def _open(self) -> ledger.Ledger:
        if self._ledger is None:
            texts = {name: dtrace_scripts.path(name).read_text() for name in self._options.scripts}
            book = ledger.Ledger(pathlib.Path(self._options.ledger))
            book.facts.setdefault("born_ns", time.time_ns())
            for uuid, account in book.accounts.items():
                self._given[uuid] = account.read_ns, account.totals()
            period = self._options.dtrace_period
            for place in self._places:
                dtrace: consumer.Consumer | None = None
                if texts and self._options.consumer == meters_conf.LIBRARY:
                    dtrace = libdtrace.Libdtrace(place.name, texts, period_seconds=period)
                elif texts:
                    dtrace = program.Program(place.node, place.name, texts, period_seconds=period)
                self._sources.append(
                    collection.Source(place, dtrace, self._options.space_interval, period)
                )
            for source in self._sources:
                source.start()
            self._ledger = book
        return self._ledger

    def _collect(self) -> list[tuple[collection.Source, collection.Collected]]:
        """What the nodes tell in time."""
        for source in self._sources:
            if source.place.name not in self._pending:
                self._pending[source.place.name] = source.begin()
        concurrent.futures.wait(self._pending.values(), self._options.collect_timeout)
        found = []
        for source in self._sources:
            name = source.place.name
            future = self._pending[name]
            if not future.done():
                LOG.warning("Node %s is slow: its samples come with a later cycle", name)
                source.failed += 1
                continue
            del self._pending[name]
            try:
                found.append((source, future.result()))
            except errors.SmartOSError as error:
                LOG.warning("Node %s gives no samples in this cycle: %s", name, error)
                source.failed += 1
            except Exception:
                # one node that is not understood must not stop the others
                LOG.exception("Node %s gives no samples in this cycle", name)
                source.failed += 1
        return found

    # the ledger

    def _take_finals(self, book: ledger.Ledger) -> list[tuple[readings.Spool, readings.Reading]]:
        """Enter what nova-compute has left in the spools."""
        taken: list[tuple[readings.Spool, readings.Reading]] = []
        places = {place.spool_directory: place.name for place in reversed(self._places)}
        for directory, place in places.items():
            if directory is None or not self._finals:
                continue
            spool = readings.Spool(directory)
            try:
                odd = set(spool.names())
                for reading in spool.readings():
                    odd.discard(reading.id)
                    # of a cycle whose commit failed, it is in the accounts already
                    if not book.is_taken(reading.id) and reading.id not in self._entered:
                        self._enter_final(book, reading)
                        self._entered.add(reading.id)
                    taken.append((spool, reading))
            except OSError as error:
                LOG.error("The final readings in %s cannot be read: %s", directory, error)
            else:
                self._count_odd(book, place, odd)
        return taken

    def _count_odd(self, book: ledger.Ledger, place: str, odd: set[str]) -> None:
        """Count once what lies in a spool and cannot be read; whose it is, nobody knows."""
        known = book.facts.get(f"odd/{place}", [])
        if new := odd.difference(known):
            self._facts(book, book.facts.get(f"place/{place}", place))["finals_failed"] += len(new)
        book.facts[f"odd/{place}"] = sorted(odd)

    def _enter_final(self, book: ledger.Ledger, reading: readings.Reading) -> None:
        facts = self._facts(book, reading.server_uuid)
        facts["finals_failed"] += reading.failed
        member = roster.Member.of(reading.vm)
        if member is None:
            LOG.warning("The final reading %s is of no instance of Nova's", reading.id)
            return
        account = self._introduce(book, member)
        if account.node in ("", reading.server_uuid):
            # of one that has moved, the node that it is on knows better
            account.owner, account.node = dict(member.owner), reading.server_uuid
        for each in collection.readings_of(
            reading.kstats,
            member,
            reading.server_uuid,
            reading.boot,
            reading.taken_ns,
            since_ns=_since(book, facts, reading),
        ):
            account.note(each)
        numbers = self._numbers.setdefault(reading.server_uuid, probed.Numbers())
        for counters in reading.kstats:
            if counters.module == ledger.GAPS_OF:
                numbers.meet(member, counters.instance, counters.crtime_ns, reading.boot)
        if reading.reason == readings.DELETION:
            account.deleted = True
            account.end(member.vm_uuid, reading.server_uuid, reading.taken_ns)

    def _enter(
        self, book: ledger.Ledger, source: collection.Source, collected: collection.Collected
    ) -> bool:
        """Enter what was read of a node; False if it makes no sense, which the log tells."""
        try:
            self._enter_all(book, source, collected)
        except Exception:
            LOG.exception("What node %s tells is not understood", source.place.name)
            source.failed += 1
            return False
        return True

    def _enter_all(
        self, book: ledger.Ledger, source: collection.Source, collected: collection.Collected
    ) -> None:
        facts = self._facts(book, collected.server_uuid)
        if facts.setdefault("boot", collected.boot) != collected.boot:
            facts |= {"boot": collected.boot, "since_ns": 0}
        since = facts.setdefault("since_ns", 0 if self._from_boot else collected.read_ns)
        book.facts[f"place/{source.place.name}"] = collected.server_uuid
        self._members[collected.server_uuid] = collected.members
        for zonename, member in collected.members.items():
            account = self._introduce(book, member)
            zone = collected.zones.get(zonename)
            if zone is None:
                if not member.running:
                    ended = member.ended_ns or collected.wall_ns
                    account.end(member.vm_uuid, collected.server_uuid, ended)
                continue
            for each in collection.readings_of(
                [*zone.kstats.values(), *zone.links.values()],
                member,
                collected.server_uuid,
                collected.boot,
                collected.wall_ns,
                since_ns=since,
            ):
                account.note(each)
        for final in collected.finals:
            self._finish(book, collected, final)
        numbers = self._numbers.setdefault(collected.server_uuid, probed.Numbers())
        for uuid, reading in numbers.readings(collected):
            book.account(uuid).note(reading)

    def _finish(
        self, book: ledger.Ledger, collected: collection.Collected, final: consumer.Final
    ) -> None:
        """Enter what DTrace saw a zone's kernel hold as it ended."""
        member = collected.members.get(final.zonename)
        # once a VM is deleted its node tells of it no more; a zone is named after its VM
        uuid = final.zonename if member is None else member.uuid
        if uuid not in book.accounts:
            return
        life = collection.life_of(collected.server_uuid, collected.boot, _FINAL_OF, final.zoneid)
        # times are in ticks of a clock whose ratio to nanoseconds the kernel does not tell
        counted = {
            name: number for name, number in final.counters.items() if not name.endswith(_TICKS)
        }
        book.account(uuid).finish(life, final.hrtime_ns, counted)

    def _introduce(self, book: ledger.Ledger, member: roster.Member) -> ledger.Account:
        """The account of a member that is there, and what its nics are."""
        account = book.account(member.uuid)
        account.gone, account.deleted = 0, False
        for nic in member.nics:
            account.resources[nic.mac] = {"interface": nic.interface, "port": nic.port}
        return account

    def _facts(self, book: ledger.Ledger, server_uuid: str) -> dict[str, int]:
        """What is kept of a node: since when in which boot it is metered, and what was lost."""
        facts: dict[str, int] = book.facts.setdefault(
            f"node/{server_uuid}", {"finals_failed": 0, "failed": 0, "drops": 0, "restarts": 0}
        )
        return facts

    def _see_who_is_gone(self, book: ledger.Ledger, answered: set[str]) -> list[str]:
        """Instances that their node no longer has; theirs are the last samples."""
        present = {member.uuid for members in self._members.values() for member in members.values()}
        # of a node that is no longer in the configuration nobody knows what became of its instances
        ours = {book.facts.get(f"place/{place.name}") for place in self._places}
        gone = []
        now = time.time_ns()
        for uuid, account in list(book.accounts.items()):
            left = account.node not in ours and not account.deleted
            if uuid in present or not (left or account.deleted or account.node in answered):
                continue
            if not account.gone and not left:
                account.end_all(now)
            if account.gone < self._options.final_cycles and not left:
                book.account(uuid).gone += 1
                gone.append(uuid)
            elif account.read_ns < now - _FORGET_NS:
                book.forget(uuid)
                for kept in (self._given, self._told):
                    kept.pop(uuid, None)
                for numbers in self._numbers.values():
                    numbers.forget(uuid)
        return gone

    def _best(
        self,
        book: ledger.Ledger,
        found: Sequence[tuple[collection.Source, collection.Collected]],
    ) -> dict[str, _Seen]:
        """Of two nodes, or a VM and its stand-in: the one that runs, else the one that stays."""
        answered = {collected.server_uuid for _, collected in found}
        silent = {book.facts.get(f"place/{place.name}") for place in self._places} - answered
        best: dict[str, _Seen] = {}
        for _, collected in found:
            for zonename, member in collected.members.items():
                zone = collected.zones.get(zonename)
                if member.moved and zone is None and book.account(member.uuid).node in silent:
                    # what it is now, the other node will tell
                    continue
                known = best.get(member.uuid)
                if known is None or _rank(member, zone) > _rank(known[1], known[2]):
                    best[member.uuid] = (collected, member, zone)
        return best

    def _moved(self, account: ledger.Account, wall_ns: int) -> dict[str, tuple[int, int, int]]:
        """What went over each nic since the cycle before, which is given only once."""
        moved, given = {}, {}
        for (mac, _), sums in account.totals("link").items():
            before = account.given.get(mac)
            now = {"at": wall_ns, "in": sums.get("rbytes64", 0), "out": sums.get("obytes64", 0)}
            if before is not None:
                # a total that is lower than one that was given would be a mistake of ours
                moved[mac] = (
                    now["in"] - before["in"], now["out"] - before["out"], wall_ns - before["at"]
                )  # fmt: skip
            given[mac] = now
        account.given = given
        return moved

    def _forget_taken(
        self, book: ledger.Ledger, taken: Sequence[tuple[readings.Spool, readings.Reading]]
    ) -> None:
        gone = []
        for spool, reading in taken:
            try:
                spool.remove(reading)
            except OSError as error:
                # it counts once, but the spool would fill
                LOG.error("The final reading %s cannot be removed: %s", reading.id, error)
            else:
                gone.append(reading.id)
        try:
            book.untake(gone)
        except sqlite3.Error as error:
            LOG.warning("The ledger keeps names of readings that are gone: %s", error)

    # what is given

    def _views(
        self,
        book: ledger.Ledger,
        best: Mapping[str, _Seen],
        gone: Sequence[str],
        moved: Mapping[str, Mapping[str, tuple[int, int, int]]],
    ) -> list[samples.View]:
        views = []
        seen = {uuid: (*where, moved.get(uuid, {})) for uuid, where in best.items()}
        for uuid, where in {**seen, **{each: (None, None, None, {}) for each in gone}}.items():
            account = book.accounts[uuid]
            # whose it was, is known once it was there in a cycle or in a final reading
            if not account.owner:
                continue
            try:
                views.append(self._view(account, *where))
            except (KeyError, TypeError, ValueError) as error:
                # of one whose mark is odd, nothing can be told; of the others all
                LOG.error("Instance %s gives no samples, its mark is odd: %r", uuid, error)
        return views

    def _view(
        self,
        account: ledger.Account,
        collected: collection.Collected | None,
        member: roster.Member | None,
        zone: collection.Zone | None,
        moved: Mapping[str, tuple[int, int, int]],
    ) -> samples.View:
        totals = account.totals()
        given_ns, given = self._given.get(account.uuid, (account.read_ns, None))
        # one that is gone was last read before it was last told of, if it did not run any more
        wall = collected.wall_ns if collected else max(account.read_ns, given_ns)
        quality = self._quality(account)
        view = samples.View(
            account=account,
            totals=totals,
            given=given if wall - given_ns > samples.LONG_NS else None,
            member=member,
            zone=zone,
            usage=collected.usage if collected else {},
            moved=moved,
            births=dict(account.births),
            scripts=collected.scripts if collected and zone else None,
            wall_ns=wall,
            quality=quality,
            probed_quality=self._probed_quality(collected) or quality,
        )
        self._given[account.uuid] = wall, totals
        # durable with the next commit: after a crash they are rather given twice than never
        account.announce()
        return view

    def _probed_quality(self, collected: collection.Collected | None) -> str:
        """What DTrace lost before this; "" for nothing."""
        lost = self._lost.get(collected.server_uuid) if collected else None
        if lost is None:
            return ""
        if lost.drops:
            return f"drops:{lost.drops}"
        return f"gap:{lost.down_ns // _MS}ms" if lost.down_ns >= _MS else ""

    def _quality(self, account: ledger.Account) -> str:
        gap = account.gap_ns
        new = gap - self._told.get(account.uuid, 0)
        self._told[account.uuid] = gap
        if new > 0:
            return f"gap:{new // _MS}ms"
        return "partial" if account.partial else "exact"

    def _node_view(
        self,
        book: ledger.Ledger,
        source: collection.Source,
        found: Mapping[str, collection.Collected],
    ) -> NodeView:
        name = source.place.name
        uuid = book.facts.get(f"place/{name}", name)
        collected = found.get(name)
        wall = collected.wall_ns if collected else time.time_ns()
        facts = self._facts(book, uuid)
        facts["failed"] += source.take_failed()
        facts.setdefault("down", 0)
        if collected is not None:
            # with its numbers, so that what is lost marks the samples that lack it
            lost = source.take_lost(collected)
            self._lost[uuid] = self._lost.get(uuid, collection.Lost()).plus(lost)
            facts["drops"] += lost.drops
            facts["restarts"] += lost.restarts
            facts["down"] += lost.down_ns
        values: dict[str, Any] = {key: facts[key] for key in ("finals_failed", "failed", "drops")}
        values["ledger_failed"] = book.facts.get("ledger_failed", 0)
        if source.dtrace is not None:
            values |= {key: facts[key] for key in ("restarts", "down")}
        if collected is not None and uuid in self._numbers:
            values |= self._numbers[uuid].ratios(book, collected)
        return NodeView(uuid, name, wall, values)


def _rank(member: roster.Member, zone: collection.Zone | None) -> tuple[bool, bool]:
    return zone is not None, not member.moved


def _since(book: ledger.Ledger, facts: Mapping[str, int], reading: readings.Reading) -> int:
    """From when on, by the node's clock, what begins is the ledger's from its beginning."""
    boot = facts.get("boot")
    if boot == reading.boot:
        return facts["since_ns"]
    if boot is not None and boot < reading.boot:
        # a boot that began after the node was polled in another
        return 0
    # none in which it was polled: since the ledger is there
    taken = max((each.snaptime_ns for each in reading.kstats), default=0)
    born_ns: int = book.facts["born_ns"]
    return taken - (reading.taken_ns - born_ns)


def _by_name(
    found: Sequence[tuple[collection.Source, collection.Collected]],
) -> Iterator[tuple[str, collection.Collected]]:
    for source, collected in found:
        yield source.place.name, collected
