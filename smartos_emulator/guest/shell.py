# SPDX-License-Identifier: Apache-2.0
"""Running commands in a simulated zone: a shell of sorts and where its programs are found."""

import contextlib
import dataclasses
import re
import shlex
import typing

from smartos_emulator import zones
from smartos_emulator.guest import files, metadata, system
from smartos_emulator.guest import process as process_module

if typing.TYPE_CHECKING:
    from smartos_emulator import call as call_module

_NOT_FOUND = 127
_FOLDERS = ("/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/", "/native/usr/sbin/", "/opt/local/bin/")


def run(call: "call_module.Call", zone: zones.Zone, argv: list[str]) -> int:
    """Run a command in a running zone on the caller's streams; its exit status."""
    root = call.node.zones.inside(zone.name)
    process = process_module.Process(
        call.node, zone, root, argv, call.stdin, call.stdout, call.stderr
    )
    return execute(process)


def execute(process: process_module.Process) -> int:
    """Run one program."""
    name = process.argv[0]
    for folder in _FOLDERS:
        name = name.removeprefix(folder)
    program = _PROGRAMS.get(name)
    if program is None:
        text = f"{_shell(process)}: line 1: exec: {process.argv[0]}: not found"
        process_module.complain(process, text)
        return _NOT_FOUND
    process = dataclasses.replace(process, argv=[name, *process.argv[1:]])
    try:
        return program(process)
    except process_module.Failed as failure:
        if str(failure):
            process_module.complain(process, f"{name}: {failure}")
        return failure.status
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        process_module.complain(
            process, f"{name}: {process_module.shown(process, error)}{error.strerror}"
        )
        return 1


def _shell(process: process_module.Process) -> str:
    return "ksh" if process.zone.brand != "lx" else "sh"


def _sh(process: process_module.Process) -> int:
    """A shell as far as it goes: commands joined by &&, `;` or `||`, with > and >> and <."""
    words = process.argv[1:]
    if words[:1] in (["-l"], ["-e"]):
        words = words[1:]
    if words[:1] == ["-c"] and len(words) > 1:
        return _lines(process, words[1])
    if not words:
        return _lines(process, process.stdin.read().decode("utf-8", "surrogateescape"))
    raise process_module.Failed("only -c and a script on standard input are emulated")


def _lines(process: process_module.Process, script: str) -> int:
    status = 0
    for line in script.splitlines() or [script]:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>()")
        lexer.whitespace_split = True
        try:
            status = _sequence(process, list(lexer))
        except ValueError as error:
            raise process_module.Failed(f"syntax error: {error}", 2) from None
        except _Ended as end:
            return end.status
    return status


class _Ended(Exception):
    """The script ran `exit`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _sequence(process: process_module.Process, words: list[str]) -> int:
    status, joint = 0, ";"
    while words:
        end = next((at for at, word in enumerate(words) if word in (";", "&&", "||")), len(words))
        command, after = words[:end], words[end : end + 1]
        skip = (joint == "&&" and status != 0) or (joint == "||" and status == 0)
        if command and not skip:
            status = _simple(process, command)
        joint = after[0] if after else ";"
        words = words[end + 1 :]
    return status


def _simple(process: process_module.Process, words: list[str]) -> int:
    """One command with its redirections."""
    refused = next((word for word in words if re.fullmatch(r"[|&()]+", word)), None)
    if refused:
        raise process_module.Failed(f"`{refused}' is not emulated", 2)
    with contextlib.ExitStack() as stack:
        argv, stdin, stdout = [], process.stdin, process.stdout
        left = iter(words)
        for word in left:
            if word in (">", ">>"):
                mode = "wb" if word == ">" else "ab"
                stdout = stack.enter_context(process_module.create(process, next(left), mode))
            elif word == "<":
                stdin = stack.enter_context(process_module.source(process, next(left)))
            else:
                argv.append(word)
        if argv[:1] == ["exit"]:
            raise _Ended(int(argv[1]) & 0xFF if argv[1:] else 0)
        command = dataclasses.replace(process, argv=argv, stdin=stdin, stdout=stdout)
        return execute(command) if argv else 0


_PROGRAMS = {
    **files.PROGRAMS,
    **metadata.PROGRAMS,
    **system.PROGRAMS,
    "bash": _sh,
    "sh": _sh,
}
