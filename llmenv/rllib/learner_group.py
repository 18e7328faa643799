"""The RLlib LearnerGroup whose every operation runs on all learners.

RLlib's own asks the first learner alone for state and checkpoints, and carries on with the survivors when one has
died. Sharded engines need every rank to take part, and an update by fewer ranks would be a different update.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.rllib.core import COMPONENT_LEARNER
from ray.rllib.core.learner.learner_group import LearnerGroup

from llmenv.policy.batch import Minibatch
from llmenv.rllib import checkpoint
from llmenv.rllib.learner import LLMLearner


class LLMLearnerGroup(LearnerGroup):
    """Runs `LLMLearner`s: in the driver's own process (`num_learners=0`) or as Ray actors."""

    def update(self, plan: Sequence[Sequence[Minibatch]], **kwargs: Any) -> list[dict[str, Any]]:
        """One `LLMLearner.update` on every learner with its own share of the plan.

        Args:
            plan: `plan_update`'s result for `max(1, num_learners)` learners.
            **kwargs: For `LLMLearner.update`.

        Returns:
            The metrics of each learner.
        """
        if self.is_local:
            return [self._learner.update(plan[0], **kwargs)]
        shares = [{"minibatches": minibatches, **kwargs} for minibatches in plan]
        return self._collect(self._worker_manager.foreach_actor("update", kwargs=shares))

    def on_all(self, func: Callable[[LLMLearner], Any]) -> list[Any]:
        """Calls `func` on every learner at once, so that it may use collectives.

        Raises:
            RuntimeError: If a learner has died. What all of them raise is raised here as it is.
        """
        return self._collect(self.foreach_learner(func))

    def _collect(self, results: Any) -> list[Any]:
        expected = max(1, self.config.num_learners)
        failed = [result.get() for result in results if not result.ok]
        raised = [error.cause for error in failed if isinstance(error, RayTaskError)]
        if len(raised) == expected:  # nobody is lost: they agree
            raise raised[0] from failed[0]
        if failed or len(list(results)) != expected:
            raise RuntimeError(
                f"{len(failed) or expected - len(list(results))} of {expected} learners failed; an update needs "
                f"all of them. Resume from the last checkpoint. First error: {failed[0] if failed else 'died'}"
            ) from (failed[0] if failed else None)
        return [result.get() for result in results]

    def pack_weights(self) -> tuple[Any, int]:
        """The policy's weights for `set_state` of env runners, and their version.

        With remote learners this is a reference into the object store: the driver never holds the weights.
        """
        remote = self.is_remote
        return self.on_all(
            lambda learner: (learner.outbox.pack(to_object_store=remote), learner.weights_version)
        )[0]

    def send_weights(self, runners: Sequence[Any], *, renew: bool) -> int:
        """Sends the policy's weights from GPU to GPU (see `Outbox.send`); gives their version."""

        def send(learner: LLMLearner) -> int:
            learner.outbox.send(learner.weights_version, runners, renew=renew)
            return learner.weights_version

        return self.on_all(send)[0]

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict:
        """Empty: weights travel by `pack_weights`, checkpoints by `save_to_path`, both on all learners."""
        return {COMPONENT_LEARNER: {}}

    def set_state(self, state: dict) -> None:
        """Nothing to take over: see `get_state`."""

    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        """RLlib's files that say what was saved, then each learner's own, in `learner/`."""
        # A state without the learner component makes the base class write its metadata and nothing else.
        path = super().save_to_path(path, **{**kwargs, "state": {"saved_by": type(self).__name__}})
        self.on_all(lambda learner: checkpoint.save(learner, Path(path) / COMPONENT_LEARNER))
        return path

    def restore_from_path(self, path: Any, **kwargs: Any) -> None:
        self.on_all(lambda learner: checkpoint.load(learner, Path(path) / COMPONENT_LEARNER))

    def __del__(self) -> None:
        # After ray.shutdown() the base class would start a new Ray only to shut its workers down.
        if ray.is_initialized():
            super().__del__()
