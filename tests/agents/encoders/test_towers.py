"""Towers of images and text: sizes, tokens and their places, bytes, saving, loading, freezing."""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel, ViTConfig, ViTForImageClassification

from agents.core import checkpoint
from agents.core.buffer import Ragged
from agents.core.spaces import encode_text, observation_tensors
from agents.encoders import EncoderConfig, Size, make_encoder, save_encoder
from agents.encoders.text import CONTEXT, TextTower

CPU = torch.device("cpu")
TINY = Size(patch=8, width=16, heads=2, depth=2, text_depth=1)
KINDS = ("cnn", "vit", "clip", "siglip")


def screen(height=44, width=37, channels=3):
    image = spaces.Box(0, 255, (height, width, channels), np.uint8)
    return spaces.Dict(OrderedDict(screenshot=image, instruction=spaces.Text(CONTEXT * 2)))


def observe(space, texts, seed=0):
    shape = (len(texts), *space["screenshot"].shape)
    batch = {
        "screenshot": np.random.default_rng(seed).integers(0, 256, shape, np.uint8),
        "instruction": list(texts),
    }
    return observation_tensors(space, batch, CPU)


def tiny(space, name):
    return make_encoder(space, EncoderConfig(name, size=TINY))


def ragged(*texts):
    return Ragged.of([torch.from_numpy(row.copy()) for row in encode_text(texts)], torch.uint8)


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(44, 37), (40, 40), (37, 90)])
def test_pooled_features_and_tokens_that_tile_the_screen(kind, size):
    space = screen(*size)
    encoder = tiny(space, kind)
    features = encoder.features(observe(space, ["a", "bc", ""]))
    grid = encoder.grids["screenshot"]
    assert (grid.rows, grid.columns, grid.patch) == (-(-size[0] // 8), -(-size[1] // 8), 8)
    assert features.patches["screenshot"].shape == (3, len(grid), encoder.tower("screenshot").token_dim)
    assert features.text["instruction"].values.shape == (3, 3, encoder.tower("instruction").token_dim)
    assert features.pooled.shape == (3, encoder.out_dim)
    torch.testing.assert_close(encoder(observe(space, ["a", "bc", ""])), features.pooled)


@pytest.mark.parametrize("kind", KINDS)
def test_token_i_is_about_the_square_that_the_grid_says(kind):
    """A changed square moves its own token most; the CNN's other squares far away not at all."""
    space = spaces.Box(0, 255, (136, 264, 3), np.uint8)
    encoder = tiny(space, kind)
    grid = encoder.grids[""]
    image = torch.randint(0, 256, (1, 136, 264, 3), dtype=torch.uint8)
    row, column = 2, 31
    other = image.clone()
    corner = other[:, row * grid.patch : (row + 1) * grid.patch, column * grid.patch : (column + 1) * grid.patch]
    corner[:] = 255 - corner
    with torch.no_grad():
        moved = (encoder.features(image).patches[""] - encoder.features(other).patches[""]).norm(dim=-1)[0]
    assert int(moved.argmax()) == row * grid.columns + column
    if kind == "cnn":
        assert float(moved.view(grid.rows, grid.columns)[:, :16].max()) == 0.0


@pytest.mark.parametrize("kind", ["vit", "clip", "siglip"])
def test_images_are_normalised_and_padded_with_the_mean(kind):
    """uint8 in equals the model itself on hand-made pixels, at a size whose grid is its own square table."""
    tower = tiny(spaces.Box(0, 255, (30, 28, 3), np.uint8), kind).tower("")
    image = torch.randint(0, 256, (2, 30, 28, 3), dtype=torch.uint8)
    pixels = torch.zeros(2, 3, 32, 32)
    pixels[:, :, :30, :28] = (image.movedim(-1, 1) / 255.0 - 0.5) / 0.5
    expected = tower.model(pixels)
    pooled, tokens = tower(image)
    if kind == "siglip":
        torch.testing.assert_close(pooled, expected.pooler_output)
        torch.testing.assert_close(tokens, expected.last_hidden_state)
    else:
        normalised = expected.last_hidden_state
        normalised = tower.model.post_layernorm(normalised) if kind == "clip" else normalised
        torch.testing.assert_close(pooled, normalised[:, 0])
        torch.testing.assert_close(tokens, normalised[:, 1:])
    first, _ = tower(image.movedim(-1, 1).contiguous())
    torch.testing.assert_close(first, pooled)


@pytest.mark.parametrize("kind", ["vit", "clip", "siglip"])
def test_positions_are_interpolated_in_rows_and_columns(kind):
    """A table that rises along the rows rises along the rows of an oblong screen too, between the same ends."""
    tower = tiny(spaces.Box(0, 255, (32, 32, 3), np.uint8), kind).tower("")
    embeddings = tower.model.embeddings
    classes = 0 if kind == "siglip" else 1
    table = embeddings.position_embeddings[0] if kind == "vit" else embeddings.position_embedding.weight
    with torch.no_grad():
        table.zero_()
        table[classes:] = torch.arange(4.0).repeat_interleave(4)[:, None]
    at = embeddings.interpolate_pos_encoding(torch.zeros(1, classes + 2 * 12, 16), 96, 16)
    grid = at[0, classes:, 0].detach().view(12, 2)
    torch.testing.assert_close(grid[:, 0], grid[:, 1])
    assert bool((grid[1:, 0] > grid[:-1, 0]).all())
    assert float(grid.min()) == pytest.approx(0, abs=0.4)
    assert float(grid.max()) == pytest.approx(3, abs=0.4)


def test_one_name_serves_every_number_of_channels():
    for channels in (1, 4):
        space = spaces.Box(0, 255, (channels, 40, 48), np.uint8)
        for kind in KINDS:
            image = torch.randint(0, 256, (2, channels, 40, 48), dtype=torch.uint8)
            assert bool(tiny(space, kind)(image).isfinite().all())


def test_an_mlp_takes_pixels_as_they_are():
    space = spaces.Box(0, 255, (8, 9, 3), np.uint8)
    image = torch.randint(0, 256, (2, 8, 9, 3), dtype=torch.uint8)
    torch.testing.assert_close(make_encoder(space, "mlp")(image), image.flatten(1) / 255.0)


# --- text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_text_s_features_do_not_depend_on_its_company(kind):
    tower = TextTower.small(kind, TINY)
    texts = ["press OK", "", "né 你", "press OK", "a much longer instruction than all of the others"]
    pooled, tokens = tower(ragged(*texts))
    for i, text in enumerate(texts):
        alone, one = tower(ragged(text))
        length = len(text.encode()) + 1
        assert int(one.mask.sum()) == length
        assert tokens.mask[i].tolist() == [j < length for j in range(tokens.mask.shape[1])]
        torch.testing.assert_close(pooled[i], alone[0])
        torch.testing.assert_close(tokens.values[i, :length], one.values[0, :length])
    assert torch.equal(pooled[0], pooled[3])
    assert not torch.allclose(pooled[0], pooled[1])


def test_every_byte_is_a_token_and_the_end_is_none_of_them():
    _, tokens = TextTower.small("siglip", TINY)(ragged("né", "abcd"))
    assert tokens.spans[0].tolist() == [[0, 1], [1, 2], [2, 3], [3, 3], [3, 3]]
    assert tokens.spans[1].tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [4, 4]]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_order_of_bytes_matters_and_long_texts_are_cut(kind):
    tower = TextTower.small(kind, TINY)
    pooled, _ = tower(ragged("ab", "ba"))
    assert not torch.allclose(pooled[0], pooled[1])
    pooled, tokens = tower(ragged("x" * CONTEXT + "y", "x" * CONTEXT + "z", "x" * (CONTEXT - 2) + "z"))
    assert tokens.values.shape[1] == CONTEXT
    torch.testing.assert_close(pooled[0], pooled[1])
    assert not torch.allclose(pooled[0], pooled[2])


# --- saving, loading, freezing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_encoder_is_the_same_encoder(kind, tmp_path):
    space = screen()
    first = tiny(space, kind)
    obs = observe(space, ["one", "two"])
    path = save_encoder(first, tmp_path / "encoder")
    assert path.suffix == ".safetensors"
    for name in (str(path), str(tmp_path)):
        second = make_encoder(space, name)
        assert torch.equal(first(obs), second(obs))
    other = make_encoder(screen(64, 90), str(path))
    assert other(observe(screen(64, 90), ["one"])).shape == (1, other.out_dim)
    with pytest.raises(ValueError, match="3 channels"):
        make_encoder(screen(channels=4), str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_s_name_builds_the_same_without_the_file(kind, tmp_path):
    space = screen()
    path = save_encoder(tiny(space, kind), tmp_path / "encoder")
    first = make_encoder(space, str(path))
    path.unlink()
    second = make_encoder(space, first.name)
    assert second.name == first.name
    second.load_state_dict(first.state_dict())
    obs = observe(space, ["one", "two"])
    assert torch.equal(first(obs), second(obs))
    assert make_encoder(space, kind).name == kind


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_towers_take_no_gradient(freeze):
    space = screen()
    encoder = make_encoder(space, EncoderConfig("siglip", freeze, TINY))
    assert all(p.requires_grad != freeze for p in encoder.parameters())
    assert encoder(observe(space, ["one"])).requires_grad != freeze


def test_a_text_tower_that_was_not_saved_learns_beside_a_frozen_image_tower(tmp_path):
    space = screen()
    path = save_encoder(tiny(space, "vit"), tmp_path / "eyes", ("image",))
    first = make_encoder(space, EncoderConfig(str(path), freeze=True))
    for encoder in (first, make_encoder(space, EncoderConfig(first.name, freeze=True))):
        assert not any(p.requires_grad for p in encoder.tower("screenshot").parameters())
        assert all(p.requires_grad for p in encoder.tower("instruction").parameters())
    read = save_encoder(tiny(space, "clip"), tmp_path / "words", ("text",))
    assert make_encoder(space["instruction"], str(read)).tower("").kind == "clip"
    with pytest.raises(ValueError, match="has seen no images"):
        make_encoder(space, str(read))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_that_features_use_gets_a_gradient(kind):
    space = screen()
    encoder = tiny(space, kind)
    features = encoder.features(observe(space, ["one", "three"]))
    tokens = (*features.patches.values(), features.text["instruction"].values)
    sum((features.pooled.square().sum(), *(x.square().sum() for x in tokens))).backward()
    idle = {name for name, p in encoder.named_parameters() if p.grad is None or not bool(p.grad.any())}
    # keys' biases shift all of a query's scores alike; a convolution behind one that is zero has to wait for it
    assert all(name.endswith(("k_proj.bias", "first.weight", "first.bias")) for name in idle), idle


def test_clear_refusals(tmp_path):
    with pytest.raises(ValueError, match="Did you mean siglip"):
        make_encoder(screen(), "sigclip")
    with pytest.raises(ValueError, match="'vit' sees images"):
        make_encoder(spaces.Box(-1, 1, (3,)), "vit")
    agent = checkpoint.save(tmp_path / "agent", {"parts": {}})
    with pytest.raises(ValueError, match="holds no encoder"):
        make_encoder(screen(), str(agent))
    with pytest.raises(ValueError, match="transformers finds no encoder"):
        make_encoder(screen(), str(tmp_path))
    with pytest.raises(ValueError, match="nothing to save"):
        save_encoder(make_encoder(spaces.Box(-1, 1, (3,))), tmp_path / "x")
    large = save_encoder(make_encoder(spaces.Box(0, 255, (40, 40, 3), np.uint8)), tmp_path / "y")
    with pytest.raises(ValueError, match="every 8 pixels"):
        make_encoder(spaces.Box(0, 255, (16, 16, 3), np.uint8), str(large))


# --- what transformers loads ----------------------------------------------------------------------------------------

WORDS = {"<pad>": 0, "<end>": 1, "press": 2, "the": 3, "knöpfchen": 4, "<unk>": 5}


def word_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_checkpoint_of_transformers_brings_towers_tokenizer_and_normalisation(kind, tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 6, "max_position_embeddings": 9, "eos_token_id": 1, "pad_token_id": 0}
    text |= {"projection_size": 16} if kind == "siglip" else {}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    config_type, model_type = {"clip": (CLIPConfig, CLIPModel), "siglip": (SiglipConfig, SiglipModel)}[kind]
    model = model_type(config_type(text_config=text, vision_config=vision)).eval()
    model.save_pretrained(tmp_path)
    word_tokenizer(tmp_path)
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": std}))

    space = screen(32, 32)
    encoder = make_encoder(space, str(tmp_path))
    obs = observe(space, ["press the knöpfchen", "the"])
    features = encoder.features(obs)
    image = obs["screenshot"].movedim(-1, 1) / 255.0
    pixels = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    length = 9 if kind == "siglip" else 4
    ids = torch.zeros(2, length, dtype=torch.int64)
    ids[0, :4], ids[1, :2] = torch.tensor([2, 3, 4, 1]), torch.tensor([3, 1])
    seen = model.vision_model(pixels).pooler_output
    read = model.text_model(input_ids=ids)
    torch.testing.assert_close(features.pooled, torch.cat((seen, read.pooler_output), -1), rtol=1e-4, atol=1e-5)
    tokens = features.text["instruction"]
    torch.testing.assert_close(tokens.values, read.last_hidden_state)
    assert tokens.spans[0, :4].tolist() == [[0, 5], [6, 9], [10, 20], [0, 0]]
    assert tokens.mask.sum(1).tolist() == [4, 2]

    again = make_encoder(space, str(save_encoder(encoder, tmp_path / "saved")))
    assert torch.equal(again(obs), features.pooled)
    elsewhere = screen(40, 56)
    assert make_encoder(elsewhere, str(tmp_path / "saved"))(observe(elsewhere, ["the"])).shape == (1, 32)


def test_a_vit_classifier_of_transformers_serves_too(tmp_path):
    config = ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    model = ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    space = spaces.Box(0, 255, (32, 32, 3), np.uint8)
    image = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    expected = model.vit(image.movedim(-1, 1) / 127.5 - 1).last_hidden_state
    features = make_encoder(space, str(tmp_path)).features(image)
    torch.testing.assert_close(features.pooled, expected[:, 0])
    torch.testing.assert_close(features.patches[""], expected[:, 1:])
