# SPDX-License-Identifier: Apache-2.0
"""A real OpenSSH server on a loopback port, run as the current user, for tests."""

import getpass
import os
import pathlib
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable
from typing import Any, Self

import pytest

from nova_smartos.smartos import transport
from tests import waits

SSHD = "/usr/sbin/sshd"
#: Where sshd, run by root, wants an empty directory.
PRIVILEGE_DIRECTORY = pathlib.Path("/run/sshd")
WAIT = 20.0

CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintMotd no
LogLevel VERBOSE
# a login shell's startup files are not for us: SHLVL keeps bash from reading ~/.bashrc
SetEnv PATH={path} SHLVL=5
{extra}
"""


class Server:
    """An sshd with keys of its own; `options` are lines for its configuration."""

    def __init__(self, directory: pathlib.Path, options: Iterable[str] = ()) -> None:
        self.directory = directory
        self.port = free_port()
        self.known_hosts = directory / "known_hosts"
        self.key_file = directory / "user_key"
        self.log = directory / "log"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        require()
        keygen(self.directory / "host_key")
        keygen(self.key_file)
        self.authorize()
        self.known_hosts.write_text(self.known_line())
        self.config = self.directory / "sshd_config"
        self.config.write_text(
            CONFIG.format(
                port=self.port,
                directory=self.directory,
                path=os.environ["PATH"],
                extra="\n".join(self._options),
            )
        )
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start sshd and wait until it listens."""
        self.log.write_text("")
        self._process = subprocess.Popen([SSHD, "-D", "-E", self.log, "-f", self.config])
        try:
            waits.until(lambda: "Server listening" in self.log.read_text(errors="replace"))
        except AssertionError:
            raise AssertionError(f"sshd does not start:\n{self.log.read_text()}") from None

    def stop(self) -> None:
        """End sshd and every connection to it, without a good-bye."""
        if self._process is None:
            return
        process, self._process = self._process, None
        # parents first and stopped first, so that none of them tells that a child ended
        pids = [process.pid, *reversed(descendants(process.pid))]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
        process.wait(WAIT)

    def authorize(self, options: str = "") -> None:
        """Let the user's key in, with options as authorized_keys takes them."""
        public = self.key_file.with_suffix(".pub").read_text()
        (self.directory / "authorized_keys").write_text(f"{options} {public}".lstrip())

    def known_line(self, port: int | None = None) -> str:
        """Return the line of known_hosts for this server, as seen at a port."""
        kind, key, *_ = (self.directory / "host_key.pub").read_text().split()
        return f"[127.0.0.1]:{port or self.port} {kind} {key}\n"

    def connect(self, **options: Any) -> transport.SSH:
        """Return the toolkit's transport to this server."""
        arguments: dict[str, Any] = {
            "port": self.port,
            "user": getpass.getuser(),
            "key_file": self.key_file,
            "known_hosts_file": self.known_hosts,
            "pfexec": False,
            "retry_seconds": 5.0,
        }
        return transport.SSH("127.0.0.1", **(arguments | options))


def require() -> None:
    """Skip the test where there is no OpenSSH server."""
    missing = [tool for tool in (SSHD, "ssh-keygen") if shutil.which(tool) is None]
    if missing:
        reason = f"needs {' and '.join(missing)}: install OpenSSH's server and client"
        if os.environ.get("SMARTOS_EMULATOR_REQUIRE"):
            pytest.fail(reason)
        pytest.skip(reason)
    if os.geteuid() == 0:
        PRIVILEGE_DIRECTORY.mkdir(mode=0o755, exist_ok=True)


def keygen(path: pathlib.Path) -> None:
    """Make a key pair without a passphrase."""
    path.unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True, timeout=WAIT, stdin=subprocess.DEVNULL)


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """Return the processes below a process, of every session."""
    found = []
    for task in _tasks(pid):
        try:
            children = (task / "children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in map(int, children):
            found += [*descendants(child), child]
    return found


def _tasks(pid: int) -> list[pathlib.Path]:
    try:
        return list(pathlib.Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return []
