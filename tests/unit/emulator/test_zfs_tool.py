# SPDX-License-Identifier: Apache-2.0
"""zfs as a program: what it prints, where, and with which exit code."""

import re
import struct

import pytest

from tests.unit.emulator import storage_node

GIB = 1 << 30


@pytest.fixture
def pool(tmp_path):
    made = storage_node.make(tmp_path, pools={"zones": 64 * GIB})
    made.create("zones/img")
    made.snapshot("zones/img@final")
    made.clone("zones/img@final", "zones/vm", properties={"quota": "10g"})
    made.create("zones/vm/disk0", volume_bytes=GIB)
    yield made
    made.close()


@pytest.fixture
def zfs(pool):
    def run(*argv, stdin=b""):
        return storage_node.run(pool, "zfs", *argv, stdin=stdin)

    return run


def test_list_for_people(zfs):
    result = zfs("list", "-r", "zones/vm")
    assert (result.status, result.err) == (0, "")
    assert result.out == (
        "NAME             USED  AVAIL  REFER  MOUNTPOINT\n"
        "zones/vm        1.03G  8.97G    24K  /zones/vm\n"
        "zones/vm/disk0  1.03G  10.0G  12.5K  -\n"
    )


def test_list_for_programs(zfs):
    result = zfs(
        "list", "-Hp", "-o", "name,quota,volsize,type", "-t", "all", "-r", "zones/vm", "zones/img"
    )
    assert result.out == (
        "zones/img\t0\t-\tfilesystem\n"
        "zones/img@final\t-\t-\tsnapshot\n"
        "zones/vm\t10737418240\t-\tfilesystem\n"
        f"zones/vm/disk0\t-\t{GIB}\tvolume\n"
    )


@pytest.mark.parametrize(
    "argv, names",
    [
        (["-t", "snapshot"], ["zones/img@final"]),
        (["-t", "snap", "zones/img"], ["zones/img@final"]),
        (["-t", "volume", "-r", "zones/vm"], ["zones/vm/disk0"]),
        (["zones/img@final"], ["zones/img@final"]),
        (["/zones/vm"], ["zones/vm"]),
        (["-d", "0", "zones/vm"], ["zones/vm"]),
        (["-d1", "zones/vm"], ["zones/vm", "zones/vm/disk0"]),
        (["-S", "name", "-r", "zones/vm"], ["zones/vm/disk0", "zones/vm"]),
        (["-s", "volsize", "-r", "zones/vm"], ["zones/vm/disk0", "zones/vm"]),
    ],
)
def test_list_chooses_and_orders(zfs, argv, names):
    result = zfs("list", "-Ho", "name", *argv)
    assert result.out.split() == names


def test_list_says_when_there_is_nothing(zfs):
    assert zfs("list", "-t", "snapshot", "zones/vm").err == "no datasets available\n"
    assert zfs("list", "-Ht", "snapshot", "zones/vm").err == ""
    missing = zfs("list", "-H", "zones/nope", "zones/img")
    assert missing.status == 1
    assert missing.err == "cannot open 'zones/nope': dataset does not exist\n"
    assert missing.out.startswith("zones/img\t")


def test_list_of_space(zfs):
    heading = zfs("list", "-o", "space", "zones/vm").out.splitlines()[0].split()
    assert heading == ["NAME", "AVAIL", "USED", "USEDSNAP", "USEDDS", "USEDREFRESERV", "USEDCHILD"]


def test_snapshots_are_listed_from_old_to_new(pool, zfs):
    for name in ("z", "a", "m"):
        pool.snapshot(f"zones/img@{name}")
    out = zfs("list", "-Ht", "snapshot", "-o", "name").out
    assert [name.partition("@")[2] for name in out.split()] == ["final", "z", "a", "m"]


