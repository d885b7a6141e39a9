# SPDX-License-Identifier: Apache-2.0
"""Taking the image of a VM: prepare it when asked to, snapshot, send to a file, clean up."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from smartos_emulator import js
from smartos_emulator.imgadm import context, errors, streams
from smartos_emulator.storage import errors as storage_errors
from smartos_emulator.vmadm import failures

Vm = dict[str, Any]

_SNAPSHOT = "imgadm-create-pre-prepare"
_STAGE_SECONDS = 300
_STATE = "prepare-image:state"
_ERROR = "prepare-image:error"


class Capture:
    """One image being taken of a VM's `dataset`."""

    def __init__(self, run: context.Run, vm: Vm, dataset: str, script: str | None) -> None:
        self.run = run
        self.vm = vm
        self.uuid: str = vm["uuid"]
        self.dataset = dataset
        self.script = script
        self.file_path = ""
        self.manifest_path = ""

    def take(self, document: dict[str, Any], prefix: str, compression: str, base: str) -> None:
        """Write the image's two files; the VM is afterwards as it was."""
        with contextlib.ExitStack() as undo:
            if self.script is not None:
                self._stop(undo)
            if self.vm["brand"] == "bhyve":
                self._lift_quota(undo)
            if self.script is not None:
                self._snapshot_all(undo)
                self._prepare(self.script)
            final = self._snapshot(undo)
            self._send(document, prefix, compression, base, final)
            self._save(document, prefix)

    def _stop(self, undo: contextlib.ExitStack) -> None:
        if self.vm["state"] == "stopped":
            return
        self.run.log(f"Stopping VM {self.uuid} to snapshot it")
        undo.callback(self._restart)
        self._vmadm(self.run.node.vms.stop, self.uuid)

    def _restart(self) -> None:
        self.run.log(f"Restarting VM {self.uuid} (cleanup)")
        self._vmadm(self.run.node.vms.start, self.uuid)

    def _lift_quota(self, undo: contextlib.ExitStack) -> None:
        storage, name = self.run.node.storage, self.vm["zfs_filesystem"]
        quota = storage.number(name, "quota")
        storage.set(name, "quota", "none")
        undo.callback(storage.set, name, "quota", str(quota) if quota else "none")

    def _snapshot_all(self, undo: contextlib.ExitStack) -> None:
        disks = self.vm.get("disks") or [] if self.vm["brand"] in ("kvm", "bhyve") else []
        names = [self.vm["zfs_filesystem"], *(disk["zfs_filesystem"] for disk in disks)]
        self.run.log(f'Snapshotting VM "{self.uuid}" to @{_SNAPSHOT}')
        made: list[str] = []
        undo.callback(self._roll_back, made)
        for name in names:
            snapshot = f"{name}@{_SNAPSHOT}"
            self._zfs(self.run.node.storage.snapshot, snapshot, doing="error creating snapshot")
            made.append(snapshot)

    def _roll_back(self, snapshots: list[str]) -> None:
        self.run.log(f"Rollback VM {self.uuid} to pre-prepare snapshot (cleanup)")
        vms, storage = self.run.node.vms, self.run.node.storage
        vm = vms.get(self.uuid)
        if vm and vm["state"] != "stopped":
            self._vmadm(vms.stop, self.uuid, force=True)
        for snapshot in snapshots:
            storage.rollback(snapshot)
        for snapshot in snapshots:
            storage.destroy(snapshot)

    def _prepare(self, script: str) -> None:
        """Boot the VM with the script, which reports by metadata and shuts the VM down."""
        self._update({"set_internal_metadata": {"operator-script": script}})
        self._update({"remove_customer_metadata": [_STATE, _ERROR]})
        self.run.log(f"Preparing VM {self.uuid} (starting it)")
        self._vmadm(self.run.node.vms.start, self.uuid)
        if not self._wait(2, lambda vm: _STATE in vm["customer_metadata"]):
            self.run.log("Timeout waiting for prepare-image script to signal it started")
            message = f"prepare-image script did not run on VM {self.uuid} boot"
            raise errors.ImgadmError("PrepareImageDidNotRun", message)
        self.run.log("Prepare script is running")
        self._await_result()
        if not self._wait(1, lambda vm: vm["state"] == "stopped"):
            raise self._failure("VM did not shutdown")
        self.run.log(f"Prepare script stopped VM {self.uuid}")

    def _update(self, changes: Vm) -> None:
        try:
            self.run.node.vms.update(self.uuid, changes)
        except failures.VmError as error:
            raise errors.internal(f"vmadm update failed (1): {error}\n") from None

    def _vmadm(self, change: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        try:
            change(*arguments, **options)
        except failures.VmError as error:
            raise errors.PlainError(f"Command failed: {error}\n", code="1") from None

    def _await_result(self) -> None:
        vm = self._wait(1, lambda vm: vm["customer_metadata"].get(_STATE) in ("success", "error"))
        if not vm:
            raise self._failure("prepare-image script did not complete")
        if vm["customer_metadata"][_STATE] == "error":
            raise self._failure(js.text(vm["customer_metadata"].get(_ERROR, "")))
        self.run.log("Prepare script succeeded")

    def _failure(self, details: str) -> errors.ImgadmError:
        extra = f": {details}" if details else ""
        if "\n" in details:
            extra = ":\n" + "\n".join(f"    {line}" for line in ["...", *details.splitlines()])
        message = f"prepare-image script error while preparing VM {self.uuid}{extra}"
        return errors.ImgadmError("PrepareImageError", message)

    def _wait(self, interval: float, ready: Callable[[Vm], bool]) -> Vm | None:
        """Look at the VM now and then; None when a stage's time is over."""
        clock = self.run.node.clock
        end = clock.monotonic() + _STAGE_SECONDS
        while True:
            clock.sleep(interval)
            vm = self.run.node.vms.get(self.uuid)
            if vm is None:
                raise errors.internal(f"error getting VM {self.uuid} info")
            if ready(vm):
                return dict(vm)
            if clock.monotonic() >= end:
                return None

    def _snapshot(self, undo: contextlib.ExitStack) -> str:
        storage = self.run.node.storage
        final = f"{self.dataset}@final"
        if storage.exists(final):
            aside = f"{final}-{int(time.time() * 1000)}"
            self.run.log(f'Moving existing @final snapshot out of the way to "{aside}"')
            self._zfs(storage.rename, final, aside, doing="Command failed")
        self.run.log(f'Snapshotting to "{final}"')
        self._zfs(storage.snapshot, final, doing="error creating final snapshot")
        undo.callback(storage.destroy, final)
        return final

    def _zfs(self, change: Callable[..., Any], *names: str, doing: str) -> None:
        try:
            change(*names)
        except storage_errors.StorageError as error:
            raise errors.internal(doing, cause=f"Error: {error}") from None

    def _send(
        self, document: dict[str, Any], prefix: str, compression: str, base: str, final: str
    ) -> None:
        self.file_path = prefix + (".zvol" if document["type"] == "zvol" else ".zfs")
        self.run.log(f'Sending image file to "{self.file_path}"')
        self.file_path += streams.EXTENSIONS[compression]
        path = self.run.call.host_path(self.file_path)
        try:
            with path.open("wb") as file:
                packed = streams.Deflated(file, compression)
                sink = cast(BinaryIO, packed)
                self.run.node.storage.send(final, sink, base=base or None)
                packed.finish()
        except storage_errors.StorageError as error:
            path.unlink()
            raise _send_error(base, final, str(error)) from None
        except OSError as error:
            raise errors.abort(
                f"{context.os_error_text(error)} '{self.file_path}'", "Error"
            ) from None
        document["files"] = [
            {"size": packed.size, "compression": compression, "sha1": packed.sha1.hexdigest()}
        ]

    def _save(self, document: dict[str, Any], prefix: str) -> None:
        self.manifest_path = f"{prefix}.imgmanifest"
        self.run.log(f'Saving manifest to "{self.manifest_path}"')
        try:
            self.run.call.host_path(self.manifest_path).write_text(js.dumps(document, 2), "utf-8")
        except OSError as error:
            cause = f"Error: {context.os_error_text(error)} '{self.manifest_path}'"
            message = f'error saving manifest to "{self.manifest_path}": {cause}'
            raise errors.ImgadmError("FileSystem", message, cause=cause) from None


def _send_error(base: str, final: str, stderr: str) -> errors.ImgadmError:
    incremental = f"-i {base} " if base else ""
    text = "\n".join(f"        {line}" for line in f"{stderr}\n".split("\n"))
    return errors.internal(
        f"zfs send error: exit code 1\n    cmd: /usr/sbin/zfs send {incremental}{final}\n"
        f"    stderr:\n{text}"
    )
