"""Supervised fine-tuning: the cross-entropy of the assistant's words in conversations that are to be imitated.

L = -(1 / N) sum_i sum_t log p(y_it | all before it), over the N response tokens of a batch, on all learners: the loss
of InstructGPT's first stage (2203.02155, section 3.5) and of DeepSeek-R1's cold start (Nature 645, 633, 2025). Learning
rate and denominator are those of a plain loop of AdamW over such batches. Deviations: prompts have no loss, in any
turn; the last batch of an epoch is filled up with rows of the next one; and a conversation is never packed into
another's context.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm_config import NotProvided

from algorithms import tasks
from algorithms.base import LLMAlgorithm
from algorithms.config import LLMConfig
from algorithms.learner import PolicyLearner
from algorithms.sections.paths import absolute
from llmenv.conversations import load_demonstrations, parse_conversation
from llmenv.episode import TextEpisode, derive_seed
from llmenv.models.demonstration import Demonstration, demonstrate
from llmenv.models.fit import check_scaling, positions_of
from llmenv.models.names import trust_remote_code
from llmenv.models.renderer import Renderer
from llmenv.policy.batch import TokenRow
from llmenv.policy.plan import plan_update
from llmenv.rollout import row_at

logger = logging.getLogger(__name__)


class SFTConfig(LLMConfig):
    """Settings of SFT. A batch is `prompts_per_iteration` rows; the environment is what the policy is evaluated in."""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class or SFT)
        self.group_size = 1
        self.data: str | None = None
        self.validation: float | str | None = None
        self.epochs: float | None = None
        self.only_right = True
        self.max_row_tokens: int | None = None
        self.overlong_rows = "error"

    def demonstrations(
        self,
        *,
        data: str = NotProvided,
        validation: float | str | None = NotProvided,
        epochs: float | None = NotProvided,
        only_right: bool = NotProvided,
        max_row_tokens: int | None = NotProvided,
        overlong_rows: str = NotProvided,
    ) -> SFTConfig:
        """Sets what is imitated.

        Args:
            data: A parquet or JSONL file, a folder of them, a hub id, or the folder of an evaluation (see
                `llmenv.conversations`).
            validation: What is held out, to tell the loss on it at each evaluation: a share of the rows, the same ones
                in every run, or another source. None: nothing.
            epochs: Passes over the rows: as many iterations as these take. None: as `run.iterations` has it.
            only_right: Of the records of an evaluation, imitate those alone that are right.
            max_row_tokens: The most that a row may take. None: as many as the model has positions.
            overlong_rows: A longer one is an "error", or is left out and counted: "drop". None is cut: without its end
                a response teaches never to end.
        """
        return self._set(
            data=absolute(data),
            validation=absolute(validation),
            epochs=epochs,
            only_right=only_right,
            max_row_tokens=max_row_tokens,
            overlong_rows=overlong_rows,
        )

    def validate(self) -> None:
        super().validate()
        if not self.in_evaluation and self.temperature != 1:
            raise ValueError(
                f"{self.method} learns the probabilities of the model as it is: leave temperature at 1, and set that "
                "of evaluations by evaluation(evaluation_config={'temperature': ...})"
            )
        refuse_settings_of_comparisons(self)
        if self.data is None:
            raise ValueError(
                f"{self.method} needs rows to imitate: --set data=FILE, or demonstrations(data=...)"
            )
        if self.group_size != 1:
            raise ValueError(
                f"{self.method} has rows and no groups: set group_size=1, and prompts_per_iteration to the size of a "
                "batch"
            )
        if self.num_epochs != 1:
            raise ValueError(
                "num_epochs would repeat each batch: for passes over the rows set demonstrations.epochs"
            )

    def iterations_of(self, epochs: float) -> int:
        """How many iterations so many passes over the rows take; the last batch may begin another one."""
        train, _ = read_demonstrations(self)
        return math.ceil(epochs * len(train) / self.prompts_per_iteration)

    def get_default_learner_class(self) -> type[PolicyLearner]:
        return PolicyLearner


def refuse_settings_of_comparisons(config: LLMConfig) -> None:
    """Refuses what a likelihood does not have: a KL to a reference, and a bonus for entropy."""
    for name in ("kl_coeff", "entropy_coeff"):
        if getattr(config, name):
            raise ValueError(f"{config.method} has no such term in its loss: leave {name} at 0")


class SFT(LLMAlgorithm):
    """Reads rows, steps, syncs; samples for evaluations alone."""

    config: SFTConfig

    @classmethod
    def get_default_config(cls) -> SFTConfig:
        return SFTConfig()

    def setup(self, config: SFTConfig) -> None:
        # Rows are read before anything is started, so that a bad one costs nothing.
        self._train, self._held_out = read_demonstrations(self.config)
        digest = hashlib.sha256()
        for one in (*self._train, *self._held_out):
            digest.update(one.token_ids.tobytes() + one.response_mask.tobytes())
        self._digest = digest.hexdigest()
        super().setup(config)

    def iteration_rows(self) -> list[TokenRow]:
        """The next rows of an endless walk, each epoch of which is a permutation drawn from the seed and its number."""
        size, count = self.config.prompts_per_iteration, len(self._train)
        start = self.num_updates * size
        keys = (tasks.DEMONSTRATIONS_STREAM, self.config.root_seed)
        chosen = [row_at(position, count, *keys) for position in range(start, start + size)]
        rows = to_imitate([self._train[i] for i in chosen])
        num_tokens = sum(row.num_response_tokens for row in rows)
        self.log_rollout(
            {
                "num_episodes": len(rows),
                "num_tokens": sum(map(len, rows)),
                "num_response_tokens": num_tokens,
                "response_length": num_tokens / len(rows),
                "epoch": (start + size) / count,
            }
        )
        return rows

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**super().get_state(*args, **kwargs), "demonstrations": self._digest}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on with the rows that were begun with.

        Raises:
            ValueError: If these are others.
        """
        if state.get("demonstrations", self._digest) != self._digest:
            raise ValueError(
                f"{self.config.data} holds other rows than those that the checkpoint has learned from, or they are "
                "rendered otherwise: give the old ones back, or start a new run from its policy"
            )
        super().set_state({name: value for name, value in state.items() if name != "demonstrations"})

    def assign_credit(self, episodes: Sequence[TextEpisode]) -> np.ndarray:
        raise NotImplementedError("rows that are imitated have no rewards")

    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """As of any algorithm; under "validation" there is, with rows that are held out, the loss on them."""
        results = super().evaluate(parallel_train_future)
        return {**results, "validation": {"loss": self.validation_loss()}} if self._held_out else results

    def validation_loss(self) -> float:
        """The mean over the response tokens of the rows that are held out."""
        config, rows = self.config, to_imitate(self._held_out)
        plan = plan_update(
            rows,
            minibatch_size=len(rows),
            micro_batch_tokens=config.micro_batch_tokens,
            num_learners=max(1, config.num_learners),
            rng=np.random.default_rng(0),
            shared_prompts=self._shared_prompts,
            costs=self._costs,
        )
        shares = [minibatches[0] for minibatches in plan]
        losses = self.learner_group.on_all(lambda one: one.validation_loss(shares[one._learner_index]))
        return float(losses[0])


