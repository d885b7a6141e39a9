# SPDX-License-Identifier: Apache-2.0
"""Tempest on a cloud: configured by what the driver really supports, run, and its results kept."""

import configparser
import io
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterable

from gate.cloud import contents, model, services, show

BIN = services.BIN
CONCURRENCY = 2


def configure(cloud: model.Cloud) -> pathlib.Path:
    """Write tempest.conf into a workspace of its own; the workspace."""
    workspace = cloud.base / "tempest"
    if workspace.exists():
        shutil.rmtree(workspace)
    services.command(cloud, "tempest", ["tempest", "init", str(workspace)], _home(workspace))
    connection = contents.connect(cloud)
    images = contents.images(cloud, ["zone", "zone-alt"])
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
                "image_ref": images["zone"],
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
    path.touch(mode=0o600)
    path.write_text(text.getvalue())
    return workspace


#: What zones can do: the images of the suite are zones.
FEATURES = {
    "resize": False,
    "cold_migration": False,
    "live_migration": False,
    "pause": False,
    "suspend": False,
    "shelve": False,
    "snapshot": False,
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


def run(cloud: model.Cloud, suite: str, left_out: Iterable[str], junit: pathlib.Path) -> bool:
    """Run a suite but for the ids that are left out; write its results; whether all went well."""
    workspace = configure(cloud)
    exclude = workspace / "left-out.txt"
    exclude.write_text("".join(f"^{_escaped(each)}(\\[|$)\n" for each in left_out))
    words = ["run", "--regex", rf"^{_escaped(suite)}\.", "--concurrency", str(CONCURRENCY)]
    with show.step(suite):
        done = subprocess.run(
            [BIN / "tempest", *words, "--exclude-list", str(exclude)],
            cwd=workspace,
            env={**os.environ, **_home(workspace), "PYTHONWARNINGS": "ignore"},
            stdin=subprocess.DEVNULL,
            check=False,
        )
    stream = subprocess.run(
        [BIN / "stestr", "last", "--subunit"], cwd=workspace, capture_output=True, check=False
    ).stdout
    junit.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [BIN / "subunit2junitxml", "-o", str(junit)], input=stream, capture_output=True, check=False
    )
    return done.returncode == 0


def _escaped(text: str) -> str:
    return text.replace(".", r"\.")


def _home(workspace: pathlib.Path) -> dict[str, str]:
    """Tempest finds its worker in PATH, and keeps a list of workspaces in its user's home."""
    return {"HOME": str(workspace.parent), "PATH": f"{BIN}:{os.environ.get('PATH', '')}"}
