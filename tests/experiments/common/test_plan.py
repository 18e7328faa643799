"""`run.py --plan`: what runs where, whether it fits, what to change, and that presets and the docs are admitted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.common import plan as planning
from experiments.common import settings
from experiments.common.plan import Plan, given_gpus, make_plan, plan_here
from experiments.common.plan_shown import overlap
from experiments.common.remedies import changed, remedies
from experiments.run import app
from qwen import SIZES, make_folders

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "machines.md").read_text()
GB = 10**9
HALVES = (
    {"num_env_runners": 1, "num_gpus_per_env_runner": 0.5},
    {"num_learners": 1, "num_gpus_per_learner": 0.5},
)
WHOLE = {"num_env_runners": 1, "num_gpus_per_env_runner": 1}, {"num_learners": 1, "num_gpus_per_learner": 1}
EIGHT = {"num_env_runners": 4, "num_gpus_per_env_runner": 1}, {"num_learners": 4, "num_gpus_per_learner": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    return make_folders(tmp_path_factory.mktemp("qwen"))


def configure(folders: Path, size: str, where, *assignments: str):
    """The preset for pretrained models in bfloat16, with vLLM: 8,192 tokens a forward pass, sequences of 1,536."""
    sections = settings.merge(
        settings.load_preset("pretrained"),
        {
            "environment": {"env": "envs:Countdown-v0"},
            "policy": {"model": str(folders / f"Qwen2.5-{size}"), "dtype": "bfloat16"},
            "sampling": {"sampler": "vllm"},
            "env_runners": where[0],
            "learners": where[1],
        },
        settings.from_assignments(assignments),
    )
    return settings.build("GRPO", sections)[0]


def peaks(plan: Plan) -> list[float]:
    return [round(planning.footprint.peak(place.items)[0] / GB, 2) for place in plan.gpus]


# A learner in GB, as in tests/algorithms/test_footprint.py: CUDA's 1, 18 bytes a weight, the output layer's gradient
# in 16 bits and its sum in float32, and 8,192 tokens. 0.5B: 1 + 8.893 + 0.817 + 11.344 + 0.778;
# 1.5B: 1 + 27.787 + 1.400 + 23.834 + 0.778; 3B: 1 + 55.547 + 1.867 + 38.506 + 0.778;
# 7B: 1 + 137.081 + 3.270 + 51.935 + 0.779.
LEARNER = {"0.5B": 22.83, "1.5B": 54.80, "3B": 97.70, "7B": 194.06}
# With ZeRO 3 over four learners: 1 + 18 / 4 bytes a weight, gradients through a bucket of 1.0, up to a billion weights
# gathered (of 0.5B 0.988, else 2.0), and the output layer's gradient and the passes as before.
# 0.5B: 1 + 2.223 + 1.0 + 0.988 + 0.817 + 11.344 + 0.778; 1.5B: 1 + 6.947 + 1.0 + 2.0 + 1.400 + 23.834 + 0.778;
# 3B: 1 + 13.887 + 1.0 + 2.0 + 1.867 + 38.506 + 0.778; 7B: 1 + 34.270 + 1.0 + 2.0 + 3.270 + 51.935 + 0.779.
PARTED = {"0.5B": 18.15, "1.5B": 36.96, "3B": 59.04, "7B": 94.25}
# On a GPU that both share vLLM leaves CUDA's 1 while it sleeps. While it samples, the learner holds CUDA's 1, weights,
# masters and moments, 14 bytes a weight.
HELD = {"0.5B": 6.92, "1.5B": 21.61, "3B": 43.20, "7B": 106.62}


@pytest.mark.parametrize("memory", [24, 80])
@pytest.mark.parametrize("size", SIZES)
def test_one_two_and_eight_gpus_by_hand(size: str, memory: int, folders: Path) -> None:
    usable, vllm = 0.95 * memory, round(0.92 * memory, 2)
    two = make_plan(configure(folders, size, WHOLE), [memory * GB] * 2, None)
    assert peaks(two) == pytest.approx([vllm, LEARNER[size]], abs=0.02)
    assert two.fits == (LEARNER[size] <= usable)
    eight = make_plan(configure(folders, size, EIGHT, "deepspeed.zero_stage=3"), [memory * GB] * 8, None)
    assert peaks(eight) == pytest.approx([vllm] * 4 + [PARTED[size]] * 4, abs=0.02)
    assert eight.fits == (PARTED[size] <= usable)
    asleep = ["enable_sleep_mode=true", "gpu_memory_utilization=0.3"]
    shared = configure(folders, size, HALVES, *(f"sampling.sampler_kwargs.{one}" for one in asleep))
    one = make_plan(shared, [memory * GB], None)
    assert peaks(one) == pytest.approx([max(LEARNER[size] + 1, 1 + 0.3 * memory + HELD[size])], abs=0.02)
    assert not one.fits or memory == 80


def test_awake_beside_the_learner(folders: Path) -> None:
    """Without sleep mode both are there at the same time: 0.92 of 80 GB, and what the learner takes."""
    awake = ["enable_sleep_mode=false", "gpu_memory_utilization=0.92"]
    shared = configure(folders, "0.5B", HALVES, *(f"sampling.sampler_kwargs.{one}" for one in awake))
    one = make_plan(shared, [80 * GB], None)
    assert peaks(one) == pytest.approx([73.6 + LEARNER["0.5B"]], abs=0.02) and not one.fits


@pytest.mark.parametrize(("size", "memory", "share"), [("0.5B", 24, 0.62), ("1.5B", 80, 0.66)])
def test_vllm_sleeps_and_takes_what_a_learner_leaves(
    size: str, memory: int, share: float, folders: Path
) -> None:
    """0.95 - (1 + 6.92) / 24 = 0.620 and 0.95 - (1 + 21.61) / 80 = 0.667, in whole hundredths."""
    config = configure(folders, size, HALVES)
    assert config.sampler_sleeps
    one = make_plan(config, [memory * GB], None)
    assert peaks(one) == pytest.approx([max(LEARNER[size] + 1, 1 + share * memory + HELD[size])], abs=0.02)


def test_a_cache_must_hold_a_sequence(folders: Path) -> None:
    # A fifth of 24 GB is less than the weights alone, 15.2 GB.
    plan = make_plan(
        configure(folders, "7B", WHOLE, "sampling.sampler_kwargs.gpu_memory_utilization=0.2"),
        [24 * GB, 1000 * GB],
        None,
    )
    assert len(plan.problems) == 1 and "gpu_memory_utilization" in plan.problems[0]


def test_ray_deals_fractions_of_a_gpu_out(folders: Path) -> None:
    """The fullest that has room: two halves for samplers fill the first GPU, two for learners the second."""
    where = {**HALVES[0], "num_env_runners": 2}, {**HALVES[1], "num_learners": 2}
    plan = make_plan(configure(folders, "0.5B", where), [80 * GB] * 2, None)
    assert [place.actors for place in plan.gpus] == [["sampler"] * 2, ["learner"] * 2]


@pytest.mark.parametrize(
    ("where", "assignment", "said"),
    [
        (EIGHT, None, "4 learners and 4 runners need 8 GPUs, and there are 4"),
        (({}, {"num_learners": 1, "num_gpus_per_learner": 1}), None, "the sampler would run on the CPU"),
        (
            WHOLE,
            "sampling.sampler_kwargs.tensor_parallel_size=2",
            "pipeline_parallel_size = 2 GPUs, and num_gpus_per_env_runner is 1: set it to 2",
        ),
    ],
)
def test_what_no_memory_mends(where, assignment: str | None, said: str, folders: Path) -> None:
    config = configure(folders, "0.5B", where, *([assignment] if assignment else []))
    plan = make_plan(config, [1000 * GB] * 4, None)
    assert not plan.fits and said in plan.problems[0]


@pytest.mark.parametrize(("size", "where", "gpus", "memory"), [
    ("0.5B", HALVES, 1, 24),
    ("1.5B", HALVES, 1, 24),
    ("3B", WHOLE, 2, 80),
    ("7B", EIGHT, 8, 80),
])  # fmt: skip
def test_what_is_proposed_fits(size: str, where, gpus: int, memory: int, folders: Path) -> None:
    config = configure(folders, size, where)

    def make(config) -> Plan:
        return make_plan(config, [memory * GB] * gpus, None)

    found = remedies(config, make)
    assert not make(config).fits and found
    for changes in found:
        assert make(changed(config, changes)).fits
    # Nothing in the first is for nothing, but what others need: a share, or a stage to offload at.
    for left_out in found[0]:
        if left_out.startswith("deepspeed.zero_stage") and "deepspeed.offload_optimizer=true" in found[0]:
            continue
        rest = [change for change in found[0] if change != left_out]
        assert not make(changed(config, rest)).fits
    assert not remedies(config, lambda config: make_plan(config, [4 * GB], None))


def test_a_run_on_this_machine_says_it_in_a_line(model_folder: str) -> None:
    config, _ = settings.build(
        "GRPO", {"environment": {"env": "envs:Countdown-v0"}, "policy": {"model": model_folder}}
    )
    plan = plan_here(config)
    assert plan is not None and plan.fits
    assert re.fullmatch(r"plan: host \d+\.\d of \d+\.\d GB \(\w+\): fits", plan.line())


def test_gpus_elsewhere_are_not_judged(monkeypatch: pytest.MonkeyPatch, folders: Path) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(planning, "found_gpus", list)
    assert plan_here(configure(folders, "0.5B", WHOLE)) is None


def test_gpus_and_their_memory_go_together() -> None:
    assert given_gpus(None, None) is None
    assert given_gpus(2, 24) == [24 * GB] * 2
    with pytest.raises(ValueError, match="--gpus and --gpu-memory"):
        given_gpus(2, None)


def test_the_ceiling_of_overlapping_is_that_of_a_run(tmp_path: Path) -> None:
    rows = ["seconds,seconds_sampling,seconds_learning", "99,9,80", "10,6,3", "10,6,3"]
    (tmp_path / "progress.csv").write_text("\n".join(rows))
    # 6 s of sampling, 3 s of learning, 1 s of the rest: 10 / (6 + 1).
    assert "at most 1.43 times as fast" in overlap(tmp_path)
    assert "max" in overlap(None)
    (tmp_path / "begun").mkdir()
    assert overlap(tmp_path / "begun") == overlap(None), "it has no iteration yet"


def run_plan(*arguments: str):
    return CliRunner().invoke(app, ["--plan", *arguments])


def test_the_command_says_what_to_change(folders: Path, tmp_path: Path) -> None:
    where = [
        "--num-env-runners=1",
        "--num-learners=1",
        "--num-gpus-per-env-runner=1",
        "--num-gpus-per-learner=1",
    ]
    command = [f"--model={folders}/Qwen2.5-3B", "--dtype=bfloat16", "--sampler=vllm", *where]
    command += ["--gpus=2", "--gpu-memory=80", f"--output={tmp_path}/run"]
    done = run_plan(*command)
    assert done.exit_code == 1
    assert "would hold 97.7 GB while learning, and 76.0 of its 80.0 GB are to be had" in done.output
    assert "it would fit with --set policy.gradient_checkpointing=true" in done.output
    again = run_plan(*command, "--set=policy.gradient_checkpointing=true")
    assert again.exit_code == 0 and "fits" in again.output
    assert not (tmp_path / "run").exists()
    assert CliRunner().invoke(app, ["--gpus=2", "--gpu-memory=80"]).exit_code == 2


def commands(text: str) -> list[str]:
    """Lines that run something on a GPU."""
    lines = re.findall(r"^python experiments/run\.py .*$", text, re.MULTILINE)
    return [line for line in lines if "gpu" in line.lower()]


def admitted(command: str, folders: Path, *more: str) -> None:
    words = shlex.split(command, comments=True)[2:]
    done = run_plan(*(word.replace("/models", str(folders)) for word in words if word != "--plan"), *more)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("command", commands(PAGE))
def test_the_docs_show_what_fits(command: str, folders: Path) -> None:
    """Each says in a comment what it is for: `# one GPU of 24 GB`."""
    found = re.search(r"# (one|two|eight) GPUs? of (\d+) GB", command)
    assert found, f"for which GPUs is {command}?"
    gpus = {"one": 1, "two": 2, "eight": 8}[found[1]]
    given = [] if "--gpus" in command else [f"--gpus={gpus}", f"--gpu-memory={found[2]}"]
    admitted(command, folders, *given, "--sampler=vllm")


def placements() -> Iterator[tuple[str, int, int, str]]:
    """Of each preset its own, and those that its comments give for other machines: size, GPUs, GB, options."""
    numbers = {"one": 1, "eight": 8}
    for size in ("0.5b", "1.5b", "3b", "7b"):
        lines = (settings.PRESETS / f"qwen2.5_{size}.yaml").read_text().splitlines()
        for i, line in enumerate(lines):
            if own := re.search(r"--plan --gpus (\d+) --gpu-memory (\d+)", line):
                yield size, int(own[1]), int(own[2]), ""
            if other := re.match(r"# (One|Eight) of (\d+) GB:", line):
                options = takewhile(lambda line: line.startswith("#   --"), lines[i + 1 :])
                if text := " ".join(option.removeprefix("#") for option in options):
                    yield size, numbers[other[1].lower()], int(other[2]), text


@pytest.mark.parametrize(("size", "gpus", "memory", "options"), list(placements()))
def test_presets_fit_where_they_say(size: str, gpus: int, memory: int, options: str, folders: Path) -> None:
    model = f"{folders}/Qwen2.5-{size.upper()}"
    given = ["--algo=GRPO", f"--preset=qwen2.5_{size}", f"--model={model}", *shlex.split(options)]
    for env in ("GSM8K-v0", "Countdown-v0"):
        done = run_plan(f"--env={env}", *given, f"--gpus={gpus}", f"--gpu-memory={memory}")
        assert done.exit_code == 0, done.output


def test_the_docs_have_commands_for_gpus() -> None:
    assert len(commands(PAGE)) == 5


def test_every_preset_has_several_placements() -> None:
    assert len(list(placements())) == 4 + 2 + 2 + 2 + 2
