# SPDX-License-Identifier: Apache-2.0
"""Vm snapshots: what smartos-snapshot runs on the node, and what it refuses before it runs any."""

from typing import Any

import pytest

from tests import openstack

pytestmark = openstack.QUIET

from nova_smartos.cmd import snapshot as command  # noqa: E402
from nova_smartos.operations import vm_snapshot  # noqa: E402
from nova_smartos.smartos import errors, node, vms  # noqa: E402
from tests.unit import fake_transport  # noqa: E402

UUID = "6a1f3c52-0b7e-4d7a-9c55-1f0e2d3c4b5a"
ROOT = f"zones/{UUID}"
DISK = f"{ROOT}/disk0"
COLUMNS = (
    "name,type,creation,used,available,referenced,quota,refquota,refreservation,volsize,origin"
)
Answer = fake_transport.Answer


def vm(brand: str = "joyent", *, state: str = "stopped", **more: Any) -> vms.Vm:
    document: dict[str, Any] = {
        "uuid": UUID,
        "brand": brand,
        "state": state,
        "zone_state": "installed",
        "zfs_filesystem": ROOT,
        "snapshots": [{"name": "nova-one"}, {"name": "by-hand"}],
    }
    if brand == "bhyve":
        document["disks"] = [{"path": f"/dev/zvol/rdsk/{DISK}", "zfs_filesystem": DISK}]
    return vms.Vm.from_json({**document, **more})


def rows(*names: str) -> str:
    return "".join("\t".join([name, "snapshot", "1", *["-"] * 8]) + "\n" for name in names)


def get(name: str, prop: str, value: str) -> Answer:
    return Answer(("zfs", "get", "-Hp", "-o", "property,value", prop, name), f"{prop}\t{value}\n")


def listing(dataset: str, *names: str) -> Answer:
    argv = ("zfs", "list", "-Hp", "-o", COLUMNS, "-t", "snapshot", "-r", dataset)
    return Answer(argv, rows(*names))


def restore(carrier: fake_transport.Transport, of: vms.Vm, **how: Any) -> list[str]:
    with carrier:
        return vm_snapshot.restore(node.Node(carrier), of, "nova-one", **how)


@pytest.mark.parametrize("state", ["running", "stopping", "failed"])
def test_only_a_vm_that_is_down_goes_back(state: str) -> None:
    with pytest.raises(errors.InvalidState, match="stop it first"):
        restore(fake_transport.refusing(), vm(state=state))


def test_a_disk_that_has_grown_stays_as_large_as_it_is() -> None:
    carrier = fake_transport.Transport(
        listing(DISK, f"{DISK}@vmsnap-nova-one"),
        get(f"{DISK}@vmsnap-nova-one", "createtxg", "7"),
        get(DISK, "volsize", "2048"),
        Answer(("zfs", "rollback", "-r", f"{DISK}@vmsnap-nova-one")),
        get(DISK, "volsize", "1024"),
        Answer(("zfs", "set", "volsize=2048", "refreservation=auto", DISK)),
    )
    assert restore(carrier, vm("bhyve")) == []


def test_newer_snapshots_are_newer_by_the_pools_count() -> None:
    one, other = f"{DISK}@vmsnap-nova-one", f"{DISK}@vmsnap-by-hand"
    asked = (get(one, "createtxg", "7"), get(other, "createtxg", "8"))
    with pytest.raises(errors.InvalidState, match="by-hand"):
        restore(fake_transport.Transport(listing(DISK, other, one), *asked), vm("bhyve"))


def test_clones_of_newer_snapshots_are_never_destroyed() -> None:
    one, other = f"{DISK}@vmsnap-nova-one", f"{DISK}@vmsnap-by-hand"
    carrier = fake_transport.Transport(
        listing(DISK, other, one),
        get(one, "createtxg", "7"),
        get(other, "createtxg", "8"),
        get(other, "clones", "zones/taken"),
    )
    with pytest.raises(errors.InvalidState, match="there are clones"):
        restore(carrier, vm("bhyve"), force=True)


def test_a_snapshot_that_lacks_a_disk_is_none() -> None:
    with pytest.raises(errors.NotFound, match="not one of all disks"):
        restore(fake_transport.Transport(listing(DISK)), vm("bhyve"))


def test_an_unknown_snapshot() -> None:
    gz = node.Node(fake_transport.refusing())
    for call in (vm_snapshot.delete, vm_snapshot.restore):
        with pytest.raises(errors.NotFound, match="has no snapshot x"):
            call(gz, vm(), "x")


@pytest.mark.parametrize("name", ["", "a b", "a@b", "a/b", "-r", "x" * 49, "ä"])
def test_what_is_no_name(name: str) -> None:
    if name == "-r":
        # with a mark before it, it is no option
        with fake_transport.expecting(
            "vmadm", "create-snapshot", UUID, "nova--r", stderr="Created snapshot nova--r\n"
        ) as carrier:
            assert vm_snapshot.create(node.Node(carrier), vm(), name) == "nova--r"
        return
    with pytest.raises(errors.InvalidPayload, match="no name of a snapshot"):
        vm_snapshot.create(node.Node(fake_transport.refusing()), vm(), name)


@pytest.mark.parametrize(
    "target",
    ["", "zones", "/zones/x", "zones/nova-smartos/x", ROOT, f"{ROOT}/x", "zones/-x", "zones/a b"],
)
def test_what_is_no_place_for_a_clone(target: str) -> None:
    with pytest.raises(errors.InvalidPayload, match="no place for a clone"):
        vm_snapshot.clone(node.Node(fake_transport.refusing()), vm(), "nova-one", target)


def test_options_of_nova_compute_and_words_do_not_mix() -> None:
    options = command.parse(["--config-file", "a", "--config-file", "b", "list", UUID])
    assert (options.config_file, options.action, options.server) == (["a", "b"], "list", UUID)
    with pytest.raises(SystemExit):
        command.parse(["restore", UUID])
