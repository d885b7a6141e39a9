# SPDX-License-Identifier: Apache-2.0
"""The end of a VM, whoever wants it: Nova's user, or whoever tidies up."""

import contextlib

from nova_smartos import readings
from nova_smartos.operations import guest, metering
from nova_smartos.smartos import errors, node, vms
from nova_smartos.translate import identity, payload


def remove(gz: node.Node, vm: vms.Vm) -> None:
    """Delete a VM and what is its own beside it; one that is gone is success [1-2].

    A flag that holds it against an operator's mistake does not hold it against this.
    """
    flags = ("indestructible_zoneroot", "indestructible_delegated")
    held = {name: False for name in flags if getattr(vm, name)}
    metering.final_reading(gz, vm, readings.DELETION)
    try:
        if held:
            gz.vmadm.update(vm.uuid, held)
        gz.vmadm.delete(vm.uuid)
    except errors.NotFound as error:
        if error.code != "VmNotFound":
            raise
    guest.remove_drive(gz, vm)
    if identity.is_stillborn(vm):
        # it does not tell vmadm of it
        eject(gz, vm.uuid)


def eject(gz: node.Node, uuid: str) -> None:
    """Remove the medium of a VM that is not there, or does not tell of it."""
    with contextlib.suppress(errors.NotFound):
        gz.zfs.destroy(payload.medium_volume(uuid))
