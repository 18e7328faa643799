"""All that is about asking env runners: dealing requests, waiting, the hung and the dead, weights.

Over RLlib's group of them, whose own calls take an exception for a death, drop weights that meet earlier ones, and
wait for no restart longer than for a ping. Knows nothing of credit and losses.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from llmenv.episode import TextEpisode
from llmenv.prompt_env import prompt_options
from llmenv.rllib.learner_group import LLMLearnerGroup
from llmenv.rollout import GroupRequest

logger = logging.getLogger(__name__)

ROUNDS_TOGETHER = 2  # that the same requests are dealt; then each alone: some may kill whoever takes them
MAX_LOST_ALONE = 5  # rounds of those in a row in which nobody survives
RUNNER_LOST = "RunnerLost"  # how the error of a sample begins whose task ended every runner that had it
PING_AGAIN_S = 1.0


class RunnersLostError(RuntimeError):
    """No env runner is left to sample, and none came back. The learners are as they were before the iteration."""


class RunnerError(RuntimeError):
    """An env runner raised. It lives on, and would raise again: nobody is asked a second time."""


@dataclass(frozen=True)
class Call:
    """What a runner is at work on.

    Attributes:
        worker: The runner.
        asked_for: What it is to do, in words.
        since: When it was asked, in seconds of `time.monotonic`.
    """

    worker: int
    asked_for: str
    since: float


@dataclass
class Handle:
    """Groups that have been asked for, and are to be collected.

    Attributes:
        requests: The groups.
        settings: For `LLMEnvRunner.sample`.
        calls: Who is at work on some of them.
    """

    requests: Sequence[GroupRequest]
    settings: dict[str, Any]
    calls: dict[ray.ObjectRef, Call]


class RunnerGroup:
    """Asks the runners of an algorithm, in the driver's own process or in Ray's.

    Args:
        group: RLlib's, which makes and restarts them.
        learner_group: Where weights come from.
        config: `sample_timeout_s`, `env_runner_restore_timeout_s` and `weight_transfer` count here.

    Attributes:
        weights_version: Of the weights that the runners were last brought: the number of updates so far.
    """

    def __init__(self, group: EnvRunnerGroup, learner_group: LLMLearnerGroup, config: Any):
        self.weights_version = 0
        self._group = group
        self._manager = group._worker_manager
        self._learner_group = learner_group
        self._config = config
        self._pings: dict[ray.ObjectRef, int] = {}  # of runners out of service, to hear when they are back
        self._dead: dict[int, Exception] = {}  # those that Ray will not start again
        self._last_error: Exception | None = None
        self._receivers: list[Any] = []  # the runners that the last weight transfer went to

    @property
    def in_this_process(self) -> bool:
        """Whether there is but one runner, in the driver's own process."""
        return self._group.num_remote_env_runners() == 0

    def submit(self, requests: Sequence[GroupRequest], **settings: Any) -> Handle:
        """Has the runners start on some groups; the driver's own starts when they are collected.

        Args:
            requests: The groups.
            **settings: For `LLMEnvRunner.sample`.
        """
        handle = Handle(requests, settings, {})
        if not self.in_this_process:
            handle.calls = self._deal(handle, requests)
        return handle

    def collect(self, handle: Handle) -> tuple[list[TextEpisode], list[Any]]:
        """Waits for groups; those of a runner that dies or hangs are sampled by the others.

        One that ends every runner which takes it, the last time alone, is invalid.

        Returns:
            The episodes, in the order of the requests, and the runners' metrics.

        Raises:
            RunnersLostError: If nobody is left, or runners die whatever they are asked for.
            RunnerError: If a runner in a process of its own raised; the driver's own raises what it does.
        """
        if self.in_this_process:
            episodes, metrics = self._group.local_env_runner.sample_with_metrics(
                requests=handle.requests, **handle.settings
            )
            return episodes, [metrics]
        done: dict[int, list[TextEpisode]] = {}
        all_metrics = []
        lost_alone = 0
        for round_ in count():
            dealt, alone = handle.requests, round_ >= ROUNDS_TOGETHER
            if round_:
                self._await_somebody()
                left = [request for request in handle.requests if request.group not in done]
                dealt = left[: len(self._manager.healthy_actor_ids())] if alone else left
                handle.calls = self._deal(handle, dealt)
            answers = self._answers(handle.calls)
            for episodes, metrics in answers.values():
                all_metrics.append(metrics)
                for episode in episodes:
                    done.setdefault(episode.group, []).append(episode)
            if alone:
                lost_alone = 0 if answers else lost_alone + 1
                if lost_alone == MAX_LOST_ALONE:
                    raise self._whoever_is_asked(len(handle.requests) - len(done), round_ + 1)
                done |= {r.group: self._lost(r) for r in dealt if r.group not in done}
            if len(done) == len(handle.requests):
                break
        return [episode for request in handle.requests for episode in done[request.group]], all_metrics

    def _lost(self, request: GroupRequest) -> list[TextEpisode]:
        """The invalid samples of a group that nobody survives."""
        index = (request.options or {}).get("index")
        task = f"seed {request.seed}" + ("" if index is None else f", index {index}")
        error = f"{RUNNER_LOST}: the task of {task} ended every env runner that took it. {self._why()}"
        samples = range(request.first, request.first + request.size)
        version = self.weights_version
        return [
            TextEpisode(
                request.group, i, weights_version=version, error=error, seed=request.seed, index=index
            )
            for i in samples
        ]

    def _whoever_is_asked(self, number: int, attempts: int) -> RunnersLostError:
        error = RunnersLostError(
            f"{number} groups could not be sampled in {attempts} attempts: the env runners keep dying, or take longer "
            f"than {self._config.sample_timeout_s:g} s (env_runners(sample_timeout_s=...) sets that). {self._why()}"
        )
        error.__cause__ = self._last_error
        return error

    def generate(
        self, prompts: Sequence[str | Sequence[Mapping[str, str]]], n: int, seed: int, **settings: Any
    ) -> list[list[str]]:
        """For each prompt `n` completions, by the rollout loop itself; see `LLMAlgorithm.generate`."""
        requests = [
            GroupRequest.derive(i, n, seed, options=prompt_options(prompt))
            for i, prompt in enumerate(prompts)
        ]
        episodes, _ = self.collect(self.submit(requests, role="generation", **settings))
        if failed := next((episode for episode in episodes if not episode.valid), None):
            raise ValueError(f"prompt {failed.group} cannot be sampled from: {failed.error}")
        texts = iter(episode.transcript for episode in episodes)
        return [[next(texts) for _ in range(n)] for _ in prompts]

    def call(self, method: str, worker_ids: list[int] | None = None, **kwargs: Any) -> list[Any]:
        """Calls a method of some runners, or of all that are in service, and waits for what they return."""
        if self.in_this_process:
            return [getattr(self._group.local_env_runner, method)(**kwargs)]
        asked = self._manager.healthy_actor_ids() if worker_ids is None else worker_ids
        now = time.monotonic()
        calls = {self._ask(i, method, **kwargs): Call(i, method, now) for i in asked}
        return list(self._answers(calls).values())

    def sync_weights(self) -> None:
        """Brings the learners' weights to every runner, and waits until they are there.

        RLlib's own `sync_weights` drops an update while an earlier one is in flight.
        """
        if self._config.weight_transfer is None:
            self._push_weights()
            return
        actors = self._manager.actors()
        runners = [actors[i] for i in self._manager.healthy_actor_ids()]
        self.weights_version = self._learner_group.send_weights(runners, renew=runners != self._receivers)
        self._receivers = runners

    def restore(self, timeout_s: float = 0.0) -> list[int]:
        """Takes runners that Ray has restarted into service again, with the current weights.

        Args:
            timeout_s: How long to wait for one, where some are out of service.

        Returns:
            Their indices.
        """
        asked = {*self._pings.values(), *self._dead, *self._manager.healthy_actor_ids()}
        for worker in set(self._manager.actor_ids()) - asked:
            self._pings[self._ask(worker, "ping")] = worker
        back = []
        for ping in self._answered(timeout_s):
            worker = self._pings.pop(ping)
            try:
                ray.get(ping)
                back.append(worker)
            except ActorDiedError as error:
                self._dead[worker] = self._last_error = error
                logger.warning("env runner %d is lost for good: %s", worker, last_line(error))
            except RayError as error:  # it died again, and Ray starts it again
                self._last_error = error
        if back:
            for worker in back:
                self._manager.set_actor_state(worker, healthy=True)
            self._push_weights(back)
            self._receivers = []  # the new processes know nothing of the old ones' transfers
        return back

    def _answered(self, timeout_s: float) -> list[ray.ObjectRef]:
        """The pings that came back; waits for the first one."""
        if not self._pings:
            return []
        first, rest = ray.wait(list(self._pings), timeout=timeout_s)
        return first + (ray.wait(rest, num_returns=len(rest), timeout=0)[0] if rest else [])

    def _push_weights(self, worker_ids: list[int] | None = None) -> None:
        """Brings the weights to some runners, or to all, through Ray's object store."""
        packed, self.weights_version = self._learner_group.pack_weights()
        if not self.in_this_process and not isinstance(packed, ray.ObjectRef):  # the learner is in the driver
            packed = ray.put(packed)
        state = {COMPONENT_RL_MODULE: packed, WEIGHTS_SEQ_NO: self.weights_version}
        self.call("set_state", worker_ids, state=state)

    def _ask(self, worker: int, method: str, **kwargs: Any) -> ray.ObjectRef:
        return getattr(self._manager.actors()[worker], method).remote(**kwargs)

    def _deal(self, handle: Handle, requests: Sequence[GroupRequest]) -> dict[ray.ObjectRef, Call]:
        """Evenly, to those in service; nobody gets nothing to do."""
        healthy = self._manager.healthy_actor_ids()
        shares = [(worker, requests[i :: len(healthy)]) for i, worker in enumerate(healthy)]
        now = time.monotonic()
        return {
            self._ask(worker, "sample_with_metrics", requests=share, **handle.settings): Call(
                worker, f"{len(share)} groups", now
            )
            for worker, share in shares
            if share
        }

    def _answers(self, calls: dict[ray.ObjectRef, Call]) -> dict[int, Any]:
        """What runners return, by runner. Who dies is left out, and out of service.

        So is who gives no answer for `sample_timeout_s`: it is killed, and Ray starts it anew.
        """
        answers: dict[int, Any] = {}
        pending, deadline = list(calls), time.monotonic() + self._config.sample_timeout_s
        while pending:
            ready, pending = ray.wait(pending, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            worker = calls[ready[0]].worker
            try:
                answers[worker] = ray.get(ready[0])
            except RayTaskError as error:
                raise RunnerError(f"env runner {worker} raised {last_line(error)}") from error
            except RayError as error:
                self._last_error = error
                self._manager.set_actor_state(worker, healthy=False)
        for call in pending:
            self._give_up(calls[call])
        return answers

    def _give_up(self, call: Call) -> None:
        """Kills a runner that gave no answer in time: nothing tells one that hangs from one that is slow."""
        waited = time.monotonic() - call.since
        self._last_error = TimeoutError(f"env runner {call.worker} gave no answer for {waited:.0f} s")
        logger.warning(
            "env runner %d gave no answer for %.0f s, and is killed and started anew: it was asked for %s. If it was "
            "but slow, raise env_runners(sample_timeout_s=...), which is %g s and holds for all that a runner is asked "
            "for at once, or start more runners",
            *(call.worker, waited, call.asked_for, self._config.sample_timeout_s),
        )
        self._manager.set_actor_state(call.worker, healthy=False)
        ray.kill(self._manager.actors()[call.worker], no_restart=False)

    def _await_somebody(self) -> None:
        """Where nobody is in service, waits for a restart: a large model takes its time to load."""
        deadline = time.monotonic() + self._config.env_runner_restore_timeout_s
        while not self._manager.healthy_actor_ids():
            left = deadline - time.monotonic()
            if left <= 0 or len(self._dead) == self._manager.num_actors():
                limit = f"{self._config.env_runner_restore_timeout_s:g} s"
                how = (
                    f"none came back in {limit} (fault_tolerance(env_runner_restore_timeout_s=...) sets that)"
                )
                if left > 0:
                    how = "Ray will start none again"
                raise RunnersLostError(
                    f"all {self._manager.num_actors()} env runners are lost, and {how}. {self._why()}"
                ) from self._last_error
            if not self.restore(min(left, PING_AGAIN_S)):
                time.sleep(min(left, PING_AGAIN_S / 10))

    def _why(self) -> str:
        return f"The last error: {last_line(self._last_error)}" if self._last_error else ""


def last_line(error: Exception) -> str:
    """What was raised, out of the remote traceback that Ray puts around it."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return f"{type(cause).__name__}: {cause}"
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
