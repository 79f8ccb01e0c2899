import pytest

from envs.gui.actions import HOTKEYS, TYPEABLE, Action
from envs.gui.chromium.inputs import commands, move, pointer_after

SIZE = (160, 210)


def events(action):
    return [parameters for _, parameters in commands(action, SIZE)]


def test_a_click_moves_presses_and_releases_in_one_place():
    found = events(Action("click", point=(0.5, 0.5)))
    assert [event["type"] for event in found] == ["mouseMoved", "mousePressed", "mouseReleased"]
    assert {(event["x"], event["y"]) for event in found} == {(80, 105)}
    assert {event["button"] for event in found[1:]} == {"left"}


def test_a_double_click_counts_its_clicks():
    counts = [e["clickCount"] for e in events(Action("left_double", point=(0, 0))) if e["type"] == "mousePressed"]
    assert counts == [1, 2]


def test_the_right_button():
    assert {e["button"] for e in events(Action("right_single", point=(0, 0)))[1:]} == {"right"}


def test_dragging_holds_the_button_all_the_way():
    found = events(Action("drag", start=(0, 0), end=(1, 1)))
    assert (found[0]["x"], found[0]["y"]) == (0, 0)
    assert (found[-1]["x"], found[-1]["y"]) == (159, 209)
    way = found[2:-1]
    assert all(e["type"] == "mouseMoved" and e["buttons"] == 1 for e in way)
    assert [e["x"] for e in way] == sorted(e["x"] for e in way)
    assert (way[-1]["x"], way[-1]["y"]) == (159, 209)


@pytest.mark.parametrize(("direction", "x", "y"), [("up", 0, -52), ("down", 0, 52), ("left", -52, 0), ("right", 52, 0)])
def test_scrolling_turns_the_wheel_by_a_quarter_of_the_screen(direction, x, y):
    wheel = events(Action("scroll", point=(0.5, 0.5), direction=direction))[-1]
    assert (wheel["type"], wheel["deltaX"], wheel["deltaY"]) == ("mouseWheel", x, y)


@pytest.mark.parametrize(
    ("character", "code", "modifiers"),
    [("a", 65, 0), ("A", 65, 8), ("7", 55, 0), (".", 190, 0), ("&", 55, 8), ("'", 222, 0), ('"', 222, 8), (" ", 32, 0)],
)
def test_characters_have_the_codes_of_an_american_keyboard(character, code, modifiers):
    down, up = events(Action("type", text=character))
    assert (down["text"], down["key"], down["windowsVirtualKeyCode"], down["modifiers"]) == (
        character,
        character,
        code,
        modifiers,
    )
    assert (down["type"], up["type"]) == ("keyDown", "keyUp")


def test_the_keyboard_has_every_character_and_no_code_twice():
    codes = set()
    for character in TYPEABLE:
        down, _ = events(Action("type", text=character))
        codes.add((down["windowsVirtualKeyCode"], down["modifiers"]))
    assert len(codes) == len(TYPEABLE)


def test_a_newline_is_the_enter_key():
    down, _ = events(Action("type", text="\n"))
    assert (down["key"], down["text"]) == ("Enter", "\r")


@pytest.mark.parametrize("keys", HOTKEYS)
def test_every_key_of_a_hotkey_goes_down_and_up_again(keys):
    found = events(Action("hotkey", keys=keys))
    held = []
    for event in found:
        if event["type"] == "keyUp":
            assert held.pop() == event["key"]
        else:
            held.append(event["key"])
    assert not held
    assert len(found) == 2 * len(keys.split())


@pytest.mark.parametrize("action", [Action("wait"), Action("finished", text=""), Action("call_user")])
def test_nothing_is_touched(action):
    assert commands(action, SIZE) == []


def test_the_pointer_is_where_it_was_last_moved():
    assert pointer_after(Action("wait"), SIZE, (3, 4)) == (3, 4)
    assert pointer_after(Action("click", point=(0.5, 0.5)), SIZE, (3, 4)) == (80, 105)
    assert pointer_after(Action("drag", start=(0, 0), end=(1, 1)), SIZE, (3, 4)) == (159, 209)
    assert move(3, 4)[1]["type"] == "mouseMoved"
