"""Widgets behave as a user knows them: buttons, boxes, options, sliders, icons, and the desktop as a whole."""

from __future__ import annotations

import pytest

from envs.gui.movables import Icon, Shape
from envs.gui.text_field import TextField
from envs.gui.widgets import Button, CheckBox, Label, Link, Panel, Radio, Slider
from tests.envs.gui.hands import THEME, Hands


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
