# SPDX-License-Identifier: Apache-2.0
"""imgadm create: images from VMs, whole and incremental, prepared by hand or by a script."""

import hashlib
import json
import re

import pytest

from tests.unit.emulator import imgadm_node
from tests.unit.emulator.imgadm_node import OTHER, UUID, VM


@pytest.fixture
def bench(tmp_path):
    bench = imgadm_node.Bench(tmp_path)
    bench.installed()
    bench.node.add_vm(UUID)
    yield bench
    bench.node.storage.close()


def _root(bench, uuid=VM):
    return bench.node.storage.directory(f"zones/{uuid}") / "root"


def test_an_image_of_a_zone(bench):
    (_root(bench) / "etc/extra").write_text("more\n")
    done = bench.run("create", VM, "name=My Web", "version=2.0.1", "-c", "gzip")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"Inheriting from origin image {UUID} (image 1.0.0)\nManifest:\n")
    assert done.out.endswith(
        f'Snapshotting to "zones/{VM}@final"\nSending image file to "my-web-2.0.1.zfs"\n'
        'Saving manifest to "my-web-2.0.1.imgmanifest"\n'
    )
    manifest = json.loads((bench.cwd / "my-web-2.0.1.imgmanifest").read_text())
    assert manifest["requirements"] == {"min_platform": {"7.0": "20260312T000000Z"}}
    data = (bench.cwd / "my-web-2.0.1.zfs.gz").read_bytes()
    assert manifest["files"] == [
        {"size": len(data), "compression": "gzip", "sha1": hashlib.sha1(data).hexdigest()}
    ]
    assert not bench.node.storage.exists(f"zones/{VM}@final")
    bench.write("made", manifest)
    assert bench.install("made", "../cwd/my-web-2.0.1").status == 0
    assert (_root(bench, manifest["uuid"]) / "etc/extra").read_text() == "more\n"


def test_an_incremental_image(bench):
    (_root(bench) / "etc/extra").write_text("more\n")
    given = json.dumps({"uuid": OTHER, "description": "d"}).encode()
    done = bench.run(
        "create", "-i", "-m", "-", VM, "name=web", "version=2", "-o", str(bench.cwd), stdin=given
    )
    assert done.status == 0, done.err
    base = bench.cwd / "web-2"
    manifest = json.loads(base.with_suffix(".imgmanifest").read_text())
    assert (manifest["origin"], manifest["version"]) == (UUID, 2)
    installed = bench.run("install", "-m", f"{base}.imgmanifest", "-f", f"{base}.zfs")
    assert installed.status == 0, installed.err
    assert (_root(bench, OTHER) / "etc/extra").read_text() == "more\n"
    assert bench.node.storage.origin(f"zones/{OTHER}") == f"zones/{UUID}@final"
    assert re.findall(r"^(\S+) .*$", bench.run("ancestry", "-H", OTHER).out, re.M) == [OTHER, UUID]
    deep = bench.run("create", "-i", "--max-origin-depth", "1", VM)
    assert deep.err.startswith('imgadm create: error (Usage): invalid max-origin-depth "1": must')


def test_an_old_final_snapshot_moves_aside(bench):
    bench.node.storage.snapshot(f"zones/{VM}@final")
    done = bench.run("create", VM, "name=a", "version=1")
    assert f'Moving existing @final snapshot out of the way to "zones/{VM}@final-' in done.out


@pytest.mark.parametrize(
    ("brand", "expected"),
    [("lx", {"brand": "lx"}), ("joyent", {"min_platform": {"7.0": "20260312T000000Z"}})],
)
def test_what_an_image_requires(bench, brand, expected):
    bench.node.vms.records[VM]["brand"] = brand
    assert bench.run("create", VM, "name=a", "version=1").status == 0
    manifest = json.loads((bench.cwd / "a-1.imgmanifest").read_text())
    assert manifest["requirements"] == expected


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([OTHER], f'error (VmNotFound): vm "{OTHER}" was not found'),
        ([VM, "x"], 'error (Usage): invalid manifest field arg "x": must match "<field>=<value>"'),
        ([VM, "-c", "zip"], 'error (Usage): invalid -c,--compression "zip": must be one of "none"'),
        ([VM, "-o", "a", "-p", "b"], "error (Usage): cannot specify both -o,--output-template and"),
        ([VM, "-m", "no"], "error (ENOENT): ENOENT, no such file or directory 'no'"),
        ([VM, "-m", "-"], "error (Usage): invalid manifest JSON on stdin: SyntaxError: Unexpected"),
        ([VM], "error (ManifestValidation): invalid manifest: name (MissingParameter), version ("),
    ],
)
def test_what_create_refuses(bench, arguments, text):
    done = bench.run("create", *arguments)
    assert done.status == 1
    assert done.err.startswith(f"imgadm create: {text}")


