"""Policies: observations to an action distribution (`make_policy` chooses which), or to an action (`deterministic`)."""

from agents.policies.deterministic import DeterministicPolicy
from agents.policies.make import PolicyConfig, make_policy
from agents.policies.policy import Decisions, Policy
from agents.policies.stochastic import StochasticPolicy

__all__ = ["Decisions", "DeterministicPolicy", "Policy", "PolicyConfig", "StochasticPolicy", "make_policy"]
