# SPDX-License-Identifier: Apache-2.0
"""What the cases take for a wrong error, and what they do not."""

import pytest

from tests.faults import cases, operations
from tests.faults import transport as faulty
from tests.faults import world as worlds

pytestmark = worlds.QUIET

from nova import exception  # noqa: E402

FIRST = faulty.Fault(faulty.Step("vmadm stop", 1), faulty.Kind.FAILS)
SECOND = faulty.Fault(faulty.Step("vmadm lookup", 1), faulty.Kind.FAILS)
READING = faulty.Fault(faulty.Step("kstat", 1), faulty.Kind.FAILS)


Kind = faulty.Kind


def outcome(fault: faulty.Fault, *steps: faulty.Step) -> cases.Outcome:
    return cases.Outcome(cases.Case("stop-zone", (fault,)), True, [*steps], [])


def raised(fault: faulty.Fault) -> exception.NovaException:
    return exception.InternalError(faulty.mark(fault.step))


def in_a_remedy() -> exception.NovaException:
    """An error of the second fault, raised while the first one's is handled."""
    try:
        try:
            raise raised(FIRST)
        except exception.NovaException:
            raise raised(SECOND)  # noqa: B904
    except exception.NovaException as error:
        return error


@pytest.mark.parametrize(
    ("error", "fired"),
    [
        (raised(FIRST), [FIRST]),
        (raised(FIRST), [FIRST, SECOND]),
        # the first has been dealt with by then
        (raised(SECOND), [FIRST, SECOND]),
        (
            exception.InternalError("vmadm: no node is up in /nst"),
            [faulty.Fault(FIRST.step, faulty.Kind.REBOOT_AFTER)],
        ),
        (
            exception.InternalError("vmadm create: out of space"),
            [faulty.Fault(FIRST.step, faulty.Kind.FULL), SECOND],
        ),
        (
            exception.InternalError("vmadm create: out of space"),
            [faulty.Fault(READING.step, faulty.Kind.FULL), SECOND],
        ),
        # the reading failed, and nobody minded
        (raised(FIRST), [READING, FIRST]),
        (
            exception.InternalError("vmadm get: no node is up in /nst"),
            [faulty.Fault(READING.step, faulty.Kind.REBOOT), SECOND],
        ),
    ],
)
def test_what_tells_the_first_error_is_right(
    error: exception.NovaException, fired: list[faulty.Fault]
) -> None:
    assert cases.wrong_errors(error, fired) == []


@pytest.mark.parametrize(
    ("error", "fired", "says"),
    [
        (in_a_remedy(), [FIRST, SECOND], "the first error"),
        (exception.InternalError("something else is wrong"), [FIRST], "the first error"),
        (exception.InternalError("kstat: broken"), [READING], "a final reading"),
        (exception.InternalError("no node is up in /nst"), [FIRST], "the first error"),
        (ValueError(faulty.mark(FIRST.step)), [FIRST], "Nova gets a ValueError"),
        (exception.InternalError("bad"), [], "says nothing"),
    ],
)
def test_what_hides_it_is_not(error: Exception, fired: list[faulty.Fault], says: str) -> None:
    (wrong,) = cases.wrong_errors(error, fired)
    assert says in wrong


def test_a_reboot_is_the_last_choice_of_a_first_fault() -> None:
    look, own = faulty.Step("vmadm get", 1), FIRST.step
    again, third = faulty.Step(look.command, 2), faulty.Step(SECOND.step.command, 2)
    done = [
        outcome(faulty.Fault(own, Kind.REBOOT), own, look, SECOND.step, again, third),
        outcome(faulty.Fault(own, Kind.KILLED), own, faulty.Step("ps", 1)),
        outcome(faulty.Fault(own, Kind.HANGS), own, look),
    ]
    after = list(cases.cases_after(done, {own}))
    first = {case.faults[1].step: case.faults[0].kind for case in after}
    assert first == {look: Kind.HANGS, SECOND.step: Kind.REBOOT, again: Kind.REBOOT}
    assert [case.faults[1].kind for case in after] == [*cases.AFTER] * 3


def test_each_command_of_a_sample_meets_as_many_kinds() -> None:
    every = list(cases.cases("stop-zone", {FIRST.step: True, SECOND.step: False}))
    chosen = cases.sample(every, 2, "1")
    assert chosen == cases.sample(every, 2, "1")
    assert [case.faults[0].step for case in chosen] == [FIRST.step] * 2 + [SECOND.step] * 2
    assert len({*chosen}) == 4
    assert {*cases.sample(every, 16, "1")} == {*every}


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("stop-lx", "stop-zone"),
        ("stop-kvm", "stop-bhyve"),
        ("stop-bhyve", "stop-bhyve"),
        ("launch-lx-drive", "launch-zone-drive"),
        ("delete-held", "delete-held"),
        ("delete-rescued-zone", "delete-rescued-zone"),
        ("start-zone", "start-zone"),
    ],
)
def test_a_model_differs_in_the_brand_alone(name: str, model: str) -> None:
    assert operations.OPERATIONS[name].model.name == model


def test_a_reading_of_counters_is_not_one_of_the_processor() -> None:
    assert faulty.named(("kstat", "-j", "cpu_info:0:::")) == "kstat cpu_info"
    assert faulty.named(("kstat", "-j", "link:::z1_net0")) == "kstat"
