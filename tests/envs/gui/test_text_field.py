"""A text field behaves as a user knows it, by keys and by the pointer."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from envs.gui.text_field import TextField
from tests.envs.gui.hands import THEME, Hands


def typed(text: str, **options) -> tuple[Hands, TextField]:
    field = TextField(THEME, 120, text, **options)
    hands = Hands(field)
    hands.click(field)
    return hands, field


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


def test_what_was_copied_is_marked_until_something_else_is_selected():
    hands, field = typed("copy me")
    hands.keys("ctrl a")
    selected = hands.shot()
    hands.keys("ctrl c")
    assert not np.array_equal(hands.shot(), selected)
    hands.keys("ctrl a")
    np.testing.assert_array_equal(hands.shot(), selected)
    assert not field.copied


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
