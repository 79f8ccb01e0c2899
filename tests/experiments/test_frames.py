"""Pictures of what was done on a screen, held against where it was done."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from envs.gui.actions import Action, format_action
from experiments.frames import LAST_SECONDS, LEAST_WIDTH, SECONDS, Moment, draw, film, gif, heated, sheet

SIZE = (160, 210)
BLUE = np.full((210, 160, 3), (40, 90, 160), np.uint8)


def moment(action: str = "", **more: object) -> Moment:
    return Moment(BLUE, "Click it.", action, "", **more)  # type: ignore[arg-type]


def changed(action: Action) -> tuple[float, float, float, float]:
    """Left, top, right and bottom, as fractions of the screen, of what drawing an action changes there."""
    scale = LEAST_WIDTH // SIZE[0]
    text = format_action(action, SIZE)
    pictures = [draw(moment(one), heat=False).astype(int) for one in ("", text)]
    above = int(np.flatnonzero((pictures[0] == BLUE[0, 0]).all(-1).any(1))[0])
    without, with_mark = (picture[above : above + scale * SIZE[1], : scale * SIZE[0]] for picture in pictures)
    rows, columns = np.nonzero((with_mark != without).any(-1))
    if not len(rows):
        return (-1, -1, -1, -1)
    width, height = scale * SIZE[0], scale * SIZE[1]
    return columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height


@pytest.mark.parametrize("kind", ["click", "left_double", "right_single", "long_press"])
def test_a_click_is_marked_all_around_its_point(kind: str) -> None:
    left, top, right, bottom = changed(Action(kind, point=(0.25, 0.6)))
    assert (left + right) / 2 == pytest.approx(0.25, abs=0.01)
    assert (top + bottom) / 2 == pytest.approx(0.6, abs=0.01)
    assert 0.03 < right - left < 0.15


def test_kinds_of_clicks_look_different() -> None:
    kinds = ("click", "left_double", "right_single")
    assert len({changed(Action(kind, point=(0.25, 0.6))) for kind in kinds}) == 3


def test_a_drag_goes_from_its_start_to_its_end() -> None:
    left, top, right, bottom = changed(Action("drag", start=(0.8, 0.2), end=(0.3, 0.7)))
    assert (left, bottom) == pytest.approx((0.3, 0.7), abs=0.03)
    assert (right, top) == pytest.approx((0.8, 0.2), abs=0.03)


def test_a_scroll_points_to_where_more_is_shown() -> None:
    _, up, _, at = changed(Action("scroll", point=(0.5, 0.5), direction="up"))
    _, too, _, down = changed(Action("scroll", point=(0.5, 0.5), direction="down"))
    assert (at, too) == pytest.approx((0.5, 0.5), abs=0.02)
    assert up < 0.46 < 0.54 < down


@pytest.mark.parametrize("action", [Action("wait"), Action("type", text="it's\n"), Action("hotkey", keys="ctrl c")])
def test_what_points_nowhere_leaves_the_screen_as_it_was_and_stands_below(action: Action) -> None:
    assert changed(action) == (-1, -1, -1, -1)
    assert (draw(moment(format_action(action, SIZE)), heat=False) != draw(moment(), heat=False)).any()


def test_heat_is_brightest_where_it_is_greatest_and_the_rest_stays_grey() -> None:
    heat = np.zeros((210, 160), np.float32)
    heat[0:8, 0:8], heat[8:16, 0:8] = 0.9, 0.1
    colours = heated(BLUE, heat)
    assert colours.shape == BLUE.shape
    nothing = heated(BLUE, None)
    assert (colours[heat == 0] == nothing[heat == 0]).all()
    assert np.ptp(nothing, -1).max() == 0
    most, second = colours[0, 0].astype(int), colours[8, 0].astype(int)
    assert most[0] > second[0] > nothing[0, 0, 0]
    assert most[1] > second[1]
    assert (heated(BLUE, np.zeros_like(heat)) == nothing).all()


@pytest.mark.parametrize("size", [(160, 210), (41, 53), (900, 601)])
def test_pictures_have_even_sides_and_room_for_the_heat_map(size: tuple[int, int]) -> None:
    screen = Moment(np.zeros((size[1], size[0], 3), np.uint8), "word " * 200, "x" * 500, "", (3, 4))
    one, two = draw(screen, heat=False), draw(screen, heat=True)
    assert all(side % 2 == 0 for side in (*one.shape[:2], *two.shape[:2]))
    assert two.shape[0] == one.shape[0]
    assert two.shape[1] > 1.9 * one.shape[1]
    assert one.shape[1] >= LEAST_WIDTH


def test_an_episode_moves_step_by_step_and_stays_at_its_end() -> None:
    moments = [moment("wait()"), moment("click(point='<point>10 20</point>')"), moment(last=True)]
    with Image.open(io.BytesIO(gif(moments))) as image:
        assert image.n_frames == 3  # type: ignore[attr-defined]
        shown = 0
        for i in range(3):
            image.seek(i)
            shown += image.info["duration"]
        assert image.info["loop"] == 0
    assert shown == 1000 * (2 * SECONDS + LAST_SECONDS)
    frames = film(moments, rate=2)
    assert len(frames) == 2 * (2 * SECONDS + LAST_SECONDS)
    assert len({frame.shape for frame in frames}) == 1


def test_a_sheet_has_all_of_them() -> None:
    one = draw(moment(), heat=False)
    whole = sheet([moment()] * 5, across=2)
    assert whole.shape == (3 * one.shape[0], 2 * one.shape[1], 3)
    assert (whole[: one.shape[0], one.shape[1] :] == one).all()
    assert (whole[2 * one.shape[0] :, one.shape[1] :] == 255).all()
