# SPDX-License-Identifier: Apache-2.0
"""zfs and zpool: datasets, streams between them, and space that adds up."""

import io
import uuid

import pytest

from nova_smartos.smartos import errors, zfs


@pytest.fixture
def dataset(target):
    """A filesystem of our own below the pool; destroyed with all that is in it."""
    name = f"zones/nst-{uuid.uuid4().hex[:8]}"
    target.node.zfs.create(name)
    yield name
    target.node.zfs.destroy(name, recursive=True, dependents=True)


def put(target, path, content):
    """Write a file of the node."""
    done = target.run("dd", f"of={path}", raw=content)
    assert done.returncode == 0, done.stderr


def held(target, path):
    """The content of a file of the node, or None."""
    done = target.run("dd", f"if={path}")
    return done.stdout if done.returncode == 0 else None


def number(target, name, prop):
    return int(target.node.zfs.get(name, prop)[prop])


@pytest.mark.known("unverified")
def test_create_and_destroy(target, dataset):
    """A filesystem is mounted below its parent; one that is there is not made again."""
    assert target.node.zfs.get(dataset, "mountpoint", "type") == {
        "mountpoint": f"/{dataset}",
        "type": "filesystem",
    }
    with pytest.raises(errors.AlreadyExists):
        target.node.zfs.create(dataset)
    with pytest.raises(errors.NotFound):
        target.node.zfs.destroy(f"{dataset}/nothing")


@pytest.mark.known("unverified")
def test_a_parent_is_not_destroyed_by_chance(target, dataset):
    """destroy refuses a dataset with children, and a snapshot with clones."""
    target.node.zfs.create(f"{dataset}/child")
    with pytest.raises(errors.ToolError, match="has children"):
        target.node.zfs.destroy(dataset)
    target.node.zfs.snapshot(f"{dataset}/child@s")
    target.node.zfs.clone(f"{dataset}/child@s", f"{dataset}/clone")
    with pytest.raises(errors.ToolError, match="dependent clones"):
        target.node.zfs.destroy(f"{dataset}/child@s")


@pytest.mark.known("unverified")
def test_files_through_snapshot_rollback_and_clone(target, dataset):
    """A snapshot keeps a file byte for byte, through rollback and in clones."""
    put(target, f"/{dataset}/file", "one")
    target.node.zfs.snapshot(f"{dataset}@s")
    put(target, f"/{dataset}/file", "two")
    target.node.zfs.clone(f"{dataset}@s", f"{dataset}/clone")
    assert held(target, f"/{dataset}/clone/file") == "one"
    target.node.zfs.destroy(f"{dataset}/clone")
    target.node.zfs.rollback(f"{dataset}@s")
    assert held(target, f"/{dataset}/file") == "one"


@pytest.mark.known("unverified")
def test_rollback_over_a_newer_snapshot(target, dataset):
    """rollback passes over a newer snapshot only when it is told to."""
    for each in ("a", "b"):
        target.node.zfs.snapshot(f"{dataset}@{each}")
    with pytest.raises(errors.ToolError, match="more recent snapshots"):
        target.node.zfs.rollback(f"{dataset}@a")
    target.node.zfs.rollback(f"{dataset}@a", destroy_newer=True)
    with pytest.raises(errors.NotFound):
        target.node.zfs.get(f"{dataset}@b", "name")


def streamed(target, *arguments, **options):
    with target.node.zfs.send(*arguments, **options) as stream:
        return io.BytesIO(stream.read())


@pytest.mark.known("unverified")
def test_full_and_incremental_streams(target, dataset):
    """A full stream and an increment carry files exactly; an increment needs its base."""
    source, copy = f"{dataset}/source", f"{dataset}/copy"
    target.node.zfs.create(source)
    put(target, f"/{source}/file", "one")
    target.node.zfs.snapshot(f"{source}@a")
    put(target, f"/{source}/file", "two")
    target.node.zfs.snapshot(f"{source}@b")
    with pytest.raises(errors.ToolError):
        target.node.zfs.receive(streamed(target, f"{source}@b", base=f"{source}@a"), copy)
    target.node.zfs.receive(streamed(target, f"{source}@a"), copy, unmounted=False)
    assert held(target, f"/{copy}/file") == "one"
    target.node.zfs.receive(streamed(target, f"{source}@b", base=f"{source}@a"), copy)
    assert held(target, f"/{copy}/file") == "two"


