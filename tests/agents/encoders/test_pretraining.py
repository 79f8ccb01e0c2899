"""Pretraining losses against closed forms, transformers' own, and finite cases worked out by hand."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional as F
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from agents.core.spaces import observation_tensors
from agents.encoders import EncoderConfig, Size, make_encoder
from agents.encoders.pretraining import (
    CLIP_MAX,
    Contrastive,
    MaskedAutoencoder,
    clip_loss,
    mae_loss,
    patch_moments,
    patchify,
    random_mask,
    retrieval_accuracy,
    siglip_loss,
    unpatchify,
)

TINY = Size(patch=8, width=16, heads=2, depth=2, text_depth=1)
SCREEN = spaces.Dict({"screenshot": spaces.Box(0, 255, (44, 40, 3), np.uint8), "instruction": spaces.Text(20)})


def encoder(name):
    return make_encoder(SCREEN, EncoderConfig(name, size=TINY))


def units(n, dim):
    return F.normalize(torch.randn(n, dim), dim=-1)


def images(n, seed=0):
    shape = (n, 44, 40, 3)
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def texts(*given):
    space = spaces.Text(20)
    return observation_tensors(space, given, torch.device("cpu"))


# --- contrast -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, math.log(10), CLIP_MAX])
def test_infonce_of_perfect_alignment(t):
    """Orthonormal pairs: every row's softmax gives its own exp(s) against n - 1 ones, s = exp(t)."""
    n, s = 5, math.exp(t)
    loss = clip_loss(torch.eye(n), torch.eye(n), torch.tensor(t))
    assert float(loss) == pytest.approx(math.log1p((n - 1) * math.exp(-s)), abs=1e-6)


def test_infonce_is_transformers_and_log_n_without_contrast():
    image, text, t = units(6, 4), units(6, 4), torch.tensor(1.3)
    torch.testing.assert_close(clip_loss(image, text, t), image_text_contrastive_loss(t.exp() * text @ image.t()))
    same = units(1, 4).expand(6, 4)
    assert float(clip_loss(same, units(1, 4).expand(6, 4), t)) == pytest.approx(math.log(6), abs=1e-6)


@pytest.mark.parametrize(("t", "clamped"), [(-3.0, 0.0), (9.0, CLIP_MAX)])
def test_the_logit_scale_is_clamped(t, clamped):
    image, text = units(6, 4), units(6, 4)
    torch.testing.assert_close(clip_loss(image, text, torch.tensor(t)), clip_loss(image, text, torch.tensor(clamped)))
    model = Contrastive(encoder("clip"), "screenshot", "instruction", "clip")
    with torch.no_grad():
        model.log_scale.fill_(t)
    model.clamp()
    assert float(model.log_scale) == pytest.approx(clamped)


def test_the_sigmoid_loss_pair_by_pair():
    image, text, t, b = units(4, 3), units(4, 3), torch.tensor(0.7), torch.tensor(-2.0)
    total = 0.0
    for i in range(4):
        for j in range(4):
            logit = math.exp(0.7) * float(image[i] @ text[j]) - 2.0
            z = 1.0 if i == j else -1.0
            total += math.log1p(math.exp(-z * logit))
    assert float(siglip_loss(image, text, t, b)) == pytest.approx(total / 4, rel=1e-5)


def test_where_scale_and_bias_start():
    """Zhai et al.'s start makes the many negative pairs cheap: a fresh model's loss is nearly that of its positives."""
    clip = Contrastive(encoder("clip"), "screenshot", "instruction", "clip")
    siglip = Contrastive(encoder("siglip"), "screenshot", "instruction", "siglip")
    assert float(clip.log_scale.exp()) == pytest.approx(1 / 0.07)
    assert float(siglip.log_scale.exp()) == pytest.approx(10.0)
    assert float(siglip.bias) == -10.0
    zeros = torch.zeros(8, 4)
    expected = -F.logsigmoid(torch.tensor(-10.0)) - 7 * F.logsigmoid(torch.tensor(10.0))
    torch.testing.assert_close(siglip.loss(zeros, zeros), expected)


@pytest.mark.parametrize("objective", ["clip", "siglip"])
@pytest.mark.parametrize("tower", ["cnn", "clip"])
def test_a_batch_is_learned_by_heart(objective, tower):
    model = Contrastive(encoder(tower), "screenshot", "instruction", objective)
    image, text = images(4), texts("red", "green", "blue", "no colour at all")
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(image, text).backward()
        optimizer.step()
        model.clamp()
    with torch.no_grad():
        seen, read = model.embed(image, text)
    torch.testing.assert_close(seen.norm(dim=-1), torch.ones(4))
    assert retrieval_accuracy(seen, read) == 1.0
    assert retrieval_accuracy(read, seen) == 1.0


def test_retrieval_counts_ties_as_misses():
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert retrieval_accuracy(keys, keys) == pytest.approx(1 / 3)
    assert retrieval_accuracy(keys.flip(0), keys) == pytest.approx(0.0)


# --- MAE ------------------------------------------------------------------------------------------------------------


