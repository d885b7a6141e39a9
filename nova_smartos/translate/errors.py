# SPDX-License-Identifier: Apache-2.0
"""The toolkit's errors as Nova's exceptions. Which one is raised decides what Nova does next."""

import contextlib
from collections.abc import Iterator

from nova import exception
from oslo_log import log

from nova_smartos.smartos import errors

LOG = log.getLogger(__name__)

# Codes of the toolkit for payloads that are wrong in a way Nova has its own word for.
_ADDRESS = frozenset({"AddressConflict", "Nic", "NicTag"})
_IMAGE = frozenset({"Image"})
_SMALL = frozenset({"DiskTooSmall"})


class Refused(exception.NotSupported, NotImplementedError):  # type: ignore[misc]
    """What SmartOS or the brand cannot do, refused before anything is done.

    Nova leaves an instance as it was for NotImplementedError alone; its user sees only the message
    of an exception of Nova's.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


@contextlib.contextmanager
def translated(instance_uuid: str = "", *, image_id: str = "") -> Iterator[None]:
    """Raise Nova's exception for whatever the toolkit raises inside; others pass."""
    try:
        yield
    except errors.SmartOSError as error:
        if isinstance(error, errors.OutputError):
            # whoever is to find out why needs all of it; the fault that users see does not
            LOG.error("%s: the whole output is %r", error, error.output)
        raise nova_exception(error, instance_uuid, image_id) from error


@contextlib.contextmanager
def launching(*, replaces: bool = False) -> Iterator[None]:
    """Keep two exceptions from Nova that mean something else to it in a launch or a rebuild.

    Of an instance that is not found it thinks that the user has just deleted it, and leaves the
    server as it is, for ever and without a fault. Of a rebuild that finds no room it says that the
    server is as it was, although what `replaces` the old guest comes after that one's end.
    """
    try:
        yield
    except exception.InstanceNotFound as error:
        reason = str(error.__cause__ or error)
        raise exception.InstanceDeployFailure(reason=reason) from error
    except exception.ComputeResourcesUnavailable as error:
        if not replaces:
            raise
        raise exception.InstanceDeployFailure(reason=error.format_message()) from error


@contextlib.contextmanager
def still_there() -> Iterator[None]:
    """A VM that cannot be deleted may run on, so it keeps its addresses.

    After any other exception of a driver's destroy() Nova gives them to others.
    """
    try:
        yield
    except errors.SmartOSError as error:
        raise exception.InstancePowerOffFailure(reason=str(error)) from error


def nova_exception(
    error: errors.SmartOSError, instance_uuid: str = "", image_id: str = ""
) -> exception.NovaException:
    """The exception that says to Nova what `error` means.

    Those that would happen on every node make Nova give up, the others let it try another host.
    """
    reason = str(error)
    if isinstance(error, errors.TransportError):
        # the message alone would not reach the user: HypervisorUnavailable names no reason
        return exception.HypervisorUnavailable(message=f"SmartOS node: {reason}")
    if isinstance(error, errors.InvalidPayload):
        return _invalid(error.code, reason, instance_uuid, image_id)
    if isinstance(error, errors.NotFound) and error.code == "VmNotFound":
        return exception.InstanceNotFound(instance_id=instance_uuid)
    if isinstance(error, errors.NotFound) and error.code.startswith("Image"):
        return exception.ImageUnacceptable(image_id=image_id, reason=reason)
    if isinstance(error, errors.AlreadyExists) and error.code == "VmExists":
        return exception.InstanceExists(name=instance_uuid)
    if isinstance(error, errors.NoSpace):
        return exception.ComputeResourcesUnavailable(reason=reason)
    if isinstance(error, errors.Unsupported):
        return exception.NotSupported(reason)
    if isinstance(error, errors.InvalidState):
        return exception.InstanceInvalidState(reason)
    return exception.InternalError(reason)


def _invalid(code: str, reason: str, instance_uuid: str, image_id: str) -> exception.NovaException:
    if code in _ADDRESS:
        return exception.VirtualInterfaceCreateException(reason)
    if code in _IMAGE:
        return exception.ImageUnacceptable(image_id=image_id, reason=reason)
    if code in _SMALL:
        return exception.FlavorDiskTooSmall(reason)
    return exception.InvalidInput(reason=reason)
