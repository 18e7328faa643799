"""What a page has embedded: hostile text as data alone, the parts that its policy names, and the right numbers."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import pages
from experiments import report
from experiments.common.page import samples
from experiments.common.page.assemble import SCRIPTS, assemble
from experiments.common.page.reports import write_report
from pages import HOSTILE, episode, unpacked


class Elements(HTMLParser):
    """Each element with its attributes and the text in it, as an HTML parser finds them."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.within = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))
        self.within = True

    def handle_endtag(self, tag: str) -> None:
        self.within = False

    def handle_data(self, data: str) -> None:
        if self.within:
            tag, attributes, text = self.found[-1]
            self.found[-1] = (tag, attributes, text + data)

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, text) for name, attributes, text in self.found if name == tag]


def page_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def test_hostile_text_is_in_the_page_as_data_alone() -> None:
    def content(text: str) -> dict[str, object]:
        return {
            "title": text,
            "source": text,
            "tables": [{"rows": [[text]]}],
            "completions": [text],
            "note": text,
        }

    hostile, harmless = assemble(content(HOSTILE)), assemble(content("harmless"))
    assert [tag for tag, *_ in Elements(hostile).found] == [tag for tag, *_ in Elements(harmless).found]
    assert "<img" not in hostile and not re.search("[\x00-\x08\x0b-\x1f\u2028\u202a-\u202e\ud800-\udfff]", (
        hostile.partition("</title>")[2]
    ))  # fmt: skip
    ((_, title),) = Elements(hostile).of("title")
    assert title == HOSTILE.replace("\ud800", "?")
    facts, completions = unpacked(hostile)
    assert completions == [HOSTILE] and facts["tables"] == [{"rows": [[HOSTILE]]}]


def test_the_policy_allows_the_page_s_own_parts_alone() -> None:
    elements = Elements(assemble({"title": "t", "completions": []}))
    policy = next(
        a["content"] for a, _ in elements.of("meta") if a.get("http-equiv") == "Content-Security-Policy"
    )
    script = next(text for attributes, text in elements.of("script") if not attributes)
    ((_, style),) = elements.of("style")
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )
    for name in SCRIPTS:
        assert files("experiments.common.page").joinpath(name).read_text() in script
    # What the policy would refuse, and what makes a document of a string.
    assert not [
        attributes for _, attributes, _ in elements.found if any(a.startswith("on") for a in attributes)
    ]
    assert not [attributes for _, attributes, _ in elements.found if {"style", "src", "href"} & {*attributes}]
    assert not re.findall(
        r"(?i)innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|srcdoc", script
    )


def test_an_evaluation_s_samples_and_figures(tmp_path: Path) -> None:
    """Even samples are right; sample 3 is malformed; one was cut, one failed."""
    episodes = [episode(task, i, f"said {task} {i}") for task in range(2) for i in range(4)]
    episodes[1].turns[0].finish_reason = "length"
    episodes[6].error = "ValueError: raised"
    episodes[2].turns.append(episodes[2].turns[0])  # two turns: 1 + 1
    episodes[4].turns[0].reward = float("nan")
    episodes[7].turns[0].info["reward_parts"] = {"environment": 1.0, "LengthPenalty": -1.0}
    facts, completions = unpacked(page_of(pages.evaluation(tmp_path / "e", episodes)))
    found = facts["samples"]
    # Bits: right 1, wrong 2, malformed 4, truncated 8, failed 16.
    assert found["flags"] == [1, 2 + 8, 1, 2 + 4, 1, 2, 16, 2 + 4]
    assert completions[1] == "said 0 1" and completions[-1] == "said 1 3"
    assert found["reward"] == [1, 0, 2, 0, None, 0, 1, 0] and found["rewards"] == [
        None,
        None,
        [1, 1],
        *[None] * 5,
    ]
    assert found["reward_parts"] == [None] * 7 + ["environment 1, LengthPenalty -1"]
    assert found["task"] == [0] * 4 + [1] * 4 and found["sample"] == [0, 1, 2, 3] * 2
    assert found["prompt_tokens"] == [3] * 8 and found["response_tokens"] == [2, 2, 4, 2, 2, 2, 2, 2]
    assert facts["tasks"]["question"] == ["Twice 0?", "Twice 1?"] and facts["tasks"]["right_answer"] == [
        "0",
        "2",
    ]
    assert facts["tasks"]["prompt"] == ["<user>Twice 0?", "<user>Twice 1?"]
    coverage, figures = facts["tables"]
    # Right are 2 of 4 and 1 of 3; if the one that failed were wrong 3 of 8, and if it were right 4 of 8.
    assert coverage["rows"] == [[pages.ENV, "8", "7", "1", "1", "0", "37.5 to 50.0 %"]]
    assert figures["rows"][0][:3] == [pages.ENV, "2", "41.7 %"] and "It was stopped" in coverage["note"]
    sent = dict(facts["sent"]["rows"])
    assert sent == {
        "model": "m", "template": "chat", "temperature": "0.7", "stop_token_ids": "[2]", "versions.python": "3.11.9"
    }  # fmt: skip


