# SPDX-License-Identifier: Apache-2.0
"""vmadm beyond the golden cases: events, bundles, secrets, limits, refused arguments."""

import io
import itertools
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from nova_smartos.smartos import errors, transport, vmadm, vms
from tests.unit import fake_transport

VM = "6a1f3c52-0b7e-4d7a-9c55-1f0e2d3c4b5a"
STREAM = "11112222-3333-4444-8555-666677778888"
DATE = "2026-05-06T07:08:09.123Z"
DOCUMENT = {"uuid": VM, "brand": "lx", "state": "running", "zone_state": "running"}
CREATED = f"Successfully created VM {VM}\n"


def lines(*events: dict[str, Any]) -> bytes:
    return b"".join(json.dumps({"date": DATE, **event}).encode() + b"\n" for event in events)


def events(output: bytes, *, stderr: str = "", returncode: int = 0) -> fake_transport.Transport:
    return fake_transport.expecting(
        "vmadm", "events", "-jr", stdout=output, stderr=stderr, returncode=returncode
    )


def test_events() -> None:
    change = {
        "prettyPath": "nics.*.ip",
        "path": ["nics", None, "ip"],
        "action": "changed",
        "oldValue": "dhcp",
        "newValue": "192.0.2.1",
    }
    output = lines(
        {"type": "ready", "uuid": STREAM, "vms": {VM: DOCUMENT}},
        {"type": "create", "uuid": VM, "zonename": VM, "vm": DOCUMENT},
        {"type": "modify", "uuid": VM, "zonename": VM, "vm": DOCUMENT, "changes": [change]},
        {"type": "delete", "uuid": VM, "zonename": VM},
    )
    with events(output) as carrier, vmadm.Vmadm(carrier).events() as stream:
        ready, create, modify, delete = stream
    assert ready.vms[VM].state == "running"
    assert create.vm is not None and create.vm.uuid == VM
    assert modify.changes[0].path == ("nics", None, "ip")
    assert modify.changes[0].new_value == "192.0.2.1"
    assert (delete.type, delete.uuid, delete.vm) == ("delete", VM, None)
    assert carrier.commands[0].seconds == float("inf")


def test_events_of_one_vm() -> None:
    carrier = fake_transport.expecting("vmadm", "events", "-jr", VM)
    with carrier, vmadm.Vmadm(carrier).events(VM) as stream:
        assert list(stream) == []


def test_events_end_with_an_error() -> None:
    carrier = events(b"", stderr="connect ECONNREFUSED\n", returncode=1)
    with vmadm.Vmadm(carrier).events() as stream, pytest.raises(errors.ToolError) as caught:
        list(stream)
    assert caught.value.code == "VminfodDown"


def test_events_that_are_stopped_end_quietly() -> None:
    carrier = events(b"", returncode=-15)
    with vmadm.Vmadm(carrier).events() as stream:
        stream.stop()
        assert list(stream) == []
    assert carrier.processes[0].killed


@pytest.mark.parametrize(
    "output", [b'{"type":"ready","da', b"[]\n", b"\n", b'{"type":"create"}\n', b"\xff\xfe\n"]
)
def test_events_that_are_none(output: bytes) -> None:
    not_understood = pytest.raises(errors.OutputError, match="vmadm events: ")
    with vmadm.Vmadm(events(output)).events() as stream, not_understood:
        list(stream)


def test_send_and_receive() -> None:
    bundle = b"bundle" * 100_000
    sender = fake_transport.expecting("vmadm", "send", VM, stdout=bundle, stderr="sent\n")
    receiver = fake_transport.expecting(
        "vmadm", "receive", stderr=f"Successfully received VM {VM}\n"
    )
    with sender, receiver, vmadm.Vmadm(sender).send(VM) as stream:
        assert vmadm.Vmadm(receiver).receive(stream) == VM
    stdin = receiver.processes[0].stdin
    assert isinstance(stdin, io.BytesIO) and stdin.getvalue() == bundle


def test_a_record_is_a_bundle_without_datasets() -> None:
    receiver = fake_transport.expecting(
        "vmadm", "receive", stderr=f"Successfully received VM {VM}\n"
    )
    document = {"uuid": VM, "alias": "x" * 600}
    with receiver:
        assert vmadm.Vmadm(receiver).receive_record(document) == VM
    stdin = receiver.processes[0].stdin
    assert isinstance(stdin, io.BytesIO)
    bundle = stdin.getvalue()
    name, size, padded = bundle[:512].split(b"\0")[3:6]
    assert bundle.startswith(b"MAGIC-VMBUNDLE\0001\0CHECKSUM\0")
    assert (name, len(bundle), int(padded) % 512) == (b"JSON", 512 + int(padded), 0)
    assert json.loads(bundle[512 : 512 + int(size)]) == document


