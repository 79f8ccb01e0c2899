"""Stepping many environments with random actions: ours, Gymnasium's, and the bare physics under both.

All three sides run the same physics: the same seeds, the same actions (drawn beforehand, in bounds), the same
resets. The report shows it: ours and Gymnasium have the same sum of rewards, bare physics the same last
states.
"""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from experiments.benchmarks import Benchmark, Measurement, Options, Ratio, Side, usable_cores

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

SEED = 0
WARM_UP = 64  # vector steps


def ours(env: str, num_envs: int, steps: int) -> Measurement:
    import envs

    vector = envs.make_vec(env, num_envs)
    return _step(vector, env, steps, {"vectorisation": f"envs.make_vec -> {type(vector).__name__}"})


def peer_gymnasium(env: str, num_envs: int, steps: int) -> Measurement:
    """Gymnasium's SyncVectorEnv without its environment checker, which would only slow it down."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    vector = gym.vector.SyncVectorEnv(
        [lambda: gym.make(env, disable_env_checker=True)] * num_envs,
        autoreset_mode=gym.vector.AutoresetMode.DISABLED,
    )
    return _step(vector, env, steps, {"vectorisation": "gymnasium SyncVectorEnv", "disable_env_checker": True})


def peer_raw(env: str, num_envs: int, steps: int, cores: int) -> Measurement:
    """`mujoco.mj_step(model, data, nstep=frame_skip)` on one core, times `cores`: what bounds everybody.

    Gymnasium steps the same actions first, off the clock, to learn when each environment resets and to which
    state; the bare physics then replays exactly those trajectories.
    """
    import mujoco

    warnings.filterwarnings("ignore", category=DeprecationWarning)
    singles = [gym.make(env, disable_env_checker=True) for _ in range(num_envs)]
    bases: list[Any] = [single.unwrapped for single in singles]
    actions = _actions(singles[0].action_space, num_envs, steps + WARM_UP)

    def state(base: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return base.data.qpos.copy(), base.data.qvel.copy()

    for index, single in enumerate(singles):
        single.reset(seed=SEED + index)
    initial = [state(base) for base in bases]
    resets: list[list[tuple[int, Any]]] = []  # by vector step: (environment, state it is reset to)
    for action in actions:
        done = []
        for index, single in enumerate(singles):
            _, _, terminated, truncated, _ = single.step(action[index])
            if terminated or truncated:
                single.reset()
                done.append((index, state(bases[index])))
        resets.append(done)

    models = [base.model for base in bases]
    datas = [mujoco.MjData(model) for model in models]
    frame_skip = bases[0].frame_skip

    def restore(index: int, position_velocity: Any) -> None:
        mujoco.mj_resetData(models[index], datas[index])
        datas[index].qpos[:], datas[index].qvel[:] = position_velocity
        mujoco.mj_forward(models[index], datas[index])

    def run(start: int, stop: int) -> None:
        for step in range(start, stop):
            for model, data, action in zip(models, datas, actions[step], strict=True):
                data.ctrl[:] = action
                mujoco.mj_step(model, data, nstep=frame_skip)
            for index, position_velocity in resets[step]:
                restore(index, position_velocity)

    for index, position_velocity in enumerate(initial):
        restore(index, position_velocity)
    mujoco.mj_resetCallbacks()  # the clock, which the other side of the ratio does not read either
    run(0, WARM_UP)
    started = time.perf_counter()
    run(WARM_UP, WARM_UP + steps)
    one_core = num_envs * steps / (time.perf_counter() - started)
    same = all(np.array_equal(data.qpos, base.data.qpos) for data, base in zip(datas, bases, strict=True))
    settings = {
        "env": env,
        "num_envs": num_envs,
        "vector steps": steps,
        "physics": f"mujoco.mj_step(model, data, nstep={frame_skip}) in one thread without timers, same trajectories",
        "rate is": f"that of one core times {cores} cores",
    }
    notes = {"steps/s of one core": round(one_core, 1), "ends in Gymnasium's very states": same}
    return Measurement(one_core * cores, settings, notes)


def _step(vector: VectorEnv, env: str, steps: int, settings: dict[str, Any]) -> Measurement:
    """Step with random actions, resetting whatever ended as a collector does; resets are on the clock."""
    actions = _actions(vector.single_action_space, vector.num_envs, steps + WARM_UP)

    rewards: list[NDArray[Any]] = []  # summed off the clock

    def run(start: int, stop: int) -> int:
        episodes = 0
        for action in actions[start:stop]:
            _, reward, terminated, truncated, _ = vector.step(action)
            rewards.append(reward)
            done = terminated | truncated
            if done.any():
                episodes += int(done.sum())
                vector.reset(options={"reset_mask": done})
        return episodes

    vector.reset(seed=SEED)
    run(0, WARM_UP)
    started = time.perf_counter()
    episodes = run(WARM_UP, WARM_UP + steps)
    seconds = time.perf_counter() - started
    total = float(np.sum(rewards[WARM_UP:]))
    return Measurement(
        rate=vector.num_envs * steps / seconds,
        settings={"env": env, "num_envs": vector.num_envs, "vector steps": steps, **settings},
        notes={"sum of rewards": total, "episodes ended": episodes},
    )


def _actions(space: Any, num_envs: int, steps: int) -> NDArray[np.float32]:
    """Uniform in the bounds of `space`, [steps, num_envs, *shape], the same on every side."""
    generator = np.random.default_rng(SEED)
    return generator.uniform(space.low, space.high, (steps, num_envs, *space.shape)).astype(space.dtype)


def benchmark(options: Options) -> Benchmark:
    gym.spec(options.env)  # an unknown id is refused here, in one sentence
    cores = usable_cores()
    num_envs = 16
    # More than two episodes of 1000 steps, so that resets are part of what is measured.
    steps = 2500 if options.steps is None else max(1, options.steps // num_envs)
    arguments = {"env": options.env, "num_envs": num_envs, "steps": steps}
    mine, theirs = f"ours, {num_envs} envs", f"gymnasium SyncVectorEnv, {num_envs} envs"
    raw = f"raw mj_step of one core x {cores}"
    threads = options.threads or 1
    return Benchmark(
        title=f"stepping {options.env} with random actions",
        unit="env steps/s",
        sides=[
            Side(mine, ours, arguments, threads),
            Side(theirs, peer_gymnasium, arguments, threads),
            Side(raw, peer_raw, {**arguments, "cores": cores}, threads),
        ],
        ratios=[Ratio(mine, theirs, target=2.5), Ratio(mine, raw, target=0.6, memory=False)],
    )
