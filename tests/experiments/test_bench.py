"""The benchmark harness on trivial sides, and the sides' claims about the work that they time."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments import bench
from experiments.benchmarks import BENCHMARKS, Benchmark, Measurement, Options, Ratio, Side, ddpg, stepping

SIDES = """
from experiments.benchmarks import Benchmark, Measurement, Ratio, Side

def rate(value):
    print("a side may print")
    return Measurement(value, {"value": value}, {"note": 1})

def broken():
    raise RuntimeError("no such luck")

def benchmark(options):
    sides = [Side("A", rate, {"value": 6.0}), Side("B", rate, {"value": 2.0})]
    if options.env == "broken":
        sides[1] = Side("B", broken)
    return Benchmark("three to one", "things/s", sides, [Ratio("A", "B", target=4.0)])
"""


@pytest.fixture
def trivial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A benchmark called `trivial`, whose module the sides' processes can import as well."""
    (tmp_path / "trivial_sides.py").write_text(SIDES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    module = importlib.import_module("trivial_sides")
    monkeypatch.setitem(sys.modules, "experiments.benchmarks.trivial", module)
    monkeypatch.setattr(bench, "BENCHMARKS", ("trivial",))
    yield module
    del sys.modules["trivial_sides"]


def nothing() -> Measurement:
    raise AssertionError("never called here")


def test_rounds_alternate_and_ratios_are_taken_within_a_round() -> None:
    rates = {"A": iter([10.0, 30.0, 80.0]), "B": iter([5.0, 10.0, 40.0])}
    order = []

    def run(side: Side) -> dict[str, Any]:
        order.append(side.name)
        peak = {"A": 100.0, "B": 200.0}[side.name]
        return {"rate": next(rates[side.name]), "peak_mb": peak, "settings": {}, "notes": {}}

    sides = [Side("A", nothing), Side("B", nothing)]
    ratios = [Ratio("A", "B", target=2.0), Ratio("B", "A", target=0.3, at_most=True, memory=False)]
    result = bench.measure("x", Benchmark("title", "steps/s", sides, ratios), rounds=3, run=run)
    assert order == ["A", "B"] * 3
    speed, memory, inverse = result.ratios
    assert speed.values == [2.0, 3.0, 2.0]
    assert speed.median == 2.0  # of the ratios; the ratio of the medians is 3
    assert speed.verdict == "target >= 2x: met"
    assert memory.values == [0.5, 0.5, 0.5]
    assert memory.verdict == "target <= 1x: met"
    assert inverse.values == [0.5, 1 / 3, 0.5]
    assert inverse.verdict == "target <= 0.3x: MISSED"


def test_report_puts_ratios_before_rates_before_settings(
    trivial: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    files = ["--json", str(tmp_path / "r.json"), "--markdown", str(tmp_path / "r.md")]
    assert bench.command(["trivial", "--rounds", "2", *files]) == 0
    out = capsys.readouterr().out
    parts = [
        "3.00x (3.00 .. 3.00)",
        "target >= 4x: MISSED",
        "lowest .. highest  ",
        "settings of 'B'",
        "value: 2.0",
    ]
    places = [out.index(part) for part in [*parts, "machine"]]
    assert places == sorted(places)
    (written,) = json.loads((tmp_path / "r.json").read_text())
    assert [side["rates"] for side in written["sides"]] == [[6.0, 6.0], [2.0, 2.0]]
    assert written["ratios"][0]["values"] == [3.0, 3.0]
    assert "| 3.00x | 3.00 .. 3.00 | speed | A / B | target >= 4x: MISSED |" in (tmp_path / "r.md").read_text()


def test_failed_side_is_one_sentence_with_the_end_of_its_stderr(trivial: Any, capsys: pytest.CaptureFixture) -> None:
    assert bench.command(["trivial", "--rounds", "1", "--env", "broken"]) == 1
    lines = capsys.readouterr().err.splitlines()
    start = lines.index("error: the side 'B' failed with exit code 1: RuntimeError: no such luck")
    assert lines[start + 2 :][0] == "Traceback (most recent call last):"
    assert lines[-1] == "RuntimeError: no such luck"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["steping"], "no benchmark is called 'steping'.*did you mean 'stepping'"),
        (["stepping", "--rounds", "0"], "--rounds must be at least 1, not 0"),
        (["stepping", "--json", "no/such/place.json"], "there is no directory 'no/such'"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench.command(arguments)


def test_missing_peer_says_how_to_install_it(trivial: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = Benchmark("t", "u", [], [], requires={"no_such_peer": "pip install no-such-peer"})
    monkeypatch.setattr(trivial, "benchmark", lambda options: lacking)
    with pytest.raises(ValueError, match="no_such_peer, which is not installed: pip install no-such-peer"):
        bench.load("trivial", Options())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak includes what the parent had")
def test_peak_memory_is_the_sides_own(trivial: Any) -> None:
    ballast = np.ones(60_000_000)  # 480 MB in this process, which starts the side
    peak = bench.run_side(Side("A", trivial.rate, {"value": 1.0}))["peak_mb"]
    assert 0 < peak < ballast.nbytes / 2**20 / 2


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_ratio_is_between_sides_that_exist(name: str) -> None:
    benchmark = importlib.import_module(f"experiments.benchmarks.{name}").benchmark(Options())
    names = [side.name for side in benchmark.sides]
    assert len(set(names)) == len(names)
    assert {end for ratio in benchmark.ratios for end in (ratio.over, ratio.under)} == set(names)
    json.dumps([side.arguments for side in benchmark.sides])


def test_ddpg_products_have_the_flops_counted_by_hand() -> None:
    # HalfCheetah: 17 observations, 6 actions; networks 17-400-300-6 and 23-400-300-1; multiplications a row.
    target = (17 * 400 + 400 * 300 + 300 * 6) + (23 * 400 + 400 * 300 + 300)
    critic = (23 * 400 + 400 * 300 + 300) * 2 + (300 + 300 * 400)
    objective = (17 * 400 + 400 * 300 + 300 * 6) + (23 * 400 + 400 * 300 + 300)
    action_gradient = 300 + 300 * 400 + 400 * 6
    actor = (17 * 400 + 400 * 300 + 300 * 6) + (6 * 300 + 300 * 400)
    by_hand = 2 * 256 * (target + critic + objective + action_gradient + actor)
    assert by_hand == 649_523_200
    assert sum(product.flops for product in ddpg.update_products(17, 6)) == by_hand


def test_ddpg_products_are_those_of_an_update_by_autograd() -> None:
    observation, action = 5, 3

    def network(inputs: int, outputs: int) -> torch.nn.Sequential:
        first, second = torch.nn.Linear(inputs, 400), torch.nn.Linear(400, 300)
        return torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.ReLU(), torch.nn.Linear(300, outputs))

    actor, critic = network(observation, action), network(observation + action, 1)
    obs, act = torch.randn(256, observation), torch.randn(256, action)
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            target = critic(torch.cat([obs, actor(obs)], 1))
        (critic(torch.cat([obs, act], 1)) - target).square().mean().backward()
        critic.requires_grad_(False)
        critic(torch.cat([obs, actor(obs)], 1)).mean().backward()
    # Autograd also asks for the gradient of the observation, next to that of the action.
    unneeded = 2 * 256 * 400 * observation
    products = ddpg.update_products(observation, action)
    assert sum(product.flops for product in products) == counter.get_total_flops() - unneeded


def test_all_sides_of_stepping_do_the_same_work() -> None:
    # Hopper falls within these steps, so that environments reset at different times.
    mine, theirs = (side("Hopper-v4", num_envs=3, steps=60) for side in (stepping.ours, stepping.peer_gymnasium))
    assert mine.notes == theirs.notes
    assert mine.notes["episodes ended"] > 3
    bare = stepping.peer_raw("Hopper-v4", num_envs=3, steps=60, cores=2)
    assert bare.notes["ends in Gymnasium's very states"]
