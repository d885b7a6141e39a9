# SPDX-License-Identifier: Apache-2.0
"""The small tools: sysinfo, services, processors, names, memory of zones, dtrace's table."""

import json

import pytest

from tests.unit.emulator import metrics_node


@pytest.fixture
def node(tmp_path):
    return metrics_node.Node(tmp_path)


def test_sysinfo(node):
    found = json.loads(node.run("sysinfo").out)
    assert found["UUID"] == node.config.uuid
    assert found["MiB of Memory"] == "16384"
    assert (found["CPU Total Cores"], found["CPU Physical Cores"]) == (4, 1)
    assert found["Boot Time"] == "1772352000"
    assert found["Zpool Size in GiB"] == 10
    assert found["Disks"] == {"c1t0d0": {"Size in GB": 10}}
    admin = found["Network Interfaces"]["e1000g0"]
    assert (admin["ip4addr"], admin["NIC Names"]) == ("10.0.0.2", ["admin"])
    assert "Bhyve_Max_Vcpus=32\n" in node.run("sysinfo", "-p").out


def test_sysinfo_is_kept_until_asked_anew(node):
    node.run("sysinfo")
    node.network.hostname = "renamed"
    assert json.loads(node.run("sysinfo").out)["Hostname"] == "emu0"
    assert node.run("sysinfo", "-u") == metrics_node.Result(0, "", "")
    assert json.loads(node.run("sysinfo").out)["Hostname"] == "renamed"
    usage = node.run("sysinfo", "-x")
    assert (usage.status, usage.out) == (2, "Usage: /usr/bin/sysinfo: [-f] [-p] [-u]\n")


def test_zonememstat(node):
    node.start(4, alias="web", max_swap=256)
    node.metrics.load(metrics_node.ONE, memory=100 << 20, swap=64 << 20)
    lines = node.run("zonememstat").out.splitlines()
    assert lines[0].split() == ["ZONE", "RSS(MB)", "CAP(MB)", "NOVER", "POUT(MB)", "SWAP%"]
    assert lines[1] == f"{'global':>37}      600        -      -         -     -"
    assert lines[2] == f"{metrics_node.ONE:>37}      100      256      0         0    25"
    with_alias = node.run("zonememstat", "-aHt").out.splitlines()
    assert with_alias[1].split()[1] == "web"
    assert with_alias[2].split()[0] == "total"
    one = node.run("zonememstat", "-H", "-z", metrics_node.ONE).out
    assert one.split()[0] == metrics_node.ONE
    assert node.run("zonememstat", "-x").status == 1


def test_svcs(node):
    node.clock.seconds = 3600.0
    table = node.run("svcs", "-a").out.splitlines()
    assert table[0] == "STATE          STIME    FMRI"
    assert table[1].startswith("disabled")
    assert node.run("svcs", "-H", "-o", "state,fmri", "ssh").out == (
        "online         svc:/network/ssh:default\n"
    )
    processes = node.run("svcs", "-Hp", "network/ssh:default").out.splitlines()
    assert processes[1].split()[-1] == "sshd"
    missing = node.run("svcs", "-H", "nosuch")
    assert missing == metrics_node.Result(
        1, "", "svcs: Pattern 'nosuch' doesn't match any instances\n"
    )
    assert "state        online\n" in node.run("svcs", "-l", "cron").out
    assert node.run("svcs", "-o", "colour").status == 2


def test_services_of_a_zone(node):
    vm = node.start(4)
    assert node.run("svcs", "-H", "-z", vm["uuid"], "-o", "svc", "mdata:fetch").out == (
        "smartdc/mdata\n"
    )
    assert vm["uuid"] in node.run("svcs", "-HZ", "mdata:fetch").out
    vm["brand"] = "lx"
    assert "Could not bind to repository server" in node.run("svcs", "-z", vm["uuid"]).err
    assert node.run("svcs", "-z", "nosuch").err == "svcs: invalid zone 'nosuch'\n"


