"""Data sets by name: where they are, which columns hold their tasks, who made them. Knows no verifier.

`data="svamp"` of an environment is the folder `$LLMENV_DATA/svamp`, with files named by their split, or else the data
set of the hub. Columns are named as the environment reads them, whatever their case in the files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from llmenv.data import Rows, load_rows, split_files


class Source(NamedTuple):
    """A data set: hub ids of its splits (None: it has no such split), the columns that are read, and its authors."""

    train: str | None
    test: str | None
    columns: tuple[str, ...]
    cite: str

    def hub(self, split: str) -> str | None:
        return self.train if split == "train" else self.test


# A hub id may end with the name of the hub's split: sets that are for evaluation alone often call theirs "train".
SOURCES = {
    "gsm8k": Source(
        "openai/gsm8k:main", "openai/gsm8k:main", ("question", "answer"),
        "Cobbe et al. 2021, https://arxiv.org/abs/2110.14168",
    ),
    "math": Source(
        "DigitalLearningGmbH/MATH-lighteval", "DigitalLearningGmbH/MATH-lighteval", ("problem", "solution"),
        "Hendrycks et al. 2021, https://arxiv.org/abs/2103.03874",
    ),
    "math500": Source(
        None, "HuggingFaceH4/MATH-500", ("problem", "answer", "solution"),
        "Lightman et al. 2023, https://arxiv.org/abs/2305.20050",
    ),
    "aime": Source(
        None, "AI-MO/aimo-validation-aime@train", ("problem", "answer", "solution"),
        "American Invitational Mathematics Examination 2022 to 2024, Mathematical Association of America",
    ),
    "aime2024": Source(
        None, "HuggingFaceH4/aime_2024@train", ("problem", "answer", "solution"),
        "American Invitational Mathematics Examination 2024, Mathematical Association of America",
    ),
    "amc": Source(
        None, "AI-MO/aimo-validation-amc@train", ("problem", "answer"),
        "American Mathematics Competitions 12, 2022 and 2023, Mathematical Association of America",
    ),
    "olympiadbench": Source(
        None, "Hothan/OlympiadBench:OE_TO_maths_en_COMP@train", ("question", "context", "final_answer", "solution"),
        "He et al. 2024, https://arxiv.org/abs/2402.14008",
    ),
    "minerva": Source(
        None, "math-ai/minervamath", ("question", "answer"),
        "Lewkowycz et al. 2022, https://arxiv.org/abs/2206.14858",
    ),
    "deepscaler": Source(
        "agentica-org/DeepScaleR-Preview-Dataset", None, ("problem", "answer", "solution"),
        "Luo et al. 2025, DeepScaleR, https://github.com/agentica-project/rllm",
    ),
    "big-math": Source(
        "SynthLabsAI/Big-Math-RL-Verified", None, ("problem", "answer"),
        "Albalak et al. 2025, https://arxiv.org/abs/2502.17387",
    ),
    "numinamath": Source(
        "AI-MO/NuminaMath-1.5", None, ("problem", "answer", "solution"),
        "Li et al. 2024, NuminaMath, https://github.com/project-numina/aimo-progress-prize",
    ),
    "numinamath-cot": Source(
        "AI-MO/NuminaMath-CoT", "AI-MO/NuminaMath-CoT", ("problem", "solution"),
        "Li et al. 2024, NuminaMath, https://github.com/project-numina/aimo-progress-prize",
    ),
    "openr1-math": Source(
        "open-r1/OpenR1-Math-220k:default", None, ("problem", "answer", "solution"),
        "Hugging Face 2025, Open R1, https://github.com/huggingface/open-r1",
    ),
    "dapo-math-17k": Source(
        "BytedTsinghua-SIA/DAPO-Math-17k", None, ("data_source", "prompt", "reward_model"),
        "Yu et al. 2025, https://arxiv.org/abs/2503.14476",
    ),
    "asdiv": Source(
        "EleutherAI/asdiv@validation", None, ("body", "question", "answer"),
        "Miao et al. 2020, https://arxiv.org/abs/2106.15772",
    ),
    "svamp": Source(
        "ChilleD/SVAMP", "ChilleD/SVAMP", ("body", "question", "answer"),
        "Patel et al. 2021, https://arxiv.org/abs/2103.07191",
    ),
    "countdown-3to4": Source(
        "Jiayi-Pan/Countdown-Tasks-3to4", None, ("nums", "target"),
        "Pan et al. 2025, TinyZero, https://github.com/Jiayi-Pan/TinyZero",
    ),
}  # fmt: skip


def load_source(data: str, split: str, columns: Sequence[str]) -> Rows:
    """Load one split of a named data set, or of any other source that `llmenv.data` knows.

    Raises:
        ValueError: the data set has no such split, or its columns are not those; or see `load_rows`.
    """
    source = SOURCES.get(str(data))
    if source is None or Path(data).exists():
        return load_rows(data, split, columns)
    if not set(source.columns) <= set(columns):
        reader = "Dataset-v0" if "question" in columns else "GSM8K-v0 or MATH-v0"
        raise ValueError(
            f"{data} has the columns {', '.join(source.columns)}, which are for {reader}: take that"
        )
    if root := os.environ.get("LLMENV_DATA"):
        folder = Path(root) / data
        if split_files(folder, split):
            return load_rows(folder, split, columns)
    hub_id = source.hub(split)
    if hub_id is None:
        other = "test" if split == "train" else "train"
        raise ValueError(
            f"{data} has no split {split!r}, only {other!r}: put {split} rows into $LLMENV_DATA/{data}"
        )
    return load_rows(hub_id, split, columns)
