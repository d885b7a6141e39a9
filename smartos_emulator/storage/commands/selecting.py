# SPDX-License-Identifier: Apache-2.0
"""Which datasets a list or get is about, and in which order."""

import functools
from collections.abc import Collection, Iterator, Sequence

from smartos_emulator import call as call_module
from smartos_emulator.storage import backend, errors, model, names, properties
from smartos_emulator.storage.commands import usage

ALL = ("filesystem", "volume", "snapshot")
_WORDS = {
    "filesystem": {"filesystem"},
    "volume": {"volume"},
    "snapshot": {"snapshot"},
    "bookmark": set(),
    "all": set(ALL),
}


def kinds(text: str, *, short: bool) -> set[str]:
    """The argument of -t."""
    found: set[str] = set()
    for word in text.split(","):
        name = "snapshot" if word == "snap" and short else word
        if name not in _WORDS:
            raise usage.Wrong(f"invalid type '{word}'")
        found |= _WORDS[name]
    return found


def depth(text: str) -> int:
    """The argument of -d."""
    try:
        number = int(text, 0)
    except ValueError:
        raise usage.Wrong(f"{text} is not an integer") from None
    if number < 0:
        raise usage.Wrong("Depth can not be negative.")
    return number


def open_node(
    storage: backend.Storage, name: str, wanted: Collection[str], *, paths: bool = False
) -> model.Node:
    """The dataset of this name, refused as zfs refuses one of the wrong kind."""
    doing = f"cannot open '{name}'"
    if paths and name.startswith(("/", "./")):
        return _by_path(storage, name)
    if "@" in name and "snapshot" not in wanted:
        raise errors.StorageError(doing, "snapshot delimiter '@' is not expected here")
    if "@" not in name and set(wanted) == {"snapshot"}:
        raise errors.StorageError(doing, "missing '@' delimiter in snapshot name")
    if (why := names.fault(name, snapshot=None)) and "%" not in name:
        raise errors.StorageError(doing, why)
    node = storage.find(name)
    if node.kind not in wanted:
        raise errors.StorageError(doing, "operation not applicable to datasets of this type")
    return node


def _by_path(storage: backend.Storage, path: str) -> model.Node:
    place = str(storage.root / path.lstrip("/"))
    shown = storage.mounted_at()
    while len(place) >= len(str(storage.root)):
        if place in shown:
            return shown[place]
        place = place.rpartition("/")[0]
    raise errors.StorageError(f"cannot open '{path}'", "No such file or directory")


def select(
    call: call_module.Call,
    storage: backend.Storage,
    operands: Sequence[str],
    wanted: set[str],
    *,
    recursive: bool,
    limit: int | None,
    paths: bool,
) -> tuple[list[model.Node], int]:
    """(nodes in order, exit code); what cannot be opened is reported and left out."""
    found: dict[model.Node, None] = {}
    status = 0
    if not operands:
        tops: list[model.Node] = [storage.datasets[pool] for pool in storage.pools()]
        recursive = True
    else:
        tops = []
        accepted = set(wanted)
        if recursive:
            accepted |= {"filesystem"} | ({"volume"} if "snapshot" in wanted else set())
        for name in operands:
            try:
                tops.append(open_node(storage, name, accepted, paths=paths))
            except errors.StorageError as error:
                call.err(f"{error}\n")
                status = 1
    for top in tops:
        found.update(dict.fromkeys(_below(storage, top, wanted, recursive, limit)))
    return sorted(found, key=model.natural), status


def _below(
    storage: backend.Storage, top: model.Node, wanted: set[str], recursive: bool, limit: int | None
) -> Iterator[model.Node]:
    if isinstance(top, model.Snapshot) or not recursive:
        if top.kind in wanted:
            yield top
        return
    levels = top.name.count("/")
    for node in storage.walk(top):
        level = node.name.count("/") - levels
        if limit is not None and level > limit:
            continue
        if node.kind in wanted:
            yield node
        if "snapshot" in wanted and (limit is None or level < limit):
            yield from node.snapshots.values()


def ordered(
    storage: backend.Storage, nodes: list[model.Node], keys: list[tuple[str, bool]]
) -> list[model.Node]:
    """By -s and -S, equal ones in natural order."""

    def compare(one: model.Node, other: model.Node) -> int:
        for prop, reverse in keys:
            result = _compare(storage, one, other, prop)
            if result:
                return -result if reverse else result
        return 0

    return sorted(nodes, key=functools.cmp_to_key(compare)) if keys else nodes


def _compare(storage: backend.Storage, one: model.Node, other: model.Node, prop: str) -> int:
    if prop == "name":
        left, right = model.natural(one), model.natural(other)
        return (left > right) - (left < right)
    mine, theirs = (storage.answer_for(node, prop)[0] for node in (one, other))
    if "-" in (mine, theirs):
        return (mine == "-") - (theirs == "-")
    if prop in properties.SIZES or prop in properties.COUNTS:
        return (int(mine) > int(theirs)) - (int(mine) < int(theirs))
    return (mine > theirs) - (mine < theirs)


def property_list(text: str, *, pool: bool = False) -> list[str]:
    """Full names of a comma-separated list; StorageError for one that does not exist."""
    doing = "bad property list"
    if not text:
        raise errors.StorageError(doing, "no properties specified")
    found: list[str] = []
    for word in text.split(","):
        if not word:
            raise errors.StorageError(doing, "empty property name")
        if word == "space":
            found += [
                "name",
                "available",
                "used",
                "usedbysnapshots",
                "usedbydataset",
                "usedbyrefreservation",
                "usedbychildren",
            ]
            continue
        row = properties.find(word)
        if row is not None:
            found.append(row.name)
        elif (
            properties.is_user(word)
            or properties.is_space_at(word)
            or properties.is_user_space(word)
        ):
            found.append(word)
        else:
            raise errors.StorageError(doing, f"invalid property '{word}'")
    return found
