"""Actor and critic of DDPG on screens: a screenshot and an instruction in, a typed action out (`relaxed.py`).

The actor gives every type's arguments at once. A point is the mean of an attention over the screen's patches; text is
copied out of the instruction, its start and end being choices among the instruction's bytes. The critic looks where
the action points: it reads the patches there, bilinearly, and so has a slope in the point; a choice counts by what is
known of the thing chosen. Arguments of types that were not chosen it does not see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from agents.core.spaces import leaves
from agents.encoders import MLP, Encoder, EncoderConfig, Grid, learning_statistics
from agents.encoders.cnn import is_image
from agents.policies.pointer_net import NEVER, Seen, Sight, instruction_bytes
from agents.policies.relaxed import POSITIONS, Block, Relaxed, is_point

WIDTH = 64


def acts_on_screens(observation_space: spaces.Space, action_space: spaces.Space) -> bool:
    """Whether actions are typed ones, or points on an image that comes with an instruction."""
    if isinstance(action_space, spaces.OneOf):
        return True
    seen = [(is_image(leaf), isinstance(leaf, spaces.Text)) for leaf in leaves(observation_space).values()]
    return is_point(action_space) and sorted(seen) == [(False, True), (True, False)]


class Outputs(NamedTuple):
    """What the actor computes. scores: logits of choices, and points, [batch, dim]; attention: of each point block, the
    logarithm of the weights by which it is a mean of patches, [batch, patches]."""

    scores: Tensor
    attention: dict[Block, Tensor]


class ScreenActor(nn.Module):
    """mu(screenshot, instruction), a relaxed action [batch, dim].

    Raises ValueError for other spaces (see `Relaxed` and `Sight`).
    """

    def __init__(
        self, observation_space: spaces.Space, action_space: spaces.Space, *, encoder: str | EncoderConfig = "reader"
    ) -> None:
        super().__init__()
        self.vector = Relaxed.of(action_space)
        self.dim = self.vector.dim
        self.sight = Sight(observation_space, encoder, WIDTH)
        self.kind, self.kind_said = _head(len(self.vector.types)), nn.Embedding(len(self.vector.types), WIDTH)
        self.heads = nn.ModuleDict()  # by argument, "argument_" before it, as a ModuleDict has methods of its own
        for name, argument in self.vector.arguments.items():
            match argument:
                case spaces.Discrete():
                    self.heads[f"argument_{name}"] = _head(int(argument.n))
                case spaces.Text():
                    self.heads[f"argument_{name}"] = _Span(argument)
                case _:
                    self.heads[f"argument_{name}"] = _Point(self.sight.grid)

        self.continuous = bool(self.vector.continuous.any())  # whether noise on its actions explores

    @property
    def encoder(self) -> Encoder:
        return self.sight.encoder

    def outputs(self, obs: Any, noise: Tensor | None = None, given: Tensor | None = None) -> Outputs:
        """noise: what is added to the logits before choices are made of them, [batch, dim]. given: a one-hot action
        [batch, dim] at whose choices later ones are wanted, instead of at its own."""
        seen = self.sight.see(obs)
        scores, attention = [self.kind(seen.summary)], dict[Block, Tensor]()
        states = [seen.summary + said for said in self.kind_said.weight]
        for block in self.vector.blocks[1:]:
            head: Any = self.heads[f"argument_{block.argument}"]
            state = states[block.owner]
            match block.part:
                case "value":
                    scores.append(head(state))
                case "point":
                    point, attention[block] = head(seen, state)
                    scores.append(point)
                case "start":
                    scores.append(head.start(seen, state))
                    start = _pick(scores[-1], block, noise, given)
                case "end":
                    scores.append(head.end(seen, state, start))
                    end = _pick(scores[-1], block, noise, given)
                case _:
                    scores.append(head.newline(seen, state, start, end))
        return Outputs(torch.cat(scores, -1), attention)

    def forward(self, obs: Any) -> Tensor:
        """The greedy action, [batch, dim], with the arguments of every type."""
        return self.vector.one_hot(self.outputs(obs).scores)

    @torch.no_grad()
    def predict(self, obs: Any) -> Tensor:
        """The greedy action, [batch, dim], with its own arguments alone."""
        return self.vector.masked(self(obs))

    def noise(self, batch: int, generator: torch.Generator) -> Tensor:
        """The Gumbel noise [batch, dim] that `with_backward` adds to the logits; 0 for points."""
        gumbel = torch.empty(batch, self.dim, device=generator.device).exponential_(generator=generator).log_().neg_()
        return gumbel.masked_fill_(self.vector.continuous.to(gumbel.device), 0.0)

    @torch.no_grad()
    def with_backward(
        self, obs: Any, noise: Tensor | None, temperature: float = 1.0
    ) -> tuple[Tensor, Callable[[Tensor], None]]:
        """The action [batch, dim] that the actor's loss differentiates, with the arguments of every type, and a
        function that takes dL/daction and leaves dL/dparameters in the parameters' `.grad`.

        Choices are drawn and differentiated by straight-through Gumbel-softmax.
        """
        with torch.enable_grad():
            graph = self.outputs(obs, noise).scores
        scores = graph.detach() if noise is None else graph.detach() + noise

        def backward(grad: Tensor) -> None:
            slope = grad.clone()
            for block in self.vector.choices:
                g, p = grad[:, block.columns], (scores[:, block.columns] / temperature).softmax(-1)
                slope[:, block.columns] = p * (g - (g * p).sum(-1, keepdim=True)) / temperature
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad.zero_()
            graph.backward(slope)

        return self.vector.one_hot(scores), backward

    @torch.no_grad()
    def explore(
        self, obs: Any, generator: torch.Generator, epsilon: float = 0.0, noise: Tensor | None = None
    ) -> Tensor:
        """Actions [batch, dim] with noise [batch, dim] on their points and choices drawn from the softmax, of which a
        share epsilon is uniform altogether."""
        gumbel = self.noise(_batch(obs), generator)
        scores = self.outputs(obs, gumbel).scores + gumbel
        if noise is not None:
            scores += noise * self.vector.continuous.to(noise.device)
        action = self.vector.masked(self.vector.one_hot(scores))
        if epsilon == 0.0:
            return action
        uniform = torch.rand(len(action), 1, generator=generator, device=generator.device) < epsilon
        return torch.where(uniform, self.random(len(action), generator, obs), action)

    def random(self, batch: int, generator: torch.Generator, obs: Any) -> Tensor:
        """Uniform actions [batch, dim]: of types, of each type's arguments, and of the texts that there are."""
        scores = torch.rand(batch, self.dim, generator=generator, device=generator.device).mul_(2.0).sub_(1.0)
        length = obs[self.sight.text_name].lengths.to(scores.device)[:, None].clamp(max=POSITIONS - 1)
        at = torch.arange(POSITIONS, device=scores.device)
        for block in self.vector.blocks:
            if block.part == "start":
                scores[:, block.columns].masked_fill_(at > length, NEVER)
                start = scores[:, block.columns].argmax(-1, keepdim=True)
            elif block.part == "end":
                scores[:, block.columns].masked_fill_((at < start) | (at > length), NEVER)
        return self.vector.masked(self.vector.one_hot(scores))

    def to_env(self, action: Tensor, obs: Any) -> Any:
        """Vectors [batch, dim] as the environment takes them; texts are cut out of the observations' instructions."""
        return self.vector.to_env(action, instruction_bytes(obs[self.sight.text_name]))

    def from_env(self, actions: Sequence[Any], obs: Any) -> Tensor:
        """The environment's actions as vectors [batch, dim]: `to_env` of them gives the actions back.

        Raises ValueError for a text that its instruction does not have.
        """
        return self.vector.from_env(actions, instruction_bytes(obs[self.sight.text_name]))

    @torch.no_grad()
    def heat_map(self, obs: Any, action: Tensor) -> Tensor:
        """The attention whose mean the actor's point is, for actions [batch, dim] of its type, float [batch, height,
        width]: each pixel has the weight of its patch. 0 everywhere where the action points nowhere; for an action of
        several points, as a drag, the larger one."""
        grid, kind = self.sight.grid, action[:, self.vector.blocks[0].columns]
        heat = action.new_zeros(len(action), len(grid))
        for block, weights in self.outputs(obs, given=action).attention.items():
            heat = heat.maximum(weights.exp() * kind[:, block.owner, None])
        heat = heat.unflatten(-1, (grid.rows, grid.columns))
        heat = heat.repeat_interleave(grid.patch, 1).repeat_interleave(grid.patch, 2)
        return heat[:, : grid.height, : grid.width]

    def imitation_loss(self, obs: Any, action: Tensor) -> Tensor:
        """How far the policy is from an expert's actions [batch, dim], [batch]: cross-entropy of choices; of points the
        squared error, and the cross-entropy of their attention, whose mean alone would linger between two places.

        An encoder's batch statistics are learned here, and here alone."""
        with learning_statistics(self.encoder):
            outputs, relevant = self.outputs(obs, given=action), self.vector.relevant.to(action.device)
        kind = action[:, self.vector.blocks[0].columns].argmax(-1)
        loss = action.new_zeros(len(action))
        for block in self.vector.blocks:
            found, wanted = outputs.scores[:, block.columns], action[:, block.columns]
            if block.part == "point":
                patch = _patch(self.sight.grid, wanted)[:, None]
                one = (found - wanted).square().sum(-1) - outputs.attention[block].gather(-1, patch)[:, 0]
            else:
                one = -(found.log_softmax(-1) * wanted).sum(-1)
            loss = loss + one * relevant[kind, block.start]
        return loss


