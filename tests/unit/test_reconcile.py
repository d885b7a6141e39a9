# SPDX-License-Identifier: Apache-2.0
"""The comparison of a node with Nova's records: what it finds, and what it would do by itself."""

import datetime
import json
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from tests import openstack

pytestmark = openstack.QUIET

from nova_smartos.operations import reconcile  # noqa: E402
from nova_smartos.smartos import errors, node, ps, vms, zfs  # noqa: E402
from nova_smartos.translate import identity, metadata, payload  # noqa: E402
from tests.unit import fake_transport  # noqa: E402

HOST = "compute1"
UUID = "11111111-2222-4333-8444-555555555555"
OTHER = "99999999-2222-4333-8444-555555555555"
MAC = "fa:16:3e:00:00:01"
Kind, Action = reconcile.Kind, reconcile.Action


def vm(uuid: str = UUID, *, host: str | None = HOST, state: str = "running", **more: Any) -> vms.Vm:
    """A VM with the mark of a host, or with none."""
    mark = {"version": 1, "host": host, "name": "", "display_name": "", "project_id": ""}
    mark |= {"user_id": "", "image_ref": "", "flavor": {}, "created_at": ""}
    internal = {"nova:instance": json.dumps(mark)} if host else {}
    document = {
        "uuid": uuid,
        "brand": "joyent",
        "state": state,
        "zone_state": state,
        "internal_metadata": internal,
        "nics": [{"mac": MAC, "interface": "net0"}],
        **more,
    }
    return vms.Vm.from_json(document)


def stand_in(uuid: str, whose: str) -> vms.Vm:
    return vm(uuid, host=None, internal_metadata={"nova:stands_in_for": whose})


def copy(to: str = HOST) -> vms.Vm:
    """A VM that comes from another host."""
    marked = dict(vm(host="compute2").internal_metadata)
    marked |= identity.move_mark(identity.Move("8f0b", to))
    return vm(state="stopped", internal_metadata=marked)


def instance(uuid: str = UUID, **more: Any) -> reconcile.Instance:
    """An instance that runs here."""
    usual = {"host": HOST, "vm_state": "active", "macs": frozenset({MAC})}
    return reconcile.Instance(uuid=uuid, **{**usual, **more})


def dataset(name: str, kind: str = "filesystem") -> zfs.Dataset:
    then = datetime.datetime.fromtimestamp(0, datetime.UTC)
    return zfs.Dataset(name, kind, then, 0, 0, 0, 0, 0, 0, 0, None)


def wanted(*instances: reconcile.Instance, **more: Any) -> reconcile.Desired:
    return reconcile.Desired(HOST, {each.uuid: each for each in instances}, **more)


def found(
    there: reconcile.Observed, desired: reconcile.Desired
) -> list[tuple[str, str, str | None]]:
    """What is found, less the words."""
    return [(each.kind, each.subject, each.action) for each in reconcile.findings(there, desired)]


