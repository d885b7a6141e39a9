# SPDX-License-Identifier: Apache-2.0
"""`vmadm validate`: golden/payload_rules/verdicts.json, and the table behind the verdicts."""

import copy
from typing import Any

import pytest

from smartos_emulator import js
from smartos_emulator.vmadm import properties, validate
from tests.unit.emulator import rules_node

CASES = rules_node.golden("verdicts")


@pytest.mark.parametrize("case", CASES, ids=[case["note"] for case in CASES])
def test_verdict(case: dict[str, Any]) -> None:
    payload = copy.deepcopy(case["payload"])
    verdict = validate.validate(case["brand"], case["action"], payload, rules_node.RulesNode())
    assert verdict.ok is (case["verdict"] is None)
    assert case["verdict"] is None or verdict.to_json() == case["verdict"]
    assert payload == case["payload"], "validate changes nothing"


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        ({"disks": "x"}, "Object x has no method 'forEach'"),
        ({"disks": [None]}, "Cannot call method 'hasOwnProperty' of null"),
        ({"disks": [{"size": 1, "guest_block_size": 512}]}, "Object 512 has no method 'split'"),
        ({"pci_devices": [{"path": 5}]}, "Object 5 has no method 'indexOf'"),
    ],
)
def test_crashes(payload: dict[str, Any], complaint: str) -> None:
    with pytest.raises(js.JavaScriptError) as caught:
        validate.validate("bhyve", "create", payload, rules_node.RulesNode())
    assert str(caught.value) == complaint


def test_each_property_has_a_known_brand_and_action() -> None:
    actions = {"create", "receive", "update", "add"}
    for entry in properties.PROPERTIES.values():
        assert set(entry.allowed) <= set(properties.BRANDS), entry.name
        assert set().union(*entry.allowed.values()) <= actions, entry.name


def test_builder_is_joyent_by_another_name() -> None:
    assert properties.allowed("builder") == properties.allowed("joyent")


def test_required_properties() -> None:
    assert properties.required("lx", "create") == ("brand", "image_uuid", "kernel_version")
    assert properties.required("kvm", "create") == ("brand",)
    assert properties.required("bhyve", "create") == ()
