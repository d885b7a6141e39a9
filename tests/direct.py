# SPDX-License-Identifier: Apache-2.0
"""What an operator does so that one emulated node may send to another without nova-compute."""

import pathlib
import shutil
import subprocess

from tests import emulated

SCRIPT = pathlib.Path(__file__).parents[1] / "etc" / "smartos-direct"


def install(node: emulated.EmulatedNode) -> pathlib.Path:
    """Put the script on a node; the folder of what it reads."""
    folders = [node.directory / "root/opt/custom" / name for name in ("bin", "etc")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(SCRIPT, folders[0])
    return folders[1]


def let(source: emulated.EmulatedNode, target: emulated.EmulatedNode) -> None:
    """Let a node send to another."""
    folder = install(source)
    bin_folder = install(target).parent / "bin"
    key = folder / "id_ed25519"
    if not key.exists():
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
        subprocess.run(words, check=True, timeout=emulated.SECONDS)
    known = folder / "known_hosts"
    with known.open("a") as hosts:
        hosts.write(pathlib.Path(target.facts()["ssh"]["known_hosts"]).read_text())
    (folder / "smartos-direct.ssh").write_text(
        f"IdentityFile {key}\nIdentitiesOnly yes\nUserKnownHostsFile {known}\n"
    )
    command = f"{bin_folder}/smartos-direct receive {target.tools}:/usr/bin:/bin"
    with (target.directory / "root/usbkey/config.inc/authorized_keys").open("a") as keys:
        public = key.with_name(f"{key.name}.pub").read_text()
        keys.write(f'restrict,from="127.0.0.1",command="{command}" {public}')
