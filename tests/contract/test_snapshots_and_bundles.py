# SPDX-License-Identifier: Apache-2.0
"""Vm snapshots, bundles and reprovisioning: what survives, what stops, what starts."""

import io

import pytest

from nova_smartos.smartos import errors

FILE = "/root/nst-file"


def put(target, vm, content):
    """Write a file from inside the zone."""
    target.node.zlogin.run(vm, ("dd", f"of={FILE}"), stdin=content)


def held(target, vm):
    """What the file holds, or None."""
    done = target.run("zlogin", vm, "cat", FILE)
    return done.stdout if done.returncode == 0 else None


@pytest.mark.known("recorded")
def test_snapshots(target, create):
    """Snapshots have names that are unique in the VM, and show the newest first."""
    made = create("joyent-minimal")
    for each in ("s1", "s2"):
        target.node.vmadm.create_snapshot(made, each)
    shown = target.node.vmadm.get(made).snapshots
    assert {s.name for s in shown} == {"s1", "s2"}
    assert [s.created_at for s in shown] == sorted((s.created_at for s in shown), reverse=True)
    with pytest.raises(errors.AlreadyExists):
        target.node.vmadm.create_snapshot(made, "s1")
    target.node.vmadm.delete_snapshot(made, "s1")
    with pytest.raises(errors.NotFound):
        target.node.vmadm.delete_snapshot(made, "s1")


@pytest.mark.known("recorded")
def test_rollback(target, create):
    """rollback brings files back, drops newer snapshots and leaves the VM running."""
    made = create("joyent-minimal")
    put(target, made, b"before")
    target.node.vmadm.create_snapshot(made, "s1")
    put(target, made, b"after")
    target.node.vmadm.create_snapshot(made, "s2")
    target.node.vmadm.stop(made)
    target.node.vmadm.rollback_snapshot(made, "s1")
    vm = target.node.vmadm.get(made)
    assert (vm.state, [s.name for s in vm.snapshots]) == ("running", ["s1"])
    assert held(target, made) == "before"


@pytest.mark.known("recorded")
def test_snapshots_need_a_vm_without_delegated_data(target, create):
    """A VM with a delegated dataset has no snapshots."""
    made = create("joyent-minimal", autoboot=False, delegate_dataset=True)
    with pytest.raises(errors.Unsupported):
        target.node.vmadm.create_snapshot(made, "s1")


@pytest.mark.known("from source")
@pytest.mark.parametrize("brand", ["joyent-minimal", "bhyve"])
def test_send_and_receive(target, create, brand):
    """send stops the VM and clears autoboot; the bundle brings it back, files and metadata too."""
    made = create(brand, customer_metadata={"k": "v"})
    if brand != "bhyve":
        put(target, made, b"kept\0exactly")
    with target.node.vmadm.send(made) as stream:
        bundle = stream.read()
    vm = target.node.vmadm.get(made)
    assert (vm.state, vm.autoboot) == ("stopped", False)
    target.node.vmadm.delete(made)
    assert target.node.vmadm.receive(io.BytesIO(bundle)) == made
    vm = target.node.vmadm.get(made)
    assert (vm.state, dict(vm.customer_metadata)) == ("stopped", {"k": "v"})
    if brand != "bhyve":
        target.node.vmadm.start(made)
        assert held(target, made) == "kept\0exactly"


def record(vm):
    """What tells vmadm of a VM whose datasets, metadata among them, come by themselves."""
    left_out = ("customer_metadata", "internal_metadata", "nics", "snapshots", "tags")
    return {key: value for key, value in vm.document.items() if key not in left_out}


@pytest.mark.known("from source")
def test_receive_of_a_record_after_its_datasets(target, create):
    """A bundle of the object alone makes the VM of datasets that are there already."""
    made = create("joyent-minimal", customer_metadata={"k": "v"})
    put(target, made, b"kept")
    target.node.vmadm.stop(made)
    before = target.node.vmadm.get(made)
    target.node.zfs.snapshot(f"zones/{made}@nst")
    with target.node.zfs.send(f"zones/{made}@nst", properties=True) as stream:
        data = stream.read()
    target.node.vmadm.delete(made)
    target.node.zfs.receive(io.BytesIO(data), f"zones/{made}")
    assert target.node.vmadm.receive_record(record(before)) == made
    vm = target.node.vmadm.get(made)
    assert (vm.state, vm.autoboot, dict(vm.customer_metadata)) == ("stopped", False, {"k": "v"})
    assert (vm.quota_gib, vm.create_timestamp) == (before.quota_gib, before.create_timestamp)
    target.node.vmadm.start(made)
    assert held(target, made) == "kept"


@pytest.mark.known("from source")
def test_receive_of_a_record_before_its_datasets(target, create):
    """Without them the VM stays in state receiving, which nothing boots."""
    made = create("joyent-minimal", autoboot=False)
    before = target.node.vmadm.get(made)
    target.node.vmadm.delete(made)
    with pytest.raises(errors.InvalidState) as raised:
        target.node.vmadm.receive_record(record(before))
    assert raised.value.code == "DatasetsMissing"
    assert target.node.vmadm.get(made).state == "receiving"
    with pytest.raises(errors.SmartOSError):
        target.node.vmadm.start(made)
    target.node.vmadm.delete(made)


@pytest.mark.known("recorded")
def test_receive_of_garbage(target):
    """What is no bundle is refused."""
    done = target.run("vmadm", "receive", raw="nst" * 400)
    assert done.returncode == 1
    assert done.stderr == "first of 1 error: Failed to get JSON!\n"


@pytest.mark.known("from source")
def test_receive_where_it_is(target, create):
    """A VM that is there is not received over."""
    made = create("joyent-minimal", autoboot=False)
    with target.node.vmadm.send(made) as stream:
        bundle = stream.read()
    with pytest.raises(errors.AlreadyExists):
        target.node.vmadm.receive(io.BytesIO(bundle))


@pytest.mark.known("from source")
def test_reprovision(target, create, image):
    """reprovision gives the zone a new root; name, uuid and quota stay."""
    made = create("joyent-minimal", quota=6)
    put(target, made, b"gone")
    before = target.node.vmadm.get(made)
    target.node.vmadm.reprovision(made, image("zone"))
    after = target.node.vmadm.get(made)
    assert (after.uuid, after.alias, after.quota_gib) == (made, before.alias, 6)
    target.node.vmadm.start(made)
    assert held(target, made) is None


@pytest.mark.known("recorded")
def test_reprovision_with_a_wrong_image(target, create, image):
    """An image of another type is refused."""
    made = create("joyent-minimal", autoboot=False)
    with pytest.raises(errors.InvalidPayload):
        target.node.vmadm.reprovision(made, image("zvol"))
