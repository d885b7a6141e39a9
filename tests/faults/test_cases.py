# SPDX-License-Identifier: Apache-2.0
"""What the cases take for a wrong error, and what they do not."""

import pytest

from tests.faults import cases
from tests.faults import transport as faulty
from tests.faults import world as worlds

pytestmark = worlds.QUIET

from nova import exception  # noqa: E402

FIRST = faulty.Fault(faulty.Step("vmadm stop", 1), faulty.Kind.FAILS)
SECOND = faulty.Fault(faulty.Step("vmadm lookup", 1), faulty.Kind.FAILS)
READING = faulty.Fault(faulty.Step("kstat", 1), faulty.Kind.FAILS)


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
