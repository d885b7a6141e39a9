# SPDX-License-Identifier: Apache-2.0
"""rm: removes files and folders of the node's tree."""

import pathlib
import shutil

from smartos_emulator import call as call_module

_USAGE = "usage: rm [-fiRr] file ...\n"


def main(call: call_module.Call) -> int:
    """rm [-frR] FILE…"""
    words = call.argv[1:]
    flags: set[str] = set()
    while words and words[0].startswith("-") and words[0] != "--":
        flags |= set(words.pop(0)[1:])
    paths = words[1:] if words[:1] == ["--"] else words
    if not paths or not flags <= set("frR"):
        raise call_module.Exit(2, _USAGE)
    return max(_remove(call, path, flags) for path in paths)


def _remove(call: call_module.Call, path: str, flags: set[str]) -> int:
    host = call.host_path(path)
    try:
        if host.is_dir() and not host.is_symlink():
            return _remove_folder(call, path, host, flags)
        host.unlink(missing_ok="f" in flags)
    except OSError as error:
        call.err(f"{path}: {error.strerror}\n")
        return 2
    _charge(call, host)
    return 0


def _remove_folder(call: call_module.Call, path: str, host: pathlib.Path, flags: set[str]) -> int:
    if not flags & {"r", "R"}:
        call.err(f"rm: {path} is a directory\n")
        return 2
    places = call.node.storage.mount_folders()
    if any(f"{place}/".startswith(f"{host}/") for place in places):
        call.err(f"rm: Unable to remove directory {path}: Device busy\n")
        return 2
    shutil.rmtree(host)
    _charge(call, host)
    return 0


def _charge(call: call_module.Call, host: pathlib.Path) -> None:
    if (dataset := call.node.storage.dataset_at(host)) is not None:
        call.node.storage.charge(dataset)
