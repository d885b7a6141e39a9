# SPDX-License-Identifier: Apache-2.0
"""Streams: byte for byte between nodes, whole, incremental, replicated, interrupted and damaged."""

import gzip
import io
import os
import stat
import threading

import pytest

from smartos_emulator import storage
from smartos_emulator.storage import framing
from tests.unit.emulator import storage_node

MIB = 1 << 20


@pytest.fixture
def source(tmp_path):
    made = storage_node.make(tmp_path / "source")
    yield made
    made.close()


@pytest.fixture
def target(tmp_path):
    made = storage_node.make(tmp_path / "target")
    yield made
    made.close()


def sent(pool, name, **options):
    return storage_node.sent(pool, name, **options)


def receive(pool, name, raw, **options):
    return pool.receive(name, io.BytesIO(raw), **options)


def refused(call, *args, **options):
    with pytest.raises(storage.StorageError) as caught:
        call(*args, **options)
    return str(caught.value)


def furnish(pool, name="zones/a"):
    pool.create(name)
    top = pool.directory(name)
    (top / "root/etc").mkdir(parents=True)
    (top / "root/etc/motd").write_bytes(b"hello\n")
    (top / "root/etc/secret").write_bytes(b"s")
    (top / "root/etc/secret").chmod(0o600)
    (top / "root/empty").mkdir()
    os.symlink("../etc/motd", top / "root/empty/link")
    os.link(top / "root/etc/motd", top / "root/twin")
    os.mkfifo(top / "root/fifo")
    (top / "root/odd \udcff\n'\"$(x)").write_bytes(b"odd")
    with open(top / "root/sparse", "wb") as file:
        file.truncate(50 * MIB)
        file.seek(20 * MIB)
        file.write(os.urandom(300_000))
    (top / "root/locked").mkdir()
    (top / "root/locked/inside").write_bytes(b"1")
    (top / "root/locked").chmod(0o500)
    os.utime(top / "root/etc/motd", (1_000_000_000, 1_000_000_000))
    return top


def same(one, other):
    """The same names, kinds, modes, times, links and bytes."""
    mine = sorted(
        os.path.relpath(os.path.join(folder, name), one)
        for folder, folders, files in os.walk(one)
        for name in folders + files
    )
    theirs = sorted(
        os.path.relpath(os.path.join(folder, name), other)
        for folder, folders, files in os.walk(other)
        for name in folders + files
    )
    assert mine == theirs
    for name in mine:
        left, right = os.lstat(one / name), os.lstat(other / name)
        assert (left.st_mode, left.st_nlink) == (right.st_mode, right.st_nlink), name
        assert stat.S_ISFIFO(left.st_mode) or left.st_mtime_ns == right.st_mtime_ns, name
        if stat.S_ISLNK(left.st_mode):
            assert os.readlink(one / name) == os.readlink(other / name)
        if stat.S_ISREG(left.st_mode):
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
            assert right.st_blocks * 512 < 2 * MIB, name


def test_a_filesystem_arrives_as_it_was(source, target):
    top = furnish(source)
    source.snapshot("zones/a@s")
    assert receive(target, "zones/a", sent(source, "zones/a@s")) == ["zones/a@s"]
    same(top, target.directory("zones/a"))
    same(top, target.directory("zones/a@s"))
    for prop in ("guid", "creation", "referenced"):
        assert target.get("zones/a@s", prop) == source.get("zones/a@s", prop)
    assert target.number("zones/a", "written") == 0


def test_a_stream_goes_through_any_pipe(source, target):
    top = furnish(source)
    source.snapshot("zones/a@s")
    packed = gzip.compress(sent(source, "zones/a@s"))
    with gzip.open(io.BytesIO(packed)) as stream:
        target.receive("zones/a", stream)
    same(top, target.directory("zones/a"))


