# SPDX-License-Identifier: Apache-2.0
"""FIDELITY.rst: what is known of each behaviour, a row a contract test."""

import ast
import datetime
import pathlib
import re
from collections.abc import Iterator

import pytest

HERE = pathlib.Path(__file__).parent
HEADER = ("Behaviour", "Known from")
_ROW = re.compile(r"^   \* - (?P<behaviour>.+?)\n     - (?P<known>.+?)$", re.MULTILINE)
_TABLE = re.compile(r"\.\. list-table::.*", re.DOTALL)


def behaviours() -> Iterator[tuple[str, str]]:
    """Each contract test's docstring and the mark it carries, as the sources have them."""
    for path in sorted(HERE.glob("test_*.py")):
        for function in ast.parse(path.read_text()).body:
            if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
                yield _sentence(ast.get_docstring(function) or ""), _mark(function)


def read(text: str) -> dict[str, str]:
    """The rows of FIDELITY.rst."""
    rows = {match["behaviour"]: match["known"] for match in _ROW.finditer(text)}
    rows.pop(HEADER[0], None)
    return rows


def written(text: str, rows: dict[str, str]) -> str:
    """FIDELITY.rst with these rows, in the order of the sources."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    order = [behaviour for behaviour, _ in behaviours()]
    for behaviour, known in [HEADER, *((each, rows[each]) for each in order if each in rows)]:
        lines += [f"   * - {behaviour}", f"     - {known}"]
    table = "\n".join(lines) + "\n"
    return (
        _TABLE.sub(lambda _: table, text) if _TABLE.search(text) else f"{text.rstrip()}\n\n{table}"
    )


def merged(text: str) -> str:
    """FIDELITY.rst brought up to date with the sources; what real nodes said stays."""
    present = read(text)
    return written(text, {each: present.get(each, mark) for each, mark in behaviours()})


def known(request: pytest.FixtureRequest, platform: str) -> list[tuple[str, object]]:
    """What a test's report says for `Writer`: its behaviour, and the platform of a real node."""
    return [("behaviour", _sentence(request.function.__doc__ or "")), ("platform", platform)]


class Writer:
    """Writes what a run found: the platform and the date, where the node is a real one."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._found: dict[str, str] = {}

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        said = dict(report.user_properties)
        if said.get("platform") and not report.skipped and (report.when == "call" or report.failed):
            self._note(str(said["behaviour"]), str(said["platform"]), report.passed)

    def _note(self, behaviour: str, platform: str, passed: bool) -> None:
        """One test of several that fails makes a difference."""
        if not self._found.get(behaviour, "").startswith("DIFFERS"):
            today = datetime.datetime.now(datetime.UTC).date().isoformat()
            mark = "real node" if passed else "DIFFERS on a real node"
            self._found[behaviour] = f"{mark}, {platform}, {today}"

    @pytest.hookimpl
    def pytest_sessionfinish(self) -> None:
        text = self._path.read_text()
        self._path.write_text(written(text, read(merged(text)) | self._found))


def _sentence(docstring: str) -> str:
    return " ".join(docstring.split("\n\n", maxsplit=1)[0].split())


def _mark(function: ast.FunctionDef) -> str:
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("known"):
            return str(ast.literal_eval(decorator.args[0]))
    raise ValueError(f"{function.name} does not say how its behaviour is known")
