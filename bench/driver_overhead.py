# SPDX-License-Identifier: Apache-2.0
"""What the driver adds to a launch, and what each operation sends to the node.

The driver creates a zone over SSH, on a node that takes its time as a real one does; in turns with
it, ssh runs `vmadm create` with the very payload that the driver has sent, over a connection that
is kept. Nova's services do not run: the driver is called as ComputeManager calls it.
"""

import contextlib
import io
import os
import pathlib
import shlex
import statistics
import subprocess
import tempfile
import time
import typing
import uuid
import warnings

from bench import nodes, report
from bench import transport as openssh

# as nova-compute begins
os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "True"
with warnings.catch_warnings():
    # Nova's own test code says much that is not ours to mend
    warnings.simplefilter("ignore")
    from nova import monkey_patch

    monkey_patch.patch()
    from nova.virt import fake
    from nova.virt import node as nova_node
    from oslo_utils import uuidutils

    from nova_smartos import conf as smartos_conf
    from nova_smartos import driver as driver_module
    from nova_smartos.operations import signing
    from nova_smartos.smartos import node, transport
    from tests.faults import operations
    from tests.faults import world as worlds
    from tests.functional import cloud

PAIRS, UNCACHED = 7, 3
#: What the driver may take besides: the issue's own number.
ALLOWED_SECONDS = 0.030
#: In an order in which each finds the VM as it wants it.
_OPERATIONS: dict[str, typing.Callable[[worlds.World, worlds.Server], None]] = {
    "launch": operations.launch,
    "stop": operations.stop,
    "start": operations.start,
    "reboot": operations.hard_reboot,
    "attach": operations.attach,
    "snapshot": operations.snapshot,
    "delete": operations.delete,
}


class Counted:
    """A transport that remembers what was sent."""

    def __init__(self, carrier: transport.Transport) -> None:
        self._carrier = carrier
        self.commands: list[transport.Command] = []
        self.sent = 0

    def run(self, command: transport.Command) -> transport.Result:
        """Run it, and count it with its input."""
        self._count(command)
        return self._carrier.run(command)

    @contextlib.contextmanager
    def stream(self, command: transport.Command) -> typing.Iterator[transport.Process]:
        """Run it, and count what is written while it runs, too."""
        self._count(command)
        with self._carrier.stream(command) as process:
            yield typing.cast(transport.Process, _Process(process, self))

    def close(self) -> None:
        """Give back connections."""
        self._carrier.close()

    def _count(self, command: transport.Command) -> None:
        self.commands.append(command)
        self.sent += len(shlex.join(command.argv).encode()) + len(command.stdin)


class _Process:
    """A running command whose input is counted."""

    def __init__(self, process: transport.Process, counted: Counted) -> None:
        self._process = process
        self.stdin = _Input(process.stdin, counted)

    def __getattr__(self, name: str) -> typing.Any:
        return getattr(self._process, name)


class _Input(io.RawIOBase):
    """Standard input that counts what is written."""

    def __init__(self, stdin: typing.BinaryIO, counted: Counted) -> None:
        super().__init__()
        self._stdin, self._counted = stdin, counted

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: typing.Any) -> int:
        """Pass it on."""
        self._counted.sent += len(data)
        return self._stdin.write(data)


class World(worlds.World):
    """A driver that reaches its node over SSH, and whose node and waits are as they are."""

    def _setUp(self) -> None:
        self._begin("--speed", "1", "--ssh", "127.0.0.1:0")
        self._options()
        self._serve()
        self.scaffold.stub_out("nova_smartos.conf.connect", self._connected)
        # whose signatures are Nova's, without types
        made: typing.Any = driver_module.SmartOSDriver
        self.driver = made(fake.FakeVirtAPI())
        self.driver.init_host(worlds.HOST)
        self.addCleanup(self.driver.cleanup_host, worlds.HOST)
        self.driver.cache_image(self.context, self.image("zone").id)

    def _options(self) -> None:
        nova_node.LOCAL_NODE_UUID = None
        smartos_conf.register(cloud.CONF)
        key = self.folder / "signing-key"
        key.write_text("a key of the cloud's own, of 32 bytes and more")
        options = {
            **cloud.connection(self.node, over_ssh=True),
            "trusted_image_owners": ["*"],
            "network_mappings": ["*:*:external"],
            "spool_directory": str(self.folder / "spool"),
            signing.OPTION: str(key),
        }
        self.scaffold.flags(host=worlds.HOST, state_path=str(self.folder))
        for name, value in options.items():
            cloud.CONF.set_override(name, value, smartos_conf.GROUP)

    def _connected(self, conf: typing.Any) -> node.Node:
        # what a test itself asks of the node is not counted
        self.gz = _connect(conf)
        self.counted = Counted(self.gz.transport)
        return node.Node(self.counted)


