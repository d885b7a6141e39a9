# SPDX-License-Identifier: Apache-2.0
"""The body of every tool: hand the streams to the node's daemon, wait, end as it says.

It is copied into the node's bin folder once a tool, and run there by a bare interpreter, so it
imports as little as it can.
"""

import array
import os
import signal
import socket
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing

NODE_DOWN = 125
EMULATOR_ERROR = 126

# What the node's own tools find below DIR/root; every other path is the host's.
NODE_TREES = (
    "/dev/zvol",
    "/etc/zones",
    "/opt/custom",
    "/usbkey",
    "/var/fw",
    "/var/imgadm",
    "/var/log/vm",
    "/var/run/smartdc",
    "/zones",
)
# Programs of the host that only the node's paths take from it.
SHARED_WITH_HOST = ("dd", "ls", "rm", "tail")
# Tools that end in their own way when they are interrupted.
INTERRUPTIBLE = ("dtrace",)


def is_of_node(path: str) -> bool:
    """Whether an absolute path lies in the node's tree."""
    return any(path == tree or path.startswith(tree + "/") for tree in NODE_TREES)


def call(
    directory: str | os.PathLike[str],
    argv: list[str],
    streams: tuple[int, int, int] = (0, 1, 2),
    *,
    seconds: float | None = None,
) -> int:
    """Run a tool on the node kept in `directory`; its exit status, negative for a signal.

    With `seconds` it is given up after so many, with a TimeoutError.
    """
    try:
        connection = _connect(directory)
    except OSError as error:
        message = f"smartos-emulator: no node is up in {directory} ({error.strerror})\n"
        os.write(streams[2], message.encode("utf-8", "surrogateescape"))
        return NODE_DOWN
    with connection:
        connection.settimeout(seconds)
        try:
            with _Passing(connection, argv[0]):
                _hand_over(connection, argv, streams)
            answer = connection.recv(4, socket.MSG_WAITALL)
        except (BrokenPipeError, ConnectionResetError):
            # the node went down, and with it the tool
            answer = b""
    status: int = struct.unpack("!i", answer)[0] if len(answer) == 4 else -signal.SIGKILL
    return status


class _Passing:
    """The tool hears what this process is told, but not before it has all of its arguments."""

    _NUMBERS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, connection: socket.socket, tool: str) -> None:
        self._connection = connection
        self._passes = tool in INTERRUPTIBLE

    def __enter__(self) -> None:
        if not self._passes:
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, self._NUMBERS)
        try:
            for number in self._NUMBERS:
                signal.signal(number, self._pass_on)
        except ValueError:
            return  # only a process is told, and this is one of its threads

    def __exit__(self, *_: object) -> None:
        if self._passes:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._NUMBERS)

    def _pass_on(self, number: int, _frame: object) -> None:
        try:
            self._connection.send(bytes([number]))
        except OSError:
            return  # the tool has ended by itself, and its status is on the way


def end(status: int) -> "typing.NoReturn":
    """End this process with `status`, by the signal it names when it is negative."""
    if status >= 0:
        os._exit(status)
    import resource  # a rare path, and this program starts often

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
    os._exit(128 - status)


def _connect(directory: str | os.PathLike[str]) -> socket.socket:
    """Connect by way of a directory descriptor: a socket's own path is short of letters."""
    connection = socket.socket(socket.AF_UNIX)
    folder = os.open(os.path.join(directory, "run"), os.O_PATH | os.O_DIRECTORY)
    try:
        connection.connect(f"/proc/self/fd/{folder}/node.sock")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(folder)
    return connection


def _hand_over(connection: socket.socket, argv: list[str], streams: tuple[int, int, int]) -> None:
    words = [os.fsencode(word) for word in argv]
    pairs = [name + b"=" + value for name, value in os.environb.items()]
    body = b"\0".join([os.fsencode(_cwd()), str(len(words)).encode(), *words, *pairs])
    handed = [_open_or_null(number) for number in streams]
    header = struct.pack("!I", len(body))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", handed))]
    connection.sendmsg([header], rights)
    connection.sendall(body)


def _cwd() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def _open_or_null(number: int) -> int:
    try:
        os.fstat(number)
    except OSError:
        return os.open(os.devnull, os.O_RDWR)
    return number


def main() -> None:
    """What the node's bin folder runs: DIR/bin/TOOL."""
    script = os.path.abspath(sys.argv[0])
    folder, name = os.path.split(script)
    if name in SHARED_WITH_HOST and not _names_the_node(sys.argv[1:]):
        _run_the_hosts(name, folder)
    end(call(os.path.dirname(folder), [name, *sys.argv[1:]]))


def _names_the_node(words: list[str]) -> bool:
    return any(is_of_node(word.partition("=")[2] or word) for word in words)


def _run_the_hosts(name: str, folder: str) -> None:
    path = [entry for entry in os.get_exec_path() if os.path.abspath(entry) != folder]
    for entry in path:
        program = os.path.join(entry, name)
        if os.access(program, os.X_OK):
            os.execv(program, [name, *sys.argv[1:]])


if __name__ == "__main__":
    main()
