# SPDX-License-Identifier: Apache-2.0
"""What the core of a cloud costs the machine, as `smartos-cloud status --json` tells."""

import dataclasses
import json
import subprocess
from typing import Any

import pytest

from gate.cloud import commands, install, model

MOST_MIB = 3 * 1024
#: of one core
MOST_PERCENT = 10
MINUTE = 60


def core(cloud: model.Cloud, seconds: float) -> list[dict[str, Any]]:
    """The services that a cloud without optional sets has, measured."""
    words = [str(install.ROOT / "gate/smartos-cloud"), "-d", str(cloud.base), "status", "--json"]
    words += ["--seconds", str(seconds)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["up"] and measured["seconds"] >= seconds
    names = set(commands.expected(dataclasses.replace(cloud, sets=frozenset())))
    found = [each for each in measured["services"] if each["service"] in names]
    assert {each["service"] for each in found} == names
    return found


def test_memory(emulated: model.Cloud) -> None:
    used = {each["service"]: each["pss_mib"] for each in core(emulated, seconds=1)}
    assert all(used.values())
    assert sum(used.values()) < MOST_MIB, used


@pytest.mark.idle
def test_an_idle_minute(emulated: model.Cloud) -> None:
    used = {each["service"]: each["cpu_percent"] for each in core(emulated, seconds=MINUTE)}
    assert 0 < sum(used.values()) < MOST_PERCENT, used
