# SPDX-License-Identifier: Apache-2.0
"""zfs beyond the golden cases: streams between nodes, and names that are refused."""

import io
import struct
from collections.abc import Callable

import pytest

from nova_smartos.smartos import errors, zfs
from tests.unit import fake_transport


def test_a_stream_from_one_node_to_another() -> None:
    data = bytes(range(256)) * 8192
    sender = fake_transport.expecting(
        "zfs", "send", "-R", "-p", "-I", "zones/x@a", "zones/x@b", stdout=data
    )
    argv = "zfs receive -u -s -F -o quota=none -x encryption tank/x".split()
    receiver = fake_transport.expecting(*argv)
    sending = zfs.Zfs(sender).send(
        "zones/x@b", base="zones/x@a", intermediates=True, properties=True, replicate=True
    )
    with sender, receiver, sending as stream:
        zfs.Zfs(receiver).receive(
            stream,
            "tank/x",
            exclude=["encryption"],
            force=True,
            properties={"quota": "none"},
            resumable=True,
        )
    stdin = receiver.processes[0].stdin
    assert isinstance(stdin, io.BytesIO) and stdin.getvalue() == data


def test_which_stream_says_itself_where_it_goes() -> None:
    for features in (0, 1, 1 << 24):
        assert [
            version
            for version in range(4)
            if zfs.is_plain(struct.pack("<IIQQ", 0, 0, 0x2F5BACBAC, features << 2 | version))
        ] == [1]
    for head in ((1, 0, 0x2F5BACBAC, 1), (0, 0, 0x2F5BACBAB, 1)):
        assert not zfs.is_plain(struct.pack("<IIQQ", *head))


def test_what_a_dataset_has_of_its_own() -> None:
    words = "zfs get -Hp -o property,value -s local,received all zones/x".split()
    rows = "quota\t5\nmountpoint\t/a b\nown:text\tone\nmountpoint\t/etc\n"
    with fake_transport.expecting(*words, stdout=rows) as carrier:
        assert zfs.Zfs(carrier).own("zones/x") == {
            "quota": "5",
            "mountpoint": "/a b",
            "own:text": "one\nmountpoint\t/etc",
        }


def test_a_failed_send_is_never_a_short_stream() -> None:
    carrier = fake_transport.expecting(
        "zfs",
        "send",
        "zones/x@b",
        stdout=b"half",
        stderr="cannot open 'zones/x@b': dataset does not exist\n",
        returncode=1,
    )
    with zfs.Zfs(carrier).send("zones/x@b") as stream:
        assert stream.read(4) == b"half"
        with pytest.raises(errors.NotFound):
            stream.read(4)


def test_a_filesystem_as_it_is_now() -> None:
    carrier = fake_transport.expecting("zfs", "send", "-i", "zones/i@final", "zones/x", stdout=b"x")
    with carrier, zfs.Zfs(carrier).send_unmounted("zones/x", "zones/i@final") as stream:
        assert stream.read() == b"x"


def test_the_rest_of_a_stream() -> None:
    token = "1-c740b4779-c8-789c636064000310a500c4ec50360710e72765a5269730"
    carrier = fake_transport.expecting("zfs", "send", "-t", token, stdout=b"rest")
    with carrier, zfs.Zfs(carrier).send_resumed(token) as stream:
        assert stream.read() == b"rest"


def test_a_receive_that_fails() -> None:
    carrier = fake_transport.expecting(
        "zfs",
        "receive",
        "-u",
        "tank/x",
        stderr="cannot receive new filesystem stream: out of space\n",
        returncode=1,
    )
    with pytest.raises(errors.NoSpace):
        zfs.Zfs(carrier).receive(io.BytesIO(b"stream"), "tank/x")


@pytest.mark.parametrize(
    "call",
    [
        lambda tool: tool.clone("zones/x", "zones/y"),
        lambda tool: tool.create("-o"),
        lambda tool: tool.create("zones/x", {"-V": "1"}),
        lambda tool: tool.create("zones/x@y"),
        lambda tool: tool.destroy(""),
        lambda tool: tool.destroy("zones/$(reboot)"),
        lambda tool: tool.destroy("zones/x\n"),
        lambda tool: tool.destroy("zones/x@a%b"),
        lambda tool: tool.destroy("zones/x@a,b"),
        lambda tool: tool.get("zones/x", "a,b"),
        lambda tool: tool.hold("-r", "zones/x@y"),
        lambda tool: tool.list("zones", types=["filesystem,-r"]),
        lambda tool: tool.rename("zones/x", "-f"),
        lambda tool: tool.rollback("zones/x"),
        lambda tool: tool.set("zones/x", {}),
        lambda tool: tool.set("zones/x", {"a=b": "c"}),
        lambda tool: tool.snapshot("zones/x"),
    ],
)
def test_arguments_that_are_refused(call: Callable[[zfs.Zfs], object]) -> None:
    with pytest.raises(errors.InvalidPayload):
        call(zfs.Zfs(fake_transport.refusing()))


def test_a_resume_token_that_is_none() -> None:
    tool = zfs.Zfs(fake_transport.refusing())
    with pytest.raises(errors.InvalidPayload), tool.send_resumed("-n"):
        pass


@pytest.mark.parametrize(
    "name",
    [
        "zones/x/data/a: no such pool",
        "zones/x/data/snapshot a does not exist",
        "zones/x/data/a: dataset does not exist",
        "zones/x/data/a: out of space",
    ],
)
def test_a_tenants_dataset_name_does_not_decide(name: str) -> None:
    stderr = f"cannot destroy '{name}': dataset is busy\n"
    carrier = fake_transport.expecting(
        "zfs", "destroy", "-r", "zones/x", stderr=stderr, returncode=1
    )
    with pytest.raises(errors.InvalidState) as caught:
        zfs.Zfs(carrier).destroy("zones/x", recursive=True)
    assert (caught.value.code, caught.value.stderr) == ("Busy", stderr)


def test_a_tenants_property_cannot_pretend_to_be_another() -> None:
    argv = ("zfs", "get", "-Hp", "-o", "property,value")
    evil = "note:a\tx\nquota\t0\nnova:owner\tme\nused\t1\n"
    asked = fake_transport.expecting(*argv, "quota,note:a", "zones/x", stdout="quota\t5\n" + evil)
    assert zfs.Zfs(asked).get("zones/x", "note:a", "quota") == {
        "quota": "5",
        "note:a": "x\nquota\t0\nnova:owner\tme\nused\t1",
    }
    whole = fake_transport.expecting(*argv, "all", "zones/x", stdout="quota\t5\n" + evil)
    found = zfs.Zfs(whole).get("zones/x")
    assert found["quota"] == "5" and "used" not in found


def test_who_has_a_property_of_its_own() -> None:
    flags = ("-o", "name", "-s", "local", "-t", "filesystem,volume", "-d", "1")
    asked = fake_transport.expecting(
        "zfs", "get", "-Hp", *flags, "nova:quota", "zones", stdout="zones/a\nzones/b c\n"
    )
    assert zfs.Zfs(asked).having("nova:quota", "zones", depth=1) == ["zones/a", "zones/b c"]


def test_a_tenants_mountpoint_does_not_break_the_list() -> None:
    """A mountpoint may hold tabs and lines, so the list does not ask for it."""
    carrier = fake_transport.refusing()
    with pytest.raises(AssertionError, match="unexpected command"):
        zfs.Zfs(carrier).list()
    assert "mountpoint" not in carrier.commands[0].argv[4]
