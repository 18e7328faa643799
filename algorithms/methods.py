"""The methods by name: each is settings over GRPO's or PPO's config, with its paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from algorithms.config import LLMConfig
from algorithms.distill import DistillConfig
from algorithms.grpo import GRPOConfig
from algorithms.names import IMITATE, TAUGHT, method_name
from algorithms.ppo import PPOConfig
from algorithms.rft import RFTConfig
from algorithms.sft import SFTConfig


@dataclass(frozen=True)
class Method:
    """A named method.

    Attributes:
        config: Whose defaults and whose code it takes.
        paper: Where it comes from.
        settings: Arguments of `config().training()` that make it the paper's.
    """

    config: type[LLMConfig]
    paper: str
    settings: dict[str, Any] = field(default_factory=dict)


METHODS = {
    # Clip and critic of section 6.1 and TinyZero; every token of the batch weighs the same.
    "PPO": Method(PPOConfig, "Schulman et al., 1707.06347"),
    # Equation 3: the mean over samples of the mean over each one's tokens. The default of this package is the mean over
    # tokens, as TRL's and verl's is now; "sequence" is the paper's.
    "GRPO": Method(GRPOConfig, "DeepSeekMath, 2402.03300"),
    # Section 3.2: neither the standard deviation nor the length divides.
    "DrGRPO": Method(
        GRPOConfig,
        "Liu et al., 2503.20783",
        {"advantage_scale": "none", "loss_normaliser": "constant"},
    ),
    # Equations 8 and 10 to 13; the cache of 4,096 of 20,480 tokens is the buffer.
    "DAPO": Method(
        GRPOConfig,
        "Yu et al., 2503.14476",
        {
            "clip_param_high": 0.28,
            "loss_normaliser": "token",
            "dynamic_sampling": True,
            "overlong_buffer": 0.2,
        },
    ),
    # Equation 6. The paper's KL is in the reward of a whole sample; k2 in the loss has, in expectation, the gradient of
    # each token's own.
    "RLOO": Method(
        GRPOConfig,
        "Ahmadian et al., 2402.14740",
        {
            "baseline": "leave_one_out",
            "advantage_scale": "none",
            "loss_normaliser": "constant",
            "kl_estimator": "k2",
        },
    ),
    # PPO's clip and credit by token without a critic, whitened over the batch.
    "REINFORCE++": Method(PPOConfig, "Hu et al., 2501.03262", {"critic": None}),
    # Equations 6 to 8.
    "REINFORCE++-baseline": Method(
        GRPOConfig, "Hu et al., 2501.03262", {"advantage_scale": "batch", "kl_estimator": "k2"}
    ),
    # Equations 5 and 7; the clip of section 5.1.
    "GSPO": Method(
        GRPOConfig,
        "Zheng et al., 2507.18071",
        {
            "ratio_level": "sequence",
            "loss_normaliser": "sequence",
            "clip_param": 3e-4,
            "clip_param_high": 4e-4,
        },
    ),
    # Equations 4 and 5, without a bound below. The paper gives no number for the one above; TRL's example has 5.
    "CISPO": Method(
        GRPOConfig,
        "MiniMax-M1, 2506.13585",
        {"surrogate": "cispo", "clip_param": 1.0, "clip_param_high": 4.0, "loss_normaliser": "token"},
    ),
    # Their modules have the formulas.
    "SFT": Method(SFTConfig, "Ouyang et al., 2203.02155"),
    "RFT": Method(RFTConfig, "Dong et al., 2304.06767; Yuan et al., 2308.01825"),
    "Distill": Method(DistillConfig, "Agarwal et al., 2306.13649; Thinking Machines, 2025"),
}


def make_config(name: str) -> LLMConfig:
    """The config of a method, by its name in any case. Raises as `method_name` does."""
    name = method_name(name)
    config = METHODS[name].config()
    config.training(**METHODS[name].settings)
    config.method = name
    return config


def table() -> str:
    """The methods that compare, side by side, in Markdown, from their configs themselves: that of docs/methods.md."""
    columns = ("method", "advantage", "baseline", "ratio of a", "clip", "normaliser", "KL", "more", "paper")
    lines = [columns, ("---",) * len(columns)]
    for name, method in METHODS.items():
        if name in (*IMITATE, *TAUGHT):
            continue
        config = make_config(name)
        lines.append((f"`{name}`", *_row(config), method.paper))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _row(config: LLMConfig) -> tuple[str, ...]:
    low, high = config.clip_range
    clip = f"{1 - low:g} to {1 + high:g}"
    kl = f"{config.kl_estimator_name} in the {config.kl_in}"
    if config.surrogate == "cispo":
        clip += ", of the weight"
    more = []
    if isinstance(config, PPOConfig):
        advantage = f"by token, gamma {config.gamma:g}, lambda {config.lambda_:g}"
        advantage += ", whitened" if config.whiten_advantages else ""
        baseline = f"critic ({config.critic})" if config.critic else "none"
    elif isinstance(config, GRPOConfig):
        advantage = (
            "reward"
            + {
                "group": " / std of the group",
                "batch": ", whitened",
                "none": "",
            }[config.advantage_scale]
        )
        baseline = config.baseline.replace("_", " ")
        more += ["dynamic sampling"] if config.dynamic_sampling else []
        more += [f"overlong penalty, last {config.overlong_buffer:.0%}"] if config.overlong_buffer else []
    else:
        advantage = baseline = "its own"
    return advantage, baseline, config.ratio_level, clip, config.loss_normaliser, kl, ", ".join(more)
