"""One spelling before anything is compared: characters, marks, doubled backslashes; and what must not be touched."""

from __future__ import annotations

import time

import pytest

from envs.verify.spelling import bare, normalized


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("３＋４", "3+4"),
        ("x²", "x^{2}"),
        ("a₁₂", "a_{12}"),
        ("10⁻³", "10^{-3}"),
        ("3½", "3\\frac{1}{2}"),
        ("5。", "5"),
        ("1。5", "1。5"),  # no decimal point
        ("—5", "-5"),
        ("⑤", "⑤"),  # a five in a circle, or in an Arabic text, is left to whoever reads it
        ("٥", "٥"),
        ("5\u200b6", "5\u200b6"),
        ("$5$", "5"),
        ("$5", "\\dollar 5"),
        ("**5**", "5"),
        ("2**5", "2**5"),
        ("_5_", "5"),
        ("x_1_2", "x_1_2"),
        ("The answer is 5.", "5"),
        ("1, 2, ...", "1, 2, ..."),
        ("\\\\frac{1}{2}", "\\frac{1}{2}"),
        ("5\\\\6", "5\\\\6"),
        ("\\begin{pmatrix}1\\\\x\\end{pmatrix}", "\\begin{pmatrix}1\\\\x\\end{pmatrix}"),
        ("\\\\begin{pmatrix}1\\\\\\\\x\\\\end{pmatrix}", "\\begin{pmatrix}1\\\\x\\end{pmatrix}"),
        ("$1{,}234$", "1,234"),
        ("12 345", "12,345"),
        ("12 34", "12 34"),
    ],
)
def test_normalized(text: str, plain: str) -> None:
    assert normalized(text) == plain
    assert normalized(plain) == plain or "dollar" in plain


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{5}", "5"),
        ("$\\boxed{\\text{5}}$.", "5"),
        ("\\[ \\mathbf{5} \\]", "5"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{5}{6}", "{5}{6}"),
        ("\\boxed{5}+\\boxed{6}", "{5}+ {6}"),
        ("\\boxed{5", "{5"),
    ],
)
def test_bare(text: str, content: str) -> None:
    assert bare(text) == content


def test_time_is_linear() -> None:
    for text in (
        "*",
        "`",
        "$",
        "\\",
        "\\boxed{",
        "\\text{",
        "½",
        "1 000 ",
        "_",
        "x_",
        "**a ",
        "\\(",
        "√",
        "#### ",
        "⁵",
    ):
        start = time.process_time()
        bare(text * (20_000 // len(text)))
        assert time.process_time() - start < 0.5, text
