"""reasoning-gym's data sets as an environment. The library itself runs in worker processes alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

from envs.math_word import ANSWER_IN_TAGS
from envs.rows import index_from
from envs.splits import split_of_text
from envs.verify.spelling import bare
from envs.verify.workers import MemoryLimit, TimeLimit, WorkerPool
from llmenv.env import TaskEnv
from llmenv.text import Response

# Some of the library's puzzles take seconds to make; a worker that scores an answer makes its puzzle first.
_TASKS = WorkerPool("envs.verify.reasoning_gym_worker:ask", cpu_seconds=60)  # starts none yet
_SCORES = WorkerPool("envs.verify.reasoning_gym_worker:score", cpu_seconds=8)
_MAX_LENGTH = 20_000  # characters of an answer
_MAX_ATTEMPTS = 1_000


class ReasoningGymTask(NamedTuple):
    """The number of a task in its data set, its question, and an answer that is right ("" if none is known)."""

    number: int
    question: str
    answer: str


class ReasoningGymEnv(TaskEnv[ReasoningGymTask]):
    r"""reasoning-gym: the tasks of any of the library's data sets, judged by its own scorer.

    ## Description
    A data set makes a task from a number, which is drawn. The two splits are disjoint by a hash of the question. The
    library (`pip install 'llmenv[reasoning-gym]'`) runs in worker processes with limits of time and memory.

    Every data set of version 0.1.25 works with its own defaults, and pays its oracle answer in full, but for these:

    - composite needs its parts: `config={"datasets": [{"name": "chain_sum", "weight": 2}, {"name": "leg_counting"}]}`.
    - boxnet, graph_color, propositional_logic, rubiks_cube and rush_hour give no oracle answer.
    - game_of_life_halting is judged by comparing texts: the library's scorer takes any answer for right.
    - puzzle24 must use the task's numbers and be 24: the library's scorer takes any four numbers, and 24.5.
    - Of acre, gsm_symbolic, list_functions and word_ladder there are as many tasks as `config={"size": ...}` says, 500
      by default; of the others there is no end.

    ## Observation Space
    `TextSpace`: the question and a request for an `<answer>` block; after the step the empty text. The info of `reset`
    has `system` and `assistant_prefix`, which a prompt template places around it.

    ## Action Space
    `TextSpace`: the assistant's whole message, i.e. `assistant_prefix` followed by what the model wrote. `step`
    takes any text of any length; the work for it is bounded, and nothing in it is evaluated as code.

    ## Rewards
    `correct`: the library's scorer gives the last complete `<answer>` block outside the reasoning a full 1, as it is or
    without marks around it (`\boxed{...}`, `$...$`, `**...**`, a full stop): the better score counts. What that
    pays, with good form and without, says `llmenv.env.TaskEnv`. Where the scorer gives a part s of 1, an answer that is
    well formed (by `reward="tinyzero"`: any) earns that part of the way up: 0.1 + 0.9 s by default.

    The info of `step` has `correct`, `well_formed`, `answer` (the text of the block, or None) and `failure`: None,
    "no answer", "wrong answer", "too long", "time limit", "memory limit", or "malformed" if correct but not well
    formed.

    ## Episode End
    Terminated after one step, never truncated. Another step before `reset` raises `gymnasium.error.ResetNeeded`.

    ## Arguments
    - `dataset`: the data set's name, such as "chain_sum".
    - `config=None`: arguments of the data set, such as `{"min_terms": 2}`; its `seed` is 0 unless given.
    - `split="train"` or `"test"`; `reward="default"` or `"tinyzero"`; `reward_amounts=(1.0, 0.1, 0.0)`;
      `system=None`, `assistant_prefix=None`: see `llmenv.env.TaskEnv`.

    `reset(seed=s)` fully determines the task. `reset(options={"index": i})` sets it, of either split.

    ## References
    Stojanovski et al. 2025, "Reasoning Gym": https://arxiv.org/abs/2505.24760.
    https://github.com/open-thought/reasoning-gym

    ## Version History
    - v0: first version.
    """

    def __init__(
        self,
        dataset: str,
        config: Mapping[str, Any] | None = None,
        split: str = "train",
        reward: str = "default",
        reward_amounts: Sequence[float] = (1.0, 0.1, 0.0),
        system: str | None = None,
        assistant_prefix: str | None = None,
    ) -> None:
        super().__init__(split, reward, reward_amounts, system, assistant_prefix)
        if find_spec("reasoning_gym") is None:
            raise ValueError("reasoning-gym is not installed: pip install 'llmenv[reasoning-gym]'")
        self.dataset = dataset
        self.config = json.dumps({"seed": 0, **(config or {})}, sort_keys=True)
        self.score = 0.0
        try:
            self._task(0)
        except RuntimeError as error:
            raise ValueError(f"dataset={dataset!r} cannot be made with config={config!r}: {error}") from error

    def draw(self) -> ReasoningGymTask:
        for _ in range(_MAX_ATTEMPTS):
            task = self._task(int(self.np_random.integers(2**31)))
            if split_of_text(task.question) == self.split:
                return task
        raise ValueError(f"found no {self.split} task of {self.dataset}: give it a larger config")

    def from_options(self, options: dict[str, Any]) -> ReasoningGymTask:
        remedy = 'give options={"index": i}, with i an integer of at least 0'
        number = index_from(options, remedy)
        if number < 0:
            raise ValueError(f"there is no task {number}: {remedy}")
        return self._task(number)

    def _task(self, number: int) -> ReasoningGymTask:
        entry = _TASKS.call(self.dataset, self.config, str(number))
        return ReasoningGymTask(number, entry["question"], entry["answer"] or "")

    def _score(self, task: ReasoningGymTask, answer: str) -> float:
        if answer and answer == task.answer.strip():  # the parser strips answers, and some scorers mind
            return 1.0
        return min(max(_SCORES.call(self.dataset, self.config, str(task.number), answer), 0.0), 1.0)

    def solution(self, task: ReasoningGymTask) -> str:
        return task.answer

    def question(self, task: ReasoningGymTask) -> str:
        return f"{task.question}\n{ANSWER_IN_TAGS}"

    def verify(self, task: ReasoningGymTask, answer: str) -> str | None:
        self.score = 0.0
        if len(answer) > _MAX_LENGTH:
            return "too long"
        try:
            self.score = max(self._score(task, text) for text in dict.fromkeys((answer, bare(answer))))
        except TimeLimit:
            return "time limit"
        except MemoryLimit:
            return "memory limit"
        return None if self.score == 1.0 else "wrong answer"

    def bonus(self, task: ReasoningGymTask, response: Response) -> float:
        full, partial, _ = self.reward_amounts
        if response.answer is None or not 0.0 < self.score < 1.0:
            return 0.0
        return self.score * (full - partial) if response.well_formed or self.reward == "tinyzero" else 0.0
