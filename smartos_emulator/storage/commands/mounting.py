# SPDX-License-Identifier: Apache-2.0
"""zfs mount, unmount, share and unshare."""

from smartos_emulator import call as call_module
from smartos_emulator.storage import backend, errors, model
from smartos_emulator.storage.commands import options, selecting, usage


def mount(call: call_module.Call, words: list[str]) -> int:
    """zfs mount"""
    given = options.parse(words, "alvo:O")
    storage = call.node.storage
    if given.last("o") == "":
        raise usage.Wrong("empty mount options (-o) specified")
    if given.has("a"):
        if given.operands:
            raise usage.Wrong("too many arguments")
        return _mount_all(storage)
    if not given.operands:
        if given.has("o"):
            raise usage.Wrong("missing filesystem argument (specify -a for all)")
        _show(call, storage)
        return 0
    if len(given.operands) > 1:
        raise usage.Wrong("too many arguments")
    with storage.lock:
        node = selecting.open_node(storage, given.operands[0], ("filesystem",))
        assert isinstance(node, model.Dataset)
        _refuse(storage, node, "mount")
        if node.mounted:
            raise errors.StorageError(f"cannot mount '{node.name}'", "filesystem already mounted")
        storage.mount(node)
        storage.commit(node)
    return 0


def _mount_all(storage: backend.Storage) -> int:
    with storage.lock:
        for name in sorted(storage.datasets):
            node = storage.datasets[name]
            if storage.automatic(node) and not node.mounted:
                storage.mount(node)
                storage.commit(node)
    return 0


def _show(call: call_module.Call, storage: backend.Storage) -> None:
    with storage.lock:
        shown = [
            (node.name, f"/{place[len(str(storage.root)) :].lstrip('/')}")
            for place, node in storage.mounted_at().items()
        ]
    call.out("".join(f"{name:<30}  {place}\n" for name, place in sorted(shown)))


def _refuse(storage: backend.Storage, node: model.Dataset, word: str) -> None:
    doing = f"cannot {word} '{node.name}'"
    point = storage.mountpoint(node)
    if storage.inherited(node, "zoned") == "on":
        raise errors.StorageError(doing, "dataset is exported to a local zone")
    if point == "legacy":
        raise errors.StorageError(
            doing, f"legacy mountpoint\nuse {word}(1M) to {word} this filesystem"
        )
    if point == "none":
        raise errors.StorageError(doing, "no mountpoint set")
    if storage.get(node.name, "canmount") == "off":
        raise errors.StorageError(doing, "'canmount' property is set to 'off'")
    if node.inconsistent and node.partial:
        raise errors.StorageError(
            doing,
            'Contains partially-completed state from "zfs receive '
            '-s", which can be resumed with "zfs send -t"',
        )


def unmount(call: call_module.Call, words: list[str]) -> int:
    """zfs unmount"""
    given = options.parse(words, "af")
    storage = call.node.storage
    if given.has("a"):
        if given.operands:
            raise usage.Wrong("too many arguments")
        raise errors.StorageError(
            "zfs unmount -a", "not emulated: the node lives on what is mounted"
        )
    if len(given.operands) != 1:
        raise usage.Wrong("too many arguments" if given.operands else "missing filesystem argument")
    name = given.operands[0]
    with storage.lock:
        node = selecting.open_node(storage, name, ("filesystem",), paths=True)
        assert isinstance(node, model.Dataset)
        doing = f"cannot unmount '{name}'"
        if storage.mountpoint(node) == "legacy":
            raise errors.StorageError(
                doing, "legacy mountpoint\nuse umount(1M) to unmount this filesystem"
            )
        if not node.mounted:
            raise errors.StorageError(doing, "not currently mounted")
        storage.refuse_in_use(node)
        affected = storage.unmount(node)
        storage.commit(*affected)
    return 0


def share(call: call_module.Call, words: list[str]) -> int:
    """zfs share"""
    return _share(call, words, "share")


def unshare(call: call_module.Call, words: list[str]) -> int:
    """zfs unshare"""
    return _share(call, words, "unshare")


def _share(call: call_module.Call, words: list[str], word: str) -> int:
    """Nothing is ever shared on a node, so sharing everything has nothing to do."""
    given = options.parse(words, "al")
    if given.has("a"):
        return 0
    if not given.operands:
        raise usage.Wrong("missing filesystem argument (specify -a for all)")
    node = selecting.open_node(call.node.storage, given.operands[0], ("filesystem",))
    hint = " or set sharenfs property on" if word == "share" else ""
    text = f"use {word}(1M) to {word} this filesystem" + ("," + hint if hint else "")
    raise errors.StorageError(f"cannot {word} '{node.name}'", f"legacy share\n{text}")