def test_get(zfs):
    assert zfs("get", "-Hp", "-o", "value", "quota,mounted", "zones/vm").out == (
        "10737418240\nyes\n"
    )
    assert zfs("get", "quota,compression", "zones/vm", "zones/img@final").out == (
        "NAME             PROPERTY     VALUE     SOURCE\n"
        "zones/img@final  quota        -         -\n"
        "zones/img@final  compression  -         -\n"
        "zones/vm         quota        10G       local\n"
        "zones/vm         compression  off       default\n"
    )


def test_get_columns_sources_and_everything(pool, zfs):
    pool.set("zones/vm", "org.test:x", "y")
    assert zfs("get", "-H", "-s", "local", "-o", "property,value", "all", "zones/vm").out == (
        "quota\t10G\norg.test:x\ty\n"
    )
    properties = zfs("get", "-Ho", "property", "all", "zones/vm").out.split()
    assert properties[:5] == ["type", "creation", "used", "available", "referenced"]
    assert "origin" in properties
    assert "volsize" not in properties
    assert "receive_resume_token" not in properties
    inherited = zfs("get", "-H", "atime", "zones/vm").out
    assert inherited == "zones/vm\tatime\toff\tinherited from zones\n"


@pytest.mark.parametrize(
    "argv, text",
    [
        (["list", "-o", "nope"], "bad property list: invalid property 'nope'"),
        (["list", "-s", "nope"], "invalid property 'nope'"),
        (["list", "-t", "nope"], "invalid type 'nope'"),
        (["list", "-x"], "invalid option 'x'"),
        (["get"], "missing property argument"),
        (["get", "-o", "nope", "all"], "invalid column name 'nope'"),
        (["get", "-s", "nope", "all"], "invalid source 'nope'"),
        (["get", "nope", "zones"], "bad property list: invalid property 'nope'"),
        (["create"], "missing filesystem argument"),
        (["create", "-V", "1g"], "missing volume argument"),
        (["create", "a", "b"], "too many arguments"),
        (["create", "-s", "zones/x"], "'-s' and '-b' can only be used when creating a volume"),
        (["create", "-V"], "missing size argument"),
        (["clone", "zones/img@final"], "missing target dataset argument"),
        (["destroy"], "missing dataset argument"),
        (["snapshot"], "missing snapshot argument"),
        (["snapshot", "zones/nope@x"], "cannot open 'zones/nope': dataset does not exist"),
        (["set"], "missing arguments"),
        (["set", "a=b"], "missing dataset name(s)"),
        (["set", "zones"], "missing property=value argument(s)"),
        (["set", "zones", "a=b"], "invalid argument order"),
        (["inherit", "nope", "zones"], "invalid property 'nope'"),
        (["rename", "zones/vm"], "missing target dataset argument"),
        (
            ["rename", "-r", "zones/vm", "zones/x"],
            "source dataset for recursive rename must be a snapshot",
        ),
        (["send", "-t", "x", "-R"], "invalid flags combined with -t"),
        (
            ["send", "-i", "zones/vm@x", "zones/img@final"],
            "incremental source must be in same filesystem",
        ),
        (["receive"], "missing snapshot argument"),
        (
            ["receive", "-d", "-e", "x"],
            "invalid option combination: -d and -e are mutually exclusive",
        ),
        (
            ["receive", "-o", "zoned=on", "-x", "zoned", "x"],
            "property 'zoned' specified multiple times",
        ),
        (
            ["receive", "-x", "quota", "-x", "quota", "x"],
            "property 'quota' specified multiple times",
        ),
        (["receive", "-x", "quota=1G", "x"], "invalid character '=' in property argument"),
    ],
)
def test_wrong_usage_is_explained_and_ends_with_2(zfs, argv, text):
    result = zfs(*argv)
    assert result.status == 2
    assert result.out == ""
    assert result.err.startswith(f"{text}\nusage:\n\t{argv[0]}")