class ScreenCritic(nn.Module):
    """Q(screenshot and instruction, relaxed action), [batch]."""

    def __init__(
        self,
        observation_space: spaces.Space,
        vector: Relaxed,
        *,
        hidden: Sequence[int],
        activation: str = "relu",
        encoder: str | EncoderConfig = "reader",
    ) -> None:
        super().__init__()
        self.vector = vector
        self.sight = Sight(observation_space, encoder, WIDTH)
        self.kind_said = nn.Embedding(len(vector.types), WIDTH)
        self.said = nn.ModuleDict()  # by argument and part
        for block in vector.blocks[1:]:
            key = f"{block.argument}_{block.part}"
            if key in self.said:
                continue
            if block.part == "point":
                self.said[key] = nn.Linear(WIDTH + 2, WIDTH)
            elif block.part in ("start", "end"):
                self.said[key] = nn.Linear(WIDTH, WIDTH)
            else:
                self.said[key] = nn.Embedding(block.size, WIDTH)
        self.net = MLP(WIDTH, hidden, 1, activation, output_gain=3e-3, init="fan_in")

    def forward(self, obs: Any, action: Tensor) -> Tensor:
        return self._judge(self._told(self.sight.see(obs), action)[0])

    def with_backward(self, obs: Any, action: Tensor) -> tuple[Tensor, Callable[[Tensor], None]]:
        """Q(obs, action) [batch], and a function that takes dL/dQ and leaves the parameters' gradient in `.grad`."""
        with torch.enable_grad():
            q = self(obs, action)

        def backward(grad: Tensor) -> None:
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad.zero_()
            q.backward(grad)

        return q.detach(), backward

    @torch.no_grad()
    def action_gradient(self, obs: Any, action: Tensor) -> tuple[Tensor, Tensor]:
        """Q(obs, action) [batch] and its slope in the action [batch, dim]: in points the tangent, in choices the chord,
        entry j saying by how much Q would rise with choice j in place of the one made (see `ActionValue`).

        In place of another type comes that type with its own arguments, which `action` has too. Slopes in arguments of
        types not chosen are 0.
        """
        seen = self.sight.see(obs)
        with torch.enable_grad():
            varied = action.detach().requires_grad_()
            q = self._judge(self._told(seen, varied)[0])
            (slope,) = torch.autograd.grad(q.sum(), varied)
        q = q.detach()
        total, parts = self._told(seen, action)
        kind = action[:, self.vector.blocks[0].columns].argmax(-1)
        own = [self.kind_said.weight + 0.0 * total[:, None]]  # what each type and its arguments say, [batch, types, W]
        for block, part in zip(self.vector.blocks[1:], parts, strict=True):
            own[0][:, block.owner] += part
        rest = total - own[0][torch.arange(len(total), device=total.device), kind]
        slope[:, self.vector.blocks[0].columns] = self._judge(rest[:, None] + own[0]) - q[:, None]
        for block, part in zip(self.vector.blocks[1:], parts, strict=True):
            rows = (kind == block.owner).nonzero()[:, 0]
            if block.part == "point" or not len(rows):
                continue
            options = self._options(seen, block)
            options = options[rows] if options.dim() == 3 else options
            rise = self._judge((total - part)[rows][:, None] + options) - q[rows, None]
            slope[rows, block.start : block.start + rise.shape[1]] = rise
        return q, slope

    def _told(self, seen: Seen, action: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What is known of the screen and of the action on it, [batch, W], a sum; and what each block but the type's
        says, [batch, W], whether its type was chosen or not."""
        kind = action[:, self.vector.blocks[0].columns]
        total, parts = seen.summary + kind @ self.kind_said.weight, list[Tensor]()
        for block in self.vector.blocks[1:]:
            chosen = action[:, block.columns]
            if block.part == "point":
                shown = torch.cat((_at(self.sight.grid, seen.patches, chosen), chosen), -1)
                parts.append(self.said[f"{block.argument}_{block.part}"](shown))
            else:
                options = self._options(seen, block)
                chosen = chosen[:, : options.shape[-2]]
                parts.append(chosen @ options if options.dim() == 2 else (chosen[:, None] @ options).squeeze(1))
            total = total + kind[:, block.owner, None] * parts[-1]
        return total, parts

    def _options(self, seen: Seen, block: Block) -> Tensor:
        """What each choice of a block says, [choices, W] or [batch, choices, W]; of an instruction's bytes as many as
        there are."""
        said: Any = self.said[f"{block.argument}_{block.part}"]
        return said(seen.text[:, :POSITIONS]) if block.part in ("start", "end") else said.weight

    def _judge(self, total: Tensor) -> Tensor:
        return self.net(F.relu(total)).squeeze(-1)


class _Point(nn.Module):
    """A point as the mean of an attention over patches, each of which offers a place within itself."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.query, self.key, self.offset = _head(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)
        for parameter in self.offset.parameters():  # a place that starts far off has tanh's flat ends to come back from
            nn.init.zeros_(parameter)
        across, down = torch.arange(grid.columns) + 0.5, torch.arange(grid.rows) + 0.5
        patch = 2.0 * grid.patch / torch.tensor([grid.width, grid.height])  # a patch's sides where the screen's are 2
        centres = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1).flatten(0, 1) * patch - 1.0
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("reach", patch / 2, persistent=False)
        self.centres: Tensor
        self.reach: Tensor

    def forward(self, seen: Seen, state: Tensor) -> tuple[Tensor, Tensor]:
        """The point [batch, 2] in [-1, 1], and the logarithm of the attention [batch, patches]."""
        logits = (self.key(seen.patches) @ self.query(state)[..., None]).squeeze(-1) * WIDTH**-0.5
        places = (self.centres + self.reach * self.offset(seen.plain).tanh()).clamp(-1.0, 1.0)
        weights = logits.log_softmax(-1)
        return (weights.exp()[:, None] @ places).squeeze(1), weights


