"""The documentation says what is: its commands, settings, files, links and messages exist."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from experiments.common import refusals
from experiments.sweeps.checks import check_names
from experiments.sweeps.space import parse
from llmenv.env import resolve_name
from written import (
    COMMANDS,
    PAGES,
    ROOT,
    anchors,
    blocks,
    check,
    check_environment,
    commands,
    texts_of_sources,
)

# Run as they are written, in an empty folder: seconds each. The others are parsed.
QUICK = (
    "python experiments/play.py --task '{numbers: [1, 2, 3], target: 6}'",
    "python experiments/evaluate.py --model tiny --env Countdown-v0 --num-tasks 64 --samples 4",
)


@pytest.mark.parametrize(
    ("page", "command"), COMMANDS, ids=[f"{page}-{i}" for i, (page, _) in enumerate(COMMANDS)]
)
def test_commands_are_such_as_can_be_run(page: str, command: str) -> None:
    check(command)


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 80
    assert {page for page, _ in COMMANDS} >= {"README.md", "AGENTS.md", "docs/sweeps.md", "docs/results.md"}


@pytest.mark.parametrize(
    "wrong",
    [
        "python experiments/run.py --iteration 3",
        "python experiments/run.py --preset qwen",
        "python experiments/run.py --set training.lrr=1",
        "python experiments/run.py --set environment.env_config.num_numbrs=3 --env Countdown-v0",
        "python experiments/run.py --env Countdown-v1",
        "python experiments/run.py --algo GRPO2",
        "python experiments/evaluate.py --suite arithmetics",
        "python experiments/generate.py --output x --samples 2 --kep all",
        "python experiments/benchmarks/bench_learner.py --groth x.png",
        "python experiments/benchmarks/bench_memory.py -- --iteration 5 --output x",
        "llmenv trian",
        "llmenv train --iteration 3",
        "make tests",
        "pip install 'llmenv[vlm]'",
        "ls",
    ],
)
def test_wrong_commands_are_found(wrong: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(Exception):  # noqa: B017 (click's, ours, or an assertion)
        check(wrong)


def test_commands_in_sentences_are_found() -> None:
    text = "So `python a.py\n--b` and `a` do.\n```bash\nmake x \\\n  y\n```\n```\n`make z`\n```\n"
    assert list(commands(text)) == ["make x    y", "python a.py --b"]


@pytest.mark.parametrize("command", QUICK)
def test_quick_ones_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command in {line.partition("   #")[0] for _, line in COMMANDS}
    _, script, *arguments = shlex.split(command)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(importlib.import_module(f"experiments.{Path(script).stem}").app, arguments)
    assert done.exit_code == 0, done.output


YAML = [(page, block) for page, text in PAGES.items() for block in blocks(text, "yaml")]


@pytest.mark.parametrize(("page", "block"), YAML)
def test_yaml_has_settings_that_there_are(page: str, block: str) -> None:
    sections = yaml.safe_load(block)
    if "sweep" in sections:
        check_names(parse({name: values for name, values in sections.items() if name != "sweep"}))
        return
    refusals.refuse(sections, {})
    given = sections.get("environment", {})
    for wrapper in given.get("env_config", {}).get("wrappers", []):
        ((name, arguments),) = wrapper.items()
        inspect.signature(resolve_name(name)).bind("env", **arguments)
    if "env" in given:
        check_environment([], given)


PYTHON = [(page, block) for page, text in PAGES.items() for block in blocks(text, "python")]


def test_the_config_for_rllibs_users_is_one() -> None:
    """As far as nothing is started, and what is called then is there."""
    (block,) = [block for page, block in PYTHON if page == "docs/rllib.md"]
    start, called = block.split("algo = config.build_algo()")
    namespace: dict = {}
    exec(start, namespace)
    config = namespace["config"]
    config.validate()
    assert (config.samples_per_iteration, config.max_new_tokens) == (256, 160)
    names = set(re.findall(r"algo\.(\w+)\(", called))
    assert len(names) == 6 and all(hasattr(config.algo_class, name) for name in names)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files_are_there(page: str) -> None:
    text, here = PAGES[page], (ROOT / page).parent
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", text):
        there = (here / target).resolve() if target else ROOT / page
        assert there.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in anchors(there.read_text()), f"{page} links to {target}#{anchor}"
    for name in re.findall(r"`((?:algorithms|docs|envs|experiments|llmenv|tests)/[\w./]*)`", text):
        assert (ROOT / name).exists() or "NAME" in name, f"{page} speaks of {name}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_that_cannot_be_tested_says_so(page: str) -> None:
    text = PAGES[page]
    tested = (
        any(where == page for where, _ in [*COMMANDS, *YAML, *PYTHON]) or "tests/" in text or "\n::: " in text
    )
    assert tested != ("cannot be tested" in text)


def test_messages_are_those_of_the_sources() -> None:
    told = re.findall(r"^\| `([^`]+)` \|", PAGES["docs/troubleshooting.md"], re.MULTILINE)
    assert len(told) >= 30
    sources = texts_of_sources()
    for message in told:
        fixed = [part.strip() for part in message.split("...") if part.strip()]
        pattern = re.compile(".*".join(map(re.escape, fixed)), re.DOTALL)
        assert any(pattern.search(text) for text in sources), f"no source says {message}"


def test_the_readme_is_short_and_its_first_screen_one() -> None:
    lines = PAGES["README.md"].splitlines()
    assert len(lines) < 200
    assert lines.index("## You want to ...") <= 60
    shown = [re.sub(r"\]\([^)]*\)", "]", line) for line in lines[: lines.index("## You want to ...")]]
    assert max(map(len, shown)) <= 120
