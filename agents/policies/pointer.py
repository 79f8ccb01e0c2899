"""The pointer policy: acts on screens by typed actions, whose points it finds by attention over patches.

An action space is a tagged union (`spaces.OneOf` of `spaces.Dict`; see `tagged.py` for what its arguments may be), an
observation a screenshot and an instruction. A step is one decision whose log-probability is the sum over the choices
that make its action: type, patch, cell, and so on (`chain.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agents.core.buffer import Batch, Field
from agents.encoders import Encoder, EncoderConfig, learning_statistics
from agents.policies.chain import Chain
from agents.policies.pointer_net import PointerNet, instruction_bytes
from agents.policies.policy import Decisions, Policy
from agents.policies.tagged import Layout

MOST_SCREENS = 256  # that one backward pass has memory for, but for one long segment


class PointerPolicy(Policy):
    """pi(action | screenshot, instruction) for tagged unions. A critic judges the summary that the type is chosen by.

    Raises ValueError for other spaces.
    """

    typical_rate = 1e-4
    judged = True

    def __init__(
        self, observation_space: spaces.Space, action_space: spaces.Space, *, encoder: str | EncoderConfig = "reader"
    ) -> None:
        super().__init__()
        self.layout = Layout.of(action_space)
        self.net = PointerNet(observation_space, self.layout, encoder)

    @property
    def encoder(self) -> Encoder:
        return self.net.encoder

    def fields(self) -> dict[str, Field]:
        return {"action": Field((len(self.layout),), torch.int64), "log_prob": Field()}

    @torch.no_grad()
    def act(
        self, obs: Any, generator: torch.Generator, *, episode_start: np.ndarray | None = None, version: int = 0
    ) -> dict[str, Any]:
        action, chain = self._draw(obs, False, generator)
        return {"action": action, "log_prob": chain.log_prob(action)}

    @torch.no_grad()
    def choose(self, obs: Any, deterministic: bool, generator: torch.Generator) -> Tensor:
        """Actions for evaluation: the most likely choice at every turn, or samples."""
        return self._draw(obs, deterministic, generator)[0]

    def _draw(self, obs: Any, deterministic: bool, generator: torch.Generator) -> tuple[Tensor, Chain]:
        seen = self.net.see(obs)
        action = torch.zeros((len(seen.summary), len(self.layout)), dtype=torch.int64, device=seen.summary.device)

        def pick(column: int, logits: Tensor) -> Tensor:
            if not deterministic:  # Gumbel-max: argmax(log p - log E), E ~ Exp(1)
                logits = logits - torch.empty_like(logits).exponential_(generator=generator).log_()
            action[:, column] = logits.argmax(-1)
            return action[:, column]

        logits = self.net.choose(seen, pick)
        relevant = self.layout.relevant.to(action.device)[action[:, 0]]
        return action * relevant, Chain(tuple(logits), relevant)

    def to_env(self, action: Tensor | np.ndarray, obs: Any) -> list[tuple[np.int64, Any]]:
        """Rows [batch, columns] as elements of the union; texts are cut out of the observations' instructions."""
        rows = torch.as_tensor(action).cpu()
        return self.layout.to_env(rows, self.net.grid, instruction_bytes(obs[self.net.text_name]))

    def from_env(self, actions: Sequence[Any], obs: Any) -> Tensor:
        """Elements of the union as rows, int64 [batch, columns]: `to_env` of them has points up to 1/8 patch away.

        Raises ValueError for a text that its instruction does not have.
        """
        return self.layout.from_env(actions, self.net.grid, instruction_bytes(obs[self.net.text_name]))

    def decisions(self, steps: Batch, *, entropy: bool = False) -> Decisions:
        """One for each step. The entropy is that at the choices made."""
        seen = self.net.see(steps.obs)
        chain = self._chain(seen, steps["action"])
        log_prob = chain.log_prob(steps["action"])
        with torch.set_grad_enabled(entropy and torch.is_grad_enabled()):
            entropies = chain.entropy()
        step = torch.arange(len(log_prob), device=log_prob.device)
        return Decisions(log_prob, steps.get("log_prob"), step, entropies, seen.summary)

    def imitation_losses(self, steps: Batch) -> Tensor:
        """-log_prob, and how hard it is to tell from what was pointed at which of the batch's instructions was given.

        Where to point among a few things says a bit or two of what is written on them, and reading takes long to learn
        from that; to pick out an instruction among many says five. An encoder's batch statistics are learned here, and
        here alone.
        """
        with learning_statistics(self.encoder):
            seen, action = self.net.see(steps.obs), steps["action"]
        chain = self._chain(seen, action)
        losses = -chain.log_prob(action)
        said = instruction_bytes(steps.obs[self.net.text_name])
        number = {text: i for i, text in enumerate(dict.fromkeys(said))}
        index = torch.tensor([number[text] for text in said], device=action.device)
        alike = (index[:, None] == index).float()
        for column in self._points():
            if (pointing := chain.relevant[:, column]).any():
                logits = self.net.mentions(seen, action[:, column])
                told = (logits.log_softmax(-1) + alike.log()).logsumexp(-1)
                losses = losses - told * pointing
        return losses

    def _points(self) -> list[int]:
        """The columns of patches."""
        arguments = self.layout.arguments.items()
        return [self.layout.columns[name][0] for name, one in arguments if isinstance(one, spaces.Box)]

    def distribution(self, steps: Batch) -> Chain:
        """At the choices made before each, as given by the steps."""
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the others have one derivative
            return self._chain(self.net.see(steps.obs), steps["action"], whole=True)  # TRPO differentiates all of it

    def _chain(self, seen: Any, action: Tensor, *, whole: bool = False) -> Chain:
        logits = self.net.choose(seen, lambda column, _: action[:, column], whole=whole)
        return Chain(tuple(logits), self.layout.relevant.to(action.device)[action[:, 0]])

    @torch.no_grad()
    def heat_map(self, obs: Any, action: Tensor) -> Tensor:
        """Where on the screen `action` [batch, columns] could have pointed, float [batch, height, width].

        Each pixel has the probability of its patch, given the choices that came before the point; 0 everywhere where
        the action points nowhere. For an action of several points, as a drag, the larger one.
        """
        chain, grid = self._chain(self.net.see(obs), action), self.net.grid
        heat = torch.zeros((len(action), len(grid)), device=action.device)
        for i in self._points():
            heat = heat.maximum(chain.logits[i].softmax(-1) * chain.relevant[:, i : i + 1])
        heat = heat.unflatten(-1, (grid.rows, grid.columns))
        heat = heat.repeat_interleave(grid.patch, 1).repeat_interleave(grid.patch, 2)
        return heat[:, : grid.height, : grid.width]

    def micro_batches(self, steps: Batch, segment: Tensor) -> list[Tensor]:
        sizes = torch.bincount(segment).cpu()
        counts = torch.bincount((sizes.cumsum(0) - sizes) // MOST_SCREENS)  # of segments in each part
        return list(torch.arange(len(sizes)).split(counts[counts > 0].tolist()))

    @property
    def critic_space(self) -> spaces.Box:
        """Of the summary of screen and instruction."""
        return spaces.Box(-np.inf, np.inf, (self.net.kind_said.embedding_dim,))

    def features(self, steps: Batch) -> Tensor:
        """[steps, width]"""
        return self.first_features(steps.obs)

    def first_features(self, obs: Any) -> Tensor:
        """[batch, width]"""
        return self.net.see(obs).summary
