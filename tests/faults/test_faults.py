# SPDX-License-Identifier: Apache-2.0
"""A seeded sample of the fault matrix; `make faults` runs all of it."""

import os
import random
from collections.abc import Iterator

import pytest

from tests.faults import cases, operations
from tests.faults import world as worlds

pytestmark = worlds.QUIET

SEED = os.environ.get("SMARTOS_FAULT_SEED", "1")
#: In all, of the whole matrix.
SAMPLE = 300


@pytest.fixture(scope="module")
def world() -> Iterator[worlds.World]:
    with worlds.world() as found:
        yield found


def share(name: str) -> int:
    """How many cases of an operation: 300 in all, whatever the number of operations."""
    names = sorted(each.name for each in operations.OPERATIONS.values() if not each.silent)
    number = names.index(name)
    return SAMPLE * (number + 1) // len(names) - SAMPLE * number // len(names)


@pytest.mark.parametrize("name", sorted(operations.OPERATIONS))
def test_faults(world: worlds.World, name: str) -> None:
    operation = operations.OPERATIONS[name]
    steps = cases.trace(world, operation)
    assert operation.silent is not bool(steps)
    if operation.silent:
        return
    chosen = random.Random(f"{SEED} {name}").sample(list(cases.cases(name, steps)), share(name))
    wrong = {}
    for case in chosen:
        outcome = cases.run(world, case)
        assert outcome.fired, str(case)
        if outcome.violations:
            wrong[str(case)] = outcome.violations
    assert wrong == {}, f"SMARTOS_FAULT_SEED={SEED}"
