# SPDX-License-Identifier: Apache-2.0
"""Tempest on a cloud: configured by what the driver really supports, run, and its results kept."""

import configparser
import dataclasses
import io
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping

import yaml

from gate import report
from gate.cloud import contents, files, install, model, processes, services, show

BIN = services.BIN
CONCURRENCY = 2
#: The longest that Tempest may take to list its tests, and a suite to run.
_LIST_SECONDS, _RUN_SECONDS = 300, 2400
_SUBUNIT_SECONDS = 300


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
                # a busy machine takes its time, and Neutron tries again what has collided
                "build_timeout": 300,
                "ready_wait": 0,
                "shelved_offload_time": 0,
            },
            "compute-feature-enabled": FEATURES
            | {"scheduler_enabled_filters": ",".join(files.FILTERS)}
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
    "snapshot": True,
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


@dataclasses.dataclass(frozen=True)
class Lists:
    """Which of Tempest's tests run where, by id; together they are all of them."""

    #: that pass on zones
    passing: frozenset[str]
    #: that pass in a suite with another name's end, by that
    elsewhere: Mapping[str, frozenset[str]]
    #: that do not run, and why
    left_out: Mapping[str, str]
    #: that skip themselves, or of which a class or module does, and why
    skipped: Mapping[str, str]

    @classmethod
    def load(cls) -> "Lists":
        """The lists beside this file."""
        folder = install.ROOT / "gate"
        told = yaml.safe_load((folder / "left-out.yaml").read_text())
        return cls(
            frozenset((folder / "passing.txt").read_text().split()),
            {f".{name}": frozenset(ids) for name, ids in told["elsewhere"].items()},
            told["left_out"],
            {each: reason for reason, found in told["skipped"].items() for each in found},
        )

    def suite(self, name: str) -> tuple[str, str]:
        """The part of Tempest that a suite runs, and the end of its name."""
        end = next((each for each in self.elsewhere if name.endswith(each)), "")
        return name.removesuffix(end), end

    def wanted(self, name: str) -> frozenset[str]:
        """The tests that must pass in a suite."""
        base, end = self.suite(name)
        return frozenset(
            each for each in (self.elsewhere[end] if end else self.passing) if _within(each, base)
        )

    def complaints(self, known: Collection[str], base: str) -> list[str]:
        """Where the lists and Tempest differ on a part of it."""
        lists = [self.passing, *self.elsewhere.values(), frozenset(self.left_out)]
        named = [each for ids in lists for each in ids if _within(each, base)]
        here = {each for each in known if _within(each, base)}
        found = [f"{each} is not among Tempest's tests" for each in set(named) - here]
        found += [f"{each} is in two lists" for each in set(named) if named.count(each) > 1]
        silent = here - set(named)
        found += [
            f"{each} is in no list"
            for each in silent
            if not any(_within(each, prefix) for prefix in self.skipped)
        ]
        found += [
            f"{prefix} skips nothing"
            for prefix in self.skipped
            if _within(prefix, base) and not any(_within(each, prefix) for each in silent)
        ]
        return sorted(found)


def run(cloud: model.Cloud, suite: str, junit: pathlib.Path) -> list[str]:
    """Run a suite; what is wrong with it, or with what it has found."""
    lists = Lists.load()
    base, end = lists.suite(suite)
    workspace = configure(cloud, "kvm" if end == ".kvm" else "zone")
    wrong = lists.complaints(_known(workspace), base)
    other = frozenset().union(*lists.elsewhere.values())
    not_here = [] if end else [*lists.left_out, *other]
    exclude = workspace / "exclude.txt"
    exclude.write_text("".join(f"^{re.escape(each)}(\\[|$)\n" for each in not_here))
    chosen = [rf"{re.escape(each)}(\[|$)" for each in sorted(lists.wanted(suite))]
    regex = "|".join(chosen) if end else rf"{re.escape(base)}([.\[]|$)"
    words = ["run", "--regex", f"^({regex})", "--concurrency", str(CONCURRENCY)]
    with show.step(suite):
        try:
            processes.bounded(
                [str(BIN / "tempest"), *words, "--exclude-list", str(exclude)],
                _RUN_SECONDS,
                cwd=workspace,
                env=_environment(workspace),
            )
        except subprocess.TimeoutExpired:
            wrong.append(f"it took more than {_RUN_SECONDS} s")
    stream = subprocess.run(
        [BIN / "stestr", "last", "--subunit"],
        cwd=workspace,
        capture_output=True,
        timeout=_SUBUNIT_SECONDS,
        check=False,
    ).stdout
    junit.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [BIN / "subunit2junitxml", "-o", str(junit)],
        input=stream,
        capture_output=True,
        timeout=_SUBUNIT_SECONDS,
        check=False,
    )
    found = report.cases(junit) if junit.is_file() else []
    passed = {each.name.partition("[")[0] for each in found if each.outcome == "passed"}
    missed = sorted(lists.wanted(suite) - passed)
    return [*wrong, *(f"{each} has not passed" for each in missed)]


def _within(each: str, prefix: str) -> bool:
    """Whether a test is in a module or class, or is it."""
    return f"{each}.".startswith(f"{prefix}.")


def _known(workspace: pathlib.Path) -> set[str]:
    done = subprocess.run(
        [BIN / "tempest", "run", "--list-tests"],
        cwd=workspace,
        env=_environment(workspace),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_LIST_SECONDS,
        check=True,
    )
    return {line.partition("[")[0] for line in done.stdout.split()}


def _environment(workspace: pathlib.Path) -> dict[str, str]:
    return {**os.environ, **_home(workspace), "PYTHONWARNINGS": "ignore"}


def _home(workspace: pathlib.Path) -> dict[str, str]:
    """Tempest finds its worker in PATH."""
    return {"HOME": str(workspace.parent), "PATH": f"{BIN}:{os.environ.get('PATH', '')}"}
