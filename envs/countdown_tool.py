"""Countdown with a calculator: the model may call a tool in the middle of its message."""

from __future__ import annotations

from typing import Any

from envs.countdown import QUESTION as COUNTDOWN_QUESTION
from envs.countdown import CountdownEnv
from envs.verify.verifiers import calculate
from llmenv.text import pending_tool_call

QUESTION = COUNTDOWN_QUESTION + (
    " While thinking you may use a calculator up to {max_calls} times: write <tool> (1 + 2) / 3 </tool>, and its "
    "<result> </result> is given to you."
)


class CountdownToolEnv(CountdownEnv):
    """Countdown with a calculator, which the model calls by `<tool>...</tool>` in the middle of its message.

    ## Description
    `Countdown-v0`, its tasks and splits, but for this: a message that ends with a `<tool>` block is not judged. The
    calculator's result is the next observation, which continues the message, and the model writes on from there.
    `</tool>` is a stop string of the environment, so that generation ends where a result is due.

    The calculator computes exactly what the grammar of `envs.verify.verifiers` has, in up to 200 characters. What
    cannot be computed gets the result "not an expression", "too long" or "division by zero".

    ## Observation Space
    `TextSpace`: the question, then `<result> ... </result>` with `continues` in the info beside it; after the last step
    the empty text.

    ## Action Space
    `TextSpace`: what the model wrote since the last observation, for the first step with `assistant_prefix` before it.

    ## Rewards
    0 for a call. The last step judges the whole message, calls and results included, as `Countdown-v0` does: tags of
    tools are text like any other, and a message without calls is paid the same.

    The info of `step` is that of `Countdown-v0`; for a call it has `correct`, which is False, and `continues`.

    ## Episode End
    Terminated by a message that ends otherwise than with a call, or by one call too many. Never truncated.

    ## Arguments
    - `max_calls=8`: results in one episode, 0 or more.
    - `question=...`: the wording, with the fields `{numbers}`, `{target}` and, if it likes, `{max_calls}`.
    - the others of `Countdown-v0`.

    ## References
    Tools within the reasoning, their results without a gradient: Jin et al. 2025, "Search-R1",
    https://arxiv.org/abs/2503.09516.

    ## Version History
    - v0: first version.
    """

    stop_strings = ("</tool>",)

    def __init__(self, max_calls: int = 8, question: str = QUESTION, **arguments: Any) -> None:
        if max_calls < 0:
            raise ValueError(f"max_calls must be 0 or more, not {max_calls}")
        super().__init__(question=question.replace("{max_calls}", str(max_calls)), **arguments)
        self.max_calls = max_calls
        self.calls = 0
        self.message = ""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        self.calls, self.message = 0, ""
        return super().reset(seed=seed, options=options)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer a call, or judge the whole message; then the episode ends."""
        if self.task is None or not isinstance(action, str):
            return super().step(action)  # which says what is wrong
        self.message += action
        call = pending_tool_call(action)
        if call is None or self.calls == self.max_calls:
            return super().step(self.message)
        self.calls += 1
        result = f"<result> {calculate(call)} </result>"
        self.message += result
        return result, 0.0, False, False, {"correct": False, "continues": True}
