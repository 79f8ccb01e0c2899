"""TRPO on text: tokens are decisions. Fisher products through a language model, trust region, credit, resume."""

import copy

import pytest
import torch

import agents
import envs
from agents import cloning
from agents.policies.categorical import MultiCategorical
from agents.policies.credit import credit
from agents.trpo import flatten, mean_product, unflatten
from tests.agents.toys import digits


def talker(turns=1, **fields):
    settings = {"n_steps": turns, "max_tokens": 4, "critic_epochs": 2, "critic_batch_size": 16, "cg_iterations": 4}
    return agents.TRPO(digits(turns), seed=0, device="cpu", **{**settings, **fields})


def collected(agent):
    """The steps of one rollout with random advantages, and the rollout."""
    agent.prepare()
    agent.buffer.clear()
    agent.collector.collect(agent.config.n_steps)
    rollout = agent.buffer.rollout()
    steps, judged = credit(agent.policy, agent.critic, agent.normalizer, rollout, rollout["reward"], 0.9, 0.8)
    generator = torch.Generator().manual_seed(0)
    steps["adv"] = copy.copy(steps["log_prob"])
    steps["adv"].values = torch.randn(len(judged.adv), generator=generator)
    return steps, judged, rollout


def mean_kl(old, policy, steps):
    return old.kl(policy.distribution(steps)).mean()


def test_fisher_products_are_finite_differences_of_the_gradient_of_the_kl():
    agent = talker(2)
    steps, _, _ = collected(agent)
    old = agent.policy.distribution(steps).detach()
    product = mean_product(agent.policy, agent.micro_batches(steps), agent.params)
    start = [p.detach().clone() for p in agent.params]
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        v = [torch.randn(p.shape, generator=generator) for p in agent.params]
        norm = flatten(v).norm()
        v = [x / norm for x in v]
        gradients = []
        for sign in (1.0, -1.0):
            for p, first, x in zip(agent.params, start, v, strict=True):
                p.data.copy_(first + sign * 2e-2 * x)
            gradients.append(flatten(torch.autograd.grad(mean_kl(old, agent.policy, steps), agent.params)))
            for p, first in zip(agent.params, start, strict=True):
                p.data.copy_(first)
        difference = (gradients[0] - gradients[1]) / 4e-2
        found = product(flatten(v))
        assert float((found - difference).norm() / difference.norm()) < 2e-2
        assert float(found.norm()) > 1e-3


def test_micro_batches_change_neither_products_nor_steps():
    whole, parts = talker(2), talker(2, micro_batch_tokens=24)
    steps, _, _ = collected(whole)
    assert len(whole.micro_batches(steps)) == 1 < len(parts.micro_batches(steps))
    assert sum(share for share, _ in parts.micro_batches(steps)) == pytest.approx(1.0)
    generator = torch.Generator().manual_seed(2)
    v = flatten([torch.randn(p.shape, generator=generator) for p in whole.params])
    products = [mean_product(agent.policy, agent.micro_batches(steps), agent.params)(v) for agent in (whole, parts)]
    torch.testing.assert_close(products[0], products[1], atol=1e-4, rtol=1e-3)
    metrics = [agent.improve_policy(steps) for agent in (whole, parts)]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-2, abs=1e-4)
    for p, q in zip(whole.params, parts.params, strict=True):
        torch.testing.assert_close(p, q, atol=1e-4, rtol=1e-2)


@pytest.mark.parametrize("fields", [{}, {"micro_batch_tokens": 24}, {"fisher_share": 0.5}], ids=str)
def test_updates_stay_in_the_trust_region_of_mean_token_kl(fields):
    agent = talker(2, **fields)
    for _ in range(3):
        steps, _, _ = collected(agent)
        before = copy.deepcopy(agent.policy)
        metrics = agent.improve_policy(steps)
        with torch.no_grad():
            kl = float(mean_kl(before.distribution(steps), agent.policy, steps))
        assert metrics["is_line_search_success"] == 1.0
        assert 0.1 * agent.config.delta < kl <= agent.config.delta * (1 + 1e-3)
        assert kl == pytest.approx(metrics["kl_divergence_loss"], rel=1e-3)


