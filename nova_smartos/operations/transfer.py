# SPDX-License-Identifier: Apache-2.0
"""Datasets of one node brought to another: snapshot by snapshot, through this process.

Neither node needs to reach the other, and none listens: two commands run, `zfs send` here and `zfs
receive` there, and what the second does not take yet the first does not give. What a link that
breaks has brought is kept, and the rest follows.
"""

import dataclasses
import threading
import time
from collections.abc import Mapping
from typing import Protocol

from oslo_log import log

from nova_smartos.smartos import errors, node, spans, zfs

LOG = log.getLogger(__name__)

#: How often in a row a stream may fail without having brought anything.
ATTEMPTS = 5
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 10.0

_PROGRESS_SECONDS = 10.0
_TOKEN = "receive_resume_token"
_MIB = 2**20
# Errors that the next attempt would meet as well.
_LASTING = (errors.NoSpace, errors.OutputError, errors.Unsupported)
# What is there is not what the stream builds on.
_USELESS = frozenset({"DatasetExists", "Modified", "WrongBase"})


class Ended(errors.SmartOSError):
    """Somebody wants no transfer any more."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A dataset with its snapshots, the oldest first, and what its copy gets of its properties."""

    name: str
    snapshots: tuple[str, ...]
    origin: str | None = None
    exclude: tuple[str, ...] = ()
    properties: Mapping[str, str] = dataclasses.field(default_factory=dict)


