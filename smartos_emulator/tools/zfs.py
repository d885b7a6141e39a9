# SPDX-License-Identifier: Apache-2.0
"""zfs(8): datasets, snapshots, properties and streams of the node's pools."""

from collections.abc import Callable

from smartos_emulator import call as call_module
from smartos_emulator.storage import errors
from smartos_emulator.storage.commands import changing, listing, mounting, streaming, usage

_COMMANDS: dict[str, Callable[[call_module.Call, list[str]], int]] = {
    "clone": changing.clone,
    "create": changing.create,
    "destroy": changing.destroy,
    "get": listing.zfs_get,
    "hold": changing.hold,
    "holds": changing.holds,
    "inherit": changing.inherit,
    "list": listing.zfs_list,
    "mount": mounting.mount,
    "promote": changing.promote,
    "receive": streaming.receive,
    "release": changing.release,
    "rename": changing.rename,
    "rollback": changing.rollback,
    "send": streaming.send,
    "set": changing.set_,
    "share": mounting.share,
    "snapshot": changing.snapshot,
    "unmount": mounting.unmount,
    "unshare": mounting.unshare,
}
_ALIASES = {"umount": "unmount", "recv": "receive", "snap": "snapshot"}


def main(call: call_module.Call) -> int:
    """Run one zfs command; the exit status."""
    words = call.argv[1:]
    if not words:
        call.err("missing command\n" + usage.whole())
        return 2
    command = _ALIASES.get(words[0], words[0])
    if command in ("-?", "--help"):
        call.out(usage.whole())
        return 0
    if command not in usage.names() and "=" in command:
        command, words = "set", ["set", *words]
    if command not in usage.names():
        call.err(f"unrecognized command '{words[0]}'\n" + usage.whole())
        return 2
    if command not in _COMMANDS:
        call.err(f"zfs {command}: not emulated\n")
        return 1
    return _run(call, command, words[1:])


def _run(call: call_module.Call, command: str, words: list[str]) -> int:
    try:
        return _COMMANDS[command](call, words)
    except usage.Wrong as wrong:
        call.err(wrong.reason + usage.of(command))
        return 2
    except errors.StorageError as error:
        call.err(f"{error}\n")
        return 1
