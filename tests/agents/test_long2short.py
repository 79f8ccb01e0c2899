"""long2short: which responses are chosen, DPO in closed form, and that answers become shorter on a tiny model."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import agents
from agents.long2short import (
    Config,
    _dpo_step,
    average,
    dpo_loss,
    imitate_shortest,
    prefer_shortest,
    preference_pairs,
    sample_groups,
    shortest_correct,
)
from agents.policies.policy import episode_decisions
from tests.agents.toys import digits


def talker(turns=1, seed=0, **fields):
    settings = {
        "group_size": 2,
        "groups_per_iteration": 2,
        "max_tokens": 4,
        "device": "cpu",
        "normalize_observations": False,
    }
    return agents.Kimi(digits(turns), seed=seed, **{**settings, **fields})


def test_averages_lie_on_the_line_between_two_models():
    for weight in (0.0, 0.25, 1.0):
        one, other = talker(seed=0), talker(seed=1)
        before = [p.detach().clone() for p in one.policy.parameters()]
        average(one, other, weight)
        for p, mine, theirs in zip(one.policy.parameters(), before, other.policy.parameters(), strict=True):
            torch.testing.assert_close(p.detach(), (1 - weight) * mine + weight * theirs)
        torch.testing.assert_close(one.flat.vector[: before[0].numel()], next(one.policy.parameters()).flatten())
    control = [agents.TRPO("CartPole-v1", hidden=hidden, device="cpu") for hidden in ((4,), (8,))]
    with pytest.raises(ValueError, match=r"same architecture.*is \(4,.*\(8,"):
        average(*control)


groups = st.lists(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=3, max_size=3), min_size=1, max_size=4)


@given(groups)
def test_the_choice_and_the_pairs_are_those_that_the_paper_names(drawn):
    length = torch.tensor([length for group in drawn for length, _ in group])
    correct = torch.tensor([right for group in drawn for _, right in group])
    group = torch.arange(len(drawn)).repeat_interleave(3) * 7 + 3
    chosen, pairs = [], []
    for g, members in enumerate(drawn):
        right = [(n, i) for i, (n, ok) in enumerate(members) if ok]
        if not right:
            continue
        shortest, best = min(right)
        chosen.append(3 * g + best)
        for i, (n, ok) in enumerate(members):
            if (ok and 2 * n >= 3 * shortest) or (not ok and n > shortest):
                pairs.append((3 * g + best, 3 * g + i))
    assert shortest_correct(length, correct, group).tolist() == chosen
    assert sorted(map(tuple, preference_pairs(length, correct, group).tolist())) == sorted(pairs)


def test_dpo_loss_in_closed_form():
    a, b = torch.tensor([0.3, -1.0], requires_grad=True), torch.tensor([-0.2, 0.5], requires_grad=True)
    loss = dpo_loss(a, b, 2.0)
    margins = [2 * 0.5, 2 * -1.5]
    assert float(loss.detach()) == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins) / 2)
    loss.backward()
    expected = torch.tensor([-2.0 / (1 + math.exp(m)) / 2 for m in margins])
    torch.testing.assert_close(a.grad, expected)
    torch.testing.assert_close(b.grad, -expected)
    assert float(dpo_loss(torch.zeros(3), torch.zeros(3), 0.7)) == pytest.approx(math.log(2))


def test_the_minimiser_of_dpo_has_the_odds_of_the_preferences():
    """Preferred with probability p (Bradley-Terry), the margin becomes log(p / (1 - p)) / beta."""
    beta, p = 0.5, 0.8
    margin = torch.tensor([math.log(p / (1 - p)) / beta], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros_like(margin)
    loss = p * dpo_loss(margin, zero, beta) + (1 - p) * dpo_loss(zero, margin, beta)  # convex
    loss.backward()
    assert margin.grad is not None
    assert abs(float(margin.grad)) < 1e-12


@pytest.mark.parametrize("turns", [1, 2])
def test_groups_are_whole_and_hold_what_was_drawn(turns):
    agent = talker(turns, token_budget=16)
    before = [p.detach().clone() for p in agent.policy.parameters()]
    episodes = sample_groups(agent, agent.env, problems=5, samples=3, seed=4)
    assert len(episodes) == 15
    assert episodes.group_id.bincount().tolist()[-5:] == [3] * 5
    prompts = [bytes(row.numpy()) for row in episodes.steps.obs.rows()]
    first = [segment != other for segment, other in zip(episodes.segment[1:], episodes.segment[:-1], strict=True)]
    opening = [prompts[0]] + [prompt for prompt, new in zip(prompts[1:], first, strict=True) if new]
    for group in episodes.group_id.unique():
        assert len({opening[i] for i in (episodes.group_id == group).nonzero().squeeze(1).tolist()}) == 1
    found = agent.policy.decisions(episodes.steps)
    torch.testing.assert_close(found.log_prob.detach(), found.behaviour, atol=1e-4, rtol=0)
    assert all(torch.equal(p, q) for p, q in zip(agent.policy.parameters(), before, strict=True))
    again = sample_groups(agent, agent.env, problems=5, samples=3, seed=4)
    assert torch.equal(again.steps["action"].values, episodes.steps["action"].values)


@pytest.mark.parametrize("most", [4096, 16])
@pytest.mark.parametrize("nll_weight", [0.0, 0.7])
def test_a_dpo_step_descends_the_loss_of_whole_episodes(most, nll_weight):
    agent = talker(2, micro_batch_tokens=most)
    episodes = sample_groups(agent, agent.env, problems=4, samples=2, seed=0)
    pairs = torch.tensor([[0, 1], [3, 2], [5, 4], [0, 2]])
    with torch.no_grad():
        for p in agent.policy.parameters():  # away from where every ratio is 1
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    found = agent.policy.decisions(episodes.steps)
    ratio = torch.zeros(8).index_add(0, episodes.segment[found.step], found.log_prob - found.behaviour)
    expected = -F.logsigmoid(0.3 * (ratio[pairs[:, 0]] - ratio[pairs[:, 1]])).mean()
    for winner in pairs[:, 0]:
        expected = expected - nll_weight * found.log_prob[episodes.segment[found.step] == winner].mean() / len(pairs)
    params = list(agent.policy.parameters())
    gradient = torch.autograd.grad(expected, params)
    config = Config(beta=0.3, nll_weight=nll_weight, max_grad_norm=1e9)
    out = _dpo_step(agent, episodes, pairs, config, params, torch.optim.SGD(params, lr=1e-9))
    assert float(out[0]) == pytest.approx(float(expected.detach()), rel=1e-5)
    for p, g in zip(params, gradient, strict=True):
        torch.testing.assert_close(p.grad, g, atol=1e-5, rtol=1e-3)


@pytest.fixture(scope="module")
def wordy(tmp_path_factory):
    """A tiny model that says the digit asked for once or, half of the time, ten times; and its responses."""
    agent = talker(max_tokens=12)
    language = agent.policy.language
    prompts = language.prompt_tokens([f"say{d}:" for d in range(10)] * 2)
    responses = language.response_tokens([str(d) * n for n in (1, 10) for d in range(10)])
    optimizer = torch.optim.Adam(agent.policy.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        (-language.response_log_probs(prompts, responses).values.mean()).backward()
        torch.nn.utils.clip_grad_norm_(agent.policy.parameters(), 1.0)
        optimizer.step()
    episodes = sample_groups(agent, agent.env, problems=32, samples=8, seed=0)
    return agent.save(tmp_path_factory.mktemp("wordy") / "wordy"), episodes


@pytest.mark.parametrize("learn", [imitate_shortest, prefer_shortest])
def test_answers_become_shorter_and_not_worse(learn, wordy):
    path, before = wordy
    agent = agents.load(path, digits(), device="cpu")
    metrics = learn(
        agent, before, Config(learning_rate=1e-3, batch_size=16, epochs=8), torch.Generator().manual_seed(0)
    )
    assert all(math.isfinite(value) for value in metrics.values())
    after = sample_groups(agent, agent.env, problems=16, samples=8, seed=1)
    short, long = episode_decisions(after).float().mean(), episode_decisions(before).float().mean()
    assert float(long) > 5
    assert float(short) < 0.6 * float(long)
    assert float((after.ret >= 1).float().mean()) > float((before.ret >= 1).float().mean()) - 0.02
    if "won" in metrics:
        assert metrics["won"] > 0.8


def test_nothing_to_learn_from_is_said():
    agent = talker(max_tokens=1)
    episodes = sample_groups(agent, agent.env, problems=2, samples=2, seed=0)
    episodes.ret.zero_()
    for learn, message in ((imitate_shortest, "none of 4 episodes is right"), (prefer_shortest, "give no pair")):
        with pytest.raises(ValueError, match=message):
            learn(agent, episodes, Config(), torch.Generator())
    with pytest.raises(ValueError, match="beta must be positive"):
        Config(beta=0.0)