def test_receive_reads_no_further_than_the_stream(source, target):
    furnish(source)
    source.snapshot("zones/a@s")
    stream = io.BytesIO(sent(source, "zones/a@s") + b"what follows")
    target.receive("zones/a", stream)
    assert stream.read() == b"what follows"


def change(pool):
    top = pool.directory("zones/a")
    (top / "root/etc/motd").write_bytes(b"other")
    (top / "root/etc/secret").unlink()
    (top / "root/empty/link").unlink()
    (top / "root/empty").rmdir()
    (top / "root/empty").write_bytes(b"now a file")
    (top / "root/new").mkdir()
    (top / "root/new/file").write_bytes(os.urandom(200_000))
    (top / "root/locked").chmod(0o700)
    (top / "root/locked/inside").write_bytes(b"2")
    (top / "root/locked").chmod(0o500)
    (top / "root/odd \udcff\n'\"$(x)").chmod(0o4755)


def test_an_increment_brings_exactly_the_difference(source, target):
    top = furnish(source)
    source.snapshot("zones/a@one")
    receive(target, "zones/a", sent(source, "zones/a@one"))
    change(source)
    source.snapshot("zones/a@two")
    raw = sent(source, "zones/a@two", base="@one")
    assert len(raw) < 300_000
    receive(target, "zones/a", raw)
    same(top, target.directory("zones/a"))
    assert target.snapshots("zones/a") == ["zones/a@one", "zones/a@two"]
    assert target.number("zones/a@one", "used") > 0


def test_intermediates_bring_every_snapshot_between(source, target):
    furnish(source)
    source.snapshot("zones/a@one")
    receive(target, "zones/a", sent(source, "zones/a@one"))
    source.snapshot("zones/a@two")
    change(source)
    source.snapshot("zones/a@three")
    receive(target, "zones/a", sent(source, "zones/a@three", base="@one", intermediates=True))
    assert target.snapshots("zones/a") == [f"zones/a@{n}" for n in ("one", "two", "three")]


def test_a_volume_arrives_with_its_holes(source, target):
    source.create("zones/v", volume_bytes=64 * MIB, properties={"volblocksize": "16k"})
    with open(source.volume_file("zones/v"), "r+b") as disk:
        disk.seek(50 * MIB)
        disk.write(os.urandom(MIB))
    source.snapshot("zones/v@one")
    raw = sent(source, "zones/v@one")
    assert len(raw) < 2 * MIB
    receive(target, "zones/v", raw)
    assert target.number("zones/v", "volblocksize") == 16384
    with open(source.volume_file("zones/v"), "r+b") as disk:
        disk.seek(50 * MIB)
        disk.write(bytes(MIB))
        disk.seek(MIB)
        disk.write(b"changed")
    source.snapshot("zones/v@two")
    receive(target, "zones/v", sent(source, "zones/v@two", base="zones/v@one"))
    with (
        open(source.volume_file("zones/v"), "rb") as one,
        open(target.volume_file("zones/v"), "rb") as other,
    ):
        for _ in range(64):
            assert one.read(MIB) == other.read(MIB)
    assert target.volume_file("zones/v").stat().st_blocks * 512 < 4 * MIB


def test_replication_brings_children_properties_and_origins(source, target):
    furnish(source, "zones/img")
    source.snapshot("zones/img@final")
    source.clone("zones/img@final", "zones/a", properties={"quota": "5g", "org.test:x": "y"})
    source.create("zones/a/disk0", volume_bytes=MIB)
    (source.directory("zones/a") / "own").write_bytes(b"own")
    source.snapshot("zones/a@s", recursive=True)
    raw = sent(source, "zones/a@s", replicate=True)
    assert refused(receive, target, "zones/a", raw) == (
        "cannot receive: local origin for clone zones/a@s does not exist"
    )
    receive(target, "zones/img", sent(source, "zones/img@final"))
    assert receive(target, "zones/a", raw, unmounted=True) == ["zones/a@s", "zones/a/disk0@s"]
    assert target.origin("zones/a") == "zones/img@final"
    assert (target.get("zones/a", "quota"), target.source("zones/a", "quota")) == (
        str(5 << 30),
        "received",
    )
    assert target.get("zones/a", "mounted") == "no"
    assert target.number("zones/a", "used") == source.number("zones/a", "used")


