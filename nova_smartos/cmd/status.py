# SPDX-License-Identifier: Apache-2.0
"""smartos-status upgrade check: what is wrong before nova-compute starts, and what to do about it.

It reads nova-compute's own configuration (--config-file), asks the node and Placement, and changes
nothing. The exit status is that of all OpenStack's status commands: 0 all is well, 1 something to
look at, 2 something to mend, 255 the command itself failed.
"""

import functools
import importlib
import os
import pathlib
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from oslo_config import cfg
from oslo_upgradecheck import upgradecheck

from nova_smartos import conf as smartos_conf
from nova_smartos.smartos import errors, node, sysinfo, transport

DRIVER = "smartos.SmartOSDriver"
#: Releases of Nova that the driver is tested with.
RELEASES = (34,)
SERVICES = {
    "svc:/system/smartdc/metadata:default": "guests get no metadata",
    "svc:/system/smartdc/vmadmd:default": "VMs with hardware virtualization do not start",
    "svc:/system/smartdc/vminfod:default": "vmadm does not work",
}
#: As many launches as Nova begins at once unless it is told otherwise.
FEW_BUILDS = 10
#: Of a pool: ZFS gets slow long before it is full.
FULL_PERCENT = 90
# One that follows the node's events, and one for whoever looks at something.
_OTHER_COMMANDS = 2
# Turns Nova's use of eventlet off and on; this command itself runs without.
_THREADS = "OS_NOVA_DISABLE_EVENTLET_PATCHING"

Code: TypeAlias = upgradecheck.Code
Problems: TypeAlias = Iterator[tuple[Code, str]]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    threads = os.environ.get(_THREADS)
    os.environ[_THREADS] = "true"
    try:
        from nova import monkey_patch

        # what it would read by itself are options of other commands
        monkey_patch.patch()
        import nova.conf
        import nova.virt.driver
    except ImportError:
        print(_broken_nova(traceback.format_exc(limit=-1)), file=sys.stderr)
        return int(Code.FAILURE)
    smartos_conf.register(nova.conf.CONF)
    with Checks(nova.conf.CONF, threads) as checks:
        return int(upgradecheck.main(nova.conf.CONF, "nova", checks, arguments))


def _broken_nova(reason: str) -> str:
    return (
        "Nova cannot be imported, so that nothing was checked.\n"
        "If it is installed as editable (pip install -e), it hides itself behind the folder "
        "nova/virt/smartos that this driver brings: install Nova as a wheel (pip install nova, or "
        f"pip install PATH without -e).\n{reason}"
    )


def _check(find: Callable[["Checks"], Problems]) -> Callable[["Checks"], upgradecheck.Result]:
    """A check of the problems that `find` names; none is success, an error of the node is one."""

    @functools.wraps(find)
    def check(self: "Checks") -> upgradecheck.Result:
        try:
            found = list(find(self))
        except Unreachable:
            found = [(Code.WARNING, "Not checked, since the node cannot be asked.")]
        except cfg.ConfigFileValueError:
            found = [(Code.WARNING, "Not checked, see the check of the configuration.")]
        except errors.SmartOSError as error:
            found = [(Code.FAILURE, f"The node cannot answer: {error}")]
        if not found:
            return upgradecheck.Result(Code.SUCCESS)
        worst = max(code for code, _ in found)
        return upgradecheck.Result(worst, "\n".join(text for _, text in found))

    return check


class Unreachable(Exception):
    """The node could not be asked; the check of the connection says why."""


