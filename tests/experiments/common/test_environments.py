"""How a command line names environments."""

from __future__ import annotations

import pytest

from experiments.common.environments import environment, short_name


def test_one_environment_is_itself() -> None:
    for name in ("Countdown-v0", "envs:Countdown-v0"):
        section = environment([name])
        assert section == {"env": "envs:Countdown-v0"} and short_name(section) == "Countdown-v0"
    assert environment(["support:NoDigit-v0"]) == {"env": "support:NoDigit-v0"}


def test_several_are_a_mixture() -> None:
    section = environment(["Countdown-v0:0.5", "support:NoDigit-v0:2", "GSM8K-v0"])
    assert section == {
        "env": "envs:Mixture-v0",
        "env_config": {
            "parts": {
                "Countdown-v0": {"env": "envs:Countdown-v0", "weight": 0.5},
                "NoDigit-v0": {"env": "support:NoDigit-v0", "weight": 2.0},
                "GSM8K-v0": {"env": "envs:GSM8K-v0", "weight": 1.0},
            }
        },
    }
    assert short_name(section) == "Countdown-v0+NoDigit-v0+GSM8K-v0"


def test_a_name_twice_or_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="Countdown-v0 is given twice"):
        environment(["Countdown-v0", "envs:Countdown-v0:2"])
    with pytest.raises(ValueError, match="there is no environment 'Countdwn-v0'"):
        environment(["Countdwn-v0:0.5", "GSM8K-v0"])
