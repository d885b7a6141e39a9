# SPDX-License-Identifier: Apache-2.0
"""Servers booted at once through a real Nova: on our driver, and on Nova's own ones beside it.

About an hour; SMARTOS_BENCH_N=1,5 measures some numbers of servers only, SMARTOS_BENCH_PAIRS=2
has fewer pairs of runs, and a cloud in the folder SMARTOS_BENCH_CLOUD is used again.

The floor is Nova's fake driver made to wait as long as a `vmadm create` of the node takes. libvirt
stands beside it with QEMU, whose machines have nothing to boot.
"""

import os
import statistics
import typing

from bench import cloud as clouds
from bench import report

#: How many servers at once, and how many pairs of runs.
PAIRS = dict.fromkeys((1, 2, 5, 10, 20, 50), 5)
PORTS = (False, True)
#: Images, connections and threads come with the first servers, which do not count.
WARM = 5
#: So often on libvirt, and up to so many servers: their machines want this one's processors.
LIBVIRT_RUNS, LIBVIRT_MOST = 2, 20
WANT = "<= 1.05"
#: So many services are named, of those that take the most processor time.
_MOST = 4
_NAMES = {clouds.OURS: "ours", clouds.FLOOR: "floor", clouds.LIBVIRT: "libvirt"}


class Runs(typing.NamedTuple):
    """What was measured of one number of servers, with a port or without."""

    ours: list[clouds.Boots]
    floor: list[clouds.Boots]


def run(found: report.Report) -> None:
    """Boot on each host in turns."""
    counts = [int(each) for each in os.environ.get("SMARTOS_BENCH_N", "").split(",") if each]
    most = int(os.environ.get("SMARTOS_BENCH_PAIRS", max(PAIRS.values())))
    pairs = {count: min(PAIRS[count], most) for count in counts or PAIRS}
    with clouds.up(clouds.FLOOR, clouds.LIBVIRT) as cloud:
        cloud.floor_waits(found)
        for port in PORTS:
            for host in (clouds.OURS, clouds.FLOOR):
                _boot(cloud, host, WARM, port=port)
            for count, times in pairs.items():
                _compare(found, cloud, count, times, port=port)
        _boot(cloud, clouds.LIBVIRT, WARM, port=False)
        for count in pairs:
            if count <= LIBVIRT_MOST:
                _libvirt(found, cloud, count)


def _compare(
    found: report.Report, cloud: clouds.Cloud, count: int, pairs: int, *, port: bool
) -> None:
    runs = Runs([], [])
    for turn in range(pairs):
        both = [(runs.ours, clouds.OURS), (runs.floor, clouds.FLOOR)]
        # neither always first
        for boots, host in both[:: 1 - turn % 2 * 2]:
            boots.append(_boot(cloud, host, count, port=port))
    what = f"port_n{count}" if port else f"n{count}"
    ours, floor = ([statistics.median(boots.seconds) for boots in each] for each in runs)
    ratios = [mine / theirs for mine, theirs in zip(ours, floor, strict=True)]
    low, high = min(ratios), max(ratios)
    meaning = f"time to ACTIVE over the floor's, median of {pairs} pairs, {low:.3f} to {high:.3f}"
    found.figure(f"ratio_to_floor_{what}", statistics.median(ratios), meaning, WANT)
    for side, host in ((runs.ours, clouds.OURS), (runs.floor, clouds.FLOOR)):
        _figures(found, side, host, what, count)
    meaning = "processor seconds of the emulated node a boot; the floor has none"
    found.figure(f"node_cpu_s_{what}", _cpu(runs.ours, clouds.OURS, count), meaning)
    label = f"{count} with a port" if port else f"{count}"
    found.series[f"{label}: ours (s)"] = [each for boots in runs.ours for each in boots.seconds]
    found.series[f"{label}: floor (s)"] = [each for boots in runs.floor for each in boots.seconds]


def _libvirt(found: report.Report, cloud: clouds.Cloud, count: int) -> None:
    runs = [_boot(cloud, clouds.LIBVIRT, count, port=False) for _ in range(LIBVIRT_RUNS)]
    _figures(found, runs, clouds.LIBVIRT, f"n{count}", count)
    found.series[f"{count}: libvirt (s)"] = [each for boots in runs for each in boots.seconds]


def _boot(cloud: clouds.Cloud, host: str, count: int, *, port: bool) -> clouds.Boots:
    made, boots = cloud.boot(host, count, port=port)
    cloud.delete(made)
    return boots


def _figures(
    found: report.Report, runs: list[clouds.Boots], host: str, what: str, count: int
) -> None:
    side = _NAMES[host]
    last = statistics.median(boots.seconds[-1] for boots in runs)
    whole = statistics.median(statistics.median(boots.seconds) for boots in runs)
    meaning = f"seconds to ACTIVE on {side}, median; the last after {last:.2f}"
    found.figure(f"{side}_s_{what}", whole, meaning)
    spawn = statistics.median(statistics.median(boots.spawning) for boots in runs)
    found.figure(f"{side}_spawn_s_{what}", spawn, "of that in task state spawning, median")
    cpu = _cpu(runs, f"nova-compute-{host}", count)
    found.figure(f"{side}_cpu_s_{what}", cpu, "processor seconds of its nova-compute a boot")
    everybodys = statistics.median(sum(boots.cpu.values()) for boots in runs) / count
    # one that comes or goes meanwhile counts above, and is never among the greatest
    steady = set.intersection(*(set(boots.cpu) for boots in runs))
    each = {service: _cpu(runs, service, count) for service in steady}
    most = sorted(each, key=lambda service: -each[service])[:_MOST]
    meaning = ", ".join(f"{service} {each[service]:.2f}" for service in most)
    found.figure(f"{side}_cloud_cpu_s_{what}", everybodys, f"of the whole cloud a boot: {meaning}")


def _cpu(runs: list[clouds.Boots], service: str, count: int) -> float:
    return statistics.median(boots.cpu[service] for boots in runs) / count
