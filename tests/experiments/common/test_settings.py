from __future__ import annotations

import pytest
import yaml

from experiments.common import settings
from experiments.common.environments import env_options


def test_assignments_take_yaml_values_and_bare_exponents():
    sections = settings.from_assignments(
        ["training.lr=1e-6", "training.group_size=4", "environment.env_config={num_numbers: 3}"]
    )
    assert sections == {
        "training": {"lr": 1e-6, "group_size": 4},
        "environment": {"env_config": {"num_numbers": 3}},
    }


def test_assignments_set_single_entries_of_a_mapping():
    sections = settings.from_assignments(
        ["environment.env_config.data=/data/train.parquet", "environment.env_config.digits=[2, 1]"]
    )
    assert sections == {"environment": {"env_config": {"data": "/data/train.parquet", "digits": [2, 1]}}}
    deep = "environment.env_config.parts.GSM8K-v0.env_config.data=/data"
    part = {"env_config": {"data": "/data"}}
    assert settings.from_assignments([deep]) == {"environment": {"env_config": {"parts": {"GSM8K-v0": part}}}}


@pytest.mark.parametrize("text", ["lr=1", "training.lr", "=3", "training.=3", "a.b..d=1"])
def test_a_malformed_assignment_names_the_form(text):
    with pytest.raises(ValueError, match=r"section\.key=value"):
        settings.parse_assignment(text)


