# SPDX-License-Identifier: Apache-2.0
"""The tests under eventlet, in two processes: `python -m tests.eventlet_halves [what to run]`.

One process of pytest cannot be split, since xdist itself does not stand being patched.
"""

import contextlib
import subprocess
import sys
import tempfile

PYTEST = [sys.executable, "-m", "pytest", "-p", "tests.under_eventlet"]
# other programs than nova-compute, which patches nothing of theirs
ALONE = (
    "consumer",
    "emulator",
    "test_bench_*.py",
    "test_conformance.py",
    "test_devstack.py",
    "test_direct_script.py",
    "test_dtrace_scripts.py",
    "test_fidelity.py",
    "test_gate_*.py",
    "test_ledger.py",
    "test_meters*.py",
    "test_neutron_ml2.py",
    "test_probed.py",
    "test_repository.py",
    "test_status.py",
    "test_support_matrix.py",
)
HALVES = (
    ["tests/contract", "tests/unit", "-k", "contract or transport or virt_driver"],
    ["tests/unit", "-k", "not transport and not virt_driver"],
)


def main(words: list[str]) -> int:
    """Run both halves, or what is named; 0 if all went well."""
    alone = [f"--ignore-glob=tests/unit/{each}" for each in ALONE]
    failed = False
    with contextlib.ExitStack() as stack:
        running = []
        for half in [words] if words else [[*half, *alone] for half in HALVES]:
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
