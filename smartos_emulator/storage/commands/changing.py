# SPDX-License-Identifier: Apache-2.0
"""The subcommands of zfs that make, change and remove datasets and snapshots."""

from smartos_emulator import call as call_module
from smartos_emulator.storage import errors, model, names, properties, units
from smartos_emulator.storage.commands import destroying, options, selecting, show, usage

_DATASETS = ("filesystem", "volume")


def create(call: call_module.Call, words: list[str]) -> int:
    """zfs create"""
    storage = call.node.storage
    given = options.parse(words, "PV:b:nso:pv", missing="missing size argument")
    props = _assigned(call, given.all("o"))
    size = _size(call, given.last("V"), "volume size")
    block = _size(call, given.last("b"), "volume block size")
    if props is None or size == -1 or block == -1:
        return 1
    if size is None and (given.has("s") or block is not None):
        raise usage.Wrong("'-s' and '-b' can only be used when creating a volume")
    kind = "filesystem" if size is None else "volume"
    if not given.operands:
        raise usage.Wrong(f"missing {kind} argument")
    options.count(given.operands, kind)
    name = given.operands[0]
    if block is not None:
        props = {**props, "volblocksize": str(block)}
    if given.has("p") and storage.exists(name) and storage.kind(name) == kind:
        return 0
    if given.has("n") or given.has("v") or given.has("P"):
        _announce(call, name, size, props, given)
        if given.has("n"):
            return 0
    storage.create(
        name,
        properties=props,
        volume_bytes=size,
        sparse=given.has("s"),
        parents=given.has("p"),
        mounted=False,
    )
    return _mount_new(call, name)


def _announce(
    call: call_module.Call,
    name: str,
    size: int | None,
    props: dict[str, str],
    given: options.Options,
) -> None:
    """What -n and -v print; also where -n refuses what create would."""
    storage = call.node.storage
    kind = "filesystem" if size is None else "volume"
    doing = f"cannot {'verify' if given.has('n') else 'create'} '{name}'"
    with storage.lock:
        if names.pool(name) not in storage.datasets:
            raise errors.StorageError(f"cannot open '{names.pool(name)}'", "no such pool")
        parsed = storage.checked(props, kind, doing)
    shown = dict(parsed)
    if size is not None:
        shown = {"volsize": str(size), **parsed}
        if not given.has("s") and parsed.get("refreservation", "auto") == "auto":
            shown["refreservation"] = str(
                units.volume_reservation(
                    size, int(parsed.get("volblocksize", "8192")), int(parsed.get("copies", "1"))
                )
            )
    if not (given.has("v") or given.has("P")):
        return
    parsable = given.has("P")
    would = "would create" if given.has("n") else "create"
    lines = [f"create\t{name}" if parsable else f"{would} {name}"]
    lines += [
        f"property\t{prop}\t{value}" if parsable else f"\t{prop}={value}"
        for prop, value in shown.items()
    ]
    call.out("\n".join(lines) + "\n")


def _size(call: call_module.Call, value: str | None, what: str) -> int | None:
    """A size; -1 after it was refused."""
    if value is None:
        return None
    try:
        return units.parse(value)
    except ValueError as error:
        call.err(f"bad {what} '{value}': {error}\n")
        return -1


def _assigned(call: call_module.Call, words: list[str]) -> dict[str, str] | None:
    try:
        return options.assignments(words)
    except ValueError as error:
        call.err(f"{error}\n")
        return None


def _mount_new(call: call_module.Call, name: str, what: str = "filesystem") -> int:
    storage = call.node.storage
    try:
        storage.mount_created(name)
    except errors.StorageError as error:
        call.err(f"{error}\n{what} successfully created, but not mounted\n")
        return 1
    return 0


def clone(call: call_module.Call, words: list[str]) -> int:
    """zfs clone"""
    storage = call.node.storage
    given = options.parse(words, "Fo:p")
    props = _assigned(call, given.all("o"))
    if props is None:
        return 1
    options.count(given.operands, "source dataset", "target dataset")
    source, name = given.operands
    selecting.open_node(storage, source, ("snapshot",))
    if given.has("p") and storage.exists(name):
        return 0
    storage.clone(source, name, properties=props, parents=given.has("p"), mounted=False)
    return _mount_new(call, name, "clone")


def destroy(call: call_module.Call, words: list[str]) -> int:
    """zfs destroy"""
    given = options.parse(words, "vpndfrR")
    if not given.operands:
        raise usage.Wrong("missing dataset argument")
    options.count(given.operands, "dataset")
    return destroying.run(call, given, given.operands[0])


def snapshot(call: call_module.Call, words: list[str]) -> int:
    """zfs snapshot"""
    storage = call.node.storage
    given = options.parse(words, "ro:")
    props = _assigned(call, given.all("o"))
    if props is None:
        return 1
    if not given.operands:
        raise usage.Wrong("missing snapshot argument")
    for name in given.operands:
        head, short = names.split(name)
        if short is None:
            raise usage.Wrong
        try:
            selecting.open_node(storage, head, _DATASETS)
        except errors.StorageError as error:
            raise usage.Wrong(str(error)) from None
    try:
        storage.snapshot_many(given.operands, recursive=given.has("r"), properties=props)
    except errors.StorageError as error:
        call.err(f"{error}\n")
        if given.has("r") or len(given.operands) > 1:
            call.err("no snapshots were created\n")
        return 1
    return 0


def rollback(call: call_module.Call, words: list[str]) -> int:
    """zfs rollback"""
    given = options.parse(words, "rRf")
    options.count(given.operands, "dataset")
    selecting.open_node(call.node.storage, given.operands[0], ("snapshot",))
    call.node.storage.rollback(
        given.operands[0], destroy_newer=given.has("r"), destroy_clones=given.has("R")
    )
    return 0


