"""Pretraining from the command line: what is written, what is learned, resumption, and the result in an agent."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import envs
from agents.core.tasks import EVALUATION_SEEDS
from agents.encoders import make_encoder
from experiments import pretrain
from experiments.screenshots import collect
from tests.experiments.screens import Squares

ENV = "tests.experiments.screens:toy/Squares-v0"
SMALL = ["--batch-size", "16", "--screenshots", "64", "--num-envs", "4", "--eval-freq", "10", "--quiet"]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "progress.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "time/fps"} for row in csv.DictReader(file)]


def pretrained(out: Path, objective: str, steps: int, *more: str) -> Path:
    assert pretrain.command([objective, ENV, "--steps", str(steps), *SMALL, "--out", str(out), *more]) == 0
    return out


@pytest.fixture(scope="module")
def mae_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained(tmp_path_factory.mktemp("mae") / "run", "mae", 30)


@pytest.fixture(scope="module")
def clip_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained(
        tmp_path_factory.mktemp("clip") / "run",
        "clip",
        160,
        "--encoder",
        "cnn",
        "--screenshots",
        "512",
        "--learning-rate",
        "3e-4",
    )


def test_a_run_directory_like_any_other(mae_run):
    assert {"config.yaml", "progress.csv", "curve.png", "checkpoints", "encoder.safetensors"} <= {
        path.name for path in mae_run.iterdir()
    }
    assert [row["time/total_timesteps"] for row in rows(mae_run)] == ["0", "10", "20", "30"]
    events = EventAccumulator(str(mae_run)).Reload()
    assert [event.step for event in events.Images("eval/reconstructions")] == [0, 10, 20, 30]
    picture = events.Images("eval/reconstructions")[-1]
    assert (picture.height, picture.width) == (4 * 40, 3 * 40)
    assert "eval/loss" in events.Tags()["scalars"]


def test_the_loss_on_held_out_screenshots_falls(mae_run, clip_run):
    for run in (mae_run, clip_run):
        losses = [float(row["eval/loss"]) for row in rows(run)]
        assert losses[-1] < 0.8 * losses[0]


def test_a_colour_s_name_retrieves_its_picture(clip_run):
    last = rows(clip_run)[-1]
    assert float(last["eval/chance"]) == pytest.approx(1 / 5)
    assert float(last["eval/image_to_text"]) == 1.0
    assert float(last["eval/text_to_image"]) == 1.0


@pytest.mark.parametrize("objective", ["mae", "siglip"])
def test_a_resumed_run_ends_as_one_that_never_stopped(objective, tmp_path):
    whole = pretrained(tmp_path / "whole", objective, 20)
    part = tmp_path / "part"
    train, calls = pretrain.train, itertools.count()

    def dies(options, pretraining, run):
        step = pretraining.train_step

        def train_step():
            if next(calls) == 14:
                raise KeyboardInterrupt
            return step()

        pretraining.train_step = train_step
        train(options, pretraining, run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "train", dies)
        with pytest.raises(KeyboardInterrupt):
            pretrained(part, objective, 20)
    assert [row["time/total_timesteps"] for row in rows(part)] == ["0", "10"]
    assert pretrain.command(["--resume", str(part), "--quiet"]) == 0
    assert rows(part) == rows(whole)
    for name in ("encoder.safetensors", "checkpoints/latest.safetensors"):
        assert (part / name).read_bytes() == (whole / name).read_bytes()


def test_the_encoder_is_the_one_that_was_trained(clip_run):
    space = Squares().observation_space
    encoder = make_encoder(space, str(clip_run))
    fresh = make_encoder(space, "cnn")
    trained, untrained = encoder.tower("screenshot").state_dict(), fresh.tower("screenshot").state_dict()
    # The second convolution of a block starts at zero, wherever else weights come from.
    assert not bool(untrained["blocks.0.second.weight"].any())
    assert bool(trained["blocks.0.second.weight"].any())


def test_screenshots_are_those_of_the_seeds_and_change_from_one_to_the_next():
    env = envs.make_vec(ENV, num_envs=3)
    data = collect(env, 40, itertools.count(7), demonstrated=0.5, seed=1)
    again = collect(env, 40, itertools.count(7), demonstrated=0.5, seed=1)
    assert len(data) == 40
    assert torch.equal(data.images, again.images)
    assert data.texts == again.texts
    for i in range(3):
        one = Squares()
        first, _ = one.reset(seed=7 + i)
        assert np.array_equal(data.images[i].numpy(), first["screenshot"])
        assert data.texts[i] == first["instruction"]
    assert sorted(itertools.chain(*data.by_text())) == list(range(40))
    assert all(len({data.texts[i] for i in group}) == 1 for group in data.by_text())


def test_held_out_screenshots_are_of_seeds_that_training_never_sees(monkeypatch):
    from experiments import screenshots

    seen = []

    def record(env, count, seeds, **settings):
        taken = []

        def noting():
            for value in seeds:
                taken.append(value)
                yield value

        seen.append(taken)
        return collect(env, count, noting(), **settings)

    monkeypatch.setattr(screenshots, "collect", record)
    pretrain.new_learner(pretrain.parse(["mae", ENV, *SMALL]))
    training, held_out = seen
    assert max(training) < EVALUATION_SEEDS <= min(held_out)


def test_a_screen_s_options_are_on_the_command_line():
    options = pretrain.parse(["mae", "gui/click-button-v0", "--env.actions", "grid", "--env.size", "[200, 220]"])
    assert options.env_kwargs == {"actions": "grid", "size": [200, 220]}
    env = envs.make_vec("gui/click-button-v0", num_envs=1, **options.env_kwargs)
    assert env.single_observation_space["screenshot"].shape == (220, 200, 3)


def test_refusals_in_one_sentence(refused, tmp_path, mae_run):
    assert "name an objective and an environment" in refused(pretrain.command, ["mae"])
    assert "needs screenshots" in refused(pretrain.command, ["mae", "CartPole-v1"])
    assert "only a ViT can do" in refused(pretrain.command, ["mae", ENV, *SMALL, "--encoder", "cnn"])
    assert "--batch-size must be positive" in refused(pretrain.command, ["mae", ENV, "--batch-size", "0"])
    assert "holds another run" in refused(pretrain.command, ["mae", ENV, "--out", str(mae_run)])
    assert "keeps its settings" in refused(pretrain.command, ["--resume", str(mae_run), "--steps", "7"])
    assert "no directory" in refused(pretrain.command, ["--resume", str(tmp_path / "none")])
    assert "Did you mean" in refused(pretrain.command, ["mae", ENV, "--learning-rat", "1"])
