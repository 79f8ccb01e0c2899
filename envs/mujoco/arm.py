"""Reacher and Pusher (Gymnasium, versions 4 and 5; Gymnasium refuses Pusher-v4 with mujoco >= 3)."""

from __future__ import annotations

import numpy as np

from envs.mujoco.physics import Reader, Values
from envs.mujoco.task import Array, Outcome, Task, body_reader, never, norm, sum_of_squares


class Reacher(Task):
    """Move a fingertip to a target: reward is minus distance and control cost; never terminates."""

    def readers(self) -> dict[str, Reader]:
        return {name: body_reader(self.env, name) for name in ("fingertip", "target")}

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        env = self.env
        qpos = rng.uniform(low=-0.1, high=0.1, size=env.model.nq) + env.init_qpos
        while True:
            goal = rng.uniform(low=-0.2, high=0.2, size=2)
            if np.linalg.norm(goal) < 0.2:
                break
        qpos[-2:] = goal
        qvel = env.init_qvel + rng.uniform(low=-0.005, high=0.005, size=env.model.nv)
        qvel[-2:] = 0
        return qpos, qvel

    def observe(self, values: Values) -> Array:
        qpos = values["qpos"]
        theta = qpos[:, :2].copy()  # contiguous, as Gymnasium's are: strides decide which sine numpy runs
        gap = values["fingertip"] - values["target"]
        parts = (
            np.cos(theta),
            np.sin(theta),
            qpos[:, 2:],
            values["qvel"][:, :2],
            gap[:, :2] if self.v5 else gap,
        )
        return np.concatenate(parts, axis=1)

    def mark(self, values: Values) -> Array:
        return values["fingertip"] - values["target"]

    def outcome(self, values: Values, before: Array, after: Array, action: Array) -> Outcome:
        env = self.env
        if self.v5:
            dist = -norm(after) * env._reward_dist_weight
            ctrl = -sum_of_squares(action) * env._reward_control_weight
        else:  # version 4 rewards the distance before the step
            dist, ctrl = -norm(before), -sum_of_squares(action)
        return dist + ctrl, never(values), {"reward_dist": dist, "reward_ctrl": ctrl}


class Pusher(Task):
    """Push a cylinder to a goal: reward is minus distances and control cost; never terminates."""

    def readers(self) -> dict[str, Reader]:
        return {name: body_reader(self.env, name) for name in ("tips_arm", "object", "goal")}

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        env = self.env
        goal = np.zeros(2)
        while True:
            cylinder = np.concatenate([rng.uniform(low=-0.3, high=0, size=1), rng.uniform(low=-0.2, high=0.2, size=1)])
            if np.linalg.norm(cylinder - goal) > 0.17:
                break
        qpos = env.init_qpos.copy()
        qpos[-4:-2] = cylinder
        qpos[-2:] = goal
        qvel = env.init_qvel + rng.uniform(low=-0.005, high=0.005, size=env.model.nv)
        qvel[-4:] = 0
        return qpos, qvel

    def observe(self, values: Values) -> Array:
        bodies = (values["tips_arm"], values["object"], values["goal"])
        return np.concatenate((values["qpos"][:, :7], values["qvel"][:, :7], *bodies), axis=1)

    def outcome(self, values: Values, before: Array, after: Array, action: Array) -> Outcome:
        env = self.env
        near = -norm(values["object"] - values["tips_arm"]) * env._reward_near_weight
        dist = -norm(values["object"] - values["goal"]) * env._reward_dist_weight
        ctrl = -sum_of_squares(action) * env._reward_control_weight
        infos = {"reward_dist": dist, "reward_ctrl": ctrl, "reward_near": near}
        return dist + ctrl + near, never(values), infos
