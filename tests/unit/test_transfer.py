# SPDX-License-Identifier: Apache-2.0
"""What is sent from one node to another, after what the other has, and after failures."""

import contextlib
import struct

import pytest

from nova_smartos.operations import transfer
from nova_smartos.smartos import errors, node
from tests.unit import fake_transport

UUID = "11111111-2222-4333-8444-555555555555"
NAME = f"zones/{UUID}"
TOKEN = "1-c740b4779-c8-789c636064000310a500c4ec50360710e72765a5269730"
GET = ("zfs", "get", "-Hp", "-o", "property,value")
STREAM = struct.pack("<IIQQ", 0, 0, 0x2F5BACBAC, 1) + b"stream"
RECEIVE = ("zfs", "receive", "-u", "-s")
Answer = fake_transport.Answer


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.0)


def token(value: str) -> Answer:
    return Answer((*GET, "receive_resume_token", NAME), f"receive_resume_token\t{value}\n")


def nothing() -> Answer:
    said = f"cannot open '{NAME}': dataset does not exist\n"
    return Answer((*GET, "receive_resume_token", NAME), stderr=said, returncode=1)


def listed(*shorts: str) -> Answer:
    columns = "name,type,creation,used,available,referenced,quota,refquota,refreservation"
    flags = ("-o", f"{columns},volsize,origin", "-t", "snapshot", "-d", "1")
    rows = "".join(f"{NAME}@{each}\tsnapshot\t0" + "\t-" * 8 + "\n" for each in shorts)
    return Answer(("zfs", "list", "-Hp", *flags, NAME), rows)


def sent(*arguments: str) -> Answer:
    return Answer(("zfs", "send", *arguments), STREAM)


def received(*flags: str, said: str = "") -> Answer:
    return Answer((*RECEIVE, *flags, NAME), stderr=said, returncode=int(bool(said)))


def part(*shorts: str, origin: str | None = None) -> transfer.Part:
    return transfer.Part(NAME, shorts, origin)


def bring(part: transfer.Part, here: list[Answer], there: list[Answer]) -> transfer.Transfer:
    source, target = fake_transport.Transport(*here), fake_transport.Transport(*there)
    with source, target:
        moving = transfer.Transfer(node.Node(source), node.Node(target), UUID)
        moving.bring(part)
    return moving


def test_one_snapshot_after_the_other() -> None:
    """A stream of several would say itself where they belong."""
    moving = bring(
        part("a", "b", "c"),
        [
            sent(f"{NAME}@a"),
            sent("-i", f"{NAME}@a", f"{NAME}@b"),
            sent("-i", f"{NAME}@b", f"{NAME}@c"),
        ],
        [nothing(), received(), received("-F"), received("-F")],
    )
    assert moving.sent_bytes == 3 * len(STREAM)


@pytest.mark.parametrize("size", [1, 23, 1000])
@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_a_stream_that_would_lead_zfs_is_not_passed_on(
    version: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first bytes come in pieces of any size."""
    stream = struct.pack("<IIQQ", 0, 0, 0x2F5BACBAC, version) + b"more"
    monkeypatch.setattr(
        fake_transport.Process, "read", lambda self, most: self.stdout.read(min(most, size))
    )
    here, there = [sent(f"{NAME}@a")], [nothing(), received()]
    here[0].stdout = stream
    source, target = fake_transport.Transport(*here), fake_transport.Transport(*there)
    moving = transfer.Transfer(node.Node(source), node.Node(target), UUID)
    refusal = pytest.raises(errors.OutputError, match="is not one snapshot")
    with contextlib.nullcontext() if version == 1 else refusal:
        moving.bring(part("a"))
    taken = [each.stdin.getvalue() for each in target.processes]
    assert taken == ([stream] if version == 1 else [b""])


def test_a_clone_of_what_both_have() -> None:
    origin = "zones/image@final"
    guid = Answer((*GET, "guid", origin), "guid\t7\n")
    bring(
        part("a", origin=origin),
        [guid, sent("-i", origin, f"{NAME}@a")],
        [nothing(), guid, received()],
    )


def test_a_clone_of_what_is_another_there() -> None:
    origin = "zones/image@final"
    one, other = (Answer((*GET, "guid", origin), f"guid\t{each}\n") for each in (7, 8))
    bring(
        part("a", origin=origin),
        [one, sent(f"{NAME}@a")],
        [nothing(), other, received()],
    )


def test_a_stream_that_broke_goes_on_where_it_ended() -> None:
    broken = received(said="cannot receive: checksum mismatch or incomplete stream.\n")
    bring(
        part("a"),
        [sent(f"{NAME}@a"), sent("-t", TOKEN)],
        [nothing(), broken, token(TOKEN), listed(), received(), listed("a")],
    )


def test_what_cannot_be_built_upon_is_sent_anew() -> None:
    said = f"cannot receive incremental stream: most recent snapshot of {NAME} does not\n"
    bring(
        part("a", "b"),
        [sent("-i", f"{NAME}@a", f"{NAME}@b"), sent(f"{NAME}@a")]
        + [sent("-i", f"{NAME}@a", f"{NAME}@b")],
        [token("-"), listed("a"), received("-F", said=said)]
        + [Answer(("zfs", "destroy", "-r", NAME)), nothing(), received(), received("-F")],
    )


def test_a_full_pool_ends_it_at_once() -> None:
    said = "cannot receive new filesystem stream: out of space\n"
    with pytest.raises(errors.NoSpace):
        bring(part("a"), [sent(f"{NAME}@a")], [nothing(), received(said=said)])


def test_what_never_works_ends_after_some_attempts() -> None:
    here = [sent(f"{NAME}@a")] * transfer.ATTEMPTS
    there = [nothing(), received(said="it does not work\n")] * transfer.ATTEMPTS
    with pytest.raises(errors.ToolError, match="does not work"):
        bring(part("a"), here, there)


def test_nothing_is_sent_after_its_end() -> None:
    nobody = node.Node(fake_transport.refusing())
    moving = transfer.Transfer(nobody, nobody, UUID)
    moving.end()
    with pytest.raises(transfer.Ended):
        moving.bring(part("a"))
