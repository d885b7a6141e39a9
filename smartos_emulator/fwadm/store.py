# SPDX-License-Identifier: Apache-2.0
"""Rules and remote VMs on the node's disk: one JSON file each below /var/fw."""

import json
import pathlib
import typing

from smartos_emulator import js
from smartos_emulator.fwadm import errors, lexer, rules

Document = dict[str, typing.Any]


class Store:
    """The files below DIR/root/var/fw."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._rules = directory / "rules"
        self._vms = directory / "vms"

    def rule(self, uuid: str) -> rules.Rule:
        return rules.Rule(_load(self._rules, uuid, f'Unknown rule "{uuid}"'))

    def all_rules(self) -> dict[str, rules.Rule]:
        """Every rule, by uuid."""
        return {uuid: self.rule(uuid) for uuid in _uuids(self._rules)}

    def save_rules(self, some: typing.Iterable[rules.Rule]) -> None:
        for rule in some:
            _save(self._rules, rule.uuid, str(rule.version), rule.serialize())

    def delete_rules(self, some: typing.Iterable[rules.Rule]) -> None:
        for rule in some:
            _file(self._rules, rule.uuid).unlink(missing_ok=True)

    def remote_vm(self, uuid: str) -> Document:
        return _load(self._vms, uuid, f'Unknown remote VM "{uuid}"')

    def remote_vms(self) -> dict[str, Document]:
        """Every remote VM, by uuid."""
        return {uuid: self.remote_vm(uuid) for uuid in _uuids(self._vms)}

    def save_remote_vms(self, documents: dict[str, Document]) -> None:
        for uuid, document in documents.items():
            _save(self._vms, uuid, rules.new_version(), document)

    def delete_remote_vms(self, uuids: typing.Iterable[str]) -> None:
        for uuid in uuids:
            _file(self._vms, uuid).unlink(missing_ok=True)


def _file(directory: pathlib.Path, uuid: str) -> pathlib.Path:
    return directory / f"{uuid}.json"


def _uuids(directory: pathlib.Path) -> list[str]:
    if not directory.exists():
        return []
    return sorted(file.stem for file in directory.iterdir() if file.suffix == ".json")


def _load(directory: pathlib.Path, uuid: str, missing: str) -> Document:
    try:
        text = _file(directory, uuid).read_text("utf-8")
    except FileNotFoundError:
        raise errors.FirewallError(missing, "ENOENT") from None
    return typing.cast(Document, json.loads(text))


def _save(directory: pathlib.Path, uuid: str, version: str, document: Document) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f"{uuid}.json.{version.replace('/', '_')}"
    temporary.write_text(lexer.text(js.dumps(document, 2)), "utf-8")
    temporary.replace(_file(directory, uuid))
