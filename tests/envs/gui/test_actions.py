"""Actions: the space, and UI-TARS's text in all its notations, there and back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import ui_tars.action_parser as ui_tars
from hypothesis import given
from hypothesis import strategies as st

from envs.gui.actions import (
    ARGUMENTS,
    DESKTOP,
    DIRECTIONS,
    HOTKEYS,
    MAX_TEXT,
    MOBILE,
    TYPEABLE,
    Action,
    ActionError,
    action_space,
    format_action,
    from_space,
    parse,
    pixel,
    smart_resize,
    to_space,
)
from envs.gui.adapters import make_adapter

SIZE = (160, 210)
SIZES = [SIZE, (84, 84), (640, 480), (1920, 1080)]

fractions = st.floats(0, 1, width=32)
values = {
    "point": st.tuples(fractions, fractions),
    "start": st.tuples(fractions, fractions),
    "end": st.tuples(fractions, fractions),
    "direction": st.sampled_from(DIRECTIONS),
    "keys": st.sampled_from(HOTKEYS),
    "text": st.text(st.sampled_from(sorted(TYPEABLE)), max_size=MAX_TEXT),
}
actions = st.sampled_from(MOBILE).flatmap(
    lambda kind: st.builds(Action, st.just(kind), **{name: values[name] for name in ARGUMENTS[kind]})
)


@given(actions)
def test_the_space_and_back(action):
    value = to_space(action, MOBILE)
    assert action_space(MOBILE).contains(value)
    assert from_space(value, MOBILE) == action


@pytest.mark.parametrize("types", [DESKTOP, MOBILE])
def test_samples_of_the_space_are_actions(types):
    space = action_space(types)
    space.seed(0)
    kinds = set()
    for _ in range(300):
        sample = space.sample()
        action = from_space(sample, types)
        kinds.add(action.type)
        index, arguments = to_space(action, types)
        assert index == sample[0]
        assert {name: np.asarray(value).tolist() for name, value in arguments.items()} == {
            name: np.asarray(value).tolist() for name, value in sample[1].items()
        }
    assert kinds == set(types)


@given(
    actions,
    st.sampled_from(SIZES),
    st.sampled_from(["relative", "absolute"]),
    st.sampled_from(["point", "box", "box_tokens"]),
    st.sampled_from([None, "Press it.", "It's Action: click() that\nI want"]),
)
def test_text_and_back(action, size, coordinates, notation, thought):
    if thought is not None and "Action:" in thought:
        thought = thought.replace("Action:", "the action")
    text = format_action(action, size, coordinates, notation, thought)
    again = parse(text, size, coordinates, MOBILE)
    extent = (1000, 1000) if coordinates == "relative" else smart_resize(size)
    for name in ("type", "direction", "keys", "text"):
        assert getattr(again, name) == getattr(action, name)
    for name in ("point", "start", "end"):
        for before, after, side in zip(getattr(action, name) or (), getattr(again, name) or (), extent, strict=False):
            assert abs(before - after) * side <= 0.5 + 1e-9
    # Whole coordinates are their own text.
    assert format_action(again, size, coordinates, notation, thought) == text


@pytest.mark.parametrize(
    ("size", "coordinates"),
    # Where whole coordinates are at least as fine as pixels.
    [(SIZE, "relative"), (SIZE, "absolute"), ((84, 84), "absolute"), ((640, 480), "relative")],
)
def test_the_middle_of_a_pixel_survives_text(size, coordinates):
    for x in range(0, size[0], 3):
        for y in range(0, size[1], 7):
            action = Action("click", point=((x + 0.5) / size[0], (y + 0.5) / size[1]))
            again = parse(format_action(action, size, coordinates), size, coordinates)
            assert pixel(again.point, size) == (x, y)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("click(point='<point>500 250</point>')", Action("click", point=(0.5, 0.25))),
        ("Action: click(start_box='<|box_start|>(500,250)<|box_end|>')", Action("click", point=(0.5, 0.25))),
        ("Thought: so\nAction: click(start_box='(500,250)')", Action("click", point=(0.5, 0.25))),
        ('Action: click(start_box="[400, 200, 600, 300]")', Action("click", point=(0.5, 0.25))),
        ("Action: click(start_box='[500, 250]')", Action("click", point=(0.5, 0.25))),
        ("Action: click(start_box='<bbox>400 200 600 300</bbox>')", Action("click", point=(0.5, 0.25))),
        ("Action: left_single(start_box='(500.0, 250)')", Action("click", point=(0.5, 0.25))),
        ("Action: left_double(point='<point>0 1000</point>')", Action("left_double", point=(0, 1))),
        ("Action:right_single( point = '<point>1 2</point>' )  ", Action("right_single", point=(0.001, 0.002))),
        (
            "Action: drag(start_point='<point>100 200</point>', end_point='<point>300 400</point>')",
            Action("drag", start=(0.1, 0.2), end=(0.3, 0.4)),
        ),
        (
            "Action: drag(start_box='<|box_start|>(100,200)<|box_end|>', end_box='<|box_start|>(300,400)<|box_end|>')",
            Action("drag", start=(0.1, 0.2), end=(0.3, 0.4)),
        ),
        ("Action: hotkey(key='ctrl c')", Action("hotkey", keys="ctrl c")),
        ("Action: hotkey(key='c ctrl')", Action("hotkey", keys="ctrl c")),
        ("Action: hotkey(hotkey='Ctrl+V')", Action("hotkey", keys="ctrl v")),
        ("Action: hotkey(key='arrowleft')", Action("hotkey", keys="left")),
        ("Action: hotkey(key='Return')", Action("hotkey", keys="enter")),
        (r"Action: type(content='It\'s 5\" \\ 2\n')", Action("type", text="It's 5\" \\ 2\n")),
        ("Action: type(content='it's (so), it's')", Action("type", text="it's (so), it's")),
        ('Action: type(content="it\'s")', Action("type", text="it's")),
        ("Action: type(content='a\nb')", Action("type", text="a\nb")),
        ("Action: type(content='')", Action("type", text="")),
        ("Action: type(content='Action: click()')", Action("type", text="Action: click()")),
        (
            "Action: scroll(direction='down', point='<point>5 5</point>')",
            Action("scroll", point=(0.005, 0.005), direction="down"),
        ),
        ("Action: wait()", Action("wait")),
        ("Action: finished()", Action("finished", text="")),
        ("Action: finished(content='42')", Action("finished", text="42")),
        ("Action: call_user()", Action("call_user")),
        ("Action: long_press(start_box='(500,500)', time='')", Action("long_press", point=(0.5, 0.5))),
        ("Action: open_app(app_name='Mail')", Action("open_app", text="Mail")),
        ("Action: press_home()", Action("press_home")),
        ("Action: press_back( )", Action("press_back")),
    ],
)
def test_the_forms_of_ui_tars(text, expected):
    assert parse(text, SIZE, types=MOBILE) == expected


@given(
    actions, st.sampled_from(SIZES), st.sampled_from(["relative", "absolute"]), st.sampled_from(["point", "box_tokens"])
)
def test_ui_tars_own_parser_reads_the_same(action, size, coordinates, notation):
    if action.type in ("type", "finished", "open_app"):
        return  # its parser loses backslashes, quotes and parentheses of texts
    text = format_action(action, size, coordinates, notation, thought="x")
    if notation == "box_tokens":  # which its parser wants taken off first
        text = text.replace("<|box_start|>", "").replace("<|box_end|>", "")
    model = "qwen25vl" if coordinates == "absolute" else "doubao"
    (theirs,) = ui_tars.parse_action_to_structure_output(text, 1000, size[1], size[0], model_type=model)
    ours = parse(text, size, coordinates, MOBILE)
    assert theirs["action_type"] == ours.type
    found = theirs["action_inputs"]
    for names, point in ((("start_box",), ours.point or ours.start), (("end_box",), ours.end)):
        boxes = [json.loads(found[name]) for name in names if name in found]
        assert boxes == ([] if point is None else [pytest.approx([*point, *point])])
    assert found.get("key") == ours.keys
    assert found.get("direction") == ours.direction


def test_absolute_coordinates_count_in_the_resized_screen():
    assert smart_resize((160, 210)) == (252, 336)
    assert parse("click(start_box='(126,84)')", SIZE, "absolute") == Action("click", point=(0.5, 0.25))


@pytest.mark.parametrize(
    ("size", "expected"),
    # Values of qwen_vl_utils.smart_resize with UI-TARS's bounds.
    [((1920, 1080), (1932, 1092)), ((28, 28), (280, 280)), ((8000, 6000), (4116, 3080)), ((640, 480), (644, 476))],
)
def test_smart_resize(size, expected):
    assert smart_resize(size) == expected
    assert 100 * 28**2 <= expected[0] * expected[1] <= 16384 * 28**2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there is no call"),
        ("I would click the button.", "there is no call"),
        ("Thought: hm\nAction:", "there is no call"),
        ("Action: press(key='a')", "there is no action 'press'"),
        ("Action: open_app(app_name='x')", "there is no action 'open_app'"),
        ("Action: __import__('os').system('rm')", "there is no action '__import__'"),
        ("Action: click()", "click needs point"),
        ("Action: click", "there is no call"),
        ("Action: click(", "must go on"),
        ("Action: click(500, 250)", "must go on"),
        ("Action: click(point='<point>5 5</point>'", "does not end"),
        ("Action: click(point='<point>5 5</point>') and then wait()", "something follows"),
        ("Action: wait()\n\nclick(point='<point>5 5</point>')", "nothing may follow"),
        ("Action: click(point='<point>5</point>')", "is no point"),
        ("Action: click(point='five five')", "is no point"),
        ("Action: click(point='<point>nan inf</point>')", "is no point"),
        ("Action: click(point='<point>1001 5</point>')", "outside 0 to 1000"),
        ("Action: click(point='<point>-1 5</point>')", "outside 0 to 1000"),
        (f"Action: click(point='<point>{'9' * 400} 5</point>')", "outside 0 to 1000"),
        ("Action: click(point='<point>1 1</point>', start_box='(1,1)')", "more than once"),
        ("Action: click(point='<point>1 1</point>', point='<point>1 1</point>')", "more than once"),
        ("Action: click(point='<point>1 1</point>', button='left')", "takes no button"),
        ("Action: drag(start_point='<point>1 1</point>')", "drag needs end_point"),
        ("Action: hotkey(key='ctrl q')", "there is no hotkey 'ctrl q'"),
        ("Action: hotkey(key='')", "there is no hotkey"),
        ("Action: scroll(point='<point>1 1</point>', direction='in')", "direction is 'in'"),
        ("Action: scroll(direction='up')", "scroll needs point"),
        ("Action: type(content='caf\u00e9')", "the keyboard has no '\u00e9'"),
        (f"Action: type(content='{'x' * 65}')", "65 characters"),
    ],
)
def test_malformed_text_is_refused_with_its_reason(text, reason):
    with pytest.raises(ActionError, match=reason.replace("(", r"\(")):
        parse(text, SIZE)


fragments = st.sampled_from(
    [
        *("Action: ", "Thought: ", "click", "type", "drag", "(", ")", "point=", "content=", "start_box='", "'", '"'),
        *("\\", "<point>", "</point>", "<|box_start|>", "[", "]", "1", " ", "500", ",", "\n", "nan", "key='ctrl a'"),
    ]
)


@given(st.one_of(st.text(max_size=200), st.lists(fragments, max_size=20).map("".join)))
def test_any_text_is_an_action_or_a_reason(text):
    try:
        action = parse(text, SIZE, types=MOBILE)
    except ActionError:
        return
    assert action_space(MOBILE).contains(to_space(action, MOBILE))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: Action("press"), "there is no action 'press'"),
        (lambda: Action("click"), "click needs point"),
        (lambda: Action("wait", text="x"), "wait takes no text"),
        (lambda: Action("click", point=(0.5, 1.5)), "not on the screen"),
        (lambda: Action("click", point=(float("nan"), 0.5)), "not on the screen"),
        (lambda: Action("scroll", point=(0, 0), direction="in"), "direction is 'in'"),
        (lambda: Action("hotkey", keys="ctrl q"), "no hotkey 'ctrl q'"),
        (lambda: Action("type", text="\t"), "the keyboard has no"),
    ],
)
def test_actions_that_cannot_be(build, reason):
    with pytest.raises(ActionError, match=reason):
        build()


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        "click",
        (0,),
        (0, {}),
        (0, {"point": [0.5]}),
        (0, {"point": [0.5, "x"]}),
        (99, {}),
        (-1, {}),
        (0, {"point": [0.5, 2.0]}),
        (4, {"keys": 99}),
        (4, {"keys": None}),
        (5, {"text": 7}),
        (0.5, {}),
    ],
)
def test_what_is_not_in_the_space_is_refused(value):
    with pytest.raises(ActionError):
        from_space(value)


def test_grid_cells_are_clicked_in_their_middle():
    adapter = make_adapter("grid", SIZE, DESKTOP)
    assert adapter.space.n == 16 * 21
    assert pixel(adapter.decode(np.int64(0)).point, SIZE) == (5, 5)
    assert pixel(adapter.decode(16 * 21 - 1).point, SIZE) == (155, 205)
    for cell in range(adapter.space.n):
        assert adapter.encode(adapter.decode(cell)) == cell
    with pytest.raises(ActionError, match="no cell 336"):
        adapter.decode(336)
    with pytest.raises(ActionError, match="more than a click"):
        adapter.encode(Action("wait"))
    assert make_adapter("grid", SIZE, DESKTOP, grid=(4, 5)).space.n == 20


def test_points_are_clicked():
    adapter = make_adapter("point", SIZE, DESKTOP)
    assert adapter.decode(np.array([0.25, 0.5], np.float32)) == Action("click", point=(0.25, 0.5))
    assert adapter.encode(Action("click", point=(0.25, 0.5))).tolist() == [0.25, 0.5]
    for value in ([np.nan, 0.5], [2, 0], None, [1], "ab"):
        with pytest.raises(ActionError):
            adapter.decode(value)


def test_the_text_adapter_reads_what_it_writes():
    for coordinates in ("relative", "absolute"):
        adapter = make_adapter("text", SIZE, MOBILE, coordinates=coordinates)
        action = Action("type", text="it's\n")
        assert adapter.space.contains(adapter.encode(action))
        assert adapter.decode(adapter.encode(action)) == action
    with pytest.raises(ActionError, match="is a str, not int"):
        adapter.decode(5)


@pytest.mark.parametrize("options", [{"actions": "mouse"}, {"actions": "grid", "grid": (0, 3)}])
def test_adapters_that_do_not_exist(options):
    with pytest.raises(ValueError, match=r"must be|takes"):
        make_adapter(**options, size=SIZE, types=DESKTOP)
