# SPDX-License-Identifier: Apache-2.0
"""FIDELITY.rst keeps pace with the contract suite."""

import pathlib

import pytest

from tests.contract import fidelity

FIDELITY = pathlib.Path(__file__).parents[2] / "FIDELITY.rst"
MARKS = {"recorded", "from source", "unverified"}


def test_each_contract_test_states_one_behaviour():
    found = list(fidelity.behaviours())
    sentences = [sentence for sentence, _ in found]
    assert len(found) > 50
    assert len(set(sentences)) == len(sentences)
    assert all(sentence.endswith(".") for sentence in sentences)
    assert {mark for _, mark in found} == MARKS


def test_the_table_is_up_to_date():
    """Write it anew with: make test ARGS="tests/contract --fidelity=FIDELITY.rst"."""
    text = FIDELITY.read_text()
    assert fidelity.merged(text) == text


def test_what_a_real_node_said_stays():
    first = next(fidelity.behaviours())[0]
    text = fidelity.merged("Fidelity\n")
    told = fidelity.written(text, {**fidelity.read(text), first: "real node, 20260312T000000Z"})
    assert fidelity.read(fidelity.merged(told))[first] == "real node, 20260312T000000Z"
    assert fidelity.merged(told) == told


def test_a_run_on_a_real_node_writes_what_it_found(tmp_path):
    path = tmp_path / "FIDELITY.rst"
    path.write_text(fidelity.merged("Fidelity\n"))
    (agrees, _), (differs, _), (untold, mark), *_ = fidelity.behaviours()
    writer = fidelity.Writer(path)
    for behaviour, platform, outcome in (
        (agrees, "20260312T000000Z", "passed"),
        (differs, "20260312T000000Z", "failed"),
        (differs, "20260312T000000Z", "passed"),
        (untold, "", "passed"),
    ):
        said = [("behaviour", behaviour), ("platform", platform)]
        writer.pytest_runtest_logreport(
            pytest.TestReport("id", ("", 0, ""), {}, outcome, None, "call", user_properties=said)
        )
    writer.pytest_sessionfinish()
    rows = fidelity.read(path.read_text())
    assert rows[agrees].startswith("real node, 20260312T000000Z, ")
    assert rows[differs].startswith("DIFFERS on a real node, ")
    assert rows[untold] == mark
