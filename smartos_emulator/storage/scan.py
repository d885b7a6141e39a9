# SPDX-License-Identifier: Apache-2.0
"""From files to extents: what changed since the last look gets new ones, the rest keeps its own."""

import dataclasses
import os
import stat
import zlib
from collections.abc import Set

from smartos_emulator.storage import content, views

CHUNK = 1 << 20
_SAMPLE = 1 << 14
_DNODE = 512
# Keys of data that exists only in the books: scripted load and data of virtual disks.
BOOKED = "\1"


class Scanner:
    """One look at a dataset's files.

    Of a large file that has changed it reads all, to tell what has not; `exact` or not: where no
    snapshot shares the blocks, nobody asks for that, and it may be made up for later.
    """

    def __init__(
        self, store: views.Store, old: views.View, *, compress: bool, exact: bool = True
    ) -> None:
        self._store = store
        self._old = old.items
        self._compress = compress
        self._exact = exact
        self._links: dict[tuple[int, int], bool] = {}
        self.items: dict[str, views.Item] = {}
        self.changed = False

    def tree(self, top: str, mounts: Set[str]) -> None:
        for path, status in _walk(top, mounts):
            self._entry(top, path, status)
        self._finish()

    def volume(self, path: str) -> None:
        self._file("vol", path, os.stat(path))
        self._finish()

    def _finish(self) -> None:
        for key, item in self._old.items():
            if key[:1] in ("\0", BOOKED):
                self.items[key] = item
        self.changed = self.changed or len(self.items) != len(self._old)

    def _entry(self, top: str, path: str, status: os.stat_result) -> None:
        if stat.S_ISREG(status.st_mode):
            if status.st_nlink > 1:
                identity = (status.st_dev, status.st_ino)
                if identity in self._links:
                    return
                self._links[identity] = True
            self._file(path, f"{top}/{path}", status)
            return
        size = status.st_size if stat.S_ISLNK(status.st_mode) else 0
        self._keep_or_make(path, (size, -1), _DNODE, _DNODE)

    def _keep_or_make(self, key: str, stamp: tuple[int, int], size: int, logical: int) -> None:
        old = self._old.get(key)
        if old is not None and old.stamp == stamp:
            self.items[key] = old
            return
        self.changed = True
        self.items[key] = views.Item(stamp, (self._store.extent(size, logical),))

    def _file(self, key: str, path: str, status: os.stat_result) -> None:
        stamp = (status.st_size, status.st_mtime_ns)
        old = self._old.get(key)
        if old is not None and old.stamp == stamp:
            self.items[key] = old
            if status.st_size > CHUNK:
                self._keep_chunks(key, path, status.st_size)
            return
        self.changed = True
        if status.st_size > CHUNK:
            self.items[key] = views.Item(stamp, (self._store.extent(_DNODE, _DNODE),))
            self._chunks(key, path, status.st_size)
            return
        size = self._stored(path, status.st_size)
        logical = _DNODE + views.sectors(status.st_size)
        self.items[key] = views.Item(stamp, (self._store.extent(_DNODE + size, logical),))

    def _keep_chunks(self, key: str, path: str, size: int) -> None:
        chunks = -(-size // CHUNK)
        if chunks > len(self._old):  # mostly a hole: look at what there is
            prefix = f"{key}\0"
            kept = {name: item for name, item in self._old.items() if name.startswith(prefix)}
        else:
            names = (f"{key}\0{index}" for index in range(chunks))
            kept = {name: self._old[name] for name in names if name in self._old}
        self.items.update(kept)
        if self._exact and not all(item.extents[0].digest for item in kept.values()):
            self.changed = True
            self._chunks(key, path, size)

    def _stored(self, path: str, size: int) -> int:
        if not self._compress or size <= views.SECTOR:
            return views.sectors(size)
        with open(path, "rb", buffering=0) as file:
            return _compressed(file.read(_SAMPLE), size)

    def _chunks(self, key: str, path: str, size: int) -> None:
        with open(path, "rb", buffering=0) as file:
            spans: dict[int, list[tuple[int, int]]] = {}
            for start, end in content.regions(file.fileno(), size):
                for index in range(start // CHUNK, -(-end // CHUNK)):
                    low, high = max(start, index * CHUNK), min(end, (index + 1) * CHUNK)
                    spans.setdefault(index, []).append((low, high))
            for index, parts in spans.items():
                self._chunk(f"{key}\0{index}", file.fileno(), parts)

    def _chunk(self, key: str, fd: int, parts: list[tuple[int, int]]) -> None:
        digest, size, logical = 0, 0, 0
        for low, high in parts:
            data = os.pread(fd, high - low if self._exact else min(_SAMPLE, high - low), low)
            if self._exact:
                digest = zlib.crc32(data, digest ^ (low & 0xFFFFFFFF))
            logical += views.sectors(high - low)
            size += _compressed(data, high - low) if self._compress else views.sectors(high - low)
        stamp, kept = (logical, 0), self.items.get(key)
        if kept is not None:
            # it is as it was, and only now somebody asks for this
            (extent,) = kept.extents
            kept = views.Item(stamp, (dataclasses.replace(extent, digest=digest),))
        old = self._old.get(key)
        if kept is None and old is not None and digest and old.extents[0].digest == digest:
            kept = old if old.stamp == stamp else None
        self.items[key] = kept or views.Item(stamp, (self._store.extent(size, logical, digest),))


def _compressed(data: bytes, size: int) -> int:
    """An estimate from a sample, kept only when it saves an eighth, as ZFS does."""
    sample = data[:_SAMPLE]
    if not sample:
        return views.sectors(size)
    small = views.sectors(len(zlib.compress(sample, 1)) * size // len(sample))
    return small if small <= size - size // 8 else views.sectors(size)


def _walk(top: str, mounts: Set[str]) -> list[tuple[str, os.stat_result]]:
    found: list[tuple[str, os.stat_result]] = []
    stack = [""]
    while stack:
        folder = stack.pop()
        try:
            with os.scandir(f"{top}/{folder}") as listing:
                for entry in listing:
                    path = f"{folder}{entry.name}"
                    if f"{top}/{path}" in mounts:
                        continue
                    # A file may go away while we look: it is then as if we had come later.
                    try:
                        found.append((path, entry.stat(follow_symlinks=False)))
                    except FileNotFoundError:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(f"{path}/")
        except FileNotFoundError:
            continue
    return found
