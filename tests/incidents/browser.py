"""A headless Chromium, driven by the W3C WebDriver protocol (chromedriver), without a library."""

from __future__ import annotations

import base64
import http.client
import json
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from labkit import pace

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""WebDriver's own word for a reference to an element (W3C WebDriver, 11)."""
_START_SECONDS = 60


class Browser:
    """One window; a context manager that ends what it started."""

    def __init__(self, width: int = 1366, height: int = 768) -> None:
        self._size = width, height

    def __enter__(self) -> Browser:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            self._port = self._listening()
            options = {
                "args": [
                    "--headless=new",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-dev-shm-usage",
                    "--hide-scrollbars",
                    f"--user-data-dir={self._folder.name}",
                ]
            }
            capabilities = {
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL"},
            }
            self._session = "/session"
            made = self._post("", capabilities={"alwaysMatch": capabilities})
            self._session = f"/session/{made['sessionId']}"
            # The window's own frame is not part of what a page sees.
            self.chrome(
                "Emulation.setDeviceMetricsOverride",
                width=self._size[0],
                height=self._size[1],
                deviceScaleFactor=1,
                mobile=False,
            )
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._call("DELETE", "", None)
        self._end()

    def _end(self) -> None:
        self._driver.terminate()
        self._driver.wait(timeout=pace.limit(30))
        assert self._driver.stdout is not None
        self._driver.stdout.close()
        self._folder.cleanup()

    def _listening(self) -> int:
        assert self._driver.stdout is not None
        end = time.monotonic() + pace.limit(_START_SECONDS)
        while time.monotonic() < end:
            line = self._driver.stdout.readline()
            if (found := re.search(r"started successfully on port (\d+)", line)) is not None:
                return int(found[1])
            assert line, "chromedriver ended"
        raise AssertionError("chromedriver does not say its port")

    def _post(self, path: str, **body: Any) -> Any:
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=pace.limit(120))
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, self._session + path, payload)
            answer = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(f"{answer['error']}: {answer['message']}")
        return answer

    def open(self, file: Path) -> None:
        """Open a file and wait until it is loaded."""
        self._post("/url", url=file.absolute().as_uri())

    def run(self, script: str) -> Any:
        """The value that a function's body returns."""
        return self._post("/execute/sync", script=script, args=[])

    def press(self, keys: str) -> None:
        """Type on whatever has the focus."""
        element = self._call("GET", "/element/active", None)[_ELEMENT]
        self._post(f"/element/{element}/value", text=keys)

    def type_into(self, css: str, text: str) -> None:
        """Type into the element that a selector finds."""
        element = self._post("/element", using="css selector", value=css)[_ELEMENT]
        self._post(f"/element/{element}/value", text=text)

    def texts(self, css: str) -> list[str]:
        """What each element of a selector has as text."""
        quoted = json.dumps(css)
        return self.run(
            f"return [...document.querySelectorAll({quoted})].map((each) => each.textContent)"
        )

    def chrome(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._post("/goog/cdp/execute", cmd=command, params=parameters)

    def complaints(self) -> list[str]:
        """What the console says since the last call: errors and refusals of the policy."""
        return [
            each["message"]
            for each in self._post("/se/log", type="browser")
            if each["level"] == "SEVERE"
        ]

    def screenshot(self, file: Path, *, whole: bool = False) -> None:
        """What is in the window, or all of the page."""
        told = self.chrome("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(told["data"]))

    def print_to(self, file: Path) -> None:
        """The page as its print."""
        told = self.chrome("Page.printToPDF", printBackground=True, landscape=True)
        file.write_bytes(base64.b64decode(told["data"]))
