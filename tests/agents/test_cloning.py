"""Behaviour cloning: its losses in closed form, whose episodes it sees, that it learns and can be interrupted."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch.nn import functional as F

import agents
import envs
from agents.cloning import Cloner, Config, clone, demonstrations, find_expert, imitation_losses
from agents.core import checkpoint
from agents.core.buffer import Batch
from agents.core.evaluation import evaluate
from agents.core.tasks import EVALUATION_SEEDS
from agents.policies import DeterministicPolicy, StochasticPolicy
from tests.agents.toys import Counting, Fixed, vector

BOX = spaces.Box(-1, 1, (3,))
# Neither symmetric, nor alike, nor all of some width.
BOUNDS = spaces.Box(np.array([-3.0, 0.0, 5.0], np.float32), np.array([1.0, 10.0, 5.0], np.float32))
KIMI = {"group_size": 2, "groups_per_iteration": 2, "device": "cpu"}


class Oracle:
    """Knows what to do in Counting: the remainder of what the observation adds up to."""

    def predict(self, obs, deterministic):
        assert deterministic
        return (np.asarray(obs).sum(-1) % 3).astype(np.int64), None


class Rule:
    """Acts in any space by a rule on the observation's signs."""

    def __init__(self, space):
        self.space = space

    def predict(self, obs, deterministic):
        signs = np.asarray(obs) > 0
        match self.space:
            case spaces.Box():
                return np.where(signs, 0.75 * self.space.high + 0.25 * self.space.low, self.space.low), None
            case spaces.Discrete():
                return self.space.start + signs[:, 0] + 2 * signs[:, 1], None
            case spaces.MultiDiscrete():
                return self.space.start + signs[:, :2], None
        return signs[:, :2].astype(np.int8), None


def test_losses_of_probabilities_are_negative_log_likelihoods():
    obs, policy = torch.randn(4, 3), StochasticPolicy(BOX, spaces.Discrete(5, start=2), output_gain=1.0)
    action = policy.from_env([2, 6, 3, 2], obs)
    assert action.tolist() == [0, 4, 1, 0]
    losses = imitation_losses(policy, Batch(obs=obs, action=action))
    expected = F.cross_entropy(policy(obs).logits, action, reduction="none")
    torch.testing.assert_close(losses, expected)
    assert losses.requires_grad


@pytest.mark.parametrize("space", [BOUNDS, spaces.Discrete(4, start=-1), spaces.MultiDiscrete([3, 2], start=[2, 0])])
def test_a_deterministic_policy_regresses(space):
    policy, obs = DeterministicPolicy(BOX, space, hidden=(8,), output_range=1.0), torch.randn(4, 3)
    space.seed(0)
    actions = [space.sample() for _ in range(4)]
    stored = policy.from_env(actions, obs)
    assert stored.shape == (4, policy.dim)
    np.testing.assert_allclose(policy.to_env(stored), np.stack(actions), atol=1e-5)
    found, out = policy.imitation_loss(obs, stored), policy.net(policy.encoder(obs))
    if isinstance(space, spaces.Box):
        expected = (torch.tanh(out) - stored).square().sum(-1)
    else:
        blocks = zip(out.split(policy.sizes, -1), stored.split(policy.sizes, -1), strict=True)
        expected = sum(-(logits.log_softmax(-1) * one_hot).sum(-1) for logits, one_hot in blocks)
    torch.testing.assert_close(found, expected)


def test_the_stop_token_is_a_decision_and_gradients_do_not_depend_on_micro_batches():
    gradients = []
    for most in (4096, 16):
        agent = agents.Kimi(envs.make_vec("reasoning/addition-v0", num_envs=4), **KIMI, micro_batch_tokens=most)
        steps, _ = demonstrations(agent.env, find_expert(agent.env), range(6), agent.policy)
        assert steps["action"].lengths.tolist() == [len(t) + 1 for t in agent.policy.to_env(steps["action"], steps.obs)]
        assert len(imitation_losses(agent.policy, steps)) == int(steps["action"].lengths.sum())
        cloner = Cloner(agent, agent.env, Config(episodes=6, max_grad_norm=1e9))
        assert (len(cloner.imitator._micro_batches(steps)) > 1) == (most == 16)
        cloner.imitator._train_step(steps)
        gradients.append(agent.flat.grad.clone())
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("num_envs", [1, 2, 5, 20])
def test_every_episode_once_and_whole(num_envs):
    seeds = [0, 3, 1, 2, 5, 4, 11]
    env = vector(Counting, num_envs)
    policy = StochasticPolicy(env.single_observation_space, env.single_action_space)
    steps, returns = demonstrations(env, find_expert(env, Oracle()), seeds, policy)
    expected, rewards = [], []
    for seed in seeds:
        one = Counting()
        obs, _ = one.reset(seed=seed)
        over, total = False, 0.0
        while not over:
            action = int(obs.sum() % 3)
            expected.append((*obs.tolist(), action))
            obs, reward, terminated, truncated, _ = one.step(action)
            over, total = terminated or truncated, total + reward
        rewards.append(total)
    found = [(*obs, action) for obs, action in zip(steps.obs.tolist(), steps["action"].tolist(), strict=True)]
    assert sorted(found) == sorted(expected)
    assert sorted(returns) == sorted(rewards)


def test_training_seeds_alone_and_fresh_ones_in_every_round():
    env = vector(Counting, 4)
    seeds, reset = [], env.reset
    env.reset = lambda seed=None, options=None: seeds.extend(seed) or reset(seed=seed, options=options)
    clone(agents.TRPO(env), env, expert=Oracle(), episodes=40, round_episodes=4)
    drawn = {seed for seed in seeds if seed is not None}
    assert len(drawn) == 40
    assert 0 <= min(drawn) <= max(drawn) < EVALUATION_SEEDS