def test_patches_row_by_row_and_back():
    image = torch.randn(2, 3, 16, 24)
    patches = patchify(image, 8)
    assert patches.shape == (2, 6, 192)
    torch.testing.assert_close(patches[1, 4].view(8, 8, 3), image[1, :, 8:16, 8:16].movedim(0, -1))
    assert torch.equal(unpatchify(patches, 2, 3, 8), image)


def test_three_quarters_are_masked_whichever_they_are():
    mask = random_mask(400, 30, torch.Generator().manual_seed(0))
    assert bool((mask.sum(1) == 22).all())
    assert float((mask.float().mean(0) - 22 / 30).abs().max()) < 0.1
    assert torch.equal(mask, random_mask(400, 30, torch.Generator().manual_seed(0)))


def test_the_loss_ignores_visible_patches_and_each_patch_s_brightness():
    patches, prediction = torch.rand(2, 6, 12), torch.randn(2, 6, 12)
    mask = random_mask(2, 6, torch.Generator().manual_seed(1))
    loss = mae_loss(prediction, patches, mask)
    elsewhere = torch.where(mask[..., None], prediction, torch.randn(2, 6, 12) * 100)
    torch.testing.assert_close(mae_loss(elsewhere, patches, mask), loss)
    brighter = patches * torch.rand(2, 6, 1).add(0.5) + torch.rand(2, 6, 1)
    torch.testing.assert_close(mae_loss(prediction, brighter, mask), loss, rtol=1e-3, atol=1e-4)
    mean, deviation = patch_moments(patches)
    assert float(mae_loss((patches - mean) / deviation, patches, mask)) == pytest.approx(0.0, abs=1e-9)
    # A prediction of the mean costs the variance, of which there is (n - 1) / n by the unbiased estimate.
    assert float(mae_loss(torch.zeros(2, 6, 12), patches, mask)) == pytest.approx(11 / 12, rel=1e-3)


def test_the_encoder_sees_visible_patches_only():
    model = MaskedAutoencoder(encoder("vit"), "screenshot", width=8, depth=1, heads=2)
    image = images(2)
    pixels = model.tower.pixels(image)
    mask = random_mask(2, len(model.grid), torch.Generator().manual_seed(2))
    hidden = model.encode(pixels, mask)
    assert hidden.shape == (2, 1 + int((~mask[0]).sum()), 16)
    noisy = torch.where(mask[..., None], torch.randn(2, len(model.grid), 192), patchify(pixels, 8))
    noise = unpatchify(noisy, model.grid.rows, model.grid.columns, 8)
    torch.testing.assert_close(model.encode(noise, mask), hidden)
    nothing = torch.zeros_like(mask)
    torch.testing.assert_close(model.encode(pixels, nothing)[:, 1:], model.tower(image)[1], rtol=1e-4, atol=1e-5)


def test_hidden_states_return_to_the_places_they_came_from():
    """Exchanging two visible patches' hidden states changes the decoder's input at those places and nowhere else."""
    model = MaskedAutoencoder(encoder("vit"), "screenshot", width=8, depth=1, heads=2)
    seen = []
    model.layers.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    mask = random_mask(1, len(model.grid), torch.Generator().manual_seed(2))
    hidden = torch.randn(1, 1 + int((~mask).sum()), 16)
    model.decode(hidden, mask)
    swapped = hidden.clone()
    swapped[:, [1, 3]] = hidden[:, [3, 1]]
    model.decode(swapped, mask)
    places = (~mask[0]).nonzero().squeeze(1)
    changed = (seen[0] != seen[1]).any(-1)[0].nonzero().squeeze(1)
    assert changed.tolist() == [1 + int(places[0]), 1 + int(places[2])]


def test_an_image_is_painted_where_it_was_hidden():
    model = MaskedAutoencoder(encoder("vit"), "screenshot", width=8, depth=1, heads=2)
    image = images(3)
    mask = random_mask(3, len(model.grid), torch.Generator().manual_seed(0))
    pictures = model.pictures(image, mask)
    assert pictures.shape == (3, 3, 44, 3 * 40)
    original, visible, painted = pictures.split(40, -1)
    assert torch.equal(original, image.movedim(-1, 1))
    hidden = unpatchify(mask[..., None].expand(-1, -1, 192).float(), 6, 5, 8)[..., :44, :40] > 0
    assert torch.equal(visible[~hidden], original[~hidden])
    assert set(visible[hidden].tolist()) <= {127, 128}
    assert torch.equal(painted[~hidden], original[~hidden])
    assert bool((painted[hidden] != original[hidden]).any())


def test_mae_learns_and_reaches_the_tower():
    whole = encoder("vit")
    model = MaskedAutoencoder(whole, "screenshot", width=16, depth=1, heads=2)
    stripes = torch.zeros(4, 44, 40, 3, dtype=torch.uint8)
    stripes[:, ::2] = 255
    mask = random_mask(4, len(model.grid), torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    before = whole(whole_observation(stripes)).detach()
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss, _ = model(stripes, mask)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
    assert not torch.allclose(whole(whole_observation(stripes)), before)


def whole_observation(image):
    return {"screenshot": image, "instruction": texts(*["x"] * len(image))}


@pytest.mark.parametrize("name", ["cnn", "siglip"])
def test_mae_needs_a_vit(name):
    with pytest.raises(ValueError, match="only a ViT can do"):
        MaskedAutoencoder(encoder(name), "screenshot")
