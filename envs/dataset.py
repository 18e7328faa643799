"""Data sets in the schema of TinyZero and verl: a row has its prompt, and says by its source how to judge an answer."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from envs.countdown import QUESTION as COUNTDOWN_QUESTION
from envs.math_word import ANSWER_IN_TAGS
from envs.rows import RowEnv
from envs.sources import load_source
from envs.truths import VERIFIERS, read_judge
from llmenv.data import Rows, load_rows
from llmenv.schema import Prompt, parse_prompt
from llmenv.text import Response, answer_by_mark, parse_response

COLUMNS = ("data_source", "prompt", "reward_model", "reward_spec", "nums", "target")
# A prompt asks for an answer block by both tags, or by words about one; elsewhere "<answer>" stands for an answer, as
# in "#### <answer>".
_BLOCK = re.compile(
    r"<answer>.*</answer>|\A<answer>|<answer>\W?\s?(?:tag|block)"
    r"|\b(?:in|inside|into|within|between|with|use|using|by|and)\s+[`'\"]?<answer>",
    re.DOTALL | re.IGNORECASE,
)
_MARK = re.compile(
    r"####|\\boxed|\banswer:", re.IGNORECASE
)  # other forms of answers that a prompt may ask for


class DatasetTask(NamedTuple):
    """A row: its question, the verifier that judges answers and what it judges by, and the row's own prompt.

    `system` and `assistant_prefix` are None where the row leaves them to the environment, and `score` where answers are
    to be judged. `mark` is what begins the answer where the row's prompt asks for another form than a block.
    """

    question: str
    verifier: str
    truth: Hashable
    system: str | None
    assistant_prefix: str | None
    row: int
    score: float | None = None
    mark: str | None = None


class DatasetEnv(RowEnv[DatasetTask]):
    """Dataset: any data set in the schema of TinyZero and verl.

    ## Description
    A row has `prompt`, a list of messages {role, content}; `reward_model` (SkyRL's `reward_spec`), with `ground_truth`
    in it; and `data_source`, whose name says how answers are judged:

    | a name with the word | verifier | `ground_truth` |
    |---|---|---|
    | countdown | "arithmetic": an expression of the numbers that makes the target | {target, numbers} of integers |
    | multiply, multiplication, arithmetic | "integer": that one integer | an integer |
    | gsm8k, math, aime, amc, numina | "math": the same in mathematics | a text, a number, a solution |

    (`envs.truths` has all names, `envs.golds` all forms of a mathematical ground truth.)

    A row with `nums` and `target` alone, as in Countdown-Tasks-3to4, is asked as `Countdown-v0` asks.

    A row that already holds a score, as `score` in its `reward_model`, needs neither: it pays that, whatever is
    answered, as verl passes `rm_scores` through.

    A task is a row of the split, drawn uniformly, or row `i` by `reset(options={"index": i})`.

    TinyZero writes a whole prompt, made for one kind of model, into one message. It is taken apart into system,
    question and the beginning of the answer, from which a template makes a prompt for any model ("r1" makes the
    same again). Otherwise the user message is the question, and an assistant's message behind it the beginning of the
    answer; rows with more turns are refused, since none may be lost. Where neither question nor system message asks for
    an `<answer>` block, a request for one is added.

    A row that cannot be read is refused, the first when the environment is made, any other when it is drawn:
    `experiments/prepare_data.py --check-data` tells of all at once.

    ## Observation Space
    `TextSpace`: the question; after the step the empty text. The info of `reset` has `system` and `assistant_prefix`,
    the row's own where it has them, which a prompt template places around it.

    ## Action Space
    `TextSpace`: the assistant's whole message, i.e. `assistant_prefix` followed by what the model wrote. `step`
    takes any text of any length; the work for it is bounded.

    ## Rewards
    `correct`: the last complete `<answer>` block outside the reasoning is right by the row's verifier
    (`llmenv.text` and `envs.verify.verifiers` have the fine print). Where the row's own prompt asks for a last line
    `#### x` or `Answer: x`, or for a box, and there is no block, that is the answer; it is not well formed.
    What that pays, with good form and without, says `llmenv.env.TaskEnv`; a row's own score is paid as it stands.

    The info of `step` has `correct`, `well_formed`, `answer` (the text of the block, or None) and `failure`: None,
    "no answer", "malformed" if correct but not well formed, or what the verifier says, such as "wrong value". Where the
    row holds a score and nothing to judge by, an answer is never correct, but "not judged".

    ## Episode End
    Terminated after one step, never truncated. Another step before `reset` raises `gymnasium.error.ResetNeeded`.

    ## Arguments
    - `data`: where the rows are: a `.parquet` or `.jsonl` file, a folder with files whose names begin with `train` and
      `test`, or a hub id (`llmenv.data` has the details), or a name in `envs.sources`, such as "dapo-math-17k".
    - `test_data=None`: the file of the split "test". By default the one beside `data` that has "test" in its name where
      `data` has "train".
    - `verifier=None`: "arithmetic", "integer" or "math" for all rows, whatever their `data_source`.
    - `split="train"` or `"test"`; `reward="default"` or `"tinyzero"`; `reward_amounts=(1.0, 0.1, 0.0)`;
      `system=None`, `assistant_prefix=None`: see `llmenv.env.TaskEnv`.

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
        system: str | None = None,
        assistant_prefix: str | None = None,
    ) -> None:
        super().__init__(split, reward, reward_amounts, system, assistant_prefix)
        known = [name for name in VERIFIERS if name != "none"]
        if verifier is not None and verifier not in known:
            raise ValueError(f"verifier must be one of {', '.join(known)}, not {verifier!r}")
        self.verifier = verifier
        self.set_rows(self._load(data, test_data))

    def _load(self, data: str, test_data: str | None) -> Rows:
        if self.split == "train":
            return load_source(data, "train", COLUMNS)
        if test_data is not None:
            return load_rows(test_data, "test", COLUMNS, unnamed_split="test")
        try:
            return load_source(data, "test", COLUMNS)
        except ValueError as error:
            raise ValueError(f"{error}; or say by test_data= where the held-out rows are") from error

    def from_row(self, row: dict[str, Any], number: int) -> DatasetTask:
        row, prompt = _with_prompt(row)
        judge = read_judge(row, self.verifier)
        prompt = prompt or parse_prompt(row.get("prompt") or ())
        question, mark = prompt.question, None
        asked = f"{prompt.system}\n{question}"
        if not (_BLOCK.search(prompt.system or "") or _BLOCK.search(question)):
            question = f"{question}\n{ANSWER_IN_TAGS}"
            own = _MARK.search(asked)
            mark = own[0] if own else None
        own_prompt = (prompt.system, prompt.assistant_prefix)
        return DatasetTask(question, judge.verifier, judge.truth, *own_prompt, number, judge.score, mark)

    def solution(self, task: DatasetTask) -> str | None:
        return None if task.truth is None else str(task.truth)

    def question(self, task: DatasetTask) -> str:
        return task.question

    def prompt_info(self, task: DatasetTask) -> dict[str, str]:
        texts = {"system": task.system, "assistant_prefix": task.assistant_prefix}
        own = {key: text for key, text in texts.items() if text is not None}
        return super().prompt_info(task) | own | self.given_prompt

    def verify(self, task: DatasetTask, answer: str) -> str | None:
        return VERIFIERS[task.verifier].verify(answer, task.truth)

    def read_response(self, task: DatasetTask, action: str) -> Response:
        response = parse_response(action)
        if response.answer is None and task.mark:
            return response._replace(answer=answer_by_mark(action, task.mark))
        return response

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        score = self.task.score if self.task is not None else None
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward if score is None else score, terminated, truncated, info


def _with_prompt(row: dict[str, Any]) -> tuple[dict[str, Any], Prompt | None]:
    """A row of Countdown-Tasks-3to4, which has no prompt, asked as `Countdown-v0` asks; any other as it is."""
    if row.get("prompt") or row.get("nums") is None or row.get("reward_model") is not None:
        return row, None
    truth = {"numbers": row["nums"], "target": row.get("target")}
    question = COUNTDOWN_QUESTION.replace("{numbers}", str(row["nums"])).replace(
        "{target}", str(row.get("target"))
    )
    return {"data_source": "countdown", "reward_model": {"ground_truth": truth}}, Prompt(question)
