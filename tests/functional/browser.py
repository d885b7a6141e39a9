# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium: one page, keys that are pressed on it, and a picture of it."""

import base64
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from websockify import websocket

from tests import waits

#: Where Debian's package puts noVNC's pages.
NOVNC = pathlib.Path("/usr/share/novnc")
SECONDS = 60


def required() -> None:
    """Skip without Debian's packages, unless this machine must have them."""
    missing = [] if shutil.which("chromium") else ["chromium"]
    missing += [] if (NOVNC / "vnc_lite.html").is_file() else ["novnc"]
    if missing and not os.environ.get("SMARTOS_EMULATOR_REQUIRE"):
        pytest.skip(f"missing: {', '.join(missing)}")
    assert not missing, f"missing: {', '.join(missing)}"


class _Socket(websocket.WebSocket):
    """DevTools speaks in text; websockify's class knows bytes only."""

    def _recvmsg(self) -> Any:
        for frame in self._recv_queue:
            frame["opcode"] = 0x2 if frame["opcode"] == 0x1 else frame["opcode"]
        return super()._recvmsg()

    def _sendmsg(self, opcode: int, message: bytes) -> Any:
        return super()._sendmsg(0x1 if opcode == 0x2 else opcode, message)


class Page:
    """A page, through Chromium's DevTools."""

    def __init__(self, port: int, target: str) -> None:
        self._socket = _Socket()
        self._socket.connect(f"ws://127.0.0.1:{port}{target}")
        self._socket.socket.settimeout(SECONDS)
        self._number = 0

    def close(self) -> None:
        self._socket.socket.close()

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        document = {"id": self._number, "method": method, "params": parameters}
        self._socket.sendmsg(json.dumps(document).encode())
        while True:
            try:
                data = self._socket.recvmsg()
            except websocket.WebSocketWantReadError:
                continue
            assert data is not None, "the browser is gone"
            answer: dict[str, Any] = json.loads(data)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                found: dict[str, Any] = answer["result"]
                return found

    def value(self, expression: str) -> Any:
        return self.ask("Runtime.evaluate", expression=expression)["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until something is true on the page."""
        waits.until(lambda: self.value(expression), expression, SECONDS, pause=0.1)

    def type(self, text: str) -> None:
        """Press keys; a newline is Enter."""
        for letter in text:
            key = {"text": "\r", "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
            pressed = key if letter == "\n" else {"text": letter, "key": letter}
            self.ask("Input.dispatchKeyEvent", type="keyDown", **pressed)
            released = {name: value for name, value in pressed.items() if name != "text"}
            self.ask("Input.dispatchKeyEvent", type="keyUp", **released)

    def picture(self, path: pathlib.Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def page(url: str, folder: pathlib.Path) -> Iterator[Page]:
    """A page in a browser of its own, which keeps what it has to keep in a folder."""
    program = shutil.which("chromium")
    assert program is not None
    words = [
        program,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--remote-debugging-port=0",
        "--remote-allow-origins=*",
        f"--user-data-dir={folder}",
        "--window-size=800,520",
        "about:blank",
    ]
    environment = {**os.environ, "HOME": str(folder)}
    with (folder / "chromium.log").open("wb") as log:
        browser = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
    try:
        port = _port(folder, browser)
        opened = _targets(port)
        with contextlib.closing(Page(port, opened)) as found:
            found.ask("Page.enable")
            found.ask("Page.navigate", url=url)
            yield found
    finally:
        browser.terminate()
        browser.wait(SECONDS)


def _port(folder: pathlib.Path, browser: "subprocess.Popen[bytes]") -> int:
    told = folder / "DevToolsActivePort"

    def up() -> bool:
        assert browser.poll() is None, (folder / "chromium.log").read_text()
        return told.exists() and told.read_text().count("\n") > 0

    waits.until(up, "Chromium to come up", SECONDS, pause=0.1)
    return int(told.read_text().splitlines()[0])


def _targets(port: int) -> str:
    """The path of the one page."""
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=SECONDS) as answer:
        found = json.load(answer)
    url: str = next(each for each in found if each["type"] == "page")["webSocketDebuggerUrl"]
    return "/" + url.split("/", 3)[3]
