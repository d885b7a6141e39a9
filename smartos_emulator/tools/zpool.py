# SPDX-License-Identifier: Apache-2.0
"""zpool(8): the node's pools. Making, moving or breaking one is not emulated."""

import time
from collections.abc import Callable

from smartos_emulator import call as call_module
from smartos_emulator.storage import errors, pools
from smartos_emulator.storage.commands import options, usage

_DEFAULT = [
    "name",
    "size",
    "allocated",
    "free",
    "checkpoint",
    "expandsize",
    "fragmentation",
    "capacity",
    "dedupratio",
    "health",
    "altroot",
]
_FIELDS = ("name", "property", "value", "source")
# In the order of the whole help text; an empty name is an empty line.
_USAGE: tuple[tuple[str, str], ...] = (
    (
        "create",
        "\tcreate [-fnd] [-B] [-o property=value] ... \n"
        "\t    [-O file-system-property=value] ...\n"
        "\t    [-m mountpoint] [-R root] [-t tempname] <pool> <vdev> ...\n",
    ),
    ("destroy", "\tdestroy [-f] <pool>\n"),
    ("", "\n"),
    ("add", "\tadd [-fgLnP] [-o property=value] <pool> <vdev> ...\n"),
    ("remove", "\tremove [-nps] <pool> <device> ...\n"),
    ("", "\n"),
    ("labelclear", "\tlabelclear [-f] <vdev>\n"),
    ("", "\n"),
    ("checkpoint", "\tcheckpoint [--discard] <pool> ...\n"),
    ("", "\n"),
    ("list", "\tlist [-gHLpPv] [-o property[,...]] [-T d|u] [pool] ... [interval [count]]\n"),
    ("iostat", "\tiostat [-gLPv] [-T d|u] [pool] ... [interval [count]]\n"),
    ("status", "\tstatus [-DgLPtvx] [-T d|u] [pool] ... [interval [count]]\n"),
    ("", "\n"),
    ("online", "\tonline [-e] <pool> <device> ...\n"),
    ("offline", "\toffline [-t] <pool> <device> ...\n"),
    ("clear", "\tclear [-nF] <pool> [device]\n"),
    ("reopen", "\treopen <pool>\n"),
    ("", "\n"),
    ("attach", "\tattach [-f] [-o property=value] <pool> <device> <new-device>\n"),
    ("detach", "\tdetach <pool> <device>\n"),
    ("replace", "\treplace [-f] [-o property=value] <pool> <device> [new-device]\n"),
    (
        "split",
        "\tsplit [-gLlnP] [-R altroot] [-o mntopts]\n"
        "\t    [-o property=value] <pool> <newpool> [<device> ...]\n",
    ),
    ("", "\n"),
    ("initialize", "\tinitialize [-c | -s] <pool> [<device> ...]\n"),
    ("scrub", "\tscrub [-s | -p] <pool> ...\n"),
    ("resilver", "\tresilver <pool> ...\n"),
    ("trim", "\ttrim [-dp] [-r <rate>] [-c | -s] <pool> [<device> ...]\n"),
    ("", "\n"),
    (
        "import",
        "\timport [-d dir] [-D]\n"
        "\timport [-o mntopts] [-o property=value] ... \n"
        "\t    [-d dir | -c cachefile] [-D] [-l] [-f] [-m] [-N] [-R root] [-F [-n]] -a\n"
        "\timport [-o mntopts] [-o property=value] ... \n"
        "\t    [-d dir | -c cachefile] [-D] [-l] [-f] [-m] [-N] [-R root] [-F [-n]] [-t]\n"
        "\t    [--rewind-to-checkpoint] <pool | id> [newpool]\n",
    ),
    ("export", "\texport [-f] <pool> ...\n"),
    ("upgrade", "\tupgrade\n\tupgrade -v\n\tupgrade [-V version] <-a | pool ...>\n"),
    ("reguid", "\treguid <pool>\n"),
    ("", "\n"),
    ("history", "\thistory [-il] [<pool>] ...\n"),
    ("get", '\tget [-Hp] [-o "all" | field[,...]] <"all" | property[,...]> <pool> ...\n'),
    ("set", "\tset <property=value> <pool> \n"),
    ("sync", "\tsync [pool] ...\n"),
)


def main(call: call_module.Call) -> int:
    """Run one zpool command; the exit status."""
    words = call.argv[1:]
    if not words:
        call.err("missing command\n" + _whole_usage())
        return 2
    command = words[0]
    if command == "-?":
        call.out(_whole_usage())
        return 0
    texts = dict(_USAGE)
    if not command or command not in texts:
        call.err(f"unrecognized command '{command}'\n" + _whole_usage())
        return 2
    if command not in _COMMANDS:
        call.err(f"zpool {command}: not emulated\n")
        return 1
    try:
        return _COMMANDS[command](call, words[1:])
    except usage.Wrong as wrong:
        call.err(wrong.reason + "usage:\n" + texts[command])
        return 2
    except errors.StorageError as error:
        call.err(f"{error}\n")
        return 1


def _whole_usage() -> str:
    return "usage: zpool command args ...\nwhere 'command' is one of the following:\n\n" + "".join(
        text for _, text in _USAGE
    )


def _chosen(call: call_module.Call, operands: list[str]) -> tuple[list[str], int]:
    """(pools that exist, exit code); the others are reported."""
    storage = call.node.storage
    status = 0
    found = []
    for name in operands or storage.pools():
        try:
            pools.check(storage, name)
            found.append(name)
        except errors.StorageError as error:
            call.err(f"{error}\n")
            status = 1
    return found, status


