"""What all policies promise: decisions as drawn, actions to the environment and back, memory, refusals."""

import importlib.util

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.core.buffer import Batch, Ragged
from agents.core.spaces import encode_text
from agents.policies import PolicyConfig, make_policy
from agents.policies.policy import decision_counts, per_decision

BOX = spaces.Box(-1, 1, (3,))
TEXT = spaces.Text(64, charset="".join(map(chr, range(1, 127))))
PROMPTS = ["1+2=", "34+5=", "1+2=", "a longer prompt: ", "7"]
KINDS = {
    "box": (BOX, spaces.Box(-9, 9, (2, 2))),
    "discrete": (BOX, spaces.Discrete(4, start=-1)),
    "multidiscrete": (BOX, spaces.MultiDiscrete([3, 2], start=[2, 0])),
    "multibinary": (BOX, spaces.MultiBinary(3)),
    "text": (TEXT, TEXT),
}


def made(kind, **fields):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = make_policy(*KINDS[kind], PolicyConfig(max_tokens=5, **fields), seed=3)
    generator = torch.Generator().manual_seed(1)
    if kind == "text":
        obs = Ragged.of([torch.from_numpy(row.copy()) for row in encode_text(PROMPTS)], torch.uint8)
    else:
        obs = torch.randn(5, 3, generator=generator)
    return policy, obs, generator


@pytest.mark.parametrize("kind", KINDS)
def test_decisions_are_those_that_were_taken(kind):
    policy, obs, generator = made(kind)
    fields = policy.act(obs, generator, episode_start=np.ones(5, bool), version=7)
    stored = {n: f.clone() if isinstance(f, torch.Tensor) else f for n, f in fields.items() if n != "idle"}
    assert stored.keys() == policy.fields().keys()
    assert all(isinstance(stored[name], Ragged) == field.ragged for name, field in policy.fields().items())
    steps = Batch({**stored}).with_obs(obs)
    found = policy.decisions(steps, entropy=True)
    torch.testing.assert_close(found.log_prob, per_decision(fields["log_prob"]), atol=1e-5, rtol=0)
    assert torch.equal(found.behaviour, per_decision(fields["log_prob"]))
    counts = decision_counts(fields["log_prob"])
    assert torch.equal(torch.bincount(found.step, minlength=5), counts)
    assert (kind == "text") == (int(counts.max()) > 1)
    distribution = policy.distribution(steps)
    again = distribution.log_prob(per_decision(steps["action"]))
    torch.testing.assert_close(again, found.log_prob, atol=1e-5, rtol=0)
    torch.testing.assert_close(distribution.entropy(), found.entropy, atol=1e-5, rtol=0)
    for value in (found.log_prob, found.entropy):
        grads = torch.autograd.grad(value.sum(), list(policy.parameters()), retain_graph=True, allow_unused=True)
        assert any(grad is not None for grad in grads)
    assert not policy.decisions(steps).entropy.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_actions_of_the_environment_come_back_as_they_were(kind):
    policy, obs, generator = made(kind)
    action = policy.choose(obs, False, generator)
    taken = policy.to_env(action, obs)
    stored = policy.from_env(taken, obs)
    if kind == "text":  # a demonstration is whole, whatever the response lacked
        assert policy.to_env(stored, obs) == taken
        assert all(row[-1] == policy.language.stop_tokens[0] for row in stored.rows())
        without = policy.decisions(Batch(action=stored, obs=obs))
        assert without.behaviour is None
    else:
        torch.testing.assert_close(stored, action)
        assert stored.dtype == action.dtype


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_hold_every_segment_once(kind):
    policy, obs, generator = made(kind, micro_batch_tokens=16)
    steps = Batch(action=policy.choose(obs, False, generator), obs=obs)
    for segment in (torch.arange(5), torch.tensor([0, 1, 1, 2, 0])):
        found = policy.micro_batches(steps, segment)
        assert sorted(torch.cat(found).tolist()) == list(range(int(segment.max()) + 1))
    assert (len(policy.micro_batches(steps, torch.arange(5))) > 1) == (kind == "text")


def test_parked_responses_are_part_of_the_state():
    policy, obs, generator = made("text")
    policy.token_budget = 3
    fields = policy.act(obs, generator, episode_start=np.ones(5, bool))
    assert fields["idle"].any()
    assert policy.exhausted
    other, _, _ = made("text")
    other.token_budget = 3
    other.load_state_dict(policy.state_dict())
    assert other.exhausted
    assert {i: r.tokens.tolist() for i, r in other.parked.items()} == {
        i: r.tokens.tolist() for i, r in policy.parked.items()
    }
    other.renew()
    assert not other.exhausted


def test_what_no_policy_serves_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="a language model answers Text, or a Dict"):
        make_policy(BOX, TEXT, PolicyConfig())
    with pytest.raises(ValueError, match="Box, Discrete"):
        make_policy(BOX, spaces.Dict({"a": BOX}), PolicyConfig())
    with pytest.raises(ValueError, match="temperature"):
        PolicyConfig(temperature=0.0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        make_policy(TEXT, TEXT, PolicyConfig())
