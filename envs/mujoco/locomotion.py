"""Runners: HalfCheetah, Hopper, Walker2d, Swimmer and Ant (Gymnasium, versions 4 and 5)."""

from __future__ import annotations

import numpy as np

from envs.mujoco.physics import Reader, Values
from envs.mujoco.task import (
    Array,
    Infos,
    Outcome,
    Task,
    between,
    body_reader,
    never,
    norm,
    normal_start,
    sum_of_squares,
)


class HalfCheetah(Task):
    """Run forward on two legs: reward is speed less control cost; never terminates."""

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        return normal_start(self.env, rng, self.env._reset_noise_scale)

    def observe(self, values: Values) -> Array:
        skip = 1 if self.env._exclude_current_positions_from_observation else 0
        return values["state"][:, skip:].copy()

    def mark(self, values: Values) -> Array:
        return values["qpos"][:, 0].copy()

    def outcome(self, values: Values, before: Array, after: Array, action: Array) -> Outcome:
        env = self.env
        velocity = (after - before) / self.dt
        forward = env._forward_reward_weight * velocity
        ctrl_cost = env._ctrl_cost_weight * sum_of_squares(action)
        infos = {
            "x_position": after.copy(),
            "x_velocity": velocity,
            "reward_forward" if self.v5 else "reward_run": forward,
            "reward_ctrl": -ctrl_cost,
        }
        return forward - ctrl_cost, never(values), infos

    def reset_info(self, values: Values) -> Infos:
        return {"x_position": values["qpos"][:, 0]} if self.v5 else {}


class Walker2d(Task):
    """Walk forward upright: reward is speed and health less control cost; ends with a fall."""

    def observe(self, values: Values) -> Array:
        nq = self.env.model.nq
        skip = 1 if self.env._exclude_current_positions_from_observation else 0
        obs = values["state"][:, skip:].copy()
        velocity = obs[:, nq - skip :]
        velocity.clip(-10, 10, out=velocity)
        return obs

    def mark(self, values: Values) -> Array:
        return values["qpos"][:, 0].copy()

    def healthy(self, values: Values) -> Array:
        """Torso height and angle within their ranges, [N]."""
        env, qpos = self.env, values["qpos"]
        return between(*_around(env._healthy_z_range, qpos[:, 1])) & between(
            *_around(env._healthy_angle_range, qpos[:, 2])
        )

    def outcome(self, values: Values, before: Array, after: Array, action: Array) -> Outcome:
        env = self.env
        velocity = (after - before) / self.dt
        forward = env._forward_reward_weight * velocity
        ctrl_cost = env._ctrl_cost_weight * sum_of_squares(action)
        healthy = self.healthy(values)
        survive = healthy_reward(self, healthy)
        reward = forward + survive - ctrl_cost
        terminated = ~healthy if env._terminate_when_unhealthy else never(values)
        if not self.v5:
            return reward, terminated, {"x_position": after.copy(), "x_velocity": velocity}
        infos = {
            "x_position": after.copy(),
            "z_distance_from_origin": values["qpos"][:, 1] - env.init_qpos[1],
            "x_velocity": velocity,
            "reward_forward": forward,
            "reward_ctrl": -ctrl_cost,
            "reward_survive": survive,
        }
        return reward, terminated, infos

    def reset_info(self, values: Values) -> Infos:
        if not self.v5:
            return {}
        qpos = values["qpos"]
        return {"x_position": qpos[:, 0], "z_distance_from_origin": qpos[:, 1] - self.env.init_qpos[1]}


class Hopper(Walker2d):
    """Walker2d on one leg; health also bounds every other position and velocity."""

    def healthy(self, values: Values) -> Array:
        low, high = self.env._healthy_state_range
        return super().healthy(values) & between(low, values["state"][:, 2:], high).all(axis=1)


