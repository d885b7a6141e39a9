# SPDX-License-Identifier: Apache-2.0
"""zlogin: run a command inside a zone. What it prints and returns is the guest's word, not ours."""

import shlex
from collections.abc import Sequence

from nova_smartos.smartos import _tool, errors, transport
from nova_smartos.smartos._tool import text

TEXTS = (
    text(r"zlogin: zone '.*' unknown$", errors.NotFound, "ZoneNotFound"),
    text(r"zlogin: login allowed only to running zones ", errors.InvalidState, "State"),
    text(r"zlogin: cannot login to a zone which is ", errors.InvalidState, "State"),
    text(r"zlogin: You lack sufficient privilege", errors.ToolError, "PermissionDenied"),
)


class Zlogin(_tool.Tool):
    """zlogin(1)."""

    name = "zlogin"
    texts = TEXTS

    def run(
        self,
        uuid: str,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        secrets: tuple[str, ...] = (),
        seconds: float | None = None,
    ) -> transport.Result:
        """zlogin UUID COMMAND ARGUMENT …

        A command that ran and failed is a result. An error is that zlogin itself failed: exit 1
        and its own words alone. A guest can imitate those, so do not build on them.
        """
        if not argv or not argv[0]:
            raise self._refused("no command is given")
        # zlogin joins its arguments with blanks and hands them to a shell in the zone
        quoted = [shlex.quote(word) for word in argv]
        timeout = transport.Timeout.CHANGE
        command = self._command(
            self._uuid(uuid),
            *quoted,
            stdin=stdin,
            timeout=timeout,
            secrets=secrets,
            seconds=seconds,
        )
        result = self._transport.run(command)
        if result.returncode == 1 and result.stderr.startswith("zlogin: "):
            failure = self._failure(result)
            if failure.code:
                raise failure
        return result
