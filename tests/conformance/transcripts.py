# SPDX-License-Identifier: Apache-2.0
"""Recorded command lines: run again, text, stream and exit status compared."""

import typing

from tests.conformance import compare, suppose, world

# an odd record must not end the run: what it led to is told as its difference
_SET_UP_ERRORS = (RuntimeError, AssertionError, LookupError, TypeError, ValueError)


def transcripts(node: world.World, recorded: list[world.Case]) -> world.Verdict:
    """Each case in its series' order, in the state that it supposes."""
    chosen = sorted(recorded, key=lambda case: (case["run"], case["seq"]))
    differences = []
    for run in sorted({case["run"] for case in chosen}):
        series = [case for case in chosen if case["run"] == run]
        state = suppose.State(node, series)
        state.clear()
        for case in series:
            if why := judge(state, case):
                label = f"{run} #{case['seq']} {case['name']}"
                differences.append(world.Difference(label, why))
    return world.Verdict("transcripts", len(chosen), differences)


def judge(state: suppose.State, case: world.Case) -> str | None:
    """Run a case in each state that it may suppose, until one gives the recorded answer.

    What is said of a case that none gives is what the run that came nearest tells.
    """
    found: list[compare.Distance] = []
    try:
        for arrange in state.candidates(case):
            distance = _attempt(state, case, arrange)
            if distance is None:
                return None
            found.append(distance)
    except _SET_UP_ERRORS as error:
        found.append(_failed(error))
    finally:
        state.after(case)
    nothing = _failed(LookupError("no state to try"))
    return min(found, key=lambda distance: distance.lines, default=nothing).reason


def _attempt(
    state: suppose.State, case: world.Case, arrange: typing.Callable[[], None]
) -> compare.Distance | None:
    try:
        arrange()
    except _SET_UP_ERRORS as error:
        return _failed(error)
    return compare.compare(case, state.run(case))


def _failed(error: Exception) -> compare.Distance:
    return compare.Distance(10_000, f"{type(error).__name__}: {error}"[:500])
