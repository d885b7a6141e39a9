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
from collections.abc import Iterator, Mapping

from gate.cloud import show

ROOT = pathlib.Path(__file__).resolve().parents[2]
VENV = pathlib.Path(os.environ.get("SMARTOS_CLOUD_VENV", ROOT / ".venv-cloud"))
CONSTRAINTS = ROOT / "gate/constraints.txt"
#: What makes the environment out of date when it changes.
_SOURCES = ("gate/constraints.txt", "setup.cfg", "pyproject.toml")

#: What forbids Debian to start a service when its package is installed.
POLICY = pathlib.Path("/usr/sbin/policy-rc.d")
_FORBIDS = "#!/bin/sh\n# until smartos-cloud has installed its packages\nexit 101\n"
#: What Debian would start with the machine, of what is installed here.
_UNITS = {"memcached": "memcached", "openssh-server": "ssh", "rabbitmq-server": "rabbitmq-server"}
_APT_SECONDS = _PIP_SECONDS = 1800
#: What the stamp says until all is there.
_UNFINISHED = "unfinished"
#: A Debian package, and a program or file of it.
_PACKAGES = {
    "genisoimage": "genisoimage",
    # of which the server's own installer has a part
    "mariadb-client-core": "my_print_defaults",
    "mariadb-server-core": "/usr/sbin/mariadbd",
    "memcached": "memcached",
    "mtools": "mcopy",
    "openssh-client": "ssh-keygen",
    "openssh-server": "/usr/sbin/sshd",
    "rabbitmq-server": "/usr/sbin/rabbitmq-server",
}
_PACKAGES_OF_SETS = {
    # what our driver is compared with
    "bench": {
        "libvirt-daemon-system": "/usr/sbin/libvirtd",
        "python3-libvirt": "/usr/lib/python3/dist-packages/libvirt.py",
        "qemu-system-x86": "qemu-system-x86_64",
    },
    "consoles": {"novnc": "/usr/share/novnc/vnc_lite.html"},
}


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
    with show.step("Debian packages"), services_down():
        # another installation may be under way, as on a machine that has just started
        apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
        _run([*apt, "update"], _APT_SECONDS)
        _run([*apt, "install", "-y", "--no-install-recommends", *missing], _APT_SECONDS)
        units = [_UNITS[name] for name in missing if name in _UNITS]
        if units and shutil.which("systemctl"):
            _run(["systemctl", "disable", "-q", *units], _APT_SECONDS)


@contextlib.contextmanager
def services_down() -> Iterator[None]:
    """Have Debian start no service of what is installed: the cloud starts programs of its own."""
    # one of somebody else's stays; what a killed run has left is ours
    ours = not POLICY.exists() or POLICY.read_text() == _FORBIDS
    try:
        if ours:
            POLICY.write_text(_FORBIDS)
            POLICY.chmod(0o755)
        yield
    finally:
        if ours:
            POLICY.unlink(missing_ok=True)


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
    made_from, *present = (stamp.read_text() if stamp.is_file() else "").split() or [""]
    if made_from == digest.hexdigest() and sets <= set(present):
        return
    if made_from == _UNFINISHED:
        show.say(f"{VENV} was not finished; it is made anew")
        for path in VENV.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    wanted = sets | set(present)
    show.say(f"Installing OpenStack from packages into {VENV}, as {CONSTRAINTS} pins them")
    stamp.write_text(" ".join([_UNFINISHED, *sorted(wanted)]))
    with show.step("virtual environment"):
        _run([str(ROOT / ".ci/venv"), str(VENV)], _APT_SECONDS, {"PYTHON": sys.executable}, lock)
        words = [word for path in requirements(wanted) for word in ("-r", str(path))]
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        pip += ["-c", str(CONSTRAINTS), *words, "--editable", str(ROOT)]
        _run(pip, _PIP_SECONDS, {}, lock)
    new = VENV / "installed.new"
    new.write_text(" ".join([digest.hexdigest(), *sorted(wanted)]))
    new.replace(stamp)


def _run(
    words: list[str], seconds: float, more: Mapping[str, str] | None = None, *keep: int
) -> None:
    try:
        done = subprocess.run(
            words,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", **(more or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            pass_fds=keep,
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"{' '.join(words[:4])} … took more than {seconds:.0f} s") from None
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise Missing("\n".join([f"{' '.join(words[:4])} … failed:", *lines[-20:]]))
