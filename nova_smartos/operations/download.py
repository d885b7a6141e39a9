# SPDX-License-Identifier: Apache-2.0
"""An image's bytes on their way from Glance: whole and right, or an error; never just an end."""

import contextlib
import hashlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from nova import exception
from oslo_log import log

from nova_smartos.smartos import spans

LOG = log.getLogger(__name__)

#: How often somebody is asked whether the image is still wanted.
ASK_SECONDS = 5.0
_MIB = 1 << 20
#: A smaller image is there before anybody could read how far it has come.
_TOLD_BYTES = 64 * _MIB


class Wish:
    """Whether an image is still wanted: `check` raises when it is not, and is asked now and then.

    It asks Nova's database, which is too much for every chunk.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._asked = time.monotonic()

    def ask(self) -> None:
        if time.monotonic() - self._asked >= ASK_SECONDS:
            self._check()
            self._asked = time.monotonic()


class Download:
    """An image's bytes on their way from Glance.

    The end is only reported when all of them have come and their hash is right, and Nova has
    verified the signature if there is one: nothing that is short or wrong is ever installed.
    A thread of its own speaks with Glance, for nothing else could end a wait for it; it hashes,
    too, while the reader passes the bytes on.
    """

    def __init__(
        self,
        download: Callable[..., object],
        record: Mapping[str, Any],
        wish: Wish,
        *,
        idle_seconds: float,
    ) -> None:
        self.size_bytes = int(record["size"])
        self._id = str(record["id"])
        self._download = download
        self._wish = wish
        self._idle = idle_seconds
        self._hash, self._expected = _hash(record)
        self._came = 0
        self._tenths = 0
        self._rest = b""
        self._ended = False
        # bytes, then None at the end or what went wrong
        self._queue: queue.Queue[bytes | Exception | None] = queue.Queue(maxsize=8)
        self._given_up = threading.Event()
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._put_at = time.monotonic()

    def __enter__(self) -> "Download":
        fetch = spans.carried(self._fetch)
        threading.Thread(target=fetch, name=f"download-{self._id}", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._given_up.set()

    def read(self, size: int = -1, /) -> bytes:
        """Some of the bytes, at most `size`; b"" is the end."""
        if not self._rest and not self._ended:
            self._rest = self._next()
        data, self._rest = (self._rest, b"") if size < 0 else (self._rest[:size], self._rest[size:])
        return data

    def write(self, chunk: bytes) -> None:
        """What Nova calls with the bytes."""
        # what is handed over costs something each time: as much as the toolkit reads at once
        self._gathered.append(chunk)
        self._gathered_bytes += len(chunk)
        if self._gathered_bytes >= _MIB or time.monotonic() - self._put_at > 1:
            self._hand_over()

    def truncate(self, _: int) -> None:
        """What Nova calls when the signature is wrong; it raises that, too."""

    def _next(self) -> bytes:
        came = self._wait()
        if isinstance(came, Exception):
            raise came
        if came is None:
            self._ended = True
            self._verify()
            return b""
        self._came += len(came)
        if self._came > self.size_bytes:
            raise self._broken(f"more than its {self.size_bytes} bytes came")
        self._tell()
        return came

    def _tell(self) -> None:
        tenths = self._came * 10 // self.size_bytes
        if tenths > self._tenths and self.size_bytes >= _TOLD_BYTES:
            total = self.size_bytes // _MIB
            LOG.info("Image %s: %d of %d MiB have come", self._id, self._came // _MIB, total)
        self._tenths = tenths

    def _wait(self) -> bytes | Exception | None:
        end = time.monotonic() + self._idle
        while True:
            self._wish.ask()
            left = end - time.monotonic()
            if left <= 0:
                raise self._broken(f"nothing came for {self._idle} seconds")
            with contextlib.suppress(queue.Empty):
                return self._queue.get(timeout=min(left, ASK_SECONDS))

    def _verify(self) -> None:
        if self._came < self.size_bytes:
            raise self._broken(f"only {self._came} of {self.size_bytes} bytes came")
        if self._hash.hexdigest() != self._expected:
            raise exception.ImageUnacceptable(
                image_id=self._id,
                reason=f"its {self._hash.name} is not the one that Glance says it has",
            )

    def _broken(self, reason: str) -> exception.NovaException:
        return exception.NovaException(f"Image {self._id} did not come from Glance: {reason}")

    def _fetch(self) -> None:
        try:
            with spans.span("download from Glance", "operation"):
                self._download(data=self)
            self._hand_over()
            self._put(None)
        except _GivenUpError:
            LOG.debug("Nobody wants the rest of image %s", self._id)
        except Exception as error:
            # raised again where the bytes are read
            with contextlib.suppress(_GivenUpError):
                self._put(error)

    def _hand_over(self) -> None:
        gathered = b"".join(self._gathered)
        self._gathered.clear()
        self._gathered_bytes = 0
        if gathered:
            self._hash.update(gathered)
            self._put(gathered)
        self._put_at = time.monotonic()

    def _put(self, item: bytes | Exception | None) -> None:
        while not self._given_up.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.5)
                return
        raise _GivenUpError


class _GivenUpError(Exception):
    """The download's reader has gone."""


def _hash(record: Mapping[str, Any]) -> tuple[Any, str]:
    """What to compute, and what must come out."""
    properties = record.get("properties") or {}
    for algorithm, expected in (
        (_either(record, properties, "os_hash_algo"), _either(record, properties, "os_hash_value")),
        ("md5", record.get("checksum")),
    ):
        if expected and algorithm in hashlib.algorithms_available:
            return hashlib.new(algorithm, usedforsecurity=False), str(expected).lower()
    raise exception.ImageUnacceptable(
        image_id=str(record["id"]), reason="Glance has no hash of it, so it cannot be verified"
    )


def _either(record: Mapping[str, Any], properties: Mapping[str, Any], name: str) -> Any:
    # as Glance's own fields, or among the properties: it depends on the schema that it tells
    return record.get(name) or properties.get(name)
