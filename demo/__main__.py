# SPDX-License-Identifier: Apache-2.0
"""make demo: a real OpenStack cloud on emulated SmartOS nodes, and servers of three brands."""

import concurrent.futures
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time
from typing import Any

from gate.cloud import call

ROOT = pathlib.Path(__file__).resolve().parents[1]
CLOUD = ROOT / "gate/smartos-cloud"
COLOURS = sys.stdout.isatty() and "NO_COLOR" not in os.environ
#: A server, its image, the brand that its VM then has, and what that means.
SERVERS = {
    "web": ("zone", "joyent", "a zone: Crossbow, ZFS and its own users, at the machine's speed"),
    "app": ("lx", "lx", "Linux programs in a zone"),
    "db": ("disk", "bhyve", "a virtual machine under bhyve, its disk a clone"),
}
#: The longest that a command may take: one that waits for a server, one that brings the cloud up.
SECONDS, UP_SECONDS = 300, 3600


def main(words: list[str]) -> int:
    """`up DIR` shows everything and leaves the cloud up; `down DIR` removes it."""
    if len(words) != 2 or words[0] not in ("up", "down"):
        print("usage: python3 -m demo up|down DIR", file=sys.stderr)
        return 2
    folder = pathlib.Path(words[1]).resolve()
    call.end_as_by_ctrl_c()
    try:
        with call.alone(folder):
            if words[0] == "down":
                down(folder)
            else:
                Demo(folder).show()
    except (call.Busy, Stopped) as stopped:
        print(paint("1;31", f"demo: {stopped}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; `make demo-down` ends what is up", file=sys.stderr)
        return 130
    return 0


class Stopped(Exception):
    """A command of the demonstration failed."""


class Demo:
    """One run, from nothing to servers that one can play with."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.cloud = folder / "cloud"
        self.environment = dict(os.environ)
        call.clean(self.environment)

    def show(self) -> None:
        """All of it."""
        started = time.monotonic()
        # what an earlier one has shown must not stand for this one
        (self.folder / "servers.json").unlink(missing_ok=True)
        title("A cloud: Keystone, Placement, Glance, Neutron and Nova, as PyPI has them")
        print("Three SmartOS nodes, emulated: two driven over SSH, one locally.\n", flush=True)
        run([CLOUD, "-d", self.cloud, "up", "--fresh"], UP_SECONDS)
        self.environment |= self._variables()
        title("Three hypervisors")
        self.openstack("hypervisor list")
        title("Three images: a zone, Linux in a zone, a disk")
        for name, _, _ in SERVERS.values():
            self.image(name)
        title("Three servers, at once")
        with concurrent.futures.ThreadPoolExecutor() as threads:
            for said in list(threads.map(self.boot, SERVERS)):
                print(said, flush=True)
        self.openstack("server list")
        title("What they have to say")
        self.console("web")
        title("The same servers, seen by SmartOS")
        self.nodes("vmadm", "list", "-o", "uuid,type,ram,state,alias")
        self.check_brands()
        title("An image of a zone while it runs; more for another; a move to another node")
        self.openstack("server image create --wait -f value -c status --name golden web")
        self.resize("app")
        self.move("web")
        title("What they use, as their kernels count it")
        self.meters()
        self.keep()
        title(f"Done in {time.monotonic() - started:.0f} s. The cloud stays up: yours to try")
        for name in ("OS_CLOUD", "OS_CLIENT_CONFIG_FILE"):
            print(f"  export {name}={shlex.quote(self.environment[name])}")
        print(f"  export PATH={shlex.quote(str(self._bin()))}:$PATH")
        print("  openstack server create --image smartos-zone --flavor smartos.tiny \\")
        print("      --network private --wait another")
        print("  openstack server stop web; openstack server start web")
        print(f"  smartos-meter --config-file {_short(self.folder / 'meters.conf')}")
        print(f"  {_short(CLOUD)} -d {_short(self.cloud)} status")
        print("  make demo-down")

    def boot(self, name: str) -> str:
        """Boot one server; the command and what it said."""
        image, _, meaning = SERVERS[name]
        line = f"server create --image smartos-{image} --flavor smartos.small --network private"
        said = self._openstack(f"{line} --wait -f value -c status -c name {name}")
        shown = paint("1;36", f"$ openstack {line} --wait {name}")
        return f"{shown}\n  {' '.join(said.split())}: {meaning}"

    def check_brands(self) -> None:
        """See that each server is what it was booted as, on the node that Nova names."""
        for name, (_, brand, _) in SERVERS.items():
            shown = json.loads(self._openstack(f"server show -f json {name}"))
            node = self.cloud / "nodes" / shown["OS-EXT-SRV-ATTR:host"]
            words = ["exec", str(node), "--", "vmadm", "get", shown["id"]]
            vm = json.loads(output([self._bin() / "smartos-emulator", *words]))
            if (vm["brand"], vm["state"]) != (brand, "running"):
                raise Stopped(f"{name} is a {vm['state']} {vm['brand']}, not a running {brand}")

    def resize(self, name: str) -> None:
        """Give a server a larger flavor, and keep it."""
        self.openstack(f"server resize --flavor smartos.medium --wait {name}")
        self.openstack(f"server resize confirm {name}")
        self.settled(name)

    def move(self, name: str) -> None:
        """Move a server to another node, and see that it is there."""
        before = self.settled(name)["OS-EXT-SRV-ATTR:host"]
        self.openstack(f"server migrate --wait {name}")
        self.openstack(f"server migration confirm {name}")
        after = self.settled(name)["OS-EXT-SRV-ATTR:host"]
        if after == before:
            raise Stopped(f"{name} is on {before}, and was to move")
        print(f"  {name} was on {before}, and runs on {after}", flush=True)

    def settled(self, name: str, patience: float = SECONDS) -> dict[str, Any]:
        """What the API shows of a server, once it is ACTIVE and nothing is under way."""
        until = time.monotonic() + patience
        while True:
            shown: dict[str, Any] = json.loads(self._openstack(f"server show -f json {name}"))
            if shown["status"] == "ACTIVE" and not shown["OS-EXT-STS:task_state"]:
                return shown
            if time.monotonic() > until:
                raise Stopped(f"{name} is {shown['status']} after {patience:.0f} s")
            time.sleep(1)

    def console(self, name: str, patience: float = SECONDS) -> None:
        """Show what a server's console has had, which takes a moment to be something."""
        line = f"console log show --lines 6 {name}"
        until = time.monotonic() + patience
        while not (said := self._openstack(line)).strip():
            if time.monotonic() > until:
                raise Stopped(f"{name} has said nothing on its console in {patience:.0f} s")
            time.sleep(1)
        print(f"{paint('1;36', f'$ openstack {line}')}\n{said}", end="", flush=True)

    def image(self, name: str) -> None:
        """Make a small image of a kind, and register it as an operator would."""
        kind = {"disk": "zvol"}.get(name, name)
        base = self.folder / name
        words = ["image", kind, f"demo-{name}", "--output", str(base)]
        output([self._bin() / "smartos-emulator", *words])
        manifest = json.loads(base.with_suffix(".imgmanifest").read_text())
        wanted = {"smartos_image_type": manifest["type"]}
        if "image_size" in manifest:
            wanted["smartos_image_size"] = manifest["image_size"]
        properties = " ".join(f"--property {key}={value}" for key, value in wanted.items())
        self.openstack(
            f"image create --disk-format raw --container-format bare --file {base}.zfs.gz "
            f"--public {properties} -f value -c status smartos-{name}"
        )

    def keep(self) -> None:
        """Write down what the API says of the servers, and see that all are up."""
        servers = json.loads(self._openstack("server list --long -f json"))
        (self.folder / "servers.json").write_text(json.dumps(servers, indent=2) + "\n")
        if {each["Status"] for each in servers} != {"ACTIVE"} or len(servers) != len(SERVERS):
            raise Stopped(f"not every server is ACTIVE: {servers}")

    def meters(self) -> None:
        """Show the meters of all servers, as a polling agent would read them."""
        configuration = self.folder / "meters.conf"
        names = sorted(each.name for each in (self.cloud / "nodes").iterdir())
        nodes = ",".join(f"{name}:{self.cloud / 'etc/nova-smartos' / name}.conf" for name in names)
        configuration.write_text(f"[smartos_meters]\nnodes = {nodes}\n")
        words = ["smartos-meter", "--config-file", str(configuration), "--once"]
        print(paint("1;36", f"$ {' '.join(words).replace(f'{self.folder}/', '')}"), flush=True)
        run([self._bin() / words[0], *words[1:]])

    def nodes(self, *words: str) -> None:
        """Run a command on every node."""
        for node in sorted((self.cloud / "nodes").iterdir()):
            print(paint("1;36", f"[{node.name}] # {' '.join(words)}"), flush=True)
            run([self._bin() / "smartos-emulator", "exec", node, "--", *words])

    def openstack(self, line: str) -> None:
        """Run a command of `openstack`, shown with what it says."""
        print(paint("1;36", f"$ openstack {line.replace(f'{self.folder}/', '')}"), flush=True)
        print(self._openstack(line), end="", flush=True)

    def _bin(self) -> pathlib.Path:
        return pathlib.Path(os.environ.get("SMARTOS_CLOUD_VENV", ROOT / ".venv-cloud")) / "bin"

    def _openstack(self, line: str) -> str:
        return output([self._bin() / "openstack", *shlex.split(line)], self.environment)

    def _variables(self) -> dict[str, str]:
        lines = output([CLOUD, "-d", self.cloud, "exec", "env", "-0"]).split("\0")
        return {
            name: value
            for name, _, value in (line.partition("=") for line in lines)
            if name.startswith("OS_")
        }


def down(folder: pathlib.Path) -> None:
    """End the demonstration's cloud, and remove its folder."""
    run([CLOUD, "-d", folder / "cloud", "down"])
    if folder.exists():
        shutil.rmtree(folder)


def paint(code: str, text: str) -> str:
    """Colour, on a terminal that wants it."""
    return f"\x1b[{code}m{text}\x1b[0m" if COLOURS else text


def output(words: list[Any], environment: dict[str, str] | None = None) -> str:
    """Run a command, which must succeed; what it says."""
    said = [pathlib.Path(words[0]).name, *map(str, words[1:])]
    try:
        done = subprocess.run(
            [str(word) for word in words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Stopped(f"{' '.join(said)} took more than {SECONDS} s") from None
    if done.returncode:
        raise Stopped(f"{' '.join(said)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def run(words: list[Any], seconds: float = SECONDS) -> None:
    """Run a command that shows what it does itself."""
    said = " ".join(map(str, words))
    try:
        status = call.run([str(word) for word in words], seconds, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Stopped(f"{said} took more than {seconds:.0f} s") from None
    if status:
        raise Stopped(f"{said} ended with status {status}")


def title(text: str) -> None:
    """Say what comes next."""
    print(paint("1", f"\n== {text}"), flush=True)


def _short(path: pathlib.Path) -> str:
    return os.path.relpath(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