def test_a_hostile_question_and_answer(tmp_path: Path) -> None:
    hostile = episode(1, 0, HOSTILE)
    hostile.observation = hostile.system = hostile.right_answer = hostile.turns[0].info["answer"] = HOSTILE
    facts, completions = unpacked(page_of(pages.evaluation(tmp_path, [hostile])))
    as_utf8 = [HOSTILE.replace("\ud800", "?")]  # as the records have texts
    assert completions == facts["samples"]["answer"] == facts["tasks"]["right_answer"] == as_utf8
    assert facts["tasks"]["question"] == facts["tasks"]["system"] == as_utf8


def test_a_stopped_run_is_shown_as_far_as_it_came(tmp_path: Path) -> None:
    facts, completions = unpacked(page_of(pages.run(tmp_path / "r")))
    assert facts["title"] == "GRPO on envs:Multiplication-v0 with tiny"
    assert facts["sets"] == [
        "iteration 0, held out, sampled", "iteration 2, training", "iteration 1, training, some"
    ]  # fmt: skip
    assert (
        completions == ["held out"] * 2 + [HOSTILE.replace("\ud800", "?")] * 4 + ["early"] * 8
    )  # 4 groups of 6
    assert facts["tasks"]["key"] == ["0", "1", "20", "10", "11", "12", "13"]
    assert facts["samples"]["prompt_tokens"] == [3] * 14 and facts["samples"]["rewards"][0] == [1]
    held_out, training = facts["tables"]
    assert held_out["rows"] == [
        ["0", "2", "50.0 %", "25.0 to 75.0 %", "50.0 %", "25.0 to 75.0 %", "100.0 %", "20"]
    ]
    assert training["rows"] == [["2", "8", "40", "4", "2", "4"]] and "no summary.json" in training["note"]
    curves = {curve["title"]: curve["series"] for curve in facts["curves"]}
    assert [series["name"] for series in curves["accuracy"]] == [
        "training batch", "held out, sampled", "held out, greedy"
    ]  # fmt: skip
    assert curves["accuracy"][1] | {"name": ""} == {
        "name": "",
        "x": [0],
        "y": [0.5],
        "low": [0.25],
        "high": [0.75],
    }
    assert curves["response length (tokens)"][0]["y"] == [3, 4]
    assert [series["name"] for series in curves["KL (nats a token)"]] == ["of an iteration's steps"]


def test_too_many_samples_are_left_out_by_whole_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pages.evaluation(tmp_path, [episode(task, i, "x" * 50) for task in range(12) for i in range(4)])
    monkeypatch.setattr(samples, "MOST_SAMPLES", 16)  # a third of 48
    monkeypatch.setattr(samples, "LONGEST", 10)
    facts, completions = unpacked(page_of(folder))
    assert facts["tasks"]["question"] == [f"Twice {task}?" for task in (2, 5, 8, 11)]
    assert len(completions) == 16 and completions[0] == "x" * 10 + "\n[cut: 50 characters]"
    assert "32 samples were left out" in facts["note"]


def test_one_task_of_very_many_samples_is_not_left_out_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = samples.nothing().reindex(range(9)).assign(env="e", key="1", set="s", sample=range(9))
    monkeypatch.setattr(samples, "MOST_SAMPLES", 4)
    assert samples.embedded(frame)["samples"]["sample"] == [0, 3, 6]


def test_the_command_says_where_the_page_is_and_refuses_what_has_none(tmp_path: Path) -> None:
    folder = pages.run(tmp_path / "r")
    (folder / "samples" / "train_000003.parquet").write_bytes(b"torn")
    done = CliRunner().invoke(report.app, [str(folder)])
    assert done.exit_code == 0 and done.output.strip() == str(folder / "report.html")
    for name, message in (("nothing", "there is no folder"), (".", "is neither a run folder")):
        refused = CliRunner().invoke(report.app, [str(tmp_path / name)])
        assert refused.exit_code == 2 and message in refused.output


def test_some_samples_are_of_the_newest_iterations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.common.run_folder.KEPT_ITERATIONS", 2)
    folder = pages.RunFolder(tmp_path)
    for iteration in (1, 2, 3):
        folder.write_some_samples(iteration, [episode(group, 0, "") for group in range(6)])
    kept = sorted((tmp_path / "samples").iterdir())
    assert [file.stem for file in kept] == ["train_some_000002", "train_some_000003"]
    assert pd.read_parquet(kept[0])["group"].tolist() == [0, 1, 2, 3]
