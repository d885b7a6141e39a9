# SPDX-License-Identifier: Apache-2.0
"""files: one folder of the node, and nothing outside it."""

import io

import pytest

from nova_smartos.smartos import errors, files
from tests.unit import fake_transport

PATH = "/zones/nova-smartos/image-1.zfs.gz"
UUID = "6a1f3c52-0b7e-4d7a-9c55-1f0e2d3c4b5a"
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
    for call in (
        lambda: tool.delete(name),
        lambda: tool.delete_folder(name),
        lambda: tool.unpack_tree(name, io.BytesIO()),
        lambda: tool.write(name, io.BytesIO()),
    ):
        with pytest.raises(errors.InvalidPayload):
            call()


def test_an_archive_is_unpacked() -> None:
    command = ("gtar", "-x", "--recursive-unlink", "-f", "-", "-C", "/zones/nova-smartos")
    with fake_transport.expecting(*command) as carrier:
        files.Files(carrier).unpack(b"archive")
    assert carrier.commands[0].stdin == b"archive"


@pytest.mark.parametrize(
    ("stderr", "error"),
    [
        ("gtar: /zones/nova-smartos: Cannot open: No such file or directory\n", errors.NotFound),
        ("gtar: drive-1/a: Cannot write: No space left on device\n", errors.NoSpace),
        ("gtar: a/b c: Cannot mkdir: No space left on device\n", errors.NoSpace),
        ("gtar: a/b c: Cannot mkdir: Not a directory\n", errors.InvalidPayload),
        (
            "gtar: x: Cannot hard link to `etc/y': No such file or directory\n"
            "gtar: Exiting with failure status due to previous errors\n",
            errors.InvalidPayload,
        ),
    ],
)
def test_an_archive_that_cannot_be_unpacked(stderr: str, error: type[errors.ToolError]) -> None:
    command = ("gtar", "-x", "--recursive-unlink", "-f", "-", "-C", "/zones/nova-smartos")
    with fake_transport.expecting(*command, stderr=stderr, returncode=2) as carrier:
        with pytest.raises(error):
            files.Files(carrier).unpack(b"archive")


def test_a_tree_is_unpacked_where_it_belongs() -> None:
    folder = "/zones/nova-smartos/image-1"
    command = ("gtar", "-x", "-p", "--numeric-owner", "-f", "-", "-C", folder)
    with fake_transport.expecting(*command) as carrier:
        files.Files(carrier).unpack_tree("image-1", io.BytesIO(b"archive"))
    assert carrier.processes[0].stdin.getvalue() == b"archive"


def test_a_folder_is_deleted() -> None:
    with fake_transport.expecting("rm", "-rf", "/zones/nova-smartos/drive-1") as carrier:
        files.Files(carrier).delete_folder("drive-1")


@pytest.mark.parametrize(
    "volume",
    [f"zones/{UUID}/disk1", f"data/{UUID}-disk12", "zones/nova-smartos/raw"],
)
def test_a_disk_is_written(volume: str) -> None:
    command = ("dd", f"of=/dev/zvol/rdsk/{volume}", "ibs=65536", "obs=1048576")
    with fake_transport.expecting(*command) as carrier:
        files.Files(carrier).write_volume(volume, io.BytesIO(b"x"))


def test_a_disk_is_written_from_some_mib_on() -> None:
    command = ("dd", "of=/dev/zvol/rdsk/zones/nova-smartos/raw", "ibs=65536", "obs=1048576")
    with fake_transport.expecting(*command, "seek=40") as carrier:
        files.Files(carrier).write_volume("zones/nova-smartos/raw", io.BytesIO(b"x"), offset_mib=40)


@pytest.mark.parametrize(
    "volume",
    ["zones/swap", f"zones/{UUID}", f"zones/{UUID}/disk", f"../{UUID}/disk0", f"x/{UUID}/disk0/.."],
)
def test_no_other_volume_is_written(volume: str) -> None:
    with pytest.raises(errors.InvalidPayload):
        files.Files(fake_transport.refusing()).write_volume(volume, io.BytesIO(b"x"))


@pytest.mark.parametrize(("output", "names"), [("", []), ("a\nb.json\n", ["a", "b.json"])])
def test_the_files_are_listed(output: str, names: list[str]) -> None:
    with fake_transport.expecting("ls", "-1", "/zones/nova-smartos", stdout=output) as carrier:
        assert files.Files(carrier).list() == names


def test_a_folder_that_is_not_there_is_not_empty() -> None:
    said = "/zones/nova-smartos: No such file or directory\n"
    command = ("ls", "-1", "/zones/nova-smartos")
    with fake_transport.expecting(*command, stderr=said, returncode=2) as carrier:
        with pytest.raises(errors.NotFound):
            files.Files(carrier).list()
