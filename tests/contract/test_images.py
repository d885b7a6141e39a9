# SPDX-License-Identifier: Apache-2.0
"""imgadm: what is installed, what uses it."""

import hashlib
import io
import json
import tarfile
import uuid

import pytest

from nova_smartos.smartos import errors, files


@pytest.mark.known("recorded")
def test_get_and_list(target, image):
    """get and list -j tell the same of an installed image."""
    wanted = image("zone")
    listed = {each.manifest.uuid: each for each in target.node.imgadm.list()}
    assert listed[wanted].manifest == target.node.imgadm.get(wanted).manifest
    assert target.node.imgadm.get(wanted).manifest.type == "zone-dataset"


@pytest.mark.known("recorded")
def test_an_image_that_is_not_there(target):
    """get of an image that is not there ends with status 3."""
    missing = str(uuid.uuid4())
    done = target.run("imgadm", "get", missing)
    assert (done.returncode, done.stdout) == (3, "")
    assert "(ImageNotInstalled)" in done.stderr
    with pytest.raises(errors.NotFound):
        target.node.imgadm.get(missing)


@pytest.mark.known("recorded")
def test_an_image_with_clones(target, create, image):
    """An image with VMs on it cannot be deleted."""
    create("joyent-minimal", autoboot=False)
    with pytest.raises(errors.InvalidState):
        target.node.imgadm.delete(image("zone"))
    assert target.node.imgadm.get(image("zone")).manifest.uuid == image("zone")


@pytest.fixture
def folder(target):
    """The dataset of the files that are put on the node, gone again unless it was there."""
    zfs = target.node.zfs
    try:
        zfs.create(files.DATASET)
    except errors.AlreadyExists:
        yield
        return
    yield
    zfs.destroy(files.DATASET, recursive=True)


@pytest.fixture
def stream(target):
    """A stream that is an image of an empty file system."""
    name = f"zones/nst-{uuid.uuid4()}"
    target.node.zfs.create(name)
    try:
        target.node.zfs.snapshot(f"{name}@final")
        with target.node.zfs.send(f"{name}@final") as sent:
            yield sent.read()
    finally:
        target.node.zfs.destroy(name, recursive=True)


@pytest.mark.known("unverified")
@pytest.mark.usefixtures("folder")
def test_an_image_from_files_that_we_put_there(target, stream):
    """Files written by dd are what imgadm install takes; a cut one is refused by its checksum."""
    node, wanted = target.node, str(uuid.uuid4())
    data = {"sha1": hashlib.sha1(stream).hexdigest(), "size": len(stream), "compression": "none"}
    manifest = {"v": 2, "uuid": wanted, "name": "nst", "version": "1", "type": "zone-dataset"}
    manifest |= {"os": "smartos", "owner": str(uuid.UUID(int=0)), "files": [data]}
    try:
        document = json.dumps(manifest).encode()
        manifest_path = node.files.write(f"nst-{wanted}.json", io.BytesIO(document))
        with pytest.raises(errors.InvalidPayload):
            node.imgadm.install(
                manifest_path, node.files.write(f"nst-{wanted}", io.BytesIO(stream[:-1]))
            )
        node.imgadm.install(manifest_path, node.files.write(f"nst-{wanted}", io.BytesIO(stream)))
        assert node.imgadm.get(wanted).manifest.name == "nst"
        node.imgadm.delete(wanted)
    finally:
        node.files.delete(f"nst-{wanted}.json")
        node.files.delete(f"nst-{wanted}")


def manifest_of(uuid_, type_, stream):
    data = {"sha1": hashlib.sha1(stream).hexdigest(), "size": len(stream), "compression": "none"}
    document = {"v": 2, "uuid": uuid_, "name": "nst", "version": "1", "type": type_}
    return document | {"os": "other", "owner": str(uuid.UUID(int=0)), "files": [data]}


@pytest.mark.known("unverified")
@pytest.mark.usefixtures("folder")
def test_a_raw_disk_becomes_an_image(target):
    """A disk that dd gathers into whole blocks, and zfs sends, is a zvol image to imgadm."""
    node, wanted = target.node, str(uuid.uuid4())
    name, volume = f"nst-{wanted}", f"{files.DATASET}/nst-{wanted}"
    try:
        node.zfs.create(volume, sparse=True, volsize_bytes=3 << 20)
        node.files.write_volume(volume, io.BytesIO(b"disk" * 1024))
        node.files.write_volume(volume, io.BytesIO(b"more" * 1024), offset_mib=2)
        node.zfs.snapshot(f"{volume}@final")
        with node.zfs.send(f"{volume}@final") as sent:
            stream = sent.read()
        document = manifest_of(wanted, "zvol", stream)
        document |= {"nic_driver": "virtio", "disk_driver": "virtio", "cpu_type": "host"}
        document["image_size"] = 3
        text = io.BytesIO(json.dumps(document).encode())
        manifest_path = node.files.write(f"{name}.json", text)
        node.imgadm.install(manifest_path, node.files.write(f"{name}.zfs", io.BytesIO(stream)))
        assert node.imgadm.get(wanted).manifest.image_size_mib == 3
        assert node.zfs.get(f"zones/{wanted}", "type", "volsize") == {
            "type": "volume",
            "volsize": str(3 << 20),
        }
        node.imgadm.delete(wanted)
    finally:
        node.zfs.destroy(volume, recursive=True)
        node.files.delete(f"{name}.json")
        node.files.delete(f"{name}.zfs")


