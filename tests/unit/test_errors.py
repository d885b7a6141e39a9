# SPDX-License-Identifier: Apache-2.0
"""The error tree: what an error says, what it keeps, what it hides."""

import pickle

import pytest

from nova_smartos.smartos import errors, transport

FAILED = transport.Result(
    argv=("vmadm", "create"),
    returncode=1,
    stdout="",
    stderr="bad vnc_password: hunter22\n",
    secrets=("hunter22",),
)


def test_a_tool_error_says_what_ran_and_how_it_ended() -> None:
    error = errors.NotFound.from_result(FAILED, code="VmNotFound")
    assert str(error) == "vmadm create: bad vnc_password: *** (exit 1)"
    assert (error.tool, error.returncode, error.code) == ("vmadm", 1, "VmNotFound")
    assert isinstance(error, errors.ToolError)


def test_a_signal_is_named() -> None:
    error = errors.ToolError("gone", argv=("vmadm",), returncode=-6)
    assert str(error) == "vmadm: gone (ended by signal 6)"


def test_secrets_do_not_enter_an_error() -> None:
    for error in (
        errors.ToolError.from_result(FAILED),
        errors.OutputError.from_result(FAILED, "not JSON"),
    ):
        assert "hunter22" not in f"{error} {error!r} {vars(error)}"


@pytest.mark.parametrize("kind", [errors.NotStarted, errors.OutcomeUnknown])
def test_a_transport_error_names_the_command(kind: type[errors.TransportError]) -> None:
    error = kind("lost", argv=("zfs", "list", "a\nb"))
    assert str(error) == "zfs list 'a\\nb': lost"
    assert isinstance(error, errors.SmartOSError)


def test_a_message_alone_is_enough() -> None:
    assert str(errors.InvalidPayload("no brand")) == "no brand"
    assert str(errors.OutputError("not JSON")) == "not JSON"
    assert str(errors.NotStarted("unreachable")) == "unreachable"
    assert str(errors.ToolError()) == "no message"


def test_errors_survive_pickling() -> None:
    error = errors.NotFound.from_result(FAILED, code="VmNotFound")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.code, copy.argv) == (str(error), error.code, error.argv)


def test_not_started_tells_whether_trying_again_can_help() -> None:
    assert errors.NotStarted("refused").retryable
    assert not errors.NotStarted("bad key", retryable=False).retryable


def test_what_a_node_says_can_be_logged() -> None:
    """Bytes that are no text, terminal escapes, forged lines, a mebibyte: a log bears them all."""
    said = "bad \udcff\x1b[2J\nERROR forged line " + "x" * 2**20
    for error in (
        errors.ToolError(argv=("vmadm", "get"), returncode=1, stderr=said),
        errors.ToolError(said),
        errors.NotStarted(said, argv=("vmadm", "get")),
        errors.OutcomeUnknown(said),
        errors.OutputError(said, argv=("vmadm", "get")),
    ):
        shown = str(error)
        assert shown.isprintable() and len(shown) < 3000
        assert "bad \\udcff\\x1b[2J\\nERROR forged line x" in shown
