# SPDX-License-Identifier: Apache-2.0
"""The configuration files of every service of a cloud."""

import hashlib
import pathlib
import shutil
import sys
from collections.abc import Mapping
from typing import TypeAlias

import yaml

from gate.cloud import model

Sections: TypeAlias = Mapping[str, Mapping[str, object]]

#: What each service is in Keystone: type and path of its endpoint; None if it has no API.
SERVICES: dict[str, tuple[str, str | None]] = {
    "placement": ("placement", ""),
    "glance": ("image", ""),
    "neutron": ("network", ""),
    "nova-api": ("compute", "/v2.1"),
}
_SERVICES_OF_SETS: dict[str, dict[str, tuple[str, str | None]]] = {
    "telemetry": {
        "gnocchi": ("metric", ""),
        "ceilometer": ("metering", None),
        "cloudkitty": ("rating", ""),
    },
    "volumes": {"cinder": ("volumev3", "/v3")},
}
#: The physical network of project networks, with VLANs, and the one of the public network.
PROJECTS, PUBLIC = "physnet1", "public"
VLANS = "100:1999"
#: What Nova's scheduler asks of a host.
FILTERS = tuple(
    f"{name}Filter"
    for name in (
        "Compute",
        "ComputeCapabilities",
        "ImageProperties",
        "ServerGroupAntiAffinity",
        "ServerGroupAffinity",
        "SameHost",
        "DifferentHost",
    )
)
#: Where packages have put their sample configuration.
DATA = pathlib.Path(sys.prefix) / "etc"


def write(cloud: model.Cloud) -> None:
    """Write all of them."""
    for service, sections in {
        "keystone/keystone.conf": keystone(cloud),
        "placement/placement.conf": placement(cloud),
        "glance/glance-api.conf": glance(cloud),
        "neutron/neutron.conf": neutron(cloud),
        "neutron/ml2_conf.ini": ml2(cloud),
        "nova-smartos/network.conf": network(cloud),
        "nova/nova.conf": nova(cloud),
        "nova/database.conf": nova_databases(cloud),
    }.items():
        put(cloud, service, sections)
    shutil.copy(DATA / "nova/api-paste.ini", cloud.base / "etc/nova")
    image_key(cloud).touch(mode=0o600)
    image_key(cloud).write_text(hashlib.sha256(f"images {cloud.password}".encode()).hexdigest())
    clouds(cloud)


def put(cloud: model.Cloud, name: str, sections: Sections) -> pathlib.Path:
    """Write one of them, readable by its owner alone."""
    path = cloud.base / "etc" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(_ini(sections))
    return path


def services(cloud: model.Cloud) -> dict[str, tuple[str, str | None]]:
    """The services of a cloud with its optional sets, as Keystone knows them."""
    known = dict(SERVICES)
    for each in sorted(cloud.sets):
        known |= _SERVICES_OF_SETS.get(each, {})
    return known


def clouds(cloud: model.Cloud) -> None:
    """clouds.yaml, for `openstack` and everything else that uses its SDK."""
    user = {
        "auth_url": cloud.url("keystone", "/v3"),
        "username": "admin",
        "password": cloud.password,
        "project_name": "admin",
        "user_domain_id": "default",
        "project_domain_id": "default",
    }
    path = cloud.base / "clouds.yaml"
    path.touch(mode=0o600)
    path.write_text(
        yaml.safe_dump({"clouds": {"smartos": {"auth": user, "region_name": model.REGION}}})
    )


def compute(cloud: model.Cloud, node: model.Node, options: Mapping[str, object]) -> pathlib.Path:
    """The file of one nova-compute; `options` lead to its node."""
    state = cloud.folder("state", "nova", node.host)
    if "telemetry" in cloud.sets:
        options = {**options, "spool_directory": cloud.folder("state", "spool", node.host)}
    sections = {"DEFAULT": {"host": node.host, "state_path": state}, "smartos": options}
    return put(cloud, f"nova-smartos/{node.host}.conf", sections)


def image_key(cloud: model.Cloud) -> pathlib.Path:
    """The file of the secret with which every nova-compute signs the images that it makes."""
    return cloud.base / "etc/nova-smartos/image-key"


