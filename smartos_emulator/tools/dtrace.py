# SPDX-License-Identifier: Apache-2.0
"""dtrace(8): runs D programs on what the node does, and lists its probes."""

import dataclasses
import getopt

from smartos_emulator import call as call_module
from smartos_emulator.dtrace import (
    compiler,
    consumer,
    errors,
    lexer,
    machine,
    options,
    parser,
    probes,
    syntax,
)

_USAGE = """\
Usage: dtrace [-32|-64] [-aACeFGhHlqSvVwZ] [-b bufsz] [-c cmd] [-D name[=def]]
\t[-I path] [-L path] [-o output] [-p pid] [-s script] [-U name]
\t[-x opt[=val]] [-X a|c|s|t]

\t[-P provider [[ predicate ] action ]]
\t[-m [ provider: ] module [[ predicate ] action ]]
\t[-f [[ provider: ] module: ] func [[ predicate ] action ]]
\t[-n [[[ provider: ] module: ] func: ] name [[ predicate ] action ]]
\t[-i probe-id [[ predicate ] action ]] [ args ... ]
"""
_LETTERS = "3:6:aAb:Bc:CD:ef:FGHi:I:lL:m:n:o:p:P:qs:SU:vVwx:X:Z"
_VERSION = "dtrace: Sun D 1.13.2\n"
_PLACES = {"-P": 1, "-m": 2, "-f": 3, "-n": 4}
_REFUSED = ("-a", "-A", "-B", "-c", "-C", "-F", "-G", "-p", "-S", "-v")
_DEVICES = ("/dev/stdin", "/dev/fd/0")


@dataclasses.dataclass
class _Words:
    """The command line."""

    programs: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    arguments: list[str] = dataclasses.field(default_factory=list)
    settings: options.Options = dataclasses.field(default_factory=options.Options)
    output: str = ""
    lists: bool = False
    zdefs: bool = False
    only_compiles: bool = False


def main(call: call_module.Call) -> int:
    """dtrace -V | -l [-P|-m|-f|-n|-i DESCRIPTION …] | [-s SCRIPT|-n PROGRAM …] [ARGUMENT …]"""
    if len(call.argv) == 1:
        raise call_module.Exit(2, _USAGE)
    words, versions = _words(call.argv[1:])
    if versions:
        call.out(_VERSION)
        return 0
    table = probes.Table(call.node.config.lacking_probes)
    if words.lists:
        return _list(call, words, table)
    return _trace(call, words, table)


def _words(given: list[str]) -> tuple[_Words, bool]:
    """Options and arguments may stand in any order."""
    try:
        pairs, arguments = getopt.gnu_getopt(given, _LETTERS)
    except getopt.GetoptError as error:
        what = "option requires an argument" if "requires" in error.msg else "illegal option"
        message = f"dtrace: {what} -- {error.opt}\n"
        raise call_module.Exit(2, message + _USAGE) from None
    words = _Words(arguments=arguments)
    if ("-l", "") in pairs and ("-V", "") in pairs:
        message = "dtrace: only one of the [-AGlV] options can be specified at a time\n"
        raise call_module.Exit(2, message)
    for option, value in pairs:
        _take(words, option, value)
    return words, ("-V", "") in pairs


def _take(words: _Words, option: str, value: str) -> None:
    if option in ("-s", "-i", *_PLACES):
        words.programs.append((option, value))
    elif option == "-l":
        words.lists = True
    elif option == "-Z":
        words.zdefs = True
    elif option == "-e":
        words.only_compiles = True
    elif option == "-o":
        words.output = value
    elif option in ("-q", "-w"):
        words.settings.set("quiet" if option == "-q" else "destructive", None)
    elif option in ("-x", "-b"):
        name, equals, setting = value.partition("=")
        if option == "-b":
            name, equals, setting = "bufsize", "=", value
        try:
            words.settings.set(name, setting if equals else None)
        except ValueError as error:
            shown = name if option == "-x" else value
            message = f"dtrace: failed to set {option} {shown}: {error}\n"
            raise call_module.Exit(1, message) from None
    elif option in _REFUSED:
        message = f"dtrace: the emulated node does not know {option}\n"
        raise call_module.Exit(1, message)


# -- tracing --