FAILED = "failed"
HERE = [
    ("as it should be", [vm()], [instance()], []),
    ("an operator's own VM", [vm(host=None)], [], []),
    ("another nova-compute's VM", [vm(host="compute2")], [], []),
    (
        "another's VM of which this Nova has an instance here",
        [vm(host="compute2")],
        [instance()],
        [],
    ),
    ("Nova has no such instance", [vm()], [], [(Kind.VM_UNKNOWN, UUID, None)]),
    (
        "deleted meanwhile",
        [vm()],
        [instance(deleted=True)],
        [(Kind.VM_DELETED, UUID, Action.DELETE_VM)],
    ),
    ("moved", [vm()], [instance(host="compute2")], [(Kind.VM_ELSEWHERE, UUID, None)]),
    ("moving", [vm()], [instance(host="compute2", vm_state="resized")], []),
    ("a copy on its way", [copy()], [instance(host="compute2", task_state="resize_migrating")], []),
    ("a copy that broke off", [copy()], [instance(host="compute2")], [(Kind.COPY, UUID, None)]),
    ("a copy that is the one", [copy()], [instance()], [(Kind.COPY, UUID, None)]),
    (
        "a copy of nothing",
        [copy()],
        [instance(host="compute2", deleted=True)],
        [(Kind.COPY, UUID, Action.DELETE_VM)],
    ),
    ("a copy of nobody's", [copy()], [], []),
    ("a copy for another host", [copy(to="compute3")], [instance(host="compute2")], []),
    (
        "a launch that did not end",
        [vm(state=FAILED)],
        [instance(launched=False, vm_state="error")],
        [(Kind.HALF_MADE, UUID, Action.DELETE_VM)],
    ),
    (
        "a launch that Nova has given up",
        [vm()],
        [instance(launched=False, vm_state="error", host=None)],
        [(Kind.HALF_MADE, UUID, Action.DELETE_VM)],
    ),
    ("a launch that ended as nova-compute did", [vm()], [instance(launched=False)], []),
    (
        "a rebuild that did not end",
        [vm(state=FAILED)],
        [instance()],
        [(Kind.HALF_MADE, UUID, None)],
    ),
    ("something under way", [vm(state="provisioning")], [instance(task_state="spawning")], []),
    ("a VM that is gone", [], [instance()], [(Kind.MISSING, UUID, None)]),
    ("none yet", [], [instance(launched=False, vm_state="building")], []),
    ("none any more", [], [instance(vm_state="shelved_offloaded")], []),
    ("not ours to have", [], [instance(host="compute2")], []),
    ("other nics", [vm(nics=[])], [instance()], [(Kind.NICS, UUID, None)]),
    ("nics in other letters", [vm()], [instance(macs=frozenset({MAC}))], []),
    ("rescued, so that a stand-in has its nics", [vm(nics=[])], [instance(vm_state="rescued")], []),
    ("nics that Nova did not tell", [vm(nics=[])], [instance(macs=None)], []),
    (
        "a stand-in at work",
        [vm(nics=[]), stand_in(OTHER, UUID)],
        [instance(vm_state="rescued")],
        [],
    ),
    (
        "a stand-in whose work is done",
        [vm(), stand_in(OTHER, UUID)],
        [instance()],
        [(Kind.STAND_IN, OTHER, Action.DELETE_VM)],
    ),
    ("a stand-in of nobody", [stand_in(OTHER, UUID)], [], [(Kind.STAND_IN, OTHER, None)]),
]


@pytest.mark.parametrize(("machines", "instances", "expected"), [row[1:] for row in HERE],
                         ids=[row[0] for row in HERE])  # fmt: skip
def test_vms(
    machines: list[vms.Vm],
    instances: list[reconcile.Instance],
    expected: list[tuple[str, str, str | None]],
) -> None:
    assert found(reconcile.Observed(vms=machines), wanted(*instances)) == expected


DELETED = instance(deleted=True)
NEVER = instance(launched=False, vm_state="error", host=None)
LEFT = [
    ("of a VM", f"zones/{UUID}", [vm()], [instance()], []),
    ("of an operator's VM", f"zones/{UUID}-disk0", [vm(host=None)], [], []),
    ("of an image", f"zones/{OTHER}", [], [], []),
    ("of nobody that Nova knows", f"zones/{UUID}", [], [], []),
    ("of the node", "zones/var", [], [], []),
    ("of a deleted instance", f"zones/{UUID}", [], [DELETED], Action.DESTROY_DATASET),
    ("a disk of one", f"zones/{UUID}-disk1", [], [DELETED], Action.DESTROY_DATASET),
    ("cores of one", f"zones/cores/{UUID}", [], [DELETED], Action.DESTROY_DATASET),
    ("of a failed launch", f"zones/{UUID}", [], [NEVER], Action.DESTROY_DATASET),
    ("all that is left", f"zones/{UUID}", [], [instance(vm_state="shelved_offloaded")], None),
    ("of a moved one", f"zones/{UUID}", [], [instance(host="compute2", deleted=True)], None),
]


