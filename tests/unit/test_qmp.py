# SPDX-License-Identifier: Apache-2.0
"""The monitor of a kvm VM: what is asked of it, and what may stand in its place."""

import json

import pytest

from nova_smartos.smartos import errors, qmp
from tests.unit import fake_transport
from tests.unit.fake_transport import Answer

ZONEPATH = "/zones/11111111-2222-4333-8444-555555555555"
ROOT, TMP, SOCKET = f"{ZONEPATH}/root", f"{ZONEPATH}/root/tmp", f"{ZONEPATH}/root/tmp/vm.qmp"
LOOK = ("ls", "-ldn", ROOT, TMP, SOCKET)
FOLDER = "drwxr-xr-x   5 0        0              5 Jan  1 00:00 "
LISTENS = "srwxr-xr-x   1 0        0              0 Jan  1 00:00 "
SEEN = f"{FOLDER}{ROOT}\n{FOLDER}{TMP}\n{LISTENS}{SOCKET}\n"
GREETING = '{"QMP": {"version": {"qemu": {"micro": 1, "minor": 14, "major": 0}}}}\r\n'
READY = '{"return": {}, "id": 0}\r\n'
EVENT = '{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}\r\n'


def request(order: str) -> bytes:
    asked = ({"execute": "qmp_capabilities", "id": 0}, {"execute": order, "id": 1})
    return b"".join(json.dumps(each).encode() + b"\n" for each in asked)


def monitor(said: str, *, returncode: int = 0, stdin: bytes | None = None) -> Answer:
    return Answer(("nc", "-U", SOCKET), said, returncode=returncode, stdin=stdin)


@pytest.mark.parametrize("order", ["stop", "cont"])
def test_an_order(order: str) -> None:
    said = GREETING + READY + EVENT + '{"return": {}, "id": 1}\r\n'
    asked = monitor(said, stdin=request(order))
    with fake_transport.Transport(Answer(LOOK, SEEN), asked) as carrier:
        getattr(qmp.Qmp(carrier), order)(ZONEPATH)


@pytest.mark.parametrize(
    "shown",
    [
        f"{FOLDER}{ROOT}\n{FOLDER}{TMP}\nlrwxrwxrwx 1 0 0 9 Jan  1 00:00 {SOCKET} -> /a\n",
        f"{FOLDER}{ROOT}\nlrwxrwxrwx 1 0 0 9 Jan  1 00:00 {TMP} -> /etc\n{LISTENS}{SOCKET}\n",
        f"{FOLDER}{ROOT}\n{FOLDER}{TMP}\n-rw-r--r-- 1 0 0 9 Jan  1 00:00 {SOCKET}\n",
        f"{FOLDER}{ROOT}\n{FOLDER}{TMP}\n{LISTENS}{SOCKET}/other\n",
        f"{FOLDER}{ROOT}\n{FOLDER}{TMP}\n",
        f"{SEEN}{LISTENS}/more\n",
    ],
)
def test_what_is_no_socket_is_not_connected_to(shown: str) -> None:
    with fake_transport.Transport(Answer(LOOK, shown)) as carrier:
        with pytest.raises(errors.ToolError, match="something else") as caught:
            qmp.Qmp(carrier).stop(ZONEPATH)
    assert caught.value.code == "Suspicious"


def test_without_a_hypervisor_there_is_no_socket() -> None:
    said = f"{SOCKET}: No such file or directory\n"
    with fake_transport.Transport(Answer(LOOK, "", said, 2)) as carrier:
        with pytest.raises(errors.InvalidState) as caught:
            qmp.Qmp(carrier).stop(ZONEPATH)
    assert caught.value.code == "NoMonitor"


def test_nobody_listens() -> None:
    with fake_transport.Transport(Answer(LOOK, SEEN), monitor("", returncode=1)) as carrier:
        with pytest.raises(errors.InvalidState):
            qmp.Qmp(carrier).cont(ZONEPATH)


def test_nc_that_was_killed_is_no_missing_monitor() -> None:
    with fake_transport.Transport(Answer(LOOK, SEEN), monitor("", returncode=-9)) as carrier:
        with pytest.raises(errors.ToolError) as caught:
            qmp.Qmp(carrier).cont(ZONEPATH)
    assert not isinstance(caught.value, errors.InvalidState)


def test_a_monitor_that_refuses() -> None:
    refusal = '{"error": {"class": "CommandNotFound", "desc": "no"}, "id": 1}\r\n'
    answer = monitor(GREETING + READY + refusal)
    with fake_transport.Transport(Answer(LOOK, SEEN), answer) as carrier:
        with pytest.raises(errors.ToolError, match="CommandNotFound"):
            qmp.Qmp(carrier).cont(ZONEPATH)


@pytest.mark.parametrize("said", ["", GREETING + READY, "not JSON\n", '["a list"]\n'])
def test_no_answer_is_no_success(said: str) -> None:
    with fake_transport.Transport(Answer(LOOK, SEEN), monitor(said)) as carrier:
        with pytest.raises(errors.OutputError):
            qmp.Qmp(carrier).stop(ZONEPATH)


@pytest.mark.parametrize("path", ["/etc", "zones/x", f"{ZONEPATH}/..", "/zones/not-a-uuid", ""])
def test_only_a_zonepath(path: str) -> None:
    with pytest.raises(errors.InvalidPayload):
        qmp.Qmp(fake_transport.refusing()).stop(path)
