"""Lists, tabs, scroll areas, windows and dialogs behave as a user knows them."""

from __future__ import annotations

from envs.gui.containers import ScrollArea, Tabs, Window
from envs.gui.lists import DropDown, ListBox
from envs.gui.widgets import Button, CheckBox
from tests.envs.gui.hands import THEME, Hands


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


def test_reach_finds_what_is_not_covered():
    hands, under, over, _ = two_windows()
    spot = hands.screen.reach(under)
    assert hands.screen.at(*spot) is under
    over.place(under.x, under.y)
    assert hands.screen.reach(under) is None
