# SPDX-License-Identifier: Apache-2.0
"""gtar: unpacks an archive from standard input into a folder of the node's tree."""

import getopt
import os
import shutil
import tarfile

from smartos_emulator import call as call_module

_FAILED = "gtar: Exiting with failure status due to previous errors\n"
_FATAL = "gtar: Error is not recoverable: exiting now\n"


def main(call: call_module.Call) -> int:
    """gtar -x [-p] [--numeric-owner] [--recursive-unlink] -f - -C FOLDER"""
    known = ["numeric-owner", "recursive-unlink"]
    try:
        options, words = getopt.gnu_getopt(call.argv[1:], "xpf:C:", known)
    except getopt.GetoptError as error:
        raise call_module.Exit(2, f"gtar: {error}\n") from None
    given = dict(options)
    if "-x" not in given or given.get("-f") != "-" or "-C" not in given or words:
        raise call_module.Exit(2, "gtar: only -x -f - -C FOLDER is emulated\n")
    path = given["-C"]
    folder = call.host_path(path)
    if not folder.is_dir():
        text = f"gtar: {path}: Cannot open: No such file or directory\n{_FATAL}"
        raise call_module.Exit(2, text)
    dataset = call.node.storage.dataset_at(folder)
    try:
        with tarfile.open(fileobj=call.stdin, mode="r|") as archive:
            for member in archive:
                if dataset is not None:
                    call.node.storage.check(dataset, member.size)
                if member.isdir() and "--recursive-unlink" in given:
                    shutil.rmtree(folder / member.name, ignore_errors=True)
                if member.islnk() and not os.path.lexists(folder / member.linkname):
                    raise _LinkError(member)
                numeric = "--numeric-owner" in given
                archive.extract(member, folder, numeric_owner=numeric, filter=_as_it_is)
    except _LinkError as error:
        raise call_module.Exit(2, f"gtar: {error}\n{_FAILED}") from None
    except tarfile.FilterError as error:
        # the real one would follow, or strip and say so: nobody here is to depend on either
        raise call_module.Exit(2, f"gtar: {error.tarinfo.name}: not emulated: {error}\n") from None
    except tarfile.TarError:
        text = f"gtar: Unexpected EOF in archive\n{_FATAL}"
        raise call_module.Exit(2, text) from None
    except OSError as error:
        raise call_module.Exit(2, f"gtar: {path}: Cannot write: {error.strerror}\n") from None
    finally:
        if dataset is not None:
            call.node.storage.charge(dataset)
    return 0


class _LinkError(Exception):
    """A link to what is not there."""

    def __init__(self, member: tarfile.TarInfo) -> None:
        reason = "No such file or directory"
        super().__init__(f"{member.name}: Cannot hard link to `{member.linkname}': {reason}")


def _as_it_is(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """With all of its mode, as root has it with -p and without; nothing leads out to the host."""
    tarfile.tar_filter(member, folder)
    return member
