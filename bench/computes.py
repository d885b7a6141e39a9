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
import uuid
from collections.abc import Sequence
from typing import Any

# first, as Nova decides here how its threads are made
import nova.cmd.compute
import nova.conf
import nova.virt.node
import pymysql
import pymysql.cursors
from nova import context, objects
from nova.virt import fake

from bench import cloud as clouds
from gate.cloud import contents, files, install, model, processes, schemas, services, up

FLAVOR = "bench"
#: Where Debian puts its Python bindings of libvirt, which no other package may have.
_DEBIAN = "/usr/lib/python3/dist-packages"
_DISK_BYTES = 64 * 1024
#: vCPUs for each processor.
_RATIO = 200
#: Nova's records of an instance, and what names it there.
_TABLES = {
    "instances": "uuid",
    "instance_extra": "instance_uuid",
    "instance_info_caches": "instance_uuid",
    "instance_system_metadata": "instance_uuid",
}
#: Copies have numbers from here on.
_FIRST = 1_000_000
_BATCH = 500
#: How long a nova-compute may take to start: Nova looks at each of its instances.
_START_SECONDS = 900.0

CONF = nova.conf.CONF


class WaitingDriver(fake.FakeDriver):  # type: ignore[misc]
    """Nova's fake driver, on a hypervisor whose boots take their time."""

    def init_host(self, host: str) -> None:
        super().init_host(host)
        # those that it had before it was started again
        for each in objects.InstanceList.get_by_host(context.get_admin_context(), host):
            self.instances[each.uuid] = fake.FakeInstance(each.name, each.power_state, each.uuid)

    def get_nodenames_by_uuid(self, refresh: bool = False) -> dict[str, str]:
        # the fake driver's own is another one in each process
        return {str(nova.virt.node.get_local_node_uuid()): self.get_available_nodes()[0]}

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        found = super().get_available_resource(nodename)
        return {**found, "uuid": str(nova.virt.node.get_local_node_uuid())}

    def spawn(self, *arguments: Any, **named: Any) -> None:
        super().spawn(*arguments, **named)
        time.sleep(float(pathlib.Path(CONF.state_path, clouds.WAIT).read_text()))


def add(cloud: model.Cloud, *hosts: str) -> dict[str, Any]:
    """Start the nova-computes; what a client needs to boot on them."""
    _bind_ports(cloud, hosts)
    admin = contents.connect(cloud)
    admin.compute.create_flavor(id=FLAVOR, name=FLAVOR, vcpus=1, ram=64, disk=1)
    _make_room(admin)
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


def _make_room(admin: Any) -> None:
    """Let the node have as many servers as the others, whose processors cost nothing."""
    for provider in admin.placement.resource_providers():
        inventory = f"/resource_providers/{provider.id}/inventories/VCPU"
        kept = admin.placement.get(inventory).json()
        admin.placement.put(inventory, json={**kept, "allocation_ratio": _RATIO}).raise_for_status()


def _bind_ports(cloud: model.Cloud, hosts: Sequence[str]) -> None:
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
            "cpu_allocation_ratio": _RATIO,
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
    # the fake driver makes no node's identity last, without which it is not started again
    (state / "compute_id").write_text(str(uuid.uuid4()))
    config = {**sections, "DEFAULT": {"host": host, "state_path": state, **sections["DEFAULT"]}}
    files.put(cloud, f"nova/{host}.conf", config)
    _run(cloud, host)


def _run(cloud: model.Cloud, host: str) -> None:
    name = f"nova-compute-{host}"
    words = [sys.executable, "-m", "bench.computes", "run"]
    for path in ("nova/nova.conf", f"nova/{host}.conf"):
        words += ["--config-file", str(cloud.base / "etc" / path)]
    before = services.compute_reports(cloud, host)
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
    services.ready(cloud, name, lambda: services.compute_reports(cloud, host) > before, process)


def restart(cloud: model.Cloud, host: str) -> None:
    """End a nova-compute, and start it again as it was."""
    services.SECONDS = _START_SECONDS
    # Nova reads all instances of a host in one call
    sections = files.nova(cloud)
    patient = {**sections["DEFAULT"], "rpc_response_timeout": int(_START_SECONDS)}
    files.put(cloud, "nova/nova.conf", {**sections, "DEFAULT": patient})
    processes.stop(cloud.base, which=lambda process: process.service == f"nova-compute-{host}")
    if host == clouds.OURS:
        up.compute(cloud, host)
    else:
        _run(cloud, host)


def crowd(cloud: model.Cloud, host: str, server: str, count: int) -> dict[str, str]:
    """Write copies of a server's records; the names of their instances, and its own, by uuid."""
    named = CONF.instance_name_template
    with _database(cloud) as database, database.cursor() as cursor:
        cursor.execute("SELECT COALESCE(MAX(id), 0) AS last FROM instances")
        first = max(_FIRST, cursor.fetchone()["last"] + 1)
        made = {str(uuid.uuid4()): first + number for number in range(count)}
        for table, key in _TABLES.items():
            cursor.execute(f"SELECT * FROM {table} WHERE {key} = %s", (server,))
            for row in cursor.fetchall():
                own = row.pop("id")
                if table == "instances":
                    name = named % own
                columns = ", ".join(f"`{column}`" for column in ("id", *row))
                query = (
                    f"INSERT INTO {table} ({columns}) VALUES ({', '.join(['%s'] * (len(row) + 1))})"
                )
                many = [
                    (number if table == "instances" else None, *{**row, key: each}.values())
                    for each, number in made.items()
                ]
                for start in range(0, count, _BATCH):
                    cursor.executemany(query, many[start : start + _BATCH])
    return {server: name, **{each: named % number for each, number in made.items()}}


def disperse(cloud: model.Cloud, host: str, server: str) -> None:
    """Remove all copies of a server, whose number may be as high as theirs."""
    those = "SELECT uuid FROM instances WHERE id >= %s AND host = %s AND uuid <> %s"
    with _database(cloud) as database, database.cursor() as cursor:
        for table, key in reversed(_TABLES.items()):
            query = f"DELETE FROM {table} WHERE {key} IN (SELECT uuid FROM ({those}) AS copies)"
            cursor.execute(query, (_FIRST, host, server))


def _database(cloud: model.Cloud) -> Any:
    return pymysql.connect(
        host=model.HOST,
        port=cloud.ports["mariadb"],
        user="smartos",
        password=cloud.password,
        database="nova",
        autocommit=True,
        cursorclass=pymysql.cursors.DictCursor,
    )


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
    """`WHAT BASE …` changes the cloud, or `run` with nova-compute's own options."""
    what, *rest = words
    if what == "run":
        # where Nova looks for drivers; and its other ones need libvirt's bindings
        sys.modules["nova.virt.bench"] = sys.modules[__name__]
        sys.path.append(_DEBIAN)
        sys.argv = ["nova-compute", *rest]
        nova.cmd.compute.main()
        return
    base, *rest = rest
    cloud = model.Cloud.load(pathlib.Path(base))
    if cloud is None:
        raise services.Failed(f"there is no cloud in {base}")
    answer: Any = None
    if what == "add":
        answer = add(cloud, *rest)
    elif what == "crowd":
        host, server, count = rest
        answer = crowd(cloud, host, server, int(count))
    elif what == "disperse":
        disperse(cloud, *rest)
    else:
        restart(cloud, *rest)
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