def test_a_step_that_is_not_accepted_is_undone_to_the_bit(monkeypatch):
    agent = talker(2, line_search_steps=2)
    steps, _, _ = collected(agent)
    before = [p.detach().clone() for p in agent.params]
    monkeypatch.setattr(MultiCategorical, "kl", lambda self, other: torch.full((len(self.logits),), float("nan")))
    assert agent.improve_policy(steps)["is_line_search_success"] == 0.0
    assert all(torch.equal(p, first) for p, first in zip(agent.params, before, strict=True))


def test_the_reward_comes_at_the_end_and_undiscounted_to_every_token():
    agent = talker(2, max_tokens=5)
    agent.prepare()
    agent.collector.collect(2)
    rollout = agent.buffer.rollout()
    _, judged = credit(agent.policy, agent.critic, agent.normalizer, rollout, rollout["reward"], 0.5, 1.0)
    later = rollout["reward"][1]
    returns = torch.stack((rollout["reward"][0] + 0.5 * later, later)).flatten()
    lengths = rollout["log_prob"].lengths
    assert int(lengths.max()) > 1
    torch.testing.assert_close(judged.ret, torch.repeat_interleave(returns, lengths), atol=1e-5, rtol=0)


def test_a_rollout_that_ends_within_an_episode_counts_what_the_critic_expects():
    agent = talker(2, n_steps=1)
    agent.prepare()
    agent.collector.collect(1)
    rollout = agent.buffer.rollout()
    assert not rollout["terminated"].any()
    _, judged = credit(agent.policy, agent.critic, agent.normalizer, rollout, rollout["reward"], 0.5, 1.0)
    with torch.no_grad():
        ahead = agent.critic(agent.policy.first_features(rollout.next_obs))
    expected = rollout["reward"][0] + 0.5 * ahead
    lengths = rollout["log_prob"].lengths
    torch.testing.assert_close(judged.ret, torch.repeat_interleave(expected, lengths), atol=1e-5, rtol=1e-5)
    assert float(ahead.std()) > 0


def test_the_critic_is_fitted_and_leaves_the_model_alone():
    agent = talker(critic_epochs=100, critic_lr=3e-3)
    _, judged, _ = collected(agent)
    before = [p.detach().clone() for p in agent.params]
    target = judged.features[:, :4].sum(1)
    assert agent.fit_critic(judged.features, target) < 0.1 * float(target.var())
    assert all(torch.equal(p, first) for p, first in zip(agent.params, before, strict=True))


def test_addition_is_learned():
    env = envs.make_vec("reasoning/addition-v0", num_envs=64, difficulty=1)
    agent = agents.TRPO(env, seed=0, device="cpu", n_steps=1, max_tokens=4, delta=0.03, cg_iterations=5)
    cloning.clone(agent, episodes=5120)
    rewards, update = [], agent.update
    agent.update = lambda: rewards.append(float(agent.buffer.rollout()["reward"].mean())) or update()
    agent.learn(64 * 15)
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.04


def test_exact_resume(tmp_path):
    def made():
        return envs.make_vec("reasoning/addition-v0", num_envs=8)

    fields = {"n_steps": 1, "max_tokens": 4, "cg_iterations": 2, "critic_epochs": 2}
    whole = agents.TRPO(made(), seed=0, device="cpu", **fields).learn(16)
    whole.save(tmp_path / "middle", exact=True)
    whole.learn(16, reset_num_timesteps=False)
    resumed = agents.load(tmp_path / "middle", made(), device="cpu")
    assert resumed.restored_exactly
    resumed.learn(16, reset_num_timesteps=False)
    one, other = whole.save(tmp_path / "one", exact=True), resumed.save(tmp_path / "other", exact=True)
    assert one.read_bytes() == other.read_bytes()


def test_nuclei_are_refused():
    with pytest.raises(ValueError, match="top_p must be 1"):
        talker(top_p=0.9)


def test_flattening_is_undone():
    like = [torch.randn(2, 3), torch.randn(4)]
    assert all(torch.equal(a, b) for a, b in zip(unflatten(flatten(like), like), like, strict=True))
