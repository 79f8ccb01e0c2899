"""Gymnasium's MuJoCo tasks as fast vector environments; see vector.py."""

from envs.mujoco.vector import ENTRY_POINTS, MujocoVectorEnv

__all__ = ["ENTRY_POINTS", "MujocoVectorEnv"]
