# SPDX-License-Identifier: Apache-2.0
"""Whether a stream may go where it is to go."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from smartos_emulator.storage import errors, model, names, properties, sending


@dataclasses.dataclass(frozen=True)
class Wish:
    """The options of one receive."""

    unmounted: bool = False
    resumable: bool = False
    force: bool = False
    exclude: tuple[str, ...] = ()
    set: Mapping[str, str] = dataclasses.field(default_factory=dict)
    origin: str | None = None
    dry_run: bool = False
    progress: Callable[[str], None] | None = None


@dataclasses.dataclass
class Target:
    """Where one stream goes."""

    dataset: model.Dataset
    short: str
    fresh: bool
    base: model.Snapshot | None
    doing: str
    mount: bool


class Accepting(sending.Sending):
    """Adds the checks before a receive."""

    def check_target(
        self, name: str, short: str, header: dict[str, Any], wish: Wish
    ) -> tuple[str, model.Snapshot | None]:
        """(how errors begin, what the stream builds on); StorageError when it cannot go here."""
        doing = (
            "cannot receive incremental stream"
            if header["from"] and not header["clone"]
            else "cannot receive new filesystem stream"
        )
        dataset = self.datasets.get(name)
        if dataset is not None and dataset.partial and not header["resume"]:
            raise errors.StorageError(
                doing,
                f'destination {name} contains partially-complete state from "zfs receive -s".',
            )
        if name in self._reserved:
            raise errors.StorageError(doing, "dataset is busy")
        if header["resume"]:
            return doing, self._check_resume(dataset, header, doing)
        if (
            header["from"]
            and dataset is not None
            and not (header["clone"] and wish.force and not dataset.snapshots)
        ):
            return (
                "cannot receive incremental stream",
                self._check_incremental(dataset, short, header, wish),
            )
        if header["from"]:
            return doing, self._check_clone(name, header, wish, doing)
        self._check_full(name, dataset, wish, doing)
        return doing, None

    def _check_full(self, name: str, dataset: model.Dataset | None, wish: Wish, doing: str) -> None:
        if dataset is None:
            self._check_receive_parent(name, doing)
            return
        if not wish.force:
            raise errors.StorageError(
                doing, f"destination '{name}' exists\nmust specify -F to overwrite it"
            )
        if dataset.snapshots:
            first = next(iter(dataset.snapshots.values())).name
            raise errors.StorageError(
                doing, f"destination has snapshots (eg. {first})\nmust destroy them to overwrite it"
            )
        if dataset.origin:
            raise errors.StorageError(
                doing, f"destination '{name}' is a clone\nmust destroy it to overwrite it"
            )

    def _check_receive_parent(self, name: str, doing: str) -> None:
        parent = names.parent(name)
        above = self.datasets.get(parent or "")
        if above is None:
            raise errors.StorageError(doing, f"destination '{parent or name}' does not exist")
        if above.kind != "filesystem":
            raise errors.StorageError(doing, f"parent '{parent}' is not a filesystem")

    def _check_clone(
        self, name: str, header: dict[str, Any], wish: Wish, doing: str
    ) -> model.Snapshot:
        if wish.origin:
            base = self.snap(wish.origin)
            if base.guid == header["from"]:
                self._check_receive_parent(name, doing)
                return base
        if not header["clone"]:
            raise errors.StorageError(doing, f"destination '{name}' does not exist")
        pool = names.pool(name)
        known = [
            one for one in self.by_guid.get(header["from"], ()) if names.pool(one.name) == pool
        ]
        if not known:
            raise errors.StorageError(
                "cannot receive",
                f"local origin for clone {name}@{names.split(header['to'])[1]} does not exist",
            )
        self._check_receive_parent(name, doing)
        return min(known, key=lambda one: one.name)

    def _check_incremental(
        self, dataset: model.Dataset, short: str, header: dict[str, Any], wish: Wish
    ) -> model.Snapshot:
        doing = "cannot receive incremental stream"
        if short in dataset.snapshots:
            raise errors.StorageError(
                f"cannot restore to {dataset.name}@{short}", "destination already exists"
            )
        mismatch = errors.StorageError(
            doing, f"most recent snapshot of {dataset.name} does not\nmatch incremental source"
        )
        line = list(dataset.snapshots.values())
        if not line:
            raise mismatch
        if line[-1].guid == header["from"]:
            self.refresh(dataset)
            if self.written(dataset) and not wish.force:
                raise errors.StorageError(
                    doing,
                    f"destination {dataset.name} has been modified\nsince most recent snapshot",
                )
            return line[-1]
        found = next((one for one in line if one.guid == header["from"]), None)
        if found is None or not wish.force:
            raise mismatch
        return found

    def _check_resume(
        self, dataset: model.Dataset | None, header: dict[str, Any], doing: str
    ) -> model.Snapshot | None:
        if dataset is None or not dataset.partial or dataset.partial["guid"] != header["guid"]:
            raise errors.StorageError(doing, "invalid backup stream")
        done = (dataset.partial["object"], dataset.partial["offset"])
        if tuple(header["resume"]) > done or dataset.partial["from"] != header["from"]:
            raise errors.StorageError(doing, "invalid backup stream")
        return self._partial_base(dataset)

    def _partial_base(self, dataset: model.Dataset) -> model.Snapshot | None:
        assert dataset.partial is not None
        if not dataset.partial["from"]:
            return None
        if dataset.origin and dataset.inconsistent:
            return dataset.origin
        return next(
            one for one in dataset.snapshots.values() if one.guid == dataset.partial["from"]
        )

    def received_properties(self, header: dict[str, Any], wish: Wish) -> dict[str, str]:
        """The properties of the stream that mean something here."""
        found = {}
        for key, value in header["props"].items():
            row = properties.find(key)
            if key in wish.exclude or (row and row.access in ("readonly", "once")):
                continue
            try:
                found[key] = properties.parse(row, value, header["kind"]) if row else str(value)
            except ValueError:
                # As zfs does: the data counts, a property that cannot be set is left out.
                continue
        return found


def destination(name: str, sent: str, tail: str) -> str:
    """The full name of a received snapshot."""
    dataset, short = names.split(sent)
    if tail == "d":
        rest = dataset.partition("/")[2]
        return f"{name}/{rest}@{short}" if rest else f"{name}@{short}"
    if tail == "e":
        return f"{name}/{dataset.rpartition('/')[2]}@{short}"
    return name if names.is_snapshot(name) else f"{name}@{short}"


_FIELDS: dict[str, type] = {
    "to": str,
    "guid": int,
    "from": int,
    "kind": str,
    "creation": int,
    "clone": bool,
    "props": dict,
    "snapshot_props": dict,
}
_PACKAGE_FIELDS: dict[str, type] = {
    "top": str,
    "to": str,
    "from": str,
    "replicate": bool,
    "datasets": list,
}


def checked(header: dict[str, Any]) -> dict[str, Any]:
    """A header that has what it must have; whoever wrote the stream is not trusted."""
    if header.get("finished"):
        return header
    fields = _PACKAGE_FIELDS if header.get("package") else _FIELDS
    sound = all(isinstance(header.get(name), kind) for name, kind in fields.items())
    if header.get("kind") == "volume":
        sound = sound and all(
            str(header.get(name, "")).isdigit() for name in ("volsize", "volblocksize")
        )
    if not sound or header.get("kind", "volume") not in ("filesystem", "volume"):
        raise errors.StorageError("cannot receive", "invalid stream (malformed nvlist)")
    return header
