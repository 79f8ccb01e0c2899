"""Gymnasium's MuJoCo renderer for each of N environments, also without a display."""

from __future__ import annotations

import os
import sys

import mujoco
from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer


def make_renderers(like: MujocoRenderer, num_envs: int) -> list[MujocoRenderer]:
    """Renderers with the size and camera of `like` and an MjData of their own; contexts open at the first frame.

    On Linux without a display, `MUJOCO_GL` is set to "egl" unless the user has set it: Gymnasium's own
    order tries the windowing system first and stops there.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("MUJOCO_GL", "egl")
    return [
        MujocoRenderer(
            like.model,
            mujoco.MjData(like.model),
            like.default_cam_config,
            like.width,
            like.height,
            like.max_geom,
            camera_id=like.camera_id,
            visual_options=like._vopt,
        )
        for _ in range(num_envs)
    ]
