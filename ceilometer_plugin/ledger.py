# SPDX-License-Identifier: Apache-2.0
"""The ledger: what each instance has used in all, kept so that no total ever decreases.

A counter of the kernel lives as long as its zone is up; DTrace's as long as a consumer runs. Each
such life is an epoch. The ledger keeps the newest reading of every epoch, and a total is the sum
over epochs of what was counted since the epoch's start: so a reading may come twice, or late, and
nothing is counted twice. What follows from a reading is emitted only once it is on the disk.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import pathlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS account (uuid TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS taken (id TEXT PRIMARY KEY);
"""
#: The source that every zone has: its epochs tell of what time nothing is known.
GAPS_OF = "zones"

#: What the sources of D scripts' numbers begin with.
PROBED = "dtrace."
#: As close as two samples may be that are not one.
MOMENT_NS = 1000

_VERSION = 1
# So many epochs of a source are kept, for late readings; older ones are summed up. DTrace's follow
# one another every hour, and no reading of one comes once two others have begun.
_KEPT, _KEPT_RUNS = 32, 3
_WRAP = 2**32


@dataclasses.dataclass
class Epoch:
    """One life of the counters of one source, and their newest reading."""

    #: the nic or disk whose counters these are; "" is the instance
    resource: str
    source: str
    vm: str
    node: str
    #: which boot of the node
    boot: int
    #: when it began, and when it was last read: of the node's clock since its boot
    born_ns: int
    read_ns: int
    #: when it was last read, by the clock of the one who read
    wall_ns: int
    values: dict[str, int]
    #: what does not count: it was there before the ledger
    start: dict[str, int] = dataclasses.field(default_factory=dict)
    #: what some of its counters held at its very end, after any reading
    last: dict[str, int] = dataclasses.field(default_factory=dict)
    #: when it was over, by the node's clock or by that of the one who read
    end_ns: int | None = None
    end_wall_ns: int | None = None

    @property
    def counted(self) -> dict[str, int]:
        """What it has counted since its start."""
        start, last = self.start, self.last
        values = {**self.values, **last} if last else self.values
        if not start:
            return dict(values)
        return {name: value - start.get(name, 0) for name, value in values.items()}

    @property
    def ended(self) -> bool:
        return self.end_ns is not None or self.end_wall_ns is not None

    @property
    def gap_ns(self) -> int:
        """The time between its last reading and its end."""
        if self.end_ns is not None:
            return max(0, self.end_ns - self.read_ns)
        if self.end_wall_ns is not None:
            return max(0, self.end_wall_ns - self.wall_ns)
        return 0


