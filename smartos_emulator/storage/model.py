# SPDX-License-Identifier: Apache-2.0
"""What the pool remembers of a dataset and of a snapshot."""

import dataclasses
from typing import Any

from smartos_emulator.storage import views


@dataclasses.dataclass(eq=False)
class Snapshot:
    """A frozen view of its dataset."""

    oid: int
    dataset: "Dataset"
    short: str
    guid: int
    txg: int
    creation: int
    view: views.View
    props: dict[str, str] = dataclasses.field(default_factory=dict)
    received: dict[str, str] = dataclasses.field(default_factory=dict)
    holds: dict[str, int] = dataclasses.field(default_factory=dict)
    deferred: bool = False
    clones: set["Dataset"] = dataclasses.field(default_factory=set)
    pins: int = 0

    @property
    def name(self) -> str:
        return f"{self.dataset.name}@{self.short}"

    @property
    def kind(self) -> str:
        return "snapshot"

    def to_json(self) -> dict[str, Any]:
        return {
            "oid": self.oid,
            "short": self.short,
            "guid": self.guid,
            "txg": self.txg,
            "creation": self.creation,
            "view": self.view.vid,
            "props": self.props,
            "received": self.received,
            "holds": self.holds,
            "deferred": self.deferred,
        }


@dataclasses.dataclass(eq=False)
class Dataset:
    """A filesystem or volume: its live view, and its snapshots from old to new."""

    oid: int
    name: str
    kind: str
    guid: int
    txg: int
    creation: int
    view: views.View
    props: dict[str, str] = dataclasses.field(default_factory=dict)
    received: dict[str, str] = dataclasses.field(default_factory=dict)
    origin: Snapshot | None = None
    snapshots: dict[str, Snapshot] = dataclasses.field(default_factory=dict)
    children: set[str] = dataclasses.field(default_factory=set)
    mounted: bool = False
    inconsistent: bool = False
    partial: dict[str, Any] | None = None
    used: int | None = None
    own: "tuple[int, int, int] | None" = None
    pins: int = 0

    @property
    def latest(self) -> Snapshot | None:
        return next(reversed(self.snapshots.values()), None)

    @property
    def previous(self) -> Snapshot | None:
        """What the live view grew from."""
        return self.latest or self.origin

    def to_json(self) -> dict[str, Any]:
        return {
            "oid": self.oid,
            "name": self.name,
            "kind": self.kind,
            "guid": self.guid,
            "txg": self.txg,
            "creation": self.creation,
            "view": self.view.vid,
            "props": self.props,
            "received": self.received,
            "origin": self.origin.oid if self.origin else 0,
            "snapshots": [snap.to_json() for snap in self.snapshots.values()],
            "mounted": self.mounted,
            "inconsistent": self.inconsistent,
            "partial": self.partial,
        }


Node = Dataset | Snapshot


def natural(node: Node) -> tuple[str, int, int]:
    """The order of a list: datasets by name, the snapshots of each after it from old to new."""
    if isinstance(node, Snapshot):
        return node.dataset.name, 1, node.txg
    return node.name, 0, 0
