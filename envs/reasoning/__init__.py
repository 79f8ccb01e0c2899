"""Text in, text out, reward for a correct answer. Importing this registers the environments with Gymnasium:

`reasoning/<task>-v0` for each task of our own, `reasoning/jsonl-v0` for the user's own file, and
`reasoning_gym/<dataset>-v0` for each dataset of the reasoning-gym package, which is imported when one is
made.
"""

from __future__ import annotations

import gymnasium

from envs.reasoning.env import ReasoningEnv
from envs.reasoning.gym_scoring import DATASETS
from envs.reasoning.problem import Problem, Task, Verdict
from envs.reasoning.tasks import OWN
from envs.reasoning.vector import ReasoningVectorEnv

__all__ = ["Problem", "ReasoningEnv", "ReasoningVectorEnv", "Task", "Verdict"]


def _register() -> None:
    ids: dict[str, dict[str, str]] = {
        f"reasoning/{name}-v0": {"task": name} for name in [t.name for t in OWN] + ["jsonl"]
    }
    ids |= {f"reasoning_gym/{name}-v0": {"task": "reasoning_gym", "dataset": name} for name in DATASETS}
    for env_id, options in ids.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point="envs.reasoning.env:ReasoningEnv",
                vector_entry_point="envs.reasoning.vector:ReasoningVectorEnv",
                kwargs=options,
            )


_register()
