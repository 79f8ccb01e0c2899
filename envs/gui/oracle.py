"""The next action of somebody who knows where everything is: what the demonstrations of the tasks are made of.

Each function looks at the screen as it is and gives the next action towards something, or None where that is done; a
task's oracle is the `first` of several. So an oracle goes on from wherever a policy has left the screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from envs.gui.actions import Action, Point
from envs.gui.containers import ScrollArea, Tabs, Window
from envs.gui.desktop import Desktop
from envs.gui.lists import DropDown, ListBox
from envs.gui.text_field import TextField
from envs.gui.widgets import CheckBox, Radio, Slider, Widget

ESCAPE = Action("hotkey", keys="esc")
Step = Callable[[], Action | None]


def first(*steps: Step) -> Step:
    """The first of several that still has something to do."""

    def next_action() -> Action | None:
        return next((action for step in steps if (action := step()) is not None), None)

    return next_action


def at(screen: Desktop, spot: tuple[int, int]) -> Point:
    """The middle of a pixel as a point."""
    return (spot[0] + 0.5) / screen.w, (spot[1] + 0.5) / screen.h


def press(screen: Desktop, widget: Widget, kind: str = "click") -> Action:
    """Towards a click on a widget: it is brought into sight first."""
    spot = screen.reach(widget)
    if screen.popup is None and spot is not None:
        return Action(kind, point=at(screen, spot))
    return _uncover(screen, widget)


def _uncover(screen: Desktop, widget: Widget) -> Action:
    if screen.popup is not None:
        return ESCAPE
    chain = list(_ancestors(widget))
    for ancestor in reversed(chain):  # from the outside in
        if isinstance(ancestor, Tabs):
            index = next((i for i, panel in enumerate(ancestor.panels) if panel in chain), ancestor.chosen)
            if index != ancestor.chosen:
                return Action("click", point=at(screen, ancestor.tab(index)))
    for ancestor in chain:
        if isinstance(ancestor, ScrollArea):
            action = _scroll(screen, ancestor, widget.y, widget.y + widget.h)
            if action is not None:
                return action
    outermost = chain[-1] if chain else widget
    if isinstance(outermost, Window) and screen.layers[-1] is not outermost:
        spots = [
            (x, y) for y in range(outermost.y, outermost.y + outermost.h, 3) for x in range(outermost.x, screen.w, 3)
        ]
        bare = next((spot for spot in spots if screen.at(*spot) is outermost), None)
        if bare is not None:
            return Action("click", point=at(screen, bare))
    # It is under something else: that is moved away by its title.
    above = screen.at(*widget.centre)
    while above is not None and above.parent is not None:
        above = above.parent
    if isinstance(above, Window) and above is not outermost:
        grip = (above.x + 3, above.y + 3)
        goal = (4 if above.x + above.w // 2 > screen.w // 2 else screen.w - 4, grip[1])
        return Action("drag", start=at(screen, grip), end=at(screen, goal))
    return ESCAPE


def _scroll(screen: Desktop, area: ScrollArea, top: int, bottom: int) -> Action | None:
    # Towards rows top to bottom of the screen being inside the area.
    middle = (top + bottom) // 2
    if area.y < middle < area.y + area.h - 1:
        return None
    spots = [(x, y) for y in range(area.y + 2, area.y + area.h, 5) for x in range(area.x + 2, area.x + area.w, 9)]
    spot = next((spot for spot in spots if area in _ancestors(screen.at(*spot), own=True)), spots[0])
    return Action("scroll", point=at(screen, spot), direction="up" if middle <= area.y else "down")


def _ancestors(widget: Widget | None, own: bool = False) -> Iterator[Widget]:
    if widget is not None and own:
        yield widget
    while widget is not None and widget.parent is not None:
        widget = widget.parent
        yield widget


def focus(screen: Desktop, widget: Widget) -> Action | None:
    """Until a widget has the keyboard."""
    return None if screen.focus is widget and screen.popup is None else press(screen, widget)


def fill(screen: Desktop, field: TextField, text: str) -> Action | None:
    """Until a field holds a text."""
    if field.text == text:
        return None
    if not field.focused or screen.popup is not None:
        return press(screen, field)
    if field.text and field.selection != (0, len(field.text)):
        return Action("hotkey", keys="ctrl a")
    if not text:
        return Action("hotkey", keys="delete")
    return Action("type", text=text)


def tick(screen: Desktop, box: CheckBox, wanted: bool) -> Action | None:
    """Until a box is ticked, or not."""
    return None if box.checked is wanted else press(screen, box)


def opt(screen: Desktop, radio: Radio) -> Action | None:
    """Until an option is chosen."""
    return None if radio.chosen else press(screen, radio)


def pick_row(screen: Desktop, box: ListBox, index: int) -> Action | None:
    """Until a row of a list is chosen."""
    if box.chosen == index:
        return None
    top = box.row_at(index)
    if screen.popup is not None or not box.y <= top + box.row // 2 < box.y + box.h - 1:
        scroll = None if screen.popup is not None else _scroll(screen, box, top, top + box.row)
        return scroll or _uncover(screen, box)
    spot = box.x + (box.w - 8) // 2, top + box.row // 2
    return Action("click", point=at(screen, spot)) if screen.at(*spot) is box else _uncover(screen, box)


def pick_menu(screen: Desktop, items: list[str], index: int) -> Action | None:
    """Clicks a row of the open menu if it is the one with these items; None if it is not open."""
    popup = screen.popup
    if popup is None or popup.items != items:
        return None
    return Action("click", point=at(screen, popup.row_at(index)))


def choose(screen: Desktop, box: DropDown, index: int) -> Action | None:
    """Until an item of a drop-down is chosen."""
    if box.chosen == index:
        return None
    return pick_menu(screen, box.items, index) or press(screen, box)


def slide_to(screen: Desktop, slider: Slider, value: int) -> Action | None:
    """Until a slider has a value; where its pixels are too coarse, by the arrow keys."""
    if slider.value == value:
        return None
    middle = slider.y + slider.h // 2
    if slider.thumb(value) == slider.thumb(slider.value) or (slider.focused and abs(value - slider.value) < 3):
        if not slider.focused:
            return press(screen, slider)
        return Action("hotkey", keys="right" if value > slider.value else "left")
    start, end = (slider.thumb(slider.value), middle), (slider.thumb(value), middle)
    if screen.popup is not None or screen.at(*start) is not slider:
        return _uncover(screen, slider)
    return Action("drag", start=at(screen, start), end=at(screen, end))


def drop(screen: Desktop, widget: Widget, spot: tuple[int, int]) -> Action:
    """Drags the middle of a widget to a pixel."""
    start = screen.reach(widget)
    if screen.popup is not None or start is None:
        return _uncover(screen, widget)
    centre = widget.centre
    end = spot[0] + start[0] - centre[0], spot[1] + start[1] - centre[1]
    end = min(max(end[0], 0), screen.w - 1), min(max(end[1], 0), screen.h - 1)
    return Action("drag", start=at(screen, start), end=at(screen, end))
