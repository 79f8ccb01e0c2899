"""Saved states of classic control continue bit for bit; what cannot be known is not pretended."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeAwareObservation
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import envs
from envs.state import get_state, set_state

CLASSIC = ["Acrobot-v1", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"]
GRIDS = ["CliffWalking-v1", "FrozenLake-v1", "Taxi-v4"]


def rollout(env, actions, done):
    seen = []
    for action in actions:
        if done.any():
            seen.append(env.reset(options={"reset_mask": done})[0].tobytes())
        obs, reward, terminated, truncated, _ = env.step(action)
        seen += [array.tobytes() for array in (obs, reward, terminated, truncated)]
        done = terminated | truncated
    return seen, done


@pytest.mark.parametrize("id", [*CLASSIC, *GRIDS, "Hopper-v5"])
def test_a_restored_environment_continues_bit_for_bit(id):
    env, fresh = (envs.make_vec(id, 3, max_episode_steps=30) for _ in range(2))
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(90)]
    for cut in (0, 1, 12, 30):
        env.reset(seed=cut)
        _, done = rollout(env, actions[:cut], np.zeros(3, dtype=bool))
        state = get_state(env)
        assert {array.dtype.kind for array in state.values()} <= set("fiub")
        expected, _ = rollout(env, actions[cut : cut + 40], done)
        fresh.reset(seed=99)
        set_state(fresh, state)
        assert rollout(fresh, actions[cut : cut + 40], done)[0] == expected
        assert get_state(fresh).keys() == state.keys()


class Walk(gym.Env):
    """One's own: a random walk seen as a Dict, which can give what it holds."""

    observation_space = gym.spaces.Dict({"at": gym.spaces.Box(-99, 99, (2,), np.float32), "n": gym.spaces.Discrete(9)})
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.normal(size=2)
        return self.seen(), {}

    def step(self, action):
        self.at = self.at + self.np_random.normal(size=2) + action
        return self.seen(), float(self.at[0]), bool(abs(self.at[1]) > 4), False, {}

    def seen(self):
        return {"at": self.at.astype(np.float32), "n": int(abs(self.at[0])) % 9}

    def get_state(self):
        return {"at": getattr(self, "at", np.zeros(2))}

    def set_state(self, state):
        self.at = np.array(state["at"])


@pytest.mark.parametrize("limit", [None, 7])
def test_an_environment_of_one_s_own_that_gives_its_state_goes_on_bit_for_bit(limit):
    gym.register("test/Walk-v0", Walk, max_episode_steps=limit)
    try:
        env, fresh = (envs.make_vec("test/Walk-v0", 3) for _ in range(2))
        env.reset(seed=1)
        actions = [env.action_space.sample() for _ in range(30)]
        done = walk(env, actions[:11], np.zeros(3, dtype=bool))[1]
        state = get_state(env)
        assert {array.dtype.kind for array in state.values()} <= set("fiub")
        expected, _ = walk(env, actions[11:], done)
        set_state(fresh, state)
        assert walk(fresh, actions[11:], done)[0] == expected
    finally:
        del gym.registry["test/Walk-v0"]


def test_blackjack_goes_on_bit_for_bit():
    env, fresh = (envs.make_vec("Blackjack-v1", 5) for _ in range(2))
    set_state(fresh, get_state(env))
    env.reset(seed=1)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(40)]
    done = deal(env, actions[:13], np.zeros(5, dtype=bool))[1]
    state = get_state(env)
    expected, _ = deal(env, actions[13:], done)
    set_state(fresh, state)
    tables = [one.unwrapped for one in fresh.envs]
    assert all(type(card) is int for table in tables for card in table.player + table.dealer)
    assert deal(fresh, actions[13:], done)[0] == expected
    shown = [[one.unwrapped.dealer_top_card_suit + one.unwrapped.dealer_top_card_value_str for one in each.envs]
             for each in (env, fresh)]  # fmt: skip
    assert shown[0] == shown[1]


