"""Reinforcement learning algorithms over the seams of `llmenv`.

Importing the package loads nothing heavy: its losses and advantages need no ray. What is asked for by name loads it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import llmenv.rllib  # noqa: F401 (before all that is heavy: see there)

if TYPE_CHECKING:
    from algorithms.distill import Distill, DistillConfig
    from algorithms.grpo import GRPO, GRPOConfig
    from algorithms.methods import METHODS, make_config
    from algorithms.ppo import PPO, PPOConfig
    from algorithms.rft import RFT, RFTConfig
    from algorithms.sft import SFT, SFTConfig

__all__ = [
    "GRPO",
    "METHODS",
    "PPO",
    "RFT",
    "SFT",
    "Distill",
    "DistillConfig",
    "GRPOConfig",
    "PPOConfig",
    "RFTConfig",
    "SFTConfig",
    "make_config",
]

_MODULES = {
    "Distill": "distill",
    "DistillConfig": "distill",
    "GRPO": "grpo",
    "GRPOConfig": "grpo",
    "METHODS": "methods",
    "PPO": "ppo",
    "PPOConfig": "ppo",
    "RFT": "rft",
    "RFTConfig": "rft",
    "SFT": "sft",
    "SFTConfig": "sft",
    "make_config": "methods",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
