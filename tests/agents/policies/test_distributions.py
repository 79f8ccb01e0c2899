"""The distributions against torch.distributions, and their samples against their own probabilities."""

import itertools

import numpy as np
import pytest
import torch
from torch import distributions as td

from agents.policies.categorical import Bernoulli, MultiCategorical
from agents.policies.gaussian import Gaussian
from agents.policies.numpy_gaussian import NumpyGaussian

SIZES = (3, 2, 4)


def gaussian(shift=0.0):
    log_std = torch.tensor([0.3, -1.0, 0.0]) + shift
    mean = torch.randn(6, 3) + shift
    return Gaussian(mean, log_std), td.Independent(td.Normal(mean, log_std.exp()), 1)


def categorical(shift=0.0):
    logits = torch.randn(6, 4) + shift
    return MultiCategorical(logits, (4,), single=True), td.Categorical(logits=logits)


def bernoulli(shift=0.0):
    logits = torch.randn(6, 3) * 2 + shift
    return Bernoulli(logits), td.Independent(td.Bernoulli(logits=logits), 1)


@pytest.mark.parametrize("make", [gaussian, categorical, bernoulli])
def test_as_in_torch(make):
    (ours, peer), (other, other_peer) = make(), make(0.4)
    action = ours.sample(torch.Generator().manual_seed(1))
    peer_action = action.float() if isinstance(ours, Bernoulli) else action
    torch.testing.assert_close(ours.log_prob(action), peer.log_prob(peer_action))
    torch.testing.assert_close(ours.entropy(), peer.entropy())
    torch.testing.assert_close(ours.kl(other), td.kl_divergence(peer, other_peer))
    torch.testing.assert_close(ours.kl(ours), torch.zeros(6), atol=1e-6, rtol=0)


def test_gaussian_noise_is_the_same_with_and_without_a_graph():
    distribution, _ = gaussian()
    with_graph = Gaussian(distribution.mean.clone().requires_grad_(), distribution.log_std)
    found = [d.sample_with_log_prob(torch.Generator().manual_seed(2)) for d in (distribution, with_graph)]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs.detach())
    action, log_prob = found[0]
    torch.testing.assert_close(log_prob, distribution.log_prob(action))


def test_the_gaussian_in_numpy_is_the_gaussian():
    ours, _ = gaussian()
    few = NumpyGaussian(ours.mean.numpy(), ours.log_std.numpy())
    drawn = few.sample_with_log_prob(torch.Generator().manual_seed(2))
    with_graph = Gaussian(ours.mean.clone().requires_grad_(), ours.log_std)
    expected = with_graph.sample_with_log_prob(torch.Generator().manual_seed(2))
    action = drawn[0]
    pairs = [
        *zip(drawn, expected, strict=True),
        (few.log_prob(action), ours.log_prob(torch.from_numpy(action))),
        (few.log_prob(action), drawn[1]),
        (few.entropy(), ours.entropy()),
        *zip(few.score(action), ours.score(torch.from_numpy(action)), strict=True),
        *zip(few.entropy_gradient(), ours.entropy_gradient(), strict=True),
    ]
    for found, wanted in pairs:
        np.testing.assert_allclose(found, np.asarray(torch.as_tensor(wanted).detach()), rtol=1e-4, atol=1e-5)


def test_several_categoricals_are_independent():
    logits, other = torch.randn(6, sum(SIZES)), torch.randn(6, sum(SIZES))
    ours, theirs = MultiCategorical(logits, SIZES), MultiCategorical(other, SIZES)
    blocks = [td.Categorical(logits=x) for x in logits.split(SIZES, -1)]
    action = ours.sample(torch.Generator().manual_seed(1))
    assert action.shape == (6, 3)
    torch.testing.assert_close(ours.log_prob(action), sum(b.log_prob(action[:, i]) for i, b in enumerate(blocks)))
    torch.testing.assert_close(ours.entropy(), sum(b.entropy() for b in blocks))
    peers = [td.Categorical(logits=x) for x in other.split(SIZES, -1)]
    torch.testing.assert_close(ours.kl(theirs), sum(map(td.kl_divergence, blocks, peers)))


def test_discrete_probabilities_sum_to_one():
    multi = MultiCategorical(torch.randn(1, sum(SIZES)), SIZES)
    coins = Bernoulli(torch.randn(1, 3))
    for distribution, sizes in ((multi, SIZES), (coins, (2, 2, 2))):
        actions = torch.tensor(list(itertools.product(*map(range, sizes))))
        probabilities = torch.cat([distribution.log_prob(a[None]) for a in actions]).exp()
        torch.testing.assert_close(probabilities.sum(), torch.tensor(1.0))