def deal(env, actions, done):
    seen = []
    for action in actions:
        if done.any():
            seen += [part.tobytes() for part in env.reset(options={"reset_mask": done})[0]]
        obs, reward, terminated, truncated, _ = env.step(action)
        seen += [part.tobytes() for part in (*obs, reward, terminated, truncated)]
        done = terminated | truncated
    return seen, done


def walk(env, actions, done):
    seen = []
    for action in actions:
        if done.any():
            obs = env.reset(options={"reset_mask": done})[0]
            seen += [obs["at"].tobytes(), obs["n"].tobytes()]
        obs, reward, terminated, truncated, _ = env.step(action)
        seen += [array.tobytes() for array in (obs["at"], obs["n"], reward, terminated, truncated)]
        done = terminated | truncated
    return seen, done


@pytest.mark.parametrize("id", [*CLASSIC, *GRIDS])
def test_an_environment_that_was_never_reset_goes_on_too(id):
    env, fresh = (envs.make_vec(id, 2) for _ in range(2))
    env.reset(seed=3)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(9)]
    done = rollout(env, actions[:4], np.zeros(2, dtype=bool))[1]
    set_state(fresh, get_state(env))
    assert rollout(fresh, actions[4:], done)[0] == rollout(env, actions[4:], done)[0]


@pytest.mark.parametrize("id", ["HalfCheetah-v4", "Hopper-v5", "gui/click-button-v0", "gui/enter-text-v0"])
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_of_an_environment_goes_on_alike_and_apart(id, copier):
    env = envs.make_vec(id, 3)
    env.action_space.seed(0)
    env.reset(seed=4)
    other = copier(env)
    assert other.spec == env.spec
    actions = [env.action_space.sample() for _ in range(6)]
    assert str(other.action_space.sample()) == str(actions[0])
    expected = step_all(env, actions)
    assert step_all(other, actions) == expected


def step_all(env, actions):
    seen = []
    for action in actions:
        obs, *rest, _ = env.step(action)
        done = rest[1] | rest[2]
        if done.any():
            obs, _ = env.reset(options={"reset_mask": done})
        parts = obs.values() if isinstance(obs, dict) else [obs]
        seen += [part.tobytes() if isinstance(part, np.ndarray) else part for part in (*parts, *rest)]
    return seen


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_of_a_screen_goes_on_alike_and_apart(copier):
    env = gym.make("gui/check-boxes-v0").unwrapped
    env.reset(seed=4)
    env.step(env.demonstrate())
    other = copier(env)
    for _ in range(3):
        action = env.demonstrate()
        if action is None:
            break
        (one, *rest), (two, *others) = env.step(action)[:4], other.step(action)[:4]
        assert np.array_equal(one["screenshot"], two["screenshot"])
        assert rest == others
    assert np.array_equal(env.reset()[0]["screenshot"], other.reset()[0]["screenshot"])


@pytest.mark.parametrize("id", CLASSIC)
def test_before_the_first_reset(id):
    env, fresh = (envs.make_vec(id, 2) for _ in range(2))
    set_state(fresh, get_state(env))
    assert fresh.reset()[0].tobytes() == env.reset()[0].tobytes()


def test_unknown_environments_have_no_state():
    unknown = [
        envs.make_vec("CartPole-v1", 2, wrappers=[TimeAwareObservation]),
        RecordEpisodeStatistics(envs.make_vec("CartPole-v1", 2)),
        RecordEpisodeStatistics(envs.make_vec("Swimmer-v5", 2)),
        gym.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point"),
    ]
    known = get_state(envs.make_vec("CartPole-v1", 2))
    for env in unknown:
        assert get_state(env) is None
        with pytest.raises(TypeError, match="cannot be restored"):
            set_state(env, known)


def test_a_state_that_does_not_fit_is_refused():
    env = envs.make_vec("CartPole-v1", 2)
    for other in (envs.make_vec("CartPole-v1", 3), envs.make_vec("Pendulum-v1", 2)):
        with pytest.raises(ValueError, match="does not fit"):
            set_state(env, get_state(other))
