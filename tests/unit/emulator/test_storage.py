# SPDX-License-Identifier: Apache-2.0
"""Datasets, snapshots and clones: what exists, what is in them, and what is refused."""

import os
import pathlib
import threading

import pytest

from smartos_emulator import storage
from tests.unit.emulator import storage_node

GIB = storage_node.GIB


@pytest.fixture
def pool(tmp_path):
    made = storage_node.make(tmp_path)
    yield made
    made.close()


def write(pool, name, path, data):
    place = pool.directory(name) / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place


def refused(call, *args, **options):
    with pytest.raises(storage.StorageError) as caught:
        call(*args, **options)
    return str(caught.value)


def test_a_fresh_pool_holds_what_the_installer_makes(pool):
    assert pool.children("zones") == [
        "zones/archive",
        "zones/config",
        "zones/cores",
        "zones/dump",
        "zones/opt",
        "zones/swap",
        "zones/usbkey",
        "zones/var",
    ]
    assert pool.get("zones/config", "mountpoint") == "legacy"
    assert pool.directory("zones/config") == pool.root / "etc/zones"
    assert pool.number("zones/swap", "volsize") == GIB
    assert pool.source("zones/opt", "atime") == "inherited from zones"


def test_a_filesystem_shows_at_its_mountpoint_and_goes_with_it(pool):
    pool.create("zones/a")
    assert pool.directory("zones/a") == pool.root / "zones/a"
    pool.destroy("zones/a")
    assert not (pool.root / "zones/a").exists()
    assert not pool.exists("zones/a")


def test_content_survives_snapshot_clone_and_rollback(pool):
    pool.create("zones/a")
    place = write(pool, "zones/a", "root/etc/motd", b"one")
    place.chmod(0o640)
    os.symlink("motd", place.with_name("link"))
    os.link(place, place.with_name("twin"))
    pool.snapshot("zones/a@s")
    before = storage_node.listing(pool.directory("zones/a"))
    place.write_bytes(b"two")
    write(pool, "zones/a", "root/new", b"x")
    pool.clone("zones/a@s", "zones/b")
    assert storage_node.listing(pool.directory("zones/b")) == before
    assert os.readlink(pool.directory("zones/b") / "root/etc/link") == "motd"
    assert (pool.directory("zones/b") / "root/etc/motd").stat().st_nlink == 2
    pool.rollback("zones/a@s")
    assert storage_node.listing(pool.directory("zones/a")) == before


def test_a_snapshot_and_a_clone_do_not_follow_their_source(pool):
    pool.create("zones/a")
    place = write(pool, "zones/a", "f", b"old")
    pool.snapshot("zones/a@s")
    pool.clone("zones/a@s", "zones/b")
    with open(place, "r+b") as file:
        file.write(b"NEW")
    assert (pool.directory("zones/a@s") / "f").read_bytes() == b"old"
    assert (pool.directory("zones/b") / "f").read_bytes() == b"old"


def test_a_volume_keeps_its_holes_and_its_data(pool):
    pool.create("zones/v", volume_bytes=GIB)
    with open(pool.volume_file("zones/v"), "r+b") as disk:
        disk.seek(300 << 20)
        disk.write(b"data")
    pool.snapshot("zones/v@s")
    pool.clone("zones/v@s", "zones/w", properties={"volsize": "2g"})
    copy = pool.volume_file("zones/w")
    assert copy.stat().st_size == 2 * GIB
    assert copy.stat().st_blocks * 512 < 1 << 20
    with open(copy, "rb") as disk:
        disk.seek(300 << 20)
        assert disk.read(4) == b"data"
    assert copy == pool.root / "dev/zvol/rdsk/zones/w"
    assert (pool.root / "dev/zvol/dsk/zones/w").exists()


def test_a_child_stays_where_it_is_when_its_parent_is_rolled_back(pool):
    pool.create("zones/a")
    pool.create("zones/a/data")
    write(pool, "zones/a", "f", b"1")
    write(pool, "zones/a/data", "inner", b"kept")
    pool.snapshot("zones/a@s")
    write(pool, "zones/a", "f", b"2")
    pool.rollback("zones/a@s")
    assert (pool.root / "zones/a/f").read_bytes() == b"1"
    assert (pool.root / "zones/a/data/inner").read_bytes() == b"kept"
    assert not (pool.directory("zones/a@s") / "data/inner").exists()