def test_what_is_no_yaml_is_told_with_its_place(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("training:\n  lr: 1: 2\n")  # the second colon is the eighth character of line 2
    with pytest.raises(ValueError, match=r"mine\.yaml is not YAML, line 2, column 8: mapping values are not"):
        settings.load_preset(str(file))
    with pytest.raises(
        ValueError, match=r"--set training\.lr is not YAML, line 1, column 4: .*expected the node"
    ):
        settings.parse_assignment("training.lr=[1,")
    with pytest.raises(ValueError, match=r"--env-set digits is not YAML, line 1, column 2"):
        env_options(["digits=["])
    with pytest.raises(ValueError, match=r"--set training\.lr is not YAML: month must be in 1\.\.12"):
        settings.parse_assignment("training.lr=2026-13-01")
    with pytest.raises(ValueError, match=r"--set training\.lr is not YAML: unacceptable character #x001b"):
        settings.parse_assignment("training.lr=\x1b")


def test_later_layers_win_and_env_configs_merge():
    merged = settings.merge(
        {"training": {"lr": 1.0, "group_size": 8}, "environment": {"env_config": {"split": "train", "a": 1}}},
        {"training": {"lr": 2.0}, "environment": {"env_config": {"a": 2, "parts": {"easy": {"weight": 1}}}}},
        {"environment": {"env_config": {"parts": {"easy": {"env_config": {"digits": 2}}}}}},
    )
    part = {"weight": 1, "env_config": {"digits": 2}}
    assert merged == {
        "training": {"lr": 2.0, "group_size": 8},
        "environment": {"env_config": {"split": "train", "a": 2, "parts": {"easy": part}}},
    }


def test_the_layers_themselves_stay_as_they_were():
    preset = {"environment": {"env_config": {"a": 1}}}
    settings.merge(preset, {"environment": {"env_config": {"a": 2}}})
    assert preset == {"environment": {"env_config": {"a": 1}}}


@pytest.mark.parametrize("name", sorted(path.stem for path in settings.PRESETS.glob("*.yaml")))
def test_every_preset_builds_its_config(name, tmp_path):
    sections = settings.merge(settings.load_preset(name), {"environment": {"env": "envs:Countdown-v0"}})
    algo = "PPO" if sections["training"]["group_size"] == 1 else "GRPO"
    if name.startswith("sft"):
        (tmp_path / "demos.jsonl").write_text('{"prompt": "1 + 1?", "completion": "2"}\n' * 40)
        algo, data = "SFT", settings.parse_assignment(f"data={tmp_path / 'demos.jsonl'}")
        assert data == {"demonstrations": {"data": str(tmp_path / "demos.jsonl")}}
        sections = settings.merge(sections, data)
        # So many passes over 40 rows, 32 a step: 120 / 32 = 3.75 steps, and 40 / 32 = 1.25.
        sections["run"]["iterations"] = {"sft": 4, "sft_tiny": 2}[name]
        _, run = settings.build(algo, {**sections, "run": {}})
        assert run.iterations == sections["run"]["iterations"]
    config, run = settings.build(algo, sections)
    assert config.env == "envs:Countdown-v0"
    for key, value in sections["training"].items():
        assert getattr(config, key) == value
    assert run.iterations == sections["run"]["iterations"]


@pytest.mark.parametrize(
    ("algo", "sections", "message"),
    [
        ("Nope", {}, "choose one of PPO, GRPO"),
        (
            "GRPO",
            {"trainning": {"lr": 1}},
            r"no section 'trainning' \(did you mean training\?\): one of .*run",
        ),
        ("GRPO", {"training": {"learning_rate": 1}}, "learning_rate"),
        ("GRPO", {"demonstrations": {"data": "x.parquet"}}, "GRPO has no section demonstrations.*--algo SFT"),
        ("GRPO", {"run": {"iterationss": 1}}, "iterationss"),
        ("GRPO", {"environment": {"env_config": None}}, "env_config must map names to values .*, got None"),
        ("GRPO", {"training": {"minibatch_size": 7}}, "minibatch_size=7 must divide"),
        ("GRPO", {"training": {"kl_estimator": "k9"}}, "kl_estimator must be one of k1, k2, k3"),
        ("GRPO", {"sampling": {"top_p": 0.9}}, "whole distribution"),
        ("GRPO", {"sampling": {"temperature": 0}}, "temperature must be above 0"),
        ("GRPO", {"training": {"tis_cap": 0}}, "tis_cap must be above 0"),
        ("GRPO", {"policy": {"lora_rank": 0}}, "lora_rank must be a whole number of at least 1"),
        ("GRPO", {"policy": {"lora_rank": 2.5}}, "lora_rank must be a whole number of at least 1"),
        (
            "GRPO",
            {"policy": {"lora_rank": 4, "lora_alpha": 0}},
            "lora_alpha must be a whole number of at least 1",
        ),
        ("GRPO", {"policy": {"lora_rank": 4, "lora_targets": "q_proj"}}, "lora_targets must be .* a list"),
        ("GRPO", {"policy": {"lora_rank": 4, "lora_targets": []}}, "lora_targets must be .* a list"),
        ("GRPO", {"policy": {"lora_alpha": 8}}, "need a lora_rank"),
        ("GRPO", {"sampling": {"sampler": "nope"}}, "sampler must be one of transformers, vllm"),
        ("GRPO", {"sampling": {"sampler": "vllm", "temperature": 3}}, "temperatures from 0.01 to 2, got 3"),
        ("GRPO", {"sampling": {"sampler_kwargs": {"seed": 1}}}, "sampler_kwargs are vLLM's"),
    ],
)
def test_bad_settings_are_refused_by_name(algo, sections, message):
    sections = settings.merge({"environment": {"env": "envs:Countdown-v0"}}, sections)
    with pytest.raises(ValueError, match=message):
        settings.build(algo, sections)


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"pretrained, qwen2.5_0.5b, .*, r1_zero, sft, sft_tiny, tiny, tinyzero_countdown"
    ):
        settings.load_preset("nope")


