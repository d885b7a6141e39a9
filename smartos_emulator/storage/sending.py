# SPDX-License-Identifier: Apache-2.0
"""zfs send: a snapshot, or a whole tree of them, as a stream."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from smartos_emulator.storage import (
    differences,
    errors,
    framing,
    model,
    names,
    scan,
    snapshots,
)


@dataclasses.dataclass(frozen=True)
class Part:
    """One snapshot of a stream, and the one that the receiver has already."""

    snap: model.Snapshot
    base: model.Snapshot | None
    properties: bool
    resume: tuple[int, int] | None = None


class Sending(snapshots.Snapshots):
    """Adds send."""

    def send(
        self,
        snapshot: str,
        out: BinaryIO,
        *,
        base: str | None = None,
        intermediates: bool = False,
        replicate: bool = False,
        properties: bool = False,
    ) -> None:
        """zfs send [-R] [-p] [-i|-I base] snapshot, written to a binary file."""
        parts, package = self.send_plan(
            snapshot,
            base=base,
            intermediates=intermediates,
            replicate=replicate,
            properties=properties,
        )
        self.send_parts(parts, package, out)

    def send_parts(
        self,
        parts: list[Part],
        package: dict[str, Any] | None,
        out: BinaryIO,
        *,
        begin: Callable[[str], None] = lambda snapshot: None,
    ) -> None:
        """Write what send_plan found; nothing of it can be destroyed meanwhile."""
        needed = [part.snap for part in parts] + [part.base for part in parts if part.base]
        with self.pin(*needed):
            writer = framing.Writer(out)
            if package is not None:
                writer.begin(package)
                writer.document(framing.END, {})
            for part in parts:
                begin(part.snap.name)
                self._send_part(part, writer)
            if package is not None:
                writer.begin({"finished": True})
                writer.document(framing.END, {})

    def send_plan(
        self,
        snapshot: str,
        *,
        base: str | None,
        intermediates: bool,
        replicate: bool,
        properties: bool,
    ) -> tuple[list[Part], dict[str, Any] | None]:
        """(the snapshots in order, the header of a package of several or None)."""
        with self.lock:
            snap = self.snap(snapshot)
            start = self._send_base(snap, base) if base else None
            if start is snap:
                raise errors.StorageError(
                    f"cannot send '{snap.dataset.name}'", "zero-length incremental source"
                )
            if not replicate and not intermediates:
                return [Part(snap, start, properties)], None
            tops = list(self.walk(snap.dataset)) if replicate else [snap.dataset]
            parts = []
            sent = []
            for dataset in tops:
                mine = self._line(
                    dataset,
                    snap,
                    start,
                    intermediates=intermediates or not base,
                    replicate=replicate,
                    properties=properties or replicate,
                )
                if mine is None:
                    continue
                parts += mine
                sent.append(self._described(dataset, properties=properties or replicate))
            header = {
                "package": True,
                "top": snap.dataset.name,
                "to": snap.short,
                "from": start.short if start else "",
                "replicate": replicate,
                "datasets": sent,
            }
            return parts, header

    def _send_base(self, snap: model.Snapshot, base: str) -> model.Snapshot:
        if not names.is_snapshot(base):
            base = f"{snap.dataset.name}@{base}"
        elif base.startswith("@"):
            base = snap.dataset.name + base
        head, short = names.split(base)
        found = self.datasets[head].snapshots.get(short or "") if head in self.datasets else None
        doing = f"warning: cannot send '{snap.name}'"
        if found is None:
            raise errors.StorageError(doing, f"incremental source ({base}) does not exist")
        if found is not snap and found not in self._ancestry(snap):
            raise errors.StorageError(doing, "not an earlier snapshot from the same fs")
        return found

    def _ancestry(self, snap: model.Snapshot) -> Iterator[model.Snapshot]:
        """Older snapshots of the same filesystem, and of what it is a clone of."""
        here: model.Snapshot | None = snap
        while here is not None:
            line = list(here.dataset.snapshots.values())
            yield from reversed(line[: line.index(here)])
            here = here.dataset.origin
            if here is not None:
                yield here

    def _line(
        self,
        dataset: model.Dataset,
        snap: model.Snapshot,
        start: model.Snapshot | None,
        *,
        intermediates: bool,
        replicate: bool,
        properties: bool,
    ) -> list[Part] | None:
        """The parts of one filesystem of a package; None when it has nothing to send."""
        last = dataset.snapshots.get(snap.short)
        if last is None:
            return None
        line = list(dataset.snapshots.values())
        line = line[: line.index(last) + 1]
        base = self._line_base(dataset, start)
        if base in line:
            line = line[line.index(base) + 1 :]
        if not intermediates:
            line = line[-1:]
        parts = []
        for one in line:
            parts.append(Part(one, base, properties))
            base = one
        return parts

    def _line_base(
        self, dataset: model.Dataset, start: model.Snapshot | None
    ) -> model.Snapshot | None:
        if start is None:
            return dataset.origin
        return dataset.snapshots.get(start.short) or dataset.origin or None

    def _described(self, dataset: model.Dataset, *, properties: bool) -> dict[str, Any]:
        return {
            "name": dataset.name,
            "props": sent_properties(dataset) if properties else {},
            "snapshots": {one.short: one.guid for one in dataset.snapshots.values()},
        }

    # One part

    def _send_part(self, part: Part, writer: framing.Writer) -> None:
        writer.begin(self._header(part))
        for item in part.snap.view.items.items():
            if item[0].startswith(scan.BOOKED):
                writer.document(
                    framing.BOOKED, {"n": item[1].extents[0].number, "s": item[1].stamp[0]}
                )
        if part.snap.dataset.kind == "volume":
            self._send_volume(part, writer)
        else:
            self._send_tree(part, writer)
        writer.document(framing.END, {})

    def _header(self, part: Part) -> dict[str, Any]:
        snap, dataset = part.snap, part.snap.dataset
        header = {
            "to": snap.name,
            "guid": snap.guid,
            "kind": dataset.kind,
            "creation": snap.creation,
            "from": part.base.guid if part.base else 0,
            "clone": bool(part.base and part.base.dataset is not dataset),
            "resume": list(part.resume) if part.resume else None,
            # the rest of a stream says no more of them
            "says_properties": part.properties and not part.resume,
            "props": sent_properties(dataset) if part.properties else {},
            "snapshot_props": {key: value for key, value in snap.props.items() if ":" in key}
            if part.properties
            else {},
        }
        if dataset.kind == "volume":
            header["volsize"] = snap.props["volsize"]
            header["volblocksize"] = dataset.props.get("volblocksize", "8192")
        return header

    def _send_volume(self, part: Part, writer: framing.Writer) -> None:
        new, start = self.snapshot_path(part.snap), (part.resume or (0, 0))[1]
        if part.base is None:
            for offset, block in differences.data(new, start):
                writer.data(offset, block)
            return
        for offset, size, found in differences.of_volume(new, self.snapshot_path(part.base), start):
            if found is None:
                writer.hole(offset, size)
            else:
                writer.data(offset, found)

    def _send_tree(self, part: Part, writer: framing.Writer) -> None:
        new = self.snapshot_path(part.snap)
        old: pathlib.Path | None = self.snapshot_path(part.base) if part.base else None
        first, offset = part.resume or (0, 0)
        for number, step in enumerate(differences.of_tree(new, old)):
            if number < first:
                continue
            start = offset if number == first else 0
            writer.document(step.kind, {**step.document, "i": number, "o": start})
            if step.data:
                for place, block in differences.data(new / step.document["p"], start):
                    writer.data(place, block)

    # Resuming

    def send_resume(self, token: str, out: BinaryIO) -> None:
        """zfs send -t token"""
        self.send_parts([self.resumed_part(token)], None, out)

    def resumed_part(self, token: str) -> Part:
        """What a token asks for."""
        state = framing.parse_token(token)
        doing = "cannot resume send"
        with self.lock:
            if not self.exists(state["to"]):
                raise errors.StorageError(
                    doing, f"'{state['to']}' used in the initial send no longer exists"
                )
            snap = self.snap(state["to"])
            if snap.guid != state["guid"]:
                raise errors.StorageError(
                    doing,
                    f"'{state['to']}' is no longer the same snapshot used in the initial send",
                )
            base = None
            if state["from"]:
                known = self.by_guid.get(state["from"], set())
                base = next(iter(one for one in self._ancestry(snap) if one in known), None)
                if base is None:
                    raise errors.StorageError(
                        doing, f"incremental source {state['from']:#x} no longer exists"
                    )
            return Part(
                snap, base, bool(state.get("properties")), (state["object"], state["offset"])
            )

    def part_size(self, part: Part) -> int:
        """About how many bytes a part's stream has."""
        with self.lock:
            return part.snap.view.beyond(part.base.view if part.base else None)


def sent_properties(dataset: model.Dataset) -> dict[str, str]:
    """What -p sends: every property set here or received."""
    left_out = ("volsize", "volblocksize")
    merged = {**dataset.received, **dataset.props}
    return {key: value for key, value in merged.items() if key not in left_out}
