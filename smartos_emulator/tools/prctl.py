# SPDX-License-Identifier: Apache-2.0
"""prctl: show and set the resource controls of a running zone."""

import dataclasses
import getopt

from smartos_emulator import call as call_module
from smartos_emulator import zones

_ERROR, _USAGE_STATUS = 1, 2
_USAGE = """\
usage:
    Report resource control values and actions:
\tprctl [-P] [-t [basic | privileged | system]
\t[-n name] [-i process | task | project | zone] id ...
\t-P space delimited field output
\t-t privilege level of rctl values to get
\t-n name of resource control values to get
\t-i idtype of operand list
    Manipulate resource control values:
\tprctl [-t [basic | privileged | system]
\t-n name [-srx] [-v value] [-p pid ] [-e | -d action]
\t[-i process | task | project | zone] id ...
\t-t privilege level of rctl value to set/replace/delete/modify
\t-n name of resource control to set/replace/delete/modify
\t-s set new resource control value
\t-r replace first rctl value of matching privilege
\t-x delete first rctl value of matching privilege, value, and recipient pid
\t-v value of rctl to set/replace/delete/modify
\t-p recipient pid of rctl to set/replace/delete/modify
\t-e enable action of first rctl value of matching privilege,
\t   value, and recipient pid
\t-d disable action of first rctl value of matching privilege,
\t   value, and recipient pid
\t-i idtype of operand list
"""
_LARGEST = 2**64 - 1
_SCALES = "KMGTPE"


@dataclasses.dataclass(frozen=True)
class Control:
    """A resource control of zones: its system limit, and what happens there."""

    name: str
    limit: int = _LARGEST
    bytes: bool = False
    action: str = "deny"
    infinite: bool = False
    default: int | None = None


CONTROLS = (
    Control("zone.cpu-baseline", limit=2**32 - 1, infinite=True),
    Control("zone.cpu-burst-time", limit=2**32 - 1, infinite=True),
    Control("zone.cpu-cap", limit=2**32 - 1, infinite=True),
    Control("zone.cpu-shares", limit=65535, action="none", default=1),
    Control("zone.max-lofi"),
    Control("zone.max-locked-memory", bytes=True),
    Control("zone.max-lwps", limit=2**31 - 1),
    Control("zone.max-msg-ids", limit=2**24),
    Control("zone.max-physical-memory", bytes=True),
    Control("zone.max-processes", limit=2**31 - 1),
    Control("zone.max-sem-ids", limit=2**24),
    Control("zone.max-shm-ids", limit=2**24),
    Control("zone.max-shm-memory", bytes=True),
    Control("zone.max-swap", bytes=True),
    Control("zone.zfs-io-priority", limit=16384, action="none", default=1),
)


def main(call: call_module.Call) -> int:
    """One run of prctl."""
    try:
        options, words = getopt.getopt(call.argv[1:], "sPp:Fd:e:i:n:rt:v:x")
    except getopt.GetoptError as error:
        raise _usage(f"illegal option -- {error.opt}") from None
    flags = dict(options)
    if not words:
        raise _usage("no arguments specified")
    if flags.get("-i") not in ("zone", "zoneid"):
        raise call_module.Exit(_ERROR, "prctl: only -i zone is part of this emulated node\n")
    acts = {"-s", "-r", "-x"} & set(flags)
    if "-v" in flags and not acts:
        acts = {"-s"}
    _check(flags, acts)
    status = 0
    for name in words:
        zone = _zone(call, name)
        if zone is None:
            status = _ERROR
        elif acts:
            status = _change(call, zone, flags, acts.copy().pop()) or status
        else:
            _show(call, zone, flags)
    return status


def _usage(text: str) -> call_module.Exit:
    return call_module.Exit(_USAGE_STATUS, f"prctl: {text}\n{_USAGE}")


def _check(flags: dict[str, str], acts: set[str]) -> None:
    if acts and "-n" not in flags:
        raise _usage("-n is required with -s, -r, -x, -e, or -d")
    if len(acts) > 1:
        raise _usage("options -s, -r, and -x are exclusive")
    for act in ("-r", "-s"):
        if act in acts and "-v" not in flags:
            raise _usage(f"option {act} requires use of option -v")
    if acts and "-P" in flags:
        raise _usage("-P not valid when manipulating resource control values")
    if acts and flags.get("-t") == "system":
        raise _usage("cannot modify system values")
    if acts and _control(flags["-n"]) is None:
        raise _usage(f"failed to get resource control for {flags['-n']}: Invalid argument")


