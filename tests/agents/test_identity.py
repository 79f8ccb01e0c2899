"""Every algorithm solves Stable-Baselines3's identity environments: repeat what you see, on every action space."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.envs import (
    IdentityEnv,
    IdentityEnvBox,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
)

import agents
from agents.core.evaluation import evaluate

ENVIRONMENTS = {
    "discrete": lambda: IdentityEnv(3),
    "box": lambda: IdentityEnvBox(eps=0.5),
    "multi-discrete": lambda: IdentityEnvMultiDiscrete(2),
    "multi-binary": lambda: IdentityEnvMultiBinary(2),
}
# With gamma = 0 every step is a bandit's.
SETTINGS = {
    "trpo": (8, 8_000, {"n_steps": 64, "critic_epochs": 2}),
    "a2c": (8, 8_000, {"learning_rate": 3e-3}),
    "qac": (8, 12_000, {"variant": "qac", "learning_rate": 3e-3, "entropy_coef": 0.05}),
    "off-policy": (8, 6_000, {"variant": "off-policy", "learning_rate": 3e-3, "batch_size": 128, "n_steps": 4}),
    "ddpg": (
        4,
        1_600,
        {
            "hidden": (32,),
            "learning_starts": 300,
            "batch_size": 64,
            "critic_lr": 3e-3,
            "tau": 0.02,
        },
    ),
}


def seeded(make, seed):
    env = make()
    env.action_space.seed(seed)
    return env


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("space", ENVIRONMENTS)
def test_repeats_what_it_sees(name, space):
    make = ENVIRONMENTS[space]
    num_envs, steps, settings = SETTINGS[name]
    env = SyncVectorEnv([lambda i=i: seeded(make, i) for i in range(num_envs)], autoreset_mode=AutoresetMode.DISABLED)
    algorithm = name if name in ("trpo", "ddpg") else "actor-critic"
    agent = agents.make(algorithm, env, seed=0, gamma=0.0, **settings).learn(steps)
    held_out = SyncVectorEnv([lambda: seeded(make, 99)], autoreset_mode=AutoresetMode.DISABLED)
    assert evaluate(agent, held_out, 1).returns.mean() > 90


def test_ddpg_trusts_its_critic_s_values_on_a_seed_where_the_slope_at_the_choice_misleads():
    num_envs, steps, settings = SETTINGS["ddpg"]
    env = SyncVectorEnv(
        [lambda i=i: seeded(ENVIRONMENTS["discrete"], 1000 + i) for i in range(num_envs)],
        autoreset_mode=AutoresetMode.DISABLED,
    )
    agent = agents.DDPG(env, seed=1, gamma=0.0, **settings).learn(steps)
    assert agent.predict(np.arange(3), deterministic=True)[0].tolist() == [0, 1, 2]
