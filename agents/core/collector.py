"""The collector: steps a vector environment with a policy and fills the buffer, whatever the environment is.

What it keeps once for everybody: no dummy transition is ever read back, `next_obs` is the true successor, actions are
stored as sampled, episodes that are unfinished at the end of a collection go on in the next one, and numbers that are
not finite stop the run with the environment's index and step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from agents.core import distributed
from agents.core.buffer import Buffer, Field, Ragged
from agents.core.errors import Diverged, EnvironmentFailure, guarded
from agents.core.spaces import encode_text, field_of, fields_of, flatten, leaves
from agents.core.tasks import EVALUATION_SEEDS, TaskSampler


class Actor(Protocol):
    """What the collector needs of an agent: observations go to its device, and its fields come back from there."""

    device: torch.device

    def act(self, obs: Any, episode_start: np.ndarray) -> Mapping[str, Any]:
        """Fields to store for one step of N environments, `action` [N, ...] among them: tensors, or Ragged.

        `idle` (bool array [N]), which is not stored, tells which environments are to wait for their action: they are
        stepped with None, and their row belongs to no episode.
        """

    def to_env(self, action: Any, obs: Any) -> Any:
        """Stored actions as `env.step` takes them; obs: what they answer."""


def transition_schema(env: VectorEnv, action: Mapping[str, Field], *, episodes: bool = False) -> dict[str, Field]:
    """The fields every transition has, with the action's and the policy's own fields.

    episodes: keep episode and group numbers, for `Buffer.episodes`.
    """
    schema = {
        **fields_of(env.single_observation_space, "obs"),
        **action,
        "reward": Field(),
        "terminated": Field(),
        "truncated": Field(),
        **fields_of(env.single_observation_space, "next_obs"),
    }
    if episodes:
        schema |= {"episode_id": Field((), torch.int64), "group_id": Field((), torch.int64)}
    if autoreset_mode(env) is AutoresetMode.NEXT_STEP:
        schema["valid"] = Field((), torch.uint8)
    return schema


def autoreset_mode(env: VectorEnv) -> AutoresetMode:
    """How the environment resets itself; Gymnasium's default is NEXT_STEP."""
    mode = (env.metadata or {}).get("autoreset_mode")
    if mode is None:
        return AutoresetMode.NEXT_STEP
    # Before Gymnasium 1.4 all environments of a class share the metadata, and the last one made has written it.
    mode = getattr(env.unwrapped, "autoreset_mode", mode)
    return mode if isinstance(mode, AutoresetMode) else AutoresetMode(mode)


_LARGEST = float(np.finfo(np.float32).max)  # that can be stored


def _floating(field: Field | None) -> bool:
    return field is not None and field.dtype.is_floating_point


# What a collector knows of each environment, [N].
_ARRAYS = ("episode_start", "resetting", "returns", "lengths", "episode_id", "group_id", "difficulty")


