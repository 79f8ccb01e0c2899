"""Widgets behave as a user knows them: one by one, by what is clicked, typed and dragged."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.gui.actions import Action
from envs.gui.containers import ScrollArea, Tabs, Window
from envs.gui.desktop import Desktop
from envs.gui.lists import DropDown, ListBox
from envs.gui.movables import Icon, Shape
from envs.gui.text_field import TextField
from envs.gui.theme import random_theme
from envs.gui.widgets import Button, CheckBox, Label, Link, Panel, Radio, Slider, Widget

THEME = random_theme(Random(5))


class Hands:
    """A screen with widgets below one another, and a user in front of it."""

    def __init__(self, *widgets: Widget) -> None:
        self.pixels = np.zeros((210, 160, 3), np.uint8)
        self.screen = Desktop(self.pixels, THEME)
        y = 10
        for widget in widgets:
            widget.place(10, y)
            y += widget.h + 10
        self.screen.add(*widgets)

    def do(self, kind: str, **arguments) -> None:
        self.screen.do(Action(kind, **arguments))

    def point(self, x: int, y: int) -> tuple[float, float]:
        return (x + 0.5) / 160, (y + 0.5) / 210

    def click(self, where: Widget | tuple[int, int], kind: str = "click") -> None:
        spot = where.centre if isinstance(where, Widget) else where
        self.do(kind, point=self.point(*spot))

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        self.do("drag", start=self.point(*start), end=self.point(*end))

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.do("hotkey", keys=key)

    def type(self, text: str) -> None:
        self.do("type", text=text)

    def scroll(self, where: Widget, direction: str) -> None:
        self.do("scroll", point=self.point(*where.centre), direction=direction)

    def shot(self) -> np.ndarray:
        self.screen.draw()
        return self.pixels.copy()


def typed(text: str, **options) -> tuple[Hands, TextField]:
    field = TextField(THEME, 120, text, **options)
    hands = Hands(field)
    hands.click(field)
    return hands, field


# Buttons and what is ticked


@pytest.mark.parametrize("kind", [Button, Link])
def test_a_button_is_pressed_by_click_space_and_enter(kind):
    pressed = []
    button = kind(THEME, "OK", lambda: pressed.append(1))
    hands = Hands(button)
    hands.click(button)
    hands.keys("space", "enter")
    hands.type(" ")
    assert len(pressed) == 4
    hands.type("x")
    hands.click((150, 200))
    hands.keys("enter")
    assert len(pressed) == 4


def test_a_disabled_button_is_dead():
    pressed = []
    button = Button(THEME, "OK", lambda: pressed.append(1))
    button.enabled = False
    hands = Hands(button)
    hands.click(button)
    hands.keys("tab", "enter")
    assert not pressed
    assert hands.screen.focus is None


def test_the_pointer_lights_a_button_up_and_leaves_it_again():
    button = Button(THEME, "OK")
    hands = Hands(button, Label(THEME, "text"))
    before = hands.shot()
    hands.scroll(button, "down")  # which moves the pointer there
    lit = hands.shot()
    assert (lit != before).any()
    hands.do("scroll", point=(0.9, 0.9), direction="down")
    assert (hands.shot() == before).all()


def test_a_press_that_is_let_go_elsewhere_is_none():
    pressed = []
    button = Button(THEME, "OK", lambda: pressed.append(1))
    hands = Hands(button)
    hands.drag(button.centre, (150, 200))
    assert not pressed
    hands.drag(button.centre, (button.x + 1, button.y + 1))
    assert pressed


def test_a_check_box_is_ticked_by_box_text_and_space():
    box = CheckBox(THEME, "apple")
    hands = Hands(box)
    hands.click((box.x + 2, box.y + 5))
    assert box.checked
    hands.click((box.x + box.w - 2, box.y + 5))
    assert not box.checked
    hands.keys("space")
    assert box.checked
    hands.click(box, "left_double")
    assert box.checked


def test_one_option_of_a_group_is_chosen():
    group: list[Radio] = []
    radios = [Radio(THEME, word, group) for word in ("one", "two", "three")]
    hands = Hands(*radios)
    assert not any(radio.chosen for radio in radios)
    hands.click(radios[0])
    hands.click(radios[2])
    assert [radio.chosen for radio in radios] == [False, False, True]
    hands.click(radios[2])
    assert radios[2].chosen
    hands.keys("down")
    assert [radio.chosen for radio in radios] == [True, False, False]
    assert radios[0].focused


# Text


def test_typing_goes_to_the_field_with_the_focus():
    first, second = TextField(THEME, 100), TextField(THEME, 100)
    hands = Hands(first, second)
    hands.type("lost")
    hands.click(second)
    hands.type("abc")
    assert (first.text, second.text) == ("", "abc")


def test_typing_replaces_the_selection():
    hands, field = typed("hello")
    hands.keys("ctrl a")
    hands.type("x")
    assert (field.text, field.caret, field.selection) == ("x", 1, (1, 1))


def test_the_caret_goes_where_the_click_is():
    hands, field = typed("abcdef")
    hands.click((field.x + 3 + THEME.font.width("abc"), field.centre[1]))
    hands.type("X")
    assert field.text == "abcXdef"


def test_dragging_and_double_clicks_select():
    hands, field = typed("one two three")
    left, y = field.x + 3, field.centre[1]
    hands.drag((left + THEME.font.width("one "), y), (left + THEME.font.width("one two"), y))
    assert field.text[slice(*field.selection)] == "two"
    hands.click((left + THEME.font.width("one two th"), y), "left_double")
    assert field.text[slice(*field.selection)] == "three"


def test_keys_that_move_and_delete():
    hands, field = typed("abcd")
    hands.keys("home", "right", "delete", "end", "backspace")
    assert field.text == "ac"
    hands.keys("home", "backspace", "end", "delete")
    assert field.text == "ac"
    hands.keys("shift left", "shift left")
    assert field.selection == (0, 2)
    hands.keys("left")
    assert field.selection == (0, 0)
    hands.keys("shift end", "delete")
    assert field.text == ""
    hands.type("xyz")
    hands.keys("home", "shift right", "right")
    assert field.caret == 1
    hands.keys("space")
    assert field.text == "x yz"


def test_clipboard_between_fields():
    first, second = TextField(THEME, 100, "copy me"), TextField(THEME, 100, "old")
    hands = Hands(first, second)
    hands.click(first)
    hands.keys("ctrl a", "ctrl c")
    hands.click(second)
    hands.keys("ctrl a", "ctrl v", "ctrl v")
    assert (first.text, second.text) == ("copy me", "copy mecopy me")
    hands.keys("ctrl a", "ctrl x")
    assert (second.text, hands.screen.clipboard) == ("", "copy mecopy me")
    hands.keys("ctrl c")
    assert hands.screen.clipboard == "copy mecopy me"


def test_undo():
    hands, field = typed("a")
    hands.type("b")
    hands.type("c")
    hands.keys("ctrl a", "delete", "ctrl z")
    assert field.text == "abc"
    hands.keys("ctrl z", "ctrl z", "ctrl z", "ctrl z")
    assert field.text == "a"


def test_enter_and_a_trailing_newline_submit():
    sent = []
    field = TextField(THEME, 100, submitted=lambda: sent.append(field.text))
    hands = Hands(field)
    hands.click(field)
    hands.type("abc\n")
    hands.keys("enter")
    assert sent == ["abc", "abc"]
    assert field.text == "abc"


def test_readonly_secret_and_full_fields():
    hands, field = typed("fixed", readonly=True)
    hands.type("x")
    hands.keys("ctrl a", "backspace", "ctrl x")
    assert (field.text, hands.screen.clipboard) == ("fixed", "fixed")
    hands, field = typed("word", secret=True)
    hands.keys("ctrl a", "ctrl c")
    assert (field.shown, hands.screen.clipboard) == ("****", "")
    hands, field = typed("", limit=5)
    hands.type("123")
    hands.type("456")
    assert field.text == "12345"


@given(
    st.lists(
        st.one_of(
            st.text("ab c", min_size=1, max_size=5).map(lambda text: ("type", text)),
            st.sampled_from(
                [
                    *("left", "right", "home", "end", "backspace", "delete", "shift left", "shift right"),
                    *("shift home", "shift end", "ctrl a"),
                ]
            ).map(lambda key: ("key", key)),
        ),
        max_size=25,
    )
)
def test_editing_follows_a_model(steps):
    # The model: a list of characters with two positions.
    hands, field = typed("start")
    text, caret, anchor = list("start"), field.caret, field.anchor
    for kind, value in steps:
        low, high = min(caret, anchor), max(caret, anchor)
        if kind == "type":
            hands.type(value)
            text[low:high] = list(value)
            caret = anchor = low + len(value)
        else:
            hands.keys(value)
            key = value.removeprefix("shift ")
            if key in ("backspace", "delete"):
                if low == high:
                    low, high = (max(low - 1, 0), high) if key == "backspace" else (low, min(high + 1, len(text)))
                del text[low:high]
                caret = anchor = low
            elif key == "ctrl a":
                anchor, caret = 0, len(text)
            else:
                goal = {"home": 0, "end": len(text), "left": max(caret - 1, 0), "right": min(caret + 1, len(text))}[key]
                if value == key:
                    if low < high and key in ("left", "right"):
                        goal = low if key == "left" else high
                    anchor = goal
                caret = goal
    assert (field.text, field.caret, field.anchor) == ("".join(text)[:64], caret, anchor)


def test_the_caret_of_a_long_text_stays_in_sight():
    hands, field = typed("")
    for _ in range(5):
        hands.type("wide words ")
        at = field.x + 3 - field.offset + THEME.font.width(field.text[: field.caret])
        assert field.x < at < field.x + field.w
    hands.keys("home")
    assert field.offset == 0


# Sliders, lists, tabs


def test_a_slider_is_dragged_clicked_and_keyed():
    slider = Slider(THEME, 0, 10, 5, 120)
    hands = Hands(slider)
    y = slider.centre[1]
    hands.drag((slider.thumb(5), y), (slider.thumb(8), y))
    assert slider.value == 8
    hands.click((slider.thumb(2), y))
    assert slider.value == 2
    hands.keys("right", "up", "left")
    assert slider.value == 3
    hands.keys("home", "left")
    assert slider.value == 0
    hands.keys("end", "pagedown")
    assert slider.value == 8
    hands.drag((slider.thumb(8), y), (159, 209))
    assert slider.value == 10


def test_a_drop_down_is_chosen_from_by_pointer_and_keys():
    box = DropDown(THEME, ["one", "two", "three"])
    hands = Hands(box)
    hands.click(box)
    popup = hands.screen.popup
    assert popup.y == box.y + box.h
    hands.click(popup.row_at(1))
    assert (box.chosen, hands.screen.popup) == (1, None)
    hands.keys("down", "down", "down")
    assert box.chosen == 2
    hands.keys("enter", "up", "up", "enter")
    assert box.chosen == 0
    hands.keys("space", "down", "esc")
    assert (box.chosen, hands.screen.popup) == (0, None)


def test_a_click_elsewhere_closes_a_list_and_does_nothing_else():
    box, ticked = DropDown(THEME, ["one", "two"]), CheckBox(THEME, "apple")
    hands = Hands(box, ticked)
    ticked.place(10, 120)
    hands.click(box)
    hands.click(ticked)
    assert (hands.screen.popup, ticked.checked, box.chosen) == (None, False, -1)
    hands.click(ticked)
    assert ticked.checked


def test_a_list_at_the_bottom_opens_upwards():
    box = DropDown(THEME, ["one", "two", "three"])
    hands = Hands(box)
    box.place(10, 190)
    hands.click(box)
    assert hands.screen.popup.y + hands.screen.popup.h == 190


def test_a_list_box_scrolls_and_is_chosen_from():
    box = ListBox(THEME, [str(i) for i in range(12)], 100, 60)
    hands = Hands(box)
    hands.click((box.x + 20, box.y + 3 + box.row))
    assert box.chosen == 1
    hands.scroll(box, "down")
    assert box.offset > 0
    hands.click((box.x + 20, box.y + 3))
    assert box.chosen == (2 + box.offset) // box.row
    hands.keys("end")
    assert box.chosen == 11
    assert box.y <= box.row_at(11) <= box.y + box.h - box.row
    hands.keys("home", "down")
    assert (box.chosen, box.offset) == (1, 0)


def test_tabs_show_one_panel():
    tabs = Tabs(THEME, ["A", "B", "C"], 140, 80)
    pressed = []
    for name, panel in zip("ABC", tabs.panels, strict=True):
        button = Button(THEME, name, lambda name=name: pressed.append(name))
        button.place(panel.x + 10, panel.y + 10)
        panel.add(button)
    hands = Hands(tabs)
    spot = tabs.panels[0].children[0].centre
    for index in (1, 2, 0):
        hands.click(tabs.tab(index))
        hands.click(spot)
    assert pressed == ["B", "C", "A"]
    hands.click(tabs.tab(0))
    hands.keys("left")
    assert tabs.chosen == 2


def area_of_buttons(count: int = 8) -> tuple[Hands, ScrollArea, list[Button], list[str]]:
    pressed: list[str] = []
    area = ScrollArea(THEME, 100, 60)
    buttons = [Button(THEME, str(i), lambda i=i: pressed.append(str(i))) for i in range(count)]
    for i, button in enumerate(buttons):
        button.place(5, 5 + 22 * i)
    area.add(*buttons)
    area.hold(22 * count + 10)
    return Hands(area), area, buttons, pressed


def test_a_scroll_area_moves_its_contents():
    hands, area, buttons, pressed = area_of_buttons()
    top = buttons[0].y
    hands.scroll(area, "up")
    assert area.offset == 0
    hands.scroll(area, "down")
    assert buttons[0].y == top - area.offset < top
    for _ in range(9):
        hands.scroll(buttons[3], "down") if area.holds(*buttons[3].centre) else hands.scroll(area, "down")
    assert area.offset == area.content - area.h
    hands.click(buttons[7])
    assert pressed == ["7"]
    hidden = buttons[0]
    assert hands.screen.reach(hidden) is None


def test_the_scroll_bar():
    hands, area, _, _ = area_of_buttons()
    bar = area.x + area.w - 3
    top, height = area.thumb
    hands.click((bar, top + height + 5))
    assert area.offset == area.h - 8
    hands.drag((bar, area.thumb[0] + 2), (bar, 209))
    assert area.offset == area.content - area.h
    hands.click((bar, area.y + 2))
    assert area.offset == area.content - area.h - (area.h - 8)


def test_tabbing_brings_into_sight():
    hands, area, buttons, pressed = area_of_buttons()
    hands.keys(*["tab"] * 6, "enter")
    assert pressed == ["5"]
    assert area.y <= buttons[5].y <= area.y + area.h - buttons[5].h
    hands.keys("shift tab", "enter")
    assert pressed == ["5", "4"]


# Windows, icons, things to drag


def two_windows() -> tuple[Hands, Window, Window, list[str]]:
    closed: list[str] = []
    windows = [Window(THEME, name, 80, 60, closed=lambda name=name: closed.append(name)) for name in "AB"]
    hands = Hands(*windows)
    windows[0].place(10, 10)
    windows[1].place(40, 30)
    return hands, *windows, closed


def test_a_click_raises_a_window():
    hands, under, over, _ = two_windows()
    assert hands.screen.at(60, 50) is over
    hands.click((15, 50))
    assert hands.screen.at(60, 50) is under


def test_a_window_is_moved_by_its_title_within_the_screen():
    hands, window, _, _ = two_windows()
    button = Button(THEME, "OK")
    button.place(20, 40)
    window.add(button)
    hands.drag((15, 12), (25, 32))
    assert (window.x, window.y, button.x, button.y) == (20, 30, 30, 60)
    hands.drag((25, 32), (0, 0))
    hands.drag((2, 2), (159, 209))
    assert (window.x + window.w, window.y + window.h) == (160, 210)
    before = window.x, window.y
    hands.drag((window.x + 5, window.y + window.h - 5), (10, 10))  # not by its ground
    assert (window.x, window.y) == before


def test_a_window_is_closed_by_its_button():
    hands, _, over, closed = two_windows()
    x, y, side = over.close_button
    hands.click((x + side // 2, y + side // 2))
    assert closed == ["B"]
    assert over not in hands.screen.layers


def test_a_dialog_lets_nothing_else_be_used():
    box = CheckBox(THEME, "apple")
    hands = Hands(box)
    closed = []
    dialog = Window(THEME, "Hm", 80, 60, closed=lambda: closed.append(1), modal=True)
    inside = CheckBox(THEME, "yes")
    inside.place(10, 30)
    dialog.add(inside)
    dialog.place(40, 100)
    hands.screen.add(dialog)
    hands.click(box)
    hands.keys("tab")
    assert not box.checked
    assert inside.focused
    hands.click(inside)
    assert inside.checked
    hands.keys("esc")
    assert closed == [1]
    hands.click(box)
    assert box.checked


def test_icons_are_selected_opened_moved_and_have_a_menu():
    opened, picked = [], []
    icons = [Icon(THEME, "folder", name, lambda name=name: opened.append(name)) for name in ("Mail", "News")]
    for icon in icons:
        icon.siblings = icons
        icon.items = [("Open", nothing_much), ("Delete", lambda icon=icon: picked.append(icon.text))]
    hands = Hands(*icons)
    hands.click(icons[0])
    hands.click(icons[1])
    assert [icon.selected for icon in icons] == [False, True]
    assert not opened
    hands.click(icons[0], "left_double")
    assert opened == ["Mail"]
    hands.click(icons[1], "right_single")
    hands.click(hands.screen.popup.row_at(1))
    assert picked == ["News"]
    x, y = icons[0].x, icons[0].y
    hands.drag(icons[0].centre, (icons[0].centre[0] + 30, icons[0].centre[1] + 20))
    assert (icons[0].x, icons[0].y) == (x + 30, y + 20)


def nothing_much() -> None:
    pass


def test_shapes_are_dragged_if_they_may():
    dropped = []
    movable, fixed = Shape(THEME, "circle", 20, 0xFF0000, movable=True), Shape(THEME, "star", 20, 0x00FF00)
    movable.dropped = lambda: dropped.append(movable.centre)
    hands = Hands(movable, fixed)
    hands.drag(movable.centre, (100, 100))
    assert dropped == [(100, 100)]
    hands.drag(movable.centre, (159, 209))
    assert (movable.x + movable.w, movable.y + movable.h) == (160, 210)
    place = fixed.x, fixed.y
    hands.drag(fixed.centre, (100, 100))
    assert (fixed.x, fixed.y) == place


# The desktop


def test_tab_goes_round():
    widgets = [Button(THEME, "A"), Label(THEME, "text"), TextField(THEME, 60, "word"), CheckBox(THEME, "B")]
    hands = Hands(*widgets)
    seen = []
    for _ in range(4):
        hands.keys("tab")
        seen.append(hands.screen.focus)
    assert seen == [widgets[0], widgets[2], widgets[3], widgets[0]]
    hands.keys("shift tab", "shift tab")
    assert hands.screen.focus is widgets[2]
    hands.type("new")  # tabbing in has selected all
    assert widgets[2].text == "new"


def test_a_click_on_nothing_takes_the_focus_away():
    field = TextField(THEME, 60)
    hands = Hands(field)
    hands.click(field)
    hands.click((150, 200))
    hands.type("x")
    assert field.text == ""


def test_mobile_actions():
    opened, menus = [], []
    icon = Icon(THEME, "mail", "Mail", lambda: opened.append(1))
    icon.items = [("Open", lambda: menus.append(1))]
    field = TextField(THEME, 60)
    hands = Hands(icon, field)
    hands.do("open_app", text="Mail")
    hands.do("open_app", text="Nothing")
    assert opened == [1]
    hands.click(icon, "long_press")
    assert hands.screen.popup is not None
    hands.do("press_back")
    assert hands.screen.popup is None
    hands.click(field)
    hands.do("press_home")
    assert hands.screen.focus is None


def test_what_does_nothing_changes_nothing():
    hands = Hands(Button(THEME, "OK"), Panel(THEME, 40, 40))
    before = hands.shot()
    for kind in ("wait", "call_user"):
        hands.do(kind)
    hands.type("text")
    hands.keys("ctrl v", "esc", "up")
    assert (hands.shot() == before).all()


def test_reach_finds_what_is_not_covered():
    hands, under, over, _ = two_windows()
    spot = hands.screen.reach(under)
    assert hands.screen.at(*spot) is under
    over.place(under.x, under.y)
    assert hands.screen.reach(under) is None
