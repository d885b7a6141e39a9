# SPDX-License-Identifier: Apache-2.0
"""Bring a cloud up, as parallel as its parts depend on one another."""

import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, TypeAlias

from gate.cloud import (
    contents,
    files,
    model,
    nodes,
    processes,
    schemas,
    services,
    show,
    telemetry,
    volumes,
)

_AGAIN_SECONDS = 0.2


def up(cloud: model.Cloud) -> None:
    """Start everything; ends when servers can be booted."""
    cloud.folder("logs")
    files.write(cloud)
    if "telemetry" in cloud.sets:
        telemetry.write(cloud)
    if "volumes" in cloud.sets:
        volumes.write(cloud)
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        start = Starter(pool)
        try:
            _begin(cloud, start)
            start.finish()
        except BaseException:
            start.abandon(cloud.base)
            raise
    cloud.up = True
    cloud.save()


def _begin(cloud: model.Cloud, start: "Starter") -> None:
    """Every part, after those that it needs."""
    database = start(services.mariadb, cloud)
    bus = start(services.rabbitmq, cloud)
    cache = start(services.memcached, cloud)
    leads = {node.host: start(nodes.up, cloud, node) for node in cloud.nodes}
    introduced = start(nodes.introduce, cloud, after=[*leads.values()])
    admin = start(schemas.keystone, cloud, after=[database])
    tables = {
        "nova": start(schemas.nova, cloud, after=[database]),
        "neutron": start(schemas.neutron, cloud, after=[database]),
        "glance": start(schemas.glance, cloud, after=[database]),
        "placement": start(schemas.placement, cloud, after=[database]),
    }
    keystone = start(services.api, cloud, "keystone", after=[admin, cache])
    users = start(contents.identity, cloud, after=[keystone])
    apis = {
        service: start(services.api, cloud, service, after=[users, bus, tables[name]])
        for name, service in (
            ("placement", "placement"),
            ("glance", "glance"),
            ("neutron", "neutron"),
            ("nova", "nova-api"),
        )
    }
    start(contents.networks, cloud, after=[apis["neutron"]])
    start(contents.flavors, cloud, after=[apis["nova-api"]])
    conductor = start(_nova, cloud, "conductor", after=[apis["placement"], apis["nova-api"]])
    computes = [
        start(_compute, cloud, node, leads[node.host], introduced, after=[conductor, introduced])
        for node in cloud.nodes
    ]
    start(_nova, cloud, "scheduler", after=[conductor])
    if "consoles" in cloud.sets:
        for proxy in ("novncproxy", "serialproxy"):
            start(_proxy, cloud, proxy, after=[conductor])
    if "telemetry" in cloud.sets:
        _telemetry(cloud, start, database, bus, users, computes)
    if "volumes" in cloud.sets:
        cinder = start(volumes.tables, cloud, after=[database])
        cinder = start(services.api, cloud, "cinder", after=[users, bus, cinder])
        for binary in ("cinder-scheduler", "cinder-volume"):
            start(volumes.start, cloud, binary, after=[cinder])
    start(schemas.nova_manage, cloud, "cell_v2", "discover_hosts", after=computes)


Part: TypeAlias = "concurrent.futures.Future[Any]"


@dataclasses.dataclass
class Starter:
    """Runs each part in a thread, once those before it are done."""

    pool: concurrent.futures.ThreadPoolExecutor
    futures: list[Part] = dataclasses.field(default_factory=list)

    def __call__(
        self,
        part: Callable[..., Any],
        *arguments: Any,
        after: list[Part] | None = None,
    ) -> Part:
        def run() -> Any:
            for each in after or []:
                each.result()
            return part(*(_value(each) for each in arguments))

        self.futures.append(self.pool.submit(run))
        return self.futures[-1]

    def finish(self) -> None:
        """Wait for all; raise the first that failed."""
        done, _ = concurrent.futures.wait(
            self.futures, return_when=concurrent.futures.FIRST_EXCEPTION
        )
        for future in done:
            future.result()

    def abandon(self, base: pathlib.Path) -> None:
        """End all that was begun: what waits for a service sees that it has ended."""
        show.no_more_failures()
        for future in self.futures:
            future.cancel()
        while True:
            processes.stop(base)
            if not concurrent.futures.wait(self.futures, timeout=_AGAIN_SECONDS).not_done:
                break
        # the last part may have started one since
        processes.stop(base)


def _value(argument: Any) -> Any:
    return argument.result() if isinstance(argument, concurrent.futures.Future) else argument


def compute(cloud: model.Cloud, host: str) -> None:
    """Start the nova-compute of a node, and wait until it has met its node and says so."""
    etc = cloud.base / "etc/nova-smartos"
    name = f"nova-compute-{host}"
    before = services.compute_reports(cloud, host)
    process = services.nova(cloud, "compute", etc / "network.conf", etc / f"{host}.conf", name=name)
    services.ready(cloud, name, lambda: services.compute_reports(cloud, host) > before, process)


def node(cloud: model.Cloud, host: str) -> None:
    """Power an emulated node on again, where it was."""
    known = next(each for each in cloud.nodes if each.host == host)
    nodes.up(cloud, known)


def _compute(
    cloud: model.Cloud, node: model.Node, leads: dict[str, Any], introduced: dict[str, Any]
) -> None:
    images = {
        "trusted_image_owners": contents.project(cloud),
        "image_signing_key_file": files.image_key(cloud),
    }
    files.compute(cloud, node, introduced | leads | images)
    compute(cloud, node.host)


def _nova(cloud: model.Cloud, service: str) -> None:
    name = f"nova-{service}"
    process = services.nova(cloud, service, cloud.base / "etc/nova/database.conf")
    services.ready(cloud, name, lambda: services.reports(cloud, "nova", name), process)


def _proxy(cloud: model.Cloud, proxy: str) -> None:
    process = services.nova(cloud, proxy, cloud.base / "etc/nova/database.conf")
    services.ready(cloud, f"nova-{proxy}", lambda: services.listens(cloud, proxy), process)


def _telemetry(
    cloud: model.Cloud, start: Starter, database: Part, bus: Part, users: Part, computes: list[Part]
) -> None:
    tables = start(telemetry.gnocchi_tables, cloud, after=[database])
    gnocchi = start(services.api, cloud, "gnocchi", after=[users, tables])
    start(telemetry.metricd, cloud, after=[tables])
    types = start(telemetry.resource_types, cloud, after=[gnocchi])
    listener = start(telemetry.notification, cloud, after=[types, bus])
    # it reads what the computes read
    start(telemetry.polling, cloud, after=[listener, *computes])
    rates = start(telemetry.cloudkitty_tables, cloud, after=[database])
    start(services.api, cloud, "cloudkitty", after=[users, bus, rates])
    start(telemetry.processor, cloud, after=[types, bus, rates])
    start(_rated, cloud, after=[users, rates])


def _rated(cloud: model.Cloud) -> None:
    telemetry.rate(cloud, contents.project(cloud))
