"""Gymnasium's MuJoCo tasks as one vector environment, bit for bit the same and several times as fast.

Physics is stepped on all cores, observations and rewards are computed for all N environments at once.
What `SyncVectorEnv(..., autoreset_mode=DISABLED)` over `gymnasium.make(id)` returns under the same seeds
and actions, this returns: values, dtypes, infos with their masks. Left out: sub-environment access
(`call`, `get_attr`, `set_attr`), other autoreset modes, and lists of frames (`render_mode="rgb_array_list"`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.mujoco.arm import Pusher, Reacher
from envs.mujoco.balance import InvertedDoublePendulum, InvertedPendulum
from envs.mujoco.humanoid import Humanoid, HumanoidStandup
from envs.mujoco.locomotion import Ant, HalfCheetah, Hopper, Swimmer, Walker2d
from envs.mujoco.physics import Physics
from envs.mujoco.prototype import make_prototype
from envs.mujoco.rendering import make_renderers
from envs.mujoco.task import Infos, Task
from envs.rng import generator_from_words, generator_words
from envs.state import Copyable

_TASKS: dict[str, type[Task]] = {
    "ant": Ant,
    "half_cheetah": HalfCheetah,
    "hopper": Hopper,
    "humanoid": Humanoid,
    "humanoidstandup": HumanoidStandup,
    "inverted_double_pendulum": InvertedDoublePendulum,
    "inverted_pendulum": InvertedPendulum,
    "pusher": Pusher,
    "reacher": Reacher,
    "swimmer": Swimmer,
    "walker2d": Walker2d,
}
_CLASSES = {
    "humanoidstandup": "HumanoidStandupEnv",
    "half_cheetah": "HalfCheetahEnv",
    "inverted_pendulum": "InvertedPendulumEnv",
    "inverted_double_pendulum": "InvertedDoublePendulumEnv",
}
# Gymnasium's entry point -> (task, whether version 5)
ENTRY_POINTS: dict[str, tuple[type[Task], bool]] = {
    f"gymnasium.envs.mujoco.{module}_v{version}:{_CLASSES.get(module, module.capitalize() + 'Env')}": (
        task,
        version == 5,
    )
    for module, task in _TASKS.items()
    for version in (4, 5)
}


class MujocoVectorEnv(Copyable, VectorEnv[NDArray[np.float64], NDArray[Any], NDArray[Any]]):
    """N environments of one of Gymnasium's MuJoCo tasks, autoreset disabled.

    Observations float64 [N, n], rewards float64 [N], terminations and truncations bool [N]. All arrays that
    are handed out are the caller's to keep.
    """

    def __init__(self, id: str, num_envs: int = 1, *, num_threads: int | None = None, **kwargs: Any) -> None:
        """Build the environments.

        Args:
            id: a registered id whose entry point is in `ENTRY_POINTS`.
            num_envs: N.
            num_threads: threads that step, at most N; default: the cores this process may use, while that is
                faster than one thread alone.
            kwargs: what `gymnasium.make(id, ...)` takes: the task's options, `max_episode_steps`
                (-1: no limit), `render_mode`, `width`, `height`, `camera_name`, ...

        Raises:
            ValueError: a render mode that the task does not have.
            ImportError: Pusher-v4, which Gymnasium supports with mujoco < 3 only.
            TypeError: an option that the task does not have.
        """
        self.made = {"id": id, "num_envs": num_envs, "num_threads": num_threads, **kwargs}
        env = make_prototype(id, **kwargs)
        self.num_envs = num_envs
        self.spec = env.spec
        limit = env.spec.max_episode_steps if env.spec else None
        self._max_episode_steps = np.array(np.iinfo(np.int64).max if limit is None else limit)
        # One environment of Gymnasium's own reads the options and the model; it is never stepped.
        self._env = cast(Any, env.unwrapped)
        self.metadata = {**self._env.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.render_mode = self._env.render_mode
        self.single_observation_space = self._env.observation_space
        self.single_action_space = self._env.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._action_shape = (num_envs, *self._env.action_space.shape)

        task, v5 = ENTRY_POINTS[str(gym.registry[id].entry_point)]
        self._task = task(self._env, v5)
        self._physics = Physics(
            self._env.model,
            num_envs,
            self._env.frame_skip,
            self._task.readers(),
            contact_forces=self._task.contact_forces,
            num_threads=num_threads,
        )
        self._renderers: list[MujocoRenderer] = []
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int] = [-1] * num_envs
        self._everyone = np.ones(num_envs, dtype=np.bool_)
        self._elapsed = np.full(num_envs, -1, dtype=np.int64)  # -1: never reset
        self._done = np.zeros(num_envs, dtype=np.bool_)
        self._blocked = True  # some environment must be reset before the next step
        self._obs = np.zeros((num_envs, *self._env.observation_space.shape))
        self._mark = self._task.mark(self._physics.values)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Start new episodes.

        Args:
            seed: an int s seeds environment i with s + i; a sequence gives each its own, None keeping its
                generator; None keeps all generators.
            options: `reset_mask`, bool [N], restricts the reset to some environments (their seeds count);
                the rows of the others repeat their latest observation.

        Raises:
            ValueError, TypeError: seeds or a mask of another length, dtype or type, or an empty mask.
            ResetNeeded: a mask leaves out an environment that has never been reset.
        """
        seeds = self._spread(seed)
        mask = self._reset_mask(options)
        others = ~mask
        if np.count_nonzero((self._elapsed < 0) & others):
            raise ResetNeeded("The first reset must reset every environment: give no `reset_mask`.")
        ids = np.flatnonzero(mask)
        starts = []
        for i in ids.tolist():
            rng = self._rngs[i]
            if seeds[i] is not None or rng is None:
                rng, self._seeds[i] = seeding.np_random(seeds[i])
                self._rngs[i] = rng
            starts.append(self._task.initial_state(rng))
        qpos, qvel = zip(*starts, strict=True)
        self._physics.reset(ids, np.array(qpos), np.array(qvel))
        values = self._physics.values
        obs, mark = self._task.observe(values), self._task.mark(values)
        np.copyto(obs, self._obs, where=others[:, None])
        np.copyto(mark, self._mark, where=others[:, None] if mark.ndim == 2 else others)
        self._obs, self._mark = obs, mark
        self._elapsed[mask] = 0
        self._done = self._done & others
        self._blocked = bool(np.count_nonzero(self._done))

        infos: Infos = {}
        for name, value in self._task.reset_info(values).items():
            infos[name] = np.zeros_like(value)
            infos[name][mask] = value[mask]
            infos[f"_{name}"] = mask.copy()
        if self.render_mode == "human":
            self.render()
        return self._obs.copy(), infos

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step every environment with actions [N, nu]; MuJoCo clamps them to the action space.

        Raises:
            ResetNeeded: an environment has not been reset since it was made or since its episode ended.
            ClosedEnvironmentError: after `close()`.
            ValueError: actions of another shape.
        """
        if self._blocked:
            self._refuse_step()
        actions = np.asarray(actions)
        if actions.shape != self._action_shape:
            raise ValueError(f"Action dimension mismatch: expected {self._action_shape}, found {actions.shape}.")
        physics = self._physics
        try:
            physics.step(actions)
        except BaseException:  # some environments may have been stepped, others not
            self._elapsed[:] = -1
            self._blocked = True
            raise
        values = physics.values
        mark = self._task.mark(values)
        reward, terminated, outcome = self._task.outcome(values, self._mark, mark, actions)
        self._mark = mark
        self._obs = self._task.observe(values)
        self._elapsed += 1
        truncated = self._elapsed >= self._max_episode_steps
        self._done = terminated | truncated
        self._blocked = bool(np.count_nonzero(self._done))

        infos: Infos = {}
        for name, value in outcome.items():
            infos[name] = value
            infos[f"_{name}"] = self._everyone.copy()
        if self.render_mode == "human":
            self.render()
        return self._obs.copy(), reward, terminated, truncated, infos

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Everything that decides what follows, as plain arrays of numbers.

        `physics` float64 [N, n]: MuJoCo's integration state, warm start included; `rng` uint64 [N, 6]: the
        generators; `elapsed_steps` int64 [N], -1 before the first reset; `done` bool [N]; `observation`
        float64 [N, ...]; `mark` float64 [N, ...]: what the next reward needs of this step.
        """
        return {
            "physics": self._physics.get_state(),
            "rng": np.stack([generator_words(rng) for rng in self.np_random]),
            "elapsed_steps": self._elapsed.copy(),
            "done": self._done.copy(),
            "observation": self._obs.copy(),
            "mark": self._mark.copy(),
        }

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Continue from what `get_state` gave, here or in another environment of the same id and options.

        Raises:
            ValueError: the state of another task or number of environments.
        """
        shapes = {
            "physics": (self.num_envs, self._physics.state_size),
            "rng": (self.num_envs, 6),
            "elapsed_steps": (self.num_envs,),
            "done": (self.num_envs,),
            "observation": self._obs.shape,
            "mark": self._mark.shape,
        }
        found = {name: np.shape(value) for name, value in state.items()}
        if found != shapes:
            raise ValueError(f"The state does not fit {self!r}: expected arrays {shapes}, found {found}.")
        self._physics.set_state(np.ascontiguousarray(state["physics"], dtype=np.float64))
        self._rngs = [generator_from_words(words) for words in state["rng"]]
        self._seeds = [-1] * self.num_envs
        self._elapsed = np.array(state["elapsed_steps"], dtype=np.int64)
        self._done = np.array(state["done"], dtype=np.bool_)
        self._obs = np.array(state["observation"], dtype=np.float64)
        self._mark = np.array(state["mark"], dtype=np.float64)
        self._blocked = self.closed or bool((self._done | (self._elapsed < 0)).any())

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The environments' generators; those not yet seeded get fresh entropy."""
        rngs = []
        for i, rng in enumerate(self._rngs):
            if rng is None:
                rng, self._seeds[i] = seeding.np_random()
                self._rngs[i] = rng
            rngs.append(rng)
        return tuple(rngs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The environments' seeds; -1 where unknown, as after `set_state`."""
        _ = self.np_random
        return tuple(self._seeds)

    def render(self) -> tuple[Any, ...]:
        """One frame per environment, as Gymnasium's renderer draws it (None each in mode "human").

        After `set_state` and before the next step, bodies are drawn where they are; Gymnasium draws them
        one MuJoCo step behind.

        Raises:
            ResetNeeded: before the first reset.
        """
        if (self._elapsed < 0).any():
            raise ResetNeeded("Cannot call `env.render()` before calling `env.reset()`.")
        if not self._renderers:
            self._renderers = make_renderers(self._env.mujoco_renderer, self.num_envs)
        for i, renderer in enumerate(self._renderers):
            self._physics.get_data(i, renderer.data)
        return tuple(renderer.render(self.render_mode) for renderer in self._renderers)

    def close_extras(self, **kwargs: Any) -> None:
        """End the threads and close the renderers."""
        if not hasattr(self, "_physics"):
            return
        self._blocked = True
        self._physics.close()
        for renderer in self._renderers:
            renderer.close()
        self._env.close()

    def _refuse_step(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"Cannot step {self!r}: it has been closed.")
        if (self._elapsed < 0).any():
            raise ResetNeeded("Cannot call env.step() before calling env.reset()")
        raise ResetNeeded(
            f"The episodes of environments {np.flatnonzero(self._done).tolist()} have ended: reset them, "
            "e.g. with options={'reset_mask': terminations | truncations}, before the next step."
        )

    def _spread(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(
                "If seeds are passed as a list the length must match "
                f"num_envs={self.num_envs} but got length={len(seed)}."
            )
        return [None if s is None else int(s) for s in seed]

    def _reset_mask(self, options: dict[str, Any] | None) -> NDArray[np.bool_]:
        if options is None or "reset_mask" not in options:
            return self._everyone
        mask = options["reset_mask"]
        if not isinstance(mask, np.ndarray):
            raise TypeError(f"`options['reset_mask']` must be a numpy array, got {type(mask)}")
        if mask.shape != (self.num_envs,):
            raise ValueError(f"`options['reset_mask']` must have shape `({self.num_envs},)`, got {mask.shape}")
        if mask.dtype != np.bool_:
            raise TypeError(f"`options['reset_mask']` must have `dtype=np.bool_`, got {mask.dtype}")
        if not mask.any():
            raise ValueError(
                "`options['reset_mask']` must contain a boolean array with at least one True value, "
                f"got reset_mask={mask}"
            )
        return mask
