# SPDX-License-Identifier: Apache-2.0
"""The subcommands of smartos-cloud."""

import argparse
import concurrent.futures
import functools
import json
import os
import pathlib
import shutil
import sys
import time
from typing import Any

from gate.cloud import (
    contents,
    files,
    install,
    model,
    nodes,
    processes,
    questions,
    services,
    show,
)
from gate.cloud import up as up_module

#: What runs for an optional set besides its APIs.
_PROGRAMS_OF_SETS = {
    "consoles": ("nova-novncproxy", "nova-serialproxy"),
    "telemetry": (
        "ceilometer-notification",
        "ceilometer-polling",
        "cloudkitty-processor",
        "gnocchi-metricd",
    ),
    "volumes": ("cinder-scheduler", "cinder-volume"),
}


def run(options: argparse.Namespace) -> int:
    """Run what the command line names; the exit status."""
    try:
        _COMMANDS[options.command](options)
    except (services.Failed, TimeoutError) as failed:
        print(show.paint("31", f"smartos-cloud: {failed}"), file=sys.stderr)
        return 1
    return 0


def up(options: argparse.Namespace) -> None:
    """Start the cloud, unless it is up."""
    base = options.directory
    sets = frozenset(options.sets)
    known = model.Cloud.load(base)
    missing = _missing(known) if known is not None and known.up else set()
    if known is not None and known.up and not options.fresh and not missing:
        if lacking := sets - known.sets:
            raise services.Failed(
                f"the cloud in {base} is up without {', '.join(lacking)}: use --fresh"
            )
        show.say(f"The cloud in {base} is up already")
    else:
        if missing:
            show.say(f"No longer up: {', '.join(sorted(missing))}. All starts anew")
        down(options)
        cloud = _planned(options, base, sets)
        show.say(f"Starting a cloud in {base}")
        with show.step("all of it"):
            up_module.up(cloud)
    show.say(f"Use it:  {_line(base)} exec openstack server list")


def down(options: argparse.Namespace) -> None:
    """Stop what is left of a cloud, and remove its folder."""
    base = options.directory
    cloud = model.Cloud.load(base)
    left: list[str] = []
    if (
        base.exists()
        and cloud is None
        and any(each != model.unfinished(base) for each in base.iterdir())
    ):
        raise services.Failed(f"{base} is there but holds no cloud; it stays as it is")
    if cloud is not None:
        show.say(f"Stopping the cloud in {base}")
        # an earlier one may have been killed after it had removed them
        cloud.folder("logs")
        # first, or they make more of what is to be removed
        processes.stop(base, which=_makes_more)
        left = nodes.down(cloud)
    processes.stop(base)
    if left:
        raise services.Failed(f"{'; '.join(left)}. {base} stays, to try again with")
    if base.exists():
        remove(base)


def status(options: argparse.Namespace) -> None:
    """Ask what should run, and say what it costs; that something is down is a failure."""
    cloud = _cloud(options)
    found = _measured(cloud, options.seconds or (60.0 if options.json else 1.0))
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for each in found["services"]:
            state = show.paint("32", "up") if each["up"] else show.paint("31", "down")
            print(
                f"{each['service']:24} {state:4}"
                f" {each['pss_mib']:7.1f} MiB {each['cpu_percent']:6.1f} %"
            )
        print(f"{'all':24} {'':4} {found['pss_mib']:7.1f} MiB {found['cpu_percent']:6.1f} %")
    if down := [each["service"] for each in found["services"] if not each["up"]]:
        raise services.Failed(f"down: {', '.join(down)}")


def logs(options: argparse.Namespace) -> None:
    """Show a log, or which there are."""
    cloud = _cloud(options)
    if options.service is None:
        print("\n".join(sorted(path.stem for path in cloud.folder("logs").glob("*.log"))))
        return
    path = cloud.log(options.service)
    if not path.is_file():
        raise services.Failed(f"there is no log of {options.service}")
    words = ["tail", *(["-F"] if options.follow else []), "-n", "+1", str(path)]
    os.execvp("tail", words)


def execute(options: argparse.Namespace) -> None:
    """Run a command with the cloud's administrator in its environment."""
    cloud = _cloud(options)
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if not words:
        raise services.Failed("exec needs a command")
    path = f"{install.VENV / 'bin'}:{os.environ.get('PATH', '')}"
    try:
        os.execvpe(words[0], words, {**os.environ, **cloud.environment, "PATH": path})
    except FileNotFoundError:
        raise services.Failed(f"there is no command {words[0]}") from None


