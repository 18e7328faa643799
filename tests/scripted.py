"""For tests of rollouts in which the model does not matter: a sampler that says what it is told, and a dialogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmenv.env import TextEnv
from llmenv.rollout import GroupRequest
from llmenv.samplers.sampler import Completion, SamplingParams

PARAMS = SamplingParams(max_new_tokens=12, stop_token_ids=frozenset())


class EchoEnv(TextEnv):
    """Two turns; the second question quotes the first answer. Pays 0.25, then 1."""

    def __init__(self, prefix: str = "So: ", log: list[str] | None = None):
        super().__init__()
        self.prefix, self.log = prefix, [] if log is None else log

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.first: str | None = None
        return f"task {self.np_random.integers(1000)}", {"system": "Talk.", "assistant_prefix": self.prefix}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.log.append(action)
        if self.first is None:
            self.first = action
            return f"you said {action!r}", 0.25, False, False, {"turn": 1}
        return "", 1.0, True, False, {"turn": 2}


class ScriptedSampler:
    """Says what it is told, in order of the calls; a text ends with the stop token unless it hits the cap."""

    def __init__(self, tokenizer: Any, say: Callable[[int, int], str] = lambda call, row: f"{call}.{row}"):
        self.tokenizer, self.say = tokenizer, say
        self.weights_version = 5
        self.max_sequence_tokens: int | None = None
        self.calls: list[tuple[list[list[int]], list[int]]] = []
        self.finish_reason = "stop"

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        self.calls.append(([list(prompt) for prompt in prompts], list(seeds)))
        completions = []
        for row in range(len(prompts)):
            ids = self.tokenizer.encode(self.say(len(self.calls), row))
            ids = [*ids, self.tokenizer.eos_token_id] if self.finish_reason == "stop" else ids
            completions.append(Completion(ids, [-1.0] * len(ids), self.finish_reason, self.weights_version))
        return completions


def requests(groups: int = 3, size: int = 2, *keys: int) -> list[GroupRequest]:
    return [GroupRequest.derive(group, size, *(keys or (1, 2))) for group in range(groups)]
