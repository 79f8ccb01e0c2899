"""Agent: learn, predict, save, load, and the only training loop.

An algorithm subclasses `Agent` and says what it is made of (`build`, `parts`), how it acts (`act`, `to_env`, `choose`),
what it stores (`schema`, `rows_per_iteration`, `buffer_rows`) and how it learns (`update`). The surface is
Stable-Baselines3's, so that its callbacks, `evaluate_policy` and loggers work unchanged.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from torch import Tensor

from agents.core import checkpoint, distributed
from agents.core.buffer import Buffer, Field
from agents.core.callbacks import Infos, as_callback
from agents.core.collector import Collector, transition_schema
from agents.core.environments import as_vector_env, environment_spec, environment_state, restore_environment
from agents.core.errors import CheckpointError
from agents.core.normalizer import ObservationNormalizer
from agents.core.setup import chosen_device, configured
from agents.core.spaces import describe, is_single, observation_tensors, rebuild, same, stack_one
from agents.core.tasks import TaskSampler

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.logger import Logger


class Agent:
    """An algorithm on a vector environment.

    env: a Gymnasium id, an Env or a VectorEnv. seed: everything random follows from it; None draws one. device: "auto"
    takes CUDA where there is one. config: a `Config`, or None for its defaults; further keywords replace single fields
    of it, which can all be read as the agent's own (`agent.gamma`). A copy (pickle, `copy`) is what `save` and
    `agents.load` make: it goes on in environments of its own.

    Raises ValueError for unknown fields, impossible settings and spaces that the algorithm cannot serve.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    default_num_envs: ClassVar[int] = 16  # when `env` is an id
    log_interval: int = 1  # iterations

    policy: Any  # made by `build`, like the rest
    normalizer: ObservationNormalizer

    def __init__(
        self,
        env: str | gym.Env | VectorEnv | None,
        *,
        seed: int | None = 0,
        device: str | torch.device = "auto",
        config: Any = None,
        _spaces: tuple[spaces.Space, spaces.Space] | None = None,
        **fields: Any,
    ) -> None:
        self.config = configured(self.name, self.Config, config, fields)
        self.env = None if env is None else as_vector_env(env, self.default_num_envs)
        if self.env is not None:
            self.observation_space = self.env.single_observation_space
            self.action_space = self.env.single_action_space
        elif _spaces is not None:
            self.observation_space, self.action_space = _spaces
        else:
            raise ValueError(f"{type(self).__name__} needs an environment: an id, an Env or a VectorEnv")
        self.seed = secrets.randbits(31) if seed is None else int(seed)
        self.device = chosen_device(device)
        self.generator = torch.Generator(self.device).manual_seed(distributed.seed(self.seed))
        self.predict_generator = torch.Generator(self.device).manual_seed(self.seed + 1)
        self.num_timesteps = 0
        self.steps_at_boundary = 0  # `num_timesteps` when the iteration began, whether or not callbacks count within it
        self.iterations = 0
        self.total_timesteps = 0
        self.ep_info_buffer: deque[dict[str, float]] = deque(maxlen=100)
        self.restored_exactly = False
        self.buffer: Buffer | None = None
        self.collector: Collector | None = None
        self._environment = None if self.env is None else environment_spec(self.env)
        self._logger: Logger | None = None
        self._stop_requested = False
        self._began = time.monotonic(), 0  # when `learn` did, and at how many steps
        self.log_due = False  # whether this iteration's metrics will be looked at
        with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator
            torch.manual_seed(self.seed)
            self.build()

    # --- what an algorithm says ---------------------------------------------------------------------------------

    def build(self) -> None:
        """Make networks and optimisers from `observation_space`, `action_space` and `config`."""
        raise NotImplementedError

    def parts(self) -> dict[str, Any]:
        """Everything with a state_dict that a checkpoint must hold, by name."""
        raise NotImplementedError

    def schema(self) -> dict[str, Field]:
        """The fields that `act` returns."""
        return self.policy.fields()

    def rows_per_iteration(self) -> int:
        """Vector steps to collect before each update, at most."""
        raise NotImplementedError

    def enough(self) -> bool:
        """Whether, after a vector step, the next update can come before `rows_per_iteration` are full."""
        return False

    def buffer_rows(self) -> int:
        """Rows that the buffer holds."""
        return self.rows_per_iteration()

    def act(self, obs: Any, episode_start: np.ndarray) -> Mapping[str, Any]:
        """Act in training: the fields of `schema` for N environments."""
        raise NotImplementedError

    def choose(self, obs: Any, deterministic: bool) -> Any:
        """Act in evaluation: actions [batch, ...] as stored."""
        return self.policy.choose(self.normalizer(obs), deterministic, self.predict_generator)

    def to_env(self, action: Any, obs: Any) -> Any:
        """Stored actions as the environment takes them; obs: the raw observations they answer."""
        return self.policy.to_env(action, obs)

    def update(self) -> Mapping[str, float | Tensor]:
        """Learn from the buffer; the metrics to log under train/."""
        raise NotImplementedError

    def imitated(self) -> None:
        """Called when the policy has learned by imitation: bring in line what follows it."""

    def forget_episodes(self) -> None:
        """Called when fresh episodes begin everywhere: drop what was kept of those that were going on."""

    def tasks(self) -> TaskSampler | None:
        """Draws reset seeds in groups; None leaves seeding to the environments' own generators."""
        return None

    # --- learning -----------------------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: BaseCallback | list[BaseCallback] | Any = None,
        log_interval: int | None = None,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Collect and update until `total_timesteps` environment steps (summed over environments) have been made.

        Where several processes learn as one, the steps of all count, and all must call this alike.
        callback: Stable-Baselines3 callbacks. `on_rollout_start` is the iteration boundary, where the whole state is
        consistent. log_interval: iterations between log rows. tb_log_name: for callbacks that ask for it; where logs
        go is `set_logger`'s to say. reset_num_timesteps=False makes `total_timesteps` additional steps, in the
        episodes that were going on; otherwise fresh ones begin, as in Stable-Baselines3.
        """
        self.prepare()
        assert self.collector is not None
        assert self.buffer is not None
        self.buffer.clear()  # of half a rollout that an exception left
        if reset_num_timesteps:
            self.num_timesteps = self.iterations = 0
            self.collector.obs = None
            self.forget_episodes()
        self.total_timesteps = self.num_timesteps + int(total_timesteps)
        self._stop_requested = False
        every = log_interval or self.log_interval
        hook = as_callback(callback, progress_bar, self)
        self._began = time.monotonic(), self.num_timesteps
        if hook is not None:
            about = {"self": self, "total_timesteps": self.total_timesteps, "tb_log_name": tb_log_name}
            hook.on_training_start(about, {})

        def on_step(step: dict[str, Any]) -> bool:
            self.num_timesteps += step["num_steps"] * distributed.world()
            assert hook is not None
            if isinstance(step["infos"], Mapping):
                step["infos"] = Infos(step["infos"], len(step["dones"]))
            hook.update_locals(step)
            return bool(hook.on_step())

        while self.num_timesteps < self.total_timesteps:
            if hook is not None:
                hook.on_rollout_start()
            if distributed.agreed(self._stop_requested):
                break
            self.steps_at_boundary = self.num_timesteps
            count, finished, going = self.collector.collect(
                self.rows_per_iteration(), None if hook is None else on_step, self.enough
            )
            self.ep_info_buffer.extend(finished)
            # Within a collection the others' steps are taken to be as many as one's own; here they are counted.
            self.num_timesteps = self.steps_at_boundary + round(distributed.mean(count)[0] * distributed.world())
            if not going:
                self.buffer.clear()  # half a rollout: the next call to learn starts a whole one
                break
            if hook is not None:
                hook.on_rollout_end()
            self.log_due = (self.iterations + 1) % every == 0
            # Environments that reset themselves in a step of their own may do nothing else all rollout long.
            metrics: Mapping[str, float | Tensor] = {}
            if self.num_timesteps == self.steps_at_boundary and "valid" in self.buffer.schema:
                self.buffer.clear()
            else:
                metrics = self.update()
            self.iterations += 1
            if self.log_due:
                self._record(metrics)
                self.dump_logs()
        if hook is not None:
            if self.num_timesteps >= self.total_timesteps:
                hook.on_rollout_start()  # the last boundary: callbacks see the finished state too
            hook.on_training_end()
        return self

    def stop(self) -> None:
        """Make `learn` return at the next iteration boundary; safe to call from a signal handler."""
        self._stop_requested = True

    def prepare(self) -> None:
        """Allocate the buffer and the collector; `learn` does it on its first call."""
        if self.collector is not None:
            return
        if self.env is None:
            if self._environment is None:
                raise ValueError("this agent has no environment to learn in: give one with set_env")
            self.env = as_vector_env(
                self._environment["id"], self._environment["num_envs"], self._environment["kwargs"]
            )
            self._check_spaces(self.env)
        schema = transition_schema(self.env, self.schema(), episodes=self.tasks() is not None)
        buffer = self.buffer
        if buffer is None or (buffer.schema, buffer.num_envs) != (schema, self.env.num_envs):
            buffer = Buffer(schema, self.buffer_rows(), self.env.num_envs, seed=distributed.seed(self.seed))
        self.buffer = buffer
        self.collector = Collector(self.env, self, buffer, seed=self.seed, tasks=self.tasks())

    def _record(self, metrics: Mapping[str, float | Tensor]) -> None:
        values = distributed.mean(*(float(value) for value in metrics.values()))
        for name, value in zip(metrics, values, strict=True):
            self.logger.record(f"train/{name}", value)

    def dump_logs(self) -> None:
        """Write a log row of what has been recorded, the latest 100 episodes and the time, as callbacks of
        Stable-Baselines3 ask for between iterations. Where several processes learn as one, all must call it alike."""
        logger, recent = self.logger, list(self.ep_info_buffer)
        for others in distributed.gather(recent):
            recent += others
        started, steps_before = self._began
        seconds = time.monotonic() - started
        if recent:
            logger.record("rollout/ep_rew_mean", float(np.mean([e["r"] for e in recent])))
            logger.record("rollout/ep_len_mean", float(np.mean([e["l"] for e in recent])))
        logger.record("time/fps", int((self.num_timesteps - steps_before) / max(seconds, 1e-9)))
        logger.record("time/time_elapsed", int(seconds), exclude="tensorboard")
        logger.record("time/iterations", self.iterations, exclude="tensorboard")
        logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        logger.dump(step=self.num_timesteps)

    # --- acting -------------------------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[Any, tuple[np.ndarray, ...] | None]:
        """Actions for one observation or a batch of them, ready for `env.step`; `state` is passed through."""
        single = is_single(self.observation_space, observation)
        batch = stack_one(self.observation_space, observation) if single else observation
        with torch.inference_mode():
            tensors = observation_tensors(self.observation_space, batch, self.device)
            actions = self.to_env(self.choose(tensors, deterministic), tensors)
        return (actions[0] if single else actions), state

    # --- environment, logger -------------------------------------------------------------------------------------

    @property
    def environment_takes(self) -> str:
        """For messages about what an algorithm does not serve: "reasoning/addition-v0 takes text"."""
        name = self._environment["id"] if self._environment else "this environment"
        text = isinstance(self.action_space, spaces.Text)
        return f"{name} takes {'text' if text else f'{type(self.action_space).__name__} actions'}"

    @property
    def num_envs(self) -> int:
        return 0 if self.env is None else self.env.num_envs

    def get_env(self) -> VectorEnv | None:
        """Gymnasium's VectorEnv that it learns in. Where Stable-Baselines3 wants a VecEnv, as `evaluate_policy` and
        `EvalCallback` do, give a single Env: `evaluate_policy(agent, gym.make(id))`."""
        return self.env

    def set_env(self, env: str | gym.Env | VectorEnv) -> None:
        """Go on in another environment of the same spaces, with the transitions stored for replay if it has as many
        environments. Raises ValueError where the spaces differ."""
        made = as_vector_env(env, self.default_num_envs)
        self._check_spaces(made)
        self.env, self._environment = made, environment_spec(made)
        self.collector = None
        self.forget_episodes()

    @property
    def n_envs(self) -> int:
        """`num_envs`, as Stable-Baselines3 calls it."""
        return self.num_envs

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """The settings, as attributes of the agent."""
            if not name.startswith("_") and hasattr(self.__dict__.get("config"), name):
                return getattr(self.config, name)
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def get_vec_normalize_env(self) -> None:
        """None: normalisation is part of the agent. Stable-Baselines3's callbacks ask."""
        return None

    @property
    def logger(self) -> Logger:
        """Stable-Baselines3's logger; without `set_logger` it writes nowhere."""
        if self._logger is None:
            from stable_baselines3.common.logger import Logger

            self._logger = Logger(folder=None, output_formats=[])
        return self._logger

    def set_logger(self, logger: Logger) -> None:
        self._logger = logger

    # --- checkpoints --------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], *, exact: bool = False) -> Path:
        """Write the agent to one file (".safetensors" is added where the path has no suffix).

        exact: also the buffer and the environments' state, so that learning goes on bit for bit where it stopped.
        Where several processes learn as one, the first of them writes what all have: all must call this alike.
        Raises OSError where the disk refuses; what was there before stays whole.
        """
        first = distributed.rank() == 0
        if not (first or exact):
            return Path(path)
        state = self._state()
        if exact and self.collector is not None and self.collector.obs is not None:
            assert self.buffer is not None
            assert self.env is not None
            state["exact"] = {
                "buffer": self.buffer.state_dict(),
                "collector": self.collector.state_dict(),
                "environment": environment_state(self.env),
            }
            if distributed.world() > 1:
                state["others"] = distributed.gather(state)
        return checkpoint.save(path, state) if first else Path(path)

    def _state(self) -> dict[str, Any]:
        config = dataclasses.asdict(self.config)
        if hasattr(self.policy, "encoder"):  # told by what it is made of: the file it came from may be gone
            config["encoder"] = self.policy.encoder.name
        return {
            "algorithm": self.name,
            "config": config,
            "seed": self.seed,
            "observation_space": describe(self.observation_space),
            "action_space": describe(self.action_space),
            "environment": self._environment,
            "num_timesteps": self.num_timesteps,
            "iterations": self.iterations,
            "total_timesteps": self.total_timesteps,
            "episodes": list(self.ep_info_buffer),
            "generator": self.generator.get_state(),
            "predict_generator": self.predict_generator.get_state(),
            "parts": {name: part.state_dict() for name, part in self.parts().items()},
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state, (self._state(),)

    @classmethod
    def from_state(cls, state: Mapping[str, Any], env: Any = None, device: str | torch.device = "auto") -> Self:
        """The agent that `save` wrote, from what `checkpoint.load` read.

        Raises CheckpointError where the spaces of `env` differ or the state does not fit the algorithm.
        """
        if env is not None and "exact" in state:
            ranks = [state, *state.get("others", ())]
            if len(ranks) != distributed.world():
                raise CheckpointError(
                    f"the checkpoint was made by {len(ranks)} process(es), not {distributed.world()}: "
                    f"resume with torchrun --nproc-per-node {len(ranks)}"
                )
            state = ranks[distributed.rank()]
        try:
            spaces_ = (rebuild(state["observation_space"]), rebuild(state["action_space"]))
            config = cls.Config(**{key: _tuples(value) for key, value in state["config"].items()})
            agent = cls(None, seed=state["seed"], device=device, config=config, _spaces=spaces_)
            for name, part in agent.parts().items():
                part.load_state_dict(state["parts"][name])
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"the checkpoint does not fit {cls.name}: {error}") from None
        agent._environment = state["environment"]
        agent.num_timesteps, agent.iterations = state["num_timesteps"], state["iterations"]
        agent.total_timesteps = state["total_timesteps"]
        agent.ep_info_buffer.extend(state["episodes"])
        if agent.device.type == "cpu" or torch.cuda.is_available():
            _restore_generator(agent.generator, state["generator"])
            _restore_generator(agent.predict_generator, state["predict_generator"])
        if env is not None:
            agent.env = as_vector_env(env, cls.default_num_envs)
            agent._check_spaces(agent.env)
            agent._environment = environment_spec(agent.env)
            if "exact" in state:
                agent._restore_exactly(state["exact"], same_task=state["environment"] == agent._environment)
        return agent

    def _restore_exactly(self, exact: Mapping[str, Any], same_task: bool) -> None:
        assert self.env is not None
        stored = exact["buffer"]
        num_envs = len(exact["collector"]["lengths"])
        if num_envs != self.env.num_envs:
            raise CheckpointError(
                f"the checkpoint was made with {num_envs} environments, this is {self.env.num_envs}: "
                f"resume with num_envs={num_envs}"
            )
        self.prepare()
        assert self.buffer is not None
        assert self.collector is not None
        self.buffer.load_state_dict(stored)
        # Without the environments' own state the stored episodes cannot go on: fresh ones start.
        environment = exact["environment"]
        if same_task and environment is not None and restore_environment(self.env, environment):
            self.collector.load_state_dict(exact["collector"])
            self.restored_exactly = True

    def _check_spaces(self, env: VectorEnv) -> None:
        for what in ("observation", "action"):
            mine, theirs = getattr(self, f"{what}_space"), getattr(env, f"single_{what}_space")
            if not same(mine, theirs):
                raise CheckpointError(f"the agent was made for the {what} space {mine}, the environment has {theirs}")


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _restore_generator(generator: torch.Generator, state: Tensor) -> None:
    if generator.get_state().shape == state.shape:  # a CUDA generator's state does not fit a CPU one
        generator.set_state(state)
