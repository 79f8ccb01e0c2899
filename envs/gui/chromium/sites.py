"""What an episode in the browser is about: MiniWoB++'s tasks, and any page of this host.

MiniWoB++ (Liu et al. 2018, arXiv:1802.08802) is taken from the `miniwob` package's own files. Its traps, and what is
done about them in `_START`: the limit of real seconds never comes; rewards are judged before they are scaled by time;
the black cover that would hide the last screenshot stays away; the START cover needs no click; and chance follows the
seed from the first script on.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Evaluate = Callable[[str], Any]
"""Gives the value of a JavaScript expression in the page."""
Predicate = str | Callable[[Evaluate], bool]

MINIWOB = (
    *("ascending-numbers", "bisect-angle", "book-flight", "book-flight-nodelay", "button-delay", "buy-ticket"),
    *("chase-circle", "choose-date", "choose-date-easy", "choose-date-medium", "choose-date-nodelay", "choose-list"),
    *("circle-center", "click-button", "click-button-sequence", "click-checkboxes", "click-checkboxes-large"),
    *("click-checkboxes-soft", "click-checkboxes-transfer", "click-collapsible", "click-collapsible-2"),
    *("click-collapsible-2-nodelay", "click-collapsible-nodelay", "click-color", "click-dialog", "click-dialog-2"),
    *("click-link", "click-menu", "click-menu-2", "click-option", "click-pie", "click-pie-nodelay"),
    *("click-scroll-list", "click-shades", "click-shape", "click-tab", "click-tab-2", "click-tab-2-easy"),
    *("click-tab-2-hard", "click-tab-2-medium", "click-test", "click-test-2", "click-test-transfer", "click-widget"),
    *("copy-paste", "copy-paste-2", "count-shape", "count-sides", "daily-calendar", "drag-box", "drag-circle"),
    *("drag-cube", "drag-items", "drag-items-grid", "drag-shapes", "drag-shapes-2", "drag-single-shape"),
    *("drag-sort-numbers", "draw-circle", "draw-line", "email-inbox", "email-inbox-delete", "email-inbox-forward"),
    *("email-inbox-forward-nl", "email-inbox-forward-nl-turk", "email-inbox-important", "email-inbox-nl-turk"),
    *("email-inbox-noscroll", "email-inbox-reply", "email-inbox-star-reply", "enter-date", "enter-password"),
    *("enter-text", "enter-text-2", "enter-text-dynamic", "enter-time", "find-greatest", "find-midpoint", "find-word"),
    *("focus-text", "focus-text-2", "form-sequence", "form-sequence-2", "form-sequence-3", "generate-number"),
    *("grid-coordinate", "guess-number", "highlight-text", "highlight-text-2", "hot-cold", "hover-shape"),
    *("identify-shape", "login-user", "login-user-popup", "moving-items", "multi-layouts", "multi-orderings"),
    *("navigate-tree", "number-checkboxes", "odd-or-even", "order-food", "phone-book", "read-table", "read-table-2"),
    *("resize-textarea", "right-angle", "scroll-text", "scroll-text-2", "search-engine", "sign-agreement"),
    *("simon-says", "simple-algebra", "simple-arithmetic", "social-media", "social-media-all", "social-media-some"),
    *("stock-market", "terminal", "text-editor", "text-transform", "tic-tac-toe", "unicode-test", "use-autocomplete"),
    *("use-autocomplete-nodelay", "use-colorwheel", "use-colorwheel-2", "use-slider", "use-slider-2", "use-spinner"),
    *("visual-addition", "flight.AA", "flight.Alaska", "flight.Alaska-auto"),
)
MINIWOB_SIZE, MINIWOB_WINDOW = (160, 210), (500, 320)
FLIGHT_SIZE, FLIGHT_WINDOW = (375, 667), (600, 800)
SHORT, LONG = 15, 50  # steps until an episode is truncated
_LONG = (
    "book-flight",
    "flight.",
    "form-",
    "email-",
    "social-",
    "use-color",
    "terminal",
    "text-editor",
    "click-checkboxes-",
)

_START = """
Math.seedrandom(SEED);
core.EPISODE_MAX_TIME = 1e12;
core.countdownTimer = () => {};
core.setDataMode(MODE);
if (core.cover_div === null) core.startEpisode();
core.startEpisodeReal();
core.startEpisode = () => {};
for (let i = 0; i < 100 && !WOB_TASK_READY; i++) { await __screen.pause(20); await __screen.advance(100); }
for (const id of ["reward-display", "click-canvas"]) document.getElementById(id).style.visibility = "hidden";
const utterance = core.getUtterance();
return typeof utterance === "string" ? utterance : utterance.utterance;
"""
_JUDGE = "({done: WOB_DONE_GLOBAL, success: WOB_DONE_GLOBAL && WOB_RAW_REWARD_GLOBAL > 0, raw: WOB_RAW_REWARD_GLOBAL})"


@dataclass(frozen=True)
class Site:
    """Where an episode takes place and who judges it.

    name: of the task. directory: the files that are served to the page, if any. page: path below it with which an
    episode begins, or a whole URL. size: (width, height) of the screen, the upper left part of a browser window of
    size `window`. start: the body of an asynchronous JavaScript function that begins the episode and returns its
    instruction, with the constants SEED (a string) and MODE ("train" or "test"). judge: a JavaScript expression for
    `{done, success, raw}`. keeps: it may keep something from one episode to the next, in cookies or storage.
    framed: it can be written into a frame, since it goes nowhere by itself. success,
    done: judge in Python instead where they are given.
    """

    name: str
    directory: Path | None
    page: str
    size: tuple[int, int]
    window: tuple[int, int]
    start: str
    judge: str
    max_steps: int
    keeps: bool = False
    framed: bool = False
    success: Callable[[Evaluate], bool] | None = None
    done: Callable[[Evaluate], bool] | None = None


def miniwob_site(task: str) -> Site:
    """A task of MiniWoB++. Raises ModuleNotFoundError, which says how to get it, without the package."""
    spec = importlib.util.find_spec("miniwob")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"chromium/{task}-v0 needs MiniWoB++'s pages: pip install miniwob.")
    flight = task.startswith("flight.")
    return Site(
        name=task,
        directory=Path(spec.submodule_search_locations[0]) / "html",
        page=f"{task.replace('.', '/')}/wrapper.html" if flight else f"miniwob/{task}.html",
        size=FLIGHT_SIZE if flight else MINIWOB_SIZE,
        window=FLIGHT_WINDOW if flight else MINIWOB_WINDOW,
        start=_START,
        judge=_JUDGE,
        framed=not flight,
        max_steps=LONG if task.startswith(_LONG) else SHORT,
    )


def page_site(url: str, instruction: str, success: Predicate, done: Predicate | None, size: tuple[int, int]) -> Site:
    """A page of this host: an HTML file, whose folder is then served, or a URL.

    Raises ValueError for a URL of another host, a missing url or success and an impossible size, FileNotFoundError for
    a file that does not exist.
    """
    if not url or not success:
        raise ValueError(
            "chromium/page-v0 needs url, an HTML file or a page of this host, and success, what to judge by."
        )
    if min(size) < 16:
        raise ValueError(f"size is {size}; a screen has at least 16 by 16 pixels (width, height).")
    directory = None
    if "://" in url:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname not in ("localhost", "127.0.0.1"):
            raise ValueError(f"{url} is not on this host: url takes an HTML file, or http://localhost:PORT/....")
    else:
        file = Path(url).resolve()
        if not file.is_file():
            raise FileNotFoundError(f"url is {url!r}, and there is no such file.")
        directory, url = file.parent, file.name
    by_page = "false" if callable(success) else f"Boolean({success})"
    over = by_page if done is None else "false" if callable(done) else f"Boolean({done})"
    return Site(
        name="page",
        directory=directory,
        page=url,
        size=size,
        window=size,
        start=f"return {json.dumps(instruction)};",
        judge=f"({{done: {over}, success: {by_page}, raw: 0}})",
        max_steps=SHORT,
        keeps=True,
        success=success if callable(success) else None,
        done=done if callable(done) else success if done is None and callable(success) else None,
    )
