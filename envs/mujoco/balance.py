"""InvertedPendulum and InvertedDoublePendulum (Gymnasium, versions 4 and 5)."""

from __future__ import annotations

import numpy as np

from envs.mujoco.physics import Reader, Values
from envs.mujoco.task import Array, Outcome, Task, field_reader, normal_start, uniform_start


class InvertedPendulum(Task):
    """Balance a pole on a cart: 1 for every step; ends when the pole leans more than 0.2 rad."""

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        return uniform_start(self.env, rng, self.env._reset_noise_scale if self.v5 else 0.01)

    def observe(self, values: Values) -> Array:
        return values["state"].copy()

    def outcome(self, values: Values, before: Array, after: Array, action: Array) -> Outcome:
        state = values["state"]
        terminated = ~np.isfinite(state).all(axis=1) | (np.abs(state[:, 1]) > 0.2)
        if not self.v5:
            return np.ones(len(state)), terminated, {}
        survive = (~terminated).astype(int)
        return survive.astype(np.float64), terminated, {"reward_survive": survive}


class InvertedDoublePendulum(Task):
    """Balance two linked poles on a cart: a bonus less penalties; ends when the tip is at 1 m or lower."""

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        return normal_start(self.env, rng, self.env._reset_noise_scale if self.v5 else 0.1)

    def readers(self) -> dict[str, Reader]:
        return {"tip": lambda batch: batch.bind("site_xpos")[:, 0], "qfrc_constraint": field_reader("qfrc_constraint")}

    def observe(self, values: Values) -> Array:
        qpos = values["qpos"]
        angles = qpos[:, 1:].copy()  # contiguous, as Gymnasium's are: strides decide which sine numpy runs
        forces = values["qfrc_constraint"].clip(-10, 10)
        velocity = values["qvel"].clip(-10, 10)
        parts = (qpos[:, :1], np.sin(angles), np.cos(angles), velocity, forces[:, :1] if self.v5 else forces)
        return np.concatenate(parts, axis=1)

    def outcome(self, values: Values, before: Array, after: Array, action: Array) -> Outcome:
        x, y = values["tip"][:, 0], values["tip"][:, 2]
        v1, v2 = values["qvel"][:, 1], values["qvel"][:, 2]
        distance_penalty = 0.01 * _scalar_squares(x) + _scalar_squares(y - 2)
        velocity_penalty = 1e-3 * _scalar_squares(v1) + 5e-3 * _scalar_squares(v2)
        terminated = y <= 1
        if not self.v5:
            return 10 - distance_penalty - velocity_penalty, terminated, {}
        survive = self.env._healthy_reward * ~terminated
        infos = {
            "reward_survive": survive,
            "distance_penalty": -distance_penalty,
            "velocity_penalty": -velocity_penalty,
        }
        return survive - distance_penalty - velocity_penalty, terminated, infos


def _scalar_squares(x: Array) -> Array:
    """`value**2` of each: numpy takes a scalar's square through pow(), which rounds unlike value * value."""
    return np.array([value**2 for value in x])
