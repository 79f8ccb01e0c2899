"""Policies: features to an action distribution (`stochastic`), or to an action (`deterministic`)."""

from agents.policies.deterministic import DeterministicPolicy
from agents.policies.stochastic import StochasticPolicy

__all__ = ["DeterministicPolicy", "StochasticPolicy"]
