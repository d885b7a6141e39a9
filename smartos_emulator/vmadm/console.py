# SPDX-License-Identifier: Apache-2.0
"""vmadm console: the VM's console, for a terminal."""

import typing

from smartos_emulator import call as call_module
from smartos_emulator.vmadm import failures

_ESCAPE = b"\x1d"


def attach(call: call_module.Call, vm: dict[str, typing.Any]) -> None:
    """Connect the caller's streams with the console until the escape character or the end."""
    if vm["state"] != "running":
        state = vm["state"]
        raise failures.VmError(
            f'cannot connect to console when state is "{state}" must be "running".'
        )
    stream(call, vm["zonename"], banner=vm["brand"] != "kvm")


def stream(call: call_module.Call, zonename: str, banner: bool) -> int:
    """The console itself: a login prompt that takes no one, for there is no getty behind it."""
    if banner:
        call.out(f"[Connected to zone '{zonename}' console]\n")
    if not call.stdin_is_tty():
        call.err("zlogin: failed to set stdin pty to raw mode: Inappropriate ioctl for device\n")
        return 1
    name = call.node.zones.hostname(zonename)
    call.out(f"\r\n{name} console login: ")
    while data := call.stdin.read1(4096):  # type: ignore[attr-defined]
        if _ESCAPE in data:
            break
        call.stdout.write(data.replace(b"\r", f"\r\n{name} console login: ".encode()))
    if banner:
        call.out(f"\n[Connection to zone '{zonename}' console closed]\n")
    return 0
