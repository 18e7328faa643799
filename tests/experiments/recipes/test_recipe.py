"""Recipes: what decides a stage's key, what a comparison may spend, what is refused, the table of stubbed stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from experiments.common.settings import RunSettings
from experiments.r1 import app
from experiments.recipes.recipe import RECIPES, Recipe, keys, parse, read_recipe
from experiments.recipes.road import Road
from experiments.recipes.scores import beside, folder_of
from experiments.recipes.stages import Work, carry_out, joined
from experiments.recipes.table import cells
from llmenv.conversations import load_demonstrations, parse_conversation

AFTER_REASONING = {
    *("reasoning", "samples", "second-start", "all-environments", "lessons", "student", "taught", "rl-alone")
}
ROADS = sorted(file.stem for file in RECIPES.glob("*.yaml"))


def names_of(recipe: Recipe) -> dict[str, str]:
    return keys(recipe, lambda kind, name: f"{kind} {name}")


def changed(*assignments: str, seed: int | None = None) -> set[str]:
    before, after = names_of(read_recipe("r1_tiny")), names_of(read_recipe("r1_tiny", assignments, seed))
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize("name", ROADS)
def test_the_recipes_that_are_shipped(name: str) -> None:
    recipe = read_recipe(name)
    assert len({*names_of(recipe).values()}) == len(recipe.stages)


@pytest.mark.parametrize("name", ["r1_tiny", "r1_qwen"])
def test_the_second_start_is_the_base_again(name: str) -> None:
    recipe = read_recipe(name)
    order = [*recipe.stages]
    (second,) = (stage for stage in recipe.stages.values() if stage.name == "second-start")
    assert second.inputs["model"] == ("base",) and "samples" in second.inputs["data"]
    assert order.index("samples") > order.index("reasoning")


def test_a_changed_setting_reruns_its_stage_and_those_after_it() -> None:
    assert changed() == set()
    found = changed("reasoning.training.lr=3e-4")
    assert found >= AFTER_REASONING and not found & {
        "base",
        "demonstrations",
        "cold-start",
        "general",
        "random-student",
    }
    assert changed("student.demonstrations.epochs=3") == {"student", "taught", "student-alone"}
    assert "reasoning" in changed("reasoning.run.iterations=41")
    # Where things run, and what is kept of a run on the way, decides nothing.
    assert not changed("reasoning.training.micro_batch_tokens=512", "reasoning.env_runners.num_env_runners=2")
    assert not changed("reasoning.run.checkpoint_every=1")
    assert changed(seed=1) == {*names_of(read_recipe("r1_tiny"))} - {"base"}


def test_the_cap_of_a_stage_that_samples_is_in_its_key() -> None:
    """Without one of its own it takes the evaluation's; with one, the evaluation's makes no difference."""
    content = {
        "environments": {"Countdown-v0": {}},
        "stages": {
            "base": {"kind": "model", "name": "tiny-zero"},
            "as-evaluated": {"kind": "sample", "model": "base", "tasks": 2, "samples": 2},
            "own": {"kind": "sample", "model": "base", "tasks": 2, "samples": 2, "max_new_tokens": 64},
        },
    }
    recipes = [parse({**content, "evaluation": {"max_new_tokens": cap}}) for cap in (64, 128)]
    assert [recipe.cap_of(recipe.stages["as-evaluated"]) for recipe in recipes] == [64, 128]
    before, after = map(names_of, recipes)
    assert {name for name in before if before[name] != after[name]} == {"as-evaluated"}


def test_an_interrupted_stage_goes_on_where_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its key leaves out is taken anew; what it learns, and for how long, is the run's own."""
    recorded = {
        "algo": "GRPO",
        "training": {"lr": 1e-4, "micro_batch_tokens": 2048},
        "env_runners": {"num_env_runners": 0},
        "run": {"iterations": 1_000_000, "token_limit": 77, "checkpoint_every": 5},
    }
    run = tmp_path / "rl-alone" / "run"
    (run / "checkpoints" / "iteration_000001").mkdir(parents=True)
    (run / "config.yaml").write_text(json.dumps(recorded))
    started: list[Any] = []
    monkeypatch.setattr("experiments.common.launch.start", lambda *given, **how: started.append(given) or 3)
    assignments = [
        "rl-alone.training.micro_batch_tokens=512",
        "rl-alone.env_runners.num_env_runners=2",
        "rl-alone.run.iterations=9",
    ]
    recipe = read_recipe("r1_tiny", assignments)
    stage = recipe.stages["rl-alone"]
    assert carry_out(Work(recipe, stage, {"rl-alone": tmp_path / "rl-alone"})) == 3
    ((algo, sections, folder),) = started
    assert (algo, folder) == ("GRPO", run)
    assert sections["training"] == {"lr": 1e-4, "micro_batch_tokens": 512}
    assert sections["env_runners"] == {"num_env_runners": 2}
    assert (sections["run"]["iterations"], sections["run"]["token_limit"]) == (1_000_000, 77)


