# SPDX-License-Identifier: Apache-2.0
"""What this machine gives the emulator: each feature is tried, never inferred."""

import fcntl
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import typing

from smartos_emulator import sshd

_FICLONE = 0x40049409
_ROOM_GIB = 2

REAL, SIMULATED, UNAVAILABLE = "real", "simulated", "unavailable"
Finding = tuple[str, str]


def main(as_json: bool) -> int:
    """Print the findings; 1 when the emulator cannot run here."""
    findings = {name: check() for name, check in CHECKS.items()}
    if as_json:
        shown = {name: {"state": state, "detail": text} for name, (state, text) in findings.items()}
        print(json.dumps(shown, indent=2))
    else:
        for name, (state, text) in findings.items():
            print(f"{name + ':':<10} {state}{': ' + text if text else ''}")
    return 1 if UNAVAILABLE in (findings["daemon"][0], findings["room"][0]) else 0


def _daemon() -> Finding:
    """Tools hand their streams to the daemon over a unix socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    try:
        socket.send_fds(ours, [b"x"], [0])
        descriptors = socket.recv_fds(theirs, 1, 1)[1]
        os.pidfd_open(os.getpid())
    except OSError as error:
        return UNAVAILABLE, f"this system passes no file descriptors ({error})"
    finally:
        ours.close()
        theirs.close()
    for descriptor in descriptors:
        os.close(descriptor)
    return REAL, f"Python {sys.version.split()[0]}"


def _ssh() -> Finding:
    try:
        program = sshd.program("sshd")
        sshd.program("ssh-keygen")
    except sshd.Unavailable as error:
        return UNAVAILABLE, str(error)
    version = subprocess.run(
        [program, "-V"], capture_output=True, text=True, check=False
    ).stderr.split("\n")
    return REAL, next((line for line in version if line.startswith("OpenSSH")), program)


def _clones() -> Finding:
    """Copies of files that share their blocks."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        source, target = pathlib.Path(folder) / "a", pathlib.Path(folder) / "b"
        source.write_bytes(b"x" * 4096)
        with open(source, "rb") as reading, open(target, "wb") as writing:
            try:
                fcntl.ioctl(writing.fileno(), _FICLONE, reading.fileno())
            except OSError as error:
                return SIMULATED, f"files are copied ({error.strerror})"
    return REAL, "reflinks"


def _room() -> Finding:
    free = shutil.disk_usage(".").free >> 30
    return (REAL if free >= _ROOM_GIB else UNAVAILABLE), f"{free} GiB free here"


def _simulated(what: str) -> typing.Callable[[], Finding]:
    return lambda: (SIMULATED, what)


CHECKS: dict[str, typing.Callable[[], Finding]] = {
    "daemon": _daemon,
    "ssh": _ssh,
    "clones": _clones,
    "room": _room,
    "storage": _simulated("datasets are folders and sparse files, space is counted"),
    "zones": _simulated("a state machine and a few commands, no processes of their own"),
    "hvm": _simulated("a state machine, no guest"),
    "network": _simulated("a table of links, no packets"),
    "metrics": _simulated("seeded functions of time and load"),
}