class Checks(upgradecheck.UpgradeCommands):
    """The checks, in the order in which one thing needs the other."""

    display_title = "SmartOS node"

    def __init__(self, conf: cfg.ConfigOpts, threads: str | None) -> None:
        self._conf = conf
        self._threads = threads
        self._node: node.Node | None = None

    def __enter__(self) -> "Checks":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._node is not None:
            self._node.close()

    # what is on this machine

    @_check
    def _nova(self) -> Problems:
        if self._conf.compute_driver != DRIVER:
            yield (
                Code.FAILURE,
                f"[DEFAULT]compute_driver is {self._conf.compute_driver}: set it to {DRIVER}.",
            )
        try:
            importlib.import_module(f"nova.virt.{DRIVER.partition('.')[0]}")
        except ImportError as error:
            yield (
                Code.FAILURE,
                f"Nova cannot load the driver ({error}): install nova-smartos into the Python "
                f"environment of nova-compute ({sys.prefix}).",
            )
        from nova import version

        release = version.version_string()
        if int(release.partition(".")[0]) not in RELEASES:
            tested = ", ".join(map(str, RELEASES))
            yield Code.WARNING, f"Nova is {release}; the driver is tested with {tested}."
        if self._uses_eventlet():
            yield (
                Code.WARNING,
                "nova-compute is told to use eventlet, which Nova is about to drop: unset "
                f"[DEFAULT]concurrency_backend and {_THREADS} in its environment.",
            )

    def _uses_eventlet(self) -> bool:
        if self._threads:
            return self._threads.lower() not in ("1", "true", "yes")
        return bool(self._conf.concurrency_backend == "eventlet")

    @_check
    def _configuration(self) -> Problems:
        options = self._conf[smartos_conf.GROUP]
        yield from _mappings(self._conf)
        if not options.trusted_image_owners:
            yield (
                Code.WARNING,
                "[smartos]trusted_image_owners is empty: ZFS streams are refused, unless this "
                "driver has made and signed them. Name the projects whose ZFS streams the node's "
                "kernel may read.",
            )
        elif "*" in options.trusted_image_owners:
            yield (
                Code.WARNING,
                "[smartos]trusted_image_owners is *: whoever may upload an image can hand the "
                "node's kernel a crafted ZFS stream. Name projects, unless all are trusted.",
            )
        if not self._conf.vif_plugging_is_fatal or not self._conf.vif_plugging_timeout:
            yield (
                Code.WARNING,
                "vif_plugging_is_fatal and vif_plugging_timeout are not Nova's defaults: servers "
                "become ACTIVE before Neutron has wired their ports.",
            )
        if shutil.which(self._conf.mkisofs_cmd) is None:
            yield (
                Code.WARNING,
                f"The program {self._conf.mkisofs_cmd} ([DEFAULT]mkisofs_cmd) is not there: "
                "servers with a config drive fail. Install genisoimage, or name another.",
            )
        yield from _state_path(pathlib.Path(self._conf.state_path))
        if not _is_writable(pathlib.Path(options.conversion_directory)):
            yield (
                Code.FAILURE,
                f"[smartos]conversion_directory is {options.conversion_directory}, which "
                "nova-compute may not write to: images in qcow2 are refused.",
            )
        if options.image_signing_key_file is not None:
            yield from _signing_key(options)
        if options.spool_directory is not None:
            yield from _spool(pathlib.Path(options.spool_directory))

    @_check
    def _launches(self) -> Problems:
        options = self._conf[smartos_conf.GROUP]
        # 0 is an old way to say what Nova's default is
        builds = self._conf.max_concurrent_builds or FEW_BUILDS
        room = options.max_connections * transport.CHANNELS - _OTHER_COMMANDS
        if options.connection == "ssh" and builds > room:
            yield (
                Code.WARNING,
                f"[DEFAULT]max_concurrent_builds lets {builds} launches begin at once, but "
                f"[smartos]max_connections = {options.max_connections} carries no more than {room} "
                "beside what else asks the node: the rest wait, and everything else with them. "
                f"Set max_concurrent_builds = {room}, or allow more connections.",
            )
        elif builds <= FEW_BUILDS and builds < room:
            yield (
                Code.WARNING,
                f"[DEFAULT]max_concurrent_builds lets {builds} launches begin at once, and the "
                "next waits until one has ended, although a launch does little but wait for the "
                f"node. Set it to as many as the node is to make at once, such as {room}.",
            )

    # the way to the node

    @_check
    def _connection(self) -> Problems:
        try:
            self._node = smartos_conf.connect(self._conf)
        except cfg.RequiredOptError:
            yield (
                Code.FAILURE,
                "[smartos]connection is ssh: set node_address to the node's address.",
            )
            return
        try:
            self._node.sysinfo.get()
        except errors.SmartOSError as error:
            self._node.close()
            self._node = None
            yield Code.FAILURE, f"{error}. {_remedy(self._conf[smartos_conf.GROUP], error)}"

    @property
    def _gz(self) -> node.Node:
        if self._node is None:
            raise Unreachable
        return self._node

    @functools.cached_property
    def _info(self) -> sysinfo.Info:
        return self._gz.sysinfo.get()

    @_check
    def _tools(self) -> Problems:
        gz = self._gz
        questions: tuple[Callable[[], object], ...] = (
            gz.dladm.show_link,
            gz.dladm.show_phys,
            gz.fwadm.list,
            gz.imgadm.list,
            gz.isainfo.features,
            functools.partial(gz.kstat.read, class_="misc"),
            gz.nictagadm.list,
            gz.svcs.list,
            gz.vmadm.lookup,
            gz.zfs.list,
            gz.zpool.list,
        )
        for question in questions:
            try:
                question()
            except errors.SmartOSError as error:
                yield (
                    Code.FAILURE,
                    f"{error}. The driver needs this tool: look into the forced command, the RBAC "
                    "profile or [smartos]tool_path.",
                )

    # the node

    @_check
    def _host(self) -> Problems:
        info = self._info
        if info.hostname in ("", "localhost", "unknown"):
            yield (
                Code.FAILURE,
                f"The node calls itself {info.hostname!r}: nodes need names of their own. Write "
                "hostname=NAME into /usbkey/config and boot.",
            )
        if info.zpool is None:
            yield (
                Code.FAILURE,
                "The node has no pool for VMs: it was never set up, or its pool is not imported.",
            )
        if info.cpu_virtualization in (None, "none"):
            yield (
                Code.WARNING,
                "The processors' virtualization is missing, or off in the firmware: only zones "
                "can be launched.",
            )

    @_check
    def _pool(self) -> Problems:
        pool = self._info.zpool
        for found in self._gz.zpool.list(*([pool] if pool else [])):
            if found.name == pool and not found.healthy:
                code = Code.WARNING if found.health == "DEGRADED" else Code.FAILURE
                yield code, f"The pool {pool} is {found.health}: see zpool status -x on the node."
            if found.name == pool and (found.capacity_percent or 0) >= FULL_PERCENT:
                yield (
                    Code.WARNING,
                    f"The pool {pool} is {found.capacity_percent} % full, where ZFS gets slow: "
                    "delete images and snapshots that nobody needs, or add disks.",
                )

    @_check
    def _services(self) -> Problems:
        states = {found.fmri: found.state for found in self._gz.svcs.list()}
        for fmri, effect in SERVICES.items():
            state = states.get(fmri, "missing")
            if state != "online":
                yield (
                    Code.FAILURE,
                    f"{fmri} is {state}, so {effect}: see svcs -xv {fmri} on the node, then "
                    f"svcadm {'clear' if state == 'maintenance' else 'enable'} {fmri}.",
                )

    @_check
    def _identity(self) -> Problems:
        from nova import exception
        from nova.virt import node as nova_node

        info = self._info
        try:
            known = nova_node.read_local_node_uuid()
        except (exception.InvalidNodeConfiguration, OSError) as error:
            yield Code.FAILURE, f"{error} Make it the node's own, {info.uuid}."
            return
        if known not in (None, info.uuid):
            yield (
                Code.FAILURE,
                f"The file compute_id says {known}, and the node {info.hostname} is {info.uuid}: "
                "nova-compute will not start. If the address is wrong, correct it; if several "
                "nova-compute run here, give each its own host and state_path; if the node was "
                "replaced, follow 'A node was replaced' in the operator's guide.",
            )

    @_check
    def _networks(self) -> Problems:
        gz = self._gz
        known = {tag.name: tag for tag in gz.nictagadm.list()}
        states = {link.link: link.state for link in gz.dladm.show_link()}
        wanted = smartos_conf.nic_tags(self._conf, self._conf.host)
        for network, name in sorted(wanted.items()):
            # of an overlay's tag, RULE/NUMBER, the node knows the rule
            tag = known.get(name.partition("/")[0])
            if tag is None:
                yield (
                    Code.FAILURE,
                    f"[smartos]network_mappings gives {network} the nic tag {name}, which the "
                    f"node does not have (it has {', '.join(sorted(known))}): correct it, or run "
                    f"nictagadm add {name} MAC on the node.",
                )
            elif tag.type in ("normal", "aggr") and states.get(tag.link or "") is None:
                yield (
                    Code.FAILURE,
                    f"The nic tag {name} of {network} stands on {tag.mac or tag.link}, which no "
                    f"link of the node is: see nictagadm list and dladm show-link on the node, "
                    f"then run nictagadm update {name} MAC.",
                )
            elif states.get(tag.link or "") == "down":
                yield (
                    Code.WARNING,
                    f"The link {tag.link} is down, which carries {name} of {network}.",
                )

    @_check
    def _peers(self) -> Problems:
        for host in sorted(self._conf[smartos_conf.GROUP].peers):
            if host == self._conf.host:
                continue
            with smartos_conf.peer(self._conf, host, "") as other:
                try:
                    other.sysinfo.get()
                except errors.SmartOSError as error:
                    yield (
                        Code.FAILURE,
                        f"[smartos]peers: the node of {host}: {error}. Servers cannot move there: "
                        "look whether it is up, lets key_file in, and has its host key in "
                        "known_hosts_file.",
                    )
            if self._conf[smartos_conf.GROUP].direct_moves:
                yield from self._direct(host)

    def _direct(self, host: str) -> Problems:
        try:
            self._gz.direct.check(smartos_conf.peer_address(self._conf, host, ""))
        except errors.SmartOSError as error:
            yield (
                Code.WARNING,
                f"[smartos]direct_moves: this node does not reach that of {host}: {error}. Servers "
                "go there through nova-compute: look for smartos-direct and smartos-direct.ssh in "
                "/opt/custom here, and for this node's key in authorized_keys there.",
            )

    @_check
    def _images(self) -> Problems:
        pool = self._info.zpool
        if pool is None:
            return
        images = [image for image in self._gz.imgadm.list() if image.zpool == pool]
        kinds = ("filesystem", "volume", "snapshot")
        names = {row.name for row in self._gz.zfs.list(pool, types=kinds, depth=2)}
        for image in images:
            uuid = image.manifest.uuid
            if f"{pool}/{uuid}@final" not in names:
                yield (
                    Code.FAILURE,
                    f"The image {uuid} ({image.manifest.name}) has lost its snapshot @final, and "
                    f"no VM can be made of it: run imgadm delete {uuid} on the node, and the next "
                    "launch brings it again.",
                )
        for name in sorted(names):
            if name.endswith("-partial"):
                yield (
                    Code.WARNING,
                    f"{name} is what a broken import has left: if no import is running, remove it "
                    f"by zfs destroy -r {name} on the node.",
                )

    # the cloud

    @_check
    def _inventory(self) -> Problems:
        from nova_smartos.operations import host

        gz = self._gz
        if self._info.zpool is None:
            return
        found = host.Host(
            gz,
            machines=lambda: {vm.uuid: vm for vm in gz.vmadm.lookup()},
            in_flight=frozenset,
            served=self._conf.host,
        )
        for name, each in found.inventory({}).items():
            if each["reserved"] >= each["total"]:
                yield (
                    Code.FAILURE,
                    f"All {each['total']} of {name} are reserved, so that nothing fits on the "
                    "node: lower [DEFAULT]reserved_host_*, or look what takes it there (images, "
                    "VMs that are not Nova's).",
                )

    @_check
    def _placement(self) -> Problems:
        from keystoneauth1 import exceptions as ks_exceptions
        from nova import utils

        info = self._info
        try:
            client = utils.get_ksa_adapter("placement")
            query = {"name": info.hostname}
            answer = client.get("/resource_providers", params=query, raise_exc=True)
        except ks_exceptions.ClientException as error:
            yield (
                Code.WARNING,
                f"Placement cannot be asked whether another node is named {info.hostname}: "
                f"{error}. See [placement] in the configuration.",
            )
            return
        yield from _namesakes(info, answer.json())

    _upgrade_checks = (
        ("Nova", _nova),
        ("Configuration", _configuration),
        ("Launches", _launches),
        ("Connection", _connection),
        ("Tools", _tools),
        ("Node", _host),
        ("Pool", _pool),
        ("Services", _services),
        ("Identity", _identity),
        ("Networks", _networks),
        ("Peers", _peers),
        ("Images", _images),
        ("Inventory", _inventory),
        ("Placement", _placement),
    )


