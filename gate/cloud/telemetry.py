# SPDX-License-Identifier: Apache-2.0
"""The set `telemetry`: Ceilometer polls and listens, Gnocchi keeps, CloudKitty rates.

It reads what stands in etc/ for operators, only faster: here an hour lasts half a minute.
"""

import datetime
import json
import time
from typing import Any

import yaml

from gate.cloud import contents, files, install, model, services, show

#: How many times as fast as in etc/ the cloud polls, keeps and rates.
HASTE = 120
#: The least that polling takes, in seconds.
_LEAST = 10
_HOUR = 3600
#: What an hour is here, in seconds.
HOUR = _HOUR // HASTE
_FETCHER, _COLLECTOR, _SCOPE = "keystone", "gnocchi", "project_id"
_SECONDS = {"minute": 60, "hour": _HOUR, "day": 24 * _HOUR}


def write(cloud: model.Cloud) -> None:
    """Write the files of all three."""
    etc = cloud.base / "etc"
    files.put(cloud, "ceilometer/ceilometer.conf", ceilometer(cloud))
    files.put(cloud, "gnocchi/gnocchi.conf", gnocchi(cloud))
    files.put(cloud, "cloudkitty/cloudkitty.conf", cloudkitty(cloud))
    for name, faster in {
        "ceilometer/pipeline.yaml": lambda kept: kept,
        "ceilometer/event_pipeline.yaml": lambda kept: kept,
        "ceilometer/polling.yaml": polled,
        "ceilometer/gnocchi_resources.yaml": kept_for,
        "cloudkitty/metrics.yml": rated,
    }.items():
        found = yaml.safe_load((install.ROOT / "etc" / name).read_text())
        # what YAML's aliases share must not be changed twice
        found = json.loads(json.dumps(found))
        (etc / name).write_text(yaml.safe_dump(faster(found), sort_keys=False))
    paste = _GNOCCHI_PASTE.format(file=etc / "gnocchi/gnocchi.conf")
    (etc / "gnocchi/api-paste.ini").write_text(paste)
    (etc / "cloudkitty/api-paste.ini").write_text(_CLOUDKITTY_PASTE)


def ceilometer(cloud: model.Cloud) -> files.Sections:
    """The polling agent and the one that listens; pipeline and resources lie beside."""
    etc = cloud.base / "etc/nova-smartos"
    nodes = ",".join(f"{node.host}:{etc / node.host}.conf" for node in cloud.nodes)
    return {
        "DEFAULT": {"transport_url": files.bus(cloud)},
        "notification": {"workers": 1},
        "polling": {
            # no message may divide the samples of a meter: the exporter starts it anew with each
            "batch_size": 10_000,
            "enable_prometheus_exporter": True,
            "prometheus_listen_addresses": f"{model.HOST}:{cloud.ports['ceilometer-polling']}",
        },
        "service_credentials": {**files.user(cloud, "ceilometer"), "interface": "internal"},
        "smartos_meters": {
            "nodes": nodes,
            "ledger": cloud.folder("state", "ceilometer") / "ledger.sqlite",
        },
        "oslo_messaging_rabbit": files.messaging(cloud)["oslo_messaging_rabbit"],
    }


def gnocchi(cloud: model.Cloud) -> files.Sections:
    """Its API and metricd; measures in files, all else in the database."""
    state = cloud.folder("state", "gnocchi")
    return {
        "DEFAULT": {"coordination_url": f"file://{state}/coordination", "parallel_operations": 2},
        "api": {"auth_mode": "keystone", "paste_config": cloud.base / "etc/gnocchi/api-paste.ini"},
        "indexer": {"url": files.database(cloud, "gnocchi")["connection"]},
        "storage": {"driver": "file", "file_basepath": state},
        "incoming": {"driver": "file", "file_basepath": state},
        "metricd": {"workers": 1, "metric_processing_delay": 2, "metric_reporting_delay": -1},
        "keystone_authtoken": files.authtoken(cloud, "gnocchi"),
    }


