"""The RLlib EnvRunner: a sampler, a renderer and a pool of environments in one process."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import gymnasium as gym
import ray
import torch
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
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
from llmenv.models.names import load_causal_lm, resolve_model
from llmenv.models.renderer import Renderer
from llmenv.rollout import EnvPool, GroupRequest, rollout
from llmenv.samplers.sampler import Sampler, SamplingParams
from llmenv.samplers.transformers import TransformersSampler
from llmenv.samplers.vllm import VLLMSampler


class LLMEnvRunner(EnvRunner, Checkpointable):
    """Samples groups of episodes.

    The runner of index 0 beside remote ones exists for RLlib's book-keeping only and holds no model.
    """

    def __init__(self, *, config: Any, **kwargs: Any):
        super().__init__(config=config, **kwargs)
        self._pools: dict[str, EnvPool] = {}
        self._num_calls = 0
        self.renderer: Renderer
        self.sampler: Sampler | None = None
        if self.worker_index or config.num_env_runners == 0:
            self.make_module()

    def make_module(self) -> None:
        config = self.config
        self.renderer = Renderer.from_model(config.base_model, config.template)
        if config.sampler == "vllm":
            self.sampler = VLLMSampler(
                resolve_model(config.base_model),
                dtype=config.dtype,
                max_model_len=config.max_sequence_tokens,
                max_rows=config.max_rows_per_sampler,
                weight_transfer=config.weight_transfer,
                sampler_kwargs=config.sampler_kwargs,
            )
        else:
            device = "cuda" if torch.cuda.is_available() and config.num_gpus_per_env_runner else "cpu"
            model = load_causal_lm(config.base_model, dtype=config.dtype).to(device)
            self.sampler = TransformersSampler(
                model, max_rows=config.max_rows_per_sampler, tokenizer=self.renderer.tokenizer
            )

    def assert_healthy(self) -> None:
        assert self.sampler is not None

    def sample(
        self,
        *,
        requests: Sequence[GroupRequest] | None = None,
        temperature: float | None = None,
        env_config: dict[str, Any] | None = None,
        num_episodes: int | None = None,
        **kwargs: Any,
    ) -> list[TextEpisode]:
        """Samples groups and logs metrics about them.

        Args:
            requests: The groups to sample, as the algorithm deals them out. None samples `num_episodes` (default:
                one group) of this runner's own choice, as RLlib's callers without knowledge of groups do.
            temperature: Instead of the training temperature.
            env_config: Constructor arguments of the environment, instead of the training ones.
            num_episodes: Only without `requests`.

        Returns:
            Their episodes, invalid ones included (they carry their `error`).
        """
        if self.sampler is None:
            raise RuntimeError("the runner of index 0 beside remote ones holds no sampler")
        if requests is None:
            keys = (derive_seed(self.config.run_seed, self.worker_index or 0), self._num_calls)
            sizes = [1] * num_episodes if num_episodes else [self.config.group_size]
            requests = [GroupRequest.derive(i, size, *keys) for i, size in enumerate(sizes)]
            self._num_calls += 1
        params = SamplingParams(
            max_new_tokens=self.config.max_new_tokens,
            stop_token_ids=self.renderer.stop_token_ids,
            temperature=self.config.temperature if temperature is None else temperature,
        )
        episodes = rollout(
            self._pool(self.config.env_config if env_config is None else env_config),
            self.renderer,
            self.sampler,
            requests,
            params,
            self.config.max_prompt_tokens,
        )
        if env_config is None:
            self._log(episodes)
        return episodes

    def sample_with_metrics(self, **kwargs: Any) -> tuple[list[TextEpisode], Any]:
        """`sample` and `get_metrics` in one call to a remote runner."""
        return self.sample(**kwargs), self.get_metrics()

    def _pool(self, env_config: dict[str, Any]) -> EnvPool:
        key = json.dumps(env_config, sort_keys=True, default=repr)
        if key not in self._pools:
            self._pools[key] = EnvPool(lambda: make_env(self.config.env, env_config))
        return self._pools[key]

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