def _mappings(conf: cfg.ConfigOpts) -> Problems:
    """What the file that neutron-server reads as well says of this host."""
    try:
        tags = smartos_conf.nic_tags(conf, conf.host)
    except cfg.ConfigFileValueError as error:
        yield Code.FAILURE, f"{error}. Neither nova-compute nor neutron-server starts with it."
        return
    if not tags:
        yield (
            Code.WARNING,
            f"[smartos]network_mappings names no nic tag for this host, {conf.host}: every launch "
            "with a port is refused. Name the node's nic tags, as in "
            f"{conf.host}:physnet1:external, in the file that neutron-server reads as well.",
        )
    if smartos_conf.ANY_NETWORK in tags:
        yield (
            Code.WARNING,
            "[smartos]network_mappings names a nic tag for ports of no physical network, "
            f"{tags[smartos_conf.ANY_NETWORK]}: all networks of type local are one wire there, "
            "whoever owns them. Leave it out unless their owners trust each other.",
        )
    if conf[smartos_conf.GROUP].allow_unfiltered_ports:
        yield (
            Code.WARNING,
            "[smartos]allow_unfiltered_ports is on: security groups on ports of this host do "
            "nothing, and what they forbid gets through. Turn it off unless users know.",
        )


def _namesakes(info: sysinfo.Info, answer: Mapping[str, Any]) -> Problems:
    for provider in answer["resource_providers"]:
        if provider["uuid"] != info.uuid:
            yield (
                Code.FAILURE,
                f"Placement knows another node named {info.hostname}, {provider['uuid']}, and "
                "takes each name once: nova-compute would start, but nothing would be placed on "
                "its node. Give this node a name of its own (hostname in /usbkey/config) before "
                "its first start, or remove the other's record if it is gone for good.",
            )


