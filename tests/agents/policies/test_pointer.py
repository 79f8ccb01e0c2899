"""The pointer policy: probabilities of tagged actions, points and copied texts, and the algorithms on top of it."""

import itertools

import numpy as np
import pytest
import torch
from gymnasium import spaces

import agents
import envs
from agents.cloning import imitation_losses
from agents.core.buffer import Batch, Ragged
from agents.core.spaces import describe, observation_tensors, rebuild, same
from agents.policies import PolicyConfig, make_policy
from agents.policies.chain import Chain
from agents.policies.pointer import PointerPolicy
from agents.policies.tagged import CELLS, Layout, find
from agents.trpo import fisher_vector_product, flatten
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
SCREEN = spaces.Dict({"screen": spaces.Box(0, 255, (24, 32, 3), np.uint8), "say": spaces.Text(40)})


def made(*said, seed=0, encoder="reader", union=UNION):
    torch.manual_seed(seed)
    policy = PointerPolicy(SCREEN, union, encoder=encoder)
    screens = torch.randint(0, 256, (len(said), 24, 32, 3), dtype=torch.uint8)
    texts = Ragged.of([torch.tensor(list(text.encode()), dtype=torch.uint8) for text in said], torch.uint8)
    return policy, {"screen": screens, "say": texts}


def repeated(obs, count):
    index = torch.zeros(count, dtype=torch.int64)
    return {"screen": obs["screen"][index], "say": obs["say"].take(index)}


def drawn(policy, obs, count=200, seed=0):
    """Many actions on the first observation."""
    obs = repeated(obs, count)
    return policy.act(obs, torch.Generator().manual_seed(seed)), obs


@torch.no_grad()
@pytest.mark.parametrize("said", ["abé", ""])
def test_the_probabilities_of_all_actions_add_up_to_one(said):
    policy, obs = made(said)
    patches, ends = range(4), range(len(said.encode()) + 1)
    points = list(itertools.product(patches, range(CELLS**2)))
    rows = [(0, *point, 0, 0, 0, 0) for point in points]
    rows += [(1, 0, 0, start, end, newline, 0) for start in ends for end in ends for newline in (0, 1)]
    rows += [(2, *point, 0, 0, 0, way) for point in points for way in range(3)]
    rows += [(3, 0, 0, 0, 0, 0, 0)]
    steps = Batch(action=torch.tensor(rows)).with_obs(repeated(obs, len(rows)))
    probability = policy.decisions(steps).log_prob.exp()
    assert float(probability.sum()) == pytest.approx(1.0, abs=1e-4)
    # Ends before their starts, in the middle of a character or too far away; rows of pixels below the screen.
    text = said.encode()
    for row, p in zip(rows, probability.tolist(), strict=True):
        if row[0] == 1:
            start, end = row[3:5]
            whole = all(i == len(text) or text[i] & 0xC0 != 0x80 for i in (start, end))
            assert (p > 0) == (whole and start <= end <= start + 2)
        elif row[0] in (0, 2):
            assert (p > 0) == (row[1] < 2 or row[2] < 8)


@torch.no_grad()
def test_what_an_action_does_not_have_does_not_count():
    policy, obs = made("a bc")
    fields, many = drawn(policy, obs)
    action = fields["action"]
    relevant = policy.layout.relevant[action[:, 0]]
    assert (action * ~relevant == 0).all()
    sizes = torch.tensor([4, 4, CELLS**2, 5, 5, 2, 3])
    noise = (torch.rand(action.shape) * sizes).long()
    noise[:, 4] = noise[:, 4].maximum(noise[:, 3])
    other = torch.where(relevant, action, noise)
    assert not torch.equal(other, action)
    found = [policy.decisions(Batch(action=rows).with_obs(many), entropy=True) for rows in (action, other)]
    torch.testing.assert_close(found[1].log_prob, found[0].log_prob)
    torch.testing.assert_close(found[1].entropy, found[0].entropy)


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["reader", "cnn", "siglip", "clip"])
def test_actions_are_scored_as_they_were_drawn(encoder):
    policy, obs = made("a bc", "dé", "a", "", encoder=encoder)
    fields = policy.act(obs, torch.Generator().manual_seed(3))
    assert fields.keys() == policy.fields().keys()
    steps = Batch(fields).with_obs(obs)
    found = policy.decisions(steps)
    torch.testing.assert_close(found.log_prob, fields["log_prob"], atol=1e-4, rtol=0)
    torch.testing.assert_close(policy.distribution(steps).log_prob(fields["action"]), found.log_prob)
    torch.testing.assert_close(policy.features(steps), found.features)
    assert found.features.shape[1:] == policy.critic_space.shape


