# SPDX-License-Identifier: Apache-2.0
"""The daemon of a node: takes the tools' runs from a unix socket, a thread each."""

import argparse
import array
import importlib
import logging
import os
import pathlib
import selectors
import signal
import socket
import struct
import threading
import time
import traceback
import typing

from smartos_emulator import call as call_module
from smartos_emulator import client, control, state, tools

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

LOG = logging.getLogger("smartos_emulator")
_BACKLOG = 512
_HEADER_SECONDS = 5
_DRAIN_SECONDS = 1


class Daemon:
    """Serves one node until it is told to stop."""

    def __init__(self, served: "node_module.Node") -> None:
        self.node = served
        self._calls: dict[socket.socket, tuple[call_module.Call, threading.Thread]] = {}
        #: connections with which the run is done or the client is, not yet both
        self._half_done: set[socket.socket] = set()
        self._letting_go = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._listener = _listen(served.dir)
        self._wake, self._woken = socket.socketpair()
        served.runs = lambda: [call for call, _ in [*self._calls.values()]]

    def run(self) -> None:
        """Serve until `stop`."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        try:
            while not self.node.clock.stopping.is_set():
                for key, _ in self._selector.select():
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj is not self._woken:
                        self._heard(key.fileobj)  # type: ignore[arg-type]
        finally:
            self._close()

    def stop(self, *_: object) -> None:
        """Power the node off: safe in a signal handler and in any thread."""
        if not self.node.clock.stopping.is_set():
            self.node.halt()
            self._wake.send(b"x")

    def _close(self) -> None:
        """Give what still runs a moment to answer, then hang up."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        for connection, (call, thread) in self._calls.items():
            call.cancelled.set()
            thread.join(max(0, deadline - time.monotonic()))
            connection.close()
        for end in (self._selector, self._listener, self._wake, self._woken):
            end.close()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(_HEADER_SECONDS)
        try:
            call = _receive(connection, self.node)
        except (OSError, ValueError) as error:
            LOG.warning("a client sent no proper request: %s", error)
            connection.close()
            return
        connection.settimeout(None)
        thread = threading.Thread(target=self._serve, args=(connection, call), daemon=True)
        self._calls[connection] = call, thread
        self._selector.register(connection, selectors.EVENT_READ)
        thread.start()

    def _heard(self, connection: socket.socket) -> None:
        """The client passed signals on, or it hung up."""
        try:
            signals = connection.recv(64)
        except OSError as error:
            LOG.debug("a client was gone: %s", error)
            signals = b""
        if signals:
            self._calls[connection][0].signals.extend(signals)
        else:
            self._gone(connection)

    def _gone(self, connection: socket.socket) -> None:
        """The client hung up, before the answer or after it."""
        self._selector.unregister(connection)
        call, _ = self._calls.pop(connection)
        call.cancelled.set()
        self._let_go(connection)

    def _let_go(self, connection: socket.socket) -> None:
        """Close a connection when both its run and its client are done with it, not before.

        Its number would go to the next client, who would get the answer that is on its way.
        """
        with self._letting_go:
            last = connection in self._half_done
            (self._half_done.discard if last else self._half_done.add)(connection)
        if last:
            connection.close()

    def _serve(self, connection: socket.socket, call: call_module.Call) -> None:
        try:
            status = call.serve(self._run)
        except call_module.Cancelled:
            status = -signal.SIGKILL
        except Exception:
            LOG.exception("the emulator itself failed in %r", call.argv)
            call.err(
                f"smartos-emulator: internal error in {call.argv[0]}\n{traceback.format_exc()}"
            )
            status = client.EMULATOR_ERROR
        finally:
            call.close()
        try:
            connection.sendall(struct.pack("!i", status))
            connection.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            LOG.debug("the client of %r was gone: %s", call.argv, error)
        self._let_go(connection)

    def _run(self, call: call_module.Call) -> int:
        tool = call.argv[0]
        if tool == control.NAME:
            return control.main(call, self)
        if tool not in tools.NAMES:
            raise call_module.Exit(127, f"{tool}: not found\n")
        module: typing.Any = importlib.import_module(f"smartos_emulator.tools.{tool}")
        return self.node.faults.run(call, module.main)


def _listen(directory: pathlib.Path) -> socket.socket:
    """The node's socket, bound through a directory descriptor: its path may be long."""
    run = directory / "run"
    run.mkdir(parents=True, exist_ok=True)
    (run / "node.sock").unlink(missing_ok=True)
    folder = os.open(run, os.O_PATH | os.O_DIRECTORY)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"/proc/self/fd/{folder}/node.sock")
    os.close(folder)
    (run / "node.sock").chmod(0o600)
    listener.listen(_BACKLOG)
    return listener


def _receive(connection: socket.socket, served: "node_module.Node") -> call_module.Call:
    """The request that a client sends: see `client.call`."""
    size = array.array("i").itemsize
    header, ancillary, _, _ = connection.recvmsg(4, socket.CMSG_SPACE(3 * size))
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % size])
    try:
        (length,) = struct.unpack("!I", header)
        cwd, count, *rest = _receive_exactly(connection, length).split(b"\0")
        words, pairs = rest[: int(count)], rest[int(count) :]
        stdin, stdout, stderr = descriptors
    except (ValueError, struct.error):
        for descriptor in descriptors:
            os.close(descriptor)
        raise ValueError("malformed request") from None
    environment = dict(os.fsdecode(pair).split("=", 1) for pair in pairs if b"=" in pair)
    argv = [os.fsdecode(word) for word in words]
    pid = _peer(connection)
    streams = (stdin, stdout, stderr)
    return call_module.Call.on_descriptors(
        argv, served, environment, os.fsdecode(cwd), streams, pid
    )


def _receive_exactly(connection: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        part = connection.recv(min(1 << 20, length - len(received)))
        if not part:
            raise ValueError("request cut short")
        received += part
    return bytes(received)


def _peer(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def main() -> None:
    """`python -m smartos_emulator.daemon DIR --ready FD`: serve the node kept in DIR."""
    from smartos_emulator import node

    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--ready", type=int, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    document = state.File(options.directory / "node.json").load()
    served = node.Node(options.directory, node.Config.from_json(document))
    daemon = Daemon(served)
    signal.signal(signal.SIGTERM, daemon.stop)
    signal.signal(signal.SIGINT, daemon.stop)
    served.boot()
    os.write(options.ready, b"ready\n")
    os.close(options.ready)
    try:
        daemon.run()
    finally:
        served.close()
    os._exit(0)  # threads of half-done runs end with the node


if __name__ == "__main__":
    main()
