# SPDX-License-Identifier: Apache-2.0
"""vmadm events: what the node tells of its VMs while it happens."""

import queue
import threading

import pytest

SECONDS = 30


@pytest.fixture
def events(target):
    """The event stream from its first line on, read by a thread."""
    seen = queue.Queue()
    with target.node.vmadm.events() as stream:

        def read():
            for event in stream:
                seen.put(event)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        assert seen.get(timeout=SECONDS).type == "ready"
        yield seen
        stream.stop()
        reader.join(SECONDS)


def until(events, uuid, done):
    """The events of one VM, up to the one that `done` takes."""
    found = []
    while True:
        event = events.get(timeout=SECONDS)
        if event.uuid == uuid:
            found.append(event)
            if done(event):
                return found


@pytest.mark.known("recorded")
def test_the_life_of_a_vm(events, target, create):
    """A VM shows as created while it provisions, then as changed, then as deleted."""
    made = create("joyent-minimal")
    found = until(events, made, lambda e: e.vm is not None and e.vm.state == "running")
    assert found[0].type == "create"
    assert found[0].vm.state == "provisioning"
    target.node.vmadm.delete(made)
    assert until(events, made, lambda e: e.type == "delete")[-1].vm is None


@pytest.mark.known("recorded")
def test_a_change_says_what_changed(events, target, create):
    """A modify event carries path, old and new value."""
    made = create("joyent-minimal", autoboot=False, quota=5)
    target.node.vmadm.update(made, {"quota": 6})
    wanted = ("changed", 5, 6)

    def said(event):
        return [
            (c.action, c.old_value, c.new_value) for c in event.changes if c.pretty_path == "quota"
        ]

    assert until(events, made, lambda event: wanted in said(event))[-1].vm.quota_gib == 6


@pytest.mark.known("from source")
def test_a_guest_that_shuts_itself_down(events, target, create):
    """A guest's own shutdown shows as a change of state; autoboot stays."""
    made = create("joyent-minimal")
    target.node.zlogin.run(made, ("shutdown", "-y", "-g", "0", "-i", "5"))
    until(events, made, lambda e: e.vm is not None and e.vm.state == "stopped")
    assert target.node.vmadm.get(made).autoboot is True