def to_imitate(demonstrations: Sequence[Demonstration]) -> list[TokenRow]:
    """As rows of a batch, each a group of its own."""
    return [TokenRow.to_imitate(*one, group=i) for i, one in enumerate(demonstrations)]


def read_demonstrations(config: SFTConfig) -> tuple[list[Demonstration], list[Demonstration]]:
    """The rows in tokens: those to learn from, and those that are held out.

    Raises:
        ValueError: If a source cannot be read, or a row cannot be imitated; the message names the row.
    """
    trust_remote_code(config.trust_remote_code)
    renderer = Renderer.from_model(config.base_model, config.template, config.template_kwargs)
    limit = config.max_row_tokens or positions_of(config.base_model)
    check_scaling(config.base_model, limit)
    assert config.data is not None
    rows = _read(config.data, "train", config, renderer, limit)
    if isinstance(config.validation, str):
        return rows, _read(config.validation, "test", config, renderer, limit)
    count = round((config.validation or 0.0) * len(rows))
    if config.validation and not 0 < count < len(rows):
        raise ValueError(
            f"demonstrations.validation={config.validation} of {len(rows)} rows is {count}: neither may be empty, what "
            "is learned and what is held out"
        )
    order = np.random.default_rng(derive_seed(tasks.VALIDATION_STREAM)).permutation(len(rows))
    return [rows[i] for i in sorted(order[count:])], [rows[i] for i in sorted(order[:count])]


def _read(
    data: str, split: str, config: SFTConfig, renderer: Renderer, limit: int | None
) -> list[Demonstration]:
    rows, wanted = load_demonstrations(data, only_right=config.only_right, split=split)
    found, longest = [], 0
    for i in wanted:
        try:
            one = demonstrate(parse_conversation(rows[i]), renderer)
        except ValueError as error:
            raise ValueError(f"{rows.where(i)}: {error}") from error
        size = len(one.token_ids)
        if limit is None or size <= limit:
            found.append(one)
        elif config.overlong_rows == "error":
            raise ValueError(
                f"{rows.where(i)} takes {size} tokens, {int(one.response_mask.sum())} of them responses, and {limit} "
                "is the most: shorten it, or leave out what is longer with demonstrations.overlong_rows=drop"
            )
        longest = max(longest, size)
    if not found:
        raise ValueError(f"every row of {rows.origin} takes more than {limit} tokens: none is left")
    if dropped := len(wanted) - len(found):
        logger.warning(
            "%d of %d rows of %s take more than %d tokens (the longest %d), and are left out",
            *(dropped, len(wanted), rows.origin, limit, longest),
        )
    return found
