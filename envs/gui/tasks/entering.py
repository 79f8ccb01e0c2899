"""Text fields: focus, type, copy and paste, log in, whole forms."""

from __future__ import annotations

from random import Random

from envs.gui.actions import Action
from envs.gui.desktop import Desktop
from envs.gui.layout import Row, surface
from envs.gui.lists import DropDown
from envs.gui.oracle import Step, choose, fill, focus, opt, press, tick
from envs.gui.task import Goal, task
from envs.gui.tasks.choosing import form
from envs.gui.tasks.clicking import goal, in_rows
from envs.gui.text_field import TextField
from envs.gui.widgets import Button, CheckBox, Label, Radio, Widget
from envs.gui.words import BUTTONS, NAMES, NOUNS, TITLES, invented, secret


class _Watched(TextField):
    """Ends the episode when it is given the keyboard."""

    right = False

    def click(self, x: int, y: int) -> None:
        super().click(x, y)
        if self.screen is not None:
            self.screen.end(self.right)


@task("focus-text", max_steps=5)
def focus_text(screen: Desktop, rng: Random, level: int) -> Goal:
    """Click into a text field; where there are several, the one of a label."""
    labels = rng.sample(NOUNS, (1, 2, 4)[level - 1])
    rows: list[Row] = []
    fields = []
    for label in labels:
        field = _Watched(screen.theme, rng.randint(60, 130), rng.choice(("", label if level > 1 else "")))
        fields.append(field)
        rows += [[Label(screen.theme, label)], [field]] if level > 1 else [[field]]
    index = rng.randrange(len(fields))
    fields[index].right = True
    if level == 1:
        others: list[Widget] = [Button(screen.theme, name) for name in rng.sample(BUTTONS, 2)]
        rows[rng.randint(0, 1) :] = [*rows[len(rows) :], *rows, *in_rows(rng, others, screen.w - 20)]
    surface(screen, rng, rng.choice(TITLES), rows)
    text = "Click into the text field." if level == 1 else f'Click into the text field "{labels[index]}".'
    return goal(screen, text, lambda: press(screen, fields[index]))


@task("enter-text", max_steps=10)
def enter_text(screen: Desktop, rng: Random, level: int) -> Goal:
    """Type a text into a field and submit it."""
    text = " ".join([invented(rng, 2) if rng.random() < 0.5 else rng.choice(NOUNS) for _ in range(level)])
    width = rng.randint(90, 140)
    names = rng.sample(NAMES, (1, 2, 2)[level - 1])
    fields = [TextField(screen.theme, width, rng.choice(NOUNS) if level == 3 else "") for _ in names]
    chosen = rng.randrange(len(fields))
    wanted = [text if i == chosen else field.text for i, field in enumerate(fields)]
    rows: list[Row] = []
    for name, field in zip(names, fields, strict=True):
        rows += [[field]] if level == 1 else [[Label(screen.theme, name)], [field]]
    where = f' into "{names[chosen]}"' if level > 1 else ""
    return form(
        screen,
        rng,
        rows,
        f'Type "{text}"{where} and click "{{submit}}".',
        lambda: [field.text for field in fields] == wanted,
        *[lambda field=field, text=text: fill(screen, field, text) for field, text in zip(fields, wanted, strict=True)],  # type: ignore[misc]
    )


@task("clear-text", max_steps=10)
def clear_text(screen: Desktop, rng: Random, level: int) -> Goal:
    """Delete what is in a field; with others, only there."""
    labels = rng.sample(NAMES, level)
    fields = [TextField(screen.theme, rng.randint(80, 140), rng.choice(NOUNS)) for _ in labels]
    texts = [field.text for field in fields]
    index = rng.randrange(level)
    rows: list[Row] = []
    for label, field in zip(labels, fields, strict=True):
        rows += [[Label(screen.theme, label)], [field]]
    wanted = ["" if i == index else text for i, text in enumerate(texts)]
    return form(
        screen,
        rng,
        rows,
        f'Empty the field "{labels[index]}" and click "{{submit}}".',
        lambda: [field.text for field in fields] == wanted,
        *[lambda field=field, text=text: fill(screen, field, text) for field, text in zip(fields, wanted, strict=True)],  # type: ignore[misc]
    )


