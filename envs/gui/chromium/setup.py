"""What both Chromium environments make of their options."""

from __future__ import annotations

import dataclasses
import unicodedata
from dataclasses import dataclass
from typing import Any

from gymnasium import spaces

from envs.gui.actions import DESKTOP, TYPEABLE, Coordinates
from envs.gui.adapters import Actions, Adapter, make_adapter
from envs.gui.chromium.browser import find_chromium
from envs.gui.chromium.sites import Predicate, Site, miniwob_site, page_site
from envs.gui.setup import MAX_INSTRUCTION, SPLITS, Split, screen_space


@dataclass(frozen=True)
class Setup:
    """Checked options. `seeds` are those of unseeded resets; `executable` is Chromium's program."""

    site: Site
    executable: str
    split: Split
    adapter: Adapter
    timeout: float

    @property
    def observation_space(self) -> spaces.Dict:
        """Dict(screenshot=uint8 [H, W, 3], instruction=Text)."""
        return screen_space(self.site.size)

    @property
    def seeds(self) -> tuple[int, int]:
        """Bounds of the seeds that unseeded resets draw."""
        return SPLITS[self.split]


def make_setup(task: str, **options: Any) -> Setup:
    """The options of `miniwob_setup`, or of `page_setup` for the task "page"."""
    return page_setup(**options) if task == "page" else miniwob_setup(task, **options)


def miniwob_setup(
    task: str,
    actions: Actions = "typed",
    split: Split = "train",
    max_steps: int | None = None,
    grid: tuple[int, int] | None = None,
    coordinates: Coordinates = "relative",
    timeout: float = 30.0,
) -> Setup:
    """Checks the options of a MiniWoB++ task.

    Args:
        task: its name.
        actions: "typed", "text", "grid" or "point": see `adapters.make_adapter`.
        split: which seeds `reset()` without one draws, and which of the sets that some tasks have: "train" or "eval".
        max_steps: truncates episodes; default: 15, and 50 for the long tasks.
        grid: (columns, rows) for actions="grid"; default: cells of 10 by 10 pixels.
        coordinates: what actions="text" counts in, "relative" (0 to 1000) or "absolute" (smart-resized pixels).
        timeout: real seconds a step or a reset of one page may take, before it counts as crashed.

    Raises:
        ValueError: a value that does not fit.
        ModuleNotFoundError: Chromium, Playwright or MiniWoB++ is missing; the message says how to get it.
    """
    return _setup(miniwob_site(task), actions, split, max_steps, grid, coordinates, timeout)


def page_setup(
    url: str = "",
    success: Predicate = "",
    instruction: str = "",
    done: Predicate | None = None,
    size: tuple[int, int] = (160, 210),
    actions: Actions = "typed",
    max_steps: int | None = None,
    grid: tuple[int, int] | None = None,
    coordinates: Coordinates = "relative",
    timeout: float = 30.0,
) -> Setup:
    """Checks the options of an environment around a page of one's own.

    Args:
        url: an HTML file, whose folder is served to it, or a URL of this host.
        success: what the page is asked to become: a JavaScript expression, or a function that is given `evaluate`,
            which gives the value of a JavaScript expression in the page.
        instruction: what the agent is told.
        done: when the episode ends, in the same form; default: as soon as `success` holds. `finished` ends it too.
        size: (width, height) of the page in pixels.
        actions, grid, coordinates, timeout: as in `miniwob_setup`.
        max_steps: truncates episodes; default: 15.

    Raises:
        ValueError: a value that does not fit; a URL of another host.
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: Chromium or Playwright is missing; the message says how to get it.
    """
    site = page_site(url, instruction, success, done, (int(size[0]), int(size[1])))
    return _setup(site, actions, "train", max_steps, grid, coordinates, timeout)


def plain(text: str) -> str:
    """An instruction in the characters that the instruction's space has, on one line."""
    text = unicodedata.normalize("NFKD", text.translate(str.maketrans("‘’“”–—", "''\"\"--")))
    known = "".join(character if character in TYPEABLE else "?" for character in " ".join(text.split()))
    return known[:MAX_INSTRUCTION]


def _setup(
    site: Site,
    actions: Actions,
    split: Split,
    max_steps: int | None,
    grid: tuple[int, int] | None,
    coordinates: Coordinates,
    timeout: float,
) -> Setup:
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(map(repr, SPLITS))}.")
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}; it must be at least 1.")
    if timeout <= 0:
        raise ValueError(f"timeout is {timeout}; it must be more than 0 seconds.")
    adapter = make_adapter(actions, site.size, DESKTOP, grid, coordinates)
    if max_steps is not None:
        site = dataclasses.replace(site, max_steps=max_steps)
    return Setup(site, find_chromium(f"chromium/{site.name}-v0"), split, adapter, timeout)
