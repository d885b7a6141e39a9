# SPDX-License-Identifier: Apache-2.0
"""Space that adds up: shared blocks, quotas, reservations, and a pool that gets full."""

import errno
import os

import pytest

from smartos_emulator import storage
from smartos_emulator.storage import units
from tests.unit.emulator import storage_node

GIB, MIB = 1 << 30, 1 << 20


@pytest.fixture
def pool(tmp_path):
    made = storage_node.make(tmp_path, pools={"zones": 64 * GIB})
    yield made
    made.close()


def put(pool, name, path, size):
    (pool.directory(name) / path).write_bytes(os.urandom(size))


def numbers(pool, name, *props):
    return [pool.number(name, prop) for prop in props]


def check_sums(pool):
    """What must hold of every dataset at any time."""
    for name in ["zones", *pool.children("zones", kinds={"filesystem", "volume"})]:
        used, mine, snaps, below, held = numbers(
            pool,
            name,
            "used",
            "usedbydataset",
            "usedbysnapshots",
            "usedbychildren",
            "usedbyrefreservation",
        )
        assert used == mine + snaps + below + held, name
        inner = [
            max(pool.number(child, "used"), pool.number(child, "reservation"))
            for child in pool.children(name, kinds={"filesystem", "volume"}, recursive=False)
        ]
        assert below == sum(inner), name
        alone = sum(pool.number(snap, "used") for snap in pool.snapshots(name))
        assert alone <= snaps, name
    free = pool.pool_size("zones") - pool.allocated("zones")
    assert free >= pool.number("zones", "available")


def test_an_empty_dataset_a_clone_and_a_snapshot_cost_what_they_cost(pool):
    pool.create("zones/a")
    pool.snapshot("zones/a@s")
    pool.clone("zones/a@s", "zones/b")
    assert pool.number("zones/a", "used") == 24 * 1024
    assert pool.number("zones/a@s", "used") == 0
    assert numbers(pool, "zones/b", "used", "referenced") == [1024, 24 * 1024]
    check_sums(pool)


def test_a_block_is_counted_once_whoever_refers_to_it(pool):
    pool.create("zones/img")
    put(pool, "zones/img", "f", MIB)
    pool.snapshot("zones/img@final")
    before = pool.number("zones", "used")
    for number in range(10):
        pool.clone("zones/img@final", f"zones/vm{number}")
    assert pool.number("zones", "used") - before == 10 * 1024
    assert pool.number("zones/vm3", "referenced") > MIB
    put(pool, "zones/vm3", "own", 100_000)
    assert 100_000 < pool.number("zones/vm3", "used") < 110_000
    check_sums(pool)


def test_what_is_deleted_moves_to_the_snapshot_that_keeps_it(pool):
    pool.create("zones/a")
    put(pool, "zones/a", "big", MIB)
    pool.snapshot("zones/a@one")
    pool.snapshot("zones/a@two")
    (pool.directory("zones/a") / "big").unlink()
    assert pool.number("zones/a", "referenced") < 30_000
    assert pool.number("zones/a", "usedbysnapshots") > MIB
    # Both keep it, so that neither has it alone.
    assert numbers(pool, "zones/a@one", "used") == [0]
    pool.destroy("zones/a@one")
    assert pool.number("zones/a@two", "used") > MIB
    pool.destroy("zones/a@two")
    assert pool.number("zones/a", "used") < 30_000
    check_sums(pool)


def test_written_counts_from_the_last_snapshot(pool):
    pool.create("zones/a")
    put(pool, "zones/a", "one", 50_000)
    pool.snapshot("zones/a@s")
    assert pool.number("zones/a", "written") == 0
    put(pool, "zones/a", "two", 70_000)
    assert 70_000 < pool.number("zones/a", "written") < 75_000
    assert pool.get("zones/a", "written@s") == pool.get("zones/a", "written")
    assert pool.number("zones/a@s", "written") > 50_000


def test_a_volume_reserves_all_it_may_need(pool):
    pool.create("zones/v", volume_bytes=10 * GIB)
    reserved = pool.number("zones/v", "refreservation")
    assert reserved == units.volume_reservation(10 * GIB, 8192)
    assert units.nice(reserved) == "10.3G"
    assert pool.number("zones/v", "used") == reserved + pool.number("zones/v", "referenced") - (
        pool.number("zones/v", "written")
    )
    available = pool.number("zones", "available")
    with open(pool.volume_file("zones/v"), "r+b") as disk:
        disk.write(os.urandom(3 * MIB))
    assert pool.number("zones/v", "used") == reserved
    assert pool.number("zones", "available") == available
    pool.snapshot("zones/v@s")
    assert pool.number("zones/v", "used") > reserved + 3 * MIB
    check_sums(pool)


