# SPDX-License-Identifier: Apache-2.0
"""make gate: user stories and Tempest on a real cloud; the results are in build/gate."""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

from gate.cloud import call, cli, install, processes

FOLDER = install.ROOT / "build/gate"
SUITES = ("stories", "tempest.api.compute", "tempest.api.compute.kvm")
#: The optional sets of a cloud, and where its logs are kept: meters have one of their own, so that
#: what they cost costs no other suite.
_SETS = {False: ("consoles", "logs"), True: ("telemetry", "logs-telemetry")}
#: The longest that a cloud may take to come up, with all that is installed, and to go.
_UP_SECONDS, _DOWN_SECONDS = 3600, 900


def main(words: list[str]) -> int:
    """Run the suites, all or some; 0 if nothing failed."""
    options = _parser().parse_args(words)
    call.end_as_by_ctrl_c()
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        with call.alone(FOLDER):
            return _run(options)
    except call.Busy as busy:
        print(f"gate: {busy}", file=sys.stderr)
        return 1
    except subprocess.TimeoutExpired as error:
        print(f"gate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace) -> int:
    # what an earlier run has found must not stand for this one
    for old in [*FOLDER.glob("*.junit.xml"), FOLDER / "summary.json", FOLDER / "index.html"]:
        old.unlink(missing_ok=True)
    chosen = options.suites or SUITES
    status = 0
    for metered, (set_, logs) in _SETS.items():
        if suites := [each for each in chosen if (each == "telemetry") is metered]:
            status |= _run_on_cloud(options, set_, logs, suites)
    return status


def _run_on_cloud(options: argparse.Namespace, set_: str, logs: str, suites: list[str]) -> int:
    base = FOLDER / "cloud"
    cloud = [str(install.ROOT / "gate/smartos-cloud"), "-d", str(base)]
    up = [*cloud, "up", "--fresh", "--with", set_, "--with", "gate"]
    up += cli.node_words(options)
    status = 1
    try:
        if status := call.run(up, _UP_SECONDS):
            return status
        # the suites need what `up` has installed
        python = str(install.VENV / "bin/python")
        status = call.run(
            [python, "-m", "gate.suites", *suites],
            cwd=install.ROOT,
            # a killed run's suites end with its cloud
            env={
                **os.environ,
                **processes.mark(base, processes.SUITES),
                "SMARTOS_CLOUD": str(base),
            },
        )
    finally:
        _keep_logs(logs)
        if not options.keep:
            # what ends all of us, a second time, is not to keep a cloud from its end
            status |= call.run([*cloud, "down"], _DOWN_SECONDS, apart=True)
    return status


def _keep_logs(name: str) -> None:
    shutil.rmtree(FOLDER / name, ignore_errors=True)
    logs: pathlib.Path = FOLDER / "cloud/logs"
    if logs.is_dir():
        shutil.copytree(logs, FOLDER / name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m gate", description=__doc__)
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}, telemetry, idle"
    )
    parser.add_argument("--keep", action="store_true", help="leave the (last) cloud up")
    cli.add_node_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
