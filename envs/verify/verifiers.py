"""Verifiers: pure functions from an answer's text to a verdict. Nothing here ever evaluates text as code.

A verdict is None for a right answer and else one of a few fixed words, fit to be counted.

Grammar of an arithmetic answer (white space is free between symbols):

    answer   := sum ["=" TARGET] | TARGET "=" sum       "$" or "$$" may enclose the whole or either side
    sum      := product {("+" | "-") product}
    product  := operand {("*" | "/") operand}
    operand  := ["-"] (NUMBER | "(" sum ")" | "\\frac" "{" sum "}" "{" sum "}")

Other spellings: `×`, `\\times`, `·`, `⋅`, `\\cdot` for `*`; `÷`, `\\div` for `/`; `−` (U+2212) for `-`; `\\dfrac`,
`\\tfrac` for `\\frac`; `\\left(`, `\\right)` for parentheses. All else is refused: powers, `//`, `%`, calls,
factorials, decimals, underscores, non-ASCII digits, leading zeros, letters, implied products such as `2(3)`.

One minus may stand before an operand (`3 * -5`, `3 - -5`, `-(3 - 5)`); a plus (`+5`) or a second minus (`--5`) may not.

An integer answer is such as `56088`, `56,088`, `$-5$` or `56088.0`: a sign may precede its digits, which are without
leading zeros and have all their thousands separators or none. `123 * 456 = 56088` says the same, if it is true.

Around both, and in other characters, all is read that `envs.verify.spelling` knows: `\\boxed{...}`, `**...**`, a full
stop.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from operator import add, mul, sub

from envs.verify.spelling import bare
from envs.verify.workers import MemoryLimit, TimeLimit, WorkerPool

_MAX_LENGTH = 10_000  # characters of an expression, white space apart
_MAX_CALCULATION = 200  # characters; a value has no more digits
_TOKEN = re.compile(r"[0-9]+|\\[A-Za-z]+|\S")
_INTEGER = re.compile(r"0|-?[1-9](?:[0-9]{0,2}(?:,[0-9]{3})++|[0-9]*+)")
_WHOLE = re.compile(rf"(?:\+(?!-))?({_INTEGER.pattern})(?:\.0+)?")
_MAX_MATH_LENGTH = 2_000  # characters
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,2}(?:,[0-9]{3})++|[1-9][0-9]*+)(?:\.[0-9]+)?")
_MATH_WORKERS = WorkerPool("envs.verify.math_answer.equivalence:judge")  # starts none yet
_SPELLINGS = {
    "×": "*", "·": "*", "⋅": "*", "\\times": "*", "\\cdot": "*", "÷": "/", "\\div": "/", "−": "-",
    "\\dfrac": "\\frac", "\\tfrac": "\\frac",
}  # fmt: skip
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "negate": 3}  # markers on the stack, such as "(", count as 0
_OPERATIONS: dict[str, Callable[..., int | Fraction]] = {"+": add, "-": sub, "*": mul, "/": Fraction}


def verify_arithmetic(answer: str, numbers: Sequence[int], target: int) -> str | None:
    """Judge whether `answer` makes `target` from `numbers`, each used exactly once, in exact arithmetic.

    The work is bounded for any text: linear in white space, and a bounded number of other characters.
    A literal right after a minus may stand for a negative number: with -5 among the numbers, `3 + -5` uses it.

    Returns:
        None if it does; else "not an expression", "wrong numbers" or "wrong value".
    """
    words = answer.split(maxsplit=_MAX_LENGTH)
    if sum(map(len, words)) > _MAX_LENGTH:
        return "not an expression"
    text = " ".join(words)
    try:
        rpn = _read_arithmetic(_strip_dollars(text), target)
    except SyntaxError:
        try:
            rpn = _read_arithmetic(bare(text), target)
        except SyntaxError:
            return "not an expression"
    # Before any arithmetic, so that no number but the task's own is ever converted or computed with.
    if not _same_numbers([symbol for symbol in rpn if symbol not in _PRECEDENCE], numbers):
        return "wrong numbers"
    try:
        return None if _evaluate(rpn) == target else "wrong value"
    except ZeroDivisionError:
        return "wrong value"


def _read_arithmetic(text: str, target: int) -> list[str]:
    """The expression of an answer, without the target on the other side of an equals sign."""
    left, equals, right = text.partition("=")
    if equals:
        wanted, sides = _symbols(str(target)), [_symbols(_strip_dollars(side)) for side in (left, right)]
        if wanted not in sides:
            raise SyntaxError
        return _parse(sides[sides[1] != wanted])
    return _parse(_symbols(_strip_dollars(left)))


def verify_integer(answer: str, target: int) -> str | None:
    """Judge whether `answer` is the integer `target`, in linear time: texts are compared, no long one is converted.

    Returns:
        None if it is; else "not an integer" or "wrong value".
    """
    digits = _integer_digits(answer)
    if digits is None:
        return "not an integer"
    return None if digits == decimal_text(target) else "wrong value"


def read_integer(answer: str) -> int | None:
    """The integer that an answer is, as `verify_integer` reads it; of one with over 18 digits the first 18."""
    digits = _integer_digits(answer)
    return None if digits is None else int(digits[:19])


def _integer_digits(answer: str) -> str | None:
    """The digits of an integer answer, with its minus."""
    text = _strip_dollars(answer).replace("−", "-")
    if _INTEGER.fullmatch(text):
        return text.replace(",", "")
    if len(text) > _MAX_LENGTH:
        return None
    work, equals, text = bare(text).rpartition("=")
    text = text.strip()
    if not (match := _WHOLE.fullmatch(text)):
        return None
    digits = match[1].replace(",", "")
    return None if equals and not _makes(work, digits) else digits


def _makes(work: str, digits: str) -> bool:
    """Whether an expression, such as `123 * 456`, has the value that stands behind its equals sign."""
    try:
        return len(work) <= _MAX_CALCULATION and _evaluate(_parse(_symbols(work))) == int(
            digits[:_MAX_CALCULATION]
        )
    except (SyntaxError, ZeroDivisionError):
        return False


def calculate(expression: str) -> str:
    """Compute an expression in the grammar above exactly, as a calculator for models.

    Returns:
        The value, such as "63", "-5" or "7/3"; or "not an expression", "too long", "division by zero".
    """
    if len(expression) > _MAX_CALCULATION:
        return "too long"
    try:
        return str(_evaluate(_parse(_symbols(_strip_dollars(expression)))))
    except SyntaxError:
        return "not an expression"
    except ZeroDivisionError:
        return "division by zero"


def verify_math(answer: str, gold: str, question: str = "") -> str | None:
    """Judge whether two mathematical answers, in LaTeX or as people type them, are the same.

    Equal texts and plain numbers are judged here, all else in a worker process with limits (`envs.verify.workers`,
    `envs.verify.math_answer`): safe in any thread and process. Calls from several threads run at once.

    Args:
        answer: the text of the answer block.
        gold: the right answer, such as `\\frac{1}{2}`.
        question: where it is given, an expression yet to be computed is no right answer (`math_answer.uncomputed`).

    Returns:
        None if they are; else "wrong value", "not an expression", "too long", "time limit" or "memory limit", or
        "not computed".

    Raises:
        RuntimeError: no worker can be started, or `gold` breaks it.
    """
    answer, gold = answer.strip(), gold.strip()
    if len(answer) > _MAX_MATH_LENGTH:
        return "too long"
    if answer == gold:
        return None
    if _DECIMAL.fullmatch(answer) and _DECIMAL.fullmatch(gold):
        return None if _decimal(answer) == _decimal(gold) else "wrong value"
    try:
        return _MATH_WORKERS.call(answer, gold, question)
    except TimeLimit:
        return "time limit"
    except MemoryLimit:
        return "memory limit"


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


def decimal_text(number: int) -> str:
    """The digits of an integer of any size; `str(number)` raises beyond 4300 of them."""
    return str(Decimal(number))


def _strip_dollars(text: str) -> str:
    text = text.strip()
    for mark in ("$$", "$"):
        inner = text[len(mark) : -len(mark)]
        if text.startswith(mark) and text.endswith(mark) and "$" not in inner:
            return inner.strip()
    return text


def _symbols(text: str) -> list[str]:
    """Cut a text into numbers (digits) and symbols in their plain spelling."""
    text = text.replace("\\left(", "(").replace("\\right)", ")")
    return [_SPELLINGS.get(symbol, symbol) for symbol in _TOKEN.findall(text)]


def _parse(symbols: Iterable[str]) -> list[str]:
    """Bring an expression into reverse Polish order (Dijkstra's shunting yard, so that no depth can overflow).

    Numbers stay texts. A minus directly before a number is joined to it ("-5"), any other is "negate".
    """
    rpn: list[str] = []
    stack: list[str] = []  # waiting operators and the markers of open brackets
    operand_next = True

    def pop_operators(precedence: int) -> None:
        while stack and _PRECEDENCE.get(stack[-1], 0) >= precedence:
            rpn.append(stack.pop())

    symbols = iter(symbols)
    for symbol in symbols:
        if operand_next:
            if symbol[0] in "0123456789":
                if stack and stack[-1] == "negate":
                    stack.pop()
                    symbol = "-" + symbol
                rpn.append(symbol)
                operand_next = False
            elif symbol == "(":
                stack.append("(")
            elif symbol == "-" and not (stack and stack[-1] == "negate"):
                stack.append("negate")
            elif symbol == "\\frac" and next(symbols, None) == "{":
                stack.append("numerator")
            else:
                raise SyntaxError
        elif symbol in _PRECEDENCE:
            pop_operators(_PRECEDENCE[symbol])
            stack.append(symbol)
            operand_next = True
        else:
            pop_operators(1)
            match (stack.pop() if stack else None), symbol:
                case "(", ")":
                    pass
                case "numerator", "}" if next(symbols, None) == "{":
                    stack.append("denominator")
                    operand_next = True
                case "denominator", "}":
                    rpn.append("/")
                case _:
                    raise SyntaxError
    pop_operators(1)
    if operand_next or stack:
        raise SyntaxError
    return rpn


def _same_numbers(literals: Sequence[str], numbers: Sequence[int]) -> bool:
    """Whether the literals are the numbers, each exactly once; texts are compared, so "007" is no 7."""
    if sorted(literal.lstrip("-") for literal in literals) != sorted(str(abs(n)) for n in numbers):
        return False
    if min(numbers) >= 0:
        return True
    unsigned = Counter(literal for literal in literals if literal[0] != "-")
    return unsigned <= Counter(map(str, numbers))


def _evaluate(rpn: Sequence[str]) -> int | Fraction:
    """Compute exactly: in integers, until something is divided."""
    stack: list[int | Fraction] = []
    for symbol in rpn:
        if symbol == "negate":
            stack.append(-stack.pop())
        elif symbol in _OPERATIONS:
            right, left = stack.pop(), stack.pop()
            stack.append(_OPERATIONS[symbol](left, right))
        else:
            stack.append(int(symbol))
    return stack[0]