def test_unknown_and_missing_commands(zfs):
    result = zfs("frobnicate")
    assert result.status == 2
    assert result.err.startswith("unrecognized command 'frobnicate'\nusage: zfs command args ...")
    assert zfs().err.startswith("missing command\nusage: zfs command")
    assert zfs("-?").status == 0
    assert zfs("diff", "zones/img@final").err == "zfs diff: not emulated\n"


def test_create_can_only_say_what_it_would_do(zfs, pool):
    result = zfs(
        "create",
        "-nPV",
        str(10 * GIB),
        "-o",
        "copies=1",
        "-o",
        "volblocksize=8192",
        "zones/vm/disk1",
    )
    assert result.out == (
        "create\tzones/vm/disk1\n"
        "property\tvolsize\t10737418240\n"
        "property\tcopies\t1\n"
        "property\tvolblocksize\t8192\n"
        "property\trefreservation\t11075584000\n"
    )
    assert not pool.exists("zones/vm/disk1")


def test_create_says_nothing_and_p_does_not_mind(zfs, pool):
    for _ in range(2):
        result = zfs("create", "-p", "-o", "org.test:x=a=b", "zones/p/q")
        assert (result.status, result.out, result.err) == (0, "", "")
    assert pool.get("zones/p/q", "org.test:x") == "a=b"
    assert zfs("create", "-V", "lots", "zones/v").err == (
        "bad volume size 'lots': bad numeric value 'lots'\n"
    )
    assert zfs("create", "-o", "quota", "zones/v").err == (
        "missing '=' for property=value argument\n"
    )


def test_create_over_other_files_is_half_done(zfs, pool):
    (pool.root / "zones/x").mkdir()
    (pool.root / "zones/x/f").touch()
    result = zfs("create", "zones/x")
    assert result.status == 1
    assert result.err == (
        "cannot mount '/zones/x': directory is not empty\n"
        "filesystem successfully created, but not mounted\n"
    )


def test_destroy_of_lists_ranges_and_dry_runs(zfs, pool):
    for name in "abcdef":
        pool.snapshot(f"zones/vm@{name}")
    assert zfs("destroy", "-nv", "zones/vm@b%d,f").out == (
        "would destroy zones/vm@b\nwould destroy zones/vm@c\nwould destroy zones/vm@d\n"
        "would destroy zones/vm@f\nwould reclaim 0\n"
    )
    assert zfs("destroy", "zones/vm@b%d,f").status == 0
    assert pool.snapshots("zones/vm") == ["zones/vm@a", "zones/vm@e"]
    assert zfs("destroy", "-rnv", "zones/vm").out.splitlines()[-1] == "would destroy zones/vm"
    assert zfs("destroy", "zones/vm@zz").err == (
        "could not find any snapshots to destroy; check snapshot names.\n"
    )
    assert zfs("destroy", "zones").err.startswith(
        "cannot destroy 'zones': operation does not apply to pools\n"
    )


def test_snapshot_of_many_is_all_or_nothing(zfs, pool):
    pool.snapshot("zones/vm/disk0@s")
    result = zfs("snapshot", "-r", "zones/vm@s")
    assert result.status == 1
    assert result.err == (
        "cannot create snapshot 'zones/vm/disk0@s': dataset already exists\n"
        "no snapshots were created\n"
    )
    assert pool.snapshots("zones/vm") == []


def test_set_and_inherit(zfs, pool):
    assert zfs("set", "quota=20G", "recsize=16k", "zones/vm").status == 0
    assert pool.get("zones/vm", "recordsize") == "16384"
    bad = zfs("set", "quota=x", "zones/vm", "zones/nope")
    assert bad.status == 1
    assert sorted(bad.err.splitlines()) == [
        "cannot open 'zones/nope': dataset does not exist",
        "cannot set property for 'zones/vm': bad numeric value 'x'",
    ]
    assert zfs("inherit", "recsize", "zones/vm").status == 0
    assert pool.get("zones/vm", "recordsize") == "131072"
    assert zfs("inherit", "quota", "zones/vm").err == (
        "'quota' property cannot be inherited\nuse 'zfs set quota=none' to clear\n"
        "use 'zfs inherit -S quota' to revert to received value\n"
    )
    assert zfs("inherit", "used", "zones/vm").err == "used property is read-only\n"


