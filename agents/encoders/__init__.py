"""Perception, shared by every policy and critic: from an observation space to a module that gives features.

`make_encoder(space, ...)` returns a module with `out_dim` that maps an observation tree (one tensor, or a mapping from
leaf path to tensor) to features [batch, out_dim]. Vectors are concatenated, integers one-hot encoded, images go
through a convolutional network; an MLP trunk joins them.
"""

from agents.encoders.encoder import Encoder, make_encoder

__all__ = ["Encoder", "make_encoder"]
