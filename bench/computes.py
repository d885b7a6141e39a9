# SPDX-License-Identifier: Apache-2.0
"""More nova-computes for a cloud, with Nova's own drivers: what ours is compared with.

It runs in the cloud's environment: `add` makes what the benchmarks boot and starts them, `run` is
such a nova-compute.
"""

import json
import os
import pathlib
import sys
import time
from typing import Any

# first, as Nova decides here how its threads are made
import nova.cmd.compute
import nova.conf
from nova.virt import fake

from bench import cloud as clouds
from gate.cloud import contents, files, install, model, processes, schemas, services

FLAVOR = "bench"
#: Where Debian puts its Python bindings of libvirt, which no other package may have.
_DEBIAN = "/usr/lib/python3/dist-packages"
_DISK_BYTES = 64 * 1024

CONF = nova.conf.CONF


class WaitingDriver(fake.FakeDriver):  # type: ignore[misc]
    """Nova's fake driver, on a hypervisor whose boots take their time."""

    def spawn(self, *arguments: Any, **named: Any) -> None:
        super().spawn(*arguments, **named)
        time.sleep(float(pathlib.Path(CONF.state_path, clouds.WAIT).read_text()))


def add(base: pathlib.Path, hosts: list[str]) -> dict[str, Any]:
    """Start the nova-computes; what a client needs to boot on them."""
    cloud = model.Cloud.load(base)
    if cloud is None:
        raise services.Failed(f"there is no cloud in {base}")
    _bind_ports(cloud, hosts)
    admin = contents.connect(cloud)
    admin.compute.create_flavor(id=FLAVOR, name=FLAVOR, vcpus=1, ram=64, disk=1)
    zone = contents.images(cloud, ["zone"])["zone"]
    images = {node.host: zone for node in cloud.nodes}
    for host in hosts:
        if host == clouds.LIBVIRT:
            _libvirt(cloud)
            images[host] = _disk(cloud, admin)
        else:
            _start(cloud, host, {"DEFAULT": {"compute_driver": "bench.WaitingDriver"}})
            images[host] = zone
    schemas.nova_manage(cloud, "cell_v2", "discover_hosts")
    network = admin.network.find_network("private").id
    return {"images": images, "network": network, "flavor": FLAVOR}


def _bind_ports(cloud: model.Cloud, hosts: list[str]) -> None:
    """Let Neutron bind ports of these hosts as it does for a node."""
    known = files.network(cloud)["smartos"]
    (node, *_) = cloud.nodes
    theirs = str(known["network_mappings"])
    more = [theirs.replace(f"{node.host}:", f"{host}:") for host in hosts]
    files.put(
        cloud,
        "nova-smartos/network.conf",
        {"smartos": {**known, "network_mappings": ",".join([theirs, *more])}},
    )
    processes.stop(cloud.base, which=lambda process: process.service == "neutron")
    services.api(cloud, "neutron")


def _libvirt(cloud: model.Cloud) -> None:
    state = cloud.folder("state", "libvirt")
    etc = cloud.folder("etc", "libvirt")
    (etc / "qemu.conf").write_text(
        'user = "root"\ngroup = "root"\nsecurity_driver = "none"\nstdio_handler = "file"\n'
        "cgroup_controllers = []\nnamespaces = []\n"
    )
    (etc / "libvirtd.conf").write_text('auth_unix_rw = "none"\n')
    # a view of its own of the machine's files, which stay as they are, and of its processes: the
    # virtual machines, which bear no mark of the cloud's, end with libvirtd
    places = {"/etc/libvirt": etc}
    for place in ("/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt", "/run/libvirt"):
        places[place] = state / place[1:].replace("/", "-")
    for place, kept in places.items():
        kept.mkdir(exist_ok=True)
        pathlib.Path(place).mkdir(parents=True, exist_ok=True)
    binds = [f"mount --bind {kept} {place}" for place, kept in places.items()]
    # not exec: the shell buries the machines, which otherwise nobody would
    script = " && ".join([*binds, f"/usr/sbin/libvirtd --config {etc / 'libvirtd.conf'}"])
    apart = ["unshare", "--mount", "--mount-proc", "--pid", "--fork", "--kill-child"]
    process = processes.start(cloud, "libvirtd", [*apart, "sh", "-c", f"{script}; exit $?"])
    socket = places["/run/libvirt"] / "libvirt-sock"
    services.ready(cloud, "libvirtd", socket.exists, process)
    uri = f"qemu+unix:///system?socket={socket}"
    helper = f"{services.BIN / 'privsep-helper'} --config-file {cloud.base / 'etc/nova/nova.conf'}"
    sections: dict[str, dict[str, object]] = {
        "DEFAULT": {
            "compute_driver": "libvirt.LibvirtDriver",
            "cpu_allocation_ratio": 200,
            "ram_allocation_ratio": 20,
            "disk_allocation_ratio": 100,
        },
        "libvirt": {"virt_type": "qemu", "cpu_mode": "none", "connection_uri": uri},
        "nova_sys_admin": {"helper_command": helper},
    }
    _start(cloud, clouds.LIBVIRT, sections)


def _start(cloud: model.Cloud, host: str, sections: dict[str, dict[str, object]]) -> None:
    state = cloud.folder("state", "nova", host)
    cloud.folder("state", "nova", host, "instances")
    config = {**sections, "DEFAULT": {"host": host, "state_path": state, **sections["DEFAULT"]}}
    path = files.put(cloud, f"nova/{host}.conf", config)
    name = f"nova-compute-{host}"
    nova_conf = cloud.base / "etc/nova/nova.conf"
    words = [sys.executable, "-m", "bench.computes", "run"]
    words += ["--config-file", str(nova_conf), "--config-file", str(path)]
    process = processes.start(
        cloud,
        name,
        words,
        {
            "PYTHONPATH": str(install.ROOT),
            "OS_NOVA_DISABLE_EVENTLET_PATCHING": "1",
            "PYTHONWARNINGS": "ignore",
        },
    )
    services.ready(cloud, name, lambda: services.compute_reports(cloud, host) > 0, process)


def _disk(cloud: model.Cloud, admin: Any) -> str:
    """A disk without a system, for virtual machines that have nothing to do."""
    path = cloud.folder("images") / "disk.raw"
    path.write_bytes(os.urandom(512) + bytes(_DISK_BYTES - 512))
    made = admin.image.create_image(
        "bench-disk",
        disk_format="raw",
        container_format="bare",
        visibility="public",
        filename=str(path),
    )
    return str(made.id)


def main(words: list[str]) -> None:
    """`add BASE HOST…`, or `run` with nova-compute's own options."""
    if words[0] == "add":
        print(json.dumps(add(pathlib.Path(words[1]), words[2:])))
        return
    # where Nova looks for drivers; and its other ones need libvirt's bindings
    sys.modules["nova.virt.bench"] = sys.modules[__name__]
    sys.path.append(_DEBIAN)
    sys.argv = ["nova-compute", *words[1:]]
    nova.cmd.compute.main()


if __name__ == "__main__":
    main(sys.argv[1:])
