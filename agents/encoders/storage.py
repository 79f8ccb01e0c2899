"""Towers by name: built from scratch, out of a file of our own, or out of what transformers loads.

A file of our own (`save_encoder`) is one safetensors file: weights, and how each tower is built as JSON in its
metadata. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from agents.core import checkpoint
from agents.core.errors import nearest
from agents.encoders.cnn import CNN, image_shape
from agents.encoders.features import Size
from agents.encoders.reader import ByteReader, ScreenReader

# images and text import transformers, which takes seconds and memory: only what needs them does.

NAMES = ("cnn", "mlp", "reader", "vit", "clip", "siglip")
PRETRAINED = ("vit", "clip", "clip_vision_model", "siglip", "siglip_vision_model")  # transformers' names
FILE = "encoder.safetensors"  # in the directory of a pretraining run


@dataclass
class Towers:
    """What turns images of a shape, and texts, into features; no `image`: their pixels are the features.

    chosen: the roles whose tower is the one asked for. An encoder pretrained on images alone reads by a new text tower,
    which is not chosen, and must learn even where the encoder is frozen.
    """

    image: Callable[[tuple[int, ...]], nn.Module] | None
    text: Callable[[], nn.Module]
    chosen: frozenset[str] = frozenset(("image", "text"))


def find_towers(name: str, size: Size) -> Towers:
    """The towers that `name` stands for: see `agents.encoders.make_encoder`, also for what is raised."""

    def text() -> nn.Module:
        from agents.encoders.text import TextTower

        return TextTower.small("clip" if name == "clip" else "siglip", size)

    def image(shape: tuple[int, ...]) -> nn.Module:
        from agents.encoders.images import ImageTower

        return ImageTower.small(name, shape, size)

    if name == "mlp":
        return Towers(None, text)
    if name == "cnn":
        return Towers(CNN, text)
    if name == "reader":
        return Towers(ScreenReader, ByteReader)
    if name in NAMES:
        return Towers(image, text)
    if name.startswith("{"):
        return _stored(json.loads(name), text)
    path = Path(name)
    with contextlib.suppress(FileNotFoundError):
        state = checkpoint.load(path / FILE if (path / FILE).is_file() else path)
        if "encoder" not in state:
            raise ValueError(f"{path} holds no encoder; `python -m experiments.pretrain` and `save_encoder` write one")
        return _stored(state["encoder"], text)
    if path.is_dir() or name.count("/") == 1:
        return _pretrained(name, text)
    raise ValueError(
        f"there is no encoder {name!r}.{nearest(name, NAMES)} It is one of {', '.join(NAMES)}, the path of a saved "
        "one, or a folder or hub id of a ViT, CLIP or SigLIP that transformers loads."
    )


def describe_towers(
    towers: Mapping[str, nn.Module], *, weights: bool, chosen: Collection[str] = ("image", "text")
) -> dict[str, Any]:
    """{"image": ..., "text": ...} as plain data, with weights or without."""
    found: dict[str, Any] = {}
    for what, tower in towers.items():
        found[what] = {"description": cast(Any, tower).description(), "chosen": what in chosen}
        if weights:
            found[what]["weights"] = tower.state_dict()
    return found


def save_towers(path: str | os.PathLike[str], towers: Mapping[str, nn.Module]) -> Path:
    """Write towers ("image", "text") to one file (".safetensors" is added where the path has no suffix)."""
    return checkpoint.save(path, {"encoder": describe_towers(towers, weights=True)})


def _stored(state: Mapping[str, Any], text: Callable[[], nn.Module]) -> Towers:
    def stored_text() -> nn.Module:
        tower: nn.Module
        if state["text"]["description"]["kind"] == "reader":
            tower = ByteReader()
        else:
            from agents.encoders.text import TextTower

            tower = TextTower.from_description(state["text"]["description"])
        if "weights" in state["text"]:
            tower.load_state_dict(state["text"]["weights"])
        return tower

    def stored_image(shape: tuple[int, ...]) -> nn.Module:
        description = state["image"]["description"]
        if description["kind"] == "cnn":
            return _stored_cnn(state["image"], shape)
        tower: Any
        if description["kind"] == "reader":
            tower = ScreenReader(tuple(description["shape"]))
        else:
            from agents.encoders.images import ImageTower

            tower = ImageTower.from_description(description)
        if "weights" in state["image"]:
            tower.load_state_dict(state["image"]["weights"])
        _check_channels(tower.channels, shape)
        return tower

    def no_image(shape: tuple[int, ...]) -> nn.Module:
        raise ValueError(f"the saved encoder has seen no images; the observation has one of {list(shape)}")

    chosen = frozenset(what for what, tower in state.items() if tower["chosen"])
    return Towers(stored_image if "image" in state else no_image, stored_text if "text" in state else text, chosen)


def _stored_cnn(state: Mapping[str, Any], shape: tuple[int, ...]) -> nn.Module:
    """A stored CNN for images of another size too: what depends on the size, its projection, is then made anew."""
    _, _, channels = state["description"]["shape"]
    _check_channels(channels, shape)
    made = CNN(shape, state["description"]["out_dim"])
    old = CNN(tuple(state["description"]["shape"]), state["description"]["out_dim"])
    weights = state.get("weights")
    if weights is not None:
        if old.patch != made.patch:
            raise ValueError(
                f"the saved CNN has a token for every {old.patch} pixels; images of {list(shape)} take another network"
            )
        if old.pooled_grid != made.pooled_grid:
            weights = {**weights, **{f"project.{k}": v for k, v in made.project.state_dict().items()}}
        made.load_state_dict(weights)
    return made


def _check_channels(channels: int, shape: tuple[int, ...]) -> None:
    if image_shape(shape)[2] != channels:
        raise ValueError(f"this encoder sees images of {channels} channels; the observation is one of {list(shape)}")


def _pretrained(name: str, text: Callable[[], nn.Module]) -> Towers:
    """A ViT, CLIP or SigLIP that transformers loads from a folder or the hub."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer, ViTModel
    from transformers.image_processing_base import ImageProcessingMixin

    from agents.encoders.images import IMAGE_MODELS, ImageTower
    from agents.encoders.text import TextTower

    try:
        kind = AutoConfig.from_pretrained(name).model_type
    except (OSError, ValueError) as error:
        raise ValueError(f"transformers finds no encoder {name!r}: {str(error).splitlines()[0]}") from None
    if kind not in PRETRAINED:
        raise ValueError(f"{name} is a model of type {kind}; the encoders are of type {', '.join(PRETRAINED)}")
    if kind == "vit":
        model = ViTModel.from_pretrained(name, add_pooling_layer=False)
    else:
        model = AutoModel.from_pretrained(name)
    model, kind = model.float(), kind.split("_")[0]
    tokenizer = AutoTokenizer.from_pretrained(name) if hasattr(model, "text_model") else None
    *_, mean, std = IMAGE_MODELS[kind]
    try:
        processor, _ = ImageProcessingMixin.get_image_processor_dict(name)
        mean, std = processor.get("image_mean", mean), processor.get("image_std", std)
    except OSError:
        pass  # no preprocessor_config.json: what the kind's published checkpoints use
    towers: dict[str, nn.Module] = {"image": ImageTower(kind, getattr(model, "vision_model", model), mean, std)}
    if tokenizer is not None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(f"the tokenizer of {name} cannot be read by the package tokenizers (tokenizer.json)")
        towers["text"] = TextTower(kind, model.text_model, backend)
    return _stored(describe_towers(towers, weights=True), text)
