# SPDX-License-Identifier: Apache-2.0
"""Commands over SSH: for a service that runs elsewhere than on its node."""

import os
import pathlib
import shlex
import time
import weakref

from nova_smartos.smartos import errors, spans
from nova_smartos.smartos.transport import command as commands
from nova_smartos.smartos.transport import connection as connections
from nova_smartos.smartos.transport import local, process, session
from nova_smartos.smartos.transport import pool as pools

# How long a command waits in the queue for a channel.
QUEUE_SECONDS = 300.0
# A command that was refused a channel, or whose connection broke before it was sent, goes to
# another place after a pause.
REFUSAL_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)

_instances: "weakref.WeakSet[SSH]" = weakref.WeakSet()


class SSH(process.Base):
    """Runs commands on a node through a few SSH connections, opened when needed."""

    def __init__(
        self,
        host: str,
        *,
        port: int = 22,
        user: str = "root",
        key_file: str | os.PathLike[str] | None = None,
        known_hosts_file: str | os.PathLike[str] = "~/.ssh/known_hosts",
        tool_path: str | None = None,
        pfexec: bool | None = None,
        max_connections: int = 4,
        connect_timeout: float = 15.0,
        retry_seconds: float | None = None,
        timeouts: commands.Timeouts | None = None,
    ) -> None:
        """Prepare; nothing is contacted before the first command.

        Without a key file the keys of the SSH agent are offered. Without a word on pfexec, the
        commands of every user but root go through it. A node that is away is tried again for
        `retry_seconds`, or as long as one connection may take.
        """
        target = connections.Target(
            host=host,
            port=port,
            user=user,
            key_file=pathlib.Path(key_file).expanduser() if key_file else None,
            known_hosts=pathlib.Path(known_hosts_file).expanduser(),
            connect_seconds=connect_timeout,
        )
        super().__init__(str(target), timeouts)
        self._target = target
        self._tool_path = tool_path
        self._pfexec = user != "root" if pfexec is None else pfexec
        self._most = max_connections
        self._patience = connect_timeout if retry_seconds is None else retry_seconds
        self._pool = self._new_pool()
        _instances.add(self)

    def close(self) -> None:
        """Close every connection; the next command opens one again."""
        old, self._pool = self._pool, self._new_pool()
        old.close()

    def command_line(self, command: commands.Command) -> bytes:
        """Return what the login shell on the node gets; the only place where a line is built."""
        search = [shlex.quote(self._tool_path)] if self._tool_path else []
        path = ":".join([*search, '"$PATH"', local.SYSTEM_PATH])
        prefix = ["LC_ALL=C", f"PATH={path}", *(["pfexec"] if self._pfexec else [])]
        line = " ".join([*prefix, shlex.join(command.argv)])
        return line.encode("utf-8", "surrogateescape")

    def _new_pool(self) -> pools.Pool:
        return pools.Pool(self._connect, most=self._most, patience=self._patience)

    def _connect(self) -> connections.Connection:
        with spans.span("ssh connect", "connection"):
            return connections.connect(self._target)

    def _start(self, command: commands.Command, limit: process.Limit) -> session.Session:
        try:
            return self._start_somewhere(command, limit)
        except errors.NotStarted as error:
            error.argv = command.argv
            raise

    def _start_somewhere(self, command: commands.Command, limit: process.Limit) -> session.Session:
        pool = self._pool
        for pause in REFUSAL_PAUSES:
            connection = pool.attempt()
            if connection is None:
                with spans.span("wait for a channel", "wait"):
                    connection = pool.acquire(QUEUE_SECONDS)
            limit.restart()
            try:
                return self._start_on(connection, pool, command, limit)
            except errors.NotStarted as error:
                if not error.retryable:
                    raise
                refusal = error
            time.sleep(pause)
        raise refusal

    def _start_on(
        self,
        connection: connections.Connection,
        pool: pools.Pool,
        command: commands.Command,
        limit: process.Limit,
    ) -> session.Session:
        try:
            channel = connection.open_channel()
        except errors.NotStarted:
            pool.refused(connection)
            raise
        except BaseException:
            pool.release(connection)
            raise
        running = session.Session(command, limit, pool, connection, channel)
        try:
            running.execute(self.command_line(command))
        except BaseException:
            running.dispose()
            raise
        return running

    def _forked(self) -> None:
        # The parent owns the connections, and a lock may be held by a thread that is not here.
        self._pool.abandon()
        self._pool = self._new_pool()


def _after_fork() -> None:
    for instance in list(_instances):
        instance._forked()


os.register_at_fork(after_in_child=_after_fork)
