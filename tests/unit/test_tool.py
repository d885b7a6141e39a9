# SPDX-License-Identifier: Apache-2.0
"""What all tools share: errors from texts, streams whose end means success, checked arguments."""

import io

import pytest

from nova_smartos.smartos import _tool, errors, transport
from tests.unit import fake_transport


class Saw(_tool.Tool):
    """A tool for these tests."""

    name = "saw"
    texts = (
        _tool.text(r"no wood", errors.NotFound, "Wood"),
        *_tool.SPACE,
        _tool.text(r".*blunt", errors.InvalidState, "Blunt"),
    )


def run(stderr: str, returncode: int = 1) -> errors.ToolError:
    with fake_transport.expecting("saw", stderr=stderr, returncode=returncode) as carrier:
        tool = Saw(carrier)
        with pytest.raises(errors.ToolError) as caught:
            tool._run(tool._command())
    return caught.value


@pytest.mark.parametrize(
    ("stderr", "error", "code"),
    [
        ("no wood here\n", errors.NotFound, "Wood"),
        ("first a warning\nno wood here\n", errors.NotFound, "Wood"),
        ("there is no wood\n", errors.ToolError, ""),
        ("it is blunt; no wood\n", errors.InvalidState, "Blunt"),
        ("no wood\nit is blunt\n", errors.NotFound, "Wood"),
        ("cannot cut: No space left on device\n", errors.NoSpace, "NoSpace"),
        ("Uncaught Error: no wood\n", errors.ToolError, "Abort"),
        ("TypeError: x\n    at y\n", errors.ToolError, "Abort"),
        ("", errors.ToolError, ""),
    ],
)
def test_texts(stderr: str, error: type[errors.ToolError], code: str) -> None:
    found = run(stderr)
    assert (type(found), found.code) == (error, code)
    assert (found.tool, found.returncode, found.stderr) == ("saw", 1, stderr)


@pytest.mark.parametrize("returncode", [-6, -5, 133, 134])
def test_an_abort_is_not_a_text(returncode: int) -> None:
    assert run("no wood\n", returncode).code == "Abort"


def test_a_huge_stderr_is_classified_quickly() -> None:
    for stderr in ("x" * 2**20 + "\n" + "y\n" * 10_000, " " * 2**20, "Error: " * 100_000):
        assert run(stderr).code == ""


@pytest.mark.parametrize("value", ["", "-x", "--", "a\0b", None, 3])
def test_an_operand_is_no_option(value: str) -> None:
    with pytest.raises(errors.InvalidPayload) as caught:
        Saw(fake_transport.refusing())._operand(value, "log")
    assert caught.value.code == "Argument"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-" * 36,
        "6a1f3c52-0b7e-4d7a-9c55-1f0e2d3c4b5",
        "6a1f3c52-0b7e-4d7a-9c55-1f0e2d3c4b5a\n",
        "6A1F3C52-0B7E-4D7A-9C55-1F0E2D3C4B5A",
        "$(reboot)-0b7e-4d7a-9c55-1f0e2d3c4b5a",
        "٦a1f3c52-0b7e-4d7a-9c55-1f0e2d3c4b5a",
    ],
)
def test_what_is_no_uuid(value: str) -> None:
    with pytest.raises(errors.InvalidPayload, match="not a uuid"):
        Saw(fake_transport.refusing())._uuid(value)


def stream(stdout: bytes, returncode: int = 0, stderr: str = "") -> fake_transport.Transport:
    return fake_transport.expecting(
        "saw", "out", stdout=stdout, returncode=returncode, stderr=stderr
    )


def test_a_stream_is_read_in_pieces() -> None:
    data = bytes(range(256)) * 4096
    with stream(data) as carrier, Saw(carrier)._output("out") as output:
        assert output.read(10) == data[:10]
        assert b"".join(output) == data[10:]
        assert output.read(10) == b""
    assert carrier.commands[0].timeout is transport.Timeout.STREAM
    assert carrier.processes[0].stdin_closed


@pytest.mark.parametrize("size", [-1, 4, 1000])
def test_a_failed_stream_has_no_end(size: int) -> None:
    carrier = stream(b"half", 1, "no wood\n")
    with Saw(carrier)._output("out") as output:
        for _ in range(2):
            with pytest.raises(errors.NotFound):
                while output.read(size):
                    pass


def test_reading_nothing_is_not_the_end() -> None:
    carrier = stream(b"half", 1, "no wood\n")
    with Saw(carrier)._output("out") as output:
        assert output.read(0) == b""


def test_lines() -> None:
    with stream(b"one\n\xff two\nrest") as carrier, Saw(carrier)._output("out") as output:
        assert list(output.lines()) == ["one", "\udcff two", "rest"]


def test_a_line_without_end() -> None:
    carrier, long = stream(b"x" * 100), pytest.raises(errors.OutputError, match="than 10 bytes")
    with Saw(carrier)._output("out") as output, long:
        next(output.lines(10))


def test_input_is_poured() -> None:
    data = bytes(range(256)) * 4096
    with fake_transport.expecting("saw", "in", stderr="done") as carrier:
        assert Saw(carrier)._input(io.BytesIO(data), "in").stderr == "done"
    process = carrier.processes[0]
    assert isinstance(process.stdin, io.BytesIO) and process.stdin.getvalue() == data
    assert process.stdin_closed


class Broken(io.RawIOBase):
    """Fails after one piece."""

    def __init__(self) -> None:
        self.pieces = [b"a piece"]

    def read(self, size: int = -1, /) -> bytes:
        if not self.pieces:
            raise OSError("the source is gone")
        return self.pieces.pop()


def test_a_broken_source_is_not_an_end_of_file() -> None:
    with fake_transport.expecting("saw", "in") as carrier, pytest.raises(OSError, match="is gone"):
        Saw(carrier)._input(Broken(), "in")
    assert not carrier.processes[0].stdin_closed


class Deaf(io.BytesIO):
    """A command that listens no more."""

    def write(self, data: object) -> int:
        raise BrokenPipeError


def test_a_command_that_ends_early_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_transport, "_Sink", Deaf)
    carrier = fake_transport.expecting("saw", "in", stderr="no wood\n", returncode=1)
    with carrier, pytest.raises(errors.NotFound):
        Saw(carrier)._input(io.BytesIO(b"data"), "in")


def test_a_document_that_is_no_json() -> None:
    tool = Saw(fake_transport.refusing())
    for payload in ({"a": float("nan")}, {"a": object()}, {"a": b"bytes"}):
        with pytest.raises(errors.InvalidPayload, match="cannot be written as JSON"):
            tool._document(payload)


@pytest.mark.parametrize(
    ("line", "columns"),
    [
        ("", [""]),
        ("a:b", ["a", "b"]),
        ("a\\:b:c\\\\:d", ["a:b", "c\\", "d"]),
        ("a\\", ["a\\"]),
        ("::", ["", "", ""]),
    ],
)
def test_split(line: str, columns: list[str]) -> None:
    assert _tool.split(line, ":") == columns


def test_only_a_newline_ends_a_line() -> None:
    assert _tool.lines("a\rb\x0bc\u2028d\ne\n") == ["a\rb\x0bc\u2028d", "e"]
    assert _tool.lines("") == []
    assert _tool.lines("\n\n") == ["", ""]


def test_lines_that_were_cut_off_are_not_whole() -> None:
    with pytest.raises(errors.OutputError, match="cut off"):
        _tool.lines("zones/a\t123\nzones/b\t12")


def test_a_quoted_text_is_not_the_tools_own_word() -> None:
    assert run('Invalid lookup key: "No space left on device"\n').code == ""
