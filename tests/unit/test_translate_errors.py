# SPDX-License-Identifier: Apache-2.0
"""Every error of the toolkit has Nova's exception, and the reason is in it."""

import pytest
from nova import exception

from nova_smartos.smartos import errors
from nova_smartos.translate import errors as translate_errors

UUID = "11111111-2222-4333-8444-555555555555"
WHY = "because of the moon"

CASES = [
    (errors.NotStarted(WHY), exception.HypervisorUnavailable),
    (errors.OutcomeUnknown(WHY), exception.HypervisorUnavailable),
    (errors.NotFound(WHY, code="VmNotFound"), exception.InstanceNotFound),
    (errors.NotFound(WHY, code="ImageNotFound"), exception.ImageUnacceptable),
    (errors.AlreadyExists(WHY, code="VmExists"), exception.InstanceExists),
    (errors.InvalidState(WHY, code="State"), exception.InstanceInvalidState),
    (errors.InvalidPayload(WHY, code="InvalidValues"), exception.InvalidInput),
    (errors.InvalidPayload(WHY, code="Image"), exception.ImageUnacceptable),
    (errors.InvalidPayload(WHY, code="NicTag"), exception.VirtualInterfaceCreateException),
    (errors.InvalidPayload(WHY, code="AddressConflict"), exception.VirtualInterfaceCreateException),
    (errors.InvalidPayload(WHY, code="DiskTooSmall"), exception.FlavorDiskTooSmall),
    (errors.NoSpace(WHY), exception.ComputeResourcesUnavailable),
    (errors.Unsupported(WHY), exception.NotSupported),
    (errors.OutputError(WHY), exception.InternalError),
    (errors.ToolError(WHY), exception.InternalError),
]


@pytest.mark.parametrize(("error", "expected"), CASES, ids=lambda case: getattr(case, "code", ""))
def test_each_error_has_its_exception(
    error: errors.SmartOSError, expected: type[exception.NovaException]
) -> None:
    with pytest.raises(expected) as caught, translate_errors.translated(UUID, image_id="an-image"):
        raise error
    assert type(caught.value) is expected
    assert caught.value.__cause__ is error
    named = {exception.InstanceNotFound, exception.InstanceExists}
    assert (UUID if expected in named else WHY) in caught.value.format_message()


def test_what_is_no_error_of_the_toolkit_passes() -> None:
    with pytest.raises(KeyError), translate_errors.translated(UUID):
        raise KeyError("else")