def _control(name: str) -> Control | None:
    return next((one for one in CONTROLS if one.name == name), None)


def _zone(call: call_module.Call, name: str) -> zones.Zone | None:
    """The running zone of that name or number."""
    known = call.node.zones.all()
    zone = next((one for one in known if name in (one.name, str(one.id))), None)
    if zone is None:
        call.err(f"prctl: {name}: unknown zone\n\n")
    elif zone.state != "running":
        call.err(f"prctl: {name}: No controllable process found in task, project, or zone.\n\n")
    else:
        return zone
    return None


def _change(call: call_module.Call, zone: zones.Zone, flags: dict[str, str], act: str) -> int:
    control = _control(flags["-n"])
    assert control is not None
    present = zone.rctls.get(control.name, control.default)
    if act == "-x":
        if present is None or ("-v" in flags and _value(flags["-v"], control) != present):
            return _refuse(call, zone, "no matching resource control found for deletion")
        zone.rctls.pop(control.name, None)
        return 0
    value = _value(flags["-v"], control)
    if act == "-r" and present is None:
        return _refuse(call, zone, "no matching resource control to replace")
    if act == "-s" and present == value:
        return _refuse(call, zone, "resource control already exists")
    zone.rctls[control.name] = value
    return 0


def _refuse(call: call_module.Call, zone: zones.Zone, text: str) -> int:
    call.err(f"{zone.pid}:\t/sbin/init\nprctl: {text}\n\n")
    return _ERROR


def _value(text: str, control: Control) -> int:
    digits, suffix = text, ""
    for unit in ("B", "b"):
        digits = digits.removesuffix(unit) if control.bytes else digits
    if digits and digits[-1].upper() in _SCALES:
        digits, suffix = digits[:-1], digits[-1].upper()
    step = 1024 if control.bytes else 1000
    try:
        number = int(float(digits) * step ** (_SCALES.index(suffix) + 1)) if suffix else int(digits)
    except ValueError:
        raise _usage(f"invalid -v value {text}") from None
    if number > control.limit:
        raise _usage(f"-v value {text} exceeds system limit for resource control: {control.name}")
    return number


def _show(call: call_module.Call, zone: zones.Zone, flags: dict[str, str]) -> None:
    wanted = [one for one in CONTROLS if one.name.startswith(flags.get("-n", ""))]
    parsable = "-P" in flags
    lines = [f"zone: {zone.id}: {zone.name}"]
    if not parsable:
        lines.append(_HEADINGS)
    for control in wanted:
        rows = [row for row in _rows(zone, control) if flags.get("-t") in (None, row[0])]
        if not rows:
            continue
        if not parsable:
            lines.append(control.name)
        line = _parsable_line if parsable else _line
        lines += [line(control, *row) for row in rows]
    call.out("".join(f"{line}\n" for line in lines))


_HEADINGS = f"{'NAME':8}{'PRIVILEGE':16}{'VALUE':9}{'FLAG':7}{'ACTION':28}{'RECIPIENT':>10}"


def _rows(zone: zones.Zone, control: Control) -> list[tuple[str, int, str]]:
    """Privilege, value and flag of each value of a control."""
    present = zone.rctls.get(control.name, control.default)
    rows = [] if present is None else [("privileged", present, "-")]
    return [*rows, ("system", control.limit, "inf" if control.infinite else "max")]


def _parsable_line(control: Control, privilege: str, value: int, flag: str) -> str:
    return f"{control.name} {privilege} {value} {flag} {control.action} -"


def _line(control: Control, privilege: str, value: int, flag: str) -> str:
    unit = "B" if control.bytes else ""
    shown = f"{_scaled(value, control.bytes):>5}{unit:<4}"
    return f"{'':8}{privilege:<16}{shown}{flag:>4}{'':3}{control.action:<28}{'-':>10}"


def _scaled(value: int, binary: bool) -> str:
    """A number in at most four characters and a letter."""
    step = 1024 if binary else 1000
    letter, scaled = "", float(value)
    for name in _SCALES:
        if scaled < step:
            break
        scaled, letter = scaled / step, name
    if not letter:
        return str(value)
    places = 2 if scaled < 10 else 1 if scaled < 100 else 0
    return f"{scaled:.{places}f}{letter}"
