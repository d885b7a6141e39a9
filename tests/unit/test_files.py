# SPDX-License-Identifier: Apache-2.0
"""files: one folder of the node, and nothing outside it."""

import io

import pytest

from nova_smartos.smartos import errors, files
from tests.unit import fake_transport

PATH = "/zones/nova-smartos/image-1.zfs.gz"
WRITE = ("dd", f"of={PATH}", "bs=1048576")


def test_a_file_is_written_from_a_stream() -> None:
    data = bytes(range(256)) * 4096
    with fake_transport.expecting(*WRITE, stderr="1+0 records in\n1+0 records out\n") as carrier:
        assert files.Files(carrier).write("image-1.zfs.gz", io.BytesIO(data)) == PATH
    stdin = carrier.processes[0].stdin
    assert stdin.getvalue() == data and carrier.processes[0].stdin_closed


@pytest.mark.parametrize(
    ("stderr", "error"),
    [
        (f"dd: {PATH}: open: No such file or directory\n", errors.NotFound),
        ("write: No space left on device\n0+1 records in\n", errors.NoSpace),
        ("write: Disc quota exceeded\n0+1 records in\n", errors.NoSpace),
    ],
)
def test_a_file_that_cannot_be_written(stderr: str, error: type[errors.ToolError]) -> None:
    with fake_transport.expecting(*WRITE, stderr=stderr, returncode=2) as carrier:
        with pytest.raises(error):
            files.Files(carrier).write("image-1.zfs.gz", io.BytesIO(b"x"))


def test_a_source_that_fails_is_no_end_of_file() -> None:
    class Source:
        def read(self, size: int = -1, /) -> bytes:
            raise ConnectionError("gone")

    with fake_transport.expecting(*WRITE) as carrier:
        with pytest.raises(ConnectionError):
            files.Files(carrier).write("image-1.zfs.gz", Source())
    assert not carrier.processes[0].stdin_closed


def test_a_file_is_deleted() -> None:
    with fake_transport.expecting("rm", "-f", PATH) as carrier:
        files.Files(carrier).delete("image-1.zfs.gz")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-rf", "a b", "a\n", "a\0", "/x"])
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    tool = files.Files(fake_transport.refusing())
    for call in (lambda: tool.delete(name), lambda: tool.write(name, io.BytesIO())):
        with pytest.raises(errors.InvalidPayload):
            call()
