# SPDX-License-Identifier: Apache-2.0
"""Run suites on the cloud of $SMARTOS_CLOUD: python -m gate.suites SUITE ...; for `make gate`."""

import os
import pathlib
import subprocess
import sys

from gate import report, tempest_suite
from gate.cloud import install, model, services, show


def main(suites: list[str]) -> int:
    """Run them, write the results, and say them."""
    cloud = model.Cloud.load(pathlib.Path(os.environ["SMARTOS_CLOUD"]))
    assert cloud is not None, "there is no cloud"
    folder = cloud.base.parent
    good = True
    for suite in suites:
        junit = folder / f"{suite}.junit.xml"
        try:
            if suite == "stories":
                good &= _stories(junit)
            else:
                good &= tempest_suite.run(cloud, suite, junit)
        except services.Failed as error:
            # the others, and what they found, are worth having
            show.say(f"{suite}: {error}")
            good = False
    summary = report.write(folder, tempest_suite.left_out())
    for suite in suites:
        # a runner that died has written nothing
        numbers = summary.get(suite, dict.fromkeys(("passed", "failed", "skipped", "seconds"), 0))
        good &= numbers["passed"] > 0 and not numbers["failed"]
        words = ", ".join(f"{numbers[each]:.0f} {each}" for each in ("passed", "failed", "skipped"))
        print(f"{suite}: {words}, {numbers['seconds']:.0f} s")
    show.say(f"The whole story: {folder / 'index.html'}")
    return 0 if good else 1


def _stories(junit: pathlib.Path) -> bool:
    words = ["-m", "pytest", "-W", "default", "--junitxml", str(junit), "gate/stories"]
    with show.step("stories"):
        done = subprocess.run([sys.executable, *words], cwd=install.ROOT, check=False)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
