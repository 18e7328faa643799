"""Exact arithmetic against two oracles: trees that know their own value, and Python's own parser."""

from __future__ import annotations

import ast
import re
import time
from fractions import Fraction

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from envs.verify.verifiers import verify_arithmetic

# How each operation may be written, {a} and {b} being operands that bind tightly enough.
SPELLINGS = {
    "+": ["{a}+{b}", "{a} + {b}", "{a}\n+\t{b}"],
    "-": ["{a}-{b}", "{a} - {b}", "{a} − {b}"],
    "*": ["{a}*{b}", "{a} × {b}", "{a}·{b}", "{a} ⋅ {b}", "{a} \\times {b}", "{a}\\cdot {b}"],
    "/": ["{a}/{b}", "{a} ÷ {b}", "{a} \\div {b}"],
}
FRACTIONS = ["\\frac{{{a}}}{{{b}}}", "\\dfrac{{ {a} }}{{ {b} }}", "\\tfrac{{{a}}} {{{b}}}"]
BRACKETS = ["({})", "( {} )", "\\left({}\\right)", "(({}))"]
Tree = tuple[str, Fraction | None, int, list[int]]  # text, value (None: divides by zero), precedence, numbers


def _join(draw: st.DrawFn, left: Tree, right: Tree, operator: str) -> Tree:
    (a, x, p, numbers), (b, y, q, more) = left, right
    precedence = 1 if operator in "+-" else 2
    if operator == "/" and draw(st.booleans()):
        text, precedence = draw(st.sampled_from(FRACTIONS)).format(a=a, b=b), 3
    else:
        if p < precedence or draw(st.integers(0, 3)) == 0:
            a = draw(st.sampled_from(BRACKETS)).format(a)
        if q < precedence or (q == precedence and operator in "-/") or draw(st.integers(0, 3)) == 0:
            b = draw(st.sampled_from(BRACKETS)).format(b)
        text = draw(st.sampled_from(SPELLINGS[operator])).format(a=a, b=b)
    value = None
    if x is not None and y is not None and (operator != "/" or y != 0):
        value = {"+": x + y, "-": x - y, "*": x * y, "/": x / (y or 1)}[operator]
    return text, value, precedence, numbers + more


@st.composite
def trees(draw: st.DrawFn, size: int) -> Tree:
    """An expression in random spelling with its exact value, computed beside it."""
    if size == 1:
        n = draw(st.integers(0, 120))
        tree: Tree = (str(n), Fraction(n), 3, [n])
    else:
        split = draw(st.integers(1, size - 1))
        tree = _join(draw, draw(trees(split)), draw(trees(size - split)), draw(st.sampled_from("+-*/")))
    if draw(st.integers(0, 5)) == 0:  # a sign, in brackets so that it may stand anywhere
        text, value, precedence, numbers = tree
        text = text if precedence == 3 else f"({text})"
        tree = (f"(-{text})", None if value is None else -value, 3, numbers)
    return tree


@st.composite
def statements(draw: st.DrawFn) -> tuple[str, Fraction | None, list[int]]:
    text, value, _, numbers = draw(trees(draw(st.integers(1, 6))))
    if value is not None and value.denominator == 1 and draw(st.booleans()):
        text += draw(st.sampled_from(["={}", " = {}", "\n=\n{}"])).format(value)
    text = draw(st.sampled_from(["{}", " {} ", "${}$", "$$ {} $$"])).format(text)
    return text, value, numbers


@settings(max_examples=200, deadline=None)
@given(statements(), st.randoms(use_true_random=False), st.integers(0, 200))
def test_random_trees(statement: tuple[str, Fraction | None, list[int]], random, other: int) -> None:
    text, value, numbers = statement
    random.shuffle(numbers)
    if value is not None and value.denominator == 1:
        assert verify_arithmetic(text, numbers, int(value)) is None
        assert verify_arithmetic(text, [*numbers, other], int(value)) == "wrong numbers"
        assert verify_arithmetic(text, [numbers[0] + 1, *numbers[1:]], int(value)) == "wrong numbers"
        wrong = "not an expression" if "=" in text else "wrong value"  # "= 5" is false of any other target
        assert verify_arithmetic(text, numbers, int(value) + 1) == wrong
    else:
        nearest = 0 if value is None else round(value)
        assert verify_arithmetic(text, numbers, nearest) == "wrong value"


def _python_value(text: str) -> tuple[Fraction, list[int]] | None:
    """What Python's parser makes of a text, in exact arithmetic; None for all that is not ours to accept."""
    numbers = []

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(int(n)):
                numbers.append(n)
                return Fraction(n)
            case ast.UnaryOp(ast.USub(), operand):
                return -value(operand)
            case ast.BinOp(left, ast.Add(), right):
                return value(left) + value(right)
            case ast.BinOp(left, ast.Sub(), right):
                return value(left) - value(right)
            case ast.BinOp(left, ast.Mult(), right):
                return value(left) * value(right)
            case ast.BinOp(left, ast.Div(), right):
                return value(left) / value(right)
            case _:
                raise SyntaxError

    stacked_signs = re.search(r"(^|[-+*/(])--", re.sub(r"\s", "", text))
    if stacked_signs or re.search(r"\b0[0-9]", text):
        return None
    try:
        return value(ast.parse(text.strip(), mode="eval").body), numbers
    except (SyntaxError, ZeroDivisionError):
        return None


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([*"123456789+-*/() ", "10", "**", "//", "- ", "(-", ")*("]), max_size=14).map(
        "".join
    )
)
@example("1-(2-3)*-4")
@example("2**3")
@example("7//2")
@example("2(3)")
def test_agrees_with_python(text: str) -> None:
    judged = _python_value(text)
    if judged is not None:
        value, numbers = judged
        assume(value.denominator == 1)
        assert verify_arithmetic(text, numbers, int(value)) is None
    else:
        numbers = [int(n) for n in re.findall("[0-9]+", text)]
        for target in (0, 1, 8, 32):
            assert verify_arithmetic(text, numbers, target) is not None


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_judged(text: str) -> None:
    assert verify_arithmetic(text, [44, 19, 35], 98) in ("not an expression", "wrong numbers", "wrong value")


@pytest.mark.parametrize(
    ("answer", "numbers", "target"),
    [
        ("2**5", [2, 5], 32),
        ("7//2", [7, 2], 3),
        ("1.25*4", [1, 25, 4], 5),
        ("9**9**9", [9, 9, 9], 9),
        ("5_6088", [5, 6088], 56088),
        ("5_6088", [56088], 56088),
        ("+56088", [56088], 56088),
    ],
)
def test_holes_of_tinyzero(answer: str, numbers: list[int], target: int) -> None:
    assert verify_arithmetic(answer, numbers, target) == "not an expression"


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ("44 + 19 + 35", None),
        ("44 + 19", "wrong numbers"),
        ("44 + 19 + 53", "wrong numbers"),
        ("44 + 19 - 35", "wrong value"),
        ("44 / (19 * 0)", "wrong numbers"),
        ("44 + 19 + ", "not an expression"),
        ("", "not an expression"),
    ],
)
def test_failures(answer: str, failure: str | None) -> None:
    assert verify_arithmetic(answer, [44, 19, 35], 98) == failure


def test_a_usual_answer_takes_under_a_tenth_of_a_millisecond() -> None:
    answer, numbers = "(97 - 32) * (43 - 30) / 13", [97, 32, 43, 30, 13]
    seconds = []
    for _ in range(200):
        start = time.perf_counter()
        verify_arithmetic(answer, numbers, 65)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1e-4
