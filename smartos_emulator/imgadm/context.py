# SPDX-License-Identifier: Apache-2.0
"""One run of imgadm: what its subcommands share."""

import dataclasses
import datetime
import pathlib
from typing import TYPE_CHECKING, Any

from smartos_emulator import call as call_module
from smartos_emulator import js
from smartos_emulator.imgadm import database, errors, install, options, upgrade

if TYPE_CHECKING:
    from smartos_emulator import node as node_module

DEFAULT_POOL = "zones"


@dataclasses.dataclass
class Run:
    """A run: its streams, and the configuration it found."""

    call: call_module.Call
    config: dict[str, Any]
    request: str = ""

    @property
    def node(self) -> "node_module.Node":
        return self.call.node

    def log(self, line: str) -> None:
        """Print a line on stdout."""
        self.call.out(f"{line}\n")

    def warn(self, line: str) -> None:
        """Print a line on stderr."""
        self.call.err(f"{line}\n")

    def save_config(self) -> None:
        database.Config(self.node).save(self.config)

    def installer(self, pool: str) -> install.Installer:
        return install.Installer(self.node, pool, self.log, self.warn)


def only_argument(parsed: options.Parsed) -> str:
    """The single argument of a subcommand that takes one."""
    count = len(parsed.arguments)
    if count != 1:
        shown = " ".join(parsed.arguments)
        raise errors.usage(f'incorrect number of args ({count}): "{shown}"')
    return parsed.arguments[0]


def check_uuid(value: Any) -> None:
    """Refuse what is no UUID in lower case."""
    if not upgrade.is_uuid(value):
        raise errors.ImgadmError("InvalidUUID", f'invalid uuid: "{js.text(value)}"')


def require_string(value: Any, name: str) -> str:
    """An option that must have been given."""
    if value is None:
        raise errors.assertion(f"{name} (string) is required")
    return str(value)


def pool_of(parsed: options.Parsed) -> str:
    return parsed.P or DEFAULT_POOL


def image_files(run: Run, parsed: options.Parsed) -> tuple[Any, pathlib.Path]:
    """The manifest and the file that -m and -f name."""
    manifest_path = require_string(parsed.m, "-m <manifest>")
    file_path = require_string(parsed.f, "-f <file>")
    for name, path in (("manifest", manifest_path), ("file", file_path)):
        if path == "-" or not run.call.host_path(path).exists():
            raise errors.usage(f'{name} path does not exist: "{path}"')
    try:
        document = js.loads(read_text(run.call.host_path(manifest_path)))
    except js.JavaScriptError as error:
        raise errors.invalid_manifest(str(error)) from None
    except OSError as error:
        raise errors.invalid_manifest(os_error_text(error)) from None
    return document, run.call.host_path(file_path)


def iso_time(when: datetime.datetime) -> str:
    """A time in UTC as JavaScript writes it."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"


def read_text(path: pathlib.Path) -> str:
    return path.read_text("utf-8", "replace")


def os_error_text(error: OSError) -> str:
    """A failed system call as node names it, without a path."""
    name, text = _SYSTEM_ERRORS.get(error.errno or 0, ("UNKNOWN", "unknown error"))
    return f"{name}, {text}"


_SYSTEM_ERRORS = {
    2: ("ENOENT", "no such file or directory"),
    13: ("EACCES", "permission denied"),
    20: ("ENOTDIR", "not a directory"),
    21: ("EISDIR", "illegal operation on a directory"),
    28: ("ENOSPC", "no space left on device"),
}
