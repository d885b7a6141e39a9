# SPDX-License-Identifier: Apache-2.0
"""rm: removes files of the node's tree."""

from smartos_emulator import call as call_module


def main(call: call_module.Call) -> int:
    """rm [-f] FILE…"""
    words = call.argv[1:]
    force = words[:1] == ["-f"]
    paths = [word for word in words[force:] if word != "--"]
    if not paths or any(path.startswith("-") for path in paths):
        raise call_module.Exit(2, "usage: rm [-fiRr] file ...\n")
    return max(_remove(call, path, force) for path in paths)


def _remove(call: call_module.Call, path: str, force: bool) -> int:
    try:
        call.host_path(path).unlink(missing_ok=force)
    except OSError as error:
        call.err(f"{path}: {error.strerror}\n")
        return 2
    return 0
