# SPDX-License-Identifier: Apache-2.0
"""One SSH connection to the node: made, checked, authenticated, and counted."""

import collections
import contextlib
import dataclasses
import errno
import logging
import os
import pathlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import paramiko
from paramiko import buffered_pipe, common

from nova_smartos.smartos import errors
from nova_smartos.smartos.transport import hostkeys

# Two fewer than sshd's MaxSessions: a session that timed out may still count for the server.
CHANNELS = 8
CHANNEL_SECONDS = 20.0
KEEPALIVE_SECONDS = 15
#: A connection whose bytes nobody acknowledges for so long is dead.
DEAD_SECONDS = 60
#: Questions that a server may leave open, one every KEEPALIVE_SECONDS: its system may still
#: acknowledge bytes while it hangs.
UNANSWERED = DEAD_SECONDS // KEEPALIVE_SECONDS
CLOSE_SECONDS = 5.0
WINDOW_BYTES = 4 * 2**20
PACKET_BYTES = 2**15
#: What paramiko puts into one packet.
DATA_BYTES = PACKET_BYTES - 64

# In order of preference; what paramiko does not have is left out.
KEX = (
    "mlkem768x25519-sha256",
    "curve25519-sha256@libssh.org",
    "curve25519-sha256",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group16-sha512",
)
CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
MACS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)
HOST_KEYS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)

# Read from the socket at once: several packets, of which paramiko asks for two parts each.
_RECEIVED_BYTES = 2**18

# What a terminal does to the bytes that pass (RFC 4254, 8): ICRNL, IXON, ISIG, ICANON, ECHO, OPOST.
_COOKED_MODES = (36, 38, 50, 51, 53, 70)

# paramiko logs a broken connection with a traceback; we raise it instead.
_WIRE_LOG = __name__ + ".wire"
logging.getLogger(_WIRE_LOG).setLevel(logging.CRITICAL)


@dataclasses.dataclass(frozen=True)
class Target:
    """Where the node is, and how we prove who we are."""

    host: str
    port: int
    user: str
    key_file: pathlib.Path | None
    known_hosts: pathlib.Path
    connect_seconds: float

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


class _Socket(socket.socket):
    """A socket that asks the system for more than is wanted now."""

    _ahead = b""
    _at = 0

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Up to so many bytes; only paramiko's own thread reads."""
        if self._at == len(self._ahead):
            self._ahead, self._at = super().recv(_RECEIVED_BYTES, flags), 0
        begin, self._at = self._at, min(self._at + bufsize, len(self._ahead))
        return self._ahead[begin : self._at]


class _Received:
    """What a channel has received, in the pieces in which it came, for paramiko's channel.

    Its own buffer copies each twice, and at each read moves all that is left: half of the time that
    a stream took. Nobody waits in here.
    """

    def __init__(self) -> None:
        self._pieces: collections.deque[bytes] = collections.deque()
        self._lock = threading.Lock()
        self._ended = False

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._pieces))

    def close(self) -> None:
        """Note that nothing more comes."""
        with self._lock:
            self._ended = True

    def feed(self, data: bytes) -> None:
        """Keep another piece."""
        with self._lock:
            self._pieces.append(data)

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:
        """Up to so many bytes, b"" at the end."""
        with self._lock:
            if not self._pieces and not self._ended:
                raise buffered_pipe.PipeTimeout
            taken, left = [], nbytes
            while self._pieces and left:
                piece = self._pieces.popleft()
                if len(piece) > left:
                    self._pieces.appendleft(piece[left:])
                    piece = piece[:left]
                taken.append(piece)
                left -= len(piece)
            return b"".join(taken)

    def read_ready(self) -> bool:
        """Whether there is something to read."""
        with self._lock:
            return bool(self._pieces)


class _Line:
    """The transport as one channel has it: what a channel says after its end is not sent.

    One thread may be about to say that there is no more input as another hears that the command is
    over, and says so too. A server that then hears of a channel which is gone ends the connection,
    with all commands on it.
    """

    def __init__(self, wire: "Wire") -> None:
        self._wire = wire
        self.over = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wire, name)

    def _send_user_message(self, message: paramiko.Message) -> None:
        message.line = self  # type: ignore[attr-defined]
        self._wire._send_user_message(message)


class Watcher:
    """Hears what happens to one channel, in paramiko's own thread."""

    def heard(self, kind: int, message: paramiko.Message) -> None:
        """Take note of a message, before paramiko handles it."""

    def handled(self, kind: int) -> None:
        """Look again: paramiko has handled a message."""

    def lost(self) -> None:
        """The connection is gone."""


