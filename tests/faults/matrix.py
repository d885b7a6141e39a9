# SPDX-License-Identifier: Apache-2.0
"""All cases: `python -m tests.faults`; the summary goes to build/faults/summary.json."""

import argparse
import atexit
import collections
import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

# as nova-compute begins; every process of ours does
os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "True"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nova import monkey_patch

    monkey_patch.patch()

from tests.faults import cases, operations
from tests.faults import world as worlds

SUMMARY = pathlib.Path(__file__).parents[2] / "build/faults/summary.json"
# Whoever waits for so long waits for something that cannot come.
_SLOW_SECONDS = 20
_own: list[Any] = []


def main() -> int:
    """Run what is asked for; 0 when nothing is wrong."""
    options = _options()
    names = [name for name in operations.OPERATIONS if _wanted(name, options.operations)]
    began = time.monotonic()
    found = [outcome for each in _pool(options.jobs, names) for outcome in each]
    summary = summed(found)
    summary["seconds"] = round(time.monotonic() - began)
    options.summary.parent.mkdir(parents=True, exist_ok=True)
    options.summary.write_text(json.dumps(summary, indent=2) + "\n")
    told = {key: summary[key] for key in ("pairs", "covered", "fired", "seconds")}
    print(f"{told}, {len(summary['violations'])} violations: {options.summary}")
    for each in summary["violations"]:
        print(f"  {each['case']}\n      " + "\n      ".join(each["what"]))
    return 1 if summary["violations"] else 0


def summed(found: Sequence[cases.Outcome]) -> dict[str, Any]:
    """What the summary says."""
    violations = [
        {"case": str(outcome.case), "what": outcome.violations}
        for outcome in found
        if outcome.violations
    ]
    missed = uncovered(found)
    violations += [
        {"case": operation, "what": [f"no case covers {command}"]} for operation, command in missed
    ]
    return {
        "commands": len({(each.case.operation, each.case.faults[-1].step) for each in found}),
        "pairs": len(found) + len(missed),
        "covered": len(found),
        "fired": sum(outcome.fired for outcome in found),
        "kinds": collections.Counter(str(each.case.faults[-1].kind) for each in found),
        "operations": collections.Counter(each.case.operation for each in found),
        "violations": violations,
    }


def uncovered(found: Iterable[cases.Outcome]) -> list[tuple[str, str]]:
    """Commands that ran in an operation, and that none of its cases spoils."""
    found = list(found)
    ran = {(each.case.operation, step.command) for each in found for step in each.steps}
    spoilt = {
        (each.case.operation, fault.step.command) for each in found for fault in each.case.faults
    }
    return sorted(ran - spoilt)


def run_all(name: str) -> list[cases.Outcome]:
    """All cases of one operation: first those of its own commands, then of those that follow."""
    operation = operations.OPERATIONS[name]
    world = _world()
    try:
        steps = cases.trace(world, operation)
    except AssertionError as error:
        raise AssertionError(f"{name}, without any fault: {error}") from error
    done = [_told(cases.run(world, case)) for case in cases.cases(name, steps)]
    after = list(cases.cases_after(done, set(steps)))
    return done + [_told(cases.run(world, case)) for case in after]


def _told(outcome: cases.Outcome) -> cases.Outcome:
    if outcome.seconds > _SLOW_SECONDS:
        print(f"{outcome.case}: {outcome.seconds:.0f} s", file=sys.stderr, flush=True)
    if outcome.violations:
        print(f"{outcome.case}: {'; '.join(outcome.violations)}", file=sys.stderr, flush=True)
    return outcome


def _pool(jobs: int, names: list[str]) -> Iterable[list[cases.Outcome]]:
    # the longest first, so that no process is left alone with one at the end
    long = ("move", "resize", "rescue", "import", "restart", "cache", "preserving", "drive")
    ordered = sorted(names, key=lambda name: [word not in name for word in long])
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = {pool.submit(run_all, name): name for name in ordered}
        try:
            for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
                found = future.result()
                print(f"{number}/{len(names)} {futures[future]}: {len(found)} cases", flush=True)
                yield found
        except BaseException:
            # an operation that does not work even without a fault
            pool.shutdown(cancel_futures=True)
            raise


def _world() -> worlds.World:
    """This process's own world, until it ends."""
    if not _own:
        manager = worlds.world()
        _own.append((manager, manager.__enter__()))

        atexit.register(manager.__exit__, None, None, None)
    found: worlds.World = _own[0][1]
    return found


def _wanted(name: str, asked: Sequence[str]) -> bool:
    return not asked or any(word in name for word in asked)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operations", nargs="*", help="parts of names; all without any")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--summary", type=pathlib.Path, default=SUMMARY)
    return parser.parse_args()