@pytest.mark.known("unverified")
def test_which_streams_say_where_they_go(target, dataset):
    """A stream of one snapshot is plain; of several, of a tree, or with properties it is not."""
    source = f"{dataset}/source"
    target.node.zfs.create(source)
    for each in "ab":
        target.node.zfs.snapshot(f"{source}@{each}")
    last, base = f"{source}@b", f"{source}@a"

    def is_plain(**options):
        return zfs.is_plain(streamed(target, last, **options).read(zfs.START_BYTES))

    assert is_plain()
    assert is_plain(base=base)
    assert not is_plain(base=base, intermediates=True)
    assert not is_plain(properties=True)
    assert not is_plain(replicate=True)


@pytest.mark.known("unverified")
def test_what_a_dataset_does_not_inherit(target, dataset):
    """zfs get -s local,received tells what was set or received, and nothing else."""
    source, copy = f"{dataset}/source", f"{dataset}/copy"
    target.node.zfs.create(source, {"compression": "lz4", "nova:own": "a b"})
    assert target.node.zfs.own(source) == {"compression": "lz4", "nova:own": "a b"}
    target.node.zfs.snapshot(f"{source}@a")
    stream = streamed(target, f"{source}@a", properties=True)
    target.node.zfs.receive(stream, copy, properties={"atime": "off"})
    assert target.node.zfs.own(copy) == {
        "compression": "lz4",
        "nova:own": "a b",
        "atime": "off",
    }


@pytest.mark.known("unverified")
def test_where_a_zones_dataset_is_mounted(target, dataset):
    """Where a zoned dataset is mounted the global zone cannot say, only before it is zoned."""
    source = f"{dataset}/source"
    target.node.zfs.create(source, {"canmount": "noauto"})
    target.node.zfs.set(source, {"mountpoint": "/nst"})
    target.node.zfs.set(source, {"zoned": "on"})
    target.node.zfs.set(source, {"canmount": "on"})
    with pytest.raises(errors.ToolError, match="cannot be set on dataset in a non-global zone"):
        target.node.zfs.set(source, {"mountpoint": "/other"})
    assert target.node.zfs.get(source, "mountpoint")["mountpoint"] == "/nst"


@pytest.mark.known("unverified")
def test_what_a_clone_of_a_clone_differs_in(target, dataset):
    """An unmounted filesystem is sent as the difference to any ancestor, a snapshot is not."""
    zfs, first, second = target.node.zfs, f"{dataset}/first", f"{dataset}/second"
    zfs.create(f"{dataset}/source")
    put(target, f"/{dataset}/source/old", "one")
    zfs.snapshot(f"{dataset}/source@a")
    zfs.clone(f"{dataset}/source@a", first)
    zfs.snapshot(f"{first}@b")
    zfs.clone(f"{first}@b", second)
    put(target, f"/{second}/new", "two")
    zfs.snapshot(f"{second}@c")
    with pytest.raises(errors.InvalidPayload, match="must be in same filesystem"):
        streamed(target, f"{second}@c", base=f"{dataset}/source@a")
    with pytest.raises(errors.InvalidState, match="busy"):
        live(target, second, f"{dataset}/source@a")
    zfs.unmount(second)
    copy = f"{dataset}/copy"
    zfs.receive(live(target, second, f"{dataset}/source@a"), copy, unmounted=False)
    assert zfs.get(copy, "origin")["origin"] == f"{dataset}/source@a"
    assert held(target, f"/{copy}/old") == "one"
    assert held(target, f"/{copy}/new") == "two"


def live(target, dataset, base):
    with target.node.zfs.send_unmounted(dataset, base) as stream:
        return io.BytesIO(stream.read())


