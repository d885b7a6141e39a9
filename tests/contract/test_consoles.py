# SPDX-License-Identifier: Apache-2.0
"""Consoles, their logs, and where displays are."""

import pytest

from nova_smartos.smartos import errors
from tests import waits

SECONDS = 120
FRAMEBUFFER = "-s 30:0,fbuf,vga=off,unix=/tmp/vm.vnc -s 30:1,xhci,tablet"


def greeting(opened):
    """The first bytes of a display."""
    with opened as process:
        said = b""
        while len(said) < 12:
            data = process.read(12)
            assert data, said
            said += data
        return said[:12]


@pytest.mark.known("from source")
def test_a_console_is_logged(node, create):
    """What a zone shows on its console is in logs/console.log, a JSON document a line."""
    zonepath = node.vmadm.get(create("joyent-minimal")).zonepath
    waits.until(lambda: node.console.log(zonepath), seconds=SECONDS, pause=0.5)


@pytest.mark.known("from source")
def test_a_console_takes_one_client(node, create):
    """zlogin -C says that it is connected; a second one says that the console is in use."""
    made = create("joyent-minimal")
    with node.console.zone(made):
        with pytest.raises(errors.InvalidState) as caught:
            with node.console.zone(made):
                pass
        assert caught.value.code == "Busy"
    with node.console.zone(made):
        pass


@pytest.mark.known("from source")
def test_bhyve_without_a_display(node, create):
    """vnc_port=-1 leaves bhyve without a display, and vmadmd without one to listen for."""
    made = create("bhyve", vnc_port=-1)
    assert node.vmadm.info(made, "vnc") == {"vnc": {}}
    with pytest.raises(errors.InvalidState):
        greeting(node.console.display(node.vmadm.get(made).zonepath))


@pytest.mark.known("unverified")
def test_bhyve_with_a_display_of_its_own(node, create):
    """With vnc_port=-1 and a framebuffer in bhyve_extra_opts the display is a socket only."""
    made = create("bhyve", vnc_port=-1, bhyve_extra_opts=FRAMEBUFFER)
    assert node.vmadm.info(made, "vnc") == {"vnc": {}}
    assert greeting(node.console.display(node.vmadm.get(made).zonepath)).startswith(b"RFB 003.")


@pytest.mark.known("from source")
def test_kvm_always_has_a_display(node, create):
    """kvm has its display with vnc_port=-1, too; vmadmd does not listen for it."""
    made = create("kvm", vnc_port=-1)
    assert node.vmadm.info(made, "vnc") == {"vnc": {}}
    assert greeting(node.console.display(node.vmadm.get(made).zonepath)).startswith(b"RFB 003.")
