# SPDX-License-Identifier: Apache-2.0
"""The rules for manifests, against golden verdicts."""

import json
import pathlib

import pytest

from smartos_emulator import js
from smartos_emulator.imgadm import manifest, upgrade

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "imgadm_manifests.json"
CASES = json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("case", CASES["validate"], ids=lambda case: case["note"])
def test_validate(case):
    document = {**CASES["base"], **case["fields"]}
    for field in case.get("without", []):
        del document[field]
    try:
        found = manifest.validate(document, case.get("mode", "minimal"))
    except js.JavaScriptError as error:
        assert str(error) == case["throws"]
        return
    assert "throws" not in case
    shown = [[error["field"], error["code"], error.get("message", "")] for error in found]
    assert shown == case["errors"]


def test_a_new_manifest_is_not_touched():
    assert upgrade.upgrade(CASES["base"]) is CASES["base"]


def test_an_old_manifest_is_upgraded():
    old, new = CASES["upgrade"]["old"], CASES["upgrade"]["new"]
    assert js.dumps(upgrade.upgrade(old)) == js.dumps(new)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"uuid": "x"}, 'manifest does not have a "v" field'),
        ({"v": "one"}, "false == true"),
        ({"v": 1, "uuid": "x"}, 'uuid (oldManifest.uuid) is required: "x"'),
        (
            {"v": 1, "uuid": CASES["base"]["uuid"]},
            'old DSAPI manifest does not have a "creator_uuid": [object Object]',
        ),
        (
            {"uuid": CASES["base"]["uuid"], "creator_uuid": "c", "owner": "o"},
            "manifest.owner && manifest.creator_uuid",
        ),
        (
            {"uuid": CASES["base"]["uuid"], "creator_uuid": "c", "files": 5},
            "Object 5 has no method 'forEach'",
        ),
    ],
)
def test_what_cannot_be_upgraded(document, message):
    with pytest.raises(js.JavaScriptError) as caught:
        upgrade.upgrade(document)
    assert str(caught.value) == message
