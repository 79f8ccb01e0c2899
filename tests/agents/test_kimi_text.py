"""Kimi on text: the same loss over tokens, responses parked and continued, exact resume, curriculum."""

import pytest
import torch

import agents
import envs
from agents.kimi import kimi_loss
from tests.agents.toys import digits


def spied(agent):
    """(iteration, episodes) of every iteration, as they come to be learned from."""
    seen, improve = [], agent.improve_policy
    agent.improve_policy = lambda episodes: seen.append((agent.iterations, episodes)) or improve(episodes)
    return seen


def talker(turns=1, **fields):
    settings = {"group_size": 4, "groups_per_iteration": 2, "max_tokens": 3, "seed": 0, "device": "cpu"}
    return agents.Kimi(digits(turns), **{**settings, **fields})


@pytest.mark.parametrize("turns", [1, 2])
def test_text_descends_the_loss_of_whole_responses(turns):
    agent = talker(turns, max_grad_norm=1e9, micro_batch_tokens=16, tau=0.5, learning_rate=1e-3)
    seen = spied(agent)
    agent.learn(16)
    _, episodes = seen[0]
    steps = episodes.steps
    assert len(steps["action"]) == len(episodes) * turns
    # Scored anew, in one pass and with the first weights, tokens have the log-probabilities they were drawn with.
    first = talker(turns)
    prompts = first.policy.language.prompt_tokens([bytes(row.numpy()).decode() for row in steps.obs.rows()])
    again = first.policy.language.response_log_probs(prompts, steps["action"].rows()).values
    torch.testing.assert_close(again.detach(), steps["log_prob"].values, atol=1e-4, rtol=0)

    reward = torch.randn(len(episodes))
    found = agent.policy.language.response_log_probs(prompts, steps["action"].rows())
    by_token = torch.repeat_interleave(episodes.segment, steps["action"].lengths)
    sums = torch.zeros(len(episodes)).index_add(0, by_token, found.values)
    reference = torch.zeros(len(episodes)).index_add(0, by_token, steps["log_prob"].values)
    loss = kimi_loss(sums, reference, reward, episodes.group_id, 0.5)
    expected = torch.autograd.grad(loss, list(agent.policy.parameters()))  # / 2 tau, which is 1
    adv = reward - torch.stack([reward[episodes.group_id == g].mean() for g in episodes.group_id])
    assert len(agent.policy.micro_batches(steps, episodes.segment)) > 1
    before = agent.flat.vector.detach().clone()
    agent.train_step(episodes, adv)
    agent.flat.vector.data.copy_(before)
    for p, grad in zip(agent.policy.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad, atol=2e-5, rtol=1e-3)


def test_a_token_budget_parks_responses_and_goes_on_with_newer_weights():
    agent = talker(2, token_budget=12, max_tokens=20, learning_rate=1e-3)
    seen = spied(agent)
    agent.learn(96)
    mixed = 0
    for iteration, episodes in seen:
        steps = episodes.steps
        assert bool((torch.bincount(episodes.segment) == 2).all())  # turns; waiting is no step
        versions = steps["version"].rows()
        assert all(bool((row.diff() >= 0).all()) and int(row.max()) <= iteration for row in versions)
        assert steps["action"].lengths.tolist() == steps["log_prob"].lengths.tolist()
        assert bool((steps["action"].lengths <= 20).all())
        mixed += sum(len(row.unique()) > 1 for row in versions)
    assert mixed > 10
    assert agent.num_timesteps < agent.collector.steps * 8


def test_digits_are_learned_from_scratch():
    agent = talker(group_size=8, groups_per_iteration=4, learning_rate=1e-3, max_tokens=2, minibatch_size=32)
    agent.learn(32 * 50)
    answers, _ = agent.predict(["say3:", "say8:"], deterministic=True)
    assert all(len(answer) > 0 and set(answer) <= set("0123456789") for answer in answers)
    answer, _ = agent.predict("say3:", deterministic=False)
    assert isinstance(answer, str)


@pytest.mark.parametrize("fields", [{}, {"token_budget": 25, "max_tokens": 12}], ids=["whole", "parked"])
def test_exact_resume_of_text(fields, tmp_path):
    def made():
        return envs.make_vec("reasoning/addition-v0", num_envs=8)

    settings = {"group_size": 4, "groups_per_iteration": 2, "max_tokens": 4, "seed": 0, "device": "cpu"}
    whole = agents.Kimi(made(), **{**settings, "skip_equal_groups": False, **fields}).learn(20)
    while fields and not whole.policy.parked:
        whole.learn(1, reset_num_timesteps=False)  # one more iteration
    whole.save(tmp_path / "middle", exact=True)
    whole.learn(24, reset_num_timesteps=False)
    resumed = agents.load(tmp_path / "middle", made(), device="cpu")
    assert resumed.restored_exactly
    assert bool(resumed.policy.parked) == bool(fields)
    resumed.learn(24, reset_num_timesteps=False)
    one, other = whole.save(tmp_path / "one", exact=True), resumed.save(tmp_path / "other", exact=True)
    assert one.read_bytes() == other.read_bytes()


def test_a_curriculum_goes_up_to_the_environments_own_difficulty():
    env = envs.make_vec("reasoning/addition-v0", num_envs=8, difficulty=3)
    agent = agents.Kimi(env, group_size=4, groups_per_iteration=2, sampling="curriculum", max_tokens=2, device="cpu")
    difficulties = []
    reset = env.reset
    env.reset = lambda seed=None, options=None: (
        difficulties.extend(options["difficulty"]) or reset(seed=seed, options=options)
    )
    agent.learn(24)
    assert agent.sampler.levels == (1, 3)
    assert set(difficulties) == {1}
    agent.sampler.level = 2
    agent.learn(64)
    assert set(difficulties) == {1, 2, 3}
