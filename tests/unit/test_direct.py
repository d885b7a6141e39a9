# SPDX-License-Identifier: Apache-2.0
"""From node to node without this process, and what happens where that does not work."""

import contextlib
import os
import pathlib
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from nova_smartos.operations import transfer
from nova_smartos.smartos import direct, errors, node, transport
from tests import direct as operators
from tests import emulated, waits

pytestmark = pytest.mark.skipif(
    not (shutil.which("sshd") or os.path.exists("/usr/sbin/sshd")),
    reason="the package openssh-server is missing",
)


class Pair:
    """Two nodes, and a server's dataset on the first."""

    def __init__(self, here: emulated.EmulatedNode, there: emulated.EmulatedNode) -> None:
        self.here, self.there = here, there
        self.source, self.target = reached(here), reached(there)
        ssh = there.facts()["ssh"]
        self.address = direct.Address(ssh["host"], ssh["port"], ssh["user"])
        self.uuid = str(uuid.uuid4())
        self.name = f"zones/{self.uuid}"
        #: what this process has read to pass it on
        self.relayed: list[Sequence[str]] = []
        self._sent = self.source.zfs.sent
        self.source.zfs.sent = self._relay  # type: ignore[method-assign]

    def _relay(self, words: Sequence[str]) -> Any:
        self.relayed.append(words)
        return self._sent(words)

    def make(self, mib: int = 1) -> None:
        """Make the dataset, with files and two snapshots."""
        self.source.zfs.create(self.name)
        self.write("first", b"1" * mib * 2**20)
        self.source.zfs.snapshot(f"{self.name}@a")
        self.write("second", b"2")
        self.source.zfs.snapshot(f"{self.name}@b")

    def write(self, name: str, data: bytes) -> None:
        (self.here.directory / "root" / self.name / name).write_bytes(data)

    def moving(self, **more: int) -> transfer.Transfer:
        return transfer.Transfer(self.source, self.target, self.uuid, address=self.address, **more)

    def part(self) -> transfer.Part:
        return transfer.Part(self.name, tuple("ab"), properties={transfer.COPY: self.uuid})

    def arrived(self) -> bool:
        """Whether the target has all of it, as it is."""
        here, there = (
            [gz.zfs.get(f"{self.name}@{each}", "guid") for each in "ab"]
            for gz in (self.source, self.target)
        )
        marked = self.target.zfs.get(self.name, transfer.COPY)[transfer.COPY] == self.uuid
        return marked and here == there

    def spoil(self, where: emulated.EmulatedNode, kind: str, match: str, *more: str) -> None:
        words = (kind, "--match", match, "--count", "1", *more)
        where.command("fault", str(where.directory), "add", "zfs", *words)


def reached(emulated_node: emulated.EmulatedNode, **more: Any) -> node.Node:
    ssh = emulated_node.facts()["ssh"]
    return node.Node.ssh(
        ssh["host"],
        port=ssh["port"],
        user=ssh["user"],
        key_file=ssh["identity"],
        known_hosts_file=ssh["known_hosts"],
        **more,
    )


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[emulated.EmulatedNode, emulated.EmulatedNode]]:
    with contextlib.ExitStack() as stack:
        options = ("--ssh", "127.0.0.1:0", "--speed", "20")
        here, there = (stack.enter_context(emulated.EmulatedNode(*options)) for _ in range(2))
        operators.let(here, there)
        yield here, there


@pytest.fixture
def pair(nodes: tuple[emulated.EmulatedNode, emulated.EmulatedNode]) -> Iterator[Pair]:
    pair = Pair(*nodes)
    yield pair
    for each in nodes:
        each.command("fault", str(each.directory), "clear")
    for gz in (pair.source, pair.target):
        with contextlib.suppress(errors.NotFound):
            gz.zfs.destroy(pair.name, recursive=True)
        gz.close()


def running(gz: node.Node, word: str) -> list[str]:
    """The commands on a node that have the word in them."""
    return [each.arguments for each in gz.ps.list() if word in each.arguments]


def waiting(there: emulated.EmulatedNode) -> list[list[bytes]]:
    """The scripts on a node, which a stream may not have reached yet."""
    script = str(there.directory / "root/opt/custom/bin/smartos-direct").encode()
    found = []
    for each in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = each.read_bytes().split(b"\0")
            found += [words] if script in words and b"receive" in words else []
    return found


def test_it_goes_straight_to_the_other_node(pair: Pair) -> None:
    pair.make()
    pair.moving().bring(pair.part())
    assert pair.arrived()
    assert pair.relayed == []


def test_how_far_it_has_come_is_told(pair: Pair) -> None:
    pair.make(mib=30)
    moving = pair.moving()
    moving.bring(pair.part())
    assert 0 < moving.sent_bytes < 31 * 2**20
    assert pair.relayed == []