def test_a_running_vm(bench):
    bench.node.vms.records[VM]["state"] = "running"
    done = bench.run("create", VM, "name=a", "version=1")
    assert done.err == f'imgadm create: error (VmNotStopped): vm "{VM}" is not stopped\n'


def test_no_origin_to_build_on(bench):
    bench.node.storage.rename(f"zones/{UUID}@final", f"zones/{UUID}@other")
    done = bench.run("create", "-i", VM, "name=a", "version=1")
    assert "error (OriginHasNoFinalSnapshot): " in done.err
    bench.node.vms.records[VM]["image_uuid"] = OTHER
    done = bench.run("create", "-i", VM, "name=a", "version=1", "type=other", "os=other")
    assert done.err == (
        "imgadm create: error (VmHasNoOrigin): cannot create an incremental image: "
        f'vm "{VM}" has no origin\n'
    )


class TestPrepare:
    """With -s the VM prepares itself, and is afterwards as it was."""

    @pytest.fixture
    def running(self, bench):
        bench.node.vms.records[VM]["state"] = "running"
        (bench.cwd / "prepare").write_text("#!/bin/bash\n")
        (_root(bench) / "etc/hostid").write_text("1\n")
        return bench

    def _create(self, bench, metadata, down=True):
        def guest(vm):
            (_root(bench) / "etc/hostid").unlink(missing_ok=True)
            vm["customer_metadata"] = metadata
            vm["state"] = "stopped" if down else "running"

        bench.node.vms.on_start = guest
        return bench.run("create", "-s", "prepare", VM, "name=a", "version=1")

    def test_it_works(self, running):
        done = self._create(running, {"prepare-image:state": "success"})
        assert done.status == 0, done.err
        assert [
            line for line in done.out.splitlines() if VM in line or line.startswith("Prep")
        ] == [
            f"Stopping VM {VM} to snapshot it",
            f'Snapshotting VM "{VM}" to @imgadm-create-pre-prepare',
            f"Preparing VM {VM} (starting it)",
            "Prepare script is running",
            "Prepare script succeeded",
            f"Prepare script stopped VM {VM}",
            f'Snapshotting to "zones/{VM}@final"',
            f"Rollback VM {VM} to pre-prepare snapshot (cleanup)",
            f"Restarting VM {VM} (cleanup)",
        ]
        # The guest of this test prepares itself at every start, the last one too.
        assert running.node.vms.calls[-1] == ("start", VM)
        assert running.node.storage.snapshots(f"zones/{VM}") == []

    def test_the_script_fails(self, running):
        metadata = {"prepare-image:state": "error", "prepare-image:error": "no\nway"}
        done = self._create(running, metadata)
        assert done.err == (
            f"imgadm create: error (PrepareImageError): prepare-image script error while "
            f"preparing VM {VM}:\n    ...\n    no\n    way\n"
        )

    def test_the_script_does_not_run(self, running):
        running.node.clock.speed = 100_000
        done = self._create(running, {})
        assert "Timeout waiting for prepare-image script to signal it started\n" in done.out
        assert "error (PrepareImageDidNotRun): " in done.err

    def test_the_vm_stays_up(self, running):
        running.node.clock.speed = 100_000
        done = self._create(running, {"prepare-image:state": "success"}, down=False)
        assert done.err.endswith(f"while preparing VM {VM}: VM did not shutdown\n")
        assert ("stop", VM, True) in running.node.vms.calls
