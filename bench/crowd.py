# SPDX-License-Identifier: Apache-2.0
"""One VM shown as many, in what a node's tools tell of it."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Mapping

_ROOT = pathlib.Path(__file__).parents[1]
#: Below a node's folder: its own tools, and whom they are to show.
_OWN, _KNOWN = "own", "own/crowd.json"
_TOOLS = ("vmadm", "zfs")


def vms(answer: str, uuid: str, name: str, crowd: Mapping[str, str]) -> str:
    """What `vmadm lookup -j` says, with copies of a VM whose instance has this name."""
    (vm,) = [each for each in json.loads(answer) if each["uuid"] == uuid]
    text = json.dumps(vm)
    many = (_copy(text, uuid, name, each, own) for each, own in crowd.items())
    return f"[{','.join([text, *many])}]\n"


def event(line: str, uuid: str, name: str, crowd: Mapping[str, str]) -> str:
    """A line of `vmadm events -jr`: the first one tells of all VMs."""
    told = json.loads(line)
    if told["type"] != "ready":
        return line
    text = json.dumps(told["vms"][uuid])
    told["vms"] |= {
        each: json.loads(_copy(text, uuid, name, each, own)) for each, own in crowd.items()
    }
    return json.dumps(told) + "\n"


def datasets(answer: str, uuid: str, name: str, crowd: Mapping[str, str]) -> str:
    """What `zfs list -H` says, with the datasets of the copies."""
    own = [line for line in answer.splitlines(keepends=True) if uuid in line]
    return answer + "".join(line.replace(uuid, each) for each in crowd for line in own)


def show(node: pathlib.Path, uuid: str, name: str, crowd: Mapping[str, str]) -> None:
    """Have the tools of an emulated node answer so."""
    own = node / _OWN
    own.mkdir()
    (node / _KNOWN).write_text(json.dumps([uuid, name, crowd]))
    for tool in _TOOLS:
        path = node / "bin" / tool
        shutil.copy(path, own / tool)
        path.write_text(
            f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {str(_ROOT)!r})\n"
            f"from bench import crowd\ncrowd.answer({str(node)!r}, {tool!r}, sys.argv[1:])\n"
        )


def hide(node: pathlib.Path) -> None:
    """Let them answer as they are again."""
    for tool in _TOOLS:
        shutil.copy(node / _OWN / tool, node / "bin" / tool)
    shutil.rmtree(node / _OWN)


def answer(node: str, tool: str, words: list[str]) -> None:
    """Be a tool of the node: one that tells of the VMs and their datasets, or its own."""
    own = str(pathlib.Path(node, _OWN, tool))
    uuid, name, crowd = json.loads(pathlib.Path(node, _KNOWN).read_text())
    if words == ["events", "-jr"]:
        with subprocess.Popen([own, *words], stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                print(event(line, uuid, name, crowd), end="", flush=True)
        sys.exit(process.returncode)
    asked = words[1] if words[0] == "get" and tool == "vmadm" and words[1] in crowd else None
    if asked is None and words[:2] not in (["lookup", "-j"], ["list", "-Hp"]):
        os.execv(own, [tool, *words])
    words = ["get", uuid] if asked else words
    done = subprocess.run([own, *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    if asked is not None:
        sys.stdout.write(_copy(done.stdout, uuid, name, asked, crowd[asked]))
        return
    many = vms if tool == "vmadm" else datasets
    sys.stdout.write(many(done.stdout, uuid, name, crowd))


def _copy(text: str, uuid: str, name: str, other: str, own: str) -> str:
    return text.replace(uuid, other).replace(name, own)
