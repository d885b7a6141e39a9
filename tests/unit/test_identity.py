# SPDX-License-Identifier: Apache-2.0
"""The mark of Nova on a VM: written once, read without trust."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nova.objects import flavor as flavors
from nova.objects import instance as instances

from nova_smartos.smartos import vms
from nova_smartos.translate import identity

UUID = "11111111-2222-4333-8444-555555555555"


def an_instance(**changes: Any) -> instances.Instance:
    flavor = flavors.Flavor(
        flavorid="7", name="small", vcpus=1, memory_mb=512, root_gb=5, ephemeral_gb=0, swap=0
    )
    values: dict[str, Any] = {
        "uuid": UUID,
        "id": 9,
        "host": "compute1",
        "display_name": "web",
        "hostname": "web",
        "project_id": "project",
        "user_id": "user",
        "image_ref": "image",
        "created_at": None,
        "flavor": flavor,
    }
    return instances.Instance(**{**values, **changes})


def a_vm(internal_metadata: dict[str, Any]) -> vms.Vm:
    return vms.Vm(
        uuid=UUID,
        brand="joyent",
        state="running",
        zone_state="running",
        internal_metadata=internal_metadata,
        document={},
    )


def test_a_move_is_read_back_and_nonsense_keeps_the_vm_down() -> None:
    move = identity.Move("8f0b", "compute2")
    assert identity.moved(a_vm(identity.move_mark(move))) == move
    assert identity.moved(a_vm({})) is None
    for text in ("", "{}", "[1]", 7):
        assert identity.moved(a_vm({identity.MOVED: text})) == identity.Move("", "")


def test_what_is_written_is_read() -> None:
    found = identity.of(a_vm(identity.mark(an_instance())))
    assert found is not None
    assert (found.host, found.project_id, found.user_id) == ("compute1", "project", "user")
    assert found.flavor["ram"] == 512


@given(st.text())
def test_a_name_cannot_break_out_of_the_mark(name: str) -> None:
    found = identity.of(a_vm(identity.mark(an_instance(display_name=name))))
    assert found is not None
    assert found.display_name == (name or "web")
    assert found.host == "compute1"


@pytest.mark.parametrize(
    "text",
    [None, 7, True, "", "{", "[]", "{}", '{"version": 2}', '{"version": 1}',
     json.dumps({"version": 1, "host": "compute1", "name": 5})],
)  # fmt: skip
def test_what_is_not_our_mark_is_none(text: object) -> None:
    assert identity.of(a_vm({identity.KEY: text})) is None


def test_a_guest_cannot_write_the_key() -> None:
    assert not identity.KEY.endswith("_pw")
    assert identity.KEY != "operator-script"


def test_a_vm_without_any_metadata_that_never_came_to_life() -> None:
    shown = {"uuid": "u", "brand": "joyent", "zone_state": "configured"}
    for state, expected in (("failed", True), ("provisioning", True), ("running", False)):
        vm = vms.Vm.from_json({**shown, "state": state})
        assert identity.is_stillborn(vm) is expected
    kept = {**shown, "state": "failed", "internal_metadata": {"someone": "else"}}
    assert not identity.is_stillborn(vms.Vm.from_json(kept))