def test_a_broken_send_fails_the_receive_too() -> None:
    sender = fake_transport.expecting(
        "vmadm", "send", VM, stdout=b"half", stderr="bad statusCode: 404\n", returncode=1
    )
    receiver = fake_transport.expecting("vmadm", "receive")
    with vmadm.Vmadm(sender).send(VM) as stream, pytest.raises(errors.NotFound):
        vmadm.Vmadm(receiver).receive(stream)
    assert not receiver.processes[0].stdin_closed


def test_receive_that_takes_more_than_a_minute() -> None:
    text = "first of 2 errors: vminfod watchForEvent {} timeout exceeded\n"
    carrier = fake_transport.expecting("vmadm", "receive", stderr=text, returncode=1)
    with pytest.raises(errors.ToolError) as caught:
        vmadm.Vmadm(carrier).receive(io.BytesIO(b"x"))
    assert caught.value.code == "Timeout"


@pytest.mark.parametrize(
    ("payload", "seconds"),
    [({}, 900), ({"ram": 512}, 900), ({"ram": 8192}, 1200), ({"ram": 65536}, 5400)],
)
def test_a_large_vm_has_longer_to_provision(payload: dict[str, Any], seconds: float) -> None:
    with fake_transport.expecting("vmadm", "create", stderr=CREATED) as carrier:
        vmadm.Vmadm(carrier).create(payload)
    assert carrier.commands[0].seconds == seconds


def test_the_limit_of_a_stop_covers_the_guests_time() -> None:
    said = f"Successfully completed stop for VM {VM}\n"
    with fake_transport.expecting("vmadm", "stop", VM, "-t", "3600", stderr=said) as carrier:
        assert vmadm.Vmadm(carrier).stop(VM, seconds=3600)
    assert carrier.commands[0].seconds == 3900


def test_secrets_are_masked_in_errors() -> None:
    payload = {
        "customer_metadata": {"root_pw": "hunter2hunter2", "motd": "hello there"},
        "set_internal_metadata": {"token": 'line one\nline "two"', "short": "x"},
        "vnc_password": "abc12345",
    }
    said = f"oops hunter2hunter2 abc12345 {json.dumps(payload)} hello there\n"
    carrier = fake_transport.expecting("vmadm", "update", VM, stderr=said, returncode=1)
    with pytest.raises(errors.ToolError) as caught:
        vmadm.Vmadm(carrier).update(VM, payload)
    shown = str(caught.value) + repr(caught.value) + caught.value.stderr
    for secret in ("hunter2", "abc12345", "line one", 'line \\"two'):
        assert secret not in shown
    assert "hello there" in shown
    assert b"hunter2hunter2" in carrier.commands[0].stdin


def test_a_secret_that_stands_in_the_uuid_is_none() -> None:
    payload = {"vnc_password": VM[:8]}
    said = f"Successfully updated VM {VM}\n"
    with fake_transport.expecting("vmadm", "update", VM, stderr=said) as carrier:
        vmadm.Vmadm(carrier).update(VM, payload)
    assert carrier.commands[0].secrets == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda tool: tool.create_snapshot(VM, "s"),
        lambda tool: tool.delete(VM),
        lambda tool: tool.delete_snapshot(VM, "s"),
        lambda tool: tool.install(VM),
        lambda tool: tool.kill(VM),
        lambda tool: tool.reboot(VM),
        lambda tool: tool.reprovision(VM, VM),
        lambda tool: tool.rollback_snapshot(VM, "s"),
        lambda tool: tool.start(VM),
        lambda tool: tool.stop(VM),
        lambda tool: tool.sysrq(VM, "nmi"),
        lambda tool: tool.update(VM, {"quota": 5}),
    ],
)
def test_an_exit_status_without_a_word_is_no_success(
    change: Callable[[vmadm.Vmadm], object],
) -> None:
    class Silent(fake_transport.Transport):
        def run(self, command: transport.Command) -> transport.Result:
            return transport.Result(command.argv, 0, "", "")

    with pytest.raises(errors.OutputError, match="does not confirm"):
        change(vmadm.Vmadm(Silent()))


def test_console() -> None:
    assert vmadm.Vmadm(fake_transport.refusing()).console_argv(VM) == ("vmadm", "console", VM)


def test_the_properties_of_a_refusal() -> None:
    carrier = fake_transport.expecting(
        "vmadm", "create", stderr="Invalid value(s) for: ram,disks.0.size\n", returncode=1
    )
    with pytest.raises(errors.InvalidPayload) as caught:
        vmadm.Vmadm(carrier).create({})
    assert vmadm.properties(caught.value) == ("ram", "disks.0.size")
    assert vmadm.properties(errors.ToolError("other")) == ()


