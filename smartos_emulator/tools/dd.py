# SPDX-License-Identifier: Apache-2.0
"""dd: copies between the tool's streams and files of the node's tree."""

import typing

from smartos_emulator import call as call_module
from smartos_emulator import counted

_SUFFIXES = {"k": 1 << 10, "b": 512, "m": 1 << 20, "g": 1 << 30, "w": 2}
_OPERANDS = ("if", "of", "bs", "count")


def main(call: call_module.Call) -> int:
    """dd [if=FILE] [of=FILE] [bs=N] [count=N]"""
    operands = dict(_operand(word) for word in call.argv[1:])
    size = _number(operands.get("bs", "512"))
    limit = _number(operands["count"]) if "count" in operands else None
    with _source(call, operands) as source, _target(call, operands) as target:
        try:
            whole, partial = copy(source, target, size, limit)
            target.flush()
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            raise call_module.Exit(2, f"write: {error.strerror}\n") from None
    records = f"{whole}+{partial} records"
    call.err(f"{records} in\n{records} out\n")
    return 0


def copy(
    source: typing.BinaryIO, target: typing.BinaryIO, size: int, limit: int | None
) -> tuple[int, int]:
    """Copy `limit` blocks of `size` bytes, or all; how many were whole and how many partial."""
    whole = partial = 0
    while limit is None or whole + partial < limit:
        block = source.read(size)
        if not block:
            break
        target.write(block)
        whole, partial = whole + (len(block) == size), partial + (len(block) < size)
    return whole, partial


def _operand(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or name not in _OPERANDS:
        raise call_module.Exit(2, f'dd: bad argument: "{word}"\n')
    return name, value


def _number(text: str) -> int:
    factor = _SUFFIXES.get(text[-1:].lower(), 1)
    digits = text[:-1] if factor > 1 else text
    if not digits.isdigit():
        raise call_module.Exit(2, f'dd: bad numeric argument: "{text}"\n')
    return int(digits) * factor


def _source(call: call_module.Call, operands: dict[str, str]) -> typing.Any:
    return _open(call, operands["if"]) if "if" in operands else _Kept(call.stdin)


def _target(call: call_module.Call, operands: dict[str, str]) -> typing.Any:
    if "of" not in operands:
        return _Kept(call.stdout)
    path = call.host_path(operands["of"])
    dataset = call.node.storage.dataset_at(path)
    # A volume keeps its size, and what is not written over.
    mode = "r+b" if operands["of"].startswith("/dev/zvol/") else "wb"
    try:
        return (
            open(path, mode) if dataset is None else counted.File(call.node.storage, dataset, path)
        )
    except OSError as error:
        raise _unopened(operands["of"], error) from None


def _open(call: call_module.Call, path: str) -> typing.Any:
    try:
        return call.open_path(path)
    except OSError as error:
        raise _unopened(path, error) from None


def _unopened(path: str, error: OSError) -> call_module.Exit:
    return call_module.Exit(2, f"dd: {path}: open: {error.strerror}\n")


class _Kept:
    """A stream that stays open when its block ends."""

    def __init__(self, stream: typing.BinaryIO) -> None:
        self._stream = stream

    def __enter__(self) -> typing.BinaryIO:
        return self._stream

    def __exit__(self, *_: object) -> None:
        pass
