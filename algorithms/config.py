"""Settings shared by all algorithms, in the form that RLlib's users know."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from algorithms.checks import check
from llmenv.engines.deepspeed import build_config, read_config
from llmenv.models.lora import ALL_LINEAR
from llmenv.rllib.env_runner import LLMEnvRunner
from llmenv.rllib.learner_group import LLMLearnerGroup
from llmenv.rllib.rl_module import LLMModule


class LLMConfig(AlgorithmConfig):
    """Settings shared by all algorithms. Batch sizes are global: never per runner, never per learner."""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class)
        # `policy`: the model.
        self.base_model = "tiny"
        self.dtype = "float32"
        self.template = "auto"
        self.gradient_checkpointing = False
        self.reference_model: str | None = None
        self.lora_rank: int | None = None
        self.lora_alpha: int | None = None
        self.lora_targets: str | list[str] = ALL_LINEAR
        # `deepspeed`: how the learners share it.
        self.zero_stage: int | None = None
        self.offload_optimizer = False
        self.offload_parameters = False
        self.deepspeed_extra: dict[str, Any] = {}
        # `sampling`: how completions are drawn.
        self.temperature = 1.0
        self.max_new_tokens = 128
        self.max_prompt_tokens: int | None = None
        self.overlong_prompts = "drop"
        self.max_rows_per_sampler = 512
        self.sampler = "transformers"
        self.sampler_kwargs: dict[str, Any] = {}
        self.weight_transfer: str | None = None
        self.run_seed = 0
        # `training`: the batch and the optimizer.
        self.prompts_per_iteration = 32
        self.group_size = 8
        self.minibatch_size: int | None = None
        self.num_epochs = 1
        self.micro_batch_tokens = 8192
        self.shared_prompts = True
        self.method = type(self).__name__.removesuffix("Config")  # its name among `algorithms.methods`
        self.lr = 1e-6
        self.lr_warmup_iterations = 0
        self.adam_betas = (0.9, 0.999)
        self.weight_decay = 0.0
        self.grad_clip = 1.0
        self.max_skipped_steps = 5
        self.surrogate = "clip"
        self.ratio_level = "token"
        self.clip_param = 0.2
        self.clip_param_high: float | None = None
        self.dual_clip: float | None = None
        self.tis_cap: float | str | None = "auto"
        self.entropy_coeff = 0.0
        self.kl_coeff = 0.0
        self.kl_estimator: str | None = None
        self.kl_in = "loss"
        self.kl_target: float | None = None
        self.kl_horizon = 10_000
        self.kl_stop: float | None = None
        self.loss_normaliser = "token"
        self.mask_length_cap = False
        # What only some methods have, and the skeleton asks for.
        self.max_sampling_rounds = 10
        self.dynamic_sampling = False
        self.critic: str | None = None
        self.critic_lr: float | None = None
        self.value_warmup_iterations = 0
        # `evaluation`: RLlib's own names; the environment's other split, an episode a task.
        self.evaluation_config = {"env_config": {"split": "test"}}
        self.evaluation_duration = 512
        self.evaluation_duration_unit = "episodes"
        # RLlib's seams. Runners make their own environments, and there are no connectors between text and model.
        self.env_runner_cls = LLMEnvRunner
        self.num_env_runners = 0
        self.create_local_env_runner = False
        self.add_default_connectors_to_env_to_module_pipeline = False
        self.add_default_connectors_to_module_to_env_pipeline = False
        self.add_default_connectors_to_learner_pipeline = False
        self.broadcast_env_runner_states = False
        self.merge_env_runner_states = False
        self.delay_between_env_runner_restarts_s = 0.0
        self.sample_timeout_s = 1800.0  # a runner that says nothing for so long is killed and started anew
        self.log_sys_usage = False

    def policy(
        self,
        *,
        model: str = NotProvided,
        dtype: str = NotProvided,
        template: str = NotProvided,
        gradient_checkpointing: bool = NotProvided,
        reference_model: str | None = NotProvided,
        lora_rank: int | None = NotProvided,
        lora_alpha: int | None = NotProvided,
        lora_targets: str | list[str] = NotProvided,
    ) -> LLMConfig:
        """Sets the model.

        Args:
            model: "tiny", "tiny-zero", "tiny-guess", "smollm2-135m", a folder in Hugging Face format, or a hub id.
            dtype: "float32" (CPUs), "bfloat16" or "float16" (GPUs).
            template: How prompts are rendered: "auto", "r1", "chat", "raw" (see `llmenv.models.renderer`).
            gradient_checkpointing: Less memory for a second forward pass through each layer while learning.
            reference_model: What the KL is measured to, such as a teacher or the policy of an earlier stage; a model's
                name, like `model`, with the same vocabulary. None: the initial policy.
            lora_rank: Train adapters of this rank (see `llmenv.models.lora`) and nothing else of the policy. None:
                train all weights.
            lora_alpha: Adapters count `lora_alpha / lora_rank`. None: twice the rank, as TRL has it.
            lora_targets: "all-linear" (but the output layer), or last parts of layers' names, ["q_proj", "v_proj"].
        """
        return self._set(
            base_model=model,
            dtype=dtype,
            template=template,
            gradient_checkpointing=gradient_checkpointing,
            reference_model=reference_model,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            lora_targets=lora_targets,
        )

    def deepspeed(
        self,
        *,
        zero_stage: int | None = NotProvided,
        offload_optimizer: bool = NotProvided,
        offload_parameters: bool = NotProvided,
        config: dict[str, Any] | str = NotProvided,
    ) -> LLMConfig:
        """Sets how the learners share the policy.

        Args:
            zero_stage: DeepSpeed's ZeRO. 0: nothing is partitioned, 1: optimizer state is, 2: gradients too, 3:
                parameters too. None: PyTorch alone, with everything on every learner.
            offload_optimizer: Optimizer state in CPU memory. Needs stage 1, 2 or 3.
            offload_parameters: The learners' partitions of the parameters in CPU memory. Needs stage 3.
            config: More of DeepSpeed's own settings, or a JSON file of them. What llmenv sets itself is refused.
        """
        return self._set(
            zero_stage=zero_stage,
            offload_optimizer=offload_optimizer,
            offload_parameters=offload_parameters,
            deepspeed_extra=read_config(config) if isinstance(config, str) else config,
        )

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
        run_seed: int = NotProvided,
        top_p: float = 1.0,
        top_k: int = 0,
    ) -> LLMConfig:
        """Sets how completions are drawn.

        Args:
            temperature: Of sampling, and of the log-probabilities that are learned from.
            max_new_tokens: Cap on a response. Reaching it is recorded and ends the episode.
            max_prompt_tokens: A sequence whose prompt is longer is not sampled. None: no limit.
            overlong_prompts: "drop" such samples (they are counted) or raise an "error".
            max_rows_per_sampler: Sequences that one runner decodes at the same time.
            sampler: "transformers", or "vllm" where it is installed (see `llmenv.samplers.vllm`).
            sampler_kwargs: vLLM's engine arguments, such as {"gpu_memory_utilization": 0.5}, passed on unchanged. With
                {"enable_sleep_mode": True} the engine sleeps while the learner, on the same GPU, updates.
            weight_transfer: How weights come from remote learners to remote runners: None, through Ray's object store;
                "nccl", from GPU to GPU; "ipc", within the GPU that one learner and one runner share. (The last two
                are vLLM's own, and have not been run on a GPU.)
            run_seed: All tasks and samples of a run are a function of this, the iteration and their indices.
                (RLlib's own `seed` would switch on deterministic kernels for the whole process.)
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
            run_seed=run_seed,
        )

    def training(
        self,
        *,
        prompts_per_iteration: int = NotProvided,
        group_size: int = NotProvided,
        minibatch_size: int | None = NotProvided,
        micro_batch_tokens: int = NotProvided,
        shared_prompts: bool = NotProvided,
        lr_warmup_iterations: int = NotProvided,
        adam_betas: tuple[float, float] = NotProvided,
        weight_decay: float = NotProvided,
        max_skipped_steps: int = NotProvided,
        surrogate: str = NotProvided,
        ratio_level: str = NotProvided,
        clip_param: float = NotProvided,
        clip_param_high: float | None = NotProvided,
        dual_clip: float | None = NotProvided,
        tis_cap: float | str | None = NotProvided,
        entropy_coeff: float = NotProvided,
        kl_coeff: float = NotProvided,
        kl_estimator: str | None = NotProvided,
        kl_in: str = NotProvided,
        kl_target: float | None = NotProvided,
        kl_horizon: int = NotProvided,
        kl_stop: float | None = NotProvided,
        loss_normaliser: str = NotProvided,
        mask_length_cap: bool = NotProvided,
        **kwargs: Any,
    ) -> LLMConfig:
        """Sets the batch, the optimizer and the loss; `lr`, `num_epochs`, `grad_clip` are RLlib's own.

        Args:
            prompts_per_iteration: Groups an iteration.
            group_size: Samples a group.
            minibatch_size: Sequences an optimizer step; must divide `prompts_per_iteration * group_size`. None:
                the whole batch is one step.
            micro_batch_tokens: Tokens that one forward pass computes. Changes memory and speed, not the result.
            shared_prompts: Compute the prompt of a group once a forward pass, and no padding. Changes memory and speed,
                not the result. A model whose attention cannot do it goes without, and says so.
            lr_warmup_iterations: The learning rate rises linearly over so many iterations. Only for a plain
                number as `lr`; a schedule `[[timestep, lr], ...]` (in samples) says it itself.
            adam_betas: Of AdamW.
            weight_decay: Of AdamW.
            max_skipped_steps: A step whose loss or gradient is not finite is skipped; so many in a row end the run. (In
                float16 the first ones may be skipped until the loss's scale is found.)
            surrogate: "clip", PPO's, or "cispo" (see `algorithms.losses`).
            ratio_level: "token", or "sequence" as in GSPO (see `algorithms.losses.sequence_logps`).
            clip_param: The surrogate's epsilon.
            clip_param_high: Another epsilon above 1; None: the same.
            dual_clip: Bound of the ratio where the advantage is negative (see `algorithms.losses.dual_clip`).
            tis_cap: Cap of the importance weights that correct for the sampler's probabilities not being the learner's
                (see `algorithms.losses.importance_weights`); None: no weights. "auto": 2 where the sampler is vLLM, and
                for LoRA in 16 bits.
            entropy_coeff: Weight of a bonus for the policy's entropy.
            kl_coeff: Weight of the KL to the reference (see `policy`); 0 loads none.
            kl_estimator: "k1", "k2" or "k3" (see `algorithms.losses`). None: k1 in the reward, k3 in the loss. (In the
                loss k1 pulls nowhere, in expectation: its gradient is that of a log-probability.)
            kl_in: Where that KL counts: in the "loss", or, without a gradient of its own, in each token's "reward".
            kl_target: Move `kl_coeff` so that the KL a token moves to this; None: leave it.
            kl_horizon: In how many samples `kl_coeff` moves by a fifth at most.
            kl_stop: End an iteration's steps when they have taken the policy so far (`kl_behaviour`); None: never.
            loss_normaliser: "token", "sequence" or "constant" (see `algorithms.losses.aggregate`).
            mask_length_cap: Leave responses that were cut at `max_new_tokens` out of the update. They still count in
                their group's statistics.
            **kwargs: RLlib's own arguments.
        """
        super().training(**kwargs)
        return self._set(
            prompts_per_iteration=prompts_per_iteration,
            group_size=group_size,
            minibatch_size=minibatch_size,
            micro_batch_tokens=micro_batch_tokens,
            shared_prompts=shared_prompts,
            lr_warmup_iterations=lr_warmup_iterations,
            adam_betas=adam_betas,
            weight_decay=weight_decay,
            max_skipped_steps=max_skipped_steps,
            surrogate=surrogate,
            ratio_level=ratio_level,
            clip_param=clip_param,
            clip_param_high=clip_param_high,
            dual_clip=dual_clip,
            tis_cap=tis_cap,
            entropy_coeff=entropy_coeff,
            kl_coeff=kl_coeff,
            kl_estimator=kl_estimator,
            kl_in=kl_in,
            kl_target=kl_target,
            kl_horizon=kl_horizon,
            kl_stop=kl_stop,
            loss_normaliser=loss_normaliser,
            mask_length_cap=mask_length_cap,
        )

    def _set(self, **values: Any) -> LLMConfig:
        for name, value in values.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    @property
    def lora(self) -> dict[str, Any] | None:
        """What the adapters are, for `llmenv.models.lora`; None where all weights are trained."""
        if self.lora_rank is None:
            return None
        return {
            "rank": self.lora_rank,
            "alpha": 2 * self.lora_rank if self.lora_alpha is None else self.lora_alpha,
            "targets": self.lora_targets,
        }

    @property
    def samples_per_iteration(self) -> int:
        return self.prompts_per_iteration * self.group_size

    @property
    def max_sequence_tokens(self) -> int | None:
        """Prompt and response together; None where the prompt has no limit."""
        return None if self.max_prompt_tokens is None else self.max_prompt_tokens + self.max_new_tokens

    @property
    def sampler_sleeps(self) -> bool:
        """Whether the sampler gives the GPU's memory back during an update."""
        return bool(self.sampler_kwargs.get("enable_sleep_mode"))

    @property
    def importance_cap(self) -> float | None:
        """`tis_cap`, decided.

        The transformers sampler computes with the learner's own modules; only adapters that are merged in 16 bits
        are rounded for it.
        """
        if self.tis_cap == "auto":
            rounded = self.lora_rank is not None and self.dtype != "float32"
            return 2.0 if self.sampler == "vllm" or rounded else None
        return None if self.tis_cap is None else float(self.tis_cap)

    @property
    def deepspeed_config(self) -> dict[str, Any] | None:
        """The `deepspeed` section as DeepSpeed takes it; None where it is not used."""
        if self.zero_stage is None:
            return None
        return build_config(
            zero_stage=self.zero_stage,
            offload_optimizer=self.offload_optimizer,
            offload_parameters=self.offload_parameters,
            dtype=self.dtype,
            grad_clip=self.grad_clip,
            extra=self.deepspeed_extra,
        )

    @property
    def clip_range(self) -> tuple[float, float]:
        """How far the ratio may go below 1 and above."""
        high = self.clip_param if self.clip_param_high is None else self.clip_param_high
        return self.clip_param, high

    @property
    def kl_estimator_name(self) -> str:
        """`kl_estimator`, decided."""
        return self.kl_estimator or {"loss": "k3", "reward": "k1"}[self.kl_in]

    @property
    def critic_learning_rate(self) -> Any:
        """`critic_lr`, decided."""
        if self.critic_lr is not None:
            return self.critic_lr
        if isinstance(self.lr, int | float):
            return 10 * self.lr
        return [[timestep, 10 * lr] for timestep, lr in self.lr]

    def learning_rate_schedule(self, lr: Any) -> Any:
        """A learning rate, with the warm-up as a schedule over samples."""
        if not self.lr_warmup_iterations:
            return lr
        return [[0, 0.0], [self.lr_warmup_iterations * self.samples_per_iteration, lr]]

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        config = {
            "model": self.base_model,
            "dtype": self.dtype,
            "temperature": self.temperature,
            "gradient_checkpointing": self.gradient_checkpointing,
            "lora": self.lora and {**self.lora, "seed": self.run_seed},
            "shared_prompts": self.shared_prompts,
            "critic": self.critic,
        }
        return RLModuleSpec(module_class=LLMModule, model_config=config)

    def build_learner_group(self, *, rl_module_spec: Any = None, **kwargs: Any) -> LLMLearnerGroup:
        spec = rl_module_spec or self.get_multi_rl_module_spec(**kwargs)
        return LLMLearnerGroup(config=self.copy(), module_spec=spec)

    def validate(self) -> None:
        super().validate()
        known = {*vars(type(self)()), "class"}  # RLlib writes "class" when it restores a config
        unknown = sorted(name for name in vars(self) if name not in known and not name.startswith("__"))
        if unknown:  # "__stdout_file__" and the like are Tune's
            raise ValueError(f"unknown settings {unknown}: check their spelling")
        check(self)

    def _value_error(self, errmsg: str) -> None:
        """What RLlib's own checks call; RLlib's would advise to switch them off."""
        raise ValueError(errmsg)
