"""The section `policy`, which model learns, and `deepspeed`, how the learners share it."""

from __future__ import annotations

from typing import Any, Self

from ray.rllib.algorithms.algorithm_config import NotProvided

from algorithms.sections.paths import absolute
from algorithms.sections.section import Section
from llmenv.engines.deepspeed import build_config, read_config
from llmenv.models.lora import ALL_LINEAR
from llmenv.models.trained_prompt import TrainedPrompt


class PolicySection(Section):
    """See `policy` and `deepspeed`."""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class)
        self.base_model = "tiny"
        self.reference_model: str | None = None
        self.dtype = "float32"
        self.matmul_precision = "highest"
        self.template = "auto"
        self.trust_remote_code = False
        self.template_kwargs: dict[str, Any] = {}
        self.env_prompt: dict[str, Any] = {}  # what the environment puts into prompts: found out at build
        self.gradient_checkpointing = False
        self.lora_rank: int | None = None
        self.lora_alpha: int | None = None
        self.lora_targets: str | list[str] = ALL_LINEAR
        self.zero_stage: int | None = None
        self.offload_optimizer = False
        self.offload_parameters = False
        self.deepspeed_extra: dict[str, Any] = {}

    def policy(
        self,
        *,
        model: str = NotProvided,
        reference_model: str | None = NotProvided,
        dtype: str = NotProvided,
        matmul_precision: str = NotProvided,
        template: str = NotProvided,
        trust_remote_code: bool = NotProvided,
        template_kwargs: dict[str, Any] = NotProvided,
        gradient_checkpointing: bool = NotProvided,
        lora_rank: int | None = NotProvided,
        lora_alpha: int | None = NotProvided,
        lora_targets: str | list[str] = NotProvided,
    ) -> Self:
        """Sets the model.

        Args:
            model: "tiny", "tiny-zero", "tiny-guess", "smollm2-135m", a folder in Hugging Face format, or a hub id.
            reference_model: What the KL is measured to, such as a teacher or the policy of an earlier stage; a model's
                name, like `model`, with the same vocabulary. None: the initial policy.
            dtype: What is computed in, sampled in and exported: "float32", "bfloat16" or, with DeepSpeed on GPUs,
                "float16". In 16 bits the optimizer steps on float32 masters, and gradients are added up in float32.
            matmul_precision: Of products in float32, in learners and samplers, as PyTorch's
                `set_float32_matmul_precision` has it: "highest"; "high" or "medium", which round the factors, on a GPU
                to TF32, with "medium" on a CPU that has instructions for it to bfloat16. `sampler_logp_gap_mean` shows
                what that does.
            template: How prompts are rendered: "auto", "r1", "chat", "raw" (see `llmenv.models.renderer`).
            trust_remote_code: Run the Python code that comes with some models. It may do anything: read it first.
            template_kwargs: Arguments of the model's chat template, such as {"enable_thinking": False}. One that the
                template does not know is refused.
            gradient_checkpointing: Less memory for a second forward pass through each layer while learning.
            lora_rank: Train adapters of this rank (see `llmenv.models.lora`) and nothing else of the policy. None:
                train all weights.
            lora_alpha: Adapters count `lora_alpha / lora_rank`. None: twice the rank, as TRL has it.
            lora_targets: "all-linear" (but the output layer), or last parts of layers' names, ["q_proj", "v_proj"].
        """
        return self._set(
            base_model=absolute(model),
            reference_model=absolute(reference_model),
            dtype=dtype,
            matmul_precision=matmul_precision,
            template=template,
            trust_remote_code=trust_remote_code,
            template_kwargs=template_kwargs,
            gradient_checkpointing=gradient_checkpointing,
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
    ) -> Self:
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

    @property
    def trained_prompt(self) -> TrainedPrompt:
        """How prompts are made, for whoever asks an exported policy."""
        return TrainedPrompt(self.base_model, self.template, self.template_kwargs, **self.env_prompt)

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

    def validate(self) -> None:
        super().validate()
        if not isinstance(self.template_kwargs, dict):
            raise ValueError(
                f'template_kwargs must be a dict such as {{"enable_thinking": False}}, got {self.template_kwargs!r}'
            )
        self._validate_lora()
        if self.zero_stage is None and (
            self.offload_optimizer or self.offload_parameters or self.deepspeed_extra
        ):
            raise ValueError("settings of DeepSpeed without DeepSpeed: set zero_stage, or leave them out")
        scaled = self.deepspeed_config is not None and self.num_gpus_per_learner
        if self.dtype == "float16" and not scaled:
            raise ValueError(
                "float16 needs the scaling of the loss that DeepSpeed has, on GPUs: small gradients are 0 without it. "
                "Set dtype='bfloat16', or zero_stage=1 and num_gpus_per_learner"
            )

    def _validate_lora(self) -> None:
        rank, alpha, targets = self.lora_rank, self.lora_alpha, self.lora_targets
        if rank is None:
            if alpha is not None or targets != ALL_LINEAR:
                raise ValueError("lora_alpha and lora_targets need a lora_rank: set it, or leave them out")
            return
        if targets != ALL_LINEAR and (isinstance(targets, str) or not targets):
            raise ValueError(
                f'lora_targets must be "{ALL_LINEAR}" or a list of names such as ["q_proj", "v_proj"], got {targets!r}'
            )
