"""The tasks of the embedded screen, by what is mostly done in them. Importing this fills `task.TASKS`."""

import envs.gui.tasks.choosing
import envs.gui.tasks.clicking
import envs.gui.tasks.dragging
import envs.gui.tasks.entering  # noqa: F401
