"""A page: where an episode takes place. It is acted on, waited for, judged and looked at.

Time in the page is the episode's own (`page.js`): half a second passes after each action, at once, with all that the
page had planned for it. Together with the seed for its chance this makes a screen a function of the seed and the
actions. Left out: CSS animations (they end at once), video, and pages that wait for a server by themselves.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from envs.gui.actions import Action
from envs.gui.chromium.inputs import Command, commands, move
from envs.gui.chromium.server import EMPTY
from envs.gui.chromium.sites import Site

FRAMES = 100  # episodes in the frames of one page
STEP, WAIT = 500, 5000  # milliseconds that pass in the page after an action; UI-TARS's `wait` takes 5 seconds

_SCRIPT = Path(__file__).with_name("page.js").read_text()
_FRAME = """async (url, source) => {
  window.__html ??= await (await fetch(url)).text();
  const frame = document.createElement("iframe");
  frame.style.cssText = "border:0;position:absolute;left:0;top:0;width:100vw;height:100vh";
  document.body.replaceChildren(frame);
  const inside = frame.contentWindow;
  inside.document.open();
  inside.eval(source);
  const loaded = new Promise((resolve) => inside.addEventListener("load", () => setTimeout(resolve)));
  inside.document.write(window.__html);
  inside.document.close();
  await loaded;
  inside.focus();
}"""
# Of the empty page, whose clock is the real one: a new frame's first picture may be one from before it was changed.
_DRAWN = "new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(resolve))))"
# Pictures that the style sheets name come when something first wears them, and nothing waits for that. They are kept
# where they outlive a frame: `parent` of a page that is none is the page itself.
_PICTURES = """(async () => {
  parent.__pictures ??= Promise.all([...document.styleSheets].flatMap((sheet) => {
    let rules = [];
    try { rules = [...sheet.cssRules]; } catch {}  // of another origin
    const named = rules.flatMap((rule) => [...rule.cssText.matchAll(/url\\("([^"]+)"\\)/g)]);
    return named.map(async ([, url]) => {
      const picture = new parent.Image();
      picture.src = new URL(url, sheet.href ?? document.baseURI);
      try { await picture.decode(); } catch {}  // a font, or nothing at all
      return picture;
    });
  }));
  await parent.__pictures;
})()"""
_PASS = "(window.__screen ? __screen.advance({time}) : Promise.resolve())"
_JUDGE = "(() => {{ try {{ return {judge}; }} catch (e) {{ return {{error: String(e)}}; }} }})()"
# What Playwright says where a document went away under a question: it is asked again of the next one.
_GONE = (
    "navigat",
    "context was destroyed",
    "default execution context",
    "Promise was collected",
    "Cannot find context",
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verdict:
    """done: the page ended the episode. success: what it asked for is the case. raw: MiniWoB's unscaled reward."""

    done: bool
    success: bool
    raw: float


class Page:
    """A page of the browser. Every coroutine raises Playwright's Error or TimeoutError where the page has died."""

    def __init__(self, context: Any, page: Any, session: Any, site: Site, timeout: float) -> None:
        self.site, self.timeout = site, timeout
        self._context, self._page, self._session = context, page, session
        self._script: str | None = None
        self._framed = 0
        self._loading = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._main = ""
        self._dragged: dict[str, Any] | None = None
        session.on("Input.dragIntercepted", self._take_up)
        for event in ("frameRequestedNavigation", "frameStartedNavigating", "frameStartedLoading"):
            session.on(f"Page.{event}", lambda frame: self._notice(frame, True))
        session.on("Page.frameStoppedLoading", lambda frame: self._notice(frame, False))
        context.on("page", self._shut)

    async def load(self, url: str, seed: int, mode: str) -> str:
        """Begins instance `seed` at `url`, mode "train" or "test"; returns its instruction.

        Raises ValueError where the site's own JavaScript fails.
        """
        return await self._within(self._load(url, seed, mode))

    async def act(self, action: Action | None) -> Verdict:
        """Carries out an action, lets time pass and judges; None lets time pass only."""
        return await self._within(self._act(action))

    async def look(self) -> NDArray[np.uint8]:
        """The screen, uint8 [H, W, 3]."""
        return await self._within(self._look())

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON has it. Raises ValueError where it fails."""
        return await self._within(self._evaluate(expression))

    async def close(self) -> None:
        """Closes the page, whatever state it is in."""
        with suppress(Exception):
            await asyncio.wait_for(self._context.close(), self.timeout)

    async def _within(self, work: Awaitable[T]) -> T:
        return await asyncio.wait_for(work, self.timeout)

    async def _load(self, url: str, seed: int, mode: str) -> str:
        # The pointer of the last episode must not lie on anything of the next.
        await self._send([move(self.site.window[0] - 1, self.site.window[1] - 1)])
        source = f"({_SCRIPT.strip()})({json.dumps(str(seed))}, {self.site.size[0]}, {self.site.size[1]});"
        if self.site.framed:
            await self._frame(url, source)
        else:
            await self._navigate(url, source)
        constants = f"const SEED = {json.dumps(str(seed))}, MODE = {json.dumps(mode)};"
        instruction = await self._evaluate(f"(async () => {{ {constants} {self.site.start} }})()")
        await self._evaluate(_PICTURES)
        if self.site.framed:
            await self._session.send("Runtime.evaluate", {"expression": _DRAWN, "awaitPromise": True})
        verdict = await self._evaluate(f"({self.site.judge})")  # here its mistakes are the caller's to know
        if not isinstance(verdict, dict):
            raise ValueError(f"the judge of {self.site.name} gives {verdict!r}")
        return str(instruction)

    async def _navigate(self, url: str, source: str) -> None:
        """Goes to a page, with `source` before the scripts of all of its documents."""
        if self._script is not None:
            await self._session.send("Page.removeScriptToEvaluateOnNewDocument", {"identifier": self._script})
        added = await self._session.send("Page.addScriptToEvaluateOnNewDocument", {"source": source})
        self._script = added["identifier"]
        await self._goto(url)

    async def _frame(self, url: str, source: str) -> None:
        """Writes a page into a new frame of an empty page: a world as new as after going there, in a fifth of the time.

        The empty page is loaded anew from time to time, for what the frames before may have left in memory.
        """
        if self._framed % FRAMES == 0:
            await self._goto(url.rsplit("/", 1)[0] + "/" + EMPTY)
        self._framed += 1
        answer = await self._session.send(
            "Runtime.evaluate",
            {"expression": f"({_FRAME})({json.dumps(url)}, {json.dumps(source)})", "awaitPromise": True},
        )
        if "exceptionDetails" in answer:
            raise ValueError(f"{url} does not load: {answer['exceptionDetails']}")

    async def _goto(self, url: str) -> None:
        if not self._main:
            tree = await self._session.send("Page.getFrameTree")
            self._main = tree["frameTree"]["frame"]["id"]
        await self._page.goto(url, wait_until="load", timeout=1000 * self.timeout)
        self._loading = False

    async def _act(self, action: Action | None) -> Verdict:
        if action is not None:
            await self._send(commands(action, self.site.size))
        time = WAIT if action is not None and action.type == "wait" else STEP
        question = f"{_PASS.format(time=time)}.then(() => {_JUDGE.format(judge=self.site.judge)})"
        while True:
            while self._loading:
                await asyncio.sleep(0.005)
            try:
                found = await self._evaluate(question)
            except Exception as error:
                if not any(sign in str(error) for sign in _GONE) or self._page.is_closed():
                    raise
                await asyncio.sleep(0.02)
                continue
            if not self._loading:
                done, success = bool(found.get("done")), bool(found.get("success"))
                return Verdict(done, success, float(found.get("raw") or 0.0))

    async def _look(self) -> NDArray[np.uint8]:
        width, height = self.site.size
        # All of the window: a clip would have the page laid out and drawn again around every screenshot.
        taken = await self._session.send(
            "Page.captureScreenshot", {"format": "png", "optimizeForSpeed": True, "captureBeyondViewport": False}
        )
        image = Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")
        if image.size != self.site.window:
            raise ValueError(f"the screenshot is {image.size}, not {self.site.window} pixels")
        return np.asarray(image)[:height, :width]

    async def _evaluate(self, expression: str) -> Any:
        if self.site.framed:
            expression = f"frames[0].eval({json.dumps(expression)})"
        answer = await self._session.send(
            "Runtime.evaluate", {"expression": expression, "awaitPromise": True, "returnByValue": True}
        )
        failure = answer.get("exceptionDetails")
        if failure is not None:
            raise ValueError(f"JavaScript: {failure.get('exception', {}).get('description') or failure['text']}")
        return answer["result"].get("value")

    async def _send(self, given: list[Command]) -> None:
        """Sends events without waiting in between, since the browser keeps their order, but for the mouse's moves.

        These are held back for the next frame and put together, so that what follows might overtake them.
        """
        waiting = []
        for method, parameters in given:
            if self._dragged is not None:
                await self._drag(parameters)
                continue
            waiting.append(self._session.send(method, parameters))
            if parameters["type"] == "mouseMoved":
                await asyncio.gather(*waiting)
                waiting = []
        await asyncio.gather(*waiting)

    async def _drag(self, mouse: dict[str, Any]) -> None:
        """Carries what HTML's own drag and drop has taken up, which the browser would hand to the desktop."""
        event = {"x": mouse["x"], "y": mouse["y"], "data": self._dragged, "modifiers": 0}
        kinds = ("drop",) if mouse["type"] == "mouseReleased" else ("dragEnter", "dragOver")
        for kind in kinds:
            await self._session.send("Input.dispatchDragEvent", {"type": kind, **event})
        if mouse["type"] == "mouseReleased":
            self._dragged = None
            await self._session.send("Input.dispatchMouseEvent", mouse)

    def _notice(self, frame: dict[str, Any], loading: bool) -> None:
        if frame["frameId"] == self._main:
            self._loading = loading

    def _take_up(self, event: dict[str, Any]) -> None:
        self._dragged = event["data"]

    def _shut(self, popup: Any) -> None:
        """Windows that a page opens are closed: nobody could see them."""
        if popup is not self._page:
            task = asyncio.ensure_future(popup.close())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