def test_rename_moves_files_devices_and_everything_below(pool):
    pool.create("zones/a")
    pool.create("zones/a/data")
    pool.create("zones/a/disk0", volume_bytes=1 << 20)
    write(pool, "zones/a/data", "f", b"1")
    pool.snapshot("zones/a@s", recursive=True)
    pool.rename("zones/a", "zones/b")
    assert pool.children("zones/b") == [
        "zones/b@s",
        "zones/b/data",
        "zones/b/data@s",
        "zones/b/disk0",
        "zones/b/disk0@s",
    ]
    assert (pool.root / "zones/b/data/f").read_bytes() == b"1"
    assert not (pool.root / "zones/a").exists()
    assert pool.volume_file("zones/b/disk0").exists()
    pool.rename("zones/b@s", "zones/b@t", recursive=True)
    assert pool.snapshots("zones/b/data") == ["zones/b/data@t"]


def test_promote_turns_the_dependency_round(pool):
    pool.create("zones/a")
    write(pool, "zones/a", "f", b"1" * 9000)
    pool.snapshot("zones/a@s")
    pool.clone("zones/a@s", "zones/b")
    total = pool.number("zones", "used")
    pool.promote("zones/b")
    assert pool.origin("zones/a") == "zones/b@s"
    assert pool.origin("zones/b") is None
    assert pool.clones("zones/b@s") == ["zones/a"]
    assert pool.number("zones", "used") == total
    pool.destroy("zones/a")
    assert (pool.directory("zones/b") / "f").read_bytes() == b"1" * 9000


def test_a_mountpoint_moves_the_files_of_all_below(pool):
    pool.create("zones/a")
    pool.create("zones/a/b")
    write(pool, "zones/a/b", "f", b"1")
    pool.set("zones/a", "mountpoint", "/elsewhere")
    assert (pool.root / "elsewhere/b/f").read_bytes() == b"1"
    assert not (pool.root / "zones/a").exists()
    pool.set("zones/a", "mountpoint", "none")
    assert pool.get("zones/a/b", "mounted") == "no"
    pool.inherit("zones/a", "mountpoint")
    assert (pool.root / "zones/a/b/f").read_bytes() == b"1"


def test_a_zoned_filesystem_is_not_mounted_in_the_global_zone(pool):
    pool.create("zones/a", properties={"zoned": "on"})
    assert pool.get("zones/a", "mounted") == "no"
    write(pool, "zones/a", "f", b"1")
    pool.set("zones/a", "zoned", "off")
    assert (pool.root / "zones/a/f").read_bytes() == b"1"


REFUSALS = [
    ("create", ("zones/a",), "cannot create 'zones/a': dataset already exists"),
    ("create", ("zones/x/y",), "cannot create 'zones/x/y': parent does not exist"),
    ("create", ("tank/x",), "cannot create 'tank/x': no such pool 'tank'"),
    ("create", ("zones",), "cannot create 'zones': missing dataset name"),
    ("create", ("zones/disk/x",), "cannot create 'zones/disk/x': parent is not a filesystem"),
    ("create", ("zones/a$b",), "cannot create 'zones/a$b': invalid character '$' in name"),
    (
        "create",
        ("zones//b",),
        "cannot create 'zones//b': empty component or misplaced '@' or '#' delimiter in name",
    ),
    ("create", ("zones/b/",), "cannot create 'zones/b/': trailing slash in name"),
    ("create", ("zones/" + "n" * 260,), f"cannot create 'zones/{'n' * 260}': name is too long"),
    ("destroy", ("zones/nope",), "cannot open 'zones/nope': dataset does not exist"),
    (
        "destroy",
        ("zones/a",),
        "cannot destroy 'zones/a': filesystem has children\n"
        "use '-r' to destroy the following datasets:\nzones/a/in\nzones/a@one\nzones/a@two",
    ),
    (
        "destroy",
        ("zones/a@one",),
        "cannot destroy 'zones/a@one': snapshot has dependent clones\n"
        "use '-R' to destroy the following datasets:\nzones/clone",
    ),
    (
        "destroy",
        ("zones/a@nope",),
        "could not find any snapshots to destroy; check snapshot names.",
    ),
    ("snapshot", ("zones/a@one",), "cannot create snapshot 'zones/a@one': dataset already exists"),
    ("snapshot", ("zones/nope@one",), "cannot open 'zones/nope': dataset does not exist"),
    ("clone", ("zones/a@nope", "zones/b"), "cannot open 'zones/a@nope': dataset does not exist"),
    (
        "rollback",
        ("zones/a@one",),
        "cannot rollback to 'zones/a@one': more recent snapshots or "
        "bookmarks exist\nuse '-r' to force deletion of the following snapshots and bookmarks:\n"
        "zones/a@two",
    ),
    ("promote", ("zones/a",), "cannot promote 'zones/a': not a cloned filesystem"),
    ("rename", ("zones/a", "zones/clone"), "cannot rename 'zones/a': dataset already exists"),
    (
        "rename",
        ("zones/a", "zones/a/b"),
        "cannot rename to 'zones/a/b': New dataset name cannot "
        "be a descendant of current dataset name",
    ),
    ("set", ("zones/a", "used", "1"), "cannot set property for 'zones/a': 'used' is readonly"),
    (
        "set",
        ("zones/a", "volsize", "1g"),
        "cannot set property for 'zones/a': 'volsize' does not apply to datasets of this type",
    ),
    ("set", ("zones/a", "nope", "1"), "cannot set property for 'zones/a': invalid property 'nope'"),
    (
        "set",
        ("zones/a", "quota", "0"),
        "cannot set property for 'zones/a': use 'none' to disable quota/refquota",
    ),
    (
        "set",
        ("zones/a", "recordsize", "3000"),
        "cannot set property for 'zones/a': 'recordsize' must be power of 2 from 512B to 1M",
    ),
    (
        "set",
        ("zones/a@one", "quota", "1g"),
        "cannot set property for 'zones/a@one': this property can not be modified for snapshots",
    ),
    (
        "set",
        ("zones/a", "mountpoint", "x"),
        "cannot set property for 'zones/a': 'mountpoint' must"
        " be an absolute path, 'none', or 'legacy'",
    ),
    ("abort_receive", ("zones/a",), "'zones/a' does not have any resumable receive state to abort"),
]


