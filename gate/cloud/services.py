# SPDX-License-Identifier: Apache-2.0
"""The services of a cloud: how each is started, and how it says that it is ready."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gate.cloud import install, model, processes, show

BIN = pathlib.Path(sys.executable).parent
#: How long a service may take until it is ready, and a command that sets one up.
SECONDS = 120.0
_SETUP_SECONDS = 600
# and one to answer, on a machine that has much else to do
_ASK_SECONDS = 10
_DATABASES = (
    "keystone",
    "placement",
    "glance",
    "neutron",
    "nova_api",
    "nova",
    "nova_cell0",
    "gnocchi",
    "cloudkitty",
    "cinder",
)
#: The WSGI module of each API.
APIS = {
    "keystone": "keystone.wsgi.api",
    "placement": "placement.wsgi.api",
    "glance": "glance.wsgi.api",
    "neutron": "neutron.wsgi.api",
    "nova-api": "nova.wsgi.osapi_compute",
    "gnocchi": "gnocchi.rest.wsgi",
    "cloudkitty": "cloudkitty.wsgi.api",
    "cinder": "cinder.wsgi.api",
}
#: Those that are told their file on the command line, and not in their environment.
_TOLD = ("gnocchi", "cloudkitty", "cinder")
_NATIVE_THREADS = {"OS_NOVA_DISABLE_EVENTLET_PATCHING": "1", "PYTHONWARNINGS": "ignore"}
_MATTERS = re.compile(
    r"\b(ERROR|CRITICAL|FATAL)\b|Error: |Exception: |\[ERROR\]|Kernel pid terminated"
)
# how a traceback in a log ends
_EMPTY = re.compile(r"ERROR \S+$")


class Failed(Exception):
    """A part of the cloud does not come up; the text has the line that matters."""


def api(cloud: model.Cloud, service: str) -> None:
    """Start an API; it listens once it has read its configuration."""
    etc = cloud.base / "etc"
    words = [sys.executable, "-m", "gate.cloud.serve", APIS[service], str(cloud.ports[service])]
    if service in _TOLD:
        words += ["--config-file", str(etc / service / f"{service}.conf")]
    process = processes.start(
        cloud,
        service,
        words,
        {
            "OS_KEYSTONE_CONFIG_DIR": str(etc / "keystone"),
            "OS_PLACEMENT_CONFIG_DIR": str(etc / "placement"),
            "OS_GLANCE_CONFIG_DIR": str(etc / "glance"),
            "OS_NEUTRON_CONFIG_DIR": str(etc),
            "OS_NEUTRON_CONFIG_FILES": (
                "neutron/neutron.conf;neutron/ml2_conf.ini;nova-smartos/network.conf"
            ),
            "OS_NOVA_CONFIG_DIR": str(etc / "nova"),
            "OS_NOVA_CONFIG_FILES": "api-paste.ini;nova.conf;database.conf",
            "PYTHONPATH": str(install.ROOT),
            **_NATIVE_THREADS,
        },
    )
    ready(cloud, service, lambda: answers(cloud, service), process)


def answers(cloud: model.Cloud, service: str) -> bool:
    """Whether an API answers."""
    try:
        with urllib.request.urlopen(cloud.url(service), timeout=_ASK_SECONDS) as answer:
            return bool(answer.status < 500)
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


def compute_reports(cloud: model.Cloud, host: str) -> int:
    """How often a nova-compute has said that it is up; it begins when it knows its node."""
    query = "SELECT report_count FROM services WHERE host = %s AND topic = 'compute'"
    found = rows(cloud, "nova", query, host)
    return int(found[0][0]) if found else 0


def consumed(cloud: model.Cloud, queue: str) -> bool:
    """Whether something reads a queue of the message bus."""
    import amqp

    address = f"{model.HOST}:{cloud.ports['rabbitmq']}"
    try:
        with amqp.Connection(
            address,
            userid="smartos",
            password=cloud.password,
            connect_timeout=_ASK_SECONDS,
            read_timeout=_ASK_SECONDS,
        ) as connection:
            declared = connection.channel().queue_declare(queue, passive=True)
            return bool(declared.consumer_count)
    except (amqp.NotFound, OSError):
        return False


def glance_images(cloud: model.Cloud) -> set[str] | None:
    """The ids of all images that were ever in Glance; None when nobody can say."""
    found = rows(cloud, "glance", "SELECT id FROM images")
    return None if found is None else {str(row[0]) for row in found}


def mariadb(cloud: model.Cloud) -> None:
    """Start the database server, with the databases of all services."""
    data = cloud.base / "state/mariadb"
    user = ["--user=root"] if os.geteuid() == 0 else []
    if not data.exists():
        command(
            cloud,
            "mariadb",
            [
                "mariadb-install-db",
                "--no-defaults",
                f"--datadir={data}",
                "--skip-test-db",
                "--auth-root-authentication-method=normal",
                # no --user: it would change the owner of a plugin of the machine's own server
            ],
        )
    create = [f"CREATE DATABASE IF NOT EXISTS {name};" for name in _DATABASES]
    init = cloud.folder("etc") / "mariadb.sql"
    init.touch(mode=0o600)
    init.write_text(
        "\n".join(
            [
                *create,
                f"CREATE OR REPLACE USER smartos@'{model.HOST}' IDENTIFIED BY '{cloud.password}';",
                f"GRANT ALL ON *.* TO smartos@'{model.HOST}';",
                # they have no password, and other users of the machine reach the port
                "DELETE FROM mysql.global_priv WHERE User IN ('root', '');",
                "FLUSH PRIVILEGES;",
            ]
        )
    )
    process = processes.start(
        cloud,
        "mariadb",
        [
            shutil.which("mariadbd", path="/usr/sbin:/usr/bin") or "mariadbd",
            "--no-defaults",
            *user,
            f"--datadir={data}",
            "--socket=mariadb.sock",
            f"--bind-address={model.HOST}",
            f"--port={cloud.ports['mariadb']}",
            f"--init-file={init}",
            "--max-connections=1000",
            "--innodb-buffer-pool-size=96M",
            # what a crash would lose is as short-lived as the cloud
            "--innodb-flush-log-at-trx-commit=0",
            "--skip-innodb-doublewrite",
            "--skip-log-bin",
            "--skip-name-resolve",
        ],
    )

    ready(cloud, "mariadb", lambda: mariadb_answers(cloud), process)


def mariadb_answers(cloud: model.Cloud) -> bool:
    """Whether the database server has all databases."""
    return bool(rows(cloud, _DATABASES[-1], "SELECT 1"))


def memcached(cloud: model.Cloud) -> None:
    """Start the cache of tokens.

    Its clients load objects from it as Python pickled them: nobody else may reach it.
    """
    words = ["memcached", "-s", model.CACHE, "-a", "600", "-m", "64"]
    user = ["-u", "root"] if os.geteuid() == 0 else []
    process = processes.start(cloud, "memcached", [*words, *user])
    ready(cloud, "memcached", lambda: memcached_answers(cloud), process)


def memcached_answers(cloud: model.Cloud) -> bool:
    """Whether the cache of tokens answers."""
    # a folder's path may be longer than the name of a socket
    folder = os.open(cloud.base, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_ASK_SECONDS)
            sock.connect(f"/proc/self/fd/{folder}/{model.CACHE}")
            return _says(sock, b"version\r\n", b"VERSION")
    except OSError:
        return False
    finally:
        os.close(folder)


def listens(cloud: model.Cloud, service: str) -> bool:
    """Whether something takes connections on a service's port."""
    try:
        socket.create_connection((model.HOST, cloud.ports[service]), timeout=_ASK_SECONDS).close()
    except OSError:
        return False
    return True


