"""Golds of every form, ways to make other answers of them (mutated, respelt, hedged), and an exact check of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import sympy

from support import REAL_DATA

GOLDS = [
    "18", "-7", "0.75", "1,234", r"\frac{3}{4}", r"-\frac{7}{12}", r"2\frac{1}{3}", r"\$32.50", r"50\%", r"60^\circ",
    r"10\text{ cm}", r"12\text{ square inches}", "3:2", "52_8", r"2\sqrt{3}", r"\frac{\sqrt{5}-1}{2}",
    r"3\sqrt[3]{4}",
    r"12\pi", r"\frac{5\pi}{6}", r"e^{2}+1", r"3-4i", r"\log_2 5", r"\sin 40^\circ", "x^2-5x+6", r"\frac{x+1}{x-2}",
    r"(a+5)(b-2)", r"\sqrt{x-3}+2", r"|x-40|", r"\lfloor n/7 \rfloor", r"\frac{n(n+1)}{2}", r"\ln(2x)+3", "2^{n}-1",
    "y=3x-4", "x=5", "x>3", r"x \ge -2", "-1<x<4", "(1,-2)", r"\left(3,\frac{\pi}{2}\right)", "[2,9)", r"(-\infty,4]",
    r"(-\infty,1)\cup(5,\infty)", r"\{1,4,9\}", "3,-2", r"2\pm\sqrt{7}", "x=1,y=6", "A=(1,2),B=(3,4)", "f'(x)=2x+1",
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\text{Monday}", r"\text{(C)}", r"3^{20000}", "4^{2004}",
    r"\frac{1}{1500!}",
]  # fmt: skip

_SWAPS = {
    "+": "-", "-": "+", "*": "+", "/": "+", "<": ">", ">": "<", "(": "[", ")": "]", "[": "(", "]": ")", "x": "t",
    "y": "z",
    "n": "m", "a": "c", "A": "B", "'": "''", "^": "_", "_": "^", "!": "", "i": "", "%": "^\\circ", ":": ",", ",": "+",
}  # fmt: skip
_WORDS = {
    "\\sqrt": "\\sin", "\\pi": "e", "\\sin": "\\cos", "\\cup": "\\cap", "\\pm": "+", "\\ge": "\\le",
    "\\frac": "\\binom",
    "\\lfloor": "\\lceil", "\\rfloor": "\\rceil", "\\ln": "\\log_2", "\\infty": "7", "cm": "kg", "inches": "feet",
    "square": "cubic", "\\circ": "\\prime", "\\$": "€", "\\%": "", "Monday": "Friday",
}  # fmt: skip


def real_golds() -> list[str]:
    """The right answers of MATH-500, where it is there."""
    file = REAL_DATA / "math500" / "test.jsonl"
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    return sorted({json.loads(line)["answer"] for line in lines})


def mutations(gold: str) -> Iterator[str]:
    """The gold with one digit, sign, operator, bracket, name, command or unit changed, dropped or added."""
    changed = []
    for place in re.finditer(r"[0-9]", gold):
        digit = int(place[0])
        changed += [(place, str((digit + step) % 10)) for step in (1, 5)] + [
            (place, place[0] + "0"),
            (place, ""),
        ]
    for place in re.finditer(r"\\[A-Za-z]+|\\.|[A-Za-z]{2,}|\S", gold):
        swapped = {**_SWAPS, **_WORDS}.get(place[0])
        if swapped is not None:
            changed.append((place, swapped))
    for place, new in changed:
        yield gold[: place.start()] + new + gold[place.end() :]
    yield from (f"-({gold})", f"{gold}+1", f"2({gold})", f"{gold}x", f"{gold}^2")


def respellings(gold: str) -> Iterator[str]:
    """The same gold otherwise spelt."""
    yield from (
        f" {gold} ",
        f"${gold}$",
        f"\\boxed{{{gold}}}",
        f"$\\boxed{{{gold}}}$",
        f"The answer is ${gold}$.",
    )
    yield gold.replace("\\frac", "\\dfrac")
    yield gold.replace("(", "\\left(").replace(")", "\\right)") if "\\left" not in gold else gold
    yield (
        re.sub(r"(?<=[0-9)}])(?=[+<>=-])|(?<=[+<>=])(?=[0-9(\\])", " ", gold) if "text" not in gold else gold
    )
    yield f"\\displaystyle {gold}"


def hedges(first: str, second: str) -> Iterator[str]:
    """Both of two answers at once."""
    yield from (
        f"{first} or {second}", f"{second} or {first}", f"{first}, {second}", f"{first}; {second}",
        f"${first}$ ${second}$", f"\\{{{first}, {second}\\}}", f"\\boxed{{{first}}}\\boxed{{{second}}}",
        f"\\boxed{{{second}}}, \\boxed{{{first}}}", f"{first} \\text{{ or }} {second}",
        f"{first} \\text{{ (or }} {second})", f"{first} and {second}", f"\\max({first}, {second})",
        f"\\min({first}, {second})", f"[{first}, {second}]", f"{first} / {second}", f"either {first} or {second}",
        f"{first} ({second})", f"{first} = {second}", f"{first}\n{second}", f"\\text{{{first} or {second}}}",
        f"{first} \\lor {second}", f"{first} \\approx {second}",
        f"\\begin{{cases}} {first} \\\\ {second} \\end{{cases}}",
        f"{first} \\text{{ if }} x>0, {second} \\text{{ otherwise}}",
    )  # fmt: skip


def exactly_equal(a: str, b: str) -> bool:
    """Whether another reader, and sympy's algebra on what that reads, find two answers equal."""
    from latex2sympy2_extended.latex2sympy2 import latex2sympy

    try:
        first, second = (latex2sympy(text.replace("\\text", "\\mathrm")) for text in (a, b))
        if first == second:
            return True
        difference = sympy.simplify(first - second)
    except Exception:  # it reads less
        return False
    return difference == 0
