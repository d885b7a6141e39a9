# SPDX-License-Identifier: Apache-2.0
"""What a machine must have: a few Debian packages, and a virtual environment with OpenStack."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

from gate.cloud import show

ROOT = pathlib.Path(__file__).resolve().parents[2]
VENV = pathlib.Path(os.environ.get("SMARTOS_CLOUD_VENV", ROOT / ".venv-cloud"))
CONSTRAINTS = ROOT / "gate/constraints.txt"
#: What makes the environment out of date when it changes.
_SOURCES = ("gate/constraints.txt", "setup.cfg", "pyproject.toml")

#: A Debian package, and a program or file of it.
_PACKAGES = {
    "genisoimage": "genisoimage",
    "mariadb-server": "/usr/sbin/mariadbd",
    "memcached": "memcached",
    "mtools": "mcopy",
    "openssh-client": "ssh-keygen",
    "openssh-server": "/usr/sbin/sshd",
    "rabbitmq-server": "/usr/sbin/rabbitmq-server",
}
_PACKAGES_OF_SETS = {"consoles": {"novnc": "/usr/share/novnc/vnc_lite.html"}}


class Missing(Exception):
    """The machine lacks something that cannot be installed here; the text says what."""


def requirements(sets: frozenset[str]) -> list[pathlib.Path]:
    """The requirement files of the core and of the optional sets."""
    names = ["requirements.txt", *(f"requirements-{each}.txt" for each in sorted(sets))]
    return [path for name in names if (path := ROOT / "gate" / name).is_file()]


def packages(sets: frozenset[str]) -> None:
    """Install the Debian packages that are missing."""
    wanted = dict(_PACKAGES)
    for each in sets:
        wanted |= _PACKAGES_OF_SETS.get(each, {})
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name, file in wanted.items() if not shutil.which(file, path=path)]
    missing = [name for name in missing if not pathlib.Path(wanted[name]).is_file()]
    if not missing:
        return
    line = f"apt-get install --no-install-recommends {' '.join(missing)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Missing(f"these packages are missing, and only root can install them: {line}")
    show.say(f"Installing what this machine lacks: {line}")
    with show.step("Debian packages"):
        # their services stay down: the cloud starts programs of its own
        _run(["apt-get", "update", "-qq"])
        _run(["apt-get", "install", "-yqq", "--no-install-recommends", *missing])


def environment(sets: frozenset[str]) -> pathlib.Path:
    """Make the virtual environment, or bring it up to date; its Python."""
    python = VENV / "bin/python"
    with alone() as lock:
        _make(python, sets, lock)
    return python


def made() -> pathlib.Path:
    """The Python of an environment that is there already."""
    python = VENV / "bin/python"
    if not python.is_file():
        raise Missing(f"there is no {python}: `smartos-cloud up` makes it")
    return python


@contextlib.contextmanager
def alone() -> Iterator[int]:
    """Keep others out; what we start keeps them out too, should it outlive us."""
    VENV.mkdir(parents=True, exist_ok=True)
    lock = os.open(VENV, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            show.say(f"Waiting for another installation into {VENV}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def _make(python: pathlib.Path, sets: frozenset[str], lock: int) -> None:
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "gate").glob("requirements*.txt"), *map(ROOT.joinpath, _SOURCES)]):
        digest.update(path.read_bytes())
    stamp = VENV / "installed"
    made_from, *present = stamp.read_text().split() if stamp.is_file() else [""]
    if made_from == digest.hexdigest() and sets <= set(present):
        return
    wanted = sets | set(present)
    show.say(f"Installing OpenStack from packages into {VENV}, as {CONSTRAINTS} pins them")
    with show.step("virtual environment"):
        _run([str(ROOT / ".ci/venv"), str(VENV)], {"PYTHON": sys.executable}, lock)
        words = [word for path in requirements(wanted) for word in ("-r", str(path))]
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        _run([*pip, "-c", str(CONSTRAINTS), *words, "--editable", str(ROOT)], {}, lock)
    stamp.write_text(" ".join([digest.hexdigest(), *sorted(wanted)]))


def _run(words: list[str], more: dict[str, str] | None = None, *keep: int) -> None:
    done = subprocess.run(
        words,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", **(more or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        pass_fds=keep,
    )
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise Missing("\n".join([f"{' '.join(words[:4])} … failed:", *lines[-20:]]))
