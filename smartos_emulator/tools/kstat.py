# SPDX-License-Identifier: Apache-2.0
"""kstat(8): kernel statistics, as text or as what it takes for JSON."""

import collections.abc
import dataclasses
import datetime
import fnmatch
import getopt
import re

from smartos_emulator import call as call_module
from smartos_emulator.metrics import kstat

_USAGE = """\
Usage:
kstat [ -Cjlpq ] [ -T d|u ] [ -c class ]
      [ -m module ] [ -i instance ] [ -n name ] [ -s statistic ]
      [ interval [ count ] ]
kstat [ -Cjlpq ] [ -T d|u ] [ -c class ]
      [ module[:instance[:name[:statistic]]] ... ]
      [ interval [ count ] ]
"""
_ULONG_MAX = 2**64 - 1
_NUMBER = re.compile(r"\s*[+-]?[0-9]+|(?=\Z)", re.ASCII)
_TIMES = ("crtime", "snaptime")

Matcher = collections.abc.Callable[[str], bool]


@dataclasses.dataclass
class _Selector:
    """Which kstats and which of their values."""

    module: str = "*"
    instance: str = "*"
    name: str = "*"
    statistic: str = "*"


@dataclasses.dataclass
class _Options:
    selectors: list[_Selector] = dataclasses.field(default_factory=list)
    named: bool = False
    class_: str = "*"
    json: bool = False
    parseable: bool = False
    names_only: bool = False
    colon: bool = False
    quiet: bool = False
    stamp: str = ""
    interval: int = 0
    count: int = 1


def main(call: call_module.Call) -> int:
    """One run of kstat; 1 when nothing matched."""
    options = _options(call.argv[1:])
    matched = False
    left = options.count
    while left:
        left -= 1
        text, found = _report(call, options)
        matched = matched or found
        call.out(text)
        if options.interval and left:
            call.node.clock.sleep(options.interval)
            call.out("\n")
    return 0 if matched else 1


# -- the command line --


def _usage(status: int, message: str = "") -> call_module.Exit:
    return call_module.Exit(status, message + _USAGE)


def _options(arguments: list[str]) -> _Options:
    try:
        pairs, operands = getopt.getopt(arguments, "h?CqjlpT:m:i:n:s:c:")
    except getopt.GetoptError as error:
        # getopt's answer to a wrong option is the one that asks for help.
        what = "option requires an argument" if "requires" in error.msg else "illegal option"
        raise _usage(0, f"kstat: {what} -- {error.opt}\n") from None
    options = _Options()
    selector = _Selector()
    for option, value in pairs:
        _take(options, selector, option[1], value)
    if options.quiet and (options.json or options.parseable):
        raise _usage(2, "-q and -lpj are mutually exclusive\n")
    if options.stamp not in ("", "d", "u"):
        raise _usage(2)
    _take_operands(options, operands)
    if options.selectors and options.named:
        raise _usage(
            2, "[module[:instance[:name[:statistic]]]] and -m -i -n -s are mutually exclusive"
        )
    options.selectors = options.selectors or [selector]
    return options


def _take(options: _Options, selector: _Selector, letter: str, value: str) -> None:
    fields = {"m": "module", "i": "instance", "n": "name", "s": "statistic"}
    if letter in "h?":
        raise _usage(0)
    if letter in fields:
        options.named = True
        setattr(selector, fields[letter], value)
    elif letter == "c":
        options.class_ = value
    elif letter == "T":
        options.stamp = value[:1] or "-"
    elif letter == "j":
        options.json = True
    elif letter == "q":
        options.quiet = True
    else:
        options.parseable = True
        options.names_only |= letter == "l"
        options.colon |= letter == "C"


def _take_operands(options: _Options, operands: list[str]) -> None:
    numbers = 0
    for operand in operands:
        number = _NUMBER.match(operand)
        if number is None or number.end() != len(operand):
            parts = operand.split(":")
            if len(parts) > 4:
                raise _usage(2)
            options.selectors.append(_Selector(*(part or "*" for part in parts)))
            continue
        _take_number(options, numbers, int(operand or 0))
        numbers += 1


def _take_number(options: _Options, place: int, number: int) -> None:
    what = ("Interval", "Count", "")[min(place, 2)]
    if abs(number) > _ULONG_MAX:
        raise _usage(2, f"{what} is too large\n" if what else "")
    if number == 0:
        raise _usage(2, f"{what} must be an integer >= 1" if what else "")
    if place == 0:
        options.interval, options.count = number, -1
    elif place == 1:
        options.count = number
    else:
        raise _usage(2)


# -- matching --


