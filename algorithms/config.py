"""The config of all algorithms, in the form that RLlib's users know: its sections, and RLlib's seams."""

from __future__ import annotations

from typing import Any, Self

from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from algorithms import bounds
from algorithms.footprint import held_beside_a_sampler
from algorithms.sections.paths import absolute_paths
from algorithms.sections.policy import PolicySection
from algorithms.sections.sampling import SamplingSection
from algorithms.sections.training import TrainingSection
from algorithms.unsupported import refuse_unsupported
from llmenv.rllib.env_runner import LLMEnvRunner
from llmenv.rllib.learner_group import LLMLearnerGroup
from llmenv.rllib.rl_module import LLMModule


class LLMConfig(PolicySection, SamplingSection, TrainingSection):
    """Settings shared by all algorithms. Batch sizes are global: never per runner, never per learner.

    Attributes:
        critic: "separate", "shared" or None: a setting of methods that may have one.
        value_warmup_iterations: So many iterations update the critic alone; theirs too.
    """

    critic: str | None = None
    value_warmup_iterations = 0

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class)
        self.method = type(self).__name__.removesuffix("Config")  # its name among `algorithms.methods`
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

    def environment(self, env: str = NotProvided, *, env_config: Any = NotProvided, **kwargs: Any) -> Self:
        """RLlib's own; relative paths (`data`, `model`) in `env_config` are taken from the current directory."""
        if env_config is not NotProvided:
            bounds.check("environment", {"env_config": env_config})  # RLlib fails at what is no mapping
        return super().environment(env, env_config=absolute_paths(env_config), **kwargs)

    def evaluation(self, *, evaluation_config: Any = NotProvided, **kwargs: Any) -> Self:
        """RLlib's own. Evaluation is an episode each of `evaluation_duration` held-out tasks, on the training runners.

        Args:
            evaluation_config: What is otherwise than in training: `env`, `env_config`, `temperature`, `max_new_tokens`,
                `max_prompt_tokens`. {"env_config": {"split": "test"}} unless set.
            **kwargs: RLlib's own arguments.
        """
        return super().evaluation(evaluation_config=absolute_paths(evaluation_config), **kwargs)

    @property
    def learner_bytes(self) -> int:
        """What a learner holds of its GPU while samples are drawn."""
        return held_beside_a_sampler(self)

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        config = {
            "model": self.base_model,
            "dtype": self.dtype,
            "temperature": self.temperature,
            "gradient_checkpointing": self.gradient_checkpointing,
            "trust_remote_code": self.trust_remote_code,
            "lora": self.lora and {**self.lora, "seed": self.root_seed},
            "shared_prompts": self.shared_prompts,
            "critic": self.critic,
        }
        return RLModuleSpec(module_class=LLMModule, model_config=config)

    def build_learner_group(self, *, rl_module_spec: Any = None, **kwargs: Any) -> LLMLearnerGroup:
        spec = rl_module_spec or self.get_multi_rl_module_spec(**kwargs)
        return LLMLearnerGroup(config=self.copy(), module_spec=spec)

    def validate(self) -> None:
        default = type(self)()
        known = {*vars(default), "class"}  # RLlib writes "class" when it restores a config
        unknown = sorted(name for name in vars(self) if name not in known and not name.startswith("__"))
        if unknown:  # "__stdout_file__" and the like are Tune's
            raise ValueError(f"unknown settings {unknown}: check their spelling")
        refuse_unsupported(self, default)
        bounds.check_config(self)
        super().validate()

    def _value_error(self, errmsg: str) -> None:
        """What RLlib's own checks call; RLlib's would advise to switch them off."""
        raise ValueError(errmsg)
