# SPDX-License-Identifier: Apache-2.0
"""The VMs as last heard of: what is believed, for how long, and who is told what."""

import contextlib
import io
import json
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from nova_smartos.operations import watch
from nova_smartos.smartos import errors, node, transport, vms
from nova_smartos.translate import identity, state
from tests import emulated, waits

SECONDS = 30
DATE = "2026-01-01T00:00:00.000Z"
GONE = errors.NotStarted("no route to the node")


def uuid(number: int = 1) -> str:
    return f"11111111-2222-4333-8444-{number:012}"


def mark(host: str = "compute1") -> dict[str, str]:
    names = ("name", "display_name", "project_id", "user_id", "image_ref", "created_at")
    document = {"version": 1, "host": host, "flavor": {}, **dict.fromkeys(names, "")}
    return {identity.KEY: json.dumps(document)}


def a_vm(number: int = 1, shown: str = "running", **more: Any) -> dict[str, Any]:
    """A VM of Nova's as vmadm prints it."""
    usual = {"uuid": uuid(number), "brand": "joyent", "zone_state": "running", "autoboot": True}
    return {**usual, "state": shown, "internal_metadata": mark(), **more}


def ready(*shown: dict[str, Any]) -> bytes:
    known = {vm["uuid"]: vm for vm in shown}
    return line("ready", uuid(0), vms=known)


def line(kind: str, uuid_: str, **more: Any) -> bytes:
    return json.dumps({"type": kind, "date": DATE, "uuid": uuid_, **more}).encode() + b"\n"


def modify(shown: dict[str, Any]) -> bytes:
    return line("modify", shown["uuid"], vm=shown)


class Stream(io.RawIOBase):
    """The output of `vmadm events`, written by the test as it goes on."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
        self.stdin = io.BytesIO()
        self.stdout = io.BufferedReader(self)
        self._rest = b""
        self.killed = threading.Event()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            said = self._lines.get()
            if isinstance(said, Exception):
                raise said
            self._rest = said
        piece, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def say(self, *said: bytes | Exception) -> None:
        for each in said:
            self._lines.put(each)

    def close_stdin(self) -> None:
        """Nobody reads it."""

    def kill(self) -> None:
        self.killed.set()
        self.say(b"")

    def wait(self) -> transport.Result:
        return transport.Result(("vmadm",), -9 if self.killed.is_set() else 1, "", "socket hang up")


class Carrier:
    """A node that the test makes up: its VMs, its streams, and what goes wrong."""

    def __init__(self, *shown: dict[str, Any]) -> None:
        self.vms = list(shown)
        self.commands: list[tuple[str, ...]] = []
        self.error: Exception | None = None
        self.streams: queue.SimpleQueue[Stream | Exception] = queue.SimpleQueue()
        #: while it is not set, a command does not answer
        self.answers = threading.Event()
        self.answers.set()

    def run(self, command: transport.Command) -> transport.Result:
        self.commands.append(command.argv)
        found = list(self.vms)
        assert self.answers.wait(SECONDS)
        if self.error is not None:
            raise self.error
        if command.argv == ("vmadm", "lookup", "-j"):
            return transport.Result(command.argv, 0, json.dumps(found))
        verb, wanted = command.argv[1:]
        assert verb == "get"
        for vm in found:
            if vm["uuid"] == wanted:
                return transport.Result(command.argv, 0, json.dumps(vm))
        said = f"Unable to get VM info for VM {wanted}: bad statusCode: 404"
        return transport.Result(command.argv, 1, "", said)

    @contextlib.contextmanager
    def stream(self, command: transport.Command) -> Iterator[Stream]:
        stream = self.streams.get()
        if isinstance(stream, Exception):
            raise stream
        yield stream

    def close(self) -> None:
        """Nothing is open."""


class World:
    """A watch over a made-up node, and what it told."""

    def __init__(self, *shown: dict[str, Any], **options: Any) -> None:
        self.carrier = Carrier(*shown)
        self.told: queue.SimpleQueue[tuple[vms.Vm | None, vms.Vm | None]] = queue.SimpleQueue()
        self.watch = watch.Watch(
            node.Node(self.carrier), lambda old, new: self.told.put((old, new)), **options
        )
        self.stream = Stream()

    def __enter__(self) -> "World":
        self.watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.carrier.answers.set()
        self.carrier.streams.put(errors.NotStarted("the test is over"))
        self.watch.stop()

    def connect(self) -> Stream:
        """Let the watch follow a new stream, which tells of the VMs that the node has."""
        self.stream = Stream()
        self.stream.say(ready(*self.carrier.vms))
        self.carrier.streams.put(self.stream)
        waits.until(lambda: self.watch.current)
        return self.stream

    def lose(self, problem: bytes | Exception = b"") -> None:
        self.stream.say(problem)
        waits.until(lambda: not self.watch.current)

    def news(self) -> tuple[str | None, str | None]:
        """The next thing that was told: a VM's state before and after."""
        old, new = self.told.get(timeout=SECONDS)
        return old.state if old else None, new.state if new else None


