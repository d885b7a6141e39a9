# SPDX-License-Identifier: Apache-2.0
"""zfs: datasets, snapshots and streams. Numbers are exact bytes (-p); "-" is None."""

import builtins
import contextlib
import dataclasses
import datetime
import functools
import re
import struct
from collections.abc import Iterator, Mapping, Sequence

from nova_smartos.smartos import _tool, errors, records, transport
from nova_smartos.smartos._tool import text

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:% /-]*")
_SNAPSHOT = re.compile(_NAME.pattern + r"@[A-Za-z0-9_.:% -]+")
_ANY = re.compile(_NAME.pattern + r"(?:[@#][A-Za-z0-9_.:% -]+)?")
_PROPERTY = re.compile(r"[a-z0-9][a-z0-9:._@#-]*")
_QUOTED = re.compile(r"'[^']*'")
_TAG = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.:-]*")
_TOKEN = re.compile(r"[0-9]+-[0-9a-f-]+")
_TYPES = frozenset({"all", "bookmark", "filesystem", "snapshot", "volume"})

TEXTS = (
    *_tool.SPACE,
    text(r".*: dataset does not exist$", errors.NotFound, "DatasetNotFound"),
    text(r".*: parent does not exist$", errors.NotFound, "ParentNotFound"),
    text(r".*: no such pool", errors.NotFound, "PoolNotFound"),
    text(r"could not find any snapshots to destroy", errors.NotFound, "SnapshotNotFound"),
    text(r".*: no such tag on this dataset", errors.NotFound, "TagNotFound"),
    text(r".*: local origin for clone .* does not exist", errors.NotFound, "OriginNotFound"),
    text(r".*snapshot .* does not exist|.*: incremental source .* does not exist",
         errors.NotFound, "SnapshotNotFound"),
    text(r".*: dataset already exists$", errors.AlreadyExists, "DatasetExists"),
    text(r".*: destination '.*' exists$", errors.AlreadyExists, "DatasetExists"),
    text(r".*: tag already exists on this dataset", errors.AlreadyExists, "TagExists"),
    text(r".*: (?:\S+ )?has dependent clones|.* has dependent clones", errors.InvalidState,
         "HasClones"),
    text(r".* has children$", errors.InvalidState, "HasChildren"),
    text(r".*: (?:dataset|pool|snapshot) is busy$", errors.InvalidState, "Busy"),
    text(r".*: more recent snapshots or bookmarks exist", errors.InvalidState, "NewerSnapshots"),
    text(r".*: destination .* has been modified$", errors.InvalidState, "Modified"),
    text(r".*: most recent snapshot of .* does not$", errors.InvalidState, "WrongBase"),
    text(r".*: not a cloned filesystem", errors.InvalidState, "NotAClone"),
    text(r".*: destination .* contains partially-complete state", errors.InvalidState, "Partial"),
    text(r".*: kernel modules must be upgraded|.*: pool must be upgraded", errors.Unsupported,
         "Version"),
    text(r".*: operation not (?:supported|applicable)", errors.Unsupported, "Operation"),
    text(r".*: (?:invalid stream|invalid backup stream|checksum mismatch|incomplete stream)",
         errors.InvalidPayload, "InvalidStream"),
    text(r".*: (?:invalid|missing|leading|trailing|empty|multiple|name is too long|bad) ?",
         errors.InvalidPayload, "Argument"),
    text(r".*: (?:'.*' (?:is readonly|must be|cannot be)|.*property .* (?:is|cannot))",
         errors.InvalidPayload, "Property"),
    text(r"bad property list|invalid (?:property|option|type|character)", errors.InvalidPayload,
         "Argument"),
    text(r".*: permission denied", errors.ToolError, "PermissionDenied"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A line of list(): a filesystem, volume, snapshot or bookmark."""

    name: str
    type: str
    creation: datetime.datetime
    used_bytes: int | None
    available_bytes: int | None
    referenced_bytes: int | None
    quota_bytes: int | None
    refquota_bytes: int | None
    refreservation_bytes: int | None
    volsize_bytes: int | None
    origin: str | None


@dataclasses.dataclass(frozen=True)
class Usage:
    """A line of usage(): what a filesystem or volume takes of its pool."""

    name: str
    used_bytes: int
    used_by_dataset_bytes: int
    used_by_snapshots_bytes: int
    logical_bytes: int
    compression_ratio: float
    quota_bytes: int | None
    volsize_bytes: int | None


_USAGE = "name used usedbydataset usedbysnapshots logicalused compressratio quota volsize".split()

# No mountpoint: a tenant sets that of a delegated dataset, and it may hold tabs and lines.
#: So many bytes of a stream is_plain() needs.
START_BYTES = 24
_COLUMNS = (
    "name type creation used available referenced quota refquota refreservation volsize origin"
).split()


class Zfs(_tool.Tool):
    """zfs(8)."""

    name = "zfs"
    texts = TEXTS

    def clone(
        self, snapshot: str, target: str, properties: Mapping[str, str] | None = None
    ) -> None:
        """zfs clone [-o PROPERTY=VALUE …] SNAPSHOT TARGET"""
        options = self._options(properties)
        self._change("clone", *options, self._snapshot(snapshot), self._dataset(target))

    def create(
        self,
        dataset: str,
        properties: Mapping[str, str] | None = None,
        *,
        parents: bool = False,
        sparse: bool = False,
        volsize_bytes: int | None = None,
    ) -> None:
        """zfs create [-p] [-s] [-V BYTES] [-o PROPERTY=VALUE …] DATASET"""
        flags = (["-p"] if parents else []) + (["-s"] if sparse else [])
        flags += ["-V", str(int(volsize_bytes))] if volsize_bytes is not None else []
        self._change("create", *flags, *self._options(properties), self._dataset(dataset))

    def destroy(self, name: str, *, recursive: bool = False, dependents: bool = False) -> None:
        """zfs destroy [-r|-R] DATASET|SNAPSHOT"""
        flags = ["-R"] if dependents else ["-r"] if recursive else []
        if "%" in name:
            # destroy takes a%b as a range of snapshots
            raise self._refused(f"not one dataset or snapshot: {records.excerpt(name)}")
        self._change("destroy", *flags, self._any(name))

    def get(self, name: str, *properties: str) -> dict[str, str | None]:
        """zfs get -Hp -o property,value PROPERTY,… DATASET: all of them when none is named."""
        # as zfs itself does for all: its own first, those of users last
        wanted = sorted((self._property(each) for each in properties), key=_is_users)
        parser = functools.partial(_values, frozenset(wanted))
        listed = ",".join(wanted) or "all"
        return self._read(parser, "get", "-Hp", "-o", "property,value", listed, self._any(name))

    def having(self, property_: str, name: str, *, depth: int) -> builtins.list[str]:
        """zfs get -Hp -o name -s local -t filesystem,volume -d DEPTH PROPERTY DATASET"""
        flags = ["-o", "name", "-s", "local", "-t", "filesystem,volume", "-d", str(int(depth))]
        operands = [self._property(property_), self._any(name)]
        return self._read(_tool.lines, "get", "-Hp", *flags, *operands)

    def hold(self, tag: str, snapshot: str, *, recursive: bool = False) -> None:
        """zfs hold [-r] TAG SNAPSHOT"""
        flags = ["-r"] if recursive else []
        self._change("hold", *flags, self._tag(tag), self._snapshot(snapshot))

    def holds(self, snapshot: str) -> builtins.list[str]:
        """zfs holds -H SNAPSHOT: the tags."""
        return self._read(_tags, "holds", "-H", self._snapshot(snapshot))

    def inherit(self, property_: str, name: str, *, recursive: bool = False) -> None:
        """zfs inherit [-r] PROPERTY DATASET"""
        flags = ["-r"] if recursive else []
        self._change("inherit", *flags, self._property(property_), self._any(name))

    def list(
        self,
        *names: str,
        types: Sequence[str] = ("filesystem", "volume"),
        depth: int | None = None,
        recursive: bool = False,
    ) -> builtins.list[Dataset]:
        """zfs list -Hp -o NAME,TYPE,… -t TYPES [-r] [-d DEPTH] [DATASET …]"""
        if not _TYPES.issuperset(types):
            raise self._refused(f"not types of datasets: {records.excerpt(','.join(types))}")
        flags = ["-t", ",".join(types), *(["-r"] if recursive else [])]
        flags += ["-d", str(int(depth))] if depth is not None else []
        operands = [self._any(name) for name in names]
        return self._read(_datasets, "list", "-Hp", "-o", ",".join(_COLUMNS), *flags, *operands)

    def own(self, dataset: str) -> dict[str, str | None]:
        """zfs get -Hp -o property,value -s local,received all DATASET: what it has of its own."""
        flags = ("-o", "property,value", "-s", "local,received")
        parser = functools.partial(_values, frozenset())
        return self._read(parser, "get", "-Hp", *flags, "all", self._dataset(dataset))

    def promote(self, dataset: str) -> None:
        """zfs promote DATASET"""
        self._change("promote", self._dataset(dataset))

    def receive(
        self,
        source: _tool.Readable,
        target: str,
        *,
        exclude: Sequence[str] = (),
        force: bool = False,
        properties: Mapping[str, str] | None = None,
        resumable: bool = False,
        unmounted: bool = True,
    ) -> None:
        """zfs receive [-u] [-s] [-F] [-o PROPERTY=VALUE …] [-x PROPERTY …] DATASET < STREAM"""
        words = self.receiving(
            target,
            exclude=exclude,
            force=force,
            properties=properties,
            resumable=resumable,
            unmounted=unmounted,
        )
        self._input(source, "receive", *words)

    def receive_abort(self, dataset: str) -> None:
        """zfs receive -A DATASET: give up what a broken, resumable receive has left."""
        self._change("receive", "-A", self._dataset(dataset))

    def receiving(
        self,
        target: str,
        *,
        exclude: Sequence[str] = (),
        force: bool = False,
        properties: Mapping[str, str] | None = None,
        resumable: bool = False,
        unmounted: bool = True,
    ) -> builtins.list[str]:
        """The words of receive().

        What is set stands first, for ps shows no more than the beginning.
        """
        flags = ["-u"] if unmounted else []
        flags += (["-s"] if resumable else []) + (["-F"] if force else [])
        flags += self._options(properties)
        for each in exclude:
            flags += ["-x", self._property(each)]
        return [*flags, self._any(target)]

    def release(self, tag: str, snapshot: str, *, recursive: bool = False) -> None:
        """zfs release [-r] TAG SNAPSHOT"""
        flags = ["-r"] if recursive else []
        self._change("release", *flags, self._tag(tag), self._snapshot(snapshot))

    def rename(self, old: str, new: str, *, recursive: bool = False) -> None:
        """zfs rename [-r] OLD NEW"""
        self._change("rename", *(["-r"] if recursive else []), self._any(old), self._any(new))

    def rollback(
        self, snapshot: str, *, destroy_newer: bool = False, destroy_clones: bool = False
    ) -> None:
        """zfs rollback [-r|-R] SNAPSHOT"""
        flags = ["-R"] if destroy_clones else ["-r"] if destroy_newer else []
        self._change("rollback", *flags, self._snapshot(snapshot))

    @contextlib.contextmanager
    def send(
        self,
        snapshot: str,
        *,
        base: str | None = None,
        intermediates: bool = False,
        properties: bool = False,
        replicate: bool = False,
    ) -> Iterator[_tool.Stream]:
        """zfs send [-R] [-p] [-i|-I BASE] SNAPSHOT: a readable stream.

        Its end is only reported when zfs ended well, so a broken stream is never taken for whole.
        """
        words = self.sending(
            snapshot,
            base=base,
            intermediates=intermediates,
            properties=properties,
            replicate=replicate,
        )
        with self.sent(words) as stream:
            yield stream

    @contextlib.contextmanager
    def send_unmounted(self, dataset: str, base: str) -> Iterator[_tool.Stream]:
        """zfs send -i BASE DATASET: as it is now; BASE is a snapshot of whatever it comes from.

        Of a snapshot, BASE could be no more than the origin of its dataset itself.
        """
        with self._output("send", "-i", self._snapshot(base), self._dataset(dataset)) as stream:
            yield stream

    @contextlib.contextmanager
    def send_resumed(self, token: str) -> Iterator[_tool.Stream]:
        """zfs send -t TOKEN: the rest of a stream; the receiver's receive_resume_token tells."""
        with self.sent(self.resuming(token)) as stream:
            yield stream

    @contextlib.contextmanager
    def sent(self, words: Sequence[str]) -> Iterator[_tool.Stream]:
        """zfs send WORDS: those of sending() or resuming()."""
        with self._output("send", *words) as stream:
            yield stream

    def sending(
        self,
        snapshot: str,
        *,
        base: str | None = None,
        intermediates: bool = False,
        properties: bool = False,
        replicate: bool = False,
    ) -> builtins.list[str]:
        """The words of send()."""
        flags = (["-R"] if replicate else []) + (["-p"] if properties else [])
        if base is not None:
            flags += ["-I" if intermediates else "-i", self._any(base)]
        return [*flags, self._snapshot(snapshot)]

    def resuming(self, token: str) -> builtins.list[str]:
        """The words of send_resumed()."""
        return ["-t", self._operand(token, "token", _TOKEN)]

    def set(self, name: str, properties: Mapping[str, str]) -> None:
        """zfs set PROPERTY=VALUE … DATASET"""
        assignments = self._assignments(properties)
        if not assignments:
            raise self._refused("no property is given")
        self._change("set", *assignments, self._any(name))

    def snapshot(
        self,
        *names: str,
        properties: Mapping[str, str] | None = None,
        recursive: bool = False,
    ) -> None:
        """zfs snapshot [-r] [-o PROPERTY=VALUE …] SNAPSHOT …"""
        flags = ["-r"] if recursive else []
        snapshots = [self._snapshot(name) for name in names]
        self._change("snapshot", *flags, *self._options(properties), *snapshots)

    def unmount(self, dataset: str) -> None:
        """zfs unmount DATASET"""
        self._change("unmount", self._dataset(dataset))

    def usage(self) -> builtins.list[Usage]:
        """zfs list -Hp -t filesystem,volume -o NAME,USED,…: what every one of them takes."""
        flags = ("-t", "filesystem,volume", "-o", ",".join(_USAGE))
        return self._read(_usages, "list", "-Hp", *flags)

    def _unprefixed(self, line: str) -> str:
        # a tenant names a delegated dataset, with blanks and colons, but never with quotes
        return _QUOTED.sub("''", line)

    def _failure(self, result: transport.Result) -> errors.ToolError:
        error = super()._failure(result)
        if result.returncode == 2 and not error.code:
            return errors.InvalidPayload.from_result(result, code="Usage")
        return error

    def _any(self, name: str) -> str:
        return self._operand(name, "dataset or snapshot", _ANY)

    def _assignments(self, properties: Mapping[str, str] | None) -> builtins.list[str]:
        return [f"{self._property(name)}={value}" for name, value in (properties or {}).items()]

    def _dataset(self, name: str) -> str:
        return self._operand(name, "dataset", _NAME)

    def _options(self, properties: Mapping[str, str] | None) -> builtins.list[str]:
        return [word for each in self._assignments(properties) for word in ("-o", each)]

    def _property(self, name: str) -> str:
        return self._operand(name, "property", _PROPERTY)

    def _snapshot(self, name: str) -> str:
        return self._operand(name, "snapshot", _SNAPSHOT)

    def _tag(self, tag: str) -> str:
        return self._operand(tag, "tag", _TAG)


def number(value: str) -> int | None:
    """A number as -p prints it; "-" and "none" are None."""
    return None if value in ("-", "none", "") else int(value)


def _dataset(values: Sequence[str]) -> Dataset:
    cell = dict(zip(_COLUMNS, values, strict=True))
    return Dataset(
        name=cell["name"],
        type=cell["type"],
        creation=datetime.datetime.fromtimestamp(int(cell["creation"]), datetime.UTC),
        used_bytes=number(cell["used"]),
        available_bytes=number(cell["available"]),
        referenced_bytes=number(cell["referenced"]),
        quota_bytes=number(cell["quota"]),
        refquota_bytes=number(cell["refquota"]),
        refreservation_bytes=number(cell["refreservation"]),
        volsize_bytes=number(cell["volsize"]),
        origin=_value(cell["origin"]),
    )


def _datasets(output: str) -> list[Dataset]:
    return _tool.table(_dataset, len(_COLUMNS))(output)


def is_plain(start: bytes) -> bool:
    """Whether a stream that begins so is of one snapshot, without properties: zfs send SNAPSHOT.

    Any other one tells zfs receive where its parts belong.
    """
    record, _, magic, version = struct.unpack_from("<IIQQ", start)
    return (record, magic, version & 3) == (0, 0x2F5BACBAC, 1)


def _is_users(name: str) -> bool:
    return ":" in name


def _usage(values: Sequence[str]) -> Usage:
    cell = dict(zip(_USAGE, values, strict=True))
    try:
        return Usage(
            name=cell["name"],
            used_bytes=int(cell["used"]),
            used_by_dataset_bytes=int(cell["usedbydataset"]),
            used_by_snapshots_bytes=int(cell["usedbysnapshots"]),
            logical_bytes=int(cell["logicalused"]),
            # with -p a plain number on newer platforms, with an x after it on older ones
            compression_ratio=float(cell["compressratio"].removesuffix("x")),
            # 0 is how -p says none
            quota_bytes=number(cell["quota"]) or None,
            volsize_bytes=number(cell["volsize"]),
        )
    except ValueError as error:
        raise errors.OutputError(f"zfs list: {cell['name']}: {error}") from None


def _usages(output: str) -> list[Usage]:
    return _tool.table(_usage, len(_USAGE))(output)


def _values(wanted: frozenset[str], output: str) -> dict[str, str | None]:
    # A user's property may hold tabs and lines, and those may look like another property. It comes
    # after zfs's own ones, so that it can pretend to be none of them.
    found: dict[str, str | None] = {}
    last = ""
    for line in _tool.lines(output):
        name, tab, value = line.partition("\t")
        pretends = name in found or (_is_users(last) and not _is_users(name))
        asked = bool(_PROPERTY.fullmatch(name)) and (not wanted or name in wanted)
        if tab and asked and not pretends:
            last = name
            found[name] = None if value == "-" else value
        elif last:
            found[last] = f"{found[last] or ''}\n{line}"
        else:
            raise errors.OutputError(f"no property and value: {records.excerpt(line)}")
    return found


def _tags(output: str) -> list[str]:
    return _tool.table(lambda values: values[1], 3)(output)


def _value(value: str) -> str | None:
    return None if value in ("", "-") else value
