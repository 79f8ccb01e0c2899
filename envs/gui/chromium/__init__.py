"""Real pages in Chromium as screens: `chromium/<task>-v0` for MiniWoB++'s tasks, `chromium/page-v0` for any other.

Importing this registers the ids, wherever Chromium, Playwright and MiniWoB++ are or are not installed: an environment
that is made without them says what to install. Nothing of the browser is imported before that.
"""

from __future__ import annotations

import gymnasium

from envs.gui.chromium.sites import MINIWOB

__all__ = ["MINIWOB"]


def _register() -> None:
    for name in (*MINIWOB, "page"):
        env_id = f"chromium/{name}-v0"
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point="envs.gui.chromium.env:ChromiumEnv",
                vector_entry_point="envs.gui.chromium.vector:ChromiumVectorEnv",
                kwargs={"task": name},
            )


_register()
