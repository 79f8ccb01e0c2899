"""Evaluation runs exactly the episodes that its seeds name, however many environments run them."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import agents
import envs
from agents.core.evaluation import evaluate
from agents.core.tasks import EVALUATION_SEEDS
from tests.agents.toys import Counting, vector


class Cycling:
    """A policy of the observation alone."""

    def predict(self, observation, deterministic=False):
        return (observation.sum(-1) * 7 % 3).astype(np.int64), None


def by_hand(seed):
    env, ret, length = Counting(), 0.0, 0
    obs, _ = env.reset(seed=seed)
    while True:
        obs, reward, terminated, truncated, _ = env.step(Cycling().predict(obs[None])[0][0])
        ret, length = ret + reward, length + 1
        if terminated or truncated:
            return ret, length


@pytest.mark.parametrize("num_envs", [1, 3, 16])
@pytest.mark.parametrize("episodes", [1, 10])
def test_the_first_episodes_in_seed_order(num_envs, episodes):
    stats = evaluate(Cycling(), vector(Counting, num_envs), episodes)
    expected = [by_hand(EVALUATION_SEEDS + k) for k in range(episodes)]
    assert list(zip(stats.returns.tolist(), stats.lengths.tolist(), strict=True)) == expected


def test_deterministic_evaluation_repeats_and_changes_nothing():
    agent = agents.TRPO("CartPole-v1", n_steps=8, hidden=(4,)).learn(128)
    env = envs.make_vec("CartPole-v1", 4)
    one = evaluate(agent, env, 6)
    agent_steps = agent.num_timesteps
    evaluate(agent, env, 3, deterministic=False)
    two = evaluate(agent, env, 6)
    assert one.returns.tolist() == two.returns.tolist() == one.lengths.tolist()
    assert agent.num_timesteps == agent_steps
    assert evaluate(agent, env, 6, seed=EVALUATION_SEEDS + 50).returns.tolist() != one.returns.tolist()


def test_what_cannot_be_evaluated():
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        with pytest.raises(ValueError, match="without automatic resets"):
            evaluate(Cycling(), vector(Counting, 2, mode), 1)
    with pytest.raises(ValueError, match="episodes"):
        evaluate(Cycling(), vector(Counting, 2), 0)


def test_several_samples_of_each_seed_and_what_a_watcher_sees():
    seen, env = [], vector(Counting, 3)
    stats = evaluate(Cycling(), env, 4, samples=2, watch=seen.append)
    expected = [by_hand(EVALUATION_SEEDS + k // 2) for k in range(8)]
    assert list(zip(stats.returns.tolist(), stats.lengths.tolist(), strict=True)) == expected
    returns, lengths = np.zeros(8), np.zeros(8, int)
    for step in seen:
        for i in np.flatnonzero(step.episode >= 0):
            returns[step.episode[i]] += step.rewards[i]
            lengths[step.episode[i]] += 1
            assert step.actions[i] == Cycling().predict(step.obs[i : i + 1])[0][0]
            assert step.obs[i][2] == step.infos["t"][i] - 1  # the observation before the step
            assert step.next_obs[i][2] == step.infos["t"][i]  # and that behind it, were it the last of the episode
            assert step.done[i] == (lengths[step.episode[i]] == stats.lengths[step.episode[i]])
    assert returns.tolist() == stats.returns.tolist()
    assert lengths.tolist() == stats.lengths.tolist()
