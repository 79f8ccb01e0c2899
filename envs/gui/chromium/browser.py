"""One Chromium of our own with several pages, driven by an event loop in a thread of its own.

It is Debian's `chromium` behind Playwright's DevTools connection. Whatever is not on the loopback address is out of its
reach, twice: no name resolves, and all else goes to a proxy that does not exist. It dies with this process, however
that ends: Playwright's driver ends when its pipe from us closes, and Chromium when its pipe from the driver does.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from envs.gui.chromium.page import Page
from envs.gui.chromium.sites import Site

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-smooth-scrolling",
    "--disable-partial-raster",  # a corner drawn twice is a shade darker
    # Frames are made when they are asked for, not sixty times a second.
    "--disable-gpu-vsync",
    "--disable-frame-rate-limit",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    "--proxy-server=http://127.0.0.1:9",
    "--proxy-bypass-list=localhost;127.0.0.1",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
)
PATIENCE = 10.0  # seconds that an orderly end may take


def find_chromium(env_id: str) -> str:
    """Chromium's program, with Playwright there to drive it. Raises ModuleNotFoundError that says what to install."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        raise ModuleNotFoundError(f"{env_id} needs Playwright: pip install playwright.") from None
    for name in EXECUTABLES:
        found = shutil.which(name)
        if found:
            return found
    raise ModuleNotFoundError(f"{env_id} needs Chromium: apt-get install chromium.")


class Browser:
    """Starts with the first page, and anew when a page is opened after it has died. `close` ends it for good."""

    def __init__(self, executable: str, timeout: float) -> None:
        """executable: Chromium's program. timeout: seconds that anything in a page may take."""
        self.executable, self.timeout = executable, timeout
        self._driver: Any = None
        self._chromium: Any = None
        self._starting: asyncio.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
        """Results of coroutines that ran at the same time, in their order; an exception stands for its own result."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="browser", daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(_all(work), self._loop).result()

    async def open(self, site: Site) -> Page:
        """A page with cookies and storage of its own."""
        async with self._lock():
            if self._chromium is None or not self._chromium.is_connected():
                await self._stop()
                await asyncio.wait_for(self._start(), 2 * self.timeout)
        context = await self._chromium.new_context(
            viewport={"width": site.window[0], "height": site.window[1]},
            accept_downloads=False,
            locale="en-US",
            timezone_id="UTC",
            color_scheme="light",
        )
        page = await context.new_page()
        session = await context.new_cdp_session(page)
        await session.send("Page.enable")
        await session.send("Input.setInterceptDrags", {"enabled": True})
        return Page(context, page, session, site, self.timeout)

    def close(self) -> None:
        """Ends the browser and its driver."""
        if self._loop is not None:
            self.run([self._stop()])
            self._loop.call_soon_threadsafe(self._loop.stop)
            if self._thread is not None:
                self._thread.join(PATIENCE)
            self._loop = None

    def _lock(self) -> asyncio.Lock:
        if self._starting is None:
            self._starting = asyncio.Lock()
        return self._starting

    async def _start(self) -> None:
        from playwright.async_api import async_playwright

        self._driver = await async_playwright().start()
        self._chromium = await self._driver.chromium.launch(
            executable_path=self.executable,
            args=list(FLAGS),
            ignore_default_args=["--hide-scrollbars"],
            handle_sigint=False,
            handle_sigterm=False,
            handle_sighup=False,
        )

    async def _stop(self) -> None:
        chromium, driver = self._chromium, self._driver
        self._chromium = self._driver = None
        with suppress(Exception):  # of what is dead already
            await asyncio.wait_for(chromium.close(), PATIENCE)
        with suppress(Exception):
            await asyncio.wait_for(driver.stop(), PATIENCE)


async def _all(work: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    return await asyncio.gather(*work, return_exceptions=True)
