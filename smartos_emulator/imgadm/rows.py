# SPDX-License-Identifier: Apache-2.0
"""Images as rows: the fields that lists print, sort and filter on."""

import re
from collections.abc import Sequence
from typing import Any

from smartos_emulator import js
from smartos_emulator.imgadm import errors, table

Info = dict[str, Any]
Filters = dict[str, Any]

_DOCKER_COLUMNS = (
    ("uuid", "UUID"),
    ("docker_repo", "REPOSITORY"),
    ("docker_tag", "TAG"),
    ("docker_short_id", "IMAGE_ID"),
    ("published", "CREATED"),
)


def fields(text: str) -> list[str]:
    """The names in an argument of -o or -s."""
    return re.split(r"\s*,\s*", text.strip())


def filters(arguments: Sequence[str]) -> Filters:
    """The filters that FIELD=VALUE arguments ask for."""
    found: Filters = {}
    for argument in arguments:
        field, equals, value = argument.partition("=")
        if not equals:
            message = f'invalid filter: "{argument}" (must be of the form "field=value")'
            raise errors.usage(message)
        found[field] = {"true": True, "false": False}.get(value, value)
    return found


def from_info(info: Info) -> table.Row:
    """An image's row: its own manifest, to which the computed fields are added."""
    row: table.Row = info["manifest"]
    published = row.get("published_at")
    if published:
        row["published_date"] = row["pub"] = published[:10]
        row["published"] = re.sub(r"\.\d+Z$", "Z", published)
    for key in ("source", "clones", "zpool"):
        row[key] = info.get(key, js.UNDEFINED)
    files = row.get("files")
    if files:
        row["size"] = js.get(files[0], "size")
    if row.get("type") == "docker":
        _add_docker_fields(row)
    return row


def _add_docker_fields(row: table.Row) -> None:
    tags = row.get("tags", js.UNDEFINED)
    identity = js.get(tags, "docker:id")
    if identity is js.UNDEFINED:
        raise js.JavaScriptError("Cannot call method 'slice' of undefined")
    row["docker_id"] = identity
    row["docker_short_id"] = identity[:12]
    row["docker_repo"] = js.get(tags, "docker:repo")
    prefix = "docker:tag:"
    row["docker_tags"] = [key.removeprefix(prefix) for key in tags if key.startswith(prefix)]


def keep(infos: list[Info], wanted: Filters) -> list[Info]:
    """The images that match every filter."""
    if not wanted:
        return infos
    return [info for info in infos if _matches(from_info(info), wanted)]


def _matches(row: table.Row, wanted: Filters) -> bool:
    return all(_accepts(_lookup(row, field), value) for field, value in wanted.items())


def _lookup(row: table.Row, field: str) -> Any:
    actual: Any = row
    for name in field.split("."):
        actual = js.get(actual, name)
        if actual is js.UNDEFINED:
            break
    return actual


def _accepts(actual: Any, wanted: Any) -> bool:
    if actual is js.UNDEFINED:
        return False
    if isinstance(wanted, bool):
        return actual is wanted
    if wanted.startswith("~"):
        js.require_method(actual, "indexOf")
        return wanted[1:] in actual
    return bool(js.text(actual) == wanted)


def listing(
    infos: list[Info],
    *,
    json: bool = False,
    header: bool = True,
    docker: bool = False,
    columns: Sequence[str] = (),
    sort: Sequence[str] = (),
) -> str:
    """Images as JSON or as a table."""
    if json:
        return js.dumps(infos, 2) + "\n"
    rows = [from_info(info) for info in infos]
    if docker:
        return table.render(
            _docker_rows(rows), _DOCKER_COLUMNS, sort=["published_at"], header=header
        )
    return table.render(rows, columns, sort=sort, header=header)


def _docker_rows(rows: list[table.Row]) -> list[table.Row]:
    """One row a tag, for the images that no other image stands on."""
    origins = {row.get("origin") for row in rows}
    heads = [row for row in rows if row.get("type") == "docker" and row["uuid"] not in origins]
    return [{**row, "docker_tag": tag} for row in heads for tag in row["docker_tags"] or [None]]