@pytest.mark.known("unverified")
def test_a_replicated_tree(target, dataset):
    """send -R carries children and snapshots."""
    source, copy = f"{dataset}/source", f"{dataset}/copy"
    target.node.zfs.create(f"{source}/child", parents=True)
    put(target, f"/{source}/child/file", "child")
    target.node.zfs.snapshot(f"{source}@a", recursive=True)
    stream = streamed(target, f"{source}@a", replicate=True)
    target.node.zfs.receive(stream, copy, unmounted=False)
    assert held(target, f"/{copy}/child/file") == "child"
    names = [each.name for each in target.node.zfs.list(copy, types=("snapshot",), recursive=True)]
    assert names == [f"{copy}@a", f"{copy}/child@a"]


@pytest.mark.known("unverified")
def test_a_stream_that_is_cut_short(target, dataset):
    """A stream that ends early is refused; with -s a token resumes it."""
    source, copy = f"{dataset}/source", f"{dataset}/copy"
    target.node.zfs.create(source)
    put(target, f"/{source}/file", "x" * (1 << 20))
    target.node.zfs.snapshot(f"{source}@a")
    whole = streamed(target, f"{source}@a").getvalue()
    with pytest.raises(errors.ToolError):
        target.node.zfs.receive(io.BytesIO(whole[: len(whole) // 2]), copy, resumable=True)
    token = target.node.zfs.get(copy, "receive_resume_token")["receive_resume_token"]
    assert token and token != "-"
    with target.node.zfs.send_resumed(token) as stream:
        rest = stream.read()
    assert len(rest) < len(whole)
    target.node.zfs.receive(io.BytesIO(rest), copy, resumable=True)
    target.node.zfs.set(copy, {"mountpoint": f"/{copy}"})
    assert held(target, f"/{copy}/file") == "x" * (1 << 20)


@pytest.mark.known("unverified")
def test_space_adds_up(target, dataset):
    """What a dataset uses is its own data, its snapshots', its children's and its reservation."""
    put(target, f"/{dataset}/file", "x" * (4 << 20))
    target.node.zfs.snapshot(f"{dataset}@a")
    put(target, f"/{dataset}/file", "y" * (4 << 20))
    target.node.zfs.create(f"{dataset}/child")
    names = ("usedbydataset", "usedbysnapshots", "usedbychildren", "usedbyrefreservation")
    parts = [number(target, dataset, each) for each in names]
    assert number(target, dataset, "used") == sum(parts)
    assert parts[1] >= 4 << 20


@pytest.mark.known("unverified")
def test_a_quota(target, dataset):
    """A quota bounds what is available, and a write past it fails."""
    target.node.zfs.set(dataset, {"quota": "8M"})
    assert number(target, dataset, "available") <= 8 << 20
    done = target.run("dd", f"of=/{dataset}/file", "bs=1024k", raw="x" * (16 << 20))
    assert done.returncode != 0
    assert "quota" in done.stderr.lower()


@pytest.mark.known("unverified")
def test_a_users_property(target, dataset):
    """A property of a user's own is inherited, and a list by source names who has set it."""
    target.node.zfs.create(f"{dataset}/child")
    target.node.zfs.set(dataset, {"nst:note": "a"})
    assert target.node.zfs.get(f"{dataset}/child", "nst:note") == {"nst:note": "a"}
    assert target.node.zfs.having("nst:note", dataset, depth=1) == [dataset]
    target.node.zfs.inherit("nst:note", dataset)
    assert target.node.zfs.having("nst:note", dataset, depth=1) == []


@pytest.mark.known("unverified")
def test_volumes(target, dataset):
    """A volume reserves its size; a sparse one does not."""
    target.node.zfs.create(f"{dataset}/thick", volsize_bytes=1 << 30)
    target.node.zfs.create(f"{dataset}/thin", volsize_bytes=1 << 30, sparse=True)
    assert number(target, f"{dataset}/thick", "refreservation") >= 1 << 30
    assert number(target, f"{dataset}/thin", "refreservation") == 0
    assert number(target, f"{dataset}/thin", "volsize") == 1 << 30


@pytest.mark.known("unverified")
def test_pools(target):
    """A pool's parts make its size, and it is healthy."""
    (pool,) = target.node.zpool.list("zones")
    assert pool.allocated_bytes + pool.free_bytes == pool.size_bytes
    assert target.node.zpool.health("zones") == "ONLINE"
