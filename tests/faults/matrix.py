# SPDX-License-Identifier: Apache-2.0
"""The matrix: `python -m tests.faults`; the summary goes to build/faults/summary.json."""

import argparse
import atexit
import collections
import concurrent.futures
import dataclasses
import functools
import gc
import json
import multiprocessing
import os
import pathlib
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

# as nova-compute begins; every process of ours does
os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "True"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nova import monkey_patch

    monkey_patch.patch()

from tests.faults import cases, operations
from tests.faults import transport as faulty
from tests.faults import world as worlds

SUMMARY = pathlib.Path(__file__).parents[2] / "build/faults/summary.json"
# Whoever waits for so long waits for something that cannot come.
_SLOW_SECONDS = 20
# A folder in memory, and how much of it must be free: a node takes a few MiB, and writes often.
_MEMORY = pathlib.Path("/dev/shm")
_MEMORY_BYTES = 1 << 30
_own: list[Any] = []


@dataclasses.dataclass
class Done:
    """What the cases of an operation showed, and how many of one or two faults were left out."""

    name: str
    found: list[cases.Outcome]
    left_out: tuple[int, int]
    #: the operation of another brand that runs the very same commands, and meets every fault
    model: str = ""


def main() -> int:
    """Run what is asked for; 0 when nothing is wrong."""
    options = _options()
    names = [name for name in operations.OPERATIONS if _wanted(name, options.operations)]
    began = time.monotonic()
    run = functools.partial(run_all, asked=names, kinds=options.kinds, seed=options.seed)
    done = list(_pool(options.jobs, names, run))
    summary = summed(done)
    summary["left_to_chance"] = {"kinds": options.kinds, "seed": options.seed, **left_out(done)}
    summary["seconds"] = round(time.monotonic() - began)
    options.summary.parent.mkdir(parents=True, exist_ok=True)
    options.summary.write_text(json.dumps(summary, indent=2) + "\n")
    told = {key: summary[key] for key in ("pairs", "covered", "fired", "seconds")}
    print(f"{told}, {len(summary['violations'])} violations: {options.summary}")
    print(f"left out, by chance: {summary['left_to_chance']['left_out']}")
    for each in summary["violations"]:
        print(f"  {each['case']}\n      " + "\n      ".join(each["what"]))
    return 1 if summary["violations"] else 0


def summed(done: Sequence[Done]) -> dict[str, Any]:
    """What the summary says."""
    found = [outcome for each in done for outcome in each.found]
    violations = [
        {"case": str(outcome.case), "what": outcome.violations}
        for outcome in found
        if outcome.violations
    ]
    # what a sample brings about by chance, the cases of its model bring about for certain
    missed = uncovered([outcome for each in done if not each.model for outcome in each.found])
    violations += [
        {"case": operation, "what": [f"no case covers {command}"]} for operation, command in missed
    ]
    return {
        "commands": len({(each.case.operation, each.case.faults[-1].step) for each in found}),
        "pairs": len(found) + len(missed),
        "covered": len(found),
        "fired": sum(outcome.fired for outcome in found),
        "second_faults": sum(len(each.case.faults) > 1 for each in found),
        "kinds": collections.Counter(str(each.case.faults[-1].kind) for each in found),
        "operations": collections.Counter(each.case.operation for each in found),
        "violations": violations,
    }


def left_out(done: Iterable[Done]) -> dict[str, Any]:
    """What the summary says of cases that did not run."""
    first, second = (sum(each.left_out[number] for each in done) for number in range(2))
    return {
        "left_out": {"of another brand": first, "second faults": second},
        "same_commands": {each.name: each.model for each in done if each.model},
    }


def uncovered(found: Iterable[cases.Outcome]) -> list[tuple[str, str]]:
    """Commands that ran in an operation, and that none of its cases spoils."""
    found = list(found)
    ran = {(each.case.operation, step.command) for each in found for step in each.steps}
    spoilt = {
        (each.case.operation, fault.step.command) for each in found for fault in each.case.faults
    }
    return sorted(ran - spoilt)


def run_all(name: str, asked: Sequence[str], kinds: int, seed: str) -> Done:
    """The cases of one operation: those of its own commands, then those of commands that follow.

    All there are; in a sample, fewer of the second, and of the first if another brand runs the
    same commands.
    """
    operation = operations.OPERATIONS[name]
    world = _world()
    steps = _trace(world, operation)
    every = list(cases.cases(name, steps))
    model = operation.model
    other = model is not operation and model.name in asked
    same = other and [*_trace(world, model).items()] == [*steps.items()]
    chosen = cases.sample(every, kinds, seed) if same else every
    found = [_told(cases.run(world, case)) for case in chosen]
    after = list(cases.cases_after(found, set(steps)))
    second = cases.sample(after, kinds, seed)
    found += [_told(cases.run(world, case)) for case in second]
    missing = (len(every) - len(chosen), len(after) - len(second))
    return Done(name, found, missing, model.name if same else "")


def _trace(world: worlds.World, operation: operations.Operation) -> dict[faulty.Step, bool]:
    try:
        return cases.trace(world, operation)
    except AssertionError as error:
        raise AssertionError(f"{operation.name}, without any fault: {error}") from error


def _told(outcome: cases.Outcome) -> cases.Outcome:
    if outcome.seconds > _SLOW_SECONDS:
        print(f"{outcome.case}: {outcome.seconds:.0f} s", file=sys.stderr, flush=True)
    if outcome.violations:
        print(f"{outcome.case}: {'; '.join(outcome.violations)}", file=sys.stderr, flush=True)
    return outcome


def _pool(jobs: int, names: list[str], run: Callable[[str], Done]) -> Iterable[Done]:
    # the longest first, so that no process is left alone with one at the end
    long = ("move", "resize", "rescue", "import", "restart", "cache", "preserving", "drive")
    ordered = sorted(names, key=lambda name: [word not in name for word in long])
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = {pool.submit(run, name): name for name in ordered}
        try:
            for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
                done = future.result()
                count = len(done.found)
                print(f"{number}/{len(names)} {futures[future]}: {count} cases", flush=True)
                yield done
        except BaseException:
            # an operation that does not work even without a fault
            pool.shutdown(cancel_futures=True)
            raise


def _world() -> worlds.World:
    """This process's own world, until it ends."""
    if not _own:
        if "TMPDIR" not in os.environ and _has_memory():
            tempfile.tempdir = str(_MEMORY)
        manager = worlds.world()
        _own.append((manager, manager.__enter__()))
        # Nova's modules stay: to look at all they hold, again and again, takes a tenth of the time
        gc.collect()
        gc.freeze()
        atexit.register(manager.__exit__, None, None, None)
    found: worlds.World = _own[0][1]
    return found


def _has_memory() -> bool:
    if not os.access(_MEMORY, os.W_OK):
        return False
    return shutil.disk_usage(_MEMORY).free >= _MEMORY_BYTES


def _wanted(name: str, asked: Sequence[str]) -> bool:
    return not asked or any(word in name for word in asked)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operations", nargs="*", help="parts of names; all without any")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    told = "a sample: so many kinds of a second fault, and of a first that a like brand meets"
    parser.add_argument("--kinds", type=int, default=len(faulty.Kind), help=told)
    parser.add_argument("--seed", default=os.environ.get("SMARTOS_FAULT_SEED", "1"))
    parser.add_argument("--summary", type=pathlib.Path, default=SUMMARY)
    return parser.parse_args()
