"""Whether sampler and learner are one policy: a few tokens are sampled, and the learner says how likely they were.

What a weight sync loses, or puts in the wrong place, is seen here before anything is learned from it. Knows nothing
about how weights travel.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from llmenv.policy.batch import Minibatch, TokenRow
from llmenv.policy.plan import plan_update
from llmenv.prompt_env import prompt_options
from llmenv.rllib.learner import LLMLearner
from llmenv.rllib.learner_group import LLMLearnerGroup
from llmenv.rllib.runner_group import RunnerGroup
from llmenv.rollout import GroupRequest

logger = logging.getLogger(__name__)

NUM_TOKENS = 16  # of a response
SAMPLES_PER_RUNNER = 4
# Bounds of the mean absolute difference of log-probabilities, in nats. On a CPU it was 1e-5 at most in float32; in
# bfloat16, over 256 tokens of small models, 0.009 to 0.016 with transformers and 0.012 to 0.023 with vLLM, more with
# random weights than with trained ones.
EXACT = 1e-4
ROUGH = 0.1


class MismatchError(RuntimeError):
    """The sampler is another policy than the learner."""


def check_sync(runners: RunnerGroup, learner_group: LLMLearnerGroup, config: Any, **plan: Any) -> None:
    """Samples a few tokens on every runner, and compares their log-probabilities with the learners'.

    Args:
        runners: They have the learners' weights.
        learner_group: Whose weights they are.
        config: The algorithm's.
        **plan: For `plan_update`: `shared_prompts` and `costs`.

    Raises:
        MismatchError: If they differ by more than rounding does, in the mean.
    """
    gap = measure(runners, learner_group, config, **plan)
    exact = is_exact(config)
    if gap is None or gap <= (EXACT if exact else ROUGH):
        return
    remedy = (
        "take --sampler transformers, which computes as the learner does"
        if config.sampler != "transformers"
        else "try --no-shared-prompts; if that is no help, this model is not supported"
    )
    raise MismatchError(
        f"the {config.sampler} sampler is not the policy that learns: right after a weight sync its log-probabilities "
        f"of {config.base_model} are {gap:.2g} nats from the learner's in the mean, and rounding explains "
        f"{EXACT if exact else ROUGH:g} in {config.dtype}: {remedy}"
    )


def is_exact(config: Any) -> bool:
    """Whether both sides compute in float32."""
    coarser = {"dtype", "quantization", "kv_cache_dtype"} & config.sampler_kwargs.keys()
    return (config.dtype, config.matmul_precision) == ("float32", "highest") and not coarser


def measure(runners: RunnerGroup, learner_group: LLMLearnerGroup, config: Any, **plan: Any) -> float | None:
    """The mean absolute difference of the log-probabilities of a few tokens, in nats; None where none was sampled."""
    num_runners, num_learners = max(1, config.num_env_runners), max(1, config.num_learners)
    requests = [
        GroupRequest.derive(i, SAMPLES_PER_RUNNER, 0, options=prompt_options(f"What is {i} + {i}?"))
        for i in range(num_runners)
    ]
    settings = {"role": "generation", "max_new_tokens": min(NUM_TOKENS, config.max_new_tokens)}
    episodes, _ = runners.collect(runners.submit(requests, **settings))
    rows = [TokenRow.from_episode(episode) for episode in episodes if episode.valid]
    if not rows:
        logger.warning("sampler and learner could not be compared: %s", episodes[0].error)
        return None
    shares = plan_update(
        rows,
        minibatch_size=len(rows),
        micro_batch_tokens=config.micro_batch_tokens,
        num_learners=num_learners,
        rng=np.random.default_rng(0),
        **plan,
    )
    return learner_group.on_all(lambda learner: _gap(learner, shares[learner._learner_index or 0][0]))[0]


@torch.no_grad()
def _gap(learner: LLMLearner, minibatch: Minibatch) -> float:
    """Collective."""
    total = 0.0
    for micro_batch in minibatch.micro_batches:
        tokens = micro_batch.to(learner._device)
        logps = learner.engine.forward(tokens, with_entropy=False).logps
        gaps = (logps - tokens.sampling_logps).masked_fill(~tokens.response_mask, 0.0)
        total += float(gaps.abs().sum())
    return learner.total(total) / minibatch.num_tokens
