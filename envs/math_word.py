"""Mathematics in words: GSM8K, MATH, and other data sets of their two forms."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from envs.golds import COLUMNS, read_gold, read_question, right_answer
from envs.rows import RowEnv
from envs.sources import SOURCES, load_source
from envs.verify.verifiers import verify_math
from llmenv.data import Rows, load_rows, split_files

ANSWER_IN_TAGS = (
    "Show your work in <think> </think> tags. And return the final answer in <answer> </answer> tags."
)
GSM8K_QUESTION = f"{{question}}\n{ANSWER_IN_TAGS}"
MATH_QUESTION = f"{GSM8K_QUESTION} It may be LaTeX, for example <answer> \\frac{{1}}{{2}} </answer>."
_SAMPLES = Path(__file__).parent / "samples"


class MathTask(NamedTuple):
    """A question, its right answer, and the number of the row that holds them (None: set by hand)."""

    question: str
    answer: str
    row: int | None = None


class MathWordEnv(RowEnv[MathTask]):
    """The base of `GSM8KEnv` and `MATHEnv`, which say how to ask, and where their rows are, when nobody else does.

    Args:
        data: a source of rows (`llmenv.data` has the forms), a name in `envs.sources`, "sample", or None for the usual
            places.
        question: the wording, with the field {question}; None for the class's own.
        split: see `TaskEnv`.
        reward: see `TaskEnv`.
        reward_amounts: see `TaskEnv`.
    """

    wording: str
    sample: str  # file in envs/samples
    folders: tuple[str, ...]  # in $LLMENV_DATA; the first that has the split
    source: dict[str, str]  # split -> name in `envs.sources`

    def __init__(
        self,
        data: str | None = None,
        question: str | None = None,
        split: str = "train",
        reward: str = "default",
        reward_amounts: Sequence[float] = (1.0, 0.1, 0.0),
        system: str | None = None,
        assistant_prefix: str | None = None,
    ) -> None:
        super().__init__(split, reward, reward_amounts, system, assistant_prefix)
        if question is not None:
            self.wording = question
        if "{question}" not in self.wording:
            raise ValueError("question must have the field {question}")
        self.set_rows(self._load(data))

    def _load(self, data: str | None) -> Rows:
        if data is not None:
            return load_source(str(_SAMPLES / self.sample) if data == "sample" else data, self.split, COLUMNS)
        if root := os.environ.get("LLMENV_DATA"):
            for folder in self.folders:
                if split_files(Path(root) / folder, self.split):
                    return load_rows(Path(root) / folder, self.split, COLUMNS)
        try:
            return load_rows(SOURCES[self.source[self.split]].hub(self.split) or "", self.split, COLUMNS)
        except ValueError as error:
            folders = " or ".join(f"$LLMENV_DATA/{folder}" for folder in self.folders)
            raise ValueError(
                f"found no data. Say where it is by data=, a file, a folder or a hub id; or put {self.split}.jsonl or "
                f'{self.split}.parquet into {folders}; or take data="sample", the few rows that come with the package; '
                f"or mend this: {error}"
            ) from error

    def from_row(self, row: dict[str, Any], number: int) -> MathTask:
        return MathTask(read_question(row), right_answer(row), number)

    def from_options(self, options: dict[str, Any]) -> MathTask:
        if "index" in options:
            return super().from_options(options)
        if set(options) != {"question", "answer"} or not all(isinstance(v, str) for v in options.values()):
            raise ValueError(
                f'options has the keys {sorted(map(str, options))}: give options={{"index": 0}}, or a text for each of '
                '"question" and "answer"'
            )
        if not (answer := read_gold(options["answer"], 'options["answer"]')):
            raise ValueError(
                'options["answer"] says nothing: give options={"question": ..., "answer": ...} with an answer'
            )
        return MathTask(options["question"], answer)

    def solution(self, task: MathTask) -> str:
        return task.answer

    def question(self, task: MathTask) -> str:
        # str.replace, not str.format: the wording may have braces of its own, such as \frac{}{}
        return self.wording.replace("{question}", task.question)

    def verify(self, task: MathTask, answer: str) -> str | None:
        return verify_math(answer, task.answer)


class GSM8KEnv(MathWordEnv):
    """GSM8K: word problems of grade school, whose answers are numbers.

    ## Description
    7,473 problems to train on and 1,319 held out, by Cobbe et al.; each takes two to eight steps of arithmetic. A task
    is a row of the split, drawn uniformly, or row `i` by `reset(options={"index": i})`.

    Rows have `question` (or `problem`) and `answer`: the solution with the final answer after "####", or that answer
    alone, which is the form of other collections of word problems. What stands in `body` goes before the question, and
    a unit in brackets, `9 (apples)`, is left out of the answer: so ASDiv and SVAMP are read, too (`envs.golds` has all
    forms).

    ## Observation Space
    `TextSpace`: the question, and how to answer it; after the step the empty text. The info of `reset` has `system`
    and `assistant_prefix`, which a prompt template places around it.

    ## Action Space
    `TextSpace`: the assistant's whole message, i.e. `assistant_prefix` followed by what the model wrote. `step`
    takes any text of any length; the work for it is bounded.

    ## Rewards
    `correct`: the last complete `<answer>` block outside the reasoning equals the right answer as mathematics: `18`,
    `18.0` and `$18` do (`llmenv.text` and `envs.verify.verifiers` have the fine print).
    What that pays, with good form and without, says `llmenv.env.TaskEnv`.

    The info of `step` has `correct`, `well_formed`, `answer` (the text of the block, or None) and `failure`: None,
    "no answer", "malformed" if correct but not well formed, or what `envs.verify.verifiers.verify_math` says:
    "wrong value", "not an expression", "too long", "time limit" or "memory limit".

    ## Episode End
    Terminated after one step, never truncated. Another step before `reset` raises `gymnasium.error.ResetNeeded`.

    ## Arguments
    - `data=None`: where the rows are. A `.parquet` or `.jsonl` file, a folder of those or a hub id (`llmenv.data` says
      how splits are found), a name in `envs.sources`, or "sample": a few rows of the package. By default the folder
      `$LLMENV_DATA/gsm8k`, else `openai/gsm8k` from the hub (needs `pip install 'llmenv[datasets]'`).
    - `question=...`: the wording, with the field `{question}`.
    - `split="train"` or `"test"`; `reward="default"` or `"tinyzero"`; `reward_amounts=(1.0, 0.1, 0.0)`;
      `system=None`, `assistant_prefix=None`: see `llmenv.env.TaskEnv`.

    `num_tasks` is the number of rows. `reset(seed=s)` fully determines the task; `reset(options={"index": 7})` sets row
    7, and `reset(options={"question": "What is 6 times 7?", "answer": "42"})` any question.

    ## References
    Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems": https://arxiv.org/abs/2110.14168.

    ## Version History
    - v0: first version.
    """

    wording = GSM8K_QUESTION
    sample = "gsm8k.jsonl"
    folders = ("gsm8k",)
    source = {"train": "gsm8k", "test": "gsm8k"}  # noqa: RUF012


class MATHEnv(MathWordEnv):
    r"""MATH: problems of mathematics competitions, whose answers are LaTeX.

    ## Description
    7,500 problems to train on, by Hendrycks et al., and 500 held out, MATH-500. A task is a row of the split, drawn
    uniformly, or row `i` by `reset(options={"index": i})`.

    Rows have `problem` (or `question`) and `answer`, the final answer, or without it `solution`, where the last
    `\boxed{}` holds that, or the boxes of the last sentence do together (`envs.golds` has all forms).

    ## Observation Space
    `TextSpace`: the problem, and how to answer it; after the step the empty text. The info of `reset` has `system`
    and `assistant_prefix`, which a prompt template places around it.

    ## Action Space
    `TextSpace`: the assistant's whole message, i.e. `assistant_prefix` followed by what the model wrote. `step`
    takes any text of any length; the work for it is bounded.

    ## Rewards
    `correct`: the last complete `<answer>` block outside the reasoning equals the right answer as mathematics: for
    `\frac{1}{2}`, `1/2` and `0.5` do (`llmenv.text` and `envs.verify.verifiers` have the fine print).
    What that pays, with good form and without, says `llmenv.env.TaskEnv`. Where the right answer is a number, an
    expression that is yet to be computed is not one: neither the question's own, such as `99^2+99+1` for 9901 or
    `\sqrt{242}` for `11\sqrt{2}`, nor another sum, product, root or function of numbers for plain digits.

    The info of `step` has `correct`, `well_formed`, `answer` (the text of the block, or None) and `failure`: None,
    "no answer", "malformed" if correct but not well formed, or what `envs.verify.verifiers.verify_math` says:
    "wrong value", "not an expression", "too long", "time limit", "memory limit" or "not computed".

    ## Episode End
    Terminated after one step, never truncated. Another step before `reset` raises `gymnasium.error.ResetNeeded`.

    ## Arguments
    - `data=None`: where the rows are. A `.parquet` or `.jsonl` file, a folder of those or a hub id (`llmenv.data` says
      how splits are found), a name in `envs.sources`, or "sample": a few rows of the package. By default the folder
      `$LLMENV_DATA/math`, or for the split "test" `$LLMENV_DATA/math500`; else, from the hub (needs
      `pip install 'llmenv[datasets]'`), `DigitalLearningGmbH/MATH-lighteval` to train and `HuggingFaceH4/MATH-500`
      to test.
    - `question=...`: the wording, with the field `{question}`.
    - `split="train"` or `"test"`; `reward="default"` or `"tinyzero"`; `reward_amounts=(1.0, 0.1, 0.0)`;
      `system=None`, `assistant_prefix=None`: see `llmenv.env.TaskEnv`.
    - `unsimplified="refuse"`: what becomes of expressions that are yet to be computed; "accept" pays for them too.

    `num_tasks` is the number of rows. `reset(seed=s)` fully determines the task; `reset(options={"index": 7})` sets row
    7, and `reset(options={"question": "Halve $x$.", "answer": "\\frac{x}{2}"})` any question.

    ## References
    Hendrycks et al. 2021, "Measuring Mathematical Problem Solving With the MATH Dataset":
    https://arxiv.org/abs/2103.03874. Lightman et al. 2023, "Let's Verify Step by Step" (MATH-500):
    https://arxiv.org/abs/2305.20050.

    ## Version History
    - v0: first version.
    """

    wording = MATH_QUESTION
    sample = "math.jsonl"
    folders = ("math", "math500")  # the latter has a test split only
    source = {"train": "math", "test": "math500"}  # noqa: RUF012

    def __init__(
        self,
        data: str | None = None,
        question: str | None = None,
        split: str = "train",
        reward: str = "default",
        reward_amounts: Sequence[float] = (1.0, 0.1, 0.0),
        unsimplified: str = "refuse",
        system: str | None = None,
        assistant_prefix: str | None = None,
    ) -> None:
        if unsimplified not in ("refuse", "accept"):
            raise ValueError(f'unsimplified is {unsimplified!r}: "refuse" or "accept"')
        self.unsimplified = unsimplified
        super().__init__(data, question, split, reward, reward_amounts, system, assistant_prefix)

    def verify(self, task: MathTask, answer: str) -> str | None:
        return verify_math(answer, task.answer, task.question if self.unsimplified == "refuse" else "")
