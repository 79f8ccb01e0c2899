"""A language model with eyes as a policy: a screenshot and an instruction in, text out.

An image-text model of transformers reads a picture as embeddings in the place of tokens. Here these tokens are
numbered: picture i of a batch, of P embeddings, is the tokens first + i P, ..., first + i P + P - 1 beyond the
vocabulary. Prompts are thus tokens like any others - equal ones are prefilled once, packed once, bounded in tokens -
and nothing but the embedding (`Backbone.pictures`) knows what stands behind them. Each distinct picture is encoded
once, with gradients in training.

Left out: several pictures in a prompt (what was on the screen before), and models that do more with a picture than to
embed it: attention that sees a picture whole or crosses to it, and positions in rows and columns (Qwen2-VL). The first
prompt is compared with the model's own pass over it, so that such a model is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.core.spaces import decode_text, leaves
from agents.encoders.cnn import is_image
from agents.policies.language import LanguagePolicy
from agents.policies.models import Lora, load_image_text_model
from agents.policies.tiny import Eyes, TinySize

# What a chat model is told before the instruction: the output format and action space of UI-TARS's prompt.
SCREEN_PROMPT = """You are a GUI agent. You are given a task and a screenshot. \
You need to perform the next action to complete the task.

## Output Format
Thought: ...
Action: ...

## Action Space
click(point='<point>x y</point>')
left_double(point='<point>x y</point>')
right_single(point='<point>x y</point>')
drag(start_point='<point>x1 y1</point>', end_point='<point>x2 y2</point>')
hotkey(key='ctrl c')
type(content='xxx')
scroll(point='<point>x y</point>', direction='down or up or right or left')
wait()
finished(content='xxx')

