"""The RLlib LearnerGroup whose every operation runs on all learners.

RLlib's own asks the first learner alone for state and checkpoints, and carries on with the survivors when one has
failed. Sharded engines need every rank to take part, and an update by fewer ranks would be a different update.
"""

from __future__ import annotations

import gc
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.rllib.core import COMPONENT_LEARNER
from ray.rllib.core.learner.learner_group import LearnerGroup

from llmenv.policy.batch import Minibatch
from llmenv.rllib import checkpoint
from llmenv.rllib.learner import LLMLearner
from llmenv.rllib.place import Place, place_of, sees, start_disk
from llmenv.weights import format as weights

# From the first learner's exception to the others' answers: they may be about to raise it too. One that is waiting
# for the first in a collective would not answer for half an hour.
PATIENCE_S = 10.0


class LearnersLostError(RuntimeError):
    """A learner failed alone: the others are not in step with it, and the group is of no use any more."""


class LLMLearnerGroup(LearnerGroup):
    """Runs `LLMLearner`s: in the driver's own process (`num_learners=0`) or as Ray actors."""

    _lost: str | None = None  # how a learner failed

    def update(self, plan: Sequence[Sequence[Minibatch]], **kwargs: Any) -> list[dict[str, Any]]:
        """One `LLMLearner.update` on every learner with its own share of the plan.

        Args:
            plan: `plan_update`'s result for `max(1, num_learners)` learners.
            **kwargs: For `LLMLearner.update`.

        Returns:
            The metrics of each learner.

        Raises:
            LearnersLostError: As `on_all` does.
        """
        if self.is_local:
            return [self._learner.update(plan[0], **kwargs)]
        return self._wait_for(
            [actor.update.remote(share, **kwargs) for actor, share in zip(self._actors, plan, strict=True)]
        )

    def on_all(self, func: Callable[[LLMLearner], Any]) -> list[Any]:
        """Calls `func` on every learner at once, so that it may use collectives.

        Raises:
            LearnersLostError: If a learner has failed, in this call or before. The others were stopped. What all of
                them raise is raised here as it is: they are still in step.
        """
        if self.is_local:
            return [func(self._learner)]
        return self._wait_for([actor.apply.remote(func) for actor in self._actors])

    @property
    def _actors(self) -> list[Any]:
        """The remote learners, all of them."""
        if self._lost is not None:
            raise LearnersLostError(f"the learner group lost {self._lost}")
        return self._workers

    def _wait_for(self, calls: Sequence[ray.ObjectRef]) -> list[Any]:
        """The result of one call on each learner."""
        results: dict[int, Any] = {}
        errors: dict[int, RayError] = {}
        waiting, deadline = list(calls), math.inf
        while waiting:
            timeout = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
            ready, waiting = ray.wait(waiting, timeout=timeout)
            if not ready:
                break
            rank = calls.index(ready[0])
            try:
                results[rank] = ray.get(ready[0])
            except RayError as error:
                errors[rank] = error
                patience = (
                    PATIENCE_S if isinstance(error, RayTaskError) else 0.0
                )  # one that died says no more
                deadline = min(deadline, time.monotonic() + patience)
        if errors:
            self._fail(errors)
        return [results[rank] for rank in range(len(calls))]

    def _fail(self, errors: dict[int, RayError]) -> None:
        """Raises what all learners have raised; stops them all where only some have."""
        rank, first = next(iter(errors.items()))
        cause = first.cause if isinstance(first, RayTaskError) else first
        kinds = {type(getattr(error, "cause", error)) for error in errors.values()}
        if len(errors) == len(self._workers) and len(kinds) == 1 and cause is not first:
            raise cause from first
        for actor in self._workers:
            ray.kill(actor)
        self._lost = (
            f"learner {rank} of {len(self._workers)}, and the others were stopped: an update needs all of them. "
            f"Resume from the last checkpoint. It failed with {type(cause).__name__}: {cause}"
        )
        raise LearnersLostError(f"the learner group lost {self._lost}") from first

    def pack_weights(self, *, own_names: bool = False) -> tuple[Any, int]:
        """The policy's weights for `set_state` of env runners, and their version; see `Outbox.pack`.

        With remote learners this is a reference into the object store: the driver never holds the weights.
        """
        remote = self.is_remote

        def pack(learner: LLMLearner) -> tuple[Any, int]:
            return learner.outbox.pack(to_object_store=remote, own_names=own_names), learner.weights_version

        return self.on_all(pack)[0]

    def get_weights(self) -> dict[str, torch.Tensor]:
        """The policy's weights on the CPU, under the model's own names: views to copy from."""
        packed, _ = self.pack_weights(own_names=True)
        return weights.unpack(ray.get(packed) if isinstance(packed, ray.ObjectRef) else packed)

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

    def save_to_path(self, path: Any = None, *, filesystem: Any = None, **kwargs: Any) -> str:
        """RLlib's files that say what was saved, then each learner's own, in `learner/`."""
        # A state without the learner component makes the base class write its metadata and nothing else.
        kwargs["state"] = {"saved_by": type(self).__name__}
        saved = super().save_to_path(path, filesystem=filesystem, **kwargs)
        place = self._within_reach(place_of(path or saved, filesystem)) / COMPONENT_LEARNER

        def save(learner: LLMLearner) -> None:
            with place.to_write(learner._learner_index) as folder:
                checkpoint.save(learner, folder)

        self.on_all(save)
        return saved

    def restore_from_path(self, path: Any, *, filesystem: Any = None, **kwargs: Any) -> None:
        """Each learner takes back what `save_to_path` wrote."""
        place = self._within_reach(place_of(path, filesystem)) / COMPONENT_LEARNER

        def load(learner: LLMLearner) -> None:
            with place.to_read(learner._learner_index, without=checkpoint.FOR_OTHERS) as folder:
                checkpoint.load(learner, folder)

        self.on_all(load)

    def export_policy(self, path: str | Path, *, filesystem: Any = None) -> None:
        """Writes the policy in Hugging Face format.

        Args:
            path: The folder; without a filesystem, one on this node or a URI that pyarrow knows.
            filesystem: pyarrow's.
        """
        place = place_of(path, filesystem)
        if place.filesystem is None:
            Path(place.path).mkdir(parents=True, exist_ok=True)
        place = self._within_reach(place)

        def export(learner: LLMLearner) -> None:
            with place.to_write(learner._learner_index) as folder:
                learner.outbox.export(folder)

        self.on_all(export)

    def _within_reach(self, place: Place) -> Place:
        """A place that is there, so that every learner can write to it and read from it."""
        if self.is_local or place.filesystem is not None:
            return place
        folder, changed = place.path, os.stat(place.path).st_mtime_ns
        seen = self.on_all(lambda learner: sees(folder, changed))
        if all(seen):
            return place
        away = [learner for learner, sees_it in enumerate(seen) if not sees_it]
        return replace(place, away=away, disk=start_disk())

    def shutdown(self) -> None:
        """Ends the learners; that of this process gives back policy, reference, critic and optimizer."""
        super().shutdown()
        if self._learner is not None:
            self._learner: Any = None
            gc.collect()  # a learner's parts refer to one another

    def __del__(self) -> None:
        # After ray.shutdown() the base class would start a new Ray only to shut its workers down; at the
        # interpreter's end, when Ray has been shut down too, not even that can be asked.
        if not sys.is_finalizing() and ray.is_initialized():
            super().__del__()