def test_stages_draw_other_tasks_of_their_environments() -> None:
    recipe = read_recipe("r1_tiny")
    seeds = {recipe.seed_of(name) for name in recipe.stages}
    assert len(seeds) == len(recipe.stages) and all(0 <= seed < 2**31 for seed in seeds)
    one, both = (recipe.sections_of(recipe.stages[name]) for name in ("reasoning", "all-environments"))
    assert one["environment"] == {"env": "envs:Countdown-v0"}
    assert both["environment"]["env_config"]["parts"]["Multiplication-v0"] == {
        "env": "envs:Multiplication-v0",
        "env_config": {"digits": [2, 1]},
        "weight": 0.5,
    }
    assert one["sampling"] == {"max_new_tokens": 160, "run_seed": recipe.seed_of("reasoning")}


def test_a_comparison_may_spend_what_the_road_took_from_where_it_starts() -> None:
    recipe = read_recipe("r1_tiny")
    assert recipe.budget_of("rl-alone") == [
        *("reasoning", "samples", "general", "second-start", "all-environments")
    ]
    assert recipe.budget_of("student-alone") == ["taught"]
    assert recipe.budget_of("zero-alone")[:2] == ["demonstrations", "cold-start"]


def test_all_stages_are_asked_with_one_template() -> None:
    """A trained policy's own chat template begins every answer as its environment did: another one's would be wrong."""
    recipe = read_recipe("r1_tiny")
    for stage in recipe.stages.values():
        if stage.kind == "train":
            assert recipe.sections_of(stage)["policy"]["template"] == "r1"
    assert recipe.evaluation["template"] == "r1"
    content = {"environments": {}, "stages": {}, "template": "auto"}
    with pytest.raises(ValueError, match="no template for a recipe 'auto': one of r1, raw"):
        parse(content)


def test_a_run_ends_with_its_tokens() -> None:
    progress = pd.DataFrame({"num_response_tokens": [60, 40]})
    assert RunSettings(iterations=9, token_limit=100).is_over(2, progress)
    assert not RunSettings(iterations=9, token_limit=101).is_over(2, progress)
    assert not RunSettings(iterations=9, token_limit=1).is_over(0, pd.DataFrame())
    assert not RunSettings(iterations=3).is_over(2, progress) and RunSettings(iterations=2).is_over(
        2, progress
    )


SCORE = {
    "accuracy": 0.25,
    "accuracy_low": 0.2,
    "accuracy_high": 0.31,
    "tasks": 256,
    "scored": 512,
    "pass_at_k": {"1": 0.25, "2": 0.4},
    "format_rate": 1.0,
    "readable": 0.5,
    "entropy": 0.7,
    "samples": {"right": "<script>alert(1)</script>", "wrong": None},
}


@pytest.fixture
def road(tmp_path: Path) -> Road:
    """Of which the first stages are there, with stubbed results."""
    road = Road(read_recipe("r1_tiny"), tmp_path, ["rl"])
    recipe = road.recipe
    for name, sampled, imitated in (("base", 0, 0), ("demonstrations", 0, 0), ("cold-start", 0, 1500)):
        folder = road.folders[name]
        folder.mkdir()
        price = {"sampled": sampled, "imitated": imitated, "seconds": 2.0}
        (folder / "done.json").write_text(json.dumps(price))
    cold = folder_of(road.folders["cold-start"], recipe.evaluation, recipe.environments)
    cold.mkdir()
    scores = {"Countdown-v0": SCORE, "Multiplication-v0": {**SCORE, "accuracy": None, "readable": 0.7}}
    (cold / "scores.json").write_text(json.dumps(scores))
    return road


def test_the_table_of_what_is_there(road: Road, tmp_path: Path) -> None:
    road.write()
    rows = {row["stage"]: row for row in road.rows()}
    assert cells(rows["cold-start"], [*road.recipe.environments]) == [
        "cold-start",
        "25.0 % (20.0 to 31.0; n 256), pass@2 40.0 %",
        "-",
        "100.0 %",
        "60.0 %",
        "0.70",
        "-",
        "1,500",
        "2",
    ]
    assert cells(rows["reasoning"], [])[-3:] == ["not done", "", ""]
    assert "zero-alone" not in rows and cells(rows["rl-alone"], [])[0] == "rl: rl-alone"
    totals = json.loads((tmp_path / "summary.json").read_text())["totals"]
    assert totals == {"road": {"sampled": 0, "imitated": 1500, "seconds": 6.0}}
    page = (tmp_path / "report.html").read_text()
    assert "25.0 % (20.0 to 31.0; n 256)" in page and "<script" not in page and "&lt;script&gt;" in page


