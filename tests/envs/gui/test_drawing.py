"""Drawing: what is filled, where text goes, and that nothing outside the clip is touched."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from envs.gui.drawing import FACES, LEVELS, SHAPES, Canvas, Font, font, shape_mask
from envs.gui.theme import luminance, random_theme, shade


def canvas(width: int = 40, height: int = 30) -> Canvas:
    return Canvas(np.zeros((height, width, 3), np.uint8))


numbers = st.integers(-50, 90)


@given(numbers, numbers, st.integers(0, 60), st.integers(0, 60), st.tuples(numbers, numbers, numbers, numbers))
def test_a_rectangle_is_filled_inside_the_clip_only(x, y, w, h, clip):
    one = canvas()
    one.clip = (max(clip[0], 0), max(clip[1], 0), min(clip[2], 40), min(clip[3], 30))
    one.fill(x, y, w, h, 0x010203)
    expected = np.zeros((30, 40, 3), np.uint8)
    for row in range(30):
        for column in range(40):
            if x <= column < x + w and y <= row < y + h and clip[0] <= column < clip[2] and clip[1] <= row < clip[3]:
                expected[row, column] = (1, 2, 3)
    assert (one.pixels == expected).all()


@given(numbers, numbers, st.tuples(numbers, numbers, numbers, numbers))
def test_clipped_text_is_part_of_the_whole(x, y, clip):
    whole, part = canvas(), canvas()
    clip = (max(clip[0], 0), max(clip[1], 0), min(clip[2], 40), min(clip[3], 30))
    part.clip = clip
    for one in (whole, part):
        one.text(x, y, "Wj|", font("sans", 12), 0xFFFFFF, 0x000000)
    inside = np.zeros((30, 40), bool)
    inside[clip[1] : max(clip[3], clip[1]), clip[0] : max(clip[2], clip[0])] = True
    assert (part.pixels[inside] == whole.pixels[inside]).all()
    assert not part.pixels[~inside].any()


@pytest.mark.parametrize("face", FACES)
def test_glyphs_are_pillows(face):
    for size in (9, 12):
        made = Font(face, size)
        image = Image.new("L", (made.width("G") + 2, made.height))
        ImageDraw.Draw(image).text((1, 0), "G", font=made._font, fill=255)
        theirs = np.asarray(image).astype(int)
        assert np.abs(made.mask("G").astype(int) * 255 / LEVELS - theirs).max() <= 255 / LEVELS / 2 + 0.5
        assert theirs.max() > 128


@pytest.mark.parametrize("face", FACES)
def test_widths_add_up(face):
    made = font(face, 10)
    text = "Hello, world"
    assert made.width(text) == sum(made.width(character) for character in text)
    assert made.mask(text).shape == (made.height, made.width(text) + 2)
    for i in range(len(text) + 1):
        assert made.index_at(text, made.width(text[:i])) == i
    assert made.index_at(text, -5) == 0
    assert made.index_at(text, 9999) == len(text)
    assert made.width(made.fit(text, 40)) <= 40
    assert made.fit(text, 400) == text


def test_blending_goes_from_the_ground_to_the_colour():
    one = canvas()
    one.fill(0, 0, 40, 30, 0x204060)
    one.mask(0, 0, np.array([[0, LEVELS]], np.uint8), 0xF0E0D0, 0x204060)
    assert one.pixels[0, 0].tolist() == [0x20, 0x40, 0x60]
    assert one.pixels[0, 1].tolist() == [0xF0, 0xE0, 0xD0]


def test_shapes_differ_and_fill_their_square():
    masks = [shape_mask(kind, 24) for kind in SHAPES]
    for mask in masks:
        assert mask.any(axis=0).all()
        assert mask.any(axis=1).all()
    assert (shape_mask("square", 24) == LEVELS).all()
    assert abs(shape_mask("circle", 40).mean() / LEVELS - np.pi / 4) < 0.02
    assert abs(shape_mask("triangle", 40).mean() / LEVELS - 0.5) < 0.03
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert (one != other).mean() > 0.05


def test_every_theme_can_be_read():
    for seed in range(500):
        theme = random_theme(Random(seed))
        for ground, text in (
            (theme.window, theme.text),
            (theme.desktop, theme.desktop_text),
            (theme.button, theme.button_text),
            (theme.hover, theme.button_text),
            (theme.field, theme.field_text),
            (theme.title, theme.title_text),
            (theme.accent, theme.accent_text),
        ):
            assert abs(luminance(ground) - luminance(text)) > 0.3


def test_shade():
    assert shade(0x808080, 1.0) == 0xFFFFFF
    assert shade(0x808080, -1.0) == 0x000000
    assert shade(0x123456, 0.0) == 0x123456
