# SPDX-License-Identifier: Apache-2.0
"""What a nova-compute takes: for a boot, and at rest with few instances and with many.

About half an hour, through a real Nova; beside ours stand Nova's fake driver, made to wait as long
as `vmadm create` takes, and libvirt. The many of ours and of the fake are copies of one, written
directly for both alike: Nova's records, and the VMs that the node tells of or that the fake knows.
A cloud in the folder SMARTOS_BENCH_CLOUD is used again.
"""

import collections
import dataclasses
import statistics
import time
from typing import Any

from bench import cloud as clouds
from bench import report

#: Servers at once, and how often on each.
BOOTS, PAIRS = 10, 5
#: Instances at rest: booted on all three, and written for two.
FEW = (0, 50)
MANY = (1000, 5000)
#: How long a rest is looked at: Nova's audit runs once a minute.
REST_SECONDS = 120.0
#: What has just been started, with many instances, may take so long to come to rest.
SETTLE_SECONDS = 600.0
_SIDES = {clouds.OURS: "ours", clouds.FLOOR: "fake", clouds.LIBVIRT: "libvirt"}
_CHANGES = ("create", "destroy", "save")
_WRITES = ("POST", "PUT", "PATCH", "DELETE")


@dataclasses.dataclass
class Rest:
    """What nova-computes did while nothing happened, by host."""

    cpu: dict[str, float]
    rss_mib: dict[str, float]
    conductor: dict[str, collections.Counter[str]]
    #: what changed something in Placement, and names no other host's provider than ours
    writes: int


class Calls(clouds.Ear):
    """What nova-computes ask the conductor; who asks, each tells with its heartbeat."""

    def __init__(self, cloud: clouds.Cloud) -> None:
        self._asked: collections.defaultdict[str, collections.Counter[str]]
        self._asked = collections.defaultdict(collections.Counter)
        self._hosts: dict[str, str] = {}
        super().__init__(cloud.model, "conductor")

    def by_host(self) -> dict[str, collections.Counter[str]]:
        """How often what was asked, but for the heartbeat."""
        return {host: self._asked[who] for who, host in self._hosts.items()}

    def _hear(self, told: Any) -> None:
        who, args = told.get("_reply_q", ""), told["args"]
        if told["method"] == "object_action":
            instance = args["objinst"]
            name = instance["nova_object.name"]
            if (name, args["objmethod"]) == ("Service", "save"):
                self._hosts[who] = instance["nova_object.data"]["host"]
                return
        else:
            name = args.get("objname", told["method"])
        self._asked[who][f"{name}.{args.get('objmethod', '')}"] += 1


def run(found: report.Report) -> None:
    """Boot, then rest with ever more instances."""
    with clouds.up(clouds.FLOOR, clouds.LIBVIRT) as cloud:
        cloud.floor_waits(found)
        for host in _SIDES:
            # images, connections and threads come with the first
            _boot(cloud, host)
        _at_rest(found, cloud, 0, *_SIDES)
        _boots(found, cloud)
        made = {host: _several(cloud, host, max(FEW)) for host in _SIDES}
        _at_rest(found, cloud, max(FEW), *_SIDES)
        for ids in made.values():
            cloud.delete(ids)
        for count in MANY:
            _many(found, cloud, count)


def _boots(found: report.Report, cloud: clouds.Cloud) -> None:
    cpu: dict[str, list[float]] = {host: [] for host in _SIDES}
    for turn in range(PAIRS):
        for host in list(_SIDES)[:: 1 - turn % 2 * 2]:
            cpu[host].append(_boot(cloud, host))
    for host, side in _SIDES.items():
        each = cpu[host]
        meaning = f"processor seconds of nova-compute, {side}, median{_range(each)}"
        found.figure(f"cpu_per_boot_{side}_s", statistics.median(each), meaning)
        found.series[f"a boot, {side} (CPU s)"] = each
    for host, want in ((clouds.FLOOR, "<= 1.3"), (clouds.LIBVIRT, "<= 1")):
        ratios = [ours / other for ours, other in zip(cpu[clouds.OURS], cpu[host], strict=True)]
        side = _SIDES[host]
        meaning = f"ours in parts of {side}'s, median of {PAIRS} pairs{_range(ratios)}"
        found.figure(f"cpu_per_boot_to_{side}", statistics.median(ratios), meaning, want)


