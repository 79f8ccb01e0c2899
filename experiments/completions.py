"""What a text run leaves to look at: sampled responses, and how well and how long they are.

completions.jsonl gets a few responses of every iteration and those to the first problems of every evaluation, the same
problems each time, so that one can be followed through the training; TensorBoard gets them as text. `evaluate_text` is
`agents.core.evaluation.evaluate` with what only a text's tokens tell.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from agents.core.agent import Agent
from agents.core.buffer import Batch, Ragged
from agents.core.evaluation import EpisodeStats, WatchedStep, evaluate
from agents.core.spaces import decode_text, observation_tensors
from agents.core.tasks import EVALUATION_SEEDS
from agents.policies.generation import STOP_REASONS, Response
from experiments.logs import NOT_TABLES
from experiments.results import SUCCESS
from experiments.rundir import RunDir
from experiments.screens import WORDS
from experiments.statistics import pass_at_k

PER_ITERATION = 4  # responses kept of an iteration
PER_EVALUATION = 16  # problems whose responses are kept of an evaluation


@dataclass(frozen=True)
class Completion:
    """One response to a text, or on a screen to its instruction. gold: the right answer, where the environment tells;
    length: in tokens, the stop token included."""

    prompt: str
    response: str
    gold: str | None
    reward: float
    length: int
    stop_reason: str


@dataclass(frozen=True)
class TextStats(EpisodeStats):
    """An evaluation of an agent that answers text.

    tokens: of each episode's responses, int64 [episodes]; truncated: the share of responses that were cut short;
    pass_at: k -> chance that one of k samples solves a problem; completions: to the first problems.
    """

    tokens: np.ndarray
    truncated: float
    pass_at: Mapping[int, float]
    completions: Sequence[Completion]

    @property
    def accuracy(self) -> float:
        return float((self.returns >= SUCCESS).mean())

    def metrics(self) -> dict[str, float]:
        """By the names under which they are logged."""
        return {
            "accuracy": self.accuracy,
            "response_length": float(self.tokens.mean()),
            "truncated": self.truncated,
            **{f"pass_at_{k}": value for k, value in self.pass_at.items()},
        }


def evaluate_text(
    agent: Agent,
    env: VectorEnv,
    episodes: int,
    *,
    seed: int = EVALUATION_SEEDS,
    deterministic: bool = True,
    samples: int = 1,
    problems: int | None = None,
    watch: Callable[[WatchedStep], None] | None = None,
    step_made: Callable[[], None] = lambda: None,
) -> TextStats:
    """`evaluate`, and pass@k for k = 1, 2, 4, ..., samples from so many responses drawn to each problem.

    samples: 1 leaves pass@k out; problems: how many of them, the first ones, it is measured on (all). watch: is shown
    every step but those of pass@k. step_made: as for `evaluate`.
    """
    listener = _Listener(agent, episodes)

    def see(step: WatchedStep) -> None:
        listener.watch(step)
        if watch is not None:
            watch(step)

    stats = evaluate(listener, env, episodes, seed=seed, deterministic=deterministic, watch=see, step_made=step_made)
    pass_at = {}
    if samples > 1:
        count = problems or episodes
        drawn = evaluate(agent, env, count, seed=seed, deterministic=False, samples=samples, step_made=step_made)
        solved = (drawn.returns >= SUCCESS).reshape(count, samples)
        pass_at = {k: pass_at_k(solved, k) for k in sorted({samples, *(2**i for i in range(samples.bit_length()))})}
    return TextStats(
        stats.returns, stats.lengths, listener.tokens, float(np.mean(listener.cut)), pass_at, listener.completions
    )


class _Listener:
    """The `predict` of an agent that answers text, which takes note of the tokens."""

    def __init__(self, agent: Agent, episodes: int) -> None:
        self.agent = agent
        self.responses: list[Response] = []
        self.tokens = np.zeros(episodes, np.int64)
        self.cut: list[bool] = []
        self.kept: dict[int, list[Completion]] = {i: [] for i in range(min(episodes, PER_EVALUATION))}

    def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[Any, None]:
        agent = self.agent
        with torch.inference_mode():
            obs = observation_tensors(agent.observation_space, observation, agent.device)
            self.responses = agent.policy.respond(obs, deterministic, agent.predict_generator)
            tokens = Ragged.of([response.tokens for response in self.responses], torch.int64)
            return agent.to_env(tokens, obs), None

    def watch(self, step: WatchedStep) -> None:
        for i in np.flatnonzero(step.episode >= 0).tolist():
            episode, response = int(step.episode[i]), self.responses[i]
            self.tokens[episode] += len(response.tokens)
            self.cut.append(response.stop_reason == "length")
            if episode in self.kept:
                prompt, gold, reward = _text_of(step.obs)[i], _gold(step.infos, i), float(step.rewards[i])
                self.kept[episode].append(
                    Completion(prompt, step.actions[i], gold, reward, len(response.tokens), response.stop_reason)
                )

    @property
    def completions(self) -> list[Completion]:
        return [completion for turns in self.kept.values() for completion in turns]


class TextLog(BaseCallback):
    """Of each iteration: accuracy, length, the share cut short, tokens per second, and a few responses."""

    def __init__(self, run: RunDir) -> None:
        super().__init__()
        self.run = run
        self.infos: list[Mapping[str, Any]] = []  # of each vector step
        self.began, self.tokens = 0.0, 0

    def _on_rollout_start(self) -> None:
        self.infos = []
        self.began, self.tokens = time.monotonic(), self.agent.policy.used

    def _on_step(self) -> bool:
        self.infos.append(self.locals["infos"].infos)
        return True

    def _on_rollout_end(self) -> None:
        agent, seconds = self.agent, max(time.monotonic() - self.began, 1e-9)
        assert agent.buffer is not None
        rollout = agent.buffer.rollout()
        steps = rollout.merged()
        answered = steps["episode_id"] >= 0 if "episode_id" in steps else torch.ones_like(steps["reward"]) > 0
        rows = answered.nonzero().squeeze(1)
        self.logger.record("time/tokens_per_second", (agent.policy.used - self.tokens) / seconds)
        if not len(rows):
            return
        found = steps.take(rows)
        over = torch.maximum(found["terminated"], found["truncated"]) > 0
        self.logger.record("rollout/response_length", float(found["action"].lengths.float().mean()))
        cut = found["stop_reason"] == STOP_REASONS.index("length")
        self.logger.record("rollout/truncated", float(cut.float().mean()))
        if bool(over.any()):  # only the last response of a conversation can be right
            self.logger.record("rollout/accuracy", float((found["reward"][over] >= SUCCESS).float().mean()))
        few = torch.linspace(0, len(rows) - 1, min(PER_ITERATION, len(rows))).long()
        gold = [_gold(self.infos[row // agent.num_envs], row % agent.num_envs) for row in rows[few].tolist()]
        completions = _completions(agent, found.take(few), gold)
        log_completions(self.logger, self.run, agent.num_timesteps, "training", completions)

    def evaluated(self, stats: TextStats) -> str:
        """Log an evaluation; a few words on it."""
        for name, value in stats.metrics().items():
            self.logger.record(f"eval/{name}", value)
        log_completions(self.logger, self.run, self.agent.num_timesteps, "evaluation", stats.completions)
        chance = f"  pass@{max(stats.pass_at)} {stats.pass_at[max(stats.pass_at)]:.2f}" if stats.pass_at else ""
        return f"  {stats.tokens.mean():.1f} tokens{chance}"

    @property
    def agent(self) -> Agent:
        model: Any = self.model
        return model


def log_completions(logger: Logger, run: RunDir, timesteps: int, phase: str, completions: Sequence[Completion]) -> None:
    """Append to completions.jsonl, and record for TensorBoard as text. phase: training or evaluation."""
    run.append_completions([{"timesteps": timesteps, "phase": phase, **asdict(one)} for one in completions])
    logger.record(f"completions/{phase}", markdown(completions), exclude=NOT_TABLES)


def markdown(completions: Sequence[Completion]) -> str:
    """Prompts and responses word for word, with what became of them above."""
    return "\n\n".join(
        f"**reward {one.reward:g}**, {one.length} tokens, {one.stop_reason}"
        + ("" if one.gold is None else f", right is {one.gold}")
        + "\n\n"
        + "\n".join("    " + line for line in f"{one.prompt}\n--> {one.response}".splitlines())
        for one in completions
    )


def _completions(agent: Agent, steps: Batch, gold: Sequence[str | None]) -> list[Completion]:
    """Of stored steps."""
    columns = (
        decode_text(_text_of(steps.obs)),
        agent.to_env(steps["action"], steps.obs),
        gold,
        steps["reward"].tolist(),
        steps["action"].lengths.tolist(),
        [STOP_REASONS[i] for i in steps["stop_reason"].tolist()],
    )
    return [Completion(*row) for row in zip(*columns, strict=True)]


def _text_of(obs: Any) -> Any:
    """What is written in a batch of observations: all of them, or a screen's instructions."""
    return obs[WORDS] if isinstance(obs, Mapping) else obs


def _gold(infos: Mapping[str, Any], i: int) -> str | None:
    known = infos.get("gold")
    return None if known is None or known[i] is None else str(known[i])