def test_which_stages_are_done(road: Road) -> None:
    assert road.chosen(None, "reasoning") == ["base", "demonstrations", "cold-start", "reasoning"]
    assert road.chosen("reasoning", None) == ["reasoning"]
    assert "rl-alone" in road.chosen(None, None) and "zero-alone" not in road.chosen(None, None)
    with pytest.raises(ValueError, match="samples starts from what is not done: reasoning; --until samples"):
        road.chosen("samples", None)


def test_rows_of_several_sources_are_one_table(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "2 + 2?"}]
    first = pd.DataFrame(
        {
            "messages": [json.dumps(asked)] * 2,
            "completion": ["4", "5"],
            "correct": [True, False],
            "logps": [[0.1]] * 2,
        }
    )
    second = pd.DataFrame({"messages": [[*asked, {"role": "assistant", "content": "It is 4."}]]})
    joined([first, second]).to_parquet(tmp_path / "rows.parquet")
    rows, wanted = load_demonstrations(tmp_path / "rows.parquet")
    answers = [parse_conversation(rows[i]).exchanges[0].answered for i in wanted]
    assert answers == ["4", "It is 4."]


def test_what_records_say_beside_accuracy() -> None:
    frame = pd.DataFrame(
        {
            "completion": ["<think>so</think><answer>4</answer>", "<think>so<answer>5</answer>", "lost"],
            "correct": pd.array([True, False, None], dtype="boolean"),
            "error": [None, None, "gone"],
            "logps": [[-1.0, -0.5], [-1.5], [-9.0]],
        }
    )
    assert beside(frame) == {
        "readable": 0.5,
        "entropy": 1.0,
        "samples": {"right": "<think>so</think><answer>4</answer>", "wrong": "<think>so<answer>5</answer>"},
    }


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"environments": None}, "environments of a recipe must map names to values, got None"),
        ({"environments": ["Countdown-v0"]}, r"environments of a recipe .*, got \['Countdown-v0'\]"),
        ({"environments": {"Countdown-v0": 3}}, "environments.Countdown-v0 of a recipe .*, got 3"),
        ({"stages": {"base": None}}, "stages.base of a recipe .*, got None"),
        ({"evaluation": None}, "evaluation of a recipe .*, got None"),
        ({"settings": {"training": None}}, "settings.training of a recipe .*, got None"),
        ({"stages": {"a": {"algo": "SFT", "model": None}}}, "a name or a list, got None"),
    ],
)
def test_a_recipe_of_another_form_is_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    content = {"environments": {"Countdown-v0": None}, "stages": {}}
    assert parse(content).environments == {"Countdown-v0": {"env": "envs:Countdown-v0"}}
    with pytest.raises(ValueError, match=says):
        parse({**content, **changes})
    file = tmp_path / "road.yaml"
    file.write_text(json.dumps({**content, **changes}))
    with pytest.raises(ValueError, match=says):
        read_recipe(str(file))
    del content["environments"]
    with pytest.raises(ValueError, match="environments of a recipe"):
        parse(content)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--preset=r1_tinny"], "there is no recipe 'r1_tinny'"),
        (["--set=cold-strt.algo=SFT"], "there is no stage 'cold-strt' (did you mean cold-start"),
        (["--set=reasoning.trainng.lr=1"], "there is no section 'trainng' (did you mean training or"),
        (["--set=reasoning.training.lrr=1"], "there is no setting training.lrr (did you mean lr?)"),
        (["--set=samples.tsks=1"], "there is no setting of samples (sample) 'tsks' (did you mean tasks?)"),
        (
            ["--set=samples.model=demonstrations"],
            "samples.model takes a stage of kind model or build or train",
        ),
        (["--set=reasoning.model=student"], "there is no stage before reasoning 'student'"),
        (["--set=reasoning.env=[GSM8K-v0]"], "there is no environment of the recipe 'GSM8K-v0'"),
        (["--stage=reasonin"], "there is no stage 'reasonin' in the recipe"),
        (["--compare-with=r"], "there is no comparison 'r' in the recipe: one of rl, student, zero"),
        (["--stage=samples", "--until=samples"], "give one of them"),
        (["--table"], "leave --table out"),
    ],
)
def test_what_is_wrong_is_told(arguments: list[str], says: str, tmp_path: Path) -> None:
    options: list[Any] = [*arguments, f"--output={tmp_path / 'road'}"]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
    assert not (tmp_path / "road").exists()


def test_a_road_that_is_gone_on_with_takes_no_other_recipe(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [f"--resume={tmp_path}", "--preset=r1_tiny"])
    assert result.exit_code == 2
    assert "leave out --preset, --set, --seed and --output" in " ".join(result.output.split())
