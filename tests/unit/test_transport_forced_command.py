# SPDX-License-Identifier: Apache-2.0
"""The forced-command script: lets the toolkit's lines through, and tries to be broken."""

import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from nova_smartos.smartos import _tool, node, transport
from tests.unit import fake_transport, sshd

SCRIPT = pathlib.Path(__file__).parents[2] / "etc" / "smartos-forced-command"
SHELLS = [shell for shell in ("dash", "bash", "ksh", "busybox") if shutil.which(shell)]
REFUSED = 126
NAMES = (
    "dd dladm dtrace fwadm gtar imgadm isainfo kstat ls "
    "nc nictagadm ps rm smartos-direct svcs sysinfo tail uptime vmadm zfs zlogin zpool"
).split()
ZONE = "6a1f3c52-0b7e-4d7a-9c55-1f0e2d3c4b5a"
HOSTILE = [
    "",
    "it's",
    "''",
    '"',
    "$(touch never) `touch never` ${PATH}",
    "a;b|c&d>e<f",
    "two\nlines\n",
    "trailing\n\n",
    "*",
    "[a-z]?",
    "\\",
    "-n",
    "~",
    "ünïcode ☃",
    "\udcff",
    "  spaces  ",
    "PATH=/evil",
    "pfexec",
]


@pytest.fixture
def tools(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder in which every tool writes down its arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in (*NAMES, "pfexec", "id", "touch"):
        (folder / name).write_text(
            f"#!/bin/sh\nprintf '%s\\0' {name} \"$@\" >{tmp_path}/ran\nexit 7\n"
        )
        (folder / name).chmod(0o755)
    return folder


def forced(
    line: str | bytes | None, tools: pathlib.Path, shell: str = "sh"
) -> subprocess.CompletedProcess[bytes]:
    environment: dict[bytes, bytes] = {b"PATH": os.environb[b"PATH"]}
    if line is not None:
        environment[b"SSH_ORIGINAL_COMMAND"] = os.fsencode(line)
    argv = [*(["busybox", "sh"] if shell == "busybox" else [shell]), SCRIPT, tools]
    return subprocess.run(
        argv, env=environment, cwd=tools.parent, capture_output=True, timeout=30, check=False
    )


def ran(tools: pathlib.Path) -> list[str]:
    path = tools.parent / "ran"
    return os.fsdecode(path.read_bytes()).split("\0")[:-1] if path.exists() else []


@pytest.mark.parametrize("shell", SHELLS)
def test_what_the_toolkit_sends_arrives_as_it_was(shell: str, tools: pathlib.Path) -> None:
    ssh = transport.SSH("node", tool_path="/any where/bin")
    command = transport.Command(("vmadm", "update", *HOSTILE))
    done = forced(ssh.command_line(command), tools, shell)
    assert (done.returncode, done.stderr) == (7, b"")
    assert ran(tools) == ["vmadm", "update", *HOSTILE]


def test_what_a_clone_of_a_zone_has_beside_its_files_may_go(tools: pathlib.Path) -> None:
    line = f"rm -rf /zones/nova-smartos/image-of-{ZONE}/config"
    forced(line, tools)
    assert ran(tools) == line.split()


def test_pfexec_is_let_through(tools: pathlib.Path) -> None:
    ssh = transport.SSH("node", user="admin")
    forced(ssh.command_line(transport.Command(("zfs", "list"))), tools)
    assert ran(tools) == ["pfexec", "zfs", "list"]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "line",
    [
        None,
        "",
        " ",
        "id",
        "/usr/bin/id",
        "LC_ALL=C id",
        "pfexec id",
        "pfexec pfexec zfs",
        "pfexec",
        "LC_ALL=C",
        "sh -c 'vmadm list'",
        "./vmadm",
        "../bin/vmadm list",
        "vmadm list; id",
        "vmadm list;id",
        "vmadm list\nid",
        "vmadm list\rid",
        "vmadm list\tid",
        "vmadm list & id",
        "vmadm list && id",
        "vmadm list | id",
        "vmadm $(id)",
        "vmadm `id`",
        "vmadm ${PATH}",
        "vmadm $PATH",
        'vmadm "$HOME"',
        'vmadm "$(id)"',
        'vmadm "a b"',
        "vmadm 'a",
        "vmadm a'",
        "vmadm 'a''",
        'vmadm "',
        "vmadm \"'",
        "vmadm a\\ b",
        "vmadm > file",
        "vmadm < file",
        "vmadm *",
        "vmadm ?",
        "vmadm [a]",
        "vmadm {a,b}",
        "vmadm ~root",
        "vmadm #comment",
        "vmadm !x",
        "vmadm (x)",
        "vmadm ünïcode",
        "LD_PRELOAD=/evil.so vmadm list",
        "IFS=x vmadm list",
        "''vmadm'",
        "vm'",
        "'vmadm id'",
        "'' vmadm list",
        "'vmadm\nid'",
        "-- vmadm list",
        "-vmadm",
        "vmadm list",
        "vmadm 'get info'",
        "vmadm -f get",
        "vmadm console " + ZONE,
        "zpool destroy zones",
        "zpool create evil c0t0d0",
        "zfs allow x",
        "zfs unmount -a",
        "zfs unmount zones",
        f"zfs unmount zones/{ZONE}",
        "zfs unmount -f zones/nova-smartos/x",
        "zfs -x list",
        "zfs mount -O zones/x",
        "dladm delete-vnic net0",
        "imgadm publish x",
        "svcs",
        "kstat -p",
        "isainfo -v",
        "uptime -x",
        "sysinfo -s x",
        "dtrace",
        "dtrace -c id",
        "dtrace -q -c id",
        "dtrace -l -c id",
        "dtrace -l -n BEGIN -c id",
        "dtrace -q -s /dev/stdin -c id",
        "dtrace -q -s /dev/stdin 1 -w",
        "dtrace -w -n BEGIN",
        "dtrace '-q -s' /dev/stdin",
        "dtrace '-q -s /dev/stdin' ",
        "dtrace -V -c id",
        "zlogin",
        "zlogin -l root " + ZONE,
        "zlogin -C " + ZONE,
        "zlogin " + ZONE[:-1] + "g",
        "zlogin " + ZONE[:-1],
        "zlogin global",
        "dd",
        "dd of=/etc/passwd bs=1048576",
        "dd if=/etc/shadow",
        "dd of=/zones/nova-smartos/x bs=1048576 if=/etc/shadow",
        "dd of=/zones/nova-smartos/x if=/etc/shadow",
        "dd if=/zones/nova-smartos/x bs=1048576",
        "dd of=/zones/nova-smartos/../x bs=1048576",
        "dd of=/zones/nova-smartos/..",
        "dd of=/zones/nova-smartos/.. bs=1048576",
        "dd of=/zones/nova-smartos/ bs=1048576",
        "dd of=x bs=1048576",
        "rm -rf /zones/nova-smartos",
        "rm -rf /zones/x",
        "rm -fr /zones/nova-smartos/x",
        "dd of=/dev/zvol/rdsk/zones/swap ibs=65536 obs=1048576",
        "dd of=/dev/zvol/rdsk/zones/../" + ZONE + "/disk0 ibs=65536 obs=1048576",
        "dd of=/dev/zvol/rdsk/zones/nova-smartos/../x ibs=65536 obs=1048576",
        "dd of=/zones/nova-smartos/x ibs=65536 obs=1048576",
        "dd of=/dev/zvol/rdsk/zones/" + ZONE + "/disk0 bs=1048576",
        "gtar -x --recursive-unlink -f - -C /",
        "gtar -x -f /zones/nova-smartos/x -C /zones/nova-smartos",
        "gtar -x -f - -C /zones/nova-smartos --to-command=id",
        "ls -1 /root",
        "ls -ldn /zones /zones/x /zones/y",
        "ls -ldn / /tmp /tmp/vm.qmp",
        "nc -l 4444",
        "nc -U /var/run/door",
        f"nc -U /zones/{ZONE}/root/tmp/../vm.qmp",
        f"nc -U /zones/{ZONE}/root/tmp/vm.qmp -e",
        f"nc -U /zones/{ZONE}/root/tmp/vm.ttyb",
        f"zlogin -E -C {ZONE} id",
        "zlogin -E -C global",
        f"tail -c 524288 /zones/{ZONE}/logs/../root/etc/shadow",
        f"tail -f /zones/{ZONE}/logs/console.log",
        f"tail -c 524288 /zones/{ZONE}/root/logs/console.log",
        "tail -c 524288 /var/adm/messages",
        "ps -ef",
        "smartos-direct receive",
        "-x",
        "ps -z global -o pid,args -t x",
        "rm -rf /zones/nova-smartos/x/root",
        "rm -rf /zones/nova-smartos/../config",
        "rm -rf /zones/nova-smartos/x/y/config",
        "rm -rf /zones/config",
        "rm -f /zones/nova-smartos",
        "rm -f /zones/nova-smartos/x /etc/passwd",
        "rm -f '/zones/nova-smartos/x y'",
        "rm -f /zones/nova-smartos/x/../../y",
    ],
)
def test_everything_else_is_refused(line: str | None, shell: str, tools: pathlib.Path) -> None:
    done = forced(line, tools, shell)
    assert done.returncode == REFUSED
    assert done.stderr.startswith(b"smartos-forced-command: refused: ")
    assert ran(tools) == []