class Swimmer(Task):
    """Swim forward in a viscous plane: reward is speed less control cost; never terminates."""

    def observe(self, values: Values) -> Array:
        skip = 2 if self.env._exclude_current_positions_from_observation else 0
        return values["state"][:, skip:].copy()

    def mark(self, values: Values) -> Array:
        return values["qpos"][:, :2].copy()

    def outcome(self, values: Values, before: Array, after: Array, action: Array) -> Outcome:
        env = self.env
        velocity = (after - before) / self.dt
        forward = env._forward_reward_weight * velocity[:, 0]
        ctrl_cost = env._ctrl_cost_weight * sum_of_squares(action)
        place = {
            "x_position": after[:, 0].copy(),
            "y_position": after[:, 1].copy(),
            "distance_from_origin": norm(after),
            "x_velocity": velocity[:, 0].copy(),
            "y_velocity": velocity[:, 1].copy(),
        }
        if self.v5:
            infos = {**place, "reward_forward": forward, "reward_ctrl": -ctrl_cost}
        else:
            infos = {
                "reward_fwd": forward,
                "reward_ctrl": -ctrl_cost,
                **place,
                "forward_reward": forward.copy(),
            }
        return forward - ctrl_cost, never(values), infos

    def reset_info(self, values: Values) -> Infos:
        return plane_position(values["qpos"]) if self.v5 else {}


class Ant(Task):
    """Walk forward on four legs: reward is speed and health less costs; ends with a fall."""

    def __init__(self, env: object, v5: bool) -> None:
        super().__init__(env, v5)
        self.contact_forces = v5 or self.env._use_contact_forces

    def readers(self) -> dict[str, Reader]:
        return {"torso": body_reader(self.env, self.env._main_body if self.v5 else "torso")}

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        return normal_start(self.env, rng, self.env._reset_noise_scale)

    def _clipped_forces(self, values: Values) -> Array:
        return values["cfrc_ext"].clip(*self.env._contact_force_range)  # [N, bodies, 6]

    def observe(self, values: Values) -> Array:
        state = values["state"]
        skip = 2 if self.env._exclude_current_positions_from_observation else 0
        if not (self.env._include_cfrc_ext_in_observation if self.v5 else self.contact_forces):
            return state[:, skip:].copy()
        forces = self._clipped_forces(values)[:, 1 if self.v5 else 0 :]
        return np.concatenate((state[:, skip:], forces.reshape(len(state), -1)), axis=1)

    def mark(self, values: Values) -> Array:
        return values["torso"][:, :2].copy()

    def outcome(self, values: Values, before: Array, after: Array, action: Array) -> Outcome:
        env, state, qpos = self.env, values["state"], values["qpos"]
        velocity = (after - before) / self.dt
        ctrl_cost = env._ctrl_cost_weight * sum_of_squares(action)
        low, high = env._healthy_z_range
        healthy = np.isfinite(state).all(axis=1) & (low <= state[:, 2]) & (state[:, 2] <= high)
        survive = healthy_reward(self, healthy)
        terminated = ~healthy if env._terminate_when_unhealthy else never(values)
        speed = {"x_velocity": velocity[:, 0].copy(), "y_velocity": velocity[:, 1].copy()}
        if self.v5:
            forward = velocity[:, 0] * env._forward_reward_weight
            contact_cost = env._contact_cost_weight * sum_of_squares(self._clipped_forces(values))
            reward = forward + survive - (ctrl_cost + contact_cost)
            infos = {
                **plane_position(qpos),
                **speed,
                "reward_forward": forward,
                "reward_ctrl": -ctrl_cost,
                "reward_contact": -contact_cost,
                "reward_survive": survive,
            }
            return reward, terminated, infos

        forward = velocity[:, 0].copy()
        infos = {
            "reward_forward": forward,
            "reward_ctrl": -ctrl_cost,
            "reward_survive": survive,
            **plane_position(after),
            **speed,
            "forward_reward": forward.copy(),
        }
        costs = ctrl_cost
        if self.contact_forces:
            contact_cost = env._contact_cost_weight * sum_of_squares(self._clipped_forces(values))
            costs = costs + contact_cost
            infos["reward_ctrl"] = -contact_cost  # as Gymnasium's v4 reports it
        return forward + survive - costs, terminated, infos

    def reset_info(self, values: Values) -> Infos:
        return plane_position(values["qpos"]) if self.v5 else {}


def healthy_reward(task: Task, healthy: Array) -> Array:
    """Reward for being healthy [N]; in version 4 it is also paid for the step that ends the episode."""
    env = task.env
    if task.v5:
        return healthy * env._healthy_reward
    return (healthy | bool(env._terminate_when_unhealthy)).astype(np.float64) * env._healthy_reward


def plane_position(xy: Array) -> Infos:
    """Infos on the place in the plane; xy: [N, >= 2]."""
    return {
        "x_position": xy[:, 0].copy(),
        "y_position": xy[:, 1].copy(),
        "distance_from_origin": norm(xy[:, :2]),
    }


def _around(limits: tuple[float, float], x: Array) -> tuple[float, Array, float]:
    low, high = limits
    return low, x, high