def test_extreme_logits_stay_finite():
    for distribution in (
        Bernoulli(torch.tensor([[200.0, -200.0]])),
        MultiCategorical(torch.tensor([[200.0, -200.0]]), (2,)),
    ):
        action = distribution.mode()
        assert distribution.log_prob(action).tolist() == [0.0]
        assert distribution.entropy().tolist() == [0.0]
        assert bool(distribution.kl(distribution).isfinite().all())


@pytest.mark.parametrize(
    "distribution",
    [MultiCategorical(torch.tensor([[0.5, -1.0, 0.0, 1.0]]), (4,), single=True), Bernoulli(torch.tensor([[0.7]]))],
)
def test_sampled_frequencies(distribution):
    n = 40_000
    logits = distribution.logits.expand(n, -1)
    many = MultiCategorical(logits, (4,), True) if logits.shape[1] == 4 else Bernoulli(logits)
    draws = many.sample(torch.Generator().manual_seed(0)).flatten().numpy()
    sizes = 4 if logits.shape[1] == 4 else 2
    p = np.array([float(many.log_prob(torch.full_like(many.mode(), k))[0].exp()) for k in range(sizes)])
    found = np.bincount(draws, minlength=sizes) / n
    assert (np.abs(found - p) < 4.5 * np.sqrt(p * (1 - p) / n)).all()


def test_sampled_moments_of_a_gaussian():
    n = 100_000
    one = Gaussian(torch.tensor([1.0, -2.0]).expand(n, 2), torch.tensor([0.5, -0.5]))
    draws = one.sample(torch.Generator().manual_seed(0))
    std = torch.tensor([0.5, -0.5]).exp()
    assert bool(((draws.mean(0) - torch.tensor([1.0, -2.0])).abs() < 4.5 * std / n**0.5).all())
    assert bool(((draws.std(0) - std).abs() < 4.5 * std / (2 * n) ** 0.5).all())
    assert abs(float(torch.corrcoef(draws.t())[0, 1])) < 4.5 / n**0.5


@pytest.mark.parametrize("make", [gaussian, categorical, bernoulli])
def test_samples_follow_from_the_generator_and_carry_their_log_probability(make):
    distribution, _ = make()
    first, log_prob = distribution.sample_with_log_prob(torch.Generator().manual_seed(3))
    torch.testing.assert_close(log_prob, distribution.log_prob(first), atol=1e-5, rtol=1e-5)
    assert torch.equal(first, distribution.sample(torch.Generator().manual_seed(3)))
    assert not torch.equal(first, distribution.sample(torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("make", [gaussian, categorical, bernoulli])
def test_the_mode_is_the_likeliest(make):
    distribution, _ = make()
    best = distribution.log_prob(distribution.mode())
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        assert bool((distribution.log_prob(distribution.sample(generator)) <= best).all())


def several(shift=0.0):
    return MultiCategorical(torch.randn(6, sum(SIZES)) + shift, SIZES), None


def rebuilt(distribution, parameters):
    """The same kind of distribution with other parameters."""
    if isinstance(distribution, MultiCategorical):
        return MultiCategorical(*parameters, distribution.sizes, distribution.single)
    return type(distribution)(*parameters)


@pytest.mark.parametrize("make", [gaussian, categorical, several, bernoulli])
def test_fisher_is_the_second_derivative_of_kl_in_the_parameters(make):
    old, _ = make()
    rows = tuple(p.clone() for p in old.parameters)
    tangents = tuple(torch.randn_like(p) for p in rows)
    _, hvp = torch.autograd.functional.hvp(lambda *p: old.kl(rebuilt(old, p)).sum(), rows, tangents)
    for ours, theirs in zip(old.fisher(tangents), hvp, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", [gaussian, categorical, several, bernoulli])
def test_scores_and_entropy_gradients_are_autograd_s(make):
    distribution, _ = make()
    action = distribution.sample(torch.Generator().manual_seed(1))
    rows = tuple(p.clone().requires_grad_() for p in distribution.parameters)
    leaf = rebuilt(distribution, rows)
    for found, value in ((distribution.score(action), leaf.log_prob(action)),
                         (distribution.entropy_gradient(), leaf.entropy())):  # fmt: skip
        expected = torch.autograd.grad(value.sum(), rows, allow_unused=True, materialize_grads=True)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours.expand_as(theirs), theirs, atol=1e-6, rtol=1e-4)


def test_a_detached_gaussian_keeps_its_deviation():
    log_std = torch.nn.Parameter(torch.zeros(2))
    old = Gaussian(torch.zeros(3, 2), log_std).detach()
    log_std.data.add_(1.0)
    assert old.log_std.tolist() == [0.0, 0.0]
