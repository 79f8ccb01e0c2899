from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from experiments import evaluate, video
from experiments.rundir import RunDir

Refused = Callable[[Callable[[list[str]], int], list[str]], str]


def report(argv: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert evaluate.command([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_numbers_are_those_of_the_episodes(trpo_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report([str(trpo_run), "--episodes", "4"], capsys)
    returns, lengths = np.array(found["returns"]), found["lengths"]
    assert len(returns) == len(lengths) == found["episodes"] == 4  # type: ignore[arg-type]
    assert found["mean"] == pytest.approx(returns.mean())
    assert found["std"] == pytest.approx(returns.std(ddof=1))
    assert found["iqm"] == pytest.approx(np.sort(returns)[1:3].mean())
    assert found["min"] <= found["iqm_low"] <= found["iqm"] <= found["iqm_high"] <= found["max"]  # type: ignore[operator]
    assert lengths == [1000] * 4


@pytest.mark.parametrize("fixture", ["trpo_run", "ppo_run"])
def test_the_saved_policy_repeats_the_evaluation_of_training(
    fixture: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights, normalisation, environment options and seeds must all come back for the numbers to be equal."""
    path: Path = request.getfixturevalue(fixture)
    rows = RunDir(path).read_evaluations()
    argv = [str(path), "--episodes", "2", "--seed", "0"]
    found = report([*argv, "--checkpoint", "latest"], capsys)
    assert (found["mean"], found["min"]) == (rows[-1]["mean_reward"], rows[-1]["min_reward"])
    best = max(rows, key=lambda row: row["mean_reward"])
    assert report(argv, capsys)["mean"] == best["mean_reward"]


def test_seeds_share_no_episode_and_sampling_differs(trpo_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        report([str(trpo_run), "--episodes", "2", *more], capsys)["returns"]
        for more in ([], ["--seed", "0"], ["--stochastic"])
    ]
    assert len({value for returns in runs for value in returns}) == 6  # type: ignore[attr-defined]


def test_a_bare_checkpoint_knows_its_environment(
    trpo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(trpo_run / "checkpoints" / "best.safetensors", tmp_path / "mine.safetensors")
    inside = report([str(trpo_run / "checkpoints" / "best.safetensors"), "--episodes", "1"], capsys)
    outside = report([str(tmp_path / "mine.safetensors"), "--episodes", "1"], capsys)
    assert outside["returns"] == inside["returns"]


def test_mistakes(refused: Refused, trpo_run: Path, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_text("not a checkpoint")
    assert "there is no directory" in refused(evaluate.command, [str(tmp_path / "absent")])
    assert "is not a run directory" in refused(evaluate.command, [str(tmp_path)])
    assert "has no checkpoint 'step-7': it has best, latest" in refused(
        evaluate.command, [str(trpo_run), "--checkpoint", "step-7"]
    )
    assert "x.safetensors" in refused(evaluate.command, [str(tmp_path / "x.safetensors")])
    assert "--episodes must be at least 1" in refused(evaluate.command, [str(trpo_run), "--episodes", "0"])


def test_video_needs_imageio(refused: Refused, trpo_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    sentence = refused(evaluate.command, [str(trpo_run), "--video"])
    assert sentence == "--video needs imageio: pip install 'rl-suite[video]'"


class Countdown(gymnasium.Env[np.ndarray, int]):
    """Ends when the action of `n` steps was 1; a frame shows how many are left."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gymnasium.spaces.Box(0, 9, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, n: int = 3, render_mode: str | None = None) -> None:
        self.n, self.render_mode = n, render_mode

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[np.ndarray, dict[str, object]]:
        super().reset(seed=seed)
        self.left = self.n
        return np.array([self.left], np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        self.left -= action
        return np.array([self.left], np.float32), 1.0, self.left == 0, False, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        return np.full((32, 32, 3), 40 * self.left, np.uint8)


class Press:
    def predict(self, observation: np.ndarray, deterministic: bool = False) -> tuple[int, None]:
        return 1, None


@pytest.fixture
def countdown(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(gymnasium, "registry", dict(gymnasium.registry))
    monkeypatch.setattr("gymnasium.envs.registration.registry", gymnasium.registry)
    gymnasium.register("Countdown-v0", Countdown)
    return "Countdown-v0"


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_video_has_a_frame_for_every_state(
    countdown: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iio = pytest.importorskip("imageio.v3")
    if suffix == ".mp4":
        pytest.importorskip("imageio_ffmpeg")
    else:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    path = video.record_episode(Press(), countdown, {"n": 5}, tmp_path / "x", seed=0, deterministic=True)
    assert path == tmp_path / f"x{suffix}"
    levels = [frame.mean() for frame in iio.imiter(path)]
    np.testing.assert_allclose(levels, [200, 160, 120, 80, 40, 0], atol=4)  # both formats lose a little


def test_what_cannot_be_rendered_gets_a_sentence(
    countdown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("imageio")

    def broken(self: object) -> None:
        raise RuntimeError("no display")

    monkeypatch.setattr(Countdown, "render", broken)
    with pytest.raises(ValueError, match=r"Countdown-v0 cannot be rendered here: RuntimeError: no display$"):
        video.record_episode(Press(), countdown, {}, tmp_path / "x", seed=0, deterministic=True)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="cannot be rendered here"):
        video.check_renders(countdown, {})
    with pytest.raises(ValueError, match="reasoning/addition-v0 has no pictures"):
        video.check_renders("reasoning/addition-v0", {})