@torch.no_grad()
def test_samples_follow_the_probabilities_and_the_mode_is_the_likeliest_at_every_turn():
    policy, obs = made("a bc")
    fields, many = drawn(policy, obs, 4000)
    logits = policy.distribution(Batch(fields).with_obs(many)).logits[0][0]
    shares = torch.bincount(fields["action"][:, 0], minlength=4) / 4000
    torch.testing.assert_close(shares, logits.softmax(-1), atol=0.04, rtol=0)
    best = policy.choose(obs, True, torch.Generator())
    chain = policy.distribution(Batch(action=best).with_obs(obs))
    for i, one in enumerate(chain.logits):
        assert not chain.relevant[0, i] or best[0, i] == one[0].argmax()


def test_actions_to_the_environment_and_back():
    policy, obs = made("a bcé")
    fields, many = drawn(policy, obs)
    there = policy.to_env(fields["action"], many)
    assert {int(kind) for kind, _ in there} == {0, 1, 2, 3}
    union = rebuild(describe(UNION))
    assert same(union, UNION)
    assert not same(union, spaces.OneOf([*UNION.spaces[:3], spaces.Dict({"point": POINT})]))
    assert all(union.contains(action) for action in there)
    # Points come back exactly; a text may stand in several places.
    again = policy.from_env(there, many)
    assert torch.equal(again[:, :3], fields["action"][:, :3])
    assert torch.equal(again[:, 6], fields["action"][:, 6])
    for (kind, values), (same_kind, same_values) in zip(there, policy.to_env(again, many), strict=True):
        assert kind == same_kind
        assert values.get("text") == same_values.get("text")
    corners = [(0, {"point": np.full(2, edge, np.float32)}) for edge in (1, 0)]
    wide = policy.from_env(corners, repeated(obs, 2))
    assert wide[:, :3].tolist() == [
        [0, 3, 7],
        [0, 0, 0],
    ]  # the lower half of the lower patches is no part of the screen


def test_texts_are_found_as_words_of_their_own():
    assert find(b"mar", b'User "omar", password "mar".') == 23
    assert find(b"mar", b"omar") == 1
    assert find(b"x", b"omar") is None
    assert find(b"", b"omar") == 0
    policy, obs = made("abcd")
    rows = policy.from_env([(1, {"text": "bc"}), (1, {"text": "c\n"}), (1, {"text": ""})], repeated(obs, 3))
    assert rows[:, 3:6].tolist() == [[1, 3, 0], [2, 3, 1], [0, 0, 0]]
    with pytest.raises(ValueError, match="'da' is not in 'abcd'"):
        policy.from_env([(1, {"text": "da"})], obs)


@pytest.mark.parametrize(
    ("union", "message"),
    [
        (spaces.OneOf([spaces.Discrete(2)]), "OneOf of Dict"),
        (spaces.OneOf([spaces.Dict({"force": spaces.Box(-1, 1, (2,))})]), "force"),
        (spaces.OneOf([spaces.Dict({"a": spaces.Discrete(n)}) for n in (2, 3)]), "Discrete\\(2\\) here"),
    ],
)
def test_other_unions_are_refused(union, message):
    with pytest.raises(ValueError, match=message):
        Layout.of(union)


def test_other_observations_are_refused():
    for observation in (spaces.Box(-1, 1, (3,)), spaces.Dict({"screen": SCREEN["screen"]})):
        with pytest.raises(ValueError, match="one image"):
            make_policy(observation, UNION, PolicyConfig())
    with pytest.raises(ValueError, match="patches"):
        make_policy(SCREEN, UNION, PolicyConfig(encoder="mlp"))


def chains(scale):
    """A chain, and the one that a tangent times `scale` leads to from it."""
    generator = torch.Generator().manual_seed(0)
    sizes = (3, 5, 2)
    logits = [torch.randn(4, n, dtype=torch.float64, generator=generator) for n in sizes]
    tangent = [torch.randn(4, n, dtype=torch.float64, generator=generator) for n in sizes]
    logits[1][0, 2] = -1e9  # impossible
    relevant = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0]]) > 0
    moved = [x + scale * v for x, v in zip(logits, tangent, strict=True)]
    return Chain(tuple(logits), relevant), tuple(tangent), moved


