"""The task sampler: how often it draws what, how it keeps groups, and that it goes on where it stopped."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.core import checkpoint
from agents.core.buffer import Buffer, Field
from agents.core.collector import Collector, transition_schema
from agents.core.tasks import EVALUATION_SEEDS, FLOOR, MEMORY, TaskSampler
from tests.agents.toys import vector


def play(sampler, successes=0):
    """One whole group, from its first episode to its record; its task."""
    tasks = [sampler.next() for _ in range(sampler.group_size)]
    assert len(set(tasks)) == 1
    for task in tasks:
        sampler.finish(task.group_id)
    sampler.record(tasks[0].group_id, successes)
    return tasks[0]


@pytest.mark.parametrize("levels", [None, (2, 5)])
@pytest.mark.parametrize("pool", [0, 7])
@pytest.mark.parametrize("sampling", ["uniform", "curriculum", "prioritised"])
def test_every_task_is_a_training_task_of_its_levels_and_pool(sampling, pool, levels):
    if levels is None and (sampling == "curriculum" or (sampling == "prioritised" and not pool)):
        with pytest.raises(ValueError, match="levels of difficulty"):
            TaskSampler(2, sampling=sampling, levels=levels, pool=pool).next()
        return
    sampler = TaskSampler(2, seed=1, sampling=sampling, levels=levels, pool=pool)
    tasks = [play(sampler, successes=2) for _ in range(300)]
    assert [task.group_id for task in tasks] == list(range(300))
    seeds = {task.seed for task in tasks}
    assert all(0 <= seed < EVALUATION_SEEDS for seed in seeds)
    assert len(seeds) == (pool or 300)
    assert {task.difficulty for task in tasks} == ({None} if levels is None else {2, 3, 4, 5})


def test_uniform_levels_are_uniform():
    sampler = TaskSampler(1, levels=(3, 6))
    count = np.bincount([play(sampler).difficulty - 3 for _ in range(4000)], minlength=4)
    assert np.abs(count - 1000).max() < 5 * np.sqrt(750)


def test_success_rates_fade_by_a_closed_form():
    sampler = TaskSampler(4, levels=(1, 1))
    assert sampler.success_rate(1) == 0.0
    for successes in (1, 4, 2):
        play(sampler, successes)
    won, played = MEMORY * (MEMORY * 1 + 4) + 2, MEMORY * (MEMORY * 4 + 4) + 4
    assert sampler.success_rate(1) == pytest.approx(won / played)


@pytest.mark.parametrize("by", ["levels", "pool"])
def test_prioritised_is_in_proportion_to_failure(by):
    buckets = {"levels": (0, 3)} if by == "levels" else {"pool": 4}
    sampler = TaskSampler(4, seed=3, sampling="prioritised", **buckets)
    # Success rates 0, 1/4, 1/2, 1 held fixed: each bucket always succeeds equally often.
    wins = np.array([0, 1, 2, 4])
    bucket = {int(seed): i for i, seed in enumerate(sampler.pool)}
    count = np.zeros(4)
    for k in range(6000):
        tasks = [sampler.next() for _ in range(4)]
        i = tasks[0].difficulty if by == "levels" else bucket[tasks[0].seed]
        sampler.record(tasks[0].group_id, int(wins[i]))
        count[i] += k >= 100
    expected = np.array([1.0, 0.75, 0.5, FLOOR])
    expected *= 5900 / expected.sum()
    assert (np.abs(count - expected) < 5 * np.sqrt(expected)).all()


def test_a_curriculum_climbs_when_the_hardest_open_level_is_solved():
    sampler = TaskSampler(5, sampling="curriculum", levels=(1, 3))
    assert {play(sampler, 3).difficulty for _ in range(50)} == {1}  # a rate of 0.6 is not enough
    while sampler.level == 0:
        assert play(sampler, 5).difficulty == 1
    # Level 1 fails again, but what is open stays open; level 3 stays shut until 2 is solved.
    seen = [sampler.next().difficulty for _ in range(500)]
    assert set(seen) == {1, 2}
    for group in sampler.whole_groups():
        sampler.record(group, 0)
    while sampler.level == 1:
        task = sampler.next()
        sampler.record(task.group_id, 5 if task.difficulty == 2 else 0)
        sampler._left = 0
    assert {play(sampler, 5).difficulty for _ in range(200)} == {1, 2, 3}
    assert sampler.level == 2


def test_groups_are_whole_when_their_last_episode_ends():
    sampler = TaskSampler(2)
    for _ in range(6):
        sampler.next()
    for group in (1, 2, 0, 1):
        sampler.finish(group)
    assert sampler.whole_groups() == [1]
    assert sampler.whole_groups(in_order=True) == []
    sampler.finish(0)
    assert sampler.whole_groups() == sampler.whole_groups(in_order=True) == [0, 1]
    sampler.finish(2)
    sampler.record(0, 1)
    assert sampler.whole_groups() == [1, 2]
    with pytest.raises(KeyError):
        sampler.record(0, 1)


def test_a_restart_drops_what_cannot_be_completed():
    sampler = TaskSampler(3)
    first = sampler.next()
    sampler.restart()
    after = [sampler.next() for _ in range(3)]
    assert {task.group_id for task in after} == {first.group_id + 1}
    sampler.finish(first.group_id)  # an episode of a dropped group may still end
    assert sampler.whole_groups() == []


@pytest.mark.parametrize(
    "options",
    [{}, {"pool": 5, "sampling": "prioritised"}, {"levels": (1, 4), "sampling": "curriculum"}],
    ids=["uniform", "prioritised", "curriculum"],
)
def test_a_restored_sampler_goes_on(options, tmp_path):
    sampler = TaskSampler(3, seed=5, **options)
    for k in range(40):
        play(sampler, k % 4)
    sampler.next()
    sampler.finish(40)
    other = TaskSampler(3, seed=6, **options)
    other.load_state_dict(
        checkpoint.load(checkpoint.save(tmp_path / "tasks", {"tasks": sampler.state_dict()}))["tasks"]
    )

    def go_on(s):
        found = [s.next(), s.next()]
        s.finish(40)
        s.finish(40)
        assert s.whole_groups() == [40]
        s.record(40, 3)
        return found + [play(s, k % 4) for k in range(60)]

    assert go_on(sampler) == go_on(other)


class Dial(gym.Env):
    """The observation is the reset seed's low bits and the difficulty asked for; episodes last `difficulty` steps."""

    def __init__(self):
        self.observation_space, self.action_space = spaces.Box(0, 1e6, (2,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.seed_bits, self.difficulty, self.t = seed % 4096, options["difficulty"], 0
        return np.array([self.seed_bits, self.difficulty], np.float32), {}

    def step(self, action):
        self.t += 1
        obs = np.array([self.seed_bits, self.difficulty], np.float32)
        return obs, 1.0, self.t == self.difficulty, False, {}


class EachItsOwn(gym.vector.VectorWrapper):
    """Difficulties, one an environment, to those environments, as the vector environments of envs/ understand them."""

    def reset(self, *, seed=None, options=None):
        options = dict(options)
        for env, difficulty in zip(self.env.envs, options.pop("difficulty"), strict=True):
            inner = env.reset
            env.reset = lambda seed=None, options=None, f=inner, d=difficulty: f(seed=seed, options={"difficulty": d})
        try:
            return self.env.reset(seed=seed, options=options)
        finally:
            for env in self.env.envs:
                del env.reset


class Passive:
    device = torch.device("cpu")

    def act(self, obs, episode_start):
        return {"action": torch.zeros(len(obs), dtype=torch.int64)}

    def to_env(self, action, obs):
        return action.numpy()


def test_a_group_shares_seed_and_difficulty_in_the_environment():
    env = EachItsOwn(vector(Dial, 4))
    schema = transition_schema(env, {"action": Field((), torch.int64)}, episodes=True)
    sampler = TaskSampler(3, levels=(1, 5))
    collector = Collector(env, Passive(), Buffer(schema, 64, 4), tasks=sampler)
    collector.collect(60, enough=lambda: len(sampler.whole_groups()) >= 9)
    episodes = collector.buffer.episodes()
    first = episodes.steps.obs[episodes.length.cumsum(0) - 1]
    assert torch.equal(first[:, 1].long(), episodes.length)
    whole = sampler.whole_groups()
    assert len(whole) >= 9
    assert collector.steps < 60
    for group in whole:
        rows = first[episodes.group_id == group]
        assert len(rows) == 3
        assert bool((rows == rows[0]).all())