@pytest.mark.known("from source")
@pytest.mark.usefixtures("folder")
def test_what_a_killed_install_has_left(target, stream):
    """install fails where a -partial dataset lies, and removes it, so that the next one works."""
    node, wanted = target.node, str(uuid.uuid4())
    try:
        node.zfs.create(f"zones/{wanted}-partial")
        text = io.BytesIO(json.dumps(manifest_of(wanted, "zone-dataset", stream)).encode())
        manifest_path = node.files.write(f"nst-{wanted}.json", text)
        file_path = node.files.write(f"nst-{wanted}", io.BytesIO(stream))
        with pytest.raises(errors.ToolError):
            node.imgadm.install(manifest_path, file_path)
        node.imgadm.install(manifest_path, file_path)
        assert node.imgadm.get(wanted).manifest.name == "nst"
        node.imgadm.delete(wanted)
    finally:
        node.files.delete(f"nst-{wanted}.json")
        node.files.delete(f"nst-{wanted}")


@pytest.mark.known("recorded")
def test_what_is_no_uuid(target):
    """A malformed uuid has an error code of its own."""
    done = target.run("imgadm", "get", "nst")
    assert (done.returncode, done.stderr) == (
        1,
        'imgadm get: error (InvalidUUID): invalid uuid: "nst"\n',
    )


@pytest.mark.known("recorded")
def test_an_image_is_a_snapshot_to_clone(target, image):
    """The image is zones/UUID with the one snapshot @final; a VM is its clone."""
    names = [
        each.name
        for each in target.node.zfs.list(f"zones/{image('zone')}", types=("snapshot",), depth=1)
    ]
    assert f"zones/{image('zone')}@final" in names


@pytest.mark.known("from source")
def test_a_vm_is_a_clone(target, create, image):
    """A zone's dataset has the image's snapshot as its origin."""
    vm = target.node.vmadm.get(create("joyent-minimal", autoboot=False))
    origin = target.node.zfs.get(vm.zfs_filesystem, "origin")["origin"]
    assert origin == f"zones/{image('zone')}@final"


@pytest.mark.known("unverified")
@pytest.mark.usefixtures("folder")
def test_a_tree_of_files_becomes_a_dataset(target):
    """gtar unpacks into a dataset of its own, setuid bits included, where they mean nothing."""
    node, name = target.node, f"nst-{uuid.uuid4()}"
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as made:
        for path, mode in (("root/bin/su", 0o4755), ("root/bin/" + "long" * 40, 0o644)):
            member = tarfile.TarInfo(path)
            member.mode, member.size = mode, 3
            made.addfile(member, io.BytesIO(b"abc"))
        member = tarfile.TarInfo("root/sbin")
        member.type, member.linkname = tarfile.SYMTYPE, "/bin"
        made.addfile(member)
    archive.seek(0)
    node.zfs.create(f"{files.DATASET}/{name}", {"setuid": "off", "devices": "off", "exec": "off"})
    try:
        node.files.unpack_tree(name, archive)
        root = f"{files.FOLDER}/{name}/root"
        shown = target.run("ls", "-ldn", f"{root}/bin/su", f"{root}/sbin").stdout.splitlines()
        assert [line[:10] for line in shown] == ["-rwsr-xr-x", "lrwxrwxrwx"]
        listed = target.run("ls", "-1", f"{root}/bin").stdout.split()
        assert sorted(listed) == ["long" * 40, "su"]
    finally:
        node.zfs.destroy(f"{files.DATASET}/{name}", recursive=True)


@pytest.mark.known("recorded")
def test_create_wants_a_stopped_vm(target, create):
    """imgadm create refuses a running VM."""
    made = create("joyent-minimal")
    done = target.run("imgadm", "create", made, "name=nst", "version=1", "-o", "/var/tmp")
    assert done.returncode == 1
    assert f'imgadm create: error (VmNotStopped): vm "{made}" is not stopped\n' == done.stderr