@pytest.mark.parametrize(
    "size, block, copies, expected",
    [
        (1 << 20, 8192, 1, (1 << 20) + (7 + 1) * 2 * 131072),
        (5 * GIB, 8192, 1, 5 * GIB + (7 + 640 + 1) * 2 * 131072),
        (GIB, 131072, 2, 2 * GIB + (7 + 8 + 1) * 3 * 131072),
    ],
)
def test_the_reservation_grows_with_the_indirect_blocks(size, block, copies, expected):
    assert units.volume_reservation(size, block, copies) == expected


def test_resizing_a_volume_keeps_its_reservation_automatic(pool):
    pool.create("zones/v", volume_bytes=GIB)
    pool.set("zones/v", "volsize", "2g")
    assert pool.number("zones/v", "refreservation") == units.volume_reservation(2 * GIB, 8192)
    assert pool.volume_file("zones/v").stat().st_size == 2 * GIB
    pool.create("zones/w", volume_bytes=GIB, sparse=True)
    pool.set("zones/w", "volsize", "2g")
    assert pool.number("zones/w", "refreservation") == 0
    pool.set("zones/w", "refreservation", "auto")
    assert pool.number("zones/w", "refreservation") == units.volume_reservation(2 * GIB, 8192)


def test_quota_counts_everything_refquota_only_what_is_referred_to(pool):
    pool.create("zones/a", properties={"quota": "10m", "refquota": "5m"})
    assert pool.number("zones/a", "available") == 5 * MIB - 24 * 1024
    put(pool, "zones/a", "f", 4 * MIB)
    pool.charge("zones/a")
    pool.snapshot("zones/a@s")
    put(pool, "zones/a", "f", 4 * MIB)
    pool.charge("zones/a")
    pool.snapshot("zones/a@t")
    put(pool, "zones/a", "f", 4 * MIB)
    with pytest.raises(OSError) as caught:
        pool.charge("zones/a")
    assert caught.value.errno == errno.EDQUOT
    assert pool.number("zones/a", "available") == 0


def test_a_child_is_bound_by_the_quota_above_it(pool):
    pool.create("zones/a", properties={"quota": "1g"})
    pool.create("zones/a/b")
    assert pool.number("zones/a/b", "available") < GIB
    with pytest.raises(storage.StorageError) as caught:
        pool.create("zones/a/v", volume_bytes=2 * GIB)
    assert str(caught.value) == "cannot create 'zones/a/v': out of space"


def test_a_reservation_is_taken_from_everybody_else(pool):
    pool.create("zones/a")
    pool.create("zones/b")
    before = pool.number("zones/b", "available")
    pool.set("zones/a", "reservation", "10g")
    assert before - pool.number("zones/b", "available") == 10 * GIB - pool.number("zones/a", "used")
    assert pool.number("zones/a", "available") == before
    check_sums(pool)


@pytest.mark.parametrize(
    "prop, value, why",
    [
        ("quota", "1k", "size is less than current used or reserved space"),
        ("refquota", "1k", "size is less than current used or reserved space"),
        ("reservation", "100t", "size is greater than available space"),
        ("refreservation", "100t", "size is greater than available space"),
    ],
)
def test_limits_that_cannot_hold_are_refused(pool, prop, value, why):
    pool.create("zones/a")
    with pytest.raises(storage.StorageError) as caught:
        pool.set("zones/a", prop, value)
    assert str(caught.value) == f"cannot set property for 'zones/a': {why}"
    assert pool.number("zones/a", prop) == 0


def test_a_full_pool_fails_as_zfs_fails(pool):
    pool.create("zones/a")
    pool.fill("zones", True)
    assert pool.number("zones", "available") == 0
    with pytest.raises(storage.StorageError) as caught:
        pool.create("zones/b")
    assert str(caught.value) == "cannot create 'zones/b': out of space"
    with pytest.raises(storage.StorageError) as caught:
        pool.snapshot("zones/a@s")
    assert str(caught.value) == "cannot create snapshots : out of space"
    with pytest.raises(OSError) as written:
        pool.check("zones/a", 1)
    assert written.value.errno == errno.ENOSPC
    put(pool, "zones/a", "f", MIB)
    with pytest.raises(OSError) as charged:
        pool.charge("zones/a")
    assert charged.value.errno == errno.ENOSPC
    pool.fill("zones", False)
    pool.charge("zones/a")
    pool.create("zones/b")


