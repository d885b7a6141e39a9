# SPDX-License-Identifier: Apache-2.0
"""The life of a VM: created, stopped, started, deleted, and what each step leaves behind."""

import concurrent.futures
import uuid

import pytest

from nova_smartos.smartos import errors

ZONES = ["joyent-minimal", "lx"]
ALL = [*ZONES, "bhyve"]
MISSING = "11111111-0000-4000-8000-000000000000"


@pytest.mark.known("recorded")
@pytest.mark.parametrize("brand", ALL)
def test_create(target, create, brand):
    """vmadm create says so on stderr, keeps the uuid it was given, and leaves the VM running."""
    made = create(brand)
    vm = target.node.vmadm.get(made)
    assert (vm.uuid, vm.brand, vm.state, vm.zone_state) == (made, brand, "running", "running")
    assert vm.autoboot is True


@pytest.mark.known("recorded")
def test_create_speaks_on_stderr(target, payload):
    """vmadm prints nothing on stdout when it creates."""
    document = payload("joyent-minimal", autoboot=False)
    done = target.run("vmadm", "create", document=document)
    try:
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == f"Successfully created VM {document['uuid']}\n"
    finally:
        target.node.vmadm.delete(document["uuid"])


@pytest.mark.known("recorded")
def test_create_without_autoboot(target, create):
    """autoboot=false: create returns when the VM is installed and stopped."""
    vm = target.node.vmadm.get(create("joyent-minimal", autoboot=False))
    assert (vm.state, vm.zone_state, vm.autoboot, vm.zoneid) == (
        "stopped",
        "installed",
        False,
        None,
    )


@pytest.mark.known("recorded")
def test_create_twice(target, create, payload):
    """A second create with the same uuid is refused and changes nothing."""
    made = create("joyent-minimal")
    with pytest.raises(errors.AlreadyExists):
        target.node.vmadm.create(payload("joyent-minimal", uuid=made, alias="nst-other"))
    assert target.node.vmadm.get(made).alias != "nst-other"


@pytest.mark.known("recorded")
def test_create_drops_what_it_does_not_know(target, create):
    """create drops unknown properties silently; validate names them."""
    made = create("joyent-minimal", autoboot=False, nst_bogus=1)
    assert "nst_bogus" not in target.node.vmadm.get(made).document
    verdict = target.node.vmadm.validate("update", {"nst_bogus": 1}, "joyent-minimal")
    assert tuple(verdict.bad_properties) == ("nst_bogus",)


@pytest.mark.known("recorded")
def test_create_of_nothing(target):
    """An empty payload lacks an image; broken JSON and a missing file are said to be that."""
    assert (
        target.run("vmadm", "create", raw="{}").stderr
        == "Missing required properties: image_uuid\n"
    )
    assert target.run("vmadm", "create", raw="").stderr == (
        "Invalid JSON payload: Unexpected end of input\n"
    )
    done = target.run("vmadm", "create", "-f", "/nst-nothing.json")
    assert (done.returncode, done.stderr) == (1, "File: /nst-nothing.json does not exist.\n")


@pytest.mark.known("recorded")
def test_an_image_that_is_not_there(target, payload):
    """create with an image that is not installed names image_uuid and makes nothing."""
    document = payload("joyent-minimal", image_uuid=str(uuid.uuid4()))
    with pytest.raises(errors.InvalidPayload, match="image_uuid"):
        target.node.vmadm.create(document)
    with pytest.raises(errors.NotFound):
        target.node.vmadm.get(document["uuid"])


@pytest.mark.known("recorded")
@pytest.mark.parametrize("brand", ALL)
def test_stop_and_start(target, create, brand):
    """stop clears autoboot, start sets it; both keep the VM."""
    made = create(brand)
    assert target.node.vmadm.stop(made) is True
    vm = target.node.vmadm.get(made)
    assert (vm.state, vm.zone_state, vm.autoboot) == ("stopped", "installed", False)
    assert target.node.vmadm.start(made) is True
    vm = target.node.vmadm.get(made)
    assert (vm.state, vm.zone_state, vm.autoboot) == ("running", "running", True)


@pytest.mark.known("recorded")
def test_stop_and_start_again(target, create):
    """start of a running VM and stop of a stopped one succeed, and say that nothing happened."""
    made = create("joyent-minimal")
    done = target.run("vmadm", "start", made)
    assert (done.returncode, done.stderr) == (
        0,
        f"Unable to start VM {made}: VM {made} is already 'running'\n",
    )
    target.node.vmadm.stop(made)
    done = target.run("vmadm", "stop", made)
    assert (done.returncode, done.stderr) == (
        0,
        f"VM {made} is already not 'running' (currently: stopped)\n",
    )


@pytest.mark.known("recorded")
def test_forced_stop_of_a_stopped_vm(target, create):
    """stop -F of a stopped VM fails, although nothing is wrong; the toolkit takes it as done."""
    made = create("joyent-minimal", autoboot=False)
    done = target.run("vmadm", "stop", "-F", made)
    assert (done.returncode, done.stderr) == (
        1,
        f"first of 1 error: VM {made} is already not 'running' (currently: stopped)\n",
    )
    assert target.node.vmadm.stop(made, force=True) is False


@pytest.mark.known("recorded")
@pytest.mark.parametrize("brand", ZONES)
def test_stop_with_a_timeout_is_for_hvm(target, create, brand):
    """Only HVM brands and docker take stop -t."""
    made = create(brand)
    with pytest.raises(errors.Unsupported):
        target.node.vmadm.stop(made, seconds=5)


