"""Ornstein-Uhlenbeck noise: its recursion, its stationary law, its fresh start with every episode."""

import numpy as np
import torch

from agents.policies.noise import OrnsteinUhlenbeck


def test_the_process_starts_at_zero_with_every_episode():
    noise = OrnsteinUhlenbeck(0.3, theta=0.15, dt=0.25)
    draws = torch.randn(4, 2, 3)
    x = torch.zeros(2, 3)
    starts = [[True, True], [False, False], [False, True], [False, False]]
    for normal, start in zip(draws, starts, strict=True):
        x = torch.where(torch.tensor(start)[:, None], torch.zeros(()), x)
        x = x - 0.15 * 0.25 * x + 0.3 * 0.5 * normal
        torch.testing.assert_close(noise(normal, np.array(start)), x)


def test_the_stationary_deviation_and_correlation():
    theta, dt, sigma = 0.15, 0.5, 0.3
    noise, generator = OrnsteinUhlenbeck(sigma, theta, dt), torch.Generator().manual_seed(0)
    going = np.zeros(4000, bool)
    xs = [noise(torch.randn(4000, 1, generator=generator), going) for _ in range(120)]
    decay = 1 - theta * dt
    expected = sigma * (dt / (1 - decay**2)) ** 0.5
    last = torch.cat(xs[-1:])
    assert abs(float(last.std()) - expected) < 4.5 * expected / 8000**0.5
    assert abs(float(last.mean())) < 4.5 * expected / 4000**0.5
    correlation = float(torch.corrcoef(torch.stack([xs[-11].flatten(), xs[-1].flatten()]))[0, 1])
    assert abs(correlation - decay**10) < 0.05


def test_a_restored_process_goes_on():
    one, other = OrnsteinUhlenbeck(0.2), OrnsteinUhlenbeck(0.2)
    going = np.zeros(3, bool)
    one(torch.randn(3, 2), going)
    other.load_state_dict(one.state_dict())
    normal = torch.randn(3, 2)
    assert torch.equal(one(normal, going), other(normal, going))
