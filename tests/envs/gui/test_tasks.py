"""Tasks: the oracle solves them all, instances are what their seed says, and no action upsets a screen."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from envs.gui.actions import MOBILE, Action, action_space, from_space, parse
from envs.gui.adapters import make_adapter
from envs.gui.containers import ScrollArea
from envs.gui.desktop import Desktop
from envs.gui.episode import FINISHED, Episode, pick_difficulty
from envs.gui.setup import TASKS
from envs.gui.widgets import Widget

SIZE = (160, 210)
ALL = [(name, level) for name in TASKS for level in (1, 2, 3)]


def episode(name: str, seed: int, level: int, size: tuple[int, int] = SIZE, **options) -> Episode:
    return Episode([TASKS[name]], seed, level, np.zeros((size[1], size[0], 3), np.uint8), **options)


def everything(screen: Desktop) -> list[Widget]:
    found, rest = [], list(screen.layers)
    while rest:
        widget = rest.pop()
        found.append(widget)
        if not isinstance(widget, ScrollArea):  # whose contents may be out of sight
            rest += widget.children
    return found


def test_there_are_enough():
    assert len(TASKS) >= 16


@pytest.mark.parametrize(("name", "level"), ALL)
def test_the_oracle_succeeds_in_every_form_of_action(name, level):
    for seed in range(20):
        size = (160, 210) if seed % 4 else (320, 240)
        played = episode(name, seed, level, size)
        adapter = make_adapter(
            "text" if seed % 2 else "typed", size, MOBILE, coordinates=("relative", "absolute")[seed // 2 % 2]
        )
        while not played.done:
            step = played.step(adapter.decode(adapter.encode(played.demonstrate())))
        assert (step.reward, step.reason) == (1.0, "success"), (seed, played.actions)


@pytest.mark.parametrize(("name", "level"), ALL)
def test_instances(name, level):
    shots = set()
    for seed in range(20):
        one, two = episode(name, seed, level), episode(name, seed, level)
        assert (one.screen.canvas.pixels == two.screen.canvas.pixels).all()
        assert one.goal.instruction == two.goal.instruction
        assert 0 < len(one.goal.instruction) <= 512
        assert one.goal.instruction.isascii()
        shots.add(one.screen.canvas.pixels.tobytes())
        one.screen.damage(0, 0, *SIZE)
        one.screen.draw()
        assert (one.screen.canvas.pixels == two.screen.canvas.pixels).all()
        for widget in everything(one.screen):
            assert widget.x >= 0, (seed, widget)
            assert widget.y >= 0, (seed, widget)
            assert widget.x + widget.w <= SIZE[0], (seed, widget)
            assert widget.y + widget.h <= SIZE[1], (seed, widget)
    assert len(shots) == 20


@pytest.mark.parametrize("name", TASKS)
def test_saying_finished_is_judged(name):
    early = episode(name, 3, 1)
    step = early.step(FINISHED)
    assert (step.reward, step.terminated, step.reason) == (0.0, True, "wrong")


@pytest.mark.parametrize("name", TASKS)
def test_doing_nothing_is_truncated(name):
    idle = episode(name, 3, 2)
    before = idle.screen.canvas.pixels.copy()
    steps = [idle.step(Action("wait") if i % 2 else None) for i in range(TASKS[name].max_steps)]
    assert [step.truncated for step in steps] == [False] * (len(steps) - 1) + [True]
    assert (steps[-1].reward, steps[-1].terminated, steps[-1].reason) == (0.0, False, "step limit")
    assert (idle.screen.canvas.pixels == before).all()


@pytest.mark.parametrize("name", TASKS)
def test_random_actions(name):
    """No crash; what is drawn bit by bit is what is drawn at once; replaying gives the same pixels."""
    space = action_space(MOBILE)
    space.seed(0)
    rng = Random(0)
    played: Episode | None = None
    for k in range(250):
        if played is None or played.done:
            played = episode(name, k, 1 + k % 3, max_steps=25)
        kind = rng.random()
        if kind < 0.2:
            action = played.demonstrate()
        elif kind < 0.5:
            action = Action("click", point=(rng.random(), rng.random()))
        else:
            action = from_space(space.sample(), MOBILE)
        played.step(None if action.type == "finished" else action)
        screen = played.screen
        drawn = screen.canvas.pixels.copy()
        screen.damage(0, 0, screen.w, screen.h)
        screen.draw()
        assert (screen.canvas.pixels == drawn).all(), action
        if played.done:
            again = episode(name, played.seed, played.difficulty, max_steps=25)
            again.replay(played.pack())
            assert again.actions == played.actions
            assert (again.screen.canvas.pixels == drawn).all()


@pytest.mark.parametrize("name", TASKS)
def test_the_oracle_goes_on_from_wherever_it_is(name):
    space = action_space()
    space.seed(1)
    tried = 0
    for seed in range(12):
        lost = episode(name, seed, 1 + seed % 3, max_steps=80)
        for _ in range(6):
            action = from_space(space.sample())
            if action.type != "finished" and not lost.done:
                lost.step(action)
        if lost.done:
            continue
        tried += 1
        while not lost.done:
            step = lost.step(lost.demonstrate())
        assert step.reward == 1.0, (seed, lost.actions)
    assert tried >= 3


def test_a_wrong_button_ends_a_click_task():
    for seed in range(10):
        wrong = episode("click-button", seed, 1)
        right = wrong.demonstrate()
        buttons = [widget for widget in everything(wrong.screen) if type(widget).__name__ == "Button"]
        other = next(b for b in buttons if b.text not in wrong.goal.instruction)
        step = wrong.step(Action("click", point=(other.centre[0] / 160, other.centre[1] / 210)))
        assert (step.reward, step.terminated, step.reason) == (0.0, True, "wrong")
        assert right.type == "click"


def test_a_form_counts_when_submitted():
    form = episode("check-boxes", 1, 1)
    actions = []
    while not form.done:
        actions.append(form.demonstrate())
        form.step(actions[-1])
    early = episode("check-boxes", 1, 1)
    assert early.step(actions[-1]).reason == "wrong"
    twice = episode("check-boxes", 1, 1)
    for action in (actions[0], actions[0], *actions[:-1]):
        assert not twice.step(action).terminated
    assert twice.step(actions[-1]).reward == 1.0


def test_a_mixture_is_drawn_evenly():
    tasks = list(TASKS.values())
    pixels = np.zeros((210, 160, 3), np.uint8)
    names = [Episode(tasks, seed, 1, pixels).task.name for seed in range(30 * len(tasks))]
    counts = [names.count(name) for name in TASKS]
    assert min(counts) > 10
    assert max(counts) < 60
    assert [pick_difficulty(seed, 2, 2) for seed in range(5)] == [2] * 5
    assert {pick_difficulty(seed, 1, 3) for seed in range(50)} == {1, 2, 3}


def test_text_of_a_model_clicks():
    played = episode("click-button", 0, 1)
    x, y = played.demonstrate().point
    text = f"Thought: There it is.\nAction: click(start_box='<|box_start|>({x * 1000:.0f},{y * 1000:.0f})<|box_end|>')"
    assert played.step(parse(text, SIZE)).reward == 1.0
