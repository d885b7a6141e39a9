# SPDX-License-Identifier: Apache-2.0
"""dtrace: scripts travel on stdin, their output is read as it comes."""

import io

import pytest

from nova_smartos.smartos import dtrace, errors
from tests.unit import fake_transport

SCRIPT = 'BEGIN { printf("$1\\n"); exit(0); }\n'


def test_a_script() -> None:
    argv = ("dtrace", "-q", "-s", "/dev/stdin", "10", "it's")
    carrier = fake_transport.expecting(*argv, stdout="one\ntwo\n")
    with carrier, dtrace.Dtrace(carrier).run(SCRIPT, "10", "it's", seconds=5) as output:
        assert list(output.lines()) == ["one", "two"]
    process = carrier.processes[0]
    assert isinstance(process.stdin, io.BytesIO) and process.stdin.getvalue() == SCRIPT.encode()
    assert carrier.commands[0].seconds == 5


def test_a_script_that_fails() -> None:
    carrier = fake_transport.expecting(
        *("dtrace", "-q", "-s", "/dev/stdin"),
        stderr='dtrace: failed to compile script /dev/stdin: line 1: syntax error near "x"\n',
        returncode=1,
    )
    with dtrace.Dtrace(carrier).run("x") as output, pytest.raises(errors.InvalidPayload):
        list(output.lines())


def test_an_argument_that_is_an_option() -> None:
    tool = dtrace.Dtrace(fake_transport.refusing())
    with pytest.raises(errors.InvalidPayload), tool.run(SCRIPT, "-w"):
        pass


@pytest.mark.parametrize("probe", ["-w", "a b", "syscall:::{system()}", "x;y", "a:b:c:d:e"])
def test_a_probe_that_is_none(probe: str) -> None:
    with pytest.raises(errors.InvalidPayload):
        dtrace.Dtrace(fake_transport.refusing()).list(probe)
