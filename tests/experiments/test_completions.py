"""What text runs record, held against what the environment said and the policy drew."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agents
import envs
from agents.core.tasks import EVALUATION_SEEDS
from experiments import evaluate, run
from experiments.completions import PER_EVALUATION, PER_ITERATION, Completion, evaluate_text, markdown
from experiments.rundir import RunDir
from experiments.statistics import pass_at_k

Refused = Callable[[Callable[[list[str]], int], list[str]], str]
KIMI = ["--agent.group-size", "4", "--agent.groups-per-iteration", "8", "--agent.max-tokens", "5"]
TEXT = ["reasoning/addition-v0", "--env.difficulty", "1", "--num-envs", "16", "--no-progress", "--warmup.episodes", "0"]


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kimi on one-digit sums, whose responses a token budget cuts up; 20 problems and 10 x 2 samples an evaluation."""
    out = tmp_path_factory.mktemp("kimi") / "run"
    evaluations = ["--eval-freq", "200", "--eval-episodes", "20", "--eval-samples", "2"]
    budget = ["--agent.token-budget", "100", "--total-timesteps", "600"]
    assert run.command(["kimi", *TEXT, *KIMI, *budget, *evaluations, "--out", str(out)]) == 0
    return out


def test_completions_are_true_word_for_word(text_run: Path) -> None:
    rows = RunDir(text_run).read_completions()
    assert {row["phase"] for row in rows} == {"training", "evaluation"}
    for row in rows:
        a, b = row["prompt"].rstrip("=").split("+")
        assert row["gold"] == str(int(a) + int(b))
        assert row["reward"] == float(row["response"] == row["gold"])
        assert row["stop_reason"] in ("stop", "length")
        assert row["length"] == 5 if row["stop_reason"] == "length" else row["length"] <= 5
        assert len(row["response"]) <= row["length"] - (row["stop_reason"] == "stop")  # special tokens are no text
    steps = [row["timesteps"] for row in rows]
    assert steps == sorted(steps)


def test_a_few_of_every_iteration_and_the_same_problems_at_every_evaluation(text_run: Path) -> None:
    run_dir = RunDir(text_run)
    rows = run_dir.read_completions()
    logged = [row for row in run_dir.read_progress() if row["time/iterations"]]
    for row in logged:
        step = int(row["time/total_timesteps"])
        assert sum(r["timesteps"] == step and r["phase"] == "training" for r in rows) == PER_ITERATION
    prompts = {
        step: [r["prompt"] for r in rows if r["timesteps"] == step and r["phase"] == "evaluation"]
        for step in {row["timesteps"] for row in run_dir.read_evaluations()}
    }
    assert len(prompts) >= 3
    assert all(len(one) == PER_EVALUATION and one == next(iter(prompts.values())) for one in prompts.values())


def test_metrics_are_logged(text_run: Path) -> None:
    rows = RunDir(text_run).read_progress()
    trained, evaluated = [r for r in rows if r["time/iterations"]], [r for r in rows if r["eval/accuracy"]]
    for row in trained:
        assert 0 <= float(row["rollout/accuracy"]) <= 1
        assert 1 <= float(row["rollout/response_length"]) <= 5
        assert float(row["time/tokens_per_second"]) > 0
        assert float(row["train/pass_at_4"]) >= float(row["train/success_rate"])
        assert float(row["train/pass_at_4"]) * 8 % 1 == 0
    for row in evaluated:
        assert row["eval/accuracy"] == row["eval/mean_reward"]
        assert float(row["eval/pass_at_2"]) * 10 % 1 == pytest.approx(0)
        assert 0 <= float(row["eval/truncated"]) <= 1
    assert "completions" not in " ".join(rows[0])  # text is no column


def test_tensorboard_has_the_responses_as_text(text_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(text_run))
    events.Reload()
    for phase in ("training", "evaluation"):
        (first, *_) = events.Tensors(f"completions/{phase}/text_summary")
        text = first.tensor_proto.string_val[0].decode()
        kept = [r for r in RunDir(text_run).read_completions() if r["phase"] == phase and r["timesteps"] == first.step]
        for row in kept:
            assert f"    {row['prompt']}\n    --> {row['response']}".rstrip() in text


def test_the_evaluation_agrees_with_the_environment() -> None:
    """Length and stop reason come from tokens, and answers are judged under the seeds that were asked for."""
    agent = agents.Kimi(envs.make_vec("reasoning/addition-v0", 4, difficulty=1), max_tokens=3, device="cpu")
    env = envs.make_vec("reasoning/addition-v0", 8, difficulty=1, split="eval")
    stats = evaluate_text(agent, env, 12, samples=3, problems=5)
    again = evaluate_text(agent, envs.make_vec("reasoning/addition-v0", 3, difficulty=1, split="eval"), 12)
    assert again.tokens.tolist() == stats.tokens.tolist()
    assert again.returns.tolist() == stats.returns.tolist()
    one = envs.make_vec("reasoning/addition-v0", 12, difficulty=1, split="eval")
    obs, _ = one.reset(seed=EVALUATION_SEEDS)
    assert [completion.prompt for completion in stats.completions] == list(obs)
    texts, _ = agent.predict(obs, deterministic=True)
    assert [completion.response for completion in stats.completions] == list(texts)
    tokens = agent.policy.language.generate(
        agent.policy.language.prompt_tokens(obs),
        agent.policy.sampling.__class__(max_tokens=3, temperature=0),
        generator=agent.generator,
    )
    assert stats.tokens.tolist() == [len(response.tokens) for response in tokens]
    assert stats.truncated == np.mean([response.stop_reason == "length" for response in tokens])
    assert sorted(stats.pass_at) == [1, 2, 3]
    assert stats.pass_at[1] <= stats.pass_at[2] <= stats.pass_at[3]


@given(solved=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4), k=st.integers(1, 5))
def test_pass_at_k_is_the_share_of_choices_of_k_with_a_success(solved: list[list[bool]], k: int) -> None:
    shares = [np.mean([any(choice) for choice in combinations(row, k)]) for row in solved]
    assert pass_at_k(np.array(solved), k) == pytest.approx(np.mean(shares))


def test_pass_at_k_needs_k_samples() -> None:
    with pytest.raises(ValueError, match="at least 3 samples"):
        pass_at_k(np.ones((2, 2), bool), 3)


def test_evaluate_prints_accuracy_and_pass_at_k(
    text_run: Path, trpo_run: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    argv = [str(text_run), "--episodes", "20", "--seed", "0", "--checkpoint", "latest"]
    assert evaluate.command([*argv, "--json", "--samples", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    last = RunDir(text_run).read_evaluations()[-1]
    assert found["accuracy"] == found["mean"] == np.mean(found["returns"]) == last["mean_reward"]
    assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]
    assert found["response_length"] == np.mean(found["tokens"])
    assert found["pass_at_1"] <= found["pass_at_2"] <= found["pass_at_4"]
    assert evaluate.command([*argv, "--samples", "4"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("accuracy", "pass@4", "response length", "cut short"))
    assert "--samples is for text" in refused(evaluate.command, [str(trpo_run), "--samples", "2"])


def test_markdown_keeps_every_line_of_a_response_apart() -> None:
    completion = Completion("1+1=", "# first\n<b>2", "2", 1.0, 9, "stop")
    assert markdown([completion]) == ("**reward 1**, 9 tokens, stop, right is 2\n\n    1+1=\n    --> # first\n    <b>2")