def nova(
    cloud: model.Cloud, service: str, *more: pathlib.Path, name: str | None = None
) -> "subprocess.Popen[bytes]":
    """Start nova-SERVICE with the files that it reads."""
    paths = [cloud.base / "etc/nova/nova.conf", *more]
    options = [word for path in paths for word in ("--config-file", str(path))]
    return program(cloud, name or f"nova-{service}", [f"nova-{service}", *options])


def program(
    cloud: model.Cloud,
    name: str,
    words: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a program of the virtual environment."""
    path = str(BIN / words[0])
    return processes.start(
        cloud, name, [path, *words[1:]], {**_NATIVE_THREADS, **(environment or {})}
    )


def rabbitmq(cloud: model.Cloud) -> None:
    """Start the message bus, with an Erlang port mapper of its own."""
    home = cloud.folder("state", "rabbitmq")
    (home / "rabbitmq.conf").write_text(
        f"default_user = smartos\ndefault_pass = {cloud.password}\n"
        f"listeners.tcp.1 = {model.HOST}:{cloud.ports['rabbitmq']}\n"
    )
    (home / "rabbitmq.conf").chmod(0o600)
    (home / "env.conf").touch()
    (home / "enabled_plugins").write_text("[].\n")
    process = processes.start(
        cloud,
        "rabbitmq",
        # Debian's own wrapper wants to be root or rabbitmq
        ["/usr/lib/rabbitmq/bin/rabbitmq-server"],
        {
            "HOME": str(home),
            "ERL_EPMD_ADDRESS": model.HOST,
            "ERL_EPMD_PORT": str(cloud.ports["epmd"]),
            "RABBITMQ_CONF_ENV_FILE": str(home / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(cloud.ports["rabbitmq-dist"]),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_LOGS": "-",
            # what goes elsewhere all the same, and where it may not without being root
            "RABBITMQ_LOG_BASE": str(cloud.folder("logs", "rabbitmq")),
            "ERL_CRASH_DUMP": str(home / "erl_crash.dump"),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_NODENAME": f"smartos{cloud.ports['rabbitmq']}@localhost",
            "RABBITMQ_PID_FILE": str(home / "pid"),
            # without spinning schedulers, which would keep a core awake
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "+sbwt none +sbwtdcpu none +sbwtdio none "
                "-kernel inet_dist_use_interface {127,0,0,1}"
            ),
        },
    )
    ready(cloud, "rabbitmq", lambda: rabbitmq_answers(cloud), process)


def rabbitmq_answers(cloud: model.Cloud) -> bool:
    """Whether the message bus takes connections."""
    try:
        with socket.create_connection(
            (model.HOST, cloud.ports["rabbitmq"]), timeout=_ASK_SECONDS
        ) as sock:
            # a frame of type method, on channel 0: Connection.Start
            return _says(sock, b"AMQP\0\0\x09\x01", b"\x01\0\0")
    except OSError:
        return False


def reports(cloud: model.Cloud, database: str, binary: str, host: str = "%") -> bool:
    """Whether Nova or Cinder counts a service as up, by what it has last said."""
    query = (
        "SELECT 1 FROM services WHERE `binary` = %s AND host LIKE %s AND NOT deleted"
        " AND COALESCE(updated_at, created_at) > UTC_TIMESTAMP() - INTERVAL 60 SECOND"
    )
    return bool(rows(cloud, database, query, binary, host))


def command(
    cloud: model.Cloud,
    what: str,
    words: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command that sets a service up, which must succeed; its standard output."""
    path = str(BIN / words[0]) if (BIN / words[0]).is_file() else words[0]
    env = {**processes.marked(cloud, what), **_NATIVE_THREADS, **(environment or {})}
    try:
        done = subprocess.run(
            [path, *words[1:]],
            cwd=cloud.base,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SETUP_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{what}: {words[0]} took more than {_SETUP_SECONDS} s") from error
    with cloud.log(f"{what}-setup").open("a") as log:
        log.write(f"$ {pathlib.Path(path).name} {' '.join(words[1:])}\n{done.stdout}{done.stderr}")
    if done.returncode:
        # some say it in their log only
        lines = [*_logged(cloud, what), *(done.stdout + done.stderr).splitlines()]
        raise Failed(f"{what}: {words[0]} ended with status {done.returncode}: {_matters(lines)}")
    return done.stdout


def ready(
    cloud: model.Cloud,
    service: str,
    question: Callable[[], object],
    process: "subprocess.Popen[bytes] | None" = None,
) -> None:
    """Ask until a service is ready, unless it ends before."""
    with show.step(service):
        until = time.monotonic() + SECONDS
        while not question():
            if process is not None and process.poll() is not None:
                raise Failed(
                    f"{service} ended with status {process.returncode}: {why(cloud, service)}"
                )
            if time.monotonic() > until:
                raise Failed(f"{service} is not ready after {SECONDS:.0f} s: {why(cloud, service)}")
            time.sleep(0.1)


def why(cloud: model.Cloud, service: str) -> str:
    """The line of a service's log that matters, and where the log is."""
    return f"{_matters(_logged(cloud, service))} ({cloud.log(service)})"


def _logged(cloud: model.Cloud, service: str) -> list[str]:
    path = cloud.log(service)
    return path.read_text(errors="replace").splitlines() if path.is_file() else []


def _matters(lines: Sequence[str]) -> str:
    lines = [line.strip() for line in lines if line.strip()]
    telling = [line for line in lines if _MATTERS.search(line) and not _EMPTY.search(line)]
    return (telling or lines or ["it says nothing"])[-1]


def rows(cloud: model.Cloud, name: str, query: str, *values: object) -> tuple[Any, ...] | None:
    """What a database answers; None when nobody does, or the tables are not there yet."""
    import pymysql
    import pymysql.constants.ER

    try:
        with pymysql.connect(
            host=model.HOST,
            port=cloud.ports["mariadb"],
            user="smartos",
            password=cloud.password,
            database=name,
            autocommit=True,
            connect_timeout=_ASK_SECONDS,
            read_timeout=_ASK_SECONDS,
        ) as connection:
            with connection.cursor() as cursor:
                cursor.execute(query, values)
                return tuple(cursor.fetchall())
    except pymysql.err.OperationalError:
        return None
    except pymysql.err.ProgrammingError as error:
        if error.args[0] == pymysql.constants.ER.NO_SUCH_TABLE:
            return None
        raise


def _says(sock: socket.socket, question: bytes, answer: bytes) -> bool:
    sock.sendall(question)
    return sock.recv(64).startswith(answer)
