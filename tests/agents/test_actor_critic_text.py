"""Actor-critic on text: a critic on the language model's trunk, the loss over tokens, one step a rollout."""

import pytest
import torch
from gymnasium import spaces

import agents
import envs
from agents.core.spaces import decode_text
from agents.policies.credit import credit
from tests.agents.toys import Fixed, digits, vector


def talker(turns=1, **fields):
    return agents.ActorCritic(digits(turns), seed=0, device="cpu", **{"n_steps": turns, "max_tokens": 4, **fields})


def collected(agent):
    agent.prepare()
    agent.collector.collect(agent.config.n_steps)
    return agent.buffer.rollout()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("limit", [24, 4096])
def test_the_step_descends_the_whole_loss(limit, normalize):
    settings = {"value_coef": 0.7, "entropy_coef": 0.3, "gamma": 0.9, "lam": 0.8, "normalize_advantage": normalize}
    agent = talker(2, micro_batch_tokens=limit, max_grad_norm=1e9, **settings)
    rollout = collected(agent)
    _, judged = credit(agent.policy, agent.critic, agent.normalizer, rollout, rollout["reward"], 0.9, 0.8)
    language = agent.policy.language
    found = language.score(
        language.prompt_tokens(decode_text(rollout.obs)), rollout["action"].rows(), entropies=True, states=True
    )
    adv = judged.adv
    if normalize:
        adv = (adv - adv.mean()) / (adv.std() + 1e-8)
    error = agent.critic(found.hidden.values) - judged.ret
    loss = -(found.log_probs.values * adv).mean() + 0.7 * error.square().mean() - 0.3 * found.entropies.values.mean()
    params = [*agent.policy.parameters(), *agent.critic.parameters()]
    expected = torch.autograd.grad(loss, params)
    agent.optimizer.step = lambda: None
    metrics = agent.update()
    for p, grad in zip(params, expected, strict=True):
        torch.testing.assert_close(p.grad, grad, atol=2e-5, rtol=1e-3)
    torch.testing.assert_close(metrics["value_loss"], error.square().mean().detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(metrics["entropy"], found.entropies.values.mean().detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("action", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=str)
@pytest.mark.parametrize("advantage", ["gae", "td"])
def test_one_decision_a_step_is_the_same_by_hand_and_by_autograd(action, advantage):
    def made():
        env = vector(lambda: Fixed(spaces.Box(-1, 1, (3,)), action), 4)
        fields = {"entropy_coef": 0.1, "advantage": advantage, "lam": 0.9, "hidden": (8,)}
        return agents.ActorCritic(env, seed=0, device="cpu", **fields)

    by_hand, by_autograd = made(), made()
    by_autograd.by_hand = False
    for agent in (by_hand, by_autograd):
        agent.learn(60)
    torch.testing.assert_close(by_autograd.flat.vector, by_hand.flat.vector, atol=1e-5, rtol=1e-4)


def test_the_critics_error_trains_the_trunk():
    agent = talker(max_grad_norm=1e9)
    collected(agent)
    agent.optimizer.step = lambda: None
    found = []
    for agent.config.value_coef in (0.0, 1.0):
        agent.update()
        agent.buffer.start = 0  # the same rollout once more
        found.append(agent.flat.grad.clone())
    n = sum(p.numel() for p in agent.policy.parameters())
    assert float((found[1] - found[0])[:n].norm()) > 1e-3


def test_digits_are_learned_from_scratch():
    agent = agents.ActorCritic(
        digits(num_envs=32),
        seed=0,
        device="cpu",
        n_steps=1,
        max_tokens=2,
        optimizer="adam",
        learning_rate=1e-3,
        normalize_advantage=True,
    )
    agent.learn(32 * 50)
    answers, _ = agent.predict(["say3:", "say8:"], deterministic=True)
    assert all(len(answer) > 0 and set(answer) <= set("0123456789") for answer in answers)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_exact_resume(optimizer, tmp_path):
    def made():
        return envs.make_vec("reasoning/addition-v0", num_envs=8)

    fields = {"n_steps": 1, "max_tokens": 4, "optimizer": optimizer, "entropy_coef": 0.01}
    whole = agents.ActorCritic(made(), seed=0, device="cpu", **fields).learn(16)
    whole.save(tmp_path / "middle", exact=True)
    whole.learn(16, reset_num_timesteps=False)
    resumed = agents.load(tmp_path / "middle", made(), device="cpu")
    assert resumed.restored_exactly
    resumed.learn(16, reset_num_timesteps=False)
    one, other = whole.save(tmp_path / "one", exact=True), resumed.save(tmp_path / "other", exact=True)
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("fields", [{"variant": "qac"}, {"variant": "off-policy"}, {"advantage": "n-step"}], ids=str)
def test_members_that_need_one_decision_a_step_are_refused(fields):
    env = envs.make_vec("reasoning/addition-v0", num_envs=2)
    with pytest.raises(ValueError, match=r"reasoning/addition-v0 takes text\. Use (variant a2c|advantage gae)"):
        agents.ActorCritic(env, **fields)
