"""Data sets in the schema of TinyZero and verl: a row has its prompt, and says by its source how to judge an answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from operator import index
from typing import Any, NamedTuple

from envs.math_word import ANSWER_IN_TAGS
from envs.rows import RowEnv
from envs.verify.verifiers import verify_arithmetic, verify_integer, verify_math
from llmenv.data import Rows, load_rows
from llmenv.schema import parse_prompt

# What a data_source has in its name, in lower case, such as yolo/multiply-3_digit, DigitalLearningGmbH/MATH-lighteval,
# math_dapo, aime_2024 and numina_olympiads. The first that it has counts.
VERIFIER_OF_SOURCE = {
    "countdown": "arithmetic",
    "multiply": "integer",
    "multiplication": "integer",
    "arithmetic": "integer",
    "gsm8k": "math",
    "math": "math",
    "aime": "math",
    "amc": "math",
    "numina": "math",
}


class _Verifier(NamedTuple):
    """How to read a row's ground truth, and how to judge an answer by what was read."""

    read: Callable[[Any], Hashable]
    verify: Callable[[str, Any], str | None]


def _read_countdown(truth: Any) -> tuple[tuple[int, ...], int]:
    return tuple(index(number) for number in truth["numbers"]), index(truth["target"])


def _read_score(score: Any) -> float | None:
    if score is None:
        return None
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise ValueError(
            f'its reward_model["score"] is {score!r}, and no finite number: mend or leave it out'
        )
    return float(score)


def _read_text(truth: Any) -> str:
    if not isinstance(truth, str | int | float):
        raise TypeError
    return str(truth)


_VERIFIERS = {
    "arithmetic": _Verifier(_read_countdown, lambda answer, truth: verify_arithmetic(answer, *truth)),
    "integer": _Verifier(index, verify_integer),
    "math": _Verifier(_read_text, verify_math),
    "none": _Verifier(lambda truth: None, lambda answer, truth: "not judged"),  # of rows with a score alone
}


class DatasetTask(NamedTuple):
    """A row: its question, the verifier that judges answers and what it judges by, and the row's own prompt.

    `system` and `assistant_prefix` are None where the row leaves them to the environment, and `score` where answers are
    to be judged.
    """

    question: str
    verifier: str
    truth: Hashable
    system: str | None
    assistant_prefix: str | None
    row: int
    score: float | None = None


