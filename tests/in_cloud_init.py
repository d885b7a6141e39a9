# SPDX-License-Identifier: Apache-2.0
"""cloud-init itself, from Debian's package, reading what a guest is given.

Run by the interpreter that has the package: SOURCE FOLDER [WHERE]. FOLDER becomes cloud-init's own,
and holds the seed; WHERE is the socket on which the guest's metadata are served. What it understood
is printed as JSON. This file is run in another process, so it imports nothing of ours.
"""

import base64
import importlib
import json
import os
import pathlib
import pty
import socket
import sys
import threading
from typing import Any


def main(name: str, folder: str, where: str = "") -> None:
    """Read one source, and print what is in it."""
    from cloudinit import distros, helpers

    paths = helpers.Paths({"cloud_dir": folder, "run_dir": f"{folder}/run"})
    distro = distros.fetch("debian")("debian", {}, paths)
    module = importlib.import_module(f"cloudinit.sources.DataSource{name}")
    config: dict[str, Any] = {}
    if name == "SmartOS":
        config = {"datasource": {"SmartOS": smartos(module, pathlib.Path(folder), where)}}
    source = getattr(module, f"DataSource{name}")(config, distro, paths)
    assert source.get_data(), f"{name} found nothing"
    document = {
        "hostname": source.get_hostname()[0],
        "instance_id": source.get_instance_id(),
        "keys": source.get_public_ssh_keys(),
        "metadata": {k: v for k, v in source.metadata.items() if isinstance(v, (str, dict))},
        "network": network(source),
        "user_data": parts(source.get_userdata()),
        "user_data_raw": raw(source.get_userdata_raw()),
        "vendor_data": parts(source.get_vendordata()),
        "zone": source.availability_zone,
    }
    print(json.dumps(document))


def smartos(module: Any, folder: pathlib.Path, where: str) -> dict[str, str]:
    """Where this source looks: a socket in an lx zone, a serial line in a machine."""
    module.LEGACY_USER_D = str(folder / "db")
    # a socket's path must not have many letters
    place, where = os.path.split(where)
    os.chdir(place)
    if not where.endswith("ttyb"):
        module.DataSourceSmartOS.smartos_type = module.SMARTOS_ENV_LX_BRAND
        return {"metadata_sockfile": where}
    module.DataSourceSmartOS.smartos_type = module.SMARTOS_ENV_KVM
    return {"serial_device": serial_line(where)}


def serial_line(where: str) -> str:
    """A terminal that is connected to a socket, as a guest's serial line is."""
    ours, guests = pty.openpty()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(where)

    def carry(read: Any, write: Any) -> None:
        while data := read():
            write(data)

    for read, write in (
        (lambda: connection.recv(4096), lambda data: os.write(ours, data)),
        (lambda: os.read(ours, 4096), connection.sendall),
    ):
        threading.Thread(target=carry, args=(read, write), daemon=True).start()
    return os.ttyname(guests)


def parts(message: Any) -> list[Any]:
    """The parts of user data as cloud-init handles them: each with its kind."""
    from cloudinit import util

    found = []
    for part in message.walk() if message else ():
        if not part.is_multipart():
            payload = util.fully_decoded_payload(part)
            text = payload if isinstance(payload, str) else payload.decode("utf-8", "replace")
            found.append([part.get_content_type(), text])
    return found


def network(source: Any) -> Any:
    """The network's configuration; of its nics none is this machine's."""
    from cloudinit.sources.helpers import openstack

    links = (getattr(source, "network_json", None) or {}).get("links")
    if links is None:
        return source.network_config
    known = {link["ethernet_mac_address"]: f"eth{n}" for n, link in enumerate(links)}
    return openstack.convert_net_json(source.network_json, known_macs=known)


def raw(data: Any) -> str:
    """User data as they are, in base64."""
    return base64.b64encode(data.encode() if isinstance(data, str) else data or b"").decode()


if __name__ == "__main__":
    main(*sys.argv[1:])