def _properties(text: str) -> list[str]:
    found = []
    for word in text.split(","):
        name = pools.find(word)
        if name is None:
            raise usage.Wrong(f"bad property list: invalid property '{word}'")
        found.append(name)
    return found


def _list(call: call_module.Call, words: list[str]) -> int:
    given = options.parse(words, "gHLo:pPT:v")
    storage = call.node.storage
    text = given.last("o")
    columns = _properties(text) if text is not None else _DEFAULT
    names, status = _chosen(call, given.operands)
    if given.operands and not names:
        return 1
    with storage.lock:
        storage.look()
        rows = [
            [pools.value(storage, name, prop, literal=given.has("p")) for prop in columns]
            for name in names
        ]
    if given.has("H"):
        call.out("".join("\t".join(row) + "\n" for row in rows))
    elif not rows:
        call.out("no pools available\n")
    else:
        call.out(_table(columns, rows))
    return status


def _heading(prop: str) -> str:
    return pools.COLUMNS[prop].heading if prop in pools.COLUMNS else prop.upper()


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [[_heading(prop) for prop in columns], *rows]
    widths = [
        max(_least(prop), *(len(line[index]) for line in lines))
        for index, prop in enumerate(columns)
    ]
    return "".join(
        "  ".join(_cell(columns, line, index, widths[index]) for index in range(len(columns)))
        + "\n"
        for line in lines
    )


def _least(prop: str) -> int:
    number = prop in pools.COLUMNS and pools.COLUMNS[prop].number
    return 8 if prop == "health" else 5 if number else 0


def _cell(columns: list[str], line: list[str], index: int, width: int) -> str:
    prop = columns[index]
    if prop in pools.COLUMNS and pools.COLUMNS[prop].number:
        return line[index].rjust(width)
    return line[index] if index == len(columns) - 1 else line[index].ljust(width)


def _status(call: call_module.Call, words: list[str]) -> int:
    given = options.parse(words, "gLPvxDT:t")
    names, status = _chosen(call, given.operands)
    if given.has("x"):
        healthy = [f"pool '{name}' is healthy\n" for name in names]
        call.out("".join(healthy) if given.operands else "all pools are healthy\n")
        return status
    call.out("\n".join(_status_of(call, name) for name in names))
    return status


def _status_of(call: call_module.Call, name: str) -> str:
    rows = [name, *(f"  {disk}" for disk in pools.disks(call.node.storage, name))]
    width = max(10, *(len(row) for row in rows))
    lines = [f"\t{'NAME':<{width}}  STATE     READ WRITE CKSUM"]
    lines += [f"\t{row:<{width}}  ONLINE       0     0     0" for row in rows]
    return (
        f"  pool: {name}\n state: ONLINE\n  scan: none requested\nconfig:\n\n"
        + "\n".join(lines)
        + "\n\nerrors: No known data errors\n"
    )


def _get(call: call_module.Call, words: list[str]) -> int:
    given = options.parse(words, "Hpo:")
    storage = call.node.storage
    fields = _fields(given.last("o"))
    if not given.operands:
        raise usage.Wrong("missing property argument")
    text, *operands = given.operands
    asked = [*list(pools.COLUMNS)[:-1], *pools.FEATURES] if text == "all" else _properties(text)
    names, status = _chosen(call, operands)
    with storage.lock:
        storage.look()
        rows = [
            {
                "name": name,
                "property": prop,
                "source": pools.source(storage, name, prop),
                "value": pools.value(storage, name, prop, literal=given.has("p")),
            }
            for name in names
            for prop in asked
        ]
    if given.has("H"):
        call.out("".join("\t".join(row[field] for field in fields) + "\n" for row in rows))
        return status
    if rows:
        widths = {field: max(len(field), *(len(row[field]) for row in rows)) for field in fields}
        lines = [{field: field.upper() for field in fields}, *rows]
        call.out(
            "".join(
                "  ".join(
                    [*(line[field].ljust(widths[field]) for field in fields[:-1]), line[fields[-1]]]
                )
                + "\n"
                for line in lines
            )
        )
    return status


def _fields(text: str | None) -> list[str]:
    if text is None or text == "all":
        return list(_FIELDS)
    for word in text.split(","):
        if word not in _FIELDS:
            raise usage.Wrong(f"invalid column name '{word}'")
    return text.split(",")


def _set(call: call_module.Call, words: list[str]) -> int:
    if words and words[0].startswith("-"):
        raise usage.Wrong(f"invalid option '{words[0][1:2]}'")
    if not words:
        raise usage.Wrong("missing property=value argument")
    if len(words) < 2:
        raise usage.Wrong("missing pool name")
    if len(words) > 2:
        raise usage.Wrong("too many pool names")
    prop, equals, value = words[0].partition("=")
    if not equals:
        raise usage.Wrong("missing value in property=value argument")
    pools.check(call.node.storage, words[1])
    call.node.storage.set_pool(words[1], prop, value)
    return 0


def _history(call: call_module.Call, words: list[str]) -> int:
    given = options.parse(words, "il")
    names, status = _chosen(call, given.operands)
    storage = call.node.storage
    for name in names:
        made = time.strftime(
            "%Y-%m-%d.%H:%M:%S", time.gmtime(int(storage.pool_fact(name, "creation")))
        )
        disks = " ".join(pools.disks(storage, name))
        call.out(f"History for '{name}':\n{made} zpool create -f {name} {disks}\n\n")
    return status


def _sync(call: call_module.Call, words: list[str]) -> int:
    return _chosen(call, options.parse(words, "").operands)[1]


_COMMANDS: dict[str, Callable[[call_module.Call, list[str]], int]] = {
    "get": _get,
    "history": _history,
    "list": _list,
    "set": _set,
    "status": _status,
    "sync": _sync,
}
