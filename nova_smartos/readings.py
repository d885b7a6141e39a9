# SPDX-License-Identifier: Apache-2.0
"""Final readings: a zone's counters, taken before the driver ends it, for the metering plugin.

The driver puts them into a spool, a directory with one file a reading; the plugin takes them from
there. Neither knows the other, and neither need run for the other to go on.
"""

import dataclasses
import json
import logging
import os
import pathlib
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from nova_smartos.smartos import errors, kstat, node, vms

LOG = logging.getLogger(__name__)

#: Why a reading is taken that is the VM's last.
DELETION = "deletion"

_VERSION = 1
_SUFFIX = ".json"
# Named after the zone: kstat names are cut to this length.
_BY_NAME = ("zones", "memory_cap", "zone_vfs", "zone_zfs")
_NAME_LENGTH = 30
#: Numbered like the zone, whose stack it is of, and of no name.
TCP = "tcp"
_BY_NUMBER = ("caps", TCP)
#: Which boot of the node it is.
BOOT = kstat.Selector("unix", 0, "system_misc", "boot_time")
# A node that is slow to answer delays what its user asked for by this at most.
_SECONDS = 10.0
_TOLD = (
    *("uuid", "brand", "state", "zone_state", "zonename"),
    *("zfs_filesystem", "ram", "max_physical_memory"),
)
# The keys of internal_metadata that are the driver's own.
_MARKS = "nova:"


@dataclasses.dataclass(frozen=True)
class Counters:
    """The whole numbers of one kstat of a zone; times are of the node's clock since its boot."""

    module: str
    instance: int
    name: str
    crtime_ns: int
    snaptime_ns: int
    numbers: Mapping[str, int]

    @classmethod
    def of(cls, found: kstat.Instance) -> Self:
        """What a kstat of the node counts."""
        numbers = {key: value for key, value in found.data.items() if isinstance(value, int)}
        born = found.crtime_ns or 0
        return cls(found.module, found.instance, found.name, born, found.snaptime_ns, numbers)


@dataclasses.dataclass(frozen=True)
class Reading:
    """The counters of one zone at one moment, and what was about to be done to it."""

    id: str
    server_uuid: str
    #: which boot of the node: the times of its clock count from there
    boot: int
    #: as vmadm shows it, but only what says who it is
    vm: vms.Vm
    reason: str
    taken_ns: int
    kstats: Sequence[Counters]
    #: how many readings before this one failed or could not be kept
    failed: int = 0

    @classmethod
    def from_text(cls, name: str, text: str) -> Self:
        """A reading as `Spool.put` wrote it; ValueError for anything else."""
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("version") != _VERSION:
            raise ValueError(f"version {_VERSION} is expected")
        try:
            return cls(
                id=name,
                server_uuid=str(document["server_uuid"]),
                boot=int(document["boot"]),
                vm=vms.Vm.from_json(document["vm"]),
                reason=str(document["reason"]),
                taken_ns=int(document["taken_ns"]),
                kstats=[_counters(each) for each in document["kstats"]],
                failed=int(document["failed"]),
            )
        except (KeyError, TypeError, AttributeError, errors.OutputError) as error:
            raise ValueError(f"not a reading: {error!r}") from error


class Spool:
    """A directory of readings: each is there whole, or not at all."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = pathlib.Path(directory)

    def put(self, reading: Reading) -> None:
        """Keep a reading so that it outlives a crash of this machine; OSError when it cannot be."""
        document = {
            "version": _VERSION,
            "server_uuid": reading.server_uuid,
            "boot": reading.boot,
            "vm": reading.vm.document,
            "reason": reading.reason,
            "taken_ns": reading.taken_ns,
            "failed": reading.failed,
            "kstats": [dataclasses.asdict(each) for each in reading.kstats],
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        partial = self.directory / f".{reading.id}"
        try:
            with partial.open("w") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(file.fileno())
            # the plugin may run as another user of the same group
            partial.chmod(0o640)
            partial.rename(self.directory / reading.id)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        self._keep()

    def names(self) -> list[str]:
        """What should be readings, oldest first."""
        return sorted(path.name for path in self.directory.glob(f"[!.]*{_SUFFIX}"))

    def readings(self) -> Iterator[Reading]:
        """All that are there, oldest first.

        One that makes no sense to this version is told of, and stays for one to which it may.
        """
        for path in map(self.directory.joinpath, self.names()):
            try:
                yield Reading.from_text(path.name, path.read_text())
            except (OSError, ValueError) as error:
                LOG.error("%s is no final reading that can be taken: %s", path, error)

    def remove(self, reading: Reading) -> None:
        """Forget a reading that somebody else keeps now."""
        (self.directory / reading.id).unlink(missing_ok=True)

    def _keep(self) -> None:
        """Make the new name in the directory durable."""
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read(gz: node.Node, vm: vms.Vm, reason: str, *, failed: int = 0) -> Reading:
    """The counters of one zone, all of one command."""
    zonename = vm.zonename or vm.uuid
    selectors = [kstat.Selector(module, name=zonename[:_NAME_LENGTH]) for module in _BY_NAME]
    selectors += [kstat.Selector(module, instance=vm.zoneid) for module in _BY_NUMBER]
    # the kernel names the links of a zone so
    selectors.append(kstat.Selector("link", name=f"z{vm.zoneid}_*"))
    selectors.append(BOOT)
    answer = gz.kstat.read(selectors, seconds=_SECONDS)
    own = [each for each in answer if each.zonename == zonename]
    if not any(each.module == "zones" for each in own):
        raise errors.NotFound(f"no kstats of zone {zonename}", code="Kstat")
    if any(each.module == "zones" and each.instance == vm.zoneid for each in own):
        # a zone that has booted since has another id
        own += [each for each in answer if each.module == TCP and each.zonename is None]
    taken = time.time_ns()
    return Reading(
        # sorts by time, and two in one moment differ
        id=f"{taken:020}-{uuid.uuid4()}{_SUFFIX}",
        server_uuid=vm.server_uuid or "",
        boot=boot_of(answer),
        vm=_told(vm),
        reason=reason,
        taken_ns=taken,
        kstats=[Counters.of(each) for each in own],
        failed=failed,
    )


def boot_of(found: Iterable[kstat.Instance]) -> int:
    """When the node booted, which tells one of its boots from another."""
    for each in found:
        if each.module == BOOT.module:
            return each.number("boot_time")
    raise errors.OutputError("kstat tells no boot_time")


def _counters(document: Mapping[str, Any]) -> Counters:
    found = Counters(**document)
    numbers = (found.instance, found.crtime_ns, found.snaptime_ns, *found.numbers.values())
    if not all(type(number) is int for number in numbers):
        raise TypeError(f"{found.module}: whole numbers are expected")
    return found


def _told(vm: vms.Vm) -> vms.Vm:
    """What of a VM goes with a reading: its nics and Nova's marks, and no secret of a guest."""
    document = {key: vm.document[key] for key in _TOLD if key in vm.document}
    document["nics"] = [
        {key: nic[key] for key in ("mac", "interface") if key in nic}
        for nic in vm.document.get("nics", [])
    ]
    document["internal_metadata"] = {
        key: value for key, value in vm.internal_metadata.items() if key.startswith(_MARKS)
    }
    return vms.Vm.from_json(document)
