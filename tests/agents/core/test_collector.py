"""The collector gives the same transitions however an environment resets itself, and stops at bad numbers."""

import contextlib
import itertools

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from agents.core.buffer import Buffer, Field, Ragged
from agents.core.collector import Collector, autoreset_mode, transition_schema
from agents.core.errors import EnvironmentFailure
from agents.core.spaces import flatten
from agents.core.tasks import EVALUATION_SEEDS, TaskSampler
from tests.agents.toys import Counting, CountingActor, Fixed, sum_of, vector

MODES = list(AutoresetMode)


def collector_of(env, actor=None, rows=64, episodes=False, **kwargs):
    actor = actor or CountingActor()
    schema = {"action": Field((), torch.int64)} if not hasattr(actor, "schema") else actor.schema()
    buffer = Buffer(transition_schema(env, schema, episodes=episodes), rows, env.num_envs)
    return Collector(env, actor, buffer, **kwargs)


def plain(value):
    """An observation leaf as something that can be compared."""
    return value.encode() if isinstance(value, str) else np.asarray(value).tobytes()


def transitions(batch, num_envs):
    """The valid rows of each environment in order, as tuples of plain values."""
    columns = {}
    for name, value in batch.items():
        rows = value.rows() if isinstance(value, Ragged) else list(value.flatten(0, 1))
        columns[name] = [np.asarray(row) for row in rows]
    valid = columns.pop("valid", [np.array(1)] * len(columns["action"]))
    names = sorted(columns)
    found = [[] for _ in range(num_envs)]
    for k in range(len(valid)):
        if valid[k]:
            found[k % num_envs].append(tuple((name, columns[name][k].tobytes()) for name in names))
    return found


def simulated(form, base, steps):
    """What `Counting` and `CountingActor` do together, without any vector environment."""
    env, actor, out = Counting(form), CountingActor(), []
    numbers = Counting("box")
    obs, _ = env.reset(seed=base)
    numbers.reset(seed=base)
    for _ in range(steps):
        action = int(actor.act(torch.from_numpy(numbers.observe())[None], np.zeros(1))["action"])
        next_obs, reward, terminated, truncated, _ = env.step(action)
        numbers.step(action)
        row = {"action": np.int64(action), "reward": np.float32(reward)}
        row |= {"terminated": np.float32(terminated), "truncated": np.float32(truncated)}
        named = {k: plain(v) for k, v in flatten(env.observation_space, obs, "obs").items()}
        named |= {k: plain(v) for k, v in flatten(env.observation_space, next_obs, "next_obs").items()}
        out.append(tuple(sorted({**{k: plain(v) for k, v in row.items()}, **named}.items())))
        obs = next_obs
        if terminated or truncated:
            obs, _ = env.reset()
            numbers.reset()
    return out


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("form", ["box", "dict", "text"])
def test_every_autoreset_mode_gives_the_true_transitions(form, mode):
    env = vector(lambda: Counting(form), 3, mode)
    collector = collector_of(env, seed=7)
    count, finished, going = collector.collect(40)
    found = transitions(collector.buffer.rollout(), 3)
    bases = [env.envs[i].base for i in range(3)]
    assert len(set(bases)) == 3
    for i, base in enumerate(bases):
        assert found[i] == simulated(form, base, len(found[i]))
    assert count == sum(map(len, found))
    assert going
    dones = sum(e.episode + (e.t >= 1 + (e.base + e.episode) % 4) for e in env.envs)
    assert len(finished) == (dones if mode is not AutoresetMode.DISABLED else sum(e.episode for e in env.envs))
    if mode is AutoresetMode.NEXT_STEP:
        assert count < 3 * 40  # its resets take steps
    else:
        assert count == 3 * 40


@pytest.mark.parametrize("form", ["box", "dict"])
def test_asynchronous_environments_give_the_same(form):
    # Gymnasium's shared memory garbles Text.
    other = AsyncVectorEnv(
        [lambda: Counting(form)] * 2, autoreset_mode=AutoresetMode.DISABLED, shared_memory=form == "box"
    )
    found = []
    with contextlib.closing(other):
        for env in (vector(lambda: Counting(form), 2), other):
            collector = collector_of(env, seed=3)
            collector.collect(20)
            found.append(transitions(collector.buffer.rollout(), 2))
    assert found[0] == found[1]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_episode_starts_and_statistics(mode):
    env = vector(Counting, 3, mode)
    collector = collector_of(env, seed=1)
    _, finished, _ = collector.collect(30)
    batch = collector.buffer.rollout()
    starts = torch.from_numpy(np.stack(collector.actor.starts))
    valid = batch["valid"] > 0 if "valid" in batch else torch.ones_like(starts)
    assert torch.equal(starts[valid], (batch.obs[..., 2] == 0)[valid])  # the step number in the observation
    expected = []
    for i in range(3):
        ret, length = 0.0, 0
        for t in range(30):
            if valid[t, i]:
                ret, length = ret + float(batch["reward"][t, i]), length + 1
                if batch["terminated"][t, i] or batch["truncated"][t, i]:
                    expected.append((ret, length))
                    ret, length = 0.0, 0
    assert sorted((e["r"], e["l"]) for e in finished) == sorted(expected)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_unfinished_episodes_go_on_in_the_next_collection(mode):
    whole = collector_of(vector(Counting, 3, mode), seed=5)
    _, episodes, _ = whole.collect(24)
    parts = collector_of(vector(Counting, 3, mode), seed=5)
    found, finished = [[] for _ in range(3)], []
    for rows in (1, 2, 3, 5, 6, 7):
        parts.buffer.clear()
        finished += parts.collect(rows)[1]
        for i, piece in enumerate(transitions(parts.buffer.rollout(), 3)):
            found[i] += piece
    assert found == transitions(whole.buffer.rollout(), 3)
    assert finished == episodes


