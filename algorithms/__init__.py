"""Reinforcement learning algorithms over the seams of `llmenv`."""

from algorithms.grpo import GRPO, GRPOConfig
from algorithms.methods import METHODS, make_config
from algorithms.ppo import PPO, PPOConfig

__all__ = ["GRPO", "METHODS", "PPO", "GRPOConfig", "PPOConfig", "make_config"]