@pytest.fixture
def furnished(pool):
    pool.create("zones/a")
    pool.create("zones/a/in")
    pool.create("zones/disk", volume_bytes=1 << 20)
    pool.snapshot("zones/a@one")
    pool.snapshot("zones/a@two")
    pool.clone("zones/a@one", "zones/clone")
    return pool


@pytest.mark.parametrize("method, args, text", REFUSALS)
def test_refusals_have_the_words_of_zfs(furnished, method, args, text):
    before = furnished.children("zones")
    assert refused(getattr(furnished, method), *args) == text
    assert furnished.children("zones") == before


def test_destroy_takes_what_it_is_told_to(furnished):
    assert "has dependent clones" in refused(furnished.destroy, "zones/a", recursive=True)
    furnished.destroy("zones/a", dependents=True)
    assert not furnished.exists("zones/clone")
    assert not furnished.exists("zones/a/in")


def test_a_hold_keeps_a_snapshot(pool):
    pool.create("zones/a")
    pool.snapshot("zones/a@s")
    pool.hold("keep", ["zones/a@s"])
    assert refused(pool.destroy, "zones/a@s") == (
        "cannot destroy snapshot zones/a@s: dataset is busy"
    )
    assert pool.get("zones/a@s", "userrefs") == "1"
    pool.destroy("zones/a@s", defer=True)
    assert pool.get("zones/a@s", "defer_destroy") == "on"
    pool.release("keep", ["zones/a@s"])
    assert not pool.exists("zones/a@s")


def test_everything_is_there_after_a_restart(pool, tmp_path):
    pool.create("zones/a", properties={"org.smartos:image": "yes", "quota": "1g"})
    write(pool, "zones/a", "f", b"1" * 5000)
    pool.snapshot("zones/a@s")
    pool.hold("keep", ["zones/a@s"])
    pool.clone("zones/a@s", "zones/b")
    pool.create("zones/v", volume_bytes=1 << 20)
    seen = {
        (name, prop): pool.get(name, prop)
        for name in pool.children("zones")
        for prop in ("used", "referenced", "guid", "createtxg", "mounted", "quota")
    }
    pool.close()
    again = storage_node.make(tmp_path)
    assert {key: again.get(*key) for key in seen} == seen
    assert again.origin("zones/b") == "zones/a@s"
    assert again.holds("zones/a@s").keys() == {"keep"}
    assert again.get("zones/b", "org.smartos:image") == "-"
    assert again.number("zones/b", "createtxg") < _next_txg(again)
    again.close()


def test_a_snapshot_keeps_what_it_has_when_its_source_changes_after_a_restart(pool, tmp_path):
    pool.create("zones/a")
    write(pool, "zones/a", "f", b"1" * 5000)
    pool.snapshot("zones/a@s")
    pool.close()
    again = storage_node.make(tmp_path)
    write(again, "zones/a", "f", b"2" * 5000)
    assert again.number("zones/a", "written") > 5000
    again.close()
    once_more = storage_node.make(tmp_path)
    assert once_more.number("zones/a@s", "used") > 5000
    once_more.rollback("zones/a@s")
    once_more.destroy("zones/a@s")
    assert once_more.number("zones/a", "referenced") > 5000
    once_more.close()


def _next_txg(pool):
    pool.create("zones/later")
    return pool.number("zones/later", "createtxg")