def _matcher(pattern: str) -> Matcher:
    """A shell pattern, or an extended regular expression between slashes."""
    if len(pattern) >= 2 and pattern.startswith("/") and pattern.endswith("/"):
        try:
            expression = re.compile(pattern[1:-1])
        except re.error as error:
            raise _usage(2, f"kstat: {error}\n") from None
        return lambda text: expression.search(text) is not None
    if pattern == "*":
        return lambda text: True
    glob = re.compile(fnmatch.translate(pattern))
    return lambda text: glob.match(text) is not None


def _order(found: kstat.Kstat) -> tuple[str, int, str]:
    return found.module.lower(), found.instance, found.name.lower()


def _read(call: call_module.Call, options: _Options) -> list[kstat.Kstat]:
    """What kstat loads before it looks closely: module or name have to match."""
    pairs = [(_matcher(s.module), _matcher(s.name)) for s in options.selectors]
    found = [
        each
        for each in call.node.metrics.read()
        if any(module(each.module) or name(each.name) for module, name in pairs)
    ]
    return sorted(found, key=_order)


# -- output --


def _report(call: call_module.Call, options: _Options) -> tuple[str, bool]:
    """The text of one round, and whether anything matched."""
    loaded = _read(call, options)
    of_class = _matcher(options.class_)
    pieces = [_stamp(options.stamp, call.node.clock.now())]
    pieces.append("[" if options.json else "")
    matched = False
    for selector in options.selectors:
        module, name = _matcher(selector.module), _matcher(selector.name)
        instance, statistic = _matcher(selector.instance), _matcher(selector.statistic)
        for each in loaded:
            if not (module(each.module) and name(each.name) and of_class(each.class_)):
                continue
            if not instance(str(each.instance)):
                continue
            values = [pair for pair in _values(each, options) if statistic(pair[0])]
            if values:
                matched = True
                pieces.append(_shown(each, values, options, last=each is loaded[-1]))
    pieces.append("]\n" if options.json else "")
    return "".join(pieces), matched


def _stamp(kind: str, now: datetime.datetime) -> str:
    if not kind:
        return ""
    return f"{int(now.timestamp())}\n" if kind == "u" else f"{now:%a %b %e %H:%M:%S UTC %Y}\n"


def _values(each: kstat.Kstat, options: _Options) -> list[tuple[str, kstat.Value]]:
    """The values in the order of their names, the three that every kstat has among them."""
    values = {**each.data, "crtime": each.crtime, "snaptime": each.snaptime}
    if options.parseable:
        values["class"] = each.class_
    return sorted(values.items(), key=lambda pair: pair[0].lower())


def _text(name: str, value: kstat.Value) -> str:
    if name in _TIMES and isinstance(value, int):
        return _seconds(value)
    return str(value)


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}" if nanoseconds else "0"


def _shown(
    each: kstat.Kstat,
    values: list[tuple[str, kstat.Value]],
    options: _Options,
    last: bool,
) -> str:
    if options.quiet:
        return ""
    if options.json:
        return _json(each, values, options) + ("" if last else ",")
    if options.parseable:
        return _lines(each, values, options)
    head = (
        f"module: {each.module:<30.30}  instance: {each.instance:<6d}\n"
        f"name:   {each.name:<30.30}  class:    {each.class_:.30}\n"
    )
    return head + "".join(f"\t{name:<30}  {_text(name, v)}\n" for name, v in values) + "\n"


def _lines(each: kstat.Kstat, values: list[tuple[str, kstat.Value]], options: _Options) -> str:
    head = f"{each.module}:{each.instance}:{each.name}:"
    if options.names_only:
        return "".join(f"{head}{name}\n" for name, _ in values)
    separator = ":" if options.colon else "\t"
    return "".join(f"{head}{name}{separator}{_text(name, v)}\n" for name, v in values)


def _json(each: kstat.Kstat, values: list[tuple[str, kstat.Value]], options: _Options) -> str:
    """An object; a comma follows every value but the kstat's last, printed or not."""
    final = _values(each, options)[-1][0]
    lines = []
    for name, value in values:
        quoted = f'"{value}"' if isinstance(value, str) else _text(name, value)
        lines.append(f'\t\t"{name}": {quoted}{"" if name == final else ","}\n')
    return (
        f'{{\n\t"module": "{each.module}",\n\t"instance": {each.instance},\n'
        f'\t"name": "{each.name}",\n\t"class": "{each.class_}",\n\t"type": {each.type},\n'
        f'\t"snaptime": {_seconds(each.snaptime)},\n\t"data": {{\n{"".join(lines)}\t}}\n}}'
    )
