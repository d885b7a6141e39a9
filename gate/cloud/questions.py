# SPDX-License-Identifier: Apache-2.0
"""What each service of a cloud is asked, to know whether it is up and not only there."""

import functools
import subprocess
from collections.abc import Callable

from gate.cloud import model, nodes, services, telemetry

_COMPUTE = "nova-compute-"
_SECONDS = 30
_QUESTIONS: dict[str, Callable[[model.Cloud], bool]] = {
    "mariadb": services.mariadb_answers,
    "memcached": services.memcached_answers,
    "rabbitmq": services.rabbitmq_answers,
    "ceilometer-notification": telemetry.notification_listens,
    "cloudkitty-processor": telemetry.processor_listens,
    "gnocchi-metricd": telemetry.metricd_works,
    "ceilometer-polling": functools.partial(services.listens, service="ceilometer-polling"),
    "nova-novncproxy": functools.partial(services.listens, service="novncproxy"),
    "nova-serialproxy": functools.partial(services.listens, service="serialproxy"),
    **{
        name: functools.partial(services.reports, database=name.partition("-")[0], binary=name)
        for name in ("nova-conductor", "nova-scheduler", "cinder-scheduler", "cinder-volume")
    },
}


def answers(cloud: model.Cloud, service: str) -> bool:
    """Ask a service of the cloud."""
    if service in services.APIS:
        return services.answers(cloud, service)
    if service.startswith(_COMPUTE):
        host = service.removeprefix(_COMPUTE)
        return services.reports(cloud, "nova", "nova-compute", host)
    for node in cloud.nodes:
        if service == node.host:
            return _powered(cloud, node)
    return _QUESTIONS[service](cloud)


def _powered(cloud: model.Cloud, node: model.Node) -> bool:
    words = [str(services.BIN / "smartos-emulator"), "status", str(nodes.folder_of(cloud, node))]
    try:
        done = subprocess.run(words, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
