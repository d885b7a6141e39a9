# SPDX-License-Identifier: Apache-2.0
"""A node that has nothing but storage, and a way to run its zfs and zpool."""

import dataclasses
import io
import pathlib
import types
import typing

from smartos_emulator import call as call_module
from smartos_emulator import clock, storage
from smartos_emulator.tools import zfs, zpool

_TOOLS = {"zfs": zfs.main, "zpool": zpool.main}
GIB = 1 << 30


class _Kept(io.BytesIO):
    """Output that can still be read after the tool has closed it."""

    def close(self) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str
    raw: bytes


def make(directory: pathlib.Path, **options: typing.Any) -> storage.Storage:
    return storage.Storage(directory, **{"memory_mib": 1024, **options})


def run(pool: storage.Storage, *argv: str, stdin: bytes = b"") -> Result:
    """Run a tool as the daemon does."""
    out, err = _Kept(), _Kept()
    node = typing.cast(typing.Any, types.SimpleNamespace(storage=pool, clock=clock.Clock(1.0)))
    call = call_module.Call(list(argv), node, {}, "/", io.BytesIO(stdin), out, err)
    status = call.serve(_TOOLS[argv[0]])
    raw = out.getvalue()
    return Result(status, raw.decode(errors="replace"), err.getvalue().decode(), raw)


def sent(pool: storage.Storage, name: str, **options: typing.Any) -> bytes:
    stream = io.BytesIO()
    pool.send(name, stream, **options)
    return stream.getvalue()


def listing(folder: pathlib.Path) -> dict[str, tuple[int, bytes]]:
    """Every file below with its mode and bytes."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
