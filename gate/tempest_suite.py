# SPDX-License-Identifier: Apache-2.0
"""Tempest on a cloud: configured by what the driver really supports, run, and its results kept."""

import configparser
import io
import os
import pathlib
import re
import shutil
import subprocess
from typing import Any

import yaml

from gate.cloud import contents, install, model, services, show

BIN = services.BIN
CONCURRENCY = 2
#: How the name of a suite ends whose servers are virtual machines under KVM.
KVM = ".kvm"


def configure(cloud: model.Cloud, image: str) -> pathlib.Path:
    """Write tempest.conf into a workspace of its own; the workspace."""
    # Tempest keeps a list of workspaces in its user's home, here the folder of the workspace
    shutil.rmtree(cloud.base / "tempest", ignore_errors=True)
    workspace = cloud.folder("tempest") / "workspace"
    services.command(cloud, "tempest", ["tempest", "init", str(workspace)], _home(workspace))
    connection = contents.connect(cloud)
    images = contents.images(cloud, [image, "zone-alt"])
    public = connection.network.find_network("public")
    extensions = ",".join(sorted(each.alias for each in connection.network.extensions()))
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_dict(
        {
            "DEFAULT": {"log_file": "tempest.log"},
            "oslo_concurrency": {"lock_path": workspace / "lock"},
            "auth": {
                "admin_username": "admin",
                "admin_password": cloud.password,
                "admin_project_name": "admin",
                "admin_domain_name": "Default",
            },
            "identity": {
                "uri_v3": cloud.url("keystone", "/v3"),
                "auth_version": "v3",
                "region": model.REGION,
            },
            "identity-feature-enabled": {"api_v2": False},
            "service_available": {
                "cinder": False,
                "swift": False,
                "horizon": False,
                "neutron": True,
                "nova": True,
                "glance": True,
            },
            "compute": {
                "image_ref": images[image],
                "image_ref_alt": images["zone-alt"],
                "flavor_ref": "1",
                "flavor_ref_alt": "2",
                "min_compute_nodes": len(cloud.nodes),
                "max_microversion": "latest",
                "build_timeout": 120,
                "ready_wait": 0,
                "shelved_offload_time": 0,
            },
            "compute-feature-enabled": FEATURES
            # with it on zones, tests that only list images would first make some
            | {"snapshot": image == "kvm"}
            | {"vnc_console": "consoles" in cloud.sets, "serial_console": "consoles" in cloud.sets},
            "network": {
                "project_networks_reachable": False,
                "public_network_id": public.id,
                "floating_network_name": "public",
            },
            "image-feature-enabled": {"import_image": False},
            "network-feature-enabled": {"api_extensions": extensions},
            "validation": {"run_validation": False},
            "enforce_scope": dict.fromkeys(("nova", "glance", "neutron", "placement"), True),
        }
    )
    text = io.StringIO()
    parser.write(text)
    path = workspace / "etc/tempest.conf"
    # Tempest has made it already, for all to read
    path.touch()
    path.chmod(0o600)
    path.write_text(text.getvalue())
    return workspace


#: What is on here and some brand or the driver cannot do stands in left-out.yaml, test by test: a
#: feature that is off skips more than it must.
FEATURES = {
    "resize": True,
    "cold_migration": True,
    # its tests of what is refused; those that migrate want block migration, which is off
    "live_migration": True,
    "pause": True,
    "suspend": True,
    "shelve": True,
    "rescue": True,
    "interface_attach": True,
    "console_output": True,
    "change_password": True,
    "config_drive": True,
    "disk_config": True,
    "metadata_service": False,
    "personality": False,
    "attach_encrypted_volume": False,
    "swap_volume": False,
    "volume_backed_live_migration": False,
}


def run(cloud: model.Cloud, suite: str, junit: pathlib.Path) -> bool:
    """Run a suite on zones, or some of its tests on KVM; whether all went well."""
    base = suite.removesuffix(KVM)
    on_kvm = suite != base
    workspace = configure(cloud, "kvm" if on_kvm else "zone")
    ids = [] if on_kvm else [*left_out(), *_listed()["on_kvm"]]
    _check_known(workspace, [*left_out(), *_listed()["on_kvm"]])
    exclude = workspace / "left-out.txt"
    exclude.write_text("".join(f"^{re.escape(each)}(\\[|$)\n" for each in ids))
    chosen = "|".join(map(re.escape, _listed()["on_kvm"])) if on_kvm else rf"{re.escape(base)}\."
    words = ["run", "--regex", f"^({chosen})", "--concurrency", str(CONCURRENCY)]
    with show.step(suite):
        done = _tempest(workspace, *words, "--exclude-list", str(exclude))
    stream = subprocess.run(
        [BIN / "stestr", "last", "--subunit"], cwd=workspace, capture_output=True, check=False
    ).stdout
    junit.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [BIN / "subunit2junitxml", "-o", str(junit)], input=stream, capture_output=True, check=False
    )
    return done.returncode == 0


def left_out() -> dict[str, str]:
    """The tests that do not run, and why."""
    found: dict[str, str] = _listed()["left_out"]
    return found


def _check_known(workspace: pathlib.Path, ids: list[str]) -> None:
    """An id that Tempest does not know leaves out nothing, and hides that."""
    said = _tempest(workspace, "run", "--list-tests", stdout=subprocess.PIPE).stdout
    known = {line.partition("[")[0] for line in said.splitlines()}
    if unknown := set(ids) - known:
        raise services.Failed(f"left-out.yaml names tests that Tempest does not have: {unknown}")


def _tempest(
    workspace: pathlib.Path, *words: str, **more: Any
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [BIN / "tempest", *words],
        cwd=workspace,
        env={**os.environ, **_home(workspace), "PYTHONWARNINGS": "ignore"},
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
        **more,
    )


def _listed() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((install.ROOT / "gate/left-out.yaml").read_text())
    return found


def _home(workspace: pathlib.Path) -> dict[str, str]:
    """Tempest finds its worker in PATH."""
    return {"HOME": str(workspace.parent), "PATH": f"{BIN}:{os.environ.get('PATH', '')}"}
