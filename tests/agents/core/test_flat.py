"""Flat parameters and their optimiser against torch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from agents.core.flat import FlatAdam, FlatParameters, FlatRMSprop


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def test_parameters_share_one_storage_and_keep_their_values() -> None:
    before = [p.detach().clone() for p in network().parameters()]
    net = network()
    flat = FlatParameters(net)
    for p, old in zip(net.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old, rtol=0, atol=0)
    with torch.no_grad():
        flat.vector.fill_(2.0)
    assert all(bool((p == 2.0).all()) for p in net.parameters())


def test_a_bias_lies_behind_its_matrix_and_the_next_matrix_on_a_boundary() -> None:
    net = network()
    FlatParameters(net)
    first, second = net[0], net[2]
    assert first.bias.data_ptr() == first.weight.data_ptr() + 4 * first.weight.numel()
    assert second.weight.storage_offset() % 16 == first.weight.storage_offset() % 16 == 0
    for p in net.parameters():
        assert p.grad is not None
        assert p.grad.storage_offset() == p.storage_offset()


def test_a_matrix_stored_by_columns_stays_so() -> None:
    nets = network(), network()
    nets[1][0].weight.data = nets[1][0].weight.data.t().contiguous().t()
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    for net in nets:
        flat = FlatParameters(net)
        net(x).square().sum().backward()
        FlatAdam(flat, 1e-2).step()
    weight = nets[1][0].weight
    assert weight.stride() == weight.grad.stride() == (1, 7)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(p.grad, q.grad, atol=1e-6, rtol=1e-5)


OPTIMIZERS = {
    "adam": (lambda flat: FlatAdam(flat, 1e-2), lambda params: torch.optim.Adam(params, lr=1e-2)),
    "adam with eps": (
        lambda flat: FlatAdam(flat, 1e-2, eps=1e-2),
        lambda params: torch.optim.Adam(params, lr=1e-2, eps=1e-2),
    ),
    "rmsprop": (
        lambda flat: FlatRMSprop(flat, 1e-2),
        lambda params: torch.optim.RMSprop(params, lr=1e-2, alpha=0.99, eps=1e-5),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_take_the_steps_of_torch(name: str) -> None:
    ours, theirs = network(), network()
    flat = FlatParameters(ours)
    make, make_peer = OPTIMIZERS[name]
    optimizer, peer = make(flat), make_peer(theirs.parameters())
    for step in range(50):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        flat.zero_grad()
        ours(x).square().mean().backward()
        optimizer.step()
        peer.zero_grad()
        theirs(x).square().mean().backward()
        peer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [FlatAdam, FlatRMSprop])
def test_optimisers_go_on_from_their_state(kind: type) -> None:
    first, second = network(), network()
    a, b = FlatParameters(first), FlatParameters(second)
    one, other = kind(a, 1e-2), kind(b, 1e-2)
    for _ in range(3):
        a.grad.fill_(0.5)
        one.step()
    second.load_state_dict(first.state_dict())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for flat, optimizer in ((a, one), (b, other)):
        flat.grad.fill_(-0.25)
        optimizer.step()
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def test_moments_never_decay_into_denormals() -> None:
    flat = FlatParameters(network())
    adam = FlatAdam(flat, 1e-3)
    flat.grad.fill_(1e-30)
    adam.step()
    flat.zero_grad()
    for _ in range(400):
        adam.step()
    assert bool((adam.m == 0).all())
    assert float(torch.tensor(1e-39) / 2) > 0  # denormals elsewhere are left alone


def test_long_gradients_are_scaled_down_and_short_ones_left() -> None:
    flat = FlatParameters(network())
    flat.grad.fill_(3.0)
    before = float(flat.grad.norm())
    assert float(flat.clip_grad(before + 1.0)) == pytest.approx(before)
    assert bool((flat.grad == 3.0).all())
    assert float(flat.clip_grad(0.5)) == pytest.approx(before)
    assert float(flat.grad.norm()) == pytest.approx(0.5, rel=1e-4)
