"""Multi-layer perceptrons with orthogonal or uniform fan-in initialisation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "gelu": nn.GELU}


def mlp(in_dim: int, hidden: Sequence[int], activation: str = "tanh", init: str = "orthogonal") -> nn.Sequential:
    """Linear layers with an activation behind each; the output has `hidden[-1]` features (in_dim if none).

    init: "orthogonal" (gain sqrt 2, zero bias) or "fan_in" (PyTorch's uniform +-1/sqrt(fan_in), as in the DDPG paper).
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layer = nn.Linear(in_dim, width)
        if init == "orthogonal":
            orthogonal(layer, 2.0**0.5)
        layers += [layer, ACTIVATIONS[activation]()]
        in_dim = width
    return nn.Sequential(*layers)


def orthogonal(layer: nn.Linear | nn.Conv2d, gain: float) -> None:
    """Orthogonal weights with the given gain, and zero bias."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
