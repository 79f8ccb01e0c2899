"""Perception, shared by every policy and critic: from an observation space to a module that gives features.

`make_encoder(space, config)` returns an `Encoder` with `out_dim` that maps an observation tree (one tensor, or a
mapping from leaf path to tensor) to features [batch, out_dim]; its `features` also gives an image's patch tokens and a
text's tokens. Vectors pass through, integers are one-hot encoded, images and text go through the towers that `config`
names; the leaves' features are concatenated. `MLP` is what policies and critics put behind it.
"""

from agents.encoders.encoder import Encoder, EncoderConfig, learning_statistics, make_encoder, save_encoder
from agents.encoders.features import Features, Grid, Size, TextTokens
from agents.encoders.mlp import MLP, output_and_backward

__all__ = [
    "MLP",
    "Encoder",
    "EncoderConfig",
    "Features",
    "Grid",
    "Size",
    "TextTokens",
    "learning_statistics",
    "make_encoder",
    "output_and_backward",
    "save_encoder",
]
