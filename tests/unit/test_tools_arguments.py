# SPDX-License-Identifier: Apache-2.0
"""The smaller tools refuse what could be taken for an option or does not fit, and run nothing."""

import json
from collections.abc import Callable

import pytest

from nova_smartos.smartos import errors, fwadm, imgadm, nictagadm, node
from tests.unit import fake_transport

VM = "6a1f3c52-0b7e-4d7a-9c55-1f0e2d3c4b5a"


@pytest.mark.parametrize(
    "call",
    [
        lambda n: n.dladm.set_linkprop("-t", "mtu", "1500"),
        lambda n: n.dladm.set_linkprop("net0", "mtu=1,-x", "1500"),
        lambda n: n.dladm.show_link("-x"),
        lambda n: n.dladm.show_linkprop("net0", "a,b"),
        lambda n: n.dladm.show_vnic(zone="-z"),
        lambda n: n.fwadm.delete(),
        lambda n: n.fwadm.delete("-f"),
        lambda n: n.fwadm.get("x"),
        lambda n: n.imgadm.add_source("-e"),
        lambda n: n.imgadm.create(VM, "-p", {}),
        lambda n: n.imgadm.create(VM, "/x", {"-a": "b"}),
        lambda n: n.imgadm.get("base"),
        lambda n: n.imgadm.get(VM, zpool="-r"),
        lambda n: n.imgadm.import_("docker/image:latest"),
        lambda n: n.imgadm.install("-f", "x"),
        lambda n: n.nictagadm.add("a b"),
        lambda n: n.nictagadm.add("a", "-l"),
        lambda n: n.nictagadm.delete("-f"),
        lambda n: n.nictagadm.exists("a", "-l"),
        lambda n: n.svcs.get("-a"),
        lambda n: n.svcs.list(zone="x"),
        lambda n: n.zlogin.run(VM, []),
        lambda n: n.zlogin.run("-C", ["id"]),
        lambda n: n.zpool.get("-x"),
        lambda n: n.zpool.list("zones", "-v"),
    ],
)
def test_refused(call: Callable[[node.Node], object]) -> None:
    with pytest.raises(errors.InvalidPayload):
        call(node.Node(fake_transport.refusing()))


def test_sysinfo_update_refreshes_first() -> None:
    carrier = fake_transport.Transport(
        fake_transport.Answer(("sysinfo", "-u")), fake_transport.Answer(("sysinfo",), "{}")
    )
    with carrier, pytest.raises(errors.OutputError, match="Info: key 'UUID' is missing"):
        node.Node(carrier).sysinfo.update()


def test_only_the_tags_in_question_can_be_missing() -> None:
    argv = ("nictagadm", "exists", "-l", "one", "two")
    missing = fake_transport.expecting(*argv, stderr="two\n", returncode=1)
    assert nictagadm.Nictagadm(missing).exists("one", "two") is False
    for said in ("", "/usr/bin/nictagadm[12]: awk: not found\n", "three\n"):
        broken = fake_transport.expecting(*argv, stderr=said, returncode=1)
        with pytest.raises(errors.ToolError):
            nictagadm.Nictagadm(broken).exists("one", "two")


def test_a_rules_text_is_not_fwadms_own_word() -> None:
    said = json.dumps({"errors": [{"message": "Error at character 3: 'x\nUnknown rule: y'"}]})
    carrier = fake_transport.expecting(
        "fwadm", "add", "-j", stderr=said, returncode=1, stdin=b'{"rules": []}'
    )
    with pytest.raises(errors.InvalidPayload):
        fwadm.Fwadm(carrier).add([])


@pytest.mark.parametrize(
    "said",
    ["No space left on device", "x\nimgadm: error (ImageNotInstalled): y", "cannot: out of space"],
)
def test_a_guest_that_prepares_an_image_does_not_decide(said: str) -> None:
    stderr = f"imgadm create: error (PrepareImageError): prepare-image script error: {said}\n"
    argv = ("imgadm", "create", "-o", "/x", "-c", "none", VM, "name=n")
    carrier = fake_transport.expecting(*argv, stderr=stderr, returncode=1)
    with pytest.raises(errors.ToolError) as caught:
        imgadm.Imgadm(carrier).create(VM, "/x", {"name": "n"}, compression="none")
    assert (type(caught.value), caught.value.code) == (errors.ToolError, "PrepareImageError")
