# SPDX-License-Identifier: Apache-2.0
"""Options and rules of every test run."""

import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator

import hypothesis
import pytest

# a busy machine takes its time for any example
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

if importlib.util.find_spec("nova"):
    # Nova decides between threads and eventlet when it is first imported, and its libraries would
    # choose eventlet. As nova-compute does by default: threads, and nothing may import eventlet.
    os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = str("eventlet" not in sys.modules)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nova import monkey_patch

        monkey_patch.patch()


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