@dataclasses.dataclass(frozen=True)
class Reading:
    """The counters of one source at one moment."""

    key: str
    resource: str
    source: str
    vm: str
    node: str
    boot: int
    born_ns: int
    read_ns: int
    wall_ns: int
    values: Mapping[str, int]
    #: those that begin anew after 32 bits
    narrow: frozenset[str] = frozenset()
    #: what an epoch that is new is to count from; None is from its first reading
    start: Mapping[str, int] | None = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Account:
    """All that is known of one instance's use."""

    uuid: str
    owner: dict[str, Any] = dataclasses.field(default_factory=dict)
    #: what a nic or disk is called, by its name in the epochs
    resources: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    epochs: dict[str, Epoch] = dataclasses.field(default_factory=dict)
    #: sums of the epochs that are no longer kept, by resource, source and counter
    settled: dict[str, dict[str, dict[str, int]]] = dataclasses.field(default_factory=dict)
    #: which ones those were, of the kernel's: no later reading of one may count again
    settled_keys: set[str] = dataclasses.field(default_factory=set)
    settled_gap_ns: int = 0
    anomalies: int = 0
    #: the node that it was last seen on
    node: str = ""
    #: whether some of its use was before the ledger
    partial: bool = False
    #: cycles in which its last totals were given since it is gone
    gone: int = 0
    #: whether its node was told to delete it
    deleted: bool = False
    #: by resource and source: the moment of its first sample, which is zero, while it is not known
    #: whether that was given, and those of which it is
    births: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    announced: set[tuple[str, str]] = dataclasses.field(default_factory=set)
    #: by nic: what was last given as a delta, and when
    given: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)

    @property
    def gap_ns(self) -> int:
        """The time of which it is not known what was used: an epoch's, after its last reading."""
        return self.settled_gap_ns + sum(
            epoch.gap_ns for epoch in self.epochs.values() if epoch.source == GAPS_OF
        )

    def bear(self, wall_ns: int) -> None:
        """Fix the moment of the first sample, zero, of what has none: before the one of now.

        Not that of its beginning, which may be too long ago for whoever bills the difference.
        """
        for epoch in self.epochs.values():
            place = (epoch.resource, epoch.source)
            if place not in self.announced:
                self.births.setdefault(place, wall_ns - MOMENT_NS)

    def announce(self) -> None:
        """The first samples were given."""
        self.announced |= self.births.keys()
        self.births = {}

    @property
    def read_ns(self) -> int:
        """The moment of its newest reading."""
        return max((epoch.wall_ns for epoch in self.epochs.values()), default=0)

    def note(self, reading: Reading) -> None:
        """Take a reading; one that is older than what is known changes nothing."""
        epoch = self.epochs.get(reading.key)
        if epoch is None:
            self._begin(reading)
            return
        if reading.read_ns <= epoch.read_ns:
            return
        values = dict(epoch.values)
        for name, value in reading.values.items():
            before = values.get(name, 0)
            if name in reading.narrow:
                # what seems to have gone up by more than half of what there is went back
                more = (value - before) % _WRAP
                value = before + (more if more < _WRAP // 2 else -1)
            if value < before:
                self.anomalies += 1
            else:
                values[name] = value
        epoch.values = values
        epoch.read_ns, epoch.wall_ns = reading.read_ns, reading.wall_ns
        if epoch.ended and not epoch.gap_ns and epoch.wall_ns > (epoch.end_wall_ns or 0):
            # it was thought to be over, and is not
            epoch.end_ns = epoch.end_wall_ns = None

    def _begin(self, reading: Reading) -> None:
        if _short(reading.key) in self.settled_keys:
            # it is summed up already, and must not count twice
            self.anomalies += 1
            return
        start = reading.values if reading.start is None else reading.start
        last = self._newest(reading.resource, reading.source)
        self.partial = self.partial or reading.start is None
        if last is not None and not last.ended and last.wall_ns < reading.wall_ns:
            same_clock = (last.node, last.boot) == (reading.node, reading.boot)
            if same_clock and last.read_ns <= reading.born_ns:
                last.end_ns = reading.born_ns
            else:
                last.end_wall_ns = reading.wall_ns - (reading.read_ns - reading.born_ns)
        self.epochs[reading.key] = Epoch(
            resource=reading.resource,
            source=reading.source,
            vm=reading.vm,
            node=reading.node,
            boot=reading.boot,
            born_ns=reading.born_ns,
            read_ns=reading.read_ns,
            wall_ns=reading.wall_ns,
            values=dict(reading.values),
            start=dict(start),
        )
        self._settle(reading.resource, reading.source)

    def finish(self, life: str, born_before_ns: int, values: Mapping[str, int]) -> None:
        """Take what counters held as the epoch ended whose key begins so, if it is known.

        Of several, which had one id in turn, it is the last that was born before.
        """
        known = [
            epoch
            for key, epoch in self.epochs.items()
            if key.startswith(life) and epoch.born_ns <= born_before_ns
        ]
        if not known:
            return
        epoch = max(known, key=lambda epoch: epoch.born_ns)
        for name in epoch.values.keys() & values.keys():
            if epoch.read_ns <= born_before_ns and values[name] < epoch.values[name]:
                self.anomalies += 1
            else:
                epoch.last[name] = values[name]

    def end(self, vm: str, node: str, wall_ns: int) -> None:
        """A VM of the instance is down on a node, since that moment."""
        for epoch in self.epochs.values():
            if (epoch.vm, epoch.node) == (vm, node) and not epoch.ended:
                epoch.end_wall_ns = wall_ns

    def end_all(self, wall_ns: int) -> None:
        """The instance is nowhere, since that moment."""
        for epoch in self.epochs.values():
            if not epoch.ended:
                epoch.end_wall_ns = wall_ns

    def _newest(self, resource: str, source: str) -> Epoch | None:
        found = [
            epoch
            for epoch in self.epochs.values()
            if epoch.source == source and epoch.resource == resource
        ]
        return max(found, key=lambda epoch: epoch.wall_ns, default=None)

    def _settle(self, resource: str, source: str) -> None:
        """Sum up the oldest epochs of a source, if there are many."""
        # in the order in which they were first heard of: no clock is asked
        keys = [
            key
            for key, epoch in self.epochs.items()
            if epoch.source == source and epoch.resource == resource
        ]
        probed = source.startswith(PROBED)
        for key in keys[: -(_KEPT_RUNS if probed else _KEPT)]:
            epoch = self.epochs.pop(key)
            if not probed:
                self.settled_keys.add(_short(key))
            if epoch.source == GAPS_OF:
                self.settled_gap_ns += epoch.gap_ns
            sums = self.settled.setdefault(resource, {}).setdefault(source, {})
            for name, value in epoch.counted.items():
                sums[name] = sums.get(name, 0) + value

    def totals(self, *wanted: str) -> dict[tuple[str, str], dict[str, int]]:
        """All that was counted, by resource and source; of these sources alone, if any."""
        found: dict[tuple[str, str], dict[str, int]] = {
            (resource, source): dict(sums)
            for resource, sources in self.settled.items()
            for source, sums in sources.items()
            if not wanted or source in wanted
        }
        for epoch in self.epochs.values():
            if wanted and epoch.source not in wanted:
                continue
            place = (epoch.resource, epoch.source)
            sums = found.get(place)
            if sums is None:
                found[place] = epoch.counted
                continue
            for name, value in epoch.counted.items():
                sums[name] = sums.get(name, 0) + value
        return found


class Busy(RuntimeError):
    """Another agent has the ledger."""


class Ledger:
    """All accounts, in memory and on the disk."""

    def __init__(self, path: pathlib.Path) -> None:
        """Open it, or begin one; OSError or sqlite3.Error when that cannot be."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.with_name(f"{path.name}.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise Busy(f"{path} is in use by another polling agent") from error
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.executescript(_SCHEMA)
        rows = self._database.execute("SELECT uuid, document FROM account")
        self.accounts = {uuid: _account(uuid, json.loads(text)) for uuid, text in rows}
        self.facts: dict[str, Any] = {
            name: json.loads(value)
            for name, value in self._database.execute("SELECT name, value FROM fact")
        }
        self._taken = {id_ for (id_,) in self._database.execute("SELECT id FROM taken")}
        self._changed: set[str] = set()

    def close(self) -> None:
        """Let go of it."""
        self._database.close()
        self._lock.close()

    def account(self, uuid: str) -> Account:
        """The account of an instance, which is written with the next commit."""
        self._changed.add(uuid)
        return self.accounts.setdefault(uuid, Account(uuid))

    def forget(self, uuid: str) -> None:
        """Remove the account of an instance that is gone for good."""
        del self.accounts[uuid]
        self._changed.add(uuid)

    def is_taken(self, reading: str) -> bool:
        """Whether this reading of the spool is in the ledger, though it may still lie there."""
        return reading in self._taken

    def commit(self, taken: Iterable[str] = ()) -> None:
        """Write what has changed, all or nothing, and return when it is on the disk.

        `taken` are the readings of the spool that are in it now.
        """
        taken = list(taken)
        documents = [
            (uuid, json.dumps(_document(self.accounts[uuid]), separators=(",", ":")))
            for uuid in self._changed
            if uuid in self.accounts
        ]
        removed = [(uuid,) for uuid in self._changed if uuid not in self.accounts]
        facts = [(name, json.dumps(value)) for name, value in self.facts.items()]
        with self._transaction() as database:
            database.executemany("INSERT OR REPLACE INTO account VALUES (?, ?)", documents)
            database.executemany("DELETE FROM account WHERE uuid = ?", removed)
            database.executemany("INSERT OR REPLACE INTO fact VALUES (?, ?)", facts)
            database.executemany("INSERT OR REPLACE INTO taken VALUES (?)", [(t,) for t in taken])
        self._changed.clear()
        self._taken.update(taken)

    def untake(self, readings: Iterable[str]) -> None:
        """Forget the names of readings that no longer lie in the spool."""
        gone = [(reading,) for reading in readings]
        self._database.executemany("DELETE FROM taken WHERE id = ?", gone)
        self._taken.difference_update(reading for (reading,) in gone)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise


def _document(account: Account) -> dict[str, Any]:
    document = {
        field.name: getattr(account, field.name)
        for field in dataclasses.fields(account)
        if field.name not in ("uuid", "epochs")
    }
    # not asdict(), which copies every value and is what a cycle would spend its time on
    document["epochs"] = {key: vars(epoch) for key, epoch in account.epochs.items()}
    document["announced"] = sorted(account.announced)
    document["settled_keys"] = sorted(account.settled_keys)
    document["births"] = [[*place, born] for place, born in account.births.items()]
    return {**document, "version": _VERSION}


def _account(uuid: str, document: dict[str, Any]) -> Account:
    if document.pop("version") != _VERSION:
        raise ValueError(f"the ledger's account {uuid} is of another version than {_VERSION}")
    epochs = {key: Epoch(**each) for key, each in document.pop("epochs").items()}
    document["announced"] = {(resource, source) for resource, source in document["announced"]}
    document["settled_keys"] = set(document["settled_keys"])
    document["births"] = {(resource, source): at for resource, source, at in document["births"]}
    return Account(uuid=uuid, epochs=epochs, **document)


def _short(key: str) -> str:
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
