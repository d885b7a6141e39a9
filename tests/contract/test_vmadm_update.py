# SPDX-License-Identifier: Apache-2.0
"""vmadm update: what it changes at once, what at the next boot, what it drops."""

import pytest

from nova_smartos.smartos import errors

MAC = "02:6e:73:74:00:01"


@pytest.mark.known("recorded")
def test_update_of_plain_properties(target, create):
    """Plain properties change at once."""
    made = create("joyent-minimal")
    target.node.vmadm.update(made, {"quota": 7, "cpu_cap": 150, "max_lwps": 900})
    vm = target.node.vmadm.get(made)
    assert (vm.quota_gib, vm.cpu_cap_percent, vm.max_lwps) == (7, 150, 900)
    assert target.node.zfs.get(vm.zfs_filesystem, "quota")["quota"] == str(7 << 30)


@pytest.mark.known("recorded")
def test_a_cap_of_zero(target, create):
    """cpu_cap=0 takes the cap away."""
    made = create("joyent-minimal", cpu_cap=100)
    target.node.vmadm.update(made, {"cpu_cap": 0})
    assert "cpu_cap" not in target.node.vmadm.get(made).document


@pytest.mark.known("recorded")
def test_tags_and_metadata(target, create):
    """Tags and metadata change by their set and remove keys;
    a whole object is dropped without a word."""
    made = create("joyent-minimal", autoboot=False, tags={"a": "b", "c": 1})
    target.node.vmadm.update(
        made,
        {"set_tags": {"d": True}, "remove_tags": ["a"], "set_customer_metadata": {"k": "v"}},
    )
    target.node.vmadm.update(made, {"tags": {"lost": 1}, "customer_metadata": {"lost": 1}})
    vm = target.node.vmadm.get(made)
    assert dict(vm.tags) == {"c": 1, "d": True}
    assert dict(vm.customer_metadata) == {"k": "v"}


@pytest.mark.known("recorded")
@pytest.mark.parametrize(
    "value",
    ["it's", '"quoted"', "a\nb\n", "$(reboot)", "`id`", "\\", "ünïcödé ☃", "x" * (1 << 20)],
    ids=["quote", "quotes", "newlines", "dollar", "backtick", "backslash", "unicode", "1MiB"],
)
def test_metadata_is_kept_exactly(target, create, value):
    """A metadata value is kept byte for byte, whatever is in it."""
    made = create("joyent-minimal", autoboot=False)
    target.node.vmadm.update(made, {"set_customer_metadata": {"nst": value}})
    assert target.node.vmadm.get(made).customer_metadata["nst"] == value


@pytest.mark.known("recorded")
def test_update_on_the_command_line(target, create):
    """key=value on the command line is a string that is taken for its type."""
    made = create("joyent-minimal", autoboot=False)
    done = target.run("vmadm", "update", made, "quota=9", "alias=nst-renamed")
    assert (done.returncode, done.stderr) == (0, f"Successfully updated VM {made}\n")
    vm = target.node.vmadm.get(made)
    assert (vm.quota_gib, vm.alias) == (9, "nst-renamed")


@pytest.mark.known("recorded")
def test_a_bad_value(target, create):
    """A bad value fails the whole update and names the property."""
    made = create("joyent-minimal", autoboot=False)
    with pytest.raises(errors.InvalidPayload, match="quota"):
        target.node.vmadm.update(made, {"quota": -1, "alias": "nst-not-this"})
    assert target.node.vmadm.get(made).alias != "nst-not-this"


@pytest.mark.known("recorded")
@pytest.mark.parametrize("brand", ["joyent-minimal", "bhyve"])
def test_nics(target, create, brand):
    """A nic is added and removed by its MAC; only the first nic of a create becomes primary."""
    model = {"model": "virtio"} if brand == "bhyve" else {}
    made = create(brand, autoboot=False)
    nic = {"mac": MAC, "nic_tag": "admin", "ips": ["198.18.0.7/24"], **model}
    target.node.vmadm.update(made, {"add_nics": [nic]})
    (shown,) = target.node.vmadm.get(made).nics
    assert (shown.mac, shown.ips, shown.primary) == (MAC, ("198.18.0.7/24",), False)
    target.node.vmadm.update(made, {"remove_nics": [MAC]})
    assert target.node.vmadm.get(made).nics == ()


