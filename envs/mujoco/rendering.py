"""Gymnasium's MuJoCo renderer for each of N environments, also without a display."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import mujoco
from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer


def make_renderers(like: MujocoRenderer, datas: Sequence[mujoco.MjData]) -> list[MujocoRenderer]:
    """One renderer per MjData with the size and camera of `like`; contexts open at the first frame.

    On Linux without a display, `MUJOCO_GL` is set to "egl" unless the user has set it: Gymnasium's own
    order tries the windowing system first and stops there.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("MUJOCO_GL", "egl")
    return [
        MujocoRenderer(
            like.model,
            data,
            like.default_cam_config,
            like.width,
            like.height,
            like.max_geom,
            camera_id=like.camera_id,
            visual_options=like._vopt,
        )
        for data in datas
    ]