@pytest.mark.parametrize(
    "call",
    [
        lambda tool: tool.create_snapshot(VM, "-r"),
        lambda tool: tool.create_snapshot(VM, "a/b"),
        lambda tool: tool.create_snapshot(VM, "x" * 65),
        lambda tool: tool.delete("--all"),
        lambda tool: tool.events("-f"),
        lambda tool: tool.get(""),
        lambda tool: tool.info(VM, "-v"),
        lambda tool: tool.kill(VM, "$(halt)"),
        lambda tool: tool.lookup({"-1": "x"}),
        lambda tool: tool.lookup({"alias": "~.*"}),
        lambda tool: tool.lookup_fields(("a,b",)),
        lambda tool: tool.reprovision(VM, "base"),
        lambda tool: tool.sysrq(VM, "-F"),
        lambda tool: tool.update(VM, {"quota": float("inf")}),
        lambda tool: tool.validate("create", {}, "lx"),
        lambda tool: tool.validate("update", {}),
    ],
)
def test_arguments_that_are_refused(call: Callable[[vmadm.Vmadm], object]) -> None:
    with pytest.raises(errors.InvalidPayload):
        call(vmadm.Vmadm(fake_transport.refusing()))


def test_sizes_that_are_no_whole_numbers() -> None:
    """vmadm divides what zfs says; one odd VM must not hide the others."""
    disk = {"path": "/dev/zvol/rdsk/zones/x/disk0", "size": 10.0078125}
    document = DOCUMENT | {"quota": 10.5, "disks": [disk]}
    carrier = fake_transport.expecting("vmadm", "lookup", "-j", stdout=json.dumps([document]))
    (found,) = vmadm.Vmadm(carrier).lookup()
    assert (found.quota_gib, found.disks[0].size_mib) == (10.5, 10.0078125)
    assert json.dumps(found.quota_gib) == "10.5"


def test_a_vm_that_is_as_it_was_known_is_not_read_again() -> None:
    other = DOCUMENT | {"uuid": str(uuid.uuid4())}

    def found(*documents: dict[str, Any], known: tuple[vms.Vm, ...] = ()) -> list[vms.Vm]:
        text = json.dumps(documents)
        carrier = fake_transport.expecting("vmadm", "lookup", "-j", stdout=text)
        return vmadm.Vmadm(carrier).lookup(known={vm.uuid: vm for vm in known})

    before = found(DOCUMENT, other)
    # what vmadm adds to what events tell
    asked = DOCUMENT | {"ram": 256, "type": "LX"}
    assert found(asked, known=tuple(before))[0] is before[0]
    for was, now in (
        (DOCUMENT, asked | {"new": 1}),
        (asked, asked | {"ram": 3}),
        (asked, DOCUMENT),
    ):
        (again,) = found(now, known=tuple(found(was)))
        assert again.document == now
    same, changed = found(DOCUMENT, other | {"state": "stopped"}, known=tuple(before))
    assert same is before[0]
    assert (changed.uuid, changed.state) == (other["uuid"], "stopped")
    with pytest.raises(errors.OutputError):
        found({"uuid": 3}, known=tuple(before))


@pytest.mark.parametrize("end", [None, -1, -3, 100])
def test_secrets_of_a_vm_are_not_in_an_error(end: int | None) -> None:
    document = DOCUMENT | {
        "state": 3,
        "customer_metadata": {
            "root_pw": "hunter22",
            "user-data": '#cloud\nhunter22 "x"',
            "cloud-init:user-data": "hunter22",
            "cloud-init:vendor-data": "hunter22",
        },
        "vnc_password": "hunter22",
        "internal_metadata": {"nova:token": "hunter22", "a": "}hunter22"},
    }
    for indent, words in itertools.product((None, 2), (("get", VM), ("lookup", "-j"))):
        printed = document if words[0] == "get" else [DOCUMENT, document]
        output = json.dumps(printed, indent=indent)[:end]
        asked = vmadm.Vmadm(fake_transport.expecting("vmadm", *words, stdout=output))
        with pytest.raises(errors.OutputError) as caught:
            asked.get(VM) if words[0] == "get" else asked.lookup()
        error: BaseException | None = caught.value
        while error is not None:
            assert "hunter22" not in f"{error} {vars(error)} {getattr(error, 'doc', '')}"
            error = error.__context__


def test_another_vm_than_the_one_asked_for() -> None:
    other = STREAM
    answer = json.dumps(DOCUMENT | {"uuid": other})
    with pytest.raises(errors.OutputError, match=other):
        vmadm.Vmadm(fake_transport.expecting("vmadm", "get", VM, stdout=answer)).get(VM)
    payload = {"uuid": other, "brand": "lx"}
    with pytest.raises(errors.OutputError, match=VM):
        vmadm.Vmadm(fake_transport.expecting("vmadm", "create", stderr=CREATED)).create(payload)


def test_the_limit_of_create_knows_ram_as_text() -> None:
    carrier = fake_transport.expecting("vmadm", "create", stderr=CREATED)
    vmadm.Vmadm(carrier).create({"ram": "65536"})
    limit = carrier.commands[0].seconds
    assert limit is not None and limit > 16 * vmadm.PROVISION_SECONDS