def test_a_torn_last_write_is_as_if_it_had_not_begun(pool, tmp_path):
    pool.create("zones/a")
    pool.create("zones/b")
    pool.close()
    log = tmp_path / "state/storage/journal.jsonl"
    log.write_bytes(log.read_bytes()[:-7])
    (tmp_path / "state/storage/snapshots/999").mkdir()
    again = storage_node.make(tmp_path)
    assert again.exists("zones/a")
    assert not (tmp_path / "state/storage/snapshots/999").exists()
    again.create("zones/c")
    again.close()
    assert storage_node.make(tmp_path).exists("zones/c")


def test_the_log_is_compacted_and_loses_nothing(pool, tmp_path):
    pool.create("zones/a")
    for number in range(1500):
        pool.set("zones/a", "org.test:n", f"{number}" + "x" * 700)
    assert (tmp_path / "state/storage/base.json").exists()
    assert (tmp_path / "state/storage/journal.jsonl").stat().st_size < 2 << 20
    pool.close()
    assert storage_node.make(tmp_path).get("zones/a", "org.test:n").startswith("1499x")


def test_listeners_hear_of_changes_without_the_lock_held(pool):
    heard = []

    def listen(kind, name):
        free = threading.Thread(target=lambda: heard.append((kind, name, pool.exists("zones"))))
        free.start()
        free.join(5)

    pool.subscribe(listen)
    pool.create("zones/a/b/c", parents=True)
    pool.snapshot("zones/a@s")
    pool.rollback("zones/a@s")
    pool.destroy("zones/a", recursive=True)
    kinds = [kind for kind, _, _ in heard]
    assert kinds == ["create"] * 3 + ["snapshot", "rollback"] + ["destroy"] * 4


def test_many_at_once_do_not_disturb_each_other(pool):
    pool.create("zones/img")
    write(pool, "zones/img", "root/f", os.urandom(5000))
    pool.snapshot("zones/img@final")
    problems = []

    def work(number):
        try:
            pool.clone("zones/img@final", f"zones/vm{number}")
            write(pool, f"zones/vm{number}", "own", b"x" * number)
            pool.snapshot(f"zones/vm{number}@s")
            pool.get(f"zones/vm{number}", "used")
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not problems
    assert len(pool.clones("zones/img@final")) == 20


def test_only_one_of_two_makers_of_a_name_wins(pool):
    pool.create("zones/img")
    pool.snapshot("zones/img@final")
    results = []
    start = threading.Barrier(8)

    def work():
        start.wait(5)
        try:
            pool.clone("zones/img@final", "zones/same")
            results.append("made")
        except storage.StorageError as error:
            results.append(error.why)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results.count("made") == 1
    assert set(results) <= {"made", "dataset already exists", "dataset is busy"}


def test_several_pools_stand_side_by_side(tmp_path):
    pool = storage_node.make(tmp_path, pools={"zones": 8 * GIB, "tank": 4 * GIB})
    pool.create("tank/a")
    assert pool.pools() == ["tank", "zones"]
    assert pool.directory("tank/a") == tmp_path / "root/tank/a"
    pool.snapshot("tank/a@s")
    assert "source and target pools differ" in refused(pool.clone, "tank/a@s", "zones/a")
    pool.close()


def test_a_mountpoint_with_other_files_is_not_covered(pool):
    (pool.root / "zones/a").mkdir()
    (pool.root / "zones/a/other").write_text("mine")
    assert refused(pool.create, "zones/a") == "cannot mount '/zones/a': directory is not empty"
    assert pool.get("zones/a", "mounted") == "no"
    assert pathlib.Path(pool.root / "zones/a/other").read_text() == "mine"


def test_what_a_running_zone_uses_cannot_be_taken_away(pool):
    pool.create("zones/a")
    pool.create("zones/a/disk0", volume_bytes=1 << 20)
    pool.in_use = lambda name: name == "zones/a"
    assert refused(pool.destroy, "zones/a", recursive=True) == (
        "cannot unmount '/zones/a': Device busy"
    )
    assert refused(pool.rename, "zones/a", "zones/b") == "cannot unmount '/zones/a': Device busy"
    assert pool.exists("zones/a/disk0")
    pool.in_use = lambda name: name == "zones/a/disk0"
    assert refused(pool.destroy, "zones/a/disk0") == (
        "cannot destroy 'zones/a/disk0': dataset is busy"
    )


def test_names_are_in_the_order_of_a_list(pool):
    for name in ("zones/u", "zones/u/disk0", "zones/u-partial"):
        pool.create(name)
    pool.snapshot("zones/u@s")
    assert [
        name
        for name in pool.children("zones")
        if name.startswith("zones/u-") or name.startswith(("zones/u/", "zones/u@"))
    ] == ["zones/u@s", "zones/u-partial", "zones/u/disk0"]
