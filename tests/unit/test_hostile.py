# SPDX-License-Identifier: Apache-2.0
"""Whatever a node says, and whatever a caller passes: the exact value or a clear error."""

import dataclasses
import json
import shlex
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from nova_smartos.smartos import errors, node, transport
from tests.unit import fake_transport

VM = "6a1f3c52-0b7e-4d7a-9c55-1f0e2d3c4b5a"
NASTY = [
    "it's",
    'say "hi"',
    "two\nlines\r\n",
    "$(reboot) `halt` ${IFS}",
    "a;b&c|d>e<f",
    "\0",
    "\ud800 lone",
    "é ☃ 𝒳 \u202e",
    "\\",
    "-rf",
    "x" * 2**20,
]
READS: list[Callable[[node.Node], object]] = [
    lambda n: n.dladm.show_vnic(),
    lambda n: n.dladm.show_linkprop("net0"),
    lambda n: n.dtrace.list(),
    lambda n: n.dtrace.version(),
    lambda n: n.fwadm.list(),
    lambda n: n.fwadm.status(VM),
    lambda n: n.imgadm.get(VM),
    lambda n: n.imgadm.list(),
    lambda n: n.kstat.read(),
    lambda n: n.nictagadm.list(),
    lambda n: n.nictagadm.vms("admin"),
    lambda n: n.svcs.list(),
    lambda n: n.sysinfo.get(),
    lambda n: n.vmadm.get(VM),
    lambda n: n.vmadm.info(VM),
    lambda n: n.vmadm.lookup(),
    lambda n: n.zfs.get("zones"),
    lambda n: n.zfs.holds("zones@a"),
    lambda n: n.zfs.list(),
    lambda n: n.zpool.list(),
]
JSON = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats(allow_nan=False)
    | strategies.text(),
    lambda inner: strategies.lists(inner) | strategies.dictionaries(strategies.text(), inner),
)


class Says:
    """A transport that gives one result to anything."""

    def __init__(self, stdout: str, stderr: str = "", returncode: int = 0) -> None:
        self.answer = transport.Result((), returncode, stdout, stderr)

    def run(self, command: transport.Command) -> transport.Result:
        return dataclasses.replace(self.answer, argv=command.argv)

    def stream(self, command: transport.Command) -> Any:
        raise AssertionError(command)

    def close(self) -> None:
        """Nothing to close."""


def read(call: Callable[[node.Node], object], carrier: Says) -> None:
    try:
        call(node.Node(carrier))
    except errors.SmartOSError as error:
        assert len(str(error)) < 3000 or isinstance(error, errors.ToolError)


@pytest.mark.parametrize("call", READS)
@hypothesis.settings(max_examples=30, deadline=None, derandomize=True)
@hypothesis.given(output=strategies.text() | JSON.map(json.dumps))
def test_any_output(call: Callable[[node.Node], object], output: str) -> None:
    read(call, Says(output))


@pytest.mark.parametrize("call", READS)
@hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
@hypothesis.given(strategies.text(), strategies.integers(-15, 255))
def test_any_failure(call: Callable[[node.Node], object], stderr: str, returncode: int) -> None:
    read(call, Says("", stderr, returncode))


@pytest.mark.parametrize("cut", range(0, 200, 7))
def test_a_vm_that_is_cut_off(cut: int) -> None:
    whole = json.dumps({"uuid": VM, "brand": "lx", "state": "stopped", "zone_state": "installed"})
    if cut < len(whole):
        with pytest.raises(errors.OutputError, match="vmadm get"):
            node.Node(Says(whole[:cut])).vmadm.get(VM)


@pytest.mark.parametrize("value", NASTY)
def test_values_of_a_node_arrive_exactly(value: str) -> None:
    document = {
        "uuid": VM,
        "brand": "lx",
        "state": "stopped",
        "zone_state": "installed",
        "alias": value,
        "customer_metadata": {value: value},
    }
    vm = node.Node(Says(json.dumps(document))).vmadm.get(VM)
    assert vm.alias == value
    assert vm.customer_metadata == {value: value}


@pytest.mark.parametrize("value", NASTY)
def test_values_to_a_node_travel_exactly_and_never_in_argv(value: str) -> None:
    payload = {"alias": value, "set_customer_metadata": {value: value}}
    said = f"Successfully updated VM {VM}\n"
    with fake_transport.expecting("vmadm", "update", VM, stderr=said) as carrier:
        node.Node(carrier).vmadm.update(VM, payload)
    sent = carrier.commands[0]
    assert json.loads(sent.stdin) == payload
    assert sent.argv == ("vmadm", "update", VM)


@pytest.mark.parametrize("value", [each for each in NASTY if "\0" not in each and len(each) < 99])
def test_a_guests_shell_gets_words(value: str) -> None:
    carrier = Says("")
    result = node.Node(carrier).zlogin.run(VM, ["echo", value]) if value != "\ud800 lone" else None
    if result is not None:
        assert shlex.split(" ".join(result.argv[2:])) == ["echo", value]


@hypothesis.settings(deadline=None, derandomize=True)
@hypothesis.given(strategies.text(max_size=40))
def test_any_name_of_a_dataset(name: str) -> None:
    carrier = fake_transport.Transport(fake_transport.Answer(("zfs", "destroy", name)))
    try:
        node.Node(carrier).zfs.destroy(name)
    except errors.InvalidPayload:
        assert carrier.answers
    else:
        assert not name.startswith("-") and name.isascii() and name.isprintable()


@pytest.mark.parametrize("value", NASTY)
def test_any_value_of_a_property(value: str) -> None:
    carrier = fake_transport.Transport(
        fake_transport.Answer(("zfs", "set", f"org.example:note={value}", "zones/x"))
    )
    try:
        node.Node(carrier).zfs.set("zones/x", {"org.example:note": value})
    except errors.InvalidPayload as error:
        # what no argument can carry: NUL, a lone surrogate, a megabyte
        assert "argument" in str(error)
