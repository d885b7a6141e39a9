# SPDX-License-Identifier: Apache-2.0
"""console: what a VM shows and where one types: its console, the console's log, its display.

A zone's console, and bhyve's, is zlogin's, for one client at a time; zoneadmd writes what it shows
to a log beside the zone's root, a JSON document a line. QEMU has its own socket for it and no log.
Displays are sockets that the hypervisor makes below the VM's root.
"""

import contextlib
import dataclasses
import math
import re
import threading
import time
from collections.abc import Iterator

from nova_smartos.smartos import _tool, errors, records, transport
from nova_smartos.smartos._tool import text

TEXTS = (
    text(r"zlogin: Console is already in use by process ID ", errors.InvalidState, "Busy"),
    text(r"zlogin: zone '.*' unknown$", errors.NotFound, "ZoneNotFound"),
    text(r"zlogin: cannot login to a zone which is ", errors.InvalidState, "State"),
    text(r"tail: .*: No such file or directory", errors.NotFound, "NoLog"),
    text(r"/\S+: No such file or directory", errors.InvalidState, "NoSocket"),
)

#: How long zlogin may take to connect; who left just now may still be connected for a moment.
CONNECT_SECONDS = 15.0
_BUSY_SECONDS = 5.0
_PAUSE = 0.2
_CONNECTED = re.compile(rb"\[Connected to zone '[^']*' console\]\r?\n")
_LONGEST_BANNER = 4096
#: A line of text of the usual length takes about twice its length in the log.
_LOG_BYTES = 512 * 1024


class Console(_tool.Tool):
    """zlogin(1), tail(1) and nc(1)."""

    name = "zlogin"
    texts = TEXTS

    @contextlib.contextmanager
    def display(self, zonepath: str) -> Iterator[transport.Process]:
        """nc -U ZONEPATH/root/tmp/vm.vnc"""
        with self._joined(zonepath, "vm.vnc") as process:
            yield process

    @contextlib.contextmanager
    def line(self, zonepath: str) -> Iterator[transport.Process]:
        """nc -U ZONEPATH/root/tmp/vm.console: kvm's console; a second client waits, unheard."""
        with self._joined(zonepath, "vm.console") as process:
            yield process

    def log(self, zonepath: str) -> bytes:
        """tail -c BYTES ZONEPATH/logs/console.log: the last that a console has shown."""
        path = f"{self._zonepath(zonepath)}/logs/console.log"
        argv = ("tail", "-c", str(_LOG_BYTES), path)
        result = self._run(transport.Command(argv, timeout=transport.Timeout.READ))
        return _shown(result.stdout)

    @contextlib.contextmanager
    def zone(self, uuid: str) -> Iterator[transport.Process]:
        """zlogin -E -C UUID: the console of a zone, also of one that is down.

        InvalidState with the code Busy: somebody else is connected.
        """
        until = time.monotonic() + _BUSY_SECONDS
        argv = ("zlogin", "-E", "-C", self._uuid(uuid))
        command = transport.Command(argv, seconds=math.inf, terminal=True)
        while True:
            with contextlib.ExitStack() as stack:
                process = stack.enter_context(self._transport.stream(command))
                try:
                    self._connect(process)
                except errors.InvalidState as error:
                    if error.code != "Busy" or time.monotonic() > until:
                        raise
                else:
                    yield process
                    return
            time.sleep(_PAUSE)

    def _connect(self, process: transport.Process) -> None:
        """Read zlogin's first words; on a terminal, they are on its standard output."""
        timer = threading.Timer(CONNECT_SECONDS, process.kill)
        timer.start()
        said = b""
        try:
            while not said.endswith(b"\n") and len(said) < _LONGEST_BANNER:
                # a byte at a time: what follows the line is the guest's
                letter = process.read(1)
                if not letter:
                    break
                said += letter
        finally:
            timer.cancel()
        if not _CONNECTED.fullmatch(said):
            result = process.wait()
            words = said.decode("utf-8", "replace")
            raise self._failure(dataclasses.replace(result, stderr=words + result.stderr))

    @contextlib.contextmanager
    def _joined(self, zonepath: str, name: str) -> Iterator[transport.Process]:
        argv = ("nc", "-U", self._socket(zonepath, name))
        command = transport.Command(argv, seconds=math.inf)
        with self._transport.stream(command) as process:
            yield process


def _shown(log: str) -> bytes:
    """What was shown on a console, of a log whose first line may be cut."""
    whole = log[log.find("\n") + 1 :] if len(log) >= _LOG_BYTES else log
    found = []
    for line in whole.split("\n"):
        try:
            document = records.object_(line)
        except errors.OutputError:
            # zoneadmd may be writing the last one, or have found no room for one
            continue
        if document.get("stream") == "console":
            # a byte of the console stands there as a character of the same number
            found.append(str(document.get("msg", "")).encode("latin-1", "replace"))
    return b"".join(found)
