# SPDX-License-Identifier: Apache-2.0
"""Running commands in a simulated zone: a shell of sorts and where its programs are found."""

import contextlib
import dataclasses
import io
import re
import typing

from smartos_emulator import zones
from smartos_emulator.guest import files, metadata, script, system
from smartos_emulator.guest import process as process_module

if typing.TYPE_CHECKING:
    from smartos_emulator import call as call_module
    from smartos_emulator import node as node_module

_NOT_FOUND = 127
_JOINTS = (";", "\n", "&&", "||")
_END = script.Token("end", operator=True)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_KEYWORDS = ("!", "case", "cd", "export", "for", "function", "if", "set", "until", "while", "{")
_FOLDERS = ("/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/", "/native/usr/sbin/", "/opt/local/bin/")


def run(call: "call_module.Call", zone: "zones.Zone", words: list[str]) -> int:
    """Run a command in a running zone on the caller's streams; its exit status.

    A shell in the zone reads the words, joined by blanks. Without words it reads standard input.
    """
    root = call.node.zones.inside(zone.name)
    argv = ["sh", "-c", " ".join(words)] if words else ["sh"]
    process = process_module.Process(
        call.node, zone, root, argv, call.stdin, call.stdout, call.stderr
    )
    return execute(process)


def run_line(node: "node_module.Node", zone: "zones.Zone", line: str, out: typing.BinaryIO) -> int:
    """Run a line that was typed on the zone's console; its exit status."""
    root = node.zones.inside(zone.name)
    argv, nothing = ["sh", "-c", line], io.BytesIO()
    return execute(process_module.Process(node, zone, root, argv, nothing, out, out))


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


def _lines(process: process_module.Process, text: str) -> int:
    try:
        return _sequence(process, script.tokens(text))
    except ValueError as error:
        raise process_module.Failed(f"syntax error: {error}", 2) from None
    except script.Refused as refused:
        raise process_module.Failed(f"{refused} is not emulated", 2) from None
    except _Ended as end:
        return end.status


class _Ended(Exception):
    """The script ran `exit`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _sequence(process: process_module.Process, words: list[script.Token]) -> int:
    _check(words)
    status, joint = 0, ";"
    while words:
        end = next((at for at, word in enumerate(words) if _joins(word)), len(words))
        command, after = words[:end], words[end : end + 1]
        skip = (joint == "&&" and status != 0) or (joint == "||" and status == 0)
        if command and not skip:
            status = _simple(process, command)
        joint = after[0].text if after else ";"
        words = words[end + 1 :]
    return status


def _joins(token: script.Token) -> bool:
    return token.operator and token.text in _JOINTS


def _check(words: list[script.Token]) -> None:
    """Nothing runs of a script of which a part cannot."""
    for at, word in enumerate(words):
        if word.operator and word.text in ("|", "&", "(", ")"):
            raise script.Refused(f"`{word.text}'")
        redirects = word.operator and word.text[-1] in "<>"
        if redirects and (words[at + 1 :] or [_END])[0].operator:
            raise ValueError(f"`{word.text}' leads nowhere")
        first = at == 0 or _joins(words[at - 1])
        if first and not word.operator and (word.text in _KEYWORDS or _ASSIGNMENT.match(word.text)):
            raise script.Refused(f"`{word.text}'")


def _simple(process: process_module.Process, words: list[script.Token]) -> int:
    """One command with its redirections."""
    with contextlib.ExitStack() as stack:
        argv, streams = [], [process.stdin, process.stdout, process.stderr]
        left = iter(words)
        for word in left:
            if not word.operator:
                argv.append(word.text)
            elif "&" in word.text:
                streams[_number_of(word.text)] = streams[int(word.text[-1])]
            elif word.text.endswith("<"):
                streams[0] = stack.enter_context(process_module.source(process, next(left).text))
            else:
                mode = "ab" if word.text.endswith(">>") else "wb"
                file = process_module.create(process, next(left).text, mode)
                streams[_number_of(word.text)] = stack.enter_context(file)
        if argv[:1] == ["exit"]:
            raise _Ended(int(argv[1]) & 0xFF if argv[1:] else 0)
        stdin, stdout, stderr = streams
        command = dataclasses.replace(process, argv=argv, stdin=stdin, stdout=stdout, stderr=stderr)
        return execute(command) if argv else 0


def _number_of(redirection: str) -> int:
    """The stream that an operator such as 2> redirects."""
    return int(redirection[0]) if redirection[0].isdigit() else 1


def _env(process: process_module.Process) -> int:
    """env -i NAME=VALUE … PROGRAM …; where programs lie is the same whatever PATH says."""
    words = process.argv[1:]
    if words[:1] != ["-i"]:
        raise process_module.Failed("only -i is emulated", 2)
    while words and (words[0] == "-i" or _ASSIGNMENT.match(words[0])):
        words = words[1:]
    return execute(dataclasses.replace(process, argv=words)) if words else 0


_PROGRAMS = {
    **files.PROGRAMS,
    **metadata.PROGRAMS,
    **system.PROGRAMS,
    "bash": _sh,
    "env": _env,
    "sh": _sh,
}
