"""What the methods are called. `algorithms.methods`, which says what they are, loads torch and ray; this nothing."""

from __future__ import annotations

METHODS = (
    "PPO",
    "GRPO",
    "DrGRPO",
    "DAPO",
    "RLOO",
    "REINFORCE++",
    "REINFORCE++-baseline",
    "GSPO",
    "CISPO",
    "SFT",
    "RFT",
    "Distill",
)
# Those that imitate: without advantages, clip and KL.
IMITATE = ("SFT", "RFT")
# Judged by a teacher, token by token, instead of by comparison.
TAUGHT = ("Distill",)


def method_name(name: str) -> str:
    """The name of METHODS that is this one in another case.

    Raises:
        ValueError: If there is no such method.
    """
    by_name = {known.lower(): known for known in METHODS}
    if name.lower() not in by_name:
        raise ValueError(f"there is no algorithm {name!r}: choose one of {', '.join(METHODS)}")
    return by_name[name.lower()]
