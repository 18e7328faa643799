"""Reinforcement learning algorithms over the seams of `llmenv`."""

from algorithms.grpo import GRPO, GRPOConfig

# Names as `--algo` takes them.
CONFIGS = {"GRPO": GRPOConfig}

__all__ = ["CONFIGS", "GRPO", "GRPOConfig"]
