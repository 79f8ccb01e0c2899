"""What runs on screens leave to look at, held against what the environment said."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import agents
import envs
from agents.core.buffer import Batch
from agents.core.evaluation import EpisodeStats, evaluate
from agents.core.spaces import observation_tensors
from agents.core.tasks import EVALUATION_SEEDS
from experiments import evaluate as command
from experiments import run
from experiments.rundir import RunDir
from experiments.screens import KEPT, Watcher, by_task
from experiments.suite import RandomPolicy, run_suite

Refused = Callable[[Callable[[list[str]], int], list[str]], str]
TASKS = ("click-button", "focus-text", "login")


class Oracle:
    """Does what the environment demonstrates; where an episode is over it waits."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[Any, None]:
        wait = (np.int64(7), {})
        return [wait if action is None else action for action in self.env.demonstrate()], None


@pytest.fixture(scope="module")
def screen_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Actor-critic on clicks, two tasks, two evaluations of 12 episodes."""
    out = tmp_path_factory.mktemp("screens") / "run"
    tasks = ["--env.task", "click-button", "focus-text", "--env.actions", "grid", "--env.max-steps", "2"]
    tasks += ["--warmup.episodes", "0", "--agent.encoder", "cnn"]
    small = ["--num-envs", "2", "--agent.n-steps", "2", "--total-timesteps", "8", "--eval-freq", "4", "--no-progress"]
    argv = ["actor-critic", "gui/mix-v0", *tasks, *small, "--eval-episodes", "12", "--out", str(out)]
    assert run.command(argv) == 0
    return out


def test_a_watcher_keeps_every_screen_of_the_first_episodes() -> None:
    env = envs.make_vec("gui/mix-v0", 3, task=TASKS)
    watcher = Watcher("mix", keep=5)
    stats = evaluate(Oracle(env), env, 12, watch=watcher.watch)
    assert stats.returns.tolist() == [1.0] * 12
    assert [len(episode) for episode in watcher.episodes] == [length + 1 for length in stats.lengths[:5]]
    obs, infos = envs.make_vec("gui/mix-v0", 12, task=TASKS).reset(seed=EVALUATION_SEEDS)
    assert watcher.tasks == infos["task"].tolist()
    for i, episode in enumerate(watcher.episodes):
        assert (episode[0].screenshot == obs["screenshot"][i]).all()
        assert {moment.instruction for moment in episode} == {obs["instruction"][i]}
        *steps, end = episode
        assert all(moment.action and not moment.note and not moment.last for moment in steps)
        assert end.last
        assert (end.action, end.note) == ("", "success, reward 1")
        assert (end.screenshot != steps[-1].screenshot).any()  # what came of it, not the next episode
    watcher.begin()
    assert (watcher.tasks, watcher.episodes) == ([], [])


def test_malformed_actions_are_told() -> None:
    env = envs.make_vec("gui/click-button-v0", 1, actions="text", max_steps=1)

    class Chatter:
        def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[Any, None]:
            return ["Hello"], None

    watcher = Watcher("chat")
    evaluate(Chatter(), env, 1, watch=watcher.watch)
    ((said, end),) = watcher.episodes
    assert said.action == ""
    assert said.note.startswith("Hello; malformed: there is no call")
    assert end.note == "step limit, reward 0"


def test_heat_maps_are_asked_of_the_policy_for_the_screens_that_are_kept() -> None:
    env = envs.make_vec("gui/click-button-v0", 3)

    class Warm:
        """A policy whose stored action is the pixel clicked, and whose heat is there."""

        def from_env(self, actions: Any, obs: Any) -> torch.Tensor:
            return torch.tensor([[int(xy * side) for xy, side in zip(a[1]["point"], (160, 210))] for a in actions])  # noqa: B905

        def heat_map(self, obs: Any, action: torch.Tensor) -> torch.Tensor:
            heat = torch.zeros(len(action), 210, 160)
            heat[torch.arange(len(action)), action[:, 1], action[:, 0]] = 0.25
            assert obs["obs.screenshot" if "obs.screenshot" in obs else "screenshot"].shape[0] == len(action)
            return heat

    class Agent(Oracle):
        policy, device, observation_space = Warm(), torch.device("cpu"), env.single_observation_space
        normalizer = staticmethod(lambda obs: obs)

    watcher = Watcher("warm", keep=2, agent=Agent(env))
    evaluate(watcher.agent, env, 3, watch=watcher.watch)
    for acted, end in watcher.episodes:
        assert acted.heat is not None
        assert (acted.heat > 0).sum() == 1
        x, y = np.argwhere(acted.heat > 0)[0][::-1]
        assert acted.pointer == (x, y)
        assert acted.note == "its patch had probability 0.25"
        assert end.heat is None


def test_the_heat_of_a_pointer_is_the_probability_of_what_it_does() -> None:
    """Of the chain of choices, exp(log-prob) is a product in which the patch's is the one that the map shows."""
    env = envs.make_vec("gui/mix-v0", 2, task=["click-button", "drag-box"], size=(163, 210))
    agent = agents.Kimi(env, seed=0, device="cpu")
    policy: Any = agent.policy
    obs, _ = env.reset(seed=[0, 1])
    tensors = observation_tensors(env.single_observation_space, obs, agent.device)
    clicked, dragged, typed = (
        (0, {"point": np.array([0.99, 0.01])}),
        (3, {"start": [0.2, 0.3], "end": [0.5, 0.9]}),
        (7, {}),
    )

    def heat(*actions: Any) -> tuple[Any, torch.Tensor, torch.Tensor]:
        stored = policy.from_env(actions, tensors)
        chain = policy.distribution(Batch({"obs": tensors, "action": stored}))
        return chain, stored, policy.heat_map(tensors, stored)

    chain, stored, maps = heat(clicked, dragged)
    assert maps.shape == (2, 210, 163)
    column = policy.layout.columns["point"][0]
    assert maps[0, 2, 161] == pytest.approx(float(chain.logits[column][0].softmax(-1)[stored[0, column]].detach()))
    side = policy.net.grid.patch
    assert maps[0, ::side, ::side].sum() == pytest.approx(1, abs=1e-5)  # a pixel of each patch
    for name, (x, y) in dragged[1].items():
        column = policy.layout.columns[name][0]
        p = float(chain.logits[column][1].softmax(-1)[stored[1, column]].detach())
        assert maps[1, int(210 * y), int(163 * x)] >= p - 1e-7
    assert not heat(typed, typed)[2].any()


