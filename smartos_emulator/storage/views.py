# SPDX-License-Identifier: Apache-2.0
"""What a dataset or snapshot refers to: extents by key, shared between views as ZFS does blocks."""

import dataclasses
import functools
import itertools
import json
import os
import pathlib
import weakref

SECTOR = 512
# An empty filesystem shows 24K, a fresh clone of it 1K, and a snapshot of it nothing.
_BASE = {"filesystem": 23 * 1024, "volume": 11 * 1024}
_TOP = 1024
_BASE_KEY, _TOP_KEY = "\0base", "\0top"


@dataclasses.dataclass(frozen=True, slots=True)
class Extent:
    """Blocks that are born and die together; the number is unique in the pool."""

    number: int
    size: int
    logical: int
    digest: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One file, or one region of a volume, as it was last seen."""

    stamp: tuple[int, int]
    extents: tuple[Extent, ...]


class View:
    """An immutable set of extents. It is written once, and loaded when somebody asks."""

    def __init__(self, vid: int, store: "Store", items: dict[str, Item] | None = None) -> None:
        self.vid = vid
        self._store = store
        self._items = items

    @property
    def items(self) -> dict[str, Item]:
        if self._items is None:
            self._items = self._store.load(self.vid)
        return self._items

    @functools.cached_property
    def extents(self) -> dict[int, Extent]:
        return {ext.number: ext for item in self.items.values() for ext in item.extents}

    @functools.cached_property
    def size(self) -> int:
        return sum(ext.size for ext in self.extents.values())

    @functools.cached_property
    def logical(self) -> int:
        return sum(ext.logical for ext in self.extents.values())

    @functools.cached_property
    def ratio_parts(self) -> tuple[int, int]:
        """Data before and after compression, without the fixed metadata."""
        data = [
            ext
            for key, item in self.items.items()
            if not key.startswith("\0")
            for ext in item.extents
        ]
        return sum(ext.logical for ext in data), sum(ext.size for ext in data)

    def beyond(self, other: "View | None") -> int:
        """Bytes that this view has and the other one has not."""
        if other is None:
            return self.size
        if other is self:
            return 0
        theirs = other.extents
        return sum(ext.size for number, ext in self.extents.items() if number not in theirs)


class Store:
    """The views of a pool, each in a file of its own, and the numbers of new extents."""

    def __init__(self, directory: pathlib.Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        numbers = [int(path.name) for path in directory.iterdir() if path.name.isdigit()]
        self._vids = itertools.count(max(numbers, default=0) + 1)
        self._numbers = itertools.count(1)
        self._known: weakref.WeakValueDictionary[int, View] = weakref.WeakValueDictionary()

    def number_from(self, first: int) -> None:
        """Number new extents from here; a number is never used twice."""
        self._numbers = itertools.count(first)

    def extent(self, size: int, logical: int, digest: int = 0) -> Extent:
        return Extent(next(self._numbers), size, logical, digest)

    def fresh(self, kind: str) -> View:
        """The view of an empty dataset."""
        base = self.extent(_BASE[kind], _BASE[kind])
        return self.changed({_BASE_KEY: Item((0, 0), (base,))})

    def changed(self, items: dict[str, Item]) -> View:
        """A new view with these items; what is above the data is written anew, as in ZFS."""
        top = Item((0, 0), (self.extent(_TOP, _TOP),))
        return self._save({**items, _TOP_KEY: top})

    def get(self, vid: int) -> View:
        """The one object of a view: whether two datasets share it is asked by identity."""
        return self._known.setdefault(vid, View(vid, self))

    def load(self, vid: int) -> dict[str, Item]:
        document = json.loads((self._directory / str(vid)).read_bytes())
        return {
            key: Item((stamp[0], stamp[1]), tuple(Extent(*ext) for ext in extents))
            for key, (stamp, extents) in document.items()
        }

    def prune(self, keep: set[int]) -> None:
        """Forget the views that no dataset and no snapshot has any more."""
        for path in self._directory.iterdir():
            if not path.name.isdigit() or int(path.name) not in keep:
                path.unlink()

    def forget(self, vid: int) -> None:
        (self._directory / str(vid)).unlink(missing_ok=True)

    def _save(self, items: dict[str, Item]) -> View:
        vid = next(self._vids)
        document = {
            key: (item.stamp, [_row(ext) for ext in item.extents]) for key, item in items.items()
        }
        path = self._directory / str(vid)
        temporary = path.with_suffix(".new")
        temporary.write_bytes(json.dumps(document, separators=(",", ":")).encode())
        os.replace(temporary, path)
        return self._known.setdefault(vid, View(vid, self, items))


def _row(extent: Extent) -> tuple[int, int, int, int]:
    return extent.number, extent.size, extent.logical, extent.digest


def sectors(size: int) -> int:
    """Bytes on disk of so many bytes of data."""
    return -(-size // SECTOR) * SECTOR
