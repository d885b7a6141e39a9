# SPDX-License-Identifier: Apache-2.0
"""Node: one SmartOS global zone, all its tools over one transport."""

import os
from types import TracebackType
from typing import Self

from nova_smartos.smartos import (
    console,
    direct,
    dladm,
    dtrace,
    files,
    fwadm,
    imgadm,
    isainfo,
    kstat,
    nictagadm,
    ps,
    qmp,
    svcs,
    sysinfo,
    transport,
    uptime,
    vmadm,
    zfs,
    zlogin,
    zpool,
)


class Node:
    """The tools of one global zone."""

    def __init__(self, carrier: transport.Transport) -> None:
        self.transport = carrier
        self.console = console.Console(carrier)
        self.direct = direct.Direct(carrier)
        self.dladm = dladm.Dladm(carrier)
        self.dtrace = dtrace.Dtrace(carrier)
        self.files = files.Files(carrier)
        self.fwadm = fwadm.Fwadm(carrier)
        self.imgadm = imgadm.Imgadm(carrier)
        self.isainfo = isainfo.Isainfo(carrier)
        self.kstat = kstat.Kstat(carrier)
        self.nictagadm = nictagadm.Nictagadm(carrier)
        self.ps = ps.Ps(carrier)
        self.qmp = qmp.Qmp(carrier)
        self.svcs = svcs.Svcs(carrier)
        self.sysinfo = sysinfo.Sysinfo(carrier)
        self.uptime = uptime.Uptime(carrier)
        self.vmadm = vmadm.Vmadm(carrier)
        self.zfs = zfs.Zfs(carrier)
        self.zlogin = zlogin.Zlogin(carrier)
        self.zpool = zpool.Zpool(carrier)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @classmethod
    def local(
        cls,
        *,
        tool_path: str | None = None,
        pfexec: bool = False,
        timeouts: transport.Timeouts | None = None,
    ) -> Self:
        """The node that this process runs on, or an emulated one whose tools are in tool_path."""
        return cls(transport.Local(tool_path=tool_path, pfexec=pfexec, timeouts=timeouts))

    @classmethod
    def ssh(
        cls,
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
        timeouts: transport.Timeouts | None = None,
    ) -> Self:
        """A node over SSH; nothing is contacted before the first command."""
        return cls(
            transport.SSH(
                host,
                port=port,
                user=user,
                key_file=key_file,
                known_hosts_file=known_hosts_file,
                tool_path=tool_path,
                pfexec=pfexec,
                max_connections=max_connections,
                connect_timeout=connect_timeout,
                retry_seconds=retry_seconds,
                timeouts=timeouts,
            )
        )

    def close(self) -> None:
        """Give back connections; a later command opens them again."""
        self.transport.close()
