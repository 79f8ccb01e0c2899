"""DDPG's actor and critic on screens: relaxed actions there and back, slopes as by hand, what the critic sees."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

import agents
import envs
from agents.core.buffer import Ragged
from agents.core.flat import FlatParameters
from agents.core.spaces import observation_tensors
from agents.encoders import Grid
from agents.policies.relaxed import POSITIONS, Relaxed
from agents.policies.screen_actor import ScreenActor, ScreenCritic, _at, acts_on_screens
from envs.gui import TASKS

POINT = spaces.Box(0.0, 1.0, (2,), np.float32)
TEXT = spaces.Text(3, min_length=0, charset="abcdé \n")
UNION = spaces.OneOf(
    [
        spaces.Dict({"point": POINT}),
        spaces.Dict({"text": TEXT}),
        spaces.Dict({"point": POINT, "way": spaces.Discrete(3, start=5)}),
        spaces.Dict({}),
    ]
)
SCREEN = spaces.Dict({"screen": spaces.Box(0, 255, (20, 28, 3), np.uint8), "say": spaces.Text(40)})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def screens(count, *said):
    texts = [torch.tensor(list(said[i % len(said)].encode()), dtype=torch.uint8) for i in range(count)]
    images = torch.randint(0, 256, (count, 20, 28, 3), dtype=torch.uint8, generator=generator())
    return {"screen": images, "say": Ragged.of(texts, torch.uint8)}


def actor(space=UNION):
    torch.manual_seed(0)
    return ScreenActor(SCREEN, space)


def critic(vector):
    torch.manual_seed(1)
    made = ScreenCritic(SCREEN, vector, hidden=(16,))
    for p in made.net.layers[-1].parameters():
        torch.nn.init.normal_(p)
    return made


@pytest.mark.parametrize("space", [UNION, POINT], ids=["union", "point"])
def test_actions_lie_in_their_space(space):
    policy, obs = actor(space), screens(300, "abé d", "")
    explored = policy.explore(obs, generator(), 0.5, torch.randn(300, policy.dim, generator=generator()))
    for action in (explored, policy.random(300, generator(), obs), policy.predict(obs)):
        assert torch.equal(action, policy.vector.masked(action))
        assert all(space.contains(one) for one in policy.to_env(action, obs))


def test_vectors_hold_what_a_union_does():
    policy, obs = actor(), screens(4, "say abé d")
    actions = [
        (np.int64(0), {"point": np.array([0.25, 1.0], np.float32)}),
        (np.int64(1), {"text": "bé\n"}),
        (np.int64(2), {"point": np.array([0.0, 0.5], np.float32), "way": np.int64(7)}),
        (np.int64(3), {}),
    ]
    vector = policy.from_env(actions, obs)
    columns = {(block.owner, block.part): block.columns for block in policy.vector.blocks}
    assert vector[:, :4].argmax(-1).tolist() == [0, 1, 2, 3]
    assert vector[0, columns[0, "point"]].tolist() == [-0.5, 1.0]
    assert vector[2, columns[2, "point"]].tolist() == [-1.0, 0.0]
    spelt = [int(vector[1, columns[1, part]].argmax()) for part in ("start", "end", "newline")]
    assert spelt == [5, 8, 1]
    assert vector.sum(-1)[[1, 3]].tolist() == [4.0, 1.0]  # one-hot blocks of what belongs to the type
    for found, wanted in zip(policy.to_env(vector, obs), actions, strict=True):
        assert found[0] == wanted[0]
        assert found[1].keys() == wanted[1].keys()
        assert all(np.array_equal(found[1][name], wanted[1][name]) for name in wanted[1])
    with pytest.raises(ValueError, match="'dad' is not in 'say abé d'"):
        policy.from_env([(1, {"text": "dad"})], screens(1, "say abé d"))


@pytest.mark.parametrize("name", sorted(TASKS))
def test_what_oracles_do_survives_vectors(name):
    env = envs.make_vec(f"gui/{name}-v0", num_envs=4)
    policy = ScreenActor(env.single_observation_space, env.single_action_space)
    raw, _ = env.reset(seed=3)
    over, success = np.zeros(4, bool), np.zeros(4, bool)
    while not over.all():
        at = [i for i, one in enumerate(env.demonstrate()) if one is not None]
        wanted = [one for one in env.demonstrate() if one is not None]
        obs = observation_tensors(env.single_observation_space, raw, torch.device("cpu"))
        seen = {k: v.take(torch.tensor(at)) if isinstance(v, Ragged) else v[at] for k, v in obs.items()}
        actions = [None] * 4
        for i, action in zip(at, policy.to_env(policy.from_env(wanted, seen), seen), strict=True):
            actions[i] = action
        raw, reward, terminated, truncated, _ = env.step(actions)
        success |= reward > 0
        over |= terminated | truncated
    assert success.all()


def test_uniform_actions():
    policy, n = actor(), 20_000
    obs = screens(n, "abcd")
    action = policy.random(n, generator(), {"say": obs["say"]})
    share = action[:, :4].mean(0)
    assert bool(((share - 0.25).abs() < 4.5 * (3 / 16 / n) ** 0.5).all())
    _, start, end, newline = (block for block in policy.vector.blocks if block.owner in (-1, 1))
    typed = action[action[:, 1] == 1]
    starts, ends = (typed[:, block.columns].argmax(-1) for block in (start, end))
    count = torch.bincount(starts, minlength=5) / len(typed)
    assert bool(((count - 0.2).abs() < 4.5 * (0.16 / len(typed)) ** 0.5).all())
    assert bool(((starts <= ends) & (ends <= 4)).all())
    assert abs(float(typed[:, newline.columns][:, 1].mean()) - 0.5) < 4.5 * (0.25 / len(typed)) ** 0.5


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_straight_through_is_one_hot_forward_and_soft_backward(temperature):
    policy, obs = actor(), screens(6, "abé d", "d")
    FlatParameters(policy)
    noise, weight = policy.noise(6, generator()), torch.randn(6, policy.dim, generator=generator(1))
    action, backward = policy.with_backward(obs, noise, temperature)
    backward(weight)
    found = [p.grad.clone() for p in policy.parameters()]
    scores = policy.outputs(obs, noise).scores
    soft = []
    for block in policy.vector.blocks:
        part = scores[:, block.columns]
        if block.part == "point":
            assert torch.equal(action[:, block.columns], part)
            soft.append(part)
            continue
        soft.append(((part + noise[:, block.columns]) / temperature).softmax(-1))
        assert torch.equal(action[:, block.columns].argmax(-1), soft[-1].argmax(-1))
        assert bool((action[:, block.columns].sum(-1) == 1).all())
    expected = torch.autograd.grad((torch.cat(soft, -1) * weight).sum(), list(policy.parameters()), allow_unused=True)
    for g, e in zip(found, expected, strict=True):
        torch.testing.assert_close(g, torch.zeros_like(g) if e is None else e, rtol=1e-3, atol=1e-5)


def test_the_critic_sees_no_argument_of_another_type():
    policy, obs = actor(), screens(8, "abé d", "d")
    judge = critic(policy.vector)
    action, _ = policy.with_backward(obs, policy.noise(8, generator()))
    masked = policy.vector.masked(action)
    assert not torch.equal(action, masked)
    torch.testing.assert_close(judge(obs, action), judge(obs, masked))


def test_slopes_are_chords_of_choices_and_tangents_of_points():
    policy, obs = actor(), screens(12, "abé d", "dé", "")
    judge, vector = critic(policy.vector), policy.vector
    action, _ = policy.with_backward(obs, policy.noise(12, generator()))
    kind = torch.arange(12) % 4
    action[:, :4] = torch.eye(4)[kind]
    q, slope = judge.action_gradient(obs, action)
    value = judge(obs, action).detach()
    torch.testing.assert_close(q, value)
    for block in vector.blocks:
        rows = torch.ones(12, dtype=torch.bool) if block.owner < 0 else kind == block.owner
        assert bool((slope[~rows][:, block.columns] == 0).all())
        if block.part == "point":
            varied = action.double().float().requires_grad_()
            (expected,) = torch.autograd.grad(judge(obs, varied).sum(), varied)
            torch.testing.assert_close(slope[rows][:, block.columns], expected[rows][:, block.columns])
            continue
        for j in range(min(block.size, 6)):
            other = action.clone()
            other[:, block.columns] = 0.0
            other[:, block.start + j] = 1.0
            rise = judge(obs, other).detach() - value
            if block.size == POSITIONS:  # of an instruction's bytes, as many as there are
                rows = rows & (obs["say"].lengths >= j)
            torch.testing.assert_close(slope[rows, block.start + j], rise[rows], rtol=1e-4, atol=1e-5)


def test_a_point_has_the_slope_of_differences():
    policy, obs = actor(POINT), screens(5, "a")
    judge = critic(policy.vector).double()
    point = torch.rand(5, 2, generator=generator(), dtype=torch.float64) - 0.5
    action = torch.cat((torch.ones(5, 1, dtype=torch.float64), point), -1)
    seen = judge.sight.float().see(obs)
    seen = type(seen)(
        *(x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in seen.__dict__.values())
    )
    judge.sight.see = lambda obs: seen
    _, slope = judge.action_gradient(obs, action)
    for axis in (1, 2):
        step = torch.zeros_like(action)
        step[:, axis] = 1e-6
        rise = (judge(obs, action + step) - judge(obs, action - step)).detach() / 2e-6
        torch.testing.assert_close(slope[:, axis], rise, rtol=1e-4, atol=1e-7)


def test_the_critic_looks_where_the_point_is():
    """A 20 x 28 screen has 3 x 4 patches of 8 pixels; the middle of patch (row 1, column 2) is at (20, 12)."""
    grid = Grid.over(20, 28, 8)
    patches = torch.arange(12.0)[None, :, None].repeat(3, 1, 2)
    pixels = torch.tensor([[20.0, 12.0], [24.0, 12.0], [0.0, 0.0]])
    found = _at(grid, patches, pixels / torch.tensor([28.0, 20.0]) * 2 - 1)
    torch.testing.assert_close(found[:, 0], torch.tensor([6.0, 6.5, 0.0]))


def test_heat_is_the_attention_that_a_point_is_the_mean_of():
    policy, obs = actor(), screens(2, "a")
    action = policy.from_env([(0, {"point": np.zeros(2, np.float32)}), (3, {})], obs)
    heat, outputs = policy.heat_map(obs, action), policy.outputs(obs)
    assert heat.shape == (2, 20, 28)
    assert not heat[1].any()
    block = next(block for block in outputs.attention if block.owner == 0)
    assert float(heat[0, 0, 0]) == pytest.approx(float(outputs.attention[block][0, 0].detach().exp()))
    assert float(heat[0, -1, -1]) == pytest.approx(float(outputs.attention[block][0, -1].detach().exp()))


def test_an_actor_learns_what_it_is_shown():
    policy, obs = actor(), screens(4, "go left", "say abé d", "go on", "stop")
    corner, middle = np.array([0.9, 0.1], np.float32), np.array([0.5, 0.6], np.float32)
    actions = [(0, {"point": corner}), (1, {"text": "bé\n"}), (2, {"point": middle, "way": 6}), (3, {})]
    wanted = policy.from_env(actions, obs)
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = policy.imitation_loss(obs, wanted).mean()
        loss.backward()
        optimizer.step()
    found = policy.predict(obs)
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=0.1)


def test_who_acts_on_screens():
    assert acts_on_screens(SCREEN, POINT)
    assert acts_on_screens(SCREEN, UNION)
    assert not acts_on_screens(SCREEN, spaces.Discrete(3))
    assert not acts_on_screens(SCREEN, spaces.Box(-1, 1, (2,)))
    assert not acts_on_screens(spaces.Box(-1, 1, (3,)), POINT)
    with pytest.raises(ValueError, match="OneOf of Dict"):
        Relaxed.of(spaces.OneOf([spaces.Discrete(2)]))
    with pytest.raises(ValueError, match="one image"):
        ScreenActor(spaces.Box(-1, 1, (3,)), UNION)


SETTINGS = {"encoder": "reader", "buffer_size": 64, "learning_starts": 8, "batch_size": 4, "hidden": (16,)}


@pytest.mark.parametrize("actions", ["typed", "point"])
def test_resuming_is_exact(actions, tmp_path):
    def clicks():
        return envs.make_vec(
            "gui/enter-text-v0" if actions == "typed" else "gui/click-color-v0", num_envs=2, actions=actions
        )

    settings = {**SETTINGS, "seed": 0, "gradient_steps": 1, "noise": "ou"}
    whole = agents.DDPG(clicks(), **settings).learn(20)
    half = agents.DDPG(clicks(), **settings).learn(14)
    again = agents.load(half.save(tmp_path / "half", exact=True), clicks())
    assert again.restored_exactly
    again.learn(6, reset_num_timesteps=False)
    for mine, theirs in zip(whole.parts().values(), again.parts().values(), strict=True):
        a, b = mine.state_dict(), theirs.state_dict()
        assert all(
            torch.equal(torch.as_tensor(b[key]), torch.as_tensor(a[key]))
            for key in a
            if isinstance(a[key], torch.Tensor)
        )


def test_the_actor_waits_for_its_critic():
    env = envs.make_vec("gui/click-color-v0", num_envs=2, actions="point")
    agent = agents.DDPG(env, seed=0, **{**SETTINGS, "gradient_steps": 1, "actor_starts": 16})
    before = [w.clone() for w in agent.weights]
    agent.learn(14)
    assert torch.equal(agent.weights[0], before[0])
    assert not torch.equal(agent.weights[1], before[1])
    agent.learn(4, reset_num_timesteps=False)
    assert not torch.equal(agent.weights[0], before[0])