def test_success_by_task_counts_each_episode_once() -> None:
    stats = EpisodeStats(np.array([1.0, 0.0, 1.0, 1.0, 0.0]), np.array([1, 2, 3, 4, 5]))
    b, a = by_task(["z", "a", "a", "a", "a"], stats)[::-1]
    assert (b.task, b.episodes, b.success, b.mean_ep_length) == ("z", 1, 1.0, 1.0)
    assert (a.task, a.episodes, a.success, a.mean_ep_length) == ("a", 4, 0.5, 3.5)
    # Wilson: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), at p = 1/2 and n = 4
    z2 = 1.959964**2
    half = np.sqrt(z2 / 16 + z2**2 / 64) / (1 + z2 / 4)
    assert (a.low, a.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-4)


def test_a_run_leaves_episodes_and_success_per_task(screen_run: Path) -> None:
    run_dir = RunDir(screen_run)
    evaluations, rows = run_dir.read_evaluations(), run_dir.read_success()
    assert len(evaluations) >= 2
    for row in evaluations:
        step = int(row["timesteps"])
        these = [one for one in rows if int(one["timesteps"]) == step]
        assert [one["task"] for one in these] == ["click-button", "focus-text"]
        assert sum(int(one["episodes"]) for one in these) == 12
        mean = sum(float(one["success"]) * int(one["episodes"]) for one in these) / 12
        assert mean == pytest.approx(row["mean_reward"])
        with Image.open(screen_run / "screens" / f"step-{step}.gif") as image:
            assert image.n_frames > KEPT  # type: ignore[attr-defined]
        assert (screen_run / "screens" / f"step-{step}.png").is_file()
        (logged,) = [
            one
            for one in run_dir.read_progress()
            if one["eval/mean_reward"] and one["time/total_timesteps"] == str(step)
        ]
        assert [logged[f"success/{one['task']}"] for one in these] == [one["success"] for one in these]
    assert (screen_run / "success.png").is_file()


def test_tensorboard_shows_the_same_gif(screen_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(screen_run))
    events.Reload()
    shown = events.Images("screens/episodes")
    assert [one.step for one in shown] == [int(row["timesteps"]) for row in RunDir(screen_run).read_evaluations()]
    for one in shown:
        assert one.encoded_image_string == (screen_run / "screens" / f"step-{one.step}.gif").read_bytes()
    assert Image.open(io.BytesIO(events.Images("screens/first")[-1].encoded_image_string)).width == KEPT * 320
    for still in ("screens/first", "screens/success"):
        assert len(events.Images(still)) == len(shown)


