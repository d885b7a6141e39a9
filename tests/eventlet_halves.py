# SPDX-License-Identifier: Apache-2.0
"""The tests under eventlet, in two processes: `python -m tests.eventlet_halves [what to run]`.

One process of pytest cannot be split, since xdist itself does not stand being patched.
"""

import contextlib
import subprocess
import sys
import tempfile

PYTEST = [sys.executable, "-m", "pytest", "-p", "tests.under_eventlet"]
# what waits, runs beside something else, or asks the system; the rest only computes
UNIT = (
    "console",
    "dtrace",
    "files",
    "image",
    "interface",
    "locks",
    "node",
    "power",
    "qmp",
    "reconcile",
    "recorder",
    "relay",
    "snapshot",
    "tool",
    "transfer",
    "vm_snapshot",
    "vmadm",
    "watch",
    "zfs",
)
TRANSPORT = ("breaks", "command", "hostkeys", "local", "pool", "ssh", "stderr")
HALVES = (
    # of about the same length
    [
        "tests/contract",
        "tests/unit/test_virt_driver.py",
        *(f"tests/unit/test_transport_{each}.py" for each in TRANSPORT),
    ],
    [f"tests/unit/test_{each}.py" for each in UNIT],
)


def main(words: list[str]) -> int:
    """Run both halves, or what is named; 0 if all went well."""
    failed = False
    with contextlib.ExitStack() as stack:
        running = []
        for half in [words] if words else HALVES:
            output = stack.enter_context(tempfile.TemporaryFile("w+"))
            process = subprocess.Popen([*PYTEST, *half], stdout=output, stderr=subprocess.STDOUT)
            running.append((process, output))
        for process, output in running:
            failed |= process.wait() != 0
            output.seek(0)
            print(output.read(), end="", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