@pytest.mark.known("recorded")
def test_interfaces_are_named_by_brand(target, create):
    """The first nic is net0, and eth0 in lx."""
    for brand, expected in (("joyent-minimal", "net0"), ("lx", "eth0")):
        made = create(brand, autoboot=False, nics=[{"nic_tag": "admin", "ips": ["dhcp"]}])
        (nic,) = target.node.vmadm.get(made).nics
        assert (nic.interface, nic.primary) == (expected, True)


@pytest.mark.known("recorded")
def test_address_conflicts(target, create):
    """An address that another VM has on the same tag and VLAN is refused."""
    nic = {"nic_tag": "admin", "ips": ["198.18.0.9/24"]}
    create("joyent-minimal", autoboot=False, nics=[nic])
    with pytest.raises(errors.ToolError, match="Conflict detected"):
        create("joyent-minimal", autoboot=False, nics=[nic])


@pytest.mark.known("recorded")
def test_an_unknown_nic_tag(target, create):
    """A nic tag that the node does not have is refused by name."""
    with pytest.raises(errors.InvalidPayload, match="nst_none"):
        create("joyent-minimal", nics=[{"nic_tag": "nst_none", "ips": ["dhcp"]}])


@pytest.mark.known("from source")
def test_a_running_zone_gets_a_new_nic_at_boot(target, create):
    """A nic added to a running zone has its link after the next boot."""
    made = create("joyent-minimal")
    target.node.vmadm.update(made, {"add_nics": [{"nic_tag": "admin", "ips": ["dhcp"]}]})
    assert target.node.dladm.show_vnic(zone=made) == []
    target.node.vmadm.reboot(made)
    assert [vnic.link for vnic in target.node.dladm.show_vnic(zone=made)] == ["net0"]


@pytest.mark.known("recorded")
def test_disks_change_while_stopped(target, create):
    """Disks are added, grown and removed while the VM is stopped, and only then."""
    made = create("bhyve", flexible_disk_size=32768)
    with pytest.raises(errors.InvalidState):
        target.node.vmadm.update(made, {"add_disks": [{"size": 1024, "model": "virtio"}]})
    target.node.vmadm.stop(made, force=True)
    target.node.vmadm.update(made, {"add_disks": [{"size": 1024, "model": "virtio"}]})
    disk = target.node.vmadm.get(made).disks[1]
    assert disk.size_mib == 1024
    assert target.node.zfs.get(disk.zfs_filesystem, "volsize")["volsize"] == str(1 << 30)
    target.node.vmadm.update(made, {"update_disks": [{"path": disk.path, "size": 2048}]})
    assert target.node.vmadm.get(made).disks[1].size_mib == 2048
    with pytest.raises(errors.ToolError, match="cannot resize disk"):
        target.node.vmadm.update(made, {"update_disks": [{"path": disk.path, "size": 1024}]})
    target.node.vmadm.update(made, {"remove_disks": [disk.path]})
    assert len(target.node.vmadm.get(made).disks) == 1


@pytest.mark.known("from source")
def test_a_disk_of_kvm_grows_by_zfs(target, create):
    """vmadm leaves a disk of kvm as large as it is; zfs grows it, and what it reserves."""
    made = create("kvm", autoboot=False, disks=[{"size": 1024, "model": "virtio"}])
    disk = target.node.vmadm.get(made).disks[0]
    target.node.vmadm.update(made, {"update_disks": [{"path": disk.path, "size": 2048}]})
    assert target.node.vmadm.get(made).disks[0].size_mib == 1024
    target.node.zfs.set(disk.zfs_filesystem, {"volsize": str(2 << 30)})
    grown = target.node.vmadm.get(made).disks[0]
    assert grown.size_mib == 2048
    assert grown.refreservation_mib >= 2048


@pytest.mark.known("recorded")
def test_validate(target):
    """validate says on stderr what is bad and what is missing, as JSON."""
    verdict = target.node.vmadm.validate("create", {"brand": "joyent"})
    assert (verdict.valid, tuple(verdict.missing_properties)) == (False, ("image_uuid",))
    done = target.run("vmadm", "validate", "update", "joyent", document={"quota": 5})
    assert (done.returncode, done.stderr) == (0, "VALID 'update' payload for joyent brand VMs.\n")
