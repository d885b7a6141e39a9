# SPDX-License-Identifier: Apache-2.0
"""Values of properties and where they come from."""

import datetime
import pathlib
from collections.abc import Collection, Iterator

from smartos_emulator.storage import errors, model, names, properties, space, units

Answer = tuple[str, str]
_FROM_DATASET = (
    "devices",
    "exec",
    "setuid",
    "xattr",
    "nbmand",
    "primarycache",
    "secondarycache",
    "mlslabel",
)


class Reading(space.Space):
    """Adds reading of properties; values are what zfs shows with -p."""

    def get(self, name: str, prop: str) -> str:
        """The value as `zfs get -Hpo value` prints it."""
        return self.answer(name, prop)[0]

    def number(self, name: str, prop: str) -> int:
        """A size or count; 0 where there is none."""
        text = self.get(name, prop)
        return int(text) if text.isdigit() else 0

    def source(self, name: str, prop: str) -> str:
        """local, default, "inherited from X", received, temporary or "-"."""
        return self.answer(name, prop)[1]

    def answer(self, name: str, prop: str) -> Answer:
        """(value, source); ("-", "-") where the property does not apply."""
        with self.lock:
            node = self.find(name)
            if prop in properties.SPACE:
                self.look(_dataset_of(node))
            return self.answer_for(node, prop)

    def answer_for(self, node: model.Node, prop: str) -> Answer:
        """The same without looking at the files again; the caller holds the lock."""
        if ":" in prop:
            return self._user(node, prop)
        if prop.startswith("written@"):
            return self._written_since(node, prop.partition("@")[2]), "-"
        row = properties.TABLE.get(prop) or properties.HIDDEN.get(prop)
        if row is None or node.kind not in row.kinds:
            return "-", "-"
        if row.access == "readonly":
            return self._fact(node, prop), "-"
        return self._setting(node, row)

    def received_value(self, node: model.Node, prop: str) -> str:
        """What the last receive brought, for the RECEIVED column."""
        return node.received.get(prop, "-")

    def user_properties(self, node: model.Node) -> Iterator[str]:
        """Names of the user properties in force, sorted."""
        found = {key for key in (*node.props, *node.received) if ":" in key}
        for above in self.up(_dataset_of(node)):
            found |= {key for key in (*above.props, *above.received) if ":" in key}
        yield from sorted(found)

    def _user(self, node: model.Node, prop: str) -> Answer:
        if isinstance(node, model.Snapshot):
            if found := _own_value(node, prop):
                return found
            node = node.dataset
            if found := _own_value(node, prop):
                return found[0], f"inherited from {node.name}"
        return self._inherited(node, prop) or ("-", "-")

    def _inherited(self, dataset: model.Dataset, prop: str) -> Answer | None:
        for node in self.up(dataset):
            if found := _own_value(node, prop):
                return found if node is dataset else (found[0], f"inherited from {node.name}")
        return None

    def _setting(self, node: model.Node, row: properties.Property) -> Answer:
        if isinstance(node, model.Snapshot):
            if row.name == "volsize":
                return node.props.get("volsize", "-"), "-"
            if row.name in _FROM_DATASET:
                value, source = self._setting(node.dataset, row)
                local = source in ("local", "received")
                return value, f"inherited from {node.dataset.name}" if local else source
            return self._setting(node.dataset, row)[0], "-"
        if row.name == "mountpoint":
            return self._mountpoint_answer(node)
        if row.access == "inherit":
            return self._inherited(node, row.name) or (row.default, "default")
        found = _own_value(node, row.name)
        if row.access == "once":
            return (found[0] if found else row.default), "-"
        value, source = found or (row.default, "default")
        if row.name in properties.LIMITS and value == "none":
            value = str(units.UNLIMITED)
        return value, source

    def _mountpoint_answer(self, dataset: model.Dataset) -> Answer:
        own = _own_value(dataset, "mountpoint")
        inherited = self._inherited(dataset, "mountpoint")
        source = own[1] if own else inherited[1] if inherited else "default"
        return self.mountpoint(dataset), source

    # Facts

    def _fact(self, node: model.Node, prop: str) -> str:
        fact = getattr(self, f"_fact_{prop}", None)
        if fact is not None:
            return str(fact(node))
        if isinstance(node, model.Dataset):
            return self._dataset_space(node, prop)
        return self._snapshot_fact(node, prop)

    def _fact_name(self, node: model.Node) -> str:
        return node.name

    def _fact_type(self, node: model.Node) -> str:
        return node.kind

    def _fact_creation(self, node: model.Node) -> int:
        return node.creation

    def _fact_createtxg(self, node: model.Node) -> int:
        return node.txg

    def _fact_guid(self, node: model.Node) -> int:
        return node.guid

    def _fact_referenced(self, node: model.Node) -> int:
        return node.view.size

    def _fact_logicalreferenced(self, node: model.Node) -> int:
        return node.view.logical

    def _fact_refcompressratio(self, node: model.Node) -> str:
        return _ratio(node)

    def _fact_compressratio(self, node: model.Node) -> str:
        return _ratio(node)

    def _fact_written(self, node: model.Node) -> int:
        return self.written(node)

    def _fact_mounted(self, node: model.Dataset) -> str:
        return "yes" if node.mounted else "no"

    def _fact_origin(self, node: model.Dataset) -> str:
        return node.origin.name if node.origin else "-"

    def _fact_receive_resume_token(self, node: model.Dataset) -> str:
        return str(node.partial["token"]) if node.partial else "-"

    def _fact_inconsistent(self, node: model.Node) -> int:
        return int(isinstance(node, model.Dataset) and node.inconsistent)

    def _fact_prevsnap(self, node: model.Dataset) -> str:
        return node.previous.name if node.previous else "-"

    def _fact_filesystem_count(self, node: model.Dataset) -> int:
        return self._counted(node, "filesystem_limit", sum(1 for _ in self.walk(node)) - 1)

    def _fact_snapshot_count(self, node: model.Dataset) -> int:
        return self._counted(
            node, "snapshot_limit", sum(len(below.snapshots) for below in self.walk(node))
        )

    def _counted(self, node: model.Dataset, limit: str, count: int) -> int:
        """ZFS counts only below a dataset that somebody once gave a limit."""
        watched = any(limit in above.props for above in self.up(node))
        return count if watched else units.UNLIMITED

    def _dataset_space(self, node: model.Dataset, prop: str) -> str:
        if prop == "available":
            return str(self.available(node))
        if prop == "logicalused":
            return str(self.logical_used(node))
        if prop == "used":
            return str(self.used(node))
        if prop == "unique":
            return str(self.own(node)[2])
        usage = self.usage(node)
        return str(
            {
                "usedbysnapshots": usage.by_snapshots,
                "usedbydataset": usage.by_dataset,
                "usedbychildren": usage.by_children,
                "usedbyrefreservation": usage.by_refreservation,
            }[prop]
        )

    def _snapshot_fact(self, node: model.Snapshot, prop: str) -> str:
        if prop in ("used", "unique"):
            return str(self.snapshot_used(node))
        if prop == "clones":
            return ",".join(sorted(clone.name for clone in node.clones))
        return {
            "defer_destroy": "on" if node.deferred else "off",
            "userrefs": str(len(node.holds)),
            "numclones": str(len(node.clones)),
        }[prop]

    def _written_since(self, node: model.Node, short: str) -> str:
        dataset = _dataset_of(node)
        head = names.split(short)[1] or short
        base = dataset.snapshots.get(head)
        if base is None and dataset.origin and dataset.origin.name == short:
            base = dataset.origin
        if base is None:
            return "-"
        return str(node.view.beyond(base.view))

    # Names

    def children(
        self,
        name: str,
        *,
        kinds: Collection[str] = ("filesystem", "volume", "snapshot"),
        recursive: bool = True,
    ) -> list[str]:
        """Names below a dataset, without itself, in `zfs list` order; its own snapshots too."""
        with self.lock:
            top = self.dataset(name)
            found: list[model.Node] = []
            for node in self.walk(top):
                depth = node.name.count("/") - name.count("/")
                if not recursive and depth > 1:
                    continue
                if depth and node.kind in kinds:
                    found.append(node)
                if "snapshot" in kinds and (recursive or not depth):
                    found += node.snapshots.values()
            return [node.name for node in sorted(found, key=model.natural)]

    def origin(self, name: str) -> str | None:
        """The snapshot that a clone was made from."""
        with self.lock:
            origin = self.dataset(name).origin
            return origin.name if origin else None

    def clones(self, snapshot: str) -> list[str]:
        with self.lock:
            return sorted(clone.name for clone in self.snap(snapshot).clones)

    def snapshots(self, name: str) -> list[str]:
        """A dataset's own snapshots, from old to new."""
        with self.lock:
            return [snap.name for snap in self.dataset(name).snapshots.values()]

    def kind(self, name: str) -> str:
        with self.lock:
            return self.find(name).kind

    def pools(self) -> list[str]:
        with self.lock:
            return sorted(self._meta["pools"])

    def created(self, name: str) -> datetime.datetime:
        with self.lock:
            return datetime.datetime.fromtimestamp(self.find(name).creation, datetime.UTC)

    # Files

    def directory(self, name: str) -> pathlib.Path:
        """The host folder with a filesystem's, or a snapshot's, files."""
        with self.lock:
            node = self.find(name)
            if _dataset_of(node).kind != "filesystem":
                raise errors.StorageError(f"cannot open '{name}'", "not a filesystem")
            return self.files(node) if isinstance(node, model.Dataset) else self.snapshot_path(node)

    def volume_file(self, name: str) -> pathlib.Path:
        """The host file with a volume's, or its snapshot's, data; short means zeros."""
        with self.lock:
            node = self.find(name)
            if _dataset_of(node).kind != "volume":
                raise errors.StorageError(f"cannot open '{name}'", "not a volume")
            if isinstance(node, model.Dataset):
                return self.device(node.name)
            return self.snapshot_path(node)


def _dataset_of(node: model.Node) -> model.Dataset:
    return node if isinstance(node, model.Dataset) else node.dataset


def _own_value(node: model.Node, prop: str) -> Answer | None:
    if prop in node.props:
        return node.props[prop], "local"
    if prop in node.received:
        return node.received[prop], "received"
    return None


def _ratio(node: model.Node) -> str:
    logical, size = node.view.ratio_parts
    return f"{max(logical / size, 1.0):.2f}" if size else "1.00"