class Collector:
    """Steps `env` with `actor` into `buffer`.

    tasks: draws the reset seed and the group of every episode (groups need an environment that does not reset itself);
    without it the first reset is seeded from `seed` and later ones go on with the environments' own generators.
    """

    def __init__(
        self, env: VectorEnv, actor: Actor, buffer: Buffer, *, seed: int = 0, tasks: TaskSampler | None = None
    ) -> None:
        self.env, self.actor, self.buffer, self.seed, self.tasks = env, actor, buffer, seed, tasks
        self.mode = autoreset_mode(env)
        if tasks is not None and self.mode is not AutoresetMode.DISABLED:
            raise ValueError(
                f"groups need an environment that leaves resets to the agent (AutoresetMode.DISABLED); this one has "
                f"{self.mode}. envs.make_vec makes such environments."
            )
        n = env.num_envs
        self.space = env.single_observation_space
        self.leaves = leaves(self.space, "obs")
        self.ragged = {name for name, leaf in self.leaves.items() if field_of(leaf).ragged}
        self.floats = [name for name in self.leaves if buffer.schema[name].dtype == torch.float32]
        self.chosen = [name for name in ("action", "log_prob") if _floating(buffer.schema.get(name))]
        self.obs: dict[str, Any] | None = None  # of the row to come, by leaf
        self.steps = 0  # vector steps taken
        self.episode_start = np.ones(n, bool)
        self.resetting = np.zeros(n, bool)  # NEXT_STEP: these spend the coming step on their reset
        self.returns, self.lengths = np.zeros(n), np.zeros(n, np.int64)
        self.episode_id, self.group_id = np.arange(n), np.zeros(n, np.int64)
        self.next_episode_id = n
        self.difficulty = np.zeros(n, np.int64)  # of the episodes that run, where the tasks have one

    def reset(self) -> None:
        """Start fresh episodes in every environment, seeded at the very beginning.

        Groups that are not done with can never be: they are dropped.
        """
        n = self.env.num_envs
        everything = np.ones(n, bool)
        if self.tasks is None:
            # Several processes' environments are seeded as if they stood side by side in one.
            mine = slice(n * distributed.rank(), n * (distributed.rank() + 1))
            seeds = np.random.SeedSequence(self.seed).generate_state(n * distributed.world())[mine] % EVALUATION_SEEDS
            obs, _ = guarded(f"at step {self.steps}", self._reset_all, None if self.steps else [int(s) for s in seeds])
        else:
            self.tasks.restart()
            if self.buffer.tracks_episodes:
                self.buffer.forget(self.buffer.data["episode_id"].flatten())
            task_seeds, options = self._draw_tasks(everything)
            obs, _ = guarded(f"at step {self.steps}", self.env.reset, seed=task_seeds, options=options)
        self.obs = self._named(obs)
        self.episode_start = everything
        self.resetting[:] = False
        self.returns[:], self.lengths[:] = 0.0, 0

    def _reset_all(self, seeds: list[int] | None) -> Any:
        reset: Any = self.env.reset
        try:
            return reset(seed=seeds)
        except (TypeError, gym.error.Error):
            if seeds is None:
                raise
            return reset(seed=seeds[0])  # a seed for each is more than Gymnasium asks of a VectorEnv

    def collect(
        self,
        rows: int,
        on_step: Callable[[dict[str, Any]], bool] | None = None,
        enough: Callable[[], bool] | None = None,
    ) -> tuple[int, list[dict[str, float]], bool]:
        """Add `rows` rows to the buffer, or fewer where `enough` says so after a step.

        on_step is told of every vector step (`actions` as the environment took them, `new_obs` before any reset,
        `rewards`, `dones`, `infos`, `num_steps`); False ends the collection.
        Returns the number of transitions, the finished episodes (`r`: return, `l`: length) and whether to go on.
        """
        if self.obs is None:
            self.reset()
        transitions, finished = 0, list[dict[str, float]]()
        for _ in range(rows):
            step = self._step(finished)
            transitions += step["num_steps"]
            if on_step is not None and not on_step(step):
                return transitions, finished, False
            if enough is not None and enough():
                break
        return transitions, finished, True

    def _step(self, finished: list[dict[str, float]]) -> dict[str, Any]:
        buffer, env = self.buffer, self.env
        assert self.obs is not None
        for name, value in self.obs.items():
            buffer.put(name, value)
        seen = buffer.open_row("obs")
        if self.actor.device.type != "cpu":
            device = self.actor.device
            seen = {k: v.to(device) for k, v in seen.items()} if isinstance(seen, Mapping) else seen.to(device)
        fields = dict(self.actor.act(seen, self.episode_start))
        idle = fields.pop("idle", None)
        for name in self.chosen:
            self._check_actor(name, fields[name])
        action = self.actor.to_env(fields["action"], seen)
        if idle is not None:
            action = [None if waits else one for waits, one in zip(idle, action, strict=True)]
        obs, reward, terminated, truncated, infos = guarded(f"at step {self.steps}", env.step, action)
        done = terminated | truncated
        named = self._named(obs)
        if not abs(np.add.reduce(reward)) <= _LARGEST:
            self._check_finite("reward", np.asarray(reward))
        for name, tensor in fields.items():
            if isinstance(tensor, Ragged):
                buffer.put(name, tensor.rows())
            else:
                buffer.put(name, tensor.cpu().numpy() if isinstance(tensor, Tensor) else tensor)
        buffer.put("reward", reward)
        buffer.put("terminated", terminated)
        buffer.put("truncated", truncated)
        for name, value in named.items():
            buffer.put("next_" + name, value)
        if self.mode is AutoresetMode.SAME_STEP and done.any():
            self._store_final_obs(done, named, infos)
        if self.buffer.tracks_episodes:
            nothing = self.resetting if idle is None else idle
            buffer.put("episode_id", np.where(nothing, -1, self.episode_id))
            buffer.put("group_id", self.group_id)
        count = env.num_envs
        self.returns += reward
        self.lengths += 1
        if idle is not None:
            self.lengths -= idle
            count -= int(idle.sum())
        if self.mode is AutoresetMode.NEXT_STEP:
            buffer.put("valid", ~self.resetting)
            count -= int(self.resetting.sum())
            done = done & ~self.resetting
            self.returns[self.resetting], self.lengths[self.resetting] = 0.0, 0
            self.episode_start = self.resetting
            self.resetting = np.zeros(env.num_envs, bool)
        else:
            self.episode_start = _nowhere(env.num_envs)
        if np.count_nonzero(done):
            named = self._end_episodes(done, named, finished)
        buffer.advance()
        self.obs = named
        self.steps += 1
        told = {"actions": action, "new_obs": obs, "rewards": reward, "dones": done}
        return {**told, "infos": infos, "num_steps": count}

    def _end_episodes(
        self, done: np.ndarray, named: dict[str, Any], finished: list[dict[str, float]]
    ) -> dict[str, Any]:
        """Record what ended and bring those environments to their next episode; the observations to act on next."""
        for i in np.flatnonzero(done):
            finished.append({"r": float(self.returns[i]), "l": int(self.lengths[i])})
        self.returns[done], self.lengths[done] = 0.0, 0
        ended = int(done.sum())
        self.episode_id[done] = self.next_episode_id + np.arange(ended)
        self.next_episode_id += ended
        if self.mode is AutoresetMode.NEXT_STEP:
            self.resetting = done.copy()
            return named
        self.episode_start = self.episode_start | done
        if self.mode is AutoresetMode.SAME_STEP:
            return named
        options: dict[str, Any] = {"reset_mask": done.copy()}
        seeds: list[int | None] | None = None
        if self.tasks is not None:
            for group in self.group_id[done].tolist():
                self.tasks.finish(group)
            seeds, difficulty = self._draw_tasks(done)
            options |= difficulty or {}
        obs, _ = guarded(f"at step {self.steps}", self.env.reset, seed=seeds, options=options)
        return self._named(obs)

    def _store_final_obs(self, done: np.ndarray, named: dict[str, Any], infos: Mapping[str, Any]) -> None:
        """SAME_STEP environments return the next episode's first observation; the true successor is in the infos."""
        final = infos.get("final_obs", infos.get("final_observation"))
        if final is None:
            raise EnvironmentFailure("a SAME_STEP environment ended an episode without infos['final_obs']")
        successor = {name: list(v) if name in self.ragged else np.array(v) for name, v in named.items()}
        for i in np.flatnonzero(done):
            one = _pick(final, int(i))
            for name, value in flatten(self.space, one, "obs").items():
                if name in self.ragged:
                    value = encode_text([value])[0] if isinstance(value, str) else value
                successor[name][i] = value
        for name, value in successor.items():
            if name in self.floats:
                self._check_finite("observation", np.asarray(value))
            self.buffer.put("next_" + name, value)

    def _draw_tasks(self, mask: np.ndarray) -> tuple[list[int | None], dict[str, Any] | None]:
        """Reset seeds of the next episodes where `mask` says so, and the option that sets their difficulty."""
        assert self.tasks is not None
        seeds: list[int | None] = [None] * len(mask)
        options: dict[str, Any] | None = None
        for i in np.flatnonzero(mask):
            task = self.tasks.next()
            seeds[i], self.group_id[i] = task.seed, task.group_id
            if task.difficulty is not None:
                self.difficulty[i] = task.difficulty
                options = {"difficulty": self.difficulty.tolist()}
        return seeds, options

    def _named(self, obs: Any) -> dict[str, Any]:
        """Raw observations by leaf, text as bytes, checked to be finite."""
        named = flatten(self.space, obs, "obs")
        for name in self.ragged:
            named[name] = encode_text(named[name])
        for name in self.floats:
            # A sum is finite only where its terms are, and a sum is quicker than a look at each.
            if not abs(np.add.reduce(named[name], None)) <= _LARGEST:
                self._check_finite("observation", np.asarray(named[name]))
        return named

    def _check_finite(self, what: str, value: np.ndarray) -> None:
        bad = ~(np.abs(value) <= _LARGEST)
        if not bad.any():  # terms so large that their sum is not
            return
        env = int(np.argwhere(bad)[0][0])
        shown = float(value[env][bad[env]].flat[0])
        raise EnvironmentFailure(
            f"environment {env} returned a {what} of {shown} at step {self.steps} "
            f"(step {int(self.lengths[env])} of its episode)"
        )

    def _check_actor(self, name: str, value: Any) -> None:
        value = value.values if isinstance(value, Ragged) else value
        if not math.isfinite(value.sum()):
            shown = [float(x) for x in torch.as_tensor(value).flatten() if not math.isfinite(x)]
            if shown:
                raise Diverged(
                    f"the agent's {name} is {shown[0]} at step {self.steps}: its networks have diverged. Lower its "
                    f"learning rates, or normalise observations and rewards"
                )

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on besides the environments' own state."""
        assert self.obs is not None
        named: dict[str, Any] = {}
        for name, value in self.obs.items():
            named[name] = list(value) if name in self.ragged else np.asarray(value)
        return {
            "obs": named,
            "steps": self.steps,
            "next_episode_id": self.next_episode_id,
            "tasks": None if self.tasks is None else self.tasks.state_dict(),
            **{name: getattr(self, name) for name in _ARRAYS},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.obs = dict(state["obs"])
        self.steps, self.next_episode_id = state["steps"], state["next_episode_id"]
        if self.tasks is not None:
            self.tasks.load_state_dict(state["tasks"])
        for name in _ARRAYS:
            setattr(self, name, np.array(state[name]))


@functools.cache
def _nowhere(num_envs: int) -> np.ndarray:
    """The mask of no environment; shared, so read-only."""
    mask = np.zeros(num_envs, bool)
    mask.setflags(write=False)
    return mask


def _pick(final: Any, i: int) -> Any:
    """One environment's entry of infos['final_obs']: an array of observations, or a mapping of such arrays."""
    if isinstance(final, Mapping):
        return {key: _pick(value, i) for key, value in final.items()}
    if isinstance(final, Sequence | np.ndarray):
        return final[i]
    raise EnvironmentFailure(f"infos['final_obs'] is a {type(final).__name__}, not an array of observations")
