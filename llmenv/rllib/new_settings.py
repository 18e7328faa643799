"""A learner under other settings, with the weights and moments that it has. Knows nothing of where they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.schedules.scheduler import Scheduler

from llmenv.engines.torch import TorchEngine

if TYPE_CHECKING:
    from llmenv.rllib.learner import LLMLearner


def take(learner: LLMLearner, config: Any) -> None:
    """Has a learner go on under another config: its optimizers' settings, its clipping and its learning rates.

    Args:
        learner: Built, on PyTorch's own engine: DeepSpeed's has its settings for good.
        config: The same model, and the same learners.

    Raises:
        ValueError: If the engine is another.
    """
    for engine in (learner.engine, learner.critic_engine):
        if engine is not None and not isinstance(engine, TorchEngine):
            raise ValueError("DeepSpeed's engine takes no other settings: build the algorithm anew")
        if engine is not None:
            engine.max_grad_norm = config.grad_clip
    learner.config = learner.outbox.config = config
    for name, rate in learner.learning_rates().items():
        optimizer = learner.get_optimizer(DEFAULT_MODULE_ID, name)
        for group in optimizer.param_groups:
            group.update(
                betas=tuple(config.adam_betas), eps=config.adam_epsilon, weight_decay=config.weight_decay
            )
        schedule = Scheduler(fixed_value_or_schedule=rate, framework=learner.framework)
        learner._optimizer_lr_schedules[optimizer] = schedule
        learner._set_optimizer_lr(optimizer, lr=schedule.get_current_value())
