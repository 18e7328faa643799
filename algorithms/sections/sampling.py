"""The section `sampling`: how completions are drawn."""

from __future__ import annotations

from typing import Any, Self

from ray.rllib.algorithms.algorithm_config import NotProvided

from algorithms.sections.section import Section


class SamplingSection(Section):
    """See `sampling`."""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class)
        self.temperature = 1.0
        self.max_new_tokens = 128
        self.max_prompt_tokens: int | None = None
        self.overlong_prompts = "drop"
        self.max_rows_per_sampler = 512
        self.sampler = "transformers"
        self.sampler_kwargs: dict[str, Any] = {}
        self.weight_transfer: str | None = None
        self.env_timeout_s = 300.0
        self.run_seed: int | None = None

    def sampling(
        self,
        *,
        temperature: float = NotProvided,
        max_new_tokens: int = NotProvided,
        max_prompt_tokens: int | None = NotProvided,
        overlong_prompts: str = NotProvided,
        max_rows_per_sampler: int = NotProvided,
        sampler: str = NotProvided,
        sampler_kwargs: dict[str, Any] = NotProvided,
        weight_transfer: str | None = NotProvided,
        env_timeout_s: float = NotProvided,
        run_seed: int | None = NotProvided,
        top_p: float = 1.0,
        top_k: int = 0,
    ) -> Self:
        """Sets how completions are drawn.

        Args:
            temperature: Of sampling, and of the log-probabilities that are learned from.
            max_new_tokens: Cap on a response. Reaching it is recorded and ends the episode.
            max_prompt_tokens: A sequence whose prompt is longer is not sampled. None: no limit.
            overlong_prompts: "drop" such samples (they are counted) or raise an "error".
            max_rows_per_sampler: Sequences that one runner decodes at the same time.
            sampler: "transformers", or "vllm" where it is installed (see `llmenv.samplers.vllm`).
            sampler_kwargs: vLLM's engine arguments, such as {"gpu_memory_utilization": 0.5}, passed on unchanged. With
                {"enable_sleep_mode": True} the engine sleeps while the learner, on the same GPU, updates: the default
                where both have parts of one GPU, and then "gpu_memory_utilization" is what the learner leaves.
            weight_transfer: How weights come from remote learners to remote runners: None, through Ray's object store;
                "nccl", from GPU to GPU; "ipc", within the GPU that one learner and one runner share. (The last two
                are vLLM's own, and have not been run on a GPU.)
            env_timeout_s: What a `reset` or a `step` of an environment may take, in seconds. Its sample is then
                invalid, and counted in `num_env_timeouts`. (What one loads when it is made may take longer.)
            run_seed: All tasks and samples of a run are a function of this, the number of updates and their indices.
                None: 0, and in Ray Tune the number of the trial, so that `num_samples` trials differ; a run's config
                tells which. (RLlib's own `seed` would switch on deterministic kernels for the whole process.)
            top_p: Refused unless 1: log-probabilities are of the whole distribution.
            top_k: Refused unless 0, for the same reason.

        Raises:
            ValueError: For a truncated distribution.
        """
        if top_p != 1.0 or top_k != 0:
            raise ValueError(
                f"top_p={top_p}, top_k={top_k}: training samples the whole distribution, whose log-probabilities it "
                "learns from; leave both out, and lower the temperature for safer samples"
            )
        return self._set(
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            max_prompt_tokens=max_prompt_tokens,
            overlong_prompts=overlong_prompts,
            max_rows_per_sampler=max_rows_per_sampler,
            sampler=sampler,
            sampler_kwargs=sampler_kwargs,
            weight_transfer=weight_transfer,
            env_timeout_s=env_timeout_s,
            run_seed=run_seed,
        )

    @property
    def root_seed(self) -> int:
        """`run_seed`, decided."""
        return self.run_seed or 0

    @property
    def max_sequence_tokens(self) -> int | None:
        """Prompt and response together; None where the prompt has no limit."""
        return None if self.max_prompt_tokens is None else self.max_prompt_tokens + self.max_new_tokens

    @property
    def shares_gpu(self) -> bool:
        """Whether a runner and a learner have parts of one GPU."""
        runner, learner = self.num_gpus_per_env_runner, self.num_gpus_per_learner
        return runner > 0 and learner > 0 and runner + learner < 1 + 1e-4  # Ray counts in ten-thousandths

    @property
    def engine_arguments(self) -> dict[str, Any]:
        """`sampler_kwargs`, and what is decided for vLLM beside a learner."""
        sleeps = {"enable_sleep_mode": True} if self.sampler == "vllm" and self.shares_gpu else {}
        code = {"trust_remote_code": True} if self.sampler == "vllm" and self.trust_remote_code else {}
        return {**sleeps, **code, **self.sampler_kwargs}

    @property
    def sampler_sleeps(self) -> bool:
        """Whether the sampler gives the GPU's memory back during an update."""
        return bool(self.engine_arguments.get("enable_sleep_mode"))

    def validate(self) -> None:
        super().validate()
        self._validate_temperature()
        if self.sampler_kwargs and self.sampler != "vllm":
            raise ValueError("sampler_kwargs are vLLM's: set sampler='vllm', or leave them out")

    def _validate_temperature(self) -> None:
        if self.in_evaluation and self.temperature == 0:  # the most likely completions
            return
        if self.sampler == "vllm" and not 0.01 <= self.temperature <= 2:
            raise ValueError(f"vLLM samples at temperatures from 0.01 to 2, got {self.temperature}")
