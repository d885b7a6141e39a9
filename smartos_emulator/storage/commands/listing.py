# SPDX-License-Identifier: Apache-2.0
"""zfs list and zfs get."""

from smartos_emulator import call as call_module
from smartos_emulator.storage import backend, errors, model, properties
from smartos_emulator.storage.commands import options, selecting, show, usage

_DEFAULT = ["name", "used", "available", "referenced", "mountpoint"]
_FIELDS = ("name", "property", "value", "received", "source")
_SOURCES = ("local", "default", "inherited", "received", "temporary", "none")


def zfs_list(call: call_module.Call, words: list[str]) -> int:
    """zfs list"""
    storage = call.node.storage
    given = options.parse(words, "HS:d:o:prs:t:")
    literal, scripted = given.has("p"), given.has("H")
    keys = [_sort_key(letter, value) for letter, value in given.given if letter in "sS"]
    text = given.last("o")
    wanted, recursive, limit = _scope(given, text)
    if text == "all":
        columns = ["name", *(name for name in properties.TABLE)]
    else:
        columns = _columns(call, text) if text is not None else _DEFAULT
    with storage.lock:
        nodes, status = selecting.select(
            call, storage, given.operands, wanted, recursive=recursive, limit=limit, paths=True
        )
        _look(storage, nodes, {*columns, *(prop for prop, _ in keys)})
        nodes = selecting.ordered(storage, nodes, keys)
        rows = [
            [show.cell(storage, node, prop, literal=literal) for prop in columns] for node in nodes
        ]
    if scripted:
        call.out("".join("\t".join(row) + "\n" for row in rows))
    elif rows:
        call.out(show.table(columns, rows, literal=literal))
    elif not status:
        call.err("no datasets available\n")
    return status


def _sort_key(letter: str, value: str) -> tuple[str, bool]:
    row = properties.find(value)
    if row is None and not properties.is_user(value):
        raise usage.Wrong(f"invalid property '{value}'")
    return (row.name if row else value), letter == "S"


def _scope(given: options.Options, text: str | None) -> tuple[set[str], bool, int | None]:
    """(kinds, whether to go down, how far)."""
    limit = None
    recursive = given.has("r")
    for value in given.all("d"):
        limit, recursive = selecting.depth(value), True
    kinds = given.last("t")
    wanted = selecting.kinds(kinds, short=True) if kinds is not None else set(selecting.ALL)
    if kinds is None and (not given.operands or recursive or text == "space"):
        # Snapshots show up only when they are named or asked for.
        wanted = {"filesystem", "volume"}
        if any("@" in name for name in given.operands):
            wanted.add("snapshot")
    if wanted == {"snapshot"} and kinds is not None and given.operands and not recursive:
        recursive, limit = True, 1
    return wanted, recursive, limit


def _columns(call: call_module.Call, text: str) -> list[str]:
    try:
        return selecting.property_list(text)
    except errors.StorageError as error:
        raise usage.Wrong(str(error)) from None


def _look(storage: backend.Storage, nodes: list[model.Node], columns: set[str]) -> None:
    if columns & properties.SPACE or any(prop.startswith("written@") for prop in columns):
        storage.look(
            *dict.fromkeys(
                node if isinstance(node, model.Dataset) else node.dataset for node in nodes
            )
        )


def zfs_get(call: call_module.Call, words: list[str]) -> int:
    """zfs get"""
    storage = call.node.storage
    given = options.parse(words, "d:o:s:rt:Hp")
    columns = _get_fields(given.all("o"))
    sources = _sources(given.last("s"))
    limit = None
    recursive = given.has("r")
    for value in given.all("d"):
        limit, recursive = selecting.depth(value), True
    kinds = given.last("t")
    wanted = selecting.kinds(kinds, short=False) if kinds is not None else set(selecting.ALL)
    if not given.operands:
        raise usage.Wrong("missing property argument")
    text, *operands = given.operands
    if wanted == {"snapshot"} and operands and not recursive:
        recursive, limit = True, 1
    asked = None if text == "all" else _columns(call, text)
    with storage.lock:
        nodes, status = selecting.select(
            call, storage, operands, wanted, recursive=recursive, limit=limit, paths=True
        )
        _look(storage, nodes, set(asked or properties.TABLE))
        rows = [
            row for node in nodes for row in _rows(storage, node, asked, literal=given.has("p"))
        ]
    shown = [row for row in rows if _kind_of_source(row["source"]) in sources]
    _print_values(
        call, shown, rows, columns, asked, scripted=given.has("H"), literal=given.has("p")
    )
    return status


def _get_fields(values: list[str]) -> list[str]:
    fields = ["name", "property", "value", "source"]
    for value in values:
        fields = []
        for word in value.split(","):
            if word == "all":
                if fields:
                    raise usage.Wrong('"all" conflicts with specific fields given to -o option')
                fields = list(_FIELDS)
            elif word in _FIELDS:
                if len(fields) == len(_FIELDS):
                    raise usage.Wrong("too many fields given to -o option")
                fields.append(word)
            else:
                raise usage.Wrong(f"invalid column name '{word}'")
    return fields


def _sources(value: str | None) -> set[str]:
    if value is None:
        return set(_SOURCES)
    for word in value.split(","):
        if word not in _SOURCES:
            raise usage.Wrong(f"invalid source '{word}'")
    return set(value.split(","))


def _kind_of_source(source: str) -> str:
    return "none" if source == "-" else source.split(" ", 1)[0]


def _rows(
    storage: backend.Storage, node: model.Node, asked: list[str] | None, *, literal: bool
) -> list[dict[str, str]]:
    names = asked if asked is not None else _all_of(storage, node)
    rows = []
    for prop in names:
        value, source = storage.answer_for(node, prop)
        received = storage.received_value(node, prop)
        rows.append(
            {
                "name": node.name,
                "property": prop,
                "value": show.text(prop, value, literal=literal),
                "received": show.text(prop, received, literal=literal),
                "source": source,
            }
        )
    return rows


def _all_of(storage: backend.Storage, node: model.Node) -> list[str]:
    """Every property that applies, then the user's own."""
    found = [name for name, row in properties.TABLE.items() if node.kind in row.kinds]
    for name in ("origin", "receive_resume_token", "volsize"):
        if name in found and storage.answer_for(node, name)[0] == "-":
            found.remove(name)
    return found + list(storage.user_properties(node))


def _print_values(
    call: call_module.Call,
    shown: list[dict[str, str]],
    rows: list[dict[str, str]],
    columns: list[str],
    asked: list[str] | None,
    *,
    scripted: bool,
    literal: bool,
) -> None:
    if scripted:
        call.out("".join("\t".join(row[field] for field in columns) + "\n" for row in shown))
        return
    if not shown:
        return
    widths = {field: max(len(field), *(len(row[field]) for row in rows)) for field in columns}
    for prop in {row["property"] for row in rows}:
        if "value" in widths and prop != "name":
            least = show.width(prop)[0] if ":" not in prop else len(prop)
            widths["value"] = max(widths["value"], least)
    heading = {field: field.upper() for field in columns}
    lines = []
    for row in [heading, *shown]:
        cells = [row[field].ljust(widths[field]) for field in columns[:-1]]
        lines.append("  ".join([*cells, row[columns[-1]]]) + "\n")
    call.out("".join(lines))