@pytest.mark.parametrize(("name", "machines", "instances", "expected"), [row[1:] for row in LEFT],
                         ids=[row[0] for row in LEFT])  # fmt: skip
def test_datasets(
    name: str, machines: list[vms.Vm], instances: list[reconcile.Instance], expected: Any
) -> None:
    there = reconcile.Observed(
        vms=machines, datasets=[dataset("zones"), dataset(name)], images=frozenset({OTHER})
    )
    rows = [] if expected == [] else [(Kind.DATASET, name, expected)]
    assert found(there, wanted(*instances)) == rows


def test_a_dataset_that_is_a_tenants_own_is_none_of_ours() -> None:
    names = [f"zones/{OTHER}/data/{UUID}", f"zones/{OTHER}/data/{UUID}@nova-x"]
    there = reconcile.Observed(vms=[vm(OTHER, host=None)], datasets=[dataset(n) for n in names])
    assert found(there, wanted(DELETED)) == []


def test_what_an_image_of_a_server_leaves() -> None:
    names = [f"zones/{UUID}@{tag}" for tag in ("nova-image", "nova-x", "vmsnap-mine", "final")]
    there = reconcile.Observed(
        vms=[vm()],
        datasets=[
            *(dataset(name, "snapshot") for name in names),
            dataset(f"zones/nova-smartos/image-of-{UUID}"),
            dataset(f"zones/nova-smartos/image-of-{UUID}@final", "snapshot"),
        ],
        files=[f"image-of-{UUID}"],
    )
    expected = [(Kind.SNAPSHOT, UUID, Action.DESTROY_SNAPSHOTS)]
    assert found(there, wanted(instance())) == expected
    assert found(there, wanted(instance(task_state="image_uploading"))) == []


@pytest.mark.parametrize("disk", ["/disk0", "-disk1"])
def test_what_an_image_of_a_disk_leaves(disk: str) -> None:
    there = reconcile.Observed(
        vms=[vm()], datasets=[dataset(f"zones/{UUID}{disk}@nova-image", "snapshot")]
    )
    expected = [(Kind.SNAPSHOT, UUID, Action.DESTROY_SNAPSHOTS)]
    assert found(there, wanted(instance())) == expected


def test_what_a_move_leaves() -> None:
    there = reconcile.Observed(vms=[vm()], moving=frozenset({UUID}))
    expected = [(Kind.SNAPSHOT, UUID, Action.END_MOVE)]
    assert found(there, wanted(instance())) == expected
    assert found(there, wanted(instance(task_state="resize_migrating"))) == []
    assert found(there, wanted()) == [(Kind.VM_UNKNOWN, UUID, None)]


def test_what_a_move_keeps_until_it_is_confirmed_is_not_left_over() -> None:
    marked = {**vm().internal_metadata, **identity.move_mark(identity.Move("8f0b", "compute2"))}
    there = reconcile.Observed(
        vms=[vm(state="stopped", internal_metadata=marked)], moving=frozenset({UUID})
    )
    assert found(there, wanted(instance(host="compute2", vm_state="resized"))) == []


def test_what_an_image_of_somebody_elses_vm_leaves_is_none_of_ours() -> None:
    there = reconcile.Observed(
        vms=[vm(host="compute2")], datasets=[dataset(f"zones/{UUID}@nova-image", "snapshot")]
    )
    assert found(there, wanted(instance())) == []


def test_what_imports_leave() -> None:
    partial = f"zones/{OTHER}-partial"
    staged, tree = "zones/nova-smartos/image-a", "zones/nova-smartos/image-d"
    own = [dataset("zones/nova-smartos"), dataset(staged, "volume"), dataset(tree)]
    there = reconcile.Observed(
        datasets=[dataset(partial), *own],
        # a dataset with files is seen as a folder, too
        files=["image-b", "image-c.json", "image-d"],
    )
    assert found(there, wanted()) == [
        (Kind.FILE, "/zones/nova-smartos/image-b", None),
        (Kind.FILE, "/zones/nova-smartos/image-c.json", None),
        (Kind.FILE, staged, None),
        (Kind.FILE, tree, None),
        (Kind.IMAGE, partial, None),
    ]