def test_fisher_matrix_is_the_second_derivative_of_the_divergence():
    eps = 1e-5
    here, tangent, moved = chains(eps)
    leaf = [x.requires_grad_() for x in moved]
    gradient = torch.autograd.grad(here.kl(Chain(tuple(leaf), here.relevant)).sum(), leaf)
    for found, expected in zip(here.fisher(tangent), gradient, strict=True):
        torch.testing.assert_close(found, expected / eps, atol=1e-4, rtol=0)


def test_divergence_and_entropy_are_means_over_actions():
    here, _, moved = chains(0.7)
    there = Chain(tuple(moved), here.relevant)
    # Independent of their prefixes, so that all actions can be enumerated.
    kl, entropy = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for row in range(4):
        counted = here.relevant[row].tolist()
        for action in itertools.product(*(range(n) if c else (0,) for n, c in zip((3, 5, 2), counted, strict=True))):
            rows = torch.tensor([action] * 4)
            p, q = here.log_prob(rows)[row], there.log_prob(rows)[row]
            if p.exp() > 0:
                kl[row] += p.exp() * (p - q)
                entropy[row] -= p.exp() * p
    torch.testing.assert_close(here.kl(there), kl)
    torch.testing.assert_close(here.entropy(), entropy)


def test_fisher_vector_product_is_that_of_the_divergence_through_the_network():
    policy, obs = made("a bc", "dd", "abc")
    fields = policy.act(obs, torch.Generator().manual_seed(0))
    steps, params = Batch(fields).with_obs(obs), list(policy.parameters())
    v = torch.randn(sum(p.numel() for p in params), generator=torch.Generator().manual_seed(1))
    product = fisher_vector_product(policy.distribution(steps), params)(v)
    # v'Fv is the second derivative of the divergence along v.
    before, divergence, eps = policy.distribution(steps).detach(), 0.0, 1e-3
    with torch.no_grad():
        for sign in (eps, -2 * eps):
            parts = v.split([p.numel() for p in params])
            for p, part in zip(params, parts, strict=True):
                p += sign * part.view_as(p)
            divergence += float(before.kl(policy.distribution(steps)).mean())
    assert divergence / eps**2 == pytest.approx(float(v @ product), rel=0.05)


def test_gradients_reach_every_weight():
    policy, obs = made("a bc", "dcb a", "aa", "dcba", "abcd", "bb a", "ca b", "cc")
    rows = torch.tensor([[k, 1, 3, 1, 2, 1, 2] for k in (0, 1, 2, 3)] * 2) * policy.layout.relevant.repeat(2, 1)
    found = policy.decisions(Batch(action=rows).with_obs(obs), entropy=True)
    weights = dict(policy.named_parameters())
    grads = torch.autograd.grad((found.log_prob + found.entropy).sum(), list(weights.values()))
    still = {name for name, grad in zip(weights, grads, strict=True) if not flatten([grad]).any()}
    # The keys' offsets are the same for every patch (byte), which a softmax does not notice.
    assert still <= {name for name in still if name.endswith("key.bias")}


# --- on real screens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_the_oracles_actions_survive_being_stored(task):
    env = envs.make_vec(f"gui/{task}-v0", num_envs=6)
    space = env.single_observation_space
    layout, grid = Layout.of(env.single_action_space), PointerPolicy(space, env.single_action_space).net.grid
    obs, _ = env.reset(seed=100)
    over, reward = np.zeros(6, bool), np.zeros(6)
    while not over.all():
        shown = [i for i, action in enumerate(env.demonstrate()) if action is not None]
        actions = [env.demonstrate()[i] for i in shown]
        said = [obs["instruction"][i].encode() for i in shown]
        rows = layout.from_env(actions, grid, said)
        stored = layout.to_env(rows, grid, said)
        assert torch.equal(layout.from_env(stored, grid, said), rows)
        for (kind, values), (_, kept) in zip(actions, stored, strict=True):
            assert env.single_action_space.contains((kind, kept))
            for name, value in values.items():
                if isinstance(value, np.ndarray):  # within half a cell, and a pixel that was cut off
                    assert (np.abs(value - kept[name]) * [160, 210] <= 2).all()
                else:
                    assert value == kept[name]
        step = [None] * 6
        for i, action in zip(shown, stored, strict=True):
            step[i] = action
        obs, gained, terminated, truncated, _ = env.step(step)
        reward += gained
        over |= terminated | truncated
    assert (reward == 1).all()


