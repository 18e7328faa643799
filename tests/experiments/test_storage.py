"""Runs, evaluations and data on another filesystem: a server of S3's protocol on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from experiments import evaluate, run
from experiments.common.places import Elsewhere, glimpse, held, whole
from experiments.common.saved_models import brought
from llmenv.data import WANTED, load_rows
from llmenv.files import cache
from llmenv.models.names import POLICY_IN_CHECKPOINT
from llmenv.remote import CHUNK, listed, local_copy, opened, put
from s3_server import s3_bucket, write

SETTINGS = [
    "--env=support:NoDigit-v0",
    "--sampler=transformers",
    "--prompts-per-iteration=8",
    "--group-size=4",
    "--max-new-tokens=2",
    "--lr=1e-3",
    "--eval-tasks=2",
    "--set=evaluation.evaluation_config=null",
    "--set=run.checkpoint_every=100",
]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of an empty one, and a cache of its own."""
    with s3_bucket(tmp_path_factory.mktemp("cache")) as uri:
        yield uri


def names(uri: str) -> set[str]:
    return {*listed(*opened(uri))}


def read(uri: str) -> str:
    filesystem, path = opened(uri)
    with filesystem.open_input_stream(path) as stream:
        return stream.read().decode()


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        ("nope://a/b", "no such filesystem.*It knows s3://"),
        ("fsspec+nope://a/b", "no such filesystem"),
        ("s3://missing/run", "no bucket 'missing'"),
        ("hdfs://nowhere/run", "cannot be reached.*libhdfs"),
    ],
)
def test_what_cannot_be_reached_is_named_with_the_remedy(bucket: str, uri: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"^{uri.replace('+', '.')}.*{remedy}"):
        opened(uri)


def test_wrong_credentials_are_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(
        ValueError, match=r"s3://bucket/run cannot be reached.*AWS_ACCESS_KEY_ID.*AWS_ENDPOINT_URL"
    ):
        opened(f"{bucket}/run")


def test_a_place_is_one_process_es_and_given_back(bucket: str) -> None:
    uri = f"{bucket}/owned"
    with held(uri, resuming=False) as place:
        (place.folder / "evaluations.csv").write_text("iteration\n0\n")
        assert names(uri) == {".lock"}
        with pytest.raises(ValueError, match=f"is being written by process {os.getpid()}"):
            Elsewhere(uri).take(resuming=True)  # as on another host, which has no copy to lock
    assert names(uri) == {"evaluations.csv"}
    assert not place.folder.exists()
    with pytest.raises(ValueError, match=r"owned holds 'evaluations.csv'"), held(uri, resuming=False):
        pass
    write(f"{uri}/.lock", '{"host": "another", "pid": 7}')
    with pytest.raises(ValueError, match=r"process 7 on another.*delete s3://bucket/owned/.lock"):
        Elsewhere(uri).take(resuming=True)


def test_what_fails_at_its_start_leaves_nothing(bucket: str) -> None:
    with pytest.raises(RuntimeError, match="at the start"), held(f"{bucket}/bare", resuming=False) as place:
        folder = place.folder / "checkpoints" / "iteration_000000"
        folder.mkdir(parents=True)
        (folder / "SHA256SUMS").write_text("")
        place.bring()
        raise RuntimeError("at the start")
    assert not names(f"{bucket}/bare")


def checkpoint(folder: Path, number: int) -> None:
    made = folder / "checkpoints" / f"iteration_{number:06d}"
    (made / "sub").mkdir(parents=True)
    for name in ("a", "sub/z", "SHA256SUMS"):
        (made / name).write_text(str(number))
    (folder / "progress.csv").write_text(f"iteration\n{number}\n")