def _trace(call: call_module.Call, words: _Words, table: probes.Table) -> int:
    on = machine.Machine()
    made = compiler.Compiler(table, on, zdefs=words.zdefs or words.settings.has("zdefs"))
    notes, total = [], 0
    for option, text in words.programs:
        program, name = _program(call, words, option, text, table)
        what = "script" if option == "-s" else "description"
        try:
            matched = made.add(program)
        except errors.CompileError as error:
            raise _failure(option, text, error) from None
        total += matched
        notes.append(
            f"dtrace: {what} '{name}' matched {matched} probe{'' if matched == 1 else 's'}\n"
        )
    on.quiet = words.settings.has("quiet")
    on.sort = words.settings.sort
    if not on.quiet:
        call.err("".join(notes))
    if words.only_compiles:
        return 0
    if total == 0 and not words.zdefs:
        found = "matched" if words.programs else "specified"
        raise call_module.Exit(1, f"dtrace: no probes {found}\n")
    if made.compiled.destructive:
        if words.settings.has("destructive"):
            message = "dtrace: the emulated node takes no destructive actions\n"
        else:
            message = "dtrace: could not enable tracing: Destructive actions not allowed\n"
        raise call_module.Exit(1, message)
    return _run(call, words, on, made.compiled)


def _run(
    call: call_module.Call, words: _Words, on: machine.Machine, compiled: compiler.Compiled
) -> int:
    if not words.output:
        return consumer.Consumer(call, on, compiled, call.out).run()
    try:
        output = call.open_path(words.output, "ab")
    except OSError as error:
        message = f"dtrace: failed to open output file '{words.output}': {error.strerror}\n"
        raise call_module.Exit(1, message) from None
    with output:

        def write(text: str) -> None:
            output.write(text.encode("utf-8", "surrogateescape"))
            output.flush()

        return consumer.Consumer(call, on, compiled, write).run()


def _program(
    call: call_module.Call, words: _Words, option: str, text: str, table: probes.Table
) -> tuple[syntax.Program, str]:
    """What stands in a script or on the command line, and how dtrace calls it."""
    source, name = text, text
    if option == "-s":
        source = _script(call, text)
    else:
        cut = min((at for mark in "{/;" if (at := text.find(mark)) >= 0), default=len(text))
        name = text[:cut]
        source = _described(option, name.rstrip(), table) + text[cut:]
    macros = lexer.Macros(
        (text if option == "-s" else "dtrace", *words.arguments),
        lambda: words.settings.has("defaultargs"),
        {"pid": call.pid, "ppid": 1, "uid": 0, "gid": 0, "euid": 0, "egid": 0, "projid": 1},
    )
    try:
        return parser.Parser(source, macros, words.settings.set).program(), name
    except errors.CompileError as error:
        raise _failure(option, text, error) from None


def _script(call: call_module.Call, path: str) -> str:
    if path in _DEVICES:
        return call.read_stdin().decode("utf-8", "replace")
    try:
        with call.open_path(path) as file:
            return str(file.read().decode("utf-8", "replace"))
    except OSError as error:
        message = f"dtrace: failed to open {path}: {error.strerror}\n"
        raise call_module.Exit(1, message) from None


def _described(option: str, description: str, table: probes.Table) -> str:
    """A description whose last word belongs to the option's place."""
    if option == "-i":
        found = [str(probe) for probe in table.all() if str(probe.id) == description]
        if not found:
            message = f"dtrace: invalid probe specifier {description}: Unknown probe identifier\n"
            raise call_module.Exit(1, message)
        return found[0]
    parts = description.split(":")
    place = _PLACES[option]
    return ":".join([""] * (place - len(parts)) + parts + [""] * (4 - place))


def _failure(option: str, text: str, error: errors.CompileError) -> call_module.Exit:
    if option == "-s":
        return call_module.Exit(
            1, f"dtrace: failed to compile script {text}: {error.text(of_file=True)}\n"
        )
    return call_module.Exit(
        1, f"dtrace: invalid probe specifier {text}: {error.text(of_file=False)}\n"
    )


# -- listing --


def _list(call: call_module.Call, words: _Words, table: probes.Table) -> int:
    status = 0
    chosen: dict[int, probes.Probe] = {}
    if not words.programs:
        chosen = {probe.id: probe for probe in table.all()}
    for option, text in words.programs:
        if option == "-s":
            message = "dtrace: the emulated node lists no probes of scripts\n"
            raise call_module.Exit(1, message)
        found, whole = _chosen(table, option, text)
        if not found:
            message = f"dtrace: failed to match {whole}: No probe matches description\n"
            call.err(message)
            status = 1
        chosen |= {probe.id: probe for probe in found}
    if chosen:
        call.out(_row("ID", "PROVIDER", "MODULE", "FUNCTION", "NAME"))
    for number in sorted(chosen):
        probe = chosen[number]
        call.out(_row(str(number), probe.provider, probe.module, probe.function, probe.name))
    return status


def _chosen(table: probes.Table, option: str, text: str) -> tuple[list[probes.Probe], str]:
    if option == "-i":
        return [probe for probe in table.all() if str(probe.id) == text], text
    whole = _described(option, text, table)
    return (table.match(whole) if whole.count(":") == 3 else []), whole


def _row(number: str, provider: str, module: str, function: str, name: str) -> str:
    return f"{number:>5} {provider:>10} {module:>17} {function:>33} {name}\n"
