# SPDX-License-Identifier: Apache-2.0
"""Services of the node and of its zones: which there are, and the state each is in."""

import dataclasses
import datetime
import fnmatch
import threading
import typing
import zlib

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

GLOBAL = "global"
VMINFOD = "svc:/system/smartdc/vminfod:default"

_NODE_SERVICES = """\
milestone/multi-user:default -
milestone/multi-user-server:default -
milestone/name-services:default -
milestone/network:default -
milestone/single-user:default -
milestone/sysconfig:default -
network/datalink-management:default dlmgmtd
network/dns/client:default -
network/ip-interface-management:default ipmgmtd
network/loopback:default -
network/ntp:default ntpd
network/physical:default -
network/ssh:default sshd
system/boot-archive:default -
system/console-login:default ttymon
system/coreadm:default -
system/cron:default cron
system/device/local:default -
system/fmd:default fmd
system/filesystem/local:default -
system/filesystem/root:default -
system/filesystem/smartdc:default -
system/filesystem/usr:default -
system/identity:node -
system/logadm-upgrade:default -
system/name-service-cache:default nscd
system/power:default powerd
system/smartdc/init:default -
system/smartdc/metadata:default node
system/smartdc/vminfod:default node
system/smartdc/vmadmd:default node
system/svc/restarter:default svc.startd
system/sysevent:default syseventd
system/system-log:default syslogd
system/utmp:default utmpd
system/zones:default -
system/zones-monitoring:default zonestatd
"""
_ZONE_SERVICES = """\
milestone/multi-user:default -
milestone/multi-user-server:default -
milestone/network:default -
milestone/single-user:default -
network/dns/client:default -
network/loopback:default -
network/physical:default -
network/ssh:default sshd
smartdc/mdata:execute -
smartdc/mdata:fetch -
system/console-login:default ttymon
system/cron:default cron
system/filesystem/local:default -
system/filesystem/root:default -
system/identity:node -
system/name-service-cache:default nscd
system/svc/restarter:default svc.startd
system/system-log:default syslogd
system/utmp:default utmpd
"""
_DISABLED = ("network/ntp:default", "system/power:default")
_WITH_SERVICES = ("joyent", "joyent-minimal")
_FIRST_PID = 400


class SmfError(Exception):
    """A zone whose services nobody answers for."""


@dataclasses.dataclass
class Service:
    """A service instance. `since` is when it came into its state."""

    fmri: str
    state: str
    since: datetime.datetime
    command: str
    pid: int

    @property
    def enabled(self) -> bool:
        return self.state != "disabled"

    @property
    def name(self) -> str:
        """Without scheme and instance."""
        return self.fmri.removeprefix("svc:/").rpartition(":")[0]

    @property
    def instance(self) -> str:
        return self.fmri.rpartition(":")[2]

    def matches(self, pattern: str) -> bool:
        """Whether a name as people type it means this instance."""
        short = self.fmri.removeprefix("svc:/")
        wanted = pattern.removeprefix("svc:").lstrip("/")
        candidates = [short, self.name, self.name.rpartition("/")[2]]
        parts = self.name.split("/")
        candidates += ["/".join(parts[at:]) for at in range(len(parts))]
        candidates += [f"{candidate}:{self.instance}" for candidate in list(candidates)]
        return any(fnmatch.fnmatchcase(candidate, wanted) for candidate in candidates)


class Services:
    """What svcs shows and svcadm changes. Changes marked temporary last until the next boot."""

    def __init__(self, node: "node_module.Node") -> None:
        self._node = node
        self._lock = threading.Lock()
        self._kept = node.state_file("services")
        self._passing: dict[str, dict[str, list[typing.Any]]] = {}

    def all(self, zone: str = GLOBAL) -> list[Service]:
        """The services of a zone, by name."""
        booted = self._booted(zone)
        table = _NODE_SERVICES if zone == GLOBAL else _ZONE_SERVICES
        with self._lock:
            changed = {
                **self._kept.load({}).get(zone, {}),
                **self._passing.get(f"{zone}/{booted.timestamp()}", {}),
            }
        found = []
        for place, line in enumerate(table.splitlines()):
            name, command = line.split()
            default = "disabled" if name in _DISABLED else "online"
            fmri = f"svc:/{name}"
            state, since = changed.get(fmri, [default, booted.timestamp() + 2 + place // 4])
            moment = _between(booted, since, self._node.clock.now())
            pid = _FIRST_PID + zlib.crc32(f"{zone}{fmri}{since}".encode()) % 9000
            found.append(Service(fmri, state, moment, "" if command == "-" else command, pid))
        return found

    def change(self, service: Service, state: str, zone: str, temporary: bool = False) -> None:
        """Bring a service into a state."""
        mark = [state, self._node.clock.now().timestamp()]
        with self._lock:
            if temporary:
                key = f"{zone}/{self._booted(zone).timestamp()}"
                self._passing.setdefault(key, {})[service.fmri] = mark
            else:
                kept = self._kept.load({})
                kept.setdefault(zone, {})[service.fmri] = mark
                self._kept.save(kept)
        if zone == GLOBAL and service.fmri == VMINFOD:
            self._node.vms.set_vminfod(state == "online")

    def _booted(self, zone: str) -> datetime.datetime:
        """When the zone booted; SmfError if it has no services to ask for."""
        if zone == GLOBAL:
            return self._node.clock.booted
        vm = self._node.vms.get(zone)
        if vm is None:
            raise SmfError(f"invalid zone '{zone}'")
        if vm["state"] != "running" or vm["brand"] not in _WITH_SERVICES:
            raise SmfError(
                f"Could not bind to repository server in zone {zone}: "
                "repository server unavailable.  Exiting."
            )
        return datetime.datetime.fromisoformat(vm["boot_timestamp"])


def _between(booted: datetime.datetime, since: float, now: datetime.datetime) -> datetime.datetime:
    """When a service came into its state; a state of an earlier life counts from the boot."""
    moment = datetime.datetime.fromtimestamp(since, datetime.UTC)
    return min(max(moment, booted), now)
