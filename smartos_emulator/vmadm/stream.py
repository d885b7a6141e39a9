# SPDX-License-Identifier: Apache-2.0
"""vmadm events: the changes of the VMs as they happen, as lines of text or of JSON."""

import typing

from smartos_emulator import call as call_module
from smartos_emulator import vminfod
from smartos_emulator.vmadm import failures

_SLICE = 0.1
_ALIAS_WIDTH = 30


def follow(call: call_module.Call, uuid: str, full: bool, as_json: bool, show_ready: bool) -> None:
    """Print events until the reader or the node goes away."""
    node = call.node
    node.vms.ask()
    stream = node.events.subscribe()
    try:
        if uuid and uuid not in stream.ready["vms"]:
            raise failures.VmError(f"VM {uuid} not found")
        if show_ready:
            call.out(_ready_line(stream.ready, full, as_json))
        while node.vminfod_up:
            event = stream.get(_SLICE)
            if event and uuid in ("", event["zonename"]):
                call.out(_lines(event, full, as_json))
            if call.cancelled.is_set() or node.clock.stopping.is_set():
                raise call_module.Cancelled
    finally:
        stream.close()
    raise failures.VmError("socket hang up")


def _ready_line(event: dict[str, typing.Any], full: bool, as_json: bool) -> str:
    if as_json:
        return vminfod.text(event) + "\n"
    more = f" (uuid {event['uuid']})" if full else ""
    return f"[{_date(event, full)}] ready{more}\n"


def _lines(event: dict[str, typing.Any], full: bool, as_json: bool) -> str:
    if as_json:
        return vminfod.text(event) + "\n"
    zonename = event["zonename"] if full else event["zonename"].partition("-")[0]
    start = f"[{_date(event, full)}] {zonename} {_alias(event)} {event['type']}"
    if "changes" not in event:
        return f"{start}\n"
    return "".join(f"{start}: {_change(change)}\n" for change in event["changes"])


def _date(event: dict[str, typing.Any], full: bool) -> str:
    return event["date"] if full else event["date"].partition("T")[2]


def _alias(event: dict[str, typing.Any]) -> str:
    alias: str = event.get("vm", {}).get("alias") or "-"
    return f"{alias[: _ALIAS_WIDTH - 3]}..." if len(alias) > _ALIAS_WIDTH else alias


def _change(change: dict[str, typing.Any]) -> str:
    old, new = (_value(change, key) for key in ("oldValue", "newValue"))
    return f"{change['prettyPath']} {change['action']} :: {old} -> {new}"


def _value(change: dict[str, typing.Any], key: str) -> str:
    return vminfod.text(change[key]) if key in change else "undefined"
