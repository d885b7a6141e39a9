# SPDX-License-Identifier: Apache-2.0
"""A node that misbehaves: what the toolkit makes of it. Needs a node that can be spoiled."""

import pytest

from nova_smartos.smartos import errors


@pytest.fixture
def spoil(target):
    """A function that adds a fault; all are cleared after the test."""
    emulator = target.emulator
    if emulator is None:
        pytest.skip("this node cannot be spoiled on demand")

    def add(*words):
        emulator.command("fault", str(emulator.directory), *words)

    yield add
    add("clear")


@pytest.mark.known("recorded")
def test_vminfod_down(target, spoil):
    """Without vminfod every vmadm command fails with the same text."""
    spoil("vminfod", "down")
    try:
        done = target.run("vmadm", "list")
        assert (done.returncode, done.stderr) == (1, "connect ECONNREFUSED\n")
    finally:
        spoil("vminfod", "up")
    assert target.run("vmadm", "list").returncode == 0


@pytest.mark.known("recorded")
def test_a_crash_of_the_tool_itself(target):
    """A brand that vmadm does not know makes create abort: no tidy error, a death by signal."""
    with pytest.raises(errors.ToolError) as raised:
        target.node.vmadm.create({"brand": "nst"})
    assert raised.value.code == "Abort"


@pytest.mark.known("from source")
def test_a_full_pool(target, spoil, payload):
    """On a full pool a create fails for want of space, and the VM is not running."""
    document = payload("joyent-minimal")
    spoil("disk", "full")
    try:
        with pytest.raises(errors.NoSpace):
            target.node.vmadm.create(document)
    finally:
        spoil("disk", "free")
        left = target.node.vmadm.lookup({"uuid": document["uuid"]})
        for each in left:
            target.node.vmadm.delete(each.uuid)
    assert all(each.state != "running" for each in left)


@pytest.mark.known("unverified")
def test_output_that_is_cut_short(target, spoil, create):
    """JSON that ends early is an error that says so, never a short list."""
    create("joyent-minimal", autoboot=False)
    spoil("add", "vmadm", "truncate", "--match", "^lookup", "--bytes", "100")
    with pytest.raises(errors.OutputError):
        target.node.vmadm.lookup()


@pytest.mark.known("unverified")
def test_a_tool_that_is_killed_after_its_effect(target, spoil, payload):
    """A create that is killed after its effect is an error, and the VM is there."""
    document = payload("joyent-minimal", autoboot=False)
    spoil("add", "vmadm", "die-after", "--match", "^create", "--count", "1")
    try:
        with pytest.raises(errors.SmartOSError):
            target.node.vmadm.create(document)
        assert target.node.vmadm.get(document["uuid"]).state == "stopped"
    finally:
        target.node.vmadm.delete(document["uuid"])


@pytest.mark.known("recorded")
def test_a_guest_that_never_provisions(target, spoil, payload):
    """A guest that never says it is provisioned leaves a failed VM behind; it can be deleted."""
    document = payload("joyent-minimal")
    spoil("guest", document["uuid"], "provision=never")
    try:
        with pytest.raises(errors.ToolError):
            target.node.vmadm.create(document)
        assert target.node.vmadm.get(document["uuid"]).state == "failed"
        with pytest.raises(errors.InvalidState):
            target.node.vmadm.start(document["uuid"])
        assert target.node.vmadm.stop(document["uuid"]) is False
    finally:
        target.node.vmadm.delete(document["uuid"])


@pytest.mark.known("unverified")
@pytest.mark.parametrize(("kind", "there"), [("lose-before", False), ("lose-after", True)])
def test_a_connection_that_is_lost(target, spoil, payload, kind, there):
    """A connection lost in mid-command leaves the outcome unknown; the node knows it."""
    if not target.emulator.facts()["ssh"]:
        pytest.skip("no connection to lose: run with --node=emulator+ssh")
    document = payload("joyent-minimal", autoboot=False)
    spoil("add", "vmadm", kind, "--match", "^create", "--count", "1")
    with pytest.raises(errors.OutcomeUnknown):
        target.node.vmadm.create(document)
    found = [each.uuid for each in target.node.vmadm.lookup({"uuid": document["uuid"]})]
    assert found == ([document["uuid"]] if there else [])
    for each in found:
        target.node.vmadm.delete(each)
