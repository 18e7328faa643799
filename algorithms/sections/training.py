"""The section `training`: the batch, the optimizer and the loss."""

from __future__ import annotations

from typing import Any, Self

from ray.rllib.algorithms.algorithm_config import NotProvided

from algorithms.curriculum import read_levels
from algorithms.sections.section import Section


class TrainingSection(Section):
    """See `training`."""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class)
        self.prompts_per_iteration = 32
        self.group_size = 8
        self.minibatch_size: int | None = None
        self.num_epochs = 1
        self.micro_batch_tokens = 8192
        self.shared_prompts = True
        self.lr = 1e-6
        self.lr_warmup_iterations = 0
        self.adam_betas = (0.9, 0.999)
        self.adam_epsilon = 1e-8
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
        self.curriculum: dict[str, Any] | None = None

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
        adam_epsilon: float = NotProvided,
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
        curriculum: dict[str, Any] | None = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Sets the batch, the optimizer and the loss; `lr`, `num_epochs`, `grad_clip` are RLlib's own.

        Args:
            prompts_per_iteration: Groups an iteration.
            group_size: Samples a group.
            minibatch_size: Sequences an optimizer step; must divide `prompts_per_iteration * group_size`. Where samples
                drop out, the n left are spread evenly over max(1, round(n / minibatch_size)) steps. None: the whole
                batch is one step.
            micro_batch_tokens: Tokens that one forward pass computes. Changes memory and speed, not the result.
            shared_prompts: Compute the prompt of a group once a forward pass, and no padding. Changes memory and speed,
                not the result. A model whose attention cannot do it goes without, and says so.
            lr_warmup_iterations: The learning rate rises linearly over so many iterations. Only for a plain
                number as `lr`; a schedule `[[timestep, lr], ...]` (in samples) says it itself.
            adam_betas: Of AdamW.
            adam_epsilon: Of AdamW: what is added to the root of the second moment.
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
                in 16 bits or with a lower `matmul_precision`, whatever the sampler; else None.
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
            curriculum: For an environment with parts, see `algorithms.curriculum.Levels`: {"levels": [{"easy": 1},
                {"easy": 1, "hard": 2}], "raise_at": 0.8, "lower_at": 0.2, "window": 10} trains on the first level's
                parts until the accuracy of the window's iterations is at least `raise_at`. None: the parts' own
                weights, always.
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
            adam_epsilon=adam_epsilon,
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
            curriculum=curriculum,
        )

    @property
    def samples_per_iteration(self) -> int:
        return self.prompts_per_iteration * self.group_size

    @property
    def importance_cap(self) -> float | None:
        """`tis_cap`, decided.

        The transformers sampler computes with the learner's own modules, but token by token from a cache, in batches
        of other shapes: in 16 bits that rounds otherwise.
        """
        if self.tis_cap == "auto":
            exact = self.sampler != "vllm" and (self.dtype, self.matmul_precision) == ("float32", "highest")
            return None if exact else 2.0
        return None if self.tis_cap is None else float(self.tis_cap)

    @property
    def clip_range(self) -> tuple[float, float]:
        """How far the ratio may go below 1 and above."""
        high = self.clip_param if self.clip_param_high is None else self.clip_param_high
        return self.clip_param, high

    @property
    def kl_estimator_name(self) -> str:
        """`kl_estimator`, decided."""
        return self.kl_estimator or {"loss": "k3", "reward": "k1"}[self.kl_in]

    def learning_rate_schedule(self, lr: Any) -> Any:
        """A learning rate, with the warm-up as a schedule over samples."""
        if not self.lr_warmup_iterations:
            return lr
        return [[0, 0.0], [self.lr_warmup_iterations * self.samples_per_iteration, lr]]

    def validate(self) -> None:
        super().validate()
        if (size := self.minibatch_size) is not None and self.samples_per_iteration % size:
            raise ValueError(
                f"minibatch_size={size} must divide the batch of prompts_per_iteration x group_size = "
                f"{self.prompts_per_iteration} x {self.group_size} = {self.samples_per_iteration} samples"
            )
        if self.lr_warmup_iterations and not isinstance(self.lr, int | float):
            raise ValueError("lr_warmup_iterations needs a plain number as lr; a schedule says it itself")
        if self.curriculum is not None:
            read_levels(self.curriculum)
        self._validate_loss()
        self._validate_kl()

    def _validate_loss(self) -> None:
        if self.dual_clip is not None and self.surrogate != "clip":
            raise ValueError("dual_clip is of surrogate='clip': set that, or leave it out")

    def _validate_kl(self) -> None:
        if self.reference_model is not None and not self.kl_coeff:
            raise ValueError(
                "reference_model is what a KL is measured to: set a kl_coeff above 0, or leave it out"
            )
        if self.kl_target is not None and not self.kl_coeff:
            raise ValueError("kl_target needs a kl_coeff above 0 to start from")
        if self.kl_target is not None and self.kl_horizon < self.samples_per_iteration:
            raise ValueError(
                f"kl_horizon={self.kl_horizon} must be at least the {self.samples_per_iteration} samples of an "
                "iteration"
            )
