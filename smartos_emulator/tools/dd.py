# SPDX-License-Identifier: Apache-2.0
"""dd: copies between the tool's streams and files of the node's tree."""

import contextlib
import typing

from smartos_emulator import blocks, counted
from smartos_emulator import call as call_module


def main(call: call_module.Call) -> int:
    """dd [if=FILE] [of=FILE] [bs=N | ibs=N obs=N] [count=N] [seek=N]"""
    try:
        operands = blocks.Operands.parse(call.argv[1:])
    except ValueError as error:
        raise call_module.Exit(2, f"dd: {error}\n") from None
    try:
        with contextlib.ExitStack() as stack:
            source, target = call.stdin, call.stdout
            if operands.source is not None:
                source = stack.enter_context(_opened(call, operands.source, "rb"))
            if operands.target is not None:
                target = stack.enter_context(_target(call, operands.target, operands.offset))
            said = operands.copy(source, target)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise call_module.Exit(2, f"write: {error.strerror}\n") from None
    call.err(said)
    return 0


def _target(call: call_module.Call, path: str, offset: int) -> typing.Any:
    # A volume keeps its size, and what is not written over.
    volume = path.startswith("/dev/zvol/")
    if offset and not volume:
        raise call_module.Exit(2, "dd: seek= is emulated for volumes only\n")
    file = _opened(call, path, "r+b" if volume else "wb")
    file.seek(offset)
    dataset = call.node.storage.dataset_at(call.host_path(path))
    return file if dataset is None else counted.File(call.node.storage, dataset, file)


def _opened(call: call_module.Call, path: str, mode: str) -> typing.Any:
    try:
        return call.open_path(path, mode)
    except OSError as error:
        raise call_module.Exit(2, f"dd: {path}: open: {error.strerror}\n") from None
