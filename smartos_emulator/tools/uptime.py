# SPDX-License-Identifier: Apache-2.0
"""uptime(1): how long the node has been up, and how busy it is."""

from smartos_emulator import call as call_module


def main(call: call_module.Call) -> int:
    """uptime"""
    if len(call.argv) > 1:
        raise call_module.Exit(1, f"uptime: illegal option -- {call.argv[1].lstrip('-')[:1]}\n")
    now = call.node.clock.now()
    clock = f"{now:%I:%M%p}".lower()
    clock = " " + clock[1:] if clock.startswith("0") else clock
    load = ", ".join(f"{average:.2f}" for average in call.node.metrics.averages())
    call.out(f" {clock}  up{_span(int(call.node.clock.monotonic()))}  1 user,  ")
    call.out(f"load average: {load}\n")
    return 0


def _span(seconds: int) -> str:
    """Days, hours and minutes, rounded to minutes."""
    minutes = (seconds + 30) // 60
    days, minutes = divmod(minutes, 24 * 60)
    hours, minutes = divmod(minutes, 60)
    text = f" {days} day(s)," if days else ""
    if hours and minutes:
        return f"{text} {hours:2d}:{minutes:02d},"
    if hours:
        text += f" {hours} hr(s),"
    return f"{text} {minutes} min(s)," if minutes else text