SETTINGS = {
    "kimi": {"group_size": 2, "groups_per_iteration": 2, "length_reward_weight": 1.0},  # who has luck is rare
    "trpo": {"n_steps": 3, "cg_iterations": 2, "critic_epochs": 1},
    "actor-critic": {"n_steps": 3},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_algorithms_learn_and_resume_bit_for_bit(name, tmp_path):
    def fresh():
        return envs.make_vec("gui/click-dialog-v0", num_envs=4)

    agent = agents.make(name, fresh(), seed=1, encoder="reader", **SETTINGS[name])
    start = {key: value.clone() for key, value in agent.policy.state_dict().items()}
    agent.learn(24)
    assert any(not torch.equal(value, start[key]) for key, value in agent.policy.state_dict().items())
    path = agent.save(tmp_path / "agent", exact=True)
    agent.learn(24, reset_num_timesteps=False)
    again = agents.load(path, env=fresh())
    assert again.restored_exactly
    again.learn(24, reset_num_timesteps=False)
    for key, value in agent.policy.state_dict().items():
        assert torch.equal(again.policy.state_dict()[key], value), key
    obs, _ = fresh().reset(seed=3)
    assert repr(again.predict(obs, deterministic=True)[0]) == repr(agent.predict(obs, deterministic=True)[0])
    one = {"screenshot": obs["screenshot"][1], "instruction": obs["instruction"][1]}
    kind, values = agent.predict(one, deterministic=True)[0]
    assert fresh().single_action_space.contains((kind, values))


def test_cloned_demonstrations_are_repeated():
    env = envs.make_vec("gui/enter-text-v0", num_envs=4)
    agent = agents.Kimi(env, seed=0, encoder="reader")
    obs, _ = env.reset(seed=0)
    obs, *_ = env.step(env.demonstrate())  # the field has the keyboard
    tensors = observation_tensors(env.single_observation_space, obs, torch.device("cpu"))
    shown = env.demonstrate()
    steps = Batch(action=agent.policy.from_env(shown, tensors)).with_obs(tensors)
    optimizer = torch.optim.Adam(agent.policy.parameters(), lr=2e-3)
    for _ in range(40):
        optimizer.zero_grad()
        imitation_losses(agent.policy, steps).mean().backward()
        optimizer.step()
    typed = agent.policy.to_env(agent.policy.choose(tensors, True, torch.Generator()), tensors)
    assert [values for _, values in typed] == [values for _, values in shown]
    assert {values["text"] in said for (_, values), said in zip(typed, obs["instruction"], strict=True)} == {True}


@torch.no_grad()
def test_statistics_of_batches_are_learned_in_cloning_alone():
    policy, obs = made("a bc", "dd", "abc", "c")
    fresh = {name: value.clone() for name, value in policy.named_buffers()}
    steps = Batch(policy.act(obs, torch.Generator().manual_seed(0))).with_obs(obs)
    assert all(torch.equal(value, fresh[name]) for name, value in policy.named_buffers())
    policy.imitation_losses(steps)
    learned = {name: value.clone() for name, value in policy.named_buffers()}
    assert any(not torch.equal(value, fresh[name]) for name, value in learned.items())
    log_prob = policy.decisions(steps).log_prob
    first = steps.take(torch.tensor([0]))
    torch.testing.assert_close(policy.decisions(first).log_prob, log_prob[:1], atol=1e-4, rtol=0)
    assert all(torch.equal(value, learned[name]) for name, value in policy.named_buffers())


def test_what_is_pointed_at_tells_the_instruction():
    policy, obs = made("a bc", "dd", "a bc", "c")
    rows = torch.tensor([[0, 1, 3, 0, 0, 0, 0]] * 3 + [[3] + [0] * 6])
    steps = Batch(action=rows).with_obs(obs)
    extra = policy.imitation_losses(steps)
    policy.encoder.train()  # as it is there
    extra = extra + policy.decisions(steps).log_prob
    logits = policy.net.mentions(policy.net.see(obs), rows[:, 1])
    p = logits.softmax(-1)
    expected = -torch.stack([p[0, 0] + p[0, 2], p[1, 1], p[2, 0] + p[2, 2]]).log()
    torch.testing.assert_close(extra, torch.cat((expected, torch.zeros(1))), atol=1e-4, rtol=1e-4)