@task("login", max_steps=12)
def login(screen: Desktop, rng: Random, level: int) -> Goal:
    """Enter user name and password, and log in."""
    name = rng.choice(NAMES).lower() + (str(rng.randint(1, 99)) if level > 1 else "")
    word = secret(rng, (3, 5, 8)[level - 1])
    user = TextField(screen.theme, rng.randint(80, 130))
    password = TextField(screen.theme, user.w, secret=True)
    rows: list[Row] = [
        [Label(screen.theme, rng.choice(("Username", "User", "Name")))],
        [user],
        [Label(screen.theme, rng.choice(("Password", "Secret")))],
        [password],
    ]
    steps: list[Step] = [lambda: fill(screen, user, name), lambda: fill(screen, password, word)]
    if level == 3:
        keep, wanted = CheckBox(screen.theme, "Remember me"), rng.random() < 0.5
        rows.append([keep])
        steps.append(lambda: tick(screen, keep, wanted))
        extra = ', tick "Remember me"' if wanted else ""
    else:
        keep, wanted, extra = CheckBox(screen.theme, ""), False, ""
    return form(
        screen,
        rng,
        rows,
        f'Enter the user "{name}" and the password "{word}"{extra} and click "{{submit}}".',
        lambda: (user.text, password.text, keep.checked) == (name, word, wanted),
        *steps,
        submit=rng.choice(("Login", "Sign in", "Enter")),
    )


@task("copy-paste", max_steps=14)
def copy_paste(screen: Desktop, rng: Random, level: int) -> Goal:
    """Copy the text of a field, which the instruction does not tell, into another."""
    count = (1, 1, 2)[level - 1]
    width = rng.randint(90, 140)
    # At the lowest level the text can be read off the screen as well.
    texts = [" ".join(invented(rng, 2) for _ in range((1, 3, 3)[level - 1])) for _ in range(count)]
    sources = [TextField(screen.theme, width, text, readonly=rng.random() < 0.5) for text in texts]
    for field in sources:
        field.caret = field.anchor = 0
    goal_field = TextField(screen.theme, rng.randint(90, 140))
    labels = rng.sample(NAMES, count)
    chosen = rng.randrange(count)
    text, source = texts[chosen], sources[chosen]
    rows: list[Row] = []
    for label, field in zip(labels, sources, strict=True):
        rows += [[Label(screen.theme, label)], [field]]
    rows += [[Label(screen.theme, "Copy")], [goal_field]]

    def step() -> Action | None:
        if goal_field.text == text:
            return None
        if screen.clipboard == text:
            if not goal_field.focused or screen.popup is not None:
                return press(screen, goal_field)
            if goal_field.text and goal_field.selection != (0, len(goal_field.text)):
                return Action("hotkey", keys="ctrl a")
            return Action("hotkey", keys="ctrl v")
        if source.text != text:  # something was typed into it
            return focus(screen, source) or Action("hotkey", keys="ctrl z")
        if not source.focused or screen.popup is not None:
            return press(screen, source)
        whole = source.selection == (0, len(text))
        return Action("hotkey", keys="ctrl c" if whole else "ctrl a")

    return form(
        screen,
        rng,
        rows,
        f'Copy the text of "{labels[chosen]}" into "Copy" and click "{{submit}}".',
        lambda: goal_field.text == text,
        step,
    )


@task("fill-form", max_steps=20)
def fill_form(screen: Desktop, rng: Random, level: int) -> Goal:
    """Several kinds of fields at once."""
    name = rng.choice(NAMES)
    field = TextField(screen.theme, rng.randint(90, 130))
    rows: list[Row] = [[Label(screen.theme, "Name")], [field]]
    steps: list[Step] = [lambda: fill(screen, field, name)]
    asked = [f'the name "{name}"']
    group: list[Radio] = []
    for word in rng.sample(NOUNS, 2):
        rows.append([Radio(screen.theme, word, group)])
    radio = rng.choice(group)
    steps.append(lambda: opt(screen, radio))
    asked.append(f'the option "{radio.text}"')
    box, ticked = CheckBox(screen.theme, rng.choice(NOUNS)), rng.random() < 0.5
    items = DropDown(screen.theme, rng.sample(NAMES, 4), rng.randint(70, 110))
    index = rng.randrange(4) if level > 2 else -1
    if level > 1:
        rows.append([box])
        steps.append(lambda: tick(screen, box, ticked))
        asked.append(f'"{box.text}" {"ticked" if ticked else "not ticked"}')
    if level > 2:
        rows.append([items])
        steps.append(lambda: choose(screen, items, index))
        asked.append(f'"{items.items[index]}" from the list')
    return form(
        screen,
        rng,
        rows,
        f'Fill in {", ".join(asked)}, then click "{{submit}}".',
        lambda: (
            field.text == name
            and radio.chosen
            and (level < 2 or box.checked is ticked)
            and (level < 3 or items.chosen == index)
        ),
        *steps,
    )
