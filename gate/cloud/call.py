# SPDX-License-Identifier: Apache-2.0
"""How a command is called: alone in its folder, ended by any signal, with no foreign settings.

It runs on a bare Python.
"""

import contextlib
import ctypes
import errno
import hashlib
import os
import pathlib
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

from gate.cloud import show

#: What is of another cloud, or of other servers, in the environment of who calls.
_FOREIGN = ("OS_", "ERL_", "MYSQL_", "RABBITMQ_")
_PR_SET_PDEATHSIG = 1
#: How long what is ended may take to undo what it has begun.
_END_SECONDS = 60


class Busy(Exception):
    """Another process is at work in the same folder; the text says which."""


@contextlib.contextmanager
def alone(folder: pathlib.Path, patience: float = 0) -> Iterator[None]:
    """Keep others from a folder, which need not be there; wait for one that may be about to end.

    What keeps them out is a name that the kernel forgets with the process: nothing stays behind.
    """
    name = "\0smartos-cloud " + hashlib.sha256(os.fsencode(folder)).hexdigest()
    until = time.monotonic() + patience
    with socket.socket(socket.AF_UNIX) as sock:
        said = ""
        while not _bound(sock, name):
            if not said:
                # asked once: what is never accepted piles up
                said = f"{_holder(name)} is at work in {folder}"
                if patience:
                    show.say(f"Waiting: {said}")
            if time.monotonic() >= until:
                raise Busy(f"{said}: end it first")
            time.sleep(0.1)
        # who comes then can ask whose it is
        sock.listen()
        yield


def end_as_by_ctrl_c() -> None:
    """Have SIGTERM and SIGHUP do what Ctrl-C does; what then ends us in order is left alone.

    They come twice when they go to a whole group and `make` hands them on, or after Ctrl-C. One
    that is ignored, as nohup has it, stays so.
    """
    heard = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]

    def end(number: int, frame: object) -> None:
        for each in heard:
            # a second Ctrl-C is somebody's wish; and not SIG_IGN, which children would inherit
            again = signal.default_int_handler if each is signal.SIGINT else lambda *_: None
            signal.signal(each, again)
        raise KeyboardInterrupt

    for each in heard:
        signal.signal(each, end)


def clean(environment: MutableMapping[str, str]) -> None:
    """Take out credentials of other clouds, and proxies: none leads to the loopback address."""
    for name in list(environment):
        if name.startswith(_FOREIGN) or name.lower().endswith("_proxy"):
            del environment[name]


def run(
    words: Sequence[str], seconds: float | None = None, apart: bool = False, **options: Any
) -> int:
    """Run a command, which ends in order when we do, however that is; its exit status.

    One that runs apart goes on: no signal to our group reaches it.
    """
    how = {"start_new_session": True} if apart else {"preexec_fn": _end_with_parent}
    with subprocess.Popen(words, **how, **options) as process:
        try:
            return process.wait(seconds)
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
            process.kill()
            raise


def _bound(sock: socket.socket, name: str) -> bool:
    try:
        sock.bind(name)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def _holder(name: str) -> str:
    """The process behind a name."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1)
        try:
            sock.connect(name)
        except OSError:  # it has just ended, or just begun
            return "another process"
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return f"process {struct.unpack('3i', credentials)[0]}"


def _end_with_parent() -> None:
    """Between fork and exec: have the kernel end this process when its parent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
