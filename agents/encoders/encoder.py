"""One function from an observation space to a module that gives features; what follows is the policy's own."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.core.spaces import leaves
from agents.encoders.cnn import image_shape, is_image
from agents.encoders.features import Features, Grid, Size, TextTokens
from agents.encoders.storage import NAMES, Towers, describe_towers, find_towers, save_towers

AT_ONCE = 256  # images: a transformer's hidden layers take a megabyte for each


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoder; a plain string is one with this name.

    name: "cnn" (the default: images by a small convolutional network, text by a small transformer), "mlp" (an image is
    the vector of its pixels), "reader" (convolutions that read the fine print of screens, and text by bytes), "vit",
    "clip" or "siglip" (small transformers from scratch, of `size`), the path of a saved encoder or of a pretraining
    run, or a folder or hub id of a ViT, CLIP or SigLIP that transformers loads.
    freeze: towers of images and text stay as they are; one that a saved encoder lacks is new, and learns.
    """

    name: str = "cnn"
    freeze: bool = False
    size: Size = field(default_factory=Size)


def make_encoder(space: spaces.Space, config: str | EncoderConfig = "cnn") -> Encoder:
    """An encoder for `space`.

    Raises ValueError for a leaf that has no features, an unknown name, and a tower of images where there are none.
    """
    return Encoder(space, EncoderConfig(config) if isinstance(config, str) else config)


class Encoder(nn.Module):
    """Features of every leaf, concatenated in the space's order: [batch, out_dim]; `features` gives tokens as well.

    grids: where the patch tokens of each image lie, by leaf path.
    """

    def __init__(self, space: spaces.Space, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        named = leaves(space)
        self.names = list(named)
        self.single = self.names == [""]
        kinds = {"image" if is_image(leaf) else type(leaf).__name__ for leaf in named.values()}
        _check_use(config.name, "image" in kinds, "Text" in kinds, space)
        towers = find_towers(config.name, config.size) if kinds & {"image", "Text"} else Towers(None, nn.Identity)
        self.chosen = towers.chosen
        self.leaves = nn.ModuleDict({_key(name): _leaf_encoder(leaf, towers) for name, leaf in named.items()})
        self.out_dim = sum(cast(int, module.out_dim) for module in self.leaves.values())
        self.grids: dict[str, Grid] = {}
        for name, leaf in named.items():
            tower = self.leaves[_key(name)]
            if _role(tower) in towers.chosen:
                tower.requires_grad_(not config.freeze)
            if _role(tower) == "image":
                self.grids[name] = cast(Any, tower).grid(*image_shape(cast(Any, leaf.shape))[:2])
        # One float vector and nothing else is by far the most frequent case, and rollouts are bound by call overhead.
        self.identity = (
            isinstance(space, spaces.Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating)
        )

    def forward(self, obs: Any) -> Tensor:
        return obs if self.identity else self.features(obs).pooled

    def features(self, obs: Any) -> Features:
        """Pooled features and tokens of observations, as `observation_tensors` and the buffer give them."""
        named: Mapping[str, Any] = {"": obs} if self.single else obs
        parts: list[Tensor] = []
        patches: dict[str, Tensor] = {}
        text: dict[str, TextTokens] = {}
        for name in self.names:
            tower = self.leaves[_key(name)]
            out = tower(named[name]) if _role(tower) != "image" else _in_parts(tower, named[name])
            if not isinstance(out, tuple):
                parts.append(out)
                continue
            parts.append(out[0])
            if isinstance(out[1], TextTokens):
                text[name] = out[1]
            else:
                patches[name] = out[1]
        return Features(parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1), patches, text)

    def tower(self, name: str) -> nn.Module:
        """The module of the leaf at path `name` ("" where the observation has no parts)."""
        return self.leaves[_key(name)]

    def towers(self) -> dict[str, nn.Module]:
        """The first tower of images ("image") and of text ("text"), of those there are."""
        found: dict[str, nn.Module] = {}
        for module in self.leaves.values():
            if (role := _role(module)) is not None:
                found.setdefault(role, module)
        return found

    @property
    def name(self) -> str:
        """A name under which `make_encoder` builds the same again, with weights of its own, wherever files have gone:
        what an agent's checkpoint needs to hold beside the weights."""
        given = self.config.name
        if given in NAMES:
            return given
        return json.dumps(describe_towers(self.towers(), weights=False, chosen=self.chosen))


