"""An encoder in pretraining: batches, optimiser, evaluation, and everything a resumed run needs.

AdamW with betas 0.9 and 0.95, a linear warm-up over the first twentieth of the steps and a cosine to zero, as MAE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from agents.encoders import Encoder, make_encoder
from agents.encoders.pretraining import Contrastive, MaskedAutoencoder, random_mask, retrieval_accuracy
from experiments.screenshots import Screenshots, screen_leaves

DECAY = 0.05
WARM_UP = 0.05  # share of all steps
CANDIDATES = 256  # most texts among which one is to be retrieved
PICTURES = 4


class Pretraining:
    """One objective on one environment's screenshots.

    objective: "mae", "clip" or "siglip". Raises ValueError where it needs what the encoder or the screenshots lack.
    """

    def __init__(
        self,
        objective: str,
        space: spaces.Space,
        encoder: str,
        data: Screenshots,
        held_out: Screenshots,
        *,
        steps: int,
        batch_size: int,
        learning_rate: float,
        seed: int,
        device: torch.device,
    ) -> None:
        self.objective, self.data, self.held_out, self.device = objective, data, held_out, device
        self.steps, self.learning_rate = steps, learning_rate
        self.step = 0
        self.generator = torch.Generator().manual_seed(seed)
        image, text = screen_leaves(space)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder: Encoder = make_encoder(space, encoder)
            if objective == "mae":
                self.model: Any = MaskedAutoencoder(self.encoder, image).to(device)
            else:
                if text is None:
                    raise ValueError(f"{objective} contrasts screenshots with instructions; {space} has no text")
                self.model = Contrastive(self.encoder, image, text, objective).to(device)  # type: ignore[arg-type]
        self.groups = [torch.tensor(rows) for rows in data.by_text()]
        if objective != "mae" and min(len(self.groups), len(held_out.by_text())) < 2:
            raise ValueError(f"{objective} needs at least two different instructions; here all are the same")
        self.batch_size = min(batch_size, len(data) if objective == "mae" else len(self.groups))
        params = [p for p in self.model.parameters() if p.requires_grad]
        decayed, free = [p for p in params if p.dim() > 1], [p for p in params if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": DECAY}, {"params": free, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)

    def rate(self) -> float:
        """The learning rate of the next step."""
        warm_up = max(1, int(WARM_UP * self.steps))
        if self.step < warm_up:
            return self.learning_rate * (self.step + 1) / warm_up
        progress = (self.step - warm_up) / max(1, self.steps - warm_up)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))

    def train_step(self) -> Tensor:
        """One gradient step; the loss of its batch, []."""
        rows = self._batch()
        images = self.data.images[rows].to(self.device)
        self.optimizer.zero_grad()
        if self.objective == "mae":
            loss, _ = self.model(images, self._mask(len(rows), self.generator))
        else:
            loss = self.model(images, self.data.text(rows.tolist()).to(self.device))
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.step()
        if self.objective != "mae":
            self.model.clamp()
        self.step += 1
        return loss.detach()

    def _batch(self) -> Tensor:
        """Rows of a batch; in a contrast no two have the same instruction, or equals would be told apart."""
        if self.objective == "mae":
            return torch.randint(len(self.data), (self.batch_size,), generator=self.generator)
        chosen = torch.randperm(len(self.groups), generator=self.generator)[: self.batch_size]
        draws = torch.rand(len(chosen), generator=self.generator)
        groups = [self.groups[i] for i in chosen.tolist()]
        return torch.stack([g[int(u * len(g))] for g, u in zip(groups, draws.tolist(), strict=True)])

    def _mask(self, batch: int, generator: torch.Generator) -> Tensor:
        return random_mask(batch, len(self.model.grid), generator).to(self.device)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Metrics on screenshots of episodes that training never sees, always the same ones."""
        generator = torch.Generator().manual_seed(0)
        held = self.held_out
        if self.objective == "mae":
            losses = [
                self.model(part.to(self.device), self._mask(len(part), generator))[0] * len(part)
                for part in held.images.split(self.batch_size)
            ]
            return {"loss": float(torch.stack(losses).sum()) / len(held)}
        rows = [group[0] for group in held.by_text()][:CANDIDATES]
        parts = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        pairs = [self.model.embed(held.images[p].to(self.device), held.text(p).to(self.device)) for p in parts]
        image, text = (torch.cat(vectors) for vectors in zip(*pairs, strict=True))
        return {
            "loss": float(self.model.loss(image, text)),
            "image_to_text": retrieval_accuracy(image, text),
            "text_to_image": retrieval_accuracy(text, image),
            "chance": 1.0 / len(rows),
            "log_scale": float(self.model.log_scale),
        }

    def pictures(self) -> Tensor | None:
        """MAE: some held-out screenshots, what is visible of them, and reconstructions, uint8 [C, H', 3 W]."""
        if self.objective != "mae":
            return None
        images = self.held_out.images[:PICTURES].to(self.device)
        mask = self._mask(len(images), torch.Generator().manual_seed(0))
        return torch.cat(list(self.model.pictures(images, mask)), 1).cpu()

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
