# SPDX-License-Identifier: Apache-2.0
"""The picture in the guide to tracing: `python -m doc.trace_picture` boots 20 servers and draws.

Nova is real, all its services in this process; the node is emulated, and its VMs take their time.
It needs the extras bench, functional and test.
"""

import contextlib
import json
import pathlib
import sys
import tempfile
from typing import Any

from matplotlib import axes, figure, patches

from nova_smartos.smartos import spans
from tests import conftest  # noqa: F401  # threads for Nova, before it is imported
from tests.functional import cloud as cloud_module

PICTURE = pathlib.Path(__file__).parent / "source/_static/trace-20-boots.png"
SERVERS = 20
SECONDS = 300.0
#: Nova's own setting, and none.
LIMITS = (10, 0)
COLOURS = {
    "entry": "#c8ccd0",
    "operation": "#8fb8de",
    "command": "#2f6690",
    "connection": "#7b5ea7",
    "wait": "#e07a1f",
}


def launches(limit: int, path: pathlib.Path) -> list[dict[str, Any]]:
    """The spans of 20 launches at once, while Nova lets so many begin."""
    flags: dict[Any, Any] = {"max_concurrent_builds": limit, "sync_power_state_interval": -1}
    flags |= {("quota", "instances"): -1, ("quota", "cores"): -1}
    with cloud_module.Cloud("--speed", "1", over_ssh=True, flags=flags) as cloud:
        flavor = cloud.flavor(ram=64, disk=1)
        cloud.boot(flavor=flavor)
        spans.start(str(path))
        try:
            cloud.boot(flavor=flavor, wait=None, name="many", min_count=SERVERS)
            servers = [s for s in cloud.api.get_servers() if s["name"].startswith("many-")]
            for each in servers:
                cloud.wait(each, seconds=SECONDS)
        finally:
            spans.stop()
    events = json.loads(path.read_text().rstrip(",\n") + "]")
    ids = {each["id"] for each in servers}
    return [each for each in events if each["args"].get("instance") in ids]


def rows(found: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The spans of each server from its launch on, the first launch first; nested ones later."""
    begun = {each["args"]["instance"]: each for each in found if each["name"] == "spawn"}
    order = sorted(begun, key=lambda uuid: begun[uuid]["ts"])
    inside = [
        [
            each
            for each in found
            if each["args"]["instance"] == uuid and each["tid"] == begun[uuid]["tid"]
            if begun[uuid]["ts"] <= each["ts"] <= begun[uuid]["ts"] + begun[uuid]["dur"]
        ]
        for uuid in order
    ]
    return [sorted(row, key=lambda each: -each["dur"]) for row in inside]


def draw(cell: axes.Axes, found: list[dict[str, Any]]) -> float:
    """A row a server; return when the last bar ends."""
    shown = rows(found)
    first = min(row[0]["ts"] for row in shown)
    height = {"entry": 0.9, "operation": 0.7}
    for number, row in enumerate(shown):
        for each in row:
            begins, lasts = (each["ts"] - first) / 1e6, each["dur"] / 1e6
            tall = height.get(each["cat"], 0.45)
            cell.barh(number, lasts, tall, begins, color=COLOURS[each["cat"]], linewidth=0)
    cell.set_ylim(SERVERS - 0.4, -0.6)
    cell.set_yticks([])
    cell.set_ylabel(f"{SERVERS} servers")
    return max((row[0]["ts"] + row[0]["dur"] - first) / 1e6 for row in shown)


def main() -> int:
    """Boot, draw, and say where the picture is."""
    sheet = figure.Figure(figsize=(10, 8))
    cells = sheet.subplots(len(LIMITS), 1, sharex=True)
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for cell, limit in zip(cells, LIMITS, strict=True):
            last = draw(cell, launches(limit, folder / f"{limit}.json"))
            said = f"max_concurrent_builds = {limit}" + (" (Nova's default)" if limit else "")
            cell.set_title(f"{said}: {last:.1f} s", loc="left", fontsize=10)
    cells[-1].set_xlabel("seconds since the first spawn")
    known = [patches.Patch(color=colour, label=kind) for kind, colour in COLOURS.items()]
    cells[0].legend(handles=known, loc="lower left", fontsize=9)
    sheet.tight_layout()
    PICTURE.parent.mkdir(exist_ok=True)
    sheet.savefig(PICTURE, dpi=100)
    print(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
