"""Episodes as videos: MP4 where ffmpeg is at hand, else GIF; of screens both. Needs imageio (the extra `video`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.environments import make_single
from experiments.frames import Moment, film, gif

if TYPE_CHECKING:
    from agents.core.evaluation import Predictor


def check_imageio() -> None:
    """Raise ValueError where imageio is missing."""
    if importlib.util.find_spec("imageio") is None:
        raise ValueError("--video needs imageio: pip install 'rl-suite[video]'")


def check_renders(env_id: str, env_kwargs: dict[str, Any]) -> None:
    """Raise ValueError where the environment has no pictures, or none can be drawn here."""
    env = make_single(env_id, **env_kwargs)
    modes = env.metadata.get("render_modes", [])
    env.close()
    if "rgb_array" not in modes:
        raise ValueError(f"{env_id} has no pictures to make a video of")
    env = make_single(env_id, render_mode="rgb_array", **env_kwargs)
    try:
        env.reset(seed=0)
        _frame(env)
    finally:
        env.close()


def record_episode(
    predictor: Predictor, env_id: str, env_kwargs: dict[str, Any], path: Path, *, seed: int, deterministic: bool
) -> Path:
    """Play one episode of Gymnasium's own environment and write its frames; returns the file written.

    Raises ValueError where the environment cannot be rendered.
    """
    import imageio.v2 as imageio

    env = make_single(env_id, render_mode="rgb_array", **env_kwargs)
    try:
        observation, _ = env.reset(seed=seed)
        first = _frame(env)
        rate = int(env.metadata.get("render_fps") or 30)
        mp4 = importlib.util.find_spec("imageio_ffmpeg") is not None
        path = path.with_suffix(".mp4" if mp4 else ".gif")
        options: dict[str, Any] = {"fps": rate, "macro_block_size": 1} if mp4 else {"duration": 1000 / rate, "loop": 0}
        with imageio.get_writer(path, **options) as opened:
            writer: Any = opened
            writer.append_data(first)
            done = False
            while not done:
                action, _ = predictor.predict(observation, deterministic=deterministic)
                observation, _, terminated, truncated, _ = env.step(action)
                writer.append_data(_frame(env))
                done = terminated or truncated
    finally:
        env.close()
    return path


def write_moments(moments: Sequence[Moment], path: Path) -> list[Path]:
    """Screens one after another, as `path`.gif and, where ffmpeg is at hand, as `path`.mp4 too; returns the files."""
    import imageio.v2 as imageio

    files = [path.with_name(path.name + ".gif")]
    files[0].write_bytes(gif(moments))
    if importlib.util.find_spec("imageio_ffmpeg") is not None:
        files.append(path.with_name(path.name + ".mp4"))
        options: dict[str, Any] = {"fps": 2, "macro_block_size": 1}
        with imageio.get_writer(files[1], **options) as opened:
            writer: Any = opened
            for frame in film(moments, rate=2):
                writer.append_data(frame)
    return files


def _frame(env: Any) -> np.ndarray:
    """One rendered frame [height, width, 3]."""
    try:
        frame = env.render()
    except Exception as problem:  # whatever the graphics library raises
        text = f"{env.spec.id} cannot be rendered here: {type(problem).__name__}: {problem}"
        if str(env.spec.entry_point).startswith("gymnasium.envs.mujoco."):
            text += "; without a display set MUJOCO_GL=egl, or MUJOCO_GL=osmesa with OSMesa installed"
        raise ValueError(text) from problem
    if not isinstance(frame, np.ndarray):
        raise ValueError(f"{env.spec.id} renders no frames")
    return frame
