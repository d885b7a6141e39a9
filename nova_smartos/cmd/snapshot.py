# SPDX-License-Identifier: Apache-2.0
"""smartos-snapshot: keep what a server's VM is now, and take it back to that.

It reads nova-compute's own configuration (--config-file) and asks nova-conductor about the server,
so that what Nova believes of it stays true: it never stops or starts a VM, and takes back only one
that Nova has as stopped and does nothing with. A server is named by its id.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nova_smartos import conf as smartos_conf
from nova_smartos.smartos import errors, node, vms

if TYPE_CHECKING:
    from nova import objects

DONE, FAILED = 0, 1


class Refused(Exception):
    """What must not be done now."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    options = parse(sys.argv[1:] if argv is None else argv)
    # as nova-compute does before anything else
    os.environ.setdefault("OS_NOVA_DISABLE_EVENTLET_PATCHING", "true")
    from nova import monkey_patch

    monkey_patch.patch(backend="threading")
    from nova import exception
    from oslo_config import cfg
    from oslo_messaging import exceptions as messaging

    try:
        for line in _run(options):
            print(line)
    except (
        Refused,
        cfg.Error,
        errors.SmartOSError,
        exception.NovaException,
        messaging.MessagingException,
    ) as error:
        print(f"smartos-snapshot: {error or type(error).__name__}", file=sys.stderr)
        return FAILED
    return DONE


def run(gz: node.Node, host: str, options: argparse.Namespace) -> Iterator[str]:
    """Do what is asked for; what to print."""
    from nova_smartos.operations import vm_snapshot
    from nova_smartos.translate import identity

    vm = gz.vmadm.get(options.server)
    mark = identity.of(vm)
    foreign = mark is None or mark.host != host
    if foreign and not options.any_vm:
        whose = "is no server of Nova's" if mark is None else f"is a server of {mark.host}"
        raise Refused(f"VM {vm.uuid} {whose}: --any-vm if it is meant all the same")
    if options.action == "list":
        for each in vm_snapshot.listed(vm):
            made = f"{each.created_at:%Y-%m-%dT%H:%M:%SZ}" if each.created_at else "-"
            yield f"{each.name}\t{made}\t{'nova' if each.ours else 'vmadm'}"
        return
    others = options.action != "create" and not options.name.startswith(vm_snapshot.OURS)
    if others and not options.any_snapshot:
        raise Refused(f"{options.name} was made by others: --any-snapshot if it is meant")
    with _kept_off(None if foreign else _instance(vm), restores=options.action == "restore"):
        if options.action == "create":
            yield vm_snapshot.create(gz, vm, options.name)
        elif options.action == "delete":
            vm_snapshot.delete(gz, vm, options.name)
        elif options.action == "clone":
            yield vm_snapshot.clone(gz, vm, options.name, options.dataset)
        else:
            # as it is now that nobody else may change it
            vm = gz.vmadm.get(vm.uuid)
            for gone in vm_snapshot.restore(gz, vm, options.name, force=options.force):
                yield f"destroyed: {gone}"


def _instance(vm: vms.Vm) -> "objects.Instance":
    from nova import context, objects

    return objects.Instance.get_by_uuid(context.get_admin_context(), vm.uuid)


@contextlib.contextmanager
def _kept_off(instance: "objects.Instance | None", *, restores: bool) -> Iterator[None]:
    """Let nobody start or change the server while it is taken back, as Nova's own tasks do it."""
    if instance is None:
        yield
        return
    from nova import exception
    from nova.compute import task_states, vm_states

    if instance.task_state is not None:
        raise Refused(f"Nova is at work on the server ({instance.task_state})")
    if not restores:
        yield
        return
    if instance.vm_state != vm_states.STOPPED:
        raise Refused(f"the server is {instance.vm_state}: openstack server stop {instance.uuid}")
    instance.task_state = task_states.RESTORING
    try:
        instance.save(expected_task_state=[None])
    except exception.UnexpectedTaskStateError as error:
        raise Refused(f"Nova is at work on the server: {error}") from error
    try:
        yield
    finally:
        instance.task_state = None
        instance.save()


def _run(options: argparse.Namespace) -> list[str]:
    import nova.conf
    from nova import config, objects
    from nova.conductor import rpcapi
    from nova.objects import base

    files = [word for path in options.config_file for word in ("--config-file", path)]
    config.parse_args(["smartos-snapshot", *files], configure_db=False)
    smartos_conf.register(nova.conf.CONF)
    objects.register_all()
    # Nova's records are read and written through nova-conductor, as nova-compute does it
    base.NovaObject.indirection_api = rpcapi.ConductorAPI()
    with smartos_conf.connect(nova.conf.CONF) as gz:
        return list(run(gz, nova.conf.CONF.host, options))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The words of the command line."""
    return _parser().parse_args(argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="smartos-snapshot",
        description=__doc__,
    )
    parser.add_argument(
        "--config-file",
        action="append",
        default=[],
        metavar="FILE",
        help="one of nova-compute's own; may be given more than once",
    )
    parser.add_argument(
        "--any-vm", action="store_true", help="a VM that is not of this nova-compute, too"
    )
    parser.add_argument(
        "--any-snapshot", action="store_true", help="a snapshot that others have made, too"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    named: dict[str, Any] = {}
    for action, text in (
        ("list", "name, time and maker of each snapshot, the oldest first"),
        ("create", "keep what the VM is now, running or not; the name with a mark before it"),
        ("restore", "take the VM, which is stopped and stays so, back to a snapshot"),
        ("clone", "a dataset with what was kept, for files to be taken out; no VM is made"),
        ("delete", "forget what was kept"),
    ):
        named[action] = actions.add_parser(action, help=text, description=text)
        named[action].add_argument("server", metavar="SERVER", help="its id, which is the VM's")
        if action != "list":
            named[action].add_argument("name", metavar="NAME", help="the snapshot's name")
    named["clone"].add_argument("dataset", metavar="DATASET", help="the new one, as zones/NAME")
    named["restore"].add_argument(
        "--force", action="store_true", help="destroy the snapshots that are newer"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
