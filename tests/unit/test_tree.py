# SPDX-License-Identifier: Apache-2.0
"""A tar archive written anew: all that a tree of files has, and nothing that leads out of it."""

import bz2
import gzip
import io
import lzma
import os
import pathlib
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable

import pytest

from nova_smartos.operations import tree

MOST = 1 << 30


def member(name: str, type_: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = type_
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def folder(name: str, **fields: object) -> tarfile.TarInfo:
    return member(name, tarfile.DIRTYPE, **{"mode": 0o755, **fields})


def link(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.SYMTYPE, linkname=target)


def hard(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.LNKTYPE, linkname=target)


def archive(members: Iterable[tarfile.TarInfo], form: int = tarfile.GNU_FORMAT) -> bytes:
    """An archive; what has a size has that many bytes of its name's first letter."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as made:
        for each in members:
            data = each.name[:1].encode() * each.size if each.size else b""
            made.addfile(each, io.BytesIO(data))
    return target.getvalue()


def cleaned(data: bytes, most_bytes: int = MOST) -> bytes:
    """What gtar would read; the source ends in its own time."""
    source = io.BytesIO(data)
    found = tree.clean(source, most_bytes=most_bytes)
    whole = b"".join(iter(lambda: found.read(3000), b""))
    assert source.read() == b"", "the end was not seen, so nothing was verified"
    return whole


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        return found.getnames()


TREE = [
    folder("./"),
    folder("./etc", mode=0o755),
    member("./etc/passwd", size=1000, mode=0o644, uid=0, gid=3, mtime=12345),
    member("./bin/su", size=10, mode=0o4755),
    link("./sbin", "usr/sbin"),
    link("./etc/mtab", "/proc/self/mounts"),
    hard("./bin/sudo", "./bin/su"),
    folder("./var/" + "long/" * 40, uid=1 << 30, mode=0o2770),
    member("./var/" + "long/" * 40 + "n" * 200, size=5),
    member("./run/initctl", tarfile.FIFOTYPE),
    member("./etc/ä\udcff", size=3),
]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_all_that_a_tree_has_is_there(form: int, pack: Callable[[bytes], bytes]) -> None:
    given = archive(TREE, form)
    whole = cleaned(pack(given))
    with (
        tarfile.open(fileobj=io.BytesIO(given)) as before,
        tarfile.open(fileobj=io.BytesIO(whole)) as after,
    ):
        told = [each for each in before if each.name != "."]
        kept = [each for each in after if each.name != "root"]
        for each, made in zip(told, kept, strict=True):
            assert made.name == f"root/{each.name.removeprefix('./')}"
            assert (made.type, made.mode, made.size) == (each.type, each.mode, each.size)
            assert (made.uid, made.gid, made.mtime) == (each.uid, each.gid, int(each.mtime))
            assert (made.uname, made.gname) == ("", "")
            if each.isreg():
                first, second = before.extractfile(each), after.extractfile(made)
                assert first is not None and second is not None
                assert first.read() == second.read()
        links = {made.name: made.linkname for made in kept if made.linkname}
    assert links == {
        "root/sbin": "usr/sbin",
        "root/etc/mtab": "/proc/self/mounts",
        "root/bin/sudo": "root/bin/su",
    }


def test_gtar_unpacks_it(tmp_path: pathlib.Path) -> None:
    """Not the node's own, but the same program."""
    found = shutil.which("tar")
    if not found or b"GNU tar" not in subprocess.check_output([found, "--version"]):
        pytest.skip("there is no GNU tar here")
    owner = {"uid": os.getuid(), "gid": os.getgid()}
    given = [
        folder("etc", **owner, mode=0o750),
        member("etc/passwd", size=1000, **owner, mode=0o4640),
        member("deep/" * 60 + "x" * 200, size=5, **owner),
        member("etc/ä\udcff", size=3, **owner),
        link("etc/mtab", "/proc/self/mounts"),
        hard("bin", "etc/passwd"),
    ]
    given[4].uid, given[4].gid = os.getuid(), os.getgid()
    command = [found, "-x", "-p", "--numeric-owner", "-f", "-", "-C", str(tmp_path)]
    subprocess.run(command, input=cleaned(archive(given)), check=True, timeout=60)
    root = tmp_path / "root"
    assert (root / "etc").stat().st_mode & 0o7777 == 0o750
    assert (root / "etc/passwd").read_bytes() == b"e" * 1000
    assert (root / "etc/passwd").stat().st_mode & 0o7777 == 0o4640
    assert (root / "bin").samefile(root / "etc/passwd")
    assert (root / "etc/mtab").readlink() == pathlib.Path("/proc/self/mounts")
    assert (root / ("deep/" * 60) / ("x" * 200)).read_bytes() == b"ddddd"
    assert (root / "etc/ä\udcff").read_bytes() == b"eee"


def test_several_streams_are_one_archive() -> None:
    data = archive(TREE)
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        assert names(cleaned(pack(data[:5000]) + pack(data[5000:]))) == names(cleaned(data))
    assert cleaned(lzma.compress(data) + bytes(8)) == cleaned(data)


ETC = folder("etc")


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([ETC, member("../x")], "leads out"),
        ([ETC, member("etc/../../x")], "leads out"),
        ([ETC, member("/etc/passwd")], "leads out"),
        ([ETC, folder("..")], "leads out"),
        ([ETC, hard("x", "../../etc/shadow")], "leads out"),
        ([ETC, hard("x", "/etc/shadow")], "leads out"),
        ([ETC, link("out", "/"), member("out/etc/passwd")], "goes through the link 'out'"),
        ([ETC, link("a", "b"), folder("a/b")], "goes through the link 'a'"),
        ([ETC, link("a/b", ".."), hard("x", "a/b/etc/shadow")], "goes through the link 'a/b'"),
        ([ETC, link("a", "/etc/shadow"), hard("x", "a")], "goes through the link 'a'"),
        ([ETC, link("a", "/etc"), folder("a")], "goes through the link 'a'"),
        ([ETC, link("a", "/etc"), folder("./a//")], "goes through the link 'a'"),
        ([ETC, link("a", "/etc/passwd"), member("a", size=3)], "goes through the link 'a'"),
        ([ETC, link("a", "")], "points nowhere"),
        ([ETC, member("dev/null", tarfile.CHRTYPE, devmajor=1)], "is a device"),
        ([ETC, member("dev/sda", tarfile.BLKTYPE)], "is a device"),
        ([ETC, member("x", b"S")], "not supported"),
        ([ETC, member("x", b"M")], "not supported"),
        ([ETC, member("x", b"V")], "not supported"),
        ([ETC, member("x", pax_headers={"GNU.sparse.major": "1"})], "sparse"),
        ([ETC, member("x" * 256)], "too long"),
        ([ETC, member("x/" * 500)], "too long"),
        ([ETC, link("x", "y" * 1000)], "too long"),
        ([ETC, member("x" * (2 << 20))], "a header has"),
        ([ETC, member(".", linkname="")], "top is no folder"),
        ([ETC, member("x", size=2000)], "more than 1000 bytes"),
        ([folder("rootfs"), folder("rootfs/etc")], "no etc at its top"),
        ([], "no etc at its top"),
    ],
)
def test_what_must_not_be_unpacked(members: list[tarfile.TarInfo], says: str) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        if form == tarfile.GNU_FORMAT and any(each.pax_headers for each in members):
            continue
        with pytest.raises(tree.Wrong, match=says):
            cleaned(archive(members, form), most_bytes=1000)


