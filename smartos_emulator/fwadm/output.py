# SPDX-License-Identifier: Apache-2.0
"""How fwadm shows rules and errors."""

import typing

from smartos_emulator import js
from smartos_emulator.fwadm import errors

Document = dict[str, typing.Any]

_WIDTHS = {
    "created_by": 10,
    "description": 15,
    "enabled": 7,
    "global": 6,
    "owner_uuid": 36,
    "rule": 20,
    "uuid": 36,
    "version": 20,
}


def error_document(error: errors.FirewallError, usage: bool) -> Document:
    document: Document = {"message": error.message}
    if error.code:
        document["code"] = error.code
    if isinstance(error, errors.UsageError) and error.code != "NoCommand":
        document["help"] = error.usage if usage else ""
    return document


def rule_line(rule: Document) -> str:
    return f"{rule['uuid']} {'true   ' if rule['enabled'] else 'false  '} {rule['rule']}"


def _cell(rule: Document, field: str) -> str:
    value = rule.get(field)
    return js.text(value) if js.truthy(value) else "-"


def parseable(rules: list[Document], fields: list[str], delimiter: str) -> str:
    return "".join(
        delimiter.join(_cell(r, f).replace(delimiter, f"\\{delimiter}") for f in fields) + "\n"
        for r in rules
    )


def table(rules: list[Document], fields: list[str]) -> str:
    rows = [[_cell(rule, field) for field in fields] for rule in rules]
    widths = []
    for column, field in enumerate(fields):
        if field not in _WIDTHS:
            raise errors.Crash(
                f"AssertionError: args.columns[{column}].width must be a positive number"
            )
        widths.append(max(_WIDTHS[field], *(len(row[column]) for row in rows)))
    header = [field.upper() for field in fields]
    return "".join(
        " ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + "\n"
        for row in [header, *rows]
    )
