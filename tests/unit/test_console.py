# SPDX-License-Identifier: Apache-2.0
"""The toolkit's console tool, and the terminals it needs of a transport."""

import json
import pathlib
from collections.abc import Iterator

import pytest

from nova_smartos.smartos import console, errors, node, transport
from tests import emulated
from tests.unit import fake_transport
from tests.unit.fake_transport import Answer

VM = "11111111-2222-4333-8444-555555555555"
ZONEPATH = f"/zones/{VM}"
LOG = ("tail", "-c", "524288", f"{ZONEPATH}/logs/console.log")
ZONE = ("zlogin", "-E", "-C", VM)


def line(text: str, stream: str = "console") -> str:
    return f"{{ {json.dumps({'time': 'x', 'level': 30, 'msg': text, 'stream': stream})[1:-1]} }}\n"


def test_a_log_is_what_was_shown() -> None:
    said = line("open", "logfile") + line("one\r\n") + line("\xe9\x1b[1m two") + '{ "msg": "cu'
    with fake_transport.expecting(*LOG, stdout=said) as carrier:
        assert console.Console(carrier).log(ZONEPATH) == b"one\r\n\xe9\x1b[1m two"


def test_a_long_log_begins_with_a_whole_line() -> None:
    said = ("x" * 600_000 + "\n" + line("last\n"))[-524288:]
    with fake_transport.expecting(*LOG, stdout=said) as carrier:
        assert console.Console(carrier).log(ZONEPATH) == b"last\n"


def test_no_log() -> None:
    said = f"tail: {LOG[-1]}: No such file or directory\n"
    with fake_transport.expecting(*LOG, stderr=said, returncode=1) as carrier:
        with pytest.raises(errors.NotFound) as caught:
            console.Console(carrier).log(ZONEPATH)
    assert caught.value.code == "NoLog"


@pytest.mark.parametrize("path", ["/etc", f"{ZONEPATH}/..", f"/zones/{VM}/root", "", "-c"])
def test_only_a_zonepath(path: str) -> None:
    tool = console.Console(fake_transport.refusing())
    with pytest.raises(errors.InvalidPayload):
        tool.log(path)
    for opened in (tool.display, tool.line):
        with pytest.raises(errors.InvalidPayload):
            with opened(path):
                pass


@pytest.mark.parametrize(("method", "name"), [("display", "vm.vnc"), ("line", "vm.console")])
def test_a_link_in_the_place_of_a_socket(method: str, name: str) -> None:
    root = f"{ZONEPATH}/root"
    folder = "drwxr-xr-x   5 0        0              5 Jan  1 00:00 "
    shown = (
        f"{folder}{root}\n{folder}{root}/tmp\n"
        f"lrwxrwxrwx 1 0 0 9 Jan  1 00:00 {root}/tmp/{name} -> /var/run/x\n"
    )
    look = ("ls", "-ldn", root, f"{root}/tmp", f"{root}/tmp/{name}")
    with fake_transport.Transport(Answer(look, shown)) as carrier:
        with pytest.raises(errors.ToolError, match="something else") as caught:
            with getattr(console.Console(carrier), method)(ZONEPATH):
                pass
    assert caught.value.code == "Suspicious"


@pytest.mark.parametrize(
    ("said", "error", "code"),
    [
        (f"zlogin: zone '{VM}' unknown\n", errors.NotFound, "ZoneNotFound"),
        ("zlogin: cannot login to a zone which is 'configured'\n", errors.InvalidState, "State"),
        ("zlogin: something else\n", errors.ToolError, ""),
        ("", errors.ToolError, ""),
    ],
)
def test_a_console_that_is_refused(said: str, error: type[Exception], code: str) -> None:
    with fake_transport.expecting(*ZONE, stdout=said, returncode=1) as carrier:
        with pytest.raises(error) as caught:
            with console.Console(carrier).zone(VM):
                pass
    assert getattr(caught.value, "code", None) == code


def test_who_left_just_now_is_waited_for() -> None:
    busy = Answer(ZONE, "zlogin: Console is already in use by process ID 7.\n", returncode=1)
    there = Answer(ZONE, f"[Connected to zone '{VM}' console]\r\nlogin: ")
    with fake_transport.Transport(busy, busy, there) as carrier:
        with console.Console(carrier).zone(VM) as process:
            assert process.read(100) == b"login: "
    assert all(command.terminal for command in carrier.commands)


@pytest.fixture(name="world", scope="module")
def _world() -> Iterator[emulated.EmulatedNode]:
    with emulated.EmulatedNode("--speed", "40", "--ssh", "127.0.0.1:0") as world:
        zone = {"brand": "joyent", "uuid": VM, "image_uuid": world.image("zone"), "hostname": "web"}
        world.tool("vmadm", "create", payload=json.dumps(zone))
        yield world


@pytest.fixture(name="gz", params=["local", "ssh"])
def _gz(request: pytest.FixtureRequest, world: emulated.EmulatedNode) -> Iterator[node.Node]:
    if request.param == "local":
        with node.Node.local(tool_path=world.tools) as gz:
            yield gz
        return
    ssh = world.facts()["ssh"]
    with node.Node.ssh(
        ssh["host"],
        port=ssh["port"],
        user=ssh["user"],
        key_file=ssh["identity"],
        known_hosts_file=ssh["known_hosts"],
        pfexec=False,
    ) as gz:
        yield gz


def read_until(process: transport.Process, wanted: bytes) -> bytes:
    said = b""
    while wanted not in said:
        data = process.read(4096)
        assert data, said
        said += data
    return said


def test_typing_on_a_terminal(gz: node.Node) -> None:
    with gz.console.zone(VM) as process:
        process.stdin.write(b"\x04")
        read_until(process, b"web login: ")
        process.stdin.write(b"root\r")
        read_until(process, b"]# ")
        # every byte goes through as it is: neither an end of file, nor an escape, nor a signal
        process.stdin.write(b"~.\x03echo here\r")
        assert b"\r\nhere\r\n" in read_until(process, b"\nhere\r\n")
    assert b"here" in gz.console.log(ZONEPATH)
    # whoever was connected is gone with the context
    with gz.console.zone(VM) as process:
        process.kill()
        assert process.read(1) == b""
        with pytest.raises((OSError, errors.SmartOSError)):
            for _ in range(100):
                process.stdin.write(b"x" * 4096)


def test_the_end_of_a_command_on_a_terminal(gz: node.Node) -> None:
    command = transport.Command(("zlogin", "-C", "none"), terminal=True)
    with gz.transport.stream(command) as process:
        result = process.wait()
    assert result.returncode == 1


def test_errors_on_a_terminal_are_output(gz: node.Node) -> None:
    command = transport.Command(("zlogin", "-C", "none"), terminal=True)
    with gz.transport.stream(command) as process:
        assert read_until(process, b"unknown").startswith(b"zlogin: zone 'none'")


def test_a_display_that_is_not_there(gz: node.Node) -> None:
    with pytest.raises(errors.InvalidState) as caught:
        with gz.console.display(ZONEPATH):
            pass
    assert caught.value.code == "NoSocket"


def test_what_a_guest_puts_there_is_not_followed(
    gz: node.Node, world: emulated.EmulatedNode
) -> None:
    folder = pathlib.Path(world.directory, f"root{ZONEPATH}/root/tmp")
    folder.mkdir(exist_ok=True)
    link = folder / "vm.vnc"
    link.symlink_to("/var/run/zones.sock")
    try:
        with pytest.raises(errors.ToolError) as caught:
            with gz.console.display(ZONEPATH):
                pass
        assert caught.value.code == "Suspicious"
    finally:
        link.unlink()
