"""Every algorithm on screenshots with an instruction, through every kind of encoder."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

import agents
import envs
from agents.core.buffer import Batch, Ragged
from agents.encoders import make_encoder, save_encoder
from agents.policies import StochasticPolicy
from agents.policies.stochastic import MOST_SCREENS
from agents.policies.value import map_split, merge_steps, next_values, take_rows
from tests.agents.toys import Fixed, vector
from tests.experiments.screens import Squares

SETTINGS = {
    "actor-critic": {"n_steps": 3},
    "trpo": {"n_steps": 4, "cg_iterations": 2, "critic_epochs": 1},
    "kimi": {"group_size": 2, "groups_per_iteration": 2},
    "ddpg": {"buffer_size": 100, "learning_starts": 6, "batch_size": 8, "hidden": (16,)},
}
each_algorithm = pytest.mark.parametrize("name", SETTINGS)


def make(name, encoder, **more):
    """On episodes of three random screens and texts each, where action 0 is right."""
    space = Squares().observation_space
    env = vector(lambda: Fixed(space, spaces.Discrete(3), length=3), 4)
    return agents.make(name, env, seed=1, encoder=encoder, **{**SETTINGS[name], **more})


def weights(agent):
    return {k: v.clone() for k, v in agent.policy.state_dict().items() if isinstance(v, torch.Tensor)}


@pytest.mark.parametrize("encoder", ["cnn", "vit"])
@each_algorithm
def test_towers_learn_and_come_back_from_a_checkpoint(name, encoder, tmp_path):
    agent = make(name, encoder)
    before = weights(agent)
    agent.learn(24)
    changed = {key for key, value in agent.policy.state_dict().items() if not torch.equal(value, before[key])}
    for tower in ("obs_screenshot", "obs_instruction"):
        assert any(tower in key for key in changed), tower
    again = agents.load(agent.save(tmp_path / "agent"))
    obs, _ = vector(Squares, 4).reset(seed=5)
    action, _ = agent.predict(obs, deterministic=True)
    assert np.array_equal(again.predict(obs, deterministic=True)[0], action)
    one = {"instruction": obs["instruction"][2], "screenshot": obs["screenshot"][2]}
    assert agent.predict(one, deterministic=True)[0] == action[2]


@each_algorithm
def test_a_frozen_encoder_stays_what_was_pretrained(name, tmp_path):
    path = save_encoder(make_encoder(Squares().observation_space, "siglip"), tmp_path / "encoder")
    agent = make(name, str(path), freeze_encoder=True)
    before = weights(agent)
    agent.learn(24)
    after = agent.policy.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith("encoder."))
    assert any(not torch.equal(after[key], before[key]) for key in before if not key.startswith("encoder."))


@each_algorithm
def test_a_checkpoint_needs_no_file_of_an_encoder(name, tmp_path):
    path = save_encoder(make_encoder(Squares().observation_space, "vit"), tmp_path / "encoder")
    agent = make(name, str(path))
    saved = agent.save(tmp_path / "agent")
    path.unlink()
    obs, _ = vector(Squares, 4).reset(seed=5)
    again = agents.load(agents.load(saved).save(tmp_path / "again"))
    expected, _ = agent.predict(obs, deterministic=True)
    assert np.array_equal(again.predict(obs, deterministic=True)[0], expected)


def test_resuming_is_exact(tmp_path):
    def clicks():
        return envs.make_vec("gui/click-button-v0", num_envs=2, actions="grid")

    settings = {"seed": 0, "encoder": "cnn", "n_steps": 2}
    whole = agents.ActorCritic(clicks(), **settings).learn(16)
    half = agents.ActorCritic(clicks(), **settings).learn(8)
    again = agents.load(half.save(tmp_path / "half", exact=True), clicks())
    assert again.restored_exactly
    again.learn(8, reset_num_timesteps=False)
    expected, found = weights(whole), weights(again)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_what_does_not_see_is_refused():
    with pytest.raises(ValueError, match="'vit' sees images"):
        agents.TRPO("CartPole-v1", encoder="vit")


# --- text among the observation's leaves ----------------------------------------------------------------------------


def observations(T=3, N=2):
    """Row i holds the number i and i bytes of it, as a rollout stores them."""
    rows = [torch.full((i,), i, dtype=torch.uint8) for i in range(T * N)]
    return {"x": torch.arange(float(T * N)).view(T, N), "text": Ragged.of(rows, torch.uint8)}


def told(obs):
    texts = [row.tolist() for row in obs["text"].rows()]
    assert texts == [[int(x)] * int(x) for x in obs["x"]]
    return obs["x"]


def test_text_keeps_to_its_row():
    flat = merge_steps(observations())
    assert told(flat).tolist() == [0, 1, 2, 3, 4, 5]
    assert told(take_rows(flat, torch.tensor([5, 0, 3]))).tolist() == [5, 0, 3]
    assert [told(part).tolist() for part in map_split(flat, 4)] == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize("cut", [False, True])
def test_next_values_of_text(cut):
    truncated = torch.zeros(3, 2)
    truncated[0, 1] = float(cut)
    named = {f"next_obs.{name}": value for name, value in observations().items()}
    rollout = Batch({**named, "terminated": torch.zeros(3, 2), "truncated": truncated})
    values = -torch.ones(3, 2)
    found = next_values(lambda obs: told(obs), values, rollout)
    assert found.tolist() == [[-1, 1 if cut else -1], [-1, -1], [4, 5]]


def test_segments_stay_whole_in_micro_batches():
    policy = StochasticPolicy(Squares().observation_space, spaces.Discrete(3))
    lengths = torch.tensor([100, 100, 100, 2 * MOST_SCREENS + 3, 5, 200, 1])
    segment = torch.repeat_interleave(torch.arange(7), lengths)
    parts = policy.micro_batches(Batch(), segment)
    assert torch.cat(parts).tolist() == list(range(7))
    assert all(len(part) for part in parts)
    for part in parts:
        assert int(lengths[part[:-1]].sum()) < MOST_SCREENS
