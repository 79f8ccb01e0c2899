"""The towers against implementations that share no code with transformers, their weights carried over.

PyTorch's own transformer layers serve everywhere. timm does where it is installed: `pip install -e ".[timm]"`.
"""

from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from agents.core.buffer import Ragged
from agents.core.spaces import encode_text
from agents.encoders import EncoderConfig, Size, make_encoder
from agents.encoders.text import TextTower

SIZE = Size(patch=8, width=24, heads=3, depth=3, text_depth=2)
PIXELS = 32
GRID = PIXELS // SIZE.patch
KINDS = ("vit", "clip", "siglip")


@pytest.fixture
def image():
    return torch.randint(0, 256, (3, PIXELS, PIXELS, 3), dtype=torch.uint8)


def image_tower(kind):
    tower = make_encoder(spaces.Box(0, 255, (PIXELS, PIXELS, 3), np.uint8), EncoderConfig(kind, size=SIZE)).tower("")
    return scatter(tower)


def scatter(module):
    """Weights, norms and biases that are no special case, as a fresh model's are."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module.eval()


def layers_of(kind, model):
    """The blocks under common names: q, k, v, out, norm1, norm2, fc1, fc2."""
    blocks = model.layers if kind == "vit" else model.encoder.layers
    for block in blocks:
        attention = block.attention if kind == "vit" else block.self_attn
        yield {
            "qkv": [attention.q_proj, attention.k_proj, attention.v_proj],
            "out": attention.o_proj if kind == "vit" else attention.out_proj,
            "norm1": block.layernorm_before if kind == "vit" else block.layer_norm1,
            "norm2": block.layernorm_after if kind == "vit" else block.layer_norm2,
            "fc1": block.mlp.fc1,
            "fc2": block.mlp.fc2,
        }


def cat(linears):
    return torch.cat([x.weight for x in linears]), torch.cat([x.bias for x in linears])


@torch.no_grad()
def torch_layers(kind, model):
    """nn.TransformerEncoderLayer with the model's weights."""
    eps = model.config.layer_norm_eps
    made = []
    for source in layers_of(kind, model):
        layer = nn.TransformerEncoderLayer(
            SIZE.width, SIZE.heads, 4 * SIZE.width, 0.0, "gelu", eps, batch_first=True, norm_first=True
        )
        layer.self_attn.in_proj_weight[:], layer.self_attn.in_proj_bias[:] = cat(source["qkv"])
        pairs = [("self_attn.out_proj", "out"), ("norm1", "norm1"), ("norm2", "norm2")]
        for target, name in (*pairs, ("linear1", "fc1"), ("linear2", "fc2")):
            layer.get_submodule(target).load_state_dict(source[name].state_dict())
        made.append(layer)
    return made