def test_what_the_stream_told_needs_no_command() -> None:
    with World(a_vm(1), a_vm(2, "stopped")) as world:
        world.connect()
        assert set(world.watch.vms()) == {uuid(1), uuid(2)}
        assert world.watch.get(uuid(2)).state == "stopped"
        assert world.carrier.commands == []


def test_changes_are_told_as_they_come() -> None:
    with World(a_vm(1)) as world:
        stream = world.connect()
        stream.say(line("create", uuid(2), vm=a_vm(2, "provisioning")))
        assert world.news() == (None, "provisioning")
        stream.say(modify(a_vm(1, "stopped")))
        assert world.news() == ("running", "stopped")
        stream.say(line("delete", uuid(1)))
        assert world.news() == ("stopped", None)
        assert set(world.watch.vms()) == {uuid(2)}


def test_what_is_not_ours_is_known_and_not_told() -> None:
    with World(a_vm(1), a_vm(2, internal_metadata={})) as world:
        stream = world.connect()
        stream.say(modify(a_vm(2, "stopped", internal_metadata={})), modify(a_vm(1, "stopped")))
        assert world.news() == ("running", "stopped")
        assert world.told.empty()
        assert world.watch.get(uuid(2)).state == "stopped"


@pytest.mark.parametrize(
    "odd",
    [
        b"not JSON\n",
        b'{"type": "modify"}\n',
        b'{"type": "modify", "date": "yesterday", "uuid": "1"}\n',
        b"[]\n",
        line("modify", uuid(9), vm={"uuid": uuid(9)}),
        b"\xff\xfe\n",
    ],
)
def test_an_event_that_is_not_understood_ends_nothing(odd: bytes) -> None:
    """LP 1487025: one bad event stopped all later ones. The next question asks the node."""
    with World(a_vm(1)) as world:
        stream = world.connect()
        stream.say(odd, modify(a_vm(1, "stopped")))
        assert world.news() == ("running", "stopped")
        world.carrier.vms = [a_vm(1, "stopped")]
        assert set(world.watch.vms()) == {uuid(1)}
        assert world.carrier.commands == [("vmadm", "lookup", "-j")]
        assert world.watch.current


