"""Forms to fill in by choosing: boxes, options, lists, sliders; they count when submitted."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from envs.gui.desktop import Desktop
from envs.gui.layout import Row, surface
from envs.gui.lists import DropDown, ListBox
from envs.gui.oracle import Step, choose, first, opt, pick_row, press, slide_to, tick
from envs.gui.task import Goal, task
from envs.gui.tasks.clicking import clutter
from envs.gui.widgets import Button, CheckBox, Label, Radio, Slider
from envs.gui.words import NAMES, NOUNS, TITLES

SUBMITS = ("Submit", "OK", "Done", "Send", "Save")


def form(
    screen: Desktop,
    rng: Random,
    rows: list[Row],
    instruction: str,
    success: Callable[[], bool],
    *steps: Step,
    submit: str | None = None,
) -> Goal:
    """Rows and a submit button below them; pressing it ends the episode and judges.

    `{submit}` in the instruction stands for the button's name.
    """
    name = submit or rng.choice(SUBMITS)
    button = Button(screen.theme, name, lambda: screen.end(success()))
    surface(screen, rng, rng.choice(TITLES), [*rows, [button]])
    text = instruction.replace("{submit}", name)
    return Goal(text, lambda: screen.outcome is True, first(*steps, lambda: press(screen, button)))


def quoted(words: list[str]) -> str:
    """Words in quotes, with commas."""
    return ", ".join(f'"{word}"' for word in words)


@task("check-boxes", max_steps=15)
def check_boxes(screen: Desktop, rng: Random, level: int) -> Goal:
    """Tick the boxes that are named, and no others."""
    names = rng.sample(NOUNS, (3, 4, 6)[level - 1])
    count = rng.randint(*((1, 2), (1, 3), (2, 5))[level - 1])
    wanted = rng.sample(names, count)
    boxes = {name: CheckBox(screen.theme, name, level == 3 and rng.random() < 0.3) for name in names}
    return form(
        screen,
        rng,
        [[box] for box in boxes.values()],
        f'Tick {quoted(wanted)} only and click "{{submit}}".',
        lambda: [name for name, box in boxes.items() if box.checked] == [name for name in names if name in wanted],
        *[lambda name=name: tick(screen, boxes[name], name in wanted) for name in names],  # type: ignore[misc]
    )


@task("choose-option", max_steps=8)
def choose_option(screen: Desktop, rng: Random, level: int) -> Goal:
    """Choose one of several options, or one of each group."""
    groups: list[list[Radio]] = []
    rows: list[Row] = []
    words = rng.sample(NOUNS, 12)
    for _ in range(1 if level < 3 else 2):
        group: list[Radio] = []
        for _ in range((3, 5, 3)[level - 1]):
            rows.append([Radio(screen.theme, words.pop(), group)])
        groups.append(group)
        if level > 1:
            group[rng.randrange(len(group))].chosen = True
    wanted = [rng.choice(group) for group in groups]
    if level == 3:
        rows.insert(3, [Label(screen.theme, "and")])
    return form(
        screen,
        rng,
        rows,
        f'Choose {quoted([radio.text for radio in wanted])} and click "{{submit}}".',
        lambda: all(radio.chosen for radio in wanted),
        *[lambda radio=radio: opt(screen, radio) for radio in wanted],  # type: ignore[misc]
    )


@task("choose-list", max_steps=8)
def choose_list(screen: Desktop, rng: Random, level: int) -> Goal:
    """Choose an item of a drop-down list."""
    items = rng.sample(NAMES, (3, 5, 8)[level - 1])
    box = DropDown(screen.theme, items, rng.randint(60, 120))
    index = rng.randrange(len(items))
    rows: list[Row] = [[widget] for widget in clutter(screen, rng, (0, 1, 2)[level - 1])]
    rows.insert(rng.randint(0, len(rows)), [box])
    return form(
        screen,
        rng,
        rows,
        f'Choose "{items[index]}" from the list and click "{{submit}}".',
        lambda: box.chosen == index,
        lambda: choose(screen, box, index),
    )


@task("choose-item", max_steps=12)
def choose_item(screen: Desktop, rng: Random, level: int) -> Goal:
    """Choose a row of a list box, which may have to be scrolled."""
    items = rng.sample(NAMES, (4, 8, 16)[level - 1])
    row = screen.theme.font.height + 2
    box = ListBox(screen.theme, items, rng.randint(90, 130), row * 4 + rng.randint(4, 20))
    index = rng.randrange(len(items))
    return form(
        screen,
        rng,
        [[box]],
        f'Select "{items[index]}" and click "{{submit}}".',
        lambda: box.chosen == index,
        lambda: pick_row(screen, box, index),
    )


@task("set-slider", max_steps=10)
def set_slider(screen: Desktop, rng: Random, level: int) -> Goal:
    """Set a slider, or several, to a value."""
    sliders, values = [], []
    rows: list[Row] = []
    for label in rng.sample(NOUNS, (1, 1, 2)[level - 1]):
        low = rng.choice((0, 0, 1, -5))
        high = low + (5, 10, 20)[level - 1]
        value, start = rng.sample(range(low, high + 1), 2)
        slider = Slider(screen.theme, low, high, start, rng.randint(110, 140))
        sliders.append((label, slider, value))
        values.append(f"{label} to {value}")
        rows += [[Label(screen.theme, label)], [slider]]
    return form(
        screen,
        rng,
        rows,
        f'Set {" and ".join(values)}, then click "{{submit}}".',
        lambda: all(slider.value == value for _, slider, value in sliders),
        *[lambda slider=slider, value=value: slide_to(screen, slider, value) for _, slider, value in sliders],  # type: ignore[misc]
    )