@contextmanager
def learning_statistics(*modules: nn.Module) -> Iterator[None]:
    """The batch statistics of `modules`, if they have any, are learned as long as this lasts.

    Elsewhere encoders are in evaluation mode: what an action's probability is does not depend on the rest of its batch.
    """
    for module in modules:
        module.train()
    try:
        yield
    finally:
        for module in modules:
            module.eval()


def save_encoder(encoder: Encoder, path: str | os.PathLike[str], roles: Collection[str] = ("image", "text")) -> Path:
    """Write an encoder's towers to one safetensors file, whose path `make_encoder` then takes as a name.

    The first tower of images and the first of text are written (those in `roles`); a space with several images gets
    copies of the one. Raises ValueError for an encoder without towers, OSError where the disk refuses.
    """
    towers = {role: tower for role, tower in encoder.towers().items() if role in roles}
    if not towers:
        raise ValueError("this encoder has neither a tower of images nor one of text: there is nothing to save")
    return save_towers(path, towers)


def _check_use(name: str, image: bool, text: bool, space: spaces.Space) -> None:
    """An encoder that was asked for and has nothing to look at is a mistake."""
    if name in ("cnn", "mlp") or image or (text and name != "vit"):
        return
    raise ValueError(f"the encoder {name!r} sees images, and there is none (uint8, 8x8 or larger) in {space}")


def _in_parts(tower: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features of images, so many at a time where no gradient needs all of them at once."""
    if torch.is_grad_enabled() or len(images) <= AT_ONCE:
        return tower(images)
    pooled, tokens = zip(*(tower(part) for part in images.split(AT_ONCE)), strict=True)
    return torch.cat(pooled), torch.cat(tokens)


def _role(module: nn.Module) -> str | None:
    """What a tower sees, "image" or "text"; None for other leaves' modules."""
    return getattr(module, "role", None)


def _key(name: str) -> str:
    return "obs_" + name.replace(".", "/")


def _leaf_encoder(space: spaces.Space, towers: Towers) -> nn.Module:
    if is_image(space) and towers.image is not None:
        return towers.image(space.shape)  # type: ignore[arg-type]
    match space:
        case spaces.Box() if is_image(space):
            return _Vector(space, 1.0 / 255.0)
        case spaces.Box() | spaces.MultiBinary():
            return _Vector(space)
        case spaces.Discrete():
            return _OneHot([int(space.n)], [int(space.start)])
        case spaces.MultiDiscrete():
            return _OneHot([int(n) for n in space.nvec.flatten()], [int(s) for s in space.start.flatten()])
        case spaces.Text():
            return towers.text()
    raise ValueError(
        f"the encoder takes Box, Discrete, MultiDiscrete, MultiBinary and Text observations, alone or in a Dict or "
        f"Tuple; got {space}"
    )


class _Vector(nn.Module):
    def __init__(self, space: spaces.Space, scale: float = 1.0) -> None:
        super().__init__()
        self.out_dim, self.scale = int(torch.Size(space.shape or ()).numel()), scale

    def forward(self, x: Tensor) -> Tensor:
        flat = x.float().flatten(1) if x.dim() > 1 else x.float()[:, None]
        return flat if self.scale == 1.0 else flat * self.scale


class _OneHot(nn.Module):
    def __init__(self, sizes: Sequence[int], starts: Sequence[int]) -> None:
        super().__init__()
        self.sizes, self.starts, self.out_dim = list(sizes), list(starts), sum(sizes)

    def forward(self, x: Tensor) -> Tensor:
        columns = x.flatten(1) if x.dim() > 1 else x[:, None]
        hot = [
            nn.functional.one_hot(columns[:, i] - start, size)
            for i, (size, start) in enumerate(zip(self.sizes, self.starts, strict=True))
        ]
        return torch.cat(hot, dim=1).float()
