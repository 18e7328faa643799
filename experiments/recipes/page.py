"""The page of a road: its table, a curve over the stages, and what each policy wrote. Text of models is text there."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from experiments.common.plain import printable
from experiments.recipes.table import cells, header, in_order, totals
from llmenv.files import replaced

NAME = "report.html"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
STYLE = (
    "body{font:14px/1.45 system-ui,sans-serif;margin:1.25rem}table{border-collapse:collapse}"
    "td,th{padding:.2rem .8rem .2rem 0;text-align:left;border-bottom:1px solid #dcdfe3;font-weight:normal}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f3f3f1;padding:.5rem}"
    ".wide{overflow-x:auto}img{max-width:100%}"
)


def write_page(output: Path, rows: Sequence[Mapping[str, Any]], environments: Sequence[str]) -> Path:
    """Writes `report.html` of a road's folder, and returns where it is."""
    parts = [f"<h1>{escape(output.name)}</h1>", _table(rows, environments), _totals(rows)]
    policies = [row for row in in_order(rows) if row.get("scores")]
    if policies:
        image = base64.b64encode(_curve(policies, environments)).decode()
        parts.append(
            f'<h2>Over the stages</h2><img alt="accuracy by stage" src="data:image/png;base64,{image}">'
        )
    parts += [_funnel(row) for row in rows if row.get("funnel")]
    parts += [_stage(output, row) for row in policies]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        f"<title>{escape(output.name)}</title><style>{STYLE}</style>"
    )
    with replaced(output / NAME) as file:
        file.write_text(
            f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"
        )
    return output / NAME


def _table(rows: Sequence[Mapping[str, Any]], environments: Sequence[str]) -> str:
    return _grid(header(environments), [cells(row, environments) for row in in_order(rows)])


def _grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    first = "".join(f"<th>{escape(text)}</th>" for text in head)
    rest = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in line) + "</tr>" for line in lines)
    return f'<div class="wide"><table><tr>{first}</tr>{rest}</table></div>'


def _totals(rows: Sequence[Mapping[str, Any]]) -> str:
    said = [
        f"{arm}: {price['sampled']:,} tokens sampled, {price['imitated']:,} imitated, {price['seconds']:.0f} s"
        for arm, price in totals(rows).items()
    ]
    return "".join(f"<p>{escape(text)}</p>" for text in said)


def _funnel(row: Mapping[str, Any]) -> str:
    stages = [*next(iter(row["funnel"].values()))]
    lines = [[env, *(str(counts.get(one, "-")) for one in stages)] for env, counts in row["funnel"].items()]
    return f"<h2>{escape(row['stage'])}</h2>" + _grid(["", *stages], lines)


def _stage(output: Path, row: Mapping[str, Any]) -> str:
    """A policy's samples, and the pages that have all of it."""
    folder = output / row["folder"]
    pages = [folder / "run" / NAME, *sorted(folder.glob(f"evaluation-*/*/{NAME}"))]
    links = [
        f'<a href="{escape(page.relative_to(output).as_posix())}">{escape(page.parent.name)}</a>'
        for page in pages
        if page.is_file()
    ]
    found = [f"<h2>{escape(row['stage'])}</h2><p>{' '.join(links)}</p>"]
    for env, score in row["scores"].items():
        for verdict, text in score["samples"].items():
            if text is not None:
                found.append(f"<p>{escape(env)}, {verdict}</p><pre>{escape(printable(text))}</pre>")
    return "".join(found)


def _curve(rows: Sequence[Mapping[str, Any]], environments: Sequence[str]) -> bytes:
    """Accuracy with its interval, by stage, a line an environment; comparisons stand apart."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(1.5 + 1.1 * len(rows), 4), layout="constrained")
    for env in environments:
        for arm in dict.fromkeys(row["arm"] for row in rows):
            points = [(i, row["scores"][env]) for i, row in enumerate(rows) if row["arm"] == arm]
            points = [(i, score) for i, score in points if score["accuracy"] is not None]
            values = [score["accuracy"] for _, score in points]
            ends = [
                [score["accuracy"] - score["accuracy_low"] for _, score in points],
                [score["accuracy_high"] - score["accuracy"] for _, score in points],
            ]
            numbers = [i for i, _ in points]
            color = f"C{environments.index(env)}"
            axes.errorbar(numbers, values, yerr=ends, fmt="o-", color=color, ms=4, capsize=2)
        axes.plot([], [], "o-", color=f"C{environments.index(env)}", label=env)
    axes.set_xticks(range(len(rows)), [cells(row, [])[0] for row in rows], rotation=30, ha="right")
    axes.set(ylabel="accuracy", ylim=(0, 1))
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    plt.close(figure)
    return file.getvalue()