def test_whether_it_can_is_asked(pair: Pair) -> None:
    pair.source.direct.check(pair.address)
    with not_let_in(pair), pytest.raises(errors.ToolError, match="Permission denied"):
        pair.source.direct.check(pair.address)


def test_a_filesystem_does_not_pass_for_a_disk(pair: Pair) -> None:
    pair.make()
    sent = pair.source.zfs.sending(f"{pair.name}@a")
    disk = f"{pair.name}-disk0"
    received = pair.target.zfs.receiving(disk, properties={transfer.COPY: pair.uuid})
    with (
        pytest.raises(errors.ToolError, match="its stream is not of one"),
        pair.source.direct.send(pair.address, sent, received) as stream,
    ):
        list(stream.lines())
    with pytest.raises(errors.NotFound):
        pair.target.zfs.get(disk, "type")


def test_with_a_limit_it_goes_through_here(pair: Pair) -> None:
    pair.make()
    pair.moving(mib_per_second=1000).bring(pair.part())
    assert pair.arrived()
    assert len(pair.relayed) == 2


@pytest.mark.parametrize(
    ("where", "kind", "match", "more"),
    [
        ("here", "fail", "^send -vP", ("--stderr", "cannot send: it is ill\n")),
        ("here", "truncate", "^send -vP", ("--bytes", "500000")),
        ("here", "lose-before", "^send -vP", ()),
        ("there", "fail", "^receive", ("--stderr", "cannot receive: it is ill\n")),
        ("there", "die-before", "^receive", ()),
        ("there", "die-after", "^receive", ()),
        ("there", "lose-before", "^receive", ()),
    ],
)
def test_where_it_does_not_work_it_goes_through_here(
    pair: Pair, where: str, kind: str, match: str, more: tuple[str, ...]
) -> None:
    pair.make()
    pair.spoil(getattr(pair, where), kind, match, *more)
    pair.moving().bring(pair.part())
    assert pair.arrived()
    assert pair.relayed


@contextlib.contextmanager
def not_let_in(pair: Pair) -> Iterator[None]:
    allowed = pair.there.directory / "root/usbkey/config.inc/authorized_keys"
    before = allowed.read_text()
    allowed.write_text("".join(line for line in before.splitlines(True) if "direct" not in line))
    try:
        yield
    finally:
        allowed.write_text(before)


def test_a_node_that_is_not_let_in_goes_through_here(pair: Pair) -> None:
    pair.make()
    with not_let_in(pair):
        pair.moving().bring(pair.part())
    assert pair.arrived()
    assert pair.relayed


def test_a_stream_that_stands_still_is_given_up(pair: Pair) -> None:
    pair.make()
    pair.spoil(pair.here, "hang", "^send -vP")
    pair.source.close()
    pair.source = reached(pair.here, timeouts=transport.Timeouts(stream_idle=1.0))
    pair.moving().bring(pair.part())
    assert pair.arrived()


def test_what_still_receives_is_waited_for(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.make()
    pair.spoil(pair.there, "hang", "^receive")
    pair.source.close()
    pair.source = reached(pair.here, timeouts=transport.Timeouts(stream_idle=1.0))
    waited = transfer.wait_until_still
    found: list[str] = []

    def wait(target: node.Node, name: str) -> None:
        # nobody hears what it does, and it does it all the same
        found.extend(running(target, name))
        with monkeypatch.context() as short, pytest.raises(errors.InvalidState, match="still at"):
            short.setattr(transfer, "STILL_SECONDS", 0.0)
            waited(target, name)
        pair.there.command("fault", str(pair.there.directory), "clear")
        waited(target, name)
        assert not running(target, name)

    monkeypatch.setattr(transfer, "wait_until_still", wait)
    pair.moving().bring(pair.part())
    assert any("zfs receive" in each for each in found)
    assert pair.arrived()


def test_whoever_ends_it_ends_it_on_both_nodes(pair: Pair) -> None:
    pair.make()
    pair.spoil(pair.here, "hang", "^send -vP")
    moving = pair.moving()
    ended: list[BaseException] = []

    def bring() -> None:
        try:
            moving.bring(pair.part())
        except transfer.Ended as error:
            ended.append(error)

    thread = threading.Thread(target=bring)
    thread.start()
    try:
        waits.until(lambda: running(pair.source, pair.uuid), "it to begin")
        waits.until(lambda: waiting(pair.there), "it to reach the other node")
    finally:
        moving.end()
        thread.join(waits.SECONDS)
    assert [type(each) for each in ended] == [transfer.Ended]
    waits.until(lambda: not running(pair.source, pair.uuid), "its commands to end")
    waits.until(lambda: not waiting(pair.there), "those on the other node to end")
    assert pair.relayed == []
