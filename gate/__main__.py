# SPDX-License-Identifier: Apache-2.0
"""make gate: user stories and Tempest on a real cloud; the results are in build/gate."""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

from gate.cloud import cli, install

FOLDER = install.ROOT / "build/gate"
SUITES = ("stories", "tempest.api.compute", "tempest.api.compute.kvm")


def main(words: list[str]) -> int:
    """Run the suites, all or some; 0 if nothing failed."""
    options = _parser().parse_args(words)
    cloud = [str(install.ROOT / "gate/smartos-cloud"), "-d", str(FOLDER / "cloud")]
    up = [*cloud, "up", "--fresh", "--with", "consoles", "--with", "gate"]
    up += cli.node_words(options)
    # what an earlier run has found must not stand for this one
    for old in [*FOLDER.glob("*.junit.xml"), FOLDER / "summary.json", FOLDER / "index.html"]:
        old.unlink(missing_ok=True)
    try:
        if status := subprocess.run(up, check=False).returncode:
            return status
        # the suites need what `up` has installed
        python = install.VENV / "bin/python"
        status = subprocess.run(
            [python, "-m", "gate.suites", *(options.suites or SUITES)],
            cwd=install.ROOT,
            env={**os.environ, "SMARTOS_CLOUD": str(FOLDER / "cloud")},
            check=False,
        ).returncode
    finally:
        _keep_logs()
        if not options.keep:
            subprocess.run([*cloud, "down"], check=True)
    return status


def _keep_logs() -> None:
    shutil.rmtree(FOLDER / "logs", ignore_errors=True)
    logs: pathlib.Path = FOLDER / "cloud/logs"
    if logs.is_dir():
        shutil.copytree(logs, FOLDER / "logs")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m gate", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}")
    parser.add_argument("--keep", action="store_true", help="leave the cloud up")
    cli.add_node_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
