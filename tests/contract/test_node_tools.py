# SPDX-License-Identifier: Apache-2.0
"""What the node says of itself: sysinfo, links, tags, counters, services, probes."""

import pytest

from nova_smartos.smartos import errors, kstat


@pytest.mark.known("from source")
def test_sysinfo(target):
    """sysinfo says what the node is; its memory is a number in quotes."""
    info = target.node.sysinfo.get()
    assert isinstance(info.document["MiB of Memory"], str)
    assert info.memory_mib > 0
    assert info.cpu_count > 0
    assert info.zpool == "zones"
    assert target.run("uname", "-v").stdout.strip() == f"joyent_{info.live_image}"


@pytest.mark.known("from source")
def test_nic_tags(target):
    """Every node has the nic tag admin on a link; a tag that is not there is named."""
    (admin,) = (tag for tag in target.node.nictagadm.list() if tag.name == "admin")
    assert admin.link in {link.link for link in target.node.dladm.show_link()}
    assert target.node.nictagadm.exists("admin") is True
    assert target.node.nictagadm.exists("nst_none") is False


@pytest.mark.known("from source")
def test_a_zones_links(target, create):
    """A running zone's nics are vnics over the tag's link, protected unless told otherwise."""
    mac = "02:6e:73:74:00:02"
    made = create(
        "joyent-minimal", nics=[{"mac": mac, "nic_tag": "admin", "ips": ["198.18.0.8/24"]}]
    )
    (vnic,) = target.node.dladm.show_vnic(zone=made)
    assert vnic.link == "net0"
    (protection,) = target.node.dladm.show_linkprop("net0", "protection", zone=made)
    assert {"mac-nospoof", "ip-nospoof"} <= set(protection.value)


@pytest.mark.known("from source")
def test_counters_of_a_zone(target, create):
    """A zone's counters carry its whole name, grow, and begin again when it boots."""
    made = create("joyent-minimal")

    def counters():
        found = target.node.kstat.read([kstat.Selector(module="zones")])
        (zone,) = (each for each in found if each.zonename == made)
        return zone

    first = counters()
    second = counters()
    assert second.number("nsec_user") >= first.number("nsec_user")
    assert second.snaptime_ns > first.snaptime_ns
    target.node.vmadm.reboot(made)
    assert counters().instance != first.instance


@pytest.mark.known("from source")
def test_a_counter_that_is_not_there(target):
    """kstat of nothing prints nothing and ends with status 1."""
    done = target.run("kstat", "-p", "-m", "nst_none")
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.known("from source")
def test_caps(target, create):
    """A capped zone has a cpucaps kstat with its cap, an uncapped one has none."""
    made = create("joyent-minimal", cpu_cap=150)

    def caps():
        found = target.node.kstat.read([kstat.Selector(module="caps")])
        mine = (each for each in found if each.zonename == made)
        return [each.number("value") for each in mine if each.name.startswith("cpucaps_")]

    assert caps() == [150]
    target.node.vmadm.update(made, {"cpu_cap": 0})
    assert caps() == []


@pytest.mark.known("unverified")
def test_services(target):
    """The node's own daemons are online services."""
    assert target.node.svcs.get("svc:/system/smartdc/vminfod:default").state == "online"
    with pytest.raises(errors.NotFound):
        target.node.svcs.get("svc:/nst/none:default")


@pytest.mark.known("unverified")
def test_probes(target):
    """dtrace lists the probes of the system call provider."""
    probes = target.node.dtrace.list("syscall::read:entry")
    assert [(p.provider, p.function, p.name) for p in probes] == [("syscall", "read", "entry")]


@pytest.mark.known("unverified")
def test_a_zone_that_is_down(target, create):
    """zlogin to a zone that does not run fails with its own words."""
    made = create("joyent-minimal", autoboot=False)
    with pytest.raises(errors.InvalidState):
        target.node.zlogin.run(made, ("true",))


@pytest.mark.known("unverified")
def test_a_command_in_a_zone(target, create):
    """A command in a zone has its own input, output and status."""
    made = create("joyent-minimal")
    done = target.node.zlogin.run(made, ("cat",), stdin=b"through\0and through")
    assert (done.returncode, done.stdout) == (0, "through\0and through")
    assert target.node.zlogin.run(made, ("false",)).returncode not in (0, 127)


@pytest.mark.known("from source")
def test_metadata_in_a_zone(target, create):
    """The guest reads its metadata and the node's sdc: keys with mdata-get."""
    made = create("joyent-minimal", customer_metadata={"nst": "it's $(this)"})
    assert target.node.zlogin.run(made, ("mdata-get", "nst")).stdout == "it's $(this)\n"
    assert target.node.zlogin.run(made, ("mdata-get", "sdc:uuid")).stdout == f"{made}\n"
    missing = target.node.zlogin.run(made, ("mdata-get", "nst-none"))
    assert missing.returncode == 1
