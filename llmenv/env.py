"""Text environments for Gymnasium: strings in, strings out; knows no tokens, no chat template and no model."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Any, Generic, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator

from llmenv.misspelt import nearest
from llmenv.text import Response, parse_response

Task = TypeVar("Task")


class TextSpace(gym.Space[str]):
    """Any Unicode text of at most `max_length` characters.

    `gymnasium.spaces.Text` lists its characters one by one; this space admits all of them. Being a custom
    space it has no shared-memory form: an asynchronous vector environment needs `shared_memory=False`.

    Args:
        max_length: the greatest length of a member, in characters (code points).
        seed: seed or generator for `sample`.
    """

    def __init__(self, max_length: int = 2**20, seed: int | np.random.Generator | None = None) -> None:
        if max_length < 0:
            raise ValueError(f"max_length must be 0 or more, not {max_length}")
        self.max_length = int(max_length)
        super().__init__(shape=None, dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: None = None, probability: None = None) -> str:
        """A short random text of printable ASCII, line ends and a few wider characters."""
        if mask is not None or probability is not None:
            raise ValueError("TextSpace.sample takes neither a mask nor probabilities")
        length = self.np_random.integers(min(self.max_length, 64) + 1)
        return "".join(
            _SAMPLE_CHARACTERS[i] for i in self.np_random.integers(len(_SAMPLE_CHARACTERS), size=length)
        )

    def __repr__(self) -> str:
        return f"TextSpace(max_length={self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextSpace) and other.max_length == self.max_length


_SAMPLE_CHARACTERS = "".join(map(chr, range(32, 127))) + "\n\té×−あ🙂"


class TextEnv(gym.Env[str, str]):
    """An environment whose observations and actions are texts.

    The observation of `reset` is the first user message, that of a `step` which does not end the episode the next
    one. The info beside it has what else a prompt template places:

    - `system`: the system message, from `reset` alone;
    - `assistant_prefix`: the beginning of the assistant's turn, to be put into the prompt;
    - `continues`: true where the observation of a `step` is no user message, but goes on with the assistant's own,
      as the result of a tool does: it is appended as it stands, and the model writes on from there.

    An action is the assistant's whole message: `assistant_prefix` followed by what the model wrote. Where the
    observation continued a message, it is what the model wrote since.

    Attributes:
        stop_strings: texts that end the model's writing beside its own end of a message, such as `</tool>`. The action
            has them, and may have a few characters more: those that came with the last token.
        num_tasks: where the tasks are the rows of a data set, how many there are: `reset(options={"index": i})`
            sets row i, so that a trainer can go through all of them. None where tasks are drawn without end.
        right_answer: that of the task at hand, for whoever reads the records; None where there is none to tell.
        part_weights: where episodes are of several parts, by name how much each weighs: `reset(options={"part": name})`
            begins one of that part, `info["part"]` says which it is, and what else the options have is the part's own.
            None where there are no parts.
        part_tasks: by part its `num_tasks`.
    """

    num_tasks: int | None = None
    part_weights: dict[str, float] | None = None
    part_tasks: dict[str, int | None] | None = None
    right_answer: str | None = None
    stop_strings: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.observation_space = TextSpace()
        self.action_space = TextSpace()


def make_env(env_id: str, env_config: dict[str, Any]) -> gym.Env[str, str]:
    """`gymnasium.make` without the wrappers that check a text environment's spaces at every step.

    Args:
        env_id: "module:Id-v0", so that a Ray worker imports the module that registers it.
        env_config: arguments of the environment. Its key `wrappers` is not one of them: a list of wrappers, the
            innermost first, each a mapping from its "module:Class" to its arguments.

    Raises:
        TypeError: the environment has no such argument.
        ValueError: an entry of `wrappers` has another form.
    """
    arguments = dict(env_config)
    wrappers = arguments.pop("wrappers", ())
    try:
        env = gym.make(env_id, disable_env_checker=True, **arguments)
    except TypeError:
        _refuse_unknown(env_id, arguments)
        raise
    for entry in wrappers:
        if not (isinstance(entry, dict) and len(entry) == 1 and all(":" in name for name in entry)):
            raise ValueError(
                f'wrappers has {entry!r}: write {{"module:Class": {{argument: value}}}}, with {{}} for no arguments'
            )
        ((name, settings),) = entry.items()
        env = resolve_name(name)(env, **settings)
    return env


def _refuse_unknown(env_id: str, arguments: dict[str, Any]) -> None:
    """Gymnasium does not say what an environment could have been given instead."""
    spec = gym.registry.get(env_id.rpartition(":")[2])
    if spec is None or spec.entry_point is None:
        return
    creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    known = inspect.signature(creator).parameters
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for name in arguments:
        if name not in known and name not in inspect.signature(gym.make).parameters:
            raise TypeError(
                f"{env_id} has no argument {name!r}{nearest(name, known)}: it has {', '.join(known) or 'none'}"
            )


class TaskEnv(TextEnv, ABC, Generic[Task]):
    """A one-turn environment made of tasks and a verifier.

    A subclass says how a task is drawn (`draw`), set by hand (`from_options`), asked (`question`) and judged
    (`verify`). `reset(seed=s)` fully determines the task; all randomness is in `self.np_random`.

    `correct` is a response whose last complete answer block outside the reasoning is right by `verify`. `well_formed`
    is one with exactly one closed `<think>` block, then one `<answer>` block, and nothing but white space between and
    after; a model may repeat the `<think>` that its prompt has opened (`llmenv.text` has the fine print).

    | response | `reward="default"` | `reward="tinyzero"` |
    |---|---|---|
    | correct and well formed | 1.0 | 1.0 |
    | correct, not well formed | 0.1 | 1.0 |
    | well formed, not correct | 0.1 | 0.1 |
    | neither, with an answer block outside the reasoning | 0.0 | 0.1 |
    | neither, without one | 0.0 | 0.0 |

    The info of `step` has `correct`, `well_formed`, `answer` (the text of the block, or None) and `failure`: None,
    "no answer", "malformed" if correct but not well formed, or what `verify` says.

    Args:
        split: "train" or "test": which of two disjoint sets of tasks to draw from.
        reward: "default" or "tinyzero": the column of that table. TinyZero pays without looking at form.
        reward_amounts: in place of 1.0, 0.1 and 0.0 there.
        system: in place of the environment's own system message; "" for none.
        assistant_prefix: in place of the beginning of the assistant's message; "" where a model is to begin it itself.
    """

    system = (
        "The assistant first thinks about the reasoning process in the mind and then provides the user with "
        "the answer."
    )
    assistant_prefix = "Let me solve this step by step.\n<think>"

    def __init__(
        self,
        split: str = "train",
        reward: str = "default",
        reward_amounts: Sequence[float] = (1.0, 0.1, 0.0),
        system: str | None = None,
        assistant_prefix: str | None = None,
    ) -> None:
        super().__init__()
        if split not in ("train", "test"):
            raise ValueError(f'split must be "train" or "test", not {split!r}')
        if reward not in ("default", "tinyzero"):
            raise ValueError(f'reward must be "default" or "tinyzero", not {reward!r}')
        if len(reward_amounts) != 3:
            raise ValueError(
                f"reward_amounts must be three numbers (full, partial, none), not {reward_amounts!r}"
            )
        self.split = split
        self.reward = reward
        self.reward_amounts = tuple(float(amount) for amount in reward_amounts)
        self.task: Task | None = None
        given = {"system": system, "assistant_prefix": assistant_prefix}
        self.given_prompt = {name: text for name, text in given.items() if text is not None}
        for name, text in self.given_prompt.items():
            if not isinstance(text, str):
                raise ValueError(f'{name} must be a text, or "" for none, not {text!r}')
            setattr(self, name, text)

    @abstractmethod
    def draw(self) -> Task:
        """Draw a task of `self.split` from `self.np_random`."""

    @abstractmethod
    def from_options(self, options: dict[str, Any]) -> Task:
        """Make the task that `reset(options=...)` asks for; `ValueError` names the remedy if it cannot be."""

    @abstractmethod
    def question(self, task: Task) -> str:
        """The first user message."""

    @abstractmethod
    def verify(self, task: Task, answer: str) -> str | None:
        """Judge the text of an answer block: None if correct, else the kind of failure in a few fixed words."""

    def solution(self, task: Task) -> str | None:
        """A right answer, for the records; None, as it is here, where none is known."""
        return None

    def prompt_info(self, task: Task) -> dict[str, str]:
        """What the info of `reset` gives a prompt template: `system` and `assistant_prefix`, the same for all tasks."""
        return {"system": self.system, "assistant_prefix": self.assistant_prefix}

    def read_response(self, task: Task, action: str) -> Response:
        """Take a whole message apart; a task that asks for another form than an answer block says so here."""
        return parse_response(action)

    def bonus(self, task: Task, response: Response) -> float:
        """Reward on top of that for answer and form, such as for right steps in the reasoning; none by default."""
        return 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = None  # bad options leave no half-reset task behind
        self.task = self.from_options(options) if options else self.draw()
        self.right_answer = self.solution(self.task)
        return self.question(self.task), self.prompt_info(self.task)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Judge the assistant's whole message, a text of any length; the episode ends."""
        if self.task is None:
            raise gym.error.ResetNeeded("The episode is over or was never begun: call reset() before step().")
        if not isinstance(action, str):
            raise TypeError(f"the action must be a str, not {type(action).__name__}")
        task, self.task = self.task, None

        response = self.read_response(task, action)
        failure = "no answer" if response.answer is None else self.verify(task, response.answer)
        correct = failure is None
        if correct and not response.well_formed:
            failure = "malformed"
        info = {
            "correct": correct,
            "well_formed": response.well_formed,
            "answer": response.answer,
            "failure": failure,
        }
        form = response.well_formed if self.reward == "default" else response.answer is not None
        reward = self.reward_amounts[2 - correct - form] + self.bonus(task, response)
        return "", reward, True, False, info
