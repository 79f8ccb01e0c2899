"""One click or a few: buttons, colours, shapes, dialogs, tabs, things to scroll to."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from envs.gui.actions import Action
from envs.gui.containers import BAR, ScrollArea, Tabs
from envs.gui.desktop import Desktop
from envs.gui.drawing import SHAPES, Colour
from envs.gui.layout import GAP, Row, page, stack, strew, surface, window
from envs.gui.movables import Shape
from envs.gui.oracle import press
from envs.gui.task import Goal, task
from envs.gui.text_field import TextField
from envs.gui.widgets import Button, CheckBox, Label, Link, Panel, Widget
from envs.gui.words import BUTTONS, NAMES, NOUNS, TITLES

COLOURS: dict[str, Colour] = {
    "red": 0xE02020,
    "green": 0x20A030,
    "blue": 0x2040E0,
    "yellow": 0xF0E020,
    "orange": 0xF08010,
    "purple": 0x8020A0,
    "pink": 0xF090B0,
    "cyan": 0x20D0E0,
    "brown": 0x804010,
    "gray": 0x888888,
}


def goal(screen: Desktop, instruction: str, oracle: Callable[[], Action | None]) -> Goal:
    """Of a task that is over with the click that it asks for."""
    return Goal(instruction, lambda: screen.outcome is True, oracle)


def jitter(rng: Random, colour: Colour) -> Colour:
    """A colour that goes by the same name."""
    r, g, b = (min(max(c + rng.randint(-14, 14), 0), 255) for c in (colour >> 16, colour >> 8 & 255, colour & 255))
    return r << 16 | g << 8 | b


def enders(screen: Desktop, names: list[str], target: str) -> list[Button]:
    """Buttons that end the episode: with success where it is the target."""
    return [Button(screen.theme, name, lambda name=name: screen.end(name == target)) for name in names]  # type: ignore[misc]


def clutter(screen: Desktop, rng: Random, count: int) -> list[Widget]:
    """Things that are not asked for."""
    made: list[Widget] = []
    for _ in range(count):
        word = rng.choice(NOUNS)
        kind = rng.randrange(3)
        if kind == 0:
            made.append(Label(screen.theme, word))
        elif kind == 1:
            made.append(CheckBox(screen.theme, word, rng.random() < 0.5))
        else:
            made.append(TextField(screen.theme, rng.randint(40, 90), rng.choice(("", word))))
    return made


def in_rows(rng: Random, widgets: list[Widget], width: int) -> list[Row]:
    """Widgets in rows of one or more, no row wider than `width` pixels."""
    rows: list[list[Widget]] = []
    for widget in widgets:
        if rows and rng.random() < 0.6 and sum([w.w + GAP for w in rows[-1]]) + widget.w <= width:
            rows[-1].append(widget)
        else:
            rows.append([widget])
    return list(rows)


@task("click-button", max_steps=5)
def click_button(screen: Desktop, rng: Random, level: int) -> Goal:
    """Click the button of a name, among others and among other things."""
    names = rng.sample(BUTTONS, rng.randint(*((2, 3), (3, 5), (5, 8))[level - 1]))
    target = rng.choice(names)
    buttons = enders(screen, names, target)
    things = [*buttons, *clutter(screen, rng, (0, 2, 2)[level - 1])]
    rng.shuffle(things)
    surface(screen, rng, rng.choice(TITLES), in_rows(rng, things, screen.w - 20))
    button = buttons[names.index(target)]
    text = rng.choice(('Click on the "{}" button.', 'Click the button "{}".', 'Press "{}".')).format(target)
    return goal(screen, text, lambda: press(screen, button))


@task("click-link", max_steps=5)
def click_link(screen: Desktop, rng: Random, level: int) -> Goal:
    """Click a link between words of text."""
    words = rng.sample(NOUNS, (6, 9, 12)[level - 1])
    targets = words[: (1, 2, 4)[level - 1]]
    things: list[Widget] = [
        Link(screen.theme, word, lambda word=word: screen.end(word == targets[0]))  # type: ignore[misc]
        if word in targets
        else Label(screen.theme, word)
        for word in words
    ]
    link = things[0]
    rng.shuffle(things)
    page(screen, rng, in_rows(rng, things, screen.w - 20), spread=5)
    return goal(screen, f'Click on the link "{targets[0]}".', lambda: press(screen, link))


def _strewn(screen: Desktop, rng: Random, shapes: list[Shape]) -> None:
    ground = Panel(screen.theme, screen.w, screen.h)
    strew(rng, (4, 4, screen.w - 8, screen.h - 8), shapes)
    ground.add(*shapes)
    screen.add(ground)


@task("click-color", max_steps=5)
def click_color(screen: Desktop, rng: Random, level: int) -> Goal:
    """Click the box of a colour."""
    names = rng.sample(list(COLOURS), (3, 5, 8)[level - 1])
    shapes = [
        Shape(
            screen.theme,
            "square",
            rng.randint(*((20, 40), (16, 36), (12, 30))[level - 1]),
            jitter(rng, COLOURS[name]),
            lambda name=name: screen.end(name == names[0]),  # type: ignore[misc]
        )
        for name in names
    ]
    _strewn(screen, rng, shapes)
    return goal(screen, f"Click on the {names[0]} box.", lambda: press(screen, shapes[0]))


@task("click-shape", max_steps=5)
def click_shape(screen: Desktop, rng: Random, level: int) -> Goal:
    """Click the shape of a kind and colour; the others share one of the two with it, or none."""
    kinds = [(shape, name) for shape in SHAPES for name in COLOURS]
    shape, name = rng.choice(kinds)
    others = rng.sample([kind for kind in kinds if kind != (shape, name)], (2, 4, 8)[level - 1])
    others[0] = (rng.choice([kind for kind in SHAPES if kind != shape]), name)
    if level > 1:
        others[1] = (shape, rng.choice([colour for colour in COLOURS if colour != name]))
    wanted = [(shape, name), *others]
    shapes = [
        Shape(
            screen.theme,
            kind,
            rng.randint(*((22, 36), (18, 30), (14, 26))[level - 1]),
            jitter(rng, COLOURS[colour]),
            lambda right=(kind, colour) == wanted[0]: screen.end(right),  # type: ignore[misc]
        )
        for kind, colour in wanted
    ]
    _strewn(screen, rng, shapes)
    return goal(screen, f"Click on the {name} {shape}.", lambda: press(screen, shapes[0]))


@task("click-dialog", max_steps=5)
def click_dialog(screen: Desktop, rng: Random, level: int) -> Goal:
    """Answer a dialog by one of its buttons, or by closing it, whatever else is on the screen."""
    if level > 1:
        page(screen, rng, in_rows(rng, clutter(screen, rng, 5), screen.w - 20))
    names = rng.sample(BUTTONS[:16], level)
    target = rng.choice([*names, "x"])
    message = "\n".join(" ".join(rng.sample(NOUNS, 2)) for _ in range(rng.randint(1, 2)))
    buttons = enders(screen, names, target)
    rows: list[Row] = [[Label(screen.theme, message)], *in_rows(rng, list(buttons), screen.w - 30)]
    title = rng.choice(("Warning", "Message", "Info"))
    dialog = window(screen, rng, title, rows, closed=lambda: screen.end(target == "x"), modal=True)
    if target != "x":
        return goal(screen, f'Answer the dialog with "{target}".', lambda: press(screen, buttons[names.index(target)]))

    def close() -> Action:
        x, y, side = dialog.close_button
        return Action("click", point=((x + side / 2) / screen.w, (y + side / 2) / screen.h))

    return goal(screen, "Close the dialog by its x in the corner.", close)


@task("click-sequence", max_steps=10)
def click_sequence(screen: Desktop, rng: Random, level: int) -> Goal:
    """Click several buttons in order."""
    names = rng.sample(BUTTONS, (2, 4, 6)[level - 1])
    wanted = names[: (2, 2, 3)[level - 1]]
    clicked: list[str] = []

    def pressed(name: str) -> None:
        clicked.append(name)
        if clicked != wanted[: len(clicked)]:
            screen.end(False)
        elif clicked == wanted:
            screen.end(True)

    buttons = {name: Button(screen.theme, name, lambda name=name: pressed(name)) for name in names}  # type: ignore[misc]
    things: list[Widget] = list(buttons.values())
    rng.shuffle(things)
    surface(screen, rng, rng.choice(TITLES), in_rows(rng, things, screen.w - 20))
    text = ", then ".join(f'"{name}"' for name in wanted)
    return goal(screen, f"Click {text}.", lambda: press(screen, buttons[wanted[len(clicked)]]))


@task("scroll-click", max_steps=10)
def scroll_click(screen: Desktop, rng: Random, level: int) -> Goal:
    """Scroll to a button that is out of sight, and click it."""
    names = rng.sample(BUTTONS, (6, 8, 12)[level - 1])
    target = names[rng.randrange(len(names) // 2, len(names))]
    buttons = enders(screen, names, target)
    width = max(button.w for button in buttons) + 30
    area = ScrollArea(screen.theme, rng.randint(width, screen.w - 14), rng.randint(50, 90))
    rows: list[Row] = [[button] for button in buttons]
    surface(screen, rng, rng.choice(TITLES), [[area]])
    height = sum(button.h + GAP for button in buttons) + 8 * len(buttons)
    area.hold(height)
    stack(rng, area, (area.x, area.y, area.w - BAR, height), rows)
    button = buttons[names.index(target)]
    return goal(screen, f'Scroll to the "{target}" button and click it.', lambda: press(screen, button))


@task("switch-tab", max_steps=8)
def switch_tab(screen: Desktop, rng: Random, level: int) -> Goal:
    """Go to a tab and click the button there."""
    count = (2, 3, 3)[level - 1]
    titles = [str(i + 1) if rng.random() < 0.3 else title for i, title in enumerate(rng.sample(TITLES, count))]
    font = screen.theme.font
    titles = [title if font.width(title) <= 34 else title[:4] for title in titles]
    if len(set(titles)) < count:
        titles = [str(i + 1) for i in range(count)]
    tabs = Tabs(screen.theme, titles, screen.w - 16, rng.randint(90, 130))
    goal_tab = rng.randrange(1, count) if level < 3 else rng.randrange(count)
    names = rng.sample(BUTTONS, count * level)
    chosen: Button | None = None
    for i, panel in enumerate(tabs.panels):
        own = names[i * level : (i + 1) * level]
        target = own[0] if i == goal_tab else ""
        buttons = enders(screen, own, target)
        chosen = buttons[0] if target else chosen
        mixed = list(buttons)
        rng.shuffle(mixed)
        stack(rng, panel, (panel.x, panel.y, panel.w, panel.h), in_rows(rng, list(mixed), panel.w - 14))
    surface(screen, rng, rng.choice(TITLES), [[tabs]])
    assert chosen is not None
    button = chosen
    return goal(
        screen,
        f'Switch to the tab "{titles[goal_tab]}" and click the "{button.text}" button.',
        lambda: press(screen, button),
    )


@task("close-window", max_steps=8)
def close_window(screen: Desktop, rng: Random, level: int) -> Goal:
    """Close the window of a title; windows may lie over one another."""
    titles = rng.sample(NAMES, level + 1)
    windows = []
    for title in titles:
        rows: list[Row] = [[Label(screen.theme, rng.choice(NOUNS))]]
        made = window(screen, rng, title, rows, closed=lambda title=title: screen.end(title == titles[0]))  # type: ignore[misc]
        windows.append(made)
    # The lower lie on top, so that every title can be read.
    step = (screen.h - max(made.h for made in windows)) // level
    rng.shuffle(screen.layers)
    for i, layer in enumerate(screen.layers):
        layer.place(layer.x, i * step + (rng.randint(0, 5) if i < level else 0))

    def close() -> Action:
        x, y, side = windows[0].close_button
        spot = (x + side // 2, y + side // 2)
        if screen.at(*spot) is windows[0] and screen.popup is None:
            return Action("click", point=((spot[0] + 0.5) / screen.w, (spot[1] + 0.5) / screen.h))
        return press(screen, windows[0])

    return goal(screen, f'Close the window "{titles[0]}".', close)
