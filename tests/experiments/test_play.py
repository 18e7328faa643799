"""Playing: what a model writes is shown as it comes, as text alone; and a human sits in its seat."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

import envs  # noqa: F401
from experiments.common.human import human_subject
from experiments.common.plain import one_line, printable
from experiments.common.streamed import Streamed
from experiments.play import app, play
from llmenv.evaluation import evaluate
from llmenv.evaluation.subject import Subject, load_subject
from llmenv.evaluation.text_models import Reply, TextSampler, text_subject
from llmenv.samplers.sampler import SamplingParams

ENV = "envs:Countdown-v0"


@pytest.fixture(scope="module")
def subject(model_folder: str) -> Subject:
    return load_subject(model_folder)


def test_only_text_reaches_the_terminal() -> None:
    hostile = "a\x1b[2J\x1b]52;c;cm0=\x07\x9b31m\r\u202eb\n\tc"
    assert printable(hostile) == "a\\x1b[2J\\x1b]52;c;cm0=\\x07\\x9b31m\\r\\u202eb\n\tc"
    assert str(one_line(hostile)) == "a [2J ]52;c;cm0=  31m  …"  # 23 characters and a mark
    assert str(one_line(None)) == "-"


def test_a_stream_is_what_the_sampler_says(subject: Subject, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = subject.renderer.encode("1 + 1 = ?").token_ids
    params = SamplingParams(12, subject.renderer.stop_token_ids, temperature=0.0)
    streamed = Streamed(subject.sampler.model, subject.renderer.tokenizer)  # type: ignore[attr-defined]
    (ours,) = streamed.generate([prompt], params, [5])
    (theirs,) = subject.sampler.generate([prompt], params, [5])
    assert ours.token_ids.tolist() == theirs.token_ids.tolist()
    assert ours.finish_reason == theirs.finish_reason
    decode = subject.renderer.tokenizer.decode
    written = decode(ours.token_ids, skip_special_tokens=False)
    assert capsys.readouterr().out.rstrip("\n") == printable(decode(prompt) + written).rstrip("\n")


def test_the_verdict_is_told(subject: Subject, capsys: pytest.CaptureFixture[str]) -> None:
    episode = play(subject, ENV, {}, seed=3, max_new_tokens=5)
    told = capsys.readouterr().out
    assert episode.observation in told
    lines = dict(line.split(maxsplit=1) for line in told.splitlines()[-7:] if len(line.split()) > 1)
    assert (lines["correct"], lines["reward"], lines["ended"]) == ("False", "0.0", "length")


def test_what_is_hostile_is_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    ask = TextSampler(lambda asked, *_: [Reply("<answer>\x1b]0;x\x07</answer>") for _ in asked])
    options = {"numbers": [1, 2, 3], "target": 6}
    episode = play(text_subject("m", "1", ask, {}), ENV, {}, seed=3, options=options)
    told = capsys.readouterr().out
    assert "[1, 2, 3]" in episode.observation and "<answer>\\x1b]0;x\\x07</answer>" in told
    assert "\x1b" not in told and "\x07" not in told


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a human types, line by line."""
    lines: list[str] = []

    def read(prompt: str) -> str:
        if not lines:
            raise EOFError
        return lines.pop(0)

    monkeypatch.setattr("builtins.input", read)
    return lines


def test_a_human_s_bare_answer_is_put_into_tags(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    typed[:] = ["1 + 2 + 3", ""]
    episode = play(human_subject(), ENV, {}, seed=3, options={"numbers": [1, 2, 3], "target": 6})
    assert episode.transcript == "<think></think><answer>1 + 2 + 3</answer>"
    assert episode.total_reward == 1.0


def test_a_human_who_leaves_is_asked_the_rest_later(typed: list[str], tmp_path: Any) -> None:
    settings: dict[str, Any] = {"num_tasks": 3, "samples": 1, "batch_size": 1}
    typed[:] = ["a", "", "b", ""]
    with pytest.raises(RuntimeError, match="give the same command again"):
        evaluate(human_subject(), ENV, tmp_path, **settings)
    typed[:] = ["c", ""]
    assert evaluate(human_subject(), ENV, tmp_path, **settings)["environments"][ENV]["scored"] == 3


def test_what_is_wrong_is_told() -> None:
    for arguments, says in (
        (["--model=nope"], "There is no model 'nope'"),
        (["--env=Nope-v0"], "there is no environment 'Nope-v0'"),
        (["--model=human", "--task={numbers: ["], "is not YAML, line 1, column 12"),
        (["--model=human", "--task=6"], "--task '6' must be a mapping"),
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert says in " ".join(result.output.split())