def cloudkitty(cloud: model.Cloud) -> files.Sections:
    """Its API and processor; what is rated lies in the database."""
    locks = cloud.folder("state", "cloudkitty", "locks")
    return {
        "DEFAULT": {
            "transport_url": files.bus(cloud),
            "host": model.HOST,
            "api_paste_config": cloud.base / "etc/cloudkitty/api-paste.ini",
        },
        "database": files.database(cloud, "cloudkitty"),
        "storage": {"version": 1, "backend": "sqlalchemy"},
        "fetcher": {"backend": _FETCHER},
        f"fetcher_{_FETCHER}": files.user(cloud, "cloudkitty"),
        "collect": {
            "collector": _COLLECTOR,
            "scope_key": _SCOPE,
            "metrics_conf": cloud.base / "etc/cloudkitty/metrics.yml",
            "period": HOUR,
            # since a period began, so that samples have two more to come, on a busy machine
            "wait_periods": 3,
        },
        f"collector_{_COLLECTOR}": {
            "gnocchi_auth_type": "keystone",
            **files.user(cloud, "cloudkitty"),
        },
        "orchestrator": {
            "coordination_url": f"file://{locks}",
            "max_workers": 1,
            "max_workers_reprocessing": 0,
        },
        "oslo_concurrency": {"lock_path": locks},
        "oslo_messaging_rabbit": files.messaging(cloud)["oslo_messaging_rabbit"],
        "keystone_authtoken": files.authtoken(cloud, "cloudkitty"),
    }


def gnocchi_tables(cloud: model.Cloud) -> None:
    with show.step("gnocchi: tables"):
        services.command(cloud, "gnocchi", ["gnocchi-upgrade", *_told(cloud, "gnocchi")])


def cloudkitty_tables(cloud: model.Cloud) -> None:
    with show.step("cloudkitty: tables"):
        told = _told(cloud, "cloudkitty")
        services.command(cloud, "cloudkitty", ["cloudkitty-dbsync", *told, "upgrade"])
        services.command(cloud, "cloudkitty", ["cloudkitty-storage-init", *told])


def resource_types(cloud: model.Cloud) -> None:
    """What Gnocchi is to know of servers, disks and nics."""
    with show.step("gnocchi: resource types"):
        words = ["ceilometer-upgrade", "--retry", "3", *_told(cloud, "ceilometer")]
        services.command(cloud, "ceilometer", words)


def metricd(cloud: model.Cloud) -> None:
    """Start what aggregates measures; once it works it is a member of its group."""
    name = "gnocchi-metricd"
    process = services.program(cloud, name, [name, *_told(cloud, "gnocchi")])
    services.ready(cloud, name, lambda: metricd_works(cloud), process)


def metricd_works(cloud: model.Cloud) -> bool:
    """Whether what aggregates is a member of its group."""
    # Gnocchi's API would answer with a traceback until there is a group, and tooz, which reads
    # these files too, brings eventlet into a program of threads
    groups = cloud.folder("state", "gnocchi", "coordination", "groups")
    return any(groups.glob("*/*.raw"))


def notification(cloud: model.Cloud) -> None:
    """Start what takes samples and Nova's notifications from the bus to Gnocchi."""
    name = "ceilometer-notification"
    words = ["ceilometer-agent-notification", *_told(cloud, "ceilometer")]
    process = services.program(cloud, name, words)
    services.ready(cloud, name, lambda: notification_listens(cloud), process)


def notification_listens(cloud: model.Cloud) -> bool:
    """Whether what takes samples and notifications reads both from the bus."""
    return all(services.consumed(cloud, f"notifications.{what}") for what in ("info", "sample"))


def polling(cloud: model.Cloud) -> None:
    """Start the polling agent: one for all nodes."""
    name = "ceilometer-polling"
    words = [name, "--polling-namespaces", "smartos", *_told(cloud, "ceilometer")]
    process = services.program(cloud, name, words)
    services.ready(cloud, name, lambda: services.listens(cloud, name), process)


