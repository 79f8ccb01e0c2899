"""The towers for fine print: what is where, whatever the colours, and texts that do not depend on their neighbours."""

import numpy as np
import torch
from gymnasium import spaces

from agents.core.buffer import Ragged
from agents.encoders import make_encoder, save_encoder
from agents.encoders.reader import PATCH, ByteReader, ScreenReader, padded

SHAPE = (40, 48, 3)


def reader():
    torch.manual_seed(0)
    return ScreenReader(SHAPE)


def letters(seed=0, ground=255, ink=0):
    """Random strokes in the middle of an empty image, uint8 [1, 40, 48, 3]."""
    image = np.full((1, *SHAPE), ground, np.uint8)
    strokes = np.random.default_rng(seed).random((10, 12)) < 0.3
    image[0, 17:27, 17:29][strokes] = ink
    return torch.from_numpy(image)


def ragged(*texts):
    return Ragged.of([torch.tensor(list(text.encode()), dtype=torch.uint8) for text in texts], torch.uint8)


@torch.no_grad()
def test_what_a_patch_shows_moves_with_it():
    tower = reader()
    image = letters()
    moved = image.roll((PATCH, -PATCH), (1, 2))
    torch.testing.assert_close(tower.patches(moved), tower.patches(image).roll((1, -1), (1, 2)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_patch_of_one_colour_is_told_by_its_colour():
    tower = reader()
    image = letters(ground=90)
    tokens = tower.patches(image)
    plain = tower.colour(torch.full((3,), 90 / 255 * 2 - 1))
    inner = image[0].unflatten(1, (6, PATCH)).unflatten(0, (5, PATCH))
    uniform = (inner.amin((1, 3)) == inner.amax((1, 3))).all(-1)
    assert 0 < int(uniform.sum()) < 30
    torch.testing.assert_close(tokens[0][uniform], plain.expand(int(uniform.sum()), -1), atol=1e-5, rtol=0)
    assert not torch.isclose(tokens[0][~uniform], plain, atol=1e-3).all(-1).any()


@torch.no_grad()
def test_a_letter_is_the_same_in_any_colour_where_only_its_ink_counts():
    tower = reader()
    tower.strokes.weight[:, :3] = 0.0  # what is left is the channel of ink
    shapes = [tower.look(letters(ground=ground, ink=ink)[:, 15:29, 15:29].movedim(3, 1)) for ground, ink in
              ((255, 0), (0, 255), (200, 60))]  # fmt: skip
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
