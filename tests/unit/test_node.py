# SPDX-License-Identifier: Apache-2.0
"""Node: all tools on one transport, and a context manager that closes it."""

import pathlib
import re

import pytest

from nova_smartos.smartos import _tool, node, transport
from tests.unit import fake_transport


def test_every_tool_has_the_transport() -> None:
    carrier = fake_transport.refusing()
    tools = {name: tool for name, tool in vars(node.Node(carrier)).items() if name != "transport"}
    assert len(tools) == 19
    for name, tool in tools.items():
        assert isinstance(tool, _tool.Tool)
        others = {"console": "zlogin", "direct": "smartos-direct", "files": "dd", "qmp": "nc"}
        assert tool.name == others.get(name, name)
        assert tool._transport is carrier


def test_the_context_closes_it() -> None:
    carrier = fake_transport.refusing()
    with node.Node(carrier):
        assert not carrier.closed
    assert carrier.closed


def test_constructors(tmp_path: pathlib.Path) -> None:
    with node.Node.local(tool_path="/opt/tools") as local:
        assert isinstance(local.transport, transport.Local)
    with node.Node.ssh("node.example.org", known_hosts_file=tmp_path / "none") as remote:
        assert isinstance(remote.transport, transport.SSH)


@pytest.mark.parametrize("path", ["README.rst", "doc/source/toolkit.rst"])
def test_the_documents_call_what_there_is(path: str) -> None:
    text = (pathlib.Path(__file__).parents[2] / path).read_text()
    gz = node.Node(fake_transport.refusing())
    calls = re.findall(r"\bgz\.(\w+)\.(\w+)\(", text)
    assert calls
    assert [call for call in calls if not hasattr(getattr(gz, call[0]), call[1])] == []
