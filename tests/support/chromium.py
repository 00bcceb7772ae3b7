"""Debian's Chromium without a screen, driven over a pipe by the DevTools protocol; nothing else is needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

CHROMIUM = shutil.which("chromium")
WHY_NOT = "" if CHROMIUM else "chromium is not installed"
PATIENCE_S = 120.0
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--disable-dev-shm-usage", "--remote-debugging-pipe"),
)
OURS = "data:", "blob:", "about:"


class Browser:
    """A running browser; use `open_chromium`."""

    def __init__(self, receive: trio.abc.ReceiveStream, send: trio.abc.SendStream) -> None:
        self._receive, self._send = receive, send
        self._sending = trio.Lock()
        self._last = 0
        self._waiting: dict[int, tuple[trio.Event, list[dict[str, Any]]]] = {}
        self._pages: dict[str, Page] = {}

    async def pump(self) -> None:
        """Hand answers to who waits for them, and what happens in pages to these, until the browser ends."""
        rest = b""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await self._receive.receive_some(65_536):
                *messages, rest = (rest + data).split(b"\0")
                for message in map(json.loads, messages):
                    if "id" in message:
                        done, answers = self._waiting.pop(message["id"])
                        answers.append(message)
                        done.set()
                    elif page := self._pages.get(message.get("sessionId", "")):
                        page.note(message["method"], message["params"])

    async def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Return the result of a command of the DevTools protocol.

        Raises:
            RuntimeError: the browser says that it cannot be done.
            trio.TooSlowError: it says nothing.
        """
        self._last += 1
        number, done, answers = self._last, trio.Event(), list[dict[str, Any]]()
        self._waiting[number] = done, answers
        message = {"id": number, "method": method, "params": params}
        text = json.dumps(message if session is None else {**message, "sessionId": session})
        with trio.fail_after(PATIENCE_S):
            async with self._sending:
                await self._send.send_all(text.encode() + b"\0")
            await done.wait()
        if "error" in answers[0]:
            raise RuntimeError(f"{method}: {answers[0]['error']}")
        result: dict[str, Any] = answers[0]["result"]
        return result

    async def page(self) -> Page:
        """Open an empty page, which takes note of all that it asks for and complains about."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = (await self.call("Target.createTarget", url="about:blank", browserContextId=context))["targetId"]
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.call(f"{domain}.enable")
        return page


class Page:
    """One page: `complaints` is what its console got as an error or a warning, `asked` the URLs that it asked for."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.complaints: list[str] = []
        self.asked: list[str] = []

    def note(self, method: str, params: dict[str, Any]) -> None:
        """Take note of an event."""
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str([one.get("value", one.get("description")) for one in params["args"]]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"])[:2000])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(json.dumps(params["entry"]))
        elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(OURS):
            self.asked.append(params["request"]["url"])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the result of a command to this page."""
        return await self._browser.call(method, self._session, **params)

    async def js(self, expression: str) -> Any:
        """Return the value of an expression; a promise is waited for."""
        answer = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    async def wait(self, expression: str) -> Any:
        """Return the value of an expression as soon as it is true."""
        with trio.move_on_after(PATIENCE_S):
            while True:
                with suppress(RuntimeError):  # the document changes just now
                    if value := await self.js(expression):
                        return value
                await trio.sleep(0.05)
        shown = await self.js("document.body.innerText")
        raise AssertionError(f"{expression} stays false; complaints {self.complaints}, shown:\n{shown}")

    async def go(self, url: str) -> None:
        """Load a page, to its end."""
        await self.call("Page.navigate", url=url)
        await self.wait(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    async def show(self, width: int, height: int, *, scale: float = 1.0, dark: bool = False) -> None:
        """Have the window so wide and high, and people like it light or dark."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 500,
        )
        await self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        await self.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    async def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write a PNG of the window, or of the whole page."""
        picture = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(picture["data"]))


@asynccontextmanager
async def open_chromium() -> AsyncIterator[Browser]:
    """Run a browser with a profile of its own while the block lasts."""
    assert CHROMIUM is not None
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        with open(Path(profile) / "log", "wb") as log:
            process = await trio.lowlevel.open_process(
                ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command],
                pass_fds=(theirs_in, theirs_out),
                stdout=log,
                stderr=log,
            )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            async with (
                trio.lowlevel.FdStream(ours_in) as receive,
                trio.lowlevel.FdStream(ours_out) as send,
                trio.open_nursery() as nursery,
            ):
                browser = Browser(receive, send)
                nursery.start_soon(browser.pump)
                try:
                    yield browser
                finally:
                    with trio.move_on_after(10, shield=True), suppress(trio.BrokenResourceError):
                        await browser.call("Browser.close")
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                with trio.move_on_after(20):
                    await process.wait()
                if process.returncode is None:
                    process.kill()
                    await process.wait()
