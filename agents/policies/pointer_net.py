"""What the pointer policy computes: a screen and an instruction seen together, and choices made one after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from agents.core.buffer import Ragged
from agents.core.spaces import leaves
from agents.encoders import EncoderConfig, Features, TextTokens, make_encoder
from agents.encoders.cnn import is_image
from agents.encoders.reader import PAD, padded
from agents.policies.tagged import CELLS, Layout, cells_on_screen, takes_newline

HEADS = 4  # of the summary's attention over patches
GAZES = 2  # of a patch's attention over the instruction, each of the full width: words are told apart by it
NEVER = -1e9  # the logit of what cannot be chosen

Pick = Callable[[int, Tensor], Tensor]  # column, its logits [batch, size] -> the choice, int64 [batch]


@dataclass(frozen=True)
class Seen:
    """What was made of N observations: the screen's patches [batch, P, width], `plain` before the instruction told what
    of them matters; the instruction's bytes and its end [batch, L + 1, width], of which `starts` may begin a character
    or end a text; its tokens as the encoder gives them; and a summary [batch, width]."""

    patches: Tensor
    plain: Tensor
    text: Tensor
    starts: Tensor
    said: TextTokens
    summary: Tensor


class Sight(nn.Module):
    """A screen seen with its instruction, for observations with one image and one text.

    Patches look up what the instruction says of what they show (attention over its tokens), and the instruction
    modulates a convolution over them (FiLM, Perez et al. 2018).

    Raises ValueError for other observations, and for an encoder that gives no patches.
    """

    def __init__(self, observation_space: spaces.Space, encoder: str | EncoderConfig, width: int) -> None:
        super().__init__()
        named = leaves(observation_space)
        images = [name for name, leaf in named.items() if is_image(leaf)]
        texts = [name for name, leaf in named.items() if isinstance(leaf, spaces.Text)]
        if len(images) != 1 or len(texts) != 1 or len(named) != 2:
            raise ValueError(
                f"a pointer sees one image (uint8, from 8x8) and one text, its instruction; got {observation_space}"
            )
        self.image_name, self.text_name = images[0], texts[0]
        self.encoder = make_encoder(observation_space, encoder)
        if self.image_name not in self.encoder.grids:
            raise ValueError("a pointer needs an encoder with patches: cnn, reader, vit, clip, siglip or a saved one")
        self.grid = self.encoder.grids[self.image_name]
        image_tower: Any = self.encoder.tower(self.image_name)
        text_tower: Any = self.encoder.tower(self.text_name)

        self.patch_in = nn.Linear(image_tower.token_dim, width)
        self.row, self.column = (
            nn.Parameter(0.1 * torch.randn(count, width)) for count in (self.grid.rows, self.grid.columns)
        )
        self.text_in = nn.Linear(text_tower.token_dim, width)
        self.byte = nn.Embedding(PAD + 1, width)
        self.look_up = _Attention(width, text_tower.token_dim)
        self.film = nn.Linear(text_tower.out_dim, 2 * width)
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.pool = nn.Linear(text_tower.out_dim, HEADS * width)
        self.summary = nn.Sequential(
            nn.Linear(self.encoder.out_dim + HEADS * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )

    def see(self, obs: Any) -> Seen:
        """All that comes before the first choice."""
        features = self.encoder.features(obs)
        said = features.text[self.text_name]
        text_pooled = self._text_pooled(features)
        batch, (rows, columns) = len(text_pooled), (self.grid.rows, self.grid.columns)
        x = self.patch_in(features.patches[self.image_name])
        plain = self.before(x + (self.row[:, None] + self.column).flatten(0, 1).to(x.dtype))
        x = plain + self.look_up(plain, said.values, said.mask)
        scale, shift = self.film(text_pooled)[:, None].to(x.dtype).chunk(2, -1)
        y = F.relu(self.after(x) * (1 + scale) + shift).unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
        x = x + F.relu(self.conv(y)).permute(0, 2, 3, 1).flatten(1, 2)
        asked = self.pool(text_pooled).unflatten(-1, (HEADS, -1)).to(x.dtype) * x.shape[-1] ** -0.5
        weights = (asked @ x.transpose(1, 2)).softmax(-1)  # [batch, heads, P]
        summary = self.summary(torch.cat((features.pooled, (weights @ x).flatten(1)), -1))
        ids, lengths = padded(obs[self.text_name])
        at = torch.arange(ids.shape[1], device=ids.device)
        # A byte's token is the first that ends behind it; marks before the text end at 0, those behind it are its end.
        token = (said.spans[:, None, :, 1] <= at[:, None]).sum(-1).minimum(said.mask.sum(1, keepdim=True) - 1)
        text = said.values[torch.arange(batch, device=ids.device)[:, None], token]
        text = F.relu(self.text_in(text) + self.byte(ids))
        starts = (at <= lengths[:, None]) & ((ids & 0xC0) != 0x80)  # UTF-8: 10xxxxxx goes on with a character
        return Seen(x, plain, text.float(), starts | (at == lengths[:, None]), said, summary.float())

    def _text_pooled(self, features: Features) -> Tensor:
        # The leaves' features lie side by side in the observation's order.
        first = self.encoder.names[0] == self.text_name
        size: int = self.encoder.tower(self.text_name).out_dim  # type: ignore[assignment]
        return features.pooled[:, :size] if first else features.pooled[:, -size:]

    def mentions(self, seen: Seen, patch: Tensor) -> Tensor:
        """How strongly a patch [batch] of each screen looks up each instruction, logits [batch, batch]."""
        shown = seen.plain[torch.arange(len(patch), device=patch.device), patch].float()
        return self.look_up.strength(shown, seen.said.values, seen.said.mask)


class PointerNet(Sight):
    """Logits of the choices of `layout` for what is seen.

    A summary of screen and instruction decides on the type; every choice is added to it before the next is made. A
    point is the product of a query made from it with the patches' keys.
    """

    def __init__(
        self, observation_space: spaces.Space, layout: Layout, encoder: str | EncoderConfig, width: int = 96
    ) -> None:
        super().__init__(observation_space, encoder, width)
        self.layout = layout
        self.kind = _head(width, len(layout.types))
        self.kind_said = nn.Embedding(len(layout.types), width)
        self.heads = nn.ModuleDict()  # by argument, "argument_" before it, as a ModuleDict has methods of its own
        last = next(reversed(layout.arguments), "")
        for name, argument in layout.arguments.items():
            match argument:
                case spaces.Discrete():
                    self.heads[f"argument_{name}"] = _Discrete(width, int(argument.n), more=name != last)
                case spaces.Text():
                    self.heads[f"argument_{name}"] = _Span(width, argument)
                case _:
                    self.heads[f"argument_{name}"] = _Point(width, cells_on_screen(self.grid), more=name != last)

    def see(self, obs: Any) -> Seen:
        """As `Sight` does, its patches in bfloat16 where torch may be rough about float32 products ("medium")."""
        rough = torch.get_float32_matmul_precision() == "medium"
        with torch.autocast(self.row.device.type, torch.bfloat16, enabled=rough):
            return super().see(obs)

    def choose(self, seen: Seen, pick: Pick, *, whole: bool = False) -> list[Tensor]:
        """Go through all choices in order, each made by `pick`; the logits of each, [batch, size].

        whole: think about arguments, too, that none of the actions has; otherwise their logits are 0.
        """
        logits = [self.kind(seen.summary)]
        kind = pick(0, logits[0])
        state = seen.summary + self.kind_said(kind)
        relevant = self.layout.relevant.to(kind.device)[kind].float()
        for name in self.layout.arguments:
            columns = self.layout.columns[name]
            head: Any = self.heads[f"argument_{name}"]
            if not (whole or relevant[:, columns[0]].any()):
                logits += [state.new_zeros(len(state), size) for size in head.sizes(seen)]
                continue
            made, said = head(seen, state, lambda i, x, columns=columns: pick(columns[i], x))
            logits += made
            state = state + relevant[:, columns[0], None] * said
        return logits


class _Attention(nn.Module):
    """Each row of x [batch, P, width] attends over tokens [batch, L, dim], or over nothing."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, GAZES * width), nn.Linear(dim, GAZES * width)
        self.value, self.out = nn.Linear(dim, GAZES * width), nn.Linear(GAZES * width, width)
        self.nothing = nn.Parameter(torch.zeros(1, GAZES * width))

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        key, value = self.key(tokens), self.value(tokens)
        nothing = self.nothing.to(key.dtype).expand(len(x), 1, -1)
        key, value = torch.cat((nothing, key), 1), torch.cat((torch.zeros_like(nothing), value), 1)
        hidden = F.pad(~mask, (1, 0))[:, None]
        found = []
        # One gaze after the other: torch's fused attention is several times as slow backwards on a processor.
        for q, k, v in zip(self.query(x).chunk(GAZES, -1), key.chunk(GAZES, -1), value.chunk(GAZES, -1), strict=True):
            scores = q @ (k * k.shape[-1] ** -0.5).mT  # [batch, P, 1 + L]
            found.append(scores.masked_fill(hidden, NEVER).softmax(-1) @ v)
        return self.out(torch.cat(found, -1))

    def strength(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """What rows x [rows, width] find in each text, logits [rows, batch]: over tokens, the log of the sum of what
        their attention goes by, summed over gazes."""
        query, key = (y.unflatten(-1, (GAZES, -1)) for y in (self.query(x), self.key(tokens)))
        scores = torch.einsum("rgd,blgd->rbgl", query, key).float() * key.shape[-1] ** -0.5
        return scores.masked_fill(~mask[:, None], NEVER).logsumexp(-1).sum(-1)


class _Point(nn.Module):
    """A patch, then one of its cells. on_screen: bool [P, cells]; more: whether other choices follow."""

    def __init__(self, width: int, on_screen: Tensor, *, more: bool) -> None:
        super().__init__()
        self.query = _head(width, width)
        self.state, self.patch = nn.Linear(width, width), nn.Linear(width, width)
        self.cell = nn.Linear(width, CELLS**2)
        self.cell_said = nn.Embedding(CELLS**2, width) if more else None
        self.register_buffer("on_screen", on_screen, persistent=False)
        self.on_screen: Tensor

    def forward(self, seen: Seen, state: Tensor, pick: Pick) -> tuple[list[Tensor], Tensor]:
        query = self.query(state)
        patches = (seen.patches @ query[..., None].to(seen.patches.dtype)).squeeze(-1).float() * query.shape[-1] ** -0.5
        patch = pick(0, patches)
        shown = self.patch(seen.patches[torch.arange(len(patch), device=patch.device), patch].float())
        cells = self.cell(F.relu(shown + self.state(state))).masked_fill(~self.on_screen[patch], NEVER)
        cell = pick(1, cells)
        return [patches, cells], shown if self.cell_said is None else shown + self.cell_said(cell)

    def sizes(self, seen: Seen) -> list[int]:
        return [seen.patches.shape[1], CELLS**2]


class _Span(nn.Module):
    """A text copied from the instruction: its start, its end (no character of it), and whether a newline follows."""

    def __init__(self, width: int, space: spaces.Text) -> None:
        super().__init__()
        self.newline = takes_newline(space)
        self.longest = int(space.max_length) - self.newline
        self.start, self.end, self.submit = _head(width, width), _head(width, width), _head(width, 2)
        self.start_key, self.end_key = nn.Linear(width, width), nn.Linear(width, width)
        self.said = nn.Linear(width, width)

    def forward(self, seen: Seen, state: Tensor, pick: Pick) -> tuple[list[Tensor], Tensor]:
        row, at = torch.arange(len(state), device=state.device), torch.arange(seen.text.shape[1], device=state.device)
        starts = self._logits(self.start_key(seen.text), self.start(state), seen.starts)
        start = pick(0, starts)
        said = self.said(seen.text[row, start])
        after = (at >= start[:, None]) & (at <= start[:, None] + self.longest)
        ends = self._logits(self.end_key(seen.text), self.end(state + said), seen.starts & after)
        end = pick(1, ends)
        said = said + self.said(seen.text[row, end])
        submits = self.submit(state + said)
        if not self.newline:
            submits = torch.stack((submits[:, 0], torch.full_like(submits[:, 1], NEVER)), -1)
        pick(2, submits)
        return [starts, ends, submits], said

    def sizes(self, seen: Seen) -> list[int]:
        return [seen.text.shape[1], seen.text.shape[1], 2]

    @staticmethod
    def _logits(keys: Tensor, query: Tensor, allowed: Tensor) -> Tensor:
        return (keys @ query[..., None]).squeeze(-1).mul(query.shape[-1] ** -0.5).masked_fill(~allowed, NEVER)


class _Discrete(nn.Module):
    """One of several values. more: whether other choices follow."""

    def __init__(self, width: int, count: int, *, more: bool) -> None:
        super().__init__()
        self.count = count
        self.head, self.said = _head(width, count), nn.Embedding(count, width) if more else None

    def forward(self, seen: Seen, state: Tensor, pick: Pick) -> tuple[list[Tensor], Tensor]:
        logits = self.head(state)
        choice = pick(0, logits)
        return [logits], torch.zeros_like(state) if self.said is None else self.said(choice)

    def sizes(self, seen: Seen) -> list[int]:
        return [self.count]


def _head(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))


def instruction_bytes(text: Ragged) -> list[bytes]:
    """The rows of a text column."""
    return [bytes(row.numpy()) for row in text.to(torch.device("cpu")).rows()]