def normalised(image):
    return image.movedim(-1, 1) / 127.5 - 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_image_towers_are_pytorch_s_transformer(kind, image):
    tower = image_tower(kind)
    model = tower.model
    e = model.embeddings
    conv = e.patch_embeddings.projection if kind == "vit" else e.patch_embedding
    cut = normalised(image).unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(3, GRID**2, -1)
    x = cut @ conv.weight.flatten(1).t() + (0.0 if conv.bias is None else conv.bias)
    if kind != "siglip":
        first = e.cls_token[0] if kind == "vit" else e.class_embedding[None]
        x = torch.cat((first.expand(3, 1, -1), x), 1)
    x = x + (e.position_embeddings if kind == "vit" else e.position_embedding.weight)
    if kind == "clip":
        x = model.pre_layrnorm(x)
    for layer in torch_layers(kind, model):
        x = layer(x)
    x = model.layernorm(x) if kind == "vit" else model.post_layernorm(x)
    pooled, tokens = tower(image)
    torch.testing.assert_close(tokens, x if kind == "siglip" else x[:, 1:], rtol=1e-4, atol=1e-4)
    if kind != "siglip":
        torch.testing.assert_close(pooled, x[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_text_towers_are_pytorch_s_transformer(kind):
    tower = scatter(TextTower.small(kind, SIZE))
    model = tower.model
    for text in ("press OK", "a"):
        row = torch.from_numpy(encode_text([text])[0].copy())
        ids = torch.cat((row.long(), torch.tensor([256])))
        x = (model.embeddings.token_embedding(ids) + model.embeddings.position_embedding.weight[: len(ids)])[None]
        mask = nn.Transformer.generate_square_subsequent_mask(len(ids)) if kind == "clip" else None
        for layer in torch_layers(kind, model):
            x = layer(x, src_mask=mask)
        x = model.final_layer_norm(x)
        pooled, tokens = tower(Ragged.of([row, torch.zeros(12, dtype=torch.uint8)], torch.uint8))
        torch.testing.assert_close(tokens.values[0, : len(ids)], x[0], rtol=1e-4, atol=1e-4)
        last = x[0, -1] if kind == "clip" else model.head(x[0, -1])
        torch.testing.assert_close(pooled[0], last, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def vision_transformer():
    """timm's VisionTransformer."""
    module = pytest.importorskip("timm.models.vision_transformer", reason='not installed: pip install -e ".[timm]"')
    return module.VisionTransformer


@torch.no_grad()
def as_timm(kind, model, vision_transformer):
    """timm's model with the tower's weights."""
    made = vision_transformer(
        img_size=PIXELS,
        patch_size=SIZE.patch,
        embed_dim=SIZE.width,
        depth=SIZE.depth,
        num_heads=SIZE.heads,
        num_classes=0,
        class_token=kind != "siglip",
        pre_norm=kind == "clip",
        global_pool="map" if kind == "siglip" else "token",
        norm_layer=partial(nn.LayerNorm, eps=model.config.layer_norm_eps),
    )
    e, state = model.embeddings, {}

    def put(name, module):
        state.update({f"{name}.{key}": value for key, value in module.state_dict().items()})

    put("patch_embed.proj", e.patch_embeddings.projection if kind == "vit" else e.patch_embedding)
    state["pos_embed"] = (e.position_embeddings if kind == "vit" else e.position_embedding.weight).view(1, -1, 24)
    if kind != "siglip":
        state["cls_token"] = (e.cls_token if kind == "vit" else e.class_embedding).view(1, 1, -1)
    if kind == "clip":
        put("norm_pre", model.pre_layrnorm)
    put("norm", model.layernorm if kind == "vit" else model.post_layernorm)
    for i, source in enumerate(layers_of(kind, model)):
        state[f"blocks.{i}.attn.qkv.weight"], state[f"blocks.{i}.attn.qkv.bias"] = cat(source["qkv"])
        for target, name in (("attn.proj", "out"), ("norm1", "norm1"), ("norm2", "norm2")):
            put(f"blocks.{i}.{target}", source[name])
        put(f"blocks.{i}.mlp.fc1", source["fc1"])
        put(f"blocks.{i}.mlp.fc2", source["fc2"])
    if kind == "siglip":
        head, pool = model.head, "attn_pool"
        weights, biases = head.attention.in_proj_weight.split(24), head.attention.in_proj_bias.split(24)
        state[f"{pool}.latent"] = head.probe
        state[f"{pool}.q.weight"], state[f"{pool}.q.bias"] = weights[0], biases[0]
        state[f"{pool}.kv.weight"], state[f"{pool}.kv.bias"] = torch.cat(weights[1:]), torch.cat(biases[1:])
        put(f"{pool}.proj", head.attention.out_proj)
        put(f"{pool}.norm", head.layernorm)
        put(f"{pool}.mlp.fc1", head.mlp.fc1)
        put(f"{pool}.mlp.fc2", head.mlp.fc2)
    made.load_state_dict(state)
    return made.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_image_towers_are_timm_s(kind, image, vision_transformer):
    tower = image_tower(kind)
    peer = as_timm(kind, tower.model, vision_transformer)
    pooled, tokens = tower(image)
    found = peer.forward_features(normalised(image))
    torch.testing.assert_close(tokens, found if kind == "siglip" else found[:, 1:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pooled, peer(normalised(image)), rtol=1e-4, atol=1e-4)
