# SPDX-License-Identifier: Apache-2.0
"""fwadm: rules, the VMs that they affect, and firewalls that run or not."""

import uuid

import pytest

from nova_smartos.smartos import errors


@pytest.fixture
def add(target):
    """A function that adds a rule; it is deleted after the test."""
    made = []

    def make(rule, **more):
        document = {
            "uuid": str(uuid.uuid4()),
            "rule": rule,
            "enabled": True,
            "global": True,
            **more,
        }
        made.append(document["uuid"])
        target.node.fwadm.add([document])
        return document["uuid"]

    yield make
    target.node.fwadm.delete(*made)


@pytest.mark.known("recorded")
def test_canonical_text(target, add):
    """A rule is kept in its canonical form: tags quoted, ranges spaced."""
    made = add("FROM any TO tag nst = www ALLOW tcp PORTS 22, 8000-8100")
    rule = target.node.fwadm.get(made).rule
    assert rule == 'FROM any TO tag "nst" = "www" ALLOW tcp PORTS 22, 8000 - 8100'


@pytest.mark.known("recorded")
@pytest.mark.parametrize(
    ("document", "text"),
    [
        (
            {"rule": "FROM any TO any ALLOW tcp PORT 80", "global": True},
            "rule does not affect VMs\n",
        ),
        ({"rule": "FROM any TO all vms ALLOW tcp PORT 80"}, "owner_uuid required\n"),
    ],
)
def test_refusals(target, document, text):
    """A rule that affects no VM, or that nobody owns, is refused."""
    done = target.run("fwadm", "add", document=document)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", text)


@pytest.mark.known("recorded")
def test_rules_that_are_not_there(target):
    """get of a missing rule fails, delete of one does not."""
    missing = str(uuid.uuid4())
    with pytest.raises(errors.NotFound):
        target.node.fwadm.get(missing)
    done = target.run("fwadm", "delete", missing)
    assert (done.returncode, done.stdout) == (0, "\n")


@pytest.mark.known("from source")
def test_vms_of_a_rule(target, add, create):
    """A rule affects the VMs that carry its tag."""
    made = create("joyent-minimal", autoboot=False, firewall_enabled=True, tags={"nst": "www"})
    rule = add("FROM any TO tag nst = www ALLOW tcp PORT 80")
    assert target.node.fwadm.vms(rule) == [made]
    assert rule in {each.uuid for each in target.node.fwadm.rules(made)}


@pytest.mark.known("from source")
def test_start_and_stop(target, create):
    """start and stop are vmadm's firewall_enabled."""
    made = create("joyent-minimal")
    target.node.fwadm.start(made)
    assert target.node.vmadm.get(made).firewall_enabled is True
    assert target.node.fwadm.status(made) is True
    target.node.fwadm.stop(made)
    assert target.node.vmadm.get(made).firewall_enabled is False
