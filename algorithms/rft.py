"""Expert iteration: samples groups, keeps what is right, and imitates it.

L = -(1 / N) sum_{i kept} sum_t log p(y_it | all before it), over the N tokens of the kept samples: SFT's loss
(`algorithms.sft`) on the policy's own right answers, drawn anew each iteration. With keep="best" it is RAFT (Dong et
al., 2304.06767), with "all" the loop of RFT (Yuan et al., 2308.01825); as a policy gradient it is GRPO's with
advantages of 1 and 0 and no ratio. Deviations: each iteration starts from the last one's weights (RFT: from the base),
and log p is at the sampling temperature. Known to narrow the policy: entropy falls sooner than with GRPO (Xiong et al.,
2504.11343).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm_config import NotProvided

from algorithms.base import LLMAlgorithm
from algorithms.config import LLMConfig
from algorithms.learner import PolicyLearner
from algorithms.sft import refuse_settings_of_comparisons
from llmenv.episode import TextEpisode
from llmenv.policy.batch import TokenRow
from llmenv.selection import Sample, kept


class RFTConfig(LLMConfig):
    """Settings of expert iteration."""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class or RFT)
        self.keep = "all"
        self.most_kept: int | None = None

    def training(
        self, *, keep: str = NotProvided, most_kept: int | None = NotProvided, **kwargs: Any
    ) -> RFTConfig:
        """Sets what is kept, beside all that `LLMConfig.training` sets.

        Args:
            keep: Of a group's right samples "all", the "best" or the "shortest".
            most_kept: At most so many of a group, and the fewer the more of it are right (see
                `llmenv.selection.quota`). None: any number.
            **kwargs: See `LLMConfig.training`.
        """
        super().training(**kwargs)
        return self._set(keep=keep, most_kept=most_kept)

    def validate(self) -> None:
        super().validate()
        refuse_settings_of_comparisons(self)

    def get_default_learner_class(self) -> type[PolicyLearner]:
        return PolicyLearner


class RFT(LLMAlgorithm):
    """Samples groups, keeps what is right, steps, syncs."""

    config: RFTConfig

    @classmethod
    def get_default_config(cls) -> RFTConfig:
        return RFTConfig()

    @property
    def compared(self) -> int:
        """A sample that is alone in its group is as good as any."""
        return 1

    def assign_credit(self, episodes: Sequence[TextEpisode]) -> np.ndarray:
        """1 for what is kept, 0 for the others."""
        weights = np.zeros(len(episodes))
        weights[kept([_sample(episode) for episode in episodes], self.config.keep, self.config.most_kept)] = (
            1.0
        )
        self.log_rollout({"num_kept": float(weights.sum())})
        return weights

    def make_rows(self, episodes: Sequence[TextEpisode], advantages: np.ndarray) -> list[TokenRow]:
        """What is not kept is not in the batch: it does not count in the denominator either."""
        pairs = zip(episodes, advantages, strict=True)
        return [replace(self.row(episode, 1.0), supervised=True) for episode, weight in pairs if weight]


def _sample(episode: TextEpisode) -> Sample:
    """Right is what the environment says to be; where it says nothing, what it pays for. Never what was cut."""
    said = episode.turns[-1].info.get("correct")
    right = episode.total_reward > 0 if said is None else bool(said)
    cut = episode.truncated or episode.hit_length_cap
    return Sample(episode.group, right and not cut, episode.total_reward, episode.response_length)
