"""Small finished runs that several tests look at, and a way to call the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import run

TRPO = [
    *("trpo", "HalfCheetah-v4", "--num-envs", "4"),
    *("--agent.n-steps", "64", "--agent.critic-epochs", "2", "--agent.log-std-init", "0"),
]
SMALL = ["--eval-episodes", "2", "--eval-freq", "512", "--checkpoint-freq", "512", "--no-progress"]


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Options that let even the smallest run evaluate and write checkpoints several times."""
    return SMALL


@pytest.fixture(scope="session")
def trpo_argv() -> list[str]:
    """The command line of `trpo_run`, without steps and directory."""
    return [*TRPO, *SMALL]


@pytest.fixture(scope="session")
def trpo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TRPO, 2048 steps, evaluated every 512."""
    out = tmp_path_factory.mktemp("trpo") / "run"
    assert run.command([*TRPO, "--total-timesteps", "2048", *SMALL, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def ppo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable-Baselines3's PPO with normalisation, 1024 steps, evaluated every 512."""
    out = tmp_path_factory.mktemp("ppo") / "run"
    settings = ["--agent.n-steps", "256", "--agent.n-epochs", "2", "--agent.net-arch", "8", "--agent.normalize"]
    argv = ["sb3/ppo", "HalfCheetah-v4", *settings, "--total-timesteps", "1024", *SMALL, "--out", str(out)]
    assert run.command(argv) == 0
    return out


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[Callable[[list[str]], int], list[str]], str]:
    """Call a command that must refuse; gives its sentence, after checking that it is one."""

    def call(command: Callable[[list[str]], int], argv: list[str]) -> str:
        from experiments.cli import is_user_error, one_line

        with pytest.raises(Exception) as caught:  # noqa: PT011
            command(argv)
        assert is_user_error(caught.value), repr(caught.value)
        sentence = one_line(caught.value)
        assert "\n" not in sentence
        assert "Traceback" not in capsys.readouterr().err
        return sentence

    return call
