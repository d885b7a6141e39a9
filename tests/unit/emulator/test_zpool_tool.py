# SPDX-License-Identifier: Apache-2.0
"""zpool as a program."""

import pytest

from tests.unit.emulator import storage_node

GIB = 1 << 30


@pytest.fixture
def pool(tmp_path):
    made = storage_node.make(tmp_path, pools={"zones": 64 * GIB, "tank": 8 * GIB})
    yield made
    made.close()


@pytest.fixture
def zpool(pool):
    return lambda *argv: storage_node.run(pool, "zpool", *argv)


def test_list_for_people(zpool):
    lines = zpool("list").out.splitlines()
    assert lines[0].split() == [
        "NAME",
        "SIZE",
        "ALLOC",
        "FREE",
        "CKPOINT",
        "EXPANDSZ",
        "FRAG",
        "CAP",
        "DEDUP",
        "HEALTH",
        "ALTROOT",
    ]
    assert lines[2].split()[:2] == ["zones", "64G"]
    assert lines[2].split()[-3:] == ["1.00x", "ONLINE", "-"]


def test_allocated_and_free_make_the_size(zpool, pool):
    pool.write("zones", 3 * GIB)
    name, size, used, free, cap = zpool(
        "list", "-Hpo", "name,size,alloc,free,cap", "zones"
    ).out.split()
    assert (name, int(size)) == ("zones", 64 * GIB)
    assert int(used) + int(free) == int(size)
    assert int(used) > 3 * GIB
    assert cap == "4"


def test_a_pool_that_is_not_there(zpool):
    result = zpool("list", "nope")
    assert (result.status, result.out) == (1, "")
    assert result.err == "cannot open 'nope': no such pool\n"


def test_status(zpool):
    assert zpool("status", "zones").out == (
        "  pool: zones\n state: ONLINE\n  scan: none requested\nconfig:\n\n"
        "\tNAME        STATE     READ WRITE CKSUM\n"
        "\tzones       ONLINE       0     0     0\n"
        "\t  c1t1d0    ONLINE       0     0     0\n\n"
        "errors: No known data errors\n"
    )
    assert zpool("status", "-x").out == "all pools are healthy\n"
    assert zpool("status", "-x", "tank").out == "pool 'tank' is healthy\n"


def test_get_and_set(zpool):
    assert zpool("get", "-Hpo", "value", "health,size", "zones").out == f"ONLINE\n{64 * GIB}\n"
    assert zpool("set", "comment=mine", "zones").status == 0
    assert zpool("get", "-H", "comment", "zones").out == "zones\tcomment\tmine\tlocal\n"
    assert zpool("set", "size=1", "zones").err == (
        "cannot set property for 'zones': invalid property 'size'\n"
    )
    assert "zones  feature@lz4_compress" in zpool("get", "all", "zones").out


@pytest.mark.parametrize(
    "argv, text",
    [
        ([], "missing command\nusage: zpool"),
        (["nope"], "unrecognized command 'nope'\nusage: zpool"),
        (["list", "-o", "nope"], "bad property list: invalid property 'nope'\nusage:\n\tlist"),
        (["get"], "missing property argument\nusage:\n\tget"),
    ],
)
def test_wrong_usage(zpool, argv, text):
    result = zpool(*argv)
    assert result.status == 2
    assert result.err.startswith(text)


def test_what_is_not_emulated_is_refused(zpool):
    for command in ("create", "destroy", "import", "export", "scrub"):
        result = zpool(command, "zones")
        assert (result.status, result.err) == (1, f"zpool {command}: not emulated\n")
