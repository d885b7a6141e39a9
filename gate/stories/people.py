# SPDX-License-Identifier: Apache-2.0
"""People with a project, a user and a network, who see the cloud through its API."""

import secrets
import time
from collections.abc import Callable
from typing import Any, TypeVar

import openstack
import pytest
from oslo_config import cfg

from gate.cloud import contents, model, nodes, services
from nova_smartos import conf
from nova_smartos.smartos import node
from nova_smartos.smartos import vms as vms_module

T = TypeVar("T")
SECONDS = 180.0


class Failed(AssertionError):
    """A server went to ERROR; the text is the fault that its user sees."""


class Person:
    """A user of the cloud, in one project."""

    def __init__(self, cloud: model.Cloud, connection: Any, network: str = "private") -> None:
        self.cloud = cloud
        self.connection = connection
        self.compute = connection.compute
        self.network = network

    def boot(
        self, image: str = "zone", *, wait: bool = True, flavor: str = "1", **more: Any
    ) -> Any:
        """Boot a server from one of the cloud's images."""
        if not contents.bootable(self.cloud, image):
            pytest.skip(f"there is nothing that a real node can boot: --image {image}=MANIFEST")
        network = self.connection.network.find_network(self.network, ignore_missing=False)
        server = self.compute.create_server(
            **{
                "name": f"{image}-{secrets.token_hex(3)}",
                "image_id": contents.images(self.cloud, [image])[image],
                "flavor_id": flavor,
                "networks": [{"uuid": network.id}],
                **more,
            }
        )
        return self.wait(server) if wait else server

    def wait(self, server: Any, status: str = "ACTIVE") -> Any:
        """Wait until a server has a status and nothing is under way."""

        def settled() -> Any:
            shown = self.compute.get_server(server.id)
            if shown.status == "ERROR" != status and shown.fault:
                raise Failed(shown.fault["message"])
            return shown if shown.status == status and not shown.task_state else None

        return until(settled, f"{server.name} to be {status}")

    def host(self, server: Any) -> str:
        """Where a server is, which the administrator sees: the name of its nova-compute."""
        return str(self.compute.get_server(server.id).compute_host)

    def delete(self, *servers: Any) -> None:
        """Delete servers, and wait until they are gone."""
        for server in servers:
            self.compute.delete_server(server)
        until(lambda: not self._left(servers), f"{[each.name for each in servers]} to be gone")

    def _left(self, servers: Any) -> set[str]:
        wanted = {each.id for each in servers}
        return wanted & {each.id for each in self.compute.servers(details=False)}


class Tenants:
    """Makes people, and removes them with all that is theirs."""

    def __init__(self, cloud: model.Cloud, admin: Person) -> None:
        self._cloud = cloud
        self._admin = admin
        self._made: list[tuple[Any, Any, Person]] = []

    def __enter__(self) -> "Tenants":
        return self

    def add(self, name: str, cidr: str = "10.20.0.0/24") -> Person:
        """A person with a project and a network."""
        keystone = self._admin.connection.identity
        full, password = f"{name}-{secrets.token_hex(3)}", secrets.token_hex(8)
        project = keystone.create_project(name=full, domain_id="default")
        user = keystone.create_user(name=full, password=password, domain_id="default")
        keystone.assign_project_role_to_user(project, user, keystone.find_role("member"))
        connection = openstack.connection.Connection(
            auth={
                "auth_url": self._cloud.url("keystone", "/v3"),
                "username": full,
                "password": password,
                "project_id": project.id,
                "user_domain_id": "default",
            },
            region_name=model.REGION,
            compute_api_version="2.latest",
        )
        person = Person(self._cloud, connection, network=full)
        self._made.append((project, user, person))
        network = connection.network.create_network(name=full)
        connection.network.create_subnet(network_id=network.id, ip_version=4, cidr=cidr)
        return person

    def project(self, person: Person) -> str:
        """The id of somebody's project."""
        return str(person.connection.current_project_id)

    def __exit__(self, *_: object) -> None:
        keystone = self._admin.connection.identity
        for project, user, person in self._made:
            person.delete(*person.compute.servers())
            network = person.connection.network
            for port in network.ports(project_id=project.id):
                network.delete_port(port)
            for each in network.networks(project_id=project.id):
                network.delete_network(each)
            keystone.delete_user(user)
            keystone.delete_project(project)


def administrator(cloud: model.Cloud) -> Person:
    """The cloud's administrator."""
    return Person(cloud, contents.connect(cloud))


def emulator(cloud: model.Cloud, action: str, host: str, *words: str) -> str:
    """Run smartos-emulator on an emulated node of the cloud."""
    known = next(each for each in cloud.nodes if each.host == host)
    folder = str(nodes.folder_of(cloud, known))
    return services.command(cloud, host, ["smartos-emulator", action, folder, *words])


def toolkit(cloud: model.Cloud, host: str) -> node.Node:
    """The node of a host, as its nova-compute reaches it."""
    options = cfg.ConfigOpts()
    conf.register(options)
    options(["--config-file", str(cloud.base / f"etc/nova-smartos/{host}.conf")])
    return conf.connect(options)


def vm(cloud: model.Cloud, host: str, uuid: str) -> vms_module.Vm:
    """A VM as vmadm shows it."""
    with toolkit(cloud, host) as gz:
        return gz.vmadm.get(uuid)


def vms(cloud: model.Cloud, host: str) -> set[str]:
    """The uuids of all VMs on a node."""
    with toolkit(cloud, host) as gz:
        return {each["uuid"] for each in gz.vmadm.lookup_fields(("uuid",))}


def all_vms(cloud: model.Cloud) -> dict[str, set[str]]:
    """Those of each node."""
    return {each.host: vms(cloud, each.host) for each in cloud.nodes}


def until(question: Callable[[], T], what: str, seconds: float = SECONDS) -> T:
    """Ask until the answer is true; what it is."""
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.3)
    return answer