def keystone(cloud: model.Cloud) -> Sections:
    keys = {"key_repository": cloud.folder("etc", "keystone", "fernet")}
    return {
        "DEFAULT": {"log_file": cloud.log("keystone")},
        "database": database(cloud, "keystone"),
        "token": {"provider": "fernet", "expiration": 14400},
        "fernet_tokens": keys,
        # which otherwise lie in /etc, where only root may write
        "fernet_receipts": keys,
        "credential": {"key_repository": cloud.folder("etc", "keystone", "credential")},
        "cache": {
            "enabled": True,
            "backend": "dogpile.cache.memcached",
            "memcache_servers": f"unix:{model.CACHE}",
        },
        # of test users: hashing at full cost would be most of what the cloud does
        "identity": {"password_hash_algorithm": "bcrypt", "password_hash_rounds": 4},
        "oslo_messaging_notifications": {"driver": "noop"},
    }


def placement(cloud: model.Cloud) -> Sections:
    return {
        "DEFAULT": {"log_file": cloud.log("placement")},
        "placement_database": database(cloud, "placement"),
        "keystone_authtoken": authtoken(cloud, "placement"),
    }


def glance(cloud: model.Cloud) -> Sections:
    stores = cloud.base / "state/glance"
    return {
        "DEFAULT": {
            "log_file": cloud.log("glance"),
            "enabled_backends": "fs:file",
            "worker_self_reference_url": cloud.url("glance"),
            "transport_url": bus(cloud),
        },
        "database": database(cloud, "glance"),
        "glance_store": {"default_backend": "fs"},
        "fs": {"filesystem_store_datadir": stores / "images"},
        "os_glance_staging_store": {"filesystem_store_datadir": stores / "staging"},
        "os_glance_tasks_store": {"filesystem_store_datadir": stores / "tasks"},
        "paste_deploy": {
            "flavor": "keystone",
            "config_file": DATA / "glance/glance-api-paste.ini",
        },
        "keystone_authtoken": authtoken(cloud, "glance"),
        **messaging(cloud),
    }


def neutron(cloud: model.Cloud) -> Sections:
    return {
        "DEFAULT": {
            "log_file": cloud.log("neutron"),
            "core_plugin": "ml2",
            "service_plugins": "router",
            "api_paste_config": DATA / "neutron/api-paste.ini",
            "state_path": cloud.folder("state", "neutron"),
            "transport_url": bus(cloud),
            "bind_host": model.HOST,
            "api_workers": 1,
            "rpc_workers": 1,
            "rpc_state_report_workers": 0,
            "dhcp_agent_notification": False,
        },
        "database": database(cloud, "neutron"),
        "nova": user(cloud, "nova-api"),
        "placement": user(cloud, "placement"),
        "keystone_authtoken": authtoken(cloud, "neutron"),
        "oslo_concurrency": {"lock_path": cloud.folder("state", "neutron", "lock")},
        "quotas": {
            f"quota_{what}": -1
            for what in (
                "floatingip",
                "network",
                "port",
                "router",
                "security_group",
                "security_group_rule",
                "subnet",
            )
        },
        **messaging(cloud),
    }


def ml2(cloud: model.Cloud) -> Sections:
    return {
        "ml2": {
            "type_drivers": "flat,vlan,local",
            "tenant_network_types": "vlan",
            "mechanism_drivers": "smartos",
            "extension_drivers": "port_security",
        },
        "ml2_type_flat": {"flat_networks": PUBLIC},
        "ml2_type_vlan": {"network_vlan_ranges": f"{PROJECTS}:{VLANS}"},
    }


def network(cloud: model.Cloud) -> Sections:
    """What neutron-server and every nova-compute must know alike."""
    mappings = [
        f"{node.host}:{physical}:{tag}"
        for node in cloud.nodes
        for physical, tag in cloud.networks.items()
    ]
    return {
        "smartos": {"network_mappings": ",".join(mappings), "allow_unfiltered_ports": True},
    }