SPACES = {
    "box": spaces.Box(np.array([-3.0, 0.0, 5.0], np.float32), np.array([1.0, 10.0, 6.0], np.float32)),
    "discrete": spaces.Discrete(4, start=-1),
    "multidiscrete": spaces.MultiDiscrete([3, 2], start=[2, 0]),
    "multibinary": spaces.MultiBinary(2),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("algorithm", ["trpo", "actor-critic", "kimi", "ddpg"])
def test_any_policy_learns_what_the_expert_does(algorithm, space):
    env = vector(lambda: Fixed(spaces.Box(-20, 60, (3,)), space), 8)
    fields = {"ddpg": {"hidden": (64,), "normalize_observations": True}, "kimi": KIMI}.get(algorithm, {})
    agent, expert = agents.make(algorithm, env, seed=1, **fields), Rule(space)
    metrics = clone(agent, expert=expert, episodes=800, round_episodes=200, epochs=8, learning_rate=1e-2)
    obs = np.random.default_rng(0).uniform(-20, 60, (200, 3)).astype(np.float32)
    wanted, found = expert.predict(obs, True)[0], agent.predict(obs, deterministic=True)[0]
    width = space.high - space.low if isinstance(space, spaces.Box) else 1
    assert np.abs((found - wanted) / width).mean() < 0.08
    assert metrics["episodes"] == 800
    # The observations' statistics are those of the demonstrations, which are uniform.
    moments = next(iter(agent.normalizer.moments.values()))
    assert int(moments.count) == 800 * 5
    np.testing.assert_allclose(np.asarray(moments.mean), 20, atol=1.5)
    if algorithm == "ddpg":
        for mine, target in zip(agent.actor.parameters(), agent.target_actor.parameters(), strict=True):
            assert torch.equal(mine, target)
    agent.learn(64)  # parameters and gradients still lie where the agent looks for them


def test_answers_are_learned_by_heart(tmp_path):
    answers = {"one": "uno", "two": "dos", "three": "tres", "four": "cuatro!"}
    lines = [json.dumps({"question": f"{q}=", "answer": a, "demonstration": a}) for q, a in answers.items()]
    (tmp_path / "words.jsonl").write_text("\n".join(lines))
    env = envs.make_vec(
        "reasoning/jsonl-v0", num_envs=16, path=str(tmp_path / "words.jsonl"), style="plain", split="all"
    )
    agent = agents.Kimi(env, max_tokens=10, **KIMI)
    metrics = clone(agent, episodes=4000, round_episodes=160, batch_size=16, learning_rate=3e-3, target_loss=0.02)
    assert metrics["loss"] < 0.02
    assert metrics["episodes"] < 4000
    assert metrics["expert_reward"] == 1
    assert agent.predict([f"{q}=" for q in answers], deterministic=True)[0] == list(answers.values())
    assert evaluate(agent, env, 16).returns.mean() == 1


def test_an_expert_may_pass():
    class Half(gym.vector.SyncVectorEnv):
        def demonstrate(self):
            return [None if env.unwrapped.base % 2 else 1 for env in self.envs]

        def step(self, actions):
            return super().step([0 if action is None else action for action in actions])

    env = Half([Counting] * 3, autoreset_mode=AutoresetMode.DISABLED)
    policy = StochasticPolicy(env.single_observation_space, env.single_action_space)
    steps, returns = demonstrations(env, find_expert(env), range(10), policy)
    assert set(steps.obs[:, 0].tolist()) == {0, 2, 4, 6, 8}
    assert len(returns) == 5
    with pytest.raises(ValueError, match="demonstrated nothing"):
        demonstrations(env, find_expert(env), [1, 3, 5], policy)


@pytest.mark.parametrize("kind", ["text", "torques"])
def test_interrupted_and_resumed_bit_for_bit(kind, tmp_path):
    def made():
        if kind == "text":
            env = envs.make_vec("reasoning/addition-v0", num_envs=8)
            return Cloner(agents.Kimi(env, **KIMI), env, Config(episodes=96, round_episodes=24, batch_size=8))
        env = vector(lambda: Fixed(BOX, SPACES["box"]), 4)
        config = Config(episodes=60, round_episodes=20, epochs=2, batch_size=16)
        return Cloner(agents.DDPG(env, normalize_observations=True, device="cpu"), env, config, Rule(SPACES["box"]))

    whole, first, second = made(), made(), made()
    first.round()
    first.round()
    checkpoint.save(tmp_path / "middle", first.state_dict())
    second.load_state_dict(checkpoint.load(tmp_path / "middle"))
    assert second.left == first.left > 0
    while whole.left:
        expected = whole.round()
    while second.left:
        found = second.round()
    assert found == expected
    one, other = whole.agent.save(tmp_path / "one"), second.agent.save(tmp_path / "other")
    assert one.read_bytes() == other.read_bytes()


def test_refusals_are_sentences():
    env = vector(Counting, 2)
    with pytest.raises(ValueError, match="this environment has no demonstrations of its own"):
        Cloner(agents.TRPO(env), env, Config(episodes=1))
    with pytest.raises(ValueError, match="without automatic resets"):
        find_expert(vector(Counting, 2, AutoresetMode.NEXT_STEP), Oracle())
    with pytest.raises(ValueError, match="batch_size must be positive; got 0"):
        Config(batch_size=0)
    with pytest.raises(ValueError, match="episodes must be 0 or above"):
        Config(episodes=-1)
