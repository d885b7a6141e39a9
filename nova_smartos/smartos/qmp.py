# SPDX-License-Identifier: Apache-2.0
"""qmp: the monitor of a kvm VM, for what vmadm has no word for: to stand still, and to go on.

QEMU listens on a unix socket below the VM's root, one client at a time; vmadmd is one as well, and
leaves at once. A guest that has broken out of QEMU could put a link in the way of it. The path is
looked at first, which leaves an attacker the moment in between and not more.
"""

import json
from typing import Any

from nova_smartos.smartos import _tool, errors, records, transport
from nova_smartos.smartos._tool import text

TEXTS = (text(r"/\S+: No such file or directory", errors.InvalidState, "NoMonitor"),)

#: A monitor answers at once, unless another client stays.
SECONDS = 30.0

_NEGOTIATE = {"execute": "qmp_capabilities", "id": 0}
_ANSWER = 1


class Qmp(_tool.Tool):
    """nc(1) and ls(1)."""

    name = "nc"
    texts = TEXTS

    def cont(self, zonepath: str) -> None:
        """nc -U ZONEPATH/root/tmp/vm.qmp: cont, also of a guest that did not stand still."""
        self._execute(zonepath, "cont")

    def stop(self, zonepath: str) -> None:
        """nc -U ZONEPATH/root/tmp/vm.qmp: stop, also of a guest that stands still already."""
        self._execute(zonepath, "stop")

    def _execute(self, zonepath: str, order: str) -> None:
        socket = self._socket(zonepath, "vm.qmp")
        request = (_NEGOTIATE, {"execute": order, "id": _ANSWER})
        stdin = b"".join(json.dumps(each).encode() + b"\n" for each in request)
        timeout = transport.Timeout.CHANGE
        command = self._command("-U", socket, stdin=stdin, timeout=timeout, seconds=SECONDS)
        result = self._transport.run(command)
        if result.returncode == 1 and not result.stdout and not result.stderr:
            # nc has no words for it: nobody listens, so there is no QEMU
            raise errors.InvalidState.from_result(result, code="NoMonitor")
        answer = self._parsed(_answer, self._checked(result))
        if "error" in answer:
            said = records.excerpt(json.dumps(answer["error"]))
            raise errors.ToolError.from_result(result, message=f"{order}: {said}", code="Monitor")


def _answer(output: str) -> dict[str, Any]:
    """The answer to our order, among greeting, events and the answer to the negotiation."""
    for line in output.splitlines():
        document = records.object_(line)
        if document.get("id") == _ANSWER and ("return" in document or "error" in document):
            return document
    raise errors.OutputError(f"no answer of the monitor: {records.excerpt(output)}")
