"""Token log-probabilities and their gradients against torch's own operations."""

import pytest
import torch

from agents.policies import head
from agents.policies.head import token_log_probs


@pytest.mark.parametrize("rows", [3, 256])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equals_log_softmax(monkeypatch, rows, temperature):
    monkeypatch.setattr(head, "_ROWS", rows)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 8, generator=generator).mul_(3).requires_grad_()
    weight = torch.randn(50, 8, generator=generator).requires_grad_()
    tokens = torch.randint(50, (10,), generator=generator)
    upstream = torch.randn(10, generator=generator)
    found = token_log_probs(hidden, weight, tokens, temperature=temperature)
    expected = (hidden @ weight.T / temperature).log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    both = (hidden, weight)
    grads = [torch.autograd.grad(scores @ upstream, both, retain_graph=True) for scores in (found, expected)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    again = torch.autograd.grad(found @ upstream, both)
    assert all(torch.equal(a, b) for a, b in zip(grads[0], again, strict=True))  # a retained graph is still whole
    with torch.no_grad():
        assert torch.equal(token_log_probs(hidden, weight, tokens, temperature=temperature), found)


def test_an_impossible_token_has_a_finite_log_prob_and_gradient():
    hidden = torch.tensor([[200.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]])
    found = token_log_probs(hidden, weight, torch.tensor([1]))
    torch.testing.assert_close(found, torch.tensor([-400.0]))
    assert torch.autograd.grad(found.sum(), hidden)[0].tolist() == [[-2.0]]


def test_no_tokens():
    hidden, weight = torch.zeros(0, 4, requires_grad=True), torch.ones(5, 4, requires_grad=True)
    found = token_log_probs(hidden, weight, torch.zeros(0, dtype=torch.int64))
    assert found.shape == (0,)
    assert torch.autograd.grad(found.sum(), weight)[0].abs().max() == 0
