# SPDX-License-Identifier: Apache-2.0
"""What a stream of 4 GiB costs the toolkit, each way, as a process here and through SSH."""

import json
import pathlib
import socket
import subprocess
import sys
import time

from bench import nodes, report
from nova_smartos.smartos import transport
from nova_smartos.smartos.transport import local, ssh

GIB = 1 << 30
STREAM_BYTES = 4 * GIB
CHUNK = 256 * 1024


def run(found: report.Report) -> None:
    """Measure four streams, each in a process of its own so that its memory is only its own."""
    port = free_port()
    with nodes.up("--ssh", f"127.0.0.1:{port}") as node:
        status = nodes.run([nodes.EMULATOR, "status", str(node), "--json"])
        facts = json.loads(status)["ssh"]
        for kind in ("local", "ssh"):
            for direction in ("down", "up"):
                _measure(found, kind, direction, facts)


def _measure(found: report.Report, kind: str, direction: str, facts: dict[str, str | int]) -> None:
    words = [sys.executable, "-m", "bench.transport", kind, direction, json.dumps(facts)]
    output = subprocess.run(words, capture_output=True, check=True, timeout=nodes.SECONDS).stdout
    seen = json.loads(output)
    rate = STREAM_BYTES / 2**20 / seen["seconds"]
    way = {"down": "from the node", "up": "to the node"}[direction]
    meaning = f"MiB of memory that 4 GiB {way} take, {kind}"
    found.figure(f"{kind}_{direction}_growth_mib", seen["growth_mib"], meaning, "<= 64")
    found.figure(f"{kind}_{direction}_mib_per_second", rate, f"speed {way}, {kind}")


def _stream(kind: str, direction: str, facts: dict[str, str | int]) -> dict[str, float]:
    carrier = reached(kind, facts)
    carrier.run(transport.Command(("true",)))
    before, start = peak_mib(), time.perf_counter()
    moved = {"down": _down, "up": _up}[direction](carrier)
    seconds = time.perf_counter() - start
    carrier.close()
    if moved != STREAM_BYTES:
        raise RuntimeError(f"{moved} bytes arrived, not {STREAM_BYTES}")
    return {"seconds": seconds, "growth_mib": peak_mib() - before}


def _down(carrier: transport.Transport) -> int:
    moved = 0
    argv = ("head", "-c", str(STREAM_BYTES), "/dev/zero")
    with carrier.stream(transport.Command(argv, timeout=transport.Timeout.STREAM)) as process:
        process.close_stdin()
        while chunk := process.stdout.read(CHUNK):
            moved += len(chunk)
        process.wait()
    return moved


def _up(carrier: transport.Transport) -> int:
    chunk = bytes(CHUNK)
    command = transport.Command(("wc", "-c"), timeout=transport.Timeout.STREAM)
    with carrier.stream(command) as process:
        for _ in range(STREAM_BYTES // CHUNK):
            process.stdin.write(chunk)
        process.close_stdin()
        counted = process.stdout.read()
        process.wait()
    return int(counted)


def reached(kind: str, facts: dict[str, str | int]) -> transport.Transport:
    """The way to the node that `facts` tell of, if it is one through SSH."""
    if kind == "local":
        return local.Local()
    return ssh.SSH(
        str(facts["host"]),
        port=int(facts["port"]),
        user=str(facts["user"]),
        key_file=str(facts["identity"]),
        known_hosts_file=str(facts["known_hosts"]),
        pfexec=False,
    )


def peak_mib() -> float:
    """The most memory this process has held so far.

    From the kernel's own mark: getrusage() counts what the parent held before it started us.
    """
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def free_port() -> int:
    """A port that nobody has, at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


if __name__ == "__main__":
    print(json.dumps(_stream(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
