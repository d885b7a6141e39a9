# SPDX-License-Identifier: Apache-2.0
"""Payloads of add and update: what they must hold, and the rules and VMs they describe."""

import collections.abc
import typing

from smartos_emulator import js
from smartos_emulator.fwadm import errors, lookup, rules

Document = dict[str, typing.Any]
Records = collections.abc.Sequence[Document]


def check_payload(payload: Document, records: Records) -> None:
    parts = ("rules", "localVMs", "remoteVMs")
    for part in parts:
        value = payload.get(part)
        if value is None:
            continue
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise errors.FirewallError(f"opts.{part} ([object]) is required")
    if not any(payload.get(part) for part in parts):
        raise errors.FirewallError(f"Payload must contain one of: {', '.join(parts)}")


def made(documents: collections.abc.Iterable[Document]) -> list[rules.Rule]:
    version = rules.new_version()
    made: list[rules.Rule] = []
    wrong: list[errors.FirewallError] = []
    for document in documents:
        try:
            complete = {"version": version, **document}
            made.append(rules.Rule(complete, enforce_global=True))
        except errors.FirewallError as error:
            wrong.append(error)
    if wrong:
        raise errors.combined(wrong)
    return made


def differs(rule: rules.Rule, known: rules.Rule | None) -> bool:
    return known is None or rule.serialize() != known.serialize()


def check_known(documents: Records, stored: dict[str, rules.Rule]) -> None:
    wrong = [
        errors.FirewallError(f"Missing UUID of rule: {_compact(document)}")
        for document in documents
        if "uuid" not in document
    ]
    asked = dict.fromkeys(d["uuid"] for d in documents if "uuid" in d)
    wrong += [errors.FirewallError(f"Unknown rule: {u}") for u in asked if u not in stored]
    if wrong:
        raise errors.combined(wrong)


def _compact(document: Document) -> str:
    return js.dumps(document)


def merged(
    documents: Records, originals: dict[str, rules.Rule]
) -> collections.abc.Iterator[Document]:
    """The documents completed by what is stored; those that change nothing are left out."""
    version = rules.new_version()
    for document in documents:
        if document["uuid"] not in originals:
            yield {"version": version, **document}
            continue
        original = originals[document["uuid"]].serialize()
        merged = {**original, "version": version, **document}
        if not ("owner_uuid" in document and "global" in document):
            if "owner_uuid" in document:
                merged.pop("global", None)
            if "global" in document:
                merged.pop("owner_uuid", None)
        if merged == original:
            del originals[document["uuid"]]
        else:
            yield merged


def remote_documents(
    records: Records, vms: lookup.Vms, need_addresses: bool = True
) -> dict[str, Document]:
    """What is to be kept of the remote VMs of a payload."""
    made: dict[str, Document] = {}
    wrong: list[errors.FirewallError] = []
    for record in records:
        try:
            document = lookup.remote_document(record)
            _check_remote(document, vms, need_addresses)
            made[document["uuid"]] = document
        except errors.FirewallError as error:
            wrong.append(error)
    if wrong:
        raise errors.combined(wrong)
    return made


def _check_remote(document: Document, vms: lookup.Vms, need_addresses: bool) -> None:
    uuid = document["uuid"]
    if uuid in vms:
        raise errors.FirewallError(f'Remote VM "{uuid}" must not have the same UUID as a local VM')
    if need_addresses and not document["ips"]:
        raise errors.FirewallError(f'Remote VM "{uuid}": missing IPs')


def local_vms(records: Records, vms: lookup.Vms) -> lookup.Vms:
    wrong = []
    for record in records:
        if "uuid" not in record:
            wrong.append(errors.FirewallError(f"VM missing uuid property: {_compact(record)}"))
        elif record["uuid"] not in vms:
            wrong.append(errors.FirewallError(f'Could not find VM "{record["uuid"]}" in VM list'))
    if wrong:
        raise errors.combined(wrong)
    return {record["uuid"]: vms[record["uuid"]] for record in records}
