# SPDX-License-Identifier: Apache-2.0
"""Setting properties: what is accepted, and what a change of one brings with it."""

from collections.abc import Callable, Mapping

from smartos_emulator.storage import errors, model, names, properties, reading, units

_PLACING = frozenset(("mountpoint", "canmount", "zoned"))
_INSIDE = ("mountpoint", "sharenfs", "sharesmb")
Props = Mapping[str, str]


class Settings(reading.Reading):
    """Adds set and inherit."""

    def _parsed(self, props: Props, kind: str, doing: str, *, new: bool) -> dict[str, str]:
        """Names in full and values as kept, or the refusal that zfs prints."""
        parsed: dict[str, str] = {}
        for word, value in props.items():
            name, kept = self._parsed_one(word, value, kind, doing, new=new)
            parsed[name] = kept
        return parsed

    def _parsed_one(
        self, word: str, value: str, kind: str, doing: str, *, new: bool
    ) -> tuple[str, str]:
        row = properties.find(word)
        if row is None and properties.is_user(word):
            if len(word) >= 256:
                raise errors.StorageError(doing, f"property name '{word}' is too long")
            return word, value
        if kind == "snapshot":
            raise errors.StorageError(doing, "this property can not be modified for snapshots")
        if row is None and properties.is_space_at(word):
            raise errors.StorageError(doing, f"'{word}' is readonly")
        if row is None or row.name in properties.HIDDEN:
            raise errors.StorageError(doing, f"invalid property '{word}'")
        if kind not in row.kinds:
            raise errors.StorageError(
                doing, f"'{row.name}' does not apply to datasets of this type"
            )
        if row.access == "readonly" or (row.access == "once" and not new):
            raise errors.StorageError(doing, f"'{row.name}' is readonly")
        if row.name == "encryption" and value != "off":
            raise errors.StorageError(doing, "encryption is not emulated on this node")
        try:
            return row.name, properties.parse(row, value, kind)
        except ValueError as error:
            raise errors.StorageError(doing, str(error)) from None

    def set_many(self, name: str, props: Props) -> None:
        """Several properties in one step: all are checked before any is set."""
        with self.lock:
            node = self.find(name)
            doing = f"cannot set property for '{name}'"
            parsed = self._parsed(props, node.kind, doing, new=False)
            if isinstance(node, model.Dataset):
                self._refuse_inside(node, parsed, doing)
                self._set_on_dataset(node, parsed, doing)
            else:
                node.props.update(parsed)
                self.commit(node.dataset)
        self.tell("set", name)

    def _refuse_inside(self, node: model.Dataset | None, parsed: Props, doing: str) -> None:
        """Where a zone's dataset is mounted or shared only the zone says."""
        wrong = [prop for prop in _INSIDE if prop in parsed]
        if wrong and node is not None and self.inherited(node, "zoned") == "on":
            raise errors.StorageError(
                doing, f"'{wrong[0]}' cannot be set on dataset in a non-global zone"
            )

    def _set_on_dataset(self, node: model.Dataset, parsed: dict[str, str], doing: str) -> None:
        # volsize first: refreservation=auto is computed from it.
        order = sorted(parsed, key=lambda prop: prop != "volsize")
        for prop in order:
            value = parsed[prop]
            if prop == "refreservation" and value == "auto":
                value = str(self.auto_reservation(node, self.value(node, "volsize")))
            self._check_limit(node, prop, value, doing)
            if prop == "volsize":
                self._resize(node, int(value), doing)
            elif prop in _PLACING:
                self._set_place(node, prop, value)
            else:
                node.props[prop] = value
            self.touched(node)
        self.commit(*(self.walk(node) if _PLACING & parsed.keys() else [node]))

    def _check_limit(self, node: model.Dataset, prop: str, value: str, doing: str) -> None:
        if prop not in properties.NONE_IF_ZERO:
            return
        size = int(value)
        self.refresh(node)
        less = "size is less than current used or reserved space"
        more = "size is greater than available space"
        if (
            prop == "quota"
            and size
            and size < max(self.used(node), self.value(node, "reservation"))
        ):
            raise errors.StorageError(doing, less)
        if (
            prop == "refquota"
            and size
            and size < max(node.view.size, self.value(node, "refreservation"))
        ):
            raise errors.StorageError(doing, less)
        if prop == "reservation":
            parent = names.parent(node.name)
            used = self.used(node)
            extra = max(size, used) - max(self.value(node, "reservation"), used)
            quota = self.value(node, "quota")
            room = self.room(self.datasets[parent])[0] if parent else self.capacity(node.name)
            if extra > 0 and (extra > room or (quota and size > quota)):
                raise errors.StorageError(doing, more)
        if prop == "refreservation":
            unique = self.own(node)[2]
            extra = max(size, unique) - max(self.value(node, "refreservation"), unique)
            refquota = self.value(node, "refquota")
            if extra > 0 and (extra > self.room(node)[0] or (refquota and size > refquota)):
                raise errors.StorageError(doing, more)

    def _resize(self, node: model.Dataset, size: int, doing: str) -> None:
        block = int(node.props.get("volblocksize", "8192"))
        if size % block:
            raise errors.StorageError(
                doing, f"'volsize' must be a multiple of volume block size ({units.nice(block)})"
            )
        if not size:
            raise errors.StorageError(doing, "'volsize' cannot be zero")
        old = self.value(node, "volsize")
        reserved = self.value(node, "refreservation")
        if reserved and reserved == self.auto_reservation(node, old):
            new = str(self.auto_reservation(node, size))
            if int(new) - reserved > self.room(node)[0]:
                raise errors.StorageError(doing, "size is greater than available space")
            node.props["refreservation"] = new
        node.props["volsize"] = str(size)
        with open(self.device(node.name), "r+b") as file:
            file.truncate(size)

    def _set_place(self, node: model.Dataset, prop: str, value: str) -> None:
        """Change what decides where a filesystem shows; the mounts follow."""
        self.replace(node, lambda: node.props.__setitem__(prop, value))

    def replace(self, node: model.Dataset, change: Callable[[], None]) -> None:
        """Let `change` move the mountpoints of a dataset and those below it."""
        self.refuse_in_use(node)
        before = {ds: self.place(ds) for ds in self.walk(node)}
        with self.moving(node):
            change()
        for ds, place in before.items():
            asked = ds is node and self.place(ds) == place
            if not ds.mounted and self.automatic(ds) and (place is None or asked):
                self.mount(ds)
        for ds, place in reversed(before.items()):
            if place is not None and place != self.place(ds):
                self.drop_empty(place)

    def inherit(
        self, name: str, prop: str, *, recursive: bool = False, received: bool = False
    ) -> None:
        """zfs inherit [-rS] prop name"""
        with self.lock:
            node = self.find(name)
            doing = f"cannot inherit {prop} for '{name}'"
            row = self._inheritable(prop, doing)
            nodes = (
                list(self.walk(node)) if recursive and isinstance(node, model.Dataset) else [node]
            )
            for one in nodes:
                self._inherit_one(one, row.name if row else prop, received=received)
        self.tell("set", name)

    def _inheritable(self, prop: str, doing: str) -> properties.Property | None:
        row = properties.find(prop)
        if row is None:
            if properties.is_user(prop):
                return None
            raise errors.StorageError(doing, "invalid property")
        if row.access in ("readonly", "once"):
            raise errors.StorageError(doing, "property cannot be inherited")
        return row

    def _inherit_one(self, node: model.Node, prop: str, *, received: bool) -> None:
        dataset = node if isinstance(node, model.Dataset) else node.dataset
        if prop in _PLACING and isinstance(node, model.Dataset):
            self.replace(node, lambda: _forget(node, prop, received=received))
            self.commit(*self.walk(node))
            return
        _forget(node, prop, received=received)
        self.touched(dataset)
        self.commit(dataset)


def _forget(node: model.Node, prop: str, *, received: bool) -> None:
    node.props.pop(prop, None)
    if not received:
        node.received.pop(prop, None)
