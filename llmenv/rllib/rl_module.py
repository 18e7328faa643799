"""The RLModule: where RLlib keeps a learner's policy and its critic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from llmenv.engines.deepspeed import restore_buffers
from llmenv.models import lora
from llmenv.models.names import load_causal_lm, trust_remote_code
from llmenv.policy.batch import TokenBatch
from llmenv.policy.policy import CausalPolicy, Critic, PolicyOutput
from llmenv.policy.trial import try_policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LLMModule(TorchRLModule):
    """Holds a `CausalPolicy` as `policy`, and a critic of its own, if there is one, as `critic`.

    `model_config` keys: "model" (name, folder or hub id), "dtype", "temperature", "gradient_checkpointing",
    "shared_prompts", "critic" ("shared", "separate" or None), and with LoRA "lora", the arguments of
    `lora.add_adapters`.
    """

    policy: CausalPolicy
    critic: Critic | None

    def setup(self) -> None:
        config: dict[str, Any] = self.model_config
        try:
            model = self._load()
        except AttributeError as error:
            # RLModuleSpec.build() takes an AttributeError for an old-style module and would hide this one.
            raise RuntimeError(f"loading {config['model']!r} failed: {error}") from error
        if adapters := config.get("lora"):
            lora.add_adapters(model, **adapters)
        how = {name: config[name] for name in ("gradient_checkpointing", "shared_prompts")}
        self.policy = CausalPolicy(
            model, temperature=config["temperature"], value_head=config["critic"] == "shared", **how
        )
        try_policy(self.policy)
        self.critic = None
        if config["critic"] == "separate":
            self.critic = Critic(self._load(), **how)

    def _load(self) -> PreTrainedModel:
        trust_remote_code(self.model_config["trust_remote_code"])
        model = load_causal_lm(self.model_config["model"], dtype=self.model_config["dtype"])
        restore_buffers(model)
        return model

    def _forward(self, batch: TokenBatch, **kwargs: Any) -> PolicyOutput:
        return self.policy(batch)
