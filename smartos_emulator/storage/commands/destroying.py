# SPDX-License-Identifier: Apache-2.0
"""zfs destroy: lists and ranges of snapshots, dry runs, and what is said about them."""

from collections.abc import Callable, Iterator

from smartos_emulator import call as call_module
from smartos_emulator.storage import errors, model, names, units
from smartos_emulator.storage.commands import options, selecting

Change = Callable[[model.Node], None]


def run(call: call_module.Call, given: options.Options, name: str) -> int:
    if "#" in name:
        call.err(f"bookmark '{name}' does not exist.\n")
        return 1
    if "@" in name:
        return _snapshots(call, given, name)
    return _dataset(call, given, name)


def _dataset(call: call_module.Call, given: options.Options, name: str) -> int:
    storage = call.node.storage
    wanted = ("snapshot",) if given.has("d") else ("filesystem", "volume")
    selecting.open_node(storage, name, wanted)
    flags = {"recursive": given.has("r") or given.has("R"), "dependents": given.has("R")}
    with storage.lock:
        plan = storage.destroy_plan(name, **flags)
        _say(call, given, [node.name for node in plan])
    if not given.has("n"):
        storage.destroy(name, **flags)
    return 0


def _say(call: call_module.Call, given: options.Options, gone: list[str]) -> None:
    if not (given.has("v") or given.has("p")):
        return
    word = "would destroy" if given.has("n") else "will destroy"
    call.out(
        "".join(f"destroy\t{name}\n" if given.has("p") else f"{word} {name}\n" for name in gone)
    )


def _snapshots(call: call_module.Call, given: options.Options, name: str) -> int:
    storage = call.node.storage
    head, spec = names.split(name)
    selecting.open_node(storage, head, ("filesystem", "volume"))
    recursive = given.has("r") or given.has("R")
    with storage.lock:
        top = storage.datasets[head]
        tops = list(storage.walk(top)) if recursive else [top]
        found = [snap for ds in tops for snap in _matching(ds, spec or "")]
        if not found:
            call.err("could not find any snapshots to destroy; check snapshot names.\n")
            return 1
        plans = [
            storage.destroy_plan(
                snap.name, recursive=False, dependents=given.has("R"), defer=given.has("d")
            )
            for snap in found
        ]
        if given.has("v") or given.has("p"):
            _say(call, given, [node.name for plan in plans for node in plan])
            _say_space(call, given, sum(storage.snapshot_used(snap) for snap in found))
    if given.has("n"):
        return 0
    return _destroy_each(call, given, [snap.name for snap in found])


def _say_space(call: call_module.Call, given: options.Options, size: int) -> None:
    if given.has("p"):
        call.out(f"reclaim\t{size}\n")
    else:
        word = "would" if given.has("n") else "will"
        call.out(f"{word} reclaim {units.nice(size)}\n")


def _destroy_each(call: call_module.Call, given: options.Options, found: list[str]) -> int:
    storage = call.node.storage
    status = 0
    for name in found:
        if not storage.exists(name):
            continue
        try:
            storage.destroy(name, dependents=given.has("R"), defer=given.has("d"))
        except errors.StorageError as error:
            call.err(f"{error}\n")
            status = 1
    return status


def _matching(dataset: model.Dataset, spec: str) -> Iterator[model.Snapshot]:
    """a,b,c%d: names and ranges, either end of which may be open."""
    line = list(dataset.snapshots.values())
    for word in spec.split(","):
        first, percent, last = word.partition("%")
        if not percent:
            yield from (snap for snap in line if snap.short == word)
            continue
        shorts = [snap.short for snap in line]
        if (first and first not in shorts) or (last and last not in shorts):
            continue
        start = shorts.index(first) if first else 0
        end = shorts.index(last) if last else len(line) - 1
        yield from line[start : end + 1]