class _Span(nn.Module):
    """Logits of where a text starts and ends in the instruction, and of a newline behind it."""

    def __init__(self, space: spaces.Text) -> None:
        super().__init__()
        self.longest = int(space.max_length)
        self.start_query, self.end_query, self.submit = _head(WIDTH), _head(WIDTH), _head(2)
        self.start_key, self.end_key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.said = nn.Linear(WIDTH, WIDTH)

    def start(self, seen: Seen, state: Tensor) -> Tensor:
        return self._logits(self.start_key(seen.text), self.start_query(state), seen.starts)

    def end(self, seen: Seen, state: Tensor, start: Tensor) -> Tensor:
        at = torch.arange(seen.text.shape[1], device=start.device)
        allowed = seen.starts & (at >= start[:, None]) & (at <= start[:, None] + self.longest)
        query = self.end_query(state + self.said(_row(seen.text, start)))
        return self._logits(self.end_key(seen.text), query, allowed)

    def newline(self, seen: Seen, state: Tensor, start: Tensor, end: Tensor) -> Tensor:
        return self.submit(state + self.said(_row(seen.text, start) + _row(seen.text, end)))

    @staticmethod
    def _logits(keys: Tensor, query: Tensor, allowed: Tensor) -> Tensor:
        logits = (keys @ query[..., None]).squeeze(-1).mul(WIDTH**-0.5).masked_fill(~allowed, NEVER)
        return F.pad(logits, (0, POSITIONS - logits.shape[1]), value=NEVER)


