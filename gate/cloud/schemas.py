# SPDX-License-Identifier: Apache-2.0
"""The tables of every service, and Keystone's first administrator."""

import os

from gate.cloud import model, services, show


def glance(cloud: model.Cloud) -> None:
    with show.step("glance: tables"):
        config = str(cloud.base / "etc/glance/glance-api.conf")
        services.command(cloud, "glance", ["glance-manage", "--config-file", config, "db_sync"])


def keystone(cloud: model.Cloud) -> None:
    config = str(cloud.base / "etc/keystone/keystone.conf")

    def manage(*words: str, **environment: str) -> None:
        line = ["keystone-manage", "--config-file", config, *words]
        services.command(cloud, "keystone", line, environment)

    with show.step("keystone: tables, keys and administrator"):
        manage("db_sync")
        owner = [f"--keystone-user={os.geteuid()}", f"--keystone-group={os.getegid()}"]
        manage("fernet_setup", *owner)
        manage("credential_setup", *owner)
        url = cloud.url("keystone", "/v3")
        interfaces = [f"--bootstrap-{which}-url={url}" for which in ("admin", "public", "internal")]
        manage(
            "bootstrap",
            *interfaces,
            f"--bootstrap-region-id={model.REGION}",
            OS_BOOTSTRAP_PASSWORD=cloud.password,
        )


def neutron(cloud: model.Cloud) -> None:
    with show.step("neutron: tables"):
        etc = cloud.base / "etc/neutron"
        options = ["--config-file", str(etc / "neutron.conf")]
        options += ["--config-file", str(etc / "ml2_conf.ini")]
        services.command(cloud, "neutron", ["neutron-db-manage", *options, "upgrade", "heads"])


def nova(cloud: model.Cloud) -> None:
    with show.step("nova: tables and cells"):
        nova_manage(cloud, "api_db", "sync")
        nova_manage(cloud, "cell_v2", "map_cell0")
        nova_manage(cloud, "cell_v2", "create_cell", "--name", "cell1")
        nova_manage(cloud, "db", "sync")


def nova_manage(cloud: model.Cloud, *words: str) -> None:
    """Run nova-manage."""
    etc = cloud.base / "etc/nova"
    options = ["--config-file", str(etc / "nova.conf"), "--config-file", str(etc / "database.conf")]
    services.command(cloud, "nova", ["nova-manage", *options, *words])


def placement(cloud: model.Cloud) -> None:
    with show.step("placement: tables"):
        config = str(cloud.base / "etc/placement/placement.conf")
        words = ["placement-manage", "--config-file", config, "db", "sync"]
        services.command(cloud, "placement", words)