## User Instruction
"""


class VisionLanguagePolicy(LanguagePolicy):
    """pi(response | screenshot, instruction), of observations that have one image and one text.

    model, processor: transformers' own, as `load_image_text_model` gives them; space: of the observations.

    Raises ValueError for another space, a processor whose pictures differ in their number of tokens, or a model that
    takes pictures in otherwise than as embeddings.
    """

    def __init__(
        self, model: Any, processor: Any, space: spaces.Space, *, micro_batch_tokens: int | None = None
    ) -> None:
        super().__init__(model, processor.tokenizer, micro_batch_tokens=micro_batch_tokens)
        self.processor = processor
        self.image, self.text, (height, width, _) = screen_leaves(space)
        self.image_token: int = model.config.image_token_id
        self.image_word: str = processor.tokenizer.convert_ids_to_tokens(self.image_token)
        picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        self.block = self._find_block(picture)
        self.length = int((self.block == self.image_token).sum())  # embeddings of one picture
        self._check(picture)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        name: str,
        space: spaces.Space,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        lora: Lora | None = None,
        seed: int = 0,
        size: TinySize | None = None,
        micro_batch_tokens: int | None = None,
    ) -> VisionLanguagePolicy:
        """From a name that `load_image_text_model` takes."""
        height, width, _ = screen_leaves(space)[2]
        model, processor = load_image_text_model(
            name, (height, width), dtype=dtype, device=device, lora=lora, seed=seed, size=size
        )
        return cls(model, processor, space, micro_batch_tokens=micro_batch_tokens)

    # --- prompts ------------------------------------------------------------------------------------------------

    @property
    def chats(self) -> bool:
        return bool(getattr(self.processor, "chat_template", None))

    def prompts(self, obs: Mapping[str, Any]) -> list[Tensor]:
        """Tokens int64 [p] of a screenshot and an instruction each; those of its picture are beyond the vocabulary."""
        numbers, _ = _distinct(obs[self.image])
        return self._prompts(numbers, decode_text(obs[self.text]))

    @contextmanager
    def reading(self, obs: Mapping[str, Any]) -> Iterator[list[Tensor]]:
        """`prompts(obs)`, whose pictures are looked at (with gradients, if any) and known as long as this lasts."""
        numbers, pictures = _distinct(obs[self.image])
        self.backbone.pictures = self.look(pictures)
        try:
            yield self._prompts(numbers, decode_text(obs[self.text]))
        finally:
            self.backbone.pictures = None

    @property
    def eyes(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, Eyes)]  # those of `tiny`

    def look(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Embeddings [pictures * P, width] of pictures, uint8 [H, W, C] each."""
        most = max(1, self.micro_batch_tokens // self.length)
        parts = [self._encode_pictures(pictures[i : i + most]) for i in range(0, len(pictures), most)]
        return torch.cat(parts) if parts else torch.zeros(0, self.backbone.width, device=self.backbone.device)

    def _encode_pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        inputs = self.processor.image_processor(images=[[picture] for picture in pictures], return_tensors="pt")
        found = model.get_image_features(**self._moved(inputs), return_dict=True).pooler_output
        return torch.cat([part.reshape(-1, part.shape[-1]) for part in found])

    def _moved(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        device, dtype = self.backbone.device, self.backbone.dtype
        return {k: v.to(device, dtype) if v.is_floating_point() else v.to(device) for k, v in inputs.items()}

    def _prompts(self, numbers: Sequence[int], texts: Sequence[str]) -> list[Tensor]:
        prompts = []
        for number, tokens in zip(numbers, self._tokenize([self._template(text) for text in texts]), strict=True):
            at = tokens.index(self.image_token)
            block = self.block.clone()
            first = self.backbone.first_picture + number * self.length
            block[block == self.image_token] = torch.arange(first, first + self.length)
            prompts.append(torch.cat((torch.tensor(tokens[:at]), block, torch.tensor(tokens[at + 1 :]))).long())
        return prompts

    def _template(self, text: str) -> str:
        text = text.replace(self.image_word, "")  # there is one picture, and it is no part of the instruction
        if not self.chats:
            return f"{self.image_word}{text}\n"
        content = [{"type": "image"}, {"type": "text", "text": SCREEN_PROMPT + text}]
        talk = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        return self.tokenizer(texts, add_special_tokens=not self._begun(texts[0]))["input_ids"]

    def _begun(self, text: str) -> bool:
        """Whether the template has written the token with which texts begin."""
        return self.tokenizer.bos_token is not None and text.startswith(self.tokenizer.bos_token)

    # --- what a model does with pictures --------------------------------------------------------------------------

    def _process(self, picture: np.ndarray, text: str) -> dict[str, Any]:
        """What the processor makes of one prompt, on the model's device."""
        written = self._template(text)
        inputs = self.processor(
            text=[written], images=[[picture]], add_special_tokens=not self._begun(written), return_tensors="pt"
        )
        return self._moved(inputs)

    def _find_block(self, picture: np.ndarray) -> Tensor:
        """The tokens [b] that the processor writes in place of one image token, for pictures of this shape."""
        (short,) = self._tokenize([self._template("")])
        if short.count(self.image_token) != 1:
            kind = type(self.processor).__name__
            raise ValueError(f"the {kind} of this model writes no token {self.image_word} where a picture stands")
        full = self._process(picture, "")["input_ids"][0].cpu()
        at = short.index(self.image_token)
        return full[at : len(full) - (len(short) - at - 1)]

    def _check(self, picture: np.ndarray) -> None:
        """Compare a prompt's logits with those of the model's own pass; leave alone weights that play no part in them.

        Such weights (layers of a tower behind the one that is looked at) have no gradient, which TRPO asks for.
        """
        backbone, prompt = self.backbone, self._prompts([0], ["this"])[0].to(self.backbone.device)
        with torch.no_grad():
            expected = self.model(**self._process(picture, "this"), use_cache=False).logits[0].float()
        backbone.pictures = self.look([picture])
        hidden = backbone.hidden(prompt[None])[0]
        fits = len(backbone.pictures) == self.length and len(expected) == len(prompt)
        backbone.pictures = None
        if fits:
            found = backbone.logits(hidden.detach())
            near = 1e-3 if found.dtype == backbone.dtype else 3e-2
            fits = torch.allclose(found, expected, rtol=near, atol=near * float(expected.abs().max()))
        if not fits:
            raise ValueError(
                f"{type(self.model).__name__} takes pictures in otherwise than as embeddings in the place of tokens "
                "that are read in order, as LLaVA and SmolVLM do; it cannot be used here"
            )
        trained = [p for p in self.model.parameters() if p.requires_grad]
        logits = backbone.logits(hidden)
        for p, grad in zip(trained, torch.autograd.grad(logits.sum(), trained, allow_unused=True), strict=True):
            p.requires_grad_(grad is not None)


def screen_leaves(space: spaces.Space) -> tuple[str, str, tuple[int, int, int]]:
    """Paths of the image and of the text among observations, and (height, width, 3). Raises ValueError for others."""
    named = leaves(space)
    images = [name for name, leaf in named.items() if is_image(leaf) and (leaf.shape or ())[2] == 3]
    texts = [name for name, leaf in named.items() if isinstance(leaf, spaces.Text)]
    if len(images) != 1 or len(texts) != 1 or len(named) != 2:
        raise ValueError(
            "a language model answers Text, or a Dict of one screenshot (uint8, height x width x 3) and one "
            f"instruction (Text); the observation here is {space}"
        )
    height, width, _ = named[images[0]].shape or ()
    return images[0], texts[0], (height, width, 3)


def _distinct(images: Tensor) -> tuple[list[int], list[np.ndarray]]:
    """The number of each image [batch, H, W, 3] among the distinct ones, and these, in the order in which they come."""
    numbers: dict[bytes, int] = {}
    pictures: list[np.ndarray] = []
    found = []
    for image in images.cpu().numpy():
        key = image.tobytes()
        if key not in numbers:
            numbers[key] = len(pictures)
            pictures.append(image)
        found.append(numbers[key])
    return found, pictures
