# SPDX-License-Identifier: Apache-2.0
"""A case: an operation with a fault in it, and all that must be true afterwards.

Cases are not written down. A run without faults shows the node commands of an operation; each of
them with each kind of fault is a case, and so is each command that only a fault brings about.
"""

import collections
import dataclasses
import functools
import itertools
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nova import exception

from tests.faults import operations
from tests.faults import transport as faulty
from tests.faults import world as worlds

Kind = faulty.Kind

#: For commands that come after a fault: what can go wrong with a remedy.
AFTER = (Kind.FAILS, Kind.FAILS_AFTER, Kind.HANGS_AFTER, Kind.REFUSED, Kind.GARBAGE, Kind.KILLED)
# What every tool of an emulated node says that is down.
_DOWN = "no node is up"
# what a node that goes down does to a tool in the middle
_KILLED = "ended by signal 9"
# Of a command that is repeated while something is awaited, these many are cases of their own.
_REPEATED = 2


@dataclasses.dataclass(frozen=True)
class Case:
    """Faults in an operation: one, or a second one in what the first has brought about."""

    operation: str
    faults: tuple[faulty.Fault, ...]

    def __str__(self) -> str:
        told = " then ".join(f"{fault.step}: {fault.kind}" for fault in self.faults)
        return f"{self.operation}: {told}"


@dataclasses.dataclass
class Outcome:
    """What a case showed."""

    case: Case
    fired: bool
    steps: list[faulty.Step]
    violations: list[str]
    seconds: float = 0.0
    error: str = ""


def trace(world: worlds.World, operation: operations.Operation) -> dict[faulty.Step, bool]:
    """The commands of the operation when nothing goes wrong, and which of them have input."""
    server = operation.server(world)
    with world.transport.operating():
        if operation.moves:
            world.transport.between = functools.partial(_one_at_most, world, server)
        try:
            operation.act(world, server)
        finally:
            world.transport.between = lambda: None
    steps = dict(world.transport.has_input)
    wrong = operation.wrong(world, server)
    assert not wrong, wrong
    if operation.wanted is not None:
        operations.delete(world, server)
    world.deleted(server)
    world.tidy()
    return steps


def _one_at_most(world: worlds.World, server: worlds.Server) -> None:
    found = world.runnable(server.instance.uuid)
    assert len(found) <= 1, f"it can run on both: {found}"


def cases(operation: str, steps: dict[faulty.Step, bool]) -> Iterator[Case]:
    """Every kind of fault at every command."""
    for step, has_input in steps.items():
        for kind in Kind:
            if kind is not Kind.CUT_INPUT or has_input:
                yield Case(operation, (faulty.Fault(step, kind),))


def cases_after(done: Iterable[Outcome], known: set[faulty.Step]) -> Iterator[Case]:
    """Faults at commands that no run without faults has shown: what undoes, looks and repairs."""
    done = [each for each in done if each.case.faults[0].kind not in faulty.KILLS]
    seen = set(known)
    # how often it is asked after a reboot may be chance: any other first fault that brings the
    # command about is better
    for by_reboot in (False, True):
        often = collections.Counter(step.command for step in seen)
        for outcome in done:
            fault = outcome.case.faults[0]
            if (fault.kind in faulty.REBOOTS) is not by_reboot:
                continue
            for step in outcome.steps:
                most = min(_REPEATED, often[step.command] + 1) if by_reboot else _REPEATED
                if step not in seen and step.number <= most:
                    seen.add(step)
                    for kind in AFTER:
                        yield Case(outcome.case.operation, (fault, faulty.Fault(step, kind)))


def sample(every: Iterable[Case], kinds: int, seed: str) -> list[Case]:
    """So many kinds of fault, by chance, at each command."""
    found = []
    for step, group in itertools.groupby(every, lambda case: case.faults[-1].step):
        each = list(group)
        chance = random.Random(f"{seed} {each[0].operation} {step}")
        found += chance.sample(each, min(kinds, len(each)))
    return found


def run(world: worlds.World, case: Case) -> Outcome:
    """Do the operation with its faults, then all that Nova or the user would do next."""
    began = time.monotonic()
    world.scaffold.stdlog.delete_stored_logs()
    operation = operations.OPERATIONS[case.operation]
    found = Outcome(case, False, [], [])
    try:
        _run(world, operation, case, found)
    except Exception as error:  # whatever it is, it is a violation
        found.violations.append(f"{type(error).__name__} where nothing was spoilt: {error}")
    if found.violations:
        world.anew()
    found.seconds = time.monotonic() - began
    return found