@pytest.mark.parametrize("end", [b"}\n", b"\xff\n", b"}"])
def test_no_secret_of_such_an_event_is_logged(end: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with World(a_vm(1)) as world:
        stream = world.connect()
        stream.say(b'{"vm": {"internal_metadata": {"root_pw": "hunter2secret"}' + end)
        stream.say(b"" if not end.endswith(b"\n") else modify(a_vm(1, "stopped")))
        waits.until(lambda: "vmadm events: " in caplog.text)
    assert "hunter2" not in caplog.text


def test_an_event_of_a_kind_to_come_is_let_pass() -> None:
    with World(a_vm(1)) as world:
        world.connect().say(line("hiccup", uuid(1)), modify(a_vm(1, "stopped")))
        assert world.news() == ("running", "stopped")
        world.watch.vms()
        assert world.carrier.commands == []


def test_who_is_told_may_fail() -> None:
    """LP 1487025 once more: an instance that Nova does not find."""
    told: queue.SimpleQueue[str] = queue.SimpleQueue()

    def changed(old: vms.Vm | None, new: vms.Vm | None) -> None:
        assert new is not None
        told.put(new.uuid)
        if new.uuid == uuid(1):
            raise LookupError("no such instance")

    world = World(a_vm(1), a_vm(2))
    world.watch = watch.Watch(node.Node(world.carrier), changed)
    with world:
        world.connect().say(modify(a_vm(1, "stopped")))
        assert told.get(timeout=SECONDS) == uuid(1)
        world.stream.say(modify(a_vm(2, "stopped")))
        assert told.get(timeout=SECONDS) == uuid(2)


@pytest.mark.parametrize("end", [b"", errors.OutcomeUnknown("the connection broke")])
def test_a_broken_stream_is_followed_again(end: bytes | Exception) -> None:
    """What changed meanwhile is told; what did not, is not."""
    with World(a_vm(1), a_vm(2), a_vm(3)) as world:
        world.connect()
        world.lose(end)
        world.carrier.streams.put(GONE)
        world.carrier.streams.put(GONE)
        world.carrier.vms = [a_vm(1, "stopped"), a_vm(3), a_vm(4)]
        world.connect()
        assert {world.news() for _ in range(3)} == {
            ("running", "stopped"),
            ("running", None),
            (None, "running"),
        }
        assert world.told.empty()


def test_the_first_view_is_not_news() -> None:
    with World(a_vm(1)) as world:
        world.watch.vms()
        world.connect().say(modify(a_vm(1, "stopped")))
        assert world.news() == ("running", "stopped")


def test_a_lost_stream_is_not_believed() -> None:
    with World(a_vm(1)) as world:
        world.connect()
        world.lose()
        world.carrier.vms = [a_vm(1, "stopped")]
        assert world.watch.get(uuid(1)).state == "stopped"


def test_an_unreachable_node_is_not_a_node_without_vms() -> None:
    with World(a_vm(1)) as world:
        world.connect()
        world.lose()
        world.carrier.error = GONE
        for _ in range(3):
            with pytest.raises(errors.NotStarted):
                world.watch.vms()
            with pytest.raises(errors.NotStarted):
                world.watch.get(uuid(1))
        with pytest.raises(errors.NotStarted):
            world.watch.get(uuid(1), fresh=True)
        assert world.told.empty()
        # the failure serves whoever asks right after it: they do not all wait for a time-out
        assert world.carrier.commands.count(("vmadm", "lookup", "-j")) == 1


def test_a_thousand_instances_are_one_command() -> None:
    world = World(*(a_vm(number) for number in range(1000)))
    with world:
        for number in range(1000):
            assert world.watch.get(uuid(number)).uuid == uuid(number)
        assert world.carrier.commands == [("vmadm", "lookup", "-j")]


def test_who_asks_at_once_shares_one_command() -> None:
    with World(a_vm(1)) as world:
        world.carrier.answers.clear()
        found: queue.SimpleQueue[int] = queue.SimpleQueue()
        askers = [
            threading.Thread(target=lambda: found.put(len(world.watch.vms()))) for _ in range(20)
        ]
        for asker in askers:
            asker.start()
        waits.until(lambda: world.carrier.commands)
        world.carrier.answers.set()
        for asker in askers:
            asker.join(SECONDS)
        assert [found.get(timeout=SECONDS) for _ in askers] == [1] * 20
        assert world.carrier.commands == [("vmadm", "lookup", "-j")]


def test_a_stream_that_is_quiet_for_long_is_verified() -> None:
    """There is no heartbeat: an event that got lost shows in the look, and is told."""
    with World(a_vm(1), verify_seconds=0.0) as world:
        world.connect()
        world.carrier.vms = [a_vm(1, "stopped")]
        assert world.watch.get(uuid(1)).state == "stopped"
        assert world.news() == ("running", "stopped")
        assert world.watch.current


def test_a_fresh_answer_comes_from_the_node() -> None:
    """LP 1815791: a state that was out of date made Nova stop what ran."""
    with World(a_vm(1, "stopped")) as world:
        world.connect()
        world.carrier.vms = [a_vm(1)]
        assert world.watch.get(uuid(1)).state == "stopped"
        assert world.watch.get(uuid(1), fresh=True).state == "running"
        assert world.watch.get(uuid(1)).state == "running"
        assert world.carrier.commands == [("vmadm", "get", uuid(1))]


def test_only_the_node_says_that_a_vm_is_not_there() -> None:
    with World() as world:
        world.connect()
        world.carrier.vms = [a_vm(1)]
        assert world.watch.get(uuid(1)).state == "running"
        with pytest.raises(errors.NotFound):
            world.watch.get(uuid(2))
        assert world.carrier.commands == [("vmadm", "get", uuid(1)), ("vmadm", "get", uuid(2))]


@pytest.mark.parametrize("ask", [lambda w: w.vms(), lambda w: w.get(uuid(1), fresh=True)])
def test_an_answer_is_older_than_what_was_heard_meanwhile(ask: Any) -> None:
    with World(a_vm(1), verify_seconds=0.0) as world:
        stream = world.connect()
        world.carrier.answers.clear()
        asker = threading.Thread(target=ask, args=(world.watch,))
        asker.start()
        waits.until(lambda: world.carrier.commands)
        stream.say(modify(a_vm(1, "stopped")))
        assert world.news() == ("running", "stopped")
        world.carrier.answers.set()
        asker.join(SECONDS)
        assert world.told.empty()
        known = world.watch._vms[uuid(1)]
        assert known.state == "stopped"


def test_a_reboot_does_not_flash_as_a_shutdown() -> None:
    with World(a_vm(1, zoneid=1), settle_seconds=SECONDS) as world:
        stream = world.connect()
        for shown in ("shutting_down", "down", "stopped", "ready"):
            stream.say(modify(a_vm(1, shown)))
        stream.say(modify(a_vm(1, zoneid=2)))
        told = []
        while not told or told[-1][1].zoneid != 2:
            told.append(world.told.get(timeout=SECONDS))
        assert [state.transition(old, new) for old, new in told] == [None] * len(told)


def test_a_shutdown_is_told_within_the_second() -> None:
    with World(a_vm(1)) as world:
        world.connect().say(modify(a_vm(1, "stopped")))
        began = time.monotonic()
        assert world.news() == ("running", "stopped")
        assert time.monotonic() - began < 1


def test_nova_is_not_told_what_it_does_itself() -> None:
    with World(a_vm(1), a_vm(2)) as world:
        stream = world.connect()
        with world.watch.changing(uuid(1), lambda vm: vm is not None and vm.state == "stopped"):
            stream.say(modify(a_vm(1, "stopped")), modify(a_vm(2, "stopped")))
        assert world.watch.get(uuid(1)).state == "stopped"
        assert world.told.get(timeout=SECONDS)[1].uuid == uuid(2)
        stream.say(modify(a_vm(1)))
        assert world.news() == ("stopped", "running")


def test_what_a_failed_change_has_done_is_news() -> None:
    with World(a_vm(1)) as world:
        stream = world.connect()
        with pytest.raises(errors.ToolError), world.watch.changing(uuid(1)):
            stream.say(modify(a_vm(1, "stopped")))
            waits.until(lambda: world.watch.get(uuid(1)).state == "stopped")
            raise errors.ToolError("it failed after it had done its work")
        assert world.news() == ("running", "stopped")


def test_what_was_not_told_yet_is_told_when_the_change_fails() -> None:
    with World(a_vm(1), settle_seconds=0.3) as world:
        world.connect().say(modify(a_vm(1, "stopped")))
        waits.until(lambda: world.watch.get(uuid(1)).state == "stopped")
        with pytest.raises(errors.ToolError), world.watch.changing(uuid(1)):
            raise errors.ToolError("it failed at once")
        assert world.news() == ("running", "stopped")


def test_what_the_stream_told_of_our_change_is_fresh() -> None:
    """Nova looks after each change, and before the next: the node is not asked what it has told."""
    with World(a_vm(1)) as world:
        stream = world.connect()
        with world.watch.changing(uuid(1), lambda vm: vm is not None and vm.state == "stopped"):
            stream.say(modify(a_vm(1, "stopped")))
        assert world.watch.get(uuid(1), fresh=True, echo=True).state == "stopped"
        stream.say(modify(a_vm(1)))
        assert world.news() == ("stopped", "running")
        assert world.watch.get(uuid(1), fresh=True, echo=True).state == "running"
        assert world.carrier.commands == []
        world.lose()
        world.carrier.vms = []
        with pytest.raises(errors.NotFound):
            world.watch.get(uuid(1), fresh=True, echo=True)


def test_a_stream_without_word_of_our_change_is_doubted() -> None:
    with World(a_vm(1)) as world:
        world.connect()
        world.carrier.vms = [a_vm(1, "stopped")]
        with world.watch.changing(uuid(1), lambda vm: vm is not None and vm.state == "stopped"):
            pass
        assert world.watch.get(uuid(1)).state == "stopped"
        assert world.carrier.commands == [("vmadm", "lookup", "-j")]


@pytest.mark.parametrize("shown", [a_vm(1, "stopped"), a_vm(1, zoneid=2)])
def test_a_guest_stands_still_until_it_goes_down(shown: dict[str, Any]) -> None:
    with World(a_vm(1, zoneid=1)) as world:
        stream = world.connect()
        world.watch.note_paused(uuid(1), True)
        stream.say(modify(a_vm(1, zoneid=1, alias="other")))
        waits.until(lambda: world.watch.get(uuid(1)).alias == "other")
        assert world.watch.paused(uuid(1))
        stream.say(modify(shown))
        waits.until(lambda: not world.watch.paused(uuid(1)))


def test_waiting_ends_with_the_event() -> None:
    with World(a_vm(1, "shutting_down")) as world:
        stream = world.connect()
        stream.say(modify(a_vm(1, "stopped")))
        found = world.watch.wait(uuid(1), lambda vm: vm is not None and state.is_off(vm), SECONDS)
        assert found is not None and found.state == "stopped"


def test_waiting_needs_no_stream_and_ends_in_time() -> None:
    with World(a_vm(1)) as world:
        found = world.watch.wait(uuid(1), lambda vm: vm is not None and state.is_off(vm), 0.2)
        assert found is not None and found.state == "running"
        world.carrier.vms = []
        assert world.watch.wait(uuid(1), lambda vm: vm is None, SECONDS) is None


def test_it_stops_while_it_follows() -> None:
    world = World(a_vm(1))
    with world:
        world.connect()
    assert world.stream.killed.is_set()
    assert not [thread for thread in world.watch._threads if thread.is_alive()]


def test_it_stops_while_it_connects() -> None:
    """The thread that waits for a connection is left to end with that."""
    world = World(a_vm(1))
    world.watch.start()
    began = time.monotonic()
    world.watch.stop()
    assert time.monotonic() - began < SECONDS / 3
    world.carrier.streams.put(Stream())
    for thread in world.watch._threads:
        thread.join(SECONDS)
        assert not thread.is_alive()


def test_it_stops_while_it_pauses() -> None:
    with World(a_vm(1)) as world:
        for _ in range(3):
            world.carrier.streams.put(GONE)
        waits.until(world.carrier.streams.empty)
    assert not [thread for thread in world.watch._threads if thread.is_alive()]


# On an emulated node

SPEED = "40"


def fault(emulator: emulated.EmulatedNode, *words: str) -> None:
    emulator.command("fault", str(emulator.directory), *words)


@pytest.fixture(scope="module")
def emulator() -> Iterator[emulated.EmulatedNode]:
    with emulated.EmulatedNode("--speed", SPEED, "--ssh", "127.0.0.1:0") as made:
        yield made


@pytest.fixture
def told() -> "queue.SimpleQueue[Any]":
    return queue.SimpleQueue()


@pytest.fixture
def followed(
    emulator: emulated.EmulatedNode, told: "queue.SimpleQueue[Any]"
) -> Iterator[watch.Watch]:
    """A watch over the node, through SSH."""
    ssh = emulator.facts()["ssh"]
    gz = node.Node.ssh(
        ssh["host"],
        port=ssh["port"],
        user=ssh["user"],
        key_file=ssh["identity"],
        known_hosts_file=ssh["known_hosts"],
        pfexec=False,
    )
    with gz:
        made = watch.Watch(gz, lambda old, new: told.put((old, new, time.monotonic())))
        made.start()
        waits.until(lambda: made.current)
        yield made
        fault(emulator, "clear")
        made.stop()


@pytest.fixture
def zone(emulator: emulated.EmulatedNode, followed: watch.Watch) -> Iterator[str]:
    """A zone of Nova's that runs."""
    name = uuid(int(time.time() * 1000) % 10**12)
    image = emulator.tool("imgadm", "list", "-H", "-o", "uuid").split() or [emulator.image("zone")]
    payload = {"uuid": name, "brand": "joyent", "image_uuid": image[0], "quota": 5}
    payload |= {"max_physical_memory": 256, "internal_metadata": mark()}
    emulator.tool("vmadm", "create", payload=json.dumps(payload))
    waits.until(lambda: followed.get(name).state == "running")
    yield name
    fault(emulator, "clear")
    emulator.tool("vmadm", "delete", name)


def transition(told: "queue.SimpleQueue[Any]", name: str, wanted: int) -> float:
    """When this was told of a VM."""
    while True:
        old, new, when = told.get(timeout=SECONDS)
        if (new or old).uuid == name and state.transition(old, new) == wanted:
            return float(when)


def test_a_guest_that_shuts_itself_down(
    emulator: emulated.EmulatedNode, followed: watch.Watch, zone: str, told: Any
) -> None:
    emulator.tool("zlogin", zone, "shutdown", "-y", "-g", "0", "-i", "5")
    waits.until(lambda: emulator.tool("vmadm", "lookup", "state=stopped", f"uuid={zone}"))
    known = time.monotonic()
    assert transition(told, zone, 1) - known < 1
    assert state.is_off(followed.get(zone))
    emulator.tool("vmadm", "start", zone)
    assert transition(told, zone, 0)


def test_a_guest_that_reboots_itself(
    emulator: emulated.EmulatedNode, followed: watch.Watch, zone: str, told: Any
) -> None:
    before = followed.get(zone).zoneid
    emulator.tool("zlogin", zone, "reboot")
    waits.until(lambda: followed.get(zone).zoneid not in (before, None))
    waits.until(lambda: followed.get(zone).state == "running")
    while not told.empty():
        old, new, _ = told.get()
        assert state.transition(old, new) is None


def test_a_connection_that_breaks(
    emulator: emulated.EmulatedNode, followed: watch.Watch, zone: str, told: Any
) -> None:
    fault(emulator, "add", "vmadm", "lose-before", "--match", "lookup")
    with pytest.raises(errors.OutcomeUnknown):
        followed._node.vmadm.lookup()
    waits.until(lambda: not followed.current)
    fault(emulator, "clear")
    emulator.tool("zlogin", zone, "shutdown", "-y", "-g", "0", "-i", "5")
    assert transition(told, zone, 1)
    waits.until(lambda: followed.current)
    assert state.is_off(followed.get(zone))


def test_vminfod_goes_and_comes_back(
    emulator: emulated.EmulatedNode, followed: watch.Watch, zone: str, told: Any
) -> None:
    fault(emulator, "vminfod", "down")
    waits.until(lambda: not followed.current)
    with pytest.raises(errors.ToolError):
        followed.vms()
    with pytest.raises(errors.ToolError):
        followed.get(zone, fresh=True)
    fault(emulator, "vminfod", "up")
    waits.until(lambda: followed.current)
    assert followed.get(zone).state == "running"
