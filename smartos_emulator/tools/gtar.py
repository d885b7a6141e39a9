# SPDX-License-Identifier: Apache-2.0
"""gtar: unpacks an archive from standard input into a folder of the node's tree."""

import getopt
import shutil
import tarfile

from smartos_emulator import call as call_module

_FATAL = "gtar: Error is not recoverable: exiting now\n"


def main(call: call_module.Call) -> int:
    """gtar -x [--recursive-unlink] -f - -C FOLDER"""
    try:
        options, words = getopt.gnu_getopt(call.argv[1:], "xf:C:", ["recursive-unlink"])
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
                archive.extract(member, folder, filter="tar")
    except tarfile.TarError:
        text = f"gtar: Unexpected EOF in archive\n{_FATAL}"
        raise call_module.Exit(2, text) from None
    except OSError as error:
        raise call_module.Exit(2, f"gtar: {path}: Cannot write: {error.strerror}\n") from None
    finally:
        if dataset is not None:
            call.node.storage.charge(dataset)
    return 0
