"""The towers for fine print: what is where, whatever the colours, and texts that do not depend on their neighbours."""

import numpy as np
import torch
from gymnasium import spaces

from agents.core.buffer import Ragged
from agents.encoders import make_encoder, save_encoder
from agents.encoders.reader import HALO, TILE, ByteReader, ScreenReader, _flat, padded

SHAPE = (80, 160, 3)


def reader():
    torch.manual_seed(0)
    return ScreenReader(SHAPE)


def letters(seed=0, ground=255, ink=0):
    """Random strokes in the middle of an empty image, uint8 [1, 80, 160, 3]."""
    image = np.full((1, *SHAPE), ground, np.uint8)
    strokes = np.random.default_rng(seed).random((10, 12)) < 0.3
    image[0, 34:44, 66:78][strokes] = ink
    return torch.from_numpy(image)


def ragged(*texts):
    return Ragged.of([torch.tensor(list(text.encode()), dtype=torch.uint8) for text in texts], torch.uint8)


@torch.no_grad()
def test_what_a_patch_shows_moves_with_it():
    tower = reader()
    image = letters()
    moved = image.roll((tower.patch, -tower.patch), (1, 2))
    torch.testing.assert_close(tower.patches(moved), tower.patches(image).roll((1, -1), (1, 2)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_patch_of_one_colour_is_told_by_its_colour():
    tower = reader()
    image = letters(ground=90)
    tokens = tower.patches(image)
    alone = tower.colour(torch.full((12,), 90 / 255 * 2 - 1)) + tower.tiles.bias
    tokens = tokens[0]  # [5, 10, 96]; the letters lie in row 2
    torch.testing.assert_close(tokens[[0, 1, 3, 4]], alone.relu().expand(4, 10, -1), atol=1e-5, rtol=0)
    assert not torch.isclose(tokens[2, 4], alone.relu(), atol=1e-3).all()


@torch.no_grad()
def test_tiles_that_show_anything_are_those_that_differ_from_their_corner():
    image = torch.full((2, 3 * TILE, 4 * TILE, 3), 7, dtype=torch.uint8)
    image[0, TILE + 1, 5, 2] = 8  # below the corner
    image[1, 2 * TILE, 4 * TILE - 1, 0] = 6  # beside it
    corner, busy = _flat(image)
    assert busy.nonzero().tolist() == [[0, 1, 0], [1, 2, 3]]
    assert (corner == 7).all()


@torch.no_grad()
def test_a_letter_is_the_same_in_any_colour_where_only_its_ink_counts():
    tower = reader()
    tower.tint.weight.zero_()  # what is left is the ink
    low, high = 34 - HALO, 42 + HALO
    shapes = [
        tower.look(letters(ground=ground, ink=ink)[:, low:high, low + 32 : high + 32].movedim(3, 1))
        for ground, ink in ((255, 0), (0, 255), (200, 60))
    ]
    assert shapes[0].abs().max() > 0.01
    for other in shapes[1:]:
        torch.testing.assert_close(other, shapes[0], atol=0.1 * float(shapes[0].abs().max()), rtol=0)


@torch.no_grad()
def test_images_of_any_size_and_either_order_of_channels():
    tower = reader()
    for height, width in ((8, 8), (41, 50), (210, 160)):
        image = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8)
        pooled, tokens = tower(image)
        assert tokens.shape == (2, len(tower.grid(height, width)), tower.token_dim)
        assert pooled.shape == (2, tower.out_dim)
        torch.testing.assert_close(tower(image.movedim(-1, 1))[1], tokens)


@torch.no_grad()
def test_a_text_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    tower = ByteReader()
    alone, tokens = tower(ragged("Click é"))
    both, more = tower(ragged("Click é", "a much longer instruction, then another", ""))
    torch.testing.assert_close(both[:1], alone, atol=1e-5, rtol=0)
    assert tokens.mask.sum() == 9  # bytes and the end
    torch.testing.assert_close(more.values[0, :9], tokens.values[0], atol=1e-5, rtol=0)
    assert more.spans[0, 7:10].tolist() == [[7, 8], [8, 8], [8, 8]]
    assert more.mask.sum(1).tolist() == [9, 40, 1]


def test_padded_bytes():
    ids, lengths = padded(ragged("ab", ""))
    assert ids.tolist() == [[97, 98, 256], [256, 257, 257]]
    assert lengths.tolist() == [2, 0]


@torch.no_grad()
def test_saved_and_loaded(tmp_path):
    space = spaces.Dict({"a": spaces.Box(0, 255, SHAPE, np.uint8), "b": spaces.Text(9)})
    encoder = make_encoder(space, "reader")
    again = make_encoder(space, str(save_encoder(encoder, tmp_path / "encoder")))
    obs = {"a": letters(), "b": ragged("word")}
    torch.testing.assert_close(again(obs), encoder(obs))
    rebuilt = make_encoder(space, again.name)
    rebuilt.load_state_dict(again.state_dict())
    torch.testing.assert_close(rebuilt(obs), encoder(obs))
