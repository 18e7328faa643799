"""Other settings for an algorithm that is there already, as Ray Tune's reused trials have them.

A population's exchange is then one load of weights: nothing is started anew, and no model is read again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from algorithms.bounds import BOUNDS
from algorithms.config import LLMConfig
from algorithms.curriculum import Curriculum

if TYPE_CHECKING:
    from algorithms.learner import PolicyLearner

# What changes where it stands; all else is a part of processes, models or their samplers.
IN_PLACE = ({*BOUNDS["training"]} - {"critic", "shared_prompts"}) | {"run_seed"}
DECIDED = ("policies", "env_prompt", "_is_frozen", "class")  # not set by anybody, but made of what is


def lasting(old: LLMConfig, new: LLMConfig) -> list[str]:
    """The settings in which two configs differ, and which an algorithm has for good."""
    names = {*vars(old), *vars(new)} - {*DECIDED}
    differing = {name for name in names if getattr(old, name, None) != getattr(new, name, None)}
    if old.deepspeed_config is not None:  # its engine is made of these
        return sorted(differing - {"run_seed"})
    return sorted(name for name in differing if name not in IN_PLACE and not name.startswith("__"))


class Reusable:
    """What Tune calls of a trial's algorithm that is to become another trial's."""

    config: LLMConfig
    runners: Any
    curriculum: Curriculum
    learner_group: Any
    evaluation_config: Any
    _weights_of_another = False

    def reset_config(self, new_config: LLMConfig | dict[str, Any]) -> bool:
        """Takes over other settings; the weights must then come from a checkpoint.

        Args:
            new_config: A config, or the settings that differ from the default ones.

        Raises:
            ValueError: If a setting differs that does not change where it stands, or has a value that it cannot have.
        """
        config = new_config
        if not isinstance(config, LLMConfig):
            config = type(self).get_default_config().update_from_dict(dict(new_config))  # type: ignore[attr-defined]
        config = config.copy(copy_frozen=False)
        if config.run_seed is None:
            config.sampling(run_seed=self.config.run_seed)
        config.validate()
        if others := lasting(self.config, config):
            raise ValueError(
                f"{', '.join(others)} cannot change in an algorithm that is there: leave Tune's reuse_actors at False"
            )
        config.env_prompt = self.config.env_prompt
        config.freeze()
        self.config = config
        self.curriculum.size = config.prompts_per_iteration
        self.evaluation_config = config.get_evaluation_config_object()
        self.evaluation_config.freeze()

        def take(learner: PolicyLearner) -> None:
            learner.take_settings(config)

        self.learner_group.on_all(take)
        self.runners.call("take_settings", config=config)
        self._weights_of_another = True
        return True

    def refuse_weights_of_another(self) -> None:
        """Raises `RuntimeError` between `reset_config` and the restored checkpoint."""
        if self._weights_of_another:
            raise RuntimeError(
                "the settings are a new trial's, and the weights are the last one's: reset_config is followed by a "
                "checkpoint, as population based training does; otherwise leave Tune's reuse_actors at False"
            )
