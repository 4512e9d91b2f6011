"""A headless Chromium driven through a pipe by its DevTools protocol: no package needed, no port opened."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WAIT = 60.0
"""Seconds for any answer."""


def found() -> str | None:
    """The browser's path, or None."""
    given = os.environ.get("CHROMIUM")
    return given or next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._buffer, self._next = send, receive, b"", 0
        self._session: str | None = None
        self._target: str | None = None
        self.problems: list[str] = []
        """Exceptions, errors of the console, and requests that left the page."""

    def call(self, method: str, **params: Any) -> Any:
        """The result of a method of the protocol."""
        self._next += 1
        message: dict[str, Any] = {"id": self._next, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._next:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._event(answer)

    def open(self, path: Path, width: int = 1200, height: int = 800, scheme: str = "light") -> None:
        """Load a file into a new tab; returns when its scripts have run and two frames are drawn."""
        self._session = None
        if self._target is not None:
            self.call("Target.closeTarget", targetId=self._target)
        self._target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.prefer(scheme)
        self.call("Page.navigate", url=path.as_uri())
        self.until("document.readyState === 'complete' && location.protocol === 'file:'")
        self.frames()

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        """The window's size, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )

    def prefer(self, scheme: str) -> None:
        """`light` or `dark`, as a system's setting."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def value(self, expression: str) -> Any:
        """Of an expression in the page, which may be a promise."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait for an expression to be true."""
        limit = time.monotonic() + WAIT
        while not self.value(expression):
            assert time.monotonic() < limit, expression
            time.sleep(0.02)

    def frames(self, n: int = 2) -> None:
        """Wait until `n` frames are drawn."""
        for _ in range(n):
            self.value("new Promise((done) => requestAnimationFrame(() => done(1)))")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """`moved`, `pressed`, `released` or `wheel` at a place of the window."""
        name = {"wheel": "mouseWheel"}.get(kind, f"mouse{kind.capitalize()}")
        self.call("Input.dispatchMouseEvent", type=name, x=x, y=y, **more)

    def click(self, x: float, y: float, shift: bool = False) -> None:
        """Press and release."""
        how: dict[str, Any] = {"button": "left", "clickCount": 1, "modifiers": 8 if shift else 0}
        self.mouse("moved", x, y)
        self.mouse("pressed", x, y, **how, buttons=1)
        self.mouse("released", x, y, **how)
        self.frames()

    def drag(self, x0: float, y0: float, x1: float, y1: float, shift: bool = False) -> None:
        """Press, move in steps, release."""
        how: dict[str, Any] = {"button": "left", "modifiers": 8 if shift else 0}
        self.mouse("pressed", x0, y0, **how, buttons=1, clickCount=1)
        for i in range(1, 6):
            self.mouse("moved", x0 + (x1 - x0) * i / 5, y0 + (y1 - y0) * i / 5, **how, buttons=1)
        self.mouse("released", x1, y1, **how, clickCount=1)
        self.frames()

    def press(self, selector: str) -> None:
        """Click the middle of an element."""
        x, y = self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'nearest'}); const b = e.getBoundingClientRect();"
            "return [b.left + b.width / 2, b.top + b.height / 2]; })()"
        )
        self.click(x, y)

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def key(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **({"text": key} if len(key) == 1 else {}))
        self.frames()

    def downloaded(self, selector: str, folder: Path) -> bytes:
        """What pressing an element downloads."""
        session, self._session = self._session, None
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        self._session = session
        before = set(folder.iterdir())
        self.press(selector)
        limit = time.monotonic() + WAIT
        while True:
            new = [
                p for p in set(folder.iterdir()) - before if p.suffix != ".crdownload" and not p.name.startswith(".")
            ]
            if new and new[0].stat().st_size:
                return new[0].read_bytes()
            assert time.monotonic() < limit, "no download"
            self.frames(1)

    def screenshot(self) -> bytes:
        """PNG of the window."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def _read(self) -> dict[str, Any]:
        limit = time.monotonic() + WAIT
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], max(0.0, limit - time.monotonic()))
            assert ready, "Chromium does not answer"
            chunk = os.read(self._receive, 1 << 16)
            assert chunk, "Chromium is gone"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _event(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(str(params["exceptionDetails"].get("exception", {}).get("description")))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.problems.append(params["entry"]["text"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
                self.problems.append(str(params["args"]))
            case "Network.requestWillBeSent" if not params["request"]["url"].startswith(("file:", "blob:", "data:")):
                self.problems.append(params["request"]["url"])


@contextmanager
def browser(path: str, profile: Path) -> Iterator[Page]:
    """A running Chromium with a profile of its own; ended and waited for at the end."""
    (their_in, send), (receive, their_out) = os.pipe(), os.pipe()
    arguments = [
        path, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run",
        "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
        "--disable-component-update", "--disable-sync",
        "--no-default-browser-check", "--force-color-profile=srgb", "--mute-audio",
        *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []), "about:blank",
    ]  # fmt: skip
    redirect = f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}'
    process = subprocess.Popen(
        ["/bin/bash", "-c", redirect, *arguments], pass_fds=(their_in, their_out), stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(their_in)
    os.close(their_out)
    try:
        page = Page(send, receive)
        yield page
        page._session = None
        page.call("Browser.close")
    finally:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(send)
        os.close(receive)