def _makes_more(process: processes.Process) -> bool:
    return process.service == processes.SUITES or process.service.startswith("nova-compute-")


def _cloud(options: argparse.Namespace) -> model.Cloud:
    cloud = model.Cloud.load(options.directory)
    if cloud is None:
        raise services.Failed(f"there is no cloud here: {_line(options.directory)} up")
    return cloud


def expected(cloud: model.Cloud) -> list[str]:
    """The services that run in a cloud that is up."""
    emulated = [node.host for node in cloud.nodes if node.emulated]
    computes = [f"nova-compute-{node.host}" for node in cloud.nodes]
    apis = [
        "keystone",
        *(name for name, (_, path) in files.services(cloud).items() if path is not None),
    ]
    others = ["mariadb", "memcached", "rabbitmq", "nova-conductor", "nova-scheduler"]
    optional = [name for each in cloud.sets for name in _PROGRAMS_OF_SETS.get(each, ())]
    return sorted([*apis, *others, *emulated, *computes, *optional])


def _line(base: pathlib.Path) -> str:
    """How the command is called for a folder."""
    script = os.path.relpath(install.ROOT / "gate/smartos-cloud")
    return f"{script} -d {os.path.relpath(base)}"


def _measured(cloud: model.Cloud, seconds: float) -> dict[str, Any]:
    before = {each: each.cpu_seconds() for each in processes.running(cloud.base)}
    started = time.monotonic()
    time.sleep(seconds)
    after = processes.running(cloud.base)
    spent = time.monotonic() - started
    missing = _missing(cloud)
    found: list[dict[str, Any]] = []
    others = {each.service for each in after} - {processes.SUITES}
    for service in sorted({*expected(cloud), *others}):
        own = [each for each in after if each.service == service]
        used = sum(each.cpu_seconds() - before.get(each, 0.0) for each in own)
        found.append(
            {
                "service": service,
                "up": service not in missing,
                "pids": [each.pid for each in own],
                "pss_mib": round(sum(each.pss_mib() for each in own), 1),
                "cpu_percent": round(100 * used / spent, 2),
            }
        )
    return {
        "directory": str(cloud.base),
        "up": cloud.up and all(each["up"] for each in found),
        "seconds": round(spent, 2),
        "pss_mib": round(sum(each["pss_mib"] for each in found), 1),
        "cpu_percent": round(sum(each["cpu_percent"] for each in found), 2),
        "services": found,
    }


def _missing(cloud: model.Cloud) -> set[str]:
    """The services that should run and do not, or do not answer."""
    wanted = expected(cloud)
    # another that has taken a port of the cloud's may answer in place of what has died
    there = {each.service for each in processes.running(cloud.base)}
    with concurrent.futures.ThreadPoolExecutor(len(wanted)) as pool:
        answers = pool.map(functools.partial(questions.answers, cloud), wanted)
        return {name for name, up in zip(wanted, answers, strict=True) if not up} | (
            set(wanted) - there
        )


def remove(base: pathlib.Path) -> None:
    """Remove a cloud's folder. What says that it is one goes last, should we be killed before."""
    for folder, names, _ in os.walk(base):
        # zones have folders that their owner may not read or change
        for path in (pathlib.Path(folder, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o700)
    for path in base.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != model.FILE:
            path.unlink()
    shutil.rmtree(base)


def _planned(options: argparse.Namespace, base: pathlib.Path, sets: frozenset[str]) -> model.Cloud:
    for name, path in options.images:
        if name not in contents.IMAGES:
            raise services.Failed(f"--image {name}: of {', '.join(contents.IMAGES)}")
        contents.given(pathlib.Path(path))
    if options.nodes:
        # the host's name tells what this cloud has made on a node that is not its own
        keys = (options.identity, options.known_hosts)
        chosen = [model.Node(model.mark(), address, *keys) for address in options.nodes]
        tags = dict.fromkeys((files.PROJECTS, files.PUBLIC), options.nic_tag)
    else:
        kinds = options.emulated or ("ssh", "ssh", "local")
        chosen = [model.Node(f"node{number}", kind) for number, kind in enumerate(kinds, 1)]
        tags = {files.PROJECTS: "internal", files.PUBLIC: "external"}
    cloud = model.Cloud.plan(
        base,
        sets=sets,
        nodes=chosen,
        speed=options.speed,
        networks=tags,
        images=dict(options.images),
    )
    base.mkdir(parents=True, exist_ok=True)
    cloud.save()
    return cloud


_COMMANDS = {"up": up, "down": down, "status": status, "logs": logs, "exec": execute}