def test_holds(zfs):
    assert zfs("hold", "keep", "zones/img@final").status == 0
    assert zfs("hold", "keep", "zones/img@final").err == (
        "cannot hold snapshot 'zones/img@final': tag already exists on this dataset\n"
    )
    assert re.match(
        r"zones/img@final\tkeep\t\w{3} \w{3} [ \d]\d [ \d]\d:\d\d \d{4}\n",
        zfs("holds", "-H", "zones/img@final").out,
    )
    assert zfs("release", "keep", "zones/img@final").status == 0
    assert zfs("release", "keep", "zones/img@final").err == (
        "cannot release hold from snapshot 'zones/img@final': no such tag on this dataset\n"
    )
    assert zfs("hold", "keep", "zones/vm").err == "'zones/vm' is not a snapshot\n"


def test_mounts(zfs):
    assert zfs("mount", "zones/vm").err == ("cannot mount 'zones/vm': filesystem already mounted\n")
    assert zfs("unmount", "zones/vm").status == 0
    assert zfs("unmount", "zones/vm").err == "cannot unmount 'zones/vm': not currently mounted\n"
    assert "zones/vm " not in zfs("mount").out
    assert zfs("mount", "-a").status == 0
    assert "zones/vm                        /zones/vm\n" in zfs("mount").out
    assert zfs("umount", "zones/opt").err == (
        "cannot unmount 'zones/opt': legacy mountpoint\nuse umount(1M) to unmount this filesystem\n"
    )


def test_send_and_receive_through_the_program(zfs, pool):
    stream = zfs("send", "-R", "zones/img@final")
    assert stream.status == 0
    first = zfs("receive", "-v", "-u", "zones/copy", stdin=stream.raw)
    assert first.out.startswith("receiving full stream of zones/img@final into zones/copy@final\n")
    assert pool.get("zones/copy@final", "guid") == pool.get("zones/img@final", "guid")
    again = zfs("recv", "zones/copy", stdin=zfs("send", "zones/img@final").raw)
    assert again.status == 1
    assert again.err == (
        "cannot receive new filesystem stream: destination 'zones/copy' exists\n"
        "must specify -F to overwrite it\n"
    )
    empty = zfs("receive", "zones/none")
    assert (empty.status, empty.err) == (1, "cannot receive: failed to read from stream\n")


def test_send_tells_its_size(zfs, pool):
    pool.snapshot("zones/img@next")
    assert zfs("send", "-nvP", "-i", "@final", "zones/img@next").out == (
        "incremental\tfinal\tzones/img@next\t0\nsize\t0\n"
    )
    assert zfs("send", "-nv", "zones/img@final").out == (
        "full send of zones/img@final estimated size is 24K\ntotal estimated size is 24K\n"
    )
    shown = zfs("send", "-v", "zones/img@final")
    assert shown.err.startswith("full send of")
    # the magic number, and that it is of one snapshot
    assert shown.raw[8:24] == struct.pack("<QQ", 0x2F5BACBAC, 1)
    for flag in ("-p", "-R"):
        assert zfs("send", flag, "zones/img@final").raw[8:24] == struct.pack("<QQ", 0x2F5BACBAC, 2)
    assert zfs("send", "zones/img@no").status == 1


def test_a_filesystem_without_a_snapshot_can_be_sent(zfs, pool):
    stream = zfs("send", "zones/vm/disk0")
    assert stream.status == 0
    assert pool.snapshots("zones/vm/disk0") == []
    assert zfs("receive", "zones/disk@given", stdin=stream.raw).status == 0
    assert pool.snapshots("zones/disk") == ["zones/disk@given"]