def methods() -> list[tuple[str, str]]:
    gz = node.Node(fake_transport.refusing())
    tools = [tool for tool in vars(gz).values() if isinstance(tool, _tool.Tool)]
    public = [
        getattr(tool, name) for tool in tools for name in dir(type(tool)) if name[0].islower()
    ]
    first = [method.__doc__.split("\n")[0] for method in public if callable(method)]
    found = [re.match(r"([a-z]+(?:-[a-z]+)*)(?: ([A-Za-z-]+))?", line) for line in first]
    return sorted({(each[1], each[2] or "") for each in found if each})


def test_every_method_of_the_toolkit_is_let_through(tools: pathlib.Path) -> None:
    exact = {
        ("dtrace", "-l"): "-l -n a:b:c:d",
        ("dtrace", "-q"): "-q -s /dev/stdin 1 2",
        ("zlogin", "UUID"): ZONE + " '-x'",
        ("zlogin", "-E"): f"-E -C {ZONE}",
        ("tail", "-c"): f"-c 524288 /zones/{ZONE}/logs/console.log",
        ("dd", "of"): "of=/zones/nova-smartos/image-1.json bs=1048576",
        ("gtar", "-x"): "-x --recursive-unlink -f - -C /zones/nova-smartos",
        ("ls", "-"): "-1 /zones/nova-smartos",
        ("nc", "-U"): f"-U /zones/{ZONE}/root/tmp/vm.qmp",
        ("ps", "-z"): "-z global -o pid,args",
        ("rm", "-f"): "-f /zones/nova-smartos/image-1.json",
        ("zfs", "unmount"): f"unmount zones/nova-smartos/image-of-{ZONE}",
        ("rm", "-rf"): f"-rf /zones/nova-smartos/drive-{ZONE}",
    }
    by_hand = {("vmadm", "console")}
    found = methods()
    assert {tool for tool, _ in found} == set(NAMES)
    for tool, word in found:
        done = forced(f"{tool} {exact.get((tool, word), word)}".strip(), tools)
        assert done.returncode == (REFUSED if (tool, word) in by_hand else 7), (tool, word)


