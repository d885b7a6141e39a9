# SPDX-License-Identifier: Apache-2.0
"""svcs(1): the state of services."""

import datetime
import getopt

from smartos_emulator import call as call_module
from smartos_emulator import smf

_WIDTHS = {
    "CTID": 6,
    "DESC": 15,
    "FMRI": 48,
    "INST": 15,
    "NSTA": 4,
    "NSTATE": 14,
    "SCOPE": 8,
    "STA": 3,
    "STATE": 14,
    "STIME": 8,
    "SVC": 31,
    "ZONE": 36,
}
_SHORT = {"online": "ON", "disabled": "DIS", "offline": "OFF", "maintenance": "MNT"}
_SHORT |= {"degraded": "DGD", "legacy_run": "LRC", "uninitialized": "UN"}
_ORDER = ("legacy_run", "uninitialized", "disabled", "maintenance", "offline", "degraded", "online")
_USAGE = """\
Usage: svcs [-aHpv] [-o col[,col ... ]] [-R restarter] [-sS col] [-Z | -z zone ]
            [<service> ...]
       svcs -l [-v] [-Z | -z zone] <service> ...
       svcs -x [-v] [-Z | -z zone] [<service> ...]
"""


def main(call: call_module.Call) -> int:
    """One run of svcs; 1 when a pattern matches nothing."""
    try:
        pairs, patterns = getopt.gnu_getopt(call.argv[1:], "aHlpvxZo:R:s:S:z:?")
    except getopt.GetoptError as error:
        raise call_module.Exit(2, f"svcs: illegal option -- {error.opt}\n{_USAGE}") from None
    options = dict(pairs)
    if "-?" in options:
        raise call_module.Exit(2, _USAGE)
    if unsupported := {"-R", "-s", "-S"} & set(options):
        raise call_module.Exit(2, f"svcs: {min(unsupported)} is not emulated\n{_USAGE}")
    return _Run(call, options, patterns).main()


class _Run:
    """One command line."""

    def __init__(
        self, call: call_module.Call, options: dict[str, str], patterns: list[str]
    ) -> None:
        self.call = call
        self.options = options
        self.patterns = patterns
        self.services = smf.Services(call.node)
        self.missing: list[str] = []

    def main(self) -> int:
        columns = self._columns()
        found = self._found()
        for pattern in self.missing:
            self.call.err(f"svcs: Pattern '{pattern}' doesn't match any instances\n")
        if "-x" in self.options:
            self.call.out("".join(_explained(service) for _, service in found))
        elif "-l" in self.options:
            self.call.out("\n".join(_described(service) for _, service in found))
        else:
            self._table(columns, found)
        return 1 if self.missing else 0

    def _columns(self) -> list[str]:
        asked = self.options.get("-o")
        if asked is None:
            columns = ["STATE", "STIME", "FMRI"]
            if "-v" in self.options:
                columns = ["STATE", "NSTATE", "STIME", "CTID", "FMRI"]
            return ["ZONE", *columns] if "-Z" in self.options else columns
        columns = [name.upper() for name in asked.split(",")]
        for name in columns:
            if name not in _WIDTHS:
                raise call_module.Exit(2, f'svcs: Unknown column "{name.lower()}".\n{_USAGE}')
        return columns

    def _zones(self) -> list[str]:
        if "-Z" not in self.options:
            return [self.options.get("-z", smf.GLOBAL)]
        running = [vm for vm in self.call.node.vms.all() if vm["state"] == "running"]
        with_services = [vm["zonename"] for vm in running if vm["brand"].startswith("joyent")]
        return [smf.GLOBAL, *with_services]

    def _found(self) -> list[tuple[str, smf.Service]]:
        try:
            every = [(zone, s) for zone in self._zones() for s in self.services.all(zone)]
        except smf.SmfError as error:
            raise call_module.Exit(1, f"svcs: {error}\n") from None
        if self.patterns:
            matched = {p: [pair for pair in every if pair[1].matches(p)] for p in self.patterns}
            self.missing = [pattern for pattern in self.patterns if not matched[pattern]]
            named = {id(service) for pairs in matched.values() for _, service in pairs}
            every = [pair for pair in every if id(pair[1]) in named]
        elif "-a" not in self.options:
            every = [pair for pair in every if pair[1].enabled]
        return sorted(every, key=lambda p: (_ORDER.index(p[1].state), p[1].since, p[1].fmri))

    def _table(self, columns: list[str], found: list[tuple[str, smf.Service]]) -> None:
        now = self.call.node.clock.now()
        if "-H" not in self.options:
            self.call.out(_line(columns, columns))
        for zone, service in found:
            cells = _cells(zone, service, now)
            self.call.out(_line(columns, [cells[column] for column in columns]))
            if "-p" in self.options and service.command and service.state == "online":
                stamp = _stamp(service.since, now)
                self.call.out(f"{'':15}{stamp:<8} {service.pid:>8} {service.command}\n")


def _line(columns: list[str], cells: list[str]) -> str:
    padded = [cell.ljust(_WIDTHS[name]) for name, cell in zip(columns, cells, strict=True)]
    padded[-1] = cells[-1]
    return " ".join(padded) + "\n"


def _stamp(moment: datetime.datetime, now: datetime.datetime) -> str:
    """The time within a day, else the date, else the year."""
    age = now - moment
    if age < datetime.timedelta(days=1):
        return f"{moment:%H:%M:%S}"
    return f"{moment:%b_%d}" if age < datetime.timedelta(days=365) else f"{moment:%Y}"


def _cells(zone: str, service: smf.Service, now: datetime.datetime) -> dict[str, str]:
    return {
        "CTID": str(service.pid % 1000) if service.command else "-",
        "DESC": service.name.rpartition("/")[2],
        "FMRI": service.fmri,
        "INST": service.instance,
        "NSTA": "-",
        "NSTATE": "-",
        "SCOPE": "localhost",
        "STA": _SHORT[service.state],
        "STATE": service.state,
        "STIME": _stamp(service.since, now),
        "SVC": service.name,
        "ZONE": zone,
    }


def _described(service: smf.Service) -> str:
    rows = {
        "fmri": service.fmri,
        "name": service.name.rpartition("/")[2],
        "enabled": str(service.enabled).lower(),
        "state": service.state,
        "next_state": "none",
        "state_time": f"{service.since:%a %b %e %H:%M:%S %Y}",
        "restarter": "svc:/system/svc/restarter:default",
    }
    if service.command and service.state == "online":
        rows["contract_id"] = str(service.pid % 1000)
    return "".join(f"{name:<12} {value}\n" for name, value in rows.items())


def _explained(service: smf.Service) -> str:
    if service.state in ("online", "disabled"):
        return ""
    return (
        f"{service.fmri} ({service.name.rpartition('/')[2]})\n"
        f" State: {service.state} since {service.since:%a %b %e %H:%M:%S %Y}\n"
        "Reason: Maintenance requested by an administrator.\n"
        "   See: http://illumos.org/msg/SMF-8000-63\n"
        "Impact: This service is not running.\n\n"
    )