def test_svcadm(node):
    node.clock.seconds = 500.0
    assert node.run("svcadm", "disable", "cron") == metrics_node.Result(0, "", "")
    assert node.run("svcadm", "disable", "-t", "ssh").status == 0
    assert node.run("svcs", "-H", "-o", "state,stime", "cron").out == "disabled       08:08:20\n"
    again = metrics_node.Node(node.dir)
    states = again.run("svcs", "-H", "-o", "state,inst", "cron", "ssh").out.split()
    assert states == ["disabled", "default", "online", "default"]
    node.run("svcadm", "mark", "maintenance", "fmd")
    assert "State: maintenance" in node.run("svcs", "-x").out
    assert node.run("svcadm", "clear", "fmd").status == 0
    assert node.run("svcadm", "clear", "fmd").status == 1
    assert node.run("svcadm", "enable", "nosuch").status == 1
    assert node.run("svcadm", "explode", "ssh").status == 2


def test_vminfod_is_a_service(node):
    node.run("svcadm", "disable", "vminfod")
    assert node.vms.vminfod is False
    node.run("svcadm", "enable", "vminfod")
    assert node.vms.vminfod is True


def test_dtrace(node):
    assert node.run("dtrace", "-V").out.startswith("dtrace: Sun D 1.")
    table = node.run("dtrace", "-l").out.splitlines()
    assert table[0].split() == ["ID", "PROVIDER", "MODULE", "FUNCTION", "NAME"]
    assert table[0][17:34].strip() == "MODULE"
    one = node.run("dtrace", "-l", "-n", "syscall::read:entry").out.splitlines()
    assert one[1].split()[1:] == ["syscall", "read", "entry"]
    none = node.run("dtrace", "-l", "-P", "nosuch")
    assert none == metrics_node.Result(
        1, "", "dtrace: failed to match nosuch:::: No probe matches description\n"
    )
    refused = node.run("dtrace", "-l", "-c", "ls")
    assert refused == metrics_node.Result(1, "", "dtrace: the emulated node does not know -c\n")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("uname",), "SunOS\n"),
        (("uname", "-a"), "SunOS emu0 5.11 joyent_20260312T000000Z i86pc i386 i86pc\n"),
        (("uname", "-vn"), "emu0 joyent_20260312T000000Z\n"),
        (("isainfo",), "amd64 i386\n"),
        (("isainfo", "-b"), "64\n"),
        (("isainfo", "-kv"), "64-bit amd64 kernel modules\n"),
        (("psrinfo", "-p"), "1\n"),
        (("psrinfo", "-t"), "4\n"),
        (("psrinfo", "2"), "2\ton-line   since 03/01/2026 08:00:00\n"),
        (("hostname",), "emu0\n"),
        (("uptime",), "  8:01am  up 2 min(s),  1 user,  load average: 0.00, 0.00, 0.00\n"),
    ],
)
def test_names_and_numbers(node, words, answer):
    assert node.run(*words) == metrics_node.Result(0, answer, "")


def test_virtualization_shows_in_the_instruction_sets(node):
    assert node.run("isainfo", "-x").out.startswith("amd64: vmx ")
    node.config.bhyve = False
    assert " vmx " not in node.run("isainfo", "-x").out


def test_a_long_uptime(node):
    node.clock.seconds = 2 * 86400.0 + 3 * 3600 + 4 * 60
    assert " up 2 day(s),  3:04,  1 user," in node.run("uptime").out
    node.clock.seconds = 3600.0
    assert " up 1 hr(s),  1 user," in node.run("uptime").out


def test_renaming_the_node(node):
    assert node.run("hostname", "other.example.com").status == 0
    assert node.run("uname", "-n").out == "other.example.com\n"
    assert node.run("hostname", "-s").out == "other\n"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("uname", "-Z"), 1),
        (("isainfo", "-b", "-k"), 1),
        (("psrinfo", "9"), 2),
        (("psrinfo", "-Z"), 2),
        (("hostname", "a", "b"), 1),
        (("uptime", "-Z"), 1),
    ],
)
def test_wrong_words(node, words, status):
    done = node.run(*words)
    assert (done.status, done.out) == (status, "")
    assert done.err
