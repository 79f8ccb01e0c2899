"""Flat parameters and their optimiser against torch's own."""

from __future__ import annotations

import copy

import torch
from torch import nn

from agents.core.flat import FlatAdam, FlatParameters


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


def test_adam_takes_the_steps_of_torch() -> None:
    ours, theirs = network(), network()
    flat = FlatParameters(ours)
    adam, peer = FlatAdam(flat, 1e-2), torch.optim.Adam(theirs.parameters(), lr=1e-2)
    for step in range(50):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        flat.zero_grad()
        ours(x).square().mean().backward()
        adam.step()
        peer.zero_grad()
        theirs(x).square().mean().backward()
        peer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_adam_goes_on_from_its_state() -> None:
    first, second = network(), network()
    a, b = FlatParameters(first), FlatParameters(second)
    adam, other = FlatAdam(a, 1e-2), FlatAdam(b, 1e-2)
    for _ in range(3):
        a.grad.fill_(0.5)
        adam.step()
    second.load_state_dict(first.state_dict())
    other.load_state_dict(copy.deepcopy(adam.state_dict()))
    for flat, optimizer in ((a, adam), (b, other)):
        flat.grad.fill_(-0.25)
        optimizer.step()
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)
