"""Stepping screens with random clicks: the embedded screen, MiniWoB++ in Chromium, and MiniWoB++'s own environment.

The two browser sides have the same task and draw clicks from the same generator, with a screenshot at every step and a
reset, on the clock, whenever an episode ends. Ours loads the page anew at every reset and has eight pages in one
browser, each step of which all take together; MiniWoB++'s environment drives one page through Selenium and hands out
the page's elements beside the screenshot. The encoders that look at screens have a benchmark of their own, `encoders`.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import Any

from experiments.benchmarks import Benchmark, Measurement, Options, Ratio, Side

TASK = "click-test-2"
PAGES = 8
SCREENS = 16
WARM_UP = 3  # vector steps


def embedded(steps: int) -> Measurement:
    """`gui/mix-v0` in one thread, by the time of the process: what one core does, whatever else the machine does."""
    return _ours("gui/mix-v0", SCREENS, steps, {"rate is": "by process time, of one core"}, time.process_time)


def chromium(steps: int, pages: int) -> Measurement:
    """`chromium/click-test-2-v0`."""
    return _ours(f"chromium/{TASK}-v0", pages, steps, {"browser": "Chromium through Playwright"}, time.perf_counter)


def peer_miniwob(steps: int) -> Measurement:
    """`miniwob/click-test-2-v1` as it comes."""
    import gymnasium
    import miniwob
    import numpy as np
    from miniwob.action import ActionTypes

    os.environ["MINIWOB_CHROME_BINARY"] = shutil.which("chromium") or ""
    os.environ["MINIWOB_CHROMEDRIVER"] = shutil.which("chromedriver") or ""
    gymnasium.register_envs(miniwob)
    env: Any = gymnasium.make(f"miniwob/{TASK}-v1", disable_env_checker=True)
    rng = np.random.default_rng(0)
    episodes = 0

    def run(count: int) -> None:
        nonlocal episodes
        for _ in range(count):
            x, y = rng.uniform(0, 1, 2) * (160, 210)
            action = env.unwrapped.create_action(ActionTypes.CLICK_COORDS, coords=np.array([x, y], np.float32))
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                episodes += 1
                env.reset()

    try:
        env.reset(seed=0)
        run(WARM_UP)
        episodes = 0
        started = time.perf_counter()
        run(steps)
        rate = steps / (time.perf_counter() - started)
    finally:
        env.close()
    settings = {"env": f"miniwob/{TASK}-v1", "num_envs": 1, "steps": steps, "browser": "Chromium through Selenium"}
    return Measurement(rate, settings, {"episodes ended": episodes})


def _ours(env_id: str, num_envs: int, steps: int, settings: dict[str, Any], clock: Any) -> Measurement:
    import numpy as np

    import envs

    env = envs.make_vec(env_id, num_envs, actions="point")
    rng = np.random.default_rng(0)
    episodes = 0

    def run(count: int) -> None:
        nonlocal episodes
        for _ in range(count):
            _, _, terminated, truncated, _ = env.step(rng.uniform(0, 1, (num_envs, 2)))
            over = terminated | truncated
            if over.any():
                episodes += int(over.sum())
                env.reset(options={"reset_mask": over})

    vector_steps = max(1, steps // num_envs)
    try:
        env.reset(seed=0)
        run(WARM_UP)
        episodes = 0
        started = clock()
        run(vector_steps)
        rate = num_envs * vector_steps / (clock() - started)
    finally:
        env.close()
    settings = {"env": env_id, "num_envs": num_envs, "vector steps": vector_steps, **settings}
    return Measurement(rate, settings, {"episodes ended": episodes})


def benchmark(options: Options) -> Benchmark:
    steps = options.steps or 200
    own, many = "miniwob's own environment", f"ours, Chromium, {PAGES} pages"
    one, desktop = "ours, Chromium, 1 page", f"ours, embedded, {SCREENS} screens"
    threads = options.threads or 1
    return Benchmark(
        title=f"screens of 160x210 under random clicks, a screenshot at every step (MiniWoB++: {TASK})",
        unit="env steps/s",
        sides=[
            Side(many, chromium, {"steps": 2 * steps, "pages": PAGES}, threads),
            Side(own, peer_miniwob, {"steps": steps}, threads),
            Side(one, chromium, {"steps": steps, "pages": 1}, threads),
            Side(desktop, embedded, {"steps": 100 * steps}, threads),
        ],
        # What the browser itself takes is in processes of its own, which no side's peak shows.
        ratios=[
            Ratio(many, own, target=4.0, memory=False),
            Ratio(one, own, memory=False),
            Ratio(desktop, own, memory=False),
        ],
        requires={
            "miniwob": "pip install miniwob selenium, and apt-get install chromium chromium-driver",
            "selenium": "pip install selenium, and apt-get install chromium-driver",
            "playwright": "pip install playwright",
        },
    )
