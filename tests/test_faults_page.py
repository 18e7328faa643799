"""The table of faults names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = [
    line
    for line in (ROOT / "docs" / "faults.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| fault |")
]


def test_there_are_rows() -> None:
    assert len(ROWS) > 30


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split(" | ")[0].strip("| ")[:40])
def test_each_fault_has_its_test(row: str) -> None:
    shown = row.split(" | ")[2].rstrip(" |")
    if shown == "no test":
        return
    names = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", shown)
    assert names and shown.count("`") == 2 * len(names)
    for file, name in names:
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"
