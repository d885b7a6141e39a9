# SPDX-License-Identifier: Apache-2.0
"""Final readings: what a VM has used is read before it is ended, for the metering plugin.

A reading never stops the operation that it precedes: one that fails is told of in the next.
"""

import contextlib
import queue

import nova.conf
from oslo_log import log

from nova_smartos import conf as smartos_conf
from nova_smartos import readings
from nova_smartos.smartos import errors, node, vms

CONF = nova.conf.CONF
LOG = log.getLogger(__name__)
smartos_conf.register(CONF)

# A mark for each reading that failed and of which no later one has told.
_failures: "queue.SimpleQueue[None]" = queue.SimpleQueue()


def final_reading(gz: node.Node, vm: vms.Vm, reason: str) -> None:
    """Read what a VM that runs has used, and leave it in the spool, if there is one [1]."""
    directory = CONF[smartos_conf.GROUP].spool_directory
    if directory is None or not vm.zoneid:
        return
    failed = _untold()
    try:
        readings.Spool(directory).put(readings.read(gz, vm, reason, failed=failed))
    except (errors.SmartOSError, OSError) as error:
        for _ in range(failed + 1):
            _failures.put(None)
        LOG.warning(
            "VM %s: no final reading before its %s, so its last use is not metered: %s",
            vm.uuid,
            reason,
            error,
        )


def _untold() -> int:
    """Take all marks."""
    count = 0
    with contextlib.suppress(queue.Empty):
        while True:
            _failures.get_nowait()
            count += 1
    return count
