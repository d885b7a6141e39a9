# SPDX-License-Identifier: Apache-2.0
"""What a guest is told, put where it finds it: metadata, config drive, password.

A config drive is a disk of a virtual machine, written through the node's device, and a folder that
a zone mounts: nothing here opens a file below the root of a VM.
"""

import dataclasses
import datetime
import io
import pathlib
import tarfile
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import bcrypt
import nova.conf
from nova import context, exception, objects
from nova.api.metadata import base, vendordata_dynamic, vendordata_json
from nova.network import model
from nova.virt import configdrive
from oslo_concurrency import processutils
from oslo_log import log
from oslo_utils import timeutils

from nova_smartos.operations import locks
from nova_smartos.smartos import errors, node, spans, vms
from nova_smartos.translate import identity, metadata, specs

CONF = nova.conf.CONF
LOG = log.getLogger(__name__)

_PROVISION_FAILURE = "/var/svc/provision_failure"
_SECONDS_IN_GUEST = 60.0
# what is told can be learned of an instance from these, and from what each instance has
_NEEDED = ["metadata", "system_metadata", "info_cache"]
# All instances of the host are read so often; in between only the latest, so many at most.
_ALL_SECONDS = 600.0
_LATEST = 50
# The clocks of a cloud may differ by this.
_CLOCKS_SECONDS = 120
# bcrypt takes no more
_MAX_HASHED_BYTES = 72
# An environment of our own, and the two places in which images of SmartOS keep their programs.
_SET_PASSWORD = {
    "joyent": (
        "/usr/bin/env",
        "-i",
        "PATH=/opt/local/sbin:/opt/local/bin:/usr/sbin:/usr/bin",
        "changepass",
        "-e",
    ),
    "lx": ("/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "chpasswd"),
}


def prepared(
    instance: objects.Instance,
    image_meta: objects.ImageMeta,
    *,
    admin_password: str | None = None,
    injected_files: Sequence[tuple[str, str | bytes]] | None = None,
    network_info: model.NetworkInfo | None = None,
    hvm: bool,
) -> metadata.Guest:
    """All that the guest of an instance is told, its config drive included if it is to have one.

    Nothing of it touches the node; vendor data may be asked of the deployment's own services.
    """
    drive = tree = None
    if configdrive.required_by(instance):
        extra = {"admin_pass": admin_password} if admin_password else {}
        told = base.InstanceMetadata(
            instance, content=injected_files, extra_md=extra, network_info=network_info
        )
        if hvm:
            drive = _image(told)
        else:
            tree = _archive(metadata.folder(instance.uuid), told.metadata_for_config_drive())
    return metadata.guest(
        instance,
        image_meta,
        admin_password=admin_password,
        injected_files=injected_files,
        network_info=network_info,
        hvm=hvm,
        properties=specs.image_properties(instance),
        vendor=_vendor(instance),
        drive=drive,
        tree=tree,
    )


@spans.step
def check_provisioned(gz: node.Node, uuid: str) -> None:
    """Ask a zone whether its guest says that provisioning it has failed; vmadm does not tell."""
    try:
        argv = ("test", "-e", _PROVISION_FAILURE)
        result = gz.zlogin.run(uuid, argv, seconds=_SECONDS_IN_GUEST)
    except errors.InvalidState:
        # it is down already, which its power state shows
        return
    if result.returncode == 0:
        raise exception.BuildAbortException(
            instance_uuid=uuid,
            reason="the guest says that it failed to provision itself: see its console log, and in "
            "an image for zones the log of the service mdata:execute",
        )


@spans.step
def place_drive(gz: node.Node, document: Mapping[str, Any], drive: bytes) -> None:
    """Write a virtual machine's config drive on the disk that its document names.

    The document is a create payload, or a VM's own.
    """
    uuid = document["uuid"]
    volume = metadata.drive_volume(uuid, document["internal_metadata"])
    if volume is None:
        raise errors.InvalidState(f"VM {uuid} has no disk for a config drive", code="Drive")
    gz.files.write_volume(volume, io.BytesIO(drive))


@spans.step
def place_tree(gz: node.Node, tree: bytes) -> None:
    """Unpack a zone's config drive: before its first boot, which mounts the folder."""
    gz.files.unpack(tree)


def remove_drive(gz: node.Node, vm: vms.Vm) -> None:
    """Remove what a VM's deletion leaves: a zone's folder. A disk goes with the VM."""
    name = metadata.drive_folder(vm)
    if name is not None:
        gz.files.delete_folder(name)


def remove_tree(gz: node.Node, uuid: str) -> None:
    """Remove a zone's folder, whether there is one or not."""
    gz.files.delete_folder(metadata.folder(uuid))


def tell(
    gz: node.Node, instances: Iterable[objects.Instance], machines: Mapping[str, vms.Vm]
) -> list[str]:
    """Tell guests what has changed of their instances since they were told; which were told.

    No service of Nova reports a change of metadata to its driver, so that this is called whenever
    there is an occasion. What is the same costs nothing on the node, and one VM that cannot be told
    keeps no other from being told.
    """
    told = []
    for instance in instances:
        vm = machines.get(instance.uuid)
        if vm is None or not _is_ours(vm):
            continue
        try:
            update = _changes(instance, vm)
            if update:
                gz.vmadm.update(vm.uuid, update)
                told.append(vm.uuid)
        except (errors.SmartOSError, exception.NovaException):
            LOG.exception("The guest could not be told of a change", instance=instance)
    return told


class Latest:
    """Which instances of this host may have changed: most looks ask Nova for the latest alone.

    A change of metadata or name shows in the moment at which Nova last wrote an instance, one of
    its network information does not: for that all are read, less often.
    """

    def __init__(self) -> None:
        self._all_read = float("-inf")
        self._looked = timeutils.utcnow(with_timezone=True)

    def instances(self) -> Sequence[objects.Instance]:
        """Those that Nova has written since a little before the last look, or all."""
        began, begun_at = time.monotonic(), timeutils.utcnow(with_timezone=True)
        found = None
        if began - self._all_read < _ALL_SECONDS:
            found = self._written()
        if found is None:
            found = list(_instances())
            self._all_read = began
        self._looked = begun_at
        return found

    def _written(self) -> list[objects.Instance] | None:
        """None if there may be more than were asked for."""
        # the clocks of those who write may differ from ours
        since = self._looked - datetime.timedelta(seconds=_CLOCKS_SECONDS)
        latest = _instances(sort_key="updated_at", sort_dir="desc", limit=_LATEST)
        found = [each for each in latest if each.updated_at and each.updated_at >= since]
        return found if len(found) < _LATEST else None


def _instances(**which: Any) -> objects.InstanceList:
    return objects.InstanceList.get_by_filters(
        context.get_admin_context(),
        {"host": CONF.host, "deleted": False},
        expected_attrs=[*_NEEDED, "flavor"],
        use_slave=True,
        **which,
    )


@spans.step
def tell_all(
    gz: node.Node, changes: locks.Locks, machines: Mapping[str, vms.Vm], latest: Latest
) -> list[str]:
    """Ask Nova what has changed on this host, and tell guests of it that nobody else changes.

    Nova's own periodic work, which calls this, goes on whatever becomes of it.
    """
    try:
        instances = latest.instances()
    except Exception:
        LOG.exception("Nova could not be asked for the instances of this host")
        return []
    told = []
    for instance in instances:
        with changes.attempt(instance.uuid) as free:
            if free and instance.task_state is None:
                told += tell(gz, [instance], machines)
    return told


@spans.step
def set_admin_password(
    gz: node.Node, vm: vms.Vm, image_meta: objects.ImageMeta, password: str
) -> None:
    """Set the password of a zone's administrator, inside the zone.

    The password travels on standard input only, and nothing that the guest prints is shown.
    """
    command = _SET_PASSWORD.get(vm.brand)
    if command is None:
        raise exception.SetAdminPasswdNotSupported()
    user = metadata.admin_user(image_meta)
    line = _password_line(vm, user, password)
    # what stands in the command anyway is no secret
    told = {password, line.partition(":")[2]}
    secrets = tuple(each for each in told if each not in " ".join(command))
    result = gz.zlogin.run(
        vm.uuid,
        command,
        stdin=f"{line}\n".encode(),
        secrets=secrets,
        seconds=_SECONDS_IN_GUEST,
    )
    if result.returncode != 0:
        raise exception.InstancePasswordSetFailed(
            instance=vm.uuid,
            reason=f"{command[3]} in the guest ended with status {result.returncode}",
        )


def _password_line(vm: vms.Vm, user: str, password: str) -> str:
    if not password or not password.isprintable():
        reason = "it is empty or holds a control character"
        raise exception.InstancePasswordSetFailed(instance=vm.uuid, reason=reason)
    if vm.brand == "lx":
        return f"{user}:{password}"
    encoded = password.encode()
    if len(encoded) > _MAX_HASHED_BYTES:
        reason = f"it has more than {_MAX_HASHED_BYTES} bytes"
        raise exception.InstancePasswordSetFailed(instance=vm.uuid, reason=reason)
    # the variant that SmartOS knows
    return f"{user}:{bcrypt.hashpw(encoded, bcrypt.gensalt(prefix=b'2a')).decode()}"


def _changes(instance: objects.Instance, vm: vms.Vm) -> dict[str, Any]:
    if not all(instance.obj_attr_is_set(name) for name in _NEEDED):
        # not worth asking Nova's database: there will be another occasion
        return {}
    wanted = metadata.guest(
        instance,
        instance.image_meta,
        network_info=instance.get_network_info(),
        hvm=vm.hvm,
        properties=specs.image_properties(instance),
    )
    if instance.obj_attr_is_set("flavor"):
        # a server can be given another name
        internal = {**wanted.internal_metadata, **identity.mark(instance)}
        wanted = dataclasses.replace(wanted, internal_metadata=internal)
    return metadata.changes(vm, wanted)


def _is_ours(vm: vms.Vm) -> bool:
    owner = identity.of(vm)
    return owner is not None and owner.host == CONF.host


def _image(told: base.InstanceMetadata) -> bytes:
    """The config drive as a file system, made by the program that Nova is configured with."""
    with tempfile.TemporaryDirectory(prefix="nova-smartos-") as folder:
        path = pathlib.Path(folder) / "drive"
        try:
            with configdrive.ConfigDriveBuilder(instance_md=told) as builder:
                builder.make_drive(str(path))
        except (OSError, processutils.ProcessExecutionError) as error:
            raise exception.InstanceDeployFailure(
                reason=f"the config drive cannot be made with {CONF.mkisofs_cmd}: {error}"
            ) from error
        drive = path.read_bytes()
    if len(drive) > metadata.DRIVE_MIB * 2**20:
        reason = f"the config drive takes more than {metadata.DRIVE_MIB} MiB"
        raise exception.InstanceDeployFailure(reason=reason)
    return drive


def _archive(folder: str, contents: Iterable[tuple[str, str | bytes]]) -> bytes:
    """The config drive as a tar archive of one folder that nobody but root may enter."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        made: set[str] = set()
        for path, text in contents:
            data = text.encode() if isinstance(text, str) else text
            whole = pathlib.PurePosixPath(folder, path)
            for parent in reversed(whole.parents[:-1]):
                if str(parent) not in made:
                    made.add(str(parent))
                    archive.addfile(_member(str(parent), 0o700, tarfile.DIRTYPE))
            archive.addfile(_member(str(whole), 0o600, size=len(data)), io.BytesIO(data))
    return buffer.getvalue()


def _member(name: str, mode: int, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mode, member.type, member.size = mode, kind, size
    return member


def _vendor(instance: objects.Instance) -> metadata.Vendor:
    """What Nova's metadata service would answer of vendor data."""
    providers = CONF.api.vendordata_providers
    static = vendordata_json.JsonFileVendorData().get() if "StaticJSON" in providers else None
    dynamic = None
    if "DynamicJSON" in providers:
        dynamic = vendordata_dynamic.DynamicVendorData(instance=instance).get()
    return metadata.Vendor(static, dynamic)