@pytest.mark.parametrize("name", ["vm.qmp", "vm.console", "vm.vnc"])
def test_the_way_to_a_socket_is_looked_at(tools: pathlib.Path, name: str) -> None:
    root = f"/zones/{ZONE}/root"
    line = f"ls -ldn {root} {root}/tmp {root}/tmp/{name}"
    assert forced(line, tools).returncode == 7
    assert forced(f"nc -U {root}/tmp/{name}", tools).returncode == 7


@pytest.mark.parametrize(
    "volume", ["zones/nova-smartos/raw", f"zones/{ZONE}/disk1", f"data/{ZONE}-disk0"]
)
def test_volumes_of_ours_and_disks_are_written(volume: str, tools: pathlib.Path) -> None:
    line = f"dd of=/dev/zvol/rdsk/{volume} ibs=65536 obs=1048576"
    assert forced(line, tools).returncode == 7
    assert ran(tools) == line.split()


def test_the_other_side_does_not_choose_where_tools_are(tools: pathlib.Path) -> None:
    forced("PATH=/evil:\"$PATH\" LC_ALL=xx PATH='/evil' vmadm lookup", tools)
    assert ran(tools) == ["vmadm", "lookup"]


def test_quotes_may_stand_anywhere_in_a_word(tools: pathlib.Path) -> None:
    forced("v'mad'm g'e't a'b c'd\"'\"'e'", tools)
    assert ran(tools) == ["vmadm", "get", "ab cd'e"]


def test_a_long_line_is_no_trouble(tools: pathlib.Path) -> None:
    argument = "it's " * 3000
    ssh = transport.SSH("node")
    forced(ssh.command_line(transport.Command(("vmadm", "get", argument))), tools)
    assert ran(tools) == ["vmadm", "get", argument]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    with sshd.Server(tmp_path_factory.mktemp("sshd")) as running:
        yield running


def test_behind_sshd(server: sshd.Server, tools: pathlib.Path) -> None:
    server.authorize(f'restrict,command="{SCRIPT} {tools}"')
    ssh = server.connect()
    try:
        assert ssh.run(transport.Command(("vmadm", "get", *HOSTILE))).returncode == 7
        assert ran(tools) == ["vmadm", "get", *HOSTILE]
        refused = ssh.run(transport.Command(("uname", "-a")))
        assert refused.returncode == REFUSED
        assert "uname is not among the tools" in refused.stderr
    finally:
        ssh.close()
