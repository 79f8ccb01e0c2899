"""Perception, shared by every policy and critic: from an observation space to a module that gives features.

`make_encoder(space)` returns a module with `out_dim` that maps an observation tree (one tensor, or a mapping from leaf
path to tensor) to features [batch, out_dim]. Vectors pass through, integers are one-hot encoded, images go through a
convolutional network; the leaves' features are concatenated. `MLP` is what policies and critics put behind it.
"""

from agents.encoders.encoder import Encoder, make_encoder
from agents.encoders.mlp import MLP, output_and_backward

__all__ = ["MLP", "Encoder", "make_encoder", "output_and_backward"]
