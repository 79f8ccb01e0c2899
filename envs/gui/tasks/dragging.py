"""What is done on a desktop: drag and drop, icons to open, context menus."""

from __future__ import annotations

from random import Random

from envs.gui.actions import Action
from envs.gui.desktop import Desktop
from envs.gui.drawing import SHAPES
from envs.gui.layout import strew
from envs.gui.movables import PICTURES, Icon, Shape
from envs.gui.oracle import drop, pick_menu, press
from envs.gui.task import Goal, task
from envs.gui.tasks.clicking import COLOURS, goal, jitter
from envs.gui.widgets import Panel
from envs.gui.words import BUTTONS, TITLES


@task("drag-box", max_steps=6)
def drag_box(screen: Desktop, rng: Random, level: int) -> Goal:
    """Drag a box onto a frame; with others, the box of a colour onto the frame of one."""
    names = rng.sample(list(COLOURS), 2 * level)
    ground = Panel(screen.theme, screen.w, screen.h)
    boxes = [
        Shape(screen.theme, "square", rng.randint(14, 22 - 2 * level), jitter(rng, COLOURS[name]), movable=True)
        for name in names[:level]
    ]
    side = 46 - 6 * level
    frames = [
        Panel(screen.theme, side + rng.randint(0, 10), side + rng.randint(0, 10), border=COLOURS[name])
        for name in names[level:]
    ]
    for frame in frames:
        frame.add(Panel(screen.theme, frame.w - 4, frame.h - 4, colour=screen.theme.window, border=frame.border))
        frame.children[0].move(2, 2)
    strew(rng, (4, 4, screen.w - 8, screen.h - 8), [*frames, *boxes])
    ground.add(*frames, *boxes)  # frames first: boxes lie on top
    screen.add(ground)
    box, frame = boxes[0], frames[0]

    def inside(shape: Shape, target: Panel) -> bool:
        return target.holds(shape.x, shape.y) and target.holds(shape.x + shape.w - 1, shape.y + shape.h - 1)

    def dropped(shape: Shape) -> None:
        for target in frames:
            if target.holds(*shape.centre):
                screen.end(shape is box and target is frame and inside(shape, target))

    for shape in boxes:
        shape.dropped = lambda shape=shape: dropped(shape)  # type: ignore[misc]
    if level == 1:
        text = rng.choice(("Drag the box into the frame.", "Drop the small box inside the frame."))
    else:
        text = f"Drag the {names[0]} box into the {names[level]} frame."
    return goal(screen, text, lambda: drop(screen, box, frame.centre))


@task("drag-shape", max_steps=8)
def drag_shape(screen: Desktop, rng: Random, level: int) -> Goal:
    """Drag a shape into a half of the screen."""
    half = screen.h // 2
    sides = ("upper", "lower")
    ground = Panel(screen.theme, screen.w, screen.h)
    line = Panel(screen.theme, screen.w, 2, colour=screen.theme.border)
    line.place(0, half - 1)
    kinds = rng.sample(SHAPES, level)
    colour = rng.choice(list(COLOURS.values()))
    shapes = [Shape(screen.theme, kind, rng.randint(18, 28), jitter(rng, colour), movable=True) for kind in kinds]
    side = rng.randrange(2)
    start_half = (4, 4 + half * (1 - side), screen.w - 8, half - 8)
    strew(rng, start_half, shapes)
    ground.add(line, *shapes)
    screen.add(ground)
    target = shapes[0]
    middle = half // 2 + half * side

    def dropped(shape: Shape) -> None:
        there = shape.centre[1] >= half
        if there is bool(side):
            screen.end(shape is target)

    for shape in shapes:
        shape.dropped = lambda shape=shape: dropped(shape)  # type: ignore[misc]
    return goal(
        screen,
        f"Drag the {kinds[0]} into the {sides[side]} half.",
        lambda: drop(screen, target, (target.centre[0], middle)),
    )


def _icons(screen: Desktop, rng: Random, count: int) -> list[Icon]:
    names = rng.sample(TITLES, count)
    icons = [Icon(screen.theme, rng.choice(PICTURES), name) for name in names]
    strew(rng, (2, 2, screen.w - 4, screen.h - 4), icons)
    for icon in icons:
        icon.siblings = icons
    screen.add(*icons)
    return icons


@task("open-icon", max_steps=5)
def open_icon(screen: Desktop, rng: Random, level: int) -> Goal:
    """Open an icon by a double click."""
    icons = _icons(screen, rng, (2, 4, 8)[level - 1])
    for icon in icons:
        icon.opened = lambda icon=icon: screen.end(icon is icons[0])  # type: ignore[misc]
    return goal(screen, f'Double-click "{icons[0].text}" to open it.', lambda: press(screen, icons[0], "left_double"))


@task("use-menu", max_steps=8)
def use_menu(screen: Desktop, rng: Random, level: int) -> Goal:
    """Choose from the context menu of an icon."""
    icons = _icons(screen, rng, (1, 3, 6)[level - 1])
    words = rng.sample(BUTTONS, (2, 3, 5)[level - 1])
    chosen = rng.choice(words)
    for icon in icons:
        icon.items = [
            (word, lambda icon=icon, word=word: screen.end(icon is icons[0] and word == chosen))  # type: ignore[misc]
            for word in words
        ]

    def step() -> Action:
        if icons[0].selected:
            action = pick_menu(screen, words, words.index(chosen))
            if action is not None:
                return action
        return press(screen, icons[0], "right_single")

    return goal(screen, f'Right-click "{icons[0].text}" and choose "{chosen}".', step)