def promote(call: call_module.Call, words: list[str]) -> int:
    """zfs promote"""
    given = options.parse(words, "")
    options.count(given.operands, "clone filesystem")
    selecting.open_node(call.node.storage, given.operands[0], _DATASETS)
    call.node.storage.promote(given.operands[0])
    return 0


def rename(call: call_module.Call, words: list[str]) -> int:
    """zfs rename"""
    given = options.parse(words, "prf")
    options.count(given.operands, "source dataset", "target dataset")
    old, new = given.operands
    if given.has("r") and given.has("p"):
        raise usage.Wrong("-p and -r options are mutually exclusive")
    if given.has("r") and "@" not in old:
        raise usage.Wrong("source dataset for recursive rename must be a snapshot")
    wanted = _DATASETS if given.has("p") else selecting.ALL
    selecting.open_node(call.node.storage, old, wanted)
    call.node.storage.rename(old, new, recursive=given.has("r"), parents=given.has("p"))
    return 0


def set_(call: call_module.Call, words: list[str]) -> int:
    """zfs set"""
    if words and words[0].startswith("-"):
        raise usage.Wrong(f"invalid option '{words[0][1:2]}'")
    if not words:
        raise usage.Wrong("missing arguments")
    if len(words) < 2:
        raise usage.Wrong(
            "missing dataset name(s)" if "=" in words[0] else "missing property=value argument(s)"
        )
    first = next((index for index, word in enumerate(words) if "=" not in word), len(words))
    if any("=" in word for word in words[first:]):
        raise usage.Wrong("invalid argument order")
    if first == len(words):
        raise usage.Wrong("missing dataset name(s)")
    props = _assigned(call, words[:first])
    if props is None:
        return 255
    return _each(call, words[first:], lambda node: call.node.storage.set_many(node.name, props))


def _each(
    call: call_module.Call,
    operands: list[str],
    change: "destroying.Change",
    *,
    recursive: bool = False,
) -> int:
    storage = call.node.storage
    nodes, status = selecting.select(
        call, storage, operands, set(selecting.ALL), recursive=recursive, limit=None, paths=False
    )
    for node in nodes:
        try:
            change(node)
        except errors.StorageError as error:
            call.err(f"{error}\n")
            status = 1
    return status


def inherit(call: call_module.Call, words: list[str]) -> int:
    """zfs inherit"""
    given = options.parse(words, "rS")
    if len(given.operands) < 2:
        raise usage.Wrong(f"missing {('property', 'dataset')[len(given.operands)]} argument")
    prop, *operands = given.operands
    row = properties.find(prop)
    if row is None and not properties.is_user(prop):
        raise usage.Wrong(f"invalid property '{prop}'")
    if row is not None and (refusal := _not_inheritable(row, prop, received=given.has("S"))):
        call.err(refusal)
        return 1

    def change(node: model.Node) -> None:
        call.node.storage.inherit(node.name, prop, received=given.has("S"))

    return _each(call, operands, change, recursive=given.has("r"))


def _not_inheritable(row: properties.Property, prop: str, *, received: bool) -> str:
    if row.access in ("readonly", "once"):
        return f"{prop} property is read-only\n"
    if row.access == "inherit" or received:
        return ""
    text = f"'{prop}' property cannot be inherited\n"
    if row.name in properties.NONE_IF_ZERO:
        text += (
            f"use 'zfs set {prop}=none' to clear\n"
            f"use 'zfs inherit -S {prop}' to revert to received value\n"
        )
    return text


def hold(call: call_module.Call, words: list[str]) -> int:
    """zfs hold"""
    return _hold_or_release(call, words, release=False)


def release(call: call_module.Call, words: list[str]) -> int:
    """zfs release"""
    return _hold_or_release(call, words, release=True)


def _hold_or_release(call: call_module.Call, words: list[str], *, release: bool) -> int:
    storage = call.node.storage
    given = options.parse(words, "r" if release else "rt")
    if len(given.operands) < 2:
        raise usage.Wrong
    tag, *operands = given.operands
    if tag.startswith(".") and not release:
        raise usage.Wrong("tag may not start with '.'")
    status = 0
    change = storage.release if release else storage.hold
    for name in operands:
        try:
            if "@" not in name:
                raise errors.StorageError(f"'{name}' is not a snapshot")
            selecting.open_node(storage, names.split(name)[0], _DATASETS)
            change(tag, [name], recursive=given.has("r"))
        except errors.StorageError as error:
            call.err(f"{error}\n")
            status = 1
    return status


def holds(call: call_module.Call, words: list[str]) -> int:
    """zfs holds"""
    storage = call.node.storage
    given = options.parse(words, "rH")
    if not given.operands:
        raise usage.Wrong
    rows, status = [], 0
    for name in given.operands:
        try:
            if "@" not in name:
                raise errors.StorageError(f"'{name}' is not a snapshot")
            for snap in storage.same_snapshots(name, recursive=given.has("r")):
                rows += [
                    [snap.name, tag, show.date(set_at)]
                    for tag, set_at in sorted(snap.holds.items())
                ]
        except errors.StorageError as error:
            call.err(f"{error}\n")
            status = 1
    if given.has("H"):
        call.out("".join("\t".join(row) + "\n" for row in rows))
    else:
        wide = (
            [
                max([len(head), *(len(row[index]) for row in rows)])
                for index, head in enumerate(("NAME", "TAG"))
            ]
            if rows
            else [0, 0]
        )
        lines = [["NAME", "TAG", "TIMESTAMP"], *rows]
        call.out(
            "".join(f"{line[0]:<{wide[0]}}  {line[1]:<{wide[1]}}  {line[2]}\n" for line in lines)
        )
    if not rows:
        call.err("no datasets available\n")
    return status
