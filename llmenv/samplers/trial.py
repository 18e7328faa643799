"""The transformers sampler is tried before it is trusted: a few tokens, against forward passes without a cache.

Models differ in what they keep from token to token, and not all of it can be shared out to rows.
"""

from __future__ import annotations

import torch

from llmenv.samplers.sampler import SamplingParams
from llmenv.samplers.transformers import TransformersSampler

# Prompts of several lengths, some of them twice: the rows of a cache are padded, shared out and dropped.
_PROMPTS = ([1, 2, 3], [1, 2, 3], [4, 5, 6, 7, 8], [6, 5], [1, 2, 3], [6, 5])
# Differences of log-probabilities, in nats, that are no error, by whether they come of 16 bits.
TOLERANCE = {False: 1e-4, True: 0.3}


@torch.inference_mode()
def try_sampler(sampler: TransformersSampler) -> None:
    """Samples a little.

    Raises:
        ValueError: If it cannot, or if its log-probabilities are not those of the model.
    """
    model = sampler.model
    size = len(model.get_input_embeddings().weight)
    prompts = [[token % size for token in prompt] for prompt in _PROMPTS]
    # Every other token ends a response, so that rows drop out on the way.
    params = SamplingParams(max_new_tokens=6, stop_token_ids=frozenset(range(0, size, 2)))
    what = f"the transformers sampler does not work with {type(model).__name__}"
    remedy = "set sampler='vllm', if vLLM knows the model, or take another model"
    try:
        completions = sampler.generate(prompts, params, range(len(prompts)))
    except Exception as error:  # whatever a model raises whose cache is another than it is taken for
        raise ValueError(f"{what}: it fails with {type(error).__name__}: {error}. {remedy}") from error
    gaps = []
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = torch.tensor([[*prompt, *completion.token_ids.tolist()]], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        logps = logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None]).squeeze(-1)
        gaps.append((logps.cpu() - torch.from_numpy(completion.logps)).abs())
    gap = torch.cat(gaps).mean().item()
    if not gap <= TOLERANCE[model.dtype.itemsize == 2]:
        raise ValueError(
            f"{what}: with its cache, log-probabilities are off by {gap:.2g} nats. What it keeps from token to token "
            f"is not kept apart by rows, or not there. {remedy}"
        )