def test_a_replicated_increment_with_force_removes_what_is_gone(source, target):
    source.create("zones/a")
    source.create("zones/a/gone")
    source.snapshot("zones/a@one", recursive=True)
    receive(target, "zones/a", sent(source, "zones/a@one", replicate=True))
    source.snapshot("zones/a@two", recursive=True)
    source.destroy("zones/a/gone", recursive=True)
    raw = sent(source, "zones/a@two", replicate=True, base="@one")
    receive(target, "zones/a", raw, force=True)
    assert target.children("zones/a") == ["zones/a@one", "zones/a@two"]


def test_properties_can_be_left_out_and_set(source, target):
    source.create("zones/a", properties={"compression": "lz4", "org.test:x": "y"})
    source.snapshot("zones/a@s")
    raw = sent(source, "zones/a@s", properties=True)
    receive(target, "zones/b", raw, exclude=["compression"], set={"quota": "1g"})
    assert target.get("zones/b", "compression") == "off"
    assert target.get("zones/b", "org.test:x") == "y"
    assert target.source("zones/b", "quota") == "local"


@pytest.mark.parametrize("tail, name", [("d", "zones/in/x/a"), ("e", "zones/in/a")])
def test_a_part_of_the_sent_name_can_be_appended(source, target, tail, name):
    source.create("zones/x/a", parents=True)
    source.snapshot("zones/x/a@s")
    target.create("zones/in")
    assert receive(target, "zones/in", sent(source, "zones/x/a@s"), tail=tail) == [f"{name}@s"]


@pytest.fixture
def pair(source, target):
    """The same first snapshot on both sides, and a second one on the sender's."""
    furnish(source)
    source.snapshot("zones/a@one")
    receive(target, "zones/a", sent(source, "zones/a@one"))
    source.snapshot("zones/a@two")
    return source, target


def test_where_a_full_stream_cannot_go(pair):
    source, target = pair
    raw = sent(source, "zones/a@one")
    full = "cannot receive new filesystem stream: "
    assert refused(receive, target, "zones/a", raw) == (
        full + "destination 'zones/a' exists\nmust specify -F to overwrite it"
    )
    assert refused(receive, target, "zones/a", raw, force=True) == (
        full + "destination has snapshots (eg. zones/a@one)\nmust destroy them to overwrite it"
    )
    assert refused(receive, target, "zones/no/a", raw) == (
        full + "destination 'zones/no' does not exist"
    )
    target.create("zones/v", volume_bytes=MIB)
    assert refused(receive, target, "zones/v/a", raw) == (
        full + "parent 'zones/v' is not a filesystem"
    )
    target.create("zones/plain")
    receive(target, "zones/plain", raw, force=True)
    same(source.directory("zones/a@one"), target.directory("zones/plain"))


def test_where_an_increment_cannot_go(pair):
    source, target = pair
    raw = sent(source, "zones/a@two", base="@one")
    start = "cannot receive incremental stream: "
    assert refused(receive, target, "zones/none", raw) == (
        start + "destination 'zones/none' does not exist"
    )
    target.create("zones/other")
    target.snapshot("zones/other@x")
    assert refused(receive, target, "zones/other", raw) == (
        start + "most recent snapshot of zones/other does not\nmatch incremental source"
    )
    (target.directory("zones/a") / "changed").write_bytes(b"x")
    assert refused(receive, target, "zones/a", raw) == (
        start + "destination zones/a has been modified\nsince most recent snapshot"
    )
    target.snapshot("zones/a@mine")
    assert "most recent snapshot" in refused(receive, target, "zones/a", raw)
    receive(target, "zones/a", raw, force=True)
    assert target.snapshots("zones/a") == ["zones/a@one", "zones/a@two"]
    assert not (target.directory("zones/a") / "changed").exists()


