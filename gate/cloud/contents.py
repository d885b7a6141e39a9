# SPDX-License-Identifier: Apache-2.0
"""What is in a cloud before its users come: service users, endpoints, flavors, networks, images."""

import json
import pathlib
from typing import Any

import openstack

from gate.cloud import files, model, services, show

#: vCPUs, MiB of memory, GiB of disk
FLAVORS = {"tiny": (1, 256, 5), "small": (1, 512, 10), "medium": (2, 1024, 20)}
#: Glance's name, the emulator's kind, and what is set besides
IMAGES: dict[str, tuple[str, dict[str, str]]] = {
    "zone": ("zone", {}),
    "zone-alt": ("zone", {}),
    "lx": ("lx", {}),
    "disk": ("zvol", {}),
    "kvm": ("zvol", {"smartos_brand": "kvm"}),
}


def connect(cloud: model.Cloud) -> Any:
    """The cloud as its administrator sees it."""
    known = openstack.config.OpenStackConfig(
        config_files=[str(cloud.base / "clouds.yaml")], load_envvars=False
    )
    return openstack.connection.Connection(config=known.get_one("smartos"))


def identity(cloud: model.Cloud) -> None:
    """The users and endpoints of the services."""
    with show.step("keystone: services and their users"):
        keystone = connect(cloud).identity
        project = keystone.create_project(name="service", domain_id="default")
        roles = [keystone.find_role(name) for name in ("admin", "service")]
        for service, (kind, path) in files.services(cloud).items():
            name = service.partition("-")[0]
            user = keystone.create_user(
                name=name,
                password=cloud.password,
                domain_id="default",
                default_project_id=project.id,
            )
            for role in roles:
                keystone.assign_project_role_to_user(project, user, role)
            if path is None:
                continue
            entry = keystone.create_service(name=name, type=kind)
            for interface in ("public", "internal"):
                keystone.create_endpoint(
                    service_id=entry.id,
                    interface=interface,
                    url=cloud.url(service, path),
                    region_id=model.REGION,
                )


def flavors(cloud: model.Cloud) -> None:
    """The sizes of servers."""
    with show.step("flavors"):
        compute = connect(cloud).compute
        for number, (name, (vcpus, ram, disk)) in enumerate(FLAVORS.items(), 1):
            compute.create_flavor(
                id=str(number), name=f"smartos.{name}", vcpus=vcpus, ram=ram, disk=disk
            )


def networks(cloud: model.Cloud) -> None:
    """A public network, one for the administrator's servers, and addresses for those of others."""
    with show.step("networks"):
        network = connect(cloud).network
        public = network.create_network(
            name="public",
            is_router_external=True,
            is_default=True,
            provider_network_type="flat",
            provider_physical_network=files.PUBLIC,
        )
        network.create_subnet(
            name="public", network_id=public.id, ip_version=4, cidr="203.0.113.0/24"
        )
        private = network.create_network(name="private")
        network.create_subnet(
            name="private",
            network_id=private.id,
            ip_version=4,
            cidr="192.168.233.0/24",
            dns_nameservers=["192.0.2.53"],
        )
        for version, prefix, length in ((4, "10.64.0.0/12", 24), (6, "fd64:5a05::/48", 64)):
            network.create_subnet_pool(
                name=f"default-v{version}",
                prefixes=[prefix],
                default_prefix_length=length,
                is_default=True,
                is_shared=True,
            )


def bootable(cloud: model.Cloud, name: str) -> bool:
    """Whether there is an image of this name: a real node takes none of the emulator's."""
    return _chosen(cloud, name) is not None or all(node.emulated for node in cloud.nodes)


def images(cloud: model.Cloud, names: list[str]) -> dict[str, str]:
    """Images to boot, registered when they are not yet; their ids by name."""
    found = {}
    glance = connect(cloud).image
    for name in names:
        if known := glance.find_image(f"smartos-{name}"):
            found[name] = str(known.id)
            continue
        if not bootable(cloud, name):
            raise services.Failed(f"real nodes need an image: --image {name}=MANIFEST")
        chosen = _chosen(cloud, name)
        manifest, file = given(chosen) if chosen else _small(cloud, name)
        properties = {"smartos_image_type": manifest["type"], **IMAGES[name][1]}
        if "image_size" in manifest:
            properties["smartos_image_size"] = str(manifest["image_size"])
        image = glance.create_image(
            f"smartos-{name}",
            disk_format="raw",
            container_format="bare",
            visibility="public",
            filename=str(file),
            **properties,
        )
        found[name] = str(image.id)
    return found


def given(path: pathlib.Path) -> tuple[dict[str, Any], pathlib.Path]:
    """A manifest that somebody named, and the file beside it."""
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        kind = manifest["type"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise services.Failed(f"{path} is no manifest of an image: {error!r}") from error
    beside = [each for each in path.parent.glob(f"{path.stem}.*") if each != path]
    if len(beside) != 1:
        raise services.Failed(f"beside {path}, {path.stem}.* is to be its file alone: {beside}")
    if kind not in {"zone-dataset", "lx-dataset", "zvol"}:
        raise services.Failed(f"{path}: no server boots from an image of type {kind}")
    return manifest, beside[0]


def _chosen(cloud: model.Cloud, name: str) -> pathlib.Path | None:
    # the second of two that only have to differ
    path = cloud.images.get(name) or cloud.images.get(name.removesuffix("-alt"))
    return pathlib.Path(path) if path else None


def _small(cloud: model.Cloud, name: str) -> tuple[dict[str, Any], pathlib.Path]:
    """A small image that boots on emulated nodes, made."""
    base = cloud.folder("images") / name
    words = ["image", IMAGES[name][0], f"smartos-{name}", "--output", str(base)]
    services.command(cloud, "images", ["smartos-emulator", *words])
    return given(base.with_suffix(".imgmanifest"))


def project(cloud: model.Cloud) -> str:
    """The id of the administrator's project, whose images are trusted."""
    return str(connect(cloud).current_project_id)