def test_a_callback_ends_the_collection_after_its_step():
    collector = collector_of(vector(Counting, 2))
    seen = []
    count, _, going = collector.collect(10, lambda step: seen.append(step) or len(seen) < 4)
    assert (count, going, len(collector.buffer)) == (8, False, 4)
    assert all({"rewards", "dones", "infos", "num_steps"} <= step.keys() for step in seen)
    assert [step["num_steps"] for step in seen] == [2] * 4


def test_a_restored_collector_goes_on():
    one = collector_of(vector(lambda: Counting("dict"), 2), tasks=TaskSampler(2, seed=4), episodes=True)
    one.collect(7)
    other = collector_of(one.env, tasks=TaskSampler(2), episodes=True)
    other.load_state_dict(one.state_dict())
    other.collect(5)
    fresh = collector_of(vector(lambda: Counting("dict"), 2), tasks=TaskSampler(2, seed=4), episodes=True)
    fresh.collect(7)
    fresh.buffer.clear()
    fresh.collect(5)
    assert transitions(other.buffer.rollout(), 2) == transitions(fresh.buffer.rollout(), 2)


# --- groups ---------------------------------------------------------------------------------------------------------


def test_a_group_starts_from_one_seed():
    env = vector(Counting, 4)
    collector = collector_of(env, tasks=TaskSampler(3, seed=0), episodes=True)
    collector.collect(60)
    episodes = collector.buffer.episodes()
    firsts = episodes.length.cumsum(0) - episodes.length
    first_obs = episodes.steps.obs[firsts]
    sizes = {}
    for group, obs in zip(episodes.group_id.tolist(), first_obs.tolist(), strict=True):
        sizes.setdefault(group, []).append(tuple(obs))
    assert max(map(len, sizes.values())) == 3
    assert all(len(set(same)) == 1 for same in sizes.values())
    assert len({same[0] for same in sizes.values()}) > 0.9 * len(sizes)
    # Whole episodes: the step number runs from 0 to the length, and only the last step ends.
    for first, length in zip(firsts.tolist(), episodes.length.tolist(), strict=True):
        steps = episodes.steps.take(torch.arange(first, first + length))
        assert steps.obs[:, 2].tolist() == list(range(length))
        ended = (steps["terminated"] + steps["truncated"]).tolist()
        assert ended == [0.0] * (length - 1) + [1.0]
    assert torch.equal(episodes.steps["episode_id"], episodes.episode_id[episodes.segment])
    # A handful of episodes may still run; every earlier group is complete.
    assert all(len(sizes.get(group, ())) == 3 for group in range(max(sizes) - 4))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_groups_are_refused_where_the_environment_resets_itself(mode):
    with pytest.raises(ValueError, match=r"envs\.make_vec"):
        collector_of(vector(Counting, 2, mode), tasks=TaskSampler(2), episodes=True)