def nova(cloud: model.Cloud) -> Sections:
    """What all of Nova's services share."""
    return {
        "DEFAULT": {
            "compute_driver": "smartos.SmartOSDriver",
            "max_concurrent_builds": 30,
            "state_path": cloud.folder("state", "nova"),
            "transport_url": bus(cloud),
            "my_ip": model.HOST,
            "allow_resize_to_same_host": True,
            "rootwrap_config": DATA / "nova/rootwrap.conf",
        },
        "api": {"max_limit": 1000},
        "conductor": {"workers": 1},
        "scheduler": {"workers": 1},
        "filter_scheduler": {
            # several boots at once would all choose the first of equals
            "shuffle_best_same_weighed_hosts": True,
            "enabled_filters": ",".join(FILTERS),
        },
        "quota": {
            **dict.fromkeys(("instances", "server_groups", "key_pairs"), -1),
            # more than anybody needs here, and an end that can be asked for
            "cores": 1000,
            "ram": 1000 * 1024,
        },
        "vnc": consoles(cloud, "novncproxy", "/vnc_lite.html"),
        "serial_console": consoles(cloud, "serialproxy", "/"),
        "glance": {"api_servers": cloud.url("glance")},
        "cinder": user(cloud, "nova-api") if "volumes" in cloud.sets else {},
        "oslo_concurrency": {"lock_path": cloud.folder("state", "nova", "lock")},
        "notifications": {
            # unversioned ones are what Ceilometer reads
            "notification_format": "both" if "telemetry" in cloud.sets else "versioned",
            "notify_on_state_change": "vm_and_task_state",
        },
        "neutron": user(cloud, "nova-api"),
        "placement": user(cloud, "placement"),
        "service_user": {"send_service_user_token": True, **user(cloud, "nova-api")},
        "keystone_authtoken": authtoken(cloud, "nova-api"),
        **messaging(cloud),
    }


def nova_databases(cloud: model.Cloud) -> Sections:
    """For those of Nova's services that may reach them: nova-compute may not."""
    return {
        "api_database": database(cloud, "nova_api"),
        "database": database(cloud, "nova"),
    }


def authtoken(cloud: model.Cloud, service: str) -> Mapping[str, object]:
    """How a service checks the tokens of its users."""
    return {
        **user(cloud, service),
        "www_authenticate_uri": cloud.url("keystone", "/v3"),
        "memcached_servers": f"unix:{model.CACHE}",
        "service_token_roles_required": True,
        "service_type": services(cloud)[service][0],
    }


def bus(cloud: model.Cloud) -> str:
    """Where messages go."""
    return f"rabbit://smartos:{cloud.password}@{model.HOST}:{cloud.ports['rabbitmq']}/"


def consoles(cloud: model.Cloud, proxy: str, page: str) -> Mapping[str, object]:
    """[vnc] or [serial_console]."""
    if "consoles" not in cloud.sets:
        return {"enabled": False}
    if proxy == "novncproxy":
        return {
            "enabled": True,
            "novncproxy_base_url": cloud.url(proxy, page),
            "novncproxy_host": model.HOST,
            "novncproxy_port": cloud.ports[proxy],
            "server_listen": model.HOST,
            "server_proxyclient_address": model.HOST,
        }
    return {
        "enabled": True,
        "base_url": cloud.url(proxy, page).replace("http:", "ws:"),
        "serialproxy_host": model.HOST,
        "serialproxy_port": cloud.ports[proxy],
    }


def database(cloud: model.Cloud, name: str) -> Mapping[str, object]:
    """A database of its own."""
    server = f"smartos:{cloud.password}@{model.HOST}:{cloud.ports['mariadb']}"
    return {
        "connection": f"mysql+pymysql://{server}/{name}?charset=utf8mb4",
        "max_pool_size": 8,
        "max_overflow": 30,
    }


def messaging(cloud: model.Cloud) -> Sections:
    """How messages are sent; notifications only where something reads them."""
    driver = "messagingv2" if cloud.sets & {"bench", "telemetry"} else "noop"
    return {
        "oslo_messaging_rabbit": {"heartbeat_in_pthread": False, "rabbit_quorum_queue": False},
        "oslo_messaging_notifications": {"driver": driver},
    }


def user(cloud: model.Cloud, service: str) -> Mapping[str, object]:
    """A service as a user of others."""
    return {
        "auth_type": "password",
        "auth_url": cloud.url("keystone", "/v3"),
        "username": service.partition("-")[0],
        "password": cloud.password,
        "project_name": "service",
        "user_domain_id": "default",
        "project_domain_id": "default",
        "region_name": model.REGION,
    }


def _ini(sections: Sections) -> str:
    lines = []
    for name, options in sections.items():
        lines.append(f"[{name}]")
        # oslo.config takes $ for a reference
        lines += [f"{key} = {str(value).replace('$', '$$')}" for key, value in options.items()]
        lines.append("")
    return "\n".join(lines)