@pytest.mark.parametrize(
    ("running", "left"),
    [
        ("/usr/node/bin/node --abort_on_uncaught_exception /usr/img/sbin/imgadm install -m", []),
        ("dd of=/zones/nova-smartos/image-b bs=1048576", ["/zones/nova-smartos/image-c.json"]),
    ],
)
def test_what_an_import_still_needs_is_not_left_over(running: str, left: list[str]) -> None:
    there = reconcile.Observed(
        files=["image-b", "image-c.json"], processes=[ps.Process(7, running)]
    )
    assert [subject for _, subject, _ in found(there, wanted())] == left


def test_config_drives() -> None:
    there = reconcile.Observed(vms=[vm()], files=[f"drive-{UUID}", f"drive-{OTHER}"])
    kind, subject, action = found(there, wanted(instance()))[0]
    assert (kind, action) == (Kind.FILE, Action.DELETE_FOLDER)
    assert subject.endswith(f"drive-{OTHER}")


def test_allocations() -> None:
    there = reconcile.Observed(vms=[vm()])
    kept = frozenset({OTHER})
    assert found(there, wanted(instance(), allocations=kept)) == [
        (Kind.ALLOCATION, OTHER, None),
        (Kind.UNALLOCATED, UUID, None),
    ]
    assert found(there, wanted(instance(), allocations=frozenset({UUID}))) == []
    assert found(there, wanted(instance(), allocations=None)) == []


def test_every_finding_says_what_to_do() -> None:
    there = reconcile.Observed(
        vms=[each for row in HERE for each in row[1]],
        datasets=[dataset(row[1]) for row in LEFT],
        files=["image-x", f"drive-{OTHER}"],
    )
    for each in (
        *reconcile.findings(there, wanted()),
        *reconcile.findings(there, wanted(DELETED)),
        *reconcile.findings(there, wanted(instance(OTHER))),
    ):
        assert each.detail and each.advice


@hypothesis.given(
    hosts=strategies.lists(strategies.sampled_from([None, "compute2", "compute1 "]), max_size=4),
    instances=strategies.lists(
        strategies.builds(
            instance,
            uuid=strategies.sampled_from([UUID, OTHER]),
            host=strategies.sampled_from([None, HOST, "compute2"]),
            vm_state=strategies.sampled_from(["active", "building", "error", "deleted"]),
            deleted=strategies.booleans(),
            launched=strategies.booleans(),
        ),
        max_size=3,
    ),
)
def test_no_vm_of_another_is_ever_acted_on(
    hosts: list[str | None], instances: list[reconcile.Instance]
) -> None:
    """Whatever Nova says: without our mark nothing happens to a VM or to its datasets."""
    machines = [vm(uuid, host=host) for host, uuid in zip(hosts, [UUID, OTHER] * 2, strict=False)]
    there = reconcile.Observed(
        vms=machines, datasets=[dataset(f"zones/{each.uuid}") for each in machines]
    )
    uuids = {each.uuid for each in machines}
    for each in reconcile.findings(there, wanted(*instances)):
        assert each.action is None or not any(uuid in each.subject for uuid in uuids)


def looked_up(machine: vms.Vm, **more: Any) -> fake_transport.Answer:
    document = {
        "uuid": machine.uuid,
        "brand": machine.brand,
        "state": machine.state,
        "zone_state": machine.zone_state,
        **more,
    }
    argv = ("vmadm", "lookup", "-j", f"uuid={machine.uuid}")
    return fake_transport.Answer(argv, stdout=json.dumps([document]))