def _boot(cloud: clouds.Cloud, host: str) -> float:
    """Boot some servers at once; the processor time of nova-compute for each."""
    made, boots = cloud.boot(host, BOOTS, port=False)
    cloud.delete(made)
    return boots.cpu[f"nova-compute-{host}"] / BOOTS


def _several(cloud: clouds.Cloud, host: str, count: int) -> list[str]:
    made: list[str] = []
    while len(made) < count:
        made += cloud.boot(host, min(BOOTS, count - len(made)), port=False)[0]
    return made


def _many(found: report.Report, cloud: clouds.Cloud, count: int) -> None:
    hosts = (clouds.OURS, clouds.FLOOR)
    made = {host: cloud.boot(host, 1, port=False)[0] for host in hosts}
    for host, (server,) in made.items():
        # the one is one of them
        cloud.crowd(host, server, count - 1)
    _at_rest(found, cloud, count, *hosts)
    for host, (server,) in made.items():
        cloud.disperse(host, server)
        cloud.delete([server])


def _at_rest(found: report.Report, cloud: clouds.Cloud, count: int, *hosts: str) -> None:
    rest = _rest(cloud)
    written = "written directly, for both alike" if count in MANY else "booted"
    minutes = REST_SECONDS / 60
    for host in hosts:
        side, name = _SIDES[host], f"nova-compute-{host}"
        meaning = f"memory of nova-compute with {count} instances ({written}), {side}"
        found.figure(f"rss_{count}_{side}_mib", rest.rss_mib[name], meaning)
        meaning = f"its processor seconds in a minute at rest, {side}"
        found.figure(f"rest_{count}_{side}_cpu_s", rest.cpu[name] / minutes, meaning)
        calls = sum(rest.conductor[host].values()) / minutes
        meaning = f"what it asks the conductor in a minute at rest, {side}"
        found.figure(f"rest_{count}_{side}_calls", calls, meaning)
    ratio, what = _ratio(rest.rss_mib), f"rss_{count}_to_fake"
    meaning = f"memory with {count} instances ({written}), ours in parts of the fake's"
    found.figure(what, ratio, meaning, "<= 1.1" if count == MANY[0] else None)
    meaning = f"processor time at rest with {count}, ours in parts of the fake's"
    found.figure(f"rest_{count}_to_fake", _ratio(rest.cpu), meaning)
    meaning = f"writes to Placement at rest with {count} that are not the others'"
    found.figure(f"rest_{count}_placement_writes", rest.writes, meaning, "<= 0")
    more = rest.conductor[clouds.OURS] - rest.conductor[clouds.FLOOR]
    changed = {each: more[each] for each in more if each.partition(".")[2] in _CHANGES}
    meaning = f"changes told to the conductor at rest with {count} beyond the fake's: {changed}"
    found.figure(f"rest_{count}_changes", sum(changed.values()), meaning, "<= 0")


def _ratio(by_service: dict[str, float]) -> float:
    return by_service[f"nova-compute-{clouds.OURS}"] / by_service[f"nova-compute-{clouds.FLOOR}"]


def _rest(cloud: clouds.Cloud) -> Rest:
    """Look for a while at a cloud that has nothing to do."""
    cloud.rest(SETTLE_SECONDS)
    log = cloud.model.log("placement")
    already = log.stat().st_size
    before = cloud.cpu()
    calls = Calls(cloud)
    try:
        time.sleep(REST_SECONDS)
        after = cloud.cpu()
    finally:
        calls.close()
    services = [f"nova-compute-{host}" for host in _SIDES]
    with log.open("rb") as lines:
        lines.seek(already)
        asked = lines.read().decode()
    return Rest(
        {name: after[name] - before[name] for name in services},
        {name: cloud.rss_mib(name) for name in services},
        calls.by_host(),
        _writes(asked, [uuid for host, uuid in cloud.providers().items() if host != clouds.OURS]),
    )


def _writes(log: str, others: list[str]) -> int:
    """How many requests change something, but for those that name one of these providers."""
    lines = [line for line in log.splitlines() if not any(each in line for each in others)]
    return sum(f' "{method} ' in line for line in lines for method in _WRITES)


def _range(values: list[float]) -> str:
    return f"; from {min(values):.3g} to {max(values):.3g}"
