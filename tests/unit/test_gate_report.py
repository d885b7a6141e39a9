# SPDX-License-Identifier: Apache-2.0
"""The gate's summary and page, from JUnit files."""

import json
import pathlib

from gate import report

JUNIT = """<testsuites><testsuite name="pytest">
<testcase classname="gate.stories.test_life" name="test_a_life[lx]" time="12.5"/>
<testcase classname="gate.stories.test_life" name="test_a_life[kvm]" time="2.25">
  <failure message="AssertionError: &lt;gone&gt;">the whole story</failure></testcase>
<testcase classname="c" name="broken" time="0"><error message="no"/></testcase>
<testcase classname="c" name="later" time="0"><skipped message="needs root"/></testcase>
</testsuite></testsuites>"""


def test_the_summary_is_what_the_runner_wrote(tmp_path: pathlib.Path) -> None:
    (tmp_path / "stories.junit.xml").write_text(JUNIT)
    counted = {"passed": 1, "failed": 2, "skipped": 1, "seconds": 14.8}
    assert report.write(tmp_path, {}, {}) == {"stories": counted}
    assert json.loads((tmp_path / "summary.json").read_text()) == {"stories": counted}


def test_the_page_shows_failures_and_what_is_left_out(tmp_path: pathlib.Path) -> None:
    (tmp_path / "stories.junit.xml").write_text(JUNIT)
    wrong = {"stories": ["<x> was skipped"], "tempest": []}
    report.write(tmp_path, {"tempest.api.compute.test_x": "zones have no pause"}, wrong)
    page = (tmp_path / "index.html").read_text()
    assert "AssertionError: &lt;gone&gt;the whole story" in page
    assert "<td>tempest.api.compute.test_x<td>zones have no pause" in page
    assert "<p class=w>stories: &lt;x&gt; was skipped</p>" in page
    assert page.count("<rect") == 4