def test_what_cannot_be_sent(source):
    source.create("zones/a")
    source.snapshot("zones/a@one")
    source.snapshot("zones/a@two")
    assert refused(sent, source, "zones/a@no") == (
        "cannot open 'zones/a@no': dataset does not exist"
    )
    assert refused(sent, source, "zones/a@one", base="@two") == (
        "warning: cannot send 'zones/a@one': not an earlier snapshot from the same fs"
    )
    assert refused(sent, source, "zones/a@one", base="@no") == (
        "warning: cannot send 'zones/a@one': incremental source (zones/a@no) does not exist"
    )


def test_a_damaged_stream_leaves_nothing_behind(source, target):
    furnish(source)
    source.snapshot("zones/a@s")
    raw = sent(source, "zones/a@s")
    before = target.children("zones")
    why = "cannot receive new filesystem stream: checksum mismatch or incomplete stream"
    for place in range(600, len(raw), len(raw) // 7):
        broken = bytearray(raw)
        broken[place] ^= 0x40
        assert refused(receive, target, "zones/a", bytes(broken)) == why
        assert refused(receive, target, "zones/a", raw[:place]) == why
    assert refused(receive, target, "zones/a", b"") == (
        "cannot receive: failed to read from stream"
    )
    assert refused(receive, target, "zones/a", gzip.compress(os.urandom(2000))) == (
        "cannot receive: invalid stream (bad magic number)"
    )
    assert target.children("zones") == before
    assert not list((target.state / "receiving").iterdir())


def test_what_is_there_already_arrives_damaged(source, target):
    furnish(source)
    source.snapshot("zones/a@one")
    source.snapshot("zones/a@two")
    raw = sent(source, "zones/a@two", replicate=True)
    receive(target, "zones/a", raw)
    why = "cannot receive: failed to read from stream"
    for size in (600, len(raw) - 200):
        assert refused(receive, target, "zones/a", raw[:size]) == why


def test_a_hostile_stream_does_not_leave_its_dataset(source, target, tmp_path):
    source.create("zones/a")
    (source.directory("zones/a") / "AAAAAAAAAA").write_bytes(b"evil")
    source.snapshot("zones/a@s")
    out = io.BytesIO()
    writer = framing.Writer(out)
    reader = framing.Reader(io.BytesIO(sent(source, "zones/a@s")))
    writer.begin(reader.header())
    for kind, payload in reader.records():
        writer.record(kind, payload.replace(b"AAAAAAAAAA", b"../../evil"))
    writer.document(framing.END, {})
    assert refused(receive, target, "zones/a", out.getvalue()) == (
        "cannot receive: invalid stream (bad path)"
    )
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("kind", ["filesystem", "volume"])
def test_an_interrupted_receive_goes_on_where_it_stopped(source, target, kind):
    if kind == "filesystem":
        furnish(source)
        (source.directory("zones/a") / "big").write_bytes(os.urandom(MIB))
    else:
        source.create("zones/a", volume_bytes=64 * MIB)
        with open(source.volume_file("zones/a"), "r+b") as disk:
            disk.seek(7 * MIB)
            disk.write(os.urandom(MIB))
    source.snapshot("zones/a@s")
    raw = sent(source, "zones/a@s")
    for cut in range(900, len(raw) - 1, len(raw) // 6):
        text = refused(receive, target, "zones/a", raw[:cut], resumable=True)
        token = target.get("zones/a", "receive_resume_token")
        assert text.endswith(f"    zfs send -t {token}")
        assert "partially-complete state" in refused(receive, target, "zones/a", raw)
        rest = io.BytesIO()
        source.send_resume(token, rest)
        assert len(rest.getvalue()) < len(raw) - cut + 300_000
        receive(target, "zones/a", rest.getvalue(), resumable=True)
        assert target.get("zones/a", "receive_resume_token") == "-"
        if kind == "filesystem":
            (target.directory("zones/a") / "big").stat()
            assert storage_node.listing(target.directory("zones/a")) == storage_node.listing(
                source.directory("zones/a")
            )
        else:
            assert (
                target.volume_file("zones/a").read_bytes()
                == source.volume_file("zones/a").read_bytes()
            )
        target.destroy("zones/a", recursive=True)


def test_an_interrupted_increment_survives_a_restart(source, target, tmp_path):
    top = furnish(source)
    source.snapshot("zones/a@one")
    receive(target, "zones/a", sent(source, "zones/a@one"))
    change(source)
    source.snapshot("zones/a@two")
    raw = sent(source, "zones/a@two", base="@one")
    refused(receive, target, "zones/a", raw[: len(raw) // 2], resumable=True)
    assert (target.directory("zones/a") / "root/etc/motd").read_bytes() == b"hello\n"
    target.close()
    again = storage_node.make(tmp_path / "target")
    rest = io.BytesIO()
    source.send_resume(again.get("zones/a", "receive_resume_token"), rest)
    receive(again, "zones/a", rest.getvalue(), resumable=True)
    same(top, again.directory("zones/a"))
    again.close()


def test_an_interrupted_receive_can_be_given_up(source, target):
    furnish(source)
    source.snapshot("zones/a@s")
    refused(receive, target, "zones/a", sent(source, "zones/a@s")[:900], resumable=True)
    target.abort_receive("zones/a")
    assert not target.exists("zones/a")


@pytest.mark.parametrize(
    "token, why",
    [
        ("nonsense", "resume token is corrupt (invalid format)"),
        ("2-1-1-00", "resume token is corrupt (invalid version 2)"),
        ("1-1-1-00", "resume token is corrupt (incorrect checksum)"),
    ],
)
def test_a_bad_token_is_refused(source, token, why):
    assert refused(source.send_resume, token, io.BytesIO()) == f"cannot resume send: {why}"


def test_a_token_of_a_snapshot_that_went_away(source, target):
    furnish(source)
    source.snapshot("zones/a@s")
    refused(receive, target, "zones/a", sent(source, "zones/a@s")[:900], resumable=True)
    token = target.get("zones/a", "receive_resume_token")
    source.destroy("zones/a@s")
    assert refused(source.send_resume, token, io.BytesIO()) == (
        "cannot resume send: 'zones/a@s' used in the initial send no longer exists"
    )
    source.snapshot("zones/a@s")
    assert refused(source.send_resume, token, io.BytesIO()) == (
        "cannot resume send: 'zones/a@s' is no longer the same snapshot used in the initial send"
    )


def test_no_room_for_a_stream(source, target):
    source.create("zones/a")
    (source.directory("zones/a") / "f").write_bytes(os.urandom(6 * MIB))
    source.snapshot("zones/a@s")
    raw = sent(source, "zones/a@s")
    target.create("zones/small", properties={"quota": "5m"})
    assert refused(receive, target, "zones/small/a", raw) == (
        "cannot receive new filesystem stream: destination zones/small/a space quota exceeded."
    )
    assert not target.exists("zones/small/a")
    target.fill("zones", True)
    assert refused(receive, target, "zones/a", raw) == (
        "cannot receive new filesystem stream: out of space"
    )


def test_booked_space_travels_as_a_number(source, target):
    source.create("zones/a")
    source.write("zones/a", 3 << 30)
    source.snapshot("zones/a@s")
    raw = sent(source, "zones/a@s")
    assert len(raw) < 2000
    receive(target, "zones/a", raw)
    assert target.number("zones/a", "referenced") == source.number("zones/a", "referenced")


class Slow(io.RawIOBase):
    """A reader that waits in the middle until it is let go."""

    def __init__(self, raw):
        self.raw, self.waiting, self.go = io.BytesIO(raw), threading.Event(), threading.Event()

    def read(self, size=-1):
        if self.raw.tell() > 600:
            self.waiting.set()
            self.go.wait(10)
        return self.raw.read(size)


def test_a_long_stream_does_not_hold_up_the_others(source, target):
    furnish(source)
    source.snapshot("zones/a@s")
    slow = Slow(sent(source, "zones/a@s"))
    done = []
    work = threading.Thread(target=lambda: done.append(target.receive("zones/a", slow)))
    work.start()
    assert slow.waiting.wait(10)
    target.create("zones/meanwhile")
    assert "is busy" in refused(target.destroy, "zones/a")
    assert "busy" in refused(receive, target, "zones/a", slow.raw.getvalue())
    slow.go.set()
    work.join(10)
    assert done == [["zones/a@s"]]


class Blocked(io.RawIOBase):
    """A writer that waits until it is let go."""

    def __init__(self):
        self.waiting, self.go = threading.Event(), threading.Event()

    def write(self, data):
        self.waiting.set()
        self.go.wait(10)
        return len(data)


def test_a_snapshot_being_sent_cannot_be_destroyed(source):
    furnish(source)
    source.snapshot("zones/a@s")
    out = Blocked()
    work = threading.Thread(target=lambda: source.send("zones/a@s", out))
    work.start()
    assert out.waiting.wait(10)
    assert refused(source.destroy, "zones/a@s") == (
        "cannot destroy snapshot zones/a@s: dataset is busy"
    )
    out.go.set()
    work.join(10)
    source.destroy("zones/a@s")


@pytest.mark.parametrize(
    "changed",
    [
        {"p": "../evil", "k": "f"},
        {"p": "/evil", "k": "f"},
        {"p": "link/evil", "k": "f"},
        {"p": "link", "k": "f", "o": 5},
        {"p": "evil", "k": "h", "l": "nothing"},
        {"k": "f"},
        {"p": 7, "k": "f"},
        {"p": "a\0b", "k": "f"},
    ],
)
def test_hostile_records_end_in_an_error(target, tmp_path, changed):
    outside = tmp_path / "outside"
    outside.mkdir()
    out = io.BytesIO()
    writer = framing.Writer(out)
    writer.begin(
        {
            "to": "zones/a@s",
            "guid": 5,
            "from": 0,
            "kind": "filesystem",
            "creation": 1,
            "clone": False,
            "resume": None,
            "props": {"mountpoint": "/../../outside/x"},
            "snapshot_props": {},
        }
    )
    status = {"m": 0o644, "u": 0, "g": 0, "t": 0, "i": 0, "o": 0}
    writer.document(framing.NODE, {**status, "p": "link", "k": "l", "l": str(outside)})
    writer.document(framing.NODE, {**status, "i": 1, "s": 3, **changed})
    writer.data(0, b"bad")
    writer.document(framing.END, {})
    assert refused(receive, target, "zones/a", out.getvalue()).startswith("cannot receive")
    assert not list(outside.iterdir())
    assert not target.exists("zones/a")


def test_a_mountpoint_from_a_stream_stays_inside_the_node(source, target, tmp_path):
    source.create("zones/a", properties={"mountpoint": "/../../../evil", "quota": "1g"})
    source.snapshot("zones/a@s")
    receive(target, "zones/a", sent(source, "zones/a@s", properties=True))
    assert target.directory("zones/a") == tmp_path / "target/root/evil"


@pytest.mark.parametrize("header", [{}, {"to": "zones/a@s"}, {"package": True}])
def test_a_header_without_sense_is_refused(target, header):
    out = io.BytesIO()
    framing.Writer(out).begin(header)
    assert refused(receive, target, "zones/a", out.getvalue()) == (
        "cannot receive: invalid stream (malformed nvlist)"
    )