def test_data_where_none_belongs() -> None:
    wrong = hard("x", "etc/passwd")
    wrong.size = 512
    data = archive([ETC]).rstrip(b"\0").ljust(512, b"\0")
    with pytest.raises(tree.Wrong, match="is no file"):
        cleaned(data + wrong.tobuf(tarfile.USTAR_FORMAT) + bytes(2048))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "cut off"),
        (b"no archive", "cut off"),
        (b"no archive" * 1000, "no tar archive"),
        (gzip.compress(b"no archive" * 1000, mtime=0), "no tar archive"),
        (gzip.compress(archive(TREE), mtime=0)[:-20], "cannot be decompressed|cut off"),
        (gzip.compress(archive(TREE), mtime=0)[:-4] + b"1234", "cannot be decompressed"),
        (bz2.compress(archive(TREE))[:-20], "cannot be decompressed|cut off"),
        (bz2.compress(archive(TREE))[:50] + bytes(99), "cannot be decompressed|cut off"),
        (lzma.compress(archive(TREE))[:-20], "cannot be decompressed|cut off"),
        (lzma.compress(archive(TREE)) + b"more", "cannot be decompressed|cut off"),
        (archive(TREE)[:1024], "cut off"),
        (archive(TREE)[:3000], "cut off"),
    ],
    ids=lambda value: "data" if isinstance(value, bytes) else None,
)
def test_an_archive_that_is_damaged(data: bytes, says: str) -> None:
    with pytest.raises(tree.Wrong, match=says):
        cleaned(data)


def test_xz_gets_no_more_memory_than_its_own_best_level_needs() -> None:
    best = lzma.compress(archive([ETC]), preset=9)
    assert names(cleaned(best)) == ["root", "root/etc"]
    greedy = lzma.LZMACompressor(filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 160 << 20}])
    with pytest.raises(tree.Wrong, match="cannot be decompressed"):
        cleaned(greedy.compress(archive([ETC])) + greedy.flush())


def test_no_damage_does_more_than_that() -> None:
    """Whatever a byte of a header becomes: names below the root, or a reason."""
    chance = random.Random(5)
    whole = archive(TREE, tarfile.PAX_FORMAT)
    for _ in range(400):
        where = chance.randrange(len(whole))
        data = bytearray(whole)
        data[where] = chance.randrange(256)
        start = where - where % 512
        if data[start + 257 : start + 262] == b"ustar":
            # right again, as whoever means harm would make it
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
        try:
            found = names(cleaned(bytes(data)))
        except tree.Wrong as error:
            assert str(error)
        else:
            for name in found:
                assert name.split("/")[0] == "root" and ".." not in name.split("/")
