# SPDX-License-Identifier: Apache-2.0
"""kvm's monitor, which vmadm's commands reach only in part."""

import pytest

from nova_smartos.smartos import errors


def runs(node, uuid):
    return node.vmadm.info(uuid, "status")["status"]["running"]


@pytest.mark.known("unverified")
def test_a_kvm_stands_still(node, create):
    """A kvm VM stands still and goes on by its monitor, of which vmadm shows no other state."""
    made = create("kvm")
    zonepath = node.vmadm.get(made).zonepath
    for order, running in ((node.qmp.stop, False), (node.qmp.cont, True)):
        for _ in range(2):
            order(zonepath)
            assert runs(node, made) is running
            assert node.vmadm.get(made).state == "running"


@pytest.mark.known("from source")
def test_a_kvm_that_is_down_has_no_monitor(node, create):
    """A kvm VM that is down has no monitor."""
    made = create("kvm", autoboot=False)
    with pytest.raises(errors.InvalidState):
        node.qmp.stop(node.vmadm.get(made).zonepath)


@pytest.mark.known("from source")
def test_a_stop_of_what_is_down_clears_autoboot(node, create):
    """stop clears autoboot also of a VM that is down already, and reports success; -F does not."""
    made = create("joyent-minimal", autoboot=False)
    for force, autoboot in ((True, True), (False, False)):
        node.vmadm.update(made, {"autoboot": True})
        assert node.vmadm.stop(made, force=force) is False
        assert node.vmadm.get(made).autoboot is autoboot