@pytest.mark.parametrize("kind", ["s3", "fsspec"])
def test_a_checkpoint_is_whole_or_not_one_wherever_a_kill_comes(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """After each single write and deletion of the second `bring`, what is there is looked at."""
    uri = f"{bucket}/steps" if kind == "s3" else f"fsspec+file://{tmp_path}/there"
    seen: list[set[str]] = []

    def look() -> None:
        there = names(uri)
        kept = whole(sorted(there))
        numbers = {name.split("_")[1][:6] for name in kept if name.startswith("checkpoints/")}
        for number in numbers:
            parts = {f"checkpoints/iteration_{number}/{name}" for name in ("a", "sub/z", "SHA256SUMS")}
            assert parts <= {*kept}
        assert numbers, "there is always one"
        assert int(read(f"{uri}/progress.csv").split()[1]) >= int(max(numbers))
        seen.append(numbers)

    with held(uri, resuming=False) as place:
        checkpoint(place.folder, 1)
        place.bring()
        shutil.rmtree(place.folder / "checkpoints" / "iteration_000001")
        checkpoint(place.folder, 2)
        step = sys.modules["experiments.common.places"].put
        with monkeypatch.context() as patch:
            patch.setattr("experiments.common.places.put", lambda *a: (step(*a), look()))
            place.bring()
        look()
        assert seen == [{"000001"}] * 3 + [{"000001", "000002"}, {"000002"}]
        (place.folder / "checkpoints" / ".partial_000003").mkdir()
        (place.folder / "checkpoints" / ".partial_000003" / "a").write_text("not yet")
    assert not any("partial" in name or "000001" in name for name in names(uri))
    write(f"{uri}/checkpoints/iteration_000009/a", "cut short")
    with glimpse(uri) as copy:
        assert [p.name for p in (copy / "checkpoints").iterdir()] == ["iteration_000002"]
    with held(uri, resuming=True) as place:
        assert not (place.folder / "checkpoints" / "iteration_000009").exists()
        assert (place.folder / "checkpoints" / "iteration_000002" / "sub" / "z").read_text() == "2"
    assert not any("000009" in name for name in names(uri))


def test_what_cannot_be_brought_stays_here_and_is_told_of(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError("the network is down")

    with (
        pytest.raises(OSError, match="the network") as raised,
        held(f"{bucket}/cut", resuming=False) as place,
    ):
        (place.folder / "evaluations.csv").write_text("iteration\n0\n")
        monkeypatch.setattr("experiments.common.places.put", fails)
        monkeypatch.setattr(place, "_filesystem", SimpleNamespace(delete_file=fails))
    (note,) = raised.value.__notes__
    kept = Path(note.partition("it is in ")[2].partition(":")[0])
    assert (kept / "evaluations.csv").exists() and kept != place.folder
    assert "Not all of it could be brought to s3://bucket/cut (the network is down)" in note
    assert names(f"{bucket}/cut") == {".lock"}  # this process's, which is no more


def test_what_cannot_be_fetched_is_no_longer_held(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("the network is down")

    uri = f"{bucket}/fetched"
    write(f"{uri}/config.yaml", "")
    monkeypatch.setattr("experiments.common.places.fetch", fails)
    with pytest.raises(OSError, match="the network"), held(uri, resuming=True):
        pass
    assert names(uri) == {"config.yaml"}


def test_what_is_cut_short_on_its_way_is_not_there(bucket: str) -> None:
    """A stream that is closed is an object, of as much as had been sent."""
    chunks = iter([bytes(CHUNK)])

    def read(_: int) -> bytes:
        for chunk in chunks:
            return chunk
        raise KeyboardInterrupt

    file: Any = SimpleNamespace(open=lambda mode: contextlib.nullcontext(SimpleNamespace(read=read)))
    with pytest.raises(KeyboardInterrupt):
        put(*opened(f"{bucket}/short/weights"), file)
    assert names(f"{bucket}/short") == set()


@pytest.fixture
def invoke(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command in this process, on the Ray that is there."""
    monkeypatch.setattr("ray.init", lambda **kwargs: None)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    return lambda *arguments: CliRunner().invoke(run.app, arguments)


@pytest.mark.slow
def test_a_run_killed_and_gone_on_with_from_there_alone_equals_an_uninterrupted_one(
    bucket: str, invoke: Callable[..., Result], model_folder: str, tmp_path: Path
) -> None:
    uri, settings = f"{bucket}/run", [f"--model={model_folder}", *SETTINGS]
    command = [sys.executable, run.__file__, f"--output={uri}", "--iterations=100000", *settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while "checkpoints/iteration_000001/SHA256SUMS" not in names(uri):
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    (copy,) = (cache() / "runs").glob("run-*")
    shutil.rmtree(copy)
    again = invoke(f"--output={uri}", *settings)
    assert again.exit_code == 2 and f"go on with it by --resume {uri}" in again.stderr
    done = invoke(f"--resume={uri}", "--iterations=3")
    assert done.exit_code == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "resumed after iteration 1" in said and f"are in {uri} next" in said
    assert not copy.exists()
    undisturbed = tmp_path / "run"
    done = invoke(f"--output={undisturbed}", "--iterations=3", *settings)
    assert done.exit_code == 0, done.stderr

    files = {file.relative_to(undisturbed).as_posix() for file in undisturbed.rglob("*") if file.is_file()}
    differ = {name.partition("/")[0] for name in files ^ names(uri)}
    assert {name.partition(".")[0] for name in differ} <= {"events", "checkpoints"}
    assert whole(sorted(names(uri))) == sorted(names(uri))
    assert {n.split("/")[1] for n in names(uri) if n.startswith("checkpoints/")} == {
        "iteration_000002",  # the first of the process that went on
        "iteration_000003",
    }
    brought = local_copy(uri, ("*",))
    columns = ["iteration", "episode_return_mean", "num_tokens", "total_loss"]
    there, here = (pd.read_csv(folder / "progress.csv") for folder in (brought, undisturbed))
    assert here["iteration"].tolist() == [1, 2, 3] and there[columns].equals(here[columns])
    weights = "policy/model.safetensors"
    assert (brought / weights).read_bytes() == (undisturbed / weights).read_bytes()


def test_an_evaluation_there_of_a_policy_that_is_there(
    bucket: str, model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's newest whole checkpoint is evaluated; the second command finds all records."""
    part = POLICY_IN_CHECKPOINT.as_posix()
    with held(f"{bucket}/policies", resuming=False) as place:
        for name in ("iteration_000001", "iteration_000002"):
            shutil.copytree(model_folder, place.folder / "checkpoints" / name / part)
        (place.folder / "checkpoints" / "iteration_000001" / "SHA256SUMS").write_text("")
    assert Path(brought(f"{bucket}/policies")).name == "iteration_000001"
    assert Path(brought(f"{bucket}/policies/checkpoints/iteration_000001/{part}")).name == "policy"
    output = f"{bucket}/evaluation"
    command = ["--env=Countdown-v0", "--max-new-tokens=2", "--samples=2", "--batch-size=4"]
    arguments = [f"--model={bucket}/policies", f"--output={output}", *command]
    ends = []
    bring = Elsewhere.bring
    monkeypatch.setattr(Elsewhere, "bring", lambda place: (bring(place), ends.append(len(names(output))))[0])
    done = CliRunner().invoke(evaluate.app, [*arguments, "--num-tasks=4"])
    assert done.exit_code == 0, done.output
    assert f"report.html: {output}" in done.output
    # The lock, starts.jsonl and evaluation.json; after each batch a part of the records; then summary and page.
    assert ends == [3, 4, 5, 7]
    done = CliRunner().invoke(evaluate.app, [*arguments, "--num-tasks=6"])
    assert done.exit_code == 0, done.output
    parts = sorted(name for name in names(output) if name.startswith("records/"))
    assert parts == [f"records/part_{number:06d}.parquet" for number in range(3)]
    assert json.loads(read(f"{output}/summary.json"))["settings"]["model"] == f"{bucket}/policies"
    assert not [*(cache() / "runs").glob("evaluation-*")]


def test_rows_of_a_file_and_of_a_folder(bucket: str) -> None:
    write(f"{bucket}/data/train.jsonl", '{"question": "1+1", "answer": "2"}\n')
    write(
        f"{bucket}/data/test.jsonl",
        '{"question": "1+2", "answer": "3"}\n{"question": "2+2", "answer": "4"}\n',
    )
    write(f"{bucket}/data/more.txt", "")
    for source in (f"{bucket}/data", f"{bucket}/data/train.jsonl"):
        train = load_rows(source, "train", ("question", "answer"))
        test = load_rows(source, "test", ("question", "answer"))
        assert [row["answer"] for row in train] == ["2"] and [row["answer"] for row in test] == ["3", "4"]
        assert train.where(0) == f"row 0 of {source}"
        assert train.__reduce__()[1][0] == source  # workers bring it to where they are
    with pytest.raises(ValueError, match="nothing of that kind at s3://bucket/none"):
        load_rows(f"{bucket}/none", "train", ("question",))
    brought = sorted(file.name for file in local_copy(f"{bucket}/data", WANTED).iterdir())
    assert brought == ["test.jsonl", "train.jsonl"]
    write(f"{bucket}/data/train.jsonl", '{"question": "5+5", "answer": "10"}\n')
    local_copy.cache_clear()  # as in another process
    (row,) = load_rows(f"{bucket}/data", "train", ("question", "answer"))
    assert row["answer"] == "10"
