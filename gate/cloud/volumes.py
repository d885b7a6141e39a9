# SPDX-License-Identifier: Apache-2.0
"""The set `volumes`: Cinder, on a backend that needs neither root nor the kernel."""

from gate.cloud import files, install, model, services, show


def write(cloud: model.Cloud) -> None:
    """Write cinder.conf."""
    files.put(cloud, "cinder/cinder.conf", cinder(cloud))


def cinder(cloud: model.Cloud) -> files.Sections:
    return {
        "DEFAULT": {
            "transport_url": files.bus(cloud),
            "my_ip": model.HOST,
            "host": "volumes",
            "api_paste_config": files.DATA / "cinder/api-paste.ini",
            "rootwrap_config": files.DATA / "cinder/rootwrap.conf",
            "state_path": cloud.folder("state", "cinder"),
            "glance_api_servers": cloud.url("glance"),
            "enabled_backends": "sparse",
        },
        "sparse": {
            "volume_driver": "gate.cloud.sparse.SparseDriver",
            "volume_backend_name": "sparse",
        },
        "database": files.database(cloud, "cinder"),
        "keystone_authtoken": files.authtoken(cloud, "cinder"),
        "nova": files.user(cloud, "nova-api"),
        "oslo_concurrency": {"lock_path": cloud.folder("state", "cinder", "lock")},
        **files.messaging(cloud),
    }


def tables(cloud: model.Cloud) -> None:
    with show.step("cinder: tables"):
        services.command(cloud, "cinder", ["cinder-manage", *_told(cloud), "db", "sync"])


def start(cloud: model.Cloud, binary: str) -> None:
    """Start cinder-scheduler or cinder-volume, and wait until Cinder counts it as up."""
    # where the backend is found
    environment = {"PYTHONPATH": str(install.ROOT)}
    process = services.program(cloud, binary, [binary, *_told(cloud)], environment)
    services.ready(cloud, binary, lambda: services.reports(cloud, "cinder", binary), process)


def _told(cloud: model.Cloud) -> list[str]:
    return ["--config-file", str(cloud.base / "etc/cinder/cinder.conf")]
