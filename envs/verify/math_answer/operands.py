r"""Reads what an operand is: a number, a letter, something in brackets, or a command of LaTeX with its arguments.

How operands are joined to sums, lists and relations is for `reader` to know, from which the inside of brackets comes.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable

import sympy
from sympy import Expr, Integer, Rational, Symbol

from envs.verify.math_answer.tokens import Cursor, Token, TooLarge, Unreadable
from envs.verify.math_answer.tree import (
    Collection,
    Matrix,
    Node,
    Relation,
    Text,
    Tuple,
    as_number,
    bounded,
    quotient,
    raised,
    small,
)
from envs.verify.math_answer.units import CURRENCIES, DEGREE

_BRACKETS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\langle": "\\rangle"}
_OPERANDS = {"(", "[", "{", "\\{", "\\langle", "|", "\\lfloor", "\\lceil", *CURRENCIES}
_SUCH_THAT = ([Token("symbol", "|")], [Token("symbol", ":")])
_OF_REALS = ["\\in", "\\mathbb{R}"]
_CONSTANTS = {"\\pi": sympy.pi, "\\infty": sympy.oo, "\\emptyset": Collection(())}
_FUNCTIONS: dict[str, Callable[..., Expr]] = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "sinh": sympy.sinh, "cosh": sympy.cosh,
    "tanh": sympy.tanh, "ln": sympy.log, "log": sympy.log, "lg": sympy.log, "exp": sympy.exp,
}  # fmt: skip
MAX_CHOSEN, MAX_DEGREE = 50, 10  # of a symbolic binomial coefficient; of a summed polynomial
NUMBERS: dict[str, Node] = {
    "\\mathbb{R}": Tuple("(", ")", (-sympy.oo, sympy.oo)), "\\mathbb{Z}": Text("integers"),
    "\\mathbb{N}": Text("natural numbers"), "\\mathbb{Q}": Text("rational numbers"),
    "\\mathbb{C}": Text("complex numbers"),
}  # fmt: skip
_INVERSES = {"sin": sympy.asin, "cos": sympy.acos, "tan": sympy.atan}
_GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "rho", "sigma", "tau", "phi", "varphi", "chi", "psi", "omega", "ell",
    "Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi", "Psi", "Omega",
}  # fmt: skip


class OperandReader(Cursor, ABC):
    """Reads one operand at a time."""

    @abstractmethod
    def items(self) -> list[Node]:
        """Reads what commas separate."""

    @abstractmethod
    def sum(self) -> Node:
        """Reads terms with signs between them."""

    @abstractmethod
    def term(self, sign: int) -> Node:
        """Reads factors."""

    @abstractmethod
    def factor(self) -> Node:
        """Reads an operand with its powers, units and the like."""

    def starts_operand(self) -> bool:
        kind, value = self.next
        if kind in ("number", "letter"):
            return True
        if kind == "command":
            return (
                value in _OPERANDS
                or value in _CONSTANTS
                or value[1:] in _FUNCTIONS
                or value[1:] in _GREEK
                or value in ("\\frac", "\\sqrt", "\\binom", "\\gcd", "\\lcm", "\\max", "\\min")
            )
        return value in ("(", "{")

    def operand(self) -> Node:
        kind, value = self.next
        self.position += 1
        if kind == "number":
            return self.number(value)
        if kind == "letter":
            return self.letter(value)
        if kind == "symbol" and value in ("(", "[", "{"):
            return self.bracketed(value)
        if kind == "symbol" and value == "|":
            return sympy.Abs(self.enclosed("|"))
        if kind == "symbol" and value == "-":  # "3 * (-5)" without the brackets
            return -as_number(self.factor())
        if kind == "command":
            return self.command(value)
        raise Unreadable(f"{value[:20]!r} does not belong there")

    def argument(self, whole: bool = False) -> Node:
        """What a command applies to: a group in braces or one digit, as in LaTeX, or a `whole` number (`x^10`)."""
        kind, value = self.next
        if kind == "number" and not whole:
            digit, rest = value[0], value[1:]
            if digit == "." or "." in rest or "e" in rest.lower():
                raise Unreadable("an argument without braces")
            digits = [digit, rest] if rest else [digit]
            self.tokens[self.position : self.position + 1] = [Token("number", text) for text in digits]
        if kind == "symbol" and value == "-" and whole:
            self.position += 1
            return -as_number(self.operand())
        return self.operand()

    def letter(self, name: str) -> Expr:
        while self.take("'"):  # a prime is part of a name
            name += "'"
        ahead = self.tokens[self.position : self.position + 4]
        if [token.value for token in ahead[::2]] == ["(", ")"] and ahead[-1].value == "=":  # f(x) = ...
            self.position += 3
            return Symbol(f"{name}({ahead[1].value})")
        return {"e": sympy.E, "i": sympy.I}.get(name, Symbol(name))

    def number(self, digits: str) -> Expr:
        if len(digits) > 1000 or re.search(r"[eE][+-]?[0-9]{4}", digits):
            raise TooLarge("a number too long")
        if self.take("\\overline"):  # 0.1\overline{6} = (16 - 1) / 90
            period = "".join(value for _, value in self.group())
            head, _, decimals = digits.partition(".")
            if not period.isdigit() or not (digits + period).replace(".", "").isdigit():
                raise Unreadable("an overline")
            whole = int(head + decimals + period) - int(head + decimals)
            return Rational(whole, 10 ** len(decimals) * (10 ** len(period) - 1))
        return Rational(digits)

    def bracketed(self, opening: str) -> Node:
        if opening == "\\{" and self.take("\\}"):
            return Collection(())
        if opening == "\\{" and [token.value for token in self.tokens[self.position + 1 :][:2]] == _OF_REALS:
            del self.tokens[self.position + 1 : self.position + 3]
        if opening == "\\{" and self.tokens[self.position + 1 : self.position + 2] in _SUCH_THAT:
            return self.set_builder()
        items = self.items()
        closing = self.take(*_BRACKETS.values())
        if opening in ("(", "[") and closing in (")", "]"):
            if len(items) > 1:
                return Tuple(opening, closing, tuple(items))
        elif closing != _BRACKETS[opening]:
            raise Unreadable("brackets that do not match")
        if opening == "\\{":
            return Collection(tuple(items))
        if opening == "\\langle":
            return Tuple("(", ")", tuple(items))
        if len(items) > 1:
            return Collection(tuple(items))
        if closing != _BRACKETS[opening]:
            raise Unreadable("brackets that do not match")
        return items[0]

    def set_builder(self) -> Node:
        r"""The condition of `\{x \mid x < 3\}`, of which its variable is the subject."""
        variable = self.operand()
        self.position += 1
        conditions = self.items()
        self.expect("\\}")
        if conditions[1:] == [NUMBERS["\\mathbb{R}"]]:  # `x \in \mathbb{R}`
            conditions.pop()
        relation = conditions[0]
        if len(conditions) > 1 or not isinstance(relation, Relation) or not isinstance(variable, Symbol):
            raise Unreadable("a set of several conditions")
        if not all(side.free_symbols <= {variable} for side in relation.sides):
            raise Unreadable("a set of several variables")
        return relation

    def enclosed(self, closing: str) -> Expr:
        value = as_number(self.sum())
        self.expect(closing)
        return value

    def command(self, name: str) -> Node:
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in NUMBERS:
            return NUMBERS[name]
        if name in CURRENCIES:
            return as_number(self.factor()) * CURRENCIES[name]
        if name in ("\\{", "\\langle"):
            return self.bracketed(name)
        if name[1:] in _GREEK:
            return Symbol(name[1:])
        if name[1:] in _FUNCTIONS:
            return self.function(name[1:])
        match name:
            case "\\frac":
                return quotient(self.argument(), self.argument())
            case "\\binom":
                return self.binomial(as_number(self.argument()), as_number(self.argument()))
            case "\\gcd" | "\\lcm" | "\\max" | "\\min":
                return self.of_several(name[1:])
            case "\\sum":
                return self.series()
            case "\\sqrt":
                return self.root()
            case "\\lfloor":
                return sympy.floor(self.enclosed("\\rfloor"))
            case "\\lceil":
                return sympy.ceiling(self.enclosed("\\rceil"))
            case "\\begin":
                return self.matrix()
        raise Unreadable(f"{name[:20]} is not known")

    def binomial(self, n: Expr, k: Expr) -> Expr:
        if n.is_number and k.is_number:
            return bounded(sympy.binomial(small(n), small(k)))
        if k.is_number and small(k) > MAX_CHOSEN:
            raise TooLarge("a binomial coefficient too large")
        return sympy.binomial(n, k)

    def of_several(self, name: str) -> Expr:
        """The greatest or the least of several, or their divisor or multiple."""
        self.expect("(")
        values = [as_number(item) for item in self.items()]
        self.expect(")")
        if name in ("max", "min"):
            return (sympy.Max if name == "max" else sympy.Min)(*values)
        if not all(value.is_Integer for value in values):
            raise Unreadable("a divisor of what is no whole number")
        return (sympy.igcd if name == "gcd" else sympy.ilcm)(*values, 0 if name == "gcd" else 1) * Integer(1)

    def series(self) -> Expr:
        r"""A sum of a polynomial, such as `\sum_{k=1}^n k`, in closed form."""
        self.expect("_")
        self.expect("{")
        index = self.operand()
        self.expect("=")
        low = as_number(self.sum())
        self.expect("}")
        self.expect("^")
        high = as_number(self.argument(whole=True))
        term = as_number(self.term(1))
        plain = isinstance(index, Symbol) and index not in low.free_symbols | high.free_symbols
        if not plain or not term.is_polynomial(index) or sympy.degree(term, index) > MAX_DEGREE:
            raise Unreadable("a sum that is not of a polynomial")
        if not all(
            bound.is_Integer or (bound.free_symbols and bound.is_polynomial()) for bound in (low, high)
        ):
            raise Unreadable("bounds of a sum")
        return bounded(sympy.summation(term, (index, low, high)))

    def root(self) -> Expr:
        degree = Integer(2)
        if self.take("["):
            degree = as_number(self.sum())
            self.expect("]")
            if not degree.is_Integer or not 1 <= degree <= 100:
                raise Unreadable("a root of that degree")
        radicand = as_number(self.argument())
        if degree % 2 and radicand.is_negative:
            return -sympy.root(-radicand, degree)
        return sympy.root(radicand, degree)

    def function(self, name: str) -> Expr:
        function, power = _FUNCTIONS[name], None
        base = Integer(10) if name == "lg" else None
        if name in ("log", "lg") and self.take("_"):
            base = as_number(self.argument(whole=True))
        if self.take("^"):
            power = as_number(self.argument(whole=True))
            if power == -1 and name in _INVERSES:
                function, power = _INVERSES[name], None
        if self.next.value in ("(", "{"):
            value = as_number(self.operand())
        else:
            value = as_number(self.factor())
            while self.starts_operand() and self.next.value[1:] not in _FUNCTIONS and self.next.value != "(":
                value *= as_number(self.factor())
        value = value.subs(DEGREE, sympy.pi / 180)
        if function is sympy.exp:
            return raised(sympy.E, value)
        if function is sympy.log and value.is_zero:
            raise Unreadable("the logarithm of zero")
        result = function(value) if base is None else sympy.log(value) / sympy.log(base)
        return result if power is None else raised(result, power)

    def matrix(self) -> Node:
        kind = "".join(value for _, value in self.group())
        if not kind.endswith(("matrix", "array")) or kind.lower() == "vmatrix":  # that one is a determinant
            raise Unreadable("an environment that is not a matrix")
        if kind == "array":
            self.group()
        rows: list[list[Node]] = [[]]
        while not self.take("\\end"):
            if self.take("\\\\"):
                rows.append([])
            elif not self.take("&"):
                rows[-1].append(self.sum())
        self.group()
        filled = [tuple(row) for row in rows if row]
        if len({len(row) for row in filled}) != 1:
            raise Unreadable("a matrix with ragged rows")
        return Matrix(tuple(filled))