def _remedy(options: Any, error: errors.SmartOSError) -> str:
    if options.connection == "local":
        return (
            "With connection = local nova-compute runs in the node's global zone; elsewhere set "
            "connection = ssh."
        )
    if isinstance(error, errors.NotStarted) and not error.retryable:
        return "See 'Access by SSH' in the operator's guide."
    return (
        f"Look whether the node is up and its SSH server answers at {options.node_address} port "
        f"{options.node_port}."
    )


def _signing_key(options: Any) -> Problems:
    from nova_smartos.operations import signing

    try:
        signing.Signer(options)
    except cfg.ConfigFileValueError as error:
        yield (
            Code.FAILURE,
            f"{error}. nova-compute does not start with it: have openssl rand -hex 32 write one "
            "key, and give it to all nova-compute of the cloud.",
        )
        return
    found = pathlib.Path(options.image_signing_key_file).stat()
    if found.st_mode & 0o027 or found.st_uid not in (0, os.geteuid()):
        yield (
            Code.FAILURE,
            f"[smartos]{signing.OPTION} is {options.image_signing_key_file}, mode "
            f"{found.st_mode & 0o7777:04o}, owner {found.st_uid}: whoever has that key can have "
            "the nodes' kernels read anything. Give it to root or nova-compute's user, mode 0640 "
            "or less.",
        )


def _spool(directory: pathlib.Path) -> Problems:
    if not _is_writable(directory):
        yield (
            Code.FAILURE,
            f"[smartos]spool_directory is {directory}, which nova-compute may not write to: what "
            "instances use last before they end is not metered. Make it a directory that the users "
            "of nova-compute and of the polling agent both may write to.",
        )


def _state_path(path: pathlib.Path) -> Problems:
    if not _is_writable(path):
        yield (
            Code.FAILURE,
            f"[DEFAULT]state_path is {path}, where nova-compute keeps the node's identity, and "
            "this user cannot write there: run this as nova-compute's user, or mend it.",
        )


def _is_writable(directory: pathlib.Path) -> bool:
    """Whether this user may write there, or may make it."""
    existing = next(each for each in (directory, *directory.parents) if each.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


if __name__ == "__main__":
    sys.exit(main())