def test_actors_share_the_cores(monkeypatch):
    monkeypatch.setattr(settings.os, "cpu_count", lambda: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    sections = {
        "environment": {"env": "envs:Countdown-v0"},
        "env_runners": {"num_env_runners": 2},
        "learners": {"num_learners": 2},
    }
    config, _ = settings.build("grpo", sections)
    assert 2 * config.num_cpus_per_env_runner + 2 * config.num_cpus_per_learner <= 2
    sections["learners"]["num_cpus_per_learner"] = 0.25
    config, _ = settings.build("grpo", sections)
    # Four actors and the driver on two cores: 2 / 5 of a core each, but for those that were given another share.
    assert (config.num_cpus_per_env_runner, config.num_cpus_per_learner) == (0.4, 0.25)


@pytest.mark.parametrize(
    ("sections", "cap"),
    [
        ({}, None),
        ({"sampling": {"sampler": "vllm"}}, 2.0),
        ({"sampling": {"sampler": "vllm"}, "training": {"tis_cap": None}}, None),
        ({"training": {"tis_cap": 3}}, 3.0),
        ({"policy": {"lora_rank": 4}}, None),
        ({"policy": {"lora_rank": 4, "dtype": "bfloat16"}}, 2.0),
        ({"policy": {"dtype": "bfloat16"}}, 2.0),
        ({"policy": {"dtype": "bfloat16"}, "training": {"tis_cap": None}}, None),
    ],
)
def test_importance_weights_are_on_where_the_engines_differ(sections, cap):
    config, _ = settings.build("GRPO", {"environment": {"env": "envs:Countdown-v0"}, **sections})
    assert config.importance_cap == cap


@pytest.mark.parametrize(
    ("runners", "learners", "told"), [(40, 1, True), (3, 0, True), (1, 1, False), (0, 0, False)]
)
def test_more_processes_than_cores_are_told_of(monkeypatch, runners, learners, told):
    monkeypatch.setattr(settings.os, "cpu_count", lambda: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    sections = {
        "environment": {"env": "envs:Countdown-v0"},
        "env_runners": {"num_env_runners": runners},
        "learners": {"num_learners": learners},
    }
    config, _ = settings.build("grpo", sections)
    note = settings.crowding(config)
    assert (note is not None) == told
    if note:
        assert f"asked for {runners} sampling and {learners} learning" in note and "has 2 CPUs" in note


@pytest.mark.parametrize("algo", ["GRPO", "PPO", "DAPO", "REINFORCE++"])
def test_recorded_settings_build_the_same_config(algo):
    sections = {
        "environment": {"env": "envs:Countdown-v0", "env_config": {"num_numbers": 3}},
        "training": {"lr": 1e-3, "group_size": 4},
        "deepspeed": {"zero_stage": 1, "config": {"wall_clock_breakdown": True}},
        "learners": {"num_learners": 1, "num_cpus_per_learner": 0.25},
    }
    config, run = settings.build(algo, sections)
    recorded = yaml.safe_load(yaml.safe_dump(settings.resolved(algo, sections, run, config)))
    assert recorded.pop("algo") == algo
    assert recorded["sampling"]["run_seed"] == 0 and recorded["run"]["checkpoint_minutes"] == 15
    again, run_again = settings.build(algo, recorded)
    assert run_again == run
    ours, theirs = ({k: v for k, v in vars(one).items() if k != "adam_betas"} for one in (config, again))
    ours["run_seed"] = 0
    assert {k: v for k, v in ours.items() if theirs[k] != v and not k.startswith("_")} == {}
    assert list(config.adam_betas) == again.adam_betas


def test_methods_have_their_names_and_bounds_their_choices():
    """What is said before anything is imported is what is there."""
    from algorithms import bounds, names
    from algorithms.advantages import BASELINES, SCALES
    from algorithms.losses import KL_ESTIMATORS, NORMALISERS, SURROGATES
    from algorithms.methods import METHODS
    from llmenv.models.names import DTYPES
    from llmenv.models.renderer import TEMPLATES
    from llmenv.weights.transfer import BACKENDS

    assert tuple(METHODS) == names.METHODS
    for section, name, allowed in (
        ("policy", "dtype", DTYPES),
        ("policy", "template", TEMPLATES),
        ("training", "surrogate", tuple(SURROGATES)),
        ("training", "loss_normaliser", NORMALISERS),
        ("training", "kl_estimator", (*KL_ESTIMATORS, None)),
        ("training", "baseline", BASELINES),
        ("training", "advantage_scale", SCALES),
        ("sampling", "weight_transfer", (None, *BACKENDS)),
    ):
        assert bounds.BOUNDS[section][name].keywords["allowed"] == allowed
    for section, known in bounds.BOUNDS.items():
        if section == "run":
            assert set(known) == set(settings.RunSettings.__annotations__)


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({}, 540),  # 90 iterations more, of 6 s
        ({"token_limit": 3000}, 120),  # 2,000 tokens more, of 100 an iteration
        ({"token_limit": 1000}, 0),
        ({"token_limit": 3000, "time_limit": 2}, 60),
    ],
)
def test_the_time_left_goes_by_what_ends_first(limits: dict[str, int], seconds: float) -> None:
    run = settings.RunSettings(iterations=100, **limits)
    assert run.seconds_left(60, 10, 0, 1000) == seconds
    assert run.seconds_left(60, 20, 10, 2000) == (480 if not limits else min(seconds, 60))
