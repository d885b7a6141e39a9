# SPDX-License-Identifier: Apache-2.0
"""Nic tags and links: what nictagadm and dladm show, refuse and change."""

import pytest

from smartos_emulator import network
from tests.unit.emulator import metrics_node


@pytest.fixture
def node(tmp_path):
    return metrics_node.Node(tmp_path)


def fields(text):
    return [line.split() for line in text.splitlines()]


def test_tags_come_from_the_configuration(node):
    assert node.network.nic_tags() == {
        "admin": "normal",
        "external": "normal",
        "sdc_overlay": "overlay rule",
        "stub0": "etherstub",
    }
    again = metrics_node.Node(node.dir, nic_tags=("admin", "external", "other"))
    assert "other" not in again.network.nic_tags()


@pytest.mark.parametrize(
    ("tag", "there"),
    [
        ("admin", True),
        ("stub0", True),
        ("sdc_overlay/12", True),
        ("sdc_overlay/4294967295", False),
        ("sdc_overlay", False),
        ("admin/1", False),
        ("nosuch", False),
    ],
)
def test_which_tags_a_nic_may_have(node, tag, there):
    assert node.network.nic_tag_exists(tag) is there
    assert node.run("nictagadm", "exists", tag).status == (0 if there else 1)


def test_list(node):
    mac = network.hardware_mac(node, 0)
    table = node.run("nictagadm", "list").out.splitlines()
    assert table[0] == "NAME           MACADDRESS         LINK           TYPE            "
    assert table[1] == f"admin          {mac}  e1000g0        normal          "
    lines = node.run("nictagadm", "list", "-p").out.splitlines()
    escaped = mac.replace(":", "\\:")
    assert lines[0] == f"admin:{escaped}:e1000g0:normal"
    assert lines[2:] == ["sdc_overlay:-:-:overlay rule", "stub0:-:-:etherstub"]
    assert node.run("nictagadm", "list", "-p", "-d,", "-l").out == "stub0,-,-,etherstub\n"
    assert "stub0" not in node.run("nictagadm", "list", "-L").out


def test_add_update_delete(node):
    mac = network.hardware_mac(node, 1)
    node.run("sysinfo")
    done = node.run("nictagadm", "add", "-p", "mtu=9000", "store", network.short_mac(mac))
    assert done == metrics_node.Result(
        0, "", "MTU changes will not take effect until next reboot\n"
    )
    assert f"store,{mac},e1000g1,normal\n" in node.run("nictagadm", "list", "-p", "-d,").out
    assert '"NIC Names": ["external", "store"]' in node.run("sysinfo").out
    assert node.run("nictagadm", "update", "store", network.hardware_mac(node, 0)).status == 0
    assert node.network.settings()["store_mtu"] == "9000"
    assert node.run("nictagadm", "delete", "store").status == 0
    assert "store_mtu" not in node.network.settings()


def test_etherstubs_are_tags_and_links(node):
    assert node.run("nictagadm", "add", "-l", "lan1").status == 0
    assert node.network.settings()["etherstub"] == "stub0,lan1"
    assert node.run("dladm", "show-etherstub", "-p").out == "lan1\nstub0\n"
    node.run("nictagadm", "delete", "lan1")
    assert node.network.settings()["etherstub"] == "stub0"


def test_aggregations(node):
    macs = ",".join(network.hardware_mac(node, index) for index in (0, 1))
    with node.path(network.CONFIG).open("a") as config:
        config.write(f"aggr0_aggr={macs}\naggr0_lacp_mode=active\n")
    assert node.run("nictagadm", "add", "fast", "aggr0").status == 0
    assert "fast:-:aggr0:aggr\n" in node.run("nictagadm", "list", "-p").out
    assert ["aggr0", "L4", "auto", "active", "short", "-----"] in fields(
        node.run("dladm", "show-aggr").out
    )
    ports = node.run("dladm", "show-aggr", "-x", "-p", "-o", "link,port,state").out
    assert ports == "aggr0::up\naggr0:e1000g0:up\naggr0:e1000g1:up\n"
    assert '"Interfaces": ["e1000g0", "e1000g1"]' in node.run("sysinfo", "-f").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("delete", "nosuch"), "nic tag 'nosuch' does not exist"),
        (("delete", "external"), "nic tag 'external' is in use"),
        (("add", "admin", "1:2:3:4:5:6"), "nic tag 'admin' already exists"),
        (("add", "x"), "create non-local tag, but no mac address specified"),
        (("add", "-l", "x1", "1:2:3:4:5:6"), "create local tag, but mac address specified"),
        (("add", "-l", "x"), "nic tag name is invalid"),
        (("add", "x", "1:2"), "MAC address '1:2' is invalid"),
        (("add", "x", "1:2:3:4:5:6"), "No physical nic found with MAC address '01:02:03:04:05:06'"),
        (("add", "x", "aggr9"), "aggregation 'aggr9' does not exist"),
        (("add", "-p", "mtu=9001", "x", "1:2:3:4:5:6"), "mtu must be between 1500-9000"),
        (("add", "-p", "mtu", "x"), "invalid property: mtu"),
        (("update", "admin"), "nothing to update"),
        (("update", "-l", "stub0"), "cannot update a local tag"),
        (("list", "-d", ","), "Delimiter option requires parsable option to be set"),
        (("list", "-l", "-L"), "Cannot specify both local and non-local options"),
        (("exists",), "tag_exists: no tag specified"),
        (("frobnicate",), "unknown command frobnicate"),
    ],
)
def test_nictagadm_refuses(node, words, message):
    node.start(1)
    assert node.run("nictagadm", *words) == metrics_node.Result(1, "", f"Error: {message}\n")


