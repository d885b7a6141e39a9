# SPDX-License-Identifier: Apache-2.0
"""What create and update make of a payload: golden/payload_rules/normalized.json, and the rest."""

import copy
import re
from typing import Any

import pytest

from smartos_emulator import js
from smartos_emulator.vmadm import normalize
from tests.unit.emulator import rules_node

CASES = rules_node.golden("normalized")
ZONE = {"brand": "joyent", "image_uuid": "7a0c1f52-55b1-4d4c-9a0e-0d5f3c9e0a01"}


@pytest.mark.parametrize("case", CASES, ids=[case["note"] for case in CASES])
def test_normalized(case: dict[str, Any]) -> None:
    node = rules_node.RulesNode()
    payload = copy.deepcopy(case["payload"])
    expected = case.get("normalized")
    try:
        made = js.loads(js.dumps(normalize.normalize(node, payload, node.vm(case["vm"]))))
    except normalize.PayloadError as error:
        assert str(error) == case.get("error")
    except js.JavaScriptError as error:
        assert str(error) == case.get("crash")
    else:
        assert made == expected
        assert list(made) == list(expected), "in the same order"
    assert payload == case["payload"], "normalize changes nothing"


def test_what_is_generated() -> None:
    payload = ZONE | {"nics": [{"nic_tag": "admin"}, {"nic_tag": "admin"}], "docker": False}
    made = normalize.normalize(rules_node.RulesNode(), payload)
    macs = [nic["mac"] for nic in made["add_nics"]]
    assert made["zonename"] == made["uuid"]
    assert len(set(macs)) == 2
    assert all(re.fullmatch("[0-9a-f]2(:[0-9a-f]{2}){5}", mac) for mac in macs)


def test_docker() -> None:
    payload = {
        "brand": "lx",
        "image_uuid": "7a0c1f52-55b1-4d4c-9a0e-0d5f3c9e0a02",
        "kernel_version": "4.4",
        "docker": "true",
        "internal_metadata": {"docker:cmd": "[]"},
    }
    made = normalize.normalize(rules_node.RulesNode(), payload)
    assert made["internal_metadata_namespaces"] == ["docker"]
    assert made["restart_init"] is False
    assert made["init_name"] == "/native/usr/vm/sbin/dockerinit"
    assert re.fullmatch("[0-9a-f]{64}", made["internal_metadata"]["docker:id"])
    assert made["docker"] is True


def test_a_uuid_is_taken_once() -> None:
    uuid = "b0b0b0b0-0000-4000-8000-000000000001"
    with pytest.raises(normalize.PayloadError, match=f"^VM with UUID {uuid} already exists$"):
        normalize.normalize(rules_node.RulesNode(), ZONE | {"uuid": uuid})


def test_an_update_can_unset() -> None:
    node = rules_node.RulesNode()
    made = normalize.normalize(node, {"cpu_cap": "", "quota": None}, node.vm("zone"))
    assert made["cpu_cap"] is js.UNDEFINED
    assert made["quota"] == 0


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (None, "Cannot call method 'hasOwnProperty' of null"),
        ("text", "no uuid passed to getVmobj()"),
        (ZONE | {"nics": [None]}, "Cannot call method 'hasOwnProperty' of null"),
    ],
)
def test_crashes_of_create(payload: Any, complaint: str) -> None:
    with pytest.raises(js.JavaScriptError) as caught:
        normalize.normalize(rules_node.RulesNode(), payload)
    assert str(caught.value) == complaint


def test_an_array_is_an_object_too() -> None:
    with pytest.raises(normalize.PayloadError, match="^Missing required properties: image_uuid$"):
        normalize.normalize(rules_node.RulesNode(), ["x"])


def test_the_display_port_of_another() -> None:
    node = rules_node.RulesNode()
    node.document["vms"]["hvm"]["vnc_port"] = 5901
    payload = {"brand": "bhyve", "vnc_port": 5901}
    with pytest.raises(normalize.PayloadError, match="^Conflict detected with another vm"):
        normalize.normalize(node, payload)
    node.document["vms"]["hvm"] |= {"state": "failed", "zone_state": "installed"}
    assert normalize.normalize(node, payload)["vnc_port"] == 5901
