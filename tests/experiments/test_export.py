"""Export: the policy of a checkpoint as a Hugging Face folder, with its model card."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from experiments.common.model_card import model_card
from experiments.common.run_folder import RunFolder, checkpoints
from experiments.export import app
from llmenv.models.names import POLICY_IN_CHECKPOINT
from llmenv.models.renderer import Renderer
from support import small_config

CONFIG = {
    "algo": "grpo",
    "policy": {"model": "smollm2-135m"},
    "training": {"lr": 1e-3},
    "environment": {"env": "envs:Countdown-v0", "env_config": {"num_numbers": 3}},
}


def evaluation(iteration: int, sampled: float, greedy: float) -> dict[str, float]:
    row = {"iteration": iteration, "num_tasks": 16}
    for name, value in (("sampled", sampled), ("greedy", greedy)):
        row |= {
            f"{name}_accuracy": value,
            f"{name}_accuracy_low": value - 0.125,
            f"{name}_accuracy_high": value + 0.125,
        }
    return row


@pytest.fixture(scope="module")
def run(ray_cluster, model_folder, tmp_path_factory) -> tuple[Path, torch.Tensor]:
    """A run folder with checkpoints of iterations 1 and 2, and the logits of the policy at the latter."""
    config = small_config(model_folder).environment("support:NoDigit-v0")
    algorithm = config.sampling(max_new_tokens=2).build_algo()
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.write_config(CONFIG)
    for row in (evaluation(0, 0.25, 0.375), evaluation(2, 0.5, 0.625), evaluation(4, 0.75, 0.875)):
        folder.log("evaluations", row)
    for iteration in (1, 2):
        algorithm.train()
        folder.write_samples("eval_sampled", iteration, algorithm.last_episodes)
        folder.save_checkpoint(iteration, algorithm.save_to_path, keep=2)
    with torch.no_grad():
        logits = algorithm.learner_group._learner.policy.model(torch.arange(40)[None]).logits
    algorithm.stop()
    return folder.path, logits


def export(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("name", ["", "checkpoints/iteration_000002"])
def test_the_export_is_the_policy(run, tmp_path, name):
    folder, logits = run
    done = export(folder / name, tmp_path / "out")
    assert done.exit_code == 0, done.output
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(model(torch.arange(40)[None]).logits, logits)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "README.md",
    }


def test_an_older_checkpoint_is_another_policy(run, tmp_path):
    folder, logits = run
    assert export(checkpoints(folder)[0], tmp_path / "out").exit_code == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert not torch.equal(model(torch.arange(40)[None]).logits, logits)


def test_nothing_is_started_for_it(run, tmp_path):
    script = (
        "import sys; from pathlib import Path; from experiments.export import export; "
        "export(Path(sys.argv[1]), Path(sys.argv[2])); "
        "assert not {'ray', 'gymnasium', 'vllm'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script, run[0], tmp_path / "out"], check=True)


def test_what_is_there_is_not_overwritten(run, tmp_path):
    (tmp_path / "out").mkdir()
    assert export(run[0], tmp_path / "out").exit_code == 0  # empty
    (tmp_path / "out" / "model.safetensors").write_text("mine")
    done = export(run[0], tmp_path / "out")
    assert done.exit_code == 2 and "holds something already" in done.stderr
    assert (tmp_path / "out" / "model.safetensors").read_text() == "mine"
    assert not list(tmp_path.glob(".partial_*"))


def test_what_is_no_checkpoint_is_refused(tmp_path):
    done = export(tmp_path, tmp_path / "out")
    assert done.exit_code == 2 and "neither a checkpoint nor a run folder" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_card_reports_the_run_up_to_the_checkpoint(run, tmp_path):
    assert export(run[0], tmp_path / "out").exit_code == 0
    text = (tmp_path / "out" / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "text-generation"
    assert {"llmenv", "grpo", "Countdown-v0"} <= set(card.data.tags)
    assert card.data.license is None and "\n# license: " in text
    assert "`smollm2-135m` after 2 iterations of GRPO" in card.text
    assert "| 0 | 25.0% | 12.5% to 37.5% | 37.5% | 25.0% to 50.0% |" in card.text
    assert "| 2 | 50.0% | 37.5% to 62.5% | 62.5% | 50.0% to 75.0% |" in card.text
    assert "16 held-out tasks" in card.text and "| 4 |" not in card.text
    settings = card.text.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(settings) == CONFIG
    assert "transformers 5." in card.text


def test_the_card_shows_a_prompt_as_training_rendered_it(run, model_folder, tmp_path):
    assert export(run[0], tmp_path / "out").exit_code == 0
    shown = (tmp_path / "out" / "README.md").read_text().split("## Prompt")[1]
    question = pd.read_parquet(run[0] / "samples" / "eval_sampled_000002.parquet")["prompt"][0]
    assert question.startswith("task ")
    renderer = Renderer.from_model(str(model_folder))
    prompt = renderer.encode(question, None, "")
    assert f"```text\n{renderer.tokenizer.decode(prompt.token_ids)}\n```" in shown


def test_the_fence_is_longer_than_any_in_the_prompt(run, tmp_path, monkeypatch):
    assert export(run[0], tmp_path / "out").exit_code == 0
    monkeypatch.setattr("experiments.common.model_card.last_question", lambda _: "What prints ````x````?")
    shown = model_card(checkpoints(run[0])[-1], tmp_path / "out").split("## Prompt")[1]
    assert "`````text\n" in shown and "What prints ````x````?" in shown


def test_a_folder_is_no_base_model_for_the_hub(run, tmp_path):
    assert export(run[0], tmp_path / "out").exit_code == 0
    config = {**CONFIG, "policy": {"model": str(run[0])}}
    RunFolder(run[0]).write_config(config, anew=True)
    assert "base_model:" not in model_card(checkpoints(run[0])[-1], tmp_path / "out")
    RunFolder(run[0]).write_config(CONFIG, anew=True)


def test_a_checkpoint_that_stands_alone_has_a_card_too(run, tmp_path):
    checkpoints(run[0])[-1].rename(tmp_path / "alone")
    try:
        assert export(tmp_path / "alone", tmp_path / "out").exit_code == 0
    finally:
        (tmp_path / "alone").rename(run[0] / "checkpoints" / "iteration_000002")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "llmenv" in card.data.tags and "## Versions" in card.text and "## Result" not in card.text


def test_all_exported_files_may_be_read_by_the_same_people(run, tmp_path):
    assert export(run[0], tmp_path / "policy").exit_code == 0
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "policy").iterdir()}
    assert "model.safetensors" in modes and len(set(modes.values())) == 1


class Planted:
    """A pickle that makes a file where it is read."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_an_export_runs_nothing_that_a_checkpoint_holds(run, tmp_path):
    """Every file of a run folder from elsewhere may be a pickle, but for what is exported."""
    folder, sign = tmp_path / "run", tmp_path / "it ran"
    shutil.copytree(run[0], folder)
    policy = POLICY_IN_CHECKPOINT.name
    planted = [
        file for file in (folder / "checkpoints").rglob("*") if file.suffix in (".pkl", ".pt", ".msgpck")
    ]
    assert len(planted) >= 4 and not any(policy in file.parts for file in planted)
    for file in planted:
        file.write_bytes(pickle.dumps(Planted(sign)))
    assert export(folder, tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "model.safetensors").exists() and not sign.exists()
    pickle.loads(planted[0].read_bytes())
    assert sign.exists(), "else nothing was planted"
