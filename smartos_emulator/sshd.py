# SPDX-License-Identifier: Apache-2.0
"""The node's SSH: a real OpenSSH server with its default session limits, as an ordinary user."""

import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import typing

from smartos_emulator import clock

if typing.TYPE_CHECKING:
    from smartos_emulator import node as node_module

_START_SECONDS = 10


class Unavailable(Exception):
    """There is no OpenSSH server to start."""


class Server:
    """One sshd, its keys and what a client needs to reach it."""

    def __init__(self, node: "node_module.Node") -> None:
        self._node = node
        self.address, _, port = node.config.ssh.rpartition(":")
        self.port = int(port)
        self._keys = node.path("/usbkey/ssh")
        self._client = node.dir / "ssh"
        self._pid_file = node.dir / "run" / "sshd.pid"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def user(self) -> str:
        return pwd.getpwuid(os.geteuid()).pw_name

    def start(self) -> None:
        """Start the server; it listens when this returns."""
        self._reap()
        self._make_keys()
        config = self._write_config()
        if os.geteuid() == 0:
            pathlib.Path("/run/sshd").mkdir(exist_ok=True)
        with open(self._node.dir / "log" / "sshd.log", "ab") as log:
            self._process = subprocess.Popen(
                [program("sshd"), "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._pid_file.write_text(str(self._process.pid))
        self._wait_until_it_listens()

    def stop(self) -> None:
        """Stop the server and cut every session."""
        if self._process:
            _kill_family(self._process.pid)
            self._process.wait()
            self._pid_file.unlink(missing_ok=True)

    def cut(self, pid: int) -> None:
        """Break the connection whose session the process `pid` belongs to."""
        if self._process is None:
            return
        line = [pid]
        while line[-1] > 1 and line[-1] != self._process.pid:
            line.append(_stat(line[-1])[1])
        if line[-1] == self._process.pid:
            os.kill(next(p for p in line if _stat(p)[0].startswith("sshd")), signal.SIGKILL)

    def facts(self) -> dict[str, typing.Any]:
        """How to reach the node: what `smartos-emulator status` shows."""
        return {
            "host": self.address,
            "port": self.port,
            "user": self.user,
            "identity": str(self._client / "id_ed25519"),
            "known_hosts": str(self._client / "known_hosts"),
        }

    def _make_keys(self) -> None:
        for folder in (self._keys, self._client, self._node.path("/usbkey/config.inc")):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for key in (self._keys / "ssh_host_ed25519_key", self._client / "id_ed25519"):
            if not key.exists():
                keygen = [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
                subprocess.run([*keygen, "-C", self._node.config.name], check=True)
        allowed = self._node.path("/usbkey/config.inc/authorized_keys")
        if not allowed.exists():
            shutil.copy(self._client / "id_ed25519.pub", allowed)
            allowed.chmod(0o600)
        host_key = (self._keys / "ssh_host_ed25519_key.pub").read_text().split()[:2]
        name = f"[{self.address}]:{self.port}" if self.port != 22 else self.address
        (self._client / "known_hosts").write_text(f"{name} {' '.join(host_key)}\n")

    def _write_config(self) -> pathlib.Path:
        folders = [self._node.dir / "bin", "/usr/bin", "/bin", self._node.path("/opt/custom/bin")]
        search = ":".join(map(str, folders))
        # SHLVL: bash reads ~/.bashrc for every remote command unless it believes itself nested
        options = f"""
            ListenAddress {self.address}
            Port {self.port}
            HostKey "{self._keys / "ssh_host_ed25519_key"}"
            AuthorizedKeysFile "{self._node.path("/usbkey/config.inc/authorized_keys")}"
            PidFile none
            StrictModes no
            UsePAM no
            PasswordAuthentication no
            KbdInteractiveAuthentication no
            PermitRootLogin prohibit-password
            AllowUsers {self.user}
            SetEnv PATH="{search}" SHLVL=5
        """
        path = self._node.dir / "run" / "sshd_config"
        path.write_text("\n".join(line.strip() for line in options.strip().splitlines()) + "\n")
        return path

    def _wait_until_it_listens(self) -> None:
        assert self._process
        deadline = clock.Deadline(_START_SECONDS)
        while not deadline.passed():
            if self._process.poll() is not None:
                raise Unavailable(f"sshd ended at once: see {self._node.dir}/log/sshd.log")
            with socket.socket(_family(self.address)) as probe:
                if probe.connect_ex((self.address, self.port)) == 0:
                    return
            deadline.pause()
        raise Unavailable(f"sshd did not listen on {self.address}:{self.port}")

    def _reap(self) -> None:
        """End the server that a killed daemon left behind."""
        if self._pid_file.exists():
            pid = int(self._pid_file.read_text())
            if _stat(pid)[0].startswith("sshd"):
                _kill_family(pid)
            self._pid_file.unlink()


def program(name: str) -> str:
    """The absolute path of a program of OpenSSH, as it insists on."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise Unavailable(f"{name} is missing: install the package openssh-server")
    return os.path.abspath(path)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _stat(pid: int) -> tuple[str, int]:
    """Name and parent of a process; of one that is gone, nothing and 0."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    name, _, rest = stat.partition("(")[2].rpartition(")")
    return name, int(rest.split()[1])


def _kill_family(pid: int) -> None:
    """Kill a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            children.setdefault(_stat(int(entry.name))[1], []).append(int(entry.name))
    family = [pid]
    for member in family:
        family += children.get(member, [])
    for member in family:
        try:
            os.kill(member, signal.SIGKILL)
        except ProcessLookupError:
            continue