class Wire(paramiko.Transport):
    """paramiko's transport, telling also what it keeps to itself: exit signals, losses.

    Its own channels drop the exit signal, and wait without a limit for answers. And where a command
    ends between our call for new keys and the server's answer, its thread would wait for what only
    itself can bring about, until the connection is given up.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(
            sock, default_window_size=WINDOW_BYTES, default_max_packet_size=PACKET_BYTES
        )
        self.watchers: dict[int, Watcher] = {}
        #: how many questions were answered, in the order they were asked
        self.answers = 0
        self._questions = 0
        self._asking = threading.Lock()
        #: what paramiko's own thread has to say once there are new keys
        self._put_off: list[paramiko.Message] = []
        self.set_log_channel(_WIRE_LOG)

    def run(self) -> None:
        try:
            super().run()
        finally:
            for watcher in list(self.watchers.values()):
                watcher.lost()

    def close(self) -> None:
        # paramiko would close the socket while its thread reads from it: let that end first
        if self.is_alive() and self is not threading.current_thread():
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
            self.join(CLOSE_SECONDS)
        super().close()
        self.sock.close()

    def keep_alive(self) -> None:
        """Ask for a sign of life in every silence; a server that gives none is gone."""
        self.packetizer.set_keepalive(KEEPALIVE_SECONDS, self._beat)

    def ask(self) -> int:
        """Ask the server for a sign of life; return what `answers` will be once it came."""
        message = paramiko.Message()
        message.add_byte(common.cMSG_GLOBAL_REQUEST)
        message.add_string("keepalive@openssh.com")
        message.add_boolean(True)
        with self._asking:
            self._questions += 1
            self._send_user_message(message)
            return self._questions

    def _beat(self) -> None:
        # in paramiko's own thread, which ends of this error as of a closed socket
        if self._questions - self.answers >= UNANSWERED:
            raise EOFError("the server gives no sign of life")
        self.ask()

    def _parse_request_success(self, message: paramiko.Message) -> None:
        self.answers += 1

    # a server says no to a question it does not know, which is as good
    _parse_request_failure = _parse_request_success

    def _send_user_message(self, message: paramiko.Message) -> None:
        if self is threading.current_thread() and not self.clear_to_send.is_set():
            self._put_off.append(message)
        else:
            super()._send_user_message(message)  # type: ignore[misc]

    def _send_message(self, message: paramiko.Message) -> None:
        # what is of a channel comes here one after the other
        line = getattr(message, "line", None)
        if line is not None:
            if line.over:
                return
            line.over = message.asbytes()[:1] == common.cMSG_CHANNEL_CLOSE
        super()._send_message(message)  # type: ignore[misc]

    def _parse_newkeys(self, message: paramiko.Message) -> None:
        super()._parse_newkeys(message)  # type: ignore[misc]
        said, self._put_off = self._put_off, []
        for each in said:
            self._send_user_message(each)

    def send_request(
        self, channel: paramiko.Channel, name: str, value: bytes | str, *, reply: bool
    ) -> None:
        """Send a request about a channel without waiting for the answer."""
        message = paramiko.Message()
        message.add_byte(common.cMSG_CHANNEL_REQUEST)
        message.add_int(channel.remote_chanid)
        message.add_string(name)
        message.add_boolean(reply)
        message.add_string(value)
        channel.transport._send_user_message(message)  # type: ignore[union-attr]

    def request_terminal(self, channel: paramiko.Channel) -> None:
        """Have the server run what comes next on a terminal, which passes on every byte as it is.

        A server that refuses says nothing: the command finds that it has none.
        """
        message = paramiko.Message()
        message.add_byte(common.cMSG_CHANNEL_REQUEST)
        message.add_int(channel.remote_chanid)
        message.add_string("pty-req")
        message.add_boolean(False)
        message.add_string("vt100")
        for number in (80, 24, 0, 0):
            message.add_int(number)
        off = b"".join(struct.pack("!BI", mode, 0) for mode in _COOKED_MODES)
        message.add_string(off + b"\0")
        channel.transport._send_user_message(message)  # type: ignore[union-attr]


def _watched(kind: int, handler: Callable[..., None]) -> Callable[..., None]:
    def handle(channel: Any, message: paramiko.Message) -> None:
        watcher = channel.transport.watchers.get(channel.chanid)
        if watcher is None:
            handler(channel, message)
            return
        # a copy, since reading a message uses it up
        watcher.heard(kind, paramiko.Message(message.get_remainder()))
        handler(channel, message)
        watcher.handled(kind)

    return handle


_handlers: dict[int, Callable[..., None]] = paramiko.Transport._channel_handler_table  # type: ignore[attr-defined]
Wire._channel_handler_table = {  # type: ignore[attr-defined]
    kind: _watched(kind, handler) for kind, handler in _handlers.items()
}


class Connection:
    """An authenticated connection. Its pool counts `busy` and decides with it."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.busy = 0
        self.capacity = CHANNELS
        self.retired = False

    @property
    def usable(self) -> bool:
        return self.wire.is_active() and not self.retired

    def open_channel(self) -> paramiko.Channel:
        """Open a channel for one command, or raise NotStarted."""
        try:
            channel = self.wire.open_session(timeout=CHANNEL_SECONDS)
        except (paramiko.SSHException, OSError, EOFError) as error:
            # refusing is an answer; without one, whoever comes next need not wait for it as well
            self.retired = self.retired or not isinstance(error, paramiko.ChannelException)
            raise errors.NotStarted(f"no channel for the command: {_text(error)}") from error
        channel.in_buffer = _Received()  # type: ignore[assignment]
        channel.transport = _Line(self.wire)  # type: ignore[assignment]
        return channel

    def close(self) -> None:
        """End the connection and every command on it."""
        self.wire.close()

    def abandon(self) -> None:
        """Let go of a connection that belongs to the parent of this process.

        It is kept, since to take it apart paramiko wants locks that a thread of the parent may
        have held.
        """
        self.wire.active = False  # type: ignore[attr-defined]
        self.wire.sock.close()
        _abandoned.append(self)


