"""Two processes learn what one with twice the environments does, and go on exactly where they stopped."""

import multiprocessing
import os
import socket

import numpy as np
import pytest
import torch

import agents
from agents.core import distributed
from agents.core.checkpoint import load
from agents.core.errors import CheckpointError
from agents.ddpg import Transitions

WORLD, ENVS, STEPS = 2, 3, 16
SETTINGS = {
    "trpo": {"n_steps": STEPS, "critic_batch_size": 4096, "critic_epochs": 3, "normalize_rewards": True},
    "actor-critic": {"n_steps": STEPS, "normalize_advantage": True, "normalize_rewards": True, "entropy_coef": 0.01},
}


def weights(*modules):
    return torch.cat([p.detach().flatten() for module in modules for p in module.parameters()]).numpy()


def trained(name, num_envs):
    """An agent after three iterations whose actions depend on what is observed alone, and the statistics it has."""
    agent = agents.make(name, agents.core.environments.as_vector_env("CartPole-v1", num_envs), seed=4, **SETTINGS[name])

    def act(obs, episode_start):
        action = (obs.double().sum(-1) * 1e4).long() % 2
        return {"action": action, "log_prob": agent.policy(agent.normalizer(obs)).log_prob(action).detach()}

    agent.act = act
    agent.learn(3 * STEPS * ENVS * WORLD)
    moments = agent.normalizer.moments[""]
    statistics = np.concatenate([moments.mean, moments.var, [moments.count, agent.reward_scaler.moments.var]])
    return weights(agent.policy, agent.critic), statistics, agent.num_timesteps


def stepped(rows):
    """DDPG's weights after three updates on `rows` of a batch."""
    agent = agents.DDPG("CartPole-v1", seed=4, hidden=(16,), critic_lr=1e-2, actor_lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    obs, next_obs = torch.randn(2, 32, 4, generator=generator)
    reward, terminated = torch.rand(2, 32, generator=generator)
    action, noise = agent.actor.random(32, generator), agent.actor.noise(32, generator)
    columns = (obs, action, reward, next_obs, terminated.round(), noise)
    for _ in range(3):
        agent.train_step(Transitions(*(column[rows] for column in columns)))
    return weights(agent.actor, agent.critic)


def resumed(folder):
    """Whether an agent loaded half-way ends as the one that went on, and whether the ranks' environments differ."""
    make = {"seed": 2, "n_steps": 8}
    whole = agents.TRPO(agents.core.environments.as_vector_env("CartPole-v1", 2), **make).learn(128)
    path = whole.save(folder / "half", exact=True)
    distributed.agreed(False)  # the first has written
    again = agents.load(path, agents.core.environments.as_vector_env("CartPole-v1", 2))
    for agent in (whole, again):
        agent.learn(64, reset_num_timesteps=False)
    same = np.array_equal(weights(whole.policy, whole.critic), weights(again.policy, again.critic))
    return again.restored_exactly and same and again.num_timesteps == 192, whole.collector.obs["obs"]


def refusals():
    found = []
    for name, env in (("kimi", "CartPole-v1"), ("trpo", "reasoning/addition-v0")):
        with pytest.raises(ValueError, match="in one process") as problem:
            agents.make(name, env)
        found.append(str(problem.value))
    return found


def work(rank, port, folder):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    distributed.start()
    x = torch.arange(10.0)[rank * 4 : rank * 4 + 4 + 2 * rank]
    found = {name: trained(name, ENVS) for name in SETTINGS}
    found["ddpg"] = stepped(slice(16 * rank, 16 * rank + 16))
    found["resumed"], found["obs"] = resumed(folder)
    found["refusals"] = refusals()
    found["moments"] = distributed.moments(torch.arange(8.0)[4 * rank : 4 * rank + 4] ** 2)
    found["merged"] = distributed.merged(len(x), x.mean().numpy(), (x - x.mean()).square().sum().numpy())
    found["agreed"] = distributed.agreed(rank == 1), distributed.agreed(False)
    found["gathered"], found["shared"] = distributed.gather(rank), distributed.shared(rank)
    np.save(folder / f"rank{rank}.npy", np.array(found, dtype=object), allow_pickle=True)
    distributed.stop()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=work, args=(rank, port, folder)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * WORLD
    return folder, [np.load(folder / f"rank{rank}.npy", allow_pickle=True).item() for rank in range(WORLD)]


@pytest.mark.parametrize("name", SETTINGS)
def test_two_ranks_equal_one_with_twice_the_environments(ranks, name):
    _, (first, second) = ranks
    expected, statistics, steps = trained(name, ENVS * WORLD)
    assert np.array_equal(first[name][0], second[name][0])
    assert first[name][2] == second[name][2] == steps
    np.testing.assert_allclose(first[name][1], statistics, rtol=1e-6)
    np.testing.assert_allclose(first[name][0], expected, rtol=1e-3, atol=2e-4)


def test_two_ranks_replay_what_one_does(ranks):
    _, (first, second) = ranks
    assert np.array_equal(first["ddpg"], second["ddpg"])
    np.testing.assert_allclose(first["ddpg"], stepped(slice(None)), rtol=1e-4, atol=1e-5)


def test_ranks_go_on_exactly_where_they_stopped(ranks):
    folder, (first, second) = ranks
    assert first["resumed"]
    assert second["resumed"]
    assert not np.array_equal(first["obs"], second["obs"])
    path = folder / "half.safetensors"
    assert len(load(path)["others"]) == 1
    agents.load(path)  # to predict, alone
    with pytest.raises(CheckpointError, match=r"made by 2 process.*torchrun --nproc-per-node 2"):
        agents.load(path, agents.core.environments.as_vector_env("CartPole-v1", 2))


def test_what_ranks_find_together(ranks):
    _, found = ranks
    x = torch.arange(8.0) ** 2
    for one in found:
        assert one["moments"] == pytest.approx((float(x.mean()), float(x.std())))
        count, mean, squares = one["merged"]
        assert (count, float(mean), float(squares)) == (10, 4.5, 82.5)
        assert one["agreed"] == (True, False)
        assert one["shared"] == 0
        assert one["refusals"][0].startswith("kimi learns in one process")
        assert one["refusals"][1].startswith("trpo learns from text in one process")
    assert [one["gathered"] for one in found] == [[1], []]


def test_alone_nothing_happens():
    x = torch.tensor([1.0, 2.0, 6.0])
    distributed.start()
    assert (distributed.rank(), distributed.world(), distributed.seed(7)) == (0, 1, 7)
    distributed.average_(x)
    assert x.tolist() == [1.0, 2.0, 6.0]
    assert distributed.mean(1, 2.5) == [1, 2.5]
    assert torch.equal(torch.stack(distributed.moments(x)), torch.stack([x.mean(), x.std()]))
    assert distributed.agreed(True)
    assert not distributed.agreed(False)
    assert (distributed.gather(3), distributed.shared(3)) == ([], 3)
