"""What a task adds to physics: where episodes start, what is seen, what is rewarded, when it ends.

Every formula is Gymnasium's, for N environments at once, in the same order of floating-point operations:
sums run along a contiguous row exactly as `np.sum` does over one environment's vector, and `norm` goes
through the same dot product as `np.linalg.norm`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.mujoco.physics import Reader, Values

Array = NDArray[Any]
Infos = dict[str, Array]  # [N, ...] each
Outcome = tuple[Array, Array, Infos]  # reward [N], terminated [N], infos


class Task:
    """One of Gymnasium's MuJoCo tasks in version 4 or 5.

    Args:
        env: Gymnasium's own environment, unwrapped. It was constructed with the user's options, checked and
            completed them, and is asked for them here; it is never stepped.
        v5: whether it is the task's version 5.
    """

    contact_forces = False  # whether `cfrc_ext` is among the values

    def __init__(self, env: Any, v5: bool) -> None:
        self.env = env
        self.v5 = v5
        self.dt: float = env.dt

    def readers(self) -> dict[str, Reader]:
        """Quantities to gather besides positions and velocities."""
        return {}

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Positions [nq] and velocities [nv] at the start of an episode."""
        scale = self.env._reset_noise_scale
        return uniform_start(self.env, rng, scale)

    def observe(self, values: Values) -> Array:
        """Observations [N, n], a new array."""
        raise NotImplementedError

    def mark(self, values: Values) -> Array:
        """What the next step must remember of this one, [N, ...], a new array."""
        return np.empty((len(values["state"]), 0))

    def outcome(self, values: Values, before: Array, after: Array, action: Array) -> Outcome:
        """Reward, termination and infos of a step; `before` and `after` are the marks around it."""
        raise NotImplementedError

    def reset_info(self, values: Values) -> Infos:
        """Infos that a reset returns."""
        return {}


def uniform_start(env: Any, rng: np.random.Generator, scale: float) -> tuple[Array, Array]:
    """The model's initial state with uniform noise on positions and velocities."""
    qpos = env.init_qpos + rng.uniform(low=-scale, high=scale, size=env.model.nq)
    qvel = env.init_qvel + rng.uniform(low=-scale, high=scale, size=env.model.nv)
    return qpos, qvel


def normal_start(env: Any, rng: np.random.Generator, scale: float) -> tuple[Array, Array]:
    """The model's initial state with uniform noise on positions, normal noise on velocities."""
    qpos = env.init_qpos + rng.uniform(low=-scale, high=scale, size=env.model.nq)
    qvel = env.init_qvel + scale * rng.standard_normal(env.model.nv)
    return qpos, qvel


def sum_of_squares(rows: Array) -> Array:
    """Sum over each row [N, ...] -> [N], in the order in which `np.sum(np.square(row))` adds."""
    return np.add.reduce(np.square(rows.reshape(len(rows), -1)), axis=1)


def norm(rows: Array) -> Array:
    """Euclidean norms [N, k] -> [N], equal to `np.linalg.norm(row)`.

    That one takes a BLAS dot product, whose fused multiply-add rounds unlike `sqrt(sum(square(rows)))`;
    a product of a row and a column goes through the same routine.
    """
    rows = np.ascontiguousarray(rows)
    return np.sqrt(np.matmul(rows[:, None, :], rows[:, :, None])[:, 0, 0])


def never(values: Values) -> Array:
    """No environment has ended: [N] of False."""
    return np.zeros(len(values["state"]), dtype=np.bool_)


def between(low: float, x: Array, high: float) -> Array:
    """low < x < high."""
    return (low < x) & (x < high)


def body_reader(env: Any, body: int | str) -> Reader:
    """Reads the position [3] of a body, which is given by number or name."""
    index = env.model.body(body).id
    return lambda batch: batch.bind("xpos")[:, index]


def field_reader(name: str) -> Reader:
    """Reads one of MjData's fields."""
    return lambda batch: batch.bind(name)
