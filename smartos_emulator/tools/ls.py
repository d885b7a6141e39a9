# SPDX-License-Identifier: Apache-2.0
"""ls: the names in a folder of the node's tree, or what the files are that are named."""

import os
import stat

from smartos_emulator import call as call_module
from smartos_emulator import zoneroot


def main(call: call_module.Call) -> int:
    """ls -1 FOLDER | ls -ldn FILE…"""
    words = call.argv[1:]
    if words[:1] == ["-ldn"] and words[1:]:
        return max([_describe(call, path) for path in sorted(words[1:])])
    if len(words) != 2 or words[0] != "-1":
        raise call_module.Exit(2, "emulated ls: ls -1 FOLDER | ls -ldn FILE ...\n")
    try:
        names = [each.name for each in call.host_path(words[1]).iterdir()]
    except NotADirectoryError:
        names = [words[1]]
    except OSError as error:
        raise call_module.Exit(2, f"{words[1]}: {error.strerror}\n") from None
    call.out("".join(f"{name}\n" for name in sorted(names) if not name.startswith(".")))
    return 0


def _describe(call: call_module.Call, path: str) -> int:
    """One file, not what it leads to."""
    try:
        # the links on the way are the node's, not this machine's
        host = zoneroot.Root(call.node.root).host(os.path.join(call.cwd, path), follow=False)
        status = os.lstat(host)
    except OSError as error:
        call.err(f"{path}: {error.strerror}\n")
        return 2
    mode, owner = stat.filemode(status.st_mode), f"{status.st_uid:<8d} {status.st_gid:<8d}"
    target = f" -> {os.readlink(host)}" if stat.S_ISLNK(status.st_mode) else ""
    call.out(
        f"{mode} {status.st_nlink:3d} {owner} {status.st_size:7d} Jan  1 00:00 {path}{target}\n"
    )
    return 0
