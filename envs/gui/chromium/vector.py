"""N pages of one Chromium that step at the same time."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.gui.actions import Action, ActionError, format_action
from envs.gui.chromium.browser import Browser
from envs.gui.chromium.inputs import pointer_after
from envs.gui.chromium.page import Page, Verdict
from envs.gui.chromium.server import FileServer
from envs.gui.chromium.setup import make_setup, plain
from envs.gui.chromium.sites import Evaluate
from envs.gui.episode import pack_actions, unpack_actions
from envs.gui.rows import chosen_rows, empty_infos, row_seeds
from envs.gui.setup import SEED_LIMIT, check_seed
from envs.reasoning.text import pack_strings, unpack_strings
from envs.rng import SeedStream

Infos = dict[str, Any]
Observation = dict[str, Any]

ATTEMPTS = 3  # to begin an episode, each after the first in a new page


class _Row:
    """What one environment knows of its episode; the rest is in its page."""

    def __init__(self, seed: int, instruction: str, corner: tuple[int, int]) -> None:
        self.seed, self.instruction, self.pointer = seed, instruction, corner
        self.actions: list[Action | None] = []
        self.done = False


class ChromiumVectorEnv(VectorEnv[Observation, Any, NDArray[Any]]):
    """N pages with a MiniWoB++ task, or with a page of this host, in the manner of `GuiVectorEnv`.

    Observations, actions, seeds, reset masks and rewards are those of `GuiVectorEnv`; there are no difficulties and no
    oracles. An instance is a function of its seed. The browser starts with the first reset. Where a page or the browser
    dies, or a step takes longer than `timeout`, the episode is truncated with the reason "crash" and the last
    screenshot there was; the next reset opens a new page, in a new browser if need be.

    infos, with Gymnasium's `_name` masks: at reset `seed`, `task`, `pointer`; at a step `success`, `reason` ("success",
    "wrong", "step limit" or "crash" where the episode ended), `malformed`, `action` (as UI-TARS's text), `task`,
    `pointer` (int64 [N, 2]) and `raw_reward`, MiniWoB's own before it is scaled by time, from -1 to 1: success is any
    above 0, which in a few tasks is in part.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"]}

    def __init__(self, task: str, num_envs: int = 1, *, render_mode: str | None = None, **options: Any) -> None:
        """task: of MiniWoB++, or "page". options: see `setup.miniwob_setup` and `setup.page_setup`."""
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be at least 1.")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'render_mode is {render_mode!r}; several screens at once have "rgb_array" only.')
        self.setup = make_setup(task, **options)
        self.render_mode = render_mode
        self.num_envs = num_envs
        self.single_observation_space = self.setup.observation_space
        self.single_action_space = self.setup.adapter.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        origins = np.random.default_rng().integers(SEED_LIMIT, size=num_envs)
        self._streams = [SeedStream(int(origin), *self.setup.seeds) for origin in origins]
        width, height = self.setup.site.size
        self._pixels = np.zeros((num_envs, height, width, 3), np.uint8)
        self._rows: list[_Row | None] = [None] * num_envs
        self._pages: list[Page | None] = [None] * num_envs
        self.browser = Browser(self.setup.executable, self.setup.timeout)
        self._server: FileServer | None = None
        self._end = weakref.finalize(self, self.browser.close)  # also when the interpreter ends

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, Infos]:
        """Start episodes where `options["reset_mask"]` (bool [N]) is true, or everywhere. See the class.

        Raises RuntimeError where the browser does not start or a page does not load, ValueError where the JavaScript of
        a page of one's own fails.
        """
        chosen = chosen_rows((options or {}).get("reset_mask"), self.num_envs)
        seeds = row_seeds(seed, self.num_envs)
        instances = []
        for i in chosen:
            given = seeds[i]
            if given is not None:
                self._streams[i] = SeedStream(check_seed(given), *self.setup.seeds)
            instances.append(self._streams[i].next() if given is None else check_seed(given))
        self._begin(chosen, instances)
        infos = empty_infos(self.num_envs, chosen, seed=np.int64, task=object)
        for i, instance in zip(chosen, instances, strict=True):
            infos["seed"][i], infos["task"][i] = instance, self.setup.site.name
        self._add_pointers(infos, chosen)
        return self.observe(), infos

    def step(self, actions: Sequence[Any]) -> tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], Infos]:
        """Carry out one action in each page, all at the same time. See the class.

        Rewards are float64 [N]: 1.0 for success. Raises ResetNeeded when an environment acts that has ended or not
        begun, ValueError for another number of actions.
        """
        if len(actions) != self.num_envs:
            raise ValueError(f"step() takes {self.num_envs} actions, one for each environment, not {len(actions)}.")
        acting = [i for i, action in enumerate(actions) if action is not None]
        for i in acting:
            row = self._rows[i]
            if row is None or row.done:
                raise ResetNeeded(f"The episode of environment {i} has ended (or not begun): reset it before it acts.")
        strings = dict.fromkeys(("reason", "malformed", "action", "task"), object)
        infos = empty_infos(self.num_envs, acting, success=np.bool_, raw_reward=np.float64, **strings)
        meant: list[Action | None] = []
        for i in acting:
            infos["malformed"][i] = infos["action"][i] = ""
            infos["task"][i] = self.setup.site.name
            action: Action | None = None
            try:
                action = self.setup.adapter.decode(actions[i])
                infos["action"][i] = format_action(action, self.setup.site.size)
            except ActionError as error:
                infos["malformed"][i] = str(error)
            meant.append(action)
        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, dtype=np.bool_)
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        for i, action, verdict in zip(acting, meant, self._act(acting, meant), strict=True):
            row = self._rows[i]
            assert row is not None
            finished = action is not None and action.type == "finished"
            if verdict is not None:
                terminated[i] = verdict.done or finished
                rewards[i] = float(terminated[i] and verdict.success)
                infos["raw_reward"][i] = verdict.raw
            truncated[i] = verdict is None or (not terminated[i] and len(row.actions) >= self.setup.site.max_steps)
            row.done = bool(terminated[i] or truncated[i])
            infos["success"][i] = rewards[i] > 0
            if verdict is None:
                infos["reason"][i] = "crash"
            elif not row.done:
                infos["reason"][i] = ""
            else:
                infos["reason"][i] = "success" if rewards[i] else "step limit" if truncated[i] else "wrong"
        self._add_pointers(infos, acting)
        return self.observe(), rewards, terminated, truncated, infos

    def observe(self) -> Observation:
        """The current observations; black and "" for an environment that was never reset."""
        instructions = tuple(["" if row is None else row.instruction for row in self._rows])
        return {"screenshot": self._pixels.copy(), "instruction": instructions}

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """The screens, uint8 [H, W, 3] each."""
        return tuple(self._pixels.copy())

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the browser."""
        self._end()
        if self._server is not None:
            self._server.close()
            self._server = None

    def get_state(self) -> dict[str, NDArray[Any]]:
        """What decides what comes next, as plain arrays: seed streams, instances, and what was done there."""
        rows = self._rows
        state = {
            "stream_origin": [stream.origin for stream in self._streams],
            "stream_drawn": [stream.drawn for stream in self._streams],
            "seed": [-1 if row is None else row.seed for row in rows],
            "done": [row is not None and row.done for row in rows],
        }
        arrays = {name: np.array(values, dtype=np.int64) for name, values in state.items()}
        done = pack_strings(["[]" if row is None else pack_actions(row.actions) for row in rows])
        return arrays | {f"actions_{name}": array for name, array in done.items()}

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Put back what `get_state` gave, in an environment made with the same options: its actions are repeated.

        Raises ValueError where the number of environments differs.
        """
        named = {name: array.tolist() for name, array in state.items() if not name.startswith("actions_")}
        if len(named["seed"]) != self.num_envs:
            raise ValueError(f"The state is that of {len(named['seed'])} environments; this one has {self.num_envs}.")
        self._streams = [
            SeedStream(origin, *self.setup.seeds, drawn)
            for origin, drawn in zip(named["stream_origin"], named["stream_drawn"], strict=True)
        ]
        self._rows = [None] * self.num_envs
        self._pixels[:] = 0
        begun = [i for i, seed in enumerate(named["seed"]) if seed >= 0]
        self._begin(begun, [named["seed"][i] for i in begun])
        packed = unpack_strings(state["actions_bytes"], state["actions_ends"])
        history = {i: unpack_actions(packed[i]) for i in begun}
        for step in range(max(map(len, history.values()), default=0)):
            acting = [i for i in begun if step < len(history[i])]
            self._act(acting, [history[i][step] for i in acting])
        for i in begun:
            row = self._rows[i]
            assert row is not None
            row.done = bool(named["done"][i])

    def _begin(self, chosen: list[int], seeds: list[int]) -> None:
        """Episodes with these seeds in these environments, all at the same time."""
        directory, page = self.setup.site.directory, self.setup.site.page
        if directory is not None and self._server is None:
            self._server = FileServer(directory)
            weakref.finalize(self, self._server.close)
        url = page if self._server is None else self._server.url + page
        corner = (self.setup.site.size[0] - 1, self.setup.site.size[1] - 1)
        begun = self.browser.run([self._open(i, url, seed) for i, seed in zip(chosen, seeds, strict=True)])
        for i, seed, outcome in zip(chosen, seeds, begun, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            instruction, self._pixels[i] = outcome
            self._rows[i] = _Row(seed, plain(instruction), corner)

    async def _open(self, i: int, url: str, seed: int) -> tuple[str, NDArray[np.uint8]]:
        failure: Exception | None = None
        for _ in range(ATTEMPTS):
            page = self._pages[i]
            if page is not None and (failure is not None or self.setup.site.keeps):
                await page.close()
                page = None
            try:
                if page is None:
                    page = self._pages[i] = await self.browser.open(self.setup.site)
                instruction = await page.load(url, seed, "train" if self.setup.split == "train" else "test")
                return instruction, await page.look()
            except Exception as error:
                if not _died(error):
                    raise
                failure = error
        raise RuntimeError(f"{url} does not open in {self.setup.executable}: {failure or 'no reason given'}")

    def _act(self, acting: list[int], actions: list[Action | None]) -> list[Verdict | None]:
        """Verdicts after actions in some of the pages at the same time; None where the page died."""
        verdicts: list[Verdict | None] = []
        results = self.browser.run([self._move(i, action) for i, action in zip(acting, actions, strict=True)])
        for i, action, result in zip(acting, actions, results, strict=True):
            row, page = self._rows[i], self._pages[i]
            assert row is not None
            row.actions.append(action)
            if action is not None:
                row.pointer = pointer_after(action, self.setup.site.size, row.pointer)
            if isinstance(result, BaseException):
                if not _died(result):
                    raise result
                verdicts.append(None)
                if page is not None:
                    self.browser.run([page.close()])
                    self._pages[i] = None
                continue
            verdict, self._pixels[i] = result
            verdicts.append(self._in_python(page, verdict) if page is not None else None)
        return verdicts

    async def _move(self, i: int, action: Action | None) -> tuple[Verdict, NDArray[np.uint8]]:
        page = self._pages[i]
        if page is None:
            raise TimeoutError("the page has died")
        verdict = await page.act(action)
        return verdict, await page.look()

    def _in_python(self, page: Page, verdict: Verdict) -> Verdict:
        """The verdict, where functions in Python give it."""
        site = self.setup.site

        def evaluate(expression: str) -> Any:
            [value] = self.browser.run([page.evaluate(expression)])
            if isinstance(value, BaseException):
                raise value
            return value

        def judge(predicate: Callable[[Evaluate], bool] | None, otherwise: bool) -> bool:
            return otherwise if predicate is None else bool(predicate(evaluate))

        if site.success is None and site.done is None:
            return verdict
        return Verdict(judge(site.done, verdict.done), judge(site.success, verdict.success), verdict.raw)

    def _add_pointers(self, infos: Infos, present: list[int]) -> None:
        infos["pointer"] = np.zeros((self.num_envs, 2), np.int64)
        infos["_pointer"] = next(mask for name, mask in infos.items() if name.startswith("_")).copy()
        for i in present:
            row = self._rows[i]
            assert row is not None
            infos["pointer"][i] = row.pointer


def _died(error: BaseException) -> bool:
    """Whether a page, its browser or the driver is gone, rather than a mistake of ours or the page's author."""
    from playwright.async_api import Error

    gone = isinstance(error, Error | TimeoutError | OSError | asyncio.CancelledError)
    return gone or "Connection closed" in str(error)
