# SPDX-License-Identifier: Apache-2.0
"""Run suites on the cloud of $SMARTOS_CLOUD: python -m gate.suites SUITE ...; for `make gate`."""

import os
import pathlib
import subprocess
import sys

from gate import report, tempest_suite
from gate.cloud import call, install, model, processes, services, show

#: The suites that are stories, and what pytest is told.
STORIES = {
    "stories": ("gate/stories", "-m", "not idle", "--ignore", "gate/stories/test_rated.py"),
    "telemetry": ("gate/stories/test_rated.py",),
    # a minute in which nothing happens
    "idle": ("gate/stories/test_costs.py", "-m", "idle"),
}
_STORIES_SECONDS = 1800
#: The longest that one of them may take: fifty boots at once are the longest.
_STORY_SECONDS = 900


def main(suites: list[str]) -> int:
    """Run them, write the results, and say them."""
    call.end_as_by_ctrl_c()
    call.clean(os.environ)
    cloud = model.Cloud.load(pathlib.Path(os.environ["SMARTOS_CLOUD"]))
    assert cloud is not None, "there is no cloud"
    folder = cloud.base.parent
    wrong: dict[str, list[str]] = {}
    for suite in suites:
        run = _stories if suite in STORIES else tempest_suite.run
        try:
            wrong[suite] = run(cloud, suite, folder / f"{suite}.junit.xml")
        except (services.Failed, subprocess.SubprocessError) as error:
            # the others, and what they found, are worth having
            wrong[suite] = [str(error)]
    summary = report.write(folder, tempest_suite.Lists.load().left_out, wrong)
    good = True
    for suite in suites:
        # a runner that died has written nothing
        numbers = summary.get(suite, dict.fromkeys(("passed", "failed", "skipped", "seconds"), 0))
        good &= numbers["passed"] > 0 and not numbers["failed"] and not wrong[suite]
        words = ", ".join(f"{numbers[each]:.0f} {each}" for each in ("passed", "failed", "skipped"))
        print(f"{suite}: {words}, {numbers['seconds']:.0f} s")
        for each in wrong[suite]:
            print(f"{suite}: {each}")
    show.say(f"The whole story: {folder / 'index.html'}")
    return 0 if good else 1


def _stories(cloud: model.Cloud, suite: str, junit: pathlib.Path) -> list[str]:
    """Run stories; what is wrong. On emulated nodes none has a reason to be skipped."""
    words = [sys.executable, "-m", "pytest", "-W", "default", "--timeout", str(_STORY_SECONDS)]
    words += ["--junitxml", str(junit)]
    with show.step(suite):
        try:
            status = processes.bounded(
                [*words, *STORIES[suite]], _STORIES_SECONDS, cwd=install.ROOT
            )
        except subprocess.TimeoutExpired:
            return [f"it took more than {_STORIES_SECONDS} s"]
    if status:
        return [f"pytest ended with status {status}"]
    if all(node.emulated for node in cloud.nodes):
        skipped = [each for each in report.cases(junit) if each.outcome == "skipped"]
        return [f"{each.name} was skipped: {each.text}" for each in skipped]
    return []


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
