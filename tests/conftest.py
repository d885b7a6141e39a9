# SPDX-License-Identifier: Apache-2.0
"""Options and rules of every test run."""

import os
from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the contract suite stand here: pytest must know them before it looks there."""
    group = parser.getgroup("contract")
    group.addoption(
        "--node",
        default="emulator",
        metavar="emulator|emulator+ssh|ssh://USER@HOST[:PORT]",
        help="the node that the contract suite runs on (default: an emulated one)",
    )
    group.addoption("--identity", metavar="FILE", help="private key for --node=ssh://…")
    group.addoption(
        "--fidelity", metavar="FILE", help="write what the contract suite found into FIDELITY.rst"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Where SMARTOS_EMULATOR_REQUIRE is set, a skip for want of something is a failure.

    Such a skip gives its reason as "missing: …"; what does not apply to a node says so otherwise.
    """
    report = yield
    if report.skipped and os.environ.get("SMARTOS_EMULATOR_REQUIRE"):
        reason = str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)
        if "missing:" in reason:
            report.outcome = "failed"
            report.longrepr = f"SMARTOS_EMULATOR_REQUIRE is set, and {reason}"
    return report