@pytest.mark.known("recorded")
@pytest.mark.parametrize("brand", ALL)
@pytest.mark.parametrize("force", [False, True])
def test_reboot(target, create, brand, force):
    """reboot ends with the VM running, in a zone with a new id."""
    made = create(brand)
    before = target.node.vmadm.get(made).zoneid
    target.node.vmadm.reboot(made, force=force)
    vm = target.node.vmadm.get(made)
    assert vm.state == "running"
    assert vm.zoneid != before


@pytest.mark.known("recorded")
def test_reboot_of_a_stopped_vm(target, create):
    """A stopped VM cannot be rebooted."""
    made = create("joyent-minimal", autoboot=False)
    with pytest.raises(errors.InvalidState):
        target.node.vmadm.reboot(made)


@pytest.mark.known("recorded")
def test_delete(target, create):
    """delete works on a running VM and takes its datasets away; a second one finds no VM."""
    made = create("joyent-minimal")
    dataset = target.node.vmadm.get(made).zfs_filesystem
    target.node.vmadm.delete(made)
    with pytest.raises(errors.NotFound):
        target.node.zfs.get(dataset, "name")
    with pytest.raises(errors.NotFound):
        target.node.vmadm.delete(made)


@pytest.mark.known("from source")
def test_an_indestructible_vm(target, create):
    """delete refuses an indestructible zone root, until the flag is taken away."""
    made = create("joyent-minimal", autoboot=False)
    target.node.vmadm.update(made, {"indestructible_zoneroot": True})
    with pytest.raises(errors.InvalidState):
        target.node.vmadm.delete(made)
    target.node.vmadm.update(made, {"indestructible_zoneroot": False})
    target.node.vmadm.delete(made)


@pytest.mark.known("recorded")
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["get"], "zoneadm: {}: No such zone configured\n"),
        (["start"], "Unable to start VM {}: bad statusCode: 404\n"),
        (["stop"], "VM {} not found\n"),
        (["stop", "-F"], "bad statusCode: 404\n"),
        (["reboot"], "bad statusCode: 404\n"),
        (["kill"], "bad statusCode: 404\n"),
        (["console"], "bad statusCode: 404\n"),
        (["delete"], "Failed to delete VM {0}: VM {0} not found\n"),
        (["info"], "Unable to get VM info for VM {}: bad statusCode: 404\n"),
    ],
)
def test_a_vm_that_is_not_there(target, words, text):
    """Each command has its own text for a VM that is not there."""
    done = target.run("vmadm", words[0], MISSING, *words[1:])
    assert (done.returncode, done.stdout, done.stderr) == (1, "", text.format(MISSING))


@pytest.mark.known("recorded")
def test_usage(target):
    """No command, a wrong command and a malformed uuid end with status 2 and the usage."""
    for words in ([], ["frob"], ["start", "nst"]):
        done = target.run("vmadm", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Usage: " in done.stderr or "usage" in done.stderr.lower()


@pytest.mark.known("recorded")
def test_listing(target, create, name):
    """list and lookup find a VM by alias; lookup -j is what get shows, with its type and ram."""
    made = create("joyent-minimal", autoboot=False)
    assert target.run("vmadm", "lookup", f"alias={name}").stdout == f"{made}\n"
    assert target.run("vmadm", "lookup", "-1", f"alias={name}").stdout == f"{made}\n"
    (found,) = target.node.vmadm.lookup({"alias": name})
    assert found.document == {**target.node.vmadm.get(made).document, "type": "OS", "ram": 256}
    row = target.run("vmadm", "list", "-p", "-o", "uuid,type,state,alias", f"uuid={made}").stdout
    assert row == f"{made}:OS:stopped:{name}\n"


@pytest.mark.known("recorded")
def test_listing_of_nothing(target):
    """Nothing found is no error for lookup, but it is one for lookup -1."""
    assert target.run("vmadm", "lookup", "alias=nst-none").stdout == ""
    assert target.run("vmadm", "lookup", "-j", "alias=nst-none").stdout == "[]\n"
    done = target.run("vmadm", "lookup", "-1", "alias=nst-none")
    assert (done.returncode, done.stderr) == (1, "Requested unique lookup but found 0 results.\n")
    done = target.run("vmadm", "list", "nst=1")
    assert (done.returncode, done.stderr) == (1, 'Invalid filter key: "nst"\n')


@pytest.mark.known("from source")
def test_parallel_creates(target, create):
    """Creates of different VMs do not disturb each other."""
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        made = [pool.submit(create, "joyent-minimal") for _ in range(6)]
        states = {target.node.vmadm.get(each.result()).state for each in made}
    assert states == {"running"}


@pytest.mark.known("recorded")
@pytest.mark.parametrize(("word", "said"), [("KILL", "KILL"), ("-SIGHUP", "SIGHUP")])
def test_kill(target, create, word, said):
    """kill signals the zone's init and repeats the signal's name as it was typed."""
    made = create("joyent-minimal")
    words = ["-s", word] if not word.startswith("-") else [word]
    done = target.run("vmadm", "kill", *words, made)
    assert (done.returncode, done.stderr) == (
        0,
        f'Sent signal "{said}" to init process for VM {made}\n',
    )


@pytest.mark.known("recorded")
def test_info(target, create):
    """info is for HVM; a zone has none."""
    with pytest.raises(errors.Unsupported):
        target.node.vmadm.info(create("lx"))