class DatasetEnv(RowEnv[DatasetTask]):
    """Dataset: any data set in the schema of TinyZero and verl.

    ## Description
    A row has `prompt`, a list of messages {role, content}; `reward_model`, with `ground_truth` in it; and
    `data_source`, whose name says how answers are judged:

    | a name with | verifier | `ground_truth` |
    |---|---|---|
    | countdown | "arithmetic": an expression of the numbers that makes the target | {target, numbers} |
    | multiply, multiplication, arithmetic | "integer": that one integer | an integer |
    | gsm8k, math, aime, amc, numina | "math": the same in mathematics | a text or a number |

    A row that already holds a score, as `score` in its `reward_model`, needs neither: it pays that, whatever is
    answered, as verl passes `rm_scores` through.

    A task is a row of the split, drawn uniformly, or row `i` by `reset(options={"index": i})`.

    TinyZero writes a whole prompt, made for one kind of model, into one message. It is taken apart into system,
    question and the beginning of the answer, from which a template makes a prompt for any model ("r1" makes the
    same again). Otherwise the last user message is the question, to which a request for an `<answer>` block is added
    where neither it nor the system message speaks of one.

    ## Observation Space
    `TextSpace`: the question; after the step the empty text. The info of `reset` has `system` and `assistant_prefix`,
    the row's own where it has them, which a prompt template places around it.

    ## Action Space
    `TextSpace`: the assistant's whole message, i.e. `assistant_prefix` followed by what the model wrote. `step`
    takes any text of any length; the work for it is bounded.

    ## Rewards
    `correct`: the last complete `<answer>` block outside the reasoning is right by the row's verifier
    (`llmenv.text` and `envs.verify.verifiers` have the fine print).
    What that pays, with good form and without, says `llmenv.env.TaskEnv`; a row's own score is paid as it stands.

    The info of `step` has `correct`, `well_formed`, `answer` (the text of the block, or None) and `failure`: None,
    "no answer", "malformed" if correct but not well formed, or what the verifier says, such as "wrong value". Where the
    row holds a score and nothing to judge by, an answer is never correct, but "not judged".

    ## Episode End
    Terminated after one step, never truncated. Another step before `reset` raises `gymnasium.error.ResetNeeded`.

    ## Arguments
    - `data`: where the rows are: a `.parquet` or `.jsonl` file, a folder with files whose names begin with `train` and
      `test`, or a hub id (`llmenv.data` has the details).
    - `test_data=None`: the file of the split "test". By default the one beside `data` that has "test" in its name where
      `data` has "train".
    - `verifier=None`: "arithmetic", "integer" or "math" for all rows, whatever their `data_source`.
    - `split="train"` or `"test"`; `reward="default"` or `"tinyzero"`; `reward_amounts=(1.0, 0.1, 0.0)`: see
      `llmenv.env.TaskEnv`.

    `num_tasks` is the number of rows. `reset(seed=s)` fully determines the task.

    ## References
    TinyZero: https://github.com/Jiayi-Pan/TinyZero. verl: https://github.com/volcengine/verl.
    `experiments/prepare_data.py` writes such data sets.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self,
        data: str,
        test_data: str | None = None,
        verifier: str | None = None,
        split: str = "train",
        reward: str = "default",
        reward_amounts: Sequence[float] = (1.0, 0.1, 0.0),
    ) -> None:
        super().__init__(split=split, reward=reward, reward_amounts=reward_amounts)
        known = [name for name in _VERIFIERS if name != "none"]
        if verifier is not None and verifier not in known:
            raise ValueError(f"verifier must be one of {', '.join(known)}, not {verifier!r}")
        self.verifier = verifier
        self.set_rows(self._load(data, test_data))

    def _load(self, data: str, test_data: str | None) -> Rows:
        columns = ("data_source", "prompt", "reward_model")
        if self.split == "train":
            return load_rows(data, "train", columns)
        if test_data is not None:
            return load_rows(test_data, "test", columns, unnamed_split="test")
        try:
            return load_rows(data, "test", columns)
        except ValueError as error:
            raise ValueError(f"{error}; or say by test_data= where the held-out rows are") from error

    def from_row(self, row: dict[str, Any], number: int) -> DatasetTask:
        judged_by = row.get("reward_model")
        judged_by = judged_by if isinstance(judged_by, Mapping) else {}
        truth, score = judged_by.get("ground_truth"), _read_score(judged_by.get("score"))
        if score is not None and truth is None:
            verifier = "none"
        else:
            verifier = self.verifier or _verifier_of(row.get("data_source"))
        try:
            truth = _VERIFIERS[verifier].read(truth)
        except (TypeError, KeyError) as error:
            raise ValueError(
                f'its reward_model["ground_truth"] is {truth!r}, nothing that the verifier {verifier!r} can judge by: '
                "choose another by verifier="
            ) from error
        prompt = parse_prompt(row.get("prompt") or ())
        question = prompt.question
        if "<answer>" not in f"{prompt.system}{question}":
            question = f"{question}\n{ANSWER_IN_TAGS}"
        return DatasetTask(question, verifier, truth, prompt.system, prompt.assistant_prefix, number, score)

    def solution(self, task: DatasetTask) -> str | None:
        return None if task.truth is None else str(task.truth)

    def question(self, task: DatasetTask) -> str:
        return task.question

    def prompt_info(self, task: DatasetTask) -> dict[str, str]:
        own = {"system": task.system, "assistant_prefix": task.assistant_prefix}
        return super().prompt_info(task) | {key: text for key, text in own.items() if text is not None}

    def verify(self, task: DatasetTask, answer: str) -> str | None:
        return _VERIFIERS[task.verifier].verify(answer, task.truth)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        score = self.task.score if self.task is not None else None
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward if score is None else score, terminated, truncated, info


def _verifier_of(data_source: Any) -> str:
    for word, verifier in VERIFIER_OF_SOURCE.items():
        if word in str(data_source).lower():
            return verifier
    raise ValueError(
        f"no verifier is known for its data_source, {data_source!r}, but for names with "
        f'{", ".join(VERIFIER_OF_SOURCE)}: choose one for all rows, such as verifier="math"'
    )