def test_what_is_held_against_accidents_is_mended_too() -> None:
    folder = f"/zones/nova-smartos/{metadata.folder(UUID)}"
    answers = [
        looked_up(vm(UUID), indestructible_zoneroot=True),
        fake_transport.Answer(
            ("vmadm", "update", UUID),
            stderr=f"Successfully updated VM {UUID}\n",
            stdin=json.dumps({"indestructible_zoneroot": False}).encode(),
        ),
        fake_transport.Answer(
            ("vmadm", "delete", UUID), stderr=f"Successfully deleted VM {UUID}\n"
        ),
        fake_transport.Answer(("rm", "-rf", folder)),
    ]
    finding = reconcile.Finding(Kind.HALF_MADE, UUID, "d", "a", Action.DELETE_VM)
    with fake_transport.Transport(*answers) as carrier:
        assert reconcile.mend(node.Node(carrier), [finding], reap=True) == []


def test_one_that_was_never_whole_goes_with_its_medium() -> None:
    folder = f"/zones/nova-smartos/{metadata.folder(UUID)}"
    done = f"Successfully deleted VM {UUID}\n"
    answers = [
        looked_up(vm(UUID, state="failed")),
        fake_transport.Answer(("vmadm", "delete", UUID), stderr=done),
        fake_transport.Answer(("zfs", "destroy", payload.medium_volume(UUID))),
        fake_transport.Answer(("rm", "-rf", folder)),
    ]
    finding = reconcile.Finding(Kind.HALF_MADE, UUID, "d", "a", Action.DELETE_VM)
    with fake_transport.Transport(*answers) as carrier:
        assert reconcile.mend(node.Node(carrier), [finding], reap=True) == []


def test_mending_goes_on_after_an_error() -> None:
    answers = [
        looked_up(vm(UUID)),
        fake_transport.Answer(("vmadm", "delete", UUID), stderr="it burns", returncode=1),
        fake_transport.Answer(("zfs", "destroy", "-r", f"zones/{OTHER}")),
    ]
    findings = [
        reconcile.Finding(Kind.HALF_MADE, UUID, "d", "a", Action.DELETE_VM),
        reconcile.Finding(Kind.DATASET, f"zones/{OTHER}", "d", "a", Action.DESTROY_DATASET),
        reconcile.Finding(Kind.VM_UNKNOWN, OTHER, "d", "a"),
    ]
    with fake_transport.Transport(*answers) as carrier:
        left = reconcile.mend(node.Node(carrier), findings, reap=True)
    assert left == [findings[0], findings[2]]


def test_deleted_instances_are_reaped_only_if_nova_would() -> None:
    finding = reconcile.Finding(Kind.VM_DELETED, UUID, "d", "a", Action.DELETE_VM)
    with fake_transport.refusing() as carrier:
        assert reconcile.mend(node.Node(carrier), [finding], reap=False) == [finding]


def processes(*lines: str) -> fake_transport.Answer:
    rows = "".join(f"{number:>5} {line}\n" for number, line in enumerate(lines, 1))
    argv = ("ps", "-z", "global", "-o", "pid,args")
    return fake_transport.Answer(argv, stdout=f"  PID COMMAND\n{rows}")


def test_waiting_for_what_an_earlier_nova_compute_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "_POLL_SECONDS", 0.01)
    create = "/usr/node/bin/node --abort_on_uncaught_exception /usr/vm/sbin/vmadm create"
    events = "/usr/node/bin/node --abort_on_uncaught_exception /usr/vm/sbin/vmadm events -jr"
    answers = (processes(create, events), processes(create), processes(events))
    with fake_transport.Transport(*answers) as carrier:
        reconcile.wait_for_earlier(node.Node(carrier))


def test_the_wait_has_an_end() -> None:
    with fake_transport.Transport(processes("vmadm create")) as carrier:
        reconcile.wait_for_earlier(node.Node(carrier), seconds=-1)


def test_a_node_that_is_away_is_an_error() -> None:
    answer = fake_transport.Answer(
        ("ps", "-z", "global", "-o", "pid,args"), stderr="ps: no\n", returncode=1
    )
    with fake_transport.Transport(answer) as carrier, pytest.raises(errors.ToolError):
        reconcile.wait_for_earlier(node.Node(carrier))
