# SPDX-License-Identifier: Apache-2.0
"""vmadm console, zlogin -C: a zone's console, for a terminal."""

import contextlib
import io
import os
import select
import termios
import threading
import tty
import typing

from smartos_emulator import call as call_module
from smartos_emulator import consoles
from smartos_emulator.vmadm import failures

_ESCAPE = b"\x1d"
_CHUNK = 4096
_SLICE = 0.2


def attach(call: call_module.Call, vm: dict[str, typing.Any]) -> None:
    """Connect the caller's streams with the console until the escape character or the end."""
    if vm["state"] != "running":
        state = vm["state"]
        raise failures.VmError(
            f'cannot connect to console when state is "{state}" must be "running".'
        )
    stream(call, vm["zonename"], banner=vm["brand"] != "kvm", leaves=_ESCAPE.__eq__)


def stream(
    call: call_module.Call,
    zonename: str,
    *,
    banner: bool,
    leaves: typing.Callable[[bytes], bool],
) -> int:
    """The console, until it ends or the one who typed `leaves`."""
    console = call.node.consoles.get(zonename)
    try:
        client = console.connect(call.pid)
    except consoles.Busy as busy:
        call.err(f"zlogin: Console is already in use by process ID {busy.pid}.\n")
        return 1
    try:
        if banner:
            call.out(f"[Connected to zone '{zonename}' console]\n")
        if not call.stdin_is_tty():
            text = "failed to set stdin pty to raw mode: Inappropriate ioctl for device"
            call.err(f"zlogin: {text}\n")
            return 1
        with _raw(call.stdin.fileno()):
            _join(call, console, client, leaves)
    finally:
        console.disconnect(client)
    if banner:
        call.out(f"\n[Connection to zone '{zonename}' console closed]\n")
    return 0


def _join(
    call: call_module.Call,
    console: consoles.Console,
    client: consoles.Client,
    leaves: typing.Callable[[bytes], bool],
) -> None:
    over = threading.Event()
    pump = threading.Thread(target=_pump, args=(call, client, over), daemon=True)
    pump.start()
    while not over.is_set():
        if call.cancelled.is_set() or call.node.clock.stopping.is_set():
            raise call_module.Cancelled
        if not select.select([call.stdin], [], [], _SLICE)[0]:
            continue
        try:
            data = os.read(call.stdin.fileno(), _CHUNK)
        except OSError:
            # the terminal was hung up
            data = b""
        if not data:
            return
        for at in range(len(data)):
            if leaves(data[at : at + 1]):
                return
            console.terminal.type(data[at : at + 1])


def _pump(call: call_module.Call, client: consoles.Client, over: threading.Event) -> None:
    with contextlib.suppress(OSError, ValueError, call_module.Cancelled):
        while (data := client.next()) is not None:
            call.stdout.write(data)
    over.set()


@contextlib.contextmanager
def _raw(terminal: int) -> typing.Iterator[None]:
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal, termios.TCSANOW)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error, io.UnsupportedOperation):
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


class Escape:
    """zlogin's way out: at the beginning of a line, the escape character and a dot."""

    def __init__(self, character: bytes) -> None:
        self._character = character
        self._before = b"\r", b""

    def __call__(self, key: bytes) -> bool:
        line, last = self._before
        self._before = last or b"\r", key
        return key == b"." and last == self._character and line in (b"\r", b"\n")
