# SPDX-License-Identifier: Apache-2.0
"""Neutron's mechanism driver: its tests run with Neutron, in a process without Nova."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TESTS = ROOT / "tests/unit/neutron_ml2.py"
# they know nothing of the options and rules of this run, which are Nova's
WORDS = ["-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(ROOT), "--noconftest"]
WORDS += ["-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore", "--tb=short"]


def test_the_mechanism_driver_in_neutrons_own_plugin(tmp_path: pathlib.Path) -> None:
    for name in ("neutron", "webtest"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"missing: {name}; pip install 'nova-smartos[functional]'")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, *WORDS, str(TESTS)],
        capture_output=True,
        cwd=tmp_path,
        env=environment,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    count = len(re.findall(r"^    def test_", TESTS.read_text(), re.MULTILINE))
    assert f"\n{count} passed in " in done.stdout, done.stdout
