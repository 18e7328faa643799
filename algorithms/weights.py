"""The policy's weights and module under the names that RLlib's users know."""

from __future__ import annotations

from typing import Any

from ray.rllib.core import DEFAULT_MODULE_ID


class WeightsByRLlibsNames:
    """Of an algorithm whose learners hold the weights."""

    learner_group: Any

    def get_weights(self, policies: Any = None) -> dict[str, dict[str, Any]]:
        """The policy's weights as tensors on the CPU, by the model's own names, under RLlib's name for the policy."""
        return {DEFAULT_MODULE_ID: self.learner_group.get_weights()}

    def set_weights(self, weights: Any) -> None:
        """Refused: the learners' are the weights."""
        raise ValueError(
            "weights come from a model or a checkpoint: policy(model=...) for a new algorithm, restore_from_path(...) "
            "for this one"
        )

    def get_module(self, module_id: str = DEFAULT_MODULE_ID) -> Any:
        """The learner's RLModule, where the learner is in this process.

        Raises:
            ValueError: Where it is not.
        """
        if self.learner_group.is_remote:
            raise ValueError(
                "the learners are in processes of their own, and so are their modules: export_policy(folder) writes "
                "the policy, get_weights() gets its weights"
            )
        return self.learner_group._learner.module[module_id]