_abandoned: list[Connection] = []


def connect(target: Target) -> Connection:
    """Connect, check the host key and authenticate, or raise NotStarted."""
    wire = Wire(_socket(target))
    try:
        _shake_hands(wire, target)
        _authenticate(wire, target)
    except BaseException:
        wire.close()
        raise
    wire.keep_alive()
    return Connection(wire)


def _socket(target: Target) -> socket.socket:
    address = (target.host, target.port)
    try:
        plain = socket.create_connection(address, timeout=target.connect_seconds)
    except OSError as error:
        raise errors.NotStarted(f"cannot connect to {target}: {_text(error)}") from error
    sock = _Socket(fileno=plain.detach())
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_SECONDS * 1000)
    return sock


def _shake_hands(wire: Wire, target: Target) -> None:
    verifier = hostkeys.Verifier(target.host, target.port, target.known_hosts)
    _choose_algorithms(wire, verifier.kinds())
    wire.banner_timeout = wire.handshake_timeout = target.connect_seconds
    try:
        wire.start_client(timeout=target.connect_seconds)
        key = wire.get_remote_server_key()
    except paramiko.ssh_exception.IncompatiblePeer as error:
        message = f"{target} and we share no modern algorithm: {_text(error)}"
        raise errors.NotStarted(message, retryable=False) from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise errors.NotStarted(f"no SSH handshake with {target}: {_text(error)}") from error
    verifier.check(key.get_name(), key.asbytes())


def _choose_algorithms(wire: Wire, known: Sequence[str]) -> None:
    options = wire.get_security_options()
    options.kex = _available(KEX, options.kex)
    options.ciphers = _available(CIPHERS, options.ciphers)
    options.digests = _available(MACS, options.digests)
    # A server has several keys: ask for one that we know.
    first = [kind for kind in HOST_KEYS if _key_kind(kind) in known]
    options.key_types = _available(dict.fromkeys([*first, *HOST_KEYS]), options.key_types)


def _key_kind(algorithm: str) -> str:
    return "ssh-rsa" if algorithm.startswith("rsa-sha2") else algorithm


def _available(wanted: Any, offered: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in wanted if name in offered)


def _authenticate(wire: Wire, target: Target) -> None:
    refusal = "the agent holds no key"
    with _keys(target) as keys:
        for key in keys:
            try:
                if not wire.auth_publickey(target.user, key):
                    return
                refusal = "it wants more than a key"
            except (paramiko.SSHException, OSError, EOFError) as error:
                refusal = _text(error)
                if not wire.is_active():
                    message = f"{target} hung up during authentication: {refusal}"
                    raise errors.NotStarted(message) from error
    tried = target.key_file or "the keys of the SSH agent"
    raise errors.NotStarted(f"{target} does not accept {tried}: {refusal}", retryable=False)


@contextlib.contextmanager
def _keys(target: Target) -> Iterator[Sequence[paramiko.PKey]]:
    if target.key_file is not None:
        yield [_key_from(target.key_file)]
        return
    try:
        agent = paramiko.Agent()
    except (paramiko.SSHException, OSError) as error:
        message = f"the SSH agent does not answer: {_text(error)}"
        raise errors.NotStarted(message, retryable=False) from error
    try:
        yield agent.get_keys()
    finally:
        agent.close()


def _key_from(path: pathlib.Path) -> paramiko.PKey:
    try:
        _check_private(path)
        return paramiko.PKey.from_path(path)
    except (OSError, ValueError, TypeError, paramiko.SSHException) as error:
        # TypeError is what a key with a passphrase ends in
        reason = "it has a passphrase" if isinstance(error, TypeError) else _text(error)
        message = f"cannot read the key {path}: {reason}"
        raise errors.NotStarted(message, retryable=False) from error


def _check_private(path: pathlib.Path) -> None:
    status = path.stat()
    # as OpenSSH: a key of another user may be shared with a group on purpose
    if status.st_uid == os.geteuid() and status.st_mode & 0o077:
        message = f"cannot read the key {path}: others may read it as well, chmod 600 it"
        raise errors.NotStarted(message, retryable=False)


def _text(error: BaseException) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number is not None and number in errno.errorcode:
        return os.strerror(number)
    return str(error) or type(error).__name__