def test_nictagadm_usage(node):
    done = node.run("nictagadm", "-h")
    assert (done.status, done.out) == (0, "")
    assert done.err.startswith("Manage nic tags\n\nUsage:\n        nictagadm [OPTIONS]")
    assert node.run("nictagadm").out == "no subcommand given\n"
    assert node.run("nictagadm", "add").status == 2
    wrong = node.run("nictagadm", "list", "-Z")
    assert (wrong.status, wrong.out) == (2, "invalid option: \n")


def test_users_of_a_tag(node):
    node.start(1, metrics_node.TWO, max_physical_memory=1024)
    node.start(2, metrics_node.ONE, max_physical_memory=2048)
    lines = node.run("nictagadm", "vms", "external").out.splitlines()
    assert lines == [metrics_node.TWO, metrics_node.ONE]


def test_vnics_live_with_their_zone(node):
    vm = node.start(3)
    shown = node.run("dladm", "show-vnic", "-p", "-o", "link,over,macaddress,vid,zone")
    assert shown.out == f"net0:e1000g1:2\\:8\\:20\\:1\\:2\\:3:0:{vm['uuid']}\n"
    assert node.run("dladm", "show-vnic", "-z", "", "-p", "-o", "link").out == ""
    assert node.run("dladm", "show-link", "-z", vm["uuid"], "-p", "-o", "link").out == "net0\n"
    node.halt(vm, 3)
    assert node.run("dladm", "show-vnic", "-p", "-o", "link").out == ""


def test_an_overlay_nic_brings_its_link(node):
    node.start(3, nics=[{"interface": "net0", "mac": "2:8:20:1:2:3", "nic_tag": "sdc_overlay/7"}])
    assert "sdc_overlay7:overlay\n" in node.run("dladm", "show-link", "-p", "-o", "link,class").out


def test_protection(node):
    nic = {"interface": "eth0", "mac": "2:8:20:1:2:3", "nic_tag": "admin", "ips": ["dhcp"]}
    node.start(3, nics=[{**nic, "allow_mac_spoofing": True, "dhcp_server": True}])
    zone = ("-z", metrics_node.ONE)
    show = ("show-linkprop", *zone, "-c", "-o", "property,value", "-p")
    shown = node.run("dladm", *show, "protection,allowed-ips", "eth0")
    assert shown.out == "protection:restricted\nallowed-ips:\n"
    change = "protection=mac-nospoof,restricted,allowed-ips=10.0.0.1,10.0.0.2"
    assert node.run("dladm", "set-linkprop", "-t", *zone, "-p", change, "eth0").status == 0
    shown = node.run("dladm", *show, "protection,allowed-ips", "eth0")
    assert shown.out == "protection:mac-nospoof,restricted\nallowed-ips:10.0.0.1,10.0.0.2\n"


def test_policing_a_running_zone(node):
    vm = node.start(3)
    vm["nics"][0]["allow_ip_spoofing"] = True
    node.network.police(vm)
    (link,) = node.network.zone_links(vm["zonename"])
    assert link.properties == {"protection": ("mac-nospoof", "restricted", "dhcp-nospoof")}


def test_dladm_tables(node):
    assert fields(node.run("dladm", "show-phys").out)[:2] == [
        ["LINK", "MEDIA", "STATE", "SPEED", "DUPLEX", "DEVICE"],
        ["e1000g0", "Ethernet", "up", "1000", "full", "e1000g0"],
    ]
    link = "e1000g0     phys      1500   up       --         --\n"
    header = "LINK        CLASS     MTU    STATE    BRIDGE     OVER\n"
    assert node.run("dladm", "show-link", "e1000g0").out == header + link


def test_links_of_the_global_zone(node):
    assert node.run("dladm", "create-vnic", "-l", "e1000g0", "-v", "7", "test0").status == 0
    assert node.run("dladm", "show-vnic", "-p", "-o", "link,vid").out == "test0:7\n"
    assert '"Host Interface": "e1000g0", "VLAN": "7"' in node.run("sysinfo", "-f").out
    again = node.run("dladm", "create-vnic", "-l", "e1000g0", "test0")
    assert again.err == "dladm: create vnic test0: object already exists\n"
    assert node.run("dladm", "delete-vnic", "test0").status == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show-link", "nosuch"), "link nosuch is not valid: object not found"),
        (("show-link", "-p"), "output fields must be specified in parsable mode"),
        (("show-link", "-o", "colour"), "unknown output field `colour'"),
        (
            ("set-linkprop", "-p", "mtu=5", "e1000g0"),
            "warning: cannot set link property 'mtu' on 'e1000g0': invalid argument",
        ),
        (
            ("set-linkprop", "-p", "state=down", "e1000g0"),
            "warning: cannot set link property 'state' on 'e1000g0': read-only property",
        ),
        (("show-linkprop", "-p", "colour"), "invalid link property 'colour'"),
        (("create-vnic", "x0"), "missing link option"),
        (("delete-vnic", "x0"), "link x0 is not valid: object not found"),
    ],
)
def test_dladm_refuses(node, words, message):
    assert node.run("dladm", *words) == metrics_node.Result(1, "", f"dladm: {message}\n")


def test_what_is_not_emulated_is_refused(node):
    assert node.run("dladm", "connect-wifi").err.startswith("dladm: unknown subcommand")
