# SPDX-License-Identifier: Apache-2.0
"""Datasets of one node brought to another: snapshot by snapshot, through this process.

Neither node needs to reach the other, and none listens: two commands run, `zfs send` here and `zfs
receive` there, and what the second does not take yet the first does not give. What a link that
breaks has brought is kept, and the rest follows. Where an operator lets the nodes reach each other
by SSH, it is one command here, and the bytes go from node to node.

A stream is of one snapshot, plain: one of several, or with properties, says itself where it goes,
and zfs follows it wherever that is. What a dataset has of properties is read here and set there.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from oslo_log import log

from nova_smartos.smartos import direct, errors, node, spans, zfs

LOG = log.getLogger(__name__)

#: A property of the datasets of a copy that has not arrived: whose it is.
COPY = "nova:copy-of"
#: How often in a row a stream may fail without having brought anything.
ATTEMPTS = 5
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 10.0
#: How long a command on the target may go on that nobody awaits any more.
STILL_SECONDS = 60.0

_LOOK_SECONDS = 0.5
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
    """A dataset with its snapshots, the oldest first, and the properties of its copy."""

    name: str
    snapshots: tuple[str, ...]
    origin: str | None = None
    properties: Mapping[str, str] = dataclasses.field(default_factory=dict)


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Stream(_Readable, Protocol):
    def kill(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class _There:
    """What the target has of a part."""

    snapshots: tuple[str, ...] = ()
    token: str | None = None


class Transfer:
    """What goes from one node to another for one VM."""

    def __init__(
        self,
        source: node.Node,
        target: node.Node,
        uuid: str,
        *,
        mib_per_second: int = 0,
        address: direct.Address | None = None,
    ) -> None:
        """Without a limit it goes as fast as the slower node.

        With the target's address it goes straight there, as long as that works.
        """
        self.source = source
        self.target = target
        self.uuid = uuid
        self.sent_bytes = 0
        self._rate = mib_per_second * _MIB
        # a limit is kept by what reads here
        self._address = None if mib_per_second else address
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
            # it was one of those that are to come, and which of them the target knows
            return self._carry(part, source.resuming(there.token), force=bool(there.snapshots))
        if there.snapshots and not common:
            self._drop(part.name)
        base = f"{part.name}@{common[-1]}" if common else self._origin(part)
        short = part.snapshots[part.snapshots.index(common[-1]) + 1 if common else 0]
        words = source.sending(f"{part.name}@{short}", base=base)
        return self._carry(part, words, short, force=bool(common))

    def _carry(
        self, part: Part, sent: Sequence[str], short: str | None = None, *, force: bool
    ) -> str:
        """Run what sends; the last snapshot that the target has then."""
        if self._address is None:
            with self.source.zfs.sent(sent) as stream:
                self._pour(part, stream, force=force)
            return short or self._look(part)
        try:
            self._push(part, self._address, sent, force=force)
            there = self._look(part)
            if short in (None, there):
                return there
            raise errors.OutputError(f"{part.name}@{short} is not there, and nothing said why")
        except errors.SmartOSError as error:
            self.check()
            LOG.warning("VM %s goes through this process: %s", self.uuid, error)
            try:
                wait_until_still(self.target, self.uuid)
            except errors.SmartOSError as other:
                raise error from other
            self._address = None
            return self._send(part, self._there(part.name))

    def _look(self, part: Part) -> str:
        there = snapshots(self.target, part.name)
        arrived = [each for each in part.snapshots if each in there]
        if not arrived:
            raise errors.OutputError(f"nothing of {part.name} is there, and nothing said why")
        return arrived[-1]

    def _origin(self, part: Part) -> str | None:
        """The snapshot that the part is a clone of, if the target has the same one."""
        if part.origin is None or not self.same(part.origin):
            return None
        return part.origin

    def _pour(self, part: Part, stream: _Stream, *, force: bool) -> None:
        with self._ending(stream):
            try:
                paced = _Paced(self, Plain(stream, part.name), part.name)
                self.target.zfs.receive(paced, part.name, **self._taking(part, force))
            except errors.SmartOSError:
                # a stream that was killed fails in its own words
                self.check()
                raise

    def _push(
        self, part: Part, address: direct.Address, sent: Sequence[str], *, force: bool
    ) -> None:
        received = self.target.zfs.receiving(part.name, **self._taking(part, force))
        told, last = time.monotonic(), 0
        with (
            self.source.direct.send(address, sent, received) as stream,
            self._ending(stream),
        ):
            for line in stream.lines():
                self.check()
                came = direct.progress(line)
                # each snapshot is counted anew
                self.sent_bytes += came - last if came > last else came
                last = came
                if time.monotonic() - told > _PROGRESS_SECONDS:
                    told = time.monotonic()
                    LOG.info("VM %s: %d MiB of %s", self.uuid, came // _MIB, part.name)

    def _taking(self, part: Part, force: bool) -> dict[str, Any]:
        """How the target receives a part."""
        return {
            "force": force,
            "properties": part.properties,
            "resumable": True,
        }

    @contextlib.contextmanager
    def _ending(self, stream: _Stream) -> Iterator[None]:
        """While this lasts, whoever wants the transfer's end ends the stream."""
        with self._lock:
            self._stream = stream
        try:
            # an end that came before has not met it
            self.check()
            yield
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

    def __init__(self, transfer: Transfer, stream: _Readable, name: str) -> None:
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


class Plain:
    """A stream of one snapshot; OutputError before any of another one is passed on."""

    def __init__(self, stream: _Readable, name: str) -> None:
        self._stream = stream
        self._name = name
        self._begun = False

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        if not self._begun:
            self._begun = True
            while 0 < len(data) < zfs.START_BYTES and (more := self._stream.read(zfs.START_BYTES)):
                data += more
            if len(data) >= zfs.START_BYTES and not zfs.is_plain(data):
                raise errors.OutputError(f"what is sent of {self._name} is not one snapshot")
        return data


def wait_until_still(target: node.Node, uuid: str) -> None:
    """Wait for commands that make a copy: they go on when the connection that carried them is gone.

    What has arrived by then they make a dataset of, or a VM.
    """
    copy = f"{COPY}={uuid}"
    end = time.monotonic() + STILL_SECONDS
    while busy := [
        each
        for each in target.ps.list()
        if copy in each.arguments or "vmadm receive" in each.arguments
    ]:
        if time.monotonic() > end:
            told = "; ".join(f"{each.pid}: {each.arguments}" for each in busy)
            raise errors.InvalidState(f"still at work on the other node: {told}", code="Busy")
        time.sleep(_LOOK_SECONDS)


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
