"""An exact checkpoint goes on exactly only in the task it was made in, however alike another one's arrays are."""

from __future__ import annotations

from pathlib import Path

import agents
import envs


def test_another_version_of_a_task_starts_afresh(tmp_path: Path) -> None:
    agent = agents.TRPO(envs.make_vec("HalfCheetah-v4", num_envs=2), n_steps=8, critic_epochs=1)
    path = agent.learn(16).save(tmp_path / "agent", exact=True)
    assert agents.load(path, envs.make_vec("HalfCheetah-v4", num_envs=2)).restored_exactly
    assert not agents.load(path, envs.make_vec("HalfCheetah-v5", num_envs=2)).restored_exactly
