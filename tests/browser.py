"""A real Chromium, driven through Debian's chromedriver by the W3C WebDriver protocol.

Standard library only: the protocol is JSON over HTTP, and this is the part of it that we need.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGES = {"chromium": "chromium", "chromedriver": "chromium-driver"}
"""Program -> the Debian package that has it. tests/install-browser.sh installs them."""
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--disable-dev-shm-usage"),
)


def missing() -> list[str]:
    """The Debian packages that a browser test lacks here."""
    return [package for program, package in PACKAGES.items() if shutil.which(program) is None]


class Browser:
    """One browser window."""

    def __init__(self, address: str, session: str) -> None:
        self._root = f"{address}/session/{session}"

    def open(self, file: Path) -> None:
        """Open a file, as a person who got it by mail would."""
        self._post("url", {"url": file.resolve().as_uri()})

    def leave(self) -> None:
        """Off the page that a new window shows, which loads scripts of its own."""
        self._post("url", {"url": "about:blank"})
        self.requests()

    def run(self, script: str) -> Any:
        """The value that the body of a function returns in the page."""
        return self._post("execute/sync", {"script": script, "args": []})

    def device(self, width: int, height: int, *, dark: bool = False, media: str = "screen") -> None:
        """Be a screen of that size, or paper, and prefer the dark or the light."""
        self._cdp(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._cdp("Emulation.setEmulatedMedia", {"media": media, "features": [scheme]})

    def accessibility_tree(self) -> list[dict[str, Any]]:
        """The nodes that a screen reader is told of."""
        self._cdp("Accessibility.enable", {})
        nodes: list[dict[str, Any]] = self._cdp("Accessibility.getFullAXTree", {})["nodes"]
        return [node for node in nodes if not node["ignored"]]

    def console(self) -> list[str]:
        """What the console was told since the last call."""
        return [entry["message"] for entry in self._post("se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """Every address that was asked for since the last call."""
        entries = self._post("se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def close(self) -> None:
        """End the browser."""
        _ask("DELETE", self._root)

    def _cdp(self, command: str, parameters: dict[str, Any]) -> Any:
        return self._post("goog/cdp/execute", {"cmd": command, "params": parameters})

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return _ask("POST", f"{self._root}/{path}", body)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a profile of its own, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder, _driver(Path(folder)) as address:
        options = {
            "binary": shutil.which("chromium"),
            "args": [*_FLAGS, f"--user-data-dir={folder}/profile"],
        }
        capabilities = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        found = _ask("POST", f"{address}/session", {"capabilities": {"alwaysMatch": capabilities}})
        window = Browser(address, found["sessionId"])
        try:
            yield window
        finally:
            window.close()


@contextlib.contextmanager
def _driver(folder: Path) -> Iterator[str]:
    with (folder / "driver.log").open("wb") as log:
        process = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := re.search(r"started successfully on port (\d+)", line):
                    yield f"http://127.0.0.1:{found[1]}"
                    break
            else:
                raise RuntimeError(f"chromedriver ended: {(folder / 'driver.log').read_text()}")
        finally:
            process.terminate()
            process.wait(10)
            process.stdout.close()


def _ask(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data=data, method=method, headers={"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is this machine
    with opener.open(request, timeout=60) as answer:
        return json.loads(answer.read())["value"]
