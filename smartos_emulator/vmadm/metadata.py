# SPDX-License-Identifier: Apache-2.0
"""The files in a zone path's config directory: metadata, tags and routes."""

import json
import pathlib
import shutil
import typing

from smartos_emulator import zoneroot
from smartos_emulator.vmadm import record

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

Vm = dict[str, typing.Any]

_FILES = ("tags", "metadata", "routes")


def make_directory(folder: pathlib.Path) -> None:
    """An empty config directory: one that came with the image is thrown away."""
    config = folder / "config"
    if config.is_symlink() or config.is_file():
        config.unlink()
    shutil.rmtree(config, ignore_errors=True)
    config.mkdir(mode=0o755, parents=True)
    for name in _FILES:
        (config / f"{name}.json").write_text("{}\n")


def write(node: "node_module.Node", uuid: str, vm: Vm) -> None:
    """Write what `vm` has of metadata, tags and routes; what it does not name stays."""
    name = record.dataset(vm)
    folder = node.storage.directory(name)
    known = record.read_metadata(folder)
    known |= {key: vm[key] for key in known if key in vm}
    documents = {
        "metadata": {key: known[key] for key in ("customer_metadata", "internal_metadata")},
        "tags": known["tags"],
        "routes": known["routes"],
    }
    config = zoneroot.Root(folder).host("config")
    texts = {
        config / f"{kind}.json": _text(document).encode("utf-8", "surrogateescape")
        for kind, document in documents.items()
    }
    changed = {path: text for path, text in texts.items() if _read(path) != text}
    if changed:
        node.storage.check(name, sum(len(text) for text in changed.values()))
        config.mkdir(parents=True, exist_ok=True)
    for path, text in changed.items():
        temporary = path.with_suffix(".new")
        temporary.write_bytes(text)
        temporary.replace(path)
    node.storage.charge(name)


def _text(document: Vm) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)


def _read(path: pathlib.Path) -> bytes | None:
    return path.read_bytes() if path.is_file() and not path.is_symlink() else None
