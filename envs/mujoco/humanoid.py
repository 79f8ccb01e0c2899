"""Humanoid and HumanoidStandup (Gymnasium, versions 4 and 5)."""

from __future__ import annotations

import numpy as np

from envs.mujoco.locomotion import healthy_reward, plane_position
from envs.mujoco.physics import Reader, Values
from envs.mujoco.task import (
    Array,
    Infos,
    Outcome,
    Task,
    between,
    field_reader,
    never,
    sum_of_squares,
    uniform_start,
)


class _HumanoidBody(Task):
    """The observation that both tasks share."""

    contact_forces = True

    def readers(self) -> dict[str, Reader]:
        names = ["cinert", "cvel", "qfrc_actuator", "ctrl", "xipos"]
        if self.v5:
            names += ["ten_length", "ten_velocity"]
        return {name: field_reader(name) for name in names}

    def observe(self, values: Values) -> Array:
        env, state = self.env, values["state"]
        fields = ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")
        if self.v5:  # without the world's row and the root's six unactuated degrees of freedom
            skip = 2 if env._exclude_current_positions_from_observation else 0
            parts = [
                values[name][:, 6 if name == "qfrc_actuator" else 1 :]
                for name in fields
                if getattr(env, f"_include_{name}_in_observation") is True
            ]
        else:
            skip = 2 if getattr(env, "_exclude_current_positions_from_observation", True) else 0
            parts = [values[name] for name in fields]
        n = len(state)
        return np.concatenate((state[:, skip:], *(part.reshape(n, -1) for part in parts)), axis=1)

    def tendons(self, values: Values) -> Infos:
        """Infos on the tendons, [N, ntendon]."""
        return {
            "tendon_length": values["ten_length"].copy(),
            "tendon_velocity": values["ten_velocity"].copy(),
        }


class Humanoid(_HumanoidBody):
    """Walk forward on two legs: reward is speed and health less costs; ends with a fall."""

    def mark(self, values: Values) -> Array:
        """The body's centre of mass in the plane, [N, 2]."""
        mass = self.env.model.body_mass
        return (np.einsum("b,nbj->nj", mass, values["xipos"]) / mass.sum())[:, :2].copy()

    def outcome(self, values: Values, before: Array, after: Array, action: Array) -> Outcome:
        env, qpos = self.env, values["qpos"]
        velocity = (after - before) / self.dt
        speed = {"x_velocity": velocity[:, 0].copy(), "y_velocity": velocity[:, 1].copy()}
        forward = env._forward_reward_weight * velocity[:, 0]
        ctrl_cost = env._ctrl_cost_weight * sum_of_squares(values["ctrl"])
        low, high = env._healthy_z_range
        healthy = between(low, qpos[:, 2], high)
        survive = healthy_reward(self, healthy)
        terminated = ~healthy if env._terminate_when_unhealthy else never(values)
        if self.v5:
            contact_cost = np.clip(
                env._contact_cost_weight * sum_of_squares(values["cfrc_ext"]), *env._contact_cost_range
            )
            reward = forward + survive - (ctrl_cost + contact_cost)
            place = plane_position(qpos)
            distance = place.pop("distance_from_origin")
            infos = {
                **place,
                **self.tendons(values),
                "distance_from_origin": distance,
                **speed,
                "reward_survive": survive,
                "reward_forward": forward,
                "reward_ctrl": -ctrl_cost,
                "reward_contact": -contact_cost,
            }
            return reward, terminated, infos
        infos = {
            "reward_linvel": forward,
            "reward_quadctrl": -ctrl_cost,
            "reward_alive": survive,
            **plane_position(after),
            **speed,
            "forward_reward": forward.copy(),
        }
        return forward + survive - ctrl_cost, terminated, infos

    def reset_info(self, values: Values) -> Infos:
        if not self.v5:
            return {}
        place = plane_position(values["qpos"])
        distance = place.pop("distance_from_origin")
        return {**place, **self.tendons(values), "distance_from_origin": distance}


class HumanoidStandup(_HumanoidBody):
    """Stand up from the floor: reward is height less control and impact costs; never terminates."""

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        return uniform_start(self.env, rng, self.env._reset_noise_scale if self.v5 else 0.01)

    def outcome(self, values: Values, before: Array, after: Array, action: Array) -> Outcome:
        env, qpos = self.env, values["qpos"]
        rise = (qpos[:, 2] - 0) / env.model.opt.timestep
        effort, impact = sum_of_squares(values["ctrl"]), sum_of_squares(values["cfrc_ext"])
        infos: Infos
        if self.v5:
            ctrl_cost = env._ctrl_cost_weight * effort
            impact_cost = np.clip(env._impact_cost_weight * impact, *env._impact_cost_range)
            infos = {**self.reset_info(values), "reward_linup": rise, "reward_quadctrl": -ctrl_cost}
            infos["reward_impact"] = -impact_cost
        else:
            ctrl_cost = 0.1 * effort
            impact_cost = np.minimum(0.5e-6 * impact, 10)
            infos = {"reward_linup": rise, "reward_quadctrl": -ctrl_cost}
            # Gymnasium caps with min(cost, 10): a capped cost is an int, and the first environment's type
            # becomes that of the whole info array.
            capped = 0.5e-6 * impact[0] > 10
            infos["reward_impact"] = (-impact_cost).astype(int) if capped else -impact_cost
        return rise - ctrl_cost - impact_cost + 1, never(values), infos

    def reset_info(self, values: Values) -> Infos:
        if not self.v5:
            return {}
        qpos = values["qpos"]
        return {
            "x_position": qpos[:, 0].copy(),
            "y_position": qpos[:, 1].copy(),
            "z_distance_from_origin": qpos[:, 2] - self.env.init_qpos[2],
            **self.tendons(values),
        }
