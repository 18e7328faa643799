"""Ray Tune: trials that are what their settings say, from wherever they are started and stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
from ray import tune
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.tune.schedulers import PopulationBasedTraining

from algorithms import GRPO
from support import flat_weights, runner_weights, small_config

pytestmark = pytest.mark.usefixtures("ray_cluster")  # RLlib would start a Ray of its own


def test_trials_of_one_config(tmp_path: Path, model_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of a grid, whose model is named from the current directory, which Tune leaves."""
    (tmp_path / "model").symlink_to(model_folder)
    monkeypatch.chdir(tmp_path)
    config = small_config("./model", prompts_per_iteration=2, lr=tune.grid_search([1e-4, 1e-3]))
    results = tune.Tuner(
        GRPO,
        param_space=config,
        tune_config=tune.TuneConfig(metric="env_runners/episode_return_mean", mode="max"),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path / "results"),
            stop={"training_iteration": 2},
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
        ),
    ).fit()
    assert not results.errors
    trials = sorted(results, key=lambda result: result.config["lr"])
    assert [result.config["lr"] for result in trials] == [1e-4, 1e-3]
    # Nobody set a seed: each trial has one of its own, and says which.
    assert sorted(result.config["run_seed"] for result in trials) == [0, 1]
    for result in trials:
        assert result.metrics["training_iteration"] == 2
        assert result.metrics["learners"][DEFAULT_MODULE_ID][
            "default_optimizer_learning_rate"
        ] == pytest.approx(result.config["lr"])
    assert 0 <= results.get_best_result().metrics["env_runners"]["episode_return_mean"] <= 1
    assert results.get_best_result().checkpoint is not None


def watch(file: Path, event: str, algorithm: GRPO) -> None:
    """Writes down what a trial's settings are where they act, and what its weights are."""
    learner = algorithm.learner_group._learner
    (group,) = learner.engine.optimizer.param_groups
    line = {
        "event": event,
        "seed": algorithm.config.run_seed,
        "iteration": algorithm.iteration,
        "acting": {
            "lr": group["lr"],
            "weight_decay": group["weight_decay"],
            "adam_betas": list(group["betas"]),
            "clip_param": learner.config.clip_param,
            "kl_coeff": learner.kl_coeff,
        },
        "weights": float(flat_weights(learner).double().sum()),
        "sampler": float(runner_weights(algorithm.env_runner_group.local_env_runner).double().sum()),
    }
    with file.open("a") as lines:
        lines.write(json.dumps(line) + "\n")


OURS = {
    "lr": [1e-4, 1e-3],
    "weight_decay": [0.0, 0.1],
    "adam_betas": [[0.9, 0.999], [0.8, 0.99]],
    "clip_param": [0.1, 0.3],
    "kl_coeff": [0.01, 0.05],
}


@pytest.mark.slow
def test_a_population_on_a_filesystem_of_its_own(tmp_path: Path) -> None:
    """The worse of two trials takes over the better one's weights, and has settings of its own from the first step."""
    watched = tmp_path / "watched.jsonl"
    (tmp_path / "bucket").mkdir()
    config = small_config("tiny", prompts_per_iteration=2).sampling(run_seed=tune.grid_search([0, 1]))
    config.training(**{name: values[0] for name, values in OURS.items()})

    def on_train_result(*, algorithm: GRPO, result: dict[str, Any], **kwargs: Any) -> None:
        watch(watched, "trained", algorithm)
        result["score"] = algorithm.config.run_seed  # the second trial is always the better one

    config.callbacks(
        on_train_result=on_train_result,
        on_checkpoint_loaded=lambda *, algorithm, **kwargs: watch(watched, "loaded", algorithm),
    )
    population = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=1,
        quantile_fraction=0.5,
        resample_probability=0.0,
        hyperparam_mutations=OURS,
        # All move on to the other value: without one this is a draw.
        custom_explore_fn=lambda config: {**config, **{name: values[1] for name, values in OURS.items()}},
        synch=True,
    )
    results = tune.Tuner(
        GRPO,
        param_space=config,
        tune_config=tune.TuneConfig(metric="score", mode="max", scheduler=population),
        run_config=tune.RunConfig(
            name="population",
            storage_path="runs",
            storage_filesystem=pyarrow.fs.SubTreeFileSystem(
                str(tmp_path / "bucket"), pyarrow.fs.LocalFileSystem()
            ),
            stop={"training_iteration": 2},
            verbose=0,
        ),
    ).fit()
    assert not results.errors
    lines = [json.loads(line) for line in watched.read_text().splitlines()]
    first, wanted = ({name: values[i] for name, values in OURS.items()} for i in (0, 1))
    trained = [line for line in lines if line["event"] == "trained"]
    worse, better = (next(line for line in trained if line["seed"] == seed) for seed in (0, 1))
    assert worse["acting"] == better["acting"] == first
    (exploited,) = (
        line for line in lines if line["event"] == "loaded" and line["acting"]["clip_param"] == 0.3
    )
    # The donor's weights arrive in the learner and in the sampler, and none of its settings.
    assert exploited["weights"] == exploited["sampler"] == better["weights"] != worse["weights"]
    assert {**exploited["acting"], "lr": 1e-3} == wanted  # the learning rate is set before each step
    assert [line["acting"] for line in trained].count(
        wanted
    ) == 1  # from the first step on: there is but one more
    assert len(trained) == 4
    stored = [file for file in (tmp_path / "bucket" / "runs").rglob("*") if file.name == "engine.pt"]
    assert stored and all(file.stat().st_size > 1e6 for file in stored)
