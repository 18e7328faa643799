"""A run of SFT: what it leaves behind, and what it has no figures for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import training

from experiments.common.run_folder import read_table
from support import small_config

ROWS = [{"prompt": f"task {i}", "completion": "no digit " * (1 + i % 2)} for i in range(10)]


def test_a_run_of_sft_leaves_what_others_leave(
    ray_cluster: None, model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demos.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    config = small_config(model_folder, "SFT", group_size=1).environment("support:NoDigit-v0")
    config.sampling(max_new_tokens=2).evaluation(evaluation_config=None, evaluation_duration=4)
    config.demonstrations(data=str(tmp_path / "demos.jsonl"), validation=0.2)
    algorithm = config.build_algo()
    folder = tmp_path / "run"
    training(algorithm, folder, show_every=1).run()
    algorithm.stop()
    out = capsys.readouterr().out
    assert out.count("warning") == out.count("warning: report.html: ") == 1  # of a folder without config.yaml
    progress, evaluations = read_table(folder, "progress"), read_table(folder, "evaluations")
    assert progress["iteration"].tolist() == [1, 2, 3, 4]
    assert progress["epoch"].tolist() == [0.5, 1.0, 1.5, 2.0]  # 4 of 8 rows a step, 2 are held out
    assert progress["total_loss"].iloc[-1] < progress["total_loss"].iloc[0]
    assert progress["total_loss"].tolist() == progress["likelihood_loss"].tolist()
    assert (progress["sampler_logp_gap_mean"] == 0).all()  # nothing was sampled
    before, after = evaluations["validation_loss"]
    assert after < before
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["samples"] == 16 and summary["algo"] == "SFT"
    assert (folder / "curve.png").exists() and (folder / "policy" / "config.json").exists()
    assert not any(file.name.startswith("train") for file in (folder / "samples").iterdir())