def _run(world: worlds.World, operation: operations.Operation, case: Case, found: Outcome) -> None:
    server = operation.server(world)
    error: BaseException | None = None
    with world.transport.operating(*case.faults):
        try:
            operation.act(world, server)
        except (Exception, faulty.Killed) as raised:
            error = raised
    fired = [*world.transport.fired]
    found.steps = [*world.transport.steps]
    found.fired = len(fired) == len(case.faults)
    found.error = str(error) if error else ""
    if not found.fired:
        found.violations.append(f"not all of {len(case.faults)} faults fired")
    if any(fault.kind is Kind.FULL for fault in fired):
        world.free()
    if isinstance(error, faulty.Killed):
        world.stop()
        world.start()
    elif error is not None:
        found.violations += wrong_errors(error, fired)
    elif wrong := operation.wrong(world, server):
        found.violations.append(f"it ended well, but {wrong}")
    # what was not begun, since it was spoilt
    world.start()
    # who asks while the node boots hears that it does, which is right and proves nothing
    world.follow()
    _settle(world, operation, server, error, found)
    seen = world.observed()
    if world.picture(seen).foreign != world.before.foreign:
        found.violations.append("VMs that are not Nova's have changed")
    found.violations += [f"left over: {each.kind} {each.subject}" for each in world.findings(seen)]
    found.violations += world.tidy(seen)


def wrong_errors(error: BaseException, fired: Sequence[faulty.Fault]) -> list[str]:
    """What is wrong with what Nova, and so the user, is told."""
    wrong = []
    told = str(error)
    if not isinstance(error, exception.NovaException):
        wrong.append(f"Nova gets a {type(error).__name__}: {told}")
    reboots = [fault for fault in fired if fault.kind in faulty.REBOOTS]
    # a final reading that fails stops nobody, but what follows meets a pool that is full
    harmful = [fault for fault in fired if fault.step.command != "kstat" or fault.kind is Kind.FULL]
    if fired and not harmful and not reboots:
        wrong.append(f"a final reading has stopped the operation: {told}")
    due = [fault for fault in harmful if not _is_overcome(error, fault, fired)]
    # what a guest says may be a secret, and is not shown
    silent = due and (due[0].kind in faulty.MUTE or due[0].step.command == "zlogin")
    if due and not silent and not any(_names(told, fault) for fault in (due[0], *reboots)):
        wrong.append(f"the first error is not the one shown: {told}")
    if len(told) < 10:
        wrong.append(f"the error says nothing: {told!r}")
    return wrong


def _names(told: str, fault: faulty.Fault) -> bool:
    """Whether it says what went wrong; a node that reboots does so to the commands that follow."""
    down = fault.kind in faulty.REBOOTS and any(sign in told for sign in (_DOWN, _KILLED))
    return down or faulty.mark(fault.step) in told


def _is_overcome(error: BaseException, fault: faulty.Fault, fired: Sequence[faulty.Fault]) -> bool:
    """Whether another fault ended the operation, long after it had dealt with this one.

    What fails in the remedy of a first error is raised while that one is handled. An error which is
    not is no remedy's: the first had been looked into by then, and found to have done no harm.
    Of a fault that says nothing this cannot be told.
    """
    if fault is fired[-1] or fault.kind in faulty.MUTE:
        return False
    met: list[BaseException] = [error]
    for each in met:
        met += [one for one in (each.__cause__, each.__context__) if one and one not in met]
    return not any(faulty.mark(fault.step) in str(each) for each in met)


def _settle(
    world: worlds.World,
    operation: operations.Operation,
    server: worlds.Server,
    error: Any,
    found: Outcome,
) -> None:
    """Afterwards a retry and a deletion work."""
    if operation.launches and error is not None:
        # Nova cleans up after a failed build, and builds again here or elsewhere; after a crash it
        # puts the instance into ERROR, and its user deletes it
        operations.destroy(world, server)
        if not isinstance(error, faulty.Killed):
            operations.launch(world, server)
    elif error is not None:
        operation.act(world, server)
    gone = operation.launches and isinstance(error, faulty.Killed)
    if not gone and (wrong := operation.wrong(world, server)):
        found.violations.append(f"after a retry: {wrong}")
    operations.delete(world, server)
    world.deleted(server)
    if operation.moves:
        # Nova's periodic look at migrations that failed
        world.driver.delete_instance_files(server.instance)
    if operation.guest.new_image:
        # of what an import leaves Nova's periodic look at images takes care
        world.driver.manage_image_cache(world.context, [])