def processor(cloud: model.Cloud) -> None:
    """Start what collects from Gnocchi and rates."""
    name = "cloudkitty-processor"
    process = services.program(cloud, name, [name, *_told(cloud, "cloudkitty")])
    services.ready(cloud, name, lambda: processor_listens(cloud), process)


def processor_listens(cloud: model.Cloud) -> bool:
    """Whether what rates reads its orders from the bus."""
    return services.consumed(cloud, "cloudkitty")


def rate(cloud: model.Cloud, project: str) -> None:
    """Have CloudKitty rate a project, from the period that now is on."""
    # it would begin with the first of the month, and our periods are many
    begun = int(time.time()) // HOUR * HOUR
    done_with = datetime.datetime.fromtimestamp(begun - HOUR, datetime.UTC).replace(tzinfo=None)
    done = services.rows(
        cloud,
        "cloudkitty",
        "INSERT IGNORE INTO cloudkitty_storage_states"
        " (identifier, scope_key, fetcher, collector, last_processed_timestamp, active)"
        " VALUES (%s, %s, %s, %s, %s, 1)",
        *(project, _SCOPE, _FETCHER, _COLLECTOR, done_with),
    )
    if done is None:
        raise services.Failed("the database does not answer")
    keystone = contents.connect(cloud).identity
    role = keystone.find_role("rating") or keystone.create_role(name="rating")
    user = keystone.find_user("cloudkitty", ignore_missing=False)
    keystone.assign_project_role_to_user(project, user, role)


def polled(polling: Any) -> Any:
    """A polling.yaml with shorter intervals."""
    for source in polling["sources"]:
        source["interval"] = max(source["interval"] // HASTE, _LEAST)
    return polling


def kept_for(resources: Any) -> Any:
    """A gnocchi_resources.yaml with shorter buckets, kept for a shorter time."""
    for policy in resources["archive_policies"]:
        for each in policy["definition"]:
            for what in ("granularity", "timespan"):
                number, unit = each[what].split()
                seconds = int(number) * _SECONDS[unit.removesuffix("s")]
                each[what] = f"{seconds // HASTE} seconds"
    return resources


def rated(metrics: Any) -> Any:
    """A metrics.yml that asks for shorter buckets."""
    for metric in metrics["metrics"].values():
        for each in metric if isinstance(metric, list) else [metric]:
            each["extra_args"]["force_granularity"] //= HASTE
    return metrics


def _told(cloud: model.Cloud, service: str) -> list[str]:
    return ["--config-file", str(cloud.base / f"etc/{service}/{service}.conf")]


# Gnocchi's own does not tell the middleware where its file is
_GNOCCHI_PASTE = """\
[composite:gnocchi+keystone]
use = egg:Paste#urlmap
/ = versions
/v1 = authenticated

[app:versions]
paste.app_factory = gnocchi.rest.app:app_factory
root = gnocchi.rest.api.VersionsController

[pipeline:authenticated]
pipeline = keystone_authtoken v1

[app:v1]
paste.app_factory = gnocchi.rest.app:app_factory
root = gnocchi.rest.api.V1Controller

[filter:keystone_authtoken]
use = egg:keystonemiddleware#auth_token
oslo_config_project = gnocchi
oslo_config_file = {file}
"""
# CloudKitty's package brings none
_CLOUDKITTY_PASTE = """\
[pipeline:cloudkitty+keystone]
pipeline = request_id authtoken api

[app:api]
paste.app_factory = cloudkitty.api.app:app_factory

[filter:authtoken]
acl_public_routes = /, /v1, /v2
paste.filter_factory = cloudkitty.api.middleware:AuthTokenMiddleware.factory

[filter:request_id]
paste.filter_factory = oslo_middleware:RequestId.factory
"""
