# SPDX-License-Identifier: Apache-2.0
"""The cloud's processes, known by a mark in their environment.

A mark needs no file of process ids: it is there from the first moment, passes on to children, and
goes with them, however `up` ended.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gate.cloud import model

#: What uses the cloud and is no part of it, but ends with it.
SUITES = "suites"
_CLOUD = "SMARTOS_CLOUD_PROCESS_OF"
_SERVICE = "SMARTOS_CLOUD_SERVICE"
_STOP_SECONDS = 20
_KILL_SECONDS = 20
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Process:
    """A running process of a cloud."""

    pid: int
    service: str

    def pss_mib(self) -> float:
        """Its share of memory: what it shares with others is divided among them."""
        try:
            rollup = pathlib.Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return 0.0
        return (
            sum(int(line.split()[1]) for line in rollup.splitlines() if line[:4] == "Pss:") / 1024
        )

    def cpu_seconds(self) -> float:
        """The processor time it has used, with that of children it has waited for."""
        try:
            stat = pathlib.Path(f"/proc/{self.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return 0.0
        return sum(int(field) for field in stat.rpartition(")")[2].split()[11:15]) / _TICKS


def start(
    cloud: model.Cloud,
    service: str,
    words: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a service, which outlives us."""
    with cloud.log(service).open("ab") as log:
        return subprocess.Popen(
            words,
            cwd=cloud.base,
            env={**marked(cloud, service), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def kill(process: Process, number: signal.Signals) -> None:
    """Send a process a signal, if it is still there."""
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return


def marked(cloud: model.Cloud, service: str) -> dict[str, str]:
    """The environment of a process that belongs to the cloud."""
    return {**os.environ, **mark(cloud.base, service)}


def mark(base: pathlib.Path, service: str) -> dict[str, str]:
    """What the environment of such a process has besides."""
    # setproctitle is not to write its title over the environment, where the mark is
    return {_CLOUD: str(base), _SERVICE: service, "SPT_NOENV": "1"}


def bounded(words: Sequence[str], seconds: float, **options: Any) -> int:
    """Run a command, and all that it starts, for so long at most; its exit status.

    One that takes longer is interrupted, so that it can still tell what it has found.
    """
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True, **options)
    try:
        return process.wait(seconds)
    finally:
        for number, patience in ((signal.SIGINT, _STOP_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
            # what it has left of its session goes as well
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)


def running(base: pathlib.Path) -> list[Process]:
    """The processes of the cloud in a folder."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "environ").read_bytes().split(b"\0")
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:  # it has ended, or is another user's
            continue
        values = dict(word.partition(b"=")[::2] for word in words)
        if values.get(_CLOUD.encode()) == os.fsencode(base):
            service = os.fsdecode(values.get(_SERVICE.encode(), b"?"))
        elif match := re.match(
            rb"sshd: .* -f %b/nodes/([^/ ]+)/" % re.escape(os.fsencode(base)), title
        ):
            # sshd writes over its environment, but names a configuration that lies in a node
            service = os.fsdecode(match[1])
        else:
            continue
        found.append(Process(int(folder.name), service))
    return sorted(found, key=lambda process: process.pid)


def stop(
    base: pathlib.Path,
    seconds: float = _STOP_SECONDS,
    which: Callable[[Process], bool] = lambda process: True,
) -> list[str]:
    """End every process of the cloud, or some; the services that had to be killed."""
    killed: set[str] = set()
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, _KILL_SECONDS)):
        until = time.monotonic() + patience
        signalled: set[int] = set()
        while (
            left := [each for each in running(base) if which(each)]
        ) and time.monotonic() < until:
            for process in left:
                # also those that came since
                if process.pid not in signalled:
                    kill(process, number)
                    signalled.add(process.pid)
                    killed |= {process.service} if number is signal.SIGKILL else set()
            time.sleep(0.1)
        if not left:
            return sorted(killed)
    raise TimeoutError(f"these processes do not end: {left}")