_connect = smartos_conf.connect


def run(found: report.Report) -> None:
    """Measure launches in pairs, and count what operations send."""
    warnings.simplefilter("ignore")
    with World() as world, tempfile.TemporaryDirectory() as folder:
        kept = openssh.OpenSSH(world.node.facts()["ssh"], pathlib.Path(folder) / "control")
        kept.run()
        with contextlib.closing(kept):
            _launches(found, world, kept.words)
        _sent(found, world)


def _launches(found: report.Report, world: World, ssh: list[str]) -> None:
    """The driver's launch and the command by hand, in turns; then with images of their own."""
    _, payload = _spawned(world)
    _by_hand(ssh, payload)
    spawned: list[float] = []
    by_hand: list[float] = []
    for turn in range(PAIRS):
        for mine in (True, False)[:: 1 - turn % 2 * 2]:
            if mine:
                seconds, payload = _spawned(world)
                spawned.append(seconds)
            else:
                by_hand.append(_by_hand(ssh, payload))
    ratio = statistics.median(
        (mine - ALLOWED_SECONDS) / other for mine, other in zip(spawned, by_hand, strict=True)
    )
    meaning = (
        f"(spawn - {ALLOWED_SECONDS * 1000:.0f} ms) in parts of vmadm create by hand, the image "
        f"being there, median of {PAIRS} pairs"
    )
    found.figure("spawn_over_by_hand", ratio, meaning, "<= 1.05")
    uncached = [_spawned(world, new_image=True)[0] for _ in range(UNCACHED)]
    for name, meaning, each in (
        ("spawn_s", "spawn, the image being there", spawned),
        ("by_hand_s", "vmadm create of the same payload over ssh with ControlMaster", by_hand),
        ("spawn_uncached_s", "spawn, a small image brought to the node first", uncached),
    ):
        found.series[f"{name.removesuffix('_s').replace('_', ' ')} (s)"] = each
        spread = f"; from {min(each):.3g} to {max(each):.3g}"
        found.figure(name, statistics.median(each), f"{meaning}, median{spread}")


def _spawned(world: World, *, new_image: bool = False) -> tuple[float, bytes]:
    """Seconds that the driver takes for a launch, and what vmadm create was given; gone again."""
    server = world.server("zone", new_image=new_image)
    world.counted.commands.clear()
    start = time.perf_counter()
    operations.spawn(world, server)
    seconds = time.perf_counter() - start
    created = [each for each in world.counted.commands if each.argv[:2] == ("vmadm", "create")]
    world.launched(server)
    operations.delete(world, server)
    (payload,) = [each.stdin for each in created]
    return seconds, payload.replace(server.instance.uuid.encode(), b"%UUID%")


def _by_hand(ssh: list[str], payload: bytes) -> float:
    """Seconds that ssh takes for the same payload; the VM is gone again."""
    name = str(uuid.uuid4())
    start = time.perf_counter()
    document = payload.replace(b"%UUID%", name.encode())
    subprocess.run([*ssh, "vmadm", "create"], input=document, capture_output=True, check=True)
    seconds = time.perf_counter() - start
    nodes.run([*ssh, "vmadm", "delete", name])
    return seconds


def _sent(found: report.Report, world: World) -> None:
    """Commands and bytes of each operation, one after the other, on one server."""
    server = world.server("zone")
    for name, operation in _OPERATIONS.items():
        world.counted.commands.clear()
        world.counted.sent = 0
        operation(world, server)
        told = [_shown(each) for each in world.counted.commands]
        found.figure(f"{name}_commands", len(told), f"on the node: {', '.join(told) or 'none'}")
        found.figure(f"{name}_bytes", world.counted.sent, "arguments and input of these")


def _shown(command: transport.Command) -> str:
    """The tool, and what it is to do."""
    words = [each for each in command.argv if not uuidutils.is_uuid_like(each)]
    return " ".join(words[:2])
