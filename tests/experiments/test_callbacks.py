from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.logger import Logger

from experiments.callbacks import Boundary, Checkpoints, Evaluation, Stop
from experiments.rundir import RunDir


class Model:
    """As much of an agent as callbacks see, with iterations of a fixed length."""

    def __init__(self, start: int = 0) -> None:
        self.num_timesteps = start
        self.logger = Logger(None, [])
        self.ep_info_buffer: deque[dict[str, float]] = deque()
        self.stopped = False

    def get_env(self) -> None:
        return None

    def stop(self) -> None:
        self.stopped = True

    def learn(self, callbacks: list[Any], total: int, steps: int, until: int | None = None) -> None:
        for callback in callbacks:
            callback.init_callback(self)
            callback.on_training_start({}, {})
        while self.num_timesteps < total and (until is None or self.num_timesteps < until):
            for callback in callbacks:
                callback.on_rollout_start()
            self.num_timesteps += steps
        for callback in callbacks:
            callback.on_training_end()


class Counter(Boundary):
    def __init__(self, every: int) -> None:
        super().__init__(every)
        self.seen: list[int] = []

    def due(self) -> None:
        self.seen.append(self.now)


@given(every=st.integers(0, 50), steps=st.integers(1, 30), total=st.integers(1, 200), cut=st.integers(0, 7))
def test_due_once_for_every_multiple_crossed_however_often_the_run_is_cut(
    every: int, steps: int, total: int, cut: int
) -> None:
    counter = Counter(every)
    Model().learn([counter], total, steps)
    boundaries = range(0, -(-total // steps) * steps + 1, steps)
    crossed = [b for b in boundaries if every and b // every > (b - steps) // every and b > 0]
    assert counter.seen == crossed

    first, second = Counter(every), Counter(every)
    Model().learn([first], total, steps, until=cut * steps)
    Model(start=min(cut * steps, boundaries[-1])).learn([second], total, steps)
    assert first.seen + second.seen == crossed


def evaluation(
    run: RunDir,
    means: list[float],
    saved: list[int],
    model: Model,
    every: int,
    total: int,
    stopped: Callable[[], bool] = lambda: False,
) -> Evaluation:
    left = iter(means)

    def evaluate(step_made: Callable[[], None]) -> SimpleNamespace:
        step_made()
        mean = next(left)
        return SimpleNamespace(returns=np.array([mean - 1, mean + 1]), lengths=np.array([3, 5]))

    def save_best() -> None:
        saved.append(model.num_timesteps)

    return Evaluation(run, evaluate, save_best, every=every, total=total, say=lambda text: None, stopped=stopped)


def test_the_best_evaluation_is_saved_and_all_are_written(tmp_path: Path) -> None:
    run, model, saved = RunDir(tmp_path), Model(), []  # type: ignore[var-annotated]
    model.learn([evaluation(run, [1.0, 3.0, 2.0, 3.0, 4.0], saved, model, 10, 45)], 45, 5)
    rows = run.read_evaluations()
    assert [(row["timesteps"], row["mean_reward"]) for row in rows] == [(10, 1), (20, 3), (30, 2), (40, 3), (45, 4)]
    assert rows[0] | {"timesteps": 0} == {
        "timesteps": 0,
        "mean_reward": 1.0,
        "std_reward": 1.0,
        "min_reward": 0.0,
        "max_reward": 2.0,
        "mean_ep_length": 4.0,
        "episodes": 2.0,
    }
    assert saved == [10, 20, 45]


def test_a_resumed_run_knows_the_best_and_does_not_evaluate_twice(tmp_path: Path) -> None:
    run, saved = RunDir(tmp_path), []  # type: ignore[var-annotated]
    model = Model()
    model.learn([evaluation(run, [1.0, 3.0], saved, model, 10, 40)], 40, 10, until=20)
    model = Model(start=20)
    model.learn([evaluation(run, [2.0, 4.0], saved, model, 10, 40)], 40, 10)
    assert [row["timesteps"] for row in run.read_evaluations()] == [10, 20, 30, 40]
    assert saved == [10, 20, 40]


def test_an_evaluation_cut_short_is_made_where_the_run_is_resumed(tmp_path: Path) -> None:
    run, saved = RunDir(tmp_path), []  # type: ignore[var-annotated]
    model = Model()
    model.learn([evaluation(run, [1.0], saved, model, 10, 40, lambda: model.num_timesteps >= 20)], 40, 10, until=20)
    assert [row["timesteps"] for row in run.read_evaluations()] == [10]
    for _ in range(2):  # cut short again, then not
        model = Model(start=20)
        model.learn([evaluation(run, [], saved, model, 10, 40, lambda: True)], 40, 10, until=20)
        assert [row["timesteps"] for row in run.read_evaluations()] == [10]
    model = Model(start=20)
    model.learn([evaluation(run, [2.0, 3.0, 4.0], saved, model, 10, 40)], 40, 10)
    assert [row["timesteps"] for row in run.read_evaluations()] == [10, 20, 30, 40]


def test_the_last_evaluation_is_made_whole(tmp_path: Path) -> None:
    run, model = RunDir(tmp_path), Model()
    model.learn([evaluation(run, [2.0], [], model, 40, 40, lambda: True)], 40, 10)
    assert [row["timesteps"] for row in run.read_evaluations()] == [40]


def test_checkpoints_keep_the_last_few_and_end_with_an_exact_one(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.checkpoints.mkdir()
    (run.checkpoints / "best.zip").write_text("")
    written: list[tuple[str, bool]] = []

    def save(path: Path, exact: bool) -> None:
        written.append((path.name, exact))
        for suffix in (".zip", ".npz"):
            path.with_name(path.name + suffix).write_text("")

    Model().learn([Checkpoints(run, save, every=100, keep_last=2)], 1100, 50)
    kept = {path.name for path in run.checkpoints.glob("*.zip")}
    assert kept == {"step-1000.zip", "step-1100.zip", "latest.zip", "best.zip"}
    assert {path.stem for path in run.checkpoints.glob("*.npz")} == {"step-1000", "step-1100", "latest"}
    assert written[-3:] == [("step-1100", False), ("latest", True), ("latest", True)]


def test_stop_asks_between_iterations_or_ends_at_the_next_step() -> None:
    gentle, abrupt, model = Stop(True), Stop(False), Model()
    for callback in (gentle, abrupt):
        callback.init_callback(model)  # type: ignore[arg-type]
        assert callback.on_step()
        callback.on_rollout_start()
        assert not model.stopped
        callback.request()
    assert gentle.on_step()
    assert not abrupt.on_step()
    abrupt.on_rollout_start()
    assert not model.stopped
    gentle.on_rollout_start()
    assert model.stopped