def test_task_seeds_stay_below_evaluation_seeds_and_follow_from_the_seed():
    def draw(seed):
        sampler = TaskSampler(2, seed=seed)
        return [sampler.next() for _ in range(200)]

    tasks = draw(0)
    assert tasks == draw(0) != draw(1)
    assert all(0 <= task.seed < EVALUATION_SEEDS for task in tasks)
    assert [task.group_id for task in tasks] == [k // 2 for k in range(200)]
    assert all(a.seed == b.seed for a, b in zip(tasks[::2], tasks[1::2], strict=True))
    sampler, other = TaskSampler(3, seed=5), TaskSampler(3)
    for _ in range(4):
        sampler.next()
    other.load_state_dict(sampler.state_dict())
    assert [sampler.next() for _ in range(9)] == [other.next() for _ in range(9)]
    with pytest.raises(ValueError, match="group_size"):
        TaskSampler(0)


def test_first_seeds_never_meet_evaluation_seeds():
    env = vector(Counting, 5)
    seen = []
    reset = env.reset
    env.reset = lambda seed=None, options=None: seen.append(seed) or reset(seed=seed, options=options)
    for seed in range(20):
        collector_of(env, seed=seed).reset()
    flat = list(itertools.chain.from_iterable(seen))
    assert len(set(flat)) == 100
    assert all(0 <= s < EVALUATION_SEEDS for s in flat)


# --- actions --------------------------------------------------------------------------------------------------------


class Wide:
    """Samples far beyond the bounds."""

    device = torch.device("cpu")

    def act(self, obs, episode_start):
        return {"action": torch.full((len(obs), 2), 7.0)}

    def to_env(self, action, obs):
        return action.clamp(-1, 1).numpy()

    def schema(self):
        return {"action": Field((2,))}


def test_actions_are_stored_as_sampled_and_taken_as_clipped():
    box = spaces.Box(-1, 1, (2,))
    env = vector(lambda: Fixed(box, box), 2)
    collector = collector_of(env, Wide())
    collector.collect(3)
    assert bool((collector.buffer.rollout()["action"] == 7.0).all())
    assert all((action == 1.0).all() for e in env.envs for action in e.actions)


# --- failures -------------------------------------------------------------------------------------------------------


class Failing(Counting):
    """Goes wrong in its third step."""

    def __init__(self, how, value=np.nan, form="box"):
        super().__init__(form)
        self.how, self.value = how, value

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        if self.episode * 100 + self.t == 2:
            if self.how == "crash":
                raise KeyError("lost")
            if self.how == "reward":
                reward = self.value
            else:
                (obs if self.form == "box" else obs["numbers"])[1] = self.value
        return obs, reward, terminated, truncated, info


def failing_env(mode, **kwargs):
    """Environment 1 of 3 fails."""
    return SyncVectorEnv([Counting, lambda: Failing(**kwargs), Counting], autoreset_mode=mode)


def seed_where_the_first_episode_lasts(steps):
    """A collector seed that makes environment 1's first episode exactly so long."""
    for seed in range(100):
        env = vector(Counting, 3)
        collector_of(env, seed=seed).reset()
        if 1 + env.envs[1].base % 4 == steps:
            return seed
    raise AssertionError


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("how", ["reward", "observation"])
def test_numbers_that_are_not_finite_name_environment_and_step(mode, last, value, how):
    collector = collector_of(
        failing_env(mode, how=how, value=value), seed=seed_where_the_first_episode_lasts(2 if last else 3)
    )
    with pytest.raises(EnvironmentFailure, match=rf"environment 1 returned a {how} of {value} at step 1 \(step 1 "):
        collector.collect(10)
    assert len(collector.buffer) == 1  # the row before is whole


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_numbers_too_large_to_store_are_found(what):
    class Large(Fixed):
        def step(self, action):
            obs, reward, *rest = super().step(action)
            return (obs + 1e39, reward, *rest) if what == "observation" else (obs, 1e39, *rest)

    env = vector(lambda: Large(spaces.Box(-np.inf, np.inf, (2,), np.float64), spaces.Discrete(3)), 2)
    with pytest.raises(EnvironmentFailure, match=rf"environment 0 returned a {what} of 1e\+39 at step 0"):
        collector_of(env).collect(3)


def test_environments_whose_class_tells_of_another_autoreset_mode():
    """As before Gymnasium 1.4, where all of a class share their metadata and the last one made has written them."""
    env = vector(Counting, 2, AutoresetMode.DISABLED)
    env.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
    assert autoreset_mode(env) is AutoresetMode.DISABLED


def test_fresh_episodes_can_begin_at_any_time():
    collector = collector_of(vector(Counting, 2))
    collector.collect(5)
    collector.reset()
    assert collector.episode_start.all()
    collector.collect(5)


def test_bad_numbers_inside_a_dict_are_found():
    env = SyncVectorEnv(
        [lambda: Counting("dict"), lambda: Failing("observation", form="dict")], autoreset_mode=AutoresetMode.DISABLED
    )
    with pytest.raises(EnvironmentFailure, match="environment 1 returned a observation of nan"):
        collector_of(env, seed=seed_where_the_first_episode_lasts(3)).collect(10)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_a_crash_names_the_step_and_the_error(mode):
    collector = collector_of(failing_env(mode, how="crash"), seed=seed_where_the_first_episode_lasts(3))
    with pytest.raises(EnvironmentFailure, match="crashed at step 1: KeyError: 'lost'"):
        collector.collect(10)


def test_an_environment_that_says_nothing_resets_in_the_next_step():
    env = vector(Counting, 1)
    env.metadata = {}
    assert autoreset_mode(env) is AutoresetMode.NEXT_STEP
    env.metadata = {"autoreset_mode": "Disabled"}
    assert autoreset_mode(env) is AutoresetMode.DISABLED


def test_what_the_actor_sees_is_what_is_stored():
    class Watching(CountingActor):
        seen: list = []

        def act(self, obs, episode_start):
            self.seen.append(sum_of(obs).clone())
            return super().act(obs, episode_start)

    collector = collector_of(vector(lambda: Counting("text"), 2), Watching())
    collector.collect(6)
    stored = sum_of(collector.buffer.rollout()["obs"])
    assert torch.equal(torch.cat(Watching.seen), stored)
