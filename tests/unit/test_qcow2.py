# SPDX-License-Identifier: Apache-2.0
"""The disk in a qcow2 file: what qemu-img reads there, and a reason for all that is not read."""

import io
import pathlib
import random
import shutil
import struct
import subprocess
from collections.abc import Callable

import pytest

from nova_smartos.operations import disk, qcow2
from tests import openstack, qcow2_files

pytestmark = openstack.QUIET

KIB, MIB = 1 << 10, 1 << 20


def data_of(size: int, seed: int = 1) -> bytes:
    """A disk with data, holes, and parts that compress."""
    chance = random.Random(seed)
    made = bytearray(size)
    for start in range(0, size, 24 * KIB):
        kind = chance.randrange(4)
        length = min(chance.randrange(1, 40 * KIB), size - start)
        if kind == 0:
            made[start : start + length] = chance.randbytes(length)
        elif kind == 1:
            made[start : start + length] = b"text" * (length // 4) + b"x" * (length % 4)
    return bytes(made)


def read(file: bytes) -> bytes:
    """The disk, as far as something is allocated, up to its size."""
    inspected = qcow2.Inspected(io.BytesIO(file))
    while inspected.read(100_000):
        pass
    inspected.verdict()
    source = io.BytesIO(file)
    header = qcow2.header(source)
    found = bytearray(header.size_bytes)
    last = 0
    for offset, data in qcow2.pieces(source, header):
        assert offset >= last and data
        found[offset : offset + len(data)] = data
        last = offset + len(data)
    assert len(found) == header.size_bytes
    return bytes(found)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("bits", [9, 12, 16, 21])
def test_a_disk_is_read(*, bits: int, compressed: bool, version: int) -> None:
    data = data_of(3 * MIB + 5 * 512, seed=bits)
    file = qcow2_files.made(data, cluster_bits=bits, compressed=compressed, version=version)
    assert read(file) == data


def test_what_is_not_allocated_is_neither_read_nor_held() -> None:
    """A disk of 64 TiB with little in it."""
    file = qcow2_files.made(b"begin" * 1000, size_bytes=64 << 40)
    source = io.BytesIO(file)
    header = qcow2.header(source)
    assert header.size_bytes == 64 << 40
    pieces = list(qcow2.pieces(source, header))
    assert [offset for offset, _ in pieces] == [0]
    assert pieces[0][1].rstrip(b"\0") == b"begin" * 1000


@pytest.mark.parametrize("options", [[], ["-c"], ["-o", "cluster_size=4k"], ["-o", "compat=0.10"]])
def test_it_is_what_qemu_img_reads(tmp_path: pathlib.Path, options: list[str]) -> None:
    program = shutil.which("qemu-img")
    if program is None:
        pytest.skip("there is no qemu-img here")
    plain, made = tmp_path / "plain", tmp_path / "made"
    data = data_of(5 * MIB + 512)
    plain.write_bytes(data)
    convert = [program, "convert", "-f", "raw", "-O", "qcow2", *options, str(plain), str(made)]
    subprocess.run(convert, check=True)
    assert read(made.read_bytes()) == data


def test_what_is_made_here_is_what_qemu_img_reads(tmp_path: pathlib.Path) -> None:
    program = shutil.which("qemu-img")
    if program is None:
        pytest.skip("there is no qemu-img here")
    plain, made = tmp_path / "plain", tmp_path / "made"
    data = data_of(2 * MIB)
    for compressed in (False, True):
        made.write_bytes(qcow2_files.made(data, compressed=compressed))
        convert = [program, "convert", "-f", "qcow2", "-O", "raw", str(made), str(plain)]
        subprocess.run(convert, check=True)
        assert plain.read_bytes() == data


def changed(offset: int, form: str, *values: int) -> Callable[[bytes], bytes]:
    def change(file: bytes) -> bytes:
        packed = struct.pack(form, *values)
        return file[:offset] + packed + file[offset + len(packed) :]

    return change


DISK = data_of(256 * KIB) + b"end" * 1024


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (qcow2_files.made(DISK, backing=b"/etc/shadow"), "backing_file"),
        (qcow2_files.made(DISK, features=4), "data_file"),
        (qcow2_files.made(DISK, features=1 << 40), "unknown_features"),
        (qcow2_files.made(DISK, features=2), "corrupt"),
        (qcow2_files.made(DISK, features=8), "not supported"),
        (qcow2_files.made(DISK, encryption=1), "encrypted"),
        (qcow2_files.made(DISK, version=4), "unknown_features|version"),
        (qcow2_files.made(b"", size_bytes=0).ljust(70000, b"\0"), "no bytes"),
        (changed(20, ">I", 8)(qcow2_files.made(DISK)), "2\\^8"),
        (changed(20, ">I", 63)(qcow2_files.made(DISK)), "2\\^63"),
        (changed(24, ">Q", 1 << 60)(qcow2_files.made(DISK)), "smaller than its disk"),
        (changed(36, ">I", 0)(qcow2_files.made(DISK)), "smaller than its disk"),
        (changed(40, ">Q", 1 << 50)(qcow2_files.made(DISK)), "tables is not in the file"),
        (changed(40, ">Q", 65537)(qcow2_files.made(DISK)), "tables is not in the file"),
        (changed(65536, ">Q", 1 << 50)(qcow2_files.made(DISK)), "tables is not in the file"),
        (changed(131072, ">Q", 1 << 50)(qcow2_files.made(DISK)), "clusters is not in the file"),
        (
            changed(131072, ">Q", 1 << 62 | 1 << 50)(qcow2_files.made(DISK)),
            "clusters is not in the file",
        ),
        (changed(131072, ">Q", 1 << 62 | 131072)(qcow2_files.made(DISK)), "decompressed|whole"),
        (qcow2_files.made(DISK)[:100000], "tables is not in the file"),
        (b"QFI\xfb", "no qcow2"),
        (b"\0" * 70000, "no qcow2"),
        (DISK, "no qcow2"),
        (b"KDMV" + bytes(70000), "no qcow2"),
    ],
    ids=lambda value: "file" if isinstance(value, bytes) else None,
)
def test_what_is_wrong_is_refused_with_its_reason(file: bytes, says: str) -> None:
    with pytest.raises(qcow2.Wrong, match=says):
        read(file)


