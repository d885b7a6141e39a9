# SPDX-License-Identifier: Apache-2.0
"""A screen in a real browser: Nova's URL, its proxy, noVNC's page; the picture is kept."""

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional import browser, proxies
from tests.functional import cloud as cloud_module

pytestmark = cloud_module.QUIET

PICTURES = pathlib.Path(__file__).parents[2] / "build" / "consoles"
# in the guests' letters, how bright the page's canvas is
_INK = """(() => {
    const canvas = document.querySelector('canvas');
    if (!canvas || !canvas.width) return 0;
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    let bright = 0;
    for (let at = 0; at < pixels.length; at += 4) bright += pixels[at] > 128;
    return bright;
})()"""


@pytest.fixture(name="cloud", scope="module")
def _cloud() -> Iterator[cloud_module.Cloud]:
    browser.required()
    with cloud_module.Cloud(over_ssh=True) as cloud:
        yield cloud


@pytest.mark.parametrize("kind", ["bhyve", "kvm"])
def test_a_screen_in_chromium(cloud: cloud_module.Cloud, tmp_path: pathlib.Path, kind: str) -> None:
    properties = {"img_hv_type": "kvm"} if kind == "kvm" else {}
    server = cloud.boot(image=cloud.image("zvol", **properties))
    with proxies.Proxy(browser.NOVNC) as proxy:
        base = f"http://127.0.0.1:{proxy.port}/vnc_lite.html"
        cloud.services.flags(novncproxy_base_url=base, group="vnc")
        body = {"remote_console": {"protocol": "vnc", "type": "novnc"}}
        answer: Any = cloud.user_api.api_post(f"/servers/{server['id']}/remote-consoles", body)
        with browser.page(answer.body["remote_console"]["url"], tmp_path) as page:
            page.wait("document.getElementById('status')?.innerText.startsWith('Connected')")
            page.wait(f"{_INK} > 500")
            before = page.value(_INK)
            page.value("document.querySelector('canvas').focus()")
            page.type(f"root\nuname -a\necho this is {kind}\n")
            try:
                page.wait(f"{_INK} > {before + 1000}")
            finally:
                page.picture(PICTURES / f"{kind}.png")
    cloud.api.delete_server(server["id"])
    cloud.gone(server)
