# SPDX-License-Identifier: Apache-2.0
"""The guests' programs that read and write files."""

import contextlib
import os
import pathlib
import stat
import typing

from smartos_emulator import blocks
from smartos_emulator.guest import process as process_module


def _cat(process: process_module.Process) -> int:
    _, paths = process_module.split_words(process, "u")
    for path in paths or ["-"]:
        if path == "-":
            process_module.copy(process.stdin, process.stdout)
        else:
            with process.root.host(path).open("rb") as file:
                process_module.copy(file, process.stdout)
    return 0


def _tee(process: process_module.Process) -> int:
    flags, paths = process_module.split_words(process, "a")
    with contextlib.ExitStack() as stack:
        mode = "ab" if "a" in flags else "wb"
        files = [stack.enter_context(process_module.create(process, path, mode)) for path in paths]
        process_module.copy(process.stdin, process.stdout, *files)
    return 0


def _dd(process: process_module.Process) -> int:
    try:
        operands = blocks.Operands.parse(process.argv[1:])
    except ValueError as error:
        raise process_module.Failed(str(error), 2) from None
    if operands.offset:
        raise process_module.Failed("seek= is not emulated", 2)
    with contextlib.ExitStack() as stack:
        source, target = process.stdin, process.stdout
        if operands.source is not None:
            source = stack.enter_context(process_module.source(process, operands.source))
        if operands.target is not None:
            target = stack.enter_context(process_module.create(process, operands.target))
        said = operands.copy(source, target)
    process_module.complain(process, said.rstrip("\n"))
    return 0


def _ls(process: process_module.Process) -> int:
    flags, paths = process_module.split_words(process, "la1Ad")
    for path in paths or ["/"]:
        host = process.root.host(path)
        status = host.lstat()
        if stat.S_ISDIR(status.st_mode) and "d" not in flags:
            names = sorted(os.listdir(host))
            shown = [name for name in names if flags & {"a", "A"} or not name.startswith(".")]
            entries = [(name, host / name) for name in shown]
        else:
            entries = [(path, host)]
        for name, where in entries:
            process.out(_long(where, name) if "l" in flags else f"{name}\n")
    return 0


def _long(path: pathlib.Path, name: str) -> str:
    status = path.lstat()
    link = f" -> {os.readlink(path)}" if path.is_symlink() else ""
    mode = stat.filemode(status.st_mode)
    return f"{mode} {status.st_nlink:3} root     root     {status.st_size:7} {name}{link}\n"


def _rm(process: process_module.Process) -> int:
    flags, paths = process_module.split_words(process, "rRf")
    for path in paths:
        host = process.root.host(path, follow=False, write=True)
        if not os.path.lexists(host):
            if "f" not in flags:
                raise process_module.Failed(f"{path}: No such file or directory", 2)
        elif host.is_dir() and not host.is_symlink():
            if not flags & {"r", "R"}:
                raise process_module.Failed(f"{path} is a directory", 2)
            _remove_tree(host)
        else:
            host.unlink()
    process.charge()
    return 0


def _remove_tree(path: pathlib.Path) -> None:
    for below, folders, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(os.path.join(below, name))
        for name in folders:
            where = os.path.join(below, name)
            (os.unlink if os.path.islink(where) else os.rmdir)(where)
    path.rmdir()


def _mkdir(process: process_module.Process) -> int:
    flags, paths = process_module.split_words(process, "p")
    for path in paths:
        host = process.root.host(path, write=True)
        host.mkdir(parents="p" in flags, exist_ok="p" in flags)
    process.charge()
    return 0


def _touch(process: process_module.Process) -> int:
    _, paths = process_module.split_words(process, "")
    for path in paths:
        process.root.host(path, write=True).touch()
    process.charge()
    return 0


def _mv(process: process_module.Process) -> int:
    _, paths = process_module.split_words(process, "f")
    if len(paths) != 2:
        raise process_module.Failed("Insufficient arguments (1)", 2)
    source = process.root.host(paths[0], follow=False, write=True)
    target = process.root.host(paths[1], write=True)
    if target.is_dir():
        target = target / source.name
    os.replace(source, target)
    return 0


PROGRAMS: dict[str, typing.Callable[[process_module.Process], int]] = {
    "cat": _cat,
    "dd": _dd,
    "ls": _ls,
    "mkdir": _mkdir,
    "mv": _mv,
    "rm": _rm,
    "tee": _tee,
    "touch": _touch,
}
