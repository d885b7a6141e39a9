# SPDX-License-Identifier: Apache-2.0
"""smartos-audit: what is on the node and should not be, or is not there and should.

It reads nova-compute's own configuration (--config-file), compares the node with Nova's records,
which it asks nova-conductor for, and with Placement's, and changes nothing. The exit status is 0
when all is well, 1 when something was found, 2 when the audit could not be made.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nova_smartos import conf as smartos_conf
from nova_smartos.smartos import errors, node

if TYPE_CHECKING:
    from nova import context as nova_context

    from nova_smartos.operations import reconcile

CLEAN, FOUND, FAILED = 0, 1, 2
#: What is under way changes meanwhile; what is wrong stays.
SETTLE_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was found, and the VMs that are none of this host's."""

    host: str
    findings: Sequence["reconcile.Finding"]
    foreign: Sequence[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    options, rest = _parser().parse_known_args(argv)
    # as nova-compute does before anything else
    os.environ.setdefault("OS_NOVA_DISABLE_EVENTLET_PATCHING", "true")
    from nova import monkey_patch

    monkey_patch.patch(backend="threading")
    from keystoneauth1 import exceptions as keystone
    from nova import exception
    from oslo_config import cfg
    from oslo_messaging import exceptions as messaging

    try:
        found = _audited(rest, options.settle)
    except (
        cfg.Error,
        errors.SmartOSError,
        exception.NovaException,
        keystone.ClientException,
        messaging.MessagingException,
    ) as error:
        print(f"smartos-audit: {error or type(error).__name__}", file=sys.stderr)
        return FAILED
    print(_json(found) if options.json else _text(found))
    return FOUND if found.findings else CLEAN


def audit(
    gz: node.Node,
    context: "nova_context.RequestContext",
    host: str,
    *,
    settle_seconds: float = SETTLE_SECONDS,
) -> Audit:
    """Compare twice: only what is wrong both times is told."""
    from nova_smartos.operations import reconcile

    provider = gz.sysinfo.get().uuid

    def look() -> tuple[list[reconcile.Finding], list[str]]:
        there = reconcile.observed(gz)
        wanted = reconcile.desired(context, host, there, provider=provider)
        strangers = sorted(vm.uuid for vm in reconcile.foreign(there, wanted))
        return reconcile.findings(there, wanted), strangers

    found, strangers = look()
    if found:
        time.sleep(settle_seconds)
        again, strangers = look()
        before = {(each.kind, each.subject) for each in found}
        found = [each for each in again if (each.kind, each.subject) in before]
    return Audit(host, found, strangers)


def _audited(arguments: Sequence[str], settle_seconds: float) -> Audit:
    import nova.conf
    from nova import config, context, objects
    from nova.conductor import rpcapi
    from nova.objects import base

    config.parse_args(["smartos-audit", *arguments], configure_db=False)
    smartos_conf.register(nova.conf.CONF)
    objects.register_all()
    # Nova's records are read through nova-conductor, as nova-compute reads them
    base.NovaObject.indirection_api = rpcapi.ConductorAPI()
    with smartos_conf.connect(nova.conf.CONF) as gz:
        return audit(
            gz,
            context.get_admin_context(),
            nova.conf.CONF.host,
            settle_seconds=settle_seconds,
        )


def _text(found: Audit) -> str:
    lines = [f"VM {uuid} is not this host's: left alone" for uuid in found.foreign]
    for each in found.findings:
        lines += [f"{each.kind}: {each.subject}", f"    {each.detail}", f"    > {each.advice}"]
    count = len(found.findings)
    lines.append("Nothing is wrong." if not count else f"{count} to look at.")
    return "\n".join(lines)


def _json(found: Audit) -> str:
    document: dict[str, Any] = dataclasses.asdict(found)
    return json.dumps(document, indent=2, sort_keys=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="smartos-audit", description=__doc__, epilog="Other options are those of nova-compute."
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--settle",
        type=float,
        default=SETTLE_SECONDS,
        metavar="SECONDS",
        help="between the two looks at what is found (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
