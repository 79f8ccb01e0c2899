"""Screens: a screenshot and an instruction in, mouse and keyboard out. Importing this registers the environments:

`gui/<task>-v0` for each task of the embedded screen, and `gui/mix-v0` for all of them or those of its option `task`;
`chromium/<task>-v0` for each task of MiniWoB++ in a real browser, and `chromium/page-v0` for any page of this host.
"""

from __future__ import annotations

import gymnasium

from envs.gui.actions import Action, ActionError
from envs.gui.chromium import MINIWOB
from envs.gui.env import GuiEnv
from envs.gui.task import TASKS
from envs.gui.vector import GuiVectorEnv

__all__ = ["MINIWOB", "TASKS", "Action", "ActionError", "GuiEnv", "GuiVectorEnv"]


def _register() -> None:
    for name, task in {**{name: name for name in TASKS}, "mix": list(TASKS)}.items():
        env_id = f"gui/{name}-v0"
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point="envs.gui.env:GuiEnv",
                vector_entry_point="envs.gui.vector:GuiVectorEnv",
                kwargs={"task": task},
            )


_register()