def test_a_snapshot_needs_room_for_what_its_volume_may_write_again(pool):
    pool.create("zones/a", properties={"quota": "3g"})
    pool.create("zones/a/v", volume_bytes=2 * GIB)
    pool.write("zones/a/v", GIB + 512 * MIB)
    with pytest.raises(storage.StorageError) as caught:
        pool.snapshot("zones/a/v@s")
    assert str(caught.value) == "cannot create snapshot 'zones/a/v@s': out of space"


def test_booked_writes_count_without_files(pool):
    pool.create("zones/a")
    pool.write("zones/a", 5 * GIB)
    assert pool.number("zones/a", "referenced") > 5 * GIB
    pool.snapshot("zones/a@s")
    pool.write("zones/a", GIB, overwrite=True)
    assert pool.number("zones/a", "usedbysnapshots") > 4 * GIB
    with pytest.raises(OSError):
        pool.write("zones/a", 900 * GIB)
    check_sums(pool)


def test_compression_saves_what_can_be_saved(pool):
    pool.create("zones/a", properties={"compression": "lz4"})
    (pool.directory("zones/a") / "text").write_bytes(b"again and again " * 60_000)
    put(pool, "zones/a", "noise", 900_000)
    used, logical = numbers(pool, "zones/a", "referenced", "logicalreferenced")
    assert logical > 1_800_000
    assert used < 1_100_000
    assert float(pool.get("zones/a", "compressratio")) > 1.7


def test_a_large_file_shares_what_did_not_change(pool):
    pool.create("zones/a")
    put(pool, "zones/a", "big", 8 * MIB)
    pool.snapshot("zones/a@s")
    with open(pool.directory("zones/a") / "big", "r+b") as file:
        file.seek(5 * MIB)
        file.write(os.urandom(1000))
    assert MIB <= pool.number("zones/a", "written") < 2 * MIB


def test_a_large_file_shares_what_did_not_change_since_it_was_looked_at(pool):
    """What nobody shares is looked at without reading all of it, and before a snapshot again."""
    pool.create("zones/a")
    put(pool, "zones/a", "big", 8 * MIB)
    used = pool.number("zones/a", "used")
    with open(pool.directory("zones/a") / "big", "r+b") as file:
        file.write(b"other")
    assert pool.number("zones/a", "used") == used
    pool.snapshot("zones/a@one")
    assert pool.number("zones/a", "used") == used
    for place, written in ((5, 1), (2, 2)):
        with open(pool.directory("zones/a") / "big", "r+b") as file:
            file.seek(place * MIB)
            file.write(b"another")
        assert written * MIB <= pool.number("zones/a", "written") < (written + 1) * MIB
    clone = "zones/b"
    pool.clone("zones/a@one", clone)
    with open(pool.directory(clone) / "big", "r+b") as file:
        file.write(b"the clone's")
    assert MIB <= pool.number(clone, "used") < 2 * MIB


def test_limits_count_what_is_below_them(pool):
    pool.create("zones/a", properties={"filesystem_limit": "5", "snapshot_limit": "9"})
    pool.create("zones/a/b")
    pool.snapshot("zones/a@s", recursive=True)
    assert numbers(pool, "zones/a", "filesystem_count", "snapshot_count") == [1, 2]
    assert pool.number("zones", "filesystem_count") == units.UNLIMITED


@pytest.mark.parametrize(
    "number, text",
    [
        (0, "0"),
        (1023, "1023"),
        (1024, "1K"),
        (1536, "1.50K"),
        (10 * GIB, "10G"),
        (10 * GIB + 1, "10.0G"),
        (100 * GIB + MIB, "100G"),
        (1 << 60, "1E"),
        (999 * 1024 + 1, "999K"),
    ],
)
def test_numbers_for_people(number, text):
    assert units.nice(number) == text


@pytest.mark.parametrize(
    "text, number",
    [
        ("10", 10),
        ("1k", 1024),
        ("1.5G", 1536 * MIB),
        ("2GiB", 2 * GIB),
        ("3mb", 3 * MIB),
        ("7B", 7),
    ],
)
def test_numbers_from_people(text, number):
    assert units.parse(text) == number


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "bad numeric value ''"),
        ("abc", "bad numeric value 'abc'"),
        ("-1", "bad numeric value '-1'"),
        ("1x", "invalid numeric suffix 'x'"),
        ("1BB", "invalid numeric suffix 'BB'"),
        ("99999999999E", "numeric value is too large"),
    ],
)
def test_numbers_that_are_none(text, why):
    with pytest.raises(ValueError, match="^" + why.replace("(", r"\(") + "$"):
        units.parse(text)
