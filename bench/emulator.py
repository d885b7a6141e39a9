# SPDX-License-Identifier: Apache-2.0
"""What the emulated node costs: a tool's call, a look at a thousand VMs, twenty creates at once."""

import concurrent.futures
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import typing

from bench import nodes, report

CALLS = 40
VMS = 1000
AT_ONCE = 20


def run(found: report.Report) -> None:
    """Measure all three."""
    _tool_call(found)
    _lookup(found)
    _parallel_creates(found)


def _tool_call(found: report.Report) -> None:
    """A call of a tool beside a start of the same bare interpreter, in turns."""
    bare, called = [], []
    python = [os.path.realpath(sys.executable), "-I", "-S", "-c", "pass"]
    with nodes.up() as node:
        tool = nodes.tool(node, "uname")
        for _ in range(CALLS):
            bare.append(_seconds(python))
            called.append(_seconds([tool]))
    extra = statistics.median(called) - statistics.median(bare)
    found.series["bare Python (s)"] = bare
    found.series["a tool (s)"] = called
    found.figure("bare_python_ms", 1000 * statistics.median(bare), "python -IS -c pass, median")
    found.figure("tool_call_ms", 1000 * statistics.median(called), "uname on the node, median")
    found.figure("tool_call_extra_ms", 1000 * extra, "what the node adds to bare Python", "<= 40")


def _lookup(found: report.Report) -> None:
    """`vmadm lookup -j` on a node full of VMs."""
    with nodes.up("--speed", "1000", "--pool-size", "8T") as node:
        payload = _payload(node) | {"autoboot": False}
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: nodes.create(node, payload), range(VMS)))
        lookup = [nodes.tool(node, "vmadm"), "lookup", "-j"]
        if len(json.loads(nodes.run(lookup))) != VMS:
            raise RuntimeError("vmadm lookup does not show every VM")
        times = [_seconds(lookup) for _ in range(5)]
    found.series["lookup of 1,000 VMs (s)"] = times
    median = statistics.median(times)
    found.figure("lookup_1000_seconds", median, "vmadm lookup -j of 1,000 VMs, median", "<= 1")


def _parallel_creates(found: report.Report) -> None:
    """Twenty creates at once beside one, on a node in real time."""
    with nodes.up() as node:
        payload = _payload(node)
        one = [_timed(lambda: nodes.create(node, payload)) for _ in range(3)]
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            many = _timed(
                lambda: list(pool.map(lambda _: nodes.create(node, payload), range(AT_ONCE)))
            )
    found.series["one create (s)"] = one
    found.series["20 creates at once (s)"] = [many]
    single = statistics.median(one)
    found.figure("create_seconds", single, "one vmadm create, median")
    found.figure("create_20_seconds", many, "20 vmadm create at once, until the last is done")
    found.figure("create_20_ratio", many / single, "20 creates in parts of one", "<= 1.5")


def _payload(node: pathlib.Path) -> dict[str, typing.Any]:
    image = nodes.install_image(node, "minimal")
    return {"brand": "joyent-minimal", "image_uuid": image, "max_physical_memory": 64, "quota": 1}


def _seconds(words: list[str]) -> float:
    return _timed(lambda: subprocess.run(words, stdout=subprocess.DEVNULL, check=True))


def _timed(work: typing.Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