def test_no_damage_does_more_than_that() -> None:
    """Whatever a byte of the tables or the header becomes: a disk of that size, or a reason."""
    chance = random.Random(7)
    whole = qcow2_files.made(data_of(96 * KIB), cluster_bits=9, compressed=True)
    for _ in range(500):
        where = chance.choice((chance.randrange(104), chance.randrange(512, 8192)))
        file = whole[:where] + bytes([chance.randrange(256)]) + whole[where + 1 :]
        source = io.BytesIO(file)
        try:
            header = qcow2.header(source)
            if header.size_bytes > MIB:
                continue
            for offset, data in qcow2.pieces(source, header):
                assert offset + len(data) <= max(header.size_bytes, offset + header.cluster)
        except qcow2.Wrong as error:
            assert str(error)


class Node:
    """What disk.write() asks of a node: the commands, and what they leave in a volume."""

    def __init__(self, size: int) -> None:
        self.files = self
        self.volume = bytearray(size)
        self.runs: list[tuple[int, int]] = []

    def write_volume(self, dataset: str, source: io.BytesIO, *, offset_mib: int) -> None:
        sent = bytearray()
        while piece := source.read(70_000):
            assert len(piece) <= 70_000
            sent += piece
        self.runs.append((offset_mib, len(sent)))
        self.volume[offset_mib * MIB : offset_mib * MIB + len(sent)] = sent


@pytest.mark.parametrize(
    ("where", "runs"),
    [
        ([], []),
        ([0], [(0, MIB)]),
        ([5], [(5, MIB)]),
        ([0, 1, 2], [(0, 3 * MIB)]),
        ([0, 20], [(0, 21 * MIB)]),
        ([0, 33], [(0, 34 * MIB)]),
        ([0, 34], [(0, MIB), (34, MIB)]),
        ([3, 37, 38], [(3, MIB), (37, 2 * MIB)]),
    ],
)
def test_large_holes_are_not_sent(where: list[int], runs: list[tuple[int, int]]) -> None:
    node = Node(40 * MIB)
    wanted = bytearray(40 * MIB)
    for index in where:
        wanted[index * MIB + 77 : index * MIB + 80] = b"abc"
    disk.write(node, "x", disk.raw(io.BytesIO(wanted)))  # type: ignore[arg-type]
    assert node.runs == runs
    assert node.volume == wanted
