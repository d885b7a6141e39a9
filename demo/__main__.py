# SPDX-License-Identifier: Apache-2.0
"""make demo: on an emulated node, make a zone and a VM, list, snapshot and remove them."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

EMULATOR = pathlib.Path(sys.executable).with_name("smartos-emulator")
COLOURS = sys.stdout.isatty() and "NO_COLOR" not in os.environ
SPEED = "20"


def main(arguments: list[str]) -> int:
    """`up DIR` shows everything on a fresh node in DIR and leaves it up; `down DIR` removes it."""
    if len(arguments) != 2 or arguments[0] not in ("up", "down"):
        print("usage: python -m demo up|down DIR", file=sys.stderr)
        return 2
    action, folder = arguments[0], pathlib.Path(arguments[1])
    remove(folder)
    if action == "up":
        show(Node(folder))
    return 0


def show(node: "Node") -> None:
    """The whole demonstration."""
    title(f"A node of its own in {node.folder}, {SPEED} times as fast as a real one")
    command(["smartos-emulator", "up", str(node.folder), "--speed", SPEED])
    node.run("uname -a")
    zone_image = install_image(node, "zone", "demo-zone")
    disk_image = install_image(node, "zvol", "demo-disk")
    node.run("imgadm list")
    zone, vm = make_zone(node, zone_image), make_vm(node, disk_image)
    title("List them, by vmadm and by the datasets they live in")
    node.run("vmadm list")
    node.run("zfs list -r -o name,used,refer,origin zones")
    show_snapshots(node, zone)
    title("Remove both")
    for uuid in (zone, vm):
        node.run(f"vmadm delete {uuid}")
    node.run("vmadm list")
    title("The node stays up, yours to try")
    print(f'  eval "$({EMULATOR} env {node.folder})"\n  make demo-down')


def make_zone(node: "Node", image: str) -> str:
    """Make a zone, show that it runs and that vmadm knows it."""
    title("Make a zone")
    payload = {
        "brand": "joyent",
        "alias": "web0",
        "image_uuid": image,
        "max_physical_memory": 256,
        "quota": 10,
        "nics": [{"nic_tag": "external", "ip": "192.0.2.10", "netmask": "255.255.255.0"}],
    }
    uuid = create(node, payload)
    node.run(f"vmadm list -o uuid,type,state,alias uuid={uuid}")
    return uuid


def make_vm(node: "Node", image: str) -> str:
    """Make an HVM on a disk cloned from an image."""
    title("Make a VM: bhyve, its disk cloned from an image")
    payload = {
        "brand": "bhyve",
        "alias": "db0",
        "ram": 1024,
        "vcpus": 2,
        "disks": [{"image_uuid": image, "boot": True, "model": "virtio"}],
        "nics": [
            {
                "nic_tag": "external",
                "ip": "192.0.2.11",
                "netmask": "255.255.255.0",
                "model": "virtio",
                "primary": True,
            }
        ],
    }
    return create(node, payload)


def show_snapshots(node: "Node", zone: str) -> None:
    """A snapshot keeps a file that is lost afterwards."""
    title("Snapshot the zone, lose a file, get it back")
    node.run(f"zlogin {zone} tee /root/precious", payload="do not lose this\n")
    node.run(f"vmadm create-snapshot {zone} before")
    node.run(f"zlogin {zone} rm /root/precious")
    node.run(f"vmadm rollback-snapshot {zone} before")
    node.run(f"zlogin {zone} cat /root/precious")
    node.run(f"zfs list -t snapshot -r zones/{zone}")
    node.run(f"vmadm delete-snapshot {zone} before")


def install_image(node: "Node", kind: str, name: str) -> str:
    """Write a small image of its kind and install it on the node; the image's uuid."""
    title(f"An image: {name}")
    base = node.folder / name
    made = command(["smartos-emulator", "image", kind, name, "--output", str(base)])
    node.run(f"imgadm install -m {base}.imgmanifest -f {base}.zfs.gz")
    return made.stdout.strip()


def create(node: "Node", payload: dict[str, object]) -> str:
    """`vmadm create`, whose success is told on stderr."""
    print(paint("2", json.dumps(payload, indent=2)))
    said = node.run("vmadm create", payload=json.dumps(payload)).stderr
    return said.split()[-1]


class Node:
    """The emulated node that the demonstration uses."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def run(self, line: str, payload: str = "") -> subprocess.CompletedProcess[str]:
        """Run a tool of the node, shown as one would type it there."""
        words = ["smartos-emulator", "exec", str(self.folder), "--", *line.split()]
        return command(words, shown=f"[node] {line}", payload=payload)


def command(
    words: list[str], shown: str = "", payload: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command, print it with all that it says; end the demonstration where it fails."""
    print(paint("1;36", f"$ {shown or ' '.join(words)}"), flush=True)
    real = [str(EMULATOR) if words[0] == "smartos-emulator" else words[0], *words[1:]]
    done = subprocess.run(
        real, input=payload, capture_output=True, text=True, timeout=300, check=False
    )
    print(done.stdout + done.stderr, end="", flush=True)
    if done.returncode != 0:
        sys.exit(paint("1;31", f"demo: that ended with status {done.returncode}"))
    return done


def title(text: str) -> None:
    """Say what comes next."""
    print(paint("1", f"\n== {text}"))


def paint(code: str, text: str) -> str:
    """Colour, on a terminal that wants it."""
    return f"\x1b[{code}m{text}\x1b[0m" if COLOURS else text


def remove(folder: pathlib.Path) -> None:
    """Stop the node in a folder, if one is up there, and remove the folder."""
    if not folder.exists():
        return
    if not (folder / "node.json").is_file():
        sys.exit(f"demo: {folder} is there but is not a node; it stays as it is")
    subprocess.run([EMULATOR, "down", folder], capture_output=True, timeout=60, check=False)
    shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
