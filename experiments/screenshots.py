"""An environment's own screenshots and instructions, which encoders are pretrained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array
from torch import Tensor

from agents.core.buffer import Ragged
from agents.core.errors import guarded
from agents.core.spaces import encode_text, flatten, leaves
from agents.encoders.cnn import is_image

PATIENCE = 20  # environment steps for each screenshot wanted, before those there are must do


@dataclass
class Screenshots:
    """images: uint8 [n, H, W, C]; texts: the instruction that each was seen with, nothing where there are none."""

    images: Tensor
    texts: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def text(self, rows: list[int]) -> Ragged:
        """Instructions as an encoder takes them."""
        return Ragged.of(
            [torch.from_numpy(row.copy()) for row in encode_text([self.texts[i] for i in rows])], torch.uint8
        )

    def by_text(self) -> list[list[int]]:
        """Numbers of the screenshots of each distinct instruction, in the order in which they came."""
        groups: dict[str, list[int]] = {}
        for i, text in enumerate(self.texts):
            groups.setdefault(text, []).append(i)
        return list(groups.values())


def screen_leaves(space: spaces.Space) -> tuple[str, str | None]:
    """Leaf paths of the first image and of the first text, if any. Raises ValueError where there is no image."""
    named = leaves(space)
    images = [name for name, leaf in named.items() if is_image(leaf)]
    texts = [name for name, leaf in named.items() if isinstance(leaf, spaces.Text)]
    if not images:
        raise ValueError(f"pretraining needs screenshots (uint8 images of at least 8x8); the observations are {space}")
    return images[0], next(iter(texts), None)


def collect(env: VectorEnv, count: int, seeds: Iterator[int], *, demonstrated: float, seed: int) -> Screenshots:
    """`count` screenshots, no two running the same, along episodes with these reset seeds.

    Each action is the environment's own demonstration with probability `demonstrated`, where it has one, and otherwise
    random. Fewer screenshots come back from an environment that hardly ever changes.
    """
    image, text = screen_leaves(env.single_observation_space)
    space, n = env.single_action_space, env.num_envs
    space.seed(seed)
    rng = np.random.default_rng(seed)
    demonstrate = getattr(env.unwrapped, "demonstrate", None)
    reset: Any = env.reset  # Gymnasium annotates one seed where a list is accepted
    obs, _ = guarded("in reset", reset, seed=[next(seeds) for _ in range(n)])
    images: list[np.ndarray] = []
    texts: list[str] = []
    last: list[np.ndarray | None] = [None] * n
    for _ in range(-(-PATIENCE * count // n)):
        named = flatten(env.single_observation_space, obs, "")
        for i, shot in enumerate(named[image]):
            if last[i] is None or not np.array_equal(shot, last[i]):  # type: ignore[arg-type]
                last[i] = np.array(shot)
                images.append(last[i])  # type: ignore[arg-type]
                texts += [] if text is None else [str(named[text][i])]
        if len(images) >= count:
            break
        chosen = [space.sample() for _ in range(n)]
        if demonstrate is not None and demonstrated > 0:
            expert = zip(demonstrate(), rng.random(n) < demonstrated, strict=True)
            chosen = [c if e is None or not use else e for c, (e, use) in zip(chosen, expert, strict=True)]
        actions: Any = concatenate(space, chosen, create_empty_array(space, n))  # type: ignore[arg-type]
        obs, _, terminated, truncated, _ = guarded("in step", env.step, actions)
        over = terminated | truncated
        if over.any():
            upcoming = [next(seeds) if done else None for done in over]
            obs, _ = guarded("in reset", reset, seed=upcoming, options={"reset_mask": over})
    return Screenshots(torch.from_numpy(np.stack(images[:count])), texts[:count])