def test_a_resumed_run_forgets_success_after_its_checkpoint(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    for step in (0, 10, 20):
        run_dir.append_success([{"timesteps": step, "task": name, "episodes": 2, "success": 0.5} for name in "ab"])
    run_dir.cut_after(10)
    assert [(row["timesteps"], row["task"]) for row in run_dir.read_success()] == [
        ("0", "a"), ("0", "b"), ("10", "a"), ("10", "b"),
    ]  # fmt: skip


def test_random_actions_are_those_of_the_seed() -> None:
    env = envs.make_vec("gui/click-button-v0", 3)
    one, same, other = ([RandomPolicy(env, seed).predict(None)[0] for _ in range(2)] for seed in (1, 1, 2))
    assert repr(one) == repr(same) != repr(other)
    assert env.action_space.contains(one[0])


def test_a_suite_has_each_task_alone(screen_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(screen_run), "--suite", "gui/*-text", "--episodes", "3", "--random", "--video"]
    capsys.readouterr()
    assert command.command(argv) == 0
    printed, told = capsys.readouterr()
    with (screen_run / "suite-gui-text.csv").open() as file:
        rows = list(csv.DictReader(file))
    ids = ["gui/focus-text-v0", "gui/enter-text-v0", "gui/clear-text-v0"]
    assert [line.split()[:4] for line in told.splitlines() if " of " in line] == [
        [str(number), "of", "3", env_id] for number, env_id in enumerate(ids, 1)
    ]
    assert [row["task"] for row in rows] == ids
    assert all(row["task"] in printed and row["episodes"] == "3" for row in rows)
    assert (screen_run / "suite-gui-text.png").is_file()
    with Image.open(screen_run / "suite-gui-text.gif") as image:
        assert image.n_frames >= 2 * len(ids)  # type: ignore[attr-defined]
    assert command.command([*argv[:-1], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["task"] for one in found["tasks"]] == ids
    for row, one in zip(rows, found["tasks"], strict=True):
        assert {name: float(value) for name, value in row.items() if name != "task"} == {
            name: value for name, value in one.items() if name != "task"
        }
    # The options of the run hold in the suite: episodes of at most two steps.
    assert all(float(row["mean_ep_length"]) <= 2 for row in rows)


def test_the_suite_of_an_oracle_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a policy that reads the environments' own demonstrations, which random actions do not reach."""
    made: list[Any] = []
    make = envs.make_vec
    monkeypatch.setattr(envs, "make_vec", lambda *a, **k: made.append(make(*a, **k)) or made[-1])

    class Cheat(Oracle):
        observation_space = make("gui/login-v0").single_observation_space
        action_space = make("gui/login-v0").single_action_space

        def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[Any, None]:
            self.env = made[-1]
            return super().predict(observation)

    suite = run_suite(
        Cheat(None), "gui/log*", {"difficulty": 2}, episodes=4, seed=EVALUATION_SEEDS, random=True, keep=1
    )
    assert [(one.task, one.success) for one in suite.results] == [("gui/login-v0", 1.0)]
    assert suite.random is not None
    assert suite.random["gui/login-v0"].success == 0.0
    assert suite.name == "suite-gui-log"
    assert [moment.last for moment in suite.moments].count(True) == 1


def test_suites_that_cannot_be(refused: Refused, screen_run: Path) -> None:
    def ask(pattern: str) -> str:
        return refused(command.command, [str(screen_run), "--suite", pattern, "--episodes", "1"])

    assert "No environment is called 'guy/*'" in ask("guy/*")
    assert "no environment of 'gui/mix*' fits" in ask("gui/mix*")  # a mixture is no task
    assert "the spaces of CartPole-v0, CartPole-v1 are others" in ask("CartPole-v?")


def test_a_suite_takes_the_agents_of_a_neighbour(ppo_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert command.command([str(ppo_run), "--suite", "HalfCheetah-v4", "--episodes", "1", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["tasks"]
    assert (found["task"], found["mean_ep_length"]) == ("HalfCheetah-v4", 1000)


def test_evaluate_tells_the_tasks_of_a_mixture(screen_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    argv = [str(screen_run), "--episodes", "12", "--seed", "0", "--checkpoint", "latest", "--random"]
    assert command.command([*argv, "--video"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("click-button", "focus-text", "random actions", "mean over tasks"))
    assert (screen_run / "videos" / "latest.gif").is_file()
    assert command.command([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(set(found["tasks"])) == ["click-button", "focus-text"]
    assert len(found["tasks"]) == 12
    assert 0 <= found["random_mean"] <= 1
