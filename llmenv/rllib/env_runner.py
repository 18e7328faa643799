"""The RLlib EnvRunner: a sampler, a renderer and a pool of environments in one process."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import gymnasium as gym
import ray
import torch
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils import force_list
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    EPISODE_RETURN_MEAN,
    NUM_AGENT_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    WEIGHTS_SEQ_NO,
)

from llmenv.env import make_env
from llmenv.episode import TextEpisode, derive_seed
from llmenv.models.names import load_causal_lm, resolve_model, trust_remote_code
from llmenv.models.renderer import Renderer
from llmenv.prompt_env import PromptEnv
from llmenv.rollout import EnvPool, GroupRequest, rollout
from llmenv.samplers.sampler import Sampler, SamplingParams
from llmenv.samplers.transformers import TransformersSampler
from llmenv.samplers.trial import try_sampler
from llmenv.samplers.vllm import VLLMSampler


class LLMEnvRunner(EnvRunner, Checkpointable):
    """Samples groups of episodes.

    The runner of index 0 beside remote ones exists for RLlib's book-keeping only and holds no model.
    """

    def __init__(self, *, config: Any, **kwargs: Any):
        super().__init__(config=config, **kwargs)
        self._evaluation_config = config.get_evaluation_config_object()
        self._callbacks = [callback() for callback in force_list(config.callbacks_class)]
        # By role: each has its environments, and nobody has to compare their arguments.
        self._pools = {
            "training": EnvPool(lambda: self._make_env(config)),
            "evaluation": EnvPool(lambda: self._make_env(self._evaluation_config)),
            "generation": EnvPool(PromptEnv),
        }
        self._num_calls = 0
        self.renderer: Renderer
        self.sampler: Sampler | None = None
        self._tried = False
        if self.worker_index or config.num_env_runners == 0:
            self.make_module()

    def make_module(self) -> None:
        config = self.config
        torch.set_float32_matmul_precision(config.matmul_precision)
        trust_remote_code(config.trust_remote_code)
        self.renderer = Renderer.from_model(config.base_model, config.template, config.template_kwargs)
        if config.sampler == "vllm":
            self.sampler = VLLMSampler(
                resolve_model(config.base_model),
                dtype=config.dtype,
                max_model_len=self._longest_sequence(),
                max_rows=config.max_rows_per_sampler,
                learner_bytes=config.learner_bytes if config.shares_gpu else None,
                weight_transfer=config.weight_transfer,
                sampler_kwargs=config.engine_arguments,
            )
            if self.sampler.changes_transformers and config.num_env_runners == 0:
                self.sampler.close()
                raise ValueError(
                    f"vLLM runs {config.base_model!r} with transformers' class, and changes that for all of this "
                    "process: the learner could not load it. Give the sampler a process of its own: --num-env-runners 1"
                )
            if config.shares_gpu:
                # Until the first weights are brought: a learner is started after the runners, and takes more memory
                # for that than it holds afterwards.
                self.sampler.sleep()
        else:
            device = "cuda" if torch.cuda.is_available() and config.num_gpus_per_env_runner else "cpu"
            model = load_causal_lm(config.base_model, dtype=config.dtype).to(device)
            self.sampler = TransformersSampler(
                model, max_rows=config.max_rows_per_sampler, tokenizer=self.renderer.tokenizer
            )

    def _longest_sequence(self) -> int | None:
        """Of training and evaluation, prompt and response together; None where there is no limit."""
        limits = [config.max_sequence_tokens for config in (self.config, self._evaluation_config)]
        return None if None in limits else max(limits)

    def assert_healthy(self) -> None:
        assert self.sampler is not None

    def sample(
        self,
        *,
        requests: Sequence[GroupRequest] | None = None,
        role: str = "training",
        temperature: float | None = None,
        max_new_tokens: int | None = None,
        num_episodes: int | None = None,
        **kwargs: Any,
    ) -> list[TextEpisode]:
        """Samples groups, and logs metrics about them where they are for training.

        Args:
            requests: The groups to sample, as the algorithm deals them out. None samples `num_episodes` (default:
                one group) of this runner's own choice, as RLlib's callers without knowledge of groups do.
            role: Whose settings hold: "training", "evaluation" (with what `evaluation_config` changes), or
                "generation", whose requests say what to ask (see `llmenv.prompt_env`).
            temperature: Instead of the role's own.
            max_new_tokens: Instead of the role's own.
            num_episodes: Only without `requests`.

        Returns:
            Their episodes, invalid ones included (they carry their `error`).
        """
        if self.sampler is None:
            raise RuntimeError("the runner of index 0 beside remote ones holds no sampler")
        if requests is None:
            keys = (derive_seed(self.config.root_seed, self.worker_index or 0), self._num_calls)
            sizes = [1] * num_episodes if num_episodes else [self.config.group_size]
            requests = [GroupRequest.derive(i, size, *keys) for i, size in enumerate(sizes)]
            self._num_calls += 1
        config = self._evaluation_config if role == "evaluation" else self.config
        params = SamplingParams(
            max_new_tokens=config.max_new_tokens if max_new_tokens is None else max_new_tokens,
            stop_token_ids=self.renderer.stop_token_ids,
            temperature=config.temperature if temperature is None else temperature,
        )
        episodes = rollout(
            self._pools[role],
            self.renderer,
            self.sampler,
            requests,
            params,
            config.max_prompt_tokens,
            on_event=self._on_episode_event if role != "generation" else lambda *event: None,
            env_timeout_s=config.env_timeout_s,
        )
        if role == "training":
            self._log(episodes)
        if role != "generation":
            self._call_back("on_sample_end", samples=episodes)
        return episodes

    def sample_with_metrics(self, **kwargs: Any) -> tuple[list[TextEpisode], Any]:
        """`sample` and `get_metrics` in one call to a remote runner."""
        return self.sample(**kwargs), self.get_metrics()

    def _make_env(self, config: Any) -> gym.Env:
        env = make_env(config.env, config.env_config)
        self._call_back("on_environment_created", env=env.unwrapped, env_context=config.env_config)
        return env

    def _on_episode_event(self, event: str, episode: TextEpisode, env: gym.Env, slot: int) -> None:
        self._call_back(event, episode=episode, env=env, env_index=slot, rl_module=None)

    def _call_back(self, event: str, **kwargs: Any) -> None:
        make_callback(
            event,
            callbacks_objects=self._callbacks,
            callbacks_functions=getattr(self.config, f"callbacks_{event}"),
            kwargs={"env_runner": self, "metrics_logger": self.metrics, **kwargs},
        )

    def _log(self, episodes: Sequence[TextEpisode]) -> None:
        steps = sum(episode.env_steps() for episode in episodes)
        self.num_env_steps_sampled_lifetime += steps
        log = self.metrics.log_value
        log(NUM_ENV_STEPS_SAMPLED, steps, reduce="sum")
        log(NUM_ENV_STEPS_SAMPLED_LIFETIME, steps, reduce="lifetime_sum", with_throughput=True)
        log((NUM_AGENT_STEPS_SAMPLED, DEFAULT_MODULE_ID), steps, reduce="sum")
        log(NUM_EPISODES, len(episodes), reduce="sum")
        for episode in episodes:
            if episode.valid:
                log(EPISODE_RETURN_MEAN, episode.total_reward, reduce="mean", window=None)

    def get_metrics(self) -> Any:
        return self.metrics.reduce()

    def get_spaces(self) -> dict[str, tuple[gym.Space, gym.Space]]:
        env = make_env(self.config.env, self.config.env_config)
        spaces = (env.observation_space, env.action_space)
        env.close()
        return {INPUT_ENV_SPACES: spaces, INPUT_ENV_SINGLE_SPACES: spaces, DEFAULT_MODULE_ID: spaces}

    def get_state(
        self, components: Any = None, *, not_components: Collection[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """A runner has no state of its own: weights come from the learner, tasks from the algorithm's seeds."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over weights (packed, or a reference to them).

        Of the version that it has already, too: after another run's checkpoint has been restored, equal versions
        are different weights.
        """
        packed = state.get(COMPONENT_RL_MODULE)
        if not packed or self.sampler is None:
            return
        if isinstance(packed, ray.ObjectRef):
            packed = ray.get(packed)
        self.sampler.load_weights(packed, state[WEIGHTS_SEQ_NO])
        # Not in the constructor, whose errors Ray keeps to itself.
        if isinstance(self.sampler, TransformersSampler) and not self._tried:
            try_sampler(self.sampler)
            self._tried = True

    def take_settings(self, config: Any) -> None:
        """Goes on under another config of the same model, sampler and environments."""
        self.config = config
        self._evaluation_config = config.get_evaluation_config_object()

    def sleep(self) -> None:
        """See `Sampler.sleep`."""
        assert self.sampler is not None
        self.sampler.sleep()

    def transfer(self, method: str, kwargs: dict[str, Any]) -> None:
        """See `VLLMSampler.transfer`."""
        assert isinstance(self.sampler, VLLMSampler)
        self.sampler.transfer(method, kwargs)

    def finish_transfer(self, version: int) -> None:
        """See `VLLMSampler.finish_transfer`."""
        assert isinstance(self.sampler, VLLMSampler)
        self.sampler.finish_transfer(version)

    def get_ctor_args_and_kwargs(self) -> tuple[tuple, dict[str, Any]]:
        return (), {"config": self.config, "worker_index": self.worker_index, "num_workers": self.num_workers}

    def stop(self) -> None:
        """Gives the memory of environments and sampler back: nothing can be sampled any more."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        if self.sampler is not None:
            self.sampler.close()
            self.sampler = None