def _head(out: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, out))


def _pick(scores: Tensor, block: Block, noise: Tensor | None, given: Tensor | None) -> Tensor:
    """The choice of a block, int64 [batch]."""
    if given is not None:
        return given[:, block.columns].argmax(-1)
    return (scores.detach() if noise is None else scores.detach() + noise[:, block.columns]).argmax(-1)


def _row(text: Tensor, at: Tensor) -> Tensor:
    return text[torch.arange(len(at), device=at.device), at.clamp(max=text.shape[1] - 1)]


def _batch(obs: Any) -> int:
    return len(next(iter(obs.values())))


def _at(grid: Grid, patches: Tensor, point: Tensor) -> Tensor:
    """Patches [batch, P, W] at points [batch, 2] in [-1, 1], [batch, W]: bilinear between their middles."""
    covered = torch.tensor([grid.columns, grid.rows], device=point.device) * grid.patch
    size = torch.tensor([grid.width, grid.height], device=point.device)
    where = (point + 1.0) * (size / covered) - 1.0
    image = patches.transpose(1, 2).unflatten(-1, (grid.rows, grid.columns))
    found = F.grid_sample(image, where[:, None, None], padding_mode="border", align_corners=False)
    return found[:, :, 0, 0]


def _patch(grid: Grid, point: Tensor) -> Tensor:
    """The patch that holds each point [batch, 2] in [-1, 1], int64 [batch]."""
    column = ((point[:, 0] + 1.0) / 2.0 * grid.width / grid.patch).long().clamp_(0, grid.columns - 1)
    row = ((point[:, 1] + 1.0) / 2.0 * grid.height / grid.patch).long().clamp_(0, grid.rows - 1)
    return row * grid.columns + column
