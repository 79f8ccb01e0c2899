"""Every algorithm with the language policy with eyes: text in answer to a screenshot and an instruction."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import agents
import envs
from agents import cloning
from agents.core.evaluation import evaluate
from tests.agents.policies.test_vision_language import llava, qwen
from tests.agents.toys import vector

SETTINGS: dict[str, dict[str, Any]] = {
    "actor-critic": {"n_steps": 2},
    "trpo": {"n_steps": 2, "cg_iterations": 2, "critic_epochs": 1},
    "kimi": {"group_size": 2, "groups_per_iteration": 2, "skip_equal_groups": False},
}
each_algorithm = pytest.mark.parametrize("name", SETTINGS)


class Lamps(gym.Env):
    """A screen of red, green or blue and noise, and two instructions: say its letter, or say it twice."""

    def __init__(self) -> None:
        image = spaces.Box(0, 255, (40, 40, 3), np.uint8)
        self.observation_space = spaces.Dict({"screenshot": image, "instruction": spaces.Text(8)})
        self.action_space = spaces.Text(8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.colour, self.times = int(self.np_random.integers(3)), int(self.np_random.integers(1, 3))
        self.shot = self.np_random.integers(0, 128, (40, 40, 3), np.uint8)
        self.shot[..., self.colour] += 100
        return self.observe(), {}

    def observe(self) -> dict[str, Any]:
        return {"screenshot": self.shot, "instruction": ("once", "twice")[self.times - 1]}

    @property
    def answer(self) -> str:
        return "rgb"[self.colour] * self.times

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observe(), float(action == self.answer), True, False, {}


def lamps() -> Any:
    env = vector(Lamps, 8)
    env.demonstrate = lambda: [one.unwrapped.answer for one in env.envs]
    return env


def clicks(**more: Any) -> Any:
    return envs.make_vec("gui/click-color-v0", num_envs=4, actions="text", max_steps=2, **more)


@each_algorithm
def test_eyes_learn_and_come_back_from_a_checkpoint(name: str, tmp_path: Any) -> None:
    agent = agents.make(name, clicks(), seed=1, device="cpu", max_tokens=6, **SETTINGS[name])
    if name == "kimi":  # which learns nothing from groups of which none is right
        agent.rewards = lambda episodes: torch.arange(float(len(episodes)))
    before = {key: value.clone() for key, value in agent.policy.named_parameters()}
    agent.learn(16)
    changed = {key for key, p in agent.policy.named_parameters() if not torch.equal(p, before[key])}
    trained = {key for key, p in agent.policy.named_parameters() if p.requires_grad}
    assert any("vision_tower" in key for key in changed)
    assert changed <= trained
    again = agents.load(agent.save(tmp_path / "agent"), device="cpu")
    obs, _ = clicks().reset(seed=5)
    said, _ = agent.predict(obs, deterministic=True)
    assert again.predict(obs, deterministic=True)[0] == said
    one = {"instruction": obs["instruction"][2], "screenshot": obs["screenshot"][2]}
    assert agent.predict(one, deterministic=True)[0] == said[2]


@pytest.mark.parametrize(
    ("name", "fields"), [*((name, {}) for name in SETTINGS), ("kimi", {"token_budget": 10})], ids=str
)
def test_exact_resume(name: str, fields: dict[str, int], tmp_path: Any) -> None:
    settings = {**SETTINGS[name], "seed": 0, "device": "cpu", "max_tokens": 5, **fields}
    whole = agents.make(name, clicks(), **settings).learn(8)
    whole.save(tmp_path / "middle", exact=True)
    whole.learn(8, reset_num_timesteps=False)
    resumed = agents.load(tmp_path / "middle", clicks(), device="cpu")
    assert resumed.restored_exactly
    resumed.learn(8, reset_num_timesteps=False)
    one, other = whole.save(tmp_path / "one", exact=True), resumed.save(tmp_path / "other", exact=True)
    assert one.read_bytes() == other.read_bytes()


def test_what_is_on_the_screen_is_learned_from_demonstrations_and_then_from_rewards() -> None:
    settings = {"group_size": 8, "groups_per_iteration": 4, "minibatch_size": 32, "tau": 0.5, "epochs": 2}
    agent = agents.Kimi(lamps(), seed=0, device="cpu", max_tokens=4, **settings)
    cloning.clone(agent, episodes=320, round_episodes=64, batch_size=16, learning_rate=2e-3)
    shown = evaluate(agent, lamps(), 128).returns.mean()
    agent.learn(32 * 32)
    found = evaluate(agent, lamps(), 128).returns.mean()
    assert 1 / 3 < shown < 0.9 < found  # a blind one is right in a third


def test_a_model_of_transformers_by_path(tmp_path: Any) -> None:
    env, path = lamps(), llava(tmp_path, qwen)
    agent = agents.Kimi(env, model=path, seed=0, device="cpu", max_tokens=3, **SETTINGS["kimi"])
    cloning.clone(agent, episodes=16, batch_size=8)
    agent.learn(8)
    assert isinstance(agent.predict(env.reset(seed=0)[0])[0][0], str)
    again = agents.load(agent.save(tmp_path / "agent"), device="cpu")
    assert all(torch.equal(p, q) for p, q in zip(agent.policy.parameters(), again.policy.parameters(), strict=True))
