"""What an evaluation shows of a server."""

from __future__ import annotations

from experiments.common.evaluation_shown import asking_line


def test_commands_are_summed() -> None:
    account = {"requests_sent": 700, "responses": 650, "prompt_tokens": 5000, "completion_tokens": 80}
    assert asking_line([account]) == "700 requests for 650 responses; 5,000 tokens of prompts, 80 written"
    assert asking_line([account, {**account, "cost": 0.25}]) == (
        "1,400 requests for 1,300 responses; 10,000 tokens of prompts, 160 written, cost 0.2500"
    )