class _Stream(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...
    def kill(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class _There:
    """What the target has of a part."""

    snapshots: tuple[str, ...] = ()
    token: str | None = None


class Transfer:
    """What goes from one node to another for one VM."""

    def __init__(
        self, source: node.Node, target: node.Node, uuid: str, *, mib_per_second: int = 0
    ) -> None:
        """Without a limit it goes as fast as the slower node."""
        self.source = source
        self.target = target
        self.uuid = uuid
        self.sent_bytes = 0
        self._rate = mib_per_second * _MIB
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._stream: _Stream | None = None
        # the last snapshot that has arrived of each part, and whether both nodes have an origin
        self._arrived: dict[str, str] = {}
        self._origins: dict[str, bool] = {}

    @property
    def ended(self) -> bool:
        """Whether somebody wants its end."""
        return self._ended.is_set()

    def end(self) -> None:
        """End it, from another thread: whatever streams now stops, on both nodes."""
        self._ended.set()
        with self._lock:
            if self._stream is not None:
                self._stream.kill()
                # ends what the target does with it; the next command connects again
                self.target.close()

    def check(self) -> None:
        """Raise Ended if somebody wants its end."""
        if self.ended:
            raise Ended(f"the move of VM {self.uuid} was ended")

    @spans.step
    def bring(self, part: Part) -> None:
        """See that the target has the last snapshot of the part, and all before it."""
        wanted = part.snapshots[-1]
        failures = 0
        last: _There | None = None
        while self._arrived.get(part.name) != wanted:
            self.check()
            try:
                there = self._there(part.name)
                failures = 0 if there != last else failures
                last = there
                self._arrived[part.name] = self._send(part, there)
            except (Ended, *_LASTING):
                raise
            except errors.SmartOSError as error:
                self._arrived.pop(part.name, None)
                failures += 1
                if failures == ATTEMPTS or _is_final(error):
                    raise
                LOG.warning("VM %s: %s; %s goes on", self.uuid, error, part.name)
                self._ended.wait(min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE))
                if isinstance(error, errors.ToolError) and error.code in _USELESS:
                    self._drop(part.name)

    def same(self, snapshot: str) -> bool:
        """Whether both nodes have this very snapshot."""
        if snapshot not in self._origins:
            try:
                there = self.target.zfs.get(snapshot, "guid")
            except errors.NotFound:
                return False
            self._origins[snapshot] = self.source.zfs.get(snapshot, "guid") == there
        return self._origins[snapshot]

    def _there(self, name: str) -> _There:
        if name in self._arrived:
            return _There((self._arrived[name],))
        try:
            token = self.target.zfs.get(name, _TOKEN)[_TOKEN]
        except errors.NotFound:
            return _There()
        return _There(snapshots(self.target, name), token)

    def _send(self, part: Part, there: _There) -> str:
        """Send what the target lacks, or a part of it; the last that it has then."""
        if part.snapshots[-1] in there.snapshots:
            return part.snapshots[-1]
        source = self.source.zfs
        common = [each for each in part.snapshots if each in there.snapshots]
        if there.token is not None:
            LOG.info("VM %s: the rest of a stream of %s", self.uuid, part.name)
            with source.send_resumed(there.token) as stream:
                self._pour(part, stream, force=bool(there.snapshots))
            # it was one of those that are to come, and which of them the target knows
            return self._look(part)
        if there.snapshots and not common:
            self._drop(part.name)
        base = f"{part.name}@{common[-1]}" if common else self._origin(part)
        # a stream that builds on nothing carries no more than one
        short = part.snapshots[-1 if base else 0]
        with source.send(
            f"{part.name}@{short}", base=base, intermediates=base is not None, properties=True
        ) as stream:
            self._pour(part, stream, force=bool(common))
        return short

    def _look(self, part: Part) -> str:
        there = snapshots(self.target, part.name)
        return [each for each in part.snapshots if each in there][-1]

    def _origin(self, part: Part) -> str | None:
        """The snapshot that the part is a clone of, if the target has the same one."""
        if part.origin is None or not self.same(part.origin):
            return None
        return part.origin

    def _pour(self, part: Part, stream: _Stream, *, force: bool) -> None:
        with self._lock:
            self._stream = stream
        try:
            self.target.zfs.receive(
                _Paced(self, stream, part.name),
                part.name,
                exclude=part.exclude,
                force=force,
                properties=part.properties,
                resumable=True,
            )
        except errors.SmartOSError:
            # a stream that was killed fails in its own words
            self.check()
            raise
        finally:
            with self._lock:
                self._stream = None

    def _drop(self, name: str) -> None:
        LOG.warning("VM %s: %s on the target cannot be built upon", self.uuid, name)
        self.target.zfs.destroy(name, recursive=True)

    def pace(self, began: float, came: int) -> None:
        """Wait as long as the limit wants for so many bytes since a stream began."""
        if self._rate:
            self._ended.wait(max(0.0, began + came / self._rate - time.monotonic()))


class _Paced:
    """A stream that is read no faster than its transfer may go, and ends with it."""

    def __init__(self, transfer: Transfer, stream: _Stream, name: str) -> None:
        self._transfer = transfer
        self._stream = stream
        self._name = name
        self._came = 0
        self._began = self._told = time.monotonic()

    def read(self, size: int = -1, /) -> bytes:
        self._transfer.check()
        data = self._stream.read(size)
        self._came += len(data)
        self._transfer.sent_bytes += len(data)
        self._transfer.pace(self._began, self._came)
        now = time.monotonic()
        if now - self._told > _PROGRESS_SECONDS:
            self._told = now
            LOG.info("VM %s: %d MiB of %s", self._transfer.uuid, self._came // _MIB, self._name)
        return data


def snapshots(gz: node.Node, name: str) -> tuple[str, ...]:
    """The snapshots of a dataset, the oldest first; none of one that is not there."""
    try:
        listed: list[zfs.Dataset] = gz.zfs.list(name, types=("snapshot",), depth=1)
    except errors.NotFound:
        return ()
    return tuple(each.name.partition("@")[2] for each in listed)


def _is_final(error: errors.SmartOSError) -> bool:
    """Whether another attempt cannot help: a wrong key, an argument that is refused."""
    if isinstance(error, errors.NotStarted):
        return not error.retryable
    # the one thing that is about the stream alone
    return isinstance(error, errors.InvalidPayload) and error.code != "InvalidStream"
