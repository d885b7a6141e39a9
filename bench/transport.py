# SPDX-License-Identifier: Apache-2.0
"""What our SSH takes beside OpenSSH's, in turns: one command, many at once, and streams.

OpenSSH runs with a connection that is kept (ControlMaster), and with a new one for each command.
What the node does is the same for all, and next to nothing. Then: what a stream of 4 GiB costs the
toolkit, each way, as a process here and through SSH.
"""

import concurrent.futures
import contextlib
import json
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import typing

from bench import nodes, report
from nova_smartos.smartos import transport
from nova_smartos.smartos.transport import connection, local, ssh

GIB = 1 << 30
STREAM_BYTES = 4 * GIB
CHUNK = 256 * 1024
#: Commands at once, and how often each way runs them.
ROUNDS = {1: 30, 10: 7, 50: 3}
#: Streams of so many bytes, each way.
PAIRS, PAIR_BYTES = 5, GIB // 2
#: What ssh ends with when not the command failed, but the connection.
_NO_CONNECTION = 255
#: How often a command is tried at most that finds no place.
_TRIES = 100
_WAYS = {"down": "from the node", "up": "to the node"}
_TRUE = transport.Command(("true",))


class OpenSSH:
    """The ssh of this machine, with a connection that is kept or without."""

    def __init__(self, facts: dict[str, str | int], control: pathlib.Path | None = None) -> None:
        options = [f"UserKnownHostsFile={facts['known_hosts']}", "BatchMode=yes"]
        if control is not None:
            options += [f"ControlPath={control}", "ControlMaster=auto", "ControlPersist=yes"]
        flags = [word for option in options for word in ("-o", option)]
        where = ["-p", str(facts["port"]), f"{facts['user']}@{facts['host']}"]
        self.words = ["ssh", "-F", "none", "-i", str(facts["identity"]), *flags, *where]
        #: how often there was no place for a command, which was then tried again
        self.refused = 0

    def run(self) -> None:
        """Run a command that does nothing."""
        for _ in range(_TRIES):
            done = subprocess.run([*self.words, "true"], capture_output=True, check=False)
            if done.returncode != _NO_CONNECTION:
                done.check_returncode()
                return
            self.refused += 1
        raise RuntimeError(f"ssh finds no place: {done.stderr.decode(errors='replace').strip()}")

    def down(self, path: pathlib.Path) -> int:
        """Read a file of the node; how many bytes came."""
        moved = 0
        with subprocess.Popen(
            [*self.words, "cat", str(path)], stdout=subprocess.PIPE, bufsize=0
        ) as process:
            assert process.stdout is not None
            while chunk := process.stdout.read(CHUNK):
                moved += len(chunk)
        return moved

    def up(self, size: int) -> int:
        """Send bytes that the node counts."""
        chunk = bytes(CHUNK)
        with subprocess.Popen(
            [*self.words, "wc", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            for _ in range(size // CHUNK):
                process.stdin.write(chunk)
            process.stdin.close()
            return int(process.stdout.read())

    def cipher(self) -> str:
        """What a new connection is encrypted with."""
        told = subprocess.run([*self.words, "-v", "true"], capture_output=True, check=True)
        return told.stderr.decode().partition("server->client cipher: ")[2].split()[0]

    def close(self) -> None:
        """Give up the connection that is kept."""
        nodes.run([*self.words, "-O", "exit"])


def run(found: report.Report) -> None:
    """Measure commands, streams in pairs, and four long streams.

    Each of these in a process of its own, so that its memory is only its own.
    """
    port = free_port()
    with nodes.up("--ssh", f"127.0.0.1:{port}") as node, contextlib.ExitStack() as stack:
        status = nodes.run([nodes.EMULATOR, "status", str(node), "--json"])
        facts = json.loads(status)["ssh"]
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        carrier = reached("ssh", facts)
        stack.callback(carrier.close)
        fresh, kept = OpenSSH(facts), OpenSSH(facts, pathlib.Path(folder) / "control")
        kept.run()
        stack.callback(kept.close)
        _commands(found, carrier, kept, fresh)
        _streams(found, carrier, kept, fresh.cipher(), node / "stream")
        for kind in ("local", "ssh"):
            for direction in ("down", "up"):
                _measure(found, kind, direction, facts)


def _commands(
    found: report.Report, carrier: transport.Transport, kept: OpenSSH, fresh: OpenSSH
) -> None:
    """Commands that do nothing, one and several at once."""
    ways: dict[str, typing.Callable[[], object]] = {
        "ours": lambda: carrier.run(_TRUE),
        "controlmaster": kept.run,
        "new": fresh.run,
    }
    # as many connections as ours ever has
    _at_once(ways["ours"], max(ROUNDS))
    for count, rounds in ROUNDS.items():
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(rounds):
            # neither always first
            for way in list(ways)[:: 1 - turn % 2 * 2]:
                seconds[way].append(_at_once(ways[way], count))
        name = "command" if count == 1 else f"commands_{count}"
        for way, each in seconds.items():
            found.series[f"{count} at once, {way} (s)"] = each
            meaning = f"{count} at once until the last has ended, {way}, median{_range(each)}"
            found.figure(f"{name}_s_{way}", statistics.median(each), meaning)
        for way in ("controlmaster", "new"):
            ratio = _ratio(seconds["ours"], seconds[way])
            meaning = f"ours in parts of OpenSSH's, {way}, median of {rounds} pairs"
            want = "<= 1.5" if (count, way) == (1, "controlmaster") else None
            found.figure(f"{name}_to_{way}", ratio, meaning, want)
    for way, client in (("controlmaster", kept), ("new", fresh)):
        meaning = f"of OpenSSH's, {way}, with no place at sshd, which were tried again"
        found.figure(f"refused_{way}", client.refused, meaning)


def _streams(
    found: report.Report,
    carrier: transport.Transport,
    kept: OpenSSH,
    cipher: str,
    path: pathlib.Path,
) -> None:
    """The same bytes from a file of the node and to it, read and written in this process."""
    with path.open("wb") as file:
        file.truncate(PAIR_BYTES)
    both: dict[str, tuple[typing.Callable[[], int], typing.Callable[[], int]]] = {
        "down": (lambda: _down(carrier, ("cat", str(path))), lambda: kept.down(path)),
        "up": (lambda: _up(carrier, PAIR_BYTES), lambda: kept.up(PAIR_BYTES)),
    }
    ratios = []
    for direction, ways in both.items():
        times: tuple[list[float], list[float]] = ([], [])
        for turn in range(PAIRS):
            for number in (0, 1)[:: 1 - turn % 2 * 2]:
                start = time.perf_counter()
                moved = ways[number]()
                times[number].append(time.perf_counter() - start)
                if moved != PAIR_BYTES:
                    raise RuntimeError(f"{moved} bytes arrived, not {PAIR_BYTES}")
        size = f"{PAIR_BYTES // 2**20} MiB"
        for whose, each in zip(("ours", "ssh cat"), times, strict=True):
            found.series[f"{size} {_WAYS[direction]}, {whose} (s)"] = each
            speed = PAIR_BYTES / 2**20 / statistics.median(each)
            meaning = f"{size} {_WAYS[direction]}, {whose}"
            name = whose.replace(" ", "_")
            found.figure(f"{name}_{direction}_mib_per_second", speed, meaning)
        mine, other = times
        # of speeds, which is the other way round
        ratios.append(_ratio(other, mine))
        meaning = f"speed {_WAYS[direction]} in parts of ssh cat's, median of {PAIRS} pairs"
        found.figure(f"stream_{direction}_to_ssh_cat", ratios[-1], meaning)
    meaning = f"the worse of both; ours by {connection.CIPHERS[0]}, OpenSSH's by {cipher}"
    found.figure("stream_to_ssh_cat", min(ratios), meaning, ">= 0.9")


def _at_once(work: typing.Callable[[], object], count: int) -> float:
    """Seconds that it takes to do something so many times at once."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        start = time.perf_counter()
        for done in [pool.submit(work) for _ in range(count)]:
            done.result()
        return time.perf_counter() - start


def _ratio(mine: typing.Sequence[float], other: typing.Sequence[float]) -> float:
    """The median of pairs: what was measured one after the other meets the same busy moments."""
    return statistics.median(a / b for a, b in zip(mine, other, strict=True))


def _range(values: typing.Sequence[float]) -> str:
    return f"; from {min(values):.3g} to {max(values):.3g}"


def _measure(found: report.Report, kind: str, direction: str, facts: dict[str, str | int]) -> None:
    words = [sys.executable, "-m", "bench.transport", kind, direction, json.dumps(facts)]
    output = subprocess.run(words, capture_output=True, check=True, timeout=nodes.SECONDS).stdout
    seen = json.loads(output)
    rate = STREAM_BYTES / 2**20 / seen["seconds"]
    way = _WAYS[direction]
    meaning = f"MiB of memory that 4 GiB {way} take, {kind}"
    found.figure(f"{kind}_{direction}_growth_mib", seen["growth_mib"], meaning, "<= 64")
    found.figure(f"{kind}_{direction}_mib_per_second", rate, f"speed {way}, {kind}")


def _stream(kind: str, direction: str, facts: dict[str, str | int]) -> dict[str, float]:
    carrier = reached(kind, facts)
    carrier.run(_TRUE)
    before, start = peak_mib(), time.perf_counter()
    if direction == "down":
        moved = _down(carrier, ("head", "-c", str(STREAM_BYTES), "/dev/zero"))
    else:
        moved = _up(carrier, STREAM_BYTES)
    seconds = time.perf_counter() - start
    carrier.close()
    if moved != STREAM_BYTES:
        raise RuntimeError(f"{moved} bytes arrived, not {STREAM_BYTES}")
    return {"seconds": seconds, "growth_mib": peak_mib() - before}


def _down(carrier: transport.Transport, argv: tuple[str, ...]) -> int:
    moved = 0
    with carrier.stream(transport.Command(argv, timeout=transport.Timeout.STREAM)) as process:
        process.close_stdin()
        while chunk := process.stdout.read(CHUNK):
            moved += len(chunk)
        process.wait()
    return moved


def _up(carrier: transport.Transport, size: int) -> int:
    chunk = bytes(CHUNK)
    command = transport.Command(("wc", "-c"), timeout=transport.Timeout.STREAM)
    with carrier.stream(command) as process:
        for _ in range(size // CHUNK):
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
